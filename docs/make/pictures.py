# SPDX-License-Identifier: BSD-3-Clause
"""The pictures of the explanations, drawn as SVG: `deploy/docs` writes docs/pictures/*.svg.

Colours follow the reader's light or dark setting, text is text, nothing is fetched. A box's kind says
what it is: "io" the primary's io cores, "worker" processes that may die, "spare" those that wait,
"warden" the threads that repair, "data" memory, "dead" what is gone.
Boxes and arrows are a few lines of text each: no library is needed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

from dpsup.supervisor import fsm

PICTURES = Path(__file__).resolve().parents[1] / "pictures"

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1d2733 }
.small { font-size: 11px; fill: #52606d }
.code { font: 12px ui-monospace, monospace }
.ground { fill: #ffffff }
rect.box { stroke: #52606d; stroke-width: 1; fill: #f3f5f7 }
rect.io { fill: #d9e8fb; stroke: #2f6fb3 }
rect.worker { fill: #dcf1e0; stroke: #2c8a4b }
rect.spare { fill: #eef8f0; stroke: #2c8a4b; stroke-dasharray: 5 3 }
rect.warden { fill: #fdeccd; stroke: #b87a14 }
rect.data { fill: #ece8f8; stroke: #6a55b5 }
rect.dead { fill: #fadcdc; stroke: #bb3434; stroke-dasharray: 3 3 }
path.line { stroke: #52606d; stroke-width: 1.4; fill: none }
path.faint { stroke: #9aa5b1; stroke-width: 1; fill: none; stroke-dasharray: 4 4 }
path.bad { stroke: #bb3434; stroke-width: 2; fill: none }
.tip { fill: #52606d }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9ee }
.small { fill: #a7b3bf }
.ground { fill: #14191f }
rect.box { fill: #222a32; stroke: #8b98a5 }
rect.io { fill: #17324f; stroke: #6fa8e0 }
rect.worker { fill: #173a22; stroke: #63b97f }
rect.spare { fill: #14261a; stroke: #63b97f }
rect.warden { fill: #453110; stroke: #dba64a }
rect.data { fill: #2b2447; stroke: #a391e6 }
rect.dead { fill: #481c1c; stroke: #e57373 }
path.line { stroke: #a7b3bf }
path.faint { stroke: #5d6b78 }
path.bad { stroke: #e57373 }
.tip { fill: #a7b3bf }
}"""


class Svg:
    """A picture of some size; `what` describes it for a reader who cannot see it."""

    def __init__(self, width: int, height: int, what: str) -> None:
        self.width, self.height, self.what = width, height, what
        self.parts: list[str] = []

    def text(self, x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, kind: str, *lines: str, code: bool = False
    ) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" class="box {kind}"/>'
        )
        top = y + h / 2 - (len(lines) - 1) * 8 + 4.5
        for i, line in enumerate(lines):
            of = "code" if code else "small" if i else ""
            self.text(x + w / 2, top + 16 * i, line, of, "middle")

    def line(self, *points: tuple[float, float], kind: str = "line", tip: bool = True) -> None:
        """Through points; with a tip at the last one."""
        way = " L".join(f"{x:g} {y:g}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<path d="M{way}" class="{kind}"{end}/>')

    def cross(self, x: float, y: float) -> None:
        self.parts.append(
            f'<path d="M{x - 7:g} {y - 7:g} L{x + 7:g} {y + 7:g} M{x - 7:g} {y + 7:g}'
            f' L{x + 7:g} {y - 7:g}" class="bad"/>'
        )

    def done(self) -> str:
        size = f'width="{self.width}" height="{self.height}"'
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
            f' viewBox="0 0 {self.width} {self.height}" role="img">',
            f"<title>{escape(self.what)}</title>",
            f"<style>\n{STYLE}\n</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
            ' markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>',
            f'<rect class="ground" {size} rx="6"/>',
            *self.parts,
            "</svg>",
            "",
        ])  # fmt: skip


