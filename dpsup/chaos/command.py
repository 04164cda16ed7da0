# SPDX-License-Identifier: BSD-3-Clause
"""From the options of `dpsup chaos` to its report: what the command line calls."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.chaos import plot, report, run
from dpsup.chaos.own import Own
from dpsup.chaos.report import Found
from dpsup.chaos.schedule import USUAL, Fault, parse_faults, parse_rate, schedule
from dpsup.check.topology import prepare
from dpsup.errors import DpsupError, NotPermitted, UsageError
from dpsup.instance.client import find
from dpsup.supervisor import launch
from dpsup.supervisor.detach import start_detached

if TYPE_CHECKING:
    from dpsup.documents.chaos import Asked, Chaos

ONLY_OWN = ("hang", "supervisor")  # need chaos's own plugin or command line


@dataclass(frozen=True, slots=True)
class Options:
    name: str | None
    file: str | None
    faults: str | None  # None: the usual ones that the topology allows
    rate: str
    seed: int | None
    seconds: float
    plot: str | None


def faults_of(text: str | None, own_traffic: bool) -> tuple[str, ...]:
    """The kinds that are asked for, or the usual ones. Raises: UsageError."""
    if text is None:
        return tuple(k for k in USUAL if own_traffic or k not in ONLY_OWN)
    kinds = parse_faults(text)
    if not own_traffic and (strange := [k for k in kinds if k in ONLY_OWN]):
        raise UsageError(
            f"{', '.join(strange)}: only in chaos's own topology",
            help="leave -n NAME and FILE out, or the fault",
        )
    return kinds


def carry_out(options: Options, say: Callable[[str], None]) -> tuple[Chaos, str]:
    """Run, and write the picture if one is asked for. Returns the document and its text.

    It checks first what could fail later.
    """
    own_traffic = options.name is None and options.file is None
    kinds = faults_of(options.faults, own_traffic)
    rate = parse_rate(options.rate)
    if options.name and options.file:
        raise UsageError("-n NAME and FILE: choose one", help="-n is an instance that runs")
    if os.geteuid() != 0:
        raise NotPermitted("faults are signals to an instance's processes", help="run it as root")
    if options.plot and not os.access(Path(options.plot).absolute().parent, os.W_OK):
        raise UsageError(f"cannot write {options.plot}: no such directory, or not permitted")
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    faults = schedule(seed, kinds, rate, options.seconds)
    # SIGTERM ends the run as Ctrl-C does, with every process that it started.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    found = _go(options, own_traffic, faults, say)
    asked: Asked = {"faults": list(kinds), "rate": rate, "seed": seed, "seconds": options.seconds}
    doc = report.document(found, asked, run.host())
    if options.plot:
        try:
            Path(options.plot).write_text(plot.svg(doc))
        except OSError as e:
            raise DpsupError(f"cannot write {options.plot}: {e.strerror}") from None
    return doc, report.text(doc)


def _go(
    options: Options, own_traffic: bool, faults: list[Fault], say: Callable[[str], None]
) -> Found:
    with ExitStack() as stack:
        own = None
        if own_traffic:
            found = Found(f"chaos{os.getpid()}", True)
            own = stack.enter_context(Own(found, say))
        elif options.file:
            _, plan, _ = prepare(options.file)
            start_detached(options.file, None, say)
            stack.callback(launch.stop, plan.name, None)
            found = Found(plan.name, False)
        else:
            found = Found(find(options.name).name, False)
        conductor = run.Conductor(found, own, say)
        try:
            conductor.go(faults, options.seconds)
        except DpsupError as e:
            # The results so far are worth a report.
            found.seconds = found.seconds or conductor.clock()
            found.problems.append(str(e))
            conductor.target.forget()
    return found
