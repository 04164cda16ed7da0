# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup where`: a flow as people write it, its hash by the io cores' own function, its way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit import looks

from dpsup.errors import NoSuchObject, UsageError
from dpsup.instance.where import where
from dpsup.packets.decode import one_line
from dpsup.packets.flow import EXAMPLES, Flow, frame, parse
from dpsup.primary.flow_hash import flow_hash
from dpsup.view import answers
from dpsup.view.columns import plain
from dpsup.view.sections import Screen

FIELDS = ["ipv4", "ipv6", "tcp", "udp"]
# "Verifying the RSS hash calculation": with ports, and of the addresses alone.
VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178, 0x323E8FC2),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xAFC7327F, 0x82989176),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D, 0x2CC18CD5),
]


def plan(fields: list[str] = FIELDS, key: str = "default") -> Any:
    made = copy.deepcopy(looks.PLAN)
    for port in made["ports"]:
        port.update(rss_fields=fields, rss_key=key)
    return made


# wan feeds fw, whose even buckets are fw/0's; then nat. Its odd ones are fw/1's.
MAPS = [[0, 1] * 256, [0] * 512]


def info(**more: Any) -> Any:
    one = {"hw_rss": 0, "rx_queues": 1, "reta": [], "rss_offloads": 0, **more}
    return [{**one, "name": name} for name in ("wan", "lan")]


def ask(text: str, of: Any = None, **how: Any) -> Any:
    given = {"maps": MAPS, "info": info(), "states": {"fw/0": "running"}, **how}
    return where(text, of or plan(), flow_hash, **given)


@pytest.mark.parametrize(("src", "sport", "dst", "dport", "with_ports", "without"), VECTORS)
def test_published_vectors(
    src: str, sport: int, dst: str, dport: int, with_ports: int, without: int
) -> None:
    ends = (f"[{src}]:{sport}", f"[{dst}]:{dport}") if ":" in src else (
        f"{src}:{sport}", f"{dst}:{dport}")  # fmt: skip
    for kind in ("tcp", "UDP", "tcp SA", ""):
        for tags in ("", "vlan 7 ", "vlan 100 vlan 7 "):
            doc = ask(f"{tags}{ends[0]} > {ends[1]} {kind}")
            assert (doc["hash"], doc["by"]) == (with_ports, "addresses and ports")
            assert doc["bucket"] == with_ports % 512
    for kind in ("icmp", "gre", "protocol 99", "89", "tcp fragment", "udp fragment at 1480", ""):
        doc = ask(f"{src} > {dst} {kind}")
        assert (doc["hash"], doc["by"]) == (without, "addresses")
    doc = ask(f"{ends[0]}>{ends[1]} tcp fragment")
    assert doc["hash"] == without and "do not count" in doc["notes"][0]
    doc = ask(f"{ends[0]}>{ends[1]} tcp fragment", plan([*FIELDS, "fragments"]))
    assert doc["hash"] == without and "are tracked" in doc["notes"][0]
    without_udp = plan(["ipv4", "ipv6", "tcp"])
    assert ask(f"{ends[0]} > {ends[1]} udp", without_udp)["hash"] == without
    assert ask(f"{src} > {dst} udp", without_udp)["hash"] == without


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.data())
def test_what_capture_prints_is_understood(a: Any, p: int, q: int, data: Any) -> None:
    b = data.draw(st.ip_addresses(v=a.version))
    protocol = data.draw(st.sampled_from([1, 2, 6, 17, 47, 58, 89, 99, 132]))
    with_ports = (p, q) if protocol in (6, 17, 132) else None
    if protocol == {4: 58, 6: 1}[a.version]:
        return  # the other version's ICMP
    flow = Flow(a.packed, b.packed, with_ports, protocol)
    assert parse(one_line(frame(flow))) == flow
    assert parse(str(flow)) == flow


