# SPDX-License-Identifier: BSD-3-Clause
"""Commands that show what an instance recorded: events, log lines, packets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dpsup import limits
from dpsup.cli.options import (
    Word,
    duration,
    live,
    name_option,
    output_option,
    print_json,
    several,
)
from dpsup.errors import UsageError

if TYPE_CHECKING:
    from dpsup.instance.history import Wanted


def _history_options(f: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("-f", "--follow", is_flag=True, help="Print new entries as they come."),
        click.option(
            "--since",
            metavar="TIME",
            callback=duration,
            help="Only the last TIME (10m).",
        ),
        click.option(
            "-o",
            "--output",
            type=Word(["text", "json", "jsonl"]),
            default="text",
            help="Output format: jsonl is one document per line, as is json with -f.",
        ),
        name_option,
    )
    for option in reversed(options):
        f = option(f)
    return f


@click.command()
@click.option(
    "--type", "types", metavar="TYPE,...", default="", help="Only these: death, scale, state, ..."
)
@_history_options
@click.pass_context
def events(ctx: click.Context, types: str, follow: bool, since: float | None, output: str) -> None:
    """Show what happened: changes of state, deaths, repairs, scaling; also of a dead instance.

    \b
      dpsup events --since 10m --type death,held
      dpsup events -f -o jsonl
    """
    from dpsup.instance.history import Wanted, parse_types

    _history(ctx, "event", Wanted(since, parse_types(types)), follow, output)


@click.command()
@click.argument("worker", nargs=-1, shell_complete=live("sources"))
@_history_options
@click.pass_context
def logs(
    ctx: click.Context, worker: tuple[str, ...], follow: bool, since: float | None, output: str
) -> None:
    """Show the output of all processes, or of WORKER (fw/0, primary, seed).

    \b
      dpsup logs -f fw/0 fw/1
    """
    from dpsup.instance.history import Wanted

    _history(ctx, "log", Wanted(since, names=worker), follow, output)


def _history(ctx: click.Context, topic: str, wanted: Wanted, follow: bool, output: str) -> None:
    import json

    from dpsup.instance import history
    from dpsup.view import terminal

    in_words = terminal.print_event if topic == "event" else terminal.print_log

    def show(entry: dict[str, Any]) -> None:
        if output == "text":
            in_words(entry)
        else:
            click.echo(json.dumps(entry))

    if hosts := several(ctx):
        if follow:
            raise UsageError("-f follows one instance", code="E0002", help="name one with -n")
        from dpsup.cli import fleet

        def past(host: str) -> list[dict[str, Any]]:
            return history.past(host, topic, wanted)[0]

        def show_with_host(entry: dict[str, Any]) -> None:
            if output == "text":
                click.echo(f"{entry.pop('host'):12} ", nl=False)
            show(entry)

        fleet.events(ctx, hosts, past, show_with_host, output)
        return
    if follow:
        history.follow(ctx.obj["name"], topic, wanted, show)
        return
    entries, note = history.past(ctx.obj["name"], topic, wanted)
    if note:
        click.echo(note, err=True)
    if output == "json":
        print_json(entries)
    else:
        for entry in entries:
            show(entry)


@click.command()
@click.argument("target", required=False, default="", shell_complete=live("captured"))
@click.option(
    "--dropped",
    metavar="REASON,...",
    default="",
    help="Only packets that are dropped for these reasons; any: for every reason.",
)
@click.option("-c", "--count", metavar="N", type=click.IntRange(1), help="End after N packets.")
@click.option(
    "--filter", "filter_", default="", metavar="TEXT", help='A pcap-filter: "tcp port 80".'
)
@click.option("-w", "--write", "file", metavar="FILE", help="Write pcapng; - is stdout.")
@click.option("--for", "seconds", metavar="TIME", callback=duration, help="End after TIME.")
@click.option(
    "--snaplen",
    type=click.IntRange(1, limits.SNAP),
    default=limits.SNAP,
    help=f"Bytes per packet ({limits.SNAP}).",
)
@name_option
@click.pass_context
def capture(
    ctx: click.Context,
    target: str,
    dropped: str,
    count: int | None,
    filter_: str,
    file: str | None,
    seconds: float | None,
    snaplen: int,
) -> None:
    """Show packets at a port, before and after a worker with the worker's verdict, or dropped ones.

    TARGET is a port (wan): its incoming and outgoing packets; a worker (fw/0): packets to it and
    from it, with its verdict; a group (fw): the same of all its workers; or a lane (io/0:fw/0): the
    same, of one io core.

    With --dropped, shows packets that are dropped for a reason of `dpsup status` (oversize,
    lane_full, bad_verdict) or of a plugin (runt): those of TARGET, or all without one.

    Prints a line for each packet; with -w, writes pcapng with the verdicts as comments. The io
    cores copy packets and never wait for the capture: missed packets are counted and reported at
    the end. One capture runs at a time.

    \b
      dpsup capture wan -c 10
      dpsup capture fw/0 --filter "tcp port 80" -w out.pcapng --for 5s
      dpsup capture io/0:fw/0 -w - | tshark -r -
      dpsup capture --dropped bad_verdict,oversize
      dpsup capture fw --dropped any -c 20
    """
    reasons = tuple(name.strip() for name in dropped.split(",") if name.strip())
    if not target and not reasons:
        from dpsup.errors import UsageError

        raise UsageError(
            "nothing says what to capture",
            code="E0730",
            help="name a port, a group, a worker or a lane, or give --dropped any",
        )
    from dpsup.inspect import capture
    from dpsup.packets import filter

    def begun() -> None:
        if sys.stderr.isatty():
            click.echo(f"capturing at {target or 'all places'}, Ctrl-C ends it", err=True)

    options = capture.Options(target, count, filter_, file, seconds, snaplen, reasons)
    captured, missed = capture.run(ctx.obj["name"], options, filter.compile_filter(filter_), begun)
    click.echo(capture.summary(captured, missed), err=True)


_quarantine_dir = click.option(
    "--dir", "directory", metavar="DIR", help="Another instance's [host] quarantine_dir."
)


@click.group(invoke_without_command=True)
@name_option
@click.pass_context
def quarantine(ctx: click.Context) -> None:
    """Show packets that were taken out of traffic: poison, and those that plugins put there.

    A packet that was in hand at the deaths of two workers is not given to a third: it is written
    to a pcap, with the story of both deaths beside it. Works on a stopped instance too.

    \b
      dpsup quarantine                          all of them
      dpsup quarantine show 1                   the story of one
      tcpdump -r $(dpsup quarantine show 1 -o json | jq -r .file)
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(quarantine_list, output="text", directory=None)


@quarantine.command("list")
@_quarantine_dir
@output_option
@name_option
@click.pass_context
def quarantine_list(ctx: click.Context, output: str, directory: str | None) -> None:
    """List all packets in quarantine, the oldest first."""
    from dpsup.instance.quarantine import Folder, find, listing

    doc = listing(Folder(directory) if directory else find(ctx.obj["name"]))
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view.terminal import print_quarantine

        print_quarantine(doc)


@quarantine.command("show")
@click.argument("number", type=int)
@_quarantine_dir
@output_option
@name_option
@click.pass_context
def quarantine_show(ctx: click.Context, number: int, output: str, directory: str | None) -> None:
    """Show why packet NUMBER is in quarantine, and where its pcap is."""
    from dpsup.instance.quarantine import Folder, find, show

    doc = show(Folder(directory) if directory else find(ctx.obj["name"]), number)
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view.terminal import print_quarantined

        print_quarantined(doc)
