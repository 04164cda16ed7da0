# SPDX-License-Identifier: BSD-3-Clause
"""Commands that start and end an instance and its processes."""

from __future__ import annotations

import signal

import click

from dpsup.cli.options import connect, duration, live, name_option, output_option, print_json
from dpsup.errors import UsageError


@click.command()
@click.argument("file", type=click.Path(readable=False))
@click.option("--detach", is_flag=True, help="Run in the background; return once all is ready.")
@click.option("--wait", is_flag=True, help="With --detach: wait until ready (the default).")
@click.option("--dry-run", is_flag=True, help="Print the plan and start nothing.")
@click.option(
    "--exit-when-idle",
    metavar="TIME",
    callback=duration,
    help="End after this time without a packet; for pcap jobs.",
)
@click.option(
    "--watch", is_flag=True, help="Apply files that change, as `[host] watch = true` does."
)
@click.option(
    "--termination-log",
    metavar="FILE",
    type=click.Path(),
    help="Write there why the start failed, or the instance ended; $DPSUP_TERMINATION_LOG.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show EAL's output too.")
@click.option("--ready-fd", type=int, hidden=True)
@output_option
@click.pass_context
def start(
    ctx: click.Context,
    file: str,
    detach: bool,
    wait: bool,
    dry_run: bool,
    exit_when_idle: float | None,
    watch: bool,
    termination_log: str | None,  # cli/root.py writes it
    verbose: bool,
    ready_fd: int | None,
    output: str,
) -> None:
    """Start the topology in FILE.

    Stays in the foreground and shows events; the first Ctrl-C drains and ends the instance, a
    second one ends it at once.

    \b
      dpsup start topology.toml --detach
      dpsup start job.toml --exit-when-idle 2s
      dpsup start /config/edge.toml --watch --termination-log /dev/termination-log
    """
    if dry_run:
        from dpsup.cli import topology

        topology.print_plan(file, output)
        return
    if detach:
        from dpsup.supervisor.detach import start_detached

        start_detached(file, exit_when_idle, lambda text: click.echo(text, err=True), watch=watch)
        return
    from dpsup.bus.guests import keep_files_back
    from dpsup.supervisor import launch

    keep_files_back()
    code, summary = launch.foreground(
        file, ctx.obj["name"], exit_when_idle, verbose=verbose, ready_fd=ready_fd, watch=watch
    )
    if summary is not None and output == "json":
        print_json(summary)
    elif summary is not None:
        from dpsup.view.terminal import print_summary

        print_summary(summary)
    ctx.exit(code)


@click.command()
@click.option("--drain", metavar="TIME", callback=duration, help="Time for packets to leave (5s).")
@name_option
@click.pass_context
def stop(ctx: click.Context, drain: float | None) -> None:
    """Drain and end an instance, even if its supervisor is dead.

    \b
      dpsup stop --drain 10s
    """
    from dpsup.supervisor import launch

    launch.stop(ctx.obj["name"], drain)


@click.command()
@click.argument("target", required=False, default="", shell_complete=live("targets"))
@output_option
@name_option
@click.pass_context
def restart(ctx: click.Context, target: str, output: str) -> None:
    """Restart a worker (fw/0), a group, or all: one after the other, no packet is lost.

    Without TARGET, or with `all`, every worker.

    \b
      dpsup restart fw
      dpsup restart all
    """
    with connect(ctx) as instance:
        doc = instance.restart(target)
    if output == "json":
        print_json(doc)
    else:
        click.echo(f"restarted {', '.join(doc['restarted'])}")


@click.command("reset-failed")
@click.argument("target", required=False, default="", shell_complete=live("targets"))
@output_option
@name_option
@click.pass_context
def reset_failed(ctx: click.Context, target: str, output: str) -> None:
    """Forget past deaths of a worker (fw/0), a group, or all, and start the held workers.

    Without TARGET, or with `all`, every worker.

    \b
      dpsup reset-failed fw/0
    """
    with connect(ctx) as instance:
        doc = instance.reset_failed(target)
    if output == "json":
        print_json(doc)
        return
    for worker, state in doc["started"].items():
        click.echo(f"{worker} was held, now {state}")
    if not doc["started"]:
        click.echo("no worker was held")


@click.command()
@click.argument("worker", shell_complete=live("workers"))
@click.option(
    "-s",
    "--signal",
    "signal_",
    default="KILL",
    shell_complete=live("signals"),
    help="Name or number (KILL).",
)
@name_option
@click.pass_context
def kill(ctx: click.Context, worker: str, signal_: str) -> None:
    """Send a signal to a worker, for example to test its recovery.

    \b
      dpsup kill fw/0
      dpsup kill fw/0 -s SEGV
    """
    try:
        number = (
            int(signal_)
            if signal_.isdigit()
            else signal.Signals[f"SIG{signal_.upper().removeprefix('SIG')}"].value
        )
    except KeyError:
        from dpsup.text import suggest

        names = [one.name.removeprefix("SIG") for one in signal.Signals]
        close = suggest(signal_, [name.lower() for name in names]).upper()
        raise UsageError(
            f"no signal {signal_}",
            code="E0708",
            help=f"did you mean `{close}`?" if close else "KILL, TERM, SEGV, STOP, ...",
        ) from None
    with connect(ctx) as instance:
        doc = instance.kill(worker, number)
    click.echo(f"{signal.Signals(number).name} to {doc['worker']}, pid {doc['pid']}")


@click.command()
@name_option
@click.pass_context
def clean(ctx: click.Context) -> None:
    """Remove the directories, sockets and hugepage files of dead instances; keep live ones.

    \b
      dpsup clean
    """
    from dpsup.supervisor import launch

    for line in launch.clean(ctx.obj["name"]):
        click.echo(line)
