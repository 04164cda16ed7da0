# SPDX-License-Identifier: BSD-3-Clause
"""The rules of the layout, read from the sources: who may import what, transitively."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dpsup"


def name_of(path: Path) -> str:
    """Of a source, its module's name below the package: "bus/sockets"; a package's own: "bus"."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return name.removesuffix("/__init__").replace("__init__", "dpsup")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}

# Each third-party package, and each part of the standard library that reaches into C, has one home:
# a module, or a directory ("cli/").
HOMES = {
    "zmq": {"bus/"},
    "psutil": {"host/process"},
    "click": {"cli/"},
    "pydantic": {"topology/typed"},
    "pydantic_core": {"topology/typed"},
    "cffi": set(),
    "ctypes": set(),
    "dpsup._shim": {"primary/shim"},
    # libpcap, libseccomp, prctl, setns and syscall, in ABI mode
    "dpsup._libraries": {
        "packets/filter",
        "host/calls",
        "host/landlock",
        "host/process",
        "host/rights",
        "host/tap",
    },
    "prometheus_client": {"instance/openmetrics"},
    "pyroute2": {"host/routing"},
    "graphviz": {"view/dot"},
}

# A rule for a directory: all modules in it, and all that they import, are free of effects.
PURE = {
    "topology", "plan", "view", "documents", "tables",
    "errors", "text", "error_codes", "limits",
    "bus/messages", "instance/status", "instance/rates", "instance/since", "instance/where",
    "packets/decode", "packets/flow", "packets/pcapng", "inspect/perf_report",
    "supervisor/fsm", "supervisor/policy", "supervisor/steering", "supervisor/autoscale",
    "supervisor/rollout_judge", "supervisor/notices", "supervisor/stall", "supervisor/histograms",
    "supervisor/stories",
    "cli/manpage", "probe/judge", "follow/kernel", "follow/wanted",
    "advise", "report",
    "bench/compare", "bench/document", "bench/model", "bench/plot", "bench/rows", "bench/stats",
    "bench/text", "chaos/plot", "chaos/report", "chaos/schedule", "packets/traffic",
}  # fmt: skip
# The modules of those directories that carry out what the others decide.
EFFECTS = {
    "view/terminal", "view/top", "view/watch", "view/dot", "advise/command", "report/gather",
}  # fmt: skip
WORLD = {
    "asyncio", "ctypes", "fcntl", "importlib", "logging", "multiprocessing", "os", "pathlib",
    "random", "select", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading",
    "time",
}  # fmt: skip


