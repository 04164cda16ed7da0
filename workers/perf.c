// SPDX-License-Identifier: BSD-3-Clause
//
// What `dpsup perf` asks of a worker: histograms of its bursts, and the slowest of them with their
// packets. Only called while dps_slot.perf asks. Everything is in the slot's dps_perf, on which no
// decision depends: a kill before any store costs what is known of one burst.

#include <string.h>

#include "loop.h"

void
perf_begin(struct loop *l, uint32_t asked)
{
	struct dps_perf *perf = l->perf;

	// Continue the measurement of a predecessor that was asked the same.
	if (perf->asked == asked)
		return;
	dps_store32(&perf->asked, 0);
	memset(perf, 0, sizeof(*perf));
	dps_store32(&perf->asked, asked);
}

// The one that makes room for a burst of so many cycles, NULL: all are slower.
static struct dps_slow_burst *
place_for(struct dps_perf *perf, uint64_t cycles)
{
	struct dps_slow_burst *least = &perf->slow[0];

	for (uint32_t i = 1; i < DPS_SLOW; i++)
		if (perf->slow[i].cycles < least->cycles)
			least = &perf->slow[i];
	return least->cycles < cycles ? least : NULL;
}

void
perf_note(struct loop *l, uint32_t lane, const uint64_t *word, uint32_t n, uint64_t tsc,
	  uint64_t cycles)
{
	struct dps_perf *perf = l->perf;
	struct dps_slow_burst *slow;
	uint32_t packets = 0;

	for (uint32_t i = 0; i < n; i++)
		packets += dps_word_tick(word[i]) == 0;
	if (packets == 0)
		return;
	slow = place_for(perf, cycles);
	dps_count(&perf->cycles[dps_class(cycles / n)], packets);
	dps_count(&perf->batch[packets - 1], 1);
	dps_count(&perf->packets, packets);
	dps_count(&perf->bursts, 1);
	if (cycles / n > perf->cycles_most)
		dps_store64(&perf->cycles_most, cycles / n);
	if (slow == NULL)
		return;
	dps_store64(&slow->cycles, 0);
	dps_order();
	slow->tsc = tsc;
	slow->n = n;
	slow->lane = lane;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *data = (const uint8_t *)(l->base + DPS_FIELD(word[i], DPS_W_OFFSET,
									    DPS_OFFSET_BITS));
		uint32_t len = DPS_FIELD(word[i], DPS_W_LEN, DPS_W_PORT - DPS_W_LEN);

		if (dps_word_tick(word[i]) != 0)
			len = 0;
		else if (word[i] & DPS_BIT(DPS_W_META))
			len = l->lane[lane].meta[(l->lane[lane].done + i) & l->mask].len;
		slow->len[i] = len;
		memcpy(slow->head[i], data, len < DPS_HEAD ? len : DPS_HEAD);
	}
	dps_order();
	dps_store64(&slow->cycles, cycles);
}
