# SPDX-License-Identifier: BSD-3-Clause
"""What a machine of the lab is: a few lines each, and the QEMU command they come to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .image import Image

# What udev and systemd would load and start on any machine, and no test needs: it slows the boot.
UNWANTED = (
    "aesni_intel,ahci,ccp,crc32_pclmul,crct10dif_pclmul,dm_mod,efi_pstore,ghash_clmulni_intel,"
    "i2c_i801,iTCO_wdt,kvm_amd,lpc_ich,pcspkr,psmouse,serio_raw,sha1_ssse3,sha256_ssse3,"
    "sha512_ssse3"
)
MASKED = ("dpdk.service", "e2scrub_reap.service", "modprobe@drm.service", "modprobe@loop.service",
          "modprobe@dm_mod.service")  # fmt: skip


@dataclass(frozen=True)
class Nic:
    """A NIC on a PCI Express port of its own: it can be taken out, and is its own IOMMU group.

    NICs on the same `wire` hear each other; without one, nothing is plugged in. `options` are
    those of QEMU's device (`mq=on,vectors=10`). Where one of a wire's NICs has several `queues`,
    the wire is a bridge of the host's kernel, in a network namespace of this QEMU's.
    """

    name: str
    model: str = "e1000e"
    wire: str = ""
    options: str = ""
    queues: int = 0
    fitted: bool = True  # there at boot, not only once a test asks for it


@dataclass(frozen=True)
class Machine:
    """A machine, and the tests that run in it. Sizes: memory in MiB, pages on each node."""

    name: str
    nics: tuple[Nic, ...] = ()
    cpus: int = 2
    nodes: int = 1
    memory: int = 2048
    pages_2m: int = 256
    pages_1g: int = 0
    iommu: bool = True
    suite: str = "bookworm"
    kernel: str = ""  # more of the kernel's command line
    # One boot after another: the power is cut between two, what a disk has stays.
    boots: tuple[tuple[str, ...], ...] = ()
    minutes: float = 20  # then the machine is ended, whatever it does
    long: bool = False  # part of `deploy/test --long`, not of --lab alone

    @property
    def bridges(self) -> set[str]:
        """The wires that are bridges: QEMU's hubs have one queue."""
        return {nic.wire for nic in self.nics if nic.queues > 1}

    def address(self, nic: Nic) -> str:
        """Where the NIC is on the PCI bus: firmware numbers the ports in their order."""
        return f"0000:{self.nics.index(nic) + 1:02x}:00.0"

    def described(self) -> dict[str, Any]:
        """What the tests inside are told."""
        told = asdict(self)
        for nic, one in zip(self.nics, told["nics"], strict=True):
            one["pci"] = self.address(nic)
        return told


def device(machine: Machine, nic: Nic) -> dict[str, Any]:
    """The NIC as `device_add` takes it, at boot and later."""
    told: dict[str, Any] = {
        "driver": nic.model,
        "id": nic.name,
        "bus": f"port-{nic.name}",
        "netdev": f"end-{nic.name}",
        "mac": f"52:54:00:da:b0:{machine.nics.index(nic):02x}",
    }
    for option in filter(None, nic.options.split(",")):
        key, _, value = option.partition("=")
        told[key] = {"on": True, "off": False}.get(value, int(value) if value.isdigit() else value)
    return told


def _words(options: dict[str, Any]) -> str:
    words = dict(options)
    driver = words.pop("driver")
    said = {True: "on", False: "off"}
    return ",".join(
        [driver] + [f"{k}={said[v] if isinstance(v, bool) else v}" for k, v in words.items()]
    )


