# SPDX-License-Identifier: BSD-3-Clause
"""Busy, idle, stuck with work, stopped, starved: told apart, and only the stuck are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import NULL, Run, wait_for
from jobs import (
    FREE,
    IO,
    LOSSLESS,
    SLOW,
    TOILS,
    Job,
    accounted,
    build,
    death_events,
    group,
    out,
    pcap_port,
)
from traffic import Packet, compare, flows, mix, save, swapped, write_pcap

from dpsup import connect

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 20_000, seed=13)


def health(more: str, spares: int = 1) -> str:
    return LOSSLESS + f"spares = {spares}\nhealth = {{ {more} }}\n"


def said(job: Job, name: str = "") -> list[str]:
    return [e["message"] for e in job.events() if e["type"] == "health" and name in ("", e["name"])]


def worker(job: Job, member: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = job.instance.status()["groups"][0]["workers"][member]
    return found


# Changes its 2000th packet by half and never comes back: in a loop, asleep, or deaf to SIGABRT.
HANG = """
#include <signal.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static int seen;

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint8_t mac[6];

	(void)state;
	if (p->len < 12)
		return dps_out(p->port);
	memcpy(mac, p->data, 6);
	memcpy(p->data, p->data + 6, 6);
	if (++seen == 2000) {
		%s
	}
	memcpy(p->data + 6, mac, 6);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "hang", .rewrites = 12, .packet = packet,
};
"""
DEAF = "signal(SIGABRT, SIG_IGN); for (;;);"


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("act", "signal_", "spares"),
    [
        pytest.param("for (;;);", "SIGABRT", 0, id="in a loop, no spare"),
        pytest.param("for (;;);", "SIGABRT", 1, id="in a loop"),
        pytest.param(
            "for (;;) pause();", "SIGABRT", 0, id="asleep, no spare", marks=pytest.mark.long
        ),
        pytest.param("for (;;) pause();", "SIGABRT", 1, id="asleep"),
        pytest.param(DEAF, "SIGKILL", 0, id="deaf, no spare"),
        pytest.param(DEAF, "SIGKILL", 1, id="deaf", marks=pytest.mark.long),
    ],
)
def test_a_worker_that_hangs_is_replaced(
    instance: Run, packets: list[Packet], act: str, signal_: str, spares: int
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, HANG.replace("%s", act))
    more = health('stall_after = "100ms"', spares)
    job = Job(instance, pcap_port() + IO + group(str(plugin), 2, more=more))
    wait_for(lambda: job.sent() == len(packets))
    found = death_events(job)
    assert len(found) >= 6
    for death in found:
        # One that gets no CPU to tell where it is does not have for ever.
        assert death["hung"] and death["how"] in (signal_, "SIGKILL")
        assert ("backtrace" in death) == (death["how"] == "SIGABRT")
    assert any(death["how"] == signal_ for death in found)
    assert set(said(job)) >= {"stuck"}
    assert any(w["last_exit"]["reason"] == "stuck with work" for w in
               job.instance.status()["groups"][0]["workers"] if w["last_exit"])  # fmt: skip
    accounted(job.end(len(packets)), len(packets))
    compare(packets, out(instance), swapped)


@pytest.mark.fault(6)
def test_slow_is_not_stuck(instance: Run) -> None:
    """Packets of a third of stall_after each, for many times stall_after."""
    sent = mix(flows(1)[:10], 20, seed=1)
    save(instance.folder / "wan.in.pcap", sent)
    more = health('stall_after = "300ms"')
    # 2.5 to 4 GHz: 50 to 100 ms.
    job = Job(instance, pcap_port() + IO + group("delay", 1, "cycles = 250000000", more=more))
    wait_for(lambda: job.sent() == len(sent))
    assert "stuck" not in said(job)  # on a busy machine it may be starved
    accounted(doc := job.end(len(sent)), len(sent))
    assert doc["deaths"] == 0


@pytest.mark.fault(4)
def test_a_stopped_worker_is_not_killed_and_goes_on(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {4 * SLOW}, rewrite = true"
    more = health('stall_after = "50ms"')
    job = Job(instance, pcap_port() + IO + group("delay", 2, args, more=more))
    job.until_sent(1000)
    victim = worker(job)["pid"]
    before = len(job.events())
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: worker(job)["health"] == "stopped")
    wait_for(lambda: any(e["type"] == "steer" for e in job.events()[before:]))
    os.kill(victim, signal.SIGCONT)
    wait_for(lambda: worker(job)["health"] == "ok")
    # On a busy machine it may be starved besides.
    told = [message for message in said(job, "fw/0") if message not in ("starved", "fed")]
    assert told == ["stopped", "continued"]
    assert worker(job)["pid"] == victim
    doc, received = job.cut(packets, 2000)
    accounted(doc, len(received))
    assert doc["deaths"] == 0
    compare(received, out(instance), swapped)


def test_an_idle_worker_that_is_stopped_lends_its_buckets(instance: Run) -> None:
    """Nothing is in its lanes: nothing waits for it."""
    instance.start(NULL.replace("net_null0", "net_null0,size=64") + "spares = 0\n")

    def idle_one() -> dict[str, Any] | None:
        # One flow: one of the two has nothing to do.
        less, more = sorted(
            instance.status()["groups"][0]["workers"], key=lambda w: w["rx_packets"]
        )
        return less if more["rx_packets"] and not less["rx_packets"] else None

    idle = wait_for(idle_one)
    last = instance.events()[-1]["seq"]
    os.kill(idle["pid"], signal.SIGSTOP)
    wait_for(lambda: instance.worker(idle["id"])["health"] == "stopped")
    wait_for(lambda: [e for e in instance.events() if e["type"] == "steer" and e["seq"] > last])
    before = instance.status()["ports"][0]["rx_packets"]
    instance.until(lambda s: s["ports"][0]["rx_packets"] > before + 10_000)
    os.kill(idle["pid"], signal.SIGCONT)
    wait_for(lambda: instance.worker(idle["id"])["health"] == "ok")
    assert instance.status()["recovery"]["deaths"] == 0


@pytest.mark.fault(4, 30)
def test_only_its_own_buckets_wait_for_a_stopped_worker(instance: Run) -> None:
    """Others that move meanwhile wait for the lane that they come from, and for no other."""
    frames = [frame for f in flows(64) for frame in f.frames if len(frame) < 1500]
    write_pcap(instance.folder / "wan.in.pcap", frames)
    port = pcap_port(mtu=1500).replace("tx_pcap=wan.out.pcap", "infinite_rx=1,tx_pcap=/dev/null")
    more = "spares = 0\n"  # and packets are dropped where a lane is full, so nobody waits for room
    instance.start(port + IO + group("delay", 3, f"cycles = {SLOW // 10}", most=4, more=more))
    instance.until(lambda s: all(w["rx_packets"] for w in s["groups"][0]["workers"]))
    victim = instance.worker("fw/0")["pid"]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: instance.worker("fw/0")["health"] == "stopped")
    instance.do("scale", "fw", "4")
    wait_for(lambda: instance.worker("fw/3")["rx_packets"] > 1000)
    assert instance.worker("fw/0")["health"] == "stopped"
    os.kill(victim, signal.SIGCONT)
    wait_for(lambda: instance.worker("fw/0")["health"] == "ok")
    assert [p["unexplained"] for p in instance.audit()["pools"]] == [0]


@pytest.mark.fault(4)
@pytest.mark.parametrize("spares", [0, 1])
def test_a_stopped_worker_is_killed_where_that_is_asked_for(
    instance: Run, packets: list[Packet], spares: int
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {2 * SLOW}, rewrite = true"
    more = health('stall_after = "50ms", stopped = "kill"', spares)
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=more))
    for i in range(3):
        job.until_sent(1000 * (i + 1))
        os.kill(worker(job)["pid"], signal.SIGSTOP)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1)
        wait_for(lambda: worker(job)["state"] == "running")
    assert said(job).count("stopped") == 3
    doc, received = job.cut(packets, 2000)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)


@contextlib.contextmanager
def hogs(core: int, n: int) -> Iterator[None]:
    """Programs that take all of a CPU that they are given."""
    running = [
        subprocess.Popen(["taskset", "-c", str(core), "sh", "-c", "while :; do :; done"])
        for _ in range(n)
    ]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


@pytest.mark.fault(35)
def test_a_starved_worker_is_not_killed(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    enough = instance.folder / "enough"
    plugin = build(instance.folder, TOILS.replace("FILE", str(enough)))
    more = health('stall_after = "20ms"') + FREE
    job = Job(instance, pcap_port() + IO + group(str(plugin), 1, more=more))
    job.until_sent(100)
    one = worker(job)
    # The least of what the scheduler gives.
    os.sched_setscheduler(one["pid"], os.SCHED_IDLE, os.sched_param(0))
    with hogs(one["core"], 3):
        wait_for(lambda: "starved" in said(job))
    enough.touch()
    os.sched_setscheduler(one["pid"], os.SCHED_OTHER, os.sched_param(0))
    wait_for(lambda: worker(job)["health"] == "ok")
    assert said(job)[:2] == ["starved", "fed"]
    assert worker(job)["pid"] == one["pid"]
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] == 0
    compare(packets, out(instance))


@pytest.mark.fault(35)
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("seconds", [4, pytest.param(3600, marks=pytest.mark.long)])
def test_nobody_is_killed_beside_a_hog(instance: Run, seconds: int) -> None:
    """Each CPU has a program that takes all it gets; two workers with all the work there is."""
    more = 'spares = 1\nhealth = { stall_after = "100ms" }\n'
    instance.start(NULL.replace("net_null0", "net_null0,size=64") + more)
    with hogs(0, 1), hogs(1, 1):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(1)
            status = instance.status()
            assert status["recovery"]["deaths"] == 0
    assert "stuck" not in [e.get("message") for e in instance.events() if e["type"] == "health"]
    assert status["ports"][0]["rx_packets"] > 10_000
    assert status["generation"] == 1


# Sleeps twice in each packet, 40 ms.
NAPS = """
#include <time.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	const struct timespec nap = { .tv_nsec = 40000000 };

	(void)state;
	nanosleep(&nap, NULL);
	nanosleep(&nap, NULL);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "naps", .packet = packet,
};
"""


@pytest.mark.long
def test_a_gap_in_the_looks_is_not_taken_for_sleep(instance: Run) -> None:
    """Worker and warden both stand still, as on a host that gives them no CPU: before and after,
    the worker is found asleep in the same packet, but it did not sleep all that time."""
    sent = mix(flows(1)[:10], 80, seed=1)
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, NAPS)
    more = health('stall_after = "300ms"')
    job = Job(instance, pcap_port() + IO + group(str(plugin), 1, more=more))
    status = job.instance.status()
    pids = [status["primary"]["pid"], worker(job)["pid"]]
    job.until_sent(2)
    for _ in range(6):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.6)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.13)
    assert worker(job)["pid"] == pids[1]
    accounted(doc := job.end(len(sent)), len(sent))
    assert doc["deaths"] == 0


@pytest.mark.long
def test_the_clock_starts_with_the_work(instance: Run) -> None:
    """A packet now and then, each of many rounds and less than stall_after: the CPU time of those
    before it does not count."""
    tap = f"dpsup{os.getpid() % 100_000}"
    # 2.5 to 4 GHz: 60 to 100 ms.
    more = 'spares = 0\nhealth = { stall_after = "400ms" }\n'
    slow = group("delay", 1, "cycles = 250000000", more=more)
    instance.start(f'[[ports]]\nname = "wan"\nvdev = "net_tap0,iface={tap}"\n' + IO + slow)

    frame = flows(1)[0].frames[0]
    with (
        connect(instance.name) as live,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as line,
    ):

        def seen() -> int:
            return int(live.status()["ports"][0]["tx_packets"])

        line.bind((tap, 0))
        for _ in range(15):
            before = seen()
            line.send(frame)
            wait_for(lambda n=before: seen() > n or live.status()["recovery"]["deaths"])
            time.sleep(0.3)
        assert live.status()["recovery"]["deaths"] == 0
