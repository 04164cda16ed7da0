/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_HEADERS_H
#define DPSUP_HEADERS_H

/* Bytes of headers, and numbers in them, for functions that dpsup ships. */

#include <dpsup_plugin.h>

enum { ETHER = 14, IPV4 = 20, IPV6 = 40 };

static inline uint32_t
be16_at(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static inline void
be16_put(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline void
be32_put(uint8_t *at, uint32_t value)
{
	be16_put(at, value >> 16);
	be16_put(at + 2, value & 0xffff);
}

/* Where the IP header begins, behind up to `tags` VLAN tags, and whether it is IPv6. 0: there is none, or it is
 * cut short. Its options, and what it claims as its length, are not looked at. */
static inline uint32_t
ip_at(const struct dps_packet *p, uint32_t tags, int *is6)
{
	uint32_t at = ETHER, type;

	if (p->len < ETHER)
		return 0;
	type = be16_at(p->data + 12);
	for (; tags > 0 && (type == 0x8100 || type == 0x88a8) && p->len >= at + 4; tags--, at += 4)
		type = be16_at(p->data + at + 2);
	*is6 = type == 0x86dd;
	if (type != 0x0800 && type != 0x86dd)
		return 0;
	if (p->len < at + (*is6 ? (uint32_t)IPV6 : (uint32_t)IPV4) || p->data[at] >> 4 != (*is6 ? 6 : 4) ||
	    (!*is6 && (p->data[at] & 0xfu) < 5))
		return 0;
	return at;
}

/* Another DSCP; ECN stays. */
static inline void
dscp_put(uint8_t *ip, int is6, uint32_t code)
{
	uint8_t was[2] = { ip[0], ip[1] };
	uint16_t sum;

	if (is6) {
		ip[0] = (uint8_t)(0x60 | code >> 2);
		ip[1] = (uint8_t)((code & 3) << 6 | (ip[1] & 0x3f));
		return;
	}
	ip[1] = (uint8_t)(code << 2 | (ip[1] & 3));
	memcpy(&sum, ip + 10, 2);
	sum = dps_sum_changed(sum, was, ip, 2);
	memcpy(ip + 10, &sum, 2);
}

/* From or to a group, a broadcast address or one that is reserved. */
static inline int
is_group(const uint8_t *ip, int six)
{
	return six ? ip[8] == 0xff || ip[24] == 0xff : ip[12] >= 224 || ip[16] >= 224;
}

#endif
