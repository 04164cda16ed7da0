/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * export: lets packets pass, counts each in its flow, and sends the flows to a collector as IPFIX (RFC 7011).
 * docs/functions/export.md is its page.
 *
 *     [[workers]]
 *     plugin = "export"
 *     state = "auto"
 *     bucket_state = "auto"
 *     on_full = "hold"
 *     args = { to = "mgmt", source = "192.0.2.1", destination = "192.0.2.9", mac = "02:00:00:00:00:09" }
 *
 * A flow lies in the state of its bucket. Its packet touches it, and counts once. What a tick exports it takes out by
 * bits of one touched line, which takes effect with the tick's one store, as the message that it originates does: a
 * flow is there or exported, never both, never neither. The sequence number of messages (RFC 7011 3.1) is that of
 * the worker's place, each of which is an observation domain.
 */
#include <time.h>

#include "flow.h"
#include "frames.h"

#define NS 1000000000ull

enum {
	TAGS = 2,
	SETS = 63,
	FLOW_WAYS = 8,
	FLOWS = SETS * FLOW_WAYS,
	WORDS = (FLOWS + 63) / 64,

	UNIT = 20,              /* times of flows count in 2^20 ns */
	TICK_US = 250000,
	EMITS = 4,              /* messages of a tick */
	MOST_MESSAGE = 1400,

	HEADER = 16,            /* of a message */
	SET = 4,
	TEMPLATE4 = 256,
	TEMPLATE6 = 257,
	MOST_TEMPLATES = 256,   /* bytes of both */

	FIN = 1,
	RST = 4,
};

enum end { IDLE = 1, ACTIVE = 2, ENDED = 3, FORCED = 4, NO_ROOM = 5 }; /* IANA: flowEndReason, element 136 */

enum counter { PACKETS, BYTES, BEGUN, RECORDS, MESSAGES, NOT_IP, EARLY, NOT_COUNTED };
static const char *const counters[] = {
	[PACKETS] = "packets", [BYTES] = "octets", [BEGUN] = "flows_begun", [RECORDS] = "records",
	[MESSAGES] = "messages", [NOT_IP] = "not_ip", [EARLY] = "ended_early", [NOT_COUNTED] = "not_counted", NULL,
};

/* A flow: one direction. Addresses and ports as in packets. */
struct flow {
	uint8_t from[16];
	uint8_t to[16];
	uint16_t from_port;
	uint16_t to_port;       /* of ICMP: type and code */
	uint16_t tag;
	uint8_t protocol;
	uint8_t six;
	uint8_t port;           /* by which it came in */
	uint8_t tos;            /* of its first packet */
	uint8_t flags;          /* of TCP, of all packets */
	uint8_t pad;
	uint32_t packets;
	uint64_t bytes;
	uint32_t first;         /* times of its packets, in units */
	uint32_t last;
};
_Static_assert(sizeof(struct flow) == DPS_PLUGIN_TOUCH_BYTES, "one touch is a flow");
enum { KEY = 41 }; /* bytes of a flow by which it is another one */

/* A bucket's state. */
struct bucket {
	uint64_t used[WORDS];
	struct flow flow[FLOWS];
};
_Static_assert(sizeof(struct bucket) <= DPS_PLUGIN_BUCKET_STATE, "a bucket's state has a limit");
_Static_assert(sizeof(((struct bucket *)0)->used) <= DPS_PLUGIN_TOUCH_BYTES, "one touch is all bits");

/* A worker's state. */
struct place {
	uint64_t sequence;      /* data records that were sent */
	uint64_t templates_due; /* when they are sent again, env->now */
	int64_t wall;           /* from env->now to the time of day, in ns; 0: not known yet */
	uint64_t pad;
};

