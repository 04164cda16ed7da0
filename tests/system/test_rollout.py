# SPDX-License-Identifier: BSD-3-Clause
"""A new version of a plugin while packets flow: each packet says which version handled it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, NULL, Run, dies, run, wait_for
from jobs import IO, Job, accounted, group, out, pcap_port
from traffic import Packet, compare, save
from versions import ANY, MARK, many, plugin, start, unmarked

from dpsup.errors import DpsupError

pytestmark = pytest.mark.beside

# Of a packet: so dear that packets are left for a rollout on a fast machine with many CPUs too.
DEAR = "cycles = 600000"


def orders(instance: Run) -> dict[bytes, str]:
    """Of each flow, the versions that handled it, one after the other: "12" for 1, then 2."""
    found: dict[bytes, str] = {}
    for frame in out(instance):
        flow, mark = frame[26:30], str(frame[MARK])
        if not found.get(flow, "").endswith(mark):
            found[flow] = found.get(flow, "") + mark
    return found


def versions(job: Job) -> list[int]:
    """The revisions of those that run."""
    return list(job.instance.rollout_status("fw")["groups"][0]["workers"].values())


def ended(job: Job, packets: list[Packet], instance: Run, dropped: bool = False) -> dict[str, Any]:
    doc, received = job.cut(packets, 1500)
    lost = sum(doc["dropped"].values()) if dropped else 0
    accounted(doc, len(received), lost)
    compare(received, (unmarked(f) for f in out(instance)), missing=lost)
    return doc


def test_versions_change_once_per_slot_and_nothing_is_lost(instance: Run, tmp_path: Path) -> None:
    """Forward: every packet once, in order, of each flow the old version's first; counters carry
    on under their names, drops too; spares, and who comes next, are of the new version."""
    packets = many(160_000)
    drops = "if (seen % 50 == 0) return dps_drop(0);"
    v1 = plugin(tmp_path, 1, drops, reasons='"odd"')
    v2 = plugin(
        tmp_path, 2, drops.replace("(0)", "(1)"),
        reasons='"other", "odd"', counters='"more", "seen"', seen=1,
    )  # fmt: skip
    job = start(instance, packets, v1, args=DEAR)
    job.until_sent(2000)
    doc = job.instance.rollout("fw", v2, judge=0.3, slower=ANY)
    assert (doc["phase"], doc["to"], doc["changed"]) == ("done", 2, True), doc
    assert versions(job) == [2, 2, 2]
    again = job.instance.rollout("fw", v2)
    assert not again["changed"] and again["phase"] == "idle"
    # A takeover, a cold start and one more worker are of the new version.
    status = job.instance.status()["groups"][0]
    assert status["plugin"] == v2
    wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 1)
    job.instance.kill("fw/1")
    job.instance.scale("fw", 4)
    wait_for(lambda: versions(job) == [2, 2, 2, 2])
    assert [r["state"] for r in job.instance.rollout_history("fw")["revisions"]] == [
        "replaced",
        "current",
    ]
    events = job.events()
    phases = [e["phase"] for e in events if e["type"] == "rollout"]
    assert phases == ["preparing", "canary", "rolling", "closing", "done"]
    assert not [e for e in events if e["type"] == "held"]
    stats = job.instance.stats()
    seen = sum(s["counters"].get("seen", 0) for s in stats["slots"])
    doc = ended(job, packets, instance, dropped=True)
    assert set(doc["dropped"]) == {"odd"}, doc["dropped"]
    assert doc["deaths"] == 1  # the one that was killed: making room is none
    assert seen >= 2000
    assert {*orders(instance).values()} <= {"1", "12"}
    assert sum(o == "12" for o in orders(instance).values()) > 50


def test_counters_carry_on_exactly(instance: Run, tmp_path: Path) -> None:
    packets = many(50_000)
    v1 = plugin(tmp_path, 1)
    v2 = plugin(tmp_path, 2, counters='"more", "seen"', seen=1)
    job = start(instance, packets, v1, args="cycles = 120000")
    job.until_sent(2000)
    assert job.instance.rollout("fw", v2, judge=0)["phase"] == "done"
    assert job.instance.rollout("fw", v1, judge=0)["phase"] == "done"
    assert job.instance.rollout("fw", v2, judge=0)["phase"] == "done"
    job.until_sent(len(packets))
    slots = job.instance.stats()["slots"]
    assert sum(s["counters"].get("seen", 0) for s in slots) == len(packets)
    assert sum(s["counters"].get("more", 0) for s in slots) == 0
    ended(job, packets, instance)
    assert {*orders(instance).values()} <= {"1", "12", "121", "1212"}


WORSE = {
    "crash": ("if (seen > 100) *(volatile int *)0 = 1;", "died of it: SIGSEGV"),
    "abort": ("if (seen > 100) abort();", "died of it: SIGABRT"),
    "hang": ("if (seen > 100) for (;;) ;", "was stuck with it"),
    "leave": ("if (seen > 100) exit(3);", "left with exit code 3"),
    "drop": ("if (seen % 10 == 0) return dps_drop(0);", "of its packets, the old version 0.0%"),
    "drop all": ("return dps_drop(0);", "it drops all of its"),
    "bad verdict": ("return dps_out(13);", "verdicts have no meaning"),
    "slow": ("until += 8 * 600000;", "cycles a packet, the old version"),
    "refuse": ("", "no licence"),
    "crash at start": ("", "end before they are ready"),
}
INIT = {
    "refuse": 'strcpy(e->error, "no licence"); return -1;',
    "crash at start": "abort();",
}


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    "how",
    [
        "crash",
        pytest.param("abort", marks=pytest.mark.long),
        "hang",
        pytest.param("leave", marks=pytest.mark.long),
        "drop",
        pytest.param("drop all", marks=pytest.mark.long),
        "bad verdict",
        pytest.param("slow", marks=pytest.mark.long),
        "refuse",
        pytest.param("crash at start", marks=pytest.mark.long),
    ],
)
def test_a_worse_version_is_undone_by_itself(instance: Run, tmp_path: Path, how: str) -> None:
    packets = many(100_000)
    worse, why = WORSE[how]
    v1 = plugin(tmp_path, 1)
    v2 = plugin(tmp_path, 2, worse, init=INIT.get(how, ""))
    job = start(instance, packets, v1, count=2, args=DEAR)
    job.until_sent(2000)
    # To be stuck takes time, on a busy machine more of it; the old version is measured as long.
    judge = 1.5 if how == "hang" else 0.4
    slower = 1.0 if how == "slow" else ANY
    # With a second spare of the new version at hand, which must not be who takes over.
    doc = job.instance.rollout("fw", v2, judge=judge, max_unavailable=2, slower=slower)
    assert doc["phase"] == "undone", doc
    assert why in doc["why"], doc
    assert versions(job) == [1, 1]
    group_ = job.instance.status()["groups"][0]
    assert group_["plugin"] == v1 and group_["spares_held"] == ""
    wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 1)
    told = job.instance.rollout_history("fw")["revisions"]
    assert [r["state"] for r in told] == ["current", "undone"]
    assert why in told[1]["why"]
    # It is not held against the group: what comes next is of the old version.
    job.instance.kill("fw/0")
    wait_for(lambda: versions(job) == [1, 1])
    if how == "bad verdict":
        told = wait_for(lambda: [e for e in job.events() if e["type"] == "verdict"])
        assert told[0]["plugin"] == v2 and told[0]["verdict"].endswith("100d"), told
        assert "out of port 13, of ports 0 to" in told[0]["message"]
    dropped = how in ("drop", "drop all", "bad verdict")
    account = ended(job, packets, instance, dropped=dropped)
    # One that was killed, and the canary. Who hangs may be found out only with a second one there.
    died = {"crash": {2}, "abort": {2}, "hang": {2, 3}, "leave": {2}}
    assert account["deaths"] in died.get(how, {1})
    # A version that forwards nothing leaves no mark.
    met = how not in (*INIT, "drop all", "bad verdict")
    assert {*orders(instance).values()} <= ({"1", "121"} if met else {"1"})
    assert ("121" in orders(instance).values()) == met


def test_a_version_that_crashes_later_is_undone_in_all_slots(instance: Run, tmp_path: Path) -> None:
    """The canary was fine; the crash comes while the last are watched."""
    packets = many(100_000)
    v1 = plugin(tmp_path, 1)
    v2 = plugin(tmp_path, 2, "if (env->worker == 2 && seen > 100) abort();")
    job = start(instance, packets, v1, args=DEAR)
    job.until_sent(2000)
    doc = job.instance.rollout("fw", v2, judge=0.3, max_unavailable=2, slower=ANY)
    assert doc["phase"] == "undone" and "fw/2 died" in doc["why"], (doc, job.events()[-40:])
    assert versions(job) == [1, 1, 1]
    ended(job, packets, instance)
    found = orders(instance).values()
    assert {*found} <= {"1", "121"}
    assert sum(o == "121" for o in found) > 20


@pytest.mark.long
def test_what_a_version_needs_is_there_from_its_first_packet_on(
    instance: Run, tmp_path: Path
) -> None:
    """The old version asks for nothing, the new one for each packet's hash, and back."""
    packets = many(100_000)
    v1 = plugin(tmp_path, 1)
    v2 = plugin(tmp_path, 2, "if (p->hash == 0) mark = 9;", needs="DPS_PLUGIN_HASH")
    job = start(instance, packets, v1, count=2)
    job.until_sent(2000)
    assert job.instance.rollout("fw", v2, judge=0.1, slower=ANY)["phase"] == "done"
    assert job.instance.rollout_undo("fw")["phase"] == "done"
    assert versions(job) == [3, 3]
    assert job.instance.rollout("fw", v2, judge=0)["phase"] == "done"
    ended(job, packets, instance)
    assert {*orders(instance).values()} <= {"1", "12", "121", "1212"}


