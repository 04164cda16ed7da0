# SPDX-License-Identifier: BSD-3-Clause
"""Who may import what: the rules of the layout, read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "dpsup").rglob("*.py"))
HOMES = {
    "zmq": {"bus"},
    "psutil": {"process"},
    "click": {"cli"},
    "pydantic": {"schema"},
    "pydantic_core": {"schema"},
    "rich": {"render"},
    "cffi": set(),
    "dpsup._shim": {"primary"},
    "matplotlib": {"bench/plot", "chaos/plot"},
    "prometheus_client": {"metrics"},
    "graphviz": {"drawing"},
}
PURE = {
    "bursts", "changes", "codes", "decode", "errors", "failover", "faults", "graph", "jsonschema",
    "judging", "limits", "machine", "manpage", "messages", "noticing", "pcapng", "plan", "policy",
    "rates", "relations", "source", "status", "steering", "tables", "templates", "topology",
    "values", "views", "words",
    "chaos/report", "chaos/traffic",
    "advise/cores", "advise/lanes", "advise/piece", "advise/pools", "advise/report",
    "advise/window", "report/charts", "report/html", "report/page", "report/style",
    "bench/compare", "bench/model", "bench/rows", "bench/stats", "bench/table",
}  # fmt: skip
WORLD = {
    "asyncio", "ctypes", "fcntl", "logging", "os", "random", "select", "signal", "socket",
    "subprocess", "threading", "time",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(path: Path) -> str:
    """Of a source, its path in the package: "bus", "bench/stats"."""
    return path.relative_to(ROOT / "dpsup").with_suffix("").as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_third_party_packages_have_one_home(path: Path) -> None:
    names = imports(path)
    for package, homes in HOMES.items():
        if any(n == package or n.startswith(f"{package}.") for n in names):
            assert module(path) in homes, f"{path.name} imports {package}"


@pytest.mark.parametrize("stem", sorted(PURE))
def test_the_core_is_pure(stem: str) -> None:
    names = {n.split(".")[0] for n in imports(ROOT / "dpsup" / f"{stem}.py")}
    assert not names & WORLD


def test_every_module_is_installed() -> None:
    listed = set(re.findall(r"'dpsup/([\w/]+)\.py'", (ROOT / "meson.build").read_text()))
    assert listed == {module(p) for p in SOURCES}


def test_workers_know_nothing_of_the_primary_and_the_shim_nothing_of_workers() -> None:
    for path in (ROOT / "workers").rglob("*.[ch]"):
        assert '"primary.h"' not in path.read_text()
        assert '"shim.h"' not in path.read_text()
    for path in (ROOT / "shim").rglob("*.[ch]"):
        assert '"worker.h"' not in path.read_text()


def test_a_worker_makes_no_eal_call() -> None:
    # rte_ring's and rte_mbuf's inline functions are memory accesses; these would be EAL.
    eal = re.compile(r"\brte_(eal_|malloc|zmalloc|memzone|mempool|mp_|eth_|errno|lcore|log)")
    for name in ("loop.c", "worker.c", "watch.c", "perf.c", "plugin.c", "portmap.c", "state.c"):
        text = re.sub(r"//.*|/\*.*?\*/", "", (ROOT / "workers" / name).read_text(), flags=re.DOTALL)
        assert not eal.search(text), name
