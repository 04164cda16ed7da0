# SPDX-License-Identifier: BSD-3-Clause
"""A Debian in which nothing was ever installed, and what deploy/package builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lab.image import cache

PRIVATE = ("unshare", "--mount", "--propagation", "private")
REPO = Path(__file__).resolve().parents[1]
# Each is unpacked in a few seconds; making one takes minutes.
INCLUDE = "ca-certificates"
# Written by apt, dpkg and the tools that they call, whatever package is installed.
OTHERS = {
    "etc/group-", "etc/gshadow-", "etc/ld.so.cache", "etc/passwd-", "etc/shadow-", "var/cache",
    "var/lib/apt", "var/lib/dpkg", "var/lib/systemd", "var/log",
}  # fmt: skip
MOUNTS = {"dev", "given", "proc", "run", "sys", "tmp"}


def build(kind: str, out: Path) -> list[Path]:
    """The packages of a kind, of what is committed."""
    subprocess.run([REPO / "deploy/package", "--out", out, kind], check=True)
    return sorted(out.iterdir())


class Clean:
    """A tree to change, with a directory /given. Commands run in it as root, in its own mounts."""

    def __init__(self, suite: str, tree: Path) -> None:
        self.tree = tree
        (tree / "given").mkdir(parents=True)
        kept = cache() / f"clean-{suite}.tar"
        if kept.exists():
            subprocess.run(["tar", "-xf", kept, "-C", tree], check=True)
            return
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={INCLUDE}", suite, tree],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(".new")
        subprocess.run(["tar", "-cf", new, "-C", tree, "."], check=True)
        new.rename(kept)

    def run(self, steps: str) -> str:
        """What the steps printed. Raises: AssertionError, with it, where one failed."""
        script = f"""
            set -eu
            t='{self.tree}'
            mount -t proc proc "$t/proc"
            mount --rbind /dev "$t/dev"
            mount --rbind /sys "$t/sys"
            mount -t tmpfs clean "$t/tmp"
            mount -t tmpfs clean "$t/run"
            for file in /etc/apt/apt.conf.d/*; do
                [ -e "$t$file" ] || : >"$t$file"
                mount --bind "$file" "$t$file"
            done
            cp -L /etc/ssl/certs/ca-certificates.crt "$t/run/certificates.crt"
            cp -L /etc/resolv.conf "$t/etc/resolv.conf"
            cp /etc/hosts "$t/etc/hosts"
            cat /etc/pip.conf 2>/dev/null | sed /^cert/d >"$t/run/pip.conf"
            exec chroot "$t" /usr/bin/env -i HOME=/root LANG=C.UTF-8 \\
                DEBIAN_FRONTEND=noninteractive PIP_CONFIG_FILE=/run/pip.conf \\
                PIP_CERT=/run/certificates.crt PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -eu -c "$1"
        """
        done = subprocess.run(
            [*PRIVATE, "bash", "-c", script, "clean", steps],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout

    def give(self, files: list[Path]) -> None:
        """Puts files into /given."""
        for file in files:
            shutil.copy(file, self.tree / "given")

    def paths(self) -> set[str]:
        """All that lies in it, but for what changes with any package."""
        found = set()
        for directory, names, files in os.walk(self.tree):
            below = os.path.relpath(directory, self.tree)
            names[:] = [n for n in names if os.path.normpath(f"{below}/{n}") not in MOUNTS | OTHERS]
            found |= {os.path.normpath(f"{below}/{n}") for n in [*names, *files]}
        return found - OTHERS
