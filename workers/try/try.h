/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TRY_H
#define DPSUP_TRY_H

// `dpsup try`: a plugin and packets, without EAL, hugepages or ports. Three kinds of processes share memory
// that looks like an instance's: this one plays the primary with the real repair (shim/recovery); the
// nursery has the plugin loaded and initialised, and forks a worker whenever one is wanted; the worker
// runs the real loop.

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "loop.h"
#include "primary.h"
#include "worker.h"

enum {
	TRY_ROOM = 2048,                // bytes of a packet in one segment, as by default
	TRY_BUFFER = RTE_PKTMBUF_HEADROOM + TRY_ROOM,
	TRY_RING = 128,
	TRY_BUFFERS = 4096,             // mbufs, from the first one anew for each burst
	TRY_PACKET_MOST = 65535,
	TRY_FILL = 0xa5                 // what is in a buffer beside the packet
};

// What the processes tell each other.
struct board {
	uint32_t ready;                 // init is done
	int32_t refused;                // exit code, 0: it was not
	int32_t child;                  // that the nursery forked
	uint32_t once;                  // it runs what is lent, and ends
	uint32_t timed;
	uint64_t now;                   // ns, the plugin's clock
	uint64_t cycles;                // TSC, in the loop
	uint64_t ns;                    // likewise
	uint64_t own;                   // address that init gave as the plugin's state
	uint64_t thread;                // of the thread's own data
	uint32_t rewrites, prepends, state_size, bucket_state_size, state_version, emits, needs;
	uint32_t looks, has_seated, touches;
	uint32_t tick_us, bucket_tick_us;
	char name[DPS_PATH];
};

struct try_packet {
	uint64_t ns;                    // since the first one
	uint32_t len;
	uint32_t port;
	const uint8_t *bytes;
};

struct try {
	uint8_t *base;                  // of all that is shared
	struct board *board;
	struct dps_ctl *ctl;
	struct dps_slot *slot;
	struct dps_sitter *sitter;
	struct lane *lane;
	struct io *io;
	struct dps_state_head *state;
	uint8_t *buckets;
	struct rte_mbuf *mbuf;          // [TRY_BUFFERS]
	uint8_t *buffer;                // [TRY_BUFFERS][TRY_BUFFER]
	uint32_t n_buffers;             // used by the burst
	uint8_t *was;                   // the buffers, as they were lent
	uint32_t burst;
	double timeout;                 // seconds of a burst
	FILE *report;
	FILE *out;                      // each packet's fate, NULL: not asked for
	pid_t nursery;
	pid_t worker;                   // 0: none
	uint32_t n_packets;
	struct try_packet *packet;
	uint32_t first;                 // number of the packet at the lane's `collected`
	bool ticking;                   // what is lent is ticks, which come before `first`
};

extern struct try the_try;

// world.c
void world_create(void);
struct rte_mbuf *world_lend(uint32_t number);   // one packet; after the last one: world_publish
struct rte_mbuf *world_lend_tick(uint32_t tick);        // likewise
void world_publish(void);
void world_at(uint32_t number);                 // that packet's time; none is lent, blanks are anew
void world_reseat(void);                        // a new worker finds its slot
uint32_t world_done(void);                      // index after the last packet with a verdict
const uint8_t *world_was(const struct rte_mbuf *m);     // its whole buffer, as it was lent

// fate.c: what verdicts say, as the io core takes them.
enum fate_kind { FATE_OUT, FATE_DROP, FATE_ON, FATE_QUARANTINE, FATE_REFUSED, FATE_PUNT };
enum fate_role { ROLE_PACKET, ROLE_EMITTED, ROLE_COPY, ROLE_TICKED };

struct fate {
	enum fate_kind kind;
	uint32_t arg;                   // port, reason, group
	int32_t bucket;                 // of a group's, by a hash of the plugin's own; -1: by the packet's
	int32_t copy;                   // port of a copy, -1: none
	int32_t shift;
	uint32_t len;                   // of the first segment
	const char *why;                // it is refused
};

struct fate fate_of(const struct rte_mbuf *m, uint64_t word, bool is_blank);
void fate_collect(void);                        // all that has verdicts: counts, and writes it down
void fate_report(void);
void fate_check(uint32_t number, const struct rte_mbuf *m, bool has_fate, const struct fate *f);
void fate_refuse_packet(const char *why);       // the one in hand gets no verdict: quarantine

uint32_t fate_number(uint32_t index);           // of the packet at, or of the one after the tick at, an index

// ticks.c
bool ticks_run(uint32_t number, bool (*run)(uint32_t number, const uint32_t *ticks, uint32_t n));
uint32_t ticks_before(uint32_t number, uint32_t n);

// child.c
void child_start(void);                         // the nursery; ends this program if the plugin is refused
void child_worker(bool once);                   // forks one: the_try.worker
int child_wait(pid_t pid);                      // as waitpid; stops too. -1: no answer in time
void child_go(pid_t pid);
void child_end(pid_t pid);                      // kill and reap

// main.c
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);
void say_string(const char *key, const char *value);
void say_death(uint32_t number, int status, bool hung, const char *phase);

// sweep.c
void sweep(void);

#endif
