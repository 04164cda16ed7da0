/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_BENCH_H
#define DPSUP_BENCH_H

// What the parts of dpsup-bench share: two pinned threads, clocks, options, JSON on stdout.

#include <stdbool.h>
#include <stdint.h>

// Options of every command; a command ignores those that are none of its own.
struct options {
	int core[2];            // CPUs of the two threads: io core's side, worker's side
	bool fifo;              // real-time priority: for a short sample on busy cores
	uint32_t count;         // runs
	uint32_t ms;            // length of each
	const char *touch;      // lane: only this one; NULL: all
	uint32_t burst;         // 0: all
	uint32_t ring;          // 0: all
};

// Pin the calling thread; with `fifo`, ahead of ordinary ones. Ends the program where that fails.
void pin(int core, bool fifo);

uint64_t now_ns(void);  // CLOCK_MONOTONIC

// ns that a thread of this process was ready to run and had no CPU.
uint64_t waited_ns(int tid);

void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

// ns of a cache line's round trip between the two CPUs, over `ms`.
double round_trip(const struct options *o);

// The commands: exit code.
int run_distance(const struct options *o);
int run_gaps(const struct options *o);
int run_lane(const struct options *o);
int run_cost(const struct options *o);
int run_latency(const struct options *o);

#endif
