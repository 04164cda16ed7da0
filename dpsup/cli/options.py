# SPDX-License-Identifier: BSD-3-Clause
"""What several commands share: options, types of arguments, and how a command prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dpsup.instance.client import Instance


def live(kind: str) -> Any:
    """Completes names that exist now: `kind` is a function of `cli.completion`."""

    def names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from dpsup.cli import completion

        of_root = ctx.find_root().params.get("name")
        chosen = (ctx.obj or {}).get("name") or of_root
        found = getattr(completion, kind)
        known = found(chosen) if kind not in ("instances", "codes", "signals") else found()
        return [name for name in known if name.startswith(incomplete)]

    return names


class Word(click.Choice[str]):
    """One of a few words, with a did-you-mean."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            from dpsup.text import suggest

            close = suggest(str(value), list(self.choices))
            if close:
                self.fail(f"{value!r}: did you mean {close!r}?", param, ctx)
        return super().convert(value, param, ctx)


def duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A callback: "500ms" -> 0.5."""
    if value is None:
        return None
    from dpsup import text

    try:
        return text.duration(value)
    except ValueError:
        raise click.BadParameter(f'"{value}" is not a duration: write 500ms, 2s or 1m') from None


def share(_: click.Context, param: click.Parameter, value: str) -> float:
    """A callback: "1%" -> 0.01."""
    try:
        found = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        if not 0 <= found < 1e6:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f'"{value}" is not a share: write 1% or 0.01', param=param
        ) from None
    return found


def name_option(f: Callable[..., Any]) -> Callable[..., Any]:
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
        shell_complete=live("instances"),
    )(f)


def output_option(f: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-o", "--output", type=Word(["text", "json"]), default="text", help="Output format."
    )(f)


def watch_options(over: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of commands that measure rates over a moment, `over` by default."""

    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        f = click.option(
            "--over", default=over, callback=duration, help=f"How long to measure rates ({over})."
        )(f)
        return click.option("-w", "--watch", is_flag=True, help="Repeat until Ctrl-C.")(f)

    return add


def look_options(over: str = "300ms") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of commands that print a section of an instance's tables."""

    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        f = name_option(f)
        f = click.option(
            "-o",
            "--output",
            type=Word(["text", "wide", "json"]),
            default="text",
            help="Output format: text fits the terminal, wide shows every column.",
        )(f)
        return watch_options(over)(f)

    return add


def say(text: str, *, err: bool = True) -> None:
    """Print prose; on a terminal, no wider than the terminal."""
    if (sys.stderr if err else sys.stdout).isatty():
        import shutil

        from dpsup.text import fold

        text = fold(text, shutil.get_terminal_size().columns)
    click.echo(text, err=err)


def print_json(doc: Any) -> None:
    import json

    click.echo(json.dumps(doc, indent=2))


def several(ctx: click.Context) -> list[str]:
    """The hosts of `-n host1,host2`; none where one instance is meant."""
    name = (ctx.obj or {}).get("name") or ""
    hosts = list(dict.fromkeys(word.strip() for word in name.split(",") if word.strip()))
    return hosts if "," in name else []


def connect(ctx: click.Context) -> Instance:
    from dpsup.instance.client import connect

    return connect(ctx.obj["name"])
