// SPDX-License-Identifier: BSD-3-Clause
//
// A port's device: whether the kernel wants it back, and how EAL gives it back.

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_ethdev.h>

#include "primary.h"

// PCI devices that their driver was told to let go of, by index of their port. A name stays for good:
// EAL's interrupt thread reads it.
static struct {
	char device[DPS_NAME];
	uint32_t leaves;
} removal[DPS_MAX_PORTS];

// Runs in EAL's interrupt thread. The kernel waits with the removal until the device is closed.
static void
device_event(const char *device, enum rte_dev_event_type type, void *arg)
{
	(void)arg;
	if (device == NULL || type != RTE_DEV_EVENT_REMOVE)
		return;
	for (uint32_t i = 0; i < DPS_MAX_PORTS; i++)
		if (strcmp(removal[i].device, device) == 0)
			dps_store32(&removal[i].leaves, 1);
}

void
device_watch(uint32_t index, const struct dps_port_conf *conf)
{
	static bool watched;

	if (conf->vdev[0] != '\0')
		return;
	snprintf(removal[index].device, sizeof(removal[index].device), "%s", conf->device);
	if (!watched)
		watched = rte_dev_event_callback_register(NULL, device_event, NULL) == 0;
}

static void
say_kept(const char *device)
{
	dprintf(STDERR_FILENO, "primary: DPDK does not let go of %s\n", device);
}

void
device_unplug(const char *device)
{
	if (rte_vdev_uninit(device) != 0)
		say_kept(device);
}

// Without its port, a device of the PCI bus is still mapped, and the kernel cannot have it back. Not
// all drivers' remove frees what the port has: so close it first.
static void
unplug_pci(uint16_t id, const char *device)
{
	struct rte_eth_dev_info dev;

	if (rte_eth_dev_info_get(id, &dev) != 0 || rte_eth_dev_close(id) != 0 ||
	    rte_dev_remove(dev.device) != 0)
		say_kept(device);
}

void
device_let_go(const struct port *port)
{
	char device[RTE_ETH_NAME_MAX_LEN];

	if (rte_eth_dev_get_name_by_port(port->id, device) != 0)
		return;
	if (port->virtual)
		device_unplug(device);
	else
		unplug_pci(port->id, device);
}

int
dps_port_leaves(uint32_t index)
{
	if (index >= the_primary.n_ports)
		return -EINVAL;
	return dps_load32(&removal[index].leaves) != 0;
}

void
device_stays(uint32_t index)
{
	dps_store32(&removal[index].leaves, 0);
}
