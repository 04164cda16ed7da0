# SPDX-License-Identifier: BSD-3-Clause
"""The topology file, version 1: its keys, their defaults, and what a file alone can get wrong.

`read` collects every problem of a file at once. It never judges the machine (`check` does), and it
never stops at the first fault: what is wrong is left out, and the rest is read on.
"""

from __future__ import annotations

import difflib
import json
import math
import posixpath
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dpsup.errors import Problem, Severity
from dpsup.schema import (
    AfterValidator,
    BeforeValidator,
    Field,
    Issue,
    Model,
    Path,
    PrivateAttr,
    field_at,
    invalid,
    keys_at,
    model_validator,
    validate,
)
from dpsup.source import Source

if TYPE_CHECKING:
    from dpsup.host import Host

VERSION = 1
AUTO = "auto"
HEADROOM = 128  # RTE_PKTMBUF_HEADROOM
MAX_BURST = 64
MAX_SLOTS_OF_GROUP = 512  # a bucket belongs to one slot, and a group has 512
MAX_PORTS = 32  # RTE_MAX_ETHPORTS
MAX_CORE = 1023  # CPU_SETSIZE
RSS_KEY_BYTES = (40, 52)

_YEAR = 366 * 24 * 3600.0
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(us|ms|s|m|h)")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT])(?:iB)?")
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,30}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")

# --- values -------------------------------------------------------------------------------------


