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

#include "dpsup_table_array.h"
#include "dpsup_table_exact.h"
#include "dpsup_table_lpm.h"
#include "tables.h"

enum { LATELY = 4096 };         // messages that are remembered

_Static_assert(sizeof(((struct dps_told *)0)->key) >= 64, "any key of an exact match");

static const uint64_t none;
const uint64_t *tables_holds = &none;
uint64_t tables_seen;

static const struct dps_tables *shared;
static struct dps_table_reader *readers, *mine;
static struct dps_live_table table[DPS_TABLES];
static char name[DPS_TABLES][DPS_NAME];
static uint32_t n_tables;

// What was told lately, and until when it is not told again. By its hash: of two that share a place each
// makes the other one be told again.
static struct {
	uint64_t hash;
	uint64_t until;
} lately[LATELY];
static uint64_t again_ns[DPS_TABLES];
static struct dps_tells *tells, *my_tells;
static const struct dps_live_table *words;      // of an operator, NULL: none are meant for the group
static uint64_t words_version, words_done;
static uint64_t started;         // of this process, clock ticks since boot
static const struct dps_plugin *the_plugin;
static void *the_state;

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
	// To be read, until it is known which slot's are this process's to write: tables_seat.
	readers = map(other, O_RDWR, PROT_READ, DPS_MAX_SLOTS * sizeof(*readers),
		      &other_bytes);
	if (readers == MAP_FAILED)
		return refuse(why, len, "cannot map %s: %s", other, strerror(errno));
	snprintf(other, sizeof(other), "%s:told", path);
	tells = map(other, O_RDWR, PROT_READ, DPS_MAX_SLOTS * sizeof(*tells), &other_bytes);
	if (tells == MAP_FAILED && errno != ENOENT)
		return refuse(why, len, "cannot map %s: %s", other, strerror(errno));
	if (tells == MAP_FAILED)
		tells = NULL;
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
			.learns = tells != NULL && place->use & DPS_TABLE_LEARNS,
		};
		again_ns[i] = place->again_ns;
		if (place->use & DPS_TABLE_CONTROL &&
		    place->value_bytes == sizeof(struct dps_tell_record))
			words = &table[i];
	}
	n_tables = t->n_tables;
	// Once it has its seat, it can open no file any more: confine.h.
	started = own_start();
	shared = t;
	return 0;
}

int
tables_check(const struct dps_plugin *plugin, char *why, size_t len)
{
	for (uint32_t i = 0; i < n_tables; i++) {
		uint32_t layout = shared->table[i].layout;

		if (table[i].kind != DPS_TABLE_OWN)
			continue;
		if (plugin->table_apply == NULL)
			return refuse(why, len, "its table %s is of the kind \"own\", and it has no "
				      "table_apply", name[i]);
		if (plugin->table_layout != layout)
			return refuse(why, len, "its table_layout is %u, and table %s is laid out as "
				      "%u until the next start", plugin->table_layout, name[i],
				      layout);
	}
	return 0;
}

const struct dps_live_table *
tables_all(uint32_t *n)
{
	*n = n_tables;
	return table;
}

// Words in which two workers of the slot have ended are left out by those that follow.
static void
blame(void)
{
	uint64_t number = mine->control, low;

	if (number == 0)
		return;
	// A kill here makes it one death fewer, never one more.
	dps_store64(&mine->control, 0);
	if (mine->blamed != number) {
		dps_store64(&mine->blamed, number);
		return;
	}
	low = number;
	for (uint32_t i = 0; i < DPS_TELLS_BAD - 1; i++)
		if (mine->bad[i] < low) {
			uint64_t lower = mine->bad[i];

			dps_store64(&mine->bad[i], low);
			low = lower;
		}
	if (low > mine->bad[DPS_TELLS_BAD - 1])
		dps_store64(&mine->bad[DPS_TELLS_BAD - 1], low);
	fprintf(stderr, "words %llu of `dpsup tell` are left out: two workers of this place ended in control()\n",
		(unsigned long long)number);
}

// Whole pages of the slot's.
static void
own(void *at, size_t len)
{
	if (mprotect(at, len, PROT_READ | PROT_WRITE) != 0)
		_exit(DPS_EXIT_TEMPORARY);
}

