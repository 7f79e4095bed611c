"""`samepath gateway`: BGP paths in, resilient tables out. Wiring only.

One task runs passes: paths that changed are planned and handed to the drivers (`gateway_paths`),
the drivers write to the kernel, and what stands there is advertised onward (`gateway_offer`).
Whatever happens (an UPDATE, a link, a timer, a changed configuration) only sets a flag that wakes
the task. Work is done in small steps between which the event loop serves the sessions; what cannot
be done in small steps (reading the kernel back, reading a file) is done in a thread.

At start the kernel's state is adopted, not rebuilt; until the paths are in sync (`gateway_sync`)
nothing is deleted and no service is advertised upstream. SIGTERM closes the sessions without
NOTIFICATION, so that neighbours keep our paths over a restart (RFC 4724); SIGINT says goodbye.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from collections.abc import Iterable
from itertools import islice

from samepath.apply import hash_check, plain_reading
from samepath.apply.adoption import adopted_hops
from samepath.apply.groups import ResilientRoutes
from samepath.apply.readback import Difference, Expected, compare
from samepath.apply.routes import PlainRoutes
from samepath.apply.settings import Finding
from samepath.apply.slots import Slots
from samepath.bgp.transport import Speaker
from samepath.model.config import GatewayConfig
from samepath.model.documents import DocumentError
from samepath.model.net import Address, Family
from samepath.model.ours import PROTOCOL
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import RealKernel
from samepath.netlink.monitor import Monitor
from samepath.netlink.socket import NetlinkError
from samepath.programs import control
from samepath.programs.config import Watch, load
from samepath.programs.findings import Findings, settle
from samepath.programs.gateway_offer import Onward
from samepath.programs.gateway_paths import Paths
from samepath.programs.gateway_sync import Deferral
from samepath.programs.gateway_trace import trace
from samepath.programs.gateway_view import status
from samepath.programs.next_hops import with_next_hops

log = logging.getLogger("samepath.gateway")

READ_BACK_S = 30.0
"""The kernel is read back at least so often: it forgets without saying so."""
READ_AGAIN_S = 0.1
"""And at most so often, whatever it says."""
READ_SHARE = 0.05
"""Changes of routes, which may be anybody's, may cost so much of a processor."""
GROUPS_A_READ = 8
"""Groups whose buckets are compared one by one, in turn; of all others the members are."""
CONFIG_LOOK_S = 1.0
STEP_S = 0.005
"""Work goes on for so long before the event loop is served."""
FIXED = ("router_id", "local_as", "run_dir", "dataplane", "route_metric")
"""Fields of the configuration whose change needs a restart."""


class CannotStart(Exception):
    """The world does not let us, in words."""


