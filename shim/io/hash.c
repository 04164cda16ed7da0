// SPDX-License-Identifier: BSD-3-Clause
//
// The Toeplitz hash of a flow, for packets that the driver did not hash. The same function, key and
// fields as the NIC's (Microsoft, "RSS hashing functions"), so that both agree about a flow:
// addresses, and ports of TCP, UDP and SCTP; of a fragment the addresses alone, as it has no ports;
// of anything but IP the MAC addresses and the EtherType, of 802.3 the MAC addresses alone. Where it is
// asked for, the flow of a tunnel's packet is that of its inner headers; of a fragment of one, and of
// one that cannot be read, that of the outer ones. Where fragments are tracked, the first one is hashed as
// a whole packet, and the others as it was.
//
// DPDK's rte_softrss hashes numbers that a caller has found in a packet, a step for each bit; to find them
// is most of this file, and a table for each byte of the key makes the rest short. Over 600 lines: each kind
// of tunnel leads back to the search that found it, and the common path is inlined from it.

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_cpuflags.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_vect.h>

#include "fragments_pvt.h"
#include "primary.h"

enum {
	TUPLE_MOST = 36,        // two IPv6 addresses and two ports
	PLAIN_TUPLE = sizeof(struct rte_ether_hdr) + offsetof(struct rte_ipv4_hdr, src_addr),
	DEEP = 2,               // tunnels in tunnels that are looked into
	LABELS = 8,             // of MPLS
	MORE_HEADERS = 8        // of GTP-U
};

// UDP ports: RFC 8926, 3GPP TS 29.281. Those of VXLAN are the topology's.
enum { PORT_GENEVE = 6081, PORT_GTPU = 2152 };
enum { IN_UDP = DPS_RSS_VXLAN | DPS_RSS_GENEVE | DPS_RSS_GTPU };

enum {
	TYPE_MPLS = 0x8847,
	TYPE_MPLS_MULTICAST = 0x8848,
	TYPE_PPPOE = 0x8864,
	TYPE_ERSPAN = 0x88be,
	TYPE_ERSPAN_III = 0x22eb
};

// By position and value of an input byte: the XOR of the key's windows at its set bits.
static uint32_t table[TUPLE_MOST][256];
static uint64_t fields;
static bool with_ports[256];   // by IP protocol, over IPv4
static uint64_t windows[3];    // the key's 64 bits from each 32nd on, the first one lowest
#ifdef RTE_ARCH_X86_64
static bool has_clmul;
#endif

// What the calling thread counts fragments in, and has its records of them in: an io core's own, or none.
static struct dps_io_stats not_counted;
static __thread struct dps_io_stats *stats = &not_counted;
static __thread struct fragments *tracked;

void
hash_thread(struct dps_io_stats *counters, struct fragments *fragments)
{
	stats = counters;
	tracked = fragments;
}

struct fragments *
hash_fragments_create(void *(*zalloc)(size_t len), uint64_t lasts)
{
	struct fragments *all = zalloc(sizeof(*all));

	if (all != NULL)
		all->lasts = lasts;
	return all;
}

// The 32 bits of the key that start at a bit; past the key's end come zeros.
static uint32_t
key_window(const uint8_t *key, uint32_t len, uint32_t bit)
{
	uint32_t window = 0;

	for (uint32_t i = 0; i < 32; i++) {
		uint32_t at = bit + i;
		uint32_t set = at / 8 < len ? key[at / 8] >> (7 - at % 8) & 1 : 0;

		window = window << 1 | set;
	}
	return window;
}

uint32_t
dps_hash_bytes(const uint8_t *key, uint32_t key_len, const uint8_t *data, uint32_t len)
{
	uint32_t hash = 0;

	for (uint32_t bit = 0; bit < len * 8; bit++)
		if (data[bit / 8] >> (7 - bit % 8) & 1)
			hash ^= key_window(key, key_len, bit);
	return hash;
}

static bool
has_ports(uint8_t proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return fields & DPS_RSS_TCP;
	case IPPROTO_UDP:
		return fields & DPS_RSS_UDP;
	case IPPROTO_SCTP:
		return fields & DPS_RSS_SCTP;
	default:
		return false;
	}
}

