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
    say,
    several,
    watch_options,
)
from dpsup.errors import Exit


@click.command("list")
@output_option
@name_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """List all instances: those that run, degraded and headless ones, and what dead ones left.

    It reads the runtime directories that this user's commands look at, and asks each instance for
    a second at most. What this user may not look at is listed as unknown, with the reason.

    \b
      dpsup list
      dpsup list -o json | jq -r '.instances[] | select(.state != "running") | .name'
    """
    from dpsup.instance import everywhere

    found = everywhere.look((ctx.obj or {}).get("name"))
    if output == "json":
        print_json(found)
    else:
        from dpsup.view.terminal import print_instances

        print_instances(found)
    for one in found["skipped"]:
        say(f"warning: {one['directory']} was not looked at: {one['why']}")


@click.command()
@click.option("--live", "question", flag_value="--live", help="Does its supervisor answer?")
@click.option("--ready", "question", flag_value="--ready", help="Does it forward?")
@click.option("--started", "question", flag_value="--started", help="Is its start over?")
@click.option(
    "--timeout", metavar="TIME", default="1s", callback=duration, help="How long to wait (1s)."
)
@output_option
@name_option
@click.pass_context
def health(ctx: click.Context, question: str | None, timeout: float, output: str) -> None:
    """Say in a line whether an instance lives, forwards, or has started; for probes.

    \b
    --live     exit code 0 if the supervisor answers, whatever it would say, or if the data plane
               forwards without it
    --ready    0 if packets come in, each group has a worker that is ready, and no required port
               is missing or in trouble; a group with fewer workers than wanted is ready
    --started  0 once the start is over, well or degraded

    Otherwise the exit code is 5. Without an option it is --live. It takes 15 ms of CPU time: other
    commands take ten times as much.

    \b
      dpsup health --ready
      dpsup -n edge health --live
    """
    from dpsup.instance import health

    name = (ctx.obj or {}).get("name") or ""
    if output == "text":
        ctx.exit(health.report(name, question or "--live", timeout))
    answer = health.ask(name, timeout)
    print_json(
        {
            "apiVersion": "dpsup/v1",
            "kind": "Health",
            "name": answer.name,
            "state": answer.state,
            "live": answer.is_fine("--live"),
            "ready": answer.is_fine("--ready"),
            "started": answer.is_fine("--started"),
            "why": answer.why,
        }
    )
    ctx.exit(0 if answer.is_fine(question or "--live") else Exit.DEGRADED)


