// SPDX-License-Identifier: BSD-3-Clause
//
// A function of dpsup's, linked with this, gets packets that are sound, mutated and cut, each in memory of its
// exact size. Over 600 lines: one stub of the worker for all functions.
//
//   usage: fuzz_function PACKETS SEED [KEY=VALUE | @NAME,KIND,KEY_BYTES,VALUE_BYTES,VALUES | !TEXT | %MTU]... < LINES
//
// An argument is one of the topology, or a live table: KIND as DPS_TABLE_*, its values numbers below VALUES. LINES are
// the entries of a table of the function's own kind, whose keys count from 0. TEXT is told to it, 30 days before the first
// packet. MTU is the last port's.
//
// What is held: no access beyond a packet, a segment, a state (by ASan); bytes change within `rewrites` alone; at most
// 4 touches, of the function's own memory; a verdict that exists; one steering to another bucket at most; and a packet
// whose touches are put back and which is run once more leaves everything as the first run did.

#include <stdio.h>

#include <dpsup_plugin.h>
#include <dpsup_table_array.h>
#include <dpsup_table_exact.h>
#include <dpsup_table_lpm.h>

#include "headers.h"

extern const struct dps_plugin dps_plugin;

#define CHECK(is, ...)                                                  \
	do {                                                            \
		if (!(is)) {                                            \
			fprintf(stderr, "packet %u: %s: ", number, #is); \
			fprintf(stderr, __VA_ARGS__);                   \
			fputc('\n', stderr);                            \
			for (uint32_t b = 0; b < frame_len; b++)        \
				fprintf(stderr, "%02x", frame[b]);      \
			fputc('\n', stderr);                            \
			exit(1);                                        \
		}                                                       \
	} while (0)

enum { N_PORTS = 3, BLOCKS = 2, MOST_FRAME = 1600, N_TABLES = 8, N_ENTRIES = 64, N_LINES = 256 };

static uint64_t random_state;
static uint32_t number, frame_len;
static uint8_t frame[MOST_FRAME];

static uint32_t
draw(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % below;
}

// --- what the worker program provides ----------------------------------------------------------------

struct area {
	uint8_t *at;
	uint32_t len;
};

static struct area areas[2 + BLOCKS];   // counters, state, states of buckets
static struct { uint8_t *at; uint32_t len; uint8_t was[DPS_PLUGIN_TOUCH_BYTES]; } touched[DPS_PLUGIN_TOUCHES_MOST];
static struct { uint8_t *at; uint32_t len; uint16_t verdict; } emitted[DPS_PLUGIN_EMITS];
static struct { uint8_t *at; uint32_t len; } segments[2];
static uint32_t n_touched, n_emitted, n_segments, no_blanks;

void
dps_touch(void *at, uint32_t len)
{
	uint8_t *from = (uint8_t *)at;
	int is_own = 0;

	CHECK(n_touched < DPS_PLUGIN_TOUCHES_MOST, "a touch more");
	CHECK(len <= DPS_PLUGIN_TOUCH_BYTES, "%u bytes", len);
	for (uint32_t i = 0; i < 2 + BLOCKS; i++)
		is_own |= from >= areas[i].at && from + len <= areas[i].at + areas[i].len;
	CHECK(is_own, "touches what is no state");
	touched[n_touched].at = from;
	touched[n_touched].len = len;
	memcpy(touched[n_touched++].was, from, len);
}

uint8_t *
dps_emit(uint16_t verdict, uint32_t len)
{
	if (no_blanks || len > MOST_FRAME || n_emitted == dps_plugin.emits)
		return NULL;
	emitted[n_emitted].at = (uint8_t *)calloc(1, len);
	emitted[n_emitted].len = len;
	emitted[n_emitted].verdict = verdict;
	return emitted[n_emitted++].at;
}

uint32_t
dps_next_segment(const struct dps_packet *p, const void **segment, const uint8_t **bytes)
{
	uintptr_t i = (uintptr_t)*segment;

	(void)p;
	if (i == n_segments)
		return 0;
	*segment = (const void *)(i + 1);
	*bytes = segments[i].at;
	return segments[i].len;
}

// Linear, as Toeplitz is: nat relies on it.
uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *t)
{
	const uint8_t *bytes = (const uint8_t *)t;
	uint32_t hash = 0;

	(void)e;
	for (uint32_t i = 4; i < sizeof(*t); i++) {
		uint32_t is_port = i < 8;

		if (is_port && (t->fragment != 0 || (t->protocol != 6 && t->protocol != 17)))
			continue;
		hash = (hash << 5 | hash >> 27) ^ bytes[i];
	}
	return hash ^ hash >> 9 ^ hash >> 18;
}

