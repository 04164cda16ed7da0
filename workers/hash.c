// SPDX-License-Identifier: BSD-3-Clause
//
// The hash of a flow that a plugin asks for: that of shim/io/hash.c, from addresses and ports instead of
// a packet.

#include <netinet/in.h>
#include <string.h>

#include "worker.h"

enum { TUPLE_MOST = 36 };       // two IPv6 addresses and two ports

// By position and value of an input byte: the XOR of the key's windows at its set bits.
static uint32_t table[TUPLE_MOST][256];
static uint64_t fields;

// The 32 bits of the key that start at a bit; past the key's end come zeros.
static uint32_t
key_window(const struct dps_ctl *ctl, uint32_t bit)
{
	uint32_t window = 0;

	for (uint32_t at = bit; at < bit + 32; at++)
		window = window << 1 | (at / 8 < ctl->hash_key_len && at / 8 < DPS_KEY &&
					ctl->hash_key[at / 8] >> (7 - at % 8) & 1);
	return window;
}

void
hash_init(const struct dps_ctl *ctl)
{
	fields = ctl->hash_fields;
	for (uint32_t i = 0; i < TUPLE_MOST; i++) {
		uint32_t window[8];

		for (uint32_t bit = 0; bit < 8; bit++)
			window[bit] = key_window(ctl, i * 8 + 7 - bit);
		// What the value without its lowest bit has, and that bit's.
		for (uint32_t v = 1; v < 256; v++)
			table[i][v] = table[i][v & (v - 1)] ^ window[__builtin_ctz(v)];
	}
}

static bool
has_ports(const struct dps_tuple *t)
{
	if (t->fragment)
		return false;
	switch (t->protocol) {
	case IPPROTO_TCP:
		return fields & DPS_RSS_TCP;
	case IPPROTO_UDP:
		return fields & DPS_RSS_UDP;
	case IPPROTO_SCTP:
		return fields & DPS_RSS_SCTP;
	default:
		return false;
	}
}

uint32_t
dps_hash_of(const struct dps_env *env, const struct dps_tuple *t)
{
	uint32_t len = t->version == 4 ? 4 : 16, n = 2 * len, hash = 0;
	uint8_t bytes[TUPLE_MOST];

	(void)env;
	if (!(fields & (t->version == 4 ? DPS_RSS_IPV4 : DPS_RSS_IPV6)))
		return 0;
	memcpy(bytes, t->from, len);
	memcpy(bytes + len, t->to, len);
	if (has_ports(t)) {
		memcpy(bytes + n, &t->from_port, 2);
		memcpy(bytes + n + 2, &t->to_port, 2);
		n += 4;
	}
	for (uint32_t i = 0; i < n; i++)
		hash ^= table[i][bytes[i]];
	return hash;
}
