/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_IO_STAGE_PVT_H
#define DPSUP_IO_STAGE_PVT_H

// What the parts of a turn share: the clock of its stages. Included by loop.c alone, through them.

#include <rte_cycles.h>

#include "primary.h"

// In a timed turn, the clock runs for one stage at a time.
static inline void
stage(struct io *io, enum dps_stage next)
{
	uint64_t now;

	if (likely(!io->timed))
		return;
	now = rte_rdtsc();
	dps_count(&io->stats.stage[io->stage], now - io->stage_since);
	io->stage = next;
	io->stage_since = now;
}

#endif
