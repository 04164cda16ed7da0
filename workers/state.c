// SPDX-License-Identifier: BSD-3-Clause
//
// State that outlives the process: a slot's block, and one of each bucket. The worker's half; what
// the primary does after a kill is in shim/recovery/state.c.
//
// A block belongs to the plugin whose stamp lies before it. A worker that finds another stamp makes the
// block its plugin's own, by migrate or with zeroes, and stamps it last: if it is killed in between, the
// next worker does it again. What the block was before is kept at the end of its room, if that has room.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loop.h"
#include "worker.h"

// In the epoch of what is kept: the block after it began with zeroes, as its version could not migrate.
static const uint32_t ANEW = 1u << 31;

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

// --- whose a block is -----------------------------------------------------------------------------

static struct dps_state_kept *
kept_of(const struct state_block *b)
{
	return (struct dps_state_kept *)(b->bytes + dps_kept_at(b->room));
}

// Is something kept? Where a block reaches to the room's end, what lies there is the plugin's.
static bool
has_kept(const struct state_block *b)
{
	uint64_t at = dps_kept_at(b->room);

	return at > 0 && b->head->size <= at && kept_of(b)->stamp != 0 &&
	       dps_kept_len(kept_of(b)->size) <= at - b->head->size;
}

static uint8_t *
kept_bytes(const struct state_block *b)
{
	return (uint8_t *)kept_of(b) - dps_kept_len(kept_of(b)->size);
}

static void
forget_kept(const struct state_block *b)
{
	dps_store64(&kept_of(b)->stamp, 0);
	dps_order();
}

// Before the block is another's: what it is now, kept at the end of its room. A kill in the middle
// leaves the block as it was.
static void
keep(const struct state_block *b, uint32_t epoch, uint32_t anew)
{
	struct dps_state_kept *kept = kept_of(b);

	forget_kept(b);
	kept->size = b->head->size;
	kept->epoch = (epoch & ~ANEW) | anew;
	memcpy(kept_bytes(b), b->bytes, kept->size);
	dps_order();
	dps_store64(&kept->stamp, b->head->stamp);
	dps_order();
}

static void
own(const struct state_block *b, const struct state_owner *o, const void *from, uint64_t len)
{
	dps_store64(&b->head->stamp, 0);
	dps_order();
	memcpy(b->bytes, from, len);
	memset(b->bytes + len, 0, o->size - len);
	dps_order();
	dps_store64(&b->head->size, o->size);
	dps_order();
	dps_store64(&b->head->stamp, o->stamp);
	dps_order();
}

// A plugin that grew finds zeroes behind its old state.
static void
grow(const struct state_block *b, const struct state_owner *o)
{
	uint64_t from = b->head->size, at = dps_kept_at(b->room);

	if (has_kept(b) && kept_bytes(b) < b->bytes + o->size)
		forget_kept(b);
	if (from < o->size)
		memset(b->bytes + from, 0, o->size - from);
	else if (from > at && at >= o->size && at > 0)
		forget_kept(b);         // what was the plugin's is to say nothing
	dps_order();
	dps_store64(&b->head->size, o->size);
	dps_order();
}

static bool
is_of_another_version(uint64_t stamp, const struct state_owner *o)
{
	return stamp != o->stamp && stamp >> 32 == o->stamp >> 32;
}

// What the plugin makes of a version before, in memory of this process's.
static bool
migrate(const void *old, uint64_t size, uint64_t stamp, const struct state_owner *o)
{
	struct loop *in_hand = touching;
	int ret;

	memset(o->fresh, 0, o->size);
	touching = NULL;        // a touch would be of a packet
	ret = o->migrate(old, size, (uint32_t)stamp, o->fresh);
	touching = in_hand;
	return ret == 0;
}

