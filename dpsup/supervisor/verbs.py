# SPDX-License-Identifier: BSD-3-Clause
"""What the bus can ask of a supervisor: one function for each verb."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import json
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, cast

from dpsup import limits
from dpsup.bus import roles
from dpsup.bus.messages import Args, ProtocolError, Request, want
from dpsup.bus.sockets import Gone
from dpsup.documents.counters import Counters
from dpsup.documents.plan import Running
from dpsup.documents.printed import (
    Audit,
    Rebalance,
    Reload,
    Reset,
    Restarted,
    Revisions,
    Rolled,
    Rollouts,
    Scale,
    Stats,
    StatsSlot,
)
from dpsup.documents.requests import Events, Killed, Lines, Ping, StatePart, Stopping
from dpsup.documents.status import Status
from dpsup.documents.story import StatePart as PrimaryState
from dpsup.documents.tables import Tables, Told
from dpsup.errors import DpsupError, NoSuchObject, TimedOut, UsageError
from dpsup.host import process
from dpsup.instance import status
from dpsup.supervisor import steering
from dpsup.supervisor.assembly import Supervisor
from dpsup.supervisor.core import AUDIT_S
from dpsup.supervisor.model import Group, Worker
from dpsup.supervisor.policy import History
from dpsup.supervisor.rollout import Options
from dpsup.supervisor.rollout_judge import Margins
from dpsup.supervisor.rollouts import ended
from dpsup.supervisor.scale import SCALE_S, must_run
from dpsup.supervisor.view import rollout as rollout_view
from dpsup.supervisor.view import view

T = TypeVar("T")

REPLY_BYTES = 1 << 20
SUM_S, RARELY_S = 1.0, 60.0  # between two events of the same user's changes of tables
NAME_MOST, ARGS_MOST = 64, 300  # characters, of what an event repeats of a command
ALL = "all"  # names every worker
TABLE_ARGS = {
    "group",
    "table",
    "text",
    "name",
    "path",
    "key",
    "first",
    "version",
    "dry_run",
    "request",
}
ONLY_GROUP = "workers"  # names the only group where no group has that name


async def handle(sup: Supervisor, request: Request) -> Any:
    verb = VERBS.get(request.verb)
    if verb is None:
        raise ProtocolError(
            f"no such verb: {request.verb}", code="E0903", help=f"one of {', '.join(VERBS)}"
        )
    if request.origin is not None:
        roles.demand(request.origin.role, request.verb, changes=request.verb in CHANGING)
    if request.generation is not None:
        _demand_generation(sup, request)
    if request.verb in CHANGING:
        _note_command(sup, request)
    try:
        return await verb(sup, request.args)
    except DpsupError:
        raise
    except Exception as e:
        sup.core.fault(f"request {request.verb}", e)
        raise


def _demand_generation(sup: Supervisor, request: Request) -> None:
    now = sup.model.plan.generation
    if request.generation != now:
        raise DpsupError(
            f"`{request.verb}` is for generation {request.generation}, and this is {now}",
            code="E0477",
            why="the primary was started again since: what was decided then may be wrong now",
            help="`dpsup status` shows how it is now",
        )


def _note_command(sup: Supervisor, request: Request) -> None:
    """Before it is carried out, whatever comes of it."""
    args = request.args
    if args.get("dry_run"):
        return
    if request.verb in FREQUENT:
        _sum_up(sup, request)
    else:
        _tell_command(sup, request)


def _sum_up(sup: Supervisor, request: Request) -> None:
    """Changes of tables, which may be hundreds a second: a user's first is told at once, the others
    as one event with their number, after a second and, while they go on, ever more rarely. The
    journal keeps 2000 events, and the deaths among them are not to be pushed out."""
    uid, _, more = _sender(request)
    who = uid, more.get("key", "")
    waiting = sup.model.frequent
    if who in waiting:
        waiting[who] = (request, waiting[who][1] + 1)
        return

    def tell(wait: float) -> None:
        last, count = waiting.pop(who)
        if count:
            _tell_command(sup, last, count=count)
            begin(min(2 * wait, RARELY_S))

    def begin(wait: float) -> None:
        waiting[who] = (request, 0)
        sup.core.later(wait, tell, wait)

    _tell_command(sup, request)
    begin(SUM_S)


def _tell_command(sup: Supervisor, request: Request, **counted: int) -> None:
    args = request.args
    target = next((args[k] for k in ("worker", "group", "target") if args.get(k)), "")
    told = json.dumps({k: v for k, v in args.items() if v not in (None, "")})
    uid, pid, more = _sender(request)
    sup.core.events.add(
        type="command",
        name=str(target)[:NAME_MOST] or sup.model.plan.name,
        verb=request.verb,
        message=told if len(told) <= ARGS_MOST else f"{told[:ARGS_MOST]} ...",
        uid=uid,
        pid=pid,
        **counted,
        **more,
    )


def _sender(request: Request) -> tuple[int | None, int, dict[str, str]]:
    """The user and process that a command is of, and over the network its key and address."""
    origin, peer = request.origin, request.peer
    if origin is None:
        return (peer.uid, peer.pid, {}) if peer else (None, 0, {})
    more = {"key": origin.key, "remote": origin.address} if origin.key else {}
    return origin.uid, origin.pid, more


def _plan(sup: Supervisor) -> Running:
    return cast(Running, dataclasses.asdict(sup.model.plan))


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(known)}"


def find_group(sup: Supervisor, name: str) -> Group:
    names = [g.plan.name for g in sup.model.groups]
    if name in names:
        return sup.model.groups[names.index(name)]
    if name == ONLY_GROUP and len(names) == 1:
        return sup.model.groups[0]
    if name == ONLY_GROUP:
        raise NoSuchObject(
            "which group? `workers` stands for the only one, and there are several",
            code="E0703",
            help=f"name one of them: {', '.join(names)}",
        )
    raise NoSuchObject(f'no group "{name}"', code="E0701", help=_suggest(name, names))


def find_worker(sup: Supervisor, name: str) -> Worker:
    group, _, member = name.rpartition("/")
    for worker in sup.model.workers():
        if worker.name == name:
            return worker
        if (
            group == ONLY_GROUP
            and len(sup.model.groups) == 1
            and worker.name.endswith(f"/{member}")
        ):
            return worker
    known = [w.name for w in sup.model.workers() if w.state != "stopped"]
    raise NoSuchObject(f'no worker "{name}"', code="E0702", help=_suggest(name, known))


async def _counters(sup: Supervisor) -> Counters | None:
    if sup.model.primary.state != "running":
        return None
    try:
        counters: Counters = await sup.core.ask("counters")
    except (Gone, TimedOut):
        return None
    sup.note_first_packets(counters)
    return counters


async def _ping(sup: Supervisor, _: Args) -> Ping:
    return {"name": sup.model.plan.name, "state": sup.model.state}


async def _status(sup: Supervisor, _: Args) -> Status:
    counters = await _counters(sup)
    return status.status(_plan(sup), counters, view(sup.model))


async def _stats(sup: Supervisor, _: Args) -> Stats:
    counters = await _counters(sup)
    if counters is None:
        raise DpsupError(
            "no primary is running yet", code="E0705", help="`dpsup status` shows the state"
        )
    slots: list[StatsSlot] = [
        {**slot, "id": worker.name, "state_name": worker.state}
        for slot, worker in zip(counters["slots"], sup.model.workers(), strict=True)
    ]
    processes = {
        "supervisor": process.usage(view(sup.model)["pid"]),
        **{
            c.name: process.usage(c.identity.pid)
            for c in (sup.model.primary, sup.model.seed)
            if c.identity
        },
        **{w.name: process.usage(w.pid) for w in sup.model.workers() if w.pid},
    }
    return {
        "apiVersion": status.API,
        "kind": "Stats",
        "name": sup.model.plan.name,
        "tsc_hz": sup.model.hello.get("tsc_hz", 0),
        **counters,
        "slots": slots,
        "heap_bytes": await sup.core.ask("heap"),
        "account": status.account(counters),
        "port_info": sup.model.hello.get("ports", []),
        "processes": processes,
        "lanes": await sup.core.ask("lanes"),
    }


async def _planned(sup: Supervisor, _: Args) -> Running:
    return _plan(sup)


async def _xstats(sup: Supervisor, args: Args) -> dict[str, int] | None:
    """What a port's driver counts; null: it has no device."""
    found: dict[str, int] | None = await sup.core.ask("xstats", port=want(args, "port", str))
    return found