def is_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(path: Path, *, checking: bool = True) -> set[str]:
    """Dotted names of all that a source imports, at its top and in its functions."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if is_checking(node) and not checking:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text()))
    return found


@cache
def ours(module: str, *, checking: bool = True) -> frozenset[str]:
    """The modules of dpsup that a module imports."""
    names = imported(MODULES[module], checking=checking)
    below = {n.removeprefix("dpsup.").replace(".", "/") for n in names if n.startswith("dpsup.")}
    return frozenset((below & MODULES.keys()) - {module})


def closure(module: str) -> set[str]:
    """All modules that are loaded at run time, sooner or later, because of this one."""
    seen, ahead = set(), [module]
    while ahead:
        one = ahead.pop()
        if one not in seen:
            seen.add(one)
            ahead += ours(one, checking=False)
    return seen


def is_pure(module: str) -> bool:
    return module not in EFFECTS and (module in PURE or module.rpartition("/")[0] in PURE)


@pytest.mark.parametrize("module", MODULES)
def test_third_party_packages_have_one_home(module: str) -> None:
    names = imported(MODULES[module])
    for package, homes in HOMES.items():
        if any(n == package or n.startswith(f"{package}.") for n in names):
            directory = f"{module.rpartition('/')[0]}/"
            assert homes & {module, directory}, f"{module} imports {package}"


@pytest.mark.parametrize("module", MODULES)
def test_no_third_party_package_is_without_a_home(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(MODULES[module])}
    assert tops <= HOMES.keys() | sys.stdlib_module_names | {"dpsup"}


@pytest.mark.parametrize("module", [m for m in MODULES if is_pure(m)])
def test_what_is_pure_imports_no_effect(module: str) -> None:
    for one in closure(module):
        # A generator with a seed of its own is a value; random's functions share a hidden one.
        names = imported(MODULES[one], checking=False) - {"random.Random"}
        if "random" in names and "random.Random" in imported(MODULES[one]):
            names.remove("random")
        effects = {n.split(".")[0] for n in names} & WORLD
        assert not effects, f"{module} reaches {one}, which imports {', '.join(sorted(effects))}"


@pytest.mark.parametrize("module", MODULES)
def test_no_constant_of_the_c_headers_is_typed_again(module: str) -> None:
    """They are generated: dpsup._abi."""
    retyped = re.compile(r"^\w+(?:, \w+)* = [-\d(\"{].*#.*(?:\bDPS_|/\w+\.[ch]\b)", re.MULTILINE)
    assert not retyped.findall(MODULES[module].read_text())


def test_no_module_imports_itself_by_a_detour() -> None:
    """Not even for its types: a reader follows those too."""
    for module in MODULES:
        seen: set[str] = set()
        ahead = list(ours(module))
        while ahead:
            one = ahead.pop()
            assert one != module, f"{module} is on a circle of imports"
            if one not in seen:
                seen.add(one)
                ahead += ours(one)


def test_no_directory_imports_another_one_by_a_detour() -> None:
    """Directories have an order: what is above may import what is below, and never the reverse."""
    above: dict[str, set[str]] = {}
    for module in MODULES:
        here, below = module.partition("/")[0], {m.partition("/")[0] for m in ours(module)}
        above.setdefault(here, set()).update(below - {here, "dpsup"})
    for start in above.keys() - {"dpsup", "__main__"}:
        seen: set[str] = set()
        ahead = list(above[start])
        while ahead:
            one = ahead.pop()
            assert one != start, f"{start}/ is on a circle of imports"
            if one not in seen:
                seen.add(one)
                ahead += above.get(one, set())


# A word of a module's name, and all modules that have it: one thing, or aspects of it.
CLAIMED = {
    "attach": set(),  # a process becomes one of EAL's (eal_locks); `adopt` is a supervisor's
    "adopt": {"supervisor/adopt"},
    "control": set(),
    "faults?": set(),
    "hold": set(),
    "lend": set(),  # is of packets, in C: a supervisor that moves buckets rebuckets
    "look": {"cli/look"},  # at an instance: client.Instance.look; of the SDK: a plugin's at a burst
    "machine|host": {"bench/host", "host", "host/machine"},
    "memory": {"check/memory", "doctor/memory", "plan/memory"},  # hugepages
    "mirror|capturing": set(),
    "tables?": {
        "check/own_tables",
        "cli/table",
        "documents/tables",
        "supervisor/tables",
        "tables",
    },  # live ones
}


@pytest.mark.parametrize("word", CLAIMED)
def test_no_name_is_claimed_twice(word: str) -> None:
    claims = re.compile(rf"(.*[/_])?({word})(_.*)?")
    assert {module for module in MODULES if claims.fullmatch(module)} == CLAIMED[word]


# Those that look at an instance, as `Instance.look` does.
LOOKS = {
    "instance/client",
    "instance/everywhere",
    "instance/exporter",
    "instance/mark",
    "instance/openmetrics",
    "view/top",
}


def test_what_looks_looks_at_an_instance() -> None:
    """Watchers observe, locks are reviewed; in the SDK a plugin looks at a burst."""
    look = re.compile(r"def _?look\b")
    assert {m for m, path in MODULES.items() if look.search(path.read_text())} == LOOKS


@pytest.mark.parametrize("word", ["Machine", "Host"])
def test_one_class_has_the_name(word: str) -> None:
    """This machine, as the module host/ sees it; those of the state machine are StateMachines."""
    known = {
        "Machine": {"host/tree"},
        "Host": {"host/machine", "documents/chaos"},
    }
    owner = re.compile(rf"^class {word}\b", re.MULTILINE)
    assert {m for m, path in MODULES.items() if owner.search(path.read_text())} == known[word]


def test_python_lends_nothing() -> None:
    """Packets are lent, by C; its only `lend` is the key of a document."""
    for module, path in MODULES.items():
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert not {n for n in names if re.fullmatch(r"(.*_)?(lend|lends|lending)(_.*)?", n)} - {
            "lend_after"
        }, module


def test_a_long_file_says_why() -> None:
    """In its head: "Over 600 lines: ..."."""
    tops = ("dpsup", "shim", "workers", "tests", "bench", "docs", "deploy")
    kinds = {".py", ".c", ".h", ".rs", ".sh", ""}
    sources = (path for top in tops for path in sorted((ROOT / top).rglob("*")))
    for path in sources:
        if path.is_file() and path.suffix in kinds:
            lines = path.read_text(errors="replace").splitlines()
            assert len(lines) <= 600 or any("Over 600 lines: " in line for line in lines[:20]), path


NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}  # its public methods
GENERATED = {"_abi", "_build", "_libraries", "_shim"}  # modules that the build writes


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def intrusions(tree: ast.Module) -> Iterator[str]:
    """Uses of a private name that this file does not define: imports, and attributes of anything
    but `self` and `cls`."""
    defined = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                defined.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own and node.attr not in defined | NAMEDTUPLE | GENERATED:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dpsup"):
            for alias in node.names:
                if is_private(alias.name) and alias.name not in GENERATED:
                    yield f"line {node.lineno}: {alias.name} of {node.module}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_reaches_into_another_s_private_parts(module: str) -> None:
    assert not list(intrusions(ast.parse(MODULES[module].read_text())))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("client._socket.close()", ["line 1: client._socket"]),
        ("from dpsup.view.dot import _RED", ["line 1: _RED of dpsup.view.dot"]),
        ("self._a._b = 1", ["line 1: self._a._b"]),
        ("class A:\n  def __init__(self, o):\n    self._x = o._x", []),
        ("point._replace(x=1); self._own.go(); a.__class__", []),
    ],
)
def test_what_an_intrusion_is(source: str, found: list[str]) -> None:
    assert list(intrusions(ast.parse(source))) == found


# --- the supervisor's parts and its engine --------------------------------------------------------

SUPERVISOR = {name: path for name, path in MODULES.items() if name.startswith("supervisor/")}
# Put the supervisor together, and run it: they know what the parts do not.
WHOLE = {"supervisor/assembly", "supervisor/launch", "supervisor/verbs"}


def protocols(tree: ast.AST) -> dict[str, set[str]]:
    """The names of the classes that are protocols, and the methods that each adds."""
    return {
        node.name: {
            n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Protocol" for b in node.bases)
    }


TREES = {name: ast.parse(path.read_text()) for name, path in SUPERVISOR.items()}
PROTOCOLS = {name: verbs for tree in TREES.values() for name, verbs in protocols(tree).items()}


def test_one_module_knows_the_engine() -> None:
    assert {m for m in MODULES if "supervisor/engine" in ours(m)} == {"supervisor/assembly"}
    for module in SUPERVISOR.keys() - WHOLE:
        assert "supervisor/assembly" not in ours(module), module


@pytest.mark.parametrize("module", sorted(SUPERVISOR.keys() - WHOLE))
def test_a_part_takes_a_protocol(module: str) -> None:
    """As `core` of its constructor, of a function, or of a dataclass."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.arg):
            named, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            named, annotation = ast.unparse(node.target), node.annotation
        else:
            continue
        kind = ast.unparse(annotation) if annotation else ""
        if named == "core" and kind != "int":  # that one is a CPU
            assert kind in PROTOCOLS, f"{module}: core: {kind}"


@pytest.mark.parametrize("verb", sorted(PROTOCOLS["Core"]))
def test_what_one_part_alone_needs_is_not_the_core_s(verb: str) -> None:
    """It stands in a protocol of that part's own."""
    use = re.compile(rf"core\.{verb}\b")
    assert sum(bool(use.search(p.read_text())) for m, p in SUPERVISOR.items() if m not in WHOLE) > 1


def test_workers_know_nothing_of_the_primary_and_the_shim_nothing_of_workers() -> None:
    for path in (ROOT / "workers").rglob("*.[ch]"):
        if path.parent.name == "try":
            continue  # a program of its own, which plays the primary
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
