"""The state machine of a BFD session, as one total table.

`TABLE[state, event]` says what comes next; `samepath.bfd.session` does the rest, which is timers.
Every pair is in the table (a test walks them). The picture in docs/bfd.md is drawn from it
(`python -m samepath.bfd.fsm`).

RFC 5880 §6.2, §6.8.4 (the detection time), §6.8.6 (packets), §6.8.16 (administrative control).
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """RFC 5880 §4.1; the value is the wire's."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    __hash__ = object.__hash__


class Event(Enum):
    """What can happen; the text is the reason of a change, as operators read it."""

    RECEIVED_ADMIN_DOWN = "the peer is administratively down"
    RECEIVED_DOWN = "the peer signals that its session is down"
    RECEIVED_INIT = "the peer hears us"
    RECEIVED_UP = "the peer is up"
    DETECTION_EXPIRED = "nothing was heard for the detection time"
    DISABLE = "administratively down"
    ENABLE = "no longer administratively down"

    __hash__ = object.__hash__


RECEIVED = {
    State.ADMIN_DOWN: Event.RECEIVED_ADMIN_DOWN,
    State.DOWN: Event.RECEIVED_DOWN,
    State.INIT: Event.RECEIVED_INIT,
    State.UP: Event.RECEIVED_UP,
}
"""By the state that a packet carries."""

_E = Event
_S = State

_CHANGES = {
    (_S.ADMIN_DOWN, _E.ENABLE): _S.DOWN,
    (_S.DOWN, _E.RECEIVED_DOWN): _S.INIT,
    (_S.DOWN, _E.RECEIVED_INIT): _S.UP,
    (_S.INIT, _E.RECEIVED_INIT): _S.UP,
    (_S.INIT, _E.RECEIVED_UP): _S.UP,
    (_S.INIT, _E.RECEIVED_ADMIN_DOWN): _S.DOWN,
    (_S.INIT, _E.DETECTION_EXPIRED): _S.DOWN,
    (_S.UP, _E.RECEIVED_ADMIN_DOWN): _S.DOWN,
    (_S.UP, _E.RECEIVED_DOWN): _S.DOWN,
    (_S.UP, _E.DETECTION_EXPIRED): _S.DOWN,
    (_S.DOWN, _E.DISABLE): _S.ADMIN_DOWN,
    (_S.INIT, _E.DISABLE): _S.ADMIN_DOWN,
    (_S.UP, _E.DISABLE): _S.ADMIN_DOWN,
}

TABLE = {(state, event): _CHANGES.get((state, event), state) for state in State for event in Event}


def picture() -> str:
    """The table as a Markdown table: for each state, what leads where; the rest stays."""
    lines = ["| state | event | next |", "|---|---|---|"]
    for state in State:
        for following in State:
            if following is state:
                continue
            events = [e.name.lower() for e in Event if TABLE[state, e] is following]
            if events:
                lines.append(f"| {_name(state)} | {', '.join(events)} | {_name(following)} |")
    return "\n".join(lines)


def _name(state: State) -> str:
    return state.name.lower().replace("_", " ")


if __name__ == "__main__":
    print(picture())
