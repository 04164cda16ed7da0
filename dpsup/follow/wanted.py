# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel's state makes of the tables of `route`, and which batches lead there.

Tables are dictionaries of text, as their files have it. A change is made before it is used: next
hops are added, then routes changed, then next hops removed. So a packet finds at every moment a
route and its next hop, as they were or as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from dpsup.follow import kernel
from dpsup.follow.kernel import Neighbours, Prefix, Route, Routes
from dpsup.tables.fields import FIELDS, NO_NAMES, show_prefix

Text = dict[str, str]
Tables = dict[str, Text]

ON_LINK = "00:00:00:00:00:00"
MOST_WAYS = 16  # of an `ecmp` record
TO_KERNEL = "local"
_KINDS = {
    kernel.BLACKHOLE: "blackhole", kernel.UNREACHABLE: "unreachable",
    kernel.PROHIBIT: "prohibited", kernel.THROW: "unreachable",
}  # fmt: skip

Way = tuple[str, bytes]  # port, and the next router's address; none: on the link
Ways = tuple[tuple[Way, int], ...]


class State(NamedTuple):
    ports: dict[int, str]  # by the index of their TAPs
    routes: Routes  # of both families
    neighbours: Neighbours


class Step(NamedTuple):
    table: str
    lines: list[str]


K = TypeVar("K")


