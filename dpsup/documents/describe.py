# SPDX-License-Identifier: BSD-3-Clause
"""A type of documents as the lines of a reference page: each field's path and its text."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)


def keys_of(of: Any, path: str = "") -> dict[str, str]:
    """By path: `[]` is each entry of a list, `*` each key of a table whose keys are names. A path
    that a document does not always have begins with "?"."""
    text = ""
    optional = path.startswith("?")
    if get_origin(of) is NotRequired:
        of, optional = get_args(of)[0], True
    if get_origin(of) is Annotated:
        of, text = get_args(of)
    if get_origin(of) in (Union, UnionType):
        inner = [one for one in get_args(of) if one is not NoneType]
        if len(inner) == 1 and is_typeddict(inner[0]) and text:
            mark = f"?{path.removeprefix('?')}"
            return {mark: text, **keys_of(inner[0], mark)}
        of = inner[0] if len(inner) == 1 else of
    path = f"?{path.removeprefix('?')}" if optional else path
    if is_typeddict(of):
        found: dict[str, str] = {}
        for name, one in get_type_hints(of, include_extras=True).items():
            is_optional = name in of.__optional_keys__ or optional
            below = f"{path.removeprefix('?')}.{name}" if path.strip("?") else name
            found.update(keys_of(one, f"?{below}" if is_optional else below))
        return found
    if get_origin(of) is list:
        entry = get_args(of)[0]
        if is_typeddict(entry):
            return keys_of(entry, f"{path}[]")
        return {f"{path}[]": text}
    if get_origin(of) in (dict, Mapping):
        return {f"{path}.*": text}
    return {path: text}
