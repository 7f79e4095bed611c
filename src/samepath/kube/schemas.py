"""From the shape of a kind (a struct) to the structural schema of its CustomResourceDefinition.

Called by `kube.crds`. Types, limits, defaults and which fields are required are the struct's; what
a field means and which rules it has beside are its `Note`. What a text is (`kube.texts`) becomes a
`pattern` or a `format` where other rules convert it: the API server looks at rules only when these
hold, so a rule never meets a text that it cannot convert. Where the pattern would tell a person
nothing it is a rule of CEL, which has a message.

`ip()` and `cidr()` of newer API servers are not used: a CustomResourceDefinition with a function
that the server does not know is refused as a whole, and ours are to be installable from Kubernetes
1.25 on.

Standards: apiextensions/v1 JSONSchemaProps (structural schemas), OpenAPI 3.0; CEL as Kubernetes has
it (x-kubernetes-validations).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import NODEFAULT, inspect

from samepath.kube.reading import LONGEST_S
from samepath.kube.texts import PATTERN, Is

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold, in CEL, and what a person reads when it does not."""

    cel: str
    message: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a field means."""

    text: str
    rules: tuple[Rule, ...] = ()
    unset: str = ""
    """What counts when the field is left out, where that is no value; for people."""
    extra: tuple[tuple[str, Any], ...] = ()
    """Further fields of the schema, such as the type of a list."""


Notes = Mapping[type, Mapping[str, Note]]
"""By struct and field."""
WHOLE = ""
"""In `Notes`, in place of a field's name: the struct itself, and the rules between its fields."""

DURATION_RULE = Rule(
    f"duration(self) <= duration('{LONGEST_S // 3600}h')", "must be at most a year"
)


def schema_of(struct: type, notes: Notes) -> Schema:
    """The structural schema of a struct, its fields in their order."""
    found: Any = inspect.type_info(struct)
    return _object(found, notes)


def _object(found: inspect.StructType, notes: Notes) -> Schema:
    of_fields = notes[found.cls]
    schema: Schema = {"type": "object"}
    required = [field.encode_name for field in found.fields if field.required]
    if required:
        schema["required"] = required
    schema["properties"] = {
        field.encode_name: _field(field, of_fields[field.encode_name], notes)
        for field in found.fields
    }
    whole = of_fields.get(WHOLE)
    return _with_rules(schema, whole.rules if whole else ())


def _field(field: inspect.Field, note: Note, notes: Notes) -> Schema:
    described: Schema = {
        "description": note.text + (f" Left out: {note.unset}." * bool(note.unset))
    }
    shape = _shape(field.type, notes)
    rules = shape.pop("x-kubernetes-validations", [])
    described |= shape
    # A default that is none, or empty, is the same as no default.
    if field.default is not NODEFAULT and field.default not in (None, ""):
        described["default"] = field.default
    described |= dict(note.extra)
    return _with_rules(described, note.rules, rules)


def _with_rules(
    schema: Schema, rules: tuple[Rule, ...], inner: list[Schema] | None = None
) -> Schema:
    found = [*(inner or []), *({"rule": r.cel, "message": r.message} for r in rules)]
    if found:
        schema["x-kubernetes-validations"] = found
    return schema


def _shape(found: Any, notes: Notes) -> Schema:
    """The type and its limits."""
    match found:
        case inspect.Metadata():
            shape = _shape(found.type, notes) | (found.extra_json_schema or {})
            return shape | _text((found.extra or {}).get("is"))
        case inspect.UnionType():
            (only,) = (t for t in found.types if not isinstance(t, inspect.NoneType))
            return _shape(only, notes)
        case inspect.StructType():
            return _object(found, notes)
        case inspect.ListType():
            shape = {"type": "array", "items": _shape(found.item_type, notes)}
            return shape | _limits(minItems=found.min_length, maxItems=found.max_length)
        case inspect.DictType():
            shape = {"type": "object", "additionalProperties": _shape(found.value_type, notes)}
            return shape | _limits(maxProperties=found.max_length)
        case inspect.StrType():
            limits = _limits(minLength=found.min_length, maxLength=found.max_length)
            return {"type": "string"} | limits
        case inspect.IntType():
            large = found.le is None or found.le > 0x7FFFFFFF
            shape = {"type": "integer", "format": "int64" if large else "int32"}
            return shape | _limits(minimum=found.ge, maximum=found.le)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"type": "string", "enum": sorted(found.values)}
    raise AssertionError(f"no schema for {found}")


def _limits(**limits: int | None) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


_SHORT = (Is.NAME, Is.NAME_OR_NONE, Is.LABEL_KEY, Is.LABEL_VALUE, Is.DURATION)
"""Texts whose pattern a person can read in an error."""


def _text(what: Is | None) -> Schema:
    if what is None:
        return {}
    if what is Is.PREFIX:
        return {"format": "cidr"}
    pattern = f"^({PATTERN[what]})$"
    if what not in _SHORT:
        return _with_rules({}, (Rule(f"self.matches('{pattern}')", f"must be {what.value}"),))
    return _with_rules({"pattern": pattern}, (DURATION_RULE,) if what is Is.DURATION else ())
