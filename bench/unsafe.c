// SPDX-License-Identifier: BSD-3-Clause
//
// The worker's loop as it would be if no worker ever died, for `dpsup-bench cost`: no undo, no order
// of stores within a burst, verdicts and `done` as before. The same source, under other names.

#define LOOP_CRASH_SAFE 0
#define dps_next_segment unsafe_next_segment
#define loop_init unsafe_loop_init
#define loop_state unsafe_loop_state
#define loop_turn unsafe_loop_turn
#define worker_loop unsafe_worker_loop

#include "loop.c"
