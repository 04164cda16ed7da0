// SPDX-License-Identifier: BSD-3-Clause
//
// Repair of a slot after its worker's death. The io cores run on meanwhile: they lend more and take
// what is handed back, and every word and index that this file writes was the dead worker's.
//
// The ring is the journal. Between `done` and what was lent lie the verdicts of an unfinished burst,
// then descriptors: the first of these is the packet that the worker had in hand. tests/model has
// the protocol as a model, with a kill before every store.

#include <errno.h>
#include <string.h>

#include "primary.h"

// Put the bytes of a half-changed packet back. Its address comes from the io core's own record.
static bool
undo(const struct dps_slot *s, const struct lane *lane, uint32_t io, uint32_t index)
{
	struct rte_mbuf *m = lane->shadow[index & lane->mask];
	uint32_t head = s->undo_head;
	uint32_t len = s->undo_len;

	if (s->brief_of == dps_brief_stamp(io, index)) {
		memcpy(rte_pktmbuf_mtod(m, uint8_t *), s->brief, RTE_MIN(m->data_len, DPS_BRIEF));
		return true;
	}
	if (s->undo != dps_undo_stamp(io, index))
		return false;
	if (head + len > DPS_UNDO || head > m->data_off || len > m->data_len)
		return false;
	memcpy(rte_pktmbuf_mtod(m, uint8_t *) - head, s->undo_bytes, head + len);
	return true;
}

// Blanks: where a sound worker may have left `taken`, and each that a packet claims says that it is filled.
// The io core's own indices are read first and last: they only grow.
static bool
blanks_are_sound(const struct lane *lane)
{
	uint32_t came = dps_load32(&lane->blanks_taken);
	uint32_t published = dps_load32(&lane->published);
	uint32_t taken = lane->shared->taken;
	uint32_t sent = dps_load32(&lane->blanks_sent);

	if (taken - came > sent - came)
		return false;
	for (uint32_t i = lane->shared->done; i != published && dps_word_is_done(lane_get(lane, i)); i++)
		for (uint32_t n = DPS_FIELD(lane_get(lane, i), DPS_W_EMITS, 4); n > 0; n--, taken++)
			if (taken == sent || !dps_word_is_blank(lane_blank_word(lane, taken), taken))
				return false;
	return true;
}

// Are the indices where a sound worker may have left them? Measured by what the io core has lent.
static bool
is_sound(const struct lane *lane)
{
	uint32_t collected = dps_load32(&lane->collected);
	uint32_t done = dps_load32(&lane->shared->done);

	return !lane->corrupt && done - collected <= dps_load32(&lane->published) - collected &&
	       blanks_are_sound(lane);
}

// Descriptors have one right value each, and the io core's own record tells it: put back what a stray
// write made of them. Returns how many. What is beside them (dps_meta) is not looked at.
static uint32_t
mend(struct lane *lane, uint32_t from, uint32_t to)
{
	uint32_t mended = 0;

	for (uint32_t i = from; i != to; i++) {
		const struct rte_mbuf *m = lane->shadow[i & lane->mask];
		uint64_t more = lane_word(lane, m, 0, m->port) | DPS_BIT(DPS_W_META);
		bool fits = m->nb_segs == 1 && m->data_len <= DPS_LEN_MOST;
		uint64_t plain = fits ? lane_word(lane, m, m->data_len, m->port) : more;
		uint64_t word = lane_get(lane, i);

		if (lane->tick[i & lane->mask] != 0)
			plain = more = lane_tick_word(lane, m, lane->tick[i & lane->mask]);
		if (word == plain || word == more || dps_word_is_done(word))
			continue;
		lane_put(lane, i, lane->needs ? more : plain);
		mended++;
	}
	return mended;
}

// Likewise of the blanks that are left.
static void
mend_blanks(struct lane *lane, uint32_t from)
{
	uint32_t n = dps_load32(&lane->blanks_sent) - from;

	for (uint32_t i = 0; i < n && n <= DPS_BLANKS; i++)
		lane_describe_blank(lane, (from + i) % DPS_BLANKS);
}

static void
recover_lane(const struct dps_slot *s, struct lane *lane, uint32_t io, uint64_t culprit,
	     struct dps_story *out)
{
	uint32_t published = dps_load32(&lane->published);
	uint32_t taken = lane->shared->taken;
	uint32_t done = lane->shared->done;
	uint32_t first = done;

