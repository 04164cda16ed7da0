# SPDX-License-Identifier: BSD-3-Clause
"""The document of `dpsup try` as text. Pure."""

from __future__ import annotations

from dpsup.documents.trial import Try
from dpsup.text import plural
from dpsup.trial import findings


def lines(doc: Try) -> list[str]:
    out = [f"{doc['plugin'] or doc['file']}: {doc['done']} of {plural(doc['packets'], 'packet')}"]

    def row(name: str, text: str) -> None:
        out.append(f"  {name:12} {text}")

    for port, found in doc["out"].items():
        if found["packets"] or found["copies"]:
            copies = f", copies: {found['copies']}" if found["copies"] else ""
            row(
                "out",
                f"{port}: {plural(found['packets'], 'packet')}, {found['bytes']} bytes{copies}",
            )
    for group, packets in doc["on"].items():
        if packets:
            by_hash = doc["on_hash"][group]
            of = f", by the plugin's own hash: {by_hash}" if by_hash else ""
            row("on", f"{group}: {plural(packets, 'packet')}{of}")
    for reason, packets in doc["dropped"].items():
        row("dropped", f"{reason}: {plural(packets, 'packet')}")
    for name, packets in (
        ("quarantined", doc["quarantined"]),
        ("to kernel", doc["punted"]),
        ("refused", doc["refused"]),
        ("originated", doc["emitted"]),
        ("no blank", doc["no_blank"]),
    ):
        if packets:
            row(name, plural(packets, "packet"))
    if doc["ticks"] or doc["ticks_skipped"]:
        skipped = f", {doc['ticks_skipped']} skipped" if doc["ticks_skipped"] else ""
        row("ticks", f"{doc['ticks']}{skipped}")
    for name, value in doc["counters"].items():
        row("counter", f"{name}: {value}")
    state = doc["state"]
    if state["bytes"]:
        row("state", f"{state['bytes']} bytes, digest {state['digest']}")
    if state["buckets"]:
        row("state", f"{plural(state['buckets'], 'bucket')}, digest {state['bucket_digest']}")
    if doc["done"]:
        row(
            "time",
            f"{doc['ns_per_packet']:.0f} ns, {doc['cycles_per_packet']:.0f} cycles for each packet",
        )
    row("digest", doc["digest"])
    if doc["sweep"] is not None:
        swept = doc["sweep"]["packets"]
        of = "" if swept == doc["packets"] else f", as packet {swept + 1} ends the process"
        row(
            "kill sweep",
            f"{plural(doc['sweep']['points'], 'kill')} at stores of {plural(swept, 'packet')}{of}",
        )
    for one in doc["findings"]:
        out += findings.lines(one)
    count = sum(not one["allowed"] for one in doc["findings"])
    out.append("ok" if not count else plural(count, "finding"))
    return out
