"""What a session tells its owner, and why a connection ends.

Made by `samepath.bgp.session`, one at a time; acted upon by `samepath.bgp.transport`.

RFC 4271 §8, RFC 2918, RFC 4724, RFC 7313.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from samepath.bgp import message
from samepath.bgp.capabilities import GracefulRestart
from samepath.model.net import Family


class Reason(enum.Enum):
    """Why a connection went down. Only TCP_CLOSED lets paths stay (RFC 4724 §4.2)."""

    NOTIFICATION_SENT = "we refused it"
    NOTIFICATION_RECEIVED = "the peer refused it"
    HOLD_EXPIRED = "hold timer expired"
    TCP_CLOSED = "TCP connection closed"
    ADMIN = "shut down by us"
    BFD_DOWN = "BFD is down"
    COLLISION = "another connection to the same peer was kept"


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """Open a TCP connection; drop an attempt that is still under way."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """Write what is left to send, then close the TCP connection."""


@dataclass(frozen=True, slots=True)
class OpenReceived:
    """A valid OPEN: time to look for a collision (RFC 4271 §6.8)."""

    open: message.Open


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides can do."""

    open: message.Open
    """The peer's."""
    context: message.Context
    """For messages in both directions."""
    families: tuple[Family, ...]
    hold_time_s: int
    route_refresh: bool
    enhanced_route_refresh: bool
    graceful_restart: GracefulRestart | None
    """The peer's, if we offered it, too."""


@dataclass(frozen=True, slots=True)
class Established:
    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    update: message.Update


@dataclass(frozen=True, slots=True)
class EndOfRib:
    family: Family


@dataclass(frozen=True, slots=True)
class RefreshRequested:
    """RFC 2918, or RFC 7313's marks of begin and end."""

    family: Family
    kind: message.RefreshKind


@dataclass(frozen=True, slots=True)
class Down:
    reason: Reason
    text: str
    established: bool
    """Whether the session had been established before."""


Event = (
    ConnectRequested
    | CloseRequested
    | OpenReceived
    | Established
    | UpdateReceived
    | EndOfRib
    | RefreshRequested
    | Down
)
