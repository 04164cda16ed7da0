# SPDX-License-Identifier: BSD-3-Clause
"""The shipped units, with the drop-in that takes root's rights away, as systemd reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SHIPPED = Path(__file__).resolve().parents[2] / "deploy/systemd"
DROP_IN = SHIPPED / "unprivileged.conf"
MOST = 2.0  # exposure, by systemd's own measure


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As docs/systemd.md installs them, but for the place of dpsup."""
    folder = tmp_path_factory.mktemp("units")
    for file in SHIPPED.glob("*.service"):
        text = file.read_text().replace("/usr/local/bin/dpsup", "/bin/true")
        (folder / file.name).write_text(text)
    (folder / "dpsup@.service.d").mkdir()
    shutil.copy(DROP_IN, folder / "dpsup@.service.d")
    return folder


def analyze(*words: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize(
    "unit", ["dpsup@edge.service", "dpsup-hugepages.service", "dpsup-vfio@nic.service"]
)
def test_systemd_reads_them(units: Path, unit: str) -> None:
    assert analyze("verify", "--man=no", units / unit) == ""


def test_without_root_s_rights_little_is_exposed(units: Path) -> None:
    # What `security` reads is one file; lines of a drop-in come after those of its unit.
    both = units / "dpsup@both.service"
    text = (units / "dpsup@.service").read_text() + DROP_IN.read_text()
    both.write_text(text)
    told = analyze("security", "--offline=yes", "--no-pager", both)
    found = re.search(r"Overall exposure level .*: ([\d.]+)", told)
    assert found, told
    assert float(found[1]) <= MOST, told
    rights = re.findall(r"^(?:CapabilityBoundingSet|AmbientCapabilities)=(.*)$", text, re.M)
    assert rights[-2:] == ["", ""]
    assert re.findall(r"^User=(.*)$", text, re.M) == ["dpsup"]


def test_wardens_keep_their_priority() -> None:
    """By a limit, where there is no CAP_SYS_NICE; RestrictRealtime= would refuse it."""
    text = (SHIPPED / "dpsup@.service").read_text() + DROP_IN.read_text()
    assert re.findall(r"^LimitRTPRIO=(.*)$", text, re.M) == ["1"]
    assert not re.findall(r"^RestrictRealtime=", text, re.M)