def test_undo_in_the_middle(instance: Run, tmp_path: Path) -> None:
    packets = many(100_000)
    v1, v2 = plugin(tmp_path, 1), plugin(tmp_path, 2)
    job = start(instance, packets, v1, args=DEAR)
    job.until_sent(2000)
    doc = job.instance.rollout("fw", v2, wait=False, judge=1, slower=ANY)
    assert doc["phase"] == "preparing"
    # One at a time; the same once more is the same.
    assert job.instance.rollout("fw", v2, wait=False)["to"] == 2
    with pytest.raises(DpsupError, match="is being changed to revision 2"):
        job.instance.rollout("fw", args={"cycles": "5"}, wait=False)
    wait_for(lambda: 2 in versions(job))
    doc = job.instance.rollout_undo("fw")
    assert (doc["phase"], doc["why"]) == ("undone", "it was asked to")
    assert versions(job) == [1, 1, 1]
    with pytest.raises(DpsupError, match="ran nothing else before"):
        job.instance.rollout_undo("fw")
    ended(job, packets, instance)
    assert {*orders(instance).values()} <= {"1", "121"}


# Why a rollout may go back that nothing but kills disturbs: none of these blames the version.
KILLED = re.compile(
    r"fw/\d could not be changed over \d times|its processes end before they are ready"
    r"|its spare ended|no spare of it becomes ready|fw/\d does not come up"
)
MOST = 10  # kills of one rollout: the way there may come to nothing, the way back gets to its end


