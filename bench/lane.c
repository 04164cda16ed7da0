// SPDX-License-Identifier: BSD-3-Clause
//
// A lane alone: the io core's real end of it (shim/lane.h) on one CPU, the worker's real loop
// (workers/loop.c) with a plugin on the other, packets that go round between them. No EAL, no port,
// no mempool: a stack of mbufs, as a mempool's cache is one.

#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "lane.h"
#include "loop.h"
#include "worker.h"

enum {
	HEADER = 192,           // mempool's and mbuf's own
	ROOM = 2176,
	PACKET = 60,            // bytes; 64 with the frame's checksum
	COLLECT = 64,           // most collected in a turn
	CREDIT_KEPT = 65,       // as in the primary: a ring is never full
	CLOCKED = 256,          // turns between two looks at the clock
	WARM_MS = 2,
	MARGIN = 1 << 21
};

struct rig {
	char *memory;
	uint64_t length;        // bytes
	struct dps_slot *slot;
	struct lane lane;
	struct rte_mbuf **free;
	uint32_t n_free;
	const struct dps_plugin *plugin;
	void *state;
	int core;               // the worker's
	bool unsafe;            // its loop is that of unsafe.c
	int tid[2];             // of the two threads
	uint64_t waited[2];     // ns, at the start
	uint64_t begin;
	pthread_t worker;
	pthread_barrier_t ready;
	volatile bool stop;
};

// --- plugins -------------------------------------------------------------------------------------

static uint16_t
touch_none(void *state, struct dps_packet *packet)
{
	(void)state;
	return dps_out(packet->port);
}

// Reads what a lookup would: addresses and type, the first line of the packet.
static uint16_t
touch_read(void *state, struct dps_packet *packet)
{
	uint64_t a, b;

	(void)state;
	memcpy(&a, packet->data, sizeof(a));
	memcpy(&b, packet->data + 6, sizeof(b));
	// No packet is of this kind: the bytes are needed, and nothing is made of them.
	return unlikely((a ^ b) == 0x5eed5eed5eed5eed) ? dps_drop(0) : dps_out(packet->port);
}

static const struct dps_plugin plugin_none = {
	DPS_PLUGIN_HEAD, .name = "none", .needs = DPS_PLUGIN_NO_BYTES, .packet = touch_none,
};
static const struct dps_plugin plugin_read = {
	DPS_PLUGIN_HEAD, .name = "read", .packet = touch_read,
};

static const char *const touches[] = { "none", "read", "rewrite" };
static const struct dps_plugin *const plugins[] = { &plugin_none, &plugin_read, &plugin_macswap };

// unsafe.c
void unsafe_loop_init(struct loop *loop, uint64_t base, struct dps_slot *slot,
		      const struct dps_plugin *plugin, void *state);
uint32_t unsafe_loop_turn(struct loop *loop);

// --- the rig -------------------------------------------------------------------------------------

static char *
map(uint64_t length)
{
	char *p = mmap(NULL, length, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED) {
		p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			fail("no memory");
		madvise(p, length, MADV_HUGEPAGE);
		memset(p, 0, length);
	}
	return p;
}

static void *
take(char **at, uint64_t length)
{
	void *p = *at;

	*at += RTE_ALIGN_CEIL(length, 128);
	return p;
}

static void *
work(void *arg)
{
	struct rig *r = arg;
	uint32_t (*turn)(struct loop *loop) = r->unsafe ? unsafe_loop_turn : loop_turn;
	struct loop loop;

	pin(r->core, false);
	r->tid[1] = gettid();
	(r->unsafe ? unsafe_loop_init : loop_init)(&loop, (uintptr_t)r->memory, r->slot, r->plugin,
						   r->state);
	pthread_barrier_wait(&r->ready);
	while (!r->stop)
		if (turn(&loop) == 0)
			rte_pause();
	return NULL;
}

