/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_BALANCE_TABLE_H
#define DPSUP_BALANCE_TABLE_H

/*
 * The tables of `balance`: `backends`, which its table_apply lays out, and `down`, which marks some of them. Which
 * backend a new flow takes, and which one a known flow has.
 */

#include <stdio.h>

#include <dpsup_table_exact.h>

#include "arguments.h"
#include "headers.h"
#include "maglev.h"

enum {
	MOST_BACKENDS = 1024,
	BACKEND_SLOTS = 4096,
	BACKEND_NAME = 8,       /* the key, text8 */
	TRIES = 8,              /* of other places, where a backend is down */
};

/* In `down`, by its value's first letter. */
enum { UP, DRAINED, GONE };

struct backend {
	uint64_t id;            /* that a flow is kept with: 48 bits, never 0 */
	uint8_t name[BACKEND_NAME];
	uint8_t mac[6];
	uint16_t weight;
	uint8_t address[16];
};

/* The bytes of the table `backends`. */
struct places {
	uint32_t filled;
	uint32_t n;
	struct backend backends[MOST_BACKENDS];
	uint64_t slots[BACKEND_SLOTS];  /* id << 16 | index, to be found by the id */
	uint16_t place[MAGLEV_PLACES];
};
_Static_assert(sizeof(struct places) <= 256 << 10, "as the page says");

static inline uint64_t
mac_at(const uint8_t *at)
{
	return (uint64_t)be16_at(at) << 32 | (uint64_t)be16_at(at + 2) << 16 | be16_at(at + 4);
}

/* A flow stays with the server, and so with its address. Behind a router all have its MAC address; what is made of
 * an IP address has the bit of groups of hosts, which no backend's MAC address has. */
static inline uint64_t
backend_id(const uint8_t *mac, const uint8_t *address, int is_tunnel)
{
	if (!is_tunnel)
		return mac_at(mac);
	return (maglev_name(address, 16) & 0xffffffffffffull) | 1ull << 40;
}

/* The slot of this id, or the free one where it would be. Fewer than a quarter are used. */
static inline uint32_t
backend_slot(const struct places *t, uint64_t id)
{
	uint32_t at = (uint32_t)maglev_mix(id) % BACKEND_SLOTS;

	while (t->slots[at] != 0 && t->slots[at] >> 16 != id)
		at = (at + 1) % BACKEND_SLOTS;
	return at;
}

/* The index of a backend; -1: it is not in the table. */
static inline int
backend_index(const struct places *t, uint64_t id)
{
	uint64_t slot = t->slots[backend_slot(t, id)];

	return slot == 0 || (slot & 0xffff) >= MOST_BACKENDS ? -1 : (int)(slot & 0xffff);
}

/* --- table_apply -------------------------------------------------------------------------------- */

/* "mac+u16", or with an address behind it. 0: no such value. */
static inline int
is_backend_value(uint32_t bytes)
{
	return bytes == 8 || bytes == 12 || bytes == 24;
}

static inline int
apply_backends(const struct dps_table_work *work, int is_tunnel)
{
	static struct maglev_backend turns[MOST_BACKENDS];
	static const uint8_t nowhere[16];
	struct places *to = (struct places *)work->at;
	const struct dps_table_change *all;
	uint64_t n;

	if (work->bytes < sizeof(*to) || !is_backend_value(work->value_bytes) || work->entries > MOST_BACKENDS ||
	    work->key_bytes > BACKEND_NAME) {
		snprintf(work->error, work->error_len, "write key = \"text8\", value = \"mac+u16\" (or "
			 "mac+u16+ipv4, mac+u16+ipv6), entries = 1000 (at most 1024), bytes = \"256KiB\"");
		return -1;
	}
	all = work->all(&n);
	memset(to, 0, sizeof(*to));
	to->n = (uint32_t)n;
	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *value = (const uint8_t *)all[i].value;
		struct backend *b = &to->backends[i];
		uint32_t slot;
		const char *fault;

		memcpy(b->name, all[i].key, work->key_bytes);
		memcpy(b->mac, value, 6);
		memcpy(&b->weight, value + 6, sizeof(b->weight));
		memcpy(b->address, value + 8, work->value_bytes - 8);
		b->id = backend_id(b->mac, b->address, is_tunnel);
		slot = backend_slot(to, b->id);
		fault = mac_at(b->mac) == 0 ? "00:00:00:00:00:00 is nobody's address" :
			(b->mac[0] & 1) != 0 ? "its MAC address is one of a group of hosts" :
			is_tunnel && memcmp(b->address, nowhere, 16) == 0 ? "a tunnel to it needs its IP address" :
			to->slots[slot] == 0 ? NULL :
			is_tunnel ? "another backend has its IP address" : "another backend has its MAC address";
		if (fault != NULL) {
			snprintf(work->error, work->error_len, "backend %.*s: %s", (int)work->key_bytes,
				 (const char *)all[i].key, fault);
			return -1;
		}
		to->slots[slot] = b->id << 16 | i;
		turns[i].name = maglev_name(all[i].key, work->key_bytes);
		turns[i].weight = b->weight;
	}
	to->filled = (uint32_t)maglev_fill(to->place, turns, (uint32_t)n);
	return 0;
}

