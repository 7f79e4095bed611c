"""The BGPAdvertisements that count on this node, as rules that `plan.advertising` follows. Pure.

A rule is what one BGPAdvertisement comes to: its pools by name, its communities as numbers. What is
wrong with one is refused with a reason (`Refused`) and disturbs no other: a community that nobody
has defined, or that is none, takes the whole of it, since it may be there to keep the route from
spreading; an aggregate that would reach beyond a pool takes that pool alone.

Standards: MetalLB's BGPAdvertisement, IPAddressPool and Community for the vocabulary; RFC 1997, RFC
8092 (communities).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from samepath.bgp.communities import (
    LargeCommunity,
    parse_community,
    parse_large_community,
)
from samepath.model.cluster import Cluster
from samepath.model.kinds import (
    BGPAdvertisement,
    IPAddressPool,
    Range,
    Selector,
    any_selects,
)
from samepath.model.net import (
    Family,
    Nlri,
    family_of,
    make_nlri,
    nlri_address,
    prefix_text,
)
from samepath.plan.address_pools import Pools


class WhyRefused(enum.Enum):
    """What is wrong with a BGPAdvertisement, or with a part of it."""

    UNKNOWN_COMMUNITY = "no Community object defines"
    BAD_COMMUNITY = "is no community"
    WIDER_THAN_POOL = "the aggregate reaches beyond the pool"
    OTHER_LOCAL_PREF = "another BGPAdvertisement gives the prefix another localPref"
    UNKNOWN_POOL = "there is no such IPAddressPool"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Refused:
    advertisement: str
    why: WhyRefused
    detail: str

    @property
    def text(self) -> str:
        return f"BGPAdvertisement {self.advertisement}: {self.why.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A BGPAdvertisement that counts on this node."""

    name: str
    pools: frozenset[str]
    peers: frozenset[str] = frozenset()
    """Empty: all."""
    service_selectors: tuple[Selector, ...] = ()
    lengths: Mapping[Family, int] = field(default_factory=dict, hash=False)
    local_pref: int | None = None
    communities: tuple[int, ...] = ()
    large_communities: tuple[LargeCommunity, ...] = ()
    drain_deadline_s: float | None = None

    def is_for(self, names: Collection[str]) -> bool:
        """Whether a neighbour that goes by these names is told."""
        return not self.peers or not self.peers.isdisjoint(names)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the BGPAdvertisements come to on this node."""

    pools: Pools = field(default_factory=lambda: Pools(()), compare=False)
    ranges: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    """Of all of them."""
    rules: tuple[Rule, ...] = ()
    """By name."""
    elsewhere: frozenset[str] = frozenset()
    """Pools that have an advertisement, but none that selects this node."""
    faulty: frozenset[str] = frozenset()
    """Pools of which an advertisement was refused."""
    refused: tuple[Refused, ...] = ()


def make_rules(cluster: Cluster, labels: Mapping[str, str]) -> Rules:
    """`labels`: of our Node."""
    refused: list[Refused] = []
    rules: list[Rule] = []
    elsewhere: set[str] = set()
    faulty: set[str] = set()
    aliases = _aliases(cluster)
    for name in sorted(cluster.advertisements):
        wanted = cluster.advertisements[name]
        pools = _pools(cluster, wanted, refused)
        if not any_selects(wanted.node_selectors, labels):
            elsewhere |= pools
            continue
        rule, faults = _rule(cluster, wanted, pools, aliases)
        refused += faults
        faulty |= pools - (rule.pools if rule is not None else frozenset())
        if rule is not None:
            rules.append(rule)
    return Rules(
        pools=Pools(cluster.address_pools.values()),
        ranges={name: pool.addresses for name, pool in sorted(cluster.address_pools.items())},
        rules=tuple(rules),
        elsewhere=frozenset(elsewhere),
        faulty=frozenset(faulty),
        refused=tuple(refused),
    )


def _pools(cluster: Cluster, wanted: BGPAdvertisement, refused: list[Refused]) -> frozenset[str]:
    if not wanted.ip_address_pools and not wanted.pool_selectors:
        return frozenset(cluster.address_pools)
    found = {name for name in wanted.ip_address_pools if name in cluster.address_pools}
    for name in wanted.ip_address_pools:
        if name not in found:
            refused.append(Refused(wanted.name, WhyRefused.UNKNOWN_POOL, name))
    if wanted.pool_selectors:
        found |= {
            name
            for name, pool in cluster.address_pools.items()
            if any_selects(wanted.pool_selectors, pool.labels)
        }
    return frozenset(found)


def _aliases(cluster: Cluster) -> dict[str, str]:
    """Names of communities. Of two of one name that of the first object by name counts."""
    found: dict[str, str] = {}
    for name in sorted(cluster.communities):
        for alias, value in cluster.communities[name].aliases.items():
            found.setdefault(alias, value)
    return found


def _rule(
    cluster: Cluster, wanted: BGPAdvertisement, pools: frozenset[str], aliases: Mapping[str, str]
) -> tuple[Rule | None, list[Refused]]:
    refused: list[Refused] = []
    plain: list[int] = []
    large: list[LargeCommunity] = []
    for text in wanted.communities:
        why = _add_community(aliases.get(text, text), plain, large)
        if why is not None:
            refused.append(Refused(wanted.name, why, text))
    if refused:
        return None, refused
    fitting = set()
    for name in sorted(pools):
        wide = _too_wide(cluster.address_pools[name], wanted.aggregation_length)
        if wide is None:
            fitting.add(name)
        else:
            text = f"{name}: {prefix_text(*wide)}"
            refused.append(Refused(wanted.name, WhyRefused.WIDER_THAN_POOL, text))
    rule = Rule(
        name=wanted.name,
        pools=frozenset(fitting),
        peers=frozenset(wanted.peers),
        service_selectors=wanted.service_selectors,
        lengths=wanted.aggregation_length,
        local_pref=wanted.local_pref,
        communities=tuple(plain),
        large_communities=tuple(large),
        drain_deadline_s=wanted.drain_deadline_s,
    )
    return rule, refused


def _add_community(text: str, plain: list[int], large: list[LargeCommunity]) -> WhyRefused | None:
    try:
        if text.startswith("large:"):
            large.append(parse_large_community(text.removeprefix("large:")))
        else:
            plain.append(parse_community(text))
    except ValueError:
        return WhyRefused.BAD_COMMUNITY if ":" in text else WhyRefused.UNKNOWN_COMMUNITY
    return None


def _too_wide(pool: IPAddressPool, lengths: Mapping[Family, int]) -> tuple[Family, Nlri] | None:
    """An aggregate of the pool's addresses that reaches beyond the pool."""
    for first, last, family in _joined(pool.addresses):
        length = lengths.get(family, family.bits)
        for edge, is_lower in ((first, True), (last, False)):
            nlri = make_nlri(edge.to_bytes(family.octets, "big"), length)
            low = int.from_bytes(nlri_address(family, nlri), "big")
            high = low + (1 << (family.bits - length)) - 1
            if (is_lower and low < first) or (not is_lower and high > last):
                return family, nlri
    return None


def _joined(ranges: Iterable[Range]) -> list[tuple[int, int, Family]]:
    """First and last as numbers; what touches or overlaps is one."""
    joined: list[tuple[int, int, Family]] = []
    for part in sorted(ranges, key=lambda r: (len(r.first), r.first)):
        first, last = (int.from_bytes(a, "big") for a in (part.first, part.last))
        family = family_of(part.first)
        if joined and joined[-1][2] is family and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]), family)
        else:
            joined.append((first, last, family))
    return joined
