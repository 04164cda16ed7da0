// SPDX-License-Identifier: BSD-3-Clause
//
// Over 600 lines: one program, all of whose parts look at the same copy.
//
// A worker of a running instance, instruction by instruction; before each, what its death there would
// leave is copied, and the real repair (shim/recovery/recover.c, compiled in) works on the copy.
//
//     step PID STEPS SWAP VERDICT   steps it (SWAP 1: the plugin swaps the MACs, 0: it changes
//                                   nothing; VERDICT: that of every packet, or "any"); prints what
//                                   was seen, as JSON. 1: the repair is wrong, stderr says where
//     step PID where                prints addresses in shared memory, as JSON
//
// The io cores run on meanwhile. What only the primary knows is told from outside: `published` is
// `sent`, as one store separates them; what was lent, and its bytes, are noted when first seen, which
// is before the worker can have touched them, as it stands still. What the worker had when this
// program came is stepped over unchecked. x86-64 only.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "primary.h"

enum {
	BYTES_MOST = 2048,      // of a packet here
	LOOKED_AT = DPS_BURST + 8,      // packets from `done` on that are compared each time
	LAG = 8,                // `collected` is so many behind `done` at most
	PLACES = 1 << 16        // of instructions, by hash
};

// A packet as it was lent.
struct lent {
	uint64_t word;
	uint64_t verdict;       // as first seen; 0: none yet
	uint64_t filled;        // a sum over the blanks that it filled, likewise
	uint32_t len;
	uint8_t bytes[BYTES_MOST];
};

struct track {
	struct dps_lane *theirs;        // in shared memory
	struct lent *lent;              // [ring], by index
	uint32_t trusted;               // lent before this program came, up to here
	uint32_t seen;
	uint32_t done;                  // at the last look
	uint32_t verdicts;              // at and after `done`, likewise
	uint32_t counted;               // ticks with a verdict are, up to here
	bool started;
	bool followed;          // done and verdicts are those of the instruction before
};

struct primary the_primary;

static pid_t pid;
static const struct dps_ctl *ctl;
static const struct dps_sitter *sitters;        // [DPS_MAX_SITTERS]
static unsigned long sitters_at;                // in the worker
static struct dps_slot *theirs, *copy;
static struct track track[DPS_MAX_IO];
static uint8_t *room;                   // [n_lanes][ring][headroom + BYTES_MOST]
static struct rte_mbuf *mbufs;          // [n_lanes][ring]
static struct rte_mbuf nobodys;
static uint32_t *scatter;
static bool swaps;
static uint64_t verdict_wanted;         // 0: any
static uint64_t place[PLACES];
static uint64_t ticks_before;            // by what the plugin counted, without those that were seen
static bool has_ticks_before;

static struct {
	uint64_t steps;         // looked at after
	uint64_t places;        // different instructions
	uint64_t packets;
	uint64_t bursts;
	uint64_t in_part;       // looks that found a burst with some verdicts and not all
	uint64_t changed;       // a packet changed, in part or whole, and without its verdict
	uint64_t undone;
	uint64_t published;     // the repair handed verdicts back
	uint64_t blanks;        // filled
	uint64_t in_blank;      // looks that found one filled, in part or whole, and its packet without verdict
	uint64_t ticks;
	uint64_t in_tick;       // looks that found its count half changed
} seen;

// Two processes that take turns, on one CPU and ahead of others there: forty times as fast on a busy
// machine.
static void
go_first(bool first)
{
	const struct sched_param param = { .sched_priority = first ? 1 : 0 };
	cpu_set_t set;

	sched_setscheduler(pid, first ? SCHED_FIFO : SCHED_OTHER, &param);
	if (first && sched_getaffinity(pid, sizeof(set), &set) == 0) {
		sched_setaffinity(0, sizeof(set), &set);
		sched_setscheduler(0, SCHED_FIFO, &param);
	}
}

static void
let_go(void)
{
	go_first(false);
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format, ...)
{
	struct user_regs_struct r = { 0 };
	va_list args;

	ptrace(PTRACE_GETREGS, pid, NULL, &r);
	fprintf(stderr, "step %" PRIu64 " at %#llx: ", seen.steps, r.rip);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	let_go();
	exit(1);
}

// --- the instance's memory ------------------------------------------------------------------------

