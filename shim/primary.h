/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_PRIMARY_H
#define DPSUP_PRIMARY_H

// The primary's private state, in its own heap. Lines are grouped by the thread that writes them.

#include <pthread.h>
#include <stdbool.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#include "lane.h"

enum {
	TX_WAIT = 1024,         // packets that wait for a port that refuses them, a power of two
	TX_MOST = 512,          // handed to a driver at once
	WAITING_GATE = 512,     // held packets at which lossless inputs are left alone
	WAITING_MOST = 8192,    // packets held in a group and io core, a power of two
	XFER_SIZE = 1024,       // packets under way from io core to io core
	HOP_LIMIT = 8,
	RXQ_MOST = 256,         // rx queues that one io core polls
	TX_DIRECT = 8,          // packets worth a call of the driver's tx at once
	TIMED_TURNS = 61,       // one turn in so many is timed stage by stage; a prime, as loads have rhythms
	CELLS = 64,             // packets of an io core in quarantine, a power of two
	NO_BUCKET = 0xffff,     // not hashed: its lane took every bucket
	STEERED = 0x2000,       // dps_mark.bucket: the group above the bucket has steered it to itself
	ETHER_MOST = 14 + 2 * 4 // Ethernet header with two VLAN tags
};

// A packet that waits in an io core, and what the io core must know without reading it.
struct waiting {
	struct rte_mbuf *m;
	uint16_t bucket;
	bool back;                      // it came back as REQUEUE
};

struct waiting_queue {
	struct waiting *entry;          // [mask + 1]
	uint32_t head;
	uint32_t tail;
	uint32_t mask;
};

// One group in one io core.
struct io_group {
	uint8_t map[DPS_BUCKETS];       // bucket -> lane, DPS_NO_SLOT: none
	uint8_t waits[DPS_BUCKETS];     // 1: packets of this bucket wait
	uint32_t first;                 // lane of member 0
	uint32_t max;
	uint32_t fed;                   // members with a bucket
	uint32_t holes;                 // buckets without a member
	uint32_t load[DPS_BUCKETS];     // packets steered, modulo 2^32; not those of a lone lane
	uint16_t next[DPS_MAX_PORTS];   // dps_group_conf.next
	uint32_t reach;                 // dps_group_conf.reach
	enum dps_when_empty when_empty;
	struct lane *lone;              // the one lane that has all buckets and needs no hash
	bool hold;
	bool plain;                     // every bucket has a lane, no plugin asks for more than bytes
	bool moving;
	bool together;                  // its buckets have state: no io core lends what moved before
					// all have got back what they had out
	uint32_t move;                  // its map, by number (primary.moves)
	uint32_t settled;               // the last map that nothing drains for here; others read it
	bool gated;                     // too much is held for lossless inputs to be polled
	bool stirred;                   // what came back is of a bucket that waits for no lane
	uint8_t from[DPS_BUCKETS];      // the member whose lane the bucket waits for, DPS_NO_SLOT: none
	uint32_t until[DPS_BUCKETS];    // that lane's index after the last packet that may be of it
	uint64_t since[DPS_BUCKETS];    // TSC when it began to wait
	uint64_t awaited;               // all members in `from`, a bit each
	uint64_t pause_ns;              // dps_group_stats.pause_ns, and pause
	uint64_t pause[DPS_PAUSES];
	uint32_t n_back;                // packets here that came back as REQUEUE
	uint32_t n_waiting;             // and all others
	uint32_t waiting_most;          // WAITING_MOST; room for all that is under way if it holds
	struct waiting_queue again;     // those that came back, while their lane drains
	struct waiting_queue parked;    // those whose bucket waits for a lane
	struct waiting_queue ready;     // those that wait for room
	uint64_t no_worker;
	uint64_t hold_full;
	uint64_t worker_held;
	uint64_t bypassed;
	bool tick_waits[DPS_BUCKETS];   // the bucket's last tick is out
	uint32_t tick_at;               // bucket whose turn is next
	uint64_t tick_due;              // TSC of that
};

enum {
	TX_OTHERS = -1,         // another io core owns the port's tx queue
	TX_SHUT = -2            // no io core sends there: the device is gone, or its interface down
};

