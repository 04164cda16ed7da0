// SPDX-License-Identifier: BSD-3-Clause
//
// The SDK's tables beside DPDK's own on the same input and in the same kind of memory (EAL's, without
// hugepages): ratios of times, medians of several rounds in turn. Not part of `dpsup bench`:
//
//     meson compile -C BUILD tables && BUILD/tables [ROUTES [ROUNDS]]

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_malloc.h>

#include <dpsup_table_exact.h>
#include <dpsup_table_lpm.h>

#include "routes.h"

#define BURST 64u
#define ASKED (1u << 20)
#define ROUNDS_MOST 64

static uint32_t rounds = 7;
static uint64_t sum; // of all answers, so that none is left out

struct asked {
	uint8_t (*address)[16];
	const void **pointer;
	uint32_t *host; // IPv4, as DPDK wants it
};

typedef void measured(void *table, const struct asked *asked);

static void
die(const char *what)
{
	fprintf(stderr, "tables: %s\n", what);
	exit(1);
}

static void *
memory(uint64_t bytes)
{
	void *p = rte_zmalloc("table", bytes, 64);

	if (p == NULL)
		die("EAL has too little memory");
	return p;
}

// ns that this thread ran: what others do on its CPU does not count.
static uint64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double
median(double *of, uint32_t n)
{
	qsort(of, n, sizeof(*of), by_value);
	return of[n / 2];
}

// Times of a lookup of each, in turns, so that what disturbs one disturbs all.
static void
measure(uint32_t n, measured *const *what, void *const *table, const struct asked *asked,
	double *ns)
{
	double all[8][ROUNDS_MOST];

	for (uint32_t round = 0; round < rounds; round++)
		for (uint32_t i = 0; i < n; i++) {
			uint64_t from = now();

			what[i](table[i], asked);
			all[i][round] = (double)(now() - from) / ASKED;
		}
	for (uint32_t i = 0; i < n; i++)
		ns[i] = median(all[i], rounds);
}

static void
ratio(const char *what, double of, double to)
{
	printf("%-72s %6.2f\n", what, to / of);
	fflush(stdout);
}

// --- lookups ----------------------------------------------------------------------------------

#define SINGLE(name, type, expression)                                  \
	static void name(void *table, const struct asked *asked)        \
	{                                                               \
		type *t = table;                                        \
		for (uint32_t i = 0; i < ASKED; i++)                    \
			sum += expression;                              \
	}
#define BULK(name, type, wanted, call)                                  \
	static void name(void *table, const struct asked *asked)        \
	{                                                               \
		type *t = table;                                        \
		wanted found[BURST];                                    \
		for (uint32_t i = 0; i < ASKED; i += BURST) {           \
			call;                                           \
			for (uint32_t j = 0; j < BURST; j++)            \
				sum += (uint64_t)found[j];              \
		}                                                       \
	}

SINGLE(lpm_find, struct dps_lpm, dps_lpm_find(t, asked->pointer[i]))
BULK(lpm_look, struct dps_lpm, uint64_t, dps_lpm_look(t, asked->pointer + i, BURST, found))
BULK(fib_bulk, struct rte_fib, uint64_t, rte_fib_lookup_bulk(t, asked->host + i, found, BURST))
BULK(rte_lpm_bulk, struct rte_lpm, uint32_t, rte_lpm_lookup_bulk(t, asked->host + i, found, BURST))
BULK(lpm6_bulk, struct rte_lpm6, int32_t,
     rte_lpm6_lookup_bulk_func(t, asked->address + i, found, BURST))
SINGLE(exact_find, struct dps_exact, dps_exact_find(t, asked->pointer[i]))
BULK(exact_look, struct dps_exact, uint64_t, dps_exact_look(t, asked->pointer + i, BURST, found))
BULK(hash_bulk, struct rte_hash, void *, {
	uint64_t hits;
	rte_hash_lookup_bulk_data(t, asked->pointer + i, BURST, &hits, found);
})

static uint32_t
one_lpm(const struct rte_lpm *t, uint32_t address)
{
	uint32_t next = 0;

	rte_lpm_lookup(t, address, &next);
	return next;
}
SINGLE(rte_lpm_single, struct rte_lpm, one_lpm(t, asked->host[i]))

static uint64_t
one_hash(const struct rte_hash *t, const void *key)
{
	void *data = NULL;

	rte_hash_lookup_data(t, key, &data);
	return (uint64_t)(uintptr_t)data;
}
SINGLE(hash_single, struct rte_hash, one_hash(t, asked->pointer[i]))

static struct asked
asked_new(uint32_t bits, const struct route *routes, uint32_t n)
{
	struct asked a = { memory(ASKED * 16), memory(ASKED * sizeof(void *)), memory(ASKED * 4) };
	struct rng r = { 99 };

	for (uint32_t i = 0; i < ASKED; i++) {
		if (routes != NULL)
			route_address(&r, &routes[rnd(&r) % n], bits, a.address[i]);
		a.pointer[i] = a.address[i];
		a.host[i] = DPS_TABLE_BE32(dps_table_load32(a.address[i]));
	}
	return a;
}

