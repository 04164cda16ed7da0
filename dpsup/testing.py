# SPDX-License-Identifier: BSD-3-Clause
"""Plugins in Python under pytest, without EAL, hugepages or processes: packets in, verdicts out.

from dpsup.testing import Plugin


def test_what_is_too_short_is_dropped():
    fw = Plugin("fw.py", ports=["wan", "lan"], args={"map": {"wan": "lan"}})
    assert fw.packet(bytes(40)).reason == "runt"
    assert fw.packet(bytes(60), port="wan").port == "lan"

The plugin runs as in a worker, by the same code: bytes, state and counters are lent and checked
alike. What leaves a function of the plugin as an exception leaves the call here too; state that it
touched is as it was, as after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsup import _abi
from dpsup._python import Trial
from dpsup.plugin_source import Declared

__all__ = ["Plugin", "Result", "Table"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a packet."""

    verdict: str  # "out", "on", "drop", "punt" or "quarantine"
    port: str = ""  # of "out": that it leaves by
    group: str = ""  # of "on"
    bucket: int | None = None  # of "on" by a hash of the plugin's own
    reason: str = ""  # of "drop"
    also: str = ""  # the port that a copy leaves by
    data: bytes = b""  # its bytes, as the plugin left them
    emitted: tuple[Result, ...] = field(default=())  # packets of its own, in order


class Table:
    """A live table in a test: an address's key is the whole of it, no prefix. What the plugin
    tells is in `told`, and in the table once a test puts it there."""

    def __init__(self, entries: Mapping[Any, Any]) -> None:
        self.entries = dict(entries)
        self.told: list[tuple[bytes, int]] = []
        self.changes = 1

    def version(self) -> int:
        return self.changes

    def get(self, key: Any) -> Any:
        return self.entries.get(key if isinstance(key, int) else bytes(key))

    def tell(self, key: bytes, value: int) -> bool:
        self.told.append((bytes(key), value))
        return True


