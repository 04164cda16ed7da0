# SPDX-License-Identifier: BSD-3-Clause
"""From a command to an instance and back: start in the foreground, stop, clean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import queue
import re
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from dpsup.bus.guests import allow_files
from dpsup.bus.messages import as_error
from dpsup.check.captures import promised
from dpsup.check.topology import prepare
from dpsup.errors import DpsupError, Exit, TimedOut, UsageError
from dpsup.host import process, rights, tap
from dpsup.host.machine import Host, read_host
from dpsup.instance import plugins, remains, runtime_dir
from dpsup.instance.client import connect, find, running
from dpsup.instance.far import Far
from dpsup.instance.runtime_dir import Runtime
from dpsup.plan import rights as of
from dpsup.plan.model import Plan, PortPlan, document
from dpsup.plan.place import make_plan
from dpsup.supervisor import adopt, systemd
from dpsup.supervisor.policy import Ending, History, Policy, Verdict, decide
from dpsup.text import plural
from dpsup.topology.load import read

if TYPE_CHECKING:
    from dpsup.documents.printed import LogLine
    from dpsup.documents.status import Summary
    from dpsup.supervisor.model import Model
    from dpsup.topology.model import Topology

_PAGE = re.compile(r"(.*-g\d+map_)\d+")  # a file in hugetlbfs, as EAL names it
LOOK_S = 0.1
STOP_S = 90.0  # beyond the drain: above the sum of all deadlines of an end (test_deadlines.py)


class _Voice:
    """Prints lines on stderr from a thread of its own: a terminal that is stopped, or a pipe
    without a reader, must not stop the supervisor. Lines that do not fit are left out."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text)

    def _run(self) -> None:
        # They are for the main thread, which may have blocked them: see assembly.py's `run`.
        signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)
        while (text := self._lines.get()) is not None:
            _say(text)

    def close(self) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(timeout=1)


def _say(text: str) -> None:
    # The reader may be gone; the instance continues.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _take_over(where: Runtime, plan: Plan | None) -> adopt.Found | int:
    """Holding the lock: the data plane to go on with, or the generation to start, once what a dead
    supervisor left is ended and swept. Without a plan nothing can be started, and nothing is
    ended."""
    state = where.read_state()
    found = adopt.examine(where, state, plan)
    if isinstance(found, adopt.Found):
        _say(f'instance "{where.name}" runs without supervisor: this is its supervisor from now on')
        if found.differs:
            _say(
                f"warning: it goes on with the topology that it was started with; changed since: "
                f"{', '.join(found.differs)}\n"
                f"  help: `dpsup -n {where.name} stop`, then start it, applies them"
            )
        return found
    if found and plan is not None:
        _say(f'instance "{where.name}" runs without supervisor, and is ended: {found}')
    recorded = adopt.recorded_plan(where)
    known = [g.generation for g in (state, recorded) if g is not None]
    if plan is None:
        return 0
    if not where.end_processes(state):
        raise DpsupError(f'processes of a dead "{where.name}" do not end', code="E0609")
    # Those that it goes on with keep their addresses.
    kept = {(p.name, p.kernel_tap, p.kernel_netns) for p in plan.ports}
    left = [p for p in _ports_of(where) if (p.name, p.kernel_tap, p.kernel_netns) not in kept]
    _remove_taps(where.name, left)
    where.sweep()
    if held := remains.in_use(where.name):
        raise DpsupError(
            f'an instance "{where.name}" that is not seen from here uses {held[0]}',
            code="E0483",
            why="it runs in another PID namespace or container, and has the same hugetlbfs: EAL"
            " would take its pages for those of this one",
            help="give one of the two another `name`, or each container a hugetlbfs of its own"
            " (in Kubernetes an emptyDir with medium: HugePages)",
        )
    where.empty_tables()
    return max(known, default=0) + 1


