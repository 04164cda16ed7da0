// SPDX-License-Identifier: BSD-3-Clause
//
// A plugin's counters, by name. A worker counts in its own block; when it dies its counts are added
// to the slot's, so that they go on under their names.

#include <errno.h>
#include <string.h>

#include "warden_pvt.h"

static bool
is_named(const struct dps_facts *facts, const char *name)
{
	for (uint32_t i = 0; i < RTE_MIN(facts->n_counters, (uint32_t)DPS_COUNTERS); i++)
		if (strncmp(facts->counter_name[i], name, DPS_NAME) == 0)
			return true;
	return false;
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
keep_counters(struct dps_slot *s, struct dps_sitter *dead)
{
	uint32_t n = RTE_MIN(dead->facts.n_counters, (uint32_t)DPS_COUNTERS);

	for (uint32_t i = 0; i < n; i++)
		dps_count(counter_at(s, &dead->facts, i), dead->counter[i]);
	memset(dead->counter, 0, sizeof(dead->counter));
}

// The slot's record, with the counters of its present worker. Its facts are those of its version, if
// that is not DPS_VERSIONS.
int
dps_slot_read(uint32_t slot, struct dps_slot *out)
{
	uint32_t sitter;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	memcpy(out, the_primary.slot[slot], sizeof(*out));
	out->version = DPS_VERSIONS;
	sitter = __atomic_load_n(&seats[slot].sitter, __ATOMIC_ACQUIRE);
	if (sitter != NOBODY) {
		const struct dps_sitter *s = &the_primary.ctl->sitter[sitter];
		uint32_t n = RTE_MIN(s->facts.n_counters, (uint32_t)DPS_COUNTERS);

		// The process's own facts: the slot's are written while it sits down.
		if (dps_load32(&s->hand) == DPS_HAND_SEATED) {
			out->facts = s->facts;
			out->version = wardens[sitter].version;
		}
		for (uint32_t i = 0; i < n; i++)
			*counter_at(out, &s->facts, i) += s->counter[i];
	}
	return 0;
}
