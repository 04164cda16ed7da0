/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * switch: a learning switch of Ethernet between up to 16 ports, with VLANs. docs/functions/switch.md is its page.
 *
 *     [[workers]]
 *     plugin = "switch"
 *     input = ["a", "b", "up"]
 *     state = "auto"
 *     args = { access.a = 10, access.b = 20, trunk.up = "10,20", storm = 1000 }
 *     tables.macs = { kind = "exact", key = "be16+mac", value = "port", entries = "64k", learn = true, age = "300s" }
 *
 * What is learned is advice, told with dps_tell. All else takes effect with the frame's verdict: the copies of a frame
 * that is flooded are originated and leave with it, and what counts for storms and loops is touched.
 */
#include <dpsup_table_exact.h>

#include "arguments.h"
#include "headers.h"

enum {
	MOST_PORTS = 16,
	EMITS = 7,              /* with the frame itself two destinations each: 15 ports, in two forms */
	VLANS = 4096,
	TAG = 4,
	KEY = 8,                /* VLAN and MAC address */
	SLOTS = 1024,           /* of addresses that were learned or moved lately; a power of two */
	NOWHERE = 0xffff,
};
#define SECOND 1000000000ull
#define HOLD (10 * SECOND)

enum reason { MALFORMED, NOT_A_PORT, VLAN, RESERVED, SAME_PORT, STORM, LOOP, NO_PORT, NO_ROOM };
static const char *const reasons[] = {
	[MALFORMED] = "malformed", [NOT_A_PORT] = "not_a_port", [VLAN] = "vlan", [RESERVED] = "reserved",
	[SAME_PORT] = "same_port", [STORM] = "storm", [LOOP] = "loop", [NO_PORT] = "no_other_port",
	[NO_ROOM] = "no_headroom", NULL,
};
enum counter { FLOODED, COPIES, LEARNED, MOVED, LOOPS, NOT_COPIED, N_COUNTERS };
static const char *const counters[] = {
	[FLOODED] = "flooded", [COPIES] = "flooded_copies", [LEARNED] = "learned", [MOVED] = "moved", [LOOPS] = "loops",
	[NOT_COPIED] = "not_copied", NULL,
};

/* An address that was learned or moved a moment ago. The table shows that to all workers some milliseconds later. */
struct slot {
	uint64_t key;           /* 0: free */
	uint64_t ns;            /* when it was seen first, or from when on it is held */
	uint16_t port;          /* where it was seen last */
	uint16_t home;          /* and before it moved */
	uint32_t moves;
	uint64_t pad;
};

struct bucket {
	uint64_t ns;            /* up to when it is filled; 0: never */
	uint64_t parts;         /* billionths of a frame */
};

/* A worker's state. */
struct place {
	struct slot slot[SLOTS];
	struct bucket storm[MOST_PORTS];
};

/* A port of the switch, by its number in it. */
struct member {
	uint16_t port;          /* of the topology */
	uint16_t pvid;          /* the VLAN of what has no tag; 0: there is none */
	uint8_t is_trunk;
	uint8_t vlans[VLANS / 8];       /* that it carries */
};

struct frame {
	uint16_t vlan;
	uint16_t tag;           /* TCI to send */
	uint8_t is_tagged;
	uint8_t is_counted;     /* the counters are touched */
	uint8_t key[2][KEY];    /* destination, source */
};

static const struct dps_env *env;
static const struct dps_live_table *macs;
static struct member members[MOST_PORTS];
static uint32_t n_members;
static uint8_t member_of[256];  /* by port; MOST_PORTS: none */
static int knows_vlans;
static uint64_t storm, flaps = 5;

/* --- arguments ---------------------------------------------------------------------------------- */

static int
has_vlan(const struct member *m, uint32_t vlan)
{
	return m->vlans[vlan / 8] >> vlan % 8 & 1;
}

