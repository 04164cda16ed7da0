# SPDX-License-Identifier: BSD-3-Clause
"""One instance under numbered traffic whose supervisor is made to fail, point by point."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import HEAD, PATIENCE, Run, free_port, pids_of, wait_for
from jobs import spare_pids

import dpsup
from dpsup.errors import DpsupError
from dpsup.packets.pcap import read_pcap, write_pcap
from dpsup.packets.traffic import Traffic, check, frame

RAISING = str(Path(__file__).with_name("raising.py"))
SETTLE_S = 60.0
GAP_S = 30.0  # without a packet; the most of a whole sweep: 1 s alone, 5 s beside 18 busy processes
ODD = 4  # packets of the second port, which has no other traffic

# `fw` has the traffic; `ids` has little credit. Each has a spare.
TOPOLOGY = """
[metrics]
listen = "127.0.0.1:PORT"
[bus]
read = ["root"]
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap=wan.in.pcap,infinite_rx=1,tx_pcap=wan.out.pcap"
[[ports]]
name = "lan"
vdev = "net_pcap_lan,rx_pcap=lan.in.pcap,tx_pcap=lan.out.pcap"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "delay"
args = { cycles = 200000, rewrite = true }
input = ["wan"]
count = 2
max = 3
spares = 1
on_full = "hold"
restart = { intensity = 1000000, backoff = { initial = "1ms", factor = 1 } }
[[workers]]
name = "ids"
plugin = "delay"
args = { rewrite = true }
tables = { seen = { kind = "array", entries = 4 } }
input = ["lan"]
count = 1
max = 2
on_full = "hold"
restart = { intensity = 1, backoff = { initial = "10ms", factor = 1 } }
"""

Fault = dict[str, Any]


class NotReached(AssertionError):
    """The stimulus did not lead to the point."""


# Before there is an event loop: said on stderr alone.
EARLY = {"entry Supervisor.adopt"}


def raising(*points: str, how: str = "raise", times: int = 1) -> list[Fault]:
    return [{"point": p, "how": how, "times": times} for p in points]


def shape(doc: dict[str, Any]) -> dict[str, Any]:
    """What of a status two undisturbed runs have in common."""
    return {
        "state": doc["state"],
        "primary": doc["primary"]["state"],
        "seed": doc["seed"]["state"],
        "ports": [(p["name"], p["absent"]) for p in doc["ports"]],
        "groups": [
            {
                **{k: g[k] for k in ("name", "plugin", "desired", "ready", "max", "spares_ready")},
                "spares_held": g["spares_held"],
                "rolling": bool((g["rollout"] or {}).get("phase")) and g["rollout"]["phase"],
                "workers": [
                    (w["id"], w["state"], w["health"], w["held_for"], bool(w["pid"]))
                    for w in g["workers"]
                    if w["state"] != "stopped"
                ],
            }
            for g in doc["groups"]
        ],
    }


class Sweep:
    """The instance, what is armed in it, and what it came to."""

    def __init__(self, instance: Run, text: str = TOPOLOGY, policy: str = "often") -> None:
        self.instance = instance
        self.traffic = Traffic()
        self.folder = instance.folder / "faults"
        self.folder.mkdir()
        (self.folder / "policy").write_text(policy)
        self.faults = 0
        self.gaps: list[tuple[float, str]] = []  # seconds without a packet, by phase
        self.phase = ""
        self._errors = instance.folder / "errors"
        self._output = ""
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look)
        write_pcap(instance.folder / "wan.in.pcap", self.traffic.frames())
        write_pcap(instance.folder / "lan.in.pcap", (frame(0, n) for n in range(ODD)))
        instance.file.write_text(
            HEAD.format(name=instance.name) + text.replace("PORT", str(free_port()))
        )
        self.arm("start")

    # --- life ------------------------------------------------------------------------------------

    def start(self, *options: str) -> None:
        argv = [sys.executable, "-P", RAISING, str(self.folder), "start", str(self.instance.file)]
        # A file: a pipe that nobody reads would be full after some faults.
        with self._errors.open("ab") as errors:
            self.instance.process = subprocess.Popen(
                [*argv, *options], stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        process = self.instance.process
        assert process is not None
        self._output, _ = process.communicate(timeout=90)
        return process.returncode, self._errors.read_text()

    def until_whole(self) -> None:
        """All workers and spares are there for the first time: that is how it should be."""

        def whole() -> bool:
            with contextlib.suppress(DpsupError):
                doc = self.status()
                ready = [g["spares_ready"] for g in doc["groups"]]
                return doc["state"] == "running" and ready == [1, 1]
            return False

        wait_for(whole, step=0.05)
        self.wanted = shape(self.status())

    def watch(self) -> None:
        """Note from now on how long no packet leaves."""
        self._watch.start()

    def _look(self) -> None:
        out = self.instance.folder / "wan.out.pcap"
        size, since = 0, time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            if (found := out.stat().st_size) != size:
                if now - since > 0.2:
                    self.gaps.append((round(now - since, 2), self.phase))
                size, since = found, now

    def end(self, *, one_generation: bool = True) -> dict[str, Any]:
        """Stop it, and compare all that went in with all that came out: of a generation, as the
        next one empties the file."""
        self.arm("stop")
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()
        self.ask(lambda one: one.stop(20))
        code, errors = self.ended()
        assert code == 0, errors[-2000:]
        doc = json.loads(self._output)
        assert doc["in_flight"] == doc["lost"] == 0
        assert not doc["dropped"], doc["dropped"]
        assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
        if not one_generation:
            return doc
        out = self.instance.folder / "wan.out.pcap"
        count = check(self.traffic, read_pcap(out), doc["received"] - ODD)
        print("packets:", count)
        print("gaps above 200 ms:", sorted(self.gaps, reverse=True)[:12])
        assert count.clean, count
        assert count.sent > 1000
        assert all(seconds < GAP_S for seconds, _ in self.gaps), "forwarding stopped"
        return doc

    # --- faults ----------------------------------------------------------------------------------

    def arm(self, phase: str, faults: Sequence[Fault] = ()) -> list[str]:
        """Nothing else is armed from now on; the names of these faults."""
        self.phase = phase
        named = []
        for one in faults:
            self.faults += 1
            named.append({"id": str(self.faults), **one})
        new = self.folder / "armed.new"
        new.write_text(json.dumps({"phase": phase, "faults": named}))
        new.rename(self.folder / "armed")
        return [one["id"] for one in named]

    def noted(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def fired(self, ids: list[str]) -> set[str]:
        return {e["id"] for e in self.noted("fired")} & set(ids)

    def reached(self, phase: str) -> list[str]:
        return [e["point"] for e in self.noted("reached") if e["phase"] == phase]

    def started(self) -> int:
        return len(self.noted("started"))

    # --- what is done to it ----------------------------------------------------------------------

    def ask(self, what: Callable[[dpsup.Instance], Any]) -> Any:
        """An answer, or None: a supervisor that crashes gives none."""
        with contextlib.suppress(DpsupError), dpsup.connect(self.instance.name) as one:
            return what(one)
        return None

    def status(self) -> dict[str, Any]:
        """Of a supervisor that is there."""

        def answer() -> dict[str, Any] | None:
            doc = self.ask(lambda one: one.status())
            return doc if doc and doc["supervisor"]["pid"] else None

        return wait_for(answer, step=0.05)

    def pid(self, worker: str) -> int:
        for group in self.status()["groups"]:
            for one in group["workers"]:
                if one["id"] == worker:
                    return int(one["pid"] or 0)
        return 0

    def kill(self, *pids: int, sig: int = signal.SIGKILL) -> None:
        for pid in pids:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)

    def metrics(self) -> list[int]:
        return pids_of("dpsup.instance.openmetrics", self.instance.name)

    def following(self) -> list[int]:
        return pids_of("dpsup.follow", self.instance.name)

    def spares(self) -> list[int]:
        return spare_pids(self.instance)

    def settle(self) -> None:
        """Until it is what it was before, by orders of a person where one was left half done."""
        deadline = time.monotonic() + SETTLE_S
        told = 0.0
        while (found := shape(self.status())) != self.wanted or not self.metrics():
            now = time.monotonic()
            assert now < deadline, f"{self.phase}: {found}\nis wanted: {self.wanted}"
            if now > told + 1.5:
                if told:
                    self._order()
                told = now
            time.sleep(0.05)

    def _order(self) -> None:
        for was in self.wanted["groups"]:
            name, n = was["name"], was["desired"]
            self.ask(lambda one, name=name, n=n: one.scale(name, n, wait=False))
        self.ask(lambda one: one.reset_failed())

    def faulted(self) -> list[dict[str, Any]]:
        return [e for e in self.instance.events() if e["type"] == "fault"]

    def until(self, what: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Whether it came to that in time."""
        deadline = time.monotonic() + timeout
        while not what():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


