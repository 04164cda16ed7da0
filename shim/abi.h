// SPDX-License-Identifier: BSD-3-Clause
//
// The shared-memory ABI of dpsup: what the primary, the seed and the workers agree on.
//
// This is the only definition. C reads it through dpsup.h, which asserts every layout rule; Python
// reads this very text through cffi. So: enums and structs only, fixed-width fields, no pointers,
// no preprocessor line. Raise DPS_ABI_VERSION with every change. Over 600 lines: it is one contract,
// which C and Python read.
//
// Each 64-byte line has one writer, named at the line's head; every other process only reads it. What
// workers write lies apart, so that each may be kept from the rest: its slot in hugepages, its sitter and
// its lines of live tables in pages of 4 KiB, packets' bytes. All else they have read-only: docs/security.md.
// Addresses are offsets from dps_ctl.base, the lowest hugepage address of the generation: DPDK maps
// hugepages at the same addresses in every process, but nothing that a worker wrote is ever
// followed as a pointer.

enum {
	DPS_ABI_VERSION = 17,
	DPS_MAGIC = 0x44505350,     // "PSPD"
	DPS_SLOT_MAGIC = 0x544c5344,

	DPS_MAX_IO = 8,
	DPS_MAX_SLOTS = 64,
	DPS_MAX_SPARES = 64,
	DPS_MAX_SITTERS = 160,      // slots, spares, and those that are being cleared up after
	DPS_STORIES = 512,          // kept; a power of two, above any number of deaths at once
	DPS_FRAMES = 24,            // of a backtrace
	DPS_MAX_PORTS = 16,
	DPS_MAX_GROUPS = 16,
	DPS_MAX_POOLS = 8,
	DPS_BUCKETS = 512,          // units of steering in a group
	DPS_BURST = 64,             // most packets of a worker's burst
	DPS_IO_BURST = 128,         // and of an io core's
	DPS_REASONS = 16,           // drop reasons of a plugin
	DPS_BLANKS = 256,           // most blanks that a lane has lent, a power of two
	DPS_EMITS = 8,              // most that a plugin fills for one packet
	DPS_COUNTERS = 16,          // counters of a plugin
	DPS_SLOT_COUNTERS = 32,     // of all plugins that a slot has had
	DPS_VERSIONS = 2,           // of a group's plugin at a time
	DPS_NAME = 32,              // bytes of a name, the closing NUL included
	DPS_PATH = 1024,
	DPS_ARGS = 8192,            // bytes of a group's arguments, key NUL value NUL ...; a key that
				    // begins with "file:" has the path of a file of any size
	DPS_ERROR = 512,
	DPS_UNDO = 256,             // most bytes of one packet that a plugin may rewrite
	DPS_BRIEF = 12,             // up to so many are saved in one store
	DPS_POISON = 2,             // deaths that a packet is to blame for, at which it is poison
	DPS_TOUCHES = 4,            // pieces of state that it may change for one packet
	DPS_TOUCH_MOST = 64,        // most bytes of each
	DPS_TOUCH_COUNT = 56,       // dps_slot.touched: the count's lowest bit
	DPS_TOUCH_COUNTER = 63,     // dps_slot.touch_at: this bit
	DPS_PAGE = 4096,            // bytes
	DPS_CLASSES = 256,          // of a histogram: eight to each power of two, dps_class
	DPS_SLOW = 8,               // slowest bursts that are kept
	DPS_HEAD = 64,              // bytes of a packet's head
	DPS_KEY = 64,               // most bytes of a hash key
	DPS_HAND_LOOKS = 63,        // dps_slot.hand: this bit
	DPS_TICK_SLOT = 513,        // a tick's number: of the worker, else 1 + its bucket
	DPS_TICK_US = 1000,         // the least time between two ticks of a worker
	DPS_BUCKET_TICK_US = 10000, // and between two of a bucket
	DPS_NO_SLOT = 255,
	DPS_NOWHERE = 0xffff        // dps_group_conf.next
};

