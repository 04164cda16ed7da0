# SPDX-License-Identifier: BSD-3-Clause
"""`kernel` of a port: how it is written, what contradicts it, and what the machine must have."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from unit import looks
from unit.fakehost import FILE, FULL, machine

from dpsup import _abi, limits
from dpsup.check.kernel import kernel_paths
from dpsup.check.memory import pool_needs
from dpsup.errors import Problem, Severity
from dpsup.host import tap
from dpsup.host.machine import Host
from dpsup.instance import status
from dpsup.plan.place import make_plan
from dpsup.supervisor.kernel import KernelPaths
from dpsup.topology.kernel_path import KernelPath
from dpsup.topology.load import load
from dpsup.view.hints import hints

PORT = 'name = "wan"'


def written(kernel: str, text: str = FULL) -> str:
    assert PORT in text
    return text.replace(PORT, f"{PORT}\nkernel = {kernel}", 1)


def problems(kernel: str, text: str = FULL) -> list[Problem]:
    text = written(kernel, text)
    return load(FILE, machine(text))[1]


@pytest.mark.parametrize(
    ("kernel", "path"),
    [
        ('"tap"', KernelPath()),
        ("{}", KernelPath("", "", 20_000)),
        ('{ tap = "wan0", netns = "edge", rate = 5 }', KernelPath("wan0", "edge", 5)),
        ('{ netns = "/proc/1/ns/net" }', KernelPath(netns="/proc/1/ns/net")),
    ],
)
def test_its_forms(kernel: str, path: KernelPath) -> None:
    text = written(kernel)
    topology, found = load(FILE, machine(text))
    assert topology is not None and not found
    assert topology.ports[0].kernel == path
    assert topology.ports[0].tap == (path.tap or "wan") and topology.ports[1].tap == ""
    port, other = make_plan(topology, machine(text), 1).ports[:2]
    assert (port.kernel_tap, port.kernel_netns) == (path.tap or "wan", path.netns)
    assert port.kernel_rate == path.rate
    assert (other.kernel_tap, other.kernel_netns, other.kernel_rate) == ("", "", 0)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ('"tun"', 'a table or "tap"'),
        ("true", 'a table or "tap"'),
        ('{ name = "x" }', "no key `name`"),
        ('{ tap = "" }', "it is a text"),
        ("{ tap = 5 }", "it is a text"),
        ('{ tap = "a234567890123456" }', "at most 15 bytes"),
        ('{ tap = "ä234567890äö34" }', "at most 15 bytes"),
        ('{ tap = "a/b" }', "no slash"),
        ('{ tap = "tap%d" }', "percent"),
        ('{ tap = ".." }', "no slash"),
        ('{ netns = "" }', "cannot be a network namespace"),
        ('{ netns = "a/b" }', "cannot be a network namespace"),
        ("{ rate = 0 }", "from 1"),
        ("{ rate = true }", "from 1"),
        ("{ rate = 1.5 }", "from 1"),
    ],
)
def test_what_is_refused(kernel: str, said: str) -> None:
    found = problems(kernel)
    assert len(found) == 1 and said in found[0].message, found
    assert found[0].line == written(kernel).splitlines().index(f"kernel = {kernel}") + 1


def test_a_port_whose_name_is_too_long_for_an_interface() -> None:
    text = FULL.replace('"wan"', '"a-port-of-a-long-name"')
    long = text.replace('name = "a-port-of-a-long-name"', PORT, 1)
    assert PORT in long
    text = text.replace(
        'name = "a-port-of-a-long-name"', 'name = "a-port-of-a-long-name"\nkernel = "tap"', 1
    )
    (found,) = (p for p in load(FILE, machine(text))[1] if p.code == "E0448")
    assert "15 bytes" in found.message
    text = text.replace('kernel = "tap"', 'kernel = { tap = "wan" }')
    assert not [p for p in load(FILE, machine(text))[1] if p.code == "E0448"]


def test_two_ports_of_one_tap() -> None:
    text = written('{ tap = "up" }').replace(
        'name = "lan"', 'name = "lan"\nkernel = { tap = "up" }', 1
    )
    (found,) = (p for p in load(FILE, machine(text))[1] if p.code == "E0448")
    assert "two ports" in found.message
    apart = text.replace('{ tap = "up" }', '{ tap = "up", netns = "edge" }', 1)
    assert not [p for p in load(FILE, machine(apart))[1] if p.code == "E0448"]


def test_a_frame_must_fit_one_mbuf() -> None:
    """Exactly."""
    data_room = next(
        pool.data_room for pool in (load(FILE, machine(FULL))[0] or pytest.fail()).mempools.values()
    )
    fits = data_room - limits.HEADROOM - limits.FRAME_MORE
    for mtu, codes in ((fits, []), (fits + 1, ["E0449"])):
        text = written('"tap"').replace("mtu = 1500", f"mtu = {mtu}")
        assert [p.code for p in load(FILE, machine(text))[1] if p.code == "E0449"] == codes


def test_a_pool_has_mbufs_for_it() -> None:
    without, _ = load(FILE, machine(FULL))
    topology, _ = load(FILE, machine(written('"tap"')))
    assert topology is not None and without is not None
    n_io = len(topology.io_cores)
    more = n_io * _abi.DPS_KERNEL_OUT + _abi.DPS_KERNEL_IN
    for now, before in zip(
        pool_needs(topology, "default"), pool_needs(without, "default"), strict=True
    ):
        assert now == before + more


# --- the machine ----------------------------------------------------------------------------------


def checked(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    seen: tap.Seen | None = None,
    no_taps: str = "",
    vdev: str = "",
) -> list[tuple[str, Severity]]:
    text = written(kernel)
    if vdev:
        text = text.replace('pci = "0000:3b:00.0"', f'vdev = "{vdev}"', 1)
    topology, _ = load(FILE, machine(text))
    assert topology is not None
    monkeypatch.setattr(Host, "no_taps", lambda _: no_taps)
    monkeypatch.setattr(Host, "tap", lambda *_: seen or tap.Seen())
    return [(p.code, p.severity) for p in kernel_paths(topology, machine(text))]


def test_what_the_machine_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    name = (load(FILE, machine(FULL))[0] or pytest.fail()).name
    ours = tap.Seen("", True, tap.mark_of(name, "wan"))
    assert checked(monkeypatch, '"tap"') == checked(monkeypatch, '"tap"', ours) == []
    refused = [("E0447", Severity.ERROR)]
    assert checked(monkeypatch, '"tap"', no_taps="no /dev/net/tun") == refused
    # One that root has prepared takes no right.
    assert checked(monkeypatch, '"tap"', ours, no_taps=tap.NO_RIGHT) == []
    assert checked(monkeypatch, '"tap"', no_taps=tap.NO_RIGHT) == refused
    assert checked(monkeypatch, '"tap"', ours, no_taps="no /dev/net/tun") == refused
    assert checked(monkeypatch, '"tap"', tap.Seen("there is no /run/netns/edge")) == refused
    for mark in ("", "mine", tap.mark_of(name, "lan"), tap.mark_of("other", "wan")):
        taken = checked(monkeypatch, '"tap"', tap.Seen("", True, mark))
        assert taken == [("E0448", Severity.ERROR)], mark


def test_an_interface_of_the_same_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "net_af_packet0,iface=eth0"
    assert checked(monkeypatch, '"tap"', vdev=own) == [("E0450", Severity.WARNING)]
    assert checked(monkeypatch, '{ netns = "edge" }', vdev=own) == []


def test_another_machine_is_not_asked() -> None:
    host = dataclasses.replace(machine(FULL), is_here=False)
    assert host.no_taps() == "" and host.tap("lo", "") == tap.Seen()


def test_what_is_there_under_a_name() -> None:
    """Needs no right."""
    assert tap.inspect("lo", "").is_there
    assert not tap.inspect("no-such-if", "").is_there
    assert "no-such-netns" in tap.inspect("lo", "no-such-netns").trouble
    assert tap.remove("lo", "", "dpsup edge wan") is False
    with pytest.raises(tap.Taken):
        tap.hold("lo", "", "dpsup edge wan")
    with pytest.raises(tap.Taken):
        tap.open_tap("lo", "", "dpsup edge wan", "", 1500)


# --- what is told ---------------------------------------------------------------------------------


def path(**more: Any) -> Any:
    return {"tap": "wan", "netns": "", "rate": 9, "carrier": True, "trouble": "", **more}


def test_the_account_has_both_ways() -> None:
    counters = copy.deepcopy(looks.edge(5.0)["counters"])
    before = status.account(counters)
    counters["ports"][0] |= {"to_kernel": 7, "from_kernel": 5}
    counters["ports"][0]["tx_packets"] += 5
    counters["ports"][0]["rx_packets"] += 7
    after = status.account(counters)
    assert (after["to_kernel"], after["from_kernel"]) == (7, 5)
    assert after["lost"] == before["lost"]
    counters["io"][0]["kernel_waiting"] = 3
    assert status.account(counters)["in_flight"] == before["in_flight"] + 3


def test_hints_name_the_cure() -> None:
    def told(kernel: Any, **new: int) -> str:
        made = looks.made() if hasattr(looks, "made") else picture()
        made["ports"][0] |= {"kernel": kernel, "drops_new": new}
        return "\n".join(hints(made))

    def picture() -> Any:
        from dpsup.instance.rates import picture as of

        return copy.deepcopy(of(looks.edge(4.0), looks.edge(5.0)))

    assert 'kernel = "tap"' in told(None, no_kernel=1)
    assert "ip -n edge link set wan up" in told(path(netns="edge"), kernel_failed=1)
    assert "9 per second" in told(path(), kernel_rate=2)
    assert "has no way to the kernel: gone" in told(path(trouble="gone"))


class Events:
    def __init__(self) -> None:
        self.told: list[str] = []

    def add(self, **event: Any) -> None:
        self.told.append(f"{event['type']} {event['name']}: {event['message']}")


class Core:
    def __init__(self) -> None:
        self.events = Events()


class Named:
    name = "edge"


def test_the_supervisor_holds_a_queue_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[tuple[str, str, str]] = []

    def hold(*of: str) -> int:
        held.append((of[0], of[1], of[2]))
        if len(held) == 1:
            raise OSError(16, "busy")
        return looks_like_one.fileno()

    with Path("/dev/null").open("rb", buffering=0) as looks_like_one:
        monkeypatch.setattr(tap, "hold", hold)
        closed: list[int] = []
        monkeypatch.setattr("dpsup.supervisor.kernel.os.close", closed.append)
        core: Any = Core()
        paths = KernelPaths(core, Named())  # type: ignore[arg-type]

        def look(kernel: Any, **drops: int) -> None:
            port = {"name": "wan", "kernel": kernel, "drops": drops}
            paths.observe({"ports": [port]})  # type: ignore[typeddict-item]

        look(path())  # it fails, and is tried again
        look(path())
        look(path())
        assert held == [("wan", "", "dpsup edge wan")] * 2
        look(path(trouble="its interface was deleted"))
        look(path(trouble="its interface was deleted"))
        assert closed == [looks_like_one.fileno()]
        look(path())
        assert len(held) == 3
        look(None, no_kernel=3)
        look(None, no_kernel=4)
    assert [t.partition(":")[0] for t in core.events.told] == ["port wan", "port wan", "advice wan"]
    assert "was deleted" in core.events.told[0] and "no_kernel" in core.events.told[2]


def test_each_reason_is_one_of_a_port() -> None:
    names = list(_abi.DPS_DROP_NAMES.values())
    assert {"no_kernel", "kernel_rate", "kernel_full", "kernel_failed"} <= {*names}
