// SPDX-License-Identifier: BSD-3-Clause
//
// macswap: exchange the MAC addresses, then out by the port map.

#include "worker.h"

static struct portmap map;

static int
macswap_init(const struct dps_env *env, void **state)
{
	*state = &map;
	return portmap_init(&map, env);
}

static uint16_t
macswap_packet(void *state, struct dps_packet *packet)
{
	const struct portmap *m = state;

	if (packet->len >= 12) {
		uint8_t dst[6];

		memcpy(dst, packet->data, 6);
		memcpy(packet->data, packet->data + 6, 6);
		memcpy(packet->data + 6, dst, 6);
	}
	return m->out[packet->port];
}

const struct dps_plugin plugin_macswap = {
	DPS_PLUGIN_HEAD,
	.name = "macswap",
	.rewrites = 12,
	.init = macswap_init,
	.packet = macswap_packet,
};
