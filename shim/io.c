// SPDX-License-Identifier: BSD-3-Clause
//
// The io core: burst rx, hash, steering, lanes, collection, burst tx. It waits for nobody: a full,
// dead or slow lane costs only its own buckets. Everything that others want of it comes through one
// mailbox, looked at between bursts.
//
// Order within a flow. A bucket belongs to one lane, lanes are FIFO, and a bucket that moves waits:
// its new packets are held here until the old lane has returned all that it had, or its warden has
// handed that back as REQUEUE, which goes ahead of what is held.

#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_pause.h>

#include "primary.h"

enum {
	HOLD_GATE = 512,        // lossless inputs are not polled while more packets are held
	HASH_MASK = DPS_BUCKETS - 1,
	NAP_LEAST_NS = 5000,
	NAP_MOST_NS = 50000,
	SPIN_US = 20            // of nothing to do before the first nap
};

// --- tx ------------------------------------------------------------------------------------------

static void
tx_flush(struct io *io, uint32_t index)
{
	struct tx_port *tx = &io->tx[index];
	struct port *port = &the_primary.port[index];

	while (tx->head != tx->tail) {
		uint32_t at = tx->tail & (TX_WAIT - 1);
		uint32_t n = RTE_MIN(tx->head - tx->tail, TX_WAIT - at);
		uint64_t bytes = 0;
		uint16_t sent;

		n = RTE_MIN(n, (uint32_t)TX_MOST);
		for (uint32_t i = 0; i < n; i++)
			bytes += tx->wait[at + i]->pkt_len;
		sent = rte_eth_tx_burst(port->id, tx->queue, &tx->wait[at], n);
		tx->tail += sent;
		if (sent < n) {
			for (uint32_t i = sent; i < n; i++)
				bytes -= tx->wait[at + i]->pkt_len;
		}
		dps_count(&io->port[index].tx_packets, sent);
		dps_count(&io->port[index].tx_bytes, bytes);
		if (sent < n)
			break;
	}
}

static void
tx_put(struct io *io, uint32_t index, struct rte_mbuf *m)
{
	struct tx_port *tx = &io->tx[index];

	if (unlikely(tx->queue < 0)) {
		// Another io core owns this port's queue: hand the packet over.
		struct io *owner = the_primary.io[tx->owner];

		if (the_primary.port[index].absent) {
			free_counted(&io->port[index].drops[DPS_DROP_TX_FULL], m);
			return;
		}
		m->port = index;
		if (rte_ring_sp_enqueue(owner->xfer[io->index], m) != 0)
			free_counted(&io->port[index].drops[DPS_DROP_TX_FULL], m);
		return;
	}
	if (unlikely(tx->head - tx->tail == TX_WAIT)) {
		tx_flush(io, index);
		if (tx->head - tx->tail == TX_WAIT) {
			free_counted(&io->port[index].drops[DPS_DROP_TX_FULL], m);
			return;
		}
	}
	tx->wait[tx->head++ & (TX_WAIT - 1)] = m;
}

// Ports of this io core that take nothing more: what is meant for them waits in the rings, and then
// with the senders.
static bool
is_stuck(struct io *io)
{
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (io->tx[i].head - io->tx[i].tail > TX_WAIT - DPS_BURST) {
			tx_flush(io, i);
			if (io->tx[i].head - io->tx[i].tail > TX_WAIT - DPS_BURST)
				return true;
		}
	return false;
}

static uint32_t
xfer_pull(struct io *io)
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		struct rte_mbuf *m[DPS_BURST];
		uint32_t n;

		if (i == io->index || is_stuck(io))
			continue;
		n = rte_ring_sc_dequeue_burst(io->xfer[i], (void **)m, DPS_BURST, NULL);
		for (uint32_t k = 0; k < n; k++)
			tx_put(io, m[k]->port, m[k]);
		total += n;
	}
	return total;
}

// --- lanes ---------------------------------------------------------------------------------------

static inline uint32_t
outstanding(const struct lane *lane)
{
	return lane->sent - lane->collected;
}

static uint16_t
vlan_of(const struct rte_mbuf *m, bool *found)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

	*found = m->data_len >= 16 && ((p[12] == 0x81 && p[13] == 0x00) ||
				       (p[12] == 0x88 && p[13] == 0xa8) ||
				       (p[12] == 0x91 && p[13] == 0x00));
	return *found ? p[14] << 8 | p[15] : 0;
}

