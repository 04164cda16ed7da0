# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup capture` and `dpsup perf` on real packets, read by tshark; while workers, clients and the
supervisor die."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import DPSUP, PATIENCE, Run, dies, run, wait_for
from traffic import write_pcap

import dpsup
from dpsup.primary.lease import LEASE_S

pytestmark = pytest.mark.beside

SLEEP_NS = 50_000  # of a packet, so that nothing has to be missed, and others have some CPU
FRAMES = 512
RARE = 256  # one frame in so many is to port 80

# Takes its time; drops what ends in 1, sends on what ends in 2, takes out what is the first of all.
PLUGIN = """
#define _GNU_SOURCE
#include <dpsup_plugin.h>
#include <time.h>

static uint16_t packet(void *state, struct dps_packet *p)
{
	p->data[0] = 6;
	nanosleep(state, NULL);
	switch (p->data[p->len - 1] % 4) {
	case 1:
		return dps_drop(0);
	case 2:
		return dps_on(1);
	default:
		return dps_out(p->port ^ 1);
	}
}

static int init(const struct dps_env *env, void **state)
{
	static struct timespec pause;

	pause.tv_nsec = dps_arg_u64(env, "ns", 0);
	*state = &pause;
	return 0;
}

static const char *const reasons[] = { "odd one", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "choosy", .init = init, .packet = packet, .reasons = reasons,
	.rewrites = 1,
};
"""

TOPOLOGY = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap=in.pcap,infinite_rx=1,tx_pcap=/dev/null"
[[ports]]
name = "lan"
vdev = "net_null1,no-rx=1"
[[io]]
cores = "1"
idle = "adaptive"
[[workers]]
name = "fw"
plugin = "{plugin}"
args = {{ {args} }}
input = ["wan"]
count = 1
spares = 1
on_full = "{on_full}"
restart = {{ intensity = 1000, backoff = {{ initial = "1ms", factor = 1 }} }}
[[workers]]
name = "nat"
plugin = "forward"
args = {{ map = {{ wan = "lan" }} }}
input = []
count = 1
"""


def frames() -> list[bytes]:
    """UDP of one flow each, and a few of TCP to port 80; the last byte is their number."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    found = []
    for i in range(FRAMES):
        ip = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / IP(
            src=f"10.1.{i // 256}.{i % 256}", dst="10.2.0.1"
        )
        above = TCP(sport=1024, dport=80) if i % RARE == 0 else UDP(sport=1024, dport=53)
        found.append(bytes(ip / above / Raw(struct.pack(">HB", i, i % 256))))
    return found


def slow(instance: Run, plugin: Path, packets: list[bytes] | None = None) -> Run:
    write_pcap(instance.folder / "in.pcap", packets or frames())
    args = f'ns = "{SLEEP_NS}"'
    return instance.start(TOPOLOGY.format(plugin=plugin, args=args, on_full="hold"))


def fast(instance: Run) -> Run:
    write_pcap(instance.folder / "in.pcap", frames())
    return instance.start(TOPOLOGY.format(plugin="forward", args='map.wan = "lan"', on_full="drop"))


@pytest.fixture(scope="module")
def choosy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choosy")
    flags = run("version", "--cflags", check=True).stdout.split()
    (folder / "choosy.c").write_text(PLUGIN)
    made = folder / "choosy.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", *flags, str(folder / "choosy.c"), "-o", str(made)],
        check=True,
    )
    return made


FIELDS = ("frame.time_epoch", "frame.interface_name", "frame.comment", "frame.packet_id",
          "frame.len", "frame.cap_len", "ip.src", "eth.dst", "tcp.dstport",
          "frame.packet_flags_direction")  # fmt: skip


def tshark(file: Path, *options: str) -> list[dict[str, str]]:
    """What tshark makes of a file, packet by packet."""
    fields = [word for name in FIELDS for word in ("-e", name)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), *options, "-T", "fields", "-E", "separator=|", *fields],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return [dict(zip((f.rpartition(".")[2] for f in FIELDS), row, strict=True)) for row in rows]


