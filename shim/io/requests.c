// SPDX-License-Identifier: BSD-3-Clause
//
// The control thread's side of the io cores: create, start and stop them, ask them through their
// mailboxes, read their counters. audit.c accounts for every mbuf. Over 600 lines: whatever is asked of
// an io core passes here, one thread at a time.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_launch.h>
#include <rte_lcore.h>

#include "primary.h"

enum { ANSWER_MS = 2000 };      // for an io core to answer, far above any burst
enum { FRAGMENT_S = 2 };        // a datagram's fragments come within milliseconds

// Two threads ask: the control thread, and the one that moves buckets. Never taken before a slot's lock.
static pthread_mutex_t asking = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

// bucket -> member, as last ordered; changed under that lock.
static uint8_t maps[DPS_MAX_GROUPS][DPS_BUCKETS];

void
asking_lock(void)
{
	pthread_mutex_lock(&asking);
}

void
asking_unlock(void)
{
	pthread_mutex_unlock(&asking);
}

static int
await_answer(const struct io *io)
{
	const struct timespec step = { .tv_nsec = 20000 };
	uint64_t deadline = rte_rdtsc() + rte_get_tsc_hz() / 1000 * ANSWER_MS;

	while (dps_load32(&io->answered) != io->asked) {
		if (rte_rdtsc() > deadline)
			return -ETIMEDOUT;
		nanosleep(&step, NULL);
	}
	return 0;
}

int
io_ask(struct io *io, enum io_op op, uint32_t arg)
{
	int ret;

	if (!the_primary.io_running) {
		// Before the start there is no io core to disturb.
		io->op = op;
		io->arg = arg;
		io_answer(io, io->asked);
		return 0;
	}
	asking_lock();
	// Do not overwrite a request that is not answered yet: the io core may be reading it.
	ret = await_answer(io);
	if (ret == 0) {
		io->op = op;
		io->arg = arg;
		dps_store32(&io->asked, io->asked + 1);
		ret = await_answer(io);
	}
	asking_unlock();
	return ret;
}

int
io_ask_all(enum io_op op, uint32_t arg)
{
	int ret = 0;

	asking_lock();
	for (uint32_t i = 0; i < the_primary.n_io && ret == 0; i++)
		ret = io_ask(the_primary.io[i], op, arg);
	asking_unlock();
	return ret;
}

// The io cores' own state lies outside the hugepages that workers can write.
void *
own_zalloc(size_t len)
{
	void *p;

	len = RTE_ALIGN(len, (size_t)RTE_CACHE_LINE_SIZE);
	if (posix_memalign(&p, RTE_CACHE_LINE_SIZE, len) != 0)
		return NULL;
	return memset(p, 0, len);
}

// Blanks and ticks of a group come from the pool of a port that feeds it.
static uint32_t
port_of_group(uint32_t group)
{
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (the_primary.port[i].group == (int32_t)group)
			return i;
	return 0;
}

static int
lane_init(struct io *io, uint32_t slot)
{
	struct dps_slot *s = the_primary.slot[slot];
	struct lane *lane = &io->lane[slot];

	lane->shared = (struct dps_lane *)((char *)s + s->lanes[io->index]);
	lane->word = dps_lane_words(lane->shared);
	lane->scatter = near_zalloc(sizeof(*lane->scatter) * (s->ring / DPS_LINE_WORDS));
	if (lane->scatter == NULL)
		return -ENOMEM;
	dps_scatter_init(lane->scatter, s->ring);
	lane->parks = &s->parks;
	lane->base = the_primary.own->base;
	lane->meta = (struct dps_meta *)((char *)s + s->meta[io->index]);
	lane->blank_word = (uint64_t *)((char *)s + s->blanks[io->index]);
	lane->size = s->ring;
	lane->mask = s->ring - 1;
	lane->credit = s->ring - 1 - DPS_BURST;
	lane->tick_port = port_of_group(s->group);
	lane->blank_pool = the_primary.pool[the_primary.port[lane->tick_port].pool];
	lane_set_limit(lane);
	lane->slot = slot;
	lane->group = s->group;
	lane->hold = io->group[s->group].hold;
	lane->needs = group_needs(s->group);
	// A burst is received in one piece, over the end of the ring if need be.
	lane->shadow = near_zalloc(sizeof(*lane->shadow) * (s->ring + DPS_IO_BURST));
	lane->blank = near_zalloc(sizeof(*lane->blank) * DPS_BLANKS);
	lane->tick = near_zalloc(sizeof(*lane->tick) * s->ring);
	return lane->shadow == NULL || lane->blank == NULL || lane->tick == NULL ? -ENOMEM : 0;
}

