// SPDX-License-Identifier: BSD-3-Clause
//
// Where every mbuf is. Each io core counts what it holds itself, at a burst's end; what drivers hold
// cannot be listed, so it is the rest.
//
// Where that does not add up, or several io cores handed mbufs to each other between their answers,
// the objects themselves are looked for: each one that is found anywhere, in any of some rounds, is
// marked. What moves is found sooner or later. What is never found is a driver's, or lost.

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "primary.h"

enum {
	ROUNDS = 8,             // of a search, at most
	STEADY = 2,             // rounds that found nothing new end it
	SPREAD = 64,            // a pool may be spread over so many times its size
	INVERSE_BITS = 64,
	LEAK_MS = 50            // for something to leak
};

// The objects of a pool, by (address - base) / size of an object: no two share an index.
struct marks {
	uint8_t *seen;
	uint8_t *at_start;      // 1: a driver's since before the io cores ran
	uint64_t base;
	uint64_t inverse;       // 2^64 / size of an object, rounded up
	uint64_t n;
};

static struct marks all_marks[DPS_MAX_POOLS];

// --- what an io core holds ------------------------------------------------------------------------

typedef void visit_t(struct io *io, enum dps_place place, uint32_t index, const struct rte_mbuf *m);

static void
visit_queue(struct io *io, visit_t *visit, uint32_t group, const struct waiting_queue *q,
	    enum dps_place back)
{
	for (uint32_t i = q->tail; i != q->head; i++) {
		const struct waiting *w = &q->entry[i & q->mask];

		visit(io, w->back ? back : DPS_PLACE_HELD, group, w->m);
	}
}

static void
walk(struct io *io, visit_t *visit)
{
	for (uint32_t s = 0; s < the_primary.n_slots; s++) {
		const struct lane *lane = &io->lane[s];

		for (uint32_t i = lane->collected; i != lane->sent; i++)
			visit(io, i - lane->collected < lane->ready - lane->collected ?
				  DPS_PLACE_BACK : DPS_PLACE_LENT,
			      s, lane->shadow[i & lane->mask]);
	}
	for (uint32_t s = 0; s < the_primary.n_slots; s++)
		for (uint32_t i = io->lane[s].blanks_taken; i != io->lane[s].blanks_sent; i++)
			visit(io, DPS_PLACE_BLANKS, s, io->lane[s].blank[i % DPS_BLANKS]);
	for (uint32_t k = 0; k < the_primary.n_groups; k++) {
		const struct io_group *g = &io->group[k];

		visit_queue(io, visit, k, &g->again, DPS_PLACE_AGAIN);
		visit_queue(io, visit, k, &g->parked, DPS_PLACE_FRONT);
		visit_queue(io, visit, k, &g->ready, DPS_PLACE_FRONT);
	}
	for (uint32_t i = io->cell_tail; i != io->cell_head; i++)
		visit(io, DPS_PLACE_QUARANTINE, 0, io->cell[i % CELLS].mbuf);
	for (uint32_t k = 0; k < the_primary.n_ports; k++)
		for (uint32_t i = io->tx[k].tail; i != io->tx[k].head; i++)
			visit(io, DPS_PLACE_TX, k, io->tx[k].wait[i & (TX_WAIT - 1)]);
	for (uint32_t k = 0; k < io->n_kernel; k++) {
		const struct kernel_end *end = io->kernel[io->kernel_port[k]];

		for (uint32_t i = end->out_tail; i != end->out_head; i++)
			visit(io, DPS_PLACE_KERNEL, end->port, end->out[i % DPS_KERNEL_OUT]);
		for (uint32_t i = end->in_tail; i != end->in_head; i++)
			visit(io, DPS_PLACE_KERNEL, end->port, end->in[i % DPS_KERNEL_IN]);
	}
	for (uint32_t k = 0; k < the_primary.n_io; k++) {
		struct rte_ring *r = io->xfer[k];
		struct rte_mbuf **slots = (struct rte_mbuf **)&r[1];

		if (k != io->index)
			for (uint32_t i = r->cons.tail; i != r->prod.tail; i++)
				visit(io, DPS_PLACE_XFER, k, slots[i & r->mask]);
	}
}

static uint32_t
pool_of(const struct rte_mbuf *m)
{
	uint32_t p = 0;

	while (p < the_primary.n_pools && m->pool != the_primary.pool[p])
		p++;
	return p;
}

static void
count(struct io *io, enum dps_place place, uint32_t index, const struct rte_mbuf *m)
{
	for (; m != NULL; m = m->next) {
		uint32_t pool = pool_of(m);

		if (pool < the_primary.n_pools)
			io->audit.mbufs[pool][place][index]++;
	}
}