static int
add_vlans(struct member *m, const char *key, const char *word)
{
	unsigned long first, last;
	const char *from = word;
	char *end;

	if (strcmp(word, "all") == 0) {
		memset(m->vlans, 0xff, sizeof(m->vlans));
		m->vlans[0] &= 0xfe;
		m->vlans[VLANS / 8 - 1] &= 0x7f;
		return 0;
	}
	first = last = strtoul(word, &end, 10);
	if (*end == '-') {
		from = end + 1;
		last = strtoul(from, &end, 10);
	}
	if (word[0] < '0' || word[0] > '9' || from[0] < '0' || from[0] > '9' || *end != '\0' || first == 0 ||
	    last < first || last > 4094)
		return refuse(env, "%s: \"%s\" is neither a VLAN from 1 to 4094, a range as \"10-19\", nor \"all\"", key,
			      word);
	for (; first <= last; first++)
		m->vlans[first / 8] |= (uint8_t)(1u << first % 8);
	return 0;
}

/* Each word between commas. */
static int
take_list(const char *key, const char *value, struct member *m)
{
	char word[64];

	for (size_t len; value != NULL; value = value[len] == '\0' ? NULL : value + len + 1) {
		value += strspn(value, " ");
		len = strcspn(value, ",");
		snprintf(word, sizeof(word), "%.*s", (int)len, value);
		word[strcspn(word, " ")] = '\0';
		if (m != NULL) {
			if (add_vlans(m, key, word) != 0)
				return -1;
			continue;
		}
		if (dps_port(env, word) < 0)
			return refuse(env, "%s: there is no port \"%s\"", key, word);
		if (dps_port(env, word) > 255 || n_members == MOST_PORTS)
			return refuse(env, "%s: a switch has up to 16 ports, and \"%s\" is one more", key, word);
		if (member_of[dps_port(env, word)] != MOST_PORTS)
			return refuse(env, "%s: \"%s\" stands there twice", key, word);
		member_of[dps_port(env, word)] = (uint8_t)n_members;
		members[n_members++].port = (uint16_t)dps_port(env, word);
	}
	return 0;
}

static int
take_vlan(const char *key, const char *value, struct member *m)
{
	char *end;
	unsigned long vlan = strtoul(value, &end, 10);

	if (value[0] < '0' || value[0] > '9' || *end != '\0' || vlan == 0 || vlan > 4094)
		return refuse(env, "%s: \"%s\" is not a VLAN: write a number from 1 to 4094", key, value);
	m->pvid = (uint16_t)vlan;
	m->vlans[vlan / 8] |= (uint8_t)(1u << vlan % 8);
	return 0;
}

/* access.PORT, trunk.PORT and native.PORT; says whether the argument is one of them in *is_one. */
static int
take_mode(const char *key, const char *value, int *is_one)
{
	static const char *const words[] = { "access.", "trunk.", "native." };
	int mode = -1, port;
	struct member *m;
	char trunk[80];

	for (int i = 0; i < 3; i++)
		if (strncmp(key, words[i], strlen(words[i])) == 0)
			mode = i;
	*is_one = mode >= 0;
	if (mode < 0)
		return 0;
	knows_vlans = 1;
	port = dps_port(env, strchr(key, '.') + 1);
	if (port < 0 || port > 255 || member_of[port] == MOST_PORTS)
		return refuse(env, "%s: the switch has no port \"%s\"", key, strchr(key, '.') + 1);
	m = &members[member_of[port]];
	if (mode == 1) {
		m->is_trunk = 1;
		return take_list(key, value, m);
	}
	snprintf(trunk, sizeof(trunk), "trunk.%s", strchr(key, '.') + 1);
	if (mode == 2 && dps_arg(env, trunk) == NULL)
		return refuse(env, "%s: only a trunk has a native VLAN: write %s too", key, trunk);
	if (mode == 0 && dps_arg(env, trunk) != NULL)
		return refuse(env, "%s: the port is a trunk by %s: write one of them", key, trunk);
	return take_vlan(key, value, m);
}

static int
take_ports(void)
{
	const char *ports = dps_arg(env, "ports");

	memset(member_of, MOST_PORTS, sizeof(member_of));
	if (ports != NULL)
		return take_list("ports", ports, NULL);
	for (uint32_t i = 0; i < env->n_ports; i++)
		if (take_list("ports", env->port_names[i], NULL) != 0)
			return -1;
	return 0;
}

