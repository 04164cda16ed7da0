# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel says of its interfaces, and sockets that the dead leave."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from dpsup.host import interfaces
from dpsup.host.interfaces import Interfaces, remove_dead_socket
from dpsup.supervisor.blocked import port_in
from dpsup.topology.values import interfaces_of, memif_of


def news(kind: int, index: int, family: int = socket.AF_UNSPEC) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, 0, 0) + bytes(6)
    head = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0)
    return (head + body).ljust(40, b"\0")


def test_deleted_interfaces_are_told_from_other_news() -> None:
    assert interfaces._deleted(news(17, 5) + news(16, 6) + news(17, 7)) == {5, 7}
    # A port that left a bridge is still there.
    assert interfaces._deleted(news(17, 5, socket.AF_BRIDGE)) == set()
    for cut in range(len(news(17, 5))):
        interfaces._deleted(news(17, 5)[:cut])
    interfaces._deleted(bytes(4096))


def test_an_interface_is_found_by_its_name() -> None:
    kernel = Interfaces()
    found = kernel.find("lo")
    assert found is not None
    assert found.number == socket.if_nametoindex("lo")
    assert kernel.find("nowhere0") is None
    assert kernel.find("x" * 100) is None
    assert kernel.deleted() == set()
    assert interfaces.name_of(found.number) == "lo"
    assert interfaces.name_of(1 << 30) == ""


def test_a_socket_goes_only_if_its_listener_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "memif.sock"
    assert not remove_dead_socket(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(path))
        server.listen(1)
        assert not remove_dead_socket(str(path))
        assert path.exists()
    link = tmp_path / "link"
    link.symlink_to(path)
    assert not remove_dead_socket(str(link))
    assert remove_dead_socket(str(path))
    assert not path.exists()
    path.write_text("not a socket")
    assert not remove_dead_socket(str(path))
    # Another protocol's is not ours.
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)
        assert not remove_dead_socket(str(path))


def test_a_server_takes_a_connection_or_not() -> None:
    address = f"\0dpsup-test-{os.getpid()}"
    assert not interfaces.takes_connection(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(address)
        assert not interfaces.takes_connection(address)
        server.listen(1)
        assert interfaces.takes_connection(address)
        # One that accepts nobody is full after some, and nobody waits for it.
        assert not all(interfaces.takes_connection(address) for _ in range(8))
    assert not interfaces.takes_connection(address)


def test_what_a_device_works_with() -> None:
    assert interfaces_of("net_pcap", "net_pcap0,rx_iface=a,tx_iface=b,rx_pcap=c") == ("a", "b")
    assert interfaces_of("net_tap", "net_tap0,iface=mine,remote=eth0") == ("eth0",)
    assert interfaces_of("net_null", "net_null0") == ()
    assert memif_of("net_null0") is None
    assert memif_of("net_memif0") == (False, "/run/memif.sock", True, "0")
    found = memif_of("net_memif0,role=server,socket=/x,socket-abstract=no,id=7")
    assert found == (True, "/x", False, "7")


def test_the_port_that_put_an_io_core_to_sleep() -> None:
    said = "primary: io core 0 is stuck in the driver of port wan: no turn ended in 3 ms of CPU"
    assert port_in(["EAL: something", said]) == "wan"
    assert port_in([said.replace(" in the driver of port wan", "")]) == ""
    assert port_in([]) == ""
