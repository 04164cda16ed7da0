# SPDX-License-Identifier: BSD-3-Clause
"""What deploy/ ships works as shipped: examples, the systemd unit, the quickstart."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness import DPSUP, Run, leftovers, run, wait_for
from netns import sh

from dpsup.check.topology import prepare
from dpsup.host.machine import PciDevice, read_host
from dpsup.packets.pcap import Capture, scan

pytestmark = pytest.mark.beside

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
EXAMPLES = sorted(path.name for path in (DEPLOY / "examples").glob("*.toml"))
NICS = ("rss-two-io.toml", "two-nics.toml")
FLOWS, OF_EACH = 256, 2  # what flows.py makes


def example(name: str, instance: Run) -> Path:
    """An example of deploy/examples under the instance's name, with the capture that it reads."""
    for file in ("flows.py", name):
        shutil.copy(DEPLOY / "examples" / file, instance.folder)
    path = instance.folder / name
    text, n = re.subn(
        r'^name = "[^"]*"', f'name = "{instance.name}"', path.read_text(), count=1, flags=re.M
    )
    assert n == 1
    path.write_text(text)
    subprocess.run([sys.executable, instance.folder / "flows.py"], check=True)
    return path


def env_with_dpsup(**more: str) -> dict[str, str]:
    """The installed dpsup first on PATH, as after `. .venv/bin/activate`."""
    return {**os.environ, "PATH": f"{Path(DPSUP[0]).parent}:{os.environ['PATH']}", **more}


# --- examples -----------------------------------------------------------------------------------


def test_there_is_an_example_for_each_purpose() -> None:
    purposes = {
        "pcap-job.toml",
        "rss-two-io.toml",
        "two-nics.toml",
        "vdev-demo.toml",
        "veth-pair.toml",
    }
    assert purposes == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_passes_check(name: str, instance: Run) -> None:
    path = example(name, instance)
    # What these ask for beyond this machine: two NIC ports, two interfaces, CPUs. All else is real.
    cpus = frozenset(range(8))
    host = dataclasses.replace(
        read_host(),
        online=cpus,
        allowed=cpus,
        numa={0: cpus},
        pci={f"0000:3b:00.{n}": PciDevice(0, "vfio-pci") for n in (0, 1)},
        interfaces=frozenset({"dps-left", "dps-right"}),
    )
    _, plan, warnings = prepare(str(path), host)
    assert warnings == []
    assert plan.name == instance.name


@pytest.mark.parametrize("name", ["vdev-demo.toml", "pcap-job.toml"])
def test_example_without_hardware_passes_check_here(name: str, instance: Run) -> None:
    path = example(name, instance)
    assert f"{path}: ok" in run("check", str(path), check=True).stdout


@pytest.mark.parametrize("name", NICS)
def test_example_with_nics_says_that_they_are_not_here(name: str, instance: Run) -> None:
    path = example(name, instance)
    if Path("/sys/bus/pci/devices/0000:3b:00.0").exists():
        pytest.skip("this machine has a device at that address")
    for words in (["check"], ["start"]):
        done = run(*words, str(path))
        assert done.returncode == 6
        assert "there is no PCI device 0000:3b:00.0" in done.stderr


def test_pcap_job_forwards_every_packet(instance: Run) -> None:
    path = example("pcap-job.toml", instance)
    done = run("start", str(path), "--exit-when-idle", "500ms", check=True, timeout=120)
    n = FLOWS * OF_EACH
    assert f"in {n}, out {n}, dropped 0, in flight 0, lost 0" in done.stdout
    out = (instance.folder / "out.pcap").read_bytes()
    assert scan(out, 1518) == Capture(packets=n)


