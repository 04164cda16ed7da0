# SPDX-License-Identifier: BSD-3-Clause
"""The entry point. Ctrl-C during the imports must not print a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dpsup.cli import root

    signal.signal(signal.SIGINT, before)
    root.main()


if __name__ == "__main__":
    main()