int
dps_hash_conf(const uint8_t *key, uint32_t len, uint64_t types)
{
	if (len < TUPLE_MOST + 4 || len > DPS_KEY)
		return -EINVAL;
	for (uint32_t i = 0; i < TUPLE_MOST; i++)
		for (uint32_t v = 0; v < 256; v++) {
			uint32_t hash = 0;

			for (uint32_t bit = 0; bit < 8; bit++)
				if (v >> (7 - bit) & 1)
					hash ^= key_window(key, len, i * 8 + bit);
			table[i][v] = hash;
		}
	memset(windows, 0, sizeof(windows));
	for (uint32_t i = 0; i < RTE_DIM(windows); i++)
		for (uint32_t k = 0; k < 64; k++)
			windows[i] |= (uint64_t)(key_window(key, len, i * 32 + k) >> 31) << k;
#ifdef RTE_ARCH_X86_64
	has_clmul = rte_cpu_get_flag_enabled(RTE_CPUFLAG_PCLMULQDQ) > 0;
#endif
	fields = types;
	the_primary.tracks_fragments = types & DPS_HASH_FRAGMENTS;
	for (uint32_t proto = 0; proto < RTE_DIM(with_ports); proto++)
		with_ports[proto] = fields & DPS_RSS_IPV4 && has_ports(proto);
	// A possible tunnel takes the slow path.
	if (fields & IN_UDP)
		with_ports[IPPROTO_UDP] = false;
	if (the_primary.own != NULL) {
		memcpy(the_primary.own->hash_key, key, len);
		the_primary.own->hash_key_len = len;
		// A worker hashes flows, no fragments.
		the_primary.own->hash_fields = types & ~(uint64_t)DPS_HASH_FRAGMENTS;
	}
	return 0;
}

static inline uint32_t
hash_tuple(const uint8_t *tuple, uint32_t len)
{
	uint32_t hash = 0;

	for (uint32_t i = 0; i < len; i++)
		hash ^= table[i][tuple[i]];
	return hash;
}

// Most packets: IPv4 without options or fragments, whose addresses and ports lie in one piece.
static inline uint32_t
hash_12(const uint8_t *p)
{
	uint32_t a = table[0][p[0]] ^ table[1][p[1]] ^ table[2][p[2]] ^ table[3][p[3]];
	uint32_t b = table[4][p[4]] ^ table[5][p[5]] ^ table[6][p[6]] ^ table[7][p[7]];
	uint32_t c = table[8][p[8]] ^ table[9][p[9]] ^ table[10][p[10]] ^ table[11][p[11]];

	return a ^ b ^ c;
}

static inline bool
is_plain_ipv4(const uint8_t *p, uint32_t len)
{
	const struct rte_ipv4_hdr *ip = (const void *)(p + sizeof(struct rte_ether_hdr));
	uint16_t type;

	if (len < sizeof(struct rte_ether_hdr) + sizeof(*ip) + 4)
		return false;
	memcpy(&type, p + 12, 2);
	return type == RTE_BE16(RTE_ETHER_TYPE_IPV4) && ip->version_ihl == 0x45 &&
	       (ip->fragment_offset & RTE_BE16(0x3fff)) == 0 && with_ports[ip->next_proto_id];
}

static bool hash_l3(uint16_t type, const uint8_t *p, uint32_t len, int depth, uint32_t *hash);
static uint32_t hash_frame(const uint8_t *p, uint32_t len, int depth);

// What lies in a tunnel that says an EtherType.
static bool
hash_typed(uint16_t type, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	if (type != RTE_BE16(RTE_ETHER_TYPE_TEB))
		return hash_l3(type, p, len, depth, hash);
	if (len < sizeof(struct rte_ether_hdr))
		return false;
	*hash = hash_frame(p, len, depth);
	return true;
}

// IP whose version is its own first nibble; what has another one is no IP.
static bool
hash_ip(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	if (len == 0 || (p[0] >> 4 != 4 && p[0] >> 4 != 6))
		return false;
	return hash_l3(p[0] >> 4 == 4 ? RTE_BE16(RTE_ETHER_TYPE_IPV4) :
					RTE_BE16(RTE_ETHER_TYPE_IPV6),
		       p, len, depth, hash);
}

