# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Python: as exact under kills as those in C, their exceptions are their crashes, and a
rollout takes them as any other file."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import Run, wait_for
from jobs import IO, LOSSLESS, Job, accounted, group, out, pcap_port
from traffic import Packet, compare, save
from versions import many

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

# Dies on its own between any two of its steps, once in some hundred packets; what it counts must be
# exact all the same.
COUNTS = """
import os
import signal
import time

from dpsup import plugin as dps

rewrites = 6
state_size = 8
bucket_state_size = 16
counters = ["packets"]
needs = ["hash"]


def init(env):
    global place
    place = env


def die():
    if time.perf_counter_ns() // 64 % 1024 == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def packet(p):
    dps.add(place.state[0:8])
    die()
    piece = dps.touch(p.bucket_state[8:16])
    die()
    piece[:] = (int.from_bytes(piece, "little") + 1).to_bytes(8, "little")
    die()
    head = p.head
    head[0] = 0x42
    die()
    head[1] = 0x43
    dps.count(0)
    die()
    return dps.out(p.port)
"""
STATE = 'state = 64\nbucket_state = "1KiB"\nspares = 2\n'


def write(folder: Path, source: str, name: str = "fw.py") -> str:
    path = folder / name
    path.write_text(source)
    return str(path)


def numbers(blocks: Iterable[Mapping[str, Any]], at: int) -> int:
    """The sum of the 8-byte numbers at this place of each block."""
    return sum(struct.unpack_from("<Q", bytes.fromhex(block["hex"]), at)[0] for block in blocks)


def test_what_it_counts_is_exact_whenever_it_dies(instance: Run, tmp_path: Path) -> None:
    """Workers and spares that die on their own, and by others."""
    packets = many(5000)
    save(instance.folder / "wan.in.pcap", packets)
    fw = group(write(tmp_path, COUNTS), 2, more=LOSSLESS + STATE)
    job = Job(instance, IO + pcap_port() + fw, idle="600s")
    for n in range(1, 5):
        job.until_sent(n * 1000)
        with contextlib.suppress(DpsupError):
            job.instance.kill(f"fw/{n % 2}")
    job.until_sent(len(packets))
    state = job.instance.state("fw")
    counted = [w["counters"]["packets"] for w in job.instance.status()["groups"][0]["workers"]]
    doc = job.end(len(packets))
    accounted(doc, len(packets))
    compare(packets, out(instance), lambda f: b"\x42\x43" + f[2:])
    assert numbers(state["workers"], 0) == len(packets)
    assert numbers(state["buckets"], 8) == len(packets)
    assert sum(counted) == len(packets)


RAISES = """
from dpsup import plugin as dps

rewrites = 6
kept = []


def packet(p):
    p.head[0] = 0x42
    kind = p.data[-1]
    if kind == 201:
        raise KeyError("the traceback says this")
    if kind == 202:
        kept.append(p.data)
    return dps.out(p.port)
"""


def marked(packets: list[Packet], places: dict[int, int]) -> list[Packet]:
    found = list(packets)
    for place, kind in places.items():
        found[place] = Packet(found[place].flow, found[place].frame + bytes([kind]))
    return found


def test_an_exception_is_a_crash_of_its_packet(instance: Run, tmp_path: Path) -> None:
    """Quarantined after two; all others go out; the traceback is in the log."""
    places = {500: 201, 900: 202}
    packets = marked([p for p in many(1600) if p.frame[-1] < 200], places)
    save(instance.folder / "wan.in.pcap", packets)
    fw = group(write(tmp_path, RAISES), 1, more=LOSSLESS + "spares = 1\n")
    job = Job(instance, IO + pcap_port() + fw, idle="600s")
    job.until_sent(len(packets) - len(places))

    def text() -> str:
        return "\n".join(line["line"] for line in job.instance.logs())

    # Its words come by a pipe, its packets do not.
    wait_for(lambda: "BufferError: packet() returned and keeps a view" in text())
    wait_for(lambda: 'raise KeyError("the traceback says this")' in text())
    wait_for(lambda: 'File "fw.py", line 12, in packet' in text())
    doc = job.end(len(packets))
    accounted(doc, len(packets), dropped=len(places))
    assert doc["dropped"] == {"quarantine": len(places)}
    assert doc["deaths"] == 2 * len(places)
    left = [p for i, p in enumerate(packets) if i not in places]
    compare(left, out(instance), lambda f: b"\x42" + f[1:])


MARKS = """
import time

from dpsup import plugin as dps

rewrites = 6
SAID = {said}


def packet(p):
    until = time.perf_counter_ns() + 100_000
    p.head[5] = SAID
    while time.perf_counter_ns() < until:
        pass
    return dps.out(p.port)
"""


def test_a_rollout_to_a_changed_source(instance: Run, tmp_path: Path) -> None:
    """As for a .so: by the file's contents; one that does not load is undone with its reason; what
    runs goes on with its copy."""
    fw = write(tmp_path, MARKS.format(said=1))
    packets = many(40_000)
    save(instance.folder / "wan.in.pcap", packets)
    more = LOSSLESS + "spares = 1\nring = 256\n"
    job = Job(instance, IO + pcap_port() + group(fw, 2, more=more), idle="600s")
    job.until_sent(100)
    write(tmp_path, MARKS.format(said="1 / 0"))
    job.instance.kill("fw/0")
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == 1)
    wait_for(lambda: job.instance.status()["state"] == "running")
    done = job.instance.rollout("fw", fw, judge=0)
    assert done["phase"] == "undone"
    assert "ZeroDivisionError: division by zero (fw.py:7)" in done["why"]
    write(tmp_path, MARKS.format(said=2))
    done = job.instance.rollout("fw", fw, judge=0)
    assert (done["changed"], done["phase"]) == (True, "done")
    assert not job.instance.rollout("fw", fw, judge=0)["changed"]
    doc, received = job.cut(packets, 200)
    accounted(doc, len(received))
    compare(received, (f[:5] + b"\0" + f[6:] for f in out(instance)))
