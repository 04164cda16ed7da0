/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * route: forwards IPv4 and IPv6 by live tables, as a router does. docs/functions/route.md is its page.
 *
 *     [[workers]]
 *     plugin = "route"
 *     state = "auto"
 *     tables = { routes = { kind = "ipv4", value = "hop", entries = "1M" }, ... }
 *
 * What it decides, it decides from the packet and the tables; look has fetched the route and its next hop
 * before. What is for the kernel (the router's own addresses, ARP, neighbour discovery, options) is punted.
 * Only the limit of ICMP errors and the counters of next hops are state, each change of which is touched
 * before: a packet that is run once more after a kill counts once, and its error leaves once.
 */
#include <arpa/inet.h>
#include <stdio.h>

#include <dpsup_plugin.h>
#include <dpsup_table_array.h>
#include <dpsup_table_exact.h>
#include <dpsup_table_lpm.h>

#include "arguments.h"
#include "flow.h"
#include "icmp.h"

enum {
	CHANGES = ETHER + 12,   /* MAC addresses, TTL or hop limit, the IPv4 header's checksum */
	MOST_PORTS = 256,
	WAYS = 16,              /* of an `ecmp` record */
	COUNTED = 511,          /* next hops that are counted: 8 KiB, as much as `dpsup state` shows */
};

/* Values of the types `hop` and `ways`: dpsup/tables/fields.py. */
#define TO_ECMP 0x80000000u
#define TO_LOCAL 0xfffffff0u
#define TO_BLACKHOLE 0xfffffff1u
#define TO_UNREACHABLE 0xfffffff2u
#define TO_PROHIBITED 0xfffffff3u

enum reason {
	BAD_HEADER, BAD_CHECKSUM, NOT_OURS, LINK_BROADCAST, MARTIAN, NO_ROUTE, NO_HOP, UNRESOLVED,
	TTL_EXPIRED, TOO_BIG, BLACKHOLE, UNREACHABLE, PROHIBITED, URPF,
};

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [BAD_CHECKSUM] = "bad_checksum", [NOT_OURS] = "not_ours",
	[LINK_BROADCAST] = "link_broadcast", [MARTIAN] = "martian", [NO_ROUTE] = "no_route",
	[NO_HOP] = "no_hop", [UNRESOLVED] = "unresolved", [TTL_EXPIRED] = "ttl_expired",
	[TOO_BIG] = "too_big", [BLACKHOLE] = "blackhole", [UNREACHABLE] = "unreachable",
	[PROHIBITED] = "prohibited", [URPF] = "urpf", NULL,
};

/* Punted for one of the first, and errors. */
enum counter {
	LOCAL, MULTICAST, NOT_IP, OPTIONS, TO_FRAGMENT, NO_NEIGHBOUR, ERRORS_SENT, ERRORS_LIMITED,
	ERRORS_NOT_SENT,
};

static const char *const counters[] = {
	[LOCAL] = "punted_local", [MULTICAST] = "punted_multicast", [NOT_IP] = "punted_not_ip",
	[OPTIONS] = "punted_options", [TO_FRAGMENT] = "punted_to_fragment",
	[NO_NEIGHBOUR] = "punted_no_neighbour", [ERRORS_SENT] = "icmp_errors_sent",
	[ERRORS_LIMITED] = "icmp_errors_limited", [ERRORS_NOT_SENT] = "icmp_errors_not_sent", NULL,
};

struct count {
	uint64_t packets;
	uint64_t bytes;
};

/* A worker's state. */
struct place {
	uint64_t errors_until;  /* when the errors that were sent would have been sent at their rate, in ns */
	uint64_t pad;
	struct count hop[COUNTED];
};

/* A record of the table `hops`: "port+mac". No MAC address: the destination is on the link. */
struct hop {
	uint16_t port;
	uint8_t mac[6];
};

/* Of a port, what the arguments say. */
struct port {
	uint8_t address[4];
	uint8_t address6[16];
	uint8_t has_address;
	uint8_t has_address6;
	uint8_t urpf;           /* 0, or one of these */
};
enum { STRICT = 1, LOOSE };

