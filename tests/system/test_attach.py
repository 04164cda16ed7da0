# SPDX-License-Identifier: BSD-3-Clause
"""Seeds and outsiders killed while they attach: EAL's locks come free again, and nobody stops."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eal import Config, attach_arguments, eal_folder, kill_seeds, next_seed, run_to
from harness import CALM, NULL, PATIENCE, Run, at_rest, held_by, wait_for
from jobs import spare_pids
from ptrace import Gone, Traced

import dpsup
from dpsup.primary.eal_locks import takes_connections
from dpsup.supervisor.policy import Pace

pytestmark = pytest.mark.beside

SLOW_NULL = NULL.replace("net_null0", "net_null0,size=64") + "spares = 1\n"
NO_PACKETS = CALM + "spares = 1\n"


def attaches(seed: int) -> bool:
    """It has not said READY: then it closes what it says that on."""
    words = Path(f"/proc/{seed}/cmdline").read_text().split("\0")
    return Path(f"/proc/{seed}/fd", words[words.index("--notify") + 1]).exists()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def pids(status: dict[str, Any]) -> list[int]:
    """Who must live on: primary and workers."""
    return [status["primary"]["pid"], *(w["pid"] for g in status["groups"] for w in g["workers"])]


def kinds(names: Iterable[str]) -> Counter[str]:
    """How many of each; what tells one from another is a pid, a time, an address."""
    return Counter(re.sub(r"\d+", "N", re.sub(r"_\d+_[0-9a-f]+$", "", name)) for name in names)


def left_behind(instance: Run, client: dpsup.Instance) -> dict[str, Any]:
    """What must not grow."""
    primary = client.status()["primary"]["pid"]
    return {
        "heap": client.stats()["heap_bytes"],
        "eal": kinds(f.name for f in eal_folder(instance.name).iterdir()),
        "pages": len(list(Path("/dev/hugepages").glob(f"dpsup-{instance.name}-*"))),
        "fds": kinds(held_by(primary)),
        "threads": len(list(Path(f"/proc/{primary}/task").iterdir())),
    }


def settled(what: Callable[[], dict[str, Any]], expected: dict[str, Any]) -> dict[str, Any]:
    """What it comes to, in a while: a thread or a file of the last second goes yet."""
    deadline = time.monotonic() + PATIENCE
    while (found := what()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def kill_seed(client: dpsup.Instance) -> None:
    seed = client.status()["seed"]["pid"]
    os.kill(seed, signal.SIGKILL)
    wait_for(lambda: (s := client.status()["seed"])["state"] == "running" and s["pid"] != seed)


def whole(client: dpsup.Instance) -> list[int]:
    """The workers, once all are there and a spare is."""

    def there() -> list[int]:
        group = client.status()["groups"][0]
        found = [w["pid"] for w in group["workers"]]
        return found if None not in found and group["spares_ready"] == 1 else []

    found: list[int] = wait_for(there)
    return found


def renew(instance: Run, client: dpsup.Instance) -> None:
    """Every worker a child of a new seed, which shows that one can attach and fork; then another
    seed, which removes the files of those that have no child any more."""
    kill_seed(client)
    # The spare that is there is an older seed's child too, and takes the first one's place.
    older = {*whole(client), *spare_pids(instance)}
    while older & {*whole(client), *spare_pids(instance)}:
        for worker in client.status()["groups"][0]["workers"]:
            if worker["pid"] in older:
                client.kill(worker["id"])
                whole(client)
    kill_seed(client)
    whole(client)


def attach_times(events: list[dict[str, Any]]) -> list[float]:
    """In seconds, the shortest first, of the attaches that came to their end."""
    began, found = 0, []
    for e in events:
        if e["type"] == "state" and e["kind"] == "seed":
            if e["new"] == "running":
                found.append((e["at_ns"] - began) / 1e9)
            began = e["at_ns"]
    return sorted(found)


def report(found: list[dict[int, int]], events: list[dict[str, Any]]) -> None:
    """Figures of a run, for whoever reads its output."""
    attaches = attach_times(events)
    quantiles = [round(attaches[int(len(attaches) * q)] * 1e3, 1) for q in (0.5, 0.99) if attaches]
    said = Counter(e["message"] for e in events if e["type"] in ("locks", "seed"))
    left = Counter(str(f) for f in found if f)
    print(f"{len(found)} kills; left held {dict(left)}; said {dict(said)}; ", end="")
    print(f"{len(attaches)} attaches done, p50 and p99 {quantiles} ms", flush=True)


@pytest.mark.fault(8)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [25, pytest.param(2000, marks=pytest.mark.long)])
def test_kills_all_over_the_attach_stop_nobody(instance: Run, kills: int) -> None:
    instance.start(SLOW_NULL)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        renew(instance, client)
        before = client.status()
        client.audit()  # the thread that carries audits out stays
        was = at_rest(lambda: left_behind(instance, client))
        found: list[dict[int, int]] = []
        events: list[dict[str, Any]] = []
        while len(found) < kills:
            seed = wait_for(lambda: client.status()["seed"]["pid"])
            found += kill_seeds(before["supervisor"]["pid"], seed, min(50, kills), 0.06, config)
            events += client.events(since=events[-1]["seq"] if events else 0)
            if kills > 25:
                report(found, events)
        wait_for(lambda: client.status()["seed"]["state"] == "running")
        after = client.status()
        assert after["generation"] == 1
        assert pids(after) == pids(before)
        assert after["ports"][0]["rx_packets"] > before["ports"][0]["rx_packets"]
        assert client.audit()["pools"][0]["unexplained"] == 0
        report(found, events)
        # What holds files of dead seeds is workers that these forked: none is left.
        renew(instance, client)
        now = settled(lambda: left_behind(instance, client), was)
        assert now == was, (now["fds"] - was["fds"], now["eal"] - was["eal"])
        assert not config.held()


# --- locks ---------------------------------------------------------------------------------------

READS = 4  # of a lock that is held once for reading; any other word has a writer


@contextlib.contextmanager
def by_hand(instance: Run, folder: Path, stop: Callable[[], Any]) -> Iterator[Traced]:
    """A process that attaches, stopped where a condition holds: to the instance, an outsider."""
    command = attach_arguments(instance, folder)
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    traced = Traced(started.pid)
    try:
        assert run_to(traced, stop)
        yield traced
    finally:
        traced.kill()


def said(client: dpsup.Instance, words: str) -> list[dict[str, Any]]:
    return [e for e in client.events() if words in e.get("message", "")]


def is_written(config: Config) -> bool:
    return any(word % READS for word in config.held().values())


def is_read(config: Config) -> bool:
    return any(word % READS == 0 for word in config.held().values())


@pytest.mark.fault(8)
def test_what_a_dead_outsider_read_is_given_back(instance: Run, tmp_path: Path) -> None:
    instance.start(NO_PACKETS)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        with by_hand(instance, tmp_path, lambda: is_read(config)):
            time.sleep(1.5)  # it lives: whoever looks leaves it alone
            assert config.held()
        wait_for(lambda: not config.held())
        wait_for(lambda: said(client, "given back"))
        assert client.status()["generation"] == 1


def test_a_reader_left_in_the_lock_of_an_array_is_given_back(instance: Run) -> None:
    """Seen once in 2,000 kills, as it is held for some ten instructions: so it is put there."""
    instance.start(NO_PACKETS)
    config = Config(instance.name)
    head = struct.pack(f"{len(config.free)}I", *config.free)
    at = head.index(b"memzone\0") + 88  # of rwlock in struct rte_fbarray
    with (eal_folder(instance.name) / "config").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), struct.pack("I", READS), at)
    with dpsup.connect(instance.name) as client:
        found = wait_for(lambda: said(client, "given back"))
        assert found[0]["released"] == {"zones": READS}
    assert not config.held()


def test_what_a_dead_seed_wrote_under_is_given_back(instance: Run) -> None:
    instance.start(NO_PACKETS)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        before = client.status()
        seed = before["seed"]["pid"]

        def dies_there() -> bool:
            """A new seed, unless it was past that point by the time we had it, or had its deadline
            behind it by the time it was there."""
            nonlocal seed
            with contextlib.suppress(ProcessLookupError):
                os.kill(seed, signal.SIGKILL)
            seed = next_seed(before["supervisor"]["pid"], seed)
            with contextlib.suppress(Gone, OSError, ValueError):
                traced = Traced(seed)
                if run_to(traced, lambda: is_written(config) or not attaches(seed)):
                    there = is_written(config)
                    traced.kill()
                    return there
            return False

        wait_for(dies_there, 3 * PATIENCE)
        wait_for(lambda: said(client, "given back"))
        wait_for(lambda: client.status()["seed"]["state"] == "running")
        after = client.status()
        assert not config.held()
        assert (after["generation"], pids(after)) == (1, pids(before))


def test_a_lock_that_a_living_process_has_is_waited_for(instance: Run, tmp_path: Path) -> None:
    instance.start(NO_PACKETS)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        before = client.status()
        with by_hand(instance, tmp_path, lambda: is_written(config)) as holder:
            os.kill(before["seed"]["pid"], signal.SIGKILL)
            waits = wait_for(lambda: said(client, "a new seed waits"))
            assert waits[0]["alive"] == [holder.pid]
            assert config.held()
            assert client.status()["seed"]["state"] != "running"
            # It goes on, and gives the lock back by itself.
            run_to(holder, lambda: not is_written(config))
            holder.let_go()
            wait_for(lambda: client.status()["seed"]["state"] == "running")
        after = client.status()
        assert (after["generation"], pids(after)) == (1, pids(before))


def dies_writing(instance: Run, folder: Path, change: bytes = b"") -> int:
    """An outsider that dies with the memzones' lock as a writer, and what it has changed of them;
    its pid."""
    config = Config(instance.name)
    with by_hand(instance, folder, lambda: is_written(config)) as holder:
        if change:
            with (eal_folder(instance.name) / "fbarray_memzone").open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), change, 100_000)
        return holder.pid


def test_what_a_dead_outsider_changed_nothing_under_is_given_back(
    instance: Run, tmp_path: Path
) -> None:
    instance.start(NO_PACKETS)
    config = Config(instance.name)
    with dpsup.connect(instance.name) as client:
        before = client.status()
        dies_writing(instance, tmp_path)
        wait_for(lambda: said(client, "given back"))
        kill_seed(client)
        after = client.status()
        assert not config.held()
        assert (after["generation"], pids(after)) == (1, pids(before))


def test_past_what_an_outsider_may_have_left_half_done_a_generation_starts(
    instance: Run, tmp_path: Path
) -> None:
    instance.start(NO_PACKETS)
    with dpsup.connect(instance.name) as client:
        pid = dies_writing(instance, tmp_path, b"half")  # as if it had begun to reserve one
        wait_for(lambda: said(client, "an outsider died with locks"))
        assert client.status()["generation"] == 1  # nobody needs that lock yet
        os.kill(client.status()["seed"]["pid"], signal.SIGKILL)
        wait_for(lambda: (s := client.status())["generation"] == 2 and s["state"] == "running")
        (last,) = said(client, "last resort")
        assert str(pid) in last["message"]


def test_a_stuck_attach_is_ended_by_its_deadline(instance: Run) -> None:
    instance.start(NO_PACKETS)
    with dpsup.connect(instance.name) as client:
        before = client.status()
        seed = before["seed"]["pid"]

        def stops() -> int:
            """The pid of a new seed that stands still in its attach, 0 if it was through before."""
            nonlocal seed
            os.kill(seed, signal.SIGKILL)
            seed = next_seed(before["supervisor"]["pid"], seed)
            os.kill(seed, signal.SIGSTOP)
            wait_for(lambda: is_stopped(seed), step=0.001)
            return seed if attaches(seed) else 0

        stuck = wait_for(stops)
        (late,) = wait_for(lambda: said(client, "attach not done"))
        assert late["pid"] == stuck
        # Measured from those that came through, not the first one's patience.
        patience = float(late["message"].split()[4])
        assert patience < Pace.MOST or max(attach_times(client.events())) * Pace.MARGIN >= Pace.MOST
        wait_for(lambda: client.status()["seed"]["state"] == "running")
        after = client.status()
        assert (after["generation"], pids(after)) == (1, pids(before))


def test_a_seed_may_die_right_after_it_said_ready(instance: Run) -> None:
    instance.start(NO_PACKETS)
    with dpsup.connect(instance.name) as client:
        before = client.status()
        parent, seed = before["supervisor"]["pid"], before["seed"]["pid"]
        os.kill(seed, signal.SIGKILL)
        seed = next_seed(parent, seed)
        # Its word is there, and read when it is dead.
        os.kill(parent, signal.SIGSTOP)
        try:
            wait_for(lambda: not attaches(seed), step=0.001)
            os.kill(seed, signal.SIGKILL)
            time.sleep(0.1)
        finally:
            os.kill(parent, signal.SIGCONT)
        wait_for(lambda: (s := client.status()["seed"])["state"] == "running" and s["pid"] != seed)
        after = client.status()
        assert (after["generation"], pids(after)) == (1, pids(before))


def test_nothing_of_a_dead_seed_answers_the_primarys_requests(instance: Run) -> None:
    """Where a child held a dead seed's socket, EAL would wait 5 s for its answer to each one."""
    instance.start(NO_PACKETS)
    folder = eal_folder(instance.name)
    with dpsup.connect(instance.name) as client:
        old = client.status()["seed"]["pid"]
        (socket,) = folder.glob(f"mp_socket_{old}_*")
        assert takes_connections(socket)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: not takes_connections(socket))  # its workers live
        wait_for(lambda: (s := client.status()["seed"])["state"] == "running" and s["pid"] != old)
        new = client.status()["seed"]["pid"]
        assert [p.name.split("_")[2] for p in folder.glob("mp_socket_*_*")] == [str(new)]


@pytest.mark.skipif(not shutil.which("dpdk-proc-info"), reason="needs dpdk-proc-info")
@pytest.mark.parametrize("kills", [25, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.timeout(1800)
def test_outsiders_killed_while_they_attach_stop_nobody(instance: Run, kills: int) -> None:
    instance.start(SLOW_NULL)
    config = Config(instance.name)
    prefix = f"--file-prefix=dpsup-{instance.name}-g1"
    command = ["dpdk-proc-info", prefix, "--no-pci", "--", "--stats"]
    chance = random.Random(kills)

    def outsider() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with dpsup.connect(instance.name) as client:
        before = client.status()
        left: Counter[str] = Counter()
        for _ in range(kills):
            one = outsider()
            time.sleep(chance.random() * 0.15)
            one.kill()
            one.wait()
            left[str(config.held())] += 1
        wait_for(lambda: not config.held())
        assert outsider().wait(timeout=PATIENCE) == 0
        after = client.status()
        assert (after["generation"], pids(after)) == (1, pids(before))
        assert after["ports"][0]["rx_packets"] > before["ports"][0]["rx_packets"]
        print(f"{kills} kills of dpdk-proc-info; left held {dict(left)}")
