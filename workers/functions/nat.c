/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nat: translates IPv4 sources to one or several outside addresses. docs/functions/nat.md is its page.
 * Over 600 lines: a plugin is one file, and bindings, the choice of ports and packets need each other.
 *
 *     [[workers]]
 *     plugin = "nat"
 *     bucket_state = "auto"
 *     args = { inside = "lan", outside = "wan", address = "192.0.2.1" }
 *
 * A binding lies in the state of the bucket in which the packets from inside land. Its outside port is chosen so
 * that the answers land there too: the hash is linear, so the ports that bring an answer into a bucket are those of
 * one of 512 lists, which are made once (`classes`). ICMP echoes have no ports in their hash; they are steered to the
 * bucket of their answers. So no two workers share anything, and a binding goes where its bucket goes.
 *
 * What creates a binding is touched before: entry, heads of both chains (which lie in one line), the bit that says
 * the entry is used, counters. What ends one does not depend on where it is cut short: see bucket_tick.
 */
#include <arpa/inet.h>
#include <stdio.h>

#include "arguments.h"
#include "headers.h"

enum {
	TCP = 6,
	UDP = 17,
	ICMP = 1,

	REWRITES = ETHER + 60 + 8 + 60 + 18, /* of an ICMP error, the checksum of the TCP header that it quotes */
	MOST_ADDRESSES = 64,
	MOST_DIRECT = 16,

	LINES = 32,
	HEADS = 16,             /* in a line, of each of the two chains */
	BINDINGS = 1272,        /* of a bucket: what fits DPS_PLUGIN_BUCKET_STATE */
	WORDS = (BINDINGS + 63) / 64,

	UNIT = 26,              /* a binding's time counts in 2^26 ns */
	TICK_US = 1000000,
};

enum reason {
	BAD_HEADER, FRAGMENT, PROTOCOL, NO_BINDING, NOT_OURS, NO_PORT, FULL, HAIRPIN,
};

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [FRAGMENT] = "fragment", [PROTOCOL] = "protocol",
	[NO_BINDING] = "no_binding", [NOT_OURS] = "not_ours", [NO_PORT] = "no_port", [FULL] = "full",
	[HAIRPIN] = "hairpin", NULL,
};

enum counter {
	CREATED, EXPIRED, OUTWARD, INWARD, ERRORS, PASSED,
};

static const char *const counters[] = {
	[CREATED] = "created", [EXPIRED] = "expired", [OUTWARD] = "outward", [INWARD] = "inward",
	[ERRORS] = "icmp_errors", [PASSED] = "passed", NULL,
};

/* A binding. Addresses and ports as they stand in packets; of an ICMP echo its identifier is the port inside and
 * outside, and the remote port is 0. */
struct binding {
	uint32_t inside;
	uint32_t remote;
	uint16_t inside_port;
	uint16_t remote_port;
	uint16_t outside_port;
	uint16_t next[2];       /* of the chains by inside and by outside: an index + 1, or 0 */
	uint8_t protocol;
	uint8_t address;        /* index of the outside address */
	uint32_t life;          /* when it ends, in units, << 4, and the state of a TCP connection */
};

/* What has been seen of a TCP connection. */
enum { ANSWERED = 1, OPEN = 2, FIN_OUT = 4, FIN_IN = 8, CLOSED = FIN_OUT | FIN_IN };

