# SPDX-License-Identifier: BSD-3-Clause
"""Two hosts for dpsup to stand between: network namespaces, each at the end of a veth.

The outer ends of the two veths stay in the namespace that dpsup runs in and are its ports, by
net_af_packet. Run as a program, this module is the two ends of a TCP transfer.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds, to catch what hangs

# net_af_packet hands on what the kernel gives it: with these on, that is packets without checksum,
# of up to 64 KiB, or without their VLAN tag.
OFFLOADS = (
    "rx", "tx", "sg", "tso", "gso", "gro", "rxvlan", "txvlan",
)  # fmt: skip

_serial = itertools.count()


def sh(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stderr}"
    return done


@dataclass
class Host:
    """A network namespace with one interface; `port` is the other end of its veth."""

    name: str
    device: str
    port: str
    ipv4: str
    ipv6: str
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return sh("ip", "netns", "exec", self.name, *argv, check=check)

    def popen(self, *argv: str) -> subprocess.Popen[str]:
        """A process in the namespace; it ends with the pair of hosts at the latest."""
        child = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def python(self, *argv: str) -> subprocess.Popen[str]:
        """One of this module's programs in the namespace."""
        return self.popen(sys.executable, __file__, *argv)

    def add_vlan(self, tag: int, address: str) -> bool:
        """False: this kernel has no VLAN interfaces."""
        sub = f"{self.device}.{tag}"
        done = sh("ip", "-n", self.name, "link", "add", "link", self.device, "name", sub,
                  "type", "vlan", "id", str(tag), check=False)  # fmt: skip
        if "Unknown device type" in done.stderr:
            return False
        assert done.returncode == 0, done.stderr
        sh("ip", "-n", self.name, "addr", "add", address, "dev", sub)
        sh("ip", "-n", self.name, "link", "set", sub, "up")
        return True

    def replace_device(self, device: str) -> None:
        """Have an interface of dpsup's namespace (a tap) in place of the veth."""
        sh("ip", "-n", self.name, "link", "del", self.device)
        sh("ip", "link", "set", device, "netns", self.name)
        sh("ip", "-n", self.name, "link", "set", device, "name", self.device)
        self._up()

    def _up(self) -> None:
        sh("ip", "-n", self.name, "link", "set", "lo", "up")
        sh("ip", "-n", self.name, "addr", "add", f"{self.ipv4}/24", "dev", self.device)
        sh("ip", "-n", self.name, "addr", "add", f"{self.ipv6}/64", "dev", self.device, "nodad")
        sh("ip", "-n", self.name, "link", "set", self.device, "up")

    @property
    def mac(self) -> str:
        return self.run("cat", f"/sys/class/net/{self.device}/address").stdout.strip()

    def reflect(self) -> None:
        """From now on each frame for this host goes back to its sender, MACs swapped."""
        child = self.python("reflect", self.device)
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"

    def exchange(self, frames: list[bytes]) -> list[bytes]:
        """Send each frame and wait for the one that comes back; b"": none in a second."""
        child = self.python("exchange", self.device)
        out, err = child.communicate("\n".join(f.hex() for f in frames), timeout=PATIENCE)
        assert child.returncode == 0, err
        return [bytes.fromhex(line) for line in out.splitlines()]

    def ping(self, address: str, *options: str, count: int = 5) -> int:
        """How many echoes came back."""
        done = self.run(
            "ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", "5", *options, address,
            check=False,
        )  # fmt: skip
        words = done.stdout.replace(",", " ").split()
        assert "received" in words, done.stdout + done.stderr
        return int(words[words.index("received") - 1])