// Behind labels no type is said. The lengths are compared too, as the first nibble may be that of a MAC
// address: of an Ethernet pseudowire without a control word.
static bool
hash_unsaid_ip(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	if (len < 20)
		return false;
	if (p[0] >> 4 == 4 && (uint32_t)(p[2] << 8 | p[3]) > len)
		return false;
	if (p[0] >> 4 == 6 && (p[4] << 8 | p[5]) + 40u > len)
		return false;
	return hash_ip(p, len, depth, hash);
}

static bool
hash_mpls(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	const uint32_t mac = sizeof(struct rte_ether_hdr);
	uint32_t at = 0;
	uint16_t type;

	for (int i = 0; i < LABELS; i++) {
		if (len < at + 4)
			return false;
		at += 4;
		if (p[at - 2] & 1)
			break;
		if (i == LABELS - 1)
			return false;
	}
	if (len < at + 4 + mac || p[at] >> 4 != 0)
		return hash_unsaid_ip(p + at, len - at, depth, hash);
	// A pseudowire's control word (RFC 4385) and Ethernet; only with IP in it, as these may be the
	// MAC addresses of Ethernet without a control word, whose bytes at the type's place vary.
	at += 4;
	memcpy(&type, p + at + 12, 2);
	if (type != RTE_BE16(RTE_ETHER_TYPE_IPV4) && type != RTE_BE16(RTE_ETHER_TYPE_IPV6))
		return false;
	return hash_unsaid_ip(p + at + mac, len - at - mac, depth, hash);
}

// A session's packet (RFC 2516): version and type, code, session, length, PPP's protocol.
static bool
hash_pppoe(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint16_t protocol;

	if (len < 8 || p[0] != 0x11 || p[1] != 0)
		return false;
	protocol = p[6] << 8 | p[7];
	if (protocol == 0x0021)
		return hash_l3(RTE_BE16(RTE_ETHER_TYPE_IPV4), p + 8, len - 8, depth, hash);
	return protocol == 0x0057 &&
	       hash_l3(RTE_BE16(RTE_ETHER_TYPE_IPV6), p + 8, len - 8, depth, hash);
}

// Below IP. Not inlined into the common path.
static bool __rte_noinline
hash_below(uint16_t type, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	if (depth == DEEP)
		return false;
	switch (rte_be_to_cpu_16(type)) {
	case TYPE_MPLS:
	case TYPE_MPLS_MULTICAST:
		return fields & DPS_RSS_MPLS && hash_mpls(p, len, depth + 1, hash);
	case TYPE_PPPOE:
		return fields & DPS_RSS_PPPOE && hash_pppoe(p, len, depth + 1, hash);
	default:
		return false;
	}
}

static bool
hash_gtpu(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint32_t at = 8;

	// Version 1, a user's packet.
	if (len < at || (p[0] & 0xf0) != 0x30 || p[1] != 0xff)
		return false;
	if (p[0] & 7)
		at += 4;
	// Extension headers: length in units of 4 bytes, the next one's type at the end.
	for (int i = 0; p[0] & 4 && at < len && p[at - 1] != 0; i++) {
		if (p[at] == 0 || i == MORE_HEADERS)
			return false;
		at += p[at] * 4u;
	}
	return at < len && hash_ip(p + at, len - at, depth, hash);
}

// What lies behind GRE's own header. Type I has nothing before the frame, and no sequence number; type II
// has 8 bytes, type III 12, and 8 more where its last bit says so.
static bool
hash_erspan(uint16_t type, bool sequence, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint32_t at = 0;

	if (type == TYPE_ERSPAN && sequence) {
		if (len < 8 || p[0] >> 4 != 1)
			return false;
		at = 8;
	} else if (type == TYPE_ERSPAN_III) {
		if (len < 12 || p[0] >> 4 != 2 || (p[10] & 0x7c) != 0) // Ethernet
			return false;
		at = p[11] & 1 ? 20 : 12;
	}
	return at < len && hash_typed(RTE_BE16(RTE_ETHER_TYPE_TEB), p + at, len - at, depth, hash);
}

