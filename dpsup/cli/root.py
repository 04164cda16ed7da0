# SPDX-License-Identifier: BSD-3-Clause
"""The command line: parse, call, print, exit code. The one module that imports click.

Data goes to stdout, everything else to stderr; no traceback without --debug. Modules that cost
time are imported by the commands that need them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dpsup.errors import DpsupError, Exit, NoSuchObject, Problem, UsageError
from dpsup.text import fold

if TYPE_CHECKING:
    from dpsup.instance.client import Instance
    from dpsup.instance.history import Wanted

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

            close = difflib.get_close_matches(args[0], self.commands, 3, 0.7)
            names = " or ".join(", ".join(f"`{name}`" for name in close).rsplit(", ", 1))
            hint = f" Did you mean {names}?" if close else " `dpsup --help` lists them."
            ctx.fail(f"no command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)


def _live(kind: str) -> Any:
    """Completes names of what is there now: `kind` is a function of `complete`."""

    def names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from dpsup.cli import completion

        of_root = ctx.find_root().params.get("name")
        chosen = (ctx.obj or {}).get("name") or of_root
        found = getattr(completion, kind)
        known = found(chosen) if kind not in ("instances", "codes", "signals") else found()
        return [name for name in known if name.startswith(incomplete)]

    return names


class _Word(click.Choice[str]):
    """One of some words, with a did-you-mean."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dpsup.text import suggest

        close = "" if value in self.choices else suggest(str(value), list(self.choices))
        if close:
            self.fail(f"{value!r}: did you mean {close!r}?", param, ctx)
        return super().convert(value, param, ctx)


def _versions() -> dict[str, Any]:
    import re
    from pathlib import Path

    from dpsup import _build

    include = Path(_build.__file__).with_name("include")
    abi = re.search(r"DPS_PLUGIN_ABI (\d+)u", (include / "dpsup_plugin.h").read_text())
    return {
        "dpsup": _build.VERSION,
        "dpdk": _build.DPDK_VERSION,
        "plugin_abi": int(abi[1]) if abi else None,
        "include": str(include),
    }


def _say_versions() -> None:
    v = _versions()
    click.echo(f"dpsup {v['dpsup']}, DPDK {v['dpdk']}, plugin ABI {v['plugin_abi']}")


def _version_option(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        _say_versions()
        ctx.exit()


@click.group(cls=_Root, context_settings=_CONTEXT)
@click.option(
    "-n",
    "--name",
    shell_complete=_live("instances"),
    help="The instance, where several run.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_version_option,
    help="Versions of dpsup, DPDK and the plugin ABI.",
)
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
        "-n",
        "--name",
        "name_",
        expose_value=False,
        callback=remember,
        help="The instance.",
        shell_complete=_live("instances"),
    )(f)


def _output_option(f: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o", "--output", type=_Word(["text", "json"]), default="text", help="Format."
    )(f)


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from dpsup.topology.values import parse_duration

    try:
        return parse_duration(value)
    except Exception:
        raise click.BadParameter(f'"{value}" is no duration: write 500ms, 2s or 1m') from None


def _say(text: str, *, err: bool = True) -> None:
    """On a terminal, no wider than that."""
    if (sys.stderr if err else sys.stdout).isatty():
        text = fold(text, shutil.get_terminal_size().columns)
    click.echo(text, err=err)


def _json(doc: Any) -> None:
    click.echo(json.dumps(doc, indent=2))


def _connect(ctx: click.Context) -> Instance:
    from dpsup.instance.client import connect

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
    from dpsup.supervisor import launch

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
        from dpsup.view.terminal import print_summary

        print_summary(summary)
    ctx.exit(code)


@cli.command()
@click.option("--drain", metavar="TIME", callback=_seconds, help="For packets to leave: 5s.")
@_name_option
@click.pass_context
def stop(ctx: click.Context, drain: float | None) -> None:
    """Drain and end an instance; also one whose supervisor is dead.

    \b
      dpsup stop --drain 10s
    """
    from dpsup.supervisor import launch

    launch.stop(ctx.obj["name"], drain)


