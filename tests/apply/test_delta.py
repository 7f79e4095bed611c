from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.apply.delta import Delta, diff

_tables = st.dictionaries(st.integers(0, 9), st.integers(0, 2))


def test_each_kind_of_difference() -> None:
    delta = diff({1: "same", 2: "new value", 3: "new"}, {1: "same", 2: "old value", 4: "old"})
    assert delta == Delta(create={3: "new"}, update={2: "new value"}, delete={4: "old"})
    assert delta
    assert not diff({1: 1}, {1: 1})


@given(_tables, _tables)
def test_the_difference_makes_actual_desired(
    desired: dict[int, int], actual: dict[int, int]
) -> None:
    delta = diff(desired, actual)
    for key in delta.delete:
        del actual[key]
    assert not set(delta.create) & set(actual)
    assert set(delta.update) <= set(actual)
    actual |= delta.create | delta.update
    assert actual == desired
