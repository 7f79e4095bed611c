"""Whose BlockClaims are free again, because the node is no more. Pure.

Called by `programs.controller` with all Nodes and claims, from time to time. A node is gone when
its Node object has been missing for a grace, counted from when we saw it missing: a Node that is
deleted by mistake, or made anew, is soon back.

A block that is taken from a living node would be given to another, and two pods would have one
address. So where more than half of all nodes are missing at once nothing is taken, however long it
lasts: that is more likely our mistake, or somebody's, than a cluster of which the half is gone.
When it is over the grace begins anew.

Not done: nodes that are there and do not answer: their pods may run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from samepath.model.kinds import BlockClaim


@dataclass(frozen=True, slots=True)
class Missing:
    since: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Owner of claims without a Node -> when we first saw it missing."""
    due: tuple[BlockClaim, ...] = ()
    """Claims to delete, by name."""
    halted: str = ""
    """Why nothing is due, in words."""


def examine(
    nodes: Collection[str],
    claims: Iterable[BlockClaim],
    before: Missing,
    now: float,
    grace_s: float,
) -> Missing:
    """`nodes`: names of all Nodes; `before`: what came of the last look; `now` is monotonic."""
    claims = sorted(claims, key=lambda c: c.name)
    missing = {claim.node for claim in claims} - set(nodes)
    every = len(missing | set(nodes))
    if 2 * len(missing) > every:
        text = (
            f"{len(missing)} of {every} nodes that are or own blocks have no Node object: that is "
            "too many to be true, so no block is freed. If they are gone for good delete their "
            "BlockClaims"
        )
        return Missing(halted=text)
    since = {node: before.since.get(node, now) for node in missing}
    due = tuple(c for c in claims if c.node in since and now - since[c.node] >= grace_s)
    return Missing(since, due)
