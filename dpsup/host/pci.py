# SPDX-License-Identifier: BSD-3-Clause
"""PCI devices, as the kernel has them."""

from __future__ import annotations

import os
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
# Those that leave a device to DPDK, or share it.
FOR_DPDK = ("vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core", "mana")


def trouble(device: str, devices: Path = DEVICES, vfio: Path = Path("/dev/vfio")) -> str:
    """Why DPDK cannot have a device now, or nothing."""
    path = devices / device
    if not path.exists():
        return f"there is no PCI device {device}"
    driver = path / "driver"
    name = driver.resolve().name if driver.exists() else ""
    if name == "vfio-pci":
        return _vfio(device, path / "iommu_group", vfio)
    if name in FOR_DPDK:
        return ""
    has = f"the kernel's {name}" if name else "no driver"
    return f"{has} has PCI device {device}: dpdk-devbind.py -b vfio-pci {device}"


def is_free(device: str, devices: Path = DEVICES) -> bool:
    """There, and no driver of the kernel's has it: DPDK opens some (legacy virtio) like that."""
    path = devices / device
    return path.exists() and not (path / "driver").exists()


def _vfio(device: str, group: Path, vfio: Path) -> str:
    if not group.exists():
        return (
            f"PCI device {device} has no IOMMU, without which vfio-pci gives it to no process:"
            " boot with intel_iommu=on or amd_iommu=on"
        )
    number = group.resolve().name
    # In the kernel's unsafe mode without an IOMMU.
    files = (vfio / number, vfio / f"noiommu-{number}")
    file = next((one for one in files if one.exists()), files[0])
    if not os.access(file, os.R_OK | os.W_OK):
        return f"this user cannot open {file}, by which vfio-pci gives {device}: chown it"
    return ""
