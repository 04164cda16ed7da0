# SPDX-License-Identifier: BSD-3-Clause
"""The shipped unit under a real systemd: two NICs, its whole sandbox, its life in every state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from harness import dies, wait_for
from lab.guest import PATIENCE, End, Nic, exchange, passes, ports, sh
from lab.units import TOPOLOGY, Unit, command, install, threads

NAME = "edge"


@pytest.fixture(scope="module")
def ends(nics: dict[str, Nic]) -> Iterator[tuple[End, End]]:
    two = End(nics["far-wan"]), End(nics["far-lan"])
    yield two
    for end in two:
        end.close()


@pytest.fixture(scope="module")
def installed(nics: dict[str, Nic]) -> Iterator[Unit]:
    """The unit, ended with the module."""
    install()
    text = TOPOLOGY.format(name=NAME, wan="wan0", lan="lan0", io="1", cores="2-3")
    one = Unit(NAME, text + ports(nics["wan0"], nics["lan0"]))
    yield one
    ended(one)
    one.remove()


def ended(unit: Unit) -> None:
    """Stopped, with nothing left behind; what is left is put away for the next test."""
    unit.ctl("stop")
    try:
        unit.is_gone()
    except AssertionError:
        sh("/usr/local/bin/dpsup", "-n", NAME, "stop", check=False)
        sh("/usr/local/bin/dpsup", "-n", NAME, "clean", check=False)
        raise


@pytest.fixture
def tidy(installed: Unit, request: pytest.FixtureRequest) -> Iterator[Unit]:
    """The unit as the test before left it; afterwards it is as shipped, and ended where that test
    failed or wrote another topology."""
    text, failed = installed.file.read_text(), request.session.testsfailed
    yield installed
    installed.undo()
    if installed.file.read_text() != text or request.session.testsfailed != failed:
        installed.file.write_text(text)
        ended(installed)


@pytest.fixture
def running(tidy: Unit, ends: tuple[End, End]) -> Unit:
    """The unit, running: an emulator takes half a minute for a start, so the instance is the one
    of the test before, where that did not end it."""
    if tidy.main == 0:
        tidy.ctl("start")
        tidy.runs()
        both_pass(ends)
    return tidy


@pytest.fixture
def unit(tidy: Unit) -> Iterator[Unit]:
    """The unit, not started; stopped afterwards, with nothing left behind."""
    ended(tidy)
    yield tidy
    ended(tidy)


def both_pass(ends: tuple[End, End]) -> None:
    """Each NIC's link comes up in its own time, and with it one direction."""
    passes(*ends)
    passes(*reversed(ends))


def primary(unit: Unit) -> int:
    """The primary's pid as the kernel has it: also of one that no supervisor knows of."""
    return next((pid for pid in unit.pids() if "dpsup.primary" in command(pid)), 0)


# --- a life without trouble ---------------------------------------------------------------------


def test_wardens_have_real_time_priority(running: Unit) -> None:
    """The sandbox leaves them SCHED_FIFO, with which they notice a death on a busy CPU too."""
    found = list(threads(running.status()["primary"]["pid"]))
    assert any(policy == os.SCHED_FIFO and priority == 1 for _, policy, priority in found), found


def test_journal_says_who_spoke(running: Unit) -> None:
    """An entry has the unit, the program, the supervisor's pid; the line says that it runs."""
    lines = sh("journalctl", "-b", "-u", running.unit, "-o", "json", "--no-pager").splitlines()
    spoken = [one for one in map(json.loads, lines) if one.get("_PID") == str(running.main)]
    assert {one["_SYSTEMD_UNIT"] for one in spoken} == {running.unit}
    assert {one["SYSLOG_IDENTIFIER"] for one in spoken} == {"dpsup"}
    assert any("edge is running" in str(one["MESSAGE"]) for one in spoken), spoken


