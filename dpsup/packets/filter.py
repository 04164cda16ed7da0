# SPDX-License-Identifier: BSD-3-Clause
"""Filters as tcpdump takes them, compiled by libpcap.

In the process of who asks: a filter may name hosts, and looking them up may take long. The
instructions are what the io cores run; the primary has libpcap look them over once more.
"""

from __future__ import annotations

import ctypes

from dpsup.errors import HostError, UsageError
from dpsup.packets.pcapng import ETHERNET

_LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
_SNAP = 65536
MOST = 2000  # instructions: io cores run them for each packet
_NETMASK_UNKNOWN = 0xFFFFFFFF


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("first", ctypes.POINTER(_Instruction)))


def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise HostError(
        "libpcap is not there: it compiles filters",
        code="E0733",
        help="apt-get install libpcap0.8",
    )


def compile_filter(text: str) -> list[int]:
    """The instructions of a filter ("tcp port 80"), each as code << 48 | jt << 40 | jf << 32 | k;
    none for "". Raises: UsageError with libpcap's own words; HostError where it is missing."""
    if not text.strip():
        return []
    pcap = _library()
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_geterr.restype = ctypes.c_char_p
    handle = ctypes.c_void_p(pcap.pcap_open_dead(ETHERNET, _SNAP))
    program = _Program()
    try:
        if pcap.pcap_compile(
            handle, ctypes.byref(program), text.encode(), 1, ctypes.c_uint32(_NETMASK_UNKNOWN)
        ):
            said = (pcap.pcap_geterr(handle) or b"").decode(errors="replace")
            raise UsageError(
                f'filter "{text}": {said}',
                code="E0732",
                help="it is written as for tcpdump: `man pcap-filter`",
            )
        found = program.first[: program.length]
        words = [i.code << 48 | i.jt << 40 | i.jf << 32 | i.k for i in found]
        pcap.pcap_freecode(ctypes.byref(program))
    finally:
        pcap.pcap_close(handle)
    if len(words) > MOST:
        raise UsageError(
            f'filter "{text}": {len(words)} instructions, at most {MOST} are taken', code="E0732"
        )
    return words
