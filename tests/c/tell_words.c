// SPDX-License-Identifier: BSD-3-Clause
//
// Workers of one place, one after the other, told words that end them: each text ends two, and one that is
// left to them gets to its packets. Then one that writes over its ring's reader. ARGV: how many texts.

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "../../workers/builder.c"
#include "../../workers/tables.c"

enum { SLOT = 3, DIED = 9, AREA = 1 << 20, RECORDS = 64 << 10 };

static void
control(void *state, const char *text, uint32_t len)
{
	(void)state;
	(void)len;
	if (text[0] == 'x')
		_exit(DIED);
}

static const struct dps_plugin plugin = { DPS_PLUGIN_HEAD, .name = "x", .control = control };

static void *
memory(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		exit(2);
	return at;
}

// Ends with DIED, or with 0.
static int
worker(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		tables_seat(SLOT, &plugin, NULL);
		tables_control();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

static int
tell_all(uint64_t from, uint64_t n, uint64_t taken[DPS_MAX_SLOTS])
{
	static struct dps_told some[DPS_MAX_SLOTS * 32];
	struct dps_env env = { .now = 1000 };
	int told = 0;

	for (uint64_t i = from; i < from + n; i++, env.now++) {
		uint8_t key[6] = { 0 };

		memcpy(key, &i, 4);
		told += dps_tell(&env, table, key, i) == 1;
		builder_told(tells, DPS_MAX_SLOTS, taken, 32, some);
	}
	return told;
}

int
main(int argc, char **argv)
{
	static uint64_t taken[DPS_MAX_SLOTS];
	int texts = argc > 1 ? atoi(argv[1]) : 1, deaths = 0;
	struct dps_tables *head = memory(AREA);
	uint64_t bytes = dps_array_bytes(sizeof(struct dps_tell_record), DPS_TELLS);

	readers = memory(DPS_MAX_SLOTS * sizeof(*readers));
	tells = memory(DPS_MAX_SLOTS * sizeof(*tells));
	head->holds = 1 << DPS_TABLES_SEQ;
	head->table[0].at[0] = head->table[0].at[1] = RECORDS;
	head->table[0].version[0] = head->table[0].version[1] = 1;
	shared = head;
	n_tables = 1;
	table[0] = (struct dps_live_table){ .kind = DPS_TABLE_ARRAY };
	words = &table[0];
	if (dps_array_init((char *)head + (RECORDS), bytes, sizeof(struct dps_tell_record), DPS_TELLS) != 0)
		return 2;
	for (int i = 0; i < texts; i++) {
		struct dps_tell_record one = { .number = i + 1, .text = "x" };

		if (dps_array_set((void *)((char *)head + RECORDS), i, &one) < 0)
			return 2;
	}
	while (worker() == DIED)
		if (++deaths > 2 * texts)
			return 3;

	tables_seat(SLOT, &plugin, NULL);
	table[0] = (struct dps_live_table){ .kind = DPS_TABLE_EXACT, .key_bytes = 6, .learns = 1 };
	if (tell_all(0, 500, taken) != 500)
		return 4;
	my_tells->taken = 0;
	if (tell_all(500, 1000, taken) < 900)
		return 5;
	printf("%d\n", deaths);
	return 0;
}
