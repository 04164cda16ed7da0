// SPDX-License-Identifier: BSD-3-Clause
//
// The worker's loop, and the worker's half of the lane protocol. A kill may come before any store;
// what recovery then finds in the slot is a prefix of these stores, so their order is the protocol:
//
//   per packet: save its bytes | stamp whose they are | change | verdict in the packet's word
//   after the burst: done, and with it how many blanks were filled
//
// (Bytes and stamp are one store where the plugin changes at most DPS_BRIEF of them.)
//
// The verdict is a packet's commit: one store, in place of its descriptor. A packet whose word is a
// verdict is never run again, one whose word is a descriptor has its bytes put back and is run once
// more. `done` only tells the io core. A plugin that changes nothing pays one store a packet.
//
// A plugin that looks sees all packets of the burst before the first of them is handled. That stores
// nothing but, in dps_slot.hand, that it is so: a kill in there is a kill before the burst.
//
// What a packet fills of blanks, and what is to become of them, means nothing until the packet's word
// says how many it filled: they are the next ones in order, so a packet that is run once more fills the
// same ones again (emit.c).

#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include <rte_branch_prediction.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>

#include "idle_pvt.h"
#include "loop.h"
#include "tables.h"
#include "worker.h"

enum {
	AHEAD = 6               // packets whose bytes are fetched
};

// 0 in one program alone, the benchmark of what it costs: no undo, and nothing kept in order.
#ifndef LOOP_CRASH_SAFE
#define LOOP_CRASH_SAFE 1
#endif

static uint64_t segment_base;
static uint32_t scatter[DPS_RING_MOST / DPS_LINE_WORDS];

uint32_t
dps_next_segment(const struct dps_packet *packet, const void **segment, const uint8_t **bytes)
{
	const struct rte_mbuf *m = *segment;

	if (m == NULL) {
		if (packet->total == packet->len || packet->origin == NULL)
			return 0;
		m = (const void *)(segment_base + ((const struct dps_meta *)packet->origin)->mbuf);
	}
	m = m->next;
	if (m == NULL)
		return 0;
	*segment = m;
	*bytes = rte_pktmbuf_mtod(m, const uint8_t *);
	return m->data_len;
}

static inline void
order(void)
{
	if (LOOP_CRASH_SAFE)
		dps_order();
}

// As one store: a kill comes before it or after it.
typedef uint32_t brief_words __attribute__((vector_size(16), may_alias));

static inline void
save_brief(struct dps_slot *slot, const struct dps_packet *p, uint32_t lane, uint32_t index)
{
	brief_words words;

	memcpy(&words, p->data, sizeof(words));         // a buffer has that many
	words[DPS_BRIEF / sizeof(words[0])] = dps_brief_stamp(lane, index);
	*(volatile brief_words *)slot->brief = words;
	dps_order();
}

// Keep the bytes that the plugin may change, then say whose they are.
static inline void
save(struct dps_slot *slot, const struct dps_plugin *plugin, const struct dps_packet *p,
     uint32_t lane, uint32_t index)
{
	uint16_t head = p->headroom < plugin->prepends ? p->headroom : plugin->prepends;
	uint16_t len = p->len < plugin->rewrites ? p->len : plugin->rewrites;

	memcpy(slot->undo_bytes, p->data - head, head + len);
	slot->undo_head = head;
	slot->undo_len = len;
	dps_order();
	__atomic_store_n(&slot->undo, dps_undo_stamp(lane, index), __ATOMIC_RELAXED);
	dps_order();
}

static inline uint8_t *
data_of(const struct loop *l, uint64_t word)
{
	return (uint8_t *)(l->base + DPS_FIELD(word, DPS_W_OFFSET, DPS_OFFSET_BITS));
}

static void __attribute__((noinline))
open_more(const struct dps_meta *meta, struct dps_packet *p)
{
	p->len = meta->len;
	p->total = meta->len;
	if (meta->flags & DPS_F_SEGMENTS) {
		p->total = meta->pkt_len;
		p->origin = meta;
	}
	if (meta->flags & DPS_F_HASH)
		p->hash = meta->hash;
	if (meta->flags & DPS_F_VLAN) {
		p->vlan = meta->vlan;
		p->has_vlan = 1;
	}
	if (meta->flags & DPS_F_TSC)
		p->tsc = meta->tsc;
}

// What was not asked for is 0, whatever the packet before had: from hash to origin in two stores. Port
// and headroom, which lie between, are written after.
typedef uint64_t clear_words __attribute__((vector_size(16), aligned(8), may_alias));
_Static_assert(offsetof(struct dps_packet, bucket_state) - offsetof(struct dps_packet, hash) ==
		       2 * sizeof(clear_words),
	       "clear_words");

