/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_LANE_H
#define DPSUP_LANE_H

// The io core's end of a lane.
//
// One ring, one word a packet, there and back: 8 packets to a cache line, and a line that the
// worker has finished comes back for the io core to read and, a lap later, to write. Of everything
// that decides (what was lent, how much, to which mbuf) the io core keeps its own copy: the shared
// words are only ever matched with that, in order.

#include <stdbool.h>

#include <rte_branch_prediction.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>

#include "dpsup.h"
#include "shim.h"

// A lane as its io core knows it.
struct lane {
	// set up before the io core starts
	struct dps_lane *shared;
	uint64_t *word;
	uint32_t *scatter;                // of the ring's lines, see dps_scatter_init
	struct dps_meta *meta;
	struct rte_mbuf **shadow;       // [size], by index
	uint16_t *tick;                 // [size], by index: which tick is there, 0: a packet
	const uint32_t *parks;          // dps_slot.parks
	uint64_t *blank_word;           // descriptors, then the worker's words: dps_slot.blanks
	struct rte_mbuf **blank;        // [DPS_BLANKS], by index
	uint64_t base;                  // dps_ctl.base
	uint32_t size;
	uint32_t mask;
	uint32_t credit;                // most packets out at a time
	uint32_t slot;
	uint32_t group;
	bool hold;

	// written under the slot's lock, before they are handed back: lane_requeue
	uint64_t requeue;
	uint64_t turn;                  // and before a worker sits down: lane_turn

	// the io core's; a thread that repairs or hands back reads the indices
	uint32_t sent __rte_cache_aligned;
	uint32_t published;
	uint32_t collected;
	uint32_t limit;                 // `sent` stops here: collected + credit; where it is, if corrupt
	uint32_t ready;                 // handed back as of the last look; its words are on their way
	uint64_t back_at;               // TSC of the turn that saw some come back
	uint32_t rung;                  // parks at the last ring of the bell
	uint32_t drain_to;              // the first index that a bucket waits for (io_group.until)
	bool draining;                  // buckets moved away, packets of theirs still out
	bool corrupt;
	bool is_active;                 // listed in io.active
	bool changes;                   // its plugin may change bytes
	uint8_t needs;                  // DPS_NEED_*
	uint8_t emits;                  // most blanks that a packet of it may fill
	uint32_t blanks_sent;           // index after the last blank lent
	uint32_t blanks_taken;          // and after the last one that came back filled
	struct rte_mempool *blank_pool; // that they come from, and ticks
	uint32_t ticks_out;             // as packets are
	uint32_t tick_room;             // of these, those that take no packet's place
	uint64_t ticks_lent;            // in all
	uint64_t ticks_back;
	uint64_t tick_cycles;           // TSC cycles between two ticks of the worker, 0: it has none
	uint64_t tick_due;              // TSC of the next one
	uint64_t bucket_tick_cycles;    // between two of a bucket
	uint16_t tick_port;             // that ticks, and what they originate, count as come in by
	bool tick_waits;                // one of the worker's is out
	bool is_fed;                    // has a bucket
	struct dps_lane_stats stats;
} __rte_cache_aligned;

// n packets from an index on may come back as REQUEUE.
static inline uint64_t
lane_requeue(uint32_t from, uint32_t n)
{
	return (uint64_t)n << 32 | from;
}

static inline bool
lane_may_requeue(const struct lane *lane, uint32_t index)
{
	uint64_t range = dps_load64(&lane->requeue);

	return index - (uint32_t)range < range >> 32;
}

// From an index on packets are handled by another version of the group's plugin: `before` of them, then
// `after`.
static inline uint64_t
lane_turn(uint32_t at, uint32_t before, uint32_t after)
{
	return (uint64_t)after << 33 | (uint64_t)before << 32 | at;
}

