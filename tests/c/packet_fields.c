// SPDX-License-Identifier: BSD-3-Clause
//
// What a plugin finds in the fields of a packet: through the worker's own loop, with a plugin that
// leaves rubbish in all of them, on a stack full of rubbish. The loop is included, not linked, as
// its parts are static.

#include <stdio.h>
#include <stdlib.h>

#include "../../workers/loop.c"

enum { RING = 64, PACKETS = 32 };

struct loop *touching;

uint64_t
state_stamp(const struct dps_plugin *plugin)
{
	(void)plugin;
	return 0;
}

void
state_open_bucket(struct loop *l, struct dps_state_head *head)
{
	(void)l;
	(void)head;
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

static struct dps_packet seen[PACKETS];
static uint32_t n_seen;

static uint16_t
look(void *state, struct dps_packet *packet)
{
	uint8_t *data = packet->data;
	uint32_t len = packet->len;
	void *bucket_state = packet->bucket_state;

	(void)state;
	seen[n_seen++] = *packet;
	memset(packet, 0xa5, sizeof(*packet));
	packet->data = data;
	packet->len = len;
	packet->bucket_state = bucket_state;    // the one field that no packet sets anew
	return dps_out(0);
}

static void __attribute__((noinline))
soil_stack(void)
{
	volatile uint8_t soil[8192];

	for (size_t i = 0; i < sizeof(soil); i++)
		soil[i] = 0xa5;
}

static void __attribute__((noinline))
run_all(struct loop *l, const struct dps_plugin *plugin)
{
	l->plugin = plugin;
	l->lane[0].done = 0;
	n_seen = 0;
	soil_stack();
	run_burst(l, &l->lane[0], 0, PACKETS);
}

static void
check(const char *what, uint32_t i, bool ok)
{
	if (ok)
		return;
	fprintf(stderr, "packet %u: %s: vlan %#x has_vlan %u pad %u hash %#x tsc %#lx state %p\n", i,
		what, seen[i].vlan, seen[i].has_vlan, seen[i].pad, seen[i].hash,
		(unsigned long)seen[i].tsc, seen[i].bucket_state);
	exit(1);
}

// Every third packet has all that can be asked for; none of it may show in the next one.
static void
check_all(void)
{
	for (uint32_t i = 0; i < PACKETS; i++) {
		const struct dps_packet *p = &seen[i];
		bool has = i % 3 == 0;

		check("port, len", i, p->port == i % 8 && p->len == 64 && p->total == 64);
		check("vlan", i, p->vlan == (has ? 7 : 0) && p->has_vlan == has && p->pad == 0);
		check("hash, tsc", i, p->hash == (has ? 8u : 0) && p->tsc == (has ? 9u : 0));
		check("bucket_state", i, p->bucket_state == NULL);
	}
}

int
main(void)
{
	static struct { struct dps_lane lane; uint64_t word[RING]; } shared;
	static struct dps_meta meta[RING];
	static struct dps_slot slot;
	static uint8_t bytes[4096];
	static struct loop l;
	static const struct dps_plugin plugin[] = {
		{ DPS_PLUGIN_HEAD, .name = "reads", .packet = look },
		{ DPS_PLUGIN_HEAD, .name = "counts", .packet = look, .needs = DPS_PLUGIN_NO_BYTES },
		{ DPS_PLUGIN_HEAD, .name = "brief", .packet = look, .rewrites = 12 },
		{ DPS_PLUGIN_HEAD, .name = "long", .packet = look, .rewrites = 64 },
		{ DPS_PLUGIN_HEAD, .name = "touches", .packet = look, .needs = DPS_PLUGIN_TOUCHES },
	};

	dps_scatter_init(scatter, RING);
	for (size_t k = 0; k < sizeof(plugin) / sizeof(plugin[0]); k++) {
		l = (struct loop){
			.slot = &slot,
			.base = (uintptr_t)bytes,
			.mask = RING - 1,
			.n_lanes = 1,
			.saves = plugin[k].rewrites == 0 ? LOOP_SAVES_NOT :
				 plugin[k].rewrites <= DPS_BRIEF ? LOOP_SAVES_BRIEF : LOOP_SAVES,
			.fetches = !(plugin[k].needs & DPS_PLUGIN_NO_BYTES),
			.touches = plugin[k].needs & DPS_PLUGIN_TOUCHES,
		};
		l.lane[0] = (struct loop_lane){ &shared.lane, shared.word, meta, 0, PACKETS };
		for (uint32_t i = 0; i < PACKETS; i++) {
			uint64_t word = (uint64_t)(i * 64) << DPS_W_OFFSET | 64ull << DPS_W_LEN |
					(uint64_t)(i % 8) << DPS_W_PORT;

			meta[i] = (struct dps_meta){ .len = 64, .vlan = 7, .hash = 8, .tsc = 9,
						     .flags = DPS_F_VLAN | DPS_F_HASH | DPS_F_TSC };
			// As an io core has it: then the length is there.
			if (i % 3 == 0)
				word = (word & ~(64ull << DPS_W_LEN)) | DPS_BIT(DPS_W_META);
			shared.word[dps_word_at(scatter, RING - 1, i)] = word;
		}
		run_all(&l, &plugin[k]);
		if (n_seen != PACKETS)
			return 1;
		check_all();
	}
	return 0;
}
