// SPDX-License-Identifier: BSD-3-Clause
//
// Repair of a slot after its worker's death. The io cores run on meanwhile: they lend more and take
// what is handed back, and every word and index that this file writes was the dead worker's.
//
// The ring is the journal. Between `done` and what was lent lie the verdicts of an unfinished burst,
// then descriptors: the first of these is the packet that the worker had in hand. tests/model has
// the protocol as a model, with a kill before every store.

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "primary.h"

// Law 4: nobody touches the lanes until the kernel says that their user is gone. A zombie is.
static bool
is_alive(int32_t pid)
{
	struct pollfd p = { .events = POLLIN };
	int ready;

	if (pid <= 0)
		return false;
	p.fd = syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return errno != ESRCH;  // who does not know must not repair
	do
		ready = poll(&p, 1, 0);
	while (ready < 0 && errno == EINTR);
	close(p.fd);
	return ready <= 0;
}

int
slot_renew(struct dps_slot *slot)
{
	uint64_t seat = dps_load64(&slot->seat);

	if ((uint32_t)seat != 0 ||
	    !dps_seat_change(&slot->seat, seat, dps_seat((seat >> 32) + 1, 0)))
		return -EBUSY;
	return 0;
}

// Only here a seat becomes empty: whoever sat there is dead, and is about to be cleared up after.
static int
vacate(struct dps_slot *slot)
{
	uint64_t seat = dps_load64(&slot->seat);

	if (is_alive((uint32_t)seat) ||
	    !dps_seat_change(&slot->seat, seat, dps_seat((seat >> 32) + 1, 0)))
		return -EBUSY;
	return 0;
}

// Put the bytes of a half-changed packet back. Its address comes from the io core's own record.
static bool
undo(const struct dps_slot *s, const struct lane *lane, uint32_t index)
{
	struct rte_mbuf *m = lane->shadow[index & lane->mask];
	uint32_t head = s->undo_head;
	uint32_t len = s->undo_len;

	if (head + len > DPS_UNDO || head > m->data_off || len > m->data_len)
		return false;
	memcpy(rte_pktmbuf_mtod(m, uint8_t *) - head, s->undo_bytes, head + len);
	return true;
}

// Are the indices where a sound worker may have left them? Measured by what the io core has lent.
static bool
is_sound(const struct lane *lane)
{
	uint32_t collected = dps_load32(&lane->collected);
	uint32_t done = dps_load32(&lane->shared->done);

	return !lane->corrupt && done - collected <= dps_load32(&lane->published) - collected;
}

static void
recover_lane(struct dps_slot *s, uint32_t io, struct dps_recovery *out)
{
	struct lane *lane = &the_primary.io[io]->lane[s->index];
	uint32_t published = dps_load32(&lane->published);
	uint32_t done = lane->shared->done;
	uint32_t first = done;

	while (done != published && dps_word_is_done(lane_get(lane, done)))
		done++;
	// Before anything is handed back: from then on the shadow's entry may be another packet's.
	if (done != published && s->undo == dps_undo_stamp(io, done) && undo(s, lane, done))
		out->undone = 1;
	dps_order();
	dps_store32(&lane->shared->done, done);
	out->published += done - first;
	out->left += published - done;
}

int
dps_slot_recover(uint32_t slot, struct dps_recovery *out)
{
	struct primary *p = &the_primary;
	struct dps_slot *s;

	if (slot >= p->n_slots)
		return -EINVAL;
	s = p->slot[slot];
	memset(out, 0, sizeof(*out));
	if (vacate(s) != 0)
		return -EBUSY;
	for (uint32_t i = 0; i < p->n_io; i++)
		if (!is_sound(&p->io[i]->lane[slot]))
			out->corrupt = 1;
	if (out->corrupt)
		return 0;
	for (uint32_t i = 0; i < p->n_io; i++)
		recover_lane(s, i, out);
	// What was in hand is settled; a second repair before the next worker must find nothing.
	s->undo = 0;
	return 0;
}

// Hand what is left in the lanes back for steering. The io cores must no longer feed the slot, so
// that these packets come before all later ones of their flows.
int
dps_slot_requeue(uint32_t slot)
{
	struct primary *p = &the_primary;
	struct dps_slot *s;
	uint32_t total = 0;

	if (slot >= p->n_slots)
		return -EINVAL;
	s = p->slot[slot];
	if (slot_renew(s) != 0)
		return -EBUSY;
	for (uint32_t i = 0; i < p->n_io; i++) {
		struct lane *lane = &p->io[i]->lane[slot];
		uint32_t collected = dps_load32(&lane->collected);
		uint32_t done = lane->shared->done;
		uint32_t n = dps_load32(&lane->published) - done;

		if (!is_sound(lane))
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
