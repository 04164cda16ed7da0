/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * balance: spreads the flows of virtual addresses over backends, which answer the clients themselves. A packet goes
 * to its backend by the MAC address alone, or as balance_tunnel (balance_tunnel.c), in IPIP or GUE.
 * docs/functions/balance.md is its page.
 *
 *     [[workers]]
 *     plugin = "balance"
 *     state = "auto"
 *     bucket_state = "auto"
 *     args = { vips = "192.0.2.10:80/tcp, [2001:db8::10]:443/tcp", port = "lan" }
 *     tables.backends = { kind = "own", key = "text8", value = "mac+u16", entries = 1000, bytes = "256KiB" }
 *
 * A new flow takes the backend of its place in a Maglev table, which table_apply fills (balance_table.h). The flow is
 * kept, with the address of its backend, in the state of its bucket, so it stays there when the table changes. What
 * creates a flow is touched before; what refreshes or ends one is a single store.
 */
#include "balance_table.h"
#include "balance_vips.h"
#include "frames.h"
#include "icmp.h"

#ifdef BALANCE_TUNNEL
#define IS_TUNNEL 1
#else
#define IS_TUNNEL 0     /* what it needs for a tunnel costs nothing then */
#endif

enum {
	ICMP4 = 1, ICMP6 = 58,

	TAGS = 2,
	GUE = 8 + 4,            /* with UDP */

	SETS = 256,
	WAYS = 8,
	UNIT = 32,              /* the life of a flow counts in 2^32 ns */
	MOST_SECONDS = 30000,   /* of a life: half of what its 14 bits say */
	TICK_US = 60000000,
};

enum reason { BAD_HEADER, FRAGMENT, PROTOCOL, NO_BACKEND, OTHER, TOO_BIG, NO_HEADROOM };

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [FRAGMENT] = "fragment", [PROTOCOL] = "protocol",
	[NO_BACKEND] = "no_backend", [OTHER] = "other", [TOO_BIG] = "too_big", [NO_HEADROOM] = "no_headroom", NULL,
};

enum counter { PACKETS, BYTES, NEW, MOVED, FULL, ERRORS, PASSED, ANSWERS };

static const char *const counters[] = {
	[PACKETS] = "packets", [BYTES] = "bytes", [NEW] = "new_flows", [MOVED] = "moved", [FULL] = "full",
	[ERRORS] = "icmp_errors", [PASSED] = "passed", [ANSWERS] = "too_big_told", NULL,
};

/* What is seen of a TCP connection; other flows are OPEN. */
enum { OPEN, OPENING, CLOSING };

/* `to`: the backend's id << 16, when the flow ends << 2, and OPEN or another. 0: there is no flow. */
struct flow {
	uint64_t key;
	uint64_t to;
};

