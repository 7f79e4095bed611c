"""Errors of a BGP peer, by their numbers.

The codec raises `PeerError` for whatever the standards answer with a NOTIFICATION; the session
sends it and closes. Milder faults of an UPDATE (RFC 7606) are no exceptions but values: a `Problem`
says what was wrong and what was done about it.

Standards: RFC 4271 §4.5 and §6 (codes), RFC 4486 (Cease), RFC 6608 (FSM), RFC 7313 (ROUTE-REFRESH),
RFC 7606 (UPDATE), RFC 8538 (hard reset), RFC 9003 (shutdown communication), RFC 9384 (BFD).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Code(IntEnum):
    """Error code of a NOTIFICATION. RFC 4271 §4.5, RFC 7313 §5."""

    MESSAGE_HEADER = 1
    OPEN_MESSAGE = 2
    UPDATE_MESSAGE = 3
    HOLD_TIMER_EXPIRED = 4
    FINITE_STATE_MACHINE = 5
    CEASE = 6
    ROUTE_REFRESH_MESSAGE = 7


UNSPECIFIC = 0
"""The subcode of every code where no other one fits. RFC 4271 §4.5."""


class HeaderError(IntEnum):
    """RFC 4271 §6.1."""

    CONNECTION_NOT_SYNCHRONIZED = 1
    BAD_MESSAGE_LENGTH = 2
    BAD_MESSAGE_TYPE = 3


class OpenError(IntEnum):
    """RFC 4271 §6.2, RFC 5492 §5."""

    UNSUPPORTED_VERSION_NUMBER = 1
    BAD_PEER_AS = 2
    BAD_BGP_IDENTIFIER = 3
    UNSUPPORTED_OPTIONAL_PARAMETER = 4
    UNACCEPTABLE_HOLD_TIME = 6
    UNSUPPORTED_CAPABILITY = 7


class UpdateError(IntEnum):
    """RFC 4271 §6.3."""

    MALFORMED_ATTRIBUTE_LIST = 1
    UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE = 2
    MISSING_WELL_KNOWN_ATTRIBUTE = 3
    ATTRIBUTE_FLAGS_ERROR = 4
    ATTRIBUTE_LENGTH_ERROR = 5
    INVALID_ORIGIN_ATTRIBUTE = 6
    INVALID_NEXT_HOP_ATTRIBUTE = 8
    OPTIONAL_ATTRIBUTE_ERROR = 9
    INVALID_NETWORK_FIELD = 10
    MALFORMED_AS_PATH = 11


class FsmError(IntEnum):
    """RFC 6608 §3."""

    UNEXPECTED_IN_OPEN_SENT = 1
    UNEXPECTED_IN_OPEN_CONFIRM = 2
    UNEXPECTED_IN_ESTABLISHED = 3


class Cease(IntEnum):
    """RFC 4486 §3, RFC 8538 §3.1, RFC 9384 §3."""

    MAXIMUM_NUMBER_OF_PREFIXES_REACHED = 1
    ADMINISTRATIVE_SHUTDOWN = 2
    PEER_DE_CONFIGURED = 3
    ADMINISTRATIVE_RESET = 4
    CONNECTION_REJECTED = 5
    OTHER_CONFIGURATION_CHANGE = 6
    CONNECTION_COLLISION_RESOLUTION = 7
    OUT_OF_RESOURCES = 8
    HARD_RESET = 9
    BFD_DOWN = 10


class RouteRefreshError(IntEnum):
    """RFC 7313 §5."""

    INVALID_MESSAGE_LENGTH = 1


SUBCODES: dict[int, type[IntEnum]] = {
    Code.MESSAGE_HEADER: HeaderError,
    Code.OPEN_MESSAGE: OpenError,
    Code.UPDATE_MESSAGE: UpdateError,
    Code.FINITE_STATE_MACHINE: FsmError,
    Code.CEASE: Cease,
    Code.ROUTE_REFRESH_MESSAGE: RouteRefreshError,
}

SHUTDOWN_OCTETS = 255
"""Longest shutdown communication. RFC 9003 §2 (128 in RFC 8203)."""


class PeerError(Exception):
    """The peer broke the protocol: send this NOTIFICATION and close the connection.

    `data` is what the standards put into the NOTIFICATION, `message` is for people.
    """

    def __init__(self, code: int, subcode: int, data: bytes = b"", message: str = "") -> None:
        self.code = code
        self.subcode = subcode
        self.data = data
        self.message = message or code_text(code, subcode)
        super().__init__(code, subcode, data, self.message)

    def __str__(self) -> str:
        return self.message


class Action(Enum):
    """What was done about a fault that does not cost the session. RFC 7606 §2."""

    TREAT_AS_WITHDRAW = "treated as withdrawn"
    ATTRIBUTE_DISCARD = "attribute discarded"
    IGNORED = "ignored"
    """Prefixes of a family that was not negotiated. RFC 4760 §8."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of an UPDATE that does not cost the session. RFC 7606 §2."""

    action: Action
    subcode: UpdateError
    """What a NOTIFICATION would have said."""
    attribute: int | None
    """Type code; None where it is about no single attribute."""
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.action.value}"


def code_text(code: int, subcode: int) -> str:
    """`Cease: administrative shutdown`, or the numbers where we have no name."""
    try:
        name = Code(code).name.replace("_", " ").capitalize()
    except ValueError:
        return f"error {code}/{subcode}"
    subcodes = SUBCODES.get(code)
    if subcodes is None or subcode == UNSPECIFIC:
        return name if subcode == UNSPECIFIC else f"{name}: {subcode}"
    try:
        return f"{name}: {subcodes(subcode).name.replace('_', ' ').lower()}"
    except ValueError:
        return f"{name}: {subcode}"


HARD = frozenset(
    (
        Cease.MAXIMUM_NUMBER_OF_PREFIXES_REACHED,
        Cease.ADMINISTRATIVE_SHUTDOWN,
        Cease.PEER_DE_CONFIGURED,
        Cease.HARD_RESET,
        Cease.BFD_DOWN,
    )
)
"""Ends that are meant: no graceful restart follows, where others would lead to one. RFC 8538 §4."""


def hard_reset(error: PeerError) -> PeerError:
    """`error` within a Cease that forbids graceful restart. RFC 8538 §3."""
    data = bytes((error.code, error.subcode)) + error.data
    return PeerError(Code.CEASE, Cease.HARD_RESET, data, error.message)


def shutdown(text: str = "") -> PeerError:
    """Our operator ends the session, with a reason for those of the other side. RFC 9003."""
    data = shutdown_data(text) if text else b""
    return PeerError(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN, data)


def shutdown_data(text: str) -> bytes:
    """Data of a Cease with a reason for the operators of the other side. RFC 9003 §2.

    Text that is too long is cut between characters.
    """
    octets = text.encode("utf-8", "replace")[:SHUTDOWN_OCTETS]
    octets = octets.decode("utf-8", "ignore").encode("utf-8")
    return bytes((len(octets),)) + octets


def shutdown_text(data: bytes) -> str:
    """The reason in the data of a Cease; empty where there is none or its length is wrong."""
    if not data or len(data) < 1 + data[0]:
        return ""
    return data[1 : 1 + data[0]].decode("utf-8", "replace")


def printable(text: str) -> str:
    """A text of others as logs and terminals can bear it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
