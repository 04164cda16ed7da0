# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup metrics`: an exporter beside an instance, which may not run yet."""

from __future__ import annotations

import socket
import threading
import urllib.request

import pytest

from dpsup.errors import HostError, UsageError
from dpsup.instance.exporter import looker, serve
from dpsup.instance.openmetrics import Server


def test_an_instance_that_does_not_run_is_down() -> None:
    with Server("127.0.0.1:0", looker("nobody-has-this-name")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "dpsup_up 0.0" in answer.read().decode()
        server.shutdown()


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HostError, match=f"cannot serve metrics at {listen}") as told:
            serve("edge", listen)
    assert told.value.code == "E0486"


@pytest.mark.parametrize("listen", ["9464", ":9464", "localhost:", "localhost:99999", "[::1]"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        serve("edge", listen)
