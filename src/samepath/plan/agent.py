"""What a node tells its gateways, and which routes it takes from them. Pure.

Called by `programs.agent` in each pass.

Out: each service address that is offered (`plan.services`) as a host route, its weight as link
bandwidth, GRACEFUL_SHUTDOWN while it drains; and the node's own pod blocks.
In: other nodes' pod blocks, one next hop each, and default (or other) routes by all gateways.

Standards: RFC 8326 (GRACEFUL_SHUTDOWN), draft-ietf-idr-link-bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from samepath.bgp.adjout import Advertisement
from samepath.bgp.attributes import (
    GRACEFUL_SHUTDOWN,
    PathAttributes,
    link_bandwidth_community,
)
from samepath.bgp.rib import Path, PathSet
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig
from samepath.model.net import Address, Family, Nlri, family_of, host_nlri, parse_prefix
from samepath.plan.services import Offer, State

BYTES_PER_S = 125_000
"""Link bandwidth of weight 1."""

Prefix = tuple[Family, Nlri]


def own_blocks(config: AgentConfig, cluster: Cluster) -> frozenset[Prefix]:
    """The node's pod blocks: configured, else those of our Node."""
    if config.pod_cidrs:
        return frozenset(parse_prefix(text) for text in config.pod_cidrs)
    node = cluster.nodes.get(config.node)
    return frozenset(node.pod_cidrs) if node else frozenset()


def advertisements(
    offers: Mapping[Address, Offer], blocks: Iterable[Prefix], asn: int
) -> dict[Family, dict[Nlri, Advertisement]]:
    """All that every neighbour is to be told."""
    routes: dict[Family, dict[Nlri, Advertisement]] = {f: {} for f in Family}
    plain = Advertisement(PathAttributes(next_hop=b""))
    for family, nlri in blocks:
        routes[family][nlri] = plain
    made: dict[Offer, Advertisement] = {}
    for address, offer in offers.items():
        if offer not in made:
            made[offer] = _advertisement(offer, asn)
        routes[family_of(address)][host_nlri(address)] = made[offer]
    return routes


def _advertisement(offer: Offer, asn: int) -> Advertisement:
    return Advertisement(
        PathAttributes(
            next_hop=b"",
            communities=(GRACEFUL_SHUTDOWN,) if offer.state is State.DRAINING else (),
            extended_communities=(link_bandwidth_community(asn, offer.weight * BYTES_PER_S),),
        )
    )


def learned(
    tables: Mapping[Family, Iterable[tuple[Nlri, PathSet]]],
) -> dict[Prefix, tuple[Address, ...]]:
    """The routes to install, prefix -> next hops; our own blocks are for the caller to leave out,
    should another node claim them."""
    routes: dict[Prefix, tuple[Address, ...]] = {}
    made: dict[PathSet, tuple[Address, ...]] = {}
    for family, table in tables.items():
        for nlri, paths in table:
            if paths not in made:
                made[paths] = _next_hops(paths.best)
            if made[paths]:
                routes[family, nlri] = made[paths]
    return routes


def _next_hops(best: tuple[Path, ...]) -> tuple[Address, ...]:
    """A pod block is on one node: its next hop, reflected by every gateway, is the same; should two
    claim it, the lower stands. Of other routes all; those that drain only if all do."""
    pods = sorted({p.attributes.next_hop for p in best if p.kind == "pods"})
    if pods:
        return (pods[0],)
    hops = [p.attributes for p in best if p.kind == "routes"]
    staying = [a for a in hops if not a.has(GRACEFUL_SHUTDOWN)] or hops
    return tuple(sorted({a.next_hop for a in staying}))