int
dps_tell(const struct dps_env *e, const struct dps_live_table *table, const void *key, uint64_t value)
{
	uint8_t copy[68];

	(void)e;
	(void)value;
	memcpy(copy, key, table->key_bytes);
	return 1;
}

// --- the environment ---------------------------------------------------------------------------------

static const char *keys[32], *values[32], *const port_names[] = { "lan", "wan", "mon" };
static const char *const group_names[] = { "fn" };
static struct dps_live_table tables[N_TABLES];
static struct dps_port_facts facts[N_PORTS];
static struct dps_group_facts groups[1];
static uint64_t version = 1;
static uint16_t next_of[N_PORTS];
static char error[512];
static struct dps_env the_env;
static const char *told;
static char lines[N_LINES][256];
static uint32_t n_lines;
static uint8_t line_keys[N_LINES][16];
static struct dps_table_change changes[N_LINES];

static const struct dps_table_change *
all_changes(uint64_t *n)
{
	*n = n_lines;
	return changes;
}

// "=KEY VALUE", both in hexadecimal: the value takes the place of the line.
static void
unhex_line(uint32_t i)
{
	char *from = lines[i] + 1;
	uint8_t *to = line_keys[i];
	unsigned int byte;

	while (sscanf(from, "%2x", &byte) == 1) {
		*to++ = (uint8_t)byte;
		from += 2;
		if (*from == ' ')
			to = (uint8_t *)lines[i];
		from += *from == ' ';
	}
}

static void
fill_own(struct dps_live_table *t, uint64_t bytes)
{
	struct dps_table_work work = { .table = t->name, .bytes = bytes, .entries = t->entries,
		.key_bytes = t->key_bytes, .value_bytes = t->value_bytes, .changes = changes, .n = n_lines,
		.all = all_changes, .error = error, .error_len = sizeof(error), .n_ports = N_PORTS,
		.port_names = port_names };

	for (uint32_t i = 0; i < n_lines; i++) {
		if (lines[i][0] == '=')
			unhex_line(i);
		else
			line_keys[i][3] = (uint8_t)i;
		changes[i].key = line_keys[i];
		changes[i].value = lines[i];
	}
	work.at = aligned_alloc(4096, bytes);
	memset(work.at, 0, bytes);
	t->at = work.at;
	CHECK(dps_plugin.table_apply != NULL && dps_plugin.table_apply(&work) == 0, "%s", error);
}

static void
some_address(uint8_t *at, int six)
{
	static const uint8_t nets[][4] = { { 10, 0, 0, 0 }, { 10, 0, 1, 0 }, { 192, 0, 2, 0 }, { 198, 51, 100, 0 } };

	memset(at, 0, 16);
	if (six) {
		be32_put(at, 0x20010db8);
		at += 12;
	}
	memcpy(at, nets[draw(4)], 4);
	at[3] = (uint8_t)(1 + draw(2));
}

