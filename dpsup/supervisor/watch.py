# SPDX-License-Identifier: BSD-3-Clause
"""`[host] watch = true`: applies files that change, as a person would with `reload` and `rollout`.

It looks at the topology file, at the files that it hands to plugins or live tables, and at
plugins. A path is followed through symbolic links: the kubelet changes the files of a ConfigMap
all at once, by a new target of the link `..data`. A change is applied once two looks have found the
same, so that a file that is written in place is complete. What is refused is said once, and not
tried again before the next change.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from dpsup.errors import DpsupError
from dpsup.instance import plugins
from dpsup.supervisor.core import Core
from dpsup.supervisor.disk import aside
from dpsup.supervisor.model import Group, Model
from dpsup.supervisor.rollout import Options
from dpsup.supervisor.rollouts import Rollouts, ended

LOOK_S = 1.0

Seen = tuple[tuple[int, ...], ...]


def _identity(path: str) -> tuple[int, ...]:
    """What changes with a file's contents; () where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identities(paths: list[str]) -> Seen:
    return tuple(_identity(path) for path in paths)


class Change:
    """Says once that something has changed and stands still: `see` what is there. What was there
    before the first look is not known: that is a change, too."""

    def __init__(self) -> None:
        self._applied: Seen = ()
        self._last: Seen | None = None

    def see(self, seen: Seen) -> bool:
        still, self._last = seen == self._last, seen
        if not still or seen == self._applied:
            return False
        self._applied = seen
        return True


class Watch:
    """`reload` applies the topology file, and says the outcome as an event."""

    def __init__(
        self, core: Core, model: Model, rollouts: Rollouts, reload: Callable[[], Awaitable[None]]
    ) -> None:
        self._core, self._model, self._rollouts, self._reload = core, model, rollouts, reload
        self._paths: list[str] = []
        self._file = Change()
        self._plugins = {g.plan.name: Change() for g in model.groups}

    async def run(self) -> None:
        while True:
            if self._model.is_open and self._model.watch:
                await self.once()
            await asyncio.sleep(LOOK_S)

    async def once(self) -> None:
        paths = self._files()
        if paths != self._paths:
            # Also the first time: the file may have changed since the start read it. A reload of
            # what runs already changes nothing.
            self._paths, self._file = paths, Change()
        if self._file.see(await aside(lambda: identities(paths))):
            await self._reload()
        for group in self._model.groups:
            await self._plugin(group)

    def _files(self) -> list[str]:
        """The topology file first, which may name others after a reload."""
        found = [self._model.plan.topology_file]
        if self._model.topologies is not None:
            for group in self._model.topologies[1].workers:
                found += [file for _, file in group.files]
                found += [table.file for table in group.tables if table.file]
        return list(dict.fromkeys(found))

    async def _plugin(self, group: Group) -> None:
        """A file that is no longer what runs is rolled out: PluginFiles has compared them."""
        path = group.plan.plugin_path
        if not path or group.on_disk != plugins.CHANGED:
            return
        if not self._plugins[group.plan.name].see(await aside(lambda: identities([path]))):
            return
        try:
            one = await self._rollouts.begin(group, path, None, Options())
            if one is None:
                return
            await ended(one)
            failed = one.failed
        except DpsupError as e:
            failed = e.message
        if failed:
            self._core.events.add(
                type="warning",
                name=group.plan.name,
                message=f"watch: {path} has changed and was not rolled out: {failed}",
            )
