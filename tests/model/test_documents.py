"""Texts to data and structs: every mistake is named with file, line and field."""

from __future__ import annotations

import contextlib
import enum
import json
import re
from typing import Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from samepath.model import documents
from samepath.model.documents import DocumentError, decode, parse


class Leaf(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    remote_as: int
    hold_s: int = 90

    def __post_init__(self) -> None:
        if self.hold_s < 3:
            raise ValueError(f"hold_s: at least 3, not {self.hold_s}")


class Season(enum.Enum):
    WET = "wet"
    DRY = "dry"


class Tree(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    neighbors: list[Leaf]
    labels: dict[str, str] = {}
    kind: Literal["oak", "ash", ""] | None = None
    seasons: list[Season] = []


def only(text: str, file: str = "t.yaml") -> Any:
    (document,) = parse(text, file)
    return document.data


def test_documents_and_their_lines() -> None:
    text = "# first\na: 1\n---\n\nb:\n  - c: [1,\n     2]\n  - d\n---\n# nothing\n---\ne: 5\n"
    first, second, third = parse(text, "x.yaml")
    assert [d.data for d in (first, second, third)] == [
        {"a": 1},
        {"b": [{"c": [1, 2]}, "d"]},
        {"e": 5},
    ]
    assert (first.line, second.line, third.line) == (2, 5, 12)
    assert second.lines["b"] == 5
    assert second.lines["b[0].c"] == 6
    assert second.lines["b[0].c[1]"] == 7
    assert second.lines["b[1]"] == 8
    assert second.line_of("b[0].nothing.at[3].all") == 6


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("'true'", "true"),
        ("0777", 777),
        ("0o17", 15),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e3", 1000.0),
        ("-1.5", -1.5),
        ("'-'", "-"),
        ("~", None),
        ("", None),
        ("''", ""),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("=", "="),
    ],
)
def test_plain_scalars_are_what_they_look_like(written: str, meant: Any) -> None:
    value = only(f"a: {written}\n")["a"]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "t.yaml:3: a: stands twice"),
        ("a:\n  b: {c: 1, c: 2}\n", "t.yaml:2: a.b.c: stands twice"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "t.yaml:3: c.<<: merge keys are not read"),
        ("a: !!binary aGk=\n", "t.yaml:1: a: tag !!binary is not read"),
        ("a: !!python/object:os.system {}\n", "is not read"),
        ("a: !!int x\n", "t.yaml:1: a: 'x' is no int"),
        ("? [1, 2]\n: 3\n", "t.yaml:1: the name of a field is plain text"),
        ("a: *b\n", "t.yaml:1: a: no anchor &b stands before"),
        ("a: &a [*a]\n", "t.yaml:1: a[0]: no anchor &a stands before"),
        ("a: 1\nb: [2\nc: 3\n", "t.yaml:3: did not find expected ',' or ']'"),
        ("a: 1\nb: \x01\n", "t.yaml:2: character 1"),
        ("a: b: c\n", "t.yaml:1: mapping values are not allowed"),
        ("a: " + "9" * 5000, "t.yaml:1: a: "),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "t.yaml")
    assert said in str(caught.value)


def test_aliases_within_limits() -> None:
    assert only("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    with pytest.raises(DocumentError, match="more than 1000000 values"):
        parse(bomb, "t.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000 + "a", '{"a":' * 100_000])
@pytest.mark.parametrize("file", ["t.yaml", "t.json"])
def test_depth_has_a_limit(text: str, file: str) -> None:
    with pytest.raises(DocumentError):
        parse(text, file)


def test_size_has_a_limit() -> None:
    with pytest.raises(DocumentError, match="characters"):
        parse(" " * (documents.SIZE_LIMIT + 1), "t.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "labels: {}\nneighbors:\n  - hold_s: 9\n    remote_as: x\n",
            "t.yaml:4: neighbors[0].remote_as: expected int, got str",
        ),
        ("neighbors:\n  - remote_as: 1\n    colour: 2\n", "t.yaml:3: neighbors[0].colour: unknown"),
        ("neighbors:\n  - remote_as: 1\n  - hold_s: 4\n", "t.yaml:3: neighbors[1].remote_as: miss"),
        ("labels: {}\n", "t.yaml:1: neighbors: missing"),
        (
            "neighbors:\n  - remote_as: 1\n    hold_s: 1\n",
            "t.yaml:3: neighbors[0].hold_s: at least 3, not 1",
        ),
        ("neighbors: []\nlabels:\n  a: 1\n", "t.yaml:2: labels: expected str, got int"),
        ("[]\n", "t.yaml:1: expected object, got array"),
        (
            "neighbors: []\nkind: elm\n",
            "t.yaml:2: kind: invalid enum value 'elm', expected one of ash, oak",
        ),
        (
            "neighbors: []\nseasons:\n  - wet\n  - hot\n",
            "t.yaml:4: seasons[1]: invalid enum value 'hot', expected one of wet, dry",
        ),
    ],
)
def test_a_struct_that_does_not_fit_names_the_field(text: str, said: str) -> None:
    (document,) = parse(text, "t.yaml")
    with pytest.raises(DocumentError) as caught:
        decode(Tree, document)
    assert str(caught.value).startswith(said)


def test_json() -> None:
    (document,) = parse('{"neighbors": [\n\t{"remote_as": 1,\n"hold_s": 1}]}', "t.json")
    with pytest.raises(DocumentError) as caught:
        decode(Tree, document)
    assert str(caught.value) == "t.json:3: neighbors[0].hold_s: at least 3, not 1"
    for text, said in [
        ('{"a": 1,\n "b": }', "t.json:2: Expecting value"),
        ('{"a": 1,\n "a": 2}', "t.json:2: a: stands twice"),
        ('{"a": NaN}', "t.json:1: NaN: not JSON"),
        ('{"a": 1} {}', "Extra data"),
    ]:
        with pytest.raises(DocumentError) as caught:
            parse(text, "t.json")
        assert said in str(caught.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(min_size=1), plain, min_size=1, max_size=4))
def test_what_json_says_is_read_back(data: dict[str, Any]) -> None:
    if "Infinity" not in (text := json.dumps(data)):
        assert only(text, "t.json") == data


# A writer by YAML 1.1 leaves `0E0` and `0o7` without quotes; in YAML 1.2 both are numbers.
words = st.text().filter(lambda text: not re.match(r"[-+]?\.?[0-9]", text))


@given(st.dictionaries(st.text("abc", min_size=1), words | st.integers(), min_size=1))
def test_what_a_yaml_writer_says_is_read_back(data: dict[str, Any]) -> None:
    text = yaml.safe_dump(data)
    assert only(text) == data


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for file in ("t.yaml", "t.json"):
        with contextlib.suppress(DocumentError):
            assert all(d.line >= 1 for d in parse(text, file))
