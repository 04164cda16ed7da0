// SPDX-License-Identifier: BSD-3-Clause
//
// How long a CPU is away from a thread that only polls on it: timer ticks, interrupts, the
// hypervisor, other threads. Packets that fall into a gap are late.

#include <stdio.h>

#include <rte_cycles.h>

#include "bench.h"

enum {
	GAP_US = 5,             // a look at the clock takes some 10 ns
	CLOCK_MS = 20           // so that a gap in it is a thousandth
};

static double
cycles_us(void)
{
	uint64_t start = now_ns(), begin = rte_rdtsc();
	uint64_t now;

	do
		now = now_ns();
	while (now - start < CLOCK_MS * 1000000ull);
	return (rte_rdtsc() - begin) * 1000.0 / (now - start);
}

static void
gaps(int core, uint32_t ms)
{
	uint64_t begin, before, now, end, least;
	uint64_t gone = 0, longest = 0;
	uint32_t n = 0;
	double us;

	pin(core, false);
	us = cycles_us();
	least = GAP_US * us;
	begin = before = rte_rdtsc();
	end = begin + ms * 1000.0 * us;
	do {
		now = rte_rdtsc();
		if (now - before >= least) {
			gone += now - before;
			longest = now - before > longest ? now - before : longest;
			n++;
		}
		before = now;
	} while (now < end);
	printf("{\"core\": %d, \"share\": %.6f, \"per_s\": %.1f, \"longest_us\": %.1f}", core,
	       (double)gone / (now - begin), n * 1000.0 / ms, longest / us);
}

int
run_gaps(const struct options *o)
{
	printf("{\"command\": \"gaps\", \"results\": [");
	for (uint32_t i = 0; i < 2; i++) {
		printf("%s", i ? ", " : "");
		gaps(o->core[i], o->ms);
	}
	printf("]}\n");
	return 0;
}
