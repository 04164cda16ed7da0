/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_COLLECT_PVT_H
#define DPSUP_IO_COLLECT_PVT_H

// Packets that come back from the lanes, and where their verdicts send them. Part of loop.c; no other
// file includes it.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blanks_pvt.h"

// Give the packet the start and length that its worker decided on, if the buffer has them.
static inline bool
reshape(struct rte_mbuf *m, uint64_t word)
{
	int32_t start;
	uint32_t len;

	if (likely(!(word & DPS_BIT(DPS_W_CHANGED))))
		return true;
	start = (int32_t)m->data_off + (int16_t)(word >> DPS_W_SHIFT);
	len = DPS_FIELD(word, DPS_W_NEWLEN, 16);
	if (m->nb_segs > 1 || len == 0 || start < 0 || start + len > m->buf_len)
		return false;
	m->data_off = start;
	m->data_len = len;
	m->pkt_len = len;
	return true;
}

static void
steer_on(struct io *io, struct lane *lane, uint32_t group, struct rte_mbuf *m, uint32_t bucket)
{
	struct dps_mark *mark = mark_of(m);

	if (++mark->hops > HOP_LIMIT) {
		drop_at_port(io, port_of(m), DPS_DROP_HOP_LIMIT, m);
		return;
	}
	dps_count(&lane->stats.on, 1);
	steer(io, &io->group[group], m, bucket);
}

// Take it out of the traffic, for the control thread to write down: that may be slow, this must not.
static void
lock_up(struct io *io, struct lane *lane, struct rte_mbuf *m)
{
	if (io->cell_head - io->cell_tail == CELLS) {
		free_counted(&lane->stats.quarantine_full, m);
		return;
	}
	dps_count(&lane->stats.quarantined, 1);
	io->cell[io->cell_head % CELLS] = (struct cell){ m, lane->slot };
	dps_store32(&io->cell_head, io->cell_head + 1);
}

// The last one stays to be seen: a plugin that says this of each packet is silent otherwise.
static void __rte_noinline
refuse_verdict(struct lane *lane, struct rte_mbuf *m, uint32_t index, uint64_t word)
{
	dps_store64(&lane->stats.bad_word, word);
	lane->stats.bad_len = m->pkt_len;
	lane->stats.bad_version = lane_version(lane, index);
	free_counted(&lane->stats.bad_verdict, m);
}

static void take_extra(struct io *io, struct lane *lane, struct rte_mbuf *m, uint32_t index,
		       uint64_t word);

static inline void
take(struct io *io, struct lane *lane, struct rte_mbuf *m, uint32_t index, uint64_t word)
{
	uint32_t arg = word & DPS_V_ARG;
	uint32_t bucket;

	// DONE, and nothing of EXTRA.
	switch (likely((word >> 48 & 0xbfff) == 0x8000) ? word & DPS_V_KIND : DPS_V_KIND) {
	case DPS_V_OUT:
		if (unlikely(arg >= the_primary.n_ports || !reshape(m, word)))
			break;
		dps_count(&lane->stats.out, 1);
		tx_put(io, arg, m);
		return;
	case DPS_V_DROP:
		free_counted(lane_dropped(lane, index, arg), m);
		return;
	case DPS_V_GROUP:
		// By the hash that it came in with, so before its start or length changes.
		bucket = bucket_of(m);
		if (arg >= the_primary.n_groups || !reshape(m, word))
			break;
		steer_on(io, lane, arg, m, bucket);
		return;
	case DPS_V_QUARANTINE:
		bucket_of(m);
		(void)reshape(m, word);
		lock_up(io, lane, m);
		return;
	case DPS_V_REQUEUE:
		// Only the primary says this, and of which packets is in memory of its own.
		if (!lane_may_requeue(lane, index))
			break;
		dps_count(&lane->stats.requeued, 1);
		dps_count(&io->stats.requeued, 1);
		waiting_again(io, &io->group[lane->group], m, bucket_of(m));
		return;
	}
	take_extra(io, lane, m, index, word);
}

static inline void
take_back(struct io *io, struct lane *lane, uint32_t index, uint64_t word)
{
	take(io, lane, lane->shadow[index & lane->mask], index, word);
}

