# SPDX-License-Identifier: BSD-3-Clause
"""Each fault planted in a sound machine's tree is found, and nothing else is."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.hosttree import CPU, FLAGS, HUGE, LIMITS, MLX, NIC, PMDS, TOPOLOGY, Tree, sound

from dpsup.doctor import CHECKS, cpus, report
from dpsup.doctor.finding import Finding, Level
from dpsup.errors import Exit, TopologyError
from dpsup.host.tree import Machine

DEVICE = f"sys/bus/pci/devices/{NIC}"
BAD = (Level.WARN, Level.ERROR)
Plant = Callable[[Tree], object]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return sound(tmp_path / "root")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(TOPOLOGY)
    return path


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.id, str(f.level)) for f in findings if f.level in BAD]


def test_a_sound_machine_has_no_fault_and_every_check_speaks(tree: Tree, file: Path) -> None:
    for given in (None, str(file)):
        findings = report.examine(given, tree.machine())
        assert bad(findings) == [], report.text(findings)
        assert [f.id for f in findings] == list(CHECKS)
        assert all(f.message for f in findings)
        assert report.exit_code(findings) is Exit.OK
    # With a topology nothing is left unjudged but what can never apply.
    assert [f.id for f in findings if f.level is Level.SKIP] == ["D20"]
    assert [f for f in findings if f.level is Level.INFO] == []


def put(name: str, text: str = "") -> Plant:
    return lambda tree: tree.put(name, text)


def remove(name: str) -> Plant:
    return lambda tree: tree.remove(name)


def both(*plants: Plant) -> Plant:
    return lambda tree: [plant(tree) for plant in plants]


def mount(options: str) -> Plant:
    return put("proc/mounts", f"nodev /dev/hugepages hugetlbfs {options} 0 0\n" if options else "")


def driver(name: str) -> Plant:
    def plant(tree: Tree) -> None:
        tree.remove(f"{DEVICE}/driver")
        if name:
            tree.link(f"{DEVICE}/driver", f"sys/bus/pci/drivers/{name}")

    return plant


def dead(name: str) -> Plant:
    return put(f"var/run/dpdk/{name}/config")


NO_IOMMU = both(remove("sys/kernel/iommu_groups"), put("sys/kernel/iommu_groups/x"))
UNSAFE = put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
NODE0 = f"sys/devices/system/node/node0/{HUGE}"
GOVERNOR = f"{CPU}/cpu2/cpufreq/scaling_governor"

# (planted, what must be found, words of the message, words of the fix)
FAULTS: list[tuple[Plant, str, str, str]] = [
    (put(f"sys/kernel/mm/{HUGE}/free_hugepages", "3\n"), "D01 error", "3 free", "echo 1"),
    (put(f"{NODE0}/free_hugepages", "3\n"), "D01 error", "NUMA node 0, 3 free", "node0/"),
    (remove("sys/kernel/mm/hugepages"), "D01 error", "no hugepages", ""),
    (mount(""), "D02 error", "no hugetlbfs", "mount -t hugetlbfs"),
    (mount("rw,pagesize=1G"), "D02 error", "no hugetlbfs with pages of 2M", "pagesize=2M"),
    (mount("ro,pagesize=2M"), "D02 error", "read-only", "remount,rw"),
    (mount("rw,pagesize=2M,size=64M"), "D02 error", "room for 64 MiB", "remount,size="),
    (mount("rw,pagesize=2M,size=65536k"), "D02 error", "room for 64 MiB", "remount,size="),
    (dead("dpsup-edge-g4"), "D03 warn", "1 directory", "rm -rf /var/run/dpdk/dpsup-edge-g4"),
    (
        both(dead("dpsup-other-g4"), put("dev/hugepages/dpsup-other-g4map_1")),
        "D03 warn", "1 directory", "dpsup clean",
    ),
    (put("dev/hugepages/rtemap_7"), "D03 warn", "hold hugepages", "/dev/hugepages/rtemap_7"),
    (put(f"{DEVICE}/numa_node", "1\n"), "D04 warn", "node 1, but no io core is", "4-7"),
    (put(f"{CPU}/isolated", "3\n"), "D05 warn", "CPU 2", "isolcpus=2-3"),
    (put(f"{CPU}/isolated", "\n"), "D05 warn", "CPUs 2-3", "isolcpus=2-3"),
    (put(f"{CPU}/cpu2/topology/thread_siblings_list", "2-3\n"), "D06 warn", "one core", "lscpu"),
    (put(f"{CPU}/online", "0-2,4-7\n"), "D06 error", "CPU 3", "use CPUs"),
    (put("proc/self/status", "Cpus_allowed_list:\t0-2\n"), "D07 error", "CPU 3", "cpuset"),
    (put(GOVERNOR, "powersave\n"), "D08 warn", "CPU 2 is powersave", f"performance > /{GOVERNOR}"),
    (
        put(f"{CPU}/cpu3/cpufreq/energy_performance_preference", "power\n"),
        "D08 warn", "energy preference of CPU 3", "energy_performance_preference",
    ),
    (put(f"{CPU}/cpu2/cpuidle/state1/disable", "0\n"), "D09 warn", "133 us", "state1/disable"),
    (put("proc/irq/24/effective_affinity_list", "2\n"), "D10 warn", "24 (eth0-rx)", "irq/24/smp"),
    (
        both(remove("proc/irq/24/effective_affinity_list"),
             put("proc/irq/24/smp_affinity_list", "0-7\n")),
        "D10 warn", "24 (eth0-rx)", "echo 0-1,4-7 >",
    ),
    (put("proc/77/comm", "irqbalance\n"), "D10 warn", "irqbalance", "systemctl stop irqbalance"),
    (NO_IOMMU, "D11 error", "unsafe mode is disabled", "intel_iommu=on"),
    (both(NO_IOMMU, UNSAFE), "D11 warn", "unsafe mode", "intel_iommu=on"),
    (remove("sys/bus/pci/drivers/vfio-pci"), "D11 error", "not loaded", "modprobe vfio-pci"),
    (driver("ixgbe"), "D12 error", "kernel's ixgbe", f"dpdk-devbind.py -b vfio-pci {NIC}"),
    (driver(""), "D12 error", "no driver", f"dpdk-devbind.py -b vfio-pci {NIC}"),
    (
        both(driver("ixgbe"), put(f"{DEVICE}/net/eth0/address")),
        "D12 error", "interface eth0 has a route", "first check that your connection",
    ),
    (put(f"{DEVICE}/vendor", "0x15b3\n"), "D12 error", "needs the kernel's mlx5_core", "mlx5_core"),
    (
        lambda tree: tree.remove(DEVICE),
        "D12 error", f"no PCI device {NIC}", "dpdk-devbind.py --status-dev net",
    ),
    (remove("dev/vfio/41"), "D13 error", "/dev/vfio/41", "chown 0 /dev/vfio/41"),
    (put("proc/self/limits", LIMITS.replace("65536", "256")), "D14 error", "256 files", "ulimit"),
    (put("proc/sys/vm/max_map_count", "99\n"), "D14 error", "99 mappings", "sysctl -w vm.max_map"),
    (remove(PMDS), "D16 error", f"no drivers in {PMDS}", "rebuild dpsup"),
    (
        remove("usr/lib/x86_64-linux-gnu/librte_eal.so.23"),
        "D16 error", "librte_eal.so.23", "rebuild dpsup",
    ),
    (
        lambda tree: tree.put(
            "var/lib/dpkg/status", (tree.root / "var/lib/dpkg/status").read_text()
            .replace("22.11.11", "22.11.12")
        ),
        "D16 error", "built with DPDK 22.11.11, but 22.11.12", "rebuild dpsup",
    ),
    (
        put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
        "D18 warn", "hpet", "tsc=reliable",
    ),
    (put("proc/cpuinfo", FLAGS.replace("nonstop_tsc", "")), "D18 warn", "nonstop_tsc", "CPU model"),
    (put("proc/sys/kernel/numa_balancing", "1\n"), "D19 warn", "NUMA bal", "numa_balancing=0"),
    (put("sys/kernel/mm/ksm/run", "1\n"), "D19 warn", "KSM", "echo 0 > /sys/kernel/mm/ksm/run"),
    (put("proc/swaps", "Filename\n/dev/sda2 partition 999 5 -2\n"), "D19 warn", "swap", "swapoff"),
    (put(f"{DEVICE}/current_link_width", "4\n"), "D22 warn", "4 of 8 lanes", "slot"),
    (put(f"{DEVICE}/current_link_speed", "2.5 GT/s PCIe\n"), "D22 warn", "2.5 GT/s", "slot"),
    (
        lambda tree: tree.folder("run/dpsup/other", 0o777),
        "D24 warn", "other users may", "chmod 700",
    ),
    (
        both(put("proc/sys/kernel/core_pattern", "/var/cores/%p\n"),
             put("proc/self/limits", LIMITS.replace("size        0 ", "size        unlimited "))),
        "D25 warn", "/var/cores, which does not exist", "mkdir -p /var/cores",
    ),
    (put("proc/stat", "cpu  1000 0 1000 90000 0 0 0 9000\n"), "D26 warn", "8.9%", "Pin|pin"),
    (put("proc/self/attr/current", "dpsup (enforce)\n"), "D27 warn", "AppArmor", "profile"),
    (put("proc/sys/net/unix/max_dgram_qlen", "5\n"), "D28 warn", "5 datagrams", "max_dgram_qlen"),
    (
        put("proc/sys/kernel/seccomp/actions_avail", "kill_thread errno\n"),
        "D30 warn", "no system calls", "confine",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("plant", "found", "message", "fix"), FAULTS, ids=[f"{f[1]}-{f[2][:20]}" for f in FAULTS]
)
def test_a_planted_fault_is_found_and_no_other(
    tree: Tree, file: Path, plant: Plant, found: str, message: str, fix: str
) -> None:
    plant(tree)
    findings = report.examine(str(file), tree.machine())
    ids = [" ".join(one) for one in bad(findings)]
    assert set(ids) == {found}, report.text(findings)
    assert sum(f.id == found[:3] for f in findings if f.level not in BAD) == 0
    the = [f for f in findings if f.level in BAD]
    assert message in " ".join(f.message for f in the)
    help = " ".join([*(c for f in the for c in f.fix), *(f.manual for f in the)])
    assert any(word in help for word in fix.split("|"))
    for f in the:
        assert f.why
        assert f.read
        assert f.fix or f.manual
    assert report.exit_code(findings) is (Exit.HOST if "error" in found else Exit.OK)


def change(old: str, new: str) -> Callable[[str], str]:
    def swap(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return swap


TOPOLOGIES = [
    (change('cores = "2"', 'cores = "0"'), {"D05 warn", "D06 warn", "D10 warn"}, "CPU 0"),
    (change('cores = "3"', 'cores = "7"'), {"D04 warn"}, "CPU 7 are on another node"),
    (change("mbufs = 16383", "mbufs = 16383\nnuma = 1"), {"D04 warn"}, "mempool `default` on 1"),
    (change("mbufs = 16383", "mbufs = 16383\nnuma = 7"), {"D04 error"}, "NUMA node 7"),
    (change("mbufs = 16383", "mbufs = 500"), {"D23 error"}, "needs at least"),
    (change("mbufs = 16383", "mbufs = 5100"), {"D23 warn"}, "with all lanes full"),
    (change("[mempools.default]", '[mempools.default]\npage_size = "1G"'),
     {"D01 error", "D02 error"}, "1 GiB"),
    (change('"net_null0"', '"net_af_packet0,iface=eth9"'), {"D12 error"}, "eth9"),
    (change('name = "edge"', f'name = "{"e" * 31}"'), set(), ""),
    (change("[host]", f'[host]\nruntime_dir = "/{"r" * 99}"'), {"D24 error"}, "too long"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "found", "message"), TOPOLOGIES)
def test_what_the_topology_makes_of_a_sound_machine(
    tree: Tree, file: Path, edit: Callable[[str], str], found: set[str], message: str
) -> None:
    file.write_text(edit(TOPOLOGY))
    findings = report.examine(str(file), tree.machine())
    assert {" ".join(one) for one in bad(findings)} == found, report.text(findings)
    assert message in " ".join(f.message for f in findings if f.level in BAD)


def test_a_pool_that_is_too_small_is_the_files_fault(tree: Tree, file: Path) -> None:
    file.write_text(TOPOLOGY.replace("16383", "500"))
    assert report.exit_code(report.examine(str(file), tree.machine())) is Exit.BAD_TOPOLOGY


@pytest.mark.parametrize(
    "edit", [change("count = 1", "cuont = 1"), change('"macswap"', '"macsawp"'), lambda _: "x"]
)
def test_a_broken_file_is_not_the_machines_fault(
    tree: Tree, file: Path, edit: Callable[[str], str]
) -> None:
    file.write_text(edit(TOPOLOGY))
    with pytest.raises(TopologyError) as caught:
        report.examine(str(file), tree.machine())
    assert caught.value.exit_code is Exit.BAD_TOPOLOGY


def test_another_user(tree: Tree, file: Path) -> None:
    (tree.root / "dev/vfio/41").chmod(0o600)
    findings = report.examine(str(file), tree.machine(uid=1500))
    found = {" ".join(one) for one in bad(findings)}
    assert {"D02 error", "D13 error", "D14 error"} <= found
    for name in ("dev/vfio/41", "dev/hugepages"):
        os.chown(tree.root / name, 1500, 1500)
    tree.put("proc/self/limits", LIMITS.replace("8388608", "unlimited"))
    findings = report.examine(str(file), tree.machine(uid=1500))
    assert not {"D02", "D13", "D14"} & {f.id for f in findings if f.level in BAD}


def test_mlx5_stays_with_the_kernel(tree: Tree, file: Path) -> None:
    file.write_text(TOPOLOGY.replace(NIC, MLX))
    tree.remove("sys/kernel/iommu_groups")
    findings = report.examine(str(file), tree.machine())
    assert bad(findings) == [], report.text(findings)
    tree.remove(f"sys/bus/pci/devices/{MLX}/driver")
    tree.link(f"sys/bus/pci/devices/{MLX}/driver", "sys/bus/pci/drivers/vfio-pci")
    (found,) = [f for f in report.examine(str(file), tree.machine()) if f.level in BAD]
    assert found.fix == (f"dpdk-devbind.py -b mlx5_core {MLX}",)


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def primary(tree: Tree) -> Iterator[Tree]:
    """A live primary of the instance, as EAL leaves it: a process holds a lock on `config`."""
    tree.put("var/run/dpdk/dpsup-edge-g3/config", "x")
    config = tree.root / "var/run/dpdk/dpsup-edge-g3/config"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(config)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield tree
        holder.kill()


def test_a_live_primary_is_no_leftover(primary: Tree, file: Path) -> None:
    primary.put("dev/hugepages/dpsup-edge-g3map_0")
    assert bad(report.examine(None, primary.machine())) == []
    # Nobody supervises it: it stands in the way of a start.
    found = report.examine(str(file), primary.machine())
    assert bad(found) == [("D03", "error")]
    primary.put("run/dpsup/edge/lock")
    primary.folder("run/dpsup/edge", 0o700)
    with (primary.root / "run/dpsup/edge/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = report.examine(str(file), primary.machine())
        assert bad(found) == [], report.text(found)


def test_an_instance_that_runs_has_its_own_hugepages_to_go_on_with(
    primary: Tree, file: Path
) -> None:
    for page in range(100):
        primary.put(f"dev/hugepages/dpsup-edge-g3map_{page}")
    primary.put(f"sys/kernel/mm/{HUGE}/free_hugepages", "5\n")
    found = report.examine(str(file), primary.machine())
    assert "D01" not in {id for id, _ in bad(found)}


def test_files_of_dead_processes_beside_a_live_primary(primary: Tree) -> None:
    here = "var/run/dpdk/dpsup-edge-g3"
    primary.put(f"{here}/mp_socket_4001_abc")
    primary.put(f"{here}/mp_socket_4002_abc")
    primary.put(f"{here}/mp_socket")
    primary.put(f"{here}/fbarray_memseg-2048k-0-0_4001")
    primary.put("proc/4002/comm", "dpsup-worker\n")
    (found,) = [f for f in report.examine(None, primary.machine()) if f.level in BAD]
    assert found.id == "D03"
    assert len(found.fix) == 2
    assert all("4001" in fix for fix in found.fix)


def test_an_older_dpdk_is_said_and_one_too_old_refused(tree: Tree) -> None:
    def with_version(version: str) -> list[tuple[str, str]]:
        status = tree.root / "var/lib/dpkg/status"
        status.write_text(re.sub(r"Version: .*", f"Version: 1:{version}-0", status.read_text()))
        one = Machine(str(tree.root), uid=0, build=(version, PMDS))
        return bad(report.examine(None, one))

    assert with_version("22.11.7") == [("D17", "warn")]
    assert with_version("21.11.4") == [("D17", "error")]
    assert with_version("24.11.1") == []


def test_what_is_only_worth_knowing(tree: Tree, file: Path) -> None:
    tree.put("proc/sys/kernel/nmi_watchdog", "1\n")
    tree.put("proc/sys/kernel/core_pattern", "|/lib/systemd/systemd-coredump %P\n")
    tree.put("sys/fs/selinux/enforce", "1\n")
    tree.remove("sys/fs/cgroup/cgroup.controllers")
    findings = report.examine(str(file), tree.machine())
    assert bad(findings) == []
    known = {f.id: f for f in findings if f.level is Level.INFO}
    assert set(known) == {"D21", "D25", "D26", "D27"}
    assert "sysctl -w kernel.nmi_watchdog=0" in known["D21"].manual
    assert "systemd-coredump" in known["D25"].message


def test_little_room(tree: Tree, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "free_bytes", lambda *_: 3 << 20)
    assert bad(report.examine(str(file), tree.machine())) == [("D25", "warn")]


def test_lockdown_minds_uio_alone(tree: Tree, file: Path) -> None:
    tree.put("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    assert bad(report.examine(str(file), tree.machine())) == []
    driver("igb_uio")(tree)
    assert bad(report.examine(str(file), tree.machine())) == [("D27", "error")]


def test_a_held_latency_keeps_cpus_awake(tree: Tree, file: Path) -> None:
    tree.put(f"{CPU}/cpu2/cpuidle/state1/disable", "0\n")
    (tree.root / "dev/cpu_dma_latency").write_bytes(struct.pack("i", 0))
    assert bad(report.examine(str(file), tree.machine())) == []


def test_every_check_that_can_find_has_a_fault_planted() -> None:
    planted = {fault[1][:3] for fault in FAULTS} | {
        one[:3] for _, found, _ in TOPOLOGIES for one in found
    }
    # D15 and D20 cannot apply; D17, D21 and D29 (test_offloads) have tests of their own.
    assert set(CHECKS) - planted == {"D15", "D17", "D20", "D21", "D29"}


def test_an_empty_tree_is_no_traceback(tmp_path: Path, file: Path) -> None:
    tree = Tree(tmp_path / "empty")
    tree.root.mkdir()
    for given in (None, str(file)):
        findings = report.examine(given, tree.machine())
        assert report.exit_code(findings) is Exit.HOST
        assert {f.id for f in findings} == set(CHECKS)


@pytest.mark.parametrize("garbage", ["", "?", "-1\n", "9999\n", "\0\0", "a b c d e f g\n" * 3])
def test_garbage_in_every_file_is_no_traceback(tree: Tree, file: Path, garbage: str) -> None:
    for path in tree.root.rglob("*"):
        # What every command reads of CPUs and nodes is host.py's.
        if path.is_file() and path.name not in ("online", "cpulist"):
            path.write_text(garbage)
    findings = report.examine(str(file), tree.machine())
    assert report.text(findings)


def test_the_script_is_a_script_and_careful(tree: Tree, file: Path, tmp_path: Path) -> None:
    for plant, found, message, _ in FAULTS:
        if found[:3] in ("D05", "D08", "D19", "D28") or "eth0 has" in message:
            plant(tree)
    tree.put("dev/hugepages/rtemap_7")
    tree.put("dev/hugepages/a b;reboot map_7")
    findings = report.examine(str(file), tree.machine())
    script = tmp_path / "fix.sh"
    script.write_text(report.script(findings, str(file)))
    subprocess.run(["sh", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert "sysctl -w net.unix.max_dgram_qlen=64" in commands
    assert not any("rtemap" in line or "reboot" in line for line in commands)
    assert "# rm -rf /dev/hugepages/rtemap_7" in lines
    assert f"# dpdk-devbind.py -b vfio-pci {NIC}" in lines  # somebody may be cut off
    assert any(line.startswith("# by hand: ") for line in lines)
    assert len(commands) == len(set(commands))


def test_a_clean_script_does_nothing(tree: Tree, file: Path) -> None:
    lines = report.script(report.examine(str(file), tree.machine()), str(file)).splitlines()
    assert [line for line in lines if line and line[0] != "#"] == ["set -u"]


def test_document_and_text(tree: Tree, file: Path) -> None:
    tree.put("proc/sys/net/unix/max_dgram_qlen", "5\n")
    findings = report.examine(str(file), tree.machine())
    doc = json.loads(json.dumps(report.document(findings, str(file), "/")))
    assert (doc["apiVersion"], doc["kind"], doc["ok"]) == ("dpsup/v1", "Doctor", True)
    assert doc["summary"]["warn"] == 1
    (one,) = [c for c in doc["checks"] if c["level"] == "warn"]
    assert one["fix"] == ["sysctl -w net.unix.max_dgram_qlen=64"]
    text = report.text(findings, width=80)
    assert "1 to improve" in text
    commands = [line for line in text.splitlines() if "fix:" in line]
    assert commands == ["      fix:  sysctl -w net.unix.max_dgram_qlen=64"]
    assert all(len(line) <= 80 for line in text.splitlines() if "fix:" not in line)


def test_this_machine(file: Path) -> None:
    """Whatever it is: every check has an answer, and none is a traceback."""
    findings = report.examine(None, Machine())
    assert {f.id for f in findings} == set(CHECKS)


@pytest.mark.parametrize(
    ("data", "supervisor", "want"),
    [
        ({0, 1}, {0}, "isolcpus=1 nohz_full=1 rcu_nocbs=1"),
        ({0, 1}, {1}, "isolcpus=0 nohz_full=0"),
        ({1}, {0}, "isolcpus=1 nohz_full=1"),
        ({0}, {0}, "isolcpus=0"),
    ],
)
def test_a_cpu_is_left_to_the_kernel(
    tree: Tree, data: set[int], supervisor: set[int], want: str
) -> None:
    tree.put(f"{CPU}/online", "0-1\n")
    tree.put(f"{CPU}/isolated", "\n")
    needs = SimpleNamespace(data=frozenset(data), supervisor=frozenset(supervisor))
    (found,) = cpus.isolation(tree.machine(), needs)  # type: ignore[arg-type]
    assert want in found.manual, found
    assert ("is left to the kernel" in found.manual) == (data == {0, 1})


def test_one_cpu_cannot_be_isolated(tree: Tree) -> None:
    tree.put(f"{CPU}/online", "0\n")
    tree.put(f"{CPU}/isolated", "\n")
    needs = SimpleNamespace(data=frozenset({0}), supervisor=frozenset({0}))
    (found,) = cpus.isolation(tree.machine(), needs)  # type: ignore[arg-type]
    assert "isolcpus" not in found.manual


def test_the_sum_of_the_text_is_the_number_of_checks(tree: Tree, file: Path) -> None:
    """A check with two findings counts once, as its worst."""
    tree.put("proc/sys/kernel/numa_balancing", "1\n")
    tree.put("sys/kernel/mm/ksm/run", "1\n")
    findings = report.examine(str(file), tree.machine())
    assert len(findings) > len(CHECKS), "a check has two findings"
    (line,) = (one for one in report.text(findings).splitlines() if " checks: " in one)
    total, *counts = map(int, re.findall(r"\d+", line))
    assert total == sum(counts) == len(CHECKS), line


def test_the_script_names_its_command(tree: Tree, file: Path) -> None:
    assert f"`dpsup doctor {file} --fix-script`" in report.script(
        report.examine(str(file), tree.machine()), str(file)
    )
