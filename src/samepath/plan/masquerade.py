"""natOutgoing: what leaves the pods' addresses is sent with the node's own. Pure.

The sets that the chain `outgoing` of our nftables table looks into (`plan.ruleset`); called by
`programs.serving`. Source: an address of an IPPool with natOutgoing, be the pool disabled or not.
Destination: no address of any pool, and no other pod's either. A node's address is not a pod's, so
a pod that talks to another node is masqueraded, too, as with Calico.

What decides is a flow's first packet; replies, and flows that stand when a pool changes, go on as
they are. A TCP flow that conntrack meets in its middle is left alone: it is older than our rule.

The chain stands for as long as there are pools, whatever they say: with the last NAT chain of a
namespace the kernel ends the translation of the flows that stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from samepath.model.cluster import Cluster
from samepath.model.net import Address, address_text, prefix_text
from samepath.plan.ruleset import GUARD, OUTGOING, Elements, Ruleset, intervals


def elements(cluster: Cluster, cluster_cidrs: Iterable[str]) -> Elements:
    """`cluster_cidrs`: where pods are, pools or not."""
    pools = cluster.pools.values()
    natted = [prefix_text(p.family, p.cidr) for p in pools if p.nat_outgoing]
    blocks = {cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs}
    blocks.update((p.family, p.cidr) for p in pools)
    everywhere = [*cluster_cidrs, *(prefix_text(*block) for block in blocks)]
    return {**intervals("natted", natted), **intervals("allpods", everywhere)}


def alone(
    cluster: Cluster, cluster_cidrs: Iterable[str], services: Iterable[Address] = ()
) -> Ruleset:
    """Our table where the services' rules are somebody else's; none without pools and services.
    `services`: the addresses that are advertised, which this node never forwards as they are."""
    texts = {4: set[str](), 6: set[str]()}
    for address in services:
        texts[4 if len(address) == 4 else 6].add(address_text(address))
    guarded = {f"services{n}": dict.fromkeys(sorted(found), "") for n, found in texts.items()}
    if not cluster.pools and not any(texts.values()):
        return Ruleset(services=False)
    found = {**elements(cluster, cluster_cidrs), **guarded}
    digest = blake2b((GUARD + OUTGOING).encode(), digest_size=10)
    digest.update(repr(sorted((n, *sorted(v)) for n, v in found.items())).encode())
    return Ruleset(networks=found, digest=digest.hexdigest(), services=False)
