/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_ICMP_H
#define DPSUP_ICMP_H

/*
 * ICMP and ICMPv6 errors about a packet in hand, as a router or a firewall sends them: whether one may be
 * sent (RFC 1812 4.3.2.7, RFC 4443 2.4), and its bytes. For functions that dpsup ships; it needs the SDK
 * alone.
 */

#include "headers.h"

enum {
	ICMP = 8,

	ICMP_UNREACHABLE = 3,
	ICMP_NO_NET = 0,
	ICMP_NO_HOST = 1,
	ICMP_FRAGMENTATION = 4,
	ICMP_PROHIBITED = 13,
	ICMP_EXPIRED = 11,

	ICMP6_UNREACHABLE = 1,
	ICMP6_NO_ROUTE = 0,
	ICMP6_PROHIBITED = 1,
	ICMP6_BEYOND_SCOPE = 2,
	ICMP6_NO_ADDRESS = 3,
	ICMP6_TOO_BIG = 2,
	ICMP6_EXPIRED = 3,

	ICMP_QUOTES = 576 - IPV4 - ICMP,        /* most bytes of the packet that an error holds */
	ICMP6_QUOTES = 1280 - IPV6 - ICMP,
	ICMP_TTL = 64,
};

/* May an error be sent about this packet, whose header was found sound? Not about an error, a fragment that is
 * not the first one, or what has no single sender. */
static inline int
icmp_may_answer(const struct dps_packet *p)
{
	const uint8_t *ip = p->data + ETHER;
	uint32_t head = (ip[0] & 0xfu) * 4, type;

	if ((p->data[0] & 1) != 0 || (be16_at(ip + 6) & 0x1fff) != 0)
		return 0;
	if (ip[12] == 0 || ip[12] == 127 || ip[12] >= 224 || ip[16] >= 224)
		return 0;
	if (ip[9] != 1)
		return 1;
	if (p->len <= ETHER + head || be16_at(ip + 2) <= head)
		return 0;
	/* Requests and answers; the rest are errors, or unknown. */
	type = ip[head];
	return type == 0 || type == 8 || type == 9 || type == 10 || (type >= 13 && type <= 18);
}

static inline int
icmp6_may_answer(const struct dps_packet *p)
{
	static const uint8_t nobody[16];
	const uint8_t *ip = p->data + ETHER;
	uint32_t at = IPV6, end = IPV6 + be16_at(ip + 4), next = ip[6], here;

	end = end < p->len - ETHER ? end : p->len - ETHER;
	if ((p->data[0] & 1) != 0 || ip[8] == 0xff || ip[24] == 0xff || memcmp(ip + 8, nobody, 16) == 0)
		return 0;
	while (next == 0 || next == 43 || next == 44 || next == 51 || next == 60 || next == 135 || next == 139 ||
	       next == 140) {
		if (at + 8 > end)
			return 0;
		if (next == 44 && (be16_at(ip + at + 2) & 0xfff8) != 0)
			return 1;       /* nobody knows what a later fragment is a part of */
		here = next;
		next = ip[at];
		at += here == 44 ? 8 : here == 51 ? (ip[at + 1] + 2u) * 4 : (ip[at + 1] + 1u) * 8;
	}
	return next != 58 || (at < end && (ip[at] & 0x80) != 0 && ip[at] != 137);
}

/* The error, sent with this verdict from `source`: a frame whose MAC addresses the caller writes. `more` is
 * the second word of its header, such as an MTU. NULL: there is no empty buffer. */