static int
init(const struct dps_env *e, void **state)
{
	int is_one;

	(void)state;
	env = e;
	if (take_ports() != 0)
		return -1;
	for (uint32_t i = 0; i < env->n_args; i++) {
		const char *key = env->arg_keys[i];

		if (take_mode(key, env->arg_values[i], &is_one) != 0)
			return -1;
		if (!is_one && strcmp(key, "ports") != 0 && strcmp(key, "storm") != 0 && strcmp(key, "flaps") != 0)
			return refuse(env, "it has no argument \"%s\"%s", key, "");
	}
	for (uint32_t i = 0; i < n_members; i++)
		if (knows_vlans && !members[i].is_trunk && members[i].pvid == 0)
			take_vlan("", "1", &members[i]);
	if (take_amount(env, "storm", "", 1000000000, &storm) != 0 ||
	    take_amount(env, "flaps", "", 1000000, &flaps) != 0)
		return -1;
	macs = dps_table(env, "macs");
	if (macs == NULL || macs->kind != DPS_TABLE_EXACT || macs->key_bytes != KEY || macs->value_bytes != 2)
		return refuse(env, "it needs a table \"macs\": write macs = { kind = \"exact\", key = \"be16+mac\", %s%s",
			      "value = \"port\", entries = \"64k\", learn = true, age = \"300s\" }", "");
	return 0;
}

/* --- frames ------------------------------------------------------------------------------------- */

/* What the frame's headers say; -1, or why it is dropped. It only reads. */
static int
read_frame(const struct dps_packet *p, struct frame *f)
{
	uint32_t number = p->port < 256 ? member_of[p->port] : (uint32_t)MOST_PORTS;
	const struct member *m;

	if (number == MOST_PORTS)
		return NOT_A_PORT;
	m = &members[number];
	if (p->len < ETHER || (p->data[6] & 1) != 0 || memcmp(p->data + 6, "\0\0\0\0\0\0", 6) == 0)
		return MALFORMED;
	f->vlan = f->tag = f->is_tagged = f->is_counted = 0;
	if (knows_vlans) {
		f->vlan = m->pvid;
		if (be16_at(p->data + 12) == 0x8100) {
			if (p->len < ETHER + TAG)
				return MALFORMED;
			f->is_tagged = 1;
			f->tag = (uint16_t)be16_at(p->data + 14);
			if ((f->tag & 0xfff) != 0) {
				f->vlan = f->tag & 0xfff;
				if (!m->is_trunk)
					return VLAN;
			}
		}
		if (f->vlan == 0 || f->vlan == 4095 || !has_vlan(m, f->vlan))
			return VLAN;
		f->tag = (uint16_t)((f->tag & 0xf000) | f->vlan);
	}
	if (memcmp(p->data, "\x01\x80\xc2\0\0", 5) == 0 && p->data[5] < 16)
		return RESERVED;
	for (uint32_t i = 0; i < 2; i++) {
		be16_put(f->key[i], f->vlan);
		memcpy(f->key[i] + 2, p->data + 6 * i, 6);
	}
	return -1;
}

/* Finds both addresses of each frame: the destination's port, and behind it the source's. */
static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	static const uint8_t nothing[KEY];
	struct frame frame[DPS_PLUGIN_BURST];
	const void *key[2 * DPS_PLUGIN_BURST];
	uint64_t port[2 * DPS_PLUGIN_BURST];

	(void)state;
	for (uint32_t i = 0; i < n; i++) {
		int is_good = read_frame(&packets[i], &frame[i]) < 0;

		key[2 * i] = is_good ? frame[i].key[0] : nothing;
		key[2 * i + 1] = is_good ? frame[i].key[1] : nothing;
	}
	dps_exact_look((const struct dps_exact *)macs->at, key, 2 * n, port);
	for (uint32_t i = 0; i < n; i++)
		packets[i].found = (port[2 * i] & 0xffff) | (port[2 * i + 1] & 0xffff) << 16;
}

/* One touch of a frame's four, however much it counts. */
static void
count(struct frame *f, enum counter which, uint64_t n)
{
	if (!f->is_counted)
		dps_touch(env->counters, N_COUNTERS * sizeof(env->counters[0]));
	f->is_counted = 1;
	env->counters[which] += n;
}

