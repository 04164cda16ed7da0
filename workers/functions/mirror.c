/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mirror: lets packets pass, and sends copies of those that match to a port, as they are or in a tunnel.
 * docs/functions/mirror.md is its page.
 *
 *     [[workers]]
 *     plugin = "mirror"
 *     state = "auto"
 *     args = { to = "mon", from = "wan", sample = 100, bytes = 128 }
 *
 * A copy leaves if and when its packet has its verdict, and once: with it, by dps_also, or as a packet that this one
 * originates. What counts for sampling and sequence numbers is touched.
 */
#include <dpsup_table_lpm.h>

#include "flow.h"
#include "frames.h"

enum {
	TAGS = 2,
	GRE = 4,
	ERSPAN = 8 + 8,         /* GRE with a sequence number, and its own header */
	MOST_L4 = 8,
	MOST_PORTS = 256,
};

enum tunnel { NONE, IS_GRE, IS_ERSPAN };
static const char *const tunnel_words[] = { "none", "gre", "erspan", NULL };
enum sampled { BY_PACKET, BY_FLOW };
static const char *const sampled_words[] = { "packet", "flow", NULL };

enum counter { MATCHED, COPIED, BYTES, TRUNCATED, NOT_COPIED };
static const char *const counters[] = {
	[MATCHED] = "matched", [COPIED] = "copied", [BYTES] = "copied_bytes", [TRUNCATED] = "truncated",
	[NOT_COPIED] = "not_copied", NULL,
};

/* A worker's state. */
struct place {
	uint64_t matched;
	uint64_t sequence;      /* of ERSPAN */
};

static const struct dps_env *env;
static const struct dps_live_table *prefixes[2];
static uint8_t is_source[MOST_PORTS];
static int to, tunnel = NONE, sampled_by = BY_PACKET;
static uint64_t sample = 1, most, session = 1, ttl = 64;
static int protocol = -1;
static uint16_t l4[MOST_L4];
static uint32_t n_l4;
static struct far far;          /* of the tunnel */

/* Calls take for each of the words between commas. */
static int
take_words(const char *key, int (*take)(const char *key, const char *word))
{
	const char *value = dps_arg(env, key);
	char word[64];

	for (size_t len; value != NULL; value = value[len] == '\0' ? NULL : value + len + 1) {
		value += strspn(value, " ");
		len = strcspn(value, ",");
		snprintf(word, sizeof(word), "%.*s", (int)len, value);
		word[strcspn(word, " ")] = '\0';
		if (take(key, word) != 0)
			return -1;
	}
	return 0;
}

static int
take_from(const char *key, const char *word)
{
	int port = dps_port(env, word);

	if (port < 0 || port >= MOST_PORTS)
		return refuse(env, "%s: there is no port \"%s\"", key, word);
	is_source[port] = 1;
	return 0;
}

static int
take_l4(const char *key, const char *word)
{
	char *end;
	unsigned long n = strtoul(word, &end, 10);

	if (n_l4 == MOST_L4)
		return refuse(env, "%s: it takes 8 numbers, and \"%s\" is one more", key, word);
	if (word[0] < '0' || word[0] > '9' || *end != '\0' || n > 65535)
		return refuse(env, "%s: \"%s\" is not a port number", key, word);
	l4[n_l4++] = (uint16_t)n;
	return 0;
}

static int
take_protocol(void)
{
	static const struct { const char *word; int number; } known[] = {
		{ "tcp", 6 }, { "udp", 17 }, { "icmp", 1 }, { "icmpv6", 58 }, { "sctp", 132 },
	};
	const char *value = dps_arg(env, "protocol");
	char *end;

	if (value == NULL)
		return 0;
	for (uint32_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].word, value) == 0)
			protocol = known[i].number;
	if (protocol >= 0)
		return 0;
	protocol = (int)strtoul(value, &end, 10);
	return value[0] >= '0' && value[0] <= '9' && *end == '\0' && protocol <= 255 ? 0 :
		       refuse(env, "protocol: \"%s\" is not tcp, udp, icmp, icmpv6, sctp%s", value,
			      ", or a number up to 255");
}

