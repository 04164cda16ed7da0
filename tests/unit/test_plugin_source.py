# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Python: what `check` finds in a source without running it, and what a plugin may do,
by the code that workers run."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.fakehost import FILE, MINIMAL, machine

from dpsup import _abi, limits, plugin
from dpsup.check.topology import check
from dpsup.host.plugin_file import NoPlugin, PluginFile, read
from dpsup.plugin_source import NEEDS, Declared, SourceError, load, stem_of
from dpsup.testing import Plugin
from dpsup.topology import templates
from dpsup.topology.load import load as load_topology

PACKET = "def packet(p):\n    return 0\n"
HEADER = (Path(__file__).resolve().parents[2] / "workers/sdk/dpsup_plugin.h").read_text()


def write(folder: Path, source: str, name: str = "fw.py") -> str:
    (folder / name).write_text(source)
    return str(folder / name)


def started(folder: Path, source: str, **more: Any) -> Plugin:
    words = "from dpsup import plugin as dps\nimport struct\n"
    return Plugin(write(folder, words + source), **more)


# --- check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def packet(p):\n  return (\n", r"fw\.py:2: SyntaxError: '\(' was never closed"),
        ("def packet(p):\n\treturn 0\n        return 1\n", r"fw\.py:3: TabError"),
        ("def packet(p):\n    return 0\nreturn 1\n", r"fw\.py:3: SyntaxError: 'return' outside"),
        ("def other(p):\n    return 0\n", r"fw\.py: it defines no packet\(p\)"),
        ("", "it defines no packet"),
        ("x = '\0'\n", "Python cannot read it|null bytes"),
        ("def packet(p, q):\n    return 0\n", r"fw\.py:1: packet is called as packet\(p\)"),
        ("def packet():\n    return 0\n", r"packet is called as packet\(p\)"),
        ("def packet(p, *, q):\n    return 0\n", "packet is called as"),
        ("async def packet(p):\n    return 0\n", "async def"),
        (PACKET + "def init():\n    pass\n", r"fw\.py:3: init is called as init\(env\)"),
        (PACKET + "def fini(env):\n    pass\n", r"fini is called as fini\(\)"),
        (PACKET + "def look(packets):\n    pass\n", r"fw\.py:3: look\(\) is called by no worker"),
        (PACKET + "tick_us = 1000\ndef tick():\n    pass\n", r"tick is called as tick\(now\)"),
        (PACKET + "def tick(now):\n    pass\n", r"fw\.py: tick_us is wanted for tick\(\)"),
        (PACKET + "tick_us = 2000\n", r"fw\.py:3: tick_us has no tick\(now\)"),
        (PACKET + "tick_us = 999\ndef tick(now):\n    pass\n", "fw.py:3: tick_us is 999: 0, or"),
        (
            PACKET
            + "bucket_tick_us = 10000\ndef bucket_tick(now, bucket, bucket_state):\n    pass\n",
            r"fw\.py:3: bucket_tick_us is there without bucket_state_size",
        ),
        (PACKET + "rewrites = 'all'\n", r"fw\.py:3: rewrites is 'all': a number from 0 to 256"),
        (PACKET + "rewrites = True\n", "rewrites is True"),
        (PACKET + "rewrites = 200\nprepends = 100\n", r"rewrites \+ prepends is more than 256"),
        (PACKET + "emits = 9\n", "a number from 0 to 8"),
        (PACKET + "state_size = -1\n", "state_size is -1"),
        (PACKET + "reasons = 'runt'\n", "a list of names"),
        (PACKET + f"reasons = {['r'] * 17}\n", "17 names: at most 16"),
        (PACKET + f"counters = ['{'c' * 99}']\n", "is no name of 1 to"),
        (PACKET + "needs = ['hashes']\n", r"fw\.py:3: needs names 'hashes': there are vlan"),
        (PACKET + "reasons = ['a']\ncounters = []\npolicy = ['b']\n", "policy names 'b'"),
    ],
)
def test_what_is_no_plugin_is_said_with_its_line(tmp_path: Path, source: str, said: str) -> None:
    path = write(tmp_path, source)
    with pytest.raises(NoPlugin, match=said):
        read(path)
    # A worker says the same, without the path, if it has not been checked.
    with pytest.raises((SourceError, SyntaxError, ValueError)):
        load(path)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (PACKET, PluginFile()),
        (PACKET + "state_size = 16\nbucket_state_size: int = 32\n", PluginFile(16, 32)),
        (PACKET + "import struct\nstate_size = struct.calcsize('QQ')\n", PluginFile()),
        ("packet = lambda p: 0\n", PluginFile()),
        ("if True:\n    def packet(p, more=None):\n        return 0\n", PluginFile()),
        ("from other import packet\n", PluginFile()),
        ("# -*- coding: latin-1 -*-\n" + PACKET, PluginFile()),
        (PACKET + "tick_us = 5 * 1000\ndef tick(now):\n    pass\n", PluginFile()),
        (PACKET + "tick = 5\n", PluginFile()),
        (PACKET + "if True:\n    tick_us = 5000\ndef tick(now):\n    pass\n", PluginFile()),
        (PACKET + "names = ['a']\nreasons = names\npolicy = ['a']\n", PluginFile()),
    ],
)
def test_what_only_running_it_would_tell_is_left_to_the_worker(
    tmp_path: Path, source: str, found: PluginFile
) -> None:
    assert read(write(tmp_path, source)) == found


