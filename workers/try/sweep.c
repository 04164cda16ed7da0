// SPDX-License-Identifier: BSD-3-Clause
//
// The kill sweep. A worker handles the packets one by one, an instruction at a time. Whenever what it
// shares has changed, that is what its death there would leave: the real repair works on it, a new worker
// runs the packet to its end, and the outcome is compared; then all is put back, and the first worker makes
// its next step. So each store is a kill, with a process that really starts anew.
//
// What must be the same: the verdict, what is originated, the packet's bytes where they still count, the
// state and the counters. Bytes of a packet that is dropped, and of blanks that stay blank, do not count.

#define _GNU_SOURCE
#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "own.h"
#include "try.h"

enum {
	STATE_WHOLE = 64 << 10,         // bytes of state that are compared at each step; of more, pages
	PAGE = 4096,
	REGIONS = 20000,
	FINDINGS = 64,
	STEPS_MOST = 20000000           // of one packet
};

enum section { VERDICT, EMITTED, BYTES, COUNTERS, STATE, BUCKET, SECTIONS };
static const char twice[] = "twice", restart[] = "restart";
static const char *const section_names[] = { "verdict", "emitted", "bytes", "counters", "state", "bucket" };

// Shared memory that a packet may change. `last`: as it was at the last step.
struct region {
	uint8_t *at;
	size_t last;                    // in `lasts`
	size_t len;
};

static struct region region[REGIONS];
static uint32_t n_regions;
static uint8_t *lasts;
static size_t lasts_used, lasts_len;

struct outcome {
	uint8_t *bytes;
	size_t len, room;
	size_t at[SECTIONS + 1];
};

// Started anew before it; killed in it; not killed.
static struct outcome clean, killed, mine;
// Of kills in it, those that are unlike `clean`: they are right if they are like `mine`.
static struct later {
	uint64_t pc;
	struct outcome outcome;
} *later;
static uint32_t n_later, later_room;
static uint8_t *state_was;                      // large state, before the packet
static uint64_t points;

static struct finding {
	const char *kind;
	enum section section;
	bool is_tick;
	uint64_t pc;
	uint32_t number, latest, packets;
	int32_t first, last;
} findings[FINDINGS];

// --- what is shared -------------------------------------------------------------------------------

static void
add_region(void *at, size_t len)
{
	if (n_regions == REGIONS)
		fail("a packet changes more than %u pages of state", REGIONS);
	if (lasts_used + len > lasts_len) {
		lasts_len = 2 * (lasts_used + len) + 65536;
		lasts = realloc(lasts, lasts_len);
		if (lasts == NULL)
			fail("no memory");
	}
	region[n_regions] = (struct region){ .at = at, .last = lasts_used, .len = len };
	memcpy(lasts + lasts_used, at, len);
	lasts_used += len;
	n_regions++;
}

static size_t
state_len(void)
{
	return the_try.board->state_size == 0 ? 0 : DPS_STATE_AT + (size_t)the_try.board->state_size;
}

static void *
bucket_at(const struct rte_mbuf *m)
{
	return the_try.buckets + (uint64_t)(m->hash.rss % DPS_BUCKETS) *
					 the_try.ctl->group[0].bucket_stride;
}

static void
find_regions(const struct rte_mbuf *m)
{
	struct dps_slot *s = the_try.slot;
	struct lane *lane = the_try.lane;

	n_regions = 0;
	lasts_used = 0;
	add_region(&lane->shared->done, 2 * sizeof(uint32_t));
	add_region(&lane->word[dps_word_at(lane->scatter, lane->mask, lane->collected)], sizeof(uint64_t));
	if (the_try.board->emits > 0)
		add_region(lane->blank_word + DPS_BLANKS, DPS_BLANKS * sizeof(uint64_t));
	add_region(s->brief, offsetof(struct dps_slot, beats) - offsetof(struct dps_slot, brief));
	add_region(the_try.buffer, (size_t)the_try.n_buffers * TRY_BUFFER);
	add_region(the_try.sitter->counter, sizeof(the_try.sitter->counter));
	if (the_try.board->bucket_state_size > 0)
		add_region(bucket_at(m),
			   sizeof(struct dps_state_head) + the_try.board->bucket_state_size);
	if (state_len() > 0 && state_len() <= STATE_WHOLE)
		add_region(the_try.state, state_len());
}

// Of large state: the pages that a run of the packet has changed.
static void
find_pages(void)
{
	uint8_t *now = (uint8_t *)the_try.state;

	for (size_t at = 0; at < state_len(); at += PAGE) {
		size_t len = RTE_MIN((size_t)PAGE, state_len() - at);

		if (memcmp(now + at, state_was + at, len) == 0)
			continue;
		memcpy(now + at, state_was + at, len);
		add_region(now + at, len);
	}
}

