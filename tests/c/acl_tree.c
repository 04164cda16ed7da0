// SPDX-License-Identifier: BSD-3-Clause
//
// Rules from standard input against a plain search from the first to the last: the same rule for every packet.
//
//   usage: acl_tree BYTES PACKETS SEED
//
// It says what the table is like, and how many cycles a packet took with the trees, the median of its bursts.

#include <time.h>
#include <x86intrin.h>

#include "acl_tree.h"

enum { MOST = 20000, BURST = 32, MANY = 1000 };

static uint64_t seed;
static char why[256];
static struct rule rules[MOST];

static uint32_t
draw(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % below;
}

static uint32_t
within(const struct range *r)
{
	uint64_t size = (uint64_t)r->to - r->from + 1;

	// The ends are where mistakes are.
	switch (draw(4)) {
	case 0:
		return r->from;
	case 1:
		return r->to;
	default:
		return r->from + (uint32_t)((((uint64_t)draw(0xffffffffu) << 16) | draw(0xffff)) % size);
	}
}

// A packet for a rule, of which some facts may then be others: those of another rule, one more or less, any.
static void
make(struct facts *f, uint32_t n)
{
	const struct rule *r = &rules[draw(n)];
	uint32_t v4 = (r->bits & IS_4) != 0 && ((r->bits & IS_6) == 0 || draw(2) == 0);

	memset(f, 0, sizeof(*f));
	for (uint32_t d = 0; d < DIMS; d++) {
		const struct rule *of = draw(8) == 0 ? &rules[draw(n)] : r;

		f->is[d] = within(d < DIMS4 ? &of->is[d] : &of->more[d - DIMS4]);
		if (draw(16) == 0)
			f->is[d] += draw(2) == 0 ? 1 : -1u;
		if (draw(64) == 0)
			f->is[d] = draw(0xffffffffu);
	}
	f->flags = (uint8_t)(draw(4) == 0 ? draw(256) : r->flags);
	f->bits = v4 ? IS_4 : IS_6;
	f->bits |= draw(16) == 0 || (r->bits & NOT_LATER) == 0 ? IS_LATER : NOT_LATER;
}

static int
by_cycles(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
	static const char *const ports[] = { "wan", "lan", "dmz" };
	struct dps_table_work work = { .error = why, .error_len = sizeof(why), .n_ports = 3, .port_names = ports };
	uint64_t room, packets, *cycles, bursts = 0, begin;
	static struct facts all[BURST];
	const struct facts *facts[BURST];
	uint32_t found[BURST], n = 0, hits = 0;
	char line[512];
	struct facts *many;
	struct acl *a;

	if (argc != 4)
		return 2;
	room = strtoull(argv[1], NULL, 10);
	packets = strtoull(argv[2], NULL, 10);
	seed = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull | 1;
	while (fgets(line, sizeof(line), stdin) != NULL && n < MOST) {
		line[strcspn(line, "\n")] = '\0';
		if (rule_read(&work, n, line, (uint32_t)strlen(line), &rules[n]) != 0) {
			puts(why);
			return 1;
		}
		n++;
	}
	a = aligned_alloc(4096, (room + 4095) & ~4095ull);
	cycles = malloc(MANY * sizeof(*cycles));
	if (a == NULL || cycles == NULL)
		return 2;
	begin = clock();
	if (acl_make(a, room, rules, n) != 0) {
		puts("no room");
		return 1;
	}
	printf("rules %u nodes %u leaves %u longest %u bytes %llu ms %llu ", n, a->n_nodes, a->n_leaves, a->leaf,
	       (unsigned long long)a->bytes, (unsigned long long)((clock() - begin) * 1000 / CLOCKS_PER_SEC));
	for (uint64_t done = 0; done < packets; done += BURST) {
		for (uint32_t i = 0; i < BURST; i++) {
			make(&all[i], n);
			facts[i] = &all[i];
		}
		acl_look(a, facts, BURST, found);
		for (uint32_t i = 0; i < BURST; i++) {
			uint32_t r = 0;

			while (r < n && !rule_fits(&rules[r], facts[i]))
				r++;
			hits += r < n;
			if (r != found[i]) {
				printf("packet %llu: rule %u, and the trees say %u\n",
				       (unsigned long long)done + i, r, found[i]);
				return 1;
			}
		}
	}
	// Packets of a thousand bursts, more than the caches next to the CPU remember.
	many = malloc((size_t)MANY * BURST * sizeof(*many));
	for (uint32_t i = 0; i < MANY * BURST; i++)
		make(&many[i], n);
	for (uint32_t burst = 0; burst < MANY; burst++) {
		for (uint32_t i = 0; i < BURST; i++)
			facts[i] = &many[burst * BURST + i];
		begin = __rdtsc();
		acl_look(a, facts, BURST, found);
		cycles[bursts++] = (__rdtsc() - begin) / BURST;
	}
	qsort(cycles, bursts, sizeof(*cycles), by_cycles);
	printf("hits %u cycles %llu\n", hits, (unsigned long long)cycles[bursts / 2]);
	free(many);
	free(cycles);
	free(a);
	return 0;
}