# --- stimuli --------------------------------------------------------------------------------------


def worker_dies(s: Sweep) -> None:
    s.kill(s.pid("fw/0"))


def all_die(s: Sweep) -> None:
    s.ask(lambda one: one.reset_failed())
    s.kill(*s.spares(), s.pid("fw/0"), s.pid("fw/1"), s.pid("ids/0"))


def spare_dies(s: Sweep) -> None:
    s.kill(*s.spares())


def seed_dies(s: Sweep) -> None:
    s.kill(s.status()["seed"]["pid"])


def seed_sticks(s: Sweep) -> None:
    """The next one never gets as far as its first word."""
    seed_dies(s)
    s.until(lambda: any(e["point"] == "action seed.kill" for e in s.noted("fired")), 20)


def scaled(s: Sweep) -> None:
    s.ask(lambda one: one.scale("fw", 3))
    s.ask(lambda one: one.scale("fw", "-1"))
    s.ask(lambda one: one.scale("fw", 2))


def restarted(s: Sweep) -> None:
    s.ask(lambda one: one.restart("ids"))
    s.ask(lambda one: one.restart("fw/1"))


def hangs(s: Sweep) -> None:
    pid = s.pid("ids/0")
    s.kill(pid, sig=signal.SIGSTOP)
    if s.ask(lambda one: one.restart("ids/0")) is None:
        s.kill(pid, sig=signal.SIGCONT)


