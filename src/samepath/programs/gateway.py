"""`samepath gateway`: BGP paths in, resilient tables out. Wiring only.

One task runs passes (`gateway_passes`): paths that changed are planned and handed to the drivers
(`gateway_paths`), the drivers write to the kernel, and what stands there is advertised onward
(`gateway_offer`). Whatever happens (an UPDATE, a link, a timer, a changed configuration or cluster)
only sets a flag that wakes the task. The event loop serves the sessions and never waits for the
kernel: a link that goes down takes its next hops out of every group one by one, under a lock that
every write waits for, 40 s for 200 groups of 1,021. So whatever speaks with the kernel runs in a
thread, one at a time, while the task awaits it; `drivers` is held meanwhile, and by those who look
at the drivers' state.

At start the kernel's state is adopted, not rebuilt; until the paths are in sync (`gateway_sync`)
nothing is deleted and no service is advertised upstream. SIGTERM closes the sessions without
NOTIFICATION, so that neighbours keep our paths over a restart (RFC 4724); SIGINT says goodbye.

`cluster.file` is the configuration as it is written, `config` the one that the gateway runs by:
with the neighbours and the tier that the cluster has (`gateway_cluster`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterable
from typing import Any

from samepath.apply.adoption import adopted_hops
from samepath.apply.groups import ResilientRoutes
from samepath.apply.routes import PlainRoutes
from samepath.apply.slots import Slots
from samepath.bgp.transport import Speaker
from samepath.model.config import GatewayConfig
from samepath.model.documents import DocumentError
from samepath.model.net import Address, Family
from samepath.model.ours import PROTOCOL
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import RealKernel
from samepath.netlink.monitor import OVERFLOW, Monitor
from samepath.programs import control
from samepath.programs.config import Watch, load
from samepath.programs.findings import Findings, settle
from samepath.programs.gateway_bpf import Bpf
from samepath.programs.gateway_cluster import FromCluster
from samepath.programs.gateway_kernel_routes import DaemonRoutes, open_kernel
from samepath.programs.gateway_offer import Onward
from samepath.programs.gateway_passes import Passes
from samepath.programs.gateway_paths import Paths
from samepath.programs.gateway_reading import Schedule
from samepath.programs.gateway_sync import Deferral
from samepath.programs.gateway_trace import trace
from samepath.programs.gateway_view import readiness, status
from samepath.programs.liveness import Liveness
from samepath.programs.next_hops import with_next_hops
from samepath.programs.stopping import Stopping

log = logging.getLogger("samepath.gateway")

NEIGHBORS_S = 0.02
"""News of neighbours come in crowds."""
SWITCH_S = 0.001
"""A thread that computes lets the event loop go on after so long."""
FIXED = (
    "router_id", "local_as", "run_dir", "dataplane", "route_metric", "attach", "bfdd",
    "kernel_routes", "manifests", "kubernetes", "tier",
)  # fmt: skip
"""Fields of the configuration whose change needs a restart."""


class CannotStart(Exception):
    """The world does not let us, in words."""


class CannotFollow(Exception):
    """A configuration that a running gateway cannot follow, in words."""


class Gateway:
    def __init__(
        self, config: GatewayConfig, watch: Watch, cluster: FromCluster | None = None
    ) -> None:
        """`config`: what to begin with, by `cluster.first` if there is one."""
        self.config = config
        self.watch = watch
        self.started = time.monotonic()
        self.cluster = cluster or FromCluster(config, self.started)
        self.wake = self.cluster.wake
        self.kernel = self.open_kernel()
        self.addresses = self.kernel.addresses()
        self.connected = Connected(self.kernel.links(), self.addresses)
        self.slots = Slots()
        nexthops, groups = self.kernel.nexthops(PROTOCOL)
        self.slots.adopt(nexthops)
        self.services = ResilientRoutes(
            self.kernel,
            self.slots,
            buckets=config.buckets,
            metric=config.route_metric,
            idle_timer_s=config.idle_timer_s,
            move_deadline_s=config.move_deadline_s,
            connected=self.interface,
            why_not=lambda address: self.connected.why_not(address),
            clock=time.monotonic,
        )
        routes = {family: self.kernel.route_nexthops(family, PROTOCOL) for family in Family}
        for problem in self.services.adopt(nexthops, groups, routes):
            log.warning("not adopted: %s", problem)
        self.plain = PlainRoutes(
            self.kernel, self.slots, metric=config.route_metric, blackholes=False
        )
        self.findings = Findings(is_beside_daemon=config.kernel_routes is not None)
        self.bpf = Bpf(self)
        adopted = adopted_hops(nexthops, groups, routes) | self.bpf.adopted_hops()
        self.daemon: DaemonRoutes | None = None
        """The source in place of our own BGP."""
        self.deferral: Deferral | DaemonRoutes = Deferral(adopted, self.started)
        if config.kernel_routes is not None:
            self.deferral = self.daemon = DaemonRoutes(self.services.hops(), self.started)
        self.config_error = ""
        self.hash_checked: dict[Family, str] = {}
        """Families whose flow hash was compared with the prediction, and what was wrong."""
        self.drivers = asyncio.Lock()
        """Held by whoever works with or looks at `services` and `plain`."""
        self.is_reload_due = False
        self.reading = Schedule()
        has_adopted = bool(adopted)
        self.speaker = Speaker(
            with_next_hops(config, self.connected, self.addresses),
            wake=self.wake.set,
            # With an empty kernel, too: End-of-RIB comes late, and a neighbour that has restarted
            # itself (BIRD, FRR) would keep its own paths back until then (RFC 4724 §4.1).
            restarted=True,
            forwarding_preserved=has_adopted,
        )
        self.paths = Paths(
            self.daemon or self.speaker.rib,
            self.services,
            self.plain,
            plain_only=config.dataplane == "plain",
        )
        self.onward = Onward(self)
        self.passes = Passes(self)
        self.speaker.bind(self.cluster.plan.claims)
        self.liveness = Liveness(config.run_dir, "gateway", self.speaker)
        log.info("adopted %d groups in %.2f s", len(list(self.services.rows)),
                 time.monotonic() - self.started)  # fmt: skip

    def open_kernel(self) -> RealKernel:
        return open_kernel(self.config)

    def daemon_view(self) -> dict[str, Any] | None:
        source, config = self.daemon, self.config.kernel_routes
        return source.view(config) if source is not None and config is not None else None

    def interface(self, address: Address) -> int | None:
        return self.connected(address)

    # the life of the program

    async def run(self) -> None:
        """Raises CannotStart."""
        sys.setswitchinterval(SWITCH_S)
        loop = asyncio.get_running_loop()
        stopping = Stopping(self._reload_soon)
        self.findings.look_around()
        self.findings.note(settle(self.config.hash_seed))
        monitor = self.kernel.monitor(routes=True, neighbors=self.bpf.is_wanted)
        loop.add_reader(monitor.fileno(), self._on_news, monitor)
        server = await control.serve(
            self.config.run_dir,
            "gateway",
            {
                "status": lambda q: status(self, q),
                "trace": lambda q: trace(self, q),
                "ready": lambda _: readiness(self),
            },
        )
        tasks: list[asyncio.Task[object]] = []
        try:
            try:
                await self.speaker.start()
            except OSError as error:
                raise CannotStart(f"listen: {error.strerror or error}") from error
            log.info("gateway %s runs, AS %d", self.config.router_id, self.config.local_as)
            tasks = [
                asyncio.create_task(self.passes.run()),
                self.cluster.start(),
                asyncio.create_task(self.liveness.run()),
                asyncio.create_task(stopping.asked.wait()),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # our own fault: end, be restarted, adopt
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(monitor.fileno())
            monitor.close()
            server.close()
            await self.liveness.close(goodbye=stopping.goodbye)
            await self.speaker.stop(notify=stopping.goodbye, text="samepath gateway: stopped")

    def _on_news(self, monitor: Monitor) -> None:
        kinds = monitor.drain()
        if kinds & {"neighbor", OVERFLOW}:
            self.bpf.neighbors_changed()
            asyncio.get_running_loop().call_later(NEIGHBORS_S, self.wake.set)
        if self.daemon is not None:
            self.daemon.news(kinds)
        if kinds - {"neighbor"}:
            self.reading.news(kinds - {"neighbor"})
            self.wake.set()

    def suspect(self, groups: Iterable[int]) -> None:
        """These are not as they should be."""
        self.reading.suspect(groups)
        self.wake.set()

    @property
    def is_behind(self) -> bool:
        """Something is known that is not in the kernel yet, besides moves that wait."""
        return (
            self.paths.is_behind
            or self.services.is_busy
            or not self.plain.is_settled
            or not self.bpf.is_settled
        )

    # configuration

    def _reload_soon(self) -> None:
        self.is_reload_due = True
        self.wake.set()

    async def reload(self) -> None:
        """Take a changed configuration; a bad one is refused and the last good one stands."""
        self.is_reload_due = False
        former = self.cluster.file
        try:
            file = await asyncio.to_thread(load, str(self.watch.path), GatewayConfig)
            self._refuse_fixed(file, former)
            config = self.cluster.running(file, self.config)
            self._take(config)
        except (DocumentError, CannotFollow) as error:
            self.cluster.running(former, self.config)
            self.config_error = str(error)
            log.error("configuration refused, the last good one stands: %s", error)
            return
        self.config_error = ""
        log.info("configuration read again")
        self.findings.note(await asyncio.to_thread(settle, config.hash_seed))

    async def follow_cluster(self, now: float) -> None:
        """Take what has changed in the cluster. What cannot be followed is tried again."""
        config = await self.cluster.look(self, now)
        if config is None or config == self.config:
            return
        try:
            self._take(config)
        except CannotFollow as error:
            self.cluster.failed(str(error), now)

    def awaited(self) -> frozenset[Address]:
        """Next hops that were adopted and may not have been heard yet."""
        deferral = self.deferral
        if isinstance(deferral, DaemonRoutes) or deferral.sync.in_sync:
            return frozenset()
        return deferral.adopted

    def _refuse_fixed(self, file: GatewayConfig, former: GatewayConfig) -> None:
        """Raises CannotFollow."""
        changed = [field for field in FIXED if getattr(file, field) != getattr(former, field)]
        if (file.nodes is None) != (former.nodes is None):
            changed.append("nodes")
        if changed:
            name = {"local_as": "as"}.get(changed[0], changed[0])
            raise CannotFollow(f"{self.watch.path}: {name}: a change needs a restart")

    def _take(self, config: GatewayConfig) -> None:
        """Raises CannotFollow, and then nothing has changed."""
        if self.bpf.driver is not None and config.buckets != self.config.buckets:
            raise CannotFollow(
                f"{self.watch.path}: buckets: with the BPF data plane a change needs a restart"
            )
        try:
            self.speaker.reconfigure(with_next_hops(config, self.connected, self.addresses))
        except OSError as error:
            raise CannotFollow(f"{self.watch.path}: listen: {error.strerror or error}") from error
        if config.hash_seed != self.config.hash_seed:
            self.hash_checked = {}
        former, self.config = self.config, config
        self.services.configure(
            buckets=config.buckets,
            idle_timer_s=config.idle_timer_s,
            move_deadline_s=config.move_deadline_s,
        )
        self.bpf.configure(config, former)
        self.onward.is_due = True


async def _run(config: GatewayConfig, watch: Watch) -> None:
    """Raises CannotStart."""
    cluster = FromCluster(config, time.monotonic())
    if cluster.source is not None:
        config = await _begin(cluster)
    await Gateway(config, watch, cluster).run()


async def _begin(cluster: FromCluster) -> GatewayConfig:
    """What the tier says, before anything is touched: the kernel forwards on meanwhile."""
    source = cluster.source
    assert source is not None

    def waiting(_question: dict[str, Any]) -> Any:
        raise ValueError(
            f"waiting for GatewayTier {cluster.file.tier} from {source.where}"
            f"{': ' + source.trouble if source.trouble else ''}; "
            "what a former gateway left in the kernel forwards on"
        )

    server = await control.serve(
        cluster.file.run_dir, "gateway", {"status": waiting, "trace": waiting}
    )
    first = asyncio.create_task(cluster.first(time.monotonic))
    try:
        await asyncio.wait({first, cluster.start()}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            cluster.start().result()  # our own fault
        return first.result()
    finally:
        first.cancel()
        server.close()


def run(path: str) -> int:
    """`samepath gateway --config PATH`: the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    watch = Watch(path)
    try:
        config = load(path, GatewayConfig)
    except DocumentError as error:
        log.error("%s", error)
        return 2
    try:
        with control.only_one(config.run_dir, "gateway"):
            asyncio.run(_run(config, watch))
    except (control.RunDirError, CannotStart, PermissionError) as error:
        log.error("cannot start: %s", error)
        return 1
    return 0
