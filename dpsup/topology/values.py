# SPDX-License-Identifier: BSD-3-Clause
"""Single values of a topology file: how they are written, and what they become.

Each reader takes what TOML gave and returns the value, or raises `invalid` with what to write.

Over 600 lines: a reader for each kind of value, beside its limits and its form in the schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from dpsup import limits
from dpsup.packets import tunnels
from dpsup.tables.fields import Unreadable
from dpsup.tables.model import Match, Table, declare
from dpsup.text import DURATION, duration, listing, plural, show, suggest
from dpsup.topology.typed import (
    AfterValidator,
    BeforeValidator,
    Field,
    Path,
    WrapValidator,
    invalid,
    written,
    written_either,
)

AUTO = "auto"
MAX_CORE = 1023  # CPU_SETSIZE
UNCHOSEN = -1  # a CPU that the machine is to choose: topology/machine.py
RSS_KEY_BYTES = (40, 52)

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT])(?:iB)?")
_INSTANCE = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,{limits.NAME - 1}}}")
_HTTP_PATH = re.compile(r"/[!-~]{0,1000}")
_HTTP_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{0,255}")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.NAME - 1}}}")
_CHOSEN = re.compile(rf"{AUTO}(?::([0-9]{{1,4}}))?")
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")


def parse_duration(value: object) -> float:
    """ "250ms" -> 0.25 seconds."""
    try:
        return duration(value)
    except ValueError as e:
        raise invalid(str(e)) from None


def _parse_some_time(value: object) -> float:
    seconds = parse_duration(value)
    if seconds < 0.001:
        raise invalid(f"{show(value)} is shorter than 1ms")
    return seconds


def parse_size(value: object) -> int:
    """ "512MiB", "2M" or "1G" -> bytes; K, M, G are powers of 1024, as with hugepages."""
    if not isinstance(value, str) or (m := _SIZE.fullmatch(value)) is None:
        raise invalid(f"{show(value)} is not a size")
    return int(float(m[1]) * 1024 ** (1 + "KMGT".index(m[2])))


def parse_bytes(value: object) -> int:
    """64 or "64KiB" -> bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return parse_size(value)


def parse_cores(value: object) -> tuple[int, ...]:
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


def _parse_auto_cores(value: object) -> tuple[int, ...]:
    return () if value == AUTO else parse_cores(value)


def _parse_chosen_cores(value: object) -> tuple[int, ...]:
    """ "auto" -> one CPU that is still to be chosen, "auto:2" -> two."""
    if not isinstance(value, str) or (m := _CHOSEN.fullmatch(value)) is None:
        return parse_cores(value)
    count = int(m[1] or 1)
    if not 0 < count <= limits.IO_CORES:
        raise invalid(
            f"{show(value)} asks for {plural(count, 'CPU')}",
            help=f'write "auto", or up to "auto:{limits.IO_CORES}"',
        )
    return (UNCHOSEN,) * count


def _parse_auto_size(value: object) -> int:
    return 0 if value == AUTO else parse_size(value)


def _parse_auto_bytes(value: object, otherwise: Callable[[object], int]) -> int:
    return limits.AUTO_STATE if value == AUTO else otherwise(value)


def _parse_page_size(value: object) -> int:
    size = parse_size(value)
    if size not in (2 << 20, 1 << 30):
        raise invalid(f"{show(value)} is no page size that dpsup knows")
    return size


def _instance(value: str) -> str:
    if not _INSTANCE.fullmatch(value):
        raise invalid(
            f"{show(value)} cannot be the name of an instance",
            why=f"it becomes part of file names: {_INSTANCE.pattern}",
        )
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise invalid(
            f"{show(value)} cannot be a name",
            why=f"names stand in commands and messages: {_NAME.pattern}",
            help=f"use up to {limits.NAME} letters, digits, `_`, `.` and `-`; a letter or"
            " digit first",
        )
    return value


