# SPDX-License-Identifier: BSD-3-Clause
"""Adopting a data plane whose supervisor is dead: packets flow all the while, and none is lost.

`examine` decides whether what runs can be trusted: it must be the primary that `state.json` names,
by pid and start time, answer in time, be of this dpsup's version, DPDK and ABI, and have been
ready. `resume` then learns from the primary who sits where and what happened meanwhile, and brings
the supervisor's machines to where they would be had it never died.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpsup._abi import DPS_ABI_VERSION as ABI
from dpsup._abi import DPS_HAND_SEATED as SEATED
from dpsup._abi import DPS_HAND_STARTING as STARTING
from dpsup._abi import DPS_NO_SLOT as NO_SLOT
from dpsup._abi import DPS_STORY_STOPPED as STOPPED
from dpsup._build import DPDK_VERSION, VERSION
from dpsup.bus.sockets import Client, Gone
from dpsup.errors import DpsupError
from dpsup.host import process
from dpsup.host.process import Identity
from dpsup.instance.runtime_dir import PLAN, PRIMARY, SEED, Runtime, State
from dpsup.plan.model import (
    ChainPlan,
    GroupPlan,
    IoPlan,
    MemoryPlan,
    Plan,
    PoolPlan,
    PortPlan,
    ScalePlan,
)
from dpsup.supervisor import rollout, snapshot
from dpsup.supervisor.policy import Ending, Verdict, decide

if TYPE_CHECKING:
    from dpsup.supervisor.core import Sitter, Supervisor, Worker

HELLO_S = 5.0  # for the primary to answer; milliseconds, unless it hangs
CENSUS_S = 2.0  # for those who were being forked to come, or to be called off
LOOK_S = 0.02
SEED_ANSWERS_S = 15.0  # a seed that was attaching; above EAL's own 5 s

AWAITED, LIVES = 1, 2  # shim/shim.h: struct dps_sitter_info.state

# Keys of a plan that differ from start to start without anybody's wish.
_VOLATILE = {"generation", "file_prefix", "topology_file", "memory", "supervisor_cores"}

Doc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A data plane that can be adopted."""

    plan: Plan  # the one that it runs by
    state: State
    hello: Doc
    differs: list[str]  # keys of the topology that were changed since


# --- what runs ------------------------------------------------------------------------------------


