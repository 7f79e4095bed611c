"""The cluster as an agent goes by it: what the source says, with two things put right.

Held by `programs.agent`, asked in its passes. Nodes that are deleted while they live stand
(`plan.gone_nodes`), and of `spec.externalIPs` goes what is somebody else's (`plan.external_ips`).
Both are said once in the log, and shown in `samepath status`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from samepath.bgp.transport import Speaker
from samepath.kube.said import Said
from samepath.model.cluster import Cluster, Node, Object, Service, remake_cluster
from samepath.model.config import AgentConfig
from samepath.model.memo import Last
from samepath.plan import proxy
from samepath.plan.agent import Learned
from samepath.plan.external_ips import Refused, pared
from samepath.plan.gone_nodes import keep

LOOK_S = 5.0
"""How often it is looked whether a Node without an object lives yet."""

log = logging.getLogger("samepath.agent")


class AgentCluster:
    def __init__(self) -> None:
        self.refused: tuple[Refused, ...] = ()
        """External IPs."""
        self.gone: frozenset[str] = frozenset()
        """Names of the Nodes that stand without an object."""
        self.look_at = math.inf
        self._read = Cluster()
        """As the source has it."""
        self._read_of: Mapping[str, Object] = {}
        self._prefixes: Last[tuple[str, ...]] = Last()
        self._pared: Last[tuple[Mapping[str, Service], tuple[Refused, ...]]] = Last()
        self._is_new = False
        self._said = Said(log, "external IP")

    async def read(self, objects: Mapping[str, Object]) -> None:
        """There are new objects."""
        # In a thread: with thousands of services it takes longer than a session should wait.
        self._read = await asyncio.to_thread(remake_cluster, self._read, self._read_of, objects)
        self._read_of = objects
        self._is_new = True

    def find(
        self,
        former: Cluster,
        config: AgentConfig,
        speaker: Speaker,
        learned: Learned,
        now: float,
    ) -> Cluster:
        """The cluster to go by, after `former`."""
        found, gone = keep(self._read, former, config.node, Alive(speaker, learned))
        for name in sorted(gone - self.gone):
            how_long = "we run" if name == config.node else "its session or its pods' routes live"
            log.warning("there is no Node %s any more: it counts for as long as %s", name, how_long)
        is_same = gone == self.gone and not self._is_new
        self.gone, self._is_new = gone, False
        self.look_at = now + LOOK_S if gone - {config.node} else math.inf
        if is_same:
            return former
        services, self.refused = self._without_refused(found, config)
        self._said.say(refused.text for refused in self.refused)
        return found if services is found.services else replace(found, services=services)

    def _without_refused(
        self, found: Cluster, config: AgentConfig
    ) -> tuple[Mapping[str, Service], tuple[Refused, ...]]:
        pods = tuple(config.cluster_cidrs) or self._prefixes.of(
            lambda: proxy.cluster_prefixes(found), found.nodes, found.pools
        )

        def services() -> tuple[Mapping[str, Service], tuple[Refused, ...]]:
            cluster, refused = pared(found, pods)
            return cluster.services, refused

        return self._pared.of(services, found.services, found.nodes, pods)


class Alive:
    """Whether there is a session with a Node, or a route to its pods."""

    def __init__(self, speaker: Speaker, learned: Learned) -> None:
        self._speaker = speaker
        self._learned = learned
        self._peers: frozenset[bytes] | None = None

    def __call__(self, node: Node) -> bool:
        if any(block in self._learned.routes for block in node.pod_cidrs):
            return True
        if self._peers is None:  # asking a thousand peers takes a while
            self._peers = frozenset(
                peer.address
                for peer in self._speaker.peers()
                if peer.is_established or peer.stale_until_s is not None
            )
        return any(address in self._peers for address in node.addresses)
