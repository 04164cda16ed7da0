/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TRY_OWN_H
#define DPSUP_TRY_OWN_H

// The worker's own memory, which ends with it: what a plugin changes there in packet().

#include <stdbool.h>
#include <stdint.h>

void own_begin(void);                           // the worker stands still, before its first packet
void own_look(uint32_t number, bool is_last);   // after a packet
void own_report(void);

#endif
