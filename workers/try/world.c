// SPDX-License-Identifier: BSD-3-Clause
//
// The shared memory of an instance of one group, one slot and one io core, and the io core's half of what is
// lent: as dpsup/primary/layout.py and shim/io make them, at the sizes that a test needs.

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "try.h"

struct try the_try;
struct primary the_primary;

// recover.c asks for these; no other thread is here.
void
slot_lock(uint32_t slot)
{
	(void)slot;
}

void
slot_unlock(uint32_t slot)
{
	(void)slot;
}

bool
seat_revoke(uint32_t slot)
{
	(void)slot;
	return true;
}

static uint64_t
place(uint64_t *at, uint64_t len)
{
	uint64_t here = *at;

	*at = RTE_ALIGN(here + len, (uint64_t)4096);
	return here;
}

static void
make_lane(struct io *io, uint8_t *shared, uint8_t *meta, uint8_t *blanks)
{
	struct lane *lane = &io->lane[0];

	lane->shared = (struct dps_lane *)shared;
	lane->word = dps_lane_words(lane->shared);
	lane->scatter = calloc(TRY_RING / DPS_LINE_WORDS, sizeof(*lane->scatter));
	dps_scatter_init(lane->scatter, TRY_RING);
	lane->meta = (struct dps_meta *)meta;
	lane->shadow = calloc(TRY_RING, sizeof(*lane->shadow));
	lane->tick = calloc(TRY_RING, sizeof(*lane->tick));
	lane->blank_word = (uint64_t *)blanks;
	lane->blank = calloc(DPS_BLANKS, sizeof(*lane->blank));
	lane->base = (uintptr_t)the_try.base;
	lane->size = TRY_RING;
	lane->mask = TRY_RING - 1;
	lane->credit = TRY_RING;
	lane->limit = TRY_RING;
}

// Slots, lanes and state, in the order of their addresses.
void
world_create(void)
{
	struct try *t = &the_try;
	uint64_t stride = RTE_ALIGN(sizeof(struct dps_state_head) + DPS_PLUGIN_BUCKET_STATE, 64u);
	uint64_t end = 0, board = place(&end, sizeof(struct board));
	uint64_t ctl = place(&end, sizeof(struct dps_ctl));
	uint64_t sitter = place(&end, sizeof(struct dps_sitter));
	uint64_t slot = place(&end, sizeof(struct dps_slot));
	uint64_t perf = place(&end, sizeof(struct dps_perf));
	uint64_t lane = place(&end, sizeof(struct dps_lane) + TRY_RING * sizeof(uint64_t));
	uint64_t meta = place(&end, TRY_RING * sizeof(struct dps_meta));
	uint64_t blanks = place(&end, 2 * DPS_BLANKS * sizeof(uint64_t));
	uint64_t state = place(&end, DPS_STATE_AT + DPS_PLUGIN_STATE);
	uint64_t buckets = place(&end, DPS_BUCKETS * stride);
	uint64_t mbufs = place(&end, TRY_BUFFERS * sizeof(struct rte_mbuf));
	uint64_t buffers = place(&end, (uint64_t)TRY_BUFFERS * TRY_BUFFER);
	struct primary *p = &the_primary;
	struct dps_group_conf *conf;

	t->base = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		       0);
	if (t->base == MAP_FAILED)
		fail("no memory for %lu bytes", (unsigned long)end);
	t->board = (struct board *)(t->base + board);
	t->ctl = (struct dps_ctl *)(t->base + ctl);
	t->slot = (struct dps_slot *)(t->base + slot);
	t->sitter = (struct dps_sitter *)(t->base + sitter);
	t->state = (struct dps_state_head *)(t->base + state);
	t->buckets = t->base + buckets;
	t->mbuf = (struct rte_mbuf *)(t->base + mbufs);
	t->buffer = t->base + buffers;
	t->was = mmap(NULL, (size_t)TRY_BUFFERS * TRY_BUFFER, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	t->io = calloc(1, sizeof(*t->io));
	if (t->was == MAP_FAILED || t->io == NULL)
		fail("no memory");
	// No worker's own memory.
	madvise(t->was, (size_t)TRY_BUFFERS * TRY_BUFFER, MADV_DONTFORK);
	t->lane = &t->io->lane[0];
	make_lane(t->io, t->base + lane, t->base + meta, t->base + blanks);

	*t->ctl = (struct dps_ctl){
		.magic = DPS_MAGIC,
		.abi_version = DPS_ABI_VERSION,
		.abi_size = sizeof(*t->ctl),
		.base = (uintptr_t)t->base,
		.n_io = 1,
		.n_slots = 1,
		.tsc_hz = 1000000000,
	};
	for (uint32_t g = 0; g < DPS_MAX_GROUPS; g++)
		memset(t->ctl->group[g].next, 0xff, sizeof(t->ctl->group[g].next));
	conf = &t->ctl->group[0];
	conf->max = 1;
	conf->ring = TRY_RING;
	conf->state = DPS_PLUGIN_STATE;
	conf->bucket_state = DPS_PLUGIN_BUCKET_STATE;
	conf->bucket_stride = stride;
	conf->buckets = buckets;
	p->ctl = p->own = t->ctl;
	p->sitter = t->sitter;
	p->n_io = p->n_slots = 1;
	p->slot[0] = t->slot;
	p->state[0] = state;
	p->perf_at[0] = perf - slot;
	p->io[0] = t->io;
	t->slot->core = -1;
	world_reseat();
}

