// SPDX-License-Identifier: BSD-3-Clause
//
// Stories: what happened, for the supervisor to read later. Threads of the primary write them into a
// ring in shared memory, one at a time; the number of the last one is in the primary's own memory.

#include <errno.h>

#include "lease.h"
#include "warden_pvt.h"

static pthread_mutex_t story_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t stories;                // dps_ctl has a copy, which a worker may overwrite

static struct dps_story *
story_at(uint64_t seq)
{
	return &the_primary.ctl->story[seq & (DPS_STORIES - 1)];
}

uint64_t
story_tell(const struct dps_story *story)
{
	struct dps_ctl *ctl = the_primary.ctl;
	struct dps_story *at;
	uint64_t seq;

	pthread_mutex_lock(&story_lock);
	seq = stories + 1;
	at = story_at(seq);
	dps_store64(&at->seq, 0);
	*at = *story;
	dps_store64(&at->seq, seq);
	dps_store64(&ctl->stories, seq);
	dps_store64(&stories, seq);
	pthread_mutex_unlock(&story_lock);
	return seq;
}

// The story of a slot's last death ends with the first burst of its successor.
void
story_end(uint32_t slot, uint64_t noticed_ns)
{
	struct dps_story *last = story_at(seats[slot].story);
	uint64_t first = the_primary.slot[slot]->first_ns;

	if (seats[slot].story != 0 && last->seq == seats[slot].story && first > last->noticed_ns &&
	    first < noticed_ns)
		last->first_ns = first;
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
	if (seats[out->slot].story == seq && first > out->noticed_ns)
		out->first_ns = first;
	return 0;
}
