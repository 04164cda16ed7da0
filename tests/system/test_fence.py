# SPDX-License-Identifier: BSD-3-Clause
"""What a worker may write of the memory that it shares, by what the kernel says of its mappings."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import NULL, Run, wait_for
from jobs import spare_pids
from stepping import build_step, parent_of, step

from dpsup._shim import ffi

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

SMALL, HUGE = 4096, 2 << 20
TELLS = ffi.sizeof("struct dps_tells")

# State by bucket and by worker, and a table, are reserved, whatever the plugin does with them.
MORE = """
spares = 1
state = 64
bucket_state = 64
tables = { routes = { kind = "ipv4", entries = 1000, learn = true } }
"""

# A port of net_af_xdp, whose interface is not there, wants a pool with headers among bytes.
TWO_POOLS = NULL.replace('"net_null1"', '"net_null1"\nmempool = "whole"').replace(
    "[[io]]",
    """[[ports]]
name = "xdp"
vdev = "net_af_xdp0,iface=nosuch0"
mempool = "whole"
required = false
[mempools.whole]
mbufs = 8191
[[io]]""",
)

Pages = set[tuple[str, int]]  # the mapping's name, and the address of a page in it


def written(pid: int) -> Pages:
    """The pages of shared mappings in which that process may write."""
    found: Pages = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, mode, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in place.split("-"))
        if mode[1] == "w" and mode[3] == "s":
            what = Path(name[0]).name if name else ""
            size = HUGE if "rtemap" in what or what.startswith("dpsup-") else SMALL
            found |= {(what, at) for at in range(start, end, size)}
    return found


def pages(place: tuple[int, int], size: int) -> set[int]:
    at, length = place
    return set(range(at // size * size, at + length, size)) if length else set()


def of_hugepages(found: Pages) -> set[int]:
    return {at for name, at in found if "map_" in name}


def test_what_workers_may_write(instance: Run) -> None:
    """Its slot with its lanes and state, its group's state of buckets, packets' bytes, its sitter,
    its lines beside its group's tables. A spare: packets' bytes and its sitter."""
    instance.start(TWO_POOLS + MORE)
    wait_for(lambda: all(p["rx_packets"] for p in instance.status()["ports"] if p["name"] != "xdp"))
    program = build_step(instance.folder / "step")
    workers = wait_for(lambda: ready(instance))
    (spare,) = spare_pids(instance)
    mine = {}
    for pid in workers:
        where = step(program, pid, "where")
        places = where["writes"]
        found = written(pid)
        expected = set().union(*(pages(place, HUGE) for place in places.values()))
        assert of_hugepages(found) == expected
        small = {(name, at) for name, at in found if at not in expected}
        assert {at for name, at in small if name == "dpsup_sitters"} == {where["sitter"]}
        assert sum(name.endswith(":readers") for name, _ in small) == 1
        assert sum(name.endswith(":told") for name, _ in small) == TELLS // SMALL
        assert len(small) == 2 + TELLS // SMALL, small
        mine[pid] = pages(places["slot"], HUGE) | {where["sitter"]}
    assert not set.intersection(*mine.values())
    found = written(spare)
    bytes_alone = set().union(*(pages(places[k], HUGE) for k in places if k.startswith("bytes")))
    assert of_hugepages(found) == bytes_alone
    assert {name for name, at in found if at not in bytes_alone} == {"dpsup_sitters"}
    assert len(found) == len(bytes_alone) + 1
    # The seed, of which they are forks, may write all of it.
    everything = written(parent_of(workers[0]))
    others = everything - {page for page in everything if "map_" in page[0]}
    print(f"{len(of_hugepages(everything)) * 2} MiB of hugepages and {len(others) * 4} KiB:")
    print(f"of these a worker writes {len(expected) * 2} MiB and {len(small) * 4} KiB:")
    for name, place in places.items():
        print(f"  {name}: {len(pages(place, HUGE)) * 2} MiB")
    assert of_hugepages(everything) > expected


def ready(instance: Run) -> list[int]:
    """The pids of two workers, once there is a spare too."""
    (group,) = instance.status()["groups"]
    found = [w["pid"] for w in group["workers"] if w["state"] == "running"]
    return found if len(found) == 2 and group["spares_ready"] == 1 else []
