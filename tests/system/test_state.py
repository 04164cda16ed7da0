# SPDX-License-Identifier: BSD-3-Clause
"""State that outlives a process: each packet counted exactly once, whoever is killed or moved."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import LONG, Run, run, wait_for
from jobs import IO, SLOW, Job, deaths, group, out, pcap_port, save_queues
from ptrace import Gone, Traced, executed
from traffic import Packet, compare, flows, mix, save

EXAMPLE = Path(__file__).parents[2] / "workers" / "examples" / "count_flows.c"
STEPS = 12_000  # single steps that see a few whole bursts
STATE = '\nstate = 64\nbucket_state = "2KiB"\n'
TWO_IO = '[[io]]\ncores = "0-1"\n'

pytestmark = [pytest.mark.timeout(1800), pytest.mark.beside]

# So many TSC cycles as the file "cycles" says at that time.
TIME = """
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>

static const volatile uint64_t *cycles;

__attribute__((constructor)) static void find_cycles(void)
{
	cycles = mmap(0, 8, PROT_READ, MAP_SHARED, open(FOLDER "/cycles", O_RDONLY), 0);
}
"""
# The example as users copy it, and time for a kill between its changes and the verdict.
SLOWLY = TIME + EXAMPLE.read_text().replace(
    "	return dps_out(p->port);",
    """	for (uint64_t since = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - since < *cycles;)
		;
	return dps_out(p->port);""",
)


def slow_down(folder: Path, cycles: int) -> None:
    with (folder / "cycles").open("r+b" if (folder / "cycles").exists() else "wb") as f:
        f.write(cycles.to_bytes(8, "little"))


def build(folder: Path, source: str) -> Path:
    """Against the installed header. The file is replaced: who has the old one loaded keeps it."""
    flags = run("version", "--cflags", check=True).stdout.split()
    (folder / "plugin.c").write_text(source)
    made = folder / "plugin.so"
    new = folder / "plugin.so.new"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    command.append(f'-DFOLDER="{folder}"')
    slow_down(folder, SLOW)
    subprocess.run([*command, *flags, str(folder / "plugin.c"), "-o", str(new)], check=True)
    new.rename(made)
    return made


class Live(Job):
    """A job that stays when its input is at its end, to be asked what it keeps."""

    def __init__(self, instance: Run, text: str) -> None:
        super().__init__(instance, text, idle="600s")

    def until_idle(self, packets: int) -> dict[str, Any]:
        self.until_sent(packets)
        wait_for(lambda: self.instance.status()["state"] == "running")
        return self.instance.state("fw")

    def stop(self) -> dict[str, Any]:
        self.instance.stop()
        return self.end()


# --- what the example counts ----------------------------------------------------------------------

FLOW = struct.Struct("=Q4s4s2s2sI")
OTHERS = struct.Struct("=Q")
PLACE = struct.Struct("=QQ")


def flow_of(frame: bytes) -> tuple[bytes, ...] | None:
    """As the example tells flows apart; None: it does not."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
        return None
    header = (frame[14] & 0x0F) * 4
    protocol, fragment = frame[23], frame[20] & 0x3F or frame[21]
    ports = frame[14 + header : 18 + header]
    if protocol not in (6, 17) or fragment or len(ports) < 4:
        ports = bytes(4)
    return frame[26:30], frame[30:34], ports[:2], ports[2:], bytes([protocol])


def flows_in(block: dict[str, Any]) -> Iterator[tuple[tuple[bytes, ...], int]]:
    data = bytes.fromhex(block["hex"])
    for packets, *key, protocol in FLOW.iter_unpack(data[OTHERS.size :]):
        if packets:
            yield (*key, bytes([protocol])), packets


def with_new_flows(packets: list[Packet], each: int) -> list[Packet]:
    """The first packet of a new flow after every so many."""
    frame = next(p.frame for p in packets if p.flow == "udp4 0")
    mixed = []
    for i, packet in enumerate(packets):
        mixed.append(packet)
        if i % each == each - 1:
            address = (0x0B000000 + i).to_bytes(4, "big")
            mixed.append(Packet(f"new {i}", frame[:26] + address + frame[30:]))
    return mixed


