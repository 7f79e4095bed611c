"""What this node tells and learns by BGP: its neighbours, its pod blocks, the routes of others.

The part of `programs.agent` that is about routes. `follow` takes what has changed in configuration,
Nodes, BGPPeers and blocks (neighbours come and go, and no other session notices); `work` brings the
kernel's routes to what was learned; `offer` tells the neighbours what they are to know.

A block of ours has a blackhole under its pods' routes, so that what is sent to an address that no
pod has ends here, and does not go back to where it came from. The blackhole stands before the block
is told, and stays a while after it is withdrawn, until nobody sends to us any more.

No route is deleted before all neighbours have sent End-of-RIB, the mesh's included, or they had
time enough (RFC 4724 §4.1): a node that is dead must not keep us from it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from samepath.apply.routes import BLACKHOLE, Gateways, PlainRoutes
from samepath.apply.slots import Slots
from samepath.bgp.adjout import Advertisement
from samepath.bgp.transport import Speaker
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig
from samepath.model.neighbor import Neighbor
from samepath.model.net import Address, Family
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import Kernel
from samepath.plan import advertising, mesh, peers, proxy
from samepath.plan import agent as plan
from samepath.plan.services import Offer
from samepath.programs.next_hops import with_next_hops
from samepath.programs.passwords import PasswordFiles

log = logging.getLogger("samepath.agent")

DEFERRAL_S = 60.0
"""Neighbours that have not sent End-of-RIB by then are not waited for (RFC 4724 §4.1)."""
LINGER_S = 5.0
"""A block's blackhole stays for so long after the block was withdrawn."""
BLACKHOLE_METRIC = 0x53000000
"""Of our own pod blocks: any other route for it, such as a bridge's, is better."""

TERMS_MOST = 1000
"""So many of them are remembered."""

NEIGHBORS, PASSWORDS = "neighbours", "passwords"
"""What an error may be about."""
_ALL = frozenset(("services", "pods"))

_Group = tuple[frozenset[str], tuple[str, ...]]
"""Neighbours that are told the same: of services, of pods; by which BGPAdvertisements."""