def _look_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Of commands that show what an instance does, measured over a moment."""
    options = (
        click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C."),
        click.option(
            "--over", default="300ms", callback=_seconds, help="How long to measure rates (300ms)."
        ),
        click.option(
            "-o",
            "--output",
            type=_Word(["text", "wide", "json"]),
            default="text",
            help="text fits the terminal, wide leaves nothing out.",
        ),
        _name_option,
    )
    for option in reversed(options):
        f = option(f)
    return f


@cli.command()
@_look_options
@click.pass_context
def status(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """What runs, what it does, and what to do about it.

    Exit code 5 if it is not as desired, 3 if it does not run.

    \b
      dpsup status -w                             every second
      dpsup status -o json | jq .groups[0].ready
    """
    from dpsup.view import watch as watching

    if output == "json" and not watch:
        with _connect(ctx) as instance:
            doc = instance.status()
        _json(doc)
        state = doc["state"]
    else:
        state = watching.show(ctx.obj["name"], "status", over, watch=watch, output=output)
    if state == "degraded":
        ctx.exit(Exit.DEGRADED)


# "-1" is a number of workers, not an option.
@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("group", shell_complete=_live("groups"))
@click.argument("n")
@click.option("--wait/--no-wait", default=True, help="Return once the workers are ready.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@_output_option
@_name_option
@click.pass_context
def scale(ctx: click.Context, group: str, n: str, wait: bool, dry_run: bool, output: str) -> None:
    """Have N workers in GROUP, or +N or -N; no packet is lost. `workers` names the only group.

    \b
      dpsup scale workers 4
      dpsup scale fw +1 --dry-run
    """
    if not n.lstrip("+-").isdigit() or n.lstrip("+-") not in (n, n[1:]):
        if n.startswith("-"):
            raise click.NoSuchOption(n, ctx=ctx)
        raise click.BadParameter(f"'{n}' is not a number: write 4, +1 or -1", param_hint="'N'")
    with _connect(ctx) as instance:
        doc = instance.scale(group, n, wait=wait, dry_run=dry_run)
    if output == "json":
        _json(doc)
    elif dry_run:
        from dpsup.view.terminal import print_scale

        print_scale(doc)
    elif doc["old"] == doc["desired"]:
        click.echo(f"{doc['group']}: unchanged, {doc['ready']} of {doc['desired']} ready")
    else:
        click.echo(
            f"{doc['group']}: {doc['old']} -> {doc['desired']} workers, {doc['ready']} ready"
        )


@cli.command()
@click.argument("group", default="workers", shell_complete=_live("groups"))
@click.option("--dry-run", is_flag=True, help="Measure and predict, and move nothing.")
@click.option("--over", default="1s", callback=_seconds, help="How long to measure.")
@_output_option
@_name_option
@click.pass_context
def rebalance(ctx: click.Context, group: str, dry_run: bool, over: float, output: str) -> None:
    """Spread GROUP's load evenly: measure each bucket, move those that help.

    \b
      dpsup rebalance fw --dry-run
      dpsup rebalance fw --over 5s
    """
    with _connect(ctx) as instance:
        doc = instance.rebalance(group, over, dry_run=dry_run)
    if output == "json":
        _json(doc)
    else:
        from dpsup.view.terminal import print_rebalance

        print_rebalance(doc)


@cli.command()
@click.argument("target", required=False, default="", shell_complete=_live("targets"))
@_output_option
@_name_option
@click.pass_context
def restart(ctx: click.Context, target: str, output: str) -> None:
    """Restart a worker (fw/0), a group, or all: one after the other, no packet lost.

    \b
      dpsup restart fw
    """
    with _connect(ctx) as instance:
        doc = instance.restart(target)
    if output == "json":
        _json(doc)
    else:
        click.echo(f"restarted {', '.join(doc['restarted'])}")


def _share(_: click.Context, param: click.Parameter, value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        if not 0 <= share < 1e6:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f'"{value}" is no share: write 1% or 0.01', param=param) from None
    return share


_ROLLOUT_VERBS = ("status", "undo", "history")


@cli.command(options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@click.option("--plugin", help="The new version: ./fw-2.so, or a built-in one.")
@click.option("--args", "args", multiple=True, metavar="K=V ...", help="Arguments that change.")
@click.option("--canary", type=click.IntRange(0), default=1, help="Slots that go first (1).")
@click.option("--max-unavailable", type=click.IntRange(1), default=1, help="Slots at a time (1).")
@click.option(
    "--judge", metavar="TIME", default="2s", callback=_seconds,
    help="How long each of old version, canary and all are measured (2s); 0s: not at all.",
)  # fmt: skip
@click.option(
    "--more-drops", metavar="SHARE", default="1%", callback=_share,
    help="Of its packets, that it may drop, or find its lane full, more than the old (1%).",
)  # fmt: skip
@click.option(
    "--slower", metavar="SHARE", default="100%", callback=_share,
    help="More cycles a packet than the old that it may take (100%).",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Return when it is done; exit code 1 if it was undone.")
@_output_option
@_name_option
@click.pass_context
def rollout(
    ctx: click.Context,
    words: tuple[str, ...],
    plugin: str | None,
    args: tuple[str, ...],
    canary: int,
    max_unavailable: int,
    judge: float,
    more_drops: float,
    slower: float,
    wait: bool,
    output: str,
) -> None:
    """A new version of GROUP's plugin, worker by worker, while packets flow: none is lost.

    WORDS is GROUP, or `status`, `undo` or `history` with or without a group.

    A canary goes first and is judged, then the rest. If the new version crashes, is stuck, drops
    more or is slower than the old by more than the margins, all goes back by itself.

    \b
      dpsup rollout fw --plugin ./fw-2.so --wait
      dpsup rollout fw --args cycles=100 map.wan=lan --judge 10s
      dpsup rollout status
      dpsup rollout undo fw
    """
    from dpsup.view import terminal

    first, *rest = words
    if first in _ROLLOUT_VERBS:
        if plugin or args or len(rest) > 1:
            raise UsageError(f"`rollout {first}` takes a group and nothing else", code="E0002")
        with _connect(ctx) as instance:
            if first == "status":
                doc = instance.rollout_status(*rest)
            elif first == "history":
                doc = instance.rollout_history(*rest)
            else:
                doc = instance.rollout_undo(*rest)
    else:
        pairs = {}
        for word in (*args, *rest):
            key, equals, value = word.partition("=")
            if not key or not equals:
                raise UsageError(f'"{word}": an argument is written KEY=VALUE', code="E0002")
            pairs[key] = value
        if plugin is None and not pairs:
            raise UsageError("what is new? Give --plugin or --args", code="E0002")
        if plugin is not None and ("/" in plugin or plugin.endswith(".so")):
            # As the topology's reader spells it: `..` taken out, links left.
            plugin = os.path.abspath(plugin)  # noqa: PTH100
        options = {
            "canary": canary,
            "max_unavailable": max_unavailable,
            "judge": judge,
            "more_drops": more_drops,
            "slower": slower,
        }
        with _connect(ctx) as instance:
            doc = instance.rollout(first, plugin, pairs or None, wait=wait, **options)
    if output == "json":
        _json(doc)
    elif first == "status":
        terminal.print_rollouts(doc)
    elif first == "history":
        terminal.print_revisions(doc)
    else:
        terminal.print_rollout(doc)
    undone = doc.get("changed") and doc["phase"] in ("undone", "stuck")
    if undone and first not in _ROLLOUT_VERBS:
        ctx.exit(Exit.FAILED)


@cli.command()
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--partial", is_flag=True, help="Do what can be done without a restart.")
@_output_option
@_name_option
@click.pass_context
def reload(ctx: click.Context, file: str | None, dry_run: bool, partial: bool, output: str) -> None:
    """Read the changed topology (FILE, or the one it was started with) and do what it says.

    Prints first what changes at once, what worker by worker, and what needs a restart. With
    something of the last kind nothing is done, and the exit code is 1, unless --partial.

    \b
      dpsup reload --dry-run
      dpsup reload /etc/dpsup/edge.toml
    """
    from dpsup.view.terminal import print_reload, print_reloaded

    # Likewise: it is compared with the one that the instance was started with.
    path = os.path.abspath(file) if file else ""  # noqa: PTH100
    with _connect(ctx) as instance:
        doc = instance.reload(path, dry_run=True)
        if output == "text":
            print_reload(doc)
        blocked = doc["restart_needed"] and not partial
        if not dry_run and not blocked and doc["changes"]:
            doc = instance.reload(path, partial=partial)
            if output == "text":
                print_reloaded(doc)
        elif output == "text" and doc["changes"]:
            click.echo("Nothing was done" + (" (--dry-run)." if dry_run else "."))
    if output == "json":
        _json(doc)
    if blocked or doc["failed"]:
        ctx.exit(Exit.FAILED)


@cli.command("reset-failed")
@click.argument("target", required=False, default="", shell_complete=_live("targets"))
@_output_option
@_name_option
@click.pass_context
def reset_failed(ctx: click.Context, target: str, output: str) -> None:
    """Forget how often a worker (fw/0), a group, or all died, and start those that are held.

    \b
      dpsup reset-failed fw/0
    """
    with _connect(ctx) as instance:
        doc = instance.reset_failed(target)
    if output == "json":
        _json(doc)
        return
    for worker, state in doc["started"].items():
        click.echo(f"{worker} was held, and is {state}")
    if not doc["started"]:
        click.echo("no worker was held")


# --- first steps ----------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(readable=False), default="topology.toml")
@click.option(
    "--template",
    type=_Word(["forward", "chain", "ci", "plugin"]),
    default="forward",
    help="What it is to do.",
)
@click.option("--name", "instance", default="edge", help="Of the instance (edge).")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def init(file: str, template: str, instance: str, force: bool) -> None:
    """Write a commented topology to begin with, and what it needs, beside FILE.

    forward: from port to port, without a NIC. ci: one capture into another, with an exit code.
    plugin: packet code of your own in C.

    \b
      dpsup init && dpsup start topology.toml
      dpsup init --template plugin --name fw fw.toml
    """
    from dpsup.cli import init

    for line in init.write(file, template, instance, force=force):
        click.echo(line)


@cli.command()
def schema() -> None:
    """The topology file's keys as JSON Schema, for editors that complete and check TOML.

    \b
      dpsup schema > dpsup.schema.json        and in the file: #:schema ./dpsup.schema.json
    """
    from dpsup.topology.jsonschema import topology_schema

    _json(topology_schema())


@cli.command()
@click.argument("shell", type=_Word(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, and names of running instances and workers.

    \b
      dpsup completion bash > /etc/bash_completion.d/dpsup
      dpsup completion zsh > "${fpath[1]}/_dpsup"
      dpsup completion fish > ~/.config/fish/completions/dpsup.fish
    """
    from click.shell_completion import get_completion_class

    known = get_completion_class(shell)
    if known is None:
        raise UsageError(f"no completion for {shell}", code="E0002")
    click.echo(known(cli, {}, "dpsup", "_DPSUP_COMPLETE").source())


