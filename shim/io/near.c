// SPDX-License-Identifier: BSD-3-Clause
//
// The io cores' private memory, on the NUMA node of the CPU that each runs on. The main thread, on
// another node perhaps, creates it: as plain malloc() memory it would lie where that thread runs.

#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_common.h>

#include "primary.h"

enum { CHUNK = 2 << 20 };

static struct {
	int node;
	char *at;               // what is left of the last chunk
	size_t left;
} near;

void
near_begin(int node)
{
	near.node = node;
	near.left = 0;
}

void *
near_zalloc(size_t len)
{
	unsigned long nodes = 0;
	void *p;

	len = RTE_ALIGN(len, (size_t)RTE_CACHE_LINE_SIZE);
	if (len > near.left) {
		size_t size = RTE_ALIGN(len, (size_t)CHUNK);

		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return NULL;
		if (near.node >= 0 && near.node < (int)(8 * sizeof(nodes))) {
			nodes = 1ul << near.node;
			// Preferred, not demanded. Some containers forbid it: there the memory is where
			// it comes to lie.
			syscall(SYS_mbind, p, size, MPOL_PREFERRED, &nodes, 8 * sizeof(nodes) + 1,
				MPOL_MF_MOVE);
		}
		near.at = p;
		near.left = size;
	}
	p = near.at;
	near.at += len;
	near.left -= len;
	// The kernel takes the pages from the node now, not once a core first writes to them.
	return memset(p, 0, len);
}
