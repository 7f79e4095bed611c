"""YAML and JSON text to plain data, and plain data to our structs, with the line of every field.

Called for the programs' configuration and for the manifests: `parse` makes documents of a text,
`decode` makes a struct of a document. What is wrong is always a `DocumentError`, which names file,
line and field: `gateway.yaml:12: neighbors[0].remote_as: expected int, got str`.

The texts are not trusted. YAML is read as a stream of events (no recursion, whatever the depth),
and built here within limits: size, depth, number of values, also of those that aliases repeat.
Plain scalars follow the core schema of YAML 1.2, as JSON would: `no`, `on`, `12:30` and `0777`
stay what they look like, so nothing has to be quoted that people forget to quote. A field that
stands twice is refused; so are merge keys, and tags other than the core ones.

Not done here: reading files; that is the caller's.

Standards: YAML 1.2.2 §10.3 (core schema), RFC 8259 (JSON).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

SIZE_LIMIT = 8 << 20
"""Characters of one file."""
DEPTH_LIMIT = 64
VALUE_LIMIT = 1_000_000
"""Values of one file, those counted again that an alias repeats."""

T = TypeVar("T")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
}
_CORE = "tag:yaml.org,2002:"


class DocumentError(ValueError):
    """A text that cannot be taken, and where: all that a person needs to mend it."""

    def __init__(self, file: str, line: int, field: str, message: str) -> None:
        super().__init__(file, line, field, message)
        self.file = file
        self.line = line
        """Counted from 1; 0: the whole file."""
        self.field = field
        """As in `neighbors[0].remote_as`; empty: the document itself."""
        self.message = message

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: " + (f"{self.field}: " if self.field else "") + self.message


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file, as plain data: dict, list, str, int, float, bool, None."""

    file: str
    line: int
    """Where the document begins."""
    data: Any
    lines: Mapping[str, int]
    """Line of each field, by its path: `spec.ports[0].port`. The document itself is ``."""
    prefix: str = ""
    """Where `data` stands within the file's document: `items[3]` of a list."""

    def part(self, path: str, data: Any) -> Document:
        """The field at `path`, as a document of its own."""
        whole = _join(self.prefix, path)
        return Document(self.file, self.line_of(path), data, self.lines, whole)

    def line_of(self, path: str) -> int:
        """The line of the field, or of the nearest one around it."""
        path = _join(self.prefix, path)
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)

    def error(self, path: str, message: str) -> DocumentError:
        return DocumentError(self.file, self.line_of(path), _join(self.prefix, path), message)


def parse(text: str, file: str) -> list[Document]:
    """The documents of `text`, JSON if `file` ends in `.json`; empty ones are left out.

    Raises DocumentError.
    """
    if len(text) > SIZE_LIMIT:
        raise DocumentError(file, 1, "", f"more than {SIZE_LIMIT} characters")
    if file.endswith(".json"):
        return _parse_json(text, file)
    return list(_Builder(file).documents(text))


def decode(kind: type[T], document: Document) -> T:
    """The document as a struct (or dataclass) of type `kind`. Raises DocumentError."""
    try:
        return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise explain(str(error), document, kind) from error


# -- Errors -----------------------------------------------------------------------------------