/* A bucket's state. Chains lead to used bindings. */
struct bucket {
	uint64_t used[WORDS];
	uint16_t heads[LINES][2][HEADS];
	struct binding binding[BINDINGS];
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");
_Static_assert(sizeof(((struct bucket *)0)->heads[0]) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is enough");

enum { BY_INSIDE, BY_OUTSIDE };

/* What a packet says about its flow. */
struct flow {
	uint32_t inside;
	uint32_t remote;
	uint16_t inside_port;
	uint16_t remote_port;
	uint16_t outside_port;
	uint8_t protocol;
	uint8_t address;
};

static const struct dps_env *env;
static int inside_port, outside_port;
static uint16_t from_inside, from_outside;      /* verdicts */
static uint32_t addresses[MOST_ADDRESSES], n_addresses;
static struct { uint32_t net, mask; } direct[MOST_DIRECT];
static uint32_t n_direct;
static uint32_t first_port = 1024, last_port = 65535;
static uint32_t life_open = 7440, life_tcp = 240, life_udp = 300, life_icmp = 60; /* s */
static int passes_unknown;

/* Ports by what they are worth in the bucket of an answer to them: the list of class c is
 * ports[classes[c]] and on, to ports[classes[c + 1]]. */
static uint16_t ports[65536];
static uint32_t classes[DPS_PLUGIN_BUCKETS + 1];
static uint8_t has_ports[2];                    /* TCP, UDP: their hash has ports */

/* --- arguments ---------------------------------------------------------------------------------- */

/* Calls take for each of the parts between commas. */
static int
take_list(const char *key, int (*take)(const char *part))
{
	const char *value = dps_arg(env, key);
	char part[64];

	while (value != NULL) {
		const char *end;
		size_t len;

		value += strspn(value, " ");
		end = strchr(value, ',');
		len = end == NULL ? strlen(value) : (size_t)(end - value);
		while (len > 0 && value[len - 1] == ' ')
			len--;
		if (len >= sizeof(part))
			return refuse(env, "%s: \"%s\" is too long for an address", key, value);
		memcpy(part, value, len);
		part[len] = '\0';
		if (take(part) != 0)
			return -1;
		value = end == NULL ? NULL : end + 1;
	}
	return 0;
}

static int
take_address(const char *part)
{
	if (n_addresses == MOST_ADDRESSES)
		return refuse(env, "address: it takes 64 addresses, and \"%s\" is one more%s", part, "");
	if (inet_pton(AF_INET, part, &addresses[n_addresses]) != 1)
		return refuse(env, "address: \"%s\" is not an IPv4 address%s", part, "");
	n_addresses++;
	return 0;
}

static int
take_direct(const char *part)
{
	char net[64], *slash, *end = NULL;
	unsigned long bits = 32;

	snprintf(net, sizeof(net), "%s", part);
	slash = strchr(net, '/');
	if (slash != NULL) {
		*slash = '\0';
		bits = strtoul(slash + 1, &end, 10);
	}
	if (n_direct == MOST_DIRECT)
		return refuse(env, "direct: it takes 16 prefixes, and \"%s\" is one more%s", part, "");
	if (inet_pton(AF_INET, net, &direct[n_direct].net) != 1 || bits > 32 ||
	    (slash != NULL && (end == slash + 1 || *end != '\0')))
		return refuse(env, "direct: \"%s\" is not an IPv4 prefix%s", part, "");
	direct[n_direct].mask = htonl(bits == 0 ? 0 : 0xffffffffu << (32 - bits));
	direct[n_direct].net &= direct[n_direct].mask;
	n_direct++;
	return 0;
}

static int
take_u32(const char *key, uint32_t least, uint32_t most, uint32_t *number)
{
	uint64_t n = *number;

	if (take_number(env, key, least, most, &n) != 0)
		return -1;
	*number = (uint32_t)n;
	return 0;
}

static int
take_args(void)
{
	static const char *const known[] = {
		"inside", "outside", "address", "next", "direct", "unknown", "first_port", "last_port",
		"tcp_open", "tcp", "udp", "icmp",
	};
	const char *next = dps_arg(env, "next"), *unknown = dps_arg(env, "unknown");

	for (uint32_t i = 0; i < env->n_args; i++) {
		uint32_t k = 0;

		while (k < sizeof(known) / sizeof(known[0]) && strcmp(env->arg_keys[i], known[k]) != 0)
			k++;
		if (k == sizeof(known) / sizeof(known[0]))
			return refuse(env, "it has no argument \"%s\"%s", env->arg_keys[i], "");
	}
	if (take_port(env, "inside", &inside_port) != 0 || take_port(env, "outside", &outside_port) != 0)
		return -1;
	if (inside_port == outside_port)
		return refuse(env, "inside and outside are the same port \"%s\"%s", dps_arg(env, "inside"), "");
	if (take_list("address", take_address) != 0 || take_list("direct", take_direct) != 0)
		return -1;
	if (n_addresses == 0)
		return refuse(env, "it needs the argument \"%s\": outside addresses, with commas between them%s",
			      "address", "");
	if (take_u32("first_port", 1, 65535, &first_port) != 0 ||
	    take_u32("last_port", first_port, 65535, &last_port) != 0 ||
	    take_u32("tcp_open", 1, 1000000, &life_open) != 0 ||
	    take_u32("tcp", 1, 1000000, &life_tcp) != 0 ||
	    take_u32("udp", 1, 1000000, &life_udp) != 0 ||
	    take_u32("icmp", 1, 1000000, &life_icmp) != 0)
		return -1;
	passes_unknown = unknown != NULL && strcmp(unknown, "pass") == 0;
	if (unknown != NULL && !passes_unknown && strcmp(unknown, "drop") != 0)
		return refuse(env, "unknown: \"%s\" is neither drop nor pass%s", unknown, "");
	from_inside = dps_out((uint32_t)outside_port);
	from_outside = dps_out((uint32_t)inside_port);
	if (next != NULL) {
		int group = dps_group(env, next);

		if (group < 0 || (uint32_t)group == env->group_index)
			return refuse(env, "next: there is no other group \"%s\"%s", next, "");
		from_inside = from_outside = dps_on((uint32_t)group);
	}
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return take_args();
}

/* --- which bucket an answer lands in -------------------------------------------------------------- */

static inline uint32_t
hash_of(uint8_t protocol, uint32_t from, uint16_t from_port, uint32_t to, uint16_t to_port)
{
	struct dps_tuple t = { .version = 4, .protocol = protocol, .from_port = from_port,
			       .to_port = to_port };

	memcpy(t.from, &from, 4);
	memcpy(t.to, &to, 4);
	return dps_hash_of(env, &t);
}

static inline int
is_with_ports(uint8_t protocol)
{
	return protocol != ICMP && has_ports[protocol == UDP];
}

/* The bucket in which a flow's binding lies: that of the packets from inside, where a port can be chosen that
 * brings answers there, else that of the answers. */
static uint32_t
home(const struct flow *f)
{
	if (is_with_ports(f->protocol))
		return dps_bucket(hash_of(f->protocol, f->inside, f->inside_port, f->remote, f->remote_port));
	return dps_bucket(hash_of(f->protocol, f->remote, 0, addresses[f->address], 0));
}

/* The hash is the same function in all processes of the instance. */
static void
seated(void *state, const struct dps_env *e)
{
	static uint16_t worth[65536];
	uint32_t count[DPS_PLUGIN_BUCKETS] = { 0 }, zero[2], bits[2] = { 0, 0 }, which;

	(void)state;
	(void)e;
	for (int udp = 0; udp < 2; udp++) {
		zero[udp] = hash_of(udp ? UDP : TCP, 0, 0, 0, 0);
		for (uint32_t bit = 0; bit < 16; bit++)
			bits[udp] |= dps_bucket(zero[udp] ^ hash_of(udp ? UDP : TCP, 0, 0, 0,
								    htons((uint16_t)(1u << bit))));
		has_ports[udp] = bits[udp] != 0;
	}
	which = has_ports[0] ? TCP : UDP;
	worth[0] = 0;
	for (uint32_t port = 1; port < 65536; port++) {
		uint32_t one = port & (0 - port);

		worth[port] = port == one ?
			(uint16_t)dps_bucket(zero[which == UDP] ^
					     hash_of((uint8_t)which, 0, 0, 0, htons((uint16_t)port))) :
			(uint16_t)(worth[port ^ one] ^ worth[one]);
		if (port >= first_port && port <= last_port)
			count[worth[port]]++;
	}
	classes[0] = 0;
	for (uint32_t c = 0; c < DPS_PLUGIN_BUCKETS; c++) {
		classes[c + 1] = classes[c] + count[c];
		count[c] = classes[c];
	}
	for (uint32_t port = first_port; port <= last_port; port++)
		ports[count[worth[port]]++] = htons((uint16_t)port);
}

/* --- bindings ------------------------------------------------------------------------------------- */

static inline uint32_t
mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product =
		(unsigned __int128)(a ^ 0xa0761d6478bd642full) * (b ^ 0xe7037ed1a0b428dbull);

	return (uint32_t)((uint64_t)product ^ (uint64_t)(product >> 64));
}

/* The units until an end that is at most 104 days off; what has ended has 0 or less. */
static inline int32_t
left(uint32_t life)
{
	return (int32_t)((life & ~0xfu) - ((uint32_t)(env->now >> UNIT) << 4));
}

static inline uint16_t *
line_of(struct bucket *b, const struct flow *f)
{
	return b->heads[mix(f->remote, (uint64_t)f->remote_port << 8 | f->protocol) % LINES][0];
}

static inline uint32_t
head_of(const struct flow *f, int by)
{
	return by == BY_INSIDE ? mix(f->inside, f->inside_port) % HEADS :
				 HEADS + mix(f->address, f->outside_port) % HEADS;
}

static inline int
is_of(const struct binding *e, const struct flow *f, int by)
{
	if (e->remote != f->remote || e->remote_port != f->remote_port || e->protocol != f->protocol ||
	    e->address != f->address)
		return 0;
	return by == BY_INSIDE ? e->inside == f->inside && e->inside_port == f->inside_port :
				 e->outside_port == f->outside_port;
}

/* The binding of a flow, unless its time is over: such a one is not there, and is never revived. Nor is one whose
 * outside address was taken from the host by another list of addresses. */
static struct binding *
find(struct bucket *b, const struct flow *f, int by)
{
	uint32_t at = line_of(b, f)[head_of(f, by)];

	while (at != 0 && at <= BINDINGS) {
		struct binding *e = &b->binding[at - 1];

		if (is_of(e, f, by) && left(e->life) > 0)
			return e;
		at = e->next[by];
	}
	return NULL;
}

/* An outside port, or identifier, that this remote endpoint has none of; 0: all are in use. */
static int
choose(struct bucket *b, struct flow *f, uint32_t bucket)
{
	const uint16_t *list = ports;
	uint32_t n, at;

	if (is_with_ports(f->protocol)) {
		uint32_t class = bucket ^ dps_bucket(hash_of(f->protocol, f->remote, f->remote_port,
							     addresses[f->address], 0));

		list += classes[class];
		n = classes[class + 1] - classes[class];
	} else {
		n = last_port - first_port + 1;
	}
	if (n == 0)
		return 0;
	/* The same for a packet that is run once more. */
	at = mix(f->remote, (uint64_t)f->inside << 32 | (uint32_t)f->inside_port << 16 | f->remote_port) % n;
	/* A bucket has fewer bindings than this, so one of so many is free. */
	for (uint32_t i = 0; i < n && i <= BINDINGS; i++, at = at + 1 == n ? 0 : at + 1) {
		f->outside_port = list[at];
		if (find(b, f, BY_OUTSIDE) == NULL)
			return 1;
	}
	return 0;
}

static void
count(enum counter which)
{
	dps_touch(&env->counters[which], sizeof(uint64_t));
	env->counters[which]++;
}

/* A new binding of a flow from inside; NULL: there is no room, for this reason. Four touches, with that of
 * the counters, which the caller has made. */
static struct binding *
create(struct bucket *b, struct flow *f, uint32_t bucket, enum reason *why)
{
	struct binding *e;
	uint16_t *line = line_of(b, f), *heads[2];
	uint32_t word = 0, at;

	while (word < WORDS && b->used[word] == (word == WORDS - 1 && BINDINGS % 64 != 0 ?
							 (1ull << BINDINGS % 64) - 1 : ~0ull))
		word++;
	*why = FULL;
	if (word == WORDS)
		return NULL;
	*why = NO_PORT;
	if (!choose(b, f, bucket))
		return NULL;
	at = word * 64 + (uint32_t)__builtin_ctzll(~b->used[word]);
	e = &b->binding[at];
	dps_touch(e, sizeof(*e));
	dps_touch(line, sizeof(b->heads[0]));
	dps_touch(&b->used[word], sizeof(b->used[word]));
	heads[BY_INSIDE] = &line[head_of(f, BY_INSIDE)];
	heads[BY_OUTSIDE] = &line[head_of(f, BY_OUTSIDE)];
	*e = (struct binding){ .inside = f->inside, .remote = f->remote, .inside_port = f->inside_port,
			       .remote_port = f->remote_port, .outside_port = f->outside_port,
			       .next = { *heads[BY_INSIDE], *heads[BY_OUTSIDE] },
			       .protocol = f->protocol, .address = f->address };
	*heads[BY_INSIDE] = *heads[BY_OUTSIDE] = (uint16_t)(at + 1);
	b->used[word] |= 1ull << (at % 64);
	env->counters[CREATED]++;
	return e;
}

/* A packet of a binding: its time begins anew. One store, so it needs no touch: done twice it is the same. */
static inline void
refresh(struct binding *e, const uint8_t *l4, int outward)
{
	uint32_t state = e->life & 0xf, seconds, life;

	if (e->protocol == TCP) {
		uint8_t flags = l4[13];

		if (outward && (flags & 0x12) == 0x02 && (state & CLOSED) == CLOSED)
			state = 0; /* a connection anew */
		if (!outward)
			state |= ANSWERED;
		else if ((state & ANSWERED) != 0 && (flags & 0x10) != 0)
			state |= OPEN;
		if ((flags & 0x01) != 0)
			state |= outward ? FIN_OUT : FIN_IN;
		if ((flags & 0x04) != 0)
			state |= CLOSED;
		seconds = (state & OPEN) != 0 && (state & CLOSED) != CLOSED ? life_open : life_tcp;
	} else {
		seconds = e->protocol == UDP ? life_udp : life_icmp;
	}
	life = (uint32_t)((env->now + seconds * 1000000000ull) >> UNIT) << 4 | state;
	if (life != e->life)
		__atomic_store_n(&e->life, life, __ATOMIC_RELAXED);
}

static void
unlink_from(struct bucket *b, uint32_t at, const struct flow *f, int by)
{
	uint16_t *link = &line_of(b, f)[head_of(f, by)];

	while (*link != 0 && *link <= BINDINGS && *link != at + 1)
		link = &b->binding[*link - 1].next[by];
	if (*link == at + 1)
		__atomic_store_n(link, b->binding[at].next[by], __ATOMIC_RELEASE);
}

/*
 * Bindings whose time is over go. First out of both chains, each with one store: a worker that is killed between
 * two of them leaves a binding that is over, in fewer chains, and used; the next tick goes on. Then the bits of all,
 * and their number, which are touched.
 */
static void
bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	struct bucket *b = (struct bucket *)bucket_state;
	uint64_t over[WORDS], n = 0;

