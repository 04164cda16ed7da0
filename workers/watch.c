// SPDX-License-Identifier: BSD-3-Clause
//
// The watcher: a thread of each worker, spare and of the seed that ends the process when the primary
// is gone, and when this process's own data thread crashed. It touches no slot.
//
// A crash must not hold up the recovery: tearing down a process takes milliseconds, a core dump
// seconds. So the handler of fatal signals notes what happened and ends its own thread alone, which
// gives the lease back at once; the watcher ends the process afterwards, with the same signal.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fatal.h"
#include "lease.h"
#include "worker.h"

enum {
	ROUND_MS = 100,         // between two looks at the primary's pidfd
	LEASE_MS = 100,         // for the data thread to be gone
	STACK = 64 << 10        // bytes
};

static const struct shared *of;
static struct dps_sitter *me;           // NULL: the seed, which has no lease
static pid_t watcher;
static int crash_bell;                  // signal that wakes the watcher for a crash

// --- the data thread ------------------------------------------------------------------------------

static void
on_fatal(int number, siginfo_t *info, void *context)
{
	void *frame[DPS_FRAMES];
	int n;

	(void)context;
	me->died_ns = dps_now_ns();
	me->code = info->si_code;
	me->sender = info->si_code > 0 ? 0 : info->si_pid;
	me->address = info->si_code > 0 ? (uintptr_t)info->si_addr : 0;
	me->call = number == SIGSYS && info->si_code > 0 ? info->si_syscall : 0;
	n = backtrace(frame, DPS_FRAMES);
	for (int i = 0; i < n; i++)
		me->frame[i] = (uintptr_t)frame[i];
	me->n_frames = n;
	dps_store32(&me->signal, number);
	syscall(SYS_tgkill, getpid(), watcher, crash_bell);
	syscall(SYS_exit, 0);
}

static void
catch_fatal(void)
{
	static char stack[STACK];
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigaltstack(&alternate, NULL);
	// A fault in the handler itself ends the process by the signal's default.
	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(dps_fatal) / sizeof(dps_fatal[0]); i++)
		sigaction(dps_fatal[i], &action, NULL);
}

// --- the watcher ----------------------------------------------------------------------------------

static void
print_crash(void)
{
	// A signal that a process sent, as abort() does, has no address.
	if (me->signal == SIGSYS && me->code > 0)
		fprintf(stderr, "%s: system call %u, which a worker may not make\n", strsignal(me->signal),
			me->call);
	else if (me->code > 0)
		fprintf(stderr, "%s at address %#lx\n", strsignal(me->signal),
			(unsigned long)me->address);
	else
		fprintf(stderr, "%s\n", strsignal(me->signal));
	for (uint32_t i = 0; i < me->n_frames; i++) {
		void *at = (void *)(uintptr_t)me->frame[i];
		Dl_info info;

		if (dladdr(at, &info) == 0)
			fprintf(stderr, "  #%u %p\n", i, at);
		else
			fprintf(stderr, "  #%u %s(%s+%#lx) [%#lx]\n", i, info.dli_fname,
				info.dli_sname != NULL ? info.dli_sname : "",
				(unsigned long)((char *)at - (char *)(info.dli_sname != NULL ?
								      info.dli_saddr :
								      info.dli_fbase)),
				(unsigned long)((char *)at - (char *)info.dli_fbase));
	}
	fflush(stderr);
}

// Runs on the watcher's own stack: the watcher slept in a system call and held no lock.
static void
on_crash(int number)
{
	const struct timespec tick = { .tv_nsec = 100000 };
	sigset_t one;

	(void)number;
	if (dps_load32(&me->signal) == 0)
		return;
	print_crash();
	// A core dump stops threads on their way out, before they give up what they hold.
	for (int i = 0; i < LEASE_MS * 10; i++) {
		if (dps_lease_look(me->lease, getpid()) != DPS_LEASE_HELD)
			break;
		nanosleep(&tick, NULL);
	}
	number = me->signal;
	signal(number, SIG_DFL);
	sigemptyset(&one);
	sigaddset(&one, number);
	syscall(SYS_tgkill, getpid(), watcher, number);
	pthread_sigmask(SIG_UNBLOCK, &one, NULL);
	_exit(128 + number);
}

// By its pidfd, or, where a plugin has put something else in that descriptor's place, by its pid.
static bool
primary_is_gone(int ms)
{
	struct pollfd p = { .fd = of->primary_pidfd, .events = POLLIN };

	return poll(&p, 1, ms) > 0 || (kill(of->primary_pid, 0) != 0 && errno == ESRCH);
}

static void *
watch(void *arg)
{
	// For the seed's other thread to leave, after its workers.
	const struct timespec grace = { .tv_nsec = 700000000 };
	struct dps_ctl *ctl = of->ctl;
	uint32_t owner = ctl->lease_tid;

	if (me != NULL) {
		sigset_t bell;

		signal(crash_bell, on_crash);
		sigemptyset(&bell);
		sigaddset(&bell, crash_bell);
		pthread_sigmask(SIG_UNBLOCK, &bell, NULL);
	}
	__atomic_store_n(&watcher, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	syscall(SYS_futex, &watcher, FUTEX_WAKE, 1, NULL, NULL, 0);
	(void)arg;
	for (;;) {
		// Any process may have written what the word says now, that the primary is dead too: the
		// kernel has the last word, which comes at once where the lease was right.
		bool is_held = dps_lease_look(ctl->lease, owner) == DPS_LEASE_HELD;

		if (primary_is_gone(is_held ? 0 : ROUND_MS)) {
			if (me == NULL)
				nanosleep(&grace, NULL);
			_exit(DPS_EXIT_PRIMARY_GONE);
		}
		if (is_held)
			dps_lease_watch(ctl->lease, owner, ROUND_MS);
	}
	return NULL;
}

int
watch_start(const struct shared *shared, struct dps_sitter *sitter)
{
	sigset_t all, before;
	void *frame[1];
	pthread_t thread;
	int ret;

	if (sitter != NULL) {
		Dl_info info;

		sitter->program_base = dladdr((void *)(uintptr_t)watch_start, &info) != 0 ?
				       (uintptr_t)info.dli_fbase : 0;
		sitter->plugin_base = 0;
		sitter->plugin_digest = 0;
	}
	// Its first call loads a library, which a handler must not: workers have it from the seed.
	backtrace(frame, 1);
	of = shared;
	me = sitter;
	watcher = 0;
	crash_bell = SIGRTMAX;
	// The watcher takes no signal but its bell: fatal ones that are sent to the process are for
	// the data thread.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&thread, NULL, watch, NULL);
	if (ret == 0)
		while (__atomic_load_n(&watcher, __ATOMIC_ACQUIRE) == 0)
			syscall(SYS_futex, &watcher, FUTEX_WAIT, 0, NULL, NULL, 0);
	if (ret == 0 && sitter != NULL)
		catch_fatal();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -ret;
}
