# SPDX-License-Identifier: BSD-3-Clause
"""What a worker with more than its share holds: the tunnel and the key are named, or why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import GRE, IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from unit.test_advise import only, sound, window

from dpsup.advise import contents, lanes, report
from dpsup.view.columns import plain
from dpsup.view.sections import Screen

OUT = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
HOST = IP(src="192.0.2.1", dst="192.0.2.2")


def inner(i: int) -> Any:
    return IP(src=f"10.0.0.{i % 200}", dst="10.1.0.1") / UDP(sport=1000 + i, dport=53)


TUNNELS = {
    "gre": ("GRE", lambda i: OUT / HOST / GRE() / inner(i)),
    "vxlan": ("VXLAN", lambda i: OUT / HOST / UDP(sport=9, dport=4789) / VXLAN() / OUT / inner(i)),
    "gtpu": ("GTP-U", lambda i: OUT / HOST / UDP(dport=2152) / GTP_U_Header(teid=1) / inner(i)),
    "vxlan:8472": (
        "VXLAN on port 8472",
        lambda i: OUT / HOST / UDP(dport=8472) / VXLAN(vni=7) / OUT / inner(i),
    ),
    "vxlan:5000": (
        "VXLAN on port 5000",
        lambda i: OUT / HOST / UDP(dport=5000) / VXLAN(flags="Instance", vni=7) / OUT / inner(i),
    ),
    "mpls": ("MPLS", lambda i: OUT / MPLS(label=5, s=0) / MPLS(label=6, s=1) / inner(i)),
    "pppoe": ("PPPoE", lambda i: OUT / PPPoE(sessionid=7) / PPP(proto=0x21) / inner(i)),
    "ipip": ("IPIP", lambda i: OUT / HOST / inner(i)),
    "erspan": (
        "ERSPAN",
        lambda i: OUT / HOST / GRE(proto=0x88BE, seqnum_present=1)
        / Raw(b"\x10" + bytes(7)) / OUT / inner(i),
    ),
}  # fmt: skip
SIX = OUT / HOST / IPv6(dst="2001:db8::1") / UDP()
KEYLESS = {
    "MPLS": OUT / MPLS(label=5, s=1) / Raw(bytes(40)),
    "IPIP": OUT / HOST / Raw(bytes(40)),
    "ERSPAN": OUT / HOST / GRE(proto=0x22EB) / Raw(bytes(40)),
    "PPTP": OUT / HOST / Raw(bytes([0x30, 0x01, 0x88, 0x0B]) + bytes(20)),
    "PPPoE": Ether(type=0x8864) / Raw(bytes(40)),
    "ESP": OUT / IPv6(nh=50) / Raw(bytes(30)),
    "fragments": OUT / IPv6() / IPv6ExtHdrFragment(offset=2) / Raw(bytes(30)),
}
KEYLESS["PPTP"][IP].proto = 47
KEYLESS["IPIP"][IP].proto = 4


@pytest.mark.parametrize("key", TUNNELS)
@pytest.mark.parametrize("tag", [False, True])
def test_a_tunnel_that_can_be_looked_into_has_its_key(key: str, tag: bool) -> None:
    name, made = TUNNELS[key]
    frames = [bytes(made(i)) for i in range(40)]
    if tag:
        frames = [f[:12] + bytes(Dot1Q(vlan=3))[:2].rjust(2, b"\0") + f[12:] for f in frames]
        frames = [f[:12] + b"\x81\x00\x00\x03" + f[14:] for f in frames]
    found = contents.most(frames)
    assert found is not None
    assert (found.what, found.key, found.share) == (name, key, 1.0)
    assert len(found.spread) == 40


@pytest.mark.parametrize("name", KEYLESS)
def test_what_cannot_be_looked_into_is_named(name: str) -> None:
    found = contents.most([bytes(KEYLESS[name])] * 9)
    assert found is not None and (found.what, found.key) == (name, "")


def test_6in4_has_the_word_of_ipip() -> None:
    found = contents.most([bytes(SIX)] * 9)
    assert found is not None and (found.what, found.key) == ("6in4", "ipip")


@pytest.mark.parametrize("port", [4789, 8472, 5000])
def test_what_only_looks_like_vxlan_is_not_advised(port: int) -> None:
    """Io cores look for the I flag: without it or a frame inside the key does nothing."""
    head = OUT / HOST / UDP(sport=9, dport=port) / VXLAN(flags="Instance", vni=7)
    frame = bytearray(bytes(head / OUT / inner(1)))
    assert contents.content(bytes(frame)).key
    for at in (42, 62, 64, *((43, 49) if port == 5000 else ())):
        other = bytearray(frame)
        other[at] ^= 0xFF
        assert not contents.content(bytes(other)).key


def test_a_fourth_port_of_vxlan_is_not_advised() -> None:
    frames = [bytes(TUNNELS["vxlan:5000"][1](i)) for i in range(200)]
    three = ("vxlan", "vxlan:1", "vxlan:2")
    assert list(lanes.tunnels(elephant(frames, ("ipv4", *three[:2]))))
    assert not list(lanes.tunnels(elephant(frames, ("ipv4", *three))))


def test_one_flow_is_named_by_its_ends() -> None:
    one = OUT / HOST / TCP(sport=1, dport=2)
    found = contents.most([bytes(one)] * 9 + [bytes(OUT / inner(i)) for i in range(8)])
    assert found is not None and found.what == "one flow, 192.0.2.1:1 > 192.0.2.2:2 TCP S"
    assert contents.most([bytes(OUT / inner(i)) for i in range(40)]) is None
    assert contents.most([]) is None


@given(st.binary(max_size=120), st.sampled_from([*KEYLESS.values()]), st.integers(0, 90))
def test_whatever_the_bytes_they_are_something(noise: bytes, frame: Any, cut: int) -> None:
    data = bytes(frame)
    for some in (noise, data[:cut], data[:14] + noise, data[:cut] + noise):
        contents.most([some])


def elephant(frames: list[bytes], fields: tuple[str, ...] = ("ipv4",)) -> Any:
    made = window()
    made.spreads["fw"] = {  # type: ignore[typeddict-item]
        "packets": 1000, "imbalance": 1.8, "imbalance_predicted": 1.8, "buckets_moved": 0,
        "before": {"fw/0": 0.9, "fw/1": 0.1},
    }  # fmt: skip
    made.samples["fw"] = frames
    for port in made.plan["ports"]:
        port["rss_fields"] = list(fields)
    return made


def test_the_key_of_a_tunnel_is_advised_with_its_effect() -> None:
    assert callable(sound)
    made = elephant([bytes(TUNNELS["gre"][1](i)) for i in range(200)])
    piece = only(report.pieces(made), "tunnel")
    change = piece.document()["changes"][0]
    assert change["path"][-2:] == ["rss", "inner"] and change["value"] == ["gre"]
    assert piece.effect.now == 1.8 and 1.0 <= piece.effect.then < 1.4
    assert "rss.inner" in plain(report.lines(report.document(made), Screen(None)))
    already = elephant(made.samples["fw"], ("ipv4", "gre"))
    assert not list(lanes.tunnels(already))
    few = elephant([bytes(TUNNELS["gre"][1](i % 2)) for i in range(200)])
    assert not list(lanes.tunnels(few)), "two flows inside do not spread"


def test_where_no_key_helps_the_reason_is_said() -> None:
    made = elephant([bytes(KEYLESS["MPLS"])] * 9)
    doc = report.document(made)
    assert "MPLS" in doc["contents"]["fw/0"]
    doc["lost_pps"], doc["advice"] = 100.0, []
    said = plain(report.lines(doc, Screen(None)))
    assert "fw/0 has more than its share" in said and "MPLS" in said
    assert "no change of this topology" not in said


def test_of_fragments_the_key_that_tracks_them_is_named() -> None:
    frames = [bytes(KEYLESS["fragments"])] * 9
    assert 'rss.fragments = "track"' in lanes.contents_of(elephant(frames))["fw/0"]
    tracked = lanes.contents_of(elephant(frames, ("ipv4", "fragments")))
    assert "rss.fragments" not in tracked["fw/0"] and "few flows" in tracked["fw/0"]


def test_predicted_imbalance_is_that_of_the_flows() -> None:
    assert contents.imbalance((1.0,), 1.0, 4) == 4.0, "one flow is one worker's"
    assert contents.imbalance((), 0.0, 4) == 1.0
    even = contents.imbalance((1 / 1000,) * 1000, 1.0, 2)
    assert 1.0 <= even < 1.1
