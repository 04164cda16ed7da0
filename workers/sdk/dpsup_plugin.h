/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_PLUGIN_H
#define DPSUP_PLUGIN_H

/*
 * The dpsup plugin SDK: all that a plugin needs, and no DPDK. Over 600 lines: it is the manual too.
 *
 * A plugin is a shared object that exports one symbol:
 *
 *     const struct dps_plugin dps_plugin = { DPS_PLUGIN_HEAD, .name = "count", .packet = count };
 *
 * A worker process loads it, calls init once, then packet for every packet of its lanes, in order,
 * from one thread (and look, if there is one, before it: see below). What packet returns is the packet's verdict; each packet gets exactly one, and
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

#define DPS_PLUGIN_ABI 4u

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
#define DPS_PLUGIN_BURST 64u            /* most packets of one call of look */
#define DPS_PLUGIN_BUCKETS 512u         /* of each group's flows */
#define DPS_PLUGIN_NOBODY 255u          /* dps_group_facts.owner: no worker has the bucket */
#define DPS_PLUGIN_STATE (64u << 20)    /* most bytes of state_size */
#define DPS_PLUGIN_BUCKET_STATE 65536u  /* most bytes of bucket_state_size */
#define DPS_PLUGIN_TOUCHES_MOST 4u      /* calls of dps_touch for one packet */
#define DPS_PLUGIN_TOUCH_BYTES 64u      /* bytes of each */
#define DPS_PLUGIN_EMITS 8u             /* most of emits */
#define DPS_PLUGIN_TICK_US 1000u        /* least of tick_us */
#define DPS_PLUGIN_BUCKET_TICK_US 10000u        /* and of bucket_tick_us */

/* One packet, lent for the duration of the call. Fields that the plugin did not ask for are 0. (While a
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
	void *bucket_state;     /* of the packet's bucket, where bucket_state_size asks for it; NULL in
				 * look */
	uint64_t found;         /* what look left here for packet, else 0 */
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

/* A port, as it is now. Link and speed change while packets flow; the rest too, when the device of a
 * port goes or comes back. */
struct dps_port_facts {
	uint8_t mac[8];         /* 6 bytes of address */
	uint32_t up;            /* 1: the link is up */
	uint32_t mbps;          /* of the link; 0: unknown */
	uint32_t mtu;           /* 0: there is no device now */
	int32_t numa;           /* node; -1: unknown */
};

/* A group: which worker has which bucket. A bucket that moves is its new owner's here as soon as that
 * is decided; packets that the old one had in hand are finished first. */
struct dps_group_facts {
	uint64_t version;       /* another number after each change of the rest */
	uint32_t workers;       /* that have a bucket */
	uint32_t places;        /* that the group may have: `max` in the topology */
	uint8_t owner[DPS_PLUGIN_BUCKETS]; /* index of the worker, or DPS_PLUGIN_NOBODY */
};

/* What dps_hash_of hashes: addresses and ports as they stand in packets, in network byte order. */
struct dps_tuple {
	uint8_t version;        /* 4 or 6 */
	uint8_t protocol;       /* 6, 17, ... */
	uint8_t fragment;       /* 1: part of a datagram, whose ports do not count */
	uint8_t pad;
	uint16_t from_port;
	uint16_t to_port;
	uint8_t from[16];       /* IPv4: the first 4 bytes */
	uint8_t to[16];
};

/* A file that the topology hands over (files = { routes = "routes.txt" }): its bytes, read-only, as
 * they were when this version of the plugin was put in. No NUL follows them. */
struct dps_bytes {
	const char *name;
	const void *at;
	uint64_t len;
};

/*
 * A table that the topology declares (tables = { routes = { kind = "ipv4", entries = "1M" } }), and that
 * operators change while packets flow (`dpsup table`). `at` is what the lookups of dpsup_table_*.h take:
 *
 *     const struct dps_live_table *routes = dps_table(env, "routes");  // in init; NULL: not declared
 *     ...
 *     hop = dps_lpm_find((const struct dps_lpm *)routes->at, ip->destination);   // in look or packet
 *
 * It is read-only, and stays as it is for the duration of a burst: between two bursts the worker may put
 * another copy in its place. So keep the pointer to this struct and no pointer into the table. A batch
 * of changes is seen whole or not at all. `at` is NULL until seated().
 */
