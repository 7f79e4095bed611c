"""The files that are made of `kube.crds`: deploy/crds, and the tables of docs/kubernetes-kinds.md.

    python -m samepath.kube.crd_files        in the folder of the repository; then
    scripts/render-manifest                  for the manifest that has them, too

A test holds the files against the code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec import NODEFAULT, inspect

from samepath.kube import specs, statuses
from samepath.kube.crd_notes import NOTES
from samepath.kube.crds import KINDS, Kind, definition
from samepath.kube.schemas import Note
from samepath.kube.texts import Is

FOLDER = Path("deploy/crds")
PAGE = Path("docs/kubernetes-kinds.md")
BEGIN, END = "<!-- fields of {} -->", "<!-- end -->"


def files() -> dict[str, str]:
    """Name and text of each file of deploy/crds."""
    return {
        f"{kind.resource.group}_{kind.resource.plural}.yaml": yaml.dump(
            definition(kind), sort_keys=False, width=100
        )
        for kind in KINDS
    }


def with_tables(page: str) -> str:
    """The page with the table of each kind in its place, between the two comments."""
    for kind in KINDS:
        begin = BEGIN.format(kind.name)
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(END)
        if not found or not ended:
            raise ValueError(f"no place for {begin}")
        page = f"{before}{begin}\n{table(kind)}{END}{after}"
    return page


def table(kind: Kind) -> str:
    """The fields of a kind, in Markdown: field, type, default, meaning."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for part, struct in (("spec", kind.spec), ("status", kind.status)):
        if struct is not None:
            lines += _rows(part, inspect.type_info(struct))
    return "\n".join(lines) + "\n"


_TEXTS: dict[Any, str] = {
    Is.NAME: "name",
    Is.NAME_OR_NONE: "name",
    Is.ADDRESS: "address",
    Is.ROUTER_ID: "IPv4 address",
    Is.PREFIX: "CIDR",
    Is.ADDRESSES: "CIDR or range",
    Is.DURATION: "duration",
    Is.COMMUNITY: "community",
    Is.COMMUNITY_OR_NAME: "community or name",
}
_SHOWN_ONCE: dict[type, str] = {
    specs.LabelSelector: "LabelSelector",
    statuses.Condition: "Condition",
}
"""Structs that people know, and that have no rows of their own."""


def _rows(prefix: str, found: Any) -> Iterator[str]:
    for field in found.fields:
        note = NOTES[found.cls][field.encode_name]
        path = f"{prefix}.{field.encode_name}"
        text = note.text.replace("|", "\\|")
        yield f"| `{path}` | {_type(field.type)} | {_default(field, note)} | {text} |"
        inner, is_list = _inner(field.type)
        if isinstance(inner, inspect.StructType) and inner.cls not in _SHOWN_ONCE:
            yield from _rows(f"{path}[]" if is_list else path, inner)


def _default(field: inspect.Field, note: Note) -> str:
    if field.required:
        return "**required**"
    if field.default is NODEFAULT or field.default in (None, ""):
        return note.unset
    return f"`{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"


def _plain(found: Any) -> Any:
    while isinstance(found, inspect.Metadata | inspect.UnionType):
        found = found.type if isinstance(found, inspect.Metadata) else found.types[0]
    return found


def _inner(found: Any) -> tuple[Any, bool]:
    plain = _plain(found)
    if isinstance(plain, inspect.ListType):
        return _plain(plain.item_type), True
    return plain, False


def _type(found: Any) -> str:
    match _plain(found):
        case inspect.StructType(cls=struct):
            return _SHOWN_ONCE.get(struct, "object")
        case inspect.ListType(item_type=item):
            return f"list of {_type(item)}"
        case inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in sorted(map(str, values)))
        case inspect.IntType(ge=least, le=most) if least is not None and most is not None:
            return f"integer, {least} to {most}"
        case inspect.IntType():
            return "integer"
        case inspect.BoolType():
            return "boolean"
    while isinstance(found, inspect.UnionType):
        found = found.types[0]
    what = (found.extra or {}).get("is") if isinstance(found, inspect.Metadata) else None
    return _TEXTS.get(what, "text")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
