// SPDX-License-Identifier: BSD-3-Clause
//
// Stories: what happened, for the supervisor to read later. Threads of the primary write them into a
// ring in the primary's own memory, one at a time: no worker reads one, and none can change one.

#include <errno.h>

#include "lease.h"
#include "warden_pvt.h"

static pthread_mutex_t story_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dps_story story_ring[DPS_STORIES];        // by seq modulo that
static uint64_t stories;                // the last one's seq

static struct dps_story *
story_at(uint64_t seq)
{
	return &story_ring[seq & (DPS_STORIES - 1)];
}

uint64_t
story_tell(const struct dps_story *story)
{
	struct dps_story *at;
	uint64_t seq;

	pthread_mutex_lock(&story_lock);
	seq = stories + 1;
	at = story_at(seq);
	*at = *story;
	at->seq = seq;
	dps_store64(&stories, seq);
	pthread_mutex_unlock(&story_lock);
	return seq;
}

// The story of a slot's last death ends with the first burst of its successor.
void
story_end(uint32_t slot, uint64_t noticed_ns)
{
	struct dps_story *last = story_at(seats[slot].story);
	uint64_t first = dps_load64(&the_primary.slot[slot]->first_ns);

	pthread_mutex_lock(&story_lock);
	if (seats[slot].story != 0 && last->seq == seats[slot].story && first > last->noticed_ns &&
	    first < noticed_ns)
		last->first_ns = first;
	pthread_mutex_unlock(&story_lock);
}

void
story_gone(uint64_t seq)
{
	pthread_mutex_lock(&story_lock);
	if (story_at(seq)->seq == seq)
		story_at(seq)->gone_ns = dps_now_ns();
	pthread_mutex_unlock(&story_lock);
}

uint64_t
dps_stories(void)
{
	return dps_load64(&stories);
}

int
dps_story_get(uint64_t seq, struct dps_story *out)
{
	const struct dps_story *at = story_at(seq);
	uint64_t first;

	pthread_mutex_lock(&story_lock);
	*out = *at;
	pthread_mutex_unlock(&story_lock);
	if (out->seq != seq)
		return -ENOENT;
	if (out->slot == DPS_NO_SLOT || out->first_ns != 0)
		return 0;
	first = dps_load64(&the_primary.slot[out->slot]->first_ns);
	if (seats[out->slot].story == seq && first > out->noticed_ns && first <= dps_now_ns())
		out->first_ns = first;
	return 0;
}