static inline void
open_packet(const struct loop *l, const struct loop_lane *lane, uint32_t index, uint64_t word,
	    struct dps_packet *p)
{
	clear_words *clear = (clear_words *)&p->hash;

	p->data = data_of(l, word);
	p->len = DPS_FIELD(word, DPS_W_LEN, DPS_W_PORT - DPS_W_LEN);
	p->total = p->len;
	clear[0] = (clear_words){ 0 };
	clear[1] = (clear_words){ 0 };
	p->port = DPS_FIELD(word, DPS_W_PORT, DPS_W_HEADROOM - DPS_W_PORT);
	p->headroom = DPS_FIELD(word, DPS_W_HEADROOM, DPS_W_META - DPS_W_HEADROOM) *
		      DPS_HEADROOM_UNIT;
	if (unlikely(word & DPS_BIT(DPS_W_META)))
		open_more(&lane->meta[index & l->mask], p);
}

// Bytes are fetched for writing where they will be written.
static inline void
fetch(const struct loop *l, uint64_t word, bool saves)
{
	if (saves)
		dps_prefetch_write(data_of(l, word));
	else
		rte_prefetch0(data_of(l, word));
}

// The state of the packet's bucket, made the plugin's own if it is not.
static inline uint8_t *
bucket_of(struct loop *l, uint32_t hash)
{
	const struct loop_buckets *b = &l->buckets;
	struct dps_state_head *head =
		(struct dps_state_head *)(b->head + (uint64_t)(hash % DPS_BUCKETS) * b->stride);

	if (unlikely(head->stamp != b->stamp || head->size != l->bucket_size))
		state_open_bucket(l, head);
	return (uint8_t *)(head + 1);
}

static bool
is_its_own(const struct loop *l, uint32_t bucket)
{
	const struct loop_buckets *b = &l->buckets;
	const struct dps_state_head *head =
		(const struct dps_state_head *)(b->head + (uint64_t)bucket * b->stride);

	if (b->head == NULL)
		return false;
	// An older version's, which this one takes over; a newer one's stays for a rollout that goes on.
	return head->stamp == b->stamp ? head->size == l->bucket_size :
					 l->plugin->bucket_migrate != NULL && head->stamp < b->stamp &&
						 head->stamp >> 32 == b->stamp >> 32;
}

// Handle one packet, whose word becomes its verdict.
static inline __attribute__((always_inline)) void
handle(struct loop *l, uint32_t lane_index, uint32_t index, uint64_t *word, struct dps_packet *p,
       enum loop_saves saves, bool touches)
{
	uint8_t *data = p->data;
	uint32_t len = p->len;
	uint16_t verdict;
	uint64_t back;

	if (saves == LOOP_SAVES_BRIEF && LOOP_CRASH_SAFE)
		save_brief(l->slot, p, lane_index, index);
	else if (saves && LOOP_CRASH_SAFE)
		save(l->slot, l->plugin, p, lane_index, index);
	if (touches) {
		l->stamp = dps_undo_stamp(lane_index, index);
		l->bucket = l->buckets.head != NULL ? bucket_of(l, p->hash) : NULL;
		p->bucket_state = l->bucket;
		l->filled = 0;
		l->missed = 0;
	}
	verdict = l->plugin->packet(l->state, p);
	back = dps_word_verdict(verdict);
	if (unlikely(p->data != data || p->len != len))
		// A length that no buffer has becomes 0, which the io core refuses; and that of a start in
		// bytes that it did not declare, which would not be put back.
		back = dps_word_changed(verdict, p->data - data,
					p->len <= UINT16_MAX && p->data + l->plugin->prepends >= data ?
						p->len : 0);
	if (touches) {
		back |= (uint64_t)l->filled << DPS_W_EMITS | (uint64_t)l->missed << DPS_W_MISSED;
		l->from->taken += l->filled;
	}
	order();
	__atomic_store_n(word, back, __ATOMIC_RELAXED);
	order();
}

static inline void
fetch_words(const struct loop *l, struct loop_lane *lane, uint32_t n)
{
	dps_prefetch_write(&lane->shared->done);
	for (uint32_t i = 0; i < n; i += DPS_LINE_WORDS)
		dps_prefetch_write(&lane->word[dps_word_at(scatter, l->mask, lane->done + i)]);
}

