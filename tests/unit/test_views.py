# SPDX-License-Identifier: BSD-3-Clause
"""What the looking commands show, of an instance that is well, broken, headless, or starting."""

from __future__ import annotations

import re
import shutil
from typing import Any
from xml.etree import ElementTree

import pytest
from unit import looks

from dpsup.cli.root import cli
from dpsup.errors import DpsupError
from dpsup.instance.rates import picture
from dpsup.text import fold
from dpsup.view import graph, sections
from dpsup.view.columns import Line, plain
from dpsup.view.sections import Screen
from dpsup.view.top import KEYS, Top

PICTURES = {
    "running": picture(looks.edge(3.0), looks.edge(4.0)),
    "first look": picture(None, looks.edge(4.0)),
    "broken": picture(looks.broken(3.0), looks.broken(4.0)),
    "headless": picture(looks.headless(3.0), looks.headless(4.0)),
    "starting": picture(looks.starting(), looks.starting()),
}
VIEWS = {
    **{name: view for name, (view, _) in sections.SECTIONS.items()},
    "status": sections.status,
    "stats": sections.stats,
    "graph": graph.draw,
}


def text(lines: list[Line]) -> str:
    return plain(lines)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_80_columns_and_plain_letters(name: str, view: str) -> None:
    for screen in (Screen(80), Screen(80, ascii_only=True)):
        shown = text(VIEWS[view](PICTURES[name], screen))
        assert all(len(line) <= 80 for line in shown.splitlines()), shown
    assert shown.isascii()


@pytest.mark.parametrize("section", ["workers", "ports", "lanes"])
def test_more_room_shows_more(section: str) -> None:
    view, made = VIEWS[section], PICTURES["running"]
    heads = [text(view(made, Screen(width))).splitlines()[0].split("  ") for width in (80, 250)]
    narrow, wide = ({word.strip() for word in head if word.strip()} for head in heads)
    assert narrow < wide
    assert text(view(made, Screen(None))) == text(view(made, Screen(500)))


def test_workers_show_what_operators_ask_for() -> None:
    head, first, *_ = text(sections.workers(PICTURES["running"], Screen(None))).splitlines()
    for word in ("BUSY", "PPS", "CYC/PKT", "BATCH", "FILL", "DROPPED", "RESTARTS", "SINCE"):
        assert word in head
    for value in ("fw/0", "1.00k", "200", "40.0", "5%", "lane_full 2000", "1m04s"):
        assert value in first


def commands(hint: str) -> list[str]:
    """Of a hint, the commands that it says to type, without `dpsup -n NAME`."""
    found = re.findall(r"`dpsup (?:-n (\S+) )?([^`]+)`", hint)
    assert found, f"no command in: {hint}"
    return [command for _, command in found]


def test_every_hint_names_commands_that_exist() -> None:
    seen = set()
    for made in (*PICTURES.values(), _overloaded(3)):
        for hint in sections.hints(made):
            for command in commands(hint):
                words = command.split()
                assert words[0] in cli.commands, hint
                context = cli.commands[words[0]].make_context(words[0], words[1:], obj={})
                assert context is not None
                seen.add(words[0])
    assert {"scale", "reset-failed", "restart", "logs", "kill", "audit", "quarantine"} <= seen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("running", "fw/0"),
        ("headless", "no supervisor"),
        ("starting", "no primary yet"),
        ("broken", "fw/0 is held after SIGSEGV (5 deaths in 60 s)"),
        ("broken", "nat/0 is in backoff after SIGSEGV"),
        ("broken", "fw/1 is stopped"),
        ("broken", "port lan has no link"),
        ("broken", "port wan misses 1.00k packets per second"),
        ("broken", "mempool default ran empty (7 allocation failures)"),
        ("broken", "2 packets are in quarantine"),
        ("broken", "no spare of fw is forked (plugin refused)"),
        ("broken", "live tables cannot be changed, the builder refused: no space"),
        ("broken", "12 packets wait for fw"),
        ("broken", "port dmz is absent: interface eth7 is gone; it is used again"),
    ],
)
def test_what_is_wrong_is_said(name: str, words: str) -> None:
    if name == "running":
        made = _overloaded(max_=3)
        assert any("does not keep up" in h and "scale fw +1" in h for h in sections.hints(made))
        return
    assert any(words in hint for hint in sections.hints(PICTURES[name])), sections.hints(
        PICTURES[name]
    )
    assert words in text(sections.status(PICTURES[name], Screen(None)))


