# SPDX-License-Identifier: BSD-3-Clause
"""dpsup against a peer: dpdk-testpmd over shared memory (net_memif), the kernel over net_tap."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import PATIENCE, Run, wait_for
from netns import Host, two_hosts

from dpsup import connect

pytestmark = pytest.mark.beside

BURST = 32  # testpmd's
GENERATED = "02:00:00:00:00:00"  # where testpmd's packets go

MEMIF = """
[[ports]]
name = "wan"
vdev = "net_memif0,role={role},socket={socket},socket-abstract=no"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "macswap"
input = ["wan"]
count = 2
on_full = "hold"
restart = {{ intensity = 1000, backoff = {{ initial = "1ms", factor = 1 }} }}
"""

TAPS = """
[[ports]]
name = "wan"
vdev = "net_tap0,iface={wan}"
[[ports]]
name = "lan"
vdev = "net_tap1,iface={lan}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "forward"
args = {{ map = {{ wan = "lan", lan = "wan" }} }}
input = ["wan", "lan"]
count = 2
"""


class Peer:
    """dpdk-testpmd, driven through its prompt."""

    def __init__(self, vdev: str) -> None:
        # On a terminal it writes its lines as they come. Memory of its own, no hugepages, no files.
        self.screen, theirs = pty.openpty()
        self.prefix = f"testpmd{theirs}-{os.getpid()}"
        self.process = subprocess.Popen(
            ["dpdk-testpmd", "--lcores=0@0,1@0", "--no-huge", "--no-shconf", "-m", "128",
             "--no-pci", "--no-telemetry", f"--file-prefix={self.prefix}", f"--vdev={vdev}",
             "--", "-i", "--total-num-mbufs=4096", "--txonly-multi-flow"],
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self._read(_prompts)

    def _read(self, done: Callable[[str], bool]) -> str:
        """What it writes until that is enough."""
        deadline = time.monotonic() + PATIENCE
        text = ""
        while not done(text):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.screen], [], [], left)[0], text
            try:
                text += os.read(self.screen, 65536).decode(errors="replace").replace("\r", "")
            except OSError:  # EIO: it ended
                raise AssertionError(f"testpmd ended:\n{text}") from None
        return text

    def do(self, command: str, done: Callable[[str], bool] | None = None) -> str:
        """What it writes after its echo of the command, up to the prompt or as `done` wants it."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

        def answered(text: str) -> bool:
            _, echo, answer = text.partition(command)
            return bool(echo) and (done or _prompts)(answer)

        return self._read(answered).partition(command)[2]

    def counted(self) -> tuple[int, int]:
        """Packets that port 0 received and sent, ever."""
        text = self.do("show port stats 0")
        return tuple(int(n) for n in re.findall(r"[RT]X-packets: +(\d+)", text))  # type: ignore[return-value]

    def receive(self, count: int) -> set[tuple[str, str]]:
        """See `count` packets come in that wait: their sources and destinations."""
        self.do("set fwd rxonly")
        self.do("set verbose 1")
        # The prompt comes somewhere between the packets' lines.
        text = self.do("start", lambda text: len(_MACS.findall(text)) == count)
        self.do("stop")
        self.do("set verbose 0")
        return set(_MACS.findall(text))

    @property
    def mac(self) -> str:
        found = re.search(r"MAC address: ([0-9A-F:]+)", self.do("show port info 0"))
        assert found
        return found[1]

    def wait_link(self) -> None:
        wait_for(lambda: "Link status: up" in self.do("show port info 0"))

    def quit(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(b"quit\n")
                self.process.stdin.close()
            # It must not wait for us to read.
            deadline = time.monotonic() + PATIENCE
            while self.process.poll() is None and time.monotonic() < deadline:
                if select.select([self.screen], [], [], 0.05)[0]:
                    with contextlib.suppress(OSError):
                        os.read(self.screen, 65536)
            if self.process.poll() is None:
                self.process.kill()
        self.process.wait()
        os.close(self.screen)
        shutil.rmtree(f"/var/run/dpdk/{self.prefix}", ignore_errors=True)


_PROMPT = "testpmd> "
_MACS = re.compile(r"src=([0-9A-F:]+) - dst=([0-9A-F:]+) .*\n")


def _prompts(text: str) -> bool:
    return text.endswith(_PROMPT)


@contextlib.contextmanager
def joined(instance: Run, role: str, text: str = MEMIF) -> Iterator[Peer]:
    """dpsup, in this role, and testpmd in the other, with the link up."""
    socket = instance.folder / "memif"
    text = text.format(role=role, socket=socket)
    other = "client" if role == "server" else "server"
    with contextlib.ExitStack() as stack:
        if role == "server":
            instance.start(text)
        peer = Peer(f"net_memif0,role={other},socket={socket},socket-abstract=no")
        stack.callback(peer.quit)
        if role == "client":
            instance.start(text)
        peer.wait_link()
        yield peer


def is_counted(instance: Run, received: int, sent: int) -> bool:
    """Has the port received and sent so many, with nothing in flight? What waits in the ring
    between the two is in neither count."""

    def so(status: dict[str, Any]) -> bool:
        port = status["ports"][0]
        found = (port["rx_packets"], port["tx_packets"], status["in_flight"])
        return found == (received, sent, 0)

    return bool(instance.until(so))


@pytest.mark.parametrize("role", ["server", pytest.param("client", marks=pytest.mark.long)])
def test_testpmd_gets_all_back_with_the_macs_swapped(instance: Run, role: str) -> None:
    with joined(instance, role) as peer:
        peer.do("set fwd txonly")
        peer.do("start tx_first 1")
        # It sends until nothing has room: a lossless lane polls no more, the ring fills up.
        instance.until(lambda s: s["ports"][0]["tx_packets"] > BURST)
        peer.do("stop")
        there = peer.counted()
        assert peer.receive(there[1]) == {(GENERATED, peer.mac)}

        # The same with packets going both ways, and of many flows.
        peer.do("set fwd flowgen")
        peer.do("start")
        instance.until(lambda s: s["ports"][0]["tx_packets"] > 100_000)
        peer.do("stop")
        peer.do("set fwd rxonly")
        peer.do("start")
        # All that it sent came back, and was seen here.
        received, sent = wait_for(lambda: (c := peer.counted())[0] == c[1] and c)
        assert is_counted(instance, received, sent)
        workers = instance.status()["groups"][0]["workers"]
        assert all(w["rx_packets"] > 0 for w in workers)
        assert sum(w["rx_packets"] for w in workers) == received
        assert instance.stats()["account"]["dropped"] == {}
        assert instance.audit()["pools"][0]["unexplained"] == 0


def test_packets_that_go_round_survive_every_kill(instance: Run) -> None:
    """testpmd and dpsup send the same packets to and fro, each swapping the MACs: a lost, doubled
    or twice changed one would be seen at the end."""
    with joined(instance, "server") as peer, connect(instance.name) as live:

        def passed() -> int:
            return int(live.status()["ports"][0]["tx_packets"])

        peer.do("set fwd macswap")
        peer.do("start tx_first 8")
        circling = 8 * BURST
        for kill in range(20):
            seen = passed()
            wait_for(lambda seen=seen: passed() > seen + 10 * circling)
            live.kill(f"fw/{kill % 2}")
            wait_for(
                lambda n=kill + 1: (
                    (s := live.status())["recovery"]["deaths"] == n and s["state"] == "running"
                )
            )
        peer.do("stop")
        received, sent = peer.counted()
        assert sent - received == circling
        assert is_counted(instance, sent, sent)
        assert live.status()["recovery"]["lost"] == 0
        assert live.audit()["pools"][0]["unexplained"] == 0
        # They all wait in testpmd's ring, last swapped by dpsup.
        assert peer.receive(circling) == {(GENERATED, peer.mac)}


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as pair:
        yield pair


def test_kernel_speaks_through_net_tap(instance: Run, hosts: tuple[Host, Host]) -> None:
    taps = [f"{host.port}t" for host in hosts]
    instance.start(TAPS.format(wan=taps[0], lan=taps[1]))
    for host, tap in zip(hosts, taps, strict=True):
        host.replace_device(tap)
    a, b = hosts
    assert a.ping(b.ipv4) == 5
    assert a.ping(b.ipv6) == 5
    # A tap hands fragments on as they are.
    assert a.ping(b.ipv4, "-s", "20000") == 5
    assert a.ping(b.ipv6, "-s", "20000") == 5

    def through() -> bool:
        doc = instance.stats()["account"]
        assert doc["dropped"] == {}
        return bool(doc["received"] == doc["sent"] >= 5 * 2 * (1 + 1 + 14 + 14))

    wait_for(through)
    before = instance.stats()["io"][0]["woken"]

    def woken() -> bool:
        assert a.ping(b.ipv4, count=1) == 1
        return bool(instance.stats()["io"][0]["woken"] >= before + 8)

    wait_for(woken, step=0.1)
