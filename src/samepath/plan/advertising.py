"""BGPAdvertisements: which service addresses go to which neighbour, and how. Pure.

Called by `programs.serving` (may an address be told at all, with the reason if not) and by
`programs.routing` (what one neighbour is told).

An address within an IPAddressPool is told as the BGPAdvertisements of that pool say, and not
without one. Any other is told to every neighbour, as the configuration's `advertise` says. So with
no pool and no BGPAdvertisement all is as if these kinds did not exist.

An advertisement counts where its node selectors select this node, for the addresses of its pools
(by name or by label; neither: all) that belong to a service that its service selectors select, and
for its peers (none: all). Several may meet in one prefix towards one neighbour: it has the
communities of all of them; of different localPref the first advertisement by name has its way, and
a later one is refused for that prefix.

Aggregates. With an aggregation length the prefix around an address is told in its place: as long as
any address within it is offered, active if any is active. Its weight is 1, whatever is within. The
gateways pick paths for all its addresses from one table: with a weight that followed the endpoints
each change of any one service would move buckets, and flows, of all the others. An aggregate that
would reach beyond its pool is refused for that pool: it would draw what is not ours.

What is wrong is refused with a reason (`Refused`) and disturbs no other advertisement: a community
that nobody has defined, or that is none; an aggregate wider than the pool; a different localPref.

Standards: MetalLB's BGPAdvertisement, IPAddressPool and Community for the vocabulary; RFC 1997, RFC
8092 (communities), RFC 4271 §5.1.5 (LOCAL_PREF), RFC 8326, draft-ietf-idr-link-bandwidth.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from samepath.bgp.communities import (
    LargeCommunity,
    parse_community,
    parse_large_community,
)
from samepath.model.cluster import Cluster, Service
from samepath.model.config import Advertise
from samepath.model.kinds import (
    BGPAdvertisement,
    IPAddressPool,
    Range,
    Selector,
    any_selects,
)
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    family_of,
    host_nlri,
    make_nlri,
    nlri_address,
    prefix_text,
)
from samepath.plan.services import Offer, Row, State, Why, service_addresses

AGGREGATE_WEIGHT = 1

Prefix = tuple[Family, Nlri]


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
class Terms:
    """How a prefix is told, besides its weight."""

    state: State
    weight: int
    local_pref: int | None = None
    communities: tuple[int, ...] = ()
    large_communities: tuple[LargeCommunity, ...] = ()


class Pools:
    """Which IPAddressPool an address is in. Should two overlap, that has it whose range begins
    later, or is later by name: the controller refuses such pools."""

    def __init__(self, pools: Iterable[IPAddressPool] = ()) -> None:
        entries = sorted(
            (len(part.first), part.first, pool.name, part.last)
            for pool in pools
            for part in pool.addresses
        )
        self._firsts = [entry[:2] for entry in entries]
        self._entries = entries
        self._reach: list[tuple[int, Address]] = []
        """The last address of all ranges up to this one."""
        for size, _, _, last in entries:
            self._reach.append(max((size, last), *self._reach[-1:]))

    def of(self, address: Address) -> str | None:
        wanted = (len(address), address)
        index = bisect_right(self._firsts, wanted) - 1
        while index >= 0 and self._reach[index] >= wanted:
            _, _, name, last = self._entries[index]
            if len(last) == len(address) and last >= address:
                return name
            index -= 1
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the BGPAdvertisements come to on this node."""

    pools: Pools = field(default_factory=Pools, compare=False)
    ranges: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    """What `pools` is made of."""
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
        pools=Pools(cluster.address_pools[name] for name in sorted(cluster.address_pools)),
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


def _too_wide(pool: IPAddressPool, lengths: Mapping[Family, int]) -> Prefix | None:
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


# -- Which addresses may be told ---------------------------------------------------------------


def untold(
    rules: Rules, cluster: Cluster, advertise: Advertise, neighbors: Collection[str]
) -> Mapping[tuple[str, Address], Why]:
    """(service, address) -> why nobody is to be told, for those of which that is so. `neighbors`:
    all names that our neighbours go by."""
    if not rules.ranges:
        return {}
    chosen = _Chosen(rules)
    found: dict[tuple[str, Address], Why] = {}
    for key, service in cluster.services.items():
        for address, _ in service_addresses(service, advertise):
            pool = rules.pools.of(address)
            if pool is not None:
                why = chosen.why_untold(pool, service, neighbors)
                if why is not None:
                    found[key, address] = why
    return found


