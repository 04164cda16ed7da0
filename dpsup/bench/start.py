# SPDX-License-Identifier: BSD-3-Clause
"""Case `start`: how long starting, attaching, forking, taking over, scaling and commands take.

Times are the instance's own: CLOCK_MONOTONIC stamps of its events, and of the workers' slots.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dpsup.bench import rigs
from dpsup.bench.model import Reading
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, TWO_SILENT, Rig, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError
from dpsup.host.tied import wait_for

if TYPE_CHECKING:
    from dpsup.documents.events import Event

T = TypeVar("T")
SCALES = 10  # a run
KILLS = 10
COMMANDS = 7  # of each kind a run
LEAST = 3
BACK_S = 20.0
# The back-off is a setting of the policy, no cost: it is as short as possible.
RESTARTS = (
    'restart = { intensity = 1000, period = "1s", '
    'backoff = { initial = "1us", factor = 1, max = "1us" } }\n'
)


def reading(name: str, ns: Sequence[float], unit: str = "ms", **detail: Any) -> Reading:
    """A figure of durations in nanoseconds."""
    scale = {"ms": 1e6, "us": 1e3}[unit]
    samples = tuple(one / scale for one in ns)
    return Reading(f"start/{name}", median(samples), unit, "lower", samples, detail)


def when(events: list[Event], **wanted: Any) -> int:
    """The time of the first such event. Raises: DpsupError if there is none."""
    for event in events:
        if all(event.get(key) == value for key, value in wanted.items()):
            return int(event["at_ns"])
    raise DpsupError(f"no event {wanted} came")


def _first_packet(rig: Rig) -> int:
    """The time of the first worker's first packet, in nanoseconds."""
    found: list[int] = []

    def seen() -> bool:
        found[:] = [s["first_ns"] for s in rig.instance.stats()["slots"] if s["first_ns"]]
        return bool(found)

    wait_for(seen, BACK_S, "a first packet", 0.02)
    return min(found)


def _launch(setup: Setup) -> Step:
    body = POOL + TWO_NULL + group("forward", setup.cores, count=2, most=2)

    def run(_: Watch) -> list[Reading]:
        with rigs.instance(body, setup.cores) as rig:
            first = _first_packet(rig)
            events = rig.events()
        begin = rig.launched_ns
        parts = {
            "to_supervisor": when(events, kind="topology", new="starting"),
            "to_primary": when(events, kind="primary", new="running"),
            "to_seed": when(events, kind="seed", new="running"),
            "to_workers": when(events, kind="topology", new="running"),
        }
        attach = parts["to_seed"] - when(events, kind="seed", new="attaching")
        return [
            reading("first_packet", [first - begin]),
            *(reading(f"first_packet/{k}", [at - begin]) for k, at in parts.items()),
            reading("attach", [attach]),
        ]

    return Step("start/launch", run)


def _some(most: int, setup: Setup) -> int:
    """Less of all where measurements are to be shorter than a second."""
    return max(LEAST, round(most * min(1.0, setup.seconds)))


def _scale(setup: Setup) -> Step:
    """On an instance without packets: beside a worker that polls, the figure would be how the
    kernel shares a core."""
    body = POOL + TWO_SILENT + group("forward", setup.cores, count=1, most=2)

    def run(_: Watch) -> list[Reading]:
        forks, ups, downs = [], [], []
        with rigs.instance(body, setup.cores) as rig:
            for _i in range(_some(SCALES, setup)):
                seen = rig.last_event()
                begin = time.monotonic_ns()
                rig.instance.scale("fw", 2)
                ups.append(time.monotonic_ns() - begin)
                told = when(rig.events(seen), kind="worker", name="fw/1", new="starting")
                forks.append(rig.instance.stats()["slots"][1]["ready_ns"] - told)
                begin = time.monotonic_ns()
                rig.instance.scale("fw", 1)
                downs.append(time.monotonic_ns() - begin)
        return [
            reading("fork_ready", forks),
            reading("scale_up", ups),
            reading("scale_down", downs),
        ]

    return Step("start/scale", run)


