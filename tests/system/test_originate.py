# SPDX-License-Identifier: BSD-3-Clause
"""Plugins that originate packets and copy them: with their packet's verdict, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Run, wait_for
from jobs import FREE, IO, LOSSLESS, Job, build, group, pcap_port
from traffic import Packet, compare, read_pcap, save
from versions import MARK, many, plugin
from wild import WILD

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

# Of a packet with the number n (its last byte): n % 4 packets of its own, before it, each with its
# flow, its number and a count; each fifth goes out of the other port too. DIES: whether the process
# ends here.
PLUGIN = """
#include <dpsup_plugin.h>
#include <signal.h>

static uint64_t cycles;
static uint32_t lan;

static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	cycles = dps_arg_u64(env, "cycles", 0);
	lan = (uint32_t)dps_port(env, "lan");
	return 0;
}

static inline void
die(void)
{
	if (__builtin_ia32_rdtsc() / 16 % 512 == 0 && DIES)
		raise(SIGKILL);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const uint8_t *number = p->data + p->len - 8;
	uint64_t until = __builtin_ia32_rdtsc() + cycles;

	(void)state;
	p->data[0] = 0x02;
	for (uint8_t i = 0; i < number[7] % 4; i++) {
		uint8_t *own = dps_emit(i == 2 ? dps_also(dps_out(p->port), lan) : dps_out(p->port),
					60 + number[7]);

		if (own == NULL)
			continue;
		die();
		memcpy(own, "\\x02originated", 11);
		memcpy(own + 16, p->data + 26, 4);
		memcpy(own + 20, number, 8);
		own[28] = i;
		die();
	}
	p->data[1] = 0x77;
	die();
	while (__builtin_ia32_rdtsc() < until)
		;
	return number[7] % 5 == 0 ? dps_also(dps_out(p->port), lan) : dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "originates", .rewrites = 6, .emits = 3, .init = init,
	.packet = packet,
};
"""


def changed(frame: bytes) -> bytes:
    return b"\x02\x77" + frame[2:]


def own(frame: bytes) -> bytes:
    """What a packet stands for in the packets that it originated: its flow and its number."""
    return frame[26:30] + frame[-8:]


def emitted(frame: bytes, i: int) -> bytes:
    made = bytearray(60 + frame[-1])
    made[:11], made[16:28], made[28] = b"\x02originated", own(frame), i
    return bytes(made)


def is_emitted(frame: bytes) -> bool:
    return frame[1:11] == b"originated"


def with_their_own(frames: Iterator[bytes], by: Container[bytes] | None = None) -> Iterator[bytes]:
    """The packets, once it is certain that each, or each of these, comes right behind those that it
    originated."""
    before: list[bytes] = []
    for frame in frames:
        if is_emitted(frame):
            before.append(frame)
            continue
        originates = by is None or own(frame) in by
        assert before == [emitted(frame, i) for i in range(frame[-1] % 4 if originates else 0)]
        before = []
        yield frame
    assert before == []


def run(instance: Run, folder: Path, packets: list[Packet], dies: str, more: str = "") -> Any:
    built = str(build(folder, f"#define DIES {dies}\n{PLUGIN}"))
    save(instance.folder / "wan.in.pcap", packets)
    save(instance.folder / "lan.in.pcap", [])
    job = Job(
        instance,
        IO + pcap_port() + pcap_port("lan") + group(built, 2, more=LOSSLESS + more),
    )
    return job.end(len(packets))


def whole(doc: dict[str, Any]) -> None:
    """Nothing lost, nothing left, no mbuf unexplained."""
    assert doc["lost"] == doc["in_flight"] == 0
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])


def accounted(doc: dict[str, Any], packets: list[Packet]) -> None:
    """Nothing is lost, of what came and of what was added."""
    originated = sum(p.frame[-1] % 4 for p in packets)
    copies = sum((p.frame[-1] % 5 == 0) + (p.frame[-1] % 4 == 3) for p in packets)
    assert (doc["emitted"], doc["copied"]) == (originated, copies)
    assert doc["sent"] == len(packets) + originated + copies
    assert not any(doc["dropped"].values())
    whole(doc)


@pytest.mark.parametrize("dies", ["0", "1"])
def test_what_a_packet_adds_leaves_once_and_before_it(
    instance: Run, tmp_path: Path, dies: str
) -> None:
    """With DIES, workers die in the middle of packets, of emissions, between them."""
    packets = many(20_000)
    doc = run(instance, tmp_path, packets, dies)
    accounted(doc, packets)
    wan = read_pcap(instance.folder / "wan.out.pcap")
    compare(packets, with_their_own(wan), changed)
    copies = list(read_pcap(instance.folder / "lan.out.pcap"))
    compare(
        [p for p in packets if p.frame[-1] % 5 == 0],
        [c for c in copies if not is_emitted(c)],
        changed,
    )
    third = sorted(emitted(p.frame, 2) for p in packets if p.frame[-1] % 4 == 3)
    assert sorted(c for c in copies if is_emitted(c)) == third


# A packet of the first group becomes a copy and two packets of the second one, which changes them.
FIRST = """
#include <dpsup_plugin.h>