// As a worker finds it that takes the seat: recover.c writes the same before each of them.
void
world_reseat(void)
{
	struct dps_slot *s = the_try.slot;
	const struct lane *lane = the_try.lane;

	s->magic = DPS_SLOT_MAGIC;
	s->n_lanes = 1;
	s->ring = TRY_RING;
	s->state = (uintptr_t)the_try.state - (uintptr_t)s;
	s->perf_at = the_primary.perf_at[0];
	s->lanes[0] = (uintptr_t)lane->shared - (uintptr_t)s;
	s->meta[0] = (uintptr_t)lane->meta - (uintptr_t)s;
	s->blanks[0] = (uintptr_t)lane->blank_word - (uintptr_t)s;
}

// --- packets --------------------------------------------------------------------------------------

static struct rte_mbuf *
take_buffer(void)
{
	uint32_t i = the_try.n_buffers++;
	struct rte_mbuf *m = &the_try.mbuf[i];

	if (i >= TRY_BUFFERS)
		fail("a burst needs more than %u buffers: a smaller --burst helps", TRY_BUFFERS);
	memset(m, 0, sizeof(*m));
	m->buf_addr = the_try.buffer + (size_t)i * TRY_BUFFER;
	m->buf_len = TRY_BUFFER;
	m->data_off = RTE_PKTMBUF_HEADROOM;
	m->nb_segs = 1;
	memset(m->buf_addr, TRY_FILL, TRY_BUFFER);
	return m;
}

const uint8_t *
world_was(const struct rte_mbuf *m)
{
	return the_try.was + ((const uint8_t *)m->buf_addr - the_try.buffer);
}

static void
lend_blanks(void)
{
	struct lane *lane = the_try.lane;
	uint32_t n = the_try.board->emits * the_try.burst;

	n = RTE_MIN(n, (uint32_t)DPS_BLANKS);
	while (lane->blanks_sent - lane->blanks_taken < n) {
		uint32_t at = lane->blanks_sent % DPS_BLANKS;

		lane->blank[at] = take_buffer();
		lane_describe_blank(lane, at);
		lane->blanks_sent++;
	}
	dps_store32(&lane->shared->blanks, lane->blanks_sent);
}

void
world_at(uint32_t number)
{
	the_try.first = number;
	the_try.board->now = the_try.packet[number].ns;
	the_try.n_buffers = 0;
	// Blanks are lent anew with each burst.
	the_try.lane->blanks_sent = the_try.lane->blanks_taken;
	lend_blanks();
}