static void __rte_noinline
describe_more(struct lane *lane, uint32_t at, struct rte_mbuf *m)
{
	struct dps_meta *meta = &lane->meta[at];
	struct dps_desc *desc = &lane->desc[at];

	if (m->nb_segs > 1) {
		meta->mbuf = (uintptr_t)m - the_primary.ctl->base;
		meta->pkt_len = m->pkt_len;
		desc->flags |= DPS_F_SEGMENTS;
	}
	if (lane->needs & DPS_NEED_VLAN) {
		bool found;

		meta->vlan = vlan_of(m, &found);
		if (found)
			desc->flags |= DPS_F_VLAN;
	}
	if (lane->needs & DPS_NEED_TSC) {
		meta->tsc = rte_rdtsc();
		desc->flags |= DPS_F_TSC;
	}
}

// Lend a packet to a lane; it is published with its burst. False: no room.
static inline bool
lane_lend(struct io *io, struct lane *lane, struct rte_mbuf *m)
{
	uint32_t at = lane->sent & lane->mask;
	struct dps_desc *desc = &lane->desc[at];

	if (unlikely(outstanding(lane) >= lane->credit || lane->corrupt))
		return false;
	desc->where = dps_where(rte_pktmbuf_mtod(m, uintptr_t) - the_primary.ctl->base,
				m->data_off);
	desc->len = m->data_len;
	desc->port = m->port;
	desc->flags = DPS_F_HASH;
	desc->hash = m->hash.rss;
	if (unlikely(m->nb_segs > 1 || lane->needs))
		describe_more(lane, at, m);
	lane->shadow[at] = m;
	lane->sent++;
	if (!io->is_active[lane->slot]) {
		io->is_active[lane->slot] = true;
		io->active[io->n_active++] = lane;
	}
	return true;
}

static inline void
lane_publish(struct lane *lane)
{
	lane->in->prod.head = lane->sent;
	dps_store32((uint32_t *)(uintptr_t)&lane->in->prod.tail, lane->sent);
	dps_count(&lane->stats.sent, lane->sent - lane->published);
	dps_store32(&lane->published, lane->sent);
}

static void
publish_all(struct io *io)
{
	for (uint32_t i = 0; i < io->n_active; i++)
		if (io->active[i]->sent != io->active[i]->published)
			lane_publish(io->active[i]);
}

// --- steering ------------------------------------------------------------------------------------

static void
hold(struct io_group *g, struct rte_mbuf *m)
{
	if (g->held_head - g->held_tail == HOLD_MOST) {
		free_counted(&g->hold_full, m);
		return;
	}
	g->waits[mark_of(m)->bucket] = 1;
	g->moving = true;
	g->held[g->held_head++ & (HOLD_MOST - 1)] = m;
}

// Give a packet to its bucket's lane. False: it has to wait, and may (the group holds).
static inline bool
place(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	uint8_t member = g->map[mark_of(m)->bucket];
	struct lane *lane;

	if (unlikely(member == DPS_NO_SLOT)) {
		if (g->hold)
			return false;
		free_counted(&g->no_worker, m);
		return true;
	}
	lane = &io->lane[g->first + member];
	if (unlikely(!lane_lend(io, lane, m))) {
		if (g->hold)
			return false;
		free_counted(&lane->stats.lane_full, m);
	}
	return true;
}

static inline void
steer(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	if (unlikely(g->waits[mark_of(m)->bucket]) || unlikely(!place(io, g, m)))
		hold(g, m);
}

static bool
is_draining(const struct io *io, const struct io_group *g)
{
	for (uint32_t i = 0; i < g->max; i++)
		if (io->lane[g->first + i].draining)
			return true;
	return false;
}

// What a dead worker left goes ahead of everything that waits for its buckets: all of that came
// later, as a bucket is never in two lanes. Ahead it goes once no lane drains any more and all is
// back that will come.
static void
steer_again(struct io_group *g, struct rte_mbuf *m)
{
	if (g->again_n + g->front_head - g->front_tail > g->front_mask) {
		free_counted(&g->hold_full, m);
		return;
	}
	g->again[g->again_n++] = m;
	g->waits[mark_of(m)->bucket] = 1;
	g->moving = true;
}

