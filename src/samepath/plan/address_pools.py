"""IPAddressPools as something to look things up in: which pool an address is of, how many addresses
a pool has, which is the first that is free. Pure.

Used by `plan.allocation` and `plan.advertising`, which decide; here is only arithmetic. A pool may
be a /64: nothing is enumerated, a search walks over what is taken and stops at the first that is
not.

Two pools may not overlap: an address would be of both, and the answer to "which services may have
it" would hang on the order of reading. The newer is refused as a whole, of one second the one whose
name sorts later: a slip in a new pool changes nothing for the services of the others. Ranges of one
pool may overlap each other; they are merged.

Not done here: which pool a service may use.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from itertools import pairwise

from samepath.model.kinds import IPAddressPool
from samepath.model.net import Address, Family, family_of

Span = tuple[int, int]
"""First and last address, as numbers."""


def is_buggy(address: Address) -> bool:
    """Whether old firmware may take it for a network's or broadcast address: x.x.x.0, x.x.x.255."""
    return len(address) == 4 and address[3] in (0, 255)


class Pools:
    """The pools that stand, and those that are refused."""

    def __init__(self, pools: Iterable[IPAddressPool]) -> None:
        self.standing: dict[str, IPAddressPool] = {}
        """By name, the oldest first."""
        self.refused: dict[str, str] = {}
        """Name -> the pool that it overlaps."""
        self._spans: dict[tuple[str, Family], list[Span]] = {}
        self._firsts: dict[Family, list[int]] = {f: [] for f in Family}
        self._lasts: dict[Family, list[tuple[int, str]]] = {f: [] for f in Family}
        for pool in sorted(pools, key=lambda p: (p.created, p.name)):
            spans = {family: _merged(pool, family) for family in Family}
            other = self._overlap(spans)
            if other is not None:
                self.refused[pool.name] = other
                continue
            self.standing[pool.name] = pool
            for family, found in spans.items():
                self._spans[pool.name, family] = found
                for first, last in found:
                    at = bisect.bisect_left(self._firsts[family], first)
                    self._firsts[family].insert(at, first)
                    self._lasts[family].insert(at, (last, pool.name))

    def _overlap(self, spans: dict[Family, list[Span]]) -> str | None:
        for family, found in spans.items():
            for first, last in found:
                # What stands does not overlap, so only the last that begins before `last` can.
                at = bisect.bisect_right(self._firsts[family], last) - 1
                if at >= 0 and self._lasts[family][at][0] >= first:
                    return self._lasts[family][at][1]
        return None

    def pool_of(self, address: Address) -> IPAddressPool | None:
        """The standing pool whose ranges contain the address."""
        family, number = family_of(address), int.from_bytes(address, "big")
        at = bisect.bisect_right(self._firsts[family], number) - 1
        if at < 0 or self._lasts[family][at][0] < number:
            return None
        return self.standing[self._lasts[family][at][1]]

    def has(self, name: str, family: Family) -> bool:
        """Whether the pool has addresses of the family at all."""
        return bool(self._spans.get((name, family)))

    def capacity(self, name: str, family: Family) -> int:
        """How many addresses of the family the pool may give."""
        spans = self._spans.get((name, family), ())
        total = sum(last - first + 1 for first, last in spans)
        if family is Family.IPV4 and self.standing[name].avoid_buggy_ips:
            total -= sum(_buggy(first, last) for first, last in spans)
        return total

    def spans(self, name: str, family: Family) -> list[Span]:
        return self._spans.get((name, family), [])


class Search:
    """The first free addresses of one pool and family, one after the other. What was found taken is
    not looked at again, so nothing may become free while a Search is in use."""

    def __init__(self, pools: Pools, name: str, family: Family) -> None:
        self._spans = pools.spans(name, family)
        self._octets = family.octets
        self._avoids = pools.standing[name].avoid_buggy_ips
        self._span = 0
        self._next = self._spans[0][0] if self._spans else 0

    def first_free(self, is_taken: Callable[[Address], bool]) -> Address | None:
        while self._span < len(self._spans):
            while self._next <= self._spans[self._span][1]:
                address = self._next.to_bytes(self._octets, "big")
                if not is_taken(address) and not (self._avoids and is_buggy(address)):
                    return address
                self._next += 1
            self._span += 1
            if self._span < len(self._spans):
                self._next = self._spans[self._span][0]
        return None


def _merged(pool: IPAddressPool, family: Family) -> list[Span]:
    found: list[Span] = []
    numbers = sorted(
        (int.from_bytes(r.first, "big"), int.from_bytes(r.last, "big"))
        for r in pool.addresses
        if family_of(r.first) is family
    )
    for first, last in numbers:
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    assert all(one[1] < other[0] for one, other in pairwise(found))
    return found


def _buggy(first: int, last: int) -> int:
    """How many of first..last end in .0 or .255."""

    def below(number: int) -> int:
        """Of 0..number-1."""
        whole, rest = divmod(number, 256)
        return 2 * whole + (1 if rest > 0 else 0)

    return below(last + 1) - below(first)
