# SPDX-License-Identifier: BSD-3-Clause
"""`python -m dpsup.probe RUNTIME_DIR NAME GROUP --notify FD`, as the supervisor starts it."""

import sys

from dpsup.probe.process import main

sys.exit(main(sys.argv[1:]))
