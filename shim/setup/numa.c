/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libnuma's question whether memory can be bound to nodes, answered for containers too.
 *
 * The default filter of container runtimes refuses get_mempolicy(2), mbind(2) and set_mempolicy(2)
 * to a container without CAP_SYS_NICE. libnuma 2.0.16 takes that kernel for one with NUMA: EAL then
 * asks for the node of each hugepage, is refused, and does not start. Here a refusal means the same
 * as a kernel without NUMA: EAL leaves the choice of the node to the kernel, which takes that of
 * the CPU. This name is found before libnuma's.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

int numa_available(void);

__attribute__((visibility("default"))) int
numa_available(void)
{
	if (syscall(SYS_get_mempolicy, NULL, NULL, 0UL, NULL, 0UL) == 0)
		return 0;
	return errno == ENOSYS || errno == EPERM ? -1 : 0;
}
