# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup init`: topologies to begin with, commented, for the CPUs of this machine. Pure: what to
write is returned, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Start(NamedTuple):
    """Files to write (name: content), and what to type then."""

    files: dict[str, bytes]
    then: list[str]


CAPTURE = "in.pcap"  # that the template `ci` reads

TEMPLATES = {
    "forward": "from one port to another, by workers that can be killed; runs without a NIC",
    "chain": "over two groups of workers, one after the other, both ways; runs without a NIC",
    "router": "a router of IPv4 and IPv6, with the routes of the kernel, and so of FRR or BIRD",
    "firewall": "ordered rules and kept flows between two links, changed while packets flow",
    "nat": "many hosts behind one address, whose connections survive kills",
    "balancer": "spreads connections over backends, which can be drained and replaced",
    "exporter": "counts each packet in its flow, and sends the flows to a collector as IPFIX",
    "switch": "a learning switch with VLANs, whose addresses all workers know",
    "ci": "one capture through the workers into another, then the end, with an exit code",
    "plugin": "packet code of your own in C, built with one command",
    "python": "packet code of your own in Python, to prototype, with a test",
    "rust": "packet code of your own in Rust, built with rustc alone",
}

_HEAD = """\
# {what}
# `dpsup check {file}` says what is wrong with it, `dpsup schema` has every key there is.

version = 1
name = "{name}"{pad}# the instance: dpsup -n {name} status

[host]
supervisor_cores = "{supervisor}"{pad0}# Python; it never touches a packet
{shared}
[mempools.default]
mbufs = 8191                        # packets held at a time; 2^n - 1 wastes nothing
"""

_IO = """
[[io]]
cores = "{io}"{pad1}# one C thread for each CPU: receives, steers, sends
idle = "adaptive"                   # gives the CPU back when nothing comes; or "poll"
"""

_FORWARD = """
[[ports]]
name = "wan"
vdev = "net_null0,size=64"          # packets out of nothing, to begin with. A NIC:
                                    #   pci = "0000:3b:00.0"     (dpsup doctor FILE: is it ready?)
                                    # an interface of the kernel's:
                                    #   vdev = "net_af_packet0,iface=eth1"
descriptors = {{ rx = 512, tx = 512 }}

[[ports]]
name = "lan"
vdev = "net_null1,no-rx=1"          # takes every packet, and receives none
descriptors = {{ rx = 512, tx = 512 }}
"""

_GROUP = """
[[workers]]
name = "fw"                         # its workers are fw/0, fw/1, ...
plugin = "{plugin}"{pad2}# {plugin_is}
args = {{ map = {{ wan = "lan", lan = "wan" }} }}   # what comes in at wan leaves at lan
input = ["wan", "lan"]
count = 1                           # to begin with
max = 4                             # `dpsup scale fw 4`: rings and memory are reserved for these
spares = 1                          # waits, and takes a dead worker's place
on_full = "drop"                    # a slow worker loses packets, counted; "hold": none is lost,
                                    # and its port waits
"""

_CHAIN = """
[[workers]]
name = "fw"                         # its workers are fw/0, fw/1, ...
plugin = "forward"                  # built in; yours: ./NAME.so, with dps_next(env, packet)
count = 1                           # to begin with
max = 4                             # `dpsup scale fw 4`: rings and memory are reserved for these
spares = 1                          # waits, and takes a dead worker's place

[[workers]]
name = "nat"
plugin = "macswap"
count = 1
max = 4

[[chains]]
name = "main"
path = ["wan", "fw", "nat", "lan"]  # and back: lan, nat, fw, wan
on_down = "hold"                    # while none of a group's workers is up, packets wait; or
                                    # "bypass": they go on without it; "drop": counted
"""

_ROUTER_PORTS = """
# kernel = "tap": what is for the router itself is the kernel's, at an interface of the port's name:
# ARP, ping, BGP. Where the port is an interface of the kernel's too, it must be in another network
# namespace: kernel = {{ netns = "edge" }}, for both ports (docs/kernel.md).
""" + _FORWARD.lstrip().replace("descriptors =", 'kernel = "tap"\ndescriptors =')

