# SPDX-License-Identifier: BSD-3-Clause
"""The docs: made pages and pictures are fresh, complete, and the whole builds without a warning."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from unit.fakehost import FILE, machine

from dpsup.check.memory import pool_needs
from dpsup.check.topology import check
from dpsup.cli.root import cli
from dpsup.documents import events
from dpsup.documents.events import TYPES
from dpsup.errors import Exit
from dpsup.host.machine import PciDevice
from dpsup.plan.place import make_plan
from dpsup.plan.text import format_plan
from dpsup.topology.jsonschema import topology_schema
from dpsup.topology.load import load

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FRESH = "run deploy/docs"


@pytest.fixture(scope="module")
def make() -> Any:
    """The scripts of docs/make, by name."""
    sys.path.insert(0, str(DOCS / "make"))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(DOCS / "make"))


@pytest.fixture(scope="module")
def pages(make: Any) -> dict[str, str]:
    found: dict[str, str] = make("reference").pages()
    return found


def test_reference_pages_are_what_the_code_says(pages: dict[str, str]) -> None:
    old = {name for name, text in pages.items() if (DOCS / name).read_text() != text}
    assert not old, FRESH


def test_each_fault_has_a_test_or_a_reason_why_not(make: Any) -> None:
    faults = make("faults")
    kept = {number for number, _ in faults.kept()}
    assert kept <= faults.ROWS.keys()
    for number, row in faults.ROWS.items():
        assert (number in kept) != bool(row.limit), number


def test_pictures_are_fresh_and_readable_in_dark_too(make: Any) -> None:
    drawn = {name: draw() for name, draw in make("pictures").DRAWN.items()}
    assert {p.stem for p in (DOCS / "pictures").glob("*.svg")} == set(drawn)
    shown = "".join(p.read_text() for p in DOCS.glob("*.md"))
    for name, text in drawn.items():
        assert (DOCS / "pictures" / f"{name}.svg").read_text() == text, FRESH
        assert f"(pictures/{name}.svg)" in shown
        svg = ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        width = float(svg.get("width", "0"))
        for rect in svg.iter("{http://www.w3.org/2000/svg}rect"):
            assert float(rect.get("x", "0")) + float(rect.get("width", "0")) <= width


def test_every_command_and_option_has_its_place(pages: dict[str, str]) -> None:
    page = pages["reference/cli.md"]
    for name, command in cli.commands.items():
        if command.hidden:
            continue
        section = page.split(f"\n## dpsup {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            if not getattr(param, "hidden", False) and param.param_type_name == "option":
                assert all(f"`{opt}`" in section for opt in param.opts), (name, param.opts)


def test_every_key_of_the_topology_has_its_place(pages: dict[str, str]) -> None:
    page = pages["reference/topology.md"]
    schema = topology_schema()
    for model in (schema, *schema["$defs"].values()):
        for key in model["properties"]:
            assert f"\n| `{key}` |" in page
    assert '| `initial` | the wait before the first restart | `"50ms"` | `"50ms"` |' in page


def test_every_type_of_event_and_every_field_is_told(make: Any, pages: dict[str, str]) -> None:
    reference = make("reference")
    reported = reference.reported()
    assert set(reported) == set(TYPES)
    fields = {f for names in reported.values() for f in names}
    assert fields <= set(events.Fields.__annotations__)
    more = {f for names in events.MORE.values() for f in names}
    assert set(events.Fields.__annotations__) == fields | more
    assert all(f"| `{kind}` |" in pages["reference/events.md"] for kind in TYPES)


def test_every_metric_is_told(pages: dict[str, str]) -> None:
    source = (ROOT / "dpsup" / "instance" / "openmetrics.py").read_text()
    names = re.findall(r"made\.(?:gauge|counter|histogram)\(\s*\"(\w+)\"", source)
    assert len(names) > 50
    for name in names:
        assert re.search(rf"`dpsup_{name}(_total)?`", pages["reference/metrics.md"]), name


def test_all_of_the_plugin_header_is_told(pages: dict[str, str]) -> None:
    header = (ROOT / "workers" / "sdk" / "dpsup_plugin.h").read_text().partition("*/")[2]
    page = pages["reference/sdk.md"]
    names = re.findall(r"^#define (DPS_\w+)|^struct (\w+) \{|^(dps_\w+)\(", header, re.MULTILINE)
    for name in ("".join(one) for one in names):
        assert name in page
    # Every sentence of its comments is there, whatever its line breaks.
    said = " ".join(
        re.sub(r"\n\s*\*", " ", c) for c in re.findall(r"/\*(.*?)\*/", header, re.DOTALL)
    )
    flat = " ".join(page.split())
    for word in set(re.findall(r"[\w()]{5,}", said)):
        assert word in flat, word


def test_every_exit_code_is_told(pages: dict[str, str]) -> None:
    page = pages["reference/exits.md"]
    assert all(f"| `{int(code)}` |" in page for code in Exit)
    codes = re.findall(r"DPS_EXIT_\w+(?= = )", (ROOT / "shim" / "abi.h").read_text())
    assert len(codes) > 10
    assert all(code in page for code in codes)


class _Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag in ("script", "img", "iframe") and known.get("src"):
            self.found.append(str(known["src"]))
        if tag == "link" and known.get("href") and known.get("rel") != "canonical":
            self.found.append(str(known["href"]))


def test_the_docs_build_without_a_warning_and_fetch_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(built) > 20
    for page in built:
        shown = page.read_text()
        assert "```" not in shown, f"{page.name}: a block that is none"
        assert "\\|" not in shown, f"{page.name}: an escape that shows"
        fetched = _Fetched()
        fetched.feed(shown)
        for one in fetched.found:
            assert not re.match(r"(https?:)?//", one), f"{page.name} fetches {one}"
            file = page.parent / one.partition("?")[0]
            # The page of what is not there is shown at any address: its links begin at the root.
            assert file.is_file() or page.name == "404.html", f"{page.name}: no {one}"
    assert not (tmp_path / "site" / "make").exists()


def test_the_readme_points_to_pages_that_are_there() -> None:
    for name in re.findall(
        r"`(docs/[\w/.-]+)`|\((docs/[\w/.-]+)\)", (ROOT / "README.md").read_text()
    ):
        assert (ROOT / "".join(name)).exists(), name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_directories_of_the_development_page_are_there() -> None:
    page = (DOCS / "develop.md").read_text()
    for name in re.findall(r"`((?:dpsup|shim|tests|workers)/\w+)/?`", page):
        assert (ROOT / name).is_dir(), name
    packages = {one.parent.name for one in (ROOT / "dpsup").glob("*/__init__.py")}
    assert all(f"`dpsup/{name}/`" in page for name in packages)


def typed() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of each command in the docs and the README: in blocks and in sentences."""
    for page in (*DOCS.rglob("*.md"), ROOT / "README.md"):
        if "bench" in page.parts or page.name in ("json.md", "errors.md"):
            continue
        text = page.read_text()
        blocks = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        lines = re.findall(r"^dpsup [^#\n]*", blocks, re.MULTILINE)
        lines += [" ".join(one.split()) for one in re.findall(r"`(dpsup [^`]*)`", text)]
        for said in lines:
            # A flow: no redirection.
            line = re.sub(r'("[^"]*) > ([^"]*")', r"\1 to \2", said)
            command = re.split(r" {2,}| [|>&]|[;)]", line)[0]
            # An ellipsis, a choice: told, not to be typed.
            if not re.search(r"[\[|…]|\.\.\.", command):
                yield page.name, shlex.split(command)[1:]


