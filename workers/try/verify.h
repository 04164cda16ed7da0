/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_VERIFY_H
#define DPSUP_VERIFY_H

// Which bytes of a packet a plugin changed that it may not change, as it did not declare them. What it did
// declare is put back after a kill; the rest would be changed twice.

#include <stdbool.h>
#include <stdint.h>

// A packet as it came: offsets count from its first byte.
struct verify_bounds {
	int32_t from, to;               // bytes that are compared
	int32_t prepends, rewrites;     // as the plugin declares them
	int32_t len;                    // of the first segment, as it came
	int32_t end;                    // of what the plugin left, after its last byte
};

struct verify_found {
	int32_t first, last;            // offsets of bytes
};

// May it change this byte? What is behind the packet's end is no part of what comes back after a kill: a
// plugin may append there.
static inline bool
verify_may(const struct verify_bounds *b, int32_t at)
{
	if (at < 0)
		return at >= -b->prepends;
	return at < b->len ? at < b->rewrites : at < b->end;
}

// `was` and `is` begin at offset `from`. True: there is something.
static inline bool
verify_compare(const struct verify_bounds *b, const uint8_t *was, const uint8_t *is,
	       struct verify_found *found)
{
	bool any = false;

	for (int32_t at = b->from; at < b->to; at++) {
		if (was[at - b->from] == is[at - b->from] || verify_may(b, at))
			continue;
		if (!any)
			found->first = at;
		found->last = at;
		any = true;
	}
	return any;
}

#endif
