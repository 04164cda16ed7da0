# SPDX-License-Identifier: BSD-3-Clause
"""What happens to a machine as a whole: nodes, large pages, CPUs, memory, clocks, disks.

Two nodes, the supervisor on the first one, all that packets touch on the second one.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Run, run, wait_for
from lab.guest import PATIENCE, End, Outside, Tap, exchange, passes, sh

CPUS = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
LARGE = Path("/dev/hugepages1G")
PORTS = "".join(
    f'[[ports]]\nname = "t{i}"\nvdev = "net_tap{i},iface=lab{i}"\nmempool = "far"\n'
    for i in range(2)
)
MAP = '{ map = { t0 = "t1", t1 = "t0" } }'
RESTART = 'restart = { intensity = 100, backoff = { initial = "10ms", factor = 1 } }\n'


def text(name: str, pages: str = "2M", head: str = "", count: int = 1) -> str:
    return f"""
version = 1
name = "{name}"
[host]
shared_cores = true
supervisor_cores = "0"
{head}
[mempools.far]
mbufs = 8191
numa = 1
page_size = "{pages}"
{PORTS}
[[io]]
cores = "2"
idle = "adaptive"
[[workers]]
name = "fw"
plugin = "forward"
args = {MAP}
input = ["t0", "t1"]
count = {count}
max = 8
cores = "3"
{RESTART}
"""


@pytest.fixture
def started(instance: Run) -> Iterator[tuple[Run, tuple[End, End]]]:
    instance.file.write_text(text(instance.name))
    instance.start()
    with taps() as ends:
        yield instance, ends


@contextlib.contextmanager
def taps() -> Iterator[tuple[End, End]]:
    two = End(Tap("lab0")), End(Tap("lab1"))
    try:
        passes(*two)
        passes(*reversed(two))
        yield two
    finally:
        for end in two:
            end.close()


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/numa_maps").read_text().splitlines()


def pages_of(lines: list[str]) -> dict[int, int]:
    """Pages by node."""
    found: dict[int, int] = {}
    for line in lines:
        for node, pages in re.findall(r" N(\d+)=(\d+)", line):
            found[int(node)] = found.get(int(node), 0) + int(pages)
    return found


def huge_pages(pid: int) -> dict[int, int]:
    return pages_of([line for line in maps(pid) if "dpsup-" in line and "huge" in line])


def affinity(pid: int) -> list[int]:
    return sorted(os.sched_getaffinity(pid))


def said(instance: Run, kind: str, name: str) -> list[str]:
    return [e["message"] for e in instance.events() if e["type"] == kind and e["name"] == name]


def io_thread(primary: int) -> int:
    """Of the only io core."""
    for task in Path(f"/proc/{primary}/task").iterdir():
        if re.match(r"(rte|dpdk|lcore)-?worker", (task / "comm").read_text()):
            return int(task.name)
    raise AssertionError("no io thread")


def pids(instance: Run) -> dict[str, Any]:
    told = instance.status()
    found = {kind: told[kind]["pid"] for kind in ("supervisor", "primary", "seed")}
    return found | {w["id"]: w["pid"] for g in told["groups"] for w in g["workers"]}


def sound(instance: Run, ends: tuple[End, End], seed: int = 5) -> None:
    """It forwards all, each packet, and lost none."""
    instance.until(lambda status: status["state"] == "running", PATIENCE)
    passes(*ends)
    passes(*reversed(ends))
    exchange(*ends, packets=60, seed=seed)
    doc = instance.audit()
    assert not any(pool["unexplained"] for pool in doc["pools"]), doc


def dies_and_comes_back(instance: Run, worker: str = "fw/0") -> None:
    before = instance.worker(worker)["pid"]
    os.kill(before, 9)
    wait_for(lambda: instance.worker(worker)["pid"] not in (0, None, before), PATIENCE, 0.2)
    instance.until(lambda status: status["state"] == "running", PATIENCE)


def test_memory_is_on_the_node_of_the_packets(started: tuple[Run, tuple[End, End]]) -> None:
    """Pools, slots and lanes in hugepages; the io core's own memory outside of them."""
    instance, _ = started
    planned = run("plan", str(instance.file), check=True).stdout
    assert "lanes) on NUMA node 1" in " ".join(planned.split())
    told = maps(pids(instance)["primary"])
    huge = huge_pages(pids(instance)["primary"])
    print("hugepages by node:", huge)
    # EAL's own, what it gives drivers, and the control block come from where the supervisor runs;
    # eight slots are more.
    assert huge.get(0, 0) <= 4, told
    assert huge[1] >= 10
    own = pages_of([line for line in told if " prefer" in line and "anon=" in line])
    print("the io core's own pages by node:", own)
    assert own.get(0, 0) == 0, told
    assert own[1] >= 10
    worker = huge_pages(pids(instance)["fw/0"])
    assert worker.get(0, 0) <= 4
    assert worker[1] >= 10


