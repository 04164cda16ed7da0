// SPDX-License-Identifier: BSD-3-Clause
//
// Capture. While a client asks, an io core copies the first bytes of packets into a ring of its own
// in the primary's heap, which the control thread empties. It never waits for that: packets that find
// no room, or exceed what a turn may copy, are counted. Workers do not see this memory, so the death
// of a worker does not affect a capture.
//
// One capture at a time, of ports, of slots, or of what is dropped. Off, it costs a look at io.capture for each burst.

#include <errno.h>
#include <pcap.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

enum {
	RING = 4 << 20,         // bytes, a power of two
	UNIT = sizeof(struct dps_captured),     // records begin at its multiples
	TURN_PACKETS = DPS_IO_BURST,    // copied in a turn at most, of each kind: what a lane gives back
	TURN_BYTES = 64 << 10,  // likewise
	FILTER_MOST = 4096      // instructions
};
_Static_assert(RING % UNIT == 0, "the ring ends with a record");

struct capture {
	// set up before the io core has it
	uint32_t rx_ports;              // bit p: port p
	uint32_t tx_ports;
	uint64_t slots;
	uint32_t groups;
	uint32_t drops;                 // bit r: DPS_DROP_r
	uint16_t reasons[DPS_MAX_GROUPS];       // of plugins
	bool dropping;                  // drops alone
	uint32_t snap;                  // bytes of a packet
	bool filtered;
	struct bpf_insn filter[FILTER_MOST];

	// the io core's
	uint64_t turn;                  // that the budgets are of
	uint32_t packets[DPS_N_CAPTURE];
	uint32_t bytes[DPS_N_CAPTURE];
	bool spent[DPS_N_CAPTURE];      // nothing more is copied in this turn
	uint32_t n_staged;
	uint32_t rest;                  // packets of the burst from here to `rest_end` are missed
	uint32_t rest_end;
	struct {
		uint32_t nth;           // packet of the burst
		uint32_t end;           // of its record; 0 with `missed`: it has none
		bool missed;
	} staged[TX_MOST];
	uint32_t tip;                   // after what is staged
	uint32_t head;                  // after what is published
	uint32_t shown[DPS_MAX_SLOTS];  // of drops: the index after the last verdict looked at
	uint64_t captured;
	uint64_t missed;

	// the control thread's
	uint32_t tail __rte_cache_aligned;
	uint8_t ring[RING] __rte_cache_aligned;
};

static struct capture *captures[DPS_MAX_IO];

// --- the io core ---------------------------------------------------------------------------------

// Room for a record in one piece; NULL: there is none.
static struct dps_captured *
reserve(struct capture *r, uint32_t size)
{
	uint32_t at = r->tip % RING;
	uint32_t skip = at + size > RING ? RING - at : 0;
	struct dps_captured *record;

	if (r->tip + skip + size - dps_load32(&r->tail) > RING)
		return NULL;
	if (skip > 0) {
		record = (struct dps_captured *)&r->ring[at];
		record->size = skip;
		record->what = DPS_CAPTURE_SKIP;
		r->tip += skip;
	}
	record = (struct dps_captured *)&r->ring[r->tip % RING];
	r->tip += size;
	return record;
}

// A packet's bytes, over its segments. `start` and `len` are of the first.
static void
copy(uint8_t *to, uint32_t n, const uint8_t *start, uint32_t len, const struct rte_mbuf *m)
{
	for (;;) {
		uint32_t some = RTE_MIN(n, len);

		memcpy(to, start, some);
		to += some;
		n -= some;
		m = m->next;
		if (n == 0 || m == NULL)
			break;
		start = rte_pktmbuf_mtod(m, const uint8_t *);
		len = m->data_len;
	}
}

struct shape {
	const uint8_t *start;           // of the first segment
	uint32_t len;
	uint32_t total;                 // over all segments
};

static struct shape
shape_of(const struct rte_mbuf *m)
{
	return (struct shape){ rte_pktmbuf_mtod(m, const uint8_t *), m->data_len, m->pkt_len };
}

// Packets from the nth to n of a burst are all missed, and need no look: at full load, most.
static bool
skips(struct capture *r, enum dps_capture_what what, uint32_t nth, uint32_t n)
{
	if (!r->spent[what] || r->filtered || r->dropping)
		return false;
	r->rest = nth;
	r->rest_end = n;
	return true;
}

