/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_BALANCE_VIPS_H
#define DPSUP_BALANCE_VIPS_H

/* The virtual addresses of `balance`: its argument `vips`, and what is found by a packet's destination. */

#include <arpa/inet.h>

#include <dpsup_table.h>

#include "arguments.h"

enum {
	TCP = 6, UDP = 17,

	MOST_VIPS = 64,
	VIP_SLOTS = 256,
};

struct vip {
	uint8_t address[16];
	uint16_t port;
	uint8_t protocol;               /* 0: none is here */
	uint8_t is6;
};

struct vips {
	uint32_t n;
	struct vip at[VIP_SLOTS];
};

static inline uint64_t
mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product =
		(unsigned __int128)(a ^ 0xa0761d6478bd642full) * (b ^ 0xe7037ed1a0b428dbull);

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
address_hash(const uint8_t *address, int is6)
{
	return is6 ? mix(dps_table_load64(address), dps_table_load64(address + 8)) :
		     mix(dps_table_load32(address), 4);
}

static inline int
is_same(const uint8_t *a, const uint8_t *b, int is6)
{
	return is6 ? dps_table_load64(a) == dps_table_load64(b) && dps_table_load64(a + 8) == dps_table_load64(b + 8) :
		     dps_table_load32(a) == dps_table_load32(b);
}

/* The slot of this virtual address, or the free one where it would be. */
static inline struct vip *
vip_slot(struct vips *v, const uint8_t *address, int is6, uint8_t protocol, uint16_t port)
{
	uint32_t at = (uint32_t)mix(address_hash(address, is6), (uint64_t)port << 8 | protocol) % VIP_SLOTS;

	while (v->at[at].protocol != 0 &&
	       (v->at[at].protocol != protocol || v->at[at].port != port || v->at[at].is6 != is6 ||
		!is_same(v->at[at].address, address, is6)))
		at = (at + 1) % VIP_SLOTS;
	return &v->at[at];
}

static inline int
take_vip(const struct dps_env *env, struct vips *v, const char *text)
{
	char address[64], word[8];
	struct vip vip = { 0 }, *slot;
	unsigned int port;
	int end = 0;

	vip.is6 = text[0] == '[';
	if ((sscanf(text, vip.is6 ? "[%63[^]]]:%5u/%7s%n" : "%63[^:]:%5u/%7s%n", address, &port, word, &end) != 3 ||
	     text[end] != '\0') ||
	    inet_pton(vip.is6 ? AF_INET6 : AF_INET, address, vip.address) != 1 || port < 1 || port > 65535 ||
	    (strcmp(word, "tcp") != 0 && strcmp(word, "udp") != 0))
		return refuse(env, "vips: \"%s\" is not a virtual address: write 192.0.2.10:80/tcp or "
			      "[2001:db8::10]:443/udp%s", text, "");
	vip.protocol = word[0] == 't' ? TCP : UDP;
	vip.port = htons((uint16_t)port);
	slot = vip_slot(v, vip.address, vip.is6, vip.protocol, vip.port);
	if (slot->protocol != 0)
		return refuse(env, "vips: \"%s\" is there twice%s", text, "");
	if (v->n++ == MOST_VIPS)
		return refuse(env, "vips: it takes 64, and \"%s\" is one more%s", text, "");
	*slot = vip;
	return 0;
}

/* With commas between them. */
static inline int
take_vips(const struct dps_env *env, struct vips *v, const char *list)
{
	char part[96];

	while (*list != '\0') {
		size_t len;

		list += strspn(list, " ,");
		len = strcspn(list, " ,");
		if (len >= sizeof(part))
			return refuse(env, "vips: \"%s\" is too long for an address%s", list, "");
		memcpy(part, list, len);
		part[len] = '\0';
		if (len > 0 && take_vip(env, v, part) != 0)
			return -1;
		list += len;
	}
	return v->n > 0 ? 0 : refuse(env, "vips: there is none in it%s%s", "", "");
}

static inline int
has_vip(const struct vips *v, const uint8_t *address, int is6)
{
	for (uint32_t i = 0; i < VIP_SLOTS; i++)
		if (v->at[i].protocol != 0 && v->at[i].is6 == is6 && is_same(v->at[i].address, address, is6))
			return 1;
	return 0;
}

#endif