def test_pages_of_1g(instance: Run) -> None:
    instance.file.write_text(text(instance.name, "1G"))
    free = CPUS.parent / "node/node1/hugepages/hugepages-1048576kB/free_hugepages"
    before = int(free.read_text())
    assert before
    LARGE.mkdir(exist_ok=True)
    if not os.path.ismount(LARGE):
        sh("mount", "-t", "hugetlbfs", "-o", "pagesize=1G", "nodev", str(LARGE))
    instance.start()
    assert int(free.read_text()) < before
    with taps() as ends:
        sound(instance, ends)
        dies_and_comes_back(instance)
        primary = pids(instance)["primary"]
        os.kill(primary, 9)
        wait_for(lambda: pids(instance)["primary"] not in (0, None, primary), PATIENCE, 0.2)
        instance.until(lambda status: status["state"] == "running", PATIENCE)
    with taps() as ends:  # the next generation's interfaces
        sound(instance, ends, seed=7)
    instance.stop()
    wait_for(lambda: int(free.read_text()) == before, PATIENCE)


@contextlib.contextmanager
def offline(cpu: int) -> Iterator[None]:
    (CPUS / f"cpu{cpu}/online").write_text("0")
    try:
        yield
    finally:
        (CPUS / f"cpu{cpu}/online").write_text("1")


@pytest.mark.parametrize("cpu", [3, 2])
def test_a_cpu_goes_offline_and_comes_back(started: tuple[Run, tuple[End, End]], cpu: int) -> None:
    """A worker's, then an io core's: it runs elsewhere meanwhile, and on its own again after."""
    instance, ends = started
    before = pids(instance)
    name = "fw/0" if cpu == 3 else "io core 0"

    def thread() -> int:
        told = pids(instance)
        return int(told["fw/0"]) if cpu == 3 else io_thread(told["primary"])

    assert affinity(thread()) == [cpu]
    with offline(cpu):
        wait_for(lambda: said(instance, "cpu", name), PATIENCE, 0.5)
        assert "offline" in said(instance, "cpu", name)[0]
        sound(instance, ends)
        # The next process of the worker finds its CPU gone, and serves all the same.
        dies_and_comes_back(instance)
        sound(instance, ends, seed=6)
    wait_for(lambda: affinity(thread()) == [cpu], PATIENCE, 0.5)
    wait_for(lambda: said(instance, "cpu", name)[-1] == f"runs on CPU {cpu} again", PATIENCE, 0.5)
    sound(instance, ends, seed=7)
    after = pids(instance)
    assert {**after, "fw/0": 0} == {**before, "fw/0": 0}


def test_a_cpuset_changes(started: tuple[Run, tuple[End, End]]) -> None:
    """Of a control group that has all of it: the worker's CPU is taken away, and given back."""
    instance, ends = started
    (CGROUPS / "cgroup.subtree_control").write_text("+cpuset")
    group = CGROUPS / "lab-test"
    group.mkdir()
    try:
        for pid in pids(instance).values():
            (group / "cgroup.procs").write_text(str(pid))
        (group / "cpuset.cpus").write_text("0-2")
        wait_for(lambda: said(instance, "cpu", "fw/0"), PATIENCE, 0.5)
        assert 3 not in affinity(pids(instance)["fw/0"])
        sound(instance, ends)
        dies_and_comes_back(instance)
        sound(instance, ends, seed=6)
        (group / "cpuset.cpus").write_text("0-3")
        wait_for(lambda: affinity(pids(instance)["fw/0"]) == [3], PATIENCE, 0.5)
        sound(instance, ends, seed=7)
    finally:
        instance.stop()
        wait_for(lambda: not (group / "cgroup.procs").read_text(), PATIENCE, 0.2)
        group.rmdir()


def survives_oom() -> None:
    """By default systemd ends a whole unit of which the kernel killed a process: ours, too."""
    unit = Path("/proc/self/cgroup").read_text().strip().rpartition("/")[2]
    place = Path(f"/run/systemd/system/{unit}.d")
    place.mkdir(parents=True, exist_ok=True)
    (place / "oom.conf").write_text("[Service]\nOOMPolicy=continue\n")
    sh("systemctl", "daemon-reload")
    assert sh("systemctl", "show", "--value", "-p", "OOMPolicy", unit).strip() == "continue"


@pytest.mark.fault(7)
def test_the_oom_killer_takes_a_worker(started: tuple[Run, tuple[End, End]]) -> None:
    """The kernel's own choice, for which one worker stands out."""
    instance, ends = started
    survives_oom()
    before = pids(instance)
    Path(f"/proc/{before['fw/0']}/oom_score_adj").write_text("1000")
    Path("/proc/sysrq-trigger").write_text("f")
    wait_for(lambda: pids(instance)["fw/0"] not in (0, None, before["fw/0"]), PATIENCE, 0.5)
    sound(instance, ends)
    after = pids(instance)
    assert {**after, "fw/0": 0} == {**before, "fw/0": 0}
    # Its packets are not to blame: nothing is put in quarantine for an order from outside.
    assert not [event for event in instance.events() if event["type"] == "quarantine"]
    assert f"Killed process {before['fw/0']}" in sh("dmesg")