// Copy a packet, if it is wanted and there is room. It counts once settled.
static void
put(struct capture *r, uint32_t nth, const struct rte_mbuf *m, const struct shape *s,
    const struct dps_captured *about)
{
	uint32_t n = RTE_MIN(s->total, r->snap);
	uint32_t size = RTE_ALIGN(UNIT + n, (uint32_t)UNIT);
	struct dps_captured *record = NULL;

	if (r->n_staged == RTE_DIM(r->staged))
		return;
	if (r->filtered && bpf_filter(r->filter, s->start, s->total, s->len) == 0)
		return;
	if (!r->spent[about->what] && r->packets[about->what] < TURN_PACKETS &&
	    (r->bytes[about->what] == 0 || r->bytes[about->what] + n <= TURN_BYTES))
		record = reserve(r, size);
	r->spent[about->what] = record == NULL;
	if (record != NULL) {
		r->packets[about->what]++;
		r->bytes[about->what] += n;
		*record = *about;
		record->size = size;
		record->length = s->total;
		record->captured = n;
		copy((uint8_t *)(record + 1), n, s->start, s->len, m);
	}
	r->staged[r->n_staged].nth = nth;
	r->staged[r->n_staged].missed = record == NULL;
	r->staged[r->n_staged++].end = r->tip;
}

// A burst begins.
static struct capture *
begin(struct io *io)
{
	struct capture *r = io->capture;

	if (r->turn != io->stats.loops) {
		r->turn = io->stats.loops;
		memset(r->packets, 0, sizeof(r->packets));
		memset(r->bytes, 0, sizeof(r->bytes));
		memset(r->spent, 0, sizeof(r->spent));
	}
	r->n_staged = 0;
	r->rest = 0;
	r->rest_end = 0;
	r->tip = r->head;
	return r;
}

void
capture_settle(struct io *io, uint32_t taken)
{
	struct capture *r = io->capture;
	uint32_t head = r->head;

	for (uint32_t i = 0; i < r->n_staged && r->staged[i].nth < taken; i++) {
		if (r->staged[i].missed)
			dps_count(&r->missed, 1);
		else
			dps_count(&r->captured, 1);
		head = r->staged[i].end;
	}
	if (taken > r->rest)
		dps_count(&r->missed, RTE_MIN(taken, r->rest_end) - RTE_MIN(r->rest, r->rest_end));
	dps_store32(&r->head, head);
	r->n_staged = 0;
}

void
capture_rx(struct io *io, uint32_t port, struct rte_mbuf **m, uint32_t n)
{
	struct dps_captured about = { .what = DPS_CAPTURE_RX, .io = io->index, .port = port };
	struct capture *r;

	if (io->capture->dropping || !(io->capture->rx_ports & 1u << port))
		return;
	r = begin(io);
	about.tsc = rte_rdtsc();
	for (uint32_t i = 0; i < n && !skips(r, about.what, i, n); i++) {
		struct shape s;

		// Show the packet as it arrived; the next receiver would insert the tag too.
		if (unlikely(m[i]->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED))
			(void)rte_vlan_insert(&m[i]);
		s = shape_of(m[i]);
		put(r, i, m[i], &s, &about);
	}
	capture_settle(io, n);
}

bool
capture_tx(struct io *io, uint32_t port, struct rte_mbuf **m, uint32_t n)
{
	struct dps_captured about = { .what = DPS_CAPTURE_TX, .io = io->index, .port = port };
	struct capture *r;

	if (io->capture->dropping || !(io->capture->tx_ports & 1u << port))
		return false;
	r = begin(io);
	about.tsc = rte_rdtsc();
	for (uint32_t i = 0; i < n && !skips(r, about.what, i, n); i++) {
		struct shape s = shape_of(m[i]);

		put(r, i, m[i], &s, &about);
	}
	return true;
}

void
capture_lent(struct io *io, const struct lane *lane)
{
	struct dps_captured about = {
		.what = DPS_CAPTURE_LENT, .io = io->index, .slot = lane->slot
	};
	struct capture *r;

	if (io->capture->dropping || !(io->capture->slots & DPS_BIT(lane->slot)))
		return;
	about.tsc = rte_rdtsc();
	for (uint32_t from = lane->published; from != lane->sent;) {
		uint32_t n = RTE_MIN(lane->sent - from, (uint32_t)DPS_IO_BURST);

		r = begin(io);
		for (uint32_t i = 0; i < n && !skips(r, about.what, i, n); i++) {
			const struct rte_mbuf *m = lane->shadow[(from + i) & lane->mask];
			struct shape s = shape_of(m);

			if (lane->tick[(from + i) & lane->mask] != 0)
				continue;
			about.port = port_of(m);
			about.index = from + i;
			put(r, i, m, &s, &about);
		}
		capture_settle(io, n);
		from += n;
	}
}