static inline __attribute__((always_inline)) void
run(struct loop *l, struct loop_lane *lane, uint32_t lane_index, uint32_t n, enum loop_saves saves,
    bool fetches, bool touches)
{
	uint64_t *words = lane->word;
	uint32_t base = lane->done;
	struct dps_packet p;

	p.bucket_state = NULL;
	p.found = 0;
	fetch_words(l, lane, n);
	for (uint32_t i = 0; fetches && i < n && i < AHEAD; i++)
		fetch(l, words[dps_word_at(scatter, l->mask, base + i)], saves);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t *word = &words[dps_word_at(scatter, l->mask, base + i)];
		uint64_t descriptor = *word;

		if (fetches && i + AHEAD < n)
			fetch(l, words[dps_word_at(scatter, l->mask, base + i + AHEAD)], saves);
		open_packet(l, lane, base + i, descriptor, &p);
		handle(l, lane_index, base + i, word, &p, saves, touches);
	}
}

static void __attribute__((noinline))
run_touching(struct loop *l, struct loop_lane *lane, uint32_t lane_index, uint32_t n)
{
	touching = l;
	l->from = lane;
	run(l, lane, lane_index, n, l->saves, l->fetches, true);
	touching = NULL;
}

// Open packets, and let the plugin look at them. The first packets of a process one by one: if one of
// them ended its predecessor here, it is the first without a verdict, and to blame (evidence.c).
static void
open_and_look(struct loop *l, const struct loop_lane *lane, uint32_t at, uint32_t n,
	      struct dps_packet *packets)
{
	uint64_t hand = l->slot->hand;

	for (uint32_t i = 0; i < n; i++) {
		struct dps_packet *p = &packets[i];
		uint64_t word = lane->word[dps_word_at(scatter, l->mask, at + i)];

		if (l->fetches)
			fetch(l, word, l->saves);
		open_packet(l, lane, at + i, word, p);
		p->bucket_state = NULL;
		p->found = 0;
		if (l->buckets.head != NULL)
			dps_prefetch_write(l->buckets.head + (uint64_t)(p->hash % DPS_BUCKETS) *
								     l->buckets.stride);
	}
	if (n > 1)
		__atomic_store_n(&l->slot->hand, hand | DPS_BIT(DPS_HAND_LOOKS), __ATOMIC_RELAXED);
	order();
	l->plugin->look(l->state, packets, n);
	order();
	if (n > 1)
		__atomic_store_n(&l->slot->hand, hand, __ATOMIC_RELAXED);
	order();
}

static void __attribute__((noinline))
run_looking(struct loop *l, struct loop_lane *lane, uint32_t lane_index, uint32_t n)
{
	struct dps_packet packets[DPS_BURST];
	uint32_t first = lane->done, some;

	l->from = lane;
	fetch_words(l, lane, n);
	for (uint32_t at = 0; at < n; at += some) {
		some = lane->alone > 0 ? 1 : n - at;
		lane->alone -= lane->alone > 0;
		open_and_look(l, lane, first + at, some, packets);
		touching = l->touches ? l : NULL;
		for (uint32_t i = 0; i < some; i++) {
			uint32_t index = first + at + i;
			uint64_t *word = &lane->word[dps_word_at(scatter, l->mask, index)];

			handle(l, lane_index, index, word, &packets[i], l->saves, l->touches);
		}
		touching = NULL;
	}
}

static inline __attribute__((always_inline)) void
run_burst(struct loop *l, struct loop_lane *lane, uint32_t index, uint32_t n)
{
	if (unlikely(l->looks))
		run_looking(l, lane, index, n);
	else if (unlikely(l->touches))
		run_touching(l, lane, index, n);
	else if (l->saves == LOOP_SAVES_BRIEF)
		run(l, lane, index, n, LOOP_SAVES_BRIEF, true, false);
	else if (l->saves)
		run(l, lane, index, n, LOOP_SAVES, true, false);
	else if (l->fetches)
		run(l, lane, index, n, LOOP_SAVES_NOT, true, false);
	else
		run(l, lane, index, n, LOOP_SAVES_NOT, false, false);
}

