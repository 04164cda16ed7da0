# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup advise`: what a running instance shows over a window, what to change, what that brings.

`window` makes numbers of some looks, `pools`, `lanes`, `cores` answer one question each in terms of
those numbers, `piece` is one answer, `report` puts them together; all of that is pure. `command`
does the looking.
"""

from __future__ import annotations

# Every kind of advice there is, in the order of its questions.
KINDS = {
    "pool-empty": "a mempool ran out of mbufs",
    "pool-low": "a mempool is about to run out",
    "pool-cache": "the io cores' mempool caches are too small, or hold too much",
    "rx-queue": "bursts find a port's rx queues full: deeper ones",
    "io-cores": "the io cores do not keep up: more of them",
    "io-burst": "an io core spends its time on turns, not packets: larger bursts",
    "lane-ring": "bursts find lanes full whose worker has time: longer lanes",
    "workers": "workers do not keep up: more of them",
    "skew": "some workers have much more than others: spread the buckets",
    "numa": "packets cross from one NUMA node to another",
    "idle": "what an io core does without packets does not fit its CPU",
}
