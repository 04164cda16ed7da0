# SPDX-License-Identifier: BSD-3-Clause
"""A flow that a person writes, and a frame of it. Pure.

What `dpsup capture` prints of a packet (packets.decode) is understood, so that it may be pasted.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dpsup.errors import UsageError
from dpsup.text import suggest

TCP, UDP, SCTP = 6, 17, 132
WITH_PORTS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "ipv4": 4, "tcp": TCP, "udp": UDP, "ipv6": 41, "gre": 47,
    "esp": 50, "ah": 51, "icmpv6": 58, "icmp6": 58, "ospf": 89, "pim": 103, "vrrp": 112,
    "sctp": SCTP,
}  # fmt: skip
TYPES = {
    "arp": 0x0806, "mpls": 0x8847, "lldp": 0x88CC, "pppoe": 0x8864, "ipv4": 0x0800,
    "ipv6": 0x86DD, "802.3": 0,
}  # fmt: skip
_ICMP, _ICMPV6, _NO_PORTS = 1, 58, 253  # the last one is for experiments (RFC 3692)
_TAGS_MOST = 4  # that hash.c looks behind
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_ENDPOINT = re.compile(
    r"\[(?P<six>[^\]]*)\](?::(?P<six_port>\w+))?"
    r"|(?P<four>\d+\.\d+\.\d+\.\d+)(?:[:.](?P<four_port>\w+))?"
    r"|(?P<bare>[0-9a-f:.]*:[0-9a-f:.]*)"
)
_FLAGS = re.compile(r"[FSRPAUEC]+|-")  # of TCP, as `dpsup capture` prints them
EXAMPLES = (
    'write it as "10.0.0.1:1234 > 10.0.0.2:80 tcp", "[2001:db8::1]:53 > [2001:db8::2]:53 udp", '
    '"10.0.0.1 > 10.0.0.2 icmp" or "10.0.0.1 > 10.0.0.2 udp fragment"'
)


@dataclass(frozen=True, slots=True)
class Flow:
    source: bytes  # an address of IPv4 or IPv6, or of Ethernet
    target: bytes
    ports: tuple[int, int] | None = None
    protocol: int | None = None  # of IP; None: not named
    fragment: bool = False
    type: int | None = None  # the EtherType of what is no IP packet
    tags: tuple[int, ...] = ()  # of VLANs

    @property
    def version(self) -> int:
        """4 or 6; 0: no IP."""
        return {4: 4, 16: 6}.get(len(self.source), 0)

    def __str__(self) -> str:
        tags = "".join(f"vlan {tag} " for tag in self.tags)
        if not self.version:
            kind = next((k for k, n in TYPES.items() if n == self.type), f"type {self.type:#06x}")
            return f"{tags}{self.source.hex(':')} > {self.target.hex(':')} {kind}"
        of = IPv4Address if self.version == 4 else IPv6Address
        ends = [str(of(end)) for end in (self.source, self.target)]
        if self.ports is not None:
            form = "{}:{}" if self.version == 4 else "[{}]:{}"
            ends = [form.format(*one) for one in zip(ends, self.ports, strict=True)]
        names = {n: name for name, n in reversed(PROTOCOLS.items())}
        kind = ""
        if self.protocol is not None:
            kind = f" {names.get(self.protocol, f'protocol {self.protocol}')}"
        return f"{tags}{ends[0]} > {ends[1]}{kind}{' fragment' if self.fragment else ''}"


def _wrong(why: str, help: str = EXAMPLES) -> UsageError:
    return UsageError(f"not a flow: {why}", code="E0761", help=help)


def parse(text: str) -> Flow:
    """Raises: UsageError, which says what is wrong with it."""
    words = text.replace("->", ">").replace(">", " > ").replace(",", " ").split()
    tags: list[int] = []
    while words and words[0].lower() == "vlan":
        tags.append(_number(words[1] if len(words) > 1 else "", 4095, "the number of a VLAN"))
        words = words[2:]
    if len(tags) > _TAGS_MOST:
        raise _wrong(
            f"a frame with more than {_TAGS_MOST} VLAN tags is steered as one that is not IP"
        )
    if len(words) < 3 or words[1] != ">":
        said = "it is empty" if not words else f'no "source > destination" in "{text.strip()}"'
        raise _wrong(said)
    source, target = words[0].lower(), words[2].lower()
    if _MAC.fullmatch(source) or _MAC.fullmatch(target):
        return _ethernet(source, target, words[3:], tuple(tags))
    a, p = _endpoint(source)
    b, q = _endpoint(target)
    if len(a) != len(b):
        raise _wrong(f"{source} and {target} are not of the same version of IP")
    if (p is None) != (q is None):
        raise _wrong(f"{source if p is None else target} has no port, and the other end has one")
    ports = (p, q) if p is not None and q is not None else None
    protocol, fragment = _kind(words[3:], six=len(a) == 16)
    if ports is not None and protocol is not None and protocol not in WITH_PORTS:
        raise _wrong(f"{words[3]} has no ports")
    return Flow(a, b, ports, protocol, fragment, tags=tuple(tags))


def _number(word: str, most: int, what: str) -> int:
    try:
        found = int(word, 0) if re.fullmatch(r"\d+|0x[0-9a-f]+", word.lower()) else -1
    except ValueError:  # 010
        found = -1
    if not 0 <= found <= most:
        raise _wrong(f'"{word}" is not {what}: 0 to {most} is wanted')
    return found


def _endpoint(word: str) -> tuple[bytes, int | None]:
    found = _ENDPOINT.fullmatch(word)
    if found is None:
        raise _wrong(f'"{word}" is not an address, with or without a port')
    address = found["six"] or found["four"] or found["bare"] or ""
    port = found["six_port"] or found["four_port"]
    try:
        packed = (IPv4Address if found["four"] else IPv6Address)(address).packed
    except ValueError as e:
        more = " (an address of IPv6 with a port has brackets: [2001:db8::1]:80)" if not found[
            "four"
        ] else ""  # fmt: skip
        raise _wrong(f'"{word}" is not an address: {e}{more}') from None
    return packed, None if port is None else _number(port, 65535, "a port")


def _kind(words: list[str], *, six: bool) -> tuple[int | None, bool]:
    """The protocol, and whether it is a fragment."""
    protocol, fragment = None, False
    rest = list(words)
    if rest and rest[0].lower() in ("protocol", "proto"):
        protocol = _number(rest[1] if len(rest) > 1 else "", 255, "the number of a protocol")
        rest = rest[2:]
    elif rest and rest[0].lower() not in ("fragment", "frag"):
        word = rest.pop(0).lower().rstrip(":")
        if word.isdigit():
            protocol = _number(word, 255, "the number of a protocol")
        elif word in PROTOCOLS:
            protocol = PROTOCOLS[word]
        else:
            close = suggest(word, tuple(PROTOCOLS))
            known = f'did you mean "{close}"?' if close else "known are " + ", ".join(PROTOCOLS)
            raise _wrong(f'"{word}" is not a protocol', f"{known}, and numbers: protocol 99")
    if protocol in (_ICMP, _ICMPV6):
        protocol = _ICMPV6 if six else _ICMP
    if protocol == TCP and rest and _FLAGS.fullmatch(rest[0]):
        rest.pop(0)
    if rest and rest[0].lower() in ("fragment", "frag"):
        fragment = True
        rest = rest[3:] if rest[1:2] == ["at"] else rest[1:]
    if rest:
        raise _wrong(f'"{" ".join(rest)}" is one word too many' if len(rest) == 1 else
                     f'"{" ".join(rest)}" is not understood')  # fmt: skip
    return protocol, fragment


def _ethernet(source: str, target: str, words: list[str], tags: tuple[int, ...]) -> Flow:
    for one in (source, target):
        if not _MAC.fullmatch(one):
            raise _wrong(f'"{one}" is not a MAC address, as the other end is')
    ends = (bytes.fromhex(source.replace(":", "")), bytes.fromhex(target.replace(":", "")))
    if words and words[0].lower() == "type":
        words = words[1:]
    if len(words) != 1:
        raise _wrong(
            "between MAC addresses the EtherType counts too",
            f'write it as "{source} > {target} arp" or "... type 0x88b5"; known are '
            + ", ".join(TYPES),
        )
    word = words[0].lower()
    kind = TYPES[word] if word in TYPES else _number(word, 0xFFFF, "an EtherType")
    return Flow(*ends, type=kind, tags=tags)


def frame(flow: Flow) -> bytes:
    """A frame of that flow, with no more in it than its hash may depend on. A protocol that is not
    named is one without ports, or TCP."""
    tags = b"".join(struct.pack(">HH", 0x8100, tag) for tag in flow.tags)
    if not flow.version:
        head = flow.target + flow.source + tags + struct.pack(">H", flow.type or 0)
        return head + bytes(46)
    protocol = flow.protocol
    if protocol is None:
        protocol = _NO_PORTS if flow.ports is None else TCP
    body = struct.pack(">HH", *(flow.ports or (0, 0))) + bytes(16)
    if flow.version == 4:
        bits = 0x2000 if flow.fragment else 0
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, bits, 64, protocol, 0)
        type_ = 0x0800
    else:
        if flow.fragment:
            body, protocol = struct.pack(">BBHI", protocol, 0, 1, 0) + body, 44
        ip = struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
        type_ = 0x86DD
    ethernet = bytes(12) + tags + struct.pack(">H", type_)
    return ethernet + ip + flow.source + flow.target + body
