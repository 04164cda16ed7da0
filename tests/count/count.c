// SPDX-License-Identifier: BSD-3-Clause
//
// Packets through the real loops of an io core and its workers, all in this one thread, turn by
// turn: io core, each worker, io core, ... So nothing waits, nothing races, and callgrind counts
// the same instructions each time. Without hugepages, devices or root.
//
//     count                   prints the cases
//     count CASE TURNS        runs one
//
// Makes everything as dpsup/primary/layout.py does, warms up, runs TURNS turns in measure(), which is what
// callgrind is told to collect, and prints what it was built with and the packets of these turns.
// Valgrind knows neither AVX-512 nor GFNI; the CPUID that it shows has neither, so EAL, its drivers
// and libc choose code without them. The code here is built for what DPDK's own flags say.

#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_tcp.h>
#include <rte_version.h>

#include "loop.h"
#include "primary.h"
#include "worker.h"

#define MAP "map.wan\0lan\0map.lan\0wan"

enum {
	HASH_TURNS = 200,
	WARM_TURNS = 200,       // the rings' first lap, and the pool's cache filled
	GROUPS_MOST = 2,
	PORTS = 2,
	RING = 1024,            // as the topology file has it by default
	BURST = 32,
	MBUFS = 1023,
	SOURCE = 12             // the source address in an IPv4 header
};

static uint32_t ip_at = sizeof(struct rte_ether_hdr);

// On to the second group.
static uint16_t
on_packet(void *state, struct dps_packet *packet)
{
	(void)state;
	(void)packet;
	return dps_on(1);
}

// Each packet out of a port of its own: no two verdicts in a row need be the same.
static uint16_t
split_packet(void *state, struct dps_packet *packet)
{
	(void)state;
	return dps_out(packet->data[ip_at + SOURCE + 3] % PORTS);
}

// Asks for all that does not fit into a lane's word, and looks at it.
static uint16_t
ask_packet(void *state, struct dps_packet *packet)
{
	(void)state;
	if (packet->hash == 0 || packet->tsc == 0 || (packet->has_vlan && packet->vlan == 0))
		return dps_quarantine();
	return dps_out(packet->port ^ 1);
}

static const struct dps_plugin plugin_on = {
	DPS_PLUGIN_HEAD,
	.name = "on",
	.needs = DPS_PLUGIN_NO_BYTES,
	.packet = on_packet,
};

static const struct dps_plugin plugin_split = {
	DPS_PLUGIN_HEAD,
	.name = "split",
	.packet = split_packet,
};

static const struct dps_plugin plugin_ask = {
	DPS_PLUGIN_HEAD,
	.name = "ask",
	.needs = DPS_PLUGIN_VLAN | DPS_PLUGIN_TIMESTAMP | DPS_PLUGIN_HASH,
	.packet = ask_packet,
};

struct count_case {
	const char *name;
	uint32_t n_groups;
	struct count_group {
		const char *builtin;
		const struct dps_plugin *own;
		uint32_t slots;
	} group[GROUPS_MOST];
};

static const struct count_case cases[] = {
	{ "lone-forward", 1, { { .builtin = "forward", .slots = 1 } } },
	{ "lone-macswap", 1, { { .builtin = "macswap", .slots = 1 } } },
	{ "lone-sink", 1, { { .builtin = "sink", .slots = 1 } } },
	{ "lone-split", 1, { { .own = &plugin_split, .slots = 1 } } },
	{ "hashed-forward", 1, { { .builtin = "forward", .slots = 4 } } },
	{ "chain", 2, { { .own = &plugin_on, .slots = 1 }, { .builtin = "forward", .slots = 1 } } },
	{ "meta", 1, { { .own = &plugin_ask, .slots = 1 } } },
};

static struct loop loops[DPS_MAX_SLOTS];
static uint32_t n_loops;

static int
need(const char *what, int ret)
{
	if (ret >= 0)
		return ret;
	fprintf(stderr, "%s: %s\n", what, dps_strerror(-ret));
	exit(1);
}

// --- packets -------------------------------------------------------------------------------------

struct headers {
	struct rte_ether_hdr ether;
	struct rte_vlan_hdr tag;
	struct rte_ipv4_hdr ip;
	struct rte_tcp_hdr tcp;
};

