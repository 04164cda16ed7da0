// SPDX-License-Identifier: BSD-3-Clause
//
// A packet that an io core drops: counted under its reason by the port, the group or the lane that it was
// for, and shown to a capture of drops. The reasons are in shim.h (DPS_DROP_*); dpsup/inspect/capture.py
// names those of groups too. What a plugin drops does not come here: collect_pvt.h.

#include "primary.h"

void
free_counted(uint64_t *counter, struct rte_mbuf *m)
{
	dps_count(counter, 1);
	rte_pktmbuf_free(m);
}

// Where each reason is counted; what is not named here, by a port.
static bool
is_of_group(uint32_t why)
{
	return why == DPS_DROP_NO_WORKER || why == DPS_DROP_HOLD_FULL || why == DPS_DROP_WORKER_HELD;
}

static void
drop(struct io *io, uint32_t why, uint32_t at, uint64_t *counter, struct rte_mbuf *m)
{
	if (unlikely(io->capture != NULL))
		capture_drop(io, why, at, is_of_group(why), m);
	free_counted(counter, m);
}

void
drop_at_port(struct io *io, uint32_t port, uint32_t why, struct rte_mbuf *m)
{
	drop(io, why, port, &io->port[port].drops[why], m);
}

// While all workers of the group are held, that is the reason, whichever place is full.
void
drop_in_group(struct io *io, struct io_group *g, uint32_t why, struct rte_mbuf *m)
{
	uint32_t group = g - io->group;

	if (the_primary.given_up[group])
		drop(io, DPS_DROP_WORKER_HELD, group, &g->worker_held, m);
	else
		drop(io, why, group, why == DPS_DROP_NO_WORKER ? &g->no_worker : &g->hold_full, m);
}

void
drop_lane_full(struct io *io, struct lane *lane, struct rte_mbuf *m)
{
	struct io_group *g = &io->group[lane->group];

	if (the_primary.given_up[lane->group])
		drop(io, DPS_DROP_WORKER_HELD, lane->group, &g->worker_held, m);
	else
		drop(io, DPS_DROP_LANE_FULL, lane->slot, &lane->stats.lane_full, m);
}

void
drop_corrupt(struct io *io, struct lane *lane, struct rte_mbuf *m)
{
	drop(io, DPS_DROP_CORRUPT, lane->slot, &lane->stats.corrupt, m);
}
