/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * acl: permits and denies by ordered rules that operators change while packets flow, with or without the state of
 * flows. docs/functions/acl.md is its page; acl_rule.h reads rules, acl_tree.h finds the first one that fits.
 *
 *     [[workers]]
 *     plugin = "acl"
 *     state = "auto"
 *     bucket_state = "auto"
 *     tables = { rules = { kind = "own", key = "be32", value = "words200", entries = "10k", bytes = "32MiB",
 *                          file = "rules.txt" } }
 *
 * A flow that a rule keeps lies in the state of one bucket: that of its addresses and ports, the lower end first, so
 * that both directions meet there whatever the hash's key. What lands elsewhere (an ICMP error about the flow, a
 * first fragment, an answer where the key is not symmetric) is steered there with dps_on_hash.
 */
#include <stddef.h>

#include "arguments.h"
#include "acl_packet.h"
#include "acl_tree.h"
#include "flow.h"
#include "icmp.h"

enum {
	REWRITES = ETHER + TAGS * 4 + 12, /* up to the checksum of IPv4 */
	COUNTED = 256,

	SETS = 80,
	FLOW_WAYS = 8,
	UNIT = 26,                        /* a flow's time counts in 2^26 ns */
};

static const char *const reasons[] = {
	[BAD_HEADER] = "bad_header", [TINY_FRAGMENT] = "tiny_fragment", [DENIED] = "denied",
	[REJECTED] = "rejected", [NO_RULE] = "no_rule", [NO_FLOW] = "no_flow", [STATE_FULL] = "state_full", NULL,
};

enum counter { PERMITTED, OF_A_FLOW, FLOWS, ERRORS_OF_A_FLOW, NOT_IP, LOGGED, ANSWERS, ANSWERS_LIMITED };
static const char *const counters[] = {
	[PERMITTED] = "permitted", [OF_A_FLOW] = "of_a_flow", [FLOWS] = "flows_begun",
	[ERRORS_OF_A_FLOW] = "errors_of_a_flow", [NOT_IP] = "not_ip", [LOGGED] = "logged", [ANSWERS] = "answers",
	[ANSWERS_LIMITED] = "answers_limited", NULL,
};

/* What has been seen of a flow. */
enum { ANSWERED = 1, OPEN = 2, FIN_LOW = 4, FIN_HIGH = 8, CLOSED = FIN_LOW | FIN_HIGH, LOW_BEGAN = 16 };

