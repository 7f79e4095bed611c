"""What a program and its BFD process say to each other: one JSON object a line, both ways.

From the program:

    {"want": {peer: {...}}, "only": true, "linger_s": 120}   sessions; `only`: and no others
    {"drop": [peer, ...]}                                    sessions that are wanted no more
    {"counters": true}                                       asks for them
    {"end": true}                                            say goodbye to the peers, and end
    {"end": false}                                           end without a word: another follows

From the BFD process: first {"hello": identity, ...}; then {"session": peer, ...} for each session,
and again whenever it has changed; {"in_sync": true} behind the first such round; {"gone": peer};
{"counters": {...}}. What a session has come to is told as it is, not as what has happened, so that
a reader that was slow reads the last line only: `losses` tells it what it has missed.

A peer is named by its address, a link-local one with its link: `fe80::2%eth0`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from samepath.bfd.fsm import State
from samepath.bfd.session import Standing, Terms


@dataclass(frozen=True, slots=True)
class Want:
    """One session that is wanted."""

    terms: Terms = field(default_factory=Terms)
    local: str | None = None
    """Our address; None: whichever the kernel takes."""
    multihop: bool = False


@dataclass(frozen=True, slots=True)
class Carried:
    """What a new process must have of a session, so that its peer does not notice."""

    standing: Standing
    port: int
    """The one that we send from. RFC 5881 §4: it stays the same."""


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen of a session."""

    state: str
    since: float
    """By CLOCK_MONOTONIC, which all processes share."""
    why: str
    """Of the last change."""
    losses: int
    """Times that the path was lost, as this process has seen it."""
    detection_time_s: float
    transmit_interval_s: float
    remote_diagnostic: int
    error: str = ""
    """Why we cannot send."""

    @property
    def is_up(self) -> bool:
        return self.state == State.UP.name


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Raises ValueError for what is not a JSON object."""
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError(f"not an object: {text[:80]!r}")
    return message


def want_message(want: Want, carried: Carried | None) -> dict[str, Any]:
    message = asdict(want)
    if carried is not None:
        message["carried"] = carried_message(carried)
    return message


def read_want(message: dict[str, Any]) -> tuple[Want, Carried | None]:
    carried = message.get("carried")
    want = Want(Terms(**message["terms"]), message["local"], message["multihop"])
    return want, None if carried is None else read_carried(carried)


def carried_message(carried: Carried) -> list[int]:
    standing = carried.standing
    return [
        carried.port,
        *(
            value.value if isinstance(value, State) else int(value)
            for value in (getattr(standing, f.name) for f in fields(standing))
        ),
    ]


def read_carried(message: list[int]) -> Carried:
    port, local, state, remote, remote_state, rx, tx, multiplier, demand, independent = message
    return Carried(
        Standing(
            local, State(state), remote, State(remote_state), rx, tx, multiplier,
            bool(demand), bool(independent),
        ),
        port,
    )  # fmt: skip


def view_message(view: View) -> dict[str, Any]:
    return asdict(view)


def read_view(message: dict[str, Any]) -> View:
    return View(**message)
