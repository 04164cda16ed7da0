# SPDX-License-Identifier: BSD-3-Clause
"""Filters as tcpdump takes them, compiled by libpcap.

In the process of the caller, not in the primary: a filter may name hosts, and looking them up may
take long. That process must not load DPDK, so this calls libpcap itself, not through the shim. The
io cores run the instructions; the primary has libpcap check them once more.
"""

from __future__ import annotations

from dpsup import limits
from dpsup._libraries import ffi
from dpsup.errors import HostError, UsageError
from dpsup.packets.pcap import ETHERNET

_LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
MOST = 2000  # instructions: io cores run them for each packet
_NETMASK_UNKNOWN = 0xFFFFFFFF


def compile_filter(text: str) -> list[int]:
    """The instructions of a filter ("tcp port 80"), each as code << 48 | jt << 40 | jf << 32 | k;
    none for "". Raises: UsageError with libpcap's own words; HostError where it is missing."""
    if not text.strip():
        return []
    for name in _LIBRARIES:
        try:
            pcap = ffi.dlopen(name)
            break
        except OSError:
            continue
    else:
        raise HostError(
            "libpcap, which compiles filters, is not installed",
            code="E0733",
            help="apt-get install libpcap0.8",
        )
    handle = pcap.pcap_open_dead(ETHERNET, limits.SNAP)
    if handle == ffi.NULL:
        raise MemoryError("libpcap")
    program = ffi.new("struct bpf_program *")
    try:
        if pcap.pcap_compile(handle, program, text.encode(), 1, _NETMASK_UNKNOWN):
            said = ffi.string(pcap.pcap_geterr(handle)).decode(errors="replace")
            raise UsageError(
                f'filter "{text}": {said}',
                code="E0732",
                help="it is written as for tcpdump: `man pcap-filter`",
            )
        found = program.bf_insns[0 : program.bf_len]
        words = [i.code << 48 | i.jt << 40 | i.jf << 32 | i.k for i in found]
        pcap.pcap_freecode(program)
    finally:
        pcap.pcap_close(handle)
    if len(words) > MOST:
        raise UsageError(
            f'filter "{text}": {len(words)} instructions, at most {MOST} are accepted', code="E0732"
        )
    return words