/* A flow: its lower end, addresses and ports as in packets, then the higher one. */
struct flow {
	uint8_t address[2][16];
	uint16_t port[2];
	uint8_t protocol;
	uint8_t six;
	uint8_t seen;
	uint8_t pad;
	uint32_t end;           /* when it is over, in units; 0: the place is free */
	uint32_t pad2;
};
_Static_assert(sizeof(struct flow) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is enough");

/* A bucket's state. */
struct bucket {
	struct flow flow[SETS][FLOW_WAYS];
	uint64_t seed;          /* so that nobody knows which flows share a set */
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");

/* A worker's state. */
struct place {
	uint64_t answers_until; /* when the answers that were sent would have been sent at their rate, in ns */
	uint64_t pad;
	struct { uint64_t packets, bytes; } count[COUNTED];
};

static const struct dps_env *env;
static const struct dps_live_table *rules;
static int not_ip = PERMIT, otherwise = DENY, log_to = -1;
static uint64_t answer_ns = 10000000, log_sample = 1;
static uint32_t life_open = 7440, life_tcp = 240, life_udp = 300, life_icmp = 60, life_other = 600; /* s */
static int is_symmetric;

static const char *const action_words[] = { "permit", "deny", "reject", NULL };

/* --- arguments ---------------------------------------------------------------------------------- */

static int
take_seconds(const char *key, uint32_t *seconds)
{
	uint64_t n = *seconds;

	if (take_amount(env, key, "", 1000000, &n) != 0)
		return -1;
	*seconds = (uint32_t)n;
	return n > 0 ? 0 : refuse(env, "%s: write a number of seconds%s", key, "");
}

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = {
		"not_ip", "otherwise", "log", "log_sample", "answers", "tcp_open", "tcp", "udp", "icmp", "other",
		NULL,
	};
	const char *name;
	uint64_t answers = 100;

	(void)state;
	env = e;
	name = dps_arg(env, "log");
	rules = dps_table(env, "rules");
	if (rules == NULL || rules->kind != DPS_TABLE_OWN || rules->key_bytes != 4)
		return refuse(env, "it needs the live table rules = { kind = \"own\", key = \"be32\", %s%s",
			      "value = \"words200\", entries = \"10k\", bytes = \"32MiB\" }", "");
	if (take_known(env, known) != 0 || take_word(env, "not_ip", action_words, &not_ip) != 0 ||
	    take_word(env, "otherwise", action_words, &otherwise) != 0 ||
	    take_amount(env, "log_sample", "", 1000000000, &log_sample) != 0 ||
	    take_amount(env, "answers", "", 1000000, &answers) != 0 || take_seconds("tcp_open", &life_open) != 0 ||
	    take_seconds("tcp", &life_tcp) != 0 || take_seconds("udp", &life_udp) != 0 ||
	    take_seconds("icmp", &life_icmp) != 0 || take_seconds("other", &life_other) != 0)
		return -1;
	if (not_ip == REJECT)
		return refuse(env, "not_ip: what is not IP has no answer: write permit or deny%s%s", "", "");
	log_to = name == NULL ? -1 : dps_port(env, name);
	if (name != NULL && log_to < 0)
		return refuse(env, "log: there is no port \"%s\"%s", name, "");
	answer_ns = answers == 0 ? 0 : 1000000000 / answers;
	log_sample = log_sample == 0 ? 1 : log_sample;
	return 0;
}

static int
apply(const struct dps_table_work *work)
{
	uint64_t n;
	const struct dps_table_change *all = work->all(&n);
	struct rule *list;
	int ret = 0;

	if (work->key_bytes != 4 || work->bytes < sizeof(struct acl)) {
		snprintf(work->error, work->error_len, "write key = \"be32\", value = \"words200\", bytes = \"32MiB\"");
		return -1;
	}
	list = (struct rule *)malloc((n + 1) * sizeof(*list));
	for (uint64_t i = 0; i < n && ret == 0; i++) {
		const uint8_t *key = (const uint8_t *)all[i].key;

		ret = list == NULL ? -1 : rule_read(work, be16_at(key) << 16 | be16_at(key + 2),
						    (const char *)all[i].value, work->value_bytes, &list[i]);
	}
	if (ret == 0) {
		ret = acl_make((struct acl *)work->at, work->bytes, list, (uint32_t)n);
		if (ret != 0)
			snprintf(work->error, work->error_len,
				 ret == -ENOSPC ? "%u rules do not fit %llu MiB: give the table more `bytes`" :
						  "there is no memory for %u rules (%llu MiB)",
				 (uint32_t)n, (unsigned long long)(work->bytes >> 20));
	}
	free(list);
	return ret;
}

/* --- lookup ------------------------------------------------------------------------------------- */

/* What is found for a packet: the index of its rule + 1, or 0. */
static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	struct seen seen[DPS_PLUGIN_BURST];
	const struct facts *facts[DPS_PLUGIN_BURST];
	const struct acl *a = (const struct acl *)rules->at;
	uint32_t found[DPS_PLUGIN_BURST], who[DPS_PLUGIN_BURST], kept = 0;

	(void)state;
	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(packets[i].data + ETHER);
	if (a == NULL || a->magic != ACL_MAGIC)
		return;
	for (uint32_t i = 0; i < n; i++) {
		see(&packets[i], &seen[i]);
		if (seen[i].ip == 0 || seen[i].is_bad != 0)
			continue;
		facts[kept] = &seen[i].facts;
		who[kept++] = i;
	}
	acl_look(a, facts, kept, found);
	for (uint32_t k = 0; k < kept; k++)
		packets[who[k]].found = found[k] < a->n_rules ? found[k] + 1 : 0;
}