// Verdict of a packet, 16 bits: what in the high 4, which in the low 12.
enum {
	DPS_V_DROP = 0x0000,        // low bits: the plugin's reason
	DPS_V_OUT = 0x1000,         // low bits: port
	DPS_V_GROUP = 0x2000,       // low bits: group
	DPS_V_QUARANTINE = 0x3000,
	DPS_V_REQUEUE = 0x4000,     // steer it anew; only the primary says this
	DPS_V_TICK = 0x5000,        // of a tick, and of nothing else: it was taken
	DPS_V_HASH = 0x6000,        // and 0x7000: on to a group, by a hash of the plugin's own; the low 13
				    // bits are the group, then the bucket
	DPS_V_ALSO = 0x8000,        // with DROP, OUT, GROUP: and a copy out of the port in bits 4 to 11
	DPS_V_PUNT = 0xc000,        // to the kernel
	DPS_V_KIND = 0xf000,
	DPS_V_ARG = 0x0fff,
	DPS_V_HASHES = 0xe000,      // of HASH, what it has in place of KIND
	DPS_V_HASH_GROUP = 9        // and the group's lowest bit
};

// A packet in a lane is one 8-byte word, at its index modulo the ring. The io core writes a
// descriptor; the worker puts the verdict in its place. Each is one store: a word is never half of
// one and half of the other. These are the fields' lowest bits.
enum {
	// Of both: 1, the word is a verdict.
	DPS_W_DONE = 63,

	// A descriptor's.
	DPS_W_OFFSET = 0,           // 40 bits: the first byte, from dps_ctl.base
	DPS_W_LEN = 40,             // 14 bits: bytes in the first segment; with META 0, or the number of a
				    // tick, and then it is all that there is
	DPS_W_PORT = 54,            // 4 bits: input port
	DPS_W_HEADROOM = 58,        // 4 bits: at least so many times 16 bytes are free before it
	DPS_W_META = 62,            // 1: dps_meta has more

	// A verdict's.
	DPS_W_VERDICT = 0,          // 16 bits
	DPS_W_SHIFT = 16,           // 16 bits, signed: bytes that the packet's start moved
	DPS_W_NEWLEN = 32,          // 16 bits: bytes in the first segment
	DPS_W_EMITS = 48,           // 4 bits: blanks that the packet filled, the next ones in order
	DPS_W_MISSED = 52,          // 4 bits: blanks that it asked for and did not get
	DPS_W_CHANGED = 62,         // 1: SHIFT and NEWLEN hold

	// The word of a blank that a packet filled is a verdict with CHANGED, and in place of EMITS and
	// MISSED says which blank it is.
	DPS_W_BLANK = 48,           // 14 bits: its index
	DPS_BLANK_BITS = 14
};

// dps_meta.flags
enum {
	DPS_F_HASH = 1,             // hash is that of the packet's flow
	DPS_F_SEGMENTS = 2,         // more than one segment: mbuf and pkt_len hold
	DPS_F_VLAN = 4,             // vlan is the outermost tag
	DPS_F_TSC = 8               // tsc is when the io core received the burst
};

// What the flows' hash covers (dps_ctl.hash_fields)
enum {
	DPS_RSS_IPV4 = 1,
	DPS_RSS_IPV6 = 2,
	DPS_RSS_TCP = 4,
	DPS_RSS_UDP = 8,
	DPS_RSS_SCTP = 16,
	// Inside of these tunnels, in software: the flow is that of the inner headers.
	DPS_RSS_VXLAN = 32,
	DPS_RSS_GENEVE = 64,
	DPS_RSS_GRE = 128,
	DPS_RSS_GTPU = 256,
	DPS_RSS_MPLS = 512,
	DPS_RSS_PPPOE = 1024,
	DPS_RSS_IPIP = 2048,        // IPv4 or IPv6 in IPv4 or IPv6
	DPS_RSS_ERSPAN = 4096,
	DPS_RSS_INNER = 8160,
	// From this bit on the UDP ports of VXLAN, 16 bits each, 0: none.
	DPS_RSS_VXLAN_PORT = 16,
	DPS_RSS_VXLAN_PORTS = 3
};

// What a plugin asks for beside bytes, length and port (dps_facts.needs).
enum {
	DPS_NEED_VLAN = 1,
	DPS_NEED_TSC = 2,
	DPS_NEED_HASH = 4,
	DPS_NEED_BLANKS = 65536     // the lowest of DPS_EMITS bits, of which it sets one for each blank that
				    // a packet may fill
};

