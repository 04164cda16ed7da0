# SPDX-License-Identifier: BSD-3-Clause
"""Live tables: what a plugin finds in them, while they change and processes die."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import NULL, PATIENCE, Run, builder, dies, run, supervisor, wait_for
from jobs import build

from dpsup import DpsupError, connect

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

KEYS = 48

# Each batch gives all prefixes one number, the version that it leads to. So a packet that sees
# another number anywhere has seen half of a batch, or parts of two.
PLUGIN = """
#include <stdio.h>
#include "dpsup_plugin.h"
#include "dpsup_table_array.h"
#include "dpsup_table_lpm.h"

enum { KEYS = 48 };
enum { LOOKED, TORN, VERSION };
static const char *const names[] = { "looked", "torn", "version", NULL };
static const struct dps_env *env;
static const struct dps_live_table *routes;

static int init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	routes = dps_table(e, "routes");
	if (routes != NULL && routes->kind == DPS_TABLE_IPV4 && routes->entries == 1000 &&
		routes->at == NULL && dps_table(e, "none") == NULL && e->n_tables == 1)
		return 0;
	snprintf(e->error, e->error_len, "routes is not the table that it should be");
	return -1;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	const struct dps_lpm *t = (const struct dps_lpm *)routes->at;
	uint64_t first = dps_lpm_find(t, (uint8_t[]){ 10, 0, 0, 1 });
	int torn = first != routes->version;

	(void)state;
	for (int i = 0; i < KEYS; i++)
		torn |= dps_lpm_find(t, (uint8_t[]){ 10, (uint8_t)i, 0, 1 }) != first;
	torn |= dps_lpm_find(t, (uint8_t[]){ 11, 0, 0, 1 }) != DPS_TABLE_NONE;
	env->counters[LOOKED]++;
	env->counters[TORN] += torn;
	env->counters[VERSION] = routes->version;
	return dps_out(p->port ^ 1);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "routes", .init = init, .packet = packet, .counters = names,
	.gauges = 4,
};
"""
ARGS = 'args = { map = { wan = "lan", lan = "wan" } }'
TABLES = 'tables = { routes = { kind = "ipv4", entries = 1000, file = "routes.txt" } }'


def lines(verb: str, number: int) -> str:
    return "".join(f"{verb} 10.{i}.0.0/{16 + i % 8} {number}\n".lstrip() for i in range(KEYS))


def mark(version: int) -> str:
    """A key that the table has at this version alone."""
    return f"12.{version >> 8}.{version & 255}.0/24"


def step(version: int) -> str:
    """A batch that is refused unless the table has this version: a late one changes nothing."""
    return f"del {mark(version)}\nadd {mark(version + 1)} 0\n{lines('replace', version + 1)}"


def topology(folder: Path, more: str = "") -> str:
    (folder / "routes.txt").write_text(lines("", 1) + more)
    text = NULL.replace('"macswap"', f'"{build(folder, PLUGIN)}"').replace(ARGS, TABLES)
    return text.replace("max = 4", "max = 4\nspares = 1")


def seen(instance: Run) -> list[dict[str, Any]]:
    workers = instance.status()["groups"][0]["workers"]
    return [w for w in workers if w["state"] == "running"]


def counted(instance: Run) -> dict[str, int]:
    found = {"looked": 0, "torn": 0}
    for worker in instance.status()["groups"][0]["workers"]:
        for name in found:
            found[name] += worker["counters"].get(name, 0)
    return found


def newest(worker: dict[str, Any]) -> int:
    """The version that the last packet saw, 0 before the first."""
    return int(worker["gauges"].get("version", 0))


def they_see(instance: Run, version: int) -> None:
    """All packets are of one flow, so one worker has them; another's number is an older one."""
    wait_for(lambda: max(map(newest, seen(instance)), default=0) == version)