_ROUTER = """
[[workers]]
name = "router"                     # its workers are router/0, router/1, ...
plugin = "route"                    # comes with dpsup: docs/functions/route.md
input = ["wan", "lan"]
follow = "kernel"                   # the tables have what `ip route` shows, whatever changes it
count = 1                           # to begin with
max = 4                             # `dpsup scale router 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
state = "auto"                      # counters of next hops, and the limit of ICMP errors

[workers.args]                      # addresses that ICMP errors come from, by port
address = {{ wan = "192.0.2.1", lan = "198.51.100.1" }}
address6 = {{ wan = "2001:db8::1", lan = "2001:db8:1::1" }}
count_hops = 1                      # packets and bytes of each next hop

[workers.tables]                    # room for the kernel's: `dpsup table` shows how full they are
routes = {{ kind = "ipv4", value = "hop", entries = "10k" }}
routes6 = {{ kind = "ipv6", value = "hop", entries = "1k" }}
hops = {{ kind = "array", value = "port+mac", entries = "256" }}
ecmp = {{ kind = "array", value = "ways", entries = "64" }}
neighbours = {{ kind = "exact", key = "port+ipv4", value = "mac", entries = "1k" }}
neighbours6 = {{ kind = "exact", key = "port+ipv6", value = "mac", entries = "1k" }}
"""

_NAT = """
[[workers]]
name = "nat"                        # its workers are nat/0, nat/1, ...
plugin = "nat"                      # comes with dpsup: docs/functions/nat.md
input = ["lan", "wan"]
count = 1                           # to begin with
max = 4                             # `dpsup scale nat 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
bucket_state = "auto"               # bindings: they move with their flows

[workers.args]
inside = "lan"
outside = "wan"
address = "192.0.2.1"               # outside addresses, with commas between them

# Servers inside, a line each: 192.0.2.1,8080,tcp 10.0.0.5,80. `dpsup table forwards` changes them.
# [workers.tables.forwards]
# kind = "own"
# key = "ipv4+be16+text3"
# value = "ipv4+be16"
# entries = 1000
# bytes = "64KiB"
# file = "forwards.txt"
"""

_FIREWALL = """
[[workers]]
name = "firewall"                   # its workers are firewall/0, firewall/1, ...
plugin = "acl"                      # comes with dpsup: docs/functions/acl.md
count = 1                           # to begin with
max = 4                             # `dpsup scale firewall 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
state = "auto"                      # counters of rules
bucket_state = "auto"               # flows that rules keep: they move with their packets

[workers.tables.rules]              # `dpsup table rules add 15 deny from 203.0.113.7`
kind = "own"
key = "be32"                        # the number of a rule
value = "words200"                  # what it says
entries = "10k"
bytes = "32MiB"
file = "rules.txt"

[[chains]]
name = "line"
path = ["lan", "firewall", "wan"]   # and back
"""

_BALANCER = """
[[workers]]
name = "balance"                    # its workers are balance/0, balance/1, ...
plugin = "balance"                  # comes with dpsup: docs/functions/balance.md
input = ["wan"]
count = 1                           # to begin with
max = 4                             # `dpsup scale balance 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
state = "auto"                      # counters of each backend
bucket_state = "auto"               # connections: they move with their packets

[workers.args]
vips = "192.0.2.10:80/tcp, [2001:db8::10]:443/tcp"
port = "lan"                        # toward the backends, whose loopback has these addresses
other = "drop"                      # or "kernel", with `kernel` in [[ports]]: it answers ARP

[workers.tables.backends]
kind = "own"
key = "text8"                       # a name
value = "mac+u16"                   # its address and weight; 0: no new connections
entries = 1000
bytes = "256KiB"
file = "backends.txt"
"""

_BACKENDS = """\
# name  MAC address,weight: `dpsup table backends set web1 02:00:00:00:00:11,0` drains it.
web1  02:00:00:00:00:11,10
web2  02:00:00:00:00:12,10
web3  02:00:00:00:00:13,20
"""

_EXPORTER = """
[[ports]]
name = "mon"                        # to the collector
vdev = "net_null2"
descriptors = {{ rx = 512, tx = 512 }}

[[workers]]
name = "export"                     # its workers are export/0, export/1, ...
plugin = "export"                   # comes with dpsup: docs/functions/export.md
count = 1                           # to begin with
max = 4                             # `dpsup scale export 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
state = "auto"                      # sequence numbers of messages
bucket_state = "auto"               # flows: they move with their packets
on_full = "hold"                    # a packet waits until its flow can be counted
control = true                      # `dpsup tell export flush`: report all flows now

[workers.args]
to = "mon"
source = "192.0.2.1"                # its own address
destination = "192.0.2.9"           # the collector's
mac = "02:00:00:00:00:09"           # and the MAC address of the next host on the way

[[chains]]
name = "line"
path = ["wan", "export", "lan"]     # and back
"""

