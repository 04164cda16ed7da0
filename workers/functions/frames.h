/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_FRAMES_H
#define DPSUP_FRAMES_H

/* Outer headers of what a function originates toward one other host: a collector, the far end of a tunnel. */

#include <arpa/inet.h>

#include "arguments.h"
#include "headers.h"

struct far {
	int port;               /* by which it leaves */
	int is6;
	uint8_t source[16];
	uint8_t destination[16];
	uint8_t mac[6];         /* of the next host */
	uint8_t ttl;
};

static inline int
take_mac(const struct dps_env *env, const char *key, uint8_t *mac)
{
	const char *value = dps_arg(env, key);
	unsigned int b[6];
	int n = 0;

	if (value == NULL)
		return refuse(env, "it needs the argument \"%s\": the next MAC address on the way%s", key, "");
	if (sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &n) != 6 ||
	    value[n] != '\0')
		return refuse(env, "%s: \"%s\" is not a MAC address: write 02:00:00:00:00:01", key, value);
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
	return 0;
}

/* The arguments source, destination, mac. */
static inline int
take_far(const struct dps_env *env, struct far *far)
{
	const char *from = dps_arg(env, "source"), *at = dps_arg(env, "destination");

	if (from == NULL || at == NULL)
		return refuse(env, "it needs the argument \"%s\": an IP address%s",
			      from == NULL ? "source" : "destination", "");
	far->is6 = strchr(from, ':') != NULL;
	if (inet_pton(far->is6 ? AF_INET6 : AF_INET, from, far->source) != 1)
		return refuse(env, "source: \"%s\" is not an IP address%s", from, "");
	if (inet_pton(far->is6 ? AF_INET6 : AF_INET, at, far->destination) != 1)
		return refuse(env, "destination: \"%s\" is not an IP address of the same kind as source%s", at, "");
	return take_mac(env, "mac", far->mac);
}

static inline uint32_t
far_head(const struct far *far)
{
	return ETHER + (far->is6 ? (uint32_t)IPV6 : (uint32_t)IPV4);
}

/* Ethernet and IP before `carried` bytes; returns where these begin. Never fragmented. */
static inline uint8_t *
far_put(const struct dps_env *env, const struct far *far, uint8_t *at, uint32_t protocol, uint32_t carried)
{
	uint16_t sum;

	memcpy(at, far->mac, 6);
	memcpy(at + 6, env->ports[far->port].mac, 6);
	be16_put(at + 12, far->is6 ? 0x86dd : 0x0800);
	at += ETHER;
	if (far->is6) {
		at[0] = 0x60;
		be16_put(at + 4, carried);
		at[6] = (uint8_t)protocol;
		at[7] = far->ttl;
		memcpy(at + 8, far->source, 16);
		memcpy(at + 24, far->destination, 16);
		return at + IPV6;
	}
	at[0] = 0x45;
	be16_put(at + 2, IPV4 + carried);
	be16_put(at + 6, 0x4000);
	at[8] = far->ttl;
	at[9] = (uint8_t)protocol;
	memcpy(at + 12, far->source, 4);
	memcpy(at + 16, far->destination, 4);
	sum = dps_ipv4_sum(at);
	memcpy(at + 10, &sum, 2);
	return at + IPV4;
}

/* A UDP header before bytes that are there already; len counts both. */
static inline void
far_udp(const struct far *far, uint8_t *udp, uint32_t from, uint32_t to, uint32_t len)
{
	uint8_t pseudo[4] = { 0, 17, (uint8_t)(len >> 8), (uint8_t)len };
	uint32_t size = far->is6 ? 16 : 4;
	uint16_t sum;

	be16_put(udp, from);
	be16_put(udp + 2, to);
	be16_put(udp + 4, len);
	memset(udp + 6, 0, 2);
	sum = dps_sum_end(dps_sum(dps_sum(dps_sum(dps_sum(0, far->source, size), far->destination, size), pseudo, 4),
				  udp, len));
	sum = sum == 0 ? 0xffff : sum;
	memcpy(udp + 6, &sum, 2);
}

#endif
