# SPDX-License-Identifier: BSD-3-Clause
"""What a plugin steers by: dps_hash_of is the io core's hash, dps_port_in finds ports whose packets
land in a wanted bucket, and the example that does so."""

from __future__ import annotations

import ctypes
import ipaddress
import json
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from c.test_hash import VECTORS, configure, hash_of, packet

from dpsup import _abi
from dpsup.packets.pcap import to_bytes
from dpsup.primary.layout import MICROSOFT_KEY, SYMMETRIC_KEY, rss_types

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ROOT / "workers"
ALL = ["ipv4", "ipv6", "tcp", "udp"]

SOURCE = """
#include "worker.h"

static struct dps_ctl ctl;

void
set_up(const uint8_t *key, uint32_t len, uint64_t fields)
{
	memcpy(ctl.hash_key, key, len);
	ctl.hash_key_len = len;
	ctl.hash_fields = fields;
	hash_init(&ctl);
}

uint16_t
on_hash(uint32_t group, uint32_t hash)
{
	return dps_on_hash(group, hash);
}

uint32_t
port_in(const struct dps_tuple *t, uint32_t bucket, uint16_t first, uint16_t last)
{
	return dps_port_in(NULL, t, bucket, first, last);
}
"""


class Tuple(ctypes.BigEndianStructure):
    _fields_ = [
        ("version", ctypes.c_uint8), ("protocol", ctypes.c_uint8), ("fragment", ctypes.c_uint8),
        ("pad", ctypes.c_uint8), ("from_port", ctypes.c_uint16), ("to_port", ctypes.c_uint16),
        ("source", ctypes.c_uint8 * 16), ("target", ctypes.c_uint8 * 16),
    ]  # fmt: skip


def flow(source: str, from_port: int, target: str, to_port: int, protocol: int = 6) -> Tuple:
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(target)
    made = Tuple(a.version, protocol, 0, 0, from_port, to_port)
    made.source[: len(a.packed)] = a.packed
    made.target[: len(b.packed)] = b.packed
    return made


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("own_hash")
    (folder / "own.c").write_text(SOURCE)
    subprocess.run(
        ["cc", "-O2", "-w", "-shared", "-fPIC", f"-I{ROOT}/shim", f"-I{WORKERS}",
         f"-I{WORKERS}/sdk", folder / "own.c", WORKERS / "hash.c", "-o", folder / "own.so"],
        check=True,
    )  # fmt: skip
    lib = ctypes.CDLL(str(folder / "own.so"))
    lib.set_up.argtypes = [ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint64]
    lib.on_hash.restype = ctypes.c_uint16
    lib.dps_hash_of.restype = lib.port_in.restype = ctypes.c_uint32
    return lib


def set_up(sdk: ctypes.CDLL, key: bytes) -> None:
    configure(key, ALL)
    sdk.set_up(key, len(key), rss_types(ALL))


def hash_in(sdk: ctypes.CDLL, one: Tuple) -> int:
    return int(sdk.dps_hash_of(None, ctypes.byref(one)))


def some() -> Iterator[tuple[str, int, str, int, int]]:
    numbers = random.Random(5)
    for i in range(60):
        kind = ipaddress.IPv6Address if i % 2 else ipaddress.IPv4Address
        a, b = (str(kind(numbers.getrandbits(128 if i % 2 else 32))) for _ in range(2))
        yield a, numbers.getrandbits(16), b, numbers.getrandbits(16), (6, 17)[i % 3 == 0]


def test_the_hash_is_the_io_core_s(sdk: ctypes.CDLL) -> None:
    set_up(sdk, MICROSOFT_KEY)
    for *ends, with_ports, without in VECTORS:
        one = flow(*ends)
        assert hash_in(sdk, one) == with_ports
        one.fragment = 1
        assert hash_in(sdk, one) == without
    for key in (MICROSOFT_KEY, SYMMETRIC_KEY):
        set_up(sdk, key)
        for a, from_port, b, to_port, protocol in some():
            frame = packet(a, from_port, b, to_port, protocol)
            assert hash_in(sdk, flow(a, from_port, b, to_port, protocol)) == hash_of(frame)


@pytest.mark.parametrize("key", [MICROSOFT_KEY, SYMMETRIC_KEY])
def test_the_next_port_that_lands_in_a_bucket(sdk: ctypes.CDLL, key: bytes) -> None:
    set_up(sdk, key)
    for i, (a, from_port, b, _, protocol) in enumerate(some()):
        one = flow(a, from_port, b, 0, protocol)
        first, last, bucket = (1024, 65535, i * 8) if i % 3 else (60_000 + i, 60_000 + 5 * i, 3)
        wanted = 0
        for one.to_port in range(first, last + 1):
            if hash_in(sdk, one) % 512 == bucket:
                wanted = one.to_port
                break
        assert sdk.port_in(ctypes.byref(one), bucket, first, last) == wanted
    one.protocol = 1  # no ports: all of them, or none
    bucket = hash_in(sdk, one) % 512
    assert sdk.port_in(ctypes.byref(one), bucket, 0, 65535) == 1
    assert sdk.port_in(ctypes.byref(one), bucket ^ 1, 0, 65535) == 0
    assert sdk.port_in(ctypes.byref(one), bucket, 65535, 65535) == 65535


def test_a_verdict_has_the_group_and_the_bucket(sdk: ctypes.CDLL) -> None:
    for group, hash_ in ((0, 0), (3, 0xFFFFFFFF), (15, 0x12345)):
        verdict = sdk.on_hash(group, ctypes.c_uint32(hash_))
        assert verdict & _abi.DPS_V_HASHES == _abi.DPS_V_HASH
        assert verdict >> _abi.DPS_V_HASH_GROUP & 15 == group and verdict % 512 == hash_ % 512
    assert sdk.on_hash(16, 0) == 0xFFFF


def quoted(frame: bytes, router: str) -> bytes:
    """An ICMP error of that router about a packet."""
    addresses = ipaddress.ip_address(router).packed + frame[26:30]
    inner = frame[14:42]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(inner), 0, 0, 64, 1, 0) + addresses
    return frame[:14] + ip + struct.pack(">BBHI", 11, 0, 0, 0) + inner


def test_the_example_brings_errors_to_their_flow(tmp_path: Path) -> None:
    plugin, capture = tmp_path / "follow_errors.so", tmp_path / "in.pcap"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-g", "-shared", "-fPIC", f"-I{WORKERS}/sdk",
         WORKERS / "examples" / "follow_errors.c", "-o", plugin],
        check=True,
    )  # fmt: skip
    there = [packet(f"10.0.{i}.1", 1000 + i, "10.9.9.9", 53, 17) for i in range(12)]
    errors = [quoted(frame, f"192.0.2.{i}") for i, frame in enumerate(there)]
    configure(SYMMETRIC_KEY, ALL)  # as `dpsup try` has it
    astray = sum(hash_of(e) % 512 != hash_of(p) % 512 for e, p in zip(errors, there, strict=True))
    assert astray > 6
    capture.write_bytes(to_bytes([*there, *errors], 1_700_000_000.0))
    done = subprocess.run(
        [Path(sys.executable).with_name("dpsup"), "try", plugin, capture, "--kill-sweep", "-o",
         "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    doc = json.loads(done.stdout)
    assert [*doc["on_hash"].values()] == [astray]
    assert sum(port["packets"] for port in doc["out"].values()) == len(there) + 12 - astray
