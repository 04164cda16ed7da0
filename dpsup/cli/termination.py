# SPDX-License-Identifier: BSD-3-Clause
"""Why a start failed, for what started it: `--termination-log FILE`, or `DPSUP_TERMINATION_LOG`.

Kubernetes shows the text of /dev/termination-log as the reason of a container's end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from dpsup.errors import DpsupError

OPTION, VARIABLE = "--termination-log", "DPSUP_TERMINATION_LOG"
MOST = 4096  # bytes that Kubernetes reads


def file_of(words: Sequence[str], env: Mapping[str, str]) -> str:
    """Where the failure of this command line is to be told; "": nowhere. It is found without the
    parser, whose errors are told of too. Commands other than `start` (a probe has the same
    environment) never write it."""
    if "start" not in words:
        return ""
    for i, word in enumerate(words):
        if word == OPTION and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{OPTION}="):
            return word.partition("=")[2]
    return env.get(VARIABLE, "")


def text_of(message: str, exit_code: int) -> bytes:
    """The message with its exit code, cut at the end of a character."""
    last = f"\nexit code {exit_code}\n".encode()
    head = message.strip().encode(errors="replace")[: MOST - len(last)]
    return head.decode(errors="ignore").encode() + last


def tell(file: str, message: str, exit_code: int) -> DpsupError | None:
    """Write it. Returns what went wrong: the failure itself must still be said elsewhere."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(file, flags, 0o644)
        try:
            os.write(fd, text_of(message, exit_code))
        finally:
            os.close(fd)
    except (OSError, ValueError) as e:
        return DpsupError(
            f"cannot write {file}: {(isinstance(e, OSError) and e.strerror) or e}",
            code="E0482",
            why="what started dpsup does not learn there why it ended",
            help=f"name a file that this user may write: {OPTION}, or {VARIABLE}",
        )
    return None
