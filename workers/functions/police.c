/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * police: measures flows, addresses, prefixes or ports, and drops or marks what is above their rate.
 * docs/functions/police.md is its page. One rate and two bursts as in RFC 2697, or two rates as in RFC 2698.
 *
 *     [[workers]]
 *     plugin = "police"
 *     bucket_state = "auto"
 *     args = { by = "source", cir = "10Mbit", cbs = "64KiB" }
 *
 * A meter lies in the state of one bucket, which one worker has at a time. What belongs to a meter of another
 * bucket than its flow's is steered there first (dps_on_hash). So a rate is the rate, with any number of workers.
 */
#include <dpsup_table_array.h>
#include <dpsup_table_lpm.h>

#include "arguments.h"
#include "flow.h"

#define NS 1000000000ull
#define TOKEN (8 * NS)          /* a byte's, in bits times nanoseconds */
#define MOST_BURST 1000000000ull /* bytes: two of them, in tokens, are below 2^64 */
#define MOST_RATE 1000000000000ull

enum {
	TAGS = 2,
	REWRITES = ETHER + TAGS * 4 + 12, /* up to the checksum of IPv4 */
	WAYS = 8,
	SETS = 127,
	DSCPS = 64,
};

enum by { BY_FLOW, BY_SOURCE, BY_DESTINATION, BY_PORT };
static const char *const by_words[] = { "flow", "source", "destination", "port", NULL };
enum mode { BLIND, AWARE };
static const char *const colour_words[] = { "blind", "aware", NULL };

enum colour { GREEN, YELLOW, RED, COLOURS };
static const char *const colours[] = { "green", "yellow", "red" };

enum reason { IS_YELLOW, IS_RED };
static const char *const reasons[] = { [IS_YELLOW] = "yellow", [IS_RED] = "red", NULL };

enum counter { PACKETS, BYTES, UNMETERED = COLOURS * 2, SHARED };
static const char *const counters[] = {
	"green", "green_bytes", "yellow", "yellow_bytes", "red", "red_bytes",
	[UNMETERED] = "unmetered", [SHARED] = "shared", NULL,
};

/* A record of the table `profiles`, u64+u64+u64+u64+u64, and what the arguments say. Bits a second, bytes. */
struct profile {
	uint64_t cir;           /* committed information rate; 0: what has this profile is not metered */
	uint64_t cbs;           /* committed burst size */
	uint64_t ebs;           /* excess burst size, of RFC 2697 */
	uint64_t pir;           /* peak information rate, of RFC 2698; 0: RFC 2697 */
	uint64_t pbs;           /* peak burst size */
};

