# SPDX-License-Identifier: BSD-3-Clause
"""Chains of groups over real ports: both directions, order and conservation from end to end."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from harness import PATIENCE, Run, wait_for
from jobs import IO, JUMBO, LOSSLESS, SLOW, Job, accounted, group, out, pcap_port
from traffic import Packet, compare, flows, mix, save, swapped

from dpsup.errors import DpsupError

pytestmark = pytest.mark.beside


def chain(*path: str, on_down: str = "hold") -> str:
    names = ", ".join(f'"{name}"' for name in path)
    return f'\n[[chains]]\nname = "main"\npath = [{names}]\non_down = "{on_down}"\n'


def member(name: str, plugin: str, count: int, args: str = "", more: str = LOSSLESS) -> str:
    text = group(plugin, count, args, more=more).replace('"fw"', f'"{name}"')
    return text.replace('input = ["wan"]\n', "")


def two_ways(instance: Run, packets: int = 6000) -> tuple[list[Packet], list[Packet]]:
    both = mix(flows(3, JUMBO), packets, seed=1), mix(flows(3, JUMBO), packets, seed=2)
    for name, part in zip(("wan", "lan"), both, strict=True):
        save(instance.folder / f"{name}.in.pcap", part)
    return both


def test_three_groups_both_ways_with_kills(instance: Run) -> None:
    """A packet is in one of three groups when a worker dies, and comes out once, in order."""
    there, back = two_ways(instance)
    # So dear that packets are left for all the kills on a fast machine too.
    slow = f"cycles = {4 * SLOW}, rewrite = true"
    text = (
        pcap_port() + pcap_port("lan") + IO + member("fw", "forward", 2)
        + member("nat", "delay", 2, slow) + member("ids", "macswap", 1)
        + chain("wan", "fw", "nat", "ids", "lan")
    )  # fmt: skip
    job = Job(instance, text)
    rng = random.Random(3)
    while job.instance.status()["recovery"]["deaths"] < 20:
        with contextlib.suppress(DpsupError):
            job.instance.kill(rng.choice(("fw/0", "fw/1", "nat/0", "nat/1", "ids/0")))
        time.sleep(rng.random() * 0.02)
    job.events()
    doc = job.end(len(there) + len(back))
    accounted(doc, len(there) + len(back))
    assert doc["deaths"] >= 20
    # Swapped by `nat`, and back by `ids`.
    compare(there, out(instance, "lan.out"))
    compare(back, out(instance, "wan.out"))


def down(instance: Run, on_down: str) -> tuple[str, list[Packet]]:
    """A chain whose middle group dies at its 500th packet and stays dead."""
    packets = mix(flows(4, JUMBO), 5000, seed=4)
    save(instance.folder / "wan.in.pcap", packets)
    save(instance.folder / "lan.in.pcap", [])
    once = LOSSLESS.replace("intensity = 1000000", 'policy = "never"')
    text = (
        pcap_port() + pcap_port("lan") + IO + member("fw", "forward", 1)
        + member("ids", "crash", 1, "at = 500", more=once) + member("nat", "macswap", 1)
        + chain("wan", "fw", "ids", "nat", "lan", on_down=on_down)
    )  # fmt: skip
    return text, packets


def test_packets_pass_a_group_that_is_down(instance: Run) -> None:
    text, packets = down(instance, "bypass")
    doc = instance.job(text)
    accounted(doc, len(packets))
    assert doc["deaths"] == 1
    compare(packets, out(instance, "lan.out"), swapped)


def test_packets_for_a_group_that_is_down_are_dropped_by_name(instance: Run) -> None:
    text, packets = down(instance, "drop")
    doc = instance.job(text)
    accounted(doc, len(packets), len(packets) - 499)
    assert doc["dropped"].keys() == {"worker_held"}
    compare(packets, out(instance, "lan.out"), swapped, missing=len(packets) - 499)


@pytest.mark.fault(10)
def test_packets_for_a_group_that_is_down_wait_until_it_is_back(instance: Run) -> None:
    text, packets = down(instance, "hold")
    job = Job(instance, text, idle="500ms")
    job.until_sent(499)
    wait_for(lambda: job.instance.status()["groups"][1]["workers"][0]["state"] == "held")
    # Each life is 499 packets long.
    deadline = time.monotonic() + PATIENCE
    while job.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(DpsupError):
            job.instance.restart("ids/0")
        time.sleep(0.05)
    accounted(job.end(len(packets)), len(packets))
    compare(packets, out(instance, "lan.out"), swapped)


@pytest.mark.parametrize("rule", ["hold", "bypass", "drop"])
def test_a_group_at_zero(instance: Run, rule: str) -> None:
    packets = mix(flows(4), 20_000, seed=5)
    save(instance.folder / "wan.in.pcap", packets)
    save(instance.folder / "lan.in.pcap", [])
    parked = LOSSLESS + f'at_zero = "{rule}"\n'
    text = (
        pcap_port() + pcap_port("lan") + IO + member("fw", "delay", 1, f"cycles = {12 * SLOW}")
        + member("nat", "forward", 2, more=parked) + chain("wan", "fw", "nat", "lan")
    )  # fmt: skip
    job = Job(instance, text)
    job.until_sent(500)
    assert job.instance.scale("nat", 0)["at_zero"] == rule
    sent = job.sent()

    def met() -> bool:
        """Some packets met the rule."""
        if rule == "hold":
            return bool(job.instance.status()["groups"][1]["held"])
        if rule == "drop":
            return sum(job.instance.stats()["account"]["dropped"].values()) > 0
        return job.sent() > sent + 500  # more than what `nat` had yet

    wait_for(met)
    held = job.instance.status()["groups"][1]["held"]
    assert (held > 0) == (rule == "hold")
    job.instance.scale("nat", 2)
    doc, received = job.cut(packets, 500)
    dropped = sum(doc["dropped"].values())
    assert (dropped > 0) == (rule == "drop")
    accounted(doc, len(received), dropped)
    compare(received, out(instance, "lan.out"), missing=dropped)