_SWITCH = """
[[workers]]
name = "switch"                     # its workers are switch/0, switch/1, ...
plugin = "switch"                   # comes with dpsup: docs/functions/switch.md
input = ["wan", "lan"]
count = 1                           # to begin with
max = 4                             # `dpsup scale switch 4`: rings and memory are reserved
spares = 1                          # waits, and takes a dead worker's place
state = "auto"                      # the limit of storms, and addresses that moved lately

[workers.args]
storm = 1000                        # frames a second of a port that may be flooded
trunk = {{ wan = "1,10-19" }}         # VLANs of a port whose frames have a tag
native = {{ wan = 1 }}                # the one of its frames without a tag
access = {{ lan = 1 }}                # the VLAN of a port whose frames have none

[workers.tables.macs]               # `dpsup table macs`: where addresses are
kind = "exact"
key = "be16+mac"                    # VLAN and address
value = "port"
entries = "64k"
learn = true
age = "300s"                        # without a frame
"""

_RULES = """\
# number  rule: the first one that fits decides. What none fits is dropped.
10        permit tcp in lan keep                  # connections from inside, and all their packets
20        permit udp in lan keep
30        permit icmp in lan keep
40        permit icmpv6                           # neighbour discovery too
50        permit tcp to 198.51.100.7 port 443 keep
60        reject tcp in wan to any port 113 count 1
"""

_CI_PORTS = """
[[ports]]
name = "in"
vdev = "net_pcap0,rx_pcap=in.pcap"  # paths begin at this file's directory
descriptors = {{ rx = 512, tx = 512 }}

[[ports]]
name = "out"
vdev = "net_pcap1,tx_pcap=out.pcap" # overwritten if it is there
descriptors = {{ rx = 512, tx = 512 }}
"""

_CI_GROUP = """
[[workers]]
name = "work"
plugin = "forward"                  # yours: plugin = "./NAME.so"
args = {{ map = {{ in = "out" }} }}
input = ["in"]
count = 1
on_full = "hold"                    # a file can wait: every packet is forwarded
"""

_PLUGIN = """\
/* {name}: counts IPv4 and drops what is too short to be a frame. Built with
 *
 *     {build}
 *
 * `dpsup_plugin.h` is the manual; `dpsup stats` shows the counters, `dpsup status` the drops.
 * `dpsup try {name}.so in.pcap` tests it with packets of a capture, without an instance.
 */
#include <stdio.h>

#include <dpsup_plugin.h>

static const char *const counters[] = {{ "ipv4", "other", NULL }};
enum {{ IPV4, OTHER }};
static const char *const reasons[] = {{ "runt", NULL }};
enum {{ RUNT }};

/* Each worker is a process of its own: plain variables are private to it. */
static uint16_t leaves_by[16]; /* output port by input port */
static uint64_t *count;

/* Once, before the first packet. */
static int
init(const struct dps_env *env, void **state)
{{
	(void)state;
	count = env->counters;
	for (uint32_t i = 0; i < env->n_ports; i++) {{
		char key[64];
		const char *to;
		int port;

		snprintf(key, sizeof(key), "map.%s", env->port_names[i]);
		to = dps_arg(env, key);
		port = to != NULL ? dps_port(env, to) : (int)i;
		if (port < 0) {{
			snprintf(env->error, env->error_len, "map: no port named \\"%s\\"", to);
			return -1;
		}}
		leaves_by[i] = port;
	}}
	return 0;
}}

/* Every packet, in order, from `data` on `len` bytes. */
static uint16_t
packet(void *state, struct dps_packet *p)
{{
	(void)state;
	if (p->len < 14)
		return dps_drop(RUNT);
	count[p->data[12] == 0x08 && p->data[13] == 0x00 ? IPV4 : OTHER]++;
	return dps_out(leaves_by[p->port]);
}}

const struct dps_plugin dps_plugin = {{
	DPS_PLUGIN_HEAD, .name = "{name}", .init = init, .packet = packet,
	.counters = counters, .reasons = reasons,
}};
"""

