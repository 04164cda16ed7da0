# SPDX-License-Identifier: BSD-3-Clause
"""Directories that only their owner can write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dpsup.host import private
from dpsup.host.private import Unsafe

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
OTHER = 12345


def create(path: Path) -> int:
    return private.create_directory(path, lambda name, _: name == "own")


def test_a_missing_directory_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(create(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert [(tmp_path / one).stat().st_mode & 0o777 for one in ("a", "a/b")] == [0o700, 0o700]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_that_others_may_only_read_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    os.close(create(tmp_path / "a"))
    assert mode_of(tmp_path / "a") == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_one_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    (tmp_path / "a" / "foreign").touch()
    for use in (create, private.open_directory):
        with pytest.raises(Unsafe, match="other users can write to it"):
            use(tmp_path / "a")
    assert mode_of(tmp_path / "a") == mode


@pytest.mark.parametrize(("mode", "left"), [(0o777, 0o755), (0o2777, 0o2755), (0o775, 0o755)])
def test_a_volume_that_holds_nothing_foreign_is_closed(
    tmp_path: Path, mode: int, left: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "own").touch()
    (tmp_path / "a").chmod(mode)
    os.close(create(tmp_path / "a"))
    assert mode_of(tmp_path / "a") == left


def test_an_empty_sticky_directory_is_shared_and_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o1777)
    with pytest.raises(Unsafe, match="other users can write to it"):
        create(tmp_path / "a")
    assert mode_of(tmp_path / "a") == 0o1777


@pytest.mark.parametrize(("mode", "left"), [(0o2777, 0o2755), (0o1777, 0o1777), (0o775, 0o775)])
def test_the_directory_of_all_instances_may_be_a_volume(
    tmp_path: Path, mode: int, left: int
) -> None:
    (tmp_path / "dpsup").mkdir()
    (tmp_path / "dpsup" / "foreign").touch()
    (tmp_path / "dpsup").chmod(mode)
    os.close(create(tmp_path / "dpsup" / "fw"))
    assert mode_of(tmp_path / "dpsup") == left


def test_a_link_or_a_file_in_place_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for name, reason in (("link", "link"), ("dangling", "link"), ("file", "not a directory")):
        with pytest.raises(Unsafe, match=reason):
            create(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


@root_only
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    os.chown(tmp_path / "a", OTHER, OTHER)
    with pytest.raises(Unsafe, match=f"belongs to user {OTHER}"):
        create(tmp_path / "a")
    os.close(private.open_directory(tmp_path / "a", any_owner=True))


@root_only
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o755, OTHER)])
def test_a_parent_that_others_control_is_refused(tmp_path: Path, mode: int, owner: int) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    os.chown(tmp_path / "shared", owner, owner)
    with pytest.raises(Unsafe, match="can replace what is in it"):
        create(tmp_path / "shared" / "a")


def test_a_sticky_parent_is_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    os.close(create(tmp_path / "shared" / "a"))


@pytest.fixture
def directory(tmp_path: Path) -> int:
    return create(tmp_path / "own")


def test_a_file_is_replaced_whole_and_is_private(directory: int, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private.replace(directory, "a", b"1")
        private.replace(directory, "a", b"2")
    finally:
        os.umask(before)
    assert private.read(directory, "a") == b"2"
    assert (tmp_path / "own" / "a").stat().st_mode & 0o777 == 0o600
    assert [name for name, _ in private.entries(directory)] == ["a"]


@pytest.mark.parametrize("name", ["a", "a.new"])
def test_no_link_is_written_through(directory: int, tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "own" / name).symlink_to(tmp_path / "precious")
    private.replace(directory, "a", b"1")
    assert (tmp_path / "precious").read_text() == "years of work"
    assert private.read(directory, "a") == b"1"


def test_only_a_regular_file_of_its_owner_is_read(directory: int, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (tmp_path / "secret").write_text("x")
    (own / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(own / "fifo")  # a plain open would wait for a writer
    (own / "folder").mkdir()
    for name in ("link", "fifo", "folder"):
        with pytest.raises(OSError):
            private.read(directory, name)
    (own / "file").write_text("x")
    with pytest.raises(Unsafe, match="belongs to user"):
        private.read(directory, "file", {OTHER})


def test_what_does_not_fit_leaves_nothing(directory: int, tmp_path: Path) -> None:
    private.replace(directory, "a", b"1")
    (tmp_path / "own" / "b").mkdir()  # in place of the file: rename fails
    with pytest.raises(OSError):
        private.replace(directory, "b", b"2")
    assert {name for name, _ in private.entries(directory)} == {"a", "b"}
