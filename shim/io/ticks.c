// SPDX-License-Identifier: BSD-3-Clause
//
// Ticks: what says to a worker, in its lane, that time has passed. A tick is an mbuf without bytes, so
// that it takes effect with one store, is run once more after a kill, and is accounted for, as a packet
// is. Which words of a lane are ticks the io core keeps in memory of its own.
//
// A tick says "now", so none waits: one that finds no room, no buffer, or its last one still out is
// skipped and counted, and so is one that comes back from a worker that did not take it. The next one
// is due an interval later, and goes to the bucket's owner of then. So there are never more ticks than
// workers and buckets, however slow a worker is.

#include <rte_cycles.h>

#include "primary.h"

// Bucket ticks go together, as the first one wakes a worker that sleeps: those of such a time, but not more
// at once than a lane that is full of packets has places for.
enum { TOGETHER_US = 10000, TOGETHER = DPS_BURST };

static bool
lend(struct io *io, struct lane *lane, uint32_t tick)
{
	uint32_t at = lane->sent & lane->mask;
	// A small pool is not for ticks, but no lane goes without.
	bool fits = lane_fits_tick(lane) &&
		    (lane->ticks_out == 0 ||
		     pool_shared(lane->blank_pool) >= lane->blank_pool->size / 4);
	struct rte_mbuf *m = fits ? rte_pktmbuf_alloc(lane->blank_pool) : NULL;

	if (m == NULL) {
		dps_count(&lane->stats.ticks_skipped, 1);
		return false;
	}
	m->port = lane->tick_port;
	*mark_of(m) = (struct dps_mark){ .bucket = tick == DPS_TICK_SLOT ? NO_BUCKET : tick - 1 };
	lane_put(lane, lane->sent, lane_tick_word(lane, m, tick));
	lane->shadow[at] = m;
	lane->tick[at] = tick;
	dps_count(&lane->ticks_lent, 1);
	lane_count_ticks(lane, lane->ticks_out + 1);
	dps_store32(&lane->sent, lane->sent + 1);
	dps_store32(&lane->shared->ticked, lane->sent);
	lane_set_limit(lane);
	if (!lane->is_active) {
		lane->is_active = true;
		io->active[io->n_active++] = lane;
	}
	return true;
}

void
tick_back(struct io *io, struct lane *lane, uint32_t index)
{
	uint32_t at = index & lane->mask;
	uint32_t tick = lane->tick[at];

	if (tick == DPS_TICK_SLOT)
		lane->tick_waits = false;
	else
		io->group[lane->group].tick_waits[tick - 1] = false;
	lane->tick[at] = 0;
	lane_count_ticks(lane, lane->ticks_out - 1);
	dps_count(&lane->ticks_back, 1);
	rte_pktmbuf_free(lane->shadow[at]);
}

void
tick_skip(struct io *io, struct lane *lane, uint32_t index)
{
	dps_count(&lane->stats.ticks_skipped, 1);
	tick_back(io, lane, index);
}

static void
tick_slot(struct io *io, struct lane *lane)
{
	if (lane->tick_waits)
		dps_count(&lane->stats.ticks_skipped, 1);
	else
		lane->tick_waits = lend(io, lane, DPS_TICK_SLOT);
}

// A bucket that no plugin has kept anything of has nothing that ages. One that is no plugin's may have lost
// its worker as that migrated it: what it was is kept at the end of its room.
static bool
has_state(const struct dps_group_conf *conf, uint32_t bucket)
{
	uint64_t at = the_primary.own->base + dps_bucket_head(conf, bucket);
	const struct dps_state_head *head = (const void *)(uintptr_t)at;
	uint64_t kept = dps_kept_at(conf->bucket_state);

	if (conf->bucket_state == 0)
		return false;
	return dps_load64(&head->stamp) != 0 ||
	       (kept > 0 && dps_load64((const void *)((const uint8_t *)(head + 1) + kept)) != 0);
}

static void
tick_bucket(struct io *io, uint32_t group, uint32_t bucket)
{
	struct io_group *g = &io->group[group];
	struct lane *lane;

	if (bucket % the_primary.n_io != io->index || g->map[bucket] == DPS_NO_SLOT)
		return;
	lane = &io->lane[g->first + g->map[bucket]];
	if (lane->bucket_tick_cycles == 0 || !has_state(&the_primary.own->group[group], bucket))
		return;
	// In order with its packets: where those wait, a tick would overtake them.
	if (g->waits[bucket] || g->tick_waits[bucket])
		dps_count(&lane->stats.ticks_skipped, 1);
	else
		g->tick_waits[bucket] = lend(io, lane, 1 + bucket);
}

// Each bucket of the group in its turn, spread over the interval. Returns when the next ones are due.
static uint64_t
tick_buckets(struct io *io, uint32_t group, uint64_t cycles)
{
	struct io_group *g = &io->group[group];
	uint64_t step = cycles / DPS_BUCKETS;
	uint64_t together = RTE_MIN(TOGETHER_US * (rte_get_tsc_hz() / 1000000), TOGETHER * step);

	// It was away for longer than that, or begins: what is due goes in pieces, too.
	if (g->tick_due + 2 * together < io->now)
		g->tick_due = io->now - 2 * together;
	for (uint32_t n = 0; n < DPS_BUCKETS && g->tick_due <= io->now; n++) {
		tick_bucket(io, group, g->tick_at);
		g->tick_at = (g->tick_at + 1) % DPS_BUCKETS;
		g->tick_due += step;
	}
	if (g->tick_due <= io->now || g->tick_due - io->now > step)
		g->tick_due = io->now + step;
	return RTE_MAX(g->tick_due, io->now + together);
}

void
ticks_lend(struct io *io)
{
	io->tick_due = UINT64_MAX;
	for (uint32_t k = 0; k < the_primary.n_groups; k++) {
		struct io_group *g = &io->group[k];
		uint64_t cycles = 0;

		for (uint32_t i = 0; i < g->max; i++) {
			struct lane *lane = &io->lane[g->first + i];

			if (!lane->is_fed || lane->corrupt)
				continue;
			if (lane->bucket_tick_cycles > 0 &&
			    (cycles == 0 || lane->bucket_tick_cycles < cycles))
				cycles = lane->bucket_tick_cycles;
			if (lane->tick_cycles == 0 || lane->slot % the_primary.n_io != io->index)
				continue;
			if (lane->tick_due <= io->now) {
				tick_slot(io, lane);
				lane->tick_due += lane->tick_cycles;
			}
			if (lane->tick_due <= io->now ||
			    lane->tick_due - io->now > lane->tick_cycles)
				lane->tick_due = io->now + lane->tick_cycles;
			io->tick_due = RTE_MIN(io->tick_due, lane->tick_due);
		}
		if (cycles > 0)
			io->tick_due = RTE_MIN(io->tick_due, tick_buckets(io, k, cycles));
	}
}
