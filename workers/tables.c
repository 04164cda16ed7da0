// SPDX-License-Identifier: BSD-3-Clause
//
// Live tables, as a worker sees them. abi.h says how the two copies and the readers' lines work.
//
// A worker says what it will work with, and only then looks whether that still holds: the builder says
// first what holds, and only then looks at what workers say. Each does so with a full barrier between,
// so one of the two sees the other. A kill may come anywhere: a line that is left belongs to a process
// that does not live, and the builder asks the kernel about that.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tables.h"

static const uint64_t none;
const uint64_t *tables_holds = &none;
uint64_t tables_seen;

static const struct dps_tables *shared;
static struct dps_table_reader *readers, *mine;
static struct dps_live_table table[DPS_TABLES];
static char name[DPS_TABLES][DPS_NAME];
static uint32_t n_tables;

static int __attribute__((format(printf, 3, 4)))
refuse(char *why, size_t len, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(why, len, format, ap);
	va_end(ap);
	return -1;
}

static void *
map(const char *path, int flags, int protection, uint64_t least, uint64_t *len)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
	void *at = MAP_FAILED;
	struct stat st;

	if (fd < 0)
		return MAP_FAILED;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		*len = st.st_size;
		errno = EINVAL;
		if (*len >= least)
			at = mmap(NULL, *len, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
	}
	close(fd);
	return at;
}

int
tables_map(const char *path, char *why, size_t len)
{
	char other[DPS_PATH + 16];
	uint64_t bytes = 0, other_bytes = 0;
	const struct dps_tables *t = map(path, O_RDONLY, PROT_READ, sizeof(*t), &bytes);

	if (t == MAP_FAILED)
		return refuse(why, len, "cannot map its tables, %s: %s", path, strerror(errno));
	if (dps_load32(&t->magic) != DPS_TABLES_MAGIC || t->abi_version != DPS_ABI_VERSION ||
	    t->bytes != bytes || t->n_tables > DPS_TABLES)
		return refuse(why, len, "%s holds no tables of this dpsup", path);
	snprintf(other, sizeof(other), "%s:readers", path);
	readers = map(other, O_RDWR, PROT_READ | PROT_WRITE, DPS_MAX_SLOTS * sizeof(*readers),
		      &other_bytes);
	if (readers == MAP_FAILED)
		return refuse(why, len, "cannot map %s: %s", other, strerror(errno));
	for (uint32_t i = 0; i < t->n_tables; i++) {
		const struct dps_table_place *place = &t->table[i];

		if (place->at[0] > bytes || place->at[1] > bytes ||
		    place->bytes > bytes - place->at[0] || place->bytes > bytes - place->at[1])
			return refuse(why, len, "%s: a table lies outside of it", path);
		memcpy(name[i], place->name, DPS_NAME - 1);
		table[i] = (struct dps_live_table){
			.name = name[i],
			.kind = place->kind,
			.key_bytes = place->key_bytes,
			.value_bytes = place->value_bytes,
			.entries = place->entries,
		};
	}
	n_tables = t->n_tables;
	shared = t;
	return 0;
}

const struct dps_live_table *
tables_all(uint32_t *n)
{
	*n = n_tables;
	return table;
}

// Field 22 of /proc/self/stat.
static uint64_t
own_start(void)
{
	char text[1024], *at;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	at = strrchr(text, ')');
	if (at != NULL)
		at++;
	for (int field = 3; field < 22 && at != NULL; field++)
		at = strchr(at + 1, ' ');
	return at != NULL ? strtoull(at, NULL, 10) : 0;
}

void
tables_seat(uint32_t slot)
{
	uint64_t start;

	if (shared == NULL)
		return;
	start = own_start();
	mine = &readers[slot % DPS_MAX_SLOTS];
	// What a dead one says of itself must not become this process's.
	__atomic_store_n(&mine->seen, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&mine->start, start, __ATOMIC_SEQ_CST);
	__atomic_store_n(&mine->pid, getpid(), __ATOMIC_SEQ_CST);
	tables_holds = &shared->holds;
	tables_enter();
}

void
tables_enter(void)
{
	uint64_t holds, now;

	if (mine == NULL)
		return;
	now = __atomic_load_n(&shared->holds, __ATOMIC_SEQ_CST);
	do {
		holds = now;
		__atomic_store_n(&mine->seen, holds, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		now = __atomic_load_n(&shared->holds, __ATOMIC_SEQ_CST);
	} while (now != holds);
	for (uint32_t i = 0; i < n_tables; i++) {
		uint32_t copy = holds >> i & 1;

		table[i].at = (const char *)shared + shared->table[i].at[copy];
		table[i].version = shared->table[i].version[copy];
	}
	tables_seen = holds;
}

void
tables_leave(void)
{
	if (mine == NULL)
		return;
	__atomic_store_n(&mine->seen, 0, __ATOMIC_RELEASE);
	tables_seen = 0;        // which holds never is: the next turn enters again
}
