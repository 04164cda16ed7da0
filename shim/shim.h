// SPDX-License-Identifier: BSD-3-Clause
//
// What the primary's Python may call. Read by C and, as this very text, by cffi: declarations only.
// Functions return 0 (or a count) or -errno; none prints, exits or waits without a bound.

enum {
	DPS_TEXT = 256,
	DPS_POLLED_QUEUES = 64,     // of a driver that spreads packets over all of its queues
	DPS_XSTAT_NAME = 64,
	DPS_SLOT_PAGE = 2 << 20,    // a slot begins on a hugepage of its own
	DPS_VDEV = 4096,
	DPS_KERNEL_OUT = 256,       // punted packets of an io core and a port, a power of two
	DPS_KERNEL_IN = 128         // mbufs for what the kernel sends there, a power of two
};

// Why an io core dropped a packet before or after the workers saw it.
enum {
	DPS_DROP_TRUNCATED = 0,     // bytes announced and bytes there differ
	DPS_DROP_OVERSIZE = 1,      // longer than the port's MTU allows
	DPS_DROP_NO_GROUP = 2,      // the port feeds no group
	DPS_DROP_NO_WORKER = 3,     // no slot of the group takes packets
	DPS_DROP_LANE_FULL = 4,
	DPS_DROP_HOLD_FULL = 5,     // too many packets held for buckets on the move
	DPS_DROP_BAD_VERDICT = 6,   // verdict, port or group unknown, or bytes outside the buffer
	DPS_DROP_HOP_LIMIT = 7,     // steered from group to group too often
	DPS_DROP_QUARANTINE = 8,
	DPS_DROP_TX_FULL = 9,       // refused by the port's driver
	DPS_DROP_CORRUPT = 10,      // lent to a slot whose shared memory was found corrupt
	DPS_DROP_STOPPED = 11,      // still under way when the io core stopped
	DPS_DROP_TX_FAILED = 12,    // taken by the port's driver, which says that it did not send it
	DPS_DROP_PORT_DOWN = 13,    // the port's device is gone, or its interface down
	DPS_DROP_WORKER_HELD = 14,  // the group's workers are all held: no process starts one soon
	DPS_DROP_STEERED_TWICE = 15,    // in its own group, by a hash of the plugin's
	DPS_DROP_NO_KERNEL = 16,    // for the kernel, which the port has no way to
	DPS_DROP_KERNEL_RATE = 17,  // for the kernel, beyond the path's rate
	DPS_DROP_KERNEL_FULL = 18,  // for the kernel, which does not keep up
	DPS_DROP_KERNEL_FAILED = 19,    // the kernel refused it: its interface is down, or gone
	DPS_N_DROPS = 20
};

struct dps_pool_conf {
	char name[DPS_NAME];
	uint32_t mbufs;
	uint32_t data_room;         // bytes, headroom included
	uint32_t cache;
	int32_t numa;
	uint64_t page_size;         // bytes
	uint32_t whole;             // 1: bytes lie among the headers, for drivers that look for them there
	uint32_t pad;
};

struct dps_pool_stats {
	uint64_t size;
	uint64_t free;              // in the pool and in the io cores' caches
	uint64_t low_water;         // fewest free mbufs seen
	uint64_t starved;           // polls that got nothing and found the pool empty
};

struct dps_port_conf {
	char name[DPS_NAME];
	char device[DPS_NAME];      // as EAL names it
	char vdev[DPS_VDEV];        // a virtual one with its arguments; "": PCI
	char pci[DPS_VDEV];         // a PCI device with its arguments, if it is probed after EAL's start
	uint32_t pool;
	uint32_t rx_desc;
	uint32_t tx_desc;
	int32_t rx_free;            // -1: the driver's default
	int32_t rx_drop;
	int32_t tx_free;
	uint32_t mtu;
	uint32_t promiscuous;
	uint64_t rss_types;         // DPS_RSS_*
	uint32_t key_len;
	uint8_t key[DPS_KEY];
	int32_t group;              // index of the group that the port feeds, -1: none
	uint32_t hold;              // the group's on_full is "hold"
	uint32_t one_mbuf;          // no packet of any port needs several mbufs
};

