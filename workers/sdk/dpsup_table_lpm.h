/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLE_LPM_H
#define DPSUP_TABLE_LPM_H

/*
 * Longest prefix match: prefixes of IPv4 (bits = 32) or IPv6 (bits = 128) -> a number below
 * 2^32 - 1, such as the index of a next hop in an array.
 *
 *     struct dps_lpm *t = memory;
 *     dps_lpm_init(t, dps_lpm_bytes(32, 1000000), 32, 1000000);
 *     dps_lpm_set(t, address, 24, 7);            // bytes as they stand in a packet
 *     dps_lpm_find(t, ip->destination) == 7;
 *
 * How: a tree bitmap (Eatherton, Varghese, Dittia: "Tree bitmap: hardware/software IP lookups with
 * incremental updates", 2004) with popcnt and a direct root as in Poptrie (Asai, Ohara, 2015):
 *
 *   - The root is an array over the address's first `root_bits` bits (18 for IPv4, 20 for IPv6,
 *     fewer for small tables). Prefixes no longer than that are written into all of the root that
 *     they cover; those shorter by 12 bits or more are written into the smaller `top` array, which is
 *     looked at where the root has nothing: so a default route costs no more than another.
 *   - Below, a node of one cache line covers the next six bits: a bit for each prefix of 1 to 5
 *     (`some`, as a heap: bit 2^length + bits), of 6 (`full`), and each child; children of a node,
 *     and the values of its prefixes, are consecutive in memory and found by counting bits.
 *   - A node without prefixes and with one child does not exist: the child says which depth it has
 *     and which address, and is compared with that. So n prefixes have fewer than 2 n nodes.
 *   - Blocks of children and values have sizes of 26 classes. Blocks of a class fill pages of
 *     16 KiB, all but one of them whole: a block that is freed is filled with the class's last one.
 *     So nothing is ever fragmented: what a table needs depends on its prefixes, not on its past.
 *
 * Memory: 144 bytes for each prefix hold whatever the prefixes are; docs/tables.md says what real
 * tables need (a sixth of it for IPv4's). The block may be smaller than dps_lpm_bytes says, if at
 * least dps_lpm_least: then -ENOSPC may come before `most` prefixes are in.
 * Lookup: the root, nodes, a value: a line each. IPv4 has at most three nodes, and one up to /24;
 * IPv6 at most 18, and two or three for the Internet's routes.
 * Operation: as a lookup, and the moving of at most three blocks and their successors, none larger
 * than 4 KiB; at most 2^12 words of the root. Nothing is ever rebuilt.
 */

#include "dpsup_table.h"

#define DPS_LPM_MAGIC 0x6470736cu
#define DPS_LPM_MOST (1ull << 27) /* prefixes: node and value numbers have 32 bits */
#define DPS_LPM_PAGE 16384u
#define DPS_LPM_VALUES 14u  /* classes of blocks of values */
#define DPS_LPM_CLASSES 26u /* with those of children */
/* Pages that must be free before a prefix is added: four that it may begin, and one for each class,
 * so that whatever is deleted later finds room to shrink into. */
#define DPS_LPM_RESERVE (DPS_LPM_CLASSES + 5u)
#define DPS_LPM_OF_ROOT 0x80000000u /* the owner of a block: an index of the root, not a node */

__extension__ typedef unsigned __int128 dps_lpm_key; /* an address, its first bit the highest */

struct dps_lpm_root {
	uint32_t value; /* of the longest prefix that ends here, plus 1; or 0 */
	uint32_t node;
};

/* Nodes are counted in lines, values in words, from the table's first byte. */
struct dps_lpm_node {
	uint64_t high, low; /* the address above this node: `depth` bits, then zeros */
	uint64_t some, full, child;
	uint32_t values, children;
	uint32_t depth;
	uint32_t fill[3];
};

struct dps_lpm_page {
	uint32_t used; /* blocks */
	uint32_t next; /* page of the same class that is full, or free page; plus 1 */
	uint32_t fill[14];
	/* The owner of each block, then the blocks. */
};

struct dps_lpm_class {
	uint32_t size;   /* bytes of a block */
	uint32_t blocks; /* in a page */
	uint32_t data_at;
	uint32_t page; /* the one that is not full, plus 1 */
};

struct dps_lpm {
	uint32_t magic;
	uint32_t bits; /* of an address */
	uint32_t root_bits;
	uint32_t top_bits;
	uint64_t top_at;   /* uint32_t [2^top_bits], as root.value */
	uint64_t root_at;  /* struct dps_lpm_root [2^root_bits] */
	uint64_t short_at; /* uint32_t [2^(root_bits + 1)]: a heap of prefixes up to root_bits */
	uint64_t page_at;
	uint64_t bytes;
	uint64_t fill;
	uint32_t most;
	uint32_t entries;
	uint32_t nodes;
	uint32_t pages;
	uint32_t pages_used;
	uint32_t page_fresh; /* pages from here on were never used */
	uint32_t page_freed; /* plus 1 */
	uint32_t pad;
	struct dps_lpm_class classes[DPS_LPM_CLASSES];
};