	(void)state;
	(void)bucket;
	for (uint32_t word = 0; word < WORDS; word++) {
		over[word] = 0;
		for (uint64_t rest = b->used[word]; rest != 0; rest &= rest - 1) {
			uint32_t at = word * 64 + (uint32_t)__builtin_ctzll(rest);
			const struct binding *e = &b->binding[at];
			struct flow f;

			if (left(e->life) > 0)
				continue;
			f = (struct flow){ e->inside, e->remote, e->inside_port, e->remote_port,
					   e->outside_port, e->protocol, e->address };
			unlink_from(b, at, &f, BY_INSIDE);
			unlink_from(b, at, &f, BY_OUTSIDE);
			over[word] |= 1ull << (at % 64);
			n++;
		}
	}
	if (n == 0)
		return;
	dps_touch(&env->counters[EXPIRED], sizeof(uint64_t));
	env->counters[EXPIRED] += n;
	for (uint32_t word = 0; word < WORDS; word += 8) {
		uint32_t last = word + 8 < WORDS ? word + 8 : WORDS;

		dps_touch(&b->used[word], (last - word) * sizeof(b->used[0]));
		for (uint32_t i = word; i < last; i++)
			b->used[i] &= ~over[i];
	}
}
_Static_assert((WORDS + 7) / 8 + 1 <= DPS_PLUGIN_TOUCHES_MOST, "a tick may free all of a bucket's bindings");

