"""Which Service gets which addresses out of which IPAddressPool, and why not. Pure.

Called by `programs.controller` in each pass, with everything; what comes out is what the Services'
states should say. The store is the Services themselves: what stands in
`status.loadBalancer.ingress` is held. So the same input gives the same answer, an answer that was
written changes nothing when it is read again, and a restart moves nobody.

- Services come in order of age, then name. First all keep what they hold, then those that lack
  something choose; so no service takes an address that another holds.
- Of two that hold one address and may not share it that one keeps it to which we gave it, or else
  the older. The other is given another, unless it had asked for this one.
- What is held stays while the service lives, even if its pool was shrunk, deleted or closed to it:
  connections are worth more than order; it is said in `notes`. Only the service's own wish ends it:
  another address or pool that it asks for, and then not before that can be given; or a family that
  it does not want any more.
- An address that still stands in any Service's state is not given to another one. So what is freed
  in one pass is given in a later one, when the writing of the first is done.
- An address that is in no pool of ours and that we did not give is somebody else's: the service is
  left alone, unless it names our class, or asks for one of our pools or addresses.
- Pools: those that the service asks for; else those whose serviceAllocation matches it, by
  priority (the lower first, 0 last), then those without. Within a pool the lowest free address.
- Sharing: the same key, different ports, both of policy Cluster, or both of policy Local with the
  same selector in the same namespace (else a node could not serve both).

The vocabulary and the rules for one service and one pool are in `plan.allocation_rules`.

Standards: core/v1 Service; MetalLB's IPAddressPool and its annotations for the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from samepath.model.cluster import Service
from samepath.model.kinds import IPAddressPool
from samepath.model.net import Address, Family, address_text, family_of
from samepath.plan.address_pools import Pools, Search, is_buggy
from samepath.plan.allocation_rules import (
    Outcome,
    Plan,
    PoolUse,
    Situation,
    Why,
    families_of,
    is_ours,
    may_share,
    may_use,
)

__all__ = ["Outcome", "Plan", "PoolUse", "Situation", "Why", "allocate"]


def allocate(situation: Situation) -> Plan:
    return _Pass(situation).plan()


@dataclass(frozen=True, slots=True)
class _Failure:
    why: Why
    detail: str = ""


class _Pass:
    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.pools = Pools(situation.pools.values())
        self.holders: dict[Address, list[Service]] = {}
        """Who keeps or gets an address in this pass."""
        self.written: dict[Address, list[Service]] = {}
        """Whose state has an address now, whatever is to become of it."""
        self.shared: dict[str, dict[Address, None]] = {}
        """Addresses by sharing key."""
        self.others: set[Address] = set(situation.avoid)
        self.searches: dict[tuple[str, Family], Search] = {}
        self.open: dict[tuple[str, tuple[str, str]], bool] = {}

    def plan(self) -> Plan:
        ours: list[Service] = []
        outcomes: dict[str, Outcome] = {}
        for service in sorted(self.situation.services.values(), key=lambda s: (s.created, s.key)):
            for address in service.load_balancer_ips:
                self.written.setdefault(address, []).append(service)
            self.others.update(service.external_ips)
            why = is_ours(self.situation, service)
            if why is not Why.ASSIGNED:
                outcomes[service.key] = Outcome(why)
            elif self._is_anothers(service):
                outcomes[service.key] = self._left_alone(service)
            else:
                ours.append(service)
        # Of two with one address that has it to which we gave it; of two such the older.
        ours_first = sorted(ours, key=lambda service: not service.allocation.pools)
        kept = {service.key: self._keep(service) for service in ours_first}
        for service in ours:
            outcomes[service.key] = self._outcome(service, kept[service.key])
        return Plan(outcomes, self._use())

    def _hold(self, service: Service, address: Address) -> None:
        self.holders.setdefault(address, []).append(service)
        if service.request.sharing_key is not None:
            self.shared.setdefault(service.request.sharing_key, {})[address] = None

    # -- What is held

    def _is_anothers(self, service: Service) -> bool:
        held, request = service.load_balancer_ips, service.request
        if not held or service.allocation.pools or service.load_balancer_class is not None:
            return False
        if any(self.pools.pool_of(address) for address in (*held, *request.addresses)):
            return False
        return not any(name in self.situation.pools for name in request.pools)

    def _left_alone(self, service: Service) -> Outcome:
        texts = ", ".join(map(address_text, service.load_balancer_ips))
        return Outcome(Why.NOT_FROM_US, service.load_balancer_ips, detail=texts)

    def _keep(self, service: Service) -> dict[Family, Address]:
        """What it holds and may go on holding: one address a family."""
        wanted = families_of(service)
        kept: dict[Family, Address] = {}
        asked = service.request.addresses
        # Should there be several of a family, the one that it asks for is kept.
        for address in sorted(service.load_balancer_ips, key=lambda a: a not in asked):
            family = family_of(address)
            if family in kept or (wanted and family not in wanted):
                continue
            if all(may_share(service, other) for other in self.holders.get(address, ())):
                kept[family] = address
                self._hold(service, address)
        return kept

    def _notes(self, service: Service, address: Address) -> list[str]:
        """What is to be said of an address that is kept."""
        pool = self.pools.pool_of(address)
        text = address_text(address)
        if pool is None:
            refused = [name for name in service.allocation.pools if name in self.pools.refused]
            if refused:
                name = refused[0]
                other = self.pools.refused[name]
                return [f"{text} is kept, but its pool {name} is refused: it overlaps {other}"]
            return [f"{text} is kept, but no IPAddressPool has it any more"]
        if not self._may_use(pool, service):
            return [f"{text} is kept, but its pool {pool.name} is not for this service any more"]
        return []

    def _is_wished(self, service: Service, address: Address) -> bool:
        """Whether nothing that the service asks for speaks against an address that it has."""
        asked = {family_of(a): a for a in service.request.addresses}
        if asked.get(family_of(address), address) != address:
            return False
        pools = service.request.pools
        if not pools or family_of(address) in asked:
            return True
        pool = self.pools.pool_of(address)
        names = (pool.name,) if pool is not None else service.allocation.pools
        return any(name in pools for name in names)

    # -- What is lacking

    def _outcome(self, service: Service, kept: dict[Family, Address]) -> Outcome:
        found, failures = dict(kept), dict[Family, _Failure]()
        wanted = families_of(service)
        failure = _misunderstood(service, wanted)
        if failure is None:
            lacking = [f for f in wanted if f not in kept or not self._is_wished(service, kept[f])]
            chosen, failures = self._choose(service, lacking, kept)
            if service.request.dual_stack == "RequireDualStack" and failures:
                # Both or none; but what is held is not taken away for that.
                chosen = {f: a for f, a in chosen.items() if f in kept}
            for address in chosen.values():
                self._hold(service, address)
            found.update(chosen)
        notes = [
            note
            for family, address in kept.items()
            if found[family] == address
            for note in self._notes(service, address)
        ]
        if failures:
            failure = next(iter(failures.values()))
            lacks_one = service.request.dual_stack == "PreferDualStack" and found
            if lacks_one and not any(f in found or self._asked(service, f) for f in failures):
                family = next(iter(failures))
                notes.append(f"no {family.label} address: {failure.why.value} ({failure.detail})")
                failure = None
        addresses = tuple(found[f] for f in (wanted or found) if f in found)
        pools = self._sources(service, addresses)
        if failure is None:
            return Outcome(Why.ASSIGNED, addresses, pools, notes=tuple(notes))
        return Outcome(failure.why, addresses, pools, failure.detail, tuple(notes))

    def _asked(self, service: Service, family: Family) -> bool:
        return any(family_of(a) is family for a in service.request.addresses)

    def _sources(self, service: Service, addresses: Iterable[Address]) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for address in addresses:
            pool = self.pools.pool_of(address)
            # Of an address that no pool has any more, the name of the former one.
            former = service.allocation.pools or ("(no pool)",)
            names.update(dict.fromkeys((pool.name,) if pool is not None else former))
        return tuple(names)

    def _choose(
        self, service: Service, lacking: list[Family], kept: Mapping[Family, Address]
    ) -> tuple[dict[Family, Address], dict[Family, _Failure]]:
        chosen: dict[Family, Address] = {}
        failures: dict[Family, _Failure] = {}
        asked = {family_of(a): a for a in service.request.addresses}
        unasked = [family for family in lacking if family not in asked]
        for family in lacking:
            if family in asked:
                failure = self._refusal(service, asked[family])
                if failure is None:
                    chosen[family] = asked[family]
                else:
                    failures[family] = failure
        if unasked:
            names, failure = self._candidates(service)
            beside = [*chosen.values(), *(a for f, a in kept.items() if f not in lacking)]
            for family, name in self._spread(service, unasked, names, beside).items():
                address = self._first(service, name, family) if name is not None else None
                if address is not None:
                    chosen[family] = address
                else:
                    failures[family] = failure or self._nothing(names, family)
        return chosen, failures

    def _spread(
        self, service: Service, families: list[Family], names: list[str], beside: list[Address]
    ) -> dict[Family, str | None]:
        """The pool of each family: one that has both, if there is one."""
        near = {pool.name for a in beside if (pool := self.pools.pool_of(a)) is not None}
        ordered = sorted(names, key=lambda name: name not in near)
        for name in ordered:
            if all(self._first(service, name, family) is not None for family in families):
                return dict.fromkeys(families, name)
        return {
            family: next((n for n in ordered if self._first(service, n, family) is not None), None)
            for family in families
        }

    def _candidates(self, service: Service) -> tuple[list[str], _Failure | None]:
        """The pools that it may have an unasked address of, in order; or why there is none."""
        if not self.situation.pools:
            return [], _Failure(Why.NO_POOL)
        standing, asked = self.pools.standing, service.request.pools
        if asked:
            missing = [name for name in asked if name not in standing]
            names = [n for n in asked if n in standing and self._may_use(standing[n], service)]
            if not names and missing:
                return [], _Failure(Why.NO_SUCH_POOL, ", ".join(map(self._excuse, missing)))
            why_not = _Failure(Why.NO_POOL_FOR_IT, f"asks for {', '.join(asked)}")
            return names, None if names else why_not
        usable = [p for p in standing.values() if p.auto_assign and self._may_use(p, service)]
        usable.sort(key=_preference)
        detail = f"of {_named(self.situation.pools)}"
        return [p.name for p in usable], None if usable else _Failure(Why.NO_POOL_FOR_IT, detail)

    def _excuse(self, name: str) -> str:
        other = self.pools.refused.get(name)
        return f"{name}, which is refused: it overlaps {other}" if other else name

    def _may_use(self, pool: IPAddressPool, service: Service) -> bool:
        if pool.allocation is None:
            return True
        return may_use(pool, service, self.situation.namespaces)

    def _first(self, service: Service, name: str, family: Family) -> Address | None:
        key = service.request.sharing_key
        for address in self.shared.get(key, ()) if key is not None else ():
            pool = self.pools.pool_of(address)
            is_there = pool is not None and pool.name == name and family_of(address) is family
            if is_there and self._is_free(service, address):
                return address
        search = self.searches.get((name, family))
        if search is None:
            search = self.searches[name, family] = Search(self.pools, name, family)
        return search.first_free(self._is_taken)

    def _is_taken(self, address: Address) -> bool:
        return address in self.holders or address in self.written or address in self.others

    def _others_at(self, service: Service, address: Address) -> list[Service]:
        """Those that have the address and may not share it with the service."""
        found = (*self.holders.get(address, ()), *self.written.get(address, ()))
        return [o for o in found if o.key != service.key and not may_share(service, o)]

    def _is_free(self, service: Service, address: Address) -> bool:
        return not self._others_at(service, address)

    def _refusal(self, service: Service, address: Address) -> _Failure | None:
        """Why it cannot have the address that it asks for."""
        text = address_text(address)
        pool = self.pools.pool_of(address)
        if pool is None:
            return _Failure(Why.NOT_IN_POOL, text)
        asked = service.request.pools
        if not self._may_use(pool, service) or (asked and pool.name not in asked):
            return _Failure(Why.NOT_IN_POOL, f"{text} is of {pool.name}")
        if pool.avoid_buggy_ips and is_buggy(address):
            return _Failure(Why.BUGGY, f"{text} of {pool.name}")
        others = self._others_at(service, address)
        if others:
            same_key = service.request.sharing_key is not None and all(
                o.request.sharing_key == service.request.sharing_key for o in others
            )
            clash = ": ports, policy or selector forbid to share it" if same_key else ""
            return _Failure(Why.TAKEN, f"{text} is {others[0].key}'s{clash}")
        return None

    def _nothing(self, names: list[str], family: Family) -> _Failure:
        having = [name for name in names if self.pools.has(name, family)]
        if not having:
            return _Failure(Why.NO_POOL_OF_FAMILY, f"{family.label}: {_named(names)}")
        return _Failure(Why.EXHAUSTED, f"{family.label}: {_named(having)}")

    # -- Pools

    def _use(self) -> dict[str, PoolUse]:
        assigned = {(name, family): 0 for name in self.pools.standing for family in Family}
        unusable = dict(assigned)
        for address in self.holders.keys() | self.written.keys() | self.others:
            pool = self.pools.pool_of(address)
            if pool is None:
                continue
            at = pool.name, family_of(address)
            assigned[at] += address in self.holders
            unusable[at] += not (pool.avoid_buggy_ips and is_buggy(address))
        made = {name: PoolUse(refused_for=other) for name, other in self.pools.refused.items()}
        for name in self.pools.standing:
            capacity = {f: self.pools.capacity(name, f) for f in Family}
            made[name] = PoolUse(
                assigned={f: assigned[name, f] for f in Family},
                available={f: capacity[f] - unusable[name, f] for f in Family},
            )
        return made


def _misunderstood(service: Service, wanted: tuple[Family, ...]) -> _Failure | None:
    if service.request.problem:
        return _Failure(Why.BAD_REQUEST, service.request.problem)
    if not wanted:
        return _Failure(Why.NO_FAMILY)
    strange = [a for a in service.request.addresses if family_of(a) not in wanted]
    if strange:
        return _Failure(Why.WRONG_FAMILY, ", ".join(map(address_text, strange)))
    return None


def _preference(pool: IPAddressPool) -> tuple[bool, float, str]:
    """Pools that are meant for some services first, of these the lowest priority; 0 is last."""
    if pool.allocation is None:
        return True, 0.0, pool.name
    return False, pool.allocation.priority or float("inf"), pool.name


def _named(names: Iterable[str]) -> str:
    """Some names, as many as one reads."""
    every = sorted(names)
    more = f" and {len(every) - 5} more" if len(every) > 5 else ""
    return ", ".join(every[:5]) + more
