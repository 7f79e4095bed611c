"""Calico's selector language: which labels an object must have. Pure.

Used by `IPPool.node_selector`: `kube.objects` refuses one that does not parse, `plan.blocks` asks
which nodes it selects.

    all()                 every object                  global()   the same
    has(key)              the label is there            !has(key)  it is not
    key == "value"        key != "value"                (!=, not in: also where it is not there)
    key in {"a", "b"}     key not in {"a", "b"}
    key contains "part"   key starts with "prefix"      key ends with "suffix"
    !term   term && term   term || term   (term)        && binds tighter than ||

The empty text selects everything, as in Calico.

Standards: Calico's selector syntax (docs.tigera.io, "Selectors").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

Labels = Mapping[str, str]
Test = Callable[[Labels], bool]

DEPTH_LIMIT = 64
LENGTH_LIMIT = 8192

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<value>"[^"]*"|'[^']*')
  | (?P<sign>&&|\|\||==|!=|[!(){},])
  | (?P<word>[a-zA-Z0-9_./-]+)
  )""",
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")


class SelectorError(ValueError):
    """A text that is no selector; `position` counts characters from 1."""

    def __init__(self, text: str, position: int, message: str) -> None:
        super().__init__(f"at character {position}: {message}: {text!r}")
        self.position = position


def selects(text: str, labels: Labels) -> bool:
    """Whether the selector matches the labels. Raises SelectorError."""
    return parse(text)(labels)


@lru_cache(maxsize=256)
def parse(text: str) -> Test:
    """The test that a selector stands for. Raises SelectorError."""
    if len(text) > LENGTH_LIMIT:
        raise SelectorError(text[:40], LENGTH_LIMIT, f"longer than {LENGTH_LIMIT} characters")
    reader = _Reader(text)
    if reader.kind == "end":
        return _everything
    test = reader.any_of(0)
    if reader.kind != "end":
        raise reader.error("expected && or || or the end")
    return test


def _everything(_labels: Labels) -> bool:
    return True


class _Reader:
    """One token ahead, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = 0
        self.kind = ""
        self.token = ""
        self.position = 0
        self.advance()

    def advance(self) -> str:
        """Take the present token; the next one becomes present."""
        taken = self.token
        space = _SPACE.match(self._text, self._next)
        assert space is not None
        self.position = space.end()
        if self.position == len(self._text):
            self.kind, self.token = "end", ""
            return taken
        found = _TOKEN.match(self._text, self._next)
        if found is None:
            raise self.error("not understood")
        self.kind, self.token = str(found.lastgroup), found.group(str(found.lastgroup))
        self._next = found.end()
        return taken

    def error(self, message: str) -> SelectorError:
        return SelectorError(self._text, self.position + 1, message)

    def expect(self, token: str) -> None:
        if self.kind == "value" or self.token != token:
            raise self.error(f"expected {token}")
        self.advance()

    def _is(self, token: str) -> bool:
        return self.kind in ("sign", "word") and self.token == token

    def any_of(self, depth: int) -> Test:
        tests = [self.all_of(depth)]
        while self._is("||"):
            self.advance()
            tests.append(self.all_of(depth))
        return tests[0] if len(tests) == 1 else lambda labels: any(t(labels) for t in tests)

    def all_of(self, depth: int) -> Test:
        tests = [self.term(depth)]
        while self._is("&&"):
            self.advance()
            tests.append(self.term(depth))
        return tests[0] if len(tests) == 1 else lambda labels: all(t(labels) for t in tests)

    def term(self, depth: int) -> Test:
        if depth > DEPTH_LIMIT:
            raise self.error(f"nested deeper than {DEPTH_LIMIT}")
        if self._is("!"):
            self.advance()
            inner = self.term(depth + 1)
            return lambda labels: not inner(labels)
        if self._is("("):
            self.advance()
            test = self.any_of(depth + 1)
            self.expect(")")
            return test
        if self.kind != "word":
            raise self.error("expected a label's key, all(), has(key), ! or (")
        key = self.advance()
        if self._is("("):
            return self._call(key)
        return self._comparison(key)

    def _call(self, name: str) -> Test:
        if name in ("all", "global"):
            self.advance()
            self.expect(")")
            return _everything
        if name != "has":
            raise self.error(f"{name}() is not known, only all(), global() and has(key)")
        self.advance()
        if self.kind != "word":
            raise self.error("expected a label's key")
        key = self.advance()
        self.expect(")")
        return lambda labels: key in labels

    def _comparison(self, key: str) -> Test:
        operator = self.advance() if self.kind in ("sign", "word") else ""
        if operator in ("==", "!="):
            value = self._value()
            is_equal = operator == "=="
            return lambda labels: (labels.get(key) == value) is is_equal
        if operator == "in":
            values = self._set()
            return lambda labels: labels.get(key) in values
        if operator == "not":
            self.expect("in")
            values = self._set()
            return lambda labels: labels.get(key) not in values
        if operator == "contains":
            value = self._value()
            return lambda labels: key in labels and value in labels[key]
        if operator in ("starts", "ends"):
            self.expect("with")
            value = self._value()
            if operator == "starts":
                return lambda labels: key in labels and labels[key].startswith(value)
            return lambda labels: key in labels and labels[key].endswith(value)
        raise self.error(
            "expected ==, !=, in, not in, contains, starts with or ends with after the key"
        )

    def _value(self) -> str:
        if self.kind != "value":
            raise self.error("expected a value in quotes")
        return self.advance()[1:-1]

    def _set(self) -> frozenset[str]:
        self.expect("{")
        values = []
        if not self._is("}"):
            values.append(self._value())
            while self._is(","):
                self.advance()
                values.append(self._value())
        self.expect("}")
        return frozenset(values)
