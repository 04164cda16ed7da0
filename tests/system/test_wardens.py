# SPDX-License-Identifier: BSD-3-Clause
"""How deaths are noticed and repaired without the supervisor: leases, what they may claim falsely,
crashes, and the primary's own lease."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from statistics import median
from typing import Any

import pytest
from harness import NULL, PATIENCE, Run, wait_for
from jobs import (
    FREE,
    IO,
    LOSSLESS,
    SLOW,
    Job,
    accounted,
    build,
    death_events,
    find_busy,
    group,
    out,
    pcap_port,
    spare_pids,
)
from traffic import Packet, compare, flows, mix, save

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]
NO_SPARES = LOSSLESS + "spares = 0\n"


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 40_000, seed=11)


def test_a_kill_is_noticed_by_the_lease_before_the_process_is_gone(
    instance: Run, packets: list[Packet]
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    slow = f"cycles = {5 * SLOW}"
    job = Job(instance, pcap_port() + IO + group("delay", 1, slow, more=NO_SPARES))
    gone: list[int] = []

    def sooner() -> list[int]:
        """By how much each was noticed before it was gone."""
        found = death_events(job)
        return [at - e["times"]["noticed_ns"] for at, e in zip(gone, found, strict=True)]

    # Where others use the CPUs, the warden may have to wait for one now and then.
    while len(gone) < 20 or median(sooner()) <= 0:
        pid = find_busy(job)
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([pidfd], [], [])
        gone.append(time.monotonic_ns())
        os.close(pidfd)
        wait_for(lambda: job.instance.status()["recovery"]["deaths"] == len(gone))
        assert len(gone) < 200, sooner()
    found = death_events(job)
    assert {e["notice"] for e in found} == {"lease"}
    assert all(e["times"]["noticed_ns"] <= e["times"]["repaired_ns"] for e in found)
    doc, received = job.cut(packets, 500)
    accounted(doc, len(received))
    compare(received, out(instance))


# Does something to its own lease at its 500th packet, and goes on; the plugin's counters lie in the
# same struct.
SCRIBBLE = """
#include <signal.h>
#include <unistd.h>
#include <sys/syscall.h>
#include "dpsup.h"
#include "dpsup_plugin.h"

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
	for (volatile int i = 0; i < 20000; i++)
		;
	if (++seen == 500) {
		void **head;
		size_t len;

		syscall(SYS_get_robust_list, 0, &head, &len);
		%s
	}
	// So slow that its end comes long before that of the packets.
	if (seen >= 500)
		usleep(1000);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "scribble", .init = init, .packet = packet,
};
"""


FAKE = "*(uint32_t *)me->lease = 0x41414141;"
GIVEN_BACK = "*(uint32_t *)me->lease = 0;"
FAKE_MARK = "*(uint32_t *)me->lease = 0x40000000;"
NO_LIST = "*head = head; kill(getpid(), SIGKILL);"
WILD_LIST = "*head = (void *)8; kill(getpid(), SIGKILL);"


@pytest.mark.parametrize(
    ("act", "notice", "spares"),
    [
        # A word that pthread_mutex_lock would take for a death, of a thread that goes on.
        pytest.param(FAKE, "doubt", 0, id="a fake, no spare"),
        pytest.param(FAKE, "doubt", 1, id="a fake"),
        pytest.param(GIVEN_BACK, "doubt", 0, id="given back, no spare", marks=pytest.mark.long),
        pytest.param(GIVEN_BACK, "doubt", 1, id="given back"),
        # The kernel's own mark: what it says of the thread counts.
        pytest.param(FAKE_MARK, "doubt", 0, id="a fake mark, no spare"),
        pytest.param(FAKE_MARK, "doubt", 1, id="a fake mark", marks=pytest.mark.long),
        # The kernel's list is empty, or leads nowhere: it says nothing.
        pytest.param(NO_LIST, "pidfd", 0, id="no list, no spare"),
        pytest.param(NO_LIST, "pidfd", 1, id="no list", marks=pytest.mark.long),
        pytest.param(WILD_LIST, "pidfd", 0, id="a wild list, no spare", marks=pytest.mark.long),
        pytest.param(WILD_LIST, "pidfd", 1, id="a wild list"),
    ],
)
def test_notices_that_are_false_or_do_not_come(
    instance: Run, packets: list[Packet], act: str, notice: str, spares: int
) -> None:
    save(instance.folder / "wan.in.pcap", packets[:5_000])
    plugin = build(instance.folder, SCRIBBLE.replace("%s", act))
    more = LOSSLESS + FREE + f"spares = {spares}\n"
    job = Job(instance, pcap_port() + IO + group(str(plugin), 1, more=more))
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] >= 4)
    assert {e["notice"] for e in death_events(job)} == {notice}
    accounted(job.end(5_000), 5_000)
    compare(packets[:5_000], out(instance))


@pytest.mark.fault(2)
@pytest.mark.parametrize(("how", "name"), [("segv", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_leaves_its_signal_address_and_backtrace(
    instance: Run, packets: list[Packet], how: str, name: str
) -> None:
    save(instance.folder / "wan.in.pcap", packets[:3000])
    args = f'how = "{how}", at = 1000'
    job = Job(instance, pcap_port() + IO + group("crash", 1, args, more=NO_SPARES))
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] >= 2)
    for death in death_events(job):
        assert death["how"] == name
        assert death["notice"] == "lease"
        assert death["address"] == "0x0"
        assert len(death["backtrace"]) > 3
        assert death["times"]["died_ns"] <= death["times"]["noticed_ns"]
    # Its words come by a pipe.
    wait_for(lambda: any("worker_loop" in e["line"] for e in job.instance.logs(name="fw/0")))
    accounted(job.end(3000), 3000)
    compare(packets[:3000], out(instance))


# Crashes at its 300th packet, with a lot of memory that goes into a core file.
CORE = """
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static char *volatile memory;
static int seen;

