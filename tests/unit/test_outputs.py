# SPDX-License-Identifier: BSD-3-Clause
"""What was sent to a port's files, and is not in them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.fakecore import Parts, run

from dpsup.errors import DpsupError
from dpsup.packets import pcap
from dpsup.primary.outputs import Output, output_of
from dpsup.supervisor import outputs
from dpsup.supervisor.outputs import Outputs

FRAMES = [bytes(60), bytes(100), bytes(1514)]
BYTES = sum(map(len, FRAMES))


def vdev(*paths: Path) -> str:
    return ",".join(["net_pcap0", "rx_pcap=/in", *(f"tx_pcap={p}" for p in paths)])


def opened(vdev: str, mtu: int) -> Output | None:
    output = output_of(vdev, mtu)
    if output is not None:
        output.open()
    return output


def test_a_whole_file_lacks_nothing_and_a_short_one_does(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    whole = pcap.to_bytes(FRAMES)
    with path.open("wb", buffering=0) as file:
        output = opened(vdev(path), 1500)
        assert output is not None
        file.write(whole)
        assert output.unwritten(len(FRAMES), BYTES) == 0
        assert output.unwritten(len(FRAMES) - 1, BYTES - 1514) == 0, "counted after the write"
        assert output.unwritten(len(FRAMES) + 1, BYTES + 60) == 76
        # By its own descriptor: a name says nothing.
        path.rename(tmp_path / "kept.pcap")
        path.write_bytes(bytes(9000))
        file.truncate(len(whole) - 5)
    assert output.unwritten(len(FRAMES), BYTES) == 5


def test_several_files_are_counted_together(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    files = [path.open("wb", buffering=0) for path in paths]
    output = opened(vdev(*paths), 1500)
    assert output is not None
    for file, frames in zip(files, (FRAMES, FRAMES[:1]), strict=True):
        file.write(pcap.to_bytes(frames))
    assert output.unwritten(4, BYTES + 60) == 0
    assert output.unwritten(5, BYTES + 120) == 76
    for file in files:
        file.close()


def test_a_file_that_is_opened_again_lacks_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with path.open("wb", buffering=0) as file:
        output = opened(vdev(path), 1500)
        assert output is not None
        file.write(pcap.to_bytes(FRAMES))
        assert output.unwritten(len(FRAMES), BYTES) == 0
    output.claim()  # its own lock is not in its way
    assert output.unwritten(len(FRAMES), BYTES) == 0, "not known while no device has it"
    with path.open("wb", buffering=0) as file:
        output.open()
        assert output.unwritten(len(FRAMES), BYTES) == BYTES + 16 * len(FRAMES)
        file.write(pcap.to_bytes(FRAMES[:1]))
        assert output.unwritten(len(FRAMES) + 1, BYTES + 60) == BYTES + 16 * len(FRAMES)
    output.close()


def test_nothing_was_sent_so_nothing_is_missing(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    with paths[0].open("wb", buffering=0) as first, paths[1].open("wb"):
        output = opened(vdev(*paths), 1500)
        assert output is not None
        assert output.unwritten(0, 0) == 0
        # A queue that sends writes the head of its own file.
        first.write(pcap.to_bytes(FRAMES))
        assert output.unwritten(len(FRAMES), BYTES) == 0
        assert output.unwritten(len(FRAMES) + 1, BYTES + 60) == 76


def test_a_file_that_was_full_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with path.open("wb"):
        output = opened(vdev(path), 1500)
        assert output is not None
        assert output.unwritten(1, 60) == 76


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with path.open("wb"), path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DpsupError, match="another process writes"):
            opened(vdev(path), 1500)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert opened(vdev(path), 1500)


def test_the_second_of_two_starts_leaves_the_file_of_the_first(tmp_path: Path) -> None:
    """It is refused before its device opens, and so empties, the file."""
    path, other = tmp_path / "out.pcap", tmp_path / "other.pcap"
    path.write_bytes(b"before")
    first, second = output_of(vdev(path), 1500), output_of(vdev(other, path), 1500)
    assert first is not None
    assert second is not None
    first.claim()
    assert path.read_bytes() == b"before"
    with pytest.raises(DpsupError, match="another process writes") as e:
        second.claim()
    assert e.value.code == "E0440"
    with path.open("wb", buffering=0) as file:
        first.open()
        file.write(pcap.to_bytes(FRAMES))
        assert first.unwritten(len(FRAMES), BYTES) == 0
        with pytest.raises(DpsupError):
            second.claim()
        first.close()
        second.claim()
    second.close()
    first.claim()
    first.close()


def test_what_is_no_file_is_not_locked(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/null"), tmp_path, tmp_path / "no" / "out.pcap"):
        for _ in range(2):  # neither waits for a reader, nor is refused
            output = output_of(vdev(path), 1500)
            assert output is not None
            output.claim()


def test_a_file_that_was_renamed_meanwhile(tmp_path: Path) -> None:
    """What the device opened is locked, whatever has the name."""
    path = tmp_path / "out.pcap"
    output = output_of(vdev(path), 1500)
    assert output is not None
    output.claim()
    path.rename(tmp_path / "kept.pcap")
    with path.open("wb"), path.open("rb") as other:
        output.open()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    output.close()


def test_what_keeps_nothing_is_not_asked(tmp_path: Path) -> None:
    with Path("/dev/null").open("wb") as null:
        output = opened("net_pcap0,tx_pcap=/dev/null", 1500)
        assert output is not None
        assert output.unwritten(10, 600) == 0
        assert not null.closed
    assert opened("net_pcap0,rx_pcap=/in,iface=lo", 1500) is None


# --- in the supervisor ----------------------------------------------------------------------------

TEXT = """\
version = 1
name = "edge"
[mempools.default]
[[ports]]
name = "wan"
vdev = "net_pcap0,rx_pcap=in.pcap,tx_pcap={out}"
[[io]]
cores = "1"
[[workers]]
name = "fw"
"""


def counters(sent: int, unwritten: int, read: int = 10) -> Any:
    return {"ports": [{"name": "wan", "unwritten_bytes": unwritten, "tx_packets": sent,
                       "rx_packets": read, "rx_missed": 0, "rx_nombuf": 0}]}  # fmt: skip


def account(sent: int) -> Any:
    return {"sent": sent, "dropped": {}, "lost": 0}


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    out = tmp_path / "out.pcap"
    out.write_bytes(pcap.to_bytes(FRAMES) + bytes(7))
    return Parts(tmp_path, TEXT.format(out=out))


def test_a_service_says_it_once_and_is_degraded(parts: Parts) -> None:
    core: Any = parts.core
    judged: list[int] = []
    watch = Outputs(core, parts.model, lambda: judged.append(1))
    for unwritten in (0, 5, 9):
        watch.observe(counters(20, unwritten))
    (event,) = parts.core.events.of("error")
    assert event["name"] == "wan"
    assert "out.pcap" in event["message"]
    assert parts.model.short == ["wan"]
    assert judged == [1]


def test_a_job_says_how_many_packets_arrived(parts: Parts) -> None:
    found = account(20)
    (short,) = run(outputs.settle(parts.model, counters(20, 900), found))
    assert (short["sent"], short["written"]) == (20, 3)
    assert found == {"sent": 3, "dropped": {"tx_failed": 17}, "lost": 0}
    (error,) = outputs.complaints([short], [])
    assert "out.pcap has 3 of 20 packets" in error.message
    assert run(outputs.settle(parts.model, counters(20, 0), found)) == []


def test_a_job_says_what_it_did_not_read() -> None:
    assert outputs.unread({"wan": 10}, counters(0, 0, 10)) == []
    assert outputs.unread({}, counters(0, 0, 0)) == []
    (short,) = outputs.unread({"wan": 100}, counters(0, 0, 50))
    (error,) = outputs.complaints([], [short])
    assert "read 50 of 100 packets" in error.message


def test_a_command_whose_output_has_no_room_says_so() -> None:
    dpsup = Path(sys.executable).with_name("dpsup")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [dpsup, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "E0011" in done.stderr
    assert "No space left" in done.stderr
