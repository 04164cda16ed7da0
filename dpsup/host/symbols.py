# SPDX-License-Identifier: BSD-3-Clause
"""Names for the frames of a crash: the symbol tables of the files that its process had loaded.

A reader of its own: a host need not have binutils, and nm would be one more program that reads
what a user's compiler wrote. The files are read, not mapped: one that is cut short meanwhile must
not kill the supervisor.
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dpsup.host.plugin_file import EHDR, PHDR, SHDR, SYM

_SYMTAB, _DYNSYM, _LOAD, _EXECUTABLE, _PAGE = 2, 11, 1, 1, 4096
_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_VARIABLES = (1,)  # STT_OBJECT
CRASHED = 2  # the frame of the instruction itself, after the handler's and the kernel's
_SYMBOLS_MOST = 1 << 17  # 50 ms of Python
_NAME_MOST = 160  # characters shown


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file of a process."""

    name: str
    base: int  # where its first page is mapped
    data: bytes  # the file


class _Table:
    """The functions of a file, or its variables. Raises: ValueError, OverflowError, struct.error,
    IndexError: it is no ELF file."""

    def __init__(self, file: Loaded, kinds: tuple[int, ...] = _FUNCTIONS) -> None:
        self.name, data = file.name, file.data
        ident, *_, phoff, shoff, _, _, phsize, phnum, shsize, shnum, _ = EHDR.unpack_from(data)
        if ident[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no ELF file that this reads")
        segments = [PHDR.unpack_from(data, phoff + i * phsize) for i in range(phnum)]
        loaded = [s for s in segments if s[0] == _LOAD]
        first = min(s[3] for s in loaded)
        self.bias = file.base - first // _PAGE * _PAGE
        self.code = [(s[3], s[3] + s[6]) for s in loaded if s[1] & _EXECUTABLE]
        sections = [SHDR.unpack_from(data, shoff + i * shsize) for i in range(shnum)]
        found: dict[int, tuple[int, bytes]] = {}
        # One of each kind, as the format has it; a hostile file could have thousands.
        for section in {s[1]: s for s in sections if s[1] in (_SYMTAB, _DYNSYM)}.values():
            names = sections[section[6]]
            text = data[names[4] : names[4] + names[5]]
            table = data[section[4] : section[4] + min(section[5], _SYMBOLS_MOST * SYM.size)]
            for name, info, _, index, value, size in SYM.iter_unpack(
                table[: len(table) // SYM.size * SYM.size]
            ):
                if index and size and info & 15 in kinds and name < len(text):
                    found[value] = size, text[name : text.find(b"\0", name)]
        self.starts = sorted(found)
        self.functions = [found[start] for start in self.starts]

    def at(self, address: int, *, returns: bool) -> str:
        """What an address in the process is; "": not of this file. One that a call returns to may
        lie behind a function's last instruction, a call that never does."""
        there = address - self.bias
        if not any(start <= there <= end for start, end in self.code):
            return ""
        for inside in (there - 1, there) if returns else (there,):
            if found := self.symbol(inside):
                start, name = found
                return f"{name}+{there - start:#x} ({self.name})"
        return f"{self.name}+{there:#x}"

    def symbol(self, there: int) -> tuple[int, str] | None:
        """Where the one begins that has this address of the file, and its name."""
        n = bisect.bisect_right(self.starts, there) - 1
        if n < 0 or there >= self.starts[n] + self.functions[n][0]:
            return None
        name = re.sub(rb"[^!-~]", b"?", self.functions[n][1]).decode()
        return self.starts[n], name[:_NAME_MOST]


def named(frames: Sequence[str], files: Sequence[Loaded]) -> list[str]:
    """The frames, as `function+0x12 (file)` where a symbol table names it, else as `file+0x12`, the
    address in the file; those of other files as they are."""
    tables = []
    for file in files:
        try:
            tables.append(_Table(file))
        except (ValueError, OverflowError, struct.error, IndexError):
            continue  # its frames stay as they are
    found = []
    for i, frame in enumerate(frames):
        at = [table.at(int(frame, 16), returns=i != CRASHED) for table in tables]
        found.append(next(filter(None, at), frame))
    return found


def variable(file: Loaded, address: int) -> str:
    """The name of the file's variable at an address in the process, "": it has none there."""
    try:
        table = _Table(file, _VARIABLES)
    except (ValueError, OverflowError, struct.error, IndexError):
        return ""
    # What is reported is the word around the byte.
    for at in range(address - table.bias, address - table.bias + 8):
        if found := table.symbol(at):
            return found[1]
    return ""