def show(value: object) -> str:
    """A value as a file would say it, short enough for a message."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list | tuple):
        text = "an array"
    elif isinstance(value, int) and abs(value) >= 10**18:
        text = "a number of that size"  # Python refuses to print the largest ones
    else:
        text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 48 else f"{text[:45]}..."


def parse_duration(value: object) -> object:
    """ "250ms" -> 0.25 seconds."""
    if not isinstance(value, str) or (m := _DURATION.fullmatch(value)) is None:
        raise invalid(f"{show(value)} is not a duration")
    seconds = float(m[1]) * _SECONDS[m[2]]
    if seconds > _YEAR:
        raise invalid(f"{show(value)} is longer than a year")
    return seconds


def _parse_some_time(value: object) -> object:
    seconds = parse_duration(value)
    if isinstance(seconds, float) and seconds < 0.001:
        raise invalid(f"{show(value)} is shorter than 1ms")
    return seconds


def parse_size(value: object) -> object:
    """ "512MiB", "2M" or "1G" -> bytes; K, M, G are powers of 1024, as with hugepages."""
    if not isinstance(value, str) or (m := _SIZE.fullmatch(value)) is None:
        raise invalid(f"{show(value)} is not a size")
    return int(float(m[1]) * 1024 ** (1 + "KMGT".index(m[2])))


def parse_cores(value: object) -> object:
    """ "3-6,8" -> (3, 4, 5, 6, 8)."""
    if not isinstance(value, str):
        raise invalid(f"{show(value)} is not a list of CPUs in quotes")
    cores: list[int] = []
    for part in value.split(","):
        m = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        if m is None:
            raise invalid(f"{show(value)} is not a list of CPUs")
        first, last = int(m[1]), int(m[2] or m[1])
        if first > last:
            raise invalid(f"{show(value)} counts backwards", help=f'write "{last}-{first}"')
        if last > MAX_CORE:
            raise invalid(f"CPU {last} is beyond the highest that Linux numbers, {MAX_CORE}")
        cores.extend(range(first, last + 1))
    for core in cores:
        if cores.count(core) > 1:
            raise invalid(f"CPU {core} is listed twice", help="name each CPU once")
    return tuple(cores)


def _parse_auto_cores(value: object) -> object:
    return () if value == AUTO else parse_cores(value)


def _parse_auto_size(value: object) -> object:
    return 0 if value == AUTO else parse_size(value)


def _parse_page_size(value: object) -> object:
    size = parse_size(value)
    if size not in (2 << 20, 1 << 30):
        raise invalid(f"{show(value)} is no page size that dpsup knows")
    return size


def _instance(value: str) -> str:
    if not _INSTANCE.fullmatch(value):
        raise invalid(
            f"{show(value)} cannot be the name of an instance",
            why="it becomes part of file names: [a-z0-9][a-z0-9_.-]{0,30}",
        )
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise invalid(
            f"{show(value)} cannot be a name",
            why="names stand in commands and messages: [A-Za-z0-9][A-Za-z0-9_.-]{0,30}",
            help="use up to 31 letters, digits, `_`, `.` and `-`, a letter or digit first",
        )
    return value


def _pool_name(value: str) -> str:
    if len(_name(value)) > 24:
        raise invalid(
            f"{show(value)} is too long for the name of a mempool",
            why="DPDK's names of mempools end after 25 characters",
            help="use up to 24 characters",
        )
    return value


def _ring(value: int) -> int:
    if value & (value - 1):
        below = 1 << (value.bit_length() - 1)
        raise invalid(f"{value} is not a power of two", help=f"write {below} or {below * 2}")
    return value


def _rss_key(value: str) -> str:
    if value in ("symmetric", "default"):
        return value
    digits = value.lower().removeprefix("0x").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]+", digits):
        raise invalid(f"{show(value)} is not an RSS key")
    if len(digits) not in [2 * n for n in RSS_KEY_BYTES]:
        raise invalid(
            f"an RSS key of {len(digits)} hex digits is {len(digits) / 2:g} bytes long",
            why="NICs take Toeplitz keys of 40 or 52 bytes",
            help='write 80 or 104 hex digits, or key = "symmetric"',
        )
    return digits


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (host and re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise invalid(f"{show(value)} is not an address and a port")
    return value


def pci_address(spec: str) -> str:
    """The address in "3b:00.0,key=value" as EAL writes it, "" where it is none."""
    m = _PCI.fullmatch(spec.partition(",")[0].strip().lower())
    return f"{m[1] or '0000'}:{m[2]}" if m else ""


def _pci(value: str) -> str:
    address = pci_address(value)
    if not address:
        raise invalid(f"{show(value)} is not a PCI address")
    _, comma, devargs = value.partition(",")
    return address + comma + devargs


def _vdev(value: str) -> str:
    name, devargs = parse_vdev(value)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", name):
        raise invalid(f"{show(value)} does not begin with a virtual device's name")
    for key, _ in devargs:
        if not key:
            raise invalid(f"{show(value)} has an empty device argument")
    return value


def parse_vdev(spec: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """ "net_pcap0,rx_pcap=in.pcap" -> ("net_pcap0", (("rx_pcap", "in.pcap"),))."""
    name, *rest = spec.split(",")
    pairs = (part.partition("=") for part in rest)
    return name.strip(), tuple((key.strip(), value) for key, _, value in pairs)


def _array(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _flatten(value: object) -> object:
    """{"map": {"wan": "lan"}} -> (("map.wan", "lan"),), which is all that a plugin sees."""
    if not isinstance(value, dict):
        raise invalid(f"`args` must be a table, not {show(value)}")
    flat: dict[str, str] = {}
    for path, item in _leaves(value, ()):
        key = ".".join(path)
        if key in flat:
            raise invalid(f"`{key}` is there twice, once with a dot in its name", path=path)
        if any(not c.isprintable() for c in key + item):
            raise invalid("control characters do not reach a plugin", path=path)
        flat[key] = item
    return tuple(flat.items())


def _leaves(table: dict[str, object], path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict):
            yield from _leaves(value, here)
        elif isinstance(value, list):
            parts = [_scalar(item, here) for item in value]
            for part in parts:
                if "," in part:
                    raise invalid(
                        f"{show(part)} has a comma in it",
                        why="a plugin gets an array as one text with commas between its elements",
                        help="leave the comma out",
                        path=here,
                    )
            yield here, ",".join(parts)
        else:
            yield here, _scalar(value, here)


def _scalar(value: object, path: Path) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    raise invalid(
        f"a plugin cannot be given {show(value)}",
        why="args are texts, numbers, true and false, and arrays and tables of them",
        path=path,
    )


ARRAY = BeforeValidator(_array)
InstanceName = Annotated[str, AfterValidator(_instance)]
Name = Annotated[str, AfterValidator(_name)]
PoolName = Annotated[str, AfterValidator(_pool_name)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
SomeTime = Annotated[float, BeforeValidator(_parse_some_time)]
Cores = Annotated[tuple[int, ...], BeforeValidator(parse_cores)]
Texts = Annotated[tuple[str, ...], ARRAY]
RssField = Literal["ipv4", "ipv6", "tcp", "udp"]


def _key(default: Any, why: str, write: str, **limits: Any) -> Any:
    """A key: its default, what it decides, and a value to write."""
    return Field(default, description=why, examples=[write], **limits)


# --- tables -------------------------------------------------------------------------------------
# Names are checked for presence in `_relations`, so that every table can be read in part.


class HostTable(Model):
    supervisor_cores: Cores = _key((0,), "the CPUs for Python and the wardens", '"0"')
    hugepages: Annotated[int, BeforeValidator(_parse_auto_size)] = _key(
        0, "how much memory is reserved at start; auto computes it", '"auto" or "512MiB"'
    )
    eal_extra: Texts = _key((), "arguments that EAL gets as they are", "[]")
    runtime_dir: str = _key(AUTO, "the folder of sockets and state", '"auto"', min_length=1)
    shared_cores: bool = _key(False, "whether io cores may share their CPU", "true or false")


class Mempool(Model):
    mbufs: int = _key(16383, "the packets that the pool holds", "16383", ge=1, le=1 << 27)
    data_room: int = _key(
        2176,
        f"bytes for one packet's segment, of which {HEADROOM} are headroom",
        "2176",
        ge=HEADROOM + 64,
        le=65535,
    )
    cache: int = _key(256, "mbufs that each io core keeps back for itself", "256", ge=0, le=512)
    numa: int = _key(0, "the NUMA node of the pool's memory", "0", ge=0, le=31)
    page_size: Annotated[int, BeforeValidator(_parse_page_size)] = _key(
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
    fields: Annotated[tuple[RssField, ...], ARRAY] = _key(
        ("ipv4", "ipv6", "tcp", "udp"),
        "the parts of a packet that say which flow it belongs to",
        '["ipv4", "ipv6", "tcp", "udp"]',
        min_length=1,
    )
    key: Annotated[str, AfterValidator(_rss_key)] = _key(
        "symmetric", "the Toeplitz key of the hash", '"symmetric", "default" or hex digits'
    )


class Port(Model):
    name: Name = _key("", "what everything else calls the port", '"wan"')
    pci: Annotated[str, AfterValidator(_pci)] | None = _key(
        None, "the port's device", '"0000:3b:00.0"'
    )
    vdev: Annotated[str, AfterValidator(_vdev)] | None = _key(
        None, "the port's device", '"net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"'
    )
    mempool: str = _key("", "the pool that received packets lie in", '"default"')
    required: bool = _key(True, "whether a start without the port fails", "true or false")
    descriptors: Descriptors = _key(Descriptors(), "the lengths of queues", "{ rx = 1024 }")
    thresholds: Thresholds = _key(Thresholds(), "the driver's thresholds", "{ rx_free = 32 }")
    mtu: int = _key(1500, "the longest packet, Ethernet header aside", "1500", ge=68, le=65535)
    promiscuous: bool = _key(True, "whether frames to other MACs are taken", "true or false")
    rss: Rss = _key(Rss(), "how flows spread over queues and workers", '{ key = "symmetric" }')

    @property
    def device(self) -> str:
        """EAL's name of the device."""
        return pci_address(self.pci) if self.pci else parse_vdev(self.vdev or "")[0]


