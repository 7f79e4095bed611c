"""Calico's selectors as label selectors, where these can say the same. Pure.

Called by `imports.calico`. A list of label selectors selects what any of them does, and each of
them selects what meets all its requirements: so a selector is brought into that form (or of ands).
What cannot be said so: `contains`, `starts with`, `ends with`, `!` before anything but `has()`, and
a selector that selects nothing.

Standards: Calico's selector syntax, apimachinery's LabelSelector.
"""

from __future__ import annotations

import re
from typing import Any

from samepath.model.selector import parse

Expression = dict[str, Any]
Selector = tuple[Expression, ...]
"""Requirements, all of which must hold."""

LIMIT = 16
"""Selectors of a list, as many as our kinds take."""

_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|&&|\|\||==|!=|[!(){},]|[a-zA-Z0-9_./-]+)""")


class Inexpressible(ValueError):
    """What label selectors cannot say."""


def label_selectors(text: str) -> list[dict[str, Any]]:
    """Label selectors, of which any suffices; none: everything is selected.

    Raises SelectorError (no selector at all) and Inexpressible.
    """
    parse(text)
    reader = _Reader(_TOKEN.findall(text))
    found = reader.any_of() if reader.tokens else [()]
    if len(found) > LIMIT:
        raise Inexpressible(f"it takes {len(found)} label selectors, more than {LIMIT}")
    if not found:
        raise Inexpressible("it selects nothing")
    if () in found:
        return []
    return [_label_selector(selector) for selector in dict.fromkeys(map(_key, found))]


def _key(selector: Selector) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple((e["key"], e["operator"], tuple(e.get("values", ()))) for e in selector)


def _label_selector(selector: tuple[tuple[str, str, tuple[str, ...]], ...]) -> dict[str, Any]:
    """`matchLabels` for what is one value, as people write it."""
    labels: dict[str, str] = {}
    expressions = []
    for key, operator, values in selector:
        if operator == "In" and len(values) == 1 and labels.get(key, values[0]) == values[0]:
            labels[key] = values[0]
        else:
            of_values = {"values": list(values)} if values else {}
            expressions.append({"key": key, "operator": operator, **of_values})
    made: dict[str, Any] = {"matchLabels": labels} if labels else {}
    return made | ({"matchExpressions": expressions} if expressions else {})


class _Reader:
    """Of tokens that `model.selector` has found to be a selector."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sees(self, token: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == token

    def any_of(self) -> list[Selector]:
        found = self.all_of()
        while self.sees("||"):
            self.next()
            found = [*found, *self.all_of()]
        return found

    def all_of(self) -> list[Selector]:
        found = self.term()
        while self.sees("&&"):
            self.next()
            more = self.term()
            if len(found) * len(more) > LIMIT:
                raise Inexpressible(f"it takes more than {LIMIT} label selectors")
            found = [one + other for one in found for other in more]
        return found

    def term(self) -> list[Selector]:
        token = self.next()
        if token == "(":
            found = self.any_of()
            self.next()
            return found
        if token == "!":
            if self.sees("has"):
                self.next()
                return self._has("DoesNotExist")
            raise Inexpressible("! before anything but has()")
        if self.sees("("):
            if token == "has":
                return self._has("Exists")
            self.at += 2  # all(), global()
            return [()]
        return self._comparison(token)

    def _has(self, operator: str) -> list[Selector]:
        self.next()
        key = self.next()
        self.next()
        return [({"key": key, "operator": operator},)]

    def _comparison(self, key: str) -> list[Selector]:
        operator = self.next()
        if operator in ("==", "!="):
            values = [self.next()[1:-1]]
        elif operator in ("in", "not"):
            if operator == "not":
                self.next()
            values = self._set()
        else:
            raise Inexpressible(f"{operator} is not in label selectors")
        is_in = operator in ("==", "in")
        if not values:
            # In nothing: never; not in nothing: always.
            return [] if is_in else [()]
        return [({"key": key, "operator": "In" if is_in else "NotIn", "values": values},)]

    def _set(self) -> list[str]:
        values: list[str] = []
        self.next()
        while True:
            token = self.next()
            if token == "}":
                return values
            if token != ",":
                values.append(token[1:-1])
