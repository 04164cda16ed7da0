// SPDX-License-Identifier: BSD-3-Clause
//
// The SDK's tables against plain models: random operations, routing tables of known shapes, tables
// filled to the last entry with the worst prefixes, copies at other addresses. Prints what it
// measured; exits 1, saying where, at the first difference.
//
// Over 600 lines: one plain model for all of them.

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <dpsup_table_array.h>
#include <dpsup_table_exact.h>
#include <dpsup_table_lpm.h>

#include "../../bench/routes.h"

#define CHECK(is, ...)                                                  \
	do {                                                            \
		if (!(is)) {                                            \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #is); \
			fprintf(stderr, " " __VA_ARGS__);               \
			fputc('\n', stderr);                            \
			exit(1);                                        \
		}                                                       \
	} while (0)

static void *
block(uint64_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);

	CHECK(memory != NULL);
	memset(memory, 0, bytes); // as hugepages are: unused bytes are compared too
	return memory;
}

// --- the model of all of them: a list of keys and values, found by a hash of its own ---------------

struct item {
	uint8_t key[68];
	uint64_t value;
	uint32_t next; // plus 1
};

struct model {
	struct item *items;
	uint32_t *heads;
	uint32_t n, most, width;
};

static struct model
model_new(uint32_t most, uint32_t width)
{
	struct model m = { .most = most, .width = width };

	m.items = calloc(most + 1, sizeof(*m.items));
	m.heads = calloc(65536, sizeof(*m.heads));
	return m;
}

static void
model_free(struct model *m)
{
	free(m->items);
	free(m->heads);
}

static uint32_t
model_head(const struct model *m, const uint8_t *key)
{
	uint32_t h = 2166136261u;

	for (uint32_t i = 0; i < m->width; i++)
		h = (h ^ key[i]) * 16777619u;
	return (h ^ h >> 16) & 65535;
}

static struct item *
model_get(const struct model *m, const uint8_t *key)
{
	for (uint32_t i = m->heads[model_head(m, key)]; i != 0; i = m->items[i - 1].next)
		if (memcmp(m->items[i - 1].key, key, m->width) == 0)
			return &m->items[i - 1];
	return NULL;
}

static void
model_add(struct model *m, const uint8_t *key, uint64_t value)
{
	struct item *it = &m->items[m->n++];
	uint32_t *head = &m->heads[model_head(m, key)];

	memcpy(it->key, key, m->width);
	it->value = value;
	it->next = *head;
	*head = m->n;
}

static uint32_t *
model_link(const struct model *m, uint32_t index)
{
	uint32_t *link = &m->heads[model_head(m, m->items[index].key)];

	while (*link != index + 1)
		link = &m->items[*link - 1].next;
	return link;
}

static void
model_del(struct model *m, struct item *it)
{
	uint32_t index = (uint32_t)(it - m->items), last = m->n - 1;

	*model_link(m, index) = it->next;
	if (index != last) {
		*model_link(m, last) = index + 1;
		m->items[index] = m->items[last];
	}
	m->n--;
}

// --- longest prefix match -------------------------------------------------------------------------

// A prefix as the model's key: sixteen bytes, the bits behind its length 0, and the length.
static void
prefix_key(uint8_t key[17], const uint8_t *address, uint32_t bits, uint32_t length)
{
	memset(key, 0, 17);
	memcpy(key, address, bits / 8);
	for (uint32_t i = length; i < bits; i++)
		key[i / 8] &= (uint8_t)~(0x80 >> i % 8);
	key[16] = (uint8_t)length;
}

static uint64_t
model_lpm(const struct model *m, const uint8_t *address, uint32_t bits)
{
	uint8_t key[17];

	for (int length = (int)bits; length >= 0; length--) {
		prefix_key(key, address, bits, (uint32_t)length);
		const struct item *it = model_get(m, key);
		if (it != NULL)
			return it->value;
	}
	return DPS_TABLE_NONE;
}