def counted_once(state: dict[str, Any], status: dict[str, Any], sent: Sequence[Packet]) -> None:
    """By bucket, by worker, and in the plugin's counters."""
    expected = Counter(flow_of(p.frame) for p in sent)
    others = expected.pop(None)
    found: Counter[tuple[bytes, ...] | None] = Counter()
    untold = 0
    for bucket in state["buckets"]:
        untold += OTHERS.unpack_from(bytes.fromhex(bucket["hex"]))[0]
        for flow, packets in flows_in(bucket):
            # Without ports, what is no sound header is steered by more than these addresses.
            assert flow not in found or flow[2:4] == (bytes(2), bytes(2)), "in two buckets"
            found[flow] += packets
    wrong = {f: (n, found[f]) for f, n in expected.items() if found[f] != n}
    assert not wrong, f"{len(wrong)} flows of {len(expected)}: {list(wrong.items())[:5]}"
    assert set(found) == set(expected)
    assert untold == others
    seen = [PLACE.unpack(bytes.fromhex(w["hex"]))[0] for w in state["workers"]]
    assert sum(seen) == len(sent)
    counters: Counter[str] = Counter()
    for worker in status["groups"][0]["workers"]:
        counters.update(worker["counters"])
    assert counters == {"packets": len(sent) - others, "untold": others}


def test_a_kill_before_any_instruction_counts_each_packet_once(instance: Run) -> None:
    packets = with_new_flows(mix(flows(), 200_000, seed=5), 25)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, SLOWLY)
    slow_down(instance.folder, 20 * SLOW)
    # Under the stepping a packet takes long.
    late = 'health = { stall_after = "60s" }\n'
    job = Live(instance, pcap_port() + IO + group(str(plugin), 1) + STATE + late)
    dead: set[int] = set()

    def busy() -> int:
        worker = job.instance.status()["groups"][0]["workers"][0]
        fresh = worker["state"] == "running" and worker["pid"] not in dead
        return worker["pid"] if fresh and worker["outstanding"] else 0

    def victim() -> int:
        pid = wait_for(busy, step=0.001)
        dead.add(pid)
        return pid

    addresses = executed(victim(), STEPS)
    rng = random.Random(5)
    hit = 0
    aimed = addresses * 3 if LONG else addresses[rng.randrange(8) :: 8]
    for address in aimed:
        traced = Traced(victim())
        with contextlib.suppress(Gone):
            hit += traced.run_to(address, rng.choice([1, 1, rng.randint(2, 64)]), 0.2)
        traced.kill()
        if len(dead) % 20 == 0:
            job.events()
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == len(dead))
    found = deaths(job.events())
    print(f"{len(aimed)} kills, {hit} where aimed, {found}")
    assert job.sent() < len(packets), "the run was too short to prove anything"
    # A bucket is opened once, a new flow comes now and then: those instructions are soon rare.
    assert hit > len(aimed) // 3
    assert found.undone > 0
    slow_down(instance.folder, 0)
    state = job.until_idle(len(packets))
    counted_once(state, job.instance.status(), packets)
    job.stop()
    compare(packets, out(instance))


@pytest.mark.parametrize(
    "io",
    [
        pytest.param(IO, id="one io core", marks=pytest.mark.long),
        pytest.param(TWO_IO, id="two io cores"),
    ],
)
def test_counts_move_with_their_flows(instance: Run, io: str) -> None:
    """1 -> 4 -> 2 with random kills all the while."""
    rng = random.Random(6)
    packets = mix(flows(), 120_000, seed=6)
    two = io == TWO_IO
    if two:
        save_queues(instance, packets)
    else:
        save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, SLOWLY)
    inputs = pcap_port(inputs=1 + two)
    # So dear that packets are left for all steps on a fast machine with many CPUs too.
    slow_down(instance.folder, 5 * SLOW)
    job = Live(instance, inputs + io + group(str(plugin), 1, most=4) + STATE)
    kills = 0
    for step, n in enumerate((4, 2, 3, 1, 4, 2)):
        job.until_sent(2000 * (step + 1))
        job.instance.scale("fw", n, wait=False)
        for _ in range(6):
            workers = job.instance.status()["groups"][0]["workers"]
            pids = [w["pid"] for w in workers if w["pid"] and w["outstanding"]]
            with contextlib.suppress(ProcessLookupError):
                if pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    kills += 1
            job.until_sent(job.sent() + 100)
        job.events()
    assert job.sent() < len(packets), "the run was too short to prove anything"
    slow_down(instance.folder, 0)
    state = job.until_idle(len(packets))
    found = deaths(job.events())
    print(f"{kills} kills, {found}")
    assert found.undone > 0
    counted_once(state, job.instance.status(), packets)
    assert len({b["member"] for b in state["buckets"]}) > 1
    doc = job.stop()
    assert (doc["lost"], doc["in_flight"]) == (0, 0)
    compare(packets, out(instance))