def _overloaded(max_: int) -> dict[str, Any]:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    for w in made["workers"]:
        w["busy"] = 0.99
    made["workers"][0]["fill"] = 1.0
    made["groups"][0]["max"] = max_
    return made


def test_a_group_whose_packets_go_to_one_worker() -> None:
    """A tunnel's, perhaps: no move of buckets spreads them, and `advise` says what does."""

    def said(
        pps: list[float], busy: float = 0.9, lost: int = 0, state: str = "running"
    ) -> list[str]:
        made = picture(looks.edge(3.0), looks.edge(4.0))
        mine = [w for w in made["workers"] if w["group"] == "fw"]
        for w in mine:
            w |= {"pps": 0.0, "busy": 0.1, "state": state, "drops_new": {}}
        for w, rate in zip(mine, pps, strict=False):
            w["pps"] = rate
        mine[0] |= {"busy": busy, "drops_new": {"lane_full": lost} if lost else {}}
        return [h for h in sections.hints(made) if "even share" in h]

    (hint,) = said([900.0, 50.0])
    assert hint.startswith("fw/0 gets 95% of the packets of fw, an even share is 50%: ")
    assert commands(hint) == ["advise"]
    assert said([900.0, 50.0], busy=0.2, lost=5)
    assert not said([900.0, 50.0], busy=0.2), "one flow, which nobody has to spread"
    assert not said([700.0, 300.0])
    assert not said([0.0, 0.0])
    assert not said([900.0, 50.0], state="held")


def test_only_full_lanes_say_that_a_worker_does_not_keep_up() -> None:
    """Not what its plugin drops by policy, nor what dpsup drops for its verdicts."""
    for reason in ("runt", "bad_verdict", "quarantine"):
        made = _overloaded(3)
        made["workers"][0]["drops_new"] = {reason: 500}
        assert not any("keep up" in hint for hint in sections.hints(made)), reason
    both = _overloaded(3)
    both["workers"][0]["drops_new"] = {"runt": 400, "lane_full": 100}
    (hint,) = (h for h in sections.hints(both) if "keep up" in h)
    assert "does not keep up, 100 packets per second find the lanes full" in hint


def test_frames_that_an_offload_joined_are_said() -> None:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    made["ports"][0]["drops_new"] = {"oversize": 4}
    (hint,) = (h for h in sections.hints(made) if "oversize" in h)
    assert "`dpsup doctor /etc/dpsup/edge.toml`" in hint and "gro" in hint


def test_bad_verdicts_are_said() -> None:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    made["workers"][1]["drops_new"] = {"bad_verdict": 9}
    (hint,) = (h for h in sections.hints(made) if "bad_verdict" in h)
    assert hint.startswith("fw/1 returns verdicts") and "events --type verdict" in hint


@pytest.mark.parametrize("how", ["ready", "held", "starved", "none"])
def test_packets_that_wait_are_a_problem_only_where_a_worker_is_missing(how: str) -> None:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    made["groups"][0]["held"] = 513
    if how == "held":
        made["groups"][0]["ready"] = 1
    elif how == "starved":
        made["workers"][1]["health"] = "starved"
    elif how == "none":
        made["groups"][0] |= {"desired": 0, "ready": 0}
    said = any("513 packets wait for fw" in hint for hint in sections.hints(made))
    assert said == (how != "ready")


def test_advice_on_overload_goes_by_what_can_be_done() -> None:
    assert any("scale fw +1" in hint for hint in sections.hints(_overloaded(3)))
    assert any("raise max of fw" in hint for hint in sections.hints(_overloaded(2)))
    idle = _overloaded(3)
    idle["workers"][1]["busy"] = 0.01
    assert any("rebalance fw" in hint for hint in sections.hints(idle))


def test_who_does_not_run_is_not_said_to_be_slow_or_idle() -> None:
    held = _overloaded(3)
    held["workers"][0]["state"] = "held"
    assert not any("keep up" in hint for hint in sections.hints(held))
    stopped = _overloaded(3)
    stopped["workers"][1] |= {"busy": 0.0, "health": "stopped"}
    assert any("keep up" in h and "scale fw +1" in h for h in sections.hints(stopped))


def test_a_worker_that_has_time_is_not_helped_by_more_of_them() -> None:
    shared = _overloaded(3)
    shared["workers"][0]["busy"] = 0.2
    (core,) = (c for c in shared["cores"] if c["core"] == shared["workers"][0]["core"])
    core["load"] = 1.0
    assert any(
        "rest of their CPU: `dpsup -n edge cores`" in hint for hint in sections.hints(shared)
    )
    shared["io"][0]["busy"] = 1.0
    assert any("the bottleneck is io/0" in hint for hint in sections.hints(shared))


