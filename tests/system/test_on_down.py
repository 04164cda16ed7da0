# SPDX-License-Identifier: BSD-3-Clause
"""A group without a chain whose only worker is held: what its rule says happens to each packet."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Run, wait_for
from jobs import IO, JUMBO, Job, accounted, group, out, pcap_port
from traffic import Packet, compare, flows, mix, save

pytestmark = pytest.mark.beside

BEFORE = 499  # packets that the worker hands back before it dies for good
PACKETS = 5000


def prepared(instance: Run, rule: str, on_full: str = "hold") -> tuple[str, list[Packet]]:
    packets = mix(flows(4, JUMBO), PACKETS, seed=4)
    save(instance.folder / "wan.in.pcap", packets)
    save(instance.folder / "lan.in.pcap", [])
    once = f'on_full = "{on_full}"\non_down = "{rule}"\nrestart = {{ policy = "never" }}\n'
    args = f'at = {BEFORE + 1}, map = {{ wan = "lan" }}'
    text = pcap_port() + pcap_port("lan") + IO + group("crash", 1, args, more=once)
    return text, packets


@pytest.mark.fault(10, 30)
def test_they_are_dropped_under_a_reason_of_their_own(instance: Run) -> None:
    text, packets = prepared(instance, "drop")
    doc = instance.job(text)
    accounted(doc, PACKETS, PACKETS - BEFORE)
    assert doc["dropped"] == {"worker_held": PACKETS - BEFORE}
    compare(packets, out(instance, "lan.out"), missing=PACKETS - BEFORE)


def test_they_go_where_the_map_leads(instance: Run) -> None:
    text, packets = prepared(instance, "bypass")
    doc = instance.job(text)
    accounted(doc, PACKETS)
    assert doc["deaths"] == 1
    compare(packets, out(instance, "lan.out"))


def test_they_wait_and_what_finds_no_room_says_why(instance: Run) -> None:
    """Some may come between the death and the end of the decision: their lane was full. Once the
    worker is held, every further one is `worker_held`."""
    text, _ = prepared(instance, "hold", on_full="drop")
    job = Job(instance, text, idle="60s")

    def settled() -> dict[str, Any] | None:
        doc = job.instance.status()
        (one,) = doc["groups"]
        (worker,) = one["workers"]
        if doc["ports"][0]["rx_packets"] < PACKETS or worker["state"] != "held":
            return None
        return {"waits": worker["outstanding"], **one["dropped"], **worker["dropped"]}

    found = wait_for(settled)
    assert found["waits"] > 0
    assert sum(found.values()) == PACKETS - BEFORE, found
    assert found.keys() <= {"waits", "worker_held", "lane_full"}
    job.process.terminate()
    job.process.wait(60)