// Where packets must not be lost, inputs are left alone from WAITING_GATE held ones on. What may still
// come after that is what all lanes of all groups have: with room for it, no lane ever has to wait
// for a group, and two groups that send to each other cannot wait for each other.
static uint32_t
waiting_room(const struct dps_group_conf *conf)
{
	const struct dps_ctl *own = the_primary.own;
	uint32_t room = WAITING_MOST;

	for (uint32_t i = 0; i < own->n_groups && conf->hold; i++)
		room += own->group[i].max * (own->group[i].ring + DPS_BLANKS);
	return rte_align32pow2(room);
}

static int
queue_init(struct waiting_queue *q, uint32_t room)
{
	q->mask = rte_align32pow2(room) - 1;
	q->entry = near_zalloc(sizeof(*q->entry) * (q->mask + 1));
	return q->entry == NULL ? -ENOMEM : 0;
}

static int
group_init(struct io *io, uint32_t group)
{
	const struct dps_group_conf *conf = &the_primary.own->group[group];
	struct io_group *g = &io->group[group];
	uint32_t most = waiting_room(conf);

	memset(g->map, DPS_NO_SLOT, sizeof(g->map));
	memset(maps[group], DPS_NO_SLOT, sizeof(maps[group]));
	g->holes = DPS_BUCKETS;
	g->first = conf->first_slot;
	g->max = conf->max;
	g->hold = conf->hold;
	g->together = conf->bucket_state > 0;
	g->waiting_most = most - 1;
	memcpy(g->next, conf->next, sizeof(g->next));
	g->reach = conf->reach;
	memset(g->from, DPS_NO_SLOT, sizeof(g->from));
	if (queue_init(&g->again, conf->max * conf->ring) != 0)
		return -ENOMEM;
	// The bounds of n_waiting and n_back: all may be in one of these.
	most += g->again.mask + 1;
	if (queue_init(&g->parked, most) != 0)
		return -ENOMEM;
	return queue_init(&g->ready, most);
}

// Queue q of a port belongs to io core q mod n; where a port has fewer tx queues than there are io
// cores, the others hand their packets to the owner of queue 0.
static int
queues_assign(uint32_t io, struct queues *queues)
{
	struct primary *p = &the_primary;

	queues->n_rxq = 0;
	for (uint32_t i = 0; i < p->n_ports; i++) {
		struct port *port = &p->port[i];

		queues->tx_queue[i] = TX_SHUT;
		queues->tx_owner[i] = io;
		if (port->shut)
			continue;
		for (uint32_t q = io; q < port->rx_queues; q += p->n_io) {
			if (queues->n_rxq == RXQ_MOST)
				return -ENOSPC;
			queues->rxq[queues->n_rxq++] = (struct rx_queue){ i, q };
		}
		queues->tx_queue[i] = io < port->tx_queues ? (int32_t)io : TX_OTHERS;
		queues->tx_owner[i] = io % port->tx_queues;
	}
	sleep_find(queues);
	return 0;
}

static int
queues_hand_out(struct io *io)
{
	// One each, under asking_lock: a late io core still takes its own, not those of the next one.
	static struct queues all[DPS_MAX_IO];
	struct queues *queues = &all[io->index];
	int ret = 0;

	// One that is late with its answer may read the last ones at this moment.
	if (the_primary.io_running)
		ret = await_answer(io);
	if (ret == 0)
		ret = queues_assign(io->index, queues);
	if (ret != 0)
		return ret;
	io->arg_queues = queues;
	return io_ask(io, OP_QUEUES, 0);
}

