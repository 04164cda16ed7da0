# SPDX-License-Identifier: BSD-3-Clause
"""The SDK's tables: tables.c against plain models, with and without sanitizers, in C and in C++."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import LONG, seed

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "workers" / "sdk"
HEADERS = sorted(path.name for path in SDK.glob("dpsup_table*.h"))
pytestmark = pytest.mark.timeout(3600 if LONG else 600)
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiled(out: Path, *flags: str) -> Path:
    subprocess.run(
        ["cc", "-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow", *flags, f"-I{SDK}",
         str(ROOT / "tests" / "c" / "tables.c"), "-o", str(out)],
        check=True,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("tables") / "fast", "-O2")


def run(program: Path, *args: object) -> str:
    done = subprocess.run(
        [program, *map(str, args)], capture_output=True, text=True, check=False, timeout=3600
    )
    print(done.stdout)  # with the seeds
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("what", ["lpm", "exact", "array"])
def test_random_operations_do_what_a_plain_model_does(fast: Path, what: str) -> None:
    """Each a million operations in the long targets, with seeds that are new each time."""
    run(fast, what, seed(), 1_000_000 if LONG else 10_000)


def test_any_entries_fit_and_one_more_is_refused(fast: Path) -> None:
    run(fast, "full", seed())


def test_a_table_of_the_internet_s_shape(fast: Path) -> None:
    """A million IPv4 routes, a fifth of that of IPv6, in the memory that docs/tables.md says."""
    n = 1_000_000 if LONG else 200_000
    four, six = run(fast, "routes", 1, n).splitlines()[:2]
    used = [float(line.split(" MiB")[0].rsplit(" ", 1)[1]) for line in (four, six)]
    if LONG:
        assert used[0] <= 32
        assert used[1] <= 40
    assert used[0] * 2**20 <= 48 * n + 2**23


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("tables") / "sanitized", "-O1", *SANITIZE)


@pytest.mark.parametrize("what", ["lpm", "exact", "array", "full"])
def test_nothing_is_read_or_written_outside(sanitized: Path, what: str) -> None:
    run(sanitized, what, seed(), 1000)


C = ["c11", "gnu17"]
CXX = ["c++11", "c++17", "c++20", "gnu++20"]


@pytest.mark.parametrize(
    ("cc", "suffix", "std"), [("cc", "c", s) for s in C] + [("c++", "cpp", s) for s in CXX]
)
def test_tables_are_c_and_c_plus_plus(cc: str, suffix: str, std: str, tmp_path: Path) -> None:
    """As a plugin is built: without options for a processor, and without DPDK."""
    if shutil.which(cc) is None:
        pytest.skip(f"no {cc}")
    source, out = tmp_path / f"tables.{suffix}", tmp_path / "tables"
    shutil.copy(ROOT / "tests" / "c" / "table_use.c", source)
    subprocess.run(
        [cc, f"-std={std}", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-pedantic",
         f"-I{SDK}", str(source), "-o", str(out)],
        check=True,
    )  # fmt: skip
    subprocess.run([out], check=True)


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone_and_is_installed(header: str, tmp_path: Path) -> None:
    source = tmp_path / "one.c"
    source.write_text(f"#include <{header}>\n")
    subprocess.run(
        ["cc", "-std=c11", "-Werror", "-c", "-fsyntax-only", f"-I{SDK}", source], check=True
    )
    flags = subprocess.run(
        [sys.executable, "-P", "-m", "dpsup", "version", "--cflags"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (Path(flags.split("-I")[1].strip()) / header).is_file()


def test_a_lookup_counts_bits_by_the_processor_s_instruction(tmp_path: Path) -> None:
    """Built without -mpopcnt it would be a call for each count."""
    if os.uname().machine != "x86_64":
        pytest.skip("the instruction is x86-64's")
    out = tmp_path / "use.s"
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-S", f"-I{SDK}", ROOT / "tests/c/table_use.c", "-o", out],
        check=True,
    )
    assert "popcnt" in out.read_text()
    assert "__popcountdi2" not in out.read_text()
