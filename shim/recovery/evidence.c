// SPDX-License-Identifier: BSD-3-Clause
//
// Poison packets: which packet is to blame for a worker's death, how often it was, and what is kept
// of it for people.
//
// The packet that the worker had begun is to blame if the worker caused its own death: by a fault, by
// a fatal signal that it sent to itself as abort() does, or by being stuck with that very packet.
// It is never to blame for a signal that another process sent: an operator, the OOM killer. Nor for a
// SIGBUS whose memory is gone: a file that changed under its mapping, a full file system. Nor for a
// death between two bursts: `hand` says where the burst in hand ends, and the first packet without a
// verdict counts only before that. Nor for a death while the plugin looked at several packets, any of
// which may have caused it: the next process looks at them one by one. Nor for a system call that
// workers may not make (confine.c of the workers): the plugin is at fault.
//
// The deaths are noted in a table of the primary's own. The packet's mark names its line there, and
// the line the packet, so that neither a stray write to the one (in some drivers' pools workers can write
// to mbuf headers) nor a buffer's next packet can inherit a death: receiving sets the mark anew.

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "fatal.h"
#include "primary.h"

enum {
	SUSPECTS = UINT8_MAX    // remembered; the oldest is forgotten
};

// Line 0 is unused.
static struct suspect {
	const struct rte_mbuf *mbuf;
	uint32_t deaths;
	struct dps_story death[DPS_POISON];
} suspects[SUSPECTS + 1];
static uint32_t latest;
static pthread_mutex_t suspects_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t
slot_in_hand(uint32_t slot)
{
	const struct primary *p = &the_primary;
	uint64_t hand = dps_load64(&p->slot[slot]->hand);
	uint32_t io = (hand >> 32) - 1;
	uint32_t end = (uint32_t)hand;
	const struct lane *lane;
	uint32_t done;

	// No io core has that number while the plugin looks at several packets: DPS_HAND_LOOKS.
	if (io >= p->n_io)
		return 0;
	lane = &p->io[io]->lane[slot];
	done = dps_load32(&lane->shared->done);
	// A worker wrote both: ignore what is no burst, or was not lent.
	if (end - done > DPS_BURST || end - done > dps_load32(&lane->published) - done)
		return 0;
	while (done != end && dps_word_is_done(lane_get(lane, done)))
		done++;
	return done == end ? 0 : dps_undo_stamp(io, done);
}

bool
is_fatal(uint32_t number)
{
	for (size_t i = 0; i < RTE_DIM(dps_fatal); i++)
		if (number == (uint32_t)dps_fatal[i])
			return true;
	return false;
}

static bool
died_of_itself(const struct dps_story *death)
{
	// A call that a worker may not make is its plugin's, whatever the packet was.
	if (!is_fatal(death->signal) || death->signal == SIGSYS)
		return false;
	// Sent, not raised by the CPU.
	if (death->code <= 0)
		return death->sender == death->pid;
	// No packet breaks memory, or cuts short the file that was mapped there.
	return death->signal != SIGBUS ||
	       (death->code != BUS_MCEERR_AR && death->code != BUS_MCEERR_AO &&
		death->code != BUS_ADRERR);
}

// A stuck worker may have finished that packet before it was killed.
bool
is_to_blame(const struct dps_story *death, uint64_t in_hand, uint64_t stuck)
{
	return in_hand != 0 && (died_of_itself(death) || (death->hung && stuck == in_hand));
}

static struct suspect *
suspect_of(struct rte_mbuf *m)
{
	struct suspect *s = &suspects[mark_of(m)->blame];

	return s->mbuf == m ? s : NULL;
}

uint32_t
blame(struct rte_mbuf *m, const struct dps_story *death)
{
	struct suspect *s;
	uint32_t deaths;

	pthread_mutex_lock(&suspects_lock);
	s = suspect_of(m);
	if (s == NULL) {
		latest = latest % SUSPECTS + 1;
		s = &suspects[latest];
		s->mbuf = m;
		s->deaths = 0;
		mark_of(m)->blame = latest;
	}
	if (s->deaths < DPS_POISON)
		s->death[s->deaths++] = *death;
	deaths = s->deaths;
	pthread_mutex_unlock(&suspects_lock);
	return deaths;
}

int
dps_quarantine_get(uint32_t index, uint32_t nth, struct dps_evidence *out, uint8_t *bytes,
		   uint32_t room)
{
	const struct cell *cell;
	const struct suspect *s;
	struct io *io;
	uint32_t at = 0;

	if (index >= the_primary.n_io)
		return -EINVAL;
	io = the_primary.io[index];
	if (nth >= dps_load32(&io->cell_head) - io->cell_tail)
		return -ENOENT;
	cell = &io->cell[(io->cell_tail + nth) % CELLS];
	memset(out, 0, sizeof(*out));
	out->slot = cell->slot;
	out->port = cell->mbuf->port;
	out->len = cell->mbuf->pkt_len;
	out->hash = cell->mbuf->hash.rss;
	pthread_mutex_lock(&suspects_lock);
	s = suspect_of(cell->mbuf);
	if (s != NULL) {
		out->deaths = s->deaths;
		memcpy(out->death, s->death, sizeof(out->death));
	}
	pthread_mutex_unlock(&suspects_lock);
	for (const struct rte_mbuf *m = cell->mbuf; m != NULL; m = m->next) {
		uint32_t n = RTE_MIN((uint32_t)m->data_len, room - at);

		memcpy(bytes + at, rte_pktmbuf_mtod(m, const uint8_t *), n);
		at += n;
	}
	return at;
}
