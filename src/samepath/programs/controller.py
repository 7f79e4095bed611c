"""`samepath controller`: gives Services their addresses, and frees the blocks of dead nodes.

Wiring only. One task runs passes: what the source knows, the plan (`plan.allocation`), and the
writing of what does not stand as it should (`programs.controller_services`, `controller_pools`).
Whatever happens only wakes the task. What fails stays dirty and is tried again, longer each time,
and does not keep the rest.

There may be several controllers; the one that holds the Lease writes, and the others wait with all
they need in their memory. Nothing is written before the source is in sync, and before a new leader
has read all Services past every cache: else it might give what its predecessor has just given.
There is no store: what was assigned stands on the Services. SIGTERM and SIGINT end what is being
written and hand back the Lease, so that another begins at once.

The API server away: nothing is written, nothing is forgotten, and when the Lease cannot be renewed
another one leads, or none.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Literal

from samepath.kube.api import Api, ApiError
from samepath.kube.lease import LeaderElection, Terms
from samepath.kube.resources import IP_ADDRESS_POOLS, SERVICES
from samepath.kube.source import Source
from samepath.model.cluster import Cluster, Object, Service, make_cluster
from samepath.model.config import ControllerConfig
from samepath.model.documents import DocumentError
from samepath.model.net import address_text
from samepath.plan.allocation import Plan, Situation, allocate
from samepath.programs import control
from samepath.programs.config import load
from samepath.programs.controller_events import About, Events
from samepath.programs.controller_nodes import LOOK_S, DeadNodes
from samepath.programs.controller_pools import READ_AGAIN_S, PoolStates
from samepath.programs.controller_services import NotLeading, ServiceStates, State
from samepath.programs.controller_source import make_source
from samepath.programs.controller_states import OldStates
from samepath.programs.controller_view import readiness, status
from samepath.programs.stopping import Stopping

log = logging.getLogger("samepath.controller")

BATCH = 500
"""Services that are written in one pass; then all is looked at anew."""
PAUSE_S = 0.02
PAUSE_SHARE = 3
"""Between two passes: so long, and so many times what planning takes."""
RETRY_S = 1.0
AHEAD_S = 30.0
"""So long the watch may be behind what we have read, before we read again."""
STOP_S = 5.0


class Controller:
    def __init__(
        self, config: ControllerConfig, api: Api | None = None, source: Source | None = None
    ) -> None:
        """`api`, `source`: for tests; otherwise as the configuration says."""
        self.config = config
        self.started = time.monotonic()
        self.wake = asyncio.Event()
        self.api = api if api is not None else Api.connect(config.kubernetes)
        self.source = source if source is not None else make_source(self.api, self.wake.set)
        terms = Terms(
            duration_s=config.election.duration_s,
            renew_deadline_s=config.election.renew_deadline_s,
            retry_s=config.election.retry_s,
        )
        self.election = LeaderElection(
            self.api,
            config.kubernetes.namespace,
            config.election.lease,
            terms=terms,
            changed=self.wake.set,
        )
        self.events = Events(self.api, self.election.identity, config.events_per_s)
        # What was begun as the leader has ended before another may be it.
        write_s = 0.8 * (terms.duration_s - terms.renew_deadline_s)
        self.states = ServiceStates(self.api, self._may_write, write_s)
        self.pools = PoolStates(self.api, self._may_write)
        self.dead_nodes = DeadNodes(
            self.api, self.events, self._may_write, config.dead_node_grace_s
        )
        self.old_states = OldStates(self.api, self._may_write, config.dead_node_grace_s)
        self.stopping = False
        self.term = 0
        """Of the leadership that we have prepared for."""
        self.objects: Mapping[str, Object] = {}
        self.cluster = Cluster()
        self.plan: Plan | None = None
        """The last one; as a leader."""
        self.plan_s = 0.0
        self.trouble = ""
        """What keeps us from writing although we lead."""
        self._pools_at = self._nodes_at = self._retry_at = self._read_at = -math.inf

    # -- Life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        stopping = Stopping(lambda: None)
        server = await control.serve(
            self.config.run_dir,
            "controller",
            {
                "status": lambda question: status(self, question),
                "ready": lambda _question: readiness(self),
            },
        )
        log.info("controller %s runs, at %s", self.election.identity, self.source.where)
        tasks = [
            asyncio.create_task(work)
            for work in (
                self.source.run(),
                self.election.run(),
                self.events.run(),
                self.passes(),
            )
        ]
        stopped = asyncio.create_task(stopping.asked.wait())
        try:
            await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # our own fault: end, be restarted
        finally:
            server.close()
            stopped.cancel()
            await self._stop(tasks)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        """What is being written comes to its end, and only then may another begin."""
        source, election, events, passes = tasks
        self.stopping = True
        self.wake.set()
        await asyncio.wait({passes}, timeout=STOP_S)
        for task in (source, election, events, passes):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.events.flush(1.0)
        await self.election.release()
        await self.api.close()

    def _may_write(self) -> bool:
        return not self.stopping and self.election.is_leader()

    # -- Passes -------------------------------------------------------------------------------

    async def passes(self) -> None:
        """Until we stop."""
        while not self.stopping:
            self.wake.clear()
            wake_at = await self._pass()
            await asyncio.sleep(PAUSE_S + PAUSE_SHARE * self.plan_s)
            wait_s = max(0.0, wake_at - time.monotonic())
            try:
                async with asyncio.timeout(min(wait_s, 60.0)):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def _pass(self) -> float:
        """One look at everything. When to look again, though nothing happens."""
        if not self.source.in_sync:
            return math.inf
        has_news = self.source.objects is not self.objects
        self.objects = self.source.objects
        if not self._may_write():
            self.plan, self.trouble = None, ""
            return math.inf
        now = time.monotonic()
        try:
            if self.term != self.election.term:
                await self._begin(now)
                has_news = True
            if self.states.is_ahead and self._read_at + AHEAD_S <= now:
                await self.states.read_all()
                self._read_at = self._retry_at = now
            if has_news or self._retry_at <= now:
                self._retry_at = math.inf
                await self._assign(now)
            if self._pools_at <= now or has_news:
                await self._write_pools(now)
            if self._nodes_at <= now:
                self._nodes_at = now + LOOK_S
                self.look()
                await self.dead_nodes.look(self.cluster, now)
                await self.old_states.look(self.cluster.nodes.keys(), now)
            self.trouble = ""
        except NotLeading:
            return math.inf
        except ApiError as error:
            if str(error) != self.trouble:
                log.warning("%s", error)
            self.trouble = str(error)
            self._retry_at = now + RETRY_S
        read_at = self._read_at + AHEAD_S if self.states.is_ahead else math.inf
        return min(self._retry_at, self._pools_at, self._nodes_at, read_at)

    async def _begin(self, now: float) -> None:
        """A leadership begins: nothing that we remember counts. Raises ApiError."""
        term = self.election.term
        self.states.forget()
        self.pools.forget()
        self.dead_nodes.forget()
        self.old_states.forget()
        await self.states.read_all()
        await self.pools.read_all(now)
        self._read_at = now
        self.term = term

    def look(self) -> None:
        # Each time: a version may be a newer one though nothing else has changed.
        self.cluster = make_cluster(self.source.objects.values())

    def situation(self, services: Mapping[str, Service]) -> Situation:
        cluster = self.cluster
        return Situation(
            services,
            cluster.address_pools,
            cluster.namespaces,
            self.config.load_balancer_class,
            self.config.default_class,
            avoid=frozenset(a for node in cluster.nodes.values() for a in node.addresses),
        )

    async def _assign(self, now: float) -> None:
        began = time.monotonic()
        self.look()
        known = self.states.known(self.cluster.services)
        self.plan = allocate(self.situation(known))
        dirty = self.states.dirty(known, self.plan.outcomes, now)
        self.plan_s = time.monotonic() - began
        if dirty:
            done = await self.states.write_all(dirty[:BATCH], self.config.writes_at_once, now)
            for service, state in done:
                self._say(service, state)
            self._pools_at = -math.inf
        if len(dirty) > BATCH:
            self._retry_at = now
        retry_at = self.states.retry_at
        if retry_at is not None:
            self._retry_at = min(self._retry_at, retry_at)

    async def _write_pools(self, now: float) -> None:
        if self.pools.read_at + READ_AGAIN_S <= now:
            await self.pools.read_all(now)
        if self.plan is None or not self._may_write():
            return
        refused, self._pools_at = await self.pools.write(self.plan.pools, now)
        for name in refused:
            text = f"overlaps {self.plan.pools[name].refused_for}: nothing is given from it"
            about = About(IP_ADDRESS_POOLS, name, uid=self.pools.uids.get(name, ""))
            self.events.say(about, "Warning", "PoolRefused", text)

    def _say(self, before: Service, state: State) -> None:
        """An Event, if what was written is news to people."""
        said = _news(before, state)
        if said is None:
            return
        type_, reason, message = said
        about = About(SERVICES, before.name, before.namespace, before.uid)
        self.events.say(about, type_, reason, message)
        level = logging.INFO if type_ == "Normal" else logging.WARNING
        log.log(level, "%s: %s: %s", before.key, reason, message)


def _news(before: Service, state: State) -> tuple[Literal["Normal", "Warning"], str, str] | None:
    held = before.load_balancer_ips
    if not state.reason:
        text = f"{', '.join(map(address_text, held))}: free again"
        return ("Normal", "AddressReleased", text) if held != state.addresses else None
    if not state.is_assigned:
        is_new = before.allocation.message != state.message
        return ("Warning", state.reason, state.message) if is_new else None
    if held != state.addresses:
        return "Normal", "AddressAssigned", state.message
    has_notes = ";" in state.message
    if has_notes and before.allocation.message != state.message:
        return "Warning", "AddressKept", state.message
    return None


def run(path: str) -> int:
    """`samepath controller --config PATH`: the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = load(path, ControllerConfig)
    except DocumentError as error:
        log.error("%s", error)
        return 2
    try:
        with control.only_one(config.run_dir, "controller"):
            asyncio.run(_run(config))
    except control.RunDirError as error:
        log.error("cannot start: %s", error)
        return 1
    return 0


async def _run(config: ControllerConfig) -> None:
    await Controller(config).run()


__all__ = ["Controller", "run"]
