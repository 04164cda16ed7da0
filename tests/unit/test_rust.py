# SPDX-License-Identifier: BSD-3-Clause
"""The crate for plugins in Rust says what dpsup_plugin.h says: each field of each struct at its
place, each constant, each verdict, as the two compilers see them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import DPSUP
from rust import CRATE, RUSTC, WHY_NOT, build, strict

from dpsup.host.plugin_file import PluginFile, read
from dpsup.topology import templates

SDK = CRATE.parent
HEADER = (SDK / "dpsup_plugin.h").read_text()
RAW = (CRATE / "src" / "raw.rs").read_text()

pytestmark = [
    pytest.mark.skipif(RUSTC is None, reason=WHY_NOT),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


def c_structs() -> dict[str, list[str]]:
    """The fields of each struct of the header, in order."""
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    found = {}
    for name, body in re.findall(
        r"^struct (dps_\w+) \{\n(.*?)^\};", text, re.MULTILINE | re.DOTALL
    ):
        fields = []
        for line in filter(None, map(str.strip, body.split(";"))):
            pointer = re.match(r".*?\(\*(\w+)\)", line)
            plain = re.search(r"(\w+)(\[\w+\])?$", line)
            assert pointer or plain, line
            fields.append((pointer or plain)[1])  # type: ignore[index]
        found[name] = fields
    return found


def rust_structs() -> dict[str, list[str]]:
    blocks = re.findall(r"^pub struct (dps_\w+) \{\n(.*?)^\}", RAW, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r"pub (\w+):", body) for name, body in blocks}


LEFT_OUT = {
    "dps_tuple": "dps_hash_of is not in the crate",
    "dps_table_change": "table_apply is not in the crate",
    "dps_table_work": "likewise",
}
VERDICTS = (0, 1, 9, 15, 16, 255, 256, 4095)


def test_structs_have_the_same_fields() -> None:
    wanted = {name: fields for name, fields in c_structs().items() if name not in LEFT_OUT}
    assert rust_structs() == wanted
    assert len(wanted["dps_plugin"]) > 15 and "found" in wanted["dps_packet"]


def test_layout_constants_and_verdicts_are_those_of_the_header(tmp_path: Path) -> None:
    constants = sorted(set(re.findall(r"^#define (DPS_PLUGIN_\w+) ", HEADER, re.MULTILINE)))
    constants = [name for name in constants if name not in ("DPS_PLUGIN_H", "DPS_PLUGIN_HEAD")]
    assert set(re.findall(r"pub const (DPS_PLUGIN_\w+):", RAW)) == set(constants)
    constants += re.findall(r"pub const (DPS_TABLE_\w+):", RAW)
    structs = rust_structs()

    c = [f'printf("{name} %lld\\n", (long long){name});' for name in constants]
    r = [f'println!("{name} {{}}", raw::{name});' for name in constants]
    for name, fields in structs.items():
        c.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        r.append(f'println!("{name} {{}}", size_of::<raw::{name}>());')
        r.append(f"let x = MaybeUninit::<raw::{name}>::uninit(); let at = x.as_ptr();")
        for field in fields:
            c.append(f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));')
            r.append(
                f'println!("{name}.{field} {{}}",'
                f" unsafe {{ addr_of!((*at).{field}) as usize - at as usize }});"
            )
    for n in VERDICTS:
        for word in ("out", "drop", "on", "bucket"):
            c.append(f'printf("{word} {n} %u\\n", (unsigned)dps_{word}({n}));')
            r.append(f'println!("{word} {n} {{}}", dpsup_plugin::{word}({n}));')
        for group in (0, 1, 15, 16, 4096):
            c.append(f'printf("on_hash %u\\n", (unsigned)dps_on_hash({group}, {n}));')
            r.append(f'println!("on_hash {{}}", dpsup_plugin::on_hash({group}, {n}));')
        for verdict in ("out(3)", "drop(2)", "on(1)", "quarantine()", "punt()", "out(16)"):
            c.append(f'printf("also %u\\n", (unsigned)dps_also(dps_{verdict}, {n}));')
            r.append(f'println!("also {{}}", dpsup_plugin::also(dpsup_plugin::{verdict}, {n}));')
    (tmp_path / "layout.c").write_text(
        "#include <stdio.h>\n#include <stddef.h>\n#include <dpsup_plugin.h>\n"
        f"int main(void) {{\n{chr(10).join(c)}\nreturn 0;\n}}\n"
    )
    (tmp_path / "layout.rs").write_text(
        "use dpsup_plugin::raw;\nuse std::mem::{size_of, MaybeUninit};\nuse std::ptr::addr_of;\n"
        "#[no_mangle] extern \"C\" fn dps_touch(_: *mut u8, _: u32) {}\n"
        "#[no_mangle] extern \"C\" fn dps_emit(_: u16, _: u32) -> *mut u8 { 0 as *mut u8 }\n"
        "#[no_mangle] extern \"C\" fn dps_tell(_: *mut u8, _: *mut u8, _: *mut u8, _: u64) -> i32"
        " { 0 }\n"
        "#[no_mangle] extern \"C\" fn dps_table_find(_: *mut u8, _: *mut u8) -> u64 { 0 }\n"
        "#[no_mangle] extern \"C\" fn dps_table_record(_: *mut u8, _: u64) -> *mut u8"
        " { 0 as *mut u8 }\n"
        f"fn main() {{\n{chr(10).join(r)}\n}}\n"
    )  # fmt: skip
    command = ["cc", f"-I{SDK}", str(tmp_path / "layout.c"), "-o", str(tmp_path / "in_c")]
    subprocess.run(command, check=True)
    in_c = subprocess.run([tmp_path / "in_c"], capture_output=True, text=True, check=True).stdout
    program = build(tmp_path, tmp_path / "layout.rs", "bin")
    in_rust = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert in_rust.splitlines() == in_c.splitlines()


def test_the_example_is_a_plugin_and_has_no_unsafe_code(tmp_path: Path) -> None:
    source = CRATE / "examples" / "count_flows.rs"
    assert read(str(build(tmp_path, source))) == PluginFile(8, 8 + 63 * 32)
    assert "unsafe" not in source.read_text().replace("deny(unsafe_code)", "")


def test_the_template_builds_with_the_commands_that_it_prints(tmp_path: Path) -> None:
    start = templates.make("rust", "my-fw", "t.toml", [0, 1])
    (tmp_path / "my-fw.rs").write_bytes(start.files["my-fw.rs"])
    path = f"{Path(DPSUP[0]).parent}{os.pathsep}{os.environ['PATH']}"
    for line in start.then[:2]:
        assert line.startswith("rustc ")
        env = {**os.environ, "PATH": path}
        subprocess.run(["sh", "-c", " ".join([line, *strict()])], cwd=tmp_path, env=env, check=True)
    assert read(str(tmp_path / "my-fw.so")) == PluginFile()


def test_ticks_are_there_where_they_have_an_interval(tmp_path: Path) -> None:
    """A program that is the worker: C code reads the plugin, and calls it as a worker does."""
    (tmp_path / "ticks.rs").write_text(TICKS)
    (tmp_path / "worker.c").write_text(WORKER)
    plugin = build(tmp_path, tmp_path / "ticks.rs")
    worker = tmp_path / "worker"
    command = ["cc", "-rdynamic", f"-I{SDK}", str(tmp_path / "worker.c"), "-ldl", "-o", str(worker)]
    subprocess.run(command, check=True)
    said = subprocess.run([worker, plugin], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["5000", "0", "1", "0", "3", "touched", "3"]


def test_tables_and_words_by_the_worker(tmp_path: Path) -> None:
    (tmp_path / "tables.rs").write_text(TABLES)
    (tmp_path / "worker.c").write_text(WORKER_OF_TABLES)
    plugin = build(tmp_path, tmp_path / "tables.rs")
    worker = tmp_path / "worker"
    command = ["cc", "-rdynamic", f"-I{SDK}", str(tmp_path / "worker.c"), "-ldl", "-o", str(worker)]
    subprocess.run(command, check=True)
    said = subprocess.run([worker, plugin], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["7", "9", "3", "41", "50", "77"]
    # A key of another length would be read beyond its end.
    wrong = subprocess.run([worker, plugin, "wrong"], capture_output=True, text=True, check=False)
    assert wrong.returncode < 0


TABLES = """
#![deny(unsafe_code)]
use dpsup_plugin::{dpsup_plugin, drop, Env, Packet, Plugin, Table, Tick};

