// SPDX-License-Identifier: BSD-3-Clause
//
// The io core: burst rx, hash, steering, lanes, collection, burst tx. It waits for nobody: a full,
// dead or slow lane costs only its own buckets. Everything that others want of it comes through one
// mailbox, looked at between bursts.
//
// Order within a flow. A bucket belongs to one lane, lanes are FIFO, and a bucket that moves waits
// until the old lane has returned all that it had: waiting.c.

#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_pause.h>

#include "primary.h"

enum {
	HASH_MASK = DPS_BUCKETS - 1,
	BATCH = 128,            // packets that a lone lane is told of at once, if so many come
	WINDOW = 384,           // packets out that keep a worker busy: more only go cold in the cache
	WINDOW_US = 2,          // as long as it returned some within this time
	SPIN_US = 2,            // of nothing to do, before others on this CPU are let in
	YIELD_US = 20,          // before the first nap
	OWED_US = 500,          // the same while workers have packets
	NAP_SHORT_NS = 20000,
	SHORT_US = 10000,       // of naps like that
	NAP_LONG_NS = 100000,
	LONG_US = 250000,       // of naps like that
	NAP_DEEP_NS = 1500000,
	NAP_WATCHED_NS = 4000000        // what an order may wait
};

// In a timed turn, the clock runs for one stage at a time.
static inline void
stage(struct io *io, enum dps_stage next)
{
	uint64_t now;

	if (likely(!io->timed))
		return;
	now = rte_rdtsc();
	dps_count(&io->stats.stage[io->stage], now - io->stage_since);
	io->stage = next;
	io->stage_since = now;
}

// --- tx ------------------------------------------------------------------------------------------

static uint32_t
tx_send(struct io *io, uint32_t index, struct rte_mbuf **m, uint32_t n)
{
	struct dps_port_stats *stats = &io->port[index];
	enum dps_stage from = io->stage;
	bool captured = unlikely(io->capture != NULL) && capture_tx(io, index, m, n);
	uint64_t bytes = 0;
	uint32_t sent;

	for (uint32_t i = 0; i < n; i++)
		bytes += m[i]->pkt_len;
	stage(io, DPS_STAGE_TX);
	sent = rte_eth_tx_burst(the_primary.port[index].id, io->tx[index].queue, m, n);
	if (unlikely(captured))
		capture_settle(io, sent);
	stage(io, from);
	for (uint32_t i = sent; i < n; i++)
		bytes -= m[i]->pkt_len;
	dps_count(&stats->tx_packets, sent);
	dps_count(&stats->tx_bytes, bytes);
	return sent;
}

