# SPDX-License-Identifier: BSD-3-Clause
"""Write `dpsup/_abi.py`: the constants of the C headers, under their own names, for Python.

The shim module has them too, but only the primary may load DPDK.
usage: build_abi.py OUTPUT HEADER...
"""

import ast
import re
import sys
from pathlib import Path

# Enumerations whose words Python shows to users, by their first name: each gets a table of its
# values' names, DPS_DROP_NAMES.
NAMED = (
    "DPS_DROP_TRUNCATED",
    "DPS_EMPTY_HOLD",
    "DPS_LOCK_MEMORY",
    "DPS_NOTICE_LEASE",
    "DPS_PLACE_CACHE",
    "DPS_STAGE_RX",
    "DPS_STORY_DEATH",
)


def value(text: str, known: dict[str, int]) -> int:
    """A constant expression of C's, as far as it is one of Python's too."""
    text = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]*", r"\1", text)
    tree = ast.parse(text.strip(), mode="eval")
    return int(eval(compile(tree, "<header>", "eval"), {"__builtins__": {}}, known))


def constants(text: str) -> list[dict[str, int]]:
    """Of a header: the DPS_ names of each enum, then those of its #define lines."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    known: dict[str, int] = {}
    found = []
    for body in re.findall(r"\benum\s*\w*\s*\{([^}]*)\}", text):
        one: dict[str, int] = {}
        for entry in filter(None, map(str.strip, body.split(","))):
            name, equals, what = entry.partition("=")
            if not equals:
                sys.exit(f"{name}: a constant that Python reads has its value written out")
            if name.startswith("DPS_"):
                known[name.strip()] = one[name.strip()] = value(what, known)
        found.append(one)
    defines = re.findall(r"^#define (DPS_\w+) +([\dx() <>a-fu]+)$", text.replace(" \n", "\n"), re.M)
    found.append({name: value(what, known) for name, what in defines})
    return found


def table(enum: dict[str, int], first: str) -> str:
    """The names in an enum's values' order, in lower case, without what all of them begin with."""
    prefix = first[: first.index("_", len("DPS_")) + 1]
    rows = "".join(
        f'    {n}: "{name.removeprefix(prefix).lower()}",\n'
        for name, n in enum.items()
        if name.startswith(prefix)
    )
    return f"{prefix}NAMES: Final = {{\n{rows}}}\n"


def main(output: str, *headers: str) -> None:
    enums = [e for header in headers for e in constants(Path(header).read_text())]
    lines = [f"{name}: Final = {n}\n" for e in enums for name, n in e.items()]
    tables = [table(e, first) for e in enums for first in NAMED if first in e]
    if len(tables) != len(NAMED):
        sys.exit(f"not all of these are in the headers: {', '.join(NAMED)}")
    head = '"""Made from the C headers by shim/build_abi.py."""\n\nfrom typing import Final\n\n'
    Path(output).write_text(head + "".join(lines) + "\n" + "\n".join(tables))


main(*sys.argv[1:])