static void
asked_free(struct asked *a)
{
	rte_free(a->address);
	rte_free(a->pointer);
	rte_free(a->host);
}

// --- IPv4 -------------------------------------------------------------------------------------

static uint32_t
host(const struct route *r)
{
	return DPS_TABLE_BE32(dps_table_load32(r->address));
}

static void
ipv4(uint32_t n)
{
	struct rte_fib_conf conf = { .type = RTE_FIB_DIR24_8, .max_routes = (int)n + 1,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = 65536 } };
	struct rte_lpm_config config = { .max_rules = n + 1, .number_tbl8s = 65536 };
	struct route *routes = routes_new(32, n, 1);
	struct dps_lpm *t = memory(dps_lpm_bytes(32, n));
	struct rte_fib *fib = rte_fib_create("fib", 0, &conf);
	struct rte_lpm *lpm = rte_lpm_create("lpm", 0, &config);
	struct asked asked = asked_new(32, routes, n);
	uint32_t some = n / 10, most = n < 50000 ? n : 50000;
	double load[2], churn[2], few[2], at[5];
	uint64_t from;

	if (fib == NULL || lpm == NULL)
		die("no table of DPDK's");
	dps_lpm_init(t, dps_lpm_bytes(32, n), 32, n);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		if (dps_lpm_set(t, routes[i].address, routes[i].length, i & 0xffffff) != 1)
			die("a route was refused");
	load[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		if (rte_fib_add(fib, host(&routes[i]), (uint8_t)routes[i].length, i) != 0)
			die("rte_fib refused a route");
	load[1] = (double)(now() - from);
	printf("IPv4, %u routes: %.0f operations a second to load\n", n,
	       n * 1e9 / load[0]);
	ratio("load, against rte_fib (DIR-24-8)", load[0], load[1]);

	from = now();
	for (uint32_t i = 0; i < some; i++)
		dps_lpm_del(t, routes[i].address, routes[i].length);
	for (uint32_t i = 0; i < some; i++)
		dps_lpm_set(t, routes[i].address, routes[i].length, i & 0xffffff);
	churn[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < some; i++)
		rte_fib_delete(fib, host(&routes[i]), (uint8_t)routes[i].length);
	for (uint32_t i = 0; i < some; i++)
		rte_fib_add(fib, host(&routes[i]), (uint8_t)routes[i].length, i);
	churn[1] = (double)(now() - from);
	printf("IPv4, %u of them withdrawn and announced: %.0f operations a second\n", some,
	       2. * some * 1e9 / churn[0]);
	ratio("withdraw and announce, against rte_fib", churn[0], churn[1]);

	// rte_lpm looks for a rule among all of its length: with 10^6 that takes minutes.
	from = now();
	for (uint32_t i = 0; i < most; i++)
		rte_lpm_add(lpm, host(&routes[i]), (uint8_t)routes[i].length, i & 0xffffff);
	few[1] = (double)(now() - from);
	dps_lpm_clear(t);
	from = now();
	for (uint32_t i = 0; i < most; i++)
		dps_lpm_set(t, routes[i].address, routes[i].length, i & 0xffffff);
	few[0] = (double)(now() - from);
	ratio("load of the first 50,000, against rte_lpm", few[0], few[1]);
	for (uint32_t i = most; i < n; i++) {
		dps_lpm_set(t, routes[i].address, routes[i].length, i & 0xffffff);
		rte_lpm_add(lpm, host(&routes[i]), (uint8_t)routes[i].length, i & 0xffffff);
	}

	measured *what[] = { lpm_find, lpm_look, rte_lpm_single, rte_lpm_bulk, fib_bulk };
	void *tables[] = { t, t, lpm, lpm, fib };

	measure(5, what, tables, &asked, at);
	ratio("look, against find", at[1], at[0]);
	ratio("find, against rte_lpm_lookup", at[0], at[2]);
	ratio("look, against rte_lpm_lookup", at[1], at[2]);
	ratio("look, against rte_lpm_lookup_bulk", at[1], at[3]);
	ratio("look, against rte_fib_lookup_bulk", at[1], at[4]);
	rte_fib_free(fib);
	rte_lpm_free(lpm);
	rte_free(t);
	free(routes);
	asked_free(&asked);
}

// --- IPv6 -------------------------------------------------------------------------------------