_AT = re.compile(r"(?P<what>.*) - at `(?P<key>key` in `)?\$(?P<path>[^`]*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_NAMED = re.compile(r"(\w+): (.*)\Z", re.DOTALL)


def explain(text: str, document: Document, kind: Any) -> DocumentError:
    """msgspec's message about a document that is no `kind`, in the words of `DocumentError`."""
    found = _AT.match(text)
    what, path = (found["what"], found["path"]) if found else (text, "")
    # msgspec writes `[...]` for a key that it does not know any more.
    path = path.removeprefix(".").split("[...]")[0]
    if unknown := _UNKNOWN.match(what):
        nearest = _nearest(kind, path, unknown[1])
        hint = f"; is {nearest} meant?" if nearest else ""
        return document.error(_join(path, unknown[1]), f"unknown field{hint}")
    if missing := _MISSING.match(what):
        return document.error(_join(path, missing[1]), "missing")
    # Our own checks begin with the name of the field that they are about.
    named = _NAMED.match(what)
    if named and _join(document.prefix, _join(path, named[1])) in document.lines:
        return document.error(_join(path, named[1]), named[2])
    what = what.replace("`", "")
    if what.startswith("Invalid enum value") and (allowed := _allowed(kind, path)):
        what += f", expected one of {', '.join(allowed)}"
    if what.startswith(("Expected ", "Invalid ")):
        what = what[:1].lower() + what[1:]
    return document.error(path, what)


def _nearest(kind: Any, path: str, name: str) -> str | None:
    """The field of the struct at `path` whose name is most like `name`."""
    found = _type_at(kind, path)
    names = {f.encode_name.lower(): f.encode_name for f in getattr(_struct(found), "fields", ())}
    close = difflib.get_close_matches(name.lower()[:100], names, 1)
    return names[close[0]] if close else None


def _allowed(kind: Any, path: str) -> list[str]:
    """The words that may stand at `path`, as far as they are known."""
    found = _plainest(_type_at(kind, path), (inspect.LiteralType, inspect.EnumType))
    if isinstance(found, inspect.LiteralType):
        return [str(value) for value in found.values if value not in ("", None)]
    if isinstance(found, inspect.EnumType):
        return [str(member.value) for member in found.cls]
    return []


def _type_at(kind: Any, path: str) -> Any:
    found: Any = inspect.type_info(kind)
    for step in re.findall(r"[^.\[\]]+", path):
        fields = getattr(_struct(found), "fields", ())
        if step.isdigit():
            found = getattr(_plainest(found, inspect.ListType), "item_type", None)
        else:
            found = next((f.type for f in fields if f.encode_name == step), None)
    return found


def _struct(found: Any) -> Any:
    return _plainest(found, (inspect.StructType, inspect.DataclassType))


def _plainest(found: Any, wanted: Any) -> Any:
    """The type of the wanted sort among what may stand in a place."""
    while isinstance(found, inspect.Metadata):
        found = found.type
    if isinstance(found, inspect.UnionType):
        members = (_plainest(member, wanted) for member in found.types)
        return next((member for member in members if isinstance(member, wanted)), None)
    return found


def _join(path: str, name: str) -> str:
    if path and name:
        return path + name if name.startswith("[") else f"{path}.{name}"
    return path or name


# -- YAML -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A collection that is being built. `key` is the field whose value comes next."""

    value: Any
    path: str
    anchor: str | None
    key: str | None = None
    size: int = 1


@dataclass(slots=True)
class _Builder:
    """Builds plain data out of libyaml's events, with a stack of its own."""

    file: str
    count: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """What an alias stands for, and how many values that is."""
    lines: dict[str, int] = field(default_factory=dict)
    root: Any = None
    line: int = 1

    def documents(self, text: str) -> Iterator[Document]:
        try:
            events: Iterator[Any] = yaml.parse(text, _Loader)
            for event in events:
                self.line = event.start_mark.line + 1
                if isinstance(event, yaml.DocumentStartEvent):
                    self.anchors, self.lines, self.root = {}, {}, None
                elif isinstance(event, yaml.DocumentEndEvent):
                    if self.root is not None:
                        start = self.lines.get("", self.line)
                        yield Document(self.file, start, self.root, self.lines)
                else:
                    self._take(event)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else self.line
            raise self._error("", error.problem or "not YAML", line) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._error("", f"character {error.character!r}: {error.reason}", line) from error

    def _take(self, event: Any) -> None:
        match event:
            case yaml.ScalarEvent():
                self._put(*self._scalar(event), event.anchor)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self.stack.pop()
                if done.anchor:
                    self.anchors[done.anchor] = (done.value, done.size)
                if self.stack:
                    self.stack[-1].size += done.size
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    raise self._error(self._path(), f"no anchor &{event.anchor} stands before")
                value, size = self.anchors[event.anchor]
                self._charge(size)
                self._put(value, None, None)
                if self.stack:
                    self.stack[-1].size += size
            case _:
                pass  # the stream's start and end

    def _open(self, event: Any) -> None:
        if event.tag not in (None, "!", _CORE + "map", _CORE + "seq"):
            raise self._error(self._path(), f"tag {event.tag} is not read")
        if len(self.stack) >= DEPTH_LIMIT:
            raise self._error(self._path(), f"more than {DEPTH_LIMIT} levels deep")
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(value, None, None)
        self.stack.append(_Open(value, path, event.anchor))

    def _scalar(self, event: Any) -> tuple[Any, str | None]:
        """Value, and the text as written (for the name of a field)."""
        text: str = event.value
        tag: str | None = event.tag
        plain = event.implicit[0] and tag is None
        if tag is not None and not tag.startswith(_CORE) and tag != "!":
            raise self._error(self._path(), f"tag {tag} is not read")
        if not plain and tag in (None, "!", _CORE + "str"):
            return text, text
        try:
            value = _plain(text)
        except ValueError as error:
            raise self._error(self._path(), str(error)) from error
        if tag is not None:
            name = tag.removeprefix(_CORE)
            types: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
            types["null"] = type(None)
            if name not in types:
                raise self._error(self._path(), f"tag !!{name} is not read")
            if not isinstance(value, types[name]):
                raise self._error(self._path(), f"{text!r} is no {name}")
        return value, "<<" if plain and text == "<<" else text

    def _put(self, value: Any, text: str | None, anchor: str | None) -> str:
        """Give the value its place: root, element, name of a field or its value."""
        self._charge(1)
        if anchor:
            self.anchors[anchor] = (value, 1)
        if not self.stack:
            self.root = value
            self.lines[""] = self.line
            return ""
        top = self.stack[-1]
        top.size += 1
        if isinstance(top.value, list):
            path = f"{top.path}[{len(top.value)}]"
            top.value.append(value)
        elif top.key is None:
            self._key(top, text)
            return ""
        else:
            path = _join(top.path, top.key)
            top.value[top.key] = value
            top.key = None
        # A collection's line is that of its field's name, which `_key` has noted.
        self.lines.setdefault(path, self.line)
        return path

    def _key(self, top: _Open, text: str | None) -> None:
        if text is None:
            raise self._error(top.path, "the name of a field is plain text")
        path = _join(top.path, text)
        if text == "<<":
            raise self._error(path, "merge keys are not read")
        if text in top.value:
            raise self._error(path, "stands twice")
        top.key = text
        self.lines[path] = self.line

    def _charge(self, values: int) -> None:
        self.count += values
        if self.count > VALUE_LIMIT:
            raise self._error(self._path(), f"more than {VALUE_LIMIT} values")

    def _path(self) -> str:
        if not self.stack:
            return ""
        top = self.stack[-1]
        if isinstance(top.value, list):
            return f"{top.path}[{len(top.value)}]"
        return _join(top.path, top.key) if top.key else top.path

    def _error(self, path: str, message: str, line: int | None = None) -> DocumentError:
        return DocumentError(self.file, line or self.line, path, message)


def _plain(text: str) -> Any:
    """YAML 1.2.2 §10.3.2: what a plain scalar stands for. Raises ValueError."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-.":
        return text
    if _INT.match(text):
        # Base 10 explicitly: a leading zero is no octal number here.
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)
    return float(text) if _FLOAT.match(text) else text


# -- JSON -------------------------------------------------------------------------------------


def _parse_json(text: str, file: str) -> list[Document]:
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DocumentError(file, error.lineno, "", error.msg) from error
    except (_TwiceError, _ConstantError) as error:
        line = text.count("\n", 0, max(text.rfind(f'"{error}"'), 0)) + 1
        raise DocumentError(file, line, str(error), error.what) from error
    except RecursionError as error:
        raise DocumentError(file, 1, "", f"more than {DEPTH_LIMIT} levels deep") from error
    except ValueError as error:
        raise DocumentError(file, 1, "", str(error)) from error
    if data is None:
        return []
    lines = _JsonLines(text)
    return [Document(file, lines.first, data, lines)]


class _TwiceError(ValueError):
    what = "stands twice"


class _ConstantError(ValueError):
    what = "not JSON"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(name)
            seen.add(name)
    return made


def _no_constant(name: str) -> Any:
    raise _ConstantError(name)


class _JsonLines(Mapping[str, int]):
    """The lines of a JSON text, found only when someone asks: JSON is read as YAML for it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[str, int] | None = None
        self.first = text.count("\n", 0, len(text) - len(text.lstrip())) + 1

    def _read(self) -> dict[str, int]:
        if self._lines is None:
            builder = _Builder("")
            # JSON that is no YAML (some escapes): the lines up to there must do.
            with contextlib.suppress(DocumentError):
                list(builder.documents(self._text))
            self._lines = builder.lines
        return self._lines

    def __getitem__(self, path: str) -> int:
        return self._read()[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())
