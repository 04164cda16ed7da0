// SPDX-License-Identifier: BSD-3-Clause
//
// Berths: where a process that the seed forks reports to, one for each warden. The control thread
// opens a berth, gives its ticket to the seed, and calls the order off if no process came.

#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "lease.h"
#include "warden_pvt.h"

enum { LEASE_S = 10 };          // from an order until its process has the lease: milliseconds

static bool
is_alive(int32_t pid)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	bool gone;

	if (pidfd < 0)
		return pid > 0 && errno != ESRCH;
	gone = is_gone(pidfd, 0);
	close(pidfd);
	return !gone;
}

// The berth may name another process than the lease does, or none.
static enum dps_lease_state
lease_look(uint64_t *lease, uint32_t pid)
{
	return dps_lease_look(lease, pid != 0 ? pid : UINT32_MAX);
}

static bool
holder_is_alive(uint64_t *lease)
{
	return is_alive(dps_load32(dps_lease_word(lease)) & FUTEX_TID_MASK);
}

// Call off an order that no process came for. -EBUSY: one did, or still may. Takes the lock of the
// slot that the order was for.
//
// Any process may have written the pid in the berth, so that it is alive proves nothing. The lease
// decides: no thread goes on without it, and its owner looks at its berth once more when it has it
// (workers/worker.c). Either it finds the berth closed, or it is seen here to have the lease.
static int
call_off(struct warden *w)
{
	struct dps_sitter *s = sitter_of(w);
	uint64_t berth = dps_load64(&s->berth);
	uint32_t pid = (uint32_t)berth;
	enum dps_lease_state lease = lease_look(s->lease, pid);
	bool is_written = berth != dps_seat(w->ticket, 0);
	uint32_t awaited = AWAITED;
	uint32_t slot = w->slot;

	// A process cannot take a lease that a stray write hit: it leaves, and the warden waits on.
	if (is_written && lease != DPS_LEASE_NEW &&
	    (lease != DPS_LEASE_STRANGE || is_alive((int32_t)pid) || holder_is_alive(s->lease)))
		return -EBUSY;
	if (!dps_seat_change(&s->berth, berth, dps_seat(w->ticket + 1, 0)))
		return -EBUSY;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (is_written && lease == DPS_LEASE_NEW && lease_look(s->lease, pid) != DPS_LEASE_NEW) {
		// It may have looked before: it has the berth, or leaves it, which its warden sees.
		dps_seat_change(&s->berth, dps_seat(w->ticket + 1, 0), berth);
		return -EBUSY;
	}
	w->ticket++;
	if (!__atomic_compare_exchange_n(&w->state, &awaited, OFF, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return -EBUSY;
	// Or the seat would be a later process's, to which this berth is given.
	if (slot != DPS_NO_SLOT) {
		slot_lock(slot);
		if (seats[slot].sitter == w->index)
			seat_open(slot);
		slot_unlock(slot);
	}
	return 0;
}

// Call off the orders whose process died before it had its lease, and those whose berth says what no
// process of theirs wrote there: another ticket, or a pid that has had far too long to take the lease.
static void
call_off_stillborn(void)
{
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		struct warden *w = &wardens[i];
		uint64_t berth = dps_load64(&sitter_of(w)->berth);

		if (dps_load32(&w->state) != AWAITED || berth == dps_seat(w->ticket, 0))
			continue;
		if (berth >> 32 != w->ticket || !is_alive((int32_t)(uint32_t)berth) ||
		    dps_now_ns() - w->ordered_ns > LEASE_S * 1000000000ull)
			call_off(w);
	}
}

// A berth for the next process of a group; its index, or -errno.
static int
berth_open(uint32_t group, uint32_t version, uint32_t *ticket)
{
	// The process is about to read it.
	dps_ctl_restore();
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		struct warden *w = &wardens[i];
		struct dps_sitter *s = sitter_of(w);

		if (dps_load32(&w->state) != OFF)
			continue;
		if (!w->started) {
			int ret = thread_start(&w->thread, warden_run, w);

			if (ret != 0)
				return ret;
			w->started = true;
		}
		w->group = group;
		w->version = version;
		w->slot = DPS_NO_SLOT;
		w->watched = DPS_NO_SLOT;
		w->ordered_ns = dps_now_ns();
		w->abort_ns = 0;
		w->stuck = 0;
		w->dead = 0;
		w->doomed = 0;
		w->told = 0;
		w->pid = 0;
		w->pidfd = -1;
		s->group = group;
		s->version = version;
		s->slot = DPS_NO_SLOT;
		s->hand = DPS_HAND_STARTING;
		s->signal = 0;
		s->ready_ns = 0;
		s->seated_ns = 0;
		s->in_order = 0;
		s->error[0] = '\0';
		memset(s->counter, 0, sizeof(s->counter));
		// A stray write may have hit it while the berth was free: the process could not take it.
		dps_lease_init(s->lease);
		*ticket = w->ticket = (w->ticket + 1) & INT32_MAX;
		dps_store64(&s->berth, dps_seat(*ticket, 0));
		dps_store32(&w->state, AWAITED);
		return i;
	}
	return -ENOSPC;
}

