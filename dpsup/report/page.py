# SPDX-License-Identifier: BSD-3-Clause
"""From what was gathered to the page. Pure: each section shows its part of the document, or says
why there is nothing to show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

from dpsup.advise.report import nothing
from dpsup.documents.events import Event
from dpsup.report import charts
from dpsup.report.html import Html, cell, join, table, tag, trusted
from dpsup.report.style import STYLE
from dpsup.text import plural
from dpsup.view.columns import ago, counts, percent, si
from dpsup.view.hints import FULL, hints
from dpsup.view.sections import BUSY, account

if TYPE_CHECKING:
    from dpsup.documents.advice import Advice
    from dpsup.documents.bench import Bench
    from dpsup.documents.chaos import Chaos
    from dpsup.documents.plan import Plan
    from dpsup.documents.printed import Doctor
    from dpsup.documents.rates import Picture


class Told(Event):
    """An event, its time on the wall clock, and the rest of its line."""

    clock: str
    text: str


class Gathered(TypedDict):
    """What a page shows. None: not known; `why` says the reason if `picture` is None."""

    name: str
    state: str
    version: str
    made: str
    host: str
    why: str
    picture: Picture | None
    advice: Advice | None
    series: dict[str, list[tuple[float, float]]]
    plan: Plan | None
    svg: str
    drawing: str
    no_svg: str
    events: list[Told]
    doctor: Doctor | None
    chaos: Chaos | None
    bench: Bench | None


# The page loads no script and no other file, even if an error in the escaping lets one through.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STATES = {"running": "good", "degraded": "warn", "headless": "warn", "starting": "warn"}
_LEVELS = {"error": "bad", "warn": "warn", "info": "", "ok": "good", "skip": ""}
_EVENT_STYLES = {
    **dict.fromkeys(("death", "held", "failed", "error", "corrupt"), "bad"),
    **dict.fromkeys(("warning", "health", "lent", "quarantine"), "warn"),
}
_PHASES = (("Repaired", "repaired_ns"), ("Claimed", "claimed_ns"),
           ("Seated", "seated_ns"), ("First", "first_ns"))  # fmt: skip


def _nothing(words: str) -> Html:
    return tag("p", words, class_="dim")


def _style(is_bad: object, style: str = "bad") -> str:
    return style if is_bad else ""


# --- sections -------------------------------------------------------------------------------------


def _summary(doc: Gathered) -> Html:
    picture = doc["picture"]
    if picture is None:
        return _nothing(doc["why"])
    ports, workers = picture["ports"], picture["workers"]

    def rate(found: Iterable[float | None]) -> float:
        return sum(one or 0.0 for one in found)

    drops = rate(p["drop_pps"] for p in ports) + rate(w["drop_pps"] for w in workers)
    drops += rate(p["missed_pps"] for p in ports)
    recovery = picture["recovery"]
    cards: list[tuple[str, object, str]] = [
        ("received", f"{si(rate(p['rx_pps'] for p in ports))} pps", ""),
        ("sent", f"{si(rate(p['tx_pps'] for p in ports))} pps", ""),
        ("dropped or missed", f"{si(drops)}/s", _style(drops)),
        ("in flight", si(picture["in_flight"]), ""),
        ("workers ready", f"{sum(g['ready'] for g in picture['groups'])} of "
         f"{sum(g['desired'] for g in picture['groups'])}",
         _style(any(g["ready"] < g["desired"] for g in picture["groups"]), "warn")),
        ("deaths", recovery["deaths"], _style(recovery["deaths"], "warn")),
        ("lost", recovery["lost"], _style(recovery["lost"])),
        ("last failover", "-" if recovery["last_failover_us"] is None
         else f"{si(recovery['last_failover_us'])} us", ""),
    ]  # fmt: skip
    cards += [
        (f"mbufs of {pool['name']}", percent(pool["used"]), _style(pool["used"] >= FULL, "warn"))
        for pool in picture["mempools"]
    ]
    made = [
        tag("div", tag("b", value), words, class_=f"card {style}".strip())
        for words, value, style in cards
    ]
    said = [tag("p", tag("b", "Hint: "), hint) for hint in hints(picture)]
    return join([tag("div", *made, class_="cards"), *said])


def drawing_of(svg: str) -> Html:
    """graphviz's picture without what belongs to a file of its own. It escapes its labels."""
    inner = svg[svg.index("<svg") :]
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    return tag("div", trusted(inner), class_="picture scroll")


