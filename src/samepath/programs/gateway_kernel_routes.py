"""Services out of a routing daemon's routes: the gateway's source in place of its own BGP.

With `kernel_routes` in the configuration FRR or BIRD, in the same network namespace, speaks BGP and
has its routes in the kernel. After any news of routes, next hops or links they are read (in a
thread, for at most a twentieth of a processor) and offered as a RIB would be: `paths`,
`take_changed`. `plan.kernel_routes` makes paths of them, `plan.gateway` the rest.

A route that the daemon takes away is a withdrawn path. A daemon that ends or is started anew is a
lost source: it takes its routes away without anybody having withdrawn them (zebra, when bgpd ends;
BIRD, when it begins), and they come back one next hop at a time. So the last known state stands
from the moment when its processes (`DAEMONS`, looked for in our namespace) are other ones than
before, until what went is back, or for `selection_deferral_s`. A daemon that takes its routes away
before it ends, as `birdc down` does, has withdrawn them: BIRD's `persist` and `graceful restart` of
the kernel protocol keep them.

It is also what says when the gateway is in sync, as `gateway_sync.Deferral` does with BGP.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from samepath.apply.settings import Finding, Severity, processes
from samepath.bgp.decision import PathSet
from samepath.bgp.transport import Speaker
from samepath.model.config import GatewayConfig, KernelRoutes
from samepath.model.net import Address, Family, Nlri, PrefixSet, address_text, prefix_text
from samepath.model.route_protocols import ZEBRA, number
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Group, NextHop, Route
from samepath.netlink.own_table import TableKernel
from samepath.plan.kernel_routes import (
    Choice,
    Hop,
    Prefix,
    Seen,
    Taken,
    addresses,
    choose,
    decide,
    missing,
    paths,
)
from samepath.plan.sync import Sync, Why

log = logging.getLogger("samepath.gateway")

DAEMONS = frozenset({"zebra", "bgpd", "bird"})
READ_SHARE = 0.05
PAUSE_S = 0.02
"""Between two readings, at least."""
READ_BACK_S = 30.0
TOGETHER_S = 30.0
"""Next hops that went within so long before the last one did went together."""
REFUSED_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon has in the kernel."""

    choice: Choice
    daemons: frozenset[tuple[str, int]]
    """Names and process ids."""
    metrics: frozenset[int]
    zebra_objects: bool
    """Some of its routes lead to next hop objects of zebra's."""


def read(config: KernelRoutes) -> Reading:
    """In a thread, with a kernel of its own. Raises NetlinkError."""
    within = PrefixSet(config.services)
    protocols = {number(name) for name in config.protocols}
    with closing(TableKernel()) as kernel:
        objects = Objects(kernel)
        seen = []
        for family in Family:
            routes = kernel.routes_of(family, protocols, partial(within.covers, family))
            seen += [objects.seen(route) for route in routes]
        return Reading(
            choose(seen),
            frozenset(processes(DAEMONS)),
            frozenset(s.metric for s in seen),
            objects.of_zebra,
        )


@dataclass(slots=True)
class Objects:
    """Next hop objects that routes lead to, each read once."""

    kernel: RealKernel
    of_zebra: bool = False
    _known: dict[int, NextHop | Group | None] = field(default_factory=dict)

    def seen(self, route: Route) -> Seen:
        hops = list(self._hops(route))
        named = tuple(Hop(gateway, weight) for gateway, weight in hops if gateway is not None)
        return Seen(route.family, route.nlri, route.metric, named, len(hops) - len(named))

    def _hops(self, route: Route) -> Iterator[tuple[Address | None, int]]:
        if route.nexthop_id is not None:
            yield from self._of_object(route.nexthop_id)
        elif route.multipath:
            for hop in route.multipath:
                yield hop.gateway, hop.weight
        else:
            yield route.gateway, 1

    def _of_object(self, id_: int) -> Iterator[tuple[Address | None, int]]:
        found = self._get(id_)
        if isinstance(found, Group):
            for index, member in enumerate(found.members):
                weight = found.weights[index] if found.weights else 1
                one = self._get(member)
                yield (one.gateway if isinstance(one, NextHop) else None), weight
        else:
            yield (found.gateway if found is not None else None), 1

    def _get(self, id_: int) -> NextHop | Group | None:
        if id_ not in self._known:
            self._known[id_] = found = self.kernel.nexthop(id_)
            self.of_zebra |= found is not None and found.protocol == ZEBRA
        return self._known[id_]


