# SPDX-License-Identifier: BSD-3-Clause
"""The command line's root: the table of commands, and the entry point with its exit codes.

Data goes to stdout, everything else to stderr; no traceback without --debug. The table names the
module of each command, which is imported when the command is used: `dpsup --help` imports none,
and a command only imports what it needs. Only this directory imports click.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import keyword
import os
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import click

from dpsup import _build
from dpsup.cli.options import duration, live, say
from dpsup.errors import DpsupError, Exit, HostError, TopologyError

# The module of this directory, its title in `dpsup --help`, and its commands, each with a line.
_FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "life": ("Start and stop", {
        "start": "Start a topology.",
        "stop": "Drain and end an instance.",
        "restart": "Restart workers, one after the other.",
        "reset-failed": "Forget past deaths and start held workers.",
        "kill": "Send a signal to a worker.",
        "clean": "Remove the remains of dead instances.",
    }),
    "change": ("Change a running instance", {
        "scale": "Change the number of workers in a group.",
        "rebalance": "Spread a group's load evenly.",
        "rollout": "Replace a group's plugin, worker by worker.",
        "reload": "Apply a changed topology file.",
    }),
    "table": ("Live tables", {
        "table": "List, show or change live tables.",
        "tell": "Say something to the plugin of a group.",
    }),
    "look": ("Look at a running instance", {
        "list": "List all instances, also dead ones.",
        "status": "Show what runs, its rates, and what to do.",
        "health": "Say whether it lives or is ready, for probes.",
        "stats": "Show every counter and the packet account.",
        "mark": "Keep the counters, for `stats --since-mark`.",
        "audit": "Account for every mbuf.",
        "state": "Show the state that a group's plugin keeps.",
        "groups": "Show each group: the sums of its workers.",
        "workers": "Show each worker.",
        "ports": "Show each port.",
        "cores": "Show each CPU in use.",
        "mempools": "Show each mempool.",
        "lanes": "Show each lane, io core to worker.",
        "where": "Show which worker has a flow's packets.",
        "top": "Show workers live, with keys to act on them.",
        "graph": "Draw the paths of packets with their rates.",
        "metrics": "Serve the metrics over HTTP.",
    }),
    "record": ("Events and packets", {
        "events": "Show what happened.",
        "logs": "Show the output of the processes.",
        "capture": "Show or write packets at a port or worker.",
        "quarantine": "Show packets that were taken out of traffic.",
    }),
    "topology": ("Topology files and plugins", {
        "init": "Write a commented topology to begin with.",
        "check": "Find every fault of a topology file.",
        "plan": "Show what `start` would do.",
        "schema": "Print the JSON Schema of topology files.",
        "doctor": "Check whether this machine suits a topology.",
        "try": "Test a plugin with packets, without an instance.",
    }),
    "tools": ("Measure", {
        "perf": "Measure a worker: cycles, bursts, delays.",
        "advise": "Suggest changes, from measurements.",
        "report": "Write one HTML page about an instance.",
        "bench": "Measure dpsup on this machine.",
        "chaos": "Inject faults and check that no packet is lost.",
    }),
    "keys": ("Other hosts", {
        "keys": "Manage the keys of clients on other hosts.",
    }),
    "help": ("Help", {
        "explain": "Explain an error code.",
        "man": "Print or write man pages.",
        "completion": "Print a shell's completion script.",
        "version": "Print the versions.",
    }),
}  # fmt: skip
# What only a host of instances can do. dpsup-client, whose build knew of no DPDK, has none of them.
NEED_DPDK = frozenset(
    {"start", "clean", "check", "plan", "doctor", "try", "bench", "chaos", "where"}
)
FAMILIES = {
    module: (
        title,
        {n: line for n, line in names.items() if _build.DPDK_VERSION or n not in NEED_DPDK},
    )
    for module, (title, names) in _FAMILIES.items()
}
_MODULES = {name: module for module, (_, names) in FAMILIES.items() for name in names}
_LINES = {name: line for _, names in FAMILIES.values() for name, line in names.items()}


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name; a command's module is imported when its command is taken."""

    def __init__(self) -> None:
        self._added: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._added:
            module = importlib.import_module(f"dpsup.cli.{_MODULES[name]}")
            # `list` and `try` are also words of Python's
            known = name.replace("-", "_")
            known += "_" if hasattr(builtins, name) or keyword.iskeyword(name) else ""
            self._added[name] = getattr(module, known)
        return self._added[name]

    def __contains__(self, name: object) -> bool:
        return name in _MODULES or name in self._added

    def __iter__(self) -> Iterator[str]:
        yield from _MODULES
        yield from (name for name in self._added if name not in _MODULES)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._added[name] = command

    def __delitem__(self, name: str) -> None:
        del self._added[name]


