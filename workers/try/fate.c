// SPDX-License-Identifier: BSD-3-Clause
//
// What becomes of packets: the io core's reading of verdicts (shim/io/collect_pvt.h), without ports; and
// which bytes the plugin changed without having said so.

#include <stdlib.h>
#include <string.h>

#include "try.h"
#include "verify.h"

enum where { IN_PACKET, BEFORE, BEHIND, IN_SEGMENT, IN_EMITTED, WHERES };
static const char *const where_names[] = { "packet", "before", "behind", "segment", "emitted" };

enum { WHYS = 16 };

static struct undeclared {
	uint32_t number;                // of the first packet
	uint32_t latest;
	uint32_t packets;
	struct verify_found found;      // over all of them
} undeclared[WHERES];

static struct refusal {
	const char *why;
	uint32_t number;
	uint32_t packets;
} refusal[WHYS];

static struct {
	uint64_t out[DPS_MAX_PORTS], out_bytes[DPS_MAX_PORTS], copies[DPS_MAX_PORTS];
	uint64_t dropped[DPS_REASONS], on[DPS_MAX_GROUPS], on_hash[DPS_MAX_GROUPS];
	uint64_t packets, quarantined, punted, refused, emitted, no_blank, given_up, ticks, ticks_skipped;
} count;

static uint64_t digest = 14695981039346656037ull;       // FNV-1a

static void
digest_add(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len; i++)
		digest = (digest ^ p[i]) * 1099511628211ull;
}

static struct fate
refused(const char *why)
{
	return (struct fate){ .kind = FATE_REFUSED, .copy = -1, .bucket = -1, .why = why };
}

// As reshape() has it, and no more headroom than was declared.
static const char *
reshape(const struct rte_mbuf *m, uint64_t word, struct fate *f)
{
	int32_t start;

	f->len = m->data_len;
	if (!(word & DPS_BIT(DPS_W_CHANGED)))
		return NULL;
	f->shift = (int16_t)(word >> DPS_W_SHIFT);
	f->len = DPS_FIELD(word, DPS_W_NEWLEN, 16);
	start = (int32_t)m->data_off + f->shift;
	if (m->nb_segs > 1)
		return "changes start or length of a packet of several segments";
	if (start < 0 || start + f->len > m->buf_len)
		return "leaves a start or a length outside of the packet's buffer";
	if (f->shift < -(int32_t)the_try.board->prepends)
		return "moves the start farther than `.prepends` says";
	if (f->len == 0)
		return "leaves a length of 0, or one that no buffer has";
	return NULL;
}

struct fate
fate_of(const struct rte_mbuf *m, uint64_t word, bool is_blank)
{
	uint32_t kind = word & DPS_V_KIND, arg = word & DPS_V_ARG;
	struct fate f = { .copy = -1, .bucket = -1 };
	const char *why;

	if (dps_word_is_hash(word)) {
		kind = DPS_V_GROUP;
		arg = dps_word_hash_group(word);
		f.bucket = (int32_t)dps_word_hash_bucket(word);
	}
	if (kind > (DPS_V_ALSO | DPS_V_GROUP) && kind != DPS_V_PUNT)
		return refused("its verdict is none: dps_also is for dps_out, dps_on, dps_next, "
			       "dps_drop");
	if (dps_word_copies(word)) {
		kind -= DPS_V_ALSO;
		f.copy = arg >> 4;
		arg &= 0xf;
		if (f.copy >= (int32_t)the_try.ctl->n_ports)
			return refused("sends a copy out of a port that there is not");
	}
	f.arg = arg;
	f.kind = kind == DPS_V_OUT ? FATE_OUT : kind == DPS_V_DROP ? FATE_DROP :
		 kind == DPS_V_GROUP ? FATE_ON : kind == DPS_V_QUARANTINE ? FATE_QUARANTINE :
		 kind == DPS_V_PUNT && arg == 0 ? FATE_PUNT : FATE_REFUSED;
	if (f.kind == FATE_REFUSED)
		return refused("its verdict is none");
	if (f.kind == FATE_OUT && arg >= the_try.ctl->n_ports)
		return refused("goes out of a port that there is not");
	if (f.kind == FATE_ON && arg >= the_try.ctl->n_groups)
		return refused("goes on to a group that there is not");
	// What is dropped is not looked at any more, unless a copy of it leaves.
	if (f.kind == FATE_DROP && f.copy < 0) {
		f.len = m->data_len;
		return f;
	}
	why = is_blank ? NULL : reshape(m, word, &f);
	if (is_blank)
		f.len = DPS_FIELD(word, DPS_W_NEWLEN, 16);
	return why == NULL ? f : refused(why);
}