def _topology(doc: Gathered) -> Html:
    made: list[object] = []
    if doc["svg"]:
        made.append(drawing_of(doc["svg"]))
    elif doc["drawing"]:
        made += [tag("pre", doc["drawing"]), _nothing(doc["no_svg"])]
    plan = doc["plan"]
    if not plan:
        return join(made or [_nothing("Nothing is known of its topology.")])
    ports = [p["name"] for p in plan["ports"]]
    if not made:
        made.append(_nothing("As it was planned; no primary was there to be asked."))
    groups = [
        [g["name"], g["plugin"], g["count"], g["max"], g["spares"], g["ring"], g["on_full"],
         ", ".join(p["name"] for p in plan["ports"]
                   if 0 <= p["group"] < len(plan["groups"])
                   and plan["groups"][p["group"]]["name"] == g["name"]) or "-"]
        for g in plan["groups"]
    ]  # fmt: skip
    heads = ("Group", "Plugin", "Workers", "Max", "Spares", "Ring", "When full", "Fed by")
    made.append(table(heads, groups, "llrrrrll"))
    said = f"ports {', '.join(ports)}; {plural(len(plan['io']), 'io core')}"
    words = f"File {plan['topology_file']}; {said}; generation {plan['generation']}."
    made.append(tag("p", words))
    return join(made)


def _rates(doc: Gathered) -> Html:
    picture = doc["picture"]
    if picture is None or picture["window_s"] is None:
        return _nothing("No rates: they need a running primary, looked at twice.")
    made: list[object] = []
    heads: tuple[str, ...]
    rows: list[list[object]]
    chart = charts.lines({k: v for k, v in doc["series"].items() if v}, "packets/s")
    if chart is not None:
        made.append(chart)
    made.append(tag("h3", "Ports"))
    rows = [
        [p["name"], "up" if p["link_up"] else cell("down", "bad"), si(p["rx_pps"]), si(p["tx_pps"]),
         si(p["rx_bps"]), cell(si(p["rx_missed"]), _style(p["missed_pps"]), is_left=False),
         cell(sum(p["dropped"].values()) + p["tx_dropped"], _style(p["drop_pps"]), is_left=False),
         counts({**p["dropped"], "tx_full": p["tx_dropped"]})]
        for p in picture["ports"]
    ]  # fmt: skip
    heads = ("Port", "Link", "rx pps", "tx pps", "rx bit/s", "Missed", "Dropped", "Why")
    made.append(table(heads, rows, "llrrrrrl"))
    made.append(tag("h3", "Workers"))
    rows = [
        [w["id"], cell(w["state"], _STATES.get(w["state"], "bad")), w["core"],
         cell(percent(w["busy"]), _style((w["busy"] or 0) >= BUSY, "warn"), is_left=False),
         si(w["pps"]), si(w["cycles_per_packet"]), si(w["batch"]),
         cell(percent(w["fill"]), _style((w["fill"] or 0) >= FULL, "warn"), is_left=False),
         cell(si(w["drops"]), _style(w["drop_pps"]), is_left=False), w["restarts"],
         ago(w["since_s"]), w["last_exit"]["how"] if w["last_exit"] else "-"]
        for w in picture["workers"]
    ]  # fmt: skip
    heads = ("Worker", "State", "CPU", "Busy", "pps", "Cycles", "Batch", "Lane", "Drops",
             "Restarts", "Since", "Last exit")  # fmt: skip
    made.append(table(heads, rows, "llrrrrrrrrrl"))
    made.append(tag("h3", "Mempools"))
    rows = [
        [p["name"], p["size"], p["in_use"], percent(p["used"]),
         cell(p["low_water"], _style(p["low_water"] == 0), is_left=False),
         cell(p["alloc_failures"], _style(p["alloc_failures"]), is_left=False)]
        for p in picture["mempools"]
    ]  # fmt: skip
    heads = ("Mempool", "mbufs", "In use", "Used", "Fewest free", "Failures")
    made.append(table(heads, rows, "lrrrrr"))
    if picture["account"]:
        made.append(tag("p", f"Since its start: {account(picture['account'])}."))
    return join(made)