/* Tokens are bits times nanoseconds. */
struct meter {
	uint64_t key;           /* 0: the place is free */
	uint64_t at;            /* env->now when the tokens were what they are */
	uint64_t committed;
	uint64_t more;          /* excess, or peak */
};
_Static_assert(sizeof(struct meter) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is enough");

/* A bucket's state. */
struct bucket {
	struct meter meter[SETS][WAYS];
	struct meter rest;      /* of all that find no place */
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");

static const struct dps_env *env;
static const struct dps_live_table *prefixes[2], *profiles;
static struct profile profile;
static int by = BY_FLOW, mode = BLIND, has_one_profile;
static int does_drop[COLOURS] = { 0, 0, 1 };
static int dscp[COLOURS] = { -1, -1, -1 };      /* what becomes of it; -1: it stays */

static int
take_colour(enum colour colour)
{
	const char *value = dps_arg(env, colours[colour]);
	char *end;
	unsigned long n;

	if (value == NULL)
		return 0;
	does_drop[colour] = strcmp(value, "drop") == 0;
	if (does_drop[colour] || strcmp(value, "pass") == 0)
		return 0;
	n = strtoul(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || n >= DSCPS)
		return refuse(env, "%s: \"%s\" is neither pass, drop, nor a DSCP from 0 to 63",
			      colours[colour], value);
	dscp[colour] = (int)n;
	return 0;
}

/* What a profile must be, or why it is none. */
static const char *
fault(const struct profile *p)
{
	if (p->cir > MOST_RATE || p->pir > MOST_RATE)
		return "a rate is at most 1000Gbit";
	if (p->cbs > MOST_BURST || p->ebs > MOST_BURST || p->pbs > MOST_BURST)
		return "a burst is at most 1GB";
	if (p->cir != 0 && p->cbs == 0 && p->ebs == 0 && p->pir == 0)
		return "cbs or ebs must be above 0 (RFC 2697), and as large as the largest packet";
	if (p->pir != 0 && p->pir < p->cir)
		return "pir is not below cir (RFC 2698)";
	if (p->pir != 0 && (p->cbs == 0 || p->pbs == 0))
		return "cbs and pbs must be above 0 (RFC 2698), and as large as the largest packet";
	return NULL;
}

static int
take_table(const struct dps_live_table **table, const char *name, uint32_t kind, uint32_t value,
	   const char *write)
{
	const struct dps_live_table *t = dps_table(env, name);

	if (t != NULL && (t->kind != kind || t->value_bytes != value))
		return refuse(env, "table \"%s\" has another kind or value than it looks up: write %s", name,
			      write);
	*table = t;
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = {
		"by", "cir", "cbs", "ebs", "pir", "pbs", "colour", "green", "yellow", "red", NULL,
	};
	const char *why;

	(void)state;
	env = e;
	if (take_known(env, known) != 0 || take_word(env, "by", by_words, &by) != 0 ||
	    take_word(env, "colour", colour_words, &mode) != 0 ||
	    take_amount(env, "cir", "bit", MOST_RATE, &profile.cir) != 0 ||
	    take_amount(env, "pir", "bit", MOST_RATE, &profile.pir) != 0 ||
	    take_amount(env, "cbs", "B", MOST_BURST, &profile.cbs) != 0 ||
	    take_amount(env, "ebs", "B", MOST_BURST, &profile.ebs) != 0 ||
	    take_amount(env, "pbs", "B", MOST_BURST, &profile.pbs) != 0 ||
	    take_colour(GREEN) != 0 || take_colour(YELLOW) != 0 || take_colour(RED) != 0 ||
	    take_table(&prefixes[0], "prefixes", DPS_TABLE_IPV4, 4, "kind = \"ipv4\", value = \"u32\"") != 0 ||
	    take_table(&prefixes[1], "prefixes6", DPS_TABLE_IPV6, 4, "kind = \"ipv6\", value = \"u32\"") != 0 ||
	    take_table(&profiles, "profiles", DPS_TABLE_ARRAY, sizeof(struct profile),
		       "kind = \"array\", value = \"u64+u64+u64+u64+u64\"") != 0)
		return -1;
	if ((prefixes[0] != NULL || prefixes[1] != NULL) && by != BY_SOURCE && by != BY_DESTINATION)
		return refuse(env, "with the table %s it needs by = \"source\" or \"destination\"%s",
			      prefixes[0] != NULL ? "prefixes" : "prefixes6", "");
	has_one_profile = prefixes[0] == NULL && prefixes[1] == NULL && by != BY_PORT;
	if (profile.cir == 0 && profiles == NULL)
		return refuse(env, "it needs a rate: %s, or the table %s", "cir = \"10Mbit\", cbs = \"64KiB\"",
			      "profiles");
	why = fault(&profile);
	return why == NULL ? 0 : refuse(env, "%s%s", why, "");
}

/* --- meters ------------------------------------------------------------------------------------- */

static inline uint64_t
least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What came in `ns` at a rate, and no more than there is room for. */
static inline uint64_t
came(uint64_t ns, uint64_t rate, uint64_t room)
{
	return rate == 0 ? 0 : ns > room / rate ? room : ns * rate;
}

static void
refill(struct meter *m, const struct profile *p, uint64_t now)
{
	uint64_t ns = now > m->at ? now - m->at : 0, committed = p->cbs * TOKEN, got;
	uint64_t more = (p->pir != 0 ? p->pbs : p->ebs) * TOKEN;

	/* A profile may have changed. */
	m->committed = least(m->committed, committed);
	m->more = least(m->more, more);
	if (p->pir != 0) {
		m->more += came(ns, p->pir, more - m->more);
		m->committed += came(ns, p->cir, committed - m->committed);
	} else {
		got = came(ns, p->cir, committed - m->committed + more - m->more);
		more = least(more, m->more + got - least(got, committed - m->committed));
		m->committed += least(got, committed - m->committed);
		m->more = more;
	}
	m->at = now;
}

/* RFC 2697 §3, RFC 2698 §3. `was`: the colour that it came with, green to a blind meter. */
static enum colour
measure(struct meter *m, const struct profile *p, uint32_t bytes, enum colour was)
{
	uint64_t size = bytes * TOKEN;

	if (p->pir != 0) {
		if (was == RED || m->more < size)
			return RED;
		m->more -= size;
		if (was == YELLOW || m->committed < size)
			return YELLOW;
		m->committed -= size;
		return GREEN;
	}
	if (was == GREEN && m->committed >= size) {
		m->committed -= size;
		return GREEN;
	}
	if (was != RED && m->more >= size) {
		m->more -= size;
		return YELLOW;
	}
	return RED;
}

/* All buckets are full: as one that nobody has used. */
static inline int
is_full(const struct meter *m, const struct profile *p)
{
	struct meter now = *m;

	refill(&now, p, env->now);
	return now.committed == p->cbs * TOKEN && now.more == (p->pir != 0 ? p->pbs : p->ebs) * TOKEN;
}

/* The meter with a key, ready to change, its buckets full if it is new. */
static struct meter *
meter_of(struct bucket *b, uint64_t key, const struct profile *p)
{
	struct meter *set = b->meter[key / DPS_PLUGIN_BUCKETS % SETS], *m = NULL;

	for (uint32_t i = 0; i < WAYS && m == NULL; i++)
		if (set[i].key == key)
			m = &set[i];
	for (uint32_t i = 0; i < WAYS && m == NULL; i++)
		if (set[i].key == 0)
			m = &set[i];
	/* Where profiles differ, one cannot say of a meter whether it is full by another one's. */
	for (uint32_t i = 0; i < WAYS && m == NULL && has_one_profile; i++)
		if (is_full(&set[i], p))
			m = &set[i];
	if (m == NULL) {
		dps_touch(&env->counters[SHARED], sizeof(env->counters[0]));
		env->counters[SHARED]++;
		m = &b->rest;
		key = 1;
	}
	dps_touch(m, sizeof(*m));
	if (m->key != key) {
		m->key = key;
		m->at = env->now;
		m->committed = p->cbs * TOKEN;
		m->more = (p->pir != 0 ? p->pbs : p->ebs) * TOKEN;
	}
	return m;
}

/* --- packets -------------------------------------------------------------------------------------- */

static uint16_t
unmetered(const struct dps_packet *p)
{
	dps_touch(&env->counters[UNMETERED], sizeof(env->counters[0]));
	env->counters[UNMETERED]++;
	return dps_next(env, p);
}

/* AFx1, AFx2, AFx3 (RFC 2597) are green, yellow, red; all else is green. */
static inline enum colour
colour_of(uint32_t code)
{
	uint32_t class = code >> 3, precedence = code >> 1 & 3;

	return (code & 1) == 0 && class >= 1 && class <= 4 && precedence != 0 ?
		       (enum colour)(precedence - 1) : GREEN;
}

/* The number of what a packet belongs to, and which profile it has. 0: to nothing. */
static uint64_t
key_of(const struct dps_packet *p, uint32_t at, int is6, uint32_t *which)
{
	const uint8_t *address = p->data + at + (is6 ? 8 : 12) + (by == BY_DESTINATION ? (is6 ? 16 : 4) : 0);
	uint64_t key, found;

	*which = 0;
	switch (by) {
	case BY_PORT:
		*which = p->port;
		key = p->port;
		break;
	case BY_FLOW:
		key = flow_hash_at(p, at, is6);
		break;
	default:
		if (prefixes[0] != NULL || prefixes[1] != NULL) {
			if (prefixes[is6] == NULL || prefixes[is6]->at == NULL)
				return 0;
			found = dps_lpm_find((const struct dps_lpm *)prefixes[is6]->at, address);
			if (found == DPS_TABLE_NONE)
				return 0;
			*which = (uint32_t)found;
			key = found;
			break;
		}
		key = dps_table_load32(address);
		for (uint32_t i = 4; is6 && i < 16; i += 4)
			key = flow_fold(key ^ dps_table_load32(address + i), 0x8ebc6af09c88c6e3ull);
	}
	key = flow_fold(key ^ 0xa0761d6478bd642full, 0xe7037ed1a0b428dbull);
	return key > 1 ? key : key + 2;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const struct profile *use = &profile;
	struct meter *m;
	uint64_t *count, key;
	uint32_t at, bytes, which, code;
	uint8_t *ip;
	enum colour colour;
	int is6;

	(void)state;
	at = ip_at(p, TAGS, &is6);
	if (at == 0)
		return unmetered(p);
	ip = p->data + at;
	bytes = is6 ? IPV6 + be16_at(ip + 4) : be16_at(ip + 2);
	/* What a header claims and no packet has costs nobody tokens. */
	bytes = (uint32_t)least(bytes, p->total - at);
	key = key_of(p, at, is6, &which);
	if (key == 0)
		return unmetered(p);
	if (profiles != NULL && profiles->at != NULL) {
		use = (const struct profile *)dps_array_at((const struct dps_array *)profiles->at, which);
		use = use == NULL ? &profile : use;
	}
	if (use->cir == 0 || fault(use) != NULL)
		return unmetered(p);
	if (by != BY_FLOW && dps_bucket(p->hash) != dps_bucket((uint32_t)key))
		return dps_on_hash(env->group_index, (uint32_t)key);
	code = is6 ? (ip[0] & 0xfu) << 2 | ip[1] >> 6 : ip[1] >> 2;
	m = meter_of((struct bucket *)p->bucket_state, key, use);
	refill(m, use, env->now);
	colour = measure(m, use, bytes, mode == AWARE ? colour_of(code) : GREEN);
	count = &env->counters[colour * 2];
	dps_touch(count, 2 * sizeof(*count));
	count[PACKETS]++;
	count[BYTES] += bytes;
	if (does_drop[colour])
		return dps_drop(colour == RED ? IS_RED : IS_YELLOW);
	if (dscp[colour] >= 0 && (uint32_t)dscp[colour] != code)
		dscp_put(ip, is6, (uint32_t)dscp[colour]);
	return dps_next(env, p);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "police",
	.needs = DPS_PLUGIN_HASH,
	.rewrites = REWRITES,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.policy = 1u << IS_YELLOW | 1u << IS_RED,
};