class Io(Model):
    cores: Cores = _key((1,), "the CPUs of io cores, one each", '"1"')
    burst: int = _key(32, "the packets taken from a queue at once", "32", ge=1, le=MAX_BURST)
    idle: Literal["poll", "adaptive"] = _key(
        "adaptive", "what an io core does without packets", '"poll" or "adaptive"'
    )


class Backoff(Model):
    initial: Duration = _key(0.05, "the wait before the first restart", '"50ms"')
    factor: float = _key(2.0, "how much longer each further wait is", "2", ge=1)
    max: Duration = _key(10.0, "the longest wait before a restart", '"10s"')


class Restart(Model):
    policy: Literal["always", "on-failure", "never"] = _key(
        "always", "which deaths are followed by a restart", '"always", "on-failure" or "never"'
    )
    intensity: float = _key(5.0, "the restarts within `period` that are put up with", "5", ge=0)
    period: SomeTime = _key(60.0, "the time in which restarts are counted", '"60s"')
    backoff: Backoff = _key(Backoff(), "the waits between restarts", '{ max = "10s" }')


class Health(Model):
    stall_after: SomeTime = _key(0.2, "how long a worker may be stuck with work", '"200ms"')


class Group(Model):
    name: Name = _key("", "what everything else calls the group", '"fw"')
    plugin: str = _key(
        "macswap", "what decides about packets", '"macswap", or a path to a .so', min_length=1
    )
    args: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_flatten)] = _key(
        (), "what the plugin is told", '{ map = { wan = "lan" } }'
    )
    input: Texts | None = _key(None, "the ports that feed the group", '["wan"]')
    count: int = _key(1, "the workers of the group", "1", ge=1, le=MAX_SLOTS_OF_GROUP)
    max: int = _key(
        1, "the workers that the group can be scaled to", "1", ge=1, le=MAX_SLOTS_OF_GROUP
    )
    spares: int = _key(1, "the processes that wait to take over", "1", ge=0, le=64)
    cores: Annotated[tuple[int, ...], BeforeValidator(_parse_auto_cores)] = _key(
        (), "the CPUs of workers", '"auto" or "3-6,8"'
    )  # empty: auto
    ring: Annotated[int, AfterValidator(_ring)] = _key(
        1024, "the size of a lane's rings", "1024", ge=256, le=1 << 20
    )
    on_full: Literal["drop", "hold"] = _key(
        "drop", "what happens to packets for a full lane", '"drop" or "hold"'
    )
    restart: Restart = _key(Restart(), "what follows a death", '{ policy = "always" }')
    health: Health = _key(Health(), "when a worker counts as stuck", '{ stall_after = "200ms" }')

    @model_validator(mode="before")
    @classmethod
    def _max_is_count(cls, data: Any) -> Any:
        count: Any = data.get("count") if isinstance(data, dict) else None
        if _are_ints(count) and 1 <= count <= MAX_SLOTS_OF_GROUP and "max" not in data:
            return {**data, "max": count}
        return data

    @property
    def is_file(self) -> bool:
        """Is the plugin a shared object, not a built-in one?"""
        return is_path(self.plugin)