// Several lines tell of them, as it may write in its own alone.
static void
map_sitters(const char *line)
{
	unsigned long from, to, offset;
	char path[256];
	int fd;

	if (sitters != NULL || sscanf(line, "%lx-%lx %*s %lx %*s %*s %255s", &from, &to, &offset, path) != 4)
		return;
	fd = open(path, O_RDONLY);
	// What the repair writes there stays here.
	sitters = mmap(NULL, DPS_MAX_SITTERS * sizeof(*sitters), PROT_READ | PROT_WRITE, MAP_PRIVATE,
		       fd, 0);
	if (sitters == MAP_FAILED)
		fail("%s cannot be mapped: %s", path, strerror(errno));
	close(fd);
	sitters_at = from - offset;
}

// Its hugepages, at the same addresses and only to be read.
static void
map_all(void)
{
	char path[128], line[512];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "r");
	if (maps == NULL)
		fail("no process %d", pid);
	while (fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to, offset;
		int fd;

		if (strstr(line, DPS_SITTERS) != NULL)
			map_sitters(line);
		if (strstr(line, "/dpsup-") == NULL || strstr(line, "huge") == NULL ||
		    sscanf(line, "%lx-%lx %*s %lx", &from, &to, &offset) != 3)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, from, to);
		fd = open(path, O_RDONLY);
		if (fd < 0 || mmap((void *)from, to - from, PROT_READ,
				   MAP_SHARED | MAP_FIXED_NOREPLACE, fd, offset) != (void *)from)
			fail("%s cannot be mapped: %s", path, strerror(errno));
		close(fd);
		for (unsigned long at = from; ctl == NULL && at + sizeof(*ctl) <= to; at += 64) {
			const struct dps_ctl *c = (void *)at;

			if (c->magic == DPS_MAGIC && c->abi_version == DPS_ABI_VERSION &&
			    c->abi_size == sizeof(*c))
				ctl = c;
		}
	}
	fclose(maps);
	if (ctl == NULL)
		fail("no control block in the memory of process %d", pid);
	for (uint32_t i = 0; i < ctl->n_slots; i++) {
		struct dps_slot *s = (void *)(ctl->base + ctl->slot[i]);

		if ((pid_t)s->seat == pid)
			theirs = s;
	}
	if (theirs == NULL)
		fail("process %d sits in no slot", pid);
}

static int
print_where(void)
{
	const struct dps_group_conf *mine = &ctl->group[theirs->group];

	printf("{\"ctl\": %" PRIu64 ", \"base\": %" PRIu64 ", \"slot\": %" PRIu64
	       ", \"ring\": %u, \"size\": %zu, \"sitters\": %lu, \"sitter\": %" PRIu64 ", \"lane\": [",
	       (uint64_t)ctl, ctl->base, (uint64_t)theirs, theirs->ring, sizeof(*theirs),
	       sitters_at, (uint64_t)({
		       unsigned long me = 0;

		       for (uint32_t i = 0; i < DPS_MAX_SITTERS; i++)
			       if ((pid_t)sitters[i].berth == pid)
				       me = sitters_at + i * sizeof(*sitters);
		       me;
	       }));
	for (uint32_t i = 0; i < theirs->n_lanes; i++)
		printf("%s%" PRIu64, i ? ", " : "", (uint64_t)theirs + theirs->lanes[i]);
	// What it may write beside its sitter: place and length.
	printf("], \"writes\": {\"slot\": [%" PRIu64 ", %u], \"buckets\": [%" PRIu64 ", %" PRIu64 "]",
	       (uint64_t)theirs, mine->slot_bytes, ctl->base + mine->buckets,
	       (uint64_t)DPS_BUCKETS * mine->bucket_stride);
	for (uint32_t i = 0; i < ctl->n_pools; i++)
		printf(", \"bytes %u\": [%" PRIu64 ", %" PRIu64 "]", i, ctl->base + ctl->bytes[i].at,
		       ctl->bytes[i].len);
	printf("}}\n");
	return 0;
}

// --- a primary of one slot, on copies -------------------------------------------------------------

// recover.c asks for these; nobody else is here.
void
slot_lock(uint32_t slot)
{
	(void)slot;
}

void
slot_unlock(uint32_t slot)
{
	(void)slot;
}

bool
seat_revoke(uint32_t slot)
{
	(void)slot;
	return true;
}

static uint8_t *
room_of(uint32_t lane, uint32_t at)
{
	return room + ((size_t)lane * theirs->ring + at) * (RTE_PKTMBUF_HEADROOM + BYTES_MOST);
}

