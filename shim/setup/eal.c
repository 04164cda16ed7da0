// SPDX-License-Identifier: BSD-3-Clause
//
// Start and stop of EAL in the primary.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_version.h>

#include "primary.h"

struct primary the_primary;

int
dps_eal_start(int argc, char **argv)
{
	// EAL keeps pointers into argv.
	char **copy = calloc(argc + 1, sizeof(*copy));

	if (copy == NULL)
		return -ENOMEM;
	for (int i = 0; i < argc; i++) {
		copy[i] = strdup(argv[i]);
		if (copy[i] == NULL)
			return -ENOMEM;
	}
	if (rte_eal_init(argc, copy) < 0)
		return rte_errno ? -rte_errno : -EINVAL;
	return 0;
}

int
dps_eal_stop(void)
{
	for (uint32_t i = 0; i < the_primary.n_ports; i++) {
		struct port *port = &the_primary.port[i];

		if (port->started) {
			rte_eth_dev_stop(port->id);
			port->started = false;
		}
		if (!port->absent)
			rte_eth_dev_close(port->id);
	}
	the_primary.n_ports = 0;
	// No rte_eal_cleanup: wardens, the caretaker and the keeper of the lease still use the memory
	// that it would unmap. The process is about to end: the kernel unmaps it then, and says so to
	// the workers; the supervisor removes the files.
	return 0;
}

const char *
dps_eal_version(void)
{
	// "DPDK 22.11.11"
	return strchr(rte_version(), ' ') + 1;
}

const char *
dps_strerror(int err)
{
	return rte_strerror(err);
}

uint64_t
dps_tsc_hz(void)
{
	return rte_get_tsc_hz();
}

uint64_t
dps_tsc(void)
{
	return rte_rdtsc();
}
