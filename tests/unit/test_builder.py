# SPDX-License-Identifier: BSD-3-Clause
"""The builder of live tables: whatever cuts it short, a batch is there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsup.builder import book as builder_book
from dpsup.builder import source as builder_source
from dpsup.builder.book import Book
from dpsup.builder.log import Log, Record, decode, encode
from dpsup.builder.process import lives, refusal_line
from dpsup.builder.region import Region
from dpsup.bus.messages import answer
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.supervisor import journal
from dpsup.tables.fields import NO_NAMES
from dpsup.tables.model import declare

FIRST = "0 10\n1 11\n"
BATCH = "replace 0 20\nadd 2 22\ndel 1\n"
BEFORE, AFTER = "0 10\n1 11\n", "0 20\n2 22\n"


class Died(BaseException):
    """The builder is killed here."""


def open_book(folder: Path, kind: str = "array", **more: str) -> Book:
    table = declare("routes", kind, 64, **more)
    (folder / "t").mkdir(exist_ok=True)
    region = Region(folder / "t" / "fw", [table], lives)
    source = folder / "routes.txt"
    found = Book(region, 0, NO_NAMES, folder / "t" / "fw=routes", str(source), "fw")
    found.begin()
    region.appear()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "routes.txt").write_text(FIRST)
    return tmp_path


def said(book: Book) -> str:
    return book.lines(0, 1 << 20)[0]


def shown(book: Book) -> bytes:
    """What a worker that maps it now sees. The same records are the same bytes of an array."""
    region = book.region
    at = region._places[0][region.which(0)]
    return region._memory[at : at + book.shape.bytes]


def expected(folder: Path, text: str) -> bytes:
    other = folder / "expected"
    other.mkdir()
    (other / "routes.txt").write_text(text)
    return shown(open_book(other))


def after(n: int, call: Callable[..., Any], *, done: bool) -> Callable[..., Any]:
    """The n-th call is the last thing that the builder does, or would have done."""
    left = [n]

    def cut(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return call(*args, **more)
        if done:
            call(*args, **more)
        raise Died

    return cut


STEPS = [
    (Log, "append", 1, False), (Log, "append", 1, True),
    ("shape", "apply", 1, False), ("shape", "apply", 1, True),
    ("shape", "apply", 2, False), ("shape", "apply", 2, True),
    (Region, "note_version", 1, False), (Region, "note_version", 1, True),
    (Region, "publish", 1, False), (Region, "publish", 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("where", "what", "n", "done"), STEPS)
def test_a_builder_that_dies_anywhere_leaves_a_batch_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: Any, what: str, n: int, done: bool
) -> None:
    book = open_book(folder)
    before = shown(book)
    with monkeypatch.context() as patch:
        of = type(book.shape) if where == "shape" else where
        patch.setattr(of, what, after(n, getattr(of, what), done=done))
        with pytest.raises(Died):
            book.change(BATCH, "", "r1", dry_run=False)
    is_true = (where, what, done) != (Log, "append", False)
    is_shown = (where, what, done) == (Region, "publish", True)
    # Workers meanwhile: the old version, or the new one.
    assert shown(book) == (expected(folder, AFTER) if is_shown else before)
    following = open_book(folder)
    assert said(following) == (AFTER if is_true else BEFORE)
    assert following.version == following.region.version(0) == (2 if is_true else 1)
    # The request is asked again: carried out once.
    done_again = following.change(BATCH, "", "r1", dry_run=False)
    assert done_again["version"] == 2
    assert said(following) == AFTER
    # And the copy that the dead one left half written is as good as the other.
    for number in (3, 4):
        following.change(f"set 5 {number}\n", "", f"r{number}", dry_run=False)
        assert following.region.version(0) == number
    following.change("del 5\n", "", "r5", dry_run=False)
    if not is_shown:
        assert shown(following) == expected(folder, AFTER)


def test_what_is_left_of_a_record_is_cut_off(tmp_path: Path) -> None:
    one, two = Record(1, (), "abc", "add 0 1\n"), Record(2, ("r2",), "abc", "del 0\n")
    whole = encode(one) + encode(two)
    for n in range(len(encode(one)), len(whole)):
        assert decode(whole[:n]) == ([one], len(encode(one))), n
    assert decode(whole) == ([one, two], len(whole))
    path = tmp_path / "log"
    path.write_bytes(whole[:-1])
    log = Log(path)
    assert log.read() == [one]
    log.append(two)
    assert Log(path).read() == [one, two]
    log.replace(Record(2, ("r1", "r2"), "abc", ""))
    log.append(Record(3, ("r3",), "abc", "clear\n"))
    assert [r.version for r in Log(path).read()] == [2, 3]
    assert Log(path).read()[0].requests == ("r1", "r2")


def test_a_full_disk_refuses_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = open_book(folder)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DpsupError, match="cannot be kept: No space left"):
            book.change(BATCH, "", "r1", dry_run=False)
    assert (said(book), book.version) == (BEFORE, 1)
    assert book.change(BATCH, "", "r1", dry_run=False)["version"] == 2
    assert said(open_book(folder)) == AFTER


def test_a_copy_that_a_worker_reads_is_not_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = open_book(folder)
    line = book.region._readers[3]
    me = process.own()
    # The worker of slot 3, in a burst that began before the first batch.
    line.pid, line.start, line.seen = me.pid, me.start, book.region.holds
    book.change("set 9 1\n", "", "r2", dry_run=False)
    assert not book.settle()
    other = shown(book)
    monkeypatch.setattr(builder_book, "GRACE_S", 0.02)
    with pytest.raises(TimedOut, match=f"pid {me.pid}, still works with the version before"):
        book.change("set 9 2\n", "", "r3", dry_run=False)
    assert (book.version, shown(book)) == (2, other)
    assert "9 1\n" in said(book)
    # Another process that got its pid is not meant, nor one that sleeps.
    line.start += 1
    assert book.change("set 9 2\n", "", "r3", dry_run=False)["version"] == 3
    line.start, line.seen = me.start, 0
    assert book.change("set 9 3\n", "", "r4", dry_run=False)["version"] == 4


def test_each_kind_of_table_comes_back(folder: Path) -> None:
    for kind, more, text in (
        ("ipv4", {}, "0.0.0.0/0 1\n10.0.0.0/8 2\n10.1.2.3/32 3\n"),
        ("ipv6", {"value": "u16"}, "::/0 1\n2001:db8::/32 2\n"),
        ("exact", {"key": "mac+be16", "value": "u64"}, "02:00:00:00:00:01,80 7\n"),
        ("array", {"value": "mac+u16"}, "0 02:00:00:00:00:01,1\n63 02:00:00:00:00:02,2\n"),
    ):
        own = folder / kind
        own.mkdir()
        (own / "routes.txt").write_text(text)
        book = open_book(own, kind, **more)
        assert said(book) == text
        book.change(f"clear\nadd {text.splitlines()[0]}\n", "", "r2", dry_run=False)
        assert said(open_book(own, kind, **more)) == text.splitlines(keepends=True)[0]
        # The file has not changed since: nothing to load, until it does.
        assert not book.is_changed_on_disk
        (own / "routes.txt").write_text(f"# more\n{text}")
        assert book.is_changed_on_disk
        loaded = book.load(str(own / "routes.txt"), "r3", dry_run=False)
        assert loaded["entries"] == len(text.splitlines())
        assert not book.is_changed_on_disk


def test_no_request_is_carried_out_twice_however_many_came_between(folder: Path) -> None:
    """Only the last one was known: one that was asked again after another undid that."""
    book = open_book(folder)
    book.change("set 5 1\n", "", "r1", dry_run=False)
    # The builder dies before it answers, and the next one is asked something else at first.
    book = open_book(folder)
    book.change("set 5 2\n", "", "r2", dry_run=False)
    assert book.change("set 5 1\n", "", "r1", dry_run=False)["version"] == 3
    assert "5 2\n" in said(book)
    book._compact()
    book = open_book(folder)
    assert book.change("set 5 1\n", "", "r1", dry_run=False)["version"] == 3
    assert book.load(book.source, "r1", dry_run=False)["version"] == 3
    assert "5 2\n" in said(book)


def test_a_log_that_cannot_be_written_anew_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there was of it kept a full disk full."""
    book = open_book(folder)
    book.change(BATCH, "", "r1", dry_run=False)
    new = folder / "t" / "fw=routes:new"
    with monkeypatch.context() as patch:
        write = os.pwrite
        calls = [0]

        def full(fd: int, data: bytes, at: int) -> int:
            calls[0] += 1
            if calls[0] == 1:
                return write(fd, data[:5], at)
            raise OSError(28, "No space left on device")

        patch.setattr(os, "pwrite", full)
        book._compact()
        assert calls[0] == 2
    assert not new.exists()
    # A builder that died meanwhile leaves it to the next one.
    new.write_text("half of it")
    book = open_book(folder)
    assert not new.exists()
    assert said(book) == AFTER
    book._compact()
    assert (folder / "t" / "fw=routes").stat().st_mode & 0o777 == 0o600
    assert said(open_book(folder)) == AFTER