// "@routes,2,0,4,3": a table of IPv4 prefixes with values below 3.
static void
make_table(struct dps_live_table *t, char *text)
{
	char *kind = strchr(text, ',') + 1;
	uint32_t below, key_bytes, value_bytes, n = N_ENTRIES;
	uint64_t bytes = 4 << 20;
	void *at = NULL;

	kind[-1] = '\0';
	sscanf(kind, "%u,%u,%u,%u", &t->kind, &key_bytes, &value_bytes, &below);
	t->name = text + 1;
	t->key_bytes = key_bytes;
	t->value_bytes = value_bytes;
	t->entries = n;
	if (t->kind == DPS_TABLE_OWN) {
		fill_own(t, bytes);
		return;
	}
	bytes = t->kind == DPS_TABLE_EXACT ? dps_exact_bytes(key_bytes, n) :
		t->kind == DPS_TABLE_ARRAY ? dps_array_bytes(value_bytes, n) :
					     dps_lpm_bytes(t->kind == DPS_TABLE_IPV4 ? 32 : 128, n);
	at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	memset(at, 0, bytes);
	t->at = at;
	if (t->kind == DPS_TABLE_EXACT)
		CHECK(dps_exact_init((struct dps_exact *)at, bytes, key_bytes, n, 1) == 0, "exact");
	else if (t->kind == DPS_TABLE_ARRAY)
		CHECK(dps_array_init((struct dps_array *)at, bytes, value_bytes, n) == 0, "array");
	else
		CHECK(dps_lpm_init((struct dps_lpm *)at, bytes, t->kind == DPS_TABLE_IPV4 ? 32 : 128, n) == 0, "lpm");
	for (uint32_t i = 0; i < n / 2; i++) {
		uint8_t record[256], address[16];
		uint32_t value = draw(16) == 0 ? 0xfffffff0u + draw(4) :
				 draw(8) == 0 ? 0x80000000u + draw(below + 1) : draw(below);

		for (uint32_t b = 0; b < sizeof(record); b++)
			record[b] = (uint8_t)(draw(4) == 0 ? draw(256) : b % 4 == 0 ? draw(below) : 0);
		some_address(address, t->kind == DPS_TABLE_IPV6);
		if (t->kind == DPS_TABLE_EXACT) {
			uint32_t size = key_bytes > 16 ? 16 : 4;

			some_address(address, size == 16);
			memcpy(record + (key_bytes > size ? key_bytes - size : 0), address, size);
			dps_exact_set((struct dps_exact *)at, record, draw(below) | (uint64_t)draw(1u << 30) << 16);
		} else if (t->kind == DPS_TABLE_ARRAY) {
			dps_array_set((struct dps_array *)at, i, record);
		} else {
			dps_lpm_set((struct dps_lpm *)at, address, draw(t->kind == DPS_TABLE_IPV4 ? 33 : 129), value);
		}
	}
}

static void
set_up(int n, char **words)
{
	while (n_lines < N_LINES && fgets(lines[n_lines], sizeof(lines[0]), stdin) != NULL) {
		lines[n_lines][strcspn(lines[n_lines], "\n")] = '\0';
		n_lines++;
	}
	the_env = (struct dps_env){ .group = "fn", .n_ports = N_PORTS, .n_groups = 1, .port_names = port_names,
		.group_names = group_names, .tsc_hz = 1000000000, .error = error, .error_len = sizeof(error),
		.next = next_of, .now = 1ull << 40, .ports = facts, .ports_version = &version, .groups = groups,
		.arg_keys = keys, .arg_values = values, .tables = tables };
	groups[0] = (struct dps_group_facts){ .version = 1, .workers = 1, .places = 1 };
	for (uint32_t i = 0; i < N_PORTS; i++) {
		facts[i] = (struct dps_port_facts){ .mac = { 2, 0, 0, 0, 1, (uint8_t)i }, .up = i != 2,
						    .mbps = 1000, .mtu = i == 1 ? 1280 : 1500 };
		next_of[i] = dps_out(i == 0 ? 1 : 0);
	}
	for (int i = 0; i < n; i++) {
		if (words[i][0] == '@') {
			make_table(&tables[the_env.n_tables++], words[i]);
			continue;
		}
		if (words[i][0] == '!' || words[i][0] == '%') {
			if (words[i][0] == '!')
				told = words[i] + 1;
			else
				facts[N_PORTS - 1].mtu = (uint32_t)atoi(words[i] + 1);
			continue;
		}
		keys[the_env.n_args] = words[i];
		values[the_env.n_args++] = strchr(words[i], '=') + 1;
		*strchr(words[i], '=') = '\0';
	}
	areas[0].len = DPS_PLUGIN_COUNTERS * 8;
	areas[1].len = dps_plugin.state_size;
	for (uint32_t i = 0; i < BLOCKS; i++)
		areas[2 + i].len = dps_plugin.bucket_state_size;
	for (uint32_t i = 0; i < 2 + BLOCKS; i++) {
		areas[i].at = (uint8_t *)aligned_alloc(16, (areas[i].len + 15) / 16 * 16);
		memset(areas[i].at, 0, areas[i].len);
	}
	the_env.counters = (uint64_t *)areas[0].at;
	the_env.state = areas[1].len > 0 ? areas[1].at : NULL;
}

