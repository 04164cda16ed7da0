// SPDX-License-Identifier: BSD-3-Clause
//
// From a fresh fork of the seed to a worker in its seat, by way of a spare's sleep if no seat is
// free. No EAL call is made here or later (law 5): EAL's threads did not survive the fork, and its
// shared locks must not be held by a process that may be killed. The process leaves by _exit.

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "confine.h"
#include "lease.h"
#include "worker.h"

void
worker_rename(const struct shared *shared, uint32_t group, uint32_t member)
{
	const struct dps_group_conf *conf = &shared->ctl->group[group];
	char name[16], index[16] = "spare";

	if (member < conf->max)
		snprintf(index, sizeof(index), "%u", member);
	snprintf(name, sizeof(name), "%.9s/%.5s", conf->name, index);
	prctl(PR_SET_NAME, name);
	memset(shared->title, 0, shared->title_len);
	snprintf(shared->title, shared->title_len, "dpsup-worker: %s %s/%s", shared->name, conf->name,
		 index);
}

static pid_t worker;            // this process

// On a line of its own, whatever the plugin has written there.
static bool
say_ready(int notify)
{
	static const char line[] = "\nREADY\n";

	return write(notify, line, sizeof(line) - 1) == sizeof(line) - 1;
}

static void __attribute__((noreturn))
leave(struct dps_sitter *me, int notify, int code)
{
	char text[DPS_ERROR + 32];
	int len = snprintf(text, sizeof(text), "\nREFUSED %d %s\n", code, me->error);

	if (write(notify, text, len) < 0)
		code = DPS_EXIT_TEMPORARY;
	_exit(code);
}

// A plugin that calls exit(0) leaves in order, as one that was told to stop does: the warden may have
// to know before the kernel tells how the process ended. It uses _exit, so that no destructor of
// EAL's runs.
static void
on_leave(int code, void *arg)
{
	struct dps_sitter *me = arg;

	fflush(NULL);
	// A child of the plugin's has no such memory: forgo_children.
	if (code == 0 && getpid() == worker)
		dps_store32(&me->in_order, 1);
	_exit(code);
}

static void
wake(const void *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

// Take our berth, then our lease, before touching anything else. If we are late, as the seed died
// meanwhile, the berth is another process's.
static void
take_berth(struct dps_sitter *me, uint32_t ticket)
{
	if (!dps_seat_change(&me->berth, dps_seat(ticket, 0), dps_seat(ticket, getpid())) ||
	    dps_lease_take(me->lease) != 0)
		_exit(DPS_EXIT_TEMPORARY);
	// Without the lease the order could still be called off: shim/recovery/berth.c.
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (dps_load64(&me->berth) != dps_seat(ticket, getpid()))
		_exit(DPS_EXIT_TEMPORARY);
	wake(&me->berth);
}

// Where a warden may have put us already.
static void
go_to_core(struct dps_sitter *me, int core, int notify)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set) == 0)
		return;
	// A CPU that went offline, or out of our cpuset, since the start: packets are served by any other.
	// The supervisor says so, and puts us back once it can: dpsup/supervisor/pinning.py.
	if (errno == EINVAL) {
		memset(&set, 0xff, sizeof(set));
		if (sched_setaffinity(0, sizeof(set), &set) == 0)
			return;
	}
	snprintf(me->error, sizeof(me->error), "cannot run on core %d: %s", core, strerror(errno));
	leave(me, notify, DPS_EXIT_CORE);
}

// No core file, unless the plugin asks for one. 1 byte, as 0 does not hold for a core_pattern that is
// a pipe.
static void
forgo_core(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur > 1) {
		limit.rlim_cur = 1;
		setrlimit(RLIMIT_CORE, &limit);
	}
}

// Each process takes its own page faults on the shared hugepages: take them before READY.
static void
fault_in(const struct shared *shared)
{
	for (uint32_t i = 0; i < shared->n_ranges; i++)
		for (uint64_t at = 0; at < shared->range[i].len; at += shared->range[i].page)
			(void)shared->range[i].start[at];
}

// What the primary wrote down for its processes, as it is at the start of this one: any process can
// write there, and this one would follow it.
static const struct dps_ctl *
read_ctl(const struct dps_ctl *shared)
{
	static struct dps_ctl own;
	uint32_t groups = shared->n_groups < DPS_MAX_GROUPS ? shared->n_groups : DPS_MAX_GROUPS;

	memcpy(&own, shared, offsetof(struct dps_ctl, group));
	memcpy(own.group, shared->group, groups * sizeof(own.group[0]));
	return &own;
}

