# SPDX-License-Identifier: BSD-3-Clause
"""Spares: they take over at once, without the supervisor, as often as the policy allows; whatever
dies when, all ends in the declared state."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import struct
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, NULL, Run, at_rest, seed, wait_for
from jobs import (
    IO,
    LOSSLESS,
    ONCE,
    SLOW,
    Job,
    accounted,
    build,
    death_events,
    group,
    kill_busy,
    out,
    pcap_port,
    spare_pids,
)
from stepping import build_step, step, write_as_seed
from traffic import Packet, compare, flows, mix, save, swapped, write_pcap

from dpsup._shim import ffi
from dpsup.bus.client import Client
from dpsup.instance.runtime_dir import PRIMARY, instances

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]


def with_spares(n: int) -> str:
    return LOSSLESS + f"spares = {n}\n"


def spares_ready(job: Job) -> int:
    return int(job.instance.status()["groups"][0]["spares_ready"])


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 60_000, seed=12)


@pytest.mark.fault(1)
def test_a_spare_takes_over_and_another_one_is_forked(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {5 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=with_spares(1)))
    for i in range(30):
        wait_for(lambda: spares_ready(job) == 1, step=0.002)
        (spare,) = wait_for(lambda: len(found := spare_pids(instance)) == 1 and found)
        kill_busy(job)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1, step=0.002)
        worker = job.instance.status()["groups"][0]["workers"][0]
        assert (worker["pid"], worker["restarts"], worker["state"]) == (spare, i + 1, "running")
    assert job.sent() < len(packets), "the run was too short to prove anything"
    found = death_events(job)
    for death, after in itertools.pairwise(found):
        assert death["successor"] == after["pid"]
        assert death["times"]["claimed_ns"] <= death["times"]["seated_ns"]
    wait_for(lambda: job.instance.status()["recovery"]["last_failover_us"])
    states = {e["new"] for e in job.log if e["type"] == "state" and e["kind"] == "topology"}
    assert "degraded" not in states
    assert job.instance.audit()["pools"][0]["unexplained"] == 0
    doc, received = job.cut(packets, 500)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)


@pytest.mark.parametrize(
    "spares",
    [pytest.param(0, marks=pytest.mark.long), pytest.param(1, marks=pytest.mark.long), 3],
)
def test_whoever_dies_all_ends_as_declared(
    instance: Run, packets: list[Packet], spares: int
) -> None:
    """Workers, spares and both at once, up to all of them."""
    rng = random.Random(seed())
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {5 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 3, args, more=with_spares(spares)))
    killed: set[int] = set()  # workers
    for i in range(12):
        job.until_sent(300 * (i + 1))
        workers = [w["pid"] for w in job.instance.status()["groups"][0]["workers"] if w["pid"]]
        everybody = workers + spare_pids(instance)
        for pid in rng.sample(everybody, rng.randint(1, len(everybody))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed |= {pid} & {*workers}
        job.events()
    assert job.sent() < len(packets), "the run was too short to prove anything"

    def declared() -> bool:
        status = job.instance.status()
        fw = status["groups"][0]
        return status["state"] == "running" and (fw["ready"], fw["spares_ready"]) == (3, spares)

    wait_for(declared)
    doc, received = job.cut(packets, 1000)
    accounted(doc, len(received))
    assert doc["deaths"] >= len(killed) > 0
    compare(received, out(instance), swapped)


def test_a_dead_spare_is_replaced_and_nobody_else_hears_of_it(instance: Run) -> None:
    instance.start(CALM + "spares = 2\n")
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 2)
    before = instance.status()
    old = spare_pids(instance)
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: len(set(spare_pids(instance)) - set(old)) == 1)
    after = instance.until(lambda s: s["groups"][0]["spares_ready"] == 2 and s)
    assert after["recovery"]["deaths"] == 0
    assert [w["pid"] for w in after["groups"][0]["workers"]] == [
        w["pid"] for w in before["groups"][0]["workers"]
    ]
    assert [e["message"] for e in instance.events() if e["type"] == "spare"] == ["died"]


@pytest.mark.long
def test_a_spare_that_does_not_come_is_passed_over(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=with_spares(2)))
    for i in range(3):
        wait_for(lambda: spares_ready(job) == 2)
        for pid in spare_pids(instance)[:1]:
            os.kill(pid, signal.SIGSTOP)
        kill_busy(job)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1)
    found = death_events(job)
    assert all(d["successor"] for d in found)
    assert sum(d["tried"] for d in found) > 0
    accounted(job.end(len(packets)), len(packets))
    compare(packets, out(instance), swapped)


def test_takeovers_need_no_supervisor(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {3 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=with_spares(2)))
    wait_for(lambda: spares_ready(job) == 2)
    status = job.instance.status()
    supervisor, worker = status["supervisor"]["pid"], status["groups"][0]["workers"][0]["pid"]
    written = instance.folder / "wan.out.pcap"
    victims = [worker, *spare_pids(instance)[:1]]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
            size = written.stat().st_size
            wait_for(lambda size=size: written.stat().st_size > size + 500_000)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    # One of the two died in its place or as a spare: what there was to know is known afterwards.
    wait_for(lambda: spares_ready(job) == 2)
    doc, received = job.cut(packets)
    accounted(doc, len(received))
    assert doc["deaths"] >= 1
    compare(received, out(instance), swapped)


def test_no_more_takeovers_than_the_policy_allows(instance: Run) -> None:
    """A packet that kills whoever gets it, many spares, three restarts."""
    poison = bytes(14) + b"this one is poison"
    write_pcap(instance.folder / "wan.in.pcap", [poison] * 3)
    more = ONCE.format(intensity=3) + "spares = 8\n"
    crash = group("crash", 1, 'how = "exit", match = "is poison"', more=more)
    instance.start(pcap_port() + IO + crash)
    status = instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "held" and s)
    assert status["recovery"]["deaths"] == 4
    assert status["in_flight"] == 3
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_parked_spares_use_no_cpu(instance: Run) -> None:
    instance.start(NULL.replace("net_null0", "net_null0,size=64") + "spares = 3\n")
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 3)

    def used() -> int:
        """Nanoseconds of the threads that would handle packets."""
        pids = spare_pids(instance)
        assert len(pids) == 3
        return sum(
            int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) for pid in pids
        )

    before = at_rest(used)  # one that is ready has yet to lie down
    packets = instance.status()["ports"][0]["rx_packets"]
    instance.until(lambda s: s["ports"][0]["rx_packets"] > packets + 100_000)
    assert used() == before


# Writes its index into each packet, and counts.
WHO = """
#include "dpsup_plugin.h"

