// SPDX-License-Identifier: BSD-3-Clause
//
// The kernel path: what plugins punt goes to the kernel by a TAP beside the port, and what the kernel sends
// there leaves by the port. docs/kernel.md.
//
// The TAPs are served by one thread of the primary, as an io core makes no system call for a packet. It
// shares two rings with each io core, in the primary's own memory, and only copies bytes: mbufs are
// allocated, counted and freed by the io core, whose rings say at any moment which of them are here.
//
//	out     the io core adds punted packets at out_head; the thread writes them to the TAP and says in
//	        out_done how far it is; the io core frees them up to there
//	in      the io core lends empty mbufs at in_head; the thread reads frames into them and says so in
//	        in_done; the io core sends them and lends others
//
// Each index has one writer. The frames that the kernel sends go through one io core's ring, so that their
// order is kept. The thread sleeps in poll(2); an io core wakes it once for each time that it parks, as it
// does a worker. The other way round it is the thread that wakes an io core that sleeps.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "primary.h"

enum {
	AT_ONCE = 32,           // packets of one ring, before the next one's turn
	SEGMENTS = 64,          // of a packet, at most
	LINGER_NS = 200000,     // without work, before the thread parks: bounds how often it is woken
	LENDING_NS = 1000000,   // until an io core that had no mbuf is looked at again
	REST_NS = 100000000,    // after an error of a TAP: its interface was deleted, perhaps
	PARK_NS = 1000000000,
	STOP_S = 5
};

struct path {
	int fd;
	uint32_t port;
	struct kernel_end *in;          // of the io core that sends what the kernel gives
	struct io *in_io;
	bool readable;
	uint64_t rests_until;           // CLOCK_MONOTONIC, ns
};

static struct {
	struct path path[DPS_MAX_PORTS];
	uint32_t n_paths;
	bool runs;
	pthread_t thread;
	uint32_t stop;                  // by the control thread
	uint32_t parks __rte_cache_aligned;     // by the thread: odd while it is parked, or about to be
	int bell;                       // eventfd
} kernel;

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void
ring(int fd)
{
	uint64_t one = 1;

	// It fails only where it is full of rings already.
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static void
take_rings(int fd)
{
	uint64_t rings;

	if (read(fd, &rings, sizeof(rings)) < 0)
		return;
}

// --- the thread -----------------------------------------------------------------------------------

static bool
tap_write(int fd, const struct rte_mbuf *m)
{
	struct iovec piece[SEGMENTS];
	int n = 0;

	for (; m != NULL && n < SEGMENTS; m = m->next)
		piece[n++] = (struct iovec){ rte_pktmbuf_mtod(m, void *), m->data_len };
	return m == NULL && writev(fd, piece, n) >= 0;
}

static uint32_t
to_kernel(const struct path *path, struct kernel_end *end)
{
	uint32_t done = end->out_done;
	uint32_t n = RTE_MIN(dps_load32(&end->out_head) - done, (uint32_t)AT_ONCE);

	for (uint32_t i = 0; i < n; i++, done++) {
		uint32_t at = done % DPS_KERNEL_OUT;

		end->failed[at] = !tap_write(path->fd, end->out[at]);
		dps_store32(&end->out_done, done + 1);
	}
	return n;
}

static bool
has_blanks(const struct kernel_end *end)
{
	return dps_load32(&end->in_head) != end->in_done;
}

static uint32_t
from_kernel(struct path *path)
{
	struct kernel_end *end = path->in;
	uint32_t n = 0;

	for (; path->readable && n < AT_ONCE && has_blanks(end); n++) {
		uint32_t at = end->in_done % DPS_KERNEL_IN;
		uint8_t more;
		struct iovec piece[2] = {
			{ rte_pktmbuf_mtod(end->in[at], void *), end->frame_most }, { &more, 1 }
		};
		ssize_t len = readv(path->fd, piece, 2);

		if (len <= 0) {
			path->readable = false;
			if (len == 0 || (errno != EAGAIN && errno != EINTR))
				path->rests_until = now_ns() + REST_NS;
			break;
		}
		end->in_len[at] = len;
		dps_store32(&end->in_done, end->in_done + 1);
	}
	if (n > 0) {
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (dps_load32(&path->in_io->asleep))
			ring(path->in_io->wake_fd);
	}
	return n;
}

// Which TAPs can be read, and in what time at the latest to look again.
static uint64_t
choose(struct pollfd *watched, uint64_t most)
{
	uint64_t now = now_ns();

	for (uint32_t i = 0; i < kernel.n_paths; i++) {
		const struct path *path = &kernel.path[i];
		bool rests = path->rests_until > now;
		bool blanks = has_blanks(path->in);

		watched[i] = (struct pollfd){ .fd = rests || !blanks ? -1 : path->fd, .events = POLLIN };
		if (rests)
			most = RTE_MIN(most, path->rests_until - now);
		else if (!blanks)
			most = RTE_MIN(most, (uint64_t)LENDING_NS);
	}
	return most;
}

static bool
wait_for_taps(uint64_t most, bool parked)
{
	struct pollfd watched[DPS_MAX_PORTS + 1];
	uint32_t n = kernel.n_paths;
	struct timespec t;
	bool found = false;

	most = choose(watched, most);
	watched[n] = (struct pollfd){ .fd = parked ? kernel.bell : -1, .events = POLLIN };
	t = (struct timespec){ .tv_sec = most / 1000000000, .tv_nsec = most % 1000000000 };
	if (ppoll(watched, n + 1, &t, NULL) <= 0)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		struct path *path = &kernel.path[i];

		if (watched[i].revents & POLLIN) {
			path->readable = found = true;
		} else if (watched[i].revents != 0) {
			// Its interface is gone: the control thread opens another one in its place.
			path->rests_until = now_ns() + REST_NS;
		}
	}
	if (watched[n].revents != 0)
		take_rings(kernel.bell);
	return found;
}

