// SPDX-License-Identifier: BSD-3-Clause
//
// sink: drop everything, and count it. The smallest plugin.

#include "worker.h"

static const char *const reasons[] = { "sink", NULL };
static const char *const counters[] = { "packets", "bytes", NULL };
static uint64_t *count;

static int
sink_init(const struct dps_env *env, void **state)
{
	(void)state;
	count = env->counters;
	return 0;
}

static uint16_t
sink_packet(void *state, struct dps_packet *packet)
{
	(void)state;
	count[0]++;
	count[1] += packet->total;
	return dps_drop(0);
}

const struct dps_plugin plugin_sink = {
	DPS_PLUGIN_HEAD,
	.name = "sink",
	.needs = DPS_PLUGIN_NO_BYTES,
	.reasons = reasons,
	.counters = counters,
	.init = sink_init,
	.packet = sink_packet,
};
