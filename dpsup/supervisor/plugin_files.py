# SPDX-License-Identifier: BSD-3-Clause
"""Tells when the plugin files that the topology names are no longer what runs."""

from __future__ import annotations

import asyncio
from functools import partial

from dpsup.instance import plugins
from dpsup.supervisor.core import Core
from dpsup.supervisor.disk import aside
from dpsup.supervisor.model import Group, Model

LOOK_S = 1.0  # between two looks


class PluginFiles:
    def __init__(self, core: Core, model: Model) -> None:
        self._core, self._model = core, model

    async def run(self) -> None:
        while True:
            for group in self._model.groups:
                try:
                    await self.compare(group)
                except Exception as e:
                    self._core.fault("plugin files", e)
            await asyncio.sleep(LOOK_S)

    async def compare(self, group: Group) -> None:
        """On a thread of its own: a file system that hangs must not stop the supervisor."""
        plan = group.plan
        found = await aside(partial(plugins.on_disk, plan.plugin_path, plan.plugin_copy))
        before, group.on_disk = group.on_disk, found
        if found in (plugins.CHANGED, plugins.MISSING) and found != before and plan == group.plan:
            was = "has changed" if found == plugins.CHANGED else "is gone"
            self._core.events.add(
                type="advice",
                name=plan.name,
                message=f"{plan.plugin_path} {was} on disk; the workers go on with their copy"
                + (
                    f": `dpsup rollout {plan.name} --plugin {plan.plugin_path}` starts the new one"
                    if found == plugins.CHANGED
                    else ""
                ),
            )