// What the table's parts promise each other. Returns the nodes under `line`.
static uint32_t
lpm_walk(const struct dps_lpm *t, uint32_t line, uint32_t owner, uint32_t siblings, bool is_first,
	 uint64_t blocks[DPS_LPM_CLASSES], uint32_t *values)
{
	const struct dps_lpm_node *n = dps_lpm_node_at(t, line);
	uint32_t mine = dps_lpm_count(n->some) + dps_lpm_count(n->full), nodes = 1, i = 0;
	uint32_t children = dps_lpm_count(n->child);

	CHECK(n->depth >= t->root_bits && (n->depth - t->root_bits) % 6 == 0 && n->depth < t->bits);
	CHECK(mine > 0 || children > 1, "a node without use at depth %u", n->depth);
	if (is_first) {
		uint32_t class_ = dps_lpm_class_of(siblings, 1);

		CHECK(*dps_lpm_owner(t, class_, (uint64_t)line * 64) == owner);
		blocks[class_]++;
	}
	*values += mine;
	if (mine > 0) {
		uint32_t class_ = dps_lpm_class_of(mine, 0);

		CHECK(*dps_lpm_owner(t, class_, (uint64_t)n->values * 4) == line);
		blocks[class_]++;
	}
	for (uint32_t six = 0; six < 64; six++) {
		const struct dps_lpm_node *c = dps_lpm_node_at(t, n->children + i);

		if (!(n->child >> six & 1))
			continue;
		CHECK(c->depth > n->depth && dps_lpm_is_under(n, c->high, c->low, 1));
		CHECK(dps_lpm_six(c->high, c->low, n->depth, 1) == six);
		nodes += lpm_walk(t, n->children + i, line, children, i == 0, blocks, values);
		i++;
	}
	return nodes;
}

static void
lpm_sound(const struct dps_lpm *t)
{
	uint64_t blocks[DPS_LPM_CLASSES] = { 0 };
	uint32_t nodes = 0, values = 0, pages = 0;

	for (uint32_t i = 0; i < 1u << t->root_bits; i++) {
		uint32_t line = dps_lpm_root_of(t)[i].node;

		if (line != 0) {
			CHECK(dps_lpm_node_at(t, line)->high >> (64 - t->root_bits) == i);
			nodes += lpm_walk(t, line, i | DPS_LPM_OF_ROOT, 1, true, blocks, &values);
		}
	}
	for (uint32_t i = 1; i < 2u << t->root_bits; i++)
		values += dps_lpm_short(t)[i] != 0;
	for (uint32_t i = 0; i < DPS_LPM_CLASSES; i++)
		pages += (uint32_t)((blocks[i] + t->classes[i].blocks - 1) / t->classes[i].blocks);
	CHECK(nodes == t->nodes, "%u nodes, %u counted", nodes, t->nodes);
	CHECK(values == t->entries, "%u values, %u entries", values, t->entries);
	CHECK(pages == t->pages_used, "%u pages would do for %u: fragments", pages, t->pages_used);
	CHECK(t->pages_used <= t->pages);
}

// The answers of find and look at n addresses are the model's.
static void
lpm_same(const struct dps_lpm *t, const struct model *m, const uint8_t (*addresses)[16], uint32_t n)
{
	const void *keys[256] = { NULL };
	uint64_t found[256];

	for (uint32_t i = 0; i < n; i++)
		keys[i] = addresses[i];
	dps_lpm_look(t, keys, n, found);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t wanted = model_lpm(m, addresses[i], t->bits);

		CHECK(found[i] == wanted, "look %u of %u: %lx, not %lx", i, n, found[i], wanted);
		CHECK(dps_lpm_find(t, addresses[i]) == wanted);
	}
}

// An address near those that were used: so that prefixes overlap, share nodes and split them.
static void
near_address(struct rng *r, const struct model *m, uint32_t bits, uint8_t out[16])
{
	random_bytes(r, out, 16);
	if (m->n > 0 && rnd(r) % 8 != 0) {
		const uint8_t *other = m->items[rnd(r) % m->n].key;
		uint32_t keep = (uint32_t)(rnd(r) % (bits + 1));

		for (uint32_t i = 0; i < keep; i++) {
			uint8_t bit = (uint8_t)(0x80 >> i % 8);

			out[i / 8] = (uint8_t)((out[i / 8] & ~bit) | (other[i / 8] & bit));
		}
	}
}