// Time has passed, for this worker or for one bucket. What the plugin does of it takes effect with the
// tick's one store, as a packet's. A plugin that has no such function may get one from the other version
// of a rollout, or one of a bucket whose state is the other version's: a rollout that is undone is to
// find what it left.
static void
handle_tick(struct loop *l, struct loop_lane *lane, uint32_t lane_index, uint32_t index, uint64_t *word)
{
	uint32_t tick = dps_word_tick(*word), bucket = tick - 1;
	const struct dps_plugin *plugin = l->plugin;
	uint64_t back = dps_word_verdict(DPS_V_TICK);

	l->ticks++;
	// Stamps of briefs come round again after 2^24 words, of which ticks leave none.
	if (l->saves == LOOP_SAVES_BRIEF)
		l->slot->brief_of = 0;
	if (tick == DPS_TICK_SLOT ? plugin->tick != NULL :
				    plugin->bucket_tick != NULL && is_its_own(l, bucket)) {
		touching = l;
		l->from = lane;
		l->stamp = dps_undo_stamp(lane_index, index);
		l->filled = 0;
		l->missed = 0;
		l->bucket = tick == DPS_TICK_SLOT ? NULL : bucket_of(l, bucket);
		if (tick == DPS_TICK_SLOT)
			plugin->tick(l->state);
		else
			plugin->bucket_tick(l->state, bucket, l->bucket);
		touching = NULL;
		back |= (uint64_t)l->filled << DPS_W_EMITS | (uint64_t)l->missed << DPS_W_MISSED;
		lane->taken += l->filled;
	}
	order();
	__atomic_store_n(word, back, __ATOMIC_RELAXED);
	order();
}

static inline uint64_t *
word_of(const struct loop *l, const struct loop_lane *lane, uint32_t index)
{
	return &lane->word[dps_word_at(scatter, l->mask, index)];
}

// A burst that may have ticks in it: they, and the packets between them, in order. All is one burst to
// the io core.
static void __attribute__((noinline))
run_ticked(struct loop *l, struct loop_lane *lane, uint32_t lane_index, uint32_t n)
{
	uint32_t first = lane->done, some;

	for (uint32_t at = 0; at < n; at += some) {
		uint64_t *word = word_of(l, lane, first + at);

		some = 1;
		if (dps_word_tick(*word) != 0) {
			handle_tick(l, lane, lane_index, first + at, word);
			continue;
		}
		while (at + some < n && dps_word_tick(*word_of(l, lane, first + at + some)) == 0)
			some++;
		lane->done = first + at;
		run_burst(l, lane, lane_index, some);
	}
	lane->done = first;
}

// Ticks are rare: where the last one was says that there is none. That one is in the ring, or was: the
// indices of a whole round look as if it were again, once in 2^32.
static inline bool
may_tick(const struct loop *l, const struct loop_lane *lane)
{
	return lane->ticked - lane->done - 1 <= l->mask;
}

// The same, measured. What is noted lies in memory that nothing of the lanes depends on.
static void __attribute__((noinline))
run_measured(struct loop *l, struct loop_lane *lane, uint32_t index, uint32_t n, uint32_t asked)
{
	uint64_t word[DPS_BURST];
	uint64_t start;

	perf_begin(l, asked);
	start = rte_rdtsc();
	for (uint32_t i = 0; i < n; i++)
		word[i] = lane->word[dps_word_at(scatter, l->mask, lane->done + i)];
	if (may_tick(l, lane))
		run_ticked(l, lane, index, n);
	else
		run_burst(l, lane, index, n);
	perf_note(l, index, word, n, start, rte_rdtsc() - start);
}

static void __attribute__((noinline))
note_first(struct loop *l)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	dps_store64(&l->slot->first_ns, t.tv_sec * 1000000000ull + t.tv_nsec);
	l->first = false;
}

static inline uint32_t
burst(struct loop *l, uint32_t index)
{
	struct loop_lane *lane = &l->lane[index];
	struct dps_slot *slot = l->slot;
	uint32_t n = lane->sent - lane->done;
	uint32_t asked;

	if (n == 0) {
		lane->sent = dps_load32(&lane->shared->sent);
		lane->ticked = dps_load32(&lane->shared->ticked);
		n = lane->sent - lane->done;
		if (n == 0)
			return 0;
	}
	if (unlikely(l->first))
		note_first(l);
	n = n < DPS_BURST ? n : DPS_BURST;
	__atomic_store_n(&slot->hand, dps_undo_stamp(index, lane->done + n), __ATOMIC_RELAXED);
	order();
	asked = dps_load32(&slot->perf);
	if (unlikely(asked != 0))
		run_measured(l, lane, index, n, asked);
	else if (unlikely(may_tick(l, lane)))
		run_ticked(l, lane, index, n);
	else
		run_burst(l, lane, index, n);
	lane->done += n;
	if (unlikely(l->touches))
		dps_store64((uint64_t *)&lane->shared->done, dps_lane_done(lane->done, lane->taken));
	else
		dps_store32(&lane->shared->done, lane->done);
	dps_order();
	dps_count(&slot->bursts, 1);
	dps_count(&slot->packets, n);
	return n;
}