// --- packets -----------------------------------------------------------------------------------------

static void
put_sum(uint32_t ip)
{
	struct dps_packet p = { .data = frame, .len = frame_len, .total = frame_len };
	uint16_t sum;
	int at;

	if (frame[ip] >> 4 == 4) {
		sum = dps_ipv4_sum(frame + ip);
		memcpy(frame + ip + 10, &sum, 2);
	}
	at = dps_l4_sum(&p, ip, &sum);
	if (at >= 0)
		memcpy(frame + at, &sum, 2);
}

static void make_ip(uint32_t depth, int six);

static void
make_l4(uint32_t protocol, uint32_t depth, int six)
{
	uint8_t *at = frame + frame_len;

	if (protocol == 6) {
		frame_len += 20 + draw(3) * 4;
		at[12] = (uint8_t)((frame + frame_len - at) / 4 << 4);
		at[13] = (uint8_t)(draw(3) == 0 ? 2 : draw(2) ? 16 : draw(64));
	} else {
		frame_len += protocol == 132 ? 12 : 8;
	}
	if (protocol == 1 || protocol == 58) {
		static const uint8_t types[2][8] = { { 0, 8, 8, 3, 3, 11, 12, 13 }, { 128, 129, 1, 2, 3, 4, 135, 133 } };

		at[0] = types[six][draw(8)];
		at[5] = (uint8_t)draw(4);
		if (depth == 0 && at[0] != 0 && at[0] != 8 && at[0] < 128)
			make_ip(1, six);
		return;
	}
	be16_put(at, 1000 + draw(4));
	be16_put(at + 2, draw(2) ? 443 : 4789 + draw(2));
	if (protocol == 17)
		be16_put(at + 4, 8);
}

