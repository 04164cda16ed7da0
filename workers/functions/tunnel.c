/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tunnel: VXLAN (RFC 7348), GRE (RFC 2784, 2890) and IPIP (RFC 2003, 4213) over IPv4, between a port inside and the
 * underlay's. docs/functions/tunnel.md is its page.
 *
 *     [[workers]]
 *     plugin = "tunnel"
 *     input = ["lan", "wan"]
 *     args = { kind = "vxlan", inside = "lan", underlay = "wan", source = "192.0.2.1", remote = "192.0.2.2",
 *              mac = "02:00:00:00:00:02", vni = 7 }
 *
 * It keeps nothing: a packet becomes another one by its own bytes and the tables.
 */
#include <dpsup_table_array.h>
#include <dpsup_table_lpm.h>

#include "flow.h"
#include "frames.h"
#include "icmp.h"

enum {
	UDP = 17,
	GRE = 47,
	VXLAN = 8 + 8,          /* with UDP */
	MOST_HEAD = ETHER + IPV4 + VXLAN,
	/* The inner IPv4 header's checksum behind the longest outer headers, with two tags. */
	REWRITES = ETHER + 60 + VXLAN + ETHER + 8 + 12,
	FRAMES = 0x6558,        /* in GRE: Ethernet */
	CE = 3,
};

enum kind { IS_VXLAN, IS_GRE, IS_IPIP };
static const char *const kind_words[] = { "vxlan", "gre", "ipip", NULL };

enum reason { BAD_HEADER, TOO_BIG, NO_REMOTE, NOT_IP, NOT_OURS, OTHER_NUMBER, FRAGMENT, CONGESTED, NO_HEADROOM };
static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [TOO_BIG] = "too_big", [NO_REMOTE] = "no_remote", [NOT_IP] = "not_ip",
	[NOT_OURS] = "not_ours", [OTHER_NUMBER] = "other_number", [FRAGMENT] = "fragment",
	[CONGESTED] = "congested", [NO_HEADROOM] = "no_headroom", NULL,
};

enum counter { IN, IN_BYTES, OUT, OUT_BYTES, ANSWERS };
static const char *const counters[] = {
	[IN] = "encapsulated", [IN_BYTES] = "encapsulated_bytes", [OUT] = "decapsulated",
	[OUT_BYTES] = "decapsulated_bytes", [ANSWERS] = "icmp_errors", NULL,
};

/* A record of the table `remotes`. */
struct remote {
	uint8_t address[4];
	uint8_t mac[6];         /* of it, or of the router before it */
	uint8_t number[4];      /* VNI or key, in the machine's order */
};
_Static_assert(sizeof(struct remote) == 14, "as the table packs it");

static const struct dps_env *env;
static const struct dps_live_table *remotes, *prefixes[2];
static struct far far;          /* to the one remote of the arguments */
static uint8_t inside_mac[6];   /* of who gets what comes out of IPIP, which has no frames */
static int kind = IS_VXLAN, inside, underlay, has_remote, has_key;
static uint64_t number, to_port = 4789, ttl = 64, dscp = 64; /* 64: the inner one's */

static int
take_ends(void)
{
	const char *from = dps_arg(env, "source"), *to = dps_arg(env, "remote");

	if (from == NULL || inet_pton(AF_INET, from, far.source) != 1)
		return refuse(env, "source: \"%s\" is not an IPv4 address: it needs one of its own%s",
			      from == NULL ? "" : from, "");
	has_remote = to != NULL;
	if (!has_remote)
		return 0;
	if (inet_pton(AF_INET, to, far.destination) != 1)
		return refuse(env, "remote: \"%s\" is not an IPv4 address%s", to, "");
	return take_mac(env, "mac", far.mac);
}

