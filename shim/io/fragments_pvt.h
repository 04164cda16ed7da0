/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_FRAGMENTS_PVT_H
#define DPSUP_IO_FRAGMENTS_PVT_H

// Which flow the fragments of a datagram belong to: the first one has the ports, and its hash is kept for
// the others. An io core has a table of its own, as a NIC gives all fragments of a datagram to one queue.
// Part of hash.c, which alone includes it.

#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

enum { FRAGMENT_BITS = 10, FRAGMENT_SETS = 1 << FRAGMENT_BITS, FRAGMENT_WAYS = 4 };

struct fragment {
	uint8_t ends[32];       // source and destination, of IPv4 with zeros behind them
	uint32_t id;
	uint16_t kind;          // 0: no record; version of IP, and of IPv4 the protocol
	uint32_t hash;
	uint64_t seen;          // TSC
} __rte_cache_aligned;

_Static_assert(sizeof(struct fragment) == RTE_CACHE_LINE_SIZE, "one is read for each");

struct fragments {
	uint64_t lasts;         // TSC cycles
	struct fragment at[FRAGMENT_SETS][FRAGMENT_WAYS];
};

static struct fragment *
fragment_set(struct fragments *all, const struct fragment *key, uint32_t by_ends)
{
	// Ids are often counted up, and are in network order: of a product the first bits depend on all.
	return all->at[(by_ends ^ key->id) * 0x9e3779b97f4a7c15ull >> (64 - FRAGMENT_BITS)];
}

static bool
fragment_same(const struct fragment *e, const struct fragment *key)
{
	return e->kind == key->kind && e->id == key->id &&
	       memcmp(e->ends, key->ends, sizeof(e->ends)) == 0;
}

// The record of that datagram, if its first fragment came a moment ago.
static const struct fragment *
fragment_find(struct fragments *all, const struct fragment *key, uint32_t by_ends)
{
	const struct fragment *set = fragment_set(all, key, by_ends);

	for (uint32_t i = 0; i < FRAGMENT_WAYS; i++)
		if (fragment_same(&set[i], key))
			return rte_rdtsc() - set[i].seen < all->lasts ? &set[i] : NULL;
	return NULL;
}

// Keep `key` with its hash. True: another record had to give way that may still be wanted.
static bool
fragment_keep(struct fragments *all, const struct fragment *key, uint32_t by_ends)
{
	struct fragment *set = fragment_set(all, key, by_ends);
	struct fragment *to = &set[0];
	uint64_t now = rte_rdtsc();
	bool lost;

	for (uint32_t i = 0; i < FRAGMENT_WAYS; i++) {
		if (fragment_same(&set[i], key)) {
			to = &set[i];
			break;
		}
		// A free one is older than any.
		if (set[i].seen < to->seen)
			to = &set[i];
	}
	lost = to->kind != 0 && !fragment_same(to, key) && now - to->seen < all->lasts;
	*to = *key;
	to->seen = now;
	return lost;
}

#endif
