# SPDX-License-Identifier: BSD-3-Clause
"""What follows a death: who is started again, with whom, how often, and what becomes of the buckets
of one that is not; also while nobody is there to decide."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, Run, wait_for
from jobs import (
    FREE,
    IO,
    LOSSLESS,
    ONCE,
    SLOW,
    Job,
    accounted,
    build,
    find_busy,
    group,
    out,
    pcap_port,
    spare_pids,
)
from traffic import Packet, compare, flows, mix, save, swapped, write_pcap
from wild import FIND_CTL

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]
NO_SPARES = LOSSLESS + "spares = 0\n"


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 40_000, seed=14)


def workers_of(status: dict[str, Any], group: int = 0) -> list[dict[str, Any]]:
    return status["groups"][group]["workers"]


# --- buckets given away without the supervisor --------------------------------------------------


def until_out(instance: Run, packets: list[Packet], more: int) -> None:
    """Wait for so many more packets in the output; the driver keeps the end of its file back."""
    each = sum(16 + len(p.frame) for p in packets) / len(packets)  # a record's head, and its frame
    written = instance.folder / "wan.out.pcap"
    least = written.stat().st_size + more * each
    wait_for(lambda: written.stat().st_size > least)


def until_still(path: Path, seconds: float) -> int:
    """Wait until a file has not grown for so long; its size."""
    size = -1
    while size != (size := path.stat().st_size):
        time.sleep(seconds)
    return size


@pytest.mark.parametrize("io_cores", [1, pytest.param(2, marks=pytest.mark.long)])
def test_buckets_are_lent_without_a_supervisor(
    instance: Run, packets: list[Packet], io_cores: int
) -> None:
    """It is stopped, two of three workers die one after the other, there is no spare: the third
    one handles everything, in order, and a supervisor that comes late finds its way."""
    args = f"cycles = {4 * SLOW}, rewrite = true"
    save(instance.folder / "wan.in.pcap", packets)
    io = IO if io_cores == 1 else '[[io]]\ncores = "0,1"\n'
    job = Job(instance, pcap_port() + io + group("delay", 3, args, more=NO_SPARES))
    job.until_sent(500)
    status = job.instance.status()
    supervisor = status["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for worker in workers_of(status)[:2]:
            os.kill(worker["pid"], signal.SIGKILL)
        # More than what lanes hold: the input waits for the others' buckets.
        until_out(instance, packets, 6000)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: sum(e["type"] == "lent" for e in job.events()) == 2)
    lent = [e for e in job.log if e["type"] == "lent"]
    assert {e["name"] for e in lent} == {"fw/0", "fw/1"}
    assert any(e["requeued"] for e in lent)
    doc, received = job.cut(packets, 1000)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)


@pytest.mark.long
@pytest.mark.parametrize("backoff", ["1ms", "0ms"])
def test_a_late_supervisor_goes_on_from_the_lent_map(
    instance: Run, packets: list[Packet], backoff: str
) -> None:
    """It wakes while packets flow: the dead worker comes back, gets its share, all in order. With
    no wait before the restart, its own idea of the map is the same before and after."""
    args = f"cycles = {SLOW * 2}, rewrite = true"
    save(instance.folder / "wan.in.pcap", packets)
    more = NO_SPARES.replace("1ms", backoff)
    job = Job(instance, pcap_port() + IO + group("delay", 2, args, more=more))
    written = instance.folder / "wan.out.pcap"
    supervisor = job.instance.status()["supervisor"]["pid"]
    for i in range(3):
        job.until_sent(len(packets) * (i + 1) // 10)
        wait_for(lambda: job.instance.status()["state"] == "running")
        victim = workers_of(job.instance.status())[i % 2]["pid"]
        os.kill(supervisor, signal.SIGSTOP)
        try:
            os.kill(victim, signal.SIGKILL)
            # Its lanes fill up, the input stops; it goes on once the buckets are given away.
            size = until_still(written, 0.3)
            wait_for(lambda size=size: written.stat().st_size > size + 200_000)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1)
        lent = workers_of(job.instance.status())[i % 2]["rx_packets"]
        wait_for(lambda i=i, n=lent: workers_of(job.instance.status())[i % 2]["rx_packets"] > n)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    wait_for(lambda: job.instance.status()["state"] == "running")
    wait_for(lambda: sum(e["type"] == "lent" for e in job.events()) == 3)
    # By what it read back of the primary's map.
    assert {e["buckets_moved"] for e in job.log if e["type"] == "lent"} == {256}
    accounted(job.end(len(packets)), len(packets))
    compare(packets, out(instance), swapped)


# Breaks the lane's index at its 1000th packet, and dies; not before there is a file. Its successor
# does not: at the end there may be 1000 packets left for it.
WILD = """
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include "dpsup.h"
#include "dpsup_plugin.h"
FIND_CTL
static struct dps_sitter *me;
static int seen;

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	me = (void *)((char *)env->counters - offsetof(struct dps_sitter, counter));
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (volatile int i = 0; i < 200000; i++)
		;
	if (++seen == 1000 && me->slot == 0 && open("GO.once", O_CREAT | O_EXCL, 0600) >= 0) {
		struct dps_ctl *ctl = find_ctl();
		struct dps_slot *slot;

		while (access("GO", F_OK) != 0)
			usleep(1000);
		slot = (void *)(uintptr_t)(ctl->base + ctl->slot[0]);
		((struct dps_lane *)((char *)slot + slot->lanes[0]))->done += 100000;
		kill(getpid(), SIGKILL);
	}
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "wild", .init = init, .packet = packet,
};
""".replace("FIND_CTL", FIND_CTL)


@pytest.mark.fault(33)
def test_a_corrupt_slot_is_given_up_without_a_supervisor(
    instance: Run, packets: list[Packet]
) -> None:
    """What it had is lost by name; everything else goes on."""
    save(instance.folder / "wan.in.pcap", packets)
    go = instance.folder / "go"
    plugin = build(instance.folder, WILD.replace("GO", str(go)))
    more = NO_SPARES + 'health = { stall_after = "60s" }\n' + FREE
    job = Job(instance, pcap_port() + IO + group(str(plugin), 2, more=more))
    # Without buckets of its own it would have no packet to break anything at.
    victim = find_busy(job)
    supervisor = job.instance.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    go.touch()
    try:
        wait_for(lambda: not Path(f"/proc/{victim}/fd/0").exists())
        until_out(instance, packets, 6000)
    finally:
        os.kill(supervisor, signal.SIGCONT)
        job.events()
    doc, received = job.cut(packets, 1000)
    lost = doc["dropped"]["corrupt"]
    assert 0 < lost < 1024, (lost, job.log)
    accounted(doc, len(received), lost)
    compare(received, out(instance), missing=lost)


@pytest.mark.long
def test_while_the_supervisor_answers_nothing_is_lent_by_the_primary(
    instance: Run, packets: list[Packet]
) -> None:
    """A plugin that takes 3 s to start: longer than the primary waits for an answer, but there is
    one."""
    save(instance.folder / "wan.in.pcap", packets)
    job = Job(
        instance,
        pcap_port() + IO + group(str(build(instance.folder, SLEEPY)), 2, more=NO_SPARES),
    )
    job.until_sent(1000)
    os.kill(workers_of(job.instance.status())[0]["pid"], signal.SIGKILL)
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == 1)
    wait_for(lambda: job.instance.status()["state"] == "running")
    accounted(job.end(len(packets)), len(packets))
    assert not [e for e in job.log if e["type"] == "lent"]
    compare(packets, out(instance))


# Takes its time to start, and over each packet.
SLEEPY = """
#include <unistd.h>
#include "dpsup_plugin.h"

