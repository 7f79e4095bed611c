"""x-kubernetes-validations: rules in the Common Expression Language, evaluated by cel-python.

That package is for tests; without it rules are not evaluated, and `available` says so. What
Kubernetes adds to the language is here as far as our own kinds and their kin use it: addresses,
prefixes, strings, lists. Not here: optionals (`?.`), quantities, URLs, cost limits.

Kubernetes API: apiextensions/v1 ValidationRule; CEL in Kubernetes.
"""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from typing import Any

from samepath.lab.api_server import status as st
from samepath.lab.api_server.status import Cause, Json

available = importlib.util.find_spec("celpy") is not None


def faults(schema: Json, value: Any, old: Any = None, path: str = "") -> list[Cause]:
    """Of all rules in the schema. `old` None: nothing to compare with, so no transition rules."""
    if not available or value is None:
        return []
    found = [
        cause
        for rule in schema.get("x-kubernetes-validations") or ()
        if (cause := _fault(rule, schema, value, old, path)) is not None
    ]
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        was = old if isinstance(old, dict) else {}
        for name, one in value.items():
            part = properties.get(name, rest)
            if isinstance(part, dict):
                below = f"{path}.{name}" if path else name
                found += faults(part, one, was.get(name), below)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, one in enumerate(value):
            found += faults(schema["items"], one, _same(schema, one, old), f"{path}[{index}]")
    return found


def _same(schema: Json, item: Any, old: Any) -> Any:
    """What an item of a list was before: known only where lists are maps."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(old, list):
        return None
    for other in old:
        if all(other.get(key) == item.get(key) for key in keys):
            return other
    return None


def _fault(rule: Json, schema: Json, value: Any, old: Any, path: str) -> Cause | None:
    text = rule["rule"]
    is_transition = re.search(r"\boldSelf\b", text) is not None
    if is_transition and old is None:
        return None
    held, why = _holds(text, schema, value, old if is_transition else None)
    if held:
        return None
    message = rule.get("message") or f"failed rule: {text}"
    if expression := rule.get("messageExpression"):
        message = str(_evaluate(expression, schema, value, old))
    if rule.get("fieldPath"):
        path = f"{path}{rule['fieldPath']}"
    reason = rule.get("reason", "FieldValueInvalid")
    if reason == "FieldValueRequired":
        return st.required(path, why or message)
    if reason == "FieldValueForbidden":
        return st.forbidden_field(path, why or message)
    if reason == "FieldValueDuplicate":
        return st.duplicate(path, value)
    return st.invalid_value(path or "<nil>", schema.get("type", ""), why or message)


def _holds(text: str, schema: Json, value: Any, old: Any) -> tuple[bool, str]:
    """Whether it does, or why nobody can say, which is a fault too."""
    from celpy.evaluation import CELEvalError

    try:
        return bool(_evaluate(text, schema, value, old)), ""
    except CELEvalError as error:
        return False, f"rule: {text}: {error.args[0]}"


def _evaluate(text: str, schema: Json, value: Any, old: Any) -> Any:
    activation = {"self": _cel(schema, value)}
    if old is not None:
        activation["oldSelf"] = _cel(schema, old)
    return _program(text).evaluate(activation)


def check(text: str) -> str | None:
    """What is wrong with a rule's text; None: it compiles, or nobody can tell."""
    if not available:
        return None
    from celpy.celparser import CELParseError

    try:
        _program(text)
    except CELParseError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _program(text: str) -> Any:
    import celpy

    from samepath.lab.api_server.rule_functions import FUNCTIONS

    environment = celpy.Environment()
    return environment.program(environment.compile(text), functions=FUNCTIONS)


def _cel(schema: Json, value: Any) -> Any:
    """As the schema's type says: an integer that is a number there is a double."""
    from celpy import celtypes

    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        return celtypes.MapType(
            {
                celtypes.StringType(name): _cel(
                    properties.get(name, rest if isinstance(rest, dict) else {}), one
                )
                for name, one in value.items()
            }
        )
    if isinstance(value, list):
        items = schema.get("items") or {}
        return celtypes.ListType([_cel(items, one) for one in value])
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, str):
        return celtypes.StringType(value)
    if isinstance(value, float) or (isinstance(value, int) and schema.get("type") == "number"):
        return celtypes.DoubleType(value)
    return celtypes.IntType(value) if isinstance(value, int) else None
