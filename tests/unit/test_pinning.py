# SPDX-License-Identifier: BSD-3-Clause
"""Threads that the kernel took off their CPUs, and puts nowhere by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from dpsup.supervisor.pinning import EVERY_S, Pinning


class Kernel:
    """Affinities by thread; CPUs that are not there cannot be chosen."""

    def __init__(self, cpus: int, **threads: int) -> None:
        self.there = set(range(cpus))
        self.on: dict[int, set[int]] = {int(tid[1:]): {cpu} for tid, cpu in threads.items()}
        self.pinned = 0

    def read(self, tid: int) -> Iterable[int]:
        if tid not in self.on:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return self.on[tid]

    def pin(self, tid: int, cpus: Iterable[int]) -> None:
        self.pinned += 1
        if not set(cpus) & self.there:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.on[tid] = set(cpus) & self.there

    def offline(self, cpu: int) -> None:
        """What Linux does: those that could run nowhere else may run anywhere."""
        self.there.discard(cpu)
        for tid, cpus in self.on.items():
            self.on[tid] = cpus & self.there or set(self.there)


OURS = [("fw/0", 10, 2), ("fw/1", 11, 3), ("io core 0", 12, 1)]


def test_a_cpu_goes_and_comes_back() -> None:
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    assert not kernel.pinned
    kernel.offline(3)
    (said,) = pinning.observe(OURS)
    assert said["name"] == "fw/1"
    assert said["message"] == (
        "cannot run on CPU 3, offline or outside of its cpuset (Invalid argument): runs on 0-2"
    )
    assert pinning.observe(OURS) == []  # once
    kernel.there.add(3)
    assert pinning.observe(OURS) == [{"name": "fw/1", "message": "runs on CPU 3 again"}]
    assert kernel.on[11] == {3}
    assert pinning.observe(OURS) == []


def test_a_cpu_that_came_back_at_once_is_taken_again() -> None:
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    kernel.offline(1)
    kernel.there.add(1)
    said = pinning.observe(OURS)
    assert said == [{"name": "io core 0", "message": "runs on CPU 1 again"}]


def test_the_next_process_of_a_worker_may_be_where_it_belongs() -> None:
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    kernel.offline(2)
    assert len(pinning.observe(OURS)) == 1
    kernel.there.add(2)
    kernel.on[20] = {2}
    told = pinning.observe([("fw/0", 20, 2), *OURS[1:]])
    assert told == [{"name": "fw/0", "message": "runs on CPU 2 again"}]


def test_what_a_person_put_elsewhere_or_has_ended_is_left_alone() -> None:
    kernel = Kernel(4, t10=0, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    for _ in range(3):
        assert pinning.observe(OURS) == []
        assert kernel.on[10] == {0}
    asked = kernel.pinned
    kernel.offline(2)  # its own, which it has left
    assert pinning.observe(OURS) == []
    kernel.there.add(2)
    assert pinning.observe(OURS) == []
    assert kernel.on[10] == {0} and kernel.pinned == asked  # not touched once it is known
    # Put back by hand: from now on it is as any other.
    kernel.on[10] = {2}
    assert pinning.observe(OURS) == []
    kernel.offline(2)
    assert len(pinning.observe(OURS)) == 1


def test_one_cpu_that_is_left_is_no_choice_of_a_person() -> None:
    """A cpuset that shrinks to one CPU, or a machine of two of which one goes offline."""
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    for cpu in (0, 2, 3):
        kernel.offline(cpu)
    assert kernel.on == {10: {1}, 11: {1}, 12: {1}}
    assert [one["message"] for one in pinning.observe(OURS)] == [
        f"cannot run on CPU {cpu}, offline or outside of its cpuset (Invalid argument): runs on 1"
        for cpu in (2, 3)
    ]
    assert pinning.observe(OURS) == []
    assert kernel.on == {10: {1}, 11: {1}, 12: {1}}
    kernel.there |= {2, 3}
    assert [one["message"] for one in pinning.observe(OURS)] == [
        f"runs on CPU {cpu} again" for cpu in (2, 3)
    ]
    assert kernel.on == {10: {2}, 11: {3}, 12: {1}}


def test_a_worker_that_is_gone_is_forgotten() -> None:
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    kernel.offline(3)
    assert len(pinning.observe(OURS)) == 1
    assert pinning.observe(OURS[:1]) == []
    assert pinning.observe(OURS) == []  # another thread, or one that is new
    assert len(pinning.observe(OURS)) == 1


def test_it_looks_now_and_then() -> None:
    pinning = Pinning()
    assert pinning.is_due(5.0)
    assert not pinning.is_due(5.0 + EVERY_S / 2)
    assert pinning.is_due(5.0 + EVERY_S)


def test_one_on_its_way_to_its_cpu_is_no_event() -> None:
    """A worker takes its CPU some time after its fork."""
    kernel = Kernel(4, t10=2, t11=3, t12=1)
    pinning = Pinning(kernel.read, kernel.pin)
    assert pinning.observe(OURS) == []
    kernel.on[20] = {0, 1}
    assert pinning.observe([("fw/0", 20, 2), *OURS[1:]]) == []
    kernel.on[20] = {2}
    assert pinning.observe([("fw/0", 20, 2), *OURS[1:]]) == []
    assert not kernel.pinned
