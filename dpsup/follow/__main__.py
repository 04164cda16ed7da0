# SPDX-License-Identifier: BSD-3-Clause
"""`python -m dpsup.follow RUNTIME_DIR NAME GROUP --notify FD`, as the supervisor starts it."""

import sys

from dpsup.follow.process import main

sys.exit(main(sys.argv[1:]))