void
io_audit(struct io *io)
{
	struct io_audit *a = &io->audit;

	memset(a, 0, sizeof(*a));
	walk(io, count);
	for (uint32_t p = 0; p < the_primary.n_pools; p++) {
		struct rte_mempool *mp = the_primary.pool[p];
		struct rte_mempool_cache *cache = rte_mempool_default_cache(mp, io->lcore);

		a->mbufs[p][DPS_PLACE_CACHE][0] = cache != NULL ? cache->len : 0;
		a->free[p] = pool_shared(mp);
	}
}

// Account for every mbuf of a pool. With one io core the answer is one instant's, packets flowing
// or not. What drivers hold is bounded by what they took at start (rx) and by the descriptors of the
// drivers that keep packets until sent (tx).
int
dps_audit_get(uint32_t pool, struct dps_audit *out)
{
	struct primary *p = &the_primary;
	uint64_t tx_most = 0;
	int64_t rest;
	int ret;

	if (pool >= p->n_pools)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	ret = io_ask_all(OP_AUDIT, 0);
	if (ret != 0)
		return ret;
	out->size = p->pool[pool]->size;
	for (uint32_t i = 0; i < p->n_io; i++) {
		const struct io_audit *a = &p->io[i]->audit;

		out->free = a->free[pool];
		for (uint32_t k = 0; k < DPS_N_PLACES; k++) {
			uint64_t *sum = k == DPS_PLACE_CACHE      ? &out->cached :
					k == DPS_PLACE_QUARANTINE ? &out->quarantine :
					k <= DPS_PLACE_BACK ||
						k == DPS_PLACE_BLANKS ? &out->lanes :
								    &out->io;

			for (uint32_t n = 0; n < DPS_MAX_SLOTS; n++)
				*sum += a->mbufs[pool][k][n];
		}
	}
	for (uint32_t i = 0; i < p->n_ports; i++)
		if (!p->port[i].copies_tx && !p->port[i].absent)
			tx_most += (uint64_t)p->port[i].tx_desc * p->port[i].tx_queues;
	rest = (int64_t)out->size -
	       (int64_t)(out->free + out->cached + out->lanes + out->io + out->quarantine);
	out->rx_rings = RTE_MAX((int64_t)0, RTE_MIN(rest, (int64_t)p->rx_held[pool]));
	rest -= out->rx_rings;
	out->tx_rings = RTE_MAX((int64_t)0, RTE_MIN(rest, (int64_t)tx_most));
	out->unexplained = rest - out->tx_rings;
	return 0;
}

// The places of the last dps_audit_get that are not empty; returns how many there are.
int
dps_audit_places(uint32_t pool, struct dps_audit_place *out, uint32_t n)
{
	struct primary *p = &the_primary;
	uint32_t found = 0;

	if (pool >= p->n_pools)
		return -EINVAL;
	for (uint32_t i = 0; i < p->n_io; i++)
		for (uint32_t k = 0; k < DPS_N_PLACES; k++)
			for (uint32_t at = 0; at < DPS_MAX_SLOTS; at++) {
				uint32_t mbufs = p->io[i]->audit.mbufs[pool][k][at];

				if (mbufs == 0)
					continue;
				if (found < n)
					out[found] = (struct dps_audit_place){ k, i, at, mbufs };
				found++;
			}
	return RTE_MIN(found, n);
}

// --- the objects ----------------------------------------------------------------------------------

static void
extent(struct rte_mempool *mp, void *arg, void *object, unsigned int index)
{
	uint64_t *ends = arg;

	(void)mp;
	(void)index;
	ends[0] = RTE_MIN(ends[0], (uint64_t)(uintptr_t)object);
	ends[1] = RTE_MAX(ends[1], (uint64_t)(uintptr_t)object);
}

static int
marks_init(uint32_t pool)
{
	struct rte_mempool *mp = the_primary.pool[pool];
	uint64_t size = mp->header_size + mp->elt_size + mp->trailer_size;
	struct marks *marks = &all_marks[pool];
	uint64_t ends[2] = { UINT64_MAX, 0 };

	if (marks->seen != NULL)
		return 0;
	rte_mempool_obj_iter(mp, extent, ends);
	marks->base = ends[0];
	marks->n = (ends[1] - ends[0]) / size + 1;
	marks->inverse = UINT64_MAX / size + 1;
	if (marks->n > (uint64_t)mp->size * SPREAD)
		return -ERANGE;
	marks->at_start = calloc(1, marks->n);
	marks->seen = calloc(1, marks->n);
	return marks->seen != NULL && marks->at_start != NULL ? 0 : -ENOMEM;
}

