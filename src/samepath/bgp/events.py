"""What a session tells its owner, and why a connection ends.

Made by `samepath.bgp.session`, one at a time; acted upon by `samepath.bgp.transport`.

RFC 4271 §8, RFC 2918, RFC 4724, RFC 7313, RFC 8538.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from samepath.bgp import message
from samepath.bgp.capabilities import GracefulRestart, LongLived
from samepath.model.net import Family


class Reason(enum.Enum):
    """Why a connection went down. `samepath.bgp.stale` says which of them let paths stay."""

    NOTIFICATION_SENT = "we refused it"
    NOTIFICATION_RECEIVED = "the peer refused it"
    HOLD_EXPIRED = "hold timer expired"
    TCP_CLOSED = "TCP connection closed"
    ADMIN = "shut down by us"
    BFD_DOWN = "the path to it is lost"
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
    """The peer's, if we offered it, too; its N flag only if we set ours (RFC 8538 §2)."""
    long_lived: tuple[LongLived, ...] = ()
    """The peer's, if we offered it, too, and graceful restart stands. RFC 9494 §3."""


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
    hard_reset: bool = False
    """One of the two sides meant it: no graceful restart, whatever was agreed on. RFC 8538."""


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
