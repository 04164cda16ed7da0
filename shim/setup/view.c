// SPDX-License-Identifier: BSD-3-Clause
//
// What plugins see of ports and groups while packets flow. Each look compares the shared words with the
// primary's own, so what another process wrote there does not stay.

#include <errno.h>
#include <string.h>

#include "primary.h"

// Word by word, as readers look meanwhile; the version last.
static void
show(void *shared, void *own, const void *now, size_t len, uint64_t *version, uint64_t *own_version)
{
	uint64_t *to = shared, *from = own;

	if (*own_version == 0 || memcmp(own, now, len) != 0) {
		memcpy(own, now, len);
		++*own_version;
	}
	for (size_t i = 0; i < len / sizeof(*to); i++)
		if (to[i] != from[i])
			dps_store64(&to[i], from[i]);
	if (*version != *own_version)
		dps_store64(version, *own_version);
}

static void
look_at_port(uint32_t index, struct dps_port_view *out)
{
	struct dps_port_info info;

	*out = (struct dps_port_view){ .numa = -1 };
	if (dps_port_info_get(index, &info) != 0)
		return;
	memcpy(out->mac, info.mac, sizeof(out->mac));
	out->up = info.link_up && !the_primary.port[index].shut;
	out->mbps = out->up ? info.link_mbps : 0;
	out->mtu = info.mtu;
	out->numa = info.numa;
}

// The io cores are this thread's to ask.
void
view_group(uint32_t group)
{
	struct dps_group_view *shared = &the_primary.ctl->view.group[group];
	struct dps_group_view *own = &the_primary.own->view.group[group];
	struct dps_group_view now = { .places = the_primary.own->group[group].max };
	uint64_t fed = 0;

	dps_io_map_get(group, now.owner, DPS_BUCKETS);
	for (uint32_t b = 0; b < DPS_BUCKETS; b++)
		if (now.owner[b] != DPS_NO_SLOT)
			fed |= DPS_BIT(now.owner[b]);
	now.workers = __builtin_popcountll(fed);
	show(&shared->workers, &own->workers, &now.workers,
	     sizeof(now) - offsetof(struct dps_group_view, workers), &shared->version, &own->version);
}

int
dps_view_update(void)
{
	struct dps_port_view now[DPS_MAX_PORTS] = { 0 };
	struct dps_view *shared, *own;

	if (the_primary.own == NULL)
		return -EINVAL;
	shared = &the_primary.ctl->view;
	own = &the_primary.own->view;
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		look_at_port(i, &now[i]);
	show(shared->port, own->port, now, sizeof(now), &shared->ports_version, &own->ports_version);
	asking_lock();
	for (uint32_t g = 0; g < the_primary.n_groups; g++)
		view_group(g);
	asking_unlock();
	return 0;
}
