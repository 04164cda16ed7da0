// SPDX-License-Identifier: BSD-3-Clause
//
// `nat` between two ports, without an instance: the buckets of a group, and steering between them. A line of the
// input is a command, a line of the output what becomes of it:
//
//     key HEX                 the key of the hash; before `begin`
//     begin KEY=VALUE ...     arguments
//     forwards KEY VALUE ...  the table, whole: 9 and 6 bytes in hexadecimal each
//     lan HEX, wan HEX        a packet comes in; "lan HEX", "wan HEX", "drop REASON"
//     time SECONDS            it is later, and each bucket has had its tick
//     flip N                  N random bits of the state change, also of places that are in use
//     loop                    each binding's chains lead back to it
//     migrate                 the state becomes that of version 1, and is taken over
//     quick                   from now on without the kills
//     counters                all of them
//
// Each packet and each tick is killed at each of its touches first, put back, and run anew: what is left is the same.
#include "../../workers/functions/nat.c"

#include <setjmp.h>
#include <stddef.h>

enum { MOST = 2048, TOUCHES = 64 };

static uint64_t counted[DPS_PLUGIN_COUNTERS];
static char why[256];
static struct dps_env world;
static struct dps_live_table table;
static struct bucket *buckets;
static uint8_t hash_key[52];

static struct { uint8_t *at, was[64]; uint32_t len; } touched[TOUCHES];
static uint32_t n_touched, dies_at;
static int is_quick;
static jmp_buf death;

uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *t)
{
	uint8_t bytes[12];
	uint32_t hash = 0, n = t->protocol == ICMP ? 8 : 12;

	(void)e;
	memcpy(bytes, t->from, 4);
	memcpy(bytes + 4, t->to, 4);
	memcpy(bytes + 8, &t->from_port, 2);
	memcpy(bytes + 10, &t->to_port, 2);
	for (uint32_t bit = 0; bit < n * 8; bit++)
		if (bytes[bit / 8] >> (7 - bit % 8) & 1)
			for (uint32_t i = 0; i < 32; i++)
				hash ^= (uint32_t)(hash_key[(bit + i) / 8] >> (7 - (bit + i) % 8) & 1) << (31 - i);
	return hash;
}

static void
fail(const char *what)
{
	fflush(stdout);
	fprintf(stderr, "%s\n", what);
	exit(2);
}

void
dps_touch(void *at, uint32_t len)
{
	uint8_t *byte = (uint8_t *)at;

	if (n_touched == DPS_PLUGIN_TOUCHES_MOST || len > DPS_PLUGIN_TOUCH_BYTES)
		fail("too many touches, or too large");
	if (!(byte >= (uint8_t *)counted && byte + len <= (uint8_t *)(counted + DPS_PLUGIN_COUNTERS)) &&
	    !(byte >= (uint8_t *)buckets && byte + len <= (uint8_t *)(buckets + DPS_PLUGIN_BUCKETS)))
		fail("touches what is no state");
	touched[n_touched].at = byte;
	touched[n_touched].len = len;
	memcpy(touched[n_touched++].was, at, len);
	if (n_touched == dies_at)
		longjmp(death, 1);
}

static void
put_back(void)
{
	while (n_touched > 0) {
		n_touched--;
		memcpy(touched[n_touched].at, touched[n_touched].was, touched[n_touched].len);
	}
}

static uint64_t
fold(uint64_t sum, const void *at, size_t len)
{
	const uint8_t *byte = (const uint8_t *)at;

	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = 0;

		memcpy(&word, byte + i, len - i < 8 ? len - i : 8);
		sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
		sum ^= sum >> 29;
	}
	return sum;
}

// What a packet, or the tick of a bucket (len 0), leaves. `dies`: at this touch; 0: it lives.
static uint64_t
once(uint32_t port, uint32_t hash, const uint8_t *bytes, uint32_t len, uint8_t *frame, uint16_t *verdict, uint32_t dies)
{
	uint32_t bucket = dps_bucket(hash);
	struct dps_packet p = { .data = frame, .len = len, .total = len, .hash = hash, .port = (uint16_t)port,
				.bucket_state = &buckets[bucket] };

	n_touched = 0;
	dies_at = dies;
	memcpy(frame, bytes, len);
	if (setjmp(death) == 0) {
		if (len == 0)
			bucket_tick(NULL, bucket, &buckets[bucket]);
		else
			*verdict = packet(NULL, &p);
	}
	dies_at = 0;
	if (is_quick)
		return 0;
	return fold(fold(fold(*verdict, frame, len), counted, sizeof(counted)), &buckets[bucket], sizeof(*buckets));
}

