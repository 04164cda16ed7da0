# SPDX-License-Identifier: BSD-3-Clause
"""Packets in quarantine: for each a pcap file and, beside it, the reason as JSON.

The io core takes such a packet out of the traffic; the primary shows it; the supervisor writes it
to disk, on a thread of its own, and then has the mbuf freed. It reports and gives up what it cannot
write: a full or slow disk stops nothing. The directory outlives the instance, and is bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dpsup.errors import NoSuchObject, NotPermitted, NotRunning, UsageError
from dpsup.host import private
from dpsup.host.process import signal_name
from dpsup.instance import client, runtime_dir
from dpsup.instance.runtime_dir import PLAN, Runtime
from dpsup.instance.status import API
from dpsup.packets.pcap import to_bytes
from dpsup.plan.model import Plan
from dpsup.plan.paths import state_dir

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.printed import Quarantine
    from dpsup.documents.quarantine import Death, Kept, Packet, Story
    from dpsup.documents.story import Evidence

MOST_PACKETS = 256
MOST_BYTES = 16 << 20  # of both files of each
POISON = "poison"  # it is to blame for two deaths
ASKED = "asked"  # its plugin's verdict
FOLDER = "quarantine"

_FILE = re.compile(r"(\d{4,})\.(pcap|json)")


@dataclass(slots=True)
class _Kept:
    why: str
    size: int


class Folder:
    """The directory of one instance: NNNN.pcap and NNNN.json, the oldest of which make room. What a
    plugin asked for makes room before what killed workers, as long as it takes up more."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._kept: dict[int, _Kept] | None = None

    def _read(self) -> dict[int, _Kept]:
        found: dict[int, _Kept] = {}
        with contextlib.suppress(FileNotFoundError):
            for one in self.path.iterdir():
                match = _FILE.fullmatch(one.name)
                if match:
                    kept = found.setdefault(int(match[1]), _Kept(ASKED, 0))
                    kept.size += one.stat().st_size
                    if match[2] == "json" and (story := _read(one)):
                        kept.why = story["why"]
        return found

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.path / f"{number:04d}.pcap", self.path / f"{number:04d}.json"

    def _remove(self, number: int) -> None:
        for one in self._files(number):
            one.unlink(missing_ok=True)

    def keep(self, frame: bytes, story: Story) -> int:
        """Write one down; its number. Raises: OSError."""
        os.close(private.create_directory(self.path, _is_ours))
        if self._kept is None:
            self._kept = self._read()
        kept = self._kept
        number = max(kept, default=0) + 1
        data = to_bytes([frame], story["at"])
        text = json.dumps({**story, "number": number}, indent=2).encode()
        self._make_room(kept, len(data) + len(text))
        try:
            # The story last: what has none was not finished, and is not listed.
            for one, content in zip(self._files(number), (data, text), strict=True):
                _write(one, content)
        except OSError:
            self._kept = None  # another process may write here
            if not self._files(number)[1].exists():
                with contextlib.suppress(OSError):
                    self._remove(number)
            raise
        kept[number] = _Kept(story["why"], len(data) + len(text))
        return number

    def _make_room(self, kept: dict[int, _Kept], size: int) -> None:
        while kept and (
            len(kept) >= MOST_PACKETS or sum(k.size for k in kept.values()) + size > MOST_BYTES
        ):
            asked = [n for n, k in kept.items() if k.why == ASKED]
            oldest = min(asked) if 2 * len(asked) > len(kept) else min(kept)
            self._remove(oldest)
            del kept[oldest]

    def stories(self) -> list[Kept]:
        """All of them, the oldest first. Raises: NotPermitted."""
        try:
            names = sorted(one for one in self.path.iterdir() if one.suffix == ".json")
        except FileNotFoundError:
            return []
        except OSError as e:
            raise NotPermitted(f"cannot read {self.path}: {e.strerror}", code="E0713") from e
        stories = (_read(one) for one in names if _FILE.fullmatch(one.name))
        return sorted((s for s in stories if s), key=lambda s: int(s["number"]))

    def story(self, number: int) -> Kept:
        """Raises: NoSuchObject, NotPermitted."""
        found = self.stories()
        for one in found:
            if one["number"] == number:
                return one
        there = (
            f"there are {found[0]['number']} to {found[-1]['number']}" if found else "it is empty"
        )
        raise NoSuchObject(f"no packet {number} in {self.path}", code="E0712", help=there)

    def pcap(self, number: int) -> str:
        return str(self._files(number)[0])


