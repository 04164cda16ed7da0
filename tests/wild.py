# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that writes where it must not, in the memory that it shares with the primary."""

from __future__ import annotations

# Finds the control block in the hugepages, which a worker may read.
FIND_CTL = """
#include <stdio.h>
#include <string.h>

static struct dps_ctl *find_ctl(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	struct dps_ctl *found = NULL;
	char line[512];

	while (found == NULL && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;

		if (strstr(line, "huge") == NULL || strstr(line, "/dpsup-") == NULL)
			continue;
		if (sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		for (; found == NULL && from + sizeof(*found) <= to; from += 64) {
			struct dps_ctl *ctl = (void *)from;

			if (ctl->magic == DPS_MAGIC && ctl->abi_size == sizeof(*ctl))
				found = ctl;
		}
	}
	fclose(maps);
	return found;
}
"""

# Finds its way to the control block, and once in all does what it must not, at its 300th packet.
WILD = """
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include "dpsup.h"
#include "dpsup_plugin.h"
FIND_CTL
static struct dps_sitter *me;
static struct dps_ctl *ctl;
static const char *once;
static int seen;

static struct dps_slot *slot_at(int index)
{
	return (void *)(ctl->base + ctl->slot[index]);
}

static struct dps_lane *lane_of(struct dps_slot *slot)
{
	return (void *)((char *)slot + slot->lanes[0]);
}

static void go_wild(void)
{
	struct dps_slot *slot = slot_at(me->slot);
	struct dps_slot *other = slot_at(me->slot ^ 1);
	struct dps_lane *lane = lane_of(slot);
	static uint32_t scatter[4096];

	(void)other;
	dps_scatter_init(scatter, slot->ring);
	%s
}

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	once = dps_arg(env, "once");
	me = (void *)((char *)env->counters - offsetof(struct dps_sitter, counter));
	ctl = find_ctl();
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint8_t first = *(volatile uint8_t *)p->data;

	(void)state;
	(void)first;
	for (volatile int i = 0; i < 20000; i++)
		;
	if (++seen == 300 && open(once, O_CREAT | O_EXCL, 0600) >= 0)
		go_wild();
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "wild", .init = init, .packet = packet,
};
""".replace("FIND_CTL", FIND_CTL)
