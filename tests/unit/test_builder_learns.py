# SPDX-License-Identifier: BSD-3-Clause
"""What the builder makes of workers' messages and of an operator's words, and what persists.

Over 600 lines: one builder with one fake of its workers for all of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsup._builder import ffi
from dpsup.builder import book as builder_book
from dpsup.builder.book import Book
from dpsup.builder.log import Corrupt, Log, Record, decode, encode
from dpsup.builder.process import Builder
from dpsup.builder.region import EACH, Region, Use
from dpsup.bus.messages import Request
from dpsup.errors import DpsupError, UsageError
from dpsup.limits import TELL_BYTES, TELLS
from dpsup.tables.fields import NO_NAMES, field
from dpsup.tables.model import declare

MAC = '{ kind = "exact", key = "mac" }'


def lives(pid: int, _: int) -> bool:
    return pid > 0


def mac(n: int) -> bytes:
    return b"\x02\0\0\0" + n.to_bytes(2, "big")


class Bridge:
    """A table of stations, with the workers' side of its rings."""

    def __init__(
        self,
        folder: Path,
        *,
        age: float = 0,
        entries: int = 64,
        slots: range = range(64),
        **more: Any,
    ) -> None:
        self.folder, self.age, self.entries, self.more = folder, age, entries, more
        self.slots = slots
        (folder / "t").mkdir(exist_ok=True)
        self.now = 1000.0
        self.open()

    def open(self) -> None:
        table = declare("macs", "exact", self.entries, key="mac", value="u16")
        self.region = Region(
            self.folder / "t" / "br",
            [table],
            lives,
            [Use(learns=True, age=self.age)],
            self.slots,
        )
        log = self.folder / "t" / "br=macs"
        source = str(self.folder / "macs.txt") if (self.folder / "macs.txt").exists() else ""
        self.book = Book(self.region, 0, NO_NAMES, log, source, "br", **self.more)
        self.book.begin()
        self.region.appear()

    def tell(self, slot: int, n: int, port: int, table: int = 0) -> None:
        """As dps_tell does."""
        tells = self.region._tells[slot]
        one = tells.told[tells.sent % 256]
        one.table, one.value = table, port
        ffi.memmove(one.key, mac(n).ljust(64, b"\xff"), 64)
        tells.sent += 1

    def learn(self) -> None:
        for table, key, value in self.region.told():
            if table == 0:
                self.book.told.append((key, value))
        self.book.learn(self.now)

    @property
    def found(self) -> dict[int, int]:
        return {
            int.from_bytes(key.data[4:], "big"): int(value)  # type: ignore[arg-type]
            for key, value in self.book.entries.items()
        }

    @property
    def counts(self) -> dict[str, Any]:
        row = self.book.row()["learned"]
        assert row is not None
        return dict(row)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]

    class Clock:
        """The book's own: a lock that waits anywhere else needs time that goes on."""

        def __getattr__(self, name: str) -> Any:
            return (lambda: now[0]) if name == "monotonic" else getattr(time, name)

    monkeypatch.setattr(builder_book, "time", Clock())
    return now


