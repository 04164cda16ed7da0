# SPDX-License-Identifier: BSD-3-Clause
"""CPUs: nodes, isolation, siblings, clocks, sleep states, interrupts."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath

from dpsup.doctor.facts import Needs
from dpsup.doctor.finding import NO_FILE, Check, Finding, checked, error, info, ok, skip, warn
from dpsup.host.tree import Machine
from dpsup.text import cpus, ranges

_CPU = "/sys/devices/system/cpu"
SLOW_US = 10  # an exit latency above this delays packets
STEAL = 0.01


def _list(found: frozenset[int] | set[int] | list[int]) -> str:
    return ranges(sorted(found))


def numa(m: Machine, n: Needs | None) -> Iterator[Finding]:
    nodes = {cpu: node for node, cpus_ in m.host.numa.items() for cpu in cpus_}
    if len(m.host.numa) < 2 and not n:
        yield ok("D04", "one node", "/sys/devices/system/node")
        return
    if n is None:
        yield skip("D04", NO_FILE)
        return
    found = list(checked("D04", n, "E0207"))
    io = {nodes[cpu] for cpu in n.io if cpu in nodes}
    for port in n.topology.ports:
        if not port.pci or port.device not in m.host.pci:
            continue
        node = m.host.pci[port.device].numa
        read = f"/sys/bus/pci/devices/{port.device}/numa_node: {node}"
        near = _list(m.host.numa.get(node, frozenset()))
        if node >= 0 and io and node not in io:
            found.append(
                warn(
                    "D04", f"port `{port.name}` is on node {node}, but no io core is", read,
                    manual=f"take cores of [[io]] from CPUs {near}",
                )
            )  # fmt: skip
        pool = n.topology.mempools.get(port.mempool)
        if node >= 0 and pool and pool.numa != node and pool.numa in m.host.numa:
            found.append(
                warn(
                    "D04",
                    f"port `{port.name}` is on node {node}, its mempool `{port.mempool}` on"
                    f" {pool.numa}",
                    read, manual=f"write numa = {node} in [mempools.{port.mempool}]",
                )
            )  # fmt: skip
    far = {cpu for cpu in n.workers if cpu in nodes and nodes[cpu] not in io}
    if far and io:
        there = _list(set().union(*(m.host.numa[node] for node in io)) - n.io)
        found.append(
            warn(
                "D04", f"workers on {cpus(far)} are on another node than the io cores",
                f"/sys/devices/system/node/node*/cpulist; io cores on {cpus(n.io)}",
                manual=f"take cores of [[workers]] from CPUs {there}",
            )
        )  # fmt: skip
    yield from found
    if not found:
        what = f"all on node {_list(io)}" if len(m.host.numa) > 1 else "one node"
        yield ok("D04", what, "/sys/devices/system/node")


def isolation(m: Machine, n: Needs | None) -> Iterator[Finding]:
    isolated = m.cpus(f"{_CPU}/isolated") | m.cpus("/sys/fs/cgroup/cpuset.cpus.isolated")
    tickless = m.cpus(f"{_CPU}/nohz_full")
    read = f'{_CPU}/isolated: "{_list(isolated)}", nohz_full: "{_list(tickless)}"'
    if n is None:
        yield skip("D05", NO_FILE)
        return
    bare = n.data - isolated
    if not bare:
        late = n.data - tickless
        yield ok("D05", f"{cpus(n.data)}, with ticks on {_list(late) or 'none'}", read)
        return
    # The kernel's own work, and the supervisor, need a CPU that is left to them.
    left = m.host.online - n.data
    if not left:
        left = frozenset({min(n.supervisor & m.host.online or m.host.online)})
    want = _list(n.data - left)
    if not want:
        yield warn(
            "D05", "io cores and workers use every CPU: none can be isolated", read,
            manual="isolation needs a CPU that is left to the kernel: use a machine with more CPUs",
        )  # fmt: skip
        return
    keep = "" if m.host.online - n.data else f"; CPU {_list(left)} is left to the kernel"
    yield warn(
        "D05", f"{cpus(bare)} of io cores and workers are not isolated"
        if len(bare) > 1 else f"{cpus(bare)}, of an io core or worker, is not isolated",
        read,
        manual=f"add isolcpus={want} nohz_full={want} rcu_nocbs={want} to the kernel's command"
        f" line and reboot{keep}",
    )  # fmt: skip


def choice(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D06", NO_FILE)
        return
    found = list(checked("D06", n, "E0201", "E0203", "E0204"))
    if 0 in n.data:
        user = "an io core" if 0 in n.io else "a worker"
        found.append(
            warn(
                "D06", f"CPU 0 is used by {user}", "the topology's cores",
                manual="name other CPUs in the topology; CPU 0 suits supervisor_cores",
            )
        )  # fmt: skip
    told: set[int] = set()
    for cpu in sorted(n.data):
        file = f"{_CPU}/cpu{cpu}/topology/thread_siblings_list"
        shared = (m.cpus(file) - {cpu}) & (n.data | n.supervisor)
        if shared and cpu not in told:
            told |= shared
            found.append(
                warn(
                    "D06", f"CPU {cpu} and {cpus(shared)} are threads of one core, both in use",
                    f"{file}: {m.text(file)}", manual="name CPUs of different cores (lscpu -e)",
                )
            )  # fmt: skip
    yield from found
    if not found:
        yield ok("D06", f"io cores {_list(n.io)}, workers {_list(n.workers)}", "siblings: apart")


def allowed(m: Machine, n: Needs | None) -> Iterator[Finding]:
    read = f"/proc/self/status: Cpus_allowed_list: {_list(m.host.allowed)}"
    used = (n.data | n.supervisor) if n else frozenset()
    barred = (used & m.host.online) - m.host.allowed
    if barred:
        yield error(
            "D07", f"this process may not use {cpus(barred)}", read,
            manual="start dpsup without taskset, or widen AllowedCPUs= or the container's cpuset;"
            f" or name CPUs of {_list(m.host.allowed)}",
        )  # fmt: skip
    elif not n and m.host.allowed < m.host.online:
        yield info("D07", f"{cpus(m.host.allowed)} of {_list(m.host.online)}", read)
    else:
        yield ok("D07", f"{cpus(m.host.allowed)}", read)


def frequency(m: Machine, n: Needs | None) -> Iterator[Finding]:
    which = sorted(n.data if n else m.host.online)
    said = {cpu: m.text(f"{_CPU}/cpu{cpu}/cpufreq/scaling_governor") for cpu in which}
    said = {cpu: word for cpu, word in said.items() if word}
    if not said:
        yield skip("D08", "no frequency control here (a virtual machine, or fixed clocks)")
        return
    bad = [cpu for cpu, word in said.items() if word != "performance"]
    if bad:
        words = sorted({said[cpu] for cpu in bad})
        yield warn(
            "D08", f"the governor of {cpus(bad)} is {', '.join(words)}",
            f"{_CPU}/cpu{bad[0]}/cpufreq/scaling_governor: {said[bad[0]]}",
            *(f"echo performance > {_CPU}/cpu{cpu}/cpufreq/scaling_governor" for cpu in bad),
        )  # fmt: skip
        return
    name = "cpufreq/energy_performance_preference"
    epp = {cpu: m.text(f"{_CPU}/cpu{cpu}/{name}") for cpu in which}
    saving = [cpu for cpu, word in epp.items() if word in ("power", "balance_power")]
    if saving:
        yield warn(
            "D08", f"the energy preference of {cpus(saving)} is {epp[saving[0]]}",
            f"{_CPU}/cpu{saving[0]}/{name}: {epp[saving[0]]}",
            *(f"echo performance > {_CPU}/cpu{cpu}/{name}" for cpu in saving),
        )  # fmt: skip
        return
    yield ok("D08", "performance", f"{_CPU}/cpu*/cpufreq/scaling_governor")


def sleep_states(m: Machine, n: Needs | None) -> Iterator[Finding]:
    which = sorted(n.data if n else m.host.online)
    slow: list[tuple[int, str, int]] = []
    states = 0
    for cpu in which:
        for state in m.glob(f"{_CPU}/cpu{cpu}/cpuidle/state[0-9]*"):
            states += 1
            latency = m.number(f"{state}/latency") or 0
            if latency > SLOW_US and m.number(f"{state}/disable") == 0:
                slow.append((cpu, state, latency))
    if not states:
        yield skip("D09", "no sleep states here (a virtual machine, or idle=poll)")
        return
    try:
        raw = m.path("/dev/cpu_dma_latency").read_bytes()[:4]
        held = struct.unpack("i", raw)[0] <= SLOW_US
    except (OSError, struct.error):
        held = False
    if slow and not held:
        cpu, state, latency = max(slow, key=lambda one: one[2])
        yield warn(
            "D09", f"{cpus({c for c, _, _ in slow})} may need up to {latency} us to wake",
            f"{state}/latency: {latency}, disable: 0",
            *(f"echo 1 > {one}/disable" for _, one, _ in slow),
        )  # fmt: skip
    else:
        yield ok("D09", f"none above {SLOW_US} us", f"{_CPU}/cpu*/cpuidle")


def interrupts(m: Machine, n: Needs | None) -> Iterator[Finding]:
    if n is None:
        yield skip("D10", NO_FILE)
        return
    found: list[Finding] = []
    here: dict[str, str] = {}
    for directory in m.glob("/proc/irq/[0-9]*"):
        names = [PurePosixPath(p).name for p in m.glob(f"{directory}/*") if m.path(p).is_dir()]
        effective = m.text(f"{directory}/effective_affinity_list")
        file = "effective_affinity_list" if effective else "smp_affinity_list"
        if names and m.cpus(f"{directory}/{file}") & n.data:
            here[directory] = names[0]
    others = _list((m.host.online & m.host.allowed) - n.data)
    if here:
        first = next(iter(here))
        some = ", ".join(
            f"{PurePosixPath(f).name} ({device})" for f, device in list(here.items())[:4]
        )
        found.append(
            warn(
                "D10", f"{len(here)} interrupts arrive on CPUs that move packets: {some}"
                + (", ..." if len(here) > 4 else "")
                if len(here) > 1 else f"an interrupt arrives on a CPU that moves packets: {some}",
                f"{first}/effective_affinity_list: {m.text(f'{first}/effective_affinity_list')}",
                *(f"echo {others} > {f}/smp_affinity_list" for f in here if others),
                manual="" if others else "no CPU is left for them",
            )
        )  # fmt: skip
    comm = m.glob("/proc/[0-9]*/comm")
    if any(m.text(one) == "irqbalance" for one in comm):
        banned = re.search(
            r"(?m)^IRQBALANCE_BANNED_CPULIST=(\S+)", m.text("/etc/default/irqbalance")
        )
        if not (banned and set(n.data) <= _parsed(banned[1])):
            found.append(
                warn(
                    "D10", "irqbalance runs, and may move interrupts to CPUs that move packets",
                    "/proc/*/comm: irqbalance", "systemctl stop irqbalance",
                    manual=f"or IRQBALANCE_BANNED_CPULIST={_list(n.data)} in"
                    " /etc/default/irqbalance",
                )
            )  # fmt: skip
    yield from found
    if not found:
        yield ok("D10", f"none on CPUs {_list(n.data)}", "/proc/irq/*/effective_affinity_list")


def _parsed(text: str) -> set[int]:
    from dpsup.host.machine import parse_cpulist

    try:
        return set(parse_cpulist(text.strip("\"'")))
    except ValueError:
        return set()


def clock(m: Machine, _: Needs | None) -> Iterator[Finding]:
    file = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    source = m.text(file)
    info_ = m.text("/proc/cpuinfo")
    flags = set(re.findall(r"\S+", (re.search(r"(?m)^flags\s*:(.*)$", info_) or [""])[0]))
    read = f"{file}: {source or 'nothing'}"
    if not flags:
        yield skip("D18", "not an x86 processor, or /proc/cpuinfo is missing")
        return
    missing = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags]
    if source in ("hpet", "acpi_pm", "jiffies", "refined-jiffies"):
        yield warn(
            "D18", f"the clock source is {source}, not tsc", read,
            manual="dmesg | grep -i tsc shows why the kernel distrusts it; if it is wrong,"
            " tsc=reliable on the kernel's command line",
        )  # fmt: skip
    elif missing:
        yield warn(
            "D18", f"the processor does not report {' and '.join(missing)}",
            "/proc/cpuinfo: flags",
            manual="in a VM, choose the host's CPU model; else times drift with the clock rate",
        )  # fmt: skip
    else:
        yield ok("D18", f"{source or 'unknown'}, constant and nonstop", read)


def real_time(m: Machine, _: Needs | None) -> Iterator[Finding]:
    said = m.text("/proc/sys/kernel/sched_rt_runtime_us")
    yield skip(
        "D20",
        f"no thread of dpsup that polls is SCHED_FIFO (sched_rt_runtime_us: {said or 'missing'})",
    )


def timers(m: Machine, _: Needs | None) -> Iterator[Finding]:
    names = ("nmi_watchdog", "timer_migration")
    on = [name for name in names if m.number(f"/proc/sys/kernel/{name}") == 1]
    read = ", ".join(
        f"kernel.{name} = {m.text(f'/proc/sys/kernel/{name}') or '-'}" for name in names
    )
    if on:
        sysctl = " ".join(f"kernel.{name}=0" for name in on)
        yield info("D21", f"{' and '.join(on)} on", read, f"sysctl -w {sysctl}")
    else:
        yield ok("D21", "off", read)


def virtual(m: Machine, _: Needs | None) -> Iterator[Finding]:
    words = (m.text("/proc/stat").splitlines() or [""])[0].split()
    times = [int(word) for word in words[1:9] if word.isdigit()]
    stolen = times[7] / (sum(times) or 1) if len(times) == 8 else 0.0
    guest = re.search(r"(?m)^flags\s*:.*\bhypervisor\b", m.text("/proc/cpuinfo"))
    container = m.exists("/.dockerenv") or m.exists("/run/.containerenv")
    where = "a virtual machine" if guest else "no virtual machine"
    where += ", in a container" if container else ""
    read = f"/proc/stat: {stolen:.2%} steal since boot; /proc/cpuinfo: {where}"
    if stolen > STEAL:
        yield warn(
            "D26", f"the hypervisor took {stolen:.1%} of the CPU time since boot", read,
            manual="pin this VM's CPUs to dedicated CPUs of its host, or run fewer VMs there",
        )  # fmt: skip
    elif not m.exists("/sys/fs/cgroup/cgroup.controllers"):
        yield info("D26", f"{where}, {stolen:.2%} steal; no cgroup v2 at /sys/fs/cgroup", read)
    else:
        yield ok("D26", f"{where}, {stolen:.2%} steal", read)


CHECKS: dict[str, Check] = {
    "D04": numa, "D05": isolation, "D06": choice, "D07": allowed, "D08": frequency,
    "D09": sleep_states, "D10": interrupts, "D18": clock, "D20": real_time, "D21": timers,
    "D26": virtual,
}  # fmt: skip
