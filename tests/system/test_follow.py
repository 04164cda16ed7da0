# SPDX-License-Identifier: BSD-3-Clause
"""`follow = "kernel"`: the tables of `route` have the routes and neighbours of the kernel in a
network namespace, whatever dies, and no packet to a prefix that is there all the time is lost."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Run, builder, dies, pids_of, run, supervisor, wait_for
from netns import Host, sh, two_hosts

from dpsup.topology import templates

pytestmark = [pytest.mark.system, pytest.mark.beside]

EVERY_KILL = 'restart = { intensity = 1000, backoff = { initial = "10ms", factor = 1 } }'


def topology(wan: str, lan: str, netns: str, entries: int) -> str:
    """What `dpsup init --template router` writes, with interfaces of the kernel's as its comments
    say, room for `entries` routes of each family, and workers that are started again however often
    they die."""
    text = templates.make("router", "edge", "edge.toml", [0, 1]).files["edge.toml"].decode()
    for old, new, times in (
        ("net_null0,size=64", f"net_af_packet0,iface={wan}", 1),
        ("net_null1,no-rx=1", f"net_af_packet1,iface={lan}", 1),
        ('\nkernel = "tap"', f'\nkernel = {{ netns = "{netns}" }}', 2),
        ('entries = "10k"', f'entries = "{entries}"', 1),
        ('entries = "1k" }\nhops', f'entries = "{entries}" }}\nhops', 1),
        ('plugin = "route"', f'plugin = "route"\n{EVERY_KILL}', 1),
    ):
        assert text.count(old) == times, old
        text = text.replace(old, new)
    return text[text.index("[[ports]]") :]


ROUTES = 2500  # of which a change of half is more than one request holds
FIXED, FIXED6 = "10.200.0.1", "2001:db8:200::1"
NETS = {"wan": ("192.0.2.", "2001:db8::"), "lan": ("198.51.100.", "2001:db8:1::")}


class Edge:
    """Two hosts, and the router's kernel between them."""

    def __init__(self, a: Host, b: Host, kernel: Host) -> None:
        self.a, self.b, self.kernel = a, b, kernel

    def start(self, instance: Run, entries: int = 4000) -> None:
        self.kernel.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        instance.start(topology(self.a.port, self.b.port, self.kernel.name, entries))
        for port, host in (("wan", self.a), ("lan", self.b)):
            v4, v6 = NETS[port]
            for one, device, number in ((self.kernel, port, 1), (host, host.device, 7)):
                one.run("ip", "addr", "add", f"{v4}{number}/24", "dev", device)
                one.run("ip", "addr", "add", f"{v6}{number}/64", "dev", device, "nodad")
            host.run("ip", "route", "add", "default", "via", f"{v4}1")
            host.run("ip", "route", "add", "default", "via", f"{v6}1")
        # Whatever is sent to the networks behind it, this host answers.
        self.b.run("ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
        self.b.run("ip", "-6", "route", "add", "local", "2001:db8:200::/48", "dev", "lo")
        self.kernel.run("ip", "route", "add", f"{FIXED}/32", "via", "198.51.100.7")
        self.kernel.run("ip", "route", "add", "2001:db8:200::/48", "via", "2001:db8:1::7")

    def batch(self, folder: Path, lines: list[str]) -> None:
        file = folder / "batch"
        file.write_text("\n".join(lines) + "\n")
        sh("ip", "-n", self.kernel.name, "-batch", str(file))

    def prefixes(self, family: str = "-4") -> dict[str, str]:
        """What the kernel has, in the words of the tables: with a next router, or a word."""
        words = {"blackhole": "blackhole", "unreachable": "unreachable", "prohibit": "prohibited"}
        found = {}
        for table in ("main", "local"):
            text = self.kernel.run("ip", "-j", "-N", family, "route", "show", "table", table).stdout
            for route in json.loads(text or "[]"):
                if route["dst"] == "default":
                    route["dst"] = "0.0.0.0/0" if family == "-4" else "::/0"
                net = ipaddress.ip_network(route["dst"])
                if net.is_loopback or net.is_multicast or net.is_link_local:
                    continue
                kind = route.get("type", "1")
                named = {"1": "", "unicast": "", "6": "blackhole", "7": "unreachable",
                         "8": "prohibited"} | words  # fmt: skip
                found[str(net)] = named.get(kind, "local") if table == "main" else "local"
        return found


@pytest.fixture
def edge() -> Iterator[Edge]:
    with two_hosts() as (a, b):
        name = f"{a.name[:-1]}r"
        sh("ip", "netns", "add", name)
        try:
            yield Edge(a, b, Host(name, "", "", "", ""))
        finally:
            sh("ip", "netns", "del", name, check=False)


def follower(instance: Run) -> int:
    return wait_for(lambda: next(iter(pids_of("dpsup.follow", instance.name)), 0))


def table(instance: Run, name: str) -> dict[str, str]:
    text = instance.do("table", name, "show", check=False).stdout
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line)


