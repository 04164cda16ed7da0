# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with one value, in words: from tomllib's and pydantic's findings to `Problem`s."""

from __future__ import annotations

import difflib
import re
from typing import Any

from dpsup.errors import Problem
from dpsup.text import show, suggest
from dpsup.topology.lines import Source
from dpsup.topology.model import Mempool, Topology
from dpsup.topology.typed import Issue, Path, field_at, keys_at

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}
_SYNTAX_HELP = {
    "Invalid value": 'put text in quotes: name = "edge"; true and false have none',
    "Cannot overwrite a value": "the key is there twice: keep one of them",
    "Cannot declare": "the table is there twice: put its keys under one header",
    "Expected '=' after a key": "write key = value; a list of tables begins with [[ports]]",
    "Expected newline or end of document after a statement": "write one key on each line",
    "Unterminated string": "close the text with a quote",
    "Illegal character": "close the text on its own line, or use no control characters",
    "Unclosed array": "close the array with ]",
    "Unclosed inline table": "close the table with }, on the same line",
    "Invalid statement": "write key = value, or a table's header such as [host]",
}


def syntax_fault(error: Exception, source: Source) -> Problem:
    text = "its tables are nested too deeply" if isinstance(error, RecursionError) else str(error)
    where = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)$", text)
    line = int(where[1] or 0) if where else 0
    reason = text[: where.start()].strip() if where else text
    last = source.text.rstrip().count("\n") + 1
    help = next((say for begin, say in _SYNTAX_HELP.items() if reason.startswith(begin)), "")
    return source.problem(
        (),
        f"not TOML: {reason}" + (f", at column {where[2]}" if line and where else ""),
        code="E0101",
        why="nothing after the first fault of this kind could be read",
        help=help or "see https://toml.io for how to write TOML",
        line=line or last,
    )


def _table(path: Path) -> str:
    """The table at `path` as its header says it: [host], [[ports]], `restart.backoff` of …"""
    if not path:
        return "the file's first level"
    head, *rest = [step for step in path if isinstance(step, str)]
    many = head in ("ports", "io", "workers", "chains")
    if head == "mempools" and rest:
        head = f"{head}.{rest.pop(0)}"
    header = f"[[{head}]]" if many else f"[{head}]"
    return f"`{'.'.join(rest)}` of {header}" if rest else header


def _subject(path: Path) -> tuple[str, Path]:
    """What to call `path`, and the path of the table around it."""
    inner = len(path)
    while inner and isinstance(path[inner - 1], int):
        inner -= 1
    name = f"`{path[inner - 1]}`" if inner else "the file"
    if inner < len(path) and inner > 1:
        name = f"element {int(path[inner]) + 1} of {name}"
    return name, path[: max(0, inner - 1)]


def fault(issue: Issue, source: Source) -> Problem:
    path, kind, context = issue.path, issue.kind, issue.context
    if kind == "extra_forbidden":
        return _unknown(path, source)
    field = field_at(Topology, path)
    name, table = _subject(path)
    of = f" of {_table(table)}" if table else ""
    key = next((str(step) for step in reversed(path) if isinstance(step, str)), "")
    why = str(context.get("why") or (field and f"`{key}`: {field.description}") or "")
    write = field.examples[0] if field and field.examples else ""
    is_header = write.startswith("[") and path == (key,)
    help = f"write {write}" if is_header else f"write {key} = {write}"
    help = str(context.get("help") or help)
    value = show(issue.value)
    code = "E0107"

    if kind == "dpsup":
        message = f"{name}{of}: {issue.message}"
        if "args" in path:
            help = str(context.get("help")) or "give the plugin a text, number, true or false"
    elif kind == "literal_error":
        code = "E0106"
        message = f"{name}{of} cannot be {value}"
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        word = issue.value if isinstance(issue.value, str) else ""
        close = difflib.get_close_matches(word, allowed, 1)
        if close:
            help = f"did you mean {show(close[0])}? {help}"
    elif kind in _KINDS or kind.endswith("_type"):
        code = "E0104"
        message = f"{name}{of} must be {_KINDS.get(kind, 'of another type')}, not {value}"
        if path in (("ports",), ("io",), ("workers",), ("chains",)):
            help = f"it is a list of tables: write [[{key}]]"
        elif len(path) == 2 and path[0] == "mempools":
            help = "a pool has a name: write [mempools.default], and its keys below"
            if _is_key(issue):
                message = f"a mempool without a name: `{key}` stands where its name belongs"
    elif path == ("version",):
        code = "E0109"
        message = f"`version` {value} is not known to this dpsup"
    elif limit := _limit(context):
        code = "E0105"
        message = f"{name}{of} is {value}, and must be {limit}"
    else:
        message = f"{name}{of}: {issue.message[:1].lower()}{issue.message[1:]}"
        if kind in ("too_short", "string_too_short"):
            code = "E0108"
            message = f"{name}{of} is empty"
    why = why or "this is no value for it"
    return source.problem(path, message, code=code, why=why, help=help)


def distinct(issues: list[Issue]) -> list[Issue]:
    """The issues without those that only follow from another one."""
    around = {issue.path[:n] for issue in issues for n in range(len(issue.path))}
    found = [issue for issue in issues if issue.path not in around]
    # A pool without a name: each of its keys is taken for one.
    nameless = [issue for issue in found if issue.path[:1] == ("mempools",) and _is_key(issue)]
    return [issue for issue in found if issue not in nameless[1:]]


def _is_key(issue: Issue) -> bool:
    return len(issue.path) == 2 and issue.path[1] in Mempool.model_fields


def _limit(context: Any) -> str:
    words = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
    return next((f"{word} {context[key]}" for key, word in words.items() if key in context), "")


def _unknown(path: Path, source: Source) -> Problem:
    *table, last = path
    key = str(last)
    known = keys_at(Topology, tuple(table))
    elsewhere = _home(key) if key not in known else ""
    if elsewhere:
        help = f"`{key}` is a key of {elsewhere}"
    elif close := suggest(key, known):
        help = f"did you mean `{close}`?"
    else:
        help = f"remove it; the keys here are {', '.join(known)}"
    return source.problem(
        path,
        f"unknown key `{key}` in {_table(tuple(table))}",
        code="E0102",
        why="dpsup does not know this key, so it would have no effect",
        help=help,
    )


def _home(key: str) -> str:
    """The table that has `key`, if one does."""
    for top in ("host", "mempools", "ports", "io", "workers", "chains"):
        path: Path = (top, "x") if top == "mempools" else (top, 0) if top != "host" else (top,)
        if key in keys_at(Topology, path):
            return "[mempools.NAME]" if top == "mempools" else _table(path)
    return ""
