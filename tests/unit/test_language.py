# SPDX-License-Identifier: BSD-3-Clause
"""Words that do not stand in what is shipped: they hide which process acts, or are out of use."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("dpsup", "shim", "workers", "deploy", "docs", "bench")
TOP = ("README.md", "CHANGELOG.md", "SECURITY.md", "meson.build", "mkdocs.yml")
NOT_TEXT = {".so", ".pyc", ".png", ".pcap", ".o"}

WORDS = {
    "whoever": "name the process, worker, warden or supervisor",
    "somebody": "name the process, worker, warden or supervisor",
    "folders?": "directory",
    "for ever": "forever",
    "notwithstanding": "in spite of, or another sentence",
    "for want of": "for lack of",
    "in vain": "say what did not happen",
}
REFUSED = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)

# Names that stay: a class that several modules import with its constant, and a key of a document
# that scripts may read.
KEPT = re.compile(
    r"""\bFolder\b(?=[(),:]|$)|\bFOLDER\b|(?<=import )Folder\b"""
    r"""|\['folder'\]|"folder":|\bfolder: Annotated|`folder`"""
)


def offences(text: str) -> list[str]:
    """The refused words in a text, with their lines."""
    return [
        f"{number}: {found[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for found in REFUSED.finditer(KEPT.sub("", line))
    ]


def shipped() -> dict[str, Path]:
    files = [path for name in SHIPPED for path in sorted((ROOT / name).rglob("*"))]
    files += [ROOT / name for name in TOP]
    return {
        path.relative_to(ROOT).as_posix(): path
        for path in files
        if path.is_file() and path.suffix not in NOT_TEXT
    }


def test_shipped_text_has_no_refused_word() -> None:
    found = {name: offences(path.read_text(errors="replace")) for name, path in shipped().items()}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("// Whoever holds an older ticket", ["1: Whoever"]),
        ("the runtime\nfolder, and other folders", ["2: folder", "2: folders"]),
        ("    for folder in found:", ["1: folder"]),
        ("it spins for ever", ["1: for ever"]),
        ("def find(name: str) -> Folder:", []),
        ("from dpsup.instance.quarantine import Folder, find", []),
        ('        "folder": str(directory.path),', []),
        ("for every packet, made_folder", []),
    ],
)
def test_what_is_refused(text: str, found: list[str]) -> None:
    assert offences(text) == found


def test_a_docstring_is_no_fragment() -> None:
    """It does not begin "Of ...": it names what it is about."""
    for path in sorted((ROOT / "dpsup").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                assert not (ast.get_docstring(node) or "").startswith("Of "), path
