# SPDX-License-Identifier: BSD-3-Clause
"""The reference pages, made of the code: `deploy/docs` writes them, a test compares them.

What each page is made of: the command line's own objects (cli), the models that read the topology
file (topology), the table of events and the places that report them (events), the families that a
look at an instance becomes (metrics), the plugin header (sdk), the table of exit codes and the
shared-memory header (exits), the client's methods (python). What JSON documents and events hold is
described by the types in dpsup/documents, and a test holds real output against those.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import click
from pydantic_core import PydanticUndefined

from dpsup import catalogue
from dpsup.cli import manpage
from dpsup.cli.root import cli
from dpsup.doctor import CHECKS
from dpsup.documents import events
from dpsup.documents.describe import keys_of
from dpsup.documents.printed import DOCUMENTS
from dpsup.errors import Exit
from dpsup.instance import client, history, openmetrics
from dpsup.topology.jsonschema import topology_schema
from dpsup.topology.model import Topology
from dpsup.topology.schema import Model

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def _beside(path: Path) -> ModuleType:
    """A module that is in no package, by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The look of an instance that tests of metrics use has one of everything.
looks = _beside(ROOT / "tests" / "unit" / "looks.py")

MADE = "Made by `deploy/docs` of {of}: change it there."


def head(title: str, of: str, text: str) -> list[str]:
    return [f"# {title}", "", text.strip(), "", MADE.format(of=of), ""]


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(heads)
    out = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    out += ["| " + " | ".join(cell(one) for one in row) + " |" for row in rows]
    return [*out, ""]


def fence(text: str, language: str = "") -> list[str]:
    return [f"```{language}", text.strip("\n"), "```", ""]


# --- the command line -----------------------------------------------------------------------------


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(what is typed, command) of a command and those below it, hidden ones left out."""
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        if not one.hidden:
            yield from _commands(one, f"{path} {name}")


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    name = name if param.nargs != -1 or name.endswith("...") else f"{name}..."
    return name if param.required else f"[{name}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{one}`" for one in (*param.opts, *param.secondary_opts))
    if param.is_flag:
        return names
    kinds = [param.metavar] if param.metavar else list(getattr(param.type, "choices", ["VALUE"]))
    return f"{names} " + " or ".join(f"`{one}`" for one in kinds)


def cli_page() -> str:
    out = head(
        "Commands",
        "`dpsup/cli/`",
        "`dpsup COMMAND --help` says the same, `dpsup man COMMAND` as a man page. `-n NAME` may stand"
        " before or after the command; the variable `DPSUP_NAME` does the same. Data goes to"
        " standard output, all else to standard error. What `-o json` prints is in"
        " [JSON documents](json.md), exit codes are in [Exit codes](exits.md).",
    )
    for path, command in _commands(cli, "dpsup"):
        what, prose, examples = manpage.parts(command.help or "")
        arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
        inner = ["COMMAND ..."] if isinstance(command, click.Group) else []
        out += [f"## {path}", "", what, ""]
        out += fence(" ".join([path, "[OPTIONS]", *arguments, *inner]))
        for paragraph in prose:
            out += [paragraph, ""]
        options = [
            (_option(p), p.help or "")
            for p in command.params
            if isinstance(p, click.Option) and not p.hidden
        ]
        if options:
            out += table(("option", "what"), options)
        if examples:
            out += fence(textwrap.dedent("\n".join(examples)))
    return "\n".join(out)


# --- the topology file ----------------------------------------------------------------------------


def _limits(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low == high:
        return ""
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


# What a file that leaves the key out gets, where the model's own default says it otherwise.
_DEFAULTS = {
    ("Group", "max"): "`count`",
    ("Group", "input"): "none",
    ("Group", "args"): "none",
    ("Scale", "max"): "the group's `max`",
    ("Port", "pci"): "one of `pci`, `vdev`",
    ("Port", "vdev"): "one of `pci`, `vdev`",
    ("Port", "mempool"): "`default`, or the only one",
    ("Mempool", "page_size"): '`"2M"`',
    ("Host", "hugepages"): '`"auto"`',
    ("Thresholds", "rx_free"): "the driver's",
    ("Thresholds", "rx_drop"): "the driver's",
    ("Thresholds", "tx_free"): "the driver's",
}


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def _default(model: type[Model], key: str) -> str:
    """As a file would write it; empty where a key must be there, or is a table."""
    name = model.__name__.removesuffix("Table")
    if (name, key) in _DEFAULTS:
        return _DEFAULTS[name, key]
    field = model.model_fields[key]
    value, write = field.default, str((field.examples or [""])[0])
    if isinstance(value, Model) or value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, tuple) and write.startswith('"'):
        # CPUs: none is auto.
        return f'`"{",".join(map(str, value)) or "auto"}"`'
    if isinstance(value, float) and write.startswith('"'):
        return f'`"{_duration(value)}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(f'"{one}"' for one in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


def _models(model: type[Model], place: str) -> Iterator[tuple[str, type[Model]]]:
    """(place in the file, model) of a model and those below it, in the file's order."""
    yield place, model
    for key, field in model.model_fields.items():
        many, inner = "", field.annotation
        if get_origin(inner) in (tuple, dict):
            many = "list" if get_origin(inner) is tuple else "names"
            inner = get_args(inner)[0 if many == "list" else 1]
        if not (isinstance(inner, type) and issubclass(inner, Model)):
            continue
        if place:
            yield from _models(inner, f"{key} of {place}")
        else:
            yield from _models(
                inner, {"list": f"[[{key}]]", "names": f"[{key}.NAME]"}.get(many, f"[{key}]")
            )