static inline uint8_t *
icmp_error(uint16_t verdict, const struct dps_packet *p, const uint8_t *source, uint32_t type, uint32_t code,
	   uint32_t more)
{
	const uint8_t *about = p->data + ETHER;
	uint32_t quoted = be16_at(about + 2), room = p->len - ETHER;
	uint8_t *frame, *ip, *icmp;
	uint16_t sum;

	quoted = quoted < ICMP_QUOTES ? quoted : ICMP_QUOTES;
	quoted = quoted < room ? quoted : room;
	frame = dps_emit(verdict, ETHER + IPV4 + ICMP + quoted);
	if (frame == NULL)
		return NULL;
	be16_put(frame + 12, 0x0800);
	ip = frame + ETHER;
	ip[0] = 0x45;
	ip[1] = (uint8_t)((about[1] & 0x1e) | 0xc0); /* as urgent as routing, RFC 1812 4.3.2.5 */
	be16_put(ip + 2, IPV4 + ICMP + quoted);
	ip[6] = 0x40; /* one that is never fragmented needs no identification, RFC 6864 */
	ip[8] = ICMP_TTL;
	ip[9] = 1;
	memcpy(ip + 12, source, 4);
	memcpy(ip + 16, about + 12, 4);
	sum = dps_ipv4_sum(ip);
	memcpy(ip + 10, &sum, sizeof(sum));
	icmp = ip + IPV4;
	icmp[0] = (uint8_t)type;
	icmp[1] = (uint8_t)code;
	be32_put(icmp + 4, more);
	memcpy(icmp + ICMP, about, quoted);
	sum = dps_sum_end(dps_sum(0, icmp, ICMP + quoted));
	memcpy(icmp + 2, &sum, sizeof(sum));
	return frame;
}

static inline uint8_t *
icmp6_error(uint16_t verdict, const struct dps_packet *p, const uint8_t *source, uint32_t type, uint32_t code,
	    uint32_t more)
{
	const uint8_t *about = p->data + ETHER;
	uint32_t quoted = IPV6 + be16_at(about + 4), room = p->len - ETHER;
	uint8_t *frame, *ip, *icmp, pseudo[4] = { 0, 58, 0, 0 };
	uint16_t sum;

	quoted = quoted < ICMP6_QUOTES ? quoted : ICMP6_QUOTES;
	quoted = quoted < room ? quoted : room;
	frame = dps_emit(verdict, ETHER + IPV6 + ICMP + quoted);
	if (frame == NULL)
		return NULL;
	be16_put(frame + 12, 0x86dd);
	ip = frame + ETHER;
	ip[0] = 0x60;
	be16_put(ip + 4, ICMP + quoted);
	ip[6] = 58;
	ip[7] = ICMP_TTL;
	memcpy(ip + 8, source, 16);
	memcpy(ip + 24, about + 8, 16);
	icmp = ip + IPV6;
	icmp[0] = (uint8_t)type;
	icmp[1] = (uint8_t)code;
	be32_put(icmp + 4, more);
	memcpy(icmp + ICMP, about, quoted);
	be16_put(pseudo + 2, ICMP + quoted);
	sum = dps_sum_end(dps_sum(dps_sum(dps_sum(0, ip + 8, 32), pseudo, 4), icmp, ICMP + quoted));
	memcpy(icmp + 2, &sum, sizeof(sum));
	return frame;
}

/* What does not go into a tunnel, as its headers make it longer than the port's MTU: its sender is told, by the port
 * that it came by, how long it may be. An IPv4 packet that may be fragmented is not answered, nor what has a VLAN tag.
 * 0: nothing is sent. `mtu` is what is left for the packet. */
static inline int
icmp_too_big(const struct dps_packet *p, uint32_t ip, int six, uint32_t mtu)
{
	const uint8_t *at = p->data + ip;
	uint8_t *frame = NULL;

	if (ip != ETHER || mtu < 68)
		return 0;
	if (six && icmp6_may_answer(p))
		frame = icmp6_error(dps_out(p->port), p, at + 24, ICMP6_TOO_BIG, 0, mtu);
	else if (!six && (at[6] & 0x40) != 0 && icmp_may_answer(p))
		frame = icmp_error(dps_out(p->port), p, at + 16, ICMP_UNREACHABLE, ICMP_FRAGMENTATION, mtu);
	if (frame == NULL)
		return 0;
	memcpy(frame, p->data + 6, 6);
	memcpy(frame + 6, p->data, 6);
	return 1;
}

#endif