def test_two_instances(running: Unit, ends: tuple[End, End]) -> None:
    """Each its own unit: one stops, the other forwards."""
    text = TOPOLOGY.format(name="second", wan="t0", lan="t1", io="1", cores="2-3")
    for i in range(2):
        text += f'[[ports]]\nname = "t{i}"\nvdev = "net_tap{i},iface=lab{i}"\n'
    second = Unit("second", text)
    try:
        second.ctl("start")
        second.runs()
        exchange(*ends, packets=60)
        second.ctl("stop")
        second.is_gone()
        exchange(*ends, packets=60, seed=3)
    finally:
        second.ctl("stop")
        second.remove()


# --- deaths -------------------------------------------------------------------------------------


@pytest.mark.fault(16)
def test_supervisor_is_killed(running: Unit, ends: tuple[End, End]) -> None:
    """Forwarding goes on; systemd starts another one, which adopts."""
    before, main = running.status(), running.main
    dies(main)
    exchange(*ends, packets=60)
    wait_for(lambda: running.main not in (0, main), PATIENCE, 0.5)
    after = running.runs()
    assert after["primary"]["pid"] == before["primary"]["pid"]
    assert running.show("ActiveState") == "active"
    exchange(*ends, packets=60, seed=5)


@pytest.mark.fault(17)
def test_a_hung_supervisor_is_replaced(running: Unit, ends: tuple[End, End]) -> None:
    """WatchdogSec: one that is stopped says nothing any more; forwarding goes on all the while."""
    before, main = running.status(), running.main
    os.kill(main, signal.SIGSTOP)
    exchange(*ends, packets=60)
    wait_for(lambda: running.main not in (0, main), PATIENCE, 0.5)
    after = running.runs()
    assert after["primary"]["pid"] == before["primary"]["pid"]
    exchange(*ends, packets=60, seed=5)


@pytest.mark.parametrize("who", ["worker", "spare", "seed", "primary"])
def test_another_process_is_killed(running: Unit, ends: tuple[End, End], who: str) -> None:
    told = running.status()
    main, restarts = running.main, running.show("NRestarts")
    if who == "worker":
        victim = told["groups"][0]["workers"][0]["pid"]
    elif who == "spare":
        victim = next(pid for pid in running.pids() if "spare" in command(pid))
    else:
        victim = told[who]["pid"]
    dies(victim)
    running.runs()
    both_pass(ends)
    exchange(*ends, packets=60)
    assert running.main == main
    assert running.show("NRestarts") == restarts


# --- orders that end or change it ----------------------------------------------------------------


def test_restart(running: Unit, ends: tuple[End, End]) -> None:
    before = running.status()["primary"]["pid"]
    running.ctl("restart")
    assert running.runs()["primary"]["pid"] != before
    both_pass(ends)
    exchange(*ends, packets=60)


def test_reload_applies_what_it_can(running: Unit, ends: tuple[End, End]) -> None:
    before = running.status()
    text = running.file.read_text()
    running.file.write_text(text.replace("count = 2", "count = 3"))
    running.ctl("reload")
    wait_for(lambda: running.status()["groups"][0]["desired"] == 3, PATIENCE)
    running.runs()
    exchange(*ends, packets=60)
    # What needs a restart is refused, and nothing is changed.
    running.file.write_text(text.replace("mbufs = 8191", "mbufs = 4095"))
    failed = subprocess.run(["systemctl", "reload", running.unit], check=False).returncode
    assert failed != 0
    after = running.runs()
    assert after["primary"]["pid"] == before["primary"]["pid"]
    assert after["groups"][0]["desired"] == 3
    running.file.write_text(text.replace("count = 2", "count = 3"))


def test_start_forward_stop(running: Unit, ends: tuple[End, End]) -> None:
    assert running.show("ActiveState") == "active"
    exchange(*ends, packets=60)
    running.ctl("stop")
    assert running.show("Result") == "success"
    running.is_gone()


