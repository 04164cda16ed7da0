# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a table's keys and values: how each is written, and its bytes.

A reader raises `Unreadable` with what is wrong with the word and what to write.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from dpsup.text import listing, show, suggest


class Unreadable(ValueError):
    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.message = message
        self.help = help


class Names(NamedTuple):
    """What names in a table stand for: a port's index is its place here, a group's too."""

    ports: Sequence[str] = ()
    groups: Sequence[str] = ()


NO_NAMES = Names()


class Field(NamedTuple):
    name: str  # as a table's declaration says it
    size: int
    read: Callable[[str, Names], bytes]
    write: Callable[[bytes, Names], str]
    example: str
    has_spaces: bool = False  # it is the rest of its line


_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_BYTES = {str(n): n for n in range(256)}
_LENGTHS = {str(n): n for n in range(129)}
_NO_TEXT = '""'
_V4 = re.compile(r"[0-9.]+")


def number(word: str) -> int:
    """A whole number that is not negative, decimal or 0x. Raises: Unreadable."""
    if not _NUMBER.fullmatch(word):
        raise Unreadable(f"{show(word)} is not a number", "write 0 or more, decimal or as 0x1f")
    return int(word, 0)


def mac(word: str) -> bytes:
    if not _MAC.fullmatch(word):
        raise Unreadable(f"{show(word)} is not a MAC address", "write 02:00:00:00:00:01")
    return bytes.fromhex(word.replace(":", "").replace("-", ""))


def ipv4(word: str) -> bytes:
    """Four numbers without leading zeros: what 010 means differs between programs."""
    parts = word.split(".")
    if len(parts) == 4:
        try:
            return bytes([_BYTES[part] for part in parts])
        except KeyError:
            pass  # an empty part, one above 255, or 010
    if ":" in word:
        raise Unreadable(f"{show(word)} is an IPv6 address", "an IPv4 address belongs here")
    raise Unreadable(f"{show(word)} is not an IPv4 address", "write 192.0.2.1")


def ipv6(word: str) -> bytes:
    try:
        if "%" not in word:
            return ipaddress.IPv6Address(word).packed
    except ValueError:
        pass
    if _V4.fullmatch(word):
        raise Unreadable(f"{show(word)} is an IPv4 address", "an IPv6 address belongs here")
    raise Unreadable(f"{show(word)} is not an IPv6 address", "write 2001:db8::1")


def _show_ipv4(data: bytes) -> str:
    return ".".join(map(str, data))


def _show_ipv6(data: bytes) -> str:
    return str(ipaddress.IPv6Address(data))


def _named(what: str, known: Sequence[str], word: str) -> bytes:
    if word in known:
        return known.index(word).to_bytes(2, "little")
    close = suggest(word, known)
    if word.isdecimal():  # as `_name_of` writes one that has no name
        message = f"{what} {word} has no name in this topology"
        help = f"write the name of a {what}" + (f": {listing(list(known))}" if known else "")
        raise Unreadable(message, help)
    if close:
        help = f"did you mean {show(close)}?"
    elif known:
        help = f"the {what}s are {listing(list(known))}"
    else:
        help = f"the topology has no {what}s"
    raise Unreadable(f"there is no {what} {show(word)}", help)


def _name_of(known: Sequence[str], data: bytes) -> str:
    index = int.from_bytes(data, "little")
    return known[index] if index < len(known) else str(index)


def _integer(name: str, size: int, network: bool) -> Field:
    def read(word: str, _: Names) -> bytes:
        value = number(word)
        if value >> size * 8:
            raise Unreadable(
                f"{show(word)} does not fit {size * 8} bits", f"write 0 to {(1 << size * 8) - 1}"
            )
        return value.to_bytes(size, "big" if network else "little")

    def write(data: bytes, _: Names) -> str:
        return str(int.from_bytes(data, "big" if network else "little"))

    return Field(name, size, read, write, "80")