def test_what_one_worker_tells_all_find(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    bridge.tell(3, 1, 7)
    bridge.tell(63, 2, 8)
    assert bridge.found == {}
    bridge.learn()
    assert bridge.found == {1: 7, 2: 8}
    assert bridge.region.version(0) == bridge.book.version == 1
    # The same again changes nothing; another port does.
    bridge.tell(3, 1, 7)
    bridge.learn()
    assert bridge.book.version == 1
    bridge.tell(9, 1, 9)
    bridge.learn()
    assert bridge.found == {1: 9, 2: 8}
    assert bridge.counts == {
        "age": 0, "entries": 2, "told": 4, "learned": 3, "refused": 0, "aged": 0, "lost": 0,
    }  # fmt: skip
    assert "".join(bridge.book.lines(0, 1 << 20)[0]) == (
        "02:00:00:00:00:01 9  # learned\n02:00:00:00:00:02 8  # learned\n"
    )
    # The next builder finds it, and where it went on in the rings.
    bridge.tell(3, 5, 5)
    bridge.open()
    assert bridge.found == {1: 9, 2: 8}
    bridge.learn()
    assert bridge.found == {1: 9, 2: 8, 5: 5}
    assert bridge.counts["entries"] == 3


def test_an_operators_entry_stays(tmp_path: Path) -> None:
    (tmp_path / "macs.txt").write_text("02:00:00:00:00:01 1\n")
    bridge = Bridge(tmp_path, age=10)
    bridge.tell(0, 1, 1)
    bridge.tell(0, 1, 2)
    bridge.tell(0, 2, 2)
    bridge.learn()
    assert bridge.found == {1: 1, 2: 2}
    assert bridge.counts["refused"] == 1
    # What an operator sets is an operator's from then on; `load` leaves what was learned.
    bridge.book.change("set 02:00:00:00:00:02 3\n", "", "r1", dry_run=False)
    bridge.tell(0, 3, 3)
    bridge.tell(0, 4, 4)
    bridge.learn()
    (tmp_path / "macs.txt").write_text("02:00:00:00:00:04 4\n")
    bridge.book.load(str(tmp_path / "macs.txt"), "r2", dry_run=False)
    assert bridge.found == {3: 3, 4: 4}
    (tmp_path / "macs.txt").write_text("")
    bridge.book.load(str(tmp_path / "macs.txt"), "r3", dry_run=False)
    assert bridge.found == {3: 3}
    bridge.now += 11
    bridge.learn()
    assert bridge.found == {}
    bridge.book.change("clear\n", "", "r4", dry_run=False)
    assert bridge.counts["entries"] == 0


def test_an_entry_that_is_not_told_again_goes(tmp_path: Path, clock: list[float]) -> None:
    bridge = Bridge(tmp_path, age=10)
    for n in (1, 2, 3):
        bridge.tell(0, n, n)
    bridge.learn()
    for _ in range(3):
        clock[0] = bridge.now = bridge.now + 6
        bridge.tell(1, 2, 2)
        bridge.learn()
    assert bridge.found == {2: 2}
    assert (bridge.counts["aged"], bridge.counts["entries"]) == (2, 1)
    # A builder that follows gives all their whole time.
    bridge.open()
    clock[0] = bridge.now = bridge.now + 9
    bridge.learn()
    assert bridge.found == {2: 2}
    bridge.now += 2
    bridge.learn()
    assert bridge.found == {}


def test_a_full_table_and_what_no_worker_should_write(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, entries=3)
    for n in range(5):
        bridge.tell(0, n, n)
    bridge.learn()
    assert bridge.found == {0: 0, 1: 1, 2: 2}
    assert bridge.counts["refused"] == 2
    bridge.tell(0, 1, 1 << 16)  # more than the value's type has
    bridge.tell(0, 1, 5, table=9)
    bridge.learn()
    assert bridge.found == {0: 0, 1: 1, 2: 2}
    # Numbers that no worker writes: at most a ring of other bytes.
    tells = bridge.region._tells[5]
    for sent in (1 << 63, 5, (1 << 64) - 1, 0):
        tells.sent = sent
        for _ in range(2 * 256 // EACH):
            bridge.learn()
        assert tells.taken == sent
    assert len(bridge.found) == 3


def test_no_slot_starves_another_one(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, entries=1000)
    for n in range(256):
        bridge.tell(0, n, 1)
    bridge.tell(1, 900, 1)
    bridge.learn()
    assert 900 in bridge.found
    assert len(bridge.found) == EACH + 1
    for _ in range(256 // EACH):
        bridge.learn()
    assert len(bridge.found) == 257


def test_only_the_slots_of_the_group_are_looked_at(tmp_path: Path) -> None:
    """Not 64 cache lines a look for a group of two."""
    bridge = Bridge(tmp_path, slots=range(3, 5))
    for slot in (2, 3, 4, 5):
        bridge.tell(slot, slot, 7)
        bridge.region._tells[slot].lost[0] = 1
        reader = bridge.region._readers[slot]
        reader.pid, reader.start, reader.controls = 1, 1, 1
        # It works with the copy that does not hold.
        reader.seen = 1 << 63 | 1 - bridge.region.which(0)
    assert len(bridge.region.readers_of_other(0)) == 2
    assert bridge.region.controlled() == (2, 2)
    for slot in (2, 3, 4, 5):
        bridge.region._readers[slot].seen = 0
    bridge.learn()
    assert bridge.found == {3: 7, 4: 7}
    assert bridge.region.lost(0) == 2


def test_messages_wait_while_a_worker_reads_the_other_copy(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path)
    line = bridge.region._readers[0]
    line.pid, line.seen = 1, bridge.region.holds
    bridge.tell(0, 1, 1)
    bridge.learn()
    bridge.tell(0, 2, 2)
    bridge.learn()
    assert bridge.found == {1: 1}
    line.seen = bridge.region.holds
    bridge.learn()
    assert bridge.found == {1: 1, 2: 2}


class Died(BaseException):
    pass


@pytest.mark.parametrize("seed", range(3))
def test_a_learned_table_is_what_a_plain_one_is_whoever_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, clock: list[float]
) -> None:
    """Random messages, changes by hand, time, deaths between any two steps, and logs written
    anew."""
    draw = random.Random(seed)
    monkeypatch.setattr("dpsup.builder.log.COMPACT_BYTES", 500)
    bridge = Bridge(tmp_path, age=50)
    static: dict[int, int] = {}
    learned: dict[int, list[float]] = {}
    steps = [(Log, "append"), (Log, "replace"), (Region, "publish"), (Region, "note_version")]

    def cut(call: Callable[..., Any], before: bool) -> Callable[..., Any]:
        def dies(*args: Any, **more: Any) -> Any:
            if not before:
                call(*args, **more)
            raise Died

        return dies

    for round in range(150):
        clock[0] = bridge.now = bridge.now + draw.choice((0, 1, 5))
        told = [(draw.randrange(20), draw.randrange(5)) for _ in range(draw.randrange(4))]
        for n, port in told:
            bridge.tell(draw.randrange(64), n, port)
        by_hand, number = draw.randrange(3) == 0, draw.randrange(20)
        death = draw.choice(steps) if draw.randrange(3) == 0 else None
        with monkeypatch.context() as patch:
            if death:
                call = getattr(*death)
                patch.setattr(*death, cut(call, draw.randrange(2) == 0))
            try:
                bridge.learn()
                if by_hand:
                    text = f"set 02:00:00:00:00:{number:02x} 9\n"
                    bridge.book.change(text, "", f"r{round}", dry_run=False)
            except (Died, SystemExit):
                pass
        if death:
            before = bridge.book.version
            bridge.open()
            assert bridge.book.version - before in (0, 1)
        found = bridge.found
        if by_hand and found.get(number) == 9:
            static[number] = 9
        assert {n: found.get(n) for n in static} == static
        learned.update({n: [] for n in found if n not in static})
        # What workers see is what it says, and each value is one that was told.
        assert bridge.region.version(0) == bridge.book.version
        assert all(found[n] < 5 for n in found if n not in static)
        assert bridge.counts["entries"] == len(found) - len(static)
    clock[0] = bridge.now = bridge.now + 51
    bridge.learn()
    assert bridge.found == static
    for n in range(20):
        bridge.tell(n, n, 3)
    bridge.learn()
    assert bridge.found == {n: 3 for n in range(20)} | static


# --- an operator's words --------------------------------------------------------------------------


def words_book(folder: Path) -> Book:
    (folder / "t").mkdir(exist_ok=True)
    table = declare("control", "array", TELLS, value=f"u64+text{TELL_BYTES}")
    region = Region(folder / "t" / "fw", [table], lives, [Use(control=True)])
    book = Book(region, 0, NO_NAMES, folder / "t" / "fw=control", "", "fw")
    book.begin()
    region.appear()
    return book


def words_of(book: Book) -> list[str]:
    values = sorted(
        (int.from_bytes(v[:8], "little"), v[8:].rstrip(b"\0").decode())
        for v in book.entries.values()
        if isinstance(v, bytes)
    )
    return [text for _, text in values]


def test_words_are_kept_in_order_and_the_oldest_go(tmp_path: Path) -> None:
    book = words_book(tmp_path)
    said = [f"limit, {n} % # \u00e4\n\t" for n in range(TELLS + 10)]
    numbers = []
    for n, text in enumerate(said):
        told = book.tell(text, f"r{n}")
        numbers.append(told["number"])
        assert told["kept"] == min(n + 1, TELLS)
        if n % 20 == 0:
            book = words_book(tmp_path)
            again = book.tell(text, f"r{n}")  # asked again: said once
            assert again["number"] == told["number"]
    assert numbers == sorted(set(numbers))
    assert words_of(book) == said[-TELLS:]
    book.change("clear\n", "", "c", dry_run=False)
    assert book.tell("x" * TELL_BYTES, "last")["number"] > numbers[-1]
    assert words_of(book) == ["x" * TELL_BYTES]


def test_words_that_cannot_be_said(tmp_path: Path) -> None:
    book = words_book(tmp_path)
    for text in ("", "x" * (TELL_BYTES + 1), "\u00e4" * TELL_BYTES, "a\0b"):
        with pytest.raises(UsageError) as refused:
            book.tell(text, "r1")
        assert refused.value.code == "E0536"
    line = book.region._readers[0]
    line.pid = 1
    with pytest.raises(DpsupError) as refused_too:
        book.tell("x", "r2")
    assert refused_too.value.code == "E0537"
    assert book.entries == {}
    line.controls = 1
    assert book.tell("x", "r2")["workers"] == 1
    # By hand they are only taken away: a number out of order would be left out.
    with pytest.raises(DpsupError):
        book.change("set 5 1,x\n", "", "r3", dry_run=False)
    book.change("del 0\n", "", "r4", dry_run=False)


@pytest.mark.parametrize("text", ["", "a b", '""', "%", "%41", "a,b#c", "\u00e4\n"])
def test_a_text_is_a_word(text: str) -> None:
    one = field("text16")
    data = text.encode().ljust(16, b"\0")
    word = one.write(data, NO_NAMES)
    assert not set(word) & set(" ,#\n") and word
    assert one.read(word, NO_NAMES) == data


# --- what persists --------------------------------------------------------------------------------


class Instance:
    """One table that persists, through starts of the instance."""

    def __init__(self, folder: Path, entries: int = 64, value: str = "u32") -> None:
        self.folder, self.runs = folder, 0
        self.entries, self.value = entries, value
        self.file = folder / "kept" / "fw=routes"
        self.start()

    def start(self) -> None:
        self.runs += 1
        if self.runs > 1:
            self.book.log.close()
        directory = self.folder / f"run{self.runs}"
        directory.mkdir()
        self.open(directory)

    def open(self, directory: Path) -> None:
        table = declare("routes", "ipv4", self.entries, value=self.value)
        region = Region(directory / "fw", [table], lives)
        source = str(self.folder / "routes.txt") if (self.folder / "routes.txt").exists() else ""
        self.book = Book(region, 0, NO_NAMES, self.file, source, "fw", persists=True)
        self.book.begin()
        region.appear()

    def change(self, text: str) -> None:
        self.book.change(text, "", f"r-{self.runs}-{self.book.version}", dry_run=False)

    @property
    def text(self) -> str:
        return self.book.lines(0, 1 << 20)[0]


def test_changes_outlive_the_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routes.txt").write_text("10.0.0.0/8 1\n")
    instance = Instance(tmp_path)
    instance.change("add 11.0.0.0/8 2\n")
    instance.start()
    assert instance.text == "10.0.0.0/8 1\n11.0.0.0/8 2\n"
    assert instance.book.warnings == []
    assert instance.book.region.version(0) == instance.book.version
    monkeypatch.setattr("dpsup.builder.log.COMPACT_BYTES", -1)
    for n in range(20):
        instance.change(f"set 11.0.0.0/8 {n}\n")
    instance.start()
    assert instance.text == "10.0.0.0/8 1\n11.0.0.0/8 19\n"
    # The file says something else now: as `reload`, with a word about it.
    (tmp_path / "routes.txt").write_text("10.0.0.0/8 5\n")
    instance.start()
    assert instance.text == "10.0.0.0/8 5\n"
    assert "changed" in instance.book.warnings[0]
    instance.start()
    assert instance.book.warnings == []


@pytest.mark.parametrize("what", ["flipped", "cut", "begin", "garbage", "empty", "other types"])
def test_a_file_that_cannot_be_trusted_is_said(tmp_path: Path, what: str) -> None:
    instance = Instance(tmp_path)
    for n in range(3):
        instance.change(f"add 1{n}.0.0.0/8 {n + 1}00000\n")
    instance.book.log.close()
    data = bytearray(instance.file.read_bytes())
    at = data.index(b"11.0.0.0")
    if what == "flipped":
        data[at] ^= 1
    elif what == "begin":
        data[0] ^= 1
    elif what == "garbage":
        data = bytearray(b"\0" * 1000)
    elif what == "empty":
        data = bytearray()
    elif what == "cut":
        data = data[:-3]
    instance.file.write_bytes(bytes(data))
    if what == "other types":
        instance.value = "u16"
    directory = tmp_path / "next"
    directory.mkdir()
    instance.open(directory)
    aside = instance.file.with_name("fw=routes.aside")
    if what == "empty":
        assert (instance.text, instance.book.warnings) == ("", [])
    elif what == "cut":
        assert instance.text == "10.0.0.0/8 100000\n11.0.0.0/8 200000\n"
        assert "under way" in instance.book.warnings[0]
    else:
        assert instance.text == ""
        assert str(aside) in instance.book.warnings[0]
        assert aside.read_bytes() == data
    instance.change("add 20.0.0.0/8 7\n")
    instance.start()
    assert instance.text.endswith("20.0.0.0/8 7\n")


def test_a_smaller_table_refuses_what_it_was(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.change("add 10.0.0.0/8 1\nadd 11.0.0.0/8 1\n")
    instance.entries = 1
    with pytest.raises(DpsupError, match="2 entries") as refused:
        instance.start()
    assert refused.value.code == "E0535"
    assert str(instance.file) in refused.value.why


def test_a_file_of_another_user_or_instance_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsup.builder.log.OTHER_S", -1.0)
    instance = Instance(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(DpsupError, match="another instance"):
        instance.open(tmp_path / "other")
    instance.file.chmod(0o666)
    with pytest.raises(DpsupError, match="alone"):
        instance.start()
    instance.file.unlink()
    instance.file.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "third").mkdir()
    with pytest.raises(DpsupError) as refused:
        instance.open(tmp_path / "third")
    assert refused.value.code == "E0535"
    assert not (tmp_path / "elsewhere").exists()


def test_what_workers_learned_ends_with_the_instance(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, persists=True)
    bridge.book.change("add 02:00:00:00:00:01 1\n", "", "r1", dry_run=False)
    bridge.tell(0, 2, 2)
    bridge.learn()
    bridge.book.log.close()
    for file in ("br", "br:told", "br:readers"):
        (tmp_path / "t" / file).unlink()
    bridge.open()
    assert bridge.found == {1: 1}
    bridge.book.log.close()
    bridge.open()  # the next builder of this instance
    assert bridge.found == {1: 1}


def test_every_flip_of_a_log_is_noticed(tmp_path: Path) -> None:
    one = encode(Record(1, ("r1",), "abc", "add 0 1\n"))
    two = encode(Record(2, ("r2",), "abc", "del 0\n", learned=True))
    for at in range(len(one)):
        for bit in range(8):
            data = bytearray(one + two)
            data[at] ^= 1 << bit
            assert decode(bytes(data))[0] == [], (at, bit)
    path = tmp_path / "log"
    path.write_bytes(one + two[:-1] + b"x" + one)
    path.chmod(0o600)
    with pytest.raises(Corrupt):
        Log(path, durable=True).read()


def test_the_builder_asks_the_book_of_a_group(tmp_path: Path) -> None:
    words = ["control", "array", "64", "", "u64+text1016", "", "control", ""]
    plan: Any = {
        "ports": [],
        "groups": [
            {"name": "fw", "tables": [words], "first_slot": 0, "max": 1},
            {
                "name": "br", "first_slot": 1, "max": 63,
                "tables": [["macs", "exact", "64", "mac", "u16", "", "learn 300", ""]],
            },
        ],
    }  # fmt: skip
    builder = Builder(plan, tmp_path)
    args = {"group": "fw", "text": "hello", "request": "r-1"}
    told = builder.handle(Request("tell", "1", args))
    assert (told["group"], told["kept"]) == ("fw", 1)
    macs = builder.books[1]
    tells = macs.region._tells[1]
    tells.told[0].value, tells.sent = 4, 1
    builder.learn(5.0)
    assert len(macs.entries) == 1
    assert builder.patience() in (0.005, 0.02)
    builder.learn(5.001)  # not yet
    learned = builder.handle(Request("learned", "2", {}))
    assert learned == {"br": {"macs": macs.learning()}}
    assert learned["br"]["macs"]["entries"] == 1


@pytest.mark.parametrize(
    ("operation", "left"),
    [
        ("del 02:00:00:00:00:02", {1: 1}),
        ("replace 02:00:00:00:00:02 9", {1: 1, 2: 9}),
        ("clear", {}),
    ],
)
def test_what_was_learned_and_changed_by_hand_ends_with_the_instance(
    tmp_path: Path, operation: str, left: dict[int, int]
) -> None:
    """The change was carried out anew, without what it changed: no builder began any more."""
    bridge = Bridge(tmp_path, persists=True)
    bridge.book.change("add 02:00:00:00:00:01 1\n", "", "r0", dry_run=False)
    bridge.tell(0, 2, 2)
    bridge.tell(0, 3, 3)
    bridge.learn()
    bridge.book.change(f"{operation}\n", "", "r1", dry_run=False)
    bridge.book.log.close()
    for name in ("br", "br:told", "br:readers"):
        (tmp_path / "t" / name).unlink()
    bridge.open()
    assert bridge.found == left
    assert bridge.region.version(0) == bridge.book.version
    bridge.book.log.close()
    bridge.open()
    assert bridge.found == left
