"""Nodes whose objects are gone while they live: what an agent makes of that. Pure.

Called by `programs.agent_cluster`. A Node that somebody deletes by mistake goes on serving: its
sessions stand, its pods run and answer. Going by its object we would withdraw every service (what
drains is said there), every pod block of `spec.podCIDRs`, and end the sessions of a mesh; all of
them on all nodes at once, were it all Nodes. So a Node that was known counts as it was known last:

- our own for as long as we run: that we live needs no witness;
- another for as long as `is_alive` says so (a session with it, or a route to its pods).

What another Node has by now (an InternalIP, a pod block) is that Node's: a Node may have been made
anew under another name, and its block given away.

This is no memory beside the world: it is what stands, and is not pulled down. A restarted agent
knows nothing of it. The gateways do likewise (`plan.neighbors.keep`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from samepath.model.cluster import Cluster, Node


def keep(
    cluster: Cluster, former: Cluster, own: str, is_alive: Callable[[Node], bool]
) -> tuple[Cluster, frozenset[str]]:
    """`cluster` with the Nodes of `former` that are to stand, and the names of these. `own`: our
    Node's name."""
    gone = [node for name, node in sorted(former.nodes.items()) if name not in cluster.nodes]
    standing = [node for node in gone if node.name == own or is_alive(node)]
    if not standing:
        return cluster, frozenset()
    addresses = {a for node in cluster.nodes.values() for a in node.addresses}
    blocks = {block for node in cluster.nodes.values() for block in node.pod_cidrs}
    kept = {
        node.name: replace(
            node,
            addresses=tuple(a for a in node.addresses if a not in addresses),
            pod_cidrs=tuple(b for b in node.pod_cidrs if b not in blocks),
        )
        for node in standing
    }
    return replace(cluster, nodes={**cluster.nodes, **kept}), frozenset(kept)