def _failover(setup: Setup, name: str, spares: int) -> Step:
    """Kills workers while null ports send all that they can."""
    more = f"{RESTARTS}spares = {spares}\n"
    body = POOL + TWO_NULL + group("macswap", setup.cores, count=1, most=1, more=more)

    def run(_: Watch) -> list[Reading]:
        times: dict[str, list[float]] = {}
        with rigs.instance(body, setup.cores) as rig, rig.meter():
            for _i in range(_some(KILLS, setup)):
                for part, ns in _one_death(rig, spares).items():
                    times.setdefault(part, []).append(ns)
        return [reading(f"{name}{part}", ns, "us") for part, ns in times.items()]

    return Step(f"start/{name}", run)


def _await(what: Callable[[], T | None], doing: str) -> T:
    """The first value of `what` that is not None."""
    found: list[T] = []

    def there() -> bool:
        value = what()
        if value:
            found.append(value)
        return bool(found)

    wait_for(there, BACK_S, doing, 0.02)
    return found[0]


def _one_death(rig: Rig, spares: int) -> dict[str, float]:
    """Nanoseconds from a kill to each later step; "" is to the successor's first packet."""

    def ready() -> int:
        found = rig.instance.status()["groups"][0]
        worker = found["workers"][0]
        whole = worker["state"] == "running" and found["spares_ready"] == spares
        first = rig.instance.stats()["slots"][0]["first_ns"]
        return (worker["pid"] or 0) if whole and first else 0

    pid = _await(ready, "a worker")
    seen = rig.last_event()
    gone: list[int] = []
    pidfd = os.pidfd_open(pid)

    def watch() -> None:
        select.select([pidfd], [], [])
        gone.append(time.monotonic_ns())

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.01)  # asleep by then
    begin = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    watcher.join()
    os.close(pidfd)

    def death() -> Event | None:
        events = rig.events(seen)
        return next((e for e in events if e["type"] == "death" and e["pid"] == pid), None)

    found = _await(death, "word of the death")["times"]

    def first() -> int:
        at = int(rig.instance.stats()["slots"][0]["first_ns"])
        return at if at > begin else 0

    parts: dict[str, float] = {
        "": _await(first, "a successor") - begin,
        "/lease": found["noticed_ns"] - begin,
        "/pidfd": gone[0] - begin,
        "/repair": found["repaired_ns"] - found["noticed_ns"],
    }
    if "seated_ns" in found:
        parts["/seat"] = found["seated_ns"] - found["claimed_ns"]
    return parts


def _commands(setup: Setup) -> Step:
    """How long a user waits for `dpsup --help` and `dpsup status`, and for the interpreter alone in
    turn with them: their ratio says what dpsup adds, on any machine."""
    body = POOL + TWO_SILENT + group("forward", setup.cores, count=1, most=1)
    main = "from dpsup.__main__ import main; main()"

    def run(_: Watch) -> list[Reading]:
        times: dict[str, list[float]] = {}
        with rigs.instance(body, setup.cores) as rig:
            asked = {
                "python": ("pass",),
                "help": (main, "--help"),
                "status": (main, "-n", rig.name, "status"),
            }
            for _i in range(_some(COMMANDS, setup)):
                for name, words in asked.items():
                    # -P: the installed dpsup, even if the current directory has the sources.
                    begin = time.monotonic_ns()
                    argv = [sys.executable, "-P", "-c", *words]
                    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
                    times.setdefault(name, []).append(time.monotonic_ns() - begin)
        bare = median(times["python"])
        return [
            *(reading(f"command/{name}", ns) for name, ns in times.items()),
            *(
                Reading(f"start/command/{name}_to_python", median(times[name]) / bare, "×", "lower")
                for name in ("help", "status")
            ),
        ]

    return Step("start/commands", run)


def steps(setup: Setup) -> list[Step]:
    return [
        _commands(setup),
        _launch(setup),
        _scale(setup),
        _failover(setup, "failover", 0),
        _failover(setup, "takeover", 1),
    ]