static void
add_refusal(uint32_t number, const char *why)
{
	for (uint32_t i = 0; i < WHYS; i++) {
		struct refusal *r = &refusal[i];

		if (r->why == NULL)
			*r = (struct refusal){ .why = why, .number = number };
		if (r->why == why) {
			r->packets++;
			return;
		}
	}
}

static void
write_out(uint32_t number, enum fate_role role, const struct fate *f, const struct rte_mbuf *m)
{
	bool has_bytes = role == ROLE_COPY || (f->kind != FATE_DROP && f->kind != FATE_REFUSED);
	struct {
		uint64_t ns;
		uint32_t number, role, kind, arg, len;
		uint32_t bucket;                // 1 + it, 0: by the packet's own hash
	} head = {
		.ns = the_try.packet[number].ns,
		.number = number,
		.role = role,
		.kind = role == ROLE_COPY ? FATE_OUT : f->kind,
		.arg = role == ROLE_COPY ? (uint32_t)f->copy : f->arg,
		.bucket = role == ROLE_COPY ? 0 : (uint32_t)(f->bucket + 1),
	};
	uint32_t more = 0;

	for (const struct rte_mbuf *s = m->next; s != NULL && has_bytes; s = s->next)
		more += s->data_len;
	head.len = has_bytes ? f->len + more : 0;
	digest_add(&head, sizeof(head));
	if (the_try.out != NULL)
		fwrite(&head, sizeof(head), 1, the_try.out);
	if (!has_bytes)
		return;
	for (const struct rte_mbuf *s = m; s != NULL; s = s->next) {
		const uint8_t *bytes = rte_pktmbuf_mtod(s, const uint8_t *) + (s == m ? f->shift : 0);
		uint32_t len = s == m ? f->len : s->data_len;

		digest_add(bytes, len);
		if (the_try.out != NULL)
			fwrite(bytes, len, 1, the_try.out);
	}
}

static void
take(uint32_t number, enum fate_role role, const struct fate *f, const struct rte_mbuf *m)
{
	if (f->copy >= 0) {
		count.copies[f->copy]++;
		write_out(number, ROLE_COPY, f, m);
	}
	write_out(number, role, f, m);
	switch (f->kind) {
	case FATE_OUT:
		count.out[f->arg]++;
		count.out_bytes[f->arg] += f->len + m->pkt_len - m->data_len;
		break;
	case FATE_DROP:
		count.dropped[f->arg % DPS_REASONS]++;
		break;
	case FATE_ON:
		count.on[f->arg]++;
		count.on_hash[f->arg] += f->bucket >= 0;
		break;
	case FATE_PUNT:
		count.punted++;
		break;
	case FATE_QUARANTINE:
		count.quarantined++;
		break;
	case FATE_REFUSED:
		count.refused++;
		add_refusal(number, f->why);
		break;
	}
}

// --- undeclared bytes -----------------------------------------------------------------------------

static void
add_undeclared(enum where where, uint32_t number, struct verify_found found)
{
	struct undeclared *u = &undeclared[where];

	if (u->packets == 0) {
		u->number = number;
		u->found = found;
	}
	u->packets += u->packets == 0 || u->latest != number;
	u->latest = number;
	u->found.first = RTE_MIN(u->found.first, found.first);
	u->found.last = RTE_MAX(u->found.last, found.last);
}

static void
check_range(enum where where, uint32_t number, const struct rte_mbuf *m, struct verify_bounds b)
{
	int32_t start = RTE_PKTMBUF_HEADROOM;
	struct verify_found found;

	if (b.from < b.to && verify_compare(&b, world_was(m) + start + b.from,
					    (const uint8_t *)m->buf_addr + start + b.from, &found))
		add_undeclared(where, number, found);
}