@cli.command()
@click.argument("name", required=False, default="")
@click.option("--write", metavar="DIR", help="Write all pages into DIR.")
@click.pass_context
def man(ctx: click.Context, name: str, write: str | None) -> None:
    """Print the man page of dpsup, or of the command NAME, or write them all.

    \b
      dpsup man status | man -l -
      dpsup man --write /usr/local/share/man/man1
    """
    from dpsup import _build
    from dpsup.cli import init, manpage

    pages = dict(manpage.pages(ctx.find_root(), _build.VERSION))
    if write:
        init.write_files({f"{write}/{file}": text.encode() for file, text in pages.items()})
        click.echo(f"{len(pages)} pages in {write}")
        return
    found = pages.get(f"dpsup-{name}.1" if name else "dpsup.1")
    if found is None:
        from dpsup.text import suggest

        close = suggest(name, list(cli.commands))
        raise NoSuchObject(
            f"no command `{name}`",
            code="E0004",
            help=f"did you mean `{close}`?" if close else "`dpsup --help` lists them",
        )
    click.echo(found, nl=False)


# --- topology files -------------------------------------------------------------------------------


@cli.command()
@click.argument("file", type=click.Path(readable=False))
@_output_option
def check(file: str, output: str) -> None:
    """Find everything that is wrong with a topology, without starting it.

    \b
      dpsup check topology.toml
    """
    from dpsup.check.topology import prepare

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
        _say(f"{problem}\n")
    from dpsup.text import plural

    click.echo(f"{file}: ok" + (f", {plural(len(problems), 'warning')}" if problems else ""))