class Gateway:
    def __init__(self, config: GatewayConfig, watch: Watch) -> None:
        self.config = config
        self.watch = watch
        self.started = time.monotonic()
        self.kernel = RealKernel()
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
        self.deferral = Deferral(adopted_hops(nexthops, groups, routes), self.started)
        self.findings = Findings()
        self.config_error = ""
        self.hash_checked: dict[Family, str] = {}
        """Families whose flow hash was compared with the prediction, and what was wrong."""
        self.wake = asyncio.Event()
        self.is_reload_due = False
        self._read_at = -math.inf
        """When the kernel is to be read back."""
        self._read_ended = -math.inf
        self._read_took_s = 0.0
        self._turn = 0
        self._suspects: set[int] = set()
        has_adopted = bool(self.deferral.adopted)
        self.speaker = Speaker(
            with_next_hops(config, self.connected, self.addresses),
            wake=self.wake.set,
            restarted=has_adopted,
            forwarding_preserved=has_adopted,
        )
        self.paths = Paths(
            self.speaker.rib, self.services, self.plain, plain_only=config.dataplane == "plain"
        )
        self.onward = Onward(self)
        log.info("adopted %d groups in %.2f s", len(list(self.services.rows)),
                 time.monotonic() - self.started)  # fmt: skip

    def interface(self, address: Address) -> int | None:
        return self.connected(address)

    # the life of the program

    async def run(self) -> None:
        """Raises CannotStart."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        goodbye = False

        def end(notify: bool) -> None:
            nonlocal goodbye
            goodbye = notify
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, end, False)
        loop.add_signal_handler(signal.SIGINT, end, True)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        self.findings.look_around()
        self.findings.note(settle(self.config.hash_seed))
        monitor = self.kernel.monitor(routes=True)
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
            tasks = [asyncio.create_task(self._passes()), asyncio.create_task(stop.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()  # our own fault: end, be restarted, adopt
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(monitor.fileno())
            monitor.close()
            server.close()
            await self.speaker.stop(notify=goodbye)

    def _on_news(self, monitor: Monitor) -> None:
        kinds = monitor.drain()
        if not kinds:
            return
        pause = READ_AGAIN_S
        if kinds <= {"route"}:
            pause = max(pause, self._read_took_s / READ_SHARE)
        self.read_back_soon(pause)

    def look_at_groups(self, groups: Iterable[int]) -> None:
        """These are not as they should be: read them back with their buckets."""
        self._suspects.update(groups)
        self.read_back_soon()

    @property
    def is_behind(self) -> bool:
        """Something is known that is not in the kernel yet, besides moves that wait."""
        return self.paths.is_behind or self.services.is_busy or not self.plain.is_settled

    def read_back_soon(self, pause: float = READ_AGAIN_S) -> None:
        """The kernel may not be as we believe."""
        self._read_at = min(self._read_at, self._read_ended + pause)
        self.wake.set()

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
        except (DocumentError, OSError) as error:
            self.config_error = str(error)
            log.error("configuration refused, the last good one stands: %s", error)
            return
        self.config_error = ""
        log.info("configuration read again")
        self.findings.note(await asyncio.to_thread(settle, config.hash_seed))

    def _take(self, config: GatewayConfig) -> None:
        """Raises DocumentError or OSError, and then nothing has changed."""
        for field in FIXED:
            if getattr(config, field) != getattr(self.config, field):
                name = {"local_as": "as"}.get(field, field)
                message = "a change needs a restart of the gateway"
                raise DocumentError(str(self.watch.path), 0, name, message)
        self.speaker.reconfigure(with_next_hops(config, self.connected, self.addresses))
        if config.hash_seed != self.config.hash_seed:
            self.hash_checked = {}
        self.config = config
        self.services.configure(
            buckets=config.buckets,
            idle_timer_s=config.idle_timer_s,
            move_deadline_s=config.move_deadline_s,
        )
        self.onward.is_due = True

    # passes

    async def _passes(self) -> None:
        while True:
            now = time.monotonic()
            until = min(
                now + CONFIG_LOOK_S,
                self._read_at,
                self.services.next_look,
                self.plain.next_look,
                self.deferral.until(self.config),
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
        if now >= self._read_at or self.services.tables.doubtful:
            await self._read_back()
        self.deferral.note(self.config, self.speaker, now)
        if not self.deferral.sync.in_sync:
            # Before the paths are taken: those that it counts on are then among them, and no table
            # is made of a part of the members, to which the rest could only come by moves.
            self.deferral.look(self.config, self.speaker, now)
            self._note_sync()
        if await self.paths.take():
            self.onward.is_due = True
        await self._steps(self.services.work())
        await self._steps(self.plain.work())
        if self.deferral.sync.in_sync:
            self.slots.retain(self.services.used_slots() | self.plain.used_slots())
            if not self.services.holds_any:
                self.deferral.begin_again_if_cut_off(self.config, self.speaker, now)
                self._note_sync()
        self._check_hash()
        await self._steps(self.onward.work())

    def _note_sync(self) -> None:
        if self.services.in_sync != self.deferral.sync.in_sync:
            self.services.in_sync = self.deferral.sync.in_sync
            self.plain.in_sync |= self.services.in_sync
            self.onward.is_due = True

    async def _steps(self, work: Iterable[None]) -> None:
        """Run `work`, and let the event loop breathe."""
        began = time.monotonic()
        try:
            for _ in work:
                if time.monotonic() - began > STEP_S:
                    await asyncio.sleep(0)
                    began = time.monotonic()
        except NetlinkError as error:
            # A read was refused. What is left to be done is still marked; go on from what is there.
            log.warning("the kernel could not be read: %s", error)
            self.plain.read_again()
            self._read_at = time.monotonic() + CONFIG_LOOK_S

    async def _read_back(self) -> None:
        began = time.monotonic()
        self._read_at = math.inf  # what comes from now on asks for another
        expected = self.services.expected()
        groups = sorted(expected.groups)
        turn = self._turn % len(groups) if groups else 0
        chosen = set(islice([*groups[turn:], *groups[:turn]], GROUPS_A_READ))
        chosen |= self._suspects
        self._suspects.clear()
        self._turn = turn + GROUPS_A_READ
        try:
            addresses = self.kernel.addresses()
            connected = Connected(self.kernel.links(), addresses)
            difference, standing, findings = await asyncio.to_thread(
                _read, expected, chosen, self.config
            )
        except (NetlinkError, OSError) as error:
            log.warning("the kernel could not be read back: %s", error)
            self._read_at = time.monotonic() + CONFIG_LOOK_S
            return
        self.findings.note(findings)
        if connected != self.connected:
            self.connected, self.addresses = connected, addresses
            self.services.links_changed()
            # An address that came later may be a next hop of ours.
            config = with_next_hops(self.config, connected, addresses)
            if config != self.speaker.config:
                self.speaker.reconfigure(config)
            self.onward.is_due = True
        if difference:
            log.warning("the kernel had lost or changed what is ours: %s", difference.text)
        self.services.mend(difference)
        self.plain.read_again(standing)
        self._read_ended = time.monotonic()
        self._read_took_s = self._read_ended - began
        self._read_at = min(self._read_at, self._read_ended + READ_BACK_S)

    def _check_hash(self) -> None:
        for family in Family:
            source = hash_check.own_address([a.address for a in self.addresses], family)
            if family in self.hash_checked or source is None:
                continue
            for row in self.services.rows:
                if row.family is family and hash_check.enough(row):
                    wrong = hash_check.check(self.kernel, row, source, self.config.hash_seed)
                    self.hash_checked[family] = wrong
                    if wrong:
                        log.warning("%s", wrong)
                    break


def _read(
    expected: Expected, chosen: set[int], config: GatewayConfig
) -> tuple[Difference, plain_reading.Standing, list[Finding]]:
    """For a thread of its own."""
    kernel = RealKernel()
    try:
        difference = compare(kernel, expected, buckets_of=chosen)
        standing = plain_reading.read(kernel, blackholes=False)
        return difference, standing, settle(config.hash_seed)
    finally:
        kernel.close()


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
