# SPDX-License-Identifier: BSD-3-Clause
"""A plugin of one's own: the example as a user copies it, and what is said about those that do not
fit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import DPSUP, Run, leftovers, run
from traffic import read_pcap, write_pcap

pytestmark = pytest.mark.beside

EXAMPLE = Path(__file__).parents[2] / "workers" / "examples"

PORTS = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap=wan.in.pcap,tx_pcap=wan.out.pcap"
[[ports]]
name = "lan"
vdev = "net_pcap_lan,rx_pcap=lan.in.pcap,tx_pcap=lan.out.pcap"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ {args} }}
input = ["wan", "lan"]
on_full = "hold"
"""


def make(folder: Path, *targets: str) -> None:
    """What a user types, with the `dpsup` under test in the path."""
    path = f"{Path(DPSUP[0]).parent}{os.pathsep}{os.environ['PATH']}"
    flags = "-O2 -Werror"
    subprocess.run(
        ["make", "-C", str(folder), *targets],
        env={**os.environ, "PATH": path, "CFLAGS": flags},
        check=True,
    )


def frame(protocol: int, dport: int, *, offset: int = 0, short: int = 0) -> bytes:
    """An IPv4 packet to a port; `offset` of a fragment, `short` bytes cut off its end."""
    ip = bytes([0x45, 0, 0, 0, 0, 0, offset >> 8, offset & 0xFF, 64, protocol, 0, 0])
    ends = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    ports = (1234).to_bytes(2, "big") + dport.to_bytes(2, "big")
    whole = b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ip + ends + ports
    return whole[: len(whole) - short]


def finished(status: dict[str, Any]) -> int:
    """Packets that were sent or dropped."""
    dropped: dict[str, int] = status["groups"][0]["workers"][0]["dropped"]
    return sum(p["tx_packets"] for p in status["ports"]) + sum(dropped.values())


TCP, UDP, ICMP = 6, 17, 1
PASSED = [
    frame(TCP, 80),
    frame(TCP, 443),
    frame(UDP, 443),
    frame(UDP, 53),
    frame(UDP, 123),
    frame(TCP, 8080),
    frame(ICMP, 23),
    frame(TCP, 23, offset=100),
    bytes(12) + b"\x86\xdd" + bytes(40),
    bytes(5),
]
DROPPED = [
    frame(TCP, 23),
    frame(UDP, 23),
    frame(TCP, 80, short=1),
    frame(TCP, 80, short=20),
]


def test_the_example_builds_and_does_what_it_says(instance: Run) -> None:
    folder = instance.folder / "my-plugin"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.so"))
    make(folder)
    write_pcap(instance.folder / "wan.in.pcap", DROPPED + PASSED)
    write_pcap(instance.folder / "lan.in.pcap", PASSED[:1])
    plugin = "my-plugin/count_ports.so"
    instance.start(PORTS.format(plugin=plugin, args='map = { wan = "lan", lan = "wan" }'))
    status = instance.until(lambda s: finished(s) == len(DROPPED + PASSED) + 1 and s)
    worker = status["groups"][0]["workers"][0]
    assert worker["counters"] == {"web": 4, "dns": 1, "other_port": 2, "no_port": 4}
    assert worker["dropped"] == {"blocked_port": 2, "short_header": 2}
    account = instance.stats()["account"]
    assert account["dropped"] == worker["dropped"]
    assert account["lost"] == 0
    shown = instance.do("stats").stdout
    assert "STEER" in shown  # where the io core's cycles go
    for word in ("web", "other_port", "blocked_port", "short_header"):
        assert word in shown
    assert "blocked_port" in instance.do("status").stdout
    # They are the slot's: they outlive the process.
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    assert instance.worker("fw/0")["counters"] == worker["counters"]
    instance.stop()
    assert list(read_pcap(instance.folder / "lan.out.pcap")) == PASSED
    assert list(read_pcap(instance.folder / "wan.out.pcap")) == PASSED[:1]


def test_the_example_that_looks_ahead(instance: Run) -> None:
    shutil.copytree(EXAMPLE, instance.folder, dirs_exist_ok=True)
    make(instance.folder, "steer_nets.so")
    sent = [p if i % 3 else p[:32] + b"\x07" + p[33:] for i, p in enumerate(PASSED * 30)]
    write_pcap(instance.folder / "wan.in.pcap", sent)
    write_pcap(instance.folder / "lan.in.pcap", PASSED[-1:])
    args = 'net = { "10.0.0" = "lan" }'
    instance.start(PORTS.format(plugin="./steer_nets.so", args=args))
    instance.until(lambda s: finished(s) == len(sent) + 1)
    ipv4 = [p for p in sent if len(p) >= 34 and p[12:14] == b"\x08\0"]
    right = [p for p in ipv4 if p[32] == 0]
    worker = instance.worker("fw/0")
    assert worker["dropped"] == {
        "no_ipv4": len(sent) + 1 - len(ipv4),
        "no_net": len(ipv4) - len(right),
    }
    instance.stop()
    assert list(read_pcap(instance.folder / "lan.out.pcap")) == right


