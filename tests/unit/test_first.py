# SPDX-License-Identifier: BSD-3-Clause
"""First steps: templates that pass `check`, the schema, help, man pages, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from unit.fakehost import FULL, MINIMAL, machine, swap

from dpsup import limits
from dpsup.check.topology import prepare
from dpsup.cli import completion, init, manpage, root
from dpsup.cli.root import cli
from dpsup.errors import DpsupError, Exit, TopologyError
from dpsup.instance import runtime_dir
from dpsup.topology import templates
from dpsup.topology.jsonschema import topology_schema
from dpsup.topology.load import parse

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "deploy/examples").glob("*.toml"))
FILE = "/etc/dpsup/edge.toml"
SCHEMA = topology_schema()


# --- dpsup init ---------------------------------------------------------------------------------


@pytest.mark.parametrize("template", templates.TEMPLATES)
@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_every_template_passes_check(template: str, cpus: int) -> None:
    start = templates.make(template, "edge", "edge.toml", range(cpus))
    text = start.files["edge.toml"].decode()
    host = machine(text, cpus)
    made = {f"/etc/dpsup/{name}": "" for name in (*start.files, "edge.so", templates.CAPTURE)}
    _, plan, problems = prepare(FILE, machine(text, cpus, files={**made, **host.files}))
    assert plan.name == "edge"
    # A machine of three CPUs or more has one for everybody.
    assert problems == [] or cpus < 3, "\n".join(map(str, problems))
    assert all(len(line) <= 100 for line in text.splitlines())
    # Commented, in one column where keys are short enough for it.
    assert text.count("#") >= 10
    columns = [line.index("# ") for line in text.splitlines() if re.match(r"\w+ = .* # ", line)]
    assert min(columns) == 36
    assert sum(column > 36 for column in columns) <= 1


def test_init_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = init.write("sub/t.toml", "ci", "job")
    assert said[0] == "wrote sub/t.toml, sub/in.pcap"
    before = (tmp_path / "sub/t.toml").read_bytes()
    (tmp_path / "sub/in.pcap").write_bytes(b"precious")
    (tmp_path / "sub/t.toml").unlink()
    with pytest.raises(DpsupError) as caught:
        init.write("sub/t.toml", "ci", "job")
    assert caught.value.code == "E1001"
    assert (tmp_path / "sub/in.pcap").read_bytes() == b"precious"
    assert not (tmp_path / "sub/t.toml").exists()
    init.write("sub/t.toml", "ci", "job", force=True)
    assert (tmp_path / "sub/t.toml").read_bytes() == before
    assert (tmp_path / "sub/in.pcap").read_bytes() != b"precious"


def test_init_refuses_a_name_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(TopologyError):
        init.write(str(tmp_path / "t.toml"), "forward", "No Name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_plugin_template_compiles_without_a_warning(tmp_path: Path) -> None:
    start = templates.make("plugin", "mine", "t.toml", [0, 1])
    (tmp_path / "mine.c").write_bytes(start.files["mine.c"])
    flags = [f"-I{ROOT / 'workers' / 'sdk'}", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", "-shared", "-fPIC", "-O2", *flags, "mine.c", "-o", "mine.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert start.then[0].endswith("mine.c -o mine.so")


# --- dpsup schema -------------------------------------------------------------------------------


def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def topologies() -> dict[str, str]:
    found = {path.name: path.read_text() for path in EXAMPLES}
    found |= {"full": FULL, "minimal": MINIMAL}
    for name in templates.TEMPLATES:
        found[name] = templates.make(name, "edge", "t.toml", [0, 1]).files["t.toml"].decode()
    return found


@pytest.mark.parametrize("name", topologies())
def test_every_example_fits_the_schema(name: str) -> None:
    errors = list(validator().iter_errors(tomllib.loads(topologies()[name])))
    assert not errors, errors


WRONG = [
    ("version = 1", "version = 2"),
    ("version = 1\n", ""),
    ('name = "edge"  ', 'name = "No"  '),
    ("mbufs = 16383", 'mbufs = "16383"'),
    ("mbufs = 16383", "mbufs = 0"),
    ("mbufs = 16383", "mbuf = 16383"),
    ("shared_cores = false", "shared_cores = 0"),
    ('pci = "0000:3b:00.0"', ""),
    ('pci = "0000:3b:00.0"', 'pci = "3b:00"'),
    ('cores = "1"', "cores = 1"),
    ('cores = "1"', 'cores = "one"'),
    ('cores = "auto"', 'cores = "auto,1"'),
    ('idle = "adaptive"', 'idle = "lazy"'),
    ('fields = ["ipv4",', 'fields = ["ipv9",'),
    ('period = "60s"', 'period = "60"'),
    ('period = "60s"', "period = 60"),
    ('page_size = "2M"', "page_size = 2"),
    ("args = {", "args = 3 #"),
    ("ring = 1024", "ring = 1"),
    ('name = "fw"\n', ""),
    ('input = ["wan", "lan"]', 'input = "wan"'),
    ("mtu = 1500", "mtu = 1500\nmtuu = 3"),
    ('policy = "always"', 'policy = "sometimes"'),
]


@pytest.mark.parametrize(("old", "new"), WRONG)
def test_what_the_reader_refuses_the_schema_refuses(old: str, new: str) -> None:
    text = FULL.replace(old, new, 1)
    assert text != FULL
    assert list(validator().iter_errors(tomllib.loads(text)))
    assert not parse(text, "t.toml", FILE).sound


def test_the_schema_has_the_readers_keys_and_says_what_they_are() -> None:
    models = SCHEMA["$defs"] | {"Topology": SCHEMA}
    assert set(SCHEMA["properties"]) == {
        "version", "name", "host", "mempools", "ports", "io", "workers", "chains", "bus", "metrics",
        "log",
    }  # fmt: skip
    for name, model in models.items():
        for key, value in model["properties"].items():
            assert "; write " in value["description"], f"{name}.{key}"
            if "default" in value:
                jsonschema.validate(value["default"], {**value, "$defs": SCHEMA["$defs"]})


# --- help, man pages ----------------------------------------------------------------------------

COMMANDS = {name: one for name, one in cli.commands.items() if not one.hidden}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"], prog_name="dpsup")
    assert done.exit_code == 0
    examples = [line for line in done.output.splitlines() if re.match(r" {4,}.*dpsup ", line)]
    assert any(re.search(rf"dpsup (-n \w+ )?{name}\b", line) for line in examples), done.output
    for param in COMMANDS[name].params:
        if param.param_type_name == "argument":
            assert (param.name or "").upper() in done.output
            continue
        text = getattr(param, "help", "")
        assert text or getattr(param, "hidden", False), f"{name} {param.name} has no help"


def man_pages() -> dict[str, str]:
    import click

    return dict(manpage.pages(click.Context(cli, info_name="dpsup"), "1.2"))


@pytest.mark.parametrize("name", ["dpsup", *(f"dpsup-{name}" for name in COMMANDS)])
def test_every_command_has_a_man_page(name: str, tmp_path: Path) -> None:
    text = man_pages()[f"{name}.1"]
    sections = re.findall(r"(?m)^\.SH (.*)$", text)
    assert sections[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"]
    assert {"EXAMPLES", "EXIT STATUS", "SEE ALSO"} <= set(sections)
    if shutil.which("groff") is None:
        pytest.skip("no groff to read it with")
    page = tmp_path / f"{name}.1"
    page.write_text(text)
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-ww", str(page)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    example = next(line for line in done.stdout.splitlines() if re.match(r" +dpsup ", line))
    assert "\b" not in example


def test_man_says_what_it_does_not_know() -> None:
    done = CliRunner().invoke(cli, ["man", "statsu"], obj={})
    assert isinstance(done.exception, DpsupError)
    assert "`status`" in done.exception.help or "`stats`" in done.exception.help


# --- completion ---------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two instances' runtime folders, and one that cannot be read."""
    monkeypatch.setattr(runtime_dir, "roots", lambda: [tmp_path])
    for name, groups in (("edge", ["fw", "nat"]), ("core", ["lb"])):
        (tmp_path / name).mkdir()
        plan = {"groups": [{"name": group} for group in groups]}
        (tmp_path / name / "plan.json").write_text(json.dumps(plan))
        workers = {f"{group}/{i}": {"pid": 1, "start": 1} for group in groups for i in (0, 1)}
        (tmp_path / name / "state.json").write_text(json.dumps({"workers": workers}))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/plan.json").write_text("[")
    (tmp_path / "odd/state.json").write_text("[]")
    return tmp_path


CASES: list[tuple[list[str], str, set[str]]] = [
    (["scale"], "", {"fw", "nat", "lb"}),
    (["-n", "edge", "scale"], "", {"fw", "nat"}),
    (["scale", "-n", "core"], "", {"lb"}),
    (["kill"], "nat", {"nat/0", "nat/1"}),
    (["kill", "fw/0", "-s"], "S", {"SEGV", "STOP"}),
    (["logs"], "s", {"seed"}),
    (["restart"], "fw", {"fw", "fw/0", "fw/1"}),
    (["-n"], "", {"edge", "core", "odd"}),
    (["status", "-n"], "e", {"edge"}),
    (["explain"], "E020", {f"E020{i}" for i in range(1, 8)}),
    (["init", "--template"], "", set(templates.TEMPLATES)),
    (["completion"], "", {"bash", "zsh", "fish"}),
]


@pytest.mark.parametrize(("args", "begun", "expected"), CASES)
def test_completion_knows_what_is_there(
    folders: Path, args: list[str], begun: str, expected: set[str]
) -> None:
    assert folders.is_dir()
    shell = BashComplete(cli, {}, "dpsup", "_DPSUP_COMPLETE")
    assert {item.value for item in shell.get_completions(args, begun)} == expected


def test_completion_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "roots", lambda: [tmp_path])
    assert completion.groups(None) == completion.workers(None) == completion.sources("x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    if shell == "bash" and os.environ.get("BASH_VERSION") is None and shutil.which("bash") is None:
        pytest.skip("no bash")
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_DPSUP_COMPLETE" in done.output
    if shutil.which(shell):
        (tmp_path / "script").write_text(done.output)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_did_you_mean() -> None:
    for args, meant in (
        (["staus"], "status"),
        (["init", "--template", "forwrad"], "forward"),
        (["status", "-o", "jsno"], "json"),
        (["status", "--outptu"], "--output"),
        (["completion", "zhs"], "zsh"),
    ):
        done = CliRunner().invoke(cli, args, obj={})
        assert done.exit_code == int(Exit.USAGE)
        assert re.search(rf"[Dd]id you mean .{{0,2}}{meant}", done.output), done.output
    done = CliRunner().invoke(cli, ["kill", "fw/0", "-s", "SEVG"], obj={})
    assert isinstance(done.exception, DpsupError)
    assert "`SEGV`" in done.exception.help
    done = CliRunner().invoke(cli, ["explain", "E0230"], obj={})
    assert isinstance(done.exception, DpsupError)
    assert re.search("E02[0-9]{2}", done.exception.help)  # its area, by digits that changed places
    assert "macswap" in limits.BUILT_IN
    text = swap(FULL, '"macswap"', '"macswpa"')
    with pytest.raises(TopologyError) as caught:
        prepare(FILE, machine(text))
    assert "did you mean `macswap`?" in str(caught.value)


# --- what is imported -----------------------------------------------------------------------------

HEAVY = ("asyncio", "zmq", "pydantic", "rich", "psutil", "prometheus_client", "cffi", "dpsup._shim")


def loaded(*words: str) -> list[str]:
    """Modules that `dpsup WORDS` has imported when it ends."""
    code = (
        "import sys\nfrom dpsup.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stderr.split()


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("start", "--help")])
def test_help_imports_nothing_that_costs_time(words: tuple[str, ...]) -> None:
    found = loaded(*words)
    for heavy in HEAVY:
        assert not [one for one in found if one == heavy or one.startswith(f"{heavy}.")]
    families = {f"dpsup.cli.{one}" for one in root.FAMILIES} & set(found)
    assert families == ({"dpsup.cli.life"} if "start" in words else set())


def test_what_waits_for_a_detached_start_imports_nothing_that_costs_time() -> None:
    found = loaded("start", "no-such-file.toml", "--detach")
    assert "dpsup.supervisor.detach" in found
    for heavy in HEAVY:
        assert not [one for one in found if one == heavy or one.startswith(f"{heavy}.")]


def test_each_command_is_in_the_module_that_the_table_names() -> None:
    for module, (_, names) in root.FAMILIES.items():
        for name, line in names.items():
            assert root.cli.commands[name].callback is not None
            assert root.cli.commands[name].callback.__module__ == f"dpsup.cli.{module}"
            assert line.endswith(".") and len(line) <= 60, "one line of `dpsup --help`"


def test_a_look_at_an_instance_loads_no_model_of_a_topology() -> None:
    """What `status` and its kind import: pydantic alone would double their time."""
    code = (
        "import sys, dpsup.instance.client, dpsup.view.watch, dpsup.view.terminal\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    found = done.stdout.split()
    assert "dpsup.instance.runtime_dir" in found
    for heavy in ("asyncio", "pydantic", "psutil", "prometheus_client", "dpsup._shim"):
        assert not [one for one in found if one == heavy or one.startswith(f"{heavy}.")], heavy
