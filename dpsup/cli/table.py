# SPDX-License-Identifier: BSD-3-Clause
"""Live tables: look at them, and change them while packets flow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from dpsup.cli.options import connect, name_option, output_option, print_json, several
from dpsup.errors import UsageError
from dpsup.instance.status import API
from dpsup.text import suggest

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.tables import Changed, TableLines, Tables
    from dpsup.instance.client import Instance

# By verb: how many words follow it, and what they are.
VERBS = {
    "show": (0, ""),
    "get": (1, "KEY"),
    "add": (2, "KEY VALUE"),
    "replace": (2, "KEY VALUE"),
    "set": (2, "KEY VALUE"),
    "del": (1, "KEY"),
    "clear": (0, ""),
    "load": (-1, "[FILE]"),
    "diff": (-1, "[FILE]"),
    "batch": (1, "FILE"),
}


@click.command(options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="[WORDS...]")
@click.option("--dry-run", is_flag=True, help="Check the change without applying it.")
@output_option
@name_option
@click.pass_context
def table(ctx: click.Context, words: tuple[str, ...], dry_run: bool, output: str) -> None:
    """List live tables, or show or change one while packets flow.

    WORDS is TABLE and a verb; without them it lists all tables. TABLE is a name, or GROUP/NAME
    where several groups have one of that name. The verbs are listed below.

    \b
      show                  print all entries, as a table's file has them
      get KEY               print one entry
      add KEY VALUE         add an entry; refuses a key that is there
      replace KEY VALUE     replace a value; refuses a key that is not there
      set KEY VALUE         add or replace
      del KEY               remove an entry
      clear                 remove all
      load [FILE]           change it to what FILE says; by default the topology's file
      diff [FILE]           print what `load` would do
      batch FILE            carry out the operations in FILE, all or none

    A change is seen whole or not at all. When the command returns, every burst of packets that
    begins sees it.

    \b
      dpsup table
      dpsup table routes add 10.1.0.0/16 7
      dpsup table fw/routes load routes.txt --dry-run
    """
    if hosts := several(ctx):
        _of_hosts(ctx, hosts, words, dry_run=dry_run, output=output)
        return
    if not words or words == ("list",):
        with connect(ctx) as instance:
            tables = instance.tables()
        if output == "json":
            print_json(tables)
            return
        from dpsup.view.terminal import print_tables

        print_tables(tables)
        return
    name, verb, rest = _order(words)
    with connect(ctx) as instance:
        if verb in ("show", "get"):
            pages = instance.table_pages(name, *rest)
            parts = (
                _as_json(instance.name, pages) if output == "json" else (p["text"] for p in pages)
            )
            for part in parts:
                click.echo(part, nl=False)
            return
        doc = _change(instance, name, verb, rest, dry_run=dry_run or verb == "diff")
    if output == "json":
        print_json(doc)
        return
    _show_change(doc)


def _order(words: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    """A table, a verb, and the words after it."""
    name, verb, rest = words[0], (words[1:] or ("show",))[0], words[2:]
    _check(verb, rest)
    if verb in ("load", "diff", "batch"):
        rest = tuple(os.path.abspath(one) for one in rest)  # noqa: PTH100
    return name, verb, rest


def _of_hosts(
    ctx: click.Context, hosts: list[str], words: tuple[str, ...], *, dry_run: bool, output: str
) -> None:
    """The same for each of several hosts. Files are those of the hosts."""
    from dpsup.cli import fleet

    def show_tables(doc: Tables) -> None:
        from dpsup.view.terminal import print_tables

        click.echo()
        print_tables(doc)

    def show_text(text: str) -> None:
        click.echo(f"\n{text}", nl=False)

    if not words or words == ("list",):
        fleet.each(ctx, hosts, lambda one: one.tables(), show_tables, output, reads=True)
        return
    name, verb, rest = _order(words)
    if verb in ("show", "get"):
        fleet.each(
            ctx, hosts, lambda one: "".join(p["text"] for p in one.table_pages(name, *rest)),
            show_text, output,
        )  # fmt: skip
        return
    dry_run = dry_run or verb == "diff"
    fleet.each(
        ctx, hosts, lambda one: _change(one, name, verb, rest, dry_run=dry_run), _show_change,
        output,
    )  # fmt: skip


def _show_change(doc: Changed) -> None:
    click.echo(doc["text"], nl=False)
    count = f"{doc['operations']} operation{'s' * (doc['operations'] != 1)}"
    if doc["dry_run"]:
        if more := doc["operations"] - doc["text"].count("\n"):
            click.echo(f"# {more} more follow, which are not printed", err=True)
        click.echo(f"# {doc['group']}/{doc['table']}: {count}; nothing was changed", err=True)
    else:
        click.echo(
            f"{doc['group']}/{doc['table']}: {count}, {doc['entries']} entries, "
            f"version {doc['version']}"
        )


def _as_json(name: str, pages: Iterator[TableLines]) -> Iterator[str]:
    """A Table document, part by part: of a million entries it is 100 MB."""
    comma = ""
    for page in pages:
        if not comma:
            head = {"group": page["group"], "table": page["table"], "version": page["version"]}
            text = json.dumps({"apiVersion": API, "kind": "Table", "name": name, **head}, indent=2)
            yield f'{text[:-2]},\n  "entries": ['
        for line in page["text"].splitlines():
            key, rest = line.split(" ", 1)
            value = rest.partition("  # ")[0]  # what was learned has that for a comment
            yield f"{comma}\n    {json.dumps({'key': key, 'value': value})}"
            comma = ","
        comma = comma or " "
    yield "\n  ]\n}\n"


def _check(verb: str, rest: tuple[str, ...]) -> None:
    if verb not in VERBS:
        close = suggest(verb, list(VERBS))
        raise UsageError(
            f"`dpsup table` has no verb `{verb}`",
            code="E0002",
            help=f"did you mean {close}?" if close else f"it has {', '.join(VERBS)}",
        )
    n, what = VERBS[verb]
    # Behind a key, words may be one value: the table's types say it.
    if len(rest) > 1 if n < 0 else len(rest) < n if n == 2 else len(rest) != n:
        raise UsageError(
            f"`{verb}` takes {what or 'nothing more'}",
            code="E0002",
            help=f"write dpsup table TABLE {verb} {what}".rstrip(),
        )


def _change(
    instance: Instance, name: str, verb: str, rest: tuple[str, ...], *, dry_run: bool
) -> Changed:
    if verb in ("load", "diff"):
        return instance.table_load(name, *rest, dry_run=dry_run)
    if verb == "batch":
        return instance.table_batch(name, rest[0], dry_run=dry_run)
    if any(set(word) & set("\n#") for word in rest) or set(rest[0] if rest else "") & set(" \t"):
        raise UsageError(
            "a key has no spaces, and a value is of one line",
            code="E0002",
            help="several parts are written with commas: 02:00:00:00:00:01,80",
        )
    return instance.table_change(name, " ".join((verb, *rest)), dry_run=dry_run)


@click.command(options_metavar="[OPTIONS]")
@click.argument("group")
@click.argument("text")
@output_option
@name_option
@click.pass_context
def tell(ctx: click.Context, group: str, text: str, output: str) -> None:
    """Say something to the plugin of GROUP while packets flow.

    The plugin's control() gets TEXT, 1 to 1016 bytes, in every worker: between two bursts of
    packets, and in the order of the commands. The last 64 texts are kept. A worker that starts
    later gets these before its first packet, so each text should say what is to hold. What a text
    means is for the plugin to say. The group needs control = true in the topology.

    \b
      dpsup tell fw "trace on"
      dpsup table fw/control            print the texts that are kept
      dpsup table fw/control clear      forget them
    """
    with connect(ctx) as instance:
        doc = instance.tell(group, text)
    if output == "json":
        print_json(doc)
        return
    workers = f"{doc['workers']} worker{'s' * (doc['workers'] != 1)}"
    click.echo(f"{doc['group']}: text {doc['number']}, told to {workers}; {doc['kept']} kept")
