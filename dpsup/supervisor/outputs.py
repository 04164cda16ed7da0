# SPDX-License-Identifier: BSD-3-Clause
"""Is what was sent, and what a job was to read, really there? The driver of files sees no error.

The primary counts the bytes that are missing; which packets those are is looked up at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dpsup.documents.counters import Counters
from dpsup.documents.status import Account, Unread, Unwritten
from dpsup.errors import DpsupError
from dpsup.packets import pcap
from dpsup.plan.model import PortPlan
from dpsup.supervisor import disk
from dpsup.supervisor.core import Core
from dpsup.supervisor.model import Model
from dpsup.text import plural
from dpsup.topology.values import parse_vdev


def files_of(port: PortPlan) -> list[str]:
    return [value for key, value in parse_vdev(port.vdev)[1] if key == "tx_pcap"]


class Outputs:
    """Watches the counters of ports that write files; `judge` is called when one is short."""

    def __init__(self, core: Core, model: Model, judge: Callable[[], None]) -> None:
        self._core, self._model, self._judge = core, model, judge

    def observe(self, counters: Counters) -> None:
        for port in counters["ports"]:
            name = port["name"]
            if port.get("unwritten_bytes") and name not in self._model.short:
                self._model.short.append(name)
                plan = next(p for p in self._model.plan.ports if p.name == name)
                said = f"{' and '.join(files_of(plan))} lacks bytes that were sent to it"
                self._core.events.add(type="error", name=name, message=said)
                self._model.progress(f"warning    port {name}: {said}")
                self._judge()


async def settle(model: Model, counters: Counters, found: Account) -> list[Unwritten]:
    """The outputs that are short; what is missing in them is no longer "sent" in the account."""
    ports = {p.name: p for p in model.plan.ports}
    short: list[Unwritten] = []
    for port in counters["ports"]:
        if not port.get("unwritten_bytes"):
            continue
        files, sent = files_of(ports[port["name"]]), port["tx_packets"]
        written = await disk.aside(partial(_packets_in, files))
        if written is not None:
            written = min(written, sent)
            found["sent"] -= sent - written
            dropped = found["dropped"]
            dropped["tx_failed"] = dropped.get("tx_failed", 0) + sent - written
        short.append({"port": port["name"], "files": files, "sent": sent, "written": written})
    return short


def _packets_in(files: list[str]) -> int | None:
    """None: one of them is no file that can be read again."""
    try:
        if not all(Path(file).is_file() for file in files):
            return None
        return sum(pcap.count(Path(file)) for file in files)
    except OSError:
        return None


def unread(promised: dict[str, int], counters: Counters) -> list[Unread]:
    """The ports of a job that were not given all packets of their captures."""
    found: list[Unread] = []
    for port in counters["ports"]:
        read = port["rx_packets"] + port["rx_missed"] + port["rx_nombuf"]
        packets = promised.get(port["name"], 0)
        if read < packets:
            found.append({"port": port["name"], "packets": packets, "read": read})
    return found


def complaints(short: list[Unwritten], not_read: list[Unread]) -> list[DpsupError]:
    """What a person is told of both."""
    told = []
    for one in short:
        files = " and ".join(one["files"])
        if one["written"] is None:
            what = f"what was written to {files} is not known: it cannot be read again"
        else:
            has = "has" if len(one["files"]) == 1 else "have"
            what = f"{files} {has} {one['written']} of {plural(one['sent'], 'packet')}"
        told.append(
            DpsupError(
                what,
                code="E0808",
                why=f"port `{one['port']}` sent them, and they did not arrive",
                help="make room on the file system, and run it again",
            )
        )
    told += [
        DpsupError(
            f"port `{one['port']}` read {one['read']} of {plural(one['packets'], 'packet')}",
            code="E0809",
            why="its captures hold more than the driver handed out",
            help="a longer --exit-when-idle, or a file that is not changed meanwhile",
        )
        for one in not_read
    ]
    return told