def test_check_tells_where_a_source_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, "def packet(p):\n    retrun 0\n")
    text = f'{MINIMAL}plugin = "{path}"\n'
    with pytest.raises(NoPlugin) as found:
        read(path)
    host = machine(text, files={FILE: text, path: ""}, plugins={path: found.value})
    topology, _ = load_topology(FILE, host)
    assert topology
    (problem,) = (p for p in check(topology, host) if p.code == "E0510")
    assert f"{path}:2: SyntaxError" in (problem.why or "")
    assert "--template python" in (problem.help or "")


def test_a_name_that_ends_like_one_is_a_file() -> None:
    assert limits.is_plugin_file("fw.py") and limits.is_plugin_file("./fw")
    assert not limits.is_plugin_file("forward")
    assert stem_of("/run/x/plugins/0123456789abcdef-fw.py") == stem_of("fw.py") == "fw"


def test_a_hash_of_its_own_and_the_kernel(tmp_path: Path) -> None:
    source = (
        "def packet(p):\n    return dps.on_hash(1, p.length) if p.length > 60 else dps.punt()\n"
    )
    fw = started(tmp_path, source, groups=["fw", "nat"])
    there = fw.packet(bytes(600))
    assert (there.verdict, there.group, there.bucket) == ("on", "nat", 600 % 512)
    assert fw.packet(bytes(60)).verdict == "punt"
    for wrong in ("dps.on_hash(16, 1)", "dps.on_hash(0, -1)", "dps.also(dps.on_hash(0, 1), 0)"):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            started(tmp_path, f"def packet(p):\n    return {wrong}\n").packet(bytes(60))


# --- against the header --------------------------------------------------------------------------


def test_every_word_of_the_header_is_there_or_is_left_out_for_a_reason() -> None:
    words = set(re.findall(r"^dps_(\w+)\(", HEADER, re.MULTILINE))
    words |= {"touch", "emit", "hash_of", "next_segment"}
    elsewhere = {
        "arg", "arg_u64",  # env.args
        "file",  # env.files
        "table",  # its lookups are inline functions of dpsup_table_*.h: in C a few ns, here a call
        "next_segment",  # p.segments()
        "buckets_of",  # owns() of each
        "port_in",  # hash_of() of each
        "sum", "sum_end", "sum_udp", "l4_sum",  # sum_changed and ipv4_sum are there
    }  # fmt: skip
    assert words - elsewhere - set(plugin.__all__) == set()
    assert set(plugin.__all__) - words == {"add", "count", "gauge"}
    found = {name.lower(): value for name, value in vars(_abi).items()}
    assert {f"dps_plugin_{name}": bit for name, bit in NEEDS.items()}.items() <= found.items()


def test_a_worker_loads_no_dpdk_for_it() -> None:
    """What the host imports in a worker; the shim would load all of DPDK."""
    code = "import sys, dpsup.plugin_source, dpsup.plugin; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.split())
    assert "dpsup._python" in modules
    assert not {"dpsup._shim", "zmq", "pydantic", "asyncio"} & modules


# --- what a plugin may do ------------------------------------------------------------------------