def _remove_taps(instance: str, ports: Iterable[PortPlan]) -> list[str]:
    """Remove TAPs of an instance that has ended, or of ports that are gone. Returns which."""
    return [
        f"interface {port.kernel_tap}"
        for port in ports
        if port.kernel_tap
        and tap.remove(port.kernel_tap, port.kernel_netns, tap.mark_of(instance, port.name))
    ]


def _ports_of(where: Runtime) -> tuple[PortPlan, ...]:
    """As it was started."""
    recorded = adopt.recorded_plan(where)
    return recorded.ports if recorded is not None else ()


class _Crashed(Exception):
    """The supervisor left alone, because of a fault of its own; the data plane may go on."""


class _Again:
    """How often this process has started its supervisor anew, as the environment carries it through
    exec(2): a supervisor that crashes is followed by one that adopts, as under systemd, but not
    without end."""

    NAME = "DPSUP_AGAIN"
    POLICY = Policy(intensity=5, period=60, initial=0.05, factor=2, most=2)

    def __init__(self) -> None:
        self.history = History()
        self.told = False  # the caller of a detached start knows
        self._cpus = os.sched_getaffinity(0)  # before it is pinned to its own
        try:
            level, at, told = os.environ.pop(self.NAME, "").split()
            history = History(float(level), float(at))
            if history.level >= 0 and math.isfinite(history.level) and math.isfinite(history.at):
                self.history, self.told = history, told == "1"
        except ValueError:
            return

    def decide(self) -> float | None:
        """Seconds until the next one; None: there have been too many."""
        now = time.monotonic()
        decision = decide(self.POLICY, self.history, Ending(), wanted=True, now=now)
        self.history = decision.history
        return None if decision.verdict is Verdict.GIVE_UP else decision.delay

    def execute(self, *, told: bool) -> NoReturn:
        """Become the next supervisor, with the same pid and children and nothing else."""
        words = f"{self.history.level} {self.history.at} {int(told)}"
        env = {**os.environ, self.NAME: words}
        # The next one checks the topology against the CPUs that it may use.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, self._cpus)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)


def foreground(
    file: str,
    name: str | None,
    idle_limit: float | None,
    *,
    verbose: bool,
    ready_fd: int | None,
    watch: bool = False,
) -> tuple[int, Summary | None]:
    """Run an instance until it ends. Returns the exit code and the final account, if there is one.

    `ready_fd` is told in one JSON line whether all is ready, then closed. `watch`: as if the
    topology said so.
    """
    again = _Again()
    ready = _Ready(None if again.told else ready_fd)
    try:
        process.ignore_accidents()
        allow_files()
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(sig, _interrupt)
        # A handler, as SIG_IGN would forget one that waits for the supervisor to take it up.
        signal.signal(signal.SIGHUP, lambda *_: None)
        return _run(file, name, idle_limit, verbose, watch, ready, again)
    except KeyboardInterrupt:
        _end_headless(file)
        _say("stopped before it ran")
        return Exit.OK, None
    except _Crashed:
        again.execute(told=again.told or ready.is_told)
    except DpsupError as e:
        ready.tell({"ok": False, "error": as_error(e)})
        raise


_ordered: list[int] = []  # to end, before the supervisor's event loop takes such orders


def _interrupt(order: int, _: object) -> NoReturn:
    """The first order to end raises; what it puts in order is not to be interrupted by another."""
    _ordered.append(order)
    for sig in process.ORDERS:
        signal.signal(sig, signal.SIG_IGN)
    raise KeyboardInterrupt


def _hand_over_orders() -> None:
    """From here on they wait until the supervisor takes them. Raises: KeyboardInterrupt where one
    has come: what raises in a finalizer, Python only prints."""
    signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)
    if _ordered:
        raise KeyboardInterrupt


def _end_headless(file: str) -> None:
    """An order to stop that came before the data plane could be adopted: it is for that, too."""
    left = _headless(file, read_host())
    if left is None:
        return
    left.acquire()
    if left.end_processes(left.read_state()):
        _remove_taps(left.name, _ports_of(left))
        left.sweep()
        left.release()