// True: something is another than at the last look.
static bool
look(void)
{
	bool any = false;

	for (uint32_t i = 0; i < n_regions; i++)
		if (memcmp(region[i].at, lasts + region[i].last, region[i].len) != 0) {
			memcpy(lasts + region[i].last, region[i].at, region[i].len);
			any = true;
		}
	return any;
}

static void
put_back(void)
{
	for (uint32_t i = 0; i < n_regions; i++)
		memcpy(region[i].at, lasts + region[i].last, region[i].len);
}

// --- outcomes -------------------------------------------------------------------------------------

static void
add(struct outcome *o, const void *bytes, size_t len)
{
	if (o->len + len > o->room) {
		o->room = 2 * (o->len + len) + 4096;
		o->bytes = realloc(o->bytes, o->room);
		if (o->bytes == NULL)
			fail("no memory");
	}
	memcpy(o->bytes + o->len, bytes, len);
	o->len += len;
}

static void
note(struct outcome *o, struct rte_mbuf *m)
{
	const struct lane *lane = the_try.lane;
	uint64_t word = lane_get(lane, lane->collected);
	uint32_t filled = DPS_FIELD(word, DPS_W_EMITS, 4), next = lane->blanks_taken;
	struct fate f = fate_of(m, word & ~DPS_W_EXTRA, false);
	uint64_t counter[DPS_COUNTERS];

	o->len = 0;
	o->at[VERDICT] = 0;
	add(o, &word, sizeof(word));
	o->at[EMITTED] = o->len;
	for (; filled > 0 && next != lane->blanks_sent; filled--, next++) {
		uint64_t blank = lane_blank_word(lane, next);
		const struct rte_mbuf *b = lane->blank[next % DPS_BLANKS];
		size_t len = DPS_FIELD(blank, DPS_W_NEWLEN, 16);

		add(o, &blank, sizeof(blank));
		add(o, rte_pktmbuf_mtod(b, const uint8_t *), RTE_MIN(len, (size_t)TRY_ROOM));
	}
	o->at[BYTES] = o->len;
	if (f.kind != FATE_REFUSED && (f.kind != FATE_DROP || f.copy >= 0))
		for (const struct rte_mbuf *s = m; s != NULL; s = s->next)
			add(o, rte_pktmbuf_mtod(s, const uint8_t *) + (s == m ? f.shift : 0),
			    s == m ? f.len : s->data_len);
	o->at[COUNTERS] = o->len;
	for (uint32_t i = 0; i < DPS_COUNTERS; i++)
		counter[i] = the_try.sitter->facts.gauges >> i & 1 ? 0 : the_try.sitter->counter[i];
	add(o, counter, sizeof(counter));
	o->at[STATE] = o->len;
	if (state_len() > 0 && state_len() <= STATE_WHOLE)
		add(o, (uint8_t *)the_try.state + DPS_STATE_AT, the_try.board->state_size);
	else
		for (uint32_t i = 0; i < n_regions; i++)
			if (region[i].at >= (uint8_t *)the_try.state && region[i].at < the_try.buckets)
				add(o, region[i].at, region[i].len);
	o->at[BUCKET] = o->len;
	if (the_try.board->bucket_state_size > 0)
		add(o, (uint8_t *)bucket_at(m) + sizeof(struct dps_state_head),
		    the_try.board->bucket_state_size);
	o->at[SECTIONS] = o->len;
}

// Of a packet, the first store after which something is wrong is to blame for what later ones show too.
static void
add_finding(const char *kind, enum section section, uint64_t pc, uint32_t number, int32_t first, int32_t last)
{
	struct finding *found = NULL;

	for (uint32_t i = 0; i < FINDINGS && findings[i].kind != NULL; i++) {
		struct finding *f = &findings[i];

		if (f->kind != kind || f->section != section || f->is_tick != the_try.ticking)
			continue;
		if (f->latest == number && f->packets > 0) {
			found = f;
			break;
		}
		if (f->pc == pc)
			found = f;
	}
	for (uint32_t i = 0; i < FINDINGS && found == NULL; i++)
		if (findings[i].kind == NULL)
			found = &findings[i];
	if (found == NULL)
		return;
	if (found->kind == NULL)
		*found = (struct finding){ kind, section, the_try.ticking, pc, number, 0, 0, first, last };
	if (found->packets == 0 || found->latest != number)
		found->packets++;
	found->latest = number;
	if (found->number == number) {
		found->first = RTE_MIN(found->first, first);
		found->last = RTE_MAX(found->last, last);
	}
}

// Of a byte in the outcome's state: where it is in the plugin's.
static int32_t
state_byte(size_t at)
{
	for (uint32_t i = 0; i < n_regions && state_len() > STATE_WHOLE; i++) {
		if (region[i].at < (uint8_t *)the_try.state || region[i].at >= the_try.buckets)
			continue;
		if (at < region[i].len)
			return (int32_t)(region[i].at + at - (uint8_t *)the_try.state) - DPS_STATE_AT;
		at -= region[i].len;
	}
	return (int32_t)at;
}

