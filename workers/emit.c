// SPDX-License-Identifier: BSD-3-Clause
//
// The worker's half of blanks. loop.c says why a kill cannot send one twice, or half of one.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop.h"
#include "worker.h"

_Static_assert(DPS_PLUGIN_EMITS == DPS_EMITS, "same");

static void __attribute__((noreturn))
misuse(const char *what)
{
	fprintf(stderr, "dps_emit: %s\n", what);
	abort();
}

uint8_t *
dps_emit(uint16_t verdict, uint32_t len)
{
	struct loop *l = touching;
	struct loop_lane *lane;
	uint64_t descriptor;
	uint32_t index;
	uint8_t *data;

	if (l == NULL || l->emits == 0)
		misuse("called outside of packet() and of ticks, or by a plugin that says `emits = 0`");
	if (l->filled + l->missed == l->emits)
		misuse("called more often for one packet or tick than the plugin's `emits` says");
	lane = l->from;
	index = lane->taken + l->filled;
	if (index == lane->blanks)
		lane->blanks = dps_load32(&lane->shared->blanks);
	descriptor = lane->blank[index % DPS_BLANKS];
	if (index == lane->blanks || len == 0 ||
	    len > DPS_FIELD(descriptor, DPS_W_LEN, DPS_W_PORT - DPS_W_LEN)) {
		l->missed++;
		return NULL;
	}
	data = (uint8_t *)(l->base + DPS_FIELD(descriptor, DPS_W_OFFSET, DPS_OFFSET_BITS));
	memset(data, 0, len);
	__atomic_store_n(&lane->blank_word[index % DPS_BLANKS], dps_word_blank(verdict, len, index),
			 __ATOMIC_RELAXED);
	l->filled++;
	return data;
}
