# SPDX-License-Identifier: BSD-3-Clause
"""Programs for tests of `balance`: an HTTP server that answers as a virtual address, and a client
that keeps connections to it. `python balancing.py serve NAME [ipip|gue]`, `... ask ADDRESS`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 60
BODY = 4000  # bytes of a connection's first request: more than one packet, some of full length


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """Its name, whatever is asked."""

    protocol_version = "HTTP/1.1"
    name = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.name)))
        self.end_headers()
        self.wfile.write(self.name)

    def log_message(self, *_: object) -> None:
        pass


def take_off(kind: str) -> None:
    """What comes in IPIP, or in GUE, goes into a TUN without its outer headers: the kernel's own
    devices for that are not in every kernel."""
    device = "bal0"
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", device.encode(), 0x1001))  # TUN, no header
    subprocess.run(["ip", "link", "set", device, "up"], check=True)
    for name in ("all", device):
        subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"], check=True)
    if kind == "gue":
        come = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        come.bind(("0.0.0.0", 6080))
    else:
        come = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP)
    come.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def carry() -> None:
        while data := come.recv(65536):
            head = 4 if kind == "gue" else (data[0] & 15) * 4
            assert kind != "gue" or data[:head] == bytes((0, 4, 0, 0))
            os.write(tun, data[head:])

    threading.Thread(target=carry, daemon=True).start()


def serve(name: str, tunnel: str = "") -> None:
    if tunnel:
        take_off(tunnel)
    Handler.name = name.encode()
    with Server(("0.0.0.0", 80), Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


class Connection:
    """One of a client's; "" of `ask`: it is broken."""

    async def open(self, address: str) -> Connection:
        self.begun = self.broken = False
        self.reader, self.writer = await asyncio.wait_for(
            asyncio.open_connection(address, 80), PATIENCE
        )
        return self

    async def ask(self) -> str:
        if not self.broken:  # asyncio complains of what is written to it, and nobody reads that
            try:
                return await asyncio.wait_for(self._ask(), PATIENCE)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.broken = True
        return ""

    async def _ask(self) -> str:
        body = b"" if self.begun else bytes(BODY)
        self.begun = True
        self.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.writer.write(body)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = next(
            int(line[15:])
            for line in head.split(b"\r\n")
            if line[:15].lower() == b"content-length:"
        )
        return (await self.reader.readexactly(size)).decode()


async def ask(address: str) -> None:
    """For each line of stdin: as many new connections as it says; then who answers, on each that
    was there before, and on each new one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    there: list[Connection] = []
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        new = await asyncio.gather(*(Connection().open(address) for _ in range(int(line))))
        names = [await asyncio.gather(*(one.ask() for one in some)) for some in (there, new)]
        there += new
        print(json.dumps(names), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        asyncio.run(ask(sys.argv[2]))
