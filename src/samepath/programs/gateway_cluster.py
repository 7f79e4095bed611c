"""What a gateway takes from the cluster: its neighbours, what they may advertise, and its tier.

Looked at by the gateway's passes; `plan.neighbors` decides. The source is a folder of manifests or
the API server, and whatever goes wrong with it, what was known last stands. What was known last is
also on disk (`gateway_recall`), so that a gateway that is restarted while the API server is
away has its neighbours, import lists and tier all the same: without sessions the nodes would lose
their way out when their restart timers end. That is no second store: it is used until the source
has been read, and not after.

Until Nodes are known a gateway is not in sync (`is_known`), however long that takes: with no
neighbour to be heard it would take all that it has adopted for withdrawn. A gateway that remembers
gives the source a moment (`PATIENCE_S`) before it relies on that.

What would move all flows (another `buckets` or `hash_seed` in the GatewayTier) is not followed
while running; the status says what a restart would do. A restart without the source does not.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from samepath.kube.source import Source
from samepath.model.cluster import Cluster, IPPool, Node, Object, make_cluster
from samepath.model.config import GatewayConfig
from samepath.model.kinds import BGPAdvertisement, BlockClaim, GatewayTier, IPAddressPool
from samepath.model.net import (
    Address,
    Family,
    PrefixSet,
    address_text,
)
from samepath.plan import neighbors
from samepath.plan.neighbors import MOVES_ALL, Plan, Row, Why
from samepath.programs.gateway_recall import Known, known, recall, write
from samepath.programs.sources import make_source

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

log = logging.getLogger("samepath.gateway")

PATIENCE_S = 10.0
"""So long the source has before what is remembered counts as known."""
KEPT_LOOK_S = 5.0
"""What is kept though the cluster does not have it any more is looked at so often."""
RETRY_S = 5.0
CROWD_S = 0.5
"""Nodes come in crowds, and each change takes 50 ms with a thousand of them."""
WRITE_PAUSE_S = 2.0
SHOWN = 100

_READ = (Node, IPPool, IPAddressPool, BGPAdvertisement, BlockClaim, GatewayTier)
"""Everything else in a folder of manifests is no news to a gateway."""


class FromCluster:
    def __init__(self, config: GatewayConfig, now: float) -> None:
        self.wake = asyncio.Event()
        """Whatever happens to the gateway."""
        self.file = config
        """The configuration as it is written."""
        self.plan = Plan()
        self.tier: GatewayTier | None = None
        self.pending = ""
        """What a restart would change, and move all flows by it."""
        self.error = ""
        """Why the cluster's word could not be followed."""
        self.is_remembered = False
        """What we have is of a former process."""
        self.source: Source | None = None
        self._is_read = False
        self._since = now
        self._cluster = Cluster()
        self._objects: Mapping[str, Object] | None = None
        self._relevant: Mapping[str, Object] = {}
        self._gone_since: dict[Address, float] = {}
        self._look_at = self._pause_until = -math.inf
        self._has_news = False
        self._path = Path(config.run_dir) / "gateway-cluster.json"
        self._now_known = self._written = Known()
        self._is_write_due = False
        self._write_at = -math.inf
        self._following: asyncio.Task[None] | None = None
        if config.manifests is not None or config.kubernetes is not None:
            self.source = make_source(config, self.wake.set)
            self._recall()

    def start(self) -> asyncio.Task[None]:
        """The task that follows the source; it does not end by itself."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow_source())
        return self._following

    async def _follow_source(self) -> None:
        if self.source is not None:
            await self.source.run()
        await asyncio.Event().wait()

    # what is known

    @property
    def is_dependent(self) -> bool:
        return self.file.nodes is not None

    def is_known(self, now: float) -> bool:
        """Who the neighbours are."""
        if not self.is_dependent or self._is_read:
            return True
        return self.is_remembered and now - self._since >= PATIENCE_S

    def until(self) -> float:
        """When `look` has something to do, unless it is woken."""
        if self.source is None:
            return math.inf
        news_at = self._pause_until if self._has_news else math.inf
        return min(self._look_at, news_at, self._write_at if self._is_write_due else math.inf)

    async def first(self, now: Callable[[], float]) -> GatewayConfig:
        """The configuration to begin with: waits for the tier as long as that makes sense."""
        patience_s = PATIENCE_S if self.tier is not None else self.file.selection_deferral_s
        if self.file.tier is not None:
            log.info("waiting for GatewayTier %s", self.file.tier)
        while self.file.tier is not None and not self._is_read:
            self._read()
            may_begin = self.tier is not None or self.file.hash_seed
            if may_begin and now() - self._since >= patience_s:
                break
            await asyncio.sleep(0.05)
        while self._wants().hash_seed == 0:
            self._read()
            await asyncio.sleep(0.2)
        return self._wants()

    def _wants(self) -> GatewayConfig:
        try:
            found = neighbors.configured(self.file, self.plan, self.tier)
        except ValueError as error:
            self.error = f"GatewayTier {self.file.tier}: {error}"
            found = neighbors.configured(self.file, self.plan, None)
        return found

    # following

    async def look(self, gateway: Gateway, now: float) -> GatewayConfig | None:
        """The configuration to run by, if it may be another than the present one."""
        if self.source is None:
            return None
        self._has_news |= self._read()
        if self._is_write_due and now >= self._write_at:
            await self._remember(now)
        if now < (min(self._pause_until, self._look_at) if self._has_news else self._look_at):
            return None
        self._look_at, self._has_news, self._pause_until = math.inf, False, now + CROWD_S
        if self._is_read:
            self._follow(gateway, now)
        return self.running(self.file, gateway.config)

    def running(self, file: GatewayConfig, present: GatewayConfig) -> GatewayConfig:
        """What `file` and the cluster say, but for what would move all flows."""
        if file != self.file:
            self._look_at = -math.inf  # another selector, maybe
        self.file, self.error = file, ""
        wanted = self._wants()
        self.pending = ""
        if file.tier is not None:
            self.pending = neighbors.pending(present, wanted)
            same = {name: getattr(present, name) for name in MOVES_ALL}
            wanted = msgspec.structs.replace(wanted, **same)
        return wanted

    def failed(self, error: str, now: float) -> None:
        """The configuration that `look` gave cannot be followed as yet."""
        if error != self.error:
            log.error("the cluster's neighbours cannot be followed: %s", error)
        self.error, self._look_at = error, now + RETRY_S

    def _read(self) -> bool:
        """Whether there is anything new of what concerns us."""
        source = self.source
        if source is None or not source.in_sync or source.objects is self._objects:
            return False
        self._objects = source.objects
        relevant = {k: thing for k, thing in source.objects.items() if isinstance(thing, _READ)}
        if self._is_read and relevant == self._relevant:
            return False
        self._relevant, self._is_read = relevant, True
        self._cluster = make_cluster(relevant.values())
        if self.file.tier is not None:
            # One that is gone, by mistake maybe, goes on to count.
            self.tier = self._cluster.tiers.get(self.file.tier, self.tier)
        return True

    def _follow(self, gateway: Gateway, now: float) -> None:
        own = {item.address for item in gateway.addresses}
        wanted = neighbors.plan(self.file, self._cluster, own)
        former, self.is_remembered = self.plan, False
        self.plan = neighbors.keep(
            wanted,
            former,
            is_alive=_Alive(gateway, self._gone_since, now),
            is_in_use=_InUse(gateway),
        )
        gone = {a: r for a, r in self.plan.neighbors.items() if r.why is Why.GONE}
        for address, row in gone.items():
            if address not in self._gone_since:
                log.warning("%s: the Node %s: %s", address_text(address), row.node, row.why.value)
        self._gone_since = {a: self._gone_since.get(a, now) for a in gone}
        if gone or self.plan.kept:
            self._look_at = now + KEPT_LOOK_S
        if self.plan.claims != former.claims:
            gateway.speaker.bind(self.plan.claims)
        self._now_known = known(self.plan, self._running_tier(gateway.config))
        self._is_write_due = self._now_known != self._written

    def _running_tier(self, present: GatewayConfig) -> GatewayTier | None:
        """What a restart without the source goes on with: not what is pending."""
        if self.tier is None:
            return None
        return replace(self.tier, buckets=present.buckets, hash_seed=present.hash_seed)

    # over a restart

    async def _remember(self, now: float) -> None:
        state, self._is_write_due = self._now_known, False
        self._write_at = now + WRITE_PAUSE_S
        try:
            await asyncio.to_thread(write, self._path, state)
        except OSError as error:
            log.warning("%s: %s", self._path, error.strerror or error)
            return
        self._written = state

    def _recall(self) -> None:
        state, plan = recall(self._path)
        if self.file.nodes is not None:
            self.plan, self.is_remembered = plan, bool(plan.rows)
        if state.tier is not None and state.tier.name == self.file.tier:
            self.tier = state.tier
        self._written = state

    # for people

    def view(self) -> dict[str, Any] | None:
        """For `samepath status`."""
        source = self.source
        if source is None:
            return None
        others = [r for r in self.plan.rows if not r.is_neighbor and r.why is not Why.NOT_SELECTED]
        return {
            "source": source.where,
            "in_sync": source.in_sync,
            "trouble": source.trouble or "",
            "remembered": self.is_remembered,
            "error": self.error,
            "neighbors": len(self.plan.neighbors),
            "claims": len(self.plan.claims),
            "not_neighbors": [_row(row) for row in others[:SHOWN]],
            "gone": [_row(row) for row in self.plan.rows if row.why is Why.GONE][:SHOWN],
            "kept_prefixes": list(self.plan.kept[:SHOWN]),
            "tier": self.file.tier,
            "tier_trouble": self._tier_trouble(),
            "pending": self.pending,
            "refused": [refusal.text for refusal in source.refusals[:SHOWN]],
        }

    def _tier_trouble(self) -> str:
        name = self.file.tier
        if name is None or not self._is_read or name in self._cluster.tiers:
            return ""
        if self.tier is None:
            return f"there is no GatewayTier {name}: the file's values count"
        return f"there is no GatewayTier {name} any more: its last values count"


class _Alive:
    """Whether a neighbour's session, or what it left, is worth keeping."""

    def __init__(self, gateway: Gateway, gone_since: Mapping[Address, float], now: float) -> None:
        nodes = gateway.cluster.file.nodes
        self.grace_s = (
            math.inf if nodes is None or nodes.gone_grace_s is None else nodes.gone_grace_s
        )
        self.gateway, self.gone_since, self.now = gateway, gone_since, now
        self.known: frozenset[Address] | None = None

    def __call__(self, address: Address) -> bool:
        if self.now - self.gone_since.get(address, self.now) >= self.grace_s:
            return False
        if self.known is None:  # asking a thousand peers takes a while
            self.known = self.gateway.awaited() | {
                peer.address
                for peer in self.gateway.speaker.peers()
                if peer.is_established or peer.stale_until_s is not None
            }
        return address in self.known


class _InUse:
    """Whether a path lies within a prefix, or may yet: those of adopted routes come back."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, text: str) -> bool:
        if not self.gateway.deferral.sync.in_sync:
            return True
        covers, rib = PrefixSet([text]), self.gateway.speaker.rib
        return any(covers.covers(f, nlri) for f in Family for nlri, _ in rib.items(f))


def _row(row: Row) -> dict[str, Any]:
    address = "" if row.address is None else address_text(row.address)
    return {"node": row.node, "address": address, "why": row.why.value}
