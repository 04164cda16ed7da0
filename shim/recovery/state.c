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

// May this packet's worker have changed that: its slot's state, the packet's bucket's, its counters?
static bool
is_touchable(const struct lane *lane, uint32_t index, uint32_t sitter, uint64_t at, uint32_t len)
{
	const struct dps_ctl *ctl = the_primary.ctl;
	const struct dps_group_conf *conf = &the_primary.own->group[lane->group];
	uint64_t counters = (uintptr_t)ctl->sitter[sitter].counter - the_primary.own->base;
	uint64_t bucket = mark_of(lane->shadow[index & lane->mask])->bucket % DPS_BUCKETS;

	return is_within(at, len, the_primary.state[lane->slot] + DPS_STATE_AT, conf->state) ||
	       is_within(at, len, dps_bucket_head(conf, bucket) + sizeof(struct dps_state_head),
			 conf->bucket_state) ||
	       is_within(at, len, counters, sizeof(ctl->sitter[sitter].counter));
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
		uint64_t at = s->touch_at[n];
		uint32_t len = s->touch_len[n];

		if (len <= DPS_TOUCH_MOST && is_touchable(lane, index, sitter, at, len))
			memcpy((void *)(uintptr_t)(the_primary.own->base + at), s->touch_bytes[n],
			       len);
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

// A corrupt slot's state is as doubtful as its lanes: the next worker begins anew.
void
state_forget(uint32_t slot)
{
	struct dps_state_head *head = slot_head(slot);

	if (head != NULL)
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
