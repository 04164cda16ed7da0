// SPDX-License-Identifier: BSD-3-Clause
//
// Hashes frames from standard input, each in memory of just its length: a length of two bytes, lowest
// first, and the frame. The argument is what is hashed, DPS_RSS_*. Built with sanitizers.

#include <stdio.h>
#include <stdlib.h>

#include "io/hash.c"

struct primary the_primary;

int
rte_cpu_get_flag_enabled(enum rte_cpu_flag_t flag)
{
	(void)flag;
	return 0;
}

int
main(int argc, char **argv)
{
	uint8_t key[DPS_KEY], length[2];
	unsigned long n = 0;

	for (uint32_t i = 0; i < sizeof(key); i++)
		key[i] = i * 37 + 1;
	if (argc != 2 || dps_hash_conf(key, sizeof(key), strtoull(argv[1], NULL, 0)) != 0)
		return 2;
	if (the_primary.tracks_fragments)
		hash_thread(&not_counted, hash_fragments_create(cleared, UINT64_MAX));
	for (; fread(length, sizeof(length), 1, stdin) == 1; n++) {
		uint32_t len = length[0] | length[1] << 8;
		uint8_t *frame = malloc(len);

		if (fread(frame, 1, len, stdin) != len)
			return 3;
		dps_hash_packet(frame, len);
		free(frame);
	}
	printf("%lu\n", n);
	return 0;
}
