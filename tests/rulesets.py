# SPDX-License-Identifier: BSD-3-Clause
"""Random rules for `acl`, shaped as those of ClassBench (Taylor and Turner, INFOCOM 2005): access
lists, firewalls with many wildcards, address pairs, and one of whatever a rule can say."""

from __future__ import annotations

import random
from collections.abc import Callable

_PORTS = ("80", "443", "53", "22", "25", "8080", "1024-65535", "0-1023", "5060-5061", "6000-6063")
_LETTERS = "FSRPAU"


def _v4(r: random.Random, lengths: tuple[int, ...]) -> str:
    length = r.choice(lengths)
    if not length:
        return "any"
    # Few networks, so that prefixes lie in others.
    address = r.choice((10 << 24, 172 << 24 | 16 << 16, 192 << 24 | 168 << 16, 203 << 24))
    address += r.getrandbits(18) << 2 | r.getrandbits(4)
    address &= -1 << (32 - length)
    return ".".join(str(address >> s & 255) for s in (24, 16, 8, 0)) + f"/{length}"


def _v6(r: random.Random, lengths: tuple[int, ...]) -> str:
    length = r.choice(lengths)
    if not length:
        return "any"
    address = 0x20010DB8 << 96 | r.getrandbits(9) << 80 | r.getrandbits(4) << 64 | r.getrandbits(7)
    address &= -1 << (128 - length)
    return ":".join(f"{address >> s & 0xFFFF:x}" for s in range(112, -1, -16)) + f"/{length}"


def access(r: random.Random) -> str:
    """Long destinations with a service."""
    proto = r.choice(("tcp", "tcp", "udp"))
    source, target = _v4(r, (0, 0, 16, 24, 28)), _v4(r, (24, 28, 30, 32, 32, 32))
    return f"{_action(r)} {proto} from {source} to {target} port {r.choice(_PORTS)}"


def firewall(r: random.Random) -> str:
    """Many wildcards, ranges on both sides."""
    proto = r.choice(("tcp", "udp"))
    source, target = _v4(r, (0, 0, 8, 16, 24, 32)), _v4(r, (0, 0, 16, 24, 32))
    sport = f" port {r.choice(_PORTS)}" if r.random() < 0.3 else ""
    dport = f" port {_range(r)}" if r.random() < 0.8 else ""
    return f"{_action(r)} {proto} from {source}{sport} to {target}{dport}"


def pairs(r: random.Random) -> str:
    return f"{_action(r)} from {_v4(r, (16, 24, 28, 32))} to {_v4(r, (16, 24, 28, 32))}"


def sixes(r: random.Random) -> str:
    source, target = _v6(r, (0, 32, 48, 64, 128)), _v6(r, (0, 48, 56, 64, 128))
    if r.random() < 0.5:
        return f"{_action(r)} from {source} to {target}"
    return f"{_action(r)} tcp from {source} to {target} port {r.choice(_PORTS)}"


def anything(r: random.Random) -> str:
    """Whatever a rule can say, of both IP versions and none."""
    words = [_action(r)]
    make: Callable[[random.Random, tuple[int, ...]], str] = r.choice((_v4, _v6))
    lengths = (0, 8, 24, 32) if make is _v4 else (0, 32, 64, 128)
    icmp = "icmp" if make is _v4 else "icmpv6"
    proto = r.choice(("", "tcp", "udp", "sctp", icmp, "protocol 47"))
    words += [proto] if proto else []
    for side in ("from", "to"):
        if r.random() < 0.7:
            words += [side, make(r, lengths)]
            if proto in ("tcp", "udp", "sctp") and r.random() < 0.5:
                words += ["port", _range(r)]
    if proto == icmp and r.random() < 0.7:
        words += ["type", r.choice(("8", "0", "3", "128-137"))]
    if proto == "tcp" and r.random() < 0.3:
        of = "".join(r.sample(_LETTERS, 2))
        words += ["flags", f"{of[: r.randrange(3)]}/{of}"]
    elif r.random() < 0.1:
        words += ["fragment"]
    if r.random() < 0.3:
        words += ["vlan", r.choice(("none", "7", "100-200"))]
    if r.random() < 0.3:
        words += ["in", r.choice(("wan", "lan", "dmz"))]
    if r.random() < 0.2:
        words += ["dscp", r.choice(("0", "46"))]
    return " ".join(words)


KINDS = {f.__name__: f for f in (access, firewall, pairs, sixes, anything)}


def rules(kind: str, n: int, seed: int) -> list[str]:
    """None of them fits all packets of its IP version."""
    r = random.Random(seed)
    made: list[str] = []
    while len(made) < n:
        rule = KINDS[kind](r)
        if len(rule.replace(" from any", "").replace(" to any", "").split()) > 1:
            made.append(rule)
    return made


def _action(r: random.Random) -> str:
    return r.choice(("permit", "permit", "deny", "reject"))


def _range(r: random.Random) -> str:
    low = r.randrange(65536)
    return r.choice((*_PORTS, str(low), f"{low}-{r.randrange(low, 65536)}"))