def test_workers_that_are_missing_are_said_once() -> None:
    hints = [h for h in sections.hints(PICTURES["broken"]) if "fw/0" in h or "fw has" in h]
    assert len(hints) == 1, hints
    nobody = picture(looks.edge(3.0), looks.edge(4.0))
    nobody["state"] = "degraded"
    nobody["groups"][0]["ready"] = 1
    assert any("fw has 1 of 2 workers ready" in h for h in sections.hints(nobody))


def test_a_port_that_is_absent_has_a_row() -> None:
    (row,) = (
        x for x in text(sections.ports(PICTURES["broken"], Screen(80))).splitlines() if "dmz" in x
    )
    assert row.split()[1] == "absent"


@pytest.mark.parametrize("width", [40, 80])
def test_prose_is_folded_at_the_terminal_and_a_file_is_not(width: int) -> None:
    source = "  12 | " + "x = 1  # " * 20
    why = "  why:  " + "what a user reads to the end " * 5
    event = "05:42:28.095 advice fw " + "59% of its packets find the lane full " * 3
    folded = fold(f"error[E0101]: {'word ' * 40}\n{source}\n{why}", width).split("\n")
    assert source in folded
    assert all(len(line) <= width for line in folded if line != source)
    first = next(i for i, line in enumerate(folded) if line.startswith("  why:"))
    assert all(line.startswith(" " * 8) for line in folded[first + 1 :])
    assert " ".join(" ".join(folded[first:]).split()) == " ".join(why.split())
    below = fold(event, width, 13).split("\n")[1:]
    assert below
    assert all(line.startswith(" " * 13) for line in below)


def test_nothing_is_said_where_all_is_well() -> None:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    for p in made["ports"]:
        p["drops_new"] = {}
    made["mempools"][0]["alloc_failures"] = 0
    assert sections.hints(made) == []


def test_json_of_a_section_is_raw() -> None:
    doc = sections.document(PICTURES["running"], "workers", "fw/1")
    assert (doc["kind"], doc["apiVersion"], doc["name"]) == ("Workers", "dpsup/v1", "edge")
    assert [w["id"] for w in doc["workers"]] == ["fw/1"]
    assert doc["workers"][0]["pps"] == pytest.approx(2000)


# --- graph ----------------------------------------------------------------------------------------


def test_the_graph_follows_the_packets_and_marks_drops() -> None:
    lines = graph.draw(PICTURES["running"], Screen(80))
    shown = text(lines)
    assert shown.index("group fw") < shown.index("group nat")
    assert "chain up: wan ─▶ fw ─▶ nat ─▶ lan" in shown
    red = [part for line in lines for part, style in line if style == "bad"]
    assert any("✗ 500/s" in part for part in red)
    assert any("✗ 30/s" in part for part in red)
    row = next(line for line in shown.splitlines() if line.startswith("wan"))
    assert re.match(r"wan 4.00k +─┬─▶ io/0 50% +─┬─▶ fw/0 1.00k <1% ✗ 500/s +─┬─▶ nat", row)


@pytest.mark.parametrize(
    ("left", "right", "shape"),
    [
        (1, 1, ["───▶"]),
        (2, 1, ["─┬─▶", "─┘  "]),
        (1, 2, ["─┬─▶", " └─▶"]),
        (2, 2, ["─┬─▶", "─┴─▶"]),
        (3, 2, ["─┬─▶", "─┼─▶", "─┘  "]),
        (1, 3, ["─┬─▶", " ├─▶", " └─▶"]),
    ],
)
def test_trunks_join_what_they_should(left: int, right: int, shape: list[str]) -> None:
    assert graph._trunk(left, right, max(left, right), graph._LINES) == shape


def test_dot_has_rates_and_red_drops() -> None:
    pytest.importorskip("graphviz")
    from dpsup.view import dot

    source = dot.dot(PICTURES["running"])
    edge = next(n for n in source.splitlines() if '"io 0" -> "worker fw/0"' in n)
    assert "drops 250/s" in edge
    assert dot._RED in edge
    assert "style=dashed" in dot.dot(PICTURES["broken"])


@pytest.mark.skipif(shutil.which("dot") is None, reason="dot is in Debian's package graphviz")
@pytest.mark.parametrize("name", PICTURES)
def test_svg_is_a_picture_of_it(name: str) -> None:
    pytest.importorskip("graphviz")
    from dpsup.view import dot

    root = ElementTree.fromstring(dot.svg(PICTURES[name]))
    shown = " ".join(root.itertext())
    for words in ("fw/0", "nat/0", "fw (./fw.so)"):
        assert words in shown
    assert ("drops 250/s" in shown) == (name in ("running", "headless", "broken"))


