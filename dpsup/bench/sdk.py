# SPDX-License-Identifier: BSD-3-Clause
"""Case `sdk`: what a plugin pays for what the SDK offers: each with and without, one right after
the other, from null port to null port; and how fast live tables change.

The plugin is compiled here, with `cc`. Packets of null ports are all alike, so it looks up
destinations of its own: a million random ones, in turn.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dpsup.bench import python, rigs
from dpsup.bench.host import read_waits
from dpsup.bench.meter import segments
from dpsup.bench.model import Reading
from dpsup.bench.path import throughput
from dpsup.bench.probe import Watch
from dpsup.bench.rigs import POOL, TWO_NULL, Rig, group
from dpsup.bench.stats import median
from dpsup.bench.step import Setup, Step
from dpsup.errors import DpsupError
from dpsup.instance.client import connect

INCLUDE = Path(__file__).resolve().parent.parent / "include"
ROUTES, FEW = 1_000_000, 20_000  # where measurements are to be shorter than a second
CHANGES_A_SECOND, A_BATCH = 10_000, 100
SINGLES, LARGE = 200, 100_000
TICKS_A_SECOND, BUCKETS = 10_000, 512

SOURCE = r"""
#include <dpsup_plugin.h>
#include <dpsup_table_lpm.h>

enum { ASKED = 1 << 20 };
static const struct dps_env *env;
static const struct dps_live_table *routes;
static uint32_t asked[ASKED], next_one;

static int init(const struct dps_env *e, void **state)
{
	uint64_t z = 1;

	(void)state;
	(void)next_one;
	env = e;
	routes = dps_table(e, "routes");
	for (uint32_t i = 0; i < ASKED; i++) {
		z = z * 6364136223846793005u + 1442695040888963407u;
		asked[i] = (uint32_t)(z >> 32);
	}
	return 0;
}

/* Of 0 or 1, never another number: the lookup is needed, and nothing is made of it. */
static uint16_t way(const struct dps_packet *p, uint64_t found)
{
	return found == 0x5eed5eed ? dps_drop(0) : dps_out(p->port ^ 1u);
}

#ifdef LOOK
static void look(void *state, struct dps_packet *p, uint32_t n)
{
	const void *key[DPS_PLUGIN_BURST];
	uint64_t found[DPS_PLUGIN_BURST];

	(void)state;
	for (uint32_t i = 0; i < n; i++)
		key[i] = &asked[next_one++ % ASKED];
	dps_lpm_look((const struct dps_lpm *)routes->at, key, n, found);
	for (uint32_t i = 0; i < n; i++)
		p[i].found = found[i];
}
#endif

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
#if defined(LOOK)
	return way(p, p->found);
#elif defined(FIND)
	return way(p, dps_lpm_find((const struct dps_lpm *)routes->at, &asked[next_one++ % ASKED]));
#elif defined(ALSO)
	return dps_also(way(p, 0), p->port);
#else
#ifdef EMITS
	uint8_t *bytes = dps_emit(dps_out(p->port), 64);

	if (bytes != NULL)
		bytes[12] = 8;
#endif
	return way(p, 0);
#endif
}

#ifdef TICK_US
static void age(void *state, uint32_t bucket, void *bucket_state)
{
	(void)state;
	(void)bucket;
	dps_touch(bucket_state, 8);
	++*(uint64_t *)bucket_state;
}
#endif

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "sdk", .init = init, .packet = packet,
#ifdef LOOK
	.look = look,
#endif
#ifdef EMITS
	.emits = 1,
#endif
#ifdef STATE
	.bucket_state_size = 8,
#endif
#ifdef TICK_US
	.bucket_tick_us = TICK_US, .bucket_tick = age,
#endif
};
"""


def build(directory: Path, flags: tuple[str, ...]) -> None:
    (directory / "sdk.c").write_text(SOURCE)
    argv = ["cc", "-std=gnu11", "-O2", "-march=native", "-shared", "-fPIC", f"-I{INCLUDE}", *flags]
    done = subprocess.run(
        [*argv, "sdk.c", "-o", "sdk.so"], cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DpsupError(f"cc failed:\n{done.stderr}")


def routes_text(n: int) -> str:
    """Different prefixes of /16 to /24, six in ten of them /24, as the Internet's are."""
    rng = random.Random(1)
    found: dict[str, int] = {}
    while len(found) < n:
        length = 24 if rng.random() < 0.6 else rng.randint(16, 23)
        at = rng.getrandbits(length) << 32 - length
        found[f"{at >> 24}.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}/{length}"] = len(found)
    return "".join(f"{prefix} {value}\n" for prefix, value in found.items())