def test_every_command_that_the_docs_show_is_one() -> None:
    seen = 0
    for page, words in typed():
        said = f"{page}: dpsup {' '.join(words)}"
        while words and words[0].startswith("-"):
            words = words[1 if words[0] in ("--help", "--debug") else 2 :]
        # COMMAND: written for any command at all.
        if not words or words[0] == "COMMAND":
            continue
        name, *args = words
        assert name in cli.commands, said
        command = cli.commands[name]
        if args and args[0] in getattr(command, "commands", {}):
            command = command.commands[args[0]]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for word in args:
            option = word.partition("=")[0]
            if re.match(r"-+[a-z]", option):
                assert option in known | {"-h", "--help"}, said
        seen += 1
    assert seen > 100


def test_the_topology_of_the_topology_page_is_sound() -> None:
    page = (DOCS / "topology.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    nics = {f"0000:3b:00.{n}": PciDevice(0, "vfio-pci") for n in (0, 1)}
    host = machine(text, cpus=12, pci=nics)
    topology, problems = load(FILE, host)
    assert topology is not None, problems
    assert not check(topology, host)


def test_the_examples_of_the_sizing_page_are_what_plan_says() -> None:
    page = (DOCS / "sizing.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```\n+```text\n(.*?)```\n(.*?)\n## ", page, re.DOTALL)
    assert len(examples) == 2
    for text, shown, why in examples:
        host = machine(text, cpus=12)
        topology, problems = load(FILE, host)
        assert topology is not None, problems
        assert not check(topology, host)
        planned = format_plan(make_plan(topology, host, 1))
        for line in shown.splitlines():
            assert line in planned
        least, full = pool_needs(topology, "default")
        words = " ".join(why.split())
        assert f"at least {least} mbufs, and {full} with all lanes full" in words
