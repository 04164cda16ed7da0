// SPDX-License-Identifier: BSD-3-Clause
//
// forward: out by the port map, or back out of the input port. Judges no contents, changes nothing.

#include "worker.h"

static struct portmap map;

static int
forward_init(const struct dps_env *env, void **state)
{
	*state = &map;
	return portmap_init(&map, env);
}

static uint16_t
forward_packet(void *state, struct dps_packet *packet)
{
	const struct portmap *m = state;

	return m->out[packet->port];
}

const struct dps_plugin plugin_forward = {
	DPS_PLUGIN_HEAD,
	.name = "forward",
	.needs = DPS_PLUGIN_NO_BYTES,
	.init = forward_init,
	.packet = forward_packet,
};
