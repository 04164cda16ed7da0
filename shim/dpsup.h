/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_H
#define DPSUP_H

// What C includes: the ABI, its layout rules as assertions, and the few accessors of shared fields.

#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define DPS_MZ_CTL "dpsup"
#define DPS_SITTERS "dpsup_sitters"     // a file in EAL's runtime directory

#define DPS_LINE(type, field) \
	_Static_assert(offsetof(struct type, field) % 64 == 0, #type "." #field " opens a line")

DPS_LINE(dps_ctl, n_io);
DPS_LINE(dps_ctl, hash_key);
DPS_LINE(dps_ctl, slot);
DPS_LINE(dps_ctl, port);
DPS_LINE(dps_ctl, view);
DPS_LINE(dps_ctl, lease);
DPS_LINE(dps_sitter, berth);
DPS_LINE(dps_sitter, hand);
DPS_LINE(dps_sitter, exit_pid);
DPS_LINE(dps_sitter, ready_ns);
DPS_LINE(dps_sitter, signal);
DPS_LINE(dps_sitter, counter);
DPS_LINE(dps_sitter, error);
DPS_LINE(dps_slot, lanes);
DPS_LINE(dps_slot, command);
DPS_LINE(dps_slot, seat);
DPS_LINE(dps_slot, bell);
DPS_LINE(dps_slot, parks);
DPS_LINE(dps_slot, first_ns);
DPS_LINE(dps_slot, facts);
DPS_LINE(dps_slot, brief);
DPS_LINE(dps_slot, undo_bytes);
DPS_LINE(dps_slot, touched);
DPS_LINE(dps_slot, touch_bytes);
DPS_LINE(dps_slot, beats);
DPS_LINE(dps_slot, counter);
DPS_LINE(dps_lane, done);
DPS_LINE(dps_slot, blanks);
DPS_LINE(dps_perf, cycles);
DPS_LINE(dps_slow_burst, len);
DPS_LINE(dps_tables, holds);
DPS_LINE(dps_tables, table);
DPS_LINE(dps_table_place, at);
_Static_assert(sizeof(struct dps_table_place) == 128, "two lines");
_Static_assert(sizeof(struct dps_table_reader) == DPS_PAGE, "each worker writes a page of its own");
_Static_assert(sizeof(struct dps_tells) % DPS_PAGE == 0 && offsetof(struct dps_tells, taken) % 64 == 0,
	       "the builder writes a line of its own");
_Static_assert(sizeof(struct dps_learned) == 64, "a line");
_Static_assert(sizeof(struct dps_tell_record) == 1024, "an element of an array");
_Static_assert((int)DPS_TABLES <= (int)DPS_TABLES_SEQ, "a bit for each");
_Static_assert(offsetof(struct dps_slot, brief_of) == offsetof(struct dps_slot, brief) + DPS_BRIEF,
	       "one store");
_Static_assert(sizeof(struct dps_lane) == 256, "the words begin on a line");
_Static_assert(offsetof(struct dps_lane, taken) == offsetof(struct dps_lane, done) + 4, "one store");
_Static_assert((DPS_BLANKS & (DPS_BLANKS - 1)) == 0 && DPS_BLANKS < 1 << DPS_BLANK_BITS,
	       "found by mask, told apart by index");
_Static_assert(DPS_MAX_GROUPS == 1 << 4 && DPS_BUCKETS == 1 << DPS_V_HASH_GROUP &&
		       (DPS_V_HASH | (DPS_MAX_GROUPS * DPS_BUCKETS - 1)) == (DPS_V_HASH | 0x1fff),
	       "a verdict has room for both");
_Static_assert(sizeof(struct dps_meta) == 32, "two to a line");
_Static_assert(sizeof(struct dps_slot) % 64 == 0, "slots end on a line");
_Static_assert(sizeof(struct dps_perf) % 64 == 0, "lanes after it begin on a line");
_Static_assert(sizeof(struct dps_sitter) == DPS_PAGE, "each worker writes a page of its own");
_Static_assert(offsetof(struct dps_sitter, error) - offsetof(struct dps_sitter, counter) ==
		       sizeof(uint64_t) * DPS_COUNTERS &&
	       DPS_ERROR >= 64,
	       "what a plugin counts past its counters is no other process's");
_Static_assert(sizeof(struct dps_state_kept) == 16, "dps_kept_at");
_Static_assert((DPS_STORIES & (DPS_STORIES - 1)) == 0, "found by mask");

// A process that is killed keeps all its retired stores (the kernel's entry drains the store
// buffer), so what recovery sees is a prefix of the program's stores: only the compiler can put
// them out of order. x86 keeps stores in order for the reader on the other core too.
static inline void
dps_order(void)
{
	__asm__ volatile("" ::: "memory");
}

static inline uint32_t
dps_load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void
dps_store32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint64_t
dps_load64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void
dps_store64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

// Add to a counter of which this thread is the only writer.
static inline void
dps_count(uint64_t *p, uint64_t n)
{
	__atomic_store_n(p, *p + n, __ATOMIC_RELAXED);
}

#define DPS_BIT(n) (1ull << (n))
#define DPS_FIELD(word, at, bits) ((word) >> (at) & (DPS_BIT(bits) - 1))

enum {
	DPS_OFFSET_BITS = 40,   // 1 TiB of hugepage addresses: twice what EAL maps by default
	DPS_LEN_MOST = (1 << 14) - 1,
	DPS_LINE_WORDS = 8,
	DPS_RING_MOST = 1024 * 1024,
	DPS_ORDER = 128,        // bytes of an order to the seed, and of its word about one
	DPS_HEADROOM_UNIT = 16,
	DPS_HEADROOM_MOST = 15
};

// A verdict that leaves the packet's start and length as they are.
static inline uint64_t
dps_word_verdict(uint16_t verdict)
{
	return DPS_BIT(DPS_W_DONE) | verdict;
}

static inline uint64_t
dps_word_changed(uint16_t verdict, int16_t shift, uint16_t len)
{
	return dps_word_verdict(verdict) | DPS_BIT(DPS_W_CHANGED) |
	       (uint64_t)(uint16_t)shift << DPS_W_SHIFT | (uint64_t)len << DPS_W_NEWLEN;
}

// What is set in the word of a packet that filled blanks, or wanted to.
#define DPS_W_EXTRA (0xffull << DPS_W_EMITS)

// The word of a filled blank.
static inline uint64_t
dps_word_blank(uint16_t verdict, uint16_t len, uint32_t index)
{
	return dps_word_changed(verdict, 0, len) |
	       (uint64_t)(index & (DPS_BIT(DPS_BLANK_BITS) - 1)) << DPS_W_BLANK;
}

// Is it the word of that blank, filled?
static inline int
dps_word_is_blank(uint64_t word, uint32_t index)
{
	return word >> DPS_W_DONE && DPS_FIELD(word, DPS_W_BLANK, DPS_BLANK_BITS) ==
					     (index & (DPS_BIT(DPS_BLANK_BITS) - 1));
}

// `done` and `taken` as one store has them.
static inline uint64_t
dps_lane_done(uint32_t done, uint32_t taken)
{
	return (uint64_t)taken << 32 | done;
}

// Does a packet with this verdict go out a second time?
static inline int
dps_word_copies(uint64_t word)
{
	return (word & (DPS_V_ALSO | DPS_V_ALSO / 2)) == DPS_V_ALSO;
}

// Is it on to a group by a hash of the plugin's own? To which, and to which bucket?
static inline int
dps_word_is_hash(uint64_t word)
{
	return (word & DPS_V_HASHES) == DPS_V_HASH;
}

static inline uint32_t
dps_word_hash_group(uint64_t word)
{
	return DPS_FIELD(word, DPS_V_HASH_GROUP, 4);
}

static inline uint32_t
dps_word_hash_bucket(uint64_t word)
{
	return word % DPS_BUCKETS;
}

static inline int
dps_word_is_done(uint64_t word)
{
	return word >> DPS_W_DONE;
}

// Which tick a descriptor is, 0: none, a packet.
static inline uint32_t
dps_word_tick(uint64_t word)
{
	return word & DPS_BIT(DPS_W_META) ? DPS_FIELD(word, DPS_W_LEN, DPS_W_PORT - DPS_W_LEN) : 0;
}

static inline uint64_t *
dps_lane_words(struct dps_lane *lane)
{
	return (uint64_t *)(lane + 1);
}

// Where the words of a ring lie: eight to a line, and the lines in bit-reversed order. With lines in
// order a processor that works through the ring fetches lines ahead by itself, and takes them from
// the other that is about to write them. scatter[line] is the line's first word.
static inline void
dps_scatter_init(uint32_t *scatter, uint32_t ring)
{
	uint32_t lines = ring / DPS_LINE_WORDS;

	for (uint32_t i = 0; i < lines; i++) {
		uint32_t reversed = 0;

		for (uint32_t from = 1, to = lines / 2; to > 0; from *= 2, to /= 2)
			if (i & from)
				reversed |= to;
		scatter[i] = reversed * DPS_LINE_WORDS;
	}
}

// The position of an index's word; mask is ring - 1.
static inline uint32_t
dps_word_at(const uint32_t *scatter, uint32_t mask, uint32_t index)
{
	index &= mask;
	return scatter[index / DPS_LINE_WORDS] + index % DPS_LINE_WORDS;
}

// Fetch a line that is about to be written.
static inline void
dps_prefetch_write(const void *p)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1, 3);
#endif
}

