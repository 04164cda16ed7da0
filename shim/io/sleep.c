// SPDX-License-Identifier: BSD-3-Clause
//
// An io core that has had nothing to do for a while sleeps until a packet comes, where the kernel can
// tell of each queue that it polls: net_tap's descriptors, which are its rx interrupts, and
// net_af_packet's sockets, which the driver keeps to itself but which are this process's too. poll(2)
// tells what is there, not what has come: a packet between the last look and the sleep ends it at once.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "primary.h"

// A driver whose rx interrupts are descriptors that are there anyway, so that asking for them costs
// nothing and cannot fail for lack of hardware.
bool
sleep_wants_interrupts(const char *driver)
{
	return strcmp(driver, "net_tap") == 0;
}

// The descriptor that is readable when a queue has packets; -1: there is none.
static int
queue_fd(const struct rx_queue *rxq)
{
	const struct port *port = &the_primary.port[rxq->port];
	struct rte_eth_dev_info dev;
	int found[RXQ_MOST];

	if (rte_eth_dev_info_get(port->id, &dev) != 0)
		return -1;
	if (sleep_wants_interrupts(dev.driver_name))
		return rte_eth_dev_rx_intr_ctl_q_get_fd(port->id, rxq->queue);
	if (strcmp(dev.driver_name, "net_af_packet") == 0 &&
	    packet_sockets(dev.if_index, found, RXQ_MOST) == port->rx_queues)
		return found[rxq->queue];
	return -1;
}

// Once the ports are started. All queues, or none: an io core that sleeps on some hears of no other.
void
sleep_find(struct queues *queues)
{
	queues->n_fds = 0;
	for (uint32_t i = 0; i < queues->n_rxq; i++) {
		int fd = queue_fd(&queues->rxq[i]);

		if (fd < 0) {
			queues->n_fds = 0;
			return;
		}
		queues->fd[queues->n_fds++] = fd;
	}
}

// An interface that goes down leaves an error that stays readable until a thread takes it.
static void
take_error(int fd)
{
	socklen_t len = sizeof(int);
	int error;

	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
}

// Sleep until a queue can be read, at most that long. True: one can, or is in error: then do not sleep
// like this again until packets come.
bool
sleep_on_queues(struct io *io, const struct timespec *most)
{
	struct pollfd watched[RXQ_MOST + 1];
	bool readable = false;
	int n;

	for (uint32_t i = 0; i < io->n_fds; i++)
		watched[i] = (struct pollfd){ .fd = io->fd[i], .events = POLLIN };
	// A frame of the kernel's, for one of the ports, ends it too.
	n = io->n_kernel > 0 ? kernel_sleep(io, watched, io->n_fds, most)
			     : ppoll(watched, io->n_fds, most, NULL);
	if (n <= 0)
		return n < 0 && errno != EINTR;
	for (uint32_t i = 0; i < io->n_fds; i++) {
		readable |= (watched[i].revents & POLLIN) != 0;
		if (watched[i].revents & POLLERR)
			take_error(io->fd[i]);
	}
	if (readable)
		dps_count(&io->stats.woken, 1);
	return true;
}

// Sleep that long, or until the kernel path's thread has a frame.
void
sleep_nap(struct io *io, const struct timespec *most)
{
	struct pollfd watched[1];

	if (io->n_kernel > 0)
		(void)kernel_sleep(io, watched, 0, most);
	else
		nanosleep(most, NULL);
}
