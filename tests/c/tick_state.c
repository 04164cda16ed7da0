// SPDX-License-Identifier: BSD-3-Clause
//
// shim/io/ticks.c: which buckets get ticks, by what their blocks of state say.

#include <stdio.h>
#include <stdlib.h>

#include "../../shim/io/ticks.c"

enum { ROOM = 256 };

struct primary the_primary;

static struct {
	struct dps_state_head head;
	uint8_t bytes[ROOM] __attribute__((aligned(16)));
} block;

static void
expect(bool wanted, const char *what, const struct dps_group_conf *conf)
{
	if (has_state(conf, 0) == wanted)
		return;
	printf("%s: %s\n", what, wanted ? "it gets none" : "it gets some");
	exit(1);
}

int
main(void)
{
	static struct dps_ctl own;
	struct dps_group_conf conf = { .bucket_state = ROOM, .bucket_stride = sizeof(block) };
	struct dps_state_kept *kept = (void *)(block.bytes + dps_kept_at(ROOM));

	the_primary.own = &own;
	the_primary.own->base = (uintptr_t)&block;
	expect(false, "no plugin has kept anything of it", &conf);
	block.head.stamp = 7;
	expect(true, "a plugin's", &conf);
	block.head.stamp = 0;
	kept->stamp = 7;
	expect(true, "its worker died as it migrated it", &conf);
	conf.bucket_state = 16;         // no room to keep anything in
	expect(false, "no room for what is kept", &conf);
	conf.bucket_state = 0;
	block.head.stamp = 7;
	expect(false, "the group has no state of buckets", &conf);
	return 0;
}
