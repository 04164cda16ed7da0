# SPDX-License-Identifier: BSD-3-Clause
"""What workers tell each other by way of a table, and what an operator tells their plugin."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from harness import NULL, Run, builder, dies, run, supervisor, wait_for
from jobs import IO, LOSSLESS, Job, build, pcap_port
from traffic import Packet, read_pcap, save

from dpsup import DpsupError, connect

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

# A learning switch of three ports: what it knows goes out of its port, all else of both others. Its
# workers die here and there.
SWITCH = """
#include <dpsup_plugin.h>
#include <dpsup_table_exact.h>
#include <signal.h>

enum { STATIONS = 24 };
static const char *const names[] = { "known", NULL };
static const struct dps_env *env;
static const struct dps_live_table *stations;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	stations = dps_table(e, "stations");
	return stations == NULL || !stations->learns || e->n_ports != 3;
}

static uint64_t
find(const uint8_t *mac)
{
	return dps_exact_find((const struct dps_exact *)stations->at, mac);
}

static void
die(void)
{
	if (__builtin_ia32_rdtsc() / 16 % 1024 == 0)
		raise(SIGKILL);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint64_t port;

	(void)state;
	die();
	dps_tell(env, stations, p->data + 6, p->port);
	die();
	port = find(p->data);
	if (port == DPS_TABLE_NONE)
		return dps_also(dps_out((p->port + 1) % 3), (p->port + 2) % 3);
	return dps_out((uint32_t)port);
}

static void
tick(void *state)
{
	uint64_t known = 0;

	(void)state;
	for (uint8_t i = 0; i < STATIONS; i++)
		known += find((uint8_t[]){ 2, 0, 0, 0, 0, i }) == i % 3;
	env->counters[0] = known;
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "switch", .init = init, .packet = packet, .counters = names,
	.gauges = 1, .tick_us = 10000, .tick = tick,
};
"""
STATIONS = 24
PORTS = ("wan", "lan", "dmz")


def mac(station: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, station))


def frame(source: int, target: int, number: int) -> bytes:
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 46, 0, 0, 64, 17, 0)
    ip += socket.inet_aton(f"10.0.0.{source}") + socket.inet_aton(f"10.0.1.{target}")
    udp = struct.pack("!HHHH", 1000 + source, 2000 + target, 26, 0)
    return mac(target) + mac(source) + b"\x08\x00" + ip + udp + struct.pack("!QQ", number, 0)


def gauges(workers: list[dict[str, Any]], name: str) -> list[int]:
    return [int(w["gauges"].get(name, -1)) for w in workers if w["state"] == "running"]


def test_a_switch_learns_from_all_its_workers(instance: Run) -> None:
    draw = random.Random(5)
    frames: dict[str, list[bytes]] = {port: [] for port in PORTS}
    for number in range(3000):
        source = number % STATIONS if number < STATIONS else draw.randrange(STATIONS)
        target = draw.choice([n for n in range(STATIONS) if n % 3 != source % 3])
        frames[PORTS[source % 3]].append(frame(source, target, number))
    for port, some in frames.items():
        save(instance.folder / f"{port}.in.pcap", [Packet(port, one) for one in some])
    text = IO + "".join(map(pcap_port, PORTS)) + f"""
