"""What a node tells its neighbours, and which routes it takes from them. Pure.

Called by `programs.routing` in each pass.

Out: the prefixes of services that are offered (`plan.services`, `plan.advertising`), the weight as
link bandwidth, GRACEFUL_SHUTDOWN while they drain; and the node's pod blocks, never a single pod.
Blocks that lie side by side are told one by one: each may go to another node alone, and a common
prefix would then have to be withdrawn and told anew in parts, with the blocks that stay.
In: other nodes' pod blocks, one next hop each, and default (or other) routes by all gateways. Not a
prefix that is one of our own blocks or lies within one: whoever tells it would draw our pods'
traffic. (A wider one is taken: our blocks are longer, so it draws nothing of ours.)

Standards: RFC 8326 (GRACEFUL_SHUTDOWN), draft-ietf-idr-link-bandwidth.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from samepath.bgp.adjout import Advertisement
from samepath.bgp.attributes import (
    GRACEFUL_SHUTDOWN,
    PathAttributes,
    link_bandwidth_community,
)
from samepath.bgp.rib import Path, PathSet
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    PrefixSet,
    parse_prefix,
    prefix_text,
)
from samepath.plan.advertising import Terms
from samepath.plan.services import State

BYTES_PER_S = 125_000
"""Link bandwidth of weight 1."""

Prefix = tuple[Family, Nlri]


Routes = dict[Family, dict[Nlri, Advertisement]]


class WhyNot(enum.Enum):
    """Why a prefix that a neighbour told gets no route here, though it may tell such prefixes."""

    OWN_BLOCK = "a pod block of our own"
    WITHIN_OWN_BLOCK = "within a pod block of our own"


@dataclass(frozen=True, slots=True)
class NotTaken:
    peer: Address
    family: Family
    nlri: Nlri
    why: WhyNot


@dataclass(frozen=True, slots=True)
class Learned:
    routes: Mapping[Prefix, tuple[Address, ...]] = field(default_factory=dict)
    """What to install: prefix -> next hops."""
    not_taken: tuple[NotTaken, ...] = ()


def own_blocks(config: AgentConfig, cluster: Cluster) -> frozenset[Prefix]:
    """The node's pod blocks: configured, else those of our Node."""
    if config.pod_cidrs:
        return frozenset(parse_prefix(text) for text in config.pod_cidrs)
    node = cluster.nodes.get(config.node)
    return frozenset(node.pod_cidrs) if node else frozenset()


def advertisements(
    services: Mapping[Prefix, Terms],
    blocks: Iterable[Prefix],
    asn: int,
    made: dict[tuple[Terms, int], Advertisement] | None = None,
) -> Routes:
    """All that a neighbour is to be told. `made`: what was made of equal terms; kept by the caller,
    equal routes are quickly compared and sent."""
    routes: Routes = {f: {} for f in Family}
    plain = Advertisement(PathAttributes(next_hop=b""))
    for family, nlri in blocks:
        routes[family][nlri] = plain
    made = {} if made is None else made
    # By identity: most prefixes have one of a few terms.
    by_terms: dict[int, Advertisement] = {}
    for (family, nlri), terms in services.items():
        found = by_terms.get(id(terms))
        if found is None:
            found = made.setdefault((terms, asn), _advertisement(terms, asn))
            by_terms[id(terms)] = found
        routes[family][nlri] = found
    return routes


def _advertisement(terms: Terms, asn: int) -> Advertisement:
    drains = (GRACEFUL_SHUTDOWN,) if terms.state is State.DRAINING else ()
    return Advertisement(
        PathAttributes(
            next_hop=b"",
            local_pref=terms.local_pref,
            communities=(*terms.communities, *drains),
            extended_communities=(link_bandwidth_community(asn, terms.weight * BYTES_PER_S),),
            large_communities=terms.large_communities,
        )
    )


def learned(
    tables: Mapping[Family, Iterable[tuple[Nlri, PathSet]]], own: Collection[Prefix] = ()
) -> Learned:
    """The routes to install; `own` are our pod blocks."""
    blocks = PrefixSet(prefix_text(*block) for block in own)
    routes: dict[Prefix, tuple[Address, ...]] = {}
    not_taken: list[NotTaken] = []
    made: dict[PathSet, tuple[Address, ...]] = {}
    for family, table in tables.items():
        for nlri, paths in table:
            if paths not in made:
                made[paths] = _next_hops(paths.best)
            if made[paths] and blocks.covers(family, nlri):
                is_same = (family, nlri) in own
                why = WhyNot.OWN_BLOCK if is_same else WhyNot.WITHIN_OWN_BLOCK
                not_taken += (NotTaken(p.peer, family, nlri, why) for p in paths.paths)
            elif made[paths]:
                routes[family, nlri] = made[paths]
    return Learned(routes, tuple(not_taken))


def _next_hops(best: tuple[Path, ...]) -> tuple[Address, ...]:
    """A pod block is on one node: its next hop, reflected by every gateway, is the same; should two
    claim it, the lower stands. Of other routes all; those that drain only if all do."""
    pods = sorted({p.attributes.next_hop for p in best if p.kind == "pods"})
    if pods:
        return (pods[0],)
    hops = [p.attributes for p in best if p.kind == "routes"]
    staying = [a for a in hops if not a.has(GRACEFUL_SHUTDOWN)] or hops
    return tuple(sorted({a.next_hop for a in staying}))
