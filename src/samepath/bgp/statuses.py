"""The speaker's neighbours as somebody sees them who asks: each one's status, with all hints.

A program asks in every pass, of a thousand neighbours maybe, of which a handful have done anything
since. So a status is kept until the speaker works for its neighbour again (`outdated`), or the RIB
or the kernel counts otherwise. The speaker says when; nothing here looks at sockets or clocks.

RFC 4271 §8.1.1 names some of what is shown, RFC 4273 more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from samepath.bgp.hints import with_hints
from samepath.bgp.peer import Peer, PeerStatus
from samepath.bgp.prefix_limits import PrefixLimits
from samepath.bgp.rib import Rib, Tally
from samepath.bgp.tcp_md5 import Dropped
from samepath.model.net import Family


class Statuses:
    def __init__(self, rib: Rib, limits: PrefixLimits) -> None:
        self._rib = rib
        self._limits = limits
        self._kept: dict[Peer, tuple[Tally, PeerStatus]] = {}
        """With what the RIB counted: another peer's routes may change that."""
        self._common: tuple[int, Dropped] | None = None
        """What all that is kept was made with: our AS, what the kernel has dropped."""

    def outdated(self, peer: Peer) -> None:
        """Something of this neighbour may be otherwise from now on."""
        self._kept.pop(peer, None)

    def of(
        self, peers: Iterable[Peer], *, local_as: int, drops: Dropped, now: float
    ) -> tuple[PeerStatus, ...]:
        """`drops`: since the speaker started."""
        if self._common != (local_as, drops):
            self._common = local_as, drops
            self._kept.clear()
        return tuple(self._of(peer, local_as, drops, now) for peer in peers)

    def _of(self, peer: Peer, local_as: int, drops: Dropped, now: float) -> PeerStatus:
        tally = self._rib.tally(peer.address)
        kept = self._kept.get(peer)
        if kept is not None and kept[0] == tally:
            return kept[1]
        waits = self._limits.waits_until(peer.address, now)
        status = replace(peer.status(), refused_for=self._rib.refused_for(peer.address))
        more = self._of_limits(peer, waits, now)
        status = with_hints(status, peer.neighbor, local_as, more, drops)
        if waits is None:  # else it says for how long
            self._kept[peer] = tally, status
        return status

    def _of_limits(self, peer: Peer, waits: float | None, now: float) -> list[str]:
        words, limits = [], peer.neighbor.import_
        if waits is not None:
            words.append(f"beyond max_prefixes: tried again in {waits - now:.0f} s")
        near = [f.label for f in Family if self._limits.is_near(peer.address, f)]
        if near:
            share = f"{limits.warn_percent} % of max_prefixes, which is {limits.max_prefixes}"
            words.append(f"{' and '.join(near)}: over {share}")
        return words