def test_verdicts(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        """
reasons = ["runt"]
def packet(p):
    return eval(bytes(p.data[1:]))
""",
        groups=["fw", "nat"],
        chain={"wan": "nat"},
    )

    def of(text: str) -> tuple[str, str]:
        found = fw.packet(b"x" + text.encode())
        return found.verdict, found.port or found.group or found.reason

    assert of("dps.out(1)") == ("out", "lan")
    assert of("dps.on(dps.group('nat'))") == ("on", "nat")
    assert of("dps.next()") == of("dps.next(None, p)") == ("on", "nat")
    assert of("dps.drop()") == ("drop", "runt")
    assert of("dps.quarantine()") == ("quarantine", "")
    copied = fw.packet(b"xdps.also(dps.drop(0), dps.port('lan'))")
    assert (copied.verdict, copied.also) == ("drop", "lan")
    for wrong in ("None", "True", "1.0", "-1", "1 << 16", "'out'"):
        with pytest.raises(TypeError, match=r"packet\(\) returned .* a verdict is wanted"):
            of(wrong)
    for wrong in ("dps.out(1 << 12)", "dps.out(-1)", "dps.drop(16)", "dps.also(dps.out(99), 0)"):
        with pytest.raises(ValueError):
            of(wrong)
    with pytest.raises(LookupError, match="there is no port 'dmz'"):
        of("dps.port('dmz')")
    with pytest.raises(ValueError, match="there is no port 9"):
        of("dps.out(9)")


def test_only_declared_bytes_can_be_changed(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        """
rewrites, prepends = 6, 4
def packet(p):
    exec(bytes(p.data[8:]))
    return dps.out(0)
""",
    )

    def after(code: str) -> bytes:
        return fw.packet(b"12345678" + code.encode()).data

    assert after("p.head[0:6] = b'abcdef'").startswith(b"abcdef78")
    assert after("p.push(4); p.head[0:10] = b'0123abcdef'").startswith(b"0123abcdef78")
    assert after("p.pull(2); p.head[0:4] = b'cdef'").startswith(b"cdef78p")
    assert after("p.length = 6") == b"123456"
    assert after("p.length = 3; p.head[0:3] = b'abc'") == b"abc"
    for wrong, error in (
        ("p.data[0] = 1", TypeError),
        ("p.head[6] = 1", IndexError),
        ("p.push(5)", ValueError),
        ("p.pull(1000)", ValueError),
        ("p.length = 0", ValueError),
        ("p.length += 1", ValueError),
        ("p.port = 1", AttributeError),
    ):
        with pytest.raises(error):
            after(wrong)


def test_what_was_not_asked_for_is_nothing(tmp_path: Path) -> None:
    seen = "def packet(p):\n    return dps.out(0) if %s else dps.drop(0)\n"
    dark = started(tmp_path, seen % "(p.hash, p.vlan, p.tsc, p.bucket_state) == (0, None, 0, None)")
    assert dark.packet(bytes(60), vlan=7, tsc=9, hash=5).verdict == "out"
    asks = 'needs = ["hash", "vlan", "timestamp"]\n'
    seeing = started(tmp_path, asks + seen % "(p.hash, p.vlan, p.tsc) == (5, 7, 9)")
    assert seeing.packet(bytes(60), vlan=7, tsc=9, hash=5).verdict == "out"


def test_nothing_of_a_packet_outlives_it(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        """
kept = []
state_size = 8
def init(env):
    global place
    place = env
def packet(p):
    for old in kept:
        if old is p:
            old_is_new = p.length
    exec(bytes(p.data))
    return dps.out(0)
""",
    )
    for view in ("p.data", "p.data[2:]", "p.head", "dps.touch(place.state)"):
        with pytest.raises(BufferError, match="keeps a view"):
            fw.packet(f"kept.append({view})".encode())
        fw.packet(b"kept.clear()")
    fw.packet(b"a = [p.data]; a.append(a)")  # a cycle, which nobody has
    fw.packet(b"kept.append(bytes(p.data)); kept.append(place.state)")
    module = sys.modules["plugin_fw"]
    fw.packet(b"kept[:] = [p]")
    with pytest.raises(ValueError, match="lent for the duration"):
        module.kept[0].data  # noqa: B018


STATE = """
state_size, bucket_state_size = 512, 64
counters = ["n", "level"]
gauges = ["level"]
def init(env):
    global place
    place = env
def seated(env):
    assert env.state.readonly and len(env.state) == 512
    dps.touch(env.state[504:512])[:] = b"is warm." if env.warm else b"is cold."
def packet(p):
    exec(bytes(p.data))
    return dps.out(0)
"""


