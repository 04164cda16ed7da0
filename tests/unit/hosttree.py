# SPDX-License-Identifier: BSD-3-Clause
"""The tree of a machine that is all right, for doctor to read: two NUMA nodes of four CPUs, a NIC
on each node, isolated CPUs, hugepages. Tests plant one fault in it at a time."""

from __future__ import annotations

import os
from pathlib import Path

from dpsup.host.tree import Machine

NIC, MLX = "0000:3b:00.0", "0000:af:00.0"
PMDS = "/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0"
BUILD = ("22.11.11", PMDS)
HUGE = "hugepages/hugepages-2048kB"
CPU = "sys/devices/system/cpu"

TOPOLOGY = f"""\
version = 1
name = "edge"

[host]
supervisor_cores = "1"

[mempools.default]
mbufs = 16383

[[ports]]
name = "wan"
pci = "{NIC}"

[[ports]]
name = "tap"
vdev = "net_null0"

[[io]]
cores = "2"

[[workers]]
name = "fw"
plugin = "macswap"
args = {{ map = {{ wan = "tap", tap = "wan" }} }}
count = 1
cores = "3"
"""

STATUS = "Package: librte-eal23\nStatus: install ok installed\nVersion: 22.11.11-0+deb12u1\n"
FLAGS = "flags\t\t: fpu tsc constant_tsc nonstop_tsc avx2\n"
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    unlimited            bytes
Max open files            1024                 65536                files
Max locked memory         8388608              8388608              bytes
"""


class Tree:
    """Write, remove and link in a machine's tree; `machine()` reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, text: str = "") -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)

    def link(self, name: str, target: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        (self.root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(self.root / target.lstrip("/"), path.parent))

    def folder(self, name: str, mode: int = 0o755) -> None:
        path = self.root / name.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)

    def remove(self, name: str) -> None:
        path = self.root / name.lstrip("/")
        if path.is_dir() and not path.is_symlink():
            for child in path.iterdir():
                self.remove(str(child.relative_to(self.root)))
            path.rmdir()
        else:
            path.unlink()

    def machine(self, uid: int = 0) -> Machine:
        return Machine(str(self.root), uid=uid, build=BUILD)


def sound(root: Path) -> Tree:
    """A machine on which doctor finds nothing for TOPOLOGY."""
    tree = Tree(root)
    tree.put(f"{CPU}/online", "0-7\n")
    tree.put(f"{CPU}/isolated", "2-3,6-7\n")
    tree.put(f"{CPU}/nohz_full", "2-3,6-7\n")
    for cpu in range(8):
        here = f"{CPU}/cpu{cpu}"
        tree.put(f"{here}/topology/thread_siblings_list", f"{cpu}\n")
        tree.put(f"{here}/cpufreq/scaling_governor", "performance\n")
        tree.put(f"{here}/cpuidle/state0/latency", "0\n")
        tree.put(f"{here}/cpuidle/state0/disable", "0\n")
        tree.put(f"{here}/cpuidle/state1/latency", "133\n")
        tree.put(f"{here}/cpuidle/state1/disable", "1\n")
    for node, cpus in ((0, "0-3"), (1, "4-7")):
        here = f"sys/devices/system/node/node{node}"
        tree.put(f"{here}/cpulist", f"{cpus}\n")
        tree.put(f"{here}/{HUGE}/nr_hugepages", "512\n")
        tree.put(f"{here}/{HUGE}/free_hugepages", "512\n")
    tree.put(f"sys/kernel/mm/{HUGE}/nr_hugepages", "1024\n")
    tree.put(f"sys/kernel/mm/{HUGE}/free_hugepages", "1024\n")
    tree.put("proc/meminfo", "Hugepagesize:    2048 kB\n")
    tree.put("proc/mounts", "nodev /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n")
    tree.folder("dev/hugepages")
    tree.put("proc/self/status", "Name:\tdpsup\nCpus_allowed_list:\t0-7\n")
    tree.put("proc/self/limits", LIMITS)
    tree.put("proc/self/attr/current", "unconfined\n")
    tree.put("proc/stat", "cpu  1000 0 1000 100000 0 0 0 1 0 0\n")
    tree.put("proc/cpuinfo", FLAGS)
    tree.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 999 0 -2\n")
    tree.put("proc/net/route", "Iface\tDestination\tGateway\neth0\t00000000\t0100000A\n")
    tree.put("proc/net/if_inet6", "fe80000000000000 02 40 20 80 eth7\n")
    tree.put("proc/irq/24/eth0-rx/x")
    tree.put("proc/irq/24/smp_affinity_list", "0-7\n")
    tree.put("proc/irq/24/effective_affinity_list", "0\n")
    tree.put("proc/irq/25/smp_affinity_list", "0-7\n")  # nobody's: it never comes
    tree.put("proc/irq/25/effective_affinity_list", "2\n")
    for name, value in (
        ("kernel/numa_balancing", 0), ("kernel/nmi_watchdog", 0), ("kernel/timer_migration", 0),
        ("kernel/randomize_va_space", 2), ("kernel/sched_rt_runtime_us", 950000),
        ("kernel/core_pattern", "core"), ("vm/max_map_count", 65530),
        ("net/unix/max_dgram_qlen", 512),
        ("kernel/seccomp/actions_avail", "kill_process kill_thread trap errno allow"),
    ):  # fmt: skip
        tree.put(f"proc/sys/{name}", f"{value}\n")
    tree.put("sys/kernel/mm/ksm/run", "0\n")
    tree.put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    tree.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
    tree.put("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu\n")
    tree.put("sys/class/net/eth0/address", "00:11:22:33:44:55\n")
    for address, vendor, driver, group, node in (
        (NIC, "0x8086", "vfio-pci", "41", 0),
        (MLX, "0x15b3", "mlx5_core", "77", 0),
    ):
        here = f"sys/bus/pci/devices/{address}"
        tree.put(f"{here}/vendor", f"{vendor}\n")
        tree.put(f"{here}/numa_node", f"{node}\n")
        tree.put(f"{here}/current_link_width", "8\n")
        tree.put(f"{here}/max_link_width", "8\n")
        tree.put(f"{here}/current_link_speed", "8.0 GT/s PCIe\n")
        tree.put(f"{here}/max_link_speed", "8.0 GT/s PCIe\n")
        tree.link(f"{here}/driver", f"sys/bus/pci/drivers/{driver}")
        tree.link(f"{here}/iommu_group", f"sys/kernel/iommu_groups/{group}")
    tree.put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n")
    tree.put("dev/vfio/41")
    tree.put(f"{PMDS}/librte_net_null.so.23", "")
    tree.put("usr/lib/x86_64-linux-gnu/librte_eal.so.23", "")
    tree.put("var/lib/dpkg/status", f"Package: bash\nStatus: install ok installed\n\n{STATUS}")
    tree.folder("run/dpsup/other", 0o700)
    return tree
