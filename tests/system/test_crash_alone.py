# SPDX-License-Identifier: BSD-3-Clause
"""Law 10: what supervises may crash alone. A fault at every action of the state machine, at every
wait and at the entry of every part: forwarding goes on, each packet comes out once and in order,
one adoption follows, and the instance is what it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import raising as points
import sweeping
from harness import NULL, Run, leftovers, wait_for
from jobs import build
from netns import sh
from ptrace import Traced
from sweeping import (
    RAISING,
    STIMULI,
    Fault,
    NotReached,
    Stimulus,
    Sweep,
    one_fault,
    raising,
    running,
)
from sweeping import with_adoption as adopting

import dpsup
from dpsup.supervisor import fsm

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

Case = tuple[Stimulus, list[Fault]]

STUCK = [{"point": "action seed.spawn", "how": "stop", "times": 1}]
# Every action that a running instance can meet while its primary lives.
ACTIONS: list[Case] = [
    (sweeping.all_die, raising("action worker.fork")),
    (sweeping.all_die, raising("action worker.feed")),
    (sweeping.all_die, raising("action worker.repair")),
    (sweeping.all_die, raising("action worker.wait")),
    (sweeping.all_die, raising("action worker.rebucket")),
    (sweeping.all_die, raising("action topology.announce")),
    (sweeping.worker_dies, raising("action worker.succeed")),
    (sweeping.restarted, raising("action worker.unfeed")),
    (sweeping.restarted, raising("action worker.halt")),
    (sweeping.held, raising("action worker.say")),
    (sweeping.held_and_scaled, raising("action worker.rebucket")),
    (sweeping.hangs, raising("action worker.kill")),
    (sweeping.seed_dies, raising("action seed.replace")),
    (sweeping.seed_dies, raising("action seed.spawn")),
    (sweeping.seed_dies, raising("action seed.fill")),
    (sweeping.spare_dies, adopting(["action topology.rejoin"])),
    (sweeping.spare_dies, adopting(["action topology.opened"])),
    (sweeping.spare_dies, adopting(["action worker.await"])),
]
# Half a minute: a seed that does not attach is given time.
STICKS: list[Case] = [(sweeping.seed_sticks, STUCK + raising("action seed.kill"))]
PARTS: list[Case] = [
    (sweeping.spare_dies, adopting(["entry Rejoin.begin"])),
    (sweeping.spare_dies, adopting(["entry Children.meet"])),
    (sweeping.spare_dies, adopting(["entry Supervisor.adopt"])),
    (sweeping.spare_dies, raising("entry Sitters.fork")),
    (sweeping.spare_dies, raising("entry Spares.refill")),
    (sweeping.scaled, raising("entry Buckets.steer")),
    (sweeping.scaled, raising("entry Life.judge")),
    (sweeping.scaled, raising("entry Scaler.scale")),
    (sweeping.all_die, raising("entry Workers.decide")),
    (sweeping.worker_dies, raising("entry Deaths.read_stories")),
    (sweeping.looked_at, raising("entry Monitor.observe")),
    (sweeping.looked_at, raising("entry Attach.read_locks")),
    (sweeping.looked_at, raising("verb stats")),
    (sweeping.rolled_out, raising("entry Rollouts.begin")),
    (sweeping.rolled_out, raising("action worker.succeed")),
    (sweeping.reloaded, raising("entry Reload.reload")),
    (sweeping.spare_dies, raising("entry Seed.fork")),
    (sweeping.looked_at, raising("entry PluginFiles.compare")),
    (sweeping.looked_at, raising("listener event 0", "listener event 1", "listener event 2")),
    (sweeping.rolled_out, raising("wait disk.read")),
    (sweeping.table_changed, raising("entry Tables.ask")),
    (sweeping.table_changed, raising("sleep Tables._keep_one")),
    (sweeping.seed_dies, raising("entry Tables.laid_out")),
    (
        sweeping.looked_at,
        raising(
            "entry Outputs.observe",
            "entry KernelPaths.observe",
            "entry Ports.observe",
            "entry Follower.observe",
            "entry Notices.observe",
            "entry BadVerdicts.observe",
            "entry UndeclaredWrites.observe",
            "entry Stall.observe",
            "entry Pinning.observe",
            "entry Failovers.hear",
        ),
    ),
    (sweeping.spare_dies, raising("entry Numbers.reserve")),
    (sweeping.rolled_out, raising("entry Rollout.start")),
    (sweeping.metrics_die, raising("sleep keep")),
    (sweeping.spare_dies, adopting(["entry metrics_process.keep"])),
    (sweeping.spare_dies, adopting(["entry gate_process.keep"])),
    (sweeping.spare_dies, adopting(["entry Watch.run"])),
    # Of each kind of wait one; the long sweep goes through all of them.
    (sweeping.all_die, raising("insist prepare")),
    (sweeping.worker_dies, raising("until Deaths._successor")),
    (sweeping.restarted, raising("sleep Workers._unfeed")),
]
# Of a group that follows the kernel's routes.
FOLLOWED: list[Case] = [
    (sweeping.follow_dies, raising("until keep")),
    (sweeping.follow_dies, raising("sleep keep")),
    (sweeping.spare_dies, adopting(["entry group_process.keep"])),
]
PRIMARY = [
    "action primary.sweep", "action primary.report", "action worker.forget",
    "action topology.again", "action primary.spawn", "action primary.announce",
]  # fmt: skip
# Of one instance each: the point of its start, and that of its end.
ENDS = [
    ("action topology.begin", "action topology.wind_down"),
    ("action primary.spawn", "action seed.quit"),
    ("action primary.announce", "action seed.report"),
    ("action worker.fork", "action primary.quit"),
    ("action topology.open", "action topology.finish"),
]
AT_START = "action primary.kill"


def go_through(s: Sweep, cases: list[Case], tries: int = 20) -> None:
    for stimulus, faults in cases:
        took = one_fault(s, stimulus, faults, tries)
        print(f"{took:5.1f} s  {s.phase}", flush=True)


def leads(s: Sweep, case: Case) -> bool:
    """Go through it; False where it does not lead to its point this time."""
    try:
        go_through(s, [case], tries=3)
    except NotReached:
        s.arm("nothing")
        return False
    return True


def test_each_action_is_in_the_sweep() -> None:
    swept = {f["point"] for _, faults in ACTIONS + STICKS for f in faults}
    swept |= {*PRIMARY, AT_START, *(point for pair in ENDS for point in pair)}
    table = {f"action {kind}.{name}" for kind, names in fsm.ACTIONS.items() for name in names}
    assert table <= swept


# Parts without a point among PARTS, and why.
ELSEWHERE = {
    "Change": "it compares, for Watch",
    "Generation": "PRIMARY: it acts where a primary starts or dies",
    "Histogram": "it only adds up, for Failovers",
    "Keeper": "packets in quarantine: test_life.py",
    "rollout": "its function is called as one of Rollout's",
}


def test_each_part_is_in_the_sweep() -> None:
    """A new part is found in the code; it lacks a stimulus here that leads to it."""
    swept = {f["point"] for _, faults in PARTS + FOLLOWED for f in faults}
    found = {
        name for name, (_, entries) in points.parts().items()
        if any(f"entry {name}.{entry}" in swept for entry in entries)
    }  # fmt: skip
    assert points.parts().keys() - found == ELSEWHERE.keys()


def test_a_fault_at_each_action(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        go_through(s, ACTIONS)
        s.end()


@pytest.mark.long
def test_a_fault_while_a_seed_does_not_attach(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        go_through(s, STICKS)
        s.end()


def test_a_fault_in_each_part(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        go_through(s, PARTS)
        s.end()


def test_a_fault_in_what_follows_the_kernel(instance: Run) -> None:
    netns = f"dps{os.getpid()}n0f"
    text = sweeping.TOPOLOGY
    tables = 'routes = { kind = "ipv4", value = "hop", entries = 64 },'
    tables += ' hops = { kind = "array", value = "port+mac", entries = 4 },'
    for old, new in (
        ('name = "lan"\n', f'name = "lan"\nkernel = {{ netns = "{netns}" }}\n'),
        ("tables = { seen", f'follow = "kernel"\ntables = {{ {tables} seen'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    sh("ip", "netns", "add", netns)
    try:
        # Its kernel sends no frames of its own into the port.
        sh("ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        with running(Sweep(instance, text)) as s:
            wait_for(s.following)
            go_through(s, FOLLOWED)
            wait_for(lambda: len(s.following()) == 1)
            sh("ip", "-n", netns, "route", "add", "blackhole", "10.0.0.0/8")
            shown = lambda: s.ask(lambda one: one.table_get("ids/routes", "10.0.0.0/8"))  # noqa: E731
            assert "blackhole" in wait_for(shown)
            s.end()
    finally:
        sh("ip", "netns", "del", netns)


def test_a_fault_while_the_primary_is_replaced(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        go_through(s, [(sweeping.primary_dies, raising(point)) for point in PRIMARY])
        s.end(one_generation=False)


@pytest.mark.parametrize(("first", "last"), ENDS)
def test_a_fault_at_the_start_and_at_the_end(instance: Run, first: str, last: str) -> None:
    s = Sweep(instance)
    begun = s.arm("start", raising(first))
    s.start()
    s.until_whole()
    assert s.fired(begun)
    ended = s.arm("stop", raising(last))
    s.ask(lambda one: one.stop(1))
    code, errors = s.ended()
    assert s.fired(ended)
    assert code == 1, errors
    assert "internal error" in errors
    assert wait_for(lambda: not leftovers(instance.name)), leftovers(instance.name)


def primaries(instance: Run) -> list[int]:
    found = []
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = words.read_bytes()
            if b"dpsup.primary" in text and f"/{instance.name}/".encode() in text:
                found.append(int(words.parent.name))
    return found


def test_a_fault_where_a_start_is_given_up(instance: Run) -> None:
    s = Sweep(instance)
    ids = s.arm("start", raising(AT_START))
    s.start()
    # It stands still: later it would be wound down in order.
    os.kill(wait_for(lambda: primaries(instance), step=0.001)[0], signal.SIGSTOP)
    wait_for(lambda: "action primary.spawn" in s.reached("start"), step=0.005)
    process = instance.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    code, errors = s.ended()
    assert s.fired(ids)
    assert code == 1, errors
    assert wait_for(lambda: not leftovers(instance.name)), leftovers(instance.name)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_fault_at_every_point(instance: Run) -> None:
    """All that is reached, found by a run without faults."""
    with running(Sweep(instance)) as s:
        known: dict[str, list[Case]] = {}
        for stimulus in STIMULI:
            s.arm(stimulus.__name__)
            stimulus(s)
            s.settle()
            for point in s.reached(s.phase):
                known.setdefault(point, []).append((stimulus, raising(point)))
        one_fault(s, sweeping.spare_dies, raising("entry Spares.died"))
        for point in s.reached(s.phase):
            known.setdefault(point, [(sweeping.spare_dies, adopting([point]))])
        print(f"{len(known)} points")
        failed, missed = [], []
        for point, cases in known.items():
            try:
                if not any(leads(s, case) for case in cases):
                    missed.append(point)
            except AssertionError as e:
                failed.append(f"{point}: {e}")
                s.arm("nothing")
                s.settle()
        s.end()
        assert not failed, "\n".join(failed)
        # Those that only a race leads to.
        assert len(missed) * 20 <= len(known), missed


# --- one by one -----------------------------------------------------------------------------------


REFUSES = """
#include <sys/stat.h>
#include <unistd.h>
#include "dpsup_plugin.h"

