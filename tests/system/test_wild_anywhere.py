# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that writes anything into anywhere that it has mapped, packet by packet. The primary and
the workers of other groups are not harmed, and no packet of theirs is lost; bytes of packets may
change, as docs/limits.md says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from harness import Run, wait_for
from jobs import FREE, Job, build
from traffic import Packet, flows, mix, read_pcap, save, swapped
from wild import ANYWHERE

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.timeout(3600), pytest.mark.beside]

# A burst of restarts is no reason to hold it; one that hangs is ended soon.
DIES = """
restart = { intensity = 10000000, backoff = { initial = "1ms", factor = 1 } }
health = { stall_after = "100ms" }
on_full = "hold"
spares = 2
"""
PORTS = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap=wan.in.pcap,infinite_rx=1"
[[ports]]
name = "lan"
vdev = "net_pcap_lan,rx_pcap=lan.in.pcap,tx_pcap=lan.out.pcap,infinite_rx=1"
[[io]]
cores = "1"
"""
# So slow that what it sends in the test's time is no large file.
CALM = """
[[workers]]
name = "calm"
plugin = "delay"
args = { cycles = 400000 }
input = ["lan"]
count = 1
on_full = "hold"
"""
AFTER = """
[[ports]]
name = "far"
vdev = "net_null0,no-rx=1"
[[workers]]
name = "after"
plugin = "macswap"
count = 1
on_full = "hold"
[[chains]]
name = "main"
path = ["wan", "wild", "after", "far"]
"""
STATE = ".bucket_state_size = 8, .state_size = 64,"
TABLE = 'tables = { routes = { kind = "ipv4", entries = 1000, file = "routes.txt", learn = true } }'
ROUTES = "".join(f"10.{i}.0.0/16 {i}\n" for i in range(100))


def wild(plugin: Path, more: str, fed: bool = True) -> str:
    return f"""
[[workers]]
name = "wild"
plugin = "{plugin}"
{'input = ["wan"]' if fed else ""}
count = 1
max = 2
{DIES}{FREE}{more}
"""


# Modes: what the verdict is, what the plugin declares, what stands in the topology.
MODES = {
    "forward": ("dps_drop(0)", "", "", ""),
    "chain": ("dps_next(env, p)", "", "", AFTER),
    "state": ("dps_drop(0)", STATE, "state = 64\nbucket_state = 64", ""),
    "tables": ("dps_drop(0)", "", TABLE, ""),
}


class Torn(AssertionError):
    """Packets of another group are not as they were, in number or in order."""


def compare_cycle(sent: list[Packet], came: Path) -> tuple[int, int]:
    """What came is what was sent, round and round, in order. How many came, and how many are not
    among them because their bytes were changed on the way."""
    number = {p.frame: i for i, p in enumerate(sent)}
    assert len(number) == len(sent), "two are alike"
    due = total = missing = strange = 0
    for frame in read_pcap(came):
        i = number.get(frame)
        if i is None:
            # Changed, or one of the wild group's, whose verdict may be anything.
            strange += 1
            continue
        missing += (i - due) % len(sent)
        due = (i + 1) % len(sent)
        total += 1
    if missing > strange:
        raise Torn(f"{missing} of {total} are missing, {strange} are strange")
    return total, missing


def go(instance: Run, mode: str, writes: int, rollout: bool) -> Counter[str]:
    """So many writes in that mode; how many of each kind."""
    verdict, declares, more, others = MODES[mode]
    folder = instance.folder
    (folder / "routes.txt").write_text(ROUTES)
    (folder / "go").write_text("0")
    (folder / "log").write_text("")
    text = ANYWHERE.replace("FOLDER", str(folder)).replace("VERDICT", verdict)
    plugin = build(folder, text.replace("STATE", declares))
    # Each frame once, and none of the wild group's among them.
    quiet = list({p.frame: p for p in mix(flows(2), 400, seed=3) if len(p.frame) > 14}.values())
    loud = [Packet(p.flow, swapped(p.frame)) for p in mix(flows(8), 1000, seed=5)]
    save(folder / "wan.in.pcap", loud)
    save(folder / "lan.in.pcap", quiet)
    job = Job(instance, PORTS + wild(plugin, more, fed=not others) + CALM + others)

    def kinds() -> Counter[str]:
        return Counter((folder / "log").read_text())

    def bystanders() -> dict[str, int]:
        groups = job.instance.status()["groups"]
        return {g["name"]: w["pid"] for g in groups if g["name"] != "wild" for w in g["workers"]}

    before, primary = bystanders(), job.instance.status()["primary"]["pid"]
    with (folder / "go").open("r+b", buffering=0) as switch:
        switch.write(b"1")
        if rollout:
            wait_for(lambda: kinds().total() > writes // 2, timeout=240)
            try:
                job.instance.rollout("wild", str(plugin), judge=0, timeout=60)
            except DpsupError as e:  # its workers die all the time
                print(e)
        wait_for(lambda: kinds().total() >= writes, timeout=240, step=0.1)
        switch.seek(0)
        switch.write(b"0")
    wait_for(lambda: job.instance.status()["state"] == "running")
    doc = job.instance.status()
    assert (doc["generation"], doc["primary"]["pid"]) == (1, primary), "the primary suffered"
    assert bystanders() == before, "another group's worker suffered"
    audit = wait_for(lambda: (a := job.instance.audit()["pools"]) and a)
    assert [pool["unexplained"] for pool in audit] == [0] * len(audit)
    if mode == "tables":
        assert "".join(job.instance.table_lines("routes")) == ROUTES
    deaths = doc["recovery"]["deaths"]
    # More than there can be: until it has drained.
    account, _ = job.cut(range(1 << 40), 0)  # type: ignore[arg-type]
    assert account["lost"] == account["in_flight"] == 0
    found = kinds()
    came, changed = compare_cycle(quiet, folder / "lan.out.pcap")
    print(f"{mode}: {dict(found)} writes, {deaths} deaths; of {came} others {changed} changed")
    assert came > 100
    assert deaths >= found["o"] + found["r"], "a write into what is not its own did not end it"
    assert changed <= found["b"], "more packets changed than bytes were written to"
    return found


@pytest.mark.fault(33)
@pytest.mark.parametrize("mode", MODES)
def test_nobody_else_is_harmed(instance: Run, mode: str) -> None:
    go(instance, mode, 1000, rollout=mode == "state")


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_nobody_else_is_harmed_by_very_many(instance: Run, mode: str) -> None:
    """10^5 in all."""
    go(instance, mode, 25_000, rollout=True)
