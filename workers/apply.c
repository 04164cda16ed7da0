// SPDX-License-Identifier: BSD-3-Clause
//
// Carries out one batch of a table of a plugin's own kind: calls the plugin's table_apply, in a process
// that has nothing else to lose. dpsup/builder/own.py starts it, and refuses the batch when it crashes or
// hangs. Of shared memory it maps one copy of one table, which no worker reads.
//
//   usage: dpsup-apply PARENT PLUGIN FILE OFFSET BYTES TABLE KEY_BYTES VALUE_BYTES ENTRIES [PORT]...
//
// It reads changes: their number (8 bytes), then for each one byte (1 set, 0 removed), the key and the
// value. It says lines: "layout N" once the plugin is loaded; "all" where the plugin asks for all entries,
// which it then reads as changes; in the end "done" or "refused WHY". Without changes it ends after the first.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "confine.h"
#include "dpsup_plugin.h"
#include "object.h"

enum { EXIT_REFUSED = 1, EXIT_BUILDER_GONE = 2 };
enum { WHY = 1024 };

static uint32_t key_bytes, value_bytes;
static int answers;     // descriptor

static void __attribute__((format(printf, 1, 2)))
say(const char *format, ...)
{
	char line[WHY + 32];
	int len, done = 0;
	va_list ap;

	va_start(ap, format);
	len = vsnprintf(line, sizeof(line) - 1, format, ap);
	va_end(ap);
	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	for (int i = 0; i < len; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	line[len++] = '\n';
	while (done < len) {
		ssize_t n = write(answers, line + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(EXIT_BUILDER_GONE);
		done += n;
	}
}

#define refuse(...)                                                                                \
	do {                                                                                       \
		say("refused " __VA_ARGS__);                                                       \
		_exit(EXIT_REFUSED);                                                               \
	} while (0)

// What a plugin calls for packets, so that it can be loaded here. None of it works without one.
#define NO_PACKET(name) refuse("it called " name ", which has no place in table_apply")

uint32_t
dps_hash_of(const struct dps_env *env, const struct dps_tuple *tuple)
{
	(void)env;
	(void)tuple;
	NO_PACKET("dps_hash_of");
}

uint32_t
dps_next_segment(const struct dps_packet *packet, const void **segment, const uint8_t **bytes)
{
	(void)packet;
	(void)segment;
	(void)bytes;
	NO_PACKET("dps_next_segment");
}

void
dps_touch(void *at, uint32_t len)
{
	(void)at;
	(void)len;
	NO_PACKET("dps_touch");
}

uint8_t *
dps_emit(uint16_t verdict, uint32_t len)
{
	(void)verdict;
	(void)len;
	NO_PACKET("dps_emit");
}

int
dps_tell(const struct dps_env *env, const struct dps_live_table *table, const void *key, uint64_t value)
{
	(void)env;
	(void)table;
	(void)key;
	(void)value;
	NO_PACKET("dps_tell");
}

uint64_t
dps_table_find(const struct dps_live_table *table, const void *key)
{
	(void)table;
	(void)key;
	NO_PACKET("dps_table_find");
}

const void *
dps_table_record(const struct dps_live_table *table, uint64_t index)
{
	(void)table;
	(void)index;
	NO_PACKET("dps_table_record");
}

// 1: all of it; 0: the other side sends nothing more.
static int
read_all(void *to, size_t len)
{
	char *at = to;

	while (len > 0) {
		ssize_t n = read(STDIN_FILENO, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		at += n;
		len -= n;
	}
	return 1;
}

// NULL: none are sent.
static struct dps_table_change *
read_changes(uint64_t *n)
{
	size_t stride = 1 + key_bytes + value_bytes;
	struct dps_table_change *changes;
	uint8_t *bytes;

	if (!read_all(n, sizeof(*n)))
		return NULL;
	changes = calloc(*n + 1, sizeof(*changes));
	bytes = malloc(*n * stride + 1);
	if (changes == NULL || bytes == NULL)
		refuse("there is no memory for %llu changes", (unsigned long long)*n);
	if (!read_all(bytes, *n * stride))
		return NULL;
	for (uint64_t i = 0; i < *n; i++, bytes += stride) {
		changes[i].key = bytes + 1;
		changes[i].value = bytes[0] ? bytes + 1 + key_bytes : NULL;
	}
	return changes;
}

static const struct dps_table_change *
all_entries(uint64_t *n)
{
	static const struct dps_table_change *known;
	static uint64_t n_known;

	if (known == NULL) {
		say("all");
		known = read_changes(&n_known);
		if (known == NULL)
			_exit(EXIT_BUILDER_GONE);
	}
	*n = n_known;
	return known;
}

static const struct dps_plugin *
load(const char *path)
{
	void *object = object_open(path);
	const struct dps_plugin *p;

	if (object == NULL)
		refuse("it cannot be loaded: %s", dlerror());
	p = dlsym(object, "dps_plugin");
	if (p == NULL || p->abi != DPS_PLUGIN_ABI)
		refuse("it is no plugin of ABI %u", DPS_PLUGIN_ABI);
	if (p->size < offsetof(struct dps_plugin, table_apply) + sizeof(p->table_apply) ||
	    p->table_apply == NULL)
		refuse("it has no table_apply");
	return p;
}

static void *
map(const char *path, uint64_t offset, uint64_t bytes)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	void *at = fd < 0 ? MAP_FAILED :
			    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	if (at == MAP_FAILED)
		refuse("the table cannot be mapped: %s", strerror(errno));
	close(fd);
	return at;
}

int
main(int argc, char **argv)
{
	char why[WHY] = "";
	const struct dps_plugin *p;
	struct dps_table_work work;

	if (argc < 10)
		return EXIT_BUILDER_GONE;
	// It must not write where the next builder does.
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != atoi(argv[1]))
		return EXIT_BUILDER_GONE;
	confine_rights(0, true);
	// What the plugin prints is for the log.
	answers = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (answers < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return EXIT_BUILDER_GONE;
	key_bytes = strtoul(argv[7], NULL, 10);
	value_bytes = strtoul(argv[8], NULL, 10);
	work = (struct dps_table_work){
		.table = argv[6],
		.bytes = strtoull(argv[5], NULL, 10),
		.entries = strtoull(argv[9], NULL, 10),
		.key_bytes = key_bytes,
		.value_bytes = value_bytes,
		.all = all_entries,
		.error = why,
		.error_len = sizeof(why),
		.n_ports = (uint32_t)argc - 10,
		.port_names = (const char *const *)argv + 10,
	};
	p = load(argv[2]);
	say("layout %u", p->table_layout);
	work.changes = read_changes(&work.n);
	if (work.changes == NULL)
		return 0;
	work.at = map(argv[3], strtoull(argv[4], NULL, 10), work.bytes);
	if (p->table_apply(&work) != 0) {
		why[sizeof(why) - 1] = '\0';
		refuse("%s", why[0] != '\0' ? why : "it gave no reason");
	}
	fflush(NULL);
	say("done");
	_exit(0);
}