async def _audit(sup: Supervisor, _: Args) -> Audit:
    return status.audit(sup.model.plan.name, await sup.core.ask("audit", AUDIT_S))


async def _state(sup: Supervisor, args: Args) -> StatePart:
    """What the plugin of a group keeps, from a bucket on; `next` is where to go on."""
    group = find_group(sup, want(args, "group", str))
    first = want(args, "first", int, 0)
    if not 0 <= first < steering.BUCKETS:
        raise ProtocolError(f"args.first: a bucket is wanted, 0 to {steering.BUCKETS - 1}")
    found: PrimaryState = await sup.core.ask("state", group=group.index, first=first)
    slots = zip(group.workers, found["slots"], strict=False)
    return {
        "group": group.plan.name,
        "workers": [{"id": w.name, **block} for w, block in slots if block],
        "buckets": [
            {"bucket": b, "member": group.map[b], **block}
            for b, block in enumerate(found["buckets"], first)
            if block
        ],
        "next": found["next"],
    }


async def _tables(sup: Supervisor, _: Args) -> Tables:
    rows = await sup.tables.ask("list") if sup.tables.is_wanted else []
    return {
        "apiVersion": status.API, "kind": "Tables", "name": sup.model.plan.name, "tables": rows,
    }  # fmt: skip


