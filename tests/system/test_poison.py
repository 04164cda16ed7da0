# SPDX-License-Identifier: BSD-3-Clause
"""Poison packets: blamed by evidence alone, quarantined after two deaths with their story, and the
group goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from harness import NULL, Run, dies, run, seed, wait_for
from jobs import (
    FREE,
    IO,
    LOSSLESS,
    ONCE,
    SLOW,
    Job,
    accounted,
    build,
    death_events,
    find_busy,
    group,
    kill_busy,
    out,
    pcap_port,
)
from traffic import Packet, compare, flows, mix, read_pcap, save, swapped
from wild import FIND_CTL

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

MARK = b"this one is poison"
MATCH = 'match = "is poison"'


def poisoned(packets: list[Packet], *places: int) -> list[Packet]:
    """Some of the packets with a mark at their end; each in its flow's order."""
    found = list(packets)
    for place in places:
        old = found[place]
        found[place] = Packet(old.flow, old.frame + MARK + bytes([place & 0xFF]))
    return found


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 20_000, seed=21)


def spares(n: int, more: str = "") -> str:
    return LOSSLESS + f"spares = {n}\n{more}\n"


def in_quarantine(instance: Run) -> list[dict[str, Any]]:
    """As the command tells it, while the instance runs and afterwards."""
    command = ("--dir", str(instance.folder / "quarantine"), "-o", "json")
    doc = json.loads(run("quarantine", "list", *command, check=True).stdout)
    found: list[dict[str, Any]] = doc["packets"]
    return found


def frame_of(packet: dict[str, Any]) -> bytes:
    (frame,) = read_pcap(Path(packet["file"]))
    return frame


def settled(status: dict[str, Any], packets: int) -> bool:
    """All of them came, and none is under way."""
    return status["ports"][0]["rx_packets"] == packets and not status["in_flight"]


def without(packets: list[Packet], *places: int) -> list[Packet]:
    return [p for i, p in enumerate(packets) if i not in places]


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("how", "signal_", "n"),
    [
        ("segv", "SIGSEGV", 0),
        pytest.param("segv", "SIGSEGV", 1, marks=pytest.mark.long),
        pytest.param("abort", "SIGABRT", 0, marks=pytest.mark.long),
        ("abort", "SIGABRT", 1),
        ("hang", "SIGABRT", 0),
        ("hang", "SIGABRT", 1),
    ],
)
def test_poison_is_quarantined_and_the_group_goes_on(
    instance: Run, packets: list[Packet], how: str, signal_: str, n: int
) -> None:
    """All else comes out once and in order; two workers died, no third."""
    place = 9_000
    sent = poisoned(packets, place)
    save(instance.folder / "wan.in.pcap", sent)
    crash = group("crash", 2, f'how = "{how}", {MATCH}', more=spares(n))
    doc = instance.job(
        pcap_port() + IO + crash.replace("spares", 'health = { stall_after = "100ms" }\nspares')
    )
    accounted(doc, len(sent), dropped=1)
    assert (doc["dropped"], doc["deaths"]) == ({"quarantine": 1}, 2)
    compare(without(sent, place), out(instance))
    (packet,) = in_quarantine(instance)
    assert frame_of(packet) == sent[place].frame
    assert (packet["number"], packet["why"], packet["length"]) == (
        1,
        "poison",
        len(sent[place].frame),
    )
    assert (packet["group"], packet["port"], packet["plugin"]) == ("fw", "wan", "crash")
    first, second = packet["deaths"]
    assert first["pid"] != second["pid"]
    assert first["at"] < second["at"] <= packet["at"]
    for death in packet["deaths"]:
        # One that hangs and gets no CPU to tell where it is does not have for ever.
        told = death["signal"] == signal_
        assert told or (how, death["signal"]) == ("hang", "SIGKILL")
        assert death["hung"] == (how == "hang")
        assert death["plugin"] == "crash"
        assert death["worker"] in ("fw/0", "fw/1")
        assert len(death["backtrace"]) > 2 or not told
    folder = instance.folder / "quarantine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}


CRASH = """
#include "dpsup_plugin.h"

static volatile uintptr_t nowhere = 16;

__attribute__((noinline)) static void
write_where_nothing_is(void)
{
	*(volatile char *)nowhere = 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (p->data[p->len - 1] == 0xee)
		write_where_nothing_is();
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {DPS_PLUGIN_HEAD, .name = "t", .packet = packet};
"""


