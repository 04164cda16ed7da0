# SPDX-License-Identifier: BSD-3-Clause
"""The runtime directory: who owns it, what stands in it, and which processes it may name."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.fakehost import FILE, FULL, machine
from unit.test_private import OTHER, root_only

from dpsup.errors import DpsupError, NotPermitted
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance import client, remains, runtime_dir
from dpsup.instance.runtime_dir import (
    DIRECTORIES,
    LOCK,
    OURS,
    PLAN,
    PRIMARY,
    SEED,
    STATE,
    TABLES_LOCK,
    Runtime,
    State,
)  # fmt: skip
from dpsup.plan import paths
from dpsup.plan.place import make_plan
from dpsup.supervisor import adopt, launch
from dpsup.topology.load import load


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_dir, "roots", lambda: [tmp_path])
    monkeypatch.setattr(remains, "hugetlbfs", lambda: [tmp_path / "huge"])
    monkeypatch.setattr(remains.eal, "runtime_dirs", lambda _: [str(tmp_path / "eal")])
    return tmp_path


def acquired(root: Path) -> Runtime:
    where = Runtime(str(root / "edge"), "edge")
    where.acquire()
    return where


# --- the directory --------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize("start", [True, False])
def test_a_directory_of_another_user_is_not_started_in(root: Path, start: bool) -> None:
    (root / "edge").mkdir(mode=0o700)
    os.chown(root / "edge", OTHER, OTHER)
    where = Runtime(str(root / "edge"), "edge")
    if not start:  # root may end what another user left
        where.acquire(start=False)
        where.release()
        return
    with pytest.raises(NotPermitted, match=f"belongs to user {OTHER}") as caught:
        where.acquire()
    assert caught.value.code == "E0614"
    assert not list((root / "edge").iterdir())


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o777, 0o2777])
def test_a_directory_that_only_dpsup_uses_is_closed(root: Path, mode: int) -> None:
    """A volume, RuntimeDirectoryMode= of systemd, and what an instance left in them."""
    (root / "edge").mkdir()
    (root / "edge").chmod(mode)
    for _ in range(2):
        where = acquired(root)
        assert (root / "edge").stat().st_mode & 0o777 == 0o700
        where.unlock()
        (root / "edge").chmod(mode)


@pytest.mark.parametrize(("mode", "code"), [(0o755, "E0604"), (0o777, "E0614")])
def test_a_directory_that_others_use_keeps_its_mode(root: Path, mode: int, code: str) -> None:
    (root / "edge").mkdir()
    (root / "edge" / "cron.pid").touch()
    (root / "edge").chmod(mode)
    with pytest.raises(DpsupError) as caught:
        acquired(root)
    assert caught.value.code == code
    assert (root / "edge").stat().st_mode & 0o777 == mode


@root_only
def test_in_a_shared_directory_of_instances_only_one_s_own_are_seen(root: Path) -> None:
    root.chmod(0o1777)
    acquired(root).unlock()
    (root / "planted").mkdir()
    os.chown(root / "planted", OTHER, OTHER)
    assert list(runtime_dir.instances()) == ["edge"]
    root.chmod(0o777)
    assert not runtime_dir.instances()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_an_open_directory_is_neither_used_nor_believed(root: Path, mode: int) -> None:
    where = acquired(root)
    where.write_state(State("edge", 1, "p", "/h", "f", primary=process.own()))
    where.unlock()
    (root / "edge" / "foreign").touch()
    (root / "edge").chmod(mode)
    with pytest.raises(NotPermitted, match="other users can write") as caught:
        where.acquire()
    assert caught.value.code == "E0614"
    with pytest.raises(NotPermitted, match="not safe"):
        where.demand_access()
    assert where.read_state() is None
    assert not runtime_dir.is_headless(where)


def test_a_link_in_place_of_the_directory_is_refused(root: Path) -> None:
    (root / "other").mkdir(mode=0o700)
    (root / "edge").symlink_to("other")
    with pytest.raises(NotPermitted, match="symbolic link"):
        acquired(root)
    assert not list((root / "other").iterdir())


@pytest.mark.parametrize("name", [n for n in OURS if n not in DIRECTORIES])
@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_stands_in_place_of_a_file_is_refused(root: Path, name: str, kind: str) -> None:
    (root / "edge").mkdir(mode=0o700)
    (root / "precious").write_text("years of work")
    one = root / "edge" / name
    match kind:
        case "link":
            one.symlink_to(root / "precious")
        case "directory":
            one.mkdir()
        case "fifo":
            os.mkfifo(one)
    with pytest.raises(DpsupError) as caught:
        acquired(root)
    assert "Is a directory" not in str(caught.value) or name == LOCK
    if name != LOCK:
        assert str(one) in caught.value.message and caught.value.code == "E0613"
    assert (root / "precious").read_text() == "years of work"
    assert os.path.lexists(one)
    assert list((root / "edge").iterdir()) == [one], "nothing was added"


def test_what_a_dead_instance_left_is_no_obstacle(root: Path) -> None:
    where = acquired(root)
    where.write(STATE, "{")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(where.file(SEED))
    where.unlock()
    where.acquire()
    where.release()
    assert not (root / "edge").exists()


def test_a_directory_that_is_always_removed_ends_the_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "_try_lock", lambda *_, **__: False)
    with pytest.raises(DpsupError, match="again and again"):
        acquired(root)


def test_a_directory_of_the_same_name_is_left_to_its_owner(root: Path) -> None:
    """One supervisor's directory was removed under it, and another one started."""
    first = acquired(root)
    for one in (root / "edge").iterdir():
        one.unlink()
    (root / "edge").rmdir()
    second = acquired(root)
    with pytest.raises(OSError, match="No such file"):
        first.write_state(State("edge", 1, "p", "/h", "f"))
    first.release()
    assert second.is_supervised()
    second.release()


