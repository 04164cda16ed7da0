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
from typing import Any

from dpsup.chaos import plot, report, run
from dpsup.chaos.own import Own
from dpsup.chaos.report import Found
from dpsup.chaos.schedule import USUAL, Fault, parse_faults, parse_rate, schedule
from dpsup.check.topology import prepare
from dpsup.errors import DpsupError, NotPermitted, UsageError
from dpsup.instance.client import find
from dpsup.supervisor import launch

ONLY_OWN = ("hang", "supervisor")  # need a plugin, or a command line, that is chaos's own


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


def carry_out(options: Options, say: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """Do it, write the picture if one is asked for; the document, and the same as text.

    What could fail later is looked at first.
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
    # Asked to end, end as on Ctrl-C: everything that was started goes.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    found = _go(options, own_traffic, faults, say)
    asked = {"faults": list(kinds), "rate": rate, "seed": seed, "seconds": options.seconds}
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
            launch.detach(options.file, None, say)
            stack.callback(launch.stop, plan.name, None)
            found = Found(plan.name, False)
        else:
            found = Found(find(options.name).name, False)
        conductor = run.Conductor(found, own, say)
        try:
            conductor.go(faults, options.seconds)
        except DpsupError as e:
            # What was found until then is worth a report.
            found.seconds = found.seconds or conductor.clock()
            found.problems.append(str(e))
            conductor.target.forget()
    return found
