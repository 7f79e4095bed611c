"""BGPAdvertisements: which service addresses go to which neighbour, and how. Pure.

Called by `programs.serving` (may an address be told at all, with the reason if not) and by
`programs.routing` (what one neighbour is told).

An address within an IPAddressPool is told as the BGPAdvertisements of that pool say, and not
without one (a pool that is refused, `plan.address_pools`, has none). Any other is told to every
neighbour, as the configuration's `advertise` says. So with no pool and no BGPAdvertisement all is
as if these kinds did not exist.

An advertisement counts where its node selectors select this node, for the addresses of its pools
(by name or by label; neither: all) that belong to a service that its service selectors select, and
for its peers (none: all). Several may meet in one prefix towards one neighbour: it has the
communities of all of them; of different localPref the first advertisement by name has its way, and
a later one is refused for that prefix.

Aggregates. With an aggregation length the prefix around an address is told in its place: as long as
any address within it is offered, active if any is active. Its weight is 1, whatever is within. The
gateways pick paths for all its addresses from one table: with a weight that followed the endpoints
each change of any one service would move buckets, and flows, of all the others. An aggregate never
reaches beyond its pool: it would draw what is not ours.

What a BGPAdvertisement comes to, and what is wrong with it: `plan.advertising_rules`.

Standards: MetalLB's BGPAdvertisement and IPAddressPool for the vocabulary; RFC 4271 §5.1.5
(LOCAL_PREF), RFC 8326, draft-ietf-idr-link-bandwidth.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from samepath.bgp.communities import LargeCommunity
from samepath.model.cluster import Cluster, Service
from samepath.model.config import Advertise
from samepath.model.kinds import any_selects
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    family_of,
    host_nlri,
    make_nlri,
    prefix_text,
)
from samepath.plan.advertising_rules import Refused, Rule, Rules, WhyRefused, make_rules
from samepath.plan.services import Offer, Row, State, Why, service_addresses

__all__ = [
    "Refused",
    "Rules",
    "Terms",
    "Told",
    "deadlines",
    "make_rules",
    "terms",
    "told",
    "untold",
]

AGGREGATE_WEIGHT = 1

Prefix = tuple[Family, Nlri]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a prefix is told, besides its weight."""

    state: State
    weight: int
    local_pref: int | None = None
    communities: tuple[int, ...] = ()
    large_communities: tuple[LargeCommunity, ...] = ()


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
            pool = rules.pools.pool_of(address)
            if pool is not None:
                why = chosen.why_untold(pool.name, service, neighbors)
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
        pool = rules.pools.pool_of(row.address)
        if pool is None:
            continue
        new = chosen.of(pool.name, cluster.services[row.service])
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
    # By identity: most addresses share one of a few tuples, and of a few offers.
    for_it: dict[int, tuple[Rule, ...]] = {}
    known: dict[tuple[int, Offer], Terms] = {}
    plain: dict[int, Terms] = {}
    for address, offer in offers.items():
        host = _host(address)
        rules = said.get(address)
        if rules is None:
            if id(offer) not in plain:
                plain[id(offer)] = Terms(offer.state, offer.weight)
            found[host] = plain[id(offer)]
            continue
        if id(rules) not in for_it:
            for_it[id(rules)] = tuple(r for r in rules if r.is_for(names))
        family, single = host[0], dict[str, tuple[Rule, list[Offer]]]()
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


@functools.lru_cache(maxsize=65536)
def _host(address: Address) -> Prefix:
    return family_of(address), host_nlri(address)


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
