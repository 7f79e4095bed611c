"""The full mesh: every other Node is a BGP neighbour of ours, so that pods need no gateway. Pure.

Called by `programs.routing` whenever the Nodes have changed. Two nodes meet at the first InternalIP
of each, of IPv4 unless one of them has none: a rule that both sides apply alike. Both connect; the
collision is BGP's matter (RFC 4271 §6.8). All nodes are in one AS, so what one of them tells is not
passed on by another (RFC 4271 §9.2; an agent passes nothing on anyway), and all must know all.

A mesh neighbour is told of our pod blocks alone: a node needs no other node's service routes, since
its own rules answer for every service. And only pods' addresses are taken from it.

A neighbour that is written in the configuration, or is a BGPPeer, stands as it is written. A Node
that cannot be a neighbour has its reason (`Row`), which `status` shows; it disturbs no other.

Not done: nodes that share no segment (a pod block's next hop is on a connected network, or there is
no route: let the gateways of such nodes reflect), several AS.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samepath.model.cluster import Cluster, Node
from samepath.model.config import AgentConfig
from samepath.model.neighbor import Import, Mesh, Neighbor
from samepath.model.net import Address, Family, address_text, family_of, parse_address

Addresses = Mapping[Family, Address]


class Why(enum.Enum):
    """Why a Node is a neighbour, or is not."""

    NEIGHBOR = "its neighbour"
    CONFIGURED = "has an entry of its own in `neighbors`, or a BGPPeer"
    NO_ADDRESS = "no InternalIP in its Node"
    NO_COMMON_FAMILY = "its InternalIP is of another family than ours"
    OUR_ADDRESS = "its InternalIP is ours"
    SAME_ADDRESS = "another Node has this InternalIP, too"


class Trouble(enum.Enum):
    """Why we have no mesh at all."""

    NONE = ""
    NO_NODE = "our own Node is not known"
    NO_ADDRESS = "our own Node has no InternalIP"


@dataclass(frozen=True, slots=True)
class Row:
    node: str
    address: Address | None
    why: Why

    @property
    def text(self) -> str:
        """For people; empty for a neighbour."""
        return "" if self.why is Why.NEIGHBOR else self.why.value


@dataclass(frozen=True, slots=True)
class Plan:
    rows: tuple[Row, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    listen: tuple[str, ...] = ()
    """Where the others connect to, besides what the configuration says."""
    trouble: Trouble = Trouble.NONE


def first_addresses(node: Node) -> Addresses:
    """The first InternalIP of each family."""
    return {family_of(address): address for address in reversed(node.addresses)}


def plan(
    config: AgentConfig, cluster: Cluster, own: Addresses, cluster_cidrs: Sequence[str]
) -> Plan:
    """`own`: the addresses of our Node, or what they were when it was last seen. `cluster_cidrs`:
    what a node may tell us."""
    if not config.mesh:
        return Plan()
    if not own:
        known = config.node in cluster.nodes
        return Plan(trouble=Trouble.NO_ADDRESS if known else Trouble.NO_NODE)
    terms = config.mesh if isinstance(config.mesh, Mesh) else Mesh()
    import_ = Import(pods=list(cluster_cidrs))
    configured = {parse_address(n.address) for n in config.neighbors if n.address}
    rows: list[Row] = []
    neighbors: dict[Address, Neighbor] = {}
    for name, node in sorted(cluster.nodes.items()):
        if name == config.node:
            continue
        theirs = first_addresses(node)
        family = next((f for f in Family if f in own and f in theirs), None)
        address = None if family is None else theirs[family]
        why = _why(address, theirs, own, neighbors, configured)
        rows.append(Row(name, address, why))
        if why is Why.NEIGHBOR:
            assert address is not None
            assert family is not None
            neighbors[address] = _neighbor(
                address, own[family], config.local_as, terms, import_, config.listen_port
            )
    return Plan(tuple(rows), tuple(neighbors.values()), _listen(config, own))


def _listen(config: AgentConfig, own: Addresses) -> tuple[str, ...]:
    """Ours, unless they are listened on already, alone or with all others (0.0.0.0, ::)."""
    heard = {parse_address(text) for text in config.listen}
    everywhere = {family for family in Family if bytes(family.octets) in heard}
    return tuple(
        address_text(own[family])
        for family in Family
        if family in own and family not in everywhere and own[family] not in heard
    )


def _why(
    address: Address | None,
    theirs: Addresses,
    own: Addresses,
    neighbors: Mapping[Address, Neighbor],
    configured: set[Address],
) -> Why:
    if address is None:
        return Why.NO_COMMON_FAMILY if theirs else Why.NO_ADDRESS
    if address in own.values():
        return Why.OUR_ADDRESS
    if address in configured:
        return Why.CONFIGURED
    return Why.SAME_ADDRESS if address in neighbors else Why.NEIGHBOR


def _neighbor(
    address: Address, local: Address, asn: int, terms: Mesh, import_: Import, port: int
) -> Neighbor:
    return Neighbor(
        address=address_text(address),
        # The other side knows us by the address that our Node has, and by no other.
        local_address=address_text(local),
        remote_as=asn,
        port=port,
        hold_time_s=terms.hold_time_s,
        connect_retry_s=terms.connect_retry_s,
        graceful_restart_s=terms.graceful_restart_s,
        import_=import_,
        export=["pods"],
    )
