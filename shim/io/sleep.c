// SPDX-License-Identifier: BSD-3-Clause
//
// An io core that has had nothing to do for a while sleeps until a packet comes, where the kernel can
// tell of each queue that it polls: net_tap's descriptors, which are its rx interrupts, and
// net_af_packet's sockets, which the driver keeps to itself but which are this process's too. poll(2)
// tells what is there, not what has come: a packet between the last look and the sleep ends it at once.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "primary.h"

// A driver whose rx interrupts are descriptors that are there anyway, so that asking for them costs
// nothing and cannot fail for want of hardware.
bool
sleep_wants_interrupts(const char *driver)
{
	return strcmp(driver, "net_tap") == 0;
}

static bool
is_packet_socket(int fd, uint32_t if_index)
{
	struct sockaddr_ll at;
	socklen_t len = sizeof(at);

	return getsockname(fd, (struct sockaddr *)&at, &len) == 0 && at.sll_family == AF_PACKET &&
	       at.sll_ifindex == (int)if_index;
}

static int
by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

// The packet sockets of an interface, lowest first: the driver opens them queue by queue, and gets the
// lowest numbers that are free. Were one of them another queue's, io cores would be woken for each
// other's packets, and nap as without. How many there are, `most` at most.
static uint32_t
packet_sockets(uint32_t if_index, int *found, uint32_t most)
{
	struct dirent *entry;
	uint32_t n = 0;
	DIR *open_files = opendir("/proc/self/fd");

	if (open_files == NULL)
		return 0;
	while (n < most && (entry = readdir(open_files)) != NULL) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && is_packet_socket(fd, if_index))
			found[n++] = fd;
	}
	closedir(open_files);
	qsort(found, n, sizeof(*found), by_number);
	return n;
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

// Before the io core runs, once its ports are started.
void
sleep_init(struct io *io)
{
	io->n_fds = 0;
	for (uint32_t i = 0; i < io->n_rxq; i++) {
		int fd = queue_fd(&io->rxq[i]);

		if (fd < 0) {
			io->n_fds = 0;
			return;
		}
		io->fd[io->n_fds++] = fd;
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
	struct pollfd watched[RXQ_MOST];
	bool readable = false;
	int n;

	for (uint32_t i = 0; i < io->n_fds; i++)
		watched[i] = (struct pollfd){ .fd = io->fd[i], .events = POLLIN };
	n = ppoll(watched, io->n_fds, most, NULL);
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
