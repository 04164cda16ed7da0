# SPDX-License-Identifier: BSD-3-Clause
"""Commands that explain dpsup itself."""

from __future__ import annotations

import click

from dpsup.cli.options import Word, live, output_option, print_json, say
from dpsup.errors import NoSuchObject, UsageError


@click.command()
@click.argument("code", required=False, default="", shell_complete=live("codes"))
@click.option("--markdown", is_flag=True, help="Print all codes as in docs/errors.md.")
@output_option
def explain(code: str, markdown: bool, output: str) -> None:
    """Explain an error code and its fix; without CODE, list all codes.

    \b
      dpsup explain E0203
      dpsup explain D05         a check of `dpsup doctor`
    """
    from dpsup import error_codes
    from dpsup.doctor import CHECKS

    if markdown:
        click.echo(error_codes.page(CHECKS), nl=False)
        return
    table = {**error_codes.CODES, **CHECKS}
    if not code:
        if output == "json":
            print_json({name: entry._asdict() for name, entry in table.items()})
        else:
            for name, entry in table.items():
                click.echo(f"{name:6} {entry.title}")
        return
    found = error_codes.find(code, CHECKS)
    if found is None:
        close = error_codes.nearest(code, CHECKS)
        raise NoSuchObject(
            f"no code `{code}`",
            code="E1002",
            help=f"did you mean {close}?" if close else "`dpsup explain` lists all codes",
        )
    if output == "json":
        print_json(
            {"apiVersion": "dpsup/v1", "kind": "Explain", "code": found[0], **found[1]._asdict()}
        )
    else:
        say(error_codes.text(*found), err=False)


@click.command()
@click.argument("name", required=False, default="")
@click.option("--write", metavar="DIR", help="Write all pages into DIR.")
@click.pass_context
def man(ctx: click.Context, name: str, write: str | None) -> None:
    """Print the man page of dpsup or of the command NAME, or write all pages.

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

        root = ctx.find_root()
        assert isinstance(root.command, click.Group)
        close = suggest(name, root.command.list_commands(root))
        raise NoSuchObject(
            f"no command `{name}`",
            code="E0004",
            help=f"did you mean `{close}`?" if close else "`dpsup --help` lists them",
        )
    click.echo(found, nl=False)


@click.command()
@click.argument("shell", type=Word(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, running instances and workers in SHELL.

    \b
      dpsup completion bash > /etc/bash_completion.d/dpsup
      dpsup completion zsh > "${fpath[1]}/_dpsup"
      dpsup completion fish > ~/.config/fish/completions/dpsup.fish
    """
    from click.shell_completion import get_completion_class

    known = get_completion_class(shell)
    if known is None:
        raise UsageError(f"no completion for {shell}", code="E0002")
    click.echo(known(ctx.find_root().command, {}, "dpsup", "_DPSUP_COMPLETE").source())


@click.command()
@click.option("--cflags", is_flag=True, help="Print the compiler flags for plugins.")
@output_option
def version(cflags: bool, output: str) -> None:
    """Print the versions of dpsup, DPDK and the plugin ABI.

    \b
      cc -shared -fPIC -O2 $(dpsup version --cflags) fw.c -o fw.so
    """
    from dpsup.cli import versions

    found = versions.versions()
    if cflags:
        click.echo(f"-I{found['include']}")
    elif output == "json":
        print_json({"apiVersion": "dpsup/v1", "kind": "Version", **found})
    else:
        click.echo(versions.line())
