// SPDX-License-Identifier: BSD-3-Clause
//
// Is a worker busy, idle, stuck with work, stopped, or starved of its CPU? Its warden looks
// once a round; the worker only counts beats, as it does anyway.
//
// No progress alone says little: a worker that gets no CPU makes none. So what is compared with
// stall_after is time in which it could have got on: CPU that it used without handing anything
// back, or time that it slept in the middle of a packet. A worker that waits for its CPU has
// neither, however long that takes, and is never killed for it.

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lease.h"
#include "primary.h"

enum {
	STILL_MS = 150,         // without a beat, before the kernel is asked: a parked worker has one
				// each 100 ms
	GAP_MS = 100,           // between two rounds, beyond which this thread did not get its CPU
	PF_EXITING = 4,         // the kernel's, in its flags of a thread
	AWAKE_US = 1000         // of CPU in a round, that a sleeping process may use: its watcher's
};

static struct {
	uint64_t stall_ns;
	bool kill_stopped;
} groups[DPS_MAX_GROUPS];

int
dps_group_health(uint32_t group, uint64_t stall_ns, uint32_t kill_stopped)
{
	if (group >= DPS_MAX_GROUPS || stall_ns == 0)
		return -EINVAL;
	groups[group].stall_ns = stall_ns;
	groups[group].kill_stopped = kill_stopped;
	return 0;
}

bool
health_kills_stopped(uint32_t group)
{
	return groups[group].kill_stopped;
}

// CPU time of a process in nanoseconds: all but its data thread sleeps.
uint64_t
health_cpu_ns(int32_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) == 0 ? dps_clock_ns(clock) : 0;
}

// What the kernel says of a thread, from its state on; NULL: nothing.
static const char *
thread_stat(int32_t pid, int32_t tid, char *text, size_t room)
{
	char path[64];
	const char *at;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	len = read(fd, text, room - 1);
	close(fd);
	if (len <= 0)
		return NULL;
	text[len] = '\0';
	at = strrchr(text, ')');
	return at != NULL && at[1] == ' ' && isalpha(at[2]) ? at + 2 : NULL;
}

char
thread_state(int32_t pid, int32_t tid)
{
	char text[256];
	const char *at = thread_stat(pid, tid, text, sizeof(text));

	return at != NULL ? *at : '?';
}

bool
thread_leaves(int32_t pid, int32_t tid)
{
	char text[256], state;
	const char *at = thread_stat(pid, tid, text, sizeof(text));
	unsigned int flags;

	if (at == NULL)
		return true;
	if (sscanf(at, "%c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
		return false;
	return flags & PF_EXITING || state == 'Z' || state == 'X';
}

// Does it write its core file?
int
dps_process_dumps(int32_t pid)
{
	char path[64], text[4096];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return 0;
	text[len] = '\0';
	return strstr(text, "\nCoreDumping:\t1\n") != NULL;
}

bool
health_waits(int32_t pid, uint64_t cpu)
{
	return thread_state(pid, pid) == 'R' && health_cpu_ns(pid) < cpu + AWAKE_US * 1000ull;
}

// Something that changes with every packet handed back, and whether there are any to hand back.
static uint64_t
progress_of(uint32_t slot, bool *has_work)
{
	uint64_t sum = 0;

	*has_work = false;
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct lane *lane = &the_primary.io[i]->lane[slot];
		uint32_t done = dps_load32(&lane->shared->done);
		uint32_t out = dps_load32(&lane->published) - done;

		// In a burst, `done` stands still while verdicts are written.
		for (uint32_t k = 0; k < out && k < DPS_BURST; k++)
			sum += dps_word_is_done(lane_get(lane, done + k));
		sum += done;
		*has_work |= out != 0;
	}
	return sum;
}

void
health_begin(struct health *h)
{
	*h = (struct health){ .was_idle = true };
	h->last_ns = dps_now_ns();
	h->beat_ns = h->last_ns;
}

static uint32_t
changed(struct health *h, uint32_t is)
{
	uint32_t was = h->is;

	h->is = is;
	if (is == was)
		return 0;
	if (is != 0)
		return is;
	return was == DPS_STORY_STOPPED ? DPS_STORY_CONTINUED : DPS_STORY_FED;
}

static uint32_t
judge(struct health *h, char run, bool has_work, uint64_t now, uint64_t stall_ns)
{
	if (run == 'T' || run == 't')
		// Twice in a row: debuggers stop a process for moments.
		return ++h->stops > 1 ? changed(h, DPS_STORY_STOPPED) : 0;
	h->stops = 0;
	if (h->is == DPS_STORY_STOPPED)
		return changed(h, 0);
	if (!has_work)
		return 0;
	if (h->last_cpu - h->since_cpu >= stall_ns || h->slept_ns >= stall_ns)
		return changed(h, DPS_STORY_STUCK);
	if (now - h->since_ns >= stall_ns && run != 'S' &&
	    (h->last_cpu - h->since_cpu) * 2 < now - h->since_ns)
		return changed(h, DPS_STORY_STARVED);
	return 0;
}

// The change since the last round, as the kind of a story; 0: none.
uint32_t
health_look(struct health *h, uint32_t slot, int32_t pid)
{
	const struct dps_slot *s = the_primary.slot[slot];
	uint64_t now = dps_now_ns();
	uint64_t beats = dps_load64(&s->beats);
	bool has_work;
	uint64_t progress = progress_of(slot, &has_work);
	bool idle = !has_work || dps_load32(&s->parks) & 1;
	bool got_on = progress != h->progress;
	bool alive = got_on || (idle && beats != h->beats);
	// A process that was reaped meanwhile has used 0: no less than it had.
	uint64_t cpu = idle ? 0 : RTE_MAX(health_cpu_ns(pid), h->was_idle ? 0 : h->last_cpu);
	uint64_t gap = now - h->last_ns;
	char run = '?';

	if (beats != h->beats)
		h->beat_ns = now;
	// The clock runs from the first look that finds it with work: late, never early.
	if (idle || h->was_idle || got_on) {
		h->since_ns = now;
		h->since_cpu = cpu;
		h->slept_ns = 0;
	} else {
		run = thread_state(pid, pid);
		if (run != 'S')
			h->slept_ns = 0;
		else if (h->last_run == 'S' && cpu - h->last_cpu < AWAKE_US * 1000ull &&
			 gap < GAP_MS * 1000000ull)
			h->slept_ns += gap;
	}
	if (idle && now - h->beat_ns >= STILL_MS * 1000000ull)
		run = thread_state(pid, pid);
	h->was_idle = idle;
	h->progress = progress;
	h->beats = beats;
	h->last_ns = now;
	h->last_cpu = cpu;
	h->last_run = run;
	if (!alive)
		return judge(h, run, !idle, now, groups[group_of(slot)].stall_ns);
	h->stops = 0;
	return changed(h, 0);
}
