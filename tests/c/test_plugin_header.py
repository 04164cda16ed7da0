# SPDX-License-Identifier: BSD-3-Clause
"""What the SDK's header promises: it is C and C++, and fields that were not asked for are 0."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "workers" / "sdk"

PLUGIN = """
#include <dpsup_plugin.h>

static int init(const struct dps_env *env, void **state)
{
	(void)state;
	return dps_arg(env, "map.wan") && dps_arg_u64(env, "n", 3) && dps_port(env, "wan") >= 0 &&
			dps_group(env, "fw") >= 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	const void *segment = NULL;
	const uint8_t *bytes;

	(void)state;
	if (p->total > p->len)
		return dps_next_segment(p, &segment, &bytes) ? dps_on(1) : dps_quarantine();
	return p->len < 60 ? dps_drop(0) : dps_out(p->port);
}

static const char *const reasons[] = { "runt", NULL };
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "norunts", .reasons = reasons, .init = init, .packet = packet,
};
"""
C = ["c99", "c11", "gnu17"]
CXX = ["c++11", "c++14", "c++17", "c++20", "gnu++20"]


def compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def symbols(path: Path) -> list[str]:
    done = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    )
    return [line.split()[-1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("cc", "suffix", "std"), [("cc", "c", s) for s in C] + [("c++", "cpp", s) for s in CXX]
)
def test_a_plugin_is_c_or_c_plus_plus(cc: str, suffix: str, std: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"norunts.{suffix}", tmp_path / "norunts.so"
    source.write_text(PLUGIN)
    # C++ before 20 has designated initializers as an extension, which only -pedantic mentions.
    wants = ["-Wall", "-Wextra", "-Werror"]
    if std not in ("c++11", "c++14", "c++17"):
        wants.append("-pedantic")
    if suffix == "cpp":
        wants += ["-Wno-missing-field-initializers", "-fvisibility=hidden"]
    subprocess.run(
        [compiler(cc), f"-std={std}", "-O2", *wants, "-shared", "-fPIC", f"-I{SDK}",
         source, "-o", out],
        check=True,
    )  # fmt: skip
    assert "dps_plugin" in symbols(out)


@pytest.mark.parametrize("source", ["packet_fields.c", "look.c", "ticks.c"])
def test_through_the_worker_s_loop(tmp_path: Path, source: str) -> None:
    """What was not asked for is zero; what a plugin that looks finds; ticks between packets."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True, check=True
    ).stdout.replace("-I", "-isystem ")
    for level in ("-O0", "-O3"):
        program = tmp_path / f"fields{level}"
        subprocess.run(
            ["cc", "-std=gnu11", level, "-w", "-DALLOW_EXPERIMENTAL_API", *flags.split(),
             f"-I{ROOT}/shim", f"-I{ROOT}/workers", f"-I{SDK}",
             str(ROOT / "tests" / "c" / source), str(ROOT / "workers" / "tables.c"),
             "-o", str(program), "-lrte_eal"],
            check=True,
        )  # fmt: skip
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
