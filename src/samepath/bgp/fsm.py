"""The state machine of a BGP connection, as one total table.

`TABLE[state, event]` says what comes next and what is to be done; `samepath.bgp.session` does it.
Every pair is in the table (a test walks them), so there is no event that a state does not know.
The picture in docs/bgp.md is drawn from it (`python -m samepath.bgp.fsm`).

Differences from RFC 4271 §8, all of them named:
- No DelayOpen (events 12 and 20). The IdleHoldTimer (event 13) ends in AUTOMATIC_START.
- Events 16 and 17 are one: a TCP connection is there, whoever opened it.
- Events 24 and 25 are one: a NOTIFICATION is never answered with another.
- A connection of its own is made for each incoming TCP connection (RFC 4271 §8.2.1 allows it), so
  a second TCP connection is never an event of the first one; collisions (§6.8) are found by the
  owner of both, who dumps one of them with OPEN_COLLISION. That one then stays IDLE until its
  owner starts it again, or it would collide once more.
- ROUTE_REFRESH (RFC 2918) is treated as UPDATE is; its errors (RFC 7313 §5) as UPDATE_ERROR.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class State(Enum):
    """RFC 4271 §8.2.2."""

    IDLE = "idle"
    CONNECT = "connect"
    ACTIVE = "active"
    OPEN_SENT = "open sent"
    OPEN_CONFIRM = "open confirm"
    ESTABLISHED = "established"

    __hash__ = object.__hash__


class Event(Enum):
    """RFC 4271 §8.1; the value is the event's number there, the first where we join two."""

    MANUAL_START = 1
    MANUAL_STOP = 2
    AUTOMATIC_START = 3
    MANUAL_START_PASSIVE = 4
    AUTOMATIC_START_PASSIVE = 5
    AUTOMATIC_STOP = 8
    CONNECT_RETRY_EXPIRES = 9
    HOLD_EXPIRES = 10
    KEEPALIVE_EXPIRES = 11
    TCP_CONNECTED = 16
    TCP_FAILS = 18
    OPEN = 19
    HEADER_ERROR = 21
    OPEN_ERROR = 22
    OPEN_COLLISION = 23
    NOTIFICATION = 24
    KEEPALIVE = 26
    UPDATE = 27
    UPDATE_ERROR = 28
    ROUTE_REFRESH = 2918

    __hash__ = object.__hash__


class Action(Enum):
    """What the session does, in the order of the table."""

    CONNECT = "open a TCP connection"
    CLOSE = "close the TCP connection"
    SEND_OPEN = "send OPEN"
    SEND_KEEPALIVE = "send KEEPALIVE"
    SEND_NOTIFICATION = "send NOTIFICATION"
    START_CONNECT_RETRY = "start the ConnectRetryTimer"
    STOP_TIMERS = "stop all timers"
    START_OPEN_HOLD = "start the HoldTimer with its large value"
    START_HOLD = "start the HoldTimer with the negotiated value"
    START_KEEPALIVE = "start the KeepaliveTimer"
    START_IDLE_HOLD = "start the IdleHoldTimer"
    NEGOTIATE = "take over what the OPEN says"
    UP = "tell the owner: established"
    DELIVER = "hand the message to the owner"
    DOWN = "tell the owner: down"


class Step(NamedTuple):
    state: State
    actions: tuple[Action, ...]


_A = Action
_E = Event
_S = State

_STOPPED = (_A.STOP_TIMERS, _A.CLOSE, _A.DOWN)
"""To IDLE, to stay there."""
_DROPPED = (*_STOPPED, _A.START_IDLE_HOLD)
"""To IDLE, to try again."""
_REFUSED = (_A.SEND_NOTIFICATION, *_DROPPED)
"""The same, after saying why."""
_DUMPED = (_A.SEND_NOTIFICATION, *_STOPPED)
"""To IDLE, to stay there, after saying why."""

_STARTS = (
    _E.MANUAL_START,
    _E.AUTOMATIC_START,
    _E.MANUAL_START_PASSIVE,
    _E.AUTOMATIC_START_PASSIVE,
)


def _idle() -> dict[Event, Step]:
    """Refuses connections; everything but a start is ignored."""
    rows = dict.fromkeys(Event, Step(_S.IDLE, ()))
    active = Step(_S.CONNECT, (_A.START_CONNECT_RETRY, _A.CONNECT))
    passive = Step(_S.ACTIVE, ())
    rows[_E.MANUAL_START] = rows[_E.AUTOMATIC_START] = active
    rows[_E.MANUAL_START_PASSIVE] = rows[_E.AUTOMATIC_START_PASSIVE] = passive
    rows[_E.MANUAL_STOP] = rows[_E.OPEN_COLLISION] = Step(_S.IDLE, (_A.STOP_TIMERS,))
    return rows


