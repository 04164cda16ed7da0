# SPDX-License-Identifier: BSD-3-Clause
"""Plugins that steer by a hash of their own: to their own group and to another one, once, in order,
with the state of the bucket that they say."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from harness import Run, wait_for
from jobs import IO, LOSSLESS, Job, accounted, build, group, pcap_port
from traffic import compare, read_pcap, save
from versions import many

from dpsup.errors import DpsupError

pytestmark = [pytest.mark.system, pytest.mark.beside]

# Each flow has a bucket of its own, and its next number in that bucket's state. A number that comes
# twice or too early is dropped, and so is a packet that came elsewhere. DIES: whether the process
# ends here.
OWN = """
#include <dpsup_plugin.h>
#include <signal.h>

static const struct dps_env *env;

struct bucket { uint64_t next, visitors; };

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

static inline void
die(void)
{
	if (__builtin_ia32_rdtsc() / 16 % 1024 == 0 && DIES)
		raise(SIGKILL);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	uint32_t want = 7 + p->data[28] * 8;        /* of the flow; others have no packet in it */
	uint64_t number;

	(void)state;
	memcpy(&number, p->data + p->len - 8, 8);
	number = __builtin_bswap64(number);
	if (dps_bucket(p->hash) != want) {
		if (p->data[1] != 0)
			return dps_drop(1);
		dps_touch(&b->visitors, sizeof(b->visitors));
		b->visitors++;
		p->data[1] = 0x77;
		die();
		return dps_on_hash(env->group_index, want | 0x12345 << 9);
	}
	if (p->data[1] == 0)            /* it was there already */
		p->data[1] = 0x77;
	if (b->next != number)
		return dps_drop(0);
	die();
	dps_touch(&b->next, sizeof(b->next));
	b->next++;
	die();
	p->data[0] = 0x42;
	return dps_out(p->port);
}

static const char *const reasons[] = { "not_next", "elsewhere", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "own", .needs = DPS_PLUGIN_HASH, .rewrites = 2, .init = init,
	.packet = packet, .reasons = reasons, .bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
};
"""


@pytest.mark.parametrize(("dies", "ring"), [("0", 1024), ("1", 256)])
def test_to_another_bucket_of_its_own_group(
    instance: Run, tmp_path: Path, dies: str, ring: int
) -> None:
    """Buckets move while packets are sent into them, workers die in the middle of packets and give
    them back; a group that is full of its own packets does not wait for itself."""
    packets = many(12_000)
    plugin = str(build(tmp_path, f"#define DIES {dies}\n{OWN}"))
    save(instance.folder / "wan.in.pcap", packets)
    more = LOSSLESS + f"ring = {ring}\nbucket_state = 64\n"
    job = Job(instance, IO + pcap_port() + group(plugin, 2, most=3, more=more))
    for at, workers in ((2000, 3), (4000, 1), (7000, 2), (9000, 3)):
        job.until_sent(at)
        with contextlib.suppress(DpsupError):
            job.instance.scale("fw", workers, wait=False)
    accounted(job.end(len(packets)), len(packets))
    sent = read_pcap(instance.folder / "wan.out.pcap")
    compare(packets, sent, lambda frame: b"\x42\x77" + frame[2:])


# The first group has one worker that needs no hash, and says a bucket by the packet's number; the
# second one says the next bucket, and then some packets say it again. Some are for the kernel.
FIRST = """
#include <dpsup_plugin.h>

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint8_t number = p->data[p->len - 1];

	(void)state;
	if (number % 8 == 0)
		return dps_punt();
	p->data += 14;
	p->len -= 14;
	return dps_on_hash(1, number * 6u);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "first", .packet = packet,
};
"""
SECOND = """
#include <dpsup_plugin.h>

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint8_t number = p->data[p->len - 1];
	uint64_t *count = (uint64_t *)p->bucket_state;

	(void)state;
	dps_touch(count, sizeof(*count));
	++*count;
	if (dps_bucket(p->hash) == number * 6u)
		return dps_on_hash(1, number * 6u + 1);
	if (dps_bucket(p->hash) != number * 6u + 1)
		return dps_drop(0);
	return number % 8 == 1 ? dps_on_hash(1, number * 6u) : dps_out(p->port);
}

static const char *const reasons[] = { "elsewhere", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "second", .needs = DPS_PLUGIN_HASH, .packet = packet,
	.reasons = reasons, .bucket_state_size = 8, .state_version = 1,
};
"""


def test_to_another_group_and_no_further_than_once(instance: Run, tmp_path: Path) -> None:
    """Also with another start. Each of the second group's buckets has seen its packets."""
    (tmp_path / "2").mkdir()
    packets = many(4000)
    numbers = [p.frame[-1] for p in packets]
    assert max(numbers) * 6 < 511
    save(instance.folder / "wan.in.pcap", packets)
    second = group(str(build(tmp_path / "2", SECOND)), 2, more=LOSSLESS + "bucket_state = 64\n")
    second = second.replace('"fw"', '"second"').replace('["wan"]', "[]")
    job = Job(instance, IO + pcap_port() + group(str(build(tmp_path, FIRST)), 1) + second)
    punted = sum(n % 8 == 0 for n in numbers)
    twice = sum(n % 8 == 1 for n in numbers)
    wait_for(lambda: job.instance.stats()["account"]["received"] == len(packets))
    wait_for(lambda: job.instance.stats()["account"]["in_flight"] == 0)
    workers = [w for g in job.instance.status()["groups"] for w in g["workers"]]
    doc = job.end(len(packets))
    assert {k: n for k, n in doc["dropped"].items() if n} == {
        "no_kernel": punted, "steered_twice": twice
    }  # fmt: skip
    assert doc["sent"] == len(packets) - punted - twice
    assert doc["lost"] == doc["in_flight"] == 0
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])
    assert workers[0]["on_hash"] == len(packets) - punted
    assert sum(w["on_hash"] for w in workers[1:]) == len(packets) - punted
    assert min(w["rx_packets"] for w in workers) > 0
    left = sorted(p.frame[14:] for p in packets if p.frame[-1] % 8 > 1)
    assert sorted(read_pcap(instance.folder / "wan.out.pcap")) == left


# Dear, so that its lane is full.
TURNS = """
#include <dpsup_plugin.h>

static const struct dps_env *env;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	for (volatile int i = 0; i < 2000; i++)
		;
	if (dps_bucket(p->hash) != 7)
		return dps_on_hash(env->group_index, 7);
	env->counters[0]++;
	return dps_drop(0);
}

static const char *const counters[] = { "arrived", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "turns", .needs = DPS_PLUGIN_HASH, .init = init, .packet = packet,
	.counters = counters,
};
"""


def test_in_a_full_lane_they_come_before_what_rx_brings(instance: Run, tmp_path: Path) -> None:
    """What rx left no room for was dropped, each time, exactly under load."""
    save(instance.folder / "in.pcap", many(200))
    port = '[[ports]]\nname = "wan"\nvdev = "net_pcap_wan,rx_pcap=in.pcap,infinite_rx=1"\n'
    plugin = str(build(tmp_path, TURNS))
    instance.start(IO + port + group(plugin, 1, more='on_full = "drop"\n'))

    def overloaded() -> bool:
        w = instance.worker("fw/0")
        return w["dropped"].get("lane_full", 0) > 10_000 and w["counters"]["arrived"] > 10_000

    wait_for(overloaded)
    instance.stop()
