"""What can be seen of a neighbour: plain data, made by `Peer.status`, for `samepath status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from samepath.bgp.fsm import State
from samepath.bgp.policy import Reason
from samepath.model.net import Address, Family


@dataclass(frozen=True, slots=True)
class FamilyStatus:
    accepted: int
    stale: int
    refused: int
    """Since the session came up."""
    advertised: int
    end_of_rib_received: bool
    end_of_rib_sent: bool

    @property
    def received(self) -> int:
        return self.accepted + self.refused


@dataclass(frozen=True, slots=True)
class PeerStatus:
    neighbor: str
    """Name of the neighbour in the configuration: its address or range."""
    address: Address
    remote_as: int | str
    """Its number; before its first OPEN maybe `external` or `internal`."""
    router_id: int | None
    state: State
    since_s: float
    """When it came into this state, by the speaker's clock."""
    families: Mapping[Family, FamilyStatus]
    """Those negotiated; while the session is down, those configured."""
    hold_time_s: int | None
    restarting: bool
    """It said that it has just restarted (RFC 4724's R): it may wait for our End-of-RIB."""
    stale_until_s: float | None
    last_error: str
    flaps: int
    """Established sessions lost."""
    lost_for: str = ""
    """Why the last of them was: the errors of later attempts to connect do not hide it."""
    messages_received: Mapping[str, int] = field(default_factory=dict)
    messages_sent: Mapping[str, int] = field(default_factory=dict)
    """By type, since it is configured."""
    malformed: Mapping[str, int] = field(default_factory=dict)
    """Faults of UPDATEs that did not cost the session, by what was done about them (RFC 7606)."""
    agreed: tuple[str, ...] = ()
    """What both sides can do, beyond what everybody does."""
    refused_for: Mapping[Reason, int] = field(default_factory=dict)
    """Prefixes refused since the session came up, by reason."""
    protection: tuple[str, ...] = ()
    """What guards the session: `TCP-MD5`, `GTSM, 1 hop`."""
    hints: tuple[str, ...] = ()
    """What an operator may look at first."""
    local_address: Address | None = None
    """Ours, while the session is established."""

    @property
    def is_established(self) -> bool:
        return self.state is State.ESTABLISHED