@click.command()
@look_options("100ms")
@click.pass_context
def status(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """Show what runs, its rates, and what to do about problems.

    Exit code 5 if the instance is degraded, 3 if it does not run.

    \b
      dpsup status -w                             every second
      dpsup -n edge1,edge2 status                 a line for each host
      dpsup status -o json | jq .groups[0].ready
    """
    if hosts := several(ctx):
        from dpsup.cli import fleet

        fleet.status(ctx, hosts, over, watch=watch, output=output)
        return
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
@click.option("--since-mark", is_flag=True, help="Show what was counted since `dpsup mark`.")
@look_options()
@click.pass_context
def stats(ctx: click.Context, since_mark: bool, watch: bool, over: float, output: str) -> None:
    """Show every counter, and what became of every packet.

    With --since-mark, each counter less what it was at the last `dpsup mark`, and mean rates. If
    the primary was started again since, all counts are of its generation, and that is said.

    \b
      dpsup stats -o json | jq .account
      dpsup mark; sleep 60; dpsup stats --since-mark
    """
    if since_mark:
        from dpsup.view import watch as watching

        watching.since_mark(ctx.obj["name"], watch=watch, output=output)
    elif output == "json" and not watch:
        with connect(ctx) as instance:
            print_json(instance.stats())
    else:
        _show(ctx, "stats", over, watch=watch, output=output)


@click.command()
@output_option
@name_option
@click.pass_context
def mark(ctx: click.Context, output: str) -> None:
    """Keep the counters as they are now, for `dpsup stats --since-mark`.

    An instance has one mark, in its runtime directory; another one takes its place. It changes no
    counter, and goes when the instance ends.

    \b
      dpsup mark && dpsup stats --since-mark -w
    """
    from dpsup.instance import mark as marks

    with connect(ctx) as instance:
        made = marks.put(instance)
    status = made["look"]["status"]
    if output == "json":
        at = {"at": made["at"], "at_ns": status["at_ns"], "generation": status["generation"]}
        print_json({"apiVersion": "dpsup/v1", "kind": "Mark", "name": status["name"], **at})
    else:
        click.echo(f"{status['name']}: marked; `dpsup stats --since-mark` shows what comes after")


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


@click.command()
@click.option("--xstats", is_flag=True, help="Show also what the drivers themselves count.")
@look_options()
@click.pass_context
def ports(ctx: click.Context, xstats: bool, watch: bool, over: float, output: str) -> None:
    """Show each port: link, packet rates, packets missed or dropped, and why.

    With --xstats, also the extended statistics of each port's driver, by the driver's names: those
    that are not 0, or all of them with -o wide, in a pipe and in JSON.

    \b
      dpsup ports -w
      dpsup ports --xstats -o json | jq '.ports[0].xstats'
    """
    _show(ctx, "ports", over, watch=watch, output=output, xstats=xstats)


groups = _section(
    "groups", "Show each group: sums of its workers' packets, drops by reason, busy shares."
)
cores = _section("cores", "Show each CPU in use: its threads, busy share, and stolen time.")
mempools = _section("mempools", "Show each mempool: use, fewest free mbufs, allocation failures.")
lanes = _section(
    "lanes", "Show each lane, io core to worker: fill, packet rate, packets dropped when full."
)


@click.command()
@click.argument("flow")
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option(
    "--port", default="", help="Only packets that arrive there.", shell_complete=live("ports")
)
@output_option
@name_option
@click.pass_context
def where(ctx: click.Context, flow: str, file: str | None, port: str, output: str) -> None:
    """Show which bucket, io core and workers have the packets of FLOW.

    The hash is computed by the function of the io cores, with the key and fields of the topology;
    buckets and workers are those of the running instance, or with FILE what a start would have.
    What `dpsup capture` prints of a packet is a FLOW. VLAN tags do not count.

    What a plugin decides about a packet is not asked: `dpsup capture WORKER --filter ...` shows
    the verdicts of packets that pass.

    \b
      dpsup where "10.0.0.1:1234 > 10.0.0.2:80 tcp"
      dpsup where "[2001:db8::1]:53 > [2001:db8::2]:53 udp" --port wan
      dpsup where "10.0.0.1 > 10.0.0.2 icmp" topology.toml
    """
    from dpsup.inspect import where

    if file is None:
        found = where.running(ctx.obj["name"], flow, port)
    else:
        found, problems = where.of_file(flow, file, port)
        for problem in problems:
            say(problem.in_one_line)
    if output == "json":
        print_json(found)
    else:
        from dpsup.view.terminal import print_where

        print_where(found)


@click.command()
@click.option("--every", default="1s", callback=duration, help="Refresh interval (1s).")
@name_option
@click.pass_context
def top(ctx: click.Context, every: float) -> None:
    """Show workers live and sorted, with keys to scale, kill and drain.

    \b
      dpsup top -n edge
    """
    if hosts := several(ctx):
        from dpsup.cli import fleet

        fleet.top(ctx, hosts, every)
        return
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


@click.command()
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:9464", show_default=True, help="Where."
)
@name_option
@click.pass_context
def metrics(ctx: click.Context, listen: str) -> None:
    """Serve the metrics of an instance over HTTP, until Ctrl-C.

    For an instance whose topology has no [metrics], or from beside it, with dpsup-client alone. It
    stays while the instance ends and starts again: dpsup_up is 0 meanwhile.

    \b
      dpsup metrics & curl -s localhost:9464/metrics
    """
    from dpsup.instance import exporter

    exporter.serve((ctx.obj or {}).get("name"), listen)