def stopped(s: Sweep) -> None:
    pid = s.pid("fw/0")
    s.kill(pid, sig=signal.SIGSTOP)
    time.sleep(1.2)
    s.kill(pid, sig=signal.SIGCONT)


def _hold(s: Sweep) -> None:
    def held() -> bool:
        for group in s.status()["groups"]:
            for one in group["workers"]:
                if one["id"] == "ids/0":
                    if one["state"] == "running":
                        s.kill(one["pid"])
                    return bool(one["state"] == "held")
        return False

    s.until(held, 5)


def held(s: Sweep) -> None:
    _hold(s)
    s.ask(lambda one: one.reset_failed("ids"))


def held_and_scaled(s: Sweep) -> None:
    _hold(s)
    s.ask(lambda one: one.scale("ids", 0))
    s.ask(lambda one: one.scale("ids", 1))


def adopted_while_held(s: Sweep) -> None:
    """With a fault in `Spares.died` armed too."""
    _hold(s)
    spare_dies(s)
    time.sleep(1)


def adopted_without_seed(s: Sweep) -> None:
    seed_dies(s)
    spare_dies(s)
    worker_dies(s)


def rolled_out(s: Sweep) -> None:
    def rollout(one: dpsup.Instance) -> None:
        one._ask("rollout", 60.0, group="fw", args={"cycles": "200001"}, judge=0.2, wait=True)

    s.ask(rollout)
    s.ask(lambda one: one.rollout_undo("fw"))
    s.ask(lambda one: (one.rollout_status(), one.rollout_history("fw")))