struct dps_port_info {
	char driver[DPS_NAME];
	uint8_t mac[8];             // 6 used
	uint32_t max_rx_queues;
	uint32_t max_tx_queues;
	uint32_t rx_queues;         // in use
	uint32_t tx_queues;
	uint32_t rx_desc;           // per queue, after the driver's own limits
	uint32_t tx_desc;
	uint32_t mtu;
	uint32_t link_up;
	uint32_t link_mbps;         // 0: unknown
	uint32_t hw_rss;            // 1: the NIC hashes as asked
	uint32_t reta_size;         // 0: no indirection table
	uint32_t key_size;          // bytes, 0: none
	uint32_t copies_tx;         // 1: the driver keeps no mbuf after tx
	uint32_t if_index;          // of the kernel's interface, 0: none
	int32_t numa;
	uint64_t rss_offloads;      // RTE_ETH_RSS_* that the driver can do
	uint64_t rx_offloads;       // RTE_ETH_RX_OFFLOAD_* likewise
	uint64_t tx_offloads;
	char note[DPS_TEXT];        // what the port lacks, in words; "" if nothing
};

struct dps_port_stats {
	uint64_t rx_packets;        // received by io cores
	uint64_t rx_bytes;
	uint64_t tx_packets;        // taken by the driver, without those that it failed to send
	uint64_t tx_bytes;          // of all that it took
	uint64_t rx_missed;         // the driver's count, or the kernel's for net_af_packet: no room in the ring
	uint64_t rx_errors;
	uint64_t rx_nombuf;         // mbuf allocation failures
	uint64_t tx_errors;
	uint64_t drops[DPS_N_DROPS];
	uint64_t to_kernel;         // punted packets that the port's TAP took
	uint64_t to_kernel_bytes;
	uint64_t from_kernel;       // frames that the kernel sent there, for the port
	uint64_t from_kernel_bytes;
};

// One of a driver's own counters, by its own name for it.
struct dps_xstat {
	char name[DPS_XSTAT_NAME];
	uint64_t value;
};

struct dps_lane_stats {
	uint64_t sent;              // packets lent to the slot, all io cores
	uint64_t collected;         // packets returned
	uint64_t out;               // of those, sent to a port
	uint64_t on;                // of those, sent on to a group
	uint64_t on_hash;           // of those, by a hash of the plugin's own
	uint64_t requeued;
	uint64_t lane_full;         // never lent: no room
	uint64_t bad_verdict;
	uint64_t quarantined;
	uint64_t quarantine_full;   // freed instead: too many wait to be written down
	uint64_t corrupt;           // given up with a corrupt slot
	uint64_t dropped[DPS_VERSIONS * DPS_REASONS];   // by the plugin's version and its reason
	uint32_t outstanding;
	uint32_t lanes_corrupt;     // lanes that were isolated
	uint64_t emitted;           // blanks that the plugin filled
	uint64_t no_blank;          // that it asked for and did not get
	uint64_t copied;
	uint64_t no_copy;           // the pool had none
	uint64_t bad_word;          // the last bad verdict's word, 0: none
	uint32_t bad_len;           // bytes of its packet
	uint32_t bad_version;       // of the plugin that said it
	uint64_t ticks;             // that the worker took
	uint64_t ticks_skipped;     // that were due and it did not
};

// Where an io core's cycles go, measured in one busy turn of 61.
enum dps_stage {
	DPS_STAGE_RX = 0,           // the driver's rx
	DPS_STAGE_STEER = 1,        // hash, bucket, descriptors, publishing
	DPS_STAGE_COLLECT = 2,      // what came back from workers
	DPS_STAGE_TX = 3,           // the driver's tx
	DPS_STAGE_REST = 4,
	DPS_N_STAGES = 5
};