@contextlib.contextmanager
def _instance(setup: Setup, *flags: str, routes: int = 0, more: str = "") -> Iterator[Rig]:
    def prepare(directory: Path) -> None:
        build(directory, flags)
        if routes:
            (directory / "routes.txt").write_text(routes_text(routes))

    if routes:
        more += (
            'tables = { routes = { kind = "ipv4", file = "routes.txt",'
            f" entries = {routes + LARGE} }} }}\n"
        )
    body = POOL + TWO_NULL + group("./sdk.so", setup.cores, more=more)
    with rigs.instance(body, setup.cores, prepare=prepare) as rig:
        yield rig


def _rate(setup: Setup, watch: Watch, rig: Rig, name: str) -> list[Reading]:
    """Packets a second that the worker decides about, and how many leave for each."""
    with rig.meter() as meter:
        pids = rig.pids()
        watch.threads([pids["primary"], pids["fw/0"]])

        def packets() -> tuple[float, int]:
            before = time.monotonic_ns()
            done = _decided(rig)
            return (before + time.monotonic_ns()) / 2e9, done

        sent, decided = meter.sent()[1], _decided(rig)
        found = segments(packets, setup.seconds, watch.polled)
        sent, decided = meter.sent()[1] - sent, _decided(rig) - decided
        watch.threads_done()
    if not decided or not all(rate for segment in found for rate in segment.rates):
        raise DpsupError(f"sdk/{name}: a window without a packet: other work had the cores")
    return [*throughput(f"sdk/{name}", found), Reading(f"sdk/{name}/leave", sent / decided, "")]


def _decided(rig: Rig) -> int:
    return int(rig.instance.status()["groups"][0]["workers"][0]["rx_packets"])


def _mpps(readings: list[Reading]) -> float:
    return median([r.value for r in readings if r.unit == "Mpps"])


def _pair(
    setup: Setup, name: str, without: tuple[str, ...], having: tuple[str, ...], *, routes: int = 0,
    more: str = "",
) -> Step:  # fmt: skip
    """Throughput without and with it, and `cost`: cycles of the slower one to those of the
    other."""

    def run(watch: Watch) -> list[Reading]:
        with _instance(setup, *without, routes=routes, more=more) as rig:
            first = _rate(setup, watch, rig, f"{name}/without")
        with _instance(setup, *having, routes=routes, more=more) as rig:
            second = _rate(setup, watch, rig, name)
            hz = rig.instance.stats()["tsc_hz"]
            tx = _tx_cycles(rig, setup.seconds / 2)
        slow, fast = _mpps(second), _mpps(first)
        return [
            *second,
            *first,
            Reading(f"sdk/{name}/cost", fast / slow, "×", "lower"),
            Reading(f"sdk/{name}/gain", slow / fast, "×"),
            Reading(f"sdk/{name}/loss", 1 - slow / fast, "", "lower"),
            Reading(
                f"sdk/{name}/cycles", (1 / slow - 1 / fast) / 1e6 * hz - tx, "cycles", "lower",
                detail={"tx": tx},
            ),
        ]  # fmt: skip

    return Step(f"sdk/{name}", run)


def _tx_cycles(rig: Rig, seconds: float) -> float:
    """Cycles of the io core to send one packet."""
    (first,) = rig.instance.stats()["io"]
    time.sleep(seconds)
    (last,) = rig.instance.stats()["io"]
    packets = (last["stage_packets"] - first["stage_packets"]) / 2
    cycles = last["stage_cycles"]["tx"] - first["stage_cycles"]["tx"]
    return cycles / packets if packets else 0.0