@cli.command()
@click.argument("file", type=click.Path(readable=False))
@_output_option
def plan(file: str, output: str) -> None:
    """What `start` would do: cores, queues, rings, mbufs, hugepages needed against available.

    \b
      dpsup plan topology.toml
    """
    _plan_command(file, output)


def _plan_command(file: str, output: str) -> None:
    import dataclasses

    from dpsup.check.topology import prepare
    from dpsup.plan.text import format_plan

    _, made, problems = prepare(file)
    for problem in problems:
        _say(f"{problem}\n")
    if output == "json":
        _json({"apiVersion": "dpsup/v1", "kind": "Plan", **dataclasses.asdict(made)})
    else:
        click.echo(format_plan(made))


# --- learning -------------------------------------------------------------------------------------


@cli.command()
@click.argument("code", required=False, default="", shell_complete=_live("codes"))
@click.option("--markdown", is_flag=True, help="All of them, as docs/errors.md has them.")
@_output_option
def explain(code: str, markdown: bool, output: str) -> None:
    """What an error's code means, and what to do; without CODE, a list of all.

    \b
      dpsup explain E0203
      dpsup explain D05         a check of `dpsup doctor`
    """
    from dpsup import catalogue
    from dpsup.doctor import CHECKS

    if markdown:
        click.echo(catalogue.page(CHECKS), nl=False)
        return
    table = {**catalogue.CODES, **CHECKS}
    if not code:
        if output == "json":
            _json({name: entry._asdict() for name, entry in table.items()})
        else:
            for name, entry in table.items():
                click.echo(f"{name:6} {entry.title}")
        return
    found = catalogue.find(code, CHECKS)
    if found is None:
        close = catalogue.nearest(code, CHECKS)
        raise NoSuchObject(
            f"no code `{code}`",
            code="E1002",
            help=f"did you mean {close}?" if close else "`dpsup explain` lists them all",
        )
    if output == "json":
        _json({"apiVersion": "dpsup/v1", "kind": "Explain", "code": found[0], **found[1]._asdict()})
    else:
        _say(catalogue.text(*found), err=False)