// What the io core tells beside the bytes: see describe_more in shim/io/steer_pvt.h.
static void
describe(const struct rte_mbuf *m, uint32_t at, uint64_t ns)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);
	struct dps_meta *meta = &the_try.lane->meta[at];
	uint32_t needs = the_try.sitter->facts.needs;

	*meta = (struct dps_meta){ .len = m->data_len };
	if (m->nb_segs > 1) {
		meta->mbuf = (uintptr_t)m - (uintptr_t)the_try.base;
		meta->pkt_len = m->pkt_len;
		meta->flags |= DPS_F_SEGMENTS;
	}
	if (needs & DPS_NEED_HASH) {
		meta->hash = m->hash.rss;
		meta->flags |= DPS_F_HASH;
	}
	if (needs & DPS_NEED_VLAN && m->data_len >= 16 &&
	    ((p[12] == 0x81 && p[13] == 0x00) || (p[12] == 0x88 && p[13] == 0xa8) ||
	     (p[12] == 0x91 && p[13] == 0x00))) {
		meta->vlan = p[14] << 8 | p[15];
		meta->flags |= DPS_F_VLAN;
	}
	if (needs & DPS_NEED_TSC) {
		meta->tsc = ns;
		meta->flags |= DPS_F_TSC;
	}
}

struct rte_mbuf *
world_lend(uint32_t number)
{
	const struct try_packet *packet = &the_try.packet[number];
	struct lane *lane = the_try.lane;
	uint32_t at = lane->sent & lane->mask;
	struct rte_mbuf *first = NULL, **link = &first, *m;
	uint32_t needs = the_try.sitter->facts.needs;

	for (uint32_t done = 0; done < packet->len;) {
		uint32_t n = RTE_MIN(packet->len - done, (uint32_t)TRY_ROOM);

		m = take_buffer();
		memcpy(rte_pktmbuf_mtod(m, void *), packet->bytes + done, n);
		m->data_len = n;
		*link = m;
		link = &m->next;
		first->nb_segs += m != first;
		done += n;
	}
	first->pkt_len = packet->len;
	first->port = packet->port;
	first->hash.rss = hash_flow(rte_pktmbuf_mtod(first, const uint8_t *), first->data_len);
	mark_of(first)->bucket = first->hash.rss % DPS_BUCKETS;
	if (first->nb_segs > 1 || needs & (DPS_NEED_HASH | DPS_NEED_VLAN | DPS_NEED_TSC)) {
		describe(first, at, packet->ns);
		lane_put(lane, lane->sent,
			 lane_word(lane, first, 0, first->port) | DPS_BIT(DPS_W_META));
	} else {
		lane_put(lane, lane->sent, lane_word(lane, first, first->data_len, first->port));
	}
	lane->shadow[at] = first;
	lane->tick[at] = 0;
	lane->sent++;
	return first;
}

// As shim/io/ticks.c lends it.
struct rte_mbuf *
world_lend_tick(uint32_t tick)
{
	struct lane *lane = the_try.lane;
	uint32_t at = lane->sent & lane->mask;
	struct rte_mbuf *m = take_buffer();

	m->hash.rss = tick == DPS_TICK_SLOT ? 0 : tick - 1;
	mark_of(m)->bucket = m->hash.rss;
	lane_put(lane, lane->sent, lane_tick_word(lane, m, tick));
	lane->shadow[at] = m;
	lane->tick[at] = tick;
	lane->sent++;
	dps_store32(&lane->shared->ticked, lane->sent);
	return m;
}

void
world_publish(void)
{
	struct lane *lane = the_try.lane;

	memcpy(the_try.was, the_try.buffer, (size_t)the_try.n_buffers * TRY_BUFFER);
	lane->published = lane->sent;
	dps_store32(&lane->shared->sent, lane->sent);
}

uint32_t
world_done(void)
{
	const struct lane *lane = the_try.lane;
	uint32_t i = lane->collected;

	while (i != lane->sent && dps_word_is_done(lane_get(lane, i)))
		i++;
	return i;
}
