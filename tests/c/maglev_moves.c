/* SPDX-License-Identifier: BSD-3-Clause */
/* Of argv[1] backends argv[2] go: the places that change although their backend has not gone, in parts of a million,
 * and the most places of a backend over the mean, in thousandths. */
#include <stdio.h>
#include <stdlib.h>

#include "maglev.h"

int
main(int argc, char **argv)
{
	static uint16_t before[MAGLEV_PLACES], after[MAGLEV_PLACES];
	static struct maglev_backend backends[1024];
	static uint32_t count[1024];
	uint32_t n = argc > 2 ? (uint32_t)atoi(argv[1]) : 1, gone = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
	uint32_t changed = 0, most = 0;

	for (uint32_t i = 0; i < n; i++)
		backends[i] = (struct maglev_backend){ .name = maglev_name(&i, 4), .weight = 1 };
	if (maglev_fill(before, backends, n) != 1)
		return 1;
	for (uint32_t i = 0; i < gone; i++)
		backends[i].weight = 0;
	if (maglev_fill(after, backends, n) != 1)
		return 1;
	for (uint32_t i = 0; i < MAGLEV_PLACES; i++) {
		count[before[i]]++;
		changed += before[i] >= gone && before[i] != after[i];
	}
	for (uint32_t i = 0; i < n; i++)
		most = count[i] > most ? count[i] : most;
	printf("%.0f %.0f\n", changed * 1e6 / MAGLEV_PLACES, most * 1e3 * n / MAGLEV_PLACES);
	return 0;
}
