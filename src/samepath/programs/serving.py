"""The services on this node: addresses, rules, flows, drains, and what may be said of them.

The part of `programs.agent` that is about services, and about the masquerade of what leaves the
pods, which is in the same table; and about the ports on which load balancers ask for services'
health. `plan` decides anew from what is known; `settle` brings the world
to it in order: service addresses on `lo`, service rules, flows of endpoints that are gone. Only
then are addresses `in_place`, and their services may be advertised. What fails is in `errors`, and
is tried again by the next `settle`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from samepath.apply import conntrack
from samepath.apply.addresses import ServiceAddresses
from samepath.apply.nft import Rules
from samepath.apply.tool import ToolError
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig
from samepath.model.memo import Last
from samepath.model.net import Address, address_text
from samepath.netlink.kernel import Kernel
from samepath.plan import advertising, flows, health_checks, masquerade, proxy
from samepath.plan.drains import Drains
from samepath.plan.health_checks import Check
from samepath.plan.ruleset import Ruleset
from samepath.plan.services import (
    Known,
    Offer,
    Row,
    View,
    Why,
    advertised,
    draining,
    offers,
    rows,
)
from samepath.programs.health_checks import HealthChecks

log = logging.getLogger("samepath.agent")

DRAIN_LOOK_S = 1.0
"""How often flows are counted while something drains."""
FORGET_SINGLY = 16
"""With more endpoints gone at once it is first looked up which of them have flows."""

UNHEALTHY_AFTER_S = 60.0
"""Load balancers are told to go elsewhere when no rules could be written for so long."""

RULES, ADDRESSES, FLOWS, DRAINS = "service rules", "service addresses", "flows", "drains"
HEALTH = "health checks"
"""What an error may be about."""


@dataclass(frozen=True, slots=True)
class World:
    """What the decisions are made of, besides the state of rules and drains."""

    cluster: Cluster
    config: AgentConfig
    taken: frozenset[Address]
    """Addresses that no service may have here."""
    neighbors: frozenset[str] = frozenset()
    """The names of those that are told of services."""


class _Kept:
    """What was made of the last world: most of the next one is the same."""

    def __init__(self) -> None:
        self.prefixes: Last[tuple[str, ...]] = Last()
        self.advertised: Last[frozenset[Address]] = Last()
        self.masquerade: Last[Ruleset] = Last()
        self.rules = proxy.Known()
        self.checks = health_checks.Known()
        self.rules_of_pools: Last[advertising.Rules] = Last()
        self.untold: Last[Mapping[tuple[str, Address], Why]] = Last()
        self.rows = Known()
        self.offers: Last[Mapping[Address, Offer]] = Last()
        self.told: Last[advertising.Told] = Last()
        self.told_early: Last[Mapping[Address, Offer]] = Last()
        self.wanted: Last[frozenset[Address]] = Last()
        self.in_place: Last[frozenset[Address]] = Last()
        self.draining: Last[frozenset[Address]] = Last()


class Serving:
    def __init__(self, kernel: Kernel) -> None:
        self.addresses = ServiceAddresses(kernel)
        self.rules = Rules()
        self.drains = Drains()
        self.rows: tuple[Row, ...] = ()
        self.offers: Mapping[Address, Offer] = {}
        """What `rows` come to."""
        self.rules_of_pools = advertising.Rules()
        """The BGPAdvertisements."""
        self.told: advertising.Told = {}
        """By which of these `offers` are told, as far as they are in pools."""
        self.ruleset = Ruleset()
        """The one that is wanted."""
        self.in_place: frozenset[Address] | None = frozenset()
        """Addresses that stand, with their rules; None: that is somebody else's (proxy none)."""
        self.health = HealthChecks()
        self.errors: dict[str, str] = {}
        self.drain_look_at = math.inf
        """When flows are to be counted."""
        self._kept = _Kept()
        self._forget: set[flows.Tracked] = set()
        self._looked_for_old_flows = False
        self._checks: Mapping[int, Check] = {}
        self._rules_stood_at = -math.inf
        self._stood: Mapping[Address, Offer] = {}
        """The `offers` for which the rules stood last."""

    @property
    def may_be_told(self) -> Mapping[Address, Offer]:
        """The `offers`; as long as rules are still to be written for them, without those addresses
        that were not offered before: it may be the new rules that they wait for. What is to be
        withdrawn or drained does not wait. Another object when something has changed."""
        if self.in_place is None or self.offers is self._stood:
            return self.offers
        offers, stood = self.offers, self._stood
        return self._kept.told_early.of(
            lambda: {a: offer for a, offer in offers.items() if a in stood}, offers, stood
        )

    # deciding

    async def plan(self, world: World) -> None:
        """New rows, new rules; and whose flows are to be forgotten. In a thread: with thousands of
        services it takes longer than a session should wait."""
        former = self.ruleset
        await asyncio.to_thread(self._plan, world)
        self._forget.update(flows.lost(former, self.ruleset))

    def _plan(self, world: World) -> None:
        config, cluster, kept = world.config, world.cluster, self._kept
        advertise = config.advertise
        cidrs = tuple(config.cluster_cidrs) or kept.prefixes.of(
            lambda: proxy.cluster_prefixes(cluster), cluster.nodes, cluster.pools
        )
        if config.service_proxy == "none":
            addresses = kept.advertised.of(
                lambda: advertised(cluster, advertise) - world.taken,
                cluster.services, advertise, world.taken,
            )  # fmt: skip
            self.in_place = None
            self.ruleset = kept.masquerade.of(
                lambda: masquerade.alone(cluster, cidrs, addresses),
                cluster.nodes, cluster.pools, cidrs, addresses,
            )  # fmt: skip
            self._checks, self.health.conflicts = {}, ()
        else:
            self.in_place = frozenset() if self.in_place is None else self.in_place
            self.ruleset = proxy.build(
                cluster, config.node, advertise, cidrs, world.taken, kept.rules
            )
            self._checks, self.health.conflicts = health_checks.checks(
                cluster, config.node, kept.checks
            )
        node = cluster.nodes.get(config.node)
        labels = node.labels if node else {}
        self.rules_of_pools = kept.rules_of_pools.of(
            lambda: advertising.make_rules(cluster, labels),
            cluster.advertisements, cluster.address_pools, cluster.communities, labels,
        )  # fmt: skip
        self._decide(world)

    def _decide(self, world: World) -> None:
        config, cluster, kept = world.config, world.cluster, self._kept
        rules, advertise, neighbors = self.rules_of_pools, config.advertise, world.neighbors
        view = View(
            cluster=cluster,
            node=config.node,
            advertise=advertise,
            in_place=self.in_place,
            drained=self.drains.over,
            taken=world.taken,
            untold=kept.untold.of(
                lambda: advertising.untold(rules, cluster, advertise, neighbors),
                rules, cluster.services, advertise, neighbors,
            ),
        )  # fmt: skip
        self.rows = decided = rows(view, kept.rows)
        self.offers = kept.offers.of(lambda: offers(decided), decided)
        self.told = kept.told.of(
            lambda: advertising.told(rules, cluster, decided), rules, cluster.services, decided
        )

    # acting

    async def settle(self, world: World) -> None:
        """Addresses, rules, flows, as planned; then the rows say what may be advertised."""
        in_place, rules_stand = self.in_place, False
        if in_place is None:
            self._forget.clear()
            await self._settle_addresses(frozenset())
            await self._settle_rules()
            await self._settle_health(rules_stand=False)
            return
        wanted = self._kept.wanted.of(
            lambda: frozenset({r.address for r in self.rows if r.address}) - world.taken,
            self.rows, world.taken,
        )  # fmt: skip
        await self._settle_addresses(wanted)
        if await self._settle_rules():
            rules_stand, self._rules_stood_at = True, time.monotonic()
            these = wanted, self.addresses.installed, self.ruleset.addresses
            self.in_place = self._kept.in_place.of(lambda: frozenset.intersection(*these), *these)
            await self._forget_flows()
        without_s = time.monotonic() - self._rules_stood_at
        await self._settle_health(rules_stand=without_s < UNHEALTHY_AFTER_S)
        if self.in_place != in_place:
            await asyncio.to_thread(self._decide, world)
        if rules_stand:
            self._stood = self.offers

    async def _settle_addresses(self, wanted: frozenset[Address]) -> None:
        self.addresses.in_sync = True
        for _ in self.addresses.work(wanted):
            await asyncio.sleep(0)
        if not self.addresses.errors:
            self.errors.pop(ADDRESSES, None)
        else:
            texts = [f"{address_text(a)}: {t}" for a, t in sorted(self.addresses.errors.items())]
            self.errors[ADDRESSES] = "; ".join(texts[:10])

    async def _settle_rules(self) -> bool:
        try:
            if self.ruleset.digest:
                await self.rules.apply(self.ruleset)
            else:
                await self.rules.remove()
        except ToolError as error:
            self.errors[RULES] = str(error)
            return False
        self.errors.pop(RULES, None)
        return True

    async def _settle_health(self, *, rules_stand: bool) -> None:
        self.health.rules_stand = rules_stand
        if await self.health.want(self._checks):
            self.errors.pop(HEALTH, None)
        else:
            texts = [f"port {port}: {text}" for port, text in sorted(self.health.errors.items())]
            self.errors[HEALTH] = "; ".join(texts[:10])

    async def check_rules(self) -> bool:
        """Somebody may have touched them. False: the next `settle` writes them again."""
        try:
            if await self.rules.check():
                return True
            log.warning("the service rules were changed or removed; writing them again")
        except ToolError as error:
            self.errors[RULES] = str(error)
        return False

    # flows of endpoints that are gone

    async def _forget_flows(self) -> None:
        try:
            if not self._looked_for_old_flows:
                self._forget |= await self._old_flows()
                self._looked_for_old_flows = True
            elif len(self._forget) > FORGET_SINGLY:
                there = await conntrack.flows_to({f.claim.address for f in self._forget})
                there |= {f._replace(port=None) for f in there}
                self._forget &= there
            for lost in sorted(self._forget, key=str):
                if not flows.is_back(lost, self.ruleset):
                    await conntrack.forget(lost)
                self._forget.discard(lost)
            self.errors.pop(FLOWS, None)
        except ToolError as error:
            self.errors[FLOWS] = str(error)

    async def _old_flows(self) -> set[flows.Tracked]:
        """Flows whose endpoint has gone while no agent was running."""
        addresses = flows.addresses(self.ruleset)
        if not addresses:
            return set()
        found = await conntrack.flows_to(addresses)
        return await asyncio.to_thread(flows.are_lost, found, self.ruleset)

    # drains

    def settle_drains(self, *, starting: bool) -> bool:
        """What drains now. False: wait, flows are to be counted first. After a restart (`starting`)
        that is so, since a service that had been withdrawn is not to be advertised again."""
        now = time.monotonic()
        drain = self._kept.draining.of(lambda: draining(self.rows), self.rows)
        self.drains.update(drain, now, starting=starting)
        if not self.drains.running:
            self.drain_look_at = math.inf
        elif math.isinf(self.drain_look_at):
            self.drain_look_at = now if starting else now + DRAIN_LOOK_S
        return not (starting and self.drain_look_at <= now)

    async def count_flows(self, deadline_s: float) -> bool:
        """Whether a drain has ended by it. `deadline_s`: of those whose BGPAdvertisements have no
        other."""
        began = time.monotonic()
        flows: Mapping[Address, int] | None = None
        try:
            flows = await conntrack.live_flows(self.drains.running)
            self.errors.pop(DRAINS, None)
        except ToolError as error:
            self.errors[DRAINS] = str(error)
        now = time.monotonic()
        own_deadlines_s = advertising.deadlines(self.told)
        ended = self.drains.counted(flows, now, deadline_s, own_deadlines_s)
        for address in sorted(ended):
            left = self.drains.rows[address].flows
            log.info("%s is drained: %s flows left", address_text(address), left)
        # Listing a large table costs time: at most a twentieth of ours.
        pause_s = max(DRAIN_LOOK_S, 20 * (now - began))
        self.drain_look_at = now + pause_s if self.drains.running else math.inf
        return bool(ended)
