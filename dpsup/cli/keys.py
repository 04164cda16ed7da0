# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup keys`: which clients on other hosts an instance's bus accepts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from dpsup.cli.options import Word, output_option, print_json, say
from dpsup.errors import UsageError

if TYPE_CHECKING:
    from dpsup.instance.keys import Keys

_directory = click.option(
    "--dir",
    "directory",
    metavar="DIR",
    help="The directory of keys, `keys` of [bus]: for root /etc/dpsup/keys.",
)


def _keys(directory: str | None) -> Keys:
    from dpsup.instance.keys import Keys
    from dpsup.plan.paths import config_dir

    usual = f"{config_dir(os.environ, is_root=os.geteuid() == 0)}/keys"
    return Keys(os.path.abspath(directory or usual))  # noqa: PTH100


@click.group()
def keys() -> None:
    """Manage the keys with which clients on other hosts connect.

    An instance whose topology says `[bus] endpoint = "tcp://ADDRESS:PORT"` accepts the keys in this
    directory, and no others. What is added or revoked takes effect at once, also on connections
    that are there.

    \b
      dpsup keys init
      dpsup keys add laptop --role read > laptop.key
      dpsup keys revoke laptop
    """


@keys.command()
@_directory
@output_option
def init(directory: str | None, output: str) -> None:
    """Create the directory, and the host's own pair of keys."""
    found = _keys(directory)
    public = found.init()
    if output == "json":
        print_json(_document("KeysInit", directory=str(found.path), public=public))
    else:
        click.echo(f"{found.path}: the host's public key is {public}")


@keys.command()
@click.argument("name")
@click.option(
    "--role", type=Word(["read", "admin"]), default="read", help="What it may do: look (read)."
)
@click.option("--public", metavar="KEY", default="", help="Accept this public key; make no pair.")
@click.option("--out", metavar="FILE", help="Write the client's key there, with mode 0600.")
@_directory
def add(name: str, role: str, public: str, out: str | None, directory: str | None) -> None:
    """Accept a key, called NAME in events, and print the client's file, which is kept nowhere.

    The client keeps it with mode 0600 as ~/.config/dpsup/client.key, or where its hosts.toml says.

    \b
      dpsup keys add backup --role admin --out backup.key
    """
    if out and public:
        raise UsageError(
            "--out is for a pair that is made here", code="E0002", help="leave --public out"
        )
    text = _keys(directory).add(name, role, public, out or "")
    if public:
        say(f'"{name}" is accepted; the host\'s public key is {text}')
    elif out:
        say(f'"{name}" is accepted; its key is in {out}')
    else:
        click.echo(text, nl=False)


@keys.command("list")
@_directory
@output_option
def list_(directory: str | None, output: str) -> None:
    """List the keys that are accepted."""
    accepted = _keys(directory).accepted()
    if output == "json":
        print_json(_document("Keys", keys=[one._asdict() for one in accepted]))
        return
    for one in accepted:
        click.echo(f"{one.name:24} {one.role:6} {one.added:10} {one.public}")


@keys.command()
@click.argument("name")
@_directory
def revoke(name: str, directory: str | None) -> None:
    """Accept the key NAME no longer: requests from now on, events within a second."""
    _keys(directory).revoke(name)
    say(f'"{name}" is revoked')


def _document(kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "dpsup/v1", "kind": kind, **fields}