static int
take_tables(void)
{
	remotes = dps_table(env, "remotes");
	prefixes[0] = dps_table(env, "prefixes");
	prefixes[1] = dps_table(env, "prefixes6");
	if (remotes != NULL && (remotes->kind != DPS_TABLE_ARRAY || remotes->value_bytes != sizeof(struct remote)))
		return refuse(env, "table \"remotes\": write kind = \"array\", value = \"ipv4+mac+u32\"%s%s", "", "");
	for (int six = 0; six < 2; six++)
		if (prefixes[six] != NULL && (prefixes[six]->kind != (six ? DPS_TABLE_IPV6 : DPS_TABLE_IPV4) ||
					      remotes == NULL))
			return refuse(env, "table \"%s\": write kind = \"%s\", and declare the table remotes too",
				      six ? "prefixes6" : "prefixes", six ? "ipv6" : "ipv4");
	if (!has_remote && (remotes == NULL || (prefixes[0] == NULL && prefixes[1] == NULL)))
		return refuse(env, "it needs the argument remote, or the tables %s and %s", "remotes",
			      "prefixes (or prefixes6)");
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = {
		"kind", "inside", "inside_mac", "underlay", "source", "remote", "mac", "vni", "key", "port", "ttl", "dscp",
		NULL,
	};

	(void)state;
	env = e;
	if (take_known(env, known) != 0 || take_word(env, "kind", kind_words, &kind) != 0 ||
	    take_port(env, "inside", &inside) != 0 || take_port(env, "underlay", &underlay) != 0 || take_ends() != 0 ||
	    take_amount(env, "vni", "", 0xffffff, &number) != 0 ||
	    take_amount(env, "key", "", 0xffffffff, &number) != 0 ||
	    take_amount(env, "port", "", 65535, &to_port) != 0 || take_amount(env, "ttl", "", 255, &ttl) != 0 ||
	    take_amount(env, "dscp", "", 63, &dscp) != 0 || take_tables() != 0)
		return -1;
	if (inside == underlay)
		return refuse(env, "inside and underlay are the same port \"%s\"%s", dps_arg(env, "inside"), "");
	has_key = dps_arg(env, "key") != NULL;
	if ((kind != IS_VXLAN && dps_arg(env, "vni") != NULL) || (kind != IS_GRE && has_key))
		return refuse(env, "vni is VXLAN's, and key is GRE's: not those of kind = \"%s\"%s", kind_words[kind], "");
	if (kind == IS_IPIP && take_mac(env, "inside_mac", inside_mac) != 0)
		return -1;
	if (ttl == 0 || to_port == 0)
		return refuse(env, "ttl and port are above 0%s%s", "", "");
	far.port = underlay;
	far.ttl = (uint8_t)ttl;
	return 0;
}

/* --- inside to underlay --------------------------------------------------------------------------- */

static uint32_t
head_of(void)
{
	return IPV4 + (kind == IS_VXLAN ? (uint32_t)VXLAN : kind == IS_IPIP ? 0 : has_key || remotes != NULL ? 8 : 4);
}

/* By the inner destination, or to the one remote. 0: there is none. */
static int
remote_of(const struct dps_packet *p, uint32_t ip, int six, struct far *to, uint32_t *its)
{
	const struct dps_live_table *table = ip == 0 ? NULL : prefixes[six];
	uint64_t found = DPS_TABLE_NONE;
	const struct remote *r = NULL;

	*to = far;
	*its = (uint32_t)number;
	if (table != NULL && table->at != NULL)
		found = dps_lpm_find((const struct dps_lpm *)table->at, p->data + ip + (six ? 24 : 16));
	if (found != DPS_TABLE_NONE && remotes->at != NULL)
		r = (const struct remote *)dps_array_at((const struct dps_array *)remotes->at, found);
	if (r == NULL)
		return has_remote;
	memcpy(to->destination, r->address, 4);
	memcpy(to->mac, r->mac, 6);
	memcpy(its, r->number, 4);
	return 1;
}