static void
lpm_random(uint32_t bits, uint64_t seed, uint32_t operations, uint32_t most)
{
	uint64_t bytes = dps_lpm_bytes(bits, most);
	struct dps_lpm *one = block(bytes), *two = block(bytes), *moved;
	struct model m = model_new(most, 17);
	struct rng r = { seed };
	uint32_t full = 0, again = operations / 8 + 1;
	uint8_t address[16], key[17], asked[67][16];

	CHECK(dps_lpm_init(one, bytes, bits, most) == 0 && dps_lpm_init(two, bytes, bits, most) == 0);
	for (uint32_t op = 0; op < operations; op++) {
		// Phases of growth and of decline, so that it is full at times, and empty.
		bool is_growing = op / again % 2 == 0;
		uint32_t length = (uint32_t)(rnd(&r) % (bits + 1)), what = (uint32_t)(rnd(&r) % 16);
		uint32_t value = (uint32_t)rnd(&r);
		int was, wanted;
		struct item *it;

		value = value == UINT32_MAX ? 0 : value;
		near_address(&r, &m, bits, address);
		if (m.n > 0 && (what < 4 || (!is_growing && what < 12))) {
			const struct item *some = &m.items[rnd(&r) % m.n];

			memcpy(address, some->key, bits / 8);
			length = some->key[16];
		}
		prefix_key(key, address, bits, length);
		it = model_get(&m, key);
		CHECK(dps_lpm_get(one, address, length) == (it ? it->value : DPS_TABLE_NONE));
		if (is_growing ? what < 3 : what < 11) {
			was = dps_lpm_del(one, address, length);
			CHECK(was == (it ? 0 : -ENOENT));
			CHECK(dps_lpm_del(two, key, length) == was);
			if (it)
				model_del(&m, it);
		} else {
			wanted = it ? 0 : m.n == most ? -ENOSPC : 1;
			was = dps_lpm_set(one, address, length, value);
			CHECK(was == wanted, "%d, not %d, with %u of %u", was, wanted, m.n, most);
			CHECK(dps_lpm_set(two, key, length, value) == was);
			full += was == -ENOSPC;
			if (it)
				it->value = value;
			else if (was == 1)
				model_add(&m, key, value);
		}
		CHECK(one->entries == m.n);
		if (op % 16 == 0) {
			uint32_t n = (uint32_t)(rnd(&r) % 67);

			for (uint32_t i = 0; i < n; i++)
				near_address(&r, &m, bits, asked[i]);
			lpm_same(one, &m, (const uint8_t(*)[16])asked, n);
		}
		if (op % (operations / 10 + 1) == 0) {
			lpm_sound(one);
			CHECK(memcmp(one, two, bytes) == 0, "the copies differ");
			moved = block(bytes);
			memcpy(moved, one, bytes);
			memset(one, 0xa5, bytes);
			free(one);
			one = moved;
		}
	}
	CHECK(dps_lpm_set(one, address, bits + 1, 1) == -EINVAL);
	CHECK(dps_lpm_set(one, address, bits, UINT32_MAX) == -EINVAL);
	CHECK(dps_lpm_del(one, address, bits + 1) == -ENOENT);
	lpm_sound(one);
	printf("lpm bits %u seed %lu: %u operations, %u entries of %u, refused as full %u\n", bits,
	       seed, operations, m.n, most, full);
	while (m.n > 0) {
		struct item *it = &m.items[rnd(&r) % m.n];

		CHECK(dps_lpm_del(one, it->key, it->key[16]) == 0);
		model_del(&m, it);
	}
	lpm_sound(one);
	CHECK(one->nodes == 0 && one->pages_used == 0, "something is left");
	for (uint32_t i = 0; i < 2; i++) {
		CHECK(dps_lpm_set(one, address, i * bits, 5) == 1);
		CHECK(dps_lpm_find(one, address) == 5);
		dps_lpm_clear(one);
		CHECK(dps_lpm_find(one, address) == DPS_TABLE_NONE && one->entries == 0);
	}
	free(one);
	free(two);
	model_free(&m);
}

