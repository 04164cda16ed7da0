# SPDX-License-Identifier: BSD-3-Clause
"""`python -m dpsup.gate RUNTIME_DIR NAME WORDS --notify FD`, as the supervisor starts it."""

import sys

from dpsup.gate.process import main

sys.exit(main(sys.argv))
