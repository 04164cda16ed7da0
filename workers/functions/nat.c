/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nat: translates IPv4 sources to one or several outside addresses, and endpoints there to hosts inside.
 * docs/functions/nat.md is its page.
 * Over 600 lines: a plugin is one file, and bindings, the choice of ports and packets need each other.
 *
 *     [[workers]]
 *     plugin = "nat"
 *     bucket_state = "auto"
 *     args = { inside = "lan", outside = "wan", address = "192.0.2.1" }
 *     tables.forwards = { kind = "own", key = "ipv4+be16+text3", value = "ipv4+be16", entries = 1000, bytes = "64KiB" }
 *
 * A binding that a host inside begins lies in the state of the bucket in which the packets from inside land. Its
 * outside port is chosen so that the answers land there too: the hash is linear, so the ports that bring an answer
 * into a bucket are those of one of 512 lists, which are made once (`classes`). ICMP echoes have no ports in their
 * hash; they are steered to the bucket of their answers. So no two workers share anything, and a binding goes where
 * its bucket goes.
 *
 * The outside port of a forward is given. Its bindings lie in the bucket of the packets from outside; those from
 * inside are steered there, by the table, or by what the first one of them left in its own bucket (ELSEWHERE).
 *
 * What creates a binding is touched before: see nat_binding.h. What ends one does not depend on where it is cut
 * short: see bucket_tick.
 */
#include "arguments.h"
#include "nat_binding.h"

enum {
	REWRITES = ETHER + 60 + 8 + 60 + 18, /* of an ICMP error, the checksum of the TCP header that it quotes */
	MOST_ADDRESSES = 64,
	MOST_DIRECT = 16,

	TICK_US = 1000000,

	FIN = 1, SYN = 2, RST = 4, ACK = 16,
};

enum reason {
	BAD_HEADER, FRAGMENT, PROTOCOL, NO_BINDING, NOT_OURS, NO_PORT, FULL, HAIRPIN,
	DAMAGED, NO_BLOCK, LIMIT,
};

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [FRAGMENT] = "fragment", [PROTOCOL] = "protocol",
	[NO_BINDING] = "no_binding", [NOT_OURS] = "not_ours", [NO_PORT] = "no_port", [FULL] = "full",
	[HAIRPIN] = "hairpin", [DAMAGED] = "damaged", [NO_BLOCK] = "no_block", [LIMIT] = "limit", NULL,
};

enum counter {
	CREATED, EXPIRED, OUTWARD, INWARD, ERRORS, PASSED, FORWARDED, HAIRPINNED,
};

static const char *const counters[] = {
	[CREATED] = "created", [EXPIRED] = "expired", [OUTWARD] = "outward", [INWARD] = "inward",
	[ERRORS] = "icmp_errors", [PASSED] = "passed", [FORWARDED] = "forwarded",
	[HAIRPINNED] = "hairpinned", NULL,
};

