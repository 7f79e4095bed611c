"""BlockClaims of nodes that are gone: taken out, one by one, under preconditions.

Used by `programs.controller` while it leads. Which are due is `plan.dead_nodes`' matter; that a
Node is really missing is asked of the server itself before its first claim goes, past the watch,
which may be late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from samepath.kube.api import Api, ApiError
from samepath.kube.resources import BLOCK_CLAIMS, IP_POOLS, NODES
from samepath.model.cluster import Cluster
from samepath.model.kinds import BlockClaim
from samepath.model.net import prefix_text
from samepath.plan.addresses import Block
from samepath.plan.blocks import pool_of
from samepath.plan.dead_nodes import Missing, examine
from samepath.programs.controller_events import About, Events

LOOK_S = 5.0
AT_ONCE = 100
"""Claims that are deleted in one look at most."""


@dataclass(slots=True)
class DeadNodes:
    api: Api
    events: Events
    may_write: Callable[[], bool]
    grace_s: float
    missing: Missing = field(default_factory=Missing)
    freed: int = 0
    trouble: str = ""

    def forget(self) -> None:
        """Leadership has begun anew: so does every grace."""
        self.missing = Missing()

    async def look(self, cluster: Cluster, now: float) -> None:
        halted = self.missing.halted
        self.missing = examine(
            cluster.nodes.keys(), cluster.claims.values(), self.missing, now, self.grace_s
        )
        if self.missing.halted and not halted:
            await self._say(cluster, "", "NodesMissing", self.missing.halted, warn=True)
        self.trouble = ""
        gone: dict[str, bool] = {}
        for claim in self.missing.due[:AT_ONCE]:
            if not self.may_write():
                return
            try:
                if claim.node not in gone:
                    gone[claim.node] = await self._is_gone(claim.node)
                if gone[claim.node]:
                    await self._free(cluster, claim)
            except ApiError as error:
                # A conflict: it has changed, and the watch will say how.
                if not (error.is_not_found or error.is_conflict):
                    self.trouble = str(error)
                    return

    async def _is_gone(self, node: str) -> bool:
        found, _ = await self.api.list(NODES, field_selector=f"metadata.name={node}")
        return not found

    async def _free(self, cluster: Cluster, claim: BlockClaim) -> None:
        await self.api.delete(
            BLOCK_CLAIMS, claim.name, uid=claim.uid, resource_version=claim.resource_version
        )
        self.freed += 1
        block = Block(claim.family, claim.cidr)
        pool = pool_of(cluster, block)
        text = (
            f"{prefix_text(claim.family, claim.cidr)} is free again: its node {claim.node} has had "
            f"no Node object for {self.grace_s:g} s"
        )
        await self._say(cluster, pool.name if pool is not None else "", "BlockFreed", text)

    async def _say(
        self, cluster: Cluster, pool: str, reason: str, text: str, *, warn: bool = False
    ) -> None:
        """About the IPPool, or any, if it concerns all."""
        name = pool or next(iter(sorted(cluster.pools)), "")
        if not name:
            return
        try:
            found, _ = await self.api.list(IP_POOLS, field_selector=f"metadata.name={name}")
        except ApiError:
            found = []  # then without the uid, which only `kubectl describe` looks for
        uid = found[0]["metadata"].get("uid", "") if found else ""
        self.events.say(
            About(IP_POOLS, name, uid=uid), "Warning" if warn else "Normal", reason, text
        )
