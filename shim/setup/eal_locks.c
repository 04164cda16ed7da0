// SPDX-License-Identifier: BSD-3-Clause
//
// EAL's shared locks, seen from outside: which are held, and giving back what a dead process held.
//
// A process that is killed while it attaches leaves them as they were; the next process that takes
// one spins forever. They lie in EAL's own struct rte_mem_config, which no header shows and which
// differs from version to version, so their words are found by taking each one and seeing which word
// changes. The layout of EAL's arrays is public.
//
// dpsup/primary/eal_locks.py decides when to give one back; its head has the proof.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_eal_memconfig.h>
#include <rte_fbarray.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_rwlock.h>

#include "primary.h"

enum {
	HEAD = 64,              // words at the start of the shared configuration that may be locks
	TRIES = 50,             // an outsider may attach just then
	PROBE_MS = 1000         // for the heaps' locks; a walk over a heap takes microseconds
};

_Static_assert(DPS_LOCK_WAIT == RTE_RWLOCK_WAIT && DPS_LOCK_WRITE == RTE_RWLOCK_WRITE &&
		       DPS_LOCK_READ == RTE_RWLOCK_READ,
	       "same");

static uint32_t *config;                // EAL's shared configuration
static uint32_t *lock[DPS_LOCKS_MOST];
static uint32_t n_locks;
static const struct rte_fbarray *zones;

// --- where they are -------------------------------------------------------------------------------

static uint32_t *
find_config(void)
{
	char line[1024], path[512];
	uint32_t *found = NULL;
	FILE *maps;

	snprintf(path, sizeof(path), "%s/config\n", rte_eal_get_runtime_dir());
	maps = fopen("/proc/self/maps", "r");
	if (maps == NULL)
		return NULL;
	while (found == NULL && fgets(line, sizeof(line), maps) != NULL) {
		const char *name = strchr(line, '/');
		unsigned long start;

		// /var/run is a link to /run in most places
		if (name == NULL || sscanf(line, "%lx-", &start) != 1)
			continue;
		if (strcmp(name, path) == 0 ||
		    (strncmp(path, "/var/run/", 9) == 0 && strcmp(name, path + 4) == 0))
			found = (uint32_t *)start;
	}
	fclose(maps);
	return found;
}

static void
look(uint32_t *word)
{
	for (uint32_t i = 0; i < HEAD; i++)
		word[i] = dps_load32(&config[i]);
}

static void
look_at_zone(const struct rte_memzone *mz, void *word)
{
	(void)mz;
	look(word);
}

static void
take(uint32_t which, uint32_t *held)
{
	switch (which) {
	case DPS_LOCK_MEMORY:
		rte_mcfg_mem_read_lock();
		look(held);
		rte_mcfg_mem_read_unlock();
		return;
	case DPS_LOCK_TAILQ:
		rte_mcfg_tailq_read_lock();
		look(held);
		rte_mcfg_tailq_read_unlock();
		return;
	case DPS_LOCK_MEMPOOL:
		rte_mcfg_mempool_read_lock();
		look(held);
		rte_mcfg_mempool_read_unlock();
		return;
	case DPS_LOCK_TIMER:
		rte_mcfg_timer_lock();
		look(held);
		rte_mcfg_timer_unlock();
		return;
	default:
		// It holds the memzones' lock while it calls.
		rte_memzone_walk(look_at_zone, held);
	}
}

// The one word that is another while the lock is held, and the same again after.
static uint32_t *
find_lock(uint32_t which)
{
	uint32_t before[HEAD], held[HEAD], after[HEAD];
	const uint32_t step = which == DPS_LOCK_TIMER ? 1 : DPS_LOCK_READ;

	for (int try = 0; try < TRIES; try++) {
		uint32_t at = HEAD, changed = 0;

		look(before);
		take(which, held);
		look(after);
		for (uint32_t i = 0; i < HEAD; i++)
			if (before[i] != after[i] || held[i] != before[i]) {
				changed++;
				at = i;
			}
		if (changed == 1 && before[at] == 0 && after[at] == 0 && held[at] == step)
			return &config[at];
	}
	return NULL;
}

static uint32_t *
array_lock(const struct rte_fbarray *array)
{
	return (uint32_t *)(uintptr_t)&array->rwlock.cnt;
}

// An array of EAL's (rte_fbarray.h) has a lock of its own, and lists memzones by name.
static uint32_t *
find_zones(void)
{
	for (uint32_t i = 0; i < HEAD; i++) {
		const struct rte_fbarray *array = (const void *)&config[i];

		if (strcmp(array->name, "memzone") == 0 &&
		    array->elt_sz == sizeof(struct rte_memzone)) {
			zones = array;
			return array_lock(array);
		}
	}
	return NULL;
}

