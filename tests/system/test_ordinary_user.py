# SPDX-License-Identifier: BSD-3-Clause
"""A whole life as an ordinary user without a capability, on a host that root has prepared:
hugetlbfs and a TAP that belong to the user. docs/security.md says how."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, lives, wait_for
from jobs import build
from traffic import compare, flows, mix, read_pcap, save

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.beside,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is in util-linux"),
]

USER = 54321
MAC = "02:70:63:61:70:00"  # net_pcap's first port
POWERLESS = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all",
    "--inh-caps=-all", "--no-new-privs",
)  # fmt: skip

TOPOLOGY = """
version = 1
name = "{name}"
[host]
runtime_dir = "{folder}/run/i"
[mempools.default]
mbufs = 8192
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap={folder}/work/in.pcap,tx_pcap={folder}/work/out.pcap"
kernel = {{ tap = "{tap}" }}
[[io]]
cores = "1"
idle = "adaptive"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ fast = "{folder}/work/fast" }}
input = ["wan"]
count = 1
max = 2
spares = 1
on_full = "hold"
restart = {{ intensity = 1000, backoff = {{ initial = "1ms", factor = 1 }} }}
"""

# Until the file says otherwise, so slow that it has work for as long as the test takes.
SLOW = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static const volatile char *fast;

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	fast = mmap(NULL, 1, PROT_READ, MAP_SHARED, open(dps_arg(env, "fast"), O_RDONLY), 0);
	return fast == MAP_FAILED ? -1 : 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	static int n;

	(void)state;
	if (!*fast)
		usleep(20000);
	if (++n % 10 == 0)
		printf("it has had %d packets\\n", n);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "slow", .init = init, .packet = packet,
};
"""


class Host:
    """A mount namespace in which the user can read dpsup, and has hugepages of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"o{os.getpid()}"
        self.tap = f"to{os.getpid()}"
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "echo; exec sleep 600"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        for one in ("venv", "huge", "run", "work"):
            (folder / one).mkdir()
        for one in ("run", "work"):
            os.chown(folder / one, USER, USER)
            (folder / one).chmod(0o700)
        owner = f"uid={USER},gid={USER},mode=0700,pagesize=2M"
        self._root("mount", "--bind", sys.prefix, str(folder / "venv"))
        self._root("mount", "-t", "hugetlbfs", "-o", owner, "nodev", str(folder / "huge"))

    def _root(self, *command: str) -> None:
        inside = ["nsenter", "-t", str(self.holder.pid), "--mount", "--", *command]
        subprocess.run(inside, check=True, timeout=PATIENCE)

    def prepare_tap(self) -> None:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True)

        ip("tuntap", "add", self.tap, "mode", "tap", "multi_queue", "user", str(USER))
        ip("link", "set", self.tap, "alias", f"dpsup {self.name} wan", "address", MAC, "up")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        python = str(self.folder / "venv" / "bin" / "python")
        work = self.folder / "work"
        command = ["nsenter", "-t", str(self.holder.pid), "--mount", f"--wd={work}", "--"]
        env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self.folder / "run")}
        return subprocess.run(
            [*command, *POWERLESS, python, "-P", "-m", "dpsup", *words],
            capture_output=True, text=True, timeout=PATIENCE, check=False, env=env,
        )  # fmt: skip

    def ask(self, *words: str) -> Any:
        done = self.run("-n", self.name, *words, "-o", "json")
        return json.loads(done.stdout) if done.stdout else {}

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("status")
        return found

    def close(self) -> None:
        self.run("-n", self.name, "stop")
        subprocess.run(["ip", "link", "del", self.tap], check=False, stderr=subprocess.DEVNULL)
        self.holder.kill()
        self.holder.communicate()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    # Above the folder, nobody else may look.
    folder = Path("/tmp") / f"dpsup-o{os.getpid()}"
    folder.mkdir(mode=0o755)
    made = Host(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def powers(pid: int) -> set[tuple[str, str]]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        caps = {int(status[f"Cap{k}"], 16) for k in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
        assert caps == {0}, (pid, status)
        found.add((status["Uid"].split()[1], status["NoNewPrivs"]))
    return found


def test_a_whole_life_without_a_capability(host: Host, tmp_path: Path) -> None:
    packets = mix(flows(), 4_000, seed=8)
    work = host.folder / "work"
    plugin = work / "slow.so"
    shutil.copy(build(tmp_path, SLOW), plugin)
    save(work / "in.pcap", packets)
    (work / "fast").write_bytes(b"\0")
    text = TOPOLOGY.format(name=host.name, folder=host.folder, plugin=plugin, tap=host.tap)
    file = work / "t.toml"
    file.write_text(text)
    refused = host.run("start", str(file), "--detach")
    assert refused.returncode == 6 and "E0447" in refused.stderr, refused
    host.prepare_tap()
    done = host.run("start", str(file), "--detach")
    assert done.returncode == 0, done.stderr
    status = host.status()

    def sent() -> int:
        n: int = host.status()["ports"][0]["tx_packets"]
        return n

    def said() -> int:
        return host.run("-n", host.name, "logs").stdout.count("it has had")

    wait_for(lambda: sent() > 10, step=0.3)
    seed = status["seed"]["pid"]
    children = Path(f"/proc/{seed}/task/{seed}/children").read_text().split()
    everyone = [status["supervisor"]["pid"], status["primary"]["pid"], seed, *map(int, children)]
    assert len(everyone) == 5
    for pid in everyone:
        assert powers(pid) == {(str(USER), "1")}
    first = status["groups"][0]["workers"][0]["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: host.status()["groups"][0]["workers"][0]["pid"] not in (None, first), step=0.3)
    assert host.run("-n", host.name, "scale", "fw", "2").returncode == 0
    # The next supervisor adopts what runs.
    os.kill(status["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: not lives(status["supervisor"]["pid"]))
    done = host.run("start", str(file), "--detach")
    assert done.returncode == 0, done.stderr
    assert host.status()["generation"] == 1
    # It has what they print, too.
    told = said()
    wait_for(lambda: said() > told, step=0.3)
    with (work / "fast").open("r+b") as f:
        f.write(b"\1")
    wait_for(lambda: sent() >= len(packets), step=0.3)
    done = host.run("-n", host.name, "stop")
    assert done.returncode == 0, done.stderr
    # The kernel sends some of its own, by the TAP.
    known = {p.frame for p in packets}
    compare(packets, (f for f in read_pcap(work / "out.pcap") if f in known))
    assert not list((host.folder / "huge").iterdir())