def processes() -> str:
    p = Svg(760, 330, "The processes of an instance and what they share")
    p.box(20, 20, 220, 62, "box", "supervisor", "Python, no EAL: policy, bus")
    p.box(20, 120, 340, 190, "box")
    p.text(32, 140, "primary: owns EAL, mempools, ports, rings")
    p.box(36, 154, 148, 44, "io", "io core 1", "rx, steer, collect, tx")
    p.box(36, 208, 148, 44, "io", "io core 2", "rx, steer, collect, tx")
    p.box(200, 154, 146, 44, "warden", "wardens", "notice, repair, seat")
    p.box(200, 208, 146, 44, "warden", "caretaker", "if no answer comes")
    p.text(36, 284, "NIC queues, one of each port for each io core", "small")
    p.box(330, 20, 150, 62, "box", "seed", "attaches once, forks")
    p.box(410, 120, 120, 190, "data")
    p.text(470, 142, "hugepages", "", "middle")
    p.box(422, 156, 96, 42, "data", "slot fw/0", "its lanes")
    p.box(422, 206, 96, 42, "data", "slot fw/1", "its lanes")
    p.text(470, 276, "packets,", "small", "middle")
    p.text(470, 291, "control block", "small", "middle")
    p.box(590, 120, 150, 52, "worker", "worker fw/0", "a process, a core")
    p.box(590, 188, 150, 52, "worker", "worker fw/1", "a process, a core")
    p.box(590, 256, 150, 52, "spare", "spare", "loaded, asleep")
    p.line((240, 42), (326, 42))
    p.text(283, 34, "orders", "small", "middle")
    p.line((130, 82), (130, 116))
    p.text(138, 104, "starts, asks", "small")
    p.line((480, 50), (660, 50), (660, 116))
    p.text(560, 42, "fork, 3 ms", "small", "middle")
    p.line((360, 177), (418, 177))
    p.line((360, 227), (418, 227))
    p.line((586, 146), (522, 172))
    p.line((586, 214), (522, 226))
    return p.done()


def lane() -> str:
    p = Svg(760, 250, "A lane: one ring of words, descriptors become verdicts in their place")
    kinds = [
        ("", "free"), ("", "free"), ("worker", "verdict"), ("worker", "verdict"),
        ("worker", "verdict"), ("warden", "in hand"), ("io", "descr."), ("io", "descr."),
        ("", "free"), ("", "free"),
    ]  # fmt: skip
    for i, (kind, word) in enumerate(kinds):
        p.box(30 + i * 70, 90, 68, 44, kind, word, f"{i + 10}")
    for x, name, owner in (
        (170, "collected", "the io core's own"),
        (310, "done", "the worker's"),
        (590, "sent", "the io core's"),
    ):
        p.line((x - 1, 60), (x - 1, 86))
        p.text(x - 1, 40, name, "code", "middle")
        p.text(x - 1, 55, owner, "small", "middle")
    p.line((171, 152), (308, 152), kind="line", tip=False)
    p.text(240, 170, "handed back,", "small", "middle")
    p.text(240, 185, "not collected yet", "small", "middle")
    p.line((311, 152), (588, 152), kind="line", tip=False)
    p.text(450, 170, "the worker's: first verdicts of the burst in hand,", "small", "middle")
    p.text(450, 185, "then the packet in hand, then what is still to do", "small", "middle")
    p.text(30, 226, "io core writes descriptors, then `sent`", "small")
    p.text(730, 226, "worker writes verdicts over them, then `done`", "small", "end")
    return p.done()


def commit() -> str:
    p = Svg(760, 300, "The worker's stores for one packet, and what a kill after each means")
    steps = [
        ("save bytes", "undo_bytes"),
        ("stamp", "undo = lane, index"),
        ("plugin", "changes bytes"),
        ("verdict", "word = verdict"),
        ("done", "after the burst"),
    ]
    for i, (what, store) in enumerate(steps):
        kind = "worker" if what == "verdict" else "box"
        p.box(20 + i * 148, 50, 128, 48, kind, what, store)
        if i:
            p.line((20 + i * 148 - 20, 74), (20 + i * 148 - 2, 74))
    p.text(20, 34, "one 8-byte store each that matters; time runs to the right")
    p.line((458, 112), (458, 214), kind="bad", tip=False)
    p.text(458, 130, "", "small")
    p.box(
        20,
        140,
        424,
        64,
        "warden",
        "killed here: the word is still a descriptor",
        "the warden puts saved bytes back if stamped; the next worker runs it",
    )
    p.box(
        472,
        140,
        268,
        64,
        "worker",
        "killed here: the word is a verdict",
        "it counts; the packet is not run again",
    )
    p.text(458, 232, "the commit", "", "middle")
    p.text(
        20,
        270,
        "A plugin that rewrites nothing skips the first two. A packet is never run by "
        "halves and never committed twice.",
        "small",
    )
    return p.done()  # fmt: skip


