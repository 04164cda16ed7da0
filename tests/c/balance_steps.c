/* SPDX-License-Identifier: BSD-3-Clause */
/* The function `balance` without dpsup: its table changes between packets. test_balance.py runs it, under ASan. */
#include <assert.h>

#include "balance.c"

static uint32_t touches;

void
dps_touch(void *at, uint32_t len)
{
	(void)at;
	assert(len <= DPS_PLUGIN_TOUCH_BYTES && ++touches <= DPS_PLUGIN_TOUCHES_MOST);
}

uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *tuple)
{
	(void)e;
	return ntohs(tuple->from_port);
}

uint8_t *
dps_emit(uint16_t verdict, uint32_t len)
{
	(void)verdict;
	(void)len;
	return NULL;
}

enum { BACKENDS = 10 };
static struct places places;
static struct counts state;
static uint8_t down_memory[16384] __attribute__((aligned(64)));
static struct bucket bucket;
static uint8_t keys[BACKENDS][8], values[BACKENDS][8];
static struct dps_table_change all[BACKENDS];
static uint64_t n_all, values_at[DPS_PLUGIN_COUNTERS];
static char error[200];

static const struct dps_table_change *
give(uint64_t *n)
{
	*n = n_all;
	return all;
}

/* A weight below 0: the backend is not in the table. */
static int
set(const int *weights)
{
	struct dps_table_work work = { .at = &places, .bytes = sizeof(places), .entries = 1000, .key_bytes = 8,
				       .value_bytes = 8, .all = give, .error = error, .error_len = sizeof(error) };

	n_all = 0;
	for (int i = 0; i < BACKENDS; i++) {
		uint16_t weight = (uint16_t)weights[i];

		memcpy(keys[i], (char[]){ 'b', (char)('0' + i), 0 }, 3);
		memcpy(values[i], (uint8_t[]){ 2, 0, 0, 0, 0, (uint8_t)(i + 1) }, 6);
		memcpy(values[i] + 6, &weight, 2);
		if (weights[i] >= 0)
			all[n_all++] = (struct dps_table_change){ keys[i], values[i] };
	}
	return apply(&work);
}

/* Of a connection from this port, with these flags; -1: it has no backend. In exactly as many bytes as it has, so that
 * ASan sees what is read beyond. */
static int
send_len(uint32_t port, uint8_t flags, uint32_t len)
{
	uint8_t *frame = (uint8_t *)malloc(len), whole[54] = { 0 };
	struct dps_packet p = { .data = frame, .len = len, .total = len, .hash = port, .bucket_state = &bucket };
	int to = -1;

	be16_put(whole + 12, 0x0800);
	whole[14] = 0x45;
	be16_put(whole + 16, 40);
	whole[23] = 6;
	memcpy(whole + 26, (uint8_t[]){ 198, 51, 100, 1, 192, 0, 2, 10 }, 8);
	be16_put(whole + 34, port);
	be16_put(whole + 36, 80);
	whole[46] = 0x50;
	whole[47] = flags;
	memcpy(frame, whole, len);
	touches = 0;
	if (packet(NULL, &p) == dps_out(0))
		to = frame[5] - 1;
	free(frame);
	return to;
}

static int
send_one(uint32_t port, uint8_t flags)
{
	return send_len(port, flags, 54);
}

/* An ICMP error about what the backend sent to this port: to which backend it goes, after the way to its bucket. */
static int
send_error(uint32_t port, uint32_t len)
{
	uint8_t *frame = (uint8_t *)malloc(len), whole[70] = { 0 };
	struct dps_packet p = { .data = frame, .len = len, .total = len, .hash = port + 1,
				.bucket_state = &bucket };
	int to = -1;

	be16_put(whole + 12, 0x0800);
	whole[14] = whole[42] = 0x45;
	be16_put(whole + 16, 56);
	whole[23] = 1;
	memcpy(whole + 26, (uint8_t[]){ 203, 0, 113, 9, 192, 0, 2, 10, 3, 4 }, 10);
	whole[51] = 6;
	memcpy(whole + 54, (uint8_t[]){ 192, 0, 2, 10, 198, 51, 100, 1 }, 8);
	be16_put(whole + 62, 80);
	be16_put(whole + 64, port);
	memcpy(frame, whole, len);
	touches = 0;
	if (packet(NULL, &p) == dps_on_hash(0, port)) {
		p.hash = port;
		to = packet(NULL, &p) == dps_out(0) ? frame[5] - 1 : -2;
	}
	free(frame);
	return to;
}