// The ports that are open now, and no others, to all io cores. 0: none of them touches any other. One
// that does not answer keeps it from no other: the first error.
int
io_ports_changed(void)
{
	int first = 0;

	asking_lock();
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		int ret = queues_hand_out(the_primary.io[i]);

		if (first == 0)
			first = ret;
	}
	asking_unlock();
	return first;
}

int
dps_io_create(uint32_t index, uint32_t lcore, uint32_t burst, uint32_t adaptive)
{
	struct primary *p = &the_primary;
	struct io *io;
	int ret;

	if (index >= p->n_io || burst == 0 || burst > DPS_IO_BURST || !rte_lcore_is_enabled(lcore))
		return -EINVAL;
	near_begin((int)rte_lcore_to_socket_id(lcore));
	io = near_zalloc(sizeof(*io));
	if (io == NULL)
		return -ENOMEM;
	io->index = index;
	io->lcore = lcore;
	io->burst = burst;
	io->adaptive = adaptive;
	io->tick_due = UINT64_MAX;
	p->io[index] = io;
	for (uint32_t i = 0; i < p->n_groups; i++) {
		ret = group_init(io, i);
		if (ret != 0)
			return ret;
	}
	for (uint32_t i = 0; i < p->n_slots; i++) {
		ret = lane_init(io, i);
		if (ret != 0)
			return ret;
	}
	for (uint32_t i = 0; i < p->n_io; i++) {
		io->xfer[i] = near_zalloc(rte_ring_get_memsize(XFER_SIZE));
		if (io->xfer[i] == NULL)
			return -ENOMEM;
		ret = rte_ring_init(io->xfer[i], "dpsup_xfer", XFER_SIZE,
				    RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (ret != 0)
			return ret;
	}
	ret = queues_hand_out(io);
	if (ret != 0)
		return ret;
	if (p->tracks_fragments) {
		io->fragments = hash_fragments_create(near_zalloc, rte_get_tsc_hz() * FRAGMENT_S);
		if (io->fragments == NULL)
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < p->n_pools; i++)
		io->low_water[i] = p->pool[i]->size;
	io->created = true;
	return 0;
}

int
dps_io_start(void)
{
	struct primary *p = &the_primary;
	int ret;

	// What drivers hold from now on counts as theirs; see dps_audit_get. Some allocated in the
	// set-up of their queues, on the main lcore: its caches keep nothing back.
	for (uint32_t i = 0; i < p->n_pools; i++) {
		struct rte_mempool_cache *cache =
			rte_mempool_default_cache(p->pool[i], rte_get_main_lcore());

		if (cache != NULL)
			rte_mempool_cache_flush(cache, p->pool[i]);
		p->rx_held[i] = p->pool[i]->size - rte_mempool_avail_count(p->pool[i]);
	}
	audit_begin();
	p->io_running = true;
	for (uint32_t i = 0; i < p->n_io; i++) {
		ret = rte_eal_remote_launch(io_loop, p->io[i], p->io[i]->lcore);
		if (ret != 0)
			return ret;
	}
	ret = kernel_start();
	return ret != 0 ? ret : watchdog_start();
}

int
dps_io_stop(void)
{
	struct primary *p = &the_primary;
	int ret;

	rebucket_stop();
	if (!p->io_running)
		return 0;
	ret = kernel_stop();
	if (ret == 0)
		ret = io_ask_all(OP_STOP, 0);
	if (ret != 0)
		return ret;
	for (uint32_t i = 0; i < p->n_io; i++)
		rte_eal_wait_lcore(p->io[i]->lcore);
	p->io_running = false;
	for (uint32_t i = 0; i < p->n_io; i++)
		for (uint32_t k = 0; k < p->n_io; k++) {
			void *m;

			while (rte_ring_sc_dequeue(p->io[i]->xfer[k], &m) == 0)
				free_counted(&p->io[i]->port[port_of(m)]
						      .drops[DPS_DROP_STOPPED],
					     m);
		}
	return 0;
}

int
dps_io_rx(uint32_t on)
{
	return io_ask_all(OP_RX, on);
}

int
dps_io_lane(uint32_t slot)
{
	return slot < the_primary.n_slots ? io_ask_all(OP_LANE, slot) : -EINVAL;
}

int
dps_io_lane_also(uint32_t slot, uint32_t needs, uint32_t changes)
{
	if (slot >= the_primary.n_slots)
		return -EINVAL;
	asking_lock();
	the_primary.also_needs[slot] = needs;
	the_primary.also_changes[slot] = changes;
	asking_unlock();
	return io_ask_all(OP_LANE, slot);
}

int
dps_io_map(uint32_t group, const uint8_t *member, uint32_t n, uint32_t when_empty)
{
	struct primary *p = &the_primary;
	int ret = 0;

	if (group >= p->n_groups || n != DPS_BUCKETS || when_empty > DPS_EMPTY_BYPASS)
		return -EINVAL;
	for (uint32_t b = 0; b < n; b++)
		if (member[b] != DPS_NO_SLOT && member[b] >= p->own->group[group].max)
			return -EINVAL;
	asking_lock();
	memcpy(maps[group], member, n);
	p->moves++;
	for (uint32_t i = 0; i < p->n_io; i++) {
		ret = await_answer(p->io[i]);
		if (ret != 0)
			break;
		memcpy(p->io[i]->arg_map, member, n);
		p->io[i]->arg_when_empty = when_empty;
		p->io[i]->arg_move = p->moves;
	}
	if (ret == 0)
		ret = io_ask_all(OP_MAP, group);
	view_group(group);
	asking_unlock();
	rebucket_look();
	return ret;
}

// Read where a packet is dropped, and nowhere else: no io core needs to be asked.
int
dps_group_given_up(uint32_t group, uint32_t on)
{
	if (group >= the_primary.n_groups)
		return -EINVAL;
	__atomic_store_n(&the_primary.given_up[group], on != 0, __ATOMIC_RELAXED);
	return 0;
}

int
dps_io_map_get(uint32_t group, uint8_t *member, uint32_t n)
{
	if (group >= the_primary.n_groups || n != DPS_BUCKETS)
		return -EINVAL;
	asking_lock();
	memcpy(member, maps[group], n);
	asking_unlock();
	return 0;
}

int
dps_io_reset(uint32_t slot)
{
	struct dps_slot *s;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	s = the_primary.slot[slot];
	s->undo = 0;
	s->brief_of = 0;
	s->hand = 0;
	s->touched = 0;
	return io_ask_all(OP_RESET, slot);
}

int
dps_io_loads(uint32_t group, uint64_t *packets, uint32_t n)
{
	struct primary *p = &the_primary;

	if (group >= p->n_groups || n != DPS_BUCKETS)
		return -EINVAL;
	memset(packets, 0, n * sizeof(*packets));
	for (uint32_t i = 0; i < p->n_io; i++)
		for (uint32_t b = 0; b < n; b++)
			packets[b] += dps_load32(&p->io[i]->group[group].load[b]);
	return 0;
}

// How far a counter is ahead of another, both of the io core's: the one behind is read first, as
// they move on meanwhile.
static uint32_t
ahead(const uint32_t *head, const uint32_t *tail)
{
	uint32_t behind = dps_load32(tail);

	return dps_load32(head) - behind;
}

static uint32_t
waiting_in(const struct io_group *g)
{
	return dps_load32(&g->n_waiting) + dps_load32(&g->n_back);
}

int
dps_io_stats_get(uint32_t index, struct dps_io_stats *out)
{
	struct primary *p = &the_primary;
	struct io *io;

	if (index >= p->n_io)
		return -EINVAL;
	io = p->io[index];
	*out = io->stats;
	out->quarantine = ahead(&io->cell_head, &io->cell_tail);
	out->watched = io->watched;
	out->held = 0;
	out->xfer = 0;
	out->tx_waiting = 0;
	out->kernel_waiting = 0;
	for (uint32_t i = 0; i < p->n_groups; i++)
		out->held += waiting_in(&io->group[i]);
	for (uint32_t i = 0; i < p->n_io; i++)
		out->xfer += rte_ring_count(io->xfer[i]);
	for (uint32_t i = 0; i < p->n_ports; i++)
		out->tx_waiting += ahead(&io->tx[i].head, &io->tx[i].tail);
	for (uint32_t i = 0; i < p->n_ports; i++)
		if (io->kernel[i] != NULL)
			out->kernel_waiting += ahead(&io->kernel[i]->out_head, &io->kernel[i]->out_tail);
	return 0;
}

int
dps_group_stats_get(uint32_t group, struct dps_group_stats *out)
{
	struct primary *p = &the_primary;

	if (group >= p->n_groups)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < p->n_io; i++) {
		const struct io_group *g = &p->io[i]->group[group];

		out->no_worker += g->no_worker;
		out->hold_full += g->hold_full;
		out->worker_held += g->worker_held;
		out->bypassed += g->bypassed;
		out->held += waiting_in(g);
		out->moving |= g->moving;
		out->pause_ns += g->pause_ns;
		for (uint32_t k = 0; k < DPS_PAUSES; k++)
			out->pause[k] += g->pause[k];
	}
	return 0;
}