/* --- packets -------------------------------------------------------------------------------------- */

static inline uint32_t
word_at(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline uint16_t
half_at(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static int
address_index(uint32_t address)
{
	for (uint32_t i = 0; i < n_addresses; i++)
		if (addresses[i] == address)
			return (int)i;
	return -1;
}

/* All flows of a host inside have the same outside address (RFC 4787, REQ-2). */
static inline uint8_t
address_for(uint32_t inside)
{
	return (uint8_t)(n_addresses == 1 ? 0 : mix(inside, 0) % n_addresses);
}

static inline int
is_direct(uint32_t remote)
{
	for (uint32_t i = 0; i < n_direct; i++)
		if ((remote & direct[i].mask) == direct[i].net)
			return 1;
	return 0;
}

/* An address and a port (of an ICMP echo, its identifier) become others, and the checksums that hold them follow.
 * `room` is how many bytes there are of the header of the protocol. */
static void
rewrite(uint8_t *ip, uint32_t address_at, uint8_t *l4, uint32_t port_at, uint32_t room, uint32_t address,
	uint16_t port)
{
	uint32_t sum_at = ip[9] == TCP ? 16 : ip[9] == UDP ? 6 : 2;
	uint8_t was[6], is[6];
	uint16_t sum;

	memcpy(was, ip + address_at, 4);
	memcpy(was + 4, l4 + port_at, 2);
	memcpy(is, &address, 4);
	memcpy(is + 4, &port, 2);
	sum = dps_sum_changed(half_at(ip + 10), was, is, 4);
	memcpy(ip + 10, &sum, 2);
	memcpy(ip + address_at, is, 4);
	memcpy(l4 + port_at, is + 4, 2);
	if (room < sum_at + 2)
		return;
	sum = half_at(l4 + sum_at);
	if (ip[9] == ICMP)
		sum = dps_sum_changed(sum, was + 4, is + 4, 2);
	else
		sum = ip[9] == UDP ? dps_sum_udp(sum, was, is, 6) : dps_sum_changed(sum, was, is, 6);
	memcpy(l4 + sum_at, &sum, 2);
}

static uint16_t
pass(uint16_t verdict)
{
	count(PASSED);
	return verdict;
}

static uint16_t
unknown(void)
{
	return passes_unknown ? pass(from_outside) : dps_drop(NO_BINDING);
}

/* From inside: to its binding's outside port, or to that of a new one. */
static uint16_t
outward(struct dps_packet *p, uint8_t *ip, uint8_t *l4)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	struct flow f = { .inside = word_at(ip + 12), .remote = word_at(ip + 16), .protocol = ip[9] };
	uint32_t bucket = dps_bucket(p->hash), port_at = ip[9] == ICMP ? 4 : 0;
	struct binding *e;
	enum reason why;

	f.address = address_for(f.inside);
	f.inside_port = half_at(l4 + port_at);
	f.remote_port = ip[9] == ICMP ? 0 : half_at(l4 + 2);
	if (!is_with_ports(f.protocol) && home(&f) != bucket)
		return dps_on_hash(env->group_index, home(&f));
	e = find(b, &f, BY_INSIDE);
	dps_touch(env->counters, (OUTWARD + 1) * sizeof(uint64_t));
	if (e == NULL) {
		/* SYN, without ACK, RST and FIN, opens a connection; nothing else does. */
		if (f.protocol == TCP && (l4[13] & 0x17) != 0x02)
			return dps_drop(NO_BINDING);
		e = create(b, &f, bucket, &why);
		if (e == NULL)
			return dps_drop(why);
	}
	refresh(e, l4, 1);
	env->counters[OUTWARD]++;
	rewrite(ip, 12, l4, port_at, p->len - (uint32_t)(l4 - p->data), addresses[e->address], e->outside_port);
	return from_inside;
}

static uint16_t
inward(struct dps_packet *p, uint8_t *ip, uint8_t *l4, int address)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	struct flow f = { .remote = word_at(ip + 12), .protocol = ip[9], .address = (uint8_t)address };
	uint32_t port_at = ip[9] == ICMP ? 4 : 2;
	struct binding *e;

	f.outside_port = half_at(l4 + port_at);
	f.remote_port = ip[9] == ICMP ? 0 : half_at(l4);
	e = find(b, &f, BY_OUTSIDE);
	if (e == NULL)
		return unknown();
	refresh(e, l4, 0);
	count(INWARD);
	rewrite(ip, 16, l4, port_at, p->len - (uint32_t)(l4 - p->data), e->inside, e->inside_port);
	return from_outside;
}

