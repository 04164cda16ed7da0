/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_STEER_PVT_H
#define DPSUP_IO_STEER_PVT_H

// From a packet to its lane: its hash, its bucket, the lane that has the bucket. Part of loop.c, which
// alone includes it.

#include "tx_pvt.h"

enum { HASH_MASK = DPS_BUCKETS - 1 };

static uint16_t
vlan_of(const struct rte_mbuf *m, bool *found)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

	*found = m->data_len >= 16 && ((p[12] == 0x81 && p[13] == 0x00) ||
				       (p[12] == 0x88 && p[13] == 0xa8) ||
				       (p[12] == 0x91 && p[13] == 0x00));
	return *found ? p[14] << 8 | p[15] : 0;
}

// Write dps_meta: what does not fit into the word, and what the plugin asked for.
static uint64_t __rte_noinline
describe_more(struct lane *lane, uint32_t at, const struct rte_mbuf *m)
{
	struct dps_meta *meta = &lane->meta[at];

	meta->len = m->data_len;
	meta->flags = 0;
	if (m->nb_segs > 1) {
		meta->mbuf = (uintptr_t)m - lane->base;
		meta->pkt_len = m->pkt_len;
		meta->flags |= DPS_F_SEGMENTS;
	}
	if (lane->needs & DPS_NEED_HASH) {
		meta->hash = m->hash.rss;
		meta->flags |= DPS_F_HASH;
	}
	if (lane->needs & DPS_NEED_VLAN) {
		bool found;

		meta->vlan = vlan_of(m, &found);
		if (found)
			meta->flags |= DPS_F_VLAN;
	}
	if (lane->needs & DPS_NEED_TSC) {
		meta->tsc = rte_rdtsc();
		meta->flags |= DPS_F_TSC;
	}
	return DPS_BIT(DPS_W_META);
}

static inline void
make_active(struct io *io, struct lane *lane)
{
	if (!lane->is_active) {
		lane->is_active = true;
		io->active[io->n_active++] = lane;
	}
}

// Lend a packet to a lane; it is published with its burst. False: no room.
static inline bool
lane_lend(struct io *io, struct lane *lane, struct rte_mbuf *m)
{
	uint32_t at = lane->sent & lane->mask;
	uint64_t word;

	if (unlikely(lane_room(lane) == 0))
		return false;
	if (unlikely(m->nb_segs > 1 || m->data_len > DPS_LEN_MOST || lane->needs))
		word = lane_word(lane, m, 0, m->port) | describe_more(lane, at, m);
	else
		word = lane_word(lane, m, m->data_len, m->port);
	lane_put(lane, at, word);
	lane->shadow[at] = m;
	dps_store32(&lane->sent, lane->sent + 1);
	make_active(io, lane);
	return true;
}

// Packets are about to be published: as yet their worker has not seen them.
static void __rte_noinline
watch_lent(struct io *io, const struct lane *lane)
{
	if (io->capture != NULL)
		capture_lent(io, lane);
	if (io->stopwatch != NULL)
		stopwatch_lent(io, lane);
}

static void
publish_all(struct io *io)
{
	for (uint32_t i = 0; i < io->n_active; i++)
		if (io->active[i]->sent != io->active[i]->published) {
			if (unlikely(io->watched))
				watch_lent(io, io->active[i]);
			lane_publish(io->active[i]);
		}
}

// The hash of the flow of a packet of that port: the NIC's if it gives the one that was asked for.
static inline uint32_t
flow_hash(const struct rte_mbuf *m, uint32_t port)
{
	if (is_hashed(m, the_primary.port[port].hw_rss))
		return m->hash.rss;
	return hash_flow(rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);
}

// The bucket of a packet, hashed now if its lane needed none. Its mark lies where a worker may have
// written, so it is made an index here, once, and handed on.
static inline uint32_t
bucket_of(struct rte_mbuf *m)
{
	struct dps_mark *mark = mark_of(m);

	if (unlikely(mark->bucket == NO_BUCKET)) {
		m->hash.rss = flow_hash(m, port_of(m));
		mark->bucket = m->hash.rss & HASH_MASK;
	}
	return mark->bucket & HASH_MASK;
}

static inline void steer(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket);

// The packet's group has no worker. False: the packet has to wait.
static bool __rte_noinline
place_nowhere(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	uint16_t next = g->next[port_of(m)];

	if (g->when_empty == DPS_EMPTY_HOLD)
		return false;
	if (g->when_empty == DPS_EMPTY_DROP || next == DPS_NOWHERE) {
		drop_in_group(io, g, DPS_DROP_NO_WORKER, m);
		return true;
	}
	if ((next & DPS_V_KIND) == DPS_V_OUT) {
		if (g->hold && !has_room(io, next & DPS_V_ARG))
			return false;
		dps_count(&g->bypassed, 1);
		tx_put(io, next & DPS_V_ARG, m);
		return true;
	}
	if (++mark_of(m)->hops > HOP_LIMIT) {
		drop_at_port(io, port_of(m), DPS_DROP_HOP_LIMIT, m);
		return true;
	}
	dps_count(&g->bypassed, 1);
	steer(io, &io->group[next & DPS_V_ARG], m, bucket);
	return true;
}

// Give a packet to its bucket's lane. False: it has to wait, and may.
static inline bool
place(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	uint8_t member = g->map[bucket];
	struct lane *lane;

	if (unlikely(member == DPS_NO_SLOT))
		return place_nowhere(io, g, m, bucket);
	lane = &io->lane[g->first + member];
	if (unlikely(!lane_lend(io, lane, m))) {
		if (g->hold)
			return false;
		drop_lane_full(io, lane, m);
	}
	return true;
}

static inline void
steer(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket)
{
	g->load[bucket]++;
	if (unlikely(g->waits[bucket]) || unlikely(!place(io, g, m, bucket)))
		waiting_add(io, g, m, bucket);
}

static uint32_t
release_waiting(struct io *io, struct io_group *g)
{
	struct waiting_queue *q = &g->ready;
	uint32_t moved = 0;

	waiting_settle(io, g);
	if (g->stirred)
		waiting_stir(g);
	for (; q->tail != q->head; q->tail++, moved++) {
		const struct waiting *w = &q->entry[q->tail & q->mask];

		if (!place(io, g, w->m, w->bucket))
			return moved;
		waiting_done(g, w);
	}
	waiting_rest(g);
	return moved;
}

#endif