@pytest.mark.parametrize("spares", [0, pytest.param(2, marks=pytest.mark.long)])
def test_kills_in_the_middle_lose_nothing(instance: Run, tmp_path: Path, spares: int) -> None:
    """Rollouts there and back, with workers and spares killed all the time: a kill from outside is
    no evidence against a version, and each rollout gets to its end, whichever way."""
    packets = many(200_000)
    v1, v2 = plugin(tmp_path, 1), plugin(tmp_path, 2)
    job = start(instance, packets, v1, args="cycles = 240000", more=f"spares = {spares}\n")
    job.until_sent(1000)
    under_way, over = threading.Event(), threading.Event()
    kills = left = 0

    def killer() -> None:
        nonlocal kills, left
        rng = random.Random(spares)
        while not over.is_set():
            pids = [
                int(p.name)
                for p in Path("/proc").glob("[0-9]*")
                if _title(p).startswith(f"dpsup-worker: {instance.name} ")
            ]
            if pids and left and under_way.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    kills += 1
                    left -= 1
            over.wait(0.05 + rng.random() * 0.1)

    def roll() -> dict[str, Any]:
        to = v2 if job.instance.rollout_status("fw")["groups"][0]["plugin"] == v1 else v1
        return job.instance.rollout("fw", to, judge=0, max_unavailable=2)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        while kills < 2 * MOST:
            left = MOST
            under_way.set()
            doc = roll()
            under_way.clear()
            went_back = doc["phase"] == "undone" and KILLED.fullmatch(doc["why"])
            assert doc["phase"] == "done" or went_back, (doc, job.events()[-40:])
    finally:
        over.set()
        thread.join()
    # Neither version is half there, and what kills had hindered is done without them.
    assert roll()["phase"] == "done", job.events()[-40:]
    current = job.instance.rollout_status("fw")["groups"][0]["revision"]
    wait_for(lambda: versions(job) == [current] * 3)
    ended(job, packets, instance)


