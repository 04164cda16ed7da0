// SPDX-License-Identifier: BSD-3-Clause
//
// shim/tools/perf.c under random lots of packets and ticks: each packet that is collected is one delay,
// and no tick is. Lots are published while others are out, and collected in parts, as take_ticks of
// collect_pvt.h does: the ticks that are next, then packets up to the next tick.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../shim/tools/perf.c"

enum { RING = 64, BURST = 32, TURNS = 20000 };

struct primary the_primary;
static struct io io_core;
static struct dps_slot slot;
static uint16_t tick[RING];

// Instead of the io core's answer.
int
io_ask_all(enum io_op op, uint32_t arg)
{
	(void)op;
	io_core.stopwatch = arg ? stopwatch_of(0) : NULL;
	return 0;
}

void *
own_zalloc(size_t size)
{
	return calloc(1, size);
}

int
main(int argc, char **argv)
{
	struct lane *lane = &io_core.lane[0];
	uint32_t begin = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
	uint64_t packets = 0, ticks = 0;

	srandom(argc > 1 ? atoi(argv[1]) : 1);
	*lane = (struct lane){ .size = RING, .mask = RING - 1, .tick = tick };
	lane->sent = lane->published = lane->collected = begin;
	the_primary.n_io = the_primary.n_slots = 1;
	the_primary.io[0] = &io_core;
	the_primary.slot[0] = &slot;
	if (dps_perf_start(0) != 0)
		return 2;
	for (uint32_t turn = 0; turn < TURNS; turn++) {
		uint32_t room = RING - (lane->sent - lane->collected), n = room ? random() % (room + 1) : 0;
		uint32_t from = lane->collected, back, end;

		for (uint32_t i = 0; i < n; i++)
			tick[lane->sent++ & lane->mask] = random() % 4 == 0;
		if (lane->sent != lane->published) {
			stopwatch_lent(&io_core, lane);
			lane->published = lane->sent;
		}
		back = random() % (lane->published - from + 1);
		back = RTE_MIN(back, (uint32_t)BURST);
		stopwatch_ticks(&io_core, lane);
		for (end = from; end - from < back && tick[end & lane->mask] != 0; end++) {
			tick[end & lane->mask] = 0;
			ticks++;
		}
		for (; end - from < back && tick[end & lane->mask] == 0; end++)
			packets++;
		lane->collected = end;
		stopwatch_back(&io_core, lane);
		if (watches[0]->delays.packets != packets) {
			fprintf(stderr, "turn %u: %lu delays of %lu packets\n", turn,
				(unsigned long)watches[0]->delays.packets, (unsigned long)packets);
			return 1;
		}
	}
	printf("%lu packets, %lu ticks\n", (unsigned long)packets, (unsigned long)ticks);
	return packets > TURNS && ticks > TURNS / 4 ? 0 : 3;
}