static uint32_t
release_held(struct io *io, struct io_group *g)
{
	uint32_t moved = 0;

	if (is_draining(io, g))
		return moved;
	while (g->again_n > 0)
		g->front[--g->front_tail & g->front_mask] = g->again[--g->again_n];
	for (; g->front_tail != g->front_head; g->front_tail++, moved++)
		if (!place(io, g, g->front[g->front_tail & g->front_mask]))
			return moved;
	for (; g->held_tail != g->held_head; g->held_tail++, moved++)
		if (!place(io, g, g->held[g->held_tail & (HOLD_MOST - 1)]))
			return moved;
	memset(g->waits, 0, sizeof(g->waits));
	g->moving = false;
	return moved;
}

// --- rx ------------------------------------------------------------------------------------------

// Segments whose lengths do not add up: what was announced is not what is there.
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
	struct dps_port_stats *stats = &io->port[index];
	struct dps_mark *mark;

	if (unlikely(m->nb_segs > 1 || m->pkt_len != m->data_len || m->pkt_len == 0)) {
		if (m->pkt_len == 0 || !is_whole(m)) {
			free_counted(&stats->drops[DPS_DROP_TRUNCATED], m);
			return;
		}
	}
	if (unlikely(m->pkt_len > port->frame_most)) {
		free_counted(&stats->drops[DPS_DROP_OVERSIZE], m);
		return;
	}
	// A tag that the driver took off unasked goes back: what arrived is what workers see.
	if (unlikely(m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) && rte_vlan_insert(&m) != 0) {
		free_counted(&stats->drops[DPS_DROP_TRUNCATED], m);
		return;
	}
	if (unlikely(g == NULL)) {
		free_counted(&stats->drops[DPS_DROP_NO_GROUP], m);
		return;
	}
	m->port = index;
	if (!port->hw_rss || !(m->ol_flags & RTE_MBUF_F_RX_RSS_HASH))
		m->hash.rss = hash_flow(rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);
	mark = mark_of(m);
	mark->bucket = m->hash.rss & HASH_MASK;
	mark->hops = 0;
	steer(io, g, m);
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

	return g->fed > 0 && g->held_head - g->held_tail < HOLD_GATE && g->again_n == 0 &&
	       g->front_head == g->front_tail && pool_free(io, port->pool) >= need + others;
}

static void __rte_noinline
note_starved(struct io *io, uint32_t pool)
{
	dps_count(&io->starved[pool], 1);
	io->low_water[pool] = RTE_MIN(io->low_water[pool], pool_free(io, pool));
}

static uint32_t
rx_queue_poll(struct io *io, const struct rx_queue *rxq)
{
	struct port *port = &the_primary.port[rxq->port];
	struct io_group *g = port->group >= 0 ? &io->group[port->group] : NULL;
	struct dps_port_stats *stats = &io->port[rxq->port];
	struct rte_mbuf *m[DPS_BURST];
	uint64_t bytes = 0;
	uint64_t left;
	uint32_t n;

	if (port->hold && !may_receive(io, port, g))
		return 0;
	n = rte_eth_rx_burst(port->id, rxq->queue, m, io->burst);
	if (n == 0) {
		// Not every driver counts what it could not allocate.
		if (unlikely(pool_free(io, port->pool) < io->burst))
			note_starved(io, port->pool);
		return 0;
	}
	left = pool_free(io, port->pool);
	if (left < io->low_water[port->pool])
		io->low_water[port->pool] = left;
	for (uint32_t i = 0; i < n; i++)
		rte_prefetch0(rte_pktmbuf_mtod(m[i], void *));
	for (uint32_t i = 0; i < n; i++) {
		bytes += m[i]->pkt_len;
		receive(io, rxq->port, g, m[i]);
	}
	publish_all(io);
	dps_count(&stats->rx_packets, n);
	dps_count(&stats->rx_bytes, bytes);
	return n;
}

// --- collection ----------------------------------------------------------------------------------

// Give the packet the start and length that its worker decided on, if the buffer has them.
static inline bool
reshape(struct rte_mbuf *m, const struct dps_ret *ret)
{
	int32_t start;

	if (likely(ret->shift == 0 && ret->len == m->data_len))
		return true;
	start = (int32_t)m->data_off + ret->shift;
	if (m->nb_segs > 1 || ret->len == 0 || start < 0 || start + ret->len > m->buf_len)
		return false;
	m->data_off = start;
	m->data_len = ret->len;
	m->pkt_len = ret->len;
	return true;
}