// dps_facts.migrates: it takes over what an earlier version kept.
enum {
	DPS_MIGRATES_PLACE = 1,
	DPS_MIGRATES_BUCKET = 2
};

// dps_slot.command
enum {
	DPS_RUN = 0,
	DPS_STOP = 1                // leave at the next burst boundary
};

// dps_sitter.hand: where a process is on its way to a slot. PARKED to CLAIMED by compare-and-swap.
enum {
	DPS_HAND_STARTING = 0,      // plugin not initialised yet, no slot yet
	DPS_HAND_PARKED = 1,        // a spare, ready, asleep on this word
	DPS_HAND_CLAIMED = 2,       // by a warden, which is about to say for which slot
	DPS_HAND_GO = 3,            // slot and ticket hold: take that seat
	DPS_HAND_SEATED = 4,
	DPS_HAND_DEAD = 5
};

// dps_story.kind
enum {
	DPS_STORY_DEATH = 1,
	DPS_STORY_STUCK = 2,        // with work, no progress: it is ended
	DPS_STORY_STOPPED = 3,      // by a signal or a debugger
	DPS_STORY_CONTINUED = 4,
	DPS_STORY_STARVED = 5,      // ready to run, and gets no CPU
	DPS_STORY_FED = 6,          // gets CPU again
	DPS_STORY_REBUCKETED = 7,   // no process took the slot over: other workers have its buckets,
				    // and `left` packets of its lanes
	// Of an io core: `sitter` is its index, `pid` its thread.
	DPS_STORY_IO_STUCK = 8,     // the primary ends for it
	DPS_STORY_IO_STARVED = 9,
	DPS_STORY_IO_FED = 10
};

// dps_story.notice: what said that the thread is gone.
enum {
	DPS_NOTICE_LEASE = 1,
	DPS_NOTICE_PIDFD = 2,       // the kernel gave no sign on the lease
	DPS_NOTICE_DOUBT = 3        // another thread wrote to the lease; then the pidfd
};

// Exit codes of the seed and the workers. From 100 on: what was refused, and trying again is of no
// use, but for DPS_EXIT_PRIMARY_GONE and DPS_EXIT_TEMPORARY.
enum {
	DPS_EXIT_OK = 0,
	DPS_EXIT_USAGE = 100,
	DPS_EXIT_ABI = 101,             // built against another version of this header
	DPS_EXIT_DPDK = 102,            // another DPDK version than the primary's
	DPS_EXIT_GENERATION = 103,      // the primary is of another generation
	DPS_EXIT_PRIMARY_GONE = 104,    // the primary is dead
	DPS_EXIT_ATTACH = 105,          // rte_eal_init failed
	DPS_EXIT_PLUGIN = 106,          // cannot be loaded
	DPS_EXIT_PLUGIN_ABI = 107,      // built against another plugin header
	DPS_EXIT_PLUGIN_INIT = 108,     // its init refused
	DPS_EXIT_CORE = 109,            // cannot be pinned to its core
	DPS_EXIT_SEED_GONE = 110,       // the seed's socket could not be made
	DPS_EXIT_TEMPORARY = 111,
	DPS_EXIT_IO_STUCK = 112         // the primary's: an io core made no turn
};

// Further facts about the packet at the same index, where its descriptor says META. Written by the
// io core.
struct dps_meta {
	uint64_t tsc;               // TSC cycles
	uint64_t mbuf;              // offset of the rte_mbuf from dps_ctl.base, to walk segments
	uint32_t pkt_len;           // bytes over all segments
	uint32_t hash;              // Toeplitz hash of the flow
	uint16_t len;               // bytes in the first segment
	uint16_t vlan;              // TCI of the outermost tag
	uint16_t flags;             // DPS_F_*
	uint16_t pad;
};

// One lane: this, then dps_slot.ring words. Indices count on, modulo 2^32. What the worker
// has in hand lies between `done` and `sent`: verdicts first, the rest is still to do.
struct dps_lane {
	// Written by the io core. Two lines: processors fetch them in pairs.
	uint32_t sent;              // index after the last packet lent
	uint32_t blanks;            // index after the last blank lent
	uint32_t ticked;            // index after the last tick lent; stored before `sent`
	uint32_t pad0[29];

