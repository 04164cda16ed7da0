# SPDX-License-Identifier: BSD-3-Clause
"""The results of `dpsup perf`: histograms, their percentiles, and the slowest bursts. Pure.

A histogram has eight classes to each power of two (shim/dpsup.h: dps_class), so that a percentile,
given as the highest value of its class, is less than an eighth above the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpsup.instance.status import API
from dpsup.packets.decode import one_line

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.inspect import PerfRead

HEADS_SHOWN = 3  # of a burst, in text
_BAR = 24
_PERCENTILES = (50, 90, 99)


def lowest(index: int) -> int:
    """The lowest value of a class."""
    return index if index < 8 else (8 + index % 8) << (index // 8 - 1)


def highest(index: int) -> int:
    return lowest(index + 1) - 1


def _of_values(counts: dict[int, int]) -> dict[str, int | None]:
    """Percentiles of values; `counts` is the number of times of each."""
    total = sum(counts.values())
    found: dict[str, int | None] = {}
    for p in _PERCENTILES:
        seen, found[f"p{p}"] = 0, None
        for value in sorted(counts):
            seen += counts[value]
            if seen * 100 >= p * total:
                found[f"p{p}"] = value
                break
    return {**found, "max": max(counts, default=None)}


def percentiles(counts: Sequence[int], most: int) -> dict[str, int | None]:
    """The percentiles of a histogram by class; `most` is the highest value measured."""
    by_value = {highest(i): n for i, n in enumerate(counts) if n}
    found = _of_values(by_value)
    return {k: None if v is None else min(v, most) for k, v in found.items()} | {
        "max": most if by_value else None
    }


def _by_class(counts: Sequence[int]) -> list[dict[str, int]]:
    return [
        {"from": lowest(i), "to": highest(i), "count": n} for i, n in enumerate(counts) if n
    ]  # fmt: skip


def _scaled(values: dict[str, int | None], hz: int) -> dict[str, float | None]:
    """Cycles as nanoseconds."""
    return {k: None if v is None else round(v * 1e9 / hz) for k, v in values.items()}


def document(worker: str, seconds: float, hz: int, raw: PerfRead) -> dict[str, Any]:
    """The Perf document from the primary's answer: TSC cycles, and nanoseconds."""
    batch = {n: count for n, count in enumerate(raw["batch"], 1) if count}
    delay = percentiles(raw["delay"], raw["delay_most"])
    return {
        "apiVersion": API,
        "kind": "Perf",
        "worker": worker,
        "seconds": round(seconds, 3),
        "tsc_hz": hz,
        "packets": raw["packets"],
        "bursts": raw["bursts"],
        "cycles_per_packet": {
            **percentiles(raw["cycles"], raw["cycles_most"]),
            "histogram": _by_class(raw["cycles"]),
        },
        "batch": {
            **_of_values(batch),
            "histogram": [{"packets": n, "count": count} for n, count in batch.items()],
        },
        "lane_delay": {
            "packets": raw["delay_packets"],
            **delay,
            **{f"{k}_ns": v for k, v in _scaled(delay, hz).items()},
            "histogram": _by_class(raw["delay"]),
        },
        "slowest": [
            {
                "cycles": one["cycles"],
                "ns": round(one["cycles"] * 1e9 / hz),
                "io": f"io/{one['lane']}",
                "packets": [
                    {**p, "decoded": one_line(bytes.fromhex(p["head"]))} for p in one["packets"]
                ],
            }
            for one in sorted(raw["slow"], key=lambda s: -s["cycles"])
        ],
    }


# --- text -----------------------------------------------------------------------------------------


def duration(ns: float | None) -> str:
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g}{unit}"
    return f"{ns:.0f}ns"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _percent(share: float) -> str:
    """A small share is not shown as zero."""
    return f"{share:.1%}" if share >= 0.0005 or not share else "<0.1%"


def _bars(title: str, rows: list[tuple[str, int]]) -> list[str]:
    total, most = sum(n for _, n in rows), max((n for _, n in rows), default=0)
    if not total:
        return []
    width = max(len(label) for label, _ in rows)
    lines = ["", title]
    for label, n in rows:
        bar = "#" * max(n > 0, round(_BAR * n / most))
        lines.append(f"  {label:>{width}}  {bar:{_BAR}} {_percent(n / total):>6}")
    return lines


def _powers(histogram: list[dict[str, int]], hz: int | None) -> list[tuple[str, int]]:
    """By powers of two, as cycles or, with `hz`, as times."""
    powers: dict[int, int] = {}
    for one in histogram:
        power = one["from"].bit_length()
        powers[power] = powers.get(power, 0) + one["count"]
    rows = []
    for power in range(min(powers, default=0), max(powers, default=-1) + 1):
        top = (1 << power) - 1
        label = f"to {duration(top * 1e9 / hz)}" if hz else f"to {top}"
        rows.append((label, powers.get(power, 0)))
    return rows


def _sizes(histogram: list[dict[str, int]]) -> list[tuple[str, int]]:
    powers: dict[int, int] = {}
    for one in histogram:
        power = (one["packets"] - 1).bit_length()
        powers[power] = powers.get(power, 0) + one["count"]
    return [(f"to {1 << p}", powers[p]) for p in sorted(powers)]


def lines(doc: dict[str, Any]) -> list[str]:
    """The document as text."""
    cycles, batch, delay = doc["cycles_per_packet"], doc["batch"], doc["lane_delay"]
    packets = f"{doc['packets']} packets in {doc['bursts']} bursts"
    out = [f"{doc['worker']}: {packets}, {doc['seconds']:g} s", ""]
    if not doc["packets"]:
        return [out[0], "nothing was measured: this worker got no packet"]
    keys = ("p50", "p90", "p99", "max")
    out.append(f"{'':18}" + "".join(f"{k:>10}" for k in keys))
    out.append(f"{'cycles per packet':18}" + "".join(f"{_number(cycles[k]):>10}" for k in keys))
    out.append(f"{'packets per burst':18}" + "".join(f"{_number(batch[k]):>10}" for k in keys))
    out.append(f"{'lane delay':18}" + "".join(f"{duration(delay[f'{k}_ns']):>10}" for k in keys))
    out += _bars("cycles per packet", _powers(cycles["histogram"], None))
    out += _bars("packets per burst", _sizes(batch["histogram"]))
    out += _bars("lane delay", _powers(delay["histogram"], doc["tsc_hz"]))
    out += ["", "slowest bursts"]
    for one in doc["slowest"]:
        n = len(one["packets"])
        out.append(f"  {one['cycles']} cycles ({duration(one['ns'])}), {n} packets of {one['io']}")
        # One packet of each kind: most bursts have few flows.
        kinds = {p["decoded"]: p for p in reversed(one["packets"])}
        shown = sorted(kinds.values(), key=one["packets"].index)[:HEADS_SHOWN]
        for packet in shown:
            out.append(f"    {packet['len']:5} {packet['decoded']}")
            out.append(f"          {packet['head'][:64]}")
        if n > len(shown):
            out.append(f"    and {n - len(shown)} more: -o json shows all")
    return out