static int init(const struct dps_env *env, void **state)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	size_t len = 200 << 20;

	(void)state;
	memory = malloc(len);
	memset(memory, 7, len);
	return chdir(dps_arg(env, "in")) || setrlimit(RLIMIT_CORE, &all);
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (++seen == 300)
		abort();
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "core", .init = init, .packet = packet,
};
"""


def test_core_dumps_hold_nobody_up(instance: Run, packets: list[Packet]) -> None:
    """The kernel stops threads on their way out for a dump, if it begins first: several tries."""
    save(instance.folder / "wan.in.pcap", packets[:6000])
    folder = instance.folder / "cores"
    folder.mkdir()
    plugin = build(instance.folder, CORE)
    args = f'in = "{folder}"'
    instance.start(pcap_port() + IO + group(str(plugin), 1, args))
    instance.until(lambda s: s["ports"][0]["tx_packets"] >= 2000)
    found: list[dict[str, Any]] = []

    def is_sooner() -> bool:
        """Where others use the CPUs, the warden may have to wait for one now and then."""
        found[:] = [e for e in instance.events() if e["type"] == "death"]
        times = [e["times"] for e in found]
        waits = [t["noticed_ns"] - t["died_ns"] for t in times]
        dumps = [t["gone_ns"] - t["died_ns"] for t in times if "gone_ns" in t]
        return len(found) >= 6 and (not dumps or median(waits) < max(dumps) / 2)

    wait_for(is_sooner)
    assert {e["notice"] for e in found} == {"lease"}

    # The kernel removes the one before first; on a busy machine one may be ended before its dump.
    def size() -> int:
        with contextlib.suppress(FileNotFoundError):
            return (folder / "core").stat().st_size
        return 0

    wait_for(lambda: size() > 1 << 20)


# Its watcher hears nothing from the primary's pidfd.
DEAF = """
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static int init(const struct dps_env *env, void **state)
{
	(void)env;
	(void)state;
	for (int fd = 3; fd < 64; fd++) {
		char path[64], to[64] = "";
		int never[2];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (readlink(path, to, sizeof(to) - 1) > 0 && strstr(to, "pidfd") != NULL)
			return pipe(never) || dup2(never[0], fd) < 0;
	}
	return 1;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "deaf", .init = init, .packet = packet,
};
"""


@pytest.mark.fault(38)
def test_workers_and_spares_leave_when_the_primarys_lease_is_free(instance: Run) -> None:
    plugin = build(instance.folder, DEAF)
    # net_null feeds as fast as it is polled: the workers are busy when it happens.
    text = re.sub(r"args = .*\n", "", NULL.replace('"macswap"', f'"{plugin}"'))
    instance.start(text)
    status = instance.until(lambda s: s["groups"][0]["spares_ready"] == 1 and s)
    workers = [w["pid"] for w in status["groups"][0]["workers"]]
    pids = [*workers, *spare_pids(instance), status["seed"]["pid"]]
    assert len(pids) == len(set(pids)) == 4
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        # Nobody else may end them.
        os.kill(status["supervisor"]["pid"], signal.SIGKILL)
        os.kill(status["primary"]["pid"], signal.SIGKILL)
        for fd in fds:
            assert select.select([fd], [], [], PATIENCE)[0], "it lives on without its primary"
    finally:
        for fd in fds:
            os.close(fd)
