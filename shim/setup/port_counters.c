// SPDX-License-Identifier: BSD-3-Clause
//
// What is counted at a port: the io cores' counts, and its drivers', which begin anew with each device.

#include <errno.h>
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
