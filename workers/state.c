// SPDX-License-Identifier: BSD-3-Clause
//
// State that outlives the process: a slot's block, and one of each bucket. The worker's half; what
// the primary does after a kill is in shim/recovery/state.c.
//
// A block belongs to the plugin whose stamp lies before it. A worker that finds another stamp sets
// the block to zero and stamps it last: if it is killed in between, the next worker does it again.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop.h"
#include "worker.h"

// Of the loop that is in packet() or a tick.
struct loop *touching;

uint64_t
state_stamp(const struct dps_plugin *plugin)
{
	uint32_t hash = 2166136261u; // FNV-1a

	for (const char *c = plugin->name; *c != '\0'; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	return (uint64_t)hash << 32 | plugin->state_version;
}

// False: the block had no state, or lost it. A plugin that grew finds zeroes behind its old state.
bool
state_open(struct dps_state_head *head, uint8_t *bytes, uint64_t stamp, uint64_t size)
{
	bool warm = dps_load64(&head->stamp) == stamp;
	uint64_t from = warm ? head->size : 0;

	if (!warm) {
		dps_store64(&head->stamp, 0);
		dps_order();
	}
	if (from < size)
		memset(bytes + from, 0, size - from);
	dps_order();
	dps_store64(&head->size, size);
	dps_order();
	dps_store64(&head->stamp, stamp);
	return warm;
}

static void __attribute__((noreturn))
misuse(const char *what)
{
	fprintf(stderr, "dps_touch: %s\n", what);
	abort();
}

static bool
is_within(const uint8_t *at, uint32_t len, const void *start, uint64_t size)
{
	const uint8_t *first = start;

	return first != NULL && at >= first && at + len <= first + size;
}

void
dps_touch(void *at, uint32_t len)
{
	struct loop *l = touching;
	struct dps_slot *s;
	uint32_t n;

	if (l == NULL)
		misuse("called outside of packet() and of ticks, or by a plugin that asked for no state and not "
		       "for DPS_PLUGIN_TOUCHES");
	s = l->slot;
	n = (s->touched ^ l->stamp) << (64 - DPS_TOUCH_COUNT) == 0 ? s->touched >> DPS_TOUCH_COUNT :
								     0;
	if (n == DPS_TOUCHES || len > DPS_TOUCH_MOST)
		misuse("at most 4 pieces of 64 bytes for each packet or tick");
	if (!is_within(at, len, l->bucket, l->bucket_size) &&
	    !is_within(at, len, l->block, l->block_size) &&
	    !is_within(at, len, l->counters, sizeof(uint64_t) * DPS_COUNTERS))
		misuse("neither in the state, nor in the packet's bucket_state, nor in counters");
	s->touch_at[n] = (uintptr_t)at - l->base;
	s->touch_len[n] = len;
	if (__builtin_expect(len == sizeof(uint64_t), 1))
		memcpy(s->touch_bytes[n], at, sizeof(uint64_t));
	else
		memcpy(s->touch_bytes[n], at, len);
	dps_order();
	// One store: a kill before it leaves the piece uncounted, and unchanged.
	__atomic_store_n(&s->touched, (uint64_t)(n + 1) << DPS_TOUCH_COUNT | l->stamp,
			 __ATOMIC_RELAXED);
	dps_order();
}

int
state_check(const struct dps_group_conf *conf, const struct dps_plugin *p, char *why, size_t len)
{
	if (p->state_size > conf->state || p->bucket_state_size > conf->bucket_state) {
		bool slot = p->state_size > conf->state;

		snprintf(why, len,
			 "it keeps %u bytes of state for each %s and the topology reserves %u: write "
			 "%s = %u in [[workers]] of group \"%s\"",
			 slot ? p->state_size : p->bucket_state_size, slot ? "worker" : "bucket",
			 slot ? conf->state : conf->bucket_state, slot ? "state" : "bucket_state",
			 slot ? p->state_size : p->bucket_state_size, conf->name);
		return -1;
	}
	return 0;
}

// The seat is ours, no packet was taken yet.
void
state_seat(struct dps_slot *slot, const struct dps_plugin *p, struct dps_env *env)
{
	struct dps_state_head *head = (void *)((char *)slot + slot->state);

	if (p->state_size == 0)
		return;
	env->state = (uint8_t *)head + DPS_STATE_AT;
	env->warm = state_open(head, env->state, state_stamp(p), p->state_size);
}