/*
 * An ICMP error about a packet of a binding, from inside or outside (RFC 5508, REQ-4 and 5): it is steered to the
 * binding's bucket; there the packet that it quotes, and its own address, are translated.
 */
static uint16_t
error(struct dps_packet *p, uint8_t *ip, uint8_t *icmp, int address, int is_outward)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	uint32_t room = p->len - (uint32_t)(icmp - p->data), head, len, want, port_at;
	uint32_t length = be16_at(ip + 2) - (uint32_t)(icmp - ip);
	uint8_t *about = icmp + 8, *l4, was[60 + 18];
	struct flow f = { 0 };
	struct binding *e;
	uint16_t sum;

	/* Bytes of the frame behind the IP packet are no part of what it quotes, nor of its checksum. */
	room = room < length ? room : length;
	if (room < 8 + IPV4 + 8 || about[0] >> 4 != 4)
		return dps_drop(BAD_HEADER);
	head = (about[0] & 0xfu) * 4;
	if (head < IPV4 || room < 8 + head + 8)
		return dps_drop(BAD_HEADER);
	if ((be16_at(about + 6) & 0x1fff) != 0)
		return dps_drop(FRAGMENT);
	l4 = about + head;
	f.protocol = about[9];
	if (f.protocol != TCP && f.protocol != UDP &&
	    (f.protocol != ICMP || l4[0] != (is_outward ? 0 : 8)))
		return dps_drop(PROTOCOL);
	/* The quoted packet went the other way. */
	if (is_outward) {
		f.inside = word_at(about + 16);
		f.remote = word_at(about + 12);
		f.address = address_for(f.inside);
		f.inside_port = half_at(l4 + (f.protocol == ICMP ? 4 : 2));
		f.remote_port = f.protocol == ICMP ? 0 : half_at(l4);
		want = home(&f);
	} else {
		if (word_at(about + 12) != addresses[address])
			return dps_drop(NO_BINDING);
		f.address = (uint8_t)address;
		f.remote = word_at(about + 16);
		f.outside_port = half_at(l4 + (f.protocol == ICMP ? 4 : 0));
		f.remote_port = f.protocol == ICMP ? 0 : half_at(l4 + 2);
		want = dps_bucket(hash_of(f.protocol, f.remote, f.remote_port, addresses[address],
					  f.protocol == ICMP ? 0 : f.outside_port));
	}
	if (want != dps_bucket(p->hash))
		return dps_on_hash(env->group_index, want);
	e = find(b, &f, is_outward ? BY_INSIDE : BY_OUTSIDE);
	if (e == NULL)
		return is_outward ? dps_drop(NO_BINDING) : unknown();
	count(ERRORS);
	room -= 8 + head;
	len = head + (room < 18 ? room & ~1u : 18);
	memcpy(was, about, len);
	port_at = f.protocol == ICMP ? 4 : is_outward ? 2 : 0;
	rewrite(about, is_outward ? 16 : 12, l4, port_at, room,
		is_outward ? addresses[e->address] : e->inside, is_outward ? e->outside_port : e->inside_port);
	sum = dps_sum_changed(half_at(icmp + 2), was, about, len);
	memcpy(icmp + 2, &sum, 2);
	/* Its own address; it has no port. */
	memcpy(was, ip + (is_outward ? 12 : 16), 4);
	memcpy(ip + (is_outward ? 12 : 16), is_outward ? &addresses[e->address] : &e->inside, 4);
	sum = dps_sum_changed(half_at(ip + 10), was, ip + (is_outward ? 12 : 16), 4);
	memcpy(ip + 10, &sum, 2);
	return is_outward ? from_inside : from_outside;
}

