// SPDX-License-Identifier: BSD-3-Clause
//
// The worker's loop, and the worker's half of the lane protocol. A kill may come before any store;
// what recovery then finds in the slot is a prefix of these stores, so their order is the protocol:
//
//   undo = none, cursor = 0 | lane | base | peek | per packet: save, stamp | change, stage | cursor
//   | publish on OUT: the commit | finish IN
//
// The clears come before lane and base, as the indices of two lanes may coincide; nothing of the
// next burst may be hoisted above this one's commit, or packets would be changed twice.

#include <string.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <rte_branch_prediction.h>
#include <rte_cycles.h>
#include <rte_mbuf.h>
#include <rte_pause.h>
#include <rte_prefetch.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek.h>

#include "worker.h"

enum {
	AHEAD = 4,              // packets whose bytes are prefetched
	NAP_LEAST_NS = 5000,
	NAP_MOST_NS = 50000,
	SPIN_US = 10            // of nothing to do before the CPU is given back
};

struct in_lane {
	struct rte_ring *in;
	struct rte_ring *out;
	const struct dps_meta *meta;
};

struct loop {
	struct dps_slot *slot;
	const struct dps_plugin *plugin;
	void *state;
	uint64_t base;
	bool first;
	uint32_t n_lanes;
	struct in_lane lane[DPS_MAX_IO];
};

static uint64_t segment_base;

uint32_t
dps_next_segment(const struct dps_packet *packet, const void **segment, const uint8_t **bytes)
{
	const struct rte_mbuf *m = *segment;

	if (m == NULL) {
		if (packet->total == packet->len || packet->origin == NULL)
			return 0;
		m = (const void *)(segment_base + ((const struct dps_meta *)packet->origin)->mbuf);
	}
	m = m->next;
	if (m == NULL)
		return 0;
	*segment = m;
	*bytes = rte_pktmbuf_mtod(m, const uint8_t *);
	return m->data_len;
}

// Keep the bytes that the plugin may change, then say whose they are.
static inline void
save(struct dps_slot *slot, const struct dps_plugin *plugin, const struct dps_packet *p,
     uint32_t lane, uint32_t index)
{
	uint16_t head = p->headroom < plugin->prepends ? p->headroom : plugin->prepends;
	uint16_t len = p->len < plugin->rewrites ? p->len : plugin->rewrites;

	memcpy(slot->undo_bytes, p->data - head, head + len);
	slot->undo_head = head;
	slot->undo_len = len;
	dps_order();
	__atomic_store_n(&slot->undo, dps_undo_stamp(lane, index), __ATOMIC_RELAXED);
	dps_order();
}

static inline void
open_packet(const struct loop *l, const struct in_lane *lane, const struct dps_desc *d,
	    uint32_t index, struct dps_packet *p)
{
	p->data = (uint8_t *)(l->base + dps_where_offset(d->where));
	p->headroom = dps_where_headroom(d->where);
	p->len = d->len;
	p->total = d->len;
	p->hash = d->hash;
	p->port = d->port;
	p->has_vlan = 0;
	p->origin = NULL;
	if (unlikely(d->flags & (DPS_F_SEGMENTS | DPS_F_VLAN | DPS_F_TSC))) {
		const struct dps_meta *meta = &lane->meta[index & lane->in->mask];

		if (d->flags & DPS_F_SEGMENTS) {
			p->total = meta->pkt_len;
			p->origin = meta;
		}
		p->vlan = d->flags & DPS_F_VLAN ? meta->vlan : 0;
		p->has_vlan = (d->flags & DPS_F_VLAN) != 0;
		p->tsc = d->flags & DPS_F_TSC ? meta->tsc : 0;
	}
}

static void __attribute__((noinline))
note_first(struct loop *l)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	dps_store64(&l->slot->first_ns, t.tv_sec * 1000000000ull + t.tv_nsec);
	l->first = false;
}