def test_restrict_realtime_is_what_takes_it_away(unit: Unit) -> None:
    """Why the unit has no RestrictRealtime=: with it the instance runs, its wardens do without."""
    unit.drop_in("[Service]\nRestrictRealtime=yes\n")
    unit.ctl("start")
    found = list(threads(unit.runs()["primary"]["pid"]))
    assert found
    assert all(policy == os.SCHED_OTHER for _, policy, _ in found), found


# --- systemctl stop, in every state -------------------------------------------------------------

MOMENTS: dict[str, Callable[[Unit], object]] = {
    "its supervisor runs": lambda unit: unit.main,
    "its primary runs": primary,
    "its primary has its memory": lambda unit: any(
        f"dpsup-{unit.name}-g" in one for one in unit.left()
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_stop_while_starting(unit: Unit, moment: str) -> None:
    unit.ctl("start", "--no-block")
    wait_for(lambda: MOMENTS[moment](unit), PATIENCE, 0.05)
    unit.ctl("stop")
    unit.is_gone()
    assert unit.show("ActiveState") in ("inactive", "failed")


def test_stop_while_headless(running: Unit) -> None:
    """No supervisor, and systemd only waits to start one: the order is for the data plane."""
    running.drop_in("[Service]\nRestartSec=1h\n")
    dies(running.main)
    wait_for(lambda: running.show("SubState") == "auto-restart", PATIENCE, 0.2)
    assert primary(running)
    running.ctl("stop")
    running.is_gone()


def test_stop_while_a_dead_one_is_put_away(running: Unit) -> None:
    """The order comes while systemd still runs what follows the supervisor's death."""
    running.drop_in("[Service]\nExecStopPost=sleep 20\n")
    dies(running.main)
    wait_for(lambda: running.show("SubState") == "stop-post", PATIENCE, 0.2)
    running.ctl("stop")
    running.is_gone()


@pytest.mark.fault(46)
@pytest.mark.parametrize("seconds", [0, 2, 8])
def test_stop_while_adopting(running: Unit, seconds: float) -> None:
    """At several moments of the next supervisor's start, up to one after it has adopted."""
    main = running.main
    dies(main)
    wait_for(lambda: running.main not in (0, main), PATIENCE, 0.05)
    time.sleep(seconds)
    running.ctl("stop")
    running.is_gone()


def test_stop_where_no_supervisor_can_be_started(running: Unit) -> None:
    """The unit has failed, and its data plane forwards: a stop ends that."""
    running.drop_in("[Service]\nRestart=no\n")
    dies(running.main)
    wait_for(lambda: running.show("ActiveState") == "failed", PATIENCE, 0.2)
    assert primary(running)
    running.ctl("stop")
    running.is_gone()


def test_stop_while_degraded(unit: Unit) -> None:
    text = unit.file.read_text() + '[[ports]]\nname = "none"\npci = "0000:1e:00.0"\n'
    unit.file.write_text(text + "required = false\n")
    unit.ctl("start")
    unit.runs("degraded")
    unit.ctl("stop")
    unit.is_gone()


@pytest.mark.parametrize("how", ["again", "killed"])
def test_stop_while_draining(running: Unit, ends: tuple[End, End], how: str) -> None:
    """A worker that does not take its packets holds the drain up; then a second order comes, or
    the supervisor dies of it."""
    for worker in running.status()["groups"][0]["workers"]:
        os.kill(worker["pid"], signal.SIGSTOP)
    for _ in range(64):
        ends[0].socket.send(os.urandom(12) + b"\x88\xb5" + bytes(50))
    main = running.main
    running.ctl("stop", "--no-block")
    wait_for(lambda: running.show("SubState") != "running", PATIENCE, 0.05)
    if how == "again":
        os.kill(main, signal.SIGTERM)
    else:
        dies(main)
    running.ctl("stop")
    running.is_gone()
