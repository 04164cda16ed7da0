# SPDX-License-Identifier: BSD-3-Clause
"""The builder as a process: it starts with what the runtime directory says, then answers."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpsup.builder.book import Book
from dpsup.builder.own import Own
from dpsup.builder.region import Region, Use
from dpsup.builder.source import read_text
from dpsup.bus.messages import Args, ProtocolError, Request, as_error, want
from dpsup.bus.sockets import Responder
from dpsup.documents.plan import Plan
from dpsup.documents.status import Learned
from dpsup.documents.tables import Changed, TableLines, TableRow, Told
from dpsup.errors import DpsupError, Exit, NoSuchObject, UsageError
from dpsup.host import process, rights
from dpsup.instance.runtime_dir import BUILDER, TABLES, TABLES_LOCK
from dpsup.limits import CONTROL
from dpsup.plan import rights as of
from dpsup.tables.fields import Names
from dpsup.text import suggest
from dpsup.topology.values import DeclaredTable

PAGE = 256 << 10  # bytes of lines in a reply
REFUSAL_MOST = 3500  # characters of the line that says why, which a longer one would be cut off
LEARN_S, IDLE_S = 0.005, 0.02  # between two looks at what workers tell; where they tell nothing
BUSY_S = 1.0  # since the last message
SETTLE_S = 0.005  # between two looks whether the workers have moved on


def lives(pid: int, start: int) -> bool:
    """Is it there, or may it be? Of a worker whose data thread has crashed, the process is a
    zombie."""
    return pid > 0 and not process.is_surely_gone(pid, start)


class Builder:
    def __init__(
        self,
        plan: Plan,
        directory: Path,
        plugin_of: Callable[[str], str] = lambda _: "",
        held: Sequence[int] = (),
    ) -> None:
        """`plugin_of`: by a group's name the file of its plugin, as it is now."""
        names = Names(
            tuple(p["name"] for p in plan["ports"]), tuple(g["name"] for g in plan["groups"])
        )
        self.books: list[Book] = []
        self.regions: list[Region] = []
        for group in plan["groups"]:
            declared_tables = [DeclaredTable(*words) for words in group["tables"]]
            tables = [declared.table() for declared in declared_tables]
            if not tables:
                continue
            uses = [Use.read(declared.use) for declared in declared_tables]
            own = Own(functools.partial(plugin_of, group["name"]), held, names.ports)
            slots = range(group["first_slot"], group["first_slot"] + group["max"])
            region = Region(directory / group["name"], tables, lives, uses, slots)
            self.regions.append(region)
            for i, declared in enumerate(declared_tables):
                log = Path(declared.persist or directory / f"{group['name']}={declared.name}")
                book = Book(
                    region, i, names, log, declared.file, group["name"],
                    persists=bool(declared.persist), own=own,
                )  # fmt: skip
                book.begin()
                self.books.append(book)
            region.appear()
        self.learning = [r for r in self.regions if any(use.learns for use in r.uses)]
        self._next = self._busy_until = 0.0  # of learning

    def settle(self) -> bool:
        """False: a copy still lacks the last batch, as a worker reads it."""
        return all([book.settle() for book in self.books])

    def learn(self, now: float) -> None:
        """Carry out what workers have told since the last time."""
        if not self.learning or now < self._next:
            return
        self._next = now + LEARN_S
        for region in self.learning:
            books = {b.index: b for b in self.books if b.region is region and b.use.learns}
            # What waits for a worker to leave a copy waits here, and what follows in the rings.
            if not any(book.told for book in books.values()):
                for index, key, value in region.told():
                    self._busy_until = now + BUSY_S
                    if index in books:
                        books[index].told.append((key, value))
            for book in books.values():
                book.learn(now)

    def patience(self) -> float:
        """Seconds to wait for a request."""
        if not self.settle():
            return SETTLE_S
        if not self.learning:
            return 1.0
        return LEARN_S if time.monotonic() < self._busy_until else IDLE_S

    # --- requests --------------------------------------------------------------------------------

    def handle(self, request: Request) -> Any:
        method = getattr(self, f"do_{request.verb}", None)
        if method is None:
            raise ProtocolError(f"the builder knows no `{request.verb}`", code="E0903")
        return method(request)

    def _book(self, args: Args) -> Book:
        group, name = want(args, "group", str, ""), want(args, "table", str)
        found = [b for b in self.books if b.table.name == name and group in ("", b.group)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"several groups have a table {name}: {', '.join(b.group for b in found)}",
                code="E0527",
                help=f"write {found[0].group}/{name}",
            )
        known = [f"{b.group}/{b.table.name}" for b in self.books]
        close = suggest(name, [b.table.name for b in self.books])
        raise NoSuchObject(
            f'no table "{f"{group}/" if group else ""}{name}"',
            code="E0527",
            help=f'did you mean "{close}"?' if close else f"there are: {', '.join(known)}",
        )

    def do_list(self, _: Request) -> list[TableRow]:
        return [book.row() for book in self.books]

    def do_learned(self, _: Request) -> dict[str, dict[str, Learned]]:
        """By group and table, what workers told."""
        found: dict[str, dict[str, Learned]] = {}
        for book in self.books:
            if (learned := book.learning()) is not None:
                found.setdefault(book.group, {})[book.table.name] = learned
        return found

    def do_show(self, request: Request) -> TableLines:
        book = self._book(request.args)
        version = want(request.args, "version", int, None)
        text, after = book.lines(want(request.args, "first", int, 0), PAGE, version)
        return self._lines(book, text, after, version)

    def do_get(self, request: Request) -> TableLines:
        book = self._book(request.args)
        text = book.get(want(request.args, "key", str))
        return self._lines(book, text)

    @staticmethod
    def _lines(
        book: Book, text: str, after: int | None = None, version: int | None = None
    ) -> TableLines:
        return {
            "group": book.group,
            "table": book.table.name,
            "text": text,
            "next": after,
            "version": version or book.version,
        }

    @staticmethod
    def _request(args: Args) -> str:
        """By which a builder that follows knows that it was carried out."""
        found = want(args, "request", str)
        if not re.fullmatch(r"[0-9A-Za-z-]{2,64}", found):
            raise ProtocolError("args.request: 2 to 64 letters and digits are wanted")
        return found

    def do_change(self, request: Request) -> Changed:
        args = request.args
        return self._book(args).change(
            want(args, "text", str),
            want(args, "name", str, ""),
            self._request(args),
            dry_run=want(args, "dry_run", bool, False),
        )

    def do_tell(self, request: Request) -> Told:
        """An operator's words for a group's plugin."""
        book = self._book({**request.args, "table": CONTROL})
        return book.tell(want(request.args, "text", str), self._request(request.args))

    def do_batch(self, request: Request) -> Changed:
        """The operations of a file, which may be large."""
        path = want(request.args, "path", str)
        try:
            text, _ = read_text(path)
        except (OSError, UnicodeDecodeError) as e:
            raise DpsupError(
                f"cannot read {path}: {e}", code="E0521", help="correct the path"
            ) from None
        return self._book(request.args).change(
            text,
            path,
            self._request(request.args),
            dry_run=want(request.args, "dry_run", bool, False),
        )

    def do_load(self, request: Request) -> Changed:
        """Change a table to what a file says; without a path, the one that the topology names."""
        book = self._book(request.args)
        path = want(request.args, "path", str, "") or book.source
        if not path:
            raise UsageError(
                f"the topology names no file for table {book.table.name}",
                code="E0527",
                help="name one: `dpsup table TABLE load FILE`",
            )
        return book.load(
            path,
            self._request(request.args),
            dry_run=want(request.args, "dry_run", bool, False),
        )


