# SPDX-License-Identifier: BSD-3-Clause
"""The packages, built from this checkout and used where nothing of dpsup was ever installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from clean import Clean, build

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

SUITES = {"12": "bookworm", "13": "trixie"}
SMOKE = "gcc libc6-dev pkgconf"  # beside the packages


def need(*commands: str) -> None:
    missing = [one for one in commands if shutil.which(one) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def own() -> str:
    found = re.search(r'^VERSION_ID="?(\d+)', Path("/etc/os-release").read_text(), re.M)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    need("dh", "dpkg-buildpackage")
    built = build("deb", tmp_path_factory.mktemp("debs"))
    return [one for one in built if one.suffix == ".deb" and "dbgsym" not in one.name]


def test_lintian_finds_nothing(debs: list[Path]) -> None:
    need("lintian")
    told = subprocess.run(
        ["lintian", "--info", "--display-info", "--fail-on", "error,warning,info", *debs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


def is_installed_and_purged(clean: Clean, debs: list[Path]) -> None:
    """Its dependencies first, so that what is there before and after can be compared."""
    clean.give(debs)
    clean.run(f"""
        apt-get -q update
        apt-get -q -y --no-install-recommends install {SMOKE}
        apt-get -q -y --no-install-recommends satisfy "$(dpkg-deb -f /given/dpsup_*.deb Depends)"
    """)
    before = clean.paths()
    clean.run("""
        apt-get -q -y --no-install-recommends install /given/*.deb
        systemd-analyze verify --man=no dpsup@edge.service dpsup-end@edge.service
    """)
    assert "dpsup:" in (clean.tree / "etc/passwd").read_text()
    told = clean.run("/given/smoke")
    assert "smoke: passed" in told
    clean.run("apt-get -q -y purge dpsup dpsup-dev")
    assert clean.paths() - before == set()
    assert before - clean.paths() == set()
    assert "dpsup" not in (clean.tree / "etc/passwd").read_text()


def test_debian_package_on_a_clean_debian(debs: list[Path], tmp_path: Path) -> None:
    need("debootstrap")
    clean = Clean(SUITES[own()], tmp_path / "tree")
    smoke = Path(__file__).resolve().parents[2] / "deploy/debian/tests/smoke"
    is_installed_and_purged(clean, [*debs, smoke])
