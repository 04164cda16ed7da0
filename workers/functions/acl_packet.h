/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_ACL_PACKET_H
#define DPSUP_ACL_PACKET_H

/* What `acl` sees of a packet: what its rules look at, and where its headers are. */

#include "acl_rule.h"
#include "headers.h"

enum {
	TAGS = 2,               /* of VLANs, before an IP header */
	MOST_HEADERS = 8,       /* of IPv6, before a port */
};

enum reason { BAD_HEADER, TINY_FRAGMENT, DENIED, REJECTED, NO_RULE, NO_FLOW, STATE_FULL };

struct seen {
	struct facts facts;
	uint32_t ip;            /* where its IP header begins; 0: it has none */
	uint32_t l4;            /* where what is behind it begins; 0: it has none, or is cut short */
	uint32_t end;           /* of what it says that it is long */
	uint8_t is_bad;         /* reason + 1 */
	uint8_t is_first;       /* fragment */
};

/* Headers before the one that has ports. Returns where that is, or 0. `protocol` becomes its number. */
static inline uint32_t
past_headers(const uint8_t *data, uint32_t at, uint32_t end, uint32_t *protocol, uint32_t *fragment)
{
	for (uint32_t i = 0; i < MOST_HEADERS; i++) {
		uint32_t here = *protocol;

		if (here != 0 && here != 43 && here != 44 && here != 60 && here != 51)
			return at;
		if (at + 8 > end)
			return 0;
		*protocol = data[at];
		if (here == 44) {
			*fragment = be16_at(data + at + 2);
			at += 8;
			/* What is behind a later one is no header. */
			if ((*fragment & 0xfff8) != 0)
				return at;
		} else {
			at += here == 51 ? (data[at + 1] + 2u) * 4 : (data[at + 1] + 1u) * 8;
		}
	}
	return 0;
}

static inline uint32_t
bytes_of_l4(uint32_t protocol)
{
	return protocol == TCP ? 20 : protocol == UDP || protocol == ICMP4 || protocol == ICMP6 ? 8 :
	       protocol == SCTP ? 12 : 0;
}

static inline void
address_facts(struct facts *f, const uint8_t *ip, int six)
{
	static const uint32_t dims[2][4] = { { FROM, FROM1, FROM2, FROM3 }, { TO, TO1, TO2, TO3 } };

	for (uint32_t side = 0; side < 2; side++)
		for (uint32_t q = 0; q < (six ? 4u : 1u); q++) {
			const uint8_t *at = ip + (six ? 8 + side * 16 : 12 + side * 4) + q * 4;

			f->is[dims[side][q]] = be16_at(at) << 16 | be16_at(at + 2);
		}
}

static inline void
see(const struct dps_packet *p, struct seen *s)
{
	struct facts *f = &s->facts;
	uint32_t at = ETHER, type, protocol, len, fragment = 0, offset;
	const uint8_t *ip;
	int six;

	memset(s, 0, sizeof(*s));
	if (p->len < ETHER)
		return;
	type = be16_at(p->data + 12);
	f->is[TAG] = type == 0x8100 && p->len >= ETHER + 2 ? be16_at(p->data + ETHER) & 0xfff : NO_TAG;
	f->is[PORT_IN] = p->port;
	at = ip_at(p, TAGS, &six);
	if (at == 0) {
		for (uint32_t i = 0, tag = ETHER; i < TAGS && (type == 0x8100 || type == 0x88a8) &&
		     p->len >= tag + 4; i++, tag += 4)
			type = be16_at(p->data + tag + 2);
		s->is_bad = type == 0x0800 || type == 0x86dd ? BAD_HEADER + 1 : 0;
		return;
	}
	ip = p->data + at;
	len = six ? IPV6 + be16_at(ip + 4) : be16_at(ip + 2);
	protocol = six ? ip[6] : ip[9];
	s->ip = at;
	s->end = at + len < p->len ? at + len : p->len;
	f->bits = six ? IS_6 : IS_4;
	f->is[DSCP] = (uint32_t)(six ? (ip[0] & 0xfu) << 2 | ip[1] >> 6 : ip[1] >> 2);
	address_facts(f, ip, six);
	if (len < (six ? (uint32_t)IPV6 : (ip[0] & 0xfu) * 4) || at + len > p->total ||
	    (!six && at + (ip[0] & 0xfu) * 4 > s->end)) {
		s->is_bad = BAD_HEADER + 1;
		return;
	}
	if (six) {
		at = past_headers(p->data, at + IPV6, s->end, &protocol, &fragment);
		if (at == 0 || at > s->end) {
			s->is_bad = BAD_HEADER + 1;
			return;
		}
		offset = fragment & 0xfff8;
		s->is_first = offset == 0 && (fragment & 1) != 0;
	} else {
		offset = (be16_at(ip + 6) & 0x1fff) * 8;
		s->is_first = offset == 0 && (ip[6] & 0x20) != 0;
		at += (ip[0] & 0xfu) * 4;
	}
	f->is[PROTOCOL] = protocol;
	f->is[L4_FROM] = f->is[L4_TO] = NO_L4;
	f->bits |= offset != 0 ? IS_LATER : NOT_LATER;
	/* One that overwrites the flags of a first one (RFC 3128), or a first one without them (RFC 1858). */
	if (offset != 0) {
		if (offset == 8 && protocol == TCP)
			s->is_bad = TINY_FRAGMENT + 1;
		return;
	}
	if (s->end < at + bytes_of_l4(protocol)) {
		s->is_bad = (uint8_t)(s->is_first ? TINY_FRAGMENT + 1 : BAD_HEADER + 1);
		return;
	}
	s->l4 = at;
	if (protocol == TCP || protocol == UDP || protocol == SCTP) {
		f->is[L4_FROM] = be16_at(p->data + at);
		f->is[L4_TO] = be16_at(p->data + at + 2);
	} else if (protocol == ICMP4 || protocol == ICMP6) {
		f->is[L4_FROM] = p->data[at];
		f->is[L4_TO] = p->data[at + 1];
	}
	if (protocol == TCP)
		f->flags = p->data[at + 13];
}

#endif