def _http_path(value: str) -> str:
    if not _HTTP_PATH.fullmatch(value):
        raise invalid(
            f"{show(value)} cannot be asked for",
            help='write what follows the address in a URL, without spaces: path = "/health?deep=1"',
        )
    return value


def _http_host(value: str) -> str:
    if not _HTTP_HOST.fullmatch(value):
        raise invalid(f"{show(value)} is no host", help='write host = "www.example.org"')
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


def _rss_fields(value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not {"ipv4", "ipv6"} & set(value):
        raise invalid(
            "there are no addresses in it",
            why="ports of TCP, UDP and SCTP are hashed together with IP addresses",
        )
    return value


def _tunnel(value: str) -> str:
    port = value.removeprefix("vxlan:")
    if port != value and re.fullmatch("[1-9][0-9]{0,4}", port) and int(port) <= 65535:
        return tunnels.vxlan(int(port))
    if value not in tunnels.WORDS:
        raise invalid(
            f"{show(value)} is no tunnel that dpsup looks into",
            help=f"write one of {', '.join(tunnels.WORDS)}; VXLAN on another UDP port than"
            f" {tunnels.VXLAN_PORT} is vxlan:PORT, such as vxlan:8472",
        )
    return value


def _tunnels(value: tuple[str, ...]) -> tuple[str, ...]:
    ports = set(tunnels.vxlan_ports(value))
    if len(ports) > tunnels.VXLAN_PORTS:
        raise invalid(
            f"VXLAN has {len(ports)} UDP ports here, and at most {tunnels.VXLAN_PORTS} are looked"
            " for",
            why="io cores compare each of them with every UDP packet's",
            help="leave out those with few packets",
        )
    return tuple(dict.fromkeys(value))


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


def pci_variable(spec: str) -> str:
    """The variable of "env:NAME,key=value", which holds the address; "" where it names none."""
    m = _VARIABLE.fullmatch(spec.partition(",")[0].strip())
    return m[1] if m else ""


def _pci(value: str) -> str:
    _, comma, devargs = value.partition(",")
    if variable := pci_variable(value):
        return f"env:{variable}{comma}{devargs}"
    address = pci_address(value)
    if not address:
        raise invalid(f"{show(value)} is not a PCI address")
    whole = address + comma + devargs
    if (size := len(whole.encode())) > limits.DEVICE:
        raise invalid(
            f"the device and its arguments take {size} bytes",
            why=f"there is room for {limits.DEVICE}",
            help="leave out the arguments that are the driver's defaults",
        )
    return whole


def _vdev(value: str) -> str:
    name, devargs = parse_vdev(value)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
        raise invalid(f"{show(value)} does not begin with a virtual device's name")
    if len(name) > limits.NAME:
        raise invalid(
            f"the device's name has {len(name)} bytes: {show(name)}",
            why=f"there is room for {limits.NAME}",
            help=f"shorten it: a driver's name and a number, up to {limits.NAME} characters",
        )
    for key, _ in devargs:
        if not key:
            raise invalid(f"{show(value)} has an empty device argument")
    return value


def parse_vdev(spec: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """ "net_pcap0,rx_pcap=in.pcap" -> ("net_pcap0", (("rx_pcap", "in.pcap"),))."""
    name, *rest = spec.split(",")
    pairs = (part.partition("=") for part in rest)
    return name.strip(), tuple((key.strip(), value) for key, _, value in pairs)


def number(devargs: tuple[tuple[str, str], ...], key: str, default: int) -> int:
    """The number in a device's argument, as drivers (atoi, strtoul) read it: " 512k" is 512."""
    given = dict(devargs)
    if key not in given:
        return default
    found = re.match(r"[ \t-\r]*([+-]?[0-9]+)", given[key])
    return int(found[1]) if found else 0


# Arguments of drivers that name an interface of the kernel's.
_INTERFACES = {
    "net_af_packet": ("iface",),
    "net_af_xdp": ("iface",),
    "net_pcap": ("iface", "rx_iface", "rx_iface_in", "tx_iface"),
    "net_tap": ("remote",),
}
MEMIF_SOCKET = "/run/memif.sock"  # where the file does not say


def interfaces_of(driver: str, spec: str) -> tuple[str, ...]:
    """The interfaces of the kernel's that a virtual device works with."""
    keys = _INTERFACES.get(driver, ())
    return tuple(dict.fromkeys(value for key, value in parse_vdev(spec)[1] if key in keys))


class Memif(NamedTuple):
    server: bool
    socket: str
    abstract: bool  # no file
    number: str  # its id: what tells several at one socket apart

    @property
    def address(self) -> str:
        return f"\0{self.socket}" if self.abstract else self.socket


def memif_of(spec: str) -> Memif | None:
    """The two ends of net_memif meet at a socket. None: it is no such device."""
    name, devargs = parse_vdev(spec)
    if not name.startswith("net_memif"):
        return None
    given = dict(devargs)
    # The driver looks for these words anywhere in the value.
    role, abstract = given.get("role", "client"), given.get("socket-abstract", "yes")
    return Memif(
        any(word in role for word in ("server", "master")),
        given.get("socket", MEMIF_SOCKET),
        "yes" in abstract or "no" not in abstract,
        str(number(devargs, "id", 0)),
    )


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
        if key.startswith(limits.FILE):
            raise invalid(
                f"`{key}` is no argument: `{limits.FILE}` begins the names of files",
                help=f'write files = {{ {key.removeprefix(limits.FILE)} = "FILE" }}',
                path=path,
            )
        if key == limits.TABLES:
            raise invalid(f"`{key}` is no argument: it stands for the group's tables", path=path)
        if any(not c.isprintable() for c in key + item):
            raise invalid("control characters do not reach a plugin", path=path)
        flat[key] = item
    # Each key and value as the plugin gets it, closed with a NUL.
    size = sum(len(f"{key}{item}".encode()) + 2 for key, item in flat.items())
    if size > limits.ARGS:
        raise invalid(
            f"`args` take {size} bytes",
            why=f"shared memory has room for {limits.ARGS} in each group",
            help='hand them over as a file, of any size: files = { NAME = "FILE" }',
        )
    return tuple(flat.items())


def _files(value: object) -> object:
    """{"routes": "routes.txt"} -> (("routes", "routes.txt"),)"""
    if not isinstance(value, dict):
        raise invalid(f"`files` must be a table, not {show(value)}")
    for name, path in value.items():
        if not isinstance(path, str) or not path:
            raise invalid(f"a file's path is a text, not {show(path)}", path=(name,))
        if not name or any(not c.isprintable() for c in name + path):
            raise invalid("control characters do not reach a plugin", path=(name,))
    return tuple(value.items())


class DeclaredTable(NamedTuple):
    """A live table, in words: docs/tables.md. All are texts, as they go into the plan."""

    name: str
    kind: str
    entries: str
    key: str
    value: str
    file: str
    use: str = ""  # "learn AGE": seconds, 0: it stays; "control"
    persist: str = ""  # the path of what outlives the instance, "yes": below [host] tables_dir
    size: str = "0"  # bytes of a table of the plugin's own kind

    def table(self) -> Table:
        """Raises: Unreadable."""
        return declare(
            self.name, self.kind, int(self.entries), key=self.key, value=self.value,
            size=int(self.size),
        )  # fmt: skip


_TABLE_KEYS = ("kind", "entries", "key", "value", "bytes", "file", "learn", "age", "persist")
_TRUTHS = ("learn", "persist")


def _tables(value: object) -> object:
    """{"routes": {"kind": "ipv4", "entries": "1M"}} -> (DeclaredTable(...),)"""
    if not isinstance(value, dict):
        raise invalid(f"`tables` must be a table, not {show(value)}")
    if len(value) > limits.TABLES_MOST:
        raise invalid(f"{len(value)} tables are too many", why=f"at most {limits.TABLES_MOST}")
    return tuple(_declared(name, one) for name, one in value.items())


def _declared(name: str, value: object) -> DeclaredTable:
    if not _NAME.fullmatch(name):
        raise invalid(
            f"{show(name)} cannot be a table's name",
            why=f"names stand in commands and messages: {_NAME.pattern}",
            path=(name,),
        )
    if name == limits.CONTROL:
        raise invalid(
            f"{show(name)} cannot be a table's name",
            why="it is the table of what `dpsup tell` says, where control = true",
            path=(name,),
        )
    if not isinstance(value, dict):
        raise invalid(
            f"a table is declared as a table, not as {show(value)}",
            help='write { kind = "ipv4", entries = "1M" }',
            path=(name,),
        )
    for key, word in value.items():
        if key not in _TABLE_KEYS:
            close = suggest(key, _TABLE_KEYS)
            raise invalid(
                f"a table has no key `{key}`",
                help=f"did you mean `{close}`?" if close else f"it has {listing(_TABLE_KEYS)}",
                path=(name, key),
            )
        if key in _TRUTHS and not isinstance(word, bool):
            raise invalid(f"`{key}` is true or false, not {show(word)}", path=(name, key))
        is_text = key not in ("entries", "age", "bytes", *_TRUTHS)
        if is_text and (not isinstance(word, str) or not word or not word.isprintable()):
            raise invalid(f"`{key}` must be a text, not {show(word)}", path=(name, key))
    for key in ("kind", "entries"):
        if key not in value:
            raise invalid(
                f"table `{name}` has no `{key}`",
                why="its memory is reserved at the start",
                help='write { kind = "ipv4", entries = "1M" }',
                path=(name,),
            )
    words = {key: value.get(key, "") for key in ("key", "file")}
    what = value.get("value", "u32")
    size = _own_size(name, value)
    try:
        table = declare(
            name, value["kind"], value["entries"], key=words["key"], value=what, size=size
        )
    except Unreadable as e:
        raise invalid(f"table `{name}`: {e.message}", help=e.help, path=(name,)) from None
    file, persist = words["file"], "yes" if value.get("persist") else ""
    use = _learning(name, value, table)
    return DeclaredTable(
        name, value["kind"], str(table.entries), words["key"], what, file, use, persist, str(size)
    )


def _own_size(name: str, value: dict[str, Any]) -> int:
    """Bytes that the plugin makes of the table, 0: none are declared."""
    if "bytes" not in value:
        return 0
    try:
        size = parse_bytes(value["bytes"])
    except ValueError:
        size = 0
    if size <= 0:
        raise invalid(
            f"`bytes` of table `{name}` is {show(value['bytes'])}: a size is wanted",
            help='write bytes = "4MiB", or a number',
            path=(name, "bytes"),
        )
    return size


def _learning(name: str, value: dict[str, Any], table: Table) -> str:
    age = 0.0
    if "age" in value:
        age = _parse_age(name, value["age"])
        if not value.get("learn"):
            raise invalid(
                f"table `{name}` has `age`, and learns nothing",
                why="what an operator adds stays until an operator removes it",
                help="write learn = true beside it, or leave `age` out",
                path=(name, "age"),
            )
    if not value.get("learn"):
        return ""
    if table.match in (Match.ARRAY, Match.OWN):
        what = "an array" if table.match is Match.ARRAY else "of the plugin's own kind"
        raise invalid(
            f"table `{name}` cannot learn: it is {what}",
            why="a worker tells a key and a value of at most 8 bytes",
            help="let an exact match learn the index of a record",
            path=(name, "learn"),
        )
    return f"learn {age:g}"


def _parse_age(name: str, value: object) -> float:
    try:
        age = duration(value)
    except ValueError as e:
        raise invalid(f"`age`: {e}", help='write "300s"', path=(name, "age")) from None
    if age < 1:
        raise invalid(
            f"`age` of {show(value)} is too short",
            why="workers tell an entry again four times in that time",
            help='write "1s" or more',
            path=(name, "age"),
        )
    return age


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


def _matching(*patterns: str) -> Any:
    return written("string", pattern="|".join(f"^{pattern}$" for pattern in patterns))


def _auto_bytes(most: int) -> Any:
    patterns = f"^{AUTO}$|^{_SIZE.pattern}$"
    text = {"type": "string", "pattern": patterns}
    return written_either({"type": "integer"}, text, minimum=0, maximum=most)


_CORES = r"\s*[0-9]{1,6}\s*(-\s*[0-9]{1,6}\s*)?(,\s*[0-9]{1,6}\s*(-\s*[0-9]{1,6}\s*)?)*"
_TIME = _matching(DURATION.pattern)

ARRAY = BeforeValidator(_array)
InstanceName = Annotated[str, AfterValidator(_instance), _matching(_INSTANCE.pattern)]
Name = Annotated[str, AfterValidator(_name), _matching(_NAME.pattern)]
HttpPath = Annotated[str, AfterValidator(_http_path), _matching(_HTTP_PATH.pattern)]
HttpHost = Annotated[str, AfterValidator(_http_host), _matching(_HTTP_HOST.pattern)]
PoolName = Annotated[str, AfterValidator(_pool_name)]
Duration = Annotated[float, BeforeValidator(parse_duration), _TIME]
SomeTime = Annotated[float, BeforeValidator(_parse_some_time), _TIME]
Size = Annotated[  # 0: auto
    int, BeforeValidator(_parse_auto_size), _matching(AUTO, _SIZE.pattern)
]
PageSize = Annotated[int, BeforeValidator(_parse_page_size), _matching(_SIZE.pattern)]
Cores = Annotated[tuple[int, ...], BeforeValidator(parse_cores), _matching(_CORES)]
ChosenCores = Annotated[  # UNCHOSEN: auto
    tuple[int, ...],
    BeforeValidator(_parse_chosen_cores),
    _matching(rf"{AUTO}(:[0-9]{{1,4}})?", _CORES),
]
AutoCores = Annotated[  # empty: auto
    tuple[int, ...], BeforeValidator(_parse_auto_cores), _matching(AUTO, _CORES)
]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
AutoState = Annotated[
    int, Field(ge=0, le=limits.STATE), BeforeValidator(parse_bytes),
    WrapValidator(_parse_auto_bytes), _auto_bytes(limits.STATE),
]  # fmt: skip
AutoBucketState = Annotated[
    int, Field(ge=0, le=limits.BUCKET_STATE), BeforeValidator(parse_bytes),
    WrapValidator(_parse_auto_bytes), _auto_bytes(limits.BUCKET_STATE),
]  # fmt: skip
Texts = Annotated[tuple[str, ...], ARRAY]
Args = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_flatten), written("object")]
Files = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_files), written("object")]
Tables = Annotated[tuple[Any, ...], BeforeValidator(_tables), written("object")]
Ring = Annotated[int, AfterValidator(_ring)]
RssFields = Annotated[
    tuple[Literal["ipv4", "ipv6", "tcp", "udp", "sctp"], ...], ARRAY, AfterValidator(_rss_fields)
]
Tunnel = Annotated[
    str, AfterValidator(_tunnel), _matching("|".join(tunnels.WORDS), "vxlan:[1-9][0-9]{0,4}")
]
Tunnels = Annotated[tuple[Tunnel, ...], ARRAY, AfterValidator(_tunnels)]
RssKey = Annotated[str, AfterValidator(_rss_key)]
Pci = Annotated[
    str,
    AfterValidator(_pci),
    _matching(_PCI.pattern.replace("a-f", "a-fA-F") + "(,.*)?", _VARIABLE.pattern + "(,.*)?"),
]
Vdev = Annotated[str, AfterValidator(_vdev)]
Listen = Annotated[str, AfterValidator(_listen)]
