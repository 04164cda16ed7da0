/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_RX_PVT_H
#define DPSUP_IO_RX_PVT_H

// A turn's first part: bursts from the ports to the lanes. Part of loop.c, which alone includes it.

#include <string.h>

#include "steer_pvt.h"

enum {
	WINDOW = 384,           // packets out that keep a worker busy: more only go cold in the cache
	WINDOW_US = 2           // as long as it returned some within this time
};

// Do the lengths of the segments add up to the announced length?
static bool
is_whole(const struct rte_mbuf *m)
{
	const struct rte_mbuf *seg;
	uint32_t len = 0;
	uint32_t n = 0;

	for (seg = m; seg != NULL; seg = seg->next, n++)
		len += seg->data_len;
	return len == m->pkt_len && n == m->nb_segs;
}

static inline void
receive(struct io *io, uint32_t index, struct io_group *g, struct rte_mbuf *m)
{
	struct port *port = &the_primary.port[index];
	uint32_t hash;

	if (unlikely(m->nb_segs > 1 || m->pkt_len != m->data_len || m->pkt_len == 0)) {
		if (m->pkt_len == 0 || !is_whole(m)) {
			drop_at_port(io, index, DPS_DROP_TRUNCATED, m);
			return;
		}
	}
	if (unlikely(m->pkt_len > port->frame_most)) {
		drop_at_port(io, index, DPS_DROP_OVERSIZE, m);
		return;
	}
	// Put back a tag that the driver took off unasked: workers see packets as they arrived.
	if (unlikely(m->ol_flags & port->odd_flags)) {
		if (m->ol_flags & port->odd_flags & RTE_MBUF_F_RX_RSS_HASH)
			hash_compare(&io->checked[index], m);
		if (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED && rte_vlan_insert(&m) != 0) {
			drop_at_port(io, index, DPS_DROP_TRUNCATED, m);
			return;
		}
	}
	if (unlikely(g == NULL)) {
		drop_at_port(io, index, DPS_DROP_NO_GROUP, m);
		return;
	}
	m->port = index;
	m->hash.rss = hash = flow_hash(m, index);
	*mark_of(m) = (struct dps_mark){ .bucket = hash & HASH_MASK };
	steer(io, g, m, hash & HASH_MASK);
}

static uint64_t
pool_free(const struct io *io, uint32_t pool)
{
	struct rte_mempool *mp = the_primary.pool[pool];
	struct rte_mempool_cache *cache = rte_mempool_default_cache(mp, io->lcore);

	return pool_shared(mp) + (cache != NULL ? cache->len : 0);
}

// A lossless input is polled only if whatever it may give has a place: a driver that finds no mbuf
// for a packet that it has read already drops it. Other io cores may take a burst, and a refill of
// their cache, between this look and the poll.
static bool
may_receive(const struct io *io, const struct port *port, const struct io_group *g)
{
	const struct rte_mempool *mp = the_primary.pool[port->pool];
	uint32_t room = rte_pktmbuf_data_room_size((struct rte_mempool *)(uintptr_t)mp) -
			RTE_PKTMBUF_HEADROOM;
	uint64_t need = (uint64_t)io->burst * (port->frame_most / room + 1);
	uint64_t others = (the_primary.n_io - 1) * (need + mp->cache_size);

	if (g->fed == 0 && g->when_empty == DPS_EMPTY_HOLD)
		return false;
	for (uint32_t i = 0; i < the_primary.n_groups; i++) {
		const struct io_group *on = &io->group[i];

		if (g->reach & 1u << i && (on->gated || on->n_back > 0))
			return false;
	}
	return pool_free(io, port->pool) >= need + others;
}

static void __rte_noinline
note_starved(struct io *io, uint32_t pool)
{
	dps_count(&io->starved[pool], 1);
	io->low_water[pool] = RTE_MIN(io->low_water[pool], pool_free(io, pool));
}

static void
note_received(struct io *io, const struct rx_queue *rxq, uint32_t n, uint64_t bytes)
{
	struct dps_port_stats *stats = &io->port[rxq->port];
	uint32_t pool = the_primary.port[rxq->port].pool;
	uint64_t left = pool_free(io, pool);

	if (left < io->low_water[pool])
		io->low_water[pool] = left;
	if (unlikely(io->timed))
		dps_count(&io->stats.stage_packets, n);
	dps_count(&stats->rx_packets, n);
	dps_count(&stats->rx_bytes, bytes);
}

// One segment, whole, not empty, not too long, its tags in place, the NIC's hash of it trusted or none:
// 0, the packet needs no second look.
static inline uint64_t
oddity(const struct rte_mbuf *m, uint32_t len, uint32_t most, uint64_t odd_flags)
{
	return (m->nb_segs ^ 1u) | (len ^ m->data_len) | (len - 1 >= most) |
	       (m->ol_flags & odd_flags);
}

// Out of the way of those that need no second look.
static void __rte_noinline
steer_one(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	steer(io, g, m, bucket_of(m));
}