/* Of six bits, the prefixes of 1 to 5 bits that match them, as bits of `some`. */
#define DPS_LPM_A(i) (1ull << (32 | (i) >> 1) | 1ull << (16 | (i) >> 2) | 1ull << (8 | (i) >> 3) | \
		      1ull << (4 | (i) >> 4) | 1ull << (2 | (i) >> 5))
#define DPS_LPM_A8(i) DPS_LPM_A(i), DPS_LPM_A(i + 1), DPS_LPM_A(i + 2), DPS_LPM_A(i + 3), \
		      DPS_LPM_A(i + 4), DPS_LPM_A(i + 5), DPS_LPM_A(i + 6), DPS_LPM_A(i + 7)
static const uint64_t dps_lpm_above[64] = {
	DPS_LPM_A8(0),  DPS_LPM_A8(8),  DPS_LPM_A8(16), DPS_LPM_A8(24),
	DPS_LPM_A8(32), DPS_LPM_A8(40), DPS_LPM_A8(48), DPS_LPM_A8(56),
};
#undef DPS_LPM_A8
#undef DPS_LPM_A

/* How many values, or children, a block of each class holds. */
static const uint8_t dps_lpm_holds[DPS_LPM_CLASSES] = {
	1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128,
	1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64,
};

/* --- layout --------------------------------------------------------------------------------- */

DPS_TABLE_INLINE uint32_t
dps_lpm_root_bits(uint32_t bits, uint64_t entries)
{
	uint32_t root = entries > 32768 ? 18 : entries > 512 ? 12 : 6;

	return bits == 32 ? root : root + 2; /* nodes end at /24, and at /32 and /50 */
}

DPS_TABLE_INLINE uint64_t
dps_lpm_page_at(uint32_t root)
{
	uint32_t top = root > 12 ? root - 12 : 0;

	return sizeof(struct dps_lpm) + dps_table_align(4ull << top, 64) + (8ull << root) +
	       (4ull << (root + 1));
}

/* The fewest bytes that a table for so many prefixes begins with, or 0: there is no such table. */
static inline uint64_t
dps_lpm_least(uint32_t bits, uint64_t entries)
{
	if ((bits != 32 && bits != 128) || entries == 0 || entries > DPS_LPM_MOST)
		return 0;
	return dps_lpm_page_at(dps_lpm_root_bits(bits, entries)) +
	       (uint64_t)(DPS_LPM_RESERVE + 1) * DPS_LPM_PAGE;
}

/* Bytes of memory for so many prefixes, whatever they are, or 0: there is no such table.
 *
 * The most that n prefixes can need: n values alone in their blocks, 4 bytes and 4 for the owner; n
 * blocks of two children, 2 * 64 + 4 bytes. That is 140; pages lose 2 % of it, and each class has one
 * that is not full. */
static inline uint64_t
dps_lpm_bytes(uint32_t bits, uint64_t entries)
{
	uint64_t least = dps_lpm_least(bits, entries);

	if (least == 0)
		return 0;
	return least + (DPS_LPM_CLASSES + (entries * 144 + DPS_LPM_PAGE - 1) / DPS_LPM_PAGE) *
			       (uint64_t)DPS_LPM_PAGE;
}

/* Bytes of the block that are in use. */
static inline uint64_t
dps_lpm_used(const struct dps_lpm *t)
{
	return t->page_at + (uint64_t)t->pages_used * DPS_LPM_PAGE;
}

DPS_TABLE_INLINE struct dps_lpm_node *
dps_lpm_node_at(const struct dps_lpm *t, uint32_t line)
{
	return (struct dps_lpm_node *)((uintptr_t)t + (uint64_t)line * 64);
}

DPS_TABLE_INLINE uint32_t *
dps_lpm_values(const struct dps_lpm *t, uint32_t word)
{
	return (uint32_t *)((uintptr_t)t + (uint64_t)word * 4);
}

DPS_TABLE_INLINE struct dps_lpm_root *
dps_lpm_root_of(const struct dps_lpm *t)
{
	return (struct dps_lpm_root *)((uintptr_t)t + t->root_at);
}

DPS_TABLE_INLINE uint32_t *
dps_lpm_top(const struct dps_lpm *t)
{
	return (uint32_t *)((uintptr_t)t + t->top_at);
}

DPS_TABLE_INLINE uint32_t *
dps_lpm_short(const struct dps_lpm *t)
{
	return (uint32_t *)((uintptr_t)t + t->short_at);
}

