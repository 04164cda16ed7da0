// SPDX-License-Identifier: BSD-3-Clause
//
// The control block and the slots: all shared memory of dpsup is laid out here, once, before the
// seed attaches. Nothing in it is created, freed or looked up by name afterwards.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>

#include "primary.h"

enum { OWN_LEN = offsetof(struct dps_ctl, lease) };     // of the control block, the primary's own

static int
lowest(const struct rte_memseg_list *msl, void *arg)
{
	uint64_t *low = arg;

	if (!msl->external && (uintptr_t)msl->base_va < *low)
		*low = (uintptr_t)msl->base_va;
	return 0;
}

static int
highest(const struct rte_memseg_list *msl, const struct rte_memseg *ms, void *arg)
{
	uint64_t *high = arg;

	if (!msl->external && (uintptr_t)ms->addr + ms->len > *high)
		*high = (uintptr_t)ms->addr + ms->len;
	return 0;
}

// In pages of 4 KiB, as each of them is for one worker to write: a hugepage each would be too much. A file, as
// a seed may attach later; a new one, as processes of a generation before may still have the old one.
static int
sitters_create(struct primary *p)
{
	size_t len = DPS_MAX_SITTERS * sizeof(struct dps_sitter);
	char path[DPS_PATH];
	void *at;
	int fd, ret;

	snprintf(path, sizeof(path), "%s/" DPS_SITTERS, rte_eal_get_runtime_dir());
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	// EAL without shared files has no directory for them, and no other process.
	if (fd < 0 && errno == ENOENT)
		fd = memfd_create(DPS_SITTERS, MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	// All of it now: a page that is missed later would end the process that writes there.
	ret = -posix_fallocate(fd, 0, len);
	if (ret == 0) {
		at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
		ret = at == MAP_FAILED ? -errno : 0;
	}
	close(fd);
	if (ret == 0)
		p->sitter = at;
	return ret;
}

int
dps_ctl_create(uint64_t generation, uint32_t n_io)
{
	struct primary *p = &the_primary;
	const struct rte_memzone *mz;
	struct dps_ctl *ctl;
	uint64_t high = 0;

	if (n_io == 0 || n_io > DPS_MAX_IO)
		return -EINVAL;
	ctl = own_zalloc(OWN_LEN);
	if (ctl == NULL)
		return -ENOMEM;
	mz = rte_memzone_reserve(DPS_MZ_CTL, sizeof(*ctl), SOCKET_ID_ANY, 0);
	if (mz == NULL) {
		free(ctl);
		return rte_errno != 0 ? -rte_errno : -ENOMEM;
	}
	memset(mz->addr, 0, sizeof(*ctl));
	ctl->abi_version = DPS_ABI_VERSION;
	ctl->abi_size = sizeof(*ctl);
	ctl->primary_pid = getpid();
	ctl->generation = generation;
	ctl->base = UINT64_MAX;
	rte_memseg_list_walk(lowest, &ctl->base);
	// A lane's words have so many bits for a packet's place.
	rte_memseg_walk(highest, &high);
	if (high - ctl->base > DPS_BIT(DPS_OFFSET_BITS)) {
		free(ctl);
		rte_memzone_free(mz);
		return -EOVERFLOW;
	}
	snprintf(ctl->dpdk_version, sizeof(ctl->dpdk_version), "%s", dps_eal_version());
	ctl->n_io = n_io;
	ctl->tsc_hz = rte_get_tsc_hz();
	ctl->n_pools = p->n_pools;
	for (uint32_t i = 0; i < p->n_pools; i++)
		if (p->bytes[i] != NULL)
			ctl->bytes[i] = (struct dps_room){ (uintptr_t)p->bytes[i]->addr - ctl->base,
							    p->bytes[i]->len };
	p->own = ctl;
	p->ctl = mz->addr;
	p->n_io = n_io;
	return sitters_create(p);
}

int
dps_ctl_port(uint32_t port, const char *name)
{
	struct dps_ctl *ctl = the_primary.own;

	if (port >= DPS_MAX_PORTS)
		return -EINVAL;
	snprintf(ctl->port[port], sizeof(ctl->port[port]), "%s", name);
	ctl->n_ports = RTE_MAX(ctl->n_ports, port + 1);
	return 0;
}

int
dps_ctl_group(uint32_t group, const struct dps_group_conf *conf)
{
	struct dps_ctl *ctl = the_primary.own;

	if (group >= DPS_MAX_GROUPS || conf->first_slot + conf->max > DPS_MAX_SLOTS)
		return -EINVAL;
	ctl->group[group] = *conf;
	ctl->n_groups = RTE_MAX(ctl->n_groups, group + 1);
	the_primary.n_groups = ctl->n_groups;
	the_primary.group_node[group] = SOCKET_ID_ANY;
	return 0;
}

int
dps_group_node(uint32_t group, int node)
{
	if (group >= the_primary.n_groups)
		return -EINVAL;
	the_primary.group_node[group] = node;
	return 0;
}

int
dps_group_version(uint32_t group, uint32_t version, const struct dps_version *conf)
{
	struct dps_ctl *ctl = the_primary.own;

	if (group >= ctl->n_groups || version >= DPS_VERSIONS)
		return -EINVAL;
	// Plugins keep pointers to their arguments for as long as they live.
	if (version_is_used(group, version))
		return -EBUSY;
	// What blocks of state were before a rollout is nothing to go back to in the next one.
	the_primary.epoch[group]++;
	for (uint32_t s = 0; s < the_primary.n_slots; s++)
		if (the_primary.slot_group[s] == group)
			dps_store32(&the_primary.slot[s]->epoch, the_primary.epoch[group]);
	ctl->group[group].version[version] = *conf;
	the_primary.ctl->group[group].version[version] = *conf;
	return 0;
}

int
dps_ctl_publish(void)
{
	struct primary *p = &the_primary;

	int ret = wardens_start();

	if (ret == 0)
		ret = rebucket_start();
	if (ret != 0)
		return ret;
	p->own->n_slots = p->n_slots;
	dps_ctl_restore();
	p->own->magic = DPS_MAGIC;
	dps_store32(&p->ctl->magic, DPS_MAGIC);
	return 0;
}

static bool
put_back(void *shared, const void *own, size_t len)
{
	if (memcmp(shared, own, len) == 0)
		return false;
	memcpy(shared, own, len);
	return true;
}

int
dps_ctl_restore(void)
{
	const struct primary *p = &the_primary;
	bool was_wrong;

	was_wrong = put_back(p->ctl, p->own, offsetof(struct dps_ctl, group));
	was_wrong |= put_back(p->ctl->group, p->own->group, p->n_groups * sizeof(*p->own->group));
	if (was_wrong && p->own->magic == DPS_MAGIC)
		fprintf(stderr, "primary: a process wrote to the control block: put right\n");
	return was_wrong;
}

// Bytes of a slot with all its lanes and its state, in whole pages.
static size_t
slot_len(uint32_t n_io, const struct dps_group_conf *conf)
{
	size_t lane = sizeof(struct dps_lane) +
		      conf->ring * (sizeof(uint64_t) + sizeof(struct dps_meta)) +
		      DPS_BLANKS * 2 * sizeof(uint64_t);
	size_t state = conf->state > 0 ? DPS_STATE_AT + (size_t)conf->state : 0;

	return RTE_ALIGN(RTE_ALIGN(sizeof(struct dps_slot), (size_t)4096) + sizeof(struct dps_perf) +
				 n_io * lane + state,
			 (size_t)DPS_SLOT_PAGE);
}

// Bytes of a group's state by bucket, in whole pages. A bucket's lines are its owner's alone.
static size_t
buckets_len(struct dps_group_conf *conf)
{
	if (conf->bucket_state == 0)
		return 0;
	conf->bucket_stride = RTE_ALIGN(sizeof(struct dps_state_head) + conf->bucket_state, 64);
	return RTE_ALIGN((size_t)DPS_BUCKETS * conf->bucket_stride, (size_t)DPS_SLOT_PAGE);
}

static size_t
group_len(const struct primary *p, uint32_t group)
{
	struct dps_group_conf *conf = &p->own->group[group];

	return conf->max * slot_len(p->n_io, conf) + buckets_len(conf);
}

// One zone for all slots of a NUMA node: zones of their own would each lose a page to the allocator's
// header.
static int
slots_reserve(struct primary *p, int node)
{
	const struct rte_memzone *mz;
	char name[RTE_MEMZONE_NAMESIZE];
	size_t len = 0;
	char *at;

	for (uint32_t g = 0; g < p->n_groups; g++)
		if (p->group_node[g] == node)
			len += group_len(p, g);
	snprintf(name, sizeof(name), "dpsup_slots%d", node);
	mz = rte_memzone_reserve_aligned(name, len, node, 0, DPS_SLOT_PAGE);
	if (mz == NULL)
		return rte_errno != 0 ? -rte_errno : -ENOMEM;
	at = mz->addr;
	for (uint32_t g = 0; g < p->n_groups; g++) {
		if (p->group_node[g] != node)
			continue;
		len = buckets_len(&p->own->group[g]);
		memset(at, 0, len);
		p->own->group[g].buckets = (uintptr_t)at - p->own->base;
		p->slots[g] = at + len;
		at += group_len(p, g);
		p->slots_end[g] = at;
	}
	return 0;
}

int
dps_slot_create(uint32_t slot, uint32_t group, uint32_t member)
{
	struct primary *p = &the_primary;
	struct dps_slot *s;
	size_t len;
	uint64_t at;

	if (slot >= DPS_MAX_SLOTS || group >= p->n_groups)
		return -EINVAL;
	if (p->slots[group] == NULL) {
		int ret = slots_reserve(p, p->group_node[group]);

		if (ret != 0)
			return ret;
	}
	len = slot_len(p->n_io, &p->own->group[group]);
	p->own->group[group].slot_bytes = len;
	if (p->slots[group] + len > p->slots_end[group])
		return -ENOSPC;
	s = (struct dps_slot *)p->slots[group];
	p->slots[group] += len;
	memset(s, 0, len);
	s->index = slot;
	s->group = group;
	s->member = member;
	s->n_lanes = p->n_io;
	s->ring = p->own->group[group].ring;
	at = RTE_ALIGN(sizeof(*s), 4096);
	s->perf_at = at;
	at += sizeof(struct dps_perf);
	for (uint32_t i = 0; i < p->n_io; i++) {
		s->lanes[i] = at;
		at += sizeof(struct dps_lane) + s->ring * sizeof(uint64_t);
		s->meta[i] = at;
		at += s->ring * sizeof(struct dps_meta);
		s->blanks[i] = at;
		at += DPS_BLANKS * 2 * sizeof(uint64_t);
	}
	s->state = p->own->group[group].state > 0 ? at : 0;
	p->slot_group[slot] = group;
	p->perf_at[slot] = s->perf_at;
	p->state[slot] = s->state > 0 ? (uintptr_t)s + s->state - p->own->base : 0;
	p->slot[slot] = s;
	p->n_slots = RTE_MAX(p->n_slots, slot + 1);
	p->own->slot[slot] = (uintptr_t)s - p->own->base;
	dps_store32(&s->magic, DPS_SLOT_MAGIC);
	return 0;
}

int
dps_slot_command(uint32_t slot, uint32_t command)
{
	if (slot >= the_primary.n_slots)
		return -EINVAL;
	dps_store32(&the_primary.slot[slot]->command, command);
	// The worker may be parked.
	__atomic_fetch_add(&the_primary.slot[slot]->bell, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &the_primary.slot[slot]->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
	return 0;
}
