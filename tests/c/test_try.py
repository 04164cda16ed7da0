# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup try`: plugins that are right, and plugins that are wrong in one way each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsup.packets import pcapng
from dpsup.packets.frames import frames
from dpsup.packets.pcap import to_bytes
from dpsup.packets.traffic import Traffic

DPSUP = Path(sys.executable).with_name("dpsup")
ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "workers" / "sdk"
TRAFFIC = list(Traffic(4, 3).frames())
MARK = 5  # the packet, from 0, that a plugin below treats badly; no other one ends in this byte
LAST = TRAFFIC[MARK][-1]

HEAD = """
#include <stdio.h>
#include <unistd.h>
#include <dpsup_plugin.h>
struct bucket { uint64_t n; };
static const struct dps_env *env;
static uint64_t own;
static int init(const struct dps_env *e, void **state) { (void)state; env = e; return 0; }
static inline int is_marked(const struct dps_packet *p) { return p->data[p->len - 1] == LAST; }
static uint16_t packet(void *state, struct dps_packet *p)
{
	struct bucket *b = p->bucket_state;
	(void)state; (void)b; (void)own;
"""
TAIL = """
	return dps_out(p->port ^ 1);
}
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "tried", .init = init, .packet = packet,
"""
SWAP = """
	uint8_t mac[6];
	memcpy(mac, p->data, 6);
	memcpy(p->data, p->data + 6, 6);
	memcpy(p->data + 6, mac, 6);
"""
COUNT = "dps_touch(&b->n, 8); b->n++; dps_touch(env->counters, 8); env->counters[0]++;"
STATE = ".bucket_state_size = sizeof(struct bucket), .state_version = 1,"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert [frame[-1] for frame in TRAFFIC].count(LAST) == 1
    path = tmp_path_factory.mktemp("try") / "in.pcap"
    path.write_bytes(to_bytes(TRAFFIC, 1_700_000_000.0))
    return path


def build(folder: Path, body: str, facts: str, more: str = "", first: str = "") -> Path:
    source, out = folder / "tried.c", folder / "tried.so"
    source.write_text(f"{first}{HEAD}{body}{TAIL}{facts}\n}};\n{more}")
    subprocess.run(
        ["cc", "-O1", "-g", "-w", "-shared", "-fPIC", f"-DLAST={LAST}", f"-I{SDK}", source, "-o",
         out],
        check=True,
    )  # fmt: skip
    return out