def topology_page() -> str:
    schema = topology_schema()
    out = head(
        "The topology file",
        "the models in `dpsup/topology/model.py`",
        "TOML, version 1. `dpsup check FILE` finds all that is wrong with one, `dpsup schema` prints"
        " this page as JSON Schema for editors. Durations are a number with `us`, `ms`, `s`, `m` or"
        " `h`; sizes take `KiB`, `MiB`, `GiB`; CPUs are lists as `3-6,8`; relative paths begin at the"
        " file's folder. What is not *required* may be left out.",
    )
    for place, model in _models(Topology, ""):
        known = schema if not place else schema["$defs"][model.__name__]
        required = known.get("required", ())
        out += [f"## `{place}`" if place else "## At the top", ""]
        rows = []
        for key, field in model.model_fields.items():
            what = str(field.description)
            default = "*required*" if key in required else _default(model, key)
            write = f"`{field.examples[0]}`" if field.examples else ""
            rows.append((f"`{key}`", what, write, default, _limits(known["properties"][key])))
        out += table(("key", "decides", "write", "default", "limits"), rows)
    return "\n".join(out)


# --- JSON -----------------------------------------------------------------------------------------


def json_page() -> str:
    out = head(
        "JSON documents",
        "the types in `dpsup/documents/`, which a test holds against the output of a real instance",
        "What commands print with `-o json`: one document on standard output. More keys may be added;"
        " those that are here keep their meaning while `apiVersion` is `dpsup/v1`. In paths, `[]` is"
        " each entry of a list, `*` each key of a table whose keys are names. Times that end in `_ns`"
        " are nanoseconds of CLOCK_MONOTONIC; `at` is seconds since 1970.",
    )
    for name, (command, text, of) in DOCUMENTS.items():
        out += [f"## {name}", "", f"`{command}`. {text}", ""]
        out += table(("key", "what"), ((f"`{key}`", what) for key, what in keys_of(of).items()))
    return "\n".join(out)


# --- events ---------------------------------------------------------------------------------------


