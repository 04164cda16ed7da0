// SPDX-License-Identifier: BSD-3-Clause
//
// What other threads ask of an io core (the control thread or the caretaker, one at a time:
// requests.c). The io core does it itself, between two turns.

#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

// What an io core need not do for a group: everything but the word, and, if one lane takes all packets
// as they come, the hash too. A packet that goes on to another group is steered by the hash that it came
// in with: if no worker can have changed its bytes, that can be computed then.
static void
find_shortcuts(struct io *io, struct io_group *g)
{
	g->plain = g->holes == 0;
	for (uint32_t b = 0; b < DPS_BUCKETS && g->plain; b++)
		g->plain = io->lane[g->first + g->map[b]].needs == 0;
	g->lone = NULL;
	if (g->plain && g->fed == 1) {
		struct lane *lane = &io->lane[g->first + g->map[0]];

		if (the_primary.n_groups == 1 || !lane->changes)
			g->lone = lane;
	}
}

static void
op_map(struct io *io, struct io_group *g)
{
	bool fed[DPS_NO_SLOT + 1] = { false };

	waiting_settle(io, g);
	g->when_empty = io->arg_when_empty;
	g->holes = 0;
	for (uint32_t b = 0; b < DPS_BUCKETS; b++) {
		uint8_t old = g->map[b];
		uint8_t new = io->arg_map[b];

		fed[new] = true;
		g->holes += new == DPS_NO_SLOT;
		if (new == old)
			continue;
		g->map[b] = new;
		if (old != DPS_NO_SLOT)
			waiting_moved(io, g, b, old);
	}
	waiting_sort(g);
	dps_store32(&g->move, io->arg_move);
	// At once if nothing drains: this io core may go to sleep now.
	waiting_settle(io, g);
	g->fed = 0;
	for (uint32_t i = 0; i < g->max; i++) {
		g->fed += fed[i];
		io->lane[g->first + i].is_fed = fed[i];
	}
	io->tick_due = 0;
	find_shortcuts(io, g);
}

// Ports have come or gone. What waits for one that is gone is dropped by name; what other io cores
// still hand over for it, as it comes.
static void
op_queues(struct io *io, const struct queues *queues)
{
	io->n_rxq = queues->n_rxq;
	memcpy(io->rxq, queues->rxq, sizeof(io->rxq));
	io->n_fds = queues->n_fds;
	memcpy(io->fd, queues->fd, sizeof(io->fd));
	for (uint32_t i = 0; i < the_primary.n_ports; i++) {
		struct tx_port *tx = &io->tx[i];

		tx->queue = queues->tx_queue[i];
		tx->owner = queues->tx_owner[i];
		for (; tx->queue < 0 && tx->tail != tx->head; tx->tail++)
			drop_at_port(io, i, DPS_DROP_PORT_DOWN,
				     tx->wait[tx->tail & (TX_WAIT - 1)]);
	}
}

