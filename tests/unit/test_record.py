# SPDX-License-Identifier: BSD-3-Clause
"""The flight recorder: bounded, readable after a SIGKILL, and no burden."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from dpsup.instance import record
from dpsup.instance.record import Recorder, read
from dpsup.supervisor import journal
from dpsup.supervisor.journal import Journal


class Numbers:
    """A publisher that nobody hears."""

    def __init__(self) -> None:
        self.seq = {"event": 0, "log": 0}

    def publish(self, topic: str, _: dict[str, Any]) -> int:
        self.seq[topic] += 1
        return self.seq[topic]


def journals(folder: Path) -> tuple[Numbers, Journal, Journal]:
    numbers = Numbers()
    events, log = (Journal(topic, numbers.publish) for topic in ("event", "log"))
    journal.keep(folder, numbers, {"event": events, "log": log})  # type: ignore[arg-type]
    return numbers, events, log


def test_the_next_supervisor_knows_what_the_last_one_said(tmp_path: Path) -> None:
    _, events, log = journals(tmp_path)
    events.add(type="death", name="fw/0")
    log.add(name="fw/0", line="ouch")
    _, events, log = journals(tmp_path)
    events.add(type="scale", name="fw")
    assert [(e["seq"], e["type"]) for e in events.since(0)] == [(1, "death"), (2, "scale")]
    assert [e["line"] for e in log.since(0)] == ["ouch"]
    assert read(tmp_path, "event") == events.since(0)


def test_the_record_is_bounded_and_keeps_the_latest(tmp_path: Path) -> None:
    one = Recorder(tmp_path, "log", segment=1000)
    for i in range(1, 500):
        one.write({"seq": i, "line": "x" * 50})
    sizes = [(tmp_path / name).stat().st_size for name in record.FILES["log"]]
    assert all(size <= 1000 for size in sizes)
    numbers = [e["seq"] for e in read(tmp_path, "log")]
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) >= 12  # never less than one full file


def test_talk_does_not_push_out_the_story_of_a_death(tmp_path: Path) -> None:
    _, events, log = journals(tmp_path)
    events.add(type="death", name="fw/0")
    for _ in range(1000):
        log.add(name="fw/0", line="y" * 4096)
    assert [e["type"] for e in read(tmp_path, "event")] == ["death"]
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 3 * record.SEGMENT


def test_what_was_written_survives_sigkill(tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from dpsup.instance.record import Recorder
        one = Recorder(Path({str(tmp_path)!r}), "event")
        for i in range(1, 101):
            one.write({{"seq": i, "type": "state"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [e["seq"] for e in read(tmp_path, "event")] == list(range(1, 101))


def test_a_cut_line_costs_only_itself(tmp_path: Path) -> None:
    Recorder(tmp_path, "event").write({"seq": 1})
    file = tmp_path / record.FILES["event"][0]
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"seq": 2, "ty')
    Recorder(tmp_path, "event").write({"seq": 3})
    assert [e["seq"] for e in read(tmp_path, "event")] == [1, 3]
    file.write_bytes(b'[1]\nnull\n{"seq": "x"}\n\xff\n' + whole)
    assert [e["seq"] for e in read(tmp_path, "event")] == [1]


def test_a_folder_that_is_gone_costs_the_record_alone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    one = Recorder(folder, "event", segment=10)
    one.write({"seq": 1})
    shutil.rmtree(folder)
    one.write({"seq": 2})
    one.write({"seq": 3})
    assert one.lost == 2
    folder.mkdir()
    one.write({"seq": 4})
    assert [json.loads(line)["seq"] for line in (folder / "events.jsonl").open()] == [4]