static bool
hash_gre(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint32_t at = 4;
	uint16_t type;

	// Version 0; checksum, key and sequence number are four bytes each (RFC 2890).
	if (len < at || (p[1] & 7) != 0)
		return false;
	at += ((p[0] >> 7 & 1) + (p[0] >> 5 & 1) + (p[0] >> 4 & 1)) * 4u;
	if (at >= len)
		return false;
	type = p[2] << 8 | p[3];
	if (type == TYPE_ERSPAN || type == TYPE_ERSPAN_III)
		return fields & DPS_RSS_ERSPAN &&
		       hash_erspan(type, p[0] & 0x10, p + at, len - at, depth, hash);
	return fields & DPS_RSS_GRE &&
	       hash_typed(rte_cpu_to_be_16(type), p + at, len - at, depth, hash);
}

static bool
is_vxlan_port(uint16_t port)
{
	for (uint32_t i = 0; i < DPS_RSS_VXLAN_PORTS; i++)
		if ((uint16_t)(fields >> (DPS_RSS_VXLAN_PORT + i * 16)) == port)
			return port != 0;
	return false;
}

// The flow inside of a tunnel; false: it is no tunnel to look into. Not inlined into the common path.
static bool __rte_noinline
hash_inner(uint8_t proto, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint32_t head;
	uint16_t type, port;

	if (depth == DEEP)
		return false;
	if (proto == IPPROTO_GRE)
		return fields & (DPS_RSS_GRE | DPS_RSS_ERSPAN) &&
		       hash_gre(p, len, depth + 1, hash);
	if (proto == IPPROTO_IPIP || proto == IPPROTO_IPV6)
		return fields & DPS_RSS_IPIP && p[0] >> 4 == (proto == IPPROTO_IPIP ? 4 : 6) &&
		       hash_ip(p, len, depth + 1, hash);
	if (proto != IPPROTO_UDP || len < 8 + 8)
		return false;
	port = p[2] << 8 | p[3];
	// Before the others: a topology may say any port.
	if (fields & DPS_RSS_VXLAN && p[8] & 8 && is_vxlan_port(port))
		return hash_typed(RTE_BE16(RTE_ETHER_TYPE_TEB), p + 16, len - 16, depth + 1, hash);
	switch (port) {
	case PORT_GENEVE:
		head = 8 + 8 + (p[8] & 0x3f) * 4u;
		memcpy(&type, p + 10, 2);
		return fields & DPS_RSS_GENEVE && p[8] >> 6 == 0 && head < len &&
		       hash_typed(type, p + head, len - head, depth + 1, hash);
	case PORT_GTPU:
		return fields & DPS_RSS_GTPU && hash_gtpu(p + 8, len - 8, depth + 1, hash);
	default:
		return false;
	}
}

// By its addresses alone, as the others of its packet have no ports.
static bool
hash_alone(const uint8_t *addresses, uint32_t len, uint32_t *hash)
{
	dps_count(&stats->fragments, 1);
	*hash = hash_tuple(addresses, len);
	return true;
}

// A fragment as its datagram's flow. `rest`: what lies behind the headers that each fragment has. Not
// inlined into the common path.
static bool __rte_noinline
hash_tracked(struct fragment *key, uint32_t ends, bool is_first, uint8_t proto, const uint8_t *rest,
	     uint32_t len, int depth, uint32_t *hash)
{
	uint8_t tuple[TUPLE_MOST];
	uint32_t by_ends = hash_tuple(key->ends, ends);
	const struct fragment *first;

	if (!is_first) {
		first = fragment_find(tracked, key, by_ends);
		if (first == NULL)
			return hash_alone(key->ends, ends, hash);
		*hash = first->hash;
	} else if (!(fields & DPS_RSS_INNER) || !hash_inner(proto, rest, len, depth, hash)) {
		if (!has_ports(proto) || len < 4)
			return hash_alone(key->ends, ends, hash);
		memcpy(tuple, key->ends, ends);
		memcpy(tuple + ends, rest, 4);
		*hash = hash_tuple(tuple, ends + 4);
	}
	dps_count(&stats->fragments_tracked, 1);
	key->hash = *hash;
	if (is_first && fragment_keep(tracked, key, by_ends))
		dps_count(&stats->fragments_forgotten, 1);
	return true;
}