static void
lay_out(struct rig *r, uint32_t ring)
{
	uint64_t stride = HEADER + ROOM;
	struct dps_lane *shared;
	char *at;

	r->length = RTE_ALIGN_CEIL(sizeof(struct dps_slot) + sizeof(*shared) +
					   ring * (8 + sizeof(struct dps_meta) + stride) + 1024,
				   MARGIN);
	at = r->memory = map(r->length);
	r->slot = take(&at, sizeof(*r->slot));
	shared = take(&at, sizeof(*shared) + ring * 8);
	r->slot->ring = ring;
	r->slot->n_lanes = 1;
	r->slot->lanes[0] = (char *)shared - (char *)r->slot;
	r->lane = (struct lane){
		.shared = shared,
		.word = dps_lane_words(shared),
		.meta = take(&at, ring * sizeof(struct dps_meta)),
		.scatter = calloc(ring / DPS_LINE_WORDS, sizeof(uint32_t)),
		.shadow = calloc(ring, sizeof(void *)),
		.parks = &r->slot->parks,
		.base = (uintptr_t)r->memory,
		.size = ring,
		.mask = ring - 1,
		.credit = ring - CREDIT_KEPT,
	};
	lane_set_limit(&r->lane);
	dps_scatter_init(r->lane.scatter, ring);
	r->slot->meta[0] = (char *)r->lane.meta - (char *)r->slot;
	r->free = calloc(ring, sizeof(void *));
	for (uint32_t i = 0; i < ring; i++) {
		struct rte_mbuf *m = (void *)(at + i * stride + 64);

		m->buf_addr = m + 1;
		m->buf_len = ROOM;
		m->data_off = RTE_PKTMBUF_HEADROOM;
		m->data_len = PACKET;
		m->pkt_len = PACKET;
		r->free[r->n_free++] = m;
	}
}

static void
start(struct rig *r, const struct options *o, uint32_t touch, uint32_t ring, bool unsafe)
{
	static const uint16_t next[] = { [0 ... DPS_MAX_PORTS - 1] = DPS_V_OUT };
	static const struct dps_env env = { .group = "bench", .next = next };

	*r = (struct rig){ .core = o->core[1], .unsafe = unsafe, .plugin = plugins[touch] };
	lay_out(r, ring);
	if (r->plugin->init != NULL && r->plugin->init(&env, &r->state) != 0)
		fail("%s: init failed", touches[touch]);
	pthread_barrier_init(&r->ready, NULL, 2);
	if (pthread_create(&r->worker, NULL, work, r) != 0)
		fail("no thread");
	pin(o->core[0], false);
	r->tid[0] = gettid();
	pthread_barrier_wait(&r->ready);
	r->begin = now_ns();
	for (int i = 0; i < 2; i++)
		r->waited[i] = waited_ns(r->tid[i]);
}

// The largest share of its time that a thread waited for its CPU: another thread had it meanwhile, so
// that this measures something else.
static double
waited(const struct rig *r)
{
	double most = 0;

	for (int i = 0; i < 2; i++)
		most = RTE_MAX(most, (double)(waited_ns(r->tid[i]) - r->waited[i]));
	return most / (now_ns() - r->begin);
}

static void
finish(struct rig *r)
{
	r->stop = true;
	pthread_join(r->worker, NULL);
	if (r->plugin->fini != NULL)
		r->plugin->fini(r->state);
	free(r->lane.scatter);
	free(r->lane.shadow);
	free(r->free);
	munmap(r->memory, r->length);
}

// --- the io core's turn --------------------------------------------------------------------------

static inline uint32_t
lend(struct rig *r, uint32_t most)
{
	struct lane *lane = &r->lane;
	uint32_t n = RTE_MIN(RTE_MIN(lane_room(lane), r->n_free), most);

	for (uint32_t i = 0; i < n; i++) {
		struct rte_mbuf *m = r->free[--r->n_free];

		lane->shadow[lane->sent & lane->mask] = m;
		lane_put(lane, lane->sent, lane_word(lane, m, m->data_len, 0));
		lane->sent++;
	}
	if (n > 0)
		lane_publish(lane);
	return n;
}

// Gives how many came back, in one piece; `*from` is the first one's index.
static inline uint32_t
collect(struct rig *r, uint32_t *from)
{
	struct lane *lane = &r->lane;
	uint32_t n = lane_back(lane, COLLECT);
	uint32_t taken = 0;

	*from = lane->collected;
	while (taken < n) {
		uint32_t index = lane->collected + taken;
		uint64_t word = lane_get(lane, index);
		uint32_t run = lane_run(lane, index, n - taken, word);

		if (unlikely(word != dps_word_verdict(dps_out(0))))
			fail("packet %u came back as %#" PRIx64, index, word);
		memcpy(&r->free[r->n_free], &lane->shadow[index & lane->mask],
		       run * sizeof(r->free[0]));
		r->n_free += run;
		taken += run;
	}
	if (taken > 0)
		lane_collected(lane, taken);
	lane_look(lane);
	if (unlikely(lane->corrupt))
		fail("the lane is corrupt");
	return taken;
}

struct rate {
	double seconds;
	uint64_t packets;
	uint64_t cycles;
};

