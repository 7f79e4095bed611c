"""The passes of a gateway: what changed in the world goes to the kernel and to the neighbours.

One task runs them (`Passes.run`). A pass reads what has changed (the configuration, the cluster,
the kernel), takes the paths that are new, plans, has the drivers write, and advertises what stands.
Whatever happens only sets a flag that wakes the task. Whatever speaks with the kernel runs in a
thread, one at a time, while the task awaits it; `drivers` is held meanwhile.

Made and run by `programs.gateway`, which holds the state.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from samepath.apply import hash_check
from samepath.model.net import Family
from samepath.netlink.socket import NetlinkError
from samepath.programs.gateway_kernel_routes import DaemonRoutes, leave_table
from samepath.programs.gateway_kernel_routes import read as read_daemon_routes
from samepath.programs.gateway_reading import read
from samepath.programs.memory import Memory
from samepath.programs.next_hops import with_next_hops

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

log = logging.getLogger("samepath.gateway")

P = ParamSpec("P")
T = TypeVar("T")

CONFIG_LOOK_S = 1.0
STEP_S = 0.005
"""Work on the event loop goes on for so long before others are served."""
SLOW_S = 0.25
"""The kernel usually answers sooner."""
PART_S = 0.02
"""Work in a thread, before others may look."""
CROWD_S = 0.05
"""When neighbours come or go, others who do so in the same moment are heard first, for so long."""
QUIET_ROUNDS = 3
"""Of the event loop, in which nobody had anything more to say."""


class Passes:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._memory = Memory()
        self._may_leave_table = gateway.daemon is None
        self._heard = 0
        """The speaker's news, as of the last pass."""

    async def run(self) -> None:
        gateway = self.gateway
        while True:
            now = time.monotonic()
            until = min(
                now + CONFIG_LOOK_S,
                gateway.reading.due_at,
                gateway.services.next_look,
                gateway.plain.next_look,
                gateway.bpf.next_look,
                gateway.deferral.until(gateway.config),
                gateway.cluster.until(),
                gateway.daemon.due_at if gateway.daemon is not None else math.inf,
            )
            try:
                async with asyncio.timeout(max(0.0, until - now)):
                    await gateway.wake.wait()
            except TimeoutError:
                pass
            gateway.wake.clear()
            if gateway.watch.changed() or gateway.is_reload_due:
                await gateway.reload()
            await self._pass()

    async def _pass(self) -> None:
        gateway = self.gateway
        now = time.monotonic()
        gateway.liveness.follow()
        await gateway.follow_cluster(now)
        if now >= gateway.reading.due_at or gateway.services.tables.doubtful:
            await self._read_back()
        if gateway.daemon is not None and now >= gateway.daemon.due_at:
            await self._read_daemon(gateway.daemon)
        await self._hear_out()
        gateway.deferral.note(gateway.config, gateway.speaker, now)
        if not gateway.deferral.sync.in_sync:
            # Before the paths are taken: those that it counts on are then among them, and no table
            # is made of a part of the members, to which the rest could only come by moves.
            gateway.deferral.look(
                gateway.config,
                gateway.speaker,
                now,
                unreachable=gateway.services.is_cut_off,
                known=gateway.cluster.is_known(now),
            )
            self._note_sync()
        has_news = await gateway.paths.take()
        gateway.onward.is_due |= has_news
        if has_news and gateway.paths.have_gone:
            await self._offer()  # withdrawn before its route goes, and though the kernel be slow
        await self._write()
        if gateway.deferral.sync.in_sync:
            await self._when_in_sync(now)
        await self._check_hash()
        await self._offer()
        if has_news:
            self._memory.settle_down()

    async def _hear_out(self) -> None:
        """A rack or a switch takes many neighbours with it. What a first few of them change would
        be written, and the same groups again for the rest. UPDATEs alone are not waited for."""
        speaker = self.gateway.speaker
        if speaker.news == self._heard:
            return
        until, quiet = time.monotonic() + CROWD_S, 0
        while quiet < QUIET_ROUNDS and time.monotonic() < until:
            await asyncio.sleep(0)
            quiet = 0 if speaker.is_busy else quiet + 1
        self._heard = speaker.news

    async def _write(self) -> None:
        gateway = self.gateway
        if gateway.bpf.is_wanted:  # maps are written sooner than groups
            await self._work(gateway.services.regroup())
            await self._work(gateway.bpf.work())
        await self._work(gateway.services.work())
        await self._work(gateway.plain.work())
        if not gateway.bpf.is_wanted:
            await self._work(gateway.bpf.work())

    async def _when_in_sync(self, now: float) -> None:
        gateway = self.gateway
        gateway.slots.retain(gateway.services.used_slots() | gateway.plain.used_slots())
        if not gateway.services.holds_any:
            gateway.deferral.begin_again_if_cut_off(gateway.config, gateway.speaker, now)
        elif gateway.services.is_cut_off:
            gateway.deferral.begin_again(gateway.config, now)
        self._note_sync()
        if self._may_leave_table and not gateway.services.is_busy:
            self._may_leave_table = False
            await self._in_thread(leave_table)

    def _note_sync(self) -> None:
        gateway = self.gateway
        if gateway.services.in_sync != gateway.deferral.sync.in_sync:
            gateway.services.in_sync = gateway.deferral.sync.in_sync
            gateway.plain.in_sync |= gateway.services.in_sync
            gateway.onward.is_due = True

    async def _work(self, work: Iterator[None]) -> None:
        """Run `work` in a thread, a part at a time: those who look need not wait for its end."""
        is_done = False
        try:
            while not is_done:
                async with self.gateway.drivers:
                    is_done = await self._in_thread(_part, work)
        except NetlinkError as error:
            # A read was refused. What is left to be done is still marked; go on from what is there.
            log.warning("the kernel could not be read: %s", error)
            self.gateway.plain.read_again()
            self.gateway.reading.retry()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What speaks with the kernel. While that takes long, prefixes that have lost all their
        paths are withdrawn all the same."""
        done = asyncio.ensure_future(asyncio.to_thread(work, *args, **more))
        try:
            while not done.done():
                await asyncio.wait([done], timeout=SLOW_S)
                if not done.done() and self.gateway.speaker.rib.is_changed:
                    self.gateway.onward.is_due = True
                    await self._offer()
            return done.result()
        finally:
            done.cancel()

    async def _offer(self) -> None:
        """The RIB belongs to the event loop: in small steps on it."""
        began = time.monotonic()
        for _ in self.gateway.onward.work():
            if time.monotonic() - began > STEP_S:
                await asyncio.sleep(0)
                began = time.monotonic()

    async def _read_daemon(self, source: DaemonRoutes) -> None:
        gateway = self.gateway
        assert gateway.config.kernel_routes is not None
        began = time.monotonic()
        try:
            found = await self._in_thread(read_daemon_routes, gateway.config.kernel_routes)
        except OSError as error:
            log.warning("the daemon's routes could not be read: %s", error)
            source.again(time.monotonic())
            return
        source.take(found, began, time.monotonic())
        gateway.findings.about_daemon(source.about(gateway.config))
        self._note_sync()

    async def _read_back(self) -> None:
        gateway = self.gateway
        expected = gateway.services.expected()
        chosen = gateway.reading.begin(expected.groups)
        try:
            found = await self._in_thread(
                read, expected, chosen, gateway.config.hash_seed, gateway.open_kernel
            )
        except OSError as error:
            log.warning("the kernel could not be read back: %s", error)
            gateway.reading.retry()
            return
        gateway.findings.note(found.findings)
        if found.connected != gateway.connected:
            gateway.connected, gateway.addresses = found.connected, found.addresses
            gateway.services.links_changed()
            gateway.bpf.links_changed()
            # An address that came later may be a next hop of ours.
            config = with_next_hops(gateway.config, gateway.connected, gateway.addresses)
            if config != gateway.speaker.config:
                gateway.speaker.reconfigure(config)
            gateway.onward.is_due = True
        if found.difference:
            log.warning("the kernel had lost or changed what is ours: %s", found.difference.text)
        gateway.services.mend(found.difference)
        gateway.plain.read_again(found.standing)
        self._memory.settle_down()
        gateway.reading.ended()

    async def _check_hash(self) -> None:
        gateway = self.gateway
        for family in Family:
            source = hash_check.own_address([a.address for a in gateway.addresses], family)
            if family in gateway.hash_checked or source is None:
                continue
            rows = gateway.services.rows
            row = next((r for r in rows if r.family is family and hash_check.enough(r)), None)
            if row is not None:
                seed = gateway.config.hash_seed
                wrong = await self._in_thread(hash_check.check, gateway.kernel, row, source, seed)
                gateway.hash_checked[family] = wrong
                if wrong:
                    log.warning("%s", wrong)


def _part(work: Iterator[None]) -> bool:
    """Some of it. True: all is done."""
    until = time.monotonic() + PART_S
    while time.monotonic() < until:
        if next(work, work) is work:
            return True
    return False
