"""`samepath agent`: cluster state and BGP in; addresses, rules, routes and BGP out. Wiring only.

One task runs passes. A pass plans anew what may have changed and brings the world to it in order:
services (`programs.serving`), routes (`programs.routing`), and then what is advertised, in which a
service appears only when its rules and address stand. What is to be withdrawn or drained does not
wait for the rest. Whatever happens (an object, an UPDATE, a link, somebody at the rules, a timer)
only wakes the task. What fails stays dirty and is tried again, and does not keep the rest.

At start everything in the kernel is adopted. Service addresses and rules are left as they are until
the source is in sync, routes until the neighbours are; End-of-RIB waits for the services'
rules. SIGTERM closes the sessions without NOTIFICATION, so that gateways keep our paths over a
restart (RFC 4724); SIGINT says goodbye. Neither takes anything away.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from samepath.apply import settings
from samepath.apply.addresses import LOOPBACK
from samepath.apply.nft import RulesMonitor, digest_in_kernel
from samepath.apply.tool import ToolError
from samepath.bgp.transport import Speaker
from samepath.model.cluster import Cluster, Object
from samepath.model.config import AgentConfig
from samepath.model.documents import DocumentError
from samepath.model.net import Address, Family, parse_address
from samepath.model.ours import POD_LINK, PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.kernel import RealKernel
from samepath.netlink.monitor import Monitor
from samepath.plan import agent as plan
from samepath.plan.peers import identify
from samepath.programs import control
from samepath.programs.agent_cluster import AgentCluster
from samepath.programs.agent_view import ready, status
from samepath.programs.config import Watch, load
from samepath.programs.liveness import Liveness
from samepath.programs.memory import Memory
from samepath.programs.routing import Routing
from samepath.programs.serving import ADDRESSES, RULES, Serving, World
from samepath.programs.sources import make_source
from samepath.programs.stopping import Stopping

if TYPE_CHECKING:
    from samepath.programs.node_telling import Telling
    from samepath.programs.pods import Pods

log = logging.getLogger("samepath.agent")

READ_BACK_S = 30.0
"""The kernel is read back at least so often: it forgets without saying so."""
READ_PAUSE_S = 0.2
"""After that, news of the kernel waits for so long: pods may come by the hundred."""
CONFIG_LOOK_S = 2.0
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
_FIXED = ("router_id", "run_dir", "route_metric", "cni", "bfdd")


class Agent:
    def __init__(
        self, config: AgentConfig, path: str, identify: Callable[[AgentConfig], AgentConfig]
    ) -> None:
        """`config` as it stands in the file at `path`; `identify` adds who we are, here and after
        each change of the file. Raises ValueError."""
        self.identify = identify
        self.config = config = identify(config)
        self.path = path
        self.watch = Watch(path)
        self.config_error = ""
        self.started = time.monotonic()
        self.wake = asyncio.Event()
        self.kernel = RealKernel()
        self.serving = Serving(self.kernel)
        self.routing = Routing(self.kernel, config)
        self.source = make_source(config, self.wake.set)
        self.following: asyncio.Task[None] | None = None
        self.findings: Sequence[settings.Finding] = ()
        self.claimed: Callable[[Cluster], frozenset[plan.Prefix] | None] | None = None
        """Our pod blocks, where they are claimed out of pools (`programs.pods`); its None: not
        known as yet. None: they are those of the configuration or of our Node."""
        self.pods: Pods | None = None
        self.block_rows: Callable[[], list[dict[str, Any]]] | None = None
        """Blocks with their owners and use, for `status`; likewise."""
        self.telling: Telling | None = None
        """What is told of our node, where there is an API server to tell."""

        self.objects: Mapping[str, Object] = {}
        self.cluster = Cluster()
        """The last known one, whatever has become of its source."""
        self.found = AgentCluster()
        self.known = False
        """The cluster has been read in full, by us or before a change of the folder; and we know
        which blocks are ours."""
        self.taken: frozenset[Address] = frozenset()
        self.addresses: frozenset[tuple[int, Address]] = frozenset()
        """(link, address), as last read."""

        self.memory = Memory()
        self.liveness: Liveness
        self.has_rules = False
        self.services_dirty = True
        self.kernel_touched = True
        self.rules_touched = True
        self.neighbors: frozenset[str] = frozenset()
        """Those that are told of services, by name, when `services_dirty` was last set for it."""
        self.pass_began = self.started
        self.read_back_at = self.read_pause_until = 0.0
        self.retry_at = math.inf
        self.retry_s = RETRY_FIRST_S

    # the life of the program

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stopping = Stopping(self._reload)
        self._settle_settings()
        await self.routing.start(self.wake.set, restarted=await self._has_state())
        self.liveness = Liveness(self.config.run_dir, "agent", self.speaker)
        monitor, rules_monitor = self.kernel.monitor(ignore_links=POD_LINK), RulesMonitor()
        loop.add_reader(monitor.fileno(), self._on_kernel, monitor)
        loop.add_reader(rules_monitor.fileno(), self._on_rules, rules_monitor)
        pods = [*self._make_pods(), *self._make_telling()]
        server = await control.serve(
            self.config.run_dir,
            "agent",
            {
                "status": lambda question: status(self, question),
                "ready": lambda _: ready(self),
                "ipam": lambda question: self._pods().ipam(question),
                "ipam_check": lambda question: self._pods().ipam_check(question),
            },
        )
        of = f"AS {self.config.local_as}" if self.config.local_as else "AS not known yet"
        log.info("agent of node %s runs, %s", self.config.node, of)
        self.following = asyncio.create_task(self.source.run())
        passes = asyncio.create_task(self._passes(rules_monitor))
        watching = asyncio.create_task(self.liveness.run())
        stopped = asyncio.create_task(stopping.asked.wait())
        try:
            while not stopped.done():
                following = self.following
                await asyncio.wait(
                    {passes, watching, following, stopped, *pods},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for work in (passes, watching, following, *pods):
                    if work.done() and not work.cancelled():
                        work.result()  # our own fault: end, be restarted, adopt
        finally:
            stopped.cancel()
            for work in (passes, watching, self.following, *pods):
                work.cancel()
            loop.remove_reader(monitor.fileno())
            loop.remove_reader(rules_monitor.fileno())
            server.close()
            if self.pods is not None:
                await self.pods.stop()
            await self.liveness.close(goodbye=stopping.goodbye)
            text = f"samepath agent {self.config.node}: stopped"
            await self.speaker.stop(notify=stopping.goodbye, text=text)
            self.routing.close()

    def _make_pods(self) -> list[asyncio.Task[None]]:
        """What gives pods their network, if that is ours to do."""
        if self.config.cni is None:
            return []
        from samepath.programs.pods import Pods  # an agent without it is spared 5 MB

        self.pods = Pods(
            self.config,
            control.make_run_dir(self.config.run_dir),
            self.kernel.monitor(routes=True, neighbors=True),
            changed=self.wake.set,
            neighbors=lambda: [
                parse_address(n.address) for n in self.speaker.config.neighbors if n.address
            ],
            source=lambda: self.source,
        )
        self.claimed, self.block_rows = self.pods.blocks, self.pods.block_rows
        return [asyncio.create_task(self.pods.run())]

    def _make_telling(self) -> list[asyncio.Task[None]]:
        if self.config.kubernetes is None:
            return []
        from samepath.programs.node_telling import Telling

        self.telling = Telling(self)
        return [asyncio.create_task(self.telling.run())]

    def _pods(self) -> Pods:
        if self.pods is None:
            raise ValueError("this agent gives pods no network: its configuration has no `cni`")
        return self.pods

    @property
    def speaker(self) -> Speaker:
        return self.routing.speaker

    @property
    def errors(self) -> dict[str, str]:
        return {**self.serving.errors, **self.routing.errors}

    async def _has_state(self) -> bool:
        """Whether an agent before us has left something in the kernel."""
        if any(a.protocol == PROTOCOL for a in self.kernel.addresses()):
            return True
        if any(self.kernel.routes(family, PROTOCOL) for family in Family):
            return True
        try:
            return await digest_in_kernel() is not None
        except ToolError:
            return False

    def _settle_settings(self) -> None:
        self.findings = [
            *settings.surroundings(gateway=False),
            *settings.enforce(settings.agent_settings()),
        ]
        for finding in self.findings:
            log.log(finding.level, "%s", finding.text)

    def _on_kernel(self, monitor: Monitor) -> None:
        if not monitor.drain():
            return  # pods come and go
        self.kernel_touched = True
        if time.monotonic() >= self.read_pause_until:
            self.wake.set()

    def _on_rules(self, monitor: RulesMonitor) -> None:
        monitor.drain()
        self.rules_touched = True
        self.wake.set()

    def _reload(self) -> None:
        """Take a changed configuration; a bad one is refused and the last good one stands."""
        try:
            config = self.identify(load(self.path, AgentConfig))
            fixed = [n for n in _FIXED if getattr(config, n) != getattr(self.config, n)]
            if fixed:
                raise ValueError(f"{', '.join(fixed)}: a change needs a restart of the agent")
            self.routing.reload(config, self.cluster)
        except (DocumentError, ValueError, OSError) as error:
            self.config_error = str(error)
            log.error("configuration refused, the last good one stands: %s", error)
            return
        self.config_error = ""
        log.info("configuration read again")
        former, self.config = self.config, config
        self._settle_settings()
        if self.pods is not None:
            self.pods.reconfigure(config)
        was = former.manifests, former.kubernetes
        if (config.manifests, config.kubernetes) != was and self.following is not None:
            # The objects that we know stand until the new source has been read.
            self.following.cancel()
            self.source = make_source(config, self.wake.set)
            self.following = asyncio.create_task(self.source.run())
        self.kernel_touched = self.services_dirty = True
        self.wake.set()

    # passes

    async def _passes(self, rules_monitor: RulesMonitor) -> None:
        while True:
            looks = (self.routing.next_look, self.serving.drain_look_at)
            until = min(*looks, self.read_back_at, self.retry_at, self.found.look_at)
            until = min(until, time.monotonic() + CONFIG_LOOK_S)
            if self.kernel_touched:
                until = min(until, self.read_pause_until)
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()
            if self.watch.changed():
                self._reload()
            said = self.errors
            self.pass_began = time.monotonic()
            await self._pass()
            rules_monitor.drain()  # of what we have written ourselves
            self._schedule(said)

    def _schedule(self, said: Mapping[str, str]) -> None:
        """When to try again what has failed; and say what is newly wrong, once."""
        errors = self.errors
        for about, text in errors.items():
            if said.get(about) != text:
                log.error("%s: %s", about, text)
        if not errors:
            self.retry_at, self.retry_s = math.inf, RETRY_FIRST_S
        elif math.isinf(self.retry_at):
            self.retry_at = time.monotonic() + self.retry_s
            self.retry_s = min(self.retry_s * 2, RETRY_MOST_S)

    async def _pass(self) -> None:
        now = time.monotonic()
        self.liveness.follow()
        if now >= self.retry_at:
            self.retry_at, self.kernel_touched, self.services_dirty = math.inf, True, True
        if now >= self.read_back_at:
            self.read_back_at = now + READ_BACK_S
            self.kernel_touched = self.rules_touched = True
        if self.kernel_touched and now >= self.read_pause_until:
            self._read_back()
            self.read_pause_until = time.monotonic() + READ_PAUSE_S
        if self.rules_touched:
            self.rules_touched = False
            if not await self.serving.check_rules():
                self.services_dirty = True
        if self.source.in_sync and self.source.objects is not self.objects:
            self.objects = self.source.objects
            await self.found.read(self.objects)
            self.found.look_at = now
        if now >= self.found.look_at:
            self._find(now)
        self._follow()
        if now >= self.serving.drain_look_at:
            ended = await self.serving.count_flows(self.config.drain_deadline_s)
            self.services_dirty = self.services_dirty or ended
        has_news = self.known and self.services_dirty
        if has_news:
            await self._serve()
        await self.routing.work(known=self.known)
        if self.known:
            self._offer()
        if self.telling is not None:
            self.telling.look()
        if has_news:
            self.memory.settle_down()

    def _find(self, now: float) -> None:
        """The cluster to go by."""
        speaker, learned = self.speaker, self.routing.learned
        found = self.found.find(self.cluster, self.config, speaker, learned, now)
        if found is not self.cluster:
            self.cluster, self.services_dirty = found, True

    def _follow(self) -> None:
        """Which Nodes are our neighbours, and which blocks are ours."""
        if not (self.known or self.source.in_sync):
            return
        claimed = self.claimed
        own = claimed(self.cluster) if claimed else plan.own_blocks(self.config, self.cluster)
        if own is not None:
            self.known = True
            self.routing.follow(self.cluster, own)
        names = self.routing.told_of_services
        if names != self.neighbors:
            self.neighbors, self.services_dirty = names, True
            self.kernel_touched = True  # no service may have a neighbour's address

    def _read_back(self) -> None:
        """Somebody may have changed the kernel, or it has forgotten."""
        self.kernel_touched = False
        self.serving.addresses.read_again()
        self.routing.look_at_links()
        self.routing.plain.read_again()
        loopback = next(link.index for link in self.kernel.links() if link.name == LOOPBACK)
        texts = [*self.config.next_hops]
        for neighbor in (*self.config.neighbors, *self.routing.peers.neighbors):
            texts += [t for t in (neighbor.address, neighbor.local_address) if t]
        # A pod's link has a link-local address on our side: no news for services.
        standing = [a for a in self.kernel.addresses() if a.scope != uapi.RT_SCOPE_LINK]
        others = {a.address for a in standing if a.index != loopback}
        taken = frozenset({*others, *map(parse_address, texts)})
        addresses = frozenset((a.index, a.address) for a in standing)
        if (taken, addresses) != (self.taken, self.addresses):
            self.taken, self.addresses, self.services_dirty = taken, addresses, True

    async def _serve(self) -> None:
        self.services_dirty = False
        world = World(self.cluster, self.config, self.taken, self.neighbors)
        await self.serving.plan(world)
        if self.routing.offered is not None:
            self._offer()  # a drain or a withdrawal does not wait for rules
        await self.serving.settle(world)
        if not self.has_rules and self.serving.rules.applied is not None:
            self.has_rules = True
            self._settle_settings()  # with the first rules came conntrack, and its settings

    def _offer(self) -> None:
        if not self.serving.settle_drains(starting=self.routing.offered is None):
            return  # the next pass knows whether these drains are over
        self.routing.offer(self.serving.may_be_told, self.serving.told)
        if not self.serving.errors.keys() & {RULES, ADDRESSES}:
            self.speaker.release_end_of_rib()


def run(path: str, node: str = "", node_ip: str = "") -> int:
    """`samepath agent --config PATH`: the exit status. `node`, `node_ip`: what the configuration
    leaves out, for a file that serves all nodes."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = load(path, AgentConfig)
        identify(config, node, node_ip)
    except (DocumentError, ValueError) as error:
        log.error("%s", error)
        return 2
    try:
        with control.only_one(config.run_dir, "agent"):
            asyncio.run(_run(config, path, node, node_ip))
    except (control.RunDirError, PermissionError) as error:
        log.error("cannot start: %s", error)
        return 1
    return 0


async def _run(config: AgentConfig, path: str, node: str, node_ip: str) -> None:
    await Agent(config, path, lambda c: identify(c, node, node_ip)).run()