def _others(state: State, default: Step) -> dict[Event, Step]:
    """Starts are ignored outside IDLE; a stop leads there; all others as `default`."""
    rows = dict.fromkeys(Event, default)
    rows.update(dict.fromkeys(_STARTS, Step(state, ())))
    return rows


def _unconnected(state: State) -> dict[Event, Step]:
    """CONNECT: TCP is under way. ACTIVE: the same, but for the wait."""
    rows = _others(state, Step(_S.IDLE, _DROPPED))
    rows[_E.MANUAL_STOP] = rows[_E.OPEN_COLLISION] = Step(_S.IDLE, _STOPPED)
    retry = (_A.CLOSE, _A.START_CONNECT_RETRY, _A.CONNECT)
    rows[_E.CONNECT_RETRY_EXPIRES] = Step(_S.CONNECT, retry)
    opened = (_A.STOP_TIMERS, _A.SEND_OPEN, _A.START_OPEN_HOLD)
    rows[_E.TCP_CONNECTED] = Step(_S.OPEN_SENT, opened)
    return rows


def _connected(state: State) -> dict[Event, Step]:
    """What the three states with a TCP connection have in common."""
    rows = _others(state, Step(_S.IDLE, _REFUSED))  # FSM error, RFC 6608
    rows[_E.MANUAL_STOP] = rows[_E.OPEN_COLLISION] = Step(_S.IDLE, _DUMPED)
    rows[_E.TCP_FAILS] = rows[_E.NOTIFICATION] = Step(_S.IDLE, _DROPPED)
    return rows


def _open_sent() -> dict[Event, Step]:
    rows = _connected(_S.OPEN_SENT)
    waiting = (_A.STOP_TIMERS, _A.CLOSE, _A.DOWN, _A.START_CONNECT_RETRY)
    rows[_E.TCP_FAILS] = Step(_S.ACTIVE, waiting)
    agreed = (_A.NEGOTIATE, _A.SEND_KEEPALIVE, _A.START_HOLD, _A.START_KEEPALIVE)
    rows[_E.OPEN] = Step(_S.OPEN_CONFIRM, agreed)
    return rows


def _open_confirm() -> dict[Event, Step]:
    rows = _connected(_S.OPEN_CONFIRM)
    rows[_E.KEEPALIVE_EXPIRES] = Step(_S.OPEN_CONFIRM, (_A.SEND_KEEPALIVE, _A.START_KEEPALIVE))
    rows[_E.KEEPALIVE] = Step(_S.ESTABLISHED, (_A.START_HOLD, _A.UP))
    return rows


def _established() -> dict[Event, Step]:
    rows = _connected(_S.ESTABLISHED)
    rows[_E.KEEPALIVE_EXPIRES] = Step(_S.ESTABLISHED, (_A.SEND_KEEPALIVE, _A.START_KEEPALIVE))
    rows[_E.KEEPALIVE] = Step(_S.ESTABLISHED, (_A.START_HOLD,))
    delivered = Step(_S.ESTABLISHED, (_A.START_HOLD, _A.DELIVER))
    rows[_E.UPDATE] = rows[_E.ROUTE_REFRESH] = delivered
    return rows


def _table() -> dict[tuple[State, Event], Step]:
    states = {
        _S.IDLE: _idle(),
        _S.CONNECT: _unconnected(_S.CONNECT),
        _S.ACTIVE: _unconnected(_S.ACTIVE),
        _S.OPEN_SENT: _open_sent(),
        _S.OPEN_CONFIRM: _open_confirm(),
        _S.ESTABLISHED: _established(),
    }
    return {(state, event): step for state, rows in states.items() for event, step in rows.items()}


TABLE = _table()


def picture() -> str:
    """The table as a Markdown table: for each state, what leads where."""
    lines = ["| state | event | next | actions |", "|---|---|---|---|"]
    for state in State:
        by_step: dict[Step, list[Event]] = {}
        for event in Event:
            by_step.setdefault(TABLE[state, event], []).append(event)
        for step, events in by_step.items():
            if step != Step(state, ()):
                lines.append(_line(state, events, step))
    return "\n".join(lines)


def _line(state: State, events: Iterable[Event], step: Step) -> str:
    names = ", ".join(event.name.lower() for event in events)
    actions = "; ".join(action.value for action in step.actions)
    return f"| {state.value} | {names} | {step.state.value} | {actions} |"


if __name__ == "__main__":
    print(picture())
