# SPDX-License-Identifier: BSD-3-Clause
"""A subscriber that reads an instance's statistics, as a program of its own: the case `bus` starts
three. It ends with the instance, or on a signal."""

from __future__ import annotations

import sys

from dpsup.instance.client import connect


def main(name: str) -> None:
    with connect(name) as instance:
        print("following", flush=True)
        for _ in instance.follow("stat", "event"):
            pass


if __name__ == "__main__":
    main(sys.argv[1])