def plugin_in(plan_file: str, group: str) -> str:
    """What workers of the group load: a rollout changes it, and writes it down there."""
    plan: Plan = json.loads(Path(plan_file).read_text())
    return next(g["plugin_copy"] for g in plan["groups"] if g["name"] == group)


def _lock(directory: Path) -> int:
    """The builder before this one may still be on its way out."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(directory / TABLES_LOCK, flags, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _say(notify: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(notify, f"{text}\n".encode())
    os.close(notify)


def refusal_line(e: DpsupError | OSError) -> str:
    """Why it does not start. The supervisor reads lines of a bounded length: of many problems the
    first are told, and `dpsup check` tells all."""
    if isinstance(e, OSError):
        e = DpsupError(
            f"the live tables cannot be laid out: {e}",
            code="E0525",
            why="they, and the log of their changes, lie in the runtime directory",
            help="free some space there, or set [host] runtime_dir to a directory with more room",
        )
    error = as_error(e)
    for key in ("why", "message"):
        while error[key] and len(json.dumps(error)) > REFUSAL_MOST:
            left = error[key].removesuffix(" ...")
            error[key] = f"{left[: len(left) * 3 // 4]} ..." if len(left) > 8 else ""
    return json.dumps(error)


def main(argv: list[str]) -> int:
    plan_file, _, notify_fd = argv
    notify = int(notify_fd)
    process.die_with_parent(yes=True)
    if not process.is_read(notify):
        return int(Exit.FAILED)
    process.ignore_accidents()
    process.ignore_terminal()
    rights.keep(of.mask(of.builder()))
    plan: Plan = json.loads(Path(plan_file).read_text())
    process.pin(tuple(plan["supervisor_cores"]))
    directory = Path(plan_file).parent / TABLES
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = _lock(directory)
        builder = Builder(plan, directory, functools.partial(plugin_in, plan_file), (lock,))
        responder = Responder(str(Path(plan_file).parent / BUILDER), builder.handle)
    except (DpsupError, OSError) as e:
        _say(notify, "REFUSED " + refusal_line(e))
        return int(Exit.FAILED)
    for book in builder.books:
        for warning in book.warnings:
            print(warning, flush=True)
            with contextlib.suppress(BrokenPipeError):
                os.write(notify, f"WARNING {warning}\n".encode())
    _say(notify, "READY")
    while True:
        builder.learn(time.monotonic())
        responder.poll(builder.patience())