// From the frame's end on; lengths are right, if it is not in an error.
static void
make_ip(uint32_t depth, int six)
{
	static const uint8_t protocols[] = { 6, 6, 6, 17, 17, 1, 58, 132, 47, 4 };
	static const uint8_t headers[] = { 0, 43, 44, 60, 51, 60 };
	uint32_t ip = frame_len, protocol = protocols[draw(10)], l4, rest;
	uint8_t *next;

	if (protocol == 1 || protocol == 58)
		protocol = six ? 58 : 1;
	if (six) {
		frame[ip] = 0x60;
		frame[ip + 1] = (uint8_t)(draw(16) << 4);
		frame[ip + 7] = (uint8_t)(draw(8) == 0 ? 1 : 64);
		some_address(frame + ip + 8, 1);
		some_address(frame + ip + 24, 1);
		next = &frame[ip + 6];
		frame_len += 40;
		for (uint32_t i = draw(3) == 0 ? draw(10) : 0; i > 0; i--) {
			uint8_t *h = frame + frame_len;

			*next = headers[draw(6)];
			if (*next == 44)
				be16_put(h + 2, draw(4) == 0 ? draw(4) << 3 | draw(2) : draw(2));
			else if (*next != 51)
				h[1] = (uint8_t)(draw(8) == 0 ? draw(256) : draw(2));
			frame_len += *next == 44 ? 8 : *next == 51 ? 8u : (h[1] + 1u) * 8;
			frame_len = frame_len > 600 ? 600 : frame_len;
			next = h;
		}
		*next = (uint8_t)protocol;
	} else {
		uint32_t options = draw(8) == 0 ? draw(11) * 4 : 0;

		frame[ip] = (uint8_t)(0x45 + options / 4);
		frame[ip + 1] = (uint8_t)draw(256);
		be16_put(frame + ip + 6, draw(8) == 0 ? draw(4) | draw(2) << 13 : draw(2) << 14);
		frame[ip + 8] = (uint8_t)(draw(8) == 0 ? 1 : 64);
		frame[ip + 9] = (uint8_t)protocol;
		some_address(frame + ip + 12, 0);
		some_address(frame + ip + 24, 0); // what is behind it is cleared below
		memmove(frame + ip + 16, frame + ip + 24, 4);
		memset(frame + ip + 20, 0, 20);
		frame_len += 20 + options;
	}
	l4 = frame_len;
	if (protocol == 4 && depth == 0)
		make_ip(1, 0);
	else if (protocol == 47 && depth == 0) {
		frame_len += 4 + draw(4) * 4;
		be16_put(frame + l4, draw(2) ? 0 : draw(8) << 12);
		be16_put(frame + l4 + 2, draw(2) ? 0x0800 : 0x6558);
		make_ip(1, 0);
	} else {
		make_l4(protocol, depth, six);
	}
	rest = depth == 0 ? draw(8) == 0 ? draw(700) : draw(40) : draw(20);
	frame_len += rest;
	if (protocol == 17)
		be16_put(frame + l4 + 4, frame_len - l4);
	be16_put(frame + ip + (six ? 4 : 2), frame_len - ip - (six ? 40 : 0));
	put_sum(ip);
}

static void
make_frame(uint32_t port)
{
	uint32_t tags = draw(4) == 0 ? draw(4) : 0, kind = draw(16);

	memset(frame, 0, sizeof(frame));
	memcpy(frame, facts[port].mac, 6);
	if (draw(16) == 0)
		frame[0] = 0xff;
	frame[6] = 2;
	frame[11] = (uint8_t)draw(4);
	frame_len = 12;
	for (uint32_t i = 0; i < tags; i++, frame_len += 4) {
		be16_put(frame + frame_len, draw(4) == 0 ? 0x88a8 : 0x8100);
		be16_put(frame + frame_len + 2, draw(4) << 13 | draw(4));
	}
	be16_put(frame + frame_len, kind == 0 ? 0x0806 : kind < 10 ? 0x0800 : 0x86dd);
	frame_len += 2;
	if (kind == 0)
		frame_len += 28;
	else
		make_ip(0, kind >= 10);
}

// What the function let out, some of it, and by which port.
static struct { uint8_t bytes[MOST_FRAME]; uint32_t len, port; } seen[16];

static void
swap(uint8_t *a, uint8_t *b, uint32_t len)
{
	uint8_t was[16];

	memcpy(was, a, len);
	memcpy(a, b, len);
	memcpy(b, was, len);
}