static void
run(uint32_t port, uint32_t hash, const uint8_t *bytes, uint32_t len, uint8_t *frame, uint16_t *verdict)
{
	uint64_t sum = once(port, hash, bytes, len, frame, verdict, 0);
	uint32_t n = n_touched;

	if (is_quick)
		return;
	for (uint32_t dies = n + 1; dies > 0; dies--) {
		put_back();
		if (dies <= n)
			once(port, hash, bytes, len, frame, verdict, dies), put_back();
		if (once(port, hash, bytes, len, frame, verdict, 0) != sum)
			fail("run once more after a kill it is another");
	}
}

static uint32_t
hash_of_frame(const uint8_t *frame, uint32_t len)
{
	const uint8_t *ip = frame + ETHER, *l4 = ip + (ip[0] & 0xfu) * 4;
	int has_no_ports = ip[9] == ICMP || (be16_at(ip + 6) & 0x3fff) != 0 || l4 + 4 > frame + len;

	return hash_of(ip[9] == TCP || ip[9] == UDP ? (has_no_ports ? ICMP : ip[9]) : ICMP, word_at(ip + 12),
		       has_no_ports ? 0 : half_at(l4), word_at(ip + 16), has_no_ports ? 0 : half_at(l4 + 2));
}

static uint32_t
unhex(const char *text, uint8_t *to)
{
	uint32_t n = 0;
	unsigned int byte;

	for (; n < MOST && sscanf(text + 2 * n, "%2x", &byte) == 1; n++)
		to[n] = (uint8_t)byte;
	return n;
}

static void
come_in(uint32_t port, const char *hex)
{
	static uint8_t bytes[MOST], frame[MOST];
	uint32_t len = unhex(hex, bytes), hash = hash_of_frame(bytes, len);
	uint16_t verdict = 0;

	run(port, hash, bytes, len, frame, &verdict);
	if ((verdict & 0xe000) == 0x6000) {
		memcpy(bytes, frame, len);
		run(port, (hash & ~511u) | (verdict & 511u), bytes, len, frame, &verdict);
	}
	if ((verdict & 0xe000) == 0x6000)
		fail("steered twice");
	if (verdict < 0x1000) {
		printf("drop %s\n", reasons[verdict]);
		return;
	}
	printf("%s ", world.port_names[verdict & 0xfff]);
	for (uint32_t i = 0; i < len; i++)
		printf("%02x", frame[i]);
	printf("\n");
}

// --- the table --------------------------------------------------------------------------------------

static struct dps_table_change entries[1000];
static uint8_t keys_of[1000][FORWARD_KEY + FORWARD_VALUE];
static uint64_t n_entries;

static const struct dps_table_change *
all(uint64_t *n)
{
	*n = n_entries;
	return entries;
}

static void
lay_out(char *words)
{
	static uint8_t memory[1 << 16] __attribute__((aligned(4096)));
	struct dps_table_work work = { .table = "forwards", .at = memory, .bytes = sizeof(memory), .entries = 1000,
				       .key_bytes = FORWARD_KEY, .value_bytes = FORWARD_VALUE, .all = all,
				       .error = why, .error_len = sizeof(why) };

	n_entries = 0;
	for (char *word = strtok(words, " \n"); word != NULL; word = strtok(NULL, " \n")) {
		unhex(word, keys_of[n_entries]);
		unhex(strtok(NULL, " \n"), keys_of[n_entries] + FORWARD_KEY);
		entries[n_entries].key = keys_of[n_entries];
		entries[n_entries].value = keys_of[n_entries] + FORWARD_KEY;
		n_entries++;
	}
	table = (struct dps_live_table){ .name = "forwards", .kind = DPS_TABLE_OWN, .key_bytes = FORWARD_KEY,
					 .value_bytes = FORWARD_VALUE, .at = memory };
	world.tables = &table;
	world.n_tables = 1;
	forwards = &table;
	printf("%s\n", dps_plugin.table_apply(&work) == 0 ? "ok" : why);
}

// --- commands ---------------------------------------------------------------------------------------

static void
begin(char *words)
{
	static const char *keys[32], *values[32], *const names[] = { "lan", "wan" };

	world = (struct dps_env){ .arg_keys = keys, .arg_values = values, .n_ports = 2, .port_names = names,
				  .counters = counted, .error = why, .error_len = sizeof(why), .now = 1ull << 40,
				  .tables = &table, .n_tables = table.name != NULL };
	for (char *word = strtok(words, " \n"); word != NULL; word = strtok(NULL, " \n")) {
		char *value = strchr(word, '=');

		*value = '\0';
		keys[world.n_args] = strdup(word);
		values[world.n_args++] = strdup(value + 1);
	}
	if (init(&world, NULL) != 0) {
		printf("%s\n", why);
		return;
	}
	seated(NULL, &world);
	printf("ok\n");
}