static uint16_t
encapsulate(struct dps_packet *p)
{
	uint32_t head = head_of(), mtu = env->ports[underlay].mtu, its, skip = kind == IS_IPIP ? ETHER : 0, carried;
	uint32_t ip, least = kind == IS_IPIP ? 0 : ETHER, room;
	int six = 0;
	struct far to;
	uint64_t hash;
	uint8_t *at, tos;

	ip = ip_at(p, kind == IS_IPIP ? 0 : 2, &six);
	if (kind == IS_IPIP && ip == 0)
		return dps_drop(NOT_IP);
	if (p->len < ETHER)
		return dps_drop(BAD_HEADER);
	if (!remote_of(p, ip, six, &to, &its))
		return dps_drop(NO_REMOTE);
	carried = p->total - skip;
	/* Padding of a short frame is not part of its packet. */
	if (kind == IS_IPIP) {
		room = six ? IPV6 + be16_at(p->data + ip + 4) : be16_at(p->data + ip + 2);
		if (room < (six ? (uint32_t)IPV6 : (uint32_t)IPV4) || room > carried)
			return dps_drop(BAD_HEADER);
		carried = room;
	}
	if (mtu != 0 && head + carried > mtu) {
		room = mtu > head + least ? mtu - head - least : 0;
		/* It is answered, as it is never fragmented. */
		if (icmp_too_big(p, ip, six, room))
			env->counters[ANSWERS]++;
		return dps_drop(TOO_BIG);
	}
	if (p->headroom < ETHER + head - skip)
		return dps_drop(NO_HEADROOM);
	hash = ip == 0 ? 0 : flow_hash_at(p, ip, six);
	tos = ip == 0 ? 0 : (uint8_t)(six ? (p->data[ip] & 0xfu) << 4 | p->data[ip + 1] >> 4 : p->data[ip + 1]);
	p->data -= ETHER + head - skip;
	p->len += ETHER + head - skip;
	memset(p->data, 0, ETHER + head);
	at = far_put(env, &to, p->data, kind == IS_VXLAN ? UDP : kind == IS_GRE ? GRE : six ? 41 : 4,
		     head - IPV4 + carried);
	/* RFC 6040 4.1: the ECN field is copied; the DSCP is, or is one for all. */
	dscp_put(p->data + ETHER, 0, dscp < 64 ? (uint32_t)dscp : tos >> 2u);
	if ((tos & 3) != 0) {
		uint8_t was[2] = { p->data[ETHER], p->data[ETHER + 1] };
		uint16_t sum;

		p->data[ETHER + 1] |= tos & 3;
		memcpy(&sum, p->data + ETHER + 10, 2);
		sum = dps_sum_changed(sum, was, p->data + ETHER, 2);
		memcpy(p->data + ETHER + 10, &sum, 2);
	}
	if (kind == IS_VXLAN) {
		/* RFC 7348 5: the source port spreads flows, from 49152 on; no checksum. */
		be16_put(at, 49152 + (uint32_t)((hash >> 20) & 0x3fff));
		be16_put(at + 2, (uint32_t)to_port);
		be16_put(at + 4, VXLAN + carried);
		at[8] = 0x08;
		be32_put(at + 12, its << 8);
	} else if (kind == IS_GRE) {
		at[0] = head == IPV4 + 8 ? 0x20 : 0;
		be16_put(at + 2, FRAMES);
		if (head == IPV4 + 8)
			be32_put(at + 4, its);
	}
	env->counters[IN]++;
	env->counters[IN_BYTES] += carried;
	return dps_out((uint32_t)underlay);
}

/* --- underlay to inside --------------------------------------------------------------------------- */

/* Bytes of the tunnel's header behind IPv4; -1: it is not of this tunnel, or cut short. */
static int
tunnel_head(const uint8_t *at, uint32_t room, uint32_t *its)
{
	uint32_t len = 4;

	if (kind == IS_VXLAN) {
		if (room < VXLAN || be16_at(at + 2) != to_port || (at[8] & 0x08) == 0)
			return -1;
		*its = be16_at(at + 12) << 8 | at[14];
		return VXLAN;
	}
	if (kind == IS_IPIP)
		return 0;
	/* Version 0, without routing; a checksum or a sequence number is skipped. */
	if (room < 4 || (at[0] & 0x40) != 0 || (at[1] & 7) != 0 || be16_at(at + 2) != FRAMES)
		return -1;
	len += ((at[0] & 0x80) != 0 ? 4 : 0);
	if ((at[0] & 0x20) != 0) {
		if (room < len + 4)
			return -1;
		*its = be16_at(at + len) << 16 | be16_at(at + len + 2);
		len += 4;
	}
	len += (at[0] & 0x10) != 0 ? 4 : 0;
	return room < len ? -1 : (int)len;
}

