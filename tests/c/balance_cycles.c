/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How many cycles the packet function of `balance` takes: `balance_cycles CONNECTIONS`, 100 backends, packets of random
 * ones of these connections, which are known. It prints the median of bursts of 32.
 */
#include <assert.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "balance.c"

enum { BACKENDS = 100, BURST = 32, BURSTS = 20000 };

static struct { void *at; uint32_t len; uint8_t was[DPS_PLUGIN_TOUCH_BYTES]; } kept[DPS_PLUGIN_TOUCHES_MOST];
static uint32_t n_kept;

/* As the worker does: what is touched is kept. */
void
dps_touch(void *at, uint32_t len)
{
	kept[n_kept].at = at;
	kept[n_kept].len = len;
	memcpy(kept[n_kept++].was, at, len);
}

uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *tuple)
{
	(void)e;
	return tuple->from_port;
}

uint8_t *
dps_emit(uint16_t verdict, uint32_t len)
{
	(void)verdict;
	(void)len;
	return NULL;
}

static struct places places;
static struct counts state;
static uint8_t keys[BACKENDS][8], values[BACKENDS][8];
static struct dps_table_change all[BACKENDS];
static uint64_t counters_at[DPS_PLUGIN_COUNTERS], random_state = 1;

static const struct dps_table_change *
give(uint64_t *n)
{
	*n = BACKENDS;
	return all;
}

static int
by_cycles(const void *a, const void *b)
{
	const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;

	return *x < *y ? -1 : *x > *y;
}

static void
frame_of(uint8_t *frame, uint32_t connection)
{
	memset(frame, 0, 64);
	be16_put(frame + 12, 0x0800);
	frame[14] = 0x45;
	be16_put(frame + 16, 40);
	frame[23] = 6;
	memcpy(frame + 26, (uint8_t[]){ 198, 51, 100, 1, 192, 0, 2, 10 }, 8);
	be16_put(frame + 28, connection >> 15);
	be16_put(frame + 34, 1 + (connection & 0x7fff));
	be16_put(frame + 36, 80);
	frame[47] = 16;
}

int
main(int argc, char **argv)
{
	static const char *const arg_keys[] = { "vips", "port" }, *const arg_values[] = {
		"192.0.2.10:80/tcp, [2001:db8::10]:443/udp", "lan" };
	static const char *const names[] = { "lan" };
	static struct dps_port_facts facts;
	static struct dps_live_table tables[1] = {
		{ .name = "backends", .kind = DPS_TABLE_OWN, .value_bytes = 8, .at = &places, .version = 1 },
	};
	static const uint16_t next[] = { 0x1005 };
	static char error[200];
	static struct dps_env e = { .n_args = 2, .arg_keys = arg_keys, .arg_values = arg_values, .n_ports = 1,
				    .port_names = names, .counters = counters_at, .error = error,
				    .error_len = sizeof(error), .next = next, .ports = &facts, .n_tables = 1,
				    .tables = tables, .state = &state, .now = 1000000000000ull };
	struct dps_table_work work = { .at = &places, .bytes = sizeof(places), .entries = 1000, .key_bytes = 8,
				       .value_bytes = 8, .all = give, .error = error, .error_len = sizeof(error) };
	uint32_t connections = (uint32_t)atoi(argv[argc - 1]);
	struct bucket *buckets = aligned_alloc(4096, DPS_PLUGIN_BUCKETS * sizeof(*buckets));
	uint64_t *cycles = calloc(BURSTS, sizeof(*cycles)), begin;
	uint8_t frames[BURST][64];
	struct dps_packet packets[BURST];
	uint16_t verdict = 0;

	assert(buckets != NULL && cycles != NULL);
	memset(buckets, 0, DPS_PLUGIN_BUCKETS * sizeof(*buckets));
	for (uint32_t i = 0; i < BACKENDS; i++) {
		uint16_t weight = 10;

		snprintf((char *)keys[i], 8, "b%u", i);
		memcpy(values[i], (uint8_t[]){ 2, 0, 0, 0, 1, (uint8_t)i }, 6);
		memcpy(values[i] + 6, &weight, 2);
		all[i] = (struct dps_table_change){ keys[i], values[i] };
	}
	assert(init(&e, NULL) == 0 && apply(&work) == 0);
	for (uint32_t n = 0; n < BURSTS + (connections + BURST - 1) / BURST; n++) {
		int is_new = n < (connections + BURST - 1) / BURST;

		for (uint32_t i = 0; i < BURST; i++) {
			uint32_t which = n * BURST + i;

			if (!is_new) {
				random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
				which = (uint32_t)(random_state >> 33);
			}
			which %= connections;
			frame_of(frames[i], which);
			packets[i] = (struct dps_packet){ .data = frames[i], .len = 60, .total = 60, .hash = which * 2654435761u,
				.bucket_state = &buckets[(which * 2654435761u) >> 23] };
		}
		begin = __rdtsc();
		for (uint32_t i = 0; i < BURST; i++) {
			n_kept = 0;
			verdict |= packet(NULL, &packets[i]);
		}
		if (!is_new)
			cycles[n - (connections + BURST - 1) / BURST] = (__rdtsc() - begin) / BURST;
	}
	assert(verdict == dps_out(0) && counters_at[NEW] + counters_at[FULL] >= connections);
	qsort(cycles, BURSTS, sizeof(*cycles), by_cycles);
	printf("%llu\n", (unsigned long long)cycles[BURSTS / 2]);
	free(buckets);
	free(cycles);
	return 0;
}
