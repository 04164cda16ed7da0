# SPDX-License-Identifier: BSD-3-Clause
"""For tests inside a machine of the lab: its NICs, its wires' far ends, and the world outside."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netns
import traffic

OUT = Path("/out")
# Seconds, to catch what hangs. An emulator on a shared CPU takes a minute for what takes a second.
PATIENCE = 600.0
DEVICES = Path("/sys/bus/pci/devices")
SO_RCVBUFFORCE = 33  # of the kernel; Python names it not
SHORTEST = 60  # a frame on Ethernet without its checksum: NICs fill up to it


def sh(*argv: str, check: bool = True, timeout: float = PATIENCE) -> str:
    """A command's output; it must end with 0 unless `check` is false."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check:
        assert done.returncode == 0, (
            f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


class Refused(Exception):
    """What the outside could not do."""


class Outside:
    """What only the world outside can do: see `Outside` in running.py for the verbs."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/virtio-ports/lab.outside", os.O_RDWR)

    def ask(self, verb: str, **arguments: Any) -> Any:
        os.write(self._fd, json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(self._fd, 65536)
        answer = json.loads(data)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["ok"]

    def cut(self) -> None:
        """Cuts the power: nothing after this call runs."""
        os.sync()
        os.write(self._fd, b'{"verb": "cut"}\n')
        while True:
            time.sleep(1)


@dataclass(frozen=True)
class Nic:
    """A NIC of this machine, by its name in the machine's description."""

    name: str
    model: str
    wire: str
    pci: str

    @property
    def there(self) -> bool:
        return (DEVICES / self.pci).exists()

    @property
    def driver(self) -> str:
        """The kernel's driver that has it, or nothing."""
        link = DEVICES / self.pci / "driver"
        return link.resolve().name if link.exists() else ""

    def bind(self, driver: str) -> None:
        """Gives the NIC to a driver; "" gives it to the one that the kernel chooses."""
        if self.driver == driver != "":
            return
        device = DEVICES / self.pci
        if driver:
            # systemd gives up its own loading of modules after 90 s, which is not an emulator's.
            sh("modprobe", driver)
        (device / "driver_override").write_text(f"{driver}\n")
        end = time.monotonic() + PATIENCE
        while True:
            # Of a device just plugged in, the kernel may be giving it to a driver right now.
            with contextlib.suppress(OSError):
                (device / "driver/unbind").write_text(self.pci)
            Path("/sys/bus/pci/drivers_probe").write_text(self.pci)
            if driver in ("", self.driver):
                return
            assert time.monotonic() < end, f"{self.name} has {self.driver or 'no driver'}"
            time.sleep(0.2)

    def netdev(self) -> str:
        """Its interface, where one of the kernel's drivers has it."""
        end = time.monotonic() + PATIENCE
        while True:
            for where in (DEVICES / self.pci).glob("**/net/*"):
                return where.name
            assert time.monotonic() < end, f"{self.name} has no interface: {self.driver}"
            time.sleep(0.2)


@dataclass(frozen=True)
class Tap:
    """A net_tap port's interface, which is its far end."""

    name: str

    def netdev(self) -> str:
        return self.name


class End:
    """The far end of a wire: an interface of the kernel that sends and receives raw frames."""

    def __init__(self, nic: Nic | Tap, mtu: int = 1500) -> None:
        self.nic = nic
        self.device = nic.netdev()
        # Nothing may be on the wire that the test did not send.
        Path(f"/proc/sys/net/ipv6/conf/{self.device}/disable_ipv6").write_text("1")
        for feature in netns.OFFLOADS:
            sh("ethtool", "-K", self.device, feature, "off", check=False)
        sh("ip", "link", "set", self.device, "up", "promisc", "on", "mtu", str(mtu))
        self.socket = netns.raw_socket(None, self.device)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)

    def close(self) -> None:
        self.socket.close()

    def frames(self, count: int, quiet: float = PATIENCE) -> list[bytes]:
        """The next frames that arrive: so many, or fewer where none comes for a while."""
        got: list[bytes] = []
        while len(got) < count and select.select([self.socket], [], [], quiet)[0]:
            got.append(netns._frame(self.socket))
        return got

    def drain(self, quiet: float = 2.0) -> list[bytes]:
        return self.frames(1 << 30, quiet)


# QEMU's models of NICs parse what they send: they lose frames whose headers lie.
SOUND = (
    "tcp4",
    "udp4",
    "icmp4",
    "tcp6",
    "udp6",
    "icmp6",
    "vxlan",
    "gre",
    "arp",
    "fragments",
    "jumbo",
)


def exchange(
    one: End,
    other: End,
    packets: int = 200,
    *,
    seed: int = 1,
    jumbo: int = 0,
    burst: int = 16,
    kinds: tuple[str, ...] = SOUND,
) -> None:
    """Sends a mix of flows each way at once; each frame must arrive once, in order, as it was."""
    ways = [(one, other), (other, one)]
    flows = [flow for flow in traffic.flows(3, jumbo) if flow.name.split()[0].startswith(kinds)]
    sent = [traffic.mix(flows, packets, seed + i) for i in range(2)]
    got: list[list[bytes]] = [[], []]
    late = 0
    for at in range(0, packets, burst):
        for (source, sink), mine, theirs in zip(ways, sent, got, strict=True):
            batch = mine[at : at + burst]
            for packet in batch:
                source.socket.send(packet.frame)
            theirs += sink.frames(len(batch), 60)
        if sum(map(len, got)) < 2 * min(at + burst, packets):
            # A frame that is late comes with the next ones; one that is lost must not cost a minute
            # for each batch that follows.
            late += 1
            assert late < 4, f"of {at + burst} frames each way {[len(one) for one in got]} arrived"
    for (_, sink), mine, theirs in zip(ways, sent, got, strict=True):
        theirs += sink.drain()
        # Virtual NICs do not fill up short frames, others do.
        theirs = [frame.ljust(SHORTEST, b"\0") for frame in theirs]
        traffic.compare(mine, theirs, lambda frame: frame.ljust(SHORTEST, b"\0"))


def passes(one: End, other: End, frames: int = 20, seconds: float = PATIENCE) -> int:
    """Sends single frames one way until so many in a row arrive; how many were sent in all."""
    end = time.monotonic() + seconds
    row = sent = 0
    mark = random.randbytes(16)
    while row < frames:
        sent += 1
        number = sent.to_bytes(8, "big")
        frame = (b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + mark + number).ljust(SHORTEST, b"\0")
        one.socket.send(frame)
        # Before it, those may come that took longer than they were waited for.
        arrived = other.frames(1, 5)
        while arrived and arrived != [frame]:
            arrived = other.frames(1, 5)
        row = row + 1 if arrived else 0
        assert time.monotonic() < end, f"{sent} frames sent, and never {frames} in a row arrived"
    return sent


def nics(told: dict[str, Any]) -> dict[str, Nic]:
    """All NICs of a machine, by name."""
    return {
        one["name"]: Nic(one["name"], one["model"], one["wire"], one["pci"]) for one in told["nics"]
    }


def ports(*names: Nic, bound: str = "vfio-pci") -> str:
    """The [[ports]] of a topology, each NIC under its own name."""
    for nic in names:
        nic.bind(bound)
    return "".join(f'[[ports]]\nname = "{nic.name}"\npci = "{nic.pci}"\n' for nic in names)