static int init(const struct dps_env *env, void **state)
{
	(void)env;
	(void)state;
	sleep(3);
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (volatile int i = 0; i < 100000; i++)
		;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "sleepy", .init = init, .packet = packet,
};
"""


# --- policies and spares --------------------------------------------------------------------------


# One port that receives as fast as it is polled, and workers that end after so many packets.
ENDLESS = """
[[ports]]
name = "wan"
vdev = "net_null0"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "crash"
args = {{ how = "{how}", code = {code}, at = {at} }}
input = ["wan"]
count = 2
spares = 1
restart = {{ policy = "on-failure", intensity = 1000, backoff = {{ initial = "1ms", factor = 1 }} }}
"""
LATE = 3_000_000  # packets: a second, so that a spare is ready


def deaths_of(instance: Run) -> list[dict[str, Any]]:
    return [e for e in instance.events() if e["type"] == "death"]


@pytest.mark.parametrize("how", ["segv", "exit"])
def test_on_failure_a_spare_takes_over_at_once(instance: Run, how: str) -> None:
    """Ended by a signal, or left with another exit code than 0."""
    instance.start(ENDLESS.format(how=how, code=3, at=LATE))
    wait_for(
        lambda: [e for e in deaths_of(instance) if e["successor"] and e["times"]["claimed_ns"]]
    )


@pytest.mark.long
def test_on_failure_nobody_follows_one_that_left_in_order(instance: Run) -> None:
    """exit(0): with a spare ready, the warden leaves the place empty."""
    instance.start(ENDLESS.format(how="exit", code=0, at=20 * LATE))
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1)
    assert not deaths_of(instance), "too soon to prove anything"
    status = instance.until(lambda s: all(w["state"] == "held" for w in workers_of(s)) and s)
    assert [w["last_exit"]["code"] for w in workers_of(status)] == [0, 0]
    assert [w["held_for"] for w in workers_of(status)] == ["restart policy is on-failure"] * 2
    assert status["groups"][0]["spares_ready"] == 1
    assert [e["successor"] for e in deaths_of(instance)] == [None, None]


def test_with_policy_never_no_spare_takes_over(instance: Run) -> None:
    instance.start(CALM.replace("restart = {", 'spares = 1\nrestart = { policy = "never",'))
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1)
    os.kill(instance.worker("fw/0")["pid"], signal.SIGKILL)
    instance.until(lambda s: workers_of(s)[0]["state"] == "held")
    assert instance.status()["groups"][0]["spares_ready"] == 1


@pytest.mark.fault(11)
@pytest.mark.long
def test_spares_that_refuse_are_not_forked_for_ever(instance: Run) -> None:
    """The plugin's file becomes one that refuses: workers run on, the group says that it has no
    spares and why, and reset-failed tries again."""
    plugin = build(instance.folder, FUSSY)
    flag = instance.folder / "refuse"
    ports = '[[ports]]\nname = "wan"\nvdev = "net_null0"\n'
    args = f'file = "{flag}"'
    instance.start(ports + IO + group(str(plugin), 1, args, more="spares = 1\n"))
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1)
    flag.touch()
    (spare,) = spare_pids(instance)
    os.kill(spare, signal.SIGKILL)
    status = instance.until(lambda s: s["groups"][0]["spares_held"] and s)
    assert "not today" in status["groups"][0]["spares_held"]
    assert status["state"] == "running"
    assert "reset-failed fw" in instance.do("status").stdout
    forked = instance.status()["supervisor"]["pid"] and len(spare_words(instance))
    time.sleep(2)
    assert len(spare_words(instance)) == forked, "forked on"
    instance.do("reset-failed", "fw")
    instance.until(lambda s: s["groups"][0]["spares_held"])
    assert len(spare_words(instance)) == forked + 1
    flag.unlink()
    instance.do("reset-failed", "fw")
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1)
    assert instance.status()["groups"][0]["spares_held"] == ""


def spare_words(instance: Run) -> list[str]:
    """What spares said on their way out."""
    events = instance.events()
    return [e["message"] for e in events if e["type"] == "spare" and "not today" in e["message"]]


FUSSY = """
#include <stdio.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	if (access(dps_arg(env, "file"), F_OK) != 0)
		return 0;
	snprintf(env->error, env->error_len, "not today");
	return -1;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "fussy", .init = init, .packet = packet,
};
"""


def test_a_plugin_that_refuses_is_not_tried_again(instance: Run) -> None:
    """A permanent failure: held at once, whatever credit there is."""
    plugin = build(instance.folder, FUSSY)
    flag = instance.folder / "refuse"
    ports = '[[ports]]\nname = "wan"\nvdev = "net_null0"\n'
    more = 'spares = 0\nrestart = { intensity = 100, backoff = { initial = "1ms" } }\n'
    instance.start(ports + IO + group(str(plugin), 1, f'file = "{flag}"', more=more))
    flag.touch()
    os.kill(instance.worker("fw/0")["pid"], signal.SIGKILL)
    instance.until(lambda s: workers_of(s)[0]["state"] == "held")
    worker = instance.worker("fw/0")
    assert worker["restarts"] == 1
    assert "not today" in worker["last_exit"]["reason"]


# --- held, and back -------------------------------------------------------------------------------


def test_held_is_lent_said_and_reset(instance: Run) -> None:
    """More deaths than the policy allows: others have its buckets, status says 5, an event and a
    hint say why and what to type; reset-failed has it back, its history forgotten."""
    write_pcap(instance.folder / "wan.in.pcap", [bytes(14) + b"this one is poison"])
    ports = """
