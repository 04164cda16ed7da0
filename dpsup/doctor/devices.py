# SPDX-License-Identifier: BSD-3-Clause
"""NICs: IOMMU, drivers, rights, links; and the kernel's security modules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dpsup.check.devices import PEER, offloaded
from dpsup.doctor.facts import Needs
from dpsup.doctor.finding import NO_FILE, Check, Finding, checked, error, info, ok, skip, warn
from dpsup.host.tree import Machine

_PCI = "/sys/bus/pci/devices"
NO_PCI = "the topology has no PCI port"
SHARED = {"0x15b3": "mlx5_core", "0x1414": "mana"}  # vendors whose NICs stay with the kernel
_FOR_DPDK = ("vfio-pci", "igb_uio", "uio_pci_generic")


def _there(m: Machine, n: Needs) -> list[str]:
    return [address for address in n.devices if m.exists(f"{_PCI}/{address}")]


def _vendor(m: Machine, address: str) -> str:
    return m.text(f"{_PCI}/{address}/vendor")


def _on_vfio(m: Machine, n: Needs) -> list[str]:
    """The devices that vfio-pci drives, or has to drive."""
    return [
        address
        for address in _there(m, n)
        if _vendor(m, address) not in SHARED
        and m.link(f"{_PCI}/{address}/driver") not in ("igb_uio", "uio_pci_generic")
    ]


def iommu(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D11", NO_FILE)
        return
    wanted = _on_vfio(m, n)
    if not wanted:
        yield skip("D11", "no port needs vfio")
        return
    groups = m.glob("/sys/kernel/iommu_groups/[0-9]*")
    unsafe = m.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    read = f"/sys/kernel/iommu_groups: {len(groups)}; no-IOMMU mode: {unsafe or 'missing'}"
    if not m.exists("/sys/bus/pci/drivers/vfio-pci"):
        yield error("D11", "the module vfio-pci is not loaded", read, "modprobe vfio-pci")
    if groups:
        if m.exists("/sys/bus/pci/drivers/vfio-pci"):
            yield ok("D11", f"{len(groups)} IOMMU groups, vfio-pci loaded", read)
        return
    manual = "enable VT-d or AMD-Vi in the BIOS, and add intel_iommu=on iommu=pt (or amd_iommu=on)"
    if unsafe in ("Y", "1"):
        yield warn(
            "D11", "no IOMMU: vfio runs in its unsafe mode, in which a NIC can write to all memory",
            read, manual=manual,
        )  # fmt: skip
    else:
        yield error(
            "D11", "no IOMMU, and vfio's unsafe mode is disabled", read,
            "modprobe vfio enable_unsafe_noiommu_mode=1"
            " && echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            manual=f"better: {manual}", careful=True,
        )  # fmt: skip


def drivers(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D12", NO_FILE)
        return
    found = list(checked("D12", n, "E0401", "E0406"))
    for address in _there(m, n):
        driver = m.link(f"{_PCI}/{address}/driver")
        shared = SHARED.get(_vendor(m, address), "")
        read = f"{_PCI}/{address}/driver: {driver or 'none'}"
        if shared and driver != shared:
            found.append(
                error(
                    "D12", f"{address} needs the kernel's {shared}, but has {driver or 'none'}",
                    read, f"dpdk-devbind.py -b {shared} {address}",
                )
            )  # fmt: skip
        elif not shared and driver not in _FOR_DPDK:
            names = [one.rpartition("/")[2] for one in m.glob(f"{_PCI}/{address}/net/*")]
            used = [name for name in names if _in_use(m, name)]
            what = f"{address} is driven by the kernel's {driver}" if driver else (
                f"{address} has no driver"
            )  # fmt: skip
            in_use = f"; its interface {used[0]} has a route or an address" if used else ""
            found.append(
                error(
                    "D12", what + in_use, read, f"dpdk-devbind.py -b vfio-pci {address}",
                    manual="first check that your connection to this machine does not use it"
                    if used else "", careful=bool(used),
                )
            )  # fmt: skip
    yield from found
    if not found:
        there = _there(m, n)
        if there:
            yield ok("D12", ", ".join(f"{a} {m.link(f'{_PCI}/{a}/driver')}" for a in there))
        else:
            yield skip("D12", NO_PCI)


def _in_use(m: Machine, name: str) -> bool:
    """Does a kernel interface have a route, or an IPv6 address beyond its own link?"""
    routes = (line.split() for line in m.text("/proc/net/route").splitlines()[1:])
    if any(words[:1] == [name] for words in routes):
        return True
    six = (line.split() for line in m.text("/proc/net/if_inet6").splitlines())
    return any(len(w) > 5 and w[5] == name and w[3] != "20" for w in six)  # 20: link-local


def rights(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D13", NO_FILE)
        return
    files = []
    for address in _on_vfio(m, n):
        group = m.link(f"{_PCI}/{address}/iommu_group")
        if m.link(f"{_PCI}/{address}/driver") == "vfio-pci" and group:
            unsafe = f"/dev/vfio/noiommu-{group}"
            files.append(unsafe if m.exists(unsafe) else f"/dev/vfio/{group}")
    if not files:
        yield skip("D13", "no port is bound to vfio-pci")
        return
    bad = [file for file in dict.fromkeys(files) if not m.may_write(file)]
    for file in bad:
        mode = m.mode(file)
        read = f"{file}: {'missing' if mode is None else f'mode {mode:o}'}"
        yield error("D13", f"uid {m.uid} may not open {file}", read, f"chown {m.uid} {file}")
    if not bad:
        yield ok("D13", f"uid {m.uid} may open {', '.join(dict.fromkeys(files))}")


def links(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D22", NO_FILE)
        return
    good, bad = [], False
    for address in _there(m, n):
        here = f"{_PCI}/{address}"
        for what in ("width", "speed"):
            now = m.text(f"{here}/current_link_{what}")
            most = m.text(f"{here}/max_link_{what}")
            have, could = _first_number(now), _first_number(most)
            if have and could and have < could:
                bad = True
                lanes = " lanes" if what == "width" else ""
                yield warn(
                    "D22", f"{address} runs with {now} of {most}{lanes}",
                    f"{here}/current_link_{what}: {now}, max_link_{what}: {most}",
                    manual="move it to a slot with the full width and speed, or reseat it",
                )  # fmt: skip
        if m.text(f"{here}/current_link_width"):
            good.append(address)
    if not bad:
        if good:
            yield ok("D22", f"full width and speed: {', '.join(good)}")
        else:
            yield skip("D22", "no port on a PCIe link")


def _first_number(text: str) -> float:
    found = re.match(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else 0.0


def security(m: Machine, n: Needs | None) -> Iterator[Finding]:
    file = "/sys/kernel/security/lockdown"
    down = re.search(r"\[(\w+)\]", m.text(file))
    level = down[1] if down else ""
    selinux = m.number("/sys/fs/selinux/enforce") == 1
    profile = m.text("/proc/self/attr/current")
    confined = profile.endswith("(enforce)")
    read = f"{file}: {level or 'missing'}; SELinux {'enforcing' if selinux else 'not enforcing'}"
    bound = {m.link(f"{_PCI}/{a}/driver") for a in _there(m, n)} if n else set()
    unsafe = m.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") in ("Y", "1")
    if level in ("integrity", "confidentiality") and (
        bound & {"igb_uio", "uio_pci_generic"} or (bound & {"vfio-pci"} and unsafe)
    ):
        yield error(
            "D27", f"the kernel is locked down ({level}), it refuses uio and no-IOMMU vfio", read,
            manual="use vfio-pci with an IOMMU, or disable secure boot",
        )  # fmt: skip
    elif confined:
        yield warn(
            "D27", f"AppArmor confines this process: {profile}",
            f"/proc/self/attr/current: {profile}",
            manual="allow /dev/hugepages/** and /dev/vfio/* in the profile",
        )  # fmt: skip
    elif selinux:
        yield info("D27", "SELinux is enforcing: ausearch -m avc shows what it refused", read)
    elif level in ("integrity", "confidentiality"):
        yield info("D27", f"the kernel is locked down ({level}); no port is affected", read)
    else:
        yield ok("D27", "no restriction", read)


def offloads(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D29", NO_FILE)
        return
    good: list[str] = []
    found = []
    for port in n.topology.ports:
        for interface in offloaded(port):
            one = m.host.offloads(interface) if interface in m.host.interfaces else None
            hidden = PEER if one and one.is_veth and not one.peer else ""
            if one is None:
                found.append(skip("D29", f"unknown: `ethtool -k {interface}` shows them"))
            elif commands := one.commands(interface):
                on = ", ".join(dict.fromkeys((*one.on, *one.peer_on)))
                found.append(
                    warn(
                        "D29", f"{interface}, of port `{port.name}`, has {on} on",
                        f"ethtool -k {interface}", *commands, manual=hidden,
                    )
                )  # fmt: skip
            elif hidden:
                message = f"{interface} has none on, but its other end is in another namespace"
                found.append(info("D29", message, f"ethtool -k {interface}", hidden))
            else:
                good.append(interface)
    yield from found
    if not found:
        yield ok("D29", f"off: {', '.join(good)}" if good else "no port on a kernel interface")


CHECKS: dict[str, Check] = {
    "D11": iommu, "D12": drivers, "D13": rights, "D22": links, "D27": security, "D29": offloads,
}  # fmt: skip