/* What a template says: IANA's numbers of information elements, and their lengths (RFC 7012). */
static const struct { uint16_t element4, element6, len4, len6; } fields[] = {
	{ 8, 27, 4, 16 },       /* sourceIPv4Address, sourceIPv6Address */
	{ 12, 28, 4, 16 },      /* destination... */
	{ 7, 7, 2, 2 },         /* sourceTransportPort */
	{ 11, 11, 2, 2 },       /* destinationTransportPort */
	{ 32, 139, 2, 2 },      /* icmpTypeCodeIPv4, icmpTypeCodeIPv6 */
	{ 58, 58, 2, 2 },       /* vlanId */
	{ 10, 10, 4, 4 },       /* ingressInterface */
	{ 4, 4, 1, 1 },         /* protocolIdentifier */
	{ 5, 5, 1, 1 },         /* ipClassOfService */
	{ 6, 6, 1, 1 },         /* tcpControlBits, of reduced size (RFC 7011 6.2) */
	{ 136, 136, 1, 1 },     /* flowEndReason */
	{ 2, 2, 8, 8 },         /* packetDeltaCount */
	{ 1, 1, 8, 8 },         /* octetDeltaCount */
	{ 152, 152, 8, 8 },     /* flowStartMilliseconds */
	{ 153, 153, 8, 8 },     /* flowEndMilliseconds */
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };
enum { RECORD4 = 4 + 4 + 2 + 2 + 2 + 2 + 4 + 4 + 32, RECORD6 = RECORD4 + 24 };

static const struct dps_env *env;
static struct far far;
static uint64_t to_port = 4739, from_port = 4739, domain = 1, active = 60, idle = 15, again = 60;
static uint64_t flushed;        /* flows that were last seen until then are over, env->now; 0: none */

static int
init(const struct dps_env *e, void **state)
{
	static const char *const known[] = {
		"to", "source", "destination", "mac", "port", "source_port", "domain", "active", "idle",
		"templates", "ttl", NULL,
	};
	const char *name;
	uint64_t ttl = 64;

	(void)state;
	env = e;
	name = dps_arg(env, "to");
	if (take_known(env, known) != 0)
		return -1;
	far.port = name == NULL ? -1 : dps_port(env, name);
	if (far.port < 0)
		return name == NULL ? refuse(env, "it needs the argument \"%s\": the port to the collector%s", "to", "") :
				      refuse(env, "to: there is no port \"%s\"%s", name, "");
	if (take_far(env, &far) != 0 || take_number(env, "port", 1, 65535, &to_port) != 0 ||
	    take_number(env, "source_port", 1, 65535, &from_port) != 0 ||
	    take_number(env, "domain", 0, 0xffff0000, &domain) != 0 || take_number(env, "active", 1, 3600, &active) != 0 ||
	    take_number(env, "idle", 1, 3600, &idle) != 0 || take_number(env, "templates", 1, 86400, &again) != 0 ||
	    take_number(env, "ttl", 1, 255, &ttl) != 0)
		return -1;
	far.ttl = (uint8_t)ttl;
	return 0;
}

/* --- messages ----------------------------------------------------------------------------------- */

static inline uint32_t
units(uint64_t ns)
{
	return (uint32_t)(ns >> UNIT);
}

/* From env->now to the time of day. */
static int64_t
read_wall(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * (int64_t)NS + now.tv_nsec - (int64_t)env->now;
}

static inline uint64_t
wall_of(uint64_t ns)
{
	return (uint64_t)((int64_t)ns + ((const struct place *)env->state)->wall);
}

static void
be64_put(uint8_t *at, uint64_t value)
{
	be32_put(at, (uint32_t)(value >> 32));
	be32_put(at + 4, (uint32_t)value);
}

static uint32_t
templates_put(uint8_t *at)
{
	uint8_t *begin = at;

	be16_put(at, 2);
	be16_put(at + 2, SET + 2 * (4 + FIELDS * 4));
	at += SET;
	for (int six = 0; six < 2; six++) {
		be16_put(at, six ? TEMPLATE6 : TEMPLATE4);
		be16_put(at + 2, FIELDS);
		at += 4;
		for (uint32_t i = 0; i < FIELDS; i++, at += 4) {
			be16_put(at, six ? fields[i].element6 : fields[i].element4);
			be16_put(at + 2, six ? fields[i].len6 : fields[i].len4);
		}
	}
	return (uint32_t)(at - begin);
}
_Static_assert(SET + 2 * (4 + FIELDS * 4) <= MOST_TEMPLATES, "there is room for both");

