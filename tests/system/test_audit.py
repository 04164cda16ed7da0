# SPDX-License-Identifier: BSD-3-Clause
"""Where each mbuf is, on a loaded instance; and one that was lost on purpose."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import pytest
from harness import NULL, Run, wait_for

from dpsup.bus.client import Client
from dpsup.errors import DpsupError
from dpsup.instance.runtime_dir import PRIMARY, instances

pytestmark = pytest.mark.beside

SUMS = {
    "cached": {"cache"},
    "lanes": {"lent", "handed_back"},
    "io": {"again", "front", "held", "tx", "xfer"},
}
# The io core naps when nothing comes back: packets are always under way.
SLOW = NULL.replace('"macswap"', '"delay"').replace("args = { ", "args = { cycles = 20000, ")
TWO_IO = SLOW.replace('cores = "1"', 'cores = "0,1"')


def primary(instance: Run) -> Client:
    return Client(instances()[instance.name].file(PRIMARY))


def leak(instance: Run, slots: int = 2) -> None:
    client = primary(instance)

    def done() -> bool:
        for slot in range(slots):
            try:
                client.ask("test_leak", slot=slot)
            except DpsupError as e:
                assert "temporarily" in str(e), e  # EAGAIN
                continue
            return True
        return False

    try:
        wait_for(done, step=0.001)
    finally:
        client.close()


def whole(pool: dict[str, Any]) -> None:
    parts = ("free", "cached", "rx_rings", "tx_rings", "lanes", "io", "quarantine", "unexplained")
    assert sum(pool[k] for k in (*parts, "moving")) == pool["size"]
    for column, places in SUMS.items():
        found = sum(p["mbufs"] for p in pool["places"] if p["place"] in places)
        assert found == pool[column], column


def test_each_mbuf_of_a_loaded_instance_has_a_place(instance: Run) -> None:
    instance.start(SLOW)
    seen: set[tuple[str, str | None]] = set()

    def all_seen() -> bool:
        (pool,) = instance.audit()["pools"]
        whole(pool)
        assert (pool["unexplained"], pool["strays"]) == (0, [])
        seen.update((p["place"], p["of"]) for p in pool["places"])
        # What is handed back is collected within a turn: it is in few answers, if in any.
        return {"cache", "lent"} <= {place for place, _ in seen}

    wait_for(all_seen)
    assert ("cache", None) in seen

    def shown() -> bool:
        text = instance.do("audit", "--detail").stdout
        return bool(re.search(r"default +0 +lent +fw/[01] +\d+", text))

    wait_for(shown)


@pytest.mark.fault(4)
def test_a_worker_that_is_stopped_holds_what_it_has(instance: Run) -> None:
    instance.start(SLOW)

    def with_packets(status: dict[str, Any]) -> list[dict[str, Any]]:
        return [w for w in status["groups"][0]["workers"] if w["rx_packets"]]

    (busy,) = instance.until(with_packets)  # all are of one flow
    pid = busy["pid"]
    os.kill(pid, signal.SIGSTOP)

    def held() -> int:
        (pool,) = instance.audit()["pools"]
        whole(pool)
        assert pool["unexplained"] == 0
        return sum(
            p["mbufs"] for p in pool["places"] if (p["place"], p["of"]) == ("lent", busy["id"])
        )

    try:
        assert wait_for(held) > 0
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.fault(29)
@pytest.mark.parametrize("text", [SLOW, TWO_IO], ids=["one io core", "two io cores"])
def test_one_that_is_lost_is_found_with_its_holder(
    instance: Run, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DPSUP_TEST_LEAK", "1")
    instance.start(text)
    assert instance.audit()["pools"][0]["unexplained"] == 0
    leak(instance)
    done = instance.do("audit", "-o", "json", check=False)
    assert done.returncode == 1
    (pool,) = instance.audit()["pools"]
    whole(pool)
    assert pool["unexplained"] == 1
    (stray,) = pool["strays"]
    assert stray["certain"]
    assert stray["holder"] in ("fw/0", "fw/1")
    assert stray["port"] in ("wan", "lan")
    assert stray["refcnt"] == 1
    assert len(stray["bytes"]) == 2 * min(stray["length"], 64) > 0
    assert stray["address"] in instance.do("audit", check=False).stdout
    # The same one each time, and the second one too.
    leak(instance)
    (pool,) = instance.audit()["pools"]
    assert pool["unexplained"] == 2
    assert stray["address"] in [s["address"] for s in pool["strays"]]
    assert all(s["certain"] and s["holder"] for s in pool["strays"])


def test_nobody_loses_one_by_accident(instance: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPSUP_TEST_LEAK", raising=False)
    instance.start(SLOW)
    client = primary(instance)
    try:
        with pytest.raises(DpsupError, match="not permitted"):
            client.ask("test_leak", slot=0)
    finally:
        client.close()
    assert instance.audit()["pools"][0]["unexplained"] == 0
