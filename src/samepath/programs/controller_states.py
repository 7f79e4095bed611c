"""ServiceBGPStatus objects of nodes that are gone: deleted, since nobody else would.

Used by `programs.controller` while it leads. An agent deletes its own that are out of date; those
of a node that is no more belong to their Service, and would say for as long as that lives that the
node advertises it. (BGPSessionState belongs to the Node, and goes with it.) A node is gone when its
Node object has been missing for the same grace as for its blocks. Should it come back its agent
writes them again, so nothing depends on being right here.

All states are looked through once in a leadership; later only those of Nodes that vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from samepath.kube.api import Api, ApiError
from samepath.kube.resources import SERVICE_BGP_STATUSES
from samepath.plan.node_status import NODE_LABEL

AT_ONCE = 100
"""States that are deleted in one look at most."""


@dataclass(slots=True)
class OldStates:
    api: Api
    may_write: Callable[[], bool]
    grace_s: float
    deleted: int = 0
    trouble: str = ""
    _known: frozenset[str] | None = None
    """Nodes as of the last look; None: this leadership has not looked yet."""
    _missing: dict[str, float] = field(default_factory=dict)
    """Node -> since when."""

    def forget(self) -> None:
        """Leadership has begun anew."""
        self._known, self._missing = None, {}

    async def look(self, nodes: Collection[str], now: float) -> None:
        """`nodes`: names of all Nodes; `now` is monotonic."""
        self.trouble = ""
        try:
            if self._known is None:
                self._known = frozenset(await self._owners())
            for name in self._known.difference(nodes):
                self._missing.setdefault(name, now)
            self._known = frozenset(nodes)
            for name in self._known & self._missing.keys():
                del self._missing[name]
            for name, since in list(self._missing.items()):
                if now - since >= self.grace_s and await self._delete_of(name):
                    del self._missing[name]
        except ApiError as error:
            self.trouble = str(error)

    async def _owners(self) -> set[str]:
        states, _ = await self.api.list(SERVICE_BGP_STATUSES)
        return {s["metadata"].get("labels", {}).get(NODE_LABEL, "") for s in states} - {""}

    async def _delete_of(self, node: str) -> bool:
        """False: there is more to do for this node. Raises ApiError."""
        selector = f"{NODE_LABEL}={node}"
        states, _ = await self.api.list(SERVICE_BGP_STATUSES, label_selector=selector)
        for state in states[:AT_ONCE]:
            if not self.may_write():
                return False
            about = state["metadata"]
            try:
                await self.api.delete(
                    SERVICE_BGP_STATUSES, about["name"], about["namespace"], uid=about["uid"]
                )
                self.deleted += 1
            except ApiError as error:
                if not (error.is_not_found or error.is_conflict):
                    raise
        return len(states) <= AT_ONCE
