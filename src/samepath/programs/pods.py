"""What the agent holds of the pods: store, blocks, the plugin's server, and repair.

A task of its own looks at all that may have changed (pools, nodes, claims, the kernel) whenever it
is woken, and every few seconds, in a thread: files may lie on a share that hangs, and the agent's
loop must not hang with it. The agent asks `blocks` in each pass, which answers from the last look.

Nothing is given out before the blocks are known. A store that cannot be opened stops ADD, CHECK and
GC, and nothing else: the blocks of the pods that live are still advertised, and the store is tried
again every few seconds, so that one that was mended is taken up without a restart.

Made by `programs.agent` where its configuration has `cni`. Not done: what a request does
(`cni.operations`), routes and advertisements of blocks (`programs.routing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from samepath.cni import ipam
from samepath.cni.attachment import State, current_boot_id
from samepath.cni.audit import kernel_view
from samepath.cni.blocks import Blocks
from samepath.cni.claims import ClaimsError
from samepath.cni.errors import CniError, Code
from samepath.cni.leftovers import set_aside
from samepath.cni.operations import MTU, Operations
from samepath.cni.repair import missing
from samepath.cni.server import Server
from samepath.cni.store import Store, StoreCorrupt, StoreError
from samepath.kube.source import Source
from samepath.model.cluster import Cluster
from samepath.model.config import AgentConfig, Cni
from samepath.model.net import Address, Family, address_text, make_nlri, parse_prefix
from samepath.model.ours import PROTOCOL
from samepath.netlink.kernel import RealKernel
from samepath.netlink.monitor import Monitor
from samepath.netlink.socket import NetlinkError
from samepath.plan.addresses import Block
from samepath.plan.agent import Prefix
from samepath.plan.blocks import Situation, families, own_blocks
from samepath.programs.kept_claims import KeptClaims, Needed, make_claims

log = logging.getLogger("samepath.pods")

LOOK_S = 5.0
PAUSE_S = 0.5
PAUSE_SHARE = 10
"""Between two looks, however often we are woken: so long, and so many times what a look takes."""
_WAITING = CniError(
    Code.TRY_AGAIN_LATER, "the agent has not read all objects yet, so it knows no addresses"
)


class _Blocks(Blocks):
    """Says so when another block may have been claimed."""

    on_claim: Callable[[], None] = staticmethod(lambda: None)

    def claim(self, family: Family) -> str | None:
        text = super().claim(family)
        self.on_claim()
        return text


class Pods:
    def __init__(
        self,
        config: AgentConfig,
        run_dir: Path,
        monitor: Monitor,
        *,
        changed: Callable[[], None],
        neighbors: Callable[[], Iterable[Address]],
        source: Callable[[], Source],
    ) -> None:
        """`monitor` tells of links, addresses, neighbours and routes, and is ours to close.
        `changed` is called in the loop's thread when our blocks may be others; `neighbors` says
        whither the node's links lead, for the MTU. `source`: of the cluster, at present."""
        assert config.cni is not None
        self.config = config
        self.operations = Operations()
        self.operations.trouble = _WAITING
        self.errors: dict[str, str] = {}
        """What is wrong at present, in words."""
        self.strays: list[str] = []
        """Links of pods that the store does not know."""
        self._run_dir = run_dir
        self._changed = changed
        self._neighbors = neighbors
        self._wake = asyncio.Event()
        self._kernel = RealKernel()
        claims, self._close_claims = make_claims(config, source)
        self._claims = None if claims is None else KeptClaims(claims, config.node, self._needed)
        self._store: Store | None = None
        self._blocks: Blocks | None = None
        self._server: Server | None = None
        self._monitor = monitor
        self._cluster: Cluster | None = None
        self._own: frozenset[Prefix] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kernel_touched = True
        self._failed: set[str] = set()
        """Repairs that failed at the last look."""

    @property
    def cni(self) -> Cni:
        assert self.config.cni is not None
        return self.config.cni

    # -- What the agent asks ------------------------------------------------------------------

    def blocks(self, cluster: Cluster) -> frozenset[Prefix] | None:
        """Our blocks, as of the last look; None: not known as yet."""
        if cluster is not self._cluster:
            self._cluster = cluster
            self._wake.set()
        own = self._blocks
        if self._own is None or own is None or own.trouble:
            return self._own
        return _prefixes(o.block for o in own.own)  # one may have been claimed just now

    def reconfigure(self, config: AgentConfig) -> None:
        """A changed configuration; `cni` itself does not change without a restart."""
        former, self.config = self.config, config
        if (former.pod_cidrs, former.node) != (config.pod_cidrs, config.node):
            self._blocks = None  # the next look makes them anew
        self._wake.set()

    # -- Life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        await asyncio.to_thread(self._look)
        self._server = Server(self._run_dir, self.operations)
        self._server.start()
        self._changed()
        log.info("pods are served at %s", self._server.path)
        while True:
            before, began = self._own, loop.time()
            self._wake.clear()
            self._listen()
            await asyncio.to_thread(self._look)
            if self._own != before:
                self._changed()
            # Each ADD wakes us: looking must not become what we do most of the time.
            await asyncio.sleep(max(PAUSE_S, PAUSE_SHARE * (loop.time() - began)))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def stop(self) -> None:
        """Take no more requests, and let those under way end. What is wired stays."""
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())
        self._monitor.close()
        if self._server is not None and not await asyncio.to_thread(self._server.stop):
            log.error("requests of the plugin are still under way")
            return
        await self._close_claims()
        self.operations.close()
        self._kernel.close()
        if self._store is not None:
            self._store.close()

    def _on_kernel(self) -> None:
        """Once is enough: what else happens before the next look is not listened to."""
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())
        self._kernel_touched = True
        self._wake.set()

    def _listen(self) -> None:
        self._monitor.drain()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._on_kernel)

    # -- A look, in a thread ------------------------------------------------------------------

    def _look(self) -> None:
        said = dict(self.errors)
        self.errors.clear()
        try:
            self._open()
            if self._cluster is not None:
                self._look_at_blocks(self._cluster)
            self.operations.mtu = self.cni.mtu or self._smallest_mtu()
            if self._store is not None:
                self._look_at_kernel()
        except NetlinkError as error:
            self.errors["kernel"] = str(error)
        for about, text in self.errors.items():
            if said.get(about) != text:
                log.error("%s: %s", about, text)

    def _open(self) -> None:
        """The store, if it is not open; what a killed agent has left of pods is settled then."""
        if self._store is not None:
            return
        try:
            self._store = Store(self.cni.store, current_boot_id())
        except StoreError as error:
            self.errors["store"] = str(error)
            corrupt = isinstance(error, StoreCorrupt)
            code = Code.STORE_CORRUPT if corrupt else Code.TRY_AGAIN_LATER
            self.operations.trouble = CniError(code, str(error))
            return
        made = self._make_blocks(self._store)
        self.operations.trouble = _WAITING
        try:
            self.operations.leftovers.settle(made.addresses, self._kernel)
        except NetlinkError:
            # Nothing may be given out before this is done: the next look begins anew.
            self._store.close()
            self._store = self._blocks = self.operations.addresses = None
            raise

    def _make_blocks(self, store: Store) -> Blocks:
        made = _Blocks(store, self.config.node, self._configured(), self._claims)
        made.on_claim = self._on_claim
        self._blocks, self.operations.addresses = made, made.addresses
        return made

    def _on_claim(self) -> None:
        """In a thread of the server: the block is to be advertised before its first pod is up."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, we are about to
                self._loop.call_soon_threadsafe(self._changed)

    def _configured(self) -> tuple[Block, ...]:
        return tuple(Block(*parse_prefix(text)) for text in self.config.pod_cidrs)

    def _look_at_blocks(self, cluster: Cluster) -> None:
        if self._store is None:
            self._own = self._without_store(cluster)
            return
        own = self._blocks or self._make_blocks(self._store)
        own.renew(cluster)
        giving = {f.own.block.family for f in own.addresses.stock().fills if f.free}
        for family in families(own.situation):
            if family not in giving:
                own.claim(family)
        for block in own.give_back(time.monotonic()):
            log.info("block %s is empty, and was given back", block)
        trouble = None
        if self._claims is not None and self._claims.text:
            self.errors["lost blocks"] = self._claims.text
        self._own = _prefixes(o.block for o in own.own)
        if own.trouble:
            self.errors["blocks"] = own.trouble
            self._own |= self._in_use(cluster)
            if not own.own:  # read never, since we began: what is ours is not known
                trouble = CniError(Code.TRY_AGAIN_LATER, own.trouble)
        self.operations.trouble = trouble

    def _needed(self) -> list[Needed]:
        """What living pods have that is in none of the blocks that need no claim."""
        cluster = self._cluster
        if self._store is None or cluster is None:
            return []
        node = cluster.nodes.get(self.config.node)
        fixed = self._configured() or tuple(Block(*c) for c in (node.pod_cidrs if node else ()))
        pools = [(Block(p.family, p.cidr), p.block_size) for p in cluster.pools.values()]
        return [
            Needed(
                address, a.pod or a.key[0], next((s for w, s in pools if w.contains(address)), None)
            )
            for a in self._store.all()
            for address in a.addresses
            if not any(block.contains(address) for block in fixed)
        ]

    def _without_store(self, cluster: Cluster) -> frozenset[Prefix]:
        """What the pods that live need."""
        try:
            claims = self._claims.owners() if self._claims is not None else None
        except ClaimsError as error:
            self.errors["blocks"] = str(error)
            claims = {}
        situation = Situation(cluster, self.config.node, self._configured(), claims)
        return _prefixes(o.block for o in own_blocks(situation)) | self._in_use(cluster)

    def _in_use(self, cluster: Cluster) -> frozenset[Prefix]:
        """Blocks of the pools that hold a pod of this node, as far as nobody can tell us better."""
        if self._claims is None:
            return frozenset()
        try:
            links = ipam.read_kernel(self._kernel).links
        except NetlinkError as error:
            self.errors["kernel"] = str(error)
            return frozenset()
        return frozenset(
            (pool.family, make_nlri(address, pool.block_size))
            for link in links
            for address in link.addresses
            for pool in cluster.pools.values()
            if Block(pool.family, pool.cidr).contains(address)
        )

    def _smallest_mtu(self) -> int:
        """Of the links towards our neighbours."""
        mtus = {link.index: link.mtu for link in self._kernel.links()}
        found = []
        for address in self._neighbors():
            try:
                found.append(mtus.get(self._kernel.route_get(address).oif, MTU))
            except NetlinkError:
                continue  # there is no way to it at present
        return min(found, default=MTU)

    def _look_at_kernel(self) -> None:
        """Bring back what somebody has taken away."""
        addresses = self.operations.addresses
        if not self._kernel_touched or addresses is None:
            return
        self._kernel_touched = False
        kernel, turns = self._kernel, self.operations.turns
        before = set(addresses.all())
        links, neighbors = kernel.links(), kernel.neighbors()
        routes = [route for family in Family for route in kernel.routes(family, PROTOCOL)]
        strays = set_aside(addresses, kernel_view(links, routes, neighbors).links)
        self.strays = [" ".join(key) for key in strays]
        # What was the same before and after, and is not being worked at, stood all the time.
        settled = [a for a in addresses.all() if a in before and not turns.is_busy(a.key)]
        ops = missing(settled, links, kernel.addresses(), neighbors, routes)
        failed = {str(e.op): e.text for e in kernel.apply(ops) if e is not None}
        if len(ops) > len(failed):
            log.warning("brought back for pods: %s", ", ".join(map(str, ops[:5])))
        # What fails once may just have been unmade.
        self.errors |= {op: text for op, text in failed.items() if op in self._failed}
        self._failed = set(failed)
        self._kernel_touched = self._kernel_touched or bool(failed)

    # -- What it tells ------------------------------------------------------------------------

    async def ipam(self, _question: dict[str, Any]) -> dict[str, Any]:
        """`samepath ipam show`."""
        store, blocks = self._opened()
        return await asyncio.to_thread(ipam.report, store, blocks)

    async def ipam_check(self, question: dict[str, Any]) -> dict[str, Any]:
        """`samepath ipam check`."""
        store, blocks = self._opened()
        fix = bool(question.get("fix"))

        def examine() -> dict[str, Any]:
            kernel = RealKernel()
            try:
                return ipam.examine(store, blocks, kernel, fix=fix)
            finally:
                kernel.close()

        return await asyncio.to_thread(examine)

    def _opened(self) -> tuple[Store, Blocks]:
        if self._store is None or self._blocks is None:
            trouble = self.operations.trouble
            raise ValueError(trouble.msg if trouble is not None else "the store is not open yet")
        return self._store, self._blocks

    def block_rows(self) -> list[dict[str, Any]]:
        """All nodes' blocks, as `samepath ipam show` has them; empty without store."""
        if self._store is None or self._blocks is None:
            return []
        rows: list[dict[str, Any]] = ipam.report(self._store, self._blocks)["blocks"]
        return rows

    def view(self) -> dict[str, Any]:
        """For `samepath status`."""
        attachments = self._store.all() if self._store is not None else ()
        trouble = self.operations.trouble
        stock = self._blocks.addresses.stock() if self._blocks is not None else None
        return {
            "attachments": len(attachments),
            "unfinished": sum(1 for a in attachments if a.state is State.RESERVED),
            "trouble": trouble.msg if trouble is not None else stock.text if stock else "",
            "errors": dict(self.errors),
            "strays": list(self.strays),
            "mtu": self.operations.mtu,
            "answered": dict(self._server.answered) if self._server is not None else {},
            "pods": [
                {
                    "container": a.key[0],
                    "interface": a.key[1],
                    "pod": a.pod,
                    "network": a.network,
                    "addresses": [address_text(address) for address in a.addresses],
                    "link": a.host_link,
                    "state": a.state.value,
                }
                for a in attachments
            ],
        }


def _prefixes(blocks: Iterable[Block]) -> frozenset[Prefix]:
    return frozenset((block.family, block.nlri) for block in blocks)