static bool
is_any_punted(void)
{
	for (uint32_t i = 0; i < the_primary.n_io; i++)
		for (uint32_t k = 0; k < kernel.n_paths; k++) {
			const struct kernel_end *end = the_primary.io[i]->kernel[kernel.path[k].port];

			if (dps_load32(&end->out_head) != end->out_done)
				return true;
		}
	return false;
}

static void
park(void)
{
	dps_store32(&kernel.parks, kernel.parks + 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!is_any_punted() && !dps_load32(&kernel.stop))
		wait_for_taps(PARK_NS, true);
	dps_store32(&kernel.parks, kernel.parks + 1);
}

static void *
serve(void *arg)
{
	bool lingered = false;

	(void)arg;
	while (!dps_load32(&kernel.stop)) {
		uint32_t work = 0;

		for (uint32_t k = 0; k < kernel.n_paths; k++) {
			struct path *path = &kernel.path[k];

			for (uint32_t i = 0; i < the_primary.n_io; i++)
				work += to_kernel(path, the_primary.io[i]->kernel[path->port]);
			work += from_kernel(path);
		}
		if (work > 0) {
			lingered = false;
			wait_for_taps(0, false);
		} else if (!lingered) {
			lingered = !wait_for_taps(LINGER_NS, false);
		} else {
			park();
			lingered = false;
		}
	}
	return NULL;
}

// --- the io core's side ---------------------------------------------------------------------------

// Wake the thread if it parked before it saw what was punted: once for each time that it parks.
void
kernel_ring(struct io *io)
{
	uint32_t parks;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	parks = dps_load32(&kernel.parks);
	if (!(parks & 1)) {
		io->punted = false;     // it looks at every ring before it parks
	} else if (io->kernel_rung != parks) {
		io->kernel_rung = parks;
		io->punted = false;
		ring(kernel.bell);
	}
}

// What the thread has written: sent, as far as this io core is concerned.
void
kernel_reap(struct io *io, struct kernel_end *end)
{
	struct dps_port_stats *stats = &io->port[end->port];
	uint32_t done = dps_load32(&end->out_done);

	for (uint32_t i = end->out_tail; i != done; i++) {
		struct rte_mbuf *m = end->out[i % DPS_KERNEL_OUT];

		if (end->failed[i % DPS_KERNEL_OUT]) {
			drop_at_port(io, end->port, DPS_DROP_KERNEL_FAILED, m);
		} else {
			dps_count(&stats->to_kernel_bytes, m->pkt_len);
			free_counted(&stats->to_kernel, m);
		}
	}
	dps_store32(&end->out_tail, done);
}

void
kernel_punt(struct io *io, struct rte_mbuf *m)
{
	uint32_t port = port_of(m);
	struct kernel_end *end = io->kernel[port];

	if (end == NULL) {
		drop_at_port(io, port, DPS_DROP_NO_KERNEL, m);
		return;
	}
	if (end->out_head - end->out_tail == DPS_KERNEL_OUT)
		kernel_reap(io, end);
	// A packet costs `interval` of its path's time, which may be `burst` ahead of the clock.
	if (end->paid_until > io->now + end->burst) {
		drop_at_port(io, port, DPS_DROP_KERNEL_RATE, m);
		return;
	}
	if (end->out_head - end->out_tail == DPS_KERNEL_OUT) {
		drop_at_port(io, port, DPS_DROP_KERNEL_FULL, m);
		return;
	}
	end->paid_until = RTE_MAX(end->paid_until, io->now) + end->interval;
	end->out[end->out_head % DPS_KERNEL_OUT] = m;
	dps_store32(&end->out_head, end->out_head + 1);
	io->punted = true;
}

