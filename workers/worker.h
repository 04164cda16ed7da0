/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_WORKER_H
#define DPSUP_WORKER_H

// The worker program: one executable, the seed that attaches and the workers that it forks.

#include <stdbool.h>

#include "dpsup.h"
#include "dpsup_plugin.h"

_Static_assert(DPS_PLUGIN_VLAN == DPS_NEED_VLAN && DPS_PLUGIN_TIMESTAMP == DPS_NEED_TSC &&
		       DPS_PLUGIN_HASH == DPS_NEED_HASH,
	       "same");
_Static_assert(DPS_PLUGIN_REASONS == DPS_REASONS && DPS_PLUGIN_COUNTERS == DPS_COUNTERS, "same");
_Static_assert(DPS_PLUGIN_TICK_US == DPS_TICK_US && DPS_PLUGIN_BUCKET_TICK_US == DPS_BUCKET_TICK_US,
	       "same");
_Static_assert(DPS_PLUGIN_REWRITES == DPS_UNDO && DPS_PLUGIN_BURST == DPS_BURST, "same");
_Static_assert(DPS_PLUGIN_BUCKETS == DPS_BUCKETS && DPS_PLUGIN_NOBODY == DPS_NO_SLOT, "same");

#define SAME(type, field, view) \
	_Static_assert(offsetof(struct type, field) == offsetof(struct view, field), "same")
SAME(dps_port_facts, mac, dps_port_view);
SAME(dps_port_facts, up, dps_port_view);
SAME(dps_port_facts, mbps, dps_port_view);
SAME(dps_port_facts, mtu, dps_port_view);
SAME(dps_port_facts, numa, dps_port_view);
SAME(dps_group_facts, version, dps_group_view);
SAME(dps_group_facts, workers, dps_group_view);
SAME(dps_group_facts, places, dps_group_view);
SAME(dps_group_facts, owner, dps_group_view);
_Static_assert(sizeof(struct dps_port_facts) == sizeof(struct dps_port_view) &&
		       sizeof(struct dps_group_facts) == sizeof(struct dps_group_view),
	       "same");

// What the seed knows once it is attached; its children inherit it.
struct shared {
	struct dps_ctl *ctl;
	struct dps_sitter *sitter;      // [DPS_MAX_SITTERS]
	struct dps_slot *slot[DPS_MAX_SLOTS];
	int32_t primary_pid;
	int primary_pidfd;
	uint32_t n_ranges;
	struct {
		const volatile uint8_t *start;
		uint64_t len;           // bytes
		uint64_t page;          // bytes
	} range[256];                   // hugepage memory, to be faulted in by each worker
	const char *name;               // of the instance
	char *title;                    // the seed's arguments, which ps shows; a worker writes its own
	size_t title_len;               // bytes
};

// worker.c: become a worker, or a spare first; called in a fresh child, does not return.
void worker_run(const struct shared *shared, struct dps_sitter *me, uint32_t ticket, int notify)
	__attribute__((noreturn));

// worker.c: what ps shows; a member that the group does not have: a spare.
void worker_rename(const struct shared *shared, uint32_t group, uint32_t member);

// fence.c: keep this process from all memory that it shares with others, but for its sitter and packets'
// bytes; and then let it write in its slot, and in its group's state of buckets. 0 or -errno.
int fence_raise(const struct shared *shared, const struct dps_ctl *ctl, const struct dps_sitter *me);
int fence_open_slot(const struct shared *shared, const struct dps_ctl *ctl, const struct dps_slot *slot);

// watch.c: end with the primary; and, of a worker, when its data thread (the caller) crashes.
// `sitter` is NULL in the seed. 0 or -errno.
int watch_start(const struct shared *shared, struct dps_sitter *sitter);

// loop.c: until the slot is told to stop. `clock`: the plugin's.
void worker_loop(const struct dps_ctl *ctl, struct dps_slot *slot, const struct dps_plugin *plugin,
		 void *state, uint64_t *counters, uint64_t *clock);

// verify.c: the same plugin, with what it changes of packets compared with what it declares.
const struct dps_plugin *verify_plugin(const struct dps_plugin *plugin, struct dps_slot *slot);

// plugin.c: 0, or the exit code; the reason is in me->error. `ctl` stays as it is, `view` is the shared
// one.
int plugin_load(const struct dps_ctl *ctl, const struct dps_view *view, struct dps_sitter *me,
		const struct dps_plugin **plugin, void **state);
void plugin_seated(uint32_t member);

// python.c: whether a plugin's file is source in Python; load it. NULL: the reason is in `why`.
bool python_is(const char *path);
const struct dps_plugin *python_load(const char *path, char *why, uint32_t len);

// Where it reads the time, which worker_loop keeps.
uint64_t *plugin_clock(void);

// Nanoseconds of a TSC, the same in all workers; `rate` is those of a cycle, times 2^32.
static inline uint64_t
clock_rate(uint64_t tsc_hz)
{
	return ((unsigned __int128)1000000000 << 32) / tsc_hz;
}

static inline uint64_t
clock_ns(uint64_t rate, uint64_t tsc)
{
	return (unsigned __int128)tsc * rate >> 32;
}
int plugin_takes(struct dps_slot *slot, const struct dps_plugin *plugin, void *state);

// hash.c: dps_hash_of's tables.
void hash_init(const struct dps_ctl *ctl);

// state.c: check that the group reserves what the plugin keeps: 0, or -1 with the reason in `why`; and
// open the slot's block, in a room of so many bytes.
int state_check(const struct dps_group_conf *conf, const struct dps_plugin *plugin, char *why,
		size_t len);
bool state_seat(struct dps_slot *slot, uint64_t room, const struct dps_plugin *plugin,
		struct dps_env *env);

extern const struct dps_plugin plugin_forward;
extern const struct dps_plugin plugin_macswap;
extern const struct dps_plugin plugin_sink;
extern const struct dps_plugin plugin_delay;
extern const struct dps_plugin plugin_crash;

// portmap.c: where packets of each input port leave, from the argument table "map".
struct portmap {
	uint16_t out[DPS_MAX_PORTS];    // verdict by input port
};
int portmap_init(struct portmap *map, const struct dps_env *env);

#endif