static uint32_t to;

static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	to = (uint32_t)dps_group(env, "second");
	return 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint8_t *own = dps_emit(dps_on(to), p->len);

	(void)state;
	if (own != NULL) {
		memcpy(own, p->data, p->len);
		own[1] = 0x55;
	}
	return dps_also(dps_on(to), p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "first", .emits = 1, .init = init, .packet = packet,
};
"""
SECOND = """
#include <dpsup_plugin.h>

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	p->data[0] = 0x42;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "second", .rewrites = 12, .packet = packet,
};
"""


@pytest.mark.parametrize("ring", [256, 1024])
def test_what_is_originated_goes_on_to_a_group(instance: Run, tmp_path: Path, ring: int) -> None:
    """Copies are of the packet before the next group changes it; workers die, and a group
    that gets twice what came holds the other one back, and nothing is lost."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = str(build(tmp_path / "1", FIRST)), str(build(tmp_path / "2", SECOND))
    packets = many(20_000)
    save(instance.folder / "wan.in.pcap", packets)
    more = LOSSLESS + f"ring = {ring}\n"
    other = group(second, 1, more=more).replace('"fw"', '"second"').replace('["wan"]', "[]")
    pool = "[mempools.small]\nmbufs = 4095\n"
    job = Job(
        instance,
        IO + pool + pcap_port() + 'mempool = "small"\n' + group(first, 1, more=more) + other,
    )
    for n in range(1, 6):
        job.until_sent(n * 4000)
        for name in ("fw/0", "second/0"):
            with contextlib.suppress(DpsupError):
                job.instance.kill(name)
    doc = job.end(len(packets))
    assert (doc["emitted"], doc["copied"]) == (len(packets), len(packets))
    assert doc["sent"] == 3 * len(packets)
    whole(doc)
    frames = list(read_pcap(instance.folder / "wan.out.pcap"))
    compare(packets, [f for f in frames if f[:2] == b"\x02\x00"])
    compare(packets, [f for f in frames if f[:2] == b"\x42\x00"], lambda f: b"\x42" + f[1:])
    compare(packets, [f for f in frames if f[:2] == b"\x42\x55"], lambda f: b"\x42\x55" + f[2:])


FLOOD = """
#include <dpsup_plugin.h>

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (int i = 0; i < 8; i++) {
		uint8_t *own = dps_emit(dps_out(p->port), i == 7 ? 60000 : 60);

		if (own != NULL)
			memcpy(own + 14, p->data, 6);
	}
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "flood", .emits = 8, .packet = packet,
};
"""