	// Written by the worker; by the primary while the slot is empty. Both in one store: they say the
	// same moment.
	uint32_t done;              // index after the last packet handed back
	uint32_t taken;             // index after the last blank that those packets filled
	uint32_t pad1[30];
};

// Lies before a block of state, and names its owner. Written by the worker that occupies the slot or
// owns the bucket.
struct dps_state_head {
	uint64_t stamp;             // hash of the plugin's name << 32 | its state_version; 0: no
				    // owner. Stored last: from then on the bytes are zero, or the
				    // plugin's
	uint64_t size;              // bytes that are
};

// Lies at the end of a block's room: what another version of the plugin, or another plugin, left before
// the block became this one's. Its bytes lie before it. Written as the block is.
struct dps_state_kept {
	uint64_t stamp;             // as above; stored last
	uint32_t size;              // bytes
	uint32_t epoch;             // the dps_slot.epoch in which it was kept, without bit 31, which says:
				    // the block after it began with zeroes, as its version could
				    // not migrate
};

// What a plugin says of itself.
struct dps_facts {
	uint32_t needs;             // DPS_NEED_*
	uint32_t rewrites;          // bytes from a packet's start that the plugin may change
	uint32_t prepends;          // bytes of headroom that it may take
	uint32_t n_reasons;
	uint32_t n_counters;
	uint32_t policy;            // bit r: what reason r drops is as the plugin was told to
	uint32_t gauges;            // bit c: counter c is the process's own, and ends with it
	uint32_t tick_us;           // between two of the worker's ticks, 0: it has none
	uint32_t bucket_tick_us;    // and between two of a bucket's
	uint32_t state;             // bytes that it keeps for a place
	uint32_t bucket_state;      // and for a bucket
	uint32_t migrates;          // DPS_MIGRATES_*
	uint64_t stamp;             // of its blocks: dps_state_head
	uint32_t pad[2];
	char reason[DPS_REASONS][DPS_NAME];
	char counter_name[DPS_COUNTERS][DPS_NAME];
};

// One process that the seed forked: a worker, or a spare that may become one. Its memory is its
// own, a page; before and after it, other processes occupy the slot. All of them lie in a file in EAL's
// runtime directory, DPS_MAX_SITTERS of them.
struct dps_sitter {
	// The lease, lease.h. By its owner's thread once, at the start; then by the kernel, when that
	// thread is gone. A waiter sets a bit in it. The primary initialises it for the next owner.
	uint64_t lease[8];

	// By compare-and-swap alone. The primary opens it with a new ticket (high 32 bits), the process
	// that was forked with that ticket takes it (low 32 bits: its pid).
	uint64_t berth;
	uint64_t pad0[7];

	// DPS_HAND_*. The thread that moves it to CLAIMED writes the slot and its ticket before GO.
	uint32_t hand;
	uint32_t slot;              // DPS_NO_SLOT: none
	uint32_t ticket;            // of that slot's seat
	uint32_t group;
	uint32_t version;           // of the group's plugin, that it loads
	uint32_t pad1[11];

	// Written by the seed: how the last one ended.
	int32_t exit_pid;
	int32_t exit_status;        // as waitpid gives it
	uint32_t exits;             // how many ended so far
	uint32_t pad2[13];

	// Written by the process.
	uint64_t ready_ns;          // CLOCK_MONOTONIC when its plugin was initialised
	uint64_t seated_ns;         // CLOCK_MONOTONIC when it took its slot
	uint32_t in_order;          // 1: it leaves by itself, with exit code 0
	uint32_t pad3[11];
	struct dps_facts facts;

	// Written by the plugin. The warden adds them to the slot's after its death. An index that
	// runs past their end meets this process's own error text, no other process's lease.
	uint64_t counter[DPS_COUNTERS];

	// Written by the process.
	char error[DPS_ERROR];      // why it could not start

	// Written by the handler of fatal signals.
	uint32_t signal;            // 0: none came; stored last
	int32_t code;               // si_code
	uint32_t n_frames;
	int32_t sender;             // pid of the process that sent it, 0: none did
	uint64_t address;           // si_addr
	uint64_t died_ns;           // CLOCK_MONOTONIC
	uint64_t frame[DPS_FRAMES]; // return addresses, the innermost first

