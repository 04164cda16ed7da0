# SPDX-License-Identifier: BSD-3-Clause
"""Versions of a plugin, each of which writes its number into the packets that it handles."""

from __future__ import annotations

from pathlib import Path

from harness import Run
from jobs import IO, LOSSLESS, Job, build, group, pcap_port
from traffic import Flow, Packet, mix, save

MARK = 5  # the byte of the destination address that a version writes its number to
ANY = 1000.0  # times slower: how many cycles a packet takes is chance where others use the CPU
CYCLES = 60_000  # TSC cycles for one packet: some 25 µs

# Fit for any version: VERSION, and what WORSE makes of it.
PLUGIN = """
#include <dpsup_plugin.h>
#include <signal.h>
#include <string.h>

static const struct dps_env *env;
static uint64_t seen;

static int
init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	%(init)s
	return 0;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	uint64_t until = __builtin_ia32_rdtsc() + dps_arg_u64(env, "cycles", CYCLES);
	uint8_t mark = VERSION;

	(void)state;
	seen++;
	%(worse)s
	p->data[5] = mark;
	while (__builtin_ia32_rdtsc() < until)
		;
	env->counters[SEEN]++;
	return dps_out(p->port);
}

static const char *const reasons[] = { REASONS, NULL };
static const char *const counters[] = { COUNTERS, NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "marks", .needs = NEEDS, .rewrites = 6, .init = init,
	.packet = packet, .reasons = reasons, .counters = counters, .policy = POLICY,
};
"""


def plugin(
    folder: Path,
    version: int,
    worse: str = "",
    *,
    init: str = "",
    needs: str = "0",
    reasons: str = '"picky"',
    counters: str = '"seen"',
    seen: int = 0,
    policy: int = 0,
) -> str:
    """Build a version; its path."""
    where = folder / f"v{version}"
    where.mkdir()
    names = {
        "VERSION": version, "CYCLES": CYCLES, "NEEDS": needs, "REASONS": reasons,
        "COUNTERS": counters, "SEEN": seen, "POLICY": policy,
    }  # fmt: skip
    text = "".join(f"#define {k} {v}\n" for k, v in names.items())
    return str(build(where, text + PLUGIN % {"worse": worse, "init": init}))


def many(packets: int, flows: int = 60, seed: int = 1) -> list[Packet]:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    made = [
        Flow(
            str(i),
            [
                bytes(
                    Ether(dst="02:00:00:00:00:00", src="02:00:00:00:00:99")
                    / IP(src=f"10.0.{i}.1", dst="10.9.9.9")
                    / UDP(sport=i + 1)
                    / bytes(20)
                )
            ],
            room=[8],
        )
        for i in range(flows)
    ]
    return mix(made, packets, seed)


def unmarked(frame: bytes) -> bytes:
    return frame[:MARK] + b"\0" + frame[MARK + 1 :]


def start(
    instance: Run,
    packets: list[Packet],
    first: str,
    count: int = 3,
    args: str = "",
    more: str = "",
) -> Job:
    save(instance.folder / "wan.in.pcap", packets)
    workers = group(first, count, args, most=count + 1, more=LOSSLESS + more)
    return Job(instance, pcap_port() + IO + workers)
