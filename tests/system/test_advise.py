# SPDX-License-Identifier: BSD-3-Clause
"""Conditions made on purpose on real instances: the advice names them, a machine follows it, and
what it predicted is measured. How much of it must come true is a ratio, and generous: other work
may use the same CPUs."""

from __future__ import annotations

import json
import random
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import Run, run, wait_for
from jobs import build
from netns import Host, raw_socket, two_hosts
from traffic import write_pcap

from dpsup._shim import lib
from dpsup.primary.layout import SYMMETRIC_KEY, rss_types
from dpsup.supervisor.steering import BUCKETS

pytestmark = pytest.mark.system

Doc = dict[str, Any]

FIELDS = ["ipv4", "ipv6", "tcp", "udp"]
PCAP = "net_pcap0,rx_pcap=in.pcap,infinite_rx=1,tx_pcap=/dev/null"
NULL = """
[[ports]]
name = "wan"
vdev = "net_null0"
descriptors = {{ rx = 64, tx = 64 }}
[[io]]
cores = "1"
burst = {burst}
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ {args} }}
input = ["wan"]
count = {count}
cores = "0"
"""
VETH = """
[[ports]]
name = "wan"
vdev = "net_af_packet0,iface={iface},framecnt=4096"
[[io]]
cores = "1"
idle = "{idle}"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ cycles = {cycles} }}
input = ["wan"]
count = {count}
max = 2
cores = "{cores}"
ring = {ring}
"""


def advice(instance: Run, seconds: str = "800ms") -> Doc:
    done = instance.do("advise", "--for", seconds, "-o", "json")
    return json.loads(done.stdout)


def piece(doc: Doc, kind: str) -> Doc:
    found = [one for one in doc["advice"] if one["kind"] == kind]
    assert len(found) == 1, json.dumps({k: doc[k] for k in ("advice", "measured")})
    return found[0]


