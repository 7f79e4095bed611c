"""What the API server refuses of a CustomResourceDefinition: names, versions, and schemas that are
not structural. Pure.

Called by `crds` before one is stored; who writes definitions learns here what a cluster would say.
Not done: the estimated cost of rules (a real server refuses a rule whose limits it does not know),
conversion, selectable fields.

Kubernetes API: apiextensions/v1 validation; structural schemas (KEP-1693).
"""

from __future__ import annotations

import re
from typing import Any

from samepath.lab.api_server import rules, schemas
from samepath.lab.api_server import status as st
from samepath.lab.api_server.status import Cause, Json

_TYPES = ["array", "boolean", "integer", "number", "object", "string"]
_COLUMN_TYPES = ["boolean", "date", "integer", "number", "string"]
_NOT_ALLOWED = ("$ref", "definitions", "dependencies", "patternProperties", "id", "$schema")
_NOT_WITHIN = ("type", "description", "title", "default", "nullable", "additionalProperties")
"""Within allOf, anyOf, oneOf and not."""


def faults(name: str, spec: Json) -> list[Cause]:
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    found: list[Cause] = []
    for part in ("plural", "kind"):
        if not names.get(part):
            found.append(st.required(f"spec.names.{part}"))
    if not spec.get("group"):
        found.append(st.required("spec.group"))
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if name != wanted:
        text = 'must be spec.names.plural+"."+spec.group'
        found.append(st.invalid_value("metadata.name", name, text))
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        known = ["Cluster", "Namespaced"]
        found.append(st.unsupported("spec.scope", spec.get("scope", ""), known))
    stored = [one["name"] for one in versions if one.get("storage")]
    if len(stored) != 1:
        text = "must have exactly one version marked as storage version"
        found.append(st.invalid_value("spec.versions", [one.get("name") for one in versions], text))
    for index, version in enumerate(versions):
        found += _version(version, f"spec.versions[{index}]")
    return found