SOUND = """
#include <dpsup_plugin.h>
static uint16_t packet(void *state, struct dps_packet *p) { (void)state; return dps_out(p->port); }
"""
REFUSES = "static int init(const struct dps_env *env, void **state)\n{\n\t(void)state;\n\t"
BAD = {
    "other ABI": (
        "const struct dps_plugin dps_plugin = { .abi = 99, .size = sizeof(struct dps_plugin),"
        ' .name = "old", .packet = packet };',
        ["ABI 99", "this dpsup has", "build it again"],
    ),
    "ABI 3": (
        'const struct dps_plugin dps_plugin = { .abi = 3, .size = 88, .name = "old",'
        " .packet = packet };",
        ["ABI 3 (88 bytes)", "build it again", "may look at a burst first", "docs/plugins/abi4.md"],
    ),
    "other size": (
        "const struct dps_plugin dps_plugin = { .abi = DPS_PLUGIN_ABI, .size = 8,"
        ' .name = "small", .packet = packet };',
        ["8 bytes", "build it again"],
    ),
    "no symbol": ("uint16_t (*unused)(void *, struct dps_packet *) = packet;", ["dps_plugin"]),
    "unknown function": (
        "void nowhere(void);\nconst struct dps_plugin dps_plugin = {"
        ' DPS_PLUGIN_HEAD, .name = "lost", .packet = packet, .fini = (void (*)(void *))nowhere };',
        ["nowhere"],
    ),
    "no packet function": (
        "uint16_t (*unused)(void *, struct dps_packet *) = packet;\n"
        'const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "idle" };',
        ["packet function"],
    ),
    "rewrites too much": (
        'const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "large",'
        " .rewrites = 250, .prepends = 7, .packet = packet };",
        ["257 bytes", "256"],
    ),
    "init refuses": (
        f"#include <stdio.h>\n{REFUSES}"
        'snprintf(env->error, env->error_len, "limit: \\"many\\" is no number");\n\treturn -1;\n}\n'
        'const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "picky",'
        " .init = init, .packet = packet };",
        ['limit: "many" is no number'],
    ),
    "init refuses without a word": (
        f"{REFUSES}(void)env;\n\treturn 1;\n}}\n"
        'const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "mute",'
        " .init = init, .packet = packet };",
        ["init refused"],
    ),
}


BOTH: tuple[tuple[str, ...], ...] = ((), ("--detach",))
DETACHED = [BAD["no symbol"][1], BAD["init refuses"][1]]


@pytest.mark.fault(39, 45)
@pytest.mark.parametrize(("source", "words"), BAD.values(), ids=BAD.keys())
def test_a_plugin_that_does_not_fit_ends_the_start(
    instance: Run, source: str, words: list[str]
) -> None:
    shutil.copy(EXAMPLE / "Makefile", instance.folder)
    (instance.folder / "bad.c").write_text(SOUND + source)
    make(instance.folder, "bad.so")
    # Found by `check` in the file, or said by the worker: the same for a detached start.
    refused(instance, words, hows=BOTH if words in DETACHED else BOTH[:1])


def test_a_file_that_is_no_shared_object_ends_the_start(instance: Run) -> None:
    (instance.folder / "bad.so").write_text("not a shared object\n")
    refused(instance, ["bad.so"])


@pytest.mark.fault(45)
def test_a_plugin_that_is_not_there_is_found_before_anything_starts(instance: Run) -> None:
    refused(instance, ["bad.so", "topology.toml:"])


def test_the_example_names_the_argument_that_is_wrong(instance: Run) -> None:
    shutil.copytree(EXAMPLE, instance.folder, dirs_exist_ok=True)
    make(instance.folder)
    (instance.folder / "count_ports.so").rename(instance.folder / "bad.so")
    refused(instance, ['map: no port named "dmz"'], 'map = { wan = "dmz" }')


def refused(
    instance: Run, words: list[str], args: str = "", hows: tuple[tuple[str, ...], ...] = BOTH[:1]
) -> None:
    for name in ("wan", "lan"):
        write_pcap(instance.folder / f"{name}.in.pcap", PASSED)
    instance.write(PORTS.format(plugin="./bad.so", args=args))
    for how in hows:
        done = run("start", str(instance.file), *how)
        assert done.returncode == 78, done.stderr
        for word in words:
            assert word in done.stderr
    assert leftovers(instance.name) == []