/* --- flows -------------------------------------------------------------------------------------- */

/* The flow that a header is of: `side`: which end sent it. 0: it is of none that is kept. */
static int
flow_of(const uint8_t *ip, int six, uint32_t protocol, const uint8_t *l4, struct flow *f, int *side)
{
	const uint8_t *from = ip + (six ? 8 : 12), *to = ip + (six ? 24 : 16);
	uint32_t len = six ? 16 : 4, type;
	uint16_t ports[2] = { 0, 0 };
	int order;

	memset(f, 0, sizeof(*f));
	f->protocol = (uint8_t)protocol;
	f->six = (uint8_t)six;
	if (protocol == TCP || protocol == UDP || protocol == SCTP) {
		memcpy(ports, l4, 4);
	} else if (protocol == ICMP4 || protocol == ICMP6) {
		/* Only an echo is a flow; its identifier stands for both ports. */
		type = l4[0];
		if (type != (protocol == ICMP4 ? 8 : 128) && type != (protocol == ICMP4 ? 0 : 129))
			return 0;
		memcpy(&ports[0], l4 + 4, 2);
		ports[1] = ports[0];
	}
	order = memcmp(from, to, len);
	if (order == 0)
		order = memcmp(&ports[0], &ports[1], 2);
	*side = order > 0;
	memcpy(f->address[*side], from, len);
	memcpy(f->address[!*side], to, len);
	f->port[*side] = ports[0];
	f->port[!*side] = ports[1];
	return 1;
}

/* The flow that an ICMP error is about, in its first bytes of that packet. */
static int
flow_of_error(const struct dps_packet *p, const struct seen *s, struct flow *f)
{
	const uint8_t *icmp = p->data + s->l4, *ip = icmp + 8;
	uint32_t protocol = s->facts.is[PROTOCOL], at, end = s->end, fragment = 0, type;
	int six = (s->facts.bits & IS_6) != 0, side;

	/* Of another protocol there may be no byte. */
	if (protocol != ICMP4 && protocol != ICMP6)
		return 0;
	type = icmp[0];
	if (six ? protocol != ICMP6 || type == 0 || type > 4 :
		  protocol != ICMP4 || (type != 3 && type != 11 && type != 12))
		return 0;
	at = s->l4 + 8;
	if (end < at + (six ? (uint32_t)IPV6 : (uint32_t)IPV4) || ip[0] >> 4 != (six ? 6 : 4))
		return 0;
	if (six) {
		protocol = ip[6];
		at = past_headers(p->data, at + IPV6, end, &protocol, &fragment);
		fragment &= 0xfff8;
	} else {
		protocol = ip[9];
		fragment = be16_at(ip + 6) & 0x1fff;
		at = (ip[0] & 0xf) < 5 ? 0 : at + (ip[0] & 0xfu) * 4;
	}
	return at != 0 && end >= at + 8 && fragment == 0 && flow_of(ip, six, protocol, p->data + at, f, &side);
}

static uint32_t
hash_of(const struct flow *f)
{
	struct dps_tuple t = { .version = f->six ? 6 : 4, .protocol = f->protocol, .from_port = f->port[0],
			       .to_port = f->port[1] };

	memcpy(t.from, f->address[0], 16);
	memcpy(t.to, f->address[1], 16);
	return dps_hash_of(env, &t);
}

static inline uint32_t
now_units(void)
{
	return (uint32_t)(env->now >> UNIT) + 1;
}

static uint32_t
life_of(const struct flow *f)
{
	uint32_t s = life_other;

	if (f->protocol == TCP)
		s = (f->seen & OPEN) != 0 && (f->seen & CLOSED) == 0 ? life_open : life_tcp;
	else if (f->protocol == UDP)
		s = life_udp;
	else if (f->protocol == ICMP4 || f->protocol == ICMP6)
		s = life_icmp;
	return (uint32_t)(((uint64_t)s * 1000000000) >> UNIT) + 1;
}