static void
steer_on(struct io *io, struct lane *lane, uint32_t group, struct rte_mbuf *m)
{
	struct dps_mark *mark = mark_of(m);

	if (++mark->hops > HOP_LIMIT) {
		free_counted(&io->port[m->port].drops[DPS_DROP_HOP_LIMIT], m);
		return;
	}
	dps_count(&lane->stats.on, 1);
	steer(io, &io->group[group], m);
}

static inline void
take_back(struct io *io, struct lane *lane, uint32_t index, struct rte_mbuf *m, struct dps_ret ret)
{
	uint32_t arg = ret.verdict & DPS_V_ARG;

	switch (ret.verdict & DPS_V_KIND) {
	case DPS_V_OUT:
		if (unlikely(arg >= the_primary.n_ports || !reshape(m, &ret)))
			break;
		dps_count(&lane->stats.out, 1);
		tx_put(io, arg, m);
		return;
	case DPS_V_DROP:
		free_counted(&lane->stats.dropped[arg % DPS_REASONS], m);
		return;
	case DPS_V_GROUP:
		if (arg >= the_primary.n_groups || !reshape(m, &ret))
			break;
		steer_on(io, lane, arg, m);
		return;
	case DPS_V_QUARANTINE:
		free_counted(&lane->stats.quarantined, m);
		return;
	case DPS_V_REQUEUE:
		// Only the primary says this, and of which packets is in memory of its own.
		if (index - lane->requeue_from >= lane->requeue_n)
			break;
		dps_count(&lane->stats.requeued, 1);
		dps_count(&io->stats.requeued, 1);
		steer_again(&io->group[lane->group], m);
		return;
	}
	free_counted(&lane->stats.bad_verdict, m);
}

static bool
has_room(const struct io *io, uint32_t index)
{
	const struct tx_port *tx = &io->tx[index];

	if (the_primary.port[index].absent)
		return true;
	if (tx->queue < 0)
		return !rte_ring_full(the_primary.io[tx->owner]->xfer[io->index]);
	return tx->head - tx->tail < TX_WAIT;
}

// Lossless lanes: may this packet go where its verdict says, without being dropped there? Asked
// packet by packet, so that a port or a group that is full stops only who sends there. What comes
// back as REQUEUE always may: `front` has room for all that the lanes can hold.
static bool
may_take_back(const struct io *io, struct dps_ret ret)
{
	uint32_t arg = ret.verdict & DPS_V_ARG;

	switch (ret.verdict & DPS_V_KIND) {
	case DPS_V_OUT:
		return arg >= the_primary.n_ports || has_room(io, arg);
	case DPS_V_GROUP:
		return arg >= the_primary.n_groups ||
		       io->group[arg].held_head - io->group[arg].held_tail < HOLD_MOST;
	default:
		return true;
	}
}

static uint32_t
collect(struct io *io, struct lane *lane)
{
	uint32_t tail = dps_load32((uint32_t *)(uintptr_t)&lane->out->prod.tail);
	uint32_t n = tail - lane->collected;

	if (n == 0 || unlikely(lane->corrupt))
		return 0;
	if (unlikely(n > outstanding(lane))) {
		// Nobody can return what was not lent: the slot's memory is not to be trusted.
		lane->corrupt = true;
		lane->stats.lanes_corrupt = 1;
		return 0;
	}
	n = RTE_MIN(n, (uint32_t)DPS_BURST);
	for (uint32_t i = 0; i < n; i++)
		rte_prefetch0(lane->shadow[(lane->collected + i) & lane->mask]);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = (lane->collected + i) & lane->mask;
		// Read once: the worker could change it between check and use.
		union {
			uint64_t word;
			struct dps_ret ret;
		} once = { .word = dps_load64((uint64_t *)&lane->ret[at]) };

		if (lane->hold && unlikely(!may_take_back(io, once.ret))) {
			n = i;
			break;
		}
		take_back(io, lane, lane->collected + i, lane->shadow[at], once.ret);
	}
	dps_store32(&lane->collected, lane->collected + n);
	lane->out->cons.head = lane->collected;
	dps_store32((uint32_t *)(uintptr_t)&lane->out->cons.tail, lane->collected);
	dps_count(&lane->stats.collected, n);
	if (unlikely(lane->draining) && (int32_t)(lane->collected - lane->drain_to) >= 0)
		lane->draining = false;
	return n;
}

