# SPDX-License-Identifier: BSD-3-Clause
"""What the packages are made of agrees with the rest; tests/system/test_packages.py builds them."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dpsup import _abi, _build
from dpsup.cli.root import NEED_DPDK
from dpsup.errors import Exit
from dpsup.host.plugin_file import PluginFile, read

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "deploy/debian"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENT = tomllib.loads((ROOT / "deploy/client/pyproject.toml").read_text())
PLUGIN = """
#include <dpsup_plugin.h>

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "echo", .packet = packet };
"""


def pkg_config(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["pkg-config", *words, "dpsup"],
        env={"PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()


def test_a_plugin_is_built_by_pkg_config_alone(tmp_path: Path) -> None:
    folder = Path(_build.__file__).with_name("include")
    (tmp_path / "echo.c").write_text(PLUGIN)
    flags = pkg_config(folder, "--cflags", "--libs").split()
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", "-Werror", *flags, "echo.c", "-o", "echo.so"],
        cwd=tmp_path,
        check=True,
    )
    assert isinstance(read(str(tmp_path / "echo.so")), PluginFile)
    assert pkg_config(folder, "--modversion") == _build.VERSION
    assert pkg_config(folder, "--variable=plugin_abi") == str(_abi.DPS_PLUGIN_ABI)


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    meson = re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text())
    debian = re.match(r"dpsup \(([^)]+)-1\)", (DEBIAN / "changelog").read_text())
    assert meson
    assert debian
    assert {meson[1], debian[1], _build.VERSION} == {version}


LOCKED = {
    "run": PROJECT["project"]["dependencies"],
    "dev": [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
    ],
    "build": [*PROJECT["build-system"]["requires"], *CLIENT["build-system"]["requires"]],
}


@pytest.mark.parametrize("name", LOCKED)
def test_locks_hold_what_the_project_asks_for(name: str) -> None:
    text = (ROOT / f"deploy/lock/{name}.txt").read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+)[^\n]*\\\n((?:    --hash=.*\n?)+)", text, re.M)
    held = {entry[0]: entry[1] for entry in entries}
    assert len(held) == len(re.findall(r"^[\w.-]+==", text, re.M)), "one has no hash"
    for one in map(Requirement, LOCKED[name]):
        assert one.specifier.contains(held[canonicalize_name(one.name)]), (
            f"{one}: run deploy/lock/update"
        )


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_shell(script: str) -> None:
    file = DEBIAN / f"dpsup.{script}"
    subprocess.run(["sh", "-n", file], check=True)
    assert file.read_text().endswith("#DEBHELPER#\n")


def test_systemd_reads_the_user_and_the_directories(tmp_path: Path) -> None:
    """In a root directory of the test's own."""
    (tmp_path / "etc").mkdir()
    for tool, kind, words in (
        ("systemd-sysusers", "sysusers", ()),
        ("systemd-tmpfiles", "tmpfiles", ("--create",)),
    ):
        done = subprocess.run(
            [tool, f"--root={tmp_path}", *words, DEBIAN / f"dpsup.{kind}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    user = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (user[0], user[-1]) == ("dpsup", "/usr/sbin/nologin")
    assert int(user[2]) < 1000
    for name in ("run/dpsup", "var/lib/dpsup"):
        assert (tmp_path / name).stat().st_mode & 0o7777 == 0o755


def test_units_of_the_package_name_its_paths() -> None:
    """deploy/debian/rules replaces each path of a checkout."""
    found = re.search(
        r"sed -e '/(.*?)/d' -e '(.*?)' \\\n\s+\$\$unit", (DEBIAN / "rules").read_text()
    )
    assert found
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        out = subprocess.run(
            ["sed", "-e", f"/{found[1]}/d", "-e", found[2], unit],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        assert "/usr/local" not in out
        assert ("/usr/bin/dpsup" in out) == ("/usr/local/bin/dpsup" in unit.read_text())


# --- the client -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs a command of dpsup-client's, from its files as its wheel has them."""
    sys.path.insert(0, str(ROOT / "deploy/client"))
    try:
        parts = importlib.import_module("parts")
    finally:
        sys.path.pop(0)
    top = tmp_path_factory.mktemp("client")
    for name, path in parts.parts(tmp_path_factory.mktemp("made")).items():
        (top / "dpsup" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, top / "dpsup" / name)

    def run(*words: str) -> Any:
        return subprocess.run(
            [sys.executable, *words],
            env={**os.environ, "PYTHONPATH": str(top), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=top,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_client_has_the_headers_constants(client: Callable[..., Any]) -> None:
    told = client(
        "-c",
        "import dpsup._abi as a; print(*(f'{k}={v!r}' for k, v in vars(a).items() if k[:4] =="
        " 'DPS_'), sep='\\n')",
    )
    assert told.returncode == 0, told.stderr
    mine = [f"{k}={v!r}" for k, v in vars(_abi).items() if k.startswith("DPS_")]
    assert told.stdout.splitlines() == mine


def test_the_client_says_which_commands_it_has_not(client: Callable[..., Any]) -> None:
    for name in sorted(NEED_DPDK):
        told = client("-m", "dpsup", name)
        assert told.returncode == Exit.HOST
        assert f"error[E0485]: this is dpsup-client, which has no `{name}`" in told.stderr
    assert "no DPDK (dpsup-client)" in client("-m", "dpsup", "version").stdout


IMPORT_ALL = """
import importlib, pathlib, dpsup
top = pathlib.Path(dpsup.__file__).parent
for path in sorted(top.rglob("[a-z]*.py")):
    name = path.relative_to(top.parent).with_suffix("").as_posix().replace("/", ".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        print(name.removeprefix("dpsup."))
"""


def test_what_the_client_does_needs_nothing_of_the_c_half(client: Callable[..., Any]) -> None:
    """What cannot be imported is of an instance's own processes, or of a command it has not."""
    told = client("-c", IMPORT_ALL)
    assert told.returncode == 0, told.stderr
    lacking = set(told.stdout.split())
    assert "primary.shim" in lacking
    assert {one for one in lacking if not one.startswith("primary.")} == {"inspect.where"}
