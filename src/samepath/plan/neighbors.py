"""What the cluster says of a gateway's neighbours: who they are, and what they may advertise. Pure.

Called by `programs.gateway_cluster` whenever Nodes, pools or claims have changed. Every Node that
the selector of `nodes` picks is a neighbour at its first InternalIP: of IPv4, or of IPv6 where it
has no other. Services are what the IPAddressPools have (and what BGPAdvertisements make of it by
aggregation); pods' addresses what the IPPools have and the Nodes' `spec.podCIDRs`. A block that a
BlockClaim or a Node's podCIDRs name is that Node's, and nobody else may advertise it
(`bgp.ownership`); of what nobody has claimed, the first to advertise it has it.

What somebody deletes by mistake must not break flows (`keep`). A neighbour whose Node is gone stays
for as long as its session lives, or an adopted next hop waits for it; a prefix that no pool has any
more stays for as long as a route of ours lies within it. Both are shown. That is no memory: it is
what stands, and the plan does not pull it down.

Not done: Nodes in several AS (`remote_as: external` takes any other than ours), more than one
address of a Node.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from samepath.model.cluster import Cluster, Node
from samepath.model.config import GatewayConfig
from samepath.model.kinds import GatewayTier, IPAddressPool, Range, any_selects
from samepath.model.neighbor import Import, Neighbor, Nodes, Terms
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    PrefixSet,
    address_text,
    family_of,
    make_nlri,
    parse_address,
    prefix_text,
)
from samepath.model.selector import selects
from samepath.plan.mesh import first_addresses

Prefix = tuple[Family, Nlri]


class Why(enum.Enum):
    """Why a Node is a neighbour, or is not."""

    NEIGHBOR = "its neighbour"
    GONE = "no selected Node has this address any more; kept for as long as its session lives"
    NOT_SELECTED = "not selected"
    CONFIGURED = "has an entry of its own in `neighbors`"
    NO_ADDRESS = "no InternalIP in its Node"
    OUR_ADDRESS = "its InternalIP is ours"
    SAME_ADDRESS = "another Node has this InternalIP, too"


@dataclass(frozen=True, slots=True)
class Row:
    node: str
    address: Address | None
    why: Why

    @property
    def is_neighbor(self) -> bool:
        return self.why in (Why.NEIGHBOR, Why.GONE)


@dataclass(frozen=True, slots=True)
class Plan:
    rows: tuple[Row, ...] = ()
    services: tuple[str, ...] = ()
    """Prefixes of services, as texts, sorted."""
    pods: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Of both, those that the cluster does not have any more."""
    claims: Mapping[Prefix, Address] = field(default_factory=dict, hash=False)
    """Whose a block is, by the address of its neighbour."""

    @property
    def neighbors(self) -> dict[Address, Row]:
        return {row.address: row for row in self.rows if row.is_neighbor and row.address}

    @property
    def expected(self) -> int:
        """Neighbours whose Nodes are there."""
        return sum(row.why is Why.NEIGHBOR for row in self.rows)


def plan(config: GatewayConfig, cluster: Cluster, own: Collection[Address]) -> Plan:
    """`own`: the gateway's own addresses."""
    if config.nodes is None:
        return Plan()
    rows = tuple(_rows(config, config.nodes, cluster, own))
    address_of = {r.node: r.address for r in rows if r.why is Why.NEIGHBOR and r.address}
    return Plan(
        rows=rows,
        services=_texts(_services(cluster)),
        pods=_texts(_pods(cluster)),
        claims={
            block: address_of[node]
            for block, node in _claims(cluster).items()
            if node in address_of
        },
    )


def _rows(
    config: GatewayConfig, nodes: Nodes, cluster: Cluster, own: Collection[Address]
) -> Iterator[Row]:
    configured = {parse_address(n.address) for n in config.neighbors if n.address}
    known: set[Address] = set()
    for name, node in sorted(cluster.nodes.items()):
        address = _address(node)
        why = Why.NEIGHBOR
        if not selects(nodes.selector, node.labels):
            why = Why.NOT_SELECTED
        elif address is None:
            why = Why.NO_ADDRESS
        elif address in own:
            why = Why.OUR_ADDRESS
        elif address in configured:
            why = Why.CONFIGURED
        elif address in known:
            why = Why.SAME_ADDRESS
        else:
            known.add(address)
        yield Row(name, address, why)


def _address(node: Node) -> Address | None:
    first = first_addresses(node)
    return next((first[family] for family in Family if family in first), None)


def _services(cluster: Cluster) -> Iterator[Prefix]:
    for pool in cluster.address_pools.values():
        for part in pool.addresses:
            yield from _prefixes(part)
            for length in _aggregated(cluster, pool, family_of(part.first)):
                yield from _around(part, length)


def _aggregated(cluster: Cluster, pool: IPAddressPool, family: Family) -> set[int]:
    """Prefix lengths that BGPAdvertisements make of this pool's addresses, besides whole ones."""
    lengths = set()
    for advertisement in cluster.advertisements.values():
        names, selectors = advertisement.ip_address_pools, advertisement.pool_selectors
        is_meant = pool.name in names or (
            any_selects(selectors, pool.labels) if selectors or not names else False
        )
        if is_meant:
            lengths.add(advertisement.aggregation_length[family])
    return lengths - {family.bits}


def _around(part: Range, length: int) -> Iterator[Prefix]:
    """The prefixes of this length in which the range lies: the first and the last, and all that is
    in between by what `_prefixes` has."""
    for address in (part.first, part.last):
        family = family_of(address)
        whole = int.from_bytes(address, "big") >> (family.bits - length) << (family.bits - length)
        yield family, make_nlri(Address(whole.to_bytes(family.octets, "big")), length)


