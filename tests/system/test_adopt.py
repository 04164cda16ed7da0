# SPDX-License-Identifier: BSD-3-Clause
"""The death of the others: supervisor, primary, both; whoever comes next goes on with what runs,
and no packet is lost by it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, DPSUP, LONG, NULL, Run, leftovers, run, seed, wait_for
from jobs import IO, LOSSLESS, SLOW, Job, accounted, group, kill_busy, out, pcap_port, spare_pids
from ptrace import Traced
from traffic import Packet, compare, flows, mix, save, swapped

import dpsup

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

ARGS = f"cycles = {20 * SLOW}, rewrite = true"  # 16 s of two CPUs


@pytest.fixture(autouse=True)
def reaper() -> Iterator[None]:
    """Orphans become ours, as init may be slow; at the end there is none, dead or alive."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)
    yield
    prctl(36, 0, 0, 0, 0)
    assert wait_for(lambda: not orphans()), orphans()


def orphans() -> list[str]:
    """Children that we did not start, those that are dead reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = stat.read_text().rpartition(")")
            state, parent = tail.split()[:2]
            if int(parent) != os.getpid() or ("dpsup" not in head and "python" not in head):
                continue
            pid = int(stat.parent.name)
            if state == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            else:
                found.append(f"{pid} {head}")
    return found


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 40_000, seed=21)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_supervisor(doc: dict[str, Any]) -> None:
    pid = doc["supervisor"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid), step=0.001)


def data_plane(doc: dict[str, Any]) -> list[int]:
    workers = [w["pid"] for g in doc["groups"] for w in g["workers"]]
    return [doc["primary"]["pid"], doc["seed"]["pid"], *workers]


@pytest.mark.fault(16)
def test_adoption_loses_nothing(instance: Run, packets: list[Packet]) -> None:
    """Time and again under load: the same processes, each packet once and in order."""
    save(instance.folder / "wan.in.pcap", packets)
    text = pcap_port() + IO + group("delay", 2, ARGS, more=LOSSLESS + "spares = 1\n")
    job = Job(instance, text)
    rounds = 4 if LONG else 2
    for i in range(rounds):
        job.until_sent(500 * (i + 1))
        wait_for(lambda j=job: j.instance.status()["groups"][0]["spares_ready"] == 1)
        before, spares = job.instance.status(), spare_pids(instance)
        kill_supervisor(before)
        job.process.communicate()
        sent = json.loads(instance.do("status", "-o", "json", check=False).stdout)
        job = Job(instance, text)
        after = job.instance.status()
        assert after["generation"] == 1
        assert data_plane(after) == data_plane(before)
        assert spare_pids(instance) == spares
        assert after["groups"][0]["spares_ready"] == 1
        assert after["supervisor"]["pid"] != before["supervisor"]["pid"]
        assert after["ports"][0]["tx_packets"] >= sent["ports"][0]["tx_packets"]
        # It takes over, and is supervised: the death of a worker is heard of and repaired.
        kill_busy(job)
        wait_for(lambda j=job, n=i: j.instance.status()["recovery"]["deaths"] == n + 1)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    doc, received = job.cut(packets, 1000)
    accounted(doc, len(received))
    assert doc["deaths"] == rounds
    compare(received, out(instance), swapped)


def test_a_chain_and_a_group_that_follows_its_load_are_adopted(instance: Run) -> None:
    """What is decided from the plan after the start (autoscale, on_down) is decided by the next
    supervisor too."""
    text = NULL.replace('args = { map = { wan = "lan", lan = "wan" } }\ninput = ["wan", "lan"]', "")
    text += """scale = { min = 1, max = 4, target_busy = 0.05, cooldown = "1h" }