def _version(version: Json, path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        here = f"{path}.additionalPrinterColumns[{index}]"
        if column.get("type") not in _COLUMN_TYPES:
            found.append(st.unsupported(f"{here}.type", column.get("type", ""), _COLUMN_TYPES))
        if not str(column.get("jsonPath", "")).startswith("."):
            text = "must be a simple json path starting with ."
            found.append(st.invalid_value(f"{here}.jsonPath", column.get("jsonPath"), text))
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        found.append(st.required(f"{path}.schema.openAPIV3Schema", "schemas are required"))
        return found
    here = f"{path}.schema.openAPIV3Schema"
    if schema.get("type") != "object":
        text = "must be object at the root"
        found.append(st.invalid_value(f"{here}.type", schema.get("type", ""), text))
    return found + _node(schema, here, is_correlated=True)


def _node(schema: Json, path: str, *, is_correlated: bool) -> list[Cause]:
    found = _type(schema, path) + _lists(schema, path)
    for name in _NOT_ALLOWED:
        if schema.get(name):
            found.append(st.forbidden_field(f"{path}.{name}", f"{name} is not supported"))
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        found.append(st.forbidden_field(f"{path}.uniqueItems", text))
    if schema.get("properties") and schema.get("additionalProperties"):
        text = "additionalProperties and properties are mutual exclusive"
        found.append(st.forbidden_field(f"{path}.additionalProperties", text))
    elif schema.get("additionalProperties") is False:
        text = "additionalProperties cannot be set to false"
        found.append(st.forbidden_field(f"{path}.additionalProperties", text))
    found += _pattern(schema, path) + _default(schema, path) + _combined(schema, path)
    found += _rules(schema, path, is_correlated=is_correlated)
    return found + _below(schema, path, is_correlated=is_correlated)


def _below(schema: Json, path: str, *, is_correlated: bool) -> list[Cause]:
    found: list[Cause] = []
    for name, part in (schema.get("properties") or {}).items():
        found += _node(part, f"{path}.properties[{name}]", is_correlated=is_correlated)
    if isinstance(schema.get("additionalProperties"), dict):
        part = schema["additionalProperties"]
        found += _node(part, f"{path}.additionalProperties", is_correlated=is_correlated)
    if isinstance(schema.get("items"), dict):
        same = is_correlated and schema.get("x-kubernetes-list-type") == "map"
        found += _node(schema["items"], f"{path}.items", is_correlated=same)
    return found


def _type(schema: Json, path: str) -> list[Cause]:
    type = schema.get("type")
    if type is None or type == "":
        if schema.get(schemas.INT_OR_STRING) or schema.get(schemas.PRESERVE):
            return []
        return [st.required(f"{path}.type", "must not be empty for specified object fields")]
    return [] if type in _TYPES else [st.unsupported(f"{path}.type", type, _TYPES)]


def _lists(schema: Json, path: str) -> list[Cause]:
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        return [st.required(f"{path}.items", "must be specified")]
    type, here = schema.get("x-kubernetes-list-type"), f"{path}.x-kubernetes-list-map-keys"
    if type != "map":
        return []
    items, keys = schema.get("items") or {}, schema.get("x-kubernetes-list-map-keys") or []
    if not keys:
        return [st.required(here, "must not be empty if x-kubernetes-list-type is map")]
    found: list[Cause] = []
    for index, key in enumerate(keys):
        part = (items.get("properties") or {}).get(key)
        if part is None:
            text = "entries must all be names of item properties"
            found.append(st.invalid_value(f"{here}[{index}]", key, text))
        elif "default" not in part and key not in (items.get("required") or ()):
            text = (
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a "
                "required property"
            )
            found.append(st.required(f"{path}.items.properties[{key}].default", text))
    return found


def _pattern(schema: Json, path: str) -> list[Cause]:
    """Go's expressions are RE2: nothing that looks around or back."""
    pattern = schema.get("pattern")
    if not pattern:
        return []
    text = "must be a valid regular expression, but isn't: error parsing regexp"
    if re.search(r"\(\?(=|!|<=|<!)|\\[1-9]", pattern):
        return [st.invalid_value(f"{path}.pattern", pattern, f"{text}: invalid Perl operator")]
    try:
        re.compile(pattern)
    except re.error as error:
        return [st.invalid_value(f"{path}.pattern", pattern, f"{text}: {error}")]
    return []


def _default(schema: Json, path: str) -> list[Cause]:
    if "default" not in schema:
        return []
    plain = {name: value for name, value in schema.items() if name != "default"}
    causes = schemas.faults(plain, schema["default"], f"{path}.default")
    causes += rules.faults(plain, schema["default"], None, f"{path}.default")
    return [Cause(one.reason, one.field, one.message) for one in causes]


def _combined(schema: Json, path: str) -> list[Cause]:
    found: list[Cause] = []
    parts: list[tuple[str, Any]] = [
        (f"{path}.{name}[{index}]", part)
        for name in ("allOf", "anyOf", "oneOf")
        for index, part in enumerate(schema.get(name) or ())
    ]
    if schema.get("not"):
        parts.append((f"{path}.not", schema["not"]))
    for here, part in parts:
        for name in _NOT_WITHIN:
            if name in part and not (name == "type" and schema.get(schemas.INT_OR_STRING)):
                text = "must be empty to be structural"
                found.append(st.forbidden_field(f"{here}.{name}", text))
    return found


def _rules(schema: Json, path: str, *, is_correlated: bool) -> list[Cause]:
    found: list[Cause] = []
    for index, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        here = f"{path}.x-kubernetes-validations[{index}].rule"
        text = str(rule.get("rule", ""))
        if not text.strip():
            found.append(st.required(here, "rule is not specified"))
        elif why := rules.check(text):
            found.append(st.invalid_value(here, text, f"compilation failed: {why}"))
        elif not is_correlated and re.search(r"\boldSelf\b", text):
            why = "oldSelf cannot be used on the uncorrelatable portion of the schema"
            found.append(st.invalid_value(here, text, why))
    return found