static bool __rte_noinline
hash_fragment_ipv4(const uint8_t *p, uint32_t len, uint32_t header, int depth, uint32_t *hash)
{
	const struct rte_ipv4_hdr *ip = (const void *)p;
	const uint8_t *ends = p + offsetof(struct rte_ipv4_hdr, src_addr);
	struct fragment key = { .id = ip->packet_id, .kind = 4 << 8 | ip->next_proto_id };

	if (tracked == NULL || len <= header)
		return hash_alone(ends, 8, hash);
	memcpy(key.ends, ends, 8);
	return hash_tracked(&key, 8, (ip->fragment_offset & RTE_BE16(0x1fff)) == 0, ip->next_proto_id,
			    p + header, len - header, depth, hash);
}

// The header of a fragment lies at `at`; behind it, of the first one, the search goes on as in a packet.
static bool __rte_noinline
hash_fragment_ipv6(const uint8_t *p, uint32_t len, uint32_t at, int depth, uint32_t *hash)
{
	struct fragment key = { .kind = 6 << 8 };
	bool is_first = ((p[at + 2] << 8 | p[at + 3]) & 0xfff8) == 0;
	uint8_t proto = p[at];

	if (tracked == NULL)
		return hash_alone(p + 8, 32, hash);
	memcpy(&key.id, p + at + 4, 4);
	memcpy(key.ends, p + 8, 32);
	at += 8;
	for (int i = 0; is_first && proto == IPPROTO_DSTOPTS && i < 8 && len >= at + 8; i++) {
		proto = p[at];
		at += (p[at + 1] + 1) * 8u;
	}
	if (len <= at)
		return hash_alone(p + 8, 32, hash);
	return hash_tracked(&key, 32, is_first, proto, p + at, len - at, depth, hash);
}

static __rte_always_inline bool
hash_ipv4(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	const struct rte_ipv4_hdr *ip = (const void *)p;
	uint8_t tuple[TUPLE_MOST];
	uint32_t header;
	uint32_t n = 8;

	if (len < sizeof(*ip))
		return false;
	header = (p[0] & 0xf) * 4u;
	if (header < sizeof(*ip))
		return false;
	if (unlikely(fields & DPS_RSS_INNER) && len > header &&
	    (ip->fragment_offset & RTE_BE16(0x3fff)) == 0 &&
	    hash_inner(ip->next_proto_id, p + header, len - header, depth, hash))
		return true;
	memcpy(tuple, &ip->src_addr, 8);
	if (has_ports(ip->next_proto_id) && len >= header + 4 &&
	    (ip->fragment_offset & RTE_BE16(0x3fff)) == 0) {
		memcpy(tuple + 8, p + header, 4);
		n = 12;
	} else if (unlikely((ip->fragment_offset & RTE_BE16(0x3fff)) != 0)) {
		return hash_fragment_ipv4(p, len, header, depth, hash);
	}
	*hash = hash_tuple(tuple, n);
	return true;
}

static __rte_always_inline bool
hash_ipv6(const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	uint8_t tuple[TUPLE_MOST];
	uint32_t at = 40;
	uint32_t n = 32;
	uint8_t proto;

	if (len < at)
		return false;
	memcpy(tuple, p + 8, 32);
	proto = p[6];
	// Extension headers, bounded; the header of a fragment ends the search without ports, but not
	// that of an atomic one, which is a whole packet (RFC 6946).
	for (int i = 0; i < 8 && len >= at + 8; i++) {
		uint32_t size = (p[at + 1] + 1) * 8u;

		if (proto == IPPROTO_FRAGMENT) {
			if (((p[at + 2] << 8 | p[at + 3]) & 0xfff9) != 0)
				return hash_fragment_ipv6(p, len, at, depth, hash);
			size = 8;
		} else if (proto != IPPROTO_HOPOPTS && proto != IPPROTO_ROUTING &&
			   proto != IPPROTO_DSTOPTS) {
			break;
		}
		proto = p[at];
		at += size;
	}
	if (unlikely(fields & DPS_RSS_INNER) && len > at &&
	    hash_inner(proto, p + at, len - at, depth, hash))
		return true;
	if (has_ports(proto) && len >= at + 4) {
		memcpy(tuple + 32, p + at, 4);
		n = 36;
	}
	*hash = hash_tuple(tuple, n);
	return true;
}

