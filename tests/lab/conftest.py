# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os

# Those tests are for a machine of the lab, and run there alone.
collect_ignore = [] if os.environ.get("DPSUP_LAB_INSIDE") == "1" else ["inside"]