// The seat of a slot, or the berth of a sitter: which ticket it is open for, and the pid of the
// process that has it (0: none).
static inline uint64_t
dps_seat(uint32_t ticket, uint32_t pid)
{
	return (uint64_t)ticket << 32 | pid;
}

// Change the seat if it is as it was seen.
static inline int
dps_seat_change(uint64_t *seat, uint64_t seen, uint64_t next)
{
	return __atomic_compare_exchange_n(seat, &seen, next, 0, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

static inline uint64_t
dps_undo_stamp(uint32_t lane, uint32_t index)
{
	return (uint64_t)(lane + 1) << 32 | index;
}

static inline uint32_t
dps_brief_stamp(uint32_t lane, uint32_t index)
{
	return (lane + 1) << 24 | (index & (DPS_BIT(24) - 1));
}

// The class of a value in a histogram: what is less than 8 exactly, then eight classes to each power of
// two, so that no class is wider than an eighth of what is in it.
static inline uint32_t
dps_class(uint64_t value)
{
	uint32_t power, class;

	if (value < 8)
		return value;
	power = 63 - __builtin_clzll(value);
	class = (power - 2) * 8 + (value >> (power - 3) & 7);
	return class < DPS_CLASSES ? class : DPS_CLASSES - 1;
}

// A slot's block of state begins a line after its head, a bucket's right after it.
enum { DPS_STATE_AT = 64 };

// A block's room ends with a dps_state_kept, whose bytes lie before it. Where that head lies, in a room of
// so many bytes; 0: there is none.
static inline uint64_t
dps_kept_at(uint64_t room)
{
	return room < 2 * sizeof(struct dps_state_kept) ?
		       0 : (room & ~UINT64_C(15)) - sizeof(struct dps_state_kept);
}

static inline uint64_t
dps_kept_len(uint64_t size)
{
	return (size + 15) & ~UINT64_C(15);
}

// The room in which a block of `old` bytes is kept while it becomes one of `size` bytes.
static inline uint64_t
dps_kept_room(uint64_t old, uint64_t size)
{
	return dps_kept_len((old > size ? old : size) + dps_kept_len(old)) +
	       sizeof(struct dps_state_kept);
}

static inline uint64_t
dps_bucket_head(const struct dps_group_conf *conf, uint32_t bucket)
{
	return conf->buckets + (uint64_t)bucket * conf->bucket_stride;
}

#endif
