/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_BENCH_ROUTES_H
#define DPSUP_BENCH_ROUTES_H

// Routing tables of the Internet's shape, for tests and measurements.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct rng {
	uint64_t state;
};

// SplitMix64 (Steele, Lea, Flood 2014): any seed will do.
static inline uint64_t
rnd(struct rng *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline void
random_bytes(struct rng *r, uint8_t *bytes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 8) {
		uint64_t v = rnd(r);

		memcpy(bytes + i, &v, n - i < 8 ? n - i : 8);
	}
}

struct route {
	uint8_t address[16];
	uint32_t length;
};

struct route_share {
	uint32_t length;
	uint32_t per_mille;
};

// IPv4: shares of our own, rounded, in the shape that full tables are known to have (six in ten are
// /24), with 16 in a thousand longer ones, which only a network's own routes are. No published table.
static const struct route_share route_shares4[] = {
	{ 8, 1 }, { 10, 1 }, { 11, 1 }, { 12, 1 }, { 13, 1 }, { 14, 2 }, { 15, 3 },
	{ 16, 14 }, { 17, 9 }, { 18, 15 }, { 19, 27 }, { 20, 46 }, { 21, 53 }, { 22, 108 },
	{ 23, 100 }, { 24, 602 }, { 25, 4 }, { 26, 3 }, { 27, 2 }, { 28, 2 }, { 29, 2 },
	{ 30, 1 }, { 32, 2 },
};

// IPv6: the same; the report of 21 November 2024 says 220,000 routes, 42.9 bits on average, and 57 %
// of them more specific than another.
static const struct route_share route_shares6[] = {
	{ 20, 1 }, { 24, 1 }, { 28, 3 }, { 29, 22 }, { 30, 3 }, { 31, 2 }, { 32, 110 },
	{ 33, 11 }, { 34, 9 }, { 35, 6 }, { 36, 45 }, { 37, 4 }, { 38, 9 }, { 39, 4 },
	{ 40, 90 }, { 41, 8 }, { 42, 22 }, { 43, 8 }, { 44, 140 }, { 45, 14 }, { 46, 33 },
	{ 47, 25 }, { 48, 430 },
};

static inline void
route_mask(struct route *r, uint32_t bits)
{
	for (uint32_t i = r->length; i < bits; i++)
		r->address[i / 8] &= (uint8_t)~(0x80 >> i % 8);
}

// An address under a route.
static inline void
route_address(struct rng *g, const struct route *r, uint32_t bits, uint8_t out[16])
{
	random_bytes(g, out, 16);
	for (uint32_t i = 0; i < r->length && i < bits; i++) {
		uint8_t bit = (uint8_t)(0x80 >> i % 8);

		out[i / 8] = (uint8_t)((out[i / 8] & ~bit) | (r->address[i / 8] & bit));
	}
}

static inline int
route_order(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct route));
}

// n different routes, in random order. Two in three are more specific than one that is already
// there, as half and more of the Internet's are; the others begin in the space that is assigned.
static inline struct route *
routes_new(uint32_t bits, uint32_t n, uint64_t seed)
{
	const struct route_share *shares = bits == 32 ? route_shares4 : route_shares6;
	struct route *routes = (struct route *)calloc(n, sizeof(*routes));
	struct rng r = { seed };
	uint32_t have = 0;

	while (have < n) {
		uint32_t from = have;

		for (; have < n; have++) {
			struct route *one = &routes[have];
			uint32_t at = (uint32_t)(rnd(&r) % 1000), i = 0;

			memset(one, 0, sizeof(*one));
			while (at >= shares[i].per_mille)
				at -= shares[i++].per_mille;
			one->length = shares[i].length;
			random_bytes(&r, one->address, bits / 8);
			if (bits == 32)
				one->address[0] = (uint8_t)(1 + rnd(&r) % 223);
			else { // 2001::/16 and 2400::/12 to 2c00::/12, each from its lowest addresses on
				static const uint8_t first[6] = { 0x20, 0x24, 0x26, 0x28, 0x2a, 0x2c };

				one->address[0] = first[rnd(&r) % 6];
				one->address[1] = one->address[0] == 0x20 ? 1 : rnd(&r) % 16;
				one->address[2] &= 0x3f;
			}
			for (uint32_t tries = 0; have > 0 && tries < 8 && rnd(&r) % 3 != 0; tries++) {
				const struct route *above = &routes[rnd(&r) % have];

				if (above->length < one->length) {
					route_address(&r, above, bits, one->address);
					if (bits == 32)
						memset(one->address + 4, 0, 12);
					break;
				}
			}
			route_mask(one, bits);
		}
		// Drop what is there twice, and go on.
		qsort(routes, n, sizeof(*routes), route_order);
		have = 0;
		for (uint32_t i = 0; i < n; i++)
			if (have == 0 || route_order(&routes[i], &routes[have - 1]) != 0)
				routes[have++] = routes[i];
		if (from == have)
			break;
	}
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(rnd(&r) % (i + 1));
		struct route swap = routes[i];

		routes[i] = routes[j];
		routes[j] = swap;
	}
	return routes;
}

#endif
