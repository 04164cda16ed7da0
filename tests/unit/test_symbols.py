# SPDX-License-Identifier: BSD-3-Clause
"""The frames of a crash get the names of functions, from files that are as they were."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from dpsup.documents.quarantine import Death
from dpsup.host.symbols import Loaded, named
from dpsup.supervisor.evidence import loaded

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

SOURCE = """
__attribute__((noinline)) static long hidden(long n) { return n * 3; }
long shown(long n) { return hidden(n) + 1; }
void *where(void) { return (void *)hidden; }
"""


def build(folder: Path, *flags: str) -> Path:
    (folder / "x.c").write_text(SOURCE)
    command = ["cc", "-O1", "-shared", "-fPIC", *flags, "x.c", "-o", "x.so"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "x.so"


def mapped(path: Path) -> tuple[int, ctypes.CDLL]:
    """Where this process has it."""
    library = ctypes.CDLL(str(path))
    library.where.restype = ctypes.c_void_p
    lines = Path("/proc/self/maps").read_text().splitlines()
    return min(int(line.split("-")[0], 16) for line in lines if line.endswith(str(path))), library


@pytest.mark.parametrize("flags", [(), ("-Wl,-Ttext-segment=0x40000",)], ids=["", "linked high"])
def test_functions_are_named_as_the_loader_has_them(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = build(tmp_path, *flags)
    base, library = mapped(path)
    file = Loaded("x.so", base, path.read_bytes())
    hidden = library.where()
    shown = cast(int, ctypes.cast(library.shown, ctypes.c_void_p).value)
    assert named([hex(hidden + 2), hex(shown + 4), hex(hidden), "0x10"], [file]) == [
        "hidden+0x2 (x.so)",
        "shown+0x4 (x.so)",
        "hidden+0x0 (x.so)",
        "0x10",
    ]


def test_a_call_that_never_returns_is_the_caller_s(tmp_path: Path) -> None:
    """Its return address is the next function's first byte."""
    path = build(tmp_path, "-falign-functions=1")
    base, library = mapped(path)
    file = Loaded("x.so", base, path.read_bytes())
    shown = cast(int, ctypes.cast(library.shown, ctypes.c_void_p).value)
    caller, _, itself = named([hex(shown)] * 3, [file])
    assert caller.startswith("hidden+0x") and itself == "shown+0x0 (x.so)"


def test_a_stripped_file_names_what_it_exports_and_places(tmp_path: Path) -> None:
    path = build(tmp_path, "-s")
    base, library = mapped(path)
    file = Loaded("x.so", base, path.read_bytes())
    shown = cast(int, ctypes.cast(library.shown, ctypes.c_void_p).value)
    hidden = library.where()
    assert named([hex(shown + 4), hex(hidden + 2)], [file]) == [
        "shown+0x4 (x.so)",
        f"x.so+{hidden + 2 - base:#x}",
    ]


def test_a_damaged_file_names_nothing_and_raises_nothing(tmp_path: Path) -> None:
    whole = build(tmp_path).read_bytes()
    frames = ["0x7f0000001130", "0x0", "0xffffffffffffffff"]
    for data in (b"", b"#!/bin/sh\n" * 20, whole[:64], whole[:5000], b"\xff" * 8192):
        assert len(named(frames, [Loaded("x.so", 0x7F0000000000, data)])) == 3
    for at in (*range(64), *range(0, len(whole), 97)):
        hurt = bytearray(whole)
        hurt[at : at + 8] = b"\xff" * 8
        named(frames, [Loaded("x.so", 0x7F0000000000, bytes(hurt))])


def death(**more: Any) -> Death:
    found = {"program_base": "0x0", "plugin_base": "0x7f0000000000", "plugin_digest": "", **more}
    return cast(Death, found)


def test_only_a_copy_with_the_recorded_contents_is_read(tmp_path: Path) -> None:
    path = build(tmp_path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    copy = plugins / f"{digest}-my.so"
    copy.write_bytes(data)
    (file,) = loaded(death(plugin_digest=digest), plugins, None)
    assert (file.name, file.base) == ("my.so", 0x7F0000000000)
    assert not loaded(death(), plugins, None), "it has no copy"
    assert not loaded(death(plugin_digest="0" * 16), plugins, None)
    copy.write_bytes(data + b"more")
    assert not loaded(death(plugin_digest=digest), plugins, None)
    copy.unlink()
    copy.mkdir()
    assert not loaded(death(plugin_digest=digest), plugins, None)
    assert not loaded(death(plugin_digest=digest), tmp_path / "gone", None)
    assert not loaded(death(plugin_base="0x0", program_base="0x400000"), plugins, None)
