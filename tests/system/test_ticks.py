# SPDX-License-Identifier: BSD-3-Clause
"""Ticks: what a plugin does because time has passed happens once, and in order with its packets."""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from harness import Run, wait_for
from jobs import IO, LOSSLESS, Job, build, group, pcap_port
from traffic import Packet, compare, read_pcap, save
from versions import many, plugin

pytestmark = [pytest.mark.system, pytest.mark.beside]

TWO_IO = '\n[[io]]\ncores = "0-1"\n'
STATE = "state = 64\nbucket_state = 64\n"

# Each tick counts one on, in state that outlives the process, and sends the number: the worker's,
# or the bucket's. `control` is a file that the test writes: 1: the process dies here and there, in
# packets too; 2: of the next tick of the worker; 3: it stays in it.
PLUGIN = """
#include <dpsup_plugin.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

struct count {
	uint64_t ticks;
	uint64_t packets;
};

static const struct dps_env *env;
static const volatile uint8_t *control;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	control = mmap(NULL, 1, PROT_READ, MAP_SHARED, open(CONTROL, O_RDONLY), 0);
	return control == MAP_FAILED;
}

static inline void
die(void)
{
	if (*control == 1 && __builtin_ia32_rdtsc() / 16 % 64 == 0)
		raise(SIGKILL);
}

static void
count(uint64_t *n)
{
	dps_touch(n, sizeof(*n));
	die();
	(*n)++;
	die();
}

static void
send(const char *what, uint64_t whose, uint64_t number)
{
	uint8_t *own = dps_emit(dps_out(0), 60);

	if (own == NULL)
		__builtin_trap();
	memcpy(own, what, 6);
	memcpy(own + 16, &whose, 8);
	die();
	memcpy(own + 24, &number, 8);
	die();
}

static void
tick(void *state)
{
	struct count *mine = env->state;

	(void)state;
	count(&mine->ticks);
	send("WORKER", env->worker, mine->ticks);
	while (*control == 3)
		usleep(1000);
	if (*control == 2)
		*(volatile int *)8 = 0;
}

static void
bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	struct count *its = bucket_state;

	(void)state;
	count(&its->ticks);
	send("BUCKET", bucket, its->ticks);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	struct count *its = p->bucket_state;

	(void)state;
	p->data[0] = 0x02;
	count(&its->packets);
	p->data[1] = 0x77;
	return dps_out(p->port);
}

LOOK

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "ticked", .rewrites = 6, .emits = 1, .init = init, .packet = packet,
	.state_size = sizeof(struct count), .bucket_state_size = sizeof(struct count),
	.tick_us = 2000, .tick = tick, .bucket_tick_us = 20000, .bucket_tick = bucket_tick, MORE
};
"""
LOOK = """
static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	(void)state;
	for (uint32_t i = 0; i < n; i++)
		if (packets[i].len == 0)
			__builtin_trap();
}
"""


PYTHON = """
import mmap
import os
import signal
import time

from dpsup import plugin as dps

rewrites, emits = 6, 1
state_size = bucket_state_size = 16
tick_us, bucket_tick_us = 2000, 100_000
control = mmap.mmap(os.open("CONTROL", os.O_RDONLY), 1, prot=mmap.PROT_READ)


def init(env):
    global place
    place = env


def die():
    if control[0] == 1 and time.perf_counter_ns() // 64 % 256 == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def send(what, whose, number):
    own = dps.emit(dps.out(0), 60)
    own[0:6] = what
    own[16:24] = whose.to_bytes(8, "little")
    die()
    own[24:32] = number.to_bytes(8, "little")
    die()


def tick(now):
    assert now == place.now
    number = dps.add(place.state[0:8])
    die()
    send(b"WORKER", place.worker, number)
    if control[0] == 2:
        raise KeyError("the traceback says this")


def bucket_tick(now, bucket, bucket_state):
    piece = dps.touch(bucket_state[0:8])
    die()
    number = int.from_bytes(piece, "little") + 1
    piece[:] = number.to_bytes(8, "little")
    die()
    send(b"BUCKET", bucket, number)


def packet(p):
    p.head[0] = 2
    dps.add(p.bucket_state[8:16])
    die()
    p.head[1] = 0x77
    return dps.out(p.port)
"""


def set_control(folder: Path, what: int) -> None:
    with (folder / "control").open("r+b" if (folder / "control").exists() else "wb") as f:
        f.write(bytes([what]))


def ticked(folder: Path, kind: str = "c") -> str:
    set_control(folder, 0)
    if kind == "python":
        (folder / "ticked.py").write_text(PYTHON.replace("CONTROL", f"{folder}/control"))
        return str(folder / "ticked.py")
    look = kind == "look"
    text = PLUGIN.replace("LOOK", LOOK if look else "").replace(
        "MORE", ".look = look" if look else ""
    )
    return str(build(folder, f'#define CONTROL "{folder}/control"\n{text}'))


def start(
    instance: Run, plugin: str, packets: list[Packet], io: str = IO, most: int = 2, more: str = ""
) -> Job:
    save(instance.folder / "wan.in.pcap", packets)
    workers = group(plugin, 2, most=most, more=LOSSLESS + STATE + more)
    return Job(instance, io + pcap_port() + workers, idle="600s")