struct dps_io_stats {
	uint64_t loops;
	uint64_t busy_loops;
	uint64_t sleeps;
	uint64_t woken;             // sleeps that a readable queue ended
	uint64_t busy_cycles;
	uint64_t held;              // packets waiting for buckets on the move, or for room
	uint64_t xfer;              // packets on their way to the io core that owns their tx queue
	uint64_t tx_waiting;
	uint64_t kernel_waiting;    // packets on their way to the kernel
	uint64_t requeued;
	uint64_t rings;             // doorbells of parked workers
	uint64_t fragments;         // steered by their addresses alone, as they are fragments
	uint64_t fragments_tracked; // steered as the flow of their datagram
	uint64_t fragments_forgotten;   // datagrams whose record gave way to another one's too early
	uint64_t quarantine;        // packets that wait to be written down
	uint64_t watched;           // 1: a capture or a measurement is on
	uint64_t stage[DPS_N_STAGES];   // TSC cycles in timed turns
	uint64_t stage_packets;     // received or handed back in them, half a packet each
};

enum { DPS_PAUSES = 40 };

// What one group has under way, for dps_group_stats.
struct dps_group_stats {
	uint64_t no_worker;
	uint64_t hold_full;
	uint64_t worker_held;
	uint64_t bypassed;          // continued along their chains, as the group has no worker
	uint64_t held;
	uint64_t pause_ns;          // that buckets on the move waited for the slots they had, summed up
	uint64_t pause[DPS_PAUSES]; // buckets that did for less than 2^i ns, and not less than half of that
	uint32_t moving;            // 1: buckets are on the move in some io core
};

// What becomes of packets for buckets that no slot has.
enum dps_when_empty {
	DPS_EMPTY_HOLD = 0,         // they wait
	DPS_EMPTY_DROP = 1,
	DPS_EMPTY_BYPASS = 2        // they go on along their chain
};

// A packet in quarantine.
struct dps_evidence {
	uint32_t slot;              // whose lane it came out of
	uint32_t port;              // input port
	uint32_t len;               // bytes over all segments
	uint32_t hash;              // of its flow
	uint32_t deaths;            // that it is to blame for; 0: its plugin asked
	uint32_t pad;
	struct dps_story death[DPS_POISON];     // as far as its warden knew when it repaired the slot
};

struct dps_audit {
	uint64_t size;
	uint64_t free;
	uint64_t cached;
	uint64_t rx_rings;
	uint64_t tx_rings;
	uint64_t lanes;
	uint64_t io;
	uint64_t quarantine;
	int64_t unexplained;
};

// The process that holds a berth.
enum {
	DPS_SITTER_NONE = 0,
	DPS_SITTER_AWAITED = 1,     // a process may come
	DPS_SITTER_LIVES = 2        // or is being buried
};
struct dps_sitter_info {
	uint32_t state;             // DPS_SITTER_*
	int32_t pid;
	uint32_t group;
	uint32_t slot;              // where it sits, or was told to; DPS_NO_SLOT: a spare
	uint32_t hand;              // DPS_HAND_*
	uint32_t told;              // 1: it is dead, and its story is told
	uint32_t health;            // DPS_STORY_STUCK, _STOPPED, _STARVED, or 0: fine
	int32_t exit_pid;           // how the one before it ended, or it
	int32_t exit_status;
};

// What is remembered of an io core from look to look. Nanoseconds.
struct dps_watchdog {
	uint64_t turns;
	uint64_t last_ns;           // the look before
	uint64_t last_cpu;
	uint64_t since_ns;          // without a turn
	uint64_t since_cpu;         // CPU time used then
	uint64_t blocked_ns;
	uint64_t disk_ns;           // in the kernel, uninterruptible
	uint32_t starved;
	uint32_t pad;
};