def leads_to(instance: Run, prefix: str) -> str:
    """A prefix's only next hop."""
    return table(instance, "hops").get(table(instance, "routes").get(prefix, ""), "")


def differs(instance: Run, edge: Edge) -> str:
    """What is other in the tables than in the kernel, "": nothing."""
    for name, family in (("routes", "-4"), ("routes6", "-6")):
        there, wanted = table(instance, name), edge.prefixes(family)
        if there.keys() != wanted.keys():
            return f"{name}: {sorted(there.keys() ^ wanted.keys())[:9]}"
        for prefix, word in wanted.items():
            is_word = not there[prefix][0].isdecimal() and not there[prefix].startswith("ecmp/")
            if is_word != bool(word) or (word and there[prefix] != word):
                return f"{name}: {prefix} {there[prefix]}, the kernel: {word}"
    return ""


def as_the_kernel(instance: Run, edge: Edge) -> None:
    last = ""

    def same() -> bool:
        nonlocal last
        last = differs(instance, edge)
        return not last

    with contextlib.suppress(AssertionError):
        wait_for(same, step=0.2)
    assert not last, last + "\n" + instance.do("logs", "follow/router", check=False).stdout


class Pings:
    """Numbered pings. At the end the last ones are still under way, so what is lost is a number
    with an answered one after it."""

    def __init__(self, edge: Edge, to: str, file: Path) -> None:
        self._file = file
        self._child = edge.a.popen("sh", "-c", f"exec ping -n -i 0.01 -W 10 {to} > {file}")

    def finish(self) -> None:
        self._child.send_signal(2)
        _, err = self._child.communicate(timeout=60)
        numbers = {int(n) for n in re.findall(r"icmp_seq=(\d+) ttl", self._file.read_text())}
        lost = sorted(set(range(1, max(numbers))) - numbers)
        assert len(numbers) > 20 and not lost, f"{len(numbers)} came, lost: {lost} {err}"


def reached(edge: Edge) -> None:
    for address in (FIXED, FIXED6):
        wait_for(lambda to=address: edge.a.ping(to, count=1) == 1)


