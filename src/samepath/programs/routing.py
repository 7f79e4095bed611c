"""What this node tells and learns by BGP: its neighbours, its pod blocks, the routes of others.

The part of `programs.agent` that is about routes. `follow` takes what has changed in configuration,
Nodes and blocks (neighbours of the mesh come and go, and no other session notices); `work` brings
the kernel's routes to what was learned; `offer` tells the neighbours what they are to know.

A block of ours has a blackhole under its pods' routes, so that what is sent to an address that no
pod has ends here, and does not go back to where it came from. The blackhole stands before the block
is told, and stays a while after it is withdrawn, until nobody sends to us any more.

No route is deleted before all neighbours have sent End-of-RIB, the mesh's included, or they had
time enough (RFC 4724 §4.1): a node that is dead must not keep us from it for ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from samepath.apply.routes import BLACKHOLE, Gateways, PlainRoutes
from samepath.apply.slots import Slots
from samepath.bgp.transport import Speaker
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig
from samepath.model.net import Address, Family
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import Kernel
from samepath.plan import agent as plan
from samepath.plan import mesh, proxy
from samepath.plan.services import Offer
from samepath.programs.next_hops import with_next_hops

log = logging.getLogger("samepath.agent")

DEFERRAL_S = 60.0
"""Neighbours that have not sent End-of-RIB by then are not waited for (RFC 4724 §4.1)."""
LINGER_S = 5.0
"""A block's blackhole stays for so long after the block was withdrawn."""
BLACKHOLE_METRIC = 0x53000000
"""Of our own pod blocks: any other route for it, such as a bridge's, is better."""

NEIGHBORS = "neighbours"
"""What an error may be about."""
_ALL = frozenset(("services", "pods"))


