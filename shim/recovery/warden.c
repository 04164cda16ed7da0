// SPDX-License-Identifier: BSD-3-Clause
//
// The wardens: one thread of the primary for each process that the seed forked. It waits for that
// process's end, repairs the lanes that it used, seats a spare in its place, and writes down what
// happened. It runs no Python, makes no EAL call, and waits for no process without a bound.
//
// A thread each, not one for all: deaths at once are repaired side by side, and one that waits for
// a spare that does not come up delays no other repair. Asleep they cost a stack, and a look at a
// pidfd once a round.
//
// What a warden acts on (which process sits in which slot, by which ticket) is in the primary's own
// memory. Shared memory is for the process to read; what it writes there this file checks.

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "lease.h"
#include "warden_pvt.h"

enum {
	ROUND_MS = 20,          // between two looks at what the lease does not tell
	SPARE_ROUND_MS = 50,    // of a process that has no slot yet
	GRACE_MS = 1000,        // for a process that crashed to end by itself
	CORE_MS = 60000,        // the same, while it writes its core file
	ABORT_MS = 20,          // for one that is stuck to leave its backtrace
	ABORT_MOST_MS = 250,    // the same, while it waits for its CPU
	ABORTING_MS = 5,        // a round meanwhile
	CLAIM_MS = 1000,        // from a claim to the offer of the seat: microseconds
	STACK = 256 << 10       // bytes
};

struct warden wardens[DPS_MAX_SITTERS];

static void
send_signal(const struct warden *w, int number)
{
	if (w->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, w->pidfd, number, NULL, 0);
}

static void
end(const struct warden *w)
{
	send_signal(w, SIGKILL);
}

// --- the life of a process ------------------------------------------------------------------------

