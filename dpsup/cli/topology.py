# SPDX-License-Identifier: BSD-3-Clause
"""Commands about topology files, before anything runs."""

from __future__ import annotations

import sys

import click

from dpsup.cli.options import Word, output_option, print_json, say
from dpsup.errors import DpsupError, Problem


@click.command()
@click.argument("file", type=click.Path(readable=False), default="topology.toml")
@click.option(
    "--template",
    type=Word(["forward", "chain", "ci", "plugin", "python", "rust"]),
    default="forward",
    help="The kind of topology.",
)
@click.option("--name", "instance", default="edge", help="Name of the instance (edge).")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def init(file: str, template: str, instance: str, force: bool) -> None:
    """Write a commented topology to begin with, and the files that it needs, beside FILE.

    forward: from port to port, without a NIC. ci: from one capture file to another, with an exit
    code. plugin: packet code of your own in C. python, rust: the same in
    Python, with a test, or in Rust.

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
        _, _, problems = prepare(file)
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
