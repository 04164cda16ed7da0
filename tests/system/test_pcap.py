# SPDX-License-Identifier: BSD-3-Clause
"""pcap in, pcap out: whatever happens to the workers, every packet arrives once, as it should be,
in order within its flow.

Over 600 lines: with three plugins in C, which only these tests need.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import jobs
import pytest
from harness import PATIENCE, Run, run, seed, wait_for
from jobs import (
    FREE,
    IO,
    JUMBO,
    LOSSLESS,
    ONCE,
    SLOW,
    TOILS,
    Job,
    accounted,
    deaths,
    group,
    out,
    pcap_port,
    read_of,
    save_queues,
)
from traffic import (
    Flow,
    Packet,
    compare,
    flows,
    mix,
    save,
    swapped,
    write_pcap,
)

# A busy machine must not fail what is right but slow.
pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]


@pytest.fixture(scope="module")
def some_flows() -> list[Flow]:
    return flows(jumbo=JUMBO + 18)


@pytest.fixture
def packets(some_flows: list[Flow]) -> list[Packet]:
    return mix(some_flows, 60_000, seed=1)


# --- undisturbed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_packet_comes_out_as_it_went_in(
    instance: Run, packets: list[Packet], workers: int
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    doc = instance.job(pcap_port() + IO + group("forward", workers))
    accounted(doc, len(packets))
    compare(packets, out(instance))


def test_macs_are_swapped_exactly_once(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    doc = instance.job(pcap_port() + IO + group("macswap", 3))
    accounted(doc, len(packets))
    compare(packets, out(instance), swapped)


def test_two_ports_are_cross_connected(instance: Run, packets: list[Packet]) -> None:
    there, back = packets[::2], packets[1::2]
    save(instance.folder / "wan.in.pcap", there)
    save(instance.folder / "lan.in.pcap", back)
    workers = group("forward", 2, 'map = { wan = "lan", lan = "wan" }')
    workers = workers.replace('input = ["wan"]', 'input = ["wan", "lan"]')
    doc = instance.job(pcap_port() + pcap_port("lan") + IO + workers)
    accounted(doc, len(packets))
    compare(there, out(instance, "lan.out"))
    compare(back, out(instance))


def test_two_io_cores_share_the_workers(instance: Run, packets: list[Packet]) -> None:
    save_queues(instance, packets)
    doc = instance.job(pcap_port(inputs=2) + '[[io]]\ncores = "0-1"\n' + group("macswap", 3))
    accounted(doc, len(packets))
    compare(packets, out(instance), swapped)


def test_two_io_cores_each_with_a_queue_to_send_on(instance: Run, packets: list[Packet]) -> None:
    parts = save_queues(instance, packets)
    doc = instance.job(
        pcap_port(inputs=2, outputs=2) + '[[io]]\ncores = "0-1"\n' + group("macswap", 2)
    )
    accounted(doc, len(packets))
    compare(parts[0], out(instance), swapped)
    compare(parts[1], out(instance, "wan.out1"), swapped)


@pytest.mark.parametrize("cores", ["1", "0-1"])
def test_the_smallest_pool_loses_nothing_where_lanes_hold(
    instance: Run, some_flows: list[Flow], cores: str
) -> None:
    """Lanes can hold more than there are mbufs: the input is not read while they are short."""
    sent = mix(some_flows, 10_000, seed=2)
    save_queues(instance, sent)
    port = pcap_port(inputs=2, outputs=2) + "descriptors = { rx = 32, tx = 32 }\n"
    instance.write(port + f'[[io]]\ncores = "{cores}"\n' + group("delay", 3, "cycles = 2000"))

    def pool(mbufs: int) -> None:
        text = instance.file.read_text()
        instance.file.write_text(
            re.sub("mbufs = .*", f"mbufs = {mbufs}\ncache = 32", text, count=1)
        )

    pool(64)
    least = re.search(r"needs at least (\d+)", run("check", str(instance.file)).stderr)
    assert least, "check accepts a pool of 64"
    instance.file.write_text(instance.file.read_text().replace("\ncache = 32", ""))
    pool(int(least[1]))
    done = run("start", str(instance.file), "--exit-when-idle", "500ms", "-o", "json")
    assert done.returncode == 0, done.stderr
    accounted(json.loads(done.stdout), len(sent))
    compare(sent, [*out(instance), *out(instance, "wan.out1")])


# --- size and shape -------------------------------------------------------------------------------


def test_what_is_too_long_or_cut_is_counted_by_its_reason(instance: Run) -> None:
    most = 1500 + 14 + 2 * 4  # an MTU's packet with two VLAN tags

    def frame(size: int) -> bytes:
        return bytes(12) + b"\x88\xb5" + bytes(size - 14)

    fine = [frame(size) for size in (most - 1, most)]
    oversize = [frame(size) for size in (most + 1, 9018, 65535)]
    # Beyond 64 KiB the driver announces more than it delivers.
    truncated = [b"", frame(80_066), frame(131_072)]
    write_pcap(instance.folder / "wan.in.pcap", [*oversize, *truncated, *fine])
    instance.start(pcap_port(mtu=1500) + IO + group("forward", 1))
    status = instance.until(lambda s: s["ports"][0]["tx_packets"] == len(fine) and s)
    dropped = status["ports"][0]["dropped"]
    assert status["ports"][0]["rx_packets"] == len(fine) + 6
    assert dropped == {"oversize": 3, "truncated": 3}
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.stop()
    assert list(out(instance)) == fine


def build(folder: Path, name: str, source: str) -> Path:
    """Compile a plugin against the installed header."""
    flags = run("version", "--cflags", check=True).stdout.split()
    file = folder / f"{name}.c"
    file.write_text(source)
    made = folder / f"{name}.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = ["cc", "-shared", "-fPIC", "-O2", *warnings, *flags, str(file), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


# Writes what it was told about a packet over the packet's first bytes.
FACTS = """
#include <dpsup_plugin.h>

