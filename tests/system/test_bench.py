# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup bench` for real, as short as it goes: what it says is there, and nothing stays behind,
whatever ends it. What the figures are is not judged here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from harness import DPSUP, PATIENCE, here, leftovers, run, wait_for

import dpsup

pytestmark = pytest.mark.beside

SHORT = ["--seconds", "0.3", "--runs", "1"]


def traces(pid: int, tmp: Path) -> list[str]:
    """What the bench of that pid left on this machine."""
    found = [str(one) for one in tmp.iterdir()]
    for i in range(4):
        found += leftovers(f"bench{pid}-{i}")
    for folder in ("/var/run/dpdk", "/dev/hugepages"):
        if Path(folder).is_dir():
            found += [str(p) for p in Path(folder).glob(f"dpsup-bench{pid}-*")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"dpsup-bench{pid}-" in words:
            found.append(words)
    return found + [name for _, name in socket.if_nameindex() if name.startswith(f"dpb{pid}")]


def start(tmp: Path, *args: str) -> subprocess.Popen[str]:
    """A bench with a place of its own for temporary files."""
    tmp.mkdir(exist_ok=True)
    # A shell's background jobs ignore it, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [*DPSUP, "bench", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp)},
    )


def test_a_short_bench_says_all_that_a_report_needs(tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    saved = tmp_path / "saved.json"
    bench = start(tmp, "distance", "path", *SHORT, "-o", "json", "--save", str(saved))
    out, err = bench.communicate(timeout=2 * PATIENCE)
    assert bench.returncode == 0, err
    doc = json.loads(out)
    assert doc == json.loads(saved.read_text())
    assert (doc["apiVersion"], doc["kind"]) == ("dpsup/v1", "Bench")
    for key in ("cpu_model", "cpus", "cores", "dpdk", "kernel", "steal", "load_before", "date"):
        assert key in doc["host"]
    figures = {f["name"]: f for f in doc["figures"]}
    for name in ("distance", "path/forward", "path/macswap", "path/forward/slowest_tenth"):
        figure = figures[name]
        assert all(r["value"] > 0 for r in figure["runs"])
        assert all(r["regime"] in ("near", "far", "mixed") for r in figure["runs"])
        assert all(len(r["conditions"]["distance_ns"]) >= 2 for r in figure["runs"])
        assert figure["summaries"][0]["runs"] >= 1
    assert {"name", "value", "least", "aim", "reached"} <= doc["rows"][0].keys()
    assert traces(bench.pid, tmp) == []

    # Its own words are what --compare reads; another machine's are refused.
    doc["host"]["cpu_model"] = "Nonesuch 3000"
    saved.write_text(json.dumps(doc))
    other = run("bench", "distance", *SHORT, "--compare", str(saved))
    assert other.returncode == 1
    assert "CPU model: Nonesuch 3000 then" in other.stderr


# What each of the other cases is expected to have measured.
FIGURES = {
    "lane": ["lane/none/burst32/ring1024/cycles", "lane/rewrite/burst8/ring256/mpps"],
    "cost": ["cost/none", "cost/read", "cost/rewrite"],
    "latency": ["latency/empty", "latency/load50/p99", "latency/away/io"],
    "io": ["io/rx", "io/steer", "io/collect", "io/tx", "io/rest"],
    "shared": ["shared/null/four groups/least", "shared/flows/one", "shared/flows/four of a group"],
    "bus": ["bus/loss", "bus/loss_beyond"],
    "idle": ["idle/cpu", "idle/wake", "idle/wake_1s", "idle/veth_alone"],
    "start": ["start/first_packet", "start/fork_ready", "start/takeover", "start/scale_up"],
}


@pytest.mark.parametrize("case", FIGURES)
def test_every_case_measures(tmp_path: Path, case: str) -> None:
    tmp = tmp_path / "tmp"
    bench = start(tmp, case, *SHORT, "-o", "json")
    out, err = bench.communicate(timeout=5 * PATIENCE)
    assert bench.returncode == 0, err
    doc = json.loads(out)
    assert [note for note in doc["notes"] if "failed" in note] == []
    values = {f["name"]: f["runs"][0]["value"] for f in doc["figures"]}
    for name in FIGURES[case]:
        # A loss may be none, or negative; a quiet CPU is never away.
        assert values[name] > 0 or case == "bus" or "/away/" in name
    assert traces(bench.pid, tmp) == []


@pytest.mark.parametrize(
    ("case", "sig"),
    [
        ("path", signal.SIGINT),
        ("path", signal.SIGTERM),
        ("path", signal.SIGKILL),
        pytest.param("others", signal.SIGINT, marks=pytest.mark.long),
        ("others", signal.SIGTERM),
        ("others", signal.SIGKILL),
        ("idle", signal.SIGINT),
        pytest.param("idle", signal.SIGTERM, marks=pytest.mark.long),
        ("idle", signal.SIGKILL),
    ],
)
def test_nothing_stays_behind_whatever_ends_it(
    tmp_path: Path, case: str, sig: signal.Signals
) -> None:
    tmp = tmp_path / "tmp"
    bench = start(tmp, case, "--seconds", "60", "--runs", "1")

    def under_way() -> bool:
        assert bench.poll() is None, bench.communicate()
        folders = list(Path("/var/run/dpdk").glob(f"*bench{bench.pid}-*"))
        return any((f / "dpdk_telemetry.v2").exists() for f in folders)

    wait_for(under_way)
    time.sleep(0.3)
    bench.send_signal(sig)
    out, err = bench.communicate(timeout=PATIENCE)
    assert "Traceback" not in out + err
    if sig is signal.SIGKILL:
        # Processes end with it; files that only it can remove go with the next bench.
        assert bench.returncode == -sig
        wait_for(lambda: not leftovers(f"bench{bench.pid}-0"))
        after = start(tmp, "distance", *SHORT)
        assert after.wait(PATIENCE) == 0
        assert traces(bench.pid, tmp) == []
    else:
        assert bench.returncode == 130
        assert wait_for(lambda: not traces(bench.pid, tmp)), traces(bench.pid, tmp)


def test_wrong_options_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    for words, code in (
        (["pathh"], 2),
        (["--cores", "0,0"], 2),
        (["--cores", "0,999"], 2),
        (["--testpmd", "/nonexistent"], 2),
        (["--client-server-mp", str(tmp_path)], 2),
        (["--save", "/nonexistent/a.json"], 2),
        (["--compare", "/nonexistent/a.json"], 2),
        (["--runs", "0"], 2),
    ):
        began = time.monotonic()
        done = here("bench", *words)
        assert done.returncode == code, done.stderr
        assert time.monotonic() - began < 10
    (tmp_path / "status.json").write_text('{"kind": "Status"}')
    assert here("bench", "--compare", str(tmp_path / "status.json")).returncode == 1
    listed = here("bench", "--list").stdout
    assert "path" in listed
    assert "(only when named)" in listed


@pytest.mark.parametrize("command", ["gaps", "lane", "cost", "latency"])
def test_the_c_half_measures_a_lane(command: str) -> None:
    program = Path(dpsup.__file__).with_name("dpsup-bench")
    options = ["--cores", "0,1", "--ms", "30"]  # some of it is other processes'
    done = subprocess.run([program, command, *options], capture_output=True, check=True)
    assert json.loads(done.stdout)["results"]
