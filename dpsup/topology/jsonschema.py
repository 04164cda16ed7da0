# SPDX-License-Identifier: BSD-3-Clause
"""The topology file as JSON Schema, for editors: `dpsup schema`.

Made of the models that read the file. It says what a single value may be; what values say about
each other, and to the machine, is `dpsup check`'s.
"""

from __future__ import annotations

from typing import Any

from dpsup.topology.model import Topology
from dpsup.topology.typed import json_schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"
# What must be there: the models have defaults for it, so that a file can be read in part.
_REQUIRED = {
    "Topology": ["version", "name", "mempools", "ports", "io", "workers"],
    "Port": ["name"],
    "Group": ["name"],
}
_NOT_EMPTY = ("mempools", "ports", "io", "workers")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip


def topology_schema() -> dict[str, Any]:
    raw = json_schema(Topology)
    models = raw.pop("$defs")
    models = {name: _model(name, model) for name, model in models.items()}
    models["Port"]["oneOf"] = [{"required": ["pci"]}, {"required": ["vdev"]}]
    top = _model("Topology", raw)
    for key in _NOT_EMPTY:
        top["properties"][key]["minProperties" if key == "mempools" else "minItems"] = 1
    return {"$schema": DRAFT, "title": "dpsup topology, version 1", **top, "$defs": models}


def _model(name: str, model: dict[str, Any]) -> dict[str, Any]:
    properties = {key: _property(value) for key, value in model.get("properties", {}).items()}
    out = {"type": "object", "additionalProperties": False, "properties": properties}
    if name in _REQUIRED:
        out["required"] = _REQUIRED[name]
    return out


def _property(value: dict[str, Any]) -> dict[str, Any]:
    """A key's schema: its reader's forms, without what only pydantic means by them."""
    out = {k: v for k, v in value.items() if k not in ("title", "examples", "default")}
    # None is how a model says that a key is not there; TOML cannot.
    options = [one for one in out.pop("anyOf", []) if one.get("type") != "null"]
    if len(options) == 1:
        out |= options[0]
    elif options:
        out["anyOf"] = options
    if value.get("examples"):
        out["description"] = f"{value['description']}; write {value['examples'][0]}"
    default = value.get("default")
    kind = _TYPES.get(out.get("type", ""))
    # A default that reads differently than it is written (0 for "auto") would mislead.
    if kind and isinstance(default, kind) and default != "":
        out["default"] = default
    return out
