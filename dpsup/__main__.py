# SPDX-License-Identifier: BSD-3-Clause
"""The entry point. Ctrl-C during the imports must not print a traceback."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    if sys.argv[1:2] == ["health"]:  # before what others need is imported
        from dpsup.instance import health

        code = health.quick(sys.argv[2:])
        if code is not None:
            sys.exit(code)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dpsup.cli import root

    signal.signal(signal.SIGINT, before)
    root.main()


if __name__ == "__main__":
    main()