def test_what_is_not_ip_goes_by_mac_addresses() -> None:
    arp = parse("02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP")
    assert parse(one_line(frame(arp))) == arp == parse(str(arp))
    assert arp.type == 0x0806
    doc = ask(str(arp))
    assert doc["by"] == "MAC addresses and EtherType"
    assert doc["hash"] != ask("02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type 0x88b5")["hash"]
    assert ask("02:00:00:00:00:01 > 02:00:00:00:00:02 802.3")["by"] == "MAC addresses"
    only_four = plan(["ipv4", "tcp"])
    with pytest.raises(UsageError, match="does not hash ipv6") as e:
        ask("[2001:db8::1]:1 > [2001:db8::2]:2 tcp", only_four)
    assert "02:00:00:00:00:01" in e.value.help
    assert ask("02:00:00:00:00:01 > 02:00:00:00:00:02 ipv6", only_four)["hash"]
    with pytest.raises(UsageError, match="by their addresses"):
        ask("02:00:00:00:00:01 > 02:00:00:00:00:02 ipv4", only_four)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("10.0.0.1:80 tcp", 'no "source > destination"'),
        ("10.0.0.1:80 >", 'no "source > destination"'),
        ("10.0.0.1:80 > tcp", '"tcp" is not an address'),
        ("10.0.0.1:80 > 10.0.0.2 tcp", "10.0.0.2 has no port"),
        ("10.0.0.1:80 > 10.0.0.256:80 tcp", "not an address"),
        ("10.0.0.1:65536 > 10.0.0.2:80 tcp", '"65536" is not a port'),
        ("10.0.0.1:http > 10.0.0.2:80 tcp", '"http" is not a port'),
        ("10.0.0.1:1 > [::1]:2 tcp", "not of the same version"),
        ("2001:db8::1:80 > 2001:db8::2:80 tcp", "the ports of tcp are hashed"),
        ("2001:db8::1::80 > ::2 tcp", "has brackets"),
        ("10.0.0.1:1 > 10.0.0.2:2 icmp", "icmp has no ports"),
        ("10.0.0.1:1 > 10.0.0.2:2 tpc", '"tpc" is not a protocol'),
        ("10.0.0.1 > 10.0.0.2 protocol 256", '"256" is not the number'),
        ("10.0.0.1 > 10.0.0.2 tcp", "none are given"),
        ("10.0.0.1:1 > 10.0.0.2:2 tcp now", '"now" is one word too many'),
        ("10.0.0.1:1 > 10.0.0.2:2 tcp here and now", "is not understood"),
        ("vlan x 10.0.0.1:1 > 10.0.0.2:2 tcp", "the number of a VLAN"),
        ("vlan 1 " * 5 + "10.0.0.1:1 > 10.0.0.2:2 tcp", "more than 4 VLAN tags"),
        ("02:00:00:00:00:01 > 10.0.0.1 arp", "not a MAC address"),
        ("02:00:00:00:00:01 > 02:00:00:00:00:02", "the EtherType counts too"),
        ("02:00:00:00:00:01 > 02:00:00:00:00:02 type 0x1ffff", "not an EtherType"),
        ("10.0.0.1%eth0 > 10.0.0.2", "not an address"),
        ("<> > <>", "not an address"),
    ],
)
def test_what_is_not_a_flow_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UsageError) as e:
        ask(text)
    assert words in str(e.value) and e.value.code == "E0761"
    assert e.value.help


@given(st.text(alphabet="0123456789abcdef:.[]> tcpvlan-%", max_size=60))
def test_any_text_is_a_flow_or_refused(text: str) -> None:
    try:
        flow = parse(text)
    except UsageError:
        return
    assert flow_hash("default", FIELDS, frame(flow)) >= 0


def test_the_examples_of_the_help_are_flows() -> None:
    examples = EXAMPLES.split('"')[1::2]
    assert len(examples) == 4
    for one in examples:
        assert ask(one)["bucket"] < 512


def test_the_protocol_must_be_named_where_it_matters() -> None:
    text = "66.9.149.187:2794 > 161.142.100.80:1766"
    assert "tcp was assumed" in ask(text)["notes"][0]
    with pytest.raises(UsageError, match="which protocol"):
        ask(text, plan(["ipv4", "ipv6", "tcp"]))


def test_the_symmetric_key_is_that_of_both_directions() -> None:
    both = plan(key="symmetric")
    there, back = (
        ask(f"{a} > {b} udp", both)["hash"]
        for a, b in (("1.2.3.4:5", "6.7.8.9:10"), ("6.7.8.9:10", "1.2.3.4:5"))
    )
    assert there == back


def test_tunnels_that_are_looked_into_are_said() -> None:
    inner = plan([*FIELDS, "vxlan", "vxlan:8472", "gre"])
    for text in (
        "1.2.3.4:5 > 6.7.8.9:4789 udp", "1.2.3.4:5 > 6.7.8.9:8472 udp", "1.2.3.4 > 6.7.8.9 gre"
    ):  # fmt: skip
        assert any("inner headers" in n for n in ask(text, inner)["notes"])
        assert not ask(text)["notes"]


