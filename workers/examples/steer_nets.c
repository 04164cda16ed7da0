/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An example plugin to copy: sends IPv4 packets out by the /24 network of their destination, which
 * it looks up for a whole burst at once. The table has 16 MiB and does not fit a processor's caches:
 * while one entry is on its way from memory, the others are asked for too.
 *
 *     [[workers]]
 *     plugin = "steer_nets.so"
 *     args = { net = { "192.0.2" = "lan", "198.51.100" = "wan" } }
 */
#include <stdio.h>

#include <dpsup_plugin.h>

static const char *const reasons[] = { "no_ipv4", "no_net", NULL };
enum { NO_IPV4, NO_NET };

static uint8_t *port_of; /* by the first 24 bits of an address: 1 + the port's index; 0: none */

static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	port_of = (uint8_t *)calloc(1u << 24, 1);
	if (port_of == NULL) {
		snprintf(env->error, env->error_len, "no memory for the table of networks");
		return -1;
	}
	for (uint32_t i = 0; i < env->n_args; i++) {
		unsigned int a, b, c;
		int port = dps_port(env, env->arg_values[i]);

		if (sscanf(env->arg_keys[i], "net.%u.%u.%u", &a, &b, &c) != 3 || a > 255 || b > 255 ||
		    c > 255 || port < 0) {
			snprintf(env->error, env->error_len, "%s = \"%s\": write the first three "
				 "numbers of a /24 network, and a port's name", env->arg_keys[i],
				 env->arg_values[i]);
			return -1;
		}
		port_of[a << 16 | b << 8 | c] = (uint8_t)(port + 1);
	}
	return 0;
}

/* Where a packet's network stands in the table; NULL: it is not IPv4. */
static const uint8_t *
entry_of(const struct dps_packet *p)
{
	if (p->len < 14 + 20 || p->data[12] != 0x08 || p->data[13] != 0x00)
		return NULL;
	return &port_of[p->data[30] << 16 | p->data[31] << 8 | p->data[32]];
}

/* All packets of a burst, before any of them is handled. It only reads: a worker that is killed here
 * has changed nothing. */
static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	(void)state;
	for (uint32_t i = 0; i < n; i++) {
		packets[i].found = (uintptr_t)entry_of(&packets[i]);
		if (packets[i].found != 0)
			__builtin_prefetch((const void *)(uintptr_t)packets[i].found);
	}
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const uint8_t *entry = (const uint8_t *)(uintptr_t)p->found;

	(void)state;
	if (entry == NULL)
		return dps_drop(NO_IPV4);
	return *entry != 0 ? dps_out(*entry - 1u) : dps_drop(NO_NET);
}

/* The one symbol that dpsup looks for. */
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "steer_nets",
	.reasons = reasons,
	.init = init,
	.packet = packet,
	.look = look,
};
