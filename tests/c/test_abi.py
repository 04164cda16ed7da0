# SPDX-License-Identifier: BSD-3-Clause
"""The ABI as the compiler sees it, and as Python reads it: one header, no drift."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from dpsup import _abi
from dpsup._shim import ffi, lib
from dpsup.documents import audit as audit_document
from dpsup.documents import counters, story
from dpsup.plan import memory
from dpsup.primary import audit
from dpsup.primary.shim import fields
from dpsup.supervisor import policy

ROOT = Path(__file__).resolve().parents[2]

# The text of shim/abi.h without comments, and the version it had. Change the header, and raise
# DPS_ABI_VERSION with it.
PINNED = {17: "280da8d5552a923a"}


def abi_text() -> str:
    text = re.sub(r"//.*", "", (ROOT / "shim" / "abi.h").read_text())
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "struct",
    re.findall(r"^struct (\w+) \{", (ROOT / "shim" / "abi.h").read_text(), re.MULTILINE)
    + re.findall(r"^struct (\w+) \{", (ROOT / "shim" / "shim.h").read_text(), re.MULTILINE),
)
def test_layouts_agree(struct: str) -> None:
    # cffi compares its own layout with the compiler's at the first use.
    end = 0
    for name, field in ffi.typeof(f"struct {struct}").fields:
        assert field.offset >= end, name
        end = field.offset + ffi.sizeof(field.type)
    assert end <= ffi.sizeof(f"struct {struct}")


def test_the_version_moves_with_the_text() -> None:
    digest = hashlib.sha256(abi_text().encode()).hexdigest()[:16]
    assert PINNED.get(int(lib.DPS_ABI_VERSION)) == digest, "raise DPS_ABI_VERSION, pin the new text"


def test_python_has_the_constants_that_the_compiler_has() -> None:
    names = [n for n in vars(_abi) if n.startswith("DPS_") and not n.endswith("_NAMES")]
    known = [n for n in names if hasattr(lib, n)]
    assert {n: getattr(_abi, n) for n in known} == {n: getattr(lib, n) for n in known}
    # The others are those of the plugin header and dpsup.h, which cffi does not read.
    assert all(hasattr(_abi, n) for n in dir(lib) if isinstance(getattr(lib, n), int))
    assert _abi.DPS_PLUGIN_TOUCHES_MOST == lib.DPS_TOUCHES
    assert _abi.DPS_PLUGIN_TOUCH_BYTES == lib.DPS_TOUCH_MOST
    assert _abi.DPS_PLUGIN_REASONS == lib.DPS_REASONS
    assert _abi.DPS_PLUGIN_COUNTERS == lib.DPS_COUNTERS


def test_every_value_of_an_enumeration_has_a_name() -> None:
    assert len(_abi.DPS_DROP_NAMES) == lib.DPS_N_DROPS
    assert len(_abi.DPS_PLACE_NAMES) == lib.DPS_N_PLACES
    assert len(_abi.DPS_STAGE_NAMES) == lib.DPS_N_STAGES
    assert audit.PLACES[lib.DPS_PLACE_BACK] == "handed_back"
    assert lib.DPS_EXIT_TEMPORARY not in policy.PERMANENT
    assert lib.DPS_EXIT_PRIMARY_GONE not in policy.PERMANENT, "its workers were held for ever"
    assert lib.DPS_MAX_SITTERS > lib.DPS_MAX_SLOTS + lib.DPS_MAX_SPARES


@pytest.mark.parametrize(
    ("struct", "document", "more"),
    [
        (
            "dps_port_stats",
            counters.PortCounters,
            {
                "name",
                "drops",
                "unwritten_bytes",
                "link_up",
                "link_mbps",
                "absent",
                "trouble",
                "reopened",
                "nic_hash",
                "kernel",
            },
        ),
        ("dps_port_info", counters.PortInfo, {"name", "driver", "mac", "note", "reta"}),
        ("dps_pool_stats", counters.PoolCounters, {"name"}),
        ("dps_io_stats", counters.Io, {"core", "stage_cycles"}),
        ("dps_group_stats", counters.GroupCounters, {"pause"}),
        ("dps_lane_stats", counters.LaneCounters, set()),
        ("dps_story", story.Story, {"frames"}),
        ("dps_sitter_info", story.Sitter, {"berth"}),
        ("dps_audit", audit_document.AuditPool, {"name", "moving", "strays", "places"}),
    ],
)
def test_a_document_has_the_fields_of_its_struct(
    struct: str, document: type, more: set[str]
) -> None:
    zero = ffi.new(f"struct {struct} *")
    assert set(fields(zero)) | more == set(get_type_hints(document))


def test_the_binding_has_every_name_that_python_uses() -> None:
    """cffi looks a name up when it is used first: a rename in C would show at some start only."""
    sources = [*(ROOT / "dpsup/primary").glob("*.py"), *(ROOT / "dpsup/supervisor").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    used = set(re.findall(r"\blib\.(\w+)", text))
    assert len(used) > 60
    assert used <= set(dir(lib))
    for struct in set(re.findall(r'new\("(struct \w+)', text)):
        assert ffi.sizeof(struct)


def test_the_plan_knows_the_head_of_a_block() -> None:
    assert ffi.sizeof("struct dps_state_head") == memory._STATE_HEAD
