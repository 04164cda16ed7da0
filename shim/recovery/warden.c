// SPDX-License-Identifier: BSD-3-Clause
//
// The wardens: one thread of the primary for each process that the seed forked. It waits for that
// process's end, repairs the lanes that it used, seats a spare in its place, and writes down what
// happened. No Python, no EAL call, no wait for another process without a bound.
//
// A thread each, not one for all: deaths at once are repaired side by side, and one that waits for
// a spare that does not come up keeps nobody else waiting. Asleep they cost a stack, and a look at
// a pidfd once a round.
//
// What a warden acts on (who sits where, by which ticket, which process) is in the primary's own
// memory. What lies in shared memory is for the process to read, and for this file to check.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "lease.h"
#include "primary.h"

enum {
	ROUND_MS = 20,          // between two looks at what the lease does not tell
	SPARE_ROUND_MS = 50,    // of a process that has no slot yet
	SEAT_MS = 100,          // for a spare to take its seat, where there is another one
	LAST_SEAT_MS = 1000,    // and where there is none: a busy CPU is no reason to fork
	GRACE_MS = 1000,        // for a process that crashed to end by itself
	ABORT_MS = 20,          // for one that is stuck to leave its backtrace
	ABORT_MOST_MS = 250,    // the same, while it waits for its CPU
	ABORTING_MS = 5,        // a round meanwhile
	STACK = 256 << 10,      // bytes
	NOBODY = DPS_MAX_SITTERS
};

enum warden_state {
	OFF,                    // nobody; the control thread may open this berth
	AWAITED,                // opened; a process with the ticket may come
	ON                      // it holds its lease
};

struct warden {
	pthread_t thread;
	bool started;
	uint32_t index;
	uint32_t group;
	uint32_t version;       // of the group's plugin
	uint32_t state;         // the control thread: OFF to AWAITED and back; the warden: the rest
	uint32_t slot;          // where it was told to sit; changed under that slot's lock
	uint32_t dead;          // 1: known to be
	uint32_t doomed;        // 1: to be killed: it did not take its seat
	uint32_t told;          // 1: its story is written
	uint32_t watched;       // the slot that its health is of
	struct health health;
	uint64_t abort_ns;      // when it was found stuck, 0: it was not
	uint64_t abort_cpu;     // CPU time that it had used by then, ns
	uint64_t stuck;         // with which packet: slot_in_hand
	int32_t pid;
	int pidfd;              // the warden's alone
};

struct seat {
	pthread_mutex_t lock;
	int32_t core;           // CPU of whoever sits there
	uint32_t ticket;
	uint32_t sitter;        // who may sit, or does: an index, or NOBODY
	uint32_t takeovers;     // that may happen before the supervisor is asked
	bool corrupt;           // what the last one left
	bool failures;          // not after one that left in order
	bool handover;          // who sits there was told to make room
	uint32_t next;          // for this version
	uint64_t since_ns;      // nobody sits; or was told to
	uint64_t story;         // seq of the last death here
};

static struct warden wardens[DPS_MAX_SITTERS];
static struct seat seats[DPS_MAX_SLOTS];
static uint32_t heir[DPS_MAX_GROUPS];           // version of who takes over unasked, or is started
static pthread_mutex_t story_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t stories;                // as in dps_ctl, where a worker may write

static struct dps_sitter *
sitter_of(const struct warden *w)
{
	return &the_primary.ctl->sitter[w->index];
}

static void
futex_wait(const uint32_t *word, uint32_t value, uint32_t ms)
{
	const struct timespec most = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	syscall(SYS_futex, word, FUTEX_WAIT, value, ms > 0 ? &most : NULL, NULL, 0);
}