def counted(said: str) -> tuple[int, int]:
    """Captured and missed, as the command says at its end."""
    words = said.strip().splitlines()[-1].split()
    assert (words[0], words[3]) == ("captured", "missed"), said
    return int(words[1]), int(words[4])


def rise(packets: list[dict[str, str]]) -> bool:
    times = [p["time_epoch"] for p in packets]
    seconds = [(int(t.partition(".")[0]), t.partition(".")[2]) for t in times]
    return seconds == sorted(seconds) and len(set(seconds)) > 1


class Client:
    """A capture, or a measurement, in a process of its own."""

    def __init__(self, instance: Run, *args: str) -> None:
        self.process = subprocess.Popen(
            [*DPSUP, args[0], "-n", instance.name, *args[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=60)
        return self.process.returncode, out, error


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    started: list[Client] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stats(instance: Run) -> dict[str, Any]:
    with dpsup.connect(instance.name) as one:
        return one.stats()


def is_off(instance: Run) -> bool:
    """No io core mirrors, no worker measures."""
    found = stats(instance)
    return not any(io["watched"] for io in found["io"]) and not any(
        slot["perf"] for slot in found["slots"]
    )


def test_a_worker_before_and_after_with_its_verdicts(instance: Run, choosy: Path) -> None:
    slow(instance, choosy)
    file = instance.folder / "o.pcapng"
    done = instance.do("capture", "fw/0", "-w", str(file), "-c", "6000", "--snaplen", "44")
    captured, missed = counted(done.stderr)
    packets = tshark(file)
    assert len(packets) == captured == 6000
    assert missed == 0  # what is read late waits: seconds of it
    assert rise(packets)
    assert {p["cap_len"] for p in packets} == {"44"}
    before = {p["packet_id"]: p for p in packets if p["interface_name"] == "fw/0 before"}
    after = [p for p in packets if p["interface_name"] == "fw/0 after"]
    assert {p["comment"] for p in before.values()} == {"from wan"}
    assert {p["dst"] for p in before.values()} == {"02:00:00:00:00:01"}
    assert {p["dst"] for p in after} == {"06:00:00:00:00:01"}
    known = {"1": "drop odd one", "2": "to nat"}
    pairs = []
    for p in after:
        number = int(p["src"].rpartition(".")[2]) % 4
        assert p["comment"] == known.get(str(number), "out lan")
        pairs.append(p["packet_id"] in before)
        if pairs[-1]:
            assert before[p["packet_id"]]["src"] == p["src"]
    # All but those that were with the worker when it began.
    assert any(pairs)
    assert pairs == sorted(pairs)
    assert {p["comment"] for p in after} == {"drop odd one", "to nat", "out lan"}
    # A lane is the same, of one io core; a port knows directions.
    lines = instance.do("capture", "io/0:fw/0", "-c", "20").stdout.splitlines()
    assert len(lines) == 20
    assert all(" fw/0 io/0 #" in line and "> 10.2.0.1:" in line for line in lines)
    for port, direction in (("wan", "1"), ("lan", "2")):
        instance.do("capture", port, "-w", str(file), "-c", "50")
        packets = tshark(file)
        assert len(packets) == 50
        assert {p["interface_name"] for p in packets} == {port}
        assert {p["packet_flags_direction"].replace("0x0000000", "") for p in packets} == {
            direction
        }
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_what_is_dropped_is_shown_by_its_reason(instance: Run, choosy: Path) -> None:
    slow(instance, choosy, [*frames(), frames()[3] + bytes(1600)])
    file = instance.folder / "o.pcapng"

    def lines(*words: str) -> list[str]:
        return instance.do("capture", *words, "-c", "8").stdout.splitlines()

    by_port = lines("--dropped", "oversize")
    assert len(by_port) == 8
    assert all(" wan io/0 dropped, oversize, from wan: 16" in line for line in by_port)
    by_plugin = lines("fw", "--dropped", "odd one")
    assert len(by_plugin) == 8
    assert all(" fw/0 io/0 dropped, odd one, from wan: " in line for line in by_plugin)
    packets: list[dict[str, str]] = []

    def both() -> bool:
        """On a busy machine the one long packet may come round late."""
        done = instance.do("capture", "--dropped", "any", "--for", "500ms", "-w", str(file))
        captured, missed = counted(done.stderr)
        packets[:] = tshark(file)
        assert (len(packets), missed) == (captured, 0)
        return len({p["comment"] for p in packets}) > 1

    wait_for(both)
    # Only those: what passes is not among them.
    assert {p["comment"] for p in packets} == {"fw/0: odd one", "wan: oversize"}
    odd = [p for p in packets if p["comment"] == "fw/0: odd one"]
    assert {int(p["src"].rpartition(".")[2]) % 4 for p in odd} == {1}
    wrong = instance.do("capture", "--dropped", "oversise", check=False)
    assert wrong.returncode == 4 and 'did you mean "oversize"' in wrong.stderr
    assert is_off(instance)


def test_a_filter_finds_what_is_rare_at_full_speed(instance: Run) -> None:
    fast(instance)
    file = instance.folder / "o.pcapng"
    words = ("-w", str(file), "-c", "500", "--filter", "tcp port 80")
    captured, missed = counted(instance.do("capture", "wan", *words).stderr)
    packets = tshark(file)
    assert len(packets) == captured == 500
    assert {p["dstport"] for p in packets} == {"80"}
    # They come in turns: none was missed but those that were said to be.
    turns = [p["src"] for p in packets]
    assert set(turns) == {f"10.1.{i // 256}.{i % 256}" for i in range(0, FRAMES, RARE)}
    assert sum(a == b for a, b in pairwise(turns)) <= missed
    assert rise(packets)

    # Without it there are more than anybody would copy: said, and not waited for.
    def misses() -> int:
        captured, missed = counted(instance.do("capture", "wan", "-c", "1000").stderr)
        assert captured == 1000
        return missed

    assert wait_for(misses) > 0


def test_nothing_stays_on_when_its_client_is_killed(
    instance: Run, choosy: Path, clients: list[Client]
) -> None:
    slow(instance, choosy)
    # Each is on before the next asks, or that one has what this one wants.
    capture = Client(instance, "capture", "wan", "--for", "100s")
    wait_for(lambda: stats(instance)["io"][0]["watched"])
    perf = Client(instance, "perf", "fw/0", "--for", "100s")
    wait_for(lambda: any(slot["perf"] for slot in stats(instance)["slots"]))
    clients += [capture, perf]

    def more(of: Client) -> subprocess.CompletedProcess[str]:
        if of is perf:
            return instance.do("perf", "fw/0", "--for", "100ms", check=False)
        return instance.do("capture", "wan", "-c", "1", check=False)

    assert "E0731" in more(capture).stderr
    assert "E0737" in more(perf).stderr
    time.sleep(LEASE_S + 0.5)
    # They are alive, although nobody reads what the one prints: one capture at a time.
    for one in (capture, perf):
        assert f"process {one.process.pid}" in more(one).stderr
        kill(one.process.pid)
        one.process.communicate()
    for one in (capture, perf):
        wait_for(lambda one=one: more(one).returncode == 0)
    assert is_off(instance)
    # SIGINT and SIGTERM end in order.
    file = instance.folder / "o.pcapng"
    for number in (signal.SIGINT, signal.SIGTERM):
        one = Client(instance, "capture", "wan", "-w", str(file))
        clients.append(one)
        wait_for(lambda: file.exists() and file.stat().st_size > 1000)
        one.process.send_signal(number)
        code, _, said = one.end()
        assert code == 0, said
        assert counted(said)[0] == len(tshark(file))
        file.unlink()
    # So does who reads.
    pipe = f"{DPSUP[0]} capture -n {instance.name} wan -w - | head -c 2000 | wc -c"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("2000", 0), done.stderr


def test_captures_go_on_while_workers_and_the_supervisor_die(
    instance: Run, choosy: Path, clients: list[Client]
) -> None:
    slow(instance, choosy)
    file = instance.folder / "o.pcapng"
    capture = Client(instance, "capture", "fw/0", "-w", str(file), "--snaplen", "64")
    perf = Client(instance, "perf", "fw/0", "--for", "100s", "-o", "json")
    clients += [capture, perf]
    wait_for(lambda: file.exists() and file.stat().st_size > 100_000)
    wait_for(lambda: any(slot["perf"] for slot in stats(instance)["slots"]))
    with dpsup.connect(instance.name) as one:
        for deaths in (1, 2):
            kill(one.status()["groups"][0]["workers"][0]["pid"])
            wait_for(
                lambda n=deaths: (
                    (s := one.status())["recovery"]["deaths"] == n and s["state"] == "running"
                )
            )
        killed = time.time()
        dies(one.status()["supervisor"]["pid"])
    assert "E0731" in instance.do("capture", "wan", "-c", "1", check=False).stderr
    passed = instance.worker("fw/0")["rx_packets"]
    wait_for(lambda: instance.worker("fw/0")["rx_packets"] > passed)
    for client in clients:
        client.process.send_signal(signal.SIGINT)
    code, _, said = capture.end()
    assert code == 0, said
    packets = tshark(file)
    assert len(packets) == counted(said)[0]
    assert rise(packets)
    # What a dead worker had in hand is given to the next one: it comes back once.
    after = [p["packet_id"] for p in packets if p["interface_name"] == "fw/0 after"]
    assert len(set(after)) == len(after)
    assert float(packets[-1]["time_epoch"]) > killed
    code, out, said = perf.end()
    assert code == 0, said
    doc = json.loads(out)
    # More than any one of the workers had: the next one goes on with what there was.
    assert doc["packets"] > 0.5 * doc["lane_delay"]["packets"]
    # Headless: both work, and nothing is on afterwards.
    assert counted(instance.do("capture", "wan", "-c", "5").stderr)[0] == 5
    run("start", str(instance.file), "--detach", check=True)
    assert counted(instance.do("capture", "fw/0", "-c", "5").stderr)[0] == 5
    assert instance.audit()["pools"][0]["unexplained"] == 0


def test_perf_says_what_a_worker_takes(instance: Run, choosy: Path) -> None:
    slow(instance, choosy)
    with dpsup.connect(instance.name) as one:

        def collected() -> int:
            return int(one.stats()["slots"][0]["collected"])

        def measured() -> dict[str, Any] | None:
            """Of some bursts; where others use the CPU, a second may be too short for them."""
            nonlocal passed, took
            before, begin = collected(), time.monotonic()
            found: dict[str, Any] = json.loads(
                instance.do("perf", "fw/0", "--for", "1s", "-o", "json").stdout
            )
            passed, took = collected() - before, time.monotonic() - begin
            enough = found["bursts"] >= 8 and found["lane_delay"]["packets"] > 0
            return found if enough else None

        passed, took = 0, 0.0
        doc: dict[str, Any] = wait_for(measured)
    cycles = doc["cycles_per_packet"]
    # The plugin sleeps at least so long; half of them did not take more than all of the time.
    least = SLEEP_NS * doc["tsc_hz"] / 1e9
    assert least <= cycles["p50"] <= 2 * took * doc["tsc_hz"] / doc["packets"]
    assert cycles["p50"] <= cycles["p90"] <= cycles["p99"] <= cycles["max"]
    assert sum(c["count"] for c in cycles["histogram"]) == doc["packets"] <= passed
    assert sum(b["count"] for b in doc["batch"]["histogram"]) == doc["bursts"]
    sizes = sum(b["packets"] * b["count"] for b in doc["batch"]["histogram"])
    assert sizes == doc["packets"] > 0
    assert doc["batch"]["max"] <= 64
    # A full lane is before each of them, as far as it goes.
    delay = doc["lane_delay"]
    assert delay["p50"] > cycles["p50"]
    assert delay["packets"] <= passed
    slowest = doc["slowest"]
    assert len(slowest) == 8
    assert slowest == sorted(slowest, key=lambda s: -s["cycles"])
    sent = {"06" + frame[1:64].hex() for frame in frames()}
    for one in slowest:
        assert one["cycles"] >= least * len(one["packets"])
        assert {p["head"] for p in one["packets"]} <= sent
        assert all("10.2.0.1" in p["decoded"] for p in one["packets"])
    # Turned off, a worker measures nothing: the next one begins with nothing.
    assert is_off(instance)
    before = stats(instance)["slots"][0]["collected"]
    text = instance.do("perf", "fw/0", "--for", "300ms").stdout
    assert "slowest bursts" in text
    assert int(text.split()[1]) <= stats(instance)["slots"][0]["collected"] - before + 64
    assert is_off(instance)
    bad = instance.do("capture", "wan", "--filter", "tcp prt 80", check=False)
    assert bad.returncode == 2
    assert "E0732" in bad.stderr
    assert "syntax error" in bad.stderr
    gone = instance.do("capture", "fx/0", check=False)
    assert gone.returncode == 4
    assert 'did you mean "fw/0"?' in gone.stderr
    nobody = instance.do("perf", "fw/7", check=False)
    assert nobody.returncode == 4
    assert "E0702" in nobody.stderr


# Two rx queues, an io core for each, and packets that no single mbuf holds.
SPREAD = """
[[ports]]
name = "wan"
vdev = "net_pcap_wan,rx_pcap={folder}/in0.pcap,rx_pcap={folder}/in1.pcap"
mtu = 9000
[[ports]]
name = "lan"
vdev = "net_null1,no-rx=1"
mtu = 9000
[[io]]
cores = "0-1"
idle = "adaptive"
[[workers]]
name = "fw"
plugin = "delay"
args = {{ map = {{ wan = "lan" }}, cycles = 8000000 }}
input = ["wan"]
count = 1
on_full = "hold"
"""


@pytest.mark.parametrize("target", ["wan", "fw/0"])
def test_packets_of_all_io_cores_and_segments_are_captured_whole(
    instance: Run, target: str
) -> None:
    from scapy.utils import RawPcapReader

    sent: list[set[bytes]] = []
    for half in range(2):
        frames = [
            bytes(2 * [2, 0, 0, 0, 0, half]) + b"\x08\x00" + os.urandom(size)
            for size in (46, 2000, 2200, 4000, 8000)
        ]
        write_pcap(instance.folder / f"in{half}.pcap", 600 * frames)
        sent.append(set(frames))
    instance.start(SPREAD.format(folder=instance.folder))
    file = instance.folder / "out.pcapng"
    plain = file.with_suffix(".pcap")
    seen: set[bytes] = set()

    def all_seen() -> bool:
        """Where an io core waits for its CPU, the first packets may all be the other's."""
        done = instance.do("capture", target, "-c", "300", "-w", str(file))
        assert counted(done.stderr)[0] == 300
        assert rise(tshark(file))
        subprocess.run(["tshark", "-r", file, "-F", "pcap", "-w", plain], check=True)
        with RawPcapReader(str(plain)) as packets:
            seen.update(bytes(data) for data, _ in packets)
        assert seen <= sent[0] | sent[1]
        return seen == sent[0] | sent[1]

    wait_for(all_seen)