void
tables_seat(uint32_t slot, const struct dps_plugin *plugin, void *state)
{
	if (shared == NULL)
		return;
	mine = &readers[slot % DPS_MAX_SLOTS];
	own(mine, sizeof(*mine));
	if (tells != NULL) {
		my_tells = &tells[slot % DPS_MAX_SLOTS];
		own(my_tells, sizeof(*my_tells));
	}
	the_plugin = plugin;
	the_state = state;
	// What a dead one says of itself must not become this process's.
	__atomic_store_n(&mine->seen, 0, __ATOMIC_SEQ_CST);
	blame();
	dps_store32(&mine->controls, plugin->control != NULL);
	__atomic_store_n(&mine->start, started, __ATOMIC_SEQ_CST);
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

// --- an operator's words --------------------------------------------------------------------------

static bool
is_bad(uint64_t number)
{
	for (uint32_t i = 0; i < DPS_TELLS_BAD - 1; i++)
		if (mine->bad[i] == number)
			return true;
	return number <= mine->bad[DPS_TELLS_BAD - 1];
}

// The one with the lowest number above that, NULL: there is none.
static const struct dps_tell_record *
next_words(uint64_t above)
{
	const struct dps_array *t = (const struct dps_array *)words->at;
	const struct dps_tell_record *found = NULL;

	for (uint32_t i = 0; i < DPS_TELLS; i++) {
		const struct dps_tell_record *one = dps_array_at(t, i);

		if (one != NULL && one->number > above &&
		    (found == NULL || one->number < found->number))
			found = one;
	}
	return found;
}

void
tables_control(void)
{
	const struct dps_tell_record *one;

	if (words == NULL || mine == NULL || the_plugin->control == NULL ||
	    words->version == words_version)
		return;
	words_version = words->version;
	while ((one = next_words(words_done)) != NULL) {
		words_done = one->number;
		if (is_bad(one->number))
			continue;
		dps_store64(&mine->control, one->number);
		dps_order();
		the_plugin->control(the_state, one->text, strnlen(one->text, DPS_TELL_TEXT));
		dps_order();
		dps_store64(&mine->control, 0);
	}
}

// --- lookups by a call ----------------------------------------------------------------------------

uint64_t
dps_table_find(const struct dps_live_table *t, const void *key)
{
	if (t->at != NULL && t->kind == DPS_TABLE_EXACT)
		return dps_exact_find((const struct dps_exact *)t->at, key);
	if (t->at != NULL && (t->kind == DPS_TABLE_IPV4 || t->kind == DPS_TABLE_IPV6))
		return dps_lpm_find((const struct dps_lpm *)t->at, key);
	return DPS_TABLE_NONE;
}

const void *
dps_table_record(const struct dps_live_table *t, uint64_t index)
{
	if (t->at == NULL || t->kind != DPS_TABLE_ARRAY)
		return NULL;
	return dps_array_at((const struct dps_array *)t->at, index);
}

// --- what is learned ------------------------------------------------------------------------------

static uint64_t
hash_of(uint32_t index, const uint8_t *key, uint32_t len, uint64_t value)
{
	uint64_t hash = (value ^ (uint64_t)(index + 1) << 56) * 0x9e3779b97f4a7c15u;

	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t part = 0;

		memcpy(&part, key + i, len - i < 8 ? len - i : 8);
		hash = (hash ^ hash >> 32 ^ part) * 0x9e3779b97f4a7c15u;
	}
	hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u;
	return hash ^ hash >> 32;
}

int
dps_tell(const struct dps_env *env, const struct dps_live_table *t, const void *key, uint64_t value)
{
	uint32_t index = t - table, len, at;
	uint64_t sent, hash;

	if (my_tells == NULL || index >= n_tables || !t->learns)
		return -1;
	len = t->kind == DPS_TABLE_EXACT ? t->key_bytes : t->kind == DPS_TABLE_IPV4 ? 4 : 16;
	hash = hash_of(index, key, len, value);
	at = hash % LATELY;
	if (lately[at].hash == hash && env->now < lately[at].until)
		return 1;
	sent = my_tells->sent;
	if (sent - dps_load64(&my_tells->taken) >= DPS_TOLD) {
		dps_store64(&my_tells->lost[index], my_tells->lost[index] + 1);
		return 0;
	}
	my_tells->told[sent % DPS_TOLD].table = index;
	memcpy(my_tells->told[sent % DPS_TOLD].key, key, len);
	my_tells->told[sent % DPS_TOLD].value = value;
	__atomic_store_n(&my_tells->sent, sent + 1, __ATOMIC_RELEASE);
	lately[at].hash = hash;
	lately[at].until = env->now + again_ns[index];
	return 1;
}