static __rte_always_inline bool
hash_l3_here(uint16_t type, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	if (type == RTE_BE16(RTE_ETHER_TYPE_IPV4))
		return fields & DPS_RSS_IPV4 && hash_ipv4(p, len, depth, hash);
	if (type == RTE_BE16(RTE_ETHER_TYPE_IPV6))
		return fields & DPS_RSS_IPV6 && hash_ipv6(p, len, depth, hash);
	return unlikely(fields & (DPS_RSS_MPLS | DPS_RSS_PPPOE)) &&
	       hash_below(type, p, len, depth, hash);
}

static bool
hash_l3(uint16_t type, const uint8_t *p, uint32_t len, int depth, uint32_t *hash)
{
	return hash_l3_here(type, p, len, depth, hash);
}

static uint32_t
hash_frame(const uint8_t *p, uint32_t len, int depth)
{
	uint8_t tuple[14];
	uint32_t at = 12;
	uint32_t hash = 0;
	uint16_t type;

	if (len < sizeof(struct rte_ether_hdr)) {
		memset(tuple, 0, sizeof(tuple));
		memcpy(tuple, p, len);
		return hash_tuple(tuple, sizeof(tuple));
	}
	memcpy(&type, p + at, 2);
	for (int i = 0; i < 4 && len >= at + 6; i++) {
		if (type != RTE_BE16(RTE_ETHER_TYPE_VLAN) && type != RTE_BE16(RTE_ETHER_TYPE_QINQ) &&
		    type != RTE_BE16(RTE_ETHER_TYPE_QINQ1))
			break;
		at += 4;
		memcpy(&type, p + at, 2);
	}
	at += 2;
	if (hash_l3_here(type, p + at, len - at, depth, &hash))
		return hash;
	// 802.3: a length, not a type; frames of one conversation differ in it.
	if (rte_be_to_cpu_16(type) < 0x600)
		type = 0;
	memcpy(tuple, &type, 2);
	return hash_12(p) ^ table[12][tuple[0]] ^ table[13][tuple[1]];
}

uint32_t
hash_flow(const uint8_t *p, uint32_t len)
{
	if (likely(is_plain_ipv4(p, len)))
		return hash_12(p + PLAIN_TUPLE);
	return hash_frame(p, len, 0);
}

// Out of the way: of a NIC's first packets only.
void __rte_noinline
hash_compare(struct hash_check *check, const struct rte_mbuf *m)
{
	uint32_t hash = hash_flow(rte_pktmbuf_mtod(m, const uint8_t *), m->data_len);

	dps_count(&check->differ, m->hash.rss != hash);
	dps_count(&check->seen, 1);
}

// m->hash.rss of each; those that the NIC has hashed, if it does so as asked, have theirs.
static __rte_always_inline void
hash_each(struct rte_mbuf **m, uint32_t n, bool by_nic, uint32_t (*hash_plain)(const uint8_t *))
{
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *p = rte_pktmbuf_mtod(m[i], const uint8_t *);

		if (is_hashed(m[i], by_nic))
			continue;
		if (likely(is_plain_ipv4(p, m[i]->data_len)))
			m[i]->hash.rss = hash_plain(p + PLAIN_TUPLE);
		else
			m[i]->hash.rss = hash_frame(p, m[i]->data_len, 0);
	}
}

#ifdef RTE_ARCH_X86_64

// The same without tables, which for this are 12 KiB of the first cache: a hash's bits are those in the
// middle of a product without carries of input and key. Each of three 32-bit words, its first bit the
// highest, by the 64 bits of the key that begin where it does, their first bit the lowest.
#define CLMUL __attribute__((target("pclmul,ssse3")))