// A multiplication, exact for all offsets below 2^50: an io core does this for each packet it holds.
static uint64_t
index_of(const struct marks *marks, const void *object)
{
	uint64_t offset = (uintptr_t)object - marks->base;

	return (unsigned __int128)offset * marks->inverse >> INVERSE_BITS;
}

static void
mark_object(struct marks *marks, const void *object)
{
	uint64_t index = index_of(marks, object);

	if (marks->seen != NULL && index < marks->n)
		marks->seen[index] = 1;
}

static void
mark(struct io *io, enum dps_place place, uint32_t index, const struct rte_mbuf *m)
{
	(void)io;
	(void)place;
	(void)index;
	for (; m != NULL; m = m->next) {
		uint32_t pool = pool_of(m);

		if (pool < the_primary.n_pools)
			mark_object(&all_marks[pool], m);
	}
}

void
io_audit_mark(struct io *io)
{
	walk(io, mark);
	for (uint32_t p = 0; p < the_primary.n_pools; p++) {
		struct rte_mempool_cache *cache =
			rte_mempool_default_cache(the_primary.pool[p], io->lcore);

		for (uint32_t i = 0; cache != NULL && i < cache->len; i++)
			mark_object(&all_marks[p], cache->objs[i]);
	}
}

// The pool's own ring, while io cores take and put: one that is on its way is found elsewhere, or in
// another round.
static void
mark_free(uint32_t pool)
{
	const struct rte_ring *r = the_primary.pool[pool]->pool_data;
	void *const *slots = (void *const *)&r[1];
	uint32_t tail = __atomic_load_n(&r->prod.tail, __ATOMIC_ACQUIRE);

	for (uint32_t i = __atomic_load_n(&r->cons.head, __ATOMIC_ACQUIRE); i != tail; i++)
		mark_object(&all_marks[pool], slots[i % r->size]);
}

struct tally {
	const struct marks *marks;
	uint32_t unseen;
	uint32_t fresh;         // of these, no driver's at start
	uint32_t n;
	uint32_t most;
	bool old;               // list those that drivers had at start
	const struct rte_mbuf **found;
};

static void
tally_one(struct rte_mempool *mp, void *arg, void *object, unsigned int number)
{
	struct tally *t = arg;
	uint64_t index = index_of(t->marks, object);

	(void)mp;
	(void)number;
	if (t->marks->seen[index])
		return;
	t->unseen++;
	t->fresh += !t->marks->at_start[index];
	if (t->n < t->most && t->marks->at_start[index] == t->old)
		t->found[t->n++] = object;
}

static uint32_t
unseen(uint32_t pool, uint32_t *fresh)
{
	struct tally t = { .marks = &all_marks[pool] };

	rte_mempool_obj_iter(the_primary.pool[pool], tally_one, &t);
	*fresh = t.fresh;
	return t.unseen;
}

// What drivers hold before the io cores run: it is the last to be suspected.
void
audit_begin(void)
{
	for (uint32_t p = 0; p < the_primary.n_pools; p++) {
		struct marks *marks = &all_marks[p];

		if (marks_init(p) != 0)
			continue;
		mark_free(p);
		for (uint64_t i = 0; i < marks->n; i++)
			marks->at_start[i] = !marks->seen[i];
	}
}

// --- the last owner -------------------------------------------------------------------------------

// The lane that lent it last, as far as its record goes back: that is never cleared.
static bool
last_lane(const struct rte_mbuf *m, struct dps_stray *out)
{
	uint32_t least = UINT32_MAX;

	for (uint32_t i = 0; i < the_primary.n_io; i++)
		for (uint32_t s = 0; s < the_primary.n_slots; s++) {
			const struct lane *lane = &the_primary.io[i]->lane[s];
			uint32_t collected = dps_load32(&lane->collected);

			for (uint32_t at = 0; at < lane->size; at++) {
				uint32_t ago = (collected - 1 - at) & lane->mask;

				if (lane->shadow[at] == m && ago < least) {
					least = ago;
					out->slot = s;
					out->io = i;
				}
			}
		}
	out->ago = least;
	return least != UINT32_MAX;
}