def reloaded(s: Sweep) -> None:
    file = s.instance.file
    before = file.read_text()
    for text in (before.replace("count = 2", "count = 3"), before):
        # At once: the next supervisor may read it at any time.
        new = file.with_name("new.toml")
        new.write_text(text)
        new.rename(file)
        s.ask(lambda one: one.reload(dry_run=True))
        s.ask(lambda one: one.reload())


def rebalanced(s: Sweep) -> None:
    s.ask(lambda one: one.rebalance("fw", 0.1))


def looked_at(s: Sweep) -> None:
    s.ask(lambda one: one._ask("ping"))
    s.ask(lambda one: one.stats())
    s.ask(lambda one: one.audit())
    s.ask(lambda one: one.state("fw"))
    s.ask(lambda one: one.kill("ids/0", signal.SIGCONT))
    s.ask(lambda one: one.events())
    s.ask(lambda one: one.logs())
    time.sleep(0.6)


def table_changed(s: Sweep) -> None:
    """Also by a builder that has just been started anew."""
    s.ask(lambda one: one.table_change("seen", "set 0 1"))
    s.kill(*pids_of("dpsup.builder", s.instance.name))
    s.ask(lambda one: one.table_change("seen", "set 0 2"))


def metrics_die(s: Sweep) -> None:
    s.kill(*s.metrics())
    s.until(lambda: not s.metrics())


def follow_dies(s: Sweep) -> None:
    pids = s.following()
    s.kill(*pids)
    s.until(lambda: not set(s.following()) & set(pids))


def primary_dies(s: Sweep) -> None:
    s.kill(s.status()["primary"]["pid"])


Stimulus = Callable[[Sweep], None]
STIMULI: list[Stimulus] = [
    looked_at, worker_dies, spare_dies, seed_dies, all_die, scaled, restarted, rebalanced, reloaded,
    rolled_out, stopped, held, held_and_scaled, hangs, table_changed,
    metrics_die,
]  # fmt: skip


def with_adoption(points: Sequence[str]) -> list[Fault]:
    """A fault that brings the next supervisor about, then these in it."""
    return raising("entry Spares.died", *points)


@contextlib.contextmanager
def running(s: Sweep) -> Iterator[Sweep]:
    s.start("-o", "json")
    s.until_whole()
    s.watch()
    try:
        yield s
    finally:
        s._over.set()


def one_fault(s: Sweep, stimulus: Stimulus, faults: list[Fault], tries: int = 20) -> float:
    """Arm, do what leads there, and have it whole again; seconds that it took."""
    begin, at, before = time.monotonic(), time.time(), s.started()
    name = f"{stimulus.__name__}: {', '.join(f['point'] for f in faults)}"
    ids = s.arm(name, faults)
    for _ in range(tries):
        stimulus(s)
        if s.until(lambda: s.fired(ids) == set(ids), 2.0):
            break
        s.settle()
    if s.fired(ids) != set(ids):
        raise NotReached(f"{name}: not reached; fired {s.fired(ids)}")
    bugs = [f["point"] for f in faults if f["how"] == "raise" and f["point"] not in EARLY]
    early = sum(f["point"] in EARLY for f in faults)

    def said(point: str) -> list[str]:
        """The parts that an event of now blames for it."""
        return [e["name"] for e in s.faulted() if point in e["message"] and e["at"] > at]

    assert s.until(lambda: all(said(point) for point in bugs)), f"{name}: no event says so"
    crashes = sum("supervisor" in said(point) for point in bugs) + early
    assert s.until(lambda: s.started() >= before + crashes), f"{name}: no supervisor follows"
    s.settle()
    assert s.started() == before + crashes, f"{name}: more than one adoption for a fault"
    process = s.instance.process
    assert process is not None
    assert process.poll() is None, name
    return time.monotonic() - begin


__all__ = [
    "STIMULI", "NotReached", "Sweep", "one_fault", "raising", "running", "shape", "with_adoption",
]  # fmt: skip
