# SPDX-License-Identifier: BSD-3-Clause
"""The Python that runs dpsup, as a worker loads it to run a plugin in Python."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path


def library() -> str:
    """Its shared library: a path, or a name that the loader searches for."""
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY") or ""
    for directory in ("LIBDIR", "LIBPL"):
        path = Path(sysconfig.get_config_var(directory) or "/", name)
        if name and path.is_file():
            return str(path)
    return name or "libpython3.so"


def has(package: str) -> bool:
    """Could it be imported? It is not."""
    return importlib.util.find_spec(package) is not None
