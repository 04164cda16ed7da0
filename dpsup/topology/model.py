# SPDX-License-Identifier: BSD-3-Clause
"""The topology file, version 1: its tables, their keys, defaults and limits.

`load` reads a `Topology` from a file, `rules` says which of its values contradict each other,
`check` whether a machine can run it. `rules` checks names for presence, so that every table can be
read in part.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Any, Literal

from dpsup import limits
from dpsup.topology.bus import Bus
from dpsup.topology.kernel_path import Kernel, Netns
from dpsup.topology.lines import Source
from dpsup.topology.typed import Field, Model, PrivateAttr, model_validator
from dpsup.topology.values import (
    ARRAY,
    AUTO,
    Args,
    AutoBucketState,
    AutoCores,
    AutoState,
    ChosenCores,
    Duration,
    Files,
    HttpHost,
    HttpPath,
    InstanceName,
    Listen,
    Name,
    PageSize,
    Pci,
    PoolName,
    Ring,
    RssFields,
    RssKey,
    Size,
    SomeTime,
    Tables,
    Texts,
    Tunnels,
    Vdev,
    parse_vdev,
    pci_address,
)

VERSION = 1


def _key(default: Any, why: str, write: str, **bounds: Any) -> Any:
    """A key: its default, what it decides, and a value to write."""
    return Field(default, description=why, examples=[write], **bounds)


class HostTable(Model):
    supervisor_cores: ChosenCores = _key(
        (0,), "the CPUs for Python and the wardens; auto chooses one", '"0" or "auto"'
    )
    hugepages: Size = _key(
        0, "how much memory is reserved at start; auto computes it", '"auto" or "512MiB"'
    )
    eal_extra: Texts = _key((), "arguments that EAL gets as they are", "[]")
    runtime_dir: str = _key(AUTO, "the directory of sockets and state", '"auto"', min_length=1)
    quarantine_dir: str = _key(AUTO, "the directory of quarantined packets", '"auto"', min_length=1)
    tables_dir: str = _key(AUTO, "the directory of tables that persist", '"auto"', min_length=1)
    watch: bool = _key(
        False,
        "whether files that change are applied, as `reload` and `rollout` do",
        "true or false",
    )
    shared_cores: bool = _key(False, "whether io cores may share their CPU", "true or false")


class Mempool(Model):
    mbufs: int = _key(16383, "the packets that the pool holds", "16383", ge=1, le=1 << 27)
    data_room: int = _key(
        2176,
        f"bytes for one packet's segment, of which {limits.HEADROOM} are headroom",
        "2176",
        ge=limits.HEADROOM + 64,
        le=65535,
    )
    cache: int = _key(512, "mbufs that each io core keeps back for itself", "512", ge=0, le=512)
    numa: int = _key(0, "the NUMA node of the pool's memory", "0", ge=0, le=31)
    page_size: PageSize = _key(
        2 << 20, "the size of the hugepages that hold the pool", '"2M" or "1G"'
    )


class Descriptors(Model):
    rx: int = _key(1024, "the length of each rx queue", "1024", ge=1, le=65535)
    tx: int = _key(1024, "the length of each tx queue", "1024", ge=1, le=65535)


class Thresholds(Model):
    """None: the driver's default."""

    rx_free: int | None = _key(None, "when an rx queue is refilled", "32", ge=0, le=65535)
    rx_drop: bool | None = _key(None, "whether a full rx queue drops", "true or false")
    tx_free: int | None = _key(None, "when sent mbufs are freed", "32", ge=0, le=65535)


class Rss(Model):
    fields: RssFields = _key(
        ("ipv4", "ipv6", "tcp", "udp"),
        "the parts of a packet that say which flow it belongs to",
        '["ipv4", "ipv6", "tcp", "udp"]',
        min_length=1,
    )
    inner: Tunnels = _key(
        (), "the tunnels whose inner headers say which flow it is", '["vxlan:8472", "gtpu"]'
    )
    fragments: Literal["addresses", "track"] = _key(
        "addresses",
        "what fragments are steered by: their addresses, or the flow of their datagram",
        '"addresses" or "track"',
    )
    key: RssKey = _key(
        "symmetric", "the Toeplitz key of the hash", '"symmetric", "default" or hex digits'
    )

    @property
    def hashed(self) -> tuple[str, ...]:
        """The words of all that the hash looks at."""
        return *self.fields, *self.inner, *(["fragments"] if self.fragments == "track" else [])


