# SPDX-License-Identifier: BSD-3-Clause
"""The header's checksums against a plain model, over random packets in random segments; as C and as
C++."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

SDK = Path(__file__).resolve().parents[2] / "workers" / "sdk"
MOST = 8  # segments

# The worker's part is a list of segments here.
SOURCE = """
#include <dpsup_plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

struct piece { uint8_t *bytes; uint32_t len; };
static const struct piece *pieces;
static uint32_t n_pieces;

uint32_t
dps_next_segment(const struct dps_packet *packet, const void **segment, const uint8_t **bytes)
{
	const struct piece *p = (const struct piece *)*segment;

	(void)packet;
	p = p == NULL ? pieces + 1 : p + 1;
	if (p >= pieces + n_pieces)
		return 0;
	*segment = p;
	*bytes = p->bytes;
	return p->len;
}

int
l4(const struct piece *all, uint32_t n, uint32_t ip_at, uint16_t *value)
{
	struct dps_packet packet;

	memset(&packet, 0, sizeof(packet));
	pieces = all;
	n_pieces = n;
	packet.data = all[0].bytes;
	packet.len = all[0].len;
	for (uint32_t i = 0; i < n; i++)
		packet.total += all[i].len;
	return dps_l4_sum(&packet, ip_at, value);
}

uint16_t whole(const void *p, uint32_t len) { return dps_sum_end(dps_sum(0, p, len)); }
uint16_t header(const void *p) { return dps_ipv4_sum(p); }
uint16_t changed(uint16_t sum, const void *was, const void *is, uint32_t len)
{
	return dps_sum_changed(sum, was, is, len);
}
uint16_t udp(uint16_t sum, const void *was, const void *is, uint32_t len)
{
	return dps_sum_udp(sum, was, is, len);
}

#ifdef __cplusplus
}
#endif
"""


class Piece(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char_p), ("len", ctypes.c_uint32)]


@pytest.fixture(scope="module", params=[("cc", "c", "c99"), ("c++", "cpp", "c++11")])
def sums(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    cc, suffix, std = request.param
    if shutil.which(cc) is None:
        pytest.skip(f"no {cc}")
    folder = tmp_path_factory.mktemp("sums")
    (folder / f"sums.{suffix}").write_text(SOURCE)
    subprocess.run(
        [cc, f"-std={std}", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared",
         "-fPIC", f"-I{SDK}", f"sums.{suffix}", "-o", "sums.so"],
        cwd=folder, check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(folder / "sums.so"))


def model(data: bytes) -> int:
    """RFC 1071 in its own words: the complement of the one's complement sum of 16-bit words."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def wire(value: int) -> int:
    """A value as C has it, in the order of bytes of packets."""
    return int.from_bytes((value & 0xFFFF).to_bytes(2, "little"), "big")


def test_the_model_knows_the_example_of_the_rfc() -> None:
    assert model(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(max_size=120))
def test_any_bytes(sums: ctypes.CDLL, data: bytes) -> None:
    assert wire(sums.whole(data, len(data))) == model(data)