// Where an io core has mbufs.
enum dps_place {
	DPS_PLACE_CACHE = 0,
	DPS_PLACE_LENT = 1,         // to a slot
	DPS_PLACE_BACK = 2,         // handed back by it, not collected yet
	DPS_PLACE_AGAIN = 3,        // a group's: back from a dead worker while lanes drain
	DPS_PLACE_FRONT = 4,        // likewise, about to be steered anew
	DPS_PLACE_HELD = 5,         // for buckets on the move, or for room
	DPS_PLACE_TX = 6,           // wait for a port
	DPS_PLACE_XFER = 7,         // on their way from another io core
	DPS_PLACE_QUARANTINE = 8,
	DPS_PLACE_BLANKS = 9,       // lent to a slot, to be filled
	DPS_PLACE_KERNEL = 10,      // on their way to the kernel, or for what it sends
	DPS_N_PLACES = 11
};

struct dps_audit_place {
	uint32_t place;             // DPS_PLACE_*
	uint32_t io;
	uint32_t index;             // of the slot, group, port or io core
	uint32_t mbufs;
};

enum {
	DPS_STRAYS = 16,            // listed at most
	DPS_STRAY_BYTES = 64,
	DPS_STRAY_BY_LANE = 1,      // what names its last holder: the record of that lane
	DPS_STRAY_BY_BUCKET = 2     // whose its bucket is now
};

// An mbuf that is nowhere.
struct dps_stray {
	uint64_t address;
	uint32_t length;            // bytes over all segments
	uint32_t refcnt;
	uint32_t port;              // that it came in by
	uint32_t slot;              // that had it last, DPS_NO_SLOT: not known
	uint32_t by;                // DPS_STRAY_BY_*, 0: not known
	uint32_t io;
	uint32_t ago;               // packets that the lane collected since
	uint32_t n_bytes;
	uint8_t bytes[DPS_STRAY_BYTES];
};

// What is seen of a packet in a capture: one arrives or leaves by a port, is lent to a worker, comes
// back from it, or is dropped by an io core.
enum dps_capture_what {
	DPS_CAPTURE_RX = 0,
	DPS_CAPTURE_TX = 1,
	DPS_CAPTURE_LENT = 2,
	DPS_CAPTURE_BACK = 3,
	DPS_CAPTURE_DROP = 4,
	DPS_N_CAPTURE = 5,
	DPS_CAPTURE_SKIP = 255,     // no packet
	DPS_CAPTURE_SNAP = 65536    // most bytes of a packet
};

// A captured packet; its bytes follow. dpsup/inspect/capture.py reads the same.
struct dps_captured {
	uint64_t tsc;               // TSC cycles
	uint32_t size;              // of this and the packet's bytes and what fills it up
	uint32_t length;            // bytes over all segments
	uint32_t captured;          // of those, that follow
	uint32_t index;             // in its lane
	uint16_t verdict;           // of one that comes back; of DROP, DPS_DROP_*
	uint8_t what;               // DPS_CAPTURE_*
	uint8_t io;
	uint8_t port;               // that it came in by; of TX, that it leaves by
	uint8_t slot;               // of DROP, DPS_NO_SLOT: before a worker
	uint8_t version;            // of the plugin: names its reasons
	uint8_t bad;                // 1: a verdict that nothing can be done with
};

struct dps_capture_conf {
	uint64_t slots;             // bit s: what goes to slot s and comes back
	uint32_t rx_ports;          // bit p
	uint32_t tx_ports;          // or ports, never both; of drops, what either counts
	uint32_t groups;            // bit g: of drops, those that group g counts
	uint32_t drops;             // bit r: what is dropped for DPS_DROP_r, and nothing else
	uint16_t reasons[DPS_MAX_GROUPS];       // bit r: and what a plugin drops for its reason r
	uint32_t ios;               // io cores that take part
	uint32_t snap;              // bytes of a packet
	uint32_t n_filter;          // instructions, 0: every packet
};

struct dps_capture_stats {
	uint64_t captured;
	uint64_t missed;            // wanted, and not copied: no room, or too many in one turn
	uint64_t waiting;           // bytes not read yet
};

// How long packets were in a slot's lanes, from being published to being collected.
struct dps_delays {
	uint64_t packets;
	uint64_t most;              // TSC cycles
	uint64_t by_class[DPS_CLASSES]; // packets, dps_class
};

