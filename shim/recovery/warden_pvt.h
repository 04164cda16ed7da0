/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_RECOVERY_WARDEN_PVT_H
#define DPSUP_RECOVERY_WARDEN_PVT_H

// What the wardens and their bookkeeping share: the berths (a process that may take over), the seats
// (a slot's place for one process), the stories (what happened). All of it is in the primary's own
// memory; a worker reads and writes only its dps_sitter and dps_slot.

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "primary.h"

enum { NOBODY = DPS_MAX_SITTERS };      // in seat.sitter

enum warden_state {
	OFF = DPS_SITTER_NONE,  // no process; the control thread may open this berth
	AWAITED = DPS_SITTER_AWAITED,   // opened; a process with the ticket may come
	ON = DPS_SITTER_LIVES   // it holds its lease
};

struct warden {
	pthread_t thread;
	bool started;
	uint32_t index;
	uint32_t group;
	uint32_t version;       // of the group's plugin
	uint32_t ticket;        // that a process shows to take this berth
	uint32_t state;         // the control thread: OFF to AWAITED and back; the warden: the rest
	uint32_t slot;          // where it was told to sit; changed under that slot's lock
	uint32_t dead;          // 1: known to be
	uint32_t doomed;        // 1: to be killed: it did not take its seat
	uint32_t told;          // 1: its story is written
	uint32_t watched;       // the slot that its health is of
	struct health health;
	uint64_t ordered_ns;    // when its process was ordered
	uint64_t abort_ns;      // when it was found stuck, 0: it was not
	uint64_t abort_cpu;     // CPU time that it had used by then, ns
	uint64_t stuck;         // with which packet: slot_in_hand
	int32_t pid;
	int pidfd;              // the warden's alone
};

struct seat {
	pthread_mutex_t lock;
	int32_t core;           // CPU of its sitter
	uint32_t ticket;
	uint32_t sitter;        // which process may sit, or does: an index, or NOBODY
	uint32_t takeovers;     // that may happen before the supervisor is asked
	bool corrupt;           // what the last one left
	bool failures;          // not after one that left in order
	bool handover;          // its sitter was told to make room
	uint32_t next;          // for this version
	uint64_t since_ns;      // it is empty; or its sitter was told to leave
	uint64_t story;         // seq of the last death here
	uint32_t keeping;       // odd while a dead sitter's counters are added to the slot's
};

extern struct warden wardens[DPS_MAX_SITTERS];         // by berth
extern struct seat seats[DPS_MAX_SLOTS];
extern uint32_t heir[DPS_MAX_GROUPS];   // version of the process that takes over unasked, or is started

static inline struct dps_sitter *
sitter_of(const struct warden *w)
{
	return &the_primary.sitter[w->index];
}

static inline void
futex_wait(const uint32_t *word, uint32_t value, uint32_t ms)
{
	const struct timespec most = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	syscall(SYS_futex, word, FUTEX_WAIT, value, ms > 0 ? &most : NULL, NULL, 0);
}

static inline void
futex_wake(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

// A time that a process wrote down, as far as it can be.
static inline uint64_t
between(uint64_t ns, uint64_t least, uint64_t most)
{
	return RTE_MIN(RTE_MAX(ns, least), most);
}

static inline bool
is_gone(int pidfd, int ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

// seat.c, all under the slot's lock
void seat_open(uint32_t slot);
void seat_offer(uint32_t slot, struct warden *w);
bool seat_revoke(uint32_t slot);         // false: it has come meanwhile

// successor.c
void find_successor(const struct warden *w, uint32_t slot, struct dps_story *story);

// story.c
void story_end(uint32_t slot, uint64_t noticed_ns);
void story_gone(uint64_t seq);          // the process of that death has ended

// counters.c
void keep_counters(uint32_t slot, struct dps_sitter *dead);

// warden.c
void *warden_run(void *warden);

#endif
