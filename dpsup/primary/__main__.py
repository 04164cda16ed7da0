# SPDX-License-Identifier: BSD-3-Clause
"""`python -m dpsup.primary PLAN`: what the supervisor starts."""

from __future__ import annotations

import sys

from dpsup.primary.process import main

sys.exit(main(sys.argv[1:]))