class _Root(click.Group):
    """Lists, completes and suggests commands from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, _MODULES))
        for title, names in FAMILIES.values():
            with formatter.section(title):
                formatter.write_dl([(n.ljust(longest), line) for n, line in names.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=line)
            for name, line in _LINES.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in NEED_DPDK - self.commands.keys():
            raise HostError(
                f"this is dpsup-client, which has no `{args[0]}`",
                code="E0485",
                why="the command needs DPDK, and the files of dpsup that are built with it",
                help="run it on the instance's host, where dpsup is installed",
            )
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], list(self.commands), 3, 0.7)
            names = " or ".join(", ".join(f"`{name}`" for name in close).rsplit(", ", 1))
            hint = f" Did you mean {names}?" if close else " `dpsup --help` lists them."
            ctx.fail(f"no command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)


def _version_option(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from dpsup.cli import versions

        click.echo(versions.line())
        ctx.exit()


@click.group(
    cls=_Root,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DPSUP"},
)
@click.option(
    "-n",
    "--name",
    shell_complete=live("instances"),
    help="The instance, if several run; a host of hosts.toml, tcp://ADDRESS:PORT, or several: a,b.",
)
@click.option(
    "--deadline",
    metavar="TIME",
    callback=duration,
    help="With several: how long a host may take to answer (10s).",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_version_option,
    help="Show the versions of dpsup, DPDK and the plugin ABI.",
)
@click.pass_context
def cli(ctx: click.Context, name: str | None, deadline: float | None, debug: bool) -> None:
    """Supervise multi-process DPDK: workers crash, hang and scale while traffic flows.

    \b
      dpsup start topology.toml     start, and stay in the foreground
      dpsup status                  show what runs
      dpsup scale workers 4         change the number of workers; no packet is lost
      dpsup stop                    drain and end
    """
    ctx.obj = {"name": name, "deadline": deadline, "debug": debug}


def _tell_starter(message: str, code: int) -> None:
    from dpsup.cli import termination

    file = termination.file_of(sys.argv[1:], os.environ)
    failed = termination.tell(file, message, code) if file else None
    if failed is not None:
        say(f"warning[{failed.code}]: {failed}")


def main() -> None:
    """Entry point: errors become messages and exit codes."""
    debug = "--debug" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown as "?".
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(prog_name="dpsup", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = Exit.USAGE
        _tell_starter(f"error[E0002]: {e.format_message()}", code)
    except click.Abort:
        code = 130
    except DpsupError as e:
        if debug:
            raise
        text = str(e)
        complete = text.startswith(("error", "warning"))
        text = text if complete else f"error[{e.code}]: {text}"
        say(text)
        # Of a topology what is wrong with it: the room ends before the last warning.
        wrong = [str(p) for p in e.errors] if isinstance(e, TopologyError) else []
        _tell_starter("\n\n".join(wrong) or text, e.exit_code)
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
        _tell_starter(f"error[E0001]: internal error: {e!r}", Exit.FAILED)
        full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        click.echo(
            f"error[E0011]: what the command writes has no room: {e}\n"
            "  help: the output ends before its end, and what the command changed is changed: make"
            " room, and look with `dpsup status` before it is run again"
            if full
            else f"error[E0001]: internal error: {e!r}\n"
            "  help: run the command again with --debug and report the traceback",
            err=True,
        )
        code = Exit.FAILED
    sys.exit(int(code) if isinstance(code, int) else 0)