static bool
is_same(const struct outcome *a, const struct outcome *b)
{
	return a->len == b->len && memcmp(a->at, b->at, sizeof(a->at)) == 0 &&
	       memcmp(a->bytes, b->bytes, a->len) == 0;
}

static void
keep(uint64_t pc)
{
	struct later *l;

	if (n_later == later_room) {
		later_room = 2 * later_room + 16;
		later = realloc(later, later_room * sizeof(*later));
		if (later == NULL)
			fail("no memory");
		memset(later + n_later, 0, (later_room - n_later) * sizeof(*later));
	}
	l = &later[n_later++];
	l->pc = pc;
	l->outcome.len = 0;
	add(&l->outcome, killed.bytes, killed.len);
	memcpy(l->outcome.at, killed.at, sizeof(killed.at));
}

static void
compare(const char *kind, const struct outcome *a, const struct outcome *b, uint64_t pc, uint32_t number,
	bool with_state)
{
	for (uint32_t i = 0; i < SECTIONS; i++) {
		size_t len = a->at[i + 1] - a->at[i], first = 0, last;
		const uint8_t *x = a->bytes + a->at[i], *y = b->bytes + b->at[i];

		if (!with_state && i >= COUNTERS)
			break;
		if (len != b->at[i + 1] - b->at[i]) {
			add_finding(kind, i, pc, number, 0, (int32_t)len);
			return;
		}
		if (len == 0 || memcmp(x, y, len) == 0)
			continue;
		while (x[first] == y[first])
			first++;
		for (last = len - 1; x[last] == y[last];)
			last--;
		// A plugin that touches nothing says so: its counters may count a packet twice.
		add_finding(i == COUNTERS && kind == twice && !the_try.board->touches ? "counters" : kind,
			    i, pc, number, i == STATE ? state_byte(first) : (int32_t)first,
			    i == STATE ? state_byte(last) : (int32_t)last);
		// What follows from another verdict is no further finding.
		if (i == VERDICT)
			break;
	}
}

// --- one packet -----------------------------------------------------------------------------------

static void
say_lost(uint32_t number, int status, bool hung, const char *phase)
{
	say_death(number, status, hung, phase);
	fprintf(the_try.report, "{\"t\": \"stopped\", \"packet\": %u}\n", number + 1);
}

// A new worker runs what is left of the packet. False: it died of it.
static bool
run_anew(uint32_t number)
{
	struct lane *lane = the_try.lane;
	pid_t stepped = the_try.worker;
	bool hung;
	int status;

	if (lane->shared->done == lane->sent)
		return true;
	child_worker(true);
	status = child_wait(the_try.worker);
	hung = status == -1;
	if (hung) {
		kill(the_try.worker, SIGABRT);
		status = child_wait(the_try.worker);
	}
	if (status == -1) {
		child_end(the_try.worker);
		status = SIGKILL;
	}
	the_try.worker = stepped;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && lane->shared->done == lane->sent)
		return true;
	say_lost(number, status, hung, "recovery");
	return false;
}

static uint64_t
counter_of(pid_t pid)
{
#if defined(__x86_64__)
	struct user_regs_struct r;

	return ptrace(PTRACE_GETREGS, pid, NULL, &r) == 0 ? r.rip : 0;
#else
	uint64_t r[34] = { 0 };
	struct iovec iov = { r, sizeof(r) };

	return ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &iov) == 0 ? r[32] : 0;
#endif
}

// As if the worker had died now, of a SIGKILL.
static bool
die_here(uint32_t number, struct rte_mbuf *m)
{
	struct dps_story story = { .pid = the_try.worker };
	uint64_t pc = counter_of(the_try.worker);
	bool ran;

	points++;
	slot_repair(0, 0, &story);
	if (story.corrupt) {
		fprintf(the_try.report, "{\"t\": \"finding\", \"kind\": \"corrupt\", \"packet\": %u}\n",
			number + 1);
		return false;
	}
	ran = run_anew(number);
	if (ran) {
		note(&killed, m);
		if (!is_same(&clean, &killed))
			keep(pc);
	}
	put_back();
	return ran;
}

// Wait for it to stop by itself, as it has nothing to do.
static int
settle(bool *hung)
{
	int status = child_wait(the_try.worker);

	*hung = status == -1;
	return status;
}

