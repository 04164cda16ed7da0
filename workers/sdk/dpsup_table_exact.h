/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLE_EXACT_H
#define DPSUP_TABLE_EXACT_H

/*
 * Exact match: a key of 1 to 64 bytes, all keys of a table of one length, -> 8 bytes.
 *
 *     struct dps_exact *t = memory;
 *     dps_exact_init(t, dps_exact_bytes(6, 100000), 6, 100000, seed);
 *     dps_exact_set(t, mac, 7);
 *     dps_exact_find(t, mac) == 7;
 *
 * How: buckets of a cache line with twelve one-byte tags and twelve indices of entries, searched
 * linearly, with a count of the entries that a full bucket sent on to the next: Bronson and Shi,
 * "Open-sourcing F14 for faster, more memory-efficient hash tables" (2019). So a search ends at the
 * first bucket that sent nothing on, and a deletion leaves no tombstone. The hash is the folded
 * product of wyhash (Wang Yi), with a seed.
 *
 * Memory: 64 bytes for 9 entries (buckets are at most 3/4 full), and for each entry the key and
 * 8 bytes, rounded up to a power of two so that one of up to 64 bytes lies in one line. 10^6 keys
 * of up to 8 bytes: 23 MiB, of up to 24 bytes: 38 MiB.
 * Lookup: two lines, the bucket and the entry; 1 in 20 takes another one. Operation: the same.
 * Any n keys fit. Worst case: keys whose hashes are equal are searched one bucket after another, a
 * line for twelve of them; with a random seed no sender can choose such keys.
 */

#include "dpsup_table.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define DPS_EXACT_MAGIC 0x64707378u
#define DPS_EXACT_SLOTS 12u
#define DPS_EXACT_KEY 64u               /* most bytes of a key */
#define DPS_EXACT_MOST (UINT32_MAX / 2) /* entries */

struct dps_exact_bucket {
	uint8_t tag[DPS_EXACT_SLOTS]; /* 0: the slot is empty */
	uint32_t passed;              /* entries that went past this bucket because it was full */
	uint32_t entry[DPS_EXACT_SLOTS];
};

struct dps_exact {
	uint32_t magic;
	uint32_t key_bytes;
	uint32_t stride; /* of an entry */
	uint32_t n_buckets;
	uint32_t most;
	uint32_t entries;
	uint32_t fresh; /* entries from here on were never used */
	uint32_t freed; /* the first of the list of free ones, plus 1 */
	uint64_t seed;
	uint64_t bytes;
	uint64_t bucket_at;
	uint64_t entry_at;
};

DPS_TABLE_INLINE uint32_t
dps_exact_stride(uint32_t key_bytes)
{
	uint32_t stride = 16;

	while (stride < key_bytes + 8)
		stride *= 2;
	return stride;
}

DPS_TABLE_INLINE uint32_t
dps_exact_n_buckets(uint64_t entries)
{
	return (uint32_t)((entries + 8) / 9) + 1;
}

/* Bytes of memory for so many entries, or 0: there is no such table. */
static inline uint64_t
dps_exact_bytes(uint32_t key_bytes, uint64_t entries)
{
	if (key_bytes == 0 || key_bytes > DPS_EXACT_KEY || entries == 0 || entries > DPS_EXACT_MOST)
		return 0;
	return dps_table_align(sizeof(struct dps_exact), 64) +
	       (uint64_t)dps_exact_n_buckets(entries) * sizeof(struct dps_exact_bucket) +
	       dps_table_align(entries * dps_exact_stride(key_bytes), 64);
}

DPS_TABLE_INLINE struct dps_exact_bucket *
dps_exact_bucket_at(const struct dps_exact *t, uint32_t i)
{
	return (struct dps_exact_bucket *)((uintptr_t)t + t->bucket_at) + i;
}

DPS_TABLE_INLINE uint8_t *
dps_exact_entry(const struct dps_exact *t, uint32_t i)
{
	return (uint8_t *)((uintptr_t)t + t->entry_at + (uint64_t)i * t->stride);
}

/* Where the value of an entry lies: behind the key. */
DPS_TABLE_INLINE uint8_t *
dps_exact_value(const struct dps_exact *t, uint32_t i)
{
	return dps_exact_entry(t, i) + t->stride - 8;
}

/* Forget all entries. */
static inline void
dps_exact_clear(struct dps_exact *t)
{
	memset(dps_exact_bucket_at(t, 0), 0,
	       (uint64_t)t->n_buckets * sizeof(struct dps_exact_bucket));
	t->entries = t->fresh = t->freed = 0;
}

