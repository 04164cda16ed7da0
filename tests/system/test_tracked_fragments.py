# SPDX-License-Identifier: BSD-3-Clause
"""`rss.fragments = "track"`: the fragments of a flow come to the worker that has the flow."""

from __future__ import annotations

import random
import struct

import pytest
from harness import Run
from jobs import IO, accounted, build, group, out, pcap_port
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from traffic import write_pcap

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

FLOWS = 40
# Each packet says which worker it met, in its MAC addresses' last bytes.
SAYS = """
#include <string.h>
#include <unistd.h>
#include "dpsup_plugin.h"

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint32_t pid = getpid();

	(void)state;
	memcpy(p->data, &pid, sizeof(pid));
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "says", .rewrites = 4, .packet = packet,
};
"""


def datagrams() -> list[bytes]:
    """Of each flow a whole packet, then one in fragments; those of several flows are mixed, in
    their order. Its number is in the last byte of its source MAC address."""
    lines: list[list[bytes]] = []
    for n in range(FLOWS):
        ether = Ether(src=f"02:00:00:00:00:{n:02x}", dst="02:00:00:00:00:00")
        udp = UDP(sport=1000 + n, dport=53)
        # Of all flows the same two addresses.
        if n % 2:
            whole = ether / IP(src="10.0.0.1", dst="10.0.0.2", id=n) / udp / Raw(bytes(100))
            long = ether / IP(src="10.0.0.1", dst="10.0.0.2", id=n) / udp / Raw(bytes(4000))
            parts = fragment(long, 1480)
        else:
            ip = IPv6(src="2001:db8::1", dst="2001:db8::2")
            whole = ether / ip / udp / Raw(bytes(100))
            long = ether / ip / IPv6ExtHdrFragment(id=n) / udp / Raw(bytes(4000))
            parts = fragment6(long, 1480)
        lines.append([bytes(one) for one in (whole, *parts)])
    rng, frames = random.Random(5), []
    while any(lines):
        frames.append(rng.choice([line for line in lines if line]).pop(0))
    return frames


def test_fragments_meet_their_flow(instance: Run) -> None:
    frames = datagrams()
    write_pcap(instance.folder / "wan.in.pcap", frames)
    plugin = build(instance.folder, SAYS)
    port = pcap_port() + 'rss = { fragments = "track" }\n'
    doc = instance.job(port + IO + group(str(plugin), 4))
    accounted(doc, len(frames))
    met: dict[int, set[int]] = {}
    for frame in out(instance):
        met.setdefault(frame[11], set()).add(struct.unpack_from("=I", frame)[0])
    assert len(met) == FLOWS and all(len(pids) == 1 for pids in met.values())
    # By their addresses alone, fragments of these flows would come to two workers at most.
    assert len(set().union(*met.values())) > 2