def _is_ours(name: str, found: os.stat_result) -> bool:
    """Is it a file of a quarantine, or what every new file system has?"""
    if name == "lost+found":
        return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())
    own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return own and _FILE.fullmatch(name) is not None


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _read(path: Path) -> Kept | None:
    """A story, or None: one that was not finished, or is not ours."""
    with contextlib.suppress(OSError, ValueError):
        story = json.loads(path.read_text())
        if isinstance(story, dict) and {"number", "why", "deaths"} <= story.keys():
            return cast("Kept", story)
    return None


# --- stories --------------------------------------------------------------------------------------


def _worker(plan: Plan, slot: int) -> tuple[str, str, str]:
    """Group, worker and plugin of a slot."""
    for group in plan.groups:
        if group.first_slot <= slot < group.first_slot + group.max:
            return group.name, f"{group.name}/{slot - group.first_slot}", group.plugin
    return "", "", ""


def describe(plan: Plan, packet: Evidence, at: float, at_ns: int) -> Story:
    """The story of a packet as the primary tells it; `at` (wall clock, seconds) and `at_ns`
    (monotonic) are the same moment."""
    group, name, plugin = _worker(plan, packet["slot"])
    deaths: list[Death] = []
    for death in packet["deaths"]:
        of, worker, ran = _worker(plan, death["slot"])
        number = death["signal"]
        deaths.append(
            {
                "at": at - (at_ns - death["noticed_ns"]) / 1e9,
                "at_ns": death["noticed_ns"],
                "group": of,
                "worker": worker,
                "slot": death["slot"],
                "plugin": ran,
                "pid": death["pid"],
                "hung": bool(death["hung"]),
                "signal": signal_name(number) if number else None,
                "code": death["code"] if number else None,
                "address": f"{death['address']:#x}" if number else None,
                "backtrace": death["frames"],
                # An older primary does not tell them.
                "program_base": f"{death.get('program_base', 0):#x}",
                "plugin_base": f"{death.get('plugin_base', 0):#x}",
                "plugin_digest": f"{digest:016x}"
                if (digest := death.get("plugin_digest", 0))
                else "",
                "undone": bool(death["undone"]),
            }
        )
    return {
        "apiVersion": API,
        "kind": "QuarantinedPacket",
        "instance": plan.name,
        "generation": plan.generation,
        "at": at,
        "why": POISON if len(deaths) > 1 else ASKED,
        "group": group,
        "worker": name,
        "plugin": plugin,
        "port": packet["port"],
        "length": packet["len"],
        "flow_hash": f"{packet['hash']:#010x}",
        "deaths": deaths,
    }


# --- finding --------------------------------------------------------------------------------------


def _planned(where: Runtime) -> str | None:
    """Where an instance that has a runtime directory keeps them."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(where.read(PLAN))["quarantine_dir"])
    return None


def _state_dir(name: str) -> Path:
    # Not $STATE_DIRECTORY: systemd sets it for a unit, and this process is not the instance's.
    env = {k: v for k, v in os.environ.items() if k != "STATE_DIRECTORY"}
    return Path(state_dir(name, env, is_root=os.geteuid() == 0, uid=os.geteuid()))


def find(name: str | None) -> Folder:
    """The directory of an instance, running or not; of the only one where none is named. Raises:
    NotRunning, UsageError."""
    known = client.running()
    if name is None and len(known) != 1:
        left = sorted(one.parent.name for one in _state_dir("x").parent.glob(f"*/{FOLDER}"))
        names = sorted({*known, *left})
        if not names:
            raise NotRunning(
                "no instance is running, and none has packets in quarantine", code="E0715"
            )
        if len(names) > 1:
            raise UsageError(
                f"several instances may have packets in quarantine: {', '.join(names)}",
                code="E0714",
                help="choose one with -n NAME",
            )
        name = names[0]
    name = name or next(iter(known))
    where = runtime_dir.instances().get(name)
    planned = _planned(where) if where is not None else None
    return Folder(planned or _state_dir(name) / FOLDER)


def listing(directory: Folder) -> Quarantine:
    packets: list[Packet] = [
        {**s, "file": directory.pcap(s["number"])} for s in directory.stories()
    ]
    return {
        "apiVersion": API,
        "kind": "Quarantine",
        "folder": str(directory.path),
        "packets": packets,
    }


def show(directory: Folder, number: int) -> Packet:
    return {**directory.story(number), "file": directory.pcap(number)}
