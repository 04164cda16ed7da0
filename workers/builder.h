// SPDX-License-Identifier: BSD-3-Clause
//
// The builder's half of live tables, for Python: dpsup/builder/region.py. cffi reads this text.

// Bytes of a copy of a table, 0: there is no such table.
uint64_t builder_bytes(uint32_t kind, uint32_t key_bytes, uint32_t value_bytes, uint64_t entries);

// Begin an empty table in a copy that no worker reads. 0 or -errno.
int builder_begin(void *copy, uint64_t bytes, uint32_t kind, uint32_t key_bytes, uint32_t value_bytes,
		  uint64_t entries);

// Carry out n operations on it. Each is: what (1 set, 2 del, 3 clear), a prefix's length in bits, then
// the key, then the value; keys and values are those of all, of an array the index is the key's 4 bytes.
// The number that were carried out: less than n where one fails.
uint64_t builder_apply(void *copy, uint32_t kind, uint32_t key_bytes, uint32_t value_bytes,
		       const uint8_t *operations, uint64_t n);

// Say which copies hold; what workers say is looked at after it.
void builder_publish(uint64_t *holds, uint64_t value);
uint64_t builder_load(const uint64_t *word);

// Messages of all slots, in the order of each: at most `each` of a slot, into told[n_slots * each].
// `taken`: of each slot, what was taken so far. Returns how many there are now. What a worker that went
// wild says of its ring is not followed: at most a ring's messages are of another one's bytes.
uint64_t builder_told(struct dps_tells *tells, uint32_t n_slots, uint64_t *taken, uint32_t each,
		      struct dps_told *told);