/* --- what is down --------------------------------------------------------------------------------- */

/* Of the backends by their index, made anew where one of both tables has changed. */
struct marks {
	uint64_t versions[2];
	int is_any;
	uint8_t of[MOST_BACKENDS];
};

static inline void
see_marks(struct marks *m, const struct places *t, const struct dps_live_table *backends,
	  const struct dps_live_table *down)
{
	if (down == NULL || (m->versions[0] == backends->version && m->versions[1] == down->version))
		return;
	m->versions[0] = backends->version;
	m->versions[1] = down->version;
	m->is_any = 0;
	for (uint32_t i = 0; i < t->n && i < MOST_BACKENDS; i++) {
		uint64_t found = dps_exact_find((const struct dps_exact *)down->at, t->backends[i].name);
		char letter = found == DPS_TABLE_NONE ? 0 : (char)(found & 0xff);

		m->of[i] = letter == 0 ? UP : letter == 'g' || letter == 'r' ? GONE : DRAINED;
		m->is_any |= m->of[i] != UP;
	}
}

/* The backend of a new flow: that of its place, and where it is down that of another place. Where all that have a
 * weight are down, the marks hold for none: what says so may be what is wrong. -1: none has a weight. */
static inline int
backend_for(const struct places *t, const struct marks *m, uint64_t key)
{
	uint32_t index = t->place[(uint32_t)(key >> 32) % MAGLEV_PLACES], first = index;

	if (t->filled == 0 || index >= MOST_BACKENDS)
		return -1;
	if (!m->is_any || m->of[index] == UP)
		return (int)index;
	for (uint64_t i = 1; i <= TRIES; i++) {
		index = t->place[(uint32_t)(maglev_mix(key + i) >> 32) % MAGLEV_PLACES] % MOST_BACKENDS;
		if (m->of[index] == UP)
			return (int)index;
	}
	for (uint32_t i = 1; i < t->n; i++) {
		index = (first + i) % (t->n < MOST_BACKENDS ? t->n : MOST_BACKENDS);
		if (t->backends[index].weight != 0 && m->of[index] == UP)
			return (int)index;
	}
	return (int)first;
}

/* --- counters ------------------------------------------------------------------------------------- */

enum { COUNTED = 256, COUNT_TRIES = 8, NOT_COUNTED = 0xffff };

struct backend_count {
	uint8_t name[BACKEND_NAME];     /* zero: it is free */
	uint64_t packets;
	uint64_t bytes;                 /* of IP */
	uint64_t flows;
};

/* A worker's state: 8 KiB, as much as `dpsup state` shows. */
struct counts {
	struct backend_count of[COUNTED];
};

/* Where the backends' counters were found, by their index. */
struct counts_known {
	uint64_t version;
	uint16_t at[MOST_BACKENDS];     /* and 1; 0: not known */
};

static inline int
is_backend_name(const struct places *t, const uint8_t *name)
{
	for (uint32_t i = 0; i < t->n && i < MOST_BACKENDS; i++)
		if (memcmp(t->backends[i].name, name, BACKEND_NAME) == 0)
			return 1;
	return 0;
}

/* One that is its own, else a free one, else that of a backend that is no more. */
static inline uint32_t
count_slot(const struct counts *counts, const struct places *t, const uint8_t *name)
{
	uint32_t first = (uint32_t)maglev_name(name, BACKEND_NAME) % COUNTED, room = NOT_COUNTED, at;

	for (uint32_t i = 0; i < COUNT_TRIES; i++) {
		at = (first + i) % COUNTED;
		if (memcmp(counts->of[at].name, name, BACKEND_NAME) == 0)
			return at + 1;
		if (counts->of[at].name[0] == 0 && room == NOT_COUNTED)
			room = at + 1;
	}
	for (uint32_t i = 0; i < COUNT_TRIES && room == NOT_COUNTED; i++) {
		at = (first + i) % COUNTED;
		if (!is_backend_name(t, counts->of[at].name))
			room = at + 1;
	}
	return room;
}

static inline void
count_backend(struct counts *counts, struct counts_known *known, const struct places *t, uint64_t version,
	      uint32_t index, uint32_t bytes, int is_new)
{
	const uint8_t *name = t->backends[index].name;
	struct backend_count *c;

	if (known->version != version) {
		memset(known->at, 0, sizeof(known->at));
		known->version = version;
	}
	if (known->at[index] == 0)
		known->at[index] = (uint16_t)count_slot(counts, t, name);
	if (known->at[index] == NOT_COUNTED)
		return;
	c = &counts->of[known->at[index] - 1];
	dps_touch(c, sizeof(*c));
	if (memcmp(c->name, name, BACKEND_NAME) != 0) {
		*c = (struct backend_count){ 0 };
		memcpy(c->name, name, BACKEND_NAME);
	}
	c->packets++;
	c->bytes += bytes;
	c->flows += (uint64_t)is_new;
}

#endif
