# SPDX-License-Identifier: BSD-3-Clause
"""Case `python`: plugins in Python from null port to null port, against the same ones in C."""

from __future__ import annotations

from pathlib import Path

from dpsup.bench import rigs
from dpsup.bench.meter import segments
from dpsup.bench.model import Reading
from dpsup.bench.path import throughput
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step

INIT = """
from dpsup import plugin as dps

rewrites = {rewrites}
leaves_by = {{}}


def init(env):
    for index, name in enumerate(env.ports):
        leaves_by[index] = dps.out(dps.port(env.args[f"map.{{name}}"]))


def packet(p):
"""
SOURCES = {
    "forward": INIT.format(rewrites=0) + "    return leaves_by[p.port]\n",
    "macswap": INIT.format(rewrites=12)
    + """    head = p.head
    head[0:6], head[6:12] = bytes(head[6:12]), bytes(head[0:6])
    return leaves_by[p.port]
""",
}


def steps(setup: Setup) -> list[Step]:
    """One worker of each, one right after the other; packets of 64 bytes."""

    def step(name: str) -> Step:
        def measure(plugin: str, watch: Watch) -> list[Reading]:
            body = POOL + TWO_NULL + group(plugin, setup.cores)

            def prepare(directory: Path) -> None:
                (directory / f"{name}.py").write_text(SOURCES[name])

            with rigs.instance(body, setup.cores, prepare=prepare) as rig, rig.meter() as meter:
                pids = rig.pids()
                watch.threads([pids["primary"], pids["fw/0"]])
                found = segments(meter.sent, setup.seconds, watch.polled)
                watch.threads_done()
            return throughput(f"python/{name}" if "/" in plugin else name, found)

        def run(watch: Watch) -> list[Reading]:
            in_c = [r.value for r in measure(name, watch) if r.name == name]
            found = measure(f"./{name}.py", watch)
            ours = [r.value for r in found if r.name == f"python/{name}"]
            return [*found, Reading(f"python/{name}/share_of_c", median(ours) / median(in_c), "×")]

        return Step(f"python/{name}", run)

    return [step(name) for name in SOURCES]
