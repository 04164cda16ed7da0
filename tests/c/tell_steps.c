// SPDX-License-Identifier: BSD-3-Clause
//
// A worker that tells the builder three times, stopped after each of its instructions: what the builder
// would find then is some whole messages, as if the worker had been killed there. ARGV: the tables' file.

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tables.h"

enum { MESSAGES = 3 };

static void
key_of(int i, uint8_t *key)
{
	memset(key, i + 1, 6);
}

static void
tell(const char *path)
{
	struct dps_plugin plugin = { DPS_PLUGIN_HEAD, .name = "tells" };
	struct dps_env env = { .now = 1000 };
	char why[256];

	if (tables_map(path, why, sizeof(why)) != 0) {
		fprintf(stderr, "%s\n", why);
		_exit(3);
	}
	env.tables = tables_all(&env.n_tables);
	tables_seat(5, &plugin, NULL);
	if (env.n_tables != 1 || !env.tables[0].learns)
		_exit(4);
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	for (int i = 0; i < MESSAGES; i++) {
		uint8_t key[6];

		key_of(i, key);
		// The second time it is not told again.
		if (dps_tell(&env, env.tables, key, i) != 1 || dps_tell(&env, env.tables, key, i) != 1)
			_exit(5);
	}
	_exit(0);
}

int
main(int argc, char **argv)
{
	uint64_t before = 0, steps = 0;
	const struct dps_tells *t;
	char path[4096];
	int status, fd;
	pid_t pid;

	snprintf(path, sizeof(path), "%s:told", argv[argc - 1]);
	fd = open(path, O_RDONLY);
	t = mmap(NULL, DPS_MAX_SLOTS * sizeof(*t), PROT_READ, MAP_SHARED, fd, 0);
	if (fd < 0 || t == MAP_FAILED)
		return 6;
	t += 5;
	pid = fork();
	if (pid == 0)
		tell(argv[argc - 1]);
	waitpid(pid, &status, 0);
	while (WIFSTOPPED(status)) {
		uint64_t sent = *(volatile const uint64_t *)&t->sent;

		if (sent != before && sent != before + 1)
			return 7;
		before = sent;
		for (uint64_t i = 0; i < sent; i++) {
			uint8_t key[6];

			key_of((int)i, key);
			if (t->told[i].table != 0 || memcmp(t->told[i].key, key, 6) != 0 ||
			    t->told[i].value != i)
				return 8;
		}
		steps++;
		ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
		waitpid(pid, &status, 0);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || before != MESSAGES)
		return WIFEXITED(status) ? 100 + WEXITSTATUS(status) : 9;
	printf("%lu\n", (unsigned long)steps);
	return 0;
}
