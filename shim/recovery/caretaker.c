// SPDX-License-Identifier: BSD-3-Clause
//
// The caretaker gives a dead worker's buckets away when the supervisor does not. While the supervisor
// lives this thread has nothing to do: within milliseconds the supervisor has a successor forked, or
// the buckets given away. With the supervisor dead or stopped, a death without a spare would leave them
// stuck. So the supervisor says beforehand how long a slot may stand empty (per group, 0: forever).
// After that each bucket goes to the seated worker of its group that has the fewest, and then the
// packets in the slot's lanes are handed back for steering. If the group has no other worker, packets
// wait as they did.
//
// Map first, packets second: what comes back goes ahead of all that came later. The supervisor finds
// the story of it afterwards (DPS_STORY_REBUCKETED), and can read the map back.

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lease.h"
#include "primary.h"

enum {
	ROUND_MS = 50,          // between two looks while a slot with buckets or packets is empty
	OFFERED_MS = 20000      // a process was told to sit there: longer than a start may take
};

static uint64_t after_ns[DPS_MAX_GROUPS];       // 0: never
static uint32_t bell;
static bool stopped;                            // under asking_lock

int
dps_group_rebucket(uint32_t group, uint64_t after)
{
	if (group >= DPS_MAX_GROUPS)
		return -EINVAL;
	dps_store64(&after_ns[group], after);
	rebucket_look();
	return 0;
}

void
rebucket_look(void)
{
	__atomic_fetch_add(&bell, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool
is_taken(uint32_t slot)
{
	bool offered;

	return seat_empty_ns(slot, &offered) == 0;
}

// Has the slot been empty for long enough?
static bool
is_due(uint32_t slot)
{
	uint64_t most = dps_load64(&after_ns[group_of(slot)]);
	uint64_t since;
	bool offered;

	if (most == 0)
		return false;
	since = seat_empty_ns(slot, &offered);
	if (offered && most < OFFERED_MS * 1000000ull)
		most = OFFERED_MS * 1000000ull;
	return since != 0 && dps_now_ns() - since >= most;
}

static bool
has_packets(uint32_t slot)
{
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct lane *lane = &the_primary.io[i]->lane[slot];

		if (dps_load32(&lane->shared->done) != dps_load32(&lane->published))
			return true;
	}
	return false;
}

static uint32_t
buckets_of(const uint8_t *map, uint32_t member)
{
	uint32_t n = 0;

	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		n += map[b] == member;
	return n;
}

// Deal the buckets of a member out. False: no worker can have them.
static bool
deal(uint8_t *map, uint32_t group, uint32_t member)
{
	const struct dps_group_conf *conf = &the_primary.own->group[group];
	uint32_t has[DPS_MAX_SLOTS];
	uint32_t heir[DPS_MAX_SLOTS];
	uint32_t n = 0;

	// A member without buckets was not meant to have any: it drains, or is not ready.
	for (uint32_t i = 0; i < conf->max; i++) {
		has[n] = buckets_of(map, i);
		if (i != member && has[n] > 0 && is_taken(conf->first_slot + i))
			heir[n++] = i;
	}
	if (n == 0)
		return false;
	for (uint32_t b = 0; b < DPS_BUCKETS; b++) {
		uint32_t least = 0;

		if (map[b] != member)
			continue;
		for (uint32_t i = 1; i < n; i++)
			if (has[i] < has[least])
				least = i;
		map[b] = heir[least];
		has[least]++;
	}
	return true;
}

// The slot's lock is held, and the io cores are this thread's to ask. 0: its packets are handed
// back; -ENOENT: no worker can have them.
static int
rebucket(uint32_t slot, struct dps_story *story)
{
	uint32_t group = group_of(slot);
	uint8_t map[DPS_BUCKETS];
	int ret;

	dps_io_map_get(group, map, DPS_BUCKETS);
	if (!deal(map, group, member_of(slot)))
		return -ENOENT;
	if (!seat_revoke(slot))
		return -EBUSY;
	ret = dps_io_map(group, map, DPS_BUCKETS, DPS_EMPTY_HOLD);
	if (ret != 0)
		return ret;
	story->repaired_ns = dps_now_ns();
	ret = seat_is_corrupt(slot) ? -EIO : slot_requeue(slot);
	if (ret == -EIO) {
		story->corrupt = 1;
		return dps_io_reset(slot);
	}
	story->left = ret;
	return 0;
}

static void
settle(uint32_t slot)
{
	struct dps_story story = {
		.kind = DPS_STORY_REBUCKETED,
		.slot = slot,
		.sitter = DPS_MAX_SITTERS,
		.noticed_ns = dps_now_ns(),
	};

	slot_lock(slot);
	asking_lock();
	// Look again: meanwhile a process may have sat down, or the instance ended.
	if (!stopped && is_due(slot) && rebucket(slot, &story) == 0)
		story_tell(&story);
	asking_unlock();
	slot_unlock(slot);
}

// Is it empty, with something that waits for it? Then it is looked at again.
static bool
is_stuck(uint32_t slot)
{
	uint32_t group = group_of(slot);
	uint8_t map[DPS_BUCKETS];
	bool is = false;

	asking_lock();
	if (!stopped && dps_load64(&after_ns[group]) != 0 && !is_taken(slot)) {
		dps_io_map_get(group, map, DPS_BUCKETS);
		is = buckets_of(map, member_of(slot)) > 0 || has_packets(slot);
	}
	asking_unlock();
	return is;
}

static void *
rebucket_run(void *arg)
{
	const struct timespec round = { .tv_nsec = ROUND_MS * 1000000 };

	(void)arg;
	for (;;) {
		uint32_t rung = dps_load32(&bell);
		bool again = false;

		for (uint32_t i = 0; i < the_primary.n_slots; i++) {
			if (!is_stuck(i))
				continue;
			again = true;
			if (is_due(i))
				settle(i);
		}
		syscall(SYS_futex, &bell, FUTEX_WAIT_PRIVATE, rung, again ? &round : NULL, NULL, 0);
	}
	return NULL;
}

int
rebucket_start(void)
{
	pthread_t thread;

	return thread_start(&thread, rebucket_run, NULL);
}

// From now on the caretaker reads no shared memory.
void
rebucket_stop(void)
{
	asking_lock();
	stopped = true;
	asking_unlock();
}
