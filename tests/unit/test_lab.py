# SPDX-License-Identifier: BSD-3-Clause
"""The lab's outer half, without a machine: what a description comes to, and that nothing stays."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import image, running
from lab.machine import Machine, Nic, command, device
from lab.machines import MACHINES

IMAGE = image.Image(Path("/i/root"), Path("/i/top"), Path("/i/kernel"), Path("/i/initrd"))


def words(machine: Machine) -> list[str]:
    return command(machine, IMAGE, Path("/repo"), Path("/s"))


def after(flag: str, machine: Machine) -> list[str]:
    told = words(machine)
    return [told[i + 1] for i, word in enumerate(told) if word == flag]


def test_names_are_unique_and_tests_are_there() -> None:
    inside = image.REPO / "tests/lab/inside"
    assert len({one.name for one in MACHINES}) == len(MACHINES)
    for machine in MACHINES:
        assert len({nic.name for nic in machine.nics}) == len(machine.nics)
        for boot in machine.boots:
            assert all((inside / name.split("::")[0]).is_file() for name in boot)


def test_nics_of_one_wire_share_a_hub_and_others_are_alone() -> None:
    nics = (Nic("a", wire="x"), Nic("b", "virtio-net-pci", wire="x"), Nic("c"), Nic("d", wire="y"))
    hubs = dict(
        (one.split(",")[1].removeprefix("id=end-"), one.rpartition("=")[2])
        for one in after("-netdev", Machine("m", nics=nics))
    )
    assert hubs["a"] == hubs["b"]
    assert len(set(hubs.values())) == 3


def test_a_nic_is_where_it_is_said_to_be() -> None:
    """One bus for each NIC, numbered in their order, whether it is fitted or not."""
    nics = (Nic("a"), Nic("b", fitted=False), Nic("c", options="mq=on,vectors=10"))
    machine = Machine("m", nics=nics)
    devices = after("-device", machine)
    ports = [one for one in devices if one.startswith("pcie-root-port")]
    assert [one.split(",")[1] for one in ports] == ["id=port-a", "id=port-b", "id=port-c"]
    assert machine.address(nics[2]) == "0000:03:00.0"
    assert [one["pci"] for one in machine.described()["nics"]][1] == "0000:02:00.0"
    assert not any("id=b," in one for one in devices)
    assert any("id=c,bus=port-c" in one and "mq=on,vectors=10" in one for one in devices)
    assert device(machine, nics[2])["mq"] is True
    assert device(machine, nics[2])["vectors"] == 10


def test_nodes_share_cpus_memory_and_pages() -> None:
    machine = Machine("m", cpus=4, nodes=2, memory=3072, pages_2m=64, pages_1g=1, iommu=False)
    assert after("-numa", machine) == [
        "node,nodeid=0,cpus=0-1,memdev=memory0",
        "node,nodeid=1,cpus=2-3,memdev=memory1",
    ]
    assert all("size=1536M" in one for one in after("-object", machine))
    (line,) = after("-append", machine)
    assert "hugepagesz=2M hugepages=0:64,1:64" in line
    assert "hugepagesz=1G hugepages=0:1,1:1" in line
    assert "iommu" not in line
    assert not any("iommu" in one for one in after("-device", machine))


def test_a_killed_runs_directory_goes_with_the_next_run_and_a_live_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(running.tempfile, "tempdir", str(tmp_path))
    dead, alive = tmp_path / f"{running.PREFIX}dead", tmp_path / f"{running.PREFIX}alive"
    for one in (dead, alive):
        one.mkdir()
        (one / "lock").touch()
    with (alive / "lock").open() as file, running.scratch() as mine:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert mine.parent == tmp_path
    assert not dead.exists()
    assert not mine.exists()


def has_ended(pid: int) -> bool:
    """Its new parent may be slow to wait for it."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_was_powered_ends_with_a_failure_and_with_a_kill(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), running._powered(["sleep", "1000"], tmp_path / "l") as p:
        raise KeyboardInterrupt
    assert p.poll() is not None
    script = (
        "from pathlib import Path; import sys, time\n"
        "from lab import running\n"
        f"with running._powered(['sleep', '1000'], Path({str(tmp_path / 'l')!r})) as p:\n"
        "    print(p.pid, flush=True); time.sleep(1000)\n"
    )
    tests = Path(running.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )  # fmt: skip
    assert child.stdout is not None
    powered = int(child.stdout.readline())
    # Until setpriv has become nice, and nice what was asked for: the wish to die with us is set.
    status = Path(f"/proc/{powered}/comm")
    end = time.monotonic() + 60
    while status.read_text().strip() != "sleep" and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.wait()
    while not has_ended(powered):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_request_that_cannot_be_done_is_answered() -> None:
    outside = running.Outside(Machine("m"), None, Path("/s"))  # type: ignore[arg-type]
    assert "no verb" in outside.answer({"verb": "explode"})["error"]
    assert "TypeError" in outside.answer({"verb": "cable", "nic": "wan0"})["error"]
    assert "StopIteration" in outside.answer({"verb": "plug", "nic": "none"})["error"]
    assert "no verb" in outside.answer({"verb": "cut_off"})["error"]
