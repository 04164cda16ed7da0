# SPDX-License-Identifier: BSD-3-Clause
"""Every error has a code, every code an explanation, and the page of them is fresh."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from unit.fakehost import FILE, FULL, machine

from dpsup import error_codes, errors
from dpsup.bus import messages
from dpsup.check.topology import check
from dpsup.doctor import CHECKS
from dpsup.errors import DpsupError, Problem, TopologyError
from dpsup.topology.load import load, read

ROOT = Path(__file__).resolve().parents[2]
RAISED = {"NotRunning", "NoSuchObject", "HostError", "NotPermitted", "TimedOut", "UsageError"}
# Where the class's own code says all there is to say.
GENERAL = {"chaos", "bench", "tied.py", "messages.py", "seed_socket.py", "values.py"}


def calls() -> list[tuple[Path, ast.Call, str]]:
    found = []
    for path in sorted((ROOT / "dpsup").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                of = node.func
                name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
                found.append((path, node, name))
    return found


def code_of(node: ast.Call) -> ast.expr | None:
    return next((k.value for k in node.keywords if k.arg == "code"), None)


def literals() -> set[str]:
    found = set()
    for path in sorted((ROOT / "dpsup").rglob("*.py")):
        if path.name != "error_codes.py":
            found |= set(re.findall(r"\bE\d{4}\b", path.read_text()))
    return found


def test_every_code_in_the_source_is_in_the_table_and_the_other_way_round() -> None:
    assert literals() == set(error_codes.CODES)


def test_every_place_that_reports_says_which_error_it_is() -> None:
    without = []
    for path, node, name in calls():
        problem = name == "problem"
        raised = name in RAISED | {"DpsupError"} and not GENERAL & set(path.parts)
        if (problem or raised) and code_of(node) is None:
            without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not without, f"give these a code of dpsup/error_codes.py: {', '.join(without)}"


@pytest.mark.parametrize("code", [*error_codes.CODES, *CHECKS])
def test_every_entry_says_what_why_and_what_to_do(code: str) -> None:
    entry = {**error_codes.CODES, **CHECKS}[code]
    assert entry.title
    assert not entry.title.endswith(".")
    assert len(entry.why) > 20
    assert entry.why.endswith(".")
    assert len(entry.fix) > 10
    assert bool(entry.wrong) == bool(entry.right)
    assert code[0] == "D" or code[:3] in error_codes.AREAS


def test_the_page_is_fresh() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    assert page == error_codes.page(CHECKS), "dpsup explain --markdown > docs/errors.md"
    assert all(f"### {code}: " in page for code in (*error_codes.CODES, *CHECKS))


EXAMPLES = [code for code, entry in error_codes.CODES.items() if entry.wrong]


@pytest.mark.parametrize("code", EXAMPLES)
def test_wrong_examples_have_their_error_and_right_ones_have_not(code: str) -> None:
    def found(example: str) -> set[str]:
        text = FULL
        for table in re.split(r"\n\n", example):
            head, _, rest = table.partition("\n")
            keys = rest if head.startswith("[[") else table
            for line in keys.splitlines():
                if line.startswith('name = "fw"'):
                    continue
                key = line.split(" ")[0]
                inside = f"{head}\n" if head.startswith("[[") else home(key)
                text = put(text, inside, line)
        host = machine(text)
        topology, problems = load(FILE, host)
        if topology is not None:
            problems = [*problems, *check(topology, host)]
        return {p.code for p in problems}

    def home(key: str) -> str:
        if key == "name":
            return ""
        return "[[io]]\n" if key == "burst" else "[[workers]]\n"

    def put(text: str, inside: str, line: str) -> str:
        key = line.split(" ", maxsplit=1)[0]
        if key == "period":
            return re.sub(r'period = "[^"]*"', line, text)
        at = text.index(inside) if inside else 0
        before, after = text[:at], text[at:]
        new, n = re.subn(rf"(?m)^{key} = .*$", lambda _: line, after, count=1)
        return before + (new if n else after.replace(inside, f"{inside}{line}\n", 1))

    entry = error_codes.CODES[code]
    assert code in found(entry.wrong)
    assert code not in found(entry.right)


@pytest.mark.parametrize("word", ["E0203", "e0203", "error[E0203]", "error[E0203]:", "203", "E203"])
def test_codes_as_people_type_them(word: str) -> None:
    found = error_codes.find(word, CHECKS)
    if word == "203":
        assert found is None
        return
    assert found is not None
    assert found[0] == "E0203"


def test_near_misses() -> None:
    assert error_codes.find("E9999", CHECKS) is None
    assert error_codes.nearest("E0230", CHECKS) in error_codes.CODES
    assert error_codes.nearest("unknown key", CHECKS) == "E0102"
    assert error_codes.find("d5", CHECKS) == ("D05", CHECKS["D05"])


def test_a_problem_prints_its_code_and_a_topology_error_has_its_first() -> None:
    reading = read(FILE, machine("version = 1\nnmae = 3\n"))
    lines = [str(p).splitlines()[0] for p in reading.problems]
    assert all(re.match(r"error\[E\d{4}\]: ", line) for line in lines)
    error = TopologyError(reading.problems)
    assert error.code == reading.problems[0].code


def test_the_bus_carries_the_code_beside_the_exit_code() -> None:
    for kind in (errors.NotRunning, errors.NoSuchObject, errors.TimedOut, DpsupError):
        sent = messages.as_error(kind("x", code="E0701"))
        assert sent["code"] == int(kind.exit_code)
        assert messages.as_exception(sent).code == "E0701"
        assert messages.as_exception({k: v for k, v in sent.items() if k != "id"}).code == "E0005"
    assert Problem("x").code in error_codes.CODES