def _host(stem: str, side: str, number: int) -> Host:
    host = Host(
        name=f"{stem}{side}",
        device="eth0",
        port=f"{stem}{side}",  # an interface's name has 15 bytes at most
        ipv4=f"10.99.0.{number}",
        ipv6=f"fd00:99::{number}",
    )
    inside = f"{stem}{side}i"
    sh("ip", "netns", "add", host.name)
    sh("ip", "link", "add", host.port, "type", "veth", "peer", "name", inside)
    sh("ip", "link", "set", inside, "netns", host.name, "name", host.device)
    # The kernel must not speak on dpsup's ports: no address, no neighbour discovery.
    sh("ip", "link", "set", host.port, "addrgenmode", "none")
    off = [word for offload in OFFLOADS for word in (offload, "off")]
    sh("ethtool", "-K", host.port, *off)
    host.run("ethtool", "-K", host.device, *off)
    sh("ip", "link", "set", host.port, "up")
    host._up()
    return host


@contextlib.contextmanager
def some_hosts(count: int) -> Iterator[list[Host]]:
    """Hosts under names of their own; nothing of them stays behind."""
    stem = f"dps{os.getpid()}n{next(_serial)}"
    sides = "abcdefgh"[:count]
    hosts: list[Host] = []
    try:
        for number, side in enumerate(sides, 1):
            hosts.append(_host(stem, side, number))
        yield hosts
    finally:
        for host in hosts:
            for child in host.children:
                if child.poll() is None:
                    child.kill()
                child.communicate()
        # By name: what a failure in the middle of _host left goes too.
        for side in sides:
            _remove(f"{stem}{side}")
        left = sh("ip", "-o", "link").stdout + sh("ip", "netns").stdout
        assert stem not in left, left


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    with some_hosts(2) as (one, other):
        yield one, other


@contextlib.contextmanager
def bridge(*devices: str) -> Iterator[None]:
    """A bridge of the kernel's between interfaces that are here."""
    name = f"dps{os.getpid()}n{next(_serial)}b"
    sh("ip", "link", "add", name, "type", "bridge")
    try:
        for device in devices:
            sh("ip", "link", "set", device, "master", name)
        sh("ip", "link", "set", name, "addrgenmode", "none")
        sh("ip", "link", "set", name, "up")
        yield
    finally:
        sh("ip", "link", "del", name)


