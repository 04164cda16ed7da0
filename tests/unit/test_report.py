# SPDX-License-Identifier: BSD-3-Clause
"""The page of `dpsup report`: whole for every kind of instance, closed against what packets, files
and people put in."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from unit import looks
from unit.test_advise import sound

from dpsup.advise import report as advice
from dpsup.advise.window import Window
from dpsup.instance.rates import picture
from dpsup.report import charts
from dpsup.report.html import Html, escape, table, tag
from dpsup.report.page import drawing_of, page

Doc = dict[str, Any]

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&\x1b[31m"
DEATH = {
    "type": "death", "name": "fw/0", "how": "SIGSEGV", "clock": "22 Nov 10:00:00", "text": "died",
    "times": {"noticed_ns": 1000, "repaired_ns": 6000, "claimed_ns": 7000, "seated_ns": 45000,
              "first_ns": 91000},
    "repaired": {"published": 3, "undone": 1, "left": 90},
}  # fmt: skip
CHAOS = {
    "kind": "Chaos", "ok": True, "problems": [], "injected": {"kill": 3}, "seconds": 2.0,
    "deaths": 3, "audit": {"leaked": 0}, "traffic": {"sent": 1000, "lost": 0, "dropped": {}},
    "throughput": [[0.0, 500.0], [1.0, 400.0], [2.0, 600.0]], "faults": [[0.5, "kill"]],
    "recovery_us": {"kill": {"total": {"n": 3, "p50": 180.0, "p99": 200.0, "max": 210.0}}},
}  # fmt: skip
BENCH = {
    "kind": "Bench", "host": {"cpus": 2, "cpu_model": "x", "date": "today"},
    "figures": [{"name": "path/forward", "unit": "Mpps", "summaries": [
        {"regime": "near", "median": 80.5, "low": 70.0, "high": 90.0, "runs": 5}]}],
}  # fmt: skip
DOCTOR = {
    "file": "edge.toml", "summary": {"ok": 1, "warn": 1},
    "checks": [
        {"id": "D01", "level": "ok", "title": "hugepages", "message": "fine", "fix": [],
         "manual": ""},
        {"id": "D05", "level": "warn", "title": "isolated CPUs", "message": "not isolated",
         "fix": ["isolcpus=1"], "manual": "reboot"},
    ],
}  # fmt: skip


PLAN = copy.deepcopy(looks.PLAN)
for _group in PLAN["groups"]:
    _group |= {"spares": 1, "on_full": "drop"}


def document(**more: Any) -> Doc:
    window = Window([sound(3.0 + i / 10) for i in range(11)])
    made = picture(looks.edge(3.0), looks.edge(4.0))
    return {
        "name": "edge", "state": "running", "version": "0.1.0", "made": "now", "host": "box",
        "picture": made, "advice": advice.document(window), "why": "", "plan": PLAN,
        "series": {"received": [(0.1, 1.0), (0.2, 2.0)], "sent": [], "lost": []},
        "svg": "", "drawing": "wan -> fw", "no_svg": "In letters.", "events": [DEATH],
        "doctor": DOCTOR, "chaos": None, "bench": None, **more,
    }  # fmt: skip


class Checker(HTMLParser):
    """Every element closed in order, and none that loads or runs anything."""

    VOID = ("meta", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(name)
        assert name not in ("script", "iframe", "object", "link", "img", "form", "base")
        for key, value in attributes:
            assert not key.startswith("on")
            assert key not in ("src", "srcset", "action", "formaction"), key
            assert key != "href" or (value or "").startswith("#")
            if key == "id":
                self.ids.append(str(value))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


PAGES = {
    "running": document(),
    "broken": document(state="degraded", picture=picture(looks.broken(3.0), looks.broken(4.0))),
    "headless": document(
        state="headless", picture=picture(looks.headless(3.0), looks.headless(4.0))
    ),
    "first look": document(picture=picture(None, looks.edge(4.0)), series={}),
    "starting": document(picture=picture(looks.starting(), looks.starting()), series={}),
    "stopped": document(state="stopped", picture=None, advice=None, why="It is dead."),
    "no record": document(
        state="stopped", picture=None, advice=None, plan={}, events=[], doctor=None, drawing=""
    ),
    "with chaos and bench": document(chaos=CHAOS, bench=BENCH),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole_and_needs_nothing_else(name: str) -> None:
    text = page(PAGES[name])
    made = Checker(text)
    assert len(made.ids) == len(set(made.ids))
    for target in re.findall(r'href="#(\w+)"', text):
        assert target in made.ids
    assert "Content-Security-Policy" in text
    assert "url(" not in text
    assert "@import" not in text
    assert "None" not in text


def test_it_shows_what_the_instance_is_does_and_went_through() -> None:
    text = page(document(chaos=CHAOS, bench=BENCH))
    assert "svg" in Checker(text).seen
    # A state, a rate, an advice, a finding, a death with its phases, chaos, bench.
    for words in ("running", "6.00k pps", "Nothing to change.", "isolcpus=1", "SIGSEGV",
                  ">5<", ">44<", ">90<", "3 faults", "path/forward", "up to 200 us"):  # fmt: skip
        assert words in text, words
    assert "polyline" in text


def test_what_packets_files_and_people_say_stays_text() -> None:
    doc = json.loads(json.dumps(document(chaos=CHAOS, bench=BENCH)))
    doc["name"] = doc["host"] = doc["made"] = doc["drawing"] = doc["no_svg"] = EVIL
    doc["picture"]["topology_file"] = doc["plan"]["topology_file"] = EVIL
    for port in doc["picture"]["ports"]:
        port |= {"name": EVIL, "dropped": {EVIL: 3}}
    for worker in doc["picture"]["workers"]:
        worker |= {"id": EVIL, "plugin": EVIL, "state": EVIL, "last_exit": {"how": EVIL}}
    for group in doc["plan"]["groups"]:
        group |= {"name": EVIL, "plugin": EVIL, "on_full": EVIL}
    for io in doc["picture"]["io"]:
        io["id"] = EVIL
    for pool in doc["picture"]["mempools"]:
        pool["name"] = EVIL
    doc["advice"]["advice"] = [
        {"title": EVIL, "seen": EVIL, "why": EVIL, "level": EVIL, "changes": [{"text": EVIL}],
         "predicted": {"text": EVIL}}
    ]  # fmt: skip
    doc["events"] = [{**DEATH, "name": EVIL, "how": EVIL, "text": EVIL, "type": "death"},
                     {"type": EVIL, "clock": EVIL, "text": EVIL}]  # fmt: skip
    doc["doctor"]["checks"][1] |= {"message": EVIL, "fix": [EVIL], "manual": EVIL, "title": EVIL}
    doc["chaos"] |= {"problems": [EVIL], "injected": {EVIL: 1}, "faults": [[0.5, EVIL]],
                     "recovery_us": {EVIL: CHAOS["recovery_us"]["kill"]}}  # fmt: skip
    doc["bench"]["figures"][0] |= {"name": EVIL, "unit": EVIL}
    doc["series"] = {EVIL: [[0.0, 1.0], [1.0, 2.0]]}
    text = page(doc)
    Checker(text)
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 30


def test_only_markup_by_name_is_markup() -> None:
    assert escape("<b>") == "&lt;b&gt;"
    assert escape(Html("<b>")) == "<b>"
    assert tag("p", "a<b", title='"') == '<p title="&quot;">a&lt;b</p>'
    assert "<td>&lt;td&gt;" in table(["a"], [["<td>"]], "l")


def test_the_picture_is_only_the_picture() -> None:
    svg = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<!-- made by x -->\n<svg width="1"><g/></svg>\n'
    made = drawing_of(svg)
    assert "DOCTYPE" not in made
    assert "xml" not in made
    assert "<svg" in made


def test_charts_of_nothing_are_left_out() -> None:
    assert charts.lines({"a": []}, "x") is None
    assert charts.lines({"a": [(0.0, 0.0), (0.0, 0.0)]}, "x") is not None
    assert charts.histogram("x", {"bounds": [1.0], "counts": [0], "count": 0, "sum": 0.0}) is None
    assert charts.stages([("io/0", {"rx": 0.0})], "cycles") is None
    whole = charts.histogram("x", {"bounds": [1e-4, 1.0], "counts": [0, 0], "count": 2, "sum": 9.0})
    assert whole is not None
    assert ">more<" in whole


# --- charts as files ------------------------------------------------------------------------------


def test_steps_are_round_and_reach_the_largest_value() -> None:
    assert charts._steps(157.2) == [0, 50, 100, 150, 200]
    assert charts._steps(0) == [0, 1]
    for most in (1e-3, 0.7, 1, 3, 9.99, 10, 99, 12345):
        steps = charts._steps(most)
        assert steps[-1] >= most * (1 - 1e-6)
        assert 2 <= len(steps) <= 7


def test_a_file_is_a_picture_of_its_own() -> None:
    marks = [(1.0, "kill"), (2.0, "stop"), (2.5, "kill")]
    drawn = charts.timeline_file(
        "a <title>", [(0.1, 5.0), (3.0, 9.0)], 3.0, "packets", marks,
        {"kill": "#c00", "stop": "#0c0", "hang": "#00c"},
    )  # fmt: skip
    root = ElementTree.fromstring(drawn)
    words = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <title>", "kill (2)", "stop (1)", "packets", "10"} <= set(words)
    assert not any(word and word.startswith("hang") for word in words)
    bars = charts.bars_file("t", [("one", {"near": (5, 4, 6)})], "Mpps", {"near": "#00c"})
    ElementTree.fromstring(bars)
    assert "5.00" in bars