// What the io core will make of a word: as take_back does. The start and length are checked likewise.
static bool
is_good(const struct lane *lane, uint32_t index, uint64_t word, const struct rte_mbuf *m,
	struct shape *s)
{
	uint32_t arg = word & DPS_V_ARG;
	uint32_t kind = word & DPS_V_KIND;
	int32_t start;
	uint32_t len;

	if (!dps_word_is_done(word))
		return false;
	if (dps_word_copies(word)) {
		kind -= DPS_V_ALSO;
		if (arg >> 4 >= the_primary.n_ports || kind > DPS_V_GROUP)
			return false;
		arg %= 16;
	}
	if (dps_word_is_hash(word)) {
		kind = DPS_V_GROUP;
		arg = dps_word_hash_group(word);
	}
	switch (kind) {
	case DPS_V_OUT:
		if (arg >= the_primary.n_ports)
			return false;
		break;
	case DPS_V_GROUP:
		if (arg >= the_primary.n_groups)
			return false;
		break;
	case DPS_V_REQUEUE:
		return lane_may_requeue(lane, index);
	case DPS_V_PUNT:
		if (arg != 0)
			return false;
		break;
	case DPS_V_DROP:
	case DPS_V_QUARANTINE:
		break;
	default:
		return false;
	}
	if (!(word & DPS_BIT(DPS_W_CHANGED)))
		return true;
	start = (int32_t)m->data_off + (int16_t)(word >> DPS_W_SHIFT);
	len = DPS_FIELD(word, DPS_W_NEWLEN, 16);
	if (m->nb_segs > 1 || len == 0 || start < 0 || start + len > m->buf_len)
		return false;
	*s = (struct shape){ (const uint8_t *)m->buf_addr + start, len, len };
	return true;
}

// Is that a verdict by which the packet goes nowhere, for a reason that is asked for?
static bool
drops(const struct capture *r, uint32_t group, uint64_t word, bool bad)
{
	if (bad)
		return r->drops >> DPS_DROP_BAD_VERDICT & 1;
	switch (word & DPS_V_KIND & ~(uint64_t)DPS_V_ALSO) {
	case DPS_V_DROP:
		return r->reasons[group] >> (word & DPS_V_ARG) % DPS_REASONS & 1;
	case DPS_V_QUARANTINE:
		return r->drops >> DPS_DROP_QUARANTINE & 1;
	default:
		return false;
	}
}

// Of those that come back, the first that a capture of drops has not looked at: one that a lossless lane
// cannot pass on yet is met again in the next turn.
static uint32_t
unseen(const struct capture *r, const struct lane *lane, uint32_t n)
{
	uint32_t seen = r->shown[lane->slot] - lane->collected;

	// Further ahead than this lane has lent: it has begun anew, or nothing was looked at yet.
	return seen > lane_out(lane) ? 0 : RTE_MIN(seen, n);
}

void
capture_back(struct io *io, const struct lane *lane, uint32_t n)
{
	struct dps_captured about = {
		.what = DPS_CAPTURE_BACK, .io = io->index, .slot = lane->slot
	};
	struct capture *r;
	uint32_t first;

	if (!(io->capture->slots & DPS_BIT(lane->slot)))
		return;
	r = begin(io);
	first = r->dropping ? unseen(r, lane, n) : 0;
	about.tsc = rte_rdtsc();
	for (uint32_t i = first; i < n && !skips(r, about.what, i, n); i++) {
		uint32_t index = lane->collected + i;
		const struct rte_mbuf *m = lane->shadow[index & lane->mask];
		uint64_t word = lane_get(lane, index);
		struct shape s = shape_of(m);

		if (lane->tick[index & lane->mask] != 0)
			continue;
		about.bad = !is_good(lane, index, word, m, &s);
		about.port = port_of(m);
		about.index = index;
		about.verdict = word;
		about.version = lane_version(lane, index);
		if (!r->dropping || drops(r, lane->group, word, about.bad))
			put(r, i, m, &s, &about);
	}
	if (r->dropping) {
		r->shown[lane->slot] = lane->collected + n;
		capture_settle(io, n);
	}
}

