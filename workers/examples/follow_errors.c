/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An example plugin to copy: counts the packets of each bucket, and the ICMP errors about them. An error has
 * the addresses of the router that sends it, so it lands in a bucket of its own. What it is about stands
 * inside: it is sent to the bucket, and so to the worker, that has that flow and its state.
 *
 *     [[workers]]
 *     plugin = "follow_errors.so"
 *     bucket_state = 64
 */
#include <dpsup_plugin.h>

enum { ETHER = 14, IP = 20, ICMP = 8, PORTS = 4 };

struct bucket {
	uint64_t packets;
	uint64_t errors;
};

static const struct dps_env *env;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	return 0;
}

/* Is it an ICMP error about a packet? Then the flow of the packets that come from where that one went. */
static int
is_error(const struct dps_packet *p, struct dps_tuple *flow)
{
	const uint8_t *ip = p->data + ETHER, *inner;
	uint32_t header;

	if (p->len < ETHER + IP || p->data[12] != 0x08 || p->data[13] != 0x00 || ip[9] != 1)
		return 0;
	header = (ip[0] & 0xfu) * 4;
	if (header < IP || p->len < ETHER + header + ICMP + IP || (ip[6] & 0x1f) != 0 || ip[7] != 0)
		return 0;
	/* Unreachable, time exceeded, a parameter is wrong. */
	if (ip[header] != 3 && ip[header] != 11 && ip[header] != 12)
		return 0;
	inner = ip + header + ICMP;
	header = (inner[0] & 0xfu) * 4;
	if (header < IP || (uint32_t)(inner - p->data) + header + PORTS > p->len)
		return 0;
	memset(flow, 0, sizeof(*flow));
	flow->version = 4;
	flow->protocol = inner[9];
	flow->fragment = (inner[6] & 0x3f) != 0 || inner[7] != 0;
	memcpy(flow->from, inner + 16, 4);
	memcpy(flow->to, inner + 12, 4);
	memcpy(&flow->from_port, inner + header + 2, 2);
	memcpy(&flow->to_port, inner + header, 2);
	return 1;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	struct bucket *bucket = (struct bucket *)p->bucket_state;
	struct dps_tuple flow;
	uint64_t *count = &bucket->packets;

	(void)state;
	if (is_error(p, &flow)) {
		uint32_t hash = dps_hash_of(env, &flow);

		if (dps_bucket(hash) != dps_bucket(p->hash))
			return dps_on_hash(env->group_index, hash);
		count = &bucket->errors;
	}
	dps_touch(count, sizeof(*count));
	(*count)++;
	return dps_next(env, p);
}

/* The one symbol that dpsup looks for. */
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "follow_errors",
	.needs = DPS_PLUGIN_HASH,
	.init = init,
	.packet = packet,
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
};
