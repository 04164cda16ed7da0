# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Rust and Python use what those in C use: live tables, and state that migrates."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import NULL, Run, wait_for
from rust import RUSTC, WHY_NOT, build

from dpsup import connect

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]
needs_rust = pytest.mark.skipif(RUSTC is None, reason=WHY_NOT)
ARGS = 'args = { map = { wan = "lan", lan = "wan" } }'
TABLES = 'tables = { routes = { kind = "ipv4", entries = 100 } }'

# Both count packets by what a fixed address is told to be: 7, another number, nothing.
PYTHON = """
from dpsup import plugin as dps

counters = ["seven", "other", "none"]


def init(env):
    global routes
    routes = env.table("routes")


def packet(p):
    found = routes.get(bytes((10, 0, 0, 1)))
    dps.count(2 if found is None else 0 if found == 7 else 1)
    return dps.out(p.port ^ 1)
"""
RUST = """
use dpsup_plugin::{dpsup_plugin, out, Env, Packet, Plugin, Table};

struct Routes(Table);

impl Plugin for Routes {
    fn init(env: &Env) -> Result<Self, &'static str> {
        env.table("routes").map(Routes).ok_or("there is no table routes")
    }

    fn packet(&mut self, env: &Env, packet: &mut Packet) -> u16 {
        let found = env.find(self.0, &[10, 0, 0, 1]);
        packet.count(match found { Some(7) => 0, Some(_) => 1, None => 2 }, 1);
        out(packet.port() ^ 1)
    }
}

dpsup_plugin!(Routes, "routes", reasons = [], counters = ["seven", "other", "none"]);
"""


def counted(instance: Run) -> dict[str, int]:
    (worker,) = instance.status()["groups"][0]["workers"]
    return {name: worker["counters"].get(name, 0) for name in ("seven", "other", "none")}


def only(instance: Run, name: str) -> None:
    """From some moment on, packets are counted under this name alone."""

    def more() -> bool:
        before = counted(instance)
        wait_for(lambda: counted(instance) != before)
        after = counted(instance)
        return [n for n in before if after[n] > before[n]] == [name]

    wait_for(more)


@pytest.mark.parametrize("language", ["python", pytest.param("rust", marks=needs_rust)])
def test_a_live_table_changes_under_it(instance: Run, tmp_path: Path, language: str) -> None:
    if language == "python":
        plugin = tmp_path / "routes.py"
        plugin.write_text(PYTHON)
    else:
        (tmp_path / "routes.rs").write_text(RUST)
        plugin = build(tmp_path, tmp_path / "routes.rs")
    text = NULL.replace('"macswap"', f'"{plugin}"').replace(ARGS, TABLES)
    instance.start(text.replace("count = 2", "count = 1"))
    only(instance, "none")
    with connect(instance.name) as live:
        live.table_change("routes", "add 10.0.0.0/8 7")
        only(instance, "seven")
        live.table_change("routes", "add 10.0.0.0/24 8")
        only(instance, "other")
        live.table_change("routes", "clear")
        only(instance, "none")


COUNTER = """
use dpsup_plugin::{dpsup_plugin, out, Env, Packet, Plugin};

struct Counter;

impl Plugin for Counter {
    const STATE_SIZE: u32 = SIZE;
    const STATE_VERSION: u32 = VERSION;
    const MIGRATES: bool = VERSION == 2;

    fn init(_: &Env) -> Result<Self, &'static str> {
        Ok(Counter)
    }

    fn packet(&mut self, _: &Env, packet: &mut Packet) -> u16 {
        let mut place = packet.place();
        place.set(SIZE as usize - 8, place.get::<u64>(SIZE as usize - 8) + 1);
        out(packet.port() ^ 1)
    }

    fn migrate(old: &[u8], version: u32, fresh: &mut [u8]) -> bool {
        if version != 1 || old.len() != 8 {
            return false;
        }
        fresh[..8].copy_from_slice(b"migrated");
        fresh[8..16].copy_from_slice(old);
        true
    }
}

dpsup_plugin!(Counter, "counter", reasons = [], counters = []);
"""


def kept(instance: Run) -> bytes:
    with connect(instance.name) as live:
        (worker,) = live.state("fw")["workers"]
    return bytes.fromhex(worker["hex"])


@needs_rust
def test_state_of_a_plugin_in_rust_migrates(instance: Run, tmp_path: Path) -> None:
    plugins = []
    for version in (1, 2):
        folder = tmp_path / str(version)
        folder.mkdir()
        (folder / "counter.rs").write_text(
            COUNTER.replace("= SIZE", f"= {8 * version}")
            .replace("u32 = VERSION", f"u32 = {version}")
            .replace("VERSION == 2", f"{version} == 2")
            .replace("SIZE as usize", f"{8 * version}")
        )
        plugins.append(str(build(folder, folder / "counter.rs")))
    topology = NULL.replace('"macswap"', f'"{plugins[0]}"').replace(ARGS, "state = 128")
    instance.start(topology.replace("count = 2", "count = 1"))
    wait_for(lambda: any(kept(instance)[:8]))
    before = int.from_bytes(kept(instance)[:8], "little")
    with connect(instance.name) as live:
        assert live.rollout("fw", plugins[1], judge=0)["phase"] == "done"
    found = kept(instance)
    assert found[:8] == b"migrated"
    assert int.from_bytes(found[8:16], "little") >= before
