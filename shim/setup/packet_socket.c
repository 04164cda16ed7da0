// SPDX-License-Identifier: BSD-3-Clause
//
// The packet sockets of net_af_packet, which the driver keeps to itself but which are this process's
// too.

#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "primary.h"

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
uint32_t
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

// The driver polls without a limit where the next frame of its ring is still the kernel's, as it is
// for long behind a slow qdisc (qdisc_bypass=0). The kernel answers at once as long as the socket's own
// limit is not reached, so that is raised above all that a ring can hold: the driver then sends what
// there is room for, and the rest waits with the io core, which serves its other ports.
bool
packet_sockets_never_block(uint32_t if_index)
{
	int fd[RXQ_MOST];
	uint32_t n = packet_sockets(if_index, fd, RXQ_MOST);
	int most = INT_MAX / 2;

	for (uint32_t i = 0; i < n; i++)
		if (setsockopt(fd[i], SOL_SOCKET, SO_SNDBUFFORCE, &most, sizeof(most)) != 0)
			return false;
	return true;
}

// Frames for the sockets of an interface that the kernel dropped since this was last asked: their ring
// was full. The kernel's count begins anew with each answer, so a driver that asks too (DPDK 22.11 and
// 24.11 do not) is told of other drops than this one is, and both together count each drop once.
uint64_t
packet_sockets_dropped(uint32_t if_index)
{
	int fd[RXQ_MOST];
	uint32_t n = packet_sockets(if_index, fd, RXQ_MOST);
	uint64_t dropped = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct tpacket_stats stats = { 0 };
		socklen_t len = sizeof(stats);

		if (getsockopt(fd[i], SOL_PACKET, PACKET_STATISTICS, &stats, &len) == 0)
			dropped += stats.tp_drops;
	}
	return dropped;
}