def recovery() -> str:
    p = Svg(760, 360, "What happens after a kill, by actor; the io core goes on throughout")
    rows = [("worker", 60), ("kernel", 110), ("warden", 160), ("spare", 210), ("io core", 260),
            ("supervisor", 310)]  # fmt: skip
    for name, y in rows:
        p.text(14, y + 5, name)
        p.line((96, y), (746, y), kind="faint", tip=False)
    p.box(100, 46, 84, 28, "worker", "burst")
    p.cross(196, 60)
    p.text(208, 52, "SIGKILL", "small")
    p.box(200, 96, 104, 28, "dead", "thread ends")
    p.line((250, 124), (300, 146))
    p.text(312, 104, "robust futex: owner died", "small")
    p.box(300, 146, 76, 28, "warden", "notice")
    p.box(384, 146, 76, 28, "warden", "repair")
    p.box(468, 146, 84, 28, "warden", "seat offer")
    p.line((510, 174), (560, 196))
    p.box(560, 196, 70, 28, "spare", "seated")
    p.box(638, 196, 96, 28, "worker", "first packet")
    p.box(100, 246, 634, 28, "io", "receives, lends to this lane and all others, collects")
    p.line((552, 154), (742, 154), (742, 294))
    p.box(536, 296, 212, 28, "box", "reads the story, forks a spare")
    p.text(
        100,
        346,
        "Noticed after about 0.1 ms, repaired in microseconds: dpsup events has each death's times.",
        "small",
    )
    return p.done()  # fmt: skip


def steering() -> str:
    p = Svg(760, 270, "From packet to worker: hash, bucket, map, lane")
    p.box(16, 60, 104, 48, "box", "NIC", "RSS by flow")
    p.box(160, 24, 110, 48, "io", "io core 1", "rx queue 0")
    p.box(160, 104, 110, 48, "io", "io core 2", "rx queue 1")
    p.line((120, 78), (156, 50))
    p.line((120, 90), (156, 124))
    p.box(310, 24, 90, 48, "io", "hash", "32 bits")
    p.box(430, 24, 90, 48, "io", "bucket", "low 9 bits")
    p.line((270, 48), (306, 48))
    p.line((400, 48), (426, 48))
    for i in range(16):
        p.parts.append(
            f'<rect x="{310 + i * 13}" y="116" width="12" height="24"'
            f' class="box {"worker" if i < 6 else "data" if i < 11 else "warden"}"/>'
        )
    p.line((475, 72), (420, 112))
    p.text(300, 176, "map of the group: 512 buckets,", "small", "end")
    p.text(300, 191, "the same in all io cores", "small", "end")
    for i, kind in enumerate(("worker", "data", "warden")):
        p.box(620, 24 + i * 62, 120, 46, kind, f"fw/{i}", "its lanes")
    p.line((348, 116), (348, 92), (600, 92), (616, 50), kind="line")
    p.line((420, 140), (420, 180), (560, 180), (616, 112), kind="line")
    p.line((490, 140), (616, 166), kind="line")
    p.text(
        16,
        216,
        "A flow has one hash, a hash one bucket, a bucket one worker at a time: "
        "so a flow is in one lane of each io core.",
        "small",
    )
    p.text(
        16,
        236,
        "A lane belongs to one io core and one slot: one writer at each end, no lock.",
        "small",
    )
    return p.done()  # fmt: skip


def move() -> str:
    p = Svg(760, 250, "Order within a flow while its bucket moves from one worker to another")
    titles = ("1. before", "2. the map changed: drain", "3. the old lane is empty: go")
    for i, title in enumerate(titles):
        x = 16 + i * 250
        p.text(x, 26, title)
        p.box(x, 44, 70, 140, "io", "io core")
        p.box(x + 150, 44, 80, 52, "worker" if i < 2 else "box", "fw/0")
        p.box(x + 150, 132, 80, 52, "worker", "fw/1")
    p.line((86, 62), (162, 62))
    p.line((162, 80), (90, 80))
    p.text(124, 56, "1 2 3", "small", "middle")
    p.line((412, 72), (340, 72))
    p.text(376, 66, "1 2 3 back", "small", "middle")
    p.box(272, 130, 58, 44, "warden", "held", "4 5 6")
    p.line((586, 158), (662, 158))
    p.text(624, 152, "4 5 6 7", "small", "middle")
    p.text(
        16,
        214,
        "Packets 4 to 6 of the bucket wait in the io core until 1 to 3 are back; then "
        "they go ahead of 7.",
        "small",
    )
    p.text(
        16, 234, "Other buckets do not wait. A bucket with state waits for all io cores.", "small"
    )
    return p.done()  # fmt: skip


def chain() -> str:
    p = Svg(760, 210, "A chain from port to port over two groups, both ways")
    for x, kind, name, more in (
        (16, "box", "wan", "port"),
        (230, "worker", "fw", "2 workers"),
        (444, "worker", "nat", "1 worker"),
        (658, "box", "lan", "port"),
    ):
        p.box(x, 40, 86, 70, kind, name, more)
    for x in (102, 316, 530):
        p.line((x, 58), (x + 124, 58))
        p.line((x + 128, 92), (x + 4, 92))
        p.box(x + 40, 62, 48, 24, "io", "steer")
    p.text(16, 142, "The input port says which chain a packet is on, and in which direction.")
    p.text(
        16,
        164,
        "Between two groups it passes its io core, which steers it again by the hash it "
        "came in with.",
        "small",
    )
    p.text(
        16,
        184,
        'None of fw\'s workers up: hold it (on_down = "hold"), go on to nat '
        '("bypass"), or drop and count it ("drop").',
        "small",
    )
    return p.done()  # fmt: skip


