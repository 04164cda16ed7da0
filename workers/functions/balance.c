/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * balance: spreads the flows of virtual addresses over backends, which answer the clients themselves. A packet goes
 * to its backend by the MAC address alone. docs/functions/balance.md is its page.
 *
 *     [[workers]]
 *     plugin = "balance"
 *     bucket_state = "auto"
 *     args = { vips = "192.0.2.10:80/tcp, [2001:db8::10]:443/tcp", port = "lan" }
 *     tables.backends = { kind = "own", key = "text8", value = "mac+u16", entries = 1000, bytes = "256KiB" }
 *
 * A new flow takes the backend of its place in a Maglev table, which table_apply fills. The flow is kept, with the MAC
 * address of its backend, in the state of its bucket, so it stays there when the table changes. What creates a flow is
 * touched before; what refreshes or ends one is a single store.
 */
#include <arpa/inet.h>
#include <stdio.h>

#include <dpsup_table.h>

#include "arguments.h"
#include "headers.h"
#include "maglev.h"

enum {
	TCP = 6, UDP = 17, ICMP4 = 1, ICMP6 = 58,

	TAGS = 2,
	MOST_VIPS = 64,
	VIP_SLOTS = 256,
	MOST_BACKENDS = 1024,
	MAC_SLOTS = 4096,

	SETS = 256,
	WAYS = 8,
	UNIT = 32,              /* the life of a flow counts in 2^32 ns */
	MOST_SECONDS = 30000,   /* of a life: half of what its 14 bits say */
	TICK_US = 60000000,
};

enum reason { BAD_HEADER, FRAGMENT, PROTOCOL, NO_BACKEND, OTHER };

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [FRAGMENT] = "fragment", [PROTOCOL] = "protocol",
	[NO_BACKEND] = "no_backend", [OTHER] = "other", NULL,
};

enum counter { PACKETS, BYTES, NEW, MOVED, FULL, ERRORS, PASSED };

static const char *const counters[] = {
	[PACKETS] = "packets", [BYTES] = "bytes", [NEW] = "new_flows", [MOVED] = "moved", [FULL] = "full",
	[ERRORS] = "icmp_errors", [PASSED] = "passed", NULL,
};

/* What is seen of a TCP connection; other flows are OPEN. */
enum { OPEN, OPENING, CLOSING };

/* `to`: the backend's MAC address << 16, when the flow ends << 2, and OPEN or another. 0: there is no flow. */
struct flow {
	uint64_t key;
	uint64_t to;
};

