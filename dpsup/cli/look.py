# SPDX-License-Identifier: BSD-3-Clause
"""Commands that show a running instance and change nothing."""

from __future__ import annotations

from typing import Any

import click

from dpsup.cli.options import (
    Word,
    connect,
    duration,
    live,
    look_options,
    name_option,
    output_option,
    print_json,
    watch_options,
)
from dpsup.errors import Exit


@click.command()
@look_options("100ms")
@click.pass_context
def status(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """Show what runs, its rates, and what to do about problems.

    Exit code 5 if the instance is degraded, 3 if it does not run.

    \b
      dpsup status -w                             every second
      dpsup status -o json | jq .groups[0].ready
    """
    if output == "json" and not watch:
        with connect(ctx) as instance:
            doc = instance.status()
        print_json(doc)
        state = doc["state"]
    else:
        from dpsup.view import watch as watching

        state = watching.show(ctx.obj["name"], "status", over, watch=watch, output=output)
    if state == "degraded":
        ctx.exit(Exit.DEGRADED)


@click.command()
@look_options()
@click.pass_context
def stats(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """Show every counter, and what became of every packet.

    \b
      dpsup stats -o json | jq .account
    """
    if output == "json" and not watch:
        with connect(ctx) as instance:
            print_json(instance.stats())
    else:
        _show(ctx, "stats", over, watch=watch, output=output)


def _show(ctx: click.Context, section: str, over: float, **how: Any) -> None:
    from dpsup.view import watch as watching

    watching.show(ctx.obj["name"], section, over, **how)


@click.command()
@click.option("--detail", is_flag=True, help="Show where mbufs are, by lane and queue.")
@output_option
@name_option
@click.pass_context
def audit(ctx: click.Context, detail: bool, output: str) -> None:
    """Account for every mbuf.

    Exit code 1 if some stay unexplained: missing mbufs are then located individually and shown
    with their last owner. JSON always has the details.

    \b
      dpsup audit -o json | jq .pools[0].unexplained
    """
    import time

    with connect(ctx) as instance:
        doc = instance.audit()
        # Packets that moved between io cores while these answered settle; a leak stays.
        for _ in range(5):
            if not any(p["unexplained"] for p in doc["pools"]):
                break
            time.sleep(0.05)
            doc = instance.audit()
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view.terminal import print_audit

        print_audit(doc, detail)
    if any(p["unexplained"] for p in doc["pools"]):
        ctx.exit(Exit.FAILED)


@click.command()
@click.argument("group", default="workers", shell_complete=live("groups"))
@output_option
@name_option
@click.pass_context
def state(ctx: click.Context, group: str, output: str) -> None:
    """Show the state of a plugin, per worker and per bucket, that survives a kill.

    \b
      dpsup state fw
      dpsup state fw -o json | jq '.buckets[] | select(.member == 1)'
    """
    with connect(ctx) as instance:
        doc = instance.state(group)
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view.terminal import print_state

        print_state(doc)


@click.command()
@click.argument("target", required=False, default="", shell_complete=live("targets"))
@look_options()
@click.pass_context
def workers(ctx: click.Context, target: str, watch: bool, over: float, output: str) -> None:
    """Show each worker, or those of TARGET: busy share, packet rate, cycles per packet, lane fill.

    \b
      dpsup workers fw -w
    """
    _show(ctx, "workers", over, watch=watch, output=output, of=target)


def _section(name: str, text: str) -> click.Command:
    @click.command(name, help=f"{text}\n\n\b\n  dpsup {name} -w")
    @look_options()
    @click.pass_context
    def command(ctx: click.Context, watch: bool, over: float, output: str) -> None:
        _show(ctx, name, over, watch=watch, output=output)

    return command


ports = _section("ports", "Show each port: link, packet rates, packets missed or dropped, and why.")
cores = _section("cores", "Show each CPU in use: its threads, busy share, and stolen time.")
mempools = _section("mempools", "Show each mempool: use, fewest free mbufs, allocation failures.")
lanes = _section(
    "lanes", "Show each lane, io core to worker: fill, packet rate, packets dropped when full."
)


@click.command()
@click.option("--every", default="1s", callback=duration, help="Refresh interval (1s).")
@name_option
@click.pass_context
def top(ctx: click.Context, every: float) -> None:
    """Show workers live and sorted, with keys to scale, kill and drain.

    \b
      dpsup top -n edge
    """
    from dpsup.view import top as screen

    screen.run(ctx.obj["name"], every)


@click.command()
@watch_options("300ms")
@click.option(
    "-o",
    "--output",
    type=Word(["text", "dot", "svg", "json"]),
    default="text",
    help="Output format: dot and svg need the graphviz packages of Python and Debian.",
)
@name_option
@click.pass_context
def graph(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """Draw the paths of packets: ports, io cores, workers, with rates and drops.

    \b
      dpsup graph -w
      dpsup graph -o svg > edge.svg
    """
    if output in ("dot", "svg"):
        from dpsup.view import dot
        from dpsup.view import watch as watching

        found = next(watching.pictures(ctx.obj["name"], over, over))
        click.echo(dot.svg(found) if output == "svg" else dot.dot(found))
    else:
        _show(ctx, "graph", over, watch=watch, output=output)