// As much as goes through, `burst` at a time, for so many milliseconds; longer where the other end
// had no CPU all the while, and there would be nothing to divide by.
static struct rate
flood(struct rig *r, uint32_t burst, uint32_t ms)
{
	uint64_t begin = now_ns(), cycles = rte_rdtsc(), packets = 0, end;
	uint32_t from;

	do {
		for (uint32_t i = 0; i < CLOCKED; i++) {
			lend(r, burst);
			packets += collect(r, &from);
		}
		end = now_ns();
	} while (end - begin < ms * 1000000ull || packets == 0);
	return (struct rate){ (end - begin) / 1e9, packets, rte_rdtsc() - cycles };
}

// --- lane ----------------------------------------------------------------------------------------

static void
one_lane(const struct options *o, uint32_t touch, uint32_t burst, uint32_t ring, double before)
{
	struct options look = *o;
	struct rate rate;
	struct rig r;
	double after, lost;

	start(&r, o, touch, ring, false);
	flood(&r, burst, WARM_MS);
	rate = flood(&r, burst, o->ms);
	lost = waited(&r);
	finish(&r);
	look.ms = 1;
	after = round_trip(&look);
	printf("{\"touch\": \"%s\", \"burst\": %u, \"ring\": %u, \"mpps\": %.3f, "
	       "\"cycles\": %.3f, \"waited\": %.4f, \"distance_ns\": [%.1f, %.1f]}",
	       touches[touch], burst, ring, rate.packets / rate.seconds / 1e6,
	       (double)rate.cycles / rate.packets, lost, before, after);
}

int
run_lane(const struct options *o)
{
	static const uint32_t bursts[] = { 8, 16, 32, 64, 128 };
	static const uint32_t rings[] = { 256, 1024, 4096 };
	struct options look = *o;
	const char *comma = "";

	look.ms = 1;
	printf("{\"command\": \"lane\", \"results\": [");
	for (uint32_t t = 0; t < RTE_DIM(touches); t++)
		for (uint32_t b = 0; b < RTE_DIM(bursts); b++)
			for (uint32_t s = 0; s < RTE_DIM(rings); s++) {
				if ((o->touch != NULL && strcmp(o->touch, touches[t]) != 0) ||
				    (o->burst != 0 && o->burst != bursts[b]) ||
				    (o->ring != 0 && o->ring != rings[s]))
					continue;
				for (uint32_t i = 0; i < o->count; i++) {
					printf("%s\n", comma);
					one_lane(o, t, bursts[b], rings[s], round_trip(&look));
					comma = ",";
				}
			}
	printf("\n]}\n");
	return 0;
}

// --- cost ----------------------------------------------------------------------------------------

enum {
	COST_BURST = 32,
	COST_RING = 1024
};

static double
cycles_of(const struct options *o, uint32_t touch, bool unsafe, double *lost)
{
	struct rate rate;
	struct rig r;

	start(&r, o, touch, COST_RING, unsafe);
	flood(&r, COST_BURST, WARM_MS);
	rate = flood(&r, COST_BURST, o->ms);
	*lost = waited(&r);
	finish(&r);
	return (double)rate.cycles / rate.packets;
}

// What a packet costs with and without the means to survive a kill, in turns: with, without, ...
int
run_cost(const struct options *o)
{
	const char *comma = "";

	printf("{\"command\": \"cost\", \"results\": [");
	for (uint32_t t = 0; t < RTE_DIM(touches); t++)
		for (uint32_t i = 0; i < o->count; i++) {
			double lost[2];
			double safe = cycles_of(o, t, false, &lost[0]);
			double unsafe = cycles_of(o, t, true, &lost[1]);

			printf("%s\n{\"touch\": \"%s\", \"safe\": %.3f, \"unsafe\": %.3f, "
			       "\"waited\": %.4f}",
			       comma, touches[t], safe, unsafe, RTE_MAX(lost[0], lost[1]));
			comma = ",";
		}
	printf("\n]}\n");
	return 0;
}

// --- latency -------------------------------------------------------------------------------------

enum {
	LATENCY_BURST = 32,
	LATENCY_RING = 1024,
	SINGLES = 20000,
	FINE = 5,               // bits: 32 steps to a doubling, 3 %
	STEPS = (64 - FINE + 1) << FINE
};

// Counts of cycles, in steps that are 1/32 of what they count.
struct histogram {
	uint64_t count[STEPS];
	uint64_t n;
	uint64_t most;
};

