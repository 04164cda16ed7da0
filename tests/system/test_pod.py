# SPDX-License-Identifier: BSD-3-Clause
"""The pod of deploy/k8s, under a pod's limits: an ordinary user without a capability, a read-only
root, namespaces, a set of CPUs, limited hugepages, a filter of system calls."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from pod import USER, Pod, config_map, is_possible, manifest
from traffic import save
from versions import many, plugin

pytestmark = [
    pytest.mark.beside,
    pytest.mark.skipif(not is_possible(), reason="no namespaces of its own"),
]
PACKETS = 300
CPUS = sorted(os.sched_getaffinity(0))[-2:]  # not the first ones, where there are more


def topology(**swaps: str) -> str:
    """The overlay's, with a plugin of the volume's. Keys of `swaps`: what is replaced."""
    (config,) = [doc for doc in manifest("vdev") if doc["kind"] == "ConfigMap"]
    text: str = config["data"]["edge.toml"]
    text = text.replace('plugin = "macswap"', 'plugin = "/plugins/fw.so"')
    # A few packets, then none: what is about processes leaves the CPUs to these.
    wan = {"net_null0,size=64": "net_pcap0,rx_pcap=/plugins/in.pcap"}
    for old, new in {**wan, **swaps}.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    one = Pod(folder, manifest("vdev"), CPUS)
    made = plugin(tmp_path_factory.mktemp("first"), 1, "env->counters[SEEN]++;", seen=0)
    shutil.copy(made, folder / "plugins/fw.so")
    save(folder / "plugins/in.pcap", many(PACKETS))
    config_map(folder / "config", {"edge.toml": topology()})
    one.start()
    try:
        one.until_ready()
        yield one
    finally:
        one.kill()


def status(pod: Pod) -> dict[str, Any]:
    done = pod.exec("dpsup", "status", "-o", "json")
    assert done.returncode in (0, 5), done.stderr
    doc: dict[str, Any] = json.loads(done.stdout)
    return doc


def until(pod: Pod, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        doc = status(pod)
        return doc if what(doc) else None

    found: dict[str, Any] = wait_for(look, step=0.2)
    return found


def events(pod: Pod, kind: str) -> list[dict[str, Any]]:
    done = pod.exec("dpsup", "events", "--type", kind, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_each_process_is_that_user_without_a_capability(pod: Pod) -> None:
    found = [Path(f"/proc/{one.pid}/status").read_text() for one in pod.processes()]
    assert len(found) >= 4  # supervisor, primary, seed, a worker
    for text in found:
        said = dict(re.findall(r"(\w+):\t(.*)", text))
        assert said["Uid"].split() == said["Gid"].split() == [USER] * 4
        assert {said[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
    assert status(pod)["supervisor"]["pid"] == 1


def test_the_root_is_read_only(pod: Pod) -> None:
    for place in ("/x", "/usr/x", "/etc/x", "/run/x", "/config/x"):
        done = pod.exec("touch", place)
        assert done.returncode != 0 and "Read-only" in done.stderr, place


def test_it_forwards_on_the_cpus_that_it_was_given(pod: Pod) -> None:
    until(pod, lambda s: s["ports"][0]["tx_packets"] == PACKETS)
    (io,) = status(pod)["io"]
    assert io["core"] in CPUS
    assert {w["core"] for w in status(pod)["groups"][0]["workers"]} <= set(CPUS)


def test_the_probes_are_answered(pod: Pod) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert pod.probe(probe) == 0
    assert pod.exec("dpsup", "health", "--live", "-n", "none").returncode == 5


def test_a_worker_is_killed_and_replaced(pod: Pod) -> None:
    deaths = status(pod)["recovery"]["deaths"]
    assert pod.exec("dpsup", "kill", "fw/0").returncode == 0
    doc = until(pod, lambda s: s["recovery"]["deaths"] > deaths and s["state"] == "running")
    assert doc["recovery"]["lost"] == 0
    assert pod.probe("livenessProbe") == 0


def test_a_group_is_scaled(pod: Pod) -> None:
    assert pod.exec("dpsup", "scale", "fw", "2").returncode == 0
    until(pod, lambda s: s["groups"][0]["ready"] == 2)
    assert pod.exec("dpsup", "scale", "fw", "1").returncode == 0
    until(pod, lambda s: s["groups"][0]["ready"] == 1)


def test_a_config_map_that_changes_is_applied(pod: Pod) -> None:
    config = pod.folder / "config"
    config_map(config, {"edge.toml": topology(**{"count = 1": "count = 2"})})
    until(pod, lambda s: s["groups"][0]["ready"] == 2)
    assert [one["message"] for one in events(pod, "reload")] == [""]
    config_map(config, {"edge.toml": topology(**{"count = 1": "count = many"})})
    (told,) = wait_for(lambda: events(pod, "error"), step=0.2)
    assert told["message"].startswith("watch: ") and "edge.toml" in told["message"]
    config_map(config, {"edge.toml": topology(**{"mbufs = 8191": "mbufs = 9999"})})
    restart = wait_for(
        lambda: [e for e in events(pod, "warning") if "watch: " in e["message"]], step=0.2
    )
    assert "some changes need a restart" in restart[0]["message"]
    config_map(config, {"edge.toml": topology()})
    until(pod, lambda s: s["groups"][0]["ready"] == 1 and s["state"] == "running")
    assert status(pod)["generation"] == 1


def test_a_plugin_that_changes_is_rolled_out(pod: Pod, tmp_path: Path) -> None:
    made = plugin(tmp_path, 2, "env->counters[SEEN] += 2;", seen=0)
    shutil.copy(made, pod.folder / "plugins/.new")
    (pod.folder / "plugins/.new").rename(pod.folder / "plugins/fw.so")
    doc = until(pod, lambda s: s["groups"][0]["rollout"]["revision"] == 2)
    assert doc["recovery"]["lost"] == 0
    until(pod, lambda s: s["groups"][0]["rollout"]["phase"] == "idle")
    doc = until(pod, lambda s: set(s["groups"][0]["rollout"]["workers"].values()) == {2})
    assert doc["groups"][0]["plugin_on_disk"] == "same"


def test_zz_it_ends_in_order(pod: Pod) -> None:
    code, said = pod.end()
    assert code == 0, said
    assert "lost 0" in said and "mbufs unexplained 0" in said
    assert (pod.folder / "termination-log").read_text() == ""


def test_why_it_does_not_start_is_in_the_termination_log(tmp_path: Path) -> None:
    one = Pod(tmp_path, manifest("vdev"), CPUS)
    save(tmp_path / "plugins/in.pcap", many(PACKETS))
    config_map(tmp_path / "config", {"edge.toml": topology()})  # and no plugin
    one.start()
    try:
        assert one.process is not None
        said = one.said()
        assert one.process.returncode == 78, said
    finally:
        one.kill()
    told = (tmp_path / "termination-log").read_text()
    assert told.startswith("error[E0501]") and "/plugins/fw.so" in told
    assert told.endswith("exit code 78\n")


@pytest.fixture
def shared_hugepages(tmp_path: Path) -> Iterator[str]:
    """A hugetlbfs that two pods mount, as a hostPath is."""
    place = tmp_path / "hugepages"
    place.mkdir()
    words = ["mount", "-t", "hugetlbfs", "-o", "pagesize=2M,mode=0777", "nodev", str(place)]
    subprocess.run(words, check=True)
    yield str(place)
    subprocess.run(["umount", "-l", str(place)], check=True)


def files_in(place: str) -> set[str]:
    return {one.name for one in Path(place).iterdir()}


@pytest.mark.long
def test_two_pods_on_one_hugetlbfs(tmp_path: Path, shared_hugepages: str) -> None:
    """Neither sees the other's processes. One of another name runs beside it; one of the same name
    would use the same files."""
    pods = []
    for name in ("edge", "edge", "other"):
        folder = tmp_path / f"pod{len(pods)}"
        folder.mkdir()
        one = Pod(folder, manifest("vdev"), CPUS, shared_hugepages)
        calm = topology(**{
            "net_pcap0,rx_pcap=/plugins/in.pcap": "net_null0,no-rx=1",
            '"/plugins/fw.so"': '"macswap"', 'name = "edge"': f'name = "{name}"',
        })  # fmt: skip
        config_map(folder / "config", {"edge.toml": calm})
        pods.append(one)
    first, same, other = pods
    try:
        first.start()
        first.until_ready()
        files = files_in(shared_hugepages)
        assert files
        same.start()
        said = same.said()
        assert same.process is not None and same.process.returncode == 1
        assert "E0483" in (same.folder / "termination-log").read_text(), said
        assert files_in(shared_hugepages) == files
        assert first.probe("readinessProbe") == 0
        assert first.exec("dpsup", "kill", "fw/0").returncode == 0
        until(first, lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
        other.start()
        other.until_ready()
        assert files_in(shared_hugepages) > files
        for one in (other, first):
            code, said = one.end()
            assert code == 0 and "mbufs unexplained 0" in said
        assert not files_in(shared_hugepages)
    finally:
        for one in pods:
            one.kill()
