// SPDX-License-Identifier: BSD-3-Clause
//
// The io cores' pulse: a thread of the primary looks at each one's turns. If an io core makes none,
// the primary counts as dead: nothing is received, and no other thread may touch what the io core
// holds. So the process says so and ends, and the workers with it; the supervisor, or the next one,
// starts a new generation. This path has no Python, so it works without a supervisor too.
//
// As with workers (health.c), what counts is time in which it could have got on: CPU that it used
// without ending a turn, or time that it was blocked in one. Waiting for its CPU is neither, however
// long it takes: that is an event, and no more.

#define _GNU_SOURCE
#include <linux/if_packet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lease.h"
#include "primary.h"

enum {
	ROUND_MS = 100,
	GAP_MS = 300,           // between two rounds, beyond which this thread did not get its CPU
	STUCK_MS = 2000,        // a turn takes microseconds
	DISK_MS = 10000         // but for a driver that writes a file: a slow disk is no fault of dpsup
};

static bool
past(uint64_t ns, uint32_t ms)
{
	return ns >= ms * 1000000ull;
}

// One look: so many turns were made, so much CPU was used, and the kernel's letter for what the
// thread does now. What is new, as the kind of a story; 0: nothing is.
int
dps_watchdog_look(struct dps_watchdog *p, uint64_t now_ns, uint64_t turns, uint64_t cpu_ns, int run)
{
	uint64_t gap = now_ns - p->last_ns;
	bool first = p->last_ns == 0;

	p->last_ns = now_ns;
	if (first || turns != p->turns) {
		uint32_t was = p->starved;

		*p = (struct dps_watchdog){
			.turns = turns, .last_ns = now_ns, .since_ns = now_ns, .since_cpu = cpu_ns,
			.last_cpu = cpu_ns,
		};
		return was ? DPS_STORY_IO_FED : 0;
	}
	if (!past(gap, GAP_MS) && cpu_ns == p->last_cpu) {
		if (run == 'S' || run == 't' || run == 'T')
			p->blocked_ns += gap;
		else if (run == 'D')
			p->disk_ns += gap;
	}
	p->last_cpu = cpu_ns;
	if (past(cpu_ns - p->since_cpu, STUCK_MS) || past(p->blocked_ns, STUCK_MS) ||
	    past(p->blocked_ns + p->disk_ns, DISK_MS))
		return DPS_STORY_IO_STUCK;
	if (!p->starved && run == 'R' && past(now_ns - p->since_ns, STUCK_MS) &&
	    (cpu_ns - p->since_cpu) * 2 < now_ns - p->since_ns) {
		p->starved = 1;
		return DPS_STORY_IO_STARVED;
	}
	return 0;
}

static uint64_t
cpu_ns(pthread_t thread)
{
	clockid_t clock;

	return pthread_getcpuclockid(thread, &clock) == 0 ? dps_clock_ns(clock) : 0;
}

// The descriptor that a thread sleeps on, as the kernel has the system call that it is in; -1: none.
static int
fd_asleep(int32_t tid)
{
	unsigned long call, arg;
	char path[64];
	int fd = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	file = fopen(path, "re");
	if (file == NULL)
		return -1;
	if (fscanf(file, "%lu %lx", &call, &arg) == 2) {
		switch (call) {
#ifdef SYS_poll
		case SYS_poll:
#endif
		case SYS_ppoll:
			fd = arg != 0 ? ((const struct pollfd *)arg)->fd : -1;
			break;
		case SYS_read:
		case SYS_readv:
		case SYS_write:
		case SYS_writev:
		case SYS_sendto:
		case SYS_sendmsg:
		case SYS_recvfrom:
		case SYS_recvmsg:
		case SYS_ioctl:
		case SYS_fsync:
			fd = arg;
			break;
		}
	}
	fclose(file);
	return fd;
}

static int
port_of_fd(int fd)
{
	struct sockaddr_ll at = { 0 };
	socklen_t len = sizeof(at);
	char path[64], target[DPS_VDEV];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&at, &len) != 0)
		at.sll_family = 0;
	for (uint32_t i = 0; i < the_primary.n_ports; i++) {
		const struct port *port = &the_primary.port[i];

		if (at.sll_family == AF_PACKET ? at.sll_ifindex == (int)port->info.if_index :
		    target[0] == '/' && strstr(port->vdev, target) != NULL)
			return i;
	}
	return -1;
}

// " in the driver of port wan", where that can be found out: a driver that sleeps is its port's trouble.
// The supervisor reads it (supervisor/blocked.py).
static const char *
where_asleep(int32_t tid)
{
	static char text[64 + DPS_NAME];
	int fd = fd_asleep(tid);
	int port = fd >= 0 ? port_of_fd(fd) : -1;

	if (port < 0)
		return "";
	snprintf(text, sizeof(text), " in the driver of port %s", the_primary.own->port[port]);
	return text;
}

static void
look(const struct io *io, struct dps_watchdog *p)
{
	struct dps_story story = { .slot = DPS_NO_SLOT, .sitter = io->index };
	int32_t tid = __atomic_load_n(&io->tid, __ATOMIC_ACQUIRE);
	uint64_t turns = dps_load64(&io->stats.loops);

	// It ends on request only.
	if (tid == 0 || __atomic_load_n(&io->stop, __ATOMIC_ACQUIRE))
		return;
	story.noticed_ns = dps_now_ns();
	story.pid = tid;
	// The kernel is asked only about one that stands still.
	if (turns != p->turns)
		story.kind = dps_watchdog_look(p, story.noticed_ns, turns, cpu_ns(io->thread), 'R');
	else
		story.kind = dps_watchdog_look(p, story.noticed_ns, turns, cpu_ns(io->thread),
					    thread_state(getpid(), tid));
	if (story.kind == 0)
		return;
	story_tell(&story);
	if (story.kind == DPS_STORY_IO_STUCK) {
		dprintf(STDERR_FILENO,
			"primary: io core %u is stuck%s: no turn ended in %u ms of CPU and %u ms asleep\n",
			io->index, where_asleep(tid),
			(unsigned int)((p->last_cpu - p->since_cpu) / 1000000),
			(unsigned int)((p->blocked_ns + p->disk_ns) / 1000000));
		_exit(DPS_EXIT_IO_STUCK);
	}
}

static void *
watchdog_run(void *arg)
{
	const struct timespec round = { .tv_nsec = ROUND_MS * 1000000L };
	static struct dps_watchdog pulse[DPS_MAX_IO];

	(void)arg;
	for (;;) {
		nanosleep(&round, NULL);
		lease_restore();
		for (uint32_t i = 0; i < the_primary.n_io; i++)
			look(the_primary.io[i], &pulse[i]);
	}
	return NULL;
}

int
watchdog_start(void)
{
	pthread_t thread;

	return thread_start(&thread, watchdog_run, NULL);
}
