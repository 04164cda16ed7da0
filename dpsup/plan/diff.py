# SPDX-License-Identifier: BSD-3-Clause
"""What it takes to bring a running instance to what a changed file says. Pure.

Every key of a topology has a class: it can change while packets flow (live), worker by worker
(rolling), or only with a new start (restart). Tables are told apart by their names.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_origin

from dpsup.text import show
from dpsup.topology.model import Topology
from dpsup.topology.typed import Model, Path

if TYPE_CHECKING:
    from dpsup.plan.model import GroupPlan, Plan


class Class(enum.StrEnum):
    LIVE = "live"
    ROLLING = "rolling"
    RESTART = "restart"


_LIVE = """
host.watch
workers.count workers.spares workers.at_zero workers.on_down
workers.restart.policy workers.restart.strategy workers.restart.intensity workers.restart.period
workers.restart.backoff.initial workers.restart.backoff.factor workers.restart.backoff.max
workers.restart.backoff.jitter workers.restart.retry
workers.health.stall_after workers.health.stopped
workers.scale.min workers.scale.max workers.scale.target_busy workers.scale.cooldown
workers.scale.dry_run
chains.on_down
log.level
"""
_ROLLING = """
workers.plugin workers.args workers.files
"""
_RESTART = """
version name
host.supervisor_cores host.hugepages host.eal_extra host.runtime_dir host.quarantine_dir
host.tables_dir host.shared_cores
mempools.mbufs mempools.data_room mempools.cache mempools.numa mempools.page_size
ports.name ports.pci ports.vdev ports.mempool ports.required ports.descriptors.rx
ports.descriptors.tx ports.thresholds.rx_free ports.thresholds.rx_drop ports.thresholds.tx_free
ports.mtu ports.promiscuous ports.rss.fields ports.rss.inner ports.rss.fragments ports.rss.key
ports.kernel
io.cores io.burst io.idle
workers.state workers.bucket_state workers.verify workers.confine workers.name workers.input
workers.max workers.cores workers.ring workers.on_full workers.tables
workers.control workers.follow
workers.probe.kind workers.probe.port workers.probe.path workers.probe.host
workers.probe.interval workers.probe.timeout workers.probe.rise workers.probe.fall
workers.probe.on_down workers.probe.netns
chains.name chains.path
bus.endpoint bus.keys bus.admin bus.read metrics.listen
"""
CLASSES = {
    **dict.fromkeys(_LIVE.split(), Class.LIVE),
    **dict.fromkeys(_ROLLING.split(), Class.ROLLING),
    **dict.fromkeys(_RESTART.split(), Class.RESTART),
}

# What those that are live or rolling come to in a group's plan.
LIVE_FIELDS = (
    "count",
    "spares",
    "restart_policy",
    "intensity",
    "period",
    "backoff_initial",
    "backoff_factor",
    "backoff_max",
    "backoff_jitter",
    "held_retry",
    "strategy",
    "stall_after",
    "on_stopped",
    "on_down",
    "at_zero",
    "scale",
)
ROLLING_FIELDS = ("plugin", "plugin_path", "args", "plugin_copy")

_NAMED = ("ports", "workers", "chains")  # lists of tables that have names


@dataclass(frozen=True, slots=True)
class Change:
    """One key that says something else than before. `old` or `new` is None: it was, or is, not
    there. `line`: in the new file, 0 if nothing there says it."""

    key: str  # "workers.fw.count"
    kind: Class
    old: Any
    new: Any
    line: int
    group: str = ""  # that it is of
    why: str = ""  # if that is not plain

    def __str__(self) -> str:
        return f"{self.key}: {_say(self.old)} -> {_say(self.new)}"


def _say(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, tuple) and value and all(isinstance(v, tuple) for v in value):
        # Of a table's declaration, the words that are there.
        pairs = [(k, v[0] if len(v) == 1 else " ".join(filter(None, v))) for k, *v in value]
        return "{ " + ", ".join(f"{k} = {show(v)}" for k, v in pairs) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return show(value)


def _table(annotation: Any) -> type[Model] | None:
    """The table that a field is, or is a list or dictionary of."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    if get_origin(annotation) in (tuple, dict):
        for one in get_args(annotation):
            if (found := _table(one)) is not None:
                return found
    return None