static int
add_segments(const struct rte_memseg_list *list, void *arg)
{
	(void)arg;
	if (!list->external && n_locks < DPS_LOCKS_MOST)
		lock[n_locks++] = array_lock(&list->memseg_arr);
	return 0;
}

int
dps_locks_find(void)
{
	config = find_config();
	if (config == NULL)
		return -ENOENT;
	n_locks = 0;
	for (uint32_t i = 0; i < DPS_LOCK_ZONES; i++) {
		lock[i] = find_lock(i);
		for (uint32_t k = 0; k < i && lock[i] != NULL; k++)
			if (lock[k] == lock[i])
				lock[i] = NULL;
		if (lock[i] == NULL)
			return -ENODATA;
	}
	lock[DPS_LOCK_ZONES] = find_zones();
	if (lock[DPS_LOCK_ZONES] == NULL)
		return -ENODATA;
	n_locks = DPS_LOCK_SEGMENTS;
	rte_memseg_list_walk(add_segments, NULL);
	return n_locks;
}

const char *
dps_eal_dir(void)
{
	return rte_eal_get_runtime_dir();
}

// --- what becomes of them -------------------------------------------------------------------------

int
dps_locks_read(uint32_t *word)
{
	for (uint32_t i = 0; i < n_locks; i++)
		word[i] = dps_load32(lock[i]);
	return n_locks;
}

int
dps_lock_release(uint32_t which, uint32_t word)
{
	if (which >= n_locks)
		return -EINVAL;
	if (!__atomic_compare_exchange_n(lock[which], &word, 0, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return -EAGAIN;
	return 0;
}

// --- what they guard ------------------------------------------------------------------------------

// FNV-1a, by words.
static void
add_word(uint64_t *sum, uint64_t word)
{
	*sum = (*sum ^ word) * 0x100000001b3;
}

static int
add_list(const struct rte_memseg_list *list, void *sum)
{
	add_word(sum, list->addr_64);
	add_word(sum, list->len);
	add_word(sum, list->page_sz);
	add_word(sum, list->version);           // each change of its segments counts it
	add_word(sum, list->heap);
	add_word(sum, list->memseg_arr.count);
	return 0;
}

int
dps_lock_guards(uint32_t which, uint64_t *sum)
{
	const uint64_t *word;
	size_t n;

	*sum = 0xcbf29ce484222325;
	switch (which) {
	case DPS_LOCK_MEMORY:
		return rte_memseg_list_walk_thread_unsafe(add_list, sum);
	case DPS_LOCK_MEMZONE:
		word = zones->data;
		n = (size_t)zones->len * zones->elt_sz / sizeof(*word);
		add_word(sum, zones->count);
		for (size_t i = 0; i < n; i++)
			add_word(sum, word[i]);
		return 0;
	default:
		return -EINVAL;
	}
}

// --- the heaps ------------------------------------------------------------------------------------

// Their locks are out of reach, and taken on the way to any figure of theirs: by a thread that may be
// spared, as an outsider that was killed with one held leaves it so.
static struct {
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool busy;
	uint64_t used;
} probe = { .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };

static void *
probe_run(void *arg)
{
	uint64_t used = 0;

	pthread_setname_np(pthread_self(), "heap-probe");       // takes EAL's locks
	for (int i = 0; i < RTE_MAX_NUMA_NODES; i++) {
		struct rte_malloc_socket_stats s;

		if (rte_malloc_get_socket_stats(i, &s) == 0)
			used += s.heap_allocsz_bytes;
	}
	pthread_mutex_lock(&probe.lock);
	probe.used = used;
	probe.busy = false;
	pthread_cond_signal(&probe.done);
	pthread_mutex_unlock(&probe.lock);
	return arg;
}

int
dps_heap_used(uint64_t *used)
{
	const struct sched_param none = { 0 };
	struct timespec deadline;
	pthread_t thread;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PROBE_MS / 1000;
	pthread_mutex_lock(&probe.lock);
	if (probe.busy) {
		// Still at it from the last time.
		pthread_mutex_unlock(&probe.lock);
		return -EDEADLK;
	}
	probe.busy = true;
	ret = thread_start(&thread, probe_run, NULL);
	if (ret != 0)
		probe.busy = false;
	else
		pthread_detach(thread);
	while (probe.busy && ret == 0)
		ret = -pthread_cond_timedwait(&probe.done, &probe.lock, &deadline);
	*used = probe.used;
	if (!probe.busy && ret == -ETIMEDOUT)
		ret = 0;
	if (ret == -ETIMEDOUT) {
		// It may spin forever: at idle priority it costs other threads nothing.
		pthread_setschedparam(thread, SCHED_IDLE, &none);
		ret = -EDEADLK;
	}
	pthread_mutex_unlock(&probe.lock);
	return ret;
}
