// SPDX-License-Identifier: BSD-3-Clause
//
// Packet pools. Only the primary's io cores allocate and free (law 1): a process killed inside a
// get or put would wedge the pool for all others. So the usual multi-producer pool is sound here,
// and each io core has a cache of its own.

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memzone.h>

#include "primary.h"

// Headers, in a zone on pages of 1 GiB: EAL picks among its page sizes by itself unless told.
static int
populate_zone(struct rte_mempool *mp, const char *of, uint32_t elt)
{
	const struct rte_memzone *mz;
	struct rte_mempool_objsz size;
	char name[RTE_MEMZONE_NAMESIZE];
	int ret;

	rte_mempool_calc_obj_size(elt, mp->flags, &size);
	snprintf(name, sizeof(name), "dps_%.24s", of);
	mz = rte_memzone_reserve_aligned(name, (size_t)mp->size * size.total_size + RTE_CACHE_LINE_SIZE,
					 mp->socket_id, RTE_MEMZONE_1GB, RTE_CACHE_LINE_SIZE);
	if (mz == NULL)
		return -rte_errno;
	// IOVA as VA: the zone is one run of addresses whatever its pages.
	ret = rte_mempool_populate_virt(mp, mz->addr, mz->len, mz->hugepage_sz, NULL, NULL);
	if (ret < (int)mp->size)
		rte_memzone_free(mz);
	return ret;
}

static uint32_t
room_of(const struct dps_pool_conf *conf)
{
	// Odd, so that packets' first lines are in all sets of a cache.
	return (RTE_ALIGN(conf->data_room, RTE_CACHE_LINE_SIZE) / RTE_CACHE_LINE_SIZE | 1) *
	       RTE_CACHE_LINE_SIZE;
}

static bool
by_pages(void)
{
	return rte_eal_iova_mode() != RTE_IOVA_VA;
}

// Pages that hold packets' bytes and nothing else, as workers may write to them. NULL: there is no run of
// so many.
static const struct rte_memzone *
reserve_bytes(const struct dps_pool_conf *conf, unsigned int flags)
{
	uint64_t page = flags & RTE_MEMZONE_1GB ? RTE_PGSIZE_1G : DPS_SLOT_PAGE;
	uint64_t room = room_of(conf), len = conf->mbufs * room;
	char name[RTE_MEMZONE_NAMESIZE];

	// A device that sees physical addresses needs each buffer within a page.
	if (by_pages())
		len = (conf->mbufs / (page / room) + 1) * page;
	snprintf(name, sizeof(name), "bytes_%.24s", conf->name);
	return rte_memzone_reserve_aligned(name, RTE_ALIGN(len, (uint64_t)DPS_SLOT_PAGE), conf->numa, flags,
					   DPS_SLOT_PAGE);
}

struct bytes {
	const struct rte_memzone *zone;
	uint64_t at;            // from its start
	uint32_t room;
};

static void
give_bytes(struct rte_mempool *mp, void *arg, void *object, unsigned int index)
{
	struct bytes *b = arg;
	struct rte_mbuf *m = object;

	rte_pktmbuf_init(mp, NULL, object, index);
	if (by_pages() && b->at / b->zone->hugepage_sz != (b->at + b->room - 1) / b->zone->hugepage_sz)
		b->at = RTE_ALIGN(b->at, b->zone->hugepage_sz);
	m->buf_addr = RTE_PTR_ADD(b->zone->addr, b->at);
	rte_mbuf_iova_set(m, rte_mem_virt2iova(m->buf_addr));
	b->at += b->room;
}

// Headers here and bytes there: workers write bytes, and headers are the primary's alone (law 1). To DPDK
// these are plain mbufs, not ones with a pinned external buffer: those cost some instructions at each free,
// and drivers that write ol_flags as a whole lose the flag that says so. What differs is that no mbuf can
// be found from its buffer, which only rte_pktmbuf_attach needs: nothing here clones a packet.
static struct rte_mempool *
create_apart(const struct dps_pool_conf *conf, const struct rte_memzone *zone, unsigned int flags)
{
	struct rte_pktmbuf_pool_private priv = { .mbuf_data_room_size = conf->data_room };
	struct bytes bytes = { zone, 0, room_of(conf) };
	uint32_t elt = sizeof(struct rte_mbuf);
	struct rte_mempool *mp;
	int ret;

	mp = rte_mempool_create_empty(conf->name, conf->mbufs, elt, conf->cache, sizeof(priv),
				      conf->numa, 0);
	if (mp == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(mp, POOL_OPS, NULL);
	if (ret == 0) {
		rte_pktmbuf_pool_init(mp, &priv);
		ret = flags != 0 ? populate_zone(mp, conf->name, elt) : rte_mempool_populate_default(mp);
		ret = ret < (int)conf->mbufs ? (ret < 0 ? ret : -ENOMEM) : 0;
	}
	if (ret != 0) {
		rte_mempool_free(mp);
		rte_errno = -ret;
		return NULL;
	}
	rte_mempool_obj_iter(mp, give_bytes, &bytes);
	return mp;
}

int
dps_pool_create(const struct dps_pool_conf *conf)
{
	unsigned int flags = conf->page_size == RTE_PGSIZE_1G ? RTE_MEMZONE_1GB : 0;
	struct primary *p = &the_primary;
	const struct rte_memzone *zone;
	struct rte_mempool *mp;

	if (p->n_pools == DPS_MAX_POOLS)
		return -ENOSPC;
	zone = reserve_bytes(conf, flags);
	if (zone == NULL)
		return rte_errno ? -rte_errno : -ENOMEM;
	mp = create_apart(conf, zone, flags);
	if (mp == NULL) {
		int ret = rte_errno ? -rte_errno : -ENOMEM;

		rte_memzone_free(zone);
		return ret;
	}
	p->bytes[p->n_pools] = zone;
	p->pool[p->n_pools] = mp;
	return p->n_pools++;
}

int
dps_pool_stats_get(uint32_t pool, struct dps_pool_stats *out)
{
	struct primary *p = &the_primary;

	if (pool >= p->n_pools)
		return -EINVAL;
	out->size = p->pool[pool]->size;
	out->free = rte_mempool_avail_count(p->pool[pool]);
	out->low_water = out->free;
	out->starved = 0;
	for (uint32_t i = 0; i < p->n_io; i++) {
		uint64_t low = __atomic_load_n(&p->io[i]->low_water[pool], __ATOMIC_RELAXED);

		out->low_water = RTE_MIN(out->low_water, low);
		out->starved += __atomic_load_n(&p->io[i]->starved[pool], __ATOMIC_RELAXED);
	}
	return 0;
}