def _prefixes(part: Range) -> Iterator[Prefix]:
    first, last = (ipaddress.ip_address(bytes(a)) for a in (part.first, part.last))
    for network in ipaddress.summarize_address_range(first, last):
        address = Address(network.network_address.packed)
        yield family_of(address), make_nlri(address, network.prefixlen)


def _pods(cluster: Cluster) -> Iterator[Prefix]:
    yield from ((pool.family, pool.cidr) for pool in cluster.pools.values())
    for node in cluster.nodes.values():
        yield from node.pod_cidrs


def _claims(cluster: Cluster) -> dict[Prefix, str]:
    """By name of the claim or Node, so that all gateways decide alike if two contradict."""
    claims: dict[Prefix, str] = {}
    for _, claim in sorted(cluster.claims.items()):
        if not claim.pending:
            claims.setdefault((claim.family, claim.cidr), claim.node)
    for name, node in sorted(cluster.nodes.items()):
        for block in node.pod_cidrs:
            claims.setdefault(block, name)
    return claims


def _texts(prefixes: Iterable[Prefix]) -> tuple[str, ...]:
    """Sorted, without those that lie in another."""
    found: list[Prefix] = []
    covered: dict[Family, set[tuple[int, int]]] = {family: set() for family in Family}
    for family, nlri in sorted(set(prefixes), key=lambda p: (p[0].bits, p[1][0], p[1])):
        length = nlri[0]
        bits = family.octets * 8
        value = int.from_bytes(nlri[1:].ljust(family.octets, b"\0"), "big")
        if any((n, value >> (bits - n)) in covered[family] for n in range(length + 1)):
            continue
        covered[family].add((length, value >> (bits - length)))
        found.append((family, nlri))
    return tuple(prefix_text(*prefix) for prefix in found)


def keep(
    wanted: Plan,
    former: Plan,
    *,
    is_alive: Callable[[Address], bool],
    is_in_use: Callable[[str], bool],
) -> Plan:
    """`wanted`, and what stands that it does not have any more. `is_alive`: there is a session, or
    paths of one; `is_in_use`: a route of ours lies within this prefix."""
    addresses = wanted.neighbors
    # A row of `wanted` says why a Node is none; here it is said of an address that was one.
    gone = tuple(
        replace(row, why=Why.GONE)
        for address, row in former.neighbors.items()
        if address not in addresses and is_alive(address)
    )
    services, kept_services = _kept(wanted.services, former.services, is_in_use)
    pods, kept_pods = _kept(wanted.pods, former.pods, is_in_use)
    kept = tuple(sorted({*kept_services, *kept_pods}))
    taken = {row.address for row in gone}
    rows = tuple(r for r in wanted.rows if r.address not in taken or r.why is not Why.NOT_SELECTED)
    return replace(wanted, rows=rows + gone, services=services, pods=pods, kept=kept)


def _kept(
    wanted: tuple[str, ...], former: tuple[str, ...], is_in_use: Callable[[str], bool]
) -> tuple[tuple[str, ...], list[str]]:
    missing = set(former) - set(wanted)
    if not missing:
        return wanted, []
    covers = PrefixSet(wanted)
    kept = [text for text in sorted(missing) if not _lies_in(text, covers) and is_in_use(text)]
    return (*wanted, *kept), kept


def _lies_in(text: str, covers: PrefixSet) -> bool:
    network = ipaddress.ip_network(text)
    address = Address(network.network_address.packed)
    return covers.covers(family_of(address), make_nlri(address, network.prefixlen))


def configured(config: GatewayConfig, found: Plan, tier: GatewayTier | None) -> GatewayConfig:
    """The configuration that the program runs by. Raises ValueError for a tier whose values are
    none."""
    changes: dict[str, object] = {}
    if tier is not None:
        changes = {name: getattr(tier, name) for name in TIER_FIELDS}
        changes = {name: value for name, value in changes.items() if value is not None}
    if config.nodes is not None:
        changes["neighbors"] = [*config.neighbors, *_neighbors(config.nodes, found)]
        changes["expected_peers"] = config.expected_peers + found.expected
    return msgspec.structs.replace(config, **changes) if changes else config


def _neighbors(nodes: Nodes, found: Plan) -> Iterator[Neighbor]:
    written = nodes.import_
    # One for all: their rules are the same object then, and what these remember is shared.
    import_: Import = msgspec.structs.replace(
        written,
        services=[*written.services, *found.services],
        pods=[*written.pods, *found.pods],
        next_hop="peer",
    )
    terms = {name: getattr(nodes, name) for name in Terms.__struct_fields__ if name != "import_"}
    for address in sorted(found.neighbors, key=lambda a: (len(a), a)):
        yield Neighbor(address=address_text(address), import_=import_, **terms)


TIER_FIELDS = (
    "buckets", "hash_seed", "idle_timer_s", "move_deadline_s", "transition_idle_s",
    "transition_deadline_s",
)  # fmt: skip
MOVES_ALL = ("buckets", "hash_seed")
"""Another value of these is another bucket for every flow."""


def pending(running: GatewayConfig, wanted: GatewayConfig) -> str:
    """What a running gateway does not follow, in words; empty: nothing."""
    changes = [
        f"{name} {getattr(running, name)} -> {getattr(wanted, name)}"
        for name in MOVES_ALL
        if getattr(running, name) != getattr(wanted, name)
    ]
    return f"needs restart: would move all flows: {', '.join(changes)}" if changes else ""