def _histograms(doc: Gathered) -> Html:
    picture = doc["picture"]
    made: list[object] = []
    found = picture["recovery"]["histograms"] if picture else {}
    words = {
        "failover": "From noticing a death to the successor's first packet",
        "takeover": "From noticing a death to the spare in its seat",
        "repair": "From noticing a death to the lanes' repair",
    }
    for name, one in found.items():
        chart = charts.histogram(name, one)
        if chart is not None:
            mean = one["sum"] / one["count"] * 1e6
            made.append(tag("h3", f"{words.get(name, name)}: {one['count']}, mean {mean:.0f} us"))
            made.append(chart)
    stages = charts.stages(
        [(io["id"], {k: v or 0.0 for k, v in io["stage_cycles_per_packet"].items()})
         for io in (picture["io"] if picture else [])],
        "cycles a packet",
    )  # fmt: skip
    if stages is not None:
        made += [tag("h3", "Where io cores' cycles go, a packet"), stages]
    return join(made or [_nothing("No death was counted yet, and no packet timed.")])


def _advice(doc: Gathered) -> Html:
    found = doc["advice"]
    if found is None or found["measured"] is None:
        return _nothing("No advice: it needs a running primary, looked at twice.")
    made: list[object] = []
    top = found["bottleneck"]
    if top is not None:
        made.append(tag("p", f"{top['who']} has least time left: {percent(top['busy'])} busy."))
    for piece in found["advice"]:
        parts: list[object] = []
        said = [("seen", piece["seen"]), ("why", piece["why"])]
        said += [("change", tag("code", c["text"])) for c in piece["changes"]]
        for label, words in [*said, ("then", piece["predicted"]["text"])]:
            parts += [tag("dt", label), tag("dd", words)]
        made.append(tag("div", tag("h3", piece["title"]), tag("dl", *parts),
                        class_=f"advice {piece['level']}"))  # fmt: skip
    if not found["advice"]:
        made.append(_nothing(nothing(found)))
    return join(made)


def _doctor(doc: Gathered) -> Html:
    found = doc["doctor"]
    if found is None:
        return _nothing("The host was not examined.")
    rows = []
    for one in found["checks"]:
        if one["level"] in ("ok", "skip"):
            continue
        what: list[object] = [one["message"]]
        if one["fix"]:
            what += [tag("br"), tag("code", one["fix"][0])]
        if one["manual"]:
            what += [tag("br"), one["manual"]]
        rows.append(
            [one["id"], cell(one["level"], _LEVELS[one["level"]]), one["title"], join(what)]
        )
    count = ", ".join(f"{n} {level}" for level, n in found["summary"].items() if n)
    of = f" for {found['file']}" if found["file"] else ""
    made: list[object] = [tag("p", f"{len(found['checks'])} findings{of}: {count}.")]
    if rows:
        made.append(table(("Check", "Level", "About", "Finding"), rows, "llll"))
    return join(made)


def _deaths(doc: Gathered) -> Html:
    rows = []
    for event in doc["events"]:
        times = event.get("times") or {}
        if event.get("type") != "death":
            continue
        noticed = times.get("noticed_ns", 0)
        row: list[object] = [
            cell(event["clock"], "when"),
            event.get("name", ""),
            event.get("how", ""),
        ]
        for _, key in _PHASES:
            end = times.get(key, 0)
            row.append(f"{(end - noticed) / 1000:.0f}" if noticed and end >= noticed else "-")
        found = event.get("repaired") or {}
        rows.append([*row, found.get("published", "-"), found.get("undone", "-"),
                     found.get("left", "-")])  # fmt: skip
    if not rows:
        return _nothing("No death is on record.")
    heads = ("When", "Worker", "How", *(name for name, _ in _PHASES), "Kept", "Undone", "Left")
    note = _nothing(
        "Microseconds from the moment that the death was noticed until the lanes were repaired, a"
        " spare was claimed, sat in its seat, and took its first packet; packets whose verdict was"
        " kept, that were put back, and that the next one found."
    )
    return join([table(heads, rows, "lllrrrrrrr"), note])