async def _tell(sup: Supervisor, args: Args) -> Told:
    """An operator's words for the plugin of a group."""
    group = find_group(sup, want(args, "group", str)).plan
    if not any(one[0] == limits.CONTROL for one in group.tables):
        raise UsageError(
            f'group "{group.name}" takes no words',
            code="E0536",
            why="the topology does not say that it does",
            help=f'write control = true in [[workers]] of "{group.name}", and start again',
        )
    told: Told = await _table("tell", sup, {**args, "group": group.name})
    return told


async def _table(verb: str, sup: Supervisor, args: Args) -> Any:
    """What the builder answers."""
    return await sup.tables.ask(verb, **{k: v for k, v in args.items() if k in TABLE_ARGS})


async def _scale(sup: Supervisor, args: Args) -> Scale:
    n = args.get("n")  # a number, or "+1"
    group = find_group(sup, want(args, "group", str))
    wait, dry_run = want(args, "wait", bool, True), want(args, "dry_run", bool, False)
    return await sup.scaler.scale(
        group, n if isinstance(n, str) else str(n), wait=wait, dry_run=dry_run
    )


async def _rebalance(sup: Supervisor, args: Args) -> Rebalance:
    group = find_group(sup, want(args, "group", str, ONLY_GROUP))
    seconds, dry_run = want(args, "seconds", float, 1.0), want(args, "dry_run", bool, False)
    return await sup.scaler.rebalance(group, seconds, dry_run=dry_run)


def _options(args: Args) -> Options:
    """How a rollout goes about it."""
    number, usual = (int, float), Margins()
    drops = float(want(args, "more_drops", number, usual.drops))
    return Options(
        canary=want(args, "canary", int, 1),
        max_unavailable=want(args, "max_unavailable", int, 1),
        judge=float(want(args, "judge", number, 2.0)),
        margins=Margins(drops, drops, float(want(args, "slower", number, usual.cycles))),
        forget_state=want(args, "forget_state", bool, False),
    )