// The mbufs that the kernel's frames are read into. A pool that has few left is not for those alone, but no
// path goes without.
void
kernel_lend(struct kernel_end *end)
{
	uint32_t out = end->in_head - end->in_tail;
	struct rte_mbuf *m[AT_ONCE];

	if (out > 0 && pool_shared(end->pool) < end->pool->size / 4)
		return;
	if (rte_pktmbuf_alloc_bulk(end->pool, m, AT_ONCE) != 0)
		return;
	for (uint32_t i = 0; i < AT_ONCE; i++)
		end->in[(end->in_head + i) % DPS_KERNEL_IN] = m[i];
	dps_store32(&end->in_head, end->in_head + AT_ONCE);
}

// The io core sleeps until the thread has a frame for it, a queue a packet, or that time is over. `watched`
// has n queues, and room for one more. As ppoll.
int
kernel_sleep(struct io *io, struct pollfd *watched, uint32_t n, const struct timespec *most)
{
	int ret = 1;

	watched[n] = (struct pollfd){ .fd = io->wake_fd, .events = POLLIN };
	dps_store32(&io->asleep, 1);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!kernel_has_frames(io))
		ret = ppoll(watched, n + 1, most, NULL);
	dps_store32(&io->asleep, 0);
	if (ret > 0 && watched[n].revents != 0)
		take_rings(io->wake_fd);
	return ret;
}

// The io core has stopped, and so has the thread.
void
kernel_let_go(struct io *io)
{
	for (uint32_t i = 0; i < io->n_kernel; i++) {
		struct kernel_end *end = io->kernel[io->kernel_port[i]];

		kernel_reap(io, end);
		for (; end->out_tail != end->out_head; end->out_tail++)
			drop_at_port(io, end->port, DPS_DROP_STOPPED,
				     end->out[end->out_tail % DPS_KERNEL_OUT]);
		for (; end->in_tail != end->in_head; end->in_tail++)
			rte_pktmbuf_free(end->in[end->in_tail % DPS_KERNEL_IN]);
		// The thread is gone: nothing is lent to it any more.
		io->kernel[end->port] = NULL;
	}
	io->n_kernel = 0;
}

// --- the control thread's side --------------------------------------------------------------------

static struct kernel_end *
end_create(struct io *io, uint32_t port, uint32_t mtu, uint32_t rate)
{
	struct kernel_end *end = near_zalloc(sizeof(*end));

	if (end == NULL)
		return NULL;
	end->port = port;
	end->pool = the_primary.pool[the_primary.port[port].pool];
	end->frame_most = mtu + ETHER_MOST;
	end->interval = rte_get_tsc_hz() / rate;
	end->burst = end->interval * RTE_MAX(rate / 50, (uint32_t)AT_ONCE);
	if (end->frame_most + RTE_PKTMBUF_HEADROOM > rte_pktmbuf_data_room_size(end->pool))
		return NULL;
	if (io->n_kernel == 0) {
		io->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (io->wake_fd < 0)
			return NULL;
	}
	return end;
}

// `fd` stays the caller's. It is a TAP's, does not block, and another one's may be put in its place by
// dup2(2). `rate`: packets a second that each io core hands over.
int
dps_kernel_create(uint32_t port, int fd, uint32_t mtu, uint32_t rate)
{
	struct primary *p = &the_primary;
	struct path *path = &kernel.path[kernel.n_paths];

	if (port >= p->n_ports || p->io_running || rate == 0 || p->n_io == 0 ||
	    p->io[0]->kernel[port] != NULL)
		return -EINVAL;
	for (uint32_t i = 0; i < p->n_io; i++) {
		struct io *io = p->io[i];

		near_begin((int)rte_lcore_to_socket_id(io->lcore));
		io->kernel[port] = end_create(io, port, mtu, rate);
		if (io->kernel[port] == NULL)
			return -ENOMEM;
		io->kernel_port[io->n_kernel++] = port;
	}
	*path = (struct path){ .fd = fd, .port = port, .in_io = p->io[port % p->n_io] };
	path->in = path->in_io->kernel[port];
	path->in->sends = true;
	kernel.n_paths++;
	return 0;
}

int
kernel_start(void)
{
	int ret;

	if (kernel.n_paths == 0)
		return 0;
	kernel.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (kernel.bell < 0)
		return -errno;
	ret = thread_start(&kernel.thread, serve, NULL);
	kernel.runs = ret == 0;
	return ret;
}

// Before the io cores stop: from then on nothing but they themselves touches what they have here.
int
kernel_stop(void)
{
	struct timespec until;

	if (!kernel.runs)
		return 0;
	dps_store32(&kernel.stop, 1);
	ring(kernel.bell);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_S;
	if (pthread_timedjoin_np(kernel.thread, NULL, &until) != 0)
		return -ETIMEDOUT;
	kernel.runs = false;
	return 0;
}