def test_the_story_names_the_function_that_crashed(instance: Run, packets: list[Packet]) -> None:
    """After the instance has ended, too, and its private copy of the plugin with it."""
    sent = packets[:100]
    sent[50] = Packet(sent[50].flow, sent[50].frame + b"\xee")
    sent = [p for i, p in enumerate(sent) if i == 50 or p.frame[-1] != 0xEE]
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, CRASH)
    instance.job(pcap_port() + IO + group(str(plugin), 1, more=spares(1)))
    (packet,) = in_quarantine(instance)
    for death in packet["deaths"]:
        names = death["symbols"]
        assert len(names) == len(death["backtrace"])
        at = next(i for i, name in enumerate(names) if f"({plugin.name})" in name)
        assert names[at].startswith("write_where_nothing_is+0x")
        assert names[at + 1].startswith("packet+0x")
        assert any(name.startswith("worker_loop+0x") for name in names[at:])
    shown = run("quarantine", "show", "1", "--dir", str(instance.folder / "quarantine"), check=True)
    assert f"({plugin.name})" in shown.stdout
    assert "write_where_nothing_is+0x" in shown.stdout


def test_two_in_one_burst_and_more(instance: Run, packets: list[Packet]) -> None:
    places = (4_000, 4_001, 4_003, 8_000)
    sent = poisoned(packets, *places)
    save(instance.folder / "wan.in.pcap", sent)
    instance.start(pcap_port() + IO + group("crash", 1, MATCH, more=spares(2)))
    wait_for(lambda: len(in_quarantine(instance)) == len(places), step=0.2)
    # A death counts once it is known how it ended: later than its packet's end.
    status = instance.until(
        lambda s: settled(s, len(sent)) and s["recovery"]["deaths"] == 2 * len(places) and s
    )
    assert status["recovery"]["quarantined"] == len(places)
    (worker,) = status["groups"][0]["workers"]
    assert (worker["state"], worker["dropped"]) == ("running", {"quarantine": len(places)})
    assert instance.audit()["pools"][0]["unexplained"] == 0
    events = instance.events()
    kept = [e for e in events if e["type"] == "quarantine"]
    assert [(e["number"], e["why"]) for e in kept] == [(n, "poison") for n in (1, 2, 3, 4)]
    # Each is said once it is known how it ended, which may take longer for one than for the next.
    deaths = sorted(
        (e for e in events if e["type"] == "death"), key=lambda e: e["times"]["noticed_ns"]
    )
    assert [e["blamed"] for e in deaths] == [1, 2] * len(places)
    instance.stop()
    assert [frame_of(p) for p in in_quarantine(instance)] == [sent[i].frame for i in places]
    compare(without(sent, *places), out(instance))


# Rewrites as macswap, and dies in the middle of that.
HALF = """
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint8_t mac[6];

	(void)state;
	if (p->len < 12)
		return dps_out(p->port);
	memcpy(mac, p->data, 6);
	memcpy(p->data, p->data + 6, 6);
	if (p->len > 19 && memcmp(p->data + p->len - 19, "this one is poison", 18) == 0)
		%s
	memcpy(p->data + 6, mac, 6);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "half", .rewrites = 12, .packet = packet,
};
"""


def test_the_bytes_are_those_that_arrived(instance: Run, packets: list[Packet]) -> None:
    place = next(i for i in range(5_000, 6_000) if len(packets[i].frame) > 60)
    sent = poisoned(packets, place)
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, HALF.replace("%s", "__builtin_trap();"))
    doc = instance.job(pcap_port() + IO + group(str(plugin), 2, more=spares(1)))
    accounted(doc, len(sent), dropped=1)
    (packet,) = in_quarantine(instance)
    assert frame_of(packet) == sent[place].frame
    assert all(d["undone"] and d["signal"] == "SIGILL" for d in packet["deaths"])
    compare(without(sent, place), out(instance), swapped)


def test_the_count_goes_with_the_packet_to_another_slot(
    instance: Run, packets: list[Packet]
) -> None:
    """No spare, and the first one comes back much later: it dies in another worker's lane."""
    place = 5_000
    sent = poisoned(packets, place)
    save(instance.folder / "wan.in.pcap", sent)
    more = LOSSLESS.replace('initial = "1ms"', 'initial = "3s", max = "3s"') + "spares = 0\n"
    instance.start(pcap_port() + IO + group("crash", 2, MATCH, more=more))
    wait_for(lambda: len(in_quarantine(instance)) == 1, step=0.2)
    instance.until(lambda s: settled(s, len(sent)))
    assert instance.stats()["io"][0]["requeued"] > 0
    assert instance.audit()["pools"][0]["unexplained"] == 0
    instance.stop()
    (packet,) = in_quarantine(instance)
    assert frame_of(packet) == sent[place].frame
    assert {d["worker"] for d in packet["deaths"]} == {"fw/0", "fw/1"}
    compare(without(sent, place), out(instance))


# --- what is no evidence --------------------------------------------------------------------------