// Tables of the shape of the Internet's: their memory, and their answers.
static void
lpm_routes(uint32_t bits, uint64_t seed, uint32_t n)
{
	uint64_t bytes = dps_lpm_bytes(bits, n);
	struct dps_lpm *t = block(bytes);
	struct model m = model_new(n, 17);
	struct route *routes = routes_new(bits, n, seed);
	struct rng r = { seed + 1 };
	uint8_t asked[256][16];
	uint32_t quarter = n / 4;

	CHECK(dps_lpm_init(t, bytes, bits, n) == 0);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t key[17];

		CHECK(dps_lpm_set(t, routes[i].address, routes[i].length, i) == 1);
		prefix_key(key, routes[i].address, bits, routes[i].length);
		model_add(&m, key, i);
	}
	lpm_sound(t);
	printf("routes bits %u: %u in %.1f MiB of %.1f, %u nodes\n", bits, n,
	       (double)dps_lpm_used(t) / 1048576, (double)bytes / 1048576, t->nodes);
	for (uint32_t round = 0; round < 200; round++) {
		for (uint32_t i = 0; i < 256; i++)
			route_address(&r, &routes[rnd(&r) % n], bits, asked[i]);
		lpm_same(t, &m, (const uint8_t(*)[16])asked, 256);
		if (round == 100) { // withdraw a quarter, announce it again with other values
			for (uint32_t i = 0; i < quarter; i++) {
				uint8_t key[17];

				prefix_key(key, routes[i].address, bits, routes[i].length);
				CHECK(dps_lpm_del(t, routes[i].address, routes[i].length) == 0);
				model_del(&m, model_get(&m, key));
			}
			lpm_sound(t);
		}
		if (round == 150) {
			for (uint32_t i = 0; i < quarter; i++) {
				uint8_t key[17];

				prefix_key(key, routes[i].address, bits, routes[i].length);
				CHECK(dps_lpm_set(t, routes[i].address, routes[i].length, i + 7) == 1);
				model_add(&m, key, i + 7);
			}
			lpm_sound(t);
		}
	}
	free(routes);
	free(t);
	model_free(&m);
}

// The i-th of 2^k prefixes of which each pair needs a node, each pair of pairs another one, and so on.
static void
worst_prefix(uint32_t bits, uint32_t root, uint32_t k, uint32_t i, uint8_t out[16])
{
	uint32_t levels = (bits - root + 5) / 6;

	memset(out, 0, 16);
	for (uint32_t j = 0; j < k; j++) {
		// The last bits choose a side at each node, the others the entry of the root.
		uint32_t at = j < levels - 1 ? bits - 1 - (bits - root - 1) % 6 - j * 6 - 1 :
					       root - 1 - (j - (levels - 1));

		if (i >> j & 1)
			out[at / 8] |= (uint8_t)(0x80 >> at % 8);
	}
}

// As many entries as were asked for fit, whatever they are; one more is refused and changes nothing.
static void
lpm_full(uint32_t bits, uint32_t k)
{
	uint32_t most = 1u << k;
	uint64_t bytes = dps_lpm_bytes(bits, most);
	struct dps_lpm *t = block(bytes), *copy = block(bytes);
	uint8_t address[16];

	CHECK(dps_lpm_init(t, bytes, bits, most) == 0);
	for (uint32_t i = 0; i < most; i++) {
		worst_prefix(bits, t->root_bits, k, i, address);
		CHECK(dps_lpm_set(t, address, bits, i) == 1, "%u of %u", i, most);
	}
	lpm_sound(t);
	memcpy(copy, t, bytes);
	memset(address, 0xff, 16);
	for (uint32_t length = 0; length <= bits; length++)
		CHECK(dps_lpm_set(t, address, length, 1) == -ENOSPC);
	CHECK(memcmp(t, copy, bytes) == 0, "refused, and changed");
	printf("full bits %u: %u in %.1f MiB of %.1f, %u nodes\n", bits, most,
	       (double)dps_lpm_used(t) / 1048576, (double)bytes / 1048576, t->nodes);
	for (uint32_t i = 0; i < most; i++) {
		worst_prefix(bits, t->root_bits, k, i, address);
		CHECK(dps_lpm_find(t, address) == i);
		CHECK(dps_lpm_set(t, address, bits, ~i) == 0 || i == 0);
	}
	for (uint32_t i = most; i-- > 0;) {
		worst_prefix(bits, t->root_bits, k, i, address);
		CHECK(dps_lpm_del(t, address, bits) == 0);
	}
	lpm_sound(t);
	CHECK(t->pages_used == 0);
	free(t);
	free(copy);
}

