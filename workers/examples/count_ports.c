/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An example plugin to copy: counts packets by the class of their destination port, drops telnet
 * and what claims to be IPv4 but is too short for it, and sends the rest out by the port map.
 *
 *     [[workers]]
 *     plugin = "count_ports.so"
 *     args = { map = { wan = "lan", lan = "wan" }, block = 23 }
 */
#include <stdio.h>

#include <dpsup_plugin.h>

/* What `dpsup stats` shows by name; each enum below is an index into the names above it. */
static const char *const counters[] = { "web", "dns", "other_port", "no_port", NULL };
enum { WEB, DNS, OTHER_PORT, NO_PORT };
static const char *const reasons[] = { "blocked_port", "short_header", NULL };
enum { BLOCKED_PORT, SHORT_HEADER };

/* Each worker is a process of its own: no other worker sees plain variables. */
static uint16_t leaves_by[16]; /* output port by input port; a topology has at most 16 */
static uint32_t block;
static uint64_t *count;

/* Once, before the first packet. What is wrong with the arguments ends the start, in these words. */
static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	count = env->counters;
	block = dps_arg_u64(env, "block", 23);
	for (uint32_t i = 0; i < env->n_ports; i++) {
		char key[64];
		const char *to;
		int port;

		snprintf(key, sizeof(key), "map.%s", env->port_names[i]);
		to = dps_arg(env, key);
		port = to != NULL ? dps_port(env, to) : (int)i;
		if (port < 0) {
			snprintf(env->error, env->error_len, "map: no port named \"%s\"", to);
			return -1;
		}
		leaves_by[i] = port;
	}
	return 0;
}

/* Every packet, in order. It only reads, so `rewrites` stays 0. A packet may be of any length. */
static uint16_t
packet(void *state, struct dps_packet *p)
{
	const uint8_t *ip = p->data + 14;
	uint32_t header;
	uint32_t port;

	(void)state;
	if (p->len < 14 || p->data[12] != 0x08 || p->data[13] != 0x00) { /* not IPv4 */
		count[NO_PORT]++;
		return dps_out(leaves_by[p->port]);
	}
	if (p->len < 14 + 20)
		return dps_drop(SHORT_HEADER);
	header = (ip[0] & 0x0f) * 4;
	/* Only TCP and UDP have ports, and of a datagram in fragments only the first one. */
	if ((ip[9] != 6 && ip[9] != 17) || (ip[6] & 0x1f) != 0 || ip[7] != 0) {
		count[NO_PORT]++;
		return dps_out(leaves_by[p->port]);
	}
	if (header < 20 || p->len < 14 + header + 4)
		return dps_drop(SHORT_HEADER);
	port = ip[header + 2] << 8 | ip[header + 3];
	if (port == block)
		return dps_drop(BLOCKED_PORT);
	count[port == 80 || port == 443 ? WEB : port == 53 ? DNS : OTHER_PORT]++;
	return dps_out(leaves_by[p->port]);
}

/* The one symbol that dpsup looks for. */
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "count_ports",
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
};
