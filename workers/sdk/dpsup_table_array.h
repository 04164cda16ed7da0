/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLE_ARRAY_H
#define DPSUP_TABLE_ARRAY_H

/*
 * Array: an index -> a record of a fixed number of bytes, or nothing there. What the numbers of a
 * longest prefix match stand for (next hops, actions) lies in one.
 *
 *     struct dps_array *t = memory;
 *     dps_array_init(t, dps_array_bytes(sizeof(struct hop), 256), sizeof(struct hop), 256);
 *     dps_array_set(t, 7, &hop);
 *     const struct hop *h = dps_array_at(t, 7);
 *
 * Memory: the record, rounded up so that one of up to 64 bytes lies in one cache line, and a bit.
 * 10^6 records of 16 bytes: 16 MiB. Lookup: one line for the bit, mostly cached, and the record's.
 */

#include "dpsup_table.h"

#define DPS_ARRAY_MAGIC 0x64707361u
#define DPS_ARRAY_RECORD 65536u     /* most bytes of a record */
#define DPS_ARRAY_MOST (1ull << 31) /* records */

struct dps_array {
	uint32_t magic;
	uint32_t record; /* bytes */
	uint32_t stride;
	uint32_t most;
	uint32_t entries;
	uint32_t pad;
	uint64_t bytes;
	uint64_t there_at; /* a bit for each record */
	uint64_t record_at;
	uint64_t fill[2];
};

DPS_TABLE_INLINE uint32_t
dps_array_stride(uint32_t record)
{
	uint32_t stride = 8;

	if (record > 64)
		return (uint32_t)dps_table_align(record, 64);
	while (stride < record)
		stride *= 2;
	return stride;
}

DPS_TABLE_INLINE uint64_t
dps_array_there_bytes(uint64_t entries)
{
	return dps_table_align((entries + 7) / 8, 64);
}

/* Bytes of memory for so many records, or 0: there is no such table. */
static inline uint64_t
dps_array_bytes(uint32_t record, uint64_t entries)
{
	if (record == 0 || record > DPS_ARRAY_RECORD || entries == 0 || entries > DPS_ARRAY_MOST)
		return 0;
	return sizeof(struct dps_array) + dps_array_there_bytes(entries) +
	       dps_table_align(entries * dps_array_stride(record), 64);
}

DPS_TABLE_INLINE uint64_t *
dps_array_there(const struct dps_array *t, uint32_t index)
{
	return (uint64_t *)((uintptr_t)t + t->there_at) + index / 64;
}

DPS_TABLE_INLINE uint8_t *
dps_array_record(const struct dps_array *t, uint32_t index)
{
	return (uint8_t *)((uintptr_t)t + t->record_at + (uint64_t)index * t->stride);
}

/* Forget all records. */
static inline void
dps_array_clear(struct dps_array *t)
{
	memset(dps_array_there(t, 0), 0, dps_array_there_bytes(t->most));
	memset(dps_array_record(t, 0), 0, dps_table_align((uint64_t)t->most * t->stride, 64));
	t->entries = 0;
}

/* Begin an empty table in so many bytes. 0, -EINVAL, or -ENOSPC: they are too few. */
static inline int
dps_array_init(void *memory, uint64_t bytes, uint32_t record, uint64_t entries)
{
	struct dps_array *t = (struct dps_array *)memory;
	uint64_t need = dps_array_bytes(record, entries);

	if (need == 0 || (uintptr_t)memory % DPS_TABLE_LINE != 0)
		return -EINVAL;
	if (bytes < need)
		return -ENOSPC;
	memset(t, 0, sizeof(*t));
	t->record = record;
	t->stride = dps_array_stride(record);
	t->most = (uint32_t)entries;
	t->bytes = need;
	t->there_at = sizeof(*t);
	t->record_at = t->there_at + dps_array_there_bytes(entries);
	dps_array_clear(t);
	t->magic = DPS_ARRAY_MAGIC;
	return 0;
}

/* The record, or NULL. It is the table's: valid as long as the copy is. */
static inline const void *
dps_array_at(const struct dps_array *t, uint64_t index)
{
	uint32_t i = (uint32_t)index;

	if (index >= t->most || !(*dps_array_there(t, i) >> i % 64 & 1))
		return NULL;
	return dps_array_record(t, i);
}

/* The records of n indices, on their way into the cache. The indices may be what another table's
 * look gave: DPS_TABLE_NONE is no index, and gives NULL. */
static inline void
dps_array_look(const struct dps_array *t, const uint64_t *index, uint32_t n, const void **found)
{
	for (uint32_t i = 0; i < n; i++) {
		found[i] = dps_array_at(t, index[i]);
		if (found[i] != NULL)
			dps_table_prefetch(found[i]);
	}
}

/* Add (1) or replace (0). -ENOSPC: the array has no such index. */
static inline int
dps_array_set(struct dps_array *t, uint64_t index, const void *record)
{
	uint32_t i = (uint32_t)index;
	uint64_t *there;
	int fresh;

	if (index >= t->most)
		return -ENOSPC;
	there = dps_array_there(t, i);
	fresh = !(*there >> i % 64 & 1);
	memcpy(dps_array_record(t, i), record, t->record);
	*there |= 1ull << i % 64;
	t->entries += (uint32_t)fresh;
	return fresh;
}

/* 0, or -ENOENT. */
static inline int
dps_array_del(struct dps_array *t, uint64_t index)
{
	if (dps_array_at(t, index) == NULL)
		return -ENOENT;
	memset(dps_array_record(t, (uint32_t)index), 0, t->stride);
	*dps_array_there(t, (uint32_t)index) &= ~(1ull << index % 64);
	t->entries--;
	return 0;
}

#endif
