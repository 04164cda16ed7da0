// SPDX-License-Identifier: BSD-3-Clause
//
// `dpsup perf`, the primary's half: how long packets are in a slot's lanes, from being published to
// being collected, by the io cores' own clock; and what the slot's worker measures, asked for and
// read (workers/perf.c).

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>

#include "primary.h"

// What an io core published in one go.
struct mark {
	uint32_t end;                   // index after it
	uint64_t tsc;
};

struct stopwatch {
	uint32_t slot;
	uint32_t n_marks;               // a power of two, above what a lane can have out

	// the io core's
	uint32_t at;                    // index up to which the lane is looked after
	uint32_t end;                   // of the last mark
	uint32_t ticked;                // index after the ticks that a collection begins with
	uint32_t head;
	uint32_t tail;
	struct dps_delays delays;
	struct mark mark[];
};

static struct stopwatch *watches[DPS_MAX_IO];
static uint32_t watched = DPS_NO_SLOT;
static uint32_t last_asked;

// --- the io core ---------------------------------------------------------------------------------

void
stopwatch_lent(struct io *io, const struct lane *lane)
{
	struct stopwatch *w = io->stopwatch;

	if (lane->slot != w->slot)
		return;
	// The first one, or the lane began anew: what is out already is not measured.
	if (lane->published != w->end) {
		w->tail = w->head;
		w->at = lane->published;
	}
	w->end = lane->sent;
	w->mark[w->head++ & (w->n_marks - 1)] = (struct mark){ lane->sent, rte_rdtsc() };
}

// A tick waits for nothing, and is no packet's delay. A collection takes those that are next, then
// packets up to the next one; once they are back, nothing says any more which words they were.
void
stopwatch_ticks(struct io *io, const struct lane *lane)
{
	struct stopwatch *w = io->stopwatch;

	if (lane->slot != w->slot)
		return;
	w->ticked = lane->collected;
	while (w->ticked != lane->published && lane->tick[w->ticked & lane->mask] != 0)
		w->ticked++;
}

void
stopwatch_back(struct io *io, const struct lane *lane)
{
	struct stopwatch *w = io->stopwatch;
	uint64_t now = rte_rdtsc();

	if (lane->slot != w->slot)
		return;
	while (w->tail != w->head && (int32_t)(lane->collected - w->at) > 0) {
		const struct mark *mark = &w->mark[w->tail & (w->n_marks - 1)];
		uint64_t delay = now - mark->tsc;
		// Indices come round again.
		uint32_t n = RTE_MIN(lane->collected - w->at, mark->end - w->at);
		int32_t ticks = w->ticked - w->at;
		uint32_t packets = ticks <= 0 ? n : n - RTE_MIN(n, (uint32_t)ticks);

		w->at += n;
		if (packets > 0) {
			dps_count(&w->delays.packets, packets);
			dps_count(&w->delays.by_class[dps_class(delay)], packets);
			if (delay > w->delays.most)
				dps_store64(&w->delays.most, delay);
		}
		if (w->at == mark->end)
			w->tail++;
	}
}

// --- the control thread --------------------------------------------------------------------------

struct stopwatch *
stopwatch_of(uint32_t io)
{
	return watches[io];
}

int
dps_perf_start(uint32_t slot)
{
	uint32_t size;
	int ret;

	if (slot >= the_primary.n_slots)
		return -EINVAL;
	if (watched != DPS_NO_SLOT)
		return -EBUSY;
	size = the_primary.io[0]->lane[slot].size;
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		watches[i] = own_zalloc(sizeof(*watches[i]) + size * sizeof(struct mark));
		if (watches[i] == NULL) {
			dps_perf_free();
			return -ENOMEM;
		}
		watches[i]->slot = slot;
		watches[i]->n_marks = size;
		watches[i]->end = the_primary.io[i]->lane[slot].published - 1;
	}
	watched = slot;
	ret = io_ask_all(OP_STOPWATCH, 1);
	if (ret != 0) {
		dps_perf_free();
		return ret;
	}
	last_asked = last_asked == UINT32_MAX ? 1 : last_asked + 1;
	dps_store32(&the_primary.slot[slot]->perf, last_asked);
	return 0;
}

int
dps_perf_stop(void)
{
	if (watched != DPS_NO_SLOT)
		dps_store32(&the_primary.slot[watched]->perf, 0);
	return io_ask_all(OP_STOPWATCH, 0);
}

int
dps_perf_free(void)
{
	int ret = dps_perf_stop();

	// Where an io core does not answer, it may still write there.
	if (ret != 0)
		return ret;
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		free(watches[i]);
		watches[i] = NULL;
	}
	watched = DPS_NO_SLOT;
	return 0;
}

int
dps_perf_get(struct dps_perf *perf, struct dps_delays *delays)
{
	const char *slot;

	if (watched == DPS_NO_SLOT)
		return -ENOENT;
	slot = (const char *)the_primary.slot[watched];
	memset(delays, 0, sizeof(*delays));
	for (uint32_t i = 0; i < the_primary.n_io; i++) {
		const struct dps_delays *d = &watches[i]->delays;

		delays->packets += d->packets;
		delays->most = RTE_MAX(delays->most, d->most);
		for (uint32_t c = 0; c < DPS_CLASSES; c++)
			delays->by_class[c] += d->by_class[c];
	}
	memcpy(perf, slot + the_primary.perf_at[watched], sizeof(*perf));
	// Another's answer, or none yet: it has had no burst since.
	if (perf->asked != last_asked)
		memset(perf, 0, sizeof(*perf));
	return 0;
}

uint32_t
dps_class_of(uint64_t value)
{
	return dps_class(value);
}
