# SPDX-License-Identifier: BSD-3-Clause
"""The names of the private copies of plugins' files. Light: each command loads it."""

from __future__ import annotations

PLUGINS = "plugins"  # in the runtime directory
DIGEST = 16  # digits that the name of a copy begins with
_NAME_MOST = 100  # bytes of the file's own name in it


def plugin_copy(directory: str, digest: str, file: str) -> str:
    """The private copy of a plugin's file, in the runtime directory `directory`."""
    name = file.rpartition("/")[2].encode(errors="replace")[-_NAME_MOST:].decode(errors="ignore")
    return f"{directory}/{PLUGINS}/{digest}-{name}"


def file_name(path: str) -> str:
    """The name of a plugin's file as its user gave it, also of its copy."""
    name = path.rpartition("/")[2]
    digest, dash, rest = name.partition("-")
    is_copy = dash and len(digest) == DIGEST and not digest.strip("0123456789abcdef")
    return rest if is_copy and f"/{PLUGINS}/{name}" in path else name