void
capture_drop(struct io *io, uint32_t why, uint32_t at, bool is_of_group, struct rte_mbuf *m)
{
	struct dps_captured about = {
		.what = DPS_CAPTURE_DROP, .io = io->index, .port = port_of(m), .slot = DPS_NO_SLOT,
		.verdict = why, .index = at
	};
	struct capture *r = io->capture;
	struct shape s = shape_of(m);

	if (!(r->drops >> why & 1))
		return;
	if (why == DPS_DROP_LANE_FULL || why == DPS_DROP_CORRUPT) {
		if (!(r->slots & DPS_BIT(at)))
			return;
		about.slot = at;
	} else if (!((is_of_group ? r->groups : r->rx_ports) >> at & 1)) {
		return;
	}
	begin(io);
	about.tsc = rte_rdtsc();
	put(r, 0, m, &s, &about);
	capture_settle(io, 1);
}

void
capture_taken(struct io *io, const struct lane *lane, uint32_t taken)
{
	if (!io->capture->dropping && io->capture->slots & DPS_BIT(lane->slot))
		capture_settle(io, taken);
}

// --- the control thread --------------------------------------------------------------------------

struct capture *
capture_of(uint32_t io)
{
	return captures[io];
}

static int
filter_set(struct capture *r, const uint64_t *filter, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		r->filter[i] = (struct bpf_insn){ filter[i] >> 48, filter[i] >> 40, filter[i] >> 32,
						  filter[i] };
	r->filtered = n > 0;
	// No jump back, none out of it, an end: it takes as many steps as it is long at most.
	return n == 0 || bpf_validate(r->filter, n) ? 0 : -EINVAL;
}

int
dps_capture_start(const struct dps_capture_conf *conf, const uint64_t *filter)
{
	int ret = 0;

	bool dropping = conf->drops != 0;

	for (uint32_t g = 0; g < DPS_MAX_GROUPS; g++)
		dropping |= conf->reasons[g] != 0;
	if (conf->n_filter > FILTER_MOST || conf->snap == 0 ||
	    (!dropping && conf->slots != 0 && (conf->rx_ports | conf->tx_ports) != 0))
		return -EINVAL;
	for (uint32_t i = 0; i < the_primary.n_io; i++)
		if (captures[i] != NULL)
			return -EBUSY;
	for (uint32_t i = 0; i < the_primary.n_io && ret == 0; i++) {
		struct capture *r;

		if (!(conf->ios & 1u << i))
			continue;
		r = own_zalloc(sizeof(*r));
		if (r == NULL) {
			ret = -ENOMEM;
			break;
		}
		captures[i] = r;
		r->rx_ports = conf->rx_ports;
		r->tx_ports = conf->tx_ports;
		r->slots = conf->slots;
		r->groups = conf->groups;
		r->drops = conf->drops;
		memcpy(r->reasons, conf->reasons, sizeof(r->reasons));
		r->dropping = dropping;
		r->snap = RTE_MIN(conf->snap, (uint32_t)DPS_CAPTURE_SNAP);
		ret = filter_set(r, filter, conf->n_filter);
	}
	if (ret == 0)
		ret = io_ask_all(OP_CAPTURE, 1);
	if (ret != 0)
		dps_capture_free();
	return ret;
}

int
dps_capture_stop(void)
{
	return io_ask_all(OP_CAPTURE, 0);
}

int
dps_capture_free(void)
{
	int ret = dps_capture_stop();

	// Where an io core does not answer, it may still write there.
	for (uint32_t i = 0; i < the_primary.n_io && ret == 0; i++) {
		free(captures[i]);
		captures[i] = NULL;
	}
	return ret;
}

int
dps_capture_read(uint32_t io, uint8_t *out, uint32_t room)
{
	struct capture *r;
	uint32_t head, n = 0;

	if (io >= the_primary.n_io)
		return -EINVAL;
	r = captures[io];
	if (r == NULL)
		return 0;
	head = dps_load32(&r->head);
	while (r->tail != head) {
		const struct dps_captured *record =
			(const struct dps_captured *)&r->ring[r->tail % RING];
		uint32_t size = record->size;

		if (record->what != DPS_CAPTURE_SKIP) {
			if (n + size > room)
				break;
			memcpy(out + n, record, size);
			n += size;
		}
		dps_store32(&r->tail, r->tail + size);
	}
	return n;
}

int
dps_capture_stats_get(struct dps_capture_stats *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < the_primary.n_io; i++)
		if (captures[i] != NULL) {
			out->captured += captures[i]->captured;
			out->missed += captures[i]->missed;
			out->waiting += dps_load32(&captures[i]->head) - captures[i]->tail;
		}
	return 0;
}
