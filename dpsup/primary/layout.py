# SPDX-License-Identifier: BSD-3-Clause
"""What the primary creates at its start: EAL, mempools, ports, groups, slots and io cores."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path
from typing import Any

from dpsup import _abi, limits
from dpsup.documents.plan import Group, Health, Plan, Pool, Port, Version
from dpsup.errors import DpsupError, ShimError
from dpsup.host import pci
from dpsup.host.interfaces import remove_dead_socket, takes_connection
from dpsup.packets import tunnels
from dpsup.primary.eal_locks import Attachments
from dpsup.primary.kernel import KernelPaths
from dpsup.primary.outputs import Output, output_of
from dpsup.primary.shim import check, ffi, lib, text
from dpsup.topology.values import memif_of, pci_address

# Microsoft's example key ("Verifying the RSS hash calculation"), the default of most NICs.
MICROSOFT_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
# One 16-bit word repeated: both directions of a flow hash alike (Woo and Park, 2012).
SYMMETRIC_KEY = bytes.fromhex("6d5a") * 20
_RSS = {
    "ipv4": _abi.DPS_RSS_IPV4,
    "ipv6": _abi.DPS_RSS_IPV6,
    "tcp": _abi.DPS_RSS_TCP,
    "udp": _abi.DPS_RSS_UDP,
    "sctp": _abi.DPS_RSS_SCTP,
    "vxlan": _abi.DPS_RSS_VXLAN,
    "geneve": _abi.DPS_RSS_GENEVE,
    "gre": _abi.DPS_RSS_GRE,
    "gtpu": _abi.DPS_RSS_GTPU,
    "mpls": _abi.DPS_RSS_MPLS,
    "pppoe": _abi.DPS_RSS_PPPOE,
    "ipip": _abi.DPS_RSS_IPIP,
    "erspan": _abi.DPS_RSS_ERSPAN,
    "fragments": int(lib.DPS_HASH_FRAGMENTS),
}


def rss_key(spec: str) -> bytes:
    """The bytes of a key given as "symmetric", "default" or hex digits."""
    if spec == "symmetric":
        return SYMMETRIC_KEY
    return MICROSOFT_KEY if spec == "default" else bytes.fromhex(spec)


def rss_types(fields: list[str]) -> int:
    types = 0
    for word in fields:
        types |= _RSS[tunnels.kind(word) or word]
    for i, port in enumerate(tunnels.vxlan_ports(fields)):
        types |= port << _abi.DPS_RSS_VXLAN_PORT + 16 * i
    return types


def pci_spec(plan: Plan, device: str) -> str:
    """A PCI device with its arguments, as EAL's start was given it."""
    allowed = (word for flag, word in pairwise(plan["eal_args"]) if flag == "-a")
    return next((word for word in allowed if pci_address(word) == device), device)


def _verdict(hops: list[tuple[str, int]], port: int) -> int:
    """The verdict that takes a packet of that input port to its next hop."""
    kind, index = hops[port] if port < len(hops) else ("", -1)
    kinds = {"port": lib.DPS_V_OUT, "group": lib.DPS_V_GROUP}
    return int(kinds[kind] | index) if kind else int(lib.DPS_NOWHERE)


def flat_args(args: list[list[str]]) -> bytes:
    """A group's arguments as the ABI has them: key NUL value NUL ..."""
    return b"".join(f"{k}\0{v}\0".encode() for k, v in args)


def _or_default(setting: int | None) -> int:
    return -1 if setting is None else int(setting)


def version_of(group: Version) -> Any:
    """A plugin with its arguments, as the ABI has them."""
    conf = ffi.new("struct dps_version *")
    # A plan of an older dpsup has no copy.
    conf.plugin = (group.get("plugin_copy", "") or group["plugin_path"] or group["plugin"]).encode()
    conf.builtin = not group["plugin_path"]
    conf.n_args = len(group["args"])
    conf.args = flat_args(group["args"]).ljust(lib.DPS_ARGS, b"\0")
    return conf


def set_health(index: int, group: Health) -> None:
    stall_ns = max(1, int(group["stall_after"] * 1e9))
    kill = group["on_stopped"] == "kill"
    check("group_health", lib.dps_group_health(index, stall_ns, kill))


def no_server(socket: str) -> str:
    return f"no server of net_memif at {socket}"


def refusal(ret: int, said: str) -> str:
    """Why a port did not open. Many drivers say no more than -1."""
    if ret == -errno.EPERM:
        return f"{said or 'its driver refused'}; the driver's own lines in the log say why"
    return f"{said}: {text(lib.dps_strerror(-ret))}" if said else text(lib.dps_strerror(-ret))


def is_alone(port: Port) -> bool:
    """Is it a client of net_memif without its server?"""
    memif = memif_of(port["vdev"])
    return memif is not None and not memif.server and not takes_connection(memif.address)


def clear_socket(port: Port) -> None:
    """The socket that a killed primary left of its net_memif server: no process can bind it."""
    memif = memif_of(port["vdev"])
    if memif is not None and memif.server and not memif.abstract:
        remove_dead_socket(memif.socket)


