# SPDX-License-Identifier: BSD-3-Clause
"""Watching a real instance, as an operator does: tables, events, metrics, top; running, degraded,
headless, dead."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, DPSUP, NULL, Run, dies, free_port, run, supervisor, wait_for

pytestmark = pytest.mark.beside

# As NULL, without using a whole CPU: what sleeps leaves some to those who look.
QUIET = NULL.replace('cores = "1"', 'cores = "1"\nidle = "adaptive"')
SECTIONS = ("workers", "ports", "cores", "mempools", "lanes")


class Terminal:
    """A command in a terminal of 80 by 24."""

    def __init__(self, *args: str, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", **env})
            os.environ.pop("COLUMNS", None)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.execv(DPSUP[0], [*DPSUP, *args])
        self.said = ""
        self.code: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    def read(self, timeout: float = 0.2) -> str:
        """What it wrote meanwhile."""
        fresh = ""
        while select.select([self.fd], [], [], timeout)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            fresh += self._decoder.decode(data)
        self.said += fresh
        return fresh

    def until(self, words: str) -> None:
        assert wait_for(lambda: (self.read() and False) or words in self.said), self.said

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait(self) -> int:
        """Its exit code, everything read."""

        def ended() -> bool:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            return bool(pid)

        wait_for(ended)
        os.close(self.fd)
        assert self.code is not None
        return self.code


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").splitlines()


def shown(instance: Run, *args: str, **env: str) -> tuple[str, int]:
    terminal = Terminal(args[0], "-n", instance.name, *args[1:], **env)
    code = terminal.wait()
    return terminal.said, code


# --- tables ---------------------------------------------------------------------------------------


def test_tables_fit_the_terminal_and_show_rates(instance: Run) -> None:
    instance.start(QUIET)
    for section in (*SECTIONS, "status", "stats", "graph"):
        text, code = shown(instance, section)
        assert code == 0, text
        assert all(len(line) <= 80 for line in plain(text)), text
    text, _ = shown(instance, "status")
    assert re.search(r"rx [\d.]+[kM] pps", "\n".join(plain(text)))
    assert "\x1b[32m" in text  # running, in green
    text, _ = shown(instance, "status", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text)
    done = instance.do("workers")
    assert "\x1b" not in done.stdout
    head, first, *_ = done.stdout.splitlines()
    assert "DROPPED" in head  # a pipe has no width: nothing is left out
    assert first.startswith("fw/0")
    ascii_only = subprocess.run(
        [*DPSUP, "status", "-n", instance.name],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=True,
    )  # fmt: skip
    assert ascii_only.stdout.isascii()
    assert "DROPPED" in shown(instance, "workers", "-o", "wide")[0]


def test_letters_that_the_terminal_does_not_have_are_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DPSUP, "check", str(tmp_path / "gr→e.toml")],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert "gr?e.toml" in done.stderr


@pytest.mark.long
def test_rates_agree_with_the_counters(instance: Run) -> None:
    instance.start(QUIET)
    before = instance.status()
    doc = json.loads(instance.do("ports", "-o", "json", "--over", "1s").stdout)
    after = instance.status()
    seconds = (after["at_ns"] - before["at_ns"]) / 1e9
    counted = (after["ports"][0]["rx_packets"] - before["ports"][0]["rx_packets"]) / seconds
    # On a machine that others use too, packets do not come evenly.
    assert counted / 4 < doc["ports"][0]["rx_pps"] < counted * 4
    for section in SECTIONS:
        doc = json.loads(instance.do(section, "-o", "json").stdout)
        assert doc["kind"] == section.capitalize()
        assert doc[section]
    workers = json.loads(instance.do("workers", "fw/1", "-o", "json").stdout)["workers"]
    assert [w["id"] for w in workers] == ["fw/1"]
    done = instance.do("workers", "fww", check=False)
    assert (done.returncode, 'did you mean "fw"' in done.stderr) == (4, True)


@pytest.mark.long
def test_a_watch_goes_on_and_ends_with_the_instance(instance: Run) -> None:
    instance.start(QUIET)
    with subprocess.Popen(
        [*DPSUP, "ports", "-n", instance.name, "-w", "-o", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        docs = [json.loads(watching.stdout.readline()) for _ in range(3)]
        assert docs[2]["at_ns"] > docs[1]["at_ns"] > docs[0]["at_ns"]
        terminal = Terminal("status", "-w", "-n", instance.name)
        terminal.until("WORKER")
        terminal.type("\x03")
        assert terminal.wait() == 0
        instance.stop()
        _, errors = watching.communicate(timeout=60)
        assert watching.returncode == 3
        assert "Traceback" not in errors


@pytest.mark.long
def test_a_hint_says_what_to_type_and_that_helps(instance: Run) -> None:
    instance.start(QUIET.replace("intensity = 100", "intensity = 1"))
    assert instance.do("status").stdout.count("hint: fw/1 is") == 0
    pid = instance.worker("fw/1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "fw/1 is stopped" in instance.do("status", check=False).stdout)
    hint = next(
        n for n in instance.do("status").stdout.splitlines() if "fw/1 is stopped" in n
    )  # fmt: skip
    command = re.findall(r"`dpsup ([^`]+)`", hint)[0]
    run(*command.split(), check=True)
    wait_for(lambda: "fw/1 is stopped" not in instance.do("status", check=False).stdout)

    def held() -> bool:
        instance.do("kill", "fw/0", check=False)
        return "fw/0 is in held" in instance.do("status", check=False).stdout

    wait_for(held, step=0.2)
    text, code = shown(instance, "status")
    assert code == 5
    assert all(len(line) <= 80 for line in plain(text))
    hint = next(n for n in instance.do("status", check=False).stdout.splitlines() if "in held" in n)
    command = re.findall(r"`dpsup ([^`]+)`", hint)[-1]
    assert "reset-failed fw/0" in command
    run(*command.split(), check=True)
    instance.until(lambda s: s["state"] == "running")


# --- events and logs ------------------------------------------------------------------------------


def test_the_record_outlives_the_supervisor(instance: Run) -> None:
    instance.start(CALM)
    instance.do("kill", "fw/0")
    wait_for(lambda: any(e["type"] == "death" for e in instance.events()))
    before = instance.events()
    dies(supervisor(instance))
    # Headless: nobody answers but the record.
    done = instance.do("events", "--type", "death", "-o", "jsonl")
    assert [json.loads(n)["name"] for n in done.stdout.splitlines()] == ["fw/0"]
    assert "no supervisor" in done.stderr
    assert instance.do("logs", "primary").stdout
    text, code = shown(instance, "status")
    assert (code, "no supervisor" in text) == (5, True)
    instance.start()
    after = instance.events()
    assert after[: len(before)] == before
    numbers = [e["seq"] for e in after]
    assert numbers == sorted(set(numbers))
    assert after[-1]["at"] > before[-1]["at"]


def test_the_record_of_a_dead_instance_can_be_read_and_goes_with_its_folder(instance: Run) -> None:
    instance.start(CALM)
    doc = instance.status()
    for pid in (doc["supervisor"]["pid"], doc["seed"]["pid"], doc["primary"]["pid"]):
        dies(pid)
    wait_for(lambda: instance.do("status", check=False).returncode == 3)
    done = instance.do("events", "--since", "10m", "--type", "state")
    assert "running" in done.stdout
    assert "not running" in done.stderr or "no instance" in done.stderr
    instance.start()
    folder = Path("/run/dpsup", instance.name)
    assert sum(f.stat().st_size for f in folder.glob("*.jsonl*")) < 4 << 20
    instance.stop()
    assert not folder.exists()
    assert instance.do("events", check=False).returncode == 3


def test_events_are_chosen_by_type_and_time(instance: Run) -> None:
    instance.start(CALM)
    with subprocess.Popen(
        [*DPSUP, "events", "-n", instance.name, "-f", "--type", "scale,death", "-o", "jsonl"],
        stdout=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        instance.do("scale", "fw", "3")
        instance.do("kill", "fw/2")
        kinds = [json.loads(following.stdout.readline())["type"] for _ in range(2)]
        assert kinds == ["scale", "death"]
        instance.stop()
        following.wait(timeout=60)


def test_what_a_worker_prints_cannot_command_the_terminal(instance: Run) -> None:
    from dpsup.view.terminal import _printable

    assert _printable("a\x1b[2Jb\tc\x07µ") == "a?[2Jb\tc?µ"
    instance.start(CALM)
    text, code = shown(instance, "logs")
    assert code == 0
    assert "primary" in text
    assert "\x1b" not in instance.do("logs").stdout
    done = instance.do("logs", "fw/7", check=False)
    assert done.returncode == 4


# --- metrics --------------------------------------------------------------------------------------


def scrape(port: int, accept: str = "") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def value(text: str, sample: str) -> float | None:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def serves(port: int, sample: str, wanted: float) -> bool:
    try:
        return value(scrape(port), sample) == wanted
    except (urllib.error.URLError, OSError):
        return False


def exporters(instance: Run) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dpsup.instance.openmetrics" in words and instance.name.encode() in words:
            found.append(int(path.parent.name))
    return found


def with_metrics(port: int) -> str:
    return f'[metrics]\nlisten = "127.0.0.1:{port}"\n{QUIET}'


def test_metrics_are_served_and_agree_with_status(instance: Run) -> None:
    port = free_port()
    instance.start(with_metrics(port))
    wait_for(lambda: serves(port, "dpsup_up", 1))
    before = instance.status()["ports"][0]["rx_packets"]

    def received() -> float:
        """What is served may be a second old, or more where the exporter waits for its CPU."""
        return value(scrape(port), 'dpsup_port_receive_packets_total{port="wan"}') or 0.0

    served = wait_for(lambda: (n := received()) >= before and n, step=0.1)
    after = instance.status()
    assert served <= after["ports"][0]["rx_packets"]
    # net_null's packets are one flow: only its worker's successor has a first packet.
    busy = max(after["groups"][0]["workers"], key=lambda w: w["rx_packets"])
    instance.do("kill", busy["id"])
    wait_for(lambda: serves(port, "dpsup_worker_deaths_total", 1))
    wait_for(lambda: serves(port, "dpsup_failover_seconds_count", 1))
    assert scrape(port, "application/openmetrics-text").endswith("# EOF\n")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/else", timeout=20)
    # Killed, it comes back; and it goes with the instance.
    (pid,) = exporters(instance)
    dies(pid)
    wait_for(lambda: serves(port, "dpsup_up", 1))
    assert instance.status()["state"] == "running"
    instance.stop()
    wait_for(lambda: not exporters(instance))


@pytest.mark.long
def test_metrics_tell_of_a_dead_supervisor_and_end_with_the_data_plane(instance: Run) -> None:
    port = free_port()
    instance.start(with_metrics(port))
    wait_for(lambda: serves(port, "dpsup_supervisor_up", 1))
    (first,) = exporters(instance)
    dies(supervisor(instance))
    wait_for(lambda: serves(port, "dpsup_supervisor_up", 0))
    received = 'dpsup_port_receive_packets_total{port="wan"}'
    before = value(scrape(port), received) or 0.0
    wait_for(lambda: (value(scrape(port), received) or 0.0) > before, step=0.3)
    instance.start()  # another supervisor: its own exporter has the port
    wait_for(lambda: serves(port, "dpsup_supervisor_up", 1))
    wait_for(lambda: first not in exporters(instance))
    instance.stop()
    wait_for(lambda: not exporters(instance))


def test_an_address_in_use_is_said_and_stops_nothing(instance: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        instance.start(with_metrics(port))

        def warned() -> list[dict[str, Any]]:
            return [e for e in instance.events() if e["type"] == "warning"]

        wait_for(warned)
        assert f"127.0.0.1:{port}" in warned()[0]["message"]
        assert instance.status()["state"] == "running"
    wait_for(lambda: serves(port, "dpsup_up", 1))
    assert len(warned()) == 1


# --- top ------------------------------------------------------------------------------------------


def test_top_scales_kills_and_survives_the_end(instance: Run) -> None:
    instance.start(QUIET)
    terminal = Terminal("top", "-n", instance.name, "--every", "300ms")
    terminal.until("CYC/PKT")
    terminal.type("s3\r")
    instance.until(lambda s: s["groups"][0]["ready"] == 3)
    terminal.until("fw/2")
    terminal.type("ky")
    instance.until(lambda s: s["recovery"]["deaths"] == 1)
    terminal.type("ry")
    instance.until(lambda s: s["groups"][0]["workers"][0]["restarts"] >= 2)
    instance.stop()
    terminal.until("has ended")
    assert os.waitpid(terminal.pid, os.WNOHANG) == (0, 0)
    instance.start()
    terminal.said = ""
    terminal.until("generation 1")
    terminal.until("pps")
    terminal.type("q")
    assert terminal.wait() == 0
    done = instance.do("top", check=False)
    assert (done.returncode, "needs a terminal" in done.stderr) == (2, True)
