// SPDX-License-Identifier: BSD-3-Clause

#include <stdio.h>

#include "worker.h"

int
portmap_init(struct portmap *map, const struct dps_env *env)
{
	for (uint32_t i = 0; i < DPS_MAX_PORTS; i++)
		map->out[i] = env->next[i];
	for (uint32_t i = 0; i < env->n_args; i++) {
		const char *key = env->arg_keys[i];
		int from, to;

		if (strncmp(key, "map.", 4) != 0)
			continue;
		from = dps_port(env, key + 4);
		to = dps_port(env, env->arg_values[i]);
		if (from < 0 || to < 0) {
			snprintf(env->error, env->error_len, "map: no port named \"%s\"",
				 from < 0 ? key + 4 : env->arg_values[i]);
			return -1;
		}
		map->out[from] = dps_out(to);
	}
	return 0;
}
