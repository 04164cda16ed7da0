#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes a pcap of many flows for the examples: flows.py [FILE [FLOWS [PACKETS_OF_EACH]]].

It needs nothing of dpsup's. Without FILE it writes flows.pcap beside this program.
"""

import struct
import sys
from pathlib import Path


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(flow: int, number: int) -> bytes:
    """UDP over IPv4: one address and port for each flow, the packet's number as its payload."""
    payload = struct.pack(">Q", number).ljust(64, b"\0")
    udp = struct.pack(">4H", 1024 + 37 * flow, 53, 8 + len(payload), 0) + payload  # 0: no checksum
    addresses = bytes((10, 0, flow >> 8 & 255, flow & 255, 192, 0, 2, 1))
    ip = struct.pack(">2B3H2BH", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0) + addresses
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return bytes.fromhex("020000000002 020000000001 0800") + ip + udp


def main(file: str = "", flows: str = "256", of_each: str = "2") -> None:
    with (Path(file) if file else Path(__file__).with_name("flows.pcap")).open("wb") as out:
        out.write(struct.pack("<I2H2i2I", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number in range(int(of_each)):
            for flow in range(int(flows)):
                data = packet(flow, number)
                out.write(struct.pack("<4I", number, flow, len(data), len(data)) + data)


if __name__ == "__main__":
    main(*sys.argv[1:])