static inline uint32_t
step_of(uint64_t value)
{
	uint32_t top = value >> FINE ? 63 - __builtin_clzll(value) - FINE : 0;

	return (top << FINE) + (value >> top);
}

static inline void
note(struct histogram *h, uint64_t value)
{
	h->count[step_of(value)]++;
	h->n++;
	h->most = RTE_MAX(h->most, value);
}

static uint64_t
middle_of(uint32_t step)
{
	uint32_t top = step < 2u << FINE ? 0 : (step >> FINE) - 1;
	uint64_t low = (uint64_t)(step - (top << FINE)) << top;

	return low + ((1ull << top) >> 1);
}

static uint64_t
quantile(const struct histogram *h, double q)
{
	uint64_t left = h->n * q;

	for (uint32_t i = 0; i < STEPS; i++) {
		if (h->count[i] > left)
			return middle_of(i);
		left -= h->count[i];
	}
	return h->most;
}

static void
show(const struct histogram *h, double cycles_ns)
{
	printf("\"packets\": %" PRIu64 ", \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
	       "\"p999\": %.1f, \"max\": %.1f",
	       h->n, quantile(h, 0.5) / cycles_ns, quantile(h, 0.9) / cycles_ns,
	       quantile(h, 0.99) / cycles_ns, quantile(h, 0.999) / cycles_ns,
	       h->most / cycles_ns);
}

// One packet at a time through an empty lane.
static void
singles(struct rig *r, struct histogram *h)
{
	uint32_t from;

	*h = (struct histogram){ 0 };
	for (uint32_t i = 0; i < SINGLES; i++) {
		uint64_t begin = rte_rdtsc();

		lend(r, 1);
		while (collect(r, &from) == 0)
			;
		note(h, rte_rdtsc() - begin);
	}
}

// Packets that fall due at a steady rate, one in `period` cycles (64ths of one), each stamped with
// when it was due: what a lane or a core that falls behind makes it wait counts. With period 0, as
// many as go through, stamps and all: the largest load. `due` holds the stamps by index. Gives the
// packets a cycle.
static double
steady(struct rig *r, struct histogram *h, uint64_t period, uint64_t cycles, uint64_t *due)
{
	uint64_t begin = rte_rdtsc(), end = begin + cycles, now = begin;
	uint64_t next = begin * 64;

	*h = (struct histogram){ 0 };
	while (now < end || lane_out(&r->lane) > 0) {
		uint32_t at = r->lane.sent;
		uint32_t n = 0, from;

		if (period == 0)
			next = now * 64;
		while (n < LATENCY_BURST && next <= now * 64) {
			due[(at + n++) & r->lane.mask] = next / 64;
			next += period;
		}
		if (now < end)
			// Those that find no room are still due.
			next -= (n - lend(r, n)) * period;
		n = collect(r, &from);
		now = rte_rdtsc();
		for (uint32_t i = 0; i < n; i++)
			note(h, now - due[(from + i) & r->lane.mask]);
	}
	return (double)h->n / (now - begin);
}

int
run_latency(const struct options *o)
{
	static const uint32_t loads[] = { 10, 25, 50, 75, 90 };
	static uint64_t due[LATENCY_RING];
	static struct histogram h;
	struct options look = *o;
	const char *comma = "";

	look.ms = 1;
	printf("{\"command\": \"latency\", \"results\": [");
	for (uint32_t i = 0; i < o->count; i++) {
		double before = round_trip(&look), cycles_ns;
		uint64_t cycles;
		struct rate rate;
		struct rig r;
		double most;

		start(&r, o, 0, LATENCY_RING, false);
		rate = flood(&r, LATENCY_BURST, o->ms);
		cycles_ns = rate.cycles / rate.seconds / 1e9;
		cycles = o->ms * 1e6 * cycles_ns;
		most = steady(&r, &h, 0, cycles, due);
		printf("%s\n{\"most_mpps\": %.3f, \"empty\": {", comma, most * cycles_ns * 1e3);
		singles(&r, &h);
		show(&h, cycles_ns);
		printf("}, \"loads\": [");
		for (uint32_t l = 0; l < RTE_DIM(loads); l++) {
			steady(&r, &h, 64 * 100 / (most * loads[l]), cycles, due);
			printf("%s\n  {\"load\": %u, ", l ? "," : "", loads[l]);
			show(&h, cycles_ns);
			printf("}");
		}
		printf("], \"waited\": %.4f, ", waited(&r));
		finish(&r);
		printf("\"distance_ns\": [%.1f, %.1f]}", before, round_trip(&look));
		comma = ",";
	}
	printf("\n]}\n");
	return 0;
}