def test_no_packet_is_lost_whatever_dies(instance: Run, edge: Edge, tmp_path: Path) -> None:
    edge.start(instance)
    reached(edge)
    nets = [f"10.{20 + i // 250}.{i % 250}.0/24" for i in range(ROUTES)]
    edge.batch(tmp_path, [f"route add {net} via 198.51.100.7" for net in nets])
    as_the_kernel(instance, edge)
    # By the workers: the kernel would need a punt of each.
    to_kernel = instance.stats()["ports"][0]["to_kernel"]
    assert edge.a.ping(FIXED, count=20) == 20
    assert instance.stats()["ports"][0]["to_kernel"] - to_kernel < 10
    flow, flow6 = (Pings(edge, to, tmp_path / f"pings{to}") for to in (FIXED, FIXED6))
    kills = (
        lambda: dies(follower(instance)),
        lambda: dies(builder(instance)),
        lambda: dies(instance.worker("router/0")["pid"]),
        lambda: dies(supervisor(instance)),
    )
    for n, kill in enumerate(kills):
        half = nets[n % 2 :: 2]
        edge.batch(tmp_path, [f"route del {net}" for net in half])
        kill()
        edge.batch(tmp_path, [f"route add {net} via 198.51.100.7" for net in half])
        if n == len(kills) - 1:
            run("start", str(instance.file), "--detach", check=True)
        instance.until_running()
        as_the_kernel(instance, edge)
    for one in (flow, flow6):
        one.finish()
    # The kinds of routes; several ways; what the operator writes is the kernel's again.
    edge.batch(
        tmp_path,
        [
            "route add blackhole 10.9.1.0/24",
            "route add unreachable 10.9.2.0/24",
            "route add prohibit 10.9.3.0/24",
            "route add 10.9.4.0/24 nexthop via 198.51.100.7 weight 3 nexthop via 192.0.2.7",
            "route add 10.9.5.0/24 via 198.51.100.99",
            "route add 10.9.6.0/24 via inet6 2001:db8:1::7 dev lan",
            "link add other type veth peer name beyond",
            "link set other up",
            "link set beyond up",
            "route add 10.9.7.0/24 dev other",
        ],
    )
    instance.do("table", "routes", "add", "10.10.0.0/16", "blackhole")

    def shown() -> bool:
        now = table(instance, "routes")
        return "10.9.5.0/24" in now and "10.10.0.0/16" not in now and "10.9.7.0/24" in now

    wait_for(shown, step=0.2)
    routes, hops = table(instance, "routes"), table(instance, "hops")
    assert [routes[f"10.9.{n}.0/24"] for n in (1, 2, 3, 7)] == [
        "blackhole", "unreachable", "prohibited", "local",
    ]  # fmt: skip
    (ways,) = table(instance, "ecmp").values()
    spread = dict(one.split("*") if "*" in one else (one, "1") for one in ways.split("+"))
    assert {hops[hop]: n for hop, n in spread.items()} == {
        f"lan,{edge.b.mac}": "3", f"wan,{edge.a.mac}": "1",
    }  # fmt: skip
    assert hops[routes["10.9.5.0/24"]] == "lan,00:00:00:00:00:00"  # nobody is there
    assert edge.a.ping("10.9.6.1", count=3) == 3
    # STALE: the kernel has not heard of it lately. It is used as before.
    by_workers = hops[routes[f"{FIXED}/32"]]
    edge.kernel.run("ip", "neigh", "change", "198.51.100.7", "dev", "lan", "nud", "stale")
    assert edge.a.ping(FIXED, count=20) == 20
    assert table(instance, "hops")[table(instance, "routes")[f"{FIXED}/32"]] == by_workers
    # Of several ways, one whose link has no carrier is left until it has.
    edge.b.run("ip", "link", "set", edge.b.device, "down")
    wait_for(lambda: leads_to(instance, "10.9.4.0/24") == f"wan,{edge.a.mac}", step=0.2)
    edge.b.run("ip", "link", "set", edge.b.device, "up")
    wait_for(lambda: table(instance, "ecmp"), step=0.2)
    # Of an interface that goes down, the kernel does not tell of each IPv4 route that is gone.
    sh("ip", "-n", edge.kernel.name, "link", "set", "lan", "down")
    wait_for(lambda: nets[0] not in table(instance, "routes"), step=0.2)
    wait_for(lambda: leads_to(instance, "10.9.4.0/24") == f"wan,{edge.a.mac}", step=0.2)
    assert not table(instance, "ecmp")
    assert instance.stats()["account"]["lost"] == 0
    instance.stop()


# --- with routing daemons -------------------------------------------------------------------------

ZEBRA, BGPD, BIRD = Path("/usr/lib/frr/zebra"), Path("/usr/lib/frr/bgpd"), Path("/usr/sbin/bird")
LEARNED, LEARNED6 = 10_000, 2000
BGP = """
router bgp 65001
 bgp router-id 198.51.100.1
 no bgp ebgp-requires-policy
 neighbor 198.51.100.7 remote-as 65002
 neighbor 198.51.100.7 timers 3 30
 neighbor 198.51.100.7 timers connect 1
 neighbor 2001:db8:1::7 remote-as 65002
 neighbor 2001:db8:1::7 timers 3 30
 neighbor 2001:db8:1::7 timers connect 1
 address-family ipv6 unicast
  neighbor 2001:db8:1::7 activate
 exit-address-family
"""
PEER = """
router id 198.51.100.7;
protocol device {{ }}
protocol static lasting {{ ipv4; route {fixed}/32 blackhole; }}
protocol static even {{ ipv4; {even} }}
protocol static odd {{ ipv4; {odd} }}
protocol static lasting6 {{ ipv6; route 2001:db8:200::/48 blackhole; }}
protocol static even6 {{ ipv6; {even6} }}
protocol static odd6 {{ ipv6; {odd6} }}
template bgp peer {{
  hold time 30; connect delay time 1; connect retry time 1; error wait time 1, 2;
}}
protocol bgp bgp1 from peer {{
  local 198.51.100.7 as 65002; neighbor 198.51.100.1 as 65001;
  ipv4 {{ import none; export all; next hop self; }};
}}
protocol bgp bgp2 from peer {{
  local 2001:db8:1::7 as 65002; neighbor 2001:db8:1::1 as 65001;
  ipv6 {{ import none; export all; next hop self; }};
}}
"""