def test_a_table_is_read_from_its_file_and_changed_while_packets_flow(instance: Run) -> None:
    instance.start(topology(instance.folder))
    they_see(instance, 1)
    assert instance.do("table", "fw/routes", "get", "10.3.0.0/19").stdout == "10.3.0.0/19 1\n"
    with connect(instance.name) as live:
        done = live.table_change("routes", lines("replace", 2))
        assert (done["operations"], done["entries"], done["version"]) == (KEYS, KEYS, 2)
        they_see(instance, 2)
        # A fault in the middle: nothing of it is done, and the message says which line.
        bad = lines("replace", 3) + "add 10.0.0.0/16 9\n" + "del 12.0.0.0/8\n"
        with pytest.raises(DpsupError, match=r"10.0.0.0/16.* is there already") as refused:
            live.table_change("routes", bad)
        assert "12.0.0.0/8" in str(refused.value)
        assert live.tables()["tables"][0]["version"] == 2
        assert "".join(live.table_lines("routes")) == lines("", 2)
        assert live.table_change("routes", "add 11.0.0.0/8 7", dry_run=True)["entries"] == KEYS
    for words, code in (
        (("route",), 4), (("routes", "get", "12.0.0.0/8"), 4), (("routes", "ad", "1", "2"), 2),
        (("routes", "add", "10.0.0.1/8", "2"), 1), (("routes", "add", "10.0.0.0/8"), 2),
    ):  # fmt: skip
        refusal = run("table", "-n", instance.name, *words)
        assert refusal.returncode == code, (words, refusal)
        assert "help" in refusal.stderr
    # The file is what it was: a reload changes nothing. Then it says what no worker has seen yet.
    assert "nothing changed" in instance.do("reload").stdout
    (instance.folder / "routes.txt").write_text(lines("", 3))
    assert "routes.file" in instance.do("reload").stdout
    they_see(instance, 3)
    (instance.folder / "routes.txt").write_text(lines("", 3) + "10.0.0.0/99 1\n")
    wrong = instance.do("reload", check=False)
    assert wrong.returncode == 78, wrong
    assert f"routes.txt:{KEYS + 1}" in wrong.stderr
    # A worker that starts now finds what holds.
    old = seen(instance)[0]
    dies(old["pid"])
    wait_for(lambda: old["pid"] not in {w["pid"] for w in seen(instance)})
    they_see(instance, 3)
    assert counted(instance)["torn"] == 0
    assert counted(instance)["looked"] > 0


class Changes:
    """Batches, one after the other, in a thread, whatever dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = 0
        self.version = 1
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            # Where nobody answers, what became of the batch is asked of the next one.
            with contextlib.suppress(DpsupError, OSError), connect(self.name) as live:
                self.version = live.tables()["tables"][0]["version"]
                while not self._over.is_set():
                    text = step(self.version)
                    self.version = live.table_change("routes", text, timeout=PATIENCE)["version"]
                    self.done += 1
            self._over.wait(0.02)  # no supervisor is there, or it has no builder yet

    def some(self, n: int = 3) -> None:
        """Returns once so many more are done."""
        wanted = self.done + n
        wait_for(lambda: self.done >= wanted, step=0.002)

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_every_packet_sees_one_version_whoever_dies(instance: Run) -> None:
    instance.foreground(topology(instance.folder, f"{mark(1)} 0\n"))
    instance.until_running()
    with Changes(instance.name) as changes:
        for _ in range(2):
            changes.some()
            dies(builder(instance))
            changes.some()
            busiest = wait_for(lambda: max(seen(instance), key=newest, default={}))["pid"]
            dies(busiest)
            wait_for(lambda: busiest not in {w["pid"] for w in seen(instance)})  # noqa: B023
            instance.until(lambda s: s["state"] == "running")
        changes.some()
        # Its batches are true without the supervisor; the next one goes on with them.
        assert instance.process is not None
        dies(supervisor(instance))
        instance.process.communicate()
        instance.foreground()
        instance.until_running()
        changes.some()
        before = counted(instance)
        assert before["torn"] == 0
        assert before["looked"] > 0
        primary = instance.status()["primary"]["pid"]
        os.kill(primary, signal.SIGKILL)
        wait_for(lambda: instance.status()["primary"]["pid"] not in (None, primary))
        changes.some()
    instance.until(lambda s: s["state"] == "running")
    they_see(instance, changes.version)
    assert counted(instance)["torn"] == 0
    text = f"{lines('', changes.version)}{mark(changes.version)} 0\n"
    with connect(instance.name) as live:
        assert "".join(live.table_lines("routes")) == text