def reported() -> dict[str, set[str]]:
    """Fields of each type of event, as the source reports them: the words of calls with a literal
    `type=`."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "dpsup").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            words = {k.arg: k.value for k in node.keywords if k.arg}
            kind = words.get("type")
            of = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if of in ("add", "_say") and isinstance(kind, ast.Constant):
                found.setdefault(str(kind.value), set()).update(set(words) - {"type"})
    return found


def events_page() -> str:
    out = head(
        "Events",
        "`dpsup/history.py` and the places that report them",
        "`dpsup events [-f] --type death,scale --since 10m -o json|jsonl`. Each has `seq` (a gap says"
        " that some were missed), `at` (seconds since 1970), `at_ns` (CLOCK_MONOTONIC) and `type`;"
        " most have `name`: the worker, group or process that it is about.",
    )
    by_type = reported()
    rows = []
    for kind, what in history.TYPES.items():
        fields = by_type.get(kind, set()) | set(events.MORE.get(kind, ()))
        shown = ", ".join(f"`{one}`" for one in sorted(fields - {"name"}))
        rows.append((f"`{kind}`", what, shown))
    out += [*table(("type", "what happened", "fields"), rows), "## Fields", ""]
    known = {key.removeprefix("?"): what for key, what in keys_of(events.Fields).items()}
    rows = [(f"`{field.split('.')[0].removesuffix('[]')}`", what) for field, what in known.items()]
    out += table(("field", "what"), rows)
    return "\n".join(out)


# --- metrics --------------------------------------------------------------------------------------


def metrics_page() -> str:
    out = head(
        "Metrics",
        "`dpsup/instance/openmetrics.py`",
        'OpenMetrics at `http://ADDRESS/metrics`, where `[metrics] listen = "127.0.0.1:9464"` asks for'
        " it. Counters end in `_total`; a histogram is `_bucket`, `_sum` and `_count`."
        " `deploy/prometheus/` has alert rules, `deploy/grafana/` a dashboard.",
    )
    rows = []
    for family in openmetrics.families(looks.edge(5.0)):
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = ", ".join(f"`{one}`" for one in labels)
        rows.append((f"`{name}`", family.type, shown, family.documentation))
    rows.append(("`dpsup_look_duration_seconds`", "gauge", "", "Time spent querying the instance."))
    return "\n".join([*out, *table(("name", "type", "labels", "what"), rows)])


# --- the plugin header ----------------------------------------------------------------------------

_COMMENT = re.compile(r"/\*\s?(.*?)\*/", re.DOTALL)


def _prose(comment: str) -> list[str]:
    """A C comment's text as Markdown: indented lines stay code."""
    lines = [re.sub(r"^\s*\*\s?", "", line).rstrip() for line in comment.strip().splitlines()]
    out: list[str] = []
    for line in lines:
        is_item = line.lstrip().startswith("- ")
        if line.startswith("    ") and not is_item:
            in_item = (
                bool(out) and out[-1].startswith(("- ", "  ")) and not out[-1].startswith("    ")
            )
            out.append(f"  {line.strip()}" if in_item else line)
        else:
            if is_item and out and out[-1] and not out[-1].startswith(("- ", "  ")):
                out.append("")
            out.append(re.sub(r"^ {2,3}(?=- )", "", line))
    return out


def _blocks(text: str) -> Iterator[str]:
    """The header's parts between empty lines; what is in braces or a comment stays together."""
    part: list[str] = []
    depth, inside = 0, False
    for line in text.splitlines():
        if not line.strip() and not depth and not inside:
            if part:
                yield "\n".join(part)
            part = []
            continue
        part.append(line)
        code = _COMMENT.sub("", line)
        inside = "/*" in code or (inside and "*/" not in code)
        if not inside:
            depth += code.count("{") - code.count("}")
    if part:
        yield "\n".join(part)


def _declared(code: str) -> str:
    """What a part declares, for its heading; empty: nothing of its own."""
    found = re.search(r"^struct (\w+) \{", code, re.MULTILINE)
    if found:
        return f"struct {found[1]}"
    found = re.search(r"^(?:static inline )?[\w* ]*?\n?(dps_\w+)\(", code, re.MULTILINE)
    if found and not code.startswith("#"):
        return f"{found[1]}()"
    found = re.search(r"^#define (\w+)", code, re.MULTILINE)
    return found[1] if found else ""


def _signature(code: str) -> str:
    """A function without its body: the manual needs no more of it."""
    return re.sub(r"\n\{.*", ";", code, flags=re.DOTALL) if "\n{" in code else code


