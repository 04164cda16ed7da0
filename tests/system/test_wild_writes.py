# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that writes where it must not, in the memory that it shares with the primary: what is
noticed, by what, and what it costs. Its bytes and other mbufs' headers are not among it."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Run, wait_for
from jobs import FREE, IO, LOSSLESS, Job, accounted, build, death_events, group, out, pcap_port
from traffic import Packet, compare, flows, mix, save
from wild import WILD

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]


@pytest.fixture
def packets() -> list[Packet]:
    return mix(flows(), 10_000, seed=31)


def wild(instance: Run, packets: list[Packet], act: str, count: int = 2) -> Job:
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, WILD.replace("%s", act))
    more = LOSSLESS + 'spares = 1\nhealth = { stall_after = "60s" }\n' + FREE
    args = f'once = "{instance.folder}/once"'
    return Job(instance, pcap_port() + IO + group(str(plugin), count, args, more=more))


def first_death(job: Job) -> dict[str, Any]:
    wait_for(lambda: job.instance.status()["recovery"]["deaths"] == 1)
    (death,) = wait_for(lambda: death_events(job))
    return death


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "act",
    [
        "for (;;)\n\t\tdps_store32(&lane->done, lane->sent + 1000);",
        "dps_store32(&lane->done, lane->sent + 1000); kill(getpid(), SIGKILL);",
    ],
    ids=["while it lives", "as it dies"],
)
def test_more_handed_back_than_was_lent(instance: Run, packets: list[Packet], act: str) -> None:
    """The io core and the warden go by what was lent: the lane is isolated, its worker ended, what
    it had is given up by name, and nothing else is touched."""
    job = wild(instance, packets, act)
    death = first_death(job)
    found = wait_for(lambda: [e for e in job.events() if e["type"] == "corrupt"])
    assert {e["name"] for e in found} == {death["name"]}
    assert death["repaired"]["corrupt"] == 1
    wait_for(lambda: job.instance.status()["state"] == "running")
    assert job.instance.audit()["pools"][0]["unexplained"] == 0
    doc = job.end(len(packets))
    given_up = doc["dropped"]["corrupt"]
    assert 0 < given_up < 1024
    accounted(doc, len(packets), dropped=given_up)
    assert doc["deaths"] == 1
    compare(packets, out(instance), missing=given_up)


@pytest.mark.fault(33)
def test_descriptors_are_put_right(instance: Run, packets: list[Packet]) -> None:
    """Whoever follows one crashes, and what else is in the lane is as the io core wrote it."""
    act = """
	uint32_t full;

	// Until the lane is as full as it gets: what is lent later is none of what is overwritten.
	do {
		full = lane->sent;
		usleep(20000);
	} while (full != lane->sent);
	for (uint32_t i = lane->done; i != full; i++) {
		uint64_t *word = &dps_lane_words(lane)[dps_word_at(scatter, slot->ring - 1, i)];

		if (!dps_word_is_done(*word))
			*word = 0x4141414141414141;
	}
"""
    job = wild(instance, packets, act, 1)
    death = first_death(job)
    assert death["how"] == "SIGSEGV"
    assert death["repaired"]["mended"] == death["repaired"]["left"] > 1
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] == 1
    compare(packets, out(instance))


@pytest.mark.parametrize(
    ("act", "how"),
    [
        # Not a burst of this lane: nobody can say which packet was in hand.
        ("slot->hand = 0x4141414141414141; __builtin_trap();", "SIGILL"),
        ("slot->hand = dps_undo_stamp(0, lane->done + 65); __builtin_trap();", "SIGILL"),
        # A fatal signal that is none, and a death by another.
        (
            "me->signal = 0x41414141; me->n_frames = me->signal; kill(getpid(), SIGKILL);",
            "SIGKILL",
        ),
        ("me->signal = 0x7f; kill(getpid(), SIGKILL);", "SIGKILL"),
    ],
    ids=["hand", "hand beyond a burst", "signal", "no signal"],
)
def test_evidence_that_is_none(instance: Run, packets: list[Packet], act: str, how: str) -> None:
    job = wild(instance, packets, act, 1)
    death = first_death(job)
    assert death["how"] == how
    assert "blamed" not in death
    assert ("backtrace" in death) == (how == "SIGILL")
    accounted(doc := job.end(len(packets)), len(packets))
    assert doc["deaths"] == 1
    compare(packets, out(instance))


def test_a_thread_of_a_dead_worker_writes_on(instance: Run, packets: list[Packet]) -> None:
    """The data thread is gone, which lets the repair begin; until the whole process is, another
    thread of it moves the lane's index under the repair's hands."""
    act = """
	void *flip(void *at)
	{
		uint32_t was = *(uint32_t *)at;

		while (dps_load32(&me->signal) == 0)
			;
		for (uint32_t i = 0;; i++)
			dps_store32(at, i % 16 ? was : was + 0x80000000u);
		return NULL;
	}
	pthread_t thread;

	pthread_create(&thread, NULL, flip, &lane->done);
	usleep(1000);
	__builtin_trap();
"""
    job = wild(instance, packets, act, 1)
    assert first_death(job)["how"] == "SIGILL"
    wait_for(lambda: job.instance.status()["state"] == "running")
    assert job.instance.status()["generation"] == 1
    assert job.instance.audit()["pools"][0]["unexplained"] == 0
    doc = job.end(len(packets))
    given_up = sum(doc["dropped"].values())
    assert given_up < 1024
    accounted(doc, len(packets), dropped=given_up)
    # Which of them, and in what order the others came, is the wild thread's to say.
    assert len(list(out(instance))) == len(packets) - given_up