class Routing:
    def __init__(self, kernel: Kernel, config: AgentConfig) -> None:
        self.kernel = kernel
        self.plain = PlainRoutes(
            kernel, Slots(), metric=config.route_metric, blackhole_metric=BLACKHOLE_METRIC
        )
        self.config = config
        self.speaker: Speaker
        self.peers = peers.Plan(asn=config.local_as)
        """The BGPPeers, and our AS."""
        self.mesh = mesh.Plan()
        self.own: frozenset[plan.Prefix] = frozenset()
        """Our pod blocks."""
        self.learned = plan.Learned()
        self.offered: dict[str, plan.Routes] | None = None
        """What each neighbour was told last; None: nobody anything as yet."""
        self.not_followed: tuple[advertising.Refused, ...] = ()
        """What of the BGPAdvertisements could not be done in what was told last."""
        self.in_sync = False
        self.dirty = True
        self.errors: dict[str, str] = {}
        self._cluster: Cluster | None = None
        """The one that `peers` and `mesh` were made of."""
        self._passwords = PasswordFiles(config.run_dir)
        self._own_addresses: mesh.Addresses = {}
        self._labels: Mapping[str, str] | None = None
        """Of our Node."""
        self._standing: frozenset[plan.Prefix] = frozenset()
        """Own blocks whose blackhole stands, or was refused."""
        self._leaving: dict[plan.Prefix, float] = {}
        """Former blocks, and until when their blackholes stay."""
        self._made: dict[_Group, plan.Routes] = {}
        self._made_of_terms: dict[tuple[advertising.Terms, int], Advertisement] = {}
        self._offered_of: tuple[object, ...] = ()
        """What was told last was made of these very objects."""
        self._waits_since = math.inf
        """Since when neighbours are waited for: those that are objects must be known first."""

    # neighbours

    async def start(self, wake: Callable[[], None], *, restarted: bool) -> None:
        """Raises OSError if it cannot listen."""
        self.speaker = Speaker(
            self._speaker_config(self.config, self.peers, self.mesh),
            wake=wake,
            restarted=restarted,
            forwarding_preserved=restarted,
            # Nodes that share an AS, and gateways in another: their blocks come back to it.
            passes_on=False,
        )
        await self.speaker.start()

    def reload(self, config: AgentConfig, cluster: Cluster) -> None:
        """A changed configuration. Raises OSError if it cannot listen; then nothing has changed."""
        planned, meshed = self._plan(config, cluster)
        self._passwords.write(planned.passwords)
        self.speaker.reconfigure(self._speaker_config(config, planned, meshed))
        self.config, self.peers, self.mesh = config, planned, meshed
        self.errors.pop(NEIGHBORS, None)
        self.dirty = True
        self.offered = None if self.offered is None else {}
        self._offered_of = ()

    def follow(self, cluster: Cluster, own: frozenset[plan.Prefix]) -> None:
        """The cluster is known, and these are our blocks: again, whenever they may have changed."""
        if own != self.own:
            now = time.monotonic()
            self._leaving.update(dict.fromkeys(self.own - own, now + LINGER_S))
            self.own, self.dirty = own, True
        known, self._cluster = self._cluster, cluster
        if known is None or _made_of(cluster) != _made_of(known):
            planned, meshed = self._plan(self.config, cluster)
            if (planned, meshed) != (self.peers, self.mesh) or known is None:
                self._say_peers(planned)
                self.peers, self.mesh = planned, meshed
                self.look_at_links()
        if math.isinf(self._waits_since):
            self._waits_since = time.monotonic()

    def look_at_links(self) -> None:
        """Neighbours as they are wanted; an address that came later may be a next hop of ours."""
        try:
            is_new = self._passwords.write(self.peers.passwords)
            config = self._speaker_config(self.config, self.peers, self.mesh)
            if config != self.speaker.config or is_new:
                self.speaker.reconfigure(config)
            self.errors.pop(NEIGHBORS, None)
        except OSError as error:
            about = f"{error.filename}: " if error.filename else "cannot listen: "
            self.errors[NEIGHBORS] = f"{about}{error.strerror or error}"
            return
        if self._cluster is not None:  # else it is not known who needs them
            self._sweep()

    def _sweep(self) -> None:
        """Passwords that nobody needs any more."""
        try:
            self._passwords.sweep(self.peers.passwords)
            self.errors.pop(PASSWORDS, None)
        except OSError as error:
            self.errors[PASSWORDS] = f"{error.filename}: {error.strerror or error}"

    def _plan(self, config: AgentConfig, cluster: Cluster) -> tuple[peers.Plan, mesh.Plan]:
        """The BGPPeers, then the mesh, in which what has an entry already has no second one."""
        node = cluster.nodes.get(config.node)
        if node is not None:
            # Should our Node be deleted, the sessions that stand do not end by it.
            self._own_addresses, self._labels = mesh.first_addresses(node), node.labels
        own = self._own_addresses.values()
        planned = peers.plan(config, cluster, self._labels, own, self.peers)
        if not config.mesh or not planned.asn:
            return planned, mesh.Plan()
        cidrs = config.cluster_cidrs or proxy.cluster_prefixes(cluster)
        whole = self._with_peers(config, planned)
        return planned, mesh.plan(whole, cluster, self._own_addresses, cidrs)

    def _say_peers(self, planned: peers.Plan) -> None:
        """What is new, once: our AS, and what is wrong with BGPPeers that select us."""
        if planned.asn != self.peers.asn:
            whence = f", as BGPPeer {planned.asn_from} says" if planned.asn_from else ""
            log.info("our AS is %d%s", planned.asn, whence)
        silent = (peers.WhyNot.NEIGHBOR, peers.WhyNot.NOT_SELECTED)
        for row in planned.rows:
            if row.why not in silent and row not in self.peers.rows:
                log.warning("BGPPeer %s is no neighbour: %s", row.peer, row.text)

    def _with_peers(self, config: AgentConfig, planned: peers.Plan) -> AgentConfig:
        """The configuration as if the BGPPeers stood in it. Without an AS there is no neighbour."""
        if not planned.asn:
            return msgspec.structs.replace(config, neighbors=[])
        return msgspec.structs.replace(
            config,
            local_as=planned.asn,
            neighbors=[*config.neighbors, *planned.neighbors],
            bfd_profiles={**planned.bfd_profiles, **config.bfd_profiles},
        )

    def _speaker_config(
        self, config: AgentConfig, planned: peers.Plan, meshed: mesh.Plan
    ) -> AgentConfig:
        whole = self._with_peers(config, planned)
        whole = msgspec.structs.replace(
            whole,
            neighbors=[*whole.neighbors, *meshed.neighbors],
            listen=[*config.listen, *meshed.listen],
        )
        return with_next_hops(whole, Connected.read(self.kernel), self.kernel.addresses())

    def names_of(self, neighbor: Neighbor) -> tuple[str, ...]:
        """What BGPAdvertisements call it: by its BGPPeer, or by its address."""
        return (self.peers.names.get(neighbor.name, neighbor.name),)

    @property
    def told_of_services(self) -> frozenset[str]:
        """The names of the neighbours that are."""
        return frozenset(
            name
            for neighbor in self.speaker.config.neighbors
            if "services" in _told_of(neighbor)
            for name in self.names_of(neighbor)
        )

    def close(self) -> None:
        """Nobody needs the passwords while we do not run."""
        with contextlib.suppress(OSError):
            self._passwords.sweep({})

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

    def offer(self, offers: Mapping[Address, Offer], told: advertising.Told) -> None:
        """Tell every neighbour what it is to know; the sessions send the difference. `told`: by
        which BGPAdvertisements, as far as it is a matter of these."""
        made_of = offers, told, self.speaker.config, self.told_blocks
        if self.offered is not None and _is_same(made_of, self._offered_of):
            return
        self._offered_of = made_of
        if self.offered is None:
            self.offered = {}
        rules = {rule.name: rule for of in told.values() for rule in of}
        now: dict[_Group, plan.Routes] = {}
        not_followed: dict[str, advertising.Refused] = {}
        for neighbor in self.speaker.config.neighbors:
            what, names = _told_of(neighbor), self.names_of(neighbor)
            by = tuple(sorted(n for n, r in rules.items() if r.peers and r.is_for(names)))
            group = what, by if "services" in what else ()
            if group not in now:
                services, refused = (
                    advertising.terms(offers, told, names) if "services" in what else ({}, ())
                )
                not_followed.update((r.text, r) for r in refused)
                blocks = made_of[-1] if "pods" in what else ()
                routes = plan.advertisements(services, blocks, self.peers.asn, self._made_of_terms)
                former = self._made.get(group)
                now[group] = former if former == routes and former is not None else routes
            if self.offered.get(neighbor.name) is not now[group]:
                self.offered[neighbor.name] = now[group]
                self.speaker.set(neighbor.name, now[group])
        self._made, self.not_followed = now, tuple(not_followed.values())
        if len(self._made_of_terms) > TERMS_MOST:
            self._made_of_terms.clear()


def _told_of(neighbor: Neighbor) -> frozenset[str]:
    """Of services, pods, or both."""
    return frozenset(neighbor.export) & _ALL if neighbor.export else _ALL


def _is_same(these: tuple[object, ...], those: tuple[object, ...]) -> bool:
    """Identity is enough, and costs nothing; but for the last, the blocks."""
    if len(these) != len(those) or these[-1] != those[-1]:
        return False
    return all(a is b for a, b in zip(these[:-1], those[:-1], strict=True))


def _made_of(cluster: Cluster) -> tuple[object, ...]:
    """What neighbours depend on."""
    return cluster.nodes, cluster.pools, cluster.peers, cluster.bfd_profiles, cluster.secrets