/* Begin an empty table in so many bytes. 0, -EINVAL, or -ENOSPC: they are too few. */
static inline int
dps_exact_init(void *memory, uint64_t bytes, uint32_t key_bytes, uint64_t entries, uint64_t seed)
{
	struct dps_exact *t = (struct dps_exact *)memory;
	uint64_t need = dps_exact_bytes(key_bytes, entries);

	if (need == 0 || (uintptr_t)memory % DPS_TABLE_LINE != 0)
		return -EINVAL;
	if (bytes < need)
		return -ENOSPC;
	memset(t, 0, sizeof(*t));
	t->key_bytes = key_bytes;
	t->stride = dps_exact_stride(key_bytes);
	t->n_buckets = dps_exact_n_buckets(entries);
	t->most = (uint32_t)entries;
	t->seed = seed;
	t->bytes = need;
	t->bucket_at = dps_table_align(sizeof(*t), 64);
	t->entry_at = t->bucket_at + (uint64_t)t->n_buckets * sizeof(struct dps_exact_bucket);
	dps_exact_clear(t);
	t->magic = DPS_EXACT_MAGIC;
	return 0;
}

DPS_TABLE_INLINE uint64_t
dps_exact_fold(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The last 1 to 8 bytes of a key, without reading past it; from 8 bytes on they may overlap those
 * before them. */
DPS_TABLE_INLINE uint64_t
dps_exact_tail(const uint8_t *key, uint32_t len)
{
	if (len >= 8)
		return dps_table_load64(key + len - 8);
	if (len >= 4)
		return dps_table_load32(key) | (uint64_t)dps_table_load32(key + len - 4) << 32;
	return key[0] | (uint64_t)key[len / 2] << 8 | (uint64_t)key[len - 1] << 16;
}

DPS_TABLE_INLINE uint64_t
dps_exact_hash(const struct dps_exact *t, const uint8_t *key)
{
	uint64_t h = t->seed ^ 0xa0761d6478bd642full;
	uint32_t len = t->key_bytes;

	for (uint32_t i = 0; i + 8 < len; i += 8)
		h = dps_exact_fold(h ^ dps_table_load64(key + i), 0xe7037ed1a0b428dbull);
	h = dps_exact_fold(h ^ dps_exact_tail(key, len), 0x8ebc6af09c88c6e3ull);
	return dps_exact_fold(h ^ len, 0x589965cc75374cc3ull);
}

DPS_TABLE_INLINE int
dps_exact_same(const struct dps_exact *t, const uint8_t *a, const uint8_t *b)
{
	uint64_t differ = dps_exact_tail(a, t->key_bytes) ^ dps_exact_tail(b, t->key_bytes);

	for (uint32_t i = 0; i + 8 < t->key_bytes; i += 8)
		differ |= dps_table_load64(a + i) ^ dps_table_load64(b + i);
	return differ == 0;
}

/* The bucket comes from the hash's upper half, the tag from its lowest byte. */
DPS_TABLE_INLINE uint32_t
dps_exact_home(const struct dps_exact *t, uint64_t hash)
{
	return (uint32_t)((hash >> 32) * t->n_buckets >> 32);
}

DPS_TABLE_INLINE uint8_t
dps_exact_tag(uint64_t hash)
{
	return (uint8_t)hash ? (uint8_t)hash : 1;
}

/* Which slots of a bucket have this tag, as bits. */
DPS_TABLE_INLINE uint32_t
dps_exact_tagged(const struct dps_exact_bucket *b, uint8_t tag)
{
	uint32_t found = 0;
#if defined(__SSE2__)
	__m128i tags = _mm_loadu_si128((const __m128i *)(const void *)b->tag);

	found = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag)));
	found &= (1u << DPS_EXACT_SLOTS) - 1;
#else
	for (uint32_t i = 0; i < DPS_EXACT_SLOTS; i++)
		found |= (uint32_t)(b->tag[i] == tag) << i;
#endif
	return found;
}

/* Search from the home bucket on. 1: *bucket and *slot say where the key is. */
static inline int
dps_exact_search(const struct dps_exact *t, const uint8_t *key, uint64_t hash, uint32_t *bucket,
		 uint32_t *slot)
{
	uint8_t tag = dps_exact_tag(hash);
	uint32_t i = dps_exact_home(t, hash);

	/* Bounded: each bucket may have sent entries on. */
	for (uint32_t left = t->n_buckets; left > 0; left--) {
		const struct dps_exact_bucket *b = dps_exact_bucket_at(t, i);

		for (uint32_t hits = dps_exact_tagged(b, tag); hits != 0; hits &= hits - 1) {
			*slot = (uint32_t)__builtin_ctz(hits);
			if (dps_exact_same(t, dps_exact_entry(t, b->entry[*slot]), key)) {
				*bucket = i;
				return 1;
			}
		}
		if (b->passed == 0)
			break;
		i = i + 1 == t->n_buckets ? 0 : i + 1;
	}
	return 0;
}