static inline int
is_error(const uint8_t *icmp)
{
	return icmp[0] == 3 || icmp[0] == 11 || icmp[0] == 12;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	int is_outward = p->port == inside_port, address;
	uint16_t on = is_outward ? from_inside : from_outside;
	uint8_t *ip = p->data + ETHER, *l4;
	uint32_t head, len, least;

	(void)state;
	if (p->len < ETHER || (!is_outward && p->port != outside_port))
		return dps_drop(BAD_HEADER);
	if (be16_at(p->data + 12) != 0x0800)
		return pass(on);
	if (p->len < ETHER + IPV4 || ip[0] >> 4 != 4)
		return dps_drop(BAD_HEADER);
	head = (ip[0] & 0xfu) * 4;
	len = be16_at(ip + 2);
	if (head < IPV4 || len < head || p->len < ETHER + head || p->total < ETHER + len)
		return dps_drop(BAD_HEADER);
	address = address_index(word_at(ip + 16));
	if (ip[16] >= 224 && passes_unknown)
		return pass(on);
	if (is_outward && is_direct(word_at(ip + 16)))
		return pass(on);
	if (is_outward && address >= 0)
		return dps_drop(HAIRPIN);
	if (!is_outward && address < 0)
		return dps_drop(NOT_OURS);
	if ((be16_at(ip + 6) & 0x3fff) != 0)
		return dps_drop(FRAGMENT);
	if (ip[9] != TCP && ip[9] != UDP && ip[9] != ICMP)
		return dps_drop(PROTOCOL);
	least = ip[9] == TCP ? 20 : 8;
	l4 = ip + head;
	if (len < head + least || p->len < ETHER + head + least)
		return dps_drop(BAD_HEADER);
	if (ip[9] == ICMP && is_error(l4))
		return error(p, ip, l4, address, is_outward);
	if (ip[9] == ICMP && l4[0] != (is_outward ? 8 : 0))
		return is_outward ? dps_drop(PROTOCOL) : unknown();
	return is_outward ? outward(p, ip, l4) : inward(p, ip, l4, address);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "nat",
	.needs = DPS_PLUGIN_HASH,
	.rewrites = REWRITES,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.seated = seated,
	.bucket_tick_us = TICK_US,
	.bucket_tick = bucket_tick,
	/* Not to what it is asked to translate, or not known: no fault of the version. */
	.policy = 1u << NO_BINDING | 1u << NOT_OURS,
};