def test_veth_pair_carries_a_ping(instance: Run) -> None:
    path = example("veth-pair.toml", instance)
    commands = "\n".join(re.findall(r"^#   (.*)$", path.read_text(), re.M))
    assert "dpsup start veth-pair.toml --detach && ip netns exec left ping 10.9.9.2" in commands
    # As the file says, in namespaces of our own so that its names are free.
    script = f"""set -e
        mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns
        trap 'dpsup stop -n {instance.name}' EXIT
        {commands.replace("ping", "ping -c 3 -i 0.1 -W 10")}"""
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "bash", "-c", script],
        cwd=instance.folder,
        env=env_with_dpsup(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 received" in done.stdout


# --- systemd ------------------------------------------------------------------------------------

UNIT = DEPLOY / "systemd/dpsup@.service"


def test_unit_is_clean(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert "ExecStart=/usr/local/bin/dpsup start /etc/dpsup/%i.toml\n" in text
    # Where dpsup is depends on the machine, and verify looks.
    for file in UNIT.parent.iterdir():
        text = file.read_text().replace("/usr/local/bin/dpsup", DPSUP[0])
        (tmp_path / file.name).write_text(text)
    for unit in (UNIT.name, "dpsup@edge.service", "dpsup-end@edge.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / unit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_start_under_systemd(instance: Run) -> None:
    """As the unit starts it: a runtime folder, a socket to notify, few capabilities."""
    path = example("vdev-demo.toml", instance)
    capabilities = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.M)[0].split()
    held = ",".join(["-all", *(f"+{cap.lower().removeprefix('cap_')}" for cap in capabilities)])
    folder = Path("/run/dpsup", instance.name)
    folder.mkdir(mode=0o700, parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(instance.folder / "notify"))
        notify.settimeout(120)
        instance.process = subprocess.Popen(
            ["setpriv", "--no-new-privs", f"--bounding-set={held}", f"--inh-caps={held}",
             *DPSUP, "start", str(path)],
            env=env_with_dpsup(
                RUNTIME_DIRECTORY=str(folder), NOTIFY_SOCKET=str(instance.folder / "notify")
            ),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert notify.recv(100) == b"READY=1"
        assert instance.status()["state"] == "running"
        assert (folder / "dpdk" / f"dpsup-{instance.name}-g1").is_dir()
        instance.do("kill", "fw/0")
        instance.until(lambda s: s["state"] == "running" and s["recovery"]["deaths"] == 1)
        instance.process.terminate()
        assert notify.recv(100) == b"STOPPING=1"
    out, err = instance.process.communicate(timeout=120)
    assert instance.process.returncode == 0, err
    assert "lost 0" in out
    assert leftovers(instance.name) == []


# --- quickstart ---------------------------------------------------------------------------------


def quickstart(instance: Run, *options: str) -> subprocess.Popen[str]:
    # Where tests run in the background of a shell SIGINT is ignored, and bash keeps to that.
    return subprocess.Popen(
        [
            "env",
            "--default-signal=INT",
            DEPLOY / "quickstart",
            "--no-setup",
            "--name",
            instance.name,
            *options,
        ],
        env=env_with_dpsup(TMPDIR=str(instance.folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "function",
    [
        "firewall",
        pytest.param("balance", marks=pytest.mark.long),
        pytest.param("nat", marks=pytest.mark.long),
        pytest.param("route", marks=pytest.mark.long),
        pytest.param("", marks=pytest.mark.long),
    ],
)
def test_quickstart_shows_what_dpsup_is_for(instance: Run, function: str) -> None:
    """And a function at its end, where one is asked for."""
    options = ("--function", function) if function else ()
    out, err = quickstart(instance, *options).communicate(timeout=180)
    assert err == ""
    assert ("200 packets transmitted, 200 received, 0% packet loss" in out) == bool(function)
    if function == "balance":
        # 20 requests: both servers; then the one that is not drained.
        assert re.findall(r"^web1: [1-9]\d* web2: [1-9]\d*$", out, re.M)
        assert re.findall(r"^web2: 20$", out, re.M)
    ends = out.count("in flight 0, lost 0\nworker deaths 1, mbufs unexplained 0\n")
    assert ends == 1 + bool(function)
    assert "dpsq" not in sh("ip", "netns").stdout + sh("ip", "-o", "link").stdout
    for words in (
        "$ dpsup start demo.toml &",
        "million packets per second",
        "$ kill -9 ",
        "SIGKILL",
        "fw: 2 -> 4 workers, 4 ready",
        "fw: 4 -> 2 workers, 2 ready",
        "UNEXPLAINED",
    ):
        assert words in out, words
    received, sent = re.findall(r"^in (\d+), out (\d+), dropped 0,", out, re.M)[0]
    assert received == sent != "0"
    assert "\x1b" not in out  # colours are for terminals
    assert max(map(len, out.splitlines())) <= 160
    assert leftovers(instance.name) == []
    assert list(instance.folder.iterdir()) == []


@pytest.mark.parametrize("stage", ["1. Start", "$ kill -9"])
def test_quickstart_that_is_interrupted_leaves_nothing(instance: Run, stage: str) -> None:
    process = quickstart(instance)
    assert process.stdout is not None
    wait_for(lambda: stage in process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert wait_for(lambda: not leftovers(instance.name))
    assert list(instance.folder.iterdir()) == []


def test_quickstart_says_why_it_cannot_start(instance: Run) -> None:
    process = subprocess.Popen(
        [DEPLOY / "quickstart", "--no-setup", "--name", "Not A Name"],
        env=env_with_dpsup(TMPDIR=str(instance.folder)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == 78
    assert '"Not A Name" cannot be the name of an instance' in err
    assert list(instance.folder.iterdir()) == []


def test_quickstart_leaves_an_instance_of_the_same_name_alone(instance: Run) -> None:
    instance.start(
        """
        [[ports]]
        name = "wan"
        vdev = "net_null0,no-rx=1"
        [[io]]
        cores = "1"
        [[workers]]
        name = "fw"
        """
    )
    pid = instance.worker("fw/0")["pid"]
    process = quickstart(instance)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert str(instance.status()["supervisor"]["pid"]) in err
    assert instance.worker("fw/0")["pid"] == pid