static struct flow *
set_of(struct bucket *b, const struct flow *f)
{
	uint64_t hash = b->seed ^ 0xa0761d6478bd642full;

	for (uint32_t i = 0; i < 40; i += 8)
		hash = flow_fold(hash ^ dps_table_load64((const uint8_t *)f + i), 0xe7037ed1a0b428dbull);
	return b->flow[(hash >> 32) * SETS >> 32];
}

/* All but what changes while it lives. */
static inline int
is_same(const struct flow *a, const struct flow *b)
{
	return memcmp(a, b, offsetof(struct flow, seen)) == 0;
}

static struct flow *
find(struct bucket *b, const struct flow *f)
{
	struct flow *set;
	uint32_t now = now_units();

	if (b->seed == 0)
		return NULL;
	set = set_of(b, f);
	for (uint32_t i = 0; i < FLOW_WAYS; i++)
		if (set[i].end >= now && is_same(&set[i], f))
			return &set[i];
	return NULL;
}

/* Each of these is one store, and done twice as good as once: nothing is touched. */
static void
saw(struct flow *f, int side, uint8_t flags)
{
	int began = (f->seen & LOW_BEGAN) != 0 ? 0 : 1;
	uint8_t seen = f->seen;

	if (side != began)
		seen |= ANSWERED;
	else if ((seen & ANSWERED) != 0 && ((flags & SYN) == 0 || f->protocol != TCP))
		seen |= OPEN;
	if (f->protocol == TCP && (flags & RST) != 0)
		seen |= CLOSED;
	if (f->protocol == TCP && (flags & FIN) != 0)
		seen |= side == 0 ? FIN_LOW : FIN_HIGH;
	f->seen = seen;
	f->end = now_units() + life_of(f);
}

static int
begin(struct bucket *b, const struct flow *f, int side)
{
	struct flow *set, *free = NULL;
	uint32_t now = now_units();

	if (b->seed == 0) {
		dps_touch(&b->seed, sizeof(b->seed));
		b->seed = flow_fold(env->now ^ 0x8ebc6af09c88c6e3ull, f->port[0] + 0x589965cc75374cc3ull) | 1;
	}
	set = set_of(b, f);
	for (uint32_t i = 0; i < FLOW_WAYS && free == NULL; i++)
		if (set[i].end < now)
			free = &set[i];
	if (free == NULL)
		return -1;
	dps_touch(free, sizeof(*free));
	*free = *f;
	free->seen = side == 0 ? LOW_BEGAN : 0;
	free->end = now + life_of(free);
	env->counters[FLOWS]++;
	return 0;
}

/* --- answers ------------------------------------------------------------------------------------ */

static int
may_answer(void)
{
	struct place *place = (struct place *)env->state;
	uint64_t until = place->answers_until > env->now ? place->answers_until : env->now;

	if (answer_ns == 0)
		return 0;
	/* A second's worth at once. */
	if (until - env->now > 1000000000) {
		env->counters[ANSWERS_LIMITED]++;
		return 0;
	}
	dps_touch(&place->answers_until, sizeof(place->answers_until));
	place->answers_until = until + answer_ns;
	return 1;
}