static void
check_rest(enum where where, uint32_t number, const struct rte_mbuf *m, int32_t from)
{
	check_range(where, number, m,
		    (struct verify_bounds){ .from = from, .to = TRY_ROOM, .len = TRY_ROOM });
}

// `f`: NULL, it has none, as its worker died.
void
fate_check(uint32_t number, const struct rte_mbuf *m, bool has_fate, const struct fate *f)
{
	const struct board *board = the_try.board;
	struct verify_bounds b = {
		.prepends = board->prepends,
		.rewrites = board->rewrites,
		.len = m->data_len,
		.end = has_fate && f->kind != FATE_REFUSED ? f->shift + (int32_t)f->len : m->data_len,
	};

	b.from = -RTE_PKTMBUF_HEADROOM;
	b.to = 0;
	check_range(BEFORE, number, m, b);
	b.from = 0;
	b.to = b.len;
	// What was declared has been put back, so that nothing may differ now.
	if (!has_fate)
		b.rewrites = 0;
	check_range(IN_PACKET, number, m, b);
	b.from = b.len;
	b.to = TRY_ROOM;
	if (has_fate && m->nb_segs == 1)
		check_range(BEHIND, number, m, b);
	for (const struct rte_mbuf *s = m->next; s != NULL; s = s->next)
		check_rest(IN_SEGMENT, number, s, -RTE_PKTMBUF_HEADROOM);
}

// --- what has come back ---------------------------------------------------------------------------

static bool
take_blanks(uint32_t number, uint32_t n)
{
	struct lane *lane = the_try.lane;

	for (; n > 0; n--) {
		uint32_t next = lane->blanks_taken;
		uint64_t word = lane_blank_word(lane, next);
		struct rte_mbuf *m = lane->blank[next % DPS_BLANKS];
		struct fate f;

		if (next == lane->blanks_sent || !dps_word_is_blank(word, next))
			return false;
		lane->blanks_taken++;
		f = fate_of(m, word & ~DPS_W_EXTRA, true);
		count.emitted++;
		m->data_len = m->pkt_len = f.len;
		take(number, the_try.ticking ? ROLE_TICKED : ROLE_EMITTED, &f, m);
		check_rest(IN_EMITTED, number, m, (int32_t)f.len);
	}
	return true;
}

uint32_t
fate_number(uint32_t index)
{
	return the_try.first + (the_try.ticking ? 0 : index - the_try.lane->collected);
}

// One that was taken, or that is skipped as it ended two workers.
static void
take_tick(uint32_t number, uint64_t word)
{
	bool is_taken = (word & DPS_V_KIND) == DPS_V_TICK &&
			take_blanks(number, DPS_FIELD(word, DPS_W_EMITS, 4));

	count.no_blank += is_taken ? DPS_FIELD(word, DPS_W_MISSED, 4) : 0;
	count.ticks += is_taken;
	count.ticks_skipped += !is_taken;
}

// Verdicts in the order of the packets; what has none yet stays lent.
void
fate_collect(void)
{
	struct lane *lane = the_try.lane;
	uint32_t end = world_done();

	for (; lane->collected != end; lane->collected++, the_try.first += !the_try.ticking) {
		uint32_t number = the_try.first;
		uint64_t word = lane_get(lane, lane->collected);
		struct rte_mbuf *m = lane->shadow[lane->collected & lane->mask];
		struct fate f;

		if (the_try.ticking) {
			take_tick(number, word);
			continue;
		}
		if (!take_blanks(number, DPS_FIELD(word, DPS_W_EMITS, 4)))
			f = refused("its verdict says that it filled packets of its own, and it did not");
		else
			f = fate_of(m, word & ~DPS_W_EXTRA, false);
		count.no_blank += DPS_FIELD(word, DPS_W_MISSED, 4);
		count.packets++;
		take(number, ROLE_PACKET, &f, m);
		fate_check(number, m, true, &f);
	}
	lane->limit = lane->collected + lane->credit;
	lane->ready = lane->collected;
}