static void
futex_wake(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

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

// --- processes ------------------------------------------------------------------------------------

static bool
is_gone(int pidfd, int ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

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

static bool
is_alive(int32_t pid)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	bool gone;

	if (pidfd < 0)
		return errno != ESRCH;
	gone = is_gone(pidfd, 0);
	close(pidfd);
	return !gone;
}

// --- seats, all under the slot's lock -------------------------------------------------------------

// Nobody sits there, nor was told to: whoever holds an older ticket comes too late from now on.
static void
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

// Looked at without the lock too, by who then takes it and looks again.
uint64_t
seat_empty_ns(uint32_t slot, bool *offered)
{
	const struct seat *seat = &seats[slot];
	uint32_t sitter = dps_load32(&seat->sitter);

	*offered = sitter != NOBODY;
	if (*offered && dps_load32(&the_primary.ctl->sitter[sitter].hand) == DPS_HAND_SEATED)
		return 0;
	return dps_load64(&seat->since_ns);
}

bool
seat_revoke(uint32_t slot)
{
	struct seat *seat = &seats[slot];

	if (seat->sitter == NOBODY)
		return true;
	if (!dps_seat_change(&the_primary.slot[slot]->seat, dps_seat(seat->ticket, 0),
			     dps_seat(seat->ticket + 1, 0)))
		return false;
	seat->ticket++;
	__atomic_store_n(&wardens[seat->sitter].slot, DPS_NO_SLOT, __ATOMIC_RELEASE);
	seat->sitter = NOBODY;
	return true;
}

// Nobody sits: what was handed back is the last one's, and the rest will be this version's.
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

static void
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

// --- succession -----------------------------------------------------------------------------------

// Do all packets that wait in the slot's lanes carry what this plugin needs?
static bool
lanes_suit(uint32_t slot, const struct dps_facts *facts)
{
	uint32_t needs = facts->needs & (DPS_NEED_VLAN | DPS_NEED_TSC | DPS_NEED_HASH);

	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct lane *lane = &the_primary.io[i]->lane[slot];

		if (needs & ~lane->needs || (facts->rewrites + facts->prepends > 0 && !lane->changes))
			return false;
	}
	return true;
}

static bool
is_spare(const struct warden *w, uint32_t group, uint32_t version)
{
	// Who has a slot is no spare, whatever its own word says.
	return dps_load32(&w->state) == ON && w->group == group && w->version == version &&
	       __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE) == DPS_NO_SLOT &&
	       !dps_load32(&w->dead) && !dps_load32(&w->doomed) &&
	       dps_load32(&sitter_of(w)->hand) == DPS_HAND_PARKED;
}

// A spare of that version, that what waits in the slot's lanes will do for; it is the caller's from
// here on.
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

// Asleep it is moved for nothing; it need not be moved once it runs.
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
			story->seated_ns = RTE_MAX(sitter_of(w)->seated_ns, story->claimed_ns);
			return;
		}
		// It would find its ticket void, if it came at all: dead, stopped, or stuck.
		story->tried++;
		dps_store32(&w->doomed, 1);
		futex_wake(dps_lease_word(sitter_of(w)->lease));
	}
}

// --- stories --------------------------------------------------------------------------------------

static struct dps_story *
story_at(uint64_t seq)
{
	return &the_primary.ctl->story[seq & (DPS_STORIES - 1)];
}

uint64_t
story_tell(const struct dps_story *story)
{
	struct dps_ctl *ctl = the_primary.ctl;
	struct dps_story *at;
	uint64_t seq;

	pthread_mutex_lock(&story_lock);
	seq = stories + 1;
	at = story_at(seq);
	dps_store64(&at->seq, 0);
	*at = *story;
	dps_store64(&at->seq, seq);
	dps_store64(&ctl->stories, seq);
	dps_store64(&stories, seq);
	pthread_mutex_unlock(&story_lock);
	return seq;
}

// The story of a slot's last death ends with the first burst of whoever came after it.
static void
story_end(uint32_t slot, uint64_t noticed_ns)
{
	struct dps_story *last = story_at(seats[slot].story);
	uint64_t first = the_primary.slot[slot]->first_ns;

	if (seats[slot].story != 0 && last->seq == seats[slot].story && first > last->noticed_ns &&
	    first < noticed_ns)
		last->first_ns = first;
}

