# SPDX-License-Identifier: BSD-3-Clause
"""Commands that change a running instance while packets flow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from dpsup import limits
from dpsup.cli.options import (
    connect,
    duration,
    live,
    name_option,
    output_option,
    print_json,
    several,
    share,
)
from dpsup.errors import Exit, UsageError

if TYPE_CHECKING:  # start-up: they need 5 ms
    from dpsup.documents.printed import Revisions, Rolled, Rollouts, Scale
    from dpsup.instance.client import Instance


# "-1" is a number of workers, not an option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("group", shell_complete=live("groups"))
@click.argument("n")
@click.option("--wait/--no-wait", default=True, help="Return once the workers are ready.")
@click.option("--dry-run", is_flag=True, help="Print the changes without applying them.")
@output_option
@name_option
@click.pass_context
def scale(ctx: click.Context, group: str, n: str, wait: bool, dry_run: bool, output: str) -> None:
    """Set the number of workers in GROUP to N, or change it by +N or -N; no packet is lost.

    `workers` names the only group. The exit code is 1 if a worker refuses to start and is held.

    \b
      dpsup scale workers 4
      dpsup scale fw +1 --dry-run
    """
    if not n.lstrip("+-").isdigit() or n.lstrip("+-") not in (n, n[1:]):
        if n.startswith("-"):
            raise click.NoSuchOption(n, ctx=ctx)
        raise click.BadParameter(f"'{n}' is not a number: write 4, +1 or -1", param_hint="'N'")
    if hosts := several(ctx):
        from dpsup.cli import fleet

        fleet.each(
            ctx, hosts, lambda one: one.scale(group, n, wait=wait, dry_run=dry_run),
            lambda doc: _show_scale(doc, dry_run=dry_run), output,
            of=lambda doc: _scale_code(doc, dry_run=dry_run),
        )  # fmt: skip
        return
    with connect(ctx) as instance:
        doc = instance.scale(group, n, wait=wait, dry_run=dry_run)
    if output == "json":
        print_json(doc)
    else:
        _show_scale(doc, dry_run=dry_run)
    if code := _scale_code(doc, dry_run=dry_run):
        _say_held(doc)
        ctx.exit(code)


def _show_scale(doc: Scale, *, dry_run: bool) -> None:
    if dry_run:
        from dpsup.view.terminal import print_scale

        print_scale(doc)
    elif doc["old"] == doc["desired"]:
        click.echo(f"{doc['group']}: unchanged, {doc['ready']} of {doc['desired']} ready")
    else:
        click.echo(
            f"{doc['group']}: {doc['old']} -> {doc['desired']} workers, {doc['ready']} ready"
        )


def _scale_code(doc: Scale, *, dry_run: bool) -> int:
    # An older supervisor tells of none that are held.
    return int(Exit.FAILED) if doc.get("held") and not dry_run else 0


def _say_held(doc: Scale) -> None:
    from dpsup.cli.options import say

    for worker, why in doc["held"].items():
        say(f"{worker} is held, {why}: `dpsup logs {worker}`, `dpsup reset-failed {worker}`")


@click.command()
@click.argument("group", default="workers", shell_complete=live("groups"))
@click.option("--dry-run", is_flag=True, help="Measure and predict; move nothing.")
@click.option("--over", default="1s", callback=duration, help="How long to measure (1s).")
@output_option
@name_option
@click.pass_context
def rebalance(ctx: click.Context, group: str, dry_run: bool, over: float, output: str) -> None:
    """Spread GROUP's load evenly: measure each bucket, then move the buckets that help.

    \b
      dpsup rebalance fw --dry-run
      dpsup rebalance fw --over 5s
    """
    with connect(ctx) as instance:
        doc = instance.rebalance(group, over, dry_run=dry_run)
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view.terminal import print_rebalance

        print_rebalance(doc)


def judging_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """How a new version is brought in, and what undoes it."""
    options = (
        click.option(
            "--canary", type=click.IntRange(0), default=1, help="Slots to change first (1)."
        ),
        click.option(
            "--max-unavailable", type=click.IntRange(1), default=1,
            help="Slots to change at a time (1).",
        ),
        click.option(
            "--judge", metavar="TIME", default="2s", callback=duration,
            help="How long to measure the old version, the canary, and then all workers (2s); "
            "0s: measure nothing.",
        ),
        click.option(
            "--more-drops", metavar="SHARE", default="1%", callback=share,
            help="Largest increase of the share of packets that are dropped or find the lane full "
            "(1%).",
        ),
        click.option(
            "--slower", metavar="SHARE", default="100%", callback=share,
            help="Largest increase of cycles per packet (100%).",
        ),
        click.option(
            "--forget-state", is_flag=True,
            help="Also if the new version begins without what the old version keeps.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        f = option(f)
    return f


_ROLLOUT_VERBS = ("status", "undo", "history")


@click.command(options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@click.option(
    "--plugin", help="The new version: ./fw-2.so, ./fw-2.py, or the name of a built-in plugin."
)
@click.option("--args", "args", multiple=True, metavar="K=V ...", help="Arguments to change.")
@judging_options
@click.option("--wait", is_flag=True, help="Return at the end; exit code 1 if it was undone.")
@output_option
@name_option
@click.pass_context
def rollout(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    plugin: str | None,
    args: tuple[str, ...],
    wait: bool,
    output: str,
    **options: Any,
) -> None:
    """Replace GROUP's plugin, worker by worker, while packets flow: no packet is lost.

    WORDS is GROUP, or `status`, `undo` or `history` with or without a group.

    A canary is changed first and judged, then the rest. If the new version crashes, is stuck,
    drops more packets or is slower than the old version by more than the margins, all workers
    return to the old version.

    \b
      dpsup rollout fw --plugin ./fw-2.so --wait
      dpsup rollout fw --args cycles=100 map.wan=lan --judge 10s
      dpsup rollout status
      dpsup rollout undo fw
      dpsup -n edge1,edge2 rollout fw --plugin /opt/fw-2.so    host after host

    With several hosts, the first that goes back ends it: those after it keep the old version.
    """
    first, *rest = words
    call: Callable[[Instance], Any]
    if first in _ROLLOUT_VERBS:
        if plugin or args or len(rest) > 1:
            raise UsageError(f"`rollout {first}` takes a group and nothing else", code="E0002")
        call = {
            "status": lambda one: one.rollout_status(*rest),
            "history": lambda one: one.rollout_history(*rest),
            "undo": lambda one: one.rollout_undo(*rest, forget_state=options["forget_state"]),
        }[first]
    else:
        pairs = _pairs((*args, *rest))
        if plugin is None and not pairs:
            raise UsageError("nothing to roll out: give --plugin or --args", code="E0002")
        if plugin is not None and limits.is_plugin_file(plugin):
            # Spelled as the topology's reader does: `..` resolved, links kept.
            plugin = os.path.abspath(plugin)  # noqa: PTH100
        wait = wait or bool(several(ctx))  # host after host

        def call(one: Instance) -> Any:
            return one.rollout(first, plugin, pairs or None, wait=wait, **options)

    if hosts := several(ctx):
        from dpsup.cli import fleet

        def show(doc: Any) -> None:
            _show_rollout(first, doc)

        if first in _ROLLOUT_VERBS:
            fleet.each(ctx, hosts, call, show, output, reads=first != "undo")
        else:
            fleet.rollout(ctx, hosts, call, show, output)
        return
    with connect(ctx) as instance:
        doc = call(instance)
    if output == "json":
        print_json(doc)
    else:
        _show_rollout(first, doc)
    if first in _ROLLOUT_VERBS:
        return
    rolled = cast("Rolled", doc)
    if rolled["changed"] and rolled["phase"] in ("undone", "stuck"):
        ctx.exit(Exit.FAILED)


def _show_rollout(first: str, doc: Rollouts | Revisions | Rolled) -> None:
    from dpsup.view import terminal

    if first == "status":
        terminal.print_rollouts(cast("Rollouts", doc))
    elif first == "history":
        terminal.print_revisions(cast("Revisions", doc))
    else:
        terminal.print_rollout(cast("Rolled", doc))


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageError(f'"{word}": an argument is written KEY=VALUE', code="E0002")
        if key.startswith(limits.FILE):
            value = os.path.abspath(value)  # noqa: PTH100
        found[key] = value
    return found


@click.command()
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--dry-run", is_flag=True, help="Print the changes without applying them.")
@click.option("--partial", is_flag=True, help="Apply the changes that need no restart.")
@judging_options
@output_option
@name_option
@click.pass_context
def reload(
    ctx: click.Context,
    /,
    file: str | None,
    dry_run: bool,
    partial: bool,
    output: str,
    **options: Any,
) -> None:
    """Apply the changed topology in FILE, by default the file that the instance was started with.

    Prints first which changes take effect at once, which worker by worker, and which need a
    restart. If one needs a restart, nothing is changed and the exit code is 1, unless --partial.
    A new plugin is judged as `dpsup rollout` does: --more-drops 100% brings in one that is meant to
    drop more.

    \b
      dpsup reload --dry-run
      dpsup reload /etc/dpsup/edge.toml
    """
    from dpsup.view.terminal import print_reload, print_reloaded

    # Likewise: it is compared with the path that the instance was started with.
    path = os.path.abspath(file) if file else ""  # noqa: PTH100
    with connect(ctx) as instance:
        doc = instance.reload(path, dry_run=True)
        if output == "text":
            print_reload(doc)
        blocked = doc["restart_needed"] and not partial
        if not dry_run and not blocked and doc["changes"]:
            doc = instance.reload(path, partial=partial, **options)
            if output == "text":
                print_reloaded(doc)
        elif output == "text" and doc["changes"]:
            click.echo("Nothing was changed" + (" (--dry-run)." if dry_run else "."))
    if output == "json":
        print_json(doc)
    if blocked or doc["failed"]:
        ctx.exit(Exit.FAILED)
