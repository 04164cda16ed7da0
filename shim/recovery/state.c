// SPDX-License-Identifier: BSD-3-Clause
//
// State that outlives a process, as the primary sees it: blocks that plugins write, of a slot and of
// a bucket. The primary reserves them, puts back what a dead worker's packet in hand had changed,
// and reads them on request; only the plugin knows what is in them.

#include <errno.h>
#include <string.h>

#include "primary.h"

static bool
is_within(uint64_t at, uint32_t len, uint64_t start, uint64_t size)
{
	return at >= start && at - start <= size && len <= size - (at - start);
}

// May this packet's worker have changed that: its slot's state, the packet's bucket's?
static bool
is_touchable(const struct lane *lane, uint32_t index, uint64_t at, uint32_t len)
{
	const struct dps_group_conf *conf = &the_primary.own->group[lane->group];
	uint64_t bucket = mark_of(lane->shadow[index & lane->mask])->bucket % DPS_BUCKETS;

	return is_within(at, len, the_primary.state[lane->slot] + DPS_STATE_AT, conf->state) ||
	       is_within(at, len, dps_bucket_head(conf, bucket) + sizeof(struct dps_state_head),
			 conf->bucket_state);
}

// Where that piece lies, NULL: its worker may not have changed it.
static void *
touched_at(const struct lane *lane, uint32_t index, uint32_t sitter, uint64_t at, uint32_t len)
{
	struct dps_sitter *s = &the_primary.sitter[sitter];
	uint64_t offset = at & ~DPS_BIT(DPS_TOUCH_COUNTER);

	if (offset != at)
		return is_within(offset, len, 0, sizeof(s->counter)) ? (char *)s->counter + offset : NULL;
	return is_touchable(lane, index, at, len) ? (void *)(uintptr_t)(the_primary.own->base + at) : NULL;
}

// Put back the state that a packet without a verdict has changed. The last piece first: of a place
// that was saved twice, the first one is what was there. True: there was something to put back.
bool
state_untouch(const struct lane *lane, uint32_t io, uint32_t index, uint32_t sitter)
{
	const struct dps_slot *s = the_primary.slot[lane->slot];
	uint64_t touched = s->touched;
	uint32_t n = touched >> DPS_TOUCH_COUNT;

	if ((touched & (DPS_BIT(DPS_TOUCH_COUNT) - 1)) != dps_undo_stamp(io, index) ||
	    n > DPS_TOUCHES)
		return false;
	while (n-- > 0) {
		uint32_t len = s->touch_len[n];
		void *at = len <= DPS_TOUCH_MOST ? touched_at(lane, index, sitter, s->touch_at[n], len) :
						   NULL;

		if (at != NULL)
			memcpy(at, s->touch_bytes[n], len);
	}
	return true;
}

static struct dps_state_head *
slot_head(uint32_t slot)
{
	if (the_primary.state[slot] == 0)
		return NULL;
	return (void *)(uintptr_t)(the_primary.own->base + the_primary.state[slot]);
}

// A corrupt slot's state is as doubtful as its lanes: the next worker begins anew, and finds nothing kept
// at the room's end either.
void
state_forget(uint32_t slot)
{
	uint64_t at = dps_kept_at(the_primary.own->group[the_primary.slot_group[slot]].state);
	struct dps_state_head *head = slot_head(slot);

	if (head == NULL)
		return;
	if (at > 0)
		dps_store64((uint64_t *)((uint8_t *)head + DPS_STATE_AT + at), 0);
	dps_store64(&head->stamp, 0);
}

static int
copy(const struct dps_state_head *from, uint32_t at, uint32_t size, struct dps_state_head *head,
     uint8_t *bytes, uint32_t len)
{
	if (from == NULL)
		return 0;
	*head = *from;
	size = head->stamp == 0 ? 0 : RTE_MIN(head->size, (uint64_t)size);
	len = RTE_MIN(len, size);
	memcpy(bytes, (const uint8_t *)from + at, len);
	return len;
}