// net_null neither writes nor reads the bytes of packets: they are as they were left in the mbufs.
static void
write_packet(struct rte_mempool *pool, void *tagged, void *object, unsigned int index)
{
	struct rte_mbuf *m = object;
	struct headers h = {
		.ether.ether_type = RTE_BE16(RTE_ETHER_TYPE_IPV4),
		.tag.eth_proto = RTE_BE16(RTE_ETHER_TYPE_IPV4),
		.tag.vlan_tci = rte_cpu_to_be_16(1 + index),
		.ip.version_ihl = 0x45,
		.ip.next_proto_id = IPPROTO_TCP,
		.ip.dst_addr = rte_cpu_to_be_32(0xc0000201),
		.tcp.src_port = rte_cpu_to_be_16(1024 + index),
		.tcp.dst_port = RTE_BE16(443),
	};
	uint8_t *p = (uint8_t *)m->buf_addr + RTE_PKTMBUF_HEADROOM;

	(void)pool;
	memset(h.ether.dst_addr.addr_bytes, 2, 6);
	memset(h.ether.src_addr.addr_bytes, 4, 6);
	if (*(bool *)tagged) {
		h.ether.ether_type = RTE_BE16(RTE_ETHER_TYPE_VLAN);
		memcpy(p + sizeof(h.ether), &h.tag, sizeof(h.tag));
	}
	memcpy(p, &h.ether, sizeof(h.ether));
	memcpy(p + ip_at, &h.ip, sizeof(h.ip) + sizeof(h.tcp));
}

// Another flow in each mbuf. The few that circulate come back in the order in which they were sent,
// so with flows of their own they would soon come sorted by lane and port.
static void
write_source(struct rte_mempool *pool, void *arg, void *object, unsigned int index)
{
	struct rte_mbuf *m = object;
	uint32_t *random = arg;

	(void)pool;
	(void)index;
	*random = *random * 1664525 + 1013904223;
	memcpy((uint8_t *)m->buf_addr + RTE_PKTMBUF_HEADROOM + ip_at + SOURCE, random,
	       sizeof(*random));
}

// --- set-up --------------------------------------------------------------------------------------

static void
start_eal(void)
{
	char lcores[32];
	char *argv[] = { "count",    "--no-huge",      "-m",	   "64",  "--no-shconf",
			 "--no-pci", "--no-telemetry", "--lcores", lcores };
	cpu_set_t set;
	int cpu = 0;

	need("sched_getaffinity", sched_getaffinity(0, sizeof(set), &set));
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	snprintf(lcores, sizeof(lcores), "0@%d", cpu);
	need("eal_start", dps_eal_start(RTE_DIM(argv), argv));
}

static void
make_port(const char *name, const char *device)
{
	struct dps_port_conf conf = {
		.rx_desc = 1024,
		.tx_desc = 1024,
		.rx_free = -1,
		.rx_drop = -1,
		.tx_free = -1,
		.mtu = 1500,
		.rss_types = DPS_RSS_IPV4 | DPS_RSS_IPV6 | DPS_RSS_TCP | DPS_RSS_UDP,
		.key_len = 40,
	};
	char why[DPS_TEXT];
	int port;

	for (int i = 0; i < 40; i += 2) {
		conf.key[i] = 0x6d;
		conf.key[i + 1] = 0x5a;
	}
	snprintf(conf.name, sizeof(conf.name), "%s", name);
	snprintf(conf.device, sizeof(conf.device), "%s", device);
	snprintf(conf.vdev, sizeof(conf.vdev), "%s", device);
	port = need(why, dps_port_create(&conf, 1, why));
	need("ctl_port", dps_ctl_port(port, name));
	need("port_start", dps_port_start(port));
	need("hash_conf", dps_hash_conf(conf.key, conf.key_len, conf.rss_types));
}

static void
make_group(uint32_t index, const struct count_group *group, uint32_t first_slot)
{
	struct dps_group_conf conf = {
		.first_slot = first_slot,
		.max = group->slots,
		.ring = RING,
		.version[0] = { .builtin = 1, .n_args = 2, .args = MAP },
	};

	memset(conf.next, 0xff, sizeof(conf.next));
	snprintf(conf.name, sizeof(conf.name), "group%u", index);
	snprintf(conf.version[0].plugin, sizeof(conf.version[0].plugin), "%s",
		 group->own ? group->own->name : group->builtin);
	need("ctl_group", dps_ctl_group(index, &conf));
}

