// SPDX-License-Identifier: BSD-3-Clause
//
// From a fresh fork of the seed to a running worker. No EAL call is made here or later (law 5):
// EAL's threads did not survive the fork, and its shared locks must not be held by whoever may be
// killed. The process leaves by _exit.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

static void __attribute__((noreturn))
leave(struct dps_slot *slot, int notify, int code)
{
	char text[DPS_ERROR + 32];
	int len = snprintf(text, sizeof(text), "REFUSED %d %s\n", code, slot->error);

	if (write(notify, text, len) < 0)
		code = DPS_EXIT_TEMPORARY;
	_exit(code);
}

// A worker without its primary has nobody to work for, and holds that one's hugepages.
static void *
watch(void *arg)
{
	const struct shared *shared = arg;
	struct pollfd p = { .fd = shared->primary_pidfd, .events = POLLIN };

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	_exit(DPS_EXIT_PRIMARY_GONE);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int
pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

// Each process takes its own page faults on the shared hugepages: take them before READY.
static void
fault_in(const struct shared *shared)
{
	for (uint32_t i = 0; i < shared->n_ranges; i++)
		for (uint64_t at = 0; at < shared->range[i].len; at += shared->range[i].page)
			(void)shared->range[i].start[at];
}

void
worker_run(const struct shared *shared, struct dps_slot *slot, uint32_t ticket, int notify)
{
	const struct dps_plugin *plugin;
	pthread_t watcher;
	void *state;
	int ret;

	setvbuf(stdout, NULL, _IOLBF, 0);
	// Late, as the seed died meanwhile: the seat is somebody else's, and not to be touched.
	if (!dps_seat_change(&slot->seat, dps_seat(ticket, 0), dps_seat(ticket, getpid())))
		_exit(DPS_EXIT_TEMPORARY);
	slot->first_ns = 0;
	slot->pid = getpid();
	__atomic_store_n(&slot->state, DPS_SLOT_STARTING, __ATOMIC_RELEASE);
	// The watcher stays on the supervisor's cores, where the seed runs.
	ret = pthread_create(&watcher, NULL, watch, (void *)(uintptr_t)shared);
	if (ret != 0) {
		snprintf(slot->error, sizeof(slot->error), "no thread: %s", strerror(ret));
		leave(slot, notify, DPS_EXIT_TEMPORARY);
	}
	ret = pin(slot->core);
	if (ret != 0) {
		snprintf(slot->error, sizeof(slot->error), "cannot run on core %d: %s", slot->core,
			 strerror(-ret));
		leave(slot, notify, DPS_EXIT_CORE);
	}
	ret = plugin_load(shared->ctl, slot, &plugin, &state);
	if (ret != 0)
		leave(slot, notify, ret);
	fault_in(shared);
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	slot->ready_ns = now_ns();
	dps_store32(&slot->state, DPS_SLOT_READY);
	if (write(notify, "READY\n", 6) != 6)
		_exit(DPS_EXIT_TEMPORARY);
	close(notify);

	worker_loop(shared->ctl, slot, plugin, state);

	dps_store32(&slot->state, DPS_SLOT_LEAVING);
	if (plugin->fini != NULL)
		plugin->fini(state);
	fflush(NULL);
	_exit(DPS_EXIT_OK);
}
