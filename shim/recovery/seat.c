// SPDX-License-Identifier: BSD-3-Clause
//
// Seats: which process may use a slot's lanes. A seat is offered by ticket to one process, taken by
// that process, taken back if it does not come, and opened again by the warden that buried it.

#include <errno.h>

#include "lease.h"
#include "warden_pvt.h"

struct seat seats[DPS_MAX_SLOTS];

void
slot_lock(uint32_t slot)
{
	pthread_mutex_lock(&seats[slot].lock);
}

void
slot_unlock(uint32_t slot)
{
	pthread_mutex_unlock(&seats[slot].lock);
}

// --- offering and taking back ---------------------------------------------------------------------

// Open an empty seat with a new ticket: a process with an older ticket comes too late from now on.
void
seat_open(uint32_t slot)
{
	struct seat *seat = &seats[slot];

	seat->sitter = NOBODY;
	seat->since_ns = dps_now_ns();
	dps_store64(&the_primary.slot[slot]->seat, dps_seat(++seat->ticket, 0));
}

bool
seat_is_corrupt(uint32_t slot)
{
	return seats[slot].corrupt;
}

// May be called without the lock by a thread that then takes it and looks again.
uint64_t
seat_empty_ns(uint32_t slot, bool *offered)
{
	const struct seat *seat = &seats[slot];
	uint32_t sitter = dps_load32(&seat->sitter);

	*offered = sitter != NOBODY;
	if (*offered && dps_load32(&the_primary.sitter[sitter].hand) == DPS_HAND_SEATED)
		return 0;
	return dps_load64(&seat->since_ns);
}

bool
seat_revoke(uint32_t slot)
{
	struct seat *seat = &seats[slot];
	uint32_t here = slot;

	if (seat->sitter == NOBODY)
		return true;
	if (!dps_seat_change(&the_primary.slot[slot]->seat, dps_seat(seat->ticket, 0),
			     dps_seat(seat->ticket + 1, 0)))
		return false;
	seat->ticket++;
	__atomic_compare_exchange_n(&wardens[seat->sitter].slot, &here, DPS_NO_SLOT, 0, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	seat->sitter = NOBODY;
	return true;
}

// The seat is empty: what was handed back is of the last worker's version, the rest of this one.
static void
turn_lanes(uint32_t slot, uint32_t version)
{
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		struct lane *lane = &the_primary.io[i]->lane[slot];
		uint32_t done = dps_load32(&lane->shared->done);
		uint32_t before = lane_version(lane, done - 1);

		if (before != version || lane_version(lane, done) != version)
			dps_store64(&lane->turn, lane_turn(done, before, version));
	}
}

void
seat_offer(uint32_t slot, struct warden *w)
{
	struct dps_sitter *s = sitter_of(w);

	turn_lanes(slot, w->version);

	seats[slot].sitter = w->index;
	seats[slot].since_ns = dps_now_ns();
	__atomic_store_n(&w->slot, slot, __ATOMIC_RELEASE);
	the_primary.slot[slot]->version = w->version;
	the_primary.slot[slot]->core = seats[slot].core;
	s->slot = slot;
	s->ticket = seats[slot].ticket;
	dps_store32(&s->hand, DPS_HAND_GO);
}

// --- what the control thread asks -----------------------------------------------------------------

int
dps_slot_version(uint32_t slot)
{
	uint32_t sitter;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	sitter = __atomic_load_n(&seats[slot].sitter, __ATOMIC_ACQUIRE);
	return sitter == NOBODY ? -ENOENT : (int)wardens[sitter].version;
}

int
dps_slot_sitter(uint32_t slot)
{
	uint32_t sitter;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	sitter = __atomic_load_n(&seats[slot].sitter, __ATOMIC_ACQUIRE);
	if (sitter == NOBODY || (uint32_t)dps_load64(&the_primary.slot[slot]->seat) == 0)
		return 0;
	return dps_sitter_pid(sitter, wardens[sitter].ticket);
}
