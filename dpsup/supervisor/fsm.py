# SPDX-License-Identifier: BSD-3-Clause
"""The state machine of topology, primary, seed and workers: one table, every pair answered.

A machine is a state and, for workers, whether it is wanted; *why* it ended is a third fact, which
policy.py judges. A cell says the next state and the actions, `-` that the event changes nothing
there. The supervisor has one method for each action; nothing else assigns a state.
"""

from __future__ import annotations

from dataclasses import dataclass

# An event that cannot matter in a state is answered by `-`, on purpose and cell by cell.
TABLES = {
    # The process that holds ports and memory. late: a deadline passed. adopt: it runs already, the
    # supervisor is new.
    "primary": """
    state     start           adopt    ready             stop            died            late           swept
    absent    starting:spawn  running  -                 -               -               -              -
    starting  -               -        running:announce  stopping:kill   lost:sweep      starting:kill  -
    running   -               -        -                 stopping:quit   lost:sweep      -              -
    stopping  -               -        -                 -               lost:sweep      stopping:kill  -
    lost      -               -        -                 -               -               -              absent:report
    """,
    # The process that forks workers; a dead one is replaced, its workers live on.
    "seed": """
    state      start            adopt      ready         stop           died            late            lost
    absent     attaching:spawn  attaching  -             -              -               -               -
    attaching  -                -          running:fill  stopping:kill  absent:replace  attaching:kill  -
    running    -                -          -             stopping:quit  absent:replace  -               -
    stopping   -                -          -             -              absent:report   stopping:kill   -
    """,
    # A slot and its sitter. retry, again, give_up, rest: the policy's verdict once its lanes are
    # repaired; succeeded: it died, and a spare has its place already; unborn: no process was forked
    # after all; lost: the primary is gone, the slot with it. found, recall, hold: a new supervisor
    # finds a process there, none yet, or that it had been given up.
    "worker": """
    state       start          found           recall        hold           stop              restart          unborn             ready         drained        died               succeeded        late           retry                  again          give_up            rest              due            lost
    stopped     starting:fork  starting:await  backoff:wait  held:rebucket  -                 -                -                  -             -              -                  -                -              -                      -              -                  -                 -              -
    starting    -              -               -             -              draining:kill     -                starting:fork      running:feed  -              recovering:repair  running:succeed  starting:kill  -                      -              -                  -                 -              stopped:forget
    running     -              -               -             -              draining:unfeed   draining:unfeed  -                  -             -              recovering:repair  running:succeed  -              -                      -              -                  -                 -              stopped:forget
    draining    -              -               -             -              -                 -                recovering:repair  -             draining:halt  recovering:repair  draining:unfeed  draining:kill  -                      -              -                  -                 -              stopped:forget
    recovering  -              -               -             -              -                 -                -                  -             -              -                  -                -              backoff:rebucket,wait  starting:fork  held:rebucket,say  stopped:rebucket  -              stopped:forget
    backoff     -              -               -             -              stopped:rebucket  starting:fork    -                  -             -              -                  -                -              -                      -              -                  -                 starting:fork  stopped:forget
    held        -              -               -             -              stopped:rebucket  starting:fork    -                  -             -              -                  -                -              -                      -              -                  -                 -              stopped:forget
    """,
    # whole: every group has as many ready as desired, and no port is absent; short: not so. opened:
    # packets are let in.
    "topology": """
    state     start           adopt            whole             short              opened          stop                fail                primary_lost       gone
    stopped   starting:begin  starting:rejoin  -                 -                  -               -                   -                   -                  -
    starting  -               -                starting:open     -                  running:opened  stopping:wind_down  stopping:wind_down  starting:again     -
    running   -               -                -                 degraded:announce  -               stopping:wind_down  stopping:wind_down  starting:again     -
    degraded  -               -                running:announce  -                  -               stopping:wind_down  stopping:wind_down  starting:again     -
    stopping  -               -                -                 -                  -               -                   -                   -                  stopped:finish
    """,
}


@dataclass(frozen=True, slots=True)
class Step:
    state: str
    actions: tuple[str, ...] = ()


def _read(text: str) -> dict[tuple[str, str], Step]:
    header, *rows = (line.split() for line in text.strip().splitlines())
    table: dict[tuple[str, str], Step] = {}
    for state, *cells in rows:
        for event, cell in zip(header[1:], cells, strict=True):
            if cell == "-":
                table[state, event] = Step(state)
            else:
                to, _, actions = cell.partition(":")
                table[state, event] = Step(to, tuple(actions.split(",")) if actions else ())
    return table


TABLE = {machine: _read(text) for machine, text in TABLES.items()}

STATES = {m: tuple(dict.fromkeys(s for s, _ in t)) for m, t in TABLE.items()}
EVENTS = {m: tuple(dict.fromkeys(e for _, e in t)) for m, t in TABLE.items()}
ACTIONS = {m: frozenset(a for s in t.values() for a in s.actions) for m, t in TABLE.items()}


def step(machine: str, state: str, event: str) -> Step:
    """What `event` makes of a machine in `state`. Total: every pair has an answer."""
    return TABLE[machine][state, event]
