// SPDX-License-Identifier: BSD-3-Clause
//
// What a worker may write of the memory that it shares: its sitter, packets' bytes, and from when it has a
// seat its slot with its lanes and state, and its group's state of buckets. All else is read-only before
// the plugin is loaded: EAL's configuration and heaps, pools and mbuf headers, the control block, other
// slots and sitters. So a stray write there ends this process, and nothing else is harmed.
//
// What is shared is what the kernel says, not what this program knows of: a mapping that a later version
// adds is fenced from the start. The kernel protects whole pages. Where hugepages have 1 GiB, slots, headers
// and bytes share them, and little is kept apart: docs/security.md.

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "worker.h"

struct range {
	uintptr_t from;
	uintptr_t to;
};

// The whole pages that a piece of memory lies in.
static struct range
pages_of(const struct shared *shared, const void *at, uint64_t len)
{
	uintptr_t from = (uintptr_t)at, page = DPS_PAGE;

	for (uint32_t i = 0; i < shared->n_ranges; i++) {
		uintptr_t start = (uintptr_t)shared->range[i].start;

		if (from >= start && from - start < shared->range[i].len)
			page = shared->range[i].page;
	}
	return (struct range){ from & ~(page - 1), (from + len + page - 1) & ~(page - 1) };
}

static int
protect(struct range r, int protection)
{
	if (r.from >= r.to)
		return 0;
	return mprotect((void *)r.from, r.to - r.from, protection) == 0 ? 0 : -errno;
}

static int
open_at(const struct shared *shared, const void *at, uint64_t len)
{
	return len == 0 ? 0 : protect(pages_of(shared, at, len), PROT_READ | PROT_WRITE);
}

// All that other processes see. Neighbours go together: hugepages are many mappings.
static int
close_all(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct range whole = { 0, 0 };
	char line[512], mode[8];
	int ret = 0;

	if (maps == NULL)
		return -errno;
	while (ret == 0 && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;

		// What is left of a long name.
		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w' ||
		    mode[3] != 's')
			continue;
		if (from != whole.to) {
			ret = protect(whole, PROT_READ);
			whole.from = from;
		}
		whole.to = to;
	}
	fclose(maps);
	return ret != 0 ? ret : protect(whole, PROT_READ);
}

int
fence_raise(const struct shared *shared, const struct dps_ctl *ctl, const struct dps_sitter *me)
{
	int ret = close_all();

	if (ret == 0)
		ret = open_at(shared, me, sizeof(*me));
	for (uint32_t i = 0; ret == 0 && i < ctl->n_pools && i < DPS_MAX_POOLS; i++) {
		const char *at = (const char *)(uintptr_t)(ctl->base + ctl->bytes[i].at);

		ret = open_at(shared, at, ctl->bytes[i].len);
	}
	return ret;
}

int
fence_open_slot(const struct shared *shared, const struct dps_ctl *ctl, const struct dps_slot *slot)
{
	const struct dps_group_conf *conf = &ctl->group[slot->group % DPS_MAX_GROUPS];
	const char *buckets = (const char *)(uintptr_t)(ctl->base + conf->buckets);
	int ret = open_at(shared, slot, conf->slot_bytes);

	if (ret == 0)
		ret = open_at(shared, buckets, (uint64_t)DPS_BUCKETS * conf->bucket_stride);
	return ret;
}