def test_kills_blame_no_packet(instance: Run, packets: list[Packet]) -> None:
    """SIGKILL from anybody, and fatal signals that somebody else sends: none is the packet's
    doing, however often they hit the same one."""
    save(instance.folder / "wan.in.pcap", packets)
    rng = random.Random(seed())
    args = f"cycles = {SLOW * 12}, rewrite = true"
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=spares(2)))
    sent = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
    for i in range(40):
        if i % 4 == 0:
            kill_busy(job)
        else:
            os.kill(find_busy(job), rng.choice(sent))
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] > n, step=0.002)
    assert job.sent() < len(packets), "the run was too short to prove anything"
    found = death_events(job)
    assert sum(d["repaired"]["undone"] for d in found) > 0, "no packet was in hand"
    assert not any("blamed" in d for d in found)
    doc, received = job.cut(packets, 100)
    accounted(doc, len(received))
    compare(received, out(instance), swapped)
    assert in_quarantine(instance) == []


@pytest.mark.long
def test_one_packet_in_hand_at_many_kills(instance: Run) -> None:
    """The same packet in hand each time, slept on: killed from outside, it goes on in the end."""
    sent = mix(flows(1)[:3], 6, seed=1)
    save(instance.folder / "wan.in.pcap", sent)
    # Some second a packet, and stall_after above that.
    args = "cycles = 2500000000"
    more = spares(1, 'health = { stall_after = "60s" }')
    job = Job(instance, pcap_port() + IO + group("delay", 1, args, more=more))
    for i, number in enumerate((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL)):
        wait_for(lambda: job.instance.status()["groups"][0]["spares_ready"] == 1)
        job.instance.kill("fw/0", number)
        wait_for(lambda n=i: job.instance.status()["recovery"]["deaths"] == n + 1)
    assert not any("blamed" in d for d in death_events(job))
    accounted(job.end(len(sent)), len(sent))
    compare(sent, out(instance))


# Crashes between two bursts, with packets in its lane that it has not begun.
BETWEEN = """
#include <signal.h>
#include <sys/time.h>
#include "dpsup.h"
#include "dpsup_plugin.h"
FIND_CTL
static struct dps_sitter *me;
static struct dps_ctl *ctl;

static void on_alarm(int number)
{
	struct dps_slot *slot;
	struct dps_lane *lane;

	(void)number;
	if (me->hand != DPS_HAND_SEATED)
		return;
	slot = (void *)(ctl->base + ctl->slot[me->slot]);
	lane = (void *)((char *)slot + slot->lanes[0]);
	if (slot->hand == 0 || (uint32_t)slot->hand != lane->done)
		return;
	while (dps_load32(&lane->sent) == lane->done)
		;
	__builtin_trap();
}

static int init(const struct dps_env *env, void **state)
{
	const struct itimerval t = { .it_interval.tv_usec = 1000, .it_value.tv_usec = 300000 };

	(void)state;
	me = (void *)((char *)env->counters - offsetof(struct dps_sitter, counter));
	ctl = find_ctl();
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &t, NULL);
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "between", .init = init, .packet = packet,
};
""".replace("FIND_CTL", FIND_CTL)


def test_a_crash_with_no_packet_begun_blames_none(instance: Run) -> None:
    plugin = build(instance.folder, BETWEEN)
    text = NULL.replace('"macswap"', f'"{plugin}"').replace("count = 2", "count = 1\nspares = 0")
    instance.start(text)
    instance.until(lambda s: s["recovery"]["deaths"] >= 6)
    found = [e for e in instance.events() if e["type"] == "death"]
    assert [e["how"] for e in found] == ["SIGILL"] * len(found)
    assert sum(e["repaired"]["left"] > 0 for e in found) >= 6, "no lane had a packet"
    assert not any("blamed" in e for e in found)
    instance.stop()
    assert in_quarantine(instance) == []


@pytest.mark.fault(3)
def test_an_exit_blames_no_packet(instance: Run) -> None:
    """A plugin that leaves by exit has decided so; the restart policy ends it."""
    sent = poisoned(mix(flows(1), 300, seed=3), 100)
    save(instance.folder / "wan.in.pcap", sent)
    more = ONCE.format(intensity=3) + "spares = 1\n"
    crash = group("crash", 1, f'how = "exit", {MATCH}', more=more)
    instance.start(pcap_port() + IO + crash)
    status = instance.until(lambda s: s["groups"][0]["workers"][0]["state"] == "held" and s)
    assert status["recovery"]["quarantined"] == 0
    assert status["in_flight"] > 0
    assert instance.audit()["pools"][0]["unexplained"] == 0


# --- quarantine itself ----------------------------------------------------------------------------

ASKS = """
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (p->len > 18 && !memcmp(p->data + p->len - 19, "this one is poison", 18))
		return dps_quarantine();
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "asks", .packet = packet };
"""


