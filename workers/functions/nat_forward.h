/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_NAT_FORWARD_H
#define DPSUP_NAT_FORWARD_H

/*
 * The table `forwards` of nat: outside endpoints that belong to inside ones. table_apply lays it out; workers look
 * up either side of an entry. Both indices are open addressing, at most half full, so a search ends.
 */

#include <arpa/inet.h>
#include <stdio.h>

#include <dpsup_table.h>

enum {
	TCP = 6, UDP = 17, ICMP = 1,

	FORWARD_KEY = 9,        /* ipv4+be16+text3 */
	FORWARD_VALUE = 6,      /* ipv4+be16 */
	MOST_FORWARDS = 16384,
};

/* Addresses and ports as in packets. */
struct forward {
	uint32_t outside;
	uint32_t inside;
	uint16_t outside_port;
	uint16_t inside_port;
	uint8_t protocol;
	uint8_t pad[3];
};

/* The bytes of the table: this, forward[entries], and two indices of `slots`: a forward's number + 1, or 0. */
struct forwards {
	uint32_t n;
	uint32_t entries;
	uint32_t slots;         /* a power of two; 0: nothing was laid out yet */
	uint32_t pad;
};

static inline uint32_t
mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product =
		(unsigned __int128)(a ^ 0xa0761d6478bd642full) * (b ^ 0xe7037ed1a0b428dbull);

	return (uint32_t)((uint64_t)product ^ (uint64_t)(product >> 64));
}

static inline struct forward *
forward_at(const struct forwards *t, uint32_t number)
{
	return (struct forward *)((uintptr_t)t + sizeof(*t)) + number;
}

static inline uint16_t *
forward_index(const struct forwards *t, int by_inside)
{
	return (uint16_t *)(uintptr_t)forward_at(t, t->entries) + (by_inside ? t->slots : 0);
}

static inline uint32_t
forward_slots(uint64_t entries)
{
	uint32_t slots = 64;

	while (slots < 2 * entries)
		slots *= 2;
	return slots;
}

static inline uint64_t
forward_bytes(uint64_t entries)
{
	return sizeof(struct forwards) + entries * sizeof(struct forward) +
	       2 * sizeof(uint16_t) * (uint64_t)forward_slots(entries);
}

/* The forward with this endpoint, or NULL; *slot is where it is, or would be. */
static inline const struct forward *
forward_search(const struct forwards *t, int by_inside, uint32_t address, uint16_t port, uint8_t protocol,
	       uint32_t *slot)
{
	const uint16_t *index = forward_index(t, by_inside);
	uint32_t at = mix(address, (uint64_t)port << 8 | protocol) & (t->slots - 1);

	for (; index[at] != 0; at = (at + 1) & (t->slots - 1)) {
		const struct forward *f = forward_at(t, index[at] - 1u);

		if (f->protocol == protocol && (by_inside ? f->inside == address && f->inside_port == port :
							    f->outside == address && f->outside_port == port))
			break;
	}
	*slot = at;
	return index[at] == 0 ? NULL : forward_at(t, index[at] - 1u);
}

static inline const struct forward *
forward_of(const struct dps_live_table *table, int by_inside, uint32_t address, uint16_t port, uint8_t protocol)
{
	const struct forwards *t = table == NULL ? NULL : (const struct forwards *)table->at;
	uint32_t slot;

	if (t == NULL || t->n == 0 || protocol == ICMP)
		return NULL;
	return forward_search(t, by_inside, address, port, protocol, &slot);
}

/* --- table_apply -------------------------------------------------------------------------------- */

static int
forward_refuse(const struct dps_table_work *work, const struct forward *f, const char *why, const struct forward *other)
{
	char one[INET_ADDRSTRLEN], two[INET_ADDRSTRLEN] = "", more[64] = "";

	inet_ntop(AF_INET, &f->outside, one, sizeof(one));
	if (other != NULL) {
		inet_ntop(AF_INET, &other->outside, two, sizeof(two));
		snprintf(more, sizeof(more), " %s,%u", two, (unsigned int)ntohs(other->outside_port));
	}
	snprintf(work->error, work->error_len, "forward %s,%u%s: %s%s", one, (unsigned int)ntohs(f->outside_port),
		 f->protocol == TCP ? ",tcp" : f->protocol == UDP ? ",udp" : "", why, more);
	return -1;
}

/* What an entry says, or why it is refused. */
static const char *
forward_read(const struct dps_table_change *from, struct forward *f)
{
	const uint8_t *key = (const uint8_t *)from->key, *value = (const uint8_t *)from->value;

	*f = (struct forward){ .protocol = memcmp(key + 6, "tcp", 3) == 0 ? TCP :
					   memcmp(key + 6, "udp", 3) == 0 ? UDP : 0 };
	memcpy(&f->outside, key, 4);
	memcpy(&f->outside_port, key + 4, 2);
	memcpy(&f->inside, value, 4);
	memcpy(&f->inside_port, value + 4, 2);
	if (f->protocol == 0)
		return "its protocol is neither tcp nor udp: write 192.0.2.1,8080,tcp";
	if (f->outside_port == 0 || f->inside_port == 0)
		return "0 is no port";
	if (f->inside == 0 || value[0] >= 224 || value[0] == 127)
		return "no host inside can have the address that it leads to";
	if (f->inside == f->outside)
		return "it leads to the outside address itself";
	return NULL;
}

static int
forward_apply(const struct dps_table_work *work)
{
	struct forwards *t = (struct forwards *)work->at;
	const struct dps_table_change *all;
	const struct forward *same;
	uint64_t n;

	if (work->key_bytes != FORWARD_KEY || work->value_bytes != FORWARD_VALUE || work->entries > MOST_FORWARDS ||
	    work->bytes < forward_bytes(work->entries)) {
		snprintf(work->error, work->error_len, "write key = \"ipv4+be16+text3\", value = \"ipv4+be16\", "
			 "entries = %llu (at most %u), bytes = %llu",
			 (unsigned long long)work->entries, (unsigned int)MOST_FORWARDS,
			 (unsigned long long)forward_bytes(work->entries));
		return -1;
	}
	all = work->all(&n);
	memset(t, 0, forward_bytes(work->entries));
	t->entries = (uint32_t)work->entries;
	t->slots = forward_slots(work->entries);
	for (uint32_t i = 0; i < n; i++) {
		struct forward *f = forward_at(t, i);
		const char *why = forward_read(&all[i], f);
		uint32_t slot;

		if (why != NULL)
			return forward_refuse(work, f, why, NULL);
		forward_search(t, 0, f->outside, f->outside_port, f->protocol, &slot);
		forward_index(t, 0)[slot] = (uint16_t)(i + 1);
		same = forward_search(t, 1, f->inside, f->inside_port, f->protocol, &slot);
		if (same != NULL)
			return forward_refuse(work, f, "the answers of its inside endpoint belong already to forward",
					      same);
		forward_index(t, 1)[slot] = (uint16_t)(i + 1);
		t->n++;
	}
	return 0;
}

#endif