static void
describe(const struct rte_mbuf *m, struct dps_stray *out)
{
	const struct primary *p = &the_primary;
	const struct dps_mark at = *mark_of((struct rte_mbuf *)(uintptr_t)m);
	uint32_t port = m->port;
	uint32_t n = RTE_MIN((uint32_t)m->data_len, (uint32_t)DPS_STRAY_BYTES);
	const struct io_group *g;

	memset(out, 0, sizeof(*out));
	out->address = (uintptr_t)m;
	out->length = m->pkt_len;
	out->refcnt = rte_mbuf_refcnt_read(m);
	out->port = port;
	out->slot = DPS_NO_SLOT;
	if (m->data_off + n <= m->buf_len) {
		out->n_bytes = n;
		memcpy(out->bytes, rte_pktmbuf_mtod(m, const uint8_t *), n);
	}
	if (last_lane(m, out)) {
		out->by = DPS_STRAY_BY_LANE;
		return;
	}
	// Else by its bucket: whose that is now. Of a group that it went on to, nothing is noted.
	if (port >= p->n_ports || p->port[port].group < 0 || at.hops > 0)
		return;
	g = &p->io[0]->group[p->port[port].group];
	if (at.bucket < DPS_BUCKETS && g->map[at.bucket] != DPS_NO_SLOT)
		out->slot = g->first + g->map[at.bucket];
	else if (at.bucket == NO_BUCKET && g->map[0] != DPS_NO_SLOT)
		out->slot = g->first + g->map[0];       // its lane took every bucket
	if (out->slot != DPS_NO_SLOT)
		out->by = DPS_STRAY_BY_BUCKET;
}

// Look for each object of a pool. Returns how many are nowhere, drivers' ones included, and lists up
// to n of them: first the `fresh` ones, which no driver had at start.
int
dps_audit_search(uint32_t pool, struct dps_stray *out, uint32_t n, uint32_t *fresh)
{
	const struct timespec step = { .tv_nsec = 500000 };
	const struct rte_mbuf *found[DPS_STRAYS];
	struct tally t = { .found = found, .most = RTE_MIN(n, (uint32_t)DPS_STRAYS) };
	uint32_t left = UINT32_MAX;
	uint32_t same = 0;
	int ret;

	if (pool >= the_primary.n_pools)
		return -EINVAL;
	ret = marks_init(pool);
	if (ret != 0)
		return ret;
	t.marks = &all_marks[pool];
	memset(t.marks->seen, 0, t.marks->n);
	*fresh = 0;
	for (uint32_t i = 0; i < ROUNDS && same < STEADY; i++) {
		uint32_t before = left;

		mark_free(pool);
		ret = io_ask_all(OP_MARK, 0);
		if (ret != 0)
			return ret;
		mark_free(pool);
		left = unseen(pool, fresh);
		same = left == before ? same + 1 : 0;
		nanosleep(&step, NULL);
	}
	for (uint32_t old = 0; old < 2; old++) {
		t.old = old;
		rte_mempool_obj_iter(the_primary.pool[pool], tally_one, &t);
	}
	for (uint32_t i = 0; i < t.n; i++)
		describe(found[i], &out[i]);
	return left;
}

// --- for tests ------------------------------------------------------------------------------------

// Forget the next packet that a worker hands back, as a fault in this file's neighbours would. The one
// place where an io core waits, bounded, and only in a primary that was started for it: a worker on
// this very CPU has to run for something to come back.
void
io_leak(struct io *io, uint32_t slot)
{
	struct lane *lane = &io->lane[slot];
	const struct timespec step = { .tv_nsec = 100000 };
	uint64_t deadline = rte_rdtsc() + rte_get_tsc_hz() / 1000 * LEAK_MS;

	while (lane_out(lane) > 0 && !lane_look(lane) && lane->ready == lane->collected &&
	       rte_rdtsc() < deadline)
		nanosleep(&step, NULL);
	io->leaked = lane->ready != lane->collected && !lane->corrupt &&
		     lane->tick[lane->collected & lane->mask] == 0;
	if (io->leaked)
		lane_collected(lane, 1);
}

// -EPERM unless the primary was started with DPSUP_TEST_LEAK=1; -EAGAIN: nothing is handed back now.
int
dps_test_leak(uint32_t slot)
{
	const char *asked = getenv("DPSUP_TEST_LEAK");

	if (asked == NULL || strcmp(asked, "1") != 0)
		return -EPERM;
	if (slot >= the_primary.n_slots)
		return -EINVAL;
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		int ret = io_ask(the_primary.io[i], OP_LEAK, slot);

		if (ret != 0)
			return ret;
		if (the_primary.io[i]->leaked)
			return 0;
	}
	return -EAGAIN;
}
