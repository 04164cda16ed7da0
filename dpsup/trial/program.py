# SPDX-License-Identifier: BSD-3-Clause
"""Starts dpsup-try: what it is told, and what it says."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dpsup.errors import DpsupError
from dpsup.packets.frames import Frame

PROGRAM = Path(__file__).resolve().parent.parent / "dpsup-try"
PACKET_MOST = 65535  # bytes
_IN = struct.Struct("=QII")
_OUT = struct.Struct("=QIIIIII")
_BEGIN_NS = 10**9  # the plugin's clock at the first packet

PACKET, EMITTED, COPY, TICKED = range(4)  # enum fate_role
OUT, DROP, ON, QUARANTINE, REFUSED, PUNT = range(6)  # enum fate_kind


class Fate(NamedTuple):
    """What became of a packet, or of one that came of it."""

    ns: int
    number: int  # from 0
    role: int
    kind: int
    arg: int
    data: bytes
    bucket: int  # 1 + the one that `dps_on_hash` says, 0: none


@dataclass(frozen=True, slots=True)
class Setting:
    """What the plugin finds around it. Its own group is the first one."""

    plugin: str
    builtin: bool
    ports: tuple[str, ...]
    groups: tuple[str, ...]
    args: tuple[tuple[str, str], ...]
    next: tuple[int, ...]  # verdict by port, or empty
    key: bytes
    fields: int
    burst: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Run:
    said: list[dict[str, Any]]
    fates: list[Fate]

    def all(self, what: str) -> Iterator[dict[str, Any]]:
        return (one for one in self.said if one["t"] == what)


def _packed(frames: Sequence[Frame], ports: Sequence[int]) -> bytes:
    first = frames[0].at_ns if frames else 0
    latest, parts = 0, []
    for frame, port in zip(frames, ports, strict=True):
        latest = max(latest, frame.at_ns - first)  # a clock that never goes back
        parts += [_IN.pack(_BEGIN_NS + latest, len(frame.data), port), frame.data]
    return b"".join(parts)


def _fates(data: bytes) -> list[Fate]:
    found, at = [], 0
    while at + _OUT.size <= len(data):
        ns, number, role, kind, arg, size, bucket = _OUT.unpack_from(data, at)
        at += _OUT.size
        bytes_ = data[at : at + size]
        found.append(Fate(ns - _BEGIN_NS, number, role, kind, arg, bytes_, bucket))
        at += size
    return found


def run(
    setting: Setting, frames: Sequence[Frame], ports: Sequence[int], *, sweeps: bool = False
) -> Run:
    """All packets, each coming in by its port. Raises: DpsupError."""
    words = ["parent", str(os.getpid())]
    words += ["builtin" if setting.builtin else "plugin", setting.plugin]
    for port in setting.ports:
        words += ["port", port]
    for group in setting.groups:
        words += ["group", group]
    for port_index, verdict in enumerate(setting.next):
        words += ["next", str(port_index << 16 | verdict)]
    for key, value in setting.args:
        words += [f"arg:{key}", value]
    words += ["burst", str(setting.burst), "timeout", str(setting.timeout)]
    words += ["key", setting.key.hex(), "fields", str(setting.fields)]
    words += ["sweep", "yes"] if sweeps else []
    with (
        tempfile.TemporaryFile() as packets,
        tempfile.TemporaryFile() as report,
        tempfile.TemporaryFile() as out,
    ):
        packets.write(_packed(frames, ports))
        packets.flush()
        files = {"packets": packets.fileno(), "report": report.fileno(), "out": out.fileno()}
        for name, number in files.items():
            words += [name, str(number)]
        done = subprocess.run(
            [PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stderr=None,
            pass_fds=files.values(),
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        report.seek(0)
        out.seek(0)
        if done.returncode != 0:
            raise DpsupError(
                f"the trial ended early (exit code {done.returncode})",
                code="E0543",
                help="what it printed says why",
            )
        said = [json.loads(line) for line in report.read().splitlines()]
        return Run(said, _fates(out.read()))
