// SPDX-License-Identifier: BSD-3-Clause
//
// Open a plugin's shared object. No DPDK.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "object.h"

// Code cannot be mapped from a file system that is mounted noexec, as /run is on some systems. The
// copy of the plugin that lies there becomes sealed memory of this process. A descriptor, or -errno.
static int
memory_of(const char *path)
{
	int from = open(path, O_RDONLY | O_CLOEXEC);
	int to = memfd_create("plugin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char bytes[16384];
	ssize_t n = -1;

	if (from >= 0 && to >= 0)
		while ((n = read(from, bytes, sizeof(bytes))) > 0 && write(to, bytes, n) == n)
			;
	if (n == 0)
		n = fcntl(to, F_ADD_SEALS,
			  F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	else
		n = n > 0 ? -ENOSPC : -errno;
	if (from >= 0)
		close(from);
	if (n == 0)
		return to;
	if (to >= 0)
		close(to);
	return n;
}

void *
object_open(const char *path)
{
	char name[32];
	struct statvfs fs;
	void *object;
	int fd;

	if (statvfs(path, &fs) != 0 || !(fs.f_flag & ST_NOEXEC))
		return dlopen(path, RTLD_NOW | RTLD_LOCAL);
	fd = memory_of(path);
	if (fd < 0)
		return dlopen(path, RTLD_NOW | RTLD_LOCAL);     // whose error says why not
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	object = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	close(fd);
	return object;
}