// Say AWAITED only after the order is complete, and wake the warden.
static void
berth_watch(uint32_t sitter)
{
	futex_wake(&wardens[sitter].state);
}

int
dps_spare_prepare(uint32_t group, uint32_t version, uint32_t *ticket)
{
	int ret;

	if (group >= the_primary.n_groups || version >= DPS_VERSIONS)
		return -EINVAL;
	call_off_stillborn();
	ret = berth_open(group, version, ticket);
	if (ret >= 0)
		berth_watch(ret);
	return ret;
}

int
dps_slot_prepare(uint32_t slot, int32_t core, uint32_t *ticket)
{
	struct dps_slot *s;
	int ret = -EBUSY;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	s = the_primary.slot[slot];
	call_off_stillborn();
	slot_lock(slot);
	// Until the supervisor knows that the process runs, the supervisor judges each death: also that
	// of an unknown process that sits there, or another spare would follow that one.
	seats[slot].takeovers = 0;
	seats[slot].handover = false;
	if (seat_revoke(slot))
		ret = berth_open(group_of(slot), heir[group_of(slot)], ticket);
	if (ret >= 0) {
		seats[slot].core = core;
		// A stamp of another plugin must never match a packet of the next one.
		s->undo = 0;
		s->brief_of = 0;
		s->touched = 0;
		dps_store32(&s->command, DPS_RUN);
		seat_open(slot);
		seat_offer(slot, &wardens[ret]);
		berth_watch(ret);
	}
	slot_unlock(slot);
	return ret;
}

bool
version_is_used(uint32_t group, uint32_t version)
{
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++)
		if (dps_load32(&wardens[i].state) != OFF && wardens[i].group == group &&
		    wardens[i].version == version)
			return true;
	return false;
}

int
dps_sitter_version(uint32_t sitter)
{
	return sitter < DPS_MAX_SITTERS ? (int)wardens[sitter].version : -EINVAL;
}

int
dps_sitter_pid(uint32_t sitter, uint32_t ticket)
{
	const struct warden *w = &wardens[sitter];

	if (sitter >= DPS_MAX_SITTERS)
		return -EINVAL;
	if (w->ticket != ticket)
		return -ESTALE;
	switch (dps_load32(&w->state)) {
	case AWAITED:
		return (uint32_t)dps_load64(&sitter_of(w)->berth) & INT32_MAX;
	case ON:
		return w->pid;
	default:
		return 0;
	}
}

int
dps_sitter_fate(uint32_t sitter, int32_t pid)
{
	struct warden *w = &wardens[sitter];

	if (sitter >= DPS_MAX_SITTERS)
		return -EINVAL;
	switch (dps_load32(&w->state)) {
	case AWAITED:
		if (pid == 0)
			return call_off(w) == 0 ? 0 : -EAGAIN;
		return (uint32_t)dps_load64(&sitter_of(w)->berth) != (uint32_t)pid ||
				       call_off(w) == 0 ? 0 : -EAGAIN;
	case ON:
		return w->pid != pid || dps_load32(&w->told) ? 0 : -EAGAIN;
	default:
		return 0;
	}
}

// The process that holds a berth, or may yet come for it.
int
dps_sitter_get(uint32_t sitter, struct dps_sitter_info *out)
{
	const struct warden *w = &wardens[sitter];
	const struct dps_sitter *s;

	if (sitter >= DPS_MAX_SITTERS)
		return -EINVAL;
	s = sitter_of(w);
	*out = (struct dps_sitter_info){
		.state = dps_load32(&w->state),
		.pid = (int32_t)(uint32_t)dps_load64(&s->berth),
		.group = w->group,
		.slot = __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE),
		.hand = dps_load32(&s->hand),
		.told = dps_load32(&w->told),
		.health = dps_load32(&w->health.is),
		.exit_pid = __atomic_load_n(&s->exit_pid, __ATOMIC_ACQUIRE),
		.exit_status = s->exit_status,
	};
	if (out->state == ON)
		out->pid = w->pid;
	return 0;
}
