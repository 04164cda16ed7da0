# SPDX-License-Identifier: BSD-3-Clause
"""Typed data from outside: the one module that knows pydantic.

A `Model` is frozen, strict (no silent conversion) and refuses unknown keys. Errors leave here as
plain `Issue`s, all of them at once, so that no other module depends on a library's wording.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

__all__ = [
    "AfterValidator",
    "BeforeValidator",
    "Field",
    "Issue",
    "Model",
    "Path",
    "PrivateAttr",
    "WrapValidator",
    "field_at",
    "invalid",
    "json_schema",
    "keys_at",
    "model_validator",
    "validate",
    "written",
    "written_either",
]

Path = tuple[str | int, ...]


class Model(BaseModel):
    """Base of everything that is read from a file or off the bus."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=False
    )


M = TypeVar("M", bound=Model)


class Issue(NamedTuple):
    """One thing wrong with data: where, what, and pydantic's name of the kind of error."""

    path: Path
    message: str
    kind: str
    context: Mapping[str, Any]
    value: object


def invalid(message: str, *, why: str = "", help: str = "", path: Path = ()) -> Exception:
    """The exception that a validator raises; `path` points further in than the validated value."""
    # The text travels as context: pydantic would take braces in a template for placeholders.
    context = {"text": message, "why": why, "help": help, "path": path}
    return PydanticCustomError("dpsup", "{text}", context)


def written(type_: str, **more: Any) -> WithJsonSchema:
    """JSON Schema of the written form of a value that a reader converts."""
    return WithJsonSchema({"type": type_, **more})


def written_either(*forms: dict[str, Any], **more: Any) -> WithJsonSchema:
    """The same of a value that is written in several forms."""
    return WithJsonSchema({"anyOf": list(forms), **more})


def json_schema(model: type[Model]) -> dict[str, Any]:
    return model.model_json_schema(mode="validation")


def _details(error: ValidationError) -> list[Issue]:
    found = []
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        # "[key]" marks a dictionary's key that is wrong itself; its table's path says as much.
        path = tuple(step for step in item["loc"] if step != "[key]")
        path += tuple(context.get("path", ()))
        found.append(Issue(path, item["msg"], item["type"], context, item["input"]))
    return found


def validate(model: type[M], data: object) -> tuple[M | None, list[Issue]]:
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, _details(error)


def _descend(model: type[Model], path: Path) -> tuple[Any, FieldInfo | None]:
    """The annotation and the field that `path` ends in, as far as models describe it."""
    here: Any = model
    info: FieldInfo | None = None
    for step in path:
        if isinstance(here, type) and issubclass(here, Model):
            info = here.model_fields.get(str(step))
            if info is None:
                return None, None
            here = info.annotation
        elif get_origin(here) is tuple and isinstance(step, int):
            here = get_args(here)[0]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            break  # inside a value that is not a model: its field is the best there is
    return here, info


def field_at(model: type[Model], path: Path) -> FieldInfo | None:
    return _descend(model, path)[1]


def keys_at(model: type[Model], path: Path) -> tuple[str, ...]:
    """The keys of the table at `path`, none where it is no model."""
    here = _descend(model, path)[0]
    if isinstance(here, type) and issubclass(here, Model):
        return tuple(here.model_fields)
    return ()
