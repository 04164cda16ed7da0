/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_ARGUMENTS_H
#define DPSUP_ARGUMENTS_H

/* Arguments of functions that dpsup ships: each says what is wrong with it, in env->error, and returns -1. */

#include <stdio.h>

#include <dpsup_plugin.h>

static inline int
refuse(const struct dps_env *env, const char *format, const char *a, const char *b)
{
	snprintf(env->error, env->error_len, format, a, b);
	return -1;
}

/* Every argument has one of these names; NULL at the end. */
static inline int
take_known(const struct dps_env *env, const char *const *known)
{
	for (uint32_t i = 0; i < env->n_args; i++) {
		const char *const *name = known;

		while (*name != NULL && strcmp(env->arg_keys[i], *name) != 0)
			name++;
		if (*name == NULL)
			return refuse(env, "it has no argument \"%s\"%s", env->arg_keys[i], "");
	}
	return 0;
}

/* A number with one of these units behind it: "10M", "64 KiB". `unit` is what follows the number of thousands, such as
 * "bit". What is missing leaves *number as it is. */
static inline int
take_amount(const struct dps_env *env, const char *key, const char *unit, uint64_t most, uint64_t *number)
{
	static const struct { const char *word; uint64_t factor; } factors[] = {
		{ "", 1 }, { "k", 1000 }, { "M", 1000000 }, { "G", 1000000000 },
		{ "Ki", 1u << 10 }, { "Mi", 1u << 20 }, { "Gi", 1u << 30 },
	};
	const char *value = dps_arg(env, key);
	uint32_t k = 0, length;
	char *end;
	uint64_t n;

	if (value == NULL)
		return 0;
	n = strtoull(value, &end, 10);
	while (*end == ' ')
		end++;
	length = (uint32_t)strlen(end);
	if (length >= strlen(unit) && strcmp(end + length - strlen(unit), unit) == 0)
		length -= (uint32_t)strlen(unit);
	else
		length = ~0u;
	while (k < 7 && (strlen(factors[k].word) != length || strncmp(end, factors[k].word, length) != 0))
		k++;
	if (value[0] < '0' || value[0] > '9' || k == 7)
		return refuse(env, "%s: write a number with its unit, as \"10M%s\"", key, unit);
	if (n > most / factors[k].factor)
		return refuse(env, "%s: \"%s\" is more than it takes", key, value);
	*number = n * factors[k].factor;
	return 0;
}

/* The index of a word in `words`, NULL at the end. What is missing leaves *index as it is. */
static inline int
take_word(const struct dps_env *env, const char *key, const char *const *words, int *index)
{
	const char *value = dps_arg(env, key);
	char all[128] = "";

	if (value == NULL)
		return 0;
	for (int i = 0; words[i] != NULL; i++) {
		if (strcmp(value, words[i]) == 0) {
			*index = i;
			return 0;
		}
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i == 0 ? "" : ", ", words[i]);
	}
	snprintf(env->error, env->error_len, "%s: \"%s\" is none of: %s", key, value, all);
	return -1;
}

/* A number in this range. */
static inline int
take_number(const struct dps_env *env, const char *key, uint64_t first, uint64_t last, uint64_t *number)
{
	char limits[64];

	if (take_amount(env, key, "", last, number) != 0)
		return -1;
	snprintf(limits, sizeof(limits), "from %llu to %llu", (unsigned long long)first, (unsigned long long)last);
	return dps_arg(env, key) == NULL || *number >= first ? 0 :
		       refuse(env, "%s: write a number %s", key, limits);
}

/* The index of a port that must be named. */
static inline int
take_port(const struct dps_env *env, const char *key, int *port)
{
	const char *name = dps_arg(env, key);

	if (name == NULL)
		return refuse(env, "it needs the argument \"%s\": the name of a port%s", key, "");
	*port = dps_port(env, name);
	return *port >= 0 ? 0 : refuse(env, "%s: there is no port \"%s\"", key, name);
}

#endif