@cli.command()
@click.argument("file", type=click.Path(readable=False), required=False)
@click.option("--fix-script", is_flag=True, help="Print the fixes as a shell script to review.")
@click.option("--sysroot", default="/", metavar="DIR", help="Read another machine's tree.")
@_output_option
@click.pass_context
def doctor(
    ctx: click.Context, file: str | None, fix_script: bool, sysroot: str, output: str
) -> None:
    """What stands between this machine and the topology in FILE, and the commands that help.

    Changes nothing. Without FILE it judges what every topology needs. Exit code 6 if a start would
    fail, 0 if it only could run better.

    \b
      dpsup doctor topology.toml
      dpsup doctor topology.toml --fix-script > fix.sh    read it, then: sh fix.sh
    """
    from dpsup.doctor import report
    from dpsup.host.tree import Machine

    findings = report.examine(file, Machine(sysroot))
    if fix_script:
        click.echo(report.script(findings, file))
    elif output == "json":
        _json(report.document(findings, file, sysroot))
    else:
        click.echo(report.text(findings))
    ctx.exit(report.exit_code(findings))


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


@cli.command()
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--faults", default="kill,segv,stop,hang,spare-kill,seed", help="See below.")
@click.option("--rate", metavar="N/s", default="5/s", help="Faults a second, on average (5/s).")
@click.option("--seed", type=int, help="Of the random schedule; default: another each time.")
@click.option(
    "--for", "seconds", metavar="TIME", callback=_seconds, default="30s", help="How long (30s)."
)
@click.option("--plot", metavar="FILE", help="Draw throughput and faults as SVG.")
@_output_option
@_name_option
@click.pass_context
def chaos(
    ctx: click.Context,
    file: str | None,
    faults: str,
    rate: str,
    seed: int | None,
    seconds: float,
    plot: str | None,
    output: str,
) -> None:
    """Kill, crash, stop and hang processes under load, and see whether the books balance.

    Without -n and FILE it makes a topology and numbered traffic of its own and checks each packet:
    lost, duplicated, reordered, damaged; and that no mbuf leaked. With -n NAME, or a topology FILE
    that it starts and stops, it checks what counters and the audit can tell. Exit code 0 only if
    all is accounted for. The schedule is a function of seed, faults, rate and duration.

    \b
      kill, segv, stop     a worker; stop: SIGSTOP, then SIGCONT
      hang                 a worker, in the middle of a packet (own topology only)
      spare-kill, seed     who waits to take over, who forks
      attach-kill          the seed, then the next one while it attaches
      primary              what is in flight is lost, and counted
      supervisor           then `dpsup start` (own topology only)

    \b
      dpsup chaos --rate 20/s --seed 7 --for 1m --plot chaos.svg
      dpsup chaos -n edge --faults kill,spare-kill --rate 1/s
    """
    from dpsup.chaos import command

    name = ctx.obj["name"]
    options = command.Options(name, file, faults, rate, seed, seconds, plot)
    doc, text = command.carry_out(options, lambda line: click.echo(line, err=True))
    if output == "json":
        _json(doc)
    else:
        click.echo(text)
    if not doc["ok"]:
        ctx.exit(Exit.FAILED)


# --- looking --------------------------------------------------------------------------------------


@cli.command()
@click.option("--detail", is_flag=True, help="Where they are: lane by lane, queue by queue.")
@_output_option
@_name_option
@click.pass_context
def audit(ctx: click.Context, detail: bool, output: str) -> None:
    """Account for every mbuf. Exit code 1 if some stay unexplained: they are then looked for one by
    one, and shown with who had them last. JSON always has the details.

    \b
      dpsup audit -o json | jq .pools[0].unexplained
    """
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
        from dpsup.view.terminal import print_audit

        print_audit(doc, detail)
    if any(p["unexplained"] for p in doc["pools"]):
        ctx.exit(Exit.FAILED)