def test_without_dot_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("graphviz")
    from dpsup.view import dot

    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DpsupError) as caught:
        dot.svg(PICTURES["running"])
    assert "apt-get install graphviz" in caught.value.help


# --- top ------------------------------------------------------------------------------------------


def top(name: str = "running") -> Top:
    made = Top()
    made.see(PICTURES[name])
    return made


@pytest.mark.parametrize("name", PICTURES)
def test_top_fits_24_lines_and_keeps_its_keys(name: str) -> None:
    for height in (10, 24):
        lines = top(name).lines(Screen(80), height, 0.0)
        assert len(lines) <= height
        assert all(len(line) <= 80 for line in text(lines).splitlines())
        if height == 24:
            *_, sort, keys = text(lines).splitlines()
            assert keys == KEYS
            assert sort == "sort by p pps, b busy, c cycles, d drops, n name; now by name"


def test_top_sorts_chooses_and_acts() -> None:
    screen = top()
    assert screen.chosen == "fw/0"
    screen.key("p")  # by packets: nat/0 has the most
    lines = text(screen.lines(Screen(80), 24, 0)).splitlines()
    shown = [line.split()[0] for line in lines if "/" in line[:6]]
    assert shown == ["nat/0", "fw/1", "fw/0"]
    screen.key("up")
    assert screen.chosen == "fw/1"
    assert screen.key("k") is None
    assert "SIGKILL to fw/1" in text(screen.lines(Screen(80), 24, 0))
    assert screen.key("y") == ("kill", "fw/1")
    screen.key("k")
    assert screen.key("n") is None  # and no sorting either
    assert (screen.prompt, screen.sort) == ("", "p")
    screen.key("s")
    for key in "+x1":
        assert screen.key(key) is None
    assert screen.key("\r") == ("scale", "fw", "+1")
    screen.key("r")
    assert screen.key("y") == ("drain", "fw/1")
    screen.key("s")
    screen.key("esc")
    assert screen.prompt == ""
    screen.key("q")
    assert screen.is_over


def test_top_survives_the_end_of_the_instance() -> None:
    screen = top()
    screen.key("k")
    screen.lose("edge has ended; waiting for its next start")
    shown = text(screen.lines(Screen(80), 24, 0))
    assert "edge has ended" in shown
    assert "fw/0" in shown  # as it was seen last
    assert screen.key("y") is None  # nobody is there to be killed
    screen.see(PICTURES["running"])
    assert "ended" not in text(screen.lines(Screen(80), 24, 0))


def test_the_chosen_worker_stays_in_sight() -> None:
    made = picture(looks.edge(3.0), looks.edge(4.0))
    one = made["workers"][0]
    made["workers"] = [{**one, "id": f"fw/{i}"} for i in range(60)]
    screen = Top()
    screen.see(made)
    for _ in range(45):
        screen.key("down")
    assert "fw/45 " in text(screen.lines(Screen(80), 24, 0))


def test_a_full_ring_of_the_kernel_is_made_longer_in_the_vdev() -> None:
    made = PICTURES["broken"]
    (hint,) = (h for h in sections.hints(made) if "misses" in h)
    assert hint.endswith("more cores in [[io]] or descriptors.rx")
    of_kernel = [{**made["port_info"][0], "driver": "net_af_packet"}]
    (hint,) = (h for h in sections.hints({**made, "port_info": of_kernel}) if "misses" in h)
    assert hint.endswith("more cores in [[io]] or framecnt in its vdev")


def test_what_a_rule_drops_is_not_shown_as_trouble() -> None:
    def styles(policy: int) -> list[str]:
        before, after = looks.edge(3.0), looks.edge(4.0)
        for look, drops in ((before, 0), (after, 900)):
            slot = look["counters"]["slots"][1]
            slot |= {"dropped": {"rule": drops}, "dropped_policy": drops * policy}
            worker = look["status"]["groups"][0]["workers"][1]
            worker |= {"dropped": {"rule": drops}, "dropped_policy": drops * policy}
        (line,) = [
            line
            for line in sections.status(picture(before, after), Screen(120))
            if "fw/1" in plain([line])
        ]
        return [style for cell, style in line if cell.strip() == "900"]

    assert "bad" in styles(0) and "bad" not in styles(1)
