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

bool
state_open(struct dps_state_head *head, uint8_t *bytes, uint64_t stamp, uint64_t size)
{
	head->stamp = stamp;
	head->size = size;
	memset(bytes, 0, size);
	return false;
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