def measured(doc: Doc, metric: list[str]) -> float:
    value = doc["measured"]
    for key in metric:
        value = value[key]
    return float(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_plain(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def _toml(doc: Doc) -> str:
    """As much of TOML as these topologies need."""
    out = [f"{k} = {_plain(v)}" for k, v in doc.items() if not isinstance(v, dict | list)]
    for name, one in doc.items():
        tables = one if isinstance(one, list) else [one] if isinstance(one, dict) else []
        if name == "mempools":
            for pool, keys in one.items():
                out += [f"[mempools.{pool}]", *(f"{k} = {_plain(v)}" for k, v in keys.items())]
            continue
        for table in tables:
            out.append(f"[[{name}]]" if isinstance(one, list) else f"[{name}]")
            out += [f"{k} = {_plain(v)}" for k, v in table.items()]
    return "\n".join(out)


def follow(instance: Run, found: Doc) -> None:
    """Do what it says: write the keys and start anew, or type the command."""
    doc = tomllib.loads(instance.file.read_text())
    keys = [one for one in found["changes"] if one["kind"] == "toml"]
    for change in keys:
        table: Any = doc
        *way, last = change["path"]
        for step in way:
            if isinstance(table, list):
                named = [one for one in table if one.get("name") == step]
                table = table[step] if isinstance(step, int) else named[0]
            else:
                table = table.setdefault(step, {})
        table[last] = change["value"]
    if keys:
        instance.stop()
        instance.file.write_text(_toml(doc))
        instance.start()
    for change in found["changes"]:
        if change["kind"] == "command":
            assert change["argv"][0] == "dpsup"
            run(*change["argv"][1:], check=True)
    time.sleep(0.3)


def outcome(
    instance: Run, kind: str, seconds: str = "800ms", *, drained: bool = False
) -> tuple[Doc, float, float]:
    """Advice of a kind, what it measured, and what that is once the advice was followed; `drained`:
    and lanes that were full are not any more."""
    before = advice(instance, seconds)
    found = piece(before, kind)
    metric = found["predicted"]["metric"]
    follow(instance, found)
    if drained:
        instance.until(lambda s: all(w["outstanding"] < 64 for w in s["groups"][0]["workers"]))
    after = advice(instance, seconds)
    assert kind not in {one["kind"] for one in after["advice"]}, after["advice"]
    now, then = measured(before, metric), measured(after, metric)
    print(f"{kind}: {found['predicted']['text']}; measured {then:.6g}")
    return found, now, then


def fell(found: Doc, now: float, then: float, part: float) -> None:
    """By at least that part of what was predicted."""
    predicted = now - found["predicted"]["then"]
    assert predicted > 0
    assert now - then >= part * predicted, (found["predicted"], then)


# --- without a limit to what comes ----------------------------------------------------------------


def small_pool(instance: Run, mbufs: int, cache: int) -> None:
    text = instance.file.read_text().replace("mbufs = 16383", f"mbufs = {mbufs}\ncache = {cache}")
    instance.file.write_text(text)


def full_lanes(instance: Run, mbufs: int) -> None:
    """Two workers with more to do than they can, 1,918 packets in their lanes."""
    instance.write(NULL.format(burst=32, plugin="delay", args="cycles = 20000", count=2))
    small_pool(instance, mbufs, 32)
    text = instance.file.read_text().replace('vdev = "net_null0"', f'vdev = "{PCAP}"')
    instance.file.write_text(text)
    write_pcap(instance.folder / "in.pcap", frames(16))
    instance.start()


def test_a_pool_that_is_about_to_run_out(instance: Run) -> None:
    full_lanes(instance, 2340)
    found, now, then = outcome(instance, "pool-low")
    assert "in lanes" in found["seen"]
    assert 0 < now < 2340 * 0.08
    assert then - now >= 0.5 * (found["predicted"]["then"] - now)


@pytest.mark.fault(29)
def test_a_pool_that_runs_out(instance: Run) -> None:
    full_lanes(instance, 1023)
    noticed = wait_for(lambda: [e for e in instance.events() if e["type"] == "advice"])
    assert "dpsup -n" in noticed[0]["message"]
    found, now, then = outcome(instance, "pool-empty")
    assert "in lanes" in found["seen"]
    assert now > 0
    assert then == 0


@pytest.mark.long
def test_small_bursts_and_a_cache_below_them(instance: Run) -> None:
    """Both at once cost cycles of each packet; together they bring what they say one by one."""
    instance.write(NULL.format(burst=4, plugin="forward", args="", count=1))
    small_pool(instance, 16383, 0)
    instance.start()
    before = advice(instance)
    both = [piece(before, kind) for kind in ("pool-cache", "io-burst")]
    follow(instance, {"changes": [change for one in both for change in one["changes"]]})
    after = advice(instance)
    metric = both[0]["predicted"]["metric"]
    assert metric == both[1]["predicted"]["metric"]
    now, then = measured(before, metric), measured(after, metric)
    saved = sum(now - one["predicted"]["then"] for one in both)
    print(f"cache and burst: {now:.0f} -> {now - saved:.0f} cycles a packet; measured {then:.0f}")
    assert now - then >= 0.4 * saved


def frames(flows: int) -> list[bytes]:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    made = [
        bytes(Ether() / IP(src=f"10.0.{i}.1", dst="10.9.9.9") / UDP(sport=i, dport=9) / bytes(20))
        for i in range(flows)
    ]
    return made * (256 // flows)


@pytest.mark.long
def test_skewed_flows(instance: Run) -> None:
    """Of 64 flows a quarter is heavy, and those all belong to one worker: two workers have 256
    buckets each, the lower ones or the higher."""
    assert lib.dps_hash_conf(SYMMETRIC_KEY, len(SYMMETRIC_KEY), rss_types(FIELDS)) == 0
    some = frames(64)[:64]
    low = [f for f in some if lib.dps_hash_packet(f, len(f)) % BUCKETS < BUCKETS // 2]
    mix = [*low[:16] * 9, *some]
    random.Random(7).shuffle(mix)
    write_pcap(instance.folder / "in.pcap", mix)
    text = NULL.format(burst=32, plugin="delay", args="cycles = 20000", count=2)
    instance.start(text.replace("net_null0", PCAP))
    found, now, then = outcome(instance, "skew")
    assert now >= 1.25
    fell(found, now, then, 0.4)


# --- at a rate of our own -------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    with two_hosts() as pair:
        yield pair[0]


@contextmanager
def traffic(host: Host, burst: int, every: float) -> Iterator[None]:
    """So many frames of many flows at a time, at a steady pace."""
    some = frames(64)
    stop = threading.Event()

    def send() -> None:
        with raw_socket(host) as s:
            due = time.monotonic()
            while not stop.is_set():
                for i in range(burst):
                    s.send(some[i % len(some)])
                due = max(due + every, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        stop.set()
        thread.join()


def veth(host: Host, **more: Any) -> str:
    settings = {"idle": "adaptive", "cycles": 2000, "count": 1, "cores": "0", "ring": 1024}
    return VETH.format(iface=host.port, **{"plugin": "delay", **settings, **more})


def test_nothing_is_invented_on_a_healthy_instance(instance: Run, host: Host) -> None:
    instance.start(veth(host))
    with traffic(host, 10, 0.01):
        doc = advice(instance, "1200ms")
        assert doc["advice"] == []
        assert doc["measured"]["ports"]["wan"]["rx_pps"] > 0
        text = instance.do("advise", "--for", "500ms").stdout
    assert "Nothing to change." in text
    done = instance.do("advise", "--for", "1ms", check=False)
    assert done.returncode == 2
    assert "E0745" in done.stderr
    assert run("advise", "-n", "nobody").returncode == 3


@pytest.mark.long
def test_bursts_into_short_lanes(instance: Run, host: Host) -> None:
    instance.start(veth(host, cycles=20000, ring=256))
    with traffic(host, 1000, 0.1):
        found, now, then = outcome(instance, "lane-ring", "1200ms")
    assert now > 0
    fell(found, now, then, 0.5)


# As fast on any CPU: 2 ms a packet.
NAPS = """
#include <time.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	nanosleep(&(const struct timespec){ .tv_nsec = 2000000 }, NULL);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "naps", .packet = packet,
};
"""


@pytest.mark.fault(6)
def test_too_few_workers(instance: Run, host: Host) -> None:
    """Not quite 500 packets a second are what one can, 700 come."""
    instance.start(veth(host, plugin=build(instance.folder, NAPS), cores="0,1", ring=256))
    with traffic(host, 14, 0.02):
        wait_for(lambda: instance.stats()["account"]["dropped"].get("lane_full"))
        found, now, then = outcome(instance, "workers", "1200ms", drained=True)
    assert found["changes"][0]["argv"][3:] == ["scale", "fw", "2"]
    fell(found, now, then, 0.3)


@pytest.mark.long
def test_polling_on_a_shared_cpu(instance: Run, host: Host) -> None:
    instance.start(veth(host, idle="poll", cores="1"))
    with traffic(host, 10, 0.01):
        found, now, then = outcome(instance, "idle", "1200ms")
    fell(found, now, then, 0.4)
