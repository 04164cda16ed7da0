# SPDX-License-Identifier: BSD-3-Clause
"""Plugins that originate packets and copy them: with their packet's verdict, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Run
from jobs import IO, LOSSLESS, Job, build, group, pcap_port
from traffic import Packet, compare, read_pcap, save
from versions import many

pytestmark = pytest.mark.system

# Of a packet with the number n (its last byte): n % 4 packets of its own, before it, each with its
# flow, its number and a count; each fifth goes out of the other port too. DIES: whether the process
# ends here.
PLUGIN = """
#include <dpsup_plugin.h>
#include <signal.h>

static uint32_t lan;

static int
init(const struct dps_env *env, void **state)
{
	(void)state;
	lan = (uint32_t)dps_port(env, "lan");
	return 0;
}

static inline void
die(void)
{
	if (__builtin_ia32_rdtsc() / 16 % 512 == 0 && DIES)
		raise(SIGKILL);
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	const uint8_t *number = p->data + p->len - 8;

	(void)state;
	p->data[0] = 0x02;
	for (uint8_t i = 0; i < number[7] % 4; i++) {
		uint8_t *own = dps_emit(i == 2 ? dps_also(dps_out(p->port), lan) : dps_out(p->port),
					60 + number[7]);

		if (own == NULL)
			continue;
		die();
		memcpy(own, "\\x02originated", 11);
		memcpy(own + 16, p->data + 26, 4);
		memcpy(own + 20, number, 8);
		own[28] = i;
		die();
	}
	p->data[1] = 0x77;
	die();
	return number[7] % 5 == 0 ? dps_also(dps_out(p->port), lan) : dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "originates", .rewrites = 6, .emits = 3, .init = init,
	.packet = packet,
};
"""


def changed(frame: bytes) -> bytes:
    return b"\x02\x77" + frame[2:]


def own(frame: bytes) -> bytes:
    """What a packet stands for in the packets that it originated: its flow and its number."""
    return frame[26:30] + frame[-8:]


def emitted(frame: bytes, i: int) -> bytes:
    made = bytearray(60 + frame[-1])
    made[:11], made[16:28], made[28] = b"\x02originated", own(frame), i
    return bytes(made)


def is_emitted(frame: bytes) -> bool:
    return frame[1:11] == b"originated"


def with_their_own(frames: Iterator[bytes]) -> Iterator[bytes]:
    """The packets, once it is certain that each comes right behind those that it originated."""
    before: list[bytes] = []
    for frame in frames:
        if is_emitted(frame):
            before.append(frame)
            continue
        assert before == [emitted(frame, i) for i in range(frame[-1] % 4)]
        before = []
        yield frame
    assert before == []


def run(instance: Run, folder: Path, packets: list[Packet], dies: str, more: str = "") -> Any:
    plugin = str(build(folder, f"#define DIES {dies}\n{PLUGIN}"))
    save(instance.folder / "wan.in.pcap", packets)
    save(instance.folder / "lan.in.pcap", [])
    job = Job(
        instance,
        IO + pcap_port() + pcap_port("lan") + group(plugin, 2, more=LOSSLESS + more),
    )
    doc = job.end(len(packets))
    return doc


def accounted(doc: dict[str, Any], packets: list[Packet]) -> None:
    """Nothing is lost, of what came and of what was added."""
    originated = sum(p.frame[-1] % 4 for p in packets)
    copies = sum((p.frame[-1] % 5 == 0) + (p.frame[-1] % 4 == 3) for p in packets)
    assert (doc["originated"], doc["copies"]) == (originated, copies)
    assert doc["sent"] == len(packets) + originated + copies
    assert doc["lost"] == doc["in_flight"] == 0
    assert doc["dropped"] == {} or set(doc["dropped"].values()) == {0}
    assert [p["unexplained"] for p in doc["audit"]] == [0] * len(doc["audit"])


@pytest.mark.parametrize("dies", ["0", "1"])
def test_what_a_packet_adds_leaves_once_and_before_it(
    instance: Run, tmp_path: Path, dies: str
) -> None:
    """With DIES, workers die in the middle of packets, of emissions, between them."""
    packets = many(20_000)
    doc = run(instance, tmp_path, packets, dies)
    print({k: v for k, v in doc.items() if k != "audit"})
    accounted(doc, packets)
    wan = read_pcap(instance.folder / "wan.out.pcap")
    compare(packets, with_their_own(wan), changed)
    copies = list(read_pcap(instance.folder / "lan.out.pcap"))
    compare([p for p in packets if p.frame[-1] % 5 == 0], [c for c in copies if not is_emitted(c)], changed)
    third = sorted(emitted(p.frame, 2) for p in packets if p.frame[-1] % 4 == 3)
    assert sorted(c for c in copies if is_emitted(c)) == third