static void
ipv6(uint32_t n)
{
	struct rte_lpm6_config config = { .max_rules = n + 1, .number_tbl8s = 1 << 18 };
	struct route *routes = routes_new(128, n, 1);
	struct dps_lpm *t = memory(dps_lpm_bytes(128, n));
	struct rte_lpm6 *lpm = rte_lpm6_create("lpm6", 0, &config);
	struct asked asked = asked_new(128, routes, n);
	uint32_t some = n / 10, in = 0;
	double load[2], churn[2], at[3];
	uint64_t from;

	if (lpm == NULL)
		die("no rte_lpm6");
	dps_lpm_init(t, dps_lpm_bytes(128, n), 128, n);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		dps_lpm_set(t, routes[i].address, routes[i].length, i & 0x1fffff);
	load[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		in += rte_lpm6_add(lpm, routes[i].address, (uint8_t)routes[i].length,
				   i & 0x1fffff) == 0;
	load[1] = (double)(now() - from);
	if (in != n)
		die("rte_lpm6 refused a route");
	printf("IPv6, %u routes: %.0f operations a second to load\n", n,
	       n * 1e9 / load[0]);
	ratio("load, against rte_lpm6", load[0], load[1]);
	from = now();
	for (uint32_t i = 0; i < some; i++)
		dps_lpm_del(t, routes[i].address, routes[i].length);
	for (uint32_t i = 0; i < some; i++)
		dps_lpm_set(t, routes[i].address, routes[i].length, i & 0x1fffff);
	churn[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < some; i++)
		rte_lpm6_delete(lpm, routes[i].address, (uint8_t)routes[i].length);
	for (uint32_t i = 0; i < some; i++)
		rte_lpm6_add(lpm, routes[i].address, (uint8_t)routes[i].length, i & 0x1fffff);
	churn[1] = (double)(now() - from);
	printf("IPv6, %u of them withdrawn and announced: %.0f operations a second\n", some,
	       2. * some * 1e9 / churn[0]);
	ratio("withdraw and announce, against rte_lpm6", churn[0], churn[1]);

	measured *what[] = { lpm_find, lpm_look, lpm6_bulk };
	void *tables[] = { t, t, lpm };

	measure(3, what, tables, &asked, at);
	ratio("look, against find", at[1], at[0]);
	ratio("look, against rte_lpm6_lookup_bulk_func", at[1], at[2]);
	rte_lpm6_free(lpm);
	rte_free(t);
	free(routes);
	asked_free(&asked);
}

// --- exact match ------------------------------------------------------------------------------

static void
exact(uint32_t n)
{
	struct rte_hash_parameters parameters = { .name = "hash", .entries = n + n / 8,
		.key_len = 16, .hash_func = rte_hash_crc };
	struct rte_hash *hash = rte_hash_create(&parameters);
	uint64_t bytes = dps_exact_bytes(16, n);
	struct dps_exact *t = memory(bytes);
	uint8_t(*keys)[16] = memory((uint64_t)n * 16);
	struct asked asked = asked_new(128, NULL, 0);
	double load[2], churn[2], at[4];
	struct rng r = { 5 };
	uint64_t from;

	if (hash == NULL)
		die("no rte_hash");
	for (uint32_t i = 0; i < n; i++)
		random_bytes(&r, keys[i], 16);
	for (uint32_t i = 0; i < ASKED; i++)
		memcpy(asked.address[i], keys[rnd(&r) % n], 16);
	dps_exact_init(t, bytes, 16, n, 12345);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		dps_exact_set(t, keys[i], i);
	load[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < n; i++)
		rte_hash_add_key_data(hash, keys[i], (void *)(uintptr_t)i);
	load[1] = (double)(now() - from);
	printf("exact match, %u keys of 16 bytes: %.0f operations a second to load\n", n,
	       n * 1e9 / load[0]);
	ratio("load, against rte_hash", load[0], load[1]);
	from = now();
	for (uint32_t i = 0; i < n / 2; i++)
		dps_exact_del(t, keys[i]);
	for (uint32_t i = 0; i < n / 2; i++)
		dps_exact_set(t, keys[i], i);
	churn[0] = (double)(now() - from);
	from = now();
	for (uint32_t i = 0; i < n / 2; i++)
		rte_hash_del_key(hash, keys[i]);
	for (uint32_t i = 0; i < n / 2; i++)
		rte_hash_add_key_data(hash, keys[i], (void *)(uintptr_t)i);
	churn[1] = (double)(now() - from);
	ratio("delete and add, against rte_hash", churn[0], churn[1]);

	measured *what[] = { exact_find, exact_look, hash_single, hash_bulk };
	void *tables[] = { t, t, hash, hash };

	measure(4, what, tables, &asked, at);
	ratio("look, against find", at[1], at[0]);
	ratio("find, against rte_hash_lookup_data", at[0], at[2]);
	ratio("look, against rte_hash_lookup_bulk_data", at[1], at[3]);
	rte_hash_free(hash);
	rte_free(t);
	rte_free(keys);
	asked_free(&asked);
}

int
main(int argc, char **argv)
{
	char *eal[] = { "tables", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "2048",
		"-l", "0", "--log-level", "error", NULL };
	uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1000000;

	if (argc > 2)
		rounds = (uint32_t)strtoul(argv[2], NULL, 0);
	if (n < 1000 || rounds == 0 || rounds > ROUNDS_MOST)
		die("usage: tables [ROUTES, 1000 or more [ROUNDS, 1 to 64]]");
	if (rte_eal_init(11, eal) < 0)
		die("EAL does not start");
	printf("times of the other divided by ours: more than 1 is faster (medians of %u)\n", rounds);
	ipv4(n);
	ipv6(n / 5);
	exact(n);
	return sum == 1;
}