_PYTHON = '''\
"""{name}: counts IPv4 and drops what is too short to be a frame.

`dpsup stats` shows the counters, `dpsup status` the drops, `dpsup logs` what it prints. The words
are those of dpsup_plugin.h; docs/plugins-python.md has more.
"""

from dpsup import plugin as dps

counters = ["ipv4", "other"]
reasons = ["runt"]
IPV4, OTHER = range(2)
RUNT = 0

leaves_by = {{}}  # verdict by input port; each worker is a process of its own


def init(env):
    """Once, before the first packet."""
    for index, name in enumerate(env.ports):
        leaves_by[index] = dps.out(dps.port(env.args.get(f"map.{{name}}", name)))


def packet(p):
    """Every packet, in order; what it returns is the packet's verdict."""
    if p.length < 14:
        return dps.drop(RUNT)
    dps.count(IPV4 if p.data[12:14] == b"\\x08\\x00" else OTHER)
    return leaves_by[p.port]
'''

_PYTHON_TEST = '''\
"""Run it with pytest, in the Python that dpsup is installed in: neither root nor hugepages are
needed."""

from pathlib import Path

from dpsup.testing import Plugin

HERE = Path(__file__).parent


def test_it_counts_and_drops():
    plugin = Plugin(HERE / "{name}.py", ports=["wan", "lan"], args={{"map": {{"wan": "lan"}}}})
    ipv4 = bytes(12) + b"\\x08\\x00" + bytes(46)
    assert plugin.packet(ipv4, port="wan").port == "lan"
    assert plugin.packet(bytes(10), port="wan").reason == "runt"
    assert plugin.counters == {{"ipv4": 1, "other": 0}}
'''

_RUST = """\
//! {name}: counts IPv4 and drops what is too short to be a frame.
//!
//! docs/plugins-rust.md is about the crate. `dpsup stats` shows the counters, `dpsup status` the
//! drops.
#![deny(unsafe_code)]

use dpsup_plugin::{{dpsup_plugin, drop, out, Env, Packet, Plugin}};

const RUNT: u32 = 0;
const IPV4: u32 = 0;
const OTHER: u32 = 1;

/// Each worker is a process of its own.
struct Own {{
    leaves_by: [u16; 16], // verdict by input port
}}

impl Plugin for Own {{
    /// Once, before the first packet.
    fn init(env: &Env) -> Result<Self, &'static str> {{
        let mut leaves_by = [0; 16];
        for port in 0..env.ports().min(16) {{
            let name = env.port_name(port);
            let to = env.arg(&format!("map.{{}}", name)).unwrap_or(name);
            leaves_by[port as usize] = out(env.port(to).ok_or("map: no port of that name")?);
        }}
        Ok(Own {{ leaves_by }})
    }}

    /// Every packet, in order; what it returns is the packet's verdict.
    fn packet(&mut self, _: &Env, packet: &mut Packet) -> u16 {{
        if packet.data().len() < 14 {{
            return drop(RUNT);
        }}
        let counter = if packet.data()[12..14] == [0x08, 0x00] {{ IPV4 }} else {{ OTHER }};
        packet.count(counter, 1);
        self.leaves_by[packet.port() as usize]
    }}
}}

dpsup_plugin!(Own, "{name}", reasons = ["runt"], counters = ["ipv4", "other"]);
"""
_RUSTC = "rustc --edition 2021 -O -C panic=abort"
_CRATE = "$(dpsup version --cflags | cut -c 3-)/rust/src/lib.rs"

_WIDTH = 36  # where comments begin