struct tx_port {
	struct rte_mbuf *wait[TX_WAIT];
	uint32_t head;
	uint32_t tail;
	int32_t queue;                  // or TX_*
	uint32_t owner;                 // io core that owns it
};

struct rx_queue {
	uint16_t port;                  // dpsup's index
	uint16_t queue;
};

// The hashes that a NIC gave, compared with those of the same packets in software.
struct hash_check {
	uint64_t seen;
	uint64_t differ;
};

// What an io core serves. Ports come and go: filled by the thread that asks, taken over by the io core.
struct queues {
	uint32_t n_rxq;
	struct rx_queue rxq[RXQ_MOST];
	uint32_t n_fds;                 // of all rx queues, or none: sleep.c
	int fd[RXQ_MOST];
	int32_t tx_queue[DPS_MAX_PORTS];        // or TX_*
	uint32_t tx_owner[DPS_MAX_PORTS];
};

// A packet in quarantine.
struct cell {
	struct rte_mbuf *mbuf;
	uint32_t slot;                  // whose lane it came out of
};

// One port's way to the kernel, as one io core has it: kernel.c.
struct kernel_end {
	// set up before the io core starts
	uint32_t port;
	uint32_t frame_most;            // bytes of the longest frame
	struct rte_mempool *pool;
	uint64_t interval;              // TSC cycles that one punted packet costs
	uint64_t burst;                 // of them that may be spent in advance
	bool sends;                     // what the kernel sends comes here

	// written by the io core
	uint64_t paid_until __rte_cache_aligned;        // TSC
	uint32_t out_head;
	uint32_t out_tail;
	uint32_t in_head;
	uint32_t in_tail;
	struct rte_mbuf *out[DPS_KERNEL_OUT];
	struct rte_mbuf *in[DPS_KERNEL_IN];

	// written by the kernel path's thread
	uint32_t out_done __rte_cache_aligned;
	uint32_t in_done;
	bool failed[DPS_KERNEL_OUT];
	uint32_t in_len[DPS_KERNEL_IN];
};

enum io_op {
	OP_NONE,
	OP_RX,
	OP_QUEUES,                      // those that it serves from now on: arg_queues
	OP_MAP,
	OP_LANE,
	OP_RESET,
	OP_AUDIT,
	OP_RELEASE,                     // the oldest packets from quarantine
	OP_MARK,
	OP_LEAK,
	OP_CAPTURE,                     // from now on, 0: no longer
	OP_STOPWATCH,                   // likewise
	OP_STOP
};

struct io_audit {
	uint64_t free[DPS_MAX_POOLS];   // in the pool's own ring
	uint32_t mbufs[DPS_MAX_POOLS][DPS_N_PLACES][DPS_MAX_SLOTS];
};

// One io core.
struct io {
	// set up before it starts
	uint32_t index;
	uint32_t lcore;
	uint32_t burst;
	bool adaptive;
	bool created;
	struct rte_ring *xfer[DPS_MAX_IO];      // from io core i to this one

	// written by the asking thread, under asking_lock
	uint32_t asked __rte_cache_aligned;
	enum io_op op;
	uint32_t arg;
	enum dps_when_empty arg_when_empty;
	uint8_t arg_map[DPS_BUCKETS];
	uint32_t arg_move;
	const struct queues *arg_queues;

