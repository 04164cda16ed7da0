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
	const uint64_t *blank;          // descriptors of blanks
	uint64_t *blank_word;           // and what the packets in hand say of them
	uint32_t done;                  // as in shared memory; only this worker writes it
	uint32_t sent;                  // as last read
	uint32_t ticked;                // likewise, after it: the ticks below `sent` are known
	uint32_t alone;                 // packets that are still to be looked at one by one
	uint32_t taken;                 // blanks, by the packets that have verdicts
	uint32_t blanks;                // lent, as last read
};

// Of each packet's bytes, before the plugin may change them.
enum loop_saves {
	LOOP_SAVES_NOT,
	LOOP_SAVES_BRIEF,               // dps_slot.brief
	LOOP_SAVES                      // dps_slot.undo
};

struct loop {
	struct dps_slot *slot;
	const struct dps_plugin *plugin;
	void *state;
	uint64_t base;                  // dps_ctl.base
	uint32_t mask;
	uint32_t n_lanes;
	bool first;
	enum loop_saves saves;
	bool fetches;                   // the plugin looks at bytes
	bool touches;                   // and changes state that outlives the process, or fills blanks
	bool looks;                     // and sees a burst before its packets
	uint32_t emits;                 // most blanks for each packet
	struct loop_lane *from;         // of the packet in hand
	uint32_t filled;                // by the packet in hand
	uint32_t missed;                // likewise: there was none
	uint32_t ticks;                 // of this turn
	uint64_t stamp;                 // of the packet in hand, dps_undo_stamp
	uint8_t *bucket;                // state of its bucket, NULL: none
	uint32_t bucket_size;
	uint64_t block_size;
	uint8_t *block;                 // state of the slot, NULL: none
	uint64_t *counters;             // the plugin's
	struct loop_buckets {
		uint8_t *head;          // the first bucket's dps_state_head, NULL: none
		uint32_t stride;        // bytes
		uint64_t stamp;         // that makes a block the plugin's
		uint64_t room;          // bytes that each block may have, with what is kept
	} buckets;
	struct dps_perf *perf;          // what is measured while dps_slot.perf asks
	struct loop_lane lane[DPS_MAX_IO];
};

void loop_init(struct loop *loop, uint64_t base, struct dps_slot *slot,
	       const struct dps_plugin *plugin, void *state);

// After loop_init, for plugins that touch state: where it lies.
void loop_state(struct loop *loop, const struct dps_ctl *ctl, uint64_t *counters);

// One burst of each lane; returns packets.
uint32_t loop_turn(struct loop *loop);

// perf.c: before a measured burst, and after it. `word`: its descriptors; they are verdicts by now, and
// the packets not handed back yet.
void perf_begin(struct loop *loop, uint32_t asked);
void perf_note(struct loop *loop, uint32_t lane, const uint64_t *word, uint32_t n, uint64_t tsc,
	       uint64_t cycles);

// state.c
extern struct loop *touching;
uint64_t state_stamp(const struct dps_plugin *plugin);

struct state_block {
	struct dps_state_head *head;
	uint8_t *bytes;
	uint64_t room;                  // bytes, with what is kept
};

struct state_owner {
	uint64_t stamp;
	uint64_t size;                  // bytes
	uint32_t epoch;
	int (*migrate)(const void *old, uint32_t old_size, uint32_t old_version, void *fresh);
	uint8_t *fresh;                 // [size], where `migrate` is not NULL
	uint64_t *forgotten;            // counts what it refused
};

bool state_open(const struct state_block *block, const struct state_owner *owner);
void state_open_bucket(struct loop *loop, struct dps_state_head *head);

#endif
