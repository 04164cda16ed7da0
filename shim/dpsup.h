/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_H
#define DPSUP_H

// What C includes: the ABI, its layout rules as assertions, and the few accessors of shared fields.

#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define DPS_MZ_CTL "dpsup"

#define DPS_LINE(type, field) \
	_Static_assert(offsetof(struct type, field) % 64 == 0, #type "." #field " opens a line")

DPS_LINE(dps_ctl, n_io);
DPS_LINE(dps_ctl, slot);
DPS_LINE(dps_ctl, port);
DPS_LINE(dps_slot, in);
DPS_LINE(dps_slot, command);
DPS_LINE(dps_slot, seat);
DPS_LINE(dps_slot, exit_pid);
DPS_LINE(dps_slot, pid);
DPS_LINE(dps_slot, undo);
DPS_LINE(dps_slot, staged);
DPS_LINE(dps_slot, beats);
DPS_LINE(dps_slot, counter);
_Static_assert(sizeof(struct dps_desc) == 16, "two rings of whole elements");
_Static_assert(sizeof(struct dps_ret) == 8, "two rings of whole elements");
_Static_assert(sizeof(struct dps_meta) == 32, "two to a line");
_Static_assert(sizeof(struct dps_slot) % 64 == 0, "slots end on a line");

// A process that is killed keeps all its retired stores (the kernel's entry drains the store
// buffer), so what recovery sees is a prefix of the program's stores: only the compiler can put
// them out of order. x86 keeps stores in order for the reader on the other core too.
static inline void
dps_order(void)
{
	__asm__ volatile("" ::: "memory");
}

static inline uint32_t
dps_load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void
dps_store32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint64_t
dps_load64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void
dps_store64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

// Add to a counter of which this thread is the only writer.
static inline void
dps_count(uint64_t *p, uint64_t n)
{
	__atomic_store_n(p, *p + n, __ATOMIC_RELAXED);
}

static inline uint64_t
dps_where(uint64_t offset, uint16_t headroom)
{
	return offset | (uint64_t)headroom << 48;
}

static inline uint64_t
dps_where_offset(uint64_t where)
{
	return where & ((1ull << 48) - 1);
}

static inline uint16_t
dps_where_headroom(uint64_t where)
{
	return where >> 48;
}

// The seat of a slot: which ticket it is open for, and who sits there (0: nobody).
static inline uint64_t
dps_seat(uint32_t ticket, uint32_t pid)
{
	return (uint64_t)ticket << 32 | pid;
}

// Change the seat if it is as it was seen.
static inline int
dps_seat_change(uint64_t *seat, uint64_t seen, uint64_t next)
{
	return __atomic_compare_exchange_n(seat, &seen, next, 0, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

static inline uint64_t
dps_undo_stamp(uint32_t lane, uint32_t index)
{
	return (uint64_t)(lane + 1) << 32 | index;
}

#endif