def keys(model: type[Model] = Topology, head: str = "") -> Iterator[str]:
    """Every key that a topology can have, such as "workers.restart.policy"."""
    for name, info in model.model_fields.items():
        table = _table(info.annotation)
        if table is None:
            yield head + name
        else:
            yield from keys(table, f"{head}{name}.")


@dataclass(frozen=True, slots=True)
class _Value:
    key: str  # as in CLASSES
    value: Any
    path: Path  # in the file


def _leaves(table: Model, key: str, name: str, path: Path) -> Iterator[tuple[str, _Value]]:
    for field in type(table).model_fields:
        value = getattr(table, field)
        at = (*path, field)
        if isinstance(value, Model):
            # A group without this table does not follow its load at all.
            unset = key == "workers." and field == "scale" and field not in table.model_fields_set
            for full, leaf in _leaves(value, f"{key}{field}.", f"{name}{field}.", at):
                yield full, replace(leaf, value=None) if unset else leaf
        else:
            yield f"{name}{field}", _Value(f"{key}{field}", value, at)


def _values(topology: Topology) -> dict[str, _Value]:
    """Every key with its value, by a name that does not depend on the tables' order."""
    found: dict[str, _Value] = {}
    for field in type(topology).model_fields:
        value = getattr(topology, field)
        tables: list[tuple[str, Model, Path]] = []
        if isinstance(value, Model):
            tables = [("", value, (field,))]
        elif isinstance(value, dict):
            tables = [(f"{k}.", one, (field, k)) for k, one in value.items()]
        elif isinstance(value, tuple):
            for i, one in enumerate(value):
                label = one.name if field in _NAMED else str(i)
                tables.append((f"{label}.", one, (field, i)))
        else:
            found[field] = _Value(field, value, (field,))
        for label, table, path in tables:
            found.update(_leaves(table, f"{field}.", f"{field}.{label}", path))
    return found


def _order(topology: Topology) -> Iterator[tuple[str, tuple[str, ...]]]:
    for field in _NAMED:
        yield field, tuple(one.name for one in getattr(topology, field))
    yield "mempools", tuple(topology.mempools)
    yield "io", tuple(str(i) for i in range(len(topology.io)))


def diff(old: Topology, new: Topology) -> list[Change]:
    """The keys that differ, in the new file's order."""
    source = new.source
    changes: list[Change] = []
    renumbered: set[str] = set()
    for field, names in _order(old):
        now = dict(_order(new))[field]
        if names != now:
            renumbered |= {f"{field}.{name}." for name in {*names} ^ {*now}}
            line = source.line((field,))
            why = "slots, queues and rings are laid out at the start"
            changes.append(Change(field, Class.RESTART, names, now, line, why=why))
    before, after = _values(old), _values(new)
    for name, leaf in after.items():
        if name not in before or any(name.startswith(head) for head in renumbered):
            continue
        was, group = before[name].value, ""
        if was == leaf.value:
            continue
        kind, why = CLASSES[leaf.key], ""
        if leaf.key.startswith("workers."):
            group = new.workers[int(leaf.path[1])].name
            most = next(g.max for g in old.workers if g.name == group)
            if leaf.key == "workers.count" and leaf.value > most:
                kind, why = (
                    Class.RESTART,
                    f"there is room for {most}: a start creates the rings",
                )
            if leaf.key == "workers.scale.max" and (leaf.value or 0) > most:
                kind, why = (
                    Class.RESTART,
                    f"there is room for {most}: a start creates the rings",
                )
        line = source.line(leaf.path)
        changes.append(Change(name, kind, was, leaf.value, line, group, why))
    return sorted(changes, key=lambda c: c.line)


def pending(started: Topology, loaded: Topology, new: Topology) -> list[Change]:
    """What a file asks for beyond what was loaded last, and what only a start would bring."""
    found = [c for c in diff(started, new) if c.kind is Class.RESTART]
    found += [c for c in diff(loaded, new) if c.kind is not Class.RESTART]
    return sorted(found, key=lambda c: c.line)


def keep(plan: Plan, groups: Sequence[GroupPlan]) -> Plan:
    """A plan of the file as it was at the start, with what has changed since."""
    return replace(
        plan,
        groups=tuple(
            replace(one, **{f: getattr(now, f) for f in (*LIVE_FIELDS, *ROLLING_FIELDS)})
            for one, now in zip(plan.groups, groups, strict=True)
        ),
    )
