# SPDX-License-Identifier: BSD-3-Clause
"""A report as JSON keeps it, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dpsup.bench.model import Conditions, Figure, Report, Run
from dpsup.bench.rows import rows
from dpsup.bench.stats import summaries
from dpsup.errors import DpsupError

if TYPE_CHECKING:
    from dpsup.documents.bench import Bench

API = "dpsup/v1"


def to_document(report: Report) -> Bench:
    """The report as JSON keeps it, with what follows from it."""
    return {
        "apiVersion": API,
        "kind": "Bench",
        "host": report.host,
        "asked": report.asked,
        "notes": report.notes,
        "figures": [
            {
                "name": f.name,
                "unit": f.unit,
                "better": f.better,
                "one_core": f.one_core,
                "summaries": [asdict(s) for s in summaries(f)],
                "runs": [
                    {
                        **asdict(r),
                        "regime": r.conditions.regime,
                        "noise": r.conditions.noise,
                    }
                    for r in f.runs
                ],
            }
            for f in report.figures.values()
        ],
        "rows": [asdict(r) for r in rows(report.figures)],
    }


def from_document(doc: Any, where: str) -> Report:
    """A report that `--save` or `-o json` wrote. Raises: DpsupError that names `where`."""
    try:
        if doc["kind"] != "Bench" or doc["apiVersion"] != API:
            raise KeyError("kind")
        report = Report(dict(doc["host"]), dict(doc["asked"]), notes=list(doc["notes"]))
        for f in doc["figures"]:
            runs = [
                Run(
                    float(r["value"]),
                    Conditions(
                        **{
                            **r["conditions"],
                            "distance_ns": tuple(r["conditions"]["distance_ns"]),
                        }
                    ),
                    tuple(r["samples"]),
                    dict(r["detail"]),
                )
                for r in f["runs"]
            ]
            report.figures[f["name"]] = Figure(
                f["name"], f["unit"], f["better"], f["one_core"], runs
            )
    except (KeyError, TypeError, ValueError) as e:
        raise DpsupError(
            f"{where} is no document of `dpsup bench` ({e!r})",
            help="`dpsup bench --save FILE` writes one",
        ) from None
    return report