@cli.command()
@_look_options
@click.pass_context
def stats(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """Everything that is counted, and what became of every packet.

    \b
      dpsup stats -o json | jq .account
    """
    from dpsup.view import watch as watching

    if output == "json" and not watch:
        with _connect(ctx) as instance:
            _json(instance.stats())
    else:
        watching.show(ctx.obj["name"], "stats", over, watch=watch, output=output)


@cli.command()
@click.argument("group", default="workers", shell_complete=_live("groups"))
@_output_option
@_name_option
@click.pass_context
def state(ctx: click.Context, group: str, output: str) -> None:
    """What a group's plugin keeps for each worker and bucket, a kill notwithstanding.

    \b
      dpsup state fw
      dpsup state fw -o json | jq '.buckets[] | select(.member == 1)'
    """
    with _connect(ctx) as instance:
        doc = instance.state(group)
    if output == "json":
        _json(doc)
    else:
        from dpsup.view.terminal import print_state

        print_state(doc)


@cli.command()
@click.argument("target", required=False, default="", shell_complete=_live("targets"))
@_look_options
@click.pass_context
def workers(ctx: click.Context, target: str, watch: bool, over: float, output: str) -> None:
    """Each worker, or a group or one: busy share, packets a second, cycles per packet, lane fill.

    \b
      dpsup workers fw -w
    """
    from dpsup.view import watch as watching

    watching.show(ctx.obj["name"], "workers", over, watch=watch, output=output, of=target)


def _section(name: str, text: str) -> None:
    @cli.command(name, help=f"{text}\n\n\b\n  dpsup {name} -w")
    @_look_options
    @click.pass_context
    def command(ctx: click.Context, watch: bool, over: float, output: str) -> None:
        from dpsup.view import watch as watching

        watching.show(ctx.obj["name"], name, over, watch=watch, output=output)


_section("ports", "Each port: link, packets a second, what was missed or dropped, and why.")
_section("cores", "Each CPU in use: who is on it, how busy, how much was stolen.")
_section("mempools", "Each mempool: use, fewest free, allocation failures.")
_section("lanes", "Each lane, io core to worker: fill, packets a second, drops where it was full.")


@cli.command()
@click.option("--every", default="1s", callback=_seconds, help="Between two looks (1s).")
@_name_option
@click.pass_context
def top(ctx: click.Context, every: float) -> None:
    """What happens now, live: sorted as you like, with keys for scale, kill and drain.

    \b
      dpsup top -n edge
    """
    from dpsup.view import top as screen

    screen.run(ctx.obj["name"], every)


@cli.command()
@click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--over", default="300ms", callback=_seconds, help="How long to measure rates (300ms)."
)
@click.option(
    "-o",
    "--output",
    type=_Word(["text", "dot", "svg", "json"]),
    default="text",
    help="dot and svg need the graphviz packages of Python and Debian.",
)
@_name_option
@click.pass_context
def graph(ctx: click.Context, watch: bool, over: float, output: str) -> None:
    """The ways that packets go: ports, io cores, workers, with rates and drops.

    \b
      dpsup graph -w
      dpsup graph -o svg > edge.svg
    """
    from dpsup.view import watch as watching

    if output in ("dot", "svg"):
        from dpsup.view import dot

        found = next(watching.pictures(ctx.obj["name"], over, over))
        click.echo(dot.svg(found) if output == "svg" else dot.dot(found))
    else:
        watching.show(ctx.obj["name"], "graph", over, watch=watch, output=output)


@cli.command()
@click.option("--for", "seconds", default="5s", callback=_seconds, help="How long to look (5s).")
@_output_option
@_name_option
@click.pass_context
def advise(ctx: click.Context, seconds: float, output: str) -> None:
    """What to change so that it loses nothing and does more: pools, queues, lanes, workers, cores.

    Looks at a running instance under its usual load, and changes nothing. Each piece of advice says
    what was seen, why it matters, what to write or type, and the figure that this changes, now and
    then: look again afterwards. Exit code 0, whatever there is to change.

    \b
      dpsup advise --for 10s
      dpsup advise -o json | jq '.advice[].changes'
    """
    from dpsup.advise import command, report

    doc = command.carry_out(ctx.obj["name"], seconds)
    if output == "json":
        _json(doc)
    else:
        from dpsup.view import terminal

        terminal.print_lines(report.lines(doc, terminal.screen()))


@cli.command()
@click.option(
    "-o", "--output", metavar="FILE", default="report.html", help="report.html; - is stdout."
)
@click.option("--for", "seconds", default="5s", callback=_seconds, help="How long to look (5s).")
@click.option("--chaos", "chaos_", metavar="FILE", help="Of `dpsup chaos -o json`, to show too.")
@click.option("--bench", "bench_", metavar="FILE", help="Of `dpsup bench -o json`, likewise.")
@_name_option
@click.pass_context
def report(
    ctx: click.Context, output: str, seconds: float, chaos_: str | None, bench_: str | None
) -> None:
    """One HTML page to hand on: topology, rates, histograms, advice, doctor, deaths, events.

    The page needs nothing but itself. Works on a running, degraded or headless instance, and on a
    dead one as far as its record goes.

    \b
      dpsup report -o edge.html
      dpsup chaos -o json > chaos.json; dpsup report --chaos chaos.json
    """
    from dpsup.report import gather

    text = gather.write(ctx.obj["name"], output, seconds, chaos_, bench_)
    if output == "-":
        click.echo(text, nl=False)
    else:
        click.echo(f"{output}: {len(text.encode()) // 1024} KiB", err=True)


