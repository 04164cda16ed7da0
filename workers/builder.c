// SPDX-License-Identifier: BSD-3-Clause
//
// What the builder does with a copy of a table: bytes in, the SDK's tables out. No DPDK, and nothing of
// a plugin's: a process that only holds tables.

#include <sys/random.h>

#include "dpsup.h"
#include "dpsup_plugin.h"
#include "dpsup_table_array.h"
#include "dpsup_table_exact.h"
#include "dpsup_table_lpm.h"
#include "dpsup_table_lpm_change.h"

#include "builder.h"

enum { SET = 1, DEL = 2, CLEAR = 3 };

static uint32_t
bits_of(uint32_t kind)
{
	return kind == DPS_TABLE_IPV4 ? 32 : 128;
}

uint64_t
builder_bytes(uint32_t kind, uint32_t key_bytes, uint32_t value_bytes, uint64_t entries)
{
	switch (kind) {
	case DPS_TABLE_EXACT:
		return dps_exact_bytes(key_bytes, entries);
	case DPS_TABLE_IPV4:
	case DPS_TABLE_IPV6:
		return dps_lpm_bytes(bits_of(kind), entries);
	case DPS_TABLE_ARRAY:
		return dps_array_bytes(value_bytes, entries);
	default:
		return 0;
	}
}

int
builder_begin(void *copy, uint64_t bytes, uint32_t kind, uint32_t key_bytes, uint32_t value_bytes,
	      uint64_t entries)
{
	uint64_t seed;

	switch (kind) {
	case DPS_TABLE_EXACT:
		// What is learned has keys that senders of packets choose.
		if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
			return -EAGAIN;
		return dps_exact_init(copy, bytes, key_bytes, entries, seed);
	case DPS_TABLE_IPV4:
	case DPS_TABLE_IPV6:
		return dps_lpm_init(copy, bytes, bits_of(kind), entries);
	case DPS_TABLE_ARRAY:
		return dps_array_init(copy, bytes, value_bytes, entries);
	default:
		return -EINVAL;
	}
}

static int
change_exact(struct dps_exact *t, uint32_t what, const uint8_t *key, const uint8_t *value,
	     uint32_t value_bytes)
{
	uint64_t number = 0;

	memcpy(&number, value, value_bytes <= 8 ? value_bytes : 8);
	if (what == SET)
		return dps_exact_set(t, key, number);
	if (what == DEL)
		return dps_exact_del(t, key);
	dps_exact_clear(t);
	return 0;
}

static int
change_lpm(struct dps_lpm *t, uint32_t what, const uint8_t *key, uint32_t length, const uint8_t *value,
	   uint32_t value_bytes)
{
	uint32_t number = 0;

	memcpy(&number, value, value_bytes <= 4 ? value_bytes : 4);
	if (what == SET)
		return dps_lpm_set(t, key, length, number);
	if (what == DEL)
		return dps_lpm_del(t, key, length);
	dps_lpm_clear(t);
	return 0;
}

static int
change_array(struct dps_array *t, uint32_t what, const uint8_t *key, const uint8_t *value)
{
	uint64_t index = DPS_TABLE_BE32(dps_table_load32(key));

	if (what == SET)
		return dps_array_set(t, index, value);
	if (what == DEL)
		return dps_array_del(t, index);
	dps_array_clear(t);
	return 0;
}

uint64_t
builder_apply(void *copy, uint32_t kind, uint32_t key_bytes, uint32_t value_bytes,
	      const uint8_t *operations, uint64_t n)
{
	uint32_t stride = 2 + key_bytes + value_bytes;

	for (uint64_t i = 0; i < n; i++, operations += stride) {
		const uint8_t *key = operations + 2, *value = key + key_bytes;
		uint32_t what = operations[0], length = operations[1];
		int ret;

		if (kind == DPS_TABLE_EXACT)
			ret = change_exact(copy, what, key, value, value_bytes);
		else if (kind == DPS_TABLE_ARRAY)
			ret = change_array(copy, what, key, value);
		else
			ret = change_lpm(copy, what, key, length, value, value_bytes);
		if (ret < 0)
			return i;
	}
	return n;
}

void
builder_publish(uint64_t *holds, uint64_t value)
{
	__atomic_store_n(holds, value, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

uint64_t
builder_load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

uint64_t
builder_told(struct dps_tells *tells, uint32_t n_slots, uint64_t *taken, uint32_t each,
	     struct dps_told *told)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < n_slots; i++) {
		struct dps_tells *t = &tells[i];
		uint64_t sent = __atomic_load_n(&t->sent, __ATOMIC_ACQUIRE);
		uint64_t from = taken[i];

		if (sent == from) {
			// The worker may have written over it, and would find its ring full from then on.
			if (t->taken != from)
				__atomic_store_n(&t->taken, from, __ATOMIC_RELEASE);
			continue;
		}
		if (sent - from > DPS_TOLD)
			from = sent - DPS_TOLD;
		for (uint32_t k = 0; k < each && from != sent; k++, from++)
			told[n++] = t->told[from % DPS_TOLD];
		taken[i] = from;
		__atomic_store_n(&t->taken, from, __ATOMIC_RELEASE);
	}
	return n;
}
