"""Which connections are taken: before anything is made for them.

Asked by the speaker for each connection that somebody opens. An address that opens connections
faster than a BGP speaker would is turned away for a while; those who have connected and not yet
shown an OPEN are limited in number, and the oldest of them makes room for the newest. What is
turned away is counted by reason, and logged at most once a second.

Without socket and clock.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from samepath.model.net import Address

BURST = 20
"""Connections that one address may open at once,"""
REFILL_S = 0.5
"""and one more each time that so long has passed."""
OPENING_MOST = 512
"""Connections whose sessions are not established, of all neighbours."""
ADDRESSES_KEPT = 4_096
LOG_EVERY_S = 1.0

L = TypeVar("L", bound=Hashable)


class TurnedAway(enum.Enum):
    """Why a connection is not taken, or no longer kept."""

    STRANGER = "no such neighbour"
    NO_PASSWORD = "the neighbour's password_file cannot be used"
    TOO_FAR = "ttl_security: from too far away"
    TOO_OFTEN = f"more than {BURST} connections at once from one address"
    RANGE_FULL = "the range has its max_sessions"
    WAITS = "its session was ended for max_prefixes, and is not yet tried again"
    MADE_ROOM = f"more than {OPENING_MOST} connections that are not established"


class Admission(Generic[L]):
    """`L`: what stands for a connection."""

    def __init__(self) -> None:
        self.counts: Counter[TurnedAway] = Counter()
        self._spent: dict[Address, float] = {}
        """By when an address has its whole burst again."""
        self._opening: dict[L, None] = {}
        self._log_after = 0.0

    def is_too_often(self, address: Address, now: float) -> bool:
        spent = max(self._spent.get(address, 0.0), now) + REFILL_S
        if spent - now > BURST * REFILL_S:
            return True
        if len(self._spent) >= ADDRESSES_KEPT:
            self._spent = {a: until for a, until in self._spent.items() if until > now}
            if len(self._spent) >= ADDRESSES_KEPT:
                self._spent.clear()
        self._spent[address] = spent
        return False

    def is_opening(self, link: L) -> L | None:
        """A connection was taken. The one that has to go for it, if any."""
        self._opening[link] = None
        if len(self._opening) <= OPENING_MOST:
            return None
        return next(iter(self._opening))

    def is_over(self, link: L) -> None:
        """The connection is established, or at its end."""
        self._opening.pop(link, None)

    @property
    def opening(self) -> int:
        return len(self._opening)

    def count(self, why: TurnedAway, now: float) -> bool:
        """Whether to log it."""
        self.counts[why] += 1
        if now < self._log_after:
            return False
        self._log_after = now + LOG_EVERY_S
        return True