// A blank that is said to be filled and is not: which ones are, nothing says any more.
static void
lane_spoilt(struct lane *lane)
{
	lane->corrupt = true;
	lane_set_limit(lane);
	lane->stats.lanes_corrupt = 1;
}

// One that a packet filled. Its bytes are what its word says before a hash is taken of them; it counts the
// hops of the packet that it came of, so that two groups cannot answer each other without end.
static void
take_blank(struct io *io, struct lane *lane, struct rte_mbuf *m, struct rte_mbuf *by, uint32_t index,
	   uint64_t word)
{
	uint64_t plain = dps_word_verdict(word);

	dps_count(&lane->stats.emitted, 1);
	m->port = port_of(by);
	*mark_of(m) = (struct dps_mark){ .bucket = NO_BUCKET, .hops = mark_of(by)->hops };
	if (!(word & DPS_BIT(DPS_W_CHANGED)) || DPS_FIELD(word, DPS_W_SHIFT, 16) != 0 ||
	    (word & DPS_V_KIND) == DPS_V_REQUEUE || !reshape(m, word))
		refuse_verdict(lane, m, index, word);
	else
		take(io, lane, m, index, plain);
}

// All blanks that a packet filled. False: its word cannot be true.
static bool
take_blanks(struct io *io, struct lane *lane, struct rte_mbuf *by, uint32_t index, uint32_t n)
{
	for (; n > 0; n--) {
		uint32_t next = lane->blanks_taken;
		uint64_t word = lane_blank_word(lane, next);

		if (next == lane->blanks_sent || !dps_word_is_blank(word, next))
			return false;
		dps_store32(&lane->blanks_taken, next + 1);
		take_blank(io, lane, lane->blank[next % DPS_BLANKS], by, index, word);
	}
	return true;
}

// Has rx left no room for that bucket? Once this turn's packets are taken back there is some, and what waits
// comes before the next ones of rx.
static bool
is_full(const struct io *io, uint32_t group, uint32_t bucket)
{
	const struct io_group *g = &io->group[group];

	return g->map[bucket] != DPS_NO_SLOT && lane_room(&io->lane[g->first + g->map[bucket]]) == 0;
}

// Its plugin says the bucket; of the rest of the hash the old one's is left. Within its own group once, so that
// two workers cannot send it to each other; a circle of groups ends at HOP_LIMIT. All that is known of the
// packet from now on is of the new bucket: it waits where that moves, and comes back there as REQUEUE.
static bool __rte_noinline
take_hash(struct io *io, struct lane *lane, struct rte_mbuf *m, uint32_t index, uint64_t word)
{
	uint32_t group = dps_word_hash_group(word), bucket = dps_word_hash_bucket(word);
	uint16_t own = STEERED | lane->group << DPS_V_HASH_GROUP;
	struct dps_mark *mark = mark_of(m);

	// Before its start or length changes.
	bucket_of(m);
	if (group >= the_primary.n_groups || !reshape(m, word))
		return false;
	if (group == lane->group && (mark->bucket & ~HASH_MASK) == own) {
		drop_at_port(io, port_of(m), DPS_DROP_STEERED_TWICE, m);
		return true;
	}
	mark->bucket = group == lane->group ? own | bucket : bucket;
	m->hash.rss = (m->hash.rss & ~(uint32_t)HASH_MASK) | bucket;
	dps_count(&lane->stats.on_hash, mark->hops < HOP_LIMIT);
	if (group == lane->group && mark->hops < HOP_LIMIT && is_full(io, group, bucket)) {
		mark->hops++;
		dps_count(&lane->stats.on, 1);
		io->group[group].load[bucket]++;
		waiting_add(io, &io->group[group], m, bucket);
		return true;
	}
	take(io, lane, m, index, dps_word_verdict(DPS_V_GROUP | group));
	return true;
}

