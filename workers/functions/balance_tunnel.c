/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * balance_tunnel: `balance`, whose packets go to their backends in IPIP or GUE. It is a plugin of its own because what
 * takes headroom and originates answers costs each packet more: docs/functions/balance.md.
 */
#define BALANCE_TUNNEL 1
#include "balance.c"