/* Where a packet goes. */
struct way {
	uint32_t hop;
	uint32_t port;
	uint8_t mac[6];
};
enum found { FOUND, FOUND_NO_HOP, FOUND_NO_NEIGHBOUR };

static const struct dps_env *env;
static const struct dps_live_table *routes[2], *neighbours[2], *hops, *ecmp;
static struct port ports[MOST_PORTS];
static uint64_t error_ns;       /* between two errors of a worker; 0: none is sent */
static uint64_t burst_ns;
static int counts_hops, drops_unresolved;

/* --- arguments and tables --------------------------------------------------------------------- */

/* A table of this shape, where the topology declares one of this name. */
static int
take(const struct dps_live_table **table, const char *name, uint32_t kind, uint32_t key, uint32_t value,
     const char *write)
{
	const struct dps_live_table *t = dps_table(env, name);

	if (t != NULL && (t->kind != kind || t->key_bytes != key || t->value_bytes != value))
		return refuse(env, "table \"%s\" has another kind, key or value than it looks up: write %s", name,
			      write);
	*table = t;
	return 0;
}

static int
take_tables(void)
{
	if (take(&routes[0], "routes", DPS_TABLE_IPV4, 0, 4, "kind = \"ipv4\", value = \"hop\"") != 0 ||
	    take(&routes[1], "routes6", DPS_TABLE_IPV6, 0, 4, "kind = \"ipv6\", value = \"hop\"") != 0 ||
	    take(&hops, "hops", DPS_TABLE_ARRAY, 0, sizeof(struct hop),
		 "kind = \"array\", value = \"port+mac\"") != 0 ||
	    take(&ecmp, "ecmp", DPS_TABLE_ARRAY, 0, WAYS * 4, "kind = \"array\", value = \"ways\"") != 0 ||
	    take(&neighbours[0], "neighbours", DPS_TABLE_EXACT, 2 + 4, 6,
		 "kind = \"exact\", key = \"port+ipv4\", value = \"mac\"") != 0 ||
	    take(&neighbours[1], "neighbours6", DPS_TABLE_EXACT, 2 + 16, 6,
		 "kind = \"exact\", key = \"port+ipv6\", value = \"mac\"") != 0)
		return -1;
	if ((routes[0] == NULL && routes[1] == NULL) || hops == NULL)
		return refuse(env, "it looks up the live tables %s and %s, which the topology does not declare",
			      "routes (or routes6)", "hops");
	return 0;
}

/* "address.wan" = "192.0.2.1" and the like. */
static int
take_of_port(const char *key, const char *value)
{
	const char *dot = strchr(key, '.');
	int index = dot == NULL ? -1 : dps_port(env, dot + 1);
	struct port *port;

	if (dot == NULL)
		return refuse(env, "it has no argument \"%s\"%s", key, "");
	if (index < 0 || index >= MOST_PORTS)
		return refuse(env, "%s: there is no port \"%s\"", key, dot + 1);
	port = &ports[index];
	if (strncmp(key, "address.", 8) == 0) {
		port->has_address = 1;
		return inet_pton(AF_INET, value, port->address) == 1 ?
			       0 : refuse(env, "%s: \"%s\" is not an IPv4 address", key, value);
	}
	if (strncmp(key, "address6.", 9) == 0) {
		port->has_address6 = 1;
		return inet_pton(AF_INET6, value, port->address6) == 1 ?
			       0 : refuse(env, "%s: \"%s\" is not an IPv6 address", key, value);
	}
	if (strncmp(key, "urpf.", 5) == 0) {
		port->urpf = strcmp(value, "strict") == 0 ? STRICT : strcmp(value, "loose") == 0 ? LOOSE : 0;
		return port->urpf != 0 ?
			       0 : refuse(env, "%s: \"%s\" is neither strict nor loose", key, value);
	}
	return refuse(env, "it has no argument \"%s\"%s", key, "");
}

