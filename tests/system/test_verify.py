# SPDX-License-Identifier: BSD-3-Clause
"""`verify = true`: what a plugin changes and does not declare is found in a running group."""

from __future__ import annotations

import pytest
from harness import Run
from jobs import IO, build, group, out, pcap_port
from traffic import flows, mix, save

pytestmark = [pytest.mark.timeout(600), pytest.mark.beside]

PACKETS = 400
# It declares 12 bytes. Of each 100 packets it writes to byte 20 of one and to a byte before another
# one, and moves the start of a third.
SOURCE = """
#include <dpsup_plugin.h>

static unsigned n;

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	p->data[0] ^= 1;
	n++;
	if (n % 100 == 10)
		p->data[20] ^= 1;
	if (n % 100 == 20)
		p->data[-3] ^= 1;
	if (n % 100 == 30) {
		p->data -= 8;
		p->len += 8;
	}
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "sloppy", .packet = packet, .rewrites = 12, .prepends = PREPENDS,
};
"""


@pytest.mark.parametrize("prepends", [0, 8])
def test_undeclared_writes_are_found(instance: Run, prepends: int) -> None:
    packets = mix(flows(), PACKETS, seed=4)
    save(instance.folder / "wan.in.pcap", packets)
    plugin = build(instance.folder, SOURCE.replace("PREPENDS", str(prepends)))
    instance.start(pcap_port() + IO + group(str(plugin), 1) + "verify = true\n")
    refused = 0 if prepends else PACKETS // 100
    instance.until(lambda s: s["ports"][0]["tx_packets"] == PACKETS - refused)
    wrong = PACKETS // 100 * (1 if prepends else 2)

    def found() -> bool:
        return any(e["type"] == "undeclared" for e in instance.events())

    instance.until(lambda _: found())
    (event,) = [e for e in instance.events() if e["type"] == "undeclared"]
    assert event["name"] == "fw/0" and event["port"] == "wan" and event["plugin"] == str(plugin)
    assert event["packets"] <= wrong and event["length"] > 0
    changed = ["bytes 20 to 20"] if prepends else ["bytes 20 to 20", "bytes -3 to -3"]
    assert any(text in event["message"] for text in changed), event
    worker = instance.worker("fw/0")
    assert (worker["undeclared"], worker["dropped"].get("bad_verdict", 0)) == (wrong, refused)
    instance.stop()
    assert len(list(out(instance))) == PACKETS - refused
