# SPDX-License-Identifier: BSD-3-Clause
"""A plugin that looks at a burst before its packets: a kill in there has changed nothing, and the
packet that ends the worker in there is found among those that were looked at with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Run, wait_for
from jobs import IO, LOSSLESS, build, group, out, pcap_port
from stepping import build_step, step
from system.test_poison import frame_of, in_quarantine, poisoned, settled
from system.test_step import OUT, SWAP, start
from traffic import compare, flows, mix, save, swapped

pytestmark = pytest.mark.beside

# Swaps the MACs, as macswap; and looks.
LOOKS = """
#include "dpsup_plugin.h"

static void look(void *state, struct dps_packet *packets, uint32_t n)
{
	(void)state;
	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(packets[i].data);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *end = packets[i].data + packets[i].len;

		if (packets[i].len > 19 && memcmp(end - 19, "this one is poison", 18) == 0)
			__builtin_trap();
		packets[i].found = 1 + (uint64_t)packets[i].data[0];
		%s
	}
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	uint8_t mac[6];

	(void)state;
	if (p->found != 1 + (uint64_t)p->data[0])
		return dps_quarantine();
	if (p->len < 12)
		return dps_out(p->port);
	memcpy(mac, p->data, 6);
	memcpy(p->data, p->data + 6, 6);
	memcpy(p->data + 6, mac, 6);
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "looks", .rewrites = 12, .packet = packet, .look = look,
};
"""


def plugin(folder: Path, more: str = "") -> str:
    return str(build(folder, LOOKS % more))


def test_a_kill_in_look_has_changed_nothing(instance: Run) -> None:
    pid = start(instance, plugin(instance.folder))
    found = step(build_step(instance.folder / "step"), pid, 25_000, SWAP, OUT)
    print(found)
    assert found["packets"] > 64
    assert found["in_part"] > 0 and found["published"] > 0
    assert 0 < found["changed"] <= found["undone"]


def test_the_stepping_sees_a_look_that_changes(instance: Run) -> None:
    pid = start(instance, plugin(instance.folder, "packets[i].data[12] ^= 0xff;"))
    with pytest.raises(AssertionError, match="neither whole nor as they came"):
        step(build_step(instance.folder / "step"), pid, 25_000, SWAP, OUT)


def test_poison_in_look_is_found_and_the_others_are_not_to_blame(instance: Run) -> None:
    packets = mix(flows(2), 4_000, seed=5)
    place = 2_345
    sent = poisoned(packets, place)
    save(instance.folder / "wan.in.pcap", sent)
    more = LOSSLESS + "spares = 1\n"
    instance.start(pcap_port() + IO + group(plugin(instance.folder), 1, more=more))
    wait_for(lambda: len(in_quarantine(instance)) == 1, step=0.1)
    instance.until(lambda s: settled(s, len(sent)))

    def blamed() -> list[int]:
        return [e.get("blamed", 0) for e in instance.events() if e["type"] == "death"]

    wait_for(lambda: blamed()[-1:] == [2])
    # The first death may be one of several packets in hand: then no packet is to blame for it.
    assert blamed() in ([1, 2], [0, 1, 2])
    instance.stop()
    (packet,) = in_quarantine(instance)
    assert frame_of(packet) == sent[place].frame
    compare([p for i, p in enumerate(sent) if i != place], out(instance), swapped)