static void
set_up(void)
{
	uint32_t n = theirs->n_lanes, ring = theirs->ring;
	size_t len = theirs->lanes[n - 1] + sizeof(struct dps_lane) + ring * sizeof(uint64_t);

	if (theirs->state != 0)
		len = theirs->state + DPS_STATE_AT + 64;
	copy = aligned_alloc(64, RTE_ALIGN(len, (size_t)64));
	room = calloc((size_t)n * ring, RTE_PKTMBUF_HEADROOM + BYTES_MOST);
	mbufs = calloc((size_t)n * ring, sizeof(*mbufs));
	scatter = calloc(ring / DPS_LINE_WORDS, sizeof(*scatter));
	dps_scatter_init(scatter, ring);
	the_primary.n_io = n;
	the_primary.n_slots = theirs->index + 1;
	the_primary.slot[theirs->index] = copy;
	memcpy(copy, theirs, sizeof(*copy));
	// What the worker touched is put back in the copy.
	the_primary.ctl = (void *)ctl;
	the_primary.sitter = (void *)(uintptr_t)sitters;
	the_primary.own = calloc(1, sizeof(*ctl));
	memcpy(the_primary.own->group, ctl->group, sizeof(ctl->group));
	the_primary.own->base = ctl->base + ((uintptr_t)copy - (uintptr_t)theirs);
	if (theirs->state != 0)
		the_primary.state[theirs->index] = (uintptr_t)theirs + theirs->state - ctl->base;
	for (uint32_t i = 0; i < n; i++) {
		struct lane *lane;

		the_primary.io[i] = calloc(1, sizeof(struct io));
		lane = &the_primary.io[i]->lane[theirs->index];
		lane->shared = (void *)((char *)copy + theirs->lanes[i]);
		lane->word = dps_lane_words(lane->shared);
		lane->meta = (void *)((char *)copy + theirs->meta[i]);
		lane->group = theirs->group;
		lane->scatter = scatter;
		lane->shadow = calloc(ring, sizeof(void *));
		lane->tick = calloc(ring, sizeof(*lane->tick));
		lane->size = ring;
		lane->mask = ring - 1;
		lane->base = ctl->base;
		lane->slot = theirs->index;
		for (uint32_t k = 0; k < ring; k++) {
			struct rte_mbuf *m = &mbufs[i * ring + k];

			m->buf_addr = room_of(i, k);
			m->data_off = RTE_PKTMBUF_HEADROOM;
		}
		track[i].theirs = (void *)((char *)theirs + theirs->lanes[i]);
		track[i].lent = calloc(ring, sizeof(struct lent));
	}
}

static const uint8_t *
bytes_of(uint64_t word)
{
	return (const uint8_t *)(ctl->base + DPS_FIELD(word, DPS_W_OFFSET, DPS_OFFSET_BITS));
}

static struct lent *
lent_at(struct track *t, uint32_t index)
{
	return &t->lent[index & (theirs->ring - 1)];
}

// Note what was lent since the last look.
static void
note_lent(struct track *t)
{
	uint32_t sent = dps_load32(&t->theirs->sent);

	if (!t->started) {
		t->trusted = t->seen = t->counted = sent;
		t->started = true;
	}
	for (; t->seen != sent; t->seen++) {
		struct lent *l = lent_at(t, t->seen);
		uint32_t at = dps_word_at(scatter, theirs->ring - 1, t->seen);

		l->word = dps_lane_words(t->theirs)[at];
		l->verdict = 0;
		l->filled = 0;
		l->len = dps_word_tick(l->word) != 0 ? 0 :
			 DPS_FIELD(l->word, DPS_W_LEN, DPS_W_PORT - DPS_W_LEN);
		if (dps_word_is_done(l->word) ||
		    (l->word & DPS_BIT(DPS_W_META) && dps_word_tick(l->word) == 0) || l->len > BYTES_MOST)
			fail("index %u was lent as %#" PRIx64, t->seen, l->word);
		memcpy(l->bytes, bytes_of(l->word), l->len);
	}
}

