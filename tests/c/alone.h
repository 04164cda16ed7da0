// SPDX-License-Identifier: BSD-3-Clause
//
// The worker's loop without a worker: it is included, not linked, as its parts are static; what it calls
// in other files of the worker is here, as simple as it can be.
#ifndef ALONE_H
#define ALONE_H

#include <stdio.h>
#include <stdlib.h>

#include "../../workers/loop.c"

enum { STAMP = 7 };     // of a plugin's state

struct loop *touching;

uint64_t
state_stamp(const struct dps_plugin *plugin)
{
	(void)plugin;
	return STAMP;
}

void
state_open_bucket(struct loop *l, struct dps_state_head *head)
{
	head->stamp = l->buckets.stamp;
	head->size = l->bucket_size;
	memset(head + 1, 0, l->bucket_size);
}

void
perf_begin(struct loop *l, uint32_t asked)
{
	(void)l;
	(void)asked;
}

void
perf_note(struct loop *l, uint32_t lane, const uint64_t *word, uint32_t n, uint64_t tsc, uint64_t cycles)
{
	(void)l;
	(void)lane;
	(void)word;
	(void)n;
	(void)tsc;
	(void)cycles;
}

#endif
