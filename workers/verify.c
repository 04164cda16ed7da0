// SPDX-License-Identifier: BSD-3-Clause
//
// verify = true: what a plugin changes of a packet is compared with what it declares. Its packet function
// is called by one that keeps a copy of the packet's bytes before, so that the loop knows nothing of it,
// and a group that does not verify pays nothing.

#include <string.h>

#include "loop.h"
#include "try/verify.h"
#include "worker.h"

enum {
	BEFORE = 256,                   // more than a descriptor says of the headroom
	MOST = 65536                    // bytes of a packet that are compared
};

static const struct dps_plugin *verified;
static struct dps_slot *slot;
static uint8_t was[BEFORE + MOST];

static void
note(const struct dps_packet *p, uint32_t head, struct verify_found found)
{
	uint32_t n = p->total < DPS_HEAD ? p->total : DPS_HEAD;

	slot->undeclared_first = found.first;
	slot->undeclared_last = found.last;
	slot->undeclared_len = p->total;
	slot->undeclared_port = p->port;
	memset(slot->undeclared_head, 0, DPS_HEAD);
	memcpy(slot->undeclared_head, was + head, n);
	dps_order();
	dps_count(&slot->undeclared, 1);
}

// Copies, or compares, what follows the first segment. `at`: where its bytes are in `was`.
static void
further(const struct dps_packet *p, uint32_t head, bool compares, bool *any, struct verify_found *found)
{
	const void *segment = NULL;
	const uint8_t *bytes;
	uint32_t at = head + p->len, n;

	while ((n = dps_next_segment(p, &segment, &bytes)) > 0 && n <= sizeof(was) - at) {
		if (!compares)
			memcpy(was + at, bytes, n);
		for (uint32_t i = 0; compares && i < n; i++) {
			if (was[at + i] == bytes[i])
				continue;
			if (!*any)
				found->first = (int32_t)(at + i - head);
			found->last = (int32_t)(at + i - head);
			*any = true;
		}
		at += n;
	}
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const struct dps_packet came = *p;
	uint32_t head = came.headroom < BEFORE ? came.headroom : BEFORE;
	struct verify_found found = { 0 };
	struct verify_bounds b;
	uint16_t verdict;
	bool any = false;

	memcpy(was, came.data - head, head + came.len);
	further(&came, head, false, &any, &found);
	verdict = verified->packet(state, p);
	b = (struct verify_bounds){
		.from = -(int32_t)head,
		.to = (int32_t)came.len,
		.prepends = verified->prepends,
		.rewrites = verified->rewrites,
		.len = (int32_t)came.len,
		.end = (int32_t)came.len,
	};
	any = verify_compare(&b, was, came.data - head, &found);
	further(&came, head, true, &any, &found);
	if (any)
		note(&came, head, found);
	return verdict;
}

const struct dps_plugin *
verify_plugin(const struct dps_plugin *plugin, struct dps_slot *its)
{
	static struct dps_plugin wrapped;

	verified = plugin;
	slot = its;
	wrapped = *plugin;
	wrapped.packet = packet;
	return &wrapped;
}