class Port(Model):
    name: Name = _key("", "what everything else calls the port", '"wan"')
    pci: Pci | None = _key(
        None,
        "the port's device, or the variable of the environment that holds its address",
        '"0000:3b:00.0" or "env:PCIDEVICE_EXAMPLE_COM_WAN"',
    )
    vdev: Vdev | None = _key(
        None, "the port's device", '"net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"'
    )
    mempool: str = _key("", "the pool that received packets lie in", '"default"')
    required: bool = _key(True, "whether a start without the port fails", "true or false")
    descriptors: Descriptors = _key(Descriptors(), "the lengths of queues", "{ rx = 1024 }")
    thresholds: Thresholds = _key(Thresholds(), "the driver's thresholds", "{ rx_free = 32 }")
    mtu: int = _key(1500, "the longest packet, Ethernet header aside", "1500", ge=68, le=65535)
    promiscuous: bool = _key(True, "whether frames to other MACs are taken", "true or false")
    rss: Rss = _key(Rss(), "how flows spread over queues and workers", '{ key = "symmetric" }')
    kernel: Kernel = _key(
        None,
        "the port's way to the kernel, for what plugins punt and for what the kernel sends",
        '"tap" or { tap = "wan0", netns = "edge", rate = 20000 }',
    )

    @property
    def device(self) -> str:
        """EAL's name of the device."""
        return pci_address(self.pci) if self.pci else parse_vdev(self.vdev or "")[0]

    @property
    def tap(self) -> str:
        """The name of its TAP, "" where it has no way to the kernel."""
        return self.kernel.tap or self.name if self.kernel else ""


class Io(Model):
    cores: ChosenCores = _key(
        (1,),
        "the CPUs of io cores, one each; auto chooses one near the ports, auto:2 two",
        '"1" or "auto"',
    )
    burst: int = _key(32, "the packets taken from a queue at once", "32", ge=1, le=limits.IO_BURST)
    idle: Literal["poll", "adaptive"] = _key(
        "adaptive", "what an io core does without packets", '"poll" or "adaptive"'
    )


class Backoff(Model):
    initial: Duration = _key(0.05, "the wait before the first restart", '"50ms"')
    factor: float = _key(2.0, "how much longer each further wait is", "2", ge=1)
    max: Duration = _key(10.0, "the longest wait before a restart", '"10s"')
    jitter: float = _key(
        0.1, "the part of a wait that chance may leave out", "0.1, up to 1", ge=0, le=1
    )


class Restart(Model):
    policy: Literal["always", "on-failure", "never"] = _key(
        "always", "which deaths are followed by a restart", '"always", "on-failure" or "never"'
    )
    strategy: Literal["one-for-one", "rest-for-chain", "all"] = _key(
        "one-for-one",
        "which workers are restarted with a worker that died",
        '"one-for-one", "rest-for-chain" or "all"',
    )
    intensity: float = _key(5.0, "the restarts within `period` that are put up with", "5", ge=0)
    period: SomeTime = _key(60.0, "the time in which restarts are counted", '"60s"')
    retry: Duration = _key(
        300.0, "the wait until a worker that is held is tried once more, 0s: never", '"5m"'
    )
    backoff: Backoff = _key(Backoff(), "the waits between restarts", '{ max = "10s" }')


class Health(Model):
    stall_after: SomeTime = _key(0.2, "how long a worker may be stuck with work", '"200ms"')
    stopped: Literal["keep", "kill"] = _key(
        "keep", "what becomes of a worker that a signal stopped", '"keep" or "kill"'
    )


