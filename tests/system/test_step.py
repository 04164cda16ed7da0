# SPDX-License-Identifier: BSD-3-Clause
"""The worker that ships, single-stepped through its bursts: at each instruction the real repair
works on a copy of what a death there would leave, and every packet must be done or as it came."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness import LONG, Run, seed
from jobs import build
from stepping import build_step, step
from traffic import flows, mix, save

from dpsup import connect

pytestmark = pytest.mark.beside

STEPS = 25_000  # some seven bursts; while they last the CPU has no time for much else
ROUNDS = 80 if LONG else 1
EXAMPLE = Path(__file__).parents[2] / "workers" / "examples" / "count_ports.c"
SAME, SWAP = 0, 1
OUT, DROP = 0x1000, 0

# By its length, a packet fills up to three blanks; each byte is a store of its own. The third one
# and some packets are steered by a hash of the plugin's own: these come again, and once more.
ORIGINATES = """
#include "dpsup_plugin.h"

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (uint32_t i = 0; i < p->len % 4; i++) {
		uint16_t to = i == 2 ? dps_on_hash(0, p->len) : dps_out(p->port);
		volatile uint8_t *own = dps_emit(to, 60 + i);

		for (uint32_t k = 0; own != NULL && k < 8; k++)
			own[k] = (uint8_t)(p->len + i + k);
	}
	return p->len % 5 == 0 ? dps_on_hash(0, p->len * 3) : dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "originates", .emits = 3, .packet = packet,
};
"""

# Each tick is counted in two places, and fills a blank between them. That a packet may fill so many
# more keeps the lane short, so that ticks come often.
TICKED = """
#include "dpsup_plugin.h"

static const struct dps_env *env;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

static void
count(volatile uint64_t *n)
{
	dps_touch((void *)n, sizeof(*n));
	(*n)++;
}

static void
tick(void *state)
{
	volatile uint8_t *own;

	(void)state;
	count(env->state);
	own = dps_emit(dps_out(0), 60);
	for (uint32_t k = 0; own != NULL && k < 8; k++)
		own[k] = (uint8_t)k;
	count((uint64_t *)env->state + 1);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "ticked", .emits = 8, .packet = packet, .init = init,
	.state_size = 16, .tick_us = 1000, .tick = tick,
};
"""

# The same packets again and again, for as long as it takes. A small ring, so that indices are used
# again.
TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,{inputs},infinite_rx=1"
[[io]]
cores = "{cores}"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ {args} }}
input = ["wan"]
count = 1
ring = 256
on_full = "hold"
state = {state}
restart = {{ intensity = 1000, backoff = {{ initial = "1ms", factor = 1 }} }}
"""


def start(instance: Run, plugin: str, args: str = "", lanes: int = 1, state: int = 0) -> int:
    """An instance under load; the worker's pid."""
    for i in range(lanes):
        save(instance.folder / f"in{i}.pcap", mix(flows(2), 500, seed=i))
    inputs = ",".join(f"rx_pcap={instance.folder}/in{i}.pcap" for i in range(lanes))
    cores = "1" if lanes == 1 else "0-1"
    instance.start(
        TOPOLOGY.format(plugin=plugin, args=args, inputs=inputs, cores=cores, state=state)
    )
    instance.until(lambda s: s["groups"][0]["workers"][0]["rx_packets"] > 10_000)
    return int(instance.worker("fw/0")["pid"])


@pytest.mark.fault(1)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("plugin", "args", "lanes", "change", "verdict"),
    [
        pytest.param("forward", "", 1, SAME, OUT, marks=pytest.mark.long),
        pytest.param("macswap", "", 1, SWAP, OUT, marks=pytest.mark.long),
        ("macswap", "", 2, SWAP, OUT),
        pytest.param("sink", "", 1, SAME, DROP, marks=pytest.mark.long),
        ("delay", "cycles = 0, rewrite = true", 1, SWAP, OUT),
        pytest.param("delay", "cycles = 0", 2, SAME, OUT, marks=pytest.mark.long),
        pytest.param("crash", "", 1, SAME, OUT, marks=pytest.mark.long),
        pytest.param("example", "", 1, SAME, "any", marks=pytest.mark.long),
        ("originates", "", 1, SAME, "any"),
        ("ticked", "", 1, SAME, "any"),
    ],
)
def test_a_death_at_any_instruction_leaves_what_can_be_repaired(
    instance: Run, plugin: str, args: str, lanes: int, change: int, verdict: object
) -> None:
    if plugin == "example":
        text = EXAMPLE.read_text().replace("<dpsup_plugin.h>", '"dpsup_plugin.h"')
        plugin = str(build(instance.folder, text))
    if originates := plugin == "originates":
        plugin = str(build(instance.folder, ORIGINATES))
    if ticked := plugin == "ticked":
        plugin = str(build(instance.folder, TICKED))
    program = build_step(instance.folder / "step")
    pid = start(instance, plugin, args, lanes, 64 if ticked else 0)
    steps = STEPS * 4 if originates else STEPS  # a burst of 64 takes it up to 26,000
    for _ in range(ROUNDS):
        found = step(program, pid, steps, change, verdict)
        print(found)
        assert found["steps"] == steps
        assert found["packets"] > (0 if originates else 64)
        assert found["in_part"] > 0 and found["published"] > 0
        assert not originates or (found["blanks"] > 0 and found["in_blank"] > 0)
        assert not ticked or (found["ticks"] > 0 and found["in_tick"] > 0)
        if change:
            assert 0 < found["changed"] <= found["undone"]
    # It was left as it was: it goes on, dies for real, and has a successor.
    with connect(instance.name) as live:
        passed = live.status()["ports"][0]["rx_packets"]
        instance.until(lambda s: s["ports"][0]["rx_packets"] > passed + 10_000)
        live.kill("fw/0")
        status = instance.until(lambda s: s["recovery"]["deaths"] == 1 and s)
        passed = status["ports"][0]["rx_packets"]
        instance.until(lambda s: s["ports"][0]["rx_packets"] > passed + 10_000)
        assert live.status()["recovery"]["lost"] == 0
        assert live.audit()["pools"][0]["unexplained"] == 0