	// Another thread of the dead worker's process may still write.
	if (published - done > lane->size) {
		out->corrupt = 1;
		return;
	}
	// What these filled goes out with them; what the packet in hand filled is blank again.
	for (; done != published && dps_word_is_done(lane_get(lane, done)); done++)
		taken += DPS_FIELD(lane_get(lane, done), DPS_W_EMITS, 4);
	// Before anything is handed back: from then on the shadow's entry may be another packet's.
	if (done != published && undo(s, lane, io, done))
		out->undone = 1;
	if (done != published && state_untouch(lane, io, done, out->sitter))
		out->undone = 1;
	out->published += done - first;
	if (done != published && culprit == dps_undo_stamp(io, done)) {
		out->blamed = blame(lane->shadow[done & lane->mask], out);
		out->ticked = lane->tick[done & lane->mask] != 0;
		// Write its verdict, as if a worker had given it; its bytes are unchanged. A tick has none:
		// the io core skips it.
		if (out->blamed >= DPS_POISON)
			lane_put(lane, done++, dps_word_verdict(DPS_V_QUARANTINE));
	}
	// It reads every packet's header: not after a mere kill.
	if (out->signal != 0 || out->hung || out->notice == DPS_NOTICE_DOUBT) {
		out->mended += mend(lane, done, published);
		mend_blanks(lane, taken);
	}
	dps_order();
	dps_store64((uint64_t *)&lane->shared->done, dps_lane_done(done, taken));
	out->left += published - done;
}

// Restore what the primary wrote for the next worker to find its lanes, whatever it is now.
static void
restore_head(uint32_t slot, struct dps_slot *s)
{
	const struct primary *p = &the_primary;

	s->magic = DPS_SLOT_MAGIC;
	s->index = slot;
	s->group = group_of(slot);
	s->member = member_of(slot);
	s->state = p->state[slot] == 0 ? 0 : p->own->base + p->state[slot] - (uintptr_t)s;
	s->perf_at = p->perf_at[slot];
	s->n_lanes = p->n_io;
	s->ring = p->io[0]->lane[slot].size;
	s->epoch = p->epoch[s->group];
	for (uint32_t i = 0; i < p->n_io; i++) {
		s->lanes[i] = (char *)p->io[i]->lane[slot].shared - (char *)s;
		s->meta[i] = (char *)p->io[i]->lane[slot].meta - (char *)s;
		s->blanks[i] = (char *)p->io[i]->lane[slot].blank_word - (char *)s;
	}
}

// Law 4: only the slot's warden calls this, and only once the kernel has said that the thread which
// used the lanes is gone. `stuck` is the packet that it had in hand when it was found to be, 0: it was
// not.
void
slot_repair(uint32_t slot, uint64_t stuck, struct dps_story *out)
{
	struct primary *p = &the_primary;
	struct dps_slot *s = p->slot[slot];
	uint64_t in_hand;

	restore_head(slot, s);
	for (uint32_t i = 0; i < p->n_io; i++)
		if (!is_sound(&p->io[i]->lane[slot]))
			out->corrupt = 1;
	if (out->corrupt) {
		state_forget(slot);
		return;
	}
	in_hand = slot_in_hand(slot);
	if (!is_to_blame(out, in_hand, stuck))
		in_hand = 0;
	for (uint32_t i = 0; i < p->n_io; i++)
		recover_lane(s, &p->io[i]->lane[slot], i, in_hand, out);
	if (out->corrupt) {
		state_forget(slot);
		return;
	}
	// The packets in hand are settled; a second repair before the next worker must find none.
	s->undo = 0;
	s->brief_of = 0;
	s->hand = 0;
	s->touched = 0;
}

int
slot_requeue(uint32_t slot)
{
	struct primary *p = &the_primary;
	int total = 0;

	for (uint32_t i = 0; i < p->n_io; i++) {
		struct lane *lane = &p->io[i]->lane[slot];
		uint32_t collected = dps_load32(&lane->collected);
		uint32_t done = lane->shared->done;
		uint32_t n = dps_load32(&lane->published) - done;

		if (!is_sound(lane) || n > lane->size)
			return -EIO;
		if (n == 0)
			continue;
		// Tell the io core, in memory that no worker can write, which words may say so: all that
		// are out, as some may be left of an earlier call. One store, so never half a range.
		dps_store64(&lane->requeue, lane_requeue(collected, done + n - collected));
		dps_order();
		for (uint32_t k = 0; k < n; k++)
			lane_put(lane, done + k, dps_word_verdict(DPS_V_REQUEUE));
		dps_store32(&lane->shared->done, done + n);
		total += n;
	}
	return total;
}

int
dps_slot_requeue(uint32_t slot)
{
	int ret = -EBUSY;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	slot_lock(slot);
	if (seat_revoke(slot))
		ret = slot_requeue(slot);
	slot_unlock(slot);
	return ret;
}