static uint32_t
burst(struct loop *l, uint32_t index)
{
	const struct in_lane *lane = &l->lane[index];
	struct dps_slot *slot = l->slot;
	struct dps_desc d[DPS_BURST];
	bool rewrites = l->plugin->rewrites + l->plugin->prepends > 0;
	uint64_t start;
	uint32_t base;
	uint32_t n;

	if (rte_ring_empty(lane->in))
		return 0;
	if (unlikely(l->first))
		note_first(l);
	start = rte_rdtsc();
	__atomic_store_n(&slot->undo, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->cursor, 0, __ATOMIC_RELAXED);
	dps_order();
	__atomic_store_n(&slot->lane, index, __ATOMIC_RELAXED);
	dps_order();
	base = lane->in->cons.tail;
	__atomic_store_n(&slot->base, base, __ATOMIC_RELAXED);
	dps_order();
	n = rte_ring_dequeue_burst_elem_start(lane->in, d, sizeof(d[0]), DPS_BURST, NULL);
	for (uint32_t i = 0; i < n && i < AHEAD; i++)
		rte_prefetch0((void *)(l->base + dps_where_offset(d[i].where)));
	for (uint32_t i = 0; i < n; i++) {
		struct dps_packet p;
		struct dps_ret *staged = &slot->staged[i];
		uint8_t *data;

		if (i + AHEAD < n)
			rte_prefetch0((void *)(l->base + dps_where_offset(d[i + AHEAD].where)));
		open_packet(l, lane, &d[i], base + i, &p);
		data = p.data;
		if (rewrites)
			save(slot, l->plugin, &p, index, base + i);
		staged->verdict = l->plugin->packet(l->state, &p);
		staged->shift = p.data - data;
		staged->len = p.len <= UINT16_MAX ? p.len : 0;  // none: refused by the io core
		dps_order();
		__atomic_store_n(&slot->cursor, i + 1, __ATOMIC_RELAXED);
		dps_order();
	}
	dps_order();
	// The io core's credit leaves room on OUT for all that it lent; without, the slot is broken.
	if (unlikely(rte_ring_sp_enqueue_bulk_elem(lane->out, slot->staged, sizeof(slot->staged[0]),
						   n, NULL) != n))
		_exit(DPS_EXIT_TEMPORARY);
	dps_order();
	rte_ring_dequeue_elem_finish(lane->in, n);
	dps_order();
	dps_count(&slot->bursts, 1);
	dps_count(&slot->packets, n);
	dps_count(&slot->busy, rte_rdtsc() - start);
	return n;
}

static void
nap(uint64_t idle_us, uint64_t *nap_ns)
{
	struct timespec t = { 0 };

	if (idle_us < SPIN_US) {
		rte_pause();
		return;
	}
	*nap_ns = *nap_ns * 2 < NAP_MOST_NS ? *nap_ns * 2 : NAP_MOST_NS;
	t.tv_nsec = *nap_ns;
	nanosleep(&t, NULL);
}

void
worker_loop(const struct dps_ctl *ctl, struct dps_slot *slot, const struct dps_plugin *plugin,
	    void *state)
{
	bool adaptive = ctl->group[slot->group].adaptive;
	uint64_t cycles_us = ctl->tsc_hz / 1000000;
	uint64_t idle_since = rte_rdtsc();
	uint64_t nap_ns = NAP_LEAST_NS;
	struct loop l = {
		.slot = slot,
		.plugin = plugin,
		.state = state,
		.base = ctl->base,
		.first = true,
		.n_lanes = slot->n_lanes,
	};

	segment_base = ctl->base;
	for (uint32_t i = 0; i < l.n_lanes; i++) {
		l.lane[i].in = (struct rte_ring *)((char *)slot + slot->in[i]);
		l.lane[i].out = (struct rte_ring *)((char *)slot + slot->out[i]);
		l.lane[i].meta = (const struct dps_meta *)((char *)slot + slot->meta[i]);
	}
	while (dps_load32(&slot->command) != DPS_STOP) {
		uint32_t work = 0;

		for (uint32_t i = 0; i < l.n_lanes; i++)
			work += burst(&l, i);
		dps_count(&slot->beats, 1);
		if (work > 0) {
			idle_since = rte_rdtsc();
			nap_ns = NAP_LEAST_NS;
		} else if (adaptive) {
			nap((rte_rdtsc() - idle_since) / cycles_us, &nap_ns);
		} else {
			rte_pause();
		}
	}
}