	// Written by the process before it loads its plugin, and when it has: what names the frames.
	uint64_t program_base;      // where the worker program is mapped
	uint64_t plugin_base;       // where its plugin's file is, 0: none is loaded
	uint64_t plugin_digest;     // that begins the name of its private copy, 0: it has none

	// Written by the handler of fatal signals.
	uint32_t call;              // of SIGSYS: number of the system call that was refused
	uint32_t pad5;
	uint64_t pad6[224];
};

// What a warden saw and did. It lies in the primary's own memory. Times are CLOCK_MONOTONIC in
// nanoseconds, 0: did not happen.
struct dps_story {
	uint64_t seq;               // from 1
	uint32_t kind;              // DPS_STORY_*
	uint32_t slot;              // DPS_NO_SLOT: a spare's
	uint32_t sitter;
	int32_t pid;
	uint32_t notice;            // DPS_NOTICE_*
	uint32_t hung;              // 1: ended because it was stuck
	uint32_t signal;            // fatal signal that its handler saw, 0: none
	int32_t code;
	uint32_t n_frames;
	int32_t successor;          // pid, 0: none
	uint32_t successor_sitter;
	uint32_t tried;             // spares that did not take the seat in time
	uint32_t corrupt;           // the repair: struct dps_recovery
	uint32_t published;
	uint32_t undone;
	uint32_t left;
	int32_t sender;             // pid of the process that sent the signal, 0: none did
	uint32_t blamed;            // deaths that the packet in hand is to blame for, 0: it is not
	uint32_t mended;            // descriptors that were not what the io core wrote
	uint32_t handover;          // 1: it was told to make room, and left in order
	uint64_t address;
	uint64_t died_ns;           // by its own handler
	uint64_t noticed_ns;
	uint64_t repaired_ns;
	uint64_t claimed_ns;        // a spare was told to go
	uint64_t seated_ns;         // it took the seat
	uint64_t first_ns;          // it took its first burst
	uint64_t gone_ns;           // the whole process has ended
	uint64_t program_base;      // of a fatal signal, as struct dps_sitter has them
	uint64_t plugin_base;
	uint64_t plugin_digest;
	uint64_t frame[DPS_FRAMES];
	uint32_t ticked;            // 1: what `blamed` is said of is a tick
	uint32_t call;              // number of the system call that a worker may not make, of SIGSYS
};

// A plugin with its arguments. Written by the primary while no process has this version: before the
// seed attaches, and before a rollout.
struct dps_version {
	char plugin[DPS_PATH];      // a built-in name, or the path of a shared object
	uint32_t builtin;           // 1: a built-in name
	uint32_t n_args;            // pairs in args
	char args[DPS_ARGS];
};

// One group. Written by the primary before the seed attaches, but for the versions.
struct dps_group_conf {
	char name[DPS_NAME];
	uint32_t adaptive;          // 1: idle workers give the CPU back
	uint32_t first_slot;
	uint32_t max;               // slots
	uint32_t ring;              // words of a lane
	uint32_t hold;              // 1: a full lane makes packets wait, 0: it drops them
	uint32_t reach;             // bit g: its packets may come to group g
	uint16_t next[DPS_MAX_PORTS];   // by input port: the verdict that takes a packet to the next
				// hop of its chain; DPS_NOWHERE: none
	uint32_t bucket_stride;     // bytes from one bucket's dps_state_head to the next one's, 0: none
	uint32_t pad0;
	uint64_t buckets;           // offset of the first one from dps_ctl.base
	uint32_t state;             // bytes of state of a slot
	uint32_t bucket_state;      // bytes of state of a bucket
	uint32_t verify;            // 1: what a plugin changes of a packet is compared with what it declares
	uint32_t slot_bytes;        // of each slot with its lanes and state
	uint32_t confined;          // 1: its workers give up rights, confine.h
	uint32_t pad3;
	struct dps_version version[DPS_VERSIONS];
};

// What a plugin learns of a port.
struct dps_port_view {
	uint8_t mac[8];             // 6 used
	uint32_t up;                // 1: its link is up
	uint32_t mbps;              // of the link, 0: unknown
	uint32_t mtu;               // 0: there is no device
	int32_t numa;               // -1: unknown
};