def plan_of(doc: Doc) -> Plan:
    """A plan from its JSON. Raises: ValueError, TypeError, KeyError where it is not one."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(v) for v in value) if isinstance(value, list) else value

    def part(kind: Any, one: Doc) -> Any:
        return kind(**{k: frozen(v) for k, v in one.items()})

    def group(**one: Any) -> GroupPlan:
        scale = one.pop("scale")
        return GroupPlan(**one, scale=scale and ScalePlan(**scale))

    parts = {
        "io": IoPlan, "pools": PoolPlan, "ports": PortPlan, "groups": group, "chains": ChainPlan,
    }  # fmt: skip
    made = {k: frozen(v) for k, v in doc.items() if k not in parts and k != "memory"}
    made |= {k: tuple(part(kind, one) for one in doc[k]) for k, kind in parts.items()}
    return Plan(**made, memory=part(MemoryPlan, doc["memory"]))


def recorded_plan(where: Runtime) -> Plan | None:
    """The plan that the running primary was started with."""
    try:
        return plan_of(json.loads((where.path / PLAN).read_text()))
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
            # The prefix has the generation's number; CPUs of the supervisor are its own affair.
            words = [w for w in value if prefix not in w and not w.startswith("--lcores")]
            yield "host.eal_extra", tuple(words)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for i, one in enumerate(value):
                path = {"groups": "workers", "pools": "mempools"}.get(key, key)
                name = one.get("name", i)
                yield from ((f"{path}.{name}.{k}", v) for k, v in one.items())
        else:
            yield key, value


def differences(recorded: Plan, now: Plan) -> list[str]:
    """Keys in which two plans differ that are meant to be the same."""
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


def examine(where: Runtime, state: State | None, now: Plan) -> Found | str:
    """Who holds the lock asks: can what runs be adopted? If not, why; "" where nothing runs."""
    if state is None or state.primary is None or not state.primary.alive:
        return ""
    primary: Identity = state.primary
    recorded = recorded_plan(where)
    if recorded is None:
        return f"{PLAN} does not say what it runs"
    if not (where.path / PRIMARY).exists():
        return "its primary was never ready"
    client = Client(where.file(PRIMARY), lambda: primary.alive)
    try:
        hello: Doc = client.ask("hello", HELLO_S)
    except DpsupError as e:
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
    return Found(recorded, state, hello, differences(recorded, now))


# --- who sits where -------------------------------------------------------------------------------


async def census(sup: Supervisor, past: Callable[[Doc, Doc], None]) -> Doc:
    """Who lives, at a moment at which every death so far is accounted for: `past` hears of each,
    in order. Orders that the dead supervisor gave and nobody came for are called off."""
    deadline = time.monotonic() + CENSUS_S
    while True:
        stories = await sup.insist("stories", since=sup.told)
        plane: Doc = await sup.insist("sitters")
        for story in stories:
            past(story, plane)
            sup.told = story["seq"]
        awaited = [s for s in plane["sitters"] if s["state"] == AWAITED]
        # Stories that were not kept are lost; who lives is known all the same.
        settled = plane["stories"] == (stories[-1]["seq"] if stories else sup.told)
        if (settled and not awaited) or time.monotonic() > deadline:
            sup.told = max(sup.told, plane["stories"] if settled else 0)
            return plane
        for one in awaited:
            await sup.insist("call_off", berth=one["berth"])
        await asyncio.sleep(LOOK_S / 4)


def _watch(sup: Supervisor, one: Doc, past: snapshot.Past) -> Sitter | None:
    """A sitter that lives. None: it has just gone."""
    group = sup.groups[one["group"]]
    name = f"{group.plan.name}/spare"
    if one["slot"] != NO_SLOT:
        name = sup.workers()[one["slot"]].name
    sitter = sup.meet(name, one["berth"], one["pid"])
    if sitter is None:
        return None
    sitter.asked = one["pid"] in past.asked
    sitter.ready = one["hand"] != STARTING and (one["slot"] == NO_SLOT or one["hand"] == SEATED)
    return sitter


async def resume(sup: Supervisor, found: Found, past: snapshot.Past) -> None:
    """From a data plane without supervisor to one with; what the last one knew is recalled."""
    owed: dict[str, Doc] = {}  # by worker: the death that nobody has judged yet

    def account(story: Doc, plane: Doc) -> None:
        worker = sup.account(story, past.asked, dict(plane["exits"]))
        if worker is not None:
            owed.pop(worker.name, None)
            if not story["successor"]:
                owed[worker.name] = story

    sup.hello = found.hello
    primary = Identity(found.hello["pid"], found.hello["start"])
    if not sup.meet_child(sup.primary, "primary", primary):
        raise Gone("the primary has just ended")
    plane = await census(sup, account)
    await sup.recall_maps(plane["rx"])
    counters = await sup.insist("counters")
    seats: dict[int, tuple[Doc, Sitter]] = {}
    for one in plane["sitters"]:
        if one["state"] != LIVES or one["told"]:
            continue
        sitter = _watch(sup, one, past)
        if sitter is None:
            continue
        if one["slot"] == NO_SLOT:
            group = sup.groups[one["group"]]
            group.spares.append(sitter)
            sup.await_spare(group, sitter)
        elif one["slot"] not in seats or _is_dead(seats[one["slot"]][1]) < _is_dead(sitter):
            # Of two the dead one comes first: its story, yet to be told, is about the other.
            seats[one["slot"]] = one, sitter
    for worker in sup.workers():
        worker.wanted = worker.member < sup.groups[worker.group].desired
        # Whatever was granted before: the policy says anew.
        worker.takeovers = -1
        if worker.slot in seats:
            one, sitter = seats[worker.slot]
            worker.sitter = sitter
            worker.health = "stopped" if one["health"] == STOPPED else "ok"
            # All who are fed are known before anybody steers: no bucket moves for nothing.
            worker.fed = sitter.ready and worker.wanted and worker.health != "stopped"
        else:
            worker.left = counters["slots"][worker.slot]["outstanding"] > 0
    # Before anybody is forked: of which version.
    await rollout.resume(sup)
    for worker in sup.workers():
        if worker.slot in seats:
            sup.fire("worker", worker, "found")
        elif worker.wanted:
            _bring_back(sup, worker, past.states.get(worker.name, ""), worker.name in owed)
    await _find_seed(sup, found)
    for worker in sup.workers():
        if worker.sitter is not None and not worker.wanted:
            sup.fire("worker", worker, "stop")
    for group in sup.groups:
        await sup.steer(group)


def _is_dead(sitter: Sitter) -> bool:
    return process.start_ticks(sitter.pid) == 0


def _bring_back(sup: Supervisor, worker: Worker, was: str, owed: bool) -> None:
    """Nobody sits there, and somebody should: at once, after its delay, or not any more."""
    now = time.monotonic()
    if was == "held":
        sup.fire("worker", worker, "hold")
        return
    if owed or was == "recovering":
        code = (worker.last_exit or {}).get("code")
        ending = Ending(permanent=sup.is_permanent(code), failed=code != 0)
        policy = sup.groups[worker.group].policy
        decision = decide(policy, worker.history, ending, wanted=True, now=now)
        worker.history = decision.history
        worker.due_at = now + decision.delay
        if decision.verdict is Verdict.GIVE_UP:
            sup.events.add(type="held", name=worker.name, message=decision.reason)
            sup.fire("worker", worker, "hold")
            return
    elif was != "backoff":
        worker.due_at = now
    sup.fire("worker", worker, "recall")


async def _find_seed(sup: Supervisor, found: Found) -> None:
    """The seed that lives, also one that was attaching just now; else a new one."""
    path = sup.runtime.file(SEED)
    mine = f"--primary\0{found.hello['pid']}\0"
    seeds = [s for s in process.with_words("--socket", path) if process.has_words(s.pid, mine)]
    if found.state.seed is not None and found.state.seed.alive:
        seeds = [found.state.seed]
    known = found.state.seed
    sup.attach.begins(seeds[0].pid if seeds else known.pid if known else 0)
    if not seeds or not sup.meet_child(sup.seed, "seed", seeds[0]):
        # What the dead one may have left locked is looked for first.
        sup._seed_anew()
        return
    sup.fire("seed", sup.seed, "adopt")
    deadline = time.monotonic() + SEED_ANSWERS_S
    while sup.seed.state == "attaching" and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            sup.seed_answers()
            sup.fire("seed", sup.seed, "ready")
            return
        await asyncio.sleep(LOOK_S)
    sup.fire("seed", sup.seed, "late")
