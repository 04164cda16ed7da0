# SPDX-License-Identifier: BSD-3-Clause
"""Carries out `dpsup try`: reads what it is given, runs the program, puts the report together."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsup import _abi, limits
from dpsup.documents.trial import TriedFinding, Try
from dpsup.errors import NoSuchObject, TopologyError, UsageError
from dpsup.host.input_file import read_input
from dpsup.host.symbols import CRASHED, Loaded, named, variable
from dpsup.host.tied import sweep_dead
from dpsup.packets import frames as captures
from dpsup.packets import pcapng
from dpsup.packets.frames import Frame
from dpsup.plugin_source import SUFFIX
from dpsup.trial import findings, program
from dpsup.trial.program import Fate, Run, Setting

PREFIX = "dpsup-try-"
SYMMETRIC = bytes.fromhex("6d5a") * 20  # the default of `rss`
_FIELDS = _abi.DPS_RSS_IPV4 | _abi.DPS_RSS_IPV6 | _abi.DPS_RSS_TCP | _abi.DPS_RSS_UDP


@dataclass(frozen=True, slots=True)
class Options:
    plugin: str
    capture: str
    topology: str | None
    group: str | None
    ports: tuple[str, ...]
    groups: tuple[str, ...]
    args: tuple[str, ...]
    files: tuple[str, ...]
    input: str | None
    packets: int | None
    burst: int
    timeout: float
    out: str | None
    sweep: bool
    allow: tuple[str, ...]


def _pairs(given: Sequence[str], what: str) -> tuple[tuple[str, str], ...]:
    for one in given:
        if not one.partition("=")[1] or one.startswith("="):
            raise UsageError(f"`{one}` is no {what}", code="E0542", help="write NAME=VALUE")
    return tuple((key, value) for key, _, value in (one.partition("=") for one in given))


def _key(spec: str) -> bytes:
    if spec == "symmetric":
        return SYMMETRIC
    from dpsup.primary.layout import rss_key

    return rss_key(spec)


def _of_topology(options: Options, plugin: str, directory: Path) -> Setting:
    """What the group finds in the topology; `directory` gets its tables. Raises: DpsupError."""
    from dpsup.host.machine import read_host
    from dpsup.topology import chains
    from dpsup.topology.load import load

    assert options.topology is not None
    topology, problems = load(options.topology, read_host())
    if topology is None:
        raise TopologyError(problems)
    names = [group.name for group in topology.workers]
    own = options.group or names[0]
    if own not in names:
        raise NoSuchObject(
            f"{options.topology} has no group `{own}`",
            code="E0542",
            help=f"its groups: {', '.join(names)}",
        )
    index = names.index(own)
    group = topology.workers[index]
    order = [own, *(name for name in names if name != own)]
    verdicts = []
    for port, hop in enumerate(chains.hops(topology)[index]):
        if hop.kind == "port":
            verdicts.append(_abi.DPS_V_OUT | hop.to)
        elif hop.kind == "group":
            verdicts.append(_abi.DPS_V_GROUP | order.index(names[hop.to]))
        else:
            verdicts.append(_abi.DPS_V_OUT | port)
    given = dict(group.args) | dict(_pairs(options.args, "argument"))
    files = dict(group.files) | dict(_pairs(options.files, "file"))
    ports = tuple(port.name for port in topology.ports)
    told = [*given.items(), *((f"{limits.FILE}{k}", v) for k, v in files.items())]
    if group.tables or group.control:
        from dpsup.builder import apart
        from dpsup.plan.place import tables_of
        from dpsup.topology.values import DeclaredTable

        declared = [DeclaredTable(*words) for words in tables_of(group, "")]
        told.append((limits.TABLES, apart.make(directory, ports, names, own, declared, plugin)))
    return Setting(
        plugin, _is_builtin(options.plugin), ports, tuple(order), tuple(told),
        tuple(verdicts), _key(topology.ports[0].rss.key), _FIELDS, options.burst, options.timeout,
    )  # fmt: skip


def _is_readable(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.R_OK)


def _inputs(options: Options, setting: Setting) -> dict[str, str]:
    """The files that are read, and what each is. Raises: UsageError."""
    named = ((key, value) for key, value in setting.args if key.startswith(limits.FILE))
    files = {f'the file "{key.removeprefix(limits.FILE)}"': path for key, path in named}
    for what, path in files.items():
        if not _is_readable(path):
            raise UsageError(
                f"cannot read {what} of the plugin, {path}",
                code="E0542",
                help="write it, or correct the path",
            )
    found = {**files, "the capture": options.capture}
    if not setting.builtin:
        found["the plugin"] = setting.plugin
    if options.topology is not None:
        found["the topology"] = options.topology
    return found


def _check_output(out: str, inputs: dict[str, str]) -> None:
    """Before anything is run. By device and inode, so that links count. Raises: UsageError."""
    for what, path in inputs.items():
        with contextlib.suppress(OSError):
            if Path(out).samefile(path):
                raise UsageError(
                    f"--out {out} is {what}: it would be overwritten",
                    code="E1003",
                    help="name another file",
                )


def _is_builtin(plugin: str) -> bool:
    return not limits.plugin_path(plugin)


def _setting(options: Options, directory: Path) -> Setting:
    if options.plugin.endswith(SUFFIX):
        raise UsageError(
            f"{options.plugin} is a plugin in Python, which `dpsup try` does not run",
            code="E0541",
            help="test it by pytest with `dpsup.testing`: `dpsup init --template python` shows how",
        )
    if _is_builtin(options.plugin):
        if options.plugin not in limits.BUILT_IN:
            known = ", ".join(limits.BUILT_IN + limits.FUNCTIONS)
            raise UsageError(
                f"`{options.plugin}` is no plugin",
                code="E0541",
                help=f"name a file that ends in .so, or one of {known}",
            )
        plugin = options.plugin
    else:
        plugin = str(Path(limits.plugin_path(options.plugin)).absolute())
        if not _is_readable(plugin):
            raise UsageError(
                f"cannot read {options.plugin}", code="E0541", help="build it, or correct the path"
            )
    if options.topology is not None:
        return _of_topology(options, plugin, directory)
    ports = options.ports or ("wan", "lan")
    groups = (options.group or "workers", *options.groups)
    for what, names in (("ports", ports), ("groups", groups)):
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"two {what} have the name `{name}`",
                    code="E0542",
                    help="give each a name of its own",
                )
    if len(ports) > limits.PORTS or len(groups) > limits.GROUPS:
        raise UsageError(
            f"at most {limits.PORTS} ports and {limits.GROUPS} groups are possible", code="E0542"
        )
    files = _pairs(options.files, "file")
    args = (
        *_pairs(options.args, "argument"),
        *((f"{limits.FILE}{name}", str(Path(path).absolute())) for name, path in files),
    )
    if limits.args_size(args) > limits.ARGS:
        raise UsageError(
            f"the arguments have more than {limits.ARGS} bytes", code="E0542", help="use --file"
        )
    return Setting(
        plugin, _is_builtin(options.plugin), tuple(ports), groups, args, (), SYMMETRIC, _FIELDS,
        options.burst, options.timeout,
    )  # fmt: skip


def _read(options: Options, ports: Sequence[str]) -> tuple[list[Frame], list[int]]:
    try:
        data = read_input(options.capture)
    except OSError as e:
        raise UsageError(
            f"cannot read {options.capture}: {e.strerror}",
            code="E0541",
            help="name a pcap or pcapng file",
        ) from None
    try:
        frames = list(captures.frames(data))
    except captures.DamagedError as e:
        raise UsageError(f"{options.capture}: {e}", code="E0541") from None
    if not frames:
        raise UsageError(
            f"{options.capture} has no packet",
            code="E0541",
            help="a trial without packets says nothing about a plugin: name another capture",
        )
    frames = frames[: options.packets]
    for number, frame in enumerate(frames, 1):
        if not 0 < len(frame.data) <= program.PACKET_MOST:
            raise UsageError(
                f"packet {number} of {options.capture} has {len(frame.data)} bytes",
                code="E0541",
                help=f"a packet has 1 to {program.PACKET_MOST} bytes",
            )
    if options.input is not None:
        if options.input not in ports:
            raise UsageError(
                f"there is no port `{options.input}`",
                code="E0542",
                help=f"the ports: {', '.join(ports)}",
            )
        return frames, [ports.index(options.input)] * len(frames)
    by_name = {name: i for i, name in enumerate(ports)}
    return frames, [by_name.get(frame.interface, 0) for frame in frames]


def _write(path: str, run: Run, ports: Sequence[str], at_ns: int) -> None:
    parts = [pcapng.section("dpsup")]
    parts += [pcapng.interface(name, "", 0) for name in ports]
    said = {
        program.EMITTED: "originated for", program.COPY: "copy of",
        program.TICKED: "originated by a tick before",
    }  # fmt: skip
    for fate in run.fates:
        if fate.kind == program.OUT:
            parts.append(
                pcapng.packet(
                    fate.arg, at_ns + fate.ns, fate.data, len(fate.data),
                    direction=pcapng.OUTBOUND,
                    comment=f"{said.get(fate.role, '')} packet {fate.number + 1}".strip(),
                )
            )  # fmt: skip
    try:
        Path(path).write_bytes(b"".join(parts))
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror}", code="E1003") from None


def _loaded(setting: Setting, one: dict[str, Any]) -> list[Loaded]:
    found = []
    with contextlib.suppress(OSError):
        found.append(Loaded("dpsup-try", one["program_base"], program.PROGRAM.read_bytes()))
        if one["plugin_base"]:
            data = Path(setting.plugin).read_bytes()
            found.append(Loaded(Path(setting.plugin).name, one["plugin_base"], data))
    return found


def _by_packet(fates: Sequence[Fate]) -> dict[int, list[tuple[object, ...]]]:
    found: dict[int, list[tuple[object, ...]]] = {}
    for fate in fates:
        found.setdefault(fate.number, []).append(fate[2:])
    return found


def _bursts(run: Run, swept: Run, burst: int) -> list[TriedFinding]:
    """Packets whose fate depends on how many come at once."""
    many, single = _by_packet(run.fates), _by_packet(swept.fates)
    differ = [number for number in many if number in single and many[number] != single[number]]
    if not differ:
        return []
    return [
        findings.finding(
            "burst", differ[0] + 1, len(differ),
            f"its fate depends on the burst: one with {burst} packets at once, another one alone",
            "what look found is as old as the burst: look again in packet() at what packets change",
        )
    ]  # fmt: skip


def _sum(names: Sequence[str], values: Sequence[int], gauges: int) -> dict[str, int]:
    return {
        name: value - (1 << 64) if gauges >> i & 1 and value >> 63 else value
        for i, (name, value) in enumerate(zip(names, values, strict=False))
    }


def _document(options: Options, setting: Setting, frames: Sequence[Frame]) -> Try:
    return {
        "apiVersion": "dpsup/v1", "kind": "Try", "plugin": "", "file": options.plugin,
        "capture": options.capture, "ok": False, "packets": len(frames), "done": 0,
        "out": {}, "on": {}, "on_hash": {}, "dropped": {}, "quarantined": 0, "punted": 0,
        "refused": 0, "emitted": 0, "no_blank": 0, "ticks": 0, "ticks_skipped": 0, "counters": {},
        "state": {"bytes": 0, "digest": "", "buckets": 0, "bucket_digest": ""},
        "digest": "", "ns_per_packet": 0.0, "cycles_per_packet": 0.0, "sweep": None,
        "findings": [],
    }  # fmt: skip


def _fill(doc: Try, setting: Setting, plugin: dict[str, Any], total: dict[str, Any]) -> None:
    reasons = plugin["reasons"]
    doc["plugin"] = plugin["name"]
    doc["done"] = done = total["packets"]
    for i, port in enumerate(setting.ports):
        doc["out"][port] = {
            "packets": total["out"][i], "bytes": total["out_bytes"][i],
            "copies": total["copies"][i],
        }  # fmt: skip
    doc["on"] = dict(zip(setting.groups, total["on"], strict=True))
    doc["on_hash"] = dict(zip(setting.groups, total["on_hash"], strict=True))
    doc["dropped"] = {
        reasons[i] if i < len(reasons) else f"reason {i}": n
        for i, n in enumerate(total["dropped"])
        if n or i < len(reasons)
    }
    doc["quarantined"], doc["refused"] = total["quarantined"], total["refused"]
    doc["punted"] = total["punted"]
    doc["emitted"], doc["no_blank"] = total["emitted"], total["no_blank"]
    doc["ticks"], doc["ticks_skipped"] = total["ticks"], total["ticks_skipped"]
    doc["counters"] = _sum(plugin["counters"], total["counters"], plugin["gauges"])
    doc["state"] = {
        "bytes": total["state_bytes"], "digest": total["state_digest"],
        "buckets": total["buckets"], "bucket_digest": total["bucket_digest"],
    }  # fmt: skip
    doc["digest"] = total["digest"]
    doc["ns_per_packet"] = round(total["ns"] / done, 1) if done else 0.0
    doc["cycles_per_packet"] = round(total["cycles"] / done, 1) if done else 0.0


@contextlib.contextmanager
def _in_order() -> Iterator[None]:
    """What ends this command lets it remove its directory."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry_out(options: Options) -> Try:
    """Raises: DpsupError."""
    sweep_dead(PREFIX)
    prefix = f"{PREFIX}{os.getpid()}-"
    with _in_order(), tempfile.TemporaryDirectory(prefix=prefix) as directory:
        return _carry_out(options, _setting(options, Path(directory)))