def _title(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().decode(errors="replace")
    return ""


def test_a_stopped_worker_is_changed_over_too(instance: Run, tmp_path: Path) -> None:
    packets = many(60_000)
    v1, v2 = plugin(tmp_path, 1), plugin(tmp_path, 2)
    job = start(instance, packets, v1, count=2)
    job.until_sent(2000)
    job.instance.kill("fw/0", signal.SIGSTOP)
    assert job.instance.rollout("fw", v2, judge=0)["phase"] == "done"
    assert versions(job) == [2, 2]
    ended(job, packets, instance)


@pytest.mark.long
def test_held_workers_start_with_a_version_that_works(instance: Run, tmp_path: Path) -> None:
    """The rollout of a fix: nobody runs whom it could take over from."""
    packets = many(30_000)
    v1 = plugin(tmp_path, 1, "if (seen > 300) raise(SIGKILL);")
    v2 = plugin(tmp_path, 2)
    more = """
on_full = "hold"
spares = 0
restart = { intensity = 2, backoff = { initial = "1ms", factor = 1 } }
"""
    save(instance.folder / "wan.in.pcap", packets)
    instance.foreground(
        pcap_port() + IO + group(v1, 1, most=2, more=more), "--exit-when-idle", "10s", "-o", "json"
    )
    wait_for(lambda: _held(instance))
    done = instance.do("rollout", "fw", "--plugin", v2, "--judge", "200ms", "--wait")
    assert "revision 2" in done.stdout
    job = instance.process
    assert job is not None
    text, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    accounted(json.loads(text), len(packets))
    compare(packets, (unmarked(f) for f in out(instance)))
    assert {*orders(instance).values()} <= {"12", "2"}


def _held(instance: Run) -> bool:
    done = instance.do("status", "-o", "json", check=False)
    if done.returncode not in (0, 5):
        return False
    return any(w["state"] == "held" for w in json.loads(done.stdout)["groups"][0]["workers"])


def test_the_next_generation_runs_what_was_rolled_out(instance: Run) -> None:
    instance.start(CALM)
    instance.do("rollout", "fw", "--plugin", "forward", "--judge", "0s", "--wait")
    os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
    doc = instance.until(lambda s: s["state"] == "running" and s["generation"] == 2 and s)
    assert doc["groups"][0]["plugin"] == "forward"
    plan = json.loads((Path("/run/dpsup") / instance.name / "plan.json").read_text())
    assert plan["groups"][0]["plugin"] == "forward"
    # In the middle of one the old version counts.
    instance.do("rollout", "fw", "--plugin", "sink", "--judge", "1m")
    # For a minute: so long the old version is measured.
    instance.until(lambda s: s["groups"][0]["rollout"]["phase"] == "preparing")
    os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
    doc = instance.until(lambda s: s["state"] == "running" and s["generation"] == 3 and s)
    assert doc["groups"][0]["plugin"] == "forward"
    wait_for(lambda: instance.status()["groups"][0]["rollout"]["phase"] == "idle")
    instance.do("rollout", "fw", "--plugin", "macswap", "--judge", "0s", "--wait")
    assert instance.status()["groups"][0]["plugin"] == "macswap"


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("preparing", marks=pytest.mark.long),
        "canary",
        pytest.param("done", marks=pytest.mark.long),
    ],
)
def test_the_next_supervisor_knows_what_to_do(instance: Run, moment: str) -> None:
    """The supervisor is killed in the middle of a rollout, or after one: who adopts takes it back,
    or knows what runs."""
    instance.start(CALM)
    # The old version is measured for as long, before the canary.
    judge = "0s" if moment == "done" else "1m" if moment == "preparing" else "3s"
    instance.do("rollout", "fw", "--plugin", "forward", "--judge", judge, "--more-drops", "100%",
                "--slower", "10000%")  # fmt: skip

    def there(status: dict[str, Any]) -> bool:
        now = status["groups"][0]["rollout"]
        if moment == "done":
            return bool(now["phase"] == "idle" and now["revision"] == 2)
        if moment == "preparing":
            return bool(now["phase"] == moment)
        # The next phase is as good where somebody looks late.
        return bool(now["phase"] in (moment, "rolling") and 2 in now["workers"].values())

    instance.until(there)
    before = instance.status()
    dies(before["supervisor"]["pid"])
    instance.start()
    after = instance.status()
    assert after["primary"]["pid"] == before["primary"]["pid"]
    revision, plugin_ = (2, "forward") if moment == "done" else (1, "macswap")

    def is_back(status: dict[str, Any]) -> bool:
        g = status["groups"][0]
        now = g["rollout"]
        return bool(
            now["phase"] == "idle"
            and g["plugin"] == plugin_
            and {*now["workers"].values()} == {revision}
            and g["ready"] == 2
        )

    instance.until(is_back)
    states = [r["state"] for r in json.loads(
        instance.do("rollout", "history", "-o", "json").stdout)["revisions"]]  # fmt: skip
    assert states == (["replaced", "current"] if moment == "done" else ["current", "undone"])
    instance.do("rollout", "fw", "--plugin", "sink", "--judge", "0s", "--wait")
    assert instance.status()["groups"][0]["plugin"] == "sink"