struct bucket {
	struct flow flows[SETS][WAYS];
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");

static const struct dps_env *env;
static const struct dps_live_table *backends, *down;
static struct marks marks = { .versions = { UINT64_MAX, UINT64_MAX } };
static struct counts_known known_counts;
static struct far far;          /* of a tunnel: what all packets have */
static int is_gue;
static uint64_t gue_port = 6080;
static uint32_t tunnel_head;    /* bytes before a packet */
static struct vips vips;
static uint32_t out_port;
static int by_source, other;
static uint32_t life_tcp = 3600, life_udp = 120, life_short = 60;

/* --- arguments ---------------------------------------------------------------------------------- */

static int
take_seconds(const char *key, uint32_t *seconds)
{
	uint64_t n = *seconds;

	if (take_number(env, key, 5, MOST_SECONDS, &n) != 0)
		return -1;
	*seconds = (uint32_t)n;
	return 0;
}

static int
take_tunnel(void)
{
	static const char *const kinds[] = { "ipip", "gue", NULL };
	const char *source = dps_arg(env, "source");

	if (take_word(env, "tunnel", kinds, &is_gue) != 0 || take_number(env, "gue_port", 1, 65535, &gue_port) != 0)
		return -1;
	if (source == NULL)
		return refuse(env, "it needs the argument \"source\": the IP address that its tunnels begin at%s%s", "", "");
	far.is6 = strchr(source, ':') != NULL;
	far.ttl = 64;
	far.port = (int)out_port;
	if (inet_pton(far.is6 ? AF_INET6 : AF_INET, source, far.source) != 1)
		return refuse(env, "source: \"%s\" is not an IP address%s", source, "");
	if (far.is6 && is_gue)
		return refuse(env, "source: tunnel = \"gue\" goes over IPv4, and \"%s\" is IPv6%s", source, "");
	if (backends->value_bytes != (far.is6 ? 24u : 12u))
		return refuse(env, "table \"backends\": source is %s, so write value = \"mac+u16+%s\"",
			      far.is6 ? "IPv6" : "IPv4", far.is6 ? "ipv6" : "ipv4");
	tunnel_head = far_head(&far) - ETHER + (is_gue ? (uint32_t)GUE : 0);
	return 0;
}

static int
take_down(void)
{
	down = dps_table(env, "down");
	if (down != NULL && (down->kind != DPS_TABLE_EXACT || down->key_bytes != BACKEND_NAME))
		return refuse(env, "table \"down\": write kind = \"exact\", key = \"%s\", value = \"text8\"%s",
			      "text8", "");
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = { "vips", "port", "by", "other", "tcp", "udp", "short",
#ifdef BALANCE_TUNNEL
					     "tunnel", "source", "gue_port",
#endif
					     NULL };
	static const char *const bys[] = { "flow", "source", NULL };
	static const char *const others[] = { "next", "kernel", "drop", NULL };
	const char *list, *port;
	int at = -1;

	(void)state;
	env = e;
	list = dps_arg(env, "vips");
	port = dps_arg(env, "port");
	backends = dps_table(env, "backends");
	if (take_known(env, known) != 0 || take_word(env, "by", bys, &by_source) != 0 ||
	    take_word(env, "other", others, &other) != 0 || take_seconds("tcp", &life_tcp) != 0 ||
	    take_seconds("udp", &life_udp) != 0 || take_seconds("short", &life_short) != 0)
		return -1;
	if (list == NULL || port == NULL)
		return refuse(env, "it needs the argument \"%s\"%s", list == NULL ? "vips" : "port",
			      list == NULL ? ": virtual addresses, with commas between them" :
					     ": the name of the port toward the backends");
	if (take_port(env, "port", &at) != 0)
		return -1;
	out_port = (uint32_t)at;
	if (backends == NULL || backends->kind != DPS_TABLE_OWN || !is_backend_value(backends->value_bytes))
		return refuse(env, "it needs the table \"backends\": write tables.backends = { kind = \"own\", "
			      "key = \"text8\", value = \"mac+u16%s\", entries = 1000, bytes = \"256KiB\" }%s",
			      IS_TUNNEL ? "+ipv4" : "", "");
	if (take_down() != 0 || (IS_TUNNEL && take_tunnel() != 0))
		return -1;
	return take_vips(env, &vips, list);
}

static int
apply(const struct dps_table_work *work)
{
	return apply_backends(work, IS_TUNNEL);
}

/* --- flows ---------------------------------------------------------------------------------------- */

static inline uint32_t
now(void)
{
	return (uint32_t)(env->now >> UNIT) & 0x3fff;
}

static inline int
is_over(uint64_t to)
{
	uint32_t left = ((uint32_t)(to >> 2) - now()) & 0x3fff;

	return to == 0 || left == 0 || left >= 0x2000;
}

static inline uint64_t
life(uint64_t id, uint32_t state, uint32_t seconds)
{
	uint64_t end = (env->now + seconds * 1000000000ull) >> UNIT;

	return id << 16 | ((end + 1) & 0x3fff) << 2 | state;
}

static void
count(enum counter which)
{
	dps_touch(&env->counters[which], sizeof(uint64_t));
	env->counters[which]++;
}

/* The flow, or where a new one can be: NULL, all are in use. */
static inline struct flow *
find(struct bucket *b, uint64_t key, int *is_there)
{
	struct flow *set = b->flows[(uint32_t)key / DPS_PLUGIN_BUCKETS % SETS];

	*is_there = 1;
	for (uint32_t i = 0; i < WAYS; i++)
		if (set[i].key == key && !is_over(set[i].to))
			return &set[i];
	*is_there = 0;
	for (uint32_t i = 0; i < WAYS; i++)
		if (is_over(set[i].to))
			return &set[i];
	return NULL;
}

/* Its backend, unless it is no more there. */
static inline int
backend_of(const struct places *t, const struct flow *f)
{
	int index = backend_index(t, f->to >> 16);

	return index >= 0 && marks.of[index] != GONE ? index : -1;
}

/* To which backend a packet of this flow goes; -1: there is none. `flags` are those of TCP, else 0. */
static int
choose(struct bucket *b, const struct places *t, uint64_t key, uint32_t protocol, uint32_t flags, int *is_new)
{
	int is_there, opens = protocol == TCP && (flags & 0x17) == 0x02;
	struct flow *f = find(b, key, &is_there);
	int index = is_there ? backend_of(t, f) : -1, has_gone = is_there && index < 0;
	uint32_t state = is_there ? f->to & 3 : OPEN;
	uint64_t to, id;

	*is_new = 0;
	/* A connection anew may go elsewhere: by source, only where its backend has gone. */
	if (is_there && opens && state == CLOSING && !by_source)
		index = -1;
	if (index < 0)
		index = backend_for(t, &marks, key);
	if (index < 0)
		return -1;
	id = t->backends[index].id;
	if (!by_source && protocol == TCP) {
		if (opens)
			state = OPENING;
		else if ((flags & 0x05) != 0)
			state = CLOSING;
		else if (state == OPENING)
			state = OPEN;
	} else {
		state = OPEN;
	}
	to = life(id, state, state != OPEN ? life_short : protocol == UDP ? life_udp : life_tcp);
	if (is_there && f->to >> 16 == id) {
		if (f->to != to)
			__atomic_store_n(&f->to, to, __ATOMIC_RELAXED);
		return index;
	}
	dps_touch(&env->counters[NEW], 3 * sizeof(uint64_t));
	if (f == NULL) {
		env->counters[FULL]++;
		return index;
	}
	*is_new = 1;
	env->counters[has_gone ? MOVED : NEW]++;
	dps_touch(f, sizeof(*f));
	*f = (struct flow){ key, to };
	return index;
}

/* One store each, so a kill between two of them leaves the rest for the next tick. */
static void
bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	struct bucket *b = (struct bucket *)bucket_state;

