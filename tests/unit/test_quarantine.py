# SPDX-License-Identifier: BSD-3-Clause
"""The folder of quarantined packets: bounded, private, whole or not there."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from unit.fakehost import FILE, FULL, machine

from dpsup.errors import NoSuchObject, NotRunning, UsageError
from dpsup.instance import quarantine
from dpsup.instance.quarantine import Folder, describe
from dpsup.plan.model import Plan
from dpsup.plan.place import make_plan
from dpsup.supervisor.evidence import Keeper
from dpsup.topology.load import load


def plan() -> Plan:
    host = machine(FULL)
    topology, _ = load(FILE, host)
    assert topology is not None
    return make_plan(topology, host)


def story(why: str = "poison") -> dict[str, Any]:
    return {"at": 1_700_000_000.25, "why": why, "deaths": []}


def numbers(folder: Folder) -> list[int]:
    return [s["number"] for s in folder.stories()]


def test_nothing_is_made_before_there_is_something_to_keep(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b")
    assert folder.stories() == []
    assert not folder.path.exists()
    with pytest.raises(NoSuchObject):
        folder.story(1)
    assert folder.keep(b"x", story()) == 1
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_volume_is_closed_to_others_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    for mode, left in ((0o2777, 0o2755), (0o755, 0o755), (0o775, 0o755)):
        tmp_path.chmod(mode)
        Folder(tmp_path).keep(b"x", story())
        assert tmp_path.stat().st_mode & 0o7777 == left
    (tmp_path / "syslog").touch()
    tmp_path.chmod(0o775)
    with pytest.raises(PermissionError):
        Folder(tmp_path).keep(b"x", story())
    assert tmp_path.stat().st_mode & 0o777 == 0o775


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert [folder.keep(b"x", story()) for _ in range(3)] == [1, 2, 3]
    assert Folder(tmp_path).keep(b"y", story()) == 4
    assert numbers(folder) == [1, 2, 3, 4]


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST_PACKETS", 4)
    folder = Folder(tmp_path)
    for _ in range(10):
        folder.keep(b"x", story())
    assert numbers(folder) == [7, 8, 9, 10]
    assert len(list(tmp_path.iterdir())) == 8
    # What is there already counts, by bytes as well.
    monkeypatch.setattr(quarantine, "MOST_BYTES", 3000)
    again = Folder(tmp_path)
    again.keep(bytes(2000), story())
    assert numbers(again)[-1] == 11
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 3000


def test_what_plugins_ask_for_does_not_drive_poison_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_PACKETS", 6)
    folder = Folder(tmp_path)
    for why in ("poison", "poison", *["asked"] * 50):
        folder.keep(b"x", story(why))
    assert numbers(Folder(tmp_path))[:2] == [1, 2]


def test_half_a_packet_is_not_listed_and_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    folder.keep(b"x", story())
    (tmp_path / "0009.json").write_text('{"number": 9, "wh')
    (tmp_path / "notes.txt").write_text("mine")
    assert numbers(folder) == [1]
    whole = quarantine._write

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, content)

    monkeypatch.setattr(quarantine, "_write", full)
    with pytest.raises(OSError, match="No space"):
        folder.keep(b"y", story())
    monkeypatch.undo()
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "0001.json", "0001.pcap", "0009.json", "notes.txt",
    ]  # fmt: skip
    assert folder.keep(b"z", story()) == 10


def packet(deaths: int) -> dict[str, Any]:
    death = {
        "slot": 1, "noticed_ns": 4_000_000_000, "pid": 7, "hung": 0, "signal": 11, "code": 1,
        "address": 16, "frames": ["0x1"], "undone": 1,
        "program_base": 4096, "plugin_base": 0, "plugin_digest": 0,
    }  # fmt: skip
    return {
        "io": 0, "slot": 0, "port": "wan", "len": 3, "hash": 255, "bytes": "616263",
        "deaths": [death] * deaths,
    }  # fmt: skip


def test_a_story() -> None:
    told = describe(plan(), packet(2), 1000.0, 5_000_000_000)
    assert (told["why"], told["group"], told["worker"], told["port"]) == (
        "poison", "fw", "fw/0", "wan",
    )  # fmt: skip
    assert told["flow_hash"] == "0x000000ff"
    death = told["deaths"][1]
    assert (death["at"], death["worker"], death["signal"], death["address"]) == (
        999.0, "fw/1", "SIGSEGV", "0x10",
    )  # fmt: skip
    assert (death["program_base"], death["plugin_base"], death["plugin_digest"]) == (
        "0x1000", "0x0", "",
    )  # fmt: skip
    # One death is no proof: then it is there because its plugin said so.
    assert describe(plan(), packet(1), 1000.0, 5_000_000_000)["why"] == "asked"


class Primary:
    """One that shows packets until they are released."""

    def __init__(self, n: int) -> None:
        self.waiting = [packet(2) for _ in range(n)]

    async def ask(self, verb: str, **_: Any) -> Any:
        if verb == "quarantine":
            return list(self.waiting[:2])
        self.waiting.pop(0)
        return None


def test_all_that_waits_is_kept_and_then_released(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    primary = Primary(5)
    keeper = Keeper(Folder(tmp_path), lambda **e: events.append(e))
    asyncio.run(keeper.collect(plan(), primary.ask))
    assert [e["number"] for e in events] == numbers(keeper.directory) == [1, 2, 3, 4, 5]
    assert not primary.waiting


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    primary = Primary(2)
    (tmp_path / "file").write_text("")
    keeper = Keeper(Folder(tmp_path / "file"), lambda **e: events.append(e))
    asyncio.run(keeper.collect(plan(), primary.ask))
    assert [e["number"] for e in events] == [None, None]
    assert not primary.waiting


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    folder = Folder(tmp_path)
    monkeypatch.setattr(folder, "keep", lambda *_: hangs.wait())
    keeper = Keeper(folder, lambda **_: None)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(keeper.collect(plan(), Primary(1).ask), 0.05)

    asyncio.run(main())  # also the loop's end
    hangs.set()


def test_which_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine.client, "running", dict)
    monkeypatch.setattr(quarantine.runtime_dir, "instances", dict)
    monkeypatch.setattr(quarantine.os, "geteuid", lambda: 7)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", "/somebody/elses")
    with pytest.raises(NotRunning):
        quarantine.find(None)
    assert quarantine.find("edge").path == tmp_path / "dpsup/edge/quarantine"
    quarantine.find("edge").keep(b"x", story())
    assert quarantine.find(None).path == tmp_path / "dpsup/edge/quarantine"
    quarantine.find("other").keep(b"x", story())
    with pytest.raises(UsageError, match="edge, other"):
        quarantine.find(None)