// And of a group.
struct dps_group_view {
	uint64_t version;           // another number after each change of the rest; stored last
	uint32_t workers;           // members that have a bucket
	uint32_t places;            // members that it may have
	uint8_t owner[DPS_BUCKETS]; // member that has it, DPS_NO_SLOT: none
};

// Where the bytes of a pool's packets lie, and nothing else, unless a driver wants headers among them.
struct dps_room {
	uint64_t at;                // offset from dps_ctl.base
	uint64_t len;               // bytes
};

// What plugins look at while packets flow. Written by the primary alone, while workers run, and read by
// plugins alone.
struct dps_view {
	uint64_t ports_version;     // another number after each change of a port; stored last
	uint64_t pad0[7];
	struct dps_port_view port[DPS_MAX_PORTS];
	struct dps_group_view group[DPS_MAX_GROUPS];
};

// The control block, memzone "dpsup". Written by the primary before the seed attaches, and read-only
// afterwards, but for the view and the lease at its end. What lies before them the primary has a copy of in
// its own memory, works with that, and writes it anew here before a process is to read it. Workers have all
// of it read-only.
struct dps_ctl {
	uint32_t magic;             // DPS_MAGIC, stored last
	uint32_t abi_version;       // DPS_ABI_VERSION
	uint32_t abi_size;          // sizeof(struct dps_ctl)
	int32_t primary_pid;
	uint64_t generation;
	uint64_t base;              // lowest hugepage address
	char dpdk_version[DPS_NAME];

	uint32_t n_io;
	uint32_t n_slots;
	uint32_t n_ports;
	uint32_t n_groups;
	uint64_t tsc_hz;
	int32_t lease_tid;          // the thread that holds the primary's lease
	uint32_t hash_key_len;      // bytes
	uint64_t hash_fields;       // DPS_RSS_*
	uint32_t n_pools;
	uint32_t pad0;
	uint64_t pad[2];
	uint8_t hash_key[DPS_KEY];  // of the flows' hash
	struct dps_room bytes[DPS_MAX_POOLS];  // by pool

	uint64_t slot[DPS_MAX_SLOTS];           // offset of each slot from base
	char port[DPS_MAX_PORTS][DPS_NAME];
	struct dps_group_conf group[DPS_MAX_GROUPS];

	struct dps_view view;

	// The primary's lease: all that it started wait on it. The primary says itself that some wait: those
	// who do cannot write here.
	uint64_t lease[8];
};

// One slot: a worker's seat. It and its lanes lie together in hugepages of their own.
struct dps_slot {
	// Written by the primary, before the seed attaches.
	uint32_t magic;             // DPS_SLOT_MAGIC
	uint32_t index;
	uint32_t group;
	uint32_t member;            // index within the group
	uint32_t n_lanes;           // one per io core
	uint32_t ring;              // words of a lane, a power of two
	uint64_t state;             // offset of its dps_state_head from the slot's start, 0: none
	uint64_t perf_at;           // of its dps_perf
	uint64_t pad0[3];
	uint64_t lanes[DPS_MAX_IO]; // offset of each dps_lane from the slot's start
	uint64_t meta[DPS_MAX_IO];  // of its dps_meta[ring]
	uint64_t blanks[DPS_MAX_IO];    // of its descriptors of blanks, written by the io core, and the words
				    // of blanks, written by the worker: DPS_BLANKS each, by index

	// Written by the primary, while workers run.
	uint32_t command;           // DPS_RUN, DPS_STOP
	int32_t core;               // CPU of the next worker
	uint32_t version;           // of the process that sits here, or is to
	uint32_t perf;              // not 0: measure each burst (dps_perf); each time another number
	uint32_t epoch;             // another number with each version that the group gets
	uint32_t pad1[11];

	// By compare-and-swap alone. The primary opens the seat with a new ticket (high 32 bits), the
	// worker that was forked with that ticket takes it (low 32 bits: its pid); a worker that
	// comes late finds another ticket, and leaves.
	uint64_t seat;
	uint64_t pad2[7];

	// Rung by atomic add: io cores that lend to a parked worker, the primary with a command. The
	// worker parks on it (futex).
	uint32_t bell;
	uint32_t pad8[15];

	// Written by the worker, once a park: odd while it is parked or about to be.
	uint32_t parks;
	uint32_t pad9[15];

