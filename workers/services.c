// SPDX-License-Identifier: BSD-3-Clause
//
// The seed has no service cores, and does without EAL's service library: the linker puts these two in
// the place of its own (--wrap, meson.build).
//
// rte_service_init is all that allocates from the shared heap in an attach (152 KB with DPDK 22.11, 8
// with 24.11, lost whenever a secondary ends): a kill in there leaves the heap's lock held, its lists
// perhaps half changed, or EAL's memory lock with a writer waiting. Without it an attach changes
// nothing that is shared but counts in locks, which shim/setup/eal_locks.c can put right.

#include <errno.h>
#include <stdint.h>

int32_t __wrap_rte_service_init(void);
int32_t __wrap_rte_service_start_with_defaults(void);

int32_t
__wrap_rte_service_init(void)
{
	return 0;
}

// EAL's own answer where there is no service core.
int32_t
__wrap_rte_service_start_with_defaults(void)
{
	return -ENOTSUP;
}