// Indices wrap around: forget a change of version that all packets have passed.
static void
settle_turn(struct lane *lane)
{
	uint64_t turn = dps_load64(&lane->turn);
	uint32_t after = lane_version(lane, turn);

	if ((int32_t)(lane->collected - (uint32_t)turn) >= 0)
		__atomic_compare_exchange_n(&lane->turn, &turn, lane_turn(turn, after, after), 0,
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// What a plugin may ask for is bounded here too: a worker writes its facts.
static uint64_t
cycles_of(uint32_t us, uint32_t least)
{
	return us == 0 ? 0 : (uint64_t)RTE_MAX(us, least) * (rte_get_tsc_hz() / 1000000);
}

static void
op_lane(struct io *io, uint32_t slot)
{
	const struct dps_facts *facts = &the_primary.slot[slot]->facts;
	struct lane *lane = &io->lane[slot];

	// While a group changes its plugin, a slot's next worker may be of either version.
	lane->needs = ((facts->needs | the_primary.also_needs[slot]) &
		       (DPS_NEED_VLAN | DPS_NEED_TSC | DPS_NEED_HASH)) |
		      group_needs(lane->group);
	lane->changes = facts->rewrites + facts->prepends > 0 || the_primary.also_changes[slot];
	lane->emits = lane_emits(facts->needs | the_primary.also_needs[slot]);
	lane->credit = lane->size - 1 - DPS_BURST;      // what the topology file promises
	if (lane->hold && lane->emits > 0)
		lane->credit = RTE_MIN(lane->credit, (uint32_t)DPS_BLANKS / lane->emits);
	lane_set_limit(lane);
	io->thirsty |= lane->emits > 0;
	lane->tick_cycles = cycles_of(facts->tick_us, DPS_TICK_US);
	lane->bucket_tick_cycles = cycles_of(facts->bucket_tick_us, DPS_BUCKET_TICK_US);
	io->tick_due = 0;       // looked at anew
	settle_turn(lane);
	find_shortcuts(io, &io->group[lane->group]);
}

static void
free_blanks(struct lane *lane)
{
	for (; lane->blanks_taken != lane->blanks_sent; lane->blanks_taken++)
		rte_pktmbuf_free(lane->blank[lane->blanks_taken % DPS_BLANKS]);
	lane->blanks_taken = 0;
	dps_store32(&lane->blanks_sent, 0);
}

// The slot was corrupt, its worker is dead: free the packets that it had, and count them as corrupt.
static void
op_reset(struct io *io, uint32_t slot)
{
	struct lane *lane = &io->lane[slot];

	for (uint32_t i = lane->collected; i != lane->sent; i++)
		if (lane->tick[i & lane->mask] != 0)
			tick_skip(io, lane, i);
		else
			drop_corrupt(io, lane, lane->shadow[i & lane->mask]);
	dps_count(&lane->stats.collected, lane->published - lane->collected);
	lane->shared->sent = 0;
	lane->shared->done = 0;
	lane->sent = 0;
	lane->published = 0;
	lane->collected = 0;
	lane->ready = 0;
	free_blanks(lane);
	lane->shared->blanks = 0;
	lane->shared->taken = 0;
	io->thirsty |= lane->emits > 0;
	lane->draining = false;
	waiting_forget(&io->group[lane->group], slot - io->group[lane->group].first);
	lane->requeue = 0;
	lane->turn = lane_turn(0, lane_version(lane, lane->turn), lane_version(lane, lane->turn));
	lane->corrupt = false;
	lane_set_limit(lane);
	lane->stats.lanes_corrupt = 0;
}

static void
op_release(struct io *io, uint32_t n)
{
	for (; n > 0 && io->cell_tail != io->cell_head; n--) {
		rte_pktmbuf_free(io->cell[io->cell_tail % CELLS].mbuf);
		dps_store32(&io->cell_tail, io->cell_tail + 1);
	}
}

static void
drop_waiting(struct io *io, struct waiting_queue *q)
{
	for (; q->tail != q->head; q->tail++) {
		struct rte_mbuf *m = q->entry[q->tail & q->mask].m;

		drop_at_port(io, port_of(m), DPS_DROP_STOPPED, m);
	}
}

static void
op_stop(struct io *io)
{
	op_release(io, CELLS);
	kernel_let_go(io);
	for (uint32_t k = 0; k < the_primary.n_ports; k++) {
		struct tx_port *tx = &io->tx[k];

		if (tx->queue >= 0)
			tx_flush(io, k);
		for (; tx->tail != tx->head; tx->tail++)
			drop_at_port(io, k, DPS_DROP_STOPPED,
				     tx->wait[tx->tail & (TX_WAIT - 1)]);
	}
	for (uint32_t s = 0; s < the_primary.n_slots; s++) {
		struct lane *lane = &io->lane[s];

		for (; lane->collected != lane->sent; lane->collected++) {
			struct rte_mbuf *m = lane->shadow[lane->collected & lane->mask];

			if (lane->tick[lane->collected & lane->mask] != 0)
				tick_skip(io, lane, lane->collected);
			else
				drop_at_port(io, port_of(m), DPS_DROP_STOPPED, m);
		}
		free_blanks(lane);
	}
	for (uint32_t k = 0; k < the_primary.n_groups; k++) {
		struct io_group *g = &io->group[k];

		drop_waiting(io, &g->again);
		drop_waiting(io, &g->parked);
		drop_waiting(io, &g->ready);
		dps_store32(&g->n_back, 0);
		dps_store32(&g->n_waiting, 0);
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
	case OP_QUEUES:
		op_queues(io, io->arg_queues);
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
		io_audit(io);
		break;
	case OP_MARK:
		io_audit_mark(io);
		break;
	case OP_LEAK:
		io_leak(io, io->arg);
		break;
	case OP_RELEASE:
		op_release(io, io->arg);
		break;
	case OP_CAPTURE:
		io->capture = io->arg ? capture_of(io->index) : NULL;
		io->watched = io->capture != NULL || io->stopwatch != NULL;
		break;
	case OP_STOPWATCH:
		io->stopwatch = io->arg ? stopwatch_of(io->index) : NULL;
		io->watched = io->capture != NULL || io->stopwatch != NULL;
		break;
	case OP_STOP:
		op_stop(io);
		break;
	}
	dps_store32(&io->answered, asked);
}
