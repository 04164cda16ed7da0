# SPDX-License-Identifier: BSD-3-Clause
"""A plugin with another state_version: each packet counted once, whoever dies in the rollout."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from pathlib import Path

import pytest
from harness import Run, dies, supervisor
from jobs import IO, SLOW, group, pcap_port
from system.test_state import TIME, build, slow_down
from traffic import flows, mix, save

import dpsup

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

PACKETS = 12_000
# Version 2 has wider counters. Each knows the other, with BACK.
SOURCE = (
    TIME
    + """
#include <dpsup_plugin.h>

#if VERSION == 1
typedef uint32_t mine;
typedef uint64_t theirs;
#else
typedef uint64_t mine;
typedef uint32_t theirs;
#endif
struct counts { mine packets[4]; };
struct counts_of_the_other { theirs packets[4]; };

static int bucket_migrate(const void *old, uint32_t old_size, uint32_t old_version, void *fresh)
{
	const struct counts_of_the_other *from = old;
	struct counts *to = fresh;

	if (REFUSES || old_version != 3 - VERSION || old_size != sizeof(*from))
		return -1;
	for (int i = 0; i < 4; i++)
		to->packets[i] = from->packets[i];
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	struct counts *counts = p->bucket_state;
	mine *count = &counts->packets[p->hash >> 30];

	(void)state;
	dps_touch(count, sizeof(*count));
	++*count;
	for (uint64_t since = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - since < *cycles;)
		;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "counts", .packet = packet, .bucket_state_size = sizeof(struct counts),
	.state_version = VERSION, .bucket_migrate = KNOWS ? bucket_migrate : 0,
};
"""
)


def version(folder: Path, number: int, *, knows: bool = True, refuses: bool = False) -> str:
    source = SOURCE.replace("VERSION", str(number)).replace("KNOWS", str(int(knows)))
    kept = build(folder, source.replace("REFUSES", str(int(refuses))))
    return str(kept.rename(folder / f"v{number}{knows:d}{refuses:d}.so"))


def counted(instance: Run) -> tuple[int, set[int]]:
    """Packets over all buckets, and the versions of their blocks."""
    total, versions = 0, set()
    with dpsup.connect(instance.name) as live:
        doc = live.state("fw")
    for block in doc["buckets"]:
        form = {1: "=4I", 2: "=4Q"}[block["version"]]
        total += sum(struct.unpack(form, bytes.fromhex(block["hex"])))
        versions.add(block["version"])
    return total, versions


def begun(instance: Run, first: str, more: str = 'bucket_state = "auto"\n') -> None:
    save(instance.folder / "wan.in.pcap", mix(flows(), PACKETS, seed=3))
    slow_down(instance.folder, 5 * SLOW)
    instance.start(pcap_port() + IO + group(first, 2) + f"spares = 1\n{more}")
    instance.until(lambda s: s["ports"][0]["tx_packets"] > 500)


def rolled(instance: Run, plugin: str, *more: str, code: int = 0) -> str:
    options = ("--plugin", plugin, "--judge", "0s", "--wait", *more)
    done = instance.do("rollout", "fw", *options, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout)


def at_the_end(instance: Run) -> tuple[int, set[int]]:
    slow_down(instance.folder, 0)
    instance.until(lambda s: s["ports"][0]["tx_packets"] == PACKETS)
    return counted(instance)


def test_each_packet_is_counted_once_over_versions_and_deaths(instance: Run) -> None:
    one, two = (version(instance.folder, n) for n in (1, 2))
    begun(instance, one)
    # A rollout with deaths in it may be done, or taken back: either way nothing is lost.
    instance.do("rollout", "fw", "--plugin", two, "--judge", "0s")
    for _ in range(3):
        workers = instance.status()["groups"][0]["workers"]
        for pid in (w["pid"] for w in workers if w["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        instance.until(lambda s: all(w["pid"] for w in s["groups"][0]["workers"]))
    dies(supervisor(instance))
    instance.start()
    instance.until(lambda s: s["groups"][0]["rollout"]["phase"] == "idle")
    instance.until(lambda s: s["groups"][0]["ready"] == 2)
    rolled(instance, two)
    instance.do("rollout", "undo", "fw")
    assert at_the_end(instance)[0] == PACKETS
    instance.stop()


def test_what_would_be_forgotten_is_said_and_kept(instance: Run) -> None:
    one, two = version(instance.folder, 1, knows=False), version(instance.folder, 2, knows=False)
    begun(instance, one)
    # A bucket is taken over when a packet comes: some must be left to come.
    slow_down(instance.folder, 50 * SLOW)
    said = rolled(instance, two, code=1)
    assert "it would forget the state of" in said and "--forget-state" in said
    # Nor is one taken whose migrate refuses; what it left is put back.
    refuses = version(instance.folder, 2, refuses=True)
    assert "its migrate refuses" in rolled(instance, refuses, code=1)
    # What the new version had counted meanwhile is not in what was put back.
    assert 0 < at_the_end(instance)[0] <= PACKETS
    rolled(instance, two, "--forget-state")
    instance.stop()


def test_without_room_for_both_it_says_what_to_reserve(instance: Run) -> None:
    one, two = (version(instance.folder, n) for n in (1, 2))
    begun(instance, one, "bucket_state = 32\n")
    assert 'bucket_state = 64, or "auto"' in rolled(instance, two, code=1)
    assert at_the_end(instance) == (PACKETS, {1})
    instance.stop()