async def _rollout(sup: Supervisor, args: Args) -> Rolled:
    group = find_group(sup, want(args, "group", str))
    plugin, given = want(args, "plugin", str, None), want(args, "args", dict, None)
    if given is not None and not all(isinstance(v, str) for v in given.values()):
        raise ProtocolError("args.args: a table of texts is wanted")
    one = await sup.rollouts.begin(group, plugin, given, _options(args))
    if one is not None and want(args, "wait", bool, False):
        await ended(one)
    return sup.rollouts.outcome(one, group)


async def _rollout_undo(sup: Supervisor, args: Args) -> Rolled:
    group = find_group(sup, want(args, "group", str, ONLY_GROUP))
    wait, forget = want(args, "wait", bool, True), want(args, "forget_state", bool, False)
    return await sup.rollouts.undo(group, wait=wait, forget_state=forget)


async def _rollout_status(sup: Supervisor, args: Args) -> Rollouts:
    name = want(args, "group", str, "")
    groups = [find_group(sup, name)] if name else sup.model.groups
    return {"groups": [rollout_view(sup.model, g) for g in groups]}


async def _rollout_history(sup: Supervisor, args: Args) -> Revisions:
    return sup.rollouts.history(find_group(sup, want(args, "group", str, ONLY_GROUP)))


async def _reload(sup: Supervisor, args: Args) -> Reload:
    dry_run, partial = want(args, "dry_run", bool, False), want(args, "partial", bool, False)
    return await sup.reload.reload(
        want(args, "file", str, ""), dry_run=dry_run, partial=partial, options=_options(args)
    )


def _is_settled(worker: Worker) -> bool:
    return worker.state in ("running", "backoff", "held") or not worker.wanted


def _target(sup: Supervisor, args: Args) -> str:
    """A worker, a group, or "" for all; "all" is a group's only if one has that name."""
    target = want(args, "target", str, "")
    is_word = target == ALL and ALL not in [g.plan.name for g in sup.model.groups]
    return "" if is_word else target


async def _restart(sup: Supervisor, args: Args) -> Restarted:
    """Rolling: each one is back before the next one goes."""
    must_run(sup.model)
    target = _target(sup, args)
    if "/" in target:
        workers = [find_worker(sup, target)]
    elif target:
        workers = [w for w in find_group(sup, target).workers if w.wanted]
    else:
        workers = [w for w in sup.model.workers() if w.wanted]
    done = []
    for worker in workers:
        if not worker.wanted:
            raise DpsupError(
                f"{worker.name} is not in use", code="E0706", help="`dpsup scale` starts it"
            )
        # One that is on its way down or up gets there first, then it is restarted.
        await sup.core.until(partial(_is_settled, worker), SCALE_S)
        forks = worker.restarts

        def back(worker: Worker = worker, forks: int = forks) -> bool:
            return worker.state in ("running", "held") and worker.restarts > forks

        if worker.state == "held":
            worker.history = History()
        sup.core.fire(worker, "restart")
        if not await sup.core.until(back, SCALE_S) or worker.state == "held":
            raise TimedOut(f"{worker.name} did not come back: it is {worker.state}", code="E0707")
        done.append(worker.name)
    if "/" not in target:
        # What they have loaded is older than what runs now.
        for group in {w.group: sup.model.groups[w.group] for w in workers}.values():
            sup.spares.retire(group.spares)
            sup.workers.reset_failed([], [group])
    return {"restarted": done}


async def _reset_failed(sup: Supervisor, args: Args) -> Reset:
    """Forget past deaths of a worker, a group or all, and start those that are held."""
    target = _target(sup, args)
    if "/" in target:
        workers, groups = [find_worker(sup, target)], []
    else:
        groups = [find_group(sup, target)] if target else sup.model.groups
        workers = [w for g in groups for w in g.workers]
    must_run(sup.model)
    started = sup.workers.reset_failed(workers, groups)
    names = [w.name for w in workers if w.wanted]
    sup.core.events.add(
        type="reset", name=target or sup.model.plan.name, restarted=[w.name for w in started]
    )
    await sup.core.until(lambda: all(_is_settled(w) for w in started), SCALE_S)
    return {"reset": names, "started": {w.name: w.state for w in started}}