struct Tables {
    macs: Table,
    hops: Table,
    add: u64,
}

impl Plugin for Tables {
    const TICK_US: u32 = 5000;
    const NEEDS: u32 = 16;
    const CONTROL: bool = true;

    fn init(env: &Env) -> Result<Self, &'static str> {
        if env.table("none").is_some() {
            return Err("there is no such table");
        }
        let (macs, hops) = (env.table("macs").ok_or("macs")?, env.table("hops").ok_or("hops")?);
        Ok(Tables { macs, hops, add: 0 })
    }

    fn packet(&mut self, _: &Env, _: &mut Packet) -> u16 {
        drop(0)
    }

    fn tick(&mut self, env: &Env, tick: &mut Tick) {
        let key = [2u8, 0, 0, 0, 0, 1];
        assert!(env.find(self.macs, &[0; 6]).is_none() && env.record(self.hops, 9).is_none());
        tick.count(0, env.find(self.macs, &key).unwrap());
        tick.count(1, env.record(self.hops, 3).unwrap()[0] as u64);
        tick.count(2, env.version(self.macs));
        tick.count(3, self.add);
        if env.tell(self.macs, &key, 50) {
            tick.count(4, 50);
        }
    }

    fn control(&mut self, env: &Env, text: &[u8]) {
        if text == b"wrong" {
            env.find(self.macs, &[0; 5]);
        }
        self.add = text.len() as u64;
    }
}

