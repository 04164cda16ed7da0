/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_NAT_BINDING_H
#define DPSUP_NAT_BINDING_H

/*
 * Bindings of nat, in the state of a bucket. Two chains lead to each: by its inside and by its outside endpoint.
 *
 * What adds a binding is touched before: the line that has the heads of both chains, and the bits that say which
 * places are used. The place itself is not: nothing reads one that is not used. What a worker other than ours may
 * have left there is not believed: a walk along a chain ends after as many steps as there are places, and cuts the chain.
 */

#include "headers.h"
#include "nat_forward.h"

enum {
	LINES = 64,
	HEADS = 16,             /* in a line, of each of the two chains */
	BINDINGS = 2432,        /* of a bucket: what fits DPS_PLUGIN_BUCKET_STATE */
	WORDS = BINDINGS / 64,
	TOUCHED = 8,            /* words of one touch */
	OPEN_WORDS = WORDS * 3 / 4, /* what the outside may fill; the rest is for hosts inside */

	UNIT = 26,              /* a binding's time counts in 2^26 ns */
};

/* A binding's kind: its protocol, and these. */
enum {
	PROTOCOL_OF = 0x1f,
	FROM_OUTSIDE = 0x20,    /* the remote began it */
	FIXED = 0x40,           /* its outside endpoint is that of a forward */
	ELSEWHERE = 0x80,       /* no binding: it says that the flow's lies in the bucket of its packets from outside */
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
	uint8_t kind;
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
	uint8_t tag[BINDINGS];  /* 8 bits of a hash of the host inside */
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");
_Static_assert(sizeof(((struct bucket *)0)->heads[0]) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is enough");
_Static_assert(BINDINGS % 64 == 0, "each bit of `used` has its binding");

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
	uint8_t kind;           /* without the protocol */
};

static uint32_t n_addresses;    /* outside */
static int is_damaged;          /* a chain of the packet in hand led to no place, or had no end: it is dropped */

/* The units until an end that is at most 104 days off; what has ended has 0 or less. */
static inline int32_t
left(uint32_t life, uint64_t now)
{
	return (int32_t)((life & ~0xfu) - ((uint32_t)(now >> UNIT) << 4));
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

/* A host's outside address may have become another one, by another list of addresses: such a binding is not there. */
static inline int
is_of(const struct binding *e, const struct flow *f, int by)
{
	if (e->remote != f->remote || e->remote_port != f->remote_port || (e->kind & PROTOCOL_OF) != f->protocol)
		return 0;
	if (by == BY_OUTSIDE)
		return e->address == f->address && e->outside_port == f->outside_port && (e->kind & ELSEWHERE) == 0;
	return e->inside == f->inside && e->inside_port == f->inside_port &&
	       ((e->kind & (FIXED | ELSEWHERE)) != 0 ? e->address < n_addresses : e->address == f->address);
}

/* Cuts a chain where it leads out of the state, or to a binding that it has led to before. */
static void
mend(struct bucket *b, const struct flow *f, int by)
{
	uint16_t *link = &line_of(b, f)[head_of(f, by)];
	uint64_t seen[WORDS] = { 0 };

	while (*link != 0 && *link <= BINDINGS && (seen[(*link - 1u) / 64] >> (*link - 1u) % 64 & 1) == 0) {
		seen[(*link - 1u) / 64] |= 1ull << (*link - 1u) % 64;
		link = &b->binding[*link - 1].next[by];
	}
	dps_touch(link, sizeof(*link));
	*link = 0;
	is_damaged = 1;
}

/* The binding of a flow, unless its time is over: such a one is not there, and is never revived. */
static struct binding *
find(struct bucket *b, const struct flow *f, int by, uint64_t now)
{
	uint32_t at = line_of(b, f)[head_of(f, by)];

	for (uint32_t n = 0; at != 0; n++) {
		struct binding *e;

		if (at > BINDINGS || n == BINDINGS) {
			mend(b, f, by);
			return NULL;
		}
		e = &b->binding[at - 1];
		if (is_of(e, f, by) && left(e->life, now) > 0)
			return e;
		at = e->next[by];
	}
	return NULL;
}

static inline uint8_t
tag_of(uint32_t inside)
{
	return (uint8_t)mix(inside, 1);
}

/* Has a host so many bindings in this bucket? Those of forwards, and what is over, are not counted. */
static int
has_as_many(const struct bucket *b, uint32_t inside, uint32_t many, uint64_t now)
{
	const uint64_t ones = 0x0101010101010101ull, wanted = ones * tag_of(inside);
	uint32_t n = 0;

	for (uint32_t place = 0; place < BINDINGS && n < many; place += 8) {
		uint64_t differ;

		memcpy(&differ, &b->tag[place], 8);
		differ ^= wanted;
		/* A byte of 0, and perhaps one behind such a byte. */
		if (((differ - ones) & ~differ & ones << 7) == 0)
			continue;
		for (uint32_t i = place; i < place + 8; i++)
			n += (b->used[i / 64] >> i % 64 & 1) != 0 && b->binding[i].inside == inside &&
			     (b->binding[i].kind & (FIXED | ELSEWHERE)) == 0 && left(b->binding[i].life, now) > 0;
	}
	return n >= many;
}

/* Touches the bits of `n` places that are free, within the first `words`. 0: there are none. */
static int
reserve(struct bucket *b, uint32_t words, uint32_t n, uint32_t *places)
{
	for (uint32_t first = 0; first < words; first += TOUCHED) {
		uint32_t end = first + TOUCHED < words ? first + TOUCHED : words, got = 0;

		for (uint32_t word = first; word < end && got < n; word++)
			for (uint64_t free = ~b->used[word]; free != 0 && got < n; free &= free - 1)
				places[got++] = word * 64 + (uint32_t)__builtin_ctzll(free);
		if (got == n) {
			dps_touch(&b->used[first], (end - first) * sizeof(b->used[0]));
			return 1;
		}
	}
	return 0;
}

static void
link_to(struct bucket *b, uint32_t place, const struct flow *f, int by)
{
	uint16_t *head = &line_of(b, f)[head_of(f, by)];

	b->binding[place].next[by] = *head;
	*head = (uint16_t)(place + 1);
}

/* Uses a reserved place. */
static struct binding *
add(struct bucket *b, uint32_t place, const struct flow *f)
{
	struct binding *e = &b->binding[place];

	dps_touch(line_of(b, f), sizeof(b->heads[0]));
	*e = (struct binding){ .inside = f->inside, .remote = f->remote, .inside_port = f->inside_port,
			       .remote_port = f->remote_port, .outside_port = f->outside_port,
			       .kind = f->kind | f->protocol, .address = f->address };
	b->tag[place] = tag_of(f->inside);
	link_to(b, place, f, BY_INSIDE);
	if ((f->kind & ELSEWHERE) == 0)
		link_to(b, place, f, BY_OUTSIDE);
	b->used[place / 64] |= 1ull << place % 64;
	return e;
}

static void
unlink_from(struct bucket *b, uint32_t place, const struct flow *f, int by)
{
	uint16_t *link = &line_of(b, f)[head_of(f, by)];

	for (uint32_t n = 0; *link != 0 && *link <= BINDINGS && *link != place + 1 && n < BINDINGS; n++)
		link = &b->binding[*link - 1].next[by];
	if (*link == place + 1)
		__atomic_store_n(link, b->binding[place].next[by], __ATOMIC_RELEASE);
}

/* Takes a binding out of both chains, each with one store. */
static void
unlink_binding(struct bucket *b, uint32_t place)
{
	const struct binding *e = &b->binding[place];
	struct flow f = { e->inside, e->remote, e->inside_port, e->remote_port, e->outside_port,
			  e->kind & PROTOCOL_OF, e->address, 0 };

	unlink_from(b, place, &f, BY_INSIDE);
	unlink_from(b, place, &f, BY_OUTSIDE);
}

/* --- what version 1 of the state kept ------------------------------------------------------------- */

enum { LINES_1 = 32, BINDINGS_1 = 1272, WORDS_1 = 20 };
struct bucket_1 {
	uint64_t used[WORDS_1];
	uint16_t heads[LINES_1][2][HEADS];
	struct binding binding[BINDINGS_1];     /* its kind is its protocol */
};

static int
migrate_bindings(const void *old, uint32_t old_size, uint32_t old_version, void *fresh)
{
	const struct bucket_1 *from = (const struct bucket_1 *)old;
	struct bucket *b = (struct bucket *)fresh;

	if (old_version != 1 || old_size != sizeof(*from))
		return -1;
	for (uint32_t place = 0; place < BINDINGS_1; place++) {
		const struct binding *e = &from->binding[place];
		struct flow f = { e->inside, e->remote, e->inside_port, e->remote_port, e->outside_port,
				  e->kind, e->address, 0 };

		if ((from->used[place / 64] >> place % 64 & 1) == 0)
			continue;
		b->binding[place] = *e;
		b->tag[place] = tag_of(e->inside);
		b->used[place / 64] |= 1ull << place % 64;
		link_to(b, place, &f, BY_INSIDE);
		link_to(b, place, &f, BY_OUTSIDE);
	}
	return 0;
}

#endif
