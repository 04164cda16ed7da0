/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_TX_PVT_H
#define DPSUP_IO_TX_PVT_H

// A turn's last part: packets to the ports, by the io core that owns the queue. Part of loop.c, which
// alone includes it: the io core is one translation unit, so that the compiler sees all of a turn.

#include "stage_pvt.h"

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
		struct io *owner = the_primary.io[tx->owner];

		if (tx->queue == TX_SHUT) {
			drop_at_port(io, index, DPS_DROP_PORT_DOWN, m);
			return;
		}
		// Another io core owns this port's queue: hand the packet over.
		m->port = index;
		if (rte_ring_sp_enqueue(owner->xfer[io->index], m) != 0)
			drop_at_port(io, index, DPS_DROP_TX_FULL, m);
		return;
	}
	if (unlikely(tx->head - tx->tail == TX_WAIT)) {
		tx_flush(io, index);
		if (tx->head - tx->tail == TX_WAIT) {
			drop_at_port(io, index, DPS_DROP_TX_FULL, m);
			return;
		}
	}
	tx->wait[tx->head++ & (TX_WAIT - 1)] = m;
}

// Many packets for one port: hand them to the driver without a copy. What it refuses waits.
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
			tx_put(io, port_of(m[k]), m[k]);
		total += n;
	}
	return total;
}

// Would a packet for this port find a place?
static bool
has_room(const struct io *io, uint32_t index)
{
	const struct tx_port *tx = &io->tx[index];

	if (tx->queue == TX_SHUT)
		return true;
	if (tx->queue < 0)
		return !rte_ring_full(the_primary.io[tx->owner]->xfer[io->index]);
	return tx->head - tx->tail < TX_WAIT;
}

#endif
