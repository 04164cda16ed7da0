# SPDX-License-Identifier: BSD-3-Clause
"""What a plugin's file says before a process loads it: an ELF file's exported `dps_plugin`, or a
source in Python.

Only numbers are read, and of pointers whether they are set: what they are shows when it is loaded.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dpsup import _abi, plugin_source

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
SYM = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")
_SHARED, _LOADED, _DYNSYM, _RELA = 3, 1, 11, 4  # ET_DYN, PT_LOAD, SHT_DYNSYM, SHT_RELA
_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEAD = struct.Struct("<II")  # struct dps_plugin: abi, size
_STATE = struct.Struct("<II")  # state_size, bucket_state_size
STATE_AT, CONTROL_AT, APPLY_AT = 64, 144, 152
SIZE, SIZE_FIRST, SIZE_MOST = 168, 128, 1024  # now, as ABI 4 began, and what none will have
SOURCE_MOST = 4 << 20  # bytes
# As a worker says it (workers/plugin.c).
SINCE_3 = (
    " (in ABI 4 dps_packet and dps_plugin are larger: a plugin may look at a burst first. A source"
    " for ABI 3 needs no change: docs/plugins/abi4.md)"
)
NAME = b"dps_plugin"


class NoPlugin(Exception):
    """Why a file is none that a worker can load."""


@dataclass(frozen=True, slots=True)
class PluginFile:
    state: int = 0  # bytes for each worker
    bucket_state: int = 0
    control: bool = False  # it has that function
    table_apply: bool = False


def read(path: str) -> PluginFile | None:
    """None: the file does not tell (its section table was removed). Raises: NoPlugin, OSError."""
    if path.endswith(plugin_source.SUFFIX):
        return _source(path)
    with Path(path).open("rb") as file:
        if os.fstat(file.fileno()).st_size < EHDR.size:
            raise NoPlugin("it is no shared object")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _facts(data)
            except struct.error:
                raise NoPlugin("it is a damaged shared object: it ends too early") from None


def _source(path: str) -> PluginFile:
    if Path(path).stat().st_size > SOURCE_MOST:
        raise NoPlugin("it is no source in Python: it is too large")
    source = Path(path).read_bytes()
    try:
        found = plugin_source.examine(source, path)
    except plugin_source.SourceError as e:
        raise NoPlugin(str(e)) from None
    control = plugin_source.has_control(source, path)
    return PluginFile(found.state_size, found.bucket_state_size, control)


def _facts(data: mmap.mmap) -> PluginFile | None:
    ident, kind, machine, _, _, phoff, shoff, *_, phsize, phnum, shsize, shnum, _ = (
        EHDR.unpack_from(data, 0)
    )
    if ident[:4] != b"\x7fELF":
        raise NoPlugin("it is no shared object")
    if ident[4:6] != b"\x02\x01" or _MACHINES.get(machine) != platform.machine():
        what = _MACHINES.get(machine, f"machine {machine}")
        raise NoPlugin(f"it is built for another kind of machine ({what})")
    if kind != _SHARED:
        raise NoPlugin("it is an object file or a program, not a shared object: cc -shared -fPIC")
    if not shoff or not shnum:
        return None
    loaded = [
        (vaddr, offset, filesz)
        for type_, _, offset, vaddr, _, filesz, _, _ in (
            PHDR.unpack_from(data, phoff + i * phsize) for i in range(phnum)
        )
        if type_ == _LOADED
    ]
    sections = [SHDR.unpack_from(data, shoff + i * shsize) for i in range(shnum)]
    for section, value in _exported(data, sections):
        if section == 0:
            continue  # wanted, not there
        for vaddr, offset, filesz in loaded:
            if vaddr <= value < vaddr + filesz:
                state = _plugin(data, offset + value - vaddr)
                return PluginFile(*state, *_has(data, sections, offset + value - vaddr, value))
        return None
    raise NoPlugin("it exports no symbol dps_plugin: is it a dpsup plugin?")


def _exported(data: mmap.mmap, sections: list[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """The symbols of that name: section and address."""
    for section in sections:
        if section[1] != _DYNSYM:
            continue
        offset, size, names = section[4], section[5], sections[section[6]]
        for at in range(offset, offset + size, SYM.size):
            name, _, _, index, value, _ = SYM.unpack_from(data, at)
            start = names[4] + name
            if data[start : start + len(NAME) + 1] == NAME + b"\0":
                yield index, value


def _has(
    data: mmap.mmap, sections: list[tuple[int, ...]], at: int, address: int
) -> tuple[bool, bool]:
    """Does it have control and table_apply? A pointer is there, or what the loader writes there."""
    _, size = _HEAD.unpack_from(data, at)
    written = {
        RELA.unpack_from(data, entry)[0]
        for section in sections
        if section[1] == _RELA
        for entry in range(section[4], section[4] + section[5] - RELA.size + 1, RELA.size)
    }
    control, table_apply = (
        member < size and (any(data[at + member : at + member + 8]) or address + member in written)
        for member in (CONTROL_AT, APPLY_AT)
    )
    return control, table_apply


def _plugin(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Bytes of state for a worker and for a bucket."""
    abi, size = _HEAD.unpack_from(data, at)
    # One that is built with members that this dpsup does not have may use none of them.
    more = data[at + SIZE : at + size] if SIZE < size <= SIZE_MOST else b""
    if abi != _abi.DPS_PLUGIN_ABI or not SIZE_FIRST <= size <= SIZE_MOST or any(more):
        raise NoPlugin(
            f"it is built against plugin ABI {abi} ({size} bytes), this dpsup has"
            f" {_abi.DPS_PLUGIN_ABI} ({SIZE}): build it again with this dpsup_plugin.h"
            + (SINCE_3 if abi == 3 else "")
        )
    state, bucket_state = _STATE.unpack_from(data, at + STATE_AT)
    return state, bucket_state