// eal.c
int dps_eal_start(int argc, char **argv);
int dps_eal_stop(void);
const char *dps_eal_version(void);
const char *dps_strerror(int err);
uint64_t dps_tsc_hz(void);
uint64_t dps_tsc(void);

// eal_locks.c: EAL's shared locks, and what they hold while they are held. A timer's is 1.
enum {
	DPS_LOCK_MEMORY = 0,
	DPS_LOCK_TAILQ = 1,
	DPS_LOCK_MEMPOOL = 2,
	DPS_LOCK_TIMER = 3,
	DPS_LOCK_MEMZONE = 4,
	DPS_LOCK_ZONES = 5,         // of the array that lists the memzones
	DPS_LOCK_SEGMENTS = 6,      // the first of those that list memory
	DPS_LOCKS_MOST = 134
};
enum {
	DPS_LOCK_WAIT = 1,          // a writer waits
	DPS_LOCK_WRITE = 2,
	DPS_LOCK_READ = 4           // each reader
};

const char *dps_eal_dir(void);          // EAL's runtime directory
int dps_locks_find(void);               // once there is a memzone, before another process attaches;
					// returns their number
int dps_locks_read(uint32_t *word);     // [DPS_LOCKS_MOST]; 0: free; returns their number
int dps_lock_release(uint32_t lock, uint32_t word);     // -EAGAIN: it is no longer `word`
int dps_lock_guards(uint32_t lock, uint64_t *sum);      // a sum over what it guards; MEMORY, MEMZONE
int dps_heap_used(uint64_t *used);      // bytes allocated in EAL's shared heaps; -EDEADLK: a lock of
					// theirs has been held for a second

// pool.c
int dps_pool_create(const struct dps_pool_conf *conf);          // returns the pool's index
int dps_pool_stats_get(uint32_t pool, struct dps_pool_stats *out);

// port.c
int dps_port_create(const struct dps_port_conf *conf, uint32_t n_io,
		    char *why);         // [DPS_TEXT]; returns the port's index
int dps_port_absent(const struct dps_port_conf *conf);  // one that is not there; returns its index
int dps_port_start(uint32_t port);      // if it fails, the port is absent from now on
int dps_port_shut(uint32_t port, uint32_t shut);        // 1: io cores leave it alone, and drop what is
					// sent to it; 0: they serve it again
int dps_port_close(uint32_t port);      // its device, shut: absent from now on
// dps_port_hashes
enum {
	DPS_HASHES_NONE = 0,        // the driver gives none, or not those that are asked for
	DPS_HASHES_COMPARED = 1,    // with the software's, of the NIC's first packets: not used yet
	DPS_HASHES_USED = 2,
	DPS_HASHES_DIFFER = 3       // they are not used
};
int dps_port_hashes(uint32_t port);     // what became of the hashes that a NIC gives with packets
int dps_port_leaves(uint32_t port);     // 1: the kernel waits for its PCI device to be closed
int dps_port_open(uint32_t port, const struct dps_port_conf *conf, uint32_t n_io,
		  char *why);           // [DPS_TEXT]; one that is absent, again: started, and still shut
int dps_port_fd(uint32_t port);         // readable when it has packets, of net_tap; -1: none
int dps_port_info_get(uint32_t port, struct dps_port_info *out);
int dps_port_stats_get(uint32_t port, struct dps_port_stats *out);
int dps_port_xstats_get(uint32_t port, struct dps_xstat *out, uint32_t room);   // returns how many it has
int dps_port_reta_get(uint32_t port, uint16_t *queues, uint32_t n);     // returns entries written

// hash.c
enum { DPS_HASH_FRAGMENTS = 8192 };     // beside DPS_RSS_*: fragments are steered as their flow
int dps_hash_conf(const uint8_t *key, uint32_t len, uint64_t types);
uint32_t dps_hash_bytes(const uint8_t *key, uint32_t key_len, const uint8_t *data, uint32_t len);
uint32_t dps_hash_packet(const uint8_t *packet, uint32_t len);
uint32_t dps_test_hash_fragments(const uint8_t *packet, uint32_t len);  // that hashing it counts
int dps_test_hash_tracked(const uint8_t *const *packet, const uint32_t *len, uint32_t n, uint64_t lasts,
			  uint32_t *hash, struct dps_io_stats *out);