static uint32_t
collect_all(struct io *io)
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < io->n_active;) {
		struct lane *lane = io->active[i];

		total += collect(io, lane);
		if (outstanding(lane) == 0) {
			io->is_active[lane->slot] = false;
			io->active[i] = io->active[--io->n_active];
		} else {
			i++;
		}
	}
	// REQUEUE and GROUP verdicts lend packets in the middle of a collection.
	publish_all(io);
	return total;
}

// --- the mailbox ---------------------------------------------------------------------------------

static void
op_map(struct io *io, struct io_group *g)
{
	bool fed[DPS_NO_SLOT + 1] = { false };

	for (uint32_t b = 0; b < DPS_BUCKETS; b++) {
		uint8_t old = g->map[b];
		uint8_t new = io->arg_map[b];

		fed[new] = true;
		if (new == old)
			continue;
		g->map[b] = new;
		if (old != DPS_NO_SLOT) {
			struct lane *lane = &io->lane[g->first + old];

			if (outstanding(lane) > 0) {
				lane->draining = true;
				lane->drain_to = lane->sent;
				g->waits[b] = 1;
				g->moving = true;
			}
		}
	}
	g->fed = 0;
	for (uint32_t i = 0; i < g->max; i++)
		g->fed += fed[i];
}

static void
op_lane(struct io *io, uint32_t slot)
{
	io->lane[slot].needs = the_primary.slot[slot]->needs & (DPS_NEED_VLAN | DPS_NEED_TSC);
}

// The slot was corrupt, its worker is dead: what it had in hand is known, and given up by name.
static void
op_reset(struct io *io, uint32_t slot)
{
	struct lane *lane = &io->lane[slot];

	for (uint32_t i = lane->collected; i != lane->sent; i++)
		free_counted(&lane->stats.corrupt, lane->shadow[i & lane->mask]);
	rte_ring_init(lane->in, "dpsup_in", lane->size, RING_F_SP_ENQ | RING_F_SC_DEQ);
	rte_ring_init(lane->out, "dpsup_out", lane->size, RING_F_SP_ENQ | RING_F_SC_DEQ);
	lane->sent = 0;
	lane->published = 0;
	lane->collected = 0;
	lane->draining = false;
	lane->requeue_n = 0;
	lane->corrupt = false;
	lane->stats.lanes_corrupt = 0;
}

static void
audit_add(uint64_t *by_pool, const struct rte_mbuf *m)
{
	for (; m != NULL; m = m->next)
		for (uint32_t p = 0; p < the_primary.n_pools; p++)
			if (m->pool == the_primary.pool[p])
				by_pool[p]++;
}

static void
op_audit(struct io *io)
{
	struct io_audit *a = &io->audit;

	memset(a, 0, sizeof(*a));
	for (uint32_t s = 0; s < the_primary.n_slots; s++) {
		struct lane *lane = &io->lane[s];

		for (uint32_t i = lane->collected; i != lane->sent; i++)
			audit_add(a->lanes, lane->shadow[i & lane->mask]);
	}
	for (uint32_t k = 0; k < the_primary.n_groups; k++) {
		struct io_group *g = &io->group[k];

		for (uint32_t i = 0; i < g->again_n; i++)
			audit_add(a->io, g->again[i]);
		for (uint32_t i = g->front_tail; i != g->front_head; i++)
			audit_add(a->io, g->front[i & g->front_mask]);
		for (uint32_t i = g->held_tail; i != g->held_head; i++)
			audit_add(a->io, g->held[i & (HOLD_MOST - 1)]);
	}
	for (uint32_t k = 0; k < the_primary.n_ports; k++)
		for (uint32_t i = io->tx[k].tail; i != io->tx[k].head; i++)
			audit_add(a->io, io->tx[k].wait[i & (TX_WAIT - 1)]);
	for (uint32_t k = 0; k < the_primary.n_io; k++) {
		struct rte_mbuf **slots;
		struct rte_ring *r = io->xfer[k];

		if (k == io->index)
			continue;
		slots = (struct rte_mbuf **)&r[1];
		for (uint32_t i = r->cons.tail; i != r->prod.tail; i++)
			audit_add(a->io, slots[i & r->mask]);
	}
	for (uint32_t p = 0; p < the_primary.n_pools; p++) {
		struct rte_mempool *mp = the_primary.pool[p];
		struct rte_mempool_cache *cache = rte_mempool_default_cache(mp, io->lcore);

		a->cached[p] = cache != NULL ? cache->len : 0;
		a->free[p] = pool_shared(mp);
	}
}