[[workers]]
name = "br"
plugin = "{build(instance.folder, SWITCH)}"
input = ["wan", "lan", "dmz"]
count = 2
tables = {{ stations = {{ kind = "exact", entries = 99, key = "mac", learn = true, age = "1h" }} }}
{LOSSLESS}
"""  # fmt: skip
    job = Job(instance, text)

    def known() -> list[int]:
        return gauges(job.instance.status()["groups"][0]["workers"], "known")

    # Each station is told by one worker, and all of them are found by both.
    wait_for(lambda: known() == [STATIONS, STATIONS])
    row = job.instance.tables()["tables"][0]
    assert row["entries"] == row["learned"]["entries"] == STATIONS
    assert row["learned"]["told"] >= row["learned"]["learned"] == STATIONS
    assert row["learned"]["refused"] == 0
    assert run("table", "-n", instance.name).stdout.count("24 learned") == 1

    def in_status() -> int:
        learned = job.instance.status()["groups"][0].get("learned", {})
        return learned["stations"]["entries"] if learned else 0

    wait_for(lambda: in_status() == STATIONS)
    doc = job.end()
    assert doc["lost"] == doc["in_flight"] == 0
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
    for i, port in enumerate(PORTS):
        out = list(read_pcap(instance.folder / f"{port}.out.pcap"))
        assert len(set(out)) == len(out)
        meant = {f for some in frames.values() for f in some if f[5] % 3 == i}
        assert meant <= set(out)
        # Beside them, what was flooded: nothing comes back to where it came from.
        assert not {f for f in out if f[11] % 3 == i}


# Each worker tells its own number, and what it has seen of operator's words. `told` counts entries
# that it finds, `last` is the number in the last text, `wrong` counts texts out of order.
WORDS = """
#include <dpsup_plugin.h>
#include <dpsup_table_exact.h>
#include <signal.h>
#include <stdio.h>

static const char *const names[] = { "found", "last", "wrong", NULL };
static const struct dps_env *env;
static const struct dps_live_table *members;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	members = dps_table(e, "members");
	return members == NULL;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port ^ 1);
}

static void
tick(void *state)
{
	uint64_t found = 0;

	(void)state;
	dps_tell(env, members, &env->worker, env->worker + 100);
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t value = dps_exact_find((const struct dps_exact *)members->at, &i);

		if (value != DPS_TABLE_NONE)
			found += value == i + 100 ? 1 : 1000;
	}
	env->counters[0] = found;
}

