# SPDX-License-Identifier: BSD-3-Clause
"""The same commands for several hosts: `dpsup -n host1,host2 COMMAND`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dpsup.cli.options import print_json, say
from dpsup.errors import Exit
from dpsup.instance import fleet
from dpsup.instance.client import Instance, connect
from dpsup.instance.fleet import Answer

if TYPE_CHECKING:
    from dpsup.view.columns import Line

LONG_S = 600.0  # for orders, which end by their own deadlines
EVERY_S = 1.0


def _by(call: Callable[[Instance], Any]) -> Callable[[str], Any]:
    def work(host: str) -> Any:
        with connect(host) as instance:
            return call(instance)

    return work


def _degraded(doc: Any) -> int:
    return int(Exit.DEGRADED) if doc["state"] == "degraded" else 0


# --- how they are ---------------------------------------------------------------------------------


def _pictures(hosts: Sequence[str], over: float, deadline: float) -> list[Answer]:
    from dpsup.view import watch

    return fleet.ask(hosts, lambda host: next(watch.pictures(host, over, over)), deadline + over)


def _lines(answers: Sequence[Answer], *, wide: bool) -> list[Line]:
    from dpsup.view import answers as tables
    from dpsup.view import terminal

    return tables.hosts(fleet.document(answers, _degraded), terminal.screen(wide=wide))


def status(
    ctx: click.Context, hosts: Sequence[str], over: float, *, watch: bool, output: str
) -> None:
    """A line for each host; its exit code."""
    deadline = ctx.obj.get("deadline") or fleet.ANSWER_S
    if watch and output != "json":
        top(ctx, hosts, EVERY_S, wide=output == "wide")
        return
    while True:
        begun = time.monotonic()
        if output == "json":
            answers = fleet.ask(hosts, _by(lambda one: one.status(timeout=deadline)), deadline)
            print_json(fleet.document(answers, _degraded))
        else:
            from dpsup.view import terminal

            answers = _pictures(hosts, over, deadline)
            terminal.print_lines(_lines(answers, wide=output == "wide"))
        if not watch:
            ctx.exit(fleet.exit_code(answers, _degraded))
        time.sleep(max(0.0, begun + EVERY_S - time.monotonic()))


def top(ctx: click.Context, hosts: Sequence[str], every: float, *, wide: bool = False) -> None:
    """The same in place, until Ctrl-C."""
    from dpsup.view import terminal

    deadline = ctx.obj.get("deadline") or 3.0
    with contextlib.suppress(KeyboardInterrupt), terminal.live() as draw:
        while True:
            draw(_lines(_pictures(hosts, min(every, 0.3), deadline), wide=wide))
            time.sleep(every)


# --- orders ---------------------------------------------------------------------------------------


def each(
    ctx: click.Context,
    hosts: Sequence[str],
    call: Callable[[Instance], Any],
    show: Callable[[Any], object],
    output: str,
    *,
    of: Callable[[Any], int] = lambda _: 0,
    reads: bool = False,
) -> None:
    """One call for each host at once; what `show` prints of an answer comes after the host."""
    deadline = ctx.obj.get("deadline") or (fleet.ANSWER_S if reads else LONG_S)
    _finish(ctx, fleet.ask(hosts, _by(call), deadline), show, output, of)


def rollout(
    ctx: click.Context, hosts: Sequence[str], call: Callable[[Instance], Any],
    show: Callable[[Any], object], output: str,
) -> None:  # fmt: skip
    """Host after host, each with its own canary and judge. The first host that goes back, or does
    not answer, ends it: the hosts after it keep the old version."""

    def work(host: str) -> Any:
        if output != "json":
            say(f"{host} ...")
        return _by(call)(host)

    def bad(doc: Any) -> int:
        return int(Exit.FAILED) if doc["changed"] and doc["phase"] != "done" else 0

    answers = fleet.one_by_one(hosts, work, lambda doc: not bad(doc))
    _finish(ctx, answers, show, output, bad)


def _finish(
    ctx: click.Context, answers: Sequence[Answer], show: Callable[[Any], object], output: str,
    of: Callable[[Any], int],
) -> None:  # fmt: skip
    if output == "json":
        print_json(fleet.document(answers, of))
    else:
        for one in answers:
            if one.error is not None:
                say(f"{one.host}: error[{one.error.code}]: {one.error}")
                continue
            click.echo(f"{one.host}: ", nl=False)
            show(one.value)
    ctx.exit(fleet.exit_code(answers, of))


# --- what happened --------------------------------------------------------------------------------


def events(
    ctx: click.Context, hosts: Sequence[str], past: Callable[[str], list[dict[str, Any]]],
    show: Callable[[dict[str, Any]], object], output: str,
) -> None:  # fmt: skip
    """Those of all hosts in the order of their clocks; each has its host."""
    deadline = ctx.obj.get("deadline") or fleet.ANSWER_S
    answers = fleet.ask(hosts, past, deadline)
    if output == "json":
        print_json(fleet.document(answers))
    else:
        found = [{"host": one.host, **entry} for one in answers for entry in one.value or ()]
        for entry in sorted(found, key=lambda entry: float(entry["at"])):
            show(entry)
        for one in answers:
            if one.error is not None:
                say(f"{one.host}: error[{one.error.code}]: {one.error}")
    ctx.exit(fleet.exit_code(answers))
