# SPDX-License-Identifier: BSD-3-Clause
"""The page of faults: what can go wrong, what dpsup does then, and which test shows it.

Rows stand here. Which tests keep a row stands at the tests: `@pytest.mark.fault(1, 47)`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


class Row(NamedTuple):
    fault: str
    outcome: str
    limit: str = ""  # what no test shows, and why


ROWS: dict[int, Row] = {
    1: Row(
        "a worker is killed (SIGKILL), at any instruction",
        "its lanes are repaired and a spare takes its seat; no packet is lost, doubled or reordered",
    ),
    2: Row(
        "a worker crashes (SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGFPE)",
        "as 1; the event has the signal, the address, the backtrace and the packet in hand",
    ),
    3: Row("a plugin leaves its process with exit(0)", "as 1: nobody may leave unasked"),
    4: Row(
        "a worker is stopped (SIGSTOP)",
        "its packets wait or its buckets are lent, as the group's `stall` says; it goes on, or is"
        " killed where that is asked for",
    ),
    5: Row("a worker hangs inside a packet", "it is killed after `stall.after`, then as 1"),
    6: Row("a worker is slow", "what does not fit its lanes is counted; nobody is killed; advice"),
    7: Row("the kernel's OOM killer takes a worker", "as 1; no packet is blamed"),
    8: Row(
        "a worker is killed while it attaches or is forked",
        "the next one comes; EAL's locks and lists are put right",
    ),
    9: Row("a worker is killed while its buckets move away", "as 1; the move comes to its end"),
    10: Row(
        "all workers of a group die at once",
        "they come back; meanwhile packets wait, pass or are dropped by name, as `on_down` says",
    ),
    11: Row(
        "a worker dies again and again",
        "backoff, then held: the instance is degraded (exit code 5) until `reset-failed`",
    ),
    12: Row("a packet kills each worker that gets it", "it is put into quarantine, and only it"),
    13: Row("an io core stands still", "the primary is ended, and a new generation starts"),
    14: Row(
        "the primary is killed",
        "its workers end at once, nothing stays behind, a new generation starts; what was in"
        " flight is lost, and said",
    ),
    15: Row(
        "the primary is stopped, or its Python hangs",
        "while its io cores forward it is left alone; else as 14",
    ),
    16: Row("the supervisor is killed", "forwarding goes on without loss; the next one adopts"),
    17: Row(
        "the supervisor is stopped, or hangs",
        "forwarding goes on; it catches up, or systemd's watchdog replaces it",
    ),
    18: Row(
        "the seed, parent of the workers, is killed; seed and others together",
        "the workers live on, a new seed is started",
    ),
    19: Row(
        "the supervisor has no memory left",
        "what it was asked fails with a reason; forwarding goes on; it goes on, or is adopted",
    ),
    20: Row(
        "a flood of messages or connections on the bus",
        "what is too much is refused and counted; others are answered; forwarding is untouched",
    ),
    21: Row("a malformed message", "an answer with an error; the supervisor never raises"),
    22: Row("a peer without a right", "refused, by the socket's mode and the user it has"),
    23: Row("the handler of keys is dead", "every key is refused"),
    24: Row("a subscriber that does not read", "it alone misses messages; memory is bounded"),
    25: Row("a request again, or of another generation", "carried out once, or not at all"),
    26: Row(
        "the disk is full, read-only, or hangs",
        "said once; forwarding goes on; a job whose output lacks packets fails",
    ),
    27: Row("too few hugepages at a start", "exit code 6, with the number and the command"),
    28: Row("memory of a file is gone (SIGBUS)", "as 1; no packet is blamed"),
    29: Row("the mempool runs out", "counted; the holder is named; the others go on"),
    30: Row(
        "a lane is full and its worker dead or stopped",
        "only its packets wait or are dropped by name; no other worker is held up",
    ),
    31: Row("a link goes down and comes back", "counted and said; no restart"),
    32: Row(
        "a port's device vanishes under load",
        "the port is absent (degraded, exit code 5), the rest forwards; it is opened again",
    ),
    33: Row(
        "shared memory is overwritten",
        "what a worker can write is checked before it is used: the worker is ended, the primary"
        " lives",
    ),
    34: Row("the clock is set", "nothing: all judgements use a monotonic clock"),
    35: Row("CPUs are starved, or the machine stands still", "nobody is killed for it"),
    36: Row("two starts at once", "one runs, the other one says which"),
    37: Row("what a dead instance left; a pid that is used again", "swept, and only that"),
    38: Row("a worker whose primary is dead", "it ends by itself; nothing attaches to the dead"),
    39: Row("parts of another build", "refused, with both versions"),
    40: Row("a topology that is wrong", "exit code 78, all errors; what runs is untouched"),
    41: Row(
        "the supervisor dies in the middle of a scale, reload, rollout or adoption",
        "the next one completes it or takes it back",
    ),
    42: Row("many clients scale, kill and restart at once", "one after the other; once each"),
    43: Row(
        "no more descriptors, processes or threads",
        "said, tried again later; nobody dies of it",
    ),
    44: Row("nobody reads what is printed", "lines are kept or dropped by count; nobody waits"),
    45: Row("a plugin's file is missing, changed, or does not fit", "refused before it is used"),
    46: Row("SIGTERM, Ctrl-C twice, a closed terminal", "an ordered end, or at once; nothing left"),
    47: Row("a kill while another kill is repaired", "as each of them alone"),
    48: Row(
        "thousands of faults in a row, and changes in between",
        "memory, descriptors, files and buffers as at the start",
    ),
}


class Kept(NamedTuple):
    test: str  # path below tests/, then its name
    long: bool


def _numbers(node: ast.expr) -> tuple[int, ...]:
    """Of a decorator pytest.mark.fault(...)."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
        return tuple(int(ast.literal_eval(arg)) for arg in node.args)
    return ()


def kept() -> Iterator[tuple[int, Kept]]:
    """Each row's tests, in order of their files."""
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.fault" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            words = [ast.unparse(one) for one in node.decorator_list]
            for one in node.decorator_list:
                for number in _numbers(one):
                    name = f"{path.relative_to(TESTS)}::{node.name}"
                    yield number, Kept(name, "pytest.mark.long" in words)


def page() -> str:
    found: dict[int, list[Kept]] = {}
    for number, one in kept():
        found.setdefault(number, []).append(one)
    out = [
        "# Faults, and what dpsup does then",
        "",
        "Each row is a fault that a test causes in a running instance, in real processes, or on a"
        " whole machine (`lab/`: `deploy/test --lab`; *long*: `deploy/test --long`). The tests that"
        " show the outcome stand below each row.",
        "",
        "Generated by `deploy/docs` from docs/make/faults.py and the tests' marks: change it there.",
        "",
        "| | fault | what dpsup does |",
        "|---|---|---|",
    ]
    out += [f"| {n} | {row.fault} | {row.outcome} |" for n, row in ROWS.items()]
    out += ["", "## Which test shows it", ""]
    for n, row in ROWS.items():
        tests = [f"`{one.test}`" + " (long)" * one.long for one in found.get(n, [])]
        said = [*tests, *([f"*not tested: {row.limit}*"] if row.limit else [])]
        out.append(f"{n}. " + ", ".join(said))
    return "\n".join(out)
