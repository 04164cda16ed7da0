// SPDX-License-Identifier: BSD-3-Clause
//
// The nursery, and the workers that it forks. A worker is stopped whenever it has nothing to do: it stops
// itself (SIGSTOP), and waitpid tells the parent of that as of its death.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "fatal.h"
#include "try.h"

// --- in the children ------------------------------------------------------------------------------

// As watch.c notes a crash; the signal then does what it does by default.
static void
on_fatal(int number, siginfo_t *info, void *context)
{
	struct dps_sitter *me = the_try.sitter;
	void *frame[DPS_FRAMES];
	int n = backtrace(frame, DPS_FRAMES);

	(void)context;
	me->code = info->si_code;
	me->sender = info->si_code > 0 ? 0 : info->si_pid;
	me->address = info->si_code > 0 ? (uintptr_t)info->si_addr : 0;
	for (int i = 0; i < n; i++)
		me->frame[i] = (uintptr_t)frame[i];
	me->n_frames = n;
	dps_store32(&me->signal, number);
	signal(number, SIG_DFL);
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number);
}

static void
catch_fatal(void)
{
	static char stack[64 << 10];
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	void *frame[1];

	backtrace(frame, 1);    // its first call loads a library
	sigaltstack(&alternate, NULL);
	for (size_t i = 0; i < sizeof(dps_fatal) / sizeof(dps_fatal[0]); i++)
		sigaction(dps_fatal[i], &action, NULL);
}

static void
stop_here(void)
{
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGSTOP);
}

static void
run_all(struct loop *l)
{
	while (dps_load32(&the_try.lane->shared->sent) != l->lane[0].done)
		loop_turn(l);
}

static void
run_timed(struct loop *l)
{
	struct board *board = the_try.board;
	struct timespec began, ended;
	uint64_t start;

	clock_gettime(CLOCK_MONOTONIC, &began);
	start = rte_rdtsc();
	run_all(l);
	board->cycles += rte_rdtsc() - start;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	board->ns += (ended.tv_sec - began.tv_sec) * 1000000000ll + ended.tv_nsec - began.tv_nsec;
}

static void __attribute__((noreturn))
worker_main(const struct dps_plugin *plugin, void *state)
{
	struct board *board = the_try.board;
	bool once = board->once;
	struct loop l;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	plugin_seated(0);
	*plugin_clock() = board->now;
	if (plugin_takes(the_try.slot, plugin, state) != 0)
		_exit(DPS_EXIT_TEMPORARY);
	loop_init(&l, the_try.ctl->base, the_try.slot, plugin, state);
	loop_state(&l, the_try.ctl, the_try.sitter->counter);
	for (;;) {
		if (!once)
			stop_here();
		*plugin_clock() = board->now;
		if (board->timed)
			run_timed(&l);
		else
			run_all(&l);
		if (once)
			_exit(0);
	}
}

static void __attribute__((noreturn))
nursery_main(void)
{
	struct board *board = the_try.board;
	const struct dps_plugin *plugin;
	void *state;
	Dl_info info;
	pid_t child;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(2, 1);
	if (the_try.out != NULL)
		close(fileno(the_try.out));
	close(fileno(the_try.report));
	signal(SIGCHLD, SIG_DFL);
	catch_fatal();
	if (dladdr((void *)(uintptr_t)child_start, &info) != 0)
		the_try.sitter->program_base = (uintptr_t)info.dli_fbase;
	board->refused = plugin_load(the_try.ctl, &the_try.ctl->view, the_try.sitter, &plugin, &state);
	if (board->refused != 0)
		_exit(0);
	board->rewrites = plugin->rewrites;
	board->prepends = plugin->prepends;
	board->state_size = plugin->state_size;
	board->bucket_state_size = plugin->bucket_state_size;
	board->state_version = plugin->state_version;
	board->emits = plugin->emits;
	board->needs = plugin->needs;
	board->looks = plugin->look != NULL;
	board->tick_us = plugin->tick_us;
	board->bucket_tick_us = plugin->bucket_tick_us;
	board->has_seated = plugin->seated != NULL;
	board->touches = plugin->state_size + plugin->bucket_state_size > 0 || plugin->emits > 0 ||
			 plugin->needs & DPS_PLUGIN_TOUCHES;
	snprintf(board->name, sizeof(board->name), "%s", plugin->name);
	board->own = (uintptr_t)state;
	board->thread = (uintptr_t)pthread_self();
	board->ready = 1;
	for (;;) {
		stop_here();
		// A child of the parent's, which waits for it.
		child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
		if (child == 0)
			worker_main(plugin, state);
		board->child = child;
	}
}

// --- in the parent --------------------------------------------------------------------------------

static double
clock_of(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec + (double)t.tv_nsec / 1e9 : 0;
}

// What it has used of a CPU, in seconds.
static double
cpu_of(pid_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) == 0 ? clock_of(clock) : 0;
}

// The time is the process's own: on a busy machine it waits for its CPU. One that sleeps gets ten times as
// much.
int
child_wait(pid_t pid)
{
	double end = clock_of(CLOCK_MONOTONIC) + the_try.timeout;
	double most = end + 9 * the_try.timeout, cpu = cpu_of(pid);
	sigset_t child;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG | WUNTRACED | __WALL);
		double now = clock_of(CLOCK_MONOTONIC), left = end - now;
		struct timespec wait;

		if (got == pid)
			return status;
		if (got < 0)
			fail("process %d is gone", (int)pid);
		if (left <= 0) {
			left = the_try.timeout - (cpu_of(pid) - cpu);
			if (left <= 0 || now >= most)
				return -1;
			end = now + left;
		}
		wait.tv_sec = (time_t)left;
		wait.tv_nsec = (long)((left - (double)wait.tv_sec) * 1e9);
		sigtimedwait(&child, NULL, &wait);
	}
}

void
child_go(pid_t pid)
{
	kill(pid, SIGCONT);
}

void
child_end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	do {
		if (waitpid(pid, &status, __WALL) < 0)
			return;
	} while (!WIFEXITED(status) && !WIFSIGNALED(status));
}

void
child_worker(bool once)
{
	int status;

	the_try.sitter->signal = 0;
	the_try.board->once = once;
	child_go(the_try.nursery);
	status = child_wait(the_try.nursery);
	if (status == -1 || !WIFSTOPPED(status) || the_try.board->child <= 0)
		fail("no worker can be forked");
	the_try.worker = the_try.board->child;
}

void
child_start(void)
{
	sigset_t child;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	fflush(NULL);
	the_try.nursery = fork();
	if (the_try.nursery < 0)
		fail("no process can be forked");
	if (the_try.nursery == 0)
		nursery_main();
	sigprocmask(SIG_BLOCK, &child, NULL);
	status = child_wait(the_try.nursery);
	if (status != -1 && WIFSTOPPED(status) && the_try.board->ready)
		return;
	if (status != -1 && the_try.board->refused != 0) {
		fprintf(the_try.report, "{\"t\": \"refused\", \"exit\": %d", the_try.board->refused);
		say_string("why", the_try.sitter->error);
		fputs("}\n", the_try.report);
	} else {
		if (status == -1) {
			kill(the_try.nursery, SIGABRT);
			status = child_wait(the_try.nursery);
			say_death(UINT32_MAX, status, true, "init");
		} else {
			say_death(UINT32_MAX, status, false, "init");
		}
	}
	if (status == -1 || WIFSTOPPED(status))
		child_end(the_try.nursery);
	fclose(the_try.report);
	exit(0);
}