	// Written by the worker, as it takes the seat.
	uint64_t first_ns;          // CLOCK_MONOTONIC of its first burst, 0: none yet
	uint64_t ready_ns;          // its dps_sitter.ready_ns
	uint64_t pad3[6];
	struct dps_facts facts;

	// Written by the worker: the packet in hand, if it may be changed. Saved first, then stamped,
	// then changed; the stamp counts until the packet's word is a verdict. Of a plugin that changes
	// at most the first DPS_BRIEF bytes, these and their stamp are one 16-byte store.
	uint8_t brief[DPS_BRIEF];
	uint32_t brief_of;          // (lane + 1) << 24 | index modulo 2^24 of the packet saved; 0: none
	uint64_t undo;              // (lane + 1) << 32 | index of the packet saved; 0: none
	uint64_t hand;              // (lane + 1) << 32 | index after the last of the burst in hand;
	                            // 0: none yet. Bit DPS_HAND_LOOKS: the plugin looks at several
	                            // packets of it, and has changed nothing since
	uint16_t undo_head;         // bytes saved before the packet's start
	uint16_t undo_len;          // bytes saved from the packet's start on
	uint32_t pad6;
	uint64_t pad10[3];
	uint8_t undo_bytes[DPS_UNDO];

	// Written by the worker: state that the packet in hand changes. A piece is saved first, then
	// counted, then changed; the pieces count until the packet's word is a verdict.
	uint64_t touched;           // pieces << DPS_TOUCH_COUNT | the packet, as in undo
	uint64_t touch_at[DPS_TOUCHES];         // offset from dps_ctl.base; with DPS_TOUCH_COUNTER, from
						// the sitter's counters
	uint16_t touch_len[DPS_TOUCHES];
	uint64_t pad11[2];
	uint8_t touch_bytes[DPS_TOUCHES][DPS_TOUCH_MOST];

	// Written by the worker, once a burst or loop.
	uint64_t beats;             // loops
	uint64_t bursts;
	uint64_t packets;           // seen by this slot's workers
	uint64_t busy;              // TSC cycles in bursts
	uint64_t forgotten;         // blocks of state that its plugin's migrate refused
	uint64_t pad7[3];

	// Written by the worker of a group that verifies: packets of which the plugin changed bytes that it
	// did not declare. The rest is of the latest one; offsets count from its start, as it came.
	uint64_t undeclared;        // stored last
	int32_t undeclared_first;   // bytes that changed
	int32_t undeclared_last;
	uint32_t undeclared_len;    // bytes over all segments
	uint32_t undeclared_port;
	uint64_t pad12[5];
	uint8_t undeclared_head[DPS_HEAD];      // as it came

	// Written by the primary: the plugins' counters of all dead workers of this slot, by name.
	uint64_t counter[DPS_SLOT_COUNTERS];
	char counter_name[DPS_SLOT_COUNTERS][DPS_NAME];         // "": free, and so are all after it
};

// One burst of a worker's, as `dpsup perf` shows it.
struct dps_slow_burst {
	uint64_t cycles;            // TSC cycles; 0: there is none, or it is being replaced. Stored last
	uint64_t tsc;               // when it began
	uint32_t n;                 // packets
	uint32_t lane;
	uint64_t pad0[5];
	uint16_t len[DPS_BURST];    // bytes in the first segment, as it came
	uint8_t head[DPS_BURST][DPS_HEAD];      // as the plugin left it
};

// What a worker measures while dps_slot.perf asks. Written by the worker, and continued by its
// successor. A kill in the middle leaves it short of one burst at most.
struct dps_perf {
	uint32_t asked;             // the dps_slot.perf that this answers; stored when the rest is 0
	uint32_t pad0;
	uint64_t bursts;
	uint64_t packets;
	uint64_t cycles_most;       // TSC cycles per packet of the slowest burst
	uint64_t pad1[4];
	uint64_t cycles[DPS_CLASSES];   // packets, by the class of their burst's cycles per packet
	uint64_t batch[DPS_BURST];      // bursts of n packets, at n - 1
	struct dps_slow_burst slow[DPS_SLOW];
};

