# SPDX-License-Identifier: BSD-3-Clause
"""Packets that a DPDK primary has sent, over EAL's telemetry socket: the same meter for dpsup,
testpmd and client_server_mp, answered by a thread of DPDK's that takes microseconds."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpsup.errors import DpsupError
from dpsup.host.tied import wait_for

WINDOW_S = 0.1
SEGMENT = 5  # windows between two looks at the distance
APPEAR_S = 20.0


class Meter:
    """The sum of what the first `ports` ports have sent. Close it."""

    def __init__(self, directory: Path, ports: int, alive: Callable[[], bool]) -> None:
        self._ports = ports
        path = directory / "dpdk_telemetry.v2"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(5)

        def answers() -> bool:
            if not alive():
                raise DpsupError(f"the program that creates {path} has ended")
            try:
                self._socket.connect(str(path))
            except OSError:
                return False
            return True

        wait_for(answers, APPEAR_S, f"{path}")
        self._most = json.loads(self._socket.recv(1024))["max_output_len"]

    def ask(self, command: str) -> dict[str, int] | None:
        self._socket.send(command.encode())
        answer = json.loads(self._socket.recv(self._most))
        found: dict[str, int] | None = answer[command.partition(",")[0]]
        return found

    def sent(self) -> tuple[float, int]:
        """The time (seconds, monotonic), and packets so far."""
        begin = time.monotonic_ns()
        total = 0
        for port in range(self._ports):
            stats = self.ask(f"/ethdev/stats,{port}")
            total += stats["opackets"] if stats else 0
        return (begin + time.monotonic_ns()) / 2e9, total

    def wait_for_traffic(self) -> None:
        wait_for(lambda: self.sent()[1] > 0, APPEAR_S, "packets to flow", 0.02)

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Segment:
    """Some windows in a row, and how far apart the cores were before and after them."""

    distance_ns: tuple[float, ...]
    rates: tuple[float, ...]  # packets a second in each window


def segments(
    sent: Callable[[], tuple[float, int]], seconds: float, distance: Callable[[], float | None]
) -> list[Segment]:
    """Throughput in windows of 0.1 s over so many seconds, two windows at least. `distance` is
    called before, between and after segments of five; its time is in no window."""
    left = max(2, round(seconds / WINDOW_S))
    before = distance()
    found = []
    while left:
        rates = []
        # Polling threads first serve the workers that slept.
        time.sleep(WINDOW_S / 10)
        at, packets = sent()
        for _ in range(min(left, SEGMENT) if left != SEGMENT + 1 else left):
            time.sleep(max(0.0, at + WINDOW_S - time.monotonic()))
            now, total = sent()
            rates.append((total - packets) / (now - at))
            at, packets = now, total
        left -= len(rates)
        after = distance()
        apart = tuple(d for d in (before, after) if d is not None)
        found.append(Segment(apart, tuple(rates)))
        before = after
    return found
