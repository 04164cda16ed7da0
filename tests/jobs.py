# SPDX-License-Identifier: BSD-3-Clause
"""pcap jobs under test: their topologies, a running one, and what its recoveries found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import PATIENCE, Run, wait_for
from traffic import Packet, read_pcap, save

import dpsup
from dpsup.errors import DpsupError

ROOT = Path(__file__).resolve().parents[1]
JUMBO = 9000  # MTU
SLOW = 100_000  # TSC cycles for one packet: some 40 µs, so that a run lasts and bursts are in hand

LOSSLESS = """
on_full = "hold"
restart = { intensity = 1000000, backoff = { initial = "1ms", factor = 1 } }
"""

# Its plugin asks the kernel for files, or for more, while it has packets.
FREE = 'confine = "off"\n'

# Some milliseconds of CPU for each packet until there is a file: however late a test comes, the job
# is not over. Its group is FREE.
TOILS = """
#include <time.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (access("FILE", F_OK) != 0)
		for (clock_t until = clock() + CLOCKS_PER_SEC / 500; clock() < until;)
			;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "toils", .packet = packet,
};
"""

ONCE = """
on_full = "hold"
restart = {{ intensity = {intensity}, backoff = {{ initial = "1ms", factor = 1 }} }}
"""


def pcap_port(name: str = "wan", mtu: int = JUMBO, inputs: int = 1, outputs: int = 1) -> str:
    """A port that reads NAME.in.pcap and writes NAME.out.pcap; the n-th of several is NAME.inN."""
    rx = [f"rx_pcap={name}.in{i or ''}.pcap" for i in range(inputs)]
    tx = [f"tx_pcap={name}.out{i or ''}.pcap" for i in range(outputs)]
    return f"""
[[ports]]
name = "{name}"
vdev = "net_pcap_{name},{",".join(rx + tx)}"
mtu = {mtu}
"""


def group(plugin: str, count: int, args: str = "", most: int = 0, more: str = LOSSLESS) -> str:
    return f"""
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ {args} }}
input = ["wan"]
count = {count}
max = {most or count}
{more}
"""


IO = """
[[io]]
cores = "1"
"""


def accounted(doc: dict[str, Any], packets: int, dropped: int = 0) -> None:
    """The final account of a job: nothing lost, nothing left, no mbuf unexplained."""
    assert doc["received"] == packets
    assert doc["sent"] == packets - dropped
    assert sum(doc["dropped"].values()) == dropped, doc["dropped"]
    assert doc["in_flight"] == doc["lost"] == 0
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])


def out(instance: Run, name: str = "wan.out") -> Iterator[bytes]:
    return read_pcap(instance.folder / f"{name}.pcap")


def save_queues(instance: Run, packets: list[Packet]) -> tuple[list[Packet], list[Packet]]:
    """Inputs of a port's two rx queues: all of a flow arrives on one, as RSS has it."""
    first = set(sorted({p.flow for p in packets})[::2])
    parts = (
        [p for p in packets if p.flow in first],
        [p for p in packets if p.flow not in first],
    )
    save(instance.folder / "wan.in.pcap", parts[0])
    save(instance.folder / "wan.in1.pcap", parts[1])
    return parts


def read_of(
    queues: Sequence[Sequence[Packet]], sent: Iterable[bytes], change: Callable[[bytes], bytes]
) -> list[Packet]:
    """What a port had read of its inputs when it was cut, if all of it was sent."""
    queue_of = {change(p.frame): i for i, queue in enumerate(queues) for p in queue}
    count = Counter(queue_of.get(frame) for frame in sent)
    return [p for i, queue in enumerate(queues) for p in queue[: count[i]]]