def _carry_out(options: Options, setting: Setting) -> Try:
    inputs = _inputs(options, setting)
    if options.out is not None:
        _check_output(options.out, inputs)
    frames, ports = _read(options, setting.ports)
    doc = _document(options, setting, frames)
    run = program.run(setting, frames, ports)

    def names(one: dict[str, Any]) -> list[str]:
        """The frames of a crash without those of its handler; of a store, the one frame."""
        at = one["frames"] if len(one["frames"]) > CRASHED else ["0x0", *one["frames"]]
        skipped = CRASHED if len(one["frames"]) > CRASHED else 1
        return named(at, _loaded(setting, one))[skipped:] if one["frames"] else []

    def variables(one: dict[str, Any]) -> list[str]:
        for file in _loaded(setting, one)[1:]:
            if one["in_plugin"] and (found := variable(file, one["address"])):
                return [found]
        return []

    for refused in run.all("refused"):
        doc["findings"] = [
            findings.finding(
                "refused", 0, 0, f"it is refused: {refused['why']}",
                "correct what it says; --arg, --file, --port and --topology say what the plugin"
                " finds",
            )
        ]  # fmt: skip
        return doc
    plugin: dict[str, Any] = next(run.all("plugin"), {})
    for total in run.all("total"):
        _fill(doc, setting, plugin, total)
    said = list(run.all("finding"))
    doc["findings"] = findings.in_words(said, plugin, names, variables)
    if options.sweep and plugin:
        swept = program.run(setting, frames, ports, sweeps=True)
        for one in swept.all("swept"):
            doc["sweep"] = {"packets": one["packets"], "points": one["points"]}
        ended = {one["packet"] for one in said if one["kind"] in ("crash", "hang")}
        more = [
            one
            for one in swept.all("finding")
            if one["kind"] in ("twice", "restart", "counters", "own-memory")
            or (one["kind"] in ("crash", "hang") and one["packet"] not in ended)
        ]
        known = findings.in_words([*said, *more], plugin, names, variables)
        doc["findings"] = known + _bursts(run, swept, options.burst)
    for finding in doc["findings"]:
        finding["allowed"] = finding["kind"] in options.allow
    doc["ok"] = all(finding["allowed"] for finding in doc["findings"])
    if options.out is not None:
        _write(options.out, run, setting.ports, frames[0].at_ns if frames else 0)
    return doc