@pytest.mark.parametrize("on_full", ["hold", "drop"])
def test_more_than_there_are_buffers_for(instance: Run, tmp_path: Path, on_full: str) -> None:
    """Each asks for eight, one of which is too long, from a pool that has hardly enough: held
    back until there are some, or counted."""
    packets = many(8000)
    save(instance.folder / "wan.in.pcap", packets)
    pool = "[mempools.small]\nmbufs = 2159\ncache = 0\n"
    more = f'ring = 256\non_full = "{on_full}"\n'
    floods = str(build(tmp_path, FLOOD))
    job = Job(
        instance,
        IO + pool + pcap_port(mtu=1500) + 'mempool = "small"\n' + group(floods, 1, more=more),
    )
    doc = job.end()
    worker_asked = doc["emitted"]
    assert doc["received"] == len(packets)
    whole(doc)
    frames = sum(1 for _ in read_pcap(instance.folder / "wan.out.pcap"))
    assert frames == doc["sent"] == len(packets) + worker_asked - sum(doc["dropped"].values())
    if on_full == "hold":
        assert worker_asked == 7 * len(packets) and not sum(doc["dropped"].values())


def test_a_rollout_to_a_plugin_that_originates(instance: Run, tmp_path: Path) -> None:
    """From the first packet of the new version on, each finds its buffers; and back."""
    (tmp_path / "2").mkdir()
    v1 = plugin(tmp_path, 1)
    v2 = str(build(tmp_path / "2", f"#define DIES 0\n{PLUGIN}"))
    packets = many(50_000)
    save(instance.folder / "lan.in.pcap", [])
    save(instance.folder / "wan.in.pcap", packets)
    job = Job(instance, IO + pcap_port() + pcap_port("lan") + group(v1, 2, "cycles = 1000000"))
    job.until_sent(200)
    for to in (v2, v1):
        assert job.instance.rollout("fw", to, judge=0)["phase"] == "done"
        job.until_sent(job.sent() + 200)
    workers = job.instance.status()["groups"][0]["workers"]
    assert [w["no_blank"] for w in workers] == [0, 0]
    doc, received = job.cut(packets, 100)
    assert doc["emitted"] > 0
    assert doc["sent"] == len(received) + doc["emitted"] + doc["copied"]
    assert doc["lost"] == doc["in_flight"] == 0
    of_v2 = {own(f) for f in read_pcap(instance.folder / "wan.out.pcap") if f[:2] == b"\x02\x77"}
    assert of_v2
    compare(
        received,
        (_unmarked(f) for f in with_their_own(read_pcap(instance.folder / "wan.out.pcap"), of_v2)),
    )


def _unmarked(frame: bytes) -> bytes:
    """As it came: without what either version wrote."""
    return b"\x02\x00" + frame[2:MARK] + b"\x00" + frame[MARK + 1 :]


# HOW often it fills one of eight, for whom, and what else it does.
SOME = """
#include "dpsup.h"
#include "dpsup_plugin.h"
#include <signal.h>

static uint32_t to;
static uint64_t seen;

static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	to = (uint32_t)dps_group(env, "second");
	return 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint8_t *own;

	(void)state;
	seen++;
	if (!(HOW))
		return dps_out(p->port);
	own = dps_emit(WHERE, p->len);
	if (own != NULL) {
		memcpy(own, p->data, p->len);
		own[1] = 0x55;
	}
	WHAT;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "some", .emits = 8, .init = init, .packet = packet,
};
"""


def some(folder: Path, how: str, where: str = "dps_out(p->port)", what: str = "(void)0") -> str:
    defines = f"#define HOW {how}\n#define WHERE {where}\n#define WHAT {what}\n"
    return str(build(folder, defines + SOME))


