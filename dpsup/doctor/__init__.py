# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup doctor`: checks whether a machine suits a topology, and names the commands that help.

`CHECKS` describes each check, for the report, `dpsup explain` and docs/errors.md; `facts` reads the
machine, `memory`, `cpus`, `devices` and `system` judge it, `report` runs them and formats the
result. Nothing here changes the machine.
"""

from __future__ import annotations

from dpsup.error_codes import Entry

CHECKS: dict[str, Entry] = {
    "D01": Entry(
        "hugepages",
        "All packet memory is reserved in hugepages at start, on the NUMA nodes of pools and"
        " ports; if fewer are free, the start fails.",
        "echo NUMBER > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages; at boot, before"
        " memory is fragmented, hugepages=NUMBER on the kernel's command line.",
    ),
    "D02": Entry(
        "hugetlbfs",
        "Processes share hugepages through files of a hugetlbfs mount, to which the user must be"
        " able to write and whose size= must leave room.",
        "mkdir -p /dev/hugepages && mount -t hugetlbfs -o pagesize=2M nodev /dev/hugepages",
    ),
    "D03": Entry(
        "leftovers of dead processes",
        "Files that a killed primary left in hugetlbfs keep their hugepages until they are removed;"
        " a live primary with the instance's prefix prevents a start.",
        "`dpsup clean` removes the files of dead instances; remove other programs' files by hand.",
    ),
    "D04": Entry(
        "NUMA",
        "A packet that crosses from one NUMA node to another takes about twice the time per cache"
        " line, at the NIC, the io core and the worker.",
        "Take io cores, workers and `numa` of the mempool from the node that the NIC is on.",
    ),
    "D05": Entry(
        "isolated CPUs",
        "Without isolation the kernel runs other tasks and its timer on the CPUs that move"
        " packets: each time, some packets are late or missed.",
        "Kernel command line: isolcpus=LIST nohz_full=LIST rcu_nocbs=LIST, or an isolated cpuset"
        " partition.",
    ),
    "D06": Entry(
        "which CPUs",
        "CPU 0 does the kernel's own work; the two threads of an SMT core share its execution"
        " units, so a busy sibling takes a third to a half of the speed.",
        "Take io cores and workers from CPUs other than 0, one thread of each core.",
    ),
    "D07": Entry(
        "allowed CPUs",
        "A cpuset, container or taskset limits the CPUs of this process; pinning to others fails.",
        "Widen AllowedCPUs= (systemd), --cpuset-cpus (containers) or taskset.",
    ),
    "D08": Entry(
        "CPU frequency",
        "A power-saving governor changes the clock of a polling CPU, and the rates with it.",
        "echo performance > /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor",
    ),
    "D09": Entry(
        "C-states",
        "While a worker waits, its CPU may sleep; waking from a deep state takes more than 10 us.",
        "echo 1 > /sys/devices/system/cpu/cpuN/cpuidle/stateM/disable for those above 10 us.",
    ),
    "D10": Entry(
        "interrupts",
        "A device interrupt on a CPU that moves packets delays them by some microseconds.",
        "Write other CPUs to /proc/irq/N/smp_affinity_list, and stop irqbalance from changing it.",
    ),
    "D11": Entry(
        "IOMMU and vfio",
        "vfio-pci gives a NIC to a process safely, by the IOMMU. Without an IOMMU it needs the"
        " unsafe no-IOMMU mode, in which the NIC can write to all memory.",
        "Kernel command line: intel_iommu=on iommu=pt (or amd_iommu=on); modprobe vfio-pci.",
    ),
    "D12": Entry(
        "drivers of devices",
        "DPDK drives most NICs itself, through vfio-pci, and receives no packet while the kernel's"
        " driver is bound. mlx5 NICs are shared with the kernel's driver, and must keep it.",
        "dpdk-devbind.py -b vfio-pci ADDRESS; for mlx5: dpdk-devbind.py -b mlx5_core ADDRESS",
    ),
    "D13": Entry(
        "rights on vfio",
        "The permissions of the file of the NIC's IOMMU group decide which users may drive it.",
        "chown USER /dev/vfio/GROUP, or a udev rule.",
    ),
    "D14": Entry(
        "limits",
        "vfio locks all packet memory (memlock); each hugepage is a file (nofile, fsize) and a"
        " mapping (vm.max_map_count); EAL reserves 64 GiB of addresses (as).",
        "LimitMEMLOCK=infinity and LimitNOFILE=65536 in the unit, or ulimit; sysctl -w"
        " vm.max_map_count=NUMBER",
    ),
    "D15": Entry(
        "address space layout",
        "Secondary processes map shared memory at the primary's addresses; randomisation can"
        " prevent that in other DPDK programs. dpsup's workers are forked and not affected.",
        "Nothing to do. If an attach fails nevertheless: eal_extra ="
        ' ["--base-virtaddr=0x200000000000"] before turning ASLR off.',
    ),
    "D16": Entry(
        "one DPDK for all processes",
        "The primary loads DPDK's shared libraries, the workers link EAL statically; they share"
        " memory, and must be of the same version.",
        "Rebuild dpsup after an upgrade of DPDK: ./deploy/host-setup, or pip install.",
    ),
    "D17": Entry(
        "DPDK's version",
        "Stable releases fix drivers, and security holes that packets can reach.",
        "apt-get install --only-upgrade libdpdk-dev, then rebuild dpsup. Advisories:"
        " https://core.dpdk.org/security/",
    ),
    "D18": Entry(
        "the clock",
        "Times are read from the TSC, which must tick evenly, on all CPUs and in all their states;"
        " with another clock source each reading is a system call.",
        "Kernel command line: tsc=reliable, if the machine's TSC is reliable; in a VM, choose the"
        " host's CPU model.",
    ),
    "D19": Entry(
        "memory that moves",
        "NUMA balancing unmaps pages to find their users, KSM merges pages, swap removes them:"
        " each causes page faults in a process that moves packets.",
        "sysctl -w kernel.numa_balancing=0; echo 0 > /sys/kernel/mm/ksm/run; swapoff -a",
    ),
    "D20": Entry(
        "real-time throttling",
        "A SCHED_FIFO thread that polls is stopped for 5 % of each second. Of dpsup's threads only"
        " the wardens are SCHED_FIFO (priority 1), where that is permitted: they sleep, but for"
        " microseconds at a death. Nothing that polls is, unless an administrator changes it with"
        " chrt.",
        "Do not change scheduling classes; otherwise sysctl -w kernel.sched_rt_runtime_us=-1",
    ),
    "D21": Entry(
        "watchdogs and timers",
        "The NMI watchdog and migrating timers interrupt polling CPUs from time to time.",
        "sysctl -w kernel.nmi_watchdog=0 kernel.timer_migration=0",
    ),
    "D22": Entry(
        "PCIe links",
        "A NIC on a link narrower or slower than its own cannot reach its rate.",
        "Move it to another slot, or reseat it; the BIOS can limit a slot's speed too.",
    ),
    "D23": Entry(
        "mempools",
        "Descriptors, lanes, bursts and caches hold mbufs; a smaller pool starves ports.",
        "Raise mbufs as the message says.",
    ),
    "D24": Entry(
        "the runtime directory",
        "Every user that may write to it can control the instance; the paths of its sockets are"
        " limited to 107 bytes.",
        "chmod 700 /run/dpsup/NAME, or a shorter runtime_dir.",
    ),
    "D25": Entry(
        "room for state and cores",
        "State is kept in the runtime directory; the core file of a crash needs room too.",
        "Free some space; echo /var/lib/cores/%e.%p > /proc/sys/kernel/core_pattern",
    ),
    "D26": Entry(
        "virtual machine or container",
        "A hypervisor that takes CPU time (steal) stops io cores and workers within a burst.",
        "Pin the VM's CPUs to dedicated CPUs of its host.",
    ),
    "D27": Entry(
        "lockdown and mandatory access control",
        "A locked-down kernel refuses uio and no-IOMMU vfio; AppArmor or SELinux can refuse vfio"
        " and hugetlbfs.",
        "Use vfio-pci with an IOMMU; allow hugetlbfs and /dev/vfio in the profile.",
    ),
    "D28": Entry(
        "queues of Unix sockets",
        "EAL's processes exchange datagrams; a queue shorter than twice their number can"
        " block one.",
        "sysctl -w net.unix.max_dgram_qlen=64",
    ),
    "D29": Entry(
        "offloads of kernel interfaces",
        "The kernel leaves checksums to a NIC that offers to fill them in, and joins frames or"
        " leaves them uncut. A port on such an interface forwards them as they are: ping works, TCP"
        " stalls, long frames are counted as `oversize`.",
        "ethtool -K IFACE tx off tso off gso off gro off; on a veth pair at both ends.",
    ),
    "D30": Entry(
        "confinement of workers",
        "After the plugin's init a worker gives up system calls by seccomp, and files by Landlock"
        " where the kernel has it. Without seccomp it is refused.",
        'A kernel with CONFIG_SECCOMP_FILTER; or confine = "off" in the group.',
    ),
}