struct facts {
	uint32_t hash, total, sum;
	uint16_t vlan;
	uint8_t port, has_vlan, is_late, has_next;
};
static uint64_t *count;
static uint64_t last;
static uint64_t minute;

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	count = env->counters;
	minute = 60 * env->tsc_hz;
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	struct facts f = {
		.hash = p->hash,
		.total = p->total,
		.vlan = p->has_vlan ? p->vlan : 0,
		.port = p->port,
		.has_vlan = p->has_vlan,
		.is_late = p->tsc < last || __builtin_ia32_rdtsc() - p->tsc > minute,
	};
	const void *segment = NULL;
	const uint8_t *bytes = p->data;
	uint32_t n = p->len;

	(void)state;
	last = p->tsc;
	count[0]++;
	do {
		for (uint32_t i = 0; i < n; i++)
			f.sum = f.sum * 31 + bytes[i];
		n = dps_next_segment(p, &segment, &bytes);
		f.has_next |= n > 0;
	} while (n > 0);
	count[1] += f.has_next;
	if (p->len < sizeof(f))
		return dps_drop(1);
	memcpy(p->data, &f, sizeof(f));
	return dps_out(p->port);
}

static const char *const counters[] = { "seen", "segmented", NULL };
static const char *const reasons[] = { "unused", "short", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "facts",
	.needs = DPS_PLUGIN_VLAN | DPS_PLUGIN_TIMESTAMP | DPS_PLUGIN_HASH,
	.rewrites = sizeof(struct facts), .reasons = reasons, .counters = counters,
	.init = init, .packet = packet,
};
"""
FACTS_OF = struct.Struct("=IIIHBBBB2x")


def byte_sum(frame: bytes) -> int:
    value = 0
    for byte in frame:
        value = (value * 31 + byte) & 0xFFFFFFFF
    return value


def test_plugin_sees_all_bytes_hash_vlan_and_time(instance: Run, some_flows: list[Flow]) -> None:
    sent = mix(some_flows, 2_000, seed=3)
    # The other direction of some flows.
    for packet in sent[:]:
        if packet.flow.startswith(("tcp4 ", "udp6 ")):
            sent.append(Packet(f"back {packet.flow}", backwards(packet.frame)))
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, "facts", FACTS)
    instance.start(pcap_port() + IO + group(str(plugin), 1))
    short = sum(len(p.frame) < FACTS_OF.size for p in sent)
    instance.until(lambda s: s["ports"][0]["tx_packets"] == len(sent) - short)
    worker = instance.worker("fw/0")
    assert worker["dropped"] == {"short": short}
    segmented = sum(len(p.frame) > 2048 for p in sent)
    assert worker["counters"] == {"seen": len(sent), "segmented": segmented}
    instance.stop()
    hashes: dict[str, set[int]] = {}
    # One worker keeps the order of all packets.
    long_enough = [p for p in sent if len(p.frame) >= FACTS_OF.size]
    for packet, frame in zip(long_enough, out(instance), strict=True):
        told = FACTS_OF.unpack_from(frame)
        hash_, total, sum_, vlan, port, has_vlan, is_late, has_next = told
        assert frame[FACTS_OF.size :] == packet.frame[FACTS_OF.size :]
        assert (total, sum_) == (len(packet.frame), byte_sum(packet.frame)), packet.flow
        tagged = packet.frame[12:14] in (b"\x81\x00", b"\x88\xa8")
        tag = struct.unpack_from(">H", packet.frame, 14)[0] if tagged else 0
        assert (has_vlan, vlan) == (tagged, tag), packet.flow
        assert (port, is_late, has_next) == (0, 0, len(packet.frame) > 2048)
        hashes.setdefault(packet.flow, set()).add(hash_)
    assert {flow for flow, seen in hashes.items() if len(seen) > 1} == set()
    for flow, seen in hashes.items():
        if flow.startswith("back "):
            assert seen == hashes[flow.removeprefix("back ")], "the key is symmetric"
    assert len(set.union(*hashes.values())) > len(hashes) / 2


def backwards(frame: bytes) -> bytes:
    """The other direction of an untagged TCP or UDP packet: addresses and ports exchanged."""
    at, size = (26, 4) if frame[12:14] == b"\x08\x00" else (22, 16)
    ends = [frame[at : at + size], frame[at + size : at + 2 * size]]
    ports = at + 2 * size
    return (
        frame[:at] + ends[1] + ends[0]
        + frame[ports + 2 : ports + 4] + frame[ports : ports + 2] + frame[ports + 4 :]
    )  # fmt: skip


# --- verdicts -------------------------------------------------------------------------------------

# Does with the n-th packet what its seventh byte says.
VERDICTS = """
#include <dpsup_plugin.h>

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	switch (p->data[6]) {
	case 1: p->data += 4; p->len -= 4; return dps_out(0);
	case 2: p->data -= 4; p->len += 4; memcpy(p->data, "pre", 4); return dps_out(0);
	case 3: p->len += 10; memcpy(p->data + p->len - 10, "appended..", 10); return dps_out(0);
	case 4: p->len = 0; return dps_out(0);
	case 5: p->data -= 1000; return dps_out(0);
	case 6: p->len = 60000; return dps_out(0);
	case 7: return dps_out(9);
	case 8: return dps_on(9);
	case 9: return 0xffff;
	case 10: return 0x4000;
	case 11: return dps_drop(7);
	case 12: return dps_quarantine();
	}
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "verdicts", .rewrites = 200, .prepends = 4, .packet = packet,
};
"""


def test_every_verdict_is_carried_out_or_counted(instance: Run) -> None:
    """Also those that no sound plugin gives: nothing that a worker says can hurt."""

    def frame(what: int) -> bytes:
        return bytes([2, 0, 0, 0, 0, 1, what, 0, 0, 0, 0, 2]) + b"\x88\xb5" + bytes(range(100))

    write_pcap(instance.folder / "wan.in.pcap", [frame(what) for what in range(14)])
    plugin = build(instance.folder, "verdicts", VERDICTS)
    instance.start(pcap_port() + IO + group(str(plugin), 1))

    def dropped(status: dict[str, Any]) -> dict[str, int]:
        found: dict[str, int] = status["groups"][0]["workers"][0]["dropped"]
        return found

    status = instance.until(
        lambda s: sum(dropped(s).values()) + s["ports"][0]["tx_packets"] == 14 and s
    )
    assert dropped(status) == {"bad_verdict": 7, "reason_7": 1, "quarantine": 1}
    instance.until(lambda s: s["recovery"]["quarantined"] == 1)
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.stop()
    shapes = [frame(0), frame(1)[4:], b"pre\0" + frame(2), frame(3) + b"appended..", frame(13)]
    assert list(out(instance)) == shapes


# Sends packets on to the group that its argument names.
ON = """
#include <dpsup_plugin.h>

