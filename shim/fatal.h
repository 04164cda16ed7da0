/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_FATAL_H
#define DPSUP_FATAL_H

#include <signal.h>

// Signals that a worker's handler notes, and that the primary believes in its note.
static const int dps_fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS };

#endif