class Bus(Model):
    endpoint: Literal["ipc"] = _key("ipc", "where the bus listens", '"ipc"')


class Metrics(Model):
    listen: Annotated[str, AfterValidator(_listen)] = _key(
        "", "where metrics are served", '"" or "127.0.0.1:9464"'
    )


class Log(Model):
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "how much is logged", '"debug", "info", "warning" or "error"'
    )


class Topology(Model):
    version: int = _key(VERSION, "the version of the file's format", "1", ge=VERSION, le=VERSION)
    name: InstanceName = _key(
        "", "the instance: its runtime folder and file prefix", '"edge", in lower case'
    )
    host: HostTable = _key(HostTable(), "what dpsup takes of the machine", "[host]")
    mempools: dict[PoolName, Mempool] = _key({}, "the pools of packets", "[mempools.default]")
    ports: Annotated[tuple[Port, ...], ARRAY] = _key((), "the ports", "[[ports]]")
    io: Annotated[tuple[Io, ...], ARRAY] = _key((), "the io cores", "[[io]]")
    workers: Annotated[tuple[Group, ...], ARRAY] = _key((), "the groups of workers", "[[workers]]")
    bus: Bus = _key(Bus(), "the bus", "[bus]")
    metrics: Metrics = _key(Metrics(), "the metrics", "[metrics]")
    log: Log = _key(Log(), "the log", "[log]")

    _source: Source = PrivateAttr(default_factory=lambda: Source(""))
    _path: str = PrivateAttr(default="")

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


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says. With errors, `topology` is what is left without the faulty values: enough
    to look for further problems of single values, and never to be started."""

    topology: Topology | None
    problems: list[Problem]
    sound: bool


def load(path: str, host: Host) -> tuple[Topology | None, list[Problem]]:
    """The topology, if nothing is wrong with it, and every problem of the file."""
    reading = read(path, host)
    return (reading.topology if reading.sound else None), reading.problems


def read(path: str, host: Host) -> Reading:
    absolute = posixpath.normpath(posixpath.join(host.cwd, path))
    try:
        text = host.read_text(absolute)
    except UnicodeDecodeError as error:
        message = f"cannot read {path}: byte {error.start + 1} is not UTF-8"
        why, help = "TOML files are UTF-8", "save the file as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"cannot read {path}: {reason}"
        why, help = "there is nothing to start without a topology", "name a topology file"
    else:
        return parse(text, path, absolute)
    return Reading(None, [Problem(message, path, why=why, help=help)], sound=False)


def parse(text: str, file: str, absolute: str) -> Reading:
    """Read a topology's text; `file` is what messages call it. Never raises."""
    source = Source.scan(file, text)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Reading(None, [_syntax(error, source)], sound=False)

    topology, issues = validate(Topology, data)
    problems = [_problem(issue, source) for issue in _distinct(issues)]
    problems += _relations(data, source)
    if topology is None:
        faulty = {issue.path for issue in issues}
        # Twice at most: a value whose table is gone cannot be wrong again.
        topology, issues = validate(Topology, _without(data, faulty, ()))
    if topology is not None:
        problems += _notes(topology, source)
        topology = _complete(topology, source, absolute)
    sound = topology is not None and not any(p.severity is Severity.ERROR for p in problems)
    return Reading(topology, sorted(problems, key=lambda p: p.line), sound)


def _without(value: Any, faulty: set[Path], path: Path) -> Any:
    """`value` without what is faulty. Elements of lists of tables stay, empty, for their number."""
    if isinstance(value, dict):
        return {
            key: _without(item, faulty, (*path, key))
            for key, item in value.items()
            if (*path, key) not in faulty
        }
    if isinstance(value, list) and len(path) == 1:
        return [
            {} if (*path, i) in faulty else _without(item, faulty, (*path, i))
            for i, item in enumerate(value)
        ]
    if isinstance(value, list):
        return [item for i, item in enumerate(value) if (*path, i) not in faulty]
    return value