// A burst without an odd packet, for a group without a bucket on the move: bucket, lane, word.
static void
steer_plain(struct io *io, const struct rx_queue *rxq, struct io_group *g, struct rte_mbuf **m,
	    uint32_t n)
{
	struct lane *lanes = &io->lane[g->first];
	uint16_t port_index = rxq->port;
	uint32_t i;

	hash_burst(m, n, the_primary.port[port_index].hw_rss);
	for (i = 0; i < n; i++) {
		struct rte_mbuf *p = m[i];
		uint32_t bucket = p->hash.rss & HASH_MASK;
		struct lane *lane = &lanes[g->map[bucket]];
		uint32_t sent = lane->sent;

		p->port = port_index;
		*mark_of(p) = (struct dps_mark){ .bucket = bucket };
		if (unlikely(sent == lane->limit)) {
			steer_one(io, g, p);
			if (!g->moving)
				continue;
			// Once one packet waits, later ones of its bucket must not overtake it.
			i++;
			break;
		}
		g->load[bucket]++;
		lane->shadow[sent & lane->mask] = p;
		lane_put(lane, sent, lane_word(lane, p, p->data_len, port_index));
		dps_store32(&lane->sent, sent + 1);
		make_active(io, lane);
	}
	for (; i < n; i++) {
		m[i]->port = port_index;
		*mark_of(m[i]) = (struct dps_mark){ .bucket = m[i]->hash.rss & HASH_MASK };
		steer_one(io, g, m[i]);
	}
}

static void
receive_all(struct io *io, const struct rx_queue *rxq, struct io_group *g, struct rte_mbuf **m,
	    uint32_t n)
{
	const struct port *port = &the_primary.port[rxq->port];
	uint32_t most = RTE_MIN(port->frame_most, (uint32_t)DPS_LEN_MOST);
	uint64_t odd_flags = port->odd_flags;
	uint64_t bytes = 0;
	uint64_t odd = 0;

	for (uint32_t i = 0; i < n; i++) {
		rte_prefetch0(rte_pktmbuf_mtod(m[i], void *));
		bytes += m[i]->pkt_len;
		odd |= oddity(m[i], m[i]->pkt_len, most, odd_flags);
	}
	if (likely(odd == 0 && g != NULL && g->plain && !g->moving))
		steer_plain(io, rxq, g, m, n);
	else
		for (uint32_t i = 0; i < n; i++)
			receive(io, rxq->port, g, m[i]);
	note_received(io, rxq, n, bytes);
}

// All packets go to one lane, as they come: received where the lane keeps its record of them, not
// hashed, not sorted, one word each.
static uint32_t
receive_lone(struct io *io, const struct rx_queue *rxq, struct lane *lane)
{
	const struct port *port = &the_primary.port[rxq->port];
	uint32_t most = RTE_MIN(port->frame_most, (uint32_t)DPS_LEN_MOST);
	uint32_t at = lane->sent & lane->mask;
	struct rte_mbuf **m = &lane->shadow[at];
	uint16_t port_index = rxq->port;
	uint64_t *line = NULL;
	uint64_t bytes = 0;
	// Bursts whose hashes are to be compared are looked at packet by packet.
	uint64_t odd = port->odd_flags ^ RTE_MBUF_F_RX_VLAN_STRIPPED;
	uint32_t n;

	n = rte_eth_rx_burst(port->id, rxq->queue, m, io->burst);
	if (unlikely(io->capture != NULL))
		capture_rx(io, port_index, m, n);
	stage(io, DPS_STAGE_STEER);
	for (uint32_t i = 0; i < n; i++) {
		struct rte_mbuf *p = m[i];
		uint32_t len = p->pkt_len;

		if (i == 0 || (at + i) % DPS_LINE_WORDS == 0)
			line = lane_line(lane, at + i);
		odd |= oddity(p, len, most, RTE_MBUF_F_RX_VLAN_STRIPPED);
		bytes += len;
		p->port = port_index;
		*mark_of(p) = (struct dps_mark){ .bucket = NO_BUCKET };
		__atomic_store_n(&line[(at + i) % DPS_LINE_WORDS],
				 lane_word(lane, p, len, port_index), __ATOMIC_RELAXED);
	}
	if (unlikely(odd != 0 && n > 0)) {
		struct rte_mbuf *one_by_one[DPS_IO_BURST];

		memcpy(one_by_one, m, n * sizeof(*m));
		receive_all(io, rxq, &io->group[lane->group], one_by_one, n);
		return n;
	}
	if (n == 0)
		return 0;
	if (unlikely(at + n > lane->size))
		memcpy(lane->shadow, &lane->shadow[lane->size],
		       (at + n - lane->size) * sizeof(*m));
	dps_store32(&lane->sent, lane->sent + n);
	make_active(io, lane);
	io->unpublished = lane->sent - lane->published;
	note_received(io, rxq, n, bytes);
	return n;
}

static uint32_t
rx_queue_poll(struct io *io, const struct rx_queue *rxq)
{
	const struct port *port = &the_primary.port[rxq->port];
	struct io_group *g = port->group >= 0 ? &io->group[port->group] : NULL;
	struct lane *lone = g != NULL && !g->moving ? g->lone : NULL;
	struct rte_mbuf *m[DPS_IO_BURST];
	uint32_t n;

	if (lone != NULL && lane_out(lone) > WINDOW && io->now - lone->back_at < io->window)
		return 0;
	// A burst must fit, and may take all that a small ring has.
	if (lone != NULL && lane_room(lone) < io->burst) {
		// Which has room for a burst at times, unless blanks bound it.
		if (port->hold && lone->emits == 0 && lone->credit >= io->burst)
			return 0;
		lone = NULL;
	}
	if (port->hold && !may_receive(io, port, g))
		return 0;
	stage(io, DPS_STAGE_RX);
	if (lone != NULL) {
		n = receive_lone(io, rxq, lone);
	} else {
		n = rte_eth_rx_burst(port->id, rxq->queue, m, io->burst);
		if (unlikely(io->capture != NULL))
			capture_rx(io, rxq->port, m, n);
		stage(io, DPS_STAGE_STEER);
		if (n > 0)
			receive_all(io, rxq, g, m, n);
	}
	stage(io, DPS_STAGE_REST);
	// Some drivers do not count failed allocations.
	if (unlikely(n == 0 && pool_free(io, port->pool) < io->burst))
		note_starved(io, port->pool);
	return n;
}

#endif
