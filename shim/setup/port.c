// SPDX-License-Identifier: BSD-3-Clause
//
// Ports: queues for the io cores, RSS, thresholds, MTU, and what the driver cannot do, in words.

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>

#include "primary.h"

static void __rte_format_printf(2, 3)
say(char *why, const char *format, ...)
{
	size_t used = strlen(why);
	va_list ap;

	va_start(ap, format);
	vsnprintf(why + used, DPS_TEXT - used, format, ap);
	va_end(ap);
}

// Drivers that copy a packet in tx and free its mbuf at once: none of theirs is ever in a tx ring.
static bool
driver_copies_tx(const char *driver)
{
	static const char *const names[] = { "net_null", "net_pcap", "net_af_packet", "net_tap" };

	for (size_t i = 0; i < RTE_DIM(names); i++)
		if (strcmp(driver, names[i]) == 0)
			return true;
	return false;
}

// Drivers whose queues are given by their arguments and all receive: each has to be polled.
static bool
driver_feeds_all_queues(const char *driver)
{
	return strcmp(driver, "net_pcap") == 0 || strcmp(driver, "net_af_packet") == 0;
}

static uint64_t
rss_types(uint64_t asked)
{
	uint64_t types = 0;

	if (asked & DPS_RSS_IPV4)
		types |= RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER;
	if (asked & DPS_RSS_IPV6)
		types |= RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER |
			 RTE_ETH_RSS_IPV6_EX;
	if (asked & DPS_RSS_TCP)
		types |= RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP |
			 RTE_ETH_RSS_IPV6_TCP_EX;
	if (asked & DPS_RSS_UDP)
		types |= RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP |
			 RTE_ETH_RSS_IPV6_UDP_EX;
	if (asked & DPS_RSS_SCTP)
		types |= RTE_ETH_RSS_NONFRAG_IPV4_SCTP | RTE_ETH_RSS_NONFRAG_IPV6_SCTP;
	return types;
}

// The fields that the NIC's hash must cover for it to agree with the software's.
static uint64_t
rss_must(uint64_t asked)
{
	uint64_t types = 0;

	if (asked & DPS_RSS_IPV4)
		types |= RTE_ETH_RSS_IPV4;
	if (asked & DPS_RSS_IPV6)
		types |= RTE_ETH_RSS_IPV6;
	if (asked & DPS_RSS_TCP)
		types |= asked & DPS_RSS_IPV4 ? RTE_ETH_RSS_NONFRAG_IPV4_TCP : 0;
	if (asked & DPS_RSS_UDP)
		types |= asked & DPS_RSS_IPV4 ? RTE_ETH_RSS_NONFRAG_IPV4_UDP : 0;
	return types;
}

static void
rss_setup(const struct dps_port_conf *conf, const struct rte_eth_dev_info *dev, struct port *port,
	  struct rte_eth_conf *eth, uint8_t *key, char *note)
{
	uint64_t can = dev->flow_type_rss_offloads & rss_types(conf->rss_types);
	uint64_t missing = rss_must(conf->rss_types) & ~dev->flow_type_rss_offloads;
	uint32_t key_len = conf->key_len;

	if (dev->flow_type_rss_offloads == 0) {
		say(note, "driver has no RSS: flows are hashed in software. ");
		return;
	}
	if (missing != 0) {
		say(note, "driver's RSS lacks fields (0x%" PRIx64 "): flows are hashed in software. ",
		    missing);
		return;
	}
	if (dev->hash_key_size != 0 && dev->hash_key_size != key_len) {
		if (dev->hash_key_size < 40 || dev->hash_key_size > DPS_KEY) {
			say(note, "driver's RSS key has %u bytes, %u asked: hashed in software. ",
			    dev->hash_key_size, key_len);
			return;
		}
		// Longer keys only serve longer inputs: the first bytes decide, repeat them.
		for (uint32_t i = key_len; i < dev->hash_key_size; i++)
			key[i] = key[i % key_len];
		key_len = dev->hash_key_size;
	}
	eth->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	eth->rx_adv_conf.rss_conf.rss_hf = can;
	eth->rx_adv_conf.rss_conf.rss_key = key;
	eth->rx_adv_conf.rss_conf.rss_key_len = key_len;
	port->rss = true;
	if (conf->rss_types & DPS_RSS_INNER) {
		say(note, "inner headers of tunnels are hashed in software. ");
	} else if (conf->rss_types & DPS_HASH_FRAGMENTS) {
		say(note, "fragments are tracked in software, which hashes all packets. ");
	} else if (dev->rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH) {
		eth->rxmode.offloads |= RTE_ETH_RX_OFFLOAD_RSS_HASH;
		port->hashes = DPS_HASHES_COMPARED;
		port->odd_flags |= RTE_MBUF_F_RX_RSS_HASH;
	} else {
		say(note, "driver spreads by RSS but does not report the hash: hashed in software. ");
	}
}