class Scale(Model):
    """Workers follow the load, between `min` and `max`; None: the group's."""

    min: int = _key(1, "the fewest workers", "1", ge=1, le=limits.SLOTS)
    max: int | None = _key(None, "the most workers", "4", ge=1, le=limits.SLOTS)
    target_busy: float = _key(
        0.7, "the share of its time that a worker should be busy", "0.7", ge=0.05, le=0.95
    )
    cooldown: SomeTime = _key(30.0, "how long the load must stay low for one worker less", '"30s"')
    dry_run: bool = _key(False, "whether decisions are only told as events", "true or false")


class Probe(Model):
    """Whether the backends of `balance` answer; unset: nobody looks."""

    kind: Literal["tcp", "http"] = _key(
        "tcp", "what a backend must do: take a connection, or answer GET with 200 to 399",
        '"tcp" or "http"',
    )  # fmt: skip
    port: int = _key(80, "the port of backends that is asked", "80", ge=1, le=65535)
    path: HttpPath = _key("/", "what `http` asks for", '"/health"')
    host: HttpHost = _key("", "the Host that `http` names; unset: the address", '"www.example.org"')
    interval: SomeTime = _key(2.0, "the time from one look at all backends to the next", '"2s"')
    timeout: SomeTime = _key(1.0, "how long an answer may take", '"1s"')
    rise: int = _key(2, "the answers in a row after which a backend is up", "2", ge=1, le=1000)
    fall: int = _key(3, "the failures in a row after which it is down", "3", ge=1, le=1000)
    on_down: Literal["drain", "remove"] = _key(
        "drain",
        "what becomes of its connections: they stay, or move to other backends",
        '"drain" or "remove"',
    )
    netns: Netns = _key(
        "", "the network namespace that is asked from; unset: dpsup's own", '"edge"'
    )


class Group(Model):
    name: Name = _key("", "what everything else calls the group", '"fw"')
    plugin: str = _key(
        "macswap",
        "what decides about packets",
        '"macswap", or a path to a .so or .py',
        min_length=1,
    )
    args: Args = _key((), "what the plugin is told", '{ map = { wan = "lan" } }')
    files: Files = _key((), "the files that the plugin is handed", '{ routes = "routes.txt" }')
    tables: Tables = _key(
        (),
        "the live tables that the plugin looks things up in",
        '{ routes = { kind = "ipv4", entries = "1M", file = "routes.txt" } }',
    )
    control: bool = _key(
        False, "whether `dpsup tell` reaches its plugin's `control`", "true or false"
    )
    follow: Literal["kernel"] | None = _key(
        None,
        "whose routes and neighbours the tables of `route` have; unset: what operators write",
        '"kernel"',
    )
    probe: Probe = _key(
        Probe(),
        "whether the backends of `balance` are asked if they answer",
        '{ kind = "http", port = 80, path = "/health" }',
    )
    input: Texts | None = _key(None, "the ports that feed the group", '["wan"]')
    count: int = _key(1, "the workers of the group", "1", ge=1, le=limits.SLOTS)
    max: int = _key(1, "the workers that the group can be scaled to", "1", ge=1, le=limits.SLOTS)
    spares: int = _key(1, "the processes that wait to take over", "1", ge=0, le=limits.SPARES)
    cores: AutoCores = _key((), "the CPUs of workers", '"auto" or "3-6,8"')
    ring: Ring = _key(1024, "the size of a lane's rings", "1024", ge=256, le=limits.RING)
    on_full: Literal["drop", "hold"] = _key(
        "drop", "what happens to packets for a full lane", '"drop" or "hold"'
    )
    at_zero: Literal["hold", "drop", "bypass"] = _key(
        "hold", "what happens to packets while it is scaled to 0", '"hold", "drop" or "bypass"'
    )
    on_down: Literal["hold", "drop", "bypass"] | None = _key(
        None,
        "what happens to packets while none of its workers is up; unset: its chain's rule",
        '"hold", "drop" or "bypass"',
    )
    scale: Scale = _key(
        Scale(), "whether workers follow the load", "{ min = 1, max = 4, target_busy = 0.7 }"
    )
    state: AutoState = _key(
        0,
        "the bytes that a plugin can keep for each worker; auto: for what its file declares, and"
        " to migrate it",
        '"auto" or "64KiB"',
    )
    bucket_state: AutoBucketState = _key(
        0, "the bytes that it can keep for each bucket; auto: likewise", '"auto" or 64'
    )
    verify: bool = _key(
        False,
        "whether workers compare the bytes that the plugin changes with what it declares, which is"
        " slow",
        "true",
    )
    confine: Literal["strict", "off"] = _key(
        "strict",
        "whether workers give up capabilities before they load the plugin, and after its init"
        " system calls, files and memory that packets do not need",
        '"strict" or "off"',
    )
    restart: Restart = _key(Restart(), "what follows a death", '{ policy = "always" }')
    health: Health = _key(Health(), "when a worker counts as stuck", '{ stall_after = "200ms" }')

    @model_validator(mode="before")
    @classmethod
    def _max_is_count(cls, data: Any) -> Any:
        if isinstance(data, dict) and "max" not in data and type(data.get("count")) is int:
            # Within its limits: a count that is faulty is one fault, not two.
            return {**data, "max": min(max(data["count"], 1), limits.SLOTS)}
        return data

    @property
    def is_autoscaled(self) -> bool:
        return "scale" in self.model_fields_set

    @property
    def is_probed(self) -> bool:
        return "probe" in self.model_fields_set

    @property
    def is_file(self) -> bool:
        """Is the plugin a file, not a built-in one?"""
        return self.plugin_path != ""

    @property
    def plugin_path(self) -> str:
        return limits.plugin_path(self.plugin)