def make(template: str, name: str, file: str, cpus: Sequence[int]) -> Start:
    """The files of a template, but for its CAPTURE; `cpus` are those that may be used, `file` the
    topology's path."""
    supervisor, io = cpus[0], cpus[min(1, len(cpus) - 1)]
    own = {"plugin": f"./{name}.so", "python": f"./{name}.py", "rust": f"./{name}.so"}.get(
        template, ""
    )
    values = {
        "what": f"{TEMPLATES[template][:1].upper()}{TEMPLATES[template][1:]}.",
        "name": name,
        "file": file,
        "supervisor": supervisor,
        "io": io,
        "plugin": own or "forward",
        "plugin_is": "your code" if own else "built in; yours: ./NAME.so",
        "pad": _pad(f'name = "{name}"'),
        "pad0": _pad(f'supervisor_cores = "{supervisor}"'),
        "pad1": _pad(f'cores = "{io}"'),
        "pad2": _pad(f'plugin = "{own or "forward"}"'),
        # With a single CPU, all processes take turns on it.
        "shared": "shared_cores = true\n" if len(cpus) == 1 else "",
    }
    parts = {
        "forward": (_HEAD, _FORWARD, _IO, _GROUP),
        "chain": (_HEAD, _FORWARD, _IO, _CHAIN),
        "router": (_HEAD, _ROUTER_PORTS, _IO, _ROUTER),
        "nat": (_HEAD, _FORWARD, _IO, _NAT),
        "balancer": (_HEAD, _FORWARD, _IO, _BALANCER),
        "exporter": (_HEAD, _FORWARD, _IO, _EXPORTER),
        "firewall": (_HEAD, _FORWARD, _IO, _FIREWALL),
        "switch": (_HEAD, _FORWARD, _IO, _SWITCH),
        "ci": (_HEAD, _CI_PORTS, _IO, _CI_GROUP),
        "plugin": (_HEAD, _FORWARD, _IO, _GROUP),
        "python": (_HEAD, _FORWARD, _IO, _GROUP),
        "rust": (_HEAD, _FORWARD, _IO, _GROUP),
    }[template]
    files = {file: "".join(part.format(**values) for part in parts).encode()}
    if template == "ci":
        return Start(files, [f"dpsup start {file} --exit-when-idle 1s"])
    then = [f"dpsup start {file} --detach", "dpsup status", "dpsup kill fw/0", "dpsup stop"]
    if template == "firewall":
        files |= {"rules.txt": _RULES.encode()}
        deny = "dpsup table rules add 15 deny from 203.0.113.7"
        return Start(files, [f"dpsup check {file}", then[0], deny, "dpsup stats", then[-1]])
    if template == "balancer":
        files |= {"backends.txt": _BACKENDS.encode()}
        drain = "dpsup table backends set web1 02:00:00:00:00:11,0"
        return Start(files, [f"dpsup check {file}", then[0], drain, "dpsup stats", then[-1]])
    if template == "exporter":
        flush = "dpsup tell export flush"
        return Start(files, [f"dpsup check {file}", then[0], "dpsup stats", flush, then[-1]])
    if template == "switch":
        macs = "dpsup table macs"
        return Start(files, [f"dpsup check {file}", then[0], macs, "dpsup stats", then[-1]])
    if template == "nat":
        return Start(files, [f"dpsup check {file}", then[0], "dpsup stats", then[-1]])
    if template == "router":
        addresses = "ip addr add 192.0.2.1/24 dev wan", "ip addr add 198.51.100.1/24 dev lan"
        route = "ip route add 10.0.0.0/8 via 198.51.100.7"
        forward = "sysctl -w net.ipv4.ip_forward=1"
        return Start(files, [then[0], forward, *addresses, route, "dpsup table routes", then[-1]])
    if template == "plugin":
        build = f"cc -shared -fPIC -O2 $(dpsup version --cflags) {name}.c -o {name}.so"
        files[f"{name}.c"] = _PLUGIN.format(name=name, build=build).encode()
        return Start(files, [build, f"dpsup check {file}", *then])
    if template == "rust":
        builds = (
            f"{_RUSTC} --crate-type rlib --crate-name dpsup_plugin {_CRATE}",
            f"{_RUSTC} --crate-type cdylib --extern dpsup_plugin=libdpsup_plugin.rlib {name}.rs"
            f" -o {name}.so",
        )
        files[f"{name}.rs"] = _RUST.format(name=name).encode()
        return Start(files, [*builds, f"dpsup check {file}", *then])
    if template == "python":
        test = f"test_{''.join(c if c.isalnum() else '_' for c in name)}.py"
        files[f"{name}.py"] = _PYTHON.format(name=name).encode()
        files[test] = _PYTHON_TEST.format(name=name).encode()
        return Start(files, [f"pytest {test}", f"dpsup check {file}", *then])
    return Start(files, then)


def _pad(key: str) -> str:
    return " " * max(1, _WIDTH - len(key))
