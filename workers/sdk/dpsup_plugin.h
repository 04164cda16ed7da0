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
 *   - do not keep a packet, or a pointer into it; variables of your own are lost with the process:
 *     what must not be lost is declared as state, see below;
 *   - start no threads, do not fork, make no DPDK call; a slow packet function is slow forwarding.
 *
 * Build:  cc -shared -fPIC -O2 $(dpsup version --cflags) count.c -o count.so
 *         c++ -std=c++20 -shared -fPIC -O2 $(dpsup version --cflags) count.cpp -o count.so
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
#define DPS_PLUGIN_TOUCHES 16u  /* dps_touch on counters; what declares state need not ask */

/* Limits. */
#define DPS_PLUGIN_REWRITES 256u /* most of prepends + rewrites */
#define DPS_PLUGIN_REASONS 16u
#define DPS_PLUGIN_COUNTERS 16u
#define DPS_PLUGIN_STATE (64u << 20)    /* most bytes of state_size */
#define DPS_PLUGIN_BUCKET_STATE 32768u  /* most bytes of bucket_state_size */
#define DPS_PLUGIN_TOUCHES_MOST 4u      /* calls of dps_touch for one packet */
#define DPS_PLUGIN_TOUCH_BYTES 64u      /* bytes of each */
#define DPS_PLUGIN_EMITS 8u             /* most of emits */

/* One packet, lent for the time of the call. Fields that the plugin did not ask for are 0. (While a
 * rollout is under way they may hold what the group's other version asked for.) */
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
	void *bucket_state;     /* of the packet's bucket, where bucket_state_size asks for it */
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
	uint64_t *counters;             /* [DPS_PLUGIN_COUNTERS], shown by dpsup stats, and kept after
					 * a kill. Only this process writes them. */
	char *error;                    /* say here why init fails, [error_len] */
	uint32_t error_len;
	uint32_t warm;                  /* 1: state is what this plugin left there, 0: it is zero;
					 * both hold from seated() on */
	void *state;                    /* [state_size], 16-byte aligned */
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

	/* State that outlives the process, all 0 or NULL for none: see below. */
	uint32_t state_size;            /* bytes for each worker's place; `state` in the topology */
	uint32_t bucket_state_size;     /* bytes for each bucket; `bucket_state` in the topology */
	uint32_t state_version;         /* of the layout of both */
	uint32_t emits;                 /* most packets that it originates for one packet: dps_emit */
	void (*seated)(void *state, const struct dps_env *env); /* it has its place; may be NULL */
};

/* In C++ a constant is the file's own, under a name of C++'s, unless it was declared like this. */
#ifdef __cplusplus
extern const struct dps_plugin dps_plugin __attribute__((visibility("default")));
#endif

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

/*
 * The same, and a copy out of that port too, as the plugin left it. For dps_out, dps_on, dps_next and
 * dps_drop (which sends the copy alone). The copy leaves just before the packet. Where the pool has no
 * buffer for it, the packet goes its way alone, counted as no_copy.
 */
static inline uint16_t
dps_also(uint16_t verdict, uint32_t port)
{
	return (uint16_t)((verdict & 0xcff0u) != 0 || port > 0xffu ?
				  0xffffu : verdict | 0x8000u | port << 4);
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

/*
 * State that outlives the process: after a kill, a restart, a takeover by a spare, or a new version
 * of the plugin the next worker finds it as it was. It ends with the instance.
 *
 *   - `state_size` bytes for each worker's place (fw/0 keeps its block when a process
 *     dies), at env->state. Ready when seated() is called, after the process got its place and
 *     before its first packet; env->warm says whether there is something in it.
 *   - `bucket_state_size` bytes for each of the group's 512 buckets, at packet->bucket_state. A flow
 *     stays in its bucket, and the bucket's block goes with it to whichever worker has it next: no
 *     other one has a packet of that bucket in hand meanwhile. So scaling moves flows with their
 *     state. A block is zero until this plugin has had a packet of its bucket.
 *
 * The topology reserves the memory (`state`, `bucket_state` in [[workers]]). A block belongs to the
 * plugin of this name and state_version: any other finds zeroes. Fields may be added at the end
 * without a new version; they are zero at first. No pointers: addresses of this process mean nothing
 * to the next one.
 *
 * A worker may be killed between any two stores. The packet in hand is then run once more, so what
 * it did to the state counts twice, or worse, was half done. There are two ways to deal with that:
 *
 *   - Exactly once: dps_touch(at, len) before the change. What lies there is kept, and put back if
 *     the packet gets no verdict. Up to 4 pieces of up to 64 bytes for each packet, in env->state, in the packet's
 *     bucket_state, or in env->counters (which are exact only with it). Anything else is a bug of
 *     the plugin, and ends the process with a word on stderr.
 *
 *         dps_touch(&flow->packets, sizeof(flow->packets));
 *         flow->packets++;
 *
 *   - Never half, perhaps twice: one store of at most 8 bytes, or a commit word: write the new value
 *     beside the one that holds, then store, in one word, that it holds. Right for what may be done
 *     twice (last seen, highest seen, a table that is learned); a counter may count the packet in
 *     hand of a killed worker twice. Costs nothing more.
 *
 * What seated() changes is not put back: it must bear being cut short anywhere and run again.
 */
void dps_touch(void *at, uint32_t len);

/*
 * Originate a packet, from within packet(): `len` zero bytes to be filled, which leave with that verdict
 * (dps_out, dps_on, dps_also, dps_drop). Up to `emits` of them for each packet, in the order of the
 * calls, just before the packet itself.
 *
 *     uint8_t *reply = dps_emit(dps_out(packet->port), 60);
 *
 *     if (reply != NULL)
 *             build_arp_reply(reply, packet);
 *     return dps_drop(ARP_ANSWERED);
 *
 * They leave if and when the packet in hand has its verdict: a worker that is killed before that has
 * sent none of them, and the packet is run once more. So a packet and what it originates go out once, or
 * not yet. Bytes may be written until packet() returns, and not later.
 *
 * NULL: there is no empty buffer now, or none with so many bytes; counted as no_blank. In a group with
 * on_full = "hold" a packet comes only when there are `emits` empty buffers for it.
 */
uint8_t *dps_emit(uint16_t verdict, uint32_t len);

#ifdef __cplusplus
}
#endif

#endif