def _complete(topology: Topology, source: Source, path: str) -> Topology:
    """The topology with paths made absolute and what the file leaves out by being unambiguous."""
    directory = posixpath.dirname(path)

    def absolute(name: str) -> str:
        return posixpath.normpath(posixpath.join(directory, name))

    pool = default_pool(tuple(topology.mempools))
    names = tuple(port.name for port in topology.ports)
    fed = names if len(topology.workers) == 1 else ()
    ports = tuple(
        port.model_copy(
            update={
                "mempool": port.mempool or pool,
                "vdev": port.vdev and _absolute_vdev(port.vdev, absolute),
            }
        )
        for port in topology.ports
    )
    groups = tuple(
        group.model_copy(
            update={
                "input": fed if group.input is None else group.input,
                "plugin": absolute(group.plugin) if group.is_file else group.plugin,
            }
        )
        for group in topology.workers
    )
    runtime = topology.host.runtime_dir
    host = topology.host.model_copy(
        update={"runtime_dir": runtime if runtime == AUTO else absolute(runtime)}
    )
    done = topology.model_copy(update={"ports": ports, "workers": groups, "host": host})
    done._source = source
    done._path = path
    return done


def is_path(plugin: str) -> bool:
    return "/" in plugin or plugin.endswith(".so")


def default_pool(pools: tuple[str, ...]) -> str:
    """The pool of a port that names none: the only one, or `default`; else ""."""
    return pools[0] if len(pools) == 1 else "default" if "default" in pools else ""


def _absolute_vdev(spec: str, absolute: Any) -> str:
    name, devargs = parse_vdev(spec)
    pcap = ("rx_pcap", "tx_pcap")
    keys: dict[str, tuple[str, ...]] = {"net_pcap": pcap, "eth_pcap": pcap}
    # An abstract socket's name is no path.
    if ("socket-abstract", "yes") not in devargs:
        keys["net_memif"] = ("socket",)
    paths = next((keys[driver] for driver in keys if name.startswith(driver)), ())
    parts = [name]
    for part in spec.split(",")[1:]:
        key, _, value = part.partition("=")
        parts.append(f"{key}={absolute(value)}" if key.strip() in paths and value else part)
    return ",".join(parts)


# --- problems -----------------------------------------------------------------------------------

_LATER = {
    ("chains",): "[[chains]]",
    ("workers", "at_zero"): "`at_zero`",
    ("workers", "scale"): "`scale`",
}
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}
_SYNTAX_HELP = {
    "Invalid value": 'put text in quotes: name = "edge"; true and false have none',
    "Cannot overwrite a value": "the key is there twice: keep one of them",
    "Cannot declare": "the table is there twice: put its keys under one header",
    "Expected '=' after a key": "write key = value; a list of tables begins with [[ports]]",
    "Expected newline or end of document after a statement": "write one key on each line",
    "Unterminated string": "close the text with a quote",
    "Illegal character": "close the text on its own line, or use no control characters",
    "Unclosed array": "close the array with ]",
    "Unclosed inline table": "close the table with }, on the same line",
    "Invalid statement": "write key = value, or a table's header such as [host]",
}


def _syntax(error: Exception, source: Source) -> Problem:
    text = "its tables are nested too deeply" if isinstance(error, RecursionError) else str(error)
    where = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)$", text)
    line = int(where[1] or 0) if where else 0
    reason = text[: where.start()].strip() if where else text
    last = source.text.rstrip().count("\n") + 1
    help = next((say for begin, say in _SYNTAX_HELP.items() if reason.startswith(begin)), "")
    return source.problem(
        (),
        f"not TOML: {reason}" + (f", at column {where[2]}" if line and where else ""),
        why="nothing after the first fault of this kind could be read",
        help=help or "see https://toml.io for how to write TOML",
        line=line or last,
    )


def _table(path: Path) -> str:
    """The table at `path` as its header says it: [host], [[ports]], `restart.backoff` of …"""
    if not path:
        return "the file's first level"
    head, *rest = [step for step in path if isinstance(step, str)]
    many = head in ("ports", "io", "workers")
    if head == "mempools" and rest:
        head = f"{head}.{rest.pop(0)}"
    header = f"[[{head}]]" if many else f"[{head}]"
    return f"`{'.'.join(rest)}` of {header}" if rest else header


def _subject(path: Path) -> tuple[str, Path]:
    """What to call `path`, and the path of the table around it."""
    inner = len(path)
    while inner and isinstance(path[inner - 1], int):
        inner -= 1
    name = f"`{path[inner - 1]}`" if inner else "the file"
    if inner < len(path) and inner > 1:
        name = f"element {int(path[inner]) + 1} of {name}"
    return name, path[: max(0, inner - 1)]