@contextlib.contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """A veth whose two ends are here: two ports of dpsup that are cabled together."""
    stem = f"dps{os.getpid()}n{next(_serial)}"
    ends = f"{stem}x", f"{stem}y"
    sh("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    try:
        for end in ends:
            sh("ip", "link", "set", end, "addrgenmode", "none")
            sh("ip", "link", "set", end, "up")
        yield ends
    finally:
        sh("ip", "link", "del", ends[0])


def _remove(name: str) -> None:
    sh("ip", "link", "del", name, check=False)
    sh("ip", "netns", "del", name, check=False)


def remove_dead_hosts() -> None:
    """Those of test runs that were killed; a name begins with the run's pid."""
    there = sh("ip", "-o", "link").stdout + sh("ip", "netns", check=False).stdout
    for name, pid in set(re.findall(r"\b(dps(\d+)n\d+[a-hxy])\b", there)):
        if not Path(f"/proc/{pid}").exists():
            for process in sh("ip", "netns", "pids", name, check=False).stdout.split():
                os.kill(int(process), signal.SIGKILL)
            _remove(name)


# --- a TCP transfer -------------------------------------------------------------------------------

BLOCK = 1 << 18
TCP_PORT = 5001


@dataclass
class Transfer:
    """A TCP transfer between two hosts, of `least` bytes and of as many more as it takes until
    `finish`: whatever is done before that is done while it runs."""

    source: subprocess.Popen[str]
    sink: subprocess.Popen[str]

    @classmethod
    def start(cls, source: Host, sink: Host, address: str, least: int) -> Transfer:
        receiving = sink.python("receive", address)
        assert receiving.stdout is not None
        ready = receiving.stdout.readline()
        assert ready == "listening\n", ready + receiving.communicate()[1]
        return cls(source.python("send", address, str(least)), receiving)

    @property
    def runs(self) -> bool:
        return self.source.poll() is None and self.sink.poll() is None

    def finish(self, timeout: float = 2 * PATIENCE) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was sent and what was received: bytes, sha256, seconds."""
        out, err = self.source.communicate("finish\n", timeout=timeout)
        assert self.source.returncode == 0, err
        sent = json.loads(out)
        out, err = self.sink.communicate(timeout=timeout)
        assert self.sink.returncode == 0, err
        return sent, json.loads(out)


def _connect(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(PATIENCE)
    return s


def _report(total: int, digest: str, seconds: float) -> None:
    print(json.dumps({"bytes": total, "sha256": digest, "seconds": seconds}), flush=True)


def send(address: str, least: int) -> None:
    noise = random.Random(least).randbytes(BLOCK)
    hashed = hashlib.sha256()
    total = 0
    with _connect(address) as s:
        s.connect((address, TCP_PORT))
        start = time.monotonic()
        while total < least or not select.select([sys.stdin], [], [], 0)[0]:
            # No two blocks alike, so that a lost, doubled or swapped one shows.
            block = total.to_bytes(8, "big") + noise[8:]
            hashed.update(block)
            s.sendall(block)
            total += len(block)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
        _report(total, hashed.hexdigest(), time.monotonic() - start)


def receive(address: str) -> None:
    hashed = hashlib.sha256()
    total = 0
    with _connect(address) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, TCP_PORT))
        listening.listen(1)
        print("listening", flush=True)
        s, _ = listening.accept()
        s.settimeout(PATIENCE)
        start = time.monotonic()
        with s:
            while block := s.recv(BLOCK):
                hashed.update(block)
                total += len(block)
        _report(total, hashed.hexdigest(), time.monotonic() - start)


# --- frames ---------------------------------------------------------------------------------------

SOL_PACKET = 263
PACKET_AUXDATA = 8
VLAN_VALID = 1 << 4
VLAN_TPID_VALID = 1 << 6
AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid


def raw_socket(host: Host | None, device: str = "") -> socket.socket:
    """A packet socket on a host's interface, or on one of our own namespace."""
    if host is None:
        return _raw(device)
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as ours, Path("/run/netns", host.name).open() as theirs:
        # os.setns is Python 3.12's. It moves this thread alone; a socket stays where it was made.
        assert libc.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            return _raw(device or host.device)
        finally:
            assert libc.setns(ours.fileno(), 0) == 0


def _raw(device: str) -> socket.socket:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.bind((device, 0x0003))
    return s


def _frame(s: socket.socket) -> bytes:
    """The next frame from the wire, as it was on the wire: the kernel takes the outer tag off."""
    while True:
        data, extra, _, address = s.recvmsg(65536, socket.CMSG_SPACE(AUXDATA.size))
        if address[2] == socket.PACKET_OUTGOING:
            continue
        for level, kind, value in extra:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = AUXDATA.unpack(value[: AUXDATA.size])
                if status & VLAN_VALID:
                    tpid = tpid if status & VLAN_TPID_VALID else 0x8100
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
        return data


def reflect(device: str) -> None:
    with _raw(device) as s:
        mac = s.getsockname()[4]
        print("listening", flush=True)
        while True:
            frame = _frame(s)
            if frame[:6] == mac:
                s.send(frame[6:12] + frame[:6] + frame[12:])


def exchange(device: str) -> None:
    with _raw(device) as s:
        mac = s.getsockname()[4]
        for line in sys.stdin:
            s.send(bytes.fromhex(line))
            s.settimeout(1)
            frame = b""
            # Neighbour discovery and the like are not what is waited for.
            with contextlib.suppress(TimeoutError):
                while frame[:6] != mac:
                    frame = b""
                    frame = _frame(s)
            print(frame.hex(), flush=True)


def main(program: str, *argv: str) -> None:
    if program == "send":
        send(argv[0], int(argv[1]))
    else:
        {"receive": receive, "reflect": reflect, "exchange": exchange}[program](argv[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