/* One touch takes all that a packet counts. */
_Static_assert((HAIRPINNED + 1) * sizeof(uint64_t) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is enough");

static const struct dps_env *env;
static int inside_port, outside_port;
static uint16_t from_inside, from_outside;      /* verdicts */
static uint32_t addresses[MOST_ADDRESSES];
static const struct dps_live_table *forwards;   /* NULL: it has none */
static int is_between;                          /* two links: no router follows */
static struct prefix { uint32_t net, mask; } direct[MOST_DIRECT];
static uint32_t n_direct;
static struct prefix hosts;                     /* that have a block of ports each */
static uint32_t block, per_address;             /* its ports; 0: there are none; hosts of one address */
static uint32_t limit;                          /* bindings of a host in one bucket; 0: as many as there are */
static uint32_t first_port = 1024, last_port = 65535;
static uint32_t life_open = 7440, life_tcp = 240, life_udp = 300, life_icmp = 60; /* s */
static int passes_unknown;

/* Ports by what they are worth in the bucket of an answer to them: the list of class c is
 * ports[classes[c]] and on, to ports[classes[c + 1]]. */
static uint16_t ports[65536];
static uint32_t classes[DPS_PLUGIN_BUCKETS + 1];
static uint8_t has_ports[2];                    /* TCP, UDP: their hash has ports */
static int is_symmetric;                        /* both directions of a flow have the same hash */

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
take_prefix(const char *key, const char *part, struct prefix *to)
{
	char net[64], *slash, *end = NULL;
	unsigned long bits = 32;

	snprintf(net, sizeof(net), "%s", part);
	slash = strchr(net, '/');
	if (slash != NULL) {
		*slash = '\0';
		bits = strtoul(slash + 1, &end, 10);
	}
	if (inet_pton(AF_INET, net, &to->net) != 1 || bits > 32 ||
	    (slash != NULL && (end == slash + 1 || *end != '\0')))
		return refuse(env, "%s: \"%s\" is not an IPv4 prefix", key, part);
	to->mask = htonl(bits == 0 ? 0 : 0xffffffffu << (32 - bits));
	to->net &= to->mask;
	return 0;
}

static int
take_direct(const char *part)
{
	if (n_direct == MOST_DIRECT)
		return refuse(env, "direct: it takes 16 prefixes, and \"%s\" is one more%s", part, "");
	if (take_prefix("direct", part, &direct[n_direct]) != 0)
		return -1;
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

/* Which host has which ports follows from its address alone (RFC 7422). */
static int
take_blocks(void)
{
	const char *prefix = dps_arg(env, "hosts");
	char need[32], room[32];

	if (take_u32("block", DPS_PLUGIN_BUCKETS, 65536 - DPS_PLUGIN_BUCKETS, &block) != 0)
		return -1;
	if ((prefix == NULL) != (block == 0))
		return refuse(env, "%s needs %s too", prefix == NULL ? "block" : "hosts",
			      prefix == NULL ? "hosts, the prefix of those that have a block" :
					       "block, how many ports each of them has");
	if (prefix == NULL)
		return 0;
	if (take_prefix("hosts", prefix, &hosts) != 0)
		return -1;
	/* Each such range has one port for each bucket. */
	if (block % DPS_PLUGIN_BUCKETS != 0 || first_port % DPS_PLUGIN_BUCKETS != 0)
		return refuse(env, "%s is no multiple of 512%s", block % DPS_PLUGIN_BUCKETS != 0 ? "block" : "first_port",
			      ": a bucket would have more ports of a host than another");
	per_address = (last_port + 1 - first_port) / block;
	snprintf(need, sizeof(need), "%llu", (unsigned long long)~ntohl(hosts.mask) + 1);
	snprintf(room, sizeof(room), "%u", per_address * n_addresses);
	return (unsigned long long)~ntohl(hosts.mask) + 1 <= per_address * n_addresses ? 0 :
		       refuse(env, "hosts: it has %s addresses, and there are %s blocks: give smaller blocks, or more "
			      "outside addresses", need, room);
}

static int
take_args(void)
{
	static const char *const known[] = {
		"inside", "outside", "address", "next", "direct", "unknown", "first_port", "last_port",
		"tcp_open", "tcp", "udp", "icmp", "hosts", "block", "limit", NULL,
	};
	const char *next = dps_arg(env, "next"), *unknown = dps_arg(env, "unknown");

	if (take_known(env, known) != 0)
		return -1;
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
	    take_u32("icmp", 1, 1000000, &life_icmp) != 0 ||
	    take_u32("limit", 1, DPS_PLUGIN_BUCKETS * BINDINGS, &limit) != 0 || take_blocks() != 0)
		return -1;
	limit = (limit + DPS_PLUGIN_BUCKETS - 1) / DPS_PLUGIN_BUCKETS;
	passes_unknown = unknown != NULL && strcmp(unknown, "pass") == 0;
	if (unknown != NULL && !passes_unknown && strcmp(unknown, "drop") != 0)
		return refuse(env, "unknown: \"%s\" is neither drop nor pass%s", unknown, "");
	is_between = next == NULL;
	from_inside = dps_out((uint32_t)outside_port);
	from_outside = dps_out((uint32_t)inside_port);
	if (next != NULL) {
		int group = dps_group(env, next);

		if (group < 0 || (uint32_t)group == env->group_index)
			return refuse(env, "next: there is no other group \"%s\"%s", next, "");
		from_inside = from_outside = dps_on((uint32_t)group);
	}
	forwards = dps_table(env, "forwards");
	if (forwards != NULL && (forwards->kind != DPS_TABLE_OWN || forwards->key_bytes != FORWARD_KEY ||
				 forwards->value_bytes != FORWARD_VALUE))
		return refuse(env, "table \"forwards\" has another kind, key or value than it looks up: write kind = \"own\", "
			      "key = \"ipv4+be16+text3\", value = \"ipv4+be16\"%s%s", "", "");
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

/* The bucket in which the packets from outside land. */
static uint32_t
outer(const struct flow *f)
{
	return dps_bucket(hash_of(f->protocol, f->remote, f->remote_port, addresses[f->address], f->outside_port));
}

/* The bucket in which a binding lies that a host inside begins: that of the packets from inside, where a port can be
 * chosen that brings answers there, else that of the answers. */
static uint32_t
home(const struct flow *f)
{
	if (is_with_ports(f->protocol))
		return dps_bucket(hash_of(f->protocol, f->inside, f->inside_port, f->remote, f->remote_port));
	return dps_bucket(hash_of(f->protocol, f->remote, 0, addresses[f->address], 0));
}

/* A hash is linear: it is what its bits are worth. */
static int
has_symmetric_hash(void)
{
	int differs = 0;

	for (uint32_t bit = 0; bit < 32; bit++) {
		uint32_t one = htonl(1u << bit);
		uint16_t port = bit < 16 ? htons((uint16_t)(1u << bit)) : 0;

		for (int udp = 0; udp < 2; udp++)
			differs |= dps_bucket(hash_of(udp ? UDP : TCP, one, port, 0, 0)) !=
				   dps_bucket(hash_of(udp ? UDP : TCP, 0, 0, one, port));
	}
	return !differs;
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
	is_symmetric = has_symmetric_hash();
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

/* The number of a host that has a block. */
static inline uint32_t
host_number(uint32_t inside)
{
	return ntohl(inside & ~hosts.mask);
}

static inline int
has_block(uint32_t inside)
{
	return (inside & hosts.mask) == hosts.net;
}

/* All flows of a host inside have the same outside address (RFC 4787, REQ-2). */
static inline uint8_t
address_for(uint32_t inside)
{
	if (n_addresses == 1)
		return 0;
	if (block != 0)
		return (uint8_t)(has_block(inside) ? host_number(inside) / per_address : 0);
	return (uint8_t)(mix(inside, 0) % n_addresses);
}

/* The first port of a list, which is sorted, that is not below this one. */
static uint32_t
first_from(const uint16_t *list, uint32_t n, uint32_t port)
{
	uint32_t from = 0;

	while (from < n) {
		uint32_t middle = from + (n - from) / 2;

		if (ntohs(list[middle]) < port)
			from = middle + 1;
		else
			n = middle;
	}
	return from;
}

/* An outside port, or identifier, that this remote endpoint has none of; 0: all are in use. */
static int
choose(struct bucket *b, struct flow *f, uint32_t bucket)
{
	const uint16_t *list = NULL; /* NULL: all, from first_port on */
	uint32_t n = last_port - first_port + 1, from = 0, number, at;

	if (is_with_ports(f->protocol)) {
		uint32_t class = bucket ^ dps_bucket(hash_of(f->protocol, f->remote, f->remote_port,
							     addresses[f->address], 0));

		list = ports + classes[class];
		n = classes[class + 1] - classes[class];
	}
	if (block != 0) {
		number = host_number(f->inside) % per_address;
		at = first_port + number * block;
		from = list == NULL ? number * block : first_from(list, n, at);
		n = list == NULL ? block : first_from(list, n, at + block) - from;
	}
	if (n == 0)
		return 0;
	/* By the inside endpoint alone: with a symmetric hash the list is the same whatever the remote, and so is the
	 * port, unless another host has it for this one (RFC 4787, REQ-1). */
	at = mix(f->inside, (uint64_t)f->inside_port << 8 | f->protocol) % n;
	/* A bucket has fewer bindings than this, so one of so many is free. */
	for (uint32_t i = 0; i < n && i <= BINDINGS && !is_damaged; i++, at = at + 1 == n ? 0 : at + 1) {
		f->outside_port = list == NULL ? htons((uint16_t)(first_port + from + at)) : list[from + at];
		if (find(b, f, BY_OUTSIDE, env->now) == NULL &&
		    forward_of(forwards, 0, addresses[f->address], f->outside_port, f->protocol) == NULL)
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

/* A packet of a binding: its time begins anew. One store, so it needs no touch: done twice it is the same. */
static inline void
refresh(struct binding *e, const uint8_t *l4, int is_outward)
{
	uint32_t state = e->life & 0xf, protocol = e->kind & PROTOCOL_OF, seconds, life;
	int is_first = ((e->kind & FROM_OUTSIDE) != 0) != is_outward; /* of the side that began it */

	if (protocol == TCP && (e->kind & ELSEWHERE) == 0) {
		uint8_t flags = l4[13];

		/* A connection anew. Not with RST or FIN: done twice it would be another state. */
		if (is_first && (flags & (SYN | ACK | RST | FIN)) == SYN && (state & CLOSED) == CLOSED)
			state = 0;
		if (!is_first)
			state |= ANSWERED;
		else if ((state & ANSWERED) != 0 && (flags & (SYN | ACK)) == ACK)
			state |= OPEN;
		if ((flags & FIN) != 0)
			state |= is_outward ? FIN_OUT : FIN_IN;
		if ((flags & RST) != 0)
			state |= CLOSED;
		seconds = (state & OPEN) != 0 && (state & CLOSED) != CLOSED ? life_open : life_tcp;
	} else {
		seconds = protocol == TCP ? life_tcp : protocol == UDP ? life_udp : life_icmp;
	}
	life = (uint32_t)((env->now + seconds * 1000000000ull) >> UNIT) << 4 | state;
	if (life != e->life)
		__atomic_store_n(&e->life, life, __ATOMIC_RELAXED);
}

/* Takes those out of the chains whose time is over, and says which: of up to TOUCHED words. 0: of none. */
static int
collect(struct bucket *b, uint32_t first, uint64_t *over, uint64_t *n)
{
	int any = 0;

	for (uint32_t word = first; word < first + TOUCHED && word < WORDS; word++) {
		over[word - first] = 0;
		for (uint64_t rest = b->used[word]; rest != 0; rest &= rest - 1) {
			uint32_t place = word * 64 + (uint32_t)__builtin_ctzll(rest);
			const struct binding *e = &b->binding[place];

			if (left(e->life, env->now) > 0)
				continue;
			unlink_binding(b, place);
			over[word - first] |= 1ull << place % 64;
			*n += (e->kind & ELSEWHERE) == 0;
			any = 1;
		}
	}
	return any;
}

/*
 * Bindings whose time is over go. First out of both chains, each with one store: a worker that is killed between
 * two of them leaves a binding that is over, in fewer chains, and used; the next tick goes on. Then the bits of all,
 * and their number, which are touched. What does not fit the touches of one tick is for the next one, which begins
 * with other words.
 */
static void
bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	enum { PIECES = (WORDS + TOUCHED - 1) / TOUCHED };
	struct bucket *b = (struct bucket *)bucket_state;
	uint32_t from = (uint32_t)(env->now / (TICK_US * 1000ull)) % PIECES, touches = 1;

	(void)state;
	(void)bucket;
	for (uint32_t i = 0; i < PIECES && touches < DPS_PLUGIN_TOUCHES_MOST; i++) {
		uint32_t first = (from + i) % PIECES * TOUCHED;
		uint32_t words = first + TOUCHED < WORDS ? TOUCHED : WORDS - first;
		uint64_t over[TOUCHED], n = 0;

		if (!collect(b, first, over, &n))
			continue;
		if (touches++ == 1)
			dps_touch(&env->counters[EXPIRED], sizeof(uint64_t));
		env->counters[EXPIRED] += n;
		dps_touch(&b->used[first], words * sizeof(b->used[0]));
		for (uint32_t word = 0; word < words; word++)
			b->used[first + word] &= ~over[word];
	}
}

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

/* Places for the bindings that one packet may need: `most` of them are reserved with the first. */
struct places {
	uint32_t most, n;
	uint32_t place[2];
};

static int
take_place(struct bucket *b, struct places *places, uint32_t words, uint32_t *place)
{
	if (places->n == 0) {
		if (!reserve(b, words, places->most, places->place))
			return 0;
		places->n = places->most;
	}
	*place = places->place[--places->n];
	return 1;
}

/* A flow from an inside endpoint of a forward has the outside endpoint of the forward; one that goes on, that which it
 * began with. 0: there is none. */
static int
take_fixed(struct flow *f, struct binding *elsewhere, int opens, const uint8_t *l4)
{
	const struct forward *t = forward_of(forwards, 1, f->inside, f->inside_port, f->protocol);
	int index = t == NULL ? -1 : address_index(t->outside);

	if (elsewhere != NULL && (!opens || (index < 0 && (l4[13] & ACK) != 0))) {
		/* Of TCP, nothing but what opens a connection would be translated anew in the other bucket. */
		if (f->protocol == TCP || (index == elsewhere->address && t->outside_port == elsewhere->outside_port))
			refresh(elsewhere, l4, 1);
		f->address = elsewhere->address;
		f->outside_port = elsewhere->outside_port;
	} else if (index >= 0) {
		f->address = (uint8_t)index;
		f->outside_port = t->outside_port;
	} else {
		return 0;
	}
	f->kind = FIXED;
	return 1;
}

/* The packets of this flow belong to another bucket, also when the forward is gone. Where there is no room, they do
 * as long as there is the forward. */
static void
note_elsewhere(struct bucket *b, const struct flow *f, struct binding *e, const uint8_t *l4)
{
	struct places places = { .most = 1 };
	struct flow note = *f;
	uint32_t place;

	note.kind = ELSEWHERE;
	if (e != NULL && e->address == f->address && e->outside_port == f->outside_port)
		return;
	if (e != NULL) {
		dps_touch(e, sizeof(*e));
		e->address = f->address;
		e->outside_port = f->outside_port;
	} else if (take_place(b, &places, OPEN_WORDS, &place)) {
		e = add(b, place, &note);
	} else {
		return;
	}
	refresh(e, l4, 1);
}

/* The binding of a packet from inside, or a new one. NULL: there is none, and *verdict says what becomes of it. */
static struct binding *
bind_outward(struct dps_packet *p, struct flow *f, const uint8_t *l4, struct places *places, uint16_t *verdict)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	uint32_t bucket = dps_bucket(p->hash), want, place;
	int opens = f->protocol == TCP && (l4[13] & (SYN | RST | FIN)) == SYN, is_fixed;
	struct binding *e = find(b, f, BY_INSIDE, env->now);

	*verdict = dps_drop(DAMAGED);
	if (is_damaged || (e != NULL && (e->kind & ELSEWHERE) == 0))
		return e;
	is_fixed = take_fixed(f, e, opens, l4);
	want = is_fixed ? outer(f) : home(f);
	if (want != bucket) {
		*verdict = dps_on_hash(env->group_index, want);
		if (is_fixed && is_with_ports(f->protocol))
			note_elsewhere(b, f, e, l4);
		else if (is_with_ports(f->protocol))
			*verdict = dps_drop(NO_BINDING); /* it was sent here by a forward that is gone */
		return NULL;
	}
	*verdict = dps_drop(NO_BINDING);
	if (f->protocol == TCP && (!opens || (l4[13] & ACK) != 0))
		return NULL;
	*verdict = dps_drop(NO_BLOCK);
	if (!is_fixed && block != 0 && !has_block(f->inside))
		return NULL;
	*verdict = dps_drop(LIMIT);
	if (!is_fixed && limit != 0 && has_as_many(b, f->inside, limit, env->now))
		return NULL;
	*verdict = dps_drop(NO_PORT);
	if (is_fixed ? find(b, f, BY_OUTSIDE, env->now) != NULL : !choose(b, f, bucket)) {
		if (is_damaged)
			*verdict = dps_drop(DAMAGED);
		return NULL;
	}
	*verdict = dps_drop(FULL);
	if (!take_place(b, places, WORDS, &place))
		return NULL;
	env->counters[CREATED]++;
	return add(b, place, f);
}

/* From inside: to its binding's outside port, or to that of a new one. */
static uint16_t
outward(struct dps_packet *p, uint8_t *ip, uint8_t *l4)
{
	struct flow f = { .inside = word_at(ip + 12), .remote = word_at(ip + 16), .protocol = ip[9] };
	uint32_t port_at = ip[9] == ICMP ? 4 : 0;
	struct places places = { .most = 1 };
	struct binding *e;
	uint16_t verdict;

	f.address = address_for(f.inside);
	f.inside_port = half_at(l4 + port_at);
	f.remote_port = ip[9] == ICMP ? 0 : half_at(l4 + 2);
	dps_touch(env->counters, (OUTWARD + 1) * sizeof(uint64_t));
	e = bind_outward(p, &f, l4, &places, &verdict);
	if (e == NULL)
		return verdict;
	refresh(e, l4, 1);
	env->counters[OUTWARD]++;
	rewrite(ip, 12, l4, port_at, p->len - (uint32_t)(l4 - p->data), addresses[e->address], e->outside_port);
	return from_inside;
}

/* The binding of a packet from outside, or a new one of a forward. NULL: there is none, and *verdict says what becomes
 * of it. Where it may need more than one place, the caller has touched the counters. */
static struct binding *
bind_inward(struct bucket *b, struct flow *f, const uint8_t *l4, struct places *places, uint16_t *verdict)
{
	struct binding *e = find(b, f, BY_OUTSIDE, env->now);
	int opens = f->protocol == TCP && (l4[13] & (SYN | ACK | RST | FIN)) == SYN;
	const struct forward *t;
	uint32_t place;

	*verdict = dps_drop(DAMAGED);
	if (is_damaged || (e != NULL && !(opens && (e->kind & FROM_OUTSIDE) != 0 && (e->life & CLOSED) == CLOSED)))
		return e;
	/* A connection anew, with the ports of one that is closed, goes by the table as it is now. */
	t = forward_of(forwards, 0, addresses[f->address], f->outside_port, f->protocol);
	if (e != NULL && t != NULL && t->inside == e->inside && t->inside_port == e->inside_port)
		return e;
	*verdict = dps_drop(NO_BINDING);
	if (t == NULL)
		*verdict = places->most == 1 ? unknown() : dps_drop(HAIRPIN);
	if (t == NULL || (f->protocol == TCP && !opens))
		return NULL;
	f->inside = t->inside;
	f->inside_port = t->inside_port;
	f->kind = FIXED | FROM_OUTSIDE;
	if (places->most == 1)
		dps_touch(env->counters, (HAIRPINNED + 1) * sizeof(uint64_t));
	/* The host speaks with this remote endpoint already, by another outside port. */
	*verdict = dps_drop(NO_PORT);
	if (find(b, f, BY_INSIDE, env->now) != NULL)
		return NULL;
	*verdict = dps_drop(is_damaged ? DAMAGED : FULL);
	if (is_damaged || !take_place(b, places, OPEN_WORDS, &place))
		return NULL;
	env->counters[CREATED]++;
	env->counters[FORWARDED]++;
	return add(b, place, f);
}

static uint16_t
inward(struct dps_packet *p, uint8_t *ip, uint8_t *l4, int address)
{
	struct flow f = { .remote = word_at(ip + 12), .protocol = ip[9], .address = (uint8_t)address };
	uint32_t port_at = ip[9] == ICMP ? 4 : 2;
	struct places places = { .most = 1 };
	struct binding *e;
	uint16_t verdict;

	f.outside_port = half_at(l4 + port_at);
	f.remote_port = ip[9] == ICMP ? 0 : half_at(l4);
	e = bind_inward((struct bucket *)p->bucket_state, &f, l4, &places, &verdict);
	if (e == NULL)
		return verdict;
	refresh(e, l4, 0);
	count(INWARD);
	rewrite(ip, 16, l4, port_at, p->len - (uint32_t)(l4 - p->data), e->inside, e->inside_port);
	return from_outside;
}

static void
swap_macs(uint8_t *frame)
{
	uint8_t mac[6];

	memcpy(mac, frame, 6);
	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, mac, 6);
}

/*
 * From inside to an outside address: both translations, as if it had gone out and come back in (RFC 4787, REQ-9). With
 * a symmetric hash both bindings lie in one bucket: the packets of one are, outside, the answers of the other.
 */
static uint16_t
hairpin(struct dps_packet *p, uint8_t *ip, uint8_t *l4, int address)
{
	struct flow f = { .inside = word_at(ip + 12), .remote = word_at(ip + 16), .protocol = ip[9] }, back;
	uint32_t room = p->len - (uint32_t)(l4 - p->data);
	struct places places = { .most = 2 };
	struct binding *from, *to;
	uint16_t verdict;

	f.address = address_for(f.inside);
	f.inside_port = half_at(l4);
	f.remote_port = half_at(l4 + 2);
	dps_touch(env->counters, (HAIRPINNED + 1) * sizeof(uint64_t));
	from = bind_outward(p, &f, l4, &places, &verdict);
	if (from == NULL)
		return verdict;
	refresh(from, l4, 1);
	back = (struct flow){ .remote = addresses[from->address], .remote_port = from->outside_port,
			      .outside_port = f.remote_port, .protocol = f.protocol, .address = (uint8_t)address };
	to = bind_inward((struct bucket *)p->bucket_state, &back, l4, &places, &verdict);
	if (to == NULL)
		return verdict;
	refresh(to, l4, 0);
	env->counters[HAIRPINNED]++;
	rewrite(ip, 12, l4, 0, room, addresses[from->address], from->outside_port);
	rewrite(ip, 16, l4, 2, room, to->inside, to->inside_port);
	if (is_between)
		swap_macs(p->data);
	return from_outside;
}

/*
 * An ICMP error about a packet of a binding, from inside or outside (RFC 5508, REQ-4 and 5): it is steered to the
 * binding's bucket; there the packet that it quotes, and its own address, are translated. Between two hosts inside it
 * is translated outward, and then inward (RFC 5508, REQ-7).
 */
static uint16_t
error(struct dps_packet *p, uint8_t *ip, uint8_t *icmp, int address, int is_outward, int is_hairpin)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	uint32_t room = p->len - (uint32_t)(icmp - p->data), head, len, want, port_at;
	uint32_t length = be16_at(ip + 2) - (uint32_t)(icmp - ip);
	uint8_t *about = icmp + 8, *l4, was[60 + 18];
	struct flow f = { 0 };
	const struct forward *t;
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
		t = forward_of(forwards, 1, f.inside, f.inside_port, f.protocol);
		address = t == NULL ? -1 : address_index(t->outside);
		want = home(&f);
		if (address >= 0) {
			f.address = (uint8_t)address;
			f.outside_port = t->outside_port;
			want = outer(&f);
		}
	} else {
		if (word_at(about + 12) != addresses[address])
			return dps_drop(NO_BINDING);
		f.address = (uint8_t)address;
		f.remote = word_at(about + 16);
		f.outside_port = half_at(l4 + (f.protocol == ICMP ? 4 : 0));
		f.remote_port = f.protocol == ICMP ? 0 : half_at(l4 + 2);
		want = outer(&f);
	}
	if (want != dps_bucket(p->hash))
		return dps_on_hash(env->group_index, want);
	e = find(b, &f, is_outward ? BY_INSIDE : BY_OUTSIDE, env->now);
	if (is_damaged)
		return dps_drop(DAMAGED);
	if (e == NULL || (e->kind & ELSEWHERE) != 0)
		return is_outward || is_hairpin ? dps_drop(NO_BINDING) : unknown();
	if (!is_hairpin)
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
	is_damaged = 0;
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
	if (is_outward && address >= 0 && !is_symmetric)
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
	if (ip[9] == ICMP && is_error(l4)) {
		on = error(p, ip, l4, address, is_outward, 0);
		if (!is_outward || address < 0 || on != from_inside)
			return on;
		on = error(p, ip, l4, address, 0, 1);
		if (is_between && on == from_outside)
			swap_macs(p->data);
		return on;
	}
	if (ip[9] == ICMP && l4[0] != (is_outward ? 8 : 0))
		return is_outward ? dps_drop(PROTOCOL) : unknown();
	if (is_outward && address >= 0)
		return ip[9] == ICMP ? dps_drop(HAIRPIN) : hairpin(p, ip, l4, address);
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
	.state_version = 2,
	.seated = seated,
	.bucket_tick_us = TICK_US,
	.bucket_tick = bucket_tick,
	.bucket_migrate = migrate_bindings,
	.table_apply = forward_apply,
	.table_layout = 1,
	/* Not to what it is asked to translate, or not known: no fault of the version. */
	.policy = 1u << NO_BINDING | 1u << NOT_OURS | 1u << HAIRPIN | 1u << NO_BLOCK |
		  1u << LIMIT,
};
