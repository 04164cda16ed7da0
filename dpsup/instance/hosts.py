# SPDX-License-Identifier: BSD-3-Clause
"""The hosts that a person's commands reach over the network: `hosts.toml`.

[edge1]
endpoint = "tcp://10.0.0.1:9470"
key = "edge1.key"    # beside this file, or absolute; by default client.key
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from dpsup.errors import DpsupError, UsageError
from dpsup.instance import far, keys
from dpsup.instance.far import Far
from dpsup.plan.paths import config_dir

SCHEME = "tcp://"
FILE, KEY = "hosts.toml", "client.key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_ENDPOINT = re.compile(r"tcp://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class Known(NamedTuple):
    endpoint: str
    key: str  # the path of its file


def _directory() -> Path:
    return Path(config_dir(os.environ, is_root=os.geteuid() == 0))


def _file() -> Path:
    return Path(os.environ.get("DPSUP_HOSTS") or _directory() / FILE)


def is_endpoint(text: str) -> bool:
    found = _ENDPOINT.fullmatch(text)
    return found is not None and 0 < int(found[1]) < 65535


def read() -> dict[str, Known]:
    """By name; none where there is no file. Raises: DpsupError."""
    import tomllib

    file = _file()
    try:
        found = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise _broken(file, str(e)) from e
    known = {}
    for name, one in found.items():
        if not _NAME.fullmatch(name) or not isinstance(one, dict):
            raise _broken(file, f"[{name}] is no table of a host")
        endpoint, key = one.get("endpoint"), one.get("key", KEY)
        extra = one.keys() - {"endpoint", "key"}
        if not isinstance(endpoint, str) or not is_endpoint(endpoint):
            raise _broken(file, f'[{name}]: write endpoint = "tcp://ADDRESS:PORT"')
        if not isinstance(key, str) or extra:
            raise _broken(file, f"[{name}]: {', '.join(sorted(extra)) or 'key'} is not understood")
        known[name] = Known(endpoint, str(file.parent / Path(key).expanduser()))
    return known


def find(name: str) -> Far | None:
    """The instance that a name or an endpoint means on another host. Raises: DpsupError."""
    if name.startswith(SCHEME):
        if not is_endpoint(name):
            raise UsageError(
                f'"{name}" is no endpoint', code="E0474", help="write tcp://ADDRESS:PORT"
            )
        key = os.environ.get("DPSUP_KEY") or str(_directory() / KEY)
        return far.network(name, name, keys.identity(key))
    known = read().get(name)
    return None if known is None else far.network(name, known.endpoint, keys.identity(known.key))


def _broken(file: Path, why: str) -> DpsupError:
    return UsageError(
        f"{file} cannot be understood: {why}",
        code="E0474",
        why="it says where the hosts are, and with which keys",
        help='each host is a table: [edge1] with endpoint = "tcp://10.0.0.1:9470"',
    )