// Until the process has its lease. False: the control thread has called it off.
static bool
await(struct warden *w)
{
	struct dps_sitter *s = sitter_of(w);
	const uint32_t *berth = (const uint32_t *)&s->berth;    // the low half, the pid

	while (dps_load32(&w->state) == AWAITED) {
		uint32_t pid = dps_load32(berth);
		uint32_t awaited = AWAITED;
		enum dps_lease_state lease;

		lease = dps_lease_look(s->lease, pid);
		if (pid == 0 || lease == DPS_LEASE_NEW || lease == DPS_LEASE_STRANGE) {
			futex_wait(berth, pid, ROUND_MS);
			continue;
		}
		// If it holds its lease now, it did when its pidfd was opened: the pid was not reused.
		w->pidfd = syscall(SYS_pidfd_open, pid, 0);
		lease = dps_lease_look(s->lease, pid);
		if (lease == DPS_LEASE_DIED && w->pidfd >= 0) {
			close(w->pidfd);
			w->pidfd = -1;
		} else if (lease != DPS_LEASE_DIED && w->pidfd < 0) {
			futex_wait(berth, pid, ROUND_MS);
			continue;
		}
		w->pid = pid;
		if (__atomic_compare_exchange_n(&w->state, &awaited, ON, 0, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return true;
		if (w->pidfd >= 0)
			close(w->pidfd);
	}
	return false;
}

// A stray write hit the lease: the process's exit is the only reliable evidence.
static uint32_t
doubt(const struct warden *w)
{
	do
		end(w);
	while (!is_gone(w->pidfd, ROUND_MS));
	return DPS_NOTICE_DOUBT;
}

static void
tell_health(const struct warden *w, uint32_t slot, uint32_t kind)
{
	const struct dps_story story = {
		.kind = kind,
		.slot = slot,
		.sitter = w->index,
		.pid = w->pid,
		.noticed_ns = dps_now_ns(),
	};

	story_tell(&story);
}

// Is the process still of use? If not, it is ended; its death is then like any other.
static void
check_health(struct warden *w)
{
	uint32_t slot = __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE);
	uint32_t news;

	if (w->abort_ns != 0) {
		uint64_t since = dps_now_ns() - w->abort_ns;

		if (since >= ABORT_MOST_MS * 1000000ull ||
		    (since >= ABORT_MS * 1000000ull && !health_waits(w->pid, w->abort_cpu)))
			end(w);
		return;
	}
	if (slot == DPS_NO_SLOT)
		return;
	if (w->watched != slot) {
		if (dps_load32(&sitter_of(w)->hand) != DPS_HAND_SEATED)
			return;
		w->watched = slot;
		health_begin(&w->health);
		return;
	}
	news = health_look(&w->health, slot, w->pid);
	if (news == 0)
		return;
	tell_health(w, slot, news);
	if (news == DPS_STORY_STUCK) {
		w->stuck = slot_in_hand(slot);
		w->abort_cpu = health_cpu_ns(w->pid);
		w->abort_ns = dps_now_ns();
		send_signal(w, SIGABRT);
	} else if (news == DPS_STORY_STOPPED && health_kills_stopped(w->group)) {
		end(w);
	}
}

static uint32_t
round_ms(const struct warden *w)
{
	if (w->abort_ns != 0)
		return ABORTING_MS;
	return w->watched == DPS_NO_SLOT ? SPARE_ROUND_MS : ROUND_MS;
}

// Wait until the thread that used the lanes is certainly gone. Returns the evidence (DPS_NOTICE_*).
static uint32_t
watch(struct warden *w)
{
	uint64_t *lease = sitter_of(w)->lease;

	for (;;) {
		switch (dps_lease_look(lease, w->pid)) {
		case DPS_LEASE_HELD:
			break;
		case DPS_LEASE_DIED:
			// That mark too may be a stray write's. The lease only says when to ask.
			if (w->pidfd < 0 || thread_leaves(w->pid, w->pid))
				return DPS_NOTICE_LEASE;
			return doubt(w);
		default:
			return doubt(w);
		}
		if (dps_load32(&w->doomed))
			end(w);
		if (is_gone(w->pidfd, 0))
			return dps_lease_look(lease, w->pid) == DPS_LEASE_DIED ? DPS_NOTICE_LEASE :
									   DPS_NOTICE_PIDFD;
		check_health(w);
		dps_lease_wait(lease, w->pid, round_ms(w));
	}
}

// --- its death ------------------------------------------------------------------------------------

// What its handler noted of a fatal signal, if there was one.
static void
read_crash(const struct dps_sitter *s, struct dps_story *story)
{
	story->signal = dps_load32(&s->signal);
	// Ignore what a stray write left there.
	if (!is_fatal(story->signal)) {
		story->signal = 0;
		return;
	}
	story->code = s->code;
	story->sender = s->sender;
	story->address = s->address;
	story->call = story->signal == SIGSYS && story->code > 0 ? s->call : 0;
	story->died_ns = RTE_MIN(dps_load64(&s->died_ns), story->noticed_ns);
	story->program_base = s->program_base;
	story->plugin_base = s->plugin_base;
	story->plugin_digest = s->plugin_digest;
	story->n_frames = RTE_MIN(dps_load32(&s->n_frames), (uint32_t)DPS_FRAMES);
	memcpy(story->frame, s->frame, sizeof(story->frame));
}

static void
bury_worker(struct warden *w, uint32_t slot, struct dps_story *story)
{
	story->slot = slot;
	story_end(slot, story->noticed_ns);
	slot_repair(slot, w->stuck, story);
	// While they are still read as its own: a reader of the slot sees no count fall.
	keep_counters(slot, sitter_of(w));
	seat_open(slot);
	seats[slot].corrupt = story->corrupt;
	story->repaired_ns = dps_now_ns();
	if (!story->corrupt)
		find_successor(w, slot, story);
	if (story->successor == 0)
		rebucket_look();
	seats[slot].story = story_tell(story);
}

static void
bury(struct warden *w, uint32_t notice)
{
	struct dps_sitter *s = sitter_of(w);
	struct dps_story story = {
		.kind = DPS_STORY_DEATH,
		.slot = DPS_NO_SLOT,
		.sitter = w->index,
		.pid = w->pid,
		.notice = notice,
		.hung = w->abort_ns != 0,
		.noticed_ns = dps_now_ns(),
	};
	uint32_t parked = DPS_HAND_PARKED;
	uint64_t seq = 0;
	uint32_t ms = 0;
	uint32_t slot;

	dps_store32(&w->dead, 1);
	__atomic_compare_exchange_n(&s->hand, &parked, DPS_HAND_DEAD, 0, __ATOMIC_ACQ_REL,
				    __ATOMIC_ACQUIRE);
	read_crash(s, &story);
	// A process that crashed ends by itself, so that its status names the signal.
	if (story.signal == 0)
		end(w);
	// Another warden is about to offer it a seat, under that slot's lock: it takes it back.
	while (dps_load32(&s->hand) == DPS_HAND_CLAIMED && ms++ < CLAIM_MS)
		futex_wait(&s->hand, DPS_HAND_CLAIMED, 1);
	slot = __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE);
	if (slot != DPS_NO_SLOT) {
		slot_lock(slot);
		// The thread that offered the seat may have taken it back.
		if (w->slot == slot) {
			bury_worker(w, slot, &story);
			seq = seats[slot].story;
		}
		slot_unlock(slot);
	}
	if (seq == 0)
		seq = story_tell(&story);
	dps_store32(&w->told, 1);
	if (w->pidfd >= 0) {
		// Its slot has a successor: a core file costs its berth and memory, for so long.
		for (uint32_t i = 0; !is_gone(w->pidfd, GRACE_MS); i++)
			if (i * GRACE_MS >= CORE_MS || !dps_process_dumps(w->pid))
				end(w);
		close(w->pidfd);
	}
	story_gone(seq);
	dps_lease_init(s->lease);
	dps_store32(&w->state, OFF);
}

