# SPDX-License-Identifier: BSD-3-Clause
"""Commands about topology files, before anything runs."""

from __future__ import annotations

import sys

import click

from dpsup.cli.options import Word, duration, output_option, print_json, say
from dpsup.errors import DpsupError, Exit, Problem


@click.command()
@click.argument("file", type=click.Path(readable=False), default="topology.toml")
@click.option(
    "--template",
    type=Word(
        [
            "forward",
            "chain",
            "router",
            "firewall",
            "nat",
            "balancer",
            "exporter",
            "switch",
            "ci",
            "plugin",
            "python",
            "rust",
        ]
    ),
    default="forward",
    help="The kind of topology.",
)
@click.option("--name", "instance", default="edge", help="Name of the instance (edge).")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def init(file: str, template: str, instance: str, force: bool) -> None:
    """Write a commented topology to begin with, and the files that it needs, beside FILE.

    forward: from port to port, without a NIC. router: by routes, with
    the plugin `route`. nat: many hosts behind one address, with the plugin
    `nat`. ci: from one capture file to another, with an exit code. plugin:
    packet code of your own in C. python, rust: the same in Python, with a
    test, or in Rust.

    \b
      dpsup init && dpsup start topology.toml
      dpsup init --template plugin --name fw fw.toml
    """
    from dpsup.cli import init

    for line in init.write(file, template, instance, force=force):
        click.echo(line)


@click.command()
def schema() -> None:
    """Print the topology file's keys as JSON Schema, for editors that complete and check TOML.

    \b
      dpsup schema > dpsup.schema.json        and in the file: #:schema ./dpsup.schema.json
    """
    from dpsup.topology.jsonschema import topology_schema

    print_json(topology_schema())


@click.command()
@click.argument("file", type=click.Path(readable=False))
@output_option
def check(file: str, output: str) -> None:
    """Find every fault of a topology without starting it.

    \b
      dpsup check topology.toml
    """
    from dpsup.check.topology import prepare

    problems: list[Problem] = []
    failed = None
    try:
        _, _, problems = prepare(file, apply=True)
    except DpsupError as e:
        failed = e
        problems = getattr(e, "problems", [])
    if output == "json":
        import dataclasses

        print_json(
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
        say(f"{problem}\n")
    from dpsup.text import plural

    click.echo(f"{file}: ok" + (f", {plural(len(problems), 'warning')}" if problems else ""))


@click.command()
@click.argument("file", type=click.Path(readable=False))
@output_option
def plan(file: str, output: str) -> None:
    """Show what `start` would do: cores, queues, rings, mbufs, hugepages needed and available.

    \b
      dpsup plan topology.toml
    """
    print_plan(file, output)


def print_plan(file: str, output: str) -> None:
    import dataclasses

    from dpsup.check.topology import prepare
    from dpsup.plan.text import format_plan

    _, made, problems = prepare(file)
    for problem in problems:
        say(problem.in_one_line)
    if output == "json":
        print_json({"apiVersion": "dpsup/v1", "kind": "Plan", **dataclasses.asdict(made)})
    else:
        click.echo(format_plan(made))


@click.command("try")
@click.argument("plugin", type=click.Path(readable=False))
@click.argument("capture", type=click.Path(readable=False))
@click.option("--kill-sweep", is_flag=True, help="Run each packet again from each of its stores.")
@click.option(
    "--topology", metavar="FILE", help="Take ports, groups, chains, args, tables from a topology."
)
@click.option("--group", metavar="NAME", help="The plugin's group (workers, or the first of FILE).")
@click.option("--port", "ports", metavar="NAME", multiple=True, help="A port (wan, lan).")
@click.option("--other-group", "groups", metavar="NAME", multiple=True, help="Another group.")
@click.option("--arg", "args", metavar="KEY=VALUE", multiple=True, help="An argument: map.wan=lan.")
@click.option("--file", "files", metavar="NAME=PATH", multiple=True, help="A file for the plugin.")
@click.option("--input", "input_", metavar="PORT", help="The port at which packets arrive.")
@click.option("--packets", type=click.IntRange(1), help="Read only so many packets.")
@click.option("--burst", type=click.IntRange(1, 64), default=32, help="Packets of a burst (32).")
@click.option(
    "--timeout",
    default="10s",
    callback=duration,
    help="CPU time that a burst may take (10s).",
)
@click.option("--out", metavar="FILE", help="Write what leaves by ports as pcapng.")
@click.option(
    "--allow",
    metavar="KIND",
    multiple=True,
    type=Word(["own-memory", "counters", "burst", "undeclared", "restart"]),
    help="Report findings of this kind, and exit with 0.",
)
@output_option
@click.pass_context
def try_(
    ctx: click.Context,
    plugin: str,
    capture: str,
    kill_sweep: bool,
    topology: str | None,
    group: str | None,
    ports: tuple[str, ...],
    groups: tuple[str, ...],
    args: tuple[str, ...],
    files: tuple[str, ...],
    input_: str | None,
    packets: int | None,
    burst: int,
    timeout: float,
    out: str | None,
    allow: tuple[str, ...],
    output: str,
) -> None:
    """Test a plugin with the packets of a capture, without an instance.

    Needs no hugepages, no ports and no privilege. Prints what becomes of the packets, the plugin's
    counters and state, and findings: bytes changed that were not declared, bad verdicts, crashes
    with their backtrace. Packets of a pcapng interface that has a port's name arrive at that port,
    all others at the first port. Time is the capture's.

    --kill-sweep ends the worker after each store of each packet, lets dpsup's own repair and a new
    worker go on, and compares: the verdict, the bytes, what is originated, the state. It finds a
    missing dps_touch and what is kept in the plugin's own memory.

    Exit code 0 if nothing was found, 1 if something was, 2 if it cannot be tried.

    \b
      dpsup try fw.so in.pcap --port wan --port lan --arg block=23
      dpsup try fw.so in.pcap --topology topology.toml --kill-sweep
      dpsup try fw.so in.pcap --out out.pcapng -o json | jq .findings
    """
    from dpsup.trial import command, report

    doc = command.carry_out(
        command.Options(
            plugin, capture, topology, group, ports, groups, args, files, input_, packets, burst,
            timeout, out, kill_sweep, allow,
        )
    )  # fmt: skip
    if output == "json":
        print_json(doc)
    else:
        for line in report.lines(doc):
            click.echo(line)
    if not doc["ok"]:
        ctx.exit(Exit.FAILED)


@click.command()
@click.argument("file", type=click.Path(readable=False), required=False)
@click.option("--fix-script", is_flag=True, help="Print the fixes as a shell script to review.")
@click.option("--sysroot", default="/", metavar="DIR", help="Read another machine's files.")
@output_option
@click.pass_context
def doctor(
    ctx: click.Context, file: str | None, fix_script: bool, sysroot: str, output: str
) -> None:
    """Check whether this machine suits the topology in FILE, and print commands that help.

    Changes nothing. Without FILE, checks what every topology needs. Exit code 6 if a start would
    fail, 0 if the topology would only run better with a fix.

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
        print_json(report.document(findings, file, sysroot))
    else:
        click.echo(report.text(findings))
    ctx.exit(report.exit_code(findings))
