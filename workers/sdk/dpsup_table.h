/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLE_H
#define DPSUP_TABLE_H

/*
 * Tables that a plugin looks things up in: what they have in common. The tables themselves:
 *
 *     dpsup_table_exact.h    a key of 1 to 64 bytes -> 8 bytes
 *     dpsup_table_lpm.h      the longest prefix of an IPv4 or IPv6 address -> a number of 32 bits
 *     dpsup_table_array.h    an index -> a record
 *
 * All of them keep the same promises:
 *
 *   - A table lies in one block of memory that the caller gives, aligned to a cache line. It holds
 *     offsets, not pointers: copied to another address it is the same table, and it may be mapped
 *     read-only by the processes that only look things up.
 *   - X_bytes(n) says how large the block must be for n entries; X_init begins an empty table.
 *     Nothing is allocated later.
 *   - One writer changes it (set, del, clear), and no thread may read a copy in the meantime: dpsup
 *     keeps two copies, and readers look at the one that is complete. The same operations leave
 *     the same bytes in both.
 *   - set adds (returns 1) or replaces (returns 0). A full table returns -ENOSPC, and is unchanged.
 *     A replacement and a del never fail for lack of memory.
 *   - find looks up one key; look takes many, for the plugin's `look`, and prefetches: it fetches
 *     all lines of one step before it needs the first. A miss gives DPS_TABLE_NONE.
 *   - No DPDK, no system call, no allocation, no thread; C11 and C++11.
 */

#include <errno.h>
#include <stdint.h>
#include <string.h>

#define DPS_TABLE_NONE UINT64_MAX /* a miss; no table holds it as a value */
#define DPS_TABLE_LINE 64u        /* alignment of a table */

/* Keys that `look` works on at a time: more than a core has outstanding misses for, and few enough
 * that what was fetched first is still in the first-level cache. */
#define DPS_TABLE_GROUP 32u

/* Processors with DPDK's least instruction set have popcnt, compilers by default do not use it. */
#if defined(__x86_64__) && !defined(__POPCNT__)
#define DPS_TABLE_FAST __attribute__((target("popcnt")))
#else
#define DPS_TABLE_FAST
#endif
#define DPS_TABLE_INLINE static inline __attribute__((always_inline))

DPS_TABLE_INLINE void
dps_table_prefetch(const void *p)
{
	__builtin_prefetch(p, 0, 3);
}

DPS_TABLE_INLINE uint64_t
dps_table_align(uint64_t bytes, uint64_t to)
{
	return (bytes + to - 1) / to * to;
}

/* Whole bytes of a packet, of any alignment. */
DPS_TABLE_INLINE uint64_t
dps_table_load64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

DPS_TABLE_INLINE uint32_t
dps_table_load32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define DPS_TABLE_BE32(v) __builtin_bswap32(v)
#define DPS_TABLE_BE64(v) __builtin_bswap64(v)
#else
#define DPS_TABLE_BE32(v) (v)
#define DPS_TABLE_BE64(v) (v)
#endif

#endif