// --- live tables: docs/tables.md -----------------------------------------------------------------
//
// The tables of a group lie in a file of the runtime directory, which workers map read-only. The
// builder alone writes there: dpsup/builder/. Each table has two copies, one of which holds: one store
// to dps_tables.holds says anew, of all tables of the group, which. A worker looks at that word between
// bursts, and says in its dps_table_reader which value of it it works with. The builder changes a copy
// only while no worker that lives works with it.

enum {
	DPS_TABLES_MAGIC = 0x544c4254,  // "TBLT"
	DPS_TABLES = 16,                // of a group
	DPS_TABLES_SEQ = 16,            // dps_tables.holds: the lowest bit of what counts its changes; below,
					// bit i is the copy of table i that holds
	DPS_TABLE_LEARNS = 1,           // workers tell what it is to hold: dps_told
	DPS_TABLE_CONTROL = 2,          // an array of dps_tell_record: `dpsup tell`
	DPS_TOLD = 256,                 // messages of a slot that the builder has not taken yet
	DPS_TOLD_KEY = 64,              // bytes
	DPS_TELL_TEXT = 1016,           // bytes of an operator's words
	DPS_TELLS = 64,                 // of which the last ones are kept
	DPS_TELLS_BAD = 3               // that a slot's workers leave out
};

// Written by the builder, the magic last; what changes while workers run has lines of its own.
struct dps_table_place {
	char name[DPS_NAME];
	uint32_t kind;              // DPS_TABLE_* of dpsup_plugin.h
	uint32_t key_bytes;         // of an exact match and a plugin's own kind, else 0
	uint32_t value_bytes;
	uint32_t use;               // DPS_TABLE_*
	uint64_t entries;           // most
	uint64_t bytes;             // of a copy

	uint64_t at[2];             // offset of each copy from dps_tables
	uint64_t version[2];        // batches that it has; written while no worker reads that copy
	uint64_t again_ns;          // of a learned table: until a worker tells the same again
	uint32_t layout;            // of a plugin's own kind: the table_layout that it has
	uint32_t pad0;
	uint64_t pad1[2];
};

struct dps_tables {
	uint32_t magic;             // DPS_TABLES_MAGIC
	uint32_t abi_version;       // DPS_ABI_VERSION
	uint32_t n_tables;
	uint32_t pad0;
	uint64_t bytes;             // of the whole file
	uint64_t pad1[5];

	uint64_t holds;
	uint64_t pad2[7];

	struct dps_table_place table[DPS_TABLES];
};

// In a file of its own, DPS_MAX_SLOTS of them. Written by the worker in that slot.
struct dps_table_reader {
	int32_t pid;
	uint32_t controls;          // 1: its plugin has control()
	uint64_t start;             // of that process: clock ticks since boot
	uint64_t seen;              // the value of holds that it works with, 0: with none
	uint64_t control;           // number of the words that control() has in hand, 0: none
	uint64_t blamed;            // in which a worker of this slot ended
	uint64_t bad[DPS_TELLS_BAD]; // in which two did: they are left out
	uint64_t pad[504];          // a page each: a worker may write in its own alone
};

// An element of the table of an operator's words, which are in the order of their numbers.
struct dps_tell_record {
	uint64_t number;
	char text[DPS_TELL_TEXT];   // zero behind its end
};

// What a worker tells the builder: a key of a table, and its value.
struct dps_told {
	uint8_t table;              // index
	uint8_t pad[7];
	uint8_t key[DPS_TOLD_KEY];
	uint64_t value;
};

// A ring of them, of one writer and one reader. A message counts from the store to `sent` on that
// follows it. In a file of its own, DPS_MAX_SLOTS of them; then DPS_TABLES of dps_learned.
struct dps_tells {
	uint64_t sent;              // by the worker in that slot, like `told` and `lost`
	uint64_t pad0[7];
	uint64_t lost[DPS_TABLES];  // by table: there was no room
	uint64_t taken;             // by the builder
	uint64_t pad1[7];
	struct dps_told told[DPS_TOLD];
	uint64_t pad2[480];         // whole pages, as of a dps_table_reader
};

// What has become of them, by the builder.
struct dps_learned {
	uint64_t told;              // messages that were taken
	uint64_t learned;           // entries that they added or changed
	uint64_t refused;           // a full table, an operator's entry, no value of the table
	uint64_t aged;              // entries that were not told again
	uint64_t entries;           // that are there
	uint64_t pad[3];
};