def _events(doc: Gathered) -> Html:
    if not doc["events"]:
        return _nothing("No event is on record.")
    rows = [
        [
            cell(e["clock"], "when"),
            cell(e.get("type", ""), _EVENT_STYLES.get(str(e.get("type")), "")),
            e["text"],
        ]
        for e in reversed(doc["events"])
    ]
    return table(("When", "Type", "What"), rows, "lll")


def _chaos(found: Chaos) -> Html:
    verdict = "All is accounted for. " if found["ok"] else "NOT all is accounted for. "
    made: list[object] = [
        tag("p", tag("b", verdict),
            f"{sum(found['injected'].values())} faults in {found['seconds']:.1f} s: "
            f"{counts(found['injected'])}; {found['deaths']} deaths; "
            f"mbufs leaked {found['audit']['leaked']}."),
        *(tag("p", f"Problem: {p}") for p in found["problems"]),
    ]  # fmt: skip
    traffic = {k: v for k, v in found["traffic"].items() if isinstance(v, int | float)}
    made.append(tag("p", "Packets: " + ", ".join(f"{k.replace('_', ' ')} {v:,}"
                                                 for k, v in traffic.items()
                                                 if not isinstance(v, bool)) + "."))  # fmt: skip
    chart = charts.lines(
        {"throughput": [(t, v) for t, v in found["throughput"]]}, "packets/s",
        [(t, kind) for t, kind in found["faults"]],
    )  # fmt: skip
    if chart is not None:
        made.append(chart)
    rows = [
        [
            kind,
            phase.replace("_", " "),
            p["n"],
            f"{p['p50']:.0f}",
            f"{p['p99']:.0f}",
            f"{p['max']:.0f}",
        ]
        for kind, phases in found["recovery_us"].items()
        for phase, p in phases.items()
    ]
    if rows:
        made.append(table(("Fault", "Phase", "n", "p50 us", "p99 us", "max us"), rows, "llrrrr"))
    return join(made)


def _bench(found: Bench) -> Html:
    host = found["host"]
    rows = []
    for figure in found["figures"]:
        for one in figure["summaries"]:
            rows.append([figure["name"], one["regime"], f"{one['median']:.5g}", f"{one['low']:.5g}",
                         f"{one['high']:.5g}", figure["unit"], one["runs"]])  # fmt: skip
    said = f"{host.get('cpus', '?')} × {host.get('cpu_model', '?')}, {host.get('date', '?')}"
    heads = ("Figure", "Cores", "Median", "Low", "High", "Unit", "Runs")
    return join([tag("p", said), table(heads, rows, "llrrrlr")])


def page(doc: Gathered) -> str:
    """The whole file."""
    sections = [
        ("topology", "Topology", _topology(doc)),
        ("rates", "Rates", _rates(doc)),
        ("histograms", "Histograms", _histograms(doc)),
        ("advice", "Advice", _advice(doc)),
        ("doctor", "Doctor", _doctor(doc)),
        ("deaths", "Deaths", _deaths(doc)),
        ("events", f"Events ({len(doc['events'])})", _events(doc)),
    ]
    if doc["chaos"]:
        sections.append(("chaos", "Chaos", _chaos(doc["chaos"])))
    if doc["bench"]:
        sections.append(("bench", "Bench", _bench(doc["bench"])))
    state = tag("span", doc["state"], class_=f"badge {_STATES.get(doc['state'], 'bad')}")
    picture = doc["picture"]
    up = f", up {ago(picture['up_s'])}" if picture and picture["up_s"] is not None else ""
    over = f", measured over {picture['window_s']:.1f} s" if picture and picture["window_s"] else ""
    links = [tag("a", title, href=f"#{id}") for id, title, _ in sections]
    body = [
        tag("h1", doc["name"], state),
        tag("p", f"dpsup {doc['version']}, {doc['made']} on {doc['host']}{up}{over}", class_="dim"),
        tag("nav", *links),
        _summary(doc),
        *(tag("section", tag("h2", title), made, id=id) for id, title, made in sections),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{doc['name']}: {doc['state']}"),
        tag("style", trusted(STYLE)),
    ]
    whole = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
