/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_KERNEL_PVT_H
#define DPSUP_IO_KERNEL_PVT_H

// The kernel path in a turn: frames of the kernel's to their ports, punted packets that are written freed.
// Part of loop.c, which alone includes it; the rest is in kernel.c.

#include "tx_pvt.h"

static uint32_t
kernel_send(struct io *io, struct kernel_end *end)
{
	struct dps_port_stats *stats = &io->port[end->port];
	uint32_t done = dps_load32(&end->in_done);
	uint32_t n = 0;

	// A port that takes nothing now makes the kernel wait, as its own device would.
	for (; end->in_tail != done && has_room(io, end->port); n++) {
		uint32_t at = end->in_tail % DPS_KERNEL_IN;
		struct rte_mbuf *m = end->in[at];
		uint32_t len = end->in_len[at];

		dps_store32(&end->in_tail, end->in_tail + 1);
		m->data_len = m->pkt_len = RTE_MIN(len, end->frame_most);
		m->port = end->port;
		*mark_of(m) = (struct dps_mark){ .bucket = NO_BUCKET };
		dps_count(&stats->from_kernel, 1);
		dps_count(&stats->from_kernel_bytes, m->pkt_len);
		if (unlikely(len > end->frame_most))
			drop_at_port(io, end->port, DPS_DROP_OVERSIZE, m);
		else
			tx_put(io, end->port, m);
	}
	if (end->in_head - end->in_tail <= DPS_KERNEL_IN / 2)
		kernel_lend(end);
	return n;
}

// Returns packets moved.
static uint32_t __rte_noinline
kernel_turn(struct io *io)
{
	uint32_t work = 0;

	for (uint32_t i = 0; i < io->n_kernel; i++) {
		struct kernel_end *end = io->kernel[io->kernel_port[i]];

		if (end->out_tail != end->out_head)
			kernel_reap(io, end);
		if (end->sends)
			work += kernel_send(io, end);
	}
	if (io->punted)
		kernel_ring(io);
	return work;
}

#endif