def command(machine: Machine, image: Image, repo: Path, scratch: Path) -> list[str]:
    """The QEMU command; `scratch` has its sockets, its console and the directory `out`."""
    per_node = machine.cpus // machine.nodes
    memory = machine.memory // machine.nodes
    append = ["root=/dev/vda rw console=ttyS0 panic=-1 loglevel=4"]
    append += ["systemd.show_status=0 systemd.debug_shell=ttyS1"]
    append += [f"modprobe.blacklist={UNWANTED} cryptomgr.notests"]
    append += [f"systemd.mask={unit}" for unit in MASKED]
    append += ["transparent_hugepage=madvise default_hugepagesz=2M"]
    for size, count in (("2M", machine.pages_2m), ("1G", machine.pages_1g)):
        if count:
            each = ",".join(f"{node}:{count}" for node in range(machine.nodes))
            append += [f"hugepagesz={size} hugepages={each}"]
    append += ["intel_iommu=on iommu=pt"] if machine.iommu else []
    append += [machine.kernel] if machine.kernel else []

    words = [
        "qemu-system-x86_64",
        "-machine",
        "q35,kernel-irqchip=off",
        "-nodefaults",
        "-no-user-config",
    ]
    words += ["-accel", "tcg,thread=multi", "-cpu", "max", "-m", f"{machine.memory}M"]
    words += ["-smp", f"{machine.cpus},sockets={machine.nodes}", "-display", "none"]
    for node in range(machine.nodes):
        cpus = f"{node * per_node}-{(node + 1) * per_node - 1}"
        words += ["-object", f"memory-backend-ram,id=memory{node},size={memory}M"]
        words += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=memory{node}"]
    if machine.iommu:
        # Without these two, VFIO refuses the IOMMU.
        words += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
    words += [
        "-kernel",
        str(image.kernel),
        "-initrd",
        str(image.initrd),
        "-append",
        " ".join(append),
    ]
    for name, disk in (("root", image.root), ("top", image.top)):
        # snapshot=on: what the machine writes is in a file without a name, and ends with QEMU.
        words += ["-drive", f"file={disk},if=none,id={name},format=raw,cache=unsafe,snapshot=on"]
        words += ["-device", f"virtio-blk-pci,drive={name}"]
    for tag, path, rights in (("repo", repo, ",readonly=on"), ("out", scratch / "out", "")):
        words += ["-fsdev", f"local,id={tag},path={path},security_model=none{rights}"]
        words += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    words += ["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]
    for channel in ("agent", "outside"):
        words += ["-chardev", f"socket,id={channel},path={scratch}/{channel},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev={channel},name=lab.{channel}"]
    words += ["-serial", f"file:{scratch}/out/console.txt"]
    # A shell for a person: socat - UNIX:DIRECTORY/shell
    words += ["-serial", f"unix:{scratch}/shell,server=on,wait=off"]
    words += ["-chardev", f"socket,id=qmp,path={scratch}/qmp,server=on,wait=off"]
    words += ["-mon", "chardev=qmp,mode=control"]
    wires = sorted({nic.wire for nic in machine.nics})
    for number, nic in enumerate(machine.nics):
        port = f"pcie-root-port,id=port-{nic.name},chassis={number + 1},slot={number + 1}"
        # From 16 on: after what is on the root bus already, and so numbered in order.
        words += ["-device", f"{port},addr={number + 16:#x}"]
        hub = wires.index(nic.wire) + 1 if nic.wire else 100 + number
        wire = f"hubport,id=end-{nic.name},hubid={hub}"
        if nic.wire in machine.bridges:
            wire = f"tap,id=end-{nic.name},ifname={nic.name},script=no,downscript=no"
            wire += f",queues={nic.queues}" if nic.queues > 1 else ""
        words += ["-netdev", wire]
        if nic.fitted:
            words += ["-device", _words(device(machine, nic))]
    return _wired(machine, words)


def _wired(machine: Machine, words: list[str]) -> list[str]:
    """The command, in a namespace that has the machine's bridges, if it has any."""
    if not machine.bridges:
        return words
    steps = ["set -e"]
    for wire in sorted(machine.bridges):
        steps += [f"ip link add {wire} type bridge mcast_snooping 0", f"ip link set {wire} up"]
    for nic in machine.nics:
        if nic.wire in machine.bridges:
            several = "multi_queue" if nic.queues > 1 else ""
            steps += [
                f"ip tuntap add {nic.name} mode tap {several}",
                f"sysctl -qw net.ipv6.conf.{nic.name}.disable_ipv6=1",
                f"ip link set {nic.name} mtu 9600 master {nic.wire} up",
            ]
    steps += [f"sysctl -qw net.ipv6.conf.{wire}.disable_ipv6=1" for wire in sorted(machine.bridges)]
    return ["unshare", "--net", "sh", "-c", "\n".join([*steps, 'exec "$@"']), "sh", *words]
