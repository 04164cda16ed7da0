# SPDX-License-Identifier: BSD-3-Clause
"""Volumes of containers, as engines mount them: open to every user, sticky or not. Real mounts, in
a mount namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = ["unshare", "--mount", "--propagation", "private"]
CREATE = """
import os, stat, sys
from pathlib import Path
from dpsup.host.private import Unsafe, create_directory
path, *volumes = map(Path, sys.argv[1:])
try:
    os.close(create_directory(path, lambda name, _: name == "lock"))
except Unsafe as e:
    print("refused:", e.reason)
print(*(f"{stat.S_IMODE(v.stat().st_mode):o}" for v in volumes))
"""


def _can_mount() -> bool:
    return subprocess.run([*INSIDE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not _can_mount(), reason="mounts file systems in a namespace"
)


def created(volume: Path, mode: str, path: Path, more: str = ":") -> list[str]:
    """What is said, and the mode of the volume afterwards."""
    volume.mkdir(parents=True)
    script = f'mount -t tmpfs -o mode={mode} none "$1" && cd "$1" && {more} && exec "${{@:2}}"'
    done = subprocess.run(
        [*INSIDE, "bash", "-c", script, "-", str(volume), sys.executable, "-P", "-c", CREATE,
         str(path), str(volume)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("mode", "left"), [("0777", "755"), ("2777", "2755"), ("1777", "755"), ("0775", "755")]
)
def test_the_runtime_directory_itself(tmp_path: Path, mode: str, left: str) -> None:
    """Kubernetes has 0777, with fsGroup 2777; docker's --tmpfs has 1777."""
    volume = tmp_path / "dpsup" / "edge"
    assert created(volume, mode, volume, "touch lock") == [left]


@pytest.mark.parametrize(("mode", "left"), [("0777", "755"), ("2777", "2755"), ("1777", "1777")])
def test_its_parent(tmp_path: Path, mode: str, left: str) -> None:
    volume = tmp_path / "dpsup" / "edge"
    assert created(volume, mode, volume / "run") == [left]
    volume = tmp_path / "b" / "dpsup"
    assert created(volume, mode, volume / "edge", "touch foreign") == [left]


@pytest.mark.parametrize("mode", ["0777", "1777"])
def test_one_that_holds_something_else_is_shared(tmp_path: Path, mode: str) -> None:
    volume = tmp_path / "dpsup" / "edge"
    (said, left) = created(volume, mode, volume, "touch foreign")
    assert said.startswith("refused: ") and left == mode.lstrip("0")
    volume = tmp_path / "b" / "dpsup" / "edge"
    told = created(volume, mode, volume / "run", "touch foreign")
    assert told[-1] == mode.lstrip("0")
    assert (told[0].startswith("refused: ")) == (mode == "0777"), "a sticky parent is no danger"


@pytest.mark.parametrize("mode", ["1777", "0777"])
def test_one_that_may_be_meant_for_all(tmp_path: Path, mode: str) -> None:
    """An empty /tmp is as it is; so is a volume that is not said to be dpsup's."""
    volume = tmp_path / "scratch"
    told = created(volume, mode, volume / "edge")
    assert told[-1] == mode.lstrip("0")
    other = tmp_path / "tmp"
    told = created(other, "1777", other)
    assert told[0].startswith("refused: ") and told[-1] == "1777"
