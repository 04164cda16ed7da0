/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_BLANKS_PVT_H
#define DPSUP_IO_BLANKS_PVT_H

// Blanks: empty packets that an io core lends to a lane whose plugin originates packets, and what comes
// back of them. Part of loop.c, through collect_pvt.h, which alone includes it.
//
// A packet's word says how many blanks the packet filled: the next ones in order. Their words lie beside
// the ring and mean nothing before that. So a filled blank leaves with its packet's one store, just before
// the packet, or is blank again. A copy (DPS_V_ALSO) is made here, when the word has come back.

#include <rte_memcpy.h>

#include "steer_pvt.h"

enum { BLANKS_AT_ONCE = 32 };   // fewer are not worth an allocation, unless the lane has hardly any

// Are so many packets for this port sure of a place?
static bool
has_room_for(const struct io *io, uint32_t index, uint32_t n)
{
	const struct tx_port *tx = &io->tx[index];

	if (tx->queue == TX_SHUT)
		return true;
	if (tx->queue < 0)
		return rte_ring_free_count(the_primary.io[tx->owner]->xfer[io->index]) >= n;
	return TX_WAIT - (tx->head - tx->tail) >= n;
}

// Lend as many as the lane may have. The pool may have none: then with a later turn.
static void __rte_noinline
blanks_lend(struct io *io, struct lane *lane)
{
	uint32_t room = DPS_BLANKS - (lane->blanks_sent - lane->blanks_taken);
	struct rte_mbuf *m[BLANKS_AT_ONCE];

	if (lane->corrupt)
		return;
	while (room >= BLANKS_AT_ONCE) {
		// A small pool is not for blanks alone, but no lane goes without.
		if (room <= DPS_BLANKS - BLANKS_AT_ONCE &&
		    pool_shared(lane->blank_pool) < lane->blank_pool->size / 4)
			break;
		if (rte_pktmbuf_alloc_bulk(lane->blank_pool, m, BLANKS_AT_ONCE) != 0)
			break;
		for (uint32_t i = 0; i < BLANKS_AT_ONCE; i++) {
			uint32_t at = (lane->blanks_sent + i) % DPS_BLANKS;

			lane->blank[at] = m[i];
			lane_describe_blank(lane, at);
		}
		dps_store32(&lane->blanks_sent, lane->blanks_sent + BLANKS_AT_ONCE);
		room -= BLANKS_AT_ONCE;
	}
	dps_store32(&lane->shared->blanks, lane->blanks_sent);
	lane_set_limit(lane);
	io->thirsty |= room >= BLANKS_AT_ONCE;
}

// Lanes that found the pool empty.
static void __rte_noinline
blanks_lend_all(struct io *io)
{
	io->thirsty = false;
	for (uint32_t s = 0; s < the_primary.n_slots; s++)
		if (io->lane[s].emits > 0)
			blanks_lend(io, &io->lane[s]);
}

// One verdict among several that take effect together: is there room for it, whatever the others are?
static bool
may_join(const struct io *io, uint64_t word, uint32_t n)
{
	uint32_t kind = word & DPS_V_KIND;
	uint32_t arg = word & DPS_V_ARG;
	uint32_t copy = arg >> 4;

	if (dps_word_copies(word)) {
		kind -= DPS_V_ALSO;
		arg %= 16;
		if (copy < the_primary.n_ports && !has_room_for(io, copy, n))
			return false;
	}
	if (kind == DPS_V_OUT)
		return arg >= the_primary.n_ports || has_room_for(io, arg, n);
	if (dps_word_is_hash(word)) {
		kind = DPS_V_GROUP;
		arg = dps_word_hash_group(word);
	}
	if (kind == DPS_V_GROUP)
		return arg >= the_primary.n_groups ||
		       io->group[arg].n_waiting + n <= io->group[arg].waiting_most;
	return true;
}

// In the pool, or in this io core's cache.
static bool
has_mbufs(const struct io *io, struct rte_mempool *mp, uint32_t n)
{
	const struct rte_mempool_cache *cache = rte_mempool_default_cache(mp, io->lcore);

	return pool_shared(mp) + (cache != NULL ? cache->len : 0) >= n;
}

// Lossless lanes: may a packet that filled blanks, or goes out twice, be taken back now? All of it, or
// nothing.
static bool __rte_noinline
may_take_extra(const struct io *io, const struct lane *lane, const struct rte_mbuf *m, uint64_t word)
{
	uint32_t n = DPS_FIELD(word, DPS_W_EMITS, 4);
	uint32_t most = 2 * (n + 1);
	bool may = may_join(io, word, most);
	bool copies = dps_word_copies(word);

	for (uint32_t i = 0; i < n && may; i++) {
		uint64_t blank = lane_blank_word(lane, lane->blanks_taken + i);

		may = may_join(io, blank, most);
		copies |= dps_word_copies(blank);
	}
	return may && (!copies || has_mbufs(io, m->pool, most * m->nb_segs));
}

// With the same start, so that it fits where the packet did.
static struct rte_mbuf *
copy_of(const struct rte_mbuf *m)
{
	struct rte_mbuf *copy;

	if (m->nb_segs > 1)
		return rte_pktmbuf_copy(m, m->pool, 0, UINT32_MAX);
	copy = rte_pktmbuf_alloc(m->pool);
	if (copy == NULL)
		return NULL;
	copy->data_off = m->data_off;
	copy->data_len = m->data_len;
	copy->pkt_len = m->data_len;
	rte_memcpy(rte_pktmbuf_mtod(copy, void *), rte_pktmbuf_mtod(m, const void *), m->data_len);
	return copy;
}

// A second packet, for another port. Its bytes are its own: two packets on one buffer are more than some
// drivers (net_af_xdp), fast freeing, and the account of every mbuf can bear.
static void
take_copy(struct io *io, struct lane *lane, struct rte_mbuf *m, uint32_t port)
{
	struct rte_mbuf *copy = copy_of(m);

	if (unlikely(copy == NULL)) {
		dps_count(&lane->stats.no_copy, 1);
		return;
	}
	copy->port = port_of(m);
	*mark_of(copy) = (struct dps_mark){ .bucket = NO_BUCKET };
	dps_count(&lane->stats.copied, 1);
	tx_put(io, port, copy);
}

#endif