DPS_TABLE_INLINE struct dps_lpm_page *
dps_lpm_page_of(const struct dps_lpm *t, uint32_t i)
{
	return (struct dps_lpm_page *)((uintptr_t)t + t->page_at + (uint64_t)i * DPS_LPM_PAGE);
}

DPS_TABLE_INLINE uint32_t
dps_lpm_count(uint64_t bits)
{
	return (uint32_t)__builtin_popcountll(bits);
}

DPS_TABLE_INLINE uint64_t
dps_lpm_below(uint32_t bit)
{
	return (1ull << bit) - 1;
}

/* Forget all prefixes. */
static inline void
dps_lpm_clear(struct dps_lpm *t)
{
	memset((uint8_t *)t + t->top_at, 0, t->page_at - t->top_at);
	for (uint32_t i = 0; i < DPS_LPM_CLASSES; i++)
		t->classes[i].page = 0;
	t->entries = t->nodes = 0;
	t->pages_used = t->page_fresh = t->page_freed = 0;
}

/* Begin an empty table for so many prefixes in so many bytes: dps_lpm_bytes, or fewer, but at least
 * dps_lpm_least. 0, -EINVAL, or -ENOSPC: they are too few. */
static inline int
dps_lpm_init(void *memory, uint64_t bytes, uint32_t bits, uint64_t entries)
{
	struct dps_lpm *t = (struct dps_lpm *)memory;
	uint64_t least = dps_lpm_least(bits, entries), most = dps_lpm_bytes(bits, entries);

	if (least == 0 || (uintptr_t)memory % DPS_TABLE_LINE != 0)
		return -EINVAL;
	if (bytes < least)
		return -ENOSPC;
	if (bytes > most)
		bytes = most;
	memset(t, 0, sizeof(*t));
	t->bits = bits;
	t->root_bits = dps_lpm_root_bits(bits, entries);
	t->top_bits = t->root_bits > 12 ? t->root_bits - 12 : 0;
	t->most = (uint32_t)entries;
	t->top_at = sizeof(*t);
	t->root_at = t->top_at + dps_table_align(4ull << t->top_bits, 64);
	t->short_at = t->root_at + (8ull << t->root_bits);
	t->page_at = dps_lpm_page_at(t->root_bits);
	t->pages = (uint32_t)((bytes - t->page_at) / DPS_LPM_PAGE);
	t->bytes = t->page_at + (uint64_t)t->pages * DPS_LPM_PAGE;
	for (uint32_t i = 0; i < DPS_LPM_CLASSES; i++) {
		struct dps_lpm_class *k = &t->classes[i];

		k->size = dps_lpm_holds[i] * (i < DPS_LPM_VALUES ? 4u : 64u);
		k->blocks = (DPS_LPM_PAGE - 128) / (k->size + 4);
		k->data_at = (uint32_t)dps_table_align(64 + k->blocks * 4, 64);
	}
	dps_lpm_clear(t);
	t->magic = DPS_LPM_MAGIC;
	return 0;
}

/* --- lookup --------------------------------------------------------------------------------- */

/* The six bits behind the first `depth`. An IPv4 address is in the upper half of `high`. */
DPS_TABLE_INLINE uint32_t
dps_lpm_six(uint64_t high, uint64_t low, uint32_t depth, int is_wide)
{
	dps_lpm_key key;

	if (!is_wide || depth <= 58)
		return (uint32_t)(high >> (58 - depth)) & 63;
	key = (dps_lpm_key)high << 64 | low;
	return (uint32_t)(key >> (122 - depth)) & 63;
}

DPS_TABLE_INLINE int
dps_lpm_is_under(const struct dps_lpm_node *n, uint64_t high, uint64_t low, int is_wide)
{
	uint32_t depth = n->depth; /* 6 to 122 */

	if (!is_wide || depth <= 64)
		return (n->high ^ high) >> (64 - depth) == 0;
	return ((n->high ^ high) | (n->low ^ low) >> (128 - depth)) == 0;
}

/* One step down: changes *best if the node knows a longer prefix; returns the child or 0. */
DPS_TABLE_INLINE uint32_t
dps_lpm_step(const struct dps_lpm_node *n, uint64_t high, uint64_t low, int is_wide, uint32_t *best)
{
	uint32_t six, bit;
	uint64_t some, full, of;

	if (!dps_lpm_is_under(n, high, low, is_wide))
		return 0;
	six = dps_lpm_six(high, low, n->depth, is_wide);
	some = n->some & dps_lpm_above[six];
	full = n->full >> six & 1;
	/* Without a branch: which of them it is, is as good as random. */
	bit = full ? six : 63 - (uint32_t)__builtin_clzll(some | 1);
	of = full ? n->full : n->some;
	of &= dps_lpm_below(bit);
	*best = some || full ? n->values + dps_lpm_count(of) + (full ? dps_lpm_count(n->some) : 0)
			     : *best;
	if (!(n->child >> six & 1))
		return 0;
	return n->children + dps_lpm_count(n->child & dps_lpm_below(six));
}