class _Chosen:
    """The rules for a service at an address of a pool."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._of_pool: dict[str, tuple[Rule, ...]] = {}

    def of_pool(self, pool: str) -> tuple[Rule, ...]:
        if pool not in self._of_pool:
            self._of_pool[pool] = tuple(r for r in self._rules.rules if pool in r.pools)
        return self._of_pool[pool]

    def of(self, pool: str, service: Service) -> tuple[Rule, ...]:
        rules = self.of_pool(pool)
        if not any(rule.service_selectors for rule in rules):
            return rules  # one object for all services: most clusters have no such selectors
        return tuple(r for r in rules if any_selects(r.service_selectors, service.labels))

    def why_untold(self, pool: str, service: Service, neighbors: Collection[str]) -> Why | None:
        if not self.of_pool(pool):
            if pool in self._rules.faulty:
                return Why.ADVERTISEMENT_REFUSED
            elsewhere = pool in self._rules.elsewhere
            return Why.ADVERTISED_ELSEWHERE if elsewhere else Why.NO_ADVERTISEMENT
        rules = self.of(pool, service)
        if not rules:
            return Why.SERVICE_NOT_SELECTED
        if not any(rule.is_for(neighbors) for rule in rules):
            return Why.NO_SUCH_PEER
        return None


# -- What is told ------------------------------------------------------------------------------

Told = Mapping[Address, tuple[Rule, ...]]
"""Addresses within pools that are offered -> the rules for them."""


def told(rules: Rules, cluster: Cluster, rows: Iterable[Row]) -> Told:
    """Of services that share an address those count that are offered."""
    if not rules.ranges:
        return {}
    chosen = _Chosen(rules)
    found: dict[Address, tuple[Rule, ...]] = {}
    for row in rows:
        if row.address is None or row.why.state is State.WITHDRAWN:
            continue
        pool = rules.pools.of(row.address)
        if pool is None:
            continue
        new = chosen.of(pool, cluster.services[row.service])
        old = found.setdefault(row.address, new)
        if old != new:
            both = {rule.name: rule for rule in (*old, *new)}
            found[row.address] = tuple(both[name] for name in sorted(both))
    return found


def deadlines(said: Told) -> Mapping[Address, float]:
    """Of drains, where an advertisement says so; the longest of several."""
    found: dict[Address, float] = {}
    for address, rules in said.items():
        wanted = [r.drain_deadline_s for r in rules if r.drain_deadline_s is not None]
        if wanted:
            found[address] = max(wanted)
    return found


def terms(
    offers: Mapping[Address, Offer], said: Told, names: Collection[str]
) -> tuple[Mapping[Prefix, Terms], tuple[Refused, ...]]:
    """All service prefixes for a neighbour that goes by `names`, and what of the rules was not
    followed."""
    found: dict[Prefix, Terms] = {}
    refused: dict[tuple[str, str], Refused] = {}
    aggregates: dict[Prefix, dict[str, tuple[Rule, list[Offer]]]] = {}
    # By identity: most addresses share one of a few tuples, and equal offers.
    for_it: dict[int, tuple[Rule, ...]] = {}
    known: dict[tuple[int, Offer], Terms] = {}
    for address, offer in offers.items():
        family = family_of(address)
        host = family, host_nlri(address)
        rules = said.get(address)
        if rules is None:
            found[host] = Terms(offer.state, offer.weight)
            continue
        if id(rules) not in for_it:
            for_it[id(rules)] = tuple(r for r in rules if r.is_for(names))
        single: dict[str, tuple[Rule, list[Offer]]] = {}
        for rule in for_it[id(rules)]:
            length = rule.lengths.get(family, family.bits)
            if length == family.bits:
                single[rule.name] = rule, [offer]
            else:
                part = aggregates.setdefault((family, make_nlri(address, length)), {})
                part.setdefault(rule.name, (rule, []))[1].append(offer)
        if single:
            key = id(rules), offer
            if key not in known:
                known[key] = _terms(host, single, refused)
            found[host] = known[key]
    for prefix, by_rule in aggregates.items():
        found[prefix] = _terms(prefix, by_rule, refused)
    return found, tuple(refused.values())


def _terms(
    prefix: Prefix,
    by_rule: Mapping[str, tuple[Rule, list[Offer]]],
    refused: dict[tuple[str, str], Refused],
) -> Terms:
    family, nlri = prefix
    followed: list[Rule] = []
    offers: list[Offer] = []
    preference: tuple[int, str] | None = None
    for name in sorted(by_rule):
        rule, its_offers = by_rule[name]
        if rule.local_pref is not None:
            if preference is not None and preference[0] != rule.local_pref:
                text = (
                    f"{prefix_text(family, nlri)}: {rule.local_pref}, and {preference[1]} has "
                    f"{preference[0]}"
                )
                why = WhyRefused.OTHER_LOCAL_PREF
                refused.setdefault((name, preference[1]), Refused(name, why, text))
                continue
            preference = (rule.local_pref, name)
        followed.append(rule)
        offers += its_offers
    state = State.ACTIVE if any(o.state is State.ACTIVE for o in offers) else State.DRAINING
    is_aggregate = nlri[0] < family.bits
    return Terms(
        state=state,
        weight=AGGREGATE_WEIGHT if is_aggregate else offers[0].weight,
        local_pref=None if preference is None else preference[0],
        communities=tuple(sorted({c for r in followed for c in r.communities})),
        large_communities=tuple(sorted({c for r in followed for c in r.large_communities})),
    )
