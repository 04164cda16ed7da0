/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLES_H
#define DPSUP_TABLES_H

// tables.c: live tables, a worker's half. The builder's is builder.c.

#include <stdbool.h>
#include <stddef.h>

#include "dpsup.h"
#include "dpsup_plugin.h"

// The word that says which copies hold, and its value that this worker works with. Without tables it is
// a word of this process's that never changes.
extern const uint64_t *tables_holds;
extern uint64_t tables_seen;

// Map the group's tables, read-only: `path` is the file. 0, or -1 with the reason in `why`.
int tables_map(const char *path, char *why, size_t len);

// Can the plugin read the tables of its own kind? 0, or -1 with the reason in `why`.
int tables_check(const struct dps_plugin *plugin, char *why, size_t len);

// What dps_env has.
const struct dps_live_table *tables_all(uint32_t *n);

// From now on this process reads as the worker of that slot.
void tables_seat(uint32_t slot, const struct dps_plugin *plugin, void *state);

// Hand control() what an operator has said, in order: what is new, and at first all that is kept.
void tables_control(void);

// Work with the copies that hold.
void tables_enter(void);

// Work with none, as long as the worker sleeps.
void tables_leave(void);

// Between two bursts.
static inline void
tables_turn(void)
{
	if (__builtin_expect(__atomic_load_n(tables_holds, __ATOMIC_ACQUIRE) != tables_seen, 0)) {
		tables_enter();
		tables_control();
	}
}

#endif
