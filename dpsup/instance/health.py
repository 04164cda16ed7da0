# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup health`: one question to the supervisor's health socket, for probes.

A probe runs every few seconds on the CPUs of the instance. So this imports neither click nor ZeroMQ
(the other commands take 100 ms and more of CPU time for that), and `__main__` calls it first.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from dpsup.instance.places import HEALTH, PRIMARY_LOCK, roots

FINE, UNHEALTHY = 0, 5  # errors.Exit.OK and DEGRADED
TIMEOUT_S = 1.0
ANSWER_MOST = 4096
QUESTIONS = ("--live", "--ready", "--started")
HEADLESS = "headless"


class Answer:
    """What the supervisor says. `state`: as in `dpsup status`, or headless, silent, absent."""

    def __init__(self, name: str, state: str, *, live: bool, ready: bool, why: str) -> None:
        self.name, self.state, self.live, self.ready, self.why = name, state, live, ready, why

    def is_fine(self, question: str) -> bool:
        if question == "--ready":
            return self.ready
        if question == "--started":
            return self.live and self.state not in ("absent", "starting")
        return self.live

    def text(self, question: str) -> str:
        word = question.removeprefix("--")
        verdict = word if self.is_fine(question) else f"not {word}"
        where = f"{self.name}: " if self.name else ""
        return f"{where}{verdict}, {self.state}{f': {self.why}' if self.why else ''}"


def encode(state: str, why: str, *, ready: bool) -> bytes:
    """The supervisor's line."""
    flat = " ".join(why.split())
    return f"{state} {int(ready)} {flat}\n".encode()[: ANSWER_MOST - 1]


def _decode(name: str, line: bytes) -> Answer | None:
    words = line.decode(errors="replace").rstrip("\n").split(" ", 2)
    if len(words) != 3 or words[1] not in ("0", "1"):
        return None
    return Answer(name, words[0], live=True, ready=words[1] == "1", why=words[2])


def _directories(name: str) -> dict[str, str]:
    """The directory by name, of this user's instances; root sees all."""
    found: dict[str, str] = {}
    uid = os.geteuid()
    for root in roots():
        try:
            entries = os.listdir(root)  # noqa: PTH208
        except OSError:
            continue
        for entry in entries:
            path = f"{root}/{entry}"
            try:
                owner = os.stat(path).st_uid  # noqa: PTH116
            except OSError:
                continue
            known = entry in found or not os.path.isdir(path)  # noqa: PTH112
            if not known and uid in (0, owner) and name in ("", entry):
                found[entry] = path
    return found


def _is_held(directory: str) -> bool:
    """Does a primary live?"""
    import fcntl

    try:
        fd = os.open(f"{directory}/{PRIMARY_LOCK}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _ask(name: str, directory: str, timeout: float) -> Answer:
    silent = Answer(
        name, "silent", live=False, ready=False,
        why=f"its supervisor has not answered for {timeout:g} s",
    )  # fmt: skip
    line = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as s:
        s.settimeout(timeout)
        try:
            s.connect(f"{directory}/{HEALTH}")
            _, uid, _ = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.stat(directory).st_uid):  # noqa: PTH116
                return silent
            while not line.endswith(b"\n") and len(line) < ANSWER_MOST:
                part = s.recv(ANSWER_MOST)
                if not part:
                    break
                line += part
        except (TimeoutError, BlockingIOError):  # the latter: its queue of connections is full
            return silent
        except OSError:
            line = b""
    answer = _decode(name, line)
    if answer is not None:
        return answer
    if _is_held(directory):
        why = "no supervisor answers, and the data plane forwards"
        return Answer(name, HEADLESS, live=True, ready=False, why=why)
    return Answer(name, "absent", live=False, ready=False, why="no such instance runs")


def ask(name: str, timeout: float = TIMEOUT_S) -> Answer:
    """How the instance of this name is; "": the only one."""
    found = _directories(name)
    if not name and len(found) > 1:  # those of dead ones do not count
        found = {
            one: path
            for one, path in found.items()
            if os.path.lexists(f"{path}/{HEALTH}") or _is_held(path)
        }
    if len(found) != 1:
        why = "no instance runs" if not found else f"several run ({', '.join(found)}): name one, -n"
        return Answer(name, "absent", live=False, ready=False, why=why)
    ((one, directory),) = found.items()
    return _ask(one, directory, timeout)


def quick(words: list[str]) -> int | None:
    """The command itself: the exit code; None: it is said in another way, or asks for help, and
    the command line's own parser takes it."""
    name, question = os.environ.get("DPSUP_NAME", ""), ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in QUESTIONS and not question:
            question = word
        elif word in ("-n", "--name") and rest:
            name = rest.pop(0)
        else:
            return None
    return report(name, question or "--live") if question else None


def report(name: str, question: str, timeout: float = TIMEOUT_S) -> int:
    """Say it in a line on stdout, which a probe's event quotes."""
    answer = ask(name, timeout)
    sys.stdout.write(f"{answer.text(question)}\n")
    return FINE if answer.is_fine(question) else UNHEALTHY
