"""Messages of a neighbour, counted by type in both directions.

One `MessageCounts` is shared by all connections of a neighbour; `samepath.bgp.session` counts in
it, `samepath.bgp.peer` shows it.

RFC 4271 §4.1, RFC 2918 §3 (types).
"""

from __future__ import annotations

from collections.abc import Iterable

NAMES = ("unknown", "open", "update", "notification", "keepalive", "route_refresh")
"""By type number."""

_HEADER_OCTETS = 19


class MessageCounts:
    """Since the neighbour is configured."""

    __slots__ = ("_received", "_sent")

    def __init__(self) -> None:
        self._received = [0] * len(NAMES)
        self._sent = [0] * len(NAMES)

    def note_received(self, messages: Iterable[tuple[int, bytes]]) -> None:
        """Type and body, of types that exist."""
        received = self._received
        for kind, _ in messages:
            received[kind] += 1

    def note_sent(self, data: bytes) -> None:
        """Whole messages, one after the other."""
        at = 0
        while at + _HEADER_OCTETS <= len(data):
            self._sent[data[at + 18]] += 1
            at += data[at + 16] << 8 | data[at + 17]

    @property
    def received(self) -> dict[str, int]:
        return dict(zip(NAMES[1:], self._received[1:], strict=True))

    @property
    def sent(self) -> dict[str, int]:
        return dict(zip(NAMES[1:], self._sent[1:], strict=True))
