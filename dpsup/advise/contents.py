# SPDX-License-Identifier: BSD-3-Clause
"""What most packets of a worker are that has more than its share: a tunnel, one flow. Pure.

A tunnel's outer headers are few flows, so its packets come to few workers. Where `rss.inner` looks
into that tunnel, the flows inside are spread instead.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass

from dpsup.packets import tunnels
from dpsup.packets.decode import one_line

MOST = 0.5  # of the packets: what more than this share is, is what the worker has

_VLANS = (0x8100, 0x88A8, 0x9100)
_MPLS = (0x8847, 0x8848)
_LABELS = 8
_PPPOE = 0x8864
_TYPES = {0x8847: "MPLS", 0x8848: "MPLS", 0x8863: "PPPoE", 0x8864: "PPPoE"}
_IP = {4: 0x0800, 6: 0x86DD}  # by the first nibble
_TUNNELS = {4: "IPIP", 41: "6in4", 50: "ESP", 51: "AH", 94: "IPIP", 97: "EtherIP", 115: "L2TP"}
_UDP = {6081: ("Geneve", "geneve"), 2152: ("GTP-U", "gtpu"),
        4754: ("GRE in UDP", ""), 6635: ("MPLS in UDP", ""),
        1701: ("L2TP", ""), 4500: ("ESP in UDP", "")}  # fmt: skip
_VXLAN = (tunnels.VXLAN_PORT, 8472)  # IANA's, and Linux' before it
_EXTENSIONS = (0, 43, 60)


@dataclass(frozen=True, slots=True)
class Content:
    """What a packet is: `key` is its tunnel in `rss.inner`, "": there is none."""

    name: str
    key: str
    flow: bytes  # of the headers that are hashed without rss.inner
    inner: bytes  # what tells flows inside of the tunnel apart


def content(frame: bytes) -> Content:
    """What an Ethernet frame is, told from it or from its first bytes."""
    if len(frame) < 14:
        return Content("too short for Ethernet", "", frame, b"")
    kind, at = struct.unpack_from(">H", frame, 12)[0], 14
    while kind in _VLANS and len(frame) >= at + 4:
        kind = struct.unpack_from(">H", frame, at + 2)[0]
        at += 4
    ip = frame[at:]
    if kind == 0x0800 and len(ip) >= 20 and ip[0] >> 4 == 4:
        size = (ip[0] & 15) * 4
        cut = struct.unpack_from(">H", ip, 6)[0] & 0x3FFF
        return _over(ip[9], ip[12:20], ip[size:], bool(cut))
    if kind == 0x86DD and len(ip) >= 40:
        proto, at = ip[6], 40
        while proto in _EXTENSIONS and len(ip) >= at + 8:
            proto, at = ip[at], at + 8 + ip[at + 1] * 8
        return _over(proto, ip[8:40], ip[at:], proto == 44)
    name = _TYPES.get(kind, "802.3" if kind < 0x600 else f"EtherType {kind:#06x}")
    key, inside = _below(kind, ip)
    return Content(name, key, frame[0:14], inside if key else ip)


def _below(kind: int, rest: bytes) -> tuple[str, bytes]:
    """The key, "": it cannot be looked into, and the flow inside of what lies below IP."""
    if kind in _MPLS:
        for at in range(0, min(len(rest) - 4, 4 * _LABELS), 4):
            if rest[at + 2] & 1:
                return _labelled(rest[at + 4 :])
    if kind == _PPPOE and rest[0:2] == b"\x11\0" and rest[6:8] in (b"\0\x21", b"\0\x57"):
        return "pppoe", _tuple(rest[8:], 0x0800)
    return "", b""


def _labelled(rest: bytes) -> tuple[str, bytes]:
    """Behind MPLS' labels: IP, or a control word and Ethernet with IP in it."""
    if rest[0] >> 4 == 0 and _is_ethernet(rest[4:], ip=True):
        return "mpls", content(rest[4:]).flow
    return ("mpls", _tuple(rest, 0x0800)) if rest[0] >> 4 in _IP else ("", b"")


def _is_ethernet(data: bytes, *, ip: bool = False) -> bool:
    """Whether it may be a frame: with IP whose version is its EtherType's, ARP or a tag."""
    if len(data) < 15:
        return False
    kind = struct.unpack_from(">H", data, 12)[0]
    if kind in (0x0800, 0x86DD):
        return bool(_IP.get(data[14] >> 4) == kind)
    return not ip and kind in (0x0806, *_VLANS)