def fits_one_mbuf(plan: Plan) -> bool:
    """Does the longest frame of any port fit one mbuf, whichever port it came from?"""
    longest = max(port["mtu"] for port in plan["ports"]) + limits.FRAME_MORE
    return longest <= min(pool["data_room"] for pool in plan["pools"]) - limits.HEADROOM


class Layout:
    """What was created, and what could not be."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.notes: list[str] = []
        self.absent: dict[str, str] = {}  # ports that did not open, and why
        self.port_index: dict[str, int] = {}
        self.outputs: dict[str, Output] = {}  # by port
        self.attachments: Attachments | None = None
        self.kernel = KernelPaths(plan)

    def create(self) -> None:
        """Creates all that the plan asks for, up to io cores that run."""
        plan = self.plan
        argv = [ffi.new("char[]", a.encode()) for a in ("dpsup", *plan["eal_args"])]
        check(
            "eal_start",
            lib.dps_eal_start(len(argv), ffi.new("char *[]", argv)),
            "EAL did not start",
            help="`dpsup logs` or the lines above have EAL's own words",
        )
        for pool in plan["pools"]:
            self._pool(pool)
        check("ctl_create", lib.dps_ctl_create(plan["generation"], len(plan["io"])))
        self._attachments()
        for port in plan["ports"]:
            self._port(port)
        self._start_ports()
        self._hash()
        for i, group in enumerate(plan["groups"]):
            self._group(i, group)
        slot = 0
        for i, group in enumerate(plan["groups"]):
            for member in range(group["max"]):
                check(
                    "slot_create",
                    lib.dps_slot_create(slot, i, member),
                    f"no memory for slot {group['name']}/{member}",
                )
                slot += 1
        for io in plan["io"]:
            check(
                "io_create",
                lib.dps_io_create(io["index"], io["lcore"], io["burst"], io["idle"] == "adaptive"),
                f"io core {io['core']}",
            )
        self.notes += self.kernel.create(self.port_index)
        check("view_update", lib.dps_view_update())
        check("ctl_publish", lib.dps_ctl_publish())
        check("io_start", lib.dps_io_start())

    def _attachments(self) -> None:
        """Find EAL's locks while no other process attaches."""
        if lib.dps_locks_find() < 0:
            self.notes.append(
                "EAL's locks were not found: a lock that a dead process holds cannot be released"
            )
            return
        words = ffi.new("uint32_t[]", int(lib.DPS_LOCKS_MOST))
        total = ffi.new("uint64_t *")

        def read() -> list[int]:
            return list(words[0 : check("locks_read", lib.dps_locks_read(words))])

        def release(lock: int, word: int) -> bool:
            ret = lib.dps_lock_release(lock, word)
            return ret != -errno.EAGAIN and check("lock_release", ret) == 0

        def guarded(lock: int) -> int:
            check("lock_guards", lib.dps_lock_guards(lock, total))
            return int(total[0])

        directory = Path(text(lib.dps_eal_dir()))
        program = Path(__file__).parents[1] / "dpsup-worker"
        self.attachments = Attachments(directory, program, read, release, guarded)

    def _pool(self, pool: Pool) -> None:
        conf = ffi.new("struct dps_pool_conf *")
        conf.name = pool["name"].encode()
        for key in ("mbufs", "data_room", "cache", "numa", "page_size"):
            setattr(conf, key, pool[key])
        conf.whole = not pool.get("apart", True)
        check(
            "pool_create",
            lib.dps_pool_create(conf),
            f'mempool "{pool["name"]}" of {pool["mbufs"]} mbufs',
            help='more [host] hugepages, or fewer mbufs; "auto" computes what is needed',
        )

    def _conf(self, port: Port) -> Any:
        conf = ffi.new("struct dps_port_conf *")
        key = rss_key(port["rss_key"])
        conf.name = port["name"].encode()
        conf.device = port["device"].encode()
        conf.vdev = port["vdev"].encode()
        conf.pci = pci_spec(self.plan, port["device"]).encode()
        conf.pool = port["pool"]
        conf.rx_desc = port["rx_desc"]
        conf.tx_desc = port["tx_desc"]
        conf.rx_free = _or_default(port["rx_free"])
        conf.rx_drop = _or_default(port["rx_drop"])
        conf.tx_free = _or_default(port["tx_free"])
        conf.mtu = port["mtu"]
        conf.promiscuous = port["promiscuous"]
        conf.one_mbuf = fits_one_mbuf(self.plan)
        conf.rss_types = rss_types(port["rss_fields"])
        conf.key_len = len(key)
        conf.key = key.ljust(lib.DPS_KEY, b"\0")
        conf.group = port["group"]
        group = self.plan["groups"][port["group"]] if port["group"] >= 0 else None
        conf.hold = group is not None and group["on_full"] == "hold"
        return conf

    def _port(self, port: Port) -> None:
        conf = self._conf(port)
        if port.get("left_out", ""):
            self.absent[port["name"]] = port["left_out"]
            index = -1
        else:
            why = ffi.new("char[]", lib.DPS_TEXT)
            clear_socket(port)
            index, said = -errno.ECONNREFUSED, ""
            if not is_alone(port):
                try:
                    self._claim(port)
                except DpsupError as e:
                    if port["required"] and self.plan["generation"] == 1:
                        raise
                    index, said = -errno.EBUSY, str(e)
                else:
                    index = lib.dps_port_create(conf, len(self.plan["io"]), why)
                    said = text(why)
            if index < 0:
                self._give_back(port)
                self._without(port, index, said)
        if index < 0:
            index = check("port_absent", lib.dps_port_absent(conf))
        else:
            self._follow(port)
        self.port_index[port["name"]] = index
        check("ctl_port", lib.dps_ctl_port(index, port["name"].encode()))

    def _without(self, port: Port, ret: int, said: str) -> None:
        """A port that does not open. The first start fails without one that is required; later it
        is no reason to end everything else, and it is tried again."""
        memif = memif_of(port["vdev"])
        waits = memif is not None and not memif.server
        why = no_server(memif.socket) if memif is not None and waits else refusal(ret, said)
        if not port["vdev"]:
            why = pci.trouble(port["device"]) or why
        if waits or not port["required"] or self.plan["generation"] > 1:
            self.absent[port["name"]] = why
            self.notes.append(f'port "{port["name"]}" is not there: {why}')
            return
        raise ShimError(
            "port_create",
            -ret,
            f'port "{port["name"]}" ({port["device"]}): {why}',
            help="required = false starts without it",
        )

    def open(self, index: int) -> tuple[int, str]:
        """Try once more to open a port that is not there: 0, or why not."""
        port = self.plan["ports"][index]
        why = ffi.new("char[]", lib.DPS_TEXT)
        clear_socket(port)
        try:
            self._claim(port)
        except DpsupError as e:
            return -errno.EBUSY, str(e)
        ret = lib.dps_port_open(index, self._conf(port), len(self.plan["io"]), why)
        if ret == -errno.EINVAL:
            # Perhaps it is open: its last closing failed, as an io core did not answer.
            lib.dps_port_close(index)
        if ret < 0:
            self._give_back(port)
            return ret, refusal(ret, text(why))
        try:
            self._follow(port)
        except DpsupError as e:
            check("port_close", lib.dps_port_close(index))
            return -errno.EBUSY, str(e)
        return 0, ""

    def _claim(self, port: Port) -> None:
        """The files that its device is about to empty are no other instance's. Raises:
        DpsupError."""
        name = port["name"]
        if port["driver"] == "net_pcap" and name not in self.outputs:
            output = output_of(port["vdev"], port["mtu"])
            if output is not None:
                self.outputs[name] = output
        if name in self.outputs:
            self.outputs[name].claim()

    def _give_back(self, port: Port) -> None:
        """Its device did not open."""
        if port["name"] in self.outputs:
            self.outputs[port["name"]].close()

    def _follow(self, port: Port) -> None:
        """A port that writes files has opened them, perhaps not for the first time."""
        if port["name"] in self.outputs:
            self.outputs[port["name"]].open()

    def _start_ports(self) -> None:
        """Runs before the io cores are created: they learn only of ports that exist."""
        for port in self.plan["ports"]:
            if port["name"] not in self.absent:
                ret = lib.dps_port_start(self.port_index[port["name"]])
                if ret < 0:
                    self._without(port, ret, "it does not start")

    def _hash(self) -> None:
        """Software hashing, for what drivers do not hash: one key and field set for all ports."""
        ports = self.plan["ports"]
        first = next((p for p in ports if p["group"] >= 0), ports[0])
        key = rss_key(first["rss_key"])
        check("hash_conf", lib.dps_hash_conf(key, len(key), rss_types(first["rss_fields"])))

    def _group(self, index: int, group: Group) -> None:
        conf = ffi.new("struct dps_group_conf *")
        conf.name = group["name"].encode()
        conf.adaptive = any(io["idle"] == "adaptive" for io in self.plan["io"])
        conf.first_slot = group["first_slot"]
        conf.max = group["max"]
        conf.ring = group["ring"]
        conf.hold = group["on_full"] == "hold"
        conf.reach = sum(1 << g for g in group["reach"])
        conf.next = [_verdict(group["next"], port) for port in range(lib.DPS_MAX_PORTS)]
        conf.state = group["state"]
        conf.bucket_state = group["bucket_state"]
        conf.verify = group["verify"]
        conf.confined = group["confine"] != "off"
        check("ctl_group", lib.dps_ctl_group(index, conf))
        check("group_node", lib.dps_group_node(index, group.get("numa", -1)))
        check("group_version", lib.dps_group_version(index, 0, version_of(group)))
        set_health(index, group)
        check("group_rebucket", lib.dps_group_rebucket(index, int(group["lend_after"] * 1e9)))

    def port_name(self, index: int) -> str | None:
        return next((name for name, i in self.port_index.items() if i == index), None)

    def worker_name(self, slot: int) -> str | None:
        for group in self.plan["groups"]:
            member = slot - group["first_slot"]
            if 0 <= member < group["max"]:
                return f"{group['name']}/{member}"
        return None