/* Milliseconds since 1970 of a time in units, which is not long ago. */
static uint64_t
milliseconds(uint32_t at)
{
	uint64_t ns = env->now - ((uint64_t)(units(env->now) - at) << UNIT);

	return wall_of(ns) / 1000000;
}

static uint32_t
record_put(uint8_t *at, const struct flow *f, enum end why)
{
	uint32_t size = f->six ? 16 : 4;
	int is_icmp = f->protocol == (f->six ? 58 : 1);
	uint8_t *begin = at;

	memcpy(at, f->from, size);
	memcpy(at + size, f->to, size);
	at += 2 * size;
	if (is_icmp)
		memcpy(at + 4, &f->to_port, 2);
	else {
		memcpy(at, &f->from_port, 2);
		memcpy(at + 2, &f->to_port, 2);
	}
	be16_put(at + 6, f->tag);
	be32_put(at + 8, f->port + 1u);
	at[12] = f->protocol;
	at[13] = f->tos;
	at[14] = f->flags;
	at[15] = (uint8_t)why;
	be64_put(at + 16, f->packets);
	be64_put(at + 24, f->bytes);
	be64_put(at + 32, milliseconds(f->first));
	be64_put(at + 40, milliseconds(f->last));
	return (uint32_t)(at + 48 - begin);
}

/* Which flows one message takes, and how many bytes it is then. */
static uint32_t
fit(const struct bucket *b, const uint16_t *list, uint32_t n, uint32_t room, uint32_t *bytes)
{
	uint32_t taken = 0, six = 2;

	for (*bytes = 0; taken < n; taken++) {
		const struct flow *f = &b->flow[list[taken]];
		uint32_t more = (f->six ? (uint32_t)RECORD6 : (uint32_t)RECORD4) + (f->six != six ? (uint32_t)SET : 0);

		if (*bytes + more > room)
			break;
		*bytes += more;
		six = f->six;
	}
	return taken;
}

/* Originates one message with the first of n flows, and says how many; 0: there is no empty buffer. The caller takes
 * them out. place is touched. */
static uint32_t
message(const struct bucket *b, const uint16_t *list, const uint8_t *why, uint32_t n)
{
	struct place *place = (struct place *)env->state;
	uint32_t has_templates = env->now >= place->templates_due, head = far_head(&far) + 8 + HEADER;
	uint32_t mtu = env->ports[far.port].mtu, most = MOST_MESSAGE, bytes, taken, six = 2;
	uint32_t extra = has_templates ? SET + 2 * (4 + FIELDS * 4) : 0;
	uint8_t *frame, *udp, *at, *set = NULL;

	if (mtu != 0 && mtu + ETHER < head + most)
		most = mtu + ETHER > head ? mtu + ETHER - head : 0;
	taken = most > extra ? fit(b, list, n, most - extra, &bytes) : 0;
	frame = taken == 0 ? NULL : dps_emit(dps_out((uint32_t)far.port), head + extra + bytes);
	if (frame == NULL)
		return 0;
	udp = far_put(env, &far, frame, 17, 8 + HEADER + extra + bytes);
	at = udp + 8;
	be16_put(at, 10);
	be16_put(at + 2, HEADER + extra + bytes);
	be32_put(at + 4, (uint32_t)(wall_of(env->now) / NS));
	be32_put(at + 8, (uint32_t)place->sequence);
	be32_put(at + 12, (uint32_t)domain + env->worker);
	at += HEADER;
	if (has_templates) {
		at += templates_put(at);
		place->templates_due = env->now + again * NS;
	}
	for (uint32_t i = 0; i < taken; i++) {
		const struct flow *f = &b->flow[list[i]];

		if (f->six != six) {
			six = f->six;
			set = at;
			be16_put(at, six ? TEMPLATE6 : TEMPLATE4);
			at += SET;
		}
		at += record_put(at, f, (enum end)why[i]);
		be16_put(set + 2, (uint32_t)(at - set));
	}
	far_udp(&far, udp, (uint32_t)from_port, (uint32_t)to_port, 8 + HEADER + extra + bytes);
	place->sequence += taken;
	env->counters[RECORDS] += taken;
	env->counters[MESSAGES]++;
	return taken;
}