// What is not one packet with one plain verdict: blanks first, then a copy, then the packet.
static void __rte_noinline
take_extra(struct io *io, struct lane *lane, struct rte_mbuf *m, uint32_t index, uint64_t word)
{
	uint64_t plain = word & ~(uint64_t)(DPS_V_ALSO | DPS_V_ARG);
	uint32_t port = (word & DPS_V_ARG) >> 4;
	uint32_t kind = plain & DPS_V_KIND;

	if (!dps_word_is_done(word)) {
		refuse_verdict(lane, m, index, word);
		return;
	}
	if (word & DPS_W_EXTRA) {
		if (!take_blanks(io, lane, m, index, DPS_FIELD(word, DPS_W_EMITS, 4))) {
			refuse_verdict(lane, m, index, word);
			lane_spoilt(lane);
			return;
		}
		dps_count(&lane->stats.no_blank, DPS_FIELD(word, DPS_W_MISSED, 4));
		take(io, lane, m, index, word & ~DPS_W_EXTRA);
		return;
	}
	if (dps_word_is_hash(word)) {
		if (!take_hash(io, lane, m, index, word))
			refuse_verdict(lane, m, index, word);
		return;
	}
	if ((word & (DPS_V_KIND | DPS_V_ARG)) == DPS_V_PUNT && reshape(m, word)) {
		kernel_punt(io, m);
		return;
	}
	if (!dps_word_copies(word) || port >= the_primary.n_ports ||
	    (kind != DPS_V_OUT && kind != DPS_V_DROP && kind != DPS_V_GROUP)) {
		refuse_verdict(lane, m, index, word);
		return;
	}
	// As the plugin left it; by the hash that it came in with.
	if (kind == DPS_V_GROUP)
		bucket_of(m);
	if (!reshape(m, word)) {
		refuse_verdict(lane, m, index, word);
		return;
	}
	take_copy(io, lane, m, port);
	take(io, lane, m, index, dps_word_verdict(kind | (word & 0xf)));
}

// Lossless lanes: may this packet go where its verdict says, without being dropped there? Asked
// packet by packet, so that a port or a group that is full stops only the senders to it. What comes
// back as REQUEUE always may: there is room for all that the lanes can hold.
static bool
may_take_back(const struct io *io, const struct lane *lane, uint32_t index, uint64_t word)
{
	uint32_t arg = word & DPS_V_ARG;

	if (unlikely(word & (DPS_W_EXTRA | DPS_V_ALSO)))
		return may_take_extra(io, lane, lane->shadow[index & lane->mask], word);
	switch (word & DPS_V_KIND) {
	case DPS_V_OUT:
		return arg >= the_primary.n_ports || has_room(io, arg);
	case DPS_V_GROUP:
		return arg >= the_primary.n_groups ||
		       io->group[arg].n_waiting <= io->group[arg].waiting_most;
	default:
		return !dps_word_is_hash(word) || may_join(io, word, 1);
	}
}

// n packets of one verdict. Fewer taken than given: the next has no place to go (lossless lanes).
static uint32_t
take_run(struct io *io, struct lane *lane, uint32_t index, uint32_t n, uint64_t word)
{
	struct rte_mbuf **m = &lane->shadow[index & lane->mask];
	uint32_t arg = word & DPS_V_ARG;

	if (n >= TX_DIRECT && (word & ~(uint64_t)DPS_V_ARG) == dps_word_verdict(DPS_V_OUT) &&
	    arg < the_primary.n_ports && io->tx[arg].queue >= 0 &&
	    (!lane->hold || io->tx[arg].head == io->tx[arg].tail)) {
		dps_count(&lane->stats.out, n);
		tx_put_bulk(io, arg, m, n);
		return n;
	}
	if ((word & ~(uint64_t)DPS_V_ARG) == dps_word_verdict(DPS_V_DROP)) {
		uint32_t turn = (uint32_t)dps_load64(&lane->turn) - index;

		// Each version has names of its own for its reasons.
		if (unlikely(turn != 0 && turn < n))
			n = turn;
		rte_pktmbuf_free_bulk(m, n);
		dps_count(lane_dropped(lane, index, arg), n);
		return n;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (lane->hold && unlikely(!may_take_back(io, lane, index + i, word)))
			return i;
		take_back(io, lane, index + i, word);
	}
	return n;
}

