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

// All objects of a pool, in a zone of their own, which is freed after the pool: the pool's lists are in it.
// NULL: there is none.
static const struct rte_memzone *
populate_zone(struct rte_mempool *mp, const char *of, unsigned int flags, int *ret)
{
	size_t len = (size_t)mp->size * (mp->header_size + mp->elt_size + mp->trailer_size);
	const struct rte_memzone *mz;
	char name[RTE_MEMZONE_NAMESIZE];

	// Objects do not cross pages where a device sees physical addresses: some more.
	len = RTE_ALIGN(len + len / 64 + RTE_CACHE_LINE_SIZE, (size_t)DPS_SLOT_PAGE);
	snprintf(name, sizeof(name), "dps_%.24s", of);
	mz = rte_memzone_reserve_aligned(name, len, mp->socket_id, flags, DPS_SLOT_PAGE);
	if (mz == NULL) {
		*ret = -rte_errno;
		return NULL;
	}
	// IOVA as VA: the zone is one run of addresses whatever its pages.
	*ret = rte_mempool_populate_virt(mp, mz->addr, mz->len, mz->hugepage_sz, NULL, NULL);
	*ret = *ret < 0 ? *ret : *ret < (int)mp->size ? -ENOMEM : 0;
	return mz;
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

static struct rte_mempool *
create_empty(const struct dps_pool_conf *conf, uint32_t elt)
{
	struct rte_pktmbuf_pool_private priv = { .mbuf_data_room_size = conf->data_room };
	struct rte_mempool *mp;

	mp = rte_mempool_create_empty(conf->name, conf->mbufs, elt, conf->cache, sizeof(priv),
				      conf->numa, 0);
	if (mp == NULL)
		return NULL;
	if (rte_mempool_set_ops_byname(mp, POOL_OPS, NULL) != 0) {
		rte_mempool_free(mp);
		rte_errno = ENOTSUP;
		return NULL;
	}
	rte_pktmbuf_pool_init(mp, &priv);
	return mp;
}

// Headers here and bytes there: workers write bytes, and headers are the primary's alone (law 1). To DPDK
// these are plain mbufs, not ones with a pinned external buffer: those cost some instructions at each free,
// and drivers that write ol_flags as a whole lose the flag that says so. What differs is that no mbuf can
// be found from its buffer, which only rte_pktmbuf_attach needs: nothing here clones a packet.
static int
create_apart(const struct dps_pool_conf *conf, unsigned int flags, struct rte_mempool **mp,
	     const struct rte_memzone **zone)
{
	const struct rte_memzone *objects = NULL;
	struct bytes bytes = { .room = room_of(conf) };
	int ret;

	*zone = bytes.zone = reserve_bytes(conf, flags);
	if (*zone == NULL)
		return -rte_errno;
	*mp = create_empty(conf, sizeof(struct rte_mbuf));
	if (*mp == NULL) {
		ret = -rte_errno;
		goto free_zone;
	}
	if (flags != 0) {
		objects = populate_zone(*mp, conf->name, flags, &ret);
	} else {
		ret = rte_mempool_populate_default(*mp);
		ret = ret < 0 ? ret : ret < (int)conf->mbufs ? -ENOMEM : 0;
	}
	if (ret != 0)
		goto free_pool;
	rte_mempool_obj_iter(*mp, give_bytes, &bytes);
	return 0;

free_pool:
	rte_mempool_free(*mp);
	rte_memzone_free(objects);
free_zone:
	rte_memzone_free(*zone);
	return ret;
}

// As DPDK lays pools out: some drivers register a pool's memory, and know no other (dpsup/plan/place.py).
// Workers may write all of it.
static int
create_whole(const struct dps_pool_conf *conf, unsigned int flags, struct rte_mempool **mp,
	     const struct rte_memzone **zone)
{
	int ret;

	*mp = create_empty(conf, sizeof(struct rte_mbuf) + conf->data_room);
	if (*mp == NULL)
		return -rte_errno;
	ret = -ENOMEM;
	*zone = populate_zone(*mp, conf->name, flags, &ret);
	if (ret != 0) {
		rte_mempool_free(*mp);
		rte_memzone_free(*zone);
		return ret;
	}
	rte_mempool_obj_iter(*mp, rte_pktmbuf_init, NULL);
	return 0;
}

int
dps_pool_create(const struct dps_pool_conf *conf)
{
	unsigned int flags = conf->page_size == RTE_PGSIZE_1G ? RTE_MEMZONE_1GB : 0;
	struct primary *p = &the_primary;
	const struct rte_memzone *zone = NULL;
	struct rte_mempool *mp = NULL;
	int ret;

	if (p->n_pools == DPS_MAX_POOLS)
		return -ENOSPC;
	ret = conf->whole ? create_whole(conf, flags, &mp, &zone) : create_apart(conf, flags, &mp, &zone);
	if (ret != 0)
		return ret;
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
