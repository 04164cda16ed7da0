# SPDX-License-Identifier: BSD-3-Clause
"""A worker killed before each instruction that its loop executes: the sweep behind "at any
instruction". The worker under test is the one that ships; breakpoints say where it dies."""

from __future__ import annotations

import contextlib
import random

import pytest
from harness import LONG, Run, seed, wait_for
from jobs import IO, LOSSLESS, SLOW, Job, accounted, deaths, group, out, pcap_port
from ptrace import Gone, Traced, executed
from traffic import compare, flows, mix, save, swapped

pytestmark = pytest.mark.beside

STEPS = 12_000  # single steps that see a few whole bursts
BURST = 64


@pytest.mark.fault(1)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rewrite", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_kill_before_any_instruction_loses_nothing(instance: Run, rewrite: bool) -> None:
    number = seed()
    rng = random.Random(number)
    packets = mix(flows(), 600_000 if LONG else 300_000, number)
    save(instance.folder / "wan.in.pcap", packets)
    # So dear that packets are left for all kills, however late each of them comes.
    args = f"cycles = {10 * SLOW}, rewrite = {str(rewrite).lower()}"
    # Under the stepping a packet takes long.
    more = LOSSLESS + 'health = { stall_after = "60s" }\n'
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=more))
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
    rounds = [(a, 1) for a in addresses] + [(a, rng.randint(2, BURST)) for a in addresses]
    if not LONG:
        rounds = rounds[: len(addresses)][rng.randrange(4) :: 4]
    hit = 0
    for i, (address, times) in enumerate(rounds):
        traced = Traced(victim())
        with contextlib.suppress(Gone):
            hit += traced.run_to(address, times, 0.1)
        traced.kill()
        if i % 20 == 0:
            job.events()
            audit = job.instance.audit()["pools"][0]
            assert audit["unexplained"] == 0, (hex(address), times)
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == len(dead))
    found = deaths(job.events())
    print(f"{len(addresses)} instructions, {len(rounds)} kills, {hit} where aimed, {found}")
    assert job.sent() < len(packets), "the run was too short to prove anything"
    assert hit > len(rounds) * 9 // 10
    assert found.published > 0
    if rewrite:
        assert found.undone > 0
    doc, received = job.cut(packets, 500)
    accounted(doc, len(received))
    compare(received, out(instance), *([swapped] if rewrite else []))