def workers(job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job.instance.status()["groups"][0]["workers"]
    return found


def until_ticked(job: Job, more: int = 5) -> None:
    """All workers run, and each took so many more ticks."""
    wait_for(lambda: all(w["state"] in ("running", "stopped") for w in workers(job)))
    before = {w["id"]: w["ticks"] for w in workers(job) if w["state"] == "running"}
    wait_for(
        lambda: all(
            w["ticks"] >= before.get(w["id"], 0) + more for w in workers(job) if w["id"] in before
        )
    )


def counted(block: dict[str, Any]) -> int:
    return int(struct.unpack_from("=Q", bytes.fromhex(block["hex"]))[0])


def changed(frame: bytes) -> bytes:
    return b"\x02\x77" + frame[2:]


def end(job: Job, packets: list[Packet], folder: Path) -> dict[str, Any]:
    """Each packet out once; each tick out once, in order, those of before this among them."""
    state = job.instance.state("fw")
    least = {
        ("WORKER", int(w["id"].split("/")[1])): counted(w) for w in state["workers"] if w["hex"]
    }
    least |= {("BUCKET", b["bucket"]): counted(b) for b in state["buckets"] if b["hex"]}
    until_ticked(job)
    doc = job.end(len(packets))
    assert doc["lost"] == doc["in_flight"] == 0
    assert not any(doc["dropped"].values()), doc["dropped"]
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
    numbers: dict[tuple[str, int], list[int]] = defaultdict(list)
    frames = []
    for frame in read_pcap(folder / "wan.out.pcap"):
        if frame[:6] in (b"WORKER", b"BUCKET"):
            whose, number = struct.unpack_from("=QQ", frame, 16)
            numbers[frame[:6].decode(), whose].append(number)
        else:
            frames.append(frame)
    for whose, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), (whose, found[:20])
    for whose, n in least.items():
        assert len(numbers[whose]) >= n, whose
    assert doc["emitted"] == sum(map(len, numbers.values()))
    assert {what for what, _ in numbers} == {"WORKER", "BUCKET"}
    compare(packets, iter(frames), changed)
    return doc


@pytest.mark.parametrize("kind", ["c", "look", "python"])
def test_a_tick_takes_effect_once(instance: Run, tmp_path: Path, kind: str) -> None:
    """Workers die in the middle of ticks, of packets, between them; ticks go on without traffic."""
    packets = many(5000)
    plugin = ticked(tmp_path, kind)
    job = start(instance, plugin, packets, TWO_IO if kind == "look" else IO)
    set_control(tmp_path, 1)
    job.until_sent(len(packets) // 2)
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] >= 20)
    set_control(tmp_path, 0)
    until_ticked(job)
    end(job, packets, instance.folder)


def test_a_bucket_takes_its_ticks_with_it(instance: Run, tmp_path: Path) -> None:
    packets = many(5000)
    job = start(instance, ticked(tmp_path), packets, TWO_IO, most=3)
    job.until_sent(len(packets))
    for n in (3, 1):
        job.instance.scale("fw", n)
        wait_for(lambda n=n: job.instance.status()["groups"][0]["ready"] == n)
        wait_for(lambda n=n: len([w for w in workers(job) if w["state"] == "running"]) == n)
        before = sum(w["ticks"] for w in workers(job))
        wait_for(lambda before=before: sum(w["ticks"] for w in workers(job)) > before + 100)
    end(job, packets, instance.folder)


@pytest.mark.parametrize("kind", ["c", "python"])
def test_a_tick_that_kills_twice_is_skipped(instance: Run, tmp_path: Path, kind: str) -> None:
    packets = many(500)
    job = start(instance, ticked(tmp_path, kind), packets, more="spares = 2\n")
    job.until_sent(len(packets))
    set_control(tmp_path, 2)

    def told() -> bool:
        return any(e["type"] == "death" and e.get("blamed") == 2 for e in job.events())

    wait_for(told)
    set_control(tmp_path, 0)
    until_ticked(job)
    told_of = [e for e in job.events() if e["type"] == "death" and e.get("blamed")]
    assert all(e["ticked"] for e in told_of)
    if kind == "python":

        def says(words: str) -> bool:
            return any(words in line["line"] for line in job.instance.logs())

        wait_for(lambda: says('raise KeyError("the traceback says this")') and says("in tick"))
    assert sum(w["ticks_skipped"] for w in workers(job)) > 0
    end(job, packets, instance.folder)


def test_ticks_begin_and_end_with_a_rollout(instance: Run, tmp_path: Path) -> None:
    with_ticks, without = ticked(tmp_path), plugin(tmp_path, 1)
    job = start(instance, without, many(500))
    job.until_sent(500)
    assert all(w["ticks"] == w["ticks_skipped"] == 0 for w in workers(job))
    assert job.instance.rollout("fw", with_ticks, judge=0)["phase"] == "done"
    until_ticked(job)
    assert job.instance.rollout("fw", without, judge=0, forget_state=True)["phase"] == "done"

    def at_rest() -> bool:
        before = [(w["ticks"], w["ticks_skipped"]) for w in workers(job)]
        time.sleep(0.2)  # a hundred times the interval
        return before == [(w["ticks"], w["ticks_skipped"]) for w in workers(job)]

    wait_for(at_rest)
    doc = job.end(500)
    assert doc["lost"] == doc["in_flight"] == 0


def test_ticks_are_not_queued_up(instance: Run, tmp_path: Path) -> None:
    """Workers that stand still have one of its own at most, and one of each bucket."""
    packets = many(500)
    late = 'health = { stall_after = "60s" }\n'
    job = start(instance, ticked(tmp_path), packets, more=late)
    job.until_sent(len(packets))
    until_ticked(job)
    before = {w["id"]: w["ticks_skipped"] for w in workers(job)}
    set_control(tmp_path, 3)
    wait_for(lambda: all(w["ticks_skipped"] > before[w["id"]] + 500 for w in workers(job)))
    held = [
        place
        for pool in job.instance.audit()["pools"]
        for place in pool["places"]
        if place["place"] in ("lent", "handed_back")
    ]
    assert sum(place["mbufs"] for place in held) <= 2 * 513
    set_control(tmp_path, 0)
    end(job, packets, instance.folder)