	// written by the io core
	uint32_t answered __rte_cache_aligned;
	int32_t tid;                    // 0: not running yet; stored after `thread`
	pthread_t thread;
	struct io_audit audit;
	bool leaked;                    // by OP_LEAK
	struct dps_io_stats stats __rte_cache_aligned;
	struct dps_port_stats port[DPS_MAX_PORTS];
	uint64_t low_water[DPS_MAX_POOLS];
	uint64_t starved[DPS_MAX_POOLS];        // polls that got nothing from an empty pool
	uint64_t now;                   // TSC at the turn's start
	uint32_t unpublished;           // of a lone lane, in this turn
	uint64_t window;                // TSC cycles, see WINDOW_US
	bool rx_on;
	bool stop;
	bool woken;                     // by a queue; until there was work: sleep.c
	bool timed;                     // this turn is
	enum dps_stage stage;           // that the clock runs for
	uint64_t stage_since;           // TSC
	bool watched;                   // capture or stopwatch
	bool thirsty;                   // a lane has fewer blanks than it may
	uint64_t tick_due;              // TSC of the next tick, UINT64_MAX: there are none
	uint32_t ticks;                 // that came back in this turn, and brought nothing
	struct fragments *fragments;    // NULL: they are not tracked
	struct capture *capture;        // NULL: no capture runs
	struct stopwatch *stopwatch;    // NULL: the time of packets is not measured
	uint32_t n_active;
	struct lane *active[DPS_MAX_SLOTS];     // lanes with packets out
	struct lane lane[DPS_MAX_SLOTS];
	struct io_group group[DPS_MAX_GROUPS];
	struct tx_port tx[DPS_MAX_PORTS];
	struct hash_check checked[DPS_MAX_PORTS];
	uint32_t n_rxq;                 // these four: struct queues
	struct rx_queue rxq[RXQ_MOST];
	uint32_t n_fds;
	int fd[RXQ_MOST];
	uint32_t n_kernel;              // ports with a way to the kernel
	uint32_t kernel_port[DPS_MAX_PORTS];    // those
	struct kernel_end *kernel[DPS_MAX_PORTS];       // by port, NULL: it has none
	uint32_t kernel_rung;           // the thread's park that it was last woken from
	bool punted;                    // since the thread was last seen awake
	int wake_fd;                    // eventfd: ends a sleep, where n_kernel > 0
	uint32_t asleep;                // 1: it sleeps, or is about to
	uint32_t cell_head;
	uint32_t cell_tail;             // moved only when the control thread asks
	struct cell cell[CELLS];
};

// A driver's counter: some begin anew, when a tool resets them or a device is opened again; the sum
// goes on.
struct driver_count {
	uint64_t seen;
	uint64_t sum;
};

enum { DRIVER_MISSED, DRIVER_RX_ERRORS, DRIVER_NOMBUF, DRIVER_TX_ERRORS, DRIVER_SENT, DRIVER_COUNTS };

struct port {
	uint16_t id;                    // ethdev's
	uint32_t pool;
	int32_t group;
	bool hold;
	bool absent;                    // there is no device
	bool shut;                      // io cores leave it alone: absent, or its interface is down
	bool copies_tx;
	uint32_t frame_most;            // bytes of the longest frame
	uint32_t rx_queues;
	uint32_t tx_queues;
	uint32_t rx_desc;
	uint32_t tx_desc;
	bool rss;                       // the driver spreads over queues
	int hashes;                     // DPS_HASHES_*: does it give each packet the hash?
	bool hw_rss;                    // it does, and its hashes are used
	struct hash_check before;       // of the devices that the port had
	uint64_t odd_flags;             // of mbufs that need a second look: see oddity
	bool started;
	bool virtual;
	uint64_t held;                  // mbufs that its driver took at the start
	struct driver_count said[DRIVER_COUNTS];        // by the control thread alone
	uint64_t failed;                // DPS_DROP_TX_FAILED
	char vdev[DPS_VDEV];            // with its arguments
	struct dps_port_info info;
};

struct primary {
	struct dps_ctl *ctl;            // shared: its lease is read there, and nothing else
	struct dps_sitter *sitter;      // [DPS_MAX_SITTERS], in a file of their own
	struct dps_ctl *own;            // what the primary wrote before them: dps_ctl_create; up to `lease`
	struct dps_slot *slot[DPS_MAX_SLOTS];
	uint32_t also_needs[DPS_MAX_SLOTS];     // dps_io_lane_also
	bool also_changes[DPS_MAX_SLOTS];
	uint32_t slot_group[DPS_MAX_SLOTS];
	uint64_t perf_at[DPS_MAX_SLOTS];        // dps_slot.perf_at
	uint64_t state[DPS_MAX_SLOTS];  // offset of its dps_state_head from ctl->base, 0: none
	int group_node[DPS_MAX_GROUPS]; // NUMA node of its slots
	uint32_t epoch[DPS_MAX_GROUPS]; // another number with each version that a group gets
	char *slots[DPS_MAX_GROUPS];    // where the group's next slot will lie
	char *slots_end[DPS_MAX_GROUPS];
	const struct rte_memzone *bytes[DPS_MAX_POOLS]; // of each pool's packets
	uint32_t n_io;
	uint32_t n_pools;
	uint32_t n_ports;
	uint32_t n_groups;
	uint32_t n_slots;
	uint32_t moves;                 // maps that io cores were asked to take over, of all groups
	bool tracks_fragments;          // as dps_hash_conf was told
	bool io_running;
	bool given_up[DPS_MAX_GROUPS];          // by order: all workers are held
	struct rte_mempool *pool[DPS_MAX_POOLS];
	uint64_t rx_held[DPS_MAX_POOLS];        // mbufs that drivers took at start
	struct port port[DPS_MAX_PORTS];
	struct io *io[DPS_MAX_IO];
};