// The lane as a death here leaves it.
static void
copy_lane(uint32_t i, uint32_t sent)
{
	struct lane *lane = &the_primary.io[i]->lane[theirs->index];
	uint32_t done;

	memcpy(lane->shared, track[i].theirs,
	       sizeof(struct dps_lane) + theirs->ring * sizeof(uint64_t));
	lane->shared->sent = sent;      // what was published since is not noted yet
	done = lane->shared->done;
	lane->sent = lane->published = sent;
	lane->collected = lane->ready = done - seen.steps % LAG;
	lane->requeue = 0;
	lane->corrupt = false;
	lane->blank_word = (uint64_t *)((char *)theirs + theirs->blanks[i]);
	lane->blanks_taken = lane->shared->taken;
	lane->blanks_sent = track[i].theirs->blanks;
	for (uint32_t k = 0; k < theirs->ring; k++)
		lane->shadow[k] = &nobodys;
	for (uint32_t k = done; k != sent && k - done < LOOKED_AT; k++) {
		struct rte_mbuf *m = &mbufs[i * theirs->ring + (k & lane->mask)];
		const struct lent *l = lent_at(&track[i], k);

		m->data_len = l->len;
		lane->tick[k & lane->mask] = dps_word_tick(l->word);
		memcpy(rte_pktmbuf_mtod(m, uint8_t *), bytes_of(l->word), l->len);
		lane->shadow[k & lane->mask] = m;
	}
}

// --- what must hold -------------------------------------------------------------------------------

static const uint8_t *
bytes_now(const struct lane *lane, uint32_t index)
{
	return rte_pktmbuf_mtod(lane->shadow[index & lane->mask], const uint8_t *);
}

static bool
is_intact(const struct lane *lane, uint32_t index, const struct lent *l)
{
	return memcmp(bytes_now(lane, index), l->bytes, l->len) == 0;
}

static bool
is_changed(const struct lane *lane, uint32_t index, const struct lent *l)
{
	const uint8_t *now = bytes_now(lane, index);

	if (!swaps || l->len < 12)
		return is_intact(lane, index, l);
	return memcmp(now, l->bytes + 6, 6) == 0 && memcmp(now + 6, l->bytes, 6) == 0 &&
	       memcmp(now + 12, l->bytes + 12, l->len - 12) == 0;
}

// Before the repair: verdicts first, then descriptors, and since the last look at most one more.
static uint32_t
look(uint32_t i, const struct lane *lane)
{
	struct track *t = &track[i];
	uint32_t done = lane->shared->done, sent = lane->sent, n = 0;
	bool open = false;

	for (uint32_t k = done; k != sent; k++) {
		struct lent *l = lent_at(t, k);
		uint64_t word = lane_get(lane, k);

		if (!dps_word_is_done(word)) {
			if (word != l->word)
				fail("lane %u: descriptor %u is %#" PRIx64 ", was %#" PRIx64, i, k,
				     word, l->word);
			open = true;
			continue;
		}
		n++;
		if (open)
			fail("lane %u: index %u has its verdict before one that is older", i, k);
		if (l->verdict == 0)
			l->verdict = word;
		if (l->verdict != word || (verdict_wanted != 0 && word != verdict_wanted))
			fail("lane %u: index %u has the verdict %#" PRIx64 ", then %#" PRIx64, i,
			     k, l->verdict, word);
	}
	if (!t->followed) {
		t->followed = true;
	} else if (done != t->done) {
		if (done - t->done != t->verdicts)
			fail("lane %u: done moved by %u, with %u verdicts", i, done - t->done,
			     t->verdicts);
		seen.bursts++;
		seen.packets += t->verdicts;
	} else if (n > t->verdicts + 1 || n < t->verdicts) {
		fail("lane %u: %u verdicts, then %u", i, t->verdicts, n);
	}
	t->done = done;
	t->verdicts = n;
	return n;
}

static void
check_repaired(uint32_t i, const struct lane *lane, uint32_t first, uint32_t verdicts)
{
	uint32_t done = lane->shared->done;

	if (done != first + verdicts)
		fail("lane %u: done is %u after the repair, not %u", i, done, first + verdicts);
	for (uint32_t k = first; k != lane->sent && k - first < LOOKED_AT; k++) {
		const struct lent *l = lent_at(&track[i], k);
		bool is_done = k - first < verdicts;

		if (lane_get(lane, k) != (is_done ? l->verdict : l->word))
			fail("lane %u: the repair changed the word of index %u", i, k);
		if (!(is_done ? is_changed : is_intact)(lane, k, l))
			fail("lane %u: the bytes of index %u, which %s its verdict, are neither "
			     "whole nor as they came", i, k, is_done ? "has" : "has not");
	}
}