def _hex(size: int) -> Field:
    def read(word: str, _: Names) -> bytes:
        if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", word) or len(word) != 2 * size:
            raise Unreadable(
                f"{show(word)} is not {size} bytes in hexadecimal", f"write {2 * size} digits"
            )
        return bytes.fromhex(word)

    return Field(f"hex{size}", size, read, lambda data, _: data.hex(), "00" * size)


def _text(size: int) -> Field:
    """Text in UTF-8, zero behind its end; what would end a word is written as %20."""

    def read(word: str, _: Names) -> bytes:
        data = b"" if word == _NO_TEXT else word.encode()
        data = _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), data)
        if len(data) > size or 0 in data:
            raise Unreadable(
                f"{show(word)} does not fit {size} bytes of text",
                "write fewer letters, a space as %20, and no %00",
            )
        return data.ljust(size, b"\0")

    def write(data: bytes, _: Names) -> str:
        kept = data.rstrip(b"\0")
        words = (chr(b) if 32 < b < 127 and b not in b'"#%,' else f"%{b:02x}" for b in kept)
        return "".join(words) or _NO_TEXT

    return Field(f"text{size}", size, read, write, "hello%20there")


def _words(size: int) -> Field:
    """Text with single spaces between its words: the rest of a line."""
    inner = _text(size)

    def write(data: bytes, names: Names) -> str:
        return inner.write(data, names).replace("%20", " ").replace("%2c", ",")

    return Field(f"words{size}", size, inner.read, write, "from here to there", has_spaces=True)


# What a route leads to: a record of the table `hops`, one of `ecmp`, or a word. route.c reads it.
_ECMP, _SPECIAL = 1 << 31, 0xFFFFFFF0
_WORDS = ("local", "blackhole", "unreachable", "prohibited")
_HOP = re.compile(r"(ecmp/)?(0|[1-9][0-9]{0,9})")
_HOP_HELP = (
    "write 3 for a next hop, ecmp/3 for several, local, blackhole, unreachable or prohibited"
)
_WAY = re.compile(r"(0|[1-9][0-9]{0,9})(?:\*([1-9][0-9]{0,3}))?")
_SLOTS = 16  # of a record of `ecmp`: a flow has one of them


def _hop(word: str, _: Names) -> bytes:
    if word in _WORDS:
        return (_SPECIAL + _WORDS.index(word)).to_bytes(4, "little")
    found = _HOP.fullmatch(word)
    if found is None:
        close = suggest(word, _WORDS)
        raise Unreadable(
            f"{show(word)} is no next hop", f"did you mean {close}?" if close else _HOP_HELP
        )
    index, base = int(found[2]), _ECMP if found[1] else 0
    if index >= _ECMP:
        raise Unreadable(f"{show(word)} is too large a number", _HOP_HELP)
    return (base + index).to_bytes(4, "little")


def _show_hop(data: bytes, _: Names) -> str:
    value = int.from_bytes(data, "little")
    if 0 <= value - _SPECIAL < len(_WORDS):
        return _WORDS[value - _SPECIAL]
    return f"ecmp/{value - _ECMP}" if value >= _ECMP else str(value)