// An answer to it, or an ICMP error about it. Returns the port, or that which it was given.
static uint32_t
make_answer(uint32_t port)
{
	uint32_t i = draw(16), at, head, protocol, kind = draw(4);
	struct dps_packet p = { .data = seen[i].bytes, .len = seen[i].len };
	uint8_t *ip, *l4;
	int six;

	at = ip_at(&p, 2, &six);
	head = six ? 40 : at == 0 ? 0 : (p.data[at] & 0xfu) * 4;
	if (at == 0 || p.len < at + head + 20 || p.len + 48 > MOST_FRAME)
		return port;
	memset(frame, 0, sizeof(frame));
	frame_len = p.len;
	memcpy(frame, p.data, p.len);
	memcpy(frame, facts[seen[i].port].mac, 6);
	ip = frame + at;
	swap(ip + (six ? 8 : 12), ip + (six ? 24 : 16), six ? 16 : 4);
	l4 = ip + head;
	protocol = six ? ip[6] : ip[9];
	if (kind == 0) { // an error
		uint32_t more = six ? 48 : 28;

		if (!six)
			ip[0] = 0x45;
		memmove(ip + more, p.data + at, p.len - at);
		memset(ip + more - 8, 0, 8);
		ip[more - 8] = six ? 1 : 3;
		ip[six ? 6 : 9] = six ? 58 : 1;
		frame_len = at + more + p.len - at;
		if (!six)
			memset(ip + 6, 0, 2);
		be16_put(ip + (six ? 4 : 2), frame_len - at - (six ? 40 : 0));
		put_sum(at);
	} else if (protocol == 6 || protocol == 17) {
		swap(l4, l4 + 2, 2);
	} else if (protocol == 1 || protocol == 58) {
		l4[0] = six ? 129 : 0;
		put_sum(at);
	}
	return seen[i].port;
}

static void
keep_seen(uint16_t verdict, const uint8_t *bytes, uint32_t len)
{
	uint32_t i = draw(16);

	if ((verdict & 0xf000) != 0x1000 || (verdict & 0xfff) >= N_PORTS || len > MOST_FRAME)
		return;
	memcpy(seen[i].bytes, bytes, len);
	seen[i].len = len;
	seen[i].port = verdict & 0xfff;
}

// As an io core has it, of what is not in a tunnel.
static uint32_t
hash_of_frame(void)
{
	struct dps_packet p = { .data = frame, .len = frame_len };
	struct dps_tuple t = { 0 };
	uint32_t at, head;
	int six;

	at = ip_at(&p, 2, &six);
	if (at == 0 || draw(16) == 0)
		return draw(0xffffffff);
	head = six ? 40 : (frame[at] & 0xfu) * 4;
	t.version = six ? 6 : 4;
	t.protocol = six ? frame[at + 6] : frame[at + 9];
	t.fragment = !six && (be16_at(frame + at + 6) & 0x3fff) != 0;
	memcpy(t.from, frame + at + (six ? 8 : 12), six ? 16 : 4);
	memcpy(t.to, frame + at + (six ? 24 : 16), six ? 16 : 4);
	if (frame_len >= at + head + 4) {
		memcpy(&t.from_port, frame + at + head, 2);
		memcpy(&t.to_port, frame + at + head + 2, 2);
	}
	return dps_hash_of(&the_env, &t);
}

static void
mutate(void)
{
	if (draw(2) == 0)
		for (uint32_t i = draw(4); i > 0 && frame_len > 0; i--) {
			// Headers are where it matters.
			uint32_t at = draw(frame_len < 80 || draw(4) == 0 ? frame_len : 80);

			frame[at] = (uint8_t)(draw(3) == 0 ? draw(256) : frame[at] ^ 1u << draw(8));
		}
	if (draw(4) == 0)
		frame_len = draw(frame_len + 1);
	if (draw(64) == 0)
		for (uint32_t i = draw(14); i < frame_len; i++)
			frame[i] = (uint8_t)draw(256);
}

// --- runs --------------------------------------------------------------------------------------------

struct result {
	uint16_t verdict;
	uint32_t len, n_emitted;
	uint64_t sum;   // of all bytes
};

static uint64_t
fold(uint64_t sum, const void *at, uint32_t len)
{
	const uint8_t *bytes = (const uint8_t *)at;
	uint64_t word;

	for (; len >= 8; bytes += 8, len -= 8) {
		memcpy(&word, bytes, 8);
		sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
		sum ^= sum >> 29;
	}
	word = 0;
	memcpy(&word, bytes, len);
	return (sum ^ word) * 0x9e3779b97f4a7c15ull;
}

