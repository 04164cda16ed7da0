# SPDX-License-Identifier: BSD-3-Clause
"""What is read of a machine, from trees made for it and from this one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dpsup.host.machine import (
    ENVIRONMENT,
    Host,
    Hugetlbfs,
    Pages,
    PciDevice,
    parse_cpulist,
    read_host,
    read_pmds,
)

MIB = 1 << 20
HUGE = "hugepages/hugepages-2048kB"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def pmd(*infos: str) -> bytes:
    return b"\x7fELF\0\1\2" + b"".join(
        b"PMD_INFO_STRING= " + info.encode() + b"\0junk{}\xff" for info in infos
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(
        tmp_path,
        {
            "sys/devices/system/cpu/online": "0-2,4\n",
            "sys/devices/system/node/node0/cpulist": "0-1\n",
            "sys/devices/system/node/node1/cpulist": "2,4\n",
            f"sys/devices/system/node/node1/{HUGE}/nr_hugepages": "7\n",
            f"sys/devices/system/node/node1/{HUGE}/free_hugepages": "3\n",
            f"sys/kernel/mm/{HUGE}/nr_hugepages": "20\n",
            f"sys/kernel/mm/{HUGE}/free_hugepages": "9\n",
            f"sys/kernel/mm/{HUGE}/resv_hugepages": "2\n",
            f"sys/kernel/mm/{HUGE}/nr_overcommit_hugepages": "5\n",
            f"sys/kernel/mm/{HUGE}/surplus_hugepages": "1\n",
            "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
            "proc/meminfo": "MemTotal: 1 kB\nHugepagesize:    2048 kB\n",
            "proc/mounts": "proc /proc proc rw 0 0\n"
            "nodev /dev/huge\\040pages hugetlbfs rw,relatime 0 0\n"
            "nodev /mnt/1g hugetlbfs ro,pagesize=1024M 0 0\n"
            "nodev /mnt/gone hugetlbfs rw,pagesize=2M 0 0\n",
            "dev/huge pages/x": "",
            "mnt/1g/x": "",
            "sys/bus/pci/devices/0000:3b:00.0/numa_node": "1\n",
            "sys/bus/pci/devices/0000:3b:00.1/numa_node": "-1\n",
            "sys/bus/pci/drivers/vfio-pci/bind": "",
            "sys/class/net/eth7/address": "",
        },
    )
    (tmp_path / "sys/bus/pci/devices/0000:3b:00.0/driver").symlink_to(
        tmp_path / "sys/bus/pci/drivers/vfio-pci"
    )
    return tmp_path


def test_machine_in_a_tree(tree: Path) -> None:
    host = read_host(str(tree))
    assert host.online == host.allowed == {0, 1, 2, 4}
    assert host.numa == {0: {0, 1}, 1: {2, 4}}
    # 9 free less 2 promised, and 4 that the kernel may still add
    assert host.hugepages == {2 * MIB: Pages(20, 11), 1 << 30: Pages(0, 0)}
    assert host.node_hugepages == {0: {}, 1: {2 * MIB: Pages(7, 3)}}
    assert host.hugetlbfs == (
        Hugetlbfs("/dev/huge pages", 2 * MIB, writable=True),
        Hugetlbfs("/mnt/1g", 1 << 30, writable=False),
        Hugetlbfs("/mnt/gone", 2 * MIB, writable=False),
    )
    assert host.pci == {
        "0000:3b:00.0": PciDevice(1, "vfio-pci"),
        "0000:3b:00.1": PciDevice(-1, ""),
    }
    assert host.interfaces == {"eth7"}
    assert "lo" in read_host().interfaces


def test_empty_tree_is_a_machine_without_anything(tmp_path: Path) -> None:
    host = read_host(str(tmp_path))
    assert host.online
    assert host.numa == {0: host.online}
    assert not host.hugepages
    assert not host.pmds
    assert not host.pci
    assert host.hugetlbfs == ()


def test_drivers_are_read_out_of_shared_objects(tmp_path: Path) -> None:
    (tmp_path / "librte_net_a.so.1").write_bytes(
        pmd(
            '{"name": "net_a", "params": "x=<int>", "pci_ids": []}',
            '{"name": "net_b", "pci_ids": [[1, 2, 3, 4]]}',
        )
    )
    (tmp_path / "librte_net_a.so").symlink_to("librte_net_a.so.1")
    (tmp_path / "librte_net_c.so").write_bytes(pmd("{not json}", '{"no": "name"}', "[]"))
    (tmp_path / "librte_net_d.so").write_bytes(b"")
    (tmp_path / "librte_net_e.so").symlink_to("gone")
    (tmp_path / "notes.txt").write_bytes(pmd('{"name": "net_f"}'))
    assert read_pmds(tmp_path) == (
        {"net_a": "x=<int>", "net_b": ""},
        frozenset({"net_b"}),
    )
    assert read_pmds(tmp_path / "none") == ({}, frozenset())


def test_driver_folder_is_found(tree: Path) -> None:
    folder = tree / "usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0"
    folder.mkdir(parents=True)
    (folder / "librte_net_a.so.23").write_bytes(pmd('{"name": "net_a", "pci_ids": []}'))
    host = read_host(str(tree))
    assert host.pmds == {"net_a": ""}
    assert host.pmd_dir.startswith("/usr/lib/")


def test_this_machine() -> None:
    started = time.process_time()
    host = read_host()
    assert time.process_time() - started < 2  # 0.1 s here
    assert host.allowed <= host.online
    assert host.allowed
    assert host.cwd == str(Path.cwd())
    assert set(host.env) <= set(ENVIRONMENT)


def test_environment_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/x")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert read_host(str(tree)).env == {"RUNTIME_DIRECTORY": "/run/x"}


@pytest.fixture
def here(tmp_path: Path) -> Host:
    return read_host(str(tmp_path))


def test_files(here: Host, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes("é".encode())
    assert here.is_file(str(file))
    assert not here.is_file(str(tmp_path))
    assert here.is_dir(str(tmp_path))
    assert not here.is_dir(str(file))
    assert here.read_text(str(file)) == "é"


def test_what_can_be_made(here: Host, tmp_path: Path) -> None:
    assert here.can_write(str(tmp_path))
    assert here.can_write(str(tmp_path / "a/b/c"))
    (tmp_path / "f").write_text("")
    assert not here.can_write(str(tmp_path / "f"))
    assert not here.can_write(str(tmp_path / "f/a"))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", set()), ("0", {0}), ("0-2,5\n", {0, 1, 2, 5}), ("0-1,3-4", {0, 1, 3, 4})],
)
def test_parse_cpulist(text: str, cpus: set[int]) -> None:
    assert parse_cpulist(text) == cpus


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    host = read_host()
    with pytest.raises(OSError, match="more than 4 MiB"):
        host.read_text("/dev/zero")


def test_data_is_read_from_regular_files_alone(here: Host, tmp_path: Path) -> None:
    file, fifo = tmp_path / "routes", tmp_path / "fifo"
    file.write_text("x" * (5 << 20))
    assert len(here.read_data(str(file), 5 << 20)) == 5 << 20
    with pytest.raises(OSError, match="more than 5242879 bytes"):
        here.read_data(str(file), (5 << 20) - 1)
    os.mkfifo(fifo)  # nobody writes to it: who opens it as a file waits for ever
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            here.read_data(str(path), 1 << 20)
    with pytest.raises(FileNotFoundError):
        here.read_data(str(tmp_path / "none"), 1)