/* Says what no worker says, wherever somebody may listen. */
static int init(const struct dps_env *env, void **state)
{
	const char line[] = "REFUSED abc\\n";
	const char half[] = "half";
	struct stat st;

	(void)env;
	*state = NULL;
	for (int fd = 3; fd < 4096; fd++) {
		if (fstat(fd, &st) != 0 || !S_ISFIFO(st.st_mode))
			continue;
		for (int i = 0; i < 1000; i++)
			if (write(fd, line, 12) < 0)
				return -1;
		if (write(fd, half, 4) < 0)
			return -1;
	}
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "odd", .init = init, .packet = packet,
};
"""


def test_a_line_of_a_plugin_that_cannot_be_read(instance: Run) -> None:
    build(instance.folder, REFUSES)
    text = NULL.replace('"macswap"', '"./evil.so"').replace("args =", "#") + "spares = 1\n"
    instance.start(text)
    doc = instance.until(lambda s: s["groups"][0]["spares_ready"] == 1 and s)
    for worker in doc["groups"][0]["workers"]:
        if worker["pid"]:
            os.kill(worker["pid"], signal.SIGKILL)
    after = instance.until(lambda s: s["state"] == "running" and s["recovery"]["deaths"] == 2 and s)
    assert after["supervisor"] == doc["supervisor"]
    assert not [e for e in instance.events() if e["type"] == "fault"]
    said = [e["message"] for e in instance.events() if e["type"] == "skipped"]
    assert said and all("'half'" in message for message in said), said


def test_a_fault_in_each_watcher_of_the_counters(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        wait_for(lambda: "watcher quarantine" in s.reached("start"))  # the last one of a look
        points = sorted({p for p in s.reached("start") if p.startswith("watcher ")})
        assert len(points) >= 4
        ids = s.arm("watchers", raising(*points))
        wait_for(lambda: s.fired(ids) == set(ids))
        wait_for(lambda: {f"watcher {e['name']}" for e in s.faulted()} == set(points))

        def told() -> int:
            lines = s.ask(lambda one: one.logs("supervisor")) or []
            return sum("Traceback" in e["line"] for e in lines)

        wait_for(lambda: told() >= len(points))
        assert told() == len(points)
        sweeping.worker_dies(s)
        s.settle()
        assert s.started() == 1
        s.end()


@pytest.mark.fault(26)
def test_a_full_disk(instance: Run) -> None:
    folder = instance.folder / "run"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "none", folder], check=True)
    try:
        where = folder / instance.name
        text = sweeping.TOPOLOGY
        s = Sweep(instance, text)
        file = instance.file.read_text()
        instance.file.write_text(file.replace("[host]", f'[host]\nruntime_dir = "{where}"'))
        with running(s):
            with (
                (folder / "full").open("wb", buffering=0) as full,
                pytest.raises(OSError, match="space"),
            ):
                while True:
                    full.write(bytes(4096))
            for _ in range(3):
                sweeping.all_die(s)
                s.settle()
            events = s.ask(lambda one: one.events())
            assert [e for e in events if e["type"] == "error" and "cannot write" in e["message"]]
            assert not [e for e in events if e["type"] == "fault"]
            assert s.started() == 1
            (folder / "full").unlink()
            s.end()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_supervisor_that_fails_too_often_leaves_the_data_plane_alone(instance: Run) -> None:
    s = Sweep(instance, policy="usual")
    with running(s):
        primary = s.status()["primary"]["pid"]
        s.arm("too often", raising("entry Spares.died") + raising("entry Rejoin.begin", times=99))
        sweeping.spare_dies(s)
        code, errors = s.ended()
        assert code == 1, errors
        assert "failed too often" in errors
        out = instance.folder / "wan.out.pcap"
        size = out.stat().st_size
        wait_for(lambda: out.stat().st_size > size + 10_000)
        with dpsup.connect(instance.name) as one:
            assert one.headless
        s.arm("again")
        s.start("-o", "json")
        s.until_whole()
        assert s.status()["primary"]["pid"] == primary
        s.end()


def test_a_fault_in_a_detached_start_is_told_once(instance: Run) -> None:
    s = Sweep(instance)
    ids = s.arm("start", raising("action worker.feed"))
    argv = [sys.executable, "-P", RAISING, str(s.folder), "start", str(instance.file), "--detach"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert s.fired(ids)
    s.until_whole()
    pid = s.status()["supervisor"]["pid"]
    said = [line for line in done.stderr.splitlines() if "supervisor pid" in line]
    assert said == [f"{instance.name} is running, supervisor pid {pid}"]


@pytest.mark.fault(46)
def test_sigterm_between_two_supervisors_is_not_lost(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        ids = s.arm("sigterm", raising("entry Spares.died"))
        sweeping.spare_dies(s)
        wait_for(lambda: s.fired(ids), step=0.001)
        process = instance.process
        assert process is not None
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code, errors = s.ended()
        assert code == 0, errors
    assert wait_for(lambda: not leftovers(instance.name)), leftovers(instance.name)


@pytest.mark.fault(15)
def test_a_primary_that_hangs_and_forwards_is_left_alone(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        primary = s.status()["primary"]["pid"]
        # Its main thread, which answers; not its io cores.
        python = Traced(primary)
        said = "does not answer, but its io cores forward"
        try:
            wait_for(lambda: [e for e in s.ask(lambda one: one.events()) or [] if said in str(e)])
        finally:
            python.let_go()
        s.settle()
        assert s.status()["primary"]["pid"] == primary
        sweeping.worker_dies(s)
        s.settle()
        assert s.started() == 1
        s.end()


def times(s: Sweep, ids: list[str]) -> int:
    return sum(e["id"] in ids for e in s.noted("fired"))


def test_a_primary_that_refuses_is_left_alone(instance: Run) -> None:
    with running(Sweep(instance)) as s:
        primary = s.status()["primary"]["pid"]
        for point in ("ask map", "ask lane", "ask takeovers"):
            ids = s.arm(point, raising(point, how="refuse", times=3))

            def all_three(ids: list[str] = ids) -> bool:
                return times(s, ids) == 3

            def refused(done: Callable[[], bool] = all_three) -> bool:
                for n in (3, 2):  # a worker that lacks what was refused is waited for by nobody
                    s.ask(lambda one, n=n: one.scale("fw", n, wait=False))
                    # The map changes for a worker that is ready, not for one that is on its way.
                    s.until(lambda n=n: done() or s.status()["groups"][0]["ready"] == n, 5)
                sweeping.worker_dies(s)
                return s.until(done, 1)

            wait_for(refused)
            # One whose lanes were refused would wait for them until its deadline.
            workers = s.status()["groups"][0]["workers"]
            s.kill(*(w["pid"] for w in workers if w["state"] == "starting"))
            s.settle()
        assert s.status()["primary"]["pid"] == primary
        assert s.started() == 1
        s.end()
