# SPDX-License-Identifier: BSD-3-Clause
"""What a plugin learns: its ports and their links, who has which bucket, where a flow lands, the
time. All of it while packets flow."""

from __future__ import annotations

import os
from typing import Any

import pytest
from harness import Run
from jobs import build
from netns import sh
from system.test_port_trouble import veth
from traffic import flows, mix, save

pytestmark = pytest.mark.beside

# Says in its counters what it sees in `env`; `wrong` must stay 0.
TELLS = """
#include "dpsup_plugin.h"

enum { UP, MTU, MAC_END, NUMA, VERSIONS, OWNED, WORKERS, PLACES, HASHED, WRONG, ASTRAY };
static const char *const names[] = { "up", "mtu", "mac_end", "numa", "versions", "owned", "workers",
				"places", "hashed", "wrong", "astray", NULL };
static const struct dps_env *env;
static uint64_t version, before, packets;

static int init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	before = e->now;
	if (*e->ports_version == 0 || strcmp(e->port_names[0], "wan") != 0 || e->now == 0 ||
	e->hash_key_len < 40 || strcmp(e->group_names[e->group_index], e->group) != 0)
		return -1;
	return 0;
}

// A spare has waited meanwhile.
static void seated(void *state, const struct dps_env *e)
{
	(void)state;
	if (e->now <= before)
		env->counters[WRONG]++;
	before = e->now;
}

static void check_flow(const struct dps_packet *p)
{
	const uint8_t *ip = p->data + 14;
	struct dps_tuple t = { .version = 4, .protocol = ip[9] };
	uint32_t hash;

	if (p->len < 38 || p->data[12] != 8 || p->data[13] != 0 || ip[0] != 0x45)
		return;
	t.fragment = (ip[6] & 0x3f) != 0 || ip[7] != 0;
	memcpy(t.from, ip + 12, 4);
	memcpy(t.to, ip + 16, 4);
	memcpy(&t.from_port, ip + 20, 2);
	memcpy(&t.to_port, ip + 22, 2);
	hash = dps_hash_of(env, &t);
	if (hash != p->hash)
		env->counters[WRONG]++;
	// While a bucket moves its packets are still the old owner's, also of one that died.
	if (packets < 1000 && !dps_owns(env, dps_bucket(hash)))
		env->counters[ASTRAY]++;
	env->counters[HASHED]++;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint16_t buckets[DPS_PLUGIN_BUCKETS];
	const struct dps_group_facts *mine = &env->groups[env->group_index];

	(void)state;
	if (env->now < before)
		env->counters[WRONG]++;
	before = env->now;
	if (*env->ports_version != version) {
		version = *env->ports_version;
		env->counters[VERSIONS]++;
		env->counters[UP] = env->ports[1].up;
		env->counters[MTU] = env->ports[1].mtu;
		env->counters[MAC_END] = env->ports[1].mac[5];
		env->counters[NUMA] = env->ports[1].numa + 1;
	}
	env->counters[OWNED] = dps_buckets_of(env, env->group_index, env->worker, buckets);
	env->counters[WORKERS] = mine->workers;
	env->counters[PLACES] = mine->places;
	check_flow(p);
	packets++;
	return dps_drop(0);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "tells", .init = init, .packet = packet, .counters = names,
	.seated = seated,
	.needs = DPS_PLUGIN_HASH,
};
"""

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap=in.pcap,infinite_rx=1"
[[ports]]
name = "lan"
vdev = "net_af_packet0,iface={lan}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "{plugin}"
input = ["wan"]
count = 1
max = 3
on_full = "hold"
"""


def counters(instance: Run, worker: str = "fw/0") -> dict[str, int]:
    found: dict[str, Any] = instance.worker(worker)["counters"]
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="creates interfaces")
def test_a_plugin_learns_of_links_and_buckets(instance: Run) -> None:
    save(instance.folder / "in.pcap", mix(flows(4), 400, seed=3))
    name = f"dpsv{os.getpid() % 10000}"
    with veth(name):
        mac = sh("cat", f"/sys/class/net/{name}/address").stdout.strip()
        plugin = build(instance.folder, TELLS)
        instance.start(TOPOLOGY.format(plugin=plugin, lan=name))
        instance.until(lambda _: (now := counters(instance))["up"] == 1 and now["owned"] == 512)
        first = counters(instance)
        assert first["astray"] == 0  # no bucket has moved yet
        assert first["mtu"] == 1500 and first["mac_end"] == int(mac[-2:], 16)
        assert (first["owned"], first["workers"], first["places"]) == (512, 1, 3)
        sh("ip", "link", "set", name, "down")
        instance.until(lambda _: counters(instance)["up"] == 0)
        sh("ip", "link", "set", name, "up")
        instance.until(lambda _: counters(instance)["up"] == 1)
        assert counters(instance)["versions"] >= first["versions"] + 2
        instance.do("scale", "fw", "2")
        for worker in ("fw/0", "fw/1"):
            instance.until(lambda _, w=worker: counters(instance, w)["workers"] == 2)
            instance.until(lambda _, w=worker: counters(instance, w)["owned"] == 256)
        instance.do("kill", "fw/0")
        instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
        for worker in ("fw/0", "fw/1"):
            instance.until(lambda _, w=worker: counters(instance, w)["hashed"] > 100)
            assert counters(instance, worker)["wrong"] == 0
