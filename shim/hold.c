// SPDX-License-Identifier: BSD-3-Clause
//
// Packets that wait in an io core: for the lane that had their bucket before (parked), or only for
// room (ready). A bucket that moves waits for that one lane, or for its warden to hand back what was
// in it, which goes ahead of what waits: all of that came later, as a bucket is never in two lanes.
// Another bucket's lane may be stuck for seconds: it costs nobody but its own buckets.

#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

// There is room: n_back and n_held have bounds, and the queues have room for both.
static void
put(struct waiting_queue *q, struct waiting w)
{
	q->entry[q->head++ & q->mask] = w;
}

// What waits in a queue and no longer for a lane goes to another, or the other way round. Both keep
// their order.
static void
sort(const struct io_group *g, struct waiting_queue *q, struct waiting_queue *to, bool parked)
{
	for (uint32_t n = q->head - q->tail; n > 0; n--) {
		struct waiting w = q->entry[q->tail++ & q->mask];

		put((g->from[w.bucket] != DPS_NO_SLOT) == parked ? to : q, w);
	}
}

void
hold(struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	if (g->n_held > g->held_most) {
		free_counted(&g->hold_full, m);
		return;
	}
	g->waits[bucket] = 1;
	g->moving = true;
	put(g->from[bucket] != DPS_NO_SLOT ? &g->parked : &g->ready,
	    (struct waiting){ m, bucket, false });
	dps_store32(&g->n_held, g->n_held + 1);
	g->gated |= g->n_held >= HOLD_GATE;
}

void
hold_again(struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	if (g->n_back > g->again.mask) {
		free_counted(&g->hold_full, m);
		return;
	}
	g->waits[bucket] = 1;
	g->moving = true;
	g->stirred |= g->from[bucket] == DPS_NO_SLOT;
	put(&g->again, (struct waiting){ m, bucket, true });
	dps_store32(&g->n_back, g->n_back + 1);
}

void
hold_done(struct io_group *g, const struct waiting *w)
{
	uint32_t *n = w->back ? &g->n_back : &g->n_held;

	dps_store32(n, *n - 1);
}

void
hold_moved(struct io *io, struct io_group *g, uint32_t bucket, uint32_t old)
{
	struct lane *lane = &io->lane[g->first + old];

	// It waits already, so this lane has had nothing of it.
	if (g->from[bucket] != DPS_NO_SLOT)
		return;
	if (lane_out(lane) > 0) {
		lane->draining = true;
		lane->drain_to = lane->sent;
	} else if (!g->together) {
		return;
	}
	if (!(g->awaited >> old & 1))
		lane->moved_at = rte_rdtsc();
	g->from[bucket] = old;
	g->awaited |= UINT64_C(1) << old;
	g->waits[bucket] = 1;
	g->moving = true;
}

void
hold_sort(struct io_group *g)
{
	sort(g, &g->ready, &g->parked, true);
}

static uint64_t
draining(const struct io *io, const struct io_group *g)
{
	uint64_t found = 0;

	for (uint32_t i = 0; i < g->max; i++)
		if (io->lane[g->first + i].draining)
			found |= UINT64_C(1) << i;
	return found;
}

// The state of a bucket has one owner at a time: its group's buckets wait until nothing drains for
// this map any more in any io core.
static bool
is_settled(struct io *io, struct io_group *g)
{
	uint32_t group = g - io->group;

	if (draining(io, g) != 0)
		return false;
	dps_store32(&g->settled, g->move);
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct io_group *other = &the_primary.io[i]->group[group];

		if ((int32_t)(dps_load32(&other->settled) - g->move) < 0)
			return false;
	}
	return true;
}

static void
note_pause(struct io_group *g, const struct lane *lane)
{
	double seconds = (double)(rte_rdtsc() - lane->moved_at) / rte_get_tsc_hz();
	uint64_t ns = seconds * 1e9;
	uint32_t bits = ns > 0 ? 64 - __builtin_clzll(ns) : 0;

	dps_count(&g->pause_ns, ns);
	dps_count(&g->pause[RTE_MIN(bits, (uint32_t)DPS_PAUSES - 1)], 1);
}

void
hold_settle(struct io *io, struct io_group *g)
{
	uint64_t done;

	if (g->together)
		done = is_settled(io, g) ? g->awaited : 0;
	else
		done = g->awaited & ~draining(io, g);
	if (done == 0)
		return;
	for (uint32_t i = 0; i < g->max; i++)
		if (done >> i & 1)
			note_pause(g, &io->lane[g->first + i]);
	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		if (g->from[b] != DPS_NO_SLOT && done >> g->from[b] & 1)
			g->from[b] = DPS_NO_SLOT;
	g->awaited &= ~done;
	g->stirred = true;
}

// Ready is, in this order: what came back, what was ready, what waited.
void
hold_stir(struct io_group *g)
{
	uint32_t n = g->ready.head - g->ready.tail;

	g->stirred = false;
	sort(g, &g->again, &g->ready, false);
	for (; n > 0; n--)
		put(&g->ready, g->ready.entry[g->ready.tail++ & g->ready.mask]);
	sort(g, &g->parked, &g->ready, false);
}

// Nothing is ready: only buckets that wait for a lane wait.
void
hold_rest(struct io_group *g)
{
	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		g->waits[b] = g->from[b] != DPS_NO_SLOT;
	g->moving = g->awaited != 0;
	g->gated = g->n_held >= HOLD_GATE;
}
