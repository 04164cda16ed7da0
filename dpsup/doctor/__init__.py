# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup doctor`: what stands between this machine and a topology, and the commands that help.

`CHECKS` is what each check is about, for the report, `dpsup explain` and docs/errors.md; `machine`
reads, `memory`, `cpus`, `devices` and `system` judge, `report` runs them and says what came out.
Nothing here changes anything.
"""

from __future__ import annotations

from dpsup.catalogue import Entry

CHECKS: dict[str, Entry] = {
    "D01": Entry(
        "hugepages",
        "All packet memory is reserved in hugepages at start, on the NUMA nodes of pools and"
        " ports; with fewer free ones the start fails.",
        "echo NUMBER > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages; at boot, before"
        " memory is fragmented, hugepages=NUMBER on the kernel's command line.",
    ),
    "D02": Entry(
        "hugetlbfs",
        "Processes share hugepages through the files of a hugetlbfs mount that the user may write"
        " to and whose size= leaves room.",
        "mkdir -p /dev/hugepages && mount -t hugetlbfs -o pagesize=2M nodev /dev/hugepages",
    ),
    "D03": Entry(
        "leftovers of dead processes",
        "Files that a killed primary left in hugetlbfs keep their hugepages until somebody removes"
        " them; a live primary with the instance's prefix stands in its way.",
        "`dpsup clean` removes what dead instances left; other programs' files go by hand.",
    ),
    "D04": Entry(
        "NUMA",
        "A packet that crosses from one NUMA node to another costs about twice the time for each"
        " cache line, at the NIC, the io core and the worker.",
        "Take io cores, workers and `numa` of the mempool from the node that the NIC is on.",
    ),
    "D05": Entry(
        "isolated CPUs",
        "Without isolation the kernel runs other tasks and its timer on the CPUs that move"
        " packets: each such moment is a burst of late or missed packets.",
        "Kernel command line: isolcpus=LIST nohz_full=LIST rcu_nocbs=LIST, or an isolated cpuset"
        " partition.",
    ),
    "D06": Entry(
        "which CPUs",
        "CPU 0 has the kernel's own work; the two threads of an SMT core share its execution"
        " units, so a busy sibling takes a third to a half of the speed.",
        "Take io cores and workers from CPUs other than 0, one thread of each core.",
    ),
    "D07": Entry(
        "allowed CPUs",
        "A cpuset, container or taskset bounds the CPUs of this process; pinning to others fails.",
        "Widen AllowedCPUs= (systemd), --cpuset-cpus (containers) or taskset.",
    ),
    "D08": Entry(
        "CPU frequency",
        "A governor that saves power lets the clock of a polling CPU wander, and rates with it.",
        "echo performance > /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor",
    ),
    "D09": Entry(
        "C-states",
        "A worker that waits a moment lets its CPU sleep; waking it from a deep state takes longer"
        " than 10 us.",
        "echo 1 > /sys/devices/system/cpu/cpuN/cpuidle/stateM/disable for those above 10 us.",
    ),
    "D10": Entry(
        "interrupts",
        "A device's interrupt on a CPU that moves packets stops it for some microseconds.",
        "Write other CPUs to /proc/irq/N/smp_affinity_list, and keep irqbalance from undoing it.",
    ),
    "D11": Entry(
        "IOMMU and vfio",
        "vfio-pci hands a NIC to a process safely, by the IOMMU. Without one it needs the unsafe"
        " no-IOMMU mode, in which the NIC can write to all memory.",
        "Kernel command line: intel_iommu=on iommu=pt (or amd_iommu=on); modprobe vfio-pci.",
    ),
    "D12": Entry(
        "drivers of devices",
        "DPDK drives most NICs itself, through vfio-pci, and gets no packet while the kernel's"
        " driver has them. NICs of mlx5 are shared with the kernel's driver, and must keep it.",
        "dpdk-devbind.py -b vfio-pci ADDRESS; for mlx5: dpdk-devbind.py -b mlx5_core ADDRESS",
    ),
    "D13": Entry(
        "rights on vfio",
        "The file of the NIC's IOMMU group decides who may drive it.",
        "chown USER /dev/vfio/GROUP, or a udev rule.",
    ),
    "D14": Entry(
        "limits",
        "vfio locks all packet memory (memlock); each hugepage is a file (nofile) and a mapping"
        " (vm.max_map_count).",
        "LimitMEMLOCK=infinity and LimitNOFILE=65536 in the unit, or ulimit; sysctl -w"
        " vm.max_map_count=NUMBER",
    ),
    "D15": Entry(
        "address space layout",
        "Secondary processes map shared memory at the primary's addresses; randomisation can make"
        " that fail for other DPDK programs. dpsup's workers are forked and do not depend on it.",
        "Nothing to do. Where an attach fails all the same: eal_extra ="
        ' ["--base-virtaddr=0x200000000000"] before turning ASLR off.',
    ),
    "D16": Entry(
        "one DPDK for all processes",
        "The primary loads DPDK's shared libraries, the workers have EAL built in; they share"
        " memory, and must be of one build.",
        "Build dpsup anew after an upgrade of DPDK: ./deploy/host-setup, or pip install.",
    ),
    "D17": Entry(
        "DPDK's version",
        "Stable releases mend drivers, and holes that packets can reach.",
        "apt-get install --only-upgrade libdpdk-dev, then build dpsup anew. Advisories:"
        " https://core.dpdk.org/security/",
    ),
    "D18": Entry(
        "the clock",
        "Times are read from the TSC, which must tick evenly, on all CPUs and in all their states;"
        " another clock source makes each reading a system call.",
        "Kernel command line: tsc=reliable, where the machine's TSC is; in a VM, ask for the host's"
        " CPU model.",
    ),
    "D19": Entry(
        "memory that moves",
        "NUMA balancing unmaps pages to see who uses them, KSM merges them, swap takes them away:"
        " each is a page fault in a process that moves packets.",
        "sysctl -w kernel.numa_balancing=0; echo 0 > /sys/kernel/mm/ksm/run; swapoff -a",
    ),
    "D20": Entry(
        "real-time throttling",
        "A SCHED_FIFO process that polls is stopped for 5 % of each second. dpsup's processes are"
        " not SCHED_FIFO, unless somebody makes them so with chrt.",
        "Leave scheduling classes alone; else sysctl -w kernel.sched_rt_runtime_us=-1",
    ),
    "D21": Entry(
        "watchdogs and timers",
        "The NMI watchdog and migrating timers interrupt polling CPUs now and then.",
        "sysctl -w kernel.nmi_watchdog=0 kernel.timer_migration=0",
    ),
    "D22": Entry(
        "PCIe links",
        "A NIC on a link narrower or slower than its own has no room for its rate.",
        "Put it in another slot, or seat it anew; the BIOS can limit a slot's speed too.",
    ),
    "D23": Entry(
        "mempools",
        "Descriptors, lanes, bursts and caches hold mbufs; a pool that is smaller starves ports.",
        "Raise mbufs as the message says.",
    ),
    "D24": Entry(
        "the runtime folder",
        "Whoever may write in it gives orders to the instance; its sockets' paths have room for"
        " 107 bytes.",
        "chmod 700 /run/dpsup/NAME, or a shorter runtime_dir.",
    ),
    "D25": Entry(
        "room for state and cores",
        "State is kept in the runtime folder; a crash's core file is evidence only where it can be"
        " written.",
        "Free some space; echo /var/lib/cores/%e.%p > /proc/sys/kernel/core_pattern",
    ),
    "D26": Entry(
        "virtual machine or container",
        "A hypervisor that takes CPU time away (steal) stops io cores and workers in mid-burst.",
        "Pin the VM's CPUs to CPUs of their own on its host.",
    ),
    "D27": Entry(
        "lockdown and mandatory access control",
        "A locked-down kernel refuses uio and no-IOMMU vfio; AppArmor or SELinux can refuse vfio"
        " and hugetlbfs.",
        "Use vfio-pci with an IOMMU; allow hugetlbfs and /dev/vfio in the profile.",
    ),
    "D28": Entry(
        "queues of Unix sockets",
        "EAL's processes talk by datagrams; a queue shorter than twice their number can block one.",
        "sysctl -w net.unix.max_dgram_qlen=64",
    ),
}
