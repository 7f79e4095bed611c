"""Label and field selectors of lists, watches and deletions of collections.

Kubernetes API: `k8s.io/apimachinery/pkg/labels` (equality, sets), `pkg/fields`; which fields a kind
can be selected by is its strategy's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.status import Json, bad_request
from samepath.lab.api_server.store import Stored

Labels = Mapping[str, str]
Selects = Callable[[Stored], bool]

_SET = re.compile(r"^(?P<key>[^\s!=(),<>]+)\s+(?P<op>in|notin)\s*\(\s*(?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=(),<>]+)\s*(?P<op>==|!=|=)\s*(?P<value>[^\s!=(),<>]*)$")
_COMPARE = re.compile(r"^(?P<key>[^\s!=(),<>]+)\s*(?P<op><|>)\s*(?P<value>-?\d+)$")
_HAS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=(),<>]+)$")

_FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "nodes"): ("spec.unschedulable",),
    ("", "namespaces"): ("status.phase",),
    ("", "secrets"): ("type",),
    ("", "services"): ("spec.clusterIP", "spec.type"),
    ("", "pods"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    ("", "events"): (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}


def selection(kind: Kind, label_selector: str, field_selector: str) -> Selects | None:
    """What both select; None: everything. Raises StatusError."""
    by_labels = labels(label_selector) if label_selector else None
    by_fields = _fields(kind, field_selector) if field_selector else None
    if by_labels and by_fields:
        return lambda thing: by_labels(thing.labels) and by_fields(thing.body)
    if by_labels:
        return lambda thing: by_labels(thing.labels)
    if by_fields:
        return lambda thing: by_fields(thing.body)
    return None


def labels(text: str) -> Callable[[Labels], bool]:
    terms = [_label_term(part.strip(), text) for part in _parts(text)]
    return lambda found: all(term(found) for term in terms)


def _parts(text: str) -> list[str]:
    """Split at commas that are not within parentheses."""
    parts = re.split(r",(?![^(]*\))", text)
    return [part for part in parts if part.strip()]


def _label_term(part: str, text: str) -> Callable[[Labels], bool]:
    if match := _SET.match(part):
        key = match["key"]
        values = {value.strip() for value in match["values"].split(",")}
        if match["op"] == "in":
            return lambda found: key in found and found[key] in values
        return lambda found: key not in found or found[key] not in values
    if match := _EQUAL.match(part):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda found: found.get(key) != value
        return lambda found: found.get(key) == value
    if match := _COMPARE.match(part):
        return _comparison(match["key"], match["op"], int(match["value"]))
    if match := _HAS.match(part):
        key, absent = match["key"], bool(match["not"])
        return lambda found: (key in found) is not absent
    raise bad_request(f"unable to parse requirement: {part!r} in {text!r}")


def _comparison(key: str, op: str, limit: int) -> Callable[[Labels], bool]:
    def compare(found: Labels) -> bool:
        try:
            value = int(found.get(key, ""))
        except ValueError:
            return False
        return value > limit if op == ">" else value < limit

    return compare


def _fields(kind: Kind, text: str) -> Callable[[Json], bool]:
    terms: list[tuple[str, str, bool]] = []
    for part in text.split(","):
        if not part.strip():
            continue
        match = re.match(r"^([^=!]+?)(==|!=|=)(.*)$", part.strip())
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        terms.append((match[1], match[3], match[2] != "!="))
    known = (*_FIELDS.get(kind.key, ()), "metadata.name", *kind.selectable)
    if kind.namespaced:
        known += ("metadata.namespace",)
    for name, _, _ in terms:
        if name not in known:
            if kind.custom:
                raise bad_request(f"field label not supported: {name}")
            raise bad_request(f'"{name}" is not a known field selector: {_known(kind)}')
    return lambda body: all((_value(body, name) == value) is same for name, value, same in terms)


def _known(kind: Kind) -> str:
    return (
        'only "metadata.name", "metadata.namespace"' if kind.namespaced else 'only "metadata.name"'
    )


def _value(body: Json, path: str) -> str:
    value: object = body
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if path in ("spec.unschedulable", "spec.hostNetwork") or isinstance(value, bool):
        return "true" if value else "false"
    if path == "source" and isinstance(value, dict):
        return str(value.get("component", ""))
    return "" if value is None else str(value)