@pytest.mark.parametrize("where", ["apply", "note_version", "publish", "compact"])
def test_a_builder_that_cannot_show_what_is_true_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It went on, with entries that no worker saw."""
    book = open_book(folder)

    def fault(*_: Any) -> None:
        raise AssertionError("operation 0 of 1 failed")

    with monkeypatch.context() as patch:
        if where == "compact":
            patch.setattr(Log, "is_long", True)
            patch.setattr(Log, "replace", fault)
        else:
            of = type(book.shape) if where == "apply" else Region
            patch.setattr(of, where, fault)
        with pytest.raises(SystemExit):
            answer("r1", lambda: book.change(BATCH, "", "r1", dry_run=False))
    following = open_book(folder)
    assert said(following) == AFTER
    assert shown(following) == expected(folder, AFTER)
    assert following.version == following.region.version(0) == 2


def test_tables_appear_once_they_say_what_they_should(folder: Path) -> None:
    """A supervisor that adopts concludes from the file that workers can start."""
    (folder / "routes.txt").write_text("0 wrong\n")
    with pytest.raises(DpsupError, match=r"routes\.txt:1"):
        open_book(folder)
    assert not (folder / "t" / "fw").exists()
    (folder / "routes.txt").write_text(FIRST)
    book = open_book(folder)
    assert (folder / "t" / "fw").exists()
    assert shown(book) == expected(folder, FIRST)


def test_a_file_that_has_another_end_is_not_waited_for(folder: Path) -> None:
    book = open_book(folder)
    source = folder / "routes.txt"
    source.unlink()
    os.mkfifo(source)
    assert book.is_changed_on_disk
    with pytest.raises(DpsupError, match="it is not a regular file"):
        book.load(str(source), "r1", dry_run=False)
    with pytest.raises(DpsupError, match="it is not a regular file"):
        book.load("/dev/zero", "r1", dry_run=False)
    assert said(book) == FIRST


def test_a_list_reads_no_file_that_is_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = open_book(folder)
    source = folder / "routes.txt"
    # Just written, so it may be written again without another time: it is read.
    source.write_text("7 7\n")
    assert book.is_changed_on_disk
    # As of this machine's tomorrow it was written long ago.
    monkeypatch.setattr(builder_source, "SETTLED_NS", -(10**15))
    assert book.is_changed_on_disk
    reads: list[str] = []
    inner = builder_book.read_text

    def read(path: str) -> Any:
        reads.append(path)
        return inner(path)

    monkeypatch.setattr(builder_book, "read_text", read)
    for _ in range(3):
        assert book.is_changed_on_disk
    assert not reads
    source.write_text(FIRST + "# longer\n")
    assert book.is_changed_on_disk
    assert reads == [str(source)]


def test_a_refusal_fits_the_line_that_the_supervisor_reads() -> None:
    """A longer one was cut off, and then it was none: no builder was started any more."""
    for message, why in (("m" * 9000, "w" * 9000), ("\u20ac" * 9000, ""), ("m", "\n" * 9000)):
        line = refusal_line(DpsupError(message, code="E0521", why=why, help="correct it"))
        assert len(line) + len("REFUSED \n") < journal.LINE_MOST
        told = json.loads(line)
        assert (told["id"], told["help"]) == ("E0521", "correct it")
        assert told["message"].startswith(message[0])
    told = json.loads(refusal_line(OSError(28, "No space left on device")))
    assert told["id"] == "E0525"
    assert "No space left" in told["message"]


def test_a_file_of_tables_that_was_cut_short_is_named(folder: Path) -> None:
    """Builder after builder ended with a traceback."""
    open_book(folder)
    os.truncate(folder / "t" / "fw", 4096)
    with pytest.raises(DpsupError, match="has 4096 bytes") as refused:
        open_book(folder)
    assert refused.value.code == "E0528"
