/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_LOOP_H
#define DPSUP_LOOP_H

// The worker's loop, as the worker program and the benchmarks run it.

#include <stdbool.h>

#include "dpsup.h"
#include "dpsup_plugin.h"

struct loop_lane {
	struct dps_lane *shared;
	uint64_t *word;
	const struct dps_meta *meta;
	uint32_t done;                  // as in shared memory; nobody else writes it
	uint32_t sent;                  // as last read
};

struct loop {
	struct dps_slot *slot;
	const struct dps_plugin *plugin;
	void *state;
	uint64_t base;                  // dps_ctl.base
	uint32_t mask;
	uint32_t n_lanes;
	bool first;
	bool saves;                     // the plugin changes bytes
	bool fetches;                   // and looks at them at all
	struct loop_lane lane[DPS_MAX_IO];
};

void loop_init(struct loop *loop, uint64_t base, struct dps_slot *slot,
	       const struct dps_plugin *plugin, void *state);

// One burst of each lane; returns packets.
uint32_t loop_turn(struct loop *loop);

#endif
