# SPDX-License-Identifier: BSD-3-Clause
"""Where runtime directories are, and what lies in them. It imports little: `dpsup health` is run
often."""

from __future__ import annotations

import os

HEALTH = "health.sock"
PRIMARY_LOCK = "primary.lock"


def roots() -> list[str]:
    """The directories of instances, the usual place first: plan/paths.py. An instance may have
    been started with another environment than this process has."""
    uid = os.geteuid()
    found = ["/run/dpsup"]
    given = os.environ.get("XDG_RUNTIME_DIR")
    mine = [f"{given}/dpsup"] if given else []
    if uid == 0:
        return [*found, *mine]
    mine += [f"/tmp/dpsup-{uid}", f"/run/user/{uid}/dpsup"]
    return list(dict.fromkeys([*mine, *found]))
