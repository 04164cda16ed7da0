// SPDX-License-Identifier: BSD-3-Clause
//
// shim/io/bucket_move.c under random arrivals, moves, returns, deaths and lanes that begin anew: each
// bucket's packets leave once and in order, and a bucket waits for no more than its lane had when it
// moved.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "primary.h"

enum {
	LANES = 4,
	RING = 64,
	ROOM = 40,              // packets out of a lane
	BUCKETS = 12,           // that have packets
	QUEUE = 1 << 16,
	STEPS = 4000
};

struct primary the_primary;
static struct io io_cores[2];

// Instead of EAL's: nanoseconds do not matter here.
uint64_t
rte_get_tsc_hz(void)
{
	return 1000000000;
}

// Instead of drop.c's: nothing is dropped here.
void
drop_in_group(struct io *io, struct io_group *g, uint32_t why, struct rte_mbuf *m)
{
	(void)io, (void)g, (void)why, (void)m;
	abort();
}

static struct rte_mbuf packets[1 << 20];
static uint32_t n_packets;
static uint32_t seq_of[1 << 20];
static uint32_t bucket_of[1 << 20];
static uint32_t next_seq[BUCKETS];
static uint32_t seen_seq[BUCKETS];
static uint32_t left;
static bool dead[LANES];        // what it has comes back as REQUEUE
static uint32_t bound[BUCKETS]; // of who waits: `sent` of its lane when it moved

static void
die(const char *what, uint32_t bucket)
{
	fprintf(stderr, "%s: bucket %u\n", what, bucket);
	exit(1);
}

static bool
place(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	uint32_t p = m - packets;
	uint8_t member = g->map[bucket_of[p]];
	struct lane *lane;

	if (member == DPS_NO_SLOT)
		return false;
	lane = &io->lane[g->first + member];
	if (lane_out(lane) >= ROOM)
		return false;
	lane->shadow[lane->sent++ & lane->mask] = m;
	return true;
}

static void
arrive(struct io *io, struct io_group *g)
{
	uint32_t p = n_packets++, b = rand() % BUCKETS;

	bucket_of[p] = b;
	seq_of[p] = next_seq[b]++;
	left++;
	if (g->waits[b] || !place(io, g, &packets[p]))
		waiting_add(io, g, &packets[p], b);
}

static void
depart(uint32_t p)
{
	uint32_t b = bucket_of[p];

	if (seq_of[p] != seen_seq[b]++)
		die("out of order, lost or twice", b);
	left--;
}

// Some come back from a lane: done, or as REQUEUE from who died.
static void
collect(struct io *io, struct io_group *g, uint32_t member, uint32_t n)
{
	struct lane *lane = &io->lane[g->first + member];

	for (; n > 0 && lane_out(lane) > 0; n--) {
		struct rte_mbuf *m = lane->shadow[lane->collected & lane->mask];
		uint32_t p = m - packets;

		if (dead[member])
			waiting_again(io, g, m, bucket_of[p]);
		else
			depart(p);
		lane_collected(lane, 1);
	}
}

static void
check_bound(struct io *io, struct io_group *g)
{
	for (uint32_t b = 0; b < BUCKETS; b++) {
		const struct lane *lane = &io->lane[g->first + g->from[b]];

		if (g->from[b] != DPS_NO_SLOT && !g->together &&
		    (int32_t)(lane->collected - bound[b]) >= 0)
			die("waits for more than its lane had", b);
	}
}

// The end of an io core's turn, as loop.c has it.
static void
let_go(struct io *io, struct io_group *g)
{
	struct waiting_queue *q = &g->ready;

	if (!g->moving)
		return;
	waiting_settle(io, g);
	check_bound(io, g);
	if (g->stirred)
		waiting_stir(g);
	for (; q->tail != q->head; q->tail++) {
		const struct waiting *w = &q->entry[q->tail & q->mask];

		if (!place(io, g, w->m))
			return;
		waiting_done(g, w);
	}
	waiting_rest(g);
}