@given(st.binary(min_size=20, max_size=60), st.data())
def test_what_changed_alone(sums: ctypes.CDLL, data: bytes, draw: st.DataObject) -> None:
    """RFC 1624: the same as anew, in each place, also where the sum is 0xffff."""
    at = draw.draw(st.integers(0, (len(data) - 2) // 2)) * 2
    size = draw.draw(st.integers(1, (len(data) - at) // 2)) * 2
    fields = st.binary(min_size=size, max_size=size)
    new = draw.draw(st.one_of(fields, st.just(b"\xff" * size), st.just(bytes(size))))
    after = data[:at] + new + data[at + size :]
    if not any(data) or not any(after):
        return  # all zeros: 0xffff and 0 are the same number, and no header is that
    before = sums.whole(data, len(data))
    now = sums.changed(before & 0xFFFF, data[at : at + size], new, size)
    assert wire(now) == model(after)
    assert sums.udp(0, data[at : at + size], new, size) == 0
    wanted = (model(after) or 0xFFFF) if before & 0xFFFF else 0
    assert wire(sums.udp(before & 0xFFFF, data[at : at + size], new, size)) == wanted


@given(st.binary(min_size=60, max_size=60), st.integers(5, 15))
def test_an_ipv4_header(sums: ctypes.CDLL, data: bytes, words: int) -> None:
    header = bytearray(data[: words * 4])
    header[0] = 0x40 | words
    value = wire(sums.header(bytes(header)))
    header[10:12] = bytes(2)
    assert value == model(bytes(header))


TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIELD = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}


def frame(version: int, protocol: int, l4: bytes, addresses: bytes, options: int) -> bytes:
    """Ethernet, IP with so many words of options (or a header of them), the rest."""
    if version == 4:
        size = 20 + options * 4
        head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(l4), 1, 0, 64, protocol, 0)
        return bytes(14) + head + addresses[:8] + bytes(options * 4) + l4
    first, more = protocol, b""
    if options:
        first, more = 60, bytes([protocol, options - 1]) + bytes(options * 8 - 2)
    head = struct.pack(">IHBB", 6 << 28, len(more) + len(l4), first, 64)
    return bytes(14) + head + addresses[:32] + more + l4


def l4_model(version: int, protocol: int, l4: bytes, addresses: bytes) -> int:
    at = FIELD[protocol]
    length = int.from_bytes(l4[4:6], "big") if protocol == UDP else len(l4)
    clear = (l4[:at] + bytes(2) + l4[at + 2 :])[:length]
    pseudo = addresses[: 8 if version == 4 else 32] + struct.pack(">II", length, protocol)
    value = model((b"" if protocol == ICMP else pseudo) + clear)
    return 0xFFFF if protocol == UDP and value == 0 else value


def ask(sums: ctypes.CDLL, data: bytes, cuts: list[int], ip_at: int = 14) -> tuple[int, int]:
    """Where it stands and what it must be, of a packet in pieces."""
    ends = [*sorted({c for c in cuts if 0 < c < len(data)})[: MOST - 1], len(data)]
    parts = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    pieces = (Piece * len(parts))(*[(p, len(p)) for p in parts])
    value = ctypes.c_uint16()
    at = sums.l4(pieces, len(parts), ip_at, ctypes.byref(value))
    return at, wire(value.value)


@given(
    st.sampled_from([(4, TCP), (4, UDP), (4, ICMP), (6, TCP), (6, UDP), (6, ICMP6)]),
    st.binary(min_size=20, max_size=200),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 3),
    st.lists(st.integers(0, 300), max_size=MOST - 1),
    st.binary(max_size=9),
)
def test_tcp_udp_and_icmp_over_segments(
    sums: ctypes.CDLL,
    kind: tuple[int, int],
    l4: bytes,
    addresses: bytes,
    options: int,
    cuts: list[int],
    padding: bytes,
) -> None:
    version, protocol = kind
    if protocol == UDP:
        l4 = l4[:4] + struct.pack(">H", len(l4)) + l4[6:]
    data = frame(version, protocol, l4, addresses, options) + padding
    start = len(data) - len(padding) - len(l4)
    field = start + FIELD[protocol]
    cuts = [c + field + 2 for c in cuts]  # headers lie in the first segment
    assert ask(sums, data, cuts) == (field, l4_model(version, protocol, l4, addresses))
    # Right ones are found right, and the sum does not depend on what stands there.
    at, value = ask(sums, data, cuts)
    right = data[:at] + value.to_bytes(2, "big") + data[at + 2 :]
    assert ask(sums, right, cuts) == (at, value)
    # A byte too few.
    if not padding:
        assert ask(sums, data[:-1], cuts)[0] == -1
    if version == 4:
        for bits in (b"\x20\0", b"\0\1"):
            assert ask(sums, data[:20] + bits + data[22:], cuts)[0] == -1


@given(st.binary(max_size=120), st.integers(0, 130), st.lists(st.integers(0, 120), max_size=5))
def test_no_packet_is_too_odd(sums: ctypes.CDLL, data: bytes, ip_at: int, cuts: list[int]) -> None:
    if data:
        ask(sums, data, cuts, ip_at)
        ask(sums, b"\x45\0\0\x30" + data, cuts, 0)
        ask(sums, b"\x60\0\0\0\0\x30\0\x40" + data, cuts, 0)
