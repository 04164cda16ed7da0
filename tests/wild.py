# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that writes where it must not, in the memory that it shares with the primary."""

from __future__ import annotations

# Finds the control block in the hugepages, which a worker may read.
FIND_CTL = """
#include <stdio.h>
#include <string.h>

static struct dps_ctl *find_ctl(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	struct dps_ctl *found = NULL;
	char line[512];

	while (found == NULL && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;

		if (strstr(line, "huge") == NULL || strstr(line, "/dpsup-") == NULL)
			continue;
		if (sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		for (; found == NULL && from + sizeof(*found) <= to; from += 64) {
			struct dps_ctl *ctl = (void *)from;

			if (ctl->magic == DPS_MAGIC && ctl->abi_size == sizeof(*ctl))
				found = ctl;
		}
	}
	fclose(maps);
	return found;
}
"""

# Finds its way to the control block, and once in all does what it must not, at its 300th packet.
WILD = """
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include "dpsup.h"
#include "dpsup_plugin.h"
FIND_CTL
static struct dps_sitter *me;
static struct dps_ctl *ctl;
static const char *once;
static int seen;

static struct dps_slot *slot_at(int index)
{
	return (void *)(ctl->base + ctl->slot[index]);
}

static struct dps_lane *lane_of(struct dps_slot *slot)
{
	return (void *)((char *)slot + slot->lanes[0]);
}

static void go_wild(void)
{
	struct dps_slot *slot = slot_at(me->slot);
	struct dps_slot *other = slot_at(me->slot ^ 1);
	struct dps_lane *lane = lane_of(slot);
	static uint32_t scatter[4096];

	(void)other;
	dps_scatter_init(scatter, slot->ring);
	%s
}

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	once = dps_arg(env, "once");
	me = (void *)((char *)env->counters - offsetof(struct dps_sitter, counter));
	ctl = find_ctl();
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint8_t first = *(volatile uint8_t *)p->data;

	(void)state;
	(void)first;
	for (volatile int i = 0; i < 20000; i++)
		;
	if (++seen == 300 && open(once, O_CREAT | O_EXCL, 0600) >= 0)
		go_wild();
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "wild", .init = init, .packet = packet,
};
""".replace("FIND_CTL", FIND_CTL)

# Writes at random, once a packet, while FOLDER/go says so: anything into anywhere it has mapped.
# What kind of place it was is noted before, a letter each, in FOLDER/log.
ANYWHERE = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "dpsup.h"
#include "dpsup_plugin.h"
FIND_CTL
enum { PLACES = 4096 };
struct place { uintptr_t from, to; };

// s: its slot, i: its sitter, k: state of buckets, l: its lines beside tables, b: bytes of packets,
// r: what is shared and read-only, p: memory of its own, stacks, code, o: others' slots and sitters
static const char kinds[] = "sikbrplo";
static const unsigned int weight[] = { 52, 12, 12, 12, 2, 1, 5, 4 };
static struct place place[sizeof(kinds)][PLACES];
static unsigned int n[sizeof(kinds)];
static const volatile uint8_t *go;
static const struct dps_env *env;
static int log_fd;
static uint64_t seed;

static uint64_t draw(uint64_t most)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % most;
}

static void add_place(int kind, uintptr_t from, uintptr_t to)
{
	if (n[kind] < PLACES)
		place[kind][n[kind]++] = (struct place){ from, to };
}

static void find_places(void)
{
	char *counters = (char *)env->counters;
	struct dps_sitter *me = (void *)(counters - offsetof(struct dps_sitter, counter));
	struct dps_ctl *ctl = find_ctl();
	struct dps_group_conf *conf = &ctl->group[me->group];
	uintptr_t slot = ctl->base + ctl->slot[me->slot], buckets = ctl->base + conf->buckets;
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], mode[8];

	while (fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;
		int kind = 4;

		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[0] != 'r')
			continue;
		if (mode[3] != 's')
			kind = 5;
		else if (mode[1] != 'w')
			kind = 4;
		else if (from >= slot && from < slot + conf->slot_bytes)
			kind = 0;
		else if (from >= buckets && from < buckets + DPS_BUCKETS * conf->bucket_stride)
			kind = 2;
		else if (strstr(line, "huge") != NULL)
			kind = 3;
		else
			kind = strstr(line, "sitters") != NULL ? 1 : 6;
		// What of a slot is in use lies at its start.
		if (kind == 0)
			to = from + (128 << 10);
		add_place(kind, from, to);
		if (strstr(line, "sitters") != NULL && mode[1] != 'w')
			add_place(7, from, to);
	}
	fclose(maps);
	for (uint32_t i = 0; i < ctl->n_slots; i++)
		if (i != me->slot)
			add_place(7, ctl->base + ctl->slot[i], ctl->base + ctl->slot[i] + (16 << 10));
}

static void write_somewhere(void)
{
	uint64_t left = draw(100), value = draw(UINT64_MAX), size = 1 << draw(4);
	struct place *p;
	uintptr_t at;
	int kind = 0;

	for (; left >= weight[kind]; kind++)
		left -= weight[kind];
	if (n[kind] == 0)
		return;
	p = &place[kind][draw(n[kind])];
	at = p->from + draw(p->to - p->from - 8);
	if (draw(2))
		at &= ~7ull;
	// The head of a slot and of its lanes more often than what is far behind.
	if (kind == 0 && draw(2))
		at = p->from + draw(4096) / 8 * 8;
	if (draw(3) == 0)
		value = draw(3);
	if (draw(3) == 0)
		value = *(uint64_t *)at ^ 1ull << draw(64);
	if (write(log_fd, &kinds[kind], 1) != 1)
		return;
	memcpy((void *)at, &value, size);
}

static void seated(void *state, const struct dps_env *e)
{
	(void)state;
	env = e;
	find_places();
}

static int init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	log_fd = open("FOLDER/log", O_WRONLY | O_APPEND | O_CREAT, 0600);
	go = mmap(NULL, 1, PROT_READ, MAP_SHARED, open("FOLDER/go", O_RDONLY), 0);
	seed = __builtin_ia32_rdtsc() ^ (uint64_t)getpid() << 40 | 1;
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint64_t *bucket = p->bucket_state;

	(void)state;
	if (bucket != NULL) {
		dps_touch(bucket, 8);
		(*bucket)++;
	}
	for (volatile int i = 0; i < 3000; i++)
		;
	if (go[0] == '1')
		write_somewhere();
	return VERDICT;
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "anywhere", .init = init, .seated = seated, .packet = packet,
	.rewrites = 14, STATE
};
""".replace("FIND_CTL", FIND_CTL)