def _over(proto: int, ends: bytes, rest: bytes, cut: bool) -> Content:
    if cut:
        return Content("fragments", "", ends, b"")
    if proto == 47 and len(rest) >= 4:
        return _gre(ends, rest)
    if proto in (4, 41) and rest and rest[0] >> 4 == (4 if proto == 4 else 6):
        return Content(_TUNNELS[proto], "ipip", ends, _tuple(rest, 0x0800))
    if proto in _TUNNELS:
        return Content(_TUNNELS[proto], "", ends, rest[0:40])
    if proto == 17 and len(rest) >= 8:
        port = struct.unpack_from(">H", rest, 2)[0]
        name, key = _UDP.get(port, ("", ""))
        if not name and _is_vxlan(port, rest[8:]):
            name = "VXLAN" if port == tunnels.VXLAN_PORT else f"VXLAN on port {port}"
            key = tunnels.vxlan(port)
        if name:
            return Content(name, key, ends + rest[0:4], _inside(key, rest[8:]))
    ports = rest[0:4] if proto in (6, 17, 132) else b""
    return Content("", "", ends + bytes([proto]) + ports, b"")


def _gre(ends: bytes, rest: bytes) -> Content:
    flags, type_ = struct.unpack_from(">HH", rest)
    if flags & 7:
        return Content("PPTP", "", ends, b"")
    size = 4 + 4 * sum(flags >> bit & 1 for bit in (15, 13, 12))
    if type_ in (0x88BE, 0x22EB):
        frame = _mirrored(type_, bool(flags & 0x1000), rest[size:])
        return Content("ERSPAN", "erspan" if frame else "", ends, content(frame).flow)
    known = type_ in (0x0800, 0x86DD, 0x6558)
    return Content("GRE", "gre" if known else "", ends, _tuple(rest[size:], type_))


def _mirrored(type_: int, sequence: bool, rest: bytes) -> bytes:
    """The frame in ERSPAN of type I, II or III; empty: there is none."""
    if type_ == 0x88BE:
        if not sequence:
            return rest
        return rest[8:] if rest and rest[0] >> 4 == 1 else b""
    if len(rest) < 12 or rest[0] >> 4 != 2 or rest[10] & 0x7C:
        return b""
    return rest[20 if rest[11] & 1 else 12 :]


def _is_vxlan(port: int, data: bytes) -> bool:
    """Whether it is what io cores look into: the I flag and a frame; on a port that is not
    known for VXLAN also zeros where they are reserved (RFC 7348)."""
    if len(data) < 8 or not data[0] & 8 or not _is_ethernet(data[8:]):
        return False
    return port in _VXLAN or (data[0:4] == b"\x08\0\0\0" and data[7] == 0)


def _inside(key: str, rest: bytes) -> bytes:
    """What tells the flows in a tunnel over UDP apart."""
    if tunnels.kind(key) == "vxlan":
        return _tuple(rest[8:], 0x6558)
    if key == "geneve" and len(rest) >= 8:
        size, type_ = 8 + (rest[0] & 0x3F) * 4, struct.unpack_from(">H", rest, 2)[0]
        return _tuple(rest[size:], type_)
    if key == "gtpu" and rest:
        size = 12 if rest[0] & 7 else 8
        return _tuple(rest[size:], 0x0800)
    return b""


def _tuple(data: bytes, type_: int) -> bytes:
    if type_ == 0x6558:
        return content(data).flow
    ether = 0x86DD if data and data[0] >> 4 == 6 else 0x0800
    return content(bytes(12) + struct.pack(">H", ether) + data).flow


@dataclass(frozen=True, slots=True)
class Contents:
    """What most of a sample is."""

    what: str  # "GRE", "one flow, 10.0.0.1:5 > 10.0.0.2:6 UDP"
    share: float  # of the packets
    key: str  # in rss.inner, "": none
    spread: tuple[float, ...]  # shares of the flows inside, the largest first
    packets: int


def most(frames: list[bytes]) -> Contents | None:
    """What more than half of the packets have in common; None: nothing that is known."""
    found = [content(frame) for frame in frames]
    if not found:
        return None
    (name, key), n = Counter((one.name, one.key) for one in found).most_common(1)[0]
    if name and n > MOST * len(found):
        inside = Counter(one.inner for one in found if (one.name, one.key) == (name, key))
        spread = tuple(count / n for _, count in inside.most_common())
        return Contents(name, n / len(found), key, spread, len(found))
    flow, n = Counter(one.flow for one in found).most_common(1)[0]
    if n > MOST * len(found):
        first = next(f for f, one in zip(frames, found, strict=True) if one.flow == flow)
        return Contents(f"one flow, {one_line(first)}", n / len(found), "", (), len(found))
    return None


def imbalance(shares: tuple[float, ...], part: float, workers: int) -> float:
    """The busiest worker's load over the mean once the flows of `part` of the group's packets are
    spread by a hash, and the others are even."""
    have = [(1 - part) / workers] * workers
    for i, share in enumerate(shares):
        have[zlib.crc32(struct.pack("<I", i)) % workers] += share * part
    return max(have) * workers