static int
take_rate(const char *key, const char *value, uint64_t *number)
{
	char *end;

	*number = strtoull(value, &end, 10);
	return value[0] >= '0' && value[0] <= '9' && *end == '\0' && *number <= 1000000000 ?
		       0 : refuse(env, "%s: \"%s\" is not a number up to 1000000000", key, value);
}

static int
take_args(void)
{
	uint64_t rate = 100, burst = 50, number;

	for (uint32_t i = 0; i < env->n_args; i++) {
		const char *key = env->arg_keys[i], *value = env->arg_values[i];
		int ret;

		if (strcmp(key, "icmp_rate") == 0) {
			ret = take_rate(key, value, &rate);
		} else if (strcmp(key, "icmp_burst") == 0) {
			ret = take_rate(key, value, &burst);
		} else if (strcmp(key, "count_hops") == 0) {
			ret = take_rate(key, value, &number);
			counts_hops = number != 0;
		} else if (strcmp(key, "unresolved") == 0) {
			drops_unresolved = strcmp(value, "drop") == 0;
			ret = drops_unresolved || strcmp(value, "punt") == 0 ?
				      0 : refuse(env, "%s: \"%s\" is neither punt nor drop", key, value);
		} else {
			ret = take_of_port(key, value);
		}
		if (ret != 0)
			return ret;
	}
	error_ns = rate == 0 ? 0 : 1000000000 / rate;
	burst_ns = error_ns * (burst == 0 ? 0 : burst - 1);
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return take_args() != 0 ? -1 : take_tables();
}

/* --- lookups ------------------------------------------------------------------------------------ */

static inline uint32_t
ether_type(const struct dps_packet *p)
{
	return be16_at(p->data + 12);
}

static inline uint64_t
route_of(int is6, const uint8_t *address)
{
	return routes[is6] == NULL ? DPS_TABLE_NONE :
				     dps_lpm_find((const struct dps_lpm *)routes[is6]->at, address);
}

static inline const struct hop *
hop_at(uint32_t index)
{
	return (const struct hop *)dps_array_at((const struct dps_array *)hops->at, index);
}

static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	const void *address[2][DPS_PLUGIN_BURST];
	uint64_t value[DPS_PLUGIN_BURST];
	uint8_t who[2][DPS_PLUGIN_BURST];
	uint32_t some[2] = { 0, 0 };

	(void)state;
	for (uint32_t i = 0; i < n; i++) {
		const struct dps_packet *p = &packets[i];
		int is6;

		packets[i].found = DPS_TABLE_NONE;
		if (p->len >= ETHER + IPV4 && ether_type(p) == 0x0800)
			is6 = 0;
		else if (p->len >= ETHER + IPV6 && ether_type(p) == 0x86dd)
			is6 = 1;
		else
			continue;
		address[is6][some[is6]] = p->data + ETHER + (is6 ? 24 : 16);
		who[is6][some[is6]++] = (uint8_t)i;
	}
	for (int is6 = 0; is6 < 2; is6++) {
		if (some[is6] == 0 || routes[is6] == NULL)
			continue;
		dps_lpm_look((const struct dps_lpm *)routes[is6]->at, address[is6], some[is6], value);
		for (uint32_t i = 0; i < some[is6]; i++) {
			packets[who[is6][i]].found = value[i];
			if (value[i] < hops->entries)
				dps_table_prefetch(dps_array_record((const struct dps_array *)hops->at,
								    (uint32_t)value[i]));
		}
	}
}

/* Of several ways the flow's; the next one where that has no next hop, or its link is down. */
static const struct hop *
hop_of_many(uint32_t index, const struct dps_packet *p, int is6, uint32_t *which)
{
	const uint8_t *ways = ecmp == NULL ? NULL :
		(const uint8_t *)dps_array_at((const struct dps_array *)ecmp->at, index);
	uint32_t first;

	if (ways == NULL)
		return NULL;
	first = (uint32_t)(flow_hash(p, is6) >> 60);
	for (uint32_t i = 0; i < WAYS; i++) {
		const struct hop *hop;

		*which = dps_table_load32(ways + (first + i) % WAYS * 4);
		hop = hop_at(*which);
		if (hop != NULL && hop->port < env->n_ports && env->ports[hop->port].up != 0)
			return hop;
	}
	return NULL;
}

