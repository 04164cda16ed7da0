// SPDX-License-Identifier: BSD-3-Clause
//
// What is counted at a port: the io cores' counts, and its drivers', which begin anew with each device.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>

#include "primary.h"

static void
driver_says(struct port *port, int which, uint64_t now)
{
	struct driver_count *c = &port->said[which];

	c->sum += now >= c->seen ? now - c->seen : now;
	c->seen = now;
}

// Brings the sums of what the driver counts up to date; without a device they stay as they are.
void
port_ask_driver(struct port *port)
{
	struct rte_eth_stats eth;

	if (port->absent || rte_eth_stats_get(port->id, &eth) != 0)
		return;
	driver_says(port, DRIVER_MISSED, eth.imissed);
	if (strcmp(port->info.driver, "net_af_packet") == 0)
		port->said[DRIVER_MISSED].sum += packet_sockets_dropped(port->info.if_index);
	driver_says(port, DRIVER_RX_ERRORS, eth.ierrors);
	driver_says(port, DRIVER_NOMBUF, eth.rx_nombuf);
	driver_says(port, DRIVER_TX_ERRORS, eth.oerrors);
	driver_says(port, DRIVER_SENT, eth.opackets);
}

// Packets that the driver took and did not send. Its errors alone do not say so: net_tap counts each
// refusal, although the packet is sent later. Nor does what it did not send: a NIC's queue has some.
static void
count_failed(struct port *port, struct dps_port_stats *out, uint64_t sent)
{
	uint64_t failed = RTE_MIN(out->tx_errors, out->tx_packets - RTE_MIN(sent, out->tx_packets));

	port->failed = RTE_MAX(port->failed, failed);
	out->drops[DPS_DROP_TX_FAILED] = port->failed;
	out->tx_packets -= RTE_MIN(port->failed, out->tx_packets);
}

// The names and values of all that the driver counts, as many as there is room for; returns how many
// there are. The values are since the device was opened.
int
dps_port_xstats_get(uint32_t index, struct dps_xstat *out, uint32_t room)
{
	struct rte_eth_xstat_name *name = NULL;
	struct rte_eth_xstat *value = NULL;
	struct port *port = &the_primary.port[index];
	int n;

	if (index >= the_primary.n_ports)
		return -EINVAL;
	if (port->absent)
		return -ENODEV;
	n = rte_eth_xstats_get_names(port->id, NULL, 0);
	if (n <= 0)
		return n;
	name = calloc(n, sizeof(*name));
	value = calloc(n, sizeof(*value));
	if (name == NULL || value == NULL)
		n = -ENOMEM;
	else if (rte_eth_xstats_get_names(port->id, name, n) != n ||
		 rte_eth_xstats_get(port->id, value, n) != n)
		n = -EAGAIN;    // queues came or went meanwhile
	for (int i = 0; i < n && (uint32_t)i < room; i++) {
		if (value[i].id >= (uint64_t)n)
			continue;
		snprintf(out[i].name, sizeof(out[i].name), "%s", name[value[i].id].name);
		out[i].value = value[i].value;
	}
	free(name);
	free(value);
	return n;
}

int
dps_port_stats_get(uint32_t index, struct dps_port_stats *out)
{
	struct primary *p = &the_primary;
	struct port *port = &p->port[index];

	if (index >= p->n_ports)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < p->n_io; i++) {
		const struct dps_port_stats *s = &p->io[i]->port[index];

		out->rx_packets += s->rx_packets;
		out->rx_bytes += s->rx_bytes;
		out->tx_packets += s->tx_packets;
		out->tx_bytes += s->tx_bytes;
		for (int d = 0; d < DPS_N_DROPS; d++)
			out->drops[d] += s->drops[d];
		out->to_kernel += s->to_kernel;
		out->to_kernel_bytes += s->to_kernel_bytes;
		out->from_kernel += s->from_kernel;
		out->from_kernel_bytes += s->from_kernel_bytes;
	}
	// After the io cores' counts: what the driver sent meanwhile has not failed.
	port_ask_driver(port);
	out->rx_missed = port->said[DRIVER_MISSED].sum;
	out->rx_errors = port->said[DRIVER_RX_ERRORS].sum;
	out->rx_nombuf = port->said[DRIVER_NOMBUF].sum;
	out->tx_errors = port->said[DRIVER_TX_ERRORS].sum;
	count_failed(port, out, port->said[DRIVER_SENT].sum);
	return 0;
}
