// SPDX-License-Identifier: BSD-3-Clause
//
// Packet pools. Only the primary's io cores allocate and free (law 1): a process killed inside a
// get or put would wedge the pool for all others. So the usual multi-producer pool is sound here,
// and each io core has a cache of its own.

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_memzone.h>

#include "primary.h"

// A pool on pages of one size: EAL picks among its page sizes by itself unless told.
static struct rte_mempool *
create_on_pages(const struct dps_pool_conf *conf, unsigned int flags)
{
	uint32_t elt = sizeof(struct rte_mbuf) + conf->data_room;
	struct rte_pktmbuf_pool_private priv = { .mbuf_data_room_size = conf->data_room };
	const struct rte_memzone *mz = NULL;
	struct rte_mempool *mp;
	struct rte_mempool_objsz objsz;
	char name[RTE_MEMZONE_NAMESIZE];
	size_t len;
	int ret;

	mp = rte_mempool_create_empty(conf->name, conf->mbufs, elt, conf->cache, sizeof(priv),
				      conf->numa, 0);
	if (mp == NULL)
		return NULL;
	ret = rte_mempool_set_ops_byname(mp, POOL_OPS, NULL);
	if (ret != 0)
		goto free_pool;
	rte_pktmbuf_pool_init(mp, &priv);
	rte_mempool_calc_obj_size(elt, mp->flags, &objsz);
	len = (size_t)conf->mbufs * objsz.total_size + RTE_CACHE_LINE_SIZE;
	snprintf(name, sizeof(name), "dps_%.24s", conf->name);
	mz = rte_memzone_reserve_aligned(name, len, conf->numa, flags, RTE_CACHE_LINE_SIZE);
	if (mz == NULL) {
		ret = -rte_errno;
		goto free_pool;
	}
	// IOVA as VA: the zone is one run of addresses whatever its pages.
	ret = rte_mempool_populate_virt(mp, mz->addr, mz->len, mz->hugepage_sz, NULL, NULL);
	if (ret < (int)conf->mbufs) {
		ret = ret < 0 ? ret : -ENOMEM;
		goto free_zone;
	}
	rte_mempool_obj_iter(mp, rte_pktmbuf_init, NULL);
	return mp;

free_zone:
	rte_memzone_free(mz);
free_pool:
	rte_mempool_free(mp);
	rte_errno = -ret;
	return NULL;
}

int
dps_pool_create(const struct dps_pool_conf *conf)
{
	struct primary *p = &the_primary;
	struct rte_mempool *mp;

	if (p->n_pools == DPS_MAX_POOLS)
		return -ENOSPC;
	if (conf->page_size == 1u << 30)
		mp = create_on_pages(conf, RTE_MEMZONE_1GB);
	else
		mp = rte_pktmbuf_pool_create_by_ops(conf->name, conf->mbufs, conf->cache, 0,
						    conf->data_room, conf->numa, POOL_OPS);
	if (mp == NULL)
		return rte_errno ? -rte_errno : -ENOMEM;
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
