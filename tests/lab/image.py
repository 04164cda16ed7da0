# SPDX-License-Identifier: BSD-3-Clause
"""What a machine of the lab boots from: a Debian of its own, and dpsup built in it.

Two disks. The base (a Debian suite, its kernel, DPDK, all Python packages that dpsup needs) is kept
by what it is made of. The top (a virtual environment with dpsup) is built in the base from the
working tree, and kept by the sources. Both are read by machines and never written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
NEEDED = {"debootstrap": "debootstrap", "mke2fs": "e2fsprogs", "unshare": "util-linux"}
# Raised by hand where the steps below change and the lists do not show it.
BUILDER = 1
SIZE = "6G"  # of the disks; they are sparse
KEPT = {"base": 2, "top": 6}  # of a suite: two working trees share a cache

# What builds dpsup comes from Debian, as on a user's machine.
BOOTSTRAP = "ca-certificates,dbus,kmod,procps,systemd,systemd-sysv,udev"
PACKAGES = [
    "dpdk", "dpdk-dev", "e2fsprogs", "ethtool", "gcc", "iproute2", "iputils-ping", "libc6-dev",
    "libdpdk-dev", "linux-image-amd64", "netcat-openbsd", "ninja-build", "numactl", "pciutils",
    "pkgconf", "python3", "python3-dev", "python3-venv", "strace", "tcpdump", "util-linux",
]  # fmt: skip
# Of pyproject's "dev": what the tests inside import.
TESTS = ("hypothesis", "pytest", "pytest-timeout", "scapy")

FILES = {
    # nofail: a machine without the shares still boots, and its console says why.
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n"
    "/dev/vdb /dpsup ext4 defaults,nofail 0 2\n"
    "repo /repo 9p ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose,nofail 0 0\n"
    "out /out 9p trans=virtio,version=9p2000.L,msize=262144,nofail 0 0\n",
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/systemd/system/lab.service": "[Unit]\n"
    "RequiresMountsFor=/repo /out /dpsup\n"
    "After=multi-user.target\n"
    "[Service]\n"
    "Type=exec\n"
    "Environment=HOME=/root PYTHONDONTWRITEBYTECODE=1\n"
    "Environment=PATH=/dpsup/.venv/bin:/opt/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\n"
    "ExecStart=/usr/bin/python3 -u /repo/tests/lab/inside/agent.py\n"
    "StandardOutput=journal+console\n"
    "OOMScoreAdjust=-900\n",
    # An emulator is slow: nothing that systemd waits for may fail for that.
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStartSec=600s\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\n"
    "RateLimitIntervalSec=0\n",
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\nCOMPRESS=gzip\nFSTYPE=ext4\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/modules-load.d/lab.conf": "9pnet_virtio\n9p\nvirtio_console\nvfio-pci\n",
    # The tests' own: dpkg writes each file through, which the builder needs not.
    "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
          "e2scrub_all.timer", "systemd-networkd-wait-online.service")  # fmt: skip


class CannotBuild(Exception):
    """Says which step failed, with the end of its output."""


@dataclass(frozen=True)
class Image:
    """The disks of a suite, and the kernel that boots them."""

    root: Path
    top: Path
    kernel: Path
    initrd: Path


def cache() -> Path:
    """Where images are kept: outside of the tree, across runs."""
    chosen = os.environ.get("DPSUP_LAB_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(home) / "dpsup-lab"


def lacking() -> list[str]:
    """The packages that building needs and this host has not."""
    return [package for command, package in NEEDED.items() if shutil.which(command) is None]


def image(suite: str) -> Image:
    """The image of a suite with the working tree's dpsup; builds what is not there yet."""
    cache().mkdir(parents=True, exist_ok=True)
    with _locked(suite):
        base = _base(suite)
        top = _top(suite, base)
    return Image(base / "root.img", top / "top.img", base / "vmlinuz", base / "initrd")