def rollout() -> str:
    p = Svg(760, 270, "A rollout: a canary, a judgement, then the rest, one slot at a time")
    for i in range(3):
        y = 50 + i * 50
        p.text(14, y + 20, f"fw/{i}")
        turn = (250, 430, 500)[i]
        p.box(70, y, turn - 70, 32, "worker", "version 1")
        p.box(turn + 6, y, 740 - turn - 6, 32, "data", "version 2")
    p.line((160, 30), (160, 206), kind="faint", tip=False)
    p.text(160, 24, "spares of version 2 fork", "small", "middle")
    p.line((253, 30), (253, 206), kind="faint", tip=False)
    p.text(253, 38, "canary", "small", "middle")
    p.line((256, 206), (424, 206), tip=False)
    p.text(340, 222, "judged: drops, cycles, deaths", "small", "middle")
    p.line((506, 206), (634, 206), tip=False)
    p.text(570, 222, "all judged", "small", "middle")
    p.text(680, 222, "version 2 is heir", "small", "middle")
    p.text(
        14,
        250,
        "At each change a worker leaves at the end of its burst; what is in its lanes "
        "waits for the next one. Any failure: all go back to version 1.",
        "small",
    )
    return p.done()  # fmt: skip


# --- the state machine ----------------------------------------------------------------------------

BOX, GAP, LANE, MARGIN = 92, 12, 19, 16


def machine(name: str) -> str:
    """One of the state machine's tables: its states in a row, in the table's order, and a track for
    each pair of states with the events that lead from one to the other. Those to the right run
    above, those to the left below; what leaves the state as it is, and acts, stands in its box."""
    states = fsm.STATES[name]
    leads: dict[tuple[int, int], list[str]] = {}
    for (state, event), step in fsm.TABLE[name].items():
        way = (states.index(state), states.index(step.state))
        if way[0] != way[1] or step.actions:
            leads.setdefault(way, []).append(event)
    stays = {a: events for (a, b), events in leads.items() if a == b}
    ways = sorted((w for w in leads if w[0] != w[1]), key=lambda w: (abs(w[1] - w[0]), w))
    above = [w for w in ways if w[0] < w[1]]
    below = [w for w in ways if w[0] > w[1]]
    tall = 26 + 15 * max((len(s) for s in stays.values()), default=0) + 8
    top = 30 + LANE * len(above) + 12
    height = top + tall + LANE * len(below) + 34
    width = 2 * MARGIN + len(states) * (BOX + GAP) - GAP
    p = Svg(width, height, f"The states of {ROLE[name]}, and the events that change them")
    p.text(MARGIN, 20, f"{ROLE[name]}: events above lead to the right, below to the left", "small")
    for i, state in enumerate(states):
        x = MARGIN + i * (BOX + GAP)
        p.box(x, top, BOX, tall, "worker" if state == "running" else "box")
        p.text(x + BOX / 2, top + 20, state, "", "middle")
        for n, event in enumerate(stays.get(i, [])):
            p.text(x + BOX / 2, top + 38 + 15 * n, f"{event} ↻", "small", "middle")
    for side, lot in ((-1, above), (1, below)):
        edge = top if side < 0 else top + tall
        # Each track has a place of its own at both boxes, so that no two lines lie on each other.
        places = {i: [w for w in lot if i in w] for i in range(len(states))}
        for n, way in enumerate(lot):
            y = edge + side * (14 + LANE * n + (0 if side < 0 else 8))
            xs = [
                MARGIN + i * (BOX + GAP)
                + BOX * (places[i].index(way) + 1) / (len(places[i]) + 1)
                for i in way
            ]  # fmt: skip
            p.line((xs[0], edge), (xs[0], y), (xs[1], y), (xs[1], edge + side * 2))
            p.text(sum(xs) / 2, y - 3, ", ".join(leads[way]), "small", "middle")
    return p.done()


ROLE = {
    "primary": "the primary", "seed": "the seed", "worker": "a worker", "topology": "the topology"
}  # fmt: skip


DRAWN = {
    **{f"fsm-{name}": partial(machine, name) for name in fsm.TABLE},
    "processes": processes, "lane": lane, "commit": commit, "recovery": recovery,
    "steering": steering, "move": move, "chain": chain, "rollout": rollout,
}  # fmt: skip


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        (PICTURES / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
