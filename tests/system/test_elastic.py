# SPDX-License-Identifier: BSD-3-Clause
"""Scale, rebalance and autoscale of running instances."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time

import pytest
from harness import CALM, NULL, Run, dies, run, supervisor, wait_for
from jobs import IO, JUMBO, SLOW, Job, accounted, group, out, pcap_port
from traffic import Flow, compare, flows, mix, save, swapped, write_pcap

import dpsup
from dpsup.errors import DpsupError

pytestmark = pytest.mark.beside


def endless(instance: Run, frames: list[bytes]) -> str:
    write_pcap(instance.folder / "in.pcap", frames)
    return (
        """
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap,infinite_rx=1,tx_pcap=/dev/null"
"""
        + IO
    )


def test_scale_by_steps_and_dry(instance: Run) -> None:
    instance.start(CALM)
    dry = json.loads(instance.do("scale", "fw", "+2", "--dry-run", "-o", "json").stdout)
    assert (dry["old"], dry["desired"], dry["ready"]) == (2, 4, 2)
    assert [one["worker"] for one in dry["add"]] == ["fw/2", "fw/3"]
    assert dry["buckets_moved"] == 256
    assert instance.status()["groups"][0]["desired"] == 2
    text = instance.do("scale", "fw", "+1", "--dry-run").stdout
    assert "workers 2 -> 3" in text and "+ fw/2" in text and "Nothing was changed" in text
    assert "2 -> 3" in instance.do("scale", "workers", "+1").stdout

    def moved() -> set[int]:
        return {e["buckets_moved"] for e in instance.events() if e["type"] == "steer"}

    # 2 -> 3: a third of 512 moves, and no more.
    wait_for(lambda: {170, 171} & moved())
    assert "unchanged" in instance.do("scale", "fw", "3").stdout
    assert "3 -> 1" in instance.do("scale", "fw", "-2").stdout
    for bad, code in (("+4", 2), ("-2", 2), ("five", 2), ("--5", 2), ("", 2)):
        done = run("scale", "-n", instance.name, "fw", bad)
        assert done.returncode == code, (bad, done.stderr)


def test_who_comes_back_has_its_own_flows_again(instance: Run) -> None:
    """At each death in a group without spares its buckets are given away: the same come back."""
    instance.start(NULL + "spares = 0\n")  # one flow

    def has_it(member: int) -> bool:
        with dpsup.connect(instance.name) as client:
            was, now = (
                [w["rx_packets"] for w in client.status()["groups"][0]["workers"]] for _ in range(2)
            )
        return bool(now[member] > was[member] and now[1 - member] == was[1 - member])

    # Whose bucket it is in: that depends on which of them was ready first.
    mine = wait_for(lambda: [n for n in range(2) if has_it(n)])[0]
    name = f"fw/{mine}"
    for deaths in (1, 2):
        instance.do("kill", name)
        instance.until(lambda s, n=deaths: s["groups"][0]["workers"][mine]["restarts"] == n)
        wait_for(lambda: has_it(mine))
    worker = instance.worker(name)["pid"]
    os.kill(worker, signal.SIGSTOP)
    instance.until(lambda s: s["groups"][0]["workers"][mine]["health"] == "stopped")
    instance.until(
        lambda s: s["groups"][0]["held"]
    )  # its bucket is given away, once it has returned all
    dies(supervisor(instance))
    instance.start()  # this one was told whose they are
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: has_it(mine))
    instance.do("restart", name)
    wait_for(lambda: has_it(mine))


def test_how_long_moved_buckets_waited_is_on_record(instance: Run) -> None:
    instance.start(NULL)
    instance.until(lambda s: s["ports"][0]["rx_packets"] > 10_000)
    assert instance.status()["groups"][0]["move_pause"]["count"] == 0
    for n in (4, 1, 3, 2):
        instance.do("scale", "fw", str(n))
    # Lanes are full here: whatever moves waits for some that is out.
    pause = instance.until(lambda s: (p := s["groups"][0]["move_pause"])["count"] >= 4 and p)
    assert pause["counts"] == sorted(pause["counts"])
    assert pause["counts"][-1] == pause["count"]
    assert 0 < pause["sum"] < 60


@pytest.mark.fault(42)
def test_two_scales_at_once_happen_one_after_the_other(instance: Run) -> None:
    instance.start(CALM)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: instance.do("scale", "fw", "+1", check=False), range(3)))
    codes = sorted(d.returncode for d in done)
    assert codes == [0, 0, 2]  # the third would be the fifth worker of four
    assert instance.status()["groups"][0]["desired"] == 4


@pytest.mark.fault(9)
@pytest.mark.parametrize("steps", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_random_steps_with_kills_lose_nothing(instance: Run, steps: int) -> None:
    """Scaling at random, 0 included, and kills in the middle of it: nothing is lost, twice, or out
    of order."""
    packets = mix(flows(6, JUMBO), 400 * steps, seed=steps)
    save(instance.folder / "wan.in.pcap", packets)
    # So dear that packets are left for all steps on a fast machine too.
    args = f"cycles = {5 * SLOW}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 2, args, most=4))
    rng = random.Random(steps)
    done = 0
    while job.process.poll() is None and done < steps:
        with contextlib.suppress(DpsupError):
            if rng.random() < 0.5:
                job.instance.scale("fw", rng.randrange(5), wait=rng.random() < 0.5)
            else:
                job.instance.kill(f"fw/{rng.randrange(4)}")
            done += 1
        time.sleep(rng.random() * 0.03)
    with contextlib.suppress(DpsupError):
        job.instance.scale("fw", 4)
    doc, received = job.cut(packets, 1000)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)


def skewed(flow: list[Flow], rng: random.Random) -> list[bytes]:
    """One flow in ten has ten times the packets of the others."""
    weights = [10 if i % 10 == 0 else 1 for i in range(len(flow))]
    return [f.next().frame for f in rng.choices(flow, weights, k=4000)]


def test_rebalance_does_what_it_predicts(instance: Run) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    many = [
        Flow(str(i), [bytes(Ether() / IP(src=f"10.0.{i}.1") / UDP(sport=i) / bytes(20))], room=[8])
        for i in range(100)
    ]
    text = endless(instance, skewed(many, random.Random(1)))
    instance.start(text + group("forward", 4, most=4, more=""))
    dry = json.loads(instance.do("rebalance", "fw", "--dry-run", "-o", "json").stdout)
    assert dry["imbalance_predicted"] <= dry["imbalance"] and not dry["done"]
    before = instance.stats()["groups"]
    doc = json.loads(instance.do("rebalance", "fw", "--over", "500ms", "-o", "json").stdout)
    if doc["done"]:
        assert doc["imbalance_measured"] < doc["imbalance"]
        for worker, share in doc["predicted"].items():
            assert abs(doc["measured"][worker] - share) < 0.1, doc
    else:
        assert doc["imbalance"] - doc["imbalance_predicted"] < 0.1, doc
    again = json.loads(instance.do("rebalance", "fw", "-o", "json").stdout)
    assert not again["done"] and "less than" in again["why"]
    assert before
    assert instance.do("rebalance", "nobody", check=False).returncode == 4


def test_the_load_decides_how_many_workers_there_are(instance: Run) -> None:
    frames = [p.frame for p in mix(flows(8), 2000, seed=9)]
    more = """
on_full = "drop"
scale = { min = 1, max = 3, target_busy = 0.6, cooldown = "2s" }
"""
    instance.start(
        endless(instance, frames) + group("delay", 1, "cycles = 20000", most=4, more=more)
    )
    instance.until(lambda s: s["groups"][0]["desired"] == 3)
    decisions = [e for e in instance.events() if e["type"] == "autoscale"]
    assert decisions and all(e["why"] and e["new"] > e["old"] for e in decisions)
    wait_for(lambda: [e["new"] for e in instance.events() if e["type"] == "scale"][-1:] == [3])


def test_a_dry_run_only_says_what_it_would_do(instance: Run) -> None:
    more = "scale = { max = 3, target_busy = 0.6, dry_run = true }"
    frames = [p.frame for p in mix(flows(8), 2000, seed=9)]
    instance.start(
        endless(instance, frames) + group("delay", 1, "cycles = 20000", most=4, more=more)
    )
    told = wait_for(lambda: [e for e in instance.events() if e["type"] == "autoscale"])
    assert told[0]["dry_run"] and told[0]["new"] > 1
    assert instance.status()["groups"][0]["desired"] == 1
