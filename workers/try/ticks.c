// SPDX-License-Identifier: BSD-3-Clause
//
// Ticks, at the pace of the capture's clock: when a packet's time is at or after what is due, they come
// before it, in bursts of their own, with its time. None is queued up, as in an instance: however long
// the pause, there is one of the worker, and one of each bucket with state.

#include "try.h"

static uint64_t due, bucket_due;                // ns

static uint64_t
later(uint64_t ns, uint32_t interval_us)
{
	return interval_us == 0 ? UINT64_MAX : ns + interval_us * 1000ull;
}

static void
set_due(uint64_t ns)
{
	if (ns >= due)
		due = later(ns, the_try.board->tick_us);
	if (ns >= bucket_due)
		bucket_due = later(ns, the_try.board->bucket_tick_us);
}

static bool
has_state(uint32_t bucket)
{
	const struct dps_state_head *head = (const void *)(the_try.buckets +
		(uint64_t)bucket * the_try.ctl->group[0].bucket_stride);

	return head->stamp != 0;
}

// Those before packet `number`, by `run`, at most a burst at a time. False: it said so.
bool
ticks_run(uint32_t number, bool (*run)(uint32_t number, const uint32_t *ticks, uint32_t n))
{
	uint64_t ns = the_try.packet[number].ns;
	uint32_t tick[1 + DPS_BUCKETS], n = 0, some;

	if (number == 0)
		due = bucket_due = ns;
	if (number > 0 && ns >= due)
		tick[n++] = DPS_TICK_SLOT;
	for (uint32_t b = 0; number > 0 && ns >= bucket_due && b < DPS_BUCKETS; b++)
		if (has_state(b))
			tick[n++] = 1 + b;
	set_due(ns);
	for (uint32_t i = 0; i < n; i += some) {
		some = RTE_MIN(the_try.burst, n - i);
		if (!run(number, tick + i, some))
			return false;
	}
	return true;
}

// How many of the n packets from `number` on come before the next tick.
uint32_t
ticks_before(uint32_t number, uint32_t n)
{
	uint64_t next = RTE_MIN(due, bucket_due);
	uint32_t i = 0;

	while (i < n && the_try.packet[number + i].ns < next)
		i++;
	return i;
}
