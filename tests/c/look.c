// SPDX-License-Identifier: BSD-3-Clause
//
// What a plugin that looks finds: through the worker's own loop and the primary's own finding of whom
// to blame. The loop is included, not linked, as its parts are static.

#include <stdio.h>
#include <stdlib.h>

#include "../../workers/loop.c"

enum { RING = 256, BUCKET_STATE = 64 };

struct loop *touching;
static uint64_t stamp = 7;

uint64_t
state_stamp(const struct dps_plugin *plugin)
{
	(void)plugin;
	return stamp;
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
perf_note(struct loop *l, uint32_t lane, const uint64_t *word, uint32_t n, uint64_t tsc,
	  uint64_t cycles)
{
	(void)l;
	(void)lane;
	(void)word;
	(void)n;
	(void)tsc;
	(void)cycles;
}

static struct dps_slot slot;
static struct { struct dps_lane lane; uint64_t word[RING]; } shared;
static struct dps_meta meta[RING];
static uint8_t bytes[RING * 64];
static uint8_t blocks[DPS_BUCKETS * (sizeof(struct dps_state_head) + BUCKET_STATE)];
static struct loop l;
static uint32_t looks, bulk, looked_at, handled;

static void
need(const char *what, bool ok)
{
	if (ok)
		return;
	fprintf(stderr, "%s: after %u looks, %u of several, at %u packets, %u handled\n", what, looks,
		bulk, looked_at, handled);
	exit(1);
}

static void
look_at(void *state, struct dps_packet *packets, uint32_t n)
{
	bool marked = slot.hand >> DPS_HAND_LOOKS;
	uint32_t last = handled % RING;

	need("one number of packets", n >= 1 && n <= DPS_PLUGIN_BURST);
	need("its state", state == &l);
	need("several are marked, one is not", marked == (n > 1));
	need("all before were handled", looked_at == handled);
	need("nothing can be touched", touching == NULL);
	need("no verdict yet", !dps_word_is_done(shared.word[dps_word_at(scatter, RING - 1, last)]));
	for (uint32_t i = 0; i < n; i++) {
		need("length, found, bucket_state", packets[i].len == 64 && packets[i].found == 0 &&
						    packets[i].bucket_state == NULL);
		need("bytes", packets[i].data[0] == (uint8_t)(handled + i));
		packets[i].found = 1000 + handled + i;
	}
	looks++;
	bulk += n > 1;
	looked_at += n;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	need("not marked", !(slot.hand >> DPS_HAND_LOOKS));
	need("what was found", p->found == 1000 + handled);
	need("bucket_state", (p->bucket_state != NULL) == (l.buckets.head != NULL));
	handled++;
	return dps_out(p->found % 16);
}

static void
lend(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t index = shared.lane.sent + i, at = index % RING;

		bytes[at * 64] = index;
		shared.word[dps_word_at(scatter, RING - 1, index)] =
			(uint64_t)(at * 64) << DPS_W_OFFSET | 64ull << DPS_W_LEN;
	}
	dps_store32(&shared.lane.sent, shared.lane.sent + n);
}

static void
turn(uint32_t n)
{
	uint32_t from = shared.lane.done;

	lend(n);
	loop_turn(&l);
	need("done", shared.lane.done == from + n);
	for (uint32_t i = from; i != from + n; i++)
		need("verdict", shared.word[dps_word_at(scatter, RING - 1, i)] ==
					dps_word_verdict(dps_out((1000 + i) % 16)));
}

int
main(void)
{
	static const struct dps_plugin plugin[] = {
		{ DPS_PLUGIN_HEAD, .name = "reads", .packet = packet, .look = look_at },
		{ DPS_PLUGIN_HEAD, .name = "brief", .packet = packet, .look = look_at, .rewrites = 12 },
		{ DPS_PLUGIN_HEAD, .name = "long", .packet = packet, .look = look_at, .rewrites = 64 },
		{ DPS_PLUGIN_HEAD, .name = "touches", .packet = packet, .look = look_at,
		  .needs = DPS_PLUGIN_TOUCHES },
		{ DPS_PLUGIN_HEAD, .name = "keeps", .packet = packet, .look = look_at,
		  .bucket_state_size = BUCKET_STATE },
	};

	for (size_t k = 0; k < sizeof(plugin) / sizeof(plugin[0]); k++) {
		memset(&slot, 0, sizeof(slot));
		memset(&shared, 0, sizeof(shared));
		slot.ring = RING;
		slot.n_lanes = 1;
		slot.lanes[0] = (uintptr_t)&shared - (uintptr_t)&slot;
		slot.meta[0] = (uintptr_t)meta - (uintptr_t)&slot;
		loop_init(&l, (uintptr_t)bytes, &slot, &plugin[k], &l);
		if (plugin[k].bucket_state_size > 0) {
			l.buckets.head = blocks;
			l.buckets.stride = sizeof(struct dps_state_head) + BUCKET_STATE;
			l.buckets.stamp = stamp;
			l.bucket_size = BUCKET_STATE;
		}
		looks = bulk = looked_at = handled = 0;
		turn(1);
		turn(40);
		turn(22);
		need("the first ones one by one", looks == 63 && bulk == 0);
		turn(64);
		need("then the rest of the burst", looks == 65 && bulk == 1);
		turn(64);
		turn(2);
		need("and whole bursts", looks == 67 && bulk == 3);
		turn(1);
		need("one alone", looks == 68 && bulk == 3);
	}
	return 0;
}
