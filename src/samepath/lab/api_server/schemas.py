"""Structural schemas: what is unknown is cut off, what is missing is filled in, what is wrong is
said, each as the real server does it to custom objects.

`shapes` gives the schemas of built-in kinds in the same form, but for `$ref`, which names another.
Plain data in, plain data out; nothing is changed in place but by `fill`.

Not done: ratcheting (an unchanged field that is invalid is refused), `uniqueItems`, most formats.

Kubernetes API: apiextensions/v1 JSONSchemaProps; kube-openapi's validation and its words.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from samepath.lab.api_server import status as st
from samepath.lab.api_server.status import Cause, Json
from samepath.lab.api_server.store import clone

Resolve = Callable[[str], Json]
"""A schema by its name, for `$ref`."""

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
EMBEDDED = "x-kubernetes-embedded-resource"

_METADATA = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
_TYPE_META = ("apiVersion", "kind", "metadata")


def prune(schema: Json, body: Json, resolve: Resolve | None = None) -> tuple[Json, list[str]]:
    """The object without what its schema does not know, and the paths of that."""
    unknown: list[str] = []
    rest = {k: v for k, v in body.items() if k != "metadata"}
    pruned = _pruned(schema, rest, "", unknown, resolve, is_root=True)
    metadata = body["metadata"]
    unknown += [f"metadata.{name}" for name in metadata if name not in _METADATA]
    kept = {name: value for name, value in metadata.items() if name in _METADATA}
    return {"metadata": kept, **pruned}, unknown


def _pruned(
    schema: Json,
    value: Any,
    path: str,
    unknown: list[str],
    resolve: Resolve | None,
    is_root: bool = False,
) -> Any:
    if "$ref" in schema and resolve is not None:
        schema = resolve(schema["$ref"])
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, dict):
            return value
        return [
            _pruned(items, one, f"{path}[{i}]", unknown, resolve) for i, one in enumerate(value)
        ]
    if not isinstance(value, dict) or INT_OR_STRING in schema:
        return value
    properties = schema.get("properties") or {}
    rest = schema.get("additionalProperties")
    is_object = is_root or schema.get(EMBEDDED)
    kept: Json = {}
    for name, one in value.items():
        below = f"{path}.{name}" if path else name
        if name in properties:
            kept[name] = _pruned(properties[name], one, below, unknown, resolve)
        elif isinstance(rest, dict):
            kept[name] = _pruned(rest, one, f"{path}[{name}]", unknown, resolve)
        elif rest is True or schema.get(PRESERVE) or (is_object and name in _TYPE_META):
            kept[name] = one
        else:
            unknown.append(below)
    return kept


def fill(schema: Json, value: Any) -> None:
    """Defaults, in place. A null that is not allowed counts as missing where there is a default."""
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for one in value:
                fill(items, one)
        return
    if not isinstance(value, dict):
        return
    properties = schema.get("properties") or {}
    for name, part in properties.items():
        is_missing = name not in value or (value[name] is None and not part.get("nullable"))
        if is_missing and "default" in part:
            value[name] = clone(part["default"])
        if name in value:
            fill(part, value[name])
    rest = schema.get("additionalProperties")
    if isinstance(rest, dict):
        for name, one in value.items():
            if name not in properties:
                fill(rest, one)


# -- Validation -------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return next(name for name, types in _TYPES.items() if isinstance(value, types))


def faults(schema: Json, value: Any, path: str = "") -> list[Cause]:
    """All that is wrong with it, in the order of the fields."""
    if value is None:
        return [] if schema.get("nullable") else [_wrong_type(schema, value, path)]
    if schema.get(INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            return [_wrong_type({"type": "integer,string"}, value, path)]
    elif (type := schema.get("type")) and not _is_type(type, value):
        return [_wrong_type(schema, value, path)]
    found = _by_value(schema, value, path) + _combined(schema, value, path)
    if isinstance(value, dict):
        found += _object_faults(schema, value, path)
    elif isinstance(value, list):
        found += _list_faults(schema, value, path)
    return found


def _is_type(type: str, value: Any) -> bool:
    if isinstance(value, bool):
        return type == "boolean"
    if type == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[type])


def _wrong_type(schema: Json, value: Any, path: str) -> Cause:
    found = type_name(value)
    text = f'{path} in body must be of type {schema.get("type")}: "{found}"'
    return st.type_invalid(path or "<nil>", found, text)


def _by_value(schema: Json, value: Any, path: str) -> list[Cause]:
    found = []
    if (enum := schema.get("enum")) is not None and value not in enum:
        found.append(st.unsupported(path, value, enum))
    texts: list[str] = []
    if isinstance(value, str):
        texts += _string_faults(schema, value)
        limit = schema.get("maxLength")
        if limit is not None and len(value) > limit:
            text = f"Too long: may not be more than {limit} bytes"
            found.append(Cause("FieldValueTooLong", path, text))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        texts += _number_faults(schema, value)
    return found + [st.invalid_value(path, value, f"{path} in body {text}") for text in texts]


def _string_faults(schema: Json, value: str) -> list[str]:
    texts = []
    if (least := schema.get("minLength")) is not None and len(value) < least:
        texts.append(f"should be at least {least} chars long")
    if (pattern := schema.get("pattern")) and not _compiled(pattern).search(value):
        texts.append(f"should match '{pattern}'")
    format = schema.get("format", "")
    if format in _FORMATS and not _fits(format, value):
        texts.append(f'must be of type {format}: "{value}"')
    return texts


def _number_faults(schema: Json, value: float) -> list[str]:
    texts = []
    if (least := schema.get("minimum")) is not None:
        if schema.get("exclusiveMinimum"):
            if value <= least:
                texts.append(f"should be greater than {least}")
        elif value < least:
            texts.append(f"should be greater than or equal to {least}")
    if (most := schema.get("maximum")) is not None:
        if schema.get("exclusiveMaximum"):
            if value >= most:
                texts.append(f"should be less than {most}")
        elif value > most:
            texts.append(f"should be less than or equal to {most}")
    if (step := schema.get("multipleOf")) and value % step:
        texts.append(f"should be a multiple of {step}")
    if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        texts.append(f'must be of type int32: "{value}"')
    return texts


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_FORMATS: Mapping[str, Callable[[str], object]] = {
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": lambda text: ipaddress.ip_interface(text if "/" in text else ""),
    "date-time": lambda text: datetime.datetime.fromisoformat(text),
    "duration": lambda text: _duration(text),
}


def _duration(text: str) -> None:
    """As Go writes it: 1h30m, 300ms."""
    if not re.fullmatch(r"[-+]?(0|(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(text)


def _fits(format: str, value: str) -> bool:
    try:
        _FORMATS[format](value)
    except ValueError:
        return False
    return True


def _object_faults(schema: Json, value: Json, path: str) -> list[Cause]:
    found = []
    for name in schema.get("required") or ():
        if name not in value:
            found.append(st.required(_below(path, name)))
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        text = f"Too many: {len(value)}: must have at most {most} items"
        found.append(Cause("FieldValueTooMany", path, text))
    if (least := schema.get("minProperties")) is not None and len(value) < least:
        text = f"{path} in body should have at least {least} properties"
        found.append(st.invalid_value(path, len(value), text))
    properties = schema.get("properties") or {}
    rest = schema.get("additionalProperties")
    for name, one in value.items():
        if name in properties:
            found += faults(properties[name], one, _below(path, name))
        elif isinstance(rest, dict):
            found += faults(rest, one, _below(path, name))
    return found


def _list_faults(schema: Json, value: list[Any], path: str) -> list[Cause]:
    found = []
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        text = f"Too many: {len(value)}: must have at most {most} items"
        found.append(Cause("FieldValueTooMany", path, text))
    if (least := schema.get("minItems")) is not None and len(value) < least:
        text = f"{path} in body should have at least {least} items"
        found.append(st.invalid_value(path, len(value), text))
    items = schema.get("items")
    if isinstance(items, dict):
        for index, one in enumerate(value):
            found += faults(items, one, f"{path}[{index}]")
    return found + _duplicates(schema, value, path)


def _duplicates(schema: Json, value: list[Any], path: str) -> list[Cause]:
    type = schema.get("x-kubernetes-list-type")
    if type not in ("set", "map"):
        return []
    keys = schema.get("x-kubernetes-list-map-keys") or []
    found, seen = [], set()
    for index, one in enumerate(value):
        shown = {key: one.get(key) for key in keys} if type == "map" else one
        text = json.dumps(shown, sort_keys=True)
        if text in seen:
            found.append(st.duplicate(f"{path}[{index}]", shown))
        seen.add(text)
    return found


def _combined(schema: Json, value: Any, path: str) -> list[Cause]:
    found: list[Cause] = []
    shown = f'"{path}" must validate'
    for part in schema.get("allOf") or ():
        found += faults(part, value, path)
    texts = []
    any_of = schema.get("anyOf")
    if any_of and all(faults(part, value, path) for part in any_of):
        texts.append(f"{shown} at least one schema (anyOf)")
    if one_of := schema.get("oneOf"):
        valid = sum(not faults(part, value, path) for part in one_of)
        if valid != 1:
            count = "none valid" if not valid else f"{valid} valid alternatives"
            texts.append(f"{shown} one and only one schema (oneOf). Found {count}")
    if (denied := schema.get("not")) and not faults(denied, value, path):
        texts.append(f"{shown.replace('must', 'must not')} the schema (not)")
    return found + [st.invalid_value(path or "<nil>", "", text) for text in texts]


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
