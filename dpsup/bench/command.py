# SPDX-License-Identifier: BSD-3-Clause
"""From the options of `dpsup bench` to its report: what the command line calls."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsup.bench import host, others, plot, run, text
from dpsup.bench.compare import Change, compare
from dpsup.bench.document import from_document, to_document
from dpsup.bench.model import Report
from dpsup.bench.step import Setup
from dpsup.errors import DpsupError, UsageError
from dpsup.host.input_file import read_input

if TYPE_CHECKING:
    from dpsup.documents.bench import Bench


@dataclass(frozen=True, slots=True)
class Options:
    cases: Sequence[str]
    runs: int
    seconds: float
    cores: str | None
    testpmd: str
    dpdk_test: str
    client_server_mp: str | None
    save: str | None
    compare: str | None
    plot: str | None
    markdown: str | None
    argv: Sequence[str]  # as typed, for the record


def cases() -> dict[str, str]:
    """Every case and what it measures; a case that runs only when it is named says so."""
    return {
        name: case.what + ("" if case.usual else " (only when named)")
        for name, case in run.CASES.items()
    }


def _read(path: str) -> Report:
    try:
        doc = json.loads(read_input(path))
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:
        raise DpsupError(f"{path} is no JSON: {e}") from None
    return from_document(doc, path)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as e:
        raise DpsupError(f"cannot write {path}: {e.strerror}") from None


def carry_out(options: Options, say: Callable[[str], None]) -> tuple[Bench, str]:
    """Measure and write the files that were asked for. Returns the document and its text.

    It checks first what could fail later: a bench takes minutes.
    """
    names = run.choose(options.cases)
    old = _read(options.compare) if options.compare else None
    for path in (options.save, options.plot, options.markdown):
        if path and not os.access(Path(path).absolute().parent, os.W_OK):
            raise UsageError(f"cannot write {path}: no such directory, or not permitted")
    setup = Setup(
        cores=host.choose_cores(options.cores, frozenset(os.sched_getaffinity(0))),
        seconds=options.seconds,
        runs=options.runs,
        testpmd=others.find("dpdk-testpmd", options.testpmd),
        dpdk_test=others.find("dpdk-test", options.dpdk_test),
        client_server_mp=others.find_example(options.client_server_mp)
        if options.client_server_mp
        else "",
        say=say,
    )
    # SIGTERM ends the bench as Ctrl-C does, with every process that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = run.bench(names, setup, list(options.argv))
    return _finish(report, old, options)


def _finish(report: Report, old: Report | None, options: Options) -> tuple[Bench, str]:
    doc = to_document(report)
    # Save the measurement before a comparison, which may be refused.
    if options.save:
        _write(options.save, json.dumps(doc, indent=1) + "\n")
    changes: list[Change] | None = None
    if options.plot:
        _write(options.plot, plot.svg(report))
    if options.compare and old is not None:
        changes = compare(old, report)
        doc["compared"] = {
            "with": options.compare,
            "changes": [asdict(change) for change in changes],
        }
    if options.markdown:
        link = None
        if options.plot:
            link = os.path.relpath(options.plot, Path(options.markdown).absolute().parent)
        _write(options.markdown, text.markdown(report, changes, plot=link))
    return doc, text.text(report, changes)