// What packets with a verdict filled stays as it was at the verdict, and the repair counts it; what the
// packet in hand filled is blank again.
static void
check_blanks(uint32_t i, const struct lane *lane, uint32_t first, uint32_t verdicts)
{
	const uint64_t *blank = (const uint64_t *)((char *)theirs + theirs->blanks[i]);
	const uint64_t *words = blank + DPS_BLANKS;
	uint32_t taken = track[i].theirs->taken;
	uint64_t next;

	for (uint32_t k = first; k != first + verdicts; k++) {
		struct lent *l = lent_at(&track[i], k);
		uint32_t n = DPS_FIELD(l->verdict, DPS_W_EMITS, 4);
		uint64_t sum = 1;

		for (; n > 0; n--, taken++) {
			uint64_t word = words[taken % DPS_BLANKS];
			const uint8_t *bytes = bytes_of(blank[taken % DPS_BLANKS]);
			uint32_t len = DPS_FIELD(word, DPS_W_NEWLEN, 16);

			if (word != dps_word_blank(word, len, taken))
				fail("lane %u: index %u filled blank %u, whose word is %#" PRIx64, i, k,
				     taken, word);
			sum = sum * 31 + word;
			while (len > 0)
				sum = sum * 31 + bytes[--len];
			seen.blanks += l->filled == 0;
		}
		if (l->filled != 0 && l->filled != sum)
			fail("lane %u: what index %u filled changed after its verdict", i, k);
		l->filled = sum;
	}
	if (lane->shared->taken != taken)
		fail("lane %u: %u blanks are filled, the repair says %u", i, taken,
		     lane->shared->taken);
	next = words[taken % DPS_BLANKS];
	seen.in_blank += dps_word_is_done(next) && next == dps_word_blank(next, next >> DPS_W_NEWLEN, taken);
}

// The plugin counts each tick twice, in state: both counts are those of the ticks with a verdict.
static void
check_ticks(void)
{
	const uint64_t *count = (const uint64_t *)((char *)copy + theirs->state + DPS_STATE_AT);

	for (uint32_t i = 0; i < theirs->n_lanes; i++) {
		struct track *t = &track[i];

		for (; t->counted != t->done + t->verdicts; t->counted++)
			seen.ticks += (lent_at(t, t->counted)->verdict & 0xffff) == DPS_V_TICK;
	}
	if (!has_ticks_before)
		ticks_before = count[0] - seen.ticks;
	has_ticks_before = true;
	if (count[0] != ticks_before + seen.ticks || count[1] != count[0])
		fail("%" PRIu64 " ticks have a verdict, the state says %" PRIu64 " and %" PRIu64,
		     ticks_before + seen.ticks, count[0], count[1]);
}

static void
check_requeued(uint32_t i, const struct lane *lane, uint32_t from)
{
	if (lane->shared->done != lane->sent)
		fail("lane %u: something is left after the requeue", i);
	for (uint32_t k = lane->collected; k != lane->sent; k++) {
		bool is_left = k - lane->collected >= from - lane->collected;

		if (is_left && lane_get(lane, k) != dps_word_verdict(DPS_V_REQUEUE))
			fail("lane %u: index %u was left and not handed back", i, k);
		if (is_left && !lane_may_requeue(lane, k))
			fail("lane %u: the io core would refuse index %u", i, k);
		if (is_left && k - from < LOOKED_AT - DPS_BURST &&
		    !is_intact(lane, k, lent_at(&track[i], k)))
			fail("lane %u: index %u is handed back changed", i, k);
	}
	if (lane_may_requeue(lane, lane->sent))
		fail("lane %u: more may come back than was lent", i);
}