#define DPS_TABLE_EXACT 1u      /* struct dps_exact */
#define DPS_TABLE_IPV4 2u       /* struct dps_lpm */
#define DPS_TABLE_IPV6 3u       /* struct dps_lpm */
#define DPS_TABLE_ARRAY 4u      /* struct dps_array */
#define DPS_TABLE_OWN 5u        /* what the plugin's table_apply makes of it: see below */

struct dps_live_table {
	const char *name;
	uint32_t kind;          /* DPS_TABLE_* */
	uint32_t key_bytes;     /* of an exact match and a table of the plugin's own, else 0 */
	uint32_t value_bytes;   /* as declared: of an array, the record's */
	uint32_t learns;        /* 1: dps_tell adds to it */
	uint64_t entries;       /* most */
	const void *at;
	uint64_t version;       /* another number after each change */
};

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

	/* The clock of all workers: nanoseconds that never go back, since some moment before the
	 * instance. The worker reads it between bursts; here it is a plain variable. */
	uint64_t now;

	/* These change while packets flow; each field is one load. What a plugin derives from them it
	 * derives anew when a version is another than the one that it looked at before. */
	const struct dps_port_facts *ports;     /* [n_ports] */
	const uint64_t *ports_version;          /* another number after each change of a port */
	const struct dps_group_facts *groups;   /* [n_groups] */
	uint32_t group_index;                   /* of this worker's group */
	uint32_t hash_key_len;
	const uint8_t *hash_key;                /* [hash_key_len], of the flows' Toeplitz hash */

	const struct dps_bytes *files;          /* [n_files]; dps_file finds one */
	uint32_t n_files;
	uint32_t n_tables;
	const struct dps_live_table *tables;         /* [n_tables]; dps_table finds one */
};

/* An entry of a table of the plugin's own kind, or one that is removed. */
struct dps_table_change {
	const void *key;        /* key_bytes */
	const void *value;      /* value_bytes; NULL: the key is removed */
};

/* What table_apply works on: see below. */
struct dps_table_work {
	const char *table;      /* its name */
	void *at;               /* the bytes to change, aligned to 4096 */
	uint64_t bytes;         /* as declared */
	uint64_t entries;       /* most */
	uint32_t key_bytes;
	uint32_t value_bytes;
	const struct dps_table_change *changes; /* [n], in the order of the batch */
	uint64_t n;
	/* All entries as they are after the batch, sorted by the bytes of their keys: for what is computed
	 * anew from all. */
	const struct dps_table_change *(*all)(uint64_t *n);
	char *error;            /* say here why the batch is refused, [error_len] */
	uint32_t error_len;
	uint32_t n_ports;
	const char *const *port_names;  /* as dps_env has them, for values that name a port */
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
	uint32_t emits;                 /* most packets that it originates for one packet or tick:
					 * dps_emit */
	void (*seated)(void *state, const struct dps_env *env); /* it has its place; may be NULL */

	void (*look)(void *state, struct dps_packet *packets, uint32_t n); /* see below; may be NULL */

	/* Bit i: reason i drops what the plugin was told to drop, as an access rule does. A rollout
	 * judges no version by it. */
	uint32_t policy;
	/* Bit i: counter i is a gauge: a number that goes up and down, as entries of a table. It is this
	 * process's, is shown as a signed number, and ends with the process. */
	uint32_t gauges;

	/* Ticks: see below. Microseconds between two of them, 0: none; NULL with 0. */
	uint32_t tick_us;
	uint32_t bucket_tick_us;
	void (*tick)(void *state);
	void (*bucket_tick)(void *state, uint32_t bucket, void *bucket_state);