class Routing:
    def __init__(self, kernel: Kernel, config: AgentConfig) -> None:
        self.kernel = kernel
        self.plain = PlainRoutes(
            kernel, Slots(), metric=config.route_metric, blackhole_metric=BLACKHOLE_METRIC
        )
        self.config = config
        self.speaker: Speaker
        self.mesh = mesh.Plan()
        self.own: frozenset[plan.Prefix] = frozenset()
        """Our pod blocks."""
        self.learned = plan.Learned()
        self.offered: dict[str, plan.Routes] | None = None
        """What each neighbour was told last; None: nobody anything as yet."""
        self.in_sync = False
        self.dirty = True
        self.errors: dict[str, str] = {}
        self._cluster: Cluster | None = None
        """The one that `mesh` was made of."""
        self._own_addresses: mesh.Addresses = {}
        self._standing: frozenset[plan.Prefix] = frozenset()
        """Own blocks whose blackhole stands, or was refused."""
        self._leaving: dict[plan.Prefix, float] = {}
        """Former blocks, and until when their blackholes stay."""
        self._made: dict[frozenset[str], plan.Routes] = {}
        self._waits_since = math.inf if config.mesh else time.monotonic()
        """Since when neighbours are waited for: those of a mesh must be known first."""

    # neighbours

    async def start(self, wake: Callable[[], None], *, restarted: bool) -> None:
        """Raises OSError if it cannot listen."""
        self.speaker = Speaker(
            self._speaker_config(self.config, self.mesh),
            wake=wake,
            restarted=restarted,
            forwarding_preserved=restarted,
            # Nodes that share an AS, and gateways in another: their blocks come back to it.
            passes_on=False,
        )
        await self.speaker.start()

    def reload(self, config: AgentConfig, cluster: Cluster) -> None:
        """A changed configuration. Raises OSError if it cannot listen; then nothing has changed."""
        planned = self._plan_mesh(config, cluster)
        self.speaker.reconfigure(self._speaker_config(config, planned))
        self.config, self.mesh = config, planned
        self.errors.pop(NEIGHBORS, None)
        self.dirty = True
        self.offered = None if self.offered is None else {}

    def follow(self, cluster: Cluster, own: frozenset[plan.Prefix]) -> None:
        """The cluster is known, and these are our blocks: again, whenever they may have changed."""
        if own != self.own:
            now = time.monotonic()
            self._leaving.update(dict.fromkeys(self.own - own, now + LINGER_S))
            self.own, self.dirty = own, True
        known, self._cluster = self._cluster, cluster
        if known is None or (cluster.nodes, cluster.pools) != (known.nodes, known.pools):
            planned = self._plan_mesh(self.config, cluster)
            if planned != self.mesh:
                self.mesh = planned
                self.look_at_links()
        if math.isinf(self._waits_since):
            self._waits_since = time.monotonic()

    def look_at_links(self) -> None:
        """Neighbours as they are wanted; an address that came later may be a next hop of ours."""
        try:
            config = self._speaker_config(self.config, self.mesh)
            if config != self.speaker.config:
                self.speaker.reconfigure(config)
            self.errors.pop(NEIGHBORS, None)
        except OSError as error:
            self.errors[NEIGHBORS] = f"cannot listen: {error.strerror or error}"

    def _plan_mesh(self, config: AgentConfig, cluster: Cluster) -> mesh.Plan:
        node = cluster.nodes.get(config.node)
        if node is not None:
            # Should our Node be deleted, the sessions that stand do not end by it.
            self._own_addresses = mesh.first_addresses(node)
        if not config.mesh:
            return mesh.Plan()
        cidrs = config.cluster_cidrs or proxy.cluster_prefixes(cluster)
        return mesh.plan(config, cluster, self._own_addresses, cidrs)

    def _speaker_config(self, config: AgentConfig, planned: mesh.Plan) -> AgentConfig:
        whole = msgspec.structs.replace(
            config,
            neighbors=[*config.neighbors, *planned.neighbors],
            listen=[*config.listen, *planned.listen],
        )
        return with_next_hops(whole, Connected.read(self.kernel), self.kernel.addresses())

    # routes

    @property
    def next_look(self) -> float:
        """When `work` has something to do, unless it is woken."""
        deferral = math.inf if self.in_sync else self._waits_since + DEFERRAL_S
        return min(self.plain.next_look, deferral, *self._leaving.values())

    async def work(self, *, known: bool) -> None:
        """`known`: so is the cluster; else nothing is deleted."""
        now = time.monotonic()
        self._leaving = {
            block: until
            for block, until in self._leaving.items()
            if until > now and block not in self.own
        }
        changed = any(self.speaker.rib.take_changed().values())
        if changed or self.dirty:
            self.dirty = False
            tables = {family: self.speaker.rib.items(family) for family in Family}
            self.learned = plan.learned(tables, self.own)
        own = self.own
        wanted: dict[plan.Prefix, Gateways] = dict.fromkeys((*own, *self._leaving), BLACKHOLE)
        wanted.update(self.learned.routes)
        self.plain.want(wanted)
        if not self.in_sync:
            self._look_whether_in_sync(now)
        self.plain.in_sync = self.in_sync and known
        for _ in self.plain.work():
            await asyncio.sleep(0)
        self._standing = own

    def _look_whether_in_sync(self, now: float) -> None:
        waited_s = now - self._waits_since
        if waited_s < 0:
            return
        silent = self.waits_for
        if not silent or waited_s >= DEFERRAL_S:
            without = f", without {', '.join(silent)}" if silent else ""
            log.info("routes are in sync after %.1f s%s", waited_s, without)
            self.in_sync = True

    @property
    def waits_for(self) -> list[str]:
        """Neighbours whose End-of-RIB is waited for."""
        if self.in_sync:
            return []
        heard = {
            peer.neighbor
            for peer in self.speaker.peers()
            if peer.is_established and all(f.end_of_rib_received for f in peer.families.values())
        }
        return sorted({n.name for n in self.speaker.config.neighbors} - heard)

    # advertisements

    @property
    def told_blocks(self) -> frozenset[plan.Prefix]:
        """Ours, for which there is a blackhole (or the kernel refused it)."""
        return self.own & self._standing

    def offer(self, offers: Mapping[Address, Offer]) -> None:
        """Tell every neighbour what it is to know; the sessions send the difference."""
        if self.offered is None:
            self.offered = {}
        blocks = self.told_blocks
        now: dict[frozenset[str], plan.Routes] = {}
        for neighbor in self.speaker.config.neighbors:
            what = frozenset(neighbor.export) & _ALL if neighbor.export else _ALL
            if what not in now:
                routes = plan.advertisements(
                    offers if "services" in what else {},
                    blocks if "pods" in what else (),
                    self.config.local_as,
                )
                former = self._made.get(what)
                now[what] = former if former == routes and former is not None else routes
            if self.offered.get(neighbor.name) is not now[what]:
                self.offered[neighbor.name] = now[what]
                self.speaker.set(neighbor.name, now[what])
        self._made = now
