# SPDX-License-Identifier: BSD-3-Clause
"""Can a data plane whose supervisor is dead be adopted? Packets flow all the while.

It must be the primary that `state.json` names, by pid and start time, answer in time, be of this
dpsup's version, DPDK and ABI, and have been ready. rejoin.py then continues with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpsup._abi import DPS_ABI_VERSION as ABI
from dpsup._build import DPDK_VERSION, VERSION
from dpsup.bus.client import Client
from dpsup.documents.story import Hello
from dpsup.errors import DpsupError, TimedOut
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import PLAN, PRIMARY, Runtime, State
from dpsup.limits import FILE
from dpsup.plan.model import (
    ChainPlan,
    GroupPlan,
    IoPlan,
    MemoryPlan,
    Plan,
    PoolPlan,
    PortPlan,
    ProbePlan,
    ScalePlan,
)
from dpsup.supervisor.silence import forwards_now

HELLO_S = 5.0  # for the primary to answer; milliseconds, unless it hangs

# Keys of a plan that differ from start to start although the topology is the same.
_VOLATILE = {
    "generation", "file_prefix", "topology_file", "memory", "supervisor_cores", "plugin_copy",
    "left_out",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A data plane that can be adopted."""

    plan: Plan  # the one that it runs by
    state: State
    hello: Hello
    differs: list[str]  # keys of the topology that were changed since


# --- what runs ------------------------------------------------------------------------------------


def plan_of(doc: dict[str, Any]) -> Plan:
    """A plan from its JSON. Raises: ValueError, TypeError, KeyError where it is not one."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(v) for v in value) if isinstance(value, list) else value

    def part(kind: Any, one: Mapping[str, Any]) -> Any:
        return kind(**{k: frozen(v) for k, v in one.items()})

    def group(**one: Any) -> GroupPlan:
        scale, probe = one.pop("scale"), one.pop("probe", None)
        scale, probe = scale and ScalePlan(**scale), probe and ProbePlan(**probe)
        return GroupPlan(**one, scale=scale, probe=probe)

    parts = {
        "io": IoPlan, "pools": PoolPlan, "ports": PortPlan, "groups": group, "chains": ChainPlan,
    }  # fmt: skip
    made = {k: frozen(v) for k, v in doc.items() if k not in parts and k != "memory"}
    made |= {k: tuple(part(kind, one) for one in doc[k]) for k, kind in parts.items()}
    return Plan(**made, memory=part(MemoryPlan, doc["memory"]))


def recorded_plan(where: Runtime) -> Plan | None:
    """The plan that the running primary was started with."""
    try:
        return plan_of(json.loads(where.read(PLAN)))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _flat(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Its facts by names that a person can find in the topology file."""
    doc = dataclasses.asdict(plan)
    prefix = doc["file_prefix"]
    for key, value in doc.items():
        if key in _VOLATILE:
            continue
        if key == "eal_args":
            # The prefix has the generation's number; CPUs of the supervisor may differ.
            words = [w for w in value if prefix not in w and not w.startswith("--lcores")]
            yield "host.eal_extra", tuple(words)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for i, one in enumerate(value):
                path = {"groups": "workers", "pools": "mempools"}.get(key, key)
                name = one.get("name", i)
                if "args" in one:
                    one["args"] = _without_paths(one["args"])
                yield from ((f"{path}.{name}.{k}", v) for k, v in one.items() if k not in _VOLATILE)
        else:
            yield key, value


def _without_paths(args: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The recorded plan has the paths of copies of files."""
    return tuple((k, "" if k.startswith(FILE) else v) for k, v in args)


def differences(recorded: Plan, now: Plan) -> list[str]:
    """The keys in which two plans differ that should be the same."""
    old, new = dict(_flat(recorded)), dict(_flat(now))
    return sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))


def next_generation(plan: Plan, generation: int) -> Plan:
    """The same plan, for another generation."""
    prefix = plan.file_prefix.removesuffix(f"-g{plan.generation}") + f"-g{generation}"
    return dataclasses.replace(
        plan,
        generation=generation,
        file_prefix=prefix,
        eal_args=tuple(a.replace(plan.file_prefix, prefix) for a in plan.eal_args),
    )


def examine(where: Runtime, state: State | None, now: Plan | None) -> Found | str:
    """The holder of the lock asks: can what runs be adopted? If not, why; "" if nothing runs.
    `now`: the plan of the topology file, None where the file is not sound. Raises: DpsupError where
    it cannot be adopted, and to end it would end forwarding."""
    primary = where.primary() or next(iter(where.primaries()), None)
    if primary is None:
        _demand_no_other_namespace(where)
        return ""
    recorded = recorded_plan(where)
    for missing, what in (
        (recorded is None, f"{PLAN} does not say what it runs"),
        (not where.has(PRIMARY), "its primary was never ready"),
    ):
        if missing:
            _demand_no_forwarding(where, primary)
            return what
    assert recorded is not None
    client = Client(where.file(PRIMARY), lambda: primary.alive)
    try:
        hello: Hello = client.ask("hello", HELLO_S)
    except DpsupError as e:
        if isinstance(e, TimedOut) and forwards_now(primary.pid):
            raise TimedOut(
                f'instance "{where.name}" forwards, but its primary does not answer',
                code="E0612",
                why="it cannot be adopted now, and to end it would end forwarding",
                help=f"try again; `dpsup -n {where.name} stop` ends it",
            ) from None
        return f"its primary does not answer: {e.message}"
    finally:
        client.close()
    for key, wanted in (
        ("pid", primary.pid),
        ("start", primary.start),
        ("generation", recorded.generation),
        ("version", VERSION),
        ("dpdk", DPDK_VERSION),
        ("abi", ABI),
    ):
        if hello.get(key) != wanted:
            return f"its primary has {key} {hello.get(key)}, and {wanted} is needed"
    if state is None or state.primary != primary or state.generation != recorded.generation:
        # The disk was full when this generation began: what is remembered is of the one before.
        state = State(
            where.name,
            recorded.generation,
            recorded.file_prefix,
            recorded.hugepage_dir,
            recorded.topology_file,
            primary=primary,
            memory={**state.memory, "told": 0, "asked": []} if state is not None else {},
        )
    return Found(recorded, state, hello, differences(recorded, now) if now else [])


def _demand_no_other_namespace(where: Runtime) -> None:
    if where.is_held():
        raise DpsupError(
            f'instance "{where.name}" forwards, and its processes are not visible here',
            code="E0615",
            why="they run in another PID namespace, of a container for example",
            help="run the command where its supervisor ran",
        )


def _demand_no_forwarding(where: Runtime, primary: Identity) -> None:
    if forwards_now(primary.pid):
        parent = process.parent_of(primary.pid)
        ends = f"`kill -9 {primary.pid}` ends it (that is its primary)"
        if process.has_words(parent, "\0start\0"):
            ends = f"`kill {parent}` ends it in order (that is its supervisor)"
        raise DpsupError(
            f'instance "{where.name}" forwards, but its files in {where.path} are gone',
            code="E0616",
            why="it cannot be adopted without them, and to end it would end forwarding",
            help=f"{ends}, then start it again",
        )