class Job:
    """A pcap job in the foreground, and a connection to it for as long as it runs."""

    # Ends by itself long after a test that paused has come back.
    def __init__(self, instance: Run, text: str, idle: str = "30s") -> None:
        options = ("--exit-when-idle", idle, "-o", "json")
        self.process = instance.foreground(text, *options)
        self.name = instance.name
        self.seen = 0
        self.log: list[dict[str, Any]] = []
        self.instance: dpsup.Instance = wait_for(self._connect)
        # A worker that dies at once has made it degraded by the time that anybody looks.
        wait_for(lambda: self.instance.status()["state"] in ("running", "degraded"))

    def _connect(self) -> dpsup.Instance | None:
        assert self.process.poll() is None, self.process.communicate()
        with contextlib.suppress(DpsupError):
            found = dpsup.connect(self.name)
            # Headless: our supervisor is on its way.
            return None if found.headless else found
        return None

    def sent(self) -> int:
        return sum(p["tx_packets"] for p in self.instance.status()["ports"])

    def until_sent(self, packets: int) -> None:
        wait_for(lambda: self.sent() >= packets, step=0.005)

    def events(self) -> list[dict[str, Any]]:
        """All events so far; the instance keeps a bounded number, so ask in time."""
        new = self.instance.events(since=self.seen)
        assert not new or not self.seen or new[0]["seq"] == self.seen + 1, "events were missed"
        self.log += new
        self.seen = self.log[-1]["seq"]
        return self.log

    def end(self, packets: int | None = None) -> dict[str, Any]:
        """Its final account, once it has received so many packets and none is under way; without a
        number, once nothing has moved for half a second."""
        last, since = (-1, -1), time.monotonic()
        deadline = since + PATIENCE
        quiet = False
        while not quiet and self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(DpsupError):
                account = self.instance.stats()["account"]
                now = (account["received"], account["in_flight"])
                # By what was just read: before that this process may have stood still.
                if now != last or now[1]:
                    last, since = now, time.monotonic()
                quiet = now == (packets, 0) or time.monotonic() > since + 0.5
            # Not often: whoever answers may share a worker's CPU.
            time.sleep(0.0 if quiet else 0.05)
        with contextlib.suppress(DpsupError):
            self.instance.stop()
        return self._account()

    def cut(
        self, packets: Sequence[Packet], more: int = 4000
    ) -> tuple[dict[str, Any], Sequence[Packet]]:
        """Stop it in the middle of its input, after so many more packets: what is left would show
        nothing new. Its final account, and what it received: one queue is read in order."""

        def received() -> int:
            return sum(p["rx_packets"] for p in self.instance.status()["ports"])

        enough = min(received() + more, len(packets))
        wait_for(lambda: received() >= enough, step=0.01)
        # One that is dead now would not come back to what it left.
        wait_for(lambda: self.instance.status()["state"] == "running", step=0.01)
        self.instance.stop(drain=PATIENCE)
        doc = self._account()
        return doc, packets[: doc["received"]]

    def _account(self) -> dict[str, Any]:
        self.instance.close()
        output, errors = self.process.communicate(timeout=2 * PATIENCE)
        assert self.process.returncode == 0, errors
        return json.loads(output)


@dataclass
class Deaths:
    """What recoveries found; see struct dps_recovery."""

    total: int
    in_hand: int
    published: int
    undone: int


def deaths(events: list[dict[str, Any]]) -> Deaths:
    found = [e["repaired"] for e in events if e["type"] == "death"]
    return Deaths(
        total=len(found),
        in_hand=sum(bool(r["published"] or r["undone"]) for r in found),
        published=sum(r["published"] > 0 for r in found),
        undone=sum(r["undone"] for r in found),
    )


def build(folder: Path, text: str, *flags: str) -> Path:
    """A plugin that knows more of dpsup than it should."""
    source = folder / "evil.c"
    source.write_text(text)
    target = folder / "evil.so"
    subprocess.run(
        ["cc", "-std=gnu11", "-shared", "-fPIC", "-O2", f"-I{ROOT}/shim", f"-I{ROOT}/workers",
         f"-I{ROOT}/workers/sdk", *flags, str(source), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target


def death_events(job: Job) -> list[dict[str, Any]]:
    return [e for e in job.events() if e["type"] == "death"]


def find_busy(job: Job) -> int:
    """The pid of the first worker, once it runs and has packets."""

    def busy() -> int:
        worker = job.instance.status()["groups"][0]["workers"][0]
        return worker["pid"] if worker["state"] == "running" and worker["outstanding"] else 0

    return int(wait_for(busy, step=0.002))


def kill_busy(job: Job) -> None:
    os.kill(find_busy(job), signal.SIGKILL)


def spare_pids(instance: Run) -> list[int]:
    """By what ps shows."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_bytes().decode(errors="replace")
            if title.startswith(f"dpsup-worker: {instance.name} ") and "/spare" in title:
                found.append(int(process.name))
    return found