// In less memory: -ENOSPC before `most`, nothing changed by it, and every deletion has room.
static void
lpm_small(uint32_t bits, uint64_t seed)
{
	uint32_t most = 20000;
	uint64_t bytes = dps_lpm_least(bits, most) + 12 * DPS_LPM_PAGE;
	struct dps_lpm *t = block(bytes), *copy = block(bytes);
	struct model m = model_new(most, 17);
	struct rng r = { seed };

	CHECK(dps_lpm_init(t, dps_lpm_least(bits, most) - 1, bits, most) == -ENOSPC);
	CHECK(dps_lpm_init(t, bytes, bits, most) == 0);
	for (uint32_t round = 0; round < 6; round++) {
		uint8_t address[16], key[17];
		int was = 1;

		while (was >= 0) {
			uint32_t length = t->root_bits + 1;

			// Either a few full nodes, or many small ones.
			near_address(&r, &m, bits, address);
			if (round % 2 == 0 && m.n > 8)
				memcpy(address, m.items[rnd(&r) % 8].key, t->root_bits / 8);
			length += (uint32_t)(rnd(&r) % (bits - t->root_bits));
			if (m.n == most - 1)
				break;
			if (t->pages - t->pages_used <= DPS_LPM_RESERVE)
				memcpy(copy, t, bytes);
			was = dps_lpm_set(t, address, length, 9);
			prefix_key(key, address, bits, length);
			if (was == 1)
				model_add(&m, key, 9);
		}
		CHECK(was == -ENOSPC && memcmp(copy, t, bytes) == 0);
		lpm_sound(t);
		for (uint32_t left = m.n / (round + 2); m.n > left;) {
			struct item *it = &m.items[rnd(&r) % m.n];

			CHECK(dps_lpm_del(t, it->key, it->key[16]) == 0);
			model_del(&m, it);
			CHECK(t->pages_used <= t->pages);
		}
		lpm_sound(t);
	}
	printf("small bits %u seed %lu: fine\n", bits, seed);
	free(t);
	free(copy);
	model_free(&m);
}

// --- exact match ----------------------------------------------------------------------------------