static CLMUL inline uint32_t
hash_12_clmul(const uint8_t *p)
{
	const __m128i first = _mm_setr_epi8(7, 6, 5, 4, -1, -1, -1, -1, 11, 10, 9, 8, -1, -1, -1, -1);
	const __m128i last = _mm_setr_epi8(15, 14, 13, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
	const __m128i low = _mm_set1_epi8(0x0f);
	const __m128i capture = _mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15);
	// Four bytes before the addresses, so as not to read past the ports.
	__m128i input = _mm_loadu_si128((const __m128i *)(p - 4));
	__m128i key = _mm_loadu_si128((const __m128i *)windows);
	__m128i both = _mm_shuffle_epi8(input, first);
	__m128i x;

	x = _mm_clmulepi64_si128(both, key, 0x00);
	x = _mm_xor_si128(x, _mm_clmulepi64_si128(both, key, 0x11));
	x = _mm_xor_si128(x, _mm_clmulepi64_si128(_mm_shuffle_epi8(input, last),
						  _mm_cvtsi64_si128(windows[2]), 0x00));
	x = _mm_srli_epi64(x, 31);
	// The first bit is the lowest: turn each byte, then their order.
	x = _mm_or_si128(_mm_slli_epi16(_mm_shuffle_epi8(capture, _mm_and_si128(x, low)), 4),
			 _mm_shuffle_epi8(capture, _mm_and_si128(_mm_srli_epi16(x, 4), low)));
	return rte_bswap32(_mm_cvtsi128_si32(x));
}

static CLMUL void
hash_each_clmul(struct rte_mbuf **m, uint32_t n, bool by_nic)
{
	hash_each(m, n, by_nic, hash_12_clmul);
}

#endif

void
hash_burst(struct rte_mbuf **m, uint32_t n, bool by_nic)
{
#ifdef RTE_ARCH_X86_64
	if (likely(has_clmul)) {
		hash_each_clmul(m, n, by_nic);
		return;
	}
#endif
	hash_each(m, n, by_nic, hash_12);
}

void
dps_test_hash_burst(const uint8_t *const *packet, const uint32_t *len, uint32_t n, uint32_t by_tables,
		    uint32_t by_nic, uint32_t *hash)
{
	struct rte_mbuf m[32], *burst[32];

	n = RTE_MIN(n, RTE_DIM(m));
	for (uint32_t i = 0; i < n; i++) {
		m[i] = (struct rte_mbuf){ .buf_addr = (void *)(uintptr_t)packet[i], .data_len = len[i] };
		if (by_nic >> i & 1)
			m[i].ol_flags = RTE_MBUF_F_RX_RSS_HASH;
		m[i].hash.rss = hash[i];
		burst[i] = &m[i];
	}
	if (by_tables)
		hash_each(burst, n, by_nic != 0, hash_12);
	else
		hash_burst(burst, n, by_nic != 0);
	for (uint32_t i = 0; i < n; i++)
		hash[i] = m[i].hash.rss;
}

uint32_t
dps_test_hash_compare(const uint8_t *packet, uint32_t len, uint32_t by_nic)
{
	struct rte_mbuf m = { .buf_addr = (void *)(uintptr_t)packet, .data_len = len };
	struct hash_check check = { 0 };

	m.hash.rss = by_nic;
	hash_compare(&check, &m);
	return check.seen == 1 && check.differ == 0;
}

uint32_t
dps_hash_packet(const uint8_t *packet, uint32_t len)
{
	return hash_flow(packet, len);
}

uint32_t
dps_test_hash_fragments(const uint8_t *packet, uint32_t len)
{
	struct dps_io_stats counted = { 0 };

	hash_thread(&counted, NULL);
	hash_flow(packet, len);
	hash_thread(&not_counted, NULL);
	return counted.fragments;
}

static void *
cleared(size_t len)
{
	void *p = aligned_alloc(RTE_CACHE_LINE_SIZE, len);

	return p == NULL ? NULL : memset(p, 0, len);
}

int
dps_test_hash_tracked(const uint8_t *const *packet, const uint32_t *len, uint32_t n, uint64_t lasts,
		      uint32_t *hash, struct dps_io_stats *out)
{
	struct fragments *all = hash_fragments_create(cleared, lasts);

	if (all == NULL)
		return -ENOMEM;
	hash_thread(out, all);
	for (uint32_t i = 0; i < n; i++)
		hash[i] = hash_flow(packet[i], len[i]);
	hash_thread(&not_counted, NULL);
	free(all);
	return 0;
}
