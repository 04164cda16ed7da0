# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup advise`: measures a running instance over a window, and suggests changes and their effect.

`window` turns some looks into numbers, `pools`, `lanes` and `cores` derive advice from these
numbers, `piece` is one piece of advice, `report` collects them; all of that is pure. `command`
looks at the instance.
"""

from __future__ import annotations

# Every kind of advice, in the order of the report.
KINDS = {
    "pool-empty": "a mempool ran out of mbufs",
    "pool-low": "a mempool is about to run out",
    "pool-cache": "the io cores' mempool caches are too small or too large",
    "rx-queue": "bursts overflow a port's rx queues: make them deeper",
    "io-cores": "the io cores do not keep up: add some",
    "io-burst": "an io core spends its time between bursts: use larger bursts",
    "lane-ring": "bursts overflow the lanes of workers that have time: use longer lanes",
    "workers": "workers do not keep up: add some",
    "crowded": "a worker shares its CPU with other threads and lacks time",
    "skew": "some workers have much more load than others: spread the buckets",
    "tunnel": "a tunnel's packets all go to few workers: hash its inner headers",
    "numa": "packets cross from one NUMA node to another",
    "idle": "an io core's idle setting does not suit its CPU",
}
