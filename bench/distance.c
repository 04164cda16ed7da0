// SPDX-License-Identifier: BSD-3-Clause
//
// How far apart two CPUs are: the round trip of a cache line that two threads hand to each other.
// On a virtual machine this changes while it runs, as the host moves virtual CPUs about.

#include <pthread.h>
#include <stdio.h>

#include "bench.h"

enum {
	BATCH = 256,            // round trips between two looks at the clock
	WARM = 64
};

// Odd: the answer is awaited. A line of its own, and the next one too, for the prefetcher.
static struct {
	volatile uint64_t turn;
	char pad[120];
} line __attribute__((aligned(128)));

struct answerer {
	const struct options *o;
	pthread_barrier_t ready;
	volatile bool stop;
};

static void *
answer(void *arg)
{
	struct answerer *a = arg;

	pin(a->o->core[1], a->o->fifo);
	// Where it was born, the other thread may spin with real-time priority.
	pthread_barrier_wait(&a->ready);
	while (!a->stop) {
		uint64_t turn = line.turn;

		if (turn & 1)
			line.turn = turn + 1;
	}
	return NULL;
}

static void
bounce(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t mine = line.turn + 1;

		line.turn = mine;
		while (line.turn == mine)
			;
	}
}

double
round_trip(const struct options *o)
{
	struct answerer a = { .o = o };
	uint64_t start, end, trips = 0;
	pthread_t thread;

	line.turn = 0;
	pthread_barrier_init(&a.ready, NULL, 2);
	if (pthread_create(&thread, NULL, answer, &a) != 0)
		fail("no thread");
	pin(o->core[0], o->fifo);
	pthread_barrier_wait(&a.ready);
	bounce(WARM);
	start = now_ns();
	do {
		bounce(BATCH);
		trips += BATCH;
		end = now_ns();
	} while (end - start < o->ms * 1000000ull);
	a.stop = true;
	pthread_join(thread, NULL);
	return (double)(end - start) / trips;
}

int
run_distance(const struct options *o)
{
	printf("{\"command\": \"distance\", \"cores\": [%d, %d], \"ns\": [", o->core[0], o->core[1]);
	for (uint32_t i = 0; i < o->count; i++)
		printf("%s%.1f", i ? ", " : "", round_trip(o));
	printf("]}\n");
	return 0;
}
