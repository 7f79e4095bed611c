"""`python tests/kubernetes/derive_shapes.py`: writes the API server's `shapes.json`, the fields of
built-in kinds, out of the official client's models. test_api_server_shapes.py compares the two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from samepath.lab.api_server import shapes
from samepath.lab.api_server.kinds import BUILT_IN

FILE = Path(shapes.__file__).with_name("shapes.json")

_PLAIN = {
    "str": "string",
    "int": "integer",
    "bool": "boolean",
    "float": "number",
    "datetime": "string",
    "date": "string",
    "bytes": "string",
    "object": "any",
}
# Quantities may be numbers, too.
_QUANTITIES = {"limits", "requests", "capacity", "allocatable", "overhead", "hard", "used"}


def derive() -> dict[str, dict[str, str]]:
    from kubernetes.client import models

    found: dict[str, dict[str, str]] = {}
    wanted = [shapes.name_of(kind) for kind in BUILT_IN]
    while wanted:
        name = wanted.pop()
        if name in found or name == "V1ObjectMeta":
            continue
        model = getattr(models, name)
        fields: dict[str, str] = {}
        for attribute, type in sorted(model.openapi_types.items()):
            field = model.attribute_map[attribute]
            shape = "{}any" if field in _QUANTITIES else _type(type)
            element = shape.strip("[]{}")
            if element[0].isupper():
                wanted.append(element)
            fields[field] = shape + _needed(model, attribute)
        found[name] = fields
    return {name: found[name] for name in sorted(found)}


def _type(text: str) -> str:
    if match := re.fullmatch(r"(?:list|List)\[(.*)\]", text):
        return "[]" + _type(match[1])
    if match := re.fullmatch(r"(?:dict|Dict)[\[(]str, (.*)[\])]", text):
        return "{}" + _type(match[1])
    return _PLAIN.get(text, "any" if text == "V1ObjectMeta" else text)


def _needed(model: Any, attribute: str) -> str:
    fields = getattr(model, "model_fields", {})
    return "!" if attribute in fields and fields[attribute].is_required() else ""


def text() -> str:
    return json.dumps(derive(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
