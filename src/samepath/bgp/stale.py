"""What stays of a neighbour's paths when its session ends, and for how long.

`samepath.bgp.peer` tells of losses and returns; here it is decided what the RIB keeps, and here are
the timers. The paths stand where they are, in the RIB; this knows only families and times.

| the session ended by | its paths |
|---|---|
| TCP closed or reset, and it announced graceful restart | stay, stale, for its restart time |
| hold timer, NOTIFICATION that is no hard reset: if agreed on (RFC 8538) | the same |
| all else: no graceful restart, our operator, BFD down, hard reset | go at once |

Then, by family: when the restart time is over the paths go, or, where both sides agreed on it,
stay as the last choice for the long-lived stale time (RFC 9494). When the neighbour is back and has
kept its forwarding state they stay until its End-of-RIB, or `graceful_restart_stale_s`. That is an
upper bound of the restart time as well, which is the neighbour's word.

A second loss removes what has been stale since the first one (RFC 4724 §4.2), also in the
long-lived phase, so that no neighbour keeps a path for ever by coming and going.

RFC 4724 §4.2; RFC 8538 §4; RFC 9494 §4.2.
"""

from __future__ import annotations

from samepath.bgp.events import Down, Negotiated, Reason
from samepath.bgp.policy import PeerKey
from samepath.bgp.rib import Rib
from samepath.model.neighbor import Neighbor
from samepath.model.net import Family

_AFTER_NOTIFICATION = (
    Reason.HOLD_EXPIRED,
    Reason.NOTIFICATION_SENT,
    Reason.NOTIFICATION_RECEIVED,
)


def kept_after(down: Down, negotiated: Negotiated) -> frozenset[Family]:
    """The families whose paths stay."""
    restart = negotiated.graceful_restart
    if restart is None:
        return frozenset()
    with_notification = restart.notification and down.reason in _AFTER_NOTIFICATION
    if down.reason is not Reason.TCP_CLOSED and not with_notification:
        return frozenset()
    if down.hard_reset:
        return frozenset()
    families = {f for f, _ in restart.families} if restart.restart_time_s else set()
    families |= {said.family for said in negotiated.long_lived if said.stale_time_s}
    return frozenset(families & set(negotiated.families))


class Stale:
    """Of one neighbour."""

    def __init__(self, rib: Rib, peer: PeerKey) -> None:
        self._rib = rib
        self._peer = peer
        self._until: dict[Family, float] = {}
        """When what is stale goes, or becomes the last choice."""
        self._then_long: dict[Family, float] = {}
        """Families that wait for their restart time: how many seconds follow."""
        self._long: set[Family] = set()

    @property
    def until(self) -> float | None:
        """The next of its timers; None: nothing is stale."""
        return min(self._until.values(), default=None)

    def lost(self, down: Down, negotiated: Negotiated, terms: Neighbor, now: float) -> None:
        """The session is gone."""
        keep = kept_after(down, negotiated)
        self._rib.peer_down(self._peer, keep)
        self._forget_timers()
        restart = negotiated.graceful_restart
        restart_s = min(restart.restart_time_s if restart else 0, terms.graceful_restart_stale_s)
        for family in keep:
            self._until[family] = now + restart_s
        for said in negotiated.long_lived:
            if said.family in keep and said.stale_time_s and terms.long_lived_stale_s:
                self._then_long[said.family] = min(said.stale_time_s, terms.long_lived_stale_s)
        self.settle()
        self.handle_timer(now)

    def kept_by(self, negotiated: Negotiated) -> frozenset[Family]:
        """Families of which a neighbour that is back says that it has kept its forwarding state."""
        restart = negotiated.graceful_restart
        short = {f for f, forwards in restart.families if forwards} if restart else set()
        long = {said.family for said in negotiated.long_lived if said.forwarding_preserved}
        kept = {f for f in negotiated.families if f in (long if f in self._long else short)}
        return frozenset(kept)

    def returned(self, terms: Neighbor, now: float) -> None:
        """A session stands, and the RIB has dropped what was not kept."""
        self._then_long.clear()
        self._long.clear()
        for family in self._until:
            self._until[family] = now + terms.graceful_restart_stale_s
        self.settle()

    def refreshing(self, family: Family, terms: Neighbor, now: float) -> None:
        """All of a family is stale until the peer has told it again. RFC 7313 §4."""
        self._until[family] = now + terms.graceful_restart_stale_s

    def settle(self) -> None:
        """No more waiting where nothing is stale."""
        for family in list(self._until):
            if not self._rib.counts(self._peer, family).stale:
                del self._until[family]
                self._then_long.pop(family, None)
                self._long.discard(family)

    def handle_timer(self, now: float) -> None:
        for family, until in list(self._until.items()):
            if until > now:
                continue
            long_s = self._then_long.pop(family, None)
            if long_s is None:
                self._rib.end_of_rib(self._peer, family)
            else:
                self._rib.keep_long(self._peer, family)
                self._long.add(family)
                self._until[family] = now + long_s
        self.settle()

    def drop(self) -> None:
        """Nothing of it stays: its forwarding is known to be lost."""
        self._rib.drop_stale(self._peer)
        self._forget_timers()

    def _forget_timers(self) -> None:
        self._until.clear()
        self._then_long.clear()
        self._long.clear()