static int
is_used(const struct bucket *b)
{
	uint64_t any = 0;

	for (uint32_t word = 0; word < WORDS; word++)
		any |= b->used[word];
	return any != 0;
}

static void
later(double seconds)
{
	uint16_t verdict = 0;
	uint8_t none[1];

	// As often as a bucket has ticks, so that it has had enough of them.
	for (uint32_t i = 0; i < 8; i++) {
		world.now += (uint64_t)(seconds * 1e9 / 8);
		for (uint32_t b = 0; b < DPS_PLUGIN_BUCKETS; b++)
			if (is_used(&buckets[b]))
				run(0, b, none, 0, none, &verdict);
	}
	printf("ok\n");
}

static void
flip(uint32_t n)
{
	uint32_t bucket = (uint32_t)rand() % DPS_PLUGIN_BUCKETS;

	for (uint32_t i = 0; i < DPS_PLUGIN_BUCKETS && !is_used(&buckets[bucket]); i++)
		bucket = (bucket + 1) % DPS_PLUGIN_BUCKETS;
	for (uint32_t i = 0; i < n; i++) {
		struct bucket *b = &buckets[bucket];
		uint8_t *at = (uint8_t *)b;
		uint32_t place = (uint32_t)rand() % BINDINGS;

		for (uint32_t tries = 0; tries < BINDINGS && (b->used[place / 64] >> place % 64 & 1) == 0; tries++)
			place = (place + 1) % BINDINGS;
		// A binding that is there, or heads and bits.
		if (rand() % 2)
			at = (uint8_t *)&b->binding[place] + rand() % (int)sizeof(struct binding);
		else
			at += rand() % (int)offsetof(struct bucket, binding);
		*at ^= (uint8_t)(1u << rand() % 8);
	}
	printf("ok\n");
}

static void
loop(void)
{
	for (uint32_t b = 0; b < DPS_PLUGIN_BUCKETS; b++)
		for (uint32_t place = 0; place < BINDINGS; place++)
			if ((buckets[b].used[place / 64] >> place % 64 & 1) != 0)
				for (int by = 0; by < 2; by++)
					buckets[b].binding[place].next[by] = (uint16_t)(place + 1);
	printf("ok\n");
}

// All bindings are kept by version 1, and taken over by this one.
static void
migrate(void)
{
	struct bucket_1 *old = (struct bucket_1 *)malloc(sizeof(*old));
	struct bucket *fresh = (struct bucket *)malloc(sizeof(*fresh));

	for (uint32_t b = 0; b < DPS_PLUGIN_BUCKETS; b++) {
		uint32_t n = 0;

		memset(old, 0, sizeof(*old));
		memset(fresh, 0, sizeof(*fresh));
		for (uint32_t place = 0; place < BINDINGS && n < BINDINGS_1; place++)
			if ((buckets[b].used[place / 64] >> place % 64 & 1) != 0) {
				old->binding[n] = buckets[b].binding[place];
				old->used[n / 64] |= 1ull << n % 64;
				n++;
			}
		if (dps_plugin.bucket_migrate(old, sizeof(*old), 1, fresh) != 0)
			fail("it does not know version 1");
		buckets[b] = *fresh;
	}
	free(old);
	free(fresh);
	printf("ok\n");
}

int
main(void)
{
	static char line[1 << 16];

	buckets = (struct bucket *)calloc(DPS_PLUGIN_BUCKETS, sizeof(*buckets));
	while (fgets(line, sizeof(line), stdin) != NULL) {
		char *rest = strchr(line, ' ');

		rest = rest == NULL ? line + strlen(line) : rest + 1;
		if (strncmp(line, "lan", 3) == 0 || strncmp(line, "wan", 3) == 0)
			come_in(line[0] == 'w', rest);
		else if (strncmp(line, "key", 3) == 0)
			printf("%u\n", unhex(rest, hash_key));
		else if (strncmp(line, "begin", 5) == 0)
			begin(rest);
		else if (strncmp(line, "forwards", 8) == 0)
			lay_out(rest);
		else if (strncmp(line, "time", 4) == 0)
			later(atof(rest));
		else if (strncmp(line, "migrate", 7) == 0)
			migrate();
		else if (strncmp(line, "quick", 5) == 0)
			printf("%d\n", is_quick = 1);
		else if (strncmp(line, "loop", 4) == 0)
			loop();
		else if (strncmp(line, "flip", 4) == 0)
			flip((uint32_t)atoi(rest));
		else
			for (uint32_t i = 0; counters[i] != NULL; i++)
				printf("%s=%llu%s", counters[i], (unsigned long long)counted[i],
				       counters[i + 1] == NULL ? "\n" : " ");
		fflush(stdout);
	}
	return 0;
}
