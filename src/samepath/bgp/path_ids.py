"""Path identifiers that we give to the paths that one session tells.

A path keeps its identifier for as long as it is told, whatever becomes of the others: where it
comes from (the peer, and that peer's own identifier) decides, not its place among them. Asked by
`samepath.bgp.adjout`.

RFC 7911 §3.
"""

from __future__ import annotations

from collections.abc import Container

from samepath.bgp.nlri import PATH_ID_OCTETS
from samepath.bgp.policy import PeerKey

KEPT = 16_384
"""Sources whose identifiers are remembered before those without a use are forgotten."""

_MOST = 0xFFFFFFFF

Source = tuple[PeerKey | None, int]


class PathIds:
    def __init__(self) -> None:
        self._known: dict[Source, bytes] = {}
        self._taken: set[bytes] = set()
        self._last = 0

    def of(self, source: Source) -> bytes:
        """The identifier, as the wire has it."""
        known = self._known.get(source)
        if known is None:
            known = self._known[source] = self._next()
            self._taken.add(known)
        return known

    def _next(self) -> bytes:
        while True:
            self._last = self._last % _MOST + 1
            octets = self._last.to_bytes(PATH_ID_OCTETS, "big")
            if octets not in self._taken:
                return octets

    @property
    def are_many(self) -> bool:
        """Time to call `forget_unused`."""
        return len(self._known) > KEPT

    def forget_unused(self, used: Container[bytes]) -> None:
        self._known = {source: i for source, i in self._known.items() if i in used}
        self._taken = set(self._known.values())