# --- where they are found -------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "xdg"])
def test_a_user_finds_what_he_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """The default of plan/paths.py is where commands look."""
    monkeypatch.setattr(runtime_dir.os, "geteuid", lambda: 7)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    env = {}
    if given:
        env["XDG_RUNTIME_DIR"] = str(tmp_path)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    host = machine(FULL, env=env, is_root=False, uid=7)
    topology, _ = load("/etc/dpsup/edge.toml", host)
    assert topology is not None
    place = Path(paths.runtime_dir(topology, host)).parent
    assert runtime_dir.roots()[0] == place
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert Path("/tmp/dpsup-7") in runtime_dir.roots()


@root_only
def test_instances_of_another_users_environment_are_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dpsup" / "edge").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "edge" in runtime_dir.instances()
    os.chown(tmp_path / "dpsup", OTHER, OTHER)
    assert "edge" not in runtime_dir.instances()


# --- processes ------------------------------------------------------------------------------------

Start = Callable[..., Identity]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that sleeps, with these words in its command line."""
    all_: list[subprocess.Popen[bytes]] = []

    def start(*words: str, user: int | None = None) -> Identity:
        # As another user it may not be allowed to execute our Python.
        become = f"import os, sys; os.setuid({os.geteuid() if user is None else user});"
        code = f"{become} print(flush=True); sys.stdin.read()"
        pipe = subprocess.PIPE
        argv = [sys.executable, "-S", "-E", "-c", code, *words]
        one = subprocess.Popen(argv, stdin=pipe, stdout=pipe)
        all_.append(one)
        assert one.stdout is not None
        one.stdout.readline()
        return process.identify(one.pid)

    yield start
    for one in all_:
        one.kill()
        one.communicate()


def test_a_foreign_state_ends_no_process(root: Path, start: Start) -> None:
    where, innocent = acquired(root), start("innocent")
    for state in (
        State("edge", 1, "p", "/h", "f", primary=innocent),
        State("edge", 1, "p", "/h", "f", seed=innocent, workers={"fw/0": innocent}),
    ):
        where.write_state(state)
        assert where.end_processes(where.read_state(), timeout=0.1)
        assert innocent.alive
    where.release()


@pytest.mark.parametrize("pid", ["1", -1, 0, 1.5, True, None, [1]])
def test_a_state_with_a_pid_that_is_none_is_none(root: Path, pid: object) -> None:
    where = acquired(root)
    where.write_state(State("edge", 1, "p", "/h", "f"))
    doc = json.loads(where.read(STATE))
    doc["primary"] = {"pid": pid, "start": 1}
    where.write(STATE, json.dumps(doc))
    assert where.read_state() is None
    where.release()


def test_processes_of_the_instance_are_ended(root: Path, start: Start) -> None:
    where = acquired(root)
    primary = start("dpsup.primary", where.file(PLAN), "--notify", "5")
    seed = start("--socket", where.file(SEED), "--name")
    other = start("dpsup.primary", where.file(PLAN).replace("edge", "edge2"), "--notify", "5")
    where.write_state(State("edge", 1, "p", "/h", "f", primary=primary))
    assert where.end_processes(where.read_state())
    assert not primary.alive and not seed.alive and other.alive
    where.release()


def test_a_primary_by_a_linked_path_is_ended_or_told(root: Path, start: Start) -> None:
    (root / "real").mkdir()
    (root / "link").symlink_to("real")
    given = str(root / "link" / "edge")
    where = Runtime(given, "edge")
    where.acquire()
    primary = start("dpsup.primary", f"{given}/{PLAN}", "--notify", "5")
    where.write_state(State("edge", 1, "p", "/h", "f", primary=primary))
    where.unlock()
    other = Runtime(str(root / "real" / "edge"), "edge")  # that does not know the link
    assert not other.end_processes(other.read_state(), timeout=0.1)
    assert primary.alive
    assert launch.clean("edge") == [
        'processes of instance "edge" do not end: it is left alone'
    ] and where.has(STATE)
    assert where.end_processes(where.read_state())
    assert not primary.alive


@root_only
def test_a_process_of_another_user_is_none_of_ours(root: Path, start: Start) -> None:
    where = acquired(root)
    foreign = start("dpsup.primary", where.file(PLAN), "--notify", "5", user=65534)
    assert process.user_of(foreign.pid) == 65534
    where.write_state(State("edge", 1, "p", "/h", "f", primary=foreign))
    assert where.end_processes(where.read_state(), timeout=0.1)
    assert foreign.alive and where.primaries() == []
    where.release()


# --- what a live process uses ---------------------------------------------------------------------


def test_a_sweep_leaves_what_a_live_process_uses(root: Path) -> None:
    """Also of a process that is not visible: it may run in another PID namespace."""
    where = acquired(root)
    (root / "huge").mkdir()
    pages = [root / "huge" / f"dpsup-edge-g{n}map_0" for n in (1, 2)]
    configs = [root / "eal" / f"dpsup-edge-g{n}" / "config" for n in (1, 2)]
    for page, config in zip(pages, configs, strict=True):
        page.write_text("")
        config.parent.mkdir(parents=True)
        config.write_text("")
    (root / "eal" / "dpsup-edge-g3").symlink_to(root / "huge")
    with pages[1].open("rb") as page, configs[1].open("r+b") as config:
        fcntl.flock(page, fcntl.LOCK_SH)
        # A lock of POSIX's is its process's: another one has to hold it.
        hold = "import fcntl,sys; f=open(sys.argv[1],'r+b'); fcntl.lockf(f,2); print(flush=True);"
        argv = [sys.executable, "-c", f"{hold} sys.stdin.read()", str(configs[1])]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as one:
            assert one.stdout is not None
            one.stdout.readline()
            where.sweep()
            one.communicate()
        assert [p.exists() for p in (*pages, *configs)] == [False, True, False, True]
        assert config.closed is False
    where.sweep()
    assert not pages[1].exists() and not configs[1].exists()
    where.release()


def test_what_is_left_without_a_runtime_directory_is_cleaned(root: Path) -> None:
    """It was removed while the instance ran, or its tmpfs went with a container."""
    (root / "huge").mkdir()
    gone, new = root / "eal" / "dpsup-edge-g1", root / "eal" / "dpsup-late-g1"
    pages = [root / "huge" / f"dpsup-{name}-g1map_0" for name in ("edge", "old", "other")]
    for one in (gone, new):
        one.mkdir(parents=True)
    (gone / "config").touch()
    for page in pages:
        page.touch()
    with pages[2].open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        assert launch.clean("old") == [f"removed 1 hugepage, {root}/huge/dpsup-old-g1map_*"]
        assert gone.exists() and pages[0].exists()
        # What else it says is of directories that are no instance's.
        assert sorted(said for said in launch.clean(None) if said.startswith("removed")) == [
            f"removed {gone}",
            f"removed 1 hugepage, {root}/huge/dpsup-edge-g1map_*",
        ]
        assert not gone.exists()
        assert new.exists(), "a primary is only creating it, perhaps"
        assert pages[2].exists() and not used.closed


def test_a_directory_in_place_of_a_file_ends_no_sweep(root: Path) -> None:
    where = acquired(root)
    (root / "edge" / PRIMARY).mkdir()
    (root / "edge" / PLAN).touch()
    where.sweep()
    assert not where.has(PRIMARY) and not where.has(PLAN)
    where.release()


@pytest.mark.parametrize("text", ["", '{"a": [', "[]", "7", '{"ports": []}', "[" * 100_000, None])
def test_a_plan_that_is_none_is_told(root: Path, text: str | None) -> None:
    where = acquired(root)
    if text is not None:
        (root / "edge" / PLAN).write_text(text)
    with pytest.raises(DpsupError) as caught:
        client.read_plan(where)
    assert caught.value.code == "E0616" and where.file(PLAN) in caught.value.message
    where.release()


def test_a_primary_that_nobody_can_see_keeps_its_instance(root: Path) -> None:
    where = acquired(root)
    where.write_state(State("edge", 1, "p", "/h", "f", primary=Identity(2**22 - 1, 1)))
    where.unlock()
    held = runtime_dir.lock_primary(root / "edge")
    assert where.is_held() and where.primary() is None
    for name in (None, "edge"):
        assert launch.clean(name) == [
            'instance "edge" forwards in another PID namespace: it is left alone'
        ]
    assert where.read_state() is not None
    with pytest.raises(DpsupError) as caught:
        adopt.examine(where, where.read_state(), None)
    assert caught.value.code == "E0615"
    os.close(held)
    assert launch.clean("edge")[-1] == f"removed {root / 'edge'}"
    assert not (root / "edge").exists()


def test_what_forwards_without_its_files_is_not_ended(
    root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = acquired(root)
    primary = start("dpsup.primary", where.file(PLAN), "--notify", "5")
    monkeypatch.setattr(adopt, "forwards_now", lambda pid: pid == primary.pid)
    with pytest.raises(DpsupError) as caught:
        adopt.examine(where, None, None)
    assert caught.value.code == "E0616" and f"kill -9 {primary.pid}" in caught.value.help
    assert primary.alive
    # Its supervisor is there: only by that is it ended in order.
    monkeypatch.setattr(process, "has_words", lambda pid, *words: words == ("\0start\0",))
    with pytest.raises(DpsupError) as caught:
        adopt.examine(where, None, None)
    assert f"`kill {os.getpid()}` ends it in order" in caught.value.help
    monkeypatch.setattr(adopt, "forwards_now", lambda _: False)
    assert adopt.examine(where, None, None) == "plan.json does not say what it runs"
    where.release()


def test_of_a_stale_state_the_lock_says_who_lives(root: Path, start: Start) -> None:
    """The disk was full when the last generation began."""
    where = acquired(root)
    where.write_state(State("edge", 1, "p", "/h", "f", primary=Identity(2**22 - 1, 1)))
    assert where.primary() is None
    held = runtime_dir.lock_primary(root / "edge")
    primary = start("dpsup.primary", where.file(PLAN), "--notify", "5")
    assert where.primary() == primary
    os.close(held)
    where.release()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_lock_of_another_program_stays(root: Path, kind: str) -> None:
    """As in /run, or in a directory of a service."""
    lock = root / "edge" / LOCK
    (root / "edge").mkdir(mode=0o700)
    (root / "edge" / "cron.pid").touch()
    lock.write_text("7") if kind == "file" else lock.mkdir()
    before = lock.stat()
    with pytest.raises(DpsupError) as caught:
        acquired(root)
    assert caught.value.code in ("E0604", "E0613")
    assert lock.stat() == before


# --- live tables ----------------------------------------------------------------------------------


def tables_of_the_dead(root: Path) -> tuple[Runtime, Path]:
    where = acquired(root)
    directory = root / "edge" / "tables"
    directory.mkdir(mode=0o700)
    for name in ("fw", "fw:readers", "fw=routes", "fw=routes:new", TABLES_LOCK):
        (directory / name).touch()
    return where, directory


def test_a_start_empties_the_tables_of_the_dead(root: Path) -> None:
    """They stayed in memory; or the next builder took them for true."""
    where, directory = tables_of_the_dead(root)
    topology, _ = load(FILE, machine(FULL))
    assert topology is not None
    plan = make_plan(topology, machine(FULL))
    where.sweep()
    assert (directory / "fw").exists(), "between two generations they hold"
    assert launch._take_over(where, None) == 0
    assert (directory / "fw").exists(), "nothing is started"
    assert launch._take_over(where, plan) == 1
    assert [one.name for one in directory.iterdir()] == [TABLES_LOCK]
    directory.joinpath(TABLES_LOCK).unlink()
    directory.rmdir()
    where.empty_tables()
    where.release()


def test_a_directory_among_the_tables_is_told(root: Path) -> None:
    where, tables = tables_of_the_dead(root)
    (tables / "routes").mkdir()
    with pytest.raises(NotPermitted) as caught:
        where.empty_tables()
    assert caught.value.code == "E0613" and "tables/routes is a directory" in caught.value.message
    (tables / "routes").rmdir()
    where.empty_tables()
    where.release()


def test_a_builder_of_the_dead_is_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, directory = tables_of_the_dead(root)
    monkeypatch.setattr(runtime_dir, "BUILDER_ENDS_S", 0.02)
    with (directory / TABLES_LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DpsupError, match="does not end") as caught:
            where.empty_tables()
        assert caught.value.code == "E0609"
        assert (directory / "fw").exists()
    where.empty_tables()
    assert not (directory / "fw").exists()
    where.release()