static inline uint32_t
lane_version(const struct lane *lane, uint32_t index)
{
	uint64_t turn = dps_load64(&lane->turn);

	return turn >> ((int32_t)(index - (uint32_t)turn) < 0 ? 32 : 33) & 1;
}

static inline uint64_t *
lane_dropped(struct lane *lane, uint32_t index, uint32_t reason)
{
	return &lane->stats.dropped[lane_version(lane, index) * DPS_REASONS + reason % DPS_REASONS];
}

static inline uint32_t
lane_out(const struct lane *lane)
{
	return lane->sent - lane->collected;
}

static inline uint32_t
lane_room(const struct lane *lane)
{
	return lane->limit - lane->sent;
}

enum { TICK_PLACES = 8 };      // of those, at most, that packets leave to ticks

// Lossless lanes get no packet for which they might lack blanks.
static void __attribute__((noinline, unused))
lane_limit_blanks(struct lane *lane)
{
	uint32_t most = (lane->blanks_sent - lane->blanks_taken) / lane->emits;

	if (lane->tick_cycles + lane->bucket_tick_cycles > 0)
		most -= RTE_MIN(most / 2, (uint32_t)TICK_PLACES);
	most = lane->collected + RTE_MIN(most, lane->credit);
	lane->limit = (int32_t)(most - lane->sent) > 0 ? most : lane->sent;
}

static inline void
lane_set_limit(struct lane *lane)
{
	lane->limit = unlikely(lane->corrupt) ? lane->sent : lane->collected + lane->credit + lane->tick_room;
	if (unlikely(lane->emits > 0) && lane->hold && !lane->corrupt)
		lane_limit_blanks(lane);
}

// Is there a place for a tick? A lane that is full of packets has some, in what is left of its ring.
static inline bool
lane_fits_tick(const struct lane *lane)
{
	if (lane->corrupt || lane_out(lane) >= lane->size - 1)
		return false;
	if (lane->hold && lane->emits > 0)
		return lane_out(lane) < (lane->blanks_sent - lane->blanks_taken) / lane->emits;
	return lane_room(lane) > 0 || lane->tick_room < DPS_BURST;
}

static inline void
lane_count_ticks(struct lane *lane, uint32_t out)
{
	dps_store32(&lane->ticks_out, out);
	lane->tick_room = RTE_MIN(out, (uint32_t)DPS_BURST);
}

// Blanks that a packet may fill, as dps_facts.needs says it.
static inline uint32_t
lane_emits(uint32_t needs)
{
	return __builtin_popcount(needs & DPS_NEED_BLANKS * ((1u << DPS_EMITS) - 1));
}

// The descriptor of a packet; len is at most DPS_LEN_MOST.
static inline uint64_t
lane_word(const struct lane *lane, const struct rte_mbuf *m, uint32_t len, uint32_t port)
{
	uint64_t headroom = m->data_off / DPS_HEADROOM_UNIT;

	headroom = headroom < DPS_HEADROOM_MOST ? headroom : DPS_HEADROOM_MOST;
	return ((uintptr_t)m->buf_addr + m->data_off - lane->base) << DPS_W_OFFSET |
	       (uint64_t)len << DPS_W_LEN | (uint64_t)port << DPS_W_PORT |
	       headroom << DPS_W_HEADROOM;
}

// The descriptor of a tick.
static inline uint64_t
lane_tick_word(const struct lane *lane, const struct rte_mbuf *m, uint32_t tick)
{
	return lane_word(lane, m, tick, lane->tick_port) | DPS_BIT(DPS_W_META);
}

// The line that an index's word is in.
static inline uint64_t *
lane_line(const struct lane *lane, uint32_t index)
{
	return &lane->word[lane->scatter[(index & lane->mask) / DPS_LINE_WORDS]];
}

