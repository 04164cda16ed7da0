# SPDX-License-Identifier: BSD-3-Clause
"""One command for instances on several hosts: network namespaces, and one that is not there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CALM, DPSUP, PATIENCE, here, wait_for
from netns import sh
from system.conftest import started_by

from dpsup.instance import runtime_dir
from dpsup.instance.keys import Keys

pytestmark = pytest.mark.beside

PORT = 9470
NET = f"10.97.{os.getpid() % 250}"
HOSTS = ("edge1", "edge2")
ALL = "edge1,edge2,gone"


@contextlib.contextmanager
def namespace(number: int) -> Iterator[tuple[str, str]]:
    """Its name, and its address, which this namespace reaches over a veth."""
    name, ours, its = (f"dps{os.getpid()}{end}{number}" for end in ("n", "a", "b"))
    address, gateway = f"{NET}.{4 * number + 1}", f"{NET}.{4 * number + 2}"
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "link", "add", ours, "type", "veth", "peer", "name", its, "netns", name)
        sh("ip", "address", "add", f"{gateway}/30", "dev", ours)
        sh("ip", "link", "set", ours, "up")
        sh("ip", "-n", name, "address", "add", f"{address}/30", "dev", its)
        sh("ip", "-n", name, "link", "set", its, "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        yield name, address
    finally:
        sh("ip", "netns", "delete", name, check=False)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """By host, the name of its instance. `gone` is a host that does not answer."""
    folder = tmp_path_factory.mktemp("fleet")
    known, names = "", {}
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(HOSTS):
            netns, address = stack.enter_context(namespace(number))
            (folder / host).mkdir()
            one = stack.enter_context(started_by(f"fleet{host}", folder / host))
            keys = Keys(str(folder / host / "keys"))
            keys.init()
            keys.add("boss", "admin", out=str(folder / f"{host}.key"))
            bus = f'[bus]\nendpoint = "tcp://{address}:{PORT}"\nkeys = "keys"\n'
            file = one.write(f"{CALM}{bus}")
            subprocess.run(
                ["ip", "netns", "exec", netns, *DPSUP, "start", str(file), "--detach"],
                check=True, capture_output=True, timeout=2 * PATIENCE,
            )  # fmt: skip
            known += f'[{host}]\nendpoint = "tcp://{address}:{PORT}"\nkey = "{host}.key"\n'
            names[host] = one.name
        known += f'[gone]\nendpoint = "tcp://{NET}.250:{PORT}"\nkey = "edge1.key"\n'
        (folder / "hosts.toml").write_text(known)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DPSUP_HOSTS", str(folder / "hosts.toml"))
        # As on a machine of its own, which has no instance.
        patch.setattr(runtime_dir, "roots", lambda: [folder / "none"])
        for host in HOSTS:
            assert wait_for(lambda host=host: ran("-n", host, "status")[0] == 0)
        yield names


def ran(*args: str) -> tuple[int, str, str]:
    done = here(*args)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def asked(*args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the answers by host."""
    code, out, said = ran(*args, "-o", "json")
    doc = json.loads(out)
    assert (doc["kind"], said) == ("Fleet", "")
    return code, {one["host"]: one for one in doc["hosts"]}


def test_each_host_answers_for_itself(hosts: dict[str, str]) -> None:
    """The one that does not answer costs the others nothing but its deadline."""
    code, found = asked("--deadline", "3s", "-n", ALL, "status")
    assert code == 8
    assert [one["exit_code"] for one in found.values()] == [0, 0, 8]
    assert {h: found[h]["document"]["name"] for h in HOSTS} == hosts
    assert found["gone"]["document"] is None and found["gone"]["code"] == "E0904"
    code, out, _ = ran("--deadline", "3s", "-n", ALL, "status")
    assert code == 8
    for host, state in (("edge1", "running"), ("edge2", "running"), ("gone", "no answer")):
        (line,) = [one for one in out.splitlines() if one.startswith(host)]
        assert state in line
    assert ran("-n", "edge1,edge2", "status")[0] == 0


def test_an_order_goes_to_all(hosts: dict[str, str]) -> None:
    code, found = asked("-n", "edge1,edge2", "scale", "fw", "3")
    assert code == 0
    assert {one["document"]["ready"] for one in found.values()} == {3}
    code, out, said = ran("-n", "edge1,edge2", "scale", "fw", "2")
    assert code == 0 and out.count("3 -> 2 workers, 2 ready") == 2, said
    code, found = asked("-n", "edge1,edge2", "table")
    assert code == 0 and all(one["document"]["tables"] == [] for one in found.values())
    code, found = asked("-n", "edge1,edge2", "scale", "nothing", "3")
    assert code == 4 and {one["code"] for one in found.values()} == {"E0701"}


def test_events_of_all_come_in_one_order(hosts: dict[str, str]) -> None:
    for host in HOSTS:
        assert ran("-n", host, "kill", "fw/0")[0] == 0
    assert wait_for(
        lambda: all(
            any(e["type"] == "death" for e in one["document"])
            for one in asked("-n", "edge1,edge2", "events")[1].values()
        )
    )
    code, out, _ = ran("-n", "edge1,edge2", "events", "--type", "death,command", "-o", "jsonl")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert {one["host"] for one in found} == set(HOSTS)
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    assert {one["key"] for one in found if one["type"] == "command"} == {"boss"}
    assert ran("-n", "edge1,edge2", "events")[1].count("edge1 ") > 0


def versions() -> list[int]:
    _, found = asked("-n", "edge1,edge2", "rollout", "history")
    return [len(one["document"]["revisions"]) for one in found.values()]


def test_a_rollout_goes_from_host_to_host_and_ends_at_the_first_that_goes_back(
    hosts: dict[str, str],
) -> None:
    before = versions()
    code, found = asked(
        "-n", "edge1,edge2", "rollout", "fw", "--plugin", "forward", "--judge", "0s"
    )
    assert code == 0, found
    assert [one["document"]["phase"] for one in found.values()] == ["done", "done"]
    assert [b - a for a, b in zip(before, versions(), strict=True)] == [1, 1]
    code, found = asked(
        "-n", "edge1,edge2", "rollout", "fw", "--plugin", "forward", "--args", "map.wan=nowhere"
    )
    assert code == 1, found
    first, second = found.values()
    assert first["exit_code"] != 0 and (second["exit_code"], second["code"]) == (1, "E0476")
    code, found = asked("-n", "gone,edge2", "--deadline", "2s", "rollout", "status")
    assert code == 8 and found["edge2"]["exit_code"] == 0


def test_what_is_for_one_instance_says_so(hosts: dict[str, str]) -> None:
    for words in (("kill", "fw/0"), ("stop",), ("reload",), ("report",)):
        code, _, said = ran("-n", "edge1,edge2", *words)
        assert code == 2 and "E0476" in said


def test_hosts_have_instances_of_their_own(hosts: dict[str, str]) -> None:
    for name in hosts:
        pid = json.loads(ran("-n", name, "status", "-o", "json")[1])["supervisor"]["pid"]
        assert not Path(f"/proc/{pid}/ns/net").samefile("/proc/self/ns/net")
