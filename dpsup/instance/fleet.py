# SPDX-License-Identifier: BSD-3-Clause
"""One call for instances on several hosts: all at once with a deadline, or one after the other.

What one host does not answer does not keep the answers of the others: each host has an answer, a
document or an error.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dpsup.errors import DpsupError, TimedOut

if TYPE_CHECKING:
    from dpsup.documents.fleet import Fleet, HostAnswer

AT_ONCE = 64  # hosts that are asked at the same time
ANSWER_S = 10.0  # for a host to show how it is
NOT_BEGUN = "E0476"

Work = Callable[[str], Any]


class Answer(NamedTuple):
    host: str
    value: Any = None
    error: DpsupError | None = None
    seconds: float = 0.0


def ask(hosts: Sequence[str], work: Work, deadline_s: float) -> list[Answer]:
    """What `work` returns for each host, or raises, in their order; TimedOut for a host that is
    late."""
    found: queue.Queue[Answer] = queue.Queue()
    waiting = iter(hosts)
    turn = threading.Lock()

    def run() -> None:
        while True:
            with turn:
                host = next(waiting, None)
            if host is None:
                return
            found.put(_answer(host, work))

    for _ in range(min(AT_ONCE, len(hosts))):
        # A daemon: a thread that waits for a late host does not keep the command from its end.
        threading.Thread(target=run, daemon=True).start()
    answers: dict[str, Answer] = {}
    until = time.monotonic() + deadline_s
    while len(answers) < len(hosts):
        try:
            one = found.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        answers[one.host] = one
    return [answers.get(host) or _late(host, deadline_s) for host in hosts]


def one_by_one(hosts: Sequence[str], work: Work, is_good: Callable[[Any], bool]) -> list[Answer]:
    """The same, each host after the one before; from the first on that fails, or is not good, the
    rest is not begun."""
    answers: list[Answer] = []
    stopped_by = ""
    for host in hosts:
        if stopped_by:
            answers.append(Answer(host, error=_not_begun(host, stopped_by)))
            continue
        answers.append(_answer(host, work))
        if answers[-1].error is not None or not is_good(answers[-1].value):
            stopped_by = host
    return answers


def _answer(host: str, work: Work) -> Answer:
    begun = time.monotonic()
    try:
        value, error = work(host), None
    except DpsupError as e:
        value, error = None, e
    except Exception as e:  # a bug, or an answer of an older dpsup that lacks a field
        value, error = None, DpsupError(f"internal error: {e!r}", code="E0001")
    return Answer(host, value, error, time.monotonic() - begun)


def _late(host: str, deadline_s: float) -> Answer:
    error = TimedOut(f"{host} did not answer within {deadline_s:g} s", code="E0904")
    return Answer(host, None, error, deadline_s)


def _not_begun(host: str, stopped_by: str) -> DpsupError:
    return DpsupError(
        f"not begun, as {stopped_by} did not come to a good end",
        code=NOT_BEGUN,
        help=f"look at {stopped_by}, then give the command for the hosts from {host} on",
    )


def exit_code(answers: Sequence[Answer], of: Callable[[Any], int] = lambda _: 0) -> int:
    """0 where all went well; the code of those that did not, where they agree; else 1. `of`: the
    exit code that a document has."""
    codes = {_code(one, of) for one in answers} - {0}
    return codes.pop() if len(codes) == 1 else int(bool(codes))


def _code(answer: Answer, of: Callable[[Any], int]) -> int:
    return of(answer.value) if answer.error is None else int(answer.error.exit_code)


def document(answers: Sequence[Answer], of: Callable[[Any], int] = lambda _: 0) -> Fleet:
    def row(one: Answer) -> HostAnswer:
        return {
            "host": one.host,
            "exit_code": _code(one, of),
            "code": one.error.code if one.error else "",
            "error": one.error.message if one.error else "",
            "seconds": round(one.seconds, 3),
            "document": one.value,
        }

    return {"apiVersion": "dpsup/v1", "kind": "Fleet", "hosts": [row(one) for one in answers]}