def test_the_command_line(instance: Run, tmp_path: Path) -> None:
    instance.start(NULL)
    for words, code in (
        (("fw",), 2),
        (("fw", "--plugin", "macsvap"), 2),
        (("fw", "--plugin", "./none.so"), 1),
        (("nobody", "--plugin", "forward"), 4),
        (("fw", "--args", "cycles"), 2),
        (("status", "fw", "x"), 2),
        (("undo", "fw"), 1),
        (("fw", "--plugin", "forward", "--more-drops", "many"), 2),
    ):
        done = run("rollout", "-n", instance.name, *words)
        assert done.returncode == code, (words, done.stderr)
    done = instance.do("rollout", "fw", "--plugin", "delay", "--args", "cycles=10", "x=y",
                       "--judge", "100ms", "--slower", "100000%",
                       "--more-drops", "100%", "--wait")  # fmt: skip
    assert "fw: revision 2, delay, in all workers" in done.stdout
    assert "unchanged" in instance.do("rollout", "fw", "--plugin", "delay").stdout
    history = json.loads(instance.do("rollout", "history", "-o", "json").stdout)
    assert ["map.lan", "wan"] in history["revisions"][1]["args"]  # those not named stay
    assert ["cycles", "10"] in history["revisions"][1]["args"]
    assert re.search(r"fw +2 +delay +idle", instance.do("rollout", "status").stdout)
    # Slower by more than it may be: by cycles a packet, of a plugin that drops nothing.
    done = instance.do("rollout", "fw", "--args", "cycles=20000", "--judge", "300ms", "--wait",
                       check=False)  # fmt: skip
    assert done.returncode == 1 and "undone" in done.stdout, done.stdout + done.stderr
    assert "in all workers" in instance.do("rollout", "undo").stdout
    assert instance.status()["groups"][0]["plugin"] == "macswap"
    assert instance.do("audit").returncode == 0


# --- reload ---------------------------------------------------------------------------------------


def edited(instance: Run, change: Callable[[str], str]) -> None:
    old = instance.file.read_text()
    new = change(old)
    assert new != old
    instance.file.write_text(new)


