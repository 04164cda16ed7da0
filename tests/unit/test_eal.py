# SPDX-License-Identifier: BSD-3-Clause
"""EAL's rule for its runtime directory, which has one home."""

from __future__ import annotations

import pytest

from dpsup.host.eal import runtime_dir, runtime_dirs

UNIT = {"RUNTIME_DIRECTORY": "/run/dpsup/edge"}
SESSION = {"XDG_RUNTIME_DIR": "/run/user/7"}


@pytest.mark.parametrize(
    ("env", "is_root", "path"),
    [
        ({}, True, "/var/run/dpdk"),
        ({}, False, "/tmp/dpdk"),
        (SESSION, True, "/var/run/dpdk"),
        (SESSION, False, "/run/user/7/dpdk"),
        (UNIT | SESSION, True, "/run/dpsup/edge/dpdk"),
        (UNIT | SESSION, False, "/run/dpsup/edge/dpdk"),
    ],
)
def test_the_rule(env: dict[str, str], is_root: bool, path: str) -> None:
    assert runtime_dir(env, is_root=is_root) == path
    assert path in runtime_dirs(env)


def test_remains_of_other_environments_are_found() -> None:
    assert set(runtime_dirs(UNIT | SESSION)) == {
        "/var/run/dpdk", "/tmp/dpdk", "/run/user/7/dpdk", "/run/dpsup/edge/dpdk",
    }  # fmt: skip