def _history_options(f: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("-f", "--follow", is_flag=True, help="Go on as they come."),
        click.option("--since", metavar="TIME", callback=_seconds, help="Of the last 10m."),
        click.option(
            "-o",
            "--output",
            type=_Word(["text", "json", "jsonl"]),
            default="text",
            help="jsonl: one document a line, as json is with -f.",
        ),
        _name_option,
    )
    for option in reversed(options):
        f = option(f)
    return f


@cli.command()
@click.option("--type", "types", metavar="TYPE,...", default="", help="death, scale, state, ...")
@_history_options
@click.pass_context
def events(ctx: click.Context, types: str, follow: bool, since: float | None, output: str) -> None:
    """What happened: every change of state, death, repair, scaling; of a dead instance too.

    \b
      dpsup events --since 10m --type death,held
      dpsup events -f -o jsonl
    """
    from dpsup.instance.history import Wanted, parse_types

    _history(ctx, "event", Wanted(since, parse_types(types)), follow, output)


@cli.command()
@click.argument("worker", nargs=-1, shell_complete=_live("sources"))
@_history_options
@click.pass_context
def logs(
    ctx: click.Context, worker: tuple[str, ...], follow: bool, since: float | None, output: str
) -> None:
    """What the processes printed: all of them, or WORKER (fw/0, primary, seed).

    \b
      dpsup logs -f fw/0 fw/1
    """
    from dpsup.instance.history import Wanted

    _history(ctx, "log", Wanted(since, names=worker), follow, output)


def _history(ctx: click.Context, topic: str, wanted: Wanted, follow: bool, output: str) -> None:
    from dpsup.instance import history
    from dpsup.view import terminal

    in_words = terminal.print_event if topic == "event" else terminal.print_log

    def show(entry: dict[str, Any]) -> None:
        if output == "text":
            in_words(entry)
        else:
            click.echo(json.dumps(entry))

    if follow:
        history.follow(ctx.obj["name"], topic, wanted, show)
        return
    entries, word = history.past(ctx.obj["name"], topic, wanted)
    if word:
        click.echo(word, err=True)
    if output == "json":
        _json(entries)
    else:
        for entry in entries:
            show(entry)