static inline void
take_out(struct bucket *b, uint32_t index)
{
	b->used[index / 64] &= ~(1ull << index % 64);
}

/* Is it over, and why? */
static enum end
over(const struct flow *f, uint32_t now)
{
	uint32_t since = now - f->last;

	/* Later these are idle; and a time in units means another one after some weeks. */
	if (flushed != 0 && env->now - flushed <= idle * NS && (int32_t)(units(flushed) - f->last) >= 0)
		return FORCED;
	if ((f->flags & (FIN | RST)) != 0 && f->protocol == 6 && since >= units(NS))
		return ENDED;
	if (since >= units(idle * NS))
		return IDLE;
	return now - f->first >= units(active * NS) || f->packets >= 1u << 31 ? ACTIVE : (enum end)0;
}

static void
bucket_tick(void *state, uint32_t index, void *bucket_state)
{
	struct bucket *b = (struct bucket *)bucket_state;
	uint16_t list[FLOWS];
	uint8_t why[FLOWS];
	uint32_t now = units(env->now), n = 0, done = 0, taken;

	(void)state;
	(void)index;
	/* IPv4 first: a message has one set of each. */
	for (uint32_t six = 0; six < 2; six++)
		for (uint32_t w = 0; w < WORDS; w++)
			for (uint64_t left = b->used[w]; left != 0; left &= left - 1) {
				uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(left);
				enum end end;

				if (b->flow[i].six != six)
					continue;
				end = over(&b->flow[i], now);
				if (end == 0)
					continue;
				list[n] = (uint16_t)i;
				why[n++] = (uint8_t)end;
			}
	if (n == 0)
		return;
	dps_touch(env->counters, 8 * sizeof(env->counters[0]));
	dps_touch(env->state, sizeof(struct place));
	dps_touch(b->used, sizeof(b->used));
	for (uint32_t m = 0; m < EMITS && done < n; m++) {
		taken = message(b, list + done, why + done, n - done);
		if (taken == 0)
			return;
		for (uint32_t i = 0; i < taken; i++)
			take_out(b, list[done + i]);
		done += taken;
	}
}

/* The clock of workers drifts, and that of the machine may be set. */
static void
tick(void *state)
{
	struct place *place = (struct place *)env->state;

	(void)state;
	dps_touch(place, sizeof(*place));
	place->wall = read_wall();
}

/* Messages of one place go on with one clock, whichever process has it. */
static void
seated(void *state, const struct dps_env *e)
{
	struct place *place = (struct place *)e->state;

	(void)state;
	if (place->wall == 0)
		place->wall = read_wall();
}

/* "flush": all flows are exported, as far as they have been seen now. */
static void
control(void *state, const char *text, uint32_t len)
{
	(void)state;
	if (len == 5 && memcmp(text, "flush", 5) == 0)
		flushed = env->now;
}

/* --- packets -------------------------------------------------------------------------------------- */