static void
put_back(void)
{
	while (n_touched > 0) {
		n_touched--;
		memcpy(touched[n_touched].at, touched[n_touched].was, touched[n_touched].len);
	}
}

static uint16_t
half_at(const uint8_t *at)
{
	uint16_t half;

	memcpy(&half, at, 2);
	return half;
}

static void
check_emitted(const uint8_t *at, uint32_t len, uint32_t mtu)
{
	struct dps_packet p = { .data = (uint8_t *)(uintptr_t)at, .len = len, .total = len };
	uint32_t begin;
	uint16_t sum, is;
	int six, where;

	CHECK(len <= mtu + ETHER + 8, "%u bytes for an MTU of %u", len, mtu);
	n_segments = 0;
	begin = ip_at(&p, 2, &six);
	if (begin == 0)
		return;
	CHECK(six || dps_ipv4_sum(at + begin) == half_at(at + begin + 10), "an IPv4 checksum it originates");
	CHECK(begin + (six ? 40 : 0) + be16_at(at + begin + (six ? 4 : 2)) == len, "a length it originates");
	where = dps_l4_sum(&p, begin, &sum);
	if (where < 0)
		return;
	is = half_at(at + where);
	CHECK(is == sum, "a checksum it originates: %04x, not %04x", is, sum);
}

// Everything that a packet, or a tick, has left.
static struct result
finish(uint16_t verdict, const uint8_t *bytes, uint32_t len)
{
	struct result r = { .verdict = verdict, .len = len, .n_emitted = n_emitted };

	r.sum = fold(0, bytes, len);
	for (uint32_t i = 0; i < 2 + BLOCKS; i++)
		r.sum = fold(r.sum, areas[i].at, areas[i].len);
	for (uint32_t i = 0; i < n_emitted; i++) {
		r.sum = fold(r.sum, emitted[i].at, emitted[i].len);
		// A copy of the packet is as wrong as it is.
		if ((emitted[i].verdict & 0xf000) == 0x1000 &&
		    (emitted[i].len > frame_len || memcmp(emitted[i].at, frame, emitted[i].len) != 0))
			check_emitted(emitted[i].at, emitted[i].len, facts[emitted[i].verdict & 0xfff].mtu);
		free(emitted[i].at);
	}
	n_emitted = 0;
	return r;
}

static struct result
run(uint32_t port, uint32_t hash, uint32_t first, void *block)
{
	uint32_t room = dps_plugin.prepends, changes_to = first < dps_plugin.rewrites ? first : dps_plugin.rewrites;
	uint8_t *memory = (uint8_t *)malloc(room + first + (room + first == 0));
	struct dps_packet p = { .data = memory + room, .len = first, .total = frame_len, .headroom = (uint16_t)room,
				.port = (uint16_t)port, .hash = hash };
	struct result r;
	uint16_t verdict;

	memcpy(p.data, frame, first);
	if (dps_plugin.look != NULL)
		dps_plugin.look(NULL, &p, 1);
	p.bucket_state = block;
	verdict = dps_plugin.packet(NULL, &p);
	CHECK(p.data >= memory && p.data + p.len <= memory + room + first, "it is moved out of its memory");
	CHECK(memcmp(memory + room + changes_to, frame + changes_to, first - changes_to) == 0,
	      "it changes more than `rewrites`");
	r = finish(verdict, p.data, p.len);
	if (first == frame_len)
		keep_seen(verdict, p.data, p.len);
	free(memory);
	return r;
}

static void
check_verdict(uint16_t v)
{
	uint32_t n_reasons = 0;

	CHECK(v != 0xffff, "no verdict");
	while (dps_plugin.reasons != NULL && dps_plugin.reasons[n_reasons] != NULL)
		n_reasons++;
	if (v < 0x1000)
		CHECK(v < n_reasons, "reason %u", v);
	if ((v & 0xf000) == 0x1000)
		CHECK((v & 0xfff) < N_PORTS, "port %u", v & 0xfff);
}

