# SPDX-License-Identifier: BSD-3-Clause
"""One machine from power on to off: boots it, runs its tests, does what they ask for outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from . import image as images
from .machine import Machine, command, device
from .qmp import Lines, Qmp, Refused

PREFIX = "dpsup-lab-"
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux", "nice": "coreutils"}
UNPLUG = 300.0  # seconds that the kernel inside has to let go of a device


def cannot() -> str:
    """Why no machine can run here, or nothing."""
    lacks = [package for name, package in NEEDED.items() if shutil.which(name) is None]
    lacks += images.lacking()
    if os.uname().machine != "x86_64":
        return "the lab's machines are x86-64, and so must the host be that builds for them"
    if os.geteuid() != 0:
        return "not root: a root file system cannot be built"
    return f"not installed: {', '.join(lacks)}; deploy/host-setup --lab" if lacks else ""


@dataclass
class Result:
    """What came of a machine's boots."""

    codes: list[int] = field(default_factory=list)  # pytest's, a boot each; -1: the power was cut
    troubles: list[str] = field(default_factory=list)
    seconds: float = 0.0
    text: str = ""  # what the tests printed

    @property
    def fine(self) -> bool:
        return not self.troubles and all(code in (0, -1) for code in self.codes)


class Outside:
    """What can be done to a running machine. The verbs' names are what a test inside calls."""

    def __init__(self, machine: Machine, qmp: Qmp, out: Path) -> None:
        self._machine = machine
        self._qmp = qmp
        self._out = out
        self._cut = False
        self._dumps: set[str] = set()

    def was_cut(self) -> bool:
        """Whether the power was cut on request since this was last asked."""
        was, self._cut = self._cut, False
        return was

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request of a test; what fails is answered, never raised."""
        verb = request.pop("verb", "")
        act = getattr(self, f"do_{verb}", None)
        try:
            if act is None:
                raise Refused(f"no verb {verb!r}")
            return {"ok": act(**request)}
        except (Refused, TypeError, StopIteration, ValueError) as problem:
            return {"error": f"{type(problem).__name__}: {problem}"}

    def do_cable(self, nic: str, *, up: bool) -> None:
        """Pulls a NIC's cable, or plugs it in again."""
        self._qmp.ask("set_link", name=nic, up=up)

    def do_unplug(self, nic: str, seconds: float = UNPLUG) -> bool:
        """Asks for a NIC's removal; whether the kernel inside let go of it in time."""
        self._qmp.ask("device_del", id=nic)
        return seconds <= 0 or self._qmp.happens("DEVICE_DELETED", seconds, device=nic)

    def do_unplugged(self, nic: str, seconds: float = UNPLUG) -> bool:
        """Whether a NIC that `unplug` did not wait for is gone by now."""
        return self._qmp.happens("DEVICE_DELETED", seconds, device=nic)

    def do_plug(self, nic: str) -> None:
        """Plugs a NIC in: for the first time, or again."""
        one = next(one for one in self._machine.nics if one.name == nic)
        self._qmp.ask("device_add", **device(self._machine, one))

    def do_pause(self, seconds: float) -> None:
        """All CPUs stop for a while, as where a hypervisor moves a machine."""
        self._qmp.ask("stop")
        time.sleep(seconds)
        self._qmp.ask("cont")

    def do_power_button(self) -> None:
        self._qmp.ask("system_powerdown")

    def do_cut(self) -> None:
        """Cuts the power: nothing inside runs on; the next boot has what the disk had got."""
        self._cut = True
        self._qmp.ask("system_reset")

    def do_unplug_cpu(self, cpu: int, seconds: float = UNPLUG) -> bool:
        """Asks for a CPU's removal. It stays out: QEMU 7.2 itself ends where one comes back."""
        cpus: list[dict[str, Any]] = self._qmp.ask("query-hotpluggable-cpus")
        # QEMU lists the last one first.
        self._qmp.ask("device_del", id=list(reversed(cpus))[cpu]["qom-path"])
        return self._qmp.happens("DEVICE_DELETED", seconds)

    def do_dump(self, nic: str) -> str:
        """Starts to write down what passes a NIC's cable: the name of the file in /out."""
        name = f"{nic}.pcap"
        if nic not in self._dumps:
            self._qmp.ask("object-add", **{
                "qom-type": "filter-dump", "id": f"dump-{nic}", "netdev": f"end-{nic}",
                "file": str(self._out / name),
            })  # fmt: skip
            self._dumps.add(nic)
        return name

    def do_undump(self, nic: str) -> None:
        self._dumps.discard(nic)
        self._qmp.ask("object-del", id=f"dump-{nic}")

    def do_qmp(self, execute: str, arguments: dict[str, Any] | None = None) -> Any:
        """Whatever else QEMU's monitor can do."""
        return self._qmp.ask(execute, **(arguments or {}))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes with us; those of killed runs go now."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (old / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (made / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (made / "out").mkdir()
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _powered(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU that ends with us: at a return, at Ctrl-C, and where this process is killed."""
    with log.open("wb") as out:
        qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "5", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for this process
        )
    try:
        yield qemu
    finally:
        qemu.kill()
        qemu.wait()


def _connected(path: Path, qemu: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        if qemu.poll() is not None or time.monotonic() > end:
            raise RuntimeError("QEMU does not start")
        time.sleep(0.05)


def run(
    machine: Machine,
    arguments: Sequence[str] = (),
    *,
    keep: Path | None = None,
    echo: IO[str] | None = None,
    more: IO[str] | None = None,
) -> Result:
    """Boots the machine, runs its tests or those the arguments name; copies /out to `keep`.

    Each line of `more` is pytest's arguments for a further run in the same boot.
    """
    image = images.image(machine.suite)
    begun = time.monotonic()
    result = Result()
    with scratch() as place:
        out = place / "out"
        (out / "machine.json").write_text(json.dumps(machine.described()))
        try:
            words = command(machine, image, images.REPO, place)
            (out / "qemu.txt").write_text(" ".join(words) + "\n")
            with _powered(words, out / "qemu-said.txt") as qemu:
                _serve(machine, arguments, qemu, place, result, echo, more)
        finally:
            result.seconds = time.monotonic() - begun
            if keep is not None:
                shutil.copytree(out, keep, dirs_exist_ok=True)
        result.text = "".join(
            path.read_text(errors="replace") for path in sorted(out.glob("pytest-*.txt"))
        )
        if result.troubles:
            for name in ("qemu-said.txt", "console.txt"):
                with contextlib.suppress(OSError):
                    lines = (out / name).read_text(errors="replace").splitlines()[-30:]
                    result.troubles.append(f"{name} ended:\n" + "\n".join(lines))
    return result


def _serve(
    machine: Machine,
    arguments: Sequence[str],
    qemu: subprocess.Popen[bytes],
    place: Path,
    result: Result,
    echo: IO[str] | None,
    more: IO[str] | None,
) -> None:
    # Options are for each of its own boots; tests by name are one boot.
    own = any(".py" in word for word in arguments)
    boots = [tuple(arguments)] if own else [(*one, *arguments) for one in machine.boots]
    deadline = time.monotonic() + machine.minutes * 60
    try:
        _connected(place / "qmp", qemu)
        qmp = Qmp(place / "qmp")
        agent, asks = Lines(place / "agent"), Lines(place / "outside")
    except (OSError, EOFError, RuntimeError) as problem:
        result.troubles.append(f"QEMU: {problem}")
        return
    outside = Outside(machine, qmp, place / "out")
    boot = -1
    told = 0
    while True:
        if time.monotonic() > deadline:
            result.troubles.append(
                f"{machine.name} took more than {machine.minutes:g} minutes, in its boot {boot + 1}"
            )
            return
        if qemu.poll() is not None:
            result.troubles.append(f"{machine.name}: QEMU ended with {qemu.returncode}")
            return
        ready, _, _ = select.select([agent, asks], [], [], 0.5)
        if echo is not None:
            text = "".join(
                path.read_text(errors="replace")
                for path in sorted((place / "out").glob("pytest-*.txt"))
            )
            echo.write(text[told:])
            echo.flush()
            told = len(text)
        try:
            requests = asks.read() if asks in ready else []
            words = agent.read() if agent in ready else []
            for request in requests:
                is_cut = request.get("verb") == "cut"  # the test that asked is gone
                answer = outside.answer(request)
                if not is_cut:
                    asks.write(answer)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                qemu.wait(10)  # it is ending: the next turn says so
            continue
        for word in words:
            if "hello" in word:
                if boot >= 0 and len(result.codes) == boot:
                    # Up again, before its tests had ended.
                    result.codes.append(-1)
                    if not outside.was_cut():
                        result.troubles.append(f"{machine.name} started again by itself")
                        return
                boot += 1
                if boot >= len(boots):
                    return
                agent.write({"boot": boot, "arguments": list(boots[boot])})
            elif "done" in word:
                result.codes.append(word["done"])
                if more is not None and (line := more.readline()):
                    boot += 1
                    boots.append(tuple(shlex.split(line)))
                    deadline = time.monotonic() + machine.minutes * 60
                    agent.write({"boot": boot, "arguments": shlex.split(line)})
                    continue
                if boot + 1 >= len(boots) or word["done"] != 0:
                    return
                qmp.ask("system_reset")
