"""What an import has come to: our objects, and what became of theirs, by object and field. Pure.

Called by `imports.metallb` and `imports.calico`. Whatever is offered as ours has been read by the
parser of ours before: an import never writes what an agent would refuse.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import inspect

from samepath.kube.crds import KINDS
from samepath.kube.kinds import GROUP
from samepath.kube.objects import parse_object
from samepath.model.documents import Document, DocumentError

Data = dict[str, Any]


class Fate(enum.Enum):
    """What became of an object, or of a field of it."""

    CARRIED = "carried over"
    CHANGED = "changed"
    TO_DO = "to do"
    """Ours, but not an object: a person has to put it where it belongs."""
    LEFT_OUT = "left out"
    SKIPPED = "not configuration"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Line:
    object: str
    """Kind and name, as they are with them."""
    field: str
    """Empty: the object itself."""
    fate: Fate
    text: str


@dataclass(slots=True)
class Imported:
    objects: list[Data] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """What is in `objects` is all there was."""
        return not any(line.fate in (Fate.TO_DO, Fate.LEFT_OUT) for line in self.lines)

    def say(self, thing: str, path: str, fate: Fate, text: str) -> None:
        self.lines.append(Line(thing, path, fate, text))

    def names(self, kind: str) -> set[str]:
        return {made["metadata"]["name"] for made in self.objects if made["kind"] == kind}

    def offer(
        self, thing: str, kind: str, name: str, spec: Mapping[str, Any], labels: Any = None
    ) -> bool:
        """Add an object of ours, made of theirs; left out if our parser does not take it."""
        metadata: Data = {"name": name} | ({"labels": labels} if labels else {})
        made: Data = {"apiVersion": GROUP, "kind": kind, "metadata": metadata}
        if spec:
            made["spec"] = dict(spec)
        try:
            if parse_object(Document(thing, 0, made, {})) is None:
                raise AssertionError(f"{kind} is not read")
        except DocumentError as error:
            self.say(thing, error.field, Fate.LEFT_OUT, f"the whole object: {error.message}")
            return False
        if name in self.names(kind):
            self.say(thing, "metadata.name", Fate.LEFT_OUT, f"there is another {kind} {name}")
            return False
        self.objects.append(made)
        fields = ", ".join(spec) or "no fields"
        self.say(thing, "", Fate.CARRIED, f"as {kind} {name}: {fields}")
        return True


@dataclass(frozen=True, slots=True)
class Theirs:
    """One object of theirs."""

    kind: str
    group: str
    name: str
    metadata: Data
    spec: Data
    """Without fields that say nothing: null, empty texts, lists and mappings."""
    document: Document

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def objects_of(documents: list[Document]) -> Iterator[Theirs]:
    """Of documents and lists of them. Raises DocumentError for what is no Kubernetes object."""
    for document in documents:
        data = _mapping(document, "", document.data)
        kind = data.get("kind")
        if not isinstance(kind, str):
            raise document.error("kind", "missing" if kind is None else "expected str")
        if not (kind.endswith("List") and isinstance(data.get("items"), list)):
            yield _theirs(document, data, kind)
            continue
        for index, item in enumerate(data["items"]):
            path = f"items[{index}]"
            body = _mapping(document, path, item)
            if kind != "List":
                body = {"kind": kind[:-4], "apiVersion": data.get("apiVersion"), **body}
            of_kind = body.get("kind")
            if not isinstance(of_kind, str):
                raise document.error(f"{path}.kind", "missing")
            yield _theirs(document.part(path, body), body, of_kind)


def _theirs(document: Document, data: Data, kind: str) -> Theirs:
    metadata = _mapping(document, "metadata", data.get("metadata") or {})
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        raise document.error("metadata.name", "missing")
    spec = _mapping(document, "spec", data.get("spec") or {})
    group = str(data.get("apiVersion") or "").rpartition("/")[0]
    said = {key: value for key, value in spec.items() if not says_nothing(value)}
    return Theirs(kind, group, name, metadata, said, document)


def says_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _mapping(document: Document, path: str, value: Any) -> Data:
    if not isinstance(value, dict):
        raise document.error(path, f"expected object, got {type(value).__name__}")
    return value


def fields_of(kind: str) -> frozenset[str]:
    """The fields of `spec` of a kind of ours."""
    return SPECS[kind]


def _fields(struct: type) -> tuple[inspect.Field, ...]:
    found: Any = inspect.type_info(struct)
    fields: tuple[inspect.Field, ...] = found.fields
    return fields


SPECS: Mapping[str, frozenset[str]] = {
    kind.name: frozenset(of_spec.encode_name for of_spec in _fields(kind.spec))
    for kind in KINDS
    if kind.spec is not None
}


def text_of(theirs: Theirs, path: str, value: Any) -> str:
    """`value`, which must be a text. Raises DocumentError."""
    if not isinstance(value, str):
        raise theirs.document.error(path, f"expected str, got {type(value).__name__}")
    return value


def mappings_of(theirs: Theirs, path: str, value: Any) -> list[Data]:
    """`value`, which must be a list of mappings. Raises DocumentError."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise theirs.document.error(path, "expected array of objects")
    return value