class Numbers(Generic[K]):
    """Which record of a table stands for what. A number is given away again in the round after
    that in which it was free."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.of: dict[K, int] = {}

    def give(self, keys: Iterable[K], taken: Iterable[str]) -> set[K]:
        """Numbers for all of these, as long as there are any; which ones have none. `taken`: the
        records that are there."""
        keys = list(dict.fromkeys(keys))
        wanted = set(keys)
        self.of = {key: n for key, n in self.of.items() if key in wanted}
        used = {int(one) for one in taken} | set(self.of.values())
        free = (n for n in range(self.most) if n not in used)
        without: set[K] = set()
        for key in keys:
            if key not in self.of:
                if (number := next(free, None)) is None:
                    without.add(key)
                else:
                    self.of[key] = number
        return without

    def adopt(self, key: K, number: int) -> bool:
        """A record that is there, from before, stands for this."""
        if key in self.of or number in self.of.values() or number >= self.most:
            return False
        self.of[key] = number
        return True


class Follower:
    """`most`: the entries of each table that there is."""

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = most
        self._hops: Numbers[Way] = Numbers(most.get("hops", 0))
        self._ecmp: Numbers[Ways] = Numbers(most.get("ecmp", 0))
        self._knows = False
        self.troubles: list[str] = []

    def steps(self, there: Tables, state: State) -> list[Step]:
        """Batches, in their order, that make of the tables what the kernel has."""
        self.troubles = []
        words: dict[Prefix, str] = {}
        ways: dict[Prefix, Ways] = {}
        for prefix, route in state.routes.items():
            word, its = _ways_of(route, state.ports)
            if word:
                words[prefix] = word
            else:
                ways[prefix] = its if "ecmp" in self._most else its[:1]
        if not self._knows:
            self._adopt(there, state, ways)
        kinds = set(ways.values())
        used = {way for its in kinds for way, _ in its}
        without = self._hops.give(sorted(used), there["hops"])
        if without:
            self.troubles.append(
                f"hops has no room for {len(without)} next hops: what goes there goes by the kernel"
            )
        new: Tables = {name: {} for name in self._most}
        for way in used - without:
            new["hops"][str(self._hops.of[way])] = _content(way, state)
        several = {its for its in kinds if len(its) > 1 and not _any(its, without)}
        left = self._ecmp.give(sorted(several), there.get("ecmp", {}))
        if left:
            self.troubles.append(
                f"ecmp has no room for {len(left)} records: of several ways the first one is taken"
            )
        for its in several - left:
            new["ecmp"][str(self._ecmp.of[its])] = self._spread(its)
        named = {its: self._word(its, without, left) for its in kinds}
        words |= {prefix: named[its] for prefix, its in ways.items()}
        for (target, length), word in words.items():
            table = "routes" if len(target) == 4 else "routes6"
            if table in new:
                new[table][show_prefix(target, length)] = word
        self._add_neighbours(new, there, state)
        for name in ("routes", "routes6"):
            if len(new.get(name, ())) > self._most.get(name, 0):
                self.troubles.append(
                    f"{name} has room for {self._most[name]} of the kernel's {len(new[name])}"
                    " prefixes: it stays as it is"
                )
                return []
        self._knows = True
        return self._steps(there, new)

    def _steps(self, there: Tables, new: Tables) -> list[Step]:
        first, last = [], []
        for name in ("neighbours", "neighbours6"):
            if name in new:
                lines = [*_gone(there[name], new[name]), *_set(there[name], new[name])]
                first.append(Step(name, lines))
        for name in ("hops", "ecmp"):
            if name in new:
                first.append(Step(name, _set(there[name], new[name])))
                last.append(Step(name, _gone(there[name], new[name])))
        for name in ("routes", "routes6"):
            if name in new:
                gone, fresh = _gone(there[name], new[name]), _set(there[name], new[name])
                # A shorter prefix is there before a longer one goes, where there is room for both.
                fits = len(there[name].keys() | new[name].keys()) <= self._most[name]
                first.append(Step(name, [*fresh, *gone] if fits else [*gone, *fresh]))
        return [step for step in (*first, *reversed(last)) if step.lines]

    def _word(self, its: Ways, without: set[Way], left: set[Ways]) -> str:
        if _any(its, without):
            return TO_KERNEL
        if len(its) > 1 and its not in left:
            return f"ecmp/{self._ecmp.of[its]}"
        return str(self._hops.of[its[0][0]])

    def _spread(self, ways: Ways) -> str:
        word = "+".join(f"{self._hops.of[way]}*{weight}" for way, weight in ways)
        return FIELDS["ways"].write(FIELDS["ways"].read(word, NO_NAMES), NO_NAMES)

    def _add_neighbours(self, new: Tables, there: Tables, state: State) -> None:
        for (link, address), one in state.neighbours.items():
            name = "neighbours" if len(address) == 4 else "neighbours6"
            if name in new and link in state.ports and one.mac and not _is_link_local(address):
                field = FIELDS["ipv4" if len(address) == 4 else "ipv6"]
                key = f"{state.ports[link]},{field.write(address, NO_NAMES)}"
                new[name][key] = one.mac.hex(":")
        for name in ("neighbours", "neighbours6"):
            if (more := len(new.get(name, ())) - self._most.get(name, 0)) > 0:
                # Those that are in it stay; packets of the others go by the kernel.
                for key in sorted(new[name], key=lambda k: k not in there[name])[-more:]:
                    del new[name][key]
                self.troubles.append(f"{name} has no room for {more} neighbours")

    def _adopt(self, there: Tables, state: State, ways: Mapping[Prefix, Ways]) -> None:
        """Find what the numbers of a follower before stood for, as far as the tables show it. What
        cannot be told gets a new number, which costs a change and no packet."""
        content = {way: _content(way, state) for its in set(ways.values()) for way, _ in its}
        for (target, length), its in ways.items():
            way = its[0][0]
            if len(its) > 1 or way in self._hops.of:
                continue
            table = there.get("routes" if len(target) == 4 else "routes6", {})
            word = table.get(show_prefix(target, length), "")
            if word.isdecimal() and there["hops"].get(word) == content[way]:
                self._hops.adopt(way, int(word))
        alike: dict[str, list[int]] = {}
        for number, text in there["hops"].items():
            alike.setdefault(text, []).append(int(number))
        for way, text in content.items():
            any(self._hops.adopt(way, number) for number in alike.get(text, ()))
        spread = {text: int(number) for number, text in there.get("ecmp", {}).items()}
        for its in set(ways.values()):
            if len(its) > 1 and all(way in self._hops.of for way, _ in its):
                record = spread.get(self._spread(its))
                if record is not None:
                    self._ecmp.adopt(its, record)


def unresolved(state: State) -> set[tuple[int, bytes]]:
    """Next routers whose MAC address the kernel is to find out."""
    return {
        (hop.link, hop.gateway)
        for route in state.routes.values()
        for hop in route.hops
        if hop.gateway and hop.link in state.ports
        and not ((n := state.neighbours.get((hop.link, hop.gateway))) and n.mac)
    }  # fmt: skip


def _any(ways: Ways, without: set[Way]) -> bool:
    return bool(without) and any(way in without for way, _ in ways)


def _ways_of(route: Route, ports: Mapping[int, str]) -> tuple[str, Ways]:
    """A word, or where it leads to."""
    if route.kind in _KINDS:
        return _KINDS[route.kind], ()
    hops = [hop for hop in route.hops if hop.link in ports]
    if route.kind != kernel.UNICAST or not hops or route.is_wrapped:
        return TO_KERNEL, ()
    weights: dict[Way, int] = {}
    for hop in [hop for hop in hops if not hop.is_down] or hops:
        way = ports[hop.link], hop.gateway
        weights[way] = weights.get(way, 0) + hop.weight
    if len(weights) == 1:
        return "", ((next(iter(weights)), 1),)
    return "", tuple(sorted(weights.items())[:MOST_WAYS])


def _content(way: Way, state: State) -> str:
    """A next router whose MAC address is not known is as one on the link: the packet's own
    destination is no neighbour, so it is punted, and the kernel finds out the address."""
    port, gateway = way
    for link in [link for link, name in state.ports.items() if name == port and gateway]:
        one = state.neighbours.get((link, gateway))
        if one is not None and one.mac:
            return f"{port},{one.mac.hex(':')}"
    return f"{port},{ON_LINK}"


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _gone(old: Text, new: Text) -> list[str]:
    return [f"del {key}" for key in old if key not in new]


def _set(old: Text, new: Text) -> list[str]:
    return [f"set {key} {value}" for key, value in new.items() if old.get(key) != value]