	/* Take over what a version of this plugin with another state_version kept: see below. NULL: such
	 * state is forgotten. */
	int (*migrate)(const void *old, uint32_t old_size, uint32_t old_version, void *fresh);
	int (*bucket_migrate)(const void *old, uint32_t old_size, uint32_t old_version, void *fresh);
	void (*control)(void *state, const char *text, uint32_t len); /* see below; may be NULL */

	/* Tables of the plugin's own kind: see below. NULL: it has none. */
	int (*table_apply)(const struct dps_table_work *work); /* 0, or not: the batch is refused */
	uint32_t table_layout;  /* of what table_apply leaves in them */
	uint32_t pad;
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
 * On to a group, its own too, steered by a hash of the plugin's own: "this belongs to another bucket". For
 * what lands elsewhere than its flow: an ICMP error about it, its fragments, what came out of a tunnel, the
 * answers to an address that was translated. dps_hash_of says the hash of a flow.
 *
 *     if (dps_bucket(packet->hash) != dps_bucket(hash))       // needs = DPS_PLUGIN_HASH
 *             return dps_on_hash(env->group_index, hash);
 *
 * Only the bucket counts, so from then on the lowest 9 bits of packet->hash are those of `hash`, and the others
 * as they were. In its new bucket the packet is handled once more, by that bucket's worker and with its
 * state, after all that this io core gave the bucket before it. A packet goes to another bucket of its own group
 * once: a second time it is dropped, counted as steered_twice. No copy is possible with it.
 */
static inline uint16_t
dps_on_hash(uint32_t group, uint32_t hash)
{
	return (uint16_t)(group > 0xfu ? 0xffffu :
					 0x6000u | group << 9 | hash % DPS_PLUGIN_BUCKETS);
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

/*
 * To the kernel, at the TAP of the port that it came in by (`kernel` in [[ports]]). Without one it is dropped,
 * counted as no_kernel.
 */
static inline uint16_t
dps_punt(void)
{
	return 0xc000u;
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

/* A file by its name in `files` of the topology, or NULL. */
static inline const struct dps_bytes *
dps_file(const struct dps_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_files; i++)
		if (strcmp(env->files[i].name, name) == 0)
			return &env->files[i];
	return NULL;
}

/* A table by its name in `tables` of the topology, or NULL. */
static inline const struct dps_live_table *
dps_table(const struct dps_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_tables; i++)
		if (strcmp(env->tables[i].name, name) == 0)
			return &env->tables[i];
	return NULL;
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

/* The bucket of a flow, by its hash. */
static inline uint32_t
dps_bucket(uint32_t hash)
{
	return hash % DPS_PLUGIN_BUCKETS;
}

/* 1: this worker has the bucket. */
static inline int
dps_owns(const struct dps_env *env, uint32_t bucket)
{
	return env->groups[env->group_index].owner[bucket % DPS_PLUGIN_BUCKETS] == env->worker;
}

/* The buckets that a worker of a group has, into buckets[DPS_PLUGIN_BUCKETS]; returns how many. */
static inline uint32_t
dps_buckets_of(const struct dps_env *env, uint32_t group, uint32_t worker, uint16_t *buckets)
{
	uint32_t n = 0;

	for (uint32_t b = 0; b < DPS_PLUGIN_BUCKETS; b++)
		if (env->groups[group].owner[b] == worker)
			buckets[n++] = (uint16_t)b;
	return n;
}

/*
 * The hash of the packets with these headers, as an io core computes it: so dps_bucket of it says in
 * which bucket they land, and dps_group_facts.owner at which worker. Where rss_fields leaves out IPv4
 * or IPv6, whose packets then go by their MAC addresses, it is 0. The worker program provides it.
 */
uint32_t dps_hash_of(const struct dps_env *env, const struct dps_tuple *tuple);

/*
 * The first port number from `first` to `last` with which, as tuple->to_port, packets land in a bucket; 0:
 * there is none. Of 512 numbers it is one; where the tuple has no ports, all or none. What translates addresses
 * so has the answers come to the bucket that it wants: with `tuple` as they will have it, the bucket of the
 * packet in hand, and `first` one more than the last number that was in use. The hash is linear, so
 * one number more is an XOR with what the bits that change are worth.
 */
static inline uint16_t
dps_port_in(const struct dps_env *env, const struct dps_tuple *tuple, uint32_t bucket, uint16_t first,
	    uint16_t last)
{
	struct dps_tuple t = *tuple;
	uint32_t flip[17], hash, port;

	for (uint32_t i = 0; i <= 16; i++) {
		port = (1u << i) - 1;
		t.to_port = (uint16_t)(port >> 8 | port << 8);
		flip[i] = dps_hash_of(env, &t);
	}
	t.to_port = (uint16_t)(first >> 8 | first << 8);
	hash = dps_hash_of(env, &t);
	for (port = first; port <= last; port++) {
		if (port != 0 && dps_bucket(hash ^ bucket) == 0)
			return (uint16_t)port;
		if (port != 0xffff)
			hash ^= flip[0] ^ flip[__builtin_ctz(port + 1) + 1];
	}
	return 0;
}

/*
 * Walk a packet's further segments, read-only, the slow path of jumbo frames: start with
 * *segment = NULL; gives the next segment's bytes and returns their number, 0 at the end.
 * The worker program provides it.
 */
uint32_t dps_next_segment(const struct dps_packet *packet, const void **segment,
			  const uint8_t **bytes);

/*
 * Checksums of the Internet, as they stand in packets. What a plugin changes it corrects in one of two
 * ways, of which the first costs a few instructions, whatever the packet's length:
 *
 *   - Changed bytes: dps_sum_changed(checksum, was, is, len) is the checksum after len bytes (an even
 *     number, at an even distance from the start of what is summed) became others (RFC 1624). So
 *     for addresses in the IPv4 header's checksum, and again in that of TCP. That of UDP is
 *     dps_sum_udp: 0 says that there is none, and stays.
 *   - Anew: dps_ipv4_sum(header), and dps_l4_sum(packet, ip_at, &value) over all segments.
 */

/* Adds bytes to a sum that begins as 0; an odd number only at the end. */
static inline uint64_t
dps_sum(uint64_t sum, const void *bytes, uint32_t len)
{
	const uint8_t *p = (const uint8_t *)bytes;
	uint16_t last = 0;
	uint32_t four;

	for (; len >= 4; p += 4, len -= 4) {
		memcpy(&four, p, 4);
		sum += four;
	}
	if (len >= 2) {
		memcpy(&last, p, 2);
		sum += last;
		last = 0;
	}
	if (len % 2 != 0) {
		memcpy(&last, p + len - 1, 1);
		sum += last;
	}
	return sum;
}

/* The checksum of what was summed. */
static inline uint16_t
dps_sum_end(uint64_t sum)
{
	while (sum >> 16 != 0)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static inline uint16_t
dps_sum_changed(uint16_t checksum, const void *was, const void *is, uint32_t len)
{
	uint64_t sum = (uint16_t)~checksum;
	uint16_t before, after;

	for (uint32_t i = 0; i + 1 < len; i += 2) {
		memcpy(&before, (const uint8_t *)was + i, 2);
		memcpy(&after, (const uint8_t *)is + i, 2);
		sum += (uint64_t)(uint16_t)~before + after;
	}
	return dps_sum_end(sum);
}

static inline uint16_t
dps_sum_udp(uint16_t checksum, const void *was, const void *is, uint32_t len)
{
	uint16_t now = checksum == 0 ? 0 : dps_sum_changed(checksum, was, is, len);

	return checksum != 0 && now == 0 ? 0xffff : now;
}

/* What must stand in an IPv4 header's checksum. */
static inline uint16_t
dps_ipv4_sum(const void *header)
{
	const uint8_t *ip = (const uint8_t *)header;
	uint32_t len = (ip[0] & 0xfu) * 4;

	return dps_sum_end(dps_sum(dps_sum(0, ip, 10), ip + 12, len < 20 ? 8 : len - 12));
}

/*
 * What must stand in the checksum of TCP, UDP, ICMP or ICMPv6, and returns where it stands, from
 * data on. ip_at: where the IP header begins. -1: it is none of these, a fragment, or cut short.
 */
static inline int
dps_l4_sum(const struct dps_packet *packet, uint32_t ip_at, uint16_t *value)
{
	const uint8_t *ip = packet->data + ip_at, *bytes;
	const void *segment = NULL;
	uint32_t room = packet->len > ip_at ? packet->len - ip_at : 0;
	uint32_t at, len, left, field, odd = 0, n;
	uint64_t sum, part;
	uint8_t protocol, pseudo[4];

	if (room >= 20 && ip[0] >> 4 == 4) {
		at = (ip[0] & 0xfu) * 4;
		len = (uint32_t)ip[2] << 8 | ip[3];
		protocol = ip[9];
		if (at < 20 || (ip[6] & 0x3f) != 0 || ip[7] != 0 || protocol == 58)
			return -1;
		sum = dps_sum(0, ip + 12, 8);
	} else if (room >= 40 && ip[0] >> 4 == 6) {
		at = 40;
		len = 40 + ((uint32_t)ip[4] << 8 | ip[5]);
		protocol = ip[6];
		while ((protocol == 0 || protocol == 60) && room >= at + 8) {
			protocol = ip[at];
			at += (ip[at + 1] + 1u) * 8;
		}
		if (protocol == 1)
			return -1;
		sum = dps_sum(0, ip + 8, 32);
	} else {
		return -1;
	}
	field = protocol == 6 ? 16 : protocol == 17 ? 6 : 2;
	if ((protocol != 6 && protocol != 17 && protocol != 1 && protocol != 58) ||
	    len < at + field + 2 || room < at + field + 2)
		return -1;
	ip += at;
	len -= at;
	if (protocol == 17) {
		n = (uint32_t)ip[4] << 8 | ip[5];
		if (n < 8 || n > len)
			return -1;
		len = n;
	}
	pseudo[0] = 0;
	pseudo[1] = protocol;
	pseudo[2] = (uint8_t)(len >> 8);
	pseudo[3] = (uint8_t)len;
	sum = dps_sum(protocol == 1 ? 0 : dps_sum(sum, pseudo, 4), ip, field);
	bytes = ip + field + 2;
	n = room - at - field - 2;
	for (left = len - field - 2;;) {
		n = n < left ? n : left;
		part = (uint16_t)~dps_sum_end(dps_sum(0, bytes, n));
		sum += odd != 0 ? (part & 0xff) << 8 | part >> 8 : part;
		odd ^= n & 1;
		left -= n;
		if (left == 0)
			break;
		n = dps_next_segment(packet, &segment, &bytes);
		if (n == 0)
			return -1;
	}
	*value = dps_sum_end(sum);
	if (protocol == 17 && *value == 0)
		*value = 0xffff;
	return (int)(ip_at + at + field);
}

/*
 * look, optional: sees the n packets that packet will then be called for, one after the other. It
 * looks up all of them together, so that the memory that one waits for is fetched while the next
 * one is looked up, and leaves 8 bytes for each: packets[i].found is what packet finds in
 * packet->found.
 *
 *     static void look(void *state, struct dps_packet *packets, uint32_t n)
 *     {
 *             for (uint32_t i = 0; i < n; i++)
 *                     __builtin_prefetch(entry_of(packets[i].data));
 *             for (uint32_t i = 0; i < n; i++)
 *                     packets[i].found = *entry_of(packets[i].data);
 *     }
 *
 * It only reads: it changes neither bytes, nor state, nor counters, nor another field of a packet,
 * so a kill in it has changed nothing, and the next worker looks again. For the same reason it may
 * run more than once for a packet, or for n packets of which packet sees fewer; what it found is as
 * old as the burst, and packet calls before it may have changed what it read. n is at most
 * DPS_PLUGIN_BURST; a process that has just got its place looks at its first packets one by one, so
 * that the packet that kills it in look is known.
 */

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
 *
 * A version with another layout has a higher state_version, and `migrate` (a place's block) and
 * `bucket_migrate` (a bucket's): each makes of an old block of `old_size` bytes the bytes of a new one,
 * which are zero at first. It returns 0, or not: it does not know that version; the block then is zero.
 *
 *     static int bucket_migrate(const void *old, uint32_t old_size, uint32_t old_version, void *fresh)
 *     {
 *             const struct flow_1 *from = (const struct flow_1 *)old;
 *             struct flow *to = (struct flow *)fresh;
 *
 *             if (old_version != 1 || old_size != sizeof(*from))
 *                     return -1;
 *             to->packets = from->packets;
 *             return 0;
 *     }
 *
 * A place's block is migrated before seated(), a bucket's before the first packet or tick of the bucket
 * that this version gets. `fresh` is memory of the process's own: it takes effect whole, with one store,
 * after the function has returned. A worker that is killed before that has changed nothing, and the next
 * one calls it again. So it only reads `old` and only writes `fresh`; dps_touch has no place in it.
 * The old block is kept beside the new one until the next rollout, so a rollout that goes back finds it.
 * The topology reserves room for both (state = "auto" does).
 */
void dps_touch(void *at, uint32_t len);

/*
 * Originate a packet, from within packet() or a tick: `len` zero bytes to be filled, which leave with that verdict
 * (dps_out, dps_on, dps_on_hash, dps_also, dps_drop). Up to `emits` of them for each packet, in the order of the
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

/*
 * Ticks: what a plugin does because time has passed, whether there is traffic or not.
 *
 *   - tick, every tick_us: once for each worker. To send what is due (a report, a probe), to age what
 *     env->state keeps.
 *   - bucket_tick, every bucket_tick_us: once for each of the group's buckets that has state, by the
 *     worker that has the bucket, spread over the interval. To age flows: no other worker has a packet
 *     of that bucket in hand meanwhile, and the bucket takes its ticks with it when it moves.
 *
 *     static void age(void *state, uint32_t bucket, void *bucket_state)
 *     {
 *             struct flow *flow = (struct flow *)bucket_state;
 *
 *             if (flow->used && env->now - flow->last_ns > 30000000000ull) {
 *                     dps_touch(&flow->used, sizeof(flow->used));
 *                     flow->used = 0;
 *             }
 *     }
 *
 *     .bucket_tick_us = 1000000, .bucket_tick = age,
 *
 * A tick comes between two packets, never in the middle of one, and is as safe as a packet: dps_touch
 * and dps_emit hold for it, with the same limits for each tick. After a kill in the middle of one, what it
 * touched is put back, what it originated is blank again, and it is run once more. A tick that ends the
 * process twice is skipped. What a tick originates counts as come in by the group's first input port.
 *
 * The time is env->now. The interval is the least time between two ticks; one may come some
 * milliseconds late. Ticks are never queued up: one that finds its lane full, no empty buffer, its bucket on
 * the move or its predecessor not handled yet is skipped, and so is one that waits for a worker whose
 * place is given up (ticks_skipped in dpsup stats). So measure time by env->now, never by the number of
 * ticks.
 */

/*
 * Tell the other workers, by way of a table that the topology declares with learn = true: `key` has
 * `value`, as a station's MAC address its port. The builder, the process that writes tables, adds it;
 * all workers of the group find it there, usually within 20 ms, and before that perhaps not at all.
 *
 *     static const struct dps_live_table *stations;   // tables = { stations = { kind = "exact",
 *                                                     //   entries = "64k", key = "mac",
 *                                                     //   learn = true, age = "300s" } }
 *     dps_tell(env, stations, p->data + 6, p->port);
 *
 * The key is key_bytes of an exact match, or a whole address (4 or 16 bytes) of a longest prefix match. It
 * may be called for each packet: the same key and value are not told again for a second, or a quarter
 * of `age` if that is less. An entry that was not told for as long as `age` goes. What an operator has
 * added stays as it is.
 *
 * A message is advice. It takes effect when dps_tell returns, not with the packet's verdict: a packet that
 * is run once more after a kill may tell once more, which changes nothing. It is never there in half. It is
 * lost where messages come faster than the builder takes them (6,400 a second for each worker) or the
 * table is full: so tell what you can do without, and tell it again.
 *
 * 1: handed over, or told a moment ago. 0: lost, and counted (`dpsup table`). -1: the table is not
 * declared with learn = true, or this process has no place yet. The worker program provides it.
 */
int dps_tell(const struct dps_env *env, const struct dps_live_table *table, const void *key,
	     uint64_t value);

/*
 * Lookups by a call, for languages that cannot inline those of dpsup_table_*.h. dps_table_find: the value of
 * a key (key_bytes of an exact match, an address of a longest prefix match), or 2^64 - 1, also while
 * `at` is NULL, of an array and of a table of a plugin's own kind. dps_table_record: an array's record, value_bytes long, or NULL. The worker
 * program provides them.
 */
uint64_t dps_table_find(const struct dps_live_table *table, const void *key);
const void *dps_table_record(const struct dps_live_table *table, uint64_t index);

/*
 * table_apply: a table of the plugin's own kind. The topology declares its keys and values, which operators read
 * and write like those of any other table, and how many bytes the plugin makes of them:
 *
 *     tables = { rules = { kind = "own", key = "be32", value = "ipv4+be16", entries = "10k", bytes = "4MiB" } }
 *
 * It is called for each batch of changes, before any worker sees one, and lays the table out in work->bytes
 * bytes as the plugin's look and packet read them at dps_live_table.at: a classifier, a Maglev table.
 *
 *     static int apply(const struct dps_table_work *work)
 *     {
 *             struct rules *to = (struct rules *)work->at;
 *             uint64_t n;
 *             const struct dps_table_change *all = work->all(&n);
 *
 *             return compile(to, all, n, work->error, work->error_len);
 *     }
 *
 *     .table_apply = apply, .table_layout = 1,
 *
 *   - The bytes are a copy of those that workers read, which are never changed under them. They are zero
 *     where the table begins and after `clear`; then `changes` has what follows, perhaps nothing.
 *   - It either carries out `changes`, or computes the bytes anew from all(). It returns 0, or not: the batch
 *     is refused with work->error, and nothing has changed.
 *   - It runs in a process of its own, without packets, state, init or env: what it needs stands in the table.
 *     Where it crashes, or takes longer than 20 s, the batch is refused likewise; forwarding and all other tables
 *     go on. Variables do not outlive a call. What it prints is in `dpsup logs builder`.
 *   - The bytes hold no pointers: each worker has them at another address. Bytes and padding that it does not
 *     write stay as they are.
 *   - table_layout says how the bytes are laid out. While an instance runs it stays the same: a version
 *     of the plugin with another one is refused, and a rollout to it undone before a worker has changed.
 */

/*
 * control, optional: what an operator says with `dpsup tell GROUP "text"`, where the topology says
 * control = true for the group. Called between two bursts, in each worker, for each text in the order of
 * the commands; len bytes, at most 1016, in which there is no NUL and behind which need be none.
 *
 *     static void control(void *state, const char *text, uint32_t len)
 *     {
 *             if (len == 8 && memcmp(text, "trace on", 8) == 0)
 *                     trace = 1;
 *
 * The last 64 texts are kept: a worker that starts (a successor, one more, another version) gets these before
 * its first packet, after seated(). So a variable of the process is the right place for what they
 * say, and a text should say what is to hold, not what to change: "limit 100" rather than "limit +10". A
 * kill in the middle makes the next worker begin again; a text in which two workers of a place end is
 * left out there. It is no packet: dps_touch and dps_emit do not belong here.
 */

#ifdef __cplusplus
}
#endif

#endif
