/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_PLUGIN_H
#define DPSUP_PLUGIN_H

/*
 * The dpsup plugin SDK: all that a plugin needs, and no DPDK.
 *
 * A plugin is a shared object that exports one symbol:
 *
 *     const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "count", .packet = count };
 *
 * A worker process loads it, calls init once, then packet for every packet of its lanes, in order,
 * from one thread. What packet returns is the packet's verdict; each packet gets exactly one, and
 * dpsup carries it out. A worker may be killed between any two instructions: the packet in hand is
 * then given to the next worker once more, with its bytes as they were, provided that the plugin
 * says how many bytes it may change (rewrites, prepends). So:
 *
 *   - change only packet bytes within what you declared; a plugin that declares 0 only reads;
 *   - do not keep a packet, a pointer into it, or count on state that a kill may lose;
 *   - start no threads, do not fork, make no DPDK call; a slow packet function is slow forwarding.
 *
 * Build:  cc -shared -fPIC -O2 $(dpsup version --cflags) count.c -o count.so
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DPS_PLUGIN_ABI 3u

/* First initializer of every plugin: how the worker knows what it was built against. */
#define DPS_PLUGIN_HEAD .abi = DPS_PLUGIN_ABI, .size = sizeof(struct dps_plugin)

/* What a plugin asks for beyond bytes, length and input port (dps_plugin.needs). */
#define DPS_PLUGIN_VLAN 1u      /* vlan, has_vlan */
#define DPS_PLUGIN_TIMESTAMP 2u /* tsc */
#define DPS_PLUGIN_HASH 4u      /* hash */
#define DPS_PLUGIN_NO_BYTES 8u  /* port and length are enough: the bytes are not fetched for it */

/* Limits. */
#define DPS_PLUGIN_REWRITES 256u /* most of prepends + rewrites */
#define DPS_PLUGIN_REASONS 16u
#define DPS_PLUGIN_COUNTERS 16u

/* One packet, lent for the time of the call. */
struct dps_packet {
	uint8_t *data;          /* first byte; a plugin that prepends may move it */
	uint32_t len;           /* bytes at data (of the first segment); may be changed with it */
	uint32_t total;         /* bytes of the whole packet; more than len: use dps_next_segment */
	uint32_t hash;          /* Toeplitz hash of the flow, the same for all packets of a flow,
				 * where asked for */
	uint16_t port;          /* input port, an index into dps_env.port_names */
	uint16_t headroom;      /* bytes free before data: at least so many, at most 240 are told */
	uint16_t vlan;          /* TCI of the outermost tag, where asked for */
	uint8_t has_vlan;
	uint8_t pad;
	uint64_t tsc;           /* TSC when the io core received it, where asked for */
	const void *origin;     /* the worker's own */
};

/*
 * What init learns. All pointers stay valid, and the same, while the process lives; so does the
 * pointer to this struct.
 *
 * A spare runs init long before it knows whose place it will take: its `worker` is DPS_PLUGIN_SPARE
 * then, and the index in the group from before its first packet on. A plugin that needs it keeps
 * the pointer, and looks in packet. `counters` are the process's own and start at 0; what dpsup
 * shows for a worker is the sum over all processes that had its place.
 */
#define DPS_PLUGIN_SPARE 0xffffffffu

struct dps_env {
	const char *group;
	uint32_t worker;                /* index in the group, or DPS_PLUGIN_SPARE */
	uint32_t n_args;
	const char *const *arg_keys;    /* nested tables as "map.wan" */
	const char *const *arg_values;
	uint32_t n_ports;
	uint32_t n_groups;
	const char *const *port_names;
	const char *const *group_names;
	uint64_t tsc_hz;
	uint64_t *counters;             /* [DPS_PLUGIN_COUNTERS], shown by dpsup stats, a kill
					 * notwithstanding. Only this process writes them. */
	char *error;                    /* say here why init fails, [error_len] */
	uint32_t error_len;
	uint32_t pad;
	const uint16_t *next;           /* by input port: the verdict of dps_next */
};

struct dps_plugin {
	uint32_t abi;
	uint32_t size;
	const char *name;
	uint32_t needs;         /* DPS_PLUGIN_* */
	uint16_t rewrites;      /* bytes from a packet's start that packet() may change */
	uint16_t prepends;      /* bytes of headroom that it may take */
	const char *const *reasons;     /* names of its drop reasons, NULL at the end; may be NULL */
	const char *const *counters;    /* names of its counters, likewise */
	int (*init)(const struct dps_env *env, void **state); /* 0, or not: the worker ends */
	uint16_t (*packet)(void *state, struct dps_packet *packet); /* a verdict */
	void (*fini)(void *state);      /* on a requested end only, never after a kill */
};

/* Verdicts. */
static inline uint16_t
dps_out(uint32_t port)
{
	return (uint16_t)(0x1000u | (port & 0xfffu));
}

/* Drop, for the reason with this index in dps_plugin.reasons. */
static inline uint16_t
dps_drop(uint32_t reason)
{
	return (uint16_t)(reason & 0xfu);
}

/* On to another group, steered by the packet's own hash. */
static inline uint16_t
dps_on(uint32_t group)
{
	return (uint16_t)(0x2000u | (group & 0xfffu));
}

/*
 * On along the packet's chain: to the next group, or out of the port at the chain's end. In a group
 * that is on no chain of the packet's input port: back out of that port.
 */
static inline uint16_t
dps_next(const struct dps_env *env, const struct dps_packet *packet)
{
	return env->next[packet->port];
}

/* Take it out of the traffic as evidence. */
static inline uint16_t
dps_quarantine(void)
{
	return 0x3000u;
}

/* The value of an argument, or NULL. */
static inline const char *
dps_arg(const struct dps_env *env, const char *key)
{
	for (uint32_t i = 0; i < env->n_args; i++)
		if (strcmp(env->arg_keys[i], key) == 0)
			return env->arg_values[i];
	return NULL;
}

/* A number argument, or the default where it is missing. */
static inline uint64_t
dps_arg_u64(const struct dps_env *env, const char *key, uint64_t otherwise)
{
	const char *value = dps_arg(env, key);

	return value == NULL ? otherwise : strtoull(value, NULL, 0);
}

/* The index of a port by its name in the topology, or -1. */
static inline int
dps_port(const struct dps_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_ports; i++)
		if (strcmp(env->port_names[i], name) == 0)
			return (int)i;
	return -1;
}

/* The index of a group by its name, or -1. */
static inline int
dps_group(const struct dps_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_groups; i++)
		if (strcmp(env->group_names[i], name) == 0)
			return (int)i;
	return -1;
}

/*
 * Walk a packet's further segments, read-only, the slow path of jumbo frames: start with
 * *segment = NULL; gives the next segment's bytes and returns their number, 0 at the end.
 * The worker program provides it.
 */
uint32_t dps_next_segment(const struct dps_packet *packet, const void **segment,
			  const uint8_t **bytes);

#ifdef __cplusplus
}
#endif

#endif