extern struct primary the_primary;

// By the primary's own memory: what the slot's says, a worker may have overwritten.
static inline uint32_t
group_of(uint32_t slot)
{
	return the_primary.io[0]->lane[slot].group;
}

static inline uint32_t
member_of(uint32_t slot)
{
	return slot - the_primary.io[0]->group[group_of(slot)].first;
}

// What packets of a group carry, whatever its plugin asks for: the hash says the bucket.
static inline uint32_t
group_needs(uint32_t group)
{
	return the_primary.own->group[group].bucket_state > 0 ? DPS_NEED_HASH : 0;
}

// Free mbufs are kept in a ring, whose count an io core may read at any time.
#define POOL_OPS "ring_mp_mc"

static inline uint64_t
pool_shared(const struct rte_mempool *mp)
{
	return rte_ring_count(mp->pool_data);
}

// sleep.c
bool sleep_wants_interrupts(const char *driver);
void sleep_find(struct queues *queues);
bool sleep_on_queues(struct io *io, const struct timespec *most);
void sleep_nap(struct io *io, const struct timespec *most);

// kernel.c: the kernel path
struct pollfd;
int kernel_start(void);
int kernel_stop(void);
void kernel_punt(struct io *io, struct rte_mbuf *m);
void kernel_reap(struct io *io, struct kernel_end *end);
void kernel_lend(struct kernel_end *end);
void kernel_ring(struct io *io);
int kernel_sleep(struct io *io, struct pollfd *watched, uint32_t n, const struct timespec *most);
void kernel_let_go(struct io *io);

static inline bool
kernel_has_frames(const struct io *io)
{
	for (uint32_t i = 0; i < io->n_kernel; i++) {
		const struct kernel_end *end = io->kernel[io->kernel_port[i]];

		if (end->sends && dps_load32(&end->in_done) != end->in_tail)
			return true;
	}
	return false;
}

// packet_socket.c
uint32_t packet_sockets(uint32_t if_index, int *found, uint32_t most);
bool packet_sockets_never_block(uint32_t if_index);     // false: sending may sleep
uint64_t packet_sockets_dropped(uint32_t if_index);     // by the kernel, since last asked

// port_device.c
void device_watch(uint32_t index, const struct dps_port_conf *conf);
void device_stays(uint32_t index);              // or is to be opened once more
void device_unplug(const char *device);         // a virtual one
void device_let_go(const struct port *port);

// port_hashes.c
struct hash_check hashes_compared(uint32_t index);      // so far, of all devices of that port

// port_device.c
void device_watch(uint32_t index, const struct dps_port_conf *conf);
void device_stays(uint32_t index);              // or is to be opened once more
void device_unplug(const char *device);         // a virtual one
void device_let_go(const struct port *port);

// port_hashes.c
struct hash_check hashes_compared(uint32_t index);      // so far, of all devices of that port

// port_counters.c
void port_ask_driver(struct port *port);

// The NIC's own hash of a packet, where it gives the one that was asked for (port.hw_rss).
static inline bool
is_hashed(const struct rte_mbuf *m, bool by_nic)
{
	return by_nic && m->ol_flags & RTE_MBUF_F_RX_RSS_HASH;
}