// Some buckets move, as answers.c has it.
static void
move(struct io *io, struct io_group *g, uint32_t number)
{
	waiting_settle(io, g);
	for (uint32_t b = 0; b < BUCKETS; b++) {
		uint8_t old = g->map[b];
		uint8_t new = rand() % LANES;

		// Nobody takes what is of the dead; they have no bucket left in the end.
		if (dead[new] || (rand() % 3 && !(old != DPS_NO_SLOT && dead[old])) || new == old)
			continue;
		g->map[b] = new;
		if (old != DPS_NO_SLOT && g->from[b] == DPS_NO_SLOT)
			bound[b] = io->lane[g->first + old].sent;
		if (old != DPS_NO_SLOT)
			waiting_moved(io, g, b, old);
	}
	waiting_sort(g);
	dps_store32(&g->move, number);
	waiting_settle(io, g);
}

static void
make_queue(struct waiting_queue *q)
{
	q->mask = QUEUE - 1;
	q->entry = calloc(QUEUE, sizeof(*q->entry));
}

static bool
has_bucket(const struct io_group *g, uint32_t member)
{
	for (uint32_t b = 0; b < BUCKETS; b++)
		if (g->map[b] == member)
			return true;
	return false;
}

int
main(int argc, char **argv)
{
	struct io *io = &io_cores[0];
	struct io_group *g = &io->group[0];
	uint32_t number = 1;

	if (argc != 4)
		return 2;
	srand(atoi(argv[1]));
	// With state for each bucket they move together, and the other io core is late now and then.
	g->together = atoi(argv[2]);
	the_primary.n_io = g->together ? 2 : 1;
	the_primary.io[0] = io;
	the_primary.io[1] = &io_cores[1];
	g->max = LANES;
	g->waiting_most = QUEUE / 4;
	memset(g->from, DPS_NO_SLOT, sizeof(g->from));
	make_queue(&g->again);
	make_queue(&g->parked);
	make_queue(&g->ready);
	for (uint32_t i = 0; i < LANES; i++) {
		// Indices come round: soon, in this run.
		uint32_t from = (uint32_t)atoll(argv[3]);

		io->lane[i].shadow = calloc(RING, sizeof(void *));
		io->lane[i].mask = RING - 1;
		io->lane[i].sent = io->lane[i].collected = from;
	}
	for (uint32_t i = 0; i < STEPS || left > 0; i++) {
		uint32_t member = rand() % LANES;
		bool ends = i >= STEPS;

		if (i > 100 * STEPS)
			die("stands still", left);
		for (uint32_t n = rand() % 6; n > 0 && !ends; n--)
			arrive(io, g);
		if (rand() % 4 == 0 || ends)
			collect(io, g, member, rand() % RING);
		let_go(io, g);
		if (rand() % 8 == 0 && !ends)
			move(io, g, ++number);
		if (g->together && (rand() % 5 == 0 || ends))
			dps_store32(&io_cores[1].group[0].settled, number);
		// One dies, with another left, and its buckets are given away at once; what it had comes back.
		if (rand() % 40 == 0 && !ends && !dead[0] + !dead[1] + !dead[2] + !dead[3] > 1) {
			dead[member] = true;
			while (has_bucket(g, member))
				move(io, g, ++number);
		}
		if (dead[member] && io->lane[member].sent == io->lane[member].collected &&
		    rand() % 4 == 0) {
			struct lane *lane = &io->lane[member];

			dead[member] = false;
			if (rand() % 2) {       // op_reset: it begins anew, with nothing out
				lane->sent = lane->collected = 0;
				lane->draining = false;
				waiting_forget(g, member);
			}
		}
		if (ends && g->map[0] == DPS_NO_SLOT)
			move(io, g, ++number);
	}
	if (g->n_waiting + g->n_back != 0)
		die("still counted", g->n_waiting + g->n_back);
	printf("%u packets, %llu ns of pauses\n", n_packets, (unsigned long long)g->pause_ns);
	return 0;
}