/* RFC 6040 4.2: congestion on the way goes on inside, or ends what cannot say it. 0: dropped. */
static int
put_congestion(struct dps_packet *p, uint32_t ip, int six)
{
	uint8_t *at = p->data + ip, was[2];
	uint16_t sum;

	if (six) {
		if ((at[1] & 0x30) == 0)
			return 0;
		at[1] |= CE << 4;
		return 1;
	}
	if ((at[1] & 3) == 0)
		return 0;
	memcpy(was, at, 2);
	at[1] |= CE;
	memcpy(&sum, at + 10, 2);
	sum = dps_sum_changed(sum, was, at, 2);
	memcpy(at + 10, &sum, 2);
	return 1;
}

static uint16_t
decapsulate(struct dps_packet *p)
{
	uint32_t ip, len, head, its = 0, cut, inner;
	int six, more, has_congestion;
	const uint8_t *at;
	uint8_t protocol;

	ip = ip_at(p, 0, &six);
	if (ip == 0 || six)
		return dps_drop(NOT_OURS);
	at = p->data + ip;
	head = (at[0] & 0xfu) * 4;
	len = be16_at(at + 2);
	protocol = at[9];
	if (len < head || ip + len > p->total || p->len < ip + head)
		return dps_drop(BAD_HEADER);
	if (memcmp(at + 16, far.source, 4) != 0 ||
	    (kind == IS_VXLAN ? protocol != UDP : kind == IS_GRE ? protocol != GRE : protocol != 4 && protocol != 41))
		return dps_drop(NOT_OURS);
	if ((be16_at(at + 6) & 0x3fff) != 0)
		return dps_drop(FRAGMENT);
	more = tunnel_head(at + head, (ip + len < p->len ? ip + len : p->len) - ip - head, &its);
	if (more < 0)
		return dps_drop(NOT_OURS);
	/* With several remotes the number is the sender's own affair. */
	if (remotes == NULL && its != number)
		return dps_drop(OTHER_NUMBER);
	has_congestion = (at[1] & 3) == CE;
	cut = ip + head + (uint32_t)more;
	len -= head + (uint32_t)more;
	if (kind == IS_IPIP) {
		if (len < (protocol == 41 ? (uint32_t)IPV6 : (uint32_t)IPV4) || p->len < cut + IPV4 ||
		    at[head] >> 4 != (protocol == 41 ? 6 : 4))
			return dps_drop(BAD_HEADER);
		be16_put(p->data + cut - 2, protocol == 41 ? 0x86dd : 0x0800);
		cut -= ETHER;
		memcpy(p->data + cut, inside_mac, 6);
		memcpy(p->data + cut + 6, env->ports[inside].mac, 6);
	} else if (len < ETHER || p->len < cut + ETHER) {
		return dps_drop(BAD_HEADER);
	}
	p->data += cut;
	p->len -= cut;
	if (has_congestion) {
		inner = ip_at(p, 2, &six);
		if (inner != 0 && !put_congestion(p, inner, six))
			return dps_drop(CONGESTED);
	}
	env->counters[OUT]++;
	env->counters[OUT_BYTES] += len;
	return dps_out((uint32_t)inside);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	dps_touch(env->counters, 5 * sizeof(env->counters[0]));
	if (p->port == inside)
		return encapsulate(p);
	return p->port == underlay ? decapsulate(p) : dps_drop(NOT_OURS);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "tunnel",
	.needs = DPS_PLUGIN_TOUCHES,
	.rewrites = REWRITES,
	.prepends = MOST_HEAD,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.emits = 1,
};