/* The next hop that a route names, for packets to this address. */
static inline enum found
resolve(uint32_t value, const struct dps_packet *p, int is6, const uint8_t *address, struct way *way)
{
	static const uint8_t on_link[6];
	const struct hop *hop;
	uint8_t key[2 + 16];
	uint64_t mac;

	way->hop = value;
	hop = value < TO_ECMP ? hop_at(value) : hop_of_many(value - TO_ECMP, p, is6, &way->hop);
	if (hop == NULL || hop->port >= env->n_ports)
		return FOUND_NO_HOP;
	way->port = hop->port;
	if (memcmp(hop->mac, on_link, sizeof(on_link)) != 0) {
		memcpy(way->mac, hop->mac, sizeof(way->mac));
		return FOUND;
	}
	if (neighbours[is6] == NULL)
		return FOUND_NO_NEIGHBOUR;
	memcpy(key, &hop->port, 2);
	memcpy(key + 2, address, is6 ? 16 : 4);
	mac = dps_exact_find((const struct dps_exact *)neighbours[is6]->at, key);
	if (mac == DPS_TABLE_NONE)
		return FOUND_NO_NEIGHBOUR;
	memcpy(way->mac, &mac, sizeof(way->mac));
	return FOUND;
}

/* Does the way back to the sender lead out of the port that its packet came in by (strict), or anywhere? */
static int
is_expected(const struct dps_packet *p, int is6)
{
	uint64_t value = route_of(is6, p->data + ETHER + (is6 ? 8 : 12));
	const uint8_t *ways;
	const struct hop *hop;

	if (value >= TO_LOCAL) /* or none */
		return 0;
	if (ports[p->port].urpf == LOOSE)
		return 1;
	if (value < TO_ECMP) {
		hop = hop_at((uint32_t)value);
		return hop != NULL && hop->port == p->port;
	}
	ways = ecmp == NULL ? NULL : (const uint8_t *)dps_array_at((const struct dps_array *)ecmp->at,
								   value - TO_ECMP);
	for (uint32_t i = 0; ways != NULL && i < WAYS; i++) {
		hop = hop_at(dps_table_load32(ways + i * 4));
		if (hop != NULL && hop->port == p->port)
			return 1;
	}
	return 0;
}

/* --- what it does with a packet ----------------------------------------------------------------- */

static void
count(enum counter which)
{
	dps_touch(&env->counters[which], sizeof(uint64_t));
	env->counters[which]++;
}

static uint16_t
to_kernel(enum counter why)
{
	count(why);
	return dps_punt();
}

/* May one more error be sent? At most `icmp_rate` a second, after a pause up to `icmp_burst` at once. */
static int
is_within_rate(void)
{
	struct place *place = (struct place *)env->state;
	uint64_t until = place->errors_until > env->now ? place->errors_until : env->now;

	if (error_ns == 0 || until - env->now > burst_ns)
		return 0;
	dps_touch(&place->errors_until, sizeof(place->errors_until));
	place->errors_until = until + error_ns;
	return 1;
}

