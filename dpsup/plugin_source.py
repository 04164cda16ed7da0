# SPDX-License-Identifier: BSD-3-Clause
"""A plugin's source in Python: what it declares, read without running it and as it is loaded.

A worker imports this module, and nothing of dpsup's that would load DPDK.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from dpsup import _abi

SUFFIX = ".py"
FUNCTION, OTHER = "function", "other"  # what a name of the source is
COPY = re.compile(r"[0-9a-f]{16}-(.+)")  # a private copy's name: instance/plugins.py
NEEDS = {
    "vlan": _abi.DPS_PLUGIN_VLAN,
    "timestamp": _abi.DPS_PLUGIN_TIMESTAMP,
    "hash": _abi.DPS_PLUGIN_HASH,
    "no_bytes": _abi.DPS_PLUGIN_NO_BYTES,
    "touches": _abi.DPS_PLUGIN_TOUCHES,
}
NUMBERS = {
    "rewrites": _abi.DPS_PLUGIN_REWRITES,
    "prepends": _abi.DPS_PLUGIN_REWRITES,
    "emits": _abi.DPS_PLUGIN_EMITS,
    "state_size": _abi.DPS_PLUGIN_STATE,
    "bucket_state_size": _abi.DPS_PLUGIN_BUCKET_STATE,
    "state_version": 0xFFFFFFFF,
    "tick_us": 0xFFFFFFFF,
    "bucket_tick_us": 0xFFFFFFFF,
}  # fmt: skip
INTERVALS = {"tick": _abi.DPS_PLUGIN_TICK_US, "bucket_tick": _abi.DPS_PLUGIN_BUCKET_TICK_US}
FUNCTIONS = {
    "packet": "p",
    "init": "env",
    "seated": "env",
    "fini": "",
    "control": "text",
    "tick": "now",
    "bucket_tick": "now, bucket, bucket_state",
}
NOT_YET = ("look",)  # of the C header


class SourceError(Exception):
    """Why a source is no plugin; with file and line where they are known."""


class Declared(NamedTuple):
    """In the order that workers/python/pyplugin.c reads."""

    name: str
    needs: int
    rewrites: int
    prepends: int
    reasons: tuple[str, ...]
    counters: tuple[str, ...]
    state_size: int
    bucket_state_size: int
    state_version: int
    emits: int
    policy: int
    gauges: int
    tick_us: int = 0
    bucket_tick_us: int = 0


def stem_of(path: str) -> str:
    """The file's own name, also of a private copy, without its suffix."""
    name = Path(path).name
    copy = COPY.fullmatch(name)
    return (copy[1] if copy else name).removesuffix(SUFFIX)


def _number(found: Mapping[str, Any], key: str) -> int:
    value, most = found.get(key, 0), NUMBERS[key]
    if type(value) is not int or not 0 <= value <= most:
        raise SourceError(f"{key} is {value!r}: a number from 0 to {most} is wanted")
    return value


def _names(found: Mapping[str, Any], key: str, most: int) -> tuple[str, ...]:
    value = found.get(key, ())
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise SourceError(f"{key} is {value!r}: a list of names is wanted")
    if len(value) > most:
        raise SourceError(f"{key} has {len(value)} names: at most {most} are possible")
    for one in value:
        if not one or "\0" in one or len(one.encode()) > _abi.DPS_NAME - 1:
            raise SourceError(f"{key}: {one!r} is no name of 1 to {_abi.DPS_NAME - 1} bytes")
    return tuple(value)


def _bits(found: Mapping[str, Any], key: str, of: tuple[str, ...], what: str) -> int:
    bits = 0
    for one in _names(found, key, len(of)):
        if one not in of:
            raise SourceError(f"{key} names {one!r}, which is none of `{what}`")
        bits |= 1 << of.index(one)
    return bits


def declared(found: Mapping[str, Any], stem: str) -> Declared:
    """From a module's names. Raises: SourceError."""
    name = found.get("name", stem)
    if not isinstance(name, str) or not name or "\0" in name:
        raise SourceError(f"name is {name!r}: a text is wanted")
    needs = 0
    for one in _names(found, "needs", len(NEEDS)):
        if one not in NEEDS:
            raise SourceError(f"needs names {one!r}: there are {', '.join(NEEDS)}")
        needs |= NEEDS[one]
    numbers = {key: _number(found, key) for key in NUMBERS}
    if numbers["rewrites"] + numbers["prepends"] > _abi.DPS_PLUGIN_REWRITES:
        raise SourceError(
            f"rewrites + prepends is more than {_abi.DPS_PLUGIN_REWRITES}, the bytes that can be"
            " put back"
        )
    for word, least in INTERVALS.items():
        if 0 < numbers[f"{word}_us"] < least:
            raise SourceError(
                f"{word}_us is {numbers[f'{word}_us']}: 0, or a number from {least} on is wanted"
            )
    reasons = _names(found, "reasons", _abi.DPS_PLUGIN_REASONS)
    counters = _names(found, "counters", _abi.DPS_PLUGIN_COUNTERS)
    return Declared(
        name=name,
        needs=needs,
        reasons=reasons,
        counters=counters,
        policy=_bits(found, "policy", reasons, "reasons"),
        gauges=_bits(found, "gauges", counters, "counters"),
        **numbers,
    )


