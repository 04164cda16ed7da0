# SPDX-License-Identifier: BSD-3-Clause
"""What docs/reference/json.md says of each document is what a real instance prints, key by key."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from harness import Run, wait_for

from dpsup.cli.root import cli
from dpsup.documents.describe import keys_of
from dpsup.documents.printed import DOCUMENTS
from dpsup.packets.pcap import write_pcap
from dpsup.packets.traffic import Traffic

pytestmark = pytest.mark.beside


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Every path that a document has: tables by name, lists as []. What is empty, as itself."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from keys(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for one in value:
            yield from keys(one, f"{path}[]")
    else:
        yield path


def covers(key: str, path: str) -> bool:
    """Does what is said of `key` tell about `path`?"""
    if key.endswith(".*"):
        return path == key[:-2] or path.startswith(key[:-1])
    if key.endswith("[]"):
        return path == key[:-2] or path.startswith(key)
    if key.startswith((f"{path}[]", f"{path}.")):
        return True  # empty, or null
    return path == key


def under_empty(key: str, there: set[str]) -> bool:
    """An empty list or table has no entries to look at."""
    return any(key.startswith((f"{path}[]", f"{path}.")) for path in there)


def test_documents_have_the_keys_that_the_reference_says(
    instance: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(instance.folder)

    def dpsup(*words: str) -> Result:
        """In this process: thirty times Python's start would be most of the test."""
        return CliRunner().invoke(cli, ["-n", instance.name, *words])

    instance.file.unlink(missing_ok=True)
    assert dpsup("init", "--name", instance.name).exit_code == 0
    instance.start()
    # One death, for what only then is there.
    assert dpsup("kill", "fw/0").exit_code == 0
    instance.until(lambda s: s["groups"][0]["workers"][0]["last_exit"] and s["state"] == "running")
    # With one worker, or until the second has its buckets, there is nothing to spread.
    assert dpsup("scale", "fw", "2").exit_code == 0
    wait_for(lambda: dpsup("rebalance", "fw", "--dry-run", "--over", "100ms").exit_code == 0)
    write_pcap(instance.folder / "in.pcap", Traffic(2, 2).frames())  # for `try`
    wrong = []
    for name, (command, _, of) in DOCUMENTS.items():
        if name == "Table":  # the template has no live table: unit/test_table_command.py
            continue
        said = keys_of(of)
        done = dpsup(*shlex.split(command)[1:], "-o", "json")
        assert done.exit_code == 0, f"{command}: {done.output}"
        there = set(keys(json.loads(done.stdout)))
        known = {key.removeprefix("?") for key in said}
        wrong += [f"{name}: {p} is not told" for p in there if not any(covers(k, p) for k in known)]
        wrong += [
            f"{name}: {key} is told, and not there"
            for key in said
            if not key.startswith("?")
            and not any(covers(key, path) for path in there)
            and not under_empty(key, there)
        ]
    assert not wrong, "\n".join(sorted(wrong))
    instance.stop()