DPS_TABLE_INLINE void
dps_lpm_load(const void *address, int is_wide, uint64_t *high, uint64_t *low)
{
	const uint8_t *bytes = (const uint8_t *)address;

	*low = 0;
	if (is_wide) {
		*high = DPS_TABLE_BE64(dps_table_load64(bytes));
		*low = DPS_TABLE_BE64(dps_table_load64(bytes + 8));
	} else {
		*high = (uint64_t)DPS_TABLE_BE32(dps_table_load32(bytes)) << 32;
	}
}

/* What holds if no node knew better. */
DPS_TABLE_INLINE uint64_t
dps_lpm_short_of(const struct dps_lpm *t, uint64_t high, uint32_t of_root)
{
	if (of_root == 0)
		of_root = dps_lpm_top(t)[high >> 1 >> (63 - t->top_bits)];
	return of_root == 0 ? DPS_TABLE_NONE : of_root - 1;
}

DPS_TABLE_INLINE uint64_t
dps_lpm_find_in(const struct dps_lpm *t, const void *address, int is_wide)
{
	const struct dps_lpm_root *root;
	uint64_t high, low;
	uint32_t best = 0;

	dps_lpm_load(address, is_wide, &high, &low);
	root = dps_lpm_root_of(t) + (high >> (64 - t->root_bits));
	for (uint32_t at = root->node; at != 0;)
		at = dps_lpm_step(dps_lpm_node_at(t, at), high, low, is_wide, &best);
	return best ? *dps_lpm_values(t, best) : dps_lpm_short_of(t, high, root->value);
}

/* The value of the longest prefix that matches, or DPS_TABLE_NONE. The address is in network byte
 * order, of any alignment: where it stands in the packet. */
DPS_TABLE_FAST static inline uint64_t
dps_lpm_find(const struct dps_lpm *t, const void *address)
{
	return t->bits == 32 ? dps_lpm_find_in(t, address, 0) : dps_lpm_find_in(t, address, 1);
}

DPS_TABLE_INLINE void
dps_lpm_look_in(const struct dps_lpm *t, const void *const *addresses, uint32_t n, uint64_t *found,
		int is_wide)
{
	uint64_t high[DPS_TABLE_GROUP], low[DPS_TABLE_GROUP];
	uint32_t at[DPS_TABLE_GROUP], best[DPS_TABLE_GROUP], value[DPS_TABLE_GROUP];
	uint8_t under[DPS_TABLE_GROUP];
	const struct dps_lpm_root *root = dps_lpm_root_of(t);
	uint32_t right = 64 - t->root_bits;

	for (uint32_t i = 0; i < n; i++) {
		dps_lpm_load(addresses[i], is_wide, &high[i], &low[i]);
		dps_table_prefetch(root + (high[i] >> right));
	}
	uint32_t left = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct dps_lpm_root *r = root + (high[i] >> right);

		value[i] = r->value;
		at[i] = r->node;
		best[i] = 0;
		dps_table_prefetch(dps_lpm_node_at(t, at[i]));
		under[left] = (uint8_t)i;
		left += at[i] != 0;
	}
	/* Those that still go down, one step each in turn. */
	while (left > 0) {
		uint32_t more = 0;

		for (uint32_t j = 0; j < left; j++) {
			uint32_t i = under[j];

			at[i] = dps_lpm_step(dps_lpm_node_at(t, at[i]), high[i], low[i], is_wide,
					     &best[i]);
			/* Line 0 and word 0 are the table's head: fetched without need, and in the cache. */
			dps_table_prefetch(at[i] ? (const void *)dps_lpm_node_at(t, at[i])
						 : dps_lpm_values(t, best[i]));
			under[more] = (uint8_t)i;
			more += at[i] != 0;
		}
		left = more;
	}
	for (uint32_t i = 0; i < n; i++)
		found[i] = best[i] ? *dps_lpm_values(t, best[i])
				   : dps_lpm_short_of(t, high[i], value[i]);
}

/* The same for n addresses. */
DPS_TABLE_FAST static inline void
dps_lpm_look(const struct dps_lpm *t, const void *const *addresses, uint32_t n, uint64_t *found)
{
	for (; n > 0; addresses += DPS_TABLE_GROUP, found += DPS_TABLE_GROUP) {
		uint32_t some = n < DPS_TABLE_GROUP ? n : DPS_TABLE_GROUP;

		if (t->bits == 32)
			dps_lpm_look_in(t, addresses, some, found, 0);
		else
			dps_lpm_look_in(t, addresses, some, found, 1);
		n -= some;
	}
}

#include "dpsup_table_lpm_change.h"

#endif