# --- the move -------------------------------------------------------------------------------------

# Who had the bucket last, and how often that changed. Without dps_touch: nobody is killed here.
OWNERS = (
    TIME
    + """
#include <dpsup_plugin.h>

struct bucket { uint64_t packets, owner, changes; };
static const struct dps_env *env;

static void seated(void *state, const struct dps_env *e) { (void)state; env = e; }

static uint16_t packet(void *state, struct dps_packet *p)
{
	struct bucket *b = p->bucket_state;
	uint64_t packets = b->packets;
	uint64_t since = __builtin_ia32_rdtsc();

	(void)state;
	while (__builtin_ia32_rdtsc() - since < *cycles)
		;
	b->packets = packets + 1;
	b->changes += b->owner != env->worker + 1;
	b->owner = env->worker + 1;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "owners", .packet = packet, .seated = seated,
	.bucket_state_size = sizeof(struct bucket),
};
"""
)


def test_a_bucket_has_one_owner_at_a_time_over_all_io_cores(instance: Run) -> None:
    """All flows arrive at both io cores: as long as one of them has packets of a bucket out with
    its old worker, the other one must not lend to the new one."""
    # Few flows, and more packets between two moves than lanes hold: each move is seen.
    packets = mix(flows()[:32], 100_000, seed=7)
    save(instance.folder / "wan.in.pcap", packets[::2])
    save(instance.folder / "wan.in1.pcap", packets[1::2])
    plugin = build(instance.folder, OWNERS)
    slow_down(instance.folder, 5 * SLOW)
    more = group(str(plugin), 1, most=2) + "\nbucket_state = 24\nring = 256\n"
    job = Live(instance, pcap_port(inputs=2) + TWO_IO + more)
    steps = 0
    while steps < 10:
        job.instance.scale("fw", 1 + (steps + 1) % 2)
        steps += 1
        job.until_sent(job.sent() + 1500)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    slow_down(instance.folder, 0)
    state = job.until_idle(len(packets))
    blocks = [struct.unpack("=QQQ", bytes.fromhex(b["hex"])) for b in state["buckets"]]
    print(f"{steps} steps, at most {max(b[2] for b in blocks)} changes")
    assert max(b[2] for b in blocks) > 2, "no bucket moved to and fro"
    assert max(b[2] for b in blocks) <= steps + 1
    assert sum(b[0] for b in blocks) == len(packets)
    doc = job.stop()
    assert (doc["lost"], doc["in_flight"]) == (0, 0)


@pytest.mark.fault(9, 41)
@pytest.mark.long
def test_a_move_comes_to_its_end_without_supervisor(instance: Run) -> None:
    """A stopped worker lends its buckets out, but keeps what it has in hand; then the supervisor
    dies, then the worker: its warden alone gives back what held the move up."""
    packets = mix(flows(), 40_000, seed=8)
    save_queues(instance, packets)
    plugin = build(instance.folder, SLOWLY)
    slow_down(instance.folder, 10 * SLOW)
    more = group(str(plugin), 2) + "spares = 0\n" + STATE
    instance.start(pcap_port(inputs=2) + TWO_IO + more)

    def sent() -> int:
        return instance.status()["ports"][0]["tx_packets"]

    wait_for(lambda: sent() > 1000)
    status = instance.status()
    victim = status["groups"][0]["workers"][1]["pid"]
    before = instance.events()[-1]["seq"]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: any(e["type"] == "steer" and e["seq"] > before for e in instance.events()))
    os.kill(status["supervisor"]["pid"], signal.SIGKILL)
    instance.until(lambda s: s["supervisor"]["pid"] is None)
    assert sent() < len(packets)
    slow_down(instance.folder, 0)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: sent() == len(packets))
    assert instance.status()["in_flight"] == 0
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.do("stop")
    compare(packets, out(instance))


# --- whose it is ----------------------------------------------------------------------------------

PLAIN = """
#include <dpsup_plugin.h>

struct block { uint64_t packets; MORE };
static struct block *block;
static uint64_t *count;

static void seated(void *state, const struct dps_env *env)
{
	(void)state;
	block = env->state;
	count = env->counters;
	count[env->warm]++;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	dps_touch(&block->packets, 8);
	block->packets++;
	LESS
	return dps_out(p->port);
}

static const char *const counters[] = { "cold", "warm", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "NAME", .packet = packet, .seated = seated, .counters = counters,
	.state_size = sizeof(struct block), .state_version = VERSION,
};
"""


