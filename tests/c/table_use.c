// SPDX-License-Identifier: BSD-3-Clause
//
// The SDK's tables as a plugin uses them, in C and in C++.

#include <stdlib.h>

#include <dpsup_plugin.h>
#include <dpsup_table_array.h>
#include <dpsup_table_exact.h>
#include <dpsup_table_lpm.h>

struct hop { uint8_t mac[6]; uint16_t port; };

// The three in turn.
static uint64_t route(const struct dps_exact *macs, const struct dps_lpm *routes,
		      const struct dps_array *hops, const void *const *keys, uint32_t n)
{
	uint64_t found[64], sum = 0;
	const void *records[64];

	dps_lpm_look(routes, keys, n, found);
	dps_array_look(hops, found, n, records);
	for (uint32_t i = 0; i < n; i++)
		if (records[i] != NULL)
			sum += dps_exact_find(macs, ((const struct hop *)records[i])->mac);
	dps_exact_look(macs, keys, n, found);
	return sum + dps_lpm_find(routes, keys[0]) + found[0];
}

int main(void)
{
	const uint8_t net[4] = { 192, 0, 2, 0 }, host[16] = { 192, 0, 2, 77 };
	const struct hop hop = { { 2, 0, 0, 0, 0, 1 }, 3 };
	uint64_t bytes[3] = { dps_exact_bytes(6, 10), dps_lpm_bytes(32, 10),
			      dps_array_bytes(sizeof(hop), 10) };
	void *at[3];
	const void *keys[1] = { host };

	for (int i = 0; i < 3; i++)
		at[i] = aligned_alloc(64, (size_t)bytes[i]);
	struct dps_exact *macs = (struct dps_exact *)at[0];
	struct dps_lpm *routes = (struct dps_lpm *)at[1];
	struct dps_array *hops = (struct dps_array *)at[2];
	if (dps_exact_init(macs, bytes[0], 6, 10, 1) || dps_lpm_init(routes, bytes[1], 32, 10) ||
	    dps_array_init(hops, bytes[2], sizeof(hop), 10))
		return 1;
	if (dps_exact_set(macs, hop.mac, 5) != 1 || dps_lpm_set(routes, net, 24, 9) != 1 ||
	    dps_array_set(hops, 9, &hop) != 1)
		return 2;
	if (route(macs, routes, hops, keys, 1) != 5 + 9 + DPS_TABLE_NONE)
		return 3;
	dps_exact_clear(macs);
	dps_lpm_clear(routes);
	dps_array_clear(hops);
	if (dps_exact_del(macs, hop.mac) != -ENOENT || dps_lpm_del(routes, net, 24) != -ENOENT ||
	    dps_lpm_get(routes, net, 24) != DPS_TABLE_NONE || dps_array_del(hops, 9) != -ENOENT)
		return 4;
	for (int i = 0; i < 3; i++)
		free(at[i]);
	return 0;
}