// For tests: a burst of 32 at most. by_tables: 1: without what this CPU may have for it; by_nic: a bit for
// each packet that comes hashed, in `hash`.
uint32_t dps_test_hash_compare(const uint8_t *packet, uint32_t len, uint32_t by_nic); // 1: both agree
void dps_test_hash_burst(const uint8_t *const *packet, const uint32_t *len, uint32_t n,
			 uint32_t by_tables, uint32_t by_nic, uint32_t *hash);

// kernel.c: a port's way to the kernel, before the io cores start
int dps_kernel_create(uint32_t port, int fd, uint32_t mtu, uint32_t rate);

// slot.c
int dps_ctl_create(uint64_t generation, uint32_t n_io);
int dps_ctl_port(uint32_t port, const char *name);
int dps_ctl_group(uint32_t group, const struct dps_group_conf *conf);
int dps_group_node(uint32_t group, int node);    // NUMA node of its slots, if not any
int dps_group_version(uint32_t group, uint32_t version,  // -EBUSY: a process has that version
		      const struct dps_version *conf);
int dps_ctl_publish(void);
int dps_ctl_restore(void);              // where a process wrote to it; 1: one did. Before another reads it
int dps_view_update(void);              // ports and groups as plugins see them: brought up to date
int dps_slot_create(uint32_t slot, uint32_t group, uint32_t member);
int dps_slot_command(uint32_t slot, uint32_t command);

// state.c: bytes of state, as far as they have an owner; returns how many. head.stamp 0: no owner.
int dps_state_get(uint32_t slot, struct dps_state_head *head, uint8_t *bytes, uint32_t len);
int dps_bucket_state_get(uint32_t group, uint32_t bucket, struct dps_state_head *head,
			 uint8_t *bytes, uint32_t len);

// What a group's blocks of state hold that a plugin with these facts would forget.
struct dps_state_lost {
	uint32_t places;
	uint32_t buckets;
	uint64_t bytes;
	uint32_t version;           // of one of them
	uint32_t others;            // blocks that are of a plugin with another name
	uint64_t place_room;        // bytes with which they would be kept, 0: it could not migrate them
	uint64_t bucket_room;       // likewise
};
int dps_state_lost_get(uint32_t group, const struct dps_facts *facts, struct dps_state_lost *out);

// health.c: after which time without progress a worker counts as stuck.
int dps_group_health(uint32_t group, uint64_t stall_ns, uint32_t kill_stopped);

// recovery/berth.c, seat.c, successor.c, counters.c, story.c: a berth for the next process, by its index; the ticket
// is what that process must show.
int dps_slot_prepare(uint32_t slot, int32_t core, uint32_t *ticket);    // -EBUSY: a process sits
int dps_spare_prepare(uint32_t group, uint32_t version, uint32_t *ticket);
int dps_spare_facts(uint32_t group, uint32_t version,   // of one that is ready; -ENOENT: there is none
		    struct dps_facts *out);
int dps_slot_handover(uint32_t slot, uint32_t version); // to a spare, at a burst's end; -EBUSY: the
							// seat is empty, -ENOENT: no such spare
int dps_slot_version(uint32_t slot);                    // of the process that sits there, or -ENOENT
int dps_sitter_version(uint32_t sitter);                 // of the process in a berth
int dps_group_heir(uint32_t group, uint32_t version);   // that is started, and takes over, from now on
int dps_slot_sitter(uint32_t slot);                     // pid, 0: none
int dps_sitter_pid(uint32_t sitter, uint32_t ticket);   // that came to a berth, 0: none; -ESTALE:
							// the berth is of another order by now
int dps_process_dumps(int32_t pid);                  // does it write its core file?
int dps_slot_takeovers(uint32_t slot, uint32_t n,       // that wardens may do unasked from now on;
		       uint32_t failures);              // 1: not for one that left in order