// `alike`: all keys have the same hash, so that each search goes through all of them.
static void
exact_random(uint32_t width, uint64_t seed, uint32_t operations, uint32_t most, bool alike)
{
	uint64_t bytes = dps_exact_bytes(width, most);
	struct dps_exact *one = block(bytes), *two = block(bytes), *moved;
	struct model m = model_new(most, width);
	struct rng r = { seed };
	uint32_t full = 0, again = operations / 8 + 1;
	uint64_t seed_of = alike ? 0xa0761d6478bd642full : seed, same = 0;
	const void *keys[67] = { NULL };
	uint64_t found[67];
	uint8_t asked[67][64] = { 0 }, key[64];

	CHECK(dps_exact_init(one, bytes - 1, width, most, seed) == -ENOSPC);
	CHECK(dps_exact_init(one, bytes, width, most, seed_of) == 0);
	CHECK(dps_exact_init(two, bytes, width, most, seed_of) == 0);
	for (uint32_t op = 0; op < operations; op++) {
		bool is_growing = op / again % 2 == 0;
		uint32_t what = (uint32_t)(rnd(&r) % 16);
		uint64_t value = rnd(&r) >> 1;
		struct item *it;
		int was, wanted;

		random_bytes(&r, key, 64);
		if (alike) { // knowing the seed: the second word makes of the hash 0 what the first was
			uint64_t undo = dps_exact_fold(dps_table_load64(key), 0xe7037ed1a0b428dbull);

			memcpy(key + 8, &undo, 8);
			memset(key + 16, 0, 8);
			CHECK(op == 0 || dps_exact_hash(one, key) == same);
			same = dps_exact_hash(one, key);
		}
		if (m.n > 0 && (what < 4 || (!is_growing && what < 12)))
			memcpy(key, m.items[rnd(&r) % m.n].key, width);
		it = model_get(&m, key);
		CHECK(dps_exact_find(one, key) == (it ? it->value : DPS_TABLE_NONE));
		if (is_growing ? what < 3 : what < 11) {
			was = dps_exact_del(one, key);
			CHECK(was == (it ? 0 : -ENOENT));
			CHECK(dps_exact_del(two, key) == was);
			if (it)
				model_del(&m, it);
		} else {
			wanted = it ? 0 : m.n == most ? -ENOSPC : 1;
			was = dps_exact_set(one, key, value);
			CHECK(was == wanted);
			CHECK(dps_exact_set(two, key, value) == was);
			full += was == -ENOSPC;
			if (it)
				it->value = value;
			else if (was == 1)
				model_add(&m, key, value);
		}
		CHECK(one->entries == m.n);
		if (op % 16 == 0) {
			uint32_t n = (uint32_t)(rnd(&r) % 67);

			for (uint32_t i = 0; i < n; i++) {
				random_bytes(&r, asked[i], 64);
				if (m.n > 0 && rnd(&r) % 4 != 0)
					memcpy(asked[i], m.items[rnd(&r) % m.n].key, width);
				if (rnd(&r) % 8 == 0)
					asked[i][rnd(&r) % width] ^= 1;
				keys[i] = asked[i];
			}
			dps_exact_look(one, keys, n, found);
			for (uint32_t i = 0; i < n; i++) {
				const struct item *want = model_get(&m, asked[i]);

				CHECK(found[i] == (want ? want->value : DPS_TABLE_NONE));
				CHECK(dps_exact_find(one, asked[i]) == found[i]);
			}
		}
		if (op % (operations / 10 + 1) == 0) {
			CHECK(memcmp(one, two, bytes) == 0, "the copies differ");
			moved = block(bytes);
			memcpy(moved, one, bytes);
			memset(one, 0xa5, bytes);
			free(one);
			one = moved;
		}
	}
	CHECK(dps_exact_set(one, key, DPS_TABLE_NONE) == -EINVAL);
	printf("exact bytes %u seed %lu: %u operations, %u entries of %u, refused as full %u\n",
	       width, seed, operations, m.n, most, full);
	while (m.n > 0) {
		struct item *it = &m.items[rnd(&r) % m.n];

		CHECK(dps_exact_del(one, it->key) == 0);
		model_del(&m, it);
	}
	CHECK(one->entries == 0);
	for (uint32_t i = 0; i < one->n_buckets; i++) {
		const struct dps_exact_bucket *b = dps_exact_bucket_at(one, i);

		CHECK(b->passed == 0);
		for (uint32_t j = 0; j < DPS_EXACT_SLOTS; j++)
			CHECK(b->tag[j] == 0);
	}
	free(one);
	free(two);
	model_free(&m);
}

// --- array ----------------------------------------------------------------------------------------

static void
array_random(uint32_t record, uint64_t seed, uint32_t operations, uint32_t most)
{
	uint64_t bytes = dps_array_bytes(record, most);
	struct dps_array *t = block(bytes), *moved = block(bytes);
	uint8_t *plain = calloc(most, record), *there = calloc(most, 1), *bytes_of = malloc(record);
	struct rng r = { seed };
	uint32_t entries = 0;

	CHECK(dps_array_init(t, bytes - 1, record, most) == -ENOSPC);
	CHECK(dps_array_init(t, bytes, record, most) == 0);
	CHECK(dps_array_set(t, most, bytes_of) == -ENOSPC && dps_array_del(t, most) == -ENOENT);
	CHECK(dps_array_at(t, most) == NULL && dps_array_at(t, DPS_TABLE_NONE) == NULL);
	for (uint32_t op = 0; op < operations; op++) {
		uint32_t i = (uint32_t)(rnd(&r) % most);
		uint64_t index[40];
		const void *found[40];

		if (rnd(&r) % 3 == 0) {
			CHECK(dps_array_del(t, i) == (there[i] ? 0 : -ENOENT));
			entries -= there[i];
			there[i] = 0;
		} else {
			random_bytes(&r, bytes_of, record);
			CHECK(dps_array_set(t, i, bytes_of) == !there[i]);
			memcpy(plain + (size_t)i * record, bytes_of, record);
			entries += !there[i];
			there[i] = 1;
		}
		CHECK(t->entries == entries);
		for (uint32_t j = 0; j < 40; j++)
			index[j] = rnd(&r) % (most + 3ull);
		dps_array_look(t, index, 40, found);
		for (uint32_t j = 0; j < 40; j++) {
			CHECK((found[j] != NULL) == (index[j] < most && there[index[j]]));
			CHECK(!found[j] || memcmp(found[j], plain + index[j] * record, record) == 0);
		}
		if (op % 1000 == 0) {
			memcpy(moved, t, bytes);
			memset(t, 0xa5, bytes);
			void *was = t;
			t = moved;
			moved = was;
		}
	}
	dps_array_clear(t);
	CHECK(t->entries == 0 && dps_array_at(t, 0) == NULL);
	printf("array bytes %u seed %lu: %u operations\n", record, seed, operations);
	free(t);
	free(moved);
	free(plain);
	free(there);
	free(bytes_of);
}