// Why a driver takes no rx queue it does not say; frames that do not fit are the usual reason.
static void
rx_refused(const struct port *port, const struct rte_eth_dev_info *dev, uint32_t q, char *why)
{
	uint32_t room = rte_pktmbuf_data_room_size(the_primary.pool[port->pool]) -
			RTE_PKTMBUF_HEADROOM;

	if (room < dev->min_rx_bufsize)
		say(why, "the driver wants mbufs of %u bytes, the mempool's have %u: raise data_room",
		    dev->min_rx_bufsize, room);
	else if (port->frame_most > room && !(dev->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER))
		say(why, "frames have up to %u bytes, the mempool's mbufs %u, and the driver spreads "
		    "no frame over several: raise data_room or lower mtu", port->frame_most, room);
	else
		say(why, "the driver refused rx queue %u with %u descriptors and mbufs of %u bytes",
		    q, port->rx_desc, room);
}

static int
queues_setup(const struct dps_port_conf *conf, struct port *port, struct rte_eth_dev_info *dev,
	     const struct rte_eth_conf *eth, char *why)
{
	int socket = rte_eth_dev_socket_id(port->id);
	struct rte_eth_rxconf rx = dev->default_rxconf;
	struct rte_eth_txconf tx = dev->default_txconf;
	int ret;

	if (conf->rx_free >= 0)
		rx.rx_free_thresh = conf->rx_free;
	if (conf->rx_drop >= 0)
		rx.rx_drop_en = conf->rx_drop;
	if (conf->tx_free >= 0)
		tx.tx_free_thresh = conf->tx_free;
	rx.offloads = eth->rxmode.offloads;
	tx.offloads = eth->txmode.offloads;
	for (uint32_t q = 0; q < port->rx_queues; q++) {
		ret = rte_eth_rx_queue_setup(port->id, q, port->rx_desc, socket, &rx,
					     the_primary.pool[port->pool]);
		if (ret < 0) {
			rx_refused(port, dev, q, why);
			return ret;
		}
	}
	for (uint32_t q = 0; q < port->tx_queues; q++) {
		ret = rte_eth_tx_queue_setup(port->id, q, port->tx_desc, socket, &tx);
		if (ret < 0) {
			say(why, "tx queue %u with %u descriptors was refused", q, port->tx_desc);
			return ret;
		}
	}
	return 0;
}

// Spread the indirection table evenly; drivers without one do their own spreading.
static void
reta_setup(struct port *port, const struct rte_eth_dev_info *dev, char *note)
{
	struct rte_eth_rss_reta_entry64 reta[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];

	if (!port->rss || dev->reta_size == 0 || dev->reta_size > RTE_ETH_RSS_RETA_SIZE_512)
		return;
	memset(reta, 0, sizeof(reta));
	for (uint32_t i = 0; i < dev->reta_size; i++) {
		reta[i / RTE_ETH_RETA_GROUP_SIZE].mask |= 1ull << i % RTE_ETH_RETA_GROUP_SIZE;
		reta[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] =
			i % port->rx_queues;
	}
	if (rte_eth_dev_rss_reta_update(port->id, reta, dev->reta_size) != 0)
		say(note, "driver keeps its own indirection table. ");
}

static int
configure(const struct dps_port_conf *conf, struct port *port, struct rte_eth_dev_info *dev,
	  struct rte_eth_conf *eth, char *why)
{
	uint32_t most;
	int ret;