int dps_slot_read(uint32_t slot, struct dps_slot *out);
int dps_sitter_get(uint32_t sitter, struct dps_sitter_info *out);
int dps_sitter_fate(uint32_t sitter, int32_t pid);      // 0: told, or none; -EAGAIN: ask again.
							// pid 0: call off an order that no process
							// came for
uint64_t dps_stories(void);                             // seq of the last one
int dps_story_get(uint64_t seq, struct dps_story *out); // -ENOENT: too old, or to come

// watchdog.c: what is new (DPS_STORY_IO_*), 0: nothing. `run`: the kernel's letter for its state.
int dps_watchdog_look(struct dps_watchdog *w, uint64_t now_ns, uint64_t turns, uint64_t cpu_ns,
		   int run);

// requests.c
int dps_io_create(uint32_t io, uint32_t lcore, uint32_t burst, uint32_t adaptive);
int dps_io_start(void);
int dps_io_stop(void);                  // bounded; the io cores free all that they hold
int dps_io_rx(uint32_t on);             // 0: stop receiving, go on collecting
int dps_io_lane(uint32_t slot);         // (re)reads what the slot's plugin needs
int dps_io_lane_also(uint32_t slot, uint32_t needs,     // from the next packet on it gets this too,
		     uint32_t changes);         // and may be one that changes bytes
int dps_io_map(uint32_t group, const uint8_t *member, uint32_t n,      // bucket -> member
	       uint32_t when_empty);                                    // DPS_EMPTY_*
int dps_group_given_up(uint32_t group, uint32_t on);    // what it drops from now on is WORKER_HELD
int dps_io_loads(uint32_t group, uint64_t *packets, uint32_t n);        // received so far, by bucket
int dps_io_map_get(uint32_t group, uint8_t *member, uint32_t n);        // as it was last ordered
int dps_io_reset(uint32_t slot);        // after a corrupt slot's sitter died: empty lanes
int dps_io_stats_get(uint32_t io, struct dps_io_stats *out);
int dps_group_stats_get(uint32_t group, struct dps_group_stats *out);
int dps_lane_stats_get(uint32_t slot, struct dps_lane_stats *out);     // over all io cores
int dps_lane_of_io(uint32_t io, uint32_t slot, struct dps_lane_stats *out);

// audit.c
int dps_audit_get(uint32_t pool, struct dps_audit *out);
int dps_audit_places(uint32_t pool, struct dps_audit_place *out, uint32_t n);
int dps_audit_search(uint32_t pool, struct dps_stray *out, uint32_t n, uint32_t *fresh);
int dps_test_leak(uint32_t slot);

// caretaker.c
int dps_group_rebucket(uint32_t group, uint64_t after_ns);  // 0: never; see there

// evidence.c: an io core's packets in quarantine, the oldest first, until they are given up. `bytes`
// gets as many as there is room for; their number is returned. -ENOENT: there is no such packet.
int dps_quarantine_get(uint32_t io, uint32_t nth, struct dps_evidence *out, uint8_t *bytes,
		       uint32_t room);
int dps_quarantine_free(uint32_t io, uint32_t n);       // requests.c

// recover.c
int dps_slot_requeue(uint32_t slot);    // returns packets handed back for steering

// capture.c: `filter` is BPF, an instruction a word: code 16 bits, jt 8, jf 8, k 32. -EBUSY: a
// capture runs; -EINVAL: the filter is not valid.
int dps_capture_start(const struct dps_capture_conf *conf, const uint64_t *filter);
int dps_capture_stop(void);             // what was captured can still be read
int dps_capture_free(void);
int dps_capture_read(uint32_t io, uint8_t *out, uint32_t room);  // whole records; returns bytes
int dps_capture_stats_get(struct dps_capture_stats *out);

// perf.c: one slot at a time, -EBUSY: another one is.
int dps_perf_start(uint32_t slot);
int dps_perf_stop(void);                // what was measured can still be read
int dps_perf_free(void);
int dps_perf_get(struct dps_perf *perf, struct dps_delays *delays);
uint32_t dps_class_of(uint64_t value);  // dps_class