static int next;

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	next = dps_group(env, dps_arg(env, "to"));
	return next < 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	(void)p;
	return dps_on(next);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "on", .init = init, .packet = packet,
};
"""


def test_a_chain_of_groups_keeps_order(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, "on", ON)
    # The second one is the slower: it holds the first one back, and that the port.
    second = (
        group("delay", 2, "cycles = 10000, rewrite = true")
        .replace('"fw"', '"swap"')
        .replace('["wan"]', "[]")
    )
    doc = instance.job(pcap_port() + IO + group(str(plugin), 2, 'to = "swap"') + second)
    accounted(doc, len(packets))
    compare(packets, out(instance), swapped)


def test_packets_that_go_in_circles_are_counted(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets[:1000])
    plugin = build(instance.folder, "on", ON)
    doc = instance.job(pcap_port() + IO + group(str(plugin), 2, 'to = "fw"'))
    accounted(doc, 1000, dropped=1000)
    assert doc["dropped"] == {"hop_limit": 1000}


# --- while workers come and go --------------------------------------------------------------------


def test_scaling_keeps_order(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {4 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, most=3))
    for i, n in enumerate((3, 2, 1, 3, 1, 2)):
        job.until_sent(1500 * (i + 1))
        job.instance.scale("fw", n)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    doc, received = job.cut(packets)
    accounted(doc, len(received))
    assert doc["deaths"] == 0
    compare(received, out(instance), swapped)


@pytest.mark.long
def test_rolling_restart_keeps_order(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {2 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 3, args))
    for i in range(4):
        job.until_sent(len(packets) * (i + 1) // 10)
        job.instance.restart()
    assert job.sent() < len(packets), "the run was too short to prove anything"
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] == 0
    compare(packets, out(instance), swapped)


def kill_often(job: Job, kills: int, seed: int) -> None:
    """SIGKILL busy workers at random, with some packets in between."""
    rng = random.Random(seed)
    dead: set[int] = set()
    for i in range(kills):
        due = 50 * i

        def victims(due: int = due) -> list[int]:
            status = job.instance.status()
            workers = status["groups"][0]["workers"]
            if status["ports"][0]["tx_packets"] < due:
                return []
            return [w["pid"] for w in workers if w["pid"] not in dead and w["outstanding"]
                    and w["state"] == "running"]  # fmt: skip

        pid = rng.choice(wait_for(victims, step=0.003))
        os.kill(pid, signal.SIGKILL)
        dead.add(pid)
        if i % 20 == 0:
            job.events()
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == kills)


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    ("cores", "workers", "kills", "size"), [("1", 3, 120, 120_000), ("0-1", 2, 50, 60_000)]
)
def test_kills_lose_nothing_and_change_nothing_twice(
    instance: Run, some_flows: list[Flow], cores: str, workers: int, kills: int, size: int
) -> None:
    number = seed()
    packets = mix(some_flows, size, number)
    queues = save_queues(instance, packets)
    # So dear that packets are left for all the kills on a fast machine with many CPUs too.
    args = f"cycles = {5 * SLOW}, rewrite = true"
    text = pcap_port(inputs=2, outputs=1) + f'[[io]]\ncores = "{cores}"\n'
    job = Job(instance, text + group("delay", workers, args))
    kill_often(job, kills, number)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    everybody = job.instance.status()["groups"][0]["workers"]
    assert all(w["tx_packets"] > 0 for w in everybody), "some had nothing to do"
    audit = job.instance.audit()
    assert [p["unexplained"] for p in audit["pools"]] == [0]
    found = deaths(job.events())
    print(found)
    assert found.total == kills
    assert found.in_hand > kills // 10
    assert found.published > 0
    assert found.undone > 0
    doc, _ = job.cut(packets, 500)
    received = read_of(queues, out(instance), swapped)
    accounted(doc, len(received))
    assert doc["deaths"] == kills
    compare(received, out(instance), swapped)


@pytest.mark.fault(10)
def test_all_workers_killed_at_once(instance: Run, packets: list[Packet]) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {5 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 3, args))
    rounds = 12

    def all_run() -> list[int]:
        workers = job.instance.status()["groups"][0]["workers"]
        there = all(w["state"] == "running" for w in workers)
        return [w["pid"] for w in workers] if there else []

    for i in range(rounds):
        job.until_sent(500 * (i + 1))
        for pid in wait_for(all_run, step=0.005):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == 3 * (n + 1), step=0.005)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    doc, received = job.cut(packets, 1000)
    accounted(doc, len(received))
    assert doc["deaths"] == 3 * rounds
    compare(received, out(instance), swapped)


@pytest.mark.fault(47)
@pytest.mark.long
def test_deaths_in_a_row_keep_order(instance: Run, packets: list[Packet]) -> None:
    """The next one dies while it still has what the first one left, and more of that waits."""
    save(instance.folder / "wan.in.pcap", packets)
    slowly = LOSSLESS.replace("1ms", "100ms") + "spares = 0\n"
    args = f"cycles = {2 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 3, args, more=slowly))

    def worker(name: str) -> dict[str, Any]:
        workers = job.instance.status()["groups"][0]["workers"]
        return next(w for w in workers if w["id"] == name)

    def busy() -> list[dict[str, Any]]:
        """The one with the fullest lane last, the next one before it, if that has work too."""
        workers = job.instance.status()["groups"][0]["workers"]
        workers.sort(key=lambda w: w["outstanding"])
        all_run = all(w["state"] == "running" for w in workers)
        return workers[1:] if all_run and workers[1]["outstanding"] > 100 else []

    rounds = 5
    for i in range(rounds):
        first, second = wait_for(busy, step=0.005)
        os.kill(first["pid"], signal.SIGKILL)
        name, before = first["id"], first["requeued"]
        wait_for(lambda name=name, n=before: worker(name)["requeued"] > n, step=0.002)
        os.kill(second["pid"], signal.SIGKILL)
        job.until_sent(len(packets) * (i + 1) // (rounds + 5))
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] == 2 * rounds
    compare(packets, out(instance), swapped)


@pytest.mark.long
@pytest.mark.parametrize("cores", ["1", "0-1"])
def test_kills_while_workers_come_and_go(instance: Run, some_flows: list[Flow], cores: str) -> None:
    rng = random.Random(seed())
    packets = mix(some_flows, 60_000, seed)
    save_queues(instance, packets)
    text = pcap_port(inputs=2) + f'[[io]]\ncores = "{cores}"\n'
    job = Job(instance, text + group("delay", 2, f"cycles = {4 * SLOW}, rewrite = true", most=4))
    rounds = 0
    # The rest of the traffic is for the last orders to be carried out.
    while (sent := job.sent()) < len(packets) * 6 // 10:
        rounds += 1
        workers = job.instance.status()["groups"][0]["workers"]
        alive = [w["pid"] for w in workers if w["pid"] is not None]
        for pid in rng.sample(alive, rng.randrange(len(alive) + 1)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if rng.random() < 0.5:
            job.instance.scale("fw", rng.randint(1, 4), wait=rng.random() < 0.5)
        elif rng.random() < 0.3:
            job.instance.restart()
        job.until_sent(sent + len(packets) // 60)
    print(f"rounds {rounds}")
    assert rounds >= 5, "the run was too short to prove anything"
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] > 0
    compare(packets, out(instance), swapped)


# Puts a VLAN tag in: moves the addresses into the headroom, and takes its time in between.
TAG = """
#include <dpsup_plugin.h>

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (p->len < 14)
		return dps_out(p->port);
	memmove(p->data - 4, p->data, 12);
	for (uint64_t since = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - since < 2000000;)
		;
	memcpy(p->data + 8, "\\x81\\x00\\x00\\x2a", 4);
	p->data -= 4;
	p->len += 4;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "tag", .rewrites = 12, .prepends = 4, .packet = packet,
};
"""


def tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x2a" + frame[12:] if len(frame) >= 14 else frame


def test_kills_of_a_plugin_that_moves_the_start_of_packets(instance: Run) -> None:
    packets = mix(flows(), 40_000, seed=4)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, "tag", TAG)
    job = Job(instance, pcap_port(mtu=1500) + IO + group(str(plugin), 2))
    kill_often(job, 40, seed=4)
    assert deaths(job.events()).undone > 0
    doc, received = job.cut(packets, 500)
    accounted(doc, len(received))
    compare(received, out(instance), tagged)


@pytest.mark.long
def test_what_a_held_worker_had_goes_on_with_the_next_one(
    instance: Run, packets: list[Packet]
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    args = f"cycles = {SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 2, args, more=ONCE.format(intensity=0)))
    job.until_sent(1000)
    for worker in ("fw/0", "fw/1"):
        job.instance.kill(worker)

    def held(status: dict[str, Any]) -> bool:
        return all(w["state"] == "held" for w in status["groups"][0]["workers"])

    wait_for(lambda: held(job.instance.status()))
    job.instance.restart("fw/0")
    accounted(job.end(len(packets)), len(packets))
    compare(packets, out(instance), swapped)


@pytest.mark.fault(2)
@pytest.mark.parametrize("how", ["segv", "abort", "exit"])
def test_crashes_lose_nothing(instance: Run, packets: list[Packet], how: str) -> None:
    """Each worker ends at its 3000th packet, which the next one then handles as its first."""
    save(instance.folder / "wan.in.pcap", packets)
    doc = instance.job(pcap_port() + IO + group("crash", 3, f'how = "{how}", at = 3000'))
    accounted(doc, len(packets))
    assert doc["deaths"] >= len(packets) // 3000 - 3
    compare(packets, out(instance))


@pytest.mark.fault(30)
def test_without_hold_what_is_dropped_is_counted_and_the_rest_is_in_order(
    instance: Run, packets: list[Packet]
) -> None:
    save(instance.folder / "wan.in.pcap", packets)
    drop = LOSSLESS.replace('"hold"', '"drop"')
    doc = instance.job(pcap_port() + IO + group("crash", 2, "at = 200", more=drop))
    dropped = sum(doc["dropped"].values())
    accounted(doc, len(packets), dropped)
    assert dropped > 0
    assert doc["deaths"] > 0
    assert doc["dropped"].keys() <= {"lane_full", "hold_full", "no_worker"}
    compare(packets, out(instance), missing=dropped)


def test_workers_are_held_one_after_the_other_and_the_last_does_it_all(
    instance: Run, some_flows: list[Flow]
) -> None:
    """3 workers, 4 lives each, 99 packets a life: who is held hands what it has to the others."""
    sent = mix(some_flows, 3 * 4 * 99 - 30, seed=6)
    save(instance.folder / "wan.in.pcap", sent)
    workers = group("crash", 3, "at = 100", more=ONCE.format(intensity=3))
    accounted(doc := instance.job(pcap_port() + IO + workers), len(sent))
    assert doc["deaths"] >= 8
    compare(sent, out(instance))


def test_a_packet_that_always_crashes_its_worker_costs_its_own_group_only(
    instance: Run, packets: list[Packet]
) -> None:
    """By an exit, which is no evidence against it: its worker is held, the others go on."""
    bad = mix(flows(1), 300, seed=5)
    poison = bytes(14) + b"this one is poison"
    packets = packets[:20_000]
    save(instance.folder / "wan.in.pcap", packets)
    write_pcap(instance.folder / "lan.in.pcap", [p.frame for p in bad[:200]] + [poison] * 3)
    how = 'how = "exit", match = "is poison"'
    crash = group("crash", 1, how, more=ONCE.format(intensity=3))
    crash = crash.replace('"fw"', '"ids"').replace('["wan"]', '["lan"]')
    enough = instance.folder / "enough"
    toils = jobs.build(instance.folder, TOILS.replace("FILE", str(enough)))
    instance.start(pcap_port() + pcap_port("lan") + IO + group(str(toils), 2) + FREE + crash)
    status = instance.until(
        lambda s: s["groups"][1]["workers"][0]["state"] == "held" and s, timeout=PATIENCE
    )
    assert status["state"] == "degraded"
    assert status["recovery"]["deaths"] == 4
    assert status["groups"][1]["workers"][0]["last_exit"]["code"] == 1
    assert status["ports"][1]["tx_packets"] == 200
    assert status["ports"][0]["tx_packets"] < len(packets), "the run was too short"
    held = [e for e in instance.events() if e["type"] == "held"]
    assert [e["name"] for e in held] == ["ids/0"]
    enough.touch()
    status = instance.until(lambda s: s["ports"][0]["tx_packets"] == len(packets) and s)
    assert status["in_flight"] == 3
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.do("stop", "--drain", "100ms")
    compare(packets, out(instance))
    compare(bad[:200], out(instance, "lan.out"))