// hash.c
uint32_t hash_flow(const uint8_t *p, uint32_t len);
void hash_compare(struct hash_check *check, const struct rte_mbuf *m);
void hash_burst(struct rte_mbuf **m, uint32_t n, bool by_nic);
// Records of fragments that are good for so many cycles of the TSC. `zalloc`: aligned to a cache's line.
struct fragments *hash_fragments_create(void *(*zalloc)(size_t len), uint64_t lasts);
// What the calling thread counts in, and its records of fragments; NULL: they are not tracked.
void hash_thread(struct dps_io_stats *stats, struct fragments *fragments);

// recover.c
void slot_repair(uint32_t slot, uint64_t stuck, struct dps_story *out);
int slot_requeue(uint32_t slot);                // under its lock, after seat_revoke

// evidence.c: the packet that a slot's worker has begun, as dps_undo_stamp names it; 0: none
uint64_t slot_in_hand(uint32_t slot);
bool is_fatal(uint32_t signal);         // one that workers note
bool is_to_blame(const struct dps_story *death, uint64_t in_hand, uint64_t stuck);
uint32_t blame(struct rte_mbuf *m, const struct dps_story *death);      // returns deaths so far

// state.c
bool state_untouch(const struct lane *lane, uint32_t io, uint32_t index, uint32_t sitter);
void state_forget(uint32_t slot);

// health.c: what a warden remembers of a worker from round to round.
struct health {
	uint64_t progress;
	uint64_t beats;
	uint64_t beat_ns;               // when a beat was last seen
	uint64_t since_ns;              // without progress
	uint64_t since_cpu;             // CPU time used then, ns
	uint64_t slept_ns;              // in the middle of a packet
	uint64_t last_ns;               // the round before
	uint64_t last_cpu;
	uint32_t is;                    // DPS_STORY_STUCK, _STOPPED, _STARVED, or 0: fine
	uint32_t stops;                 // rounds in a row that found it stopped
	char last_run;
	bool was_idle;
};

void health_begin(struct health *health);
uint32_t health_look(struct health *health, uint32_t slot, int32_t pid);
bool health_kills_stopped(uint32_t group);
uint64_t health_cpu_ns(int32_t pid);            // that the process has used
char thread_state(int32_t pid, int32_t tid);    // the kernel's letter: R, S, D, T, t, Z; '?': not known
bool thread_leaves(int32_t pid, int32_t tid);   // or has left: it executes nothing any more
bool health_waits(int32_t pid, uint64_t cpu);   // for its CPU, since it had used so much

// watchdog.c
int watchdog_start(void);

// warden.c
int wardens_start(void);
void lease_restore(void);                       // the primary's, if a stray write hit it
int thread_start(pthread_t *thread, void *(*run)(void *), void *arg);   // takes no signal

// berth.c
bool version_is_used(uint32_t group, uint32_t version);

// story.c
uint64_t story_tell(const struct dps_story *story);     // its seq

// seat.c
void slot_lock(uint32_t slot);                  // of its seat; never taken by an io core
void slot_unlock(uint32_t slot);
bool seat_is_corrupt(uint32_t slot);            // its last sitter left lanes beyond repair
bool seat_revoke(uint32_t slot);                // take it back from the process that was told to sit
						// down, under the lock; false: too late, it sits
uint64_t seat_empty_ns(uint32_t slot, bool *offered);   // since when it is empty, 0: it is taken

// caretaker.c
int rebucket_start(void);
void rebucket_look(void);                       // something has changed: look soon
void rebucket_stop(void);

// requests.c: the io cores are asked by one thread at a time, and a map is changed by one.
void asking_lock(void);
void view_group(uint32_t group);
void asking_unlock(void);

// loop.c
int io_loop(void *io);
uint32_t io_turn(struct io *io);                // one turn of the loop; returns packets moved
void tx_flush(struct io *io, uint32_t port);

// requests.c: zeroed, in lines of its own, outside the hugepages that workers can write; for free().
void *own_zalloc(size_t len);

// near.c: the same, never freed, and on a NUMA node: that of the last near_begin, -1: any.
void near_begin(int node);
void *near_zalloc(size_t len);

// requests.c: they take asking_lock; 0 or -ETIMEDOUT.
int io_ask(struct io *io, enum io_op op, uint32_t arg);
int io_ask_all(enum io_op op, uint32_t arg);
int io_ports_changed(void);

