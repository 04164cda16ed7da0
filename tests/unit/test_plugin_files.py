# SPDX-License-Identifier: BSD-3-Clause
"""Private copies of plugin files: taken, kept, pruned, compared with what is on disk."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from unit.fakecore import TWO, Parts, model

from dpsup.errors import DpsupError, TimedOut
from dpsup.instance import plugins
from dpsup.instance.runtime_dir import OURS, Runtime
from dpsup.plan.copies import plugin_copy
from dpsup.supervisor import disk
from dpsup.supervisor.plugin_files import PluginFiles
from dpsup.supervisor.revisions import Ledger
from dpsup.supervisor.rollout import Options, plan_revision


@pytest.fixture
def so(tmp_path: Path) -> Path:
    file = tmp_path / "fw.so"
    file.write_bytes(b"\x7fELF one")
    return file


def test_a_copy_outlives_its_file_in_every_way(tmp_path: Path, so: Path) -> None:
    digest, copy = plugins.take(tmp_path, str(so))
    assert copy == str(tmp_path / "plugins" / f"{digest}-fw.so")
    assert plugins.digest_in(copy) == digest
    assert plugins.on_disk(str(so), copy) == "same"
    so.write_bytes(b"\x7fELF two, in place")
    assert Path(copy).read_bytes() == b"\x7fELF one"
    assert plugins.on_disk(str(so), copy) == "changed"
    os.truncate(so, 0)
    assert plugins.on_disk(str(so), copy) == "changed"
    so.unlink()
    assert plugins.on_disk(str(so), copy) == "missing"
    so.mkdir()
    assert plugins.on_disk(str(so), copy) == "changed"
    so.rmdir()
    # The same contents again, at another time: nothing is newer.
    so.write_bytes(b"\x7fELF one")
    assert plugins.on_disk(str(so), copy) == "same"
    assert plugins.take(tmp_path, str(so)) == (digest, copy)


def test_same_size_and_time_are_the_same_and_same_size_alone_is_not(
    tmp_path: Path, so: Path
) -> None:
    _, copy = plugins.take(tmp_path, str(so))
    so.write_bytes(b"\x7fELF six")
    os.utime(so, (1, 1))
    assert plugins.on_disk(str(so), copy) == "changed"


def test_a_changed_file_is_read_once(
    tmp_path: Path, so: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, copy = plugins.take(tmp_path, str(so))
    reads: list[str] = []
    read = plugins._read
    monkeypatch.setattr(plugins, "_read", lambda path: (reads.append(path), read(path))[1])
    for text in (b"\x7fELF two", b"\x7fELF three"):
        so.write_bytes(text)
        for _ in range(3):
            assert plugins.on_disk(str(so), copy) == "changed"
    assert len(reads) == 2


def test_a_copy_is_private(tmp_path: Path, so: Path) -> None:
    _, copy = plugins.take(tmp_path, str(so))
    assert (tmp_path / "plugins").stat().st_mode & 0o077 == 0
    assert Path(copy).stat().st_mode & 0o277 == 0
    # A link in the place of the new copy is not followed.
    target = tmp_path / "else"
    target.write_text("untouched")
    so.write_bytes(b"\x7fELF two")
    digest, other = plugins.take(tmp_path, str(so))
    Path(other).unlink()
    Path(f"{other}.new").symlink_to(target)
    assert plugins.take(tmp_path, str(so)) == (digest, other)
    assert target.read_text() == "untouched" and not Path(other).is_symlink()


def test_what_looks_beside_itself_is_loaded_in_place(tmp_path: Path, so: Path) -> None:
    so.write_bytes(b"\x7fELF $ORIGIN/lib")
    _, copy = plugins.take(tmp_path, str(so))
    assert copy == str(so) and plugins.on_disk(str(so), copy) == "in place"


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.so"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(DpsupError) as caught:
        plugins.take(tmp_path, str(path))
    assert caught.value.code == "E0501" and "cannot read plugin" in caught.value.message


def test_no_room_for_a_copy_names_the_place(tmp_path: Path, so: Path) -> None:
    (tmp_path / "plugins").write_text("in the way")
    with pytest.raises(DpsupError) as caught:
        plugins.take(tmp_path, str(so))
    assert "cannot copy plugin" in caught.value.message and "runtime_dir" in caught.value.help


def test_a_built_in_plugin_has_no_copy(tmp_path: Path) -> None:
    assert plugins.take(tmp_path, "") == ("", "") and plugins.on_disk("", "") == ""
    plan = model(tmp_path).plan
    assert plugins.copied(tmp_path, plan) == plan


def test_the_copies_go_with_the_runtime_directory(tmp_path: Path, so: Path) -> None:
    where = Runtime(str(tmp_path / "edge"), "edge")
    where.acquire()
    plugins.take(where.path, str(so))
    assert "plugins" in OURS
    where.release()
    assert not where.path.exists()


def parts(folder: Path, so: Path) -> Parts:
    one = Parts(folder, TWO)
    one.core.events.entries.clear()
    _target(one, str(so))
    return one


def _target(one: Parts, path: str) -> None:
    """The group runs that file."""
    group, ledger = one.model.groups[0], one.model.ledgers[0]
    digest, copy = plugins.take(one.model.runtime.path, path)
    ledger.current.plugin = ledger.current.plugin_path = path
    ledger.current.digest, ledger.current.plugin_copy = digest, copy
    plan_revision(one.model, group, ledger.current)


def test_a_change_on_disk_is_told_once(tmp_path: Path, so: Path) -> None:
    one = parts(tmp_path, so)
    files = PluginFiles(one.core, one.model)
    group = one.model.groups[0]

    def looks() -> list[str]:
        asyncio.run(files.compare(group))
        return [e["message"] for e in one.core.events.of("advice")]

    assert looks() == [] and group.on_disk == "same"
    so.write_bytes(b"\x7fELF two")
    (said,) = looks()
    assert "has changed on disk" in said and f"--plugin {so}" in said
    assert looks() == [said] and group.on_disk == "changed"
    so.unlink()
    assert "is gone" in looks()[1]


def test_a_look_that_fails_is_not_the_last_one(
    tmp_path: Path, so: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = parts(tmp_path, so)
    files, looks = PluginFiles(one.core, one.model), []

    async def compare(group: object) -> None:
        looks.append(group)
        if len(looks) == 3:
            raise asyncio.CancelledError
        raise ZeroDivisionError

    monkeypatch.setattr(files, "compare", compare)
    monkeypatch.setattr("dpsup.supervisor.plugin_files.LOOK_S", 0.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(files.run())
    assert [name for name, _ in one.core.faults] == ["plugin files"] * 2


def test_the_same_path_rolls_out_what_it_has_become_and_back(tmp_path: Path, so: Path) -> None:
    one = parts(tmp_path, so)
    group, ledger = one.model.groups[0], one.model.ledgers[0]
    rollouts, first = one.rollouts, ledger.current
    assert asyncio.run(rollouts.begin(group, str(so), None, Options())) is None  # it runs that
    so.write_bytes(b"\x7fELF two")
    # Arguments alone mean the plugin that runs.
    changed = asyncio.run(rollouts.begin(group, None, {"x": "y"}, Options()))
    assert changed is not None and changed.target.plugin_copy == first.plugin_copy
    ledger.running = None
    ledger.revisions.remove(changed.target)
    new = asyncio.run(rollouts.begin(group, str(so), None, Options()))
    assert new is not None and new.target.digest != first.digest
    assert Path(new.target.plugin_copy).read_bytes() == b"\x7fELF two"
    ledger.running = None
    first.state, new.target.state = "replaced", "current"
    so.unlink()
    back = asyncio.run(rollouts.undo(group, wait=False))
    assert back["changed"] and ledger.running is not None
    assert ledger.running.target.plugin_copy == first.plugin_copy
    assert Path(first.plugin_copy).read_bytes() == b"\x7fELF one"
    one.core.drop()


def test_what_is_loaded_in_place_needs_a_file_for_each_version(tmp_path: Path, so: Path) -> None:
    so.write_bytes(b"\x7fELF $ORIGIN one")
    one = parts(tmp_path, so)
    group, ledger, rollouts = one.model.groups[0], one.model.ledgers[0], one.rollouts
    first = ledger.current
    assert Ledger.begin(group.plan).current.digest == first.digest, "it is that of the contents"
    assert asyncio.run(rollouts.begin(group, str(so), None, Options())) is None
    for text in (b"\x7fELF $ORIGIN two", b"\x7fELF two"):
        so.write_bytes(text)
        with pytest.raises(DpsupError) as caught:
            asyncio.run(rollouts.begin(group, str(so), None, Options()))
        assert caught.value.code == "E0718" and len(ledger.revisions) == 1
    other = so.with_name("fw-2.so")
    other.write_bytes(b"\x7fELF $ORIGIN two")
    new = asyncio.run(rollouts.begin(group, str(other), None, Options()))
    assert new is not None
    ledger.running = None
    first.state, new.target.state = "replaced", "current"
    with pytest.raises(DpsupError) as caught:
        asyncio.run(rollouts.undo(group, wait=False))
    assert caught.value.code == "E0717" and "has changed since" in caught.value.message
    so.write_bytes(b"\x7fELF $ORIGIN one")
    assert asyncio.run(rollouts.undo(group, wait=False))["changed"]
    one.core.drop()


def test_copies_that_no_version_needs_are_removed(tmp_path: Path, so: Path) -> None:
    copies = []
    for n in range(4):
        so.write_bytes(b"\x7fELF %d" % n)
        copies.append(plugins.take(tmp_path, str(so))[1])
    plugins.prune(tmp_path, copies[2:])
    assert sorted((tmp_path / "plugins").iterdir()) == sorted(map(Path, copies[2:]))


def test_the_files_that_a_plugin_is_handed_are_copied_too(tmp_path: Path, so: Path) -> None:
    one = parts(tmp_path, so)
    group, ledger, rollouts = one.model.groups[0], one.model.ledgers[0], one.rollouts
    routes, first = tmp_path / "routes.txt", ledger.current
    routes.write_bytes(b"$ORIGIN one")
    wanted = (("file:routes", str(routes)), ("n", "7"))

    def begin(args: dict[str, str]) -> str:
        """The copy that a rollout to these arguments loads; then it has become what runs."""
        made = asyncio.run(rollouts.begin(group, None, args, Options()))
        assert made is not None
        for revision in ledger.revisions:
            revision.state = "replaced" if revision.state == "current" else revision.state
        ledger.running, made.target.state = None, "current"
        plan_revision(one.model, group, made.target)
        return dict(made.target.args)["file:routes"]

    copy = begin(dict(wanted))
    assert Path(copy).parent == one.model.runtime.path / "plugins"
    assert asyncio.run(rollouts.begin(group, None, dict(wanted), Options())) is None  # it runs that
    before = plugins.digests([str(routes)])[str(routes)]
    assert plugins.digest_in(plugins.files_of(group.plan.args)["routes"]) == before
    routes.write_bytes(b"two")
    assert Path(copy).read_bytes() == b"$ORIGIN one"
    assert plugins.digests([str(routes)])[str(routes)] != before
    second = begin({"file:routes": str(routes)})
    assert Path(second).read_bytes() == b"two"
    # Both stay for an undo; other arguments alone mean the same file.
    routes.unlink()
    plugins.prune(one.model.runtime.path, ledger.copies())
    assert begin({"n": "8"}) == second and Path(copy).exists()
    assert plugins.take_files(one.model.runtime.path, wanted[1:]) == wanted[1:]
    with pytest.raises(DpsupError) as caught:
        asyncio.run(rollouts.begin(group, None, dict(wanted), Options()))
    assert caught.value.code == "E0511" and "`routes`" in caught.value.message
    assert first.state == "replaced"
    one.core.drop()


def test_a_name_of_any_length_and_letters_is_copied(tmp_path: Path, so: Path) -> None:
    long = tmp_path / ("ä" * 120 + ".txt")
    long.write_text("routes")
    ((_, copy),) = plugins.take_files(tmp_path, (("file:routes", str(long)),))
    assert Path(copy).read_text() == "routes" and copy.endswith("ä.txt")
    assert copy == plugin_copy(str(tmp_path), plugins.digest_in(copy), str(long))


def test_a_disk_that_hangs_stops_neither_the_supervisor_nor_other_rollouts(
    tmp_path: Path, so: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = parts(tmp_path, so)
    group, rollouts = one.model.groups[0], one.rollouts
    over, take = threading.Event(), plugins.take

    def hang(directory: Path, path: str) -> tuple[str, str]:
        if "slow" in path:
            over.wait(60)
        return take(directory, path)

    monkeypatch.setattr(plugins, "take", hang)

    async def work() -> None:
        slow = asyncio.create_task(rollouts.begin(group, "/mnt/slow.so", None, Options()))
        for _ in range(10):  # the loop goes on
            await asyncio.sleep(0.001)
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        monkeypatch.setattr(disk, "PATIENCE_S", 0.05)
        with pytest.raises(TimedOut) as caught:
            await rollouts.begin(group, "/mnt/slow.so", None, Options())
        assert caught.value.code == "E0728" and "group fw" in caught.value.message
        monkeypatch.setattr(disk, "PATIENCE_S", 60.0)
        assert await rollouts.begin(group, None, {"x": "y"}, Options()) is not None

    try:
        asyncio.run(work())
    finally:
        over.set()
    one.core.drop()


def test_of_two_rollouts_at_once_one_begins(tmp_path: Path, so: Path) -> None:
    one = parts(tmp_path, so)
    group, ledger, rollouts = one.model.groups[0], one.model.ledgers[0], one.rollouts

    async def both() -> list[object]:
        asked = (rollouts.begin(group, None, {"x": x}, Options()) for x in "ab")
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second = asyncio.run(both())
    assert first is ledger.running and [r.number for r in ledger.revisions] == [1, 2]
    assert isinstance(second, DpsupError) and second.code == "E0716"
    one.core.drop()