struct bucket {
	struct flow flows[SETS][WAYS];
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");

/* The bytes of the table `backends`. A MAC address is a number, and 0 is none. */
struct places {
	uint32_t filled;
	uint32_t pad;
	uint64_t macs[MOST_BACKENDS];
	uint64_t slots[MAC_SLOTS];      /* the same, to be found by themselves */
	uint16_t place[MAGLEV_PLACES];
};

struct vip {
	uint8_t address[16];
	uint16_t port;
	uint8_t protocol;               /* 0: none is here */
	uint8_t is6;
};

static const struct dps_env *env;
static const struct dps_live_table *backends;
static struct vip vips[VIP_SLOTS];
static uint32_t n_vips, out_port;
static int by_source, other;
static uint32_t life_tcp = 3600, life_udp = 120, life_short = 60;

/* --- arguments ---------------------------------------------------------------------------------- */

static inline uint64_t
mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product =
		(unsigned __int128)(a ^ 0xa0761d6478bd642full) * (b ^ 0xe7037ed1a0b428dbull);

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
address_hash(const uint8_t *address, int is6)
{
	return is6 ? mix(dps_table_load64(address), dps_table_load64(address + 8)) :
		     mix(dps_table_load32(address), 4);
}

/* The slot of this virtual address, or the free one where it would be. */
static inline struct vip *
vip_slot(const uint8_t *address, int is6, uint8_t protocol, uint16_t port)
{
	uint32_t at = (uint32_t)mix(address_hash(address, is6), (uint64_t)port << 8 | protocol) % VIP_SLOTS;

	while (vips[at].protocol != 0 &&
	       (vips[at].protocol != protocol || vips[at].port != port || vips[at].is6 != is6 ||
		memcmp(vips[at].address, address, is6 ? 16 : 4) != 0))
		at = (at + 1) % VIP_SLOTS;
	return &vips[at];
}

static int
take_vip(char *text)
{
	char address[64], word[8];
	struct vip vip = { 0 }, *slot;
	unsigned int port;
	int end = 0;

	vip.is6 = text[0] == '[';
	if ((sscanf(text, vip.is6 ? "[%63[^]]]:%5u/%7s%n" : "%63[^:]:%5u/%7s%n", address, &port, word, &end) != 3 ||
	     text[end] != '\0') ||
	    inet_pton(vip.is6 ? AF_INET6 : AF_INET, address, vip.address) != 1 || port < 1 || port > 65535 ||
	    (strcmp(word, "tcp") != 0 && strcmp(word, "udp") != 0))
		return refuse(env, "vips: \"%s\" is not a virtual address: write 192.0.2.10:80/tcp or "
			      "[2001:db8::10]:443/udp%s", text, "");
	vip.protocol = word[0] == 't' ? TCP : UDP;
	vip.port = htons((uint16_t)port);
	slot = vip_slot(vip.address, vip.is6, vip.protocol, vip.port);
	if (slot->protocol != 0)
		return refuse(env, "vips: \"%s\" is there twice%s", text, "");
	if (n_vips++ == MOST_VIPS)
		return refuse(env, "vips: it takes 64, and \"%s\" is one more%s", text, "");
	*slot = vip;
	return 0;
}

static int
take_seconds(const char *key, uint32_t *seconds)
{
	const char *value = dps_arg(env, key);
	char *end;
	unsigned long n;

	if (value == NULL)
		return 0;
	n = strtoul(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || n < 5 || n > MOST_SECONDS)
		return refuse(env, "%s: \"%s\" is not a number of seconds from 5 to 30000", key, value);
	*seconds = (uint32_t)n;
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = { "vips", "port", "by", "other", "tcp", "udp", "short", NULL };
	static const char *const bys[] = { "flow", "source", NULL };
	static const char *const others[] = { "next", "kernel", "drop", NULL };
	const char *list, *port;
	char part[96];
	int at;

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
	at = dps_port(env, port);
	if (at < 0)
		return refuse(env, "port: there is no port \"%s\"%s", port, "");
	out_port = (uint32_t)at;
	if (backends == NULL || backends->kind != DPS_TABLE_OWN || backends->value_bytes != 8)
		return refuse(env, "it needs the table \"backends\": write tables.backends = { kind = \"own\", "
			      "key = \"text8\", value = \"mac+u16\", entries = 1000, bytes = \"256KiB\" }%s%s", "", "");
	while (*list != '\0') {
		size_t len;

		list += strspn(list, " ,");
		len = strcspn(list, " ,");
		if (len >= sizeof(part))
			return refuse(env, "vips: \"%s\" is too long for an address%s", list, "");
		memcpy(part, list, len);
		part[len] = '\0';
		if (len > 0 && take_vip(part) != 0)
			return -1;
		list += len;
	}
	return n_vips > 0 ? 0 : refuse(env, "vips: there is none in it%s%s", "", "");
}

/* --- the table of backends ------------------------------------------------------------------------ */

/* The slot of this MAC address, or the free one where it would be. Fewer than a quarter are used. */
static inline uint32_t
mac_slot(const struct places *t, uint64_t mac)
{
	uint32_t at = (uint32_t)maglev_mix(mac) % MAC_SLOTS;

	while (t->slots[at] != 0 && t->slots[at] != mac)
		at = (at + 1) % MAC_SLOTS;
	return at;
}

static inline uint64_t
mac_at(const uint8_t *at)
{
	return (uint64_t)be16_at(at) << 32 | (uint64_t)be16_at(at + 2) << 16 | be16_at(at + 4);
}

static int
apply(const struct dps_table_work *work)
{
	static struct maglev_backend turns[MOST_BACKENDS];
	struct places *to = (struct places *)work->at;
	const struct dps_table_change *all;
	uint64_t n;

	if (work->bytes < sizeof(*to) || work->value_bytes != 8 || work->entries > MOST_BACKENDS) {
		snprintf(work->error, work->error_len, "write value = \"mac+u16\", entries = 1000 (at most "
			 "1024), bytes = \"256KiB\"");
		return -1;
	}
	all = work->all(&n);
	memset(to, 0, sizeof(*to));
	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *value = (const uint8_t *)all[i].value;
		uint64_t mac = mac_at(value);
		uint16_t weight;
		uint32_t slot = mac_slot(to, mac);
		const char *fault = mac == 0 ? "00:00:00:00:00:00 is nobody's address" :
				    (value[0] & 1) != 0 ? "its MAC address is one of a group of hosts" :
				    to->slots[slot] == mac ? "another backend has its MAC address" : NULL;

		if (fault != NULL) {
			snprintf(work->error, work->error_len, "backend %.*s: %s", (int)work->key_bytes,
				 (const char *)all[i].key, fault);
			return -1;
		}
		memcpy(&weight, value + 6, sizeof(weight));
		to->slots[slot] = to->macs[i] = mac;
		turns[i].name = maglev_name(all[i].key, work->key_bytes);
		turns[i].weight = weight;
	}
	to->filled = (uint32_t)maglev_fill(to->place, turns, (uint32_t)n);
	return 0;
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
backend_of(const struct places *t, uint64_t key)
{
	uint32_t index = t->place[(uint32_t)(key >> 32) % MAGLEV_PLACES];

	return t->filled != 0 && index < MOST_BACKENDS ? t->macs[index] : 0;
}

static inline uint64_t
life(uint64_t mac, uint32_t state, uint32_t seconds)
{
	uint64_t end = (env->now + seconds * 1000000000ull) >> UNIT;

	return mac << 16 | ((end + 1) & 0x3fff) << 2 | state;
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
	struct flow *set = b->flows[(uint32_t)key / DPS_PLUGIN_BUCKETS % SETS], *room = NULL;

	*is_there = 1;
	for (uint32_t i = 0; i < WAYS; i++) {
		if (is_over(set[i].to))
			room = room == NULL ? &set[i] : room;
		else if (set[i].key == key)
			return &set[i];
	}
	*is_there = 0;
	return room;
}

/* Which MAC address a packet of this flow goes to; 0: there is no backend. `flags` are those of TCP, else 0. */
static uint64_t
choose(struct bucket *b, const struct places *t, uint64_t key, uint32_t protocol, uint32_t flags)
{
	int is_there, opens = protocol == TCP && (flags & 0x17) == 0x02;
	struct flow *f = find(b, key, &is_there);
	uint64_t mac = is_there ? f->to >> 16 : 0, to;
	uint32_t state = is_there ? f->to & 3 : OPEN;
	int has_gone = is_there && t->slots[mac_slot(t, mac)] != mac;

	/* A connection anew may go elsewhere: by source, only where its backend has gone. */
	if (is_there && opens && state == CLOSING && !by_source)
		mac = 0;
	if (mac == 0 || has_gone)
		mac = backend_of(t, key);
	if (mac == 0)
		return 0;
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
	to = life(mac, state, state != OPEN ? life_short : protocol == UDP ? life_udp : life_tcp);
	if (is_there && f->to >> 16 == mac) {
		if (f->to != to)
			__atomic_store_n(&f->to, to, __ATOMIC_RELAXED);
		return mac;
	}
	dps_touch(&env->counters[NEW], 3 * sizeof(uint64_t));
	if (f == NULL) {
		env->counters[FULL]++;
		return mac;
	}
	env->counters[has_gone ? MOVED : NEW]++;
	dps_touch(f, sizeof(*f));
	*f = (struct flow){ key, to };
	return mac;
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

static uint16_t
forward(struct dps_packet *p, uint64_t mac)
{
	dps_touch(env->counters, 2 * sizeof(uint64_t));
	env->counters[PACKETS]++;
	env->counters[BYTES] += p->total;
	be16_put(p->data, (uint32_t)(mac >> 32));
	be32_put(p->data + 2, (uint32_t)mac);
	memcpy(p->data + 6, env->ports[out_port].mac, 6);
	return dps_out(out_port);
}

static int
has_address(const uint8_t *address, int is6)
{
	for (uint32_t i = 0; i < VIP_SLOTS; i++)
		if (vips[i].protocol != 0 && vips[i].is6 == is6 &&
		    memcmp(vips[i].address, address, is6 ? 16 : 4) == 0)
			return 1;
	return 0;
}

/* To a virtual address: an error goes to the backend of the flow that it is about, which sent the packet that it
 * quotes; anything else, such as an echo, by its source. */
static uint16_t
icmp(struct dps_packet *p, const uint8_t *ip, int is6, const uint8_t *l4, uint32_t room)
{
	const struct places *t = (const struct places *)backends->at;
	uint32_t size = is6 ? 16 : 4, head = IPV6, want, protocol;
	const uint8_t *vip = ip + (is6 ? 24 : 16), *about = l4 + 8, *to, *ports;
	struct dps_tuple tuple = { .version = is6 ? 6 : 4 };
	uint64_t key, mac;
	int is_there;
	struct flow *f;

	if (!has_address(vip, is6))
		return pass(p);
	if (is6 ? (l4[0] & 0x80) != 0 : l4[0] != 3 && l4[0] != 11 && l4[0] != 12) {
		if (is6 && l4[0] >= 133 && l4[0] <= 137)
			return pass(p);
		mac = backend_of(t, mix(address_hash(ip + (is6 ? 8 : 12), is6), address_hash(vip, is6)));
		return mac == 0 ? dps_drop(NO_BACKEND) : forward(p, mac);
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
	if (vip_slot(vip, is6, tuple.protocol, tuple.to_port)->protocol == 0)
		return dps_drop(PROTOCOL);
	key = key_of(to, vip, is6, protocol, (uint32_t)tuple.to_port << 16 | tuple.from_port);
	want = by_source ? dps_bucket((uint32_t)key) : dps_bucket(dps_hash_of(env, &tuple));
	if (dps_bucket(p->hash) != want)
		return dps_on_hash(env->group_index, want);
	f = find((struct bucket *)p->bucket_state, key, &is_there);
	mac = is_there && t->slots[mac_slot(t, f->to >> 16)] == f->to >> 16 ? f->to >> 16 : backend_of(t, key);
	if (mac == 0)
		return dps_drop(NO_BACKEND);
	count(ERRORS);
	return forward(p, mac);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const struct places *t = (const struct places *)backends->at;
	uint32_t at, head = IPV6, len, protocol, least, room;
	uint16_t from_port, to_port;
	const uint8_t *ip, *l4, *vip;
	uint64_t key, mac;
	int is6;

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
		return has_address(vip, is6) ? dps_drop(FRAGMENT) : pass(p);
	if (protocol != TCP && protocol != UDP && protocol != (is6 ? ICMP6 : ICMP4))
		return has_address(vip, is6) ? dps_drop(PROTOCOL) : pass(p);
	least = protocol == TCP ? 20 : 8;
	if (len < head + least || p->len < at + head + least || p->total < at + len)
		return has_address(vip, is6) ? dps_drop(BAD_HEADER) : pass(p);
	l4 = ip + head;
	room = p->len - at < len ? p->len - at : len;
	if (protocol != TCP && protocol != UDP)
		return icmp(p, ip, is6, l4, room - head);
	memcpy(&from_port, l4, 2);
	memcpy(&to_port, l4 + 2, 2);
	if (vip_slot(vip, is6, (uint8_t)protocol, to_port)->protocol == 0)
		return pass(p);
	key = key_of(ip + (is6 ? 8 : 12), vip, is6, protocol, (uint32_t)to_port << 16 | from_port);
	if (by_source && dps_bucket(p->hash) != dps_bucket((uint32_t)key))
		return dps_on_hash(env->group_index, (uint32_t)key);
	mac = choose((struct bucket *)p->bucket_state, t, key, protocol, protocol == TCP ? l4[13] : 0);
	return mac == 0 ? dps_drop(NO_BACKEND) : forward(p, mac);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "balance",
	.needs = DPS_PLUGIN_HASH,
	.rewrites = 12,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.bucket_tick_us = TICK_US,
	.bucket_tick = bucket_tick,
	.policy = 1u << OTHER,
	.table_apply = apply,
	.table_layout = 1,
};