static void
one_packet(void)
{
	uint32_t port = draw(N_PORTS), hash, first, n = draw(16) == 0 ? 1 + draw(2) : 0, at;
	struct result r, again;
	void *block;

	make_frame(port);
	if (draw(3) == 0)
		port = make_answer(port);
	if (draw(3) != 0)
		mutate();
	hash = hash_of_frame();
	first = n > 0 ? draw(frame_len + 1) : frame_len;
	at = first;
	for (uint32_t i = 0; i < n; i++) {
		segments[i].len = i + 1 == n ? frame_len - at : draw(frame_len - at + 1);
		segments[i].at = (uint8_t *)malloc(segments[i].len + (segments[i].len == 0));
		memcpy(segments[i].at, frame + at, segments[i].len);
		at += segments[i].len;
	}
	no_blanks = draw(16) == 0;
	for (uint32_t pass = 0; pass < 2; pass++) {
		block = dps_plugin.bucket_state_size > 0 ? areas[2 + hash % DPS_PLUGIN_BUCKETS % BLOCKS].at : NULL;
		n_segments = n;
		n_touched = 0;
		r = run(port, hash, first, block);
		check_verdict(r.verdict);
		put_back();
		n_segments = n;
		again = run(port, hash, first, block);
		CHECK(again.verdict == r.verdict && again.len == r.len && again.n_emitted == r.n_emitted &&
		      again.sum == r.sum, "once more after a kill it is another: verdict %x, was %x, %u and %u emitted",
		      again.verdict, r.verdict, again.n_emitted, r.n_emitted);
		n_touched = 0;
		if ((r.verdict & 0xe000) != 0x6000)
			break;
		CHECK(pass == 0, "it is steered twice");
		hash = (hash & ~511u) | (r.verdict & 511u);
	}
	for (uint32_t i = 0; i < n; i++)
		free(segments[i].at);
	n_segments = 0;
}

static void
one_tick(uint32_t what)
{
	struct result r[2];

	for (uint32_t i = 0; i < 2; i++) {
		put_back();
		if (what == BLOCKS)
			dps_plugin.tick(NULL);
		else
			dps_plugin.bucket_tick(NULL, what, areas[2 + what].at);
		r[i] = finish(0, frame, 0);
	}
	n_touched = 0;
	// A clock that is read may have gone on.
	if (what < BLOCKS)
		CHECK(memcmp(&r[0], &r[1], sizeof(r[0])) == 0, "a tick once more after a kill is another");
}

int
main(int argc, char **argv)
{
	uint32_t n = (uint32_t)strtoul(argv[1], NULL, 0);
	void *state = NULL;

	random_state = strtoull(argv[2], NULL, 0) * 2654435761u | 1;
	set_up(argc - 3, argv + 3);
	if (dps_plugin.init != NULL)
		CHECK(dps_plugin.init(&the_env, &state) == 0, "%s", error);
	if (dps_plugin.seated != NULL)
		dps_plugin.seated(state, &the_env);
	if (told != NULL) {
		dps_plugin.control(state, told, (uint32_t)strlen(told));
		the_env.now += 30ull * 86400 * 1000000000;
	}
	for (number = 0; number < n; number++) {
		one_packet();
		the_env.now += draw(8) == 0 ? draw(100000000) : draw(10000);
		if (number % 256 == 255)
			the_env.now += draw(100) * 1000000000ull;
		frame_len = 0;
		if (dps_plugin.tick != NULL && number % 64 == 63)
			one_tick(BLOCKS);
		for (uint32_t i = 0; dps_plugin.bucket_tick != NULL && number % 64 == 31 && i < BLOCKS; i++)
			one_tick(i);
	}
	for (uint32_t i = 0; dps_plugin.counters != NULL && dps_plugin.counters[i] != NULL; i++)
		printf("%s %llu\n", dps_plugin.counters[i], (unsigned long long)the_env.counters[i]);
	return 0;
}