// Its verdict says that it was taken; it has others where a worker died of it, or with it. What it
// originated leaves now.
static void
take_tick(struct io *io, struct lane *lane, uint32_t index, uint64_t word)
{
	struct rte_mbuf *m = lane->shadow[index & lane->mask];
	uint32_t n = DPS_FIELD(word, DPS_W_EMITS, 4);

	// A descriptor, where a stray write says that it was handed back: its bits count no blanks.
	if (!dps_word_is_done(word)) {
		tick_skip(io, lane, index);
		return;
	}
	if (n > 0 && !take_blanks(io, lane, m, index, n))
		lane_spoilt(lane);
	if ((word & ~DPS_W_EXTRA) != dps_word_verdict(DPS_V_TICK)) {
		tick_skip(io, lane, index);
		return;
	}
	dps_count(&lane->stats.no_blank, DPS_FIELD(word, DPS_W_MISSED, 4));
	dps_count(&lane->stats.ticks, 1);
	tick_back(io, lane, index);
	io->ticks += n == 0;
}

// Ticks that are next, then `n` is where the packets after them end. Which words are ticks is in the io
// core's own memory. Returns how many are taken.
static uint32_t __rte_noinline
take_ticks(struct io *io, struct lane *lane, uint32_t *n)
{
	uint32_t taken = 0, end;

	for (; taken < *n; taken++) {
		uint32_t index = lane->collected + taken;
		uint64_t word = lane_get(lane, index);

		if (lane->tick[index & lane->mask] == 0)
			break;
		if (lane->hold && !may_take_back(io, lane, index, word)) {
			*n = taken;
			return taken;
		}
		take_tick(io, lane, index, word);
	}
	for (end = taken; end < *n && lane->tick[(lane->collected + end) & lane->mask] == 0;)
		end++;
	*n = end;
	return taken;
}

static uint32_t
collect(struct io *io, struct lane *lane)
{
	uint32_t n = lane_back(lane, DPS_IO_BURST);
	uint32_t taken = 0;

	if (unlikely(lane->ticks_out > 0))
		taken = take_ticks(io, lane, &n);
	while (taken < n) {
		uint32_t index = lane->collected + taken;
		// Read once: the worker could change it between check and use.
		uint64_t word = lane_get(lane, index);
		uint32_t run = lane_run(lane, index, n - taken, word);
		uint32_t took = take_run(io, lane, index, run, word);

		taken += took;
		if (unlikely(took < run))
			break;
	}
	if (taken > 0) {
		if (unlikely(lane->emits > 0))
			blanks_lend(io, lane);
		lane_collected(lane, taken);
	}
	if (lane_look(lane))
		lane->back_at = io->now;
	return taken;
}

// Capture or stopwatch look at what comes back: before it is sent on, as it may be freed afterwards.
static void __rte_noinline
watch_back(struct io *io, const struct lane *lane)
{
	if (io->capture != NULL)
		capture_back(io, lane, lane_back(lane, DPS_IO_BURST));
	if (io->stopwatch != NULL)
		stopwatch_ticks(io, lane);
}

static void __rte_noinline
watch_taken(struct io *io, const struct lane *lane, uint32_t taken)
{
	if (io->capture != NULL)
		capture_taken(io, lane, taken);
	if (io->stopwatch != NULL)
		stopwatch_back(io, lane);
}

// Wake a worker that parked before it saw what it was lent: once for each time that it parks.
static void __rte_noinline
ring(struct io *io, struct lane *lane, uint32_t parks)
{
	uint32_t *bell = &the_primary.slot[lane->slot]->bell;

	lane->rung = parks;
	__atomic_fetch_add(bell, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, bell, FUTEX_WAKE, 1, NULL, NULL, 0);
	dps_count(&io->stats.rings, 1);
}

static uint32_t
collect_all(struct io *io)
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < io->n_active;) {
		struct lane *lane = io->active[i];
		uint32_t parks = dps_load32(lane->parks);
		uint32_t taken;

		if (unlikely(io->watched))
			watch_back(io, lane);
		taken = collect(io, lane);
		if (unlikely(io->watched))
			watch_taken(io, lane, taken);
		total += taken;
		if (unlikely(parks & 1 && lane->rung != parks))
			ring(io, lane, parks);
		if (lane_out(lane) == 0) {
			lane->is_active = false;
			io->active[i] = io->active[--io->n_active];
		} else {
			i++;
		}
	}
	// REQUEUE and GROUP verdicts lend packets in the middle of a collection.
	publish_all(io);
	if (unlikely(io->timed))
		dps_count(&io->stats.stage_packets, total - io->ticks);
	return total;
}

#endif