class Chain(Model):
    name: Name = _key("", "what messages call the chain", '"edge"')
    path: Texts = _key(
        (), "the port, groups and port that packets pass, both ways", '["wan", "fw", "lan"]'
    )
    on_down: Literal["hold", "bypass", "drop"] = _key(
        "hold",
        "what happens to packets while none of a group's workers is up",
        '"hold", "bypass" or "drop"',
    )


class Metrics(Model):
    listen: Listen = _key("", "where metrics are served", '"" or "127.0.0.1:9464"')


class Log(Model):
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "deprecated: it has no effect", '"debug", "info", "warning" or "error"'
    )


class Topology(Model):
    version: int = _key(VERSION, "the version of the file's format", "1", ge=VERSION, le=VERSION)
    name: InstanceName = _key(
        "", "the instance: its runtime directory and file prefix", '"edge", in lower case'
    )
    host: HostTable = _key(HostTable(), "what dpsup takes of the machine", "[host]")
    mempools: dict[PoolName, Mempool] = _key({}, "the pools of packets", "[mempools.default]")
    ports: Annotated[tuple[Port, ...], ARRAY] = _key((), "the ports", "[[ports]]")
    io: Annotated[tuple[Io, ...], ARRAY] = _key((), "the io cores", "[[io]]")
    workers: Annotated[tuple[Group, ...], ARRAY] = _key((), "the groups of workers", "[[workers]]")
    chains: Annotated[tuple[Chain, ...], ARRAY] = _key((), "the chains of groups", "[[chains]]")
    bus: Bus = _key(Bus(), "the bus", "[bus]")
    metrics: Metrics = _key(Metrics(), "the metrics", "[metrics]")
    log: Log = _key(Log(), "the log", "[log]")

    _source: Source = PrivateAttr(default_factory=lambda: Source(""))
    _path: str = PrivateAttr(default="")

    def read_from(self, source: Source, path: str) -> Topology:
        """This topology, which now knows its file."""
        self._source, self._path = source, path
        return self

    @property
    def source(self) -> Source:
        return self._source

    @property
    def file(self) -> str:
        """The file's absolute path."""
        return self._path

    @property
    def directory(self) -> str:
        return posixpath.dirname(self._path)

    @property
    def io_cores(self) -> tuple[tuple[int, Io], ...]:
        """Every io core in order: its CPU, and the table that it stands in."""
        return tuple((core, io) for io in self.io for core in io.cores)

    def port(self, name: str) -> Port | None:
        return next((port for port in self.ports if port.name == name), None)

    def feeding(self) -> tuple[tuple[int, Port], ...]:
        """The ports whose packets go to a group, with their numbers."""
        fed = {name for group in self.workers for name in group.input or ()}
        return tuple((i, port) for i, port in enumerate(self.ports) if port.name in fed)
