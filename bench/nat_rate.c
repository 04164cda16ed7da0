// SPDX-License-Identifier: BSD-3-Clause
//
// What `nat` pays for a packet with a million bindings, without an instance: CPU time of this thread, bindings that
// are new, and packets of bindings that are there, in random order, both ways. Not part of `dpsup bench`:
//
//     meson compile -C BUILD nat_rate && BUILD/nat_rate [BINDINGS]

#include "../workers/functions/nat.c"

#include <time.h>

enum { FRAME = 60 };

static uint64_t counted[DPS_PLUGIN_COUNTERS];
static struct bucket *buckets;
static uint32_t windows[12][256];       // of a Toeplitz hash with the symmetric key
static struct { uint8_t was[DPS_PLUGIN_TOUCHES_MOST][DPS_PLUGIN_TOUCH_BYTES]; uint64_t at; } journal;
static uint32_t n_touched;

uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *t)
{
	uint8_t bytes[12];
	uint32_t hash = 0, n = t->protocol == ICMP ? 8 : 12;

	(void)e;
	memcpy(bytes, t->from, 4);
	memcpy(bytes + 4, t->to, 4);
	memcpy(bytes + 8, &t->from_port, 4);
	for (uint32_t i = 0; i < n; i++)
		hash ^= windows[i][bytes[i]];
	return hash;
}

// The bytes are kept, and one store says so, as the worker's does.
void
dps_touch(void *at, uint32_t len)
{
	memcpy(journal.was[n_touched++ % DPS_PLUGIN_TOUCHES_MOST], at, len);
	__atomic_store_n(&journal.at, (uint64_t)(uintptr_t)at, __ATOMIC_RELEASE);
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void
begin(void)
{
	static const char *const keys[] = { "inside", "outside", "address", "udp" };
	static const char *const values[] = { "lan", "wan", "192.0.2.1", "1000000" }, *const names[] = { "lan", "wan" };
	static char why[256];
	static struct dps_env e = { .n_args = 4, .arg_keys = keys, .arg_values = values, .n_ports = 2,
				    .port_names = names, .counters = counted, .error = why, .error_len = sizeof(why),
				    .now = 1ull << 40 };

	for (uint32_t at = 0; at < 12; at++)
		for (uint32_t value = 0; value < 256; value++)
			for (uint32_t bit = 0; bit < 8; bit++)
				for (uint32_t i = 0; i < 32 && (value >> (7 - bit) & 1) != 0; i++)
					windows[at][value] ^= (0x6d5au >> (15 - (at * 8 + bit + i) % 16) & 1) << (31 - i);
	if (init(&e, NULL) != 0) {
		fprintf(stderr, "%s\n", why);
		exit(1);
	}
	seated(NULL, &e);
}

// The packets of a flow, by its number: 50,000 hosts inside, many remote endpoints.
static void
make(uint8_t *frame, uint32_t number)
{
	static const uint8_t head[] = { [12] = 8, [14] = 0x45, [17] = 46, [22] = 64, [23] = UDP, [26] = 10, [30] = 198,
					[31] = 51, [37] = 53, [39] = 26 };

	memset(frame, 0, FRAME);
	memcpy(frame, head, sizeof(head));
	be16_put(frame + 28, number % 50000);
	be16_put(frame + 32, mix(number, 3) & 0xffff);
	be16_put(frame + 34, 1024 + number / 50000 * 7 + mix(number, 5) % 60000 / 8 * 8 % 60000);
}

static void
answer(uint8_t *frame)
{
	uint8_t ends[12];

	memcpy(ends, frame + 26, 12);
	memcpy(frame + 26, ends + 4, 4);
	memcpy(frame + 30, ends, 4);
	memcpy(frame + 34, ends + 10, 2);
	memcpy(frame + 36, ends + 8, 2);
}

static uint16_t
run(uint8_t *frame, uint32_t port)
{
	uint32_t hash = hash_of(UDP, word_at(frame + 26), half_at(frame + 34), word_at(frame + 30), half_at(frame + 36));
	struct dps_packet p = { .data = frame, .len = FRAME, .total = FRAME, .hash = hash, .port = (uint16_t)port,
				.bucket_state = &buckets[dps_bucket(hash)] };

	n_touched = 0;
	return packet(NULL, &p);
}

static void
say(const char *what, double spent, uint32_t n)
{
	printf("%-32s %8.0f ns %12.0f a second\n", what, spent / n * 1e9, n / spent);
}

int
main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000000;
	uint8_t (*frames)[FRAME] = (uint8_t (*)[FRAME])malloc((size_t)n * FRAME);
	double from;

	buckets = (struct bucket *)aligned_alloc(1 << 21, ((sizeof(*buckets) * DPS_PLUGIN_BUCKETS >> 21) + 1) << 21);
	memset(buckets, 0, sizeof(*buckets) * DPS_PLUGIN_BUCKETS);
	begin();
	for (uint32_t i = 0; i < n; i++)
		make(frames[i], i);
	from = seconds();
	for (uint32_t i = 0; i < n; i++)
		run(frames[i], 0);
	say("a new binding", seconds() - from, n);
	for (uint32_t i = 0, order = 0; i < n; i++) {
		order = (uint32_t)((order + 7919ull * 104729) % n);
		make(frames[i], order);
	}
	from = seconds();
	for (uint32_t i = 0; i < n; i++)
		run(frames[i], 0);
	say("a packet from inside", seconds() - from, n);
	for (uint32_t i = 0; i < n; i++)
		answer(frames[i]);
	from = seconds();
	for (uint32_t i = 0; i < n; i++)
		run(frames[i], 1);
	say("a packet from outside", seconds() - from, n);
	printf("%llu bindings; of %u packets each, %llu went out and %llu came in\n",
	       (unsigned long long)counted[CREATED], n, (unsigned long long)(counted[OUTWARD] - counted[CREATED]),
	       (unsigned long long)counted[INWARD]);
	return counted[CREATED] == n && counted[INWARD] == n ? 0 : 1;
}