[[workers]]
name = "nat"
plugin = "forward"
[[chains]]
name = "main"
path = ["wan", "fw", "nat", "lan"]
on_down = "drop"
"""
    instance.start(text)
    kill_supervisor(instance.status())
    instance.start()
    assert instance.status()["generation"] == 1
    instance.until(lambda s: s["groups"][0]["desired"] == 4)
    assert [e["name"] for e in instance.events() if e["type"] == "autoscale"]
    os.kill(instance.worker("nat/0")["pid"], signal.SIGKILL)
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")


def test_what_happened_without_supervisor_is_known_afterwards(
    instance: Run, packets: list[Packet]
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {3 * SLOW}, rewrite = true"
    text = pcap_port() + IO + group("delay", 1, args, more=LOSSLESS + "spares = 2\n")
    job = Job(instance, text)
    wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 2)
    before = job.instance.status()
    kill_supervisor(before)
    job.process.communicate()
    # Both spares take over, then there is nobody left; and one of them says something.
    written = instance.folder / "wan.out.pcap"
    worker = before["groups"][0]["workers"][0]["pid"]
    for _ in range(2):
        spares = spare_pids(instance)
        os.kill(worker, signal.SIGKILL)
        size = written.stat().st_size
        wait_for(lambda size=size: written.stat().st_size > size + 100_000)
        (worker,) = wait_for(lambda old=spares: {*old} - {*spare_pids(instance)})
    os.kill(worker, signal.SIGSEGV)
    wait_for(lambda: not lives(worker))
    job = Job(instance, text)
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == 3)
    fw = wait_for(
        lambda: (w := job.instance.status()["groups"][0]["workers"][0])["restarts"] == 3 and w
    )
    assert fw["last_exit"]["signal"] == signal.SIGSEGV
    deaths = sorted(
        (e for e in job.events() if e["type"] == "death"), key=lambda e: e["times"]["noticed_ns"]
    )
    assert [bool(e["successor"]) for e in deaths] == [True, True, False]
    doc, received = job.cut(packets)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)


@pytest.mark.long
def test_counts_and_numbers_go_on(instance: Run) -> None:
    instance.start(NULL.replace("intensity = 100", "intensity = 1"))
    instance.do("scale", "fw", "3")
    for _ in range(2):
        instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "running")
        instance.do("kill", "fw/0")
        instance.until(lambda s: s["groups"][0]["workers"][0]["last_exit"])
    before = instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "held" and s)
    last = instance.events()[-1]["seq"]
    kill_supervisor(before)
    instance.start()
    after = instance.status()
    group = after["groups"][0]
    assert (group["desired"], group["ready"]) == (3, 2)
    assert [w["state"] for w in group["workers"]] == ["held", "running", "running"]
    assert group["workers"][0]["last_exit"] == before["groups"][0]["workers"][0]["last_exit"]
    assert after["recovery"]["deaths"] == before["recovery"]["deaths"] == 2
    numbers = [e["seq"] for e in instance.events()]
    assert numbers[-1] > last
    assert numbers == sorted(set(numbers))
    instance.do("restart", "fw/0")
    assert instance.status()["state"] == "running"


TALK = """
#include <stdio.h>
#include <time.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	static unsigned long said;
	static time_t last;
	time_t now = time(NULL);

	(void)state;
	if (now != last)
		printf("line %lu\\n", ++said);
	last = now;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "talk", .packet = packet };
