"""Calico's selectors, and errors that show where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.selector import SelectorError, parse, selects

LABELS = {"zone": "eu-1", "kubernetes.io/hostname": "n1", "role": "worker", "empty": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  ", True),
        ("all()", True),
        ("global()", True),
        ("!all()", False),
        ("has(zone)", True),
        ("has(empty)", True),
        ("has(rack)", False),
        ("!has(rack)", True),
        ("!!has(zone)", True),
        ("zone == 'eu-1'", True),
        ('zone=="eu-1"', True),
        ("zone == 'eu-2'", False),
        ("zone != 'eu-2'", True),
        ("zone != 'eu-1'", False),
        ("rack == ''", False),
        ("rack != 'x'", True),
        ("empty == ''", True),
        ("zone in {'eu-1', 'eu-2'}", True),
        ("zone in {'eu-2'}", False),
        ("zone in {}", False),
        ("rack in {''}", False),
        ("zone not in {'eu-2'}", True),
        ("zone not  in {'eu-1'}", False),
        ("rack not in {'a'}", True),
        ("zone contains 'u-'", True),
        ("rack contains ''", False),
        ("zone starts with 'eu'", True),
        ("zone starts  with '1'", False),
        ("zone ends with '-1'", True),
        ("rack ends with ''", False),
        ("kubernetes.io/hostname == 'n1'", True),
        ("has(zone) && has(rack)", False),
        ("has(zone) || has(rack)", True),
        ("has(zone) || has(rack) && has(rack)", True),
        ("(has(zone) || has(rack)) && has(rack)", False),
        ("!has(rack) && zone == 'eu-1' && role in {'worker'}", True),
        ("!(has(rack) || has(zone))", False),
        ("has(all)", False),
        ("in == 'x' || not == 'y'", False),
        ('zone == "it\'s"', False),
    ],
)
def test_what_is_selected(text: str, expected: bool) -> None:
    assert selects(text, LABELS) is expected


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("zone", 5, "expected ==, !=, in, not in, contains, starts with or ends with"),
        ("zone = 'a'", 6, "not understood"),
        ("zone == a", 9, "expected a value in quotes"),
        ("zone == 'a", 9, "not understood"),
        ("has(zone", 9, "expected )"),
        ("has('zone')", 5, "expected a label's key"),
        ("none()", 5, "none() is not known"),
        ("all() all()", 7, "expected && or || or the end"),
        ("all() &&", 9, "expected a label's key, all(), has(key), ! or ("),
        ("(all()", 7, "expected )"),
        ("zone in 'a'", 9, "expected {"),
        ("zone in {'a',}", 14, "expected a value in quotes"),
        ("zone in {'a' 'b'}", 14, "expected }"),
        ("zone not 'a'", 10, "expected in"),
        ("zone starts 'a'", 13, "expected with"),
        ("a == 'b' & c == 'd'", 10, "not understood"),
        ("(" * 100 + "all()" + ")" * 100, 66, "nested deeper than 64"),
        ("!" * 100_000, 8192, "longer than 8192"),
    ],
)
def test_errors_show_the_position(text: str, position: int, said: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert caught.value.position == position
    assert f"at character {position}: " in str(caught.value)


@given(st.text(alphabet="ab()!&|={}'\", hasinotcwe", max_size=40))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    position = 1
    try:
        assert selects(text, LABELS) in (True, False)
    except SelectorError as error:
        position = error.position
    assert 1 <= position <= len(text) + 1