def _ticks(found: Mapping[str, Any], defined: Mapping[str, Any]) -> None:
    """Each tick has its interval. `found`: values that are known; `defined`: all names, and what is
    there. Raises: SourceError."""
    for word in INTERVALS:
        interval = f"{word}_us"
        known = interval in found or interval not in defined
        if found.get(interval, 0) and not defined.get(word):
            raise SourceError(f"{interval} has no {word}({FUNCTIONS[word]})")
        if known and not found.get(interval, 0) and defined.get(word) == FUNCTION:
            raise SourceError(f"{interval} is wanted for {word}(): how often, in microseconds")
    known = "bucket_state_size" in found or "bucket_state_size" not in defined
    if known and found.get("bucket_tick_us") and not found.get("bucket_state_size"):
        raise SourceError("bucket_tick_us is there without bucket_state_size: only buckets with"
                          " state get ticks")  # fmt: skip


# --- without running it --------------------------------------------------------------------------


def examine(source: bytes, file: str) -> Declared:
    """What a source says of itself; a value that only running it would tell is left at 0. Raises:
    SourceError."""
    try:
        tree = compile(source, file, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        compile(tree, file, "exec", dont_inherit=True)  # finds what no parser does
    except SyntaxError as e:
        raise SourceError(_syntax(e, file)) from None
    except (ValueError, RecursionError, MemoryError) as e:
        raise SourceError(f"{file}: Python cannot read it: {e}") from None
    defined = _functions(tree, file)
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for node in tree.body:
        target: ast.expr | None = None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target = node.target
        if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign):
            found.pop(target.id, None)
            try:
                assert node.value is not None
                found[target.id] = ast.literal_eval(node.value)
                lines[target.id] = node.lineno
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    if not {"reasons", "counters"} <= found.keys():  # said by code, or not at all
        found = {k: v for k, v in found.items() if k not in ("policy", "gauges")}
    try:
        facts = declared(found, stem_of(file))
        if "*" not in defined:
            _ticks(found, defined)
        return facts
    except SourceError as e:
        line = lines.get(str(e).partition(" ")[0].rstrip(":"), 0)
        raise SourceError(f"{file}:{line}: {e}" if line else f"{file}: {e}") from None


def has_control(source: bytes, file: str) -> bool:
    """May a source that was examined have `control`? A star import may bring any name."""
    tree = compile(source, file, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return bool({"control", "*"} & _functions(tree, file).keys())


def _functions(tree: ast.Module, file: str) -> dict[str, str]:
    """Checks them. The names that the source defines, and whether each is FUNCTION or OTHER."""
    defined: set[str] = set()
    for node in ast.walk(tree):  # also where `if` or `try` chooses one
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.alias):
            defined.add(node.asname or node.name)
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name in FUNCTIONS:
            raise SourceError(f"{file}:{node.lineno}: {node.name} is `async def`: a worker awaits"
                              " nothing")  # fmt: skip
        if isinstance(node, ast.FunctionDef) and node.name in NOT_YET:
            raise SourceError(f"{file}:{node.lineno}: {node.name}() is called by no worker: plugins"
                              f" in Python have {', '.join(FUNCTIONS)}")  # fmt: skip
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            wanted = len(FUNCTIONS[node.name].split(", ")) if FUNCTIONS[node.name] else 0
            a = node.args
            least = len(a.posonlyargs) + len(a.args) - len(a.defaults)
            most = len(a.posonlyargs) + len(a.args)
            if (
                least > wanted
                or (most < wanted and not a.vararg)
                or any(default is None for default in a.kw_defaults)
            ):
                raise SourceError(
                    f"{file}:{node.lineno}: {node.name} is called as"
                    f" {node.name}({FUNCTIONS[node.name]})"
                )
    if "packet" not in defined and "*" not in defined:
        raise SourceError(f"{file}: it defines no packet(p), which decides about each packet")
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name: FUNCTION if name in functions else OTHER for name in defined}


def _syntax(e: SyntaxError, file: str) -> str:
    where = f"{file}:{e.lineno}" if e.lineno else file
    return f"{where}: {type(e).__name__}: {e.msg}"


# --- as it is loaded -----------------------------------------------------------------------------


def load(path: str) -> tuple[ModuleType, Declared]:
    """Run a source. Raises: SourceError, and whatever it raises."""
    source = Path(path).read_bytes()
    stem = stem_of(path)
    # Tracebacks name the user's file: a copy's path says nothing to a person.
    shown = path if Path(path).name == f"{stem}{SUFFIX}" else f"{stem}{SUFFIX}"
    text = source.decode(errors="replace")
    linecache.cache[shown] = (len(text), None, text.splitlines(keepends=True), shown)
    try:
        tree = compile(source, shown, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        code = compile(tree, shown, "exec", dont_inherit=True)
    except SyntaxError as e:
        raise SourceError(_syntax(e, shown)) from None
    _functions(tree, shown)
    module = ModuleType(f"plugin_{stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    found = vars(module)
    if not callable(found.get("packet")):
        raise SourceError(f"{shown}: it defines no packet(p), which decides about each packet")
    try:
        facts = declared(found, stem)
        callables = {k: FUNCTION if isinstance(v, FunctionType) else OTHER
                     for k, v in found.items() if k not in INTERVALS or callable(v)}  # fmt: skip
        _ticks(facts._asdict(), callables)
        return module, facts
    except SourceError as e:
        raise SourceError(f"{shown}: {e}") from None


def tell(error: BaseException, where: str) -> str:
    """Print a fault of the plugin's for `dpsup logs`; the same in one line."""
    if isinstance(error, SourceError):
        line = str(error)
        print(line, file=sys.stderr, flush=True)
        return line
    if where:
        print(f"the plugin's {where}() failed:", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    last = traceback.extract_tb(error.__traceback__)[-1:]
    at = f" ({Path(last[0].filename).name}:{last[0].lineno})" if last else ""
    (text,) = traceback.format_exception_only(error)[-1:]
    return f"{where}: {text.strip()}{at}" if where else f"{text.strip()}{at}"