static bool
step_through(uint32_t number, struct rte_mbuf *m)
{
	pid_t pid = the_try.worker;
	int signo = 0, status;

	for (uint32_t steps = 0; steps < STEPS_MOST; steps++) {
		bool is_done = the_try.lane->shared->done == the_try.lane->sent;

		if (ptrace(is_done ? PTRACE_CONT : PTRACE_SINGLESTEP, pid, NULL,
			   (void *)(intptr_t)signo) != 0)
			fail("the worker cannot be stepped");
		if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) {
			say_lost(number, status, false, the_try.ticking ? "tick" : "packet");
			the_try.worker = 0;
			return false;
		}
		signo = WSTOPSIG(status);
		if (signo == SIGSTOP && the_try.lane->shared->done == the_try.lane->sent)
			return true;
		if (signo == SIGTRAP || signo == SIGSTOP || status >> 16 != 0)
			signo = 0;
		if (look() && !die_here(number, m))
			return false;
	}
	say_lost(number, 0, true, the_try.ticking ? "tick" : "packet");
	return false;
}

// Of what is lent: one packet, or one tick.
static bool
sweep_lent(uint32_t number, struct rte_mbuf *m)
{
	world_publish();
	find_regions(m);
	if (!run_anew(number))
		return false;
	if (state_len() > STATE_WHOLE) {
		find_pages();
		put_back();
		if (!run_anew(number))
			return false;
	}
	note(&clean, m);
	put_back();
	if (!step_through(number, m))
		return false;
	note(&mine, m);
	for (uint32_t i = 0; i < n_later; i++)
		if (!is_same(&later[i].outcome, &mine))
			compare(twice, &clean, &later[i].outcome, later[i].pc, number, true);
	n_later = 0;
	compare(restart, &clean, &mine, 0, number, !the_try.board->has_seated);
	for (uint32_t i = 0; i < n_regions && state_len() > STATE_WHOLE; i++)
		if (region[i].at >= (uint8_t *)the_try.state && region[i].at < the_try.buckets)
			memcpy(state_was + (region[i].at - (uint8_t *)the_try.state), region[i].at,
			       region[i].len);
	fate_collect();
	own_look(number, number + 1 == the_try.n_packets && !the_try.ticking);
	return true;
}

static bool
sweep_ticks(uint32_t number, const uint32_t *ticks, uint32_t n)
{
	bool ok = true;

	the_try.ticking = true;
	for (uint32_t i = 0; i < n && ok; i++) {
		world_at(number);
		ok = sweep_lent(number, world_lend_tick(ticks[i]));
	}
	the_try.ticking = false;
	return ok;
}

static bool
sweep_packet(uint32_t number)
{
	if (!ticks_run(number, sweep_ticks))
		return false;
	world_at(number);
	return sweep_lent(number, world_lend(number));
}

static bool
begin(void)
{
	bool hung;
	int status;

	child_worker(false);
	status = settle(&hung);
	if (hung || !WIFSTOPPED(status)) {
		say_lost(0, status, hung, "seated");
		if (hung)
			child_end(the_try.worker);
		the_try.worker = 0;
		return false;
	}
	// It stands in a stop of its own; go on from there under our control.
	if (ptrace(PTRACE_SEIZE, the_try.worker, NULL, (void *)PTRACE_O_EXITKILL) != 0)
		fail("the worker cannot be traced, as --kill-sweep must: in a container, allow ptrace");
	child_go(the_try.worker);
	return true;
}

void
sweep(void)
{
	uint32_t done = 0;
	int status;

	the_try.burst = 1;
	state_was = calloc(1, state_len() + 1);
	if (state_was == NULL)
		fail("no memory");
	if (the_try.n_packets > 0 && begin()) {
		ptrace(PTRACE_INTERRUPT, the_try.worker, NULL, NULL);
		waitpid(the_try.worker, &status, __WALL);
		memcpy(state_was, the_try.state, state_len());
		own_begin();
		while (done < the_try.n_packets && sweep_packet(done))
			done++;
	}
	for (uint32_t i = 0; i < FINDINGS && findings[i].kind != NULL; i++) {
		const struct finding *f = &findings[i];

		fprintf(the_try.report,
			"{\"t\": \"finding\", \"kind\": \"%s\", \"section\": \"%s\", \"packet\": %u, "
			"\"packets\": %u, \"tick\": %s, \"first\": %d, \"last\": %d, \"program_base\": %lu, "
			"\"plugin_base\": %lu, \"frames\": [",
			f->kind, section_names[f->section], f->number + 1, f->packets,
			f->is_tick ? "true" : "false", f->first, f->last,
			(unsigned long)the_try.sitter->program_base,
			(unsigned long)the_try.sitter->plugin_base);
		if (f->pc != 0)
			fprintf(the_try.report, "\"%#lx\"", (unsigned long)f->pc);
		fputs("]}\n", the_try.report);
	}
	own_report();
	fprintf(the_try.report, "{\"t\": \"swept\", \"packets\": %u, \"points\": %lu}\n", done,
		(unsigned long)points);
}