@cli.command()
@click.argument("target", shell_complete=_live("captured"))
@click.option("-c", "--count", metavar="N", type=click.IntRange(1), help="End after N packets.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help='"tcp port 80": pcap-filter.')
@click.option("-w", "--write", "file", metavar="FILE", help="As pcapng; - is stdout.")
@click.option("--for", "seconds", metavar="TIME", callback=_seconds, help="End after that long.")
@click.option(
    "--snaplen", type=click.IntRange(1, 65536), default=65536, help="Bytes of a packet (65536)."
)
@_name_option
@click.pass_context
def capture(
    ctx: click.Context,
    target: str,
    count: int | None,
    filter_: str,
    file: str | None,
    seconds: float | None,
    snaplen: int,
) -> None:
    """Show packets as they pass a port, or before and after a worker with what it decided.

    TARGET is a port (wan): what arrives and leaves there; a worker (fw/0): what goes to it and
    comes back, with its verdict; or a lane (io/0:fw/0): the same, of one io core.

    Without -w a line for each packet; with it pcapng, the verdicts as comments. The io cores copy,
    and wait for nobody: what is missed is counted, and said at the end. One capture at a time.

    \b
      dpsup capture wan -c 10
      dpsup capture fw/0 --filter "tcp port 80" -w out.pcapng --for 5s
      dpsup capture io/0:fw/0 -w - | tshark -r -
    """
    from dpsup.inspect import capture
    from dpsup.packets import filter

    def begun() -> None:
        if sys.stderr.isatty():
            click.echo(f"capturing at {target}, Ctrl-C ends it", err=True)

    options = capture.Options(target, count, filter_, file, seconds, snaplen)
    captured, missed = capture.run(ctx.obj["name"], options, filter.compile_filter(filter_), begun)
    click.echo(capture.summary(captured, missed), err=True)


@cli.command()
@click.argument("worker", shell_complete=_live("workers"))
@click.option(
    "--for", "seconds", metavar="TIME", default="10s", callback=_seconds, help="How long (10s)."
)
@_output_option
@_name_option
@click.pass_context
def perf(ctx: click.Context, worker: str, seconds: float, output: str) -> None:
    """What a worker takes for its packets: cycles per packet, packets a burst, time in its lanes.

    Histograms with p50, p90, p99 and max, and the eight slowest bursts with their packets' first
    bytes, as the plugin left them. Goes on through the worker's death, with who takes its place.

    \b
      dpsup perf fw/0 --for 10s
      dpsup perf fw/0 -o json | jq .cycles_per_packet.p99
    """
    from dpsup.inspect import perf as measuring
    from dpsup.inspect import perf_report

    doc = measuring.run(ctx.obj["name"], worker, seconds)
    if output == "json":
        _json(doc)
    else:
        for line in perf_report.lines(doc):
            click.echo(line)


_quarantine_dir = click.option(
    "--dir", "folder", metavar="DIR", help="Another instance's [host] quarantine_dir."
)


@cli.group(invoke_without_command=True)
@_name_option
@click.pass_context
def quarantine(ctx: click.Context) -> None:
    """Packets that were taken out of the traffic: poison, and what plugins put there.

    A packet on which two workers died is not given to a third: it is written to a pcap, with the
    story of both deaths beside it. Works on a stopped instance too.

    \b
      dpsup quarantine                          all of them
      dpsup quarantine show 1                   the story of one
      tcpdump -r $(dpsup quarantine show 1 -o json | jq -r .file)
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(quarantine_list, output="text", folder=None)


@quarantine.command("list")
@_quarantine_dir
@_output_option
@_name_option
@click.pass_context
def quarantine_list(ctx: click.Context, output: str, folder: str | None) -> None:
    """All packets in quarantine, the oldest first."""
    from dpsup.instance.quarantine import Folder, find, listing

    doc = listing(Folder(folder) if folder else find(ctx.obj["name"]))
    if output == "json":
        _json(doc)
    else:
        from dpsup.view.terminal import print_quarantine

        print_quarantine(doc)


@quarantine.command("show")
@click.argument("number", type=int)
@_quarantine_dir
@_output_option
@_name_option
@click.pass_context
def quarantine_show(ctx: click.Context, number: int, output: str, folder: str | None) -> None:
    """Why packet NUMBER is there, and where its pcap is."""
    from dpsup.instance.quarantine import Folder, find, show

    doc = show(Folder(folder) if folder else find(ctx.obj["name"]), number)
    if output == "json":
        _json(doc)
    else:
        from dpsup.view.terminal import print_quarantined

        print_quarantined(doc)


@cli.command()
@click.argument("worker", shell_complete=_live("workers"))
@click.option(
    "-s",
    "--signal",
    "signal_",
    default="KILL",
    shell_complete=_live("signals"),
    help="Name or number: KILL.",
)
@_name_option
@click.pass_context
def kill(ctx: click.Context, worker: str, signal_: str) -> None:
    """Send a signal to a worker, to see it come back.

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
    with _connect(ctx) as instance:
        doc = instance.kill(worker, number)
    click.echo(f"{signal.Signals(number).name} to {doc['worker']}, pid {doc['pid']}")


@cli.command()
@_name_option
@click.pass_context
def clean(ctx: click.Context) -> None:
    """Remove what dead instances left: folders, sockets, hugepage files. Live ones are kept.

    \b
      dpsup clean
    """
    from dpsup.supervisor import launch

    for line in launch.clean(ctx.obj["name"]):
        click.echo(line)


@cli.command()
@click.option("--cflags", is_flag=True, help="Compiler flags for plugins.")
@_output_option
def version(cflags: bool, output: str) -> None:
    """Versions of dpsup, DPDK and the plugin ABI; with --cflags, where the plugin header is.

    \b
      cc -shared -fPIC -O2 $(dpsup version --cflags) fw.c -o fw.so
    """
    if cflags:
        click.echo(f"-I{_versions()['include']}")
    elif output == "json":
        _json({"apiVersion": "dpsup/v1", "kind": "Version", **_versions()})
    else:
        _say_versions()


def main() -> None:
    """Entry point: errors become words and exit codes."""
    debug = "--debug" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        # A name in letters that the terminal does not have is shown with "?" for them.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(prog_name="dpsup", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = Exit.USAGE
    except click.Abort:
        code = 130
    except DpsupError as e:
        if debug:
            raise
        text = str(e)
        said = text.startswith(("error", "warning"))
        _say(text if said else f"error[{e.code}]: {text}")
        click.echo(f"`dpsup explain {e.code}` says more.", err=True)
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
            f"error[E0001]: dpsup itself failed: {e!r}\n"
            "  help: run it again with --debug and report it",
            err=True,
        )
        code = Exit.FAILED
    sys.exit(int(code) if isinstance(code, int) else 0)