/* An error to the sender, from the address of the port by which its packet came. */
static void
answer(const struct dps_packet *p, int is6, uint32_t type, uint32_t code, uint32_t more)
{
	const struct port *port = &ports[p->port];
	const uint8_t *sender = p->data + ETHER + (is6 ? 8 : 12);
	struct way way;
	uint64_t value;
	uint8_t *frame;

	if (is6 ? !port->has_address6 || !icmp6_may_answer(p) : !port->has_address || !icmp_may_answer(p))
		return;
	value = route_of(is6, sender);
	if (value >= TO_LOCAL || resolve((uint32_t)value, p, is6, sender, &way) != FOUND) {
		count(ERRORS_NOT_SENT);
		return;
	}
	if (!is_within_rate()) {
		count(ERRORS_LIMITED);
		return;
	}
	frame = is6 ? icmp6_error(dps_out(way.port), p, port->address6, type, code, more) :
		      icmp_error(dps_out(way.port), p, port->address, type, code, more);
	if (frame == NULL) {
		count(ERRORS_NOT_SENT);
		return;
	}
	memcpy(frame, way.mac, 6);
	memcpy(frame + 6, env->ports[way.port].mac, 6);
	count(ERRORS_SENT);
}

/* Is there no next hop in what the routes say? */
static uint16_t
no_way(const struct dps_packet *p, int is6, uint64_t value)
{
	switch (value) {
	case TO_LOCAL:
		return to_kernel(LOCAL);
	case TO_BLACKHOLE:
		return dps_drop(BLACKHOLE);
	case TO_UNREACHABLE:
		answer(p, is6, is6 ? ICMP6_UNREACHABLE : ICMP_UNREACHABLE,
		       is6 ? ICMP6_NO_ROUTE : ICMP_NO_HOST, 0);
		return dps_drop(UNREACHABLE);
	case TO_PROHIBITED:
		answer(p, is6, is6 ? ICMP6_UNREACHABLE : ICMP_UNREACHABLE,
		       is6 ? ICMP6_PROHIBITED : ICMP_PROHIBITED, 0);
		return dps_drop(PROHIBITED);
	default:
		answer(p, is6, is6 ? ICMP6_UNREACHABLE : ICMP_UNREACHABLE,
		       is6 ? ICMP6_NO_ROUTE : ICMP_NO_NET, 0);
		return dps_drop(NO_ROUTE);
	}
}

/* There is a route with a next hop: out, unless the packet is too old or too big for it. `len` is what the IP
 * header says. */
static inline uint16_t
forward(struct dps_packet *p, int is6, uint32_t len)
{
	uint8_t *ip = p->data + ETHER, *ttl = ip + (is6 ? 7 : 8);
	const struct dps_port_facts *out;
	struct way way;
	enum found found;
	uint32_t sum;

	if (*ttl <= 1) {
		answer(p, is6, is6 ? ICMP6_EXPIRED : ICMP_EXPIRED, 0, 0);
		return dps_drop(TTL_EXPIRED);
	}
	found = resolve((uint32_t)p->found, p, is6, ip + (is6 ? 24 : 16), &way);
	if (found == FOUND_NO_HOP)
		return dps_drop(NO_HOP);
	out = &env->ports[way.port];
	if (len > out->mtu && out->mtu != 0) {
		if (!is6 && (ip[6] & 0x40) == 0)
			return to_kernel(TO_FRAGMENT);
		if (is6)
			answer(p, is6, ICMP6_TOO_BIG, 0, out->mtu);
		else
			answer(p, is6, ICMP_UNREACHABLE, ICMP_FRAGMENTATION, out->mtu);
		return dps_drop(TOO_BIG);
	}
	if (found == FOUND_NO_NEIGHBOUR)
		return drops_unresolved ? dps_drop(UNRESOLVED) : to_kernel(NO_NEIGHBOUR);
	if (counts_hops && way.hop < COUNTED) {
		struct count *c = &((struct place *)env->state)->hop[way.hop];

		dps_touch(c, sizeof(*c));
		c->packets++;
		c->bytes += len;
	}
	memcpy(p->data, way.mac, 6);
	memcpy(p->data + 6, out->mac, 6);
	*ttl -= 1;
	if (!is6) {
		/* RFC 1624, of one bit in the upper half of a word. */
		sum = be16_at(ip + 10) + 0x0100;
		be16_put(ip + 10, (sum + (sum >= 0xffff)) & 0xffff);
	}
	return dps_out(way.port);
}

