# SPDX-License-Identifier: BSD-3-Clause
"""The example in Rust is as exact as the one in C, whenever its worker dies."""

from __future__ import annotations

import contextlib
import re
import struct
from pathlib import Path

import pytest
from harness import Run
from jobs import IO, LOSSLESS, Job, accounted, group, out, pcap_port
from rust import CRATE, RUSTC, WHY_NOT, build
from traffic import compare, save
from versions import many

from dpsup.errors import DpsupError

pytestmark = [
    pytest.mark.system,
    pytest.mark.beside,
    pytest.mark.skipif(RUSTC is None, reason=WHY_NOT),
]

# Ends the process at once, once in some hundred calls.
DIE = """
fn die() {
    extern "C" {
        fn raise(signal: i32) -> i32;
    }
    unsafe {
        if std::arch::x86_64::_rdtsc() / 16 % 512 == 0 {
            raise(9);
        }
    }
}
"""
STATE = 'state = 64\nbucket_state = "2KiB"\nspares = 1\n'


def test_it_counts_exactly_whenever_it_dies(instance: Run, tmp_path: Path) -> None:
    """It dies on its own, before and after each change of its state, and by others."""
    source = (
        (CRATE / "examples" / "count_flows.rs").read_text().replace("#![deny(unsafe_code)]\n", "")
    )
    dying, places = re.subn(r"^( *)((?:bucket|place)\.set\(.*|packet\.count\(.*;)$",
                            r"\1die();\n\1\2\n\1die();", source, flags=re.MULTILINE)  # fmt: skip
    assert places == 4
    (tmp_path / "dying.rs").write_text(dying + DIE)
    plugin = str(build(tmp_path, tmp_path / "dying.rs"))
    packets = many(5000)
    save(instance.folder / "wan.in.pcap", packets)
    job = Job(instance, IO + pcap_port() + group(plugin, 2, more=LOSSLESS + STATE), idle="600s")
    for n in range(1, 6):
        job.until_sent(n * 800)
        with contextlib.suppress(DpsupError):
            job.instance.kill(f"fw/{n % 2}")
    job.until_sent(len(packets))
    state = job.instance.state("fw")
    counted = [w["counters"] for w in job.instance.status()["groups"][0]["workers"]]
    doc = job.end(len(packets))
    accounted(doc, len(packets))
    assert doc["deaths"] > 0
    compare(packets, out(instance))
    blocks = [bytes.fromhex(block["hex"]) for block in state["buckets"]]
    flows = [
        found[0] for block in blocks for found in struct.iter_unpack("<Q24x", block[8:]) if found[0]
    ]
    assert len(flows) == len({p.flow for p in packets})
    assert sum(flows) == len(packets)
    assert sum(int.from_bytes(bytes.fromhex(w["hex"])[:8], "little") for w in state["workers"]) == (
        len(packets)
    )
    assert sum(c["packets"] for c in counted) == len(packets)