/* RFC 9293 §3.10.7.1: what has no connection gets this. */
static void
reset(const struct dps_packet *p, const struct seen *s)
{
	const uint8_t *ip = p->data + s->ip, *tcp = p->data + s->l4;
	int six = (s->facts.bits & IS_6) != 0;
	uint32_t head = six ? IPV6 : IPV4, from = six ? 8 : 12, len = six ? 16 : 4, data, ack;
	uint8_t *frame, *to, pseudo[4] = { 0, TCP, 0, 20 };
	uint16_t sum;

	/* A group has no connection (RFC 9293 3.9.2.3), and is nobody's source. */
	if ((s->facts.flags & RST) != 0 || (p->data[0] & 1) != 0 || is_group(ip, six) || !may_answer())
		return;
	frame = dps_emit(dps_out(p->port), s->ip + head + 20);
	if (frame == NULL)
		return;
	memcpy(frame, p->data + 6, 6);
	memcpy(frame + 6, p->data, 6);
	memcpy(frame + 12, p->data + 12, s->ip - 12); /* its tags too */
	to = frame + s->ip;
	to[0] = six ? 0x60 : 0x45;
	if (six) {
		be16_put(to + 4, 20);
		to[6] = TCP;
		to[7] = ICMP_TTL;
	} else {
		be16_put(to + 2, IPV4 + 20);
		to[6] = 0x40;
		to[8] = ICMP_TTL;
		to[9] = TCP;
	}
	memcpy(to + from, ip + from + len, len);
	memcpy(to + from + len, ip + from, len);
	if (!six) {
		sum = dps_ipv4_sum(to);
		memcpy(to + 10, &sum, 2);
	}
	to += head;
	memcpy(to, tcp + 2, 2);
	memcpy(to + 2, tcp, 2);
	to[12] = 5 << 4;
	if ((s->facts.flags & ACK) != 0) {
		memcpy(to + 4, tcp + 8, 4);
		to[13] = RST;
	} else {
		data = s->ip + (six ? IPV6 + be16_at(ip + 4) : be16_at(ip + 2)) - s->l4;
		data = data > (tcp[12] >> 4) * 4u ? data - (tcp[12] >> 4) * 4u : 0;
		ack = (be16_at(tcp + 4) << 16 | be16_at(tcp + 6)) + data + ((s->facts.flags & SYN) != 0) +
		      ((s->facts.flags & FIN) != 0);
		be32_put(to + 8, ack);
		to[13] = RST | ACK;
	}
	sum = dps_sum_end(dps_sum(dps_sum(dps_sum(0, frame + s->ip + from, 2 * len), pseudo, 4), to, 20));
	memcpy(to + 16, &sum, 2);
	env->counters[ANSWERS]++;
}

/* As the destination would answer: the filter has no address of its own. */
static void
unreachable(const struct dps_packet *p, const struct seen *s)
{
	const uint8_t *ip = p->data + s->ip;
	int six = (s->facts.bits & IS_6) != 0;
	uint8_t *frame;

	if (s->ip != ETHER || !(six ? icmp6_may_answer(p) : icmp_may_answer(p)) || !may_answer())
		return;
	frame = six ? icmp6_error(dps_out(p->port), p, ip + 24, ICMP6_UNREACHABLE, ICMP6_PROHIBITED, 0) :
		      icmp_error(dps_out(p->port), p, ip + 16, ICMP_UNREACHABLE, ICMP_PROHIBITED, 0);
	if (frame == NULL)
		return;
	memcpy(frame, p->data + 6, 6);
	memcpy(frame + 6, p->data, 6);
	env->counters[ANSWERS]++;
}

/* --- packets -------------------------------------------------------------------------------------- */

static uint16_t
permit(const struct dps_packet *p)
{
	env->counters[PERMITTED]++;
	return dps_next(env, p);
}