[[ports]]
name = "wan"
vdev = "net_null0"
"""
    more = ONCE.format(intensity=1) + "spares = 0\n"
    instance.start(ports + IO + group("forward", 2, more=more))
    for deaths in (1, 2):
        pid = instance.until(lambda s: workers_of(s)[0]["state"] == "running" and s)
        os.kill(workers_of(pid)[0]["pid"], signal.SIGKILL)
        instance.until(lambda s, n=deaths: s["recovery"]["deaths"] == n)
    status = instance.until(lambda s: workers_of(s)[0]["state"] == "held" and s)
    assert "1 restarts in 60 s" in workers_of(status)[0]["held_for"]
    assert instance.do("status", check=False).returncode == 5
    assert "reset-failed fw/0" in instance.do("status", check=False).stdout
    (event,) = [e for e in instance.events() if e["type"] == "held"]
    assert event["name"] == "fw/0"
    # By the supervisor, not by the primary for lack of an answer.
    instance.until(
        lambda _: [e for e in instance.events() if e["type"] == "steer" and e["seq"] > event["seq"]]
    )
    # The survivor has all of the traffic: nothing more comes to the held one's slot.
    before = workers_of(instance.status())
    instance.until(lambda s: workers_of(s)[1]["rx_packets"] > before[1]["rx_packets"] + 10_000)
    assert workers_of(instance.status())[0]["rx_packets"] == before[0]["rx_packets"]

    done = instance.do("reset-failed", "fw/0")
    assert "fw/0 was held, now running" in done.stdout
    assert instance.status()["state"] == "running"
    assert "no worker was held" in instance.do("reset-failed", "fw/0").stdout
    # The history is forgotten: one more death is put up with.
    os.kill(instance.worker("fw/0")["pid"], signal.SIGKILL)
    instance.until(lambda s: s["recovery"]["deaths"] == 3 and s["state"] == "running")


def test_a_later_generation_with_somebody_held_is_degraded(instance: Run) -> None:
    """The plugin has gone bad when the primary dies: no reason to end, but to say so."""
    plugin = build(instance.folder, FUSSY)
    flag = instance.folder / "refuse"
    ports = '[[ports]]\nname = "wan"\nvdev = "net_null0"\n'
    instance.start(ports + IO + group(str(plugin), 1, f'file = "{flag}"', more="spares = 0\n"))
    flag.touch()
    os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
    instance.until(
        lambda s: (
            (s["generation"], s["state"]) == (2, "degraded")
            and [w["state"] for w in workers_of(s)] == ["held"]
        )
    )
    assert instance.do("status", check=False).returncode == 5
    flag.unlink()
    instance.do("reset-failed")
    assert instance.status()["state"] == "running"


def test_reset_failed_of_what_does_not_exist(instance: Run) -> None:
    instance.start(CALM)
    for target in ("fw/9", "nobody", "nobody/0"):
        assert instance.do("reset-failed", target, check=False).returncode == 4, target
    assert instance.do("reset-failed").returncode == 0
    assert instance.do("reset-failed", "workers").returncode == 0


# --- strategies -----------------------------------------------------------------------------------


CHAIN = """
[[workers]]
name = "{name}"
plugin = "{plugin}"
{input}
count = 2
on_full = "hold"
spares = {spares}
restart = {{ strategy = "{strategy}", intensity = 1000, backoff = {{ initial = "1ms" }} }}
"""

# On to the group `next`, or out.
ONWARD = """
#include "dpsup_plugin.h"