class Daemons:
    """FRR beside the router's kernel, and BIRD in the host behind it."""

    def __init__(self, edge: Edge) -> None:
        # FRR gives root up, and a socket's path has 107 bytes at most.
        self.edge, self.folder = edge, Path(tempfile.mkdtemp(prefix="dps"))
        folder = self.folder
        self.children: list[subprocess.Popen[str]] = []
        nets = [f"route 10.{1 + i // 250}.{i % 250}.0/24 blackhole;" for i in range(LEARNED)]
        (folder / "zebra.conf").write_text("")
        (folder / "bgpd.conf").write_text(BGP)
        six = [f"route 2001:db8:{i + 0x1000:x}::/48 blackhole;" for i in range(LEARNED6)]
        text = PEER.format(
            fixed=FIXED, even=" ".join(nets[::2]), odd=" ".join(nets[1::2]),
            even6=" ".join(six[::2]), odd6=" ".join(six[1::2]),
        )  # fmt: skip
        (folder / "bird.conf").write_text(text)
        for one in (folder, *folder.iterdir()):
            shutil.chown(one, "frr", "frr")

    def start(self) -> None:
        for program in (ZEBRA, BGPD):
            name = program.name
            self.children.append(self.edge.kernel.popen(
                str(program), "-u", "frr", "-g", "frr", "-f", str(self.folder / f"{name}.conf"),
                "-i", str(self.folder / f"{name}.pid"), "-z", str(self.folder / "zserv.api"),
                "--vty_socket", str(self.folder), "--log", f"file:{self.folder / name}.log",
            ))  # fmt: skip
            wait_for((self.folder / "zserv.api").exists, step=0.1)
        self.children.append(self.edge.b.popen(
            str(BIRD), "-f", "-c", str(self.folder / "bird.conf"), "-s", self.control,
            "-P", str(self.folder / "bird.pid"),
        ))  # fmt: skip

    @property
    def control(self) -> str:
        return str(self.folder / "bird.ctl")

    def order(self, *words: str) -> str:
        return self.edge.b.run("birdc", "-s", self.control, *words).stdout

    def are_up_since(self) -> list[str]:
        """When its BGP sessions came up."""
        lines = self.order("show", "protocols").splitlines()
        return [one for one in lines if one.startswith("bgp") and "Established" in one]

    def has_learned_all(self) -> bool:
        for family, number in (("-4", LEARNED), ("-6", LEARNED6)):
            text = self.edge.kernel.run("ip", family, "route", "show", "proto", "bgp").stdout
            if text.count("\n") != number + 1:
                return False
        return True

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()
        shutil.rmtree(self.folder)


@pytest.mark.long
@pytest.mark.skipif(
    not (ZEBRA.exists() and BGPD.exists() and BIRD.exists()), reason="needs FRR and BIRD 2"
)
def test_bgp_stays_up_and_no_packet_is_lost(instance: Run, edge: Edge) -> None:
    edge.start(instance, 12_000)
    edge.kernel.run("ip", "route", "del", f"{FIXED}/32")
    edge.kernel.run("ip", "route", "del", "2001:db8:200::/48")
    daemons = Daemons(edge)
    try:
        daemons.start()
        wait_for(daemons.has_learned_all, step=0.5)
        as_the_kernel(instance, edge)
        sessions = daemons.are_up_since()
        assert len(sessions) == 2
        reached(edge)
        flows = [Pings(edge, to, daemons.folder / f"pings{to}") for to in (FIXED, FIXED6)]
        kills = (
            lambda: dies(follower(instance)),
            lambda: dies(builder(instance)),
            lambda: dies(instance.worker("router/0")["pid"]),
            lambda: dies(supervisor(instance)),
        )
        for n, kill in enumerate(kills * 2):
            half = ("even", "odd")[n % 2]
            daemons.order("disable", half)
            daemons.order("disable", f"{half}6")
            time.sleep(0.2 * (n % 3))
            kill()
            if n % len(kills) == len(kills) - 1:
                run("start", str(instance.file), "--detach", check=True)
            daemons.order("enable", half)
            daemons.order("enable", f"{half}6")
            instance.until_running()
        wait_for(daemons.has_learned_all, step=0.5)
        as_the_kernel(instance, edge)
        for flow in flows:
            flow.finish()
        assert daemons.are_up_since() == sessions
        assert instance.stats()["account"]["lost"] == 0
        instance.stop()
    finally:
        daemons.end()
