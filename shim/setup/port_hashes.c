// SPDX-License-Identifier: BSD-3-Clause
//
// The hashes that a NIC gives with its first packets are compared with the software's, and used only
// where none differs: some drivers start Toeplitz differently, hash other fields or take another key,
// and a flow that both hashed would be of two buckets. Until then all is hashed in software.

#include <errno.h>

#include "primary.h"

enum { HASHES_COMPARED = 1024 };        // packets with a hash of the NIC's, before it is trusted

struct hash_check
hashes_compared(uint32_t index)
{
	struct hash_check sum = { 0 };

	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		sum.seen += the_primary.io[i]->checked[index].seen;
		sum.differ += the_primary.io[i]->checked[index].differ;
	}
	return sum;
}

int
dps_port_hashes(uint32_t index)
{
	struct port *port = &the_primary.port[index];
	struct hash_check now;

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	if (port->hashes != DPS_HASHES_COMPARED)
		return port->hashes;
	now = hashes_compared(index);
	if (now.differ != port->before.differ)
		port->hashes = DPS_HASHES_DIFFER;
	else if (now.seen - port->before.seen >= HASHES_COMPARED)
		port->hashes = DPS_HASHES_USED;
	else
		return port->hashes;
	// Io cores look at both with each burst: a packet's hash is the same, whichever they see.
	port->hw_rss = port->hashes == DPS_HASHES_USED;
	port->odd_flags = RTE_MBUF_F_RX_VLAN_STRIPPED;
	return port->hashes;
}