void
fate_refuse_packet(const char *why)
{
	struct lane *lane = the_try.lane;
	uint32_t at = world_done();

	if (at == lane->sent)
		return;
	add_refusal(fate_number(at), why);
	count.given_up++;
	lane_put(lane, at, dps_word_verdict(DPS_V_QUARANTINE));
	dps_store64((uint64_t *)&lane->shared->done, dps_lane_done(at + 1, lane->shared->taken));
}

// --- the report -----------------------------------------------------------------------------------

static void
say_list(const char *key, const uint64_t *values, uint32_t n)
{
	fprintf(the_try.report, ", \"%s\": [", key);
	for (uint32_t i = 0; i < n; i++)
		fprintf(the_try.report, "%s%lu", i ? ", " : "", (unsigned long)values[i]);
	fputc(']', the_try.report);
}

static uint64_t
digest_of(const void *bytes, size_t len)
{
	uint64_t before = digest, found;

	digest = 14695981039346656037ull;
	digest_add(bytes, len);
	found = digest;
	digest = before;
	return found;
}

static void
say_state(void)
{
	const struct dps_group_conf *conf = &the_try.ctl->group[0];
	const struct dps_state_head *head = the_try.state;
	uint64_t buckets = 0, all = 0;

	fprintf(the_try.report, ", \"state_bytes\": %lu, \"state_digest\": \"%016lx\"",
		(unsigned long)(head->stamp ? head->size : 0),
		(unsigned long)digest_of((const uint8_t *)head + DPS_STATE_AT,
					 head->stamp ? head->size : 0));
	for (uint32_t b = 0; b < DPS_BUCKETS && the_try.board->bucket_state_size > 0; b++) {
		head = (const void *)(the_try.buckets + (uint64_t)b * conf->bucket_stride);
		if (head->stamp == 0)
			continue;
		buckets++;
		all = all * 31 + digest_of(head + 1, head->size) + b;
	}
	fprintf(the_try.report, ", \"buckets\": %lu, \"bucket_digest\": \"%016lx\"",
		(unsigned long)buckets, (unsigned long)all);
}

void
fate_report(void)
{
	FILE *r = the_try.report;

	for (uint32_t i = 0; i < WHERES; i++)
		if (undeclared[i].packets > 0)
			fprintf(r,
				"{\"t\": \"finding\", \"kind\": \"undeclared\", \"where\": \"%s\", "
				"\"packet\": %u, \"packets\": %u, \"first\": %d, \"last\": %d}\n",
				where_names[i], undeclared[i].number + 1, undeclared[i].packets,
				undeclared[i].found.first, undeclared[i].found.last);
	for (uint32_t i = 0; i < WHYS && refusal[i].why != NULL; i++) {
		fprintf(r, "{\"t\": \"finding\", \"kind\": \"verdict\", \"packet\": %u, \"packets\": %u",
			refusal[i].number + 1, refusal[i].packets);
		say_string("why", refusal[i].why);
		fputs("}\n", r);
	}
	fprintf(r, "{\"t\": \"total\", \"packets\": %lu, \"quarantined\": %lu, \"punted\": %lu, \"refused\": %lu, "
		   "\"emitted\": %lu, \"no_blank\": %lu, \"given_up\": %lu, \"ticks\": %lu, "
		   "\"ticks_skipped\": %lu, \"cycles\": %lu, "
		   "\"ns\": %lu, \"digest\": \"%016lx\"",
		(unsigned long)count.packets, (unsigned long)count.quarantined, (unsigned long)count.punted,
		(unsigned long)count.refused, (unsigned long)count.emitted,
		(unsigned long)count.no_blank, (unsigned long)count.given_up,
		(unsigned long)count.ticks, (unsigned long)count.ticks_skipped,
		(unsigned long)the_try.board->cycles, (unsigned long)the_try.board->ns,
		(unsigned long)digest);
	say_list("out", count.out, the_try.ctl->n_ports);
	say_list("out_bytes", count.out_bytes, the_try.ctl->n_ports);
	say_list("copies", count.copies, the_try.ctl->n_ports);
	say_list("dropped", count.dropped, DPS_REASONS);
	say_list("on", count.on, the_try.ctl->n_groups);
	say_list("on_hash", count.on_hash, the_try.ctl->n_groups);
	say_list("counters", the_try.sitter->counter, DPS_COUNTERS);
	say_state();
	fputs("}\n", r);
}