def _problem(issue: Issue, source: Source) -> Problem:
    path, kind, context = issue.path, issue.kind, issue.context
    if kind == "extra_forbidden":
        return _unknown(path, source)
    field = field_at(Topology, path)
    name, table = _subject(path)
    of = f" of {_table(table)}" if table else ""
    key = next((str(step) for step in reversed(path) if isinstance(step, str)), "")
    why = str(context.get("why") or (field and f"`{key}`: {field.description}") or "")
    write = field.examples[0] if field and field.examples else ""
    is_header = write.startswith("[") and path == (key,)
    help = f"write {write}" if is_header else f"write {key} = {write}"
    help = str(context.get("help") or help)
    value = show(issue.value)

    if kind == "dpsup":
        message = f"{name}{of}: {issue.message}"
        if "args" in path:
            help = str(context.get("help")) or "give the plugin a text, number, true or false"
    elif kind == "literal_error":
        message = f"{name}{of} cannot be {value}"
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        word = issue.value if isinstance(issue.value, str) else ""
        close = difflib.get_close_matches(word, allowed, 1)
        if close:
            help = f"did you mean {show(close[0])}? {help}"
        if path == ("bus", "endpoint"):
            why = "this version of dpsup has its bus on local sockets only"
    elif kind in _KINDS or kind.endswith("_type"):
        message = f"{name}{of} must be {_KINDS.get(kind, 'of another type')}, not {value}"
        if path in (("ports",), ("io",), ("workers",)):
            help = f"it is a list of tables: write [[{key}]]"
        elif len(path) == 2 and path[0] == "mempools":
            help = "a pool has a name: write [mempools.default], and its keys below"
            if _is_key(issue):
                message = f"a mempool without a name: `{key}` stands where its name belongs"
    elif path == ("version",):
        message = f"`version` {value} is not known to this dpsup"
    elif limit := _limit(context):
        message = f"{name}{of} is {value}, and must be {limit}"
    else:
        message = f"{name}{of}: {issue.message[:1].lower()}{issue.message[1:]}"
        if kind in ("too_short", "string_too_short"):
            message = f"{name}{of} is empty"
    return source.problem(path, message, why=why or "this is no value for it", help=help)


def _distinct(issues: list[Issue]) -> list[Issue]:
    """The issues without those that only follow from another one."""
    around = {issue.path[:n] for issue in issues for n in range(len(issue.path))}
    found = [issue for issue in issues if issue.path not in around]
    # A pool without a name: each of its keys is taken for one.
    nameless = [issue for issue in found if issue.path[:1] == ("mempools",) and _is_key(issue)]
    return [issue for issue in found if issue not in nameless[1:]]


def _is_key(issue: Issue) -> bool:
    return len(issue.path) == 2 and issue.path[1] in Mempool.model_fields


def _limit(context: Any) -> str:
    words = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
    return next((f"{word} {context[key]}" for key, word in words.items() if key in context), "")


def _unknown(path: Path, source: Source) -> Problem:
    *table, last = path
    key = str(last)
    names = tuple(step for step in path if isinstance(step, str))
    if names in _LATER:
        return source.problem(
            path,
            f"this version of dpsup does not have {_LATER[names]} yet",
            why="a topology that relied on it would not do what it says",
            help="remove it",
        )
    known = keys_at(Topology, tuple(table))
    elsewhere = _home(key) if key not in known else ""
    if elsewhere:
        help = f"`{key}` is a key of {elsewhere}"
    elif close := suggest(key, known):
        help = f"did you mean `{close}`?"
    else:
        help = f"remove it; the keys here are {', '.join(known)}"
    return source.problem(
        path,
        f"unknown key `{key}` in {_table(tuple(table))}",
        why="a key that nobody reads does not do what it seems to say",
        help=help,
    )


def suggest(word: str, known: tuple[str, ...]) -> str:
    """The known word that was probably meant, or ""."""
    close = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    return close[0] if close else ""


def _home(key: str) -> str:
    """The table that has `key`, if one does."""
    for top in ("host", "mempools", "ports", "io", "workers"):
        path: Path = (top, "x") if top == "mempools" else (top, 0) if top != "host" else (top,)
        if key in keys_at(Topology, path):
            return "[mempools.NAME]" if top == "mempools" else _table(path)
    return ""


# --- relations ----------------------------------------------------------------------------------
# On the raw data: a fault in one value must not hide what is wrong with another.


