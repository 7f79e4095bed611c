"""The state table: total, and as RFC 5880 §6.8.6 has it in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from samepath.bfd.fsm import RECEIVED, TABLE, Event, State, picture

PAIRS = [(state, event) for state in State for event in Event]


def by_the_standard(state: State, event: Event) -> State:
    """Written from the standard's text, not from the table."""
    if event is Event.DISABLE:
        return State.ADMIN_DOWN
    if event is Event.ENABLE:
        return State.DOWN if state is State.ADMIN_DOWN else state
    if state is State.ADMIN_DOWN:
        return state  # packets are discarded, and no time runs
    if event in (Event.DETECTION_EXPIRED, Event.RECEIVED_ADMIN_DOWN):
        return State.DOWN
    if state is State.DOWN:
        begun = {Event.RECEIVED_DOWN: State.INIT, Event.RECEIVED_INIT: State.UP}
        return begun.get(event, State.DOWN)
    if state is State.INIT:
        return State.UP if event in (Event.RECEIVED_INIT, Event.RECEIVED_UP) else State.INIT
    return State.DOWN if event is Event.RECEIVED_DOWN else State.UP


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda v: v.name.lower())
def test_every_pair_is_in_the_table(state: State, event: Event) -> None:
    assert TABLE[state, event] is by_the_standard(state, event)


def test_nothing_else_is_in_the_table() -> None:
    assert TABLE.keys() == set(PAIRS)
    assert RECEIVED.keys() == set(State)


def test_the_picture_in_the_documentation_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "bfd.md"
    assert picture() in page.read_text()