async def _kill(sup: Supervisor, args: Args) -> Killed:
    worker = find_worker(sup, want(args, "worker", str))
    number = want(args, "signal", int, int(signal.SIGKILL))
    if worker.pidfd < 0:
        raise DpsupError(f"{worker.name} has no process: it is {worker.state}", code="E0706")
    try:
        signal.Signals(number)
    except ValueError:
        raise UsageError(f"no signal {number}", code="E0708") from None
    pid = worker.pid
    process.signal_pidfd(worker.pidfd, number)
    return {"worker": worker.name, "pid": pid, "signal": number}


async def _events(sup: Supervisor, args: Args) -> Events:
    since, most = want(args, "since", int, None), want(args, "most", int, 1000)
    if since is None:
        return {"events": _fitting(sup.core.events.since(0, most))}
    return {"events": _page(sup.core.events.after(since, most))}


async def _logs(sup: Supervisor, args: Args) -> Lines:
    name = want(args, "name", str, "")
    since, most = want(args, "since", int, None), max(1, want(args, "most", int, 1000))
    entries = [e for e in sup.core.log.since(since or 0) if not name or e["name"] == name]
    if name and not entries and name not in ("primary", "seed", "builder"):
        find_worker(sup, name)
    if since is None:
        return {"lines": _fitting(entries[-most:])}
    return {"lines": _page(entries[:most])}


def _fitting(entries: list[T]) -> list[T]:
    """The latest entries that fit in a reply."""
    left = REPLY_BYTES
    for i in range(len(entries) - 1, -1, -1):
        left -= len(json.dumps(entries[i]))
        if left < 0:
            return entries[i + 1 :]
    return entries


def _page(entries: list[T]) -> list[T]:
    """The first entries that fit in a reply: what is left comes with the next page."""
    left = REPLY_BYTES
    for i, entry in enumerate(entries):
        left -= len(json.dumps(entry))
        if left < 0 and i > 0:
            return entries[:i]
    return entries


async def _stop(sup: Supervisor, args: Args) -> Stopping:
    drain = want(args, "drain", float, None)

    async def soon() -> None:
        await asyncio.sleep(0.01)  # the answer first
        sup.stop(drain)

    sup.core.spawn(soon())
    return {"pid": view(sup.model)["pid"]}


VERBS: dict[str, Callable[[Supervisor, Args], Coroutine[Any, Any, Any]]] = {
    "ping": _ping,
    "status": _status,
    "stats": _stats,
    "plan": _planned,
    "xstats": _xstats,
    "audit": _audit,
    "state": _state,
    "scale": _scale,
    "rebalance": _rebalance,
    "restart": _restart,
    "rollout": _rollout,
    "rollout_undo": _rollout_undo,
    "rollout_status": _rollout_status,
    "rollout_history": _rollout_history,
    "reload": _reload,
    "reset_failed": _reset_failed,
    "kill": _kill,
    "events": _events,
    "logs": _logs,
    "stop": _stop,
    "tables": _tables,
    "table_show": partial(_table, "show"),
    "table_get": partial(_table, "get"),
    "table_change": partial(_table, "change"),
    "table_batch": partial(_table, "batch"),
    "table_load": partial(_table, "load"),
    "tell": _tell,
}

# Of these an event says which user and process ordered them.
CHANGING = frozenset(
    {
        "scale", "rebalance", "restart", "rollout", "rollout_undo", "reload", "reset_failed",
        "kill", "stop", "table_change", "table_batch", "table_load", "tell",
    }
)  # fmt: skip

# Of these it says how many there were, not each.
FREQUENT = frozenset({"table_change", "table_batch", "table_load"})