def _tables(data: dict[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    value = data.get(key)
    items = value if isinstance(value, list) else []
    return [(i, item) for i, item in enumerate(items) if isinstance(item, dict)]


def _relations(data: dict[str, Any], source: Source) -> list[Problem]:
    return [
        *_missing(data, source),
        *_named_twice(data, source),
        *_devices(data, source),
        *_references(data, source),
        *_numbers(data, source),
    ]


def _missing(data: dict[str, Any], source: Source) -> Iterator[Problem]:
    examples = {
        "version": "version = 1",
        "name": 'name = "edge"',
        "mempools": "[mempools.default]",
        "ports": '[[ports]] with name = "wan" and vdev = "net_null0"',
        "io": '[[io]] with cores = "1"',
        "workers": '[[workers]] with name = "fw" and plugin = "macswap"',
    }
    meant = {suggest(key, tuple(Topology.model_fields)) for key in data if key not in examples}
    for key, write in examples.items():
        if (key not in data and key not in meant) or data.get(key, 1) in ({}, []):
            what = f"`{key}`" if key in ("version", "name") else write.split(" ")[0]
            yield source.problem(
                (key,),
                f"{what} is missing",
                why="a topology has a version, a name, and a mempool, port, io and workers table",
                help=f"add {write}",
            )
    for key, example in (("ports", "wan"), ("workers", "fw")):
        for i, table in _tables(data, key):
            if "name" not in table and not any(suggest(k, ("name",)) for k in table):
                yield source.problem(
                    (key, i),
                    f"`name` is missing in [[{key}]]",
                    why="commands, maps and messages refer to it by name",
                    help=f'add name = "{example}"',
                )


def _named_twice(data: dict[str, Any], source: Source) -> Iterator[Problem]:
    for key in ("ports", "workers"):
        first: dict[str, int] = {}
        for i, table in _tables(data, key):
            name = table.get("name")
            if not isinstance(name, str):
                continue
            if name in first:
                line = source.line((key, first[name], "name"))
                yield source.problem(
                    (key, i, "name"),
                    f"two [[{key}]] are named `{name}`",
                    why=f"line {line} has that name already",
                    help="give each a name of its own",
                )
            first.setdefault(name, i)


def _devices(data: dict[str, Any], source: Source) -> Iterator[Problem]:
    first: dict[str, int] = {}
    ports = _tables(data, "ports")
    for i, port in ports:
        pci, vdev = port.get("pci"), port.get("vdev")
        if pci is not None and vdev is not None:
            yield source.problem(
                ("ports", i, "vdev"),
                "the port has both `pci` and `vdev`",
                why="a port is one device",
                help="keep one of them; a second device is a second [[ports]]",
            )
        if pci is None and vdev is None and not any(suggest(k, ("pci", "vdev")) for k in port):
            yield source.problem(
                ("ports", i),
                "the port has no device",
                why="a port is a PCI device or a virtual one",
                help='add pci = "0000:3b:00.0" or vdev = "net_null0"',
            )
        device = ""
        if isinstance(pci, str):
            device = pci_address(pci)
        elif isinstance(vdev, str):
            device = parse_vdev(vdev)[0]
        if device and device in first:
            yield source.problem(
                ("ports", i, "pci" if isinstance(pci, str) else "vdev"),
                f"two ports use the device {device}",
                why=f"the port on line {source.line(('ports', first[device]))} has it already",
                help=f"use another device, such as {re.sub('[0-9]+$', '', device)}{i}"
                if isinstance(vdev, str)
                else "use another device",
            )
        first.setdefault(device, i)
    if len(ports) > MAX_PORTS:
        yield source.problem(
            ("ports", MAX_PORTS),
            f"{len(ports)} ports are more than DPDK has room for",
            why=f"its builds have {MAX_PORTS} (RTE_MAX_ETHPORTS)",
            help=f"use at most {MAX_PORTS} ports",
        )


def _references(data: dict[str, Any], source: Source) -> Iterator[Problem]:
    pools = data.get("mempools")
    tables = pools.items() if isinstance(pools, dict) else ()
    pool_names = tuple(name for name, pool in tables if isinstance(pool, dict))
    names = [port.get("name") for _, port in _tables(data, "ports")]
    ports = tuple(name for name in names if isinstance(name, str))
    if len(ports) < len(names):
        ports = ()  # a port whose name is not known may be any that is asked for
    for i, port in _tables(data, "ports"):
        pool = port.get("mempool")
        if isinstance(pool, str) and pool_names and pool not in pool_names:
            yield _no_such("mempool", pool, pool_names, ("ports", i, "mempool"), source)
        elif pool is None and pool_names and not default_pool(pool_names):
            yield source.problem(
                ("ports", i),
                "the port names no mempool",
                why="there are several, and none is called `default`",
                help=f'add mempool = "{pool_names[0]}"',
            )
    fed: dict[str, tuple[str, int]] = {}
    groups = _tables(data, "workers")
    for i, group in groups:
        input_ = group.get("input")
        for j, name in enumerate(input_ if isinstance(input_, list) else ()):
            path = ("workers", i, "input", j)
            if not isinstance(name, str):
                continue
            if ports and name not in ports:
                yield _no_such("port", name, ports, path, source)
            elif name in fed:
                other, line = fed[name]
                yield source.problem(
                    path,
                    f"port `{name}` feeds two groups"
                    if line != source.line(path)
                    else f"port `{name}` is listed twice",
                    why=f"line {line} feeds {other} from it already, and a packet goes one way",
                    help="name the port in one group's input",
                )
            else:
                fed[name] = (f"group {show(group.get('name'))}", source.line(path))


def _no_such(what: str, name: str, known: tuple[str, ...], path: Path, source: Source) -> Problem:
    close = suggest(name, known)
    return source.problem(
        path,
        f"there is no {what} `{show(name)[1:-1]}`",
        why=f"the file has {', '.join(f'`{n}`' for n in known)}",
        help=f"did you mean `{close}`?" if close else f"name one of them, or add the {what}",
    )


def _numbers(data: dict[str, Any], source: Source) -> Iterator[Problem]:
    """Numbers that contradict each other."""
    for i, group in _tables(data, "workers"):
        count: Any = group.get("count", 1)
        most: Any = group.get("max")
        if _are_ints(count, most) and 1 <= most < count <= MAX_SLOTS_OF_GROUP:
            yield source.problem(
                ("workers", i, "max"),
                f"`max` is {show(most)}, below `count`, which is {show(count)}",
                why="rings and slots are made for `max` workers at start",
                help=f"write max = {show(count)}, or more",
            )
        restart = group.get("restart")
        backoff = restart.get("backoff") if isinstance(restart, dict) else None
        yield from _backoff(backoff, ("workers", i, "restart", "backoff"), source)
    for i, port in _tables(data, "ports"):
        descriptors, thresholds = port.get("descriptors", {}), port.get("thresholds", {})
        if isinstance(descriptors, dict) and isinstance(thresholds, dict):
            for way in ("rx", "tx"):
                length: Any = descriptors.get(way, 1024)
                free: Any = thresholds.get(f"{way}_free")
                if _are_ints(length, free) and 0 < length <= free <= 65535:
                    yield source.problem(
                        ("ports", i, "thresholds", f"{way}_free"),
                        f"`{way}_free` is {free}, and the {way} queue has {length} descriptors",
                        why="a threshold lies within its queue",
                        help=f"write {way}_free = {min(32, length - 1)}, or leave it out",
                    )
        mtu: Any = port.get("mtu")
        if _are_ints(mtu) and isinstance(port.get("pci"), str) and 9710 < mtu <= 65535:
            yield source.problem(
                ("ports", i, "mtu"),
                f"`mtu` of [[ports]] is {mtu}, and must be at most 9710",
                why="no NIC takes larger frames; only virtual devices do",
                help="write mtu = 9000",
            )
        rss = port.get("rss")
        fields = rss.get("fields") if isinstance(rss, dict) else None
        if isinstance(fields, list) and fields and all(f in ("tcp", "udp") for f in fields):
            yield source.problem(
                ("ports", i, "rss", "fields"),
                "`fields` of `rss` has no addresses in it",
                why="ports of TCP and UDP are hashed together with IP addresses",
                help='write fields = ["ipv4", "ipv6", "tcp", "udp"]',
            )
    pools = data.get("mempools")
    sizes: dict[int, str] = {}
    for name, pool in (pools if isinstance(pools, dict) else {}).items():
        size = pool.get("page_size", "2M") if isinstance(pool, dict) else None
        parsed, _ = validate(Mempool, {"page_size": size})
        if parsed:
            sizes.setdefault(parsed.page_size, name)
        if len(sizes) > 1:
            yield source.problem(
                ("mempools", name, "page_size"),
                f"mempool `{name}` asks for other pages than `{next(iter(sizes.values()))}`",
                why="this version of dpsup reserves its memory in pages of one size",
                help="use one page_size for all mempools",
            )
            return


def _backoff(backoff: object, path: Path, source: Source) -> Iterator[Problem]:
    if not isinstance(backoff, dict):
        return
    parsed, issues = validate(Backoff, backoff)
    if parsed and not issues and parsed.initial > parsed.max:
        key = "max" if "max" in backoff else "initial"
        yield source.problem(
            (*path, key),
            f"`backoff` begins with {parsed.initial:g}s, above its `max` of {parsed.max:g}s",
            why="the waits grow from `initial` to `max`",
            help="raise max or lower initial",
        )


def _are_ints(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _notes(topology: Topology, source: Source) -> Iterator[Problem]:
    if topology.metrics.listen:
        yield source.problem(
            ("metrics", "listen"),
            "this version of dpsup serves no metrics yet",
            why="nothing will listen there",
            help='write listen = "", or use dpsup stats',
            severity=Severity.WARNING,
        )
    if topology.host.eal_extra:
        yield source.problem(
            ("host", "eal_extra"),
            "`eal_extra` is handed to EAL unchecked",
            why="arguments that contradict dpsup's own break isolation, memory or cores",
            help="leave it out if a key of the topology can say the same",
            severity=Severity.WARNING,
        )
