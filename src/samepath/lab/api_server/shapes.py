"""The fields of built-in kinds and their types, out of `shapes.json`.

That file is derived from the models of the official Python client (`python tests/kubernetes/
derive_shapes.py`); a test compares the two. A field is `string`, `integer`, `boolean`, `number`,
`any`, the name of another shape, `[]` or `{}` before one of these, and ends in `!` if required.

Not done: what fields mean, limits and rules of built-in kinds, but for `services`.
"""

from __future__ import annotations

import importlib.resources
from functools import cache
from typing import Any

import msgspec

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.schemas import PRESERVE, type_name
from samepath.lab.api_server.status import Json

_NAMES = {"Event": "CoreV1Event"}
_PLAIN = ("string", "integer", "boolean", "number")
_GO = {"string": "string", "integer": "int32", "boolean": "bool", "number": "float64"}


@cache
def _shapes() -> dict[str, dict[str, str]]:
    data = importlib.resources.files(__package__).joinpath("shapes.json").read_bytes()
    found: dict[str, dict[str, str]] = msgspec.json.decode(data)
    return found


def name_of(kind: Kind) -> str:
    return _NAMES.get(kind.kind, f"V1{kind.kind}")


def schema_of(kind: Kind) -> Json | None:
    name = name_of(kind)
    return resolve(name) if name in _shapes() else None


@cache
def resolve(name: str) -> Json:
    """A shape as a structural schema, in which others are `$ref`."""
    fields = _shapes()[name]
    schema: Json = {
        "type": "object",
        "properties": {field: _part(type.rstrip("!")) for field, type in fields.items()},
    }
    if required := [field for field, type in fields.items() if type.endswith("!")]:
        schema["required"] = required
    return schema


def _part(type: str) -> Json:
    if type.startswith("[]"):
        return {"type": "array", "items": _part(type[2:])}
    if type.startswith("{}"):
        return {"type": "object", "additionalProperties": _part(type[2:])}
    if type in _PLAIN:
        return {"type": type}
    return {PRESERVE: True} if type == "any" else {"$ref": type}


def names_within(name: str) -> set[str]:
    """A shape and all that it is made of."""
    found: set[str] = set()
    wanted = {name}
    while wanted:
        one = wanted.pop()
        found.add(one)
        types = {type.strip("[]{}!") for type in _shapes()[one].values()}
        wanted |= {type for type in types if type not in (*_PLAIN, "any")} - found
    return found


def wrong_type(kind: Kind, body: Json) -> str | None:
    """What the decoder would say of the first field of a wrong type."""
    found = _first_wrong(resolve(name_of(kind)), body, "", kind.kind)
    if found is None:
        return None
    said, where, go_type = found
    return (
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot '
        f"unmarshal {said} into Go struct field {where} of type {go_type}"
    )


def _first_wrong(schema: Json, value: Any, path: str, holder: str) -> tuple[str, str, str] | None:
    if "$ref" in schema:
        holder = schema["$ref"].removeprefix("V1")
        schema = resolve(schema["$ref"])
    type = schema.get("type")
    if value is None or type is None:
        return None
    if not _fits(type, value):
        go_type = _GO.get(type, "map[string]" if type == "object" else "[]")
        return _said(value), f"{holder}.{path}" if path else holder, go_type
    parts: list[tuple[Json, Any, str]] = []
    if isinstance(value, list):
        parts = [(schema["items"], one, path) for one in value]
    elif isinstance(value, dict):
        properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, one in value.items():
            part = properties.get(name, rest)
            if part is not None:
                parts.append((part, one, f"{path}.{name}" if path else name))
    for part, one, below in parts:
        if found := _first_wrong(part, one, below, holder):
            return found
    return None


def _said(value: Any) -> str:
    name = type_name(value)
    return {"boolean": "bool", "integer": "number"}.get(name, name)


_TYPES = {"string": str, "object": dict, "array": list, "boolean": bool, "integer": int}


def _fits(type: str, value: Any) -> bool:
    if type == "number":
        return isinstance(value, (int, float)) and value is not True and value is not False
    return isinstance(value, _TYPES[type]) and (type != "integer" or value is not True)
