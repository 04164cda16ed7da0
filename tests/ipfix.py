# SPDX-License-Identifier: BSD-3-Clause
"""A collector of IPFIX (RFC 7011) that forgives nothing: lengths, templates, sequence numbers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

# IANA's numbers of information elements.
NAMES = {
    1: "octets", 2: "packets", 4: "protocol", 5: "tos", 6: "flags", 7: "sport", 8: "source",
    10: "port", 11: "dport", 12: "target", 27: "source", 28: "target", 32: "icmp", 58: "vlan",
    136: "end", 139: "icmp", 152: "first", 153: "last",
}  # fmt: skip


@dataclass
class Collector:
    records: list[dict[str, bytes]] = field(default_factory=list)
    templates: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)  # sequence number, by domain
    times: list[int] = field(default_factory=list)
    templates_seen: int = 0

    def take(self, message: bytes) -> None:
        version, length, time, sequence, domain = struct.unpack_from("!HHIII", message)
        assert version == 10 and length == len(message)
        assert sequence == self.next.get(domain, 0), (domain, sequence, self.next)
        self.times.append(time)
        at, n = 16, 0
        while at < length:
            id, size = struct.unpack_from("!HH", message, at)
            body = message[at + 4 : at + size]
            assert size >= 4 and len(body) == size - 4
            if id == 2:
                self._templates(domain, body)
            else:
                n += self._data(self.templates[domain, id], body)
            at += size
        assert at == length
        self.next[domain] = sequence + n

    def _templates(self, domain: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            id, count = struct.unpack_from("!HH", body, at)
            assert id >= 256
            fields = [struct.unpack_from("!HH", body, at + 4 + 4 * i) for i in range(count)]
            known = self.templates.setdefault((domain, id), fields)
            assert known == fields
            at += 4 + 4 * count
            self.templates_seen += 1

    def _data(self, fields: list[tuple[int, int]], body: bytes) -> int:
        size = sum(length for _, length in fields)
        assert body and len(body) % size == 0
        for begin in range(0, len(body), size):
            record, at = {}, begin
            for element, length in fields:
                record[NAMES[element]] = body[at : at + length]
                at += length
            self.records.append(record)
        return len(body) // size

    def total(self, name: str) -> int:
        return sum(number(record[name]) for record in self.records)


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def collect(messages: Iterable[bytes]) -> Collector:
    collector = Collector()
    for message in messages:
        collector.take(message)
    return collector
