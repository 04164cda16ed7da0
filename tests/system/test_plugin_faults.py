# SPDX-License-Identifier: BSD-3-Clause
"""What a plugin does beside its packets: processes that it forks, priorities that it asks for. And
what other processes do to the seed and the primary."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from harness import CALM, PATIENCE, Run, at_rest, lives, supervisor, wait_for
from jobs import IO, build, group, pcap_port
from traffic import flows, mix, save

pytestmark = pytest.mark.beside

FORKS = """
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#include "dpsup_plugin.h"

/* Two children that live for ever: one in the worker's group, one in a session of its own. */
static int init(const struct dps_env *env, void **state)
{
	struct sched_param high = { .sched_priority = 50 };

	(void)env;
	(void)state;
	for (int i = 0; i < 2; i++)
		if (fork() == 0) {
			if (i == 1)
				setsid();
			for (int s = 1; s < 32; s++)
				signal(s, SIG_IGN);
			for (;;)
				pause();
		}
	/* It would run before all else on this CPU, the warden that ends it included. */
	sched_setscheduler(0, SCHED_FIFO, &high);
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "forks", .init = init, .packet = packet,
};
"""


# What the primary noted in the packet's header for itself: its port and its bucket.
HEADERS = """
#include <string.h>
#include <rte_mbuf.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	struct rte_mbuf *m = (void *)((char *)p->data - RTE_PKTMBUF_HEADROOM - sizeof(*m));

	(void)state;
	m->port = (uint16_t)(rte_rdtsc() | 0x8000);
	m->hash.fdir.hi = (uint32_t)(rte_rdtsc() * 2654435761u) | 0x8000;
	return rte_rdtsc() & 32 ? dps_on(0) : dps_on(1);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "headers", .packet = packet,
};
"""


def with_plugin(plugin: Path) -> str:
    text = CALM.replace('plugin = "macswap"', f'plugin = "{plugin}"')
    return "\n".join(line for line in text.splitlines() if not line.startswith("args"))


def dpdk() -> list[str]:
    words = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], check=True, capture_output=True, text=True
    )
    return words.stdout.split()


def children(pid: int) -> set[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(one) for one in text.split()}


def test_what_a_plugin_forks_has_no_packet_memory_and_ends_with_its_worker(instance: Run) -> None:
    def families(dead: set[int]) -> dict[int, set[int]]:
        """Two workers that are none of these, and the children of each."""

        def pids() -> set[int]:
            doc = instance.status()
            found = {w["pid"] for w in doc["groups"][0]["workers"] if w["pid"]}
            fine = doc["state"] == "running" and len(found) == 2 and not found & dead
            return found if fine else set()

        born = {pid: children(pid) for pid in wait_for(pids)}
        assert all(len(one) == 2 for one in born.values()), born
        return born

    instance.start(with_plugin(build(instance.folder, FORKS)))
    born = families(set())
    for child in set().union(*born.values()):
        assert "map_" not in Path(f"/proc/{child}/maps").read_text(), "it keeps hugepages"
    for pid in born:
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    first, second = born
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not any(lives(child) for child in born[first]))
    assert all(lives(child) for child in born[second])
    # Nor do they outlive the primary, whose death ends the seed too.
    born = families({first})
    os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
    wait_for(lambda: not any(lives(child) for one in born.values() for child in one))
    born = families({*born})
    instance.stop()
    wait_for(lambda: not any(lives(child) for one in born.values() for child in one))


@pytest.mark.parametrize("says", [b"", b"quit now", b"hello"])
def test_another_client_of_the_seed_is_in_nobodys_way(instance: Run, says: bytes) -> None:
    """The last one does say that it supervises: then the supervisor calls again."""
    instance.start(CALM)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            other.connect(f"/run/dpsup/{instance.name}/seed.sock")
            if says:
                other.send(says)
        before = instance.worker("fw/0")["pid"]
        os.kill(before, signal.SIGKILL)
        instance.until(
            lambda s: (
                s["groups"][0]["workers"][0]["pid"] not in (None, before)
                and s["state"] == "running"
            )
        )
    assert not [e for e in instance.events() if e["type"] == "error"]


@pytest.mark.fault(44)
def test_a_supervisor_that_reads_late_gets_every_word(instance: Run) -> None:
    """The seed keeps them while the socket is full, and takes no order meanwhile."""
    orders, sent = 3000, [0]
    instance.start(CALM)
    pid = supervisor(instance)
    with contextlib.ExitStack() as stack:
        # Cut off, it would call again, and be heard.
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        late = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        late.connect(f"/run/dpsup/{instance.name}/seed.sock")
        late.send(b"hello")

        def ask() -> None:
            for _ in range(orders):
                late.send(b"what")
                sent[0] += 1

        asking = threading.Thread(target=ask)
        asking.start()
        at_rest(lambda: sent[0])
        late.settimeout(PATIENCE)
        answers = 0
        while answers < orders:
            word = late.recv(128)
            if not word.startswith(b"log "):  # it hands over what its workers print, once
                assert word == b"refused order not understood"
                answers += 1
        asking.join()


def test_no_number_in_a_packets_header_leads_the_primary_astray(instance: Run) -> None:
    """It is an index of the primary's: any value is one."""
    flags = ["-include", "rte_cycles.h"]
    save(instance.folder / "wan.in.pcap", mix(flows(), 2000, seed=5))
    plugin = build(instance.folder, HEADERS, *dpdk(), *flags)
    second = group("sink", 1).replace('"fw"', '"last"').replace('input = ["wan"]\n', "")
    doc = instance.job(pcap_port() + IO + group(str(plugin), 2) + second)
    assert doc["received"] == 2000 and doc["in_flight"] == doc["lost"] == 0
    assert sum(doc["dropped"].values()) + doc["sent"] == 2000
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])


def test_a_primary_that_is_told_to_end_crashes_no_warden(instance: Run) -> None:
    instance.start(CALM)
    pid = instance.status()["primary"]["pid"]
    os.kill(pid, signal.SIGTERM)
    instance.until(lambda s: s["generation"] == 2 and s["state"] == "running")
    ends = [e for e in instance.events() if e["type"] == "exit" and e["name"] == "primary"]
    assert [e["how"] for e in ends] == ["exit 0"]


def test_many_deaths_at_once_lose_no_word_of_the_seed(instance: Run) -> None:
    text = CALM.replace("count = 2", "count = 32\nspares = 32").replace("max = 4", "max = 32")
    instance.start(text.replace("intensity = 100", "intensity = 100000"))
    instance.until(lambda s: s["groups"][0]["spares_ready"] == 32)
    seed = instance.status()["seed"]["pid"]
    for pid in children(seed):
        os.kill(pid, signal.SIGKILL)
    instance.until(lambda s: s["state"] == "running" and s["groups"][0]["spares_ready"] == 32)
    said = [e for e in instance.events() if e["type"] in ("error", "stranger", "seed")]
    assert not said, said