static int
take_ends(void)
{
	if (tunnel != NONE)
		return take_far(env, &far);
	return dps_arg(env, "source") == NULL && dps_arg(env, "destination") == NULL && dps_arg(env, "mac") == NULL ?
		       0 : refuse(env, "source, destination and mac are a tunnel's: write %s%s",
				  "tunnel = \"gre\" or \"erspan\" too", "");
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = {
		"to", "from", "sample", "sample_by", "bytes", "protocol", "l4_port", "tunnel", "source",
		"destination", "mac", "session", "ttl", NULL,
	};
	const char *name;

	(void)state;
	env = e;
	name = dps_arg(env, "to");
	if (take_known(env, known) != 0)
		return -1;
	if (name == NULL)
		return refuse(env, "it needs the argument \"%s\": the port that copies leave by%s", "to", "");
	to = dps_port(env, name);
	if (to < 0)
		return refuse(env, "to: there is no port \"%s\"%s", name, "");
	memset(is_source, dps_arg(env, "from") == NULL, sizeof(is_source));
	if (take_words("from", take_from) != 0 || take_words("l4_port", take_l4) != 0 || take_protocol() != 0 ||
	    take_word(env, "tunnel", tunnel_words, &tunnel) != 0 ||
	    take_word(env, "sample_by", sampled_words, &sampled_by) != 0 ||
	    take_number(env, "sample", 1, 1000000000, &sample) != 0 || take_number(env, "bytes", 14, 65535, &most) != 0 ||
	    take_number(env, "session", 0, 1023, &session) != 0 || take_number(env, "ttl", 1, 255, &ttl) != 0 ||
	    take_ends() != 0)
		return -1;
	if (is_source[to] && dps_arg(env, "from") != NULL)
		return refuse(env, "to and from are the same port \"%s\"%s", name, "");
	is_source[to] = 0;
	far.port = to;
	far.ttl = (uint8_t)ttl;
	for (int six = 0; six < 2; six++) {
		const char *table = six ? "prefixes6" : "prefixes";

		prefixes[six] = dps_table(env, table);
		if (prefixes[six] != NULL && (prefixes[six]->kind != (six ? DPS_TABLE_IPV6 : DPS_TABLE_IPV4)))
			return refuse(env, "table \"%s\" has another kind than it looks up: write kind = \"%s\"",
				      table, six ? "ipv6" : "ipv4");
	}
	return 0;
}

/* --- which packets ------------------------------------------------------------------------------ */

/* The longest prefix that has the address says yes: its value is not 0. */
static int
is_in(const struct dps_live_table *table, const uint8_t *address)
{
	uint64_t found = dps_lpm_find((const struct dps_lpm *)table->at, address);

	return found != DPS_TABLE_NONE && found != 0;
}

static int
has_l4(const uint8_t *at)
{
	for (uint32_t i = 0; i < n_l4; i++)
		if (be16_at(at) == l4[i] || be16_at(at + 2) == l4[i])
			return 1;
	return 0;
}

static int
does_match(const struct dps_packet *p, uint64_t *flow)
{
	const struct dps_live_table *table;
	uint32_t at, head;
	const uint8_t *ip;
	int six = 0, code;

	if (!is_source[p->port])
		return 0;
	*flow = p->port;
	at = ip_at(p, TAGS, &six);
	if (at == 0)
		return prefixes[0] == NULL && prefixes[1] == NULL && protocol < 0 && n_l4 == 0;
	*flow = flow_hash_at(p, at, six);
	ip = p->data + at;
	if (prefixes[0] != NULL || prefixes[1] != NULL) {
		table = prefixes[six];
		if (table == NULL || table->at == NULL ||
		    (!is_in(table, ip + (six ? 8 : 12)) && !is_in(table, ip + (six ? 24 : 16))))
			return 0;
	}
	code = six ? ip[6] : ip[9];
	if (protocol >= 0 && code != protocol)
		return 0;
	if (n_l4 == 0)
		return 1;
	head = six ? (uint32_t)IPV6 : (ip[0] & 0xfu) * 4;
	return (code == 6 || code == 17 || code == 132) && (six || (be16_at(ip + 6) & 0x1fff) == 0) &&
	       p->len >= at + head + 4 && has_l4(ip + head);
}

