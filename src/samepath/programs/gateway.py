"""`samepath gateway`: BGP paths in, resilient tables out. Wiring only.

One task runs passes: paths that changed are planned and handed to the drivers (`gateway_paths`),
the drivers write to the kernel, and what stands there is advertised onward (`gateway_offer`).
Whatever happens (an UPDATE, a link, a timer, a changed configuration) only sets a flag that wakes
the task. The event loop serves the sessions and never waits for the kernel: a link that goes down
takes its next hops out of every group one by one, under a lock that every write waits for, 40 s for
200 groups of 1,021. So whatever speaks with the kernel runs in a thread, one at a time, while the
task awaits it; `drivers` is held meanwhile, and by those who look at the drivers' state.

At start the kernel's state is adopted, not rebuilt; until the paths are in sync (`gateway_sync`)
nothing is deleted and no service is advertised upstream. SIGTERM closes the sessions without
NOTIFICATION, so that neighbours keep our paths over a restart (RFC 4724); SIGINT says goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from samepath.apply import hash_check
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
from samepath.netlink.socket import NetlinkError
from samepath.programs import control
from samepath.programs.config import Watch, load
from samepath.programs.findings import Findings, settle
from samepath.programs.gateway_bpf import Bpf
from samepath.programs.gateway_kernel_routes import DaemonRoutes, leave_table, open_kernel
from samepath.programs.gateway_kernel_routes import read as read_daemon_routes
from samepath.programs.gateway_offer import Onward
from samepath.programs.gateway_paths import Paths
from samepath.programs.gateway_reading import Schedule, read
from samepath.programs.gateway_sync import Deferral
from samepath.programs.gateway_trace import trace
from samepath.programs.gateway_view import status
from samepath.programs.liveness import Liveness
from samepath.programs.memory import Memory
from samepath.programs.next_hops import with_next_hops
from samepath.programs.stopping import Stopping

log = logging.getLogger("samepath.gateway")

P = ParamSpec("P")
T = TypeVar("T")

CONFIG_LOOK_S = 1.0
STEP_S = 0.005
"""Work on the event loop goes on for so long before others are served."""
NEIGHBORS_S = 0.02
"""News of neighbours come in crowds."""
SWITCH_S = 0.001
"""A thread that computes lets the event loop go on after so long."""
SLOW_S = 0.25
"""The kernel usually answers sooner."""
PART_S = 0.02
"""Work in a thread, before others may look."""
FIXED = (
    "router_id", "local_as", "run_dir", "dataplane", "route_metric", "attach", "bfdd",
    "kernel_routes",
)  # fmt: skip
"""Fields of the configuration whose change needs a restart."""


class CannotStart(Exception):
    """The world does not let us, in words."""


class CannotFollow(Exception):
    """A configuration that a running gateway cannot follow, in words."""


class Gateway:
    def __init__(self, config: GatewayConfig, watch: Watch) -> None:
        self.config = config
        self.watch = watch
        self.started = time.monotonic()
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
        self._may_leave_table = self.daemon is None
        self.config_error = ""
        self.hash_checked: dict[Family, str] = {}
        """Families whose flow hash was compared with the prediction, and what was wrong."""
        self.drivers = asyncio.Lock()
        """Held by whoever works with or looks at `services` and `plain`."""
        self.wake = asyncio.Event()
        self.is_reload_due = False
        self.reading = Schedule()
        self._memory = Memory()
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
            {"status": lambda q: status(self, q), "trace": lambda q: trace(self, q)},
        )
        tasks: list[asyncio.Task[object]] = []
        try:
            try:
                await self.speaker.start()
            except OSError as error:
                raise CannotStart(f"listen: {error.strerror or error}") from error
            log.info("gateway %s runs, AS %d", self.config.router_id, self.config.local_as)
            tasks = [
                asyncio.create_task(self._passes()),
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

    async def _reload(self) -> None:
        """Take a changed configuration; a bad one is refused and the last good one stands."""
        self.is_reload_due = False
        try:
            config = await asyncio.to_thread(load, str(self.watch.path), GatewayConfig)
            self._take(config)
        except (DocumentError, CannotFollow) as error:
            self.config_error = str(error)
            log.error("configuration refused, the last good one stands: %s", error)
            return
        self.config_error = ""
        log.info("configuration read again")
        self.findings.note(await asyncio.to_thread(settle, config.hash_seed))

    def _take(self, config: GatewayConfig) -> None:
        """Raises CannotFollow, and then nothing has changed."""
        for field in FIXED:
            if getattr(config, field) != getattr(self.config, field):
                name = {"local_as": "as"}.get(field, field)
                raise CannotFollow(f"{self.watch.path}: {name}: a change needs a restart")
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

    # passes

    async def _passes(self) -> None:
        while True:
            now = time.monotonic()
            until = min(
                now + CONFIG_LOOK_S,
                self.reading.due_at,
                self.services.next_look,
                self.plain.next_look,
                self.bpf.next_look,
                self.deferral.until(self.config),
                self.daemon.due_at if self.daemon is not None else math.inf,
            )
            try:
                async with asyncio.timeout(max(0.0, until - now)):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()
            if self.watch.changed() or self.is_reload_due:
                await self._reload()
            await self._pass()

    async def _pass(self) -> None:
        now = time.monotonic()
        self.liveness.follow()
        if now >= self.reading.due_at or self.services.tables.doubtful:
            await self._read_back()
        if self.daemon is not None and now >= self.daemon.due_at:
            await self._read_daemon(self.daemon)
        self.deferral.note(self.config, self.speaker, now)
        if not self.deferral.sync.in_sync:
            # Before the paths are taken: those that it counts on are then among them, and no table
            # is made of a part of the members, to which the rest could only come by moves.
            unreachable = self.services.is_cut_off
            self.deferral.look(self.config, self.speaker, now, unreachable=unreachable)
            self._note_sync()
        has_news = await self.paths.take()
        self.onward.is_due |= has_news
        if has_news and self.paths.have_gone:
            await self._offer()  # withdrawn before its route goes, and though the kernel be slow
        if self.bpf.is_wanted:  # maps are written sooner than groups
            await self._work(self.services.regroup())
            await self._work(self.bpf.work())
        await self._work(self.services.work())
        await self._work(self.plain.work())
        if not self.bpf.is_wanted:
            await self._work(self.bpf.work())
        if self.deferral.sync.in_sync:
            self.slots.retain(self.services.used_slots() | self.plain.used_slots())
            if not self.services.holds_any:
                self.deferral.begin_again_if_cut_off(self.config, self.speaker, now)
            elif self.services.is_cut_off:
                self.deferral.begin_again(self.config, now)
            self._note_sync()
            if self._may_leave_table and not self.services.is_busy:
                self._may_leave_table = False
                await self._in_thread(leave_table)
        await self._check_hash()
        await self._offer()
        if has_news:
            self._memory.settle_down()

    def _note_sync(self) -> None:
        if self.services.in_sync != self.deferral.sync.in_sync:
            self.services.in_sync = self.deferral.sync.in_sync
            self.plain.in_sync |= self.services.in_sync
            self.onward.is_due = True

    async def _work(self, work: Iterator[None]) -> None:
        """Run `work` in a thread, a part at a time: those who look need not wait for its end."""
        is_done = False
        try:
            while not is_done:
                async with self.drivers:
                    is_done = await self._in_thread(_part, work)
        except NetlinkError as error:
            # A read was refused. What is left to be done is still marked; go on from what is there.
            log.warning("the kernel could not be read: %s", error)
            self.plain.read_again()
            self.reading.retry()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What speaks with the kernel. While that takes long, prefixes that have lost all their
        paths are withdrawn all the same."""
        done = asyncio.ensure_future(asyncio.to_thread(work, *args, **more))
        try:
            while not done.done():
                await asyncio.wait([done], timeout=SLOW_S)
                if not done.done() and self.speaker.rib.is_changed:
                    self.onward.is_due = True
                    await self._offer()
            return done.result()
        finally:
            done.cancel()

    async def _offer(self) -> None:
        """The RIB belongs to the event loop: in small steps on it."""
        began = time.monotonic()
        for _ in self.onward.work():
            if time.monotonic() - began > STEP_S:
                await asyncio.sleep(0)
                began = time.monotonic()

    async def _read_daemon(self, source: DaemonRoutes) -> None:
        assert self.config.kernel_routes is not None
        began = time.monotonic()
        try:
            found = await self._in_thread(read_daemon_routes, self.config.kernel_routes)
        except OSError as error:
            log.warning("the daemon's routes could not be read: %s", error)
            source.again(time.monotonic())
            return
        source.take(found, began, time.monotonic())
        self.findings.about_daemon(source.about(self.config))
        self._note_sync()

    async def _read_back(self) -> None:
        expected = self.services.expected()
        chosen = self.reading.begin(expected.groups)
        try:
            found = await self._in_thread(
                read, expected, chosen, self.config.hash_seed, self.open_kernel
            )
        except OSError as error:
            log.warning("the kernel could not be read back: %s", error)
            self.reading.retry()
            return
        self.findings.note(found.findings)
        if found.connected != self.connected:
            self.connected, self.addresses = found.connected, found.addresses
            self.services.links_changed()
            self.bpf.links_changed()
            # An address that came later may be a next hop of ours.
            config = with_next_hops(self.config, self.connected, self.addresses)
            if config != self.speaker.config:
                self.speaker.reconfigure(config)
            self.onward.is_due = True
        if found.difference:
            log.warning("the kernel had lost or changed what is ours: %s", found.difference.text)
        self.services.mend(found.difference)
        self.plain.read_again(found.standing)
        self._memory.settle_down()
        self.reading.ended()

    async def _check_hash(self) -> None:
        for family in Family:
            source = hash_check.own_address([a.address for a in self.addresses], family)
            if family in self.hash_checked or source is None:
                continue
            rows = self.services.rows
            row = next((r for r in rows if r.family is family and hash_check.enough(r)), None)
            if row is not None:
                seed = self.config.hash_seed
                wrong = await self._in_thread(hash_check.check, self.kernel, row, source, seed)
                self.hash_checked[family] = wrong
                if wrong:
                    log.warning("%s", wrong)


def _part(work: Iterator[None]) -> bool:
    """Some of it. True: all is done."""
    until = time.monotonic() + PART_S
    while time.monotonic() < until:
        if next(work, work) is work:
            return True
    return False


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
            asyncio.run(Gateway(config, watch).run())
    except (control.RunDirError, CannotStart, PermissionError) as error:
        log.error("cannot start: %s", error)
        return 1
    return 0