class _Churn:
    """10,000 changes a second, in batches of 100 at steady intervals, while it is entered."""

    def __init__(self, rig: Rig) -> None:
        self._name, self._over = rig.name, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.done = 0

    def _run(self) -> None:
        due = time.monotonic()
        with connect(self._name) as live:
            while not self._over.is_set():
                lines = (f"set 10.{n >> 8}.{n & 255}.0/24 {self.done}\n" for n in range(A_BATCH))
                live.table_change("routes", "".join(lines))
                self.done += A_BATCH
                due += A_BATCH / CHANGES_A_SECOND
                self._over.wait(max(0.0, due - time.monotonic()))

    def __enter__(self) -> _Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _ns_a_packet(rig: Rig, seconds: float) -> float:
    """CPU time of the worker for a packet: what others do on its core does not count."""
    pid = rig.pids()["fw/0"]

    def sample() -> tuple[int, int]:
        ran = sum(one[0] for one in read_waits(pid).values())
        return ran, _decided(rig)

    ran, packets = sample()
    time.sleep(seconds)
    now, total = sample()
    return (now - ran) / max(1, total - packets)


def _readers(setup: Setup, routes: int) -> Step:
    def run(_: Watch) -> list[Reading]:
        calm, busy = [], []
        with _instance(setup, "-DLOOK", routes=routes) as rig, rig.meter():
            changed, took = 0, 0.0
            for _i in range(3):  # in turns, so that what disturbs one disturbs both
                calm.append(_ns_a_packet(rig, setup.seconds))
                with _Churn(rig) as churn:
                    begin = time.monotonic()
                    busy.append(_ns_a_packet(rig, setup.seconds))
                    took += time.monotonic() - begin
                    changed += churn.done
        return [
            Reading("sdk/readers", median(busy) / median(calm) - 1, "", "lower"),
            Reading("sdk/readers/calm", median(calm), "ns", "lower", tuple(calm)),
            Reading("sdk/readers/busy", median(busy), "ns", "lower", tuple(busy)),
            Reading("sdk/readers/changes", changed / took, "1/s", ""),
        ]

    return Step("sdk/readers", run)


def _changes(setup: Setup, routes: int, large: int) -> Step:
    """From the order to when each burst sees it; on an instance that has no packets."""

    def run(_: Watch) -> list[Reading]:
        with _instance(setup, "-DLOOK", routes=routes) as rig, connect(rig.name) as live:
            single = []
            for i in range(max(10, round(SINGLES * min(1.0, setup.seconds)))):
                begin = time.monotonic_ns()
                live.table_change("routes", f"set 10.0.0.0/24 {i}")
                single.append((time.monotonic_ns() - begin) / 1e6)
            batch = "".join(
                f"set 10.{n >> 8 & 255}.{n & 255}.{n >> 16}/32 7\n" for n in range(large)
            )
            file = rig.instance.runtime.path / "bench-batch.txt"
            file.write_text(batch)
            begin = time.monotonic_ns()
            try:
                live.table_batch("routes", str(file))
            finally:
                file.unlink()
            seconds = (time.monotonic_ns() - begin) / 1e9
        return [
            Reading("sdk/change", median(single), "ms", "lower", tuple(single)),
            Reading("sdk/changes", large / seconds, "1/s", detail={"operations": large}),
        ]

    return Step("sdk/change", run)


def steps(setup: Setup) -> list[Step]:
    if shutil.which("cc") is None:
        setup.notes.append("no cc found: the case sdk is left out, but for plugins in Python")
        return python.steps(setup)
    is_short = setup.seconds < 1
    routes, large = (FEW, FEW // 10) if is_short else (ROUTES, LARGE)
    interval = f"-DTICK_US={1_000_000 * BUCKETS // TICKS_A_SECOND}"
    state = 'bucket_state = "auto"\n'
    return [
        _pair(setup, "look", ("-DFIND",), ("-DLOOK",), routes=routes),
        # So a packet comes only where there is a blank for it.
        _pair(setup, "emit", (), ("-DEMITS",), more='on_full = "hold"\n'),
        _pair(setup, "copy", (), ("-DALSO",)),
        _pair(setup, "ticks", ("-DSTATE",), ("-DSTATE", interval), more=state),
        _readers(setup, routes),
        _changes(setup, routes, large),
        *python.steps(setup),
    ]