// --- sizes that do not exist ----------------------------------------------------------------------

static void
refusals(void)
{
	void *memory = block(1 << 20);

	CHECK(dps_lpm_bytes(64, 10) == 0 && dps_lpm_bytes(32, 0) == 0);
	CHECK(dps_lpm_bytes(32, DPS_LPM_MOST + 1) == 0 && dps_lpm_bytes(128, 1) > 0);
	CHECK(dps_lpm_init(memory, 1 << 20, 31, 5) == -EINVAL);
	CHECK(dps_lpm_init((char *)memory + 8, (1 << 20) - 8, 32, 5) == -EINVAL);
	CHECK(dps_exact_bytes(0, 5) == 0 && dps_exact_bytes(65, 5) == 0 && dps_exact_bytes(4, 0) == 0);
	CHECK(dps_exact_init(memory, 1 << 20, 65, 5, 1) == -EINVAL);
	CHECK(dps_array_bytes(0, 5) == 0 && dps_array_bytes(5, 0) == 0);
	CHECK(dps_array_init(memory, 1 << 20, 0, 5) == -EINVAL);
	free(memory);
}

int
main(int argc, char **argv)
{
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	uint32_t n = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 0) : 20000;
	const char *what = argc > 1 ? argv[1] : "all";
	bool is_all = strcmp(what, "all") == 0;

	_Static_assert(sizeof(struct dps_lpm) % 64 == 0 && sizeof(struct dps_lpm_node) == 64, "lines");
	_Static_assert(sizeof(struct dps_lpm_page) == 64, "a line");
	_Static_assert(sizeof(struct dps_exact) == 64 && sizeof(struct dps_exact_bucket) == 64, "lines");
	_Static_assert(sizeof(struct dps_array) == 64, "a line");
	if (is_all || strcmp(what, "lpm") == 0) {
		static const uint32_t sizes[] = { 1, 2, 13, 700, 5000, 40000 };

		for (uint32_t i = 0; i < 6; i++) {
			lpm_random(32, seed + i, n, sizes[i]);
			lpm_random(128, seed + i, n, sizes[i]);
		}
	}
	if (is_all || strcmp(what, "full") == 0) {
		for (uint32_t k = 0; k < 18; k += 3) {
			lpm_full(32, k);
			lpm_full(128, k);
		}
		lpm_small(32, seed);
		lpm_small(128, seed);
	}
	if (is_all || strcmp(what, "routes") == 0) {
		lpm_routes(32, seed, is_all ? 50000 : n);
		lpm_routes(128, seed, is_all ? 50000 : n / 5);
	}
	if (is_all || strcmp(what, "exact") == 0) {
		static const uint32_t widths[] = { 1, 2, 3, 4, 6, 7, 8, 9, 13, 16, 24, 37, 63, 64 };

		for (uint32_t i = 0; i < 14; i++)
			exact_random(widths[i], seed + i, n, 1 + 977 * i, false);
		exact_random(13, seed, n, 1, false);
		exact_random(24, seed, n / 8, 200, true);
	}
	if (is_all || strcmp(what, "array") == 0) {
		static const uint32_t records[] = { 1, 8, 9, 24, 64, 65, 300 };

		for (uint32_t i = 0; i < 7; i++)
			array_random(records[i], seed + i, n / 4, 1 + 130 * i);
	}
	refusals();
	return 0;
}