/* By the rule that fits, or by `otherwise`. */
static uint16_t
decide(struct dps_packet *p, const struct seen *s, const struct rule *r, int action, const struct flow *f,
       int side)
{
	struct place *place = (struct place *)env->state;
	uint16_t verdict;

	if (r != NULL && r->count != NO_COUNT) {
		dps_touch(&place->count[r->count], sizeof(place->count[0]));
		place->count[r->count].packets++;
		place->count[r->count].bytes += p->total;
	}
	if (action == PERMIT && r != NULL && (r->bits & KEEPS) != 0 && f != NULL) {
		/* A rule for all protocols keeps connections that begin, and no others. */
		if (f->protocol == TCP && (s->facts.flags & (SYN | ACK | RST)) != SYN)
			return dps_drop(NO_FLOW);
		if (begin((struct bucket *)p->bucket_state, f, side) != 0)
			return dps_drop(STATE_FULL);
	}
	if (action == PERMIT) {
		if (r != NULL && r->mark != NO_MARK && r->mark != s->facts.is[DSCP])
			dscp_put(p->data + s->ip, (s->facts.bits & IS_6) != 0, r->mark);
		verdict = permit(p);
	} else if (action == DENY) {
		verdict = dps_drop(r != NULL ? DENIED : NO_RULE);
	} else {
		if (s->facts.is[PROTOCOL] == TCP && s->l4 != 0)
			reset(p, s);
		else
			unreachable(p, s);
		verdict = dps_drop(REJECTED);
	}
	if (r != NULL && (r->bits & LOGS) != 0 && log_to >= 0 && p->port != log_to &&
	    env->counters[LOGGED]++ % log_sample == 0)
		verdict = dps_also(verdict, (uint32_t)log_to);
	return verdict;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const struct acl *a = (const struct acl *)rules->at;
	const struct rule *r = NULL;
	struct flow flow, *known;
	struct seen s;
	int side = 0, is_error = 0, has_flow = 0;

	(void)state;
	see(p, &s);
	dps_touch(env->counters, sizeof(env->counters[0]) * 8);
	if (s.is_bad != 0)
		return dps_drop(s.is_bad - 1u);
	if (s.ip == 0) {
		env->counters[NOT_IP]++;
		return not_ip == PERMIT ? dps_next(env, p) : dps_drop(NO_RULE);
	}
	if (a != NULL && a->magic == ACL_MAGIC && a->keeps > 0 && s.l4 != 0) {
		is_error = flow_of_error(p, &s, &flow);
		has_flow = is_error || flow_of(p->data + s.ip, (s.facts.bits & IS_6) != 0, s.facts.is[PROTOCOL],
					       p->data + s.l4, &flow, &side);
	}
	if (has_flow && (is_error || s.is_first || !is_symmetric)) {
		uint32_t hash = hash_of(&flow);

		if (dps_bucket(hash) != dps_bucket(p->hash))
			return dps_on_hash(env->group_index, hash);
	}
	if (has_flow) {
		known = find((struct bucket *)p->bucket_state, &flow);
		if (known != NULL && is_error) {
			env->counters[ERRORS_OF_A_FLOW]++;
			return permit(p);
		}
		if (known != NULL) {
			saw(known, side, s.facts.flags);
			env->counters[OF_A_FLOW]++;
			return permit(p);
		}
	}
	if (p->found != 0 && a != NULL && p->found <= a->n_rules)
		r = &acl_rules(a)[p->found - 1];
	return decide(p, &s, r, r != NULL ? r->action : otherwise, has_flow && !is_error ? &flow : NULL, side);
}

/* Whether both directions of a flow have one hash: then nothing has to be computed for each packet. */
static void
seated(void *state, const struct dps_env *e)
{
	struct dps_tuple there = { .version = 4, .protocol = TCP }, back;

	(void)state;
	(void)e;
	is_symmetric = 1;
	for (uint32_t six = 0; six < 2; six++)
		for (uint32_t i = 1; i < 64; i++) {
			there.version = six ? 6 : 4;
			there.protocol = i % 2 == 0 ? TCP : UDP;
			there.from_port = (uint16_t)(i * 40503);
			there.to_port = (uint16_t)(i * 31 + 7);
			for (uint32_t k = 0; k < (six ? 16u : 4u); k++) {
				there.from[k] = (uint8_t)(i * 167 + k * 29);
				there.to[k] = (uint8_t)(i * 59 + k * 113);
			}
			back = there;
			back.from_port = there.to_port;
			back.to_port = there.from_port;
			memcpy(back.from, there.to, 16);
			memcpy(back.to, there.from, 16);
			is_symmetric &= dps_hash_of(env, &there) == dps_hash_of(env, &back);
		}
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "acl",
	.needs = DPS_PLUGIN_HASH,
	.rewrites = REWRITES,
	.reasons = reasons,
	.counters = counters,
	.init = init,
	.packet = packet,
	.look = look,
	.seated = seated,
	.state_size = sizeof(struct place),
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.emits = 1,
	.policy = 1u << DENIED | 1u << REJECTED | 1u << NO_RULE | 1u << NO_FLOW,
	.table_apply = apply,
	.table_layout = 1,
};