// Without the ticks, which are counted a moment before the words or after them.
static uint64_t
packets_of(uint64_t words, uint64_t ticks)
{
	return words > ticks ? words - ticks : 0;
}

static void
add_lane(struct dps_lane_stats *out, const struct lane *lane)
{
	const struct dps_lane_stats *s = &lane->stats;

	out->sent += packets_of(s->sent, lane->ticks_lent);
	out->collected += packets_of(s->collected, lane->ticks_back);
	out->out += s->out;
	out->on += s->on;
	out->on_hash += s->on_hash;
	out->requeued += s->requeued;
	out->lane_full += s->lane_full;
	out->bad_verdict += s->bad_verdict;
	out->emitted += s->emitted;
	out->no_blank += s->no_blank;
	out->copied += s->copied;
	out->no_copy += s->no_copy;
	out->ticks += s->ticks;
	out->ticks_skipped += s->ticks_skipped;
	out->quarantined += s->quarantined;
	out->quarantine_full += s->quarantine_full;
	out->corrupt += s->corrupt;
	for (int r = 0; r < DPS_VERSIONS * DPS_REASONS; r++)
		out->dropped[r] += s->dropped[r];
	out->outstanding += packets_of(ahead(&lane->sent, &lane->collected), lane->ticks_out);
	out->lanes_corrupt += s->lanes_corrupt;
	if (s->bad_word != 0) {
		out->bad_word = s->bad_word;
		out->bad_len = s->bad_len;
		out->bad_version = s->bad_version;
	}
}

int
dps_lane_stats_get(uint32_t slot, struct dps_lane_stats *out)
{
	struct primary *p = &the_primary;

	if (slot >= p->n_slots)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < p->n_io; i++)
		add_lane(out, &p->io[i]->lane[slot]);
	return 0;
}

int
dps_lane_of_io(uint32_t io, uint32_t slot, struct dps_lane_stats *out)
{
	struct primary *p = &the_primary;

	if (io >= p->n_io || slot >= p->n_slots)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	add_lane(out, &p->io[io]->lane[slot]);
	return 0;
}

// What was written down, or cannot be: the io core frees it, as it does all that it received.
int
dps_quarantine_free(uint32_t index, uint32_t n)
{
	struct primary *p = &the_primary;

	if (index >= p->n_io || n > ahead(&p->io[index]->cell_head, &p->io[index]->cell_tail))
		return -EINVAL;
	return io_ask(p->io[index], OP_RELEASE, n);
}
