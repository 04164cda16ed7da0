# SPDX-License-Identifier: BSD-3-Clause
"""Machines with three NICs of one kind for dpsup, each on a wire to an interface of the kernel."""

from __future__ import annotations

from .machine import Machine, Nic

# Without it QEMU's virtio takes what a driver gives it for physical addresses, past the IOMMU.
IOMMU = "iommu_platform=on"


def machine(name: str, model: str, options: str = "", queues: int = 0) -> Machine:
    nics = tuple(
        nic
        for wire in ("wan", "lan", "dmz")
        for nic in (
            Nic(f"{wire}0", model, wire, options, queues=queues),
            Nic(f"far-{wire}", "virtio-net-pci", wire),
        )
    )
    boots = (("test_nic.py",),)
    return Machine(name, nics=nics, cpus=3, boots=boots, minutes=40)


NICS = (
    machine("e1000e", "e1000e"),
    machine("virtio", "virtio-net-pci", f"{IOMMU},mq=on,vectors=10,rss=on,hash=on", queues=4),
    machine("vmxnet3", "vmxnet3"),
)