	(void)state;
	(void)bucket;
	for (uint32_t i = 0; i < SETS * WAYS; i++) {
		struct flow *f = &b->flows[i / WAYS][i % WAYS];

		if (f->to != 0 && is_over(f->to))
			__atomic_store_n(&f->to, 0, __ATOMIC_RELAXED);
	}
}

/* --- packets -------------------------------------------------------------------------------------- */

static uint16_t
pass(const struct dps_packet *p)
{
	if (other == 2)
		return dps_drop(OTHER);
	count(PASSED);
	return other == 1 ? dps_punt() : dps_next(env, p);
}

static uint64_t
key_of(const uint8_t *source, const uint8_t *vip, int is6, uint32_t protocol, uint32_t ports)
{
	uint64_t key = mix(address_hash(source, is6), address_hash(vip, is6));

	return by_source ? key : mix(key, (uint64_t)ports << 8 | protocol);
}

/* An IP packet to a backend: where it begins, how long it is. */
struct cargo {
	uint64_t key;
	uint32_t at;
	uint32_t len;
	int is6;
};

/* Behind new headers, without its VLAN tags. RFC 2003, 4213, 2473, draft-ietf-intarea-gue (version 0). */
static uint16_t
encapsulate(struct dps_packet *p, const struct backend *b, const struct cargo *c)
{
	const uint8_t *ip = p->data + c->at;
	uint8_t tos = c->is6 ? (uint8_t)((ip[0] & 0xfu) << 4 | ip[1] >> 4) : ip[1], *at;
	uint32_t grows = ETHER + tunnel_head - c->at, protocol = c->is6 ? 41 : 4;
	struct far to = far;

	memcpy(to.mac, b->mac, 6);
	memcpy(to.destination, b->address, 16);
	p->data -= grows;
	p->len += grows;
	memset(p->data, 0, ETHER + tunnel_head);
	if (!far.is6)
		p->data[ETHER + 1] = tos;
	at = far_put(env, &to, p->data, is_gue ? (uint32_t)UDP : protocol, (is_gue ? (uint32_t)GUE : 0) + c->len);
	if (far.is6) {
		p->data[ETHER] |= tos >> 4;
		p->data[ETHER + 1] = (uint8_t)(tos << 4 | (c->key >> 16 & 0xf));
		be16_put(p->data + ETHER + 2, (uint32_t)c->key & 0xffff);
	}
	if (is_gue) {
		/* The source port spreads flows over ways; no checksum, as the packet inside has its own. */
		be16_put(at, 49152 + (uint32_t)(c->key >> 20 & 0x3fff));
		be16_put(at + 2, (uint32_t)gue_port);
		be16_put(at + 4, GUE + c->len);
		at[9] = (uint8_t)protocol;
	}
	return dps_out(out_port);
}

