/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_LEASE_H
#define DPSUP_LEASE_H

// A lease: a robust, process-shared mutex that one thread takes once and never gives back. When
// that thread is gone, the kernel says so on the mutex's futex word, before it tears down the
// address space: about 0.1 ms after a SIGKILL, where a pidfd needs 1 to 2 ms.
//
// The owner takes it as a mutex, so that glibc keeps it on the thread's robust list. Waiters
// never take it; they read the word. The kernel only marks a word that held the dying thread's id,
// and leaves the mark alone in it, so a word that was the owner's and now is exactly the mark means
// that the thread will never execute another instruction. pthread_mutex_lock would give EOWNERDEAD
// for any word with that bit, even 0x41414141 of a wild write, and destroy the evidence.

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "dpsup.h"

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(((struct dps_sitter *)0)->lease), "it fits");

enum dps_lease_state {
	DPS_LEASE_NEW,          // not taken yet
	DPS_LEASE_HELD,
	DPS_LEASE_DIED,         // the kernel says that its owner is gone
	DPS_LEASE_STRANGE       // a stray write
};

static inline uint32_t *
dps_lease_word(uint64_t *lease)
{
	return (uint32_t *)&((pthread_mutex_t *)lease)->__data.__lock;
}

// Initialise it for the next owner, while no thread has it or waits for it. 0 or -errno.
static inline int
dps_lease_init(uint64_t *lease)
{
	pthread_mutexattr_t attr;
	int ret;

	ret = pthread_mutexattr_init(&attr);
	if (ret == 0)
		ret = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	if (ret == 0)
		ret = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	if (ret == 0)
		ret = pthread_mutex_init((pthread_mutex_t *)lease, &attr);
	return -ret;
}

// Take it for as long as this thread lives. Anything but 0: leave, and touch nothing.
static inline int
dps_lease_take(uint64_t *lease)
{
	return -pthread_mutex_trylock((pthread_mutex_t *)lease);
}

static inline enum dps_lease_state
dps_lease_look(uint64_t *lease, uint32_t owner)
{
	uint32_t word = dps_load32(dps_lease_word(lease)) & ~FUTEX_WAITERS;

	if (word == owner)
		return DPS_LEASE_HELD;
	if (word == FUTEX_OWNER_DIED)
		return DPS_LEASE_DIED;
	return word == 0 ? DPS_LEASE_NEW : DPS_LEASE_STRANGE;
}

// Sleep until the owner is gone, for that many ms at most. It may return early, so look again. The
// waiter that is woken wakes the others: the kernel wakes only one.
static inline void
dps_lease_wait(uint64_t *lease, uint32_t owner, uint32_t ms)
{
	const struct timespec most = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
	uint32_t *word = dps_lease_word(lease);
	uint32_t seen = owner;

	__atomic_compare_exchange_n(word, &seen, owner | FUTEX_WAITERS, 0, __ATOMIC_ACQ_REL,
				    __ATOMIC_ACQUIRE);
	syscall(SYS_futex, word, FUTEX_WAIT, owner | FUTEX_WAITERS, &most, NULL, 0);
	if (dps_lease_look(lease, owner) != DPS_LEASE_HELD)
		syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

// The same, of a process that cannot write there: the owner's bit must be set already.
static inline void
dps_lease_watch(const uint64_t *lease, uint32_t owner, uint32_t ms)
{
	const struct timespec most = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
	const uint32_t *word = dps_lease_word((uint64_t *)(uintptr_t)lease);

	syscall(SYS_futex, word, FUTEX_WAIT, owner | FUTEX_WAITERS, &most, NULL, 0);
	if ((dps_load32(word) & ~FUTEX_WAITERS) != owner)
		syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

// 0 if the clock is of a process or thread that has ended.
static inline uint64_t
dps_clock_ns(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline uint64_t
dps_now_ns(void)
{
	return dps_clock_ns(CLOCK_MONOTONIC);
}

#endif