def _ways(word: str, _: Names) -> bytes:
    """ "3*2+4": of three flows two by next hop 3. Each gets of the slots what its weight is, and at
    least one."""
    found = [_WAY.fullmatch(part) for part in word.split("+")]
    if not all(found) or len(found) > _SLOTS:
        raise Unreadable(
            f"{show(word)} does not say how flows are spread",
            f"write 3+4, or 3*2+4 for twice as many by 3; at most {_SLOTS}",
        )
    ways = [(int(one[1]), int(one[2] or 1)) for one in found if one]
    if max(hop for hop, _ in ways) >= 1 << 32:
        raise Unreadable(f"{show(word)} names too large a number", f"write 0 to {(1 << 32) - 1}")
    total = sum(weight for _, weight in ways)
    shares = [max(1, _SLOTS * weight // total) for _, weight in ways]
    while (rest := _SLOTS - sum(shares)) != 0:
        # The one that is furthest from its share gets one more, or gives one.
        off = [_SLOTS * w / total - share for (_, w), share in zip(ways, shares, strict=True)]
        able = [i for i, share in enumerate(shares) if rest > 0 or share > 1]
        one = max(able, key=lambda i: off[i] if rest > 0 else -off[i])
        shares[one] += 1 if rest > 0 else -1
    return b"".join(
        hop.to_bytes(4, "little") * share for (hop, _), share in zip(ways, shares, strict=True)
    )


def _show_ways(data: bytes, _: Names) -> str:
    slots = (int.from_bytes(data[i : i + 4], "little") for i in range(0, 4 * _SLOTS, 4))
    runs = [(hop, len(list(run))) for hop, run in groupby(slots)]
    common = math.gcd(*(length for _, length in runs))
    weights = ((hop, length // common) for hop, length in runs)
    return "+".join(f"{hop}*{weight}" if weight > 1 else str(hop) for hop, weight in weights)


FIELDS = {
    field.name: field
    for field in (
        *(_integer(f"u{8 * n}", n, network=False) for n in (1, 2, 4, 8)),
        *(_integer(f"be{8 * n}", n, network=True) for n in (2, 4, 8)),
        Field("mac", 6, lambda w, _: mac(w), lambda d, _: d.hex(":"), "02:00:00:00:00:01"),
        Field("ipv4", 4, lambda w, _: ipv4(w), lambda d, _: _show_ipv4(d), "192.0.2.1"),
        Field("ipv6", 16, lambda w, _: ipv6(w), lambda d, _: _show_ipv6(d), "2001:db8::1"),
        Field(
            "port",
            2,
            lambda w, names: _named("port", names.ports, w),
            lambda d, names: _name_of(names.ports, d),
            "wan",
        ),
        Field(
            "group",
            2,
            lambda w, names: _named("group", names.groups, w),
            lambda d, names: _name_of(names.groups, d),
            "fw",
        ),
        Field("hop", 4, _hop, _show_hop, "3"),
        Field("ways", 4 * _SLOTS, _ways, _show_ways, "3*2+4"),
    )
}


def field(name: str) -> Field:
    """ "mac", "be16", "hex24": the field of that name. Raises: Unreadable."""
    if name in FIELDS:
        return FIELDS[name]
    if (m := re.fullmatch(r"hex([1-9][0-9]{0,4})", name)) and int(m[1]) <= 65536:
        return _hex(int(m[1]))
    if (m := re.fullmatch(r"text([1-9][0-9]{0,4})", name)) and int(m[1]) <= 65536:
        return _text(int(m[1]))
    if (m := re.fullmatch(r"words([1-9][0-9]{0,4})", name)) and int(m[1]) <= 65536:
        return _words(int(m[1]))
    close = suggest(name, FIELDS)
    raise Unreadable(
        f"there is no type {show(name)}",
        f"did you mean {close}?"
        if close
        else f"the types are {', '.join(FIELDS)}, hexN, textN, wordsN",
    )


def prefix(word: str, bits: int) -> tuple[bytes, int]:
    """ "10.0.0.0/8", an address alone, or "default": its bytes and length. Raises: Unreadable."""
    if word == "default":
        return bytes(bits // 8), 0
    address, slash, size = word.partition("/")
    data = ipv4(address) if bits == 32 else ipv6(address)
    if not slash:
        return data, bits
    length = _LENGTHS.get(size, -1)
    if not 0 <= length <= bits:
        raise Unreadable(f"{show('/' + size)} is no prefix length", f"write /0 to /{bits}")
    whole = int.from_bytes(data, "big")
    if rest := whole & (1 << bits - length) - 1:
        kept = whole - rest
        network = kept.to_bytes(bits // 8, "big")
        raise Unreadable(
            f"{show(word)} has bits set behind its length", f"write {show_prefix(network, length)}"
        )
    return data, length


def show_prefix(data: bytes, length: int) -> str:
    return f"{_show_ipv4(data) if len(data) == 4 else _show_ipv6(data)}/{length}"
