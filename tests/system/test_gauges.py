# SPDX-License-Identifier: BSD-3-Clause
"""Gauges, which end with their process, and drops by policy, which speak against no version."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Run
from jobs import IO, LOSSLESS, build, group, pcap_port
from traffic import flows, mix, save
from versions import ANY, many, plugin, start

pytestmark = pytest.mark.beside

PLUGIN = """
#include "dpsup_plugin.h"

enum { SEEN, LEVEL };
static const char *const counters[] = { "seen", "level", NULL };
static const char *const reasons[] = { "runt", "rule", NULL };
static const struct dps_env *env;

static int init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	env->counters[SEEN]++;
	env->counters[LEVEL] = (uint64_t)-3 - env->worker;
	return env->counters[SEEN] % 2 ? dps_drop(1) : dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "level", .init = init, .packet = packet, .counters = counters,
	.reasons = reasons, .policy = 1u << 1, .gauges = 1u << LEVEL,
};
"""


def test_a_gauge_ends_with_its_process(instance: Run) -> None:
    save(instance.folder / "wan.in.pcap", mix(flows(2), 1000, seed=7))
    path = build(instance.folder, PLUGIN)
    instance.start(pcap_port() + IO + group(str(path), 1, more=LOSSLESS + "spares = 1\n"))
    instance.until(lambda s: s["ports"][0]["rx_packets"] == 1000 and not s["in_flight"])
    worker = instance.worker("fw/0")
    assert (worker["counters"], worker["gauges"]) == ({"seen": 1000}, {"level": -3})
    assert worker["dropped"] == {"rule": 500} and worker["dropped_policy"] == 500
    assert "fw/0 level: -3" in instance.do("stats").stdout
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    worker = instance.worker("fw/0")
    assert (worker["counters"], worker["gauges"]) == ({"seen": 1000}, {"level": 0})
    assert worker["dropped_policy"] == 500


def test_a_version_that_drops_more_by_policy_is_accepted(instance: Run, tmp_path: Path) -> None:
    # What is dropped is judged, not how long a packet takes on a busy machine.
    drops = "if (seen % 4) return dps_drop(1);"
    one = plugin(tmp_path, 1, reasons='"picky", "rule"')
    bad = plugin(tmp_path, 2, drops, reasons='"picky", "rule"', policy=1)
    good = plugin(tmp_path, 3, drops, reasons='"picky", "rule"', policy=2)
    job = start(instance, many(100_000), one, count=1, args="cycles = 600000")
    job.until_sent(2000)
    doc = job.instance.rollout("fw", bad, judge=0.4, slower=ANY)
    assert doc["phase"] == "undone" and "it drops" in doc["why"], doc
    doc = job.instance.rollout("fw", good, judge=0.4, slower=ANY)
    assert doc["phase"] == "done", doc
    job.instance.stop()
