# SPDX-License-Identifier: BSD-3-Clause
"""Are the mempools large enough, and their caches of the right size? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpsup.advise.piece import FASTER, LOSING, RISK, Effect, Key, Piece
from dpsup.advise.window import MBUF_MORE, Window, mersenne, pool_need
from dpsup.text import listing
from dpsup.view.columns import percent, si

LOW = 0.08  # of a pool: it is low if fewer were ever free
SOON_S = 120.0  # until a shrinking pool is empty
CACHED = 0.25  # of a low pool: if caches hold more, they are too large
CACHE_BURSTS = 8  # that a cache should hold: 8 of 32 packets are 256
WORKS = 0.3  # of an io core's time: below this its cost does not matter
_PLACES = {
    "rx_rings": "in rx queues",
    "tx_rings": "in tx queues",
    "lanes": "in lanes",
    "io": "with io cores",
    "cached": "in io cores' caches",
    "quarantine": "in quarantine",
    "unexplained": "nowhere (`dpsup audit --detail`)",
}


def holders(window: Window, name: str) -> str:
    """Where a pool's mbufs are, the most first."""
    audit = window.audits.get(name)
    if audit is None:
        return ""
    counts: Mapping[str, Any] = audit
    some = sorted(
        ((counts[k], words) for k, words in _PLACES.items() if counts[k] > 0), reverse=True
    )
    return listing([f"{n} {words}" for n, words in some[:4]]) if some else ""


def _mbytes(window: Window, index: int, more: int) -> str:
    size = more * (window.plan["pools"][index]["data_room"] + MBUF_MORE)
    return f"{size / (1 << 20):.0f} MiB"


def pools(window: Window) -> Iterator[Piece]:
    for index, pool in enumerate(window.plan["pools"]):
        found = window.pools.get(pool["name"])
        if found is None:
            continue
        size = found["size"]
        empty = found["alloc_failures_per_s"] > 0
        shrinks = found["empty_in_s"] is not None and found["empty_in_s"] < SOON_S
        low = min(found["least_free"], found["low_water"])
        if not (empty or shrinks or low < size * LOW):
            continue
        audit = window.audits.get(pool["name"])
        if audit and audit["cached"] >= size * CACHED:
            smaller = _less_cache(window, index)
            if smaller is not None:
                yield smaller
                continue
        yield _more(window, index, empty=empty)


def _more(window: Window, index: int, *, empty: bool) -> Piece:
    pool = window.plan["pools"][index]
    name = pool["name"]
    found = window.pools[name]
    size, low = found["size"], min(found["least_free"], found["low_water"])
    need = pool_need(window.plan, index)
    mbufs = mersenne(max(need + int(size * LOW), size + 1))
    parts = [f"{size} mbufs, at least {low} of them free so far, {found['free']} now"]
    if empty:
        parts.append(f"{si(found['alloc_failures_per_s'])} allocations a second failed")
    if found["empty_in_s"] is not None:
        parts.append(f"empty in {found['empty_in_s']:.0f} s at this rate")
    who = holders(window, name)
    if who:
        parts.append(who)
    parts.append(f"full queues, caches and lanes take {need}")
    if empty:
        effect = Effect(
            ("mempools", name, "alloc_failures_per_s"), "failures/s",
            found["alloc_failures_per_s"], 0.0,
        )  # fmt: skip
    else:
        effect = Effect(("mempools", name, "low_water"), "mbufs", low, low + mbufs - size)
    return Piece(
        kind="pool-empty" if empty else "pool-low",
        level=LOSING if empty else RISK,
        about=f"mempool {name}",
        title=f"mempool {name} {'ran out of mbufs' if empty else 'is about to run out of mbufs'}",
        seen="; ".join(parts),
        why="while the pool is empty none of its ports receives; "
        f"{mbufs - size} more take {_mbytes(window, index, mbufs - size)} of hugepages",
        changes=(Key(("mempools", name, "mbufs"), mbufs, pool["mbufs"]),),
        effect=effect,
        numbers={**found, "need": need, "held": window.audits.get(name)},
    )


def _less_cache(window: Window, index: int) -> Piece | None:
    pool = window.plan["pools"][index]
    name, n_io = pool["name"], len(window.plan["io"])
    burst = max(io["burst"] for io in window.plan["io"])
    cache = max(burst, pool["cache"] // 4)
    if cache >= pool["cache"]:
        return None
    found, audit = window.pools[name], window.audits[name]
    low = min(found["least_free"], found["low_water"])
    return Piece(
        kind="pool-cache",
        level=LOSING if found["alloc_failures_per_s"] else RISK,
        about=f"mempool {name}",
        title=f"the io cores' caches hold much of mempool {name}",
        seen=f"{audit['cached']} of {found['size']} mbufs are in the caches of {n_io} io cores, "
        f"up to {pool['cache'] * 3 // 2} in each; at least {low} were free",
        why="no other io core can use the mbufs in an io core's cache",
        changes=(Key(("mempools", name, "cache"), cache, pool["cache"]),),
        effect=Effect(
            ("mempools", name, "low_water"), "mbufs", low,
            low + min(audit["cached"], (pool["cache"] - cache) * n_io),
        ),
        numbers={**found, "held": audit},
    )  # fmt: skip


def caches(window: Window) -> Iterator[Piece]:
    """A cache smaller than a burst does not help: each burst uses the shared pool."""
    for index, pool in enumerate(window.plan["pools"]):
        used = any(p["pool"] == index for p in window.plan["ports"])
        burst = max(io["burst"] for io in window.plan["io"])
        n_io = len(window.plan["io"])
        room = int(pool["mbufs"] / 1.5 / n_io)
        cache = min(512, burst * CACHE_BURSTS, room)
        if not used or pool["cache"] >= burst or cache < burst:
            continue
        id, io = max(window.io.items(), key=lambda one: one[1]["busy"])
        cycles = io["cycles_per_packet"]
        if io["busy"] < WORKS or not cycles:
            continue
        # Measured with caches of 0 and 16 against 256 mbufs, bursts of 32: rx took three times as
        # long; tx, which returns mbufs one by one, four times without a cache. A third is sure.
        rx, tx = io["stages"]["rx"] or 0.0, io["stages"]["tx"] or 0.0
        saved = rx / 3 + (tx / 3 if pool["cache"] == 0 else 0.0)
        changes = [Key(("mempools", pool["name"], "cache"), cache, pool["cache"])]
        need = pool_need(window.plan, index, cache=cache)
        if need > pool["mbufs"]:
            key = ("mempools", pool["name"], "mbufs")
            changes.append(Key(key, mersenne(need), pool["mbufs"]))
        yield Piece(
            kind="pool-cache",
            level=FASTER,
            about=f"mempool {pool['name']}",
            title=f"the cache of mempool {pool['name']} is smaller than a burst",
            seen=f"cache {pool['cache']}, bursts of {burst}; {id} is {percent(io['busy'])} busy "
            f"and takes {cycles:.0f} cycles a packet, {rx:.0f} of them for rx, {tx:.0f} for tx",
            why="mbufs that do not fit the cache are taken from, and returned to, the pool that "
            "all io cores share, with atomic operations each time",
            changes=tuple(changes),
            effect=Effect(("io", id, "cycles_per_packet"), "cycles/packet", cycles, cycles - saved),
            numbers={"cache": pool["cache"], "burst": burst, "busy": io["busy"]},
        )
