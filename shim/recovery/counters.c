// SPDX-License-Identifier: BSD-3-Clause
//
// A plugin's counters, by name. A worker counts in its own block; when it dies its counts are added
// to the slot's, so that they go on under their names. Gauges are the process's alone, and end with it.

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "warden_pvt.h"

enum { READS = 1000 };  // of a slot, at most

static bool
is_named(const struct dps_facts *facts, const char *name)
{
	for (uint32_t i = 0; i < RTE_MIN(facts->n_counters, (uint32_t)DPS_COUNTERS); i++)
		if (strncmp(facts->counter_name[i], name, DPS_NAME) == 0)
			return true;
	return false;
}

static bool
is_gauge(const struct dps_facts *facts, uint32_t counter)
{
	return facts->gauges >> counter & 1;
}

// Where a slot sums up a plugin's counter. If there are more names than places, this replaces one that
// the plugin does not have.
static uint64_t *
counter_at(struct dps_slot *s, const struct dps_facts *facts, uint32_t counter)
{
	const char *name = facts->counter_name[counter];
	uint32_t at = 0;

	while (at < DPS_SLOT_COUNTERS && s->counter_name[at][0] != '\0' &&
	       strncmp(s->counter_name[at], name, DPS_NAME) != 0)
		at++;
	// A worker may have written all of these names: then any place is right.
	for (uint32_t i = 0; at == DPS_SLOT_COUNTERS; i++)
		if (i == DPS_SLOT_COUNTERS - 1 || !is_named(facts, s->counter_name[i]))
			at = i;
	if (strncmp(s->counter_name[at], name, DPS_NAME) != 0) {
		memcpy(s->counter_name[at], name, DPS_NAME);
		s->counter_name[at][DPS_NAME - 1] = '\0';
		s->counter[at] = 0;
	}
	return &s->counter[at];
}

// Add a dead worker's counters to the slot's, by name, so that they survive it.
void
keep_counters(uint32_t slot, struct dps_sitter *dead)
{
	uint32_t n = RTE_MIN(dead->facts.n_counters, (uint32_t)DPS_COUNTERS);
	uint32_t *keeping = &seats[slot].keeping;

	__atomic_store_n(keeping, *keeping + 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < n; i++)
		if (!is_gauge(&dead->facts, i))
			dps_count(counter_at(the_primary.slot[slot], &dead->facts, i),
				  dead->counter[i]);
	memset(dead->counter, 0, sizeof(dead->counter));
	__atomic_store_n(keeping, *keeping + 1, __ATOMIC_SEQ_CST);
}

static void
read_slot(uint32_t slot, struct dps_slot *out)
{
	uint32_t sitter;

	memcpy(out, the_primary.slot[slot], sizeof(*out));
	out->version = DPS_VERSIONS;
	sitter = __atomic_load_n(&seats[slot].sitter, __ATOMIC_ACQUIRE);
	if (sitter != NOBODY) {
		const struct dps_sitter *s = &the_primary.sitter[sitter];
		uint32_t n = RTE_MIN(s->facts.n_counters, (uint32_t)DPS_COUNTERS);

		// The process's own facts: the slot's are written while it sits down.
		if (dps_load32(&s->hand) == DPS_HAND_SEATED) {
			out->facts = s->facts;
			out->version = wardens[sitter].version;
		}
		for (uint32_t i = 0; i < n; i++)
			if (is_gauge(&s->facts, i))
				*counter_at(out, &s->facts, i) = s->counter[i];
			else
				*counter_at(out, &s->facts, i) += s->counter[i];
	}
}

// The slot's record, with the counters of its present worker. Its facts are those of its version, if
// that is not DPS_VERSIONS. Read again where a warden moved counters meanwhile, which takes it less
// than a microsecond: they would be there twice, or not at all.
int
dps_slot_read(uint32_t slot, struct dps_slot *out)
{
	if (slot >= the_primary.n_slots)
		return -EINVAL;
	for (int i = 0; i < READS; i++) {
		uint32_t before = __atomic_load_n(&seats[slot].keeping, __ATOMIC_ACQUIRE);

		read_slot(slot, out);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if ((before & 1) == 0 && dps_load32(&seats[slot].keeping) == before)
			break;
		sched_yield();
	}
	return 0;
}