def test_a_lossless_worker_is_fed_on(instance: Run, tmp_path: Path) -> None:
    """One that fills a few of its eight: what is left of the blanks is less than a burst needs."""
    packets = many(8000)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = some(tmp_path, "seen % 3 == 0")
    job = Job(instance, IO + pcap_port() + group(plugin, 1))
    doc = job.end(len(packets))
    assert (doc["received"], doc["lost"], doc["in_flight"]) == (len(packets), 0, 0)
    assert doc["emitted"] == len(packets) // 3
    assert doc["sent"] == len(packets) + doc["emitted"]


def test_originated_packets_are_steered_by_their_own_headers(instance: Run, tmp_path: Path) -> None:
    """As if they had come in: to both workers of the next group, and in order with their flow."""
    (tmp_path / "2").mkdir()
    packets = many(6000)
    save(instance.folder / "wan.in.pcap", packets)
    first, second = some(tmp_path, "1", "dps_on(to)"), str(build(tmp_path / "2", SECOND))
    other = group(second, 2).replace('"fw"', '"second"').replace('["wan"]', "[]")
    job = Job(instance, IO + pcap_port() + group(first, 1) + other)
    wait_for(lambda: job.instance.stats()["account"]["received"] == len(packets))
    wait_for(lambda: job.instance.stats()["account"]["in_flight"] == 0)
    got = [w["rx_packets"] for w in job.instance.status()["groups"][1]["workers"]]
    doc = job.end(len(packets))
    assert sum(got) == doc["emitted"] == len(packets) and min(got) > 0
    made = (f for f in read_pcap(instance.folder / "wan.out.pcap") if f[0] == 0x42)
    compare(packets, made, lambda f: b"\x42\x55" + f[2:])


def test_what_answers_itself_comes_to_an_end(instance: Run, tmp_path: Path) -> None:
    packets = many(300)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = some(tmp_path, "1", "dps_on(0)")
    job = Job(instance, IO + pcap_port() + group(plugin, 1))
    doc = job.end(len(packets))
    assert doc["dropped"]["hop_limit"] == len(packets)
    whole(doc)


# The wild plugin, which also originates a packet for each.
WILD_TOO = WILD.replace(
    "\treturn dps_out(p->port);\n",
    """
	uint8_t *own = dps_emit(dps_out(p->port), p->len);

	if (own != NULL) {
		memcpy(own, p->data, p->len);
		own[1] = 0x55;
	}
	return dps_out(p->port);
""",
).replace('.name = "wild"', '.name = "wild", .emits = 1')


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("lane->taken += 7; kill(getpid(), SIGKILL);", "corrupt"),
        ("lane->taken -= 7; kill(getpid(), SIGKILL);", "corrupt"),
        (
            "uint64_t *word = (uint64_t *)((char *)slot + slot->blanks[0]) + DPS_BLANKS;\n"
            "\tfor (int i = 0; i < DPS_BLANKS; i++)\n"
            "\t\tword[i] &= ~DPS_BIT(DPS_W_CHANGED);",
            "bad_verdict",
        ),
    ],
    ids=["more taken", "fewer taken", "no length"],
)
def test_what_a_worker_says_of_blanks_is_checked(
    instance: Run, tmp_path: Path, act: str, reason: str
) -> None:
    """A stray write to the count of filled blanks gives the slot up before a successor follows it;
    one to their words loses these alone. No other packet changes, none of zero bytes is sent."""
    packets = many(8000)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = str(build(tmp_path, WILD_TOO.replace("%s", act)))
    args = f'once = "{tmp_path}/once"'
    more = LOSSLESS + FREE + "spares = 1\n"
    job = Job(instance, IO + pcap_port() + group(plugin, 1, args, more=more))
    doc = job.end(len(packets))
    assert 0 < doc["dropped"].pop(reason) < 1024
    assert not any(doc["dropped"].values())
    whole(doc)
    known = {p.frame for p in packets}
    frames = list(read_pcap(instance.folder / "wan.out.pcap"))
    assert len(frames) == len({*frames}) == doc["sent"]
    assert {f[:1] + b"\x00" + f[2:] for f in frames} <= known
