"""Patches by the examples of their standards, ages and paths as kubectl shows them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as s

from samepath.lab.api_server.columns import age
from samepath.lab.api_server.patches import json_patch, merge, strategic_merge
from samepath.lab.api_server.rules import faults
from samepath.lab.api_server.selectors import labels
from samepath.lab.api_server.status import StatusError
from samepath.lab.api_server.views import json_path

VALUES = s.recursive(
    s.none() | s.booleans() | s.integers(-3, 3) | s.text("ab~/", max_size=2),
    lambda inner: s.lists(inner, max_size=3) | s.dictionaries(s.text("ab~/", max_size=2), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_rfc_7386_appendix_a(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": 1}], {"foo": "bar", "baz": 1}),
        ({"foo": [1, 2]}, [{"op": "add", "path": "/foo/1", "value": 3}], {"foo": [1, 3, 2]}),
        ({"foo": [1]}, [{"op": "add", "path": "/foo/-", "value": [2]}], {"foo": [1, [2]]}),
        ({"baz": 1, "foo": 2}, [{"op": "remove", "path": "/baz"}], {"foo": 2}),
        ({"foo": [1, 2, 3]}, [{"op": "remove", "path": "/foo/1"}], {"foo": [1, 3]}),
        ({"baz": 1}, [{"op": "replace", "path": "/baz", "value": 2}], {"baz": 2}),
        (
            {"foo": {"bar": 1, "waldo": 2}, "qux": {}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": 1}, "qux": {"thud": 2}},
        ),
        ({"foo": [1, 2]}, [{"op": "move", "from": "/foo/0", "path": "/foo/1"}], {"foo": [2, 1]}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"": 0}, [{"op": "replace", "path": "/", "value": 1}], {"": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {}}], {}),
    ],
)  # fmt: skip
def test_rfc_6902_appendix_a(target: Any, patch: Any, result: Any) -> None:
    before = repr(target)
    assert json_patch(target, patch) == result
    assert repr(target) == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/baz/bat", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "remove", "path": "/none"},
        {"op": "remove", "path": "/list/-"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "replace", "path": "/list/-", "value": 1},
        {"op": "test", "path": "/foo", "value": "no"},
        {"op": "test", "path": "/list/-", "value": 2},
        {"op": "nonsense", "path": "/foo"},
        {"op": "add", "path": "/foo"},
        {"op": "add", "path": "foo", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_fit(operation: Any) -> None:
    with pytest.raises(StatusError) as error:
        json_patch({"foo": "bar", "list": [1, 2]}, [operation])
    assert error.value.code == 422


@given(VALUES, VALUES)
def test_a_merge_patch_is_stable_and_changes_nothing_in_place(target: Any, patch: Any) -> None:
    before = repr(target)
    once = merge(target, patch)
    assert repr(target) == before
    assert merge(once, patch) == once


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        (
            {"ports": [{"port": 80, "name": "a"}, {"port": 81}]},
            {"ports": [{"port": 80, "name": "b"}, {"port": 81, "$patch": "delete"}]},
            {"ports": [{"port": 80, "name": "b"}]},
        ),
        ({"ports": [{"port": 80}]}, {"ports": [{"$patch": "replace"}, {"port": 1}]},
         {"ports": [{"port": 1}]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"$patch": "replace", "b": 3}}, {"a": {"b": 3}}),
        ({"finalizers": ["a"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]},
         {"finalizers": ["b"]}),
        (
            {"conditions": [{"type": "A", "status": "1"}]},
            {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}],
             "conditions": [{"type": "B", "status": "2"}]},
            {"conditions": [{"type": "B", "status": "2"}, {"type": "A", "status": "1"}]},
        ),
        ({"endpoints": [{"addresses": ["a"]}]}, {"endpoints": [{"addresses": ["b"]}]},
         {"endpoints": [{"addresses": ["b"]}]}),
        ({"taints": [{"key": "a"}]}, {"taints": None}, {}),
    ],
)  # fmt: skip
def test_strategic_merge(target: Any, patch: Any, result: Any) -> None:
    assert strategic_merge(target, patch) == result


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (121, "2m1s"), (599, "9m59s"), (601, "10m"),
     (10_799, "179m"), (10_800, "3h"), (10_860, "3h1m"), (28_800, "8h"), (172_799, "47h"),
     (172_800, "2d"), (176_400, "2d1h"), (691_200, "8d"), (63_072_000, "2y")],
)  # fmt: skip
def test_ages(seconds: int, shown: str) -> None:
    import datetime

    then = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    now = then + datetime.timedelta(seconds=seconds)
    assert age(then.isoformat(), now.isoformat()) == shown


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.a", [1]),
        (".spec.none", []),
        (".spec.list[1].b", [3]),
        (".spec.list[*].b", [2, 3]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".metadata.labels.app\\.kubernetes\\.io/name", ["x"]),
        (".metadata.labels['app.kubernetes.io/name']", ["x"]),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    body = {
        "metadata": {"labels": {"app.kubernetes.io/name": "x"}},
        "spec": {"a": 1, "list": [{"b": 2}, {"b": 3}]},
        "status": {"conditions": [{"type": "A"}, {"type": "Ready", "status": "True"}]},
    }
    assert json_path(path, body) == found


@pytest.mark.parametrize(
    ("selector", "selects"),
    [("a", True), ("!a", False), ("a=1", True), ("a==1", True), ("a!=1", False), ("b!=1", True),
     ("a in (1, 2)", True), ("a notin (1)", False), ("b notin (1)", True), ("b in (1)", False),
     ("a=1,b", False), ("a=1,!b", True), ("a in (1,2),c=", True), ("a>0", True), ("a<1", False)],
)  # fmt: skip
def test_label_selectors(selector: str, selects: bool) -> None:
    assert labels(selector)({"a": "1", "c": ""}) is selects


@pytest.mark.parametrize("selector", ["a in 1", "=b", "a=b=c", "a in (1", "a b"])
def test_label_selectors_that_are_none(selector: str) -> None:
    with pytest.raises(StatusError, match="unable to parse requirement"):
        labels(selector)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("isIP(self.a)", True),
        ("isIP(self.b)", False),
        ("isCIDR(self.c) && cidr(self.c).containsIP(self.a)", True),
        ("cidr(self.c).containsIP('10.2.0.1')", False),
        ("ip(self.a).family() == 4", True),
        ("cidr(self.c).prefixLength() == 16", True),
        ("self.a.split('.').size() == 4", True),
        ("self.b.lowerAscii() == 'text'", True),
        ("has(self.none)", False),
        ("self.none == 1", False),
        ("duration('90s') > duration('1m')", True),
        ("self.n.all(x, x > 0) && self.n.sum() == 6 && self.n.isSorted()", True),
    ],
)
def test_rules(rule: str, holds: bool) -> None:
    schema = {"type": "object", "x-kubernetes-validations": [{"rule": rule, "message": "said"}]}
    value = {"a": "10.1.2.3", "b": "Text", "c": "10.1.0.0/16", "n": [1, 2, 3]}
    assert (faults(schema, value) == []) is holds