static const struct dps_env *me;
static uint64_t *count;
static const char *const counters[] = { "seen", 0 };

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	me = env;
	count = env->counters;
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (volatile int i = 0; i < 20000; i++)
		;
	memcpy(p->data, &me->worker, 4);
	count[0]++;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "who", .rewrites = 4, .init = init, .packet = packet,
	.counters = counters,
};
"""


def test_a_spare_learns_its_place_and_counts_on(instance: Run, packets: list[Packet]) -> None:
    sent = [p for p in packets if len(p.frame) >= 60][:30_000]
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, WHO)
    job = Job(instance, pcap_port() + IO + group(str(plugin), 2, more=with_spares(2)))
    rng = random.Random(5)
    for i in range(10):
        wait_for(lambda: spares_ready(job) > 0)
        wait_for(lambda: job.instance.status()["state"] == "running")
        workers = job.instance.status()["groups"][0]["workers"]
        os.kill(rng.choice(workers)["pid"], signal.SIGKILL)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1)
    wait_for(lambda: job.sent() == len(sent) and not job.instance.status()["in_flight"])
    seen = sum(w["counters"]["seen"] for w in job.instance.status()["groups"][0]["workers"])
    job.end(len(sent))
    # A packet that was in hand at a death may have been counted twice.
    assert len(sent) <= seen <= len(sent) + 10
    assert {struct.unpack_from("<I", frame)[0] for frame in out(instance)} == {0, 1}


def test_spares_run_what_was_restarted(instance: Run) -> None:
    instance.start(CALM)
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1)
    old: list[Any] = spare_pids(instance)
    instance.do("restart")
    wait_for(lambda: (now := spare_pids(instance)) and not set(now) & set(old))
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 1 and s["state"] == "running")


def test_a_seat_that_was_called_off_holds_no_later_process(instance: Run) -> None:
    """A process was ordered for the third slot, and never came. Its berth goes to a spare, which
    takes another slot: the third one's next order must not touch that."""
    instance.start(f"{CALM}spares = 1\n".replace("intensity = 100", "intensity = 1000000"))

    def workers() -> list[int]:
        return [w["pid"] for w in instance.status()["groups"][0]["workers"] if w["pid"]]

    def is_whole() -> bool:
        doc = instance.status()
        return doc["state"] == "running" and doc["groups"][0]["spares_ready"] == 1

    primary = Client(instances()[instance.name].file(PRIMARY))

    def berths() -> dict[int, int]:
        return {s["pid"]: s["berth"] for s in primary.ask("sitters")["sitters"]}

    def order() -> int:
        found = primary.ask("prepare", slot=2, core=0)
        assert primary.ask("call_off", **found) == 0
        return int(found["berth"])

    def dies(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in berths(), step=0.002)

    wait_for(is_whole)
    supervisor = instance.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        dies(spare_pids(instance)[0])
        berth = order()
    finally:
        os.kill(supervisor, signal.SIGCONT)
    for n in range(12):  # which berth the next spare gets, the moments of the deaths decide
        wait_for(is_whole)
        if n >= 3 and berth in [berths().get(pid) for pid in workers()]:
            break
        dies(workers()[0])
        wait_for(is_whole)
        order()
    assert berth in [berths()[pid] for pid in workers()], "the berth was never a worker's"
    for victim in workers():
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda pid=victim: pid not in workers() and is_whole())
    primary.close()
    assert not [e for e in instance.events() if e["type"] == "stranger"]