"""


@pytest.mark.long
def test_what_workers_print_is_read_on(instance: Run) -> None:
    source = instance.folder / "talk.c"
    source.write_text(TALK)
    include = run("version", "--cflags").stdout.split()
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", *include, str(source), "-o",
                    str(instance.folder / "talk.so")], check=True)  # fmt: skip
    instance.start(
        NULL.replace('"macswap"', '"./talk.so"')
        .replace("args =", "#")
        .replace("count = 2", "count = 1")
    )
    worker = instance.worker("fw/0")["pid"]

    def lines() -> list[str]:
        return [e["line"] for e in json.loads(instance.do("logs", "fw/0", "-o", "json").stdout)]

    wait_for(lines)
    heard = len(lines())
    kill_supervisor(instance.status())
    time.sleep(3)  # a line each second
    instance.start()
    assert instance.worker("fw/0")["pid"] == worker
    found = wait_for(lambda: len(lines()) > heard and lines())
    # What it had printed is on record, what it printed meanwhile was kept for us.
    assert [int(line.split()[1]) for line in found[:heard]] == list(range(1, heard + 1))
    assert heard < int(found[heard].split()[1]) <= heard + 4
    wait_for(lambda: len(lines()) > len(found))


def test_changed_file_is_said_and_not_applied(instance: Run) -> None:
    instance.start(CALM)
    before = instance.status()
    kill_supervisor(before)
    changed = CALM.replace("max = 4", "max = 6").replace("net_null1", "net_null1,size=128")
    instance.write(changed)
    done = instance.foreground()
    instance.until(lambda s: s["state"] == "running")
    after = instance.status()
    assert data_plane(after) == data_plane(before)
    assert after["groups"][0]["max"] == 4
    # A new generation is the old plan's too: slots are what this supervisor knows.
    os.kill(after["primary"]["pid"], signal.SIGKILL)
    doc = instance.until(lambda s: s["generation"] == 2 and s["state"] == "running" and s)
    assert doc["groups"][0]["max"] == 4
    instance.stop()
    _, said = done.communicate()
    assert "workers.fw.max" in said
    assert "ports.lan.vdev" in said
    assert "stop" in said


@pytest.mark.long
def test_unsound_primary_is_ended_and_a_new_generation_starts(instance: Run) -> None:
    instance.start(NULL)
    before = instance.status()
    kill_supervisor(before)
    os.kill(before["primary"]["pid"], signal.SIGSTOP)
    done = instance.foreground()
    doc = instance.until(lambda s: s["generation"] == 2 and s["state"] == "running" and s, 60)
    assert not any(lives(pid) for pid in data_plane(before))
    assert doc["groups"][0]["ready"] == 2
    instance.stop()
    assert "does not answer" in done.communicate()[1]


@pytest.mark.fault(36)
def test_of_two_starts_one_wins(instance: Run) -> None:
    instance.start(CALM)
    before = instance.status()
    kill_supervisor(before)
    both = [
        subprocess.Popen([*DPSUP, "start", str(instance.file), "--detach"],
                         stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    said = [p.communicate()[1] for p in both]
    assert sorted(p.returncode for p in both) == [0, 1], said
    assert any("already running" in s for s in said)
    assert data_plane(instance.status()) == data_plane(before)


MOMENTS = 8 if LONG else 1
OPS = {
    "idle": [],
    "scale": ["scale", "fw", "4"],
    "shrink": ["scale", "fw", "1"],
    "restart": ["restart"],
    "kill": ["kill", "fw/0"],
    "stop": ["stop"],
}


def declared(instance: Run) -> dict[str, Any]:
    doc = instance.until(
        lambda s: s["state"] == "running" and s["groups"][0]["spares_ready"] == 1 and s
    )
    fw = doc["groups"][0]
    assert fw["ready"] == fw["desired"]
    running = [w["state"] for w in fw["workers"] if w["state"] != "stopped"]
    assert running == ["running"] * fw["desired"]
    return doc


@pytest.mark.fault(16, 41)
def test_killed_in_the_middle_of_anything(instance: Run) -> None:
    """The supervisor, at a sweep of moments of each operation; then a start."""
    rng = random.Random(seed())
    instance.start(NULL + "spares = 1\n")
    ops = OPS if LONG else dict(rng.sample(sorted(OPS.items()), 3))
    for op, words in ops.items():
        for _ in range(MOMENTS):
            before = declared(instance)
            asked = (
                subprocess.Popen([*DPSUP, words[0], "-n", instance.name, *words[1:]],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                if words else None
            )  # fmt: skip
            # The command itself takes some 200 ms to be up.
            time.sleep(rng.uniform(0.15, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(before["supervisor"]["pid"], signal.SIGKILL)
            if asked is not None:
                asked.wait(60)
            wait_for(lambda pid=before["supervisor"]["pid"]: not lives(pid))
            instance.start()
            after = declared(instance)
            # A stop ends the data plane, or not yet.
            assert after["generation"] == before["generation"] or op == "stop"
            wanted = {"scale": {2, 4}, "shrink": {1, before["groups"][0]["desired"]}}
            assert after["groups"][0]["desired"] in wanted.get(op, {1, 2, 4})
            assert [p["unexplained"] for p in instance.audit()["pools"]] == [0]
        instance.do("scale", "fw", "2")
    instance.stop()
    assert wait_for(lambda: not leftovers(instance.name)), leftovers(instance.name)


@pytest.mark.fault(41)
@pytest.mark.long
def test_killed_in_the_middle_of_a_start_or_of_an_adoption(instance: Run) -> None:
    rng = random.Random(seed())
    instance.write(NULL + "spares = 1\n")
    for i in range(24 if LONG else 4):
        starting = instance.foreground()
        # A start takes a second, an adoption half of that.
        time.sleep(rng.uniform(0.2, 1.6))
        starting.kill()
        starting.communicate()
        if i % 4 == 3:
            instance.start()
            declared(instance)
            assert [p["unexplained"] for p in instance.audit()["pools"]] == [0]
            if i % 8 == 3:
                instance.stop()
                assert wait_for(lambda: not leftovers(instance.name))
            else:
                kill_supervisor(instance.status())
    instance.start()
    declared(instance)
    instance.stop()
    assert wait_for(lambda: not leftovers(instance.name)), leftovers(instance.name)


@pytest.mark.fault(17)
@pytest.mark.long
def test_stopped_supervisor_catches_up(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {3 * SLOW}, rewrite = true"
    text = pcap_port() + IO + group("delay", 1, args, more=LOSSLESS + "spares = 1\n")
    job = Job(instance, text)
    wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 1)
    doc = job.instance.status()
    written = instance.folder / "wan.out.pcap"
    os.kill(doc["supervisor"]["pid"], signal.SIGSTOP)
    try:
        os.kill(doc["groups"][0]["workers"][0]["pid"], signal.SIGKILL)
        size = written.stat().st_size
        wait_for(lambda: written.stat().st_size > size + 500_000)
        time.sleep(6)  # longer than any answer is waited for
    finally:
        os.kill(doc["supervisor"]["pid"], signal.SIGCONT)
    wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 1)
    assert job.instance.status()["generation"] == 1
    accounted(done := job.end(len(packets)), len(packets))
    assert done["deaths"] == 1
    compare(packets, out(instance), swapped)


# --- the primary ----------------------------------------------------------------------------------


@pytest.mark.fault(14)
def test_death_of_the_primary_ends_everybody_at_once(instance: Run) -> None:
    instance.start(NULL + "spares = 2\n")
    took: list[tuple[float, float]] = []
    for i in range(5 if LONG else 3):
        doc = instance.until(
            lambda s: s["state"] == "running" and s["groups"][0]["spares_ready"] == 2 and s
        )
        old = [*data_plane(doc)[1:], *spare_pids(instance)]
        assert len(old) == 5
        with dpsup.connect(instance.name) as client:
            begin = time.monotonic()
            os.kill(doc["primary"]["pid"], signal.SIGKILL)
            wait_for(lambda old=old: not any(lives(pid) for pid in old), step=0.001)
            gone = time.monotonic() - begin
            wait_for(lambda c=client, g=i + 2: runs(c.status(), g))
            took.append((gone, time.monotonic() - begin))
        assert leftovers_of_generation(instance, i + 1) == []
    print("all gone, running again (s):", [(round(a, 3), round(b, 3)) for a, b in took])
    assert min(gone for gone, _ in took) < 5
    assert min(again for _, again in took) < 20


def runs(doc: dict[str, Any], generation: int) -> bool:
    return bool(doc["generation"] == generation and doc["state"] == "running")


def leftovers_of_generation(instance: Run, generation: int) -> list[str]:
    return [one for one in leftovers(instance.name) if f"{instance.name}-g{generation}" in one]


@pytest.mark.fault(15)
def test_primary_that_hangs_is_a_dead_one(instance: Run) -> None:
    instance.start(CALM)
    before = instance.status()
    os.kill(before["primary"]["pid"], signal.SIGSTOP)
    instance.until(lambda s: s["generation"] == 2 and s["state"] == "running")
    assert not any(lives(pid) for pid in data_plane(before))


@pytest.mark.fault(18, 47)
def test_seed_dies_with_the_supervisor_and_is_replaced(instance: Run) -> None:
    instance.start(CALM)
    before = instance.status()
    kill_supervisor(before)
    os.kill(before["seed"]["pid"], signal.SIGKILL)
    instance.start()
    after = instance.until(lambda s: s["seed"]["state"] == "running" and s)
    assert after["seed"]["pid"] != before["seed"]["pid"]
    assert [data_plane(after)[i] for i in (0, 2, 3)] == [data_plane(before)[i] for i in (0, 2, 3)]
    instance.do("scale", "fw", "3")
    assert instance.status()["groups"][0]["ready"] == 3


@pytest.mark.fault(47)
@pytest.mark.parametrize("primary_first", [True, pytest.param(False, marks=pytest.mark.long)])
def test_supervisor_and_primary_die_together(instance: Run, primary_first: bool) -> None:
    instance.start(CALM + "spares = 1\n")
    before = instance.until(lambda s: s["groups"][0]["spares_ready"] == 1 and s)
    old = [*data_plane(before), *spare_pids(instance)]
    victims = [before["primary"]["pid"], before["supervisor"]["pid"]]
    for pid in victims if primary_first else victims[::-1]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(lives(pid) for pid in old))
    instance.start()
    doc = instance.status()
    assert doc["generation"] == 2
    assert leftovers_of_generation(instance, 1) == []


def io_thread(pid: int) -> int:
    """The one that works: it has lcore 1."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        # rte-worker-1; from DPDK 23.11 on dpdk-worker1.
        if name.replace("-", "").endswith("worker1"):
            return int(task.name)
    raise AssertionError("no io core")


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("how", "headless"),
    [
        pytest.param("spins", False, marks=pytest.mark.long),
        ("is stopped", True),
        pytest.param("spins", True, marks=pytest.mark.long),
        pytest.param("is stopped", False, marks=pytest.mark.long),
    ],
)
def test_io_core_without_a_pulse_is_a_dead_primary(instance: Run, how: str, headless: bool) -> None:
    instance.start(NULL)
    before = instance.status()
    primary = before["primary"]["pid"]
    if headless:
        kill_supervisor(before)
    begin = time.monotonic()
    over = threading.Event()

    def stop() -> None:
        # A tracer is a thread, and what it stopped goes on when it ends.
        Traced(io_thread(primary))
        over.wait(60)

    holder = threading.Thread(target=stop)
    if how == "spins":
        Traced(io_thread(primary)).spin()
    else:
        holder.start()
    try:
        wait_for(lambda: not lives(primary))
        print(f"io core {how}: primary ended after {time.monotonic() - begin:.2f} s")
    finally:
        over.set()
        if holder.is_alive():
            holder.join()
    if headless:
        wait_for(lambda: not any(lives(pid) for pid in data_plane(before)))
        instance.start()
    doc = instance.until(lambda s: s["generation"] == 2 and s["state"] == "running" and s)
    assert doc["groups"][0]["ready"] == 2
    if not headless:
        log = json.loads(instance.do("logs", "primary", "-o", "json").stdout)
        assert any("io core 0 is stuck" in e["line"] for e in log)
