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

#endif