def tried(plugin: object, capture: Path, *words: object, code: int | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [DPSUP, "try", str(plugin), str(capture), "-o", "json",
         *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    doc: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if doc["ok"] else 1)
    if code is not None:
        assert done.returncode == code, doc["findings"]
    return doc


def only(doc: dict[str, Any]) -> dict[str, Any]:
    assert len(doc["findings"]) == 1, doc["findings"]
    found: dict[str, Any] = doc["findings"][0]
    return found


def test_what_is_right_has_no_finding(tmp_path: Path, capture: Path) -> None:
    """Every store of packets that change bytes, state and counters, and originate another."""
    body = SWAP + COUNT + "uint8_t *e = dps_emit(dps_out(0), 60); if (e) memcpy(e, p->data, 12);"
    plugin = build(tmp_path, body, f".rewrites = 12, .emits = 1, {STATE}")
    out = tmp_path / "out.pcapng"
    doc = tried(plugin, capture, "--kill-sweep", "--out", out, code=0)
    assert doc["done"] == doc["packets"] == doc["emitted"] == len(TRAFFIC)
    assert doc["out"]["lan"]["packets"] == doc["out"]["wan"]["packets"] == len(TRAFFIC)
    assert doc["state"]["buckets"] > 0
    assert doc["sweep"]["packets"] == len(TRAFFIC) and doc["sweep"]["points"] > 10 * len(TRAFFIC)
    written = list(frames(out.read_bytes()))
    swapped = [frame[6:12] + frame[:6] + frame[12:] for frame in TRAFFIC]
    assert [one.data for one in written if one.interface == "lan"] == swapped
    assert all(len(one.data) == 60 for one in written if one.interface == "wan")


def test_the_same_each_time(tmp_path: Path, capture: Path) -> None:
    body = SWAP + COUNT + "if (is_marked(p)) *(volatile int *)8 = 1; p->data[30]++;"
    plugin = build(tmp_path, body, f".rewrites = 12, {STATE}")
    docs = [tried(plugin, capture, code=1) for _ in range(2)]
    for doc in docs:
        del doc["ns_per_packet"], doc["cycles_per_packet"]
    assert docs[0] == docs[1]


def test_bytes_that_were_not_declared(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, SWAP + "if (is_marked(p)) p->data[22]--;", ".rewrites = 12,")
    one = only(tried(plugin, capture, code=1))
    assert (one["kind"], one["packet"], one["packets"]) == ("undeclared", MARK + 1, 1)
    assert "byte 22 " in one["message"] and one["help"] == "declare .rewrites = 23"
    plugin = build(tmp_path, SWAP + "p->data[22]--;", ".rewrites = 23,")
    tried(plugin, capture, "--kill-sweep", code=0)
    plugin = build(tmp_path, SWAP + "p->data[22]--;", ".rewrites = 12,")
    found = tried(plugin, capture, "--kill-sweep", "--packets", 2, code=1)["findings"]
    assert {one["kind"] for one in found} == {"undeclared", "twice"}


def test_behind_the_end_but_what_is_appended(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "memset(p->data + p->len, 7, 4);", "")
    assert "behind the packet's end" in only(tried(plugin, capture, code=1))["message"]
    plugin = build(tmp_path, "memset(p->data + p->len, 7, 4); p->len += 4;", "")
    tried(plugin, capture, "--kill-sweep", "--packets", 2, code=0)


def test_a_start_moved_farther_than_declared_is_refused(tmp_path: Path, capture: Path) -> None:
    body = "if (is_marked(p)) { p->data -= 20; p->len += 20; }"
    doc = tried(build(tmp_path, body, ".prepends = 16,"), capture, code=1)
    one = only(doc)
    assert (one["kind"], one["packet"]) == ("verdict", MARK + 1) and ".prepends" in one["message"]
    assert doc["refused"] == 1 and doc["out"]["lan"]["packets"] == len(TRAFFIC) - 1
    tried(build(tmp_path, body, ".prepends = 20,"), capture, "--kill-sweep", code=0)


def test_a_verdict_that_is_none(tmp_path: Path, capture: Path) -> None:
    for verdict, why in (
        ("dps_out(9)", "a port that there is not"),
        ("dps_on(3)", "a group that there is not"),
        ("dps_on_hash(3, 5)", "a group that there is not"),
        ("dps_on_hash(16, 5)", "its verdict is none"),
        ("dps_also(dps_on_hash(0, 5), 0)", "its verdict is none: dps_also"),
        ("dps_punt() | 1", "its verdict is none"),
        ("0x5000", "its verdict is none"),
    ):
        plugin = build(tmp_path, f"if (is_marked(p)) return {verdict};", "")
        one = only(tried(plugin, capture, code=1))
        assert one["kind"] == "verdict" and one["packet"] == MARK + 1 and why in one["message"]


def test_a_hash_of_its_own_and_the_kernel(tmp_path: Path, capture: Path) -> None:
    body = SWAP + COUNT + "return is_marked(p) ? dps_punt() : dps_on_hash(0, p->data[p->len - 1]);"
    facts = f".rewrites = 12, {STATE}"
    doc = tried(build(tmp_path, body, facts), capture, "--kill-sweep", code=0)
    assert doc["punted"] == 1 and doc["done"] == len(TRAFFIC)
    assert [*doc["on"].values()] == [*doc["on_hash"].values()] == [len(TRAFFIC) - 1]
    # The bucket is part of a packet's fate.
    other = tried(build(tmp_path, body.replace("p->len - 1", "p->len - 2"), facts), capture, code=0)
    assert other["on_hash"] == doc["on_hash"] and other["digest"] != doc["digest"]


def test_a_crash_is_a_finding_with_a_backtrace(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "if (is_marked(p)) *(volatile int *)8 = 1;", "")
    doc = tried(plugin, capture, code=1)
    one = only(doc)
    assert (one["kind"], one["packet"]) == ("crash", MARK + 1)
    assert "SIGSEGV" in one["message"] and one["backtrace"][0].startswith("packet+")
    # As in an instance: it is tried twice, then it is taken out, and the rest goes on.
    assert doc["quarantined"] == 1 and doc["done"] == len(TRAFFIC)


def test_other_ends_of_a_process(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "if (is_marked(p)) _exit(3);", "")
    first = tried(plugin, capture, code=1)["findings"][0]
    assert (first["kind"], first["packet"]) == ("crash", MARK + 1)
    assert "exit code 3" in first["message"]
    plugin = build(tmp_path, "while (is_marked(p)) own++;", "")
    one = only(tried(plugin, capture, "--timeout", "1s", code=1))
    assert (one["kind"], one["packet"]) == ("hang", MARK + 1)
    assert one["backtrace"][0].startswith("packet+")


def test_a_missing_touch_is_named(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "b->n++;", STATE)
    tried(plugin, capture, code=0)
    one = only(tried(plugin, capture, "--kill-sweep", code=1))
    assert (one["kind"], one["packet"], one["packets"]) == ("twice", 1, len(TRAFFIC))
    assert "state of its bucket, byte 0" in one["message"] and "dps_touch" in one["help"]
    assert one["backtrace"][0].startswith("packet+")


def test_a_touch_after_the_change(tmp_path: Path, capture: Path) -> None:
    order = '__asm__ volatile("" ::: "memory");'
    plugin = build(tmp_path, f"b->n++; {order} dps_touch(&b->n, 8);", STATE)
    assert only(tried(plugin, capture, "--kill-sweep", code=1))["kind"] == "twice"


def test_counters_without_a_touch(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "env->counters[2]++;", "")
    words = ("--kill-sweep", "--packets", 2)
    one = only(tried(plugin, capture, *words, code=1))
    assert one["kind"] == "counters" and "counter 2 " in one["message"]
    assert only(tried(plugin, capture, *words, "--allow", "counters", code=0))["allowed"]


def test_what_is_kept_in_memory_of_its_own(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "own++;", "")
    words = ("--kill-sweep", "--packets", 4)
    one = only(tried(plugin, capture, *words, code=1))
    assert one["kind"] == "own-memory" and "`own`" in one["message"] and one["packets"] == 4
    tried(plugin, capture, *words, "--allow", "own-memory", code=0)
    # What decides is no cache.
    plugin = build(tmp_path, "return dps_out(own++ & 1);", "")
    found = tried(plugin, capture, *words, "--allow", "own-memory", code=1)["findings"]
    assert {one["kind"] for one in found if not one["allowed"]} == {"restart"}


def test_a_large_state(tmp_path: Path, capture: Path) -> None:
    """Of which pages are compared."""
    facts = ".state_size = 4 << 20, .state_version = 1,"
    body = "uint64_t *at = (uint64_t *)env->state + (p->data[p->len - 1] + 1) * 1000; %s ++*at;"
    plugin = build(tmp_path, body % "dps_touch(at, 8);", facts)
    tried(plugin, capture, "--kill-sweep", "--packets", 3, code=0)
    plugin = build(tmp_path, body % "", facts)
    one = only(tried(plugin, capture, "--kill-sweep", "--packets", 3, code=1))
    place = (TRAFFIC[0][-1] + 1) * 8000
    assert one["kind"] == "twice" and f"byte {place}" in one["message"]


def test_what_look_found_is_as_old_as_the_burst(tmp_path: Path, capture: Path) -> None:
    """A process looks at its first packets one by one; the capture goes on after those."""
    many = tmp_path / "many.pcap"
    many.write_bytes(to_bytes(TRAFFIC * 16))
    look = """
static uint64_t *count;
static void look(void *state, struct dps_packet *packets, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		packets[i].found = *(uint64_t *)env->state;
}
"""
    source = HEAD.replace("static uint16_t packet", f"{look}static uint16_t packet")
    body = "dps_touch(env->state, 8); ++*(uint64_t *)env->state; return dps_out(p->found & 1);"
    facts = ".look = look, .state_size = 8, .state_version = 1,"
    (tmp_path / "look.c").write_text(f"{source}{body}{TAIL}{facts}\n}};\n")
    subprocess.run(
        ["cc", "-O1", "-w", "-shared", "-fPIC", "-DLAST=0", f"-I{SDK}", tmp_path / "look.c", "-o",
         tmp_path / "look.so"],
        check=True,
    )  # fmt: skip
    one = only(tried(tmp_path / "look.so", many, "--kill-sweep", code=1))
    assert one["kind"] == "burst" and one["packet"] > 64


TICKS = """
static void tick(void *state)
{
	uint64_t *mine = env->state;
	(void)state;
	dps_touch(mine, 8); mine[0]++;
	uint8_t *e = dps_emit(dps_out(0), 60); if (e) memcpy(e, mine, 8);
	%s
}
static void bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	struct bucket *b = bucket_state;
	(void)state;
	if (b->n == 0) abort();
	%s
}
static uint16_t packet"""
TICK_FACTS = f"""{STATE} .emits = 1, .state_size = 8,
	.tick_us = 1000000, .tick = tick, .bucket_tick_us = 2000000, .bucket_tick = bucket_tick,"""


def ticking(
    folder: Path, tick: str, bucket_tick: str = "dps_touch(&b->n, 8); b->n += 100;"
) -> Path:
    source = HEAD.replace("static uint16_t packet", TICKS % (tick, bucket_tick))
    (folder / "ticks.c").write_text(f"{source}{COUNT}{TAIL}{TICK_FACTS}\n}};\n")
    subprocess.run(
        ["cc", "-O1", "-g", "-w", "-shared", "-fPIC", f"-DLAST={LAST}", f"-I{SDK}",
         folder / "ticks.c", "-o", folder / "ticks.so"],
        check=True,
    )  # fmt: skip
    return folder / "ticks.so"


@pytest.fixture
def seconds(tmp_path: Path) -> Path:
    """Of the packets of one flow, one each 0.4 s; the fourth one comes an hour late."""
    path = tmp_path / "seconds.pcapng"
    parts = [pcapng.section("test"), pcapng.interface("wan", "", 0)]
    frame = TRAFFIC[0]
    for i in range(8):
        at = 10**18 + i * 400_000_000 + (3600 * 10**9 if i > 2 else 0)
        parts.append(pcapng.packet(0, at, frame, len(frame)))
    path.write_bytes(b"".join(parts))
    return path


def test_ticks_follow_the_capture_s_clock(tmp_path: Path, seconds: Path) -> None:
    """Due before packets 4, after the pause, and 7: the worker's; before 4 also the bucket's."""
    out = tmp_path / "out.pcapng"
    doc = tried(ticking(tmp_path, ""), seconds, "--kill-sweep", "--out", out, code=0)
    assert (doc["ticks"], doc["ticks_skipped"], doc["emitted"]) == (3, 0, 2)
    left = list(frames(out.read_bytes()))
    own = [i for i, one in enumerate(left) if len(one.data) == 60 and one.data[8:] == bytes(52)]
    assert own == [3, 7] and [left[i].data[0] for i in own] == [1, 2]
    text = subprocess.run([DPSUP, "try", tmp_path / "ticks.so", seconds], capture_output=True,
                          text=True, check=True).stdout  # fmt: skip
    assert "  ticks        3\n" in text


def test_a_tick_without_a_touch(tmp_path: Path, seconds: Path) -> None:
    plugin = ticking(tmp_path, "env->counters[1]++;", "b->n += 100;")
    found = tried(plugin, seconds, "--kill-sweep", code=1)["findings"]
    assert {one["kind"] for one in found} == {"twice"}
    assert all("the tick before this packet is run again" in one["message"] for one in found)
    assert {one["backtrace"][0].partition("+")[0] for one in found} == {"tick", "bucket_tick"}


def test_a_tick_that_ends_the_process(tmp_path: Path, seconds: Path) -> None:
    plugin = ticking(tmp_path, "if (mine[0] == 2) *(volatile int *)8 = 1;")
    doc = tried(plugin, seconds, code=1)
    one = only(doc)
    assert (one["kind"], one["packet"]) == ("crash", 7)
    assert "SIGSEGV in a tick before this packet" in one["message"]
    assert one["backtrace"][0].startswith("tick+")
    assert (doc["ticks"], doc["ticks_skipped"], doc["emitted"]) == (2, 1, 1)
    assert doc["done"] == 8 and doc["quarantined"] == 0


def test_segments_and_their_ports(tmp_path: Path) -> None:
    """Packets longer than a buffer, from two interfaces of a pcapng file."""
    long = bytes(range(12)) + b"\x08\x00" + bytes(i % 251 for i in range(9000))
    parts = [pcapng.section("test"), pcapng.interface("lan", "", 0)]
    parts += [pcapng.interface("wan", "", 0), pcapng.packet(0, 10**18, long, len(long))]
    parts += [pcapng.packet(1, 10**18 + 5, long, len(long))]
    path = tmp_path / "long.pcapng"
    path.write_bytes(b"".join(parts))
    sum_up = """
	const void *segment = NULL; const uint8_t *bytes; uint32_t n, all = p->len;
	while ((n = dps_next_segment(p, &segment, &bytes)) != 0) { all += n; %s }
	if (all != p->total) abort();
"""
    doc = tried(build(tmp_path, sum_up % "", ""), path, "--kill-sweep", code=0)
    assert {name: port["packets"] for name, port in doc["out"].items()} == {"wan": 1, "lan": 1}
    plugin = build(tmp_path, sum_up % "((uint8_t *)bytes)[3]++;", "")
    one = only(tried(plugin, path, code=1))
    assert "further segment" in one["message"] and one["packets"] == 2


def test_what_the_plugin_finds_around_it(tmp_path: Path, capture: Path) -> None:
    body = """
	if (env->now < 1000000000 || dps_group(env, "nat") != 1 || strcmp(dps_arg(env, "k"), "v") != 0)
		abort();
	if (is_marked(p)) return dps_on(1);
	return dps_out(dps_port(env, "b"));
"""
    words = ["--port", "a", "--port", "b", "--other-group", "nat", "--arg", "k=v", "--input", "b"]
    doc = tried(build(tmp_path, body, ""), capture, *words, code=0)
    assert doc["out"]["b"]["packets"] == len(TRAFFIC) - 1 and doc["on"]["nat"] == 1


def test_from_a_topology(tmp_path: Path, capture: Path) -> None:
    topology = tmp_path / "t.toml"
    topology.write_text(
        'version = 1\nname = "t"\n[mempools.default]\nmbufs = 4096\n'
        '[[ports]]\nname = "wan"\nvdev = "net_null0"\n'
        '[[ports]]\nname = "lan"\nvdev = "net_null1"\n'
        '[[io]]\ncores = "1"\n'
        '[[workers]]\nname = "first"\nplugin = "forward"\ncount = 1\n'
        '[[workers]]\nname = "second"\nplugin = "forward"\ncount = 1\n'
        '[[chains]]\nname = "edge"\npath = ["wan", "first", "second", "lan"]\n'
    )
    words = ("--topology", topology, "--group")
    doc = tried("forward", capture, *words, "first", code=0)
    assert doc["on"] == {"first": 0, "second": len(TRAFFIC)}
    doc = tried("forward", capture, *words, "second", code=0)
    assert doc["out"]["lan"]["packets"] == len(TRAFFIC)


def test_what_cannot_be_tried(tmp_path: Path, capture: Path) -> None:
    def code(*words: object) -> tuple[int, str]:
        done = subprocess.run(
            [DPSUP, "try", *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(capture.read_bytes()[:-3])
    (tmp_path / "empty.pcap").write_bytes(to_bytes([], 1.0))
    os.mkfifo(tmp_path / "fifo.so")
    for words, text in (
        (("none.so", capture), "cannot read none.so"),
        (("nothing", capture), "is no plugin"),
        (("fw.py", capture), "is a plugin in Python"),
        (("sink", tmp_path / "none.pcap"), "cannot read"),
        (("sink", damaged), f"ends in the middle of packet {len(TRAFFIC)}"),
        (("sink", __file__), "neither a pcap nor a pcapng file"),
        (("sink", capture, "--arg", "x"), "is no argument"),
        (("sink", capture, "--input", "dmz"), "no port `dmz`"),
        (("sink", capture, "--port", "a", "--port", "a"), "two ports have the name `a`"),
        (("sink", capture, "--other-group", "workers"), "two groups have the name `workers`"),
        (("sink", capture, "--file", "r=none.txt"), 'cannot read the file "r" of the plugin'),
        (("sink", tmp_path / "empty.pcap"), "has no packet"),
        (("sink", "/dev/zero"), "it is a device"),
        ((tmp_path / "fifo.so", capture), "fifo.so"),
    ):
        found, said = code(*words)
        assert found == 2 and text in said, said


def test_a_plugin_that_is_refused(tmp_path: Path, capture: Path) -> None:
    body = "return 0; } static int refuse(const struct dps_env *e, void **s) {"
    body += 'snprintf(e->error, e->error_len, "no \\"rate\\""); return -1; } static int x(void){'
    body += "struct dps_packet *p = 0;"
    doc = tried(build(tmp_path, body, "").with_name("tried.so"), capture)
    assert doc["ok"]
    plugin = build(tmp_path, body, "").with_name("tried.c")
    plugin.write_text(plugin.read_text().replace(".init = init", ".init = refuse"))
    subprocess.run(
        ["cc", "-w", "-shared", "-fPIC", "-DLAST=0", f"-I{SDK}", plugin, "-o", tmp_path / "r.so"],
        check=True,
    )
    one = only(tried(tmp_path / "r.so", capture, code=1))
    assert one["kind"] == "refused" and 'no "rate"' in one["message"]


def test_no_input_is_overwritten(tmp_path: Path, capture: Path) -> None:
    plugin = build(tmp_path, "", "")
    routes, link = tmp_path / "routes.txt", tmp_path / "link"
    routes.write_text("10.0.0.0/8 1\n")
    link.symlink_to(capture)
    inputs = (capture, plugin, routes)
    before = [one.read_bytes() for one in inputs]
    for out in (*inputs, link):
        done = subprocess.run(
            [DPSUP, "try", plugin, capture, "--file", f"routes={routes}", "--out", out],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and "would be overwritten" in done.stderr, done.stderr
    assert [one.read_bytes() for one in inputs] == before


def test_a_topology_s_tables_are_there(tmp_path: Path, capture: Path) -> None:
    body = """
	const struct dps_live_table *t = dps_table(env, "routes");
	return dps_drop(t == NULL || dps_lpm_find(t->at, p->data + 30) != 7);
    """
    plugin = build(tmp_path, body, "", "", "#include <dpsup_table_lpm.h>")
    topology = tmp_path / "t.toml"
    topology.write_text(
        'version = 1\nname = "t"\n[mempools.default]\nmbufs = 4096\n'
        '[[ports]]\nname = "wan"\nvdev = "net_null0"\n[[io]]\ncores = "1"\n'
        '[[workers]]\nname = "fw"\nplugin = "./tried.so"\ncount = 1\ninput = ["wan"]\n'
        'tables = { routes = { kind = "ipv4", entries = 10, file = "routes" } }\n'
    )
    (tmp_path / "routes").write_text("default 7\n")
    doc = tried(plugin, capture, "--topology", topology, "--kill-sweep", code=0)
    assert doc["dropped"] == {"reason 0": len(TRAFFIC)}
    assert doc["sweep"]["points"] > len(TRAFFIC)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_goes_on_after_the_command(
    tmp_path: Path, capture: Path, number: signal.Signals
) -> None:
    """A plugin that loops would be tried for the time of all its packets."""
    begun = tmp_path / "begun"
    plugin = build(tmp_path, f'fclose(fopen("{begun}", "w")); for (;;) ;', "")
    # The signal may be ignored where the tests run.
    heard = ["env", "--default-signal=HUP,TERM"]
    space = tmp_path / "tmp"
    space.mkdir()
    env = {**os.environ, "TMPDIR": str(space)}
    argv = [DPSUP, "try", plugin, capture]
    child = subprocess.Popen([*heard, *argv, "--timeout", "1000s"], env=env)
    try:
        until(begun.exists)
    finally:
        child.send_signal(number)
        child.wait()
    until(lambda: not trials_of(plugin))
    if number == signal.SIGKILL:  # the next one removes what it left
        subprocess.run([DPSUP, "try", "sink", capture], env=env, check=True, capture_output=True)
    assert list(space.iterdir()) == []


def trials_of(plugin: Path) -> list[str]:
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"dpsup-try" in (words := one.read_bytes()) and str(plugin).encode() in words:
                found.append(one.parent.name)
    return found


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