static void
check(void)
{
	uint32_t n = theirs->n_lanes, slot = theirs->index;
	struct dps_story story = { 0 }, again = { 0 };
	uint32_t first[DPS_MAX_IO], verdicts[DPS_MAX_IO], from[DPS_MAX_IO];
	uint32_t all = 0, left = 0, total = 0;

	for (uint32_t i = 0; i < n; i++)
		if ((int32_t)(track[i].theirs->done - track[i].trusted) < 0)
			return;
	memcpy(copy, theirs, sizeof(*copy));
	if (theirs->state != 0) {
		uint64_t *count = (uint64_t *)((char *)copy + theirs->state + DPS_STATE_AT);

		memcpy((char *)copy + theirs->state, (char *)theirs + theirs->state, DPS_STATE_AT + 64);
		seen.in_tick += count[0] != count[1];
	}
	for (uint32_t i = 0; i < n; i++) {
		struct lane *lane = &the_primary.io[i]->lane[slot];

		copy_lane(i, track[i].seen);
		first[i] = lane->shared->done;
		verdicts[i] = look(i, lane);
		from[i] = first[i] + verdicts[i];
		all += verdicts[i];
		total += lane->sent - from[i];
		if (from[i] != lane->sent && !is_intact(lane, from[i], lent_at(&track[i], from[i])))
			seen.changed++;
	}
	seen.steps++;
	slot_repair(slot, 0, &story);
	if (story.corrupt || story.published != all || story.left != total)
		fail("corrupt %u, published %u of %u, left %u of %u", story.corrupt,
		     story.published, all, story.left, total);
	slot_repair(slot, 0, &again);
	if (again.corrupt || again.published || again.undone || again.left != total)
		fail("a second repair: corrupt %u, published %u, undone %u, left %u of %u",
		     again.corrupt, again.published, again.undone, again.left, total);
	for (uint32_t i = 0; i < n; i++) {
		check_repaired(i, &the_primary.io[i]->lane[slot], first[i], verdicts[i]);
		check_blanks(i, &the_primary.io[i]->lane[slot], first[i], verdicts[i]);
	}
	if (theirs->state != 0)
		check_ticks();
	left = dps_slot_requeue(slot);
	if (left != total)
		fail("%d of %u handed back", (int)left, total);
	for (uint32_t i = 0; i < n; i++)
		check_requeued(i, &the_primary.io[i]->lane[slot], from[i]);
	seen.in_part += all > 0;
	seen.undone += story.undone;
	seen.published += story.published > 0;
}

// --- steps ----------------------------------------------------------------------------------------

static void
note_place(uint64_t at)
{
	uint32_t i = (at * 0x9e3779b97f4a7c15) >> 48;

	while (place[i] != 0 && place[i] != at)
		i = (i + 1) % PLACES;
	seen.places += place[i] == 0 && seen.places < PLACES / 2;
	if (seen.places < PLACES / 2)
		place[i] = at;
}

static int
wait_stopped(void)
{
	int status;

	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) {
		fprintf(stderr, "process %d ended meanwhile\n", pid);
		exit(3);
	}
	return status >> 16 != 0 || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
}

static void
step_all(uint64_t steps)
{
	uint64_t most = 50 * steps + 1000000;
	int number;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0 ||
	    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) != 0)
		fail("process %d cannot be traced: %s", pid, strerror(errno));
	number = wait_stopped();
	go_first(true);
	while (seen.steps < steps && most-- > 0) {
		struct user_regs_struct r;

		for (uint32_t i = 0; i < theirs->n_lanes; i++)
			note_lent(&track[i]);
		check();
		if (ptrace(PTRACE_GETREGS, pid, NULL, &r) == 0 && seen.steps > 0)
			note_place(r.rip);
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, number) != 0)
			fail("no step: %s", strerror(errno));
		number = wait_stopped();
	}
	let_go();
}

int
main(int argc, char **argv)
{
	if (argc != 3 && argc != 5) {
		fprintf(stderr, "usage: step PID where | step PID STEPS SWAP VERDICT\n");
		return 2;
	}
	pid = atoi(argv[1]);
	map_all();
	if (argc == 3)
		return print_where();
	swaps = atoi(argv[3]);
	verdict_wanted = strcmp(argv[4], "any") == 0 ? 0 :
						       dps_word_verdict(strtoul(argv[4], NULL, 0));
	set_up();
	step_all(strtoull(argv[2], NULL, 10));
	printf("{\"steps\": %" PRIu64 ", \"places\": %" PRIu64 ", \"packets\": %" PRIu64
	       ", \"bursts\": %" PRIu64 ", \"in_part\": %" PRIu64 ", \"changed\": %" PRIu64
	       ", \"undone\": %" PRIu64 ", \"published\": %" PRIu64 ", \"blanks\": %" PRIu64
	       ", \"in_blank\": %" PRIu64 ", \"ticks\": %" PRIu64 ", \"in_tick\": %" PRIu64 "}\n",
	       seen.steps, seen.places, seen.packets, seen.bursts, seen.in_part, seen.changed,
	       seen.undone, seen.published, seen.blanks, seen.in_blank, seen.ticks, seen.in_tick);
	return 0;
}
