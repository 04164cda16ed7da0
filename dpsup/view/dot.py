# SPDX-License-Identifier: BSD-3-Clause
"""The paths of packets, as DOT and SVG. The one module that imports graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpsup.errors import DpsupError
from dpsup.view.columns import percent, si

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.rates import GroupRates, Picture

_RED = "#c01c28"
_FILLS = ((0.95, "#f6b4b4"), (0.7, "#f9dfa5"), (0.0, "#cdeccd"))  # by busy share
_NONE = "#eeeeee"


def _fill(busy: float | None) -> str:
    return _NONE if busy is None else next(color for least, color in _FILLS if busy >= least)


def _digraph(picture: Picture) -> Any:
    try:
        import graphviz
    except ImportError:
        raise DpsupError(
            "the graphviz package of Python is not installed",
            code="E1005",
            help="pip install 'dpsup[graph]', or use `dpsup graph` without -o",
        ) from None
    title = f"{picture['name']}, {picture['state']}"
    graph = graphviz.Digraph(
        picture["name"],
        graph_attr={
            "compound": "true",
            "rankdir": "LR",
            "label": title,
            "labelloc": "t",
            "fontname": "sans-serif",
        },
        node_attr={"shape": "box", "style": "filled", "fontname": "sans-serif", "fontsize": "11"},
        edge_attr={"fontname": "sans-serif", "fontsize": "10"},
    )
    for p in picture["ports"]:
        link = "" if p["link_up"] else "\\nno link"
        fill = _NONE if p["link_up"] else _FILLS[0][1]
        graph.node(f"rx {p['name']}", f"{p['name']}{link}", shape="cds", fillcolor=fill)
        graph.node(f"tx {p['name']}", f"{p['name']}{link}", shape="cds", fillcolor=fill)
    for one in picture["io"]:
        label = f"{one['id']}\\ncore {one['core']}, {percent(one['busy'])}"
        graph.node(one["id"].replace("/", " "), label, fillcolor=_fill(one["busy"]))
    for group in picture["groups"]:
        _cluster(graph, picture, group)
    _edges(graph, picture)
    return graph


def _cluster(graph: Any, picture: Picture, group: GroupRates) -> None:
    with graph.subgraph(name=f"cluster {group['name']}") as cluster:
        cluster.attr(label=f"{group['name']} ({group['plugin']})", color="#888888")
        for w in picture["workers"]:
            if w["group"] != group["name"]:
                continue
            runs = w["state"] == "running"
            label = f"{w['id']}\\n" + (
                f"{si(w['pps'])} pps, {percent(w['busy'])}" if runs else w["state"]
            )
            style = "filled" if runs else "dashed"
            cluster.node(f"worker {w['id']}", label, fillcolor=_fill(w["busy"]), style=style)
        cluster.node(f"out {group['name']}", "", shape="point")


def _edge(graph: Any, start: str, end: str, rate: float | None, drops: float | None) -> None:
    if drops:
        label = f"{si(rate)}\\ndrops {si(drops)}/s"
        graph.edge(start, end, label, color=_RED, fontcolor=_RED, penwidth="2")
    else:
        graph.edge(start, end, "" if rate is None else si(rate))


def _edges(graph: Any, picture: Picture) -> None:
    ports = {p["name"]: p for p in picture["ports"]}
    for group in picture["groups"]:
        for name in group["inputs"]:
            for one in picture["io"] if name in ports else ():
                # A port's packets are not counted per io core.
                rate = ports[name]["rx_pps"] if len(picture["io"]) == 1 else None
                io = one["id"].replace("/", " ")
                _edge(graph, f"rx {name}", io, rate, ports[name]["missed_pps"])
        for name in group["next"]:
            if name in ports:
                drops = ports[name]["drops_new"].get("tx_full", 0)
                lost = drops / picture["window_s"] if picture["window_s"] else None
                _edge(graph, f"out {group['name']}", f"tx {name}", ports[name]["tx_pps"], lost)
            else:
                # An edge ends at a node; graphviz clips it at the frame around the node.
                ids = [w["id"] for w in picture["workers"] if w["group"] == name]
                to = f"worker {ids[0]}" if ids else f"out {name}"
                graph.edge(f"out {group['name']}", to, lhead=f"cluster {name}")
    for lane in picture["lanes"]:
        io = lane["io"].replace("/", " ")
        _edge(graph, io, f"worker {lane['worker']}", lane["pps"], lane["full_pps"])
    for w in picture["workers"]:
        graph.edge(f"worker {w['id']}", f"out {w['group']}", arrowhead="none")


def dot(picture: Picture) -> str:
    """The graph in DOT. Raises: DpsupError if the package is missing."""
    return str(_digraph(picture).source)


def svg(picture: Picture) -> str:
    """The graph as SVG. Raises: DpsupError if the package or its program is missing."""
    graph = _digraph(picture)
    import graphviz

    try:
        return str(graph.pipe(format="svg", encoding="utf-8"))
    except graphviz.ExecutableNotFound:
        raise DpsupError(
            "the program `dot` is not installed",
            code="E1005",
            help="apt-get install graphviz; or use `dpsup graph -o dot` and draw it elsewhere",
        ) from None