def test_state_changes_only_by_touch_and_is_put_back(tmp_path: Path) -> None:
    fw = started(tmp_path, STATE)
    assert bytes(fw.state[-8:]) == b"is cold."
    fw.packet(b"dps.add(place.state[0:8]); dps.add(p.bucket_state[8:16], 5)", hash=513)
    fw.packet(b"dps.touch(place.state[8:72])[:] = bytes(range(64)); dps.count(0, 3)", hash=0)
    fw.packet(b"dps.gauge(1, -7); assert dps.bucket(p.hash) == 1", hash=1)
    assert fw.state[0] == 1 and fw.buckets[1][8] == 5 and fw.state[8:72] == bytes(range(64))
    assert fw.counters == {"n": 3, "level": -7}
    before = bytes(fw.state), bytes(fw.buckets[1])
    for wrong, error in (
        ("place.state[0] = 1", TypeError),
        ("p.bucket_state[0] = 1", TypeError),
        ("dps.add(place.state[0:8]); dps.add(p.bucket_state[8:16]); 1 / 0", ZeroDivisionError),
        ("dps.touch(place.state[0:65])", ValueError),
        ("[dps.add(place.state[8:16]) for _ in range(5)]", ValueError),
        ("dps.add(place.state[0:8]); dps.add(place.state[0:4])", ValueError),
        ("dps.touch(p.data[0:8])", ValueError),
        ("dps.touch(b'somewhere')", ValueError),
        ("dps.count(2)", ValueError),
        ("dps.count(0); 1 / 0", ZeroDivisionError),
        ("dps.emit(dps.out(0), 60)", ValueError),
    ):
        with pytest.raises(error):
            fw.packet(wrong.encode(), hash=1)
        assert (bytes(fw.state), bytes(fw.buckets[1])) == before, wrong
        assert fw.counters["n"] == 3
    heir = started(tmp_path, STATE, state=fw.state, buckets=fw.buckets)
    assert bytes(heir.state[-8:]) == b"is warm."
    heir.packet(b"assert dps.add(place.state[0:8]) == 2")
    with pytest.raises(ValueError, match="from within packet"):
        plugin.touch(memoryview(b"x"))


def test_packets_of_its_own(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        """
emits = 2
def packet(p):
    for n in range(p.data[0]):
        own = dps.emit(dps.also(dps.out(1), 0), 60)
        own[0] = n + 1
    return dps.drop(0)
""",
    )
    found = fw.packet(b"\2")
    assert [(one.port, one.also, one.data[0], len(one.data)) for one in found.emitted] == [
        ("lan", "wan", 1, 60), ("lan", "wan", 2, 60),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="declares emits = 2"):
        fw.packet(b"\3")


TICKS = """
state_size, bucket_state_size, emits = 8, 16, 1
tick_us = 1_000_000
bucket_tick_us = 2_000_000
counters = ["ticks"]
needs = ["hash"]
kept = []
code = [b"None", b"None"]
def init(env):
    global place
    place = env
def packet(p):
    dps.touch(p.bucket_state[0:8])[:] = place.now.to_bytes(8, "little")
    return dps.out(p.port)
def tick(now):
    assert now == place.now
    dps.add(place.state[0:8])
    dps.count(0)
    own = dps.emit(dps.out(1), 60)
    own[0:8] = place.state[0:8]
    exec(code[0])
def bucket_tick(now, bucket, bucket_state):
    assert bucket_state.readonly and len(bucket_state) == 16
    if now - int.from_bytes(bucket_state[0:8], "little") > 5:
        dps.touch(bucket_state[0:8])[:] = bytes(8)
    dps.emit(dps.drop(0), 60)[0:2] = bucket.to_bytes(2, "little")
    exec(code[1])
"""


def test_ticks(tmp_path: Path) -> None:
    fw = started(tmp_path, TICKS)
    assert (fw.declared.tick_us, fw.declared.bucket_tick_us) == (1_000_000, 2_000_000)
    fw.now = 7
    fw.packet(bytes(60), hash=513)
    for n in (1, 2):
        (own,) = fw.tick()
        assert (own.port, own.data[:8]) == ("lan", struct.pack("<Q", n))
    assert fw.counters == {"ticks": 2}
    (own,) = fw.bucket_tick(1)
    assert (own.verdict, own.data[:2]) == ("drop", b"\1\0") and fw.buckets[1][0] == 7
    fw.now = 13
    fw.bucket_tick(1)
    assert fw.buckets[1] == bytes(16)
    with pytest.raises(ValueError, match="there is no bucket 512"):
        fw.bucket_tick(512)


