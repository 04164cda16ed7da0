// SPDX-License-Identifier: BSD-3-Clause
//
// Packets that wait in an io core: for the lane that had their bucket before (parked), or only for
// room (ready). A bucket that moves waits until that one lane has returned what it had by then, or its
// warden has handed that back, which goes ahead of what waits: all of that came later, as a bucket is
// never in two lanes. Another bucket's lane may be stuck for seconds, and others may move from the same
// one later: neither costs it anything. tests/c/bucket_move.c has every order of these at random.
//
// A move begins in op_map (answers.c), which the supervisor asks for (supervisor/buckets.py);
// supervisor/steering.py decides which buckets move.

#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

// The queue has room: n_back and n_waiting are bounded, and the queues hold both.
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
waiting_add(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	if (g->n_waiting > g->waiting_most) {
		drop_in_group(io, g, DPS_DROP_HOLD_FULL, m);
		return;
	}
	g->waits[bucket] = 1;
	g->moving = true;
	put(g->from[bucket] != DPS_NO_SLOT ? &g->parked : &g->ready,
	    (struct waiting){ m, bucket, false });
	dps_store32(&g->n_waiting, g->n_waiting + 1);
	g->gated |= g->n_waiting >= WAITING_GATE;
}

void
waiting_again(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	if (g->n_back > g->again.mask) {
		drop_in_group(io, g, DPS_DROP_HOLD_FULL, m);
		return;
	}
	g->waits[bucket] = 1;
	g->moving = true;
	g->stirred |= g->from[bucket] == DPS_NO_SLOT;
	put(&g->again, (struct waiting){ m, bucket, true });
	dps_store32(&g->n_back, g->n_back + 1);
}

void
waiting_done(struct io_group *g, const struct waiting *w)
{
	uint32_t *n = w->back ? &g->n_back : &g->n_waiting;

	dps_store32(n, *n - 1);
}

void
waiting_moved(struct io *io, struct io_group *g, uint32_t bucket, uint32_t old)
{
	struct lane *lane = &io->lane[g->first + old];

	// The bucket waits already, so this lane has had no packet of it.
	if (g->from[bucket] != DPS_NO_SLOT)
		return;
	if (lane_out(lane) == 0 && !g->together)
		return;
	if (lane_out(lane) > 0 && !lane->draining) {
		lane->draining = true;
		lane->drain_to = lane->sent;
	}
	g->from[bucket] = old;
	g->until[bucket] = lane->sent;
	g->since[bucket] = rte_rdtsc();
	g->awaited |= UINT64_C(1) << old;
	g->waits[bucket] = 1;
	g->moving = true;
}

void
waiting_sort(struct io_group *g)
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

// What a lane drains to has been reached: is there a bucket that moved later, and waits for more?
static void
drain_on(struct io_group *g, uint32_t member, struct lane *lane)
{
	uint32_t left = 0;

	for (uint32_t b = 0; b < DPS_BUCKETS; b++) {
		uint32_t n = g->until[b] - lane->collected;

		if (g->from[b] == member && (int32_t)n > 0 && (left == 0 || n < left))
			left = n;
	}
	lane->draining = left > 0;
	lane->drain_to = lane->collected + left;
}

static void
note_pause(struct io_group *g, uint64_t cycles)
{
	uint64_t ns = (double)cycles / rte_get_tsc_hz() * 1e9;
	uint32_t bits = ns > 0 ? 64 - __builtin_clzll(ns) : 0;

	dps_count(&g->pause_ns, ns);
	dps_count(&g->pause[RTE_MIN(bits, (uint32_t)DPS_PAUSES - 1)], 1);
}

// Of the buckets that wait for these members, those whose packets are all back; together, all are.
static void
release(struct io *io, struct io_group *g, uint64_t members)
{
	uint64_t now = rte_rdtsc();

	g->awaited &= ~members;
	for (uint32_t b = 0; b < DPS_BUCKETS; b++) {
		uint32_t member = g->from[b];

		if (member == DPS_NO_SLOT || !(members >> member & 1))
			continue;
		if ((int32_t)(g->until[b] - io->lane[g->first + member].collected) > 0) {
			g->awaited |= UINT64_C(1) << member;
			continue;
		}
		note_pause(g, now - g->since[b]);
		g->from[b] = DPS_NO_SLOT;
	}
}

void
waiting_settle(struct io *io, struct io_group *g)
{
	uint64_t reached = g->awaited & ~draining(io, g);

	for (uint32_t i = 0; i < g->max; i++)
		if (reached >> i & 1)
			drain_on(g, i, &io->lane[g->first + i]);
	if (g->together)
		reached = is_settled(io, g) ? g->awaited : 0;
	if (reached == 0)
		return;
	release(io, g, reached);
	// At once: packets that come now must not overtake those that waited.
	waiting_stir(g);
}

void
waiting_forget(struct io_group *g, uint32_t member)
{
	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		if (g->from[b] == member)
			g->until[b] = 0;
}

// Ready is, in this order: what came back, what was ready, what waited.
void
waiting_stir(struct io_group *g)
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
waiting_rest(struct io_group *g)
{
	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		g->waits[b] = g->from[b] != DPS_NO_SLOT;
	g->moving = g->awaited != 0;
	g->gated = g->n_waiting >= WAITING_GATE;
}