class Plugin:
    """A plugin in the place of a worker. `state` and `buckets` are what it keeps: hand those of one
    plugin to another one, and that is its successor after a kill, or a new version."""

    def __init__(
        self,
        file: str | Path,
        *,
        ports: Sequence[str] = ("wan", "lan"),
        groups: Sequence[str] = ("fw",),
        group: str = "fw",
        worker: int | None = 0,
        args: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        chain: Mapping[str, str] | None = None,
        state: bytearray | None = None,
        buckets: dict[int, bytearray] | None = None,
        tables: Mapping[str, Mapping[Any, Any]] | None = None,
    ) -> None:
        """`tables`: live tables, of each its entries by key. `chain`: where dps.next() leads, by
        input port; without it back out of that port."""
        self.ports, self.groups = tuple(ports), tuple(groups)
        if group not in self.groups:
            self.groups += (group,)
        self.state = bytearray() if state is None else state
        self.buckets: dict[int, bytearray] = {} if buckets is None else buckets
        self.tables = {name: Table(one) for name, one in (tables or {}).items()}
        chosen = {**dict(zip(self.ports, self.ports, strict=True)), **(chain or {})}
        pairs = tuple(_flat(args or {}))
        self._trial = Trial(
            path=str(file),
            group=group,
            worker=0xFFFFFFFF if worker is None else worker,
            ports=self.ports,
            groups=self.groups,
            keys=tuple(k for k, _ in pairs),
            values=tuple(v for _, v in pairs),
            next=tuple(self._verdict(chosen[port]) for port in self.ports),
            files=tuple((files or {}).items()),
            state=self.state,
            warm=state is not None,
            tables=self.tables,
        )
        self.declared: Declared = self._trial.declared
        self._trial.begin()

    @property
    def counters(self) -> dict[str, int]:
        return dict(zip(self.declared.counters, self._trial.counters, strict=False))

    @property
    def now(self) -> int:
        """env.now, nanoseconds: time stands still in a test until it is set."""
        return self._trial.now

    @now.setter
    def now(self, ns: int) -> None:
        self._trial.now = ns

    def packet(
        self,
        frame: bytes,
        port: str | int = 0,
        *,
        hash: int | None = None,
        vlan: int | None = None,
        tsc: int = 0,
    ) -> Result:
        """Hand it a packet. `hash`: of the flow, where the plugin asks for it or keeps state of
        buckets; None: as an io core computes it with the topology's default `rss`."""
        index = port if isinstance(port, int) else self.ports.index(port)
        hashed = 0
        if self.declared.needs & _abi.DPS_PLUGIN_HASH or self.declared.bucket_state_size:
            hashed = _hash(frame) if hash is None else hash
        bucket = self._bucket(hashed % _abi.DPS_PLUGIN_BUCKETS)
        needs = self.declared.needs
        verdict, data, emitted = self._trial.packet(
            frame,
            index,
            hashed,
            -1 if vlan is None or not needs & _abi.DPS_PLUGIN_VLAN else vlan,
            tsc if needs & _abi.DPS_PLUGIN_TIMESTAMP else 0,
            bucket,
        )
        return self._result(verdict, data, tuple(self._result(v, d) for v, d in emitted))

    def tick(self) -> tuple[Result, ...]:
        """Time has passed: set `now` before it. Returns the packets that it originates."""
        return tuple(self._result(v, d) for v, d in self._trial.tick())

    def control(self, text: str) -> None:
        """What an operator says with `dpsup tell`."""
        self._trial.control(text)

    def bucket_tick(self, bucket: int) -> tuple[Result, ...]:
        """The same for a bucket; a worker's buckets are those of `buckets`."""
        if not 0 <= bucket < _abi.DPS_PLUGIN_BUCKETS:
            raise ValueError(f"there is no bucket {bucket}")
        emitted = self._trial.bucket_tick(bucket, self._bucket(bucket))
        return tuple(self._result(v, d) for v, d in emitted)

    def _bucket(self, index: int) -> bytearray:
        size = self.declared.bucket_state_size
        bucket = self.buckets.setdefault(index, bytearray(size))
        bucket.extend(bytes(max(0, size - len(bucket))))
        return bucket

    def _verdict(self, name: str) -> int:
        if name in self.ports:
            return 0x1000 | self.ports.index(name)
        return 0x2000 | self.groups.index(name)

    def _result(self, verdict: int, data: bytes, emitted: tuple[Result, ...] = ()) -> Result:
        index, also, bucket = verdict & 0xFFF, "", None
        if verdict & _abi.DPS_V_HASHES == _abi.DPS_V_HASH:
            bucket = verdict % _abi.DPS_PLUGIN_BUCKETS
            verdict = _abi.DPS_V_GROUP | verdict >> _abi.DPS_V_HASH_GROUP & 0xF
            index = verdict & 0xFFF
        if verdict == _abi.DPS_V_PUNT:
            return Result("punt", data=data, emitted=emitted)
        if verdict & 0x8000:
            index, also = verdict & 0xF, _name(self.ports, verdict >> 4 & 0xFF, "port")
        kind = verdict >> 12 & 0x7
        if kind == 1:
            name = _name(self.ports, index, "port")
            return Result("out", port=name, also=also, data=data, emitted=emitted)
        if kind == 2:
            name = _name(self.groups, index, "group")
            return Result("on", group=name, bucket=bucket, also=also, data=data, emitted=emitted)
        if kind == 3:
            return Result("quarantine", data=data, emitted=emitted)
        if kind == 0 and index < _abi.DPS_PLUGIN_REASONS:
            reasons = self.declared.reasons
            reason = reasons[index] if index < len(reasons) else str(index)
            return Result("drop", reason=reason, also=also, data=data, emitted=emitted)
        raise ValueError(f"{verdict:#x} is no verdict: a worker's packet would be lost")


def _name(names: tuple[str, ...], index: int, what: str) -> str:
    if index < len(names):
        return names[index]
    raise ValueError(f"there is no {what} {index}: a worker's packet would be lost")


def _flat(args: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """As the topology hands them over: {"map": {"wan": "lan"}} is map.wan."""
    for key, value in args.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            parts = value if isinstance(value, list | tuple) else [value]
            yield f"{before}{key}", ",".join(map(_scalar, parts))


def _scalar(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _hash(frame: bytes) -> int:
    from dpsup.primary.flow_hash import flow_hash
    from dpsup.topology.model import Rss

    rss = Rss()
    return flow_hash(rss.key, list(rss.hashed), frame)