static int
is_sampled(uint64_t flow)
{
	struct place *place = (struct place *)env->state;

	if (sample == 1)
		return 1;
	if (sampled_by == BY_FLOW)
		return flow_fold(flow, 0x9e3779b97f4a7c15ull) % sample == 0;
	dps_touch(&place->matched, sizeof(place->matched));
	return place->matched++ % sample == 0;
}

/* --- copies ------------------------------------------------------------------------------------- */

static void
count(enum counter which, uint64_t n)
{
	env->counters[which] += n;
}

/* The bytes of a packet, from all of its segments. */
static void
fill(uint8_t *at, const struct dps_packet *p, uint32_t len)
{
	const void *segment = NULL;
	const uint8_t *bytes = p->data;
	uint32_t n = p->len;

	for (;;) {
		n = n < len ? n : len;
		memcpy(at, bytes, n);
		at += n;
		len -= n;
		if (len == 0)
			return;
		n = dps_next_segment(p, &segment, &bytes);
		if (n == 0)
			return;
	}
}

/* GRE of type 0x88be with a sequence number (RFC 2890), and the header of ERSPAN type II
 * (draft-foschiano-erspan-03, §4.2): what it is a copy of, and whose sequence it is. */
static uint8_t *
erspan(uint8_t *at, const struct dps_packet *p, int is_cut)
{
	struct place *place = (struct place *)env->state;
	uint32_t tag = 0, has_tag = p->len >= ETHER + 4 && be16_at(p->data + 12) == 0x8100;

	if (has_tag)
		tag = be16_at(p->data + 14);
	be16_put(at, 0x1000);
	be16_put(at + 2, 0x88be);
	be32_put(at + 4, (uint32_t)place->sequence);
	dps_touch(&place->sequence, sizeof(place->sequence));
	place->sequence++;
	be16_put(at + 8, 1u << 12 | (tag & 0xfff));
	be16_put(at + 10, (tag >> 13) << 13 | (has_tag ? 3u << 11 : 0) | (is_cut ? 1u << 10 : 0) |
			  (((uint32_t)session + env->worker) & 0x3ff));
	be32_put(at + 12, p->port);
	return at + ERSPAN;
}

static uint32_t
least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint16_t verdict = dps_next(env, p);
	uint32_t head = tunnel == NONE ? 0 : (far.is6 ? IPV6 : IPV4) + (tunnel == IS_GRE ? GRE : ERSPAN);
	uint32_t mtu = env->ports[to].mtu, len = p->total;
	uint64_t flow;
	uint8_t *at;

	(void)state;
	if (!does_match(p, &flow))
		return verdict;
	dps_touch(env->counters, 5 * sizeof(env->counters[0]));
	count(MATCHED, 1);
	if (!is_sampled(flow))
		return verdict;
	if (most != 0)
		len = least(len, (uint32_t)most);
	if (mtu != 0)
		len = least(len, tunnel == NONE ? mtu + ETHER + TAGS * 4 : mtu > head ? mtu - head : 0);
	if (tunnel == NONE && len == p->total) {
		count(COPIED, 1);
		count(BYTES, len);
		return dps_also(verdict, (uint32_t)to);
	}
	at = dps_emit(dps_out((uint32_t)to), (tunnel == NONE ? 0 : ETHER + head) + len);
	if (at == NULL) {
		count(NOT_COPIED, 1);
		return verdict;
	}
	if (tunnel != NONE)
		at = far_put(env, &far, at, 47, head - (far.is6 ? IPV6 : IPV4) + len);
	if (tunnel == IS_GRE) {
		be16_put(at + 2, 0x6558);
		at += GRE;
	} else if (tunnel == IS_ERSPAN) {
		at = erspan(at, p, len < p->total);
	}
	fill(at, p, len);
	count(COPIED, 1);
	count(BYTES, len);
	count(TRUNCATED, len < p->total);
	return verdict;
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "mirror",
	.counters = counters,
	.init = init,
	.packet = packet,
	.state_size = sizeof(struct place),
	.state_version = 1,
	.emits = 1,
};