static uint16_t
forward(struct dps_packet *p, const struct places *t, int index, const struct cargo *c, int is_new)
{
	const struct backend *b;

	if (index < 0)
		return dps_drop(NO_BACKEND);
	b = &t->backends[index];
	dps_touch(env->counters, 2 * sizeof(uint64_t));
	env->counters[PACKETS]++;
	env->counters[BYTES] += p->total;
	count_backend((struct counts *)env->state, &known_counts, t, backends->version, (uint32_t)index, c->len, is_new);
	if (IS_TUNNEL)
		return encapsulate(p, b, c);
	memcpy(p->data, b->mac, 6);
	memcpy(p->data + 6, env->ports[out_port].mac, 6);
	return dps_out(out_port);
}

/* Does it go into the tunnel? Else *verdict says what becomes of it: its sender is told how long packets may be. */
static int
fits(const struct dps_packet *p, const struct cargo *c, uint16_t *verdict)
{
	uint32_t mtu = env->ports[out_port].mtu;

	if (mtu != 0 && c->len + tunnel_head > mtu) {
		*verdict = dps_drop(TOO_BIG);
		if (icmp_too_big(p, c->at, c->is6, mtu > tunnel_head ? mtu - tunnel_head : 0))
			count(ANSWERS);
		return 0;
	}
	*verdict = dps_drop(NO_HEADROOM);
	return p->headroom >= ETHER + tunnel_head - c->at;
}

/* To a virtual address: an error goes to the backend of the flow that it is about, which sent the packet that it
 * quotes; anything else, such as an echo, by its source. */
