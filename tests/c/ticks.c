// SPDX-License-Identifier: BSD-3-Clause
//
// Ticks among packets, through the worker's own loop: each calls its function once and gets a tick's
// verdict, packets are handled in between, and look sees none of them. The loop is included, not linked,
// as its parts are static.

#include <stdio.h>
#include <stdlib.h>

#include "../../workers/loop.c"
#include "../../workers/emit.c"

enum { RING = 64, WORDS = 40, STRIDE = 64 };

struct loop *touching;

uint64_t
state_stamp(const struct dps_plugin *plugin)
{
	(void)plugin;
	return 7;
}

void
state_open_bucket(struct loop *l, struct dps_state_head *head)
{
	head->stamp = l->buckets.stamp;
	head->size = l->bucket_size;
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

static char story[WORDS * 8];

static void
tell(const char *what, uint32_t n)
{
	snprintf(story + strlen(story), sizeof(story) - strlen(story), "%s%u ", what, n);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	(void)state;
	tell("p", p->port);
	return dps_out(p->port);
}

static void
look(void *state, struct dps_packet *packets, uint32_t n)
{
	(void)state;
	(void)packets;
	tell("look", n);
}

static void
tick(void *state)
{
	(void)state;
	tell("tick", dps_emit(dps_out(1), 60) == NULL);
}

static void
bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	(void)state;
	tell(bucket_state != NULL ? "bucket" : "no state", bucket);
}

// 'p' a packet, 't' a tick, a digit a bucket's: 9 has state of another version.
static int
run_one(const struct dps_plugin *plugin, const char *words, const char *expected, const char *verdicts)
{
	static struct {
		struct dps_lane lane;
		uint64_t word[RING];
		uint64_t blank[2 * DPS_BLANKS];
	} shared;
	static struct dps_meta meta[RING];
	static struct dps_slot slot;
	static uint8_t bytes[4096], buckets[DPS_BUCKETS * (sizeof(struct dps_state_head) + STRIDE)];
	uint32_t n = strlen(words);
	struct loop l;

	memset(&shared, 0, sizeof(shared));
	memset(&slot, 0, sizeof(slot));
	story[0] = '\0';
	slot.ring = RING;
	slot.n_lanes = 0;
	loop_init(&l, (uintptr_t)bytes, &slot, plugin, NULL);
	l.n_lanes = 1;
	l.lane[0] = (struct loop_lane){ .shared = &shared.lane, .word = shared.word, .meta = meta,
					.blank = shared.blank, .blank_word = shared.blank + DPS_BLANKS };
	l.buckets.head = plugin->bucket_state_size > 0 ? buckets : NULL;
	l.buckets.stride = sizeof(struct dps_state_head) + STRIDE;
	l.bucket_size = STRIDE;
	l.buckets.stamp = 7;
	for (uint32_t i = 0; i < 10; i++) {
		struct dps_state_head *head = (struct dps_state_head *)(buckets + i * l.buckets.stride);

		head->stamp = i == 9 ? 5 : 7;
		head->size = STRIDE;
	}
	shared.lane.blanks = 2;
	shared.blank[0] = shared.blank[1] = 1024ull << DPS_W_LEN | 1024;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t word = words[i] == 'p' ? 64ull << DPS_W_LEN | (uint64_t)i << DPS_W_PORT :
				DPS_BIT(DPS_W_META) |
					(words[i] == 't' ? DPS_TICK_SLOT : 1ull + words[i] - '0') << DPS_W_LEN;

		shared.word[dps_word_at(scatter, RING - 1, i)] = word;
	}
	shared.lane.sent = n;
	shared.lane.ticked = n;
	if (loop_turn(&l) != n || shared.lane.done != n) {
		fprintf(stderr, "%s: %u done\n", words, shared.lane.done);
		return 1;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint64_t word = shared.word[dps_word_at(scatter, RING - 1, i)];
		bool is_tick = (word & 0xffff) == DPS_V_TICK;
		uint32_t emits = DPS_FIELD(word, DPS_W_EMITS, 4);

		if (!dps_word_is_done(word) || is_tick != (words[i] != 'p') ||
		    emits != (uint32_t)(verdicts[i] - '0')) {
			fprintf(stderr, "%s: word %u is %#llx\n", words, i, (unsigned long long)word);
			return 1;
		}
	}
	if (strcmp(story, expected) != 0) {
		fprintf(stderr, "%s: \"%s\", not \"%s\"\n", words, story, expected);
		return 1;
	}
	if (((struct dps_state_head *)(buckets + 9 * l.buckets.stride))->stamp != 5) {
		fprintf(stderr, "%s: a tick took another version's state\n", words);
		return 1;
	}
	if (touching != NULL) {
		fprintf(stderr, "%s: touching outlives the burst\n", words);
		return 1;
	}
	return 0;
}

// Only where a tick may be in the ring, however far the indices have come.
static int
look_for_ticks(void)
{
	const struct loop l = { .mask = RING - 1 };

	for (uint64_t done = 0; done < 1ull << 32; done += 12345677) {
		struct loop_lane lane = { .done = done };
		bool never = may_tick(&l, &lane);

		lane.ticked = lane.done + 1;
		if (!may_tick(&l, &lane) || (never && lane.done < -(uint32_t)RING)) {
			fprintf(stderr, "ticks are looked for wrongly at %u\n", lane.done);
			return 1;
		}
		lane.ticked = lane.done + RING;
		if (!may_tick(&l, &lane) || (lane.ticked = lane.done, may_tick(&l, &lane)))
			return 1;
	}
	return 0;
}

int
main(void)
{
	const struct dps_plugin plain = { DPS_PLUGIN_HEAD, .packet = packet, .rewrites = 8 };
	const struct dps_plugin both = {
		DPS_PLUGIN_HEAD, .packet = packet, .tick = tick, .bucket_tick = bucket_tick, .emits = 1,
		.bucket_state_size = STRIDE,
	};
	struct dps_plugin looks = both;
	struct dps_plugin looks_alone = plain;

	looks.look = look;
	looks_alone.look = look;
	if (look_for_ticks() != 0)
		return 1;
	if (run_one(&both, "9pt", "p1 tick0 ", "001") != 0)
		return 1;
	// Its version before had ticks: they do nothing.
	if (run_one(&plain, "ptp3p", "p0 p2 p4 ", "00000") != 0)
		return 1;
	// The third one finds no blank.
	if (run_one(&both, "tp3ptt", "tick0 p1 bucket3 p3 tick0 tick1 ", "100010") != 0)
		return 1;
	if (run_one(&looks, "pt4pp", "look1 p0 tick0 bucket4 look2 p3 p4 ", "01000") != 0)
		return 1;
	return run_one(&looks_alone, "tpt", "look1 p1 ", "000");
}
