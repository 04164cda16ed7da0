// SPDX-License-Identifier: BSD-3-Clause
//
// crash: as forward, until a packet holds the bytes of `match`; then it does what `how` says: segv,
// abort, hang, or exit (with `code`). Without `match` the packet number `at` sets it off. For tests
// and demonstrations of what dpsup does about it.

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

static struct crash {
	struct portmap map;
	const char *match;
	size_t match_len;
	const char *how;
	uint64_t at;
	uint64_t seen;
	int code;
} crash;

static int
crash_init(const struct dps_env *env, void **state)
{
	crash.match = dps_arg(env, "match");
	crash.match_len = crash.match != NULL ? strlen(crash.match) : 0;
	crash.how = dps_arg(env, "how");
	if (crash.how == NULL)
		crash.how = "segv";
	crash.at = dps_arg_u64(env, "at", 0);
	crash.code = dps_arg_u64(env, "code", 1);
	if (strcmp(crash.how, "segv") != 0 && strcmp(crash.how, "abort") != 0 &&
	    strcmp(crash.how, "hang") != 0 && strcmp(crash.how, "exit") != 0) {
		snprintf(env->error, env->error_len,
			 "how: \"%s\" is none of segv, abort, hang, exit", crash.how);
		return -1;
	}
	if (dps_arg(env, "init") != NULL) {
		snprintf(env->error, env->error_len, "init: %s", dps_arg(env, "init"));
		return -1;
	}
	*state = &crash;
	return portmap_init(&crash.map, env);
}

static void
go(const struct crash *c)
{
	int *volatile nowhere = NULL;

	if (strcmp(c->how, "segv") == 0)
		*(volatile int *)nowhere = 0;
	if (strcmp(c->how, "abort") == 0)
		abort();
	if (strcmp(c->how, "exit") == 0)
		exit(c->code);
	for (;;)
		dps_order();
}

static uint16_t
crash_packet(void *state, struct dps_packet *packet)
{
	struct crash *c = state;

	c->seen++;
	if (c->match != NULL ? memmem(packet->data, packet->len, c->match, c->match_len) != NULL :
			       c->at != 0 && c->seen == c->at)
		go(c);
	return c->map.out[packet->port];
}

const struct dps_plugin plugin_crash = {
	DPS_PLUGIN_HEAD,
	.name = "crash",
	.init = crash_init,
	.packet = crash_packet,
};
