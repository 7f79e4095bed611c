"""Selection deferral of a gateway: whom it waits for before it writes, and whether that is over.

Looked at by `programs.gateway` in every pass until in sync; `plan.sync` decides. A gateway that was
cut off from all nodes waits again, as after a start with an empty kernel: a table made of the first
node to return would be one that the other gateways do not have, and the rest of its members could
come to it only by moves. It waits for the very nodes that it had then: `expected_peers` is of the
day when the configuration was written. Cut off it is when all sessions have ended, and already when
its own link to the nodes is down: whose hold timer ends meanwhile, and whose not, is chance.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from samepath.bgp.transport import PeerStatus, Speaker
from samepath.model.config import GatewayConfig
from samepath.model.net import Address, Family, address_text
from samepath.plan.sync import Sync, Why, decide, named_by

log = logging.getLogger("samepath.gateway")

PASS_S = 2.0
"""A pass comes at least so often."""


class Deferral:
    def __init__(self, adopted: Collection[Address], now: float) -> None:
        """`adopted`: the next hops of the adopted routes."""
        self.adopted = frozenset(adopted)
        self.sync = Sync(False, Why.WAITING_FOR_HOPS if adopted else Why.WAITING_FOR_PEERS)
        self._since = now
        self._last_up: dict[Address, float] = {}
        """When each node's session was last seen up."""
        self._seen: tuple[int, GatewayConfig] | None = None
        self._up: tuple[Address, ...] = ()
        """Nodes with a session, as of `_seen`: asking a thousand peers takes a while."""
        self._is_cut_off = False
        """From the time when all nodes were lost until enough of them are back."""

    def until(self, config: GatewayConfig) -> float:
        """When it is over at the latest."""
        return math.inf if self.sync.in_sync else self._since + config.selection_deferral_s

    def look(
        self,
        config: GatewayConfig,
        speaker: Speaker,
        now: float,
        *,
        unreachable: bool = False,
        known: bool = True,
    ) -> None:
        """`unreachable`: our links to all next hops are down. `known`: who the neighbours are; if
        it is not, nobody can be heard, and however long that takes, nothing follows from it."""
        if unreachable or not known:
            self._since = now
            if not known:
                self.sync = Sync(False, Why.WAITING_FOR_CLUSTER)
            return
        peers = speaker.peers()
        heard = {
            peer.address
            for peer in peers
            if peer.is_established and all(f.end_of_rib_received for f in peer.families.values())
        }
        serving = _serving(config, peers)
        if self._is_cut_off and not any(p.is_established for p in serving):
            self._since = now  # nobody yet who could be waited for
        named = heard
        if self.adopted:
            paths = {held for f in Family for _, held in speaker.rib.items(f)}
            named = named_by(heard, paths)
        self.sync = decide(
            adopted=self.adopted,
            heard=named,
            peers_heard=sum(peer.address in heard for peer in serving),
            expected_peers=config.expected_peers,
            since_start_s=now - self._since,
            deferral_s=config.selection_deferral_s,
        )
        if self.sync.in_sync:
            self._is_cut_off = False
            log.info("in sync after %.1f s: %s", now - self._since, self.sync.text)

    def note(self, config: GatewayConfig, speaker: Speaker, now: float) -> None:
        """Called in every pass: who is there."""
        if self._seen is None or self._seen[0] != speaker.news or self._seen[1] is not config:
            self._seen = speaker.news, config
            serving = _serving(config, speaker.peers())
            self._up = tuple(peer.address for peer in serving if peer.is_established)
        self._last_up.update(dict.fromkeys(self._up, now))

    def _lost_together(self, config: GatewayConfig, now: float) -> frozenset[Address]:
        """The nodes that were there until just now: hold timers started at different times end
        within one hold time of each other, and a TCP connection may notice later than another."""
        hold_s = max((n.hold_time_s for n in config.neighbors), default=0)
        window_s = 2 * hold_s + PASS_S
        return frozenset(a for a, seen in self._last_up.items() if now - seen <= window_s)

    def begin_again_if_cut_off(self, config: GatewayConfig, speaker: Speaker, now: float) -> None:
        """Called when in sync and without any service."""
        if not any(peer.is_established for peer in _serving(config, speaker.peers())):
            self.begin_again(config, now)

    def begin_again(self, config: GatewayConfig, now: float) -> None:
        """Called when in sync and cut off."""
        if not config.expected_peers or config.dataplane == "plain":
            return
        self.adopted = self._lost_together(config, now)
        self._last_up.clear()
        log.warning(
            "cut off from all nodes: no tables until %s",
            ", ".join(map(address_text, sorted(self.adopted))) or "expected_peers are back",
        )
        self._is_cut_off, self._since = True, now
        self.sync = Sync(False, Why.WAITING_FOR_HOPS if self.adopted else Why.WAITING_FOR_PEERS)


def _serving(config: GatewayConfig, peers: Collection[PeerStatus]) -> list[PeerStatus]:
    """The neighbours that may advertise services."""
    names = {n.name for n in config.neighbors if n.import_.services}
    return [peer for peer in peers if peer.neighbor in names]