// Make the block this plugin's. False: it begins with zeroes.
//
// What it was is kept first, then the block is nobody's, then its bytes are the new ones, then one store
// says whose it is. A worker that finds it nobody's begins again from what is kept; one of the version
// before, which takes over after a death and when a rollout goes back, puts that back. A worker of the
// version before that still runs does so too, if it gets the bucket; and one of the new version that gets
// a bucket back which began anew meanwhile, as the version before could not migrate.
bool
state_open(const struct state_block *b, const struct state_owner *o)
{
	uint64_t found = dps_load64(&b->head->stamp), stamp = found, size = b->head->size;
	const uint8_t *old = b->bytes;
	bool kept = has_kept(b);
	bool fits, migrates, mine;

	if (found == o->stamp) {
		grow(b, o);
		return true;
	}
	if (found == 0 && kept) {
		stamp = kept_of(b)->stamp;
		size = kept_of(b)->size;
		old = kept_bytes(b);
	}
	fits = stamp != 0 && size <= b->room && dps_kept_room(size, o->size) <= b->room;
	migrates = fits && o->migrate != NULL && is_of_another_version(stamp, o);
	mine = kept && kept_of(b)->stamp == o->stamp && kept_bytes(b) >= b->bytes + o->size &&
	       (found == 0 || (kept_of(b)->epoch & ~ANEW) == (o->epoch & ~ANEW));
	if (migrates && !(mine && (kept_of(b)->epoch & ANEW)) && migrate(old, size, stamp, o)) {
		if (found != 0)
			keep(b, o->epoch, 0);
		own(b, o, o->fresh, o->size);
		return true;
	}
	if (mine) {
		own(b, o, kept_bytes(b), kept_of(b)->size < o->size ? kept_of(b)->size : o->size);
		return true;
	}
	// The version before may know nothing of the next one's: that is no fault of the next one.
	if (migrates && (uint32_t)stamp < (uint32_t)o->stamp)
		dps_count(o->forgotten, 1);
	if (fits && found != 0)
		keep(b, o->epoch, ANEW);
	else if (!fits && kept)
		forget_kept(b);
	if (!fits && dps_kept_at(b->room) >= o->size && dps_kept_at(b->room) > 0) {
		dps_store64(&b->head->stamp, 0);
		dps_order();
		forget_kept(b);
	}
	own(b, o, b->bytes, 0);
	return false;
}

void
state_open_bucket(struct loop *l, struct dps_state_head *head)
{
	static uint8_t fresh[DPS_PLUGIN_BUCKET_STATE];
	const struct state_block block = { head, (uint8_t *)(head + 1), l->buckets.room };
	const struct state_owner owner = {
		.stamp = l->buckets.stamp,
		.size = l->bucket_size,
		.epoch = dps_load32(&l->slot->epoch),
		.migrate = l->plugin->bucket_migrate,
		.fresh = fresh,
		.forgotten = &l->slot->forgotten,
	};

	state_open(&block, &owner);
}

// --- changes that a packet without a verdict did not make -----------------------------------------

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
	if (is_within(at, len, l->bucket, l->bucket_size) ||
	    is_within(at, len, l->block, l->block_size))
		s->touch_at[n] = (uintptr_t)at - l->base;
	else if (is_within(at, len, l->counters, sizeof(uint64_t) * DPS_COUNTERS))
		s->touch_at[n] = DPS_BIT(DPS_TOUCH_COUNTER) |
				 ((uintptr_t)at - (uintptr_t)l->counters);
	else
		misuse("neither in the state, nor in the packet's bucket_state, nor in counters");
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
			 "%s = %u in [[workers]] of group \"%s\", and start the instance again",
			 slot ? p->state_size : p->bucket_state_size, slot ? "worker" : "bucket",
			 slot ? conf->state : conf->bucket_state, slot ? "state" : "bucket_state",
			 slot ? p->state_size : p->bucket_state_size, conf->name);
		return -1;
	}
	return 0;
}

// The seat is ours, no packet was taken yet. False: there is no memory to migrate in.
bool
state_seat(struct dps_slot *slot, uint64_t room, const struct dps_plugin *p, struct dps_env *env)
{
	struct dps_state_head *head = (void *)((char *)slot + slot->state);
	const struct state_block block = { head, (uint8_t *)head + DPS_STATE_AT, room };
	struct state_owner owner = {
		.stamp = state_stamp(p),
		.size = p->state_size,
		.epoch = dps_load32(&slot->epoch),
		.migrate = p->migrate,
		.forgotten = &slot->forgotten,
	};

	if (p->state_size == 0)
		return true;
	if (p->migrate != NULL && dps_load64(&head->stamp) != owner.stamp) {
		owner.fresh = malloc(p->state_size);
		if (owner.fresh == NULL)
			return false;
	}
	env->state = block.bytes;
	env->warm = state_open(&block, &owner);
	free(owner.fresh);
	return true;
}