/* Tells the others where the source is, unless it moves too often. 0: the frame is to be dropped. */
static int
learn(const struct dps_packet *p, struct frame *f, uint32_t known)
{
	const uint8_t *source = f->key[1];
	struct place *place = (struct place *)env->state;
	uint64_t key, age;
	struct slot *slot;

	if (known == p->port) {
		dps_tell(env, macs, source, p->port);
		return 1;
	}
	memcpy(&key, source, KEY);
	slot = &place->slot[(key * 0x9e3779b97f4a7c15ull) >> 54];
	age = env->now - slot->ns;
	if (slot->key == 0 || age >= (slot->moves > flaps ? HOLD : SECOND)) {
		dps_touch(slot, sizeof(*slot));
		*slot = (struct slot){
			.key = key, .ns = env->now, .port = p->port,
			.home = known == NOWHERE ? p->port : (uint16_t)known, .moves = known != NOWHERE,
		};
		count(f, known == NOWHERE ? LEARNED : MOVED, 1);
	} else if (slot->key == key && slot->moves > flaps) {
		if (p->port != slot->home)
			return 0;
	} else if (slot->key == key && slot->port != p->port) {
		dps_touch(slot, sizeof(*slot));
		slot->port = p->port;
		slot->moves++;
		count(f, MOVED, 1);
		if (slot->moves > flaps) {
			slot->ns = env->now;
			count(f, LOOPS, 1);
			if (p->port != slot->home)
				return 0;
		}
	}
	dps_tell(env, macs, source, p->port);
	return 1;
}

/* The table may have an address that is held at a port of the loop, where frames to it would go round: that is put
 * right, as what dps_tell has told within a second it does not tell again. */
static void
tick(void *state)
{
	const struct place *place = (const struct place *)env->state;

	(void)state;
	for (uint32_t i = 0; i < SLOTS; i++) {
		const struct slot *slot = &place->slot[i];

		if (slot->key != 0 && slot->moves > flaps && env->now - slot->ns < HOLD)
			dps_tell(env, macs, &slot->key, slot->home);
	}
}

/* May one more frame of this port be flooded? Each worker has its share of what a port may. */
static int
may_flood(uint32_t number)
{
	struct bucket *b = &((struct place *)env->state)->storm[number];
	uint32_t workers = env->groups[env->group_index].workers;
	uint64_t rate = storm / (workers > 1 ? workers : 1), passed = env->now - b->ns, more;

	if (storm == 0)
		return 1;
	rate = rate > 0 ? rate : 1;
	dps_touch(b, sizeof(*b));
	more = b->ns == 0 || passed >= SECOND ? rate * SECOND : passed * rate;
	b->parts = b->parts + more < rate * SECOND ? b->parts + more : rate * SECOND;
	b->ns = env->now;
	if (b->parts < SECOND)
		return 0;
	b->parts -= SECOND;
	return 1;
}

static int
is_tagged_at(const struct member *m, const struct frame *f)
{
	return knows_vlans && m->is_trunk && m->pvid != f->vlan;
}

/* Gives the frame in hand the form that a port sends, 0: there is no room for a tag. Without VLANs it stays as it is. */
static int
shape(struct dps_packet *p, const struct frame *f, int tagged)
{
	if (!knows_vlans)
		return 1;
	if (f->is_tagged && !tagged) {
		memmove(p->data + TAG, p->data, 12);
		p->data += TAG;
		p->len -= TAG;
	} else if (!f->is_tagged && tagged) {
		if (p->headroom < TAG)
			return 0;
		memmove(p->data - TAG, p->data, 12);
		p->data -= TAG;
		p->len += TAG;
		be16_put(p->data + 12, 0x8100);
	}
	if (tagged)
		be16_put(p->data + 14, f->tag);
	return 1;
}