# --- the way --------------------------------------------------------------------------------------


def test_the_way_leads_through_the_chain() -> None:
    doc = ask("66.9.149.187:2794 > 161.142.100.80:1766 tcp")  # bucket 0x178, even
    wan, lan = doc["arrivals"]
    assert (wan["port"], wan["queue"], wan["io"], wan["io_core"]) == ("wan", 0, "io/0", 1)
    first, second = wan["path"]
    assert first == {
        "group": "fw", "certain": True, "worker": "fw/0", "state": "running", "core": 3,
        "then": "nat",
    }  # fmt: skip
    assert second["worker"] == "nat/0"
    assert [(stop["worker"], stop["then"]) for stop in lan["path"]] == [
        ("nat/0", "fw"),
        ("fw/0", "wan"),
    ]
    shown = plain(answers.where(doc, Screen(80)))
    assert "bucket 376" in shown and "fw/0" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    only = ask("1.2.3.4 > 5.6.7.8 icmp", port="lan")["arrivals"]
    assert [one["port"] for one in only] == ["lan"]


def test_behind_a_plugin_that_decides_nothing_is_certain() -> None:
    free = plan()
    free["groups"][0]["next"] = [["", -1], ["", -1]]
    fw, nat = ask("1.2.3.4 > 5.6.7.8 icmp", free, port="wan")["arrivals"][0]["path"]
    assert (fw["certain"], fw["then"]) == (True, "")
    assert (nat["group"], nat["certain"]) == ("nat", False)
    shown = plain(answers.where(ask("1.2.3.4 > 5.6.7.8 icmp", free), Screen(None)))
    assert "its plugin decides" in shown and "(nat)" in shown


def test_a_bucket_without_a_worker() -> None:
    nobody = ask("1.2.3.4 > 5.6.7.8 icmp", maps=[[255] * 512, [0] * 512], port="wan")
    assert nobody["arrivals"][0]["path"][0]["worker"] is None
    assert "none now" in plain(answers.where(nobody, Screen(None)))


def test_a_file_does_not_tell_which_of_several_workers() -> None:
    doc = ask("1.2.3.4 > 5.6.7.8 icmp", maps=None, info=None, states=None)
    assert (doc["source"], doc["generation"]) == ("file", None)
    fw, nat = doc["arrivals"][0]["path"]
    assert (fw["worker"], nat["worker"]) == (None, "nat/0")
    assert any("order" in note for note in doc["notes"])
    single = plan()
    single["groups"][0]["count"] = 1
    assert not ask("1.2.3.4 > 5.6.7.8 icmp", single, maps=None, info=None)["notes"]
    # Two io cores, and no driver that could be asked how many queues it has.
    assert doc["arrivals"][0]["io"] is None


def test_the_queue_is_known_where_the_nic_hashes() -> None:
    text = "66.9.149.187:2794 > 161.142.100.80:1766 tcp"
    nic = info(hw_rss=1, rx_queues=2, reta=[0, 1] * 32, rss_offloads=1 << 4)
    one = ask(text, info=nic)["arrivals"][0]
    assert (one["hashed_by"], one["queue"], one["io"]) == ("nic", 0x51CCC178 % 2, "io/0")
    # A driver that chooses the queue by itself.
    one = ask(text, info=info(rx_queues=2))["arrivals"][0]
    assert (one["hashed_by"], one["queue"], one["io"]) == ("software", None, None)
    # What the NIC does not hash as asked is said.
    assert not ask(text, info=nic)["notes"]
    assert "may hash the addresses alone" in ask(text.replace("tcp", "udp"), info=nic)["notes"][0]
    arp = ask("02:00:00:00:00:01 > 02:00:00:00:00:02 arp", info=nic)["arrivals"][0]
    assert (arp["hashed_by"], arp["queue"]) == ("software", None)


def test_ports_that_are_none_or_feed_none() -> None:
    with pytest.raises(NoSuchObject, match='no port "wn"') as e:
        ask("1.2.3.4 > 5.6.7.8 icmp", port="wn")
    assert 'did you mean "wan"' in e.value.help
    idle = plan()
    idle["ports"][1]["group"] = -1
    with pytest.raises(UsageError, match="feeds no group"):
        ask("1.2.3.4 > 5.6.7.8 icmp", idle, port="lan")
    assert len(ask("1.2.3.4 > 5.6.7.8 icmp", idle)["arrivals"]) == 1
