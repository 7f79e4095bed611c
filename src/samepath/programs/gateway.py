"""`samepath gateway`: BGP paths in, resilient tables out. Wiring only.

One task runs passes: paths that changed are planned (`plan.gateway`), services go to the driver of
resilient groups, everything else to the driver of plain routes, and what stands in the kernel is
advertised onward (`plan.onward`). Whatever happens (an UPDATE, a link, a timer, a changed
configuration) only sets a flag that wakes the task. Work is done in small steps between which the
event loop serves the sessions.

At start the kernel's state is adopted, not rebuilt; until the paths are in sync (`plan.sync`)
nothing is deleted and no service is advertised upstream. SIGTERM closes the sessions without
NOTIFICATION, so that neighbours keep our paths over a restart (RFC 4724); SIGINT says goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from samepath.apply import hash_check, settings
from samepath.apply.groups import ResilientRoutes
from samepath.apply.routes import PlainRoutes
from samepath.apply.slots import Slots
from samepath.bgp.rib import PathSet
from samepath.bgp.transport import PeerStatus, Speaker
from samepath.model.config import GatewayConfig
from samepath.model.documents import DocumentError
from samepath.model.net import Address, Family, Nlri, parse_address
from samepath.model.ours import PROTOCOL
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import RealKernel
from samepath.netlink.monitor import Monitor
from samepath.plan import onward
from samepath.plan.gateway import Wanted, wanted
from samepath.plan.sync import Sync, Why, decide
from samepath.programs import control
from samepath.programs.config import Watch, load
from samepath.programs.gateway_view import status, trace
from samepath.programs.next_hops import with_next_hops

log = logging.getLogger("samepath.gateway")

RESYNC_S = 30.0
"""The kernel is read back at least so often: it forgets without saying so."""
CONFIG_LOOK_S = 1.0
PIECE = 8192
"""Prefixes that are planned before the event loop is served."""
STEP_S = 0.005
"""Work goes on for so long before the event loop is served."""


class Gateway:
    def __init__(self, config: GatewayConfig, path: str) -> None:
        self.config = config
        self.watch = Watch(path)
        self.path = path
        self.started = time.monotonic()
        self.kernel = RealKernel()
        self.addresses = [a.address for a in self.kernel.addresses()]
        self.connected = Connected.read(self.kernel)
        self.slots = Slots()
        nexthops, groups = self.kernel.nexthops()
        self.slots.adopt(nexthops)
        self.services = ResilientRoutes(
            self.kernel,
            self.slots,
            buckets=config.buckets,
            metric=config.route_metric,
            idle_timer_s=config.idle_timer_s,
            move_deadline_s=config.move_deadline_s,
            connected=self._interface,
            clock=time.monotonic,
        )
        routes = {family: self.kernel.routes(family) for family in Family}
        for problem in self.services.adopt(nexthops, groups, routes):
            log.warning("not adopted: %s", problem)
        self.adopted = self.services.adopted_hops()
        self.plain = PlainRoutes(self.kernel, self.slots, metric=config.route_metric)
        self.plain_wanted: dict[tuple[Family, Nlri], Wanted] = {}
        self.sync = Sync(False, Why.WAITING_FOR_HOPS if self.adopted else Why.WAITING_FOR_PEERS)
        self.deferred_since = self.started
        self.cut_off = False
        """From the time when all nodes were lost until enough of them are back."""
        self.findings: Sequence[settings.Finding] = ()
        self.config_error = ""
        self.hash_checked: dict[Family, str] = {}
        """Families whose flow hash was compared with the prediction, and what was wrong."""
        self.wake = asyncio.Event()
        self.links_changed = True
        self.read_back_at = self.started + RESYNC_S
        self.offered_version = -1
        self.version = 0
        """Counts what may change our advertisements."""
        self.speaker = Speaker(
            self._with_next_hops(config),
            wake=self.wake.set,
            restarted=bool(self.adopted),
            forwarding_preserved=bool(self.adopted),
        )

    def _interface(self, address: Address) -> int | None:
        return self.connected(address)

    def _with_next_hops(self, config: GatewayConfig) -> GatewayConfig:
        return with_next_hops(config, self.connected, self.kernel.addresses())

    # the life of the program

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        goodbye = False

        def end(notify: bool) -> None:
            nonlocal goodbye
            goodbye = notify
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, end, False)
        loop.add_signal_handler(signal.SIGINT, end, True)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._settle_settings()
        monitor = self.kernel.monitor()
        loop.add_reader(monitor.fileno(), self._on_links, monitor)
        server = await control.serve(
            self.config.run_dir,
            "gateway",
            {"status": lambda q: status(self, q), "trace": lambda q: trace(self, q)},
        )
        await self.speaker.start()
        log.info("gateway %s runs, AS %d", self.config.router_id, self.config.local_as)
        tasks = [asyncio.create_task(self._passes()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()  # our own fault: end, be restarted, adopt
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(monitor.fileno())
            server.close()
            await self.speaker.stop(notify=goodbye)

    def _settle_settings(self) -> None:
        self.findings = [
            *settings.surroundings(gateway=True),
            *settings.enforce(settings.gateway_settings(self.config.hash_seed)),
        ]
        for finding in self.findings:
            log.log(finding.level, "%s", finding.text)

    def _on_links(self, monitor: Monitor) -> None:
        monitor.drain()
        self.links_changed = True
        self.wake.set()

    def _reload(self) -> None:
        """Take a changed configuration; a bad one is refused and the last good one stands."""
        try:
            config = load(self.path, GatewayConfig)
        except DocumentError as error:
            self.config_error = str(error)
            log.error("configuration refused, the last good one stands: %s", error)
            return
        self.config_error = ""
        fixed = [name for name in ("router_id", "local_as", "run_dir", "dataplane", "route_metric")
                 if getattr(config, name) != getattr(self.config, name)]  # fmt: skip
        if fixed:
            self.config_error = f"{', '.join(fixed)}: a change needs a restart of the gateway"
            log.error("configuration refused, the last good one stands: %s", self.config_error)
            return
        log.info("configuration read again")
        self.config = config
        self._settle_settings()
        self.services.configure(
            buckets=config.buckets,
            idle_timer_s=config.idle_timer_s,
            move_deadline_s=config.move_deadline_s,
        )
        self.speaker.reconfigure(self._with_next_hops(config))
        self.version += 1
        self.wake.set()

    # passes

    async def _passes(self) -> None:
        while True:
            now = time.monotonic()
            until = min(self.services.next_look, self.plain.next_look, self.read_back_at)
            until = min(until, now + CONFIG_LOOK_S)
            if not self.sync.in_sync:
                until = min(until, self.deferred_since + self.config.selection_deferral_s)
            try:
                async with asyncio.timeout(max(0.0, until - now)):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()
            if self.watch.changed():
                self._reload()
            await self._pass()

    async def _pass(self) -> None:
        now = time.monotonic()
        if self.links_changed or now >= self.read_back_at:
            await self._read_back()
        if not self.sync.in_sync:
            # Before the paths are taken: those that it counts on are then among them, and no table
            # is made of a part of the members, to which the rest could only come by moves.
            self._look_whether_in_sync(now)
        await self._take_paths()
        if await self._steps(self.services.work()) + await self._steps(self.plain.work()):
            self.version += 1
        if self.sync.in_sync and self._is_cut_off():
            self._defer_again()
        self._check_hash()
        self._offer()

    def _is_cut_off(self) -> bool:
        """No node is heard and no service is left: whatever comes back comes one by one, as after
        a start with an empty kernel."""
        if not self.config.expected_peers or self._plain_only:
            return False
        if any(row.nlris for row in self.services.rows) or any(self.services.routed.values()):
            return False
        return not any(peer.is_established for peer in self._service_peers())

    def _defer_again(self) -> None:
        """A table made of the first node to return would be one that the other gateways do not
        have, and the rest of its members could come to it only by moves."""
        log.warning("cut off from all nodes: waiting for expected_peers before tables are made")
        self.adopted, self.cut_off = set(), True
        self.sync = Sync(False, Why.WAITING_FOR_PEERS)
        self.services.in_sync = False
        self.deferred_since = time.monotonic()

    def _service_peers(self) -> list[PeerStatus]:
        """The neighbours that may advertise services."""
        names = {n.name for n in self.config.neighbors if n.import_.services}
        return [peer for peer in self.speaker.peers() if peer.neighbor in names]

    async def _steps(self, work: Iterable[None]) -> int:
        """Run `work`, and let the event loop breathe. How many steps there were."""
        began, count = time.monotonic(), 0
        for count, _ in enumerate(work, 1):  # noqa: B007
            if time.monotonic() - began > STEP_S:
                await asyncio.sleep(0)
                began = time.monotonic()
        return count

    async def _read_back(self) -> None:
        self.links_changed = False
        self.read_back_at = time.monotonic() + RESYNC_S
        connected = Connected.read(self.kernel)
        if connected != self.connected:
            self.connected = connected
            self.addresses = [a.address for a in self.kernel.addresses()]
            self.services.links_changed()
            self.version += 1
        actual = await asyncio.to_thread(read_ours)
        if self.services.forgotten(*actual):
            log.warning("the kernel had forgotten next hops, groups or routes; making them again")
            self.version += 1
        self.plain.read_again()

    async def _take_paths(self) -> None:
        """Plan what changed: prefixes with the same paths at once, a piece at a time."""
        plain_before = len(self.plain_wanted)
        plain_changed = False
        for family, nlris in self.speaker.rib.take_changed().items():
            if not nlris:
                continue
            self.version += 1
            parts: dict[PathSet | None, list[Nlri]] = defaultdict(list)
            for count, nlri in enumerate(nlris):
                parts[self.speaker.rib.paths(family, nlri)].append(nlri)
                if count % PIECE == PIECE - 1:
                    await asyncio.sleep(0)
            for paths, part in parts.items():
                what = wanted(paths.best) if paths is not None else None
                for start in range(0, len(part), PIECE):
                    plain_changed |= self._want(family, part[start : start + PIECE], what)
                    await asyncio.sleep(0)
        if plain_changed or len(self.plain_wanted) != plain_before:
            self.plain.want({key: w.gateways for key, w in self.plain_wanted.items()})

    def _want(self, family: Family, nlris: list[Nlri], what: Wanted | None) -> bool:
        """Whether plain routes are concerned."""
        resilient = what is not None and what.kind == "services" and not self._plain_only
        if resilient:
            assert what is not None
            self.services.want(family, nlris, what.target)
            before = len(self.plain_wanted)
            for nlri in nlris if before else ():
                self.plain_wanted.pop((family, nlri), None)
            if len(self.plain_wanted) != before:
                # A plain route became a service: the plain driver will delete its route, which
                # may be the new one by then. Look at the kernel afterwards.
                self.links_changed = True
                self.wake.set()
                return True
            return False
        self.services.want(family, nlris, None)
        for nlri in nlris:
            if what is None:
                self.plain_wanted.pop((family, nlri), None)
            else:
                self.plain_wanted[family, nlri] = what
        return what is not None

    @property
    def _plain_only(self) -> bool:
        return self.config.dataplane == "plain"

    def _look_whether_in_sync(self, now: float) -> None:
        heard = {
            peer.address
            for peer in self.speaker.peers()
            if peer.is_established and all(f.end_of_rib_received for f in peer.families.values())
        }
        service_peers = self._service_peers()
        if self.cut_off and not any(p.is_established for p in service_peers):
            self.deferred_since = now  # nobody yet who could be waited for
        for family in Family if self.adopted else ():
            for paths in {paths for _, paths in self.speaker.rib.items(family)}:
                heard.update(p.attributes.next_hop for p in paths.paths if p.peer in heard)
        self.sync = decide(
            adopted=self.adopted,
            heard=heard,
            peers_heard=sum(peer.address in heard for peer in service_peers),
            expected_peers=self.config.expected_peers,
            since_start_s=now - self.deferred_since,
            deferral_s=self.config.selection_deferral_s,
        )
        if self.sync.in_sync:
            log.info("in sync after %.1f s: %s", now - self.deferred_since, self.sync.text)
            self.services.in_sync = self.plain.in_sync = True
            self.cut_off = False
            self.version += 1

    def _check_hash(self) -> None:
        for family in Family:
            source = hash_check.own_address(self.addresses, family)
            if family in self.hash_checked or source is None:
                continue
            for row in self.services.rows:
                if row.family is family and hash_check.enough(row):
                    wrong = hash_check.check(self.kernel, row, source, self.config.hash_seed)
                    self.hash_checked[family] = wrong
                    if wrong:
                        log.warning("%s", wrong)
                    break

    def _offer(self) -> None:
        """Tell every neighbour what it is to know; the sessions send the difference."""
        if self.offered_version == self.version:
            return
        self.offered_version = self.version
        snapshot = self._snapshot()
        for neighbor in self.config.neighbors:
            if neighbor.export:
                self.speaker.set(neighbor.name, onward.advertisements(neighbor, snapshot))
        if self.sync.in_sync:
            self.speaker.release_end_of_rib()

    def _snapshot(self) -> onward.Snapshot:
        kinds: dict[str, dict[Family, list[Nlri]]] = {
            kind: {f: [] for f in Family} for kind in ("services", "pods", "routes")
        }
        for family, nlri in self.plain.installed:
            what = self.plain_wanted.get((family, nlri))
            if what is not None:
                kinds[what.kind][family].append(nlri)
        if self.sync.in_sync:
            for family, nlris in self.services.routed.items():
                kinds["services"][family].extend(nlris)
        has_way_out = any(n.import_.routes for n in self.config.neighbors)
        return onward.Snapshot(
            services=kinds["services"] if self.sync.in_sync else dict.fromkeys(Family, ()),
            pods=kinds["pods"],
            ways_out=[f for f in Family if kinds["routes"][f] or not has_way_out],
            paths=self.speaker.rib.paths,
            connected=self._interface,
            cluster_id=int.from_bytes(parse_address(self.config.router_id), "big"),
        )


def read_ours() -> tuple[set[int], set[int], dict[Family, set[Nlri]]]:
    """What of ours the kernel holds: group ids, next hop ids, routes. For a thread of its own."""
    kernel = RealKernel()
    try:
        nexthops, groups = kernel.nexthops(protocol=PROTOCOL)
        routes = {f: {nlri for nlri, _ in kernel.route_nexthops(f, PROTOCOL)} for f in Family}
        return {g.id for g in groups}, {n.id for n in nexthops}, routes
    finally:
        kernel.close()


def run(path: str) -> int:
    """`samepath gateway --config PATH`: the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = load(path, GatewayConfig)
    except DocumentError as error:
        log.error("%s", error)
        return 2
    asyncio.run(Gateway(config, path).run())
    return 0