// Read while workers write: each 8 bytes are whole, two of them need not be of one packet.
int
dps_state_get(uint32_t slot, struct dps_state_head *head, uint8_t *bytes, uint32_t len)
{
	struct primary *p = &the_primary;

	memset(head, 0, sizeof(*head));
	if (slot >= p->n_slots)
		return -EINVAL;
	return copy(slot_head(slot), DPS_STATE_AT, p->own->group[p->slot_group[slot]].state, head,
		    bytes, len);
}

int
dps_bucket_state_get(uint32_t group, uint32_t bucket, struct dps_state_head *head, uint8_t *bytes,
		     uint32_t len)
{
	const struct dps_group_conf *conf;
	const void *at;

	memset(head, 0, sizeof(*head));
	if (group >= the_primary.n_groups || bucket >= DPS_BUCKETS)
		return -EINVAL;
	conf = &the_primary.own->group[group];
	if (conf->bucket_state == 0)
		return 0;
	at = (const void *)(uintptr_t)(the_primary.own->base + dps_bucket_head(conf, bucket));
	return copy(at, sizeof(*head), conf->bucket_state, head, bytes, len);
}

// --- what another version would find --------------------------------------------------------------

static bool
is_blank(const uint8_t *bytes, uint64_t len)
{
	for (; len >= sizeof(uint64_t); bytes += sizeof(uint64_t), len -= sizeof(uint64_t))
		if (dps_load64((const uint64_t *)(const void *)bytes) != 0)
			return false;
	while (len > 0)
		if (bytes[--len] != 0)
			return false;
	return true;
}

// Adds a block that a plugin with other facts would forget; `size`: what that keeps in its place.
static void
add_lost(struct dps_state_lost *out, const struct dps_state_head *head, const uint8_t *bytes, uint64_t room,
	 uint64_t size, const struct dps_facts *facts, uint32_t migrates)
{
	uint64_t stamp = dps_load64(&head->stamp), len = RTE_MIN(dps_load64(&head->size), room);
	bool known = stamp >> 32 == facts->stamp >> 32 && (facts->migrates & migrates) != 0 && size > 0;

	if (stamp == 0 || stamp == facts->stamp || is_blank(bytes, len) ||
	    (known && dps_kept_room(len, size) <= room))
		return;
	if (migrates == DPS_MIGRATES_PLACE) {
		out->places++;
		out->place_room = RTE_MAX(out->place_room, known ? dps_kept_room(len, size) : 0);
	} else {
		out->buckets++;
		out->bucket_room = RTE_MAX(out->bucket_room, known ? dps_kept_room(len, size) : 0);
	}
	out->bytes += len;
	out->version = (uint32_t)stamp;
	out->others += stamp >> 32 != facts->stamp >> 32;
}

// Read while workers write: what is there is right, how much of it there is may change.
int
dps_state_lost_get(uint32_t group, const struct dps_facts *facts, struct dps_state_lost *out)
{
	const struct primary *p = &the_primary;
	const struct dps_group_conf *conf;

	memset(out, 0, sizeof(*out));
	if (group >= p->n_groups)
		return -EINVAL;
	conf = &p->own->group[group];
	for (uint32_t s = conf->first_slot; s < conf->first_slot + conf->max; s++)
		if (slot_head(s) != NULL)
			add_lost(out, slot_head(s), (const uint8_t *)slot_head(s) + DPS_STATE_AT, conf->state,
				 facts->state, facts, DPS_MIGRATES_PLACE);
	for (uint32_t b = 0; b < DPS_BUCKETS && conf->bucket_state > 0; b++) {
		const struct dps_state_head *head =
			(const void *)(uintptr_t)(p->own->base + dps_bucket_head(conf, b));

		add_lost(out, head, (const uint8_t *)(head + 1), conf->bucket_state, facts->bucket_state, facts,
			 DPS_MIGRATES_BUCKET);
	}
	return 0;
}
