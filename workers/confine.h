/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_CONFINE_H
#define DPSUP_CONFINE_H

// What a worker may ask of the kernel. No DPDK.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// For good, of the calling thread and those that it creates later: no capabilities but those of `kept`,
// bit by number, and none to be had by exec. Called before the first thread is created. `ordinary`: no
// priority above others' either.
void confine_rights(uint64_t kept, bool ordinary);

// Once the plugin is initialised: no system call but those of confine.c's list, no file, no memory
// beyond CONFINE_MEMORY more, no core file unless the plugin asked for one. `looks_up`: the plugin is
// Python, which tries to open files on its own: it is told that it may not, instead of being stopped.
// 0, or -1 with the reason in `why`.
int confine_calls(bool looks_up, char *why, size_t len);

#endif