def _demand_name(wanted: str | None, name: str, file: str) -> None:
    if wanted is not None and wanted != name:
        raise UsageError(
            f'-n {wanted}, but {file} is of instance "{name}"',
            code="E0608",
            help=f'leave -n out, or write name = "{wanted}" in the file',
        )


class _Ready:
    """The descriptor of the command that waits for a detached start; told once."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self.is_told = False

    def tell(self, word: dict[str, Any]) -> None:
        fd, self._fd = self._fd, None
        self.is_told = True
        if fd is not None:
            with contextlib.suppress(OSError):
                os.write(fd, json.dumps(word).encode() + b"\n")
            with contextlib.suppress(OSError):
                os.close(fd)


def _headless(file: str, host: Host) -> Runtime | None:
    """The instance of this file, if it has lost its supervisor: the one that a sound file names,
    else the one that was started with the file."""
    headless = {n: w for n, w in runtime_dir.instances().items() if runtime_dir.is_headless(w)}
    if not headless:
        return None
    reading = read(file, host)
    if reading.topology is not None and reading.sound:
        return headless.get(reading.topology.name)
    for where in headless.values():
        recorded = adopt.recorded_plan(where)
        if recorded is not None and os.path.realpath(recorded.topology_file) == os.path.realpath(
            file
        ):
            return where
    return None


def _host_for(left: Runtime | None, host: Host) -> Host:
    """This machine as an instance finds it: memory that its own data plane has, which lost its
    supervisor, counts as free."""
    recorded = adopt.recorded_plan(left) if left is not None else None
    if recorded is None:
        return host
    memory = recorded.memory
    return host.with_free(memory.page_size, memory.pages_needed)


def _give_up_rights(*plans: Plan | None) -> None:
    """All that neither of these needs: of the file, and of what may be adopted."""
    kept = [of.supervisor(document(plan)) for plan in plans if plan is not None]
    if kept:
        rights.keep(of.mask(frozenset().union(*kept)))


def _run(
    file: str,
    name: str | None,
    idle_limit: float | None,
    verbose: bool,
    watch: bool,
    caller: _Ready,
    again: _Again,
) -> tuple[int, Summary | None]:
    host = read_host()
    left = _headless(file, host)
    host = _host_for(left, host)
    topology: Topology | None = None
    now: Plan | None = None
    unsound: DpsupError | None = None
    try:
        topology, now, problems = prepare(file, host)
    except DpsupError as e:
        # What forwards goes on by what is recorded of it, whatever became of the file.
        if left is None:
            raise
        unsound = e
        where = left
        _demand_name(name, left.name, file)
    else:
        _demand_name(name, now.name, file)
        for problem in problems:
            _say(problem.in_one_line)
        # The file may name another directory by now.
        where = left or Runtime(now.runtime_dir, now.name)
    # From here on there is something to put in order. An order waits until that is sure to happen.
    # What was blocked before, across exec(2), stays so: it is for the supervisor.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)
    try:
        where.acquire()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    _give_up_rights(now, adopt.recorded_plan(left) if left is not None else None)
    voice = _Voice()
    plan: Plan | None = None  # of what runs, or ran
    stays = False  # the data plane, when this supervisor leaves
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stays = bool(where.primaries()) or where.is_held()
        found = _take_over(where, now)
        going_on = found if isinstance(found, adopt.Found) else None
        loaded: dict[str, str] = {}  # one that adopts reads them in state.json
        if unsound is not None:
            if going_on is None:
                raise unsound
            _say(f"{unsound}\n")
            _say(f"warning: {file} cannot be started; what it was when it was started runs on")
        stays = going_on is not None
        if isinstance(found, adopt.Found):
            plan = found.plan
        else:
            assert topology is not None
            named = make_plan(topology, host, found)
            plan = plugins.copied(where.path, named)
            loaded = plugins.digests_of(named.groups, plan.groups)
        if unsound is None:
            _say(f"check      {file}: ok, {_shape(plan)}")
        # Everything else of ours is imported only now: a bad file is told of sooner.
        from dpsup.supervisor import verbs
        from dpsup.supervisor.assembly import Supervisor
        from dpsup.supervisor.model import Model

        def replan(generation: int) -> Plan:
            if topology is None or (going_on and going_on.differs):
                return adopt.next_generation(plan, generation)
            return make_plan(topology, read_host(), generation)

        async def life() -> tuple[int, Supervisor]:
            _hand_over_orders()
            model = Model(plan, where, replan, voice.say, idle_limit)
            model.topologies = (topology, topology) if topology else None
            model.loaded = loaded
            model.watch = watch or (topology is not None and topology.host.watch)
            if idle_limit is not None and topology is not None:
                model.promised = promised(topology, host)
            sup = Supervisor(model, verbs.handle, verbs.VERBS.keys() - verbs.CHANGING)
            sup.core.log.listeners.append(lambda e: _show_line(e, verbose, voice.say))

            def ready() -> None:
                systemd.notify("READY=1")
                voice.say(_ready_line(model))
                caller.tell({"ok": True, "name": plan.name, "pid": os.getpid()})

            sup.life.on_running = _once(ready)
            sup.life.on_stopping = lambda: systemd.notify("STOPPING=1")
            if going_on:
                sup.adopt(going_on)
            beat = asyncio.create_task(systemd.beat())
            try:
                return await sup.run(), sup
            finally:
                beat.cancel()

        process.pin(plan.supervisor_cores)
        try:
            code, sup = asyncio.run(life())
        except DpsupError:
            raise
        except Exception as e:
            if going_on:
                # Before its event loop could say so; what it was to adopt forwards.
                _say("".join(traceback.format_exception(e)))
                _follow_itself(True, again, file)
            raise
        stays = sup.leaves_alone
        if stays:
            stays = sup.model.rx_on
            _follow_itself(stays, again, file)
    except _Crashed:
        stays = True
        raise
    except KeyboardInterrupt:
        stays = False
        raise
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, process.ORDERS)  # the last moment for one
        finally:
            voice.close()
            if not stays:
                where.end_processes(where.read_state())
                if plan is not None:
                    _remove_taps(where.name, plan.ports)
                where.sweep()
                where.release()
    model = sup.model
    if sup.core.crashed is not None:
        raise DpsupError(f"internal error: {sup.core.crashed!r}", code="E0001")
    if model.failure is not None:
        raise model.failure
    if idle_limit is not None and (model.summary is None or _has_loss(model.summary)):
        code = code if model.interrupted else Exit.FAILED
    if model.summary is not None:
        from dpsup.supervisor.outputs import complaints

        not_read = [] if model.interrupted else model.summary["unread"]
        for one in complaints(model.summary["unwritten"], not_read):
            _say(f"error[{one.code}]: {one}")
            code = code or Exit.FAILED
    return code, model.summary


def _follow_itself(forwards: bool, again: _Again, file: str) -> None:
    """After a crash that leaves the data plane alone. Raises: _Crashed, for another supervisor in
    this process; DpsupError where there have been too many. Returns where nothing forwards yet,
    and everything is to be ended."""
    delay = again.decide()
    if delay is not None:
        _say("the supervisor failed and starts again; forwarding goes on (`dpsup logs supervisor`)")
        time.sleep(delay)
        raise _Crashed
    if forwards:
        raise DpsupError(
            "the supervisor failed too often: the data plane goes on without it",
            code="E0001",
            why="a process that dies now is followed by a spare, where one is left, and no other",
            help=f"`dpsup start {file}` adopts it, `dpsup logs supervisor` shows what failed",
        )


def _has_loss(summary: Summary) -> bool:
    """Is anything of a job not accounted for: lost inside, or never received?"""
    return bool(
        summary["lost"]
        or summary["in_flight"]
        or summary["missed"]
        or any(p["unexplained"] for p in summary["audit"])
    )


def _once(f: Callable[[], None]) -> Callable[[], None]:
    done = False

    def once() -> None:
        nonlocal done
        if not done:
            done = True
            f()

    return once


def _shape(plan: Plan) -> str:
    counts = (
        (len(plan.ports), "port"),
        (len(plan.io), "io core"),
        (len(plan.groups), "group"),
        (sum(g.count for g in plan.groups), "worker"),
    )
    return (
        ", ".join(plural(n, word) for n, word in counts)
        + f", {plan.memory.total >> 20} MiB of hugepages"
    )


def _ready_line(model: Model) -> str:
    groups = ", ".join(f"{g.plan.name} {g.desired}" for g in model.groups)
    name = model.name
    return f"{name} is running: {groups} ready.  dpsup status · dpsup events -f · dpsup stop"


def _show_line(entry: LogLine, verbose: bool, say: Callable[[str], None]) -> None:
    if verbose or entry["name"] not in ("primary", "seed"):
        say(f"{entry['name']:10} {entry['line']}")


def stop(name: str | None, drain: float | None) -> None:
    """Stop an instance and wait for its end; a headless one is ended and swept."""
    where = find(name)
    where.demand_access()
    if isinstance(where, Far):  # its end is told by no file of ours
        with connect(where.name) as instance:
            instance.stop(drain)
        return
    if runtime_dir.is_headless(where):
        where.acquire(start=False)
        if not where.end_processes(where.read_state()):
            raise TimedOut("the data plane does not end", code="E0610")
        _remove_taps(where.name, _ports_of(where))
        where.sweep()
        where.release()
        return
    with connect(where.name) as instance:
        pid = instance.stop(drain)["pid"]
    _await_end(where, pid, (drain or 5.0) + STOP_S)
    # The supervisor may be gone before its directory is (a slow disk): a moment, no more.
    deadline = time.monotonic() + 1
    while where.path.exists() and where.is_supervised() and time.monotonic() < deadline:
        time.sleep(0.01)


def _await_end(where: Runtime, pid: int, timeout: float) -> None:
    """Until the supervisor is gone, or has given back its directory, its last act: a thread of it
    may still wait for a disk that hangs, and the process with it. Raises: TimedOut."""
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            while not select.select([pidfd], [], [], LOOK_S)[0]:
                if not where.is_supervised():
                    return
                if time.monotonic() > deadline:
                    raise TimedOut(f"supervisor {pid} is still stopping", code="E0610")
        finally:
            os.close(pidfd)


def _removed(paths: list[str]) -> list[str]:
    """One line for each, and one for all hugepages of a generation."""
    pages = Counter(m[1] for p in paths if (m := _PAGE.fullmatch(p)))
    done = [f"removed {p}" for p in paths if not _PAGE.fullmatch(p)]
    return done + [f"removed {plural(n, 'hugepage')}, {of}*" for of, n in sorted(pages.items())]


def clean(name: str | None) -> list[str]:
    """Sweep dead instances, or one. A headless one is ended only when it is named."""
    done = []
    live = running()
    for one, where in runtime_dir.instances().items():
        if (name and one != name) or where.is_supervised() or (one in live and not name):
            continue
        try:
            where.demand_access()
            where.acquire(start=False)
        except DpsupError as e:
            done.append(e.message)
            continue
        if where.primary() is None and where.is_held():
            done.append(f'instance "{one}" forwards in another PID namespace: it is left alone')
            where.unlock()
            continue
        if not where.end_processes(where.read_state()):
            done.append(f'processes of instance "{one}" do not end: it is left alone')
            where.unlock()
            continue
        done += _removed(_remove_taps(where.name, _ports_of(where)))
        done += _removed(where.sweep())
        where.release()
        done.append(f"removed {where.path}")
    # Their runtime directory was removed, or its tmpfs is gone with a container.
    for one in remains.names() - runtime_dir.instances().keys():
        if not name or one == name:
            done += _removed(remains.remove(one, os.geteuid()))
    return done