// The descriptor of a blank: its room is its length.
static inline void
lane_describe_blank(struct lane *lane, uint32_t at)
{
	const struct rte_mbuf *m = lane->blank[at];
	uint32_t room = m->buf_len - m->data_off;

	__atomic_store_n(&lane->blank_word[at],
			 lane_word(lane, m, RTE_MIN(room, (uint32_t)DPS_LEN_MOST), 0),
			 __ATOMIC_RELAXED);
}

// What the worker says of a blank that it filled.
static inline uint64_t
lane_blank_word(const struct lane *lane, uint32_t index)
{
	return __atomic_load_n(&lane->blank_word[DPS_BLANKS + index % DPS_BLANKS], __ATOMIC_RELAXED);
}

// Write a descriptor; it is published later. The shadow is the caller's to fill.
static inline void
lane_put(struct lane *lane, uint32_t index, uint64_t word)
{
	__atomic_store_n(&lane->word[dps_word_at(lane->scatter, lane->mask, index)], word,
			 __ATOMIC_RELAXED);
}

// Prefetch for write the cache lines of n words.
static inline void
lane_fetch(const struct lane *lane, uint32_t index, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += DPS_LINE_WORDS)
		dps_prefetch_write(&lane->word[dps_word_at(lane->scatter, lane->mask, index + i)]);
}

static inline void
lane_publish(struct lane *lane)
{
	dps_count(&lane->stats.sent, lane->sent - lane->published);
	// First: recovery must not find a worker ahead of it.
	dps_store32(&lane->published, lane->sent);
	dps_store32(&lane->shared->sent, lane->sent);
	// Prefetch: by the next burst these lines are here, whichever core has read them.
	lane_fetch(lane, lane->sent, DPS_IO_BURST);
}

// See what has come back, and prefetch its words: they are read in the next turn, so that the core
// does not wait for a line on its way between two cores. They are prefetched for write, as they are
// written a lap later. False: more came back than was lent, so the slot's memory cannot be trusted.
static inline bool
lane_look(struct lane *lane)
{
	uint32_t done = dps_load32(&lane->shared->done);
	uint32_t from = lane->ready;

	if (done == from)
		return false;
	if (unlikely(done - from > lane->published - from || lane->corrupt)) {
		lane->corrupt = true;
		lane_set_limit(lane);
		lane->stats.lanes_corrupt = 1;
		return false;
	}
	lane_fetch(lane, from, done - from);
	lane->ready = done;
	return true;
}

// How many packets can be collected, up to `most` and in one piece of the ring.
static inline uint32_t
lane_back(const struct lane *lane, uint32_t most)
{
	uint32_t n = RTE_MIN(lane->ready - lane->collected, most);

	return RTE_MIN(n, lane->size - (lane->collected & lane->mask));
}

static inline uint64_t
lane_get(const struct lane *lane, uint32_t index)
{
	return __atomic_load_n(&lane->word[dps_word_at(lane->scatter, lane->mask, index)],
			       __ATOMIC_RELAXED);
}

// The first word of n that differs from the first, n if none does: bursts of one fate go together.
static inline uint32_t
lane_run(const struct lane *lane, uint32_t index, uint32_t n, uint64_t first)
{
	uint32_t i = 1;

	while (i < n) {
		const uint64_t *word = &lane->word[dps_word_at(lane->scatter, lane->mask, index + i)];
		uint32_t left = DPS_LINE_WORDS - (index + i) % DPS_LINE_WORDS;
		uint32_t k = 0;

		left = RTE_MIN(left, n - i);
		while (k < left && __atomic_load_n(&word[k], __ATOMIC_RELAXED) == first)
			k++;
		i += k;
		if (k < left)
			break;
	}
	return i;
}

static inline void
lane_collected(struct lane *lane, uint32_t n)
{
	dps_store32(&lane->collected, lane->collected + n);
	lane_set_limit(lane);
	dps_count(&lane->stats.collected, n);
	if (unlikely(lane->draining) && (int32_t)(lane->collected - lane->drain_to) >= 0)
		lane->draining = false;
}

#endif