dpsup_plugin!(Tables, "tables", reasons = [], counters = ["a", "b", "c", "d", "e"]);
"""
WORKER_OF_TABLES = """
#include <dlfcn.h>
#include <stdio.h>
#include <dpsup_plugin.h>
#include <dpsup_table_array.h>
#include <dpsup_table_exact.h>

static uint64_t told;
void dps_touch(void *at, uint32_t len) { (void)at; (void)len; }
uint8_t *dps_emit(uint16_t verdict, uint32_t len) { (void)verdict; (void)len; return NULL; }
uint64_t dps_table_find(const struct dps_live_table *t, const void *key)
{
    return dps_exact_find(t->at, key);
}
const void *dps_table_record(const struct dps_live_table *t, uint64_t index)
{
    return dps_array_at(t->at, index);
}
int dps_tell(const struct dps_env *env, const struct dps_live_table *t, const void *key, uint64_t n)
{
    told += env != NULL && t->kind == 1 && ((const uint8_t *)key)[5] == 1 ? 27 + n : 0;
    return 1;
}

int main(int argc, char **argv)
{
    const struct dps_plugin *p = dlsym(dlopen(argv[1], RTLD_NOW), "dps_plugin");
    uint64_t counters[DPS_PLUGIN_COUNTERS] = { 0 };
    void *macs = aligned_alloc(64, 1 << 16), *hops = aligned_alloc(64, 1 << 16), *state = NULL;
    struct dps_live_table tables[] = {
        { .name = "macs", .kind = DPS_TABLE_EXACT, .key_bytes = 6, .at = macs, .version = 3 },
        { .name = "hops", .kind = DPS_TABLE_ARRAY, .value_bytes = 4, .at = hops },
    };
    struct dps_env env = { .counters = counters, .n_tables = 2, .tables = tables };

    memset(macs, 0, 1 << 16);
    memset(hops, 0, 1 << 16);
    dps_exact_init(macs, 1 << 16, 6, 9, 0);
    dps_array_init(hops, 1 << 16, 4, 9);
    dps_exact_set(macs, (uint8_t[]){ 2, 0, 0, 0, 0, 1 }, 7);
    dps_array_set(hops, 3, (uint8_t[]){ 9, 0, 0, 0 });
    if (p->init(&env, &state) != 0)
        return 1;
    p->control(state, argc > 2 ? "wrong" : "as long as this text, which has 41 bytes",
        argc > 2 ? 5 : 41);
    p->tick(state);
    for (int i = 0; i < 5; i++)
        printf("%u ", (unsigned)counters[i]);
    printf("%u\\n", (unsigned)told);
    return 0;
}
"""
TICKS = """
#![deny(unsafe_code)]
use dpsup_plugin::{dpsup_plugin, drop, Env, Packet, Plugin, Tick};

struct Ticks;

impl Plugin for Ticks {
    const STATE_SIZE: u32 = 8;
    const TICK_US: u32 = 5000;

    fn init(_: &Env) -> Result<Self, &'static str> {
        Ok(Ticks)
    }

    fn packet(&mut self, _: &Env, _: &mut Packet) -> u16 {
        drop(0)
    }

    fn tick(&mut self, _: &Env, tick: &mut Tick) {
        assert!(tick.bucket().is_empty());
        let n = tick.place().get::<u64>(0);
        tick.place().set(0, n + 1);
        tick.count(0, 1);
    }
}

dpsup_plugin!(Ticks, "ticks", reasons = [], counters = ["ticks"]);
"""
WORKER = """
#include <dlfcn.h>
#include <stdio.h>
#define dps_tell dps_tell_of_header
#define dps_table_find dps_table_find_of_header
#define dps_table_record dps_table_record_of_header
#include <dpsup_plugin.h>
#undef dps_tell
#undef dps_table_find
#undef dps_table_record

static unsigned int touched;

void dps_touch(void *at, uint32_t len) { (void)at; touched += len == 8; }
uint8_t *dps_emit(uint16_t verdict, uint32_t len) { (void)verdict; (void)len; return NULL; }
int dps_tell(void) { return 0; }
uint64_t dps_table_find(void) { return 0; }
const void *dps_table_record(void) { return NULL; }

int main(int argc, char **argv)
{
    const struct dps_plugin *p = dlsym(dlopen(argv[argc - 1], RTLD_NOW), "dps_plugin");
    uint64_t counters[DPS_PLUGIN_COUNTERS] = { 0 }, place = 0;
    struct dps_env env = { .counters = counters, .state = &place };
    void *state = NULL;

    p->init(&env, &state);
    for (int i = 0; i < 3; i++)
        p->tick(state);
    printf("%u %u %d %d %u %s %u\\n", p->tick_us, p->bucket_tick_us, p->tick != NULL,
        p->bucket_tick != NULL, (unsigned)place, touched == 6 ? "touched" : "not",
        (unsigned)counters[0]);
    return 0;
}
"""


def test_unsafe_code_lies_in_one_file() -> None:
    for path in (CRATE / "src").glob("*.rs"):
        text = re.sub(r"//.*", "", path.read_text())
        assert ("unsafe" in text) == (path.name == "raw.rs"), path
