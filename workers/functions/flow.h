/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_FLOW_H
#define DPSUP_FLOW_H

/*
 * A hash of a packet's flow for what spreads flows: over ways, servers, tunnels. It is another one than that by
 * which dpsup spreads them over workers, so that the packets of a worker, and of a router behind another one,
 * go all ways too. For functions that dpsup ships; it needs the SDK alone.
 */

#include <dpsup_table.h>

#include "headers.h"

static inline uint64_t
flow_fold(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Of a packet's flow: its addresses, and the ports of what is no fragment. `ip_at`: where its IP header begins, which is
 * whole. */
static inline uint64_t
flow_hash_at(const struct dps_packet *p, uint32_t ip_at, int is6)
{
	const uint8_t *ip = p->data + ip_at;
	uint32_t head = is6 ? IPV6 : (ip[0] & 0xfu) * 4, protocol = is6 ? ip[6] : ip[9];
	uint64_t hash = flow_fold(protocol ^ 0xa0761d6478bd642full, 0xe7037ed1a0b428dbull);
	int is_whole = is6 || (be16_at(ip + 6) & 0x3fff) == 0;

	for (uint32_t at = is6 ? 8 : 12; at < (is6 ? 40u : 20u); at += 8)
		hash = flow_fold(hash ^ dps_table_load64(ip + at), 0x8ebc6af09c88c6e3ull);
	if (is_whole && (protocol == 6 || protocol == 17 || protocol == 132) && p->len >= ip_at + head + 4)
		hash = flow_fold(hash ^ dps_table_load32(ip + head), 0x589965cc75374cc3ull);
	return hash;
}

static inline uint64_t
flow_hash(const struct dps_packet *p, int is6)
{
	return flow_hash_at(p, ETHER, is6);
}

#endif