class DaemonRoutes:
    """A source of paths (`Paths`) and what tells when it is in sync."""

    def __init__(self, adopted: Mapping[Prefix, frozenset[Address]], now: float) -> None:
        """`adopted`: the next hops of the adopted tables."""
        self.due_at = -math.inf
        self.findings: list[Finding] = []
        self.reading: Reading | None = None
        self.wanted = dict(adopted)
        """What each service had when we last knew; while not in sync."""
        why = Why.WAITING_FOR_ROUTES if adopted else Why.WAITING_FOR_PEERS
        self.sync = Sync(False, why)
        self._since = now
        self._is_hold = self._has_lost = False
        self._is_cut_off = False
        """From the time when all routes were lost until the first is back and the wait is over."""
        self._daemons: frozenset[tuple[str, int]] | None = None
        self._taken: Taken = {}
        self._had: list[tuple[float, Taken]] = []
        """What was there until then, of the last half minute."""
        self._changed: dict[Family, set[Nlri]] = {f: set() for f in Family}
        self._sets: dict[tuple[Hop, ...], PathSet] = {}

    # the source, as a RIB is read

    @property
    def is_changed(self) -> bool:
        return any(self._changed.values())

    def take_changed(self) -> dict[Family, set[Nlri]]:
        changed, self._changed = self._changed, {f: set() for f in Family}
        return changed

    def paths(self, family: Family, nlri: Nlri) -> PathSet | None:
        hops = self._taken.get((family, nlri))
        if hops is None:
            return None
        found = self._sets.get(hops)
        if found is None:
            found = self._sets[hops] = PathSet(paths(hops))
        return found

    # reading

    def news(self, kinds: Iterable[str]) -> None:
        if set(kinds) - {"neighbor"}:
            self.due_at = min(self.due_at, self._next_at)

    _next_at = -math.inf

    def take(self, reading: Reading, began: float, now: float) -> None:
        """What was read from `began` on is what there is."""
        self._next_at = now + max(PAUSE_S, (now - began) / READ_SHARE)
        self.due_at = now + READ_BACK_S
        new = reading.choice.taken
        is_other = self._daemons is not None and reading.daemons != self._daemons
        self._daemons = reading.daemons
        if is_other and (self._taken or self._is_hold):
            self._hold(now)
        if self._is_hold:
            self._has_lost |= bool(missing(self.wanted, new))
        for prefix in {*new, *self._taken}:
            if new.get(prefix) != self._taken.get(prefix):
                self._changed[prefix[0]].add(prefix[1])
        if new != self._taken:
            self._had = [(t, h) for t, h in self._had if now - t <= TOGETHER_S]
            self._had.append((now, self._taken))
        self._taken, self.reading = new, reading
        kept = set(new.values())
        self._sets = {hops: s for hops, s in self._sets.items() if hops in kept}

    def _hold(self, now: float) -> None:
        if self.sync.in_sync:
            self.wanted = addresses(self._taken)
            self._has_lost = False
        self._is_hold, self._since = True, now
        self.sync = Sync(False, Why.WAITING_FOR_DAEMON)
        log.warning("the routing daemon ended or was started anew: the last known state stands")

    def again(self, now: float) -> None:
        """It could not be read."""
        self.due_at = now + 1.0

    # in sync

    def until(self, config: GatewayConfig) -> float:
        return math.inf if self.sync.in_sync else self._since + config.selection_deferral_s

    def note(self, config: GatewayConfig, speaker: Speaker, now: float) -> None:
        """Nothing: who is there is known by the readings."""

    def look(
        self,
        config: GatewayConfig,
        speaker: Speaker,
        now: float,
        *,
        unreachable: bool = False,
        known: bool = True,
    ) -> None:
        """`unreachable`: our links to all next hops are down. `known` is of no concern here."""
        if self.reading is None or unreachable:
            self._since = now
            return
        if not self._taken and (self._is_cut_off or not self.wanted):
            self._since = now  # nobody yet who could be waited for
        self.sync = decide(
            wanted=self.wanted,
            taken=self._taken,
            is_hold=self._is_hold,
            has_lost=self._has_lost,
            expected_hops=config.expected_peers,
            since_s=now - self._since,
            deferral_s=config.selection_deferral_s,
        )
        if self.sync.in_sync:
            self._is_hold = self._is_cut_off = False
            log.info("in sync after %.1f s: %s", now - self._since, self.sync.text)

    def begin_again_if_cut_off(self, config: GatewayConfig, speaker: Speaker, now: float) -> None:
        """Called when in sync and without any service."""
        self.begin_again(config, now)

    def begin_again(self, config: GatewayConfig, now: float) -> None:
        """Cut off: a table made of the first next hop to return would have all flows. Those that
        went together are waited for."""
        wanted: dict[Prefix, frozenset[Address]] = {}
        for at, taken in [*self._had, (now, self._taken)]:
            if now - at <= TOGETHER_S:
                for prefix, hops in addresses(taken).items():
                    wanted[prefix] = wanted.get(prefix, frozenset()) | hops
        self._had.clear()
        if not wanted:
            return
        self.wanted, self._since, self._is_cut_off = wanted, now, True
        self.sync = Sync(False, Why.WAITING_FOR_ROUTES)
        log.warning("the daemon has no route to any service: no tables until all are back")

    # for people

    def about(self, config: GatewayConfig) -> list[Finding]:
        """What is wrong with the daemon's routes."""
        reading = self.reading
        if reading is None:
            return []
        found = []
        if reading.zebra_objects:
            found.append(
                Finding(
                    Severity.WARNING,
                    "FRR's zebra",
                    "its routes lead to next hop objects of its own",
                    "",
                    "it undoes changes of next hops that it did not make, unless its "
                    "configuration has `no zebra nexthop kernel enable`",
                )
            )
        counts = {len(hops) for hops in self._taken.values()}
        if counts == {1} and config.expected_peers > 1:
            found.append(
                Finding(
                    Severity.WARNING,
                    "the daemon's routes",
                    "none has more than one next hop",
                    "",
                    "BIRD needs `merge paths on` in its kernel protocols, FRR `maximum-paths` "
                    "and, between different AS, `bgp bestpath as-path multipath-relax`",
                )
            )
        return found

    def view(self, config: KernelRoutes) -> dict[str, Any]:
        """For `samepath status`."""
        reading = self.reading
        refused = reading.choice.refused if reading is not None else ()
        return {
            "protocols": list(config.protocols),
            "services": list(config.services),
            "taken": len(self._taken),
            "metrics": sorted(reading.metrics) if reading is not None else [],
            "daemons": [f"{name} (pid {pid})" for name, pid in sorted(self._daemons or ())],
            "holds": self._is_hold,
            "refused": [
                {
                    "prefix": prefix_text(seen.family, seen.nlri),
                    "metric": seen.metric,
                    "next_hops": [address_text(h.address) for h in seen.hops],
                    "reason": why.value,
                }
                for seen, why in refused[:REFUSED_SHOWN]
            ],
        }


def leave_table() -> bool:
    """Without `kernel_routes` nothing leads to our own table any more. Whether something did."""
    with closing(TableKernel()) as kernel:
        return kernel.delete_rules()


def open_kernel(config: GatewayConfig) -> RealKernel:
    """The kernel, with our routes where this configuration has them; the way there is made."""
    if config.kernel_routes is None:
        return RealKernel()
    kernel = TableKernel()
    if kernel.put_rules():
        log.info("a rule leads to our own routing table")
    return kernel