@contextlib.contextmanager
def _locked(suite: str) -> Iterator[None]:
    with (cache() / f"{suite}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _python_packages() -> tuple[list[str], list[str]]:
    """What dpsup and its tests import, and what builds it."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    runs = [*project["project"]["dependencies"]]
    for one in project["project"]["optional-dependencies"]["dev"]:
        if one.split(">")[0].strip() in TESTS:
            runs.append(one)
    return runs, project["build-system"]["requires"]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def _keep(work: Path, done: Path) -> None:
    """Puts what was built in its place; the oldest of its kind go."""
    work.rename(done)
    kind, suite, _ = done.name.split("-")
    same = sorted(cache().glob(f"{kind}-{suite}-*"), key=lambda path: path.stat().st_mtime)
    for old in same[: -KEPT[kind]]:
        shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------- the base


def _base(suite: str) -> Path:
    runs, builds = _python_packages()
    key = _digest(BUILDER, suite, BOOTSTRAP, PACKAGES, runs, builds, FILES, MASKED, SIZE)
    done = cache() / f"base-{suite}-{key}"
    if done.exists():
        os.utime(done)
        return done
    work = cache() / f"new-{suite}-base"
    shutil.rmtree(work, ignore_errors=True)
    log = cache() / f"{suite}.log"
    log.write_text("")
    tree = work / "tree"
    tree.mkdir(parents=True)
    mirror = os.environ.get("DPSUP_LAB_MIRROR")
    _run(log, "debootstrap", "--variant=minbase", f"--include={BOOTSTRAP}", suite, tree,
         *([mirror] if mirror else []))  # fmt: skip
    for name, text in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tree / "usr/sbin/policy-rc.d").chmod(0o755)
    for name in ("repo", "out", "dpsup"):
        (tree / name).mkdir()
    quoted = " ".join(f"'{one}'" for one in [*runs, *builds])
    steps = f"""
        apt-get -q update
        apt-get -q -y --no-install-recommends install {" ".join(PACKAGES)}
        apt-get clean
        python3 -m venv /opt/lab
        /opt/lab/bin/pip install --no-input --no-cache-dir --disable-pip-version-check {quoted}
        systemctl mask {" ".join(MASKED)}
        systemctl add-wants multi-user.target /etc/systemd/system/lab.service
        rm -rf /var/lib/apt/lists/* /etc/machine-id
        : >/etc/machine-id
    """
    # How this host reaches its mirror and its package index, for the builder alone.
    borrowed = tree / "etc/apt/apt.conf.d"
    own = {path.name for path in borrowed.iterdir()}
    for path in Path("/etc/apt/apt.conf.d").iterdir():
        if path.name not in own:
            shutil.copy(path, borrowed)
    _chroot(log, tree, steps, read_only=False)
    for path in borrowed.iterdir():
        if path.name not in own:
            path.unlink()
    (tree / "usr/sbin/policy-rc.d").unlink()
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        shutil.copy(next((tree / "boot").glob(pattern)), work / name)
    _run(log, "mke2fs", "-q", "-t", "ext4", "-d", tree, work / "root.img", SIZE)
    _keep(work, done)
    return done


# ---------------------------------------------------------------- the top


def _sources() -> list[Path]:
    """What dpsup is built of, as `deploy/host-setup` sees it."""
    found = []
    for name in ("bench", "dpsup", "shim", "workers", "meson.build", "meson.options",
                 "pyproject.toml", "README.md", "LICENSE", "tests/count/count.c"):  # fmt: skip
        path = REPO / name
        found += [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sorted(
        one for one in found if not any(part.endswith(("cache__", "_cache")) for part in one.parts)
    )


def _top(suite: str, base: Path) -> Path:
    sources = _sources()
    total = hashlib.sha256(base.name.encode())
    for path in sources:
        total.update(str(path.relative_to(REPO)).encode() + b"\0" + path.read_bytes())
    done = cache() / f"top-{suite}-{total.hexdigest()[:16]}"
    if done.exists():
        os.utime(done)
        return done
    work = cache() / f"new-{suite}-top"
    shutil.rmtree(work, ignore_errors=True)
    log = cache() / f"{suite}.log"
    log.write_text("")
    built, copied = work / "dpsup", work / "sources"
    built.mkdir(parents=True)
    for path in sources:
        target = copied / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    # The base's packages are seen through a .pth: only dpsup itself lies in the top.
    steps = """
        python3 -m venv --without-pip /dpsup/.venv
        tell='import sysconfig; print(sysconfig.get_path("purelib"))'
        /opt/lab/bin/python -c "$tell" >"$(/dpsup/.venv/bin/python -c "$tell")/lab.pth"
        export PATH=/dpsup/.venv/bin:/opt/lab/bin:$PATH
        cd /tmp/sources
        python -m pip install --no-input --no-index --no-deps --no-build-isolation .
        printf '#!/bin/sh\\nexec /dpsup/.venv/bin/python -m pytest "$@"\\n' >/dpsup/.venv/bin/pytest
        chmod +x /dpsup/.venv/bin/pytest
    """
    _chroot(log, base / "tree", steps, binds={built: "/dpsup", copied: "/tmp/sources"})
    _run(log, "mke2fs", "-q", "-t", "ext4", "-d", built, work / "top.img", "512M")
    shutil.rmtree(built)
    shutil.rmtree(copied)
    _keep(work, done)
    return done


# ---------------------------------------------------------------- steps


def _run(log: Path, *command: object) -> None:
    words = [str(word) for word in command]
    with log.open("a") as out:
        code = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise CannotBuild(f"{words[0]} ended with {code}; the whole log: {log}\n{tail}")


def _chroot(
    log: Path,
    tree: Path,
    steps: str,
    *,
    read_only: bool = True,
    binds: dict[Path, str] | None = None,
) -> None:
    """Runs steps in a tree, in mounts that end with them; the network is the host's."""
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    env |= {
        "HOME": "/tmp", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CERT": "/run/certificates.crt", "SSL_CERT_FILE": "/run/certificates.crt",
    }  # fmt: skip
    script = [
        "set -eu",
        f"t='{tree}'",
        'mount --bind "$t" "$t"',
        *(['mount -o remount,bind,ro "$t"'] if read_only else []),
        'mount -t proc proc "$t/proc"',
        'mount --rbind /dev "$t/dev"',
        'mount -t tmpfs lab "$t/tmp"',
        'mount -t tmpfs lab "$t/run"',
        'cp -L /etc/ssl/certs/ca-certificates.crt "$t/run/certificates.crt"',
    ]
    for name in ("resolv.conf", "hosts"):
        script += [f'[ -e "$t/etc/{name}" ] || : >"$t/etc/{name}"'] if not read_only else []
        script += [f'if [ -e "$t/etc/{name}" ]; then mount --bind /etc/{name} "$t/etc/{name}"; fi']
    if Path("/etc/pip.conf").exists():
        script += ['cp /etc/pip.conf "$t/run/pip.conf"']
        env["PIP_CONFIG_FILE"] = "/run/pip.conf"
        script += ['sed -i /^cert/d "$t/run/pip.conf"']
    for source, target in (binds or {}).items():
        script += [f'mkdir -p "$t{target}"', f"mount --bind '{source}' \"$t{target}\""]
    words = " ".join(f"'{name}={value}'" for name, value in env.items())
    script += [f'exec chroot "$t" /usr/bin/env -i {words} bash -eux -c "$1"']
    _run(log, "unshare", "--mount", "--propagation", "private", "bash", "-c",
         "\n".join(script), "chroot", steps)  # fmt: skip
