// SPDX-License-Identifier: BSD-3-Clause
//
// Succession: which spare follows a worker. The first parked spare, by berth, of the group and of the
// version that is wanted, whose plugin can take all that waits in the slot's lanes. The wardens decide
// here without the supervisor, which only says in advance how often they may, and of which version.

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>

#include "lease.h"
#include "warden_pvt.h"

enum {
	SEAT_MS = 100,          // for a spare to take its seat, if there is another one
	LAST_SEAT_MS = 1000     // and if there is none: a busy CPU is no reason to fork
};

uint32_t heir[DPS_MAX_GROUPS];

// Do all packets that wait in the slot's lanes carry what this plugin needs?
static bool
lanes_suit(uint32_t slot, const struct dps_facts *facts)
{
	uint32_t needs = facts->needs & (DPS_NEED_VLAN | DPS_NEED_TSC | DPS_NEED_HASH);

	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct lane *lane = &the_primary.io[i]->lane[slot];

		if (needs & ~lane->needs || lane_emits(facts->needs) > lane->emits ||
		    (facts->rewrites + facts->prepends > 0 && !lane->changes))
			return false;
	}
	return true;
}

static bool
is_spare(const struct warden *w, uint32_t group, uint32_t version)
{
	// A process that has a slot is no spare, whatever its shared memory says.
	return dps_load32(&w->state) == ON && w->group == group && w->version == version &&
	       __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE) == DPS_NO_SLOT &&
	       !dps_load32(&w->dead) && !dps_load32(&w->doomed) &&
	       dps_load32(&sitter_of(w)->hand) == DPS_HAND_PARKED;
}

// A spare of that version, whose plugin can take what waits in the slot's lanes; from here on it is
// the caller's.
static struct warden *
claim(uint32_t slot, uint32_t version)
{
	uint32_t group = group_of(slot);

	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		struct warden *w = &wardens[i];
		uint32_t parked = DPS_HAND_PARKED;

		if (!is_spare(w, group, version) || !lanes_suit(slot, &sitter_of(w)->facts))
			continue;
		if (__atomic_compare_exchange_n(&sitter_of(w)->hand, &parked, DPS_HAND_CLAIMED, 0,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return w;
	}
	return NULL;
}

static bool
has_spare(uint32_t group, uint32_t version)
{
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++)
		if (is_spare(&wardens[i], group, version))
			return true;
	return false;
}

static bool
takes_seat(struct warden *w)
{
	const uint32_t *hand = &sitter_of(w)->hand;
	uint64_t since = dps_now_ns();

	while (dps_load32(hand) == DPS_HAND_GO && !dps_load32(&w->dead)) {
		uint64_t ms = (dps_now_ns() - since) / 1000000;

		if (ms >= LAST_SEAT_MS || (ms >= SEAT_MS && has_spare(w->group, w->version)))
			break;
		futex_wait(hand, DPS_HAND_GO, 1);
	}
	return dps_load32(hand) == DPS_HAND_SEATED;
}

// Move a spare to the slot's CPU while it sleeps, when that is cheap.
static void
pin(const struct warden *w, int32_t core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	sched_setaffinity(w->pid, sizeof(set), &set);
}

static void
seat_successor(uint32_t slot, uint32_t version, struct dps_story *story)
{
	struct warden *w;

	while ((w = claim(slot, version)) != NULL) {
		story->claimed_ns = dps_now_ns();
		pin(w, seats[slot].core);
		seat_offer(slot, w);
		futex_wake(&sitter_of(w)->hand);
		if (takes_seat(w) || !seat_revoke(slot)) {
			story->successor = w->pid;
			story->successor_sitter = w->index;
			story->seated_ns = between(dps_load64(&sitter_of(w)->seated_ns),
						   story->claimed_ns, dps_now_ns());
			return;
		}
		// The spare is dead, stopped or stuck: its ticket is void from now on.
		story->tried++;
		dps_store32(&w->doomed, 1);
		futex_wake(dps_lease_word(sitter_of(w)->lease));
	}
}

// A spare of the version that the worker was told to make room for; otherwise, or if none comes, of
// the heir.
void
find_successor(const struct warden *w, uint32_t slot, struct dps_story *story)
{
	bool in_order = dps_load32(&sitter_of(w)->in_order);
	struct seat *seat = &seats[slot];

	if (seat->handover) {
		story->handover = in_order;
		dps_store32(&the_primary.slot[slot]->command, DPS_RUN);
		seat_successor(slot, seat->next, story);
		seat->handover = false;
	} else if (seat->failures && in_order) {
		return;
	}
	if (story->successor == 0 && seat->takeovers > 0) {
		seat_successor(slot, heir[w->group], story);
		seat->takeovers -= story->successor != 0;
	}
}

// --- what the control thread asks -----------------------------------------------------------------

int
dps_group_heir(uint32_t group, uint32_t version)
{
	if (group >= the_primary.n_groups || version >= DPS_VERSIONS)
		return -EINVAL;
	dps_store32(&heir[group], version);
	return 0;
}

int
dps_spare_facts(uint32_t group, uint32_t version, struct dps_facts *out)
{
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++)
		if (is_spare(&wardens[i], group, version)) {
			*out = sitter_of(&wardens[i])->facts;
			return 0;
		}
	return -ENOENT;
}

static bool
can_hand_over(uint32_t slot, uint32_t version)
{
	uint32_t group = group_of(slot);

	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++)
		if (is_spare(&wardens[i], group, version) &&
		    lanes_suit(slot, &the_primary.sitter[i].facts))
			return true;
	return false;
}

// The sitter leaves at the end of its burst, and a spare of that version follows: meanwhile the
// packets in the lanes wait. The same happens if the sitter dies before.
int
dps_slot_handover(uint32_t slot, uint32_t version)
{
	struct seat *seat = &seats[slot];
	int ret = 0;

	if (slot >= the_primary.n_slots || version >= DPS_VERSIONS)
		return -EINVAL;
	slot_lock(slot);
	if (seat->sitter == NOBODY || dps_load32(&wardens[seat->sitter].dead) ||
	    dps_load32(&the_primary.sitter[seat->sitter].hand) != DPS_HAND_SEATED ||
	    dps_load32(&the_primary.slot[slot]->command) == DPS_STOP)
		ret = -EBUSY;
	else if (!can_hand_over(slot, version))
		ret = -ENOENT;
	if (ret == 0) {
		seat->handover = true;
		seat->next = version;
		dps_slot_command(slot, DPS_STOP);
	}
	slot_unlock(slot);
	return ret;
}

int
dps_slot_takeovers(uint32_t slot, uint32_t n, uint32_t failures)
{
	if (slot >= the_primary.n_slots)
		return -EINVAL;
	slot_lock(slot);
	seats[slot].takeovers = n;
	seats[slot].failures = failures;
	slot_unlock(slot);
	return 0;
}
