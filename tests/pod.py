# SPDX-License-Identifier: BSD-3-Clause
"""The limits of a pod, without a cluster: what a container runtime would set up for the manifests
of deploy/k8s, from namespaces, mounts, setpriv(1) and a filter of system calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from harness import PATIENCE, wait_for
from kustomize import Doc, render

ROOT = Path(__file__).resolve().parents[1]
USER = "1500"
NAMESPACES = ["--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child"]

# A root of the container's own, read-only; what stands in it is the host's, under the same names.
# $1: what the test shares with the pod, $2: a hugetlbfs of another pod's to use as well, or "".
BUILD = r"""
set -e
share=$1 hugepages=$2 memory=$3; shift 3
mount --make-rprivate /
root=/mnt
mount -t tmpfs -o mode=755 container $root
cd $root
mkdir -p proc sys dev/shm dev/hugepages tmp run var/tmp etc
for one in /usr /etc /bin /sbin /lib /lib64 $KEEP; do
	if [ -L $one ]; then cp -d $one .$one; continue; fi
	mkdir -p .$one
	mount --rbind $one .$one
	mount -o remount,bind,ro .$one
done
for one in null zero full random urandom; do
	touch dev/$one
	mount --bind /dev/$one dev/$one
done
for one in config plugins; do
	mkdir $one
	mount --bind $share/$one $one
	mount -o remount,bind,ro $one
done
touch dev/termination-log
mount --bind $share/termination-log dev/termination-log
mount -t proc proc proc
mount --rbind /sys sys
mount -o remount,bind,ro sys
mount -t tmpfs -o size=64m,mode=1777 shm dev/shm
mount -t tmpfs -o size=16m,mode=777 tmp tmp
if [ -n "$hugepages" ]; then
	mount --bind "$hugepages" dev/hugepages
else
	# As the kubelet mounts an emptyDir of hugepages: of root, and of the pod's group.
	mount -t hugetlbfs -o pagesize=2M,size=$memory nodev dev/hugepages
	chown 0:1500 dev/hugepages
	chmod 2777 dev/hugepages
fi
mkdir old
pivot_root . old
umount -l /old
rmdir /old
mount -o remount,bind,ro /
cd /
exec "$@"
"""

# The system calls that the runtimes' default profiles refuse a process without capabilities, as
# Docker's documentation lists them, and those of newer profiles.
FILTER = r"""
import errno, os, sys
import pyseccomp as sc
names = '''acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module
    get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm
    iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at perf_event_open personality pivot_root
    process_vm_readv process_vm_writev query_module quotactl reboot request_key set_mempolicy setns
    settimeofday stime swapoff swapon sysfs umount umount2 unshare uselib userfaultfd ustat vhangup
    fanotify_init fsconfig fsmount fsopen fspick move_mount open_tree pidfd_getfd syslog'''
rules = sc.SyscallFilter(sc.ALLOW)
for name in names.split():
    try:
        rules.add_rule(sc.ERRNO(errno.EPERM), name)
    except Exception:
        print("unknown here:", name, file=sys.stderr)
for bit in (17, 25, 26, 27, 28, 29, 30):  # CLONE_NEW*
    rules.add_rule(sc.ERRNO(errno.EPERM), "clone", sc.Arg(0, sc.MASKED_EQ, 1 << bit, 1 << bit))
rules.add_rule(sc.ERRNO(errno.ENOSYS), "clone3")
rules.load()
os.execvp(sys.argv[1], sys.argv[1:])
"""


def is_possible() -> bool:
    words = ["unshare", *NAMESPACES, "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Pod:
    """A container of the rendered manifest `docs`. `folder` holds what is shared with it: config/,
    plugins/ and termination-log."""

    def __init__(self, folder: Path, docs: list[Doc], cpus: list[int], hugepages: str = "") -> None:
        self.folder = folder
        (daemon,) = [doc for doc in docs if doc["kind"] == "DaemonSet"]
        (self.container,) = daemon["spec"]["template"]["spec"]["containers"]
        self._hugepages = hugepages
        for one in ("config", "plugins"):
            (folder / one).mkdir(exist_ok=True)
        (folder / "termination-log").touch()
        (folder / "termination-log").chmod(0o666)  # as the kubelet does
        (folder / "build").write_text(BUILD)
        prefix = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
        env = {one["name"]: one["value"] for one in self.container["env"]}
        self._env = [f"{k}={v}" for k, v in {**env, "PATH": prefix}.items()]
        # No group but the pod's, no capability, none to be had again.
        self._user = [
            "setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER}", "--inh-caps=-all",
            "--bounding-set=-all", "--no-new-privs", "taskset", "-c", ",".join(map(str, cpus)),
            "env", "-i", *self._env, f"{sys.prefix}/bin/python", "-P", "-c", FILTER,
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        keep = [sys.prefix]
        keep += [] if sys.base_prefix.startswith("/usr") else [sys.base_prefix]
        limit = self.container["resources"]["limits"]["hugepages-2Mi"].removesuffix("i")
        self.process = subprocess.Popen(
            ["unshare", *NAMESPACES, "bash", str(self.folder / "build"), str(self.folder),
             self._hugepages, limit, *self._user, *self.container["command"]],
            env={**os.environ, "KEEP": " ".join(keep)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def first(self) -> int:
        """The host's pid of the container's first process; 0: it is not there."""
        assert self.process is not None
        pid = self.process.pid
        try:
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return 0
        return int(words[0]) if words else 0

    def processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.first())
        return [first, *first.children(recursive=True)]

    def exec(self, *args: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec`, and as a probe."""
        enter = ["nsenter", "-t", str(self.first()), "-m", "-p", "-n", "-i", "-u", "--wd=/"]
        return subprocess.run(
            [*enter, *self._user, *args], capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip

    def probe(self, name: str) -> int:
        return self.exec(*self.container[name]["exec"]["command"]).returncode

    def until_ready(self) -> None:
        def look() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(self.said())
            return self.first() != 0 and self.probe("readinessProbe") == 0

        wait_for(look, step=0.2)

    def said(self) -> str:
        assert self.process is not None
        return self.process.communicate(timeout=PATIENCE)[0]

    def end(self) -> tuple[int, str]:
        """SIGTERM to the first process, as the kubelet does: its exit code and what it said."""
        assert self.process is not None
        if self.process.poll() is None and (pid := self.first()):
            os.kill(pid, signal.SIGTERM)
        said = self.said()
        return self.process.returncode, said

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def config_map(folder: Path, files: dict[str, str]) -> None:
    """Put these into a mounted ConfigMap as the kubelet's atomic writer does: a new directory, and
    one rename of the link to it."""
    number = len(list(folder.glob("..20*")))
    data = folder / f"..2026_12_01_{number}"
    data.mkdir()
    for name, text in files.items():
        (data / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")


def manifest(overlay: str) -> list[dict[str, Any]]:
    return render(ROOT / "deploy/k8s/overlays" / overlay)