// What a plugin forks is no worker: it gets no packet memory, neither to go on with lanes that are its
// parent's, nor to keep hugepages when the instance has ended.
static void
forgo_children(const struct shared *shared)
{
	for (uint32_t i = 0; i < shared->n_ranges; i++)
		madvise((void *)(uintptr_t)shared->range[i].start, shared->range[i].len, MADV_DONTFORK);
	madvise(shared->sitter, DPS_MAX_SITTERS * sizeof(*shared->sitter), MADV_DONTFORK);
}

// Sleep until a warden says which slot.
static void
wait_for_slot(struct dps_sitter *me, int notify)
{
	uint32_t hand = DPS_HAND_STARTING;

	if (!__atomic_compare_exchange_n(&me->hand, &hand, DPS_HAND_PARKED, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return;
	if (!say_ready(notify))
		_exit(DPS_EXIT_TEMPORARY);
	while ((hand = dps_load32(&me->hand)) != DPS_HAND_GO)
		syscall(SYS_futex, &me->hand, FUTEX_WAIT, hand, NULL, NULL, 0);
}

// The slot is ours from the moment that its seat is; a late worker finds another ticket.
static struct dps_slot *
take_seat(const struct shared *shared, const struct dps_ctl *ctl, struct dps_sitter *me, int notify)
{
	struct dps_slot *slot = shared->slot[me->slot % DPS_MAX_SLOTS];

	go_to_core(me, slot->core, notify);
	if (fence_open_slot(shared, ctl, slot) != 0)
		_exit(DPS_EXIT_TEMPORARY);
	if (!dps_seat_change(&slot->seat, dps_seat(me->ticket, 0),
			     dps_seat(me->ticket, getpid())))
		_exit(DPS_EXIT_TEMPORARY);
	dps_store64(&slot->first_ns, 0);
	slot->ready_ns = me->ready_ns;
	slot->facts = me->facts;
	me->seated_ns = dps_now_ns();
	dps_store32(&me->hand, DPS_HAND_SEATED);
	wake(&me->hand);
	return slot;
}

void
worker_run(const struct shared *shared, struct dps_sitter *me, uint32_t ticket, int notify)
{
	const struct dps_ctl *ctl = read_ctl(shared->ctl);
	const struct dps_group_conf *conf = &ctl->group[me->group % DPS_MAX_GROUPS];
	const struct dps_plugin *plugin;
	struct dps_slot *slot;
	bool is_spare;
	void *state;
	int ret;

	worker = getpid();
	setvbuf(stdout, NULL, _IOLBF, 0);
	forgo_children(shared);
	take_berth(me, ticket);
	ret = fence_raise(shared, ctl, me);
	if (ret != 0) {
		snprintf(me->error, sizeof(me->error), "cannot protect shared memory: %s", strerror(-ret));
		leave(me, notify, DPS_EXIT_TEMPORARY);
	}
	is_spare = dps_load32(&me->hand) != DPS_HAND_GO;
	forgo_core();
	// The watcher stays on the supervisor's cores, where the seed runs.
	ret = watch_start(shared, me);
	if (ret != 0) {
		snprintf(me->error, sizeof(me->error), "no thread: %s", strerror(-ret));
		leave(me, notify, DPS_EXIT_TEMPORARY);
	}
	// What the plugin allocates lies near the core that it will run on.
	if (!is_spare)
		go_to_core(me, shared->slot[me->slot % DPS_MAX_SLOTS]->core, notify);
	ret = plugin_load(ctl, &shared->ctl->view, me, &plugin, &state);
	on_exit(on_leave, me);
	if (ret != 0)
		leave(me, notify, ret);
	fault_in(shared);
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	if (conf->confined &&
	    confine_calls(python_is(conf->version[me->version % DPS_VERSIONS].plugin), me->error,
			  sizeof(me->error)) != 0)
		leave(me, notify, DPS_EXIT_USAGE);
	me->ready_ns = dps_now_ns();
	if (is_spare)
		wait_for_slot(me, notify);
	slot = take_seat(shared, ctl, me, notify);
	plugin_seated(slot->member);
	if (is_spare) {
		worker_rename(shared, slot->group, slot->member);
	} else if (!say_ready(notify)) {
		_exit(DPS_EXIT_TEMPORARY);
	}
	close(notify);

	*plugin_clock() = clock_ns(clock_rate(ctl->tsc_hz), rte_rdtsc());
	if (plugin_takes(slot, plugin, state) != 0)
		_exit(DPS_EXIT_TEMPORARY);
	if (ctl->group[slot->group % DPS_MAX_GROUPS].verify)
		plugin = verify_plugin(plugin, slot);
	worker_loop(ctl, slot, plugin, state, me->counter, plugin_clock());

	if (plugin->fini != NULL)
		plugin->fini(state);
	on_leave(DPS_EXIT_OK, me);
	_exit(DPS_EXIT_OK);
}