// ticks.c
void ticks_lend(struct io *io);                 // those that are due
void tick_skip(struct io *io, struct lane *lane, uint32_t index);      // it comes back, not taken
void tick_back(struct io *io, struct lane *lane, uint32_t index);      // its buffer is free again

// audit.c, between two turns; but for the last
void io_audit(struct io *io);
void io_audit_mark(struct io *io);
void io_leak(struct io *io, uint32_t slot);
void audit_begin(void);

// capture.c. What is copied of a burst counts once the io core has settled how many of it are done
// with; the next burst's takes its place.
struct capture *capture_of(uint32_t io);
void capture_rx(struct io *io, uint32_t port, struct rte_mbuf **m, uint32_t n);
bool capture_tx(struct io *io, uint32_t port, struct rte_mbuf **m, uint32_t n);  // true: settle it
void capture_lent(struct io *io, const struct lane *lane);      // before it is published
void capture_back(struct io *io, const struct lane *lane, uint32_t n);  // before it is collected
void capture_taken(struct io *io, const struct lane *lane, uint32_t taken);     // settles that
void capture_settle(struct io *io, uint32_t taken);

// why: DPS_DROP_*; at: of the port, group or slot that counts it.
void capture_drop(struct io *io, uint32_t why, uint32_t at, bool is_of_group, struct rte_mbuf *m);

// perf.c
struct stopwatch *stopwatch_of(uint32_t io);
void stopwatch_lent(struct io *io, const struct lane *lane);    // before it is published
void stopwatch_ticks(struct io *io, const struct lane *lane);   // before it is collected
void stopwatch_back(struct io *io, const struct lane *lane);    // after it was collected

// answers.c: do what is asked, and say so.
void io_answer(struct io *io, uint32_t asked);

// drop.c: a packet that goes nowhere is counted under a reason. Not inlined: the loop is faster without.
void free_counted(uint64_t *counter, struct rte_mbuf *m);

// On the io core; why: DPS_DROP_*.
void drop_at_port(struct io *io, uint32_t port, uint32_t why, struct rte_mbuf *m);
void drop_in_group(struct io *io, struct io_group *g, uint32_t why, struct rte_mbuf *m);
void drop_lane_full(struct io *io, struct lane *lane, struct rte_mbuf *m);
void drop_corrupt(struct io *io, struct lane *lane, struct rte_mbuf *m);

// bucket_move.c, on the io core
void waiting_add(struct io *io, struct io_group *g, struct rte_mbuf *m, uint32_t bucket);
void waiting_again(struct io *io, struct io_group *g, struct rte_mbuf *m,
		   uint32_t bucket);                            // back as REQUEUE
void waiting_done(struct io_group *g, const struct waiting *w);                 // it waits no more
void waiting_moved(struct io *io, struct io_group *g, uint32_t bucket, uint32_t old);
void waiting_sort(struct io_group *g);                                          // after such moves
void waiting_forget(struct io_group *g, uint32_t member);  // its lane begins anew, with nothing out
void waiting_settle(struct io *io, struct io_group *g);  // packets that need not wait move to `ready`
void waiting_stir(struct io_group *g);
void waiting_rest(struct io_group *g);                  // nothing is ready

// The port that a packet came in by, or leaves by: one that there is, whatever a worker wrote there.
static inline uint32_t
port_of(const struct rte_mbuf *m)
{
	uint32_t port = m->port;

	return likely(port < the_primary.n_ports) ? port : 0;
}

// What steering knows of a packet. Kept in the mbuf's first line, beside the hash, where only flow
// director rules would write; from rx to tx, no thread but the io core uses the header.
struct dps_mark {
	uint16_t bucket;                // or NO_BUCKET; see STEERED
	uint8_t hops;
	uint8_t blame;                  // by its warden while it is in a lane; see evidence.c
};
_Static_assert(sizeof(struct dps_mark) == sizeof(((struct rte_mbuf *)0)->hash.fdir.hi), "fits");

static inline struct dps_mark *
mark_of(struct rte_mbuf *m)
{
	return (struct dps_mark *)&m->hash.fdir.hi;
}

#endif