void
tx_flush(struct io *io, uint32_t index)
{
	struct tx_port *tx = &io->tx[index];

	while (tx->head != tx->tail) {
		uint32_t at = tx->tail & (TX_WAIT - 1);
		uint32_t n = RTE_MIN(tx->head - tx->tail, TX_WAIT - at);
		uint32_t sent;

		n = RTE_MIN(n, (uint32_t)TX_MOST);
		sent = tx_send(io, index, &tx->wait[at], n);
		tx->tail += sent;
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

// Many packets for one port: to the driver from where they lie. What it refuses waits.
static void
tx_put_bulk(struct io *io, uint32_t index, struct rte_mbuf **m, uint32_t n)
{
	struct tx_port *tx = &io->tx[index];
	uint32_t i = 0;

	if (tx->head == tx->tail)
		i = tx_send(io, index, m, n);
	for (; i < n; i++)
		tx_put(io, index, m[i]);
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

static uint16_t
vlan_of(const struct rte_mbuf *m, bool *found)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

	*found = m->data_len >= 16 && ((p[12] == 0x81 && p[13] == 0x00) ||
				       (p[12] == 0x88 && p[13] == 0xa8) ||
				       (p[12] == 0x91 && p[13] == 0x00));
	return *found ? p[14] << 8 | p[15] : 0;
}

// What does not fit into the word, or was asked for.
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

// --- steering ------------------------------------------------------------------------------------

// The hash of a packet's flow: the NIC's if it gives the one that was asked for. m->port is dpsup's.
static inline uint32_t
flow_hash(const struct rte_mbuf *m)
{
	if (is_hashed(m, the_primary.port[m->port].hw_rss))
		return m->hash.rss;
	return hash_flow(rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);
}

// The bucket of a packet, hashed now if its lane needed none.
static inline uint32_t
bucket_of(struct rte_mbuf *m)
{
	struct dps_mark *mark = mark_of(m);

	if (unlikely(mark->bucket == NO_BUCKET)) {
		m->hash.rss = flow_hash(m);
		mark->bucket = m->hash.rss & HASH_MASK;
	}
	return mark->bucket;
}

static bool has_room(const struct io *io, uint32_t port);
static inline void steer(struct io *io, struct io_group *g, struct rte_mbuf *m);

// A group in which nobody works. False: the packet has to wait.
static bool __rte_noinline
place_nowhere(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	uint16_t next = g->next[m->port];

	if (g->when_empty == DPS_EMPTY_HOLD)
		return false;
	if (g->when_empty == DPS_EMPTY_DROP || next == DPS_NOWHERE) {
		free_counted(&g->no_worker, m);
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
		free_counted(&io->port[m->port].drops[DPS_DROP_HOP_LIMIT], m);
		return true;
	}
	dps_count(&g->bypassed, 1);
	steer(io, &io->group[next & DPS_V_ARG], m);
	return true;
}

// Give a packet to its bucket's lane. False: it has to wait, and may.
static inline bool
place(struct io *io, struct io_group *g, struct rte_mbuf *m)
{
	uint8_t member = g->map[bucket_of(m)];
	struct lane *lane;

	if (unlikely(member == DPS_NO_SLOT))
		return place_nowhere(io, g, m);
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
	g->load[bucket_of(m)]++;
	if (unlikely(g->waits[bucket_of(m)]) || unlikely(!place(io, g, m)))
		waiting_add(g, m, bucket_of(m));
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

		if (!place(io, g, w->m))
			return moved;
		waiting_done(g, w);
	}
	waiting_rest(g);
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
	m->hash.rss = flow_hash(m);
	*mark_of(m) = (struct dps_mark){ .bucket = m->hash.rss & HASH_MASK };
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

// One segment, whole, not empty, not too long, its tags in place: 0, the packet needs no second look.
static inline uint64_t
oddity(const struct rte_mbuf *m, uint32_t len, uint32_t most)
{
	return (m->nb_segs ^ 1u) | (len ^ m->data_len) | (len - 1 >= most) |
	       (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED);
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
			steer(io, g, p);
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
		steer(io, g, m[i]);
	}
}

static void
receive_all(struct io *io, const struct rx_queue *rxq, struct io_group *g, struct rte_mbuf **m,
	    uint32_t n)
{
	uint32_t most = RTE_MIN(the_primary.port[rxq->port].frame_most, (uint32_t)DPS_LEN_MOST);
	uint64_t bytes = 0;
	uint64_t odd = 0;

	for (uint32_t i = 0; i < n; i++) {
		rte_prefetch0(rte_pktmbuf_mtod(m[i], void *));
		bytes += m[i]->pkt_len;
		odd |= oddity(m[i], m[i]->pkt_len, most);
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
	uint64_t odd = 0;
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
		odd |= oddity(p, len, most);
		bytes += len;
		p->port = port_index;
		*mark_of(p) = (struct dps_mark){ .bucket = NO_BUCKET };
		__atomic_store_n(&line[(at + i) % DPS_LINE_WORDS],
				 lane_word(lane, p, len, port_index), __ATOMIC_RELAXED);
	}
	if (unlikely(odd != 0)) {
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
		if (port->hold && lone->credit >= io->burst)
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
	// Not every driver counts what it could not allocate.
	if (unlikely(n == 0 && pool_free(io, port->pool) < io->burst))
		note_starved(io, port->pool);
	return n;
}

// --- collection ----------------------------------------------------------------------------------

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

// Out of the traffic, for the control thread to write down: that may take its time, and this must not.
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

static inline void
take_back(struct io *io, struct lane *lane, uint32_t index, uint64_t word)
{
	struct rte_mbuf *m = lane->shadow[index & lane->mask];
	uint32_t arg = word & DPS_V_ARG;

	switch (word & DPS_BIT(DPS_W_DONE) ? word & DPS_V_KIND : DPS_V_KIND) {
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
		bucket_of(m);
		if (arg >= the_primary.n_groups || !reshape(m, word))
			break;
		steer_on(io, lane, arg, m);
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
		waiting_again(&io->group[lane->group], m, bucket_of(m));
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
// back as REQUEUE always may: there is room for all that the lanes can hold.
static bool
may_take_back(const struct io *io, uint64_t word)
{
	uint32_t arg = word & DPS_V_ARG;

	switch (word & DPS_V_KIND) {
	case DPS_V_OUT:
		return arg >= the_primary.n_ports || has_room(io, arg);
	case DPS_V_GROUP:
		return arg >= the_primary.n_groups ||
		       io->group[arg].n_waiting <= io->group[arg].waiting_most;
	default:
		return true;
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
		if (lane->hold && unlikely(!may_take_back(io, word)))
			return i;
		take_back(io, lane, index + i, word);
	}
	return n;
}

static uint32_t
collect(struct io *io, struct lane *lane)
{
	uint32_t n = lane_back(lane, DPS_IO_BURST);
	uint32_t taken = 0;

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
	if (taken > 0)
		lane_collected(lane, taken);
	if (lane_look(lane))
		lane->back_at = io->now;
	return taken;
}

// Somebody looks at what comes back: before it goes on, as it may be gone afterwards.
static void __rte_noinline
watch_back(struct io *io, const struct lane *lane)
{
	if (io->capture != NULL)
		capture_back(io, lane, lane_back(lane, DPS_IO_BURST));
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
		dps_count(&io->stats.stage_packets, total);
	return total;
}

// --- the loop ------------------------------------------------------------------------------------

// Packets that wait here, for a lane or for a driver: to be looked after, not only received.
static bool
is_owing(const struct io *io)
{
	for (uint32_t i = 0; i < the_primary.n_groups; i++)
		if (io->group[i].moving)
			return true;
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (io->tx[i].head != io->tx[i].tail)
			return true;
	return io->n_active > 0;
}

// With nothing to do: close to the next packet at first, then ever cheaper. Where no queue can wake
// an io core, its nap is what the first packet after an idle time may wait. On a virtual machine a nap
// of any length costs some 25 us of CPU, and 35 us more than it asked for (tests of 20 to 1000 us).
static void
idle(struct io *io, uint64_t us)
{
	// Packets are out: a worker on this very CPU may have to run for them to come back.
	uint64_t yield_us = io->n_active > 0 ? OWED_US : YIELD_US;
	struct timespec t = { .tv_nsec = NAP_DEEP_NS };

	if (!io->adaptive || us < SPIN_US) {
		rte_pause();
		return;
	}
	if (us < yield_us) {
		sched_yield();
		return;
	}
	dps_count(&io->stats.sleeps, 1);
	if (io->n_fds > 0 && !io->woken && !is_owing(io)) {
		// Of other io cores' packets for its ports nobody would tell it.
		if (the_primary.n_io == 1)
			t.tv_nsec = NAP_WATCHED_NS;
		io->woken = sleep_on_queues(io, &t);
		return;
	}
	if (us < LONG_US)
		t.tv_nsec = us < SHORT_US ? NAP_SHORT_NS : NAP_LONG_NS;
	nanosleep(&t, NULL);
}

// A lone lane under full load: more comes at once, and what two cores tell each other costs less per
// packet the more packets it is about.
static inline bool
is_gathering(const struct io *io, uint32_t received)
{
	return io->unpublished > 0 && io->unpublished < BATCH &&
	       received == io->n_rxq * io->burst;
}

uint32_t
io_turn(struct io *io)
{
	uint32_t work = 0;
	uint32_t asked;

	io->unpublished = 0;
	if (io->rx_on)
		for (uint32_t i = 0; i < io->n_rxq; i++)
			work += rx_queue_poll(io, &io->rxq[i]);
	if (io->n_active > 0 && !is_gathering(io, work)) {
		publish_all(io);
		stage(io, DPS_STAGE_COLLECT);
		work += collect_all(io);
		stage(io, DPS_STAGE_REST);
	}
	if (the_primary.n_io > 1)
		work += xfer_pull(io);
	for (uint32_t i = 0; i < the_primary.n_groups; i++)
		if (unlikely(io->group[i].moving)) {
			work += release_waiting(io, &io->group[i]);
			publish_all(io);
		}
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (io->tx[i].head != io->tx[i].tail)
			tx_flush(io, i);
	dps_count(&io->stats.loops, 1);
	asked = dps_load32(&io->asked);
	if (unlikely(asked != io->answered)) {
		// What is being gathered too: whoever asks may go on to hand back all that is out.
		publish_all(io);
		io_answer(io, asked);
	}
	return work;
}

int
io_loop(void *arg)
{
	struct io *io = arg;
	uint64_t cycles_us = rte_get_tsc_hz() / 1000000;
	uint64_t now = rte_rdtsc();
	uint64_t idle_since = now;

	io->window = WINDOW_US * cycles_us;
	io->thread = pthread_self();
	__atomic_store_n(&io->tid, (int32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	// Naps of microseconds, not of the default 50 µs more.
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	while (!io->stop) {
		uint64_t start = now;
		uint32_t answered = io->answered;
		uint32_t work;
		bool woken;

		io->now = now;
		work = io_turn(io);
		now = rte_rdtsc();
		if (work > 0) {
			dps_count(&io->stats.busy_loops, 1);
			dps_count(&io->stats.busy_cycles, now - start);
			idle_since = now;
			io->woken = false;
			stage(io, DPS_STAGE_REST);
			io->timed = io->stats.busy_loops % TIMED_TURNS == 0;
			io->stage = DPS_STAGE_REST;
			io->stage_since = now;
		} else {
			io->timed = false;
			woken = io->woken;
			idle(io, (now - idle_since) / cycles_us);
			now = rte_rdtsc();
			// A driver may need a moment until it hands out what is there, and who asked for
			// something asks for more.
			if ((io->woken && !woken) || io->answered != answered)
				idle_since = now;
		}
	}
	return 0;
}
