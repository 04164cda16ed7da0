/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An example plugin to copy: counts the packets of each IPv4 flow, exactly: a worker that is killed
 * at any instruction, restarted or replaced loses no packet and counts none twice, and when the
 * group is scaled a flow's count goes with the flow.
 *
 *     [[workers]]
 *     plugin = "count_flows.so"
 *     state = 64
 *     bucket_state = "2KiB"
 *
 * `dpsup state` shows what it keeps, `dpsup stats` its counters.
 */
#include <dpsup_plugin.h>

static const char *const counters[] = { "packets", "untold", NULL };
enum { PACKETS, UNTOLD };

struct flow {
	uint64_t packets; /* 0: this place is free */
	uint32_t from, to;
	uint16_t from_port, to_port;
	uint32_t protocol;
};

/* The flows that fall in one bucket. Zero at first, kept from then on, moved with the bucket. */
enum { FLOWS = 85 };
struct bucket {
	uint64_t others; /* not IPv4, or no place left */
	struct flow flow[FLOWS];
};

/* What the workers of one place have seen, one after the other. */
struct place {
	uint64_t packets;
	uint64_t workers; /* processes that had it */
};

static struct place *place;
static uint64_t *count;

/* The process has its place now; a spare did not know it in init. What changes here is not put back
 * after a kill: a process that is killed in the middle may be counted or not. */
static void
seated(void *state, const struct dps_env *env)
{
	(void)state;
	place = env->state;
	count = env->counters;
	place->workers++;
	(void)env->warm; /* 0: *place was zero */
}

/* Each change is announced: if the packet gets no verdict, dpsup puts back what was there. */
static void
add_one(uint64_t *counter)
{
	dps_touch(counter, sizeof(*counter));
	++*counter;
}

static int
read_flow(const struct dps_packet *p, struct flow *flow)
{
	const uint8_t *ip = p->data + 14;
	uint32_t header;

	if (p->len < 14 + 20 || p->data[12] != 0x08 || p->data[13] != 0x00 || ip[0] >> 4 != 4)
		return 0;
	header = (ip[0] & 0x0f) * 4;
	*flow = (struct flow){ .packets = 1, .protocol = ip[9] };
	memcpy(&flow->from, ip + 12, 4);
	memcpy(&flow->to, ip + 16, 4);
	/* Only TCP and UDP have ports, and of a datagram in fragments only the first one. */
	if ((ip[9] == 6 || ip[9] == 17) && (ip[6] & 0x3f) == 0 && ip[7] == 0 &&
	    p->len >= 14 + header + 4) {
		memcpy(&flow->from_port, ip + header, 2);
		memcpy(&flow->to_port, ip + header + 2, 2);
	}
	return 1;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	struct bucket *bucket = p->bucket_state;
	struct flow flow;
	uint32_t i = FLOWS;

	(void)state;
	if (read_flow(p, &flow))
		for (i = 0; i < FLOWS && bucket->flow[i].packets > 0; i++)
			if (bucket->flow[i].from == flow.from && bucket->flow[i].to == flow.to &&
			    bucket->flow[i].from_port == flow.from_port &&
			    bucket->flow[i].to_port == flow.to_port &&
			    bucket->flow[i].protocol == flow.protocol)
				break;
	if (i == FLOWS) {
		add_one(&bucket->others);
		add_one(&count[UNTOLD]);
	} else if (bucket->flow[i].packets > 0) {
		add_one(&bucket->flow[i].packets);
	} else {
		dps_touch(&bucket->flow[i], sizeof(flow));
		bucket->flow[i] = flow;
	}
	add_one(&place->packets);
	if (i < FLOWS)
		add_one(&count[PACKETS]);
	return dps_out(p->port);
}

/* The one symbol that dpsup looks for. */
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "count_flows",
	.counters = counters,
	.seated = seated,
	.packet = packet,
	.state_size = sizeof(struct place),
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
};