def test_a_tick_that_fails_changes_nothing(tmp_path: Path) -> None:
    fw = started(tmp_path, TICKS)
    fw.packet(bytes(60), hash=1)
    fw.now = 20
    module = sys.modules["plugin_fw"]
    before = bytes(fw.state), bytes(fw.buckets[1]), fw.counters
    for wrong, error in (
        ("1 / 0", ZeroDivisionError),
        ("[dps.add(place.state[0:8]) for _ in range(4)]", ValueError),
        ("dps.emit(dps.out(0), 60)", ValueError),
        ("dps.next()", ValueError),
        ("kept.append(dps.touch(place.state[0:8]))", BufferError),
    ):
        for which, call in enumerate((fw.tick, lambda: fw.bucket_tick(1))):
            module.code[which] = wrong.encode()
            with pytest.raises(error):
                call()
            module.code[which] = b"None"
            module.kept.clear()
            assert (bytes(fw.state), bytes(fw.buckets[1]), fw.counters) == before, wrong
    module.code[1] = b"kept.append(bucket_state)"
    with pytest.raises(BufferError, match=r"bucket_tick\(\) returned and keeps a view"):
        fw.bucket_tick(1)
    module.kept.clear()
    without = started(tmp_path, PACKET)
    for call in (without.tick, lambda: without.bucket_tick(1)):
        with pytest.raises(ValueError, match="the plugin has no"):
            call()


def test_the_environment(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        """
def init(env):
    assert (env.group, env.worker, env.ports, env.groups) == ("fw", 3, ("wan", "lan"), ("fw",))
    assert env.args == {"map.wan": "lan", "on": "1", "list": "1,2"}
    assert bytes(env.files["routes"]) == b"10.0.0.0/8" and env.files["routes"].readonly
    assert env.state is None and env.now == 0
    facts = env.port_facts(dps.port("lan"))
    assert facts["up"] and len(facts["mac"]) == 6 and facts["mtu"] == 1500
    try:
        env.port_facts(2)
    except IndexError:
        pass
    else:
        assert False
    global e
    e = env
def packet(p):
    return dps.out(0) if e.now > 5 else dps.drop(0)
""",
        worker=3,
        args={"map": {"wan": "lan"}, "on": True, "list": [1, 2]},
        files={"routes": b"10.0.0.0/8"},
    )
    assert fw.packet(b"x").verdict == "drop"
    fw.now = 6
    assert fw.packet(b"x").verdict == "out"
    with pytest.raises(ZeroDivisionError):
        started(tmp_path, "def init(env):\n    1 / 0\n" + PACKET)


def test_checksums_and_hashes_are_those_of_the_header(tmp_path: Path) -> None:
    header = bytearray.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert plugin.ipv4_sum(header) == bytes.fromhex("b861")
    was, header[12:16] = bytes(header[12:16]), bytes([10, 0, 0, 1])
    assert plugin.sum_changed(b"\xb8\x61", was, header[12:16]) == plugin.ipv4_sum(header)
    with pytest.raises(ValueError):
        plugin.ipv4_sum(header[:19])
    fw = started(tmp_path, 'needs = ["hash"]\nseen = []\ndef packet(p):\n'
                           "    return dps.out(0) if p.hash else dps.drop(0)\n")  # fmt: skip
    frame = bytes(12) + b"\x08\x00" + bytes(header) + bytes([0, 80, 1, 0, 0, 8, 0, 0])
    assert fw.packet(frame).verdict == "out"


def test_a_declaration_is_read_from_what_ran(tmp_path: Path) -> None:
    fw = started(
        tmp_path,
        'name = "edge"\nstate_size = struct.calcsize("QQ")\nstate_version = 7\n'
        'reasons = ["rule", "runt"]\npolicy = ["rule"]\n' + PACKET,
    )
    assert fw.declared == Declared(
        "edge", 0, 0, 0, ("rule", "runt"), (), 16, 0, 7, 0, policy=1, gauges=0
    )


def test_the_template_s_own_test_passes(tmp_path: Path) -> None:
    start = templates.make("python", "my-fw", "t.toml", [0, 1])
    for name, content in start.files.items():
        (tmp_path / name).write_bytes(content)
    assert read(str(tmp_path / "my-fw.py")) == PluginFile()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_fw.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