def sdk_page() -> str:
    text = (ROOT / "workers" / "dpsup_plugin.h").read_text()
    text = re.sub(r"#ifdef __cplusplus.*?#endif\n", "", text, flags=re.DOTALL)
    out = head(
        "Plugin header",
        "`workers/dpsup_plugin.h`",
        "All that a plugin sees of dpsup: one header, no DPDK. `dpsup version --cflags` says where it"
        " is. [Write a plugin](../plugins.md) has how to use it.",
    )
    held: list[str] = []  # what was said ahead of the next declaration
    for block in _blocks(text):
        comment = _COMMENT.match(block)
        code = (block[comment.end() :] if comment else block).strip("\n")
        if block.startswith(("#include", "#ifdef", "#endif", "#ifndef", "/* SPDX")):
            continue
        prose = [*_prose(comment[1]), ""] if comment else []
        name = _declared(code)
        shown = fence(_signature(code), "c") if name else []
        # A constant that is explained together with the structure after it.
        if code.startswith("#define") and len(prose) > 5:
            held = [*prose, *shown]
        elif name:
            out += [f"## `{name}`", "", *held, *prose, *shown]
            held = []
        else:
            out += prose
    return "\n".join(out)


# --- exit codes -----------------------------------------------------------------------------------

_EXIT_LINE = re.compile(r"^\tDPS_EXIT_(\w+) = (\d+),?\s*(?://\s*(.*))?$", re.MULTILINE)


def exits_page() -> str:
    out = head(
        "Exit codes",
        "`dpsup/errors.py` and `shim/abi.h`",
        "Of every `dpsup` command. An [error's code](../errors.md) says more than its exit code."
        " Ctrl-C is 130.",
    )
    rows = [(f"`{int(code)}`", manpage.EXITS[code]) for code in Exit]
    out += table(("code", "meaning"), rows)
    out += [
        "## Of the seed and the workers",
        "",
        "`dpsup events` and `status` show them as `last_exit`. From 100 on the process refused to"
        " start; dpsup then holds it, but for a temporary cause.",
        "",
    ]
    said = {
        "OK": "it was told to end",
        "USAGE": "wrong arguments",
        "TEMPORARY": "trying again helps",
    }
    found = _EXIT_LINE.findall((ROOT / "shim" / "abi.h").read_text())
    return "\n".join(out + table(
        ("code", "name", "meaning"),
        ((f"`{n}`", f"`DPS_EXIT_{name}`", what or said[name]) for name, n, what in found),
    ))  # fmt: skip


# --- Python ---------------------------------------------------------------------------------------


def python_page() -> str:
    out = head(
        "Python",
        "`dpsup/instance/client.py`",
        "`dpsup.connect(name)` gives an `Instance`; without a name, the only one that runs. Methods"
        " have the command line's nouns and raise `DpsupError`.",
    )
    out += fence(
        'import dpsup\n\nwith dpsup.connect("edge") as edge:\n    print(edge.status()["state"])',
        "python",
    )
    for name, method in vars(client.Instance).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        source = inspect.getsource(method)
        signature = " ".join(source[source.index("def ") + 4 : _colon(source)].split())
        signature = signature.replace("( self", "(self").replace(", )", ")")
        signature = re.sub(r"\(self(, )?", "(", signature)
        what = inspect.cleandoc(method.__doc__ or "")
        out += [f"## `{name}`", "", *fence(signature, "python"), what, ""]
    return "\n".join(out)


def _colon(source: str) -> int:
    """Where a function's head ends."""
    found = re.search(r"\)( -> .*?)?:\n", source)
    assert found is not None
    return found.end() - 2


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/topology.md": topology_page,
    "reference/json.md": json_page,
    "reference/events.md": events_page,
    "reference/metrics.md": metrics_page,
    "reference/sdk.md": sdk_page,
    "reference/exits.md": exits_page,
    "reference/python.md": python_page,
    "errors.md": lambda: catalogue.page(CHECKS),
}


def pages() -> dict[str, str]:
    """Path below docs/: content."""
    return {path: make().rstrip("\n") + "\n" for path, make in PAGES.items()}


def main() -> None:
    for path, text in pages().items():
        file = DOCS / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
