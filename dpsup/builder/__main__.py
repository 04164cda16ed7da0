# SPDX-License-Identifier: BSD-3-Clause
"""`python -m dpsup.builder PLAN fresh|again --notify FD`, as the supervisor starts it."""

import sys

from dpsup.builder.process import main

sys.exit(main(sys.argv[1:]))