// --- a warden's work ------------------------------------------------------------------------------

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
		// If it holds its lease now, it did when its pidfd was opened: nobody else's pid.
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

// Somebody wrote to the lease who must not: nothing but the end of the process can be believed.
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

// Is it still of use? One that is not is ended; its death is then like any other.
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

// Until the thread that used the lanes is certainly gone; what said so (DPS_NOTICE_*).
static uint32_t
watch(struct warden *w)
{
	uint64_t *lease = sitter_of(w)->lease;

	for (;;) {
		switch (dps_lease_look(lease, w->pid)) {
		case DPS_LEASE_HELD:
			break;
		case DPS_LEASE_DIED:
			return DPS_NOTICE_LEASE;
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

// Its handler's word on a fatal signal, if there was one.
static void
read_crash(const struct dps_sitter *s, struct dps_story *story)
{
	story->signal = dps_load32(&s->signal);
	// What a stray write left there is nobody's word.
	if (!is_fatal(story->signal)) {
		story->signal = 0;
		return;
	}
	story->code = s->code;
	story->sender = s->sender;
	story->address = s->address;
	story->died_ns = s->died_ns;
	story->n_frames = RTE_MIN(s->n_frames, (uint32_t)DPS_FRAMES);
	memcpy(story->frame, s->frame, sizeof(story->frame));
}

// The version that it was told to make room for; else, and where none of those comes, the heir.
static void
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

static bool
is_named(const struct dps_facts *facts, const char *name)
{
	for (uint32_t i = 0; i < RTE_MIN(facts->n_counters, (uint32_t)DPS_COUNTERS); i++)
		if (strncmp(facts->counter_name[i], name, DPS_NAME) == 0)
			return true;
	return false;
}

// Where a slot sums up a plugin's counter. Of more names than there is room for, one that this plugin
// does not have goes.
static uint64_t *
counter_at(struct dps_slot *s, const struct dps_facts *facts, uint32_t counter)
{
	const char *name = facts->counter_name[counter];
	uint32_t at = 0;

	while (at < DPS_SLOT_COUNTERS && s->counter_name[at][0] != '\0' &&
	       strncmp(s->counter_name[at], name, DPS_NAME) != 0)
		at++;
	// A worker may have written all of these names: any place will do then.
	for (uint32_t i = 0; at == DPS_SLOT_COUNTERS; i++)
		if (i == DPS_SLOT_COUNTERS - 1 || !is_named(facts, s->counter_name[i]))
			at = i;
	if (strncmp(s->counter_name[at], name, DPS_NAME) != 0) {
		memcpy(s->counter_name[at], name, DPS_NAME);
		s->counter_name[at][DPS_NAME - 1] = '\0';
		s->counter[at] = 0;
	}
	return &s->counter[at];
}

// A dead worker's counters go on under their names, whoever comes after it.
static void
keep_counters(struct dps_slot *s, struct dps_sitter *dead)
{
	uint32_t n = RTE_MIN(dead->facts.n_counters, (uint32_t)DPS_COUNTERS);

	for (uint32_t i = 0; i < n; i++)
		dps_count(counter_at(s, &dead->facts, i), dead->counter[i]);
	memset(dead->counter, 0, sizeof(dead->counter));
}

static void
bury_worker(struct warden *w, uint32_t slot, struct dps_story *story)
{
	struct dps_slot *s = the_primary.slot[slot];

	story->slot = slot;
	story_end(slot, story->noticed_ns);
	slot_repair(slot, w->stuck, story);
	seat_open(slot);
	seats[slot].corrupt = story->corrupt;
	story->repaired_ns = dps_now_ns();
	if (!story->corrupt)
		find_successor(w, slot, story);
	if (story->successor == 0)
		rebucket_look();
	keep_counters(s, sitter_of(w));
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
	uint32_t slot;

	dps_store32(&w->dead, 1);
	__atomic_compare_exchange_n(&s->hand, &parked, DPS_HAND_DEAD, 0, __ATOMIC_ACQ_REL,
				    __ATOMIC_ACQUIRE);
	read_crash(s, &story);
	// One that crashed ends by itself, so that its status says of what.
	if (story.signal == 0)
		end(w);
	slot = __atomic_load_n(&w->slot, __ATOMIC_ACQUIRE);
	if (slot != DPS_NO_SLOT) {
		slot_lock(slot);
		// Whoever offered the seat may have taken it back.
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
		if (story.signal != 0 && !is_gone(w->pidfd, GRACE_MS))
			end(w);
		while (!is_gone(w->pidfd, GRACE_MS))
			end(w);
		close(w->pidfd);
	}
	pthread_mutex_lock(&story_lock);
	if (story_at(seq)->seq == seq)
		story_at(seq)->gone_ns = dps_now_ns();
	pthread_mutex_unlock(&story_lock);
	dps_lease_init(s->lease);
	dps_store32(&w->state, OFF);
}

static void *
warden_run(void *arg)
{
	const struct sched_param least = { .sched_priority = 1 };
	struct warden *w = arg;

	// Ahead of what else runs on its CPU, for microseconds each time: else a death on a busy machine
	// is noticed a scheduler's slice late, which is milliseconds. Where it is not permitted, so be it.
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &least);
	for (;;) {
		while (dps_load32(&w->state) == OFF)
			futex_wait(&w->state, OFF, 0);
		if (await(w))
			bury(w, watch(w));
	}
	return NULL;
}

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
	// dpsup/attach.py tells by the name that it takes no lock of EAL's.
	if (ret == 0)
		pthread_setname_np(*thread, "dpsup");
	return -ret;
}

// --- what the control thread asks -----------------------------------------------------------------

// Call off an order that nobody came for. -EBUSY: somebody did, or still may.
static int
call_off(struct warden *w)
{
	struct dps_sitter *s = sitter_of(w);
	uint64_t berth = dps_load64(&s->berth);
	uint32_t pid = (uint32_t)berth;
	uint32_t awaited = AWAITED;

	if (pid != 0 &&
	    (dps_lease_look(s->lease, pid) != DPS_LEASE_NEW || is_alive((int32_t)pid)))
		return -EBUSY;
	if (!dps_seat_change(&s->berth, berth, dps_seat((berth >> 32) + 1, 0)))
		return -EBUSY;
	if (!__atomic_compare_exchange_n(&w->state, &awaited, OFF, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return -EBUSY;
	return 0;
}

// A berth for the next process of a group; its index, or -errno.
static int
berth_open(uint32_t group, uint32_t version, uint32_t *ticket)
{
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		struct warden *w = &wardens[i];
		struct dps_sitter *s = sitter_of(w);
		uint64_t berth = dps_load64(&s->berth);

		if (dps_load32(&w->state) == AWAITED && (uint32_t)berth != 0)
			call_off(w);
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
		*ticket = ((berth >> 32) + 1) & INT32_MAX;
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
	slot_lock(slot);
	if (seat_revoke(slot))
		ret = berth_open(group_of(slot), heir[group_of(slot)], ticket);
	if (ret >= 0) {
		seats[slot].core = core;
		// No stamp of another plugin's may ever match a packet of the next one.
		s->undo = 0;
		s->brief_of = 0;
		s->touched = 0;
		dps_store32(&s->command, DPS_RUN);
		seats[slot].handover = false;
		seat_open(slot);
		// Until the supervisor knows that this one runs, its death is the supervisor's.
		seats[slot].takeovers = 0;
		seat_offer(slot, &wardens[ret]);
		berth_watch(ret);
	}
	slot_unlock(slot);
	return ret;
}

// --- versions -------------------------------------------------------------------------------------

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
		    lanes_suit(slot, &the_primary.ctl->sitter[i].facts))
			return true;
	return false;
}

// Who sits there leaves at the end of its burst, and a spare of that version comes: what is in the
// lanes waits as long as that takes. If it dies before, it is the same.
int
dps_slot_handover(uint32_t slot, uint32_t version)
{
	struct seat *seat = &seats[slot];
	int ret = 0;

	if (slot >= the_primary.n_slots || version >= DPS_VERSIONS)
		return -EINVAL;
	slot_lock(slot);
	if (seat->sitter == NOBODY || dps_load32(&wardens[seat->sitter].dead) ||
	    dps_load32(&the_primary.ctl->sitter[seat->sitter].hand) != DPS_HAND_SEATED ||
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
dps_sitter_version(uint32_t sitter)
{
	return sitter < DPS_MAX_SITTERS ? (int)wardens[sitter].version : -EINVAL;
}

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
	return (uint32_t)dps_load64(&the_primary.ctl->sitter[sitter].berth);
}

int
dps_sitter_pid(uint32_t sitter, uint32_t ticket)
{
	uint64_t berth;

	if (sitter >= DPS_MAX_SITTERS)
		return -EINVAL;
	berth = dps_load64(&sitter_of(&wardens[sitter])->berth);
	return dps_load32(&wardens[sitter].state) != OFF && berth >> 32 == ticket ? (uint32_t)berth : 0;
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

// Who holds a berth, or may yet come for it.
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

uint64_t
dps_stories(void)
{
	return dps_load64(&stories);
}

int
dps_story_get(uint64_t seq, struct dps_story *out)
{
	const struct dps_story *at = story_at(seq);
	uint64_t first;

	pthread_mutex_lock(&story_lock);
	*out = *at;
	pthread_mutex_unlock(&story_lock);
	if (out->seq != seq)
		return -ENOENT;
	if (out->slot == DPS_NO_SLOT || out->first_ns != 0)
		return 0;
	first = dps_load64(&the_primary.slot[out->slot]->first_ns);
	if (seats[out->slot].story == seq && first > out->noticed_ns)
		out->first_ns = first;
	return 0;
}

// The slot's record, with the counters of who sits there. Its facts are those of its version, if
// that is not DPS_VERSIONS.
int
dps_slot_read(uint32_t slot, struct dps_slot *out)
{
	uint32_t sitter;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	memcpy(out, the_primary.slot[slot], sizeof(*out));
	out->version = DPS_VERSIONS;
	sitter = __atomic_load_n(&seats[slot].sitter, __ATOMIC_ACQUIRE);
	if (sitter != NOBODY) {
		const struct dps_sitter *s = &the_primary.ctl->sitter[sitter];
		uint32_t n = RTE_MIN(s->facts.n_counters, (uint32_t)DPS_COUNTERS);

		// Its own: the slot's are written while it sits down.
		if (dps_load32(&s->hand) == DPS_HAND_SEATED) {
			out->facts = s->facts;
			out->version = wardens[sitter].version;
		}
		for (uint32_t i = 0; i < n; i++)
			*counter_at(out, &s->facts, i) += s->counter[i];
	}
	return 0;
}

// --- start ----------------------------------------------------------------------------------------

// Holds the primary's lease for as long as the primary lives.
static void *
hold_lease(void *arg)
{
	struct dps_ctl *ctl = the_primary.ctl;

	if (dps_lease_take(ctl->lease) != 0)
		return NULL;
	__atomic_store_n(&ctl->lease_tid, (int32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	futex_wake(arg);
	for (;;)
		pause();
	return NULL;
}

int
wardens_start(void)
{
	const uint32_t *tid = (const uint32_t *)&the_primary.ctl->lease_tid;
	pthread_t holder;
	int ret;

	for (uint32_t i = 0; i < DPS_MAX_SLOTS; i++) {
		pthread_mutex_init(&seats[i].lock, NULL);
		seats[i].sitter = NOBODY;
	}
	for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++) {
		wardens[i].index = i;
		wardens[i].slot = DPS_NO_SLOT;
		ret = dps_lease_init(the_primary.ctl->sitter[i].lease);
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
