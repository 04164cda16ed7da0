# SPDX-License-Identifier: BSD-3-Clause
"""The command line: parse, call, print, exit code. The one module that imports click.

Data goes to stdout, everything else to stderr; no traceback without --debug. Modules that cost
time are imported by the commands that need them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dpsup.errors import DpsupError, Exit, Problem, UsageError

if TYPE_CHECKING:
    from dpsup.client import Instance

_CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DPSUP"}


class _Root(click.Group):
    """Commands in the order of a session, and a did-you-mean."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], self.commands, 1)
            hint = f" Did you mean `{close[0]}`?" if close else " `dpsup --help` lists them."
            ctx.fail(f"no command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Root, context_settings=_CONTEXT)
@click.option("-n", "--name", help="The instance, where several run.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, name: str | None, debug: bool) -> None:
    """Supervise multi-process DPDK: workers crash, hang and scale while traffic flows.

    \b
      dpsup start topology.toml     start, and stay in the foreground
      dpsup status                  what runs, what it does
      dpsup scale workers 4         more or fewer workers, no packet lost
      dpsup stop                    drain and end
    """
    ctx.obj = {"name": name, "debug": debug}


def _name_option(f: Callable[..., Any]) -> Callable[..., Any]:
    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            ctx.ensure_object(dict)["name"] = value

    return click.option(
        "-n", "--name", "name_", expose_value=False, callback=remember, help="The instance."
    )(f)


def _output_option(f: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Format."
    )(f)


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from dpsup.values import parse_duration

    try:
        return parse_duration(value)
    except Exception:
        raise click.BadParameter(f'"{value}" is no duration: write 500ms, 2s or 1m') from None


def _json(doc: Any) -> None:
    click.echo(json.dumps(doc, indent=2))


def _connect(ctx: click.Context) -> Instance:
    from dpsup.client import connect

    return connect(ctx.obj["name"])


# --- start and stop -------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(readable=False))
@click.option("--detach", is_flag=True, help="Return once all is ready; run in the background.")
@click.option("--wait", is_flag=True, help="With --detach: wait until ready (the default).")
@click.option("--dry-run", is_flag=True, help="Print the plan, start nothing.")
@click.option(
    "--exit-when-idle",
    metavar="TIME",
    callback=_seconds,
    help="End after that long without a packet: for pcap jobs.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show EAL's output too.")
@click.option("--ready-fd", type=int, hidden=True)
@_output_option
@click.pass_context
def start(
    ctx: click.Context,
    file: str,
    detach: bool,
    wait: bool,
    dry_run: bool,
    exit_when_idle: float | None,
    verbose: bool,
    ready_fd: int | None,
    output: str,
) -> None:
    """Start the topology in FILE.

    Stays in the foreground and shows what happens; Ctrl-C drains and ends it, a second one ends it
    at once.

    \b
      dpsup start topology.toml --detach
      dpsup start job.toml --exit-when-idle 2s
    """
    from dpsup import launch

    if dry_run:
        _plan_command(file, output)
        return
    if detach:
        launch.detach(file, exit_when_idle, lambda text: click.echo(text, err=True))
        return
    code, summary = launch.foreground(
        file, ctx.obj["name"], exit_when_idle, verbose=verbose, ready_fd=ready_fd
    )
    if summary is not None and output == "json":
        _json(summary)
    elif summary is not None:
        from dpsup.render import print_summary

        print_summary(summary)
    ctx.exit(code)


@cli.command()
@click.option("--drain", metavar="TIME", callback=_seconds, help="For packets to leave: 5s.")
@_name_option
@click.pass_context
def stop(ctx: click.Context, drain: float | None) -> None:
    """Drain and end an instance; also one whose supervisor is dead."""
    from dpsup import launch

    launch.stop(ctx.obj["name"], drain)


@cli.command()
@_output_option
@_name_option
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """What runs and how it is. Exit code 5 if it is not as desired, 3 if it does not run.

    \b
      dpsup status -o json | jq .groups[0].ready
    """
    with _connect(ctx) as instance:
        doc = instance.status()
    if output == "json":
        _json(doc)
    else:
        from dpsup.render import print_status

        print_status(doc)
    if doc["state"] == "degraded":
        ctx.exit(Exit.DEGRADED)


@cli.command()
@click.argument("group")
@click.argument("n", type=int)
@click.option("--wait/--no-wait", default=True, help="Return once the workers are ready.")
@_output_option
@_name_option
@click.pass_context
def scale(ctx: click.Context, group: str, n: int, wait: bool, output: str) -> None:
    """Have N workers in GROUP; no packet is lost. `workers` names the only group.

    \b
      dpsup scale workers 4
    """
    with _connect(ctx) as instance:
        doc = instance.scale(group, n, wait=wait)
    if output == "json":
        _json(doc)
    elif doc["old"] == doc["desired"]:
        click.echo(f"{doc['group']}: unchanged, {doc['ready']} of {doc['desired']} ready")
    else:
        click.echo(
            f"{doc['group']}: {doc['old']} -> {doc['desired']} workers, {doc['ready']} ready"
        )


@cli.command()
@click.argument("target", required=False, default="")
@_output_option
@_name_option
@click.pass_context
def restart(ctx: click.Context, target: str, output: str) -> None:
    """Restart a worker (fw/0), a group, or all: one after the other, no packet lost."""
    with _connect(ctx) as instance:
        doc = instance.restart(target)
    if output == "json":
        _json(doc)
    else:
        click.echo(f"restarted {', '.join(doc['restarted'])}")


@cli.command("reset-failed")
@click.argument("target", required=False, default="")
@_output_option
@_name_option
@click.pass_context
def reset_failed(ctx: click.Context, target: str, output: str) -> None:
    """Forget how often a worker (fw/0), a group, or all died, and start those that are held."""
    with _connect(ctx) as instance:
        doc = instance.reset_failed(target)
    if output == "json":
        _json(doc)
        return
    for worker, state in doc["started"].items():
        click.echo(f"{worker} was held, and is {state}")
    if not doc["started"]:
        click.echo("no worker was held")


# --- topology files -------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(readable=False))
@_output_option
def check(file: str, output: str) -> None:
    """Find everything that is wrong with a topology, without starting it."""
    from dpsup.check import prepare

    problems: list[Problem] = []
    failed = None
    try:
        _, _, problems = prepare(file)
    except DpsupError as e:
        failed = e
        problems = getattr(e, "problems", [])
    if output == "json":
        import dataclasses

        _json(
            {
                "apiVersion": "dpsup/v1",
                "kind": "Check",
                "file": file,
                "ok": failed is None,
                "problems": [dataclasses.asdict(p) for p in problems],
            }
        )
        if failed is not None:
            sys.exit(failed.exit_code)
        return
    if failed is not None:
        raise failed
    for problem in problems:
        click.echo(f"{problem}\n", err=True)
    from dpsup.words import plural

    click.echo(f"{file}: ok" + (f", {plural(len(problems), 'warning')}" if problems else ""))


@cli.command()
@click.argument("file", type=click.Path(readable=False))
@_output_option
def plan(file: str, output: str) -> None:
    """What `start` would do: cores, queues, rings, mbufs, hugepages needed against available."""
    _plan_command(file, output)


def _plan_command(file: str, output: str) -> None:
    import dataclasses

    from dpsup.check import prepare
    from dpsup.plan import format_plan

    _, made, problems = prepare(file)
    for problem in problems:
        click.echo(f"{problem}\n", err=True)
    if output == "json":
        _json({"apiVersion": "dpsup/v1", "kind": "Plan", **dataclasses.asdict(made)})
    else:
        click.echo(format_plan(made))


# --- measuring ------------------------------------------------------------------------------------


@cli.command()
@click.argument("case", nargs=-1)
@click.option("--list", "list_", is_flag=True, help="Show the cases, measure nothing.")
@click.option("--runs", type=click.IntRange(1, 1000), default=5, help="Rounds, interleaved (5).")
@click.option(
    "--seconds", type=click.FloatRange(0.2, 3600), default=2.0, help="Of a throughput run (2)."
)
@click.option("--cores", metavar="IO,WORKER", help="The two CPUs; default: the last two.")
@click.option("--testpmd", metavar="PATH", default="auto", help="dpdk-testpmd.")
@click.option("--dpdk-test", metavar="PATH", default="auto", help="dpdk-test.")
@click.option("--client-server-mp", metavar="DIR", help="Folder of mp_server and mp_client.")
@click.option("--save", metavar="FILE", help="Write everything as JSON.")
@click.option("--compare", metavar="FILE", help="Against an older --save.")
@click.option("--plot", metavar="FILE", help="Write throughputs side by side as SVG.")
@click.option("--markdown", metavar="FILE", help="Write the tables for docs/.")
@_output_option
def bench(
    case: tuple[str, ...],
    list_: bool,
    runs: int,
    seconds: float,
    cores: str | None,
    testpmd: str,
    dpdk_test: str,
    client_server_mp: str | None,
    save: str | None,
    compare: str | None,
    plot: str | None,
    markdown: str | None,
    output: str,
) -> None:
    """Measure this dpsup on this machine, beside what else moves packets.

    Needs root, hugepages and two CPUs that have nothing else to do, and no topology file. Every
    figure says how far apart the cores were, how much was stolen, and how far its runs spread.

    \b
      dpsup bench                                   all cases, some minutes
      dpsup bench path others --runs 9              throughput, side by side
      dpsup bench --save new.json --compare old.json
      dpsup bench path others --plot path.svg --markdown path.md
    """
    from dpsup.bench import command

    if list_:
        listed = command.cases()
        if output == "json":
            _json([{"name": name, "what": what} for name, what in listed.items()])
        else:
            for name, what in listed.items():
                click.echo(f"{name:10} {what}")
        return
    options = command.Options(
        case, runs, seconds, cores, testpmd, dpdk_test, client_server_mp, save, compare, plot,
        markdown, sys.argv[sys.argv.index("bench") + 1 :],
    )  # fmt: skip
    doc, text = command.carry_out(options, lambda line: click.echo(line, err=True))
    if output == "json":
        _json(doc)
    else:
        click.echo(text)


# --- looking --------------------------------------------------------------------------------------


@cli.command()
@_output_option
@_name_option
@click.pass_context
def audit(ctx: click.Context, output: str) -> None:
    """Account for every mbuf. Exit code 1 if some stay unexplained."""
    import time

    with _connect(ctx) as instance:
        doc = instance.audit()
        # What moves between io cores while they answer settles; a leak stays.
        for _ in range(5):
            if not any(p["unexplained"] for p in doc["pools"]):
                break
            time.sleep(0.05)
            doc = instance.audit()
    if output == "json":
        _json(doc)
    else:
        from dpsup.render import print_audit

        print_audit(doc)
    if any(p["unexplained"] for p in doc["pools"]):
        ctx.exit(Exit.FAILED)


@cli.command()
@_output_option
@_name_option
@click.pass_context
def stats(ctx: click.Context, output: str) -> None:
    """Counters of io cores, lanes, workers and plugins, and what became of every packet."""
    with _connect(ctx) as instance:
        doc = instance.stats()
    if output == "json":
        _json(doc)
    else:
        from dpsup.render import print_stats

        print_stats(doc)


@cli.command()
@click.argument("group", default="workers")
@_output_option
@_name_option
@click.pass_context
def state(ctx: click.Context, group: str, output: str) -> None:
    """What a group's plugin keeps for each worker and bucket, a kill notwithstanding."""
    with _connect(ctx) as instance:
        doc = instance.state(group)
    if output == "json":
        _json(doc)
    else:
        from dpsup.render import print_state

        print_state(doc)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@_output_option
@_name_option
@click.pass_context
def events(ctx: click.Context, follow: bool, output: str) -> None:
    """What happened: every change of state, death, repair, scaling."""
    from dpsup.render import event_line

    _stream(ctx, "event", follow, output, event_line, lambda i, s: i.events(since=s))


@cli.command()
@click.argument("worker", required=False, default="")
@click.option("-f", "--follow", is_flag=True, help="Go on as they come.")
@_output_option
@_name_option
@click.pass_context
def logs(ctx: click.Context, worker: str, follow: bool, output: str) -> None:
    """What the processes printed: all of them, or WORKER (fw/0, primary, seed)."""
    from dpsup.render import log_line

    _stream(ctx, "log", follow, output, log_line, lambda i, s: i.logs(worker, since=s), worker)


def _stream(
    ctx: click.Context,
    topic: str,
    follow: bool,
    output: str,
    line: Callable[[dict[str, Any]], str],
    past: Callable[[Instance, int], list[dict[str, Any]]],
    name: str = "",
) -> None:
    def show(entry: dict[str, Any]) -> None:
        click.echo(json.dumps(entry) if output == "json" else line(entry))

    with _connect(ctx) as instance:
        if not follow:
            entries = past(instance, 0)
            if output == "json":
                _json(entries)
            else:
                for entry in entries:
                    show(entry)
            return
        following = instance.follow(topic)
        seen = 0
        for entry in past(instance, 0):
            show(entry)
            seen = entry["seq"]
        for publication in following:
            if publication.seq <= seen:
                continue
            if publication.seq > seen + 1:
                # Missed between the snapshot and the subscription, or by being slow.
                for entry in past(instance, seen):
                    if entry["seq"] < publication.seq:
                        show(entry)
            seen = publication.seq
            if not name or publication.data.get("name") == name:
                show({**publication.data, "seq": publication.seq})


@cli.command()
@click.argument("worker")
@click.option("-s", "--signal", "signal_", default="KILL", help="Name or number: KILL.")
@_name_option
@click.pass_context
def kill(ctx: click.Context, worker: str, signal_: str) -> None:
    """Send a signal to a worker, to see it come back."""
    try:
        number = (
            int(signal_)
            if signal_.isdigit()
            else signal.Signals[f"SIG{signal_.upper().removeprefix('SIG')}"].value
        )
    except KeyError:
        raise UsageError(f"no signal {signal_}", help="KILL, TERM, SEGV, STOP, ...") from None
    with _connect(ctx) as instance:
        doc = instance.kill(worker, number)
    click.echo(f"{signal.Signals(number).name} to {doc['worker']}, pid {doc['pid']}")


@cli.command()
@_name_option
@click.pass_context
def clean(ctx: click.Context) -> None:
    """Remove what dead instances left: folders, sockets, hugepage files. Live ones are kept."""
    from dpsup import launch

    for line in launch.clean(ctx.obj["name"]):
        click.echo(line)


@cli.command()
@click.option("--cflags", is_flag=True, help="Compiler flags for plugins.")
@_output_option
def version(cflags: bool, output: str) -> None:
    """Versions of dpsup, DPDK and the ABI; with --cflags, where the plugin header is."""
    from pathlib import Path

    from dpsup import _build

    include = Path(_build.__file__).with_name("include")
    if cflags:
        click.echo(f"-I{include}")
    elif output == "json":
        _json(
            {
                "apiVersion": "dpsup/v1",
                "kind": "Version",
                "dpsup": _build.VERSION,
                "dpdk": _build.DPDK_VERSION,
                "include": str(include),
            }
        )
    else:
        click.echo(f"dpsup {_build.VERSION}, built with DPDK {_build.DPDK_VERSION}")


def main() -> None:
    """Entry point: errors become words and exit codes."""
    debug = "--debug" in sys.argv
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = Exit.USAGE
    except click.Abort:
        code = 130
    except DpsupError as e:
        if debug:
            raise
        text = str(e)
        click.echo(text if text.startswith(("error", "warning")) else f"error: {text}", err=True)
        code = e.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = Exit.FAILED
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        if debug:
            raise
        click.echo(
            f"error: dpsup itself failed: {e!r}\n  help: run it again with --debug and report it",
            err=True,
        )
        code = Exit.FAILED
    sys.exit(int(code) if isinstance(code, int) else 0)
