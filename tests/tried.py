# SPDX-License-Identifier: BSD-3-Clause
"""Functions that dpsup ships, by `dpsup try`: packets at their times in, packets out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from dpsup.packets import pcapng
from dpsup.packets.frames import frames

DPSUP = Path(sys.executable).with_name("dpsup")
SECOND = 10**9
TOPOLOGY = """
version = 1
name = "tried"
{ports}
[[io]]
cores = "1"
[[workers]]
name = "fn"
plugin = "{plugin}"
input = {input}
{more}
[mempools.default]
mbufs = 16383
"""

Step = tuple[float, str, Packet | bytes]  # seconds, port, packet


@dataclass
class Tried:
    """A plugin of dpsup's in a topology of null ports; `more` is the rest of its group."""

    folder: Path
    plugin: str
    ports: Sequence[str]
    more: str

    def write(self) -> Path:
        ports = "".join(
            f'[[ports]]\nname = "{name}"\nvdev = "net_null{i}"\n'
            for i, name in enumerate(self.ports)
        )
        path = self.folder / "tried.toml"
        path.write_text(
            TOPOLOGY.format(
                ports=ports, plugin=self.plugin, more=self.more, input=json.dumps(list(self.ports))
            )
        )
        return path

    def attempt(self, steps: Sequence[Step], *words: str) -> subprocess.CompletedProcess[str]:
        parts = [pcapng.section("test")]
        parts += [pcapng.interface(name, "", 0) for name in self.ports]
        for at, port, packet in steps:
            frame = bytes(packet)
            number = list(self.ports).index(port)
            parts.append(pcapng.packet(number, 10**18 + round(at * SECOND), frame, len(frame)))
        (self.folder / "in.pcapng").write_bytes(b"".join(parts))
        return subprocess.run(
            [DPSUP, "try", self.plugin, self.folder / "in.pcapng", "--topology", self.write(),
             "--out", self.folder / "out.pcapng", "-o", "json", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def run(
        self, steps: Sequence[Step], *words: str
    ) -> tuple[dict[str, Any], list[tuple[str, Packet]]]:
        """What `dpsup try` says, and what left by which port."""
        done = self.attempt(steps, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        left = frames((self.folder / "out.pcapng").read_bytes())
        return json.loads(done.stdout), [(one.interface, Ether(one.data)) for one in left]

    def refusal(self) -> str:
        """Why it does not start."""
        done = self.attempt([(0, self.ports[0], Ether() / bytes(46))])
        assert done.returncode != 0
        return done.stdout + done.stderr