	eth->rxmode.mtu = conf->mtu;
	eth->intr_conf.rxq = sleep_wants_interrupts(dev->driver_name);
	ret = rte_eth_dev_configure(port->id, port->rx_queues, port->tx_queues, eth);
	if (ret == 0)
		return 0;
	// Some virtual drivers state a frame limit that their own default MTU breaks; there the MTU
	// is the kernel's or the peer's, and the io core's own check of length holds.
	most = RTE_MIN((uint32_t)dev->max_mtu, dev->max_rx_pktlen - RTE_ETHER_HDR_LEN);
	if (conf->mtu > most) {
		say(why, "mtu %u is more than the driver takes (%u)", conf->mtu, most);
		return -EINVAL;
	}
	eth->rxmode.mtu = most - RTE_ETHER_CRC_LEN;
	ret = rte_eth_dev_configure(port->id, port->rx_queues, port->tx_queues, eth);
	if (ret < 0)
		say(why, "driver refused %u rx and %u tx queues", port->rx_queues, port->tx_queues);
	return ret;
}

static uint64_t
taken(uint32_t pool)
{
	return the_primary.pool[pool]->size - rte_mempool_avail_count(the_primary.pool[pool]);
}

// What the control thread took and gave back while io cores run: its cache is no place that the audit
// knows.
static void
keep_nothing_back(uint32_t pool)
{
	struct rte_mempool *mp = the_primary.pool[pool];
	struct rte_mempool_cache *cache = rte_mempool_default_cache(mp, rte_get_main_lcore());

	if (cache != NULL)
		rte_mempool_cache_flush(cache, mp);
}

// Drivers set their NIC's key at each start, from where ethdev was told that it lies: ethdev copies
// the pointer alone.
static uint8_t keys[DPS_MAX_PORTS][DPS_KEY];

