/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_MAGLEV_H
#define DPSUP_MAGLEV_H

/*
 * The lookup table of Maglev (Eisenbud et al., NSDI 2016, section 3.4), with weights: which backend has which place.
 * Each backend has an order of preference of all places, made of its name; in turns each takes the first place in its
 * order that is free. A backend with half of the greatest weight takes every second turn.
 */

#include <stdint.h>
#include <string.h>

enum {
	MAGLEV_PLACES = 65537,  /* a prime number, so that each step visits all places */
	MAGLEV_NONE = 0xffff,
};

struct maglev_backend {
	uint64_t name;          /* a hash of it */
	uint32_t weight;        /* 0: it takes no place */
	uint32_t credit;
	uint32_t at;            /* the next place in its order */
	uint32_t step;
};

static inline uint64_t
maglev_mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static inline uint64_t
maglev_name(const void *bytes, uint32_t len)
{
	uint64_t hash = len;

	for (uint32_t i = 0; i < len; i++)
		hash = maglev_mix(hash ^ ((const uint8_t *)bytes)[i]) + 0x9e3779b97f4a7c15ull;
	return maglev_mix(hash);
}

/* Fills places[MAGLEV_PLACES] with indices of backends. 0: none has a weight, and all places are MAGLEV_NONE. */
static inline int
maglev_fill(uint16_t *places, struct maglev_backend *backends, uint32_t n)
{
	uint32_t most = 0, taken = 0;

	memset(places, 0xff, MAGLEV_PLACES * sizeof(*places));
	for (uint32_t i = 0; i < n; i++) {
		struct maglev_backend *b = &backends[i];

		most = b->weight > most ? b->weight : most;
		b->credit = 0;
		b->at = (uint32_t)(maglev_mix(b->name ^ 1) % MAGLEV_PLACES);
		b->step = (uint32_t)(maglev_mix(b->name ^ 2) % (MAGLEV_PLACES - 1)) + 1;
	}
	if (most == 0)
		return 0;
	for (;;) {
		for (uint32_t i = 0; i < n; i++) {
			struct maglev_backend *b = &backends[i];

			b->credit += b->weight;
			if (b->credit < most)
				continue;
			b->credit -= most;
			while (places[b->at] != MAGLEV_NONE)
				b->at = (b->at + b->step) % MAGLEV_PLACES;
			places[b->at] = (uint16_t)i;
			if (++taken == MAGLEV_PLACES)
				return 1;
		}
	}
}

#endif
