// SPDX-License-Identifier: BSD-3-Clause
//
// The io core: burst rx, hash, steering, lanes, collection, burst tx. It waits for no thread:
// a full, dead or slow lane costs only its own buckets. All requests of other threads come through
// one mailbox, which it reads between bursts.
//
// Order within a flow. A bucket belongs to one lane, lanes are FIFO, and a bucket that moves waits
// until the old lane has returned all that it had: bucket_move.c.

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_pause.h>

#include "collect_pvt.h"
#include "kernel_pvt.h"
#include "primary.h"
#include "rx_pvt.h"
#include "steer_pvt.h"
#include "tx_pvt.h"

enum {
	BATCH = 128,            // packets that a lone lane is told of at once, if so many come
	SPIN_US = 2,            // of nothing to do, before others on this CPU are let in
	YIELD_US = 20,          // before the first nap
	OWED_US = 500,          // the same while workers have packets
	NAP_SHORT_NS = 20000,
	SHORT_US = 10000,       // of naps like that
	NAP_LONG_NS = 100000,
	LONG_US = 250000,       // of naps like that
	NAP_DEEP_NS = 1500000,
	NAP_WATCHED_NS = 4000000        // what an order may wait
};

// Do packets wait here, for a lane or for a driver? Then the io core has more to do than to receive.
static bool
is_owing(const struct io *io)
{
	for (uint32_t i = 0; i < the_primary.n_groups; i++)
		if (io->group[i].moving)
			return true;
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (io->tx[i].head != io->tx[i].tail)
			return true;
	return io->n_active > 0;
}

// An io core that sleeps is there for the next tick.
static void
bound_by_tick(const struct io *io, struct timespec *most)
{
	int64_t left = io->tick_due - rte_rdtsc();
	int64_t ns = left > 0 ? (uint64_t)left / (io->window / WINDOW_US) * 1000 : 0;

	if (io->tick_due != UINT64_MAX && ns < most->tv_nsec)
		most->tv_nsec = ns;
}

// With nothing to do: at first poll for the next packet, then use ever less CPU. If no queue can wake
// an io core, the first packet after an idle time may wait for a nap. On a virtual machine a nap of
// any length costs some 25 us of CPU, and lasts 35 us longer than asked (tests of 20 to 1000 us).
static void
idle(struct io *io, uint64_t us)
{
	// Packets are out: a worker on this very CPU may need it to return them.
	uint64_t yield_us = io->n_active > 0 ? OWED_US : YIELD_US;
	struct timespec t = { .tv_nsec = NAP_DEEP_NS };

	if (!io->adaptive || us < SPIN_US) {
		rte_pause();
		return;
	}
	if (us < yield_us) {
		sched_yield();
		return;
	}
	dps_count(&io->stats.sleeps, 1);
	if (io->n_fds > 0 && !io->woken && !is_owing(io)) {
		// With several io cores, nothing wakes it for their packets to its ports.
		if (the_primary.n_io == 1)
			t.tv_nsec = NAP_WATCHED_NS;
		bound_by_tick(io, &t);
		io->woken = sleep_on_queues(io, &t);
		return;
	}
	if (us < LONG_US)
		t.tv_nsec = us < SHORT_US ? NAP_SHORT_NS : NAP_LONG_NS;
	bound_by_tick(io, &t);
	sleep_nap(io, &t);
}

// A lone lane under full load: more packets come at once, and publishing costs two cores less per
// packet the more packets it covers.
static inline bool
is_gathering(const struct io *io, uint32_t received)
{
	return io->unpublished > 0 && io->unpublished < BATCH &&
	       received == io->n_rxq * io->burst;
}

uint32_t
io_turn(struct io *io)
{
	uint32_t work = 0;
	uint32_t asked;

	io->unpublished = 0;
	if (io->rx_on)
		for (uint32_t i = 0; i < io->n_rxq; i++)
			work += rx_queue_poll(io, &io->rxq[i]);
	if (unlikely(io->now >= io->tick_due))
		ticks_lend(io);
	if (io->n_active > 0 && !is_gathering(io, work)) {
		publish_all(io);
		stage(io, DPS_STAGE_COLLECT);
		work += collect_all(io);
		stage(io, DPS_STAGE_REST);
	}
	if (the_primary.n_io > 1)
		work += xfer_pull(io);
	if (unlikely(io->thirsty))
		blanks_lend_all(io);
	if (unlikely(io->n_kernel > 0))
		work += kernel_turn(io);
	for (uint32_t i = 0; i < the_primary.n_groups; i++)
		if (unlikely(io->group[i].moving)) {
			work += release_waiting(io, &io->group[i]);
			publish_all(io);
		}
	for (uint32_t i = 0; i < the_primary.n_ports; i++)
		if (io->tx[i].head != io->tx[i].tail)
			tx_flush(io, i);
	dps_count(&io->stats.loops, 1);
	asked = dps_load32(&io->asked);
	if (unlikely(asked != io->answered)) {
		// Publish what is being gathered too: the asking thread may then hand back all that is
		// out.
		publish_all(io);
		io_answer(io, asked);
	}
	return work;
}

int
io_loop(void *arg)
{
	struct io *io = arg;
	uint64_t cycles_us = rte_get_tsc_hz() / 1000000;
	uint64_t now = rte_rdtsc();
	uint64_t idle_since = now;

	io->window = WINDOW_US * cycles_us;
	io->thread = pthread_self();
	hash_thread(&io->stats, io->fragments);
	__atomic_store_n(&io->tid, (int32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	// Naps of microseconds, not of the default 50 µs more.
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	while (!io->stop) {
		uint64_t start = now;
		uint32_t answered = io->answered;
		uint32_t work;
		bool woken;

		io->now = now;
		work = io_turn(io);
		// Of ticks alone it is not kept from sleep.
		work -= io->ticks;
		io->ticks = 0;
		now = rte_rdtsc();
		if (work > 0) {
			dps_count(&io->stats.busy_loops, 1);
			dps_count(&io->stats.busy_cycles, now - start);
			idle_since = now;
			io->woken = false;
			stage(io, DPS_STAGE_REST);
			io->timed = io->stats.busy_loops % TIMED_TURNS == 0;
			io->stage = DPS_STAGE_REST;
			io->stage_since = now;
		} else {
			io->timed = false;
			woken = io->woken;
			idle(io, (now - idle_since) / cycles_us);
			now = rte_rdtsc();
			// A driver may need a moment until it hands out its packets, and a thread that
			// asked something often asks again.
			if ((io->woken && !woken) || io->answered != answered)
				idle_since = now;
		}
	}
	return 0;
}
