# SPDX-License-Identifier: BSD-3-Clause
"""An instance that is enabled, the power cut while it forwards, and what the next boot makes of it.

The second of the two runs in the boot after the first.
"""

from __future__ import annotations

from lab.guest import Outside, sh
from lab.units import TOPOLOGY, Unit, install

NAME = "always"
PORTS = "".join(f'[[ports]]\nname = "t{i}"\nvdev = "net_tap{i},iface=lab{i}"\n' for i in range(2))


def unit() -> Unit:
    return Unit(NAME, TOPOLOGY.format(name=NAME, wan="t0", lan="t1", io="0", cores="1") + PORTS)


def test_enabled_and_cut(outside: Outside) -> None:
    install()
    one = unit()
    one.ctl("enable", "--now")
    one.runs()
    outside.cut()


def test_runs_after_the_next_boot() -> None:
    """Nobody starts it but systemd, and nothing that the cut left behind is in its way."""
    one = unit()
    told = one.runs()
    assert told["generation"] == 1
    assert one.show("NRestarts") == "0"
    assert one.show("ActiveState") == "active"
    sh("systemctl", "disable", one.unit)
    one.ctl("stop")
    one.is_gone()