static uint16_t
icmp(struct dps_packet *p, struct cargo *c, const uint8_t *l4, uint32_t room)
{
	const struct places *t = (const struct places *)backends->at;
	const uint8_t *ip = p->data + c->at;
	int is6 = c->is6;
	uint32_t size = is6 ? 16 : 4, head = IPV6, want, protocol;
	const uint8_t *vip = ip + (is6 ? 24 : 16), *about = l4 + 8, *to, *ports;
	struct dps_tuple tuple = { .version = is6 ? 6 : 4 };
	int is_there, index;
	struct flow *f;
	uint16_t verdict;

	if (!has_vip(&vips, vip, is6))
		return pass(p);
	if (is6 ? (l4[0] & 0x80) != 0 : l4[0] != 3 && l4[0] != 11 && l4[0] != 12) {
		if (is6 && l4[0] >= 133 && l4[0] <= 137)
			return pass(p);
		if (IS_TUNNEL && !fits(p, c, &verdict))
			return verdict;
		c->key = mix(address_hash(ip + (is6 ? 8 : 12), is6), address_hash(vip, is6));
		return forward(p, t, backend_for(t, &marks, c->key), c, 0);
	}
	if (room < 8u + (is6 ? (uint32_t)IPV6 : (uint32_t)IPV4) || about[0] >> 4 != (is6 ? 6 : 4))
		return dps_drop(BAD_HEADER);
	if (!is6)
		head = (about[0] & 0xfu) * 4;
	if (head < IPV4 || room < 8 + head + 8)
		return dps_drop(BAD_HEADER);
	if (!is6 && (be16_at(about + 6) & 0x1fff) != 0)
		return dps_drop(FRAGMENT);
	protocol = is6 ? about[6] : about[9];
	ports = about + head;
	to = about + (is6 ? 24 : 16);
	if ((protocol != TCP && protocol != UDP) || memcmp(about + (is6 ? 8 : 12), vip, size) != 0)
		return dps_drop(PROTOCOL);
	/* The quoted packet went the other way. */
	memcpy(tuple.from, to, size);
	memcpy(tuple.to, vip, size);
	memcpy(&tuple.from_port, ports + 2, 2);
	memcpy(&tuple.to_port, ports, 2);
	tuple.protocol = (uint8_t)protocol;
	if (vip_slot(&vips, vip, is6, tuple.protocol, tuple.to_port)->protocol == 0)
		return dps_drop(PROTOCOL);
	if (IS_TUNNEL && !fits(p, c, &verdict))
		return verdict;
	c->key = key_of(to, vip, is6, protocol, (uint32_t)tuple.to_port << 16 | tuple.from_port);
	want = by_source ? dps_bucket((uint32_t)c->key) : dps_bucket(dps_hash_of(env, &tuple));
	if (dps_bucket(p->hash) != want)
		return dps_on_hash(env->group_index, want);
	f = find((struct bucket *)p->bucket_state, c->key, &is_there);
	index = is_there ? backend_of(t, f) : -1;
	if (index < 0)
		index = backend_for(t, &marks, c->key);
	if (index >= 0)
		count(ERRORS);
	return forward(p, t, index, c, 0);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const struct places *t = (const struct places *)backends->at;
	uint32_t at, head = IPV6, len, protocol, least, room;
	uint16_t from_port, to_port;
	const uint8_t *ip, *l4, *vip;
	uint16_t verdict;
	struct cargo c;
	int is6, index, is_new;

	(void)state;
	at = ip_at(p, TAGS, &is6);
	if (at == 0)
		return pass(p);
	ip = p->data + at;
	vip = ip + (is6 ? 24 : 16);
	protocol = is6 ? ip[6] : ip[9];
	if (!is6)
		head = (ip[0] & 0xfu) * 4;
	len = is6 ? IPV6 + be16_at(ip + 4) : be16_at(ip + 2);
	if (is6 ? protocol == 44 : (be16_at(ip + 6) & 0x3fff) != 0)
		return has_vip(&vips, vip, is6) ? dps_drop(FRAGMENT) : pass(p);
	if (protocol != TCP && protocol != UDP && protocol != (is6 ? ICMP6 : ICMP4))
		return has_vip(&vips, vip, is6) ? dps_drop(PROTOCOL) : pass(p);
	least = protocol == TCP ? 20 : 8;
	if (len < head + least || p->len < at + head + least || p->total < at + len)
		return has_vip(&vips, vip, is6) ? dps_drop(BAD_HEADER) : pass(p);
	l4 = ip + head;
	room = p->len - at < len ? p->len - at : len;
	c = (struct cargo){ .at = at, .len = len, .is6 = is6 };
	see_marks(&marks, t, backends, down);
	if (protocol != TCP && protocol != UDP)
		return icmp(p, &c, l4, room - head);
	memcpy(&from_port, l4, 2);
	memcpy(&to_port, l4 + 2, 2);
	if (vip_slot(&vips, vip, is6, (uint8_t)protocol, to_port)->protocol == 0)
		return pass(p);
	if (IS_TUNNEL && !fits(p, &c, &verdict))
		return verdict;
	c.key = key_of(ip + (is6 ? 8 : 12), vip, is6, protocol, (uint32_t)to_port << 16 | from_port);
	if (by_source && dps_bucket(p->hash) != dps_bucket((uint32_t)c.key))
		return dps_on_hash(env->group_index, (uint32_t)c.key);
	index = choose((struct bucket *)p->bucket_state, t, c.key, protocol, protocol == TCP ? l4[13] : 0, &is_new);
	return forward(p, t, index, &c, is_new);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
#ifdef BALANCE_TUNNEL
	.name = "balance_tunnel",
	.rewrites = ETHER + 4 * TAGS,
	.prepends = IPV6,
	.emits = 1,
#else
	.name = "balance",
	.rewrites = 12,
#endif
	.needs = DPS_PLUGIN_HASH,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.state_size = sizeof(struct counts),
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.bucket_tick_us = TICK_US,
	.bucket_tick = bucket_tick,
	.policy = 1u << OTHER,
	.table_apply = apply,
	.table_layout = 2,
};
