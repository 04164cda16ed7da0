# SPDX-License-Identifier: BSD-3-Clause
"""`check` finds what a worker would refuse of a plugin's file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from unit.fakehost import FILE, MINIMAL, machine

from dpsup.check.topology import check
from dpsup.host.plugin_file import (
    APPLY_AT,
    CONTROL_AT,
    SIZE,
    STATE_AT,
    NoPlugin,
    PluginFile,
    read,
)
from dpsup.topology.load import load

SDK = Path(__file__).resolve().parents[2] / "workers" / "sdk"
SOURCE = """
#include <stddef.h>
#include <dpsup_plugin.h>
_Static_assert(offsetof(struct dps_plugin, state_size) == STATE_AT, "the reader's offset");
_Static_assert(sizeof(struct dps_plugin) == SIZE, "likewise");
static uint16_t packet(void *s, struct dps_packet *p) { (void)s; return dps_out(p->port); }
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "x", .packet = packet, .state_size = 48, .bucket_state_size = 16,
};
"""
# Built with a header that has one more member.
LATER = (
    SOURCE.replace(
        "const struct dps_plugin dps_plugin = {",
        "const struct { struct dps_plugin p; uint64_t more; } dps_plugin = { .more = MORE, .p = {",
    )
    .replace("DPS_PLUGIN_HEAD", ".abi = DPS_PLUGIN_ABI, .size = SIZE + 8")
    .replace("\n};", "\n} };")
)
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def build(folder: Path, source: str = SOURCE, *flags: str) -> str:
    (folder / "x.c").write_text(source)
    kind = flags or ("-shared", "-fPIC")
    command = [
        "cc",
        *kind,
        f"-I{SDK}",
        f"-DSTATE_AT={STATE_AT}",
        f"-DSIZE={SIZE}",
        "x.c",
        "-o",
        "x.so",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "x.so")


@needs_cc
@pytest.mark.parametrize("flags", [(), ("-shared", "-fPIC", "-O2", "-s")], ids=["", "stripped"])
def test_a_plugin_says_its_state(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert read(build(tmp_path, SOURCE, *flags)) == PluginFile(48, 16)


@needs_cc
@pytest.mark.parametrize(
    "source",
    [
        SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = DPS_PLUGIN_ABI, .size = 128"),
        LATER.replace("MORE", "0"),
    ],
    ids=["before", "after"],
)
def test_members_at_the_end_come_and_go_within_an_abi(tmp_path: Path, source: str) -> None:
    assert read(build(tmp_path, source)) == PluginFile(48, 16)


@needs_cc
def test_a_file_without_sections_is_left_to_the_worker(tmp_path: Path) -> None:
    path = Path(build(tmp_path))
    data = bytearray(path.read_bytes())
    data[40:48] = data[60:62] = b""
    data[40:40] = bytes(8)
    data[60:60] = bytes(2)
    path.write_bytes(data)
    assert read(str(path)) is None


@needs_cc
@pytest.mark.parametrize(
    ("source", "flags", "why"),
    [
        (SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = 2, .size = 40"), (), "plugin ABI 2 (40 bytes)"),
        (SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = DPS_PLUGIN_ABI, .size = 40"), (), "(40 bytes)"),
        (SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = DPS_PLUGIN_ABI, .size = 127"), (), "(127 byte"),
        (LATER.replace("MORE", "7"), (), f"({SIZE + 8} bytes)"),
        (SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = 3, .size = 88"), (), "plugin ABI 3 (88 bytes)"),
        (SOURCE.replace("DPS_PLUGIN_HEAD", ".abi = 3, .size = 88"), (), "needs no change: docs"),
        (SOURCE.replace(" dps_plugin = {", " my_plugin = {"), (), "no symbol dps_plugin"),
        (SOURCE.replace("const struct dps_plugin dps", "static const struct dps_plugin dps"), (),
         "no symbol dps_plugin"),
        ("extern int dps_plugin; int f(void) { return dps_plugin; }", (), "no symbol dps_plugin"),
        (SOURCE, ("-c",), "not a shared object"),
    ],
)  # fmt: skip
def test_what_a_worker_would_refuse(
    tmp_path: Path, source: str, flags: tuple[str, ...], why: str
) -> None:
    with pytest.raises(NoPlugin, match=re.escape(why)):
        read(build(tmp_path, source, *flags))


@pytest.mark.parametrize("text", ["", "#!/bin/sh\n" * 20, "\x7fELF" + "\0" * 80, "x" * 5000])
def test_what_is_no_shared_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.so"
    path.write_text(text)
    with pytest.raises(NoPlugin):
        read(str(path))


@needs_cc
def test_a_file_that_was_cut_is_no_traceback(tmp_path: Path) -> None:
    whole = Path(build(tmp_path)).read_bytes()
    path = tmp_path / "cut.so"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(NoPlugin):
            read(str(path))


@pytest.mark.parametrize(
    ("found", "more", "why", "help"),
    [
        (PluginFile(48, 0), "", "48 bytes of state for each worker", "state = 48"),
        (PluginFile(0, 16), "state = 64", "16 bytes of state for each bucket", "bucket_state = 16"),
        (NoPlugin("it is no shared object"), "", "no shared object", "--template plugin"),
        (PermissionError(13, "Permission denied"), "", "Permission denied", "readable"),
        (PluginFile(48, 16), "state = 48\nbucket_state = 16", "", ""),
        (PluginFile(), "", "", ""),
    ],
)
def test_check_says_what_start_would(
    found: PluginFile | Exception, more: str, why: str, help: str
) -> None:
    path = "/etc/dpsup/fw.so"
    text = f'{MINIMAL}plugin = "./fw.so"\ninput = ["wan"]\n{more}\n'
    host = machine(text, files={FILE: text, path: ""}, plugins={path: found})
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    told = [p for p in check(topology, host) if p.code == "E0510"]
    assert bool(told) == bool(why)
    for problem in told:
        assert why in problem.why and help in problem.help and "fw.so" in problem.source


FUNCTIONS = """
static void control(void *s, const char *t, uint32_t n) { (void)s; (void)t; (void)n; }
static int apply(const struct dps_table_work *w) { (void)w; return 0; }
"""


@needs_cc
@pytest.mark.parametrize("flags", [(), ("-shared", "-fPIC", "-O2", "-s")], ids=["", "stripped"])
def test_which_functions_a_plugin_has(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A pointer is 0 in the file, and the loader writes it."""
    at = f"""
_Static_assert(offsetof(struct dps_plugin, control) == {CONTROL_AT}, "");
_Static_assert(offsetof(struct dps_plugin, table_apply) == {APPLY_AT}, "");
const"""
    source = SOURCE.replace("\nconst", FUNCTIONS + at)
    for more, has in (
        (".control = control,", (True, False)),
        (".table_apply = apply,", (False, True)),
        (".control = control, .table_apply = apply,", (True, True)),
    ):
        text = source.replace(".packet = packet,", f".packet = packet, {more}")
        assert read(build(tmp_path, text, *flags)) == PluginFile(48, 16, *has)


OWN = 'tables = { r = { kind = "own", key = "u8", entries = 5, bytes = 64 } }'


@pytest.mark.parametrize(
    ("plugin", "found", "more", "codes"),
    [
        ("./fw.so", PluginFile(), "control = true", ["E0537"]),
        ("./fw.so", PluginFile(control=True), "control = true", []),
        ("./fw.so", None, "control = true", []),
        ("macswap", PluginFile(), "control = true", ["E0537"]),
        ("./fw.so", PluginFile(control=True), OWN, ["E0539"]),
        ("./fw.so", PluginFile(table_apply=True), OWN, []),
        ("macswap", PluginFile(), OWN, ["E0539"]),
    ],
)
def test_check_says_which_function_is_missing(
    plugin: str, found: PluginFile | None, more: str, codes: list[str]
) -> None:
    path = "/etc/dpsup/fw.so"
    text = f'{MINIMAL}plugin = "{plugin}"\ninput = ["wan"]\n{more}\n'
    host = machine(text, files={FILE: text, path: ""}, plugins={path: found})
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    assert [p.code for p in check(topology, host) if p.code in ("E0537", "E0539")] == codes