/* Of a backend by its number. */
static const struct backend_count *
count_of(int i)
{
	char name[BACKEND_NAME] = { 'b', (char)('0' + i), 0 };

	for (uint32_t k = 0; k < COUNTED; k++)
		if (memcmp(state.of[k].name, name, sizeof(name)) == 0)
			return &state.of[k];
	abort();
}

/* In the table `down`; no word: it is not there; -1: nothing is. */
static void
mark(struct dps_live_table *tables, int i, const char *word)
{
	char name[BACKEND_NAME] = { 'b', (char)('0' + i), 0 };
	uint64_t value = 0;

	if (i < 0)
		dps_exact_clear((struct dps_exact *)down_memory);
	else if (word == NULL)
		dps_exact_del((struct dps_exact *)down_memory, name);
	else
		dps_exact_set((struct dps_exact *)down_memory, name, *(uint64_t *)memcpy(&value, word, strlen(word)));
	tables[1].version++;
}

int
main(void)
{
	static const char *const keys_of[] = { "vips", "port" }, *const values_of[] = {
		"192.0.2.10:80/tcp, [2001:db8::10]:443/udp", "lan" };
	static const char *const names[] = { "lan" };
	static struct dps_port_facts facts;
	static struct dps_live_table tables[2] = {
		{ .name = "backends", .kind = DPS_TABLE_OWN, .value_bytes = 8, .at = &places },
		{ .name = "down", .kind = DPS_TABLE_EXACT, .key_bytes = 8, .at = down_memory },
	};
	static const uint16_t next[] = { 0x1005 };
	static struct dps_env e = { .n_args = 2, .arg_keys = keys_of, .arg_values = values_of, .n_ports = 1,
				    .port_names = names, .counters = values_at, .error = error,
				    .error_len = sizeof(error), .next = next, .ports = &facts, .n_tables = 2,
				    .tables = tables, .state = &state, .now = 1000000000000ull };
	enum { FLOWS = 500, SYN = 2, ACK = 16, FIN = 17 };
	int first[FLOWS], per[BACKENDS] = { 0 }, moved = 0, again, stays = 0, error_to;
	int weights[BACKENDS] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };

	assert(dps_exact_init(down_memory, sizeof(down_memory), 8, BACKENDS, 1) == 0);
	assert(init(&e, NULL) == 0 && set(weights) == 0);
	for (int i = 0; i < FLOWS; i++)
		per[first[i] = send_one(1000 + (uint32_t)i, SYN)]++;
	for (int i = 0; i < BACKENDS; i++)
		assert(per[i] > 20 && per[i] < 90);
	assert(values_at[NEW] == FLOWS && values_at[FULL] == 0);

	/* Each backend's counters say the same. */
	for (int i = 0; i < BACKENDS; i++)
		assert(count_of(i)->flows == (uint64_t)per[i] && count_of(i)->packets == (uint64_t)per[i] &&
		       count_of(i)->bytes == 40u * (uint64_t)per[i]);

	/* What is down gets no new connection, and keeps those that it has; what has gone keeps none. */
	mark(tables, 2, "down");
	for (int i = 0; i < FLOWS; i++)
		assert(send_one(1000 + (uint32_t)i, ACK) == first[i]);
	for (int i = 0; i < 200; i++)
		assert(send_one(20000 + (uint32_t)i, SYN) != 2);
	mark(tables, 2, "gone");
	for (int i = 0; i < FLOWS; i++) {
		again = send_one(1000 + (uint32_t)i, ACK);
		assert(again != 2 && (again == first[i] || first[i] == 2));
		first[i] = again;
		error_to = send_error(1000 + (uint32_t)i, 70);
		assert(error_to == again);
	}
	assert(values_at[MOVED] == (uint64_t)per[2]);
	memset(per, 0, sizeof(per));
	for (int i = 0; i < FLOWS; i++)
		per[first[i]]++;
	values_at[MOVED] = 0;
	/* All are down: the marks hold for none. */
	for (int i = 0; i < BACKENDS; i++)
		mark(tables, i, "down");
	assert(send_one(30000, SYN) >= 0);
	for (int i = 0; i < BACKENDS; i++)
		mark(tables, i, i == 5 ? NULL : "down");
	for (int i = 0; i < 200; i++)
		assert(send_one(31000 + (uint32_t)i, SYN) == 5);
	mark(tables, -1, NULL);

	/* Another weight for all but one: established connections stay where they are, new ones go by the table. */
	for (int i = 0; i < BACKENDS; i++)
		weights[i] = i == 3 ? 1 : 0;
	assert(set(weights) == 0);
	for (int i = 0; i < FLOWS; i++)
		assert(send_one(1000 + (uint32_t)i, ACK) == first[i] &&
		       send_error(1000 + (uint32_t)i, 70) == first[i]);
	for (uint32_t len = 1; len < 70; len++)
		assert(send_error(1000, len) == -1);
	for (int i = 0; i < 100; i++)
		assert(send_one(5000 + (uint32_t)i, SYN) == 3);
	assert(values_at[MOVED] == 0);

	/* One goes: its connections, and no others, are moved. */
	for (int i = 0; i < BACKENDS; i++)
		weights[i] = i == 7 ? -1 : 1;
	assert(set(weights) == 0);
	for (int i = 0; i < FLOWS; i++) {
		again = send_one(1000 + (uint32_t)i, ACK);
		moved += again != first[i];
		assert(again != 7 && (again == first[i] || first[i] == 7));
	}
	assert(moved == per[7] && values_at[MOVED] == (uint64_t)moved);

	/* What is closed is forgotten, what is open stays, whatever the table says meanwhile. */
	for (int i = 0; i < FLOWS; i++)
		first[i] = send_one(1000 + (uint32_t)i, i % 2 ? FIN : ACK);
	e.now += 90000000000ull;
	bucket_tick(NULL, 0, &bucket);
	for (int i = 0; i < SETS * WAYS; i++)
		stays += bucket.flows[i / WAYS][i % WAYS].to != 0;
	assert(stays == FLOWS / 2);

	/* None has a weight: open connections go on. */
	for (int i = 0; i < BACKENDS; i++)
		weights[i] = 0;
	assert(set(weights) == 0 && send_one(1000, ACK) == first[0] && send_one(9000, SYN) == -1);

	/* More connections than there is room for: the table alone, counted. */
	for (int i = 0; i < BACKENDS; i++)
		weights[i] = 1;
	assert(set(weights) == 0);
	for (uint32_t i = 0; i < 3 * SETS * WAYS; i++)
		assert((again = send_one(10000 + i, SYN)) >= 0 && again == send_one(10000 + i, ACK));
	assert(values_at[FULL] > SETS * WAYS);

	for (uint32_t len = 1; len < 54; len++)
		assert(send_len(1000, ACK, len) == -1);

	memset(values[0], 0, 6);
	memcpy(values[1], values[2], 6);
	n_all = 3;
	struct dps_table_work work = { .at = &places, .bytes = sizeof(places), .entries = 1000, .key_bytes = 8,
				       .value_bytes = 8, .all = give, .error = error, .error_len = sizeof(error) };
	assert(apply(&work) != 0 && strstr(error, "b0") != NULL);
	all[0] = all[2];
	assert(apply(&work) != 0 && strstr(error, "another backend") != NULL);
	puts("ok");
	return 0;
}
