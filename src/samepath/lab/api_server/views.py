"""Other shapes of an object: its metadata alone, and tables as `kubectl get` prints them, with the
columns of `columns` or those of a CustomResourceDefinition.

Kubernetes API: meta.k8s.io/v1 Table and PartialObjectMetadata; additionalPrinterColumns and their
JSONPath (fields, indices, `[*]` and filters by equality; no more of it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from samepath.lab.api_server import columns
from samepath.lab.api_server.kinds import Column, Kind
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored, encode


def metadata_only(thing: Stored) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": thing.metadata,
    }


def table(
    kind: Kind, items: list[Stored], metadata: Json, query: Mapping[str, str], now: str
) -> Json:
    definitions = [_definition("Name", "name", 0, "Name must be unique within a namespace.")]
    if kind.key == ("", "events"):
        definitions = []
    if kind.custom:
        definitions += [
            _definition(one.name, "", one.priority, one.description, one.type)
            for one in kind.columns
        ]
        if not kind.columns:
            definitions.append(_definition("Age", "", 0, ""))
    else:
        definitions += [_definition(one.name, "", int(one.is_wide), "") for one in columns.of(kind)]
    how = query.get("includeObject", "Metadata")
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": [
            {"cells": _cells(kind, thing, now), "object": _object(kind, thing, how)}
            for thing in items
        ],
    }


def _definition(
    name: str, format: str, priority: int, description: str, type: str = "string"
) -> Json:
    return {
        "name": name,
        "type": "string" if type == "date" else type,
        "format": format,
        "description": description,
        "priority": priority,
    }


def _object(kind: Kind, thing: Stored, how: str) -> Json | None:
    if how == "None":
        return None
    return thing.of(kind) if how == "Object" else metadata_only(thing)


def _cells(kind: Kind, thing: Stored, now: str) -> list[Any]:
    name = thing.metadata.get("name", "")
    if kind.custom and kind.columns:
        return [name, *(_custom_cell(column, thing.body, now) for column in kind.columns)]
    cells = [cell.show(thing.body, now) for cell in columns.of(kind)]
    return cells if kind.key == ("", "events") else [name, *cells]


def _custom_cell(column: Column, body: Json, now: str) -> Any:
    found = json_path(column.path, body)
    if not found:
        return None
    if column.type == "date":
        return columns.age(found[0], now) if isinstance(found[0], str) else "<unknown>"
    if column.type == "string":
        return ",".join(_text(one) for one in found) if len(found) > 1 else _text(found[0])
    if column.type == "integer":
        return found[0] if isinstance(found[0], int) else None
    return found[0]


def _text(value: Any) -> str:
    if isinstance(value, (dict, list, bool)):
        return encode(value).decode()
    return "" if value is None else str(value)


_STEP = re.compile(
    r"\.?(?P<name>(?:[^\\.\[\]*]|\\.)+)|\['(?P<quoted>[^']+)'\]|\[(?P<index>-?\d+)\]|(?P<all>\[\*\]|\.\*)"
    r"|\[\?\(@\.(?P<field>[\w.-]+)\s*==\s*[\"'](?P<value>[^\"']*)[\"']\)\]"
)


@lru_cache(maxsize=512)
def _steps(path: str) -> tuple[re.Match[str], ...]:
    return tuple(_STEP.finditer(path.strip("{}").removeprefix("$")))


def json_path(path: str, body: Any) -> list[Any]:
    """All that the path finds."""
    found = [body]
    for step in _steps(path):
        found = [one for value in found for one in _step(step, value)]
    return found


def _step(step: re.Match[str], value: Any) -> list[Any]:
    if name := step["name"] or step["quoted"]:
        name = name.replace("\\.", ".")
        return [value[name]] if isinstance(value, dict) and name in value else []
    if step["all"]:
        if isinstance(value, dict):
            return list(value.values())
        return list(value) if isinstance(value, list) else []
    if not isinstance(value, list):
        return []
    if step["index"] is not None:
        index = int(step["index"])
        return [value[index]] if -len(value) <= index < len(value) else []
    return [
        one for one in value if isinstance(one, dict) and one.get(step["field"]) == step["value"]
    ]