def test_reload_does_what_the_file_says(instance: Run) -> None:
    # Lossless: on two CPUs, which lane is full is chance.
    instance.start(NULL + 'on_full = "hold"\n')
    assert "nothing changed" in instance.do("reload").stdout
    edited(instance, lambda t: t.replace("count = 2", "count = 3\nspares = 2"))
    edited(instance, lambda t: t.replace("intensity = 100", "intensity = 50"))
    edited(instance, lambda t: t + 'health = { stopped = "kill", stall_after = "300ms" }\n')
    edited(instance, lambda t: t.replace('plugin = "macswap"', 'plugin = "forward"'))
    dry = instance.do("reload", "--dry-run").stdout
    line = instance.file.read_text().splitlines().index("count = 3") + 1
    assert f"{instance.file}:{line}  workers.fw.count: 2 -> 3" in dry
    assert 'workers.fw.plugin: "macswap" -> "forward"' in dry and "worker by worker:" in dry
    assert "Nothing was changed" in dry and instance.status()["groups"][0]["desired"] == 2
    done = instance.do("reload", "--judge", "300ms", "--slower", "100000%", check=False)
    assert done.returncode == 0 and "6 of 6 done" in done.stdout, done.stdout + done.stderr
    found = instance.until(
        lambda s: s["groups"][0]["ready"] == 3 and s["groups"][0]["spares_ready"] == 2 and s
    )
    assert found["groups"][0]["plugin"] == "forward"
    assert "nothing changed" in instance.do("reload").stdout
    # A worker that a signal stops is ended now.
    pid = instance.worker("fw/0")["pid"]
    instance.do("kill", "fw/0", "-s", "STOP")
    wait_for(lambda: instance.worker("fw/0")["pid"] not in (pid, None))
    # And it all holds in the next generation.
    os.kill(found["primary"]["pid"], signal.SIGKILL)
    found = instance.until(lambda s: s["generation"] == 2 and s["state"] == "running" and s)
    assert (found["groups"][0]["desired"], found["groups"][0]["plugin"]) == (3, "forward")


@pytest.mark.fault(40)
def test_reload_does_nothing_where_a_restart_is_needed(instance: Run) -> None:
    instance.start(CALM)
    edited(instance, lambda t: t.replace("count = 2\nmax = 4", "count = 3\nmax = 6"))
    edited(instance, lambda t: t.replace("mbufs = 16383", "mbufs = 8191"))
    done = instance.do("reload", check=False)
    assert done.returncode == 1 and "needs a restart:" in done.stdout
    assert "mempools.default.mbufs: 16383 -> 8191" in done.stdout
    assert "workers.fw.max: 4 -> 6" in done.stdout
    assert instance.status()["groups"][0]["desired"] == 2
    done = instance.do("reload", "--partial")
    assert "1 of 3 done" in done.stdout
    assert instance.until(lambda s: s["groups"][0]["ready"] == 3)
    # What is left is said again, what was done is not; and back again is a change.
    assert "count" not in instance.do("reload", check=False).stdout
    edited(instance, lambda t: t.replace("count = 3\nmax = 6", "count = 2\nmax = 4"))
    assert "workers.fw.count: 3 -> 2" in instance.do("reload", "--partial").stdout
    edited(instance, lambda t: t.replace("max = 4", "maxx = 4"))
    done = instance.do("reload", check=False)
    assert done.returncode == 78 and "max" in done.stderr
    edited(instance, lambda t: t.replace(f'"{instance.name}"', '"somebody"'))
    edited(instance, lambda t: t.replace("maxx", "max"))
    assert instance.do("reload", check=False).returncode == 2


def test_reload_undoes_a_plugin_that_is_worse(instance: Run, tmp_path: Path) -> None:
    v2 = plugin(tmp_path, 2, "if (seen > 10) abort();")
    instance.start(NULL)
    edited(instance, lambda t: t.replace('"macswap"', f'"{v2}"'))
    done = instance.do("reload", "--judge", "300ms", check=False)
    assert done.returncode == 1 and "undone: fw: " in done.stdout, done.stdout
    assert instance.status()["groups"][0]["plugin"] == "macswap"