static uint16_t verdict;

static int init(const struct dps_env *env, void **state)
{
	const char *next = dps_arg(env, "next");

	(void)state;
	verdict = next ? dps_on((uint32_t)dps_group(env, next)) : dps_out(0);
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	(void)p;
	for (uint64_t since = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - since < 300000;)
		;
	return verdict;
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "onward", .init = init, .packet = packet,
};
"""


@pytest.mark.parametrize(
    ("strategy", "follow", "spares"),
    [
        ("one-for-one", [], 0),
        pytest.param("one-for-one", [], 1, marks=pytest.mark.long),
        pytest.param("all", ["b/1"], 0, marks=pytest.mark.long),
        ("all", ["b/1"], 1),
        ("rest-for-chain", ["c/1", "c/0"], 0),
        ("rest-for-chain", ["c/1", "c/0"], 1),
    ],
)
def test_strategies(
    instance: Run, packets: list[Packet], strategy: str, follow: list[str], spares: int
) -> None:
    """Three groups, one behind the other; a worker of the middle one dies, under load."""
    plugin = str(build(instance.folder, ONWARD))
    save(instance.folder / "wan.in.pcap", packets)
    chain = ""
    for name, then in (("a", "b"), ("b", "c"), ("c", "")):
        text = CHAIN.format(
            name=name, plugin=plugin, strategy=strategy, spares=spares,
            input='input = ["wan"]' if name == "a" else "input = []",
        )  # fmt: skip
        chain += text + (f'args = {{ next = "{then}" }}\n' if then else "")
    job = Job(instance, pcap_port() + IO + chain)
    job.until_sent(100)
    if spares:
        wait_for(lambda: all(g["spares_ready"] for g in job.instance.status()["groups"]))

    def pids() -> dict[str, int]:
        groups = job.instance.status()["groups"]
        return {w["id"]: w["pid"] for g in groups for w in g["workers"]}

    before = pids()
    os.kill(before["b/0"], signal.SIGKILL)
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == 1)
    changed = {"b/0", *follow}
    wait_for(
        lambda: (
            {n for n, p in pids().items() if p != before[n]} == changed
            and job.instance.status()["state"] == "running"
        )
    )
    found = [e for e in job.events() if e["type"] == "restart"]
    assert [e["restarted"] for e in found] == ([follow] if follow else [])
    assert job.instance.status()["recovery"]["deaths"] == 1, "those that follow did not die"
    assert job.sent() < len(packets), "the run was too short to prove anything"
    doc, received = job.cut(packets, 300)
    accounted(doc, len(received))
    compare(received, out(instance))