def test_a_stray_pid_in_a_berth_costs_no_berth(instance: Run) -> None:
    """It lives, as pid 1 does always: the order is called off all the same."""
    instance.start(f"{CALM}spares = 1\n")

    def is_whole() -> bool:
        doc = instance.status()
        return doc["state"] == "running" and doc["groups"][0]["spares_ready"] == 1

    wait_for(is_whole)
    pid = instance.status()["groups"][0]["workers"][0]["pid"]
    sitters = step(build_step(instance.folder / "step"), pid, "where")["sitters"]
    primary = Client(instances()[instance.name].file(PRIMARY))

    def order() -> dict[str, int]:
        found: dict[str, int] = primary.ask("prepare", slot=2, core=0)
        return found

    def write(berth: int, data: bytes) -> None:
        at = sitters + berth * ffi.sizeof("struct dps_sitter")
        write_as_seed(pid, at + ffi.offsetof("struct dps_sitter", "berth"), data)

    first = order()
    write(first["berth"], struct.pack("<I", 1))
    assert primary.ask("call_off", **first) == 0
    # Nobody calls these off: the next order does.
    for word in (struct.pack("<II", 1, 77), struct.pack("<II", 0, 77), struct.pack("<I", 1 << 31)):
        again = order()
        assert again["berth"] == first["berth"]
        write(again["berth"], word)
    assert order()["berth"] == first["berth"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: instance.status()["recovery"]["deaths"] == 1 and is_whole())
    primary.close()