static void
control(void *state, const char *text, uint32_t len)
{
	char own[32] = "";

	(void)state;
	if (len == 3 && memcmp(text, "die", 3) == 0)
		raise(SIGSEGV);
	memcpy(own, text, len < sizeof(own) - 1 ? len : sizeof(own) - 1);
	env->counters[2] += (uint64_t)atoi(own) != env->counters[1] + 1;
	env->counters[1] = (uint64_t)atoi(own);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "words", .init = init, .packet = packet, .counters = names,
	.gauges = 7, .tick_us = 10000, .tick = tick, .control = CONTROL,
};
"""
MEMBERS = """
tables = { members = { kind = "exact", entries = 9, key = "u32", learn = true, age = "2s" } }
control = true
"""
MAP = 'args = { map = { wan = "lan", lan = "wan" } }'


def words(folder: Path, control: str = "control") -> Path:
    return build(folder, f"#define CONTROL {control}\n{WORDS}", "-Wno-unused-function")


def topology(plugin: Path) -> str:
    text = NULL.replace('"macswap"', f'"{plugin}"').replace(MAP, MEMBERS)
    return text.replace("max = 4", "max = 4\nspares = 1")


def workers(instance: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = instance.status()["groups"][0]["workers"]
    return [w for w in found if w["state"] == "running"]


def all_have(instance: Run, found: int, last: int) -> None:
    """Whichever of them died: each worker finds all, and has heard all texts in order."""
    wait_for(
        lambda: (
            len(workers(instance)) == found
            and gauges(workers(instance), "found") == [found] * found
            and gauges(workers(instance), "last") == [last] * found
        )
    )
    assert gauges(workers(instance), "wrong") == [0] * found


def say(instance: Run, number: int) -> None:
    """As a person does, again where the command says that it came to nothing."""

    def said() -> bool:
        try:
            with connect(instance.name) as live:
                return live.tell("fw", f"{number} words", timeout=20)["kept"] >= 1
        except (DpsupError, OSError):
            return False

    wait_for(said)


def test_words_and_what_was_learned_reach_all_whoever_dies(instance: Run) -> None:
    instance.foreground(topology(words(instance.folder)))
    instance.until_running()
    say(instance, 1)
    all_have(instance, 2, 1)
    said = instance.do("tell", "fw", "2")
    assert said.stdout == "fw: text 2, told to 2 workers; 2 kept\n"
    dies(builder(instance))
    old = workers(instance)[0]["pid"]
    dies(old)
    say(instance, 3)
    wait_for(lambda: old not in {w["pid"] for w in workers(instance)})
    all_have(instance, 2, 3)
    # One more worker hears all of it, before its first packet, and what it tells is learned.
    instance.do("scale", "fw", "3")
    all_have(instance, 3, 3)
    assert instance.process is not None
    dies(supervisor(instance))
    instance.process.communicate()
    instance.foreground()
    instance.until_running()
    say(instance, 4)
    all_have(instance, 3, 4)
    primary = instance.status()["primary"]["pid"]
    os.kill(primary, signal.SIGKILL)
    wait_for(lambda: instance.status()["primary"]["pid"] not in (None, primary))
    say(instance, 5)
    all_have(instance, 3, 5)
    # What a worker that is gone has told goes with its age.
    instance.do("scale", "fw", "2")
    all_have(instance, 2, 5)
    told = [e for e in instance.events() if e.get("verb") == "tell"]
    assert {e["uid"] for e in told} == {os.getuid()}
    assert "5 words" in told[-1]["message"]


def test_words_that_end_workers_are_left_out(instance: Run) -> None:
    instance.start(topology(words(instance.folder)))
    say(instance, 1)
    all_have(instance, 2, 1)
    instance.do("tell", "fw", "die")
    say(instance, 2)
    # Two of each place died in it; their successors have heard the rest.
    all_have(instance, 2, 2)

    def died() -> int:
        deaths = [e["name"] for e in instance.events() if e["type"] == "death"]
        return min(deaths.count("fw/0"), deaths.count("fw/1"))

    wait_for(lambda: died() >= 2)
    wait_for(lambda: "left out" in instance.do("logs").stdout)
    for args, code, error in (
        (("fw", "x" * 1017), 2, "E0536"), (("fw", ""), 2, "E0536"), (("nat", "x"), 4, "nat"),
    ):  # fmt: skip
        refused = run("tell", "-n", instance.name, *args)
        assert (refused.returncode, error in refused.stderr) == (code, True), refused
    # A version without control() refuses words, and one with it has those that are kept.
    other = instance.folder / "other"
    other.mkdir()
    roll = ("rollout", "fw", "--plugin")
    instance.do(*roll, str(words(other, "NULL")), "--judge", "0s", "--wait")
    refused = run("tell", "-n", instance.name, "fw", "3")
    assert (refused.returncode, "E0537" in refused.stderr) == (1, True), refused
    assert instance.do("table", "fw/control").stdout.splitlines() == [
        "0 1,1%20words", "1 2,die", "2 3,2%20words",
    ]  # fmt: skip
    instance.do("table", "fw/control", "clear")
    instance.do(*roll, str(words(instance.folder)), "--judge", "0s", "--wait")
    say(instance, 1)
    all_have(instance, 2, 1)


def test_a_table_that_persists_outlives_a_stop(instance: Run) -> None:
    text = topology(words(instance.folder)).replace("learn = true", "persist = true, learn = true")
    more = 'tables = { other = { kind = "array", entries = 9, persist = true }, '
    instance.write(text.replace("tables = {", more))
    whole = instance.file.read_text().replace("[host]", '[host]\ntables_dir = "kept"')
    instance.file.write_text(whole)
    instance.start()
    instance.do("table", "members", "add", "50", "7")
    instance.do("table", "other", "add", "5", "7")
    kept = instance.folder / "kept" / "fw=members"
    with connect(instance.name) as live:
        rows = live.tables()["tables"]
    assert {r["table"]: r["persists"] for r in rows} == {
        "members": str(kept), "other": str(kept.with_name("fw=other")), "control": "",
    }  # fmt: skip
    instance.stop()
    other = kept.with_name("fw=other")
    other.write_bytes(other.read_bytes().replace(b"5 7", b"5 8"))
    instance.start()
    assert instance.do("table", "members", "get", "50").stdout == "50 7\n"
    assert instance.do("table", "other", "show").stdout == ""
    assert kept.with_name("fw=other.aside").exists()
    said = [e for e in instance.events() if e["type"] == "warning" and "aside" in e["message"]]
    assert len(said) == 1
