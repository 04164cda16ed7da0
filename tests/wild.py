# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that writes where it must not, in the memory that it shares with the primary."""

from __future__ import annotations

# Finds its way to the control block, and once in all does what it must not, at its 300th packet.
WILD = """
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include "dpsup.h"
#include "dpsup_plugin.h"

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
	for (int i = 0; ctl == NULL || ctl->magic != DPS_MAGIC || ctl->n_io != 1; i++)
		ctl = (void *)((char *)(me - i) - offsetof(struct dps_ctl, sitter));
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
"""