/* The flow of a packet, as a new one. Returns the bytes that it counts, 0: it is not IP. */
static uint32_t
flow_of(const struct dps_packet *p, struct flow *f)
{
	uint32_t at, head, bytes, type;
	const uint8_t *ip;
	int six;

	at = ip_at(p, TAGS, &six);
	if (at == 0)
		return 0;
	memset(f, 0, sizeof(*f));
	ip = p->data + at;
	type = be16_at(p->data + 12);
	f->six = (uint8_t)six;
	f->port = (uint8_t)p->port;
	f->tag = (uint16_t)(type == 0x8100 || type == 0x88a8 ? be16_at(p->data + ETHER) & 0xfff : 0);
	f->protocol = six ? ip[6] : ip[9];
	f->tos = (uint8_t)(six ? (ip[0] & 0xfu) << 4 | ip[1] >> 4 : ip[1]);
	memcpy(f->from, ip + (six ? 8 : 12), six ? 16 : 4);
	memcpy(f->to, ip + (six ? 24 : 16), six ? 16 : 4);
	head = six ? (uint32_t)IPV6 : (ip[0] & 0xfu) * 4;
	bytes = six ? IPV6 + be16_at(ip + 4) : be16_at(ip + 2);
	bytes = bytes < p->total - at ? bytes : p->total - at;
	ip += head;
	if ((!six && (be16_at(p->data + at + 6) & 0x1fff) != 0) || p->len < at + head + 4)
		return bytes == 0 ? 1 : bytes;
	if (f->protocol == 6 || f->protocol == 17 || f->protocol == 132) {
		memcpy(&f->from_port, ip, 2);
		memcpy(&f->to_port, ip + 2, 2);
	} else if (f->protocol == (six ? 58 : 1)) {
		memcpy(&f->to_port, ip, 2);
	}
	if (f->protocol == 6 && p->len >= at + head + 14)
		f->flags = ip[13];
	return bytes == 0 ? 1 : bytes;
}

/* The place of a flow, new or not; FLOWS: there is none, and no buffer to export another one early. */
static uint32_t
place_of(struct bucket *b, const struct flow *f)
{
	uint64_t hash = 0xa0761d6478bd642full;
	uint32_t set, free = FLOWS, oldest, now = units(env->now);
	uint16_t one;
	uint8_t why = NO_ROOM;

	for (uint32_t i = 0; i < 40; i += 8)
		hash = flow_fold(hash ^ dps_table_load64((const uint8_t *)f + i), 0xe7037ed1a0b428dbull);
	set = (uint32_t)((hash >> 32) * SETS >> 32) * FLOW_WAYS;
	oldest = set;
	for (uint32_t i = set; i < set + FLOW_WAYS; i++) {
		if ((b->used[i / 64] >> i % 64 & 1) == 0)
			free = free == FLOWS ? i : free;
		else if (memcmp(&b->flow[i], f, KEY) == 0)
			return i;
		else if (now - b->flow[i].last > now - b->flow[oldest].last)
			oldest = i;
	}
	if (free != FLOWS)
		return free;
	one = (uint16_t)oldest;
	dps_touch(env->state, sizeof(struct place));
	if (message(b, &one, &why, 1) == 0)
		return FLOWS;
	env->counters[EARLY]++;
	return oldest | 0x8000u;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	struct bucket *b = (struct bucket *)p->bucket_state;
	struct flow new, *f;
	uint32_t bytes, at;

	(void)state;
	dps_touch(env->counters, 8 * sizeof(env->counters[0]));
	bytes = flow_of(p, &new);
	if (bytes == 0) {
		env->counters[NOT_IP]++;
		return dps_next(env, p);
	}
	at = place_of(b, &new);
	if (at == FLOWS) {
		env->counters[NOT_COUNTED]++;
		return dps_next(env, p);
	}
	f = &b->flow[at & 0x7fffu];
	dps_touch(f, sizeof(*f));
	if ((b->used[(at & 0x7fffu) / 64] >> at % 64 & 1) == 0 || (at & 0x8000u) != 0) {
		dps_touch(b->used, sizeof(b->used));
		b->used[(at & 0x7fffu) / 64] |= 1ull << at % 64;
		*f = new;
		f->first = units(env->now);
		env->counters[BEGUN]++;
	}
	f->packets++;
	f->bytes += bytes;
	f->last = units(env->now);
	f->flags |= new.flags;
	env->counters[PACKETS]++;
	env->counters[BYTES] += bytes;
	return dps_next(env, p);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "export",
	.counters = counters,
	.init = init,
	.packet = packet,
	.seated = seated,
	.state_size = sizeof(struct place),
	.bucket_state_size = sizeof(struct bucket),
	.state_version = 1,
	.emits = EMITS,
	.tick_us = 3600000000u,
	.tick = tick,
	.bucket_tick_us = TICK_US,
	.bucket_tick = bucket_tick,
	.control = control,
};
