/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IDLE_PVT_H
#define DPSUP_IDLE_PVT_H

// How a worker without packets waits. A part of loop.c, which the compiler sees as a whole.

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <rte_pause.h>

#include "loop.h"
#include "tables.h"

enum {
	PAUSES = 4,             // between two looks at an empty lane
	SPIN_US = 2,            // of nothing to do, before others on this CPU are let in
	YIELD_US = 20,          // before the first nap
	NAP_US = 200,           // before parking
	NAP_NS = 5000,
	PARK_MS = 100           // a parked worker shows a beat now and then
};

static bool
is_empty(const struct loop *l)
{
	for (uint32_t i = 0; i < l->n_lanes; i++)
		if (dps_load32(&l->lane[i].shared->sent) != l->lane[i].done)
			return false;
	return dps_load32(&l->slot->command) != DPS_STOP;
}

// Sleep until an io core rings. An io core that lends sees `parks` odd, now or in its next turn, and
// rings once; the bell then differs from what was read here, so that the worker does not sleep.
static void
park(struct loop *l)
{
	const struct timespec most = { .tv_nsec = PARK_MS * 1000000 };
	struct dps_slot *slot = l->slot;
	uint32_t bell = dps_load32(&slot->bell);

	dps_store32(&slot->parks, slot->parks + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	tables_leave();
	if (is_empty(l))
		syscall(SYS_futex, &slot->bell, FUTEX_WAIT, bell, &most, NULL, 0);
	dps_store32(&slot->parks, slot->parks + 1);
}

// Each look takes the index's line from the io core that is about to write it: not too often.
static inline void
rest(void)
{
	for (int i = 0; i < PAUSES; i++)
		rte_pause();
}

static void
idle(struct loop *l, uint64_t us)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };

	if (us < SPIN_US)
		rest();
	else if (us < YIELD_US)
		sched_yield();
	else if (us < NAP_US)
		nanosleep(&nap, NULL);
	else
		park(l);
}

#endif
