# SPDX-License-Identifier: BSD-3-Clause
"""Least power: what a worker holds once its plugin is initialised, and what becomes of one whose
plugin asks the kernel for more. tests/c/test_confine.py has each call."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, Run, lives, wait_for
from jobs import IO, LOSSLESS, Job, accounted, build, death_events, group, out, pcap_port
from traffic import Packet, compare, flows, mix, save

from dpsup.plan import rights as of

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

IDLE = 'idle = "adaptive"\n'
CALLS = ("socket", "openat", "execve", "clone", "ptrace", "mmap")

# Makes each call of CALLS once in all, in the middle of a packet; with `always`, the first one each
# time. What has been done is in a file that init maps.
CURIOUS = """
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static volatile uint8_t *done;
static int always, seen;

static int init(const struct dps_env *env, void **state)
{
	int fd = open(dps_arg(env, "done"), O_RDWR);

	(void)state;
	done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	always = dps_arg_u64(env, "always", 0);
	return done == MAP_FAILED ? -1 : 0;
}

static void call(int which)
{
	switch (which) {
	case 0: socket(AF_INET, SOCK_DGRAM, 0); break;
	case 1: open("/etc/hostname", O_RDONLY); break;
	case 2: execl("/bin/true", "true", (char *)NULL); break;
	case 3: fork(); break;
	case 4: ptrace(PTRACE_ATTACH, getppid(), NULL, NULL); break;
	case 5: mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
	}
	done[64 + which] = 1;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	int which = 0;

	(void)state;
	p->data[0] ^= 0xff;
	if (++seen % 100 == 0) {
		while (which < 6 && done[which] != 0)
			which++;
		if (always)
			which = 0;
		if (which < 6) {
			done[which] = 1;
			call(which);
		}
	}
	p->data[0] ^= 0xff;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "curious", .rewrites = 14, .init = init, .packet = packet,
};
"""


def status_of(task: Path) -> dict[str, str]:
    lines = (task / "status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


PYTHON = """
from dpsup import plugin as dps


def packet(p):
    open("/etc/hostname")
    return dps.out(p.port)
"""


def start(instance: Run, packets: list[Packet], more: str, args: str = "", kind: str = "c") -> Job:
    save(instance.folder / "wan.in.pcap", packets)
    (instance.folder / "done").write_bytes(bytes(4096))
    plugin = instance.folder / "curious.py"
    plugin.write_text(PYTHON)
    if kind == "c":
        plugin = build(instance.folder, CURIOUS)
    args = f'done = "{instance.folder}/done"{args}'
    return Job(instance, pcap_port() + IO + IDLE + group(str(plugin), 1, args, more=more))


def refused(job: Job) -> list[dict[str, Any]]:
    return [e for e in death_events(job) if e.get("called")]


def test_a_call_ends_the_worker_and_blames_no_packet(instance: Run) -> None:
    """Each is named and counted, none is executed, and no packet is lost or in quarantine."""
    packets = mix(flows(), 5_000, seed=3)
    job = start(instance, packets, LOSSLESS)
    wait_for(lambda: len(refused(job)) == len(CALLS))
    # Each is told of once it is known how it ended.
    assert sorted(e["called"] for e in refused(job)) == sorted(CALLS)
    assert {e["how"] for e in refused(job)} == {"SIGSYS"}
    assert not [e for e in refused(job) if e.get("blamed")]
    recovery = job.instance.status()["recovery"]
    assert recovery["refused_calls"] == recovery["deaths"] == len(CALLS)
    (worker,) = job.instance.status()["groups"][0]["workers"]
    reasons = {f"called {call}(), which a worker may not" for call in CALLS}
    assert worker["last_exit"]["reason"] in reasons
    doc = job.end(len(packets))
    accounted(doc, len(packets))
    compare(packets, out(instance))
    did = (instance.folder / "done").read_bytes()
    assert did[:6] == b"\1" * 6 and did[64:70] == bytes(6)


@pytest.mark.parametrize("kind", ["c", "python"])
def test_one_that_goes_on_asking_is_held(instance: Run, kind: str) -> None:
    """Its packets wait: they are not the cause. In Python it is an exception that ends it."""
    packets = mix(flows(), 2_000, seed=4)
    more = 'on_full = "hold"\nrestart = { intensity = 2, backoff = { initial = "1ms" } }\n'
    job = start(instance, packets, more, ", always = 1", kind)
    wait_for(lambda: job.instance.status()["groups"][0]["workers"][0]["state"] == "held")
    status = job.instance.status()
    assert status["recovery"]["refused_calls"] == 3
    assert status["recovery"]["quarantined"] == 0


def test_what_a_worker_holds(shared: Run) -> None:
    """All threads of it, and of a spare: nothing."""
    group = shared.until(lambda s: s["groups"][0]["spares_ready"] and s["groups"][0])
    seed = shared.status()["seed"]["pid"]
    pids = Path(f"/proc/{seed}/task/{seed}/children").read_text().split()
    assert len(pids) == sum(w["pid"] is not None for w in group["workers"]) + 1
    for pid in map(int, pids):
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = status_of(task)
            held = {k: int(status[k], 16) for k in status if k.startswith("Cap")}
            assert held == dict.fromkeys(held, 0)
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert lives(pid)


POWERS = """
tables = { routes = { kind = "ipv4", entries = 100 } }
"""


def test_each_process_keeps_what_its_task_takes(instance: Run) -> None:
    """All threads of each, exactly, of what this test has; and so does the next generation."""
    own = int(status_of(Path("/proc/self"))["CapPrm"], 16)
    instance.start(CALM + POWERS)
    plan = json.loads(Path(f"/run/dpsup/{instance.name}/plan.json").read_text())
    lists = {
        "primary": of.primary(plan), "seed": of.seed(plan), "builder": of.builder(),
        "supervisor": of.supervisor(plan),
    }  # fmt: skip
    assert lists["seed"] == set() and lists["primary"] == {of.SYS_NICE, of.SYS_PTRACE}

    def check(name: str, pid: int, kept: int) -> None:
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = status_of(task)
            assert status["NoNewPrivs"] == "1", name
            for kind in ("Prm", "Eff", "Bnd"):
                assert int(status[f"Cap{kind}"], 16) & own == kept & own, (name, task, kind)

    def look() -> None:
        status = instance.until(lambda s: s["state"] == "running" and s)
        for name, kept in lists.items():
            check(name, status[name]["pid"], of.mask(kept))

    look()
    dead = instance.status()["primary"]["pid"]
    os.kill(dead, signal.SIGKILL)
    instance.until(lambda s: s["primary"]["pid"] not in (dead, None) and s["state"] == "running")
    look()
