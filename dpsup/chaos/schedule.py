# SPDX-License-Identifier: BSD-3-Clause
"""The times of the faults, as a pure function of seed, faults, rate and duration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from dpsup.errors import UsageError

# kind: what it does, how often it is drawn, least seconds between two, whose restart budget it uses
KINDS: dict[str, tuple[str, float, float, str]] = {
    "kill": ("SIGKILL to a worker", 8, 0, ""),
    "segv": ("SIGSEGV to a worker: its handler, then its end", 4, 0, ""),
    "stop": ("SIGSTOP to a worker, SIGCONT after 0.1 to 0.5 s", 1, 0, ""),
    "hang": ("a worker never comes back from a packet", 1, 0, ""),
    "spare-kill": ("SIGKILL to a spare", 2, 0, ""),
    "seed": ("SIGKILL to the seed", 1, 8, "seed"),
    "attach-kill": ("SIGKILL to the seed, and to the next one while it attaches", 1, 16, "seed"),
    "primary": ("SIGKILL to the primary: what is in flight is lost, and counted", 0.5, 15, "all"),
    "supervisor": ("SIGKILL to the supervisor, then `dpsup start`", 0.5, 15, "all"),
}
# Faults by which no packet is lost, and that cannot leave one of EAL's locks held.
USUAL = ("kill", "segv", "stop", "hang", "spare-kill", "seed")


@dataclass(frozen=True, slots=True)
class Fault:
    at: float  # seconds of traffic
    kind: str
    pick: float  # 0 to 1: which victim, how long


def parse_faults(text: str) -> tuple[str, ...]:
    """Raises: UsageError."""
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in KINDS:
            raise UsageError(f'no fault "{name}"', help=f"there are: {', '.join(KINDS)}")
    if not names:
        raise UsageError("no fault is named", help=f"there are: {', '.join(KINDS)}")
    return names


def parse_rate(text: str) -> float:
    """Faults a second, of "5/s", "30/m" or "5". Raises: UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?", text.strip())
    rate = float(found[1]) / {"s": 1, "m": 60, "h": 3600}[found[2] or "s"] if found else 0.0
    if not 0 < rate <= 1000:
        raise UsageError(f'"{text}" is no rate', help="write 5/s or 30/m, up to 1000/s")
    return rate


def schedule(seed: int, faults: tuple[str, ...], rate: float, duration: float) -> list[Fault]:
    """Faults at random times, `rate` a second on average. Faults of which the supervisor allows a
    few a minute keep a distance; where none may be drawn, none happens."""
    rng = Random(f"dpsup chaos {seed}")
    last: dict[str, float] = {}
    made = []
    at = rng.expovariate(rate)
    while at < duration:
        free = [k for k in faults if at - last.get(KINDS[k][3], -1e9) >= KINDS[k][2]]
        draw, pick = rng.random(), rng.random()
        if free:
            kind = _weighted(free, draw)
            if KINDS[kind][3]:
                last[KINDS[kind][3]] = at
            made.append(Fault(at, kind, pick))
        at += rng.expovariate(rate)
    return made


def _weighted(kinds: list[str], draw: float) -> str:
    left = draw * sum(KINDS[k][1] for k in kinds)
    for kind in kinds:
        left -= KINDS[kind][1]
        if left < 0:
            return kind
    return kinds[-1]
