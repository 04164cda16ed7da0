# SPDX-License-Identifier: BSD-3-Clause
"""One probe: a connection, and for `http` the first line of an answer."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass

from dpsup.host import tap

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")
_LINE = 4096


@dataclass(frozen=True)
class Question:
    kind: str  # "tcp" | "http"
    port: int
    path: str
    host: str
    timeout: float
    netns: str


async def ask(question: Question, address: str) -> str:
    """Why this backend counts as one that does not answer, "": it does. Raises: OSError where no
    socket can be had, which says nothing of the backend."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with tap.inside(question.netns):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with sock:
        try:
            async with asyncio.timeout(question.timeout):
                return await _answer(question, address, sock)
        except TimeoutError:
            return f"{address} port {question.port} did not answer in {question.timeout:g} s"
        except OSError as e:
            text = os.strerror(e.errno).lower() if e.errno else str(e)
            return f"{address} port {question.port}: {text}"


async def _answer(question: Question, address: str, sock: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (address, question.port))
    if question.kind == "tcp":
        return ""
    host = question.host or (f"[{address}]" if ":" in address else address)
    request = (
        f"GET {question.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dpsup\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    await loop.sock_sendall(sock, request.encode())
    line = b""
    while b"\n" not in line and len(line) < _LINE:
        data = await loop.sock_recv(sock, _LINE)
        if not data:
            break
        line += data
    found = _STATUS.match(line)
    if found is None:
        return f"{address} port {question.port} does not answer in HTTP"
    status = int(found[1])
    return "" if 200 <= status < 400 else f"{address} answers {status} to GET {question.path}"
