// SPDX-License-Identifier: BSD-3-Clause
//
// Repair of a slot after its worker's death. The io cores run on meanwhile: they only append to IN
// and take from OUT, and every index that this file writes was the dead worker's.
//
// At rest OUT.prod.tail == IN.cons.tail: the indices are the journal. The worker publishes on OUT,
// then finishes IN; so a difference says exactly how many packets were committed.

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "primary.h"

// Law 4: nobody touches the rings until the kernel says that their user is gone. A zombie is.
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

static void
finish_in(struct lane *lane, uint32_t n)
{
	uint32_t tail = lane->in->cons.tail + n;

	// head first: a reader of both must never see tail ahead of head
	lane->in->cons.head = tail;
	dps_order();
	dps_store32((uint32_t *)(uintptr_t)&lane->in->cons.tail, tail);
}

static void
publish_out(struct lane *lane, const struct dps_ret *ret, uint32_t n)
{
	uint32_t tail = lane->out->prod.tail;

	for (uint32_t i = 0; i < n; i++)
		lane->ret[(tail + i) & lane->mask] = ret[i];
	lane->out->prod.head = tail + n;
	dps_order();
	dps_store32((uint32_t *)(uintptr_t)&lane->out->prod.tail, tail + n);
}

// Are all indices where a sound worker may have left them? Measured by what the io core has lent:
// `published` may lag behind what a worker has already taken, if the io core is descheduled there.
static bool
is_sound(const struct lane *lane)
{
	uint32_t sent = dps_load32(&lane->sent);
	uint32_t collected = dps_load32(&lane->collected);
	uint32_t in_tail = lane->in->cons.tail;
	uint32_t out_tail = lane->out->prod.tail;

	return !lane->corrupt && out_tail - in_tail <= DPS_BURST && sent - in_tail <= lane->mask &&
	       sent - out_tail <= lane->mask && out_tail - collected <= lane->mask;
}

static void
recover_lane(struct dps_slot *s, uint32_t io, struct dps_recovery *out)
{
	struct lane *lane = &the_primary.io[io]->lane[s->index];
	uint32_t in_tail = lane->in->cons.tail;
	uint32_t delta = lane->out->prod.tail - in_tail;
	uint32_t left;

	// An enqueue that was cut short has moved head over elements that were never written.
	lane->out->prod.head = lane->out->prod.tail;
	if (delta > 0) {
		// Committed. These mbufs may be elsewhere by now: they are not looked at.
		finish_in(lane, delta);
		out->committed += delta;
	} else if (s->lane == io && s->base == in_tail && s->cursor > 0) {
		uint32_t done = s->cursor;

		publish_out(lane, s->staged, done);
		finish_in(lane, done);
		out->published += done;
	}
	// The head of a burst that was only peeked at goes back; last, as finishing needs it ahead.
	in_tail = lane->in->cons.tail;
	left = dps_load32(&lane->sent) - in_tail;
	if (left > 0 && s->undo == dps_undo_stamp(io, in_tail) && undo(s, lane, in_tail))
		out->undone = 1;
	lane->in->cons.head = in_tail;
	out->left += left;
}

int
dps_slot_recover(uint32_t slot, struct dps_recovery *out)
{
	struct primary *p = &the_primary;
	struct dps_slot *s;
	uint32_t cursor;

	if (slot >= p->n_slots)
		return -EINVAL;
	s = p->slot[slot];
	memset(out, 0, sizeof(*out));
	if (vacate(s) != 0)
		return -EBUSY;
	cursor = s->cursor;
	for (uint32_t i = 0; i < p->n_io; i++) {
		struct lane *lane = &p->io[i]->lane[slot];
		uint32_t held = dps_load32(&lane->sent) - lane->in->cons.tail;
		bool in_hand = s->lane == i && s->base == lane->in->cons.tail &&
			       lane->out->prod.tail == lane->in->cons.tail;

		if (!is_sound(lane) || (in_hand && (cursor > DPS_BURST || cursor > held)))
			out->corrupt = 1;
	}
	if (out->corrupt)
		return 0;
	for (uint32_t i = 0; i < p->n_io; i++)
		recover_lane(s, i, out);
	// What was in hand is settled; a second repair before the next worker must find nothing.
	s->undo = 0;
	s->cursor = 0;
	return 0;
}

// Tell the io core, in memory that no worker can write, that the next n on OUT are handed back. What
// an earlier call handed back may still be there: then both are one range.
static void
allow_requeue(struct lane *lane, uint32_t n)
{
	uint32_t tail = lane->out->prod.tail;
	uint32_t pending = lane->requeue_from + lane->requeue_n - dps_load32(&lane->collected);

	if (pending == 0 || pending > lane->mask)
		lane->requeue_from = tail;
	dps_order();
	lane->requeue_n = tail + n - lane->requeue_from;
	dps_order();
}

// Hand what is left in IN back for steering. The io cores must no longer feed the slot, so that
// these packets come before all later ones of their flows.
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
		const struct dps_ret again = { .verdict = DPS_V_REQUEUE };
		uint32_t n = dps_load32(&lane->published) - lane->in->cons.tail;

		if (!is_sound(lane))
			return -EIO;
		if (n == 0)
			continue;
		allow_requeue(lane, n);
		// The credit leaves room on OUT for all that is out.
		for (uint32_t k = 0; k < n; k++)
			publish_out(lane, &again, 1);
		finish_in(lane, n);
		total += n;
	}
	return total;
}