void *
warden_run(void *arg)
{
	const struct sched_param least = { .sched_priority = 1 };
	struct warden *w = arg;

	// Run ahead of other threads on this CPU, for microseconds each time: otherwise, on a busy
	// machine, a death is noticed a scheduler's slice late, which is milliseconds. Wardens work
	// without this permission too.
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &least);
	for (;;) {
		while (dps_load32(&w->state) == OFF)
			futex_wait(&w->state, OFF, 0);
		if (await(w))
			bury(w, watch(w));
	}
	return NULL;
}

// --- start ----------------------------------------------------------------------------------------

int
thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int ret;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(thread, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	// dpsup/primary/eal_locks.py tells by the name that it takes no lock of EAL's.
	if (ret == 0)
		pthread_setname_np(*thread, "dpsup");
	return -ret;
}

// Holds the primary's lease for as long as the primary lives.
static void *
hold_lease(void *arg)
{
	if (dps_lease_take(the_primary.ctl->lease) != 0)
		return NULL;
	// Workers wait for it, and cannot write so.
	__atomic_fetch_or(dps_lease_word(the_primary.ctl->lease), FUTEX_WAITERS, __ATOMIC_ACQ_REL);
	__atomic_store_n(&the_primary.own->lease_tid, (int32_t)syscall(SYS_gettid),
			 __ATOMIC_RELEASE);
	futex_wake(arg);
	for (;;)
		pause();
	return NULL;
}

int
wardens_start(void)
{
	const uint32_t *tid = (const uint32_t *)&the_primary.own->lease_tid;
	pthread_t holder;
	int ret;

	for (uint32_t i = 0; i < DPS_MAX_SLOTS; i++) {
		pthread_mutex_init(&seats[i].lock, NULL);
		seats[i].sitter = NOBODY;
	}
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		wardens[i].index = i;
		wardens[i].slot = DPS_NO_SLOT;
		ret = dps_lease_init(the_primary.sitter[i].lease);
		if (ret != 0)
			return ret;
	}
	ret = dps_lease_init(the_primary.ctl->lease);
	if (ret != 0)
		return ret;
	ret = thread_start(&holder, hold_lease, (void *)(uintptr_t)tid);
	if (ret != 0)
		return ret;
	while (dps_load32(tid) == 0)
		futex_wait(tid, 0, ROUND_MS);
	return 0;
}

// The word says which thread holds the lease; a stray write would have it say that the primary is dead, or
// nothing, for as long as the primary lives.
void
lease_restore(void)
{
	static uint32_t times;
	uint32_t tid = the_primary.own->lease_tid;
	uint32_t *word = dps_lease_word(the_primary.ctl->lease);
	uint32_t seen = dps_load32(word);

	if (seen == (tid | FUTEX_WAITERS) ||
	    !__atomic_compare_exchange_n(word, &seen, tid | FUTEX_WAITERS, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return;
	// One that is written all the time is said less and less often.
	if ((times & (times + 1)) == 0)
		dprintf(STDERR_FILENO, "primary: a process wrote %#x to the primary's lease: put right\n",
			seen);
	times++;
}
