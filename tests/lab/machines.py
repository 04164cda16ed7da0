# SPDX-License-Identifier: BSD-3-Clause
"""The lab's machines. A new one is a few lines here, and a test in inside/ that it runs."""

from __future__ import annotations

from .machine import Machine, Nic
from .machines_nics import NICS

# A pair of ports for dpsup, each on a wire to an interface of the kernel.
TWO_PORTS = (
    Nic("wan0", "e1000e", wire="wan"),
    Nic("lan0", "e1000e", wire="lan"),
    Nic("far-wan", "virtio-net-pci", wire="wan"),
    Nic("far-lan", "virtio-net-pci", wire="lan"),
)

MACHINES = (
    Machine("smoke", nics=TWO_PORTS, boots=(("test_smoke.py", "test_outside.py"),), long=True),
    Machine("smoke-13", nics=TWO_PORTS, boots=(("test_smoke.py",),), suite="trixie"),
    Machine("systemd", nics=TWO_PORTS, cpus=4, boots=(("test_systemd.py",),), minutes=90),
    Machine("unprivileged", nics=TWO_PORTS, cpus=4, boots=(("test_unprivileged.py",),), minutes=60),
    Machine(
        "enable",
        boots=(
            ("test_enable.py::test_enabled_and_cut",),
            ("test_enable.py::test_runs_after_the_next_boot",),
        ),
    ),
    # Two nodes, both with pages of 2M and 1G.
    Machine(
        "whole",
        nics=TWO_PORTS,
        cpus=4,
        nodes=2,
        memory=4608,
        pages_2m=128,
        pages_1g=1,
        boots=(("test_whole.py",),),
        minutes=60,
    ),
    *NICS,
)