# What is taken out of recover.c, and in what words the stepping says so.
SPOILT = {
    "no undo": (
        "done != published && undo(s, lane, io, done)",
        "s == NULL && undo(s, lane, io, done)",
        "neither whole nor as they came",
    ),
    "any stamp": (
        "s->undo != dps_undo_stamp(io, index)",
        "s->undo == 0",
        "neither whole nor as they came",
    ),
    "stamp kept": ("\ts->undo = 0;\n", "", "a second repair"),
    "no scan": (
        "for (; done != published && dps_word_is",
        "for (; 0 && dps_word_is",
        "published 0",
    ),
    "done kept": ("dps_store32(&lane->shared->done, done);\n\tout", "out", "a second repair"),
    "one too many": (
        "out->published += done - first;",
        "out->published += ++done - first;",
        "published",
    ),
    "one not handed back": ("k < n; k++", "k + 1 < n; k++", "not handed back"),
    "no leave to hand back": (
        "lane_requeue(collected, done + n - collected)",
        "lane_requeue(collected, n - 1)",
        "would refuse",
    ),
}
# The same of the record that a plugin of few bytes writes.
SPOILT_BRIEF = {
    "no undo": SPOILT["no undo"],
    "any stamp": (
        "s->brief_of == dps_brief_stamp(io, index)",
        "s->brief_of != 0",
        "neither whole nor as they came",
    ),
    "stamp kept": ("\ts->brief_of = 0;\n", "", "a second repair"),
}


def test_the_stepping_sees_a_forgotten_blank(instance: Run, tmp_path: Path) -> None:
    pid = start(instance, str(build(instance.folder, ORIGINATES)))
    count = "\t\ttaken += DPS_FIELD(lane_get(lane, done), DPS_W_EMITS, 4);"
    program = build_step(tmp_path / "step", count, "\t\t;")
    with pytest.raises(AssertionError, match="blanks are filled, the repair says"):
        step(program, pid, 25_000, SAME, "any")
        pytest.fail("not seen")


def test_the_stepping_sees_a_tick_that_counts_twice(instance: Run, tmp_path: Path) -> None:
    pid = start(instance, str(build(instance.folder, TICKED)), state=64)
    untouch = "done != published && state_untouch(lane, io, done, out->sitter)"
    program = build_step(tmp_path / "step", untouch, "s == NULL")
    with pytest.raises(AssertionError, match="ticks have a verdict, the state says"):
        step(program, pid, 25_000, SAME, "any")
        pytest.fail("not seen")


@pytest.mark.parametrize(
    ("plugin", "args", "spoilt"),
    [
        ("delay", "cycles = 0, rewrite = true", SPOILT),
        ("macswap", "", SPOILT_BRIEF),
    ],
    ids=["long record", "brief record"],
)
def test_the_stepping_sees_what_is_wrong(
    instance: Run,
    tmp_path: Path,
    plugin: str,
    args: str,
    spoilt: dict[str, tuple[str, str, str]],
) -> None:
    pid = start(instance, plugin, args)
    chosen = sorted(spoilt) if LONG else [random.Random(seed()).choice(sorted(spoilt))]
    for name in chosen:
        old, new, says = spoilt[name]
        program = build_step(tmp_path / name.replace(" ", "-"), old, new)
        with pytest.raises(AssertionError, match=says):
            step(program, pid, 25_000, SWAP, OUT)
            pytest.fail(f"{name}: not seen")
    assert instance.status()["recovery"]["deaths"] == 0