static void
op_stop(struct io *io)
{
	for (uint32_t k = 0; k < the_primary.n_ports; k++) {
		struct tx_port *tx = &io->tx[k];

		if (tx->queue >= 0)
			tx_flush(io, k);
		for (; tx->tail != tx->head; tx->tail++)
			free_counted(&io->port[k].drops[DPS_DROP_STOPPED],
				     tx->wait[tx->tail & (TX_WAIT - 1)]);
	}
	for (uint32_t s = 0; s < the_primary.n_slots; s++) {
		struct lane *lane = &io->lane[s];

		for (; lane->collected != lane->sent; lane->collected++) {
			struct rte_mbuf *m = lane->shadow[lane->collected & lane->mask];

			free_counted(&io->port[m->port].drops[DPS_DROP_STOPPED], m);
		}
	}
	for (uint32_t k = 0; k < the_primary.n_groups; k++) {
		struct io_group *g = &io->group[k];

		while (g->again_n > 0) {
			struct rte_mbuf *m = g->again[--g->again_n];

			free_counted(&io->port[m->port].drops[DPS_DROP_STOPPED], m);
		}
		for (; g->front_tail != g->front_head; g->front_tail++) {
			struct rte_mbuf *m = g->front[g->front_tail & g->front_mask];

			free_counted(&io->port[m->port].drops[DPS_DROP_STOPPED], m);
		}
		for (; g->held_tail != g->held_head; g->held_tail++) {
			struct rte_mbuf *m = g->held[g->held_tail & (HOLD_MOST - 1)];

			free_counted(&io->port[m->port].drops[DPS_DROP_STOPPED], m);
		}
	}
	io->stop = true;
}

void
io_answer(struct io *io, uint32_t asked)
{
	switch (io->op) {
	case OP_NONE:
		break;
	case OP_RX:
		io->rx_on = io->arg;
		break;
	case OP_MAP:
		op_map(io, &io->group[io->arg]);
		break;
	case OP_LANE:
		op_lane(io, io->arg);
		break;
	case OP_RESET:
		op_reset(io, io->arg);
		break;
	case OP_AUDIT:
		op_audit(io);
		break;
	case OP_STOP:
		op_stop(io);
		break;
	}
	dps_store32(&io->answered, asked);
}

// --- the loop ------------------------------------------------------------------------------------

static void
nap(struct io *io, uint64_t idle_us, uint64_t *nap_ns)
{
	struct timespec t = { 0 };

	if (!io->adaptive || idle_us < SPIN_US) {
		rte_pause();
		return;
	}
	*nap_ns = RTE_MIN(*nap_ns * 2, (uint64_t)NAP_MOST_NS);
	t.tv_nsec = *nap_ns;
	nanosleep(&t, NULL);
	dps_count(&io->stats.sleeps, 1);
}

int
io_loop(void *arg)
{
	struct io *io = arg;
	uint64_t cycles_us = rte_get_tsc_hz() / 1000000;
	uint64_t idle_since = rte_rdtsc();
	uint64_t nap_ns = NAP_LEAST_NS;

	// Naps of microseconds, not of the default 50 µs more.
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	while (!io->stop) {
		uint64_t start = rte_rdtsc();
		uint32_t work = 0;
		uint32_t asked;

		if (io->rx_on)
			for (uint32_t i = 0; i < io->n_rxq; i++)
				work += rx_queue_poll(io, &io->rxq[i]);
		if (io->n_active > 0)
			work += collect_all(io);
		if (the_primary.n_io > 1)
			work += xfer_pull(io);
		for (uint32_t i = 0; i < the_primary.n_groups; i++)
			if (unlikely(io->group[i].moving)) {
				work += release_held(io, &io->group[i]);
				publish_all(io);
			}
		for (uint32_t i = 0; i < the_primary.n_ports; i++)
			if (io->tx[i].head != io->tx[i].tail)
				tx_flush(io, i);

		dps_count(&io->stats.loops, 1);
		asked = dps_load32(&io->asked);
		if (unlikely(asked != io->answered))
			io_answer(io, asked);
		if (work > 0) {
			uint64_t now = rte_rdtsc();

			dps_count(&io->stats.busy_loops, 1);
			dps_count(&io->stats.busy_cycles, now - start);
			idle_since = now;
			nap_ns = NAP_LEAST_NS;
		} else {
			nap(io, (start - idle_since) / cycles_us, &nap_ns);
		}
	}
	return 0;
}
