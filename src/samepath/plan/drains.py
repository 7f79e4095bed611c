"""Which drains run, and which are over: the one thing of a service that takes time.

Kept by `programs.agent`, which tells what drains now (`plan.services.draining`) and how many flows
are left (`apply.conntrack`). A drain is over when no flow is left, or at the deadline; it stays
over for as long as its reason lasts, so that a service is not advertised again in between. Sans-IO:
`now` is an argument.

Not done: the time that a drain has lasted is forgotten at a restart; it begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from samepath.model.net import Address

LEAST_S = 2.0
"""A drain lasts at least so long: until the gateways have heard of it, new flows still come."""


@dataclass(slots=True)
class Drain:
    since: float
    least_until: float
    flows: int | None = None
    """Living flows when they were counted last."""
    over: bool = False


class Drains:
    def __init__(self) -> None:
        self.rows: dict[Address, Drain] = {}

    @property
    def over(self) -> frozenset[Address]:
        return frozenset(a for a, drain in self.rows.items() if drain.over)

    @property
    def running(self) -> frozenset[Address]:
        return frozenset(a for a, drain in self.rows.items() if not drain.over)

    def update(self, draining: Collection[Address], now: float, *, starting: bool = False) -> None:
        """What drains now. `starting`: we have just begun, and the gateways know of it already."""
        for address in self.rows.keys() - set(draining):
            del self.rows[address]
        for address in set(draining) - self.rows.keys():
            self.rows[address] = Drain(now, now if starting else now + LEAST_S)

    def counted(
        self,
        flows: Mapping[Address, int] | None,
        now: float,
        deadline_s: float,
        own_deadlines_s: Mapping[Address, float] | None = None,
    ) -> frozenset[Address]:
        """Flows left of the running drains (None: they could not be counted). `own_deadlines_s`: of
        addresses that have another than `deadline_s`. Gives the drains that end by it."""
        own = own_deadlines_s or {}
        ended = set()
        for address in self.running:
            drain = self.rows[address]
            if flows is not None:
                drain.flows = flows.get(address, 0)
            idle = flows is not None and drain.flows == 0 and now >= drain.least_until
            if idle or now >= drain.since + own.get(address, deadline_s):
                drain.over = True
                ended.add(address)
        return frozenset(ended)