static void
seat_worker(uint32_t index, const struct count_group *group)
{
	struct dps_slot *slot = the_primary.slot[index];
	struct dps_sitter *sitter = &the_primary.sitter[index];
	const struct dps_plugin *plugin = group->own;
	void *state = NULL;

	sitter->group = slot->group;
	sitter->slot = index;
	if (plugin != NULL) {
		slot->facts.needs = plugin->needs;
	} else if (plugin_load(the_primary.ctl, &the_primary.ctl->view, sitter, &plugin, &state) != 0) {
		fprintf(stderr, "%s: %s\n", group->builtin, sitter->error);
		exit(1);
	} else {
		slot->facts = sitter->facts;
	}
	loop_init(&loops[n_loops++], the_primary.ctl->base, slot, plugin, state);
	need("io_lane", dps_io_lane(index));
}

static void
set_up(const struct count_case *c)
{
	struct dps_pool_conf pool = {
		.name = "default", .mbufs = MBUFS, .data_room = 2176, .cache = 256, .numa = -1
	};
	bool tagged = c->group[0].own == &plugin_ask; // for a VLAN tag to be there to tell of
	uint32_t slot = 0;

	start_eal();
	if (tagged)
		ip_at += sizeof(struct rte_vlan_hdr);
	need("pool_create", dps_pool_create(&pool));
	rte_mempool_obj_iter(the_primary.pool[0], write_packet, &tagged);
	need("ctl_create", dps_ctl_create(1, 1));
	make_port("wan", "net_null0");
	make_port("lan", "net_null1");
	for (uint32_t g = 0; g < c->n_groups; g++) {
		make_group(g, &c->group[g], slot);
		slot += c->group[g].slots;
	}
	slot = 0;
	for (uint32_t g = 0; g < c->n_groups; g++)
		for (uint32_t i = 0; i < c->group[g].slots; i++)
			need("slot_create", dps_slot_create(slot++, g, i));
	need("io_create", dps_io_create(0, rte_get_main_lcore(), BURST, 0));
	need("ctl_publish", dps_ctl_publish());
	slot = 0;
	for (uint32_t g = 0; g < c->n_groups; g++) {
		uint8_t map[DPS_BUCKETS];

		for (uint32_t i = 0; i < c->group[g].slots; i++)
			seat_worker(slot++, &c->group[g]);
		for (uint32_t b = 0; b < DPS_BUCKETS; b++)
			map[b] = b % c->group[g].slots;
		need("io_map", dps_io_map(g, map, DPS_BUCKETS, DPS_EMPTY_HOLD));
	}
	need("io_rx", dps_io_rx(1));
}

// --- turns ---------------------------------------------------------------------------------------

static void
run_turns(uint32_t turns)
{
	static uint32_t random = 1;

	for (uint32_t i = 0; i < turns; i++) {
		rte_mempool_obj_iter(the_primary.pool[0], write_source, &random);
		io_turn(the_primary.io[0]);
		for (uint32_t k = 0; k < n_loops; k++)
			loop_turn(&loops[k]);
	}
}

static void __rte_noinline
measure(uint32_t turns)
{
	run_turns(turns);
}

static uint64_t
received(void)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < PORTS; i++)
		n += the_primary.io[0]->port[i].rx_packets;
	return n;
}

// Where all that was received must be: sent, dropped by a verdict, or on its way.
static uint64_t
known(void)
{
	struct io *io = the_primary.io[0];
	uint64_t n = 0;

	for (uint32_t i = 0; i < PORTS; i++)
		n += io->port[i].tx_packets + io->tx[i].head - io->tx[i].tail;
	for (uint32_t i = 0; i < n_loops; i++)
		n += io->lane[i].stats.dropped[0] + lane_out(&io->lane[i]);
	return n;
}

// Whoever gets an answer may go on to hand back all that a dead worker had: none of it may still wait
// to be published, in whatever turn it asked.
static bool
answers_leave_nothing(void)
{
	struct io *io = the_primary.io[0];

	for (uint32_t i = 0; i < 16; i++) {
		io->op = OP_NONE;
		io->asked++;
		io_turn(io);
		for (uint32_t k = 0; k < n_loops; k++) {
			if (io->answered != io->asked || io->lane[k].sent != io->lane[k].published)
				return false;
			loop_turn(&loops[k]);
		}
	}
	return true;
}

