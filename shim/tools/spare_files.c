/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Keeps descriptors back from accept(2). It is preloaded where the limit of open files is low: libzmq
 * aborts a process that has none left for a connection to a local socket, and a process can be
 * flooded with connections faster than it looks at itself (dpsup/bus/guests.py).
 *
 * A connection that would take one of the last descriptors is accepted and closed, which libzmq
 * takes for a peer that left.
 */
#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPARE 128	/* for files, pidfds, and sockets of the process's own */

int
accept4(int listener, struct sockaddr *from, socklen_t *size, int flags)
{
	int fd = (int)syscall(SYS_accept4, listener, from, size, flags);
	struct rlimit limit;

	if (fd < 0) {
		if (errno == EMFILE)
			errno = ECONNABORTED;
		return fd;
	}
	/* The kernel gives the lowest number that is free: the table is as full as this one is high. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)fd + SPARE >= limit.rlim_cur) {
		close(fd);
		errno = ECONNABORTED;
		return -1;
	}
	return fd;
}

int
accept(int listener, struct sockaddr *from, socklen_t *size)
{
	return accept4(listener, from, size, 0);
}