def plain(version: int, more: str = "", name: str = "plain", less: str = "") -> str:
    text = PLAIN.replace("VERSION", str(version)).replace("MORE", more)
    return text.replace("NAME", name).replace("LESS", less)


def test_a_block_is_kept_for_the_same_plugin_and_version(instance: Run) -> None:
    packets = mix(flows(), 1000, seed=9)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, plain(1))
    instance.start(pcap_port() + IO + group(str(plugin), 1) + "state = 64\n")
    instance.until(lambda s: s["ports"][0]["tx_packets"] == len(packets))

    def block() -> tuple[int, ...]:
        doc = instance.do("state", "fw", "-o", "json").stdout
        (one,) = json.loads(doc)["workers"]
        data = bytes.fromhex(one["hex"])
        assert one["size"] == len(data)
        return one["version"], *struct.unpack(f"={len(data) // 8}Q", data)

    seen = []
    assert block() == (1, 1000)
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    seen.append(block())
    instance.do("restart")
    seen.append(block())

    def changed(text: str, forgets: str = "") -> None:
        """Workers keep to their copy of the file until a rollout brings the new one in; and what
        that would forget, they keep unless it is said to."""
        build(instance.folder, text)
        instance.do("restart")
        assert block() == seen[-1]
        command = ["rollout", "fw", "--plugin", str(plugin), "--judge", "0s", "--wait"]
        if forgets:
            done = instance.do(*command, check=False)
            assert done.returncode == 1 and forgets in done.stdout, done.stdout
            assert "1 worker, 32 bytes" in done.stdout
            assert block() == seen[-1]
            command.append("--forget-state")
        instance.do(*command)
        seen.append(block())

    # What grew keeps what it had, and has zeroes behind that.
    changed(plain(1, "uint64_t bytes[3];"))
    assert seen == [(1, 1000), (1, 1000), (1, 1000, 0, 0, 0)]
    assert instance.worker("fw/0")["counters"] == {"cold": 1, "warm": 4}
    assert "1000" in instance.do("state").stdout
    # Another layout, or another plugin, begins anew.
    changed(plain(2), forgets="state_version is 1, its own 2, and it has no migrate")
    assert seen[-1] == (2, 0)
    # What is all zero is nothing to forget.
    changed(plain(2, name="other"))
    assert seen[-1] == (2, 0)
    assert instance.worker("fw/0")["counters"] == {"cold": 3, "warm": 6}
    instance.stop()


def test_a_plugin_without_its_reservation_says_what_to_write(instance: Run) -> None:
    save(instance.folder / "wan.in.pcap", mix(flows(), 1000, seed=9))
    plugin = build(instance.folder, plain(1, "uint64_t more[8];"))
    instance.write(pcap_port() + IO + group(str(plugin), 1) + "state = 64\n")
    done = run("start", str(instance.file))
    assert done.returncode == 78, done.stderr
    assert "72 bytes of state" in done.stderr
    assert 'state = 72 in [[workers]] of group "fw"' in done.stderr
    plugin = build(instance.folder, OWNERS)
    instance.write(pcap_port() + IO + group(str(plugin), 1))
    done = run("start", str(instance.file))
    assert done.returncode == 78, done.stderr
    assert "bucket_state = 24" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("static uint64_t mine; dps_touch(&mine, 8);", "neither in the state"),
        ("for (int i = 0; i < 4; i++) dps_touch(block, 8);", "at most 4 pieces"),
        ("dps_touch(block, 65);", "at most 4 pieces"),
        ("dps_touch(&block->packets + 1, 8);", "neither in the state"),
    ],
)
def test_a_wrong_touch_is_a_crash_with_a_word(instance: Run, wrong: str, words: str) -> None:
    save(instance.folder / "wan.in.pcap", mix(flows(), 1000, seed=9))
    plugin = build(instance.folder, plain(1, less=wrong))
    more = 'restart = { policy = "never" }\n'
    instance.start(pcap_port() + IO + group(str(plugin), 1, more=more) + "state = 128\n")
    instance.until(lambda s: s["recovery"]["deaths"] == 1)
    # Its words come by a pipe.
    wait_for(lambda: words in instance.do("logs").stdout)
    assert instance.worker("fw/0")["last_exit"]["signal"] == signal.SIGABRT