/* A copy in that form, from all segments. */
static int
emit(const struct dps_packet *p, const struct frame *f, int tagged, uint16_t verdict)
{
	uint32_t skip = f->is_tagged ? 12 + TAG : 12, n = p->len, head = 12;
	const uint8_t *bytes = p->data;
	const void *segment = NULL;
	uint8_t *at;

	tagged = knows_vlans ? tagged : f->is_tagged;
	at = dps_emit(verdict, p->total - skip + 12 + (tagged ? TAG : 0));
	if (at == NULL)
		return 0;
	memcpy(at, bytes, 12);
	if (tagged) {
		be16_put(at + 12, 0x8100);
		be16_put(at + 14, f->tag);
		head += TAG;
	}
	at += head;
	bytes += skip;
	n -= skip;
	for (uint32_t left = p->total - skip; left > 0;) {
		n = n < left ? n : left;
		memcpy(at, bytes, n);
		at += n;
		left -= n;
		if (left == 0)
			break;
		n = dps_next_segment(p, &segment, &bytes);
		if (n == 0)
			break;
	}
	return 1;
}

/* To each other port of the VLAN that has a link: by pairs of ports that send the same bytes. */
static uint16_t
flood(struct dps_packet *p, struct frame *f)
{
	uint16_t to[2][MOST_PORTS], verdict;
	uint32_t n[2] = { 0, 0 }, copies, lost = 0;
	int first;

	for (uint32_t i = 0; i < n_members; i++) {
		const struct member *m = &members[i];
		int tagged = is_tagged_at(m, f);

		if (m->port != p->port && env->ports[m->port].up && (!knows_vlans || has_vlan(m, f->vlan)))
			to[tagged][n[tagged]++] = m->port;
	}
	copies = n[0] + n[1];
	if (copies == 0)
		return dps_drop(NO_PORT);
	if (!may_flood(member_of[p->port]))
		return dps_drop(STORM);
	/* The frame itself takes two ports of the form with more of them: so EMITS are enough. */
	first = n[1] > 0 && (n[0] == 0 || n[1] >= n[0]);
	verdict = dps_out(to[first][--n[first]]);
	if (n[first] > 0)
		verdict = dps_also(verdict, to[first][--n[first]]);
	for (int tagged = 0; tagged < 2; tagged++)
		for (uint32_t i = 0; i < n[tagged]; i += 2) {
			uint32_t some = n[tagged] - i > 1 ? 2 : 1;
			uint16_t one = dps_out(to[tagged][i]);

			if (some == 2)
				one = dps_also(one, to[tagged][i + 1]);
			if (!emit(p, f, tagged, one))
				lost += some;
		}
	if (!shape(p, f, first)) {
		lost += (verdict & 0x8000u) != 0 ? 2 : 1;
		verdict = dps_drop(NO_ROOM);
	}
	count(f, FLOODED, 1);
	count(f, COPIES, copies - lost);
	if (lost > 0)
		count(f, NOT_COPIED, lost);
	return verdict;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint32_t to = p->found & 0xffff;
	const struct member *m;
	struct frame f;
	int reason;

	(void)state;
	reason = read_frame(p, &f);
	if (reason >= 0)
		return dps_drop((uint32_t)reason);
	if (!learn(p, &f, p->found >> 16 & 0xffff))
		return dps_drop(LOOP);
	if ((p->data[0] & 1) != 0 || to == NOWHERE || to > 255 || member_of[to] == MOST_PORTS || !env->ports[to].up)
		return flood(p, &f);
	if (to == p->port)
		return dps_drop(SAME_PORT);
	m = &members[member_of[to]];
	if (knows_vlans && !has_vlan(m, f.vlan))
		return dps_drop(VLAN);
	return shape(p, &f, is_tagged_at(m, &f)) ? dps_out(to) : dps_drop(NO_ROOM);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD,
	.name = "switch",
	.rewrites = 12 + TAG,
	.prepends = TAG,
	.reasons = reasons,
	.policy = 1u << VLAN | 1u << RESERVED | 1u << SAME_PORT | 1u << STORM | 1u << LOOP | 1u << NO_PORT,
	.counters = counters,
	.init = init,
	.look = look,
	.packet = packet,
	.emits = EMITS,
	.tick_us = 500000,
	.tick = tick,
	.state_size = sizeof(struct place),
	.state_version = 1,
};
