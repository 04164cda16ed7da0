/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A block of state that becomes another version's, killed at each of its instructions: workers/state.c,
 * stepped by ptrace. At each store a copy of the block goes to the next worker, of either version.
 *
 * A block of version v holds `n` numbers of 4 v bytes. Each worker counts one into each number after it
 * has opened the block, so that what was kept is not what is there.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"
#include "worker.h"

enum { NUMBERS = 6, ROOM = 256, ONE = 1, TWO = 2 };

struct whole {
	struct dps_state_head head;
	uint8_t bytes[ROOM] __attribute__((aligned(16)));
};

/* What is about to happen to the block, and what the worker of each version finds after a kill. */
struct way {
	const char *name;
	bool back;              /* version 1 knows version 2 */
	bool again;             /* another rollout has begun since */
};

static const struct way *way;
static uint64_t forgotten;
static uint32_t epoch = 1;
static unsigned checks;
static pid_t child;            /* that is stepped */

static uint64_t
number_of(const void *bytes, uint32_t version, int i)
{
	return version == ONE ? ((const uint32_t *)bytes)[i] : ((const uint64_t *)bytes)[i];
}

static void
put(void *bytes, uint32_t version, int i, uint64_t number)
{
	if (version == ONE)
		((uint32_t *)bytes)[i] = (uint32_t)number;
	else
		((uint64_t *)bytes)[i] = number;
}

static uint32_t
size_of(uint32_t version)
{
	return NUMBERS * 4 * version;
}

static int
migrate(uint32_t from, uint32_t to, const void *old, uint32_t size, void *fresh)
{
	if (size != size_of(from))
		return -1;
	for (int i = 0; i < NUMBERS; i++)
		put(fresh, to, i, number_of(old, from, i));
	return 0;
}

static int
to_two(const void *old, uint32_t size, uint32_t version, void *fresh)
{
	return version == ONE ? migrate(ONE, TWO, old, size, fresh) : -1;
}

static int
to_one(const void *old, uint32_t size, uint32_t version, void *fresh)
{
	return version == TWO ? migrate(TWO, ONE, old, size, fresh) : -1;
}

static bool
open_as(struct whole *w, uint32_t version)
{
	static uint8_t fresh[ROOM];
	const struct state_block block = { &w->head, w->bytes, ROOM };
	const struct state_owner owner = {
		.stamp = 0x77ull << 32 | version,
		.size = size_of(version),
		.epoch = epoch,
		.migrate = version == TWO ? to_two : way->back ? to_one : NULL,
		.fresh = fresh,
		.forgotten = &forgotten,
	};

	return state_open(&block, &owner);
}

static void
count(struct whole *w, uint32_t version)
{
	for (int i = 0; i < NUMBERS; i++)
		put(w->bytes, version, i, number_of(w->bytes, version, i) + 1);
}

static void
wrong(const char *what, uint32_t version, uint64_t found, uint64_t wanted)
{
	printf("%s: version %u %s: %lu, not %lu\n", way->name, version, what, (unsigned long)found,
	       (unsigned long)wanted);
	if (child > 0)
		kill(child, SIGKILL);
	exit(1);
}

static void
expect(const struct whole *from, uint32_t version, uint64_t wanted)
{
	struct whole w = *from;
	bool warm = open_as(&w, version);

	checks++;
	for (int i = 0; i < NUMBERS; i++)
		if (number_of(w.bytes, version, i) != wanted)
			wrong("finds", version, number_of(w.bytes, version, i), wanted);
	if (wanted != 0 && !warm)
		wrong("is warm", version, warm, true);
}

/* Step a child that opens the block as `version`; at each change of it, `check` looks at a copy. */
static void
stepped(struct whole *w, uint32_t version, void (*check)(const struct whole *))
{
	struct whole last = *w;
	int status;

	child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		open_as(w, version);
		_exit(0);
	}
	check(&last);
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		if (memcmp(&last, w, sizeof(last)) != 0) {
			last = *w;
			check(&last);
		}
		if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0)
			break;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		wrong("ended with", version, (uint64_t)status, 0);
	check(w);
}

/* 100 were counted by version 1. */
static void
check_forward(const struct whole *w)
{
	expect(w, TWO, 100);
	expect(w, ONE, 100);
}

/* 1 more by version 2, which is taken back. */
static void
check_back(const struct whole *w)
{
	/* Put back by now, and started once more: both are right. */
	struct whole copy = *w;

	expect(w, ONE, way->again && !way->back ? 0 : way->back ? 101 : 100);
	open_as(&copy, ONE);
	count(&copy, ONE);
	/* What began with zeroes is no successor of the 101 that version 2 had. */
	expect(&copy, TWO, way->back ? 102 : 101);
}

/* 101 were kept of version 2 as version 1 began anew, and it counted 1. */
static void
check_mine(const struct whole *w)
{
	struct whole copy = *w;

	expect(w, TWO, 101);
	open_as(&copy, TWO);
	count(&copy, TWO);
	expect(&copy, TWO, 102);
}

int
main(void)
{
	static const struct way ways[] = {
		{ "taken back", false, false },
		{ "taken back, and migrated back", true, false },
		{ "a later rollout back", false, true },
		{ "a later rollout back, and migrated", true, true },
	};
	struct whole *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (way = ways; way < ways + sizeof(ways) / sizeof(ways[0]); way++) {
		memset(w, 0, sizeof(*w));
		open_as(w, ONE);
		for (int i = 0; i < 100; i++)
			count(w, ONE);
		stepped(w, TWO, check_forward);
		count(w, TWO);
		epoch += way->again;
		stepped(w, ONE, check_back);
		if (way->again && !way->back) {
			count(w, ONE);
			stepped(w, TWO, check_mine);
			/* A rollout later, what version 1 has is older, and all that there is. */
			open_as(w, ONE);
			count(w, ONE);
			epoch++;
			expect(w, TWO, 1);
		}
	}
	/* A stray store over a block's head, which a worker may do: the block is forgotten, and nothing else. */
	way = ways + 3;
	for (int i = 0; i < 4; i++) {
		memset(w, 0, sizeof(*w));
		open_as(w, ONE);
		count(w, ONE);
		w->head.size = (uint64_t[]){ UINT64_MAX, UINT64_MAX >> 1, 1ull << 63, ROOM + 1 }[i];
		expect(w, TWO, 0);
		w->head.stamp = UINT64_MAX;
		expect(w, ONE, 0);
	}
	printf("%u states\n", checks);
	return 0;
}