// A NIC that hashes, each hash wrong by *error.
static uint16_t
hash_by_nic(uint16_t port, uint16_t queue, struct rte_mbuf **m, uint16_t n, uint16_t most, void *error)
{
	(void)port;
	(void)queue;
	(void)most;
	for (uint16_t i = 0; i < n; i++) {
		m[i]->hash.rss = hash_flow(rte_pktmbuf_mtod(m[i], const uint8_t *), m[i]->data_len) +
				 *(uint32_t *)error;
		m[i]->ol_flags |= RTE_MBUF_F_RX_RSS_HASH;
	}
	return n;
}

// The hashes of a NIC's first packets are compared, and used only where none differs.
static const char *
nic_hashes(void)
{
	static uint32_t error[PORTS] = { 0, 1 };
	const struct rte_eth_rss_conf *rss;
	struct io *io = the_primary.io[0];
	struct rte_eth_conf eth;
	uint64_t seen;

	for (uint32_t i = 0; i < PORTS; i++) {
		struct port *port = &the_primary.port[i];

		// A driver sets the key whenever it starts: it must still be there.
		if (rte_eth_dev_conf_get(port->id, &eth) != 0)
			return "no configuration";
		rss = &eth.rx_adv_conf.rss_conf;
		if (rss->rss_key_len < 40 || rss->rss_key[0] != 0x6d || rss->rss_key[39] != 0x5a)
			return "its key is gone";
		if (rte_eth_add_rx_callback(port->id, 0, hash_by_nic, &error[i]) == NULL)
			return "no callback";
		port->hashes = DPS_HASHES_COMPARED;
		port->odd_flags |= RTE_MBUF_F_RX_RSS_HASH;
	}
	if (dps_port_hashes(0) != DPS_HASHES_COMPARED)
		return "decided without a packet";
	run_turns(HASH_TURNS);
	if (io->checked[0].seen < HASH_TURNS || io->checked[0].differ != 0 ||
	    io->checked[1].differ != io->checked[1].seen)
		return "not compared";
	if (the_primary.port[0].hw_rss || the_primary.port[1].hw_rss)
		return "used before it was decided";
	if (dps_port_hashes(0) != DPS_HASHES_USED || !the_primary.port[0].hw_rss)
		return "not used";
	if (dps_port_hashes(1) != DPS_HASHES_DIFFER || the_primary.port[1].hw_rss)
		return "wrong hashes are used";
	seen = io->checked[0].seen;
	run_turns(HASH_TURNS);
	return io->checked[0].seen == seen ? NULL : "compared for good";
}

int
main(int argc, char **argv)
{
	const char *wrong;
	const struct count_case *c = NULL;
	uint64_t before, counted;

	for (size_t i = 0; i < RTE_DIM(cases); i++)
		if (argc == 1)
			printf("%s\n", cases[i].name);
		else if (strcmp(cases[i].name, argv[1]) == 0)
			c = &cases[i];
	if (argc == 1)
		return 0;
	if (c == NULL || argc != 3) {
		fprintf(stderr, "usage: count [CASE TURNS]\n");
		return 2;
	}
	set_up(c);
	run_turns(WARM_TURNS);
	before = received();
	measure(atoi(argv[2]));
	if (known() != received()) {
		fprintf(stderr, "%s: %" PRIu64 " packets received, %" PRIu64 " accounted for\n",
			c->name, received(), known());
		return 1;
	}
	if (!answers_leave_nothing()) {
		fprintf(stderr, "%s: answered before all was published\n", c->name);
		return 1;
	}
	counted = received() - before;
	wrong = nic_hashes();
	if (wrong != NULL) {
		fprintf(stderr, "%s: hashes of a NIC: %s\n", c->name, wrong);
		return 1;
	}
#ifdef __clang__
	printf("toolchain clang%d", __clang_major__);
#else
	printf("toolchain gcc%d", __GNUC__);
#endif
	printf(" dpdk%d.%02d\n", RTE_VER_YEAR, RTE_VER_MONTH);
	printf("packets %" PRIu64 "\n", counted);
	return 0;
}
