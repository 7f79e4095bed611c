"""What an agent is and has, as what is to be told of its node. Made by an agent with `kubernetes`.

`look`, after each pass, gives `plan.node_status.Desired` to `programs.node_status` when something
may have changed, at most once a second; nothing is said before all is known. A session that is down
has been so since we saw it first. Times of day are that of the start plus what has passed since: no
clock that is set makes anything look new.

Another API server, or another rate, takes a restart.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from samepath.kube.api import Api
from samepath.model.net import Address
from samepath.plan import node_status as plan
from samepath.plan.node_status import Session, View
from samepath.programs.node_status import NodeStatus, time_text
from samepath.programs.serving import ADDRESSES, RULES

if TYPE_CHECKING:
    from samepath.bgp.transport import PeerStatus
    from samepath.programs.agent import Agent

PAUSE_S = 1.0


class Telling:
    def __init__(self, agent: Agent) -> None:
        assert agent.config.kubernetes is not None
        self.agent = agent
        self.status = NodeStatus(Api.connect(agent.config.kubernetes), agent.config)
        self._offset_s = time.time() - time.monotonic()
        self._down: dict[Address, str] = {}
        """Sessions that are down, and when we saw that first."""
        self._seen: tuple[object, ...] = ()
        self._looked_at = -math.inf

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self.status.run()
        finally:
            await self.status.api.close()

    def look(self) -> None:
        now, agent = time.monotonic(), self.agent
        if not agent.known or now - self._looked_at < PAUSE_S:
            return
        self._looked_at = now
        is_ready = self._is_ready()
        is_watched = bool(agent.speaker.config.bfd_profiles)
        bfd = tuple(map(self._bfd, self._peers())) if is_watched else ()
        news = agent.speaker.news
        seen = (agent.serving.rows, agent.cluster.services, news, agent.config, is_ready, bfd)
        if seen != self._seen:
            self._seen = seen
            self.status.want(plan.desired(self._view(is_ready)))

    def _view(self, is_ready: bool) -> View:
        agent, config = self.agent, self.agent.config
        told = {}
        if config.status_services:
            names = {n.name: agent.routing.names_of(n)[0] for n in agent.speaker.config.neighbors}
            addresses = plan.addresses_told(
                agent.serving.rows,
                agent.cluster.services,
                with_cluster_policy=config.status_cluster_services,
            )
            told = dict(plan.told(agent.routing.offered or {}, addresses, names))
        return View(
            node=config.node,
            is_ready=is_ready,
            rows=agent.serving.rows,
            services=agent.cluster.services,
            told=told,
            sessions=tuple(self._session(peer) for peer in self._peers()),
            services_most=config.status_services,
            with_cluster_policy=config.status_cluster_services,
        )

    def _is_ready(self) -> bool:
        """Pods may be started here: neighbours, routes and rules are as they should be."""
        agent = self.agent
        stand = not agent.serving.errors.keys() & {RULES, ADDRESSES}
        return agent.routing.offered is not None and stand

    def _peers(self) -> list[PeerStatus]:
        meshed = {n.name for n in self.agent.routing.mesh.neighbors}
        return [peer for peer in self.agent.speaker.peers() if peer.neighbor not in meshed]

    def _session(self, peer: PeerStatus) -> Session:
        if peer.is_established:
            self._down.pop(peer.address, None)
            since = time_text(self._offset_s + peer.since_s)
        else:
            now = time_text(self._offset_s + time.monotonic())
            since = self._down.setdefault(peer.address, now)
        return Session(
            peer=peer.address,
            is_established=peer.is_established,
            since=since,
            bfd=self._bfd(peer),
            local_asn=self.agent.speaker.config.local_as,
            peer_asn=peer.remote_as if isinstance(peer.remote_as, int) else 0,
        )

    def _bfd(self, peer: PeerStatus) -> str:
        watched = self.agent.liveness.view(peer)
        return str(watched["state"]) if watched is not None else ""