/* The value of a key, or DPS_TABLE_NONE. */
static inline uint64_t
dps_exact_find(const struct dps_exact *t, const void *key)
{
	const uint8_t *k = (const uint8_t *)key;
	uint32_t bucket, slot;

	if (!dps_exact_search(t, k, dps_exact_hash(t, k), &bucket, &slot))
		return DPS_TABLE_NONE;
	return dps_table_load64(dps_exact_value(t, dps_exact_bucket_at(t, bucket)->entry[slot]));
}

/* The values of n keys. */
static inline void
dps_exact_look(const struct dps_exact *t, const void *const *keys, uint32_t n, uint64_t *found)
{
	uint64_t hash[DPS_TABLE_GROUP];
	uint32_t entry[DPS_TABLE_GROUP];

	for (; n > 0; keys += DPS_TABLE_GROUP, found += DPS_TABLE_GROUP) {
		uint32_t some = n < DPS_TABLE_GROUP ? n : DPS_TABLE_GROUP;

		n -= some;
		for (uint32_t i = 0; i < some; i++) {
			hash[i] = dps_exact_hash(t, (const uint8_t *)keys[i]);
			dps_table_prefetch(dps_exact_bucket_at(t, dps_exact_home(t, hash[i])));
		}
		for (uint32_t i = 0; i < some; i++) {
			const struct dps_exact_bucket *b =
				dps_exact_bucket_at(t, dps_exact_home(t, hash[i]));
			uint32_t hits = dps_exact_tagged(b, dps_exact_tag(hash[i]));

			entry[i] = hits != 0 ? b->entry[__builtin_ctz(hits)] : UINT32_MAX;
			if (hits != 0)
				dps_table_prefetch(dps_exact_entry(t, entry[i]));
			else if (b->passed == 0)
				entry[i] = UINT32_MAX - 1; /* it is not there */
		}
		for (uint32_t i = 0; i < some; i++) {
			const uint8_t *key = (const uint8_t *)keys[i];

			if (entry[i] == UINT32_MAX - 1)
				found[i] = DPS_TABLE_NONE;
			else if (entry[i] != UINT32_MAX &&
				 dps_exact_same(t, dps_exact_entry(t, entry[i]), key))
				found[i] = dps_table_load64(dps_exact_value(t, entry[i]));
			else
				found[i] = dps_exact_find(t, key);
		}
	}
}

/* Add (1) or replace (0). -ENOSPC: there are `most` entries; -EINVAL: the value means a miss. */
static inline int
dps_exact_set(struct dps_exact *t, const void *key, uint64_t value)
{
	const uint8_t *k = (const uint8_t *)key;
	uint64_t hash = dps_exact_hash(t, k);
	uint32_t bucket, slot, entry;
	struct dps_exact_bucket *b;

	if (value == DPS_TABLE_NONE)
		return -EINVAL;
	if (dps_exact_search(t, k, hash, &bucket, &slot)) {
		entry = dps_exact_bucket_at(t, bucket)->entry[slot];
		memcpy(dps_exact_value(t, entry), &value, 8);
		return 0;
	}
	if (t->entries == t->most)
		return -ENOSPC;
	if (t->freed != 0) {
		entry = t->freed - 1;
		t->freed = dps_table_load32(dps_exact_entry(t, entry));
	} else {
		entry = t->fresh++;
	}
	t->entries++;
	memcpy(dps_exact_entry(t, entry), k, t->key_bytes);
	memcpy(dps_exact_value(t, entry), &value, 8);

	bucket = dps_exact_home(t, hash);
	while (dps_exact_tagged(b = dps_exact_bucket_at(t, bucket), 0) == 0) {
		b->passed++;
		bucket = bucket + 1 == t->n_buckets ? 0 : bucket + 1;
	}
	slot = (uint32_t)__builtin_ctz(dps_exact_tagged(b, 0));
	b->tag[slot] = dps_exact_tag(hash);
	b->entry[slot] = entry;
	return 1;
}

/* 0, or -ENOENT. */
static inline int
dps_exact_del(struct dps_exact *t, const void *key)
{
	const uint8_t *k = (const uint8_t *)key;
	uint64_t hash = dps_exact_hash(t, k);
	uint32_t bucket, slot;
	struct dps_exact_bucket *b;

	if (!dps_exact_search(t, k, hash, &bucket, &slot))
		return -ENOENT;
	b = dps_exact_bucket_at(t, bucket);
	memcpy(dps_exact_entry(t, b->entry[slot]), &t->freed, 4);
	t->freed = b->entry[slot] + 1;
	t->entries--;
	b->tag[slot] = 0;
	b->entry[slot] = 0;
	for (uint32_t i = dps_exact_home(t, hash); i != bucket;
	     i = i + 1 == t->n_buckets ? 0 : i + 1)
		dps_exact_bucket_at(t, i)->passed--;
	return 0;
}

#endif