def test_a_plugin_may_ask_for_it(instance: Run, packets: list[Packet]) -> None:
    """The same way, with nobody's death in the story; jumbo frames too."""
    big = max(range(len(packets)), key=lambda i: min(len(packets[i].frame), 8_900))
    places = (100, big) if big != 100 else (101, big)
    sent = poisoned(packets, *places)
    save(instance.folder / "wan.in.pcap", sent)
    doc = instance.job(pcap_port() + IO + group(str(build(instance.folder, ASKS)), 1))
    assert doc["dropped"].get("quarantine") == 2, doc["dropped"]
    found = in_quarantine(instance)
    assert {frame_of(p) for p in found} == {sent[i].frame for i in places}
    assert {(p["why"], len(p["deaths"])) for p in found} == {("asked", 0)}
    accounted(doc, len(sent), dropped=2)
    compare(without(sent, *places), out(instance))


def test_nobody_writes_down_and_all_is_accounted_for(instance: Run) -> None:
    """The supervisor is stopped: packets in quarantine wait, so many; more are freed by name."""
    flow = flows(1)[0]
    sent = poisoned([flow.next() for _ in range(200)], *range(200))
    save(instance.folder / "wan.in.pcap", sent)
    plugin = build(instance.folder, ASKS)
    more = group(str(plugin), 1)
    # A folder that cannot be made, as somebody's file is there.
    (instance.folder / "quarantine").write_text("mine")
    instance.start(pcap_port() + IO + more)

    def seen(status: dict[str, Any]) -> dict[str, int]:
        dropped: dict[str, int] = status["groups"][0]["workers"][0]["dropped"]
        return dropped

    status = instance.until(lambda s: sum(seen(s).values()) == len(sent) and s)
    assert seen(status)["quarantine"] >= 64
    wait_for(lambda: instance.audit()["pools"][0]["quarantine"] == 0)
    assert instance.audit()["pools"][0]["unexplained"] == 0

    def told() -> list[dict[str, Any]]:
        return [e for e in instance.events() if e["type"] == "quarantine"]

    lost = wait_for(lambda: len(said := told()) == seen(status)["quarantine"] and said)
    assert all(e["number"] is None and "not written down" in e["message"] for e in lost)
    instance.stop()


def test_what_waits_is_in_the_audit(instance: Run) -> None:
    """A headless instance: nobody collects; mbufs are there, and more than fit are freed."""
    flow = flows(1)[0]
    # The first waits until the supervisor is dead, which would write some down.
    sent = poisoned([flow.next() for _ in range(2000)], *range(1000, 2000))
    save(instance.folder / "wan.in.pcap", sent)
    go = instance.folder / "go"
    waits = f'while (access("{go}", F_OK) != 0)\n\t\t\tusleep(1000);\n\t\treturn dps_q'
    text = "#include <unistd.h>\n" + ASKS.replace("return dps_q", "{" + waits).replace(
        "quarantine();", "quarantine();}"
    )
    plugin = build(instance.folder, text)
    more = spares(0, 'health = { stall_after = "60s" }') + FREE
    instance.start(pcap_port() + IO + group(str(plugin), 1, more=more))
    dies(instance.status()["supervisor"]["pid"])
    go.touch()

    def dropped() -> dict[str, int]:
        found: dict[str, int] = instance.status()["groups"][0]["workers"][0]["dropped"]
        return found

    wait_for(lambda: sum(dropped().values()) == 1000)
    assert dropped() == {"quarantine": 64, "quarantine_full": 936}
    (pool,) = instance.audit()["pools"]
    assert (pool["quarantine"], pool["unexplained"]) == (64, 0)


def test_the_command(instance: Run, packets: list[Packet]) -> None:
    sent = poisoned(packets[:2000], 500)
    save(instance.folder / "wan.in.pcap", sent)
    instance.start(pcap_port() + IO + group("crash", 1, MATCH, more=spares(1)))
    wait_for(lambda: json.loads(instance.do("quarantine", "list", "-o", "json").stdout)["packets"])
    text = instance.do("quarantine").stdout
    assert "poison" in text and "SIGSEGV" in text
    shown = json.loads(run("quarantine", "show", "1", "-n", instance.name, "-o", "json").stdout)
    assert shown["number"] == 1
    assert frame_of(shown) == sent[500].frame
    text = run("quarantine", "show", "1", "-n", instance.name, check=True).stdout
    assert "two workers" in text and "#0 " in text and shown["file"] in text
    wait_for(lambda: "death 2 with the same packet in hand" in instance.do("events").stdout)
    missing = run("quarantine", "show", "7", "-n", instance.name)
    assert missing.returncode == 4 and "no packet 7" in missing.stderr
    instance.stop()
    folder = str(instance.folder / "quarantine")
    assert "poison" in run("quarantine", "list", "--dir", folder, check=True).stdout