static int
device_open(const struct dps_port_conf *conf, uint32_t n_io, struct port *port, uint8_t *key, char *why)
{
	struct primary *p = &the_primary;
	struct rte_eth_dev_info dev;
	struct rte_eth_conf eth;
	struct rte_ether_addr mac;
	uint16_t rx_desc = conf->rx_desc;
	uint16_t tx_desc = conf->tx_desc;
	char *note = port->info.note;
	uint32_t room;
	int ret;

	why[0] = '\0';
	if (conf->pool >= p->n_pools)
		return -EINVAL;
	memset(&eth, 0, sizeof(eth));
	memcpy(key, conf->key, DPS_KEY);
	if (conf->vdev[0] != '\0') {
		// Plugged in one by one, not by EAL's start: so that each failure has its port's name,
		// and a port that is not required may fail. Not by rte_eal_hotplug_add either: its
		// message to secondaries has room for 128 bytes of arguments.
		const char *args = strchr(conf->vdev, ',');

		ret = rte_vdev_init(conf->device, args != NULL ? args + 1 : "");
		if (ret != 0) {
			say(why, "driver refused %.200s", conf->vdev);
			return ret;
		}
	}
	ret = rte_eth_dev_get_port_by_name(conf->device, &port->id);
	// EAL's start takes the PCI devices that are there. One that comes later is probed with its
	// arguments: EAL forgets those of before. The seed answers that it needs none.
	if (ret != 0 && p->io_running && conf->vdev[0] == '\0' && rte_dev_probe(conf->pci) == 0)
		ret = rte_eth_dev_get_port_by_name(conf->device, &port->id);
	if (ret != 0) {
		say(why, "no such device: no driver took %s", conf->device);
		if (conf->vdev[0] != '\0')
			device_unplug(conf->device);
		return -ENODEV;
	}
	port->virtual = conf->vdev[0] != '\0';
	port->odd_flags = RTE_MBUF_F_RX_VLAN_STRIPPED;
	ret = rte_eth_dev_info_get(port->id, &dev);
	if (ret != 0)
		goto unplug;
	port->pool = conf->pool;
	port->group = conf->group;
	port->hold = conf->hold;
	memcpy(port->vdev, conf->vdev, sizeof(port->vdev));
	port->copies_tx = driver_copies_tx(dev.driver_name);
	port->frame_most = conf->mtu + ETHER_MOST;
	if (dev.max_rx_queues == 0 || dev.max_tx_queues == 0) {
		say(why, "driver offers %u rx and %u tx queues, one of each is needed",
		    dev.max_rx_queues, dev.max_tx_queues);
		ret = -ENOTSUP;
		goto unplug;
	}
	port->rx_queues = RTE_MIN(n_io, (uint32_t)dev.max_rx_queues);
	if (driver_feeds_all_queues(dev.driver_name))
		port->rx_queues = RTE_MIN(dev.max_rx_queues, DPS_POLLED_QUEUES);
	port->tx_queues = RTE_MIN(n_io, (uint32_t)dev.max_tx_queues);
	if (port->rx_queues < n_io)
		say(note, "%u rx queues for %u io cores: the others receive nothing here. ",
		    port->rx_queues, n_io);

	rss_setup(conf, &dev, port, &eth, key, note);
	room = rte_pktmbuf_data_room_size(p->pool[port->pool]) - RTE_PKTMBUF_HEADROOM;
	if (port->frame_most > room && dev.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER)
		eth.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
	// All packets are of one pool, in one mbuf, and have one reference: sent packets are freed in bulk.
	// Never with packets of several mbufs: some drivers free only the first then.
	if (the_primary.n_pools == 1 && conf->one_mbuf &&
	    dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	else if (dev.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
		eth.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

	ret = configure(conf, port, &dev, &eth, why);
	if (ret < 0)
		goto unplug;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &rx_desc, &tx_desc);
	if (ret < 0) {
		say(why, "%u rx and %u tx descriptors were refused", conf->rx_desc, conf->tx_desc);
		goto unplug;
	}
	if (rx_desc != conf->rx_desc || tx_desc != conf->tx_desc)
		say(note, "driver made it %u rx and %u tx descriptors. ", rx_desc, tx_desc);
	port->rx_desc = rx_desc;
	port->tx_desc = tx_desc;
	ret = queues_setup(conf, port, &dev, &eth, why);
	if (ret < 0)
		goto unplug;
	if (conf->promiscuous && rte_eth_promiscuous_enable(port->id) != 0)
		say(note, "driver has no promiscuous mode to set. ");

	snprintf(port->info.driver, sizeof(port->info.driver), "%s", dev.driver_name);
	if (rte_eth_macaddr_get(port->id, &mac) == 0)
		memcpy(port->info.mac, mac.addr_bytes, sizeof(mac.addr_bytes));
	port->info.max_rx_queues = dev.max_rx_queues;
	port->info.max_tx_queues = dev.max_tx_queues;
	port->info.rx_queues = port->rx_queues;
	port->info.tx_queues = port->tx_queues;
	port->info.rx_desc = rx_desc;
	port->info.tx_desc = tx_desc;
	port->info.mtu = conf->mtu;
	port->info.reta_size = dev.reta_size;
	port->info.key_size = dev.hash_key_size;
	port->info.copies_tx = port->copies_tx;
	port->info.if_index = dev.if_index;
	if (strcmp(dev.driver_name, "net_af_packet") == 0 && !packet_sockets_never_block(dev.if_index))
		say(note, "no right to raise the limit of its sockets (CAP_NET_ADMIN): behind a slow "
		    "qdisc its driver may sleep. ");
	port->info.numa = rte_eth_dev_socket_id(port->id);
	port->info.rss_offloads = dev.flow_type_rss_offloads;
	port->info.rx_offloads = dev.rx_offload_capa;
	port->info.tx_offloads = dev.tx_offload_capa;
	return 0;

unplug:
	device_let_go(port);
	return ret;
}

int
dps_port_create(const struct dps_port_conf *conf, uint32_t n_io, char *why)
{
	struct primary *p = &the_primary;
	struct port *port = &p->port[p->n_ports];
	uint64_t before;
	int ret;

	if (p->n_ports == DPS_MAX_PORTS || conf->pool >= p->n_pools)
		return -EINVAL;
	before = taken(conf->pool);
	memset(port, 0, sizeof(*port));
	ret = device_open(conf, n_io, port, keys[p->n_ports], why);
	if (ret != 0)
		return ret;
	device_watch(p->n_ports, conf);
	port->held = taken(conf->pool) - before;
	return p->n_ports++;
}

// A port that is not there keeps its name and index: plugins may send to it, and what they send is
// counted.
int
dps_port_absent(const struct dps_port_conf *conf)
{
	struct primary *p = &the_primary;
	struct port *port = &p->port[p->n_ports];

	if (p->n_ports == DPS_MAX_PORTS)
		return -ENOSPC;
	memset(port, 0, sizeof(*port));
	port->pool = conf->pool;
	port->group = conf->group;
	port->absent = true;
	port->shut = true;
	device_watch(p->n_ports, conf);
	return p->n_ports++;
}

static int
device_start(struct port *port)
{
	struct rte_eth_dev_info dev;
	int ret = rte_eth_dev_start(port->id);

	if (ret < 0) {
		device_let_go(port);
		return ret;
	}
	port->started = true;
	if (rte_eth_dev_info_get(port->id, &dev) == 0)
		reta_setup(port, &dev, port->info.note);
	return 0;
}

int
dps_port_start(uint32_t index)
{
	struct port *port = &the_primary.port[index];
	uint64_t before;
	int ret;

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	before = taken(port->pool);
	ret = device_start(port);
	if (ret < 0) {
		port->absent = true;
		port->shut = true;
	} else {
		port->held += taken(port->pool) - before;
	}
	return ret;
}

int
dps_port_shut(uint32_t index, uint32_t shut)
{
	struct port *port = &the_primary.port[index];

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	port->shut = shut;
	return io_ports_changed();
}

// The device goes, the port stays: its index, its counters, and what io cores drop for it.
int
dps_port_close(uint32_t index)
{
	struct port *port = &the_primary.port[index];
	int ret;

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	// Whatever happens from here on, no io core may be in its driver.
	ret = dps_port_shut(index, 1);
	if (ret != 0)
		return ret;
	port_ask_driver(port);
	the_primary.rx_held[port->pool] -= RTE_MIN(port->held, the_primary.rx_held[port->pool]);
	if (port->started)
		rte_eth_dev_stop(port->id);
	port->started = false;
	port->absent = true;
	device_let_go(port);
	keep_nothing_back(port->pool);
	return 0;
}

// The mbufs in a driver's rx queues, of a port that was absent at the start: while io cores run,
// they cannot be counted. Of the virtual drivers that wait for a device, net_tap keeps some; those of
// PCI devices fill their rings.
static uint64_t
held_by_driver(const struct port *port)
{
	if (!port->virtual)
		return (uint64_t)port->rx_queues * port->rx_desc;
	if (strcmp(port->info.driver, "net_tap") != 0)
		return 0;
	return (uint64_t)port->rx_queues * RTE_MIN(port->rx_desc, (uint32_t)sysconf(_SC_IOV_MAX) - 1);
}

// A port whose device went, or was never there, gets one again. Io cores have it once it is no longer
// shut.
int
dps_port_open(uint32_t index, const struct dps_port_conf *conf, uint32_t n_io, char *why)
{
	struct port *port = &the_primary.port[index];
	struct port fresh = { .shut = true };
	int ret;

	if (index >= the_primary.n_ports || !port->absent)
		return -EINVAL;
	device_stays(index);
	ret = device_open(conf, n_io, &fresh, keys[index], why);
	if (ret == 0) {
		ret = device_start(&fresh);
		if (ret != 0)
			say(why, "it does not start");
	}
	keep_nothing_back(conf->pool);
	if (ret != 0)
		return ret;
	for (int which = 0; which < DRIVER_COUNTS; which++)
		fresh.said[which].sum = port->said[which].sum;
	fresh.failed = port->failed;
	fresh.before = hashes_compared(index);
	fresh.held = port->held != 0 ? port->held : held_by_driver(&fresh);
	the_primary.rx_held[fresh.pool] += fresh.held;
	*port = fresh;
	return 0;
}

int
dps_port_fd(uint32_t index)
{
	struct port *port = &the_primary.port[index];

	if (index >= the_primary.n_ports || port->absent ||
	    !sleep_wants_interrupts(port->info.driver))
		return -1;
	return rte_eth_dev_rx_intr_ctl_q_get_fd(port->id, 0);
}

int
dps_port_info_get(uint32_t index, struct dps_port_info *out)
{
	struct rte_eth_link link;
	struct port *port = &the_primary.port[index];

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	*out = port->info;
	out->hw_rss = port->hw_rss;
	if (rte_eth_link_get_nowait(port->id, &link) == 0) {
		out->link_up = link.link_status;
		out->link_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	}
	return 0;
}

int
dps_port_reta_get(uint32_t index, uint16_t *queues, uint32_t n)
{
	struct rte_eth_rss_reta_entry64 reta[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	struct port *port = &the_primary.port[index];
	uint32_t size = port->info.reta_size;
	int ret;

	if (index >= the_primary.n_ports || port->absent)
		return -EINVAL;
	if (size == 0 || size > RTE_ETH_RSS_RETA_SIZE_512 || size > n)
		return -ENOTSUP;
	memset(reta, 0xff, sizeof(reta));
	ret = rte_eth_dev_rss_reta_query(port->id, reta, size);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < size; i++)
		queues[i] = reta[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return size;
}