@pytest.mark.fault(34)
@pytest.mark.parametrize("days", [400, -30])
def test_the_clock_is_set(started: tuple[Run, tuple[End, End]], days: int) -> None:
    """Nothing is restarted for it, and nothing waits for the time to come again."""
    instance, ends = started
    before = pids(instance)
    real, steady = time.time(), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, real + days * 86400)
    try:
        sound(instance, ends)
        assert pids(instance) == before
        dies_and_comes_back(instance)
        sound(instance, ends, seed=6)
    finally:
        time.clock_settime(time.CLOCK_REALTIME, real + time.monotonic() - steady)
    sound(instance, ends, seed=7)
    seqs = [event["seq"] for event in instance.events()]
    assert seqs == sorted(seqs)
    after = pids(instance)
    assert {**after, "fw/0": 0} == {**before, "fw/0": 0}


@pytest.mark.fault(35)
def test_the_machine_stands_still(started: tuple[Run, tuple[End, End]], outside: Outside) -> None:
    """As where a hypervisor moves it: nothing is taken for dead or stuck."""
    instance, ends = started
    before = pids(instance)
    outside.ask("pause", seconds=45)
    sound(instance, ends)
    assert pids(instance) == before
    assert not [e for e in instance.events() if e["type"] in ("death", "exit", "held")]


@pytest.mark.fault(26)
def test_a_full_disk(instance: Run, tmp_path: Path) -> None:
    """The runtime directory's: forwarding, a worker's and the primary's death, then room again."""
    place = tmp_path / "small"
    place.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=4M", "lab", str(place))
    try:
        instance.file.write_text(text(instance.name, head=f'runtime_dir = "{place}/run"'))
        instance.start()
        with taps() as ends:
            with contextlib.suppress(OSError), (place / "fill").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            before = pids(instance)
            sound(instance, ends)
            dies_and_comes_back(instance)
            sound(instance, ends, seed=6)
            assert pids(instance)["primary"] == before["primary"]
            os.kill(before["primary"], 9)
            # It says what it lacks, and starts once there is room.
            time.sleep(5)
            (place / "fill").unlink()
            wait_for(
                lambda: pids(instance)["primary"] not in (0, None, before["primary"]), PATIENCE, 0.5
            )
            instance.until(lambda status: status["state"] == "running", PATIENCE)
        with taps() as ends:  # the next generation's interfaces
            sound(instance, ends, seed=7)
        assert pids(instance)["supervisor"] == before["supervisor"]
        instance.stop()
    finally:
        sh("umount", "--lazy", str(place))


def test_work_is_shared(instance: Run, machine: dict[str, Any]) -> None:
    """Two io cores and four workers: each gets its share of the flows, and none starves."""
    body = text(instance.name, count=4).replace('cores = "2"\n', 'cores = "1-2"\n')
    body = body.replace('cores = "3"', 'cores = "0,3"').replace("mbufs = 8191", "mbufs = 16383")
    instance.file.write_text(body)
    instance.start()
    with taps() as ends:
        before = collected(instance)
        assert len(before) == 4
        flows = 512
        for at in range(0, flows, 32):
            for flow in range(at, at + 32):
                ends[0].socket.send(udp(flow))
            ends[1].frames(32, 60)
        now = collected(instance)
        slots = [now[pid] - before[pid] for pid in before]
        total = sum(slots)
        print("shares:", [f"{n / total:.2f}" for n in slots])
        assert total >= flows * 0.9
        # 512 flows in 512 buckets, a quarter of these each: 128 expected, 10 the deviation.
        assert all(0.15 < n / total < 0.35 for n in slots), slots
        # Each io core polls a queue of each port, and none takes the CPU from the other.
        loops = [io["loops"] for io in instance.stats()["io"]]
        wait_for(
            lambda: all(
                io["loops"] > n for io, n in zip(instance.stats()["io"], loops, strict=True)
            ),
            PATIENCE,
        )


def collected(instance: Run) -> dict[int, int]:
    """What each worker has given back, by its process; the group's other slots are empty."""
    return {one["pid"]: one["collected"] for one in instance.stats()["slots"] if one["pid"]}


def udp(flow: int) -> bytes:
    """Flows differ in one field: with a key that repeats, equal bits in two cancel each other."""
    ip = bytes([69, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, flow >> 8, flow & 255, 10, 1, 0, 1])
    total = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + (~total & 0xFFFF).to_bytes(2, "big") + ip[12:]
    ports = (1024).to_bytes(2, "big") + (53).to_bytes(2, "big")
    return (
        bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]) + ip + ports + b"\0\x1a\0\0" + bytes(18)
    )
