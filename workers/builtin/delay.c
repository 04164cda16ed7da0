// SPDX-License-Identifier: BSD-3-Clause
//
// delay: wait `cycles` TSC cycles a packet, then as forward. With `rewrite` it swaps the MAC
// addresses like macswap and waits in the middle of the change, so that a kill likely hits there. With
// `hang` too, SIGUSR1 makes it stay there forever: `dpsup chaos` has workers hang that way.

#include <signal.h>

#include <rte_cycles.h>
#include <rte_pause.h>

#include "worker.h"

static struct delay {
	struct portmap map;
	uint64_t cycles;
	bool rewrite;
	volatile sig_atomic_t hangs;
} delay;

static void
on_hang(int number)
{
	(void)number;
	delay.hangs = 1;
}

static int
delay_init(const struct dps_env *env, void **state)
{
	delay.cycles = dps_arg_u64(env, "cycles", 0);
	delay.rewrite = dps_arg_u64(env, "rewrite", 0);
	if (dps_arg_u64(env, "hang", 0))
		signal(SIGUSR1, on_hang);
	*state = &delay;
	return portmap_init(&delay.map, env);
}

static void
wait_cycles(uint64_t cycles)
{
	uint64_t start = rte_rdtsc();

	while (rte_rdtsc() - start < cycles)
		rte_pause();
}

static uint16_t
delay_packet(void *state, struct dps_packet *packet)
{
	const struct delay *d = state;

	if (d->rewrite && packet->len >= 12) {
		uint8_t dst[6];

		memcpy(dst, packet->data, 6);
		memcpy(packet->data, packet->data + 6, 6);
		wait_cycles(d->cycles);
		while (d->hangs)
			rte_pause();
		memcpy(packet->data + 6, dst, 6);
	} else {
		wait_cycles(d->cycles);
	}
	return d->map.out[packet->port];
}

const struct dps_plugin plugin_delay = {
	DPS_PLUGIN_HEAD,
	.name = "delay",
	.rewrites = 14,         // the whole header: saved in the long form, macswap's 12 in the brief one
	.init = delay_init,
	.packet = delay_packet,
};
