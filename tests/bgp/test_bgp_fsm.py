"""The state table: total, and it keeps the promises that hold for every row."""

from __future__ import annotations

from pathlib import Path

import pytest

from samepath.bgp.fsm import TABLE, Action, Event, State, Step, picture

CONNECTED = (State.OPEN_SENT, State.OPEN_CONFIRM, State.ESTABLISHED)
STARTS = (
    Event.MANUAL_START,
    Event.AUTOMATIC_START,
    Event.MANUAL_START_PASSIVE,
    Event.AUTOMATIC_START_PASSIVE,
)

PAIRS = [(state, event) for state in State for event in Event]


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda v: v.name.lower())
def test_every_pair_has_a_step(state: State, event: Event) -> None:
    step = TABLE[state, event]
    assert isinstance(step, Step)
    leaves = state in CONNECTED and step.state not in CONNECTED
    # A TCP connection is closed, and the owner told, exactly when it is given up.
    assert (Action.DOWN in step.actions) == (leaves or _gives_up(state, event))
    if leaves:
        assert Action.CLOSE in step.actions
        assert Action.STOP_TIMERS in step.actions
    if step.state is State.ESTABLISHED and state is not State.ESTABLISHED:
        assert Action.UP in step.actions
    if event in STARTS and state is not State.IDLE:
        assert step == Step(state, ())


def _gives_up(state: State, event: Event) -> bool:
    if state not in (State.CONNECT, State.ACTIVE):
        return False
    goes_on = (Event.CONNECT_RETRY_EXPIRES, Event.TCP_CONNECTED)
    return event not in (*STARTS, *goes_on)


def test_nothing_else_is_in_the_table() -> None:
    assert len(TABLE) == len(State) * len(Event)


def test_a_notification_is_never_answered() -> None:
    for state in State:
        assert Action.SEND_NOTIFICATION not in TABLE[state, Event.NOTIFICATION].actions


def test_a_notification_goes_out_before_the_connection_closes() -> None:
    for step in TABLE.values():
        if Action.SEND_NOTIFICATION in step.actions:
            order = step.actions
            assert order.index(Action.SEND_NOTIFICATION) < order.index(Action.CLOSE)


@pytest.mark.parametrize("state", CONNECTED)
@pytest.mark.parametrize("event", [Event.HEADER_ERROR, Event.OPEN_ERROR, Event.UPDATE_ERROR])
def test_errors_are_answered(state: State, event: Event) -> None:
    step = TABLE[state, event]
    assert step.state is State.IDLE
    assert step.actions[0] is Action.SEND_NOTIFICATION


def test_the_way_up() -> None:
    state = State.IDLE
    for event in (Event.MANUAL_START, Event.TCP_CONNECTED, Event.OPEN, Event.KEEPALIVE):
        state = TABLE[state, event].state
    assert state is State.ESTABLISHED


def test_a_dumped_connection_stays_down() -> None:
    for state in State:
        step = TABLE[state, Event.OPEN_COLLISION]
        assert step.state is State.IDLE
        assert Action.START_IDLE_HOLD not in step.actions


def test_the_picture_in_the_documentation_is_that_of_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "bgp.md"
    assert picture() in page.read_text()