/* By what its route leads to. An address that its sender has no right to gets no error either. */
static inline uint16_t
by_route(struct dps_packet *p, int is6, uint32_t len)
{
	if (ports[p->port].urpf != 0 && p->found != TO_LOCAL && !is_expected(p, is6))
		return dps_drop(URPF);
	return p->found < TO_LOCAL ? forward(p, is6, len) : no_way(p, is6, p->found);
}

static inline uint16_t
ipv4(struct dps_packet *p)
{
	const uint8_t *ip = p->data + ETHER;
	uint32_t head, len;

	if (p->len < ETHER + IPV4 || ip[0] >> 4 != 4)
		return dps_drop(BAD_HEADER);
	head = (ip[0] & 0xfu) * 4;
	len = be16_at(ip + 2);
	if (head < IPV4 || len < head || p->len < ETHER + head || p->total < ETHER + len)
		return dps_drop(BAD_HEADER);
	if (dps_sum_end(dps_sum(0, ip, head)) != 0)
		return dps_drop(BAD_CHECKSUM);
	if (ip[16] >> 4 == 0xe || (dps_table_load32(ip + 16) == 0xffffffffu))
		return to_kernel(MULTICAST);
	if (ip[12] == 0 || ip[12] == 127 || ip[12] >> 4 == 0xe || dps_table_load32(ip + 12) == 0xffffffffu ||
	    ip[16] == 0 || ip[16] == 127)
		return dps_drop(MARTIAN);
	if ((p->data[0] & 1) != 0)
		return p->found == TO_LOCAL ? to_kernel(LOCAL) : dps_drop(LINK_BROADCAST);
	if (head > IPV4)
		return to_kernel(OPTIONS);
	return by_route(p, 0, len);
}

static inline uint16_t
ipv6(struct dps_packet *p)
{
	static const uint8_t nobody[16], loopback[16] = { [15] = 1 };
	const uint8_t *ip = p->data + ETHER;
	uint32_t len;

	if (p->len < ETHER + IPV6 || ip[0] >> 4 != 6)
		return dps_drop(BAD_HEADER);
	len = IPV6 + be16_at(ip + 4);
	if (p->total < ETHER + len)
		return dps_drop(BAD_HEADER);
	if (ip[24] == 0xff || (ip[24] == 0xfe && (ip[25] & 0xc0) == 0x80))
		return ip[8] == 0xff ? dps_drop(MARTIAN) : to_kernel(MULTICAST);
	if (ip[8] == 0xff || memcmp(ip + 8, nobody, 16) == 0 || memcmp(ip + 8, loopback, 16) == 0 ||
	    memcmp(ip + 24, nobody, 16) == 0 || memcmp(ip + 24, loopback, 16) == 0)
		return dps_drop(MARTIAN);
	if ((p->data[0] & 1) != 0)
		return p->found == TO_LOCAL ? to_kernel(LOCAL) : dps_drop(LINK_BROADCAST);
	if (ip[6] == 0 && len == IPV6) /* a jumbogram */
		return to_kernel(OPTIONS);
	if (p->found < TO_LOCAL && ip[8] == 0xfe && (ip[9] & 0xc0) == 0x80) {
		answer(p, 1, ICMP6_UNREACHABLE, ICMP6_BEYOND_SCOPE, 0);
		return dps_drop(MARTIAN);
	}
	return by_route(p, 1, len);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	if (p->len < ETHER)
		return dps_drop(BAD_HEADER);
	if ((p->data[0] & 1) == 0 && memcmp(p->data, env->ports[p->port].mac, 6) != 0)
		return dps_drop(NOT_OURS);
	switch (ether_type(p)) {
	case 0x0800:
		return ipv4(p);
	case 0x86dd:
		return ipv6(p);
	default:
		return to_kernel(NOT_IP);
	}
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "route",
	.rewrites = CHANGES,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.look = look,
	.state_size = sizeof(struct place),
	.state_version = 1,
	.emits = 1,
	.policy = 1u << BLACKHOLE | 1u << UNREACHABLE | 1u << PROHIBITED | 1u << URPF,
};