uint32_t
loop_turn(struct loop *l)
{
	uint32_t work = 0;

	for (uint32_t i = 0; i < l->n_lanes; i++)
		work += burst(l, i);
	dps_count(&l->slot->beats, 1);
	return work;
}

void
loop_init(struct loop *l, uint64_t base, struct dps_slot *slot, const struct dps_plugin *plugin,
	  void *state)
{
	*l = (struct loop){
		.slot = slot,
		.plugin = plugin,
		.state = state,
		.base = base,
		.mask = slot->ring - 1,
		.n_lanes = slot->n_lanes,
		.first = true,
		.saves = plugin->rewrites + plugin->prepends == 0 ? LOOP_SAVES_NOT :
			 plugin->rewrites <= DPS_BRIEF && plugin->prepends == 0 ? LOOP_SAVES_BRIEF :
										 LOOP_SAVES,
		.fetches = !(plugin->needs & DPS_PLUGIN_NO_BYTES),
		.touches = plugin->state_size + plugin->bucket_state_size > 0 ||
			   plugin->needs & DPS_PLUGIN_TOUCHES || plugin->emits > 0 ||
			   plugin->tick != NULL || plugin->bucket_tick != NULL,
		.looks = plugin->look != NULL,
		.emits = plugin->emits,
		.perf = (struct dps_perf *)((char *)slot + slot->perf_at),
	};
	segment_base = base;
	dps_scatter_init(scatter, slot->ring);
	for (uint32_t i = 0; i < l->n_lanes; i++) {
		struct loop_lane *lane = &l->lane[i];

		lane->shared = (struct dps_lane *)((char *)slot + slot->lanes[i]);
		lane->word = dps_lane_words(lane->shared);
		lane->meta = (const struct dps_meta *)((char *)slot + slot->meta[i]);
		lane->done = lane->shared->done;
		lane->sent = lane->done;
		lane->alone = DPS_BURST;
		lane->blank = (const uint64_t *)((char *)slot + slot->blanks[i]);
		lane->blank_word = (uint64_t *)((char *)slot + slot->blanks[i]) + DPS_BLANKS;
		lane->taken = lane->shared->taken;
		lane->blanks = lane->taken;
	}
}

void
loop_state(struct loop *l, const struct dps_ctl *ctl, uint64_t *counters)
{
	const struct dps_group_conf *conf = &ctl->group[l->slot->group % DPS_MAX_GROUPS];
	const struct dps_plugin *p = l->plugin;

	l->counters = counters;
	if (p->state_size > 0)
		l->block = (uint8_t *)l->slot + l->slot->state + DPS_STATE_AT;
	l->block_size = p->state_size;
	if (p->bucket_state_size > 0)
		l->buckets.head = (uint8_t *)(uintptr_t)(ctl->base + conf->buckets);
	l->buckets.stride = conf->bucket_stride;
	l->buckets.stamp = state_stamp(p);
	l->buckets.room = conf->bucket_state;
	l->bucket_size = p->bucket_state_size;
}

void
worker_loop(const struct dps_ctl *ctl, struct dps_slot *slot, const struct dps_plugin *plugin,
	    void *state, uint64_t *counters, uint64_t *clock)
{
	bool adaptive = ctl->group[slot->group % DPS_MAX_GROUPS].adaptive;
	uint64_t cycles_us = ctl->tsc_hz / 1000000;
	uint64_t rate = clock_rate(ctl->tsc_hz);
	uint64_t now = rte_rdtsc();
	uint64_t idle_since = now;
	struct loop l;

	loop_init(&l, ctl->base, slot, plugin, state);
	loop_state(&l, ctl, counters);
	// A predecessor may have died in its park.
	dps_store32(&slot->parks, (slot->parks + 1) & ~1u);
	while (dps_load32(&slot->command) != DPS_STOP) {
		uint64_t start = now;
		uint32_t work;

		*clock = clock_ns(rate, now);
		tables_turn();
		work = loop_turn(&l);
		now = rte_rdtsc();
		if (work > 0) {
			dps_count(&slot->busy, now - start);
			// Of ticks alone it is not kept from sleep.
			if (work > l.ticks)
				idle_since = now;
			l.ticks = 0;
		} else if (adaptive) {
			idle(&l, (now - idle_since) / cycles_us);
			now = rte_rdtsc();
		} else {
			rest();
		}
	}
}
