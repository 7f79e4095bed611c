"""`survival`: nodes, pods, gateways and daemons come and go; who of the held connections notices?

`Survival(lab, ...).run()` takes the steps one after the other and measures each in the same way:
a silent cohort is chosen, the step's action runs (and waits for what it waits for, each wait with a
limit), then every held connection exchanges once, new connections show the shares, and what broke
is classified and replaced. What the steps do is `lab.steps`; how things are seen is `lab.observe`;
the names of the result are `lab.results`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from samepath.lab import observe
from samepath.lab.foreign_config import SUFFIX6
from samepath.lab.observe import Sessions
from samepath.lab.pause import Pulse
from samepath.lab.render import Condition
from samepath.lab.results import Run, Step, judge, lagging
from samepath.lab.running import Lab, node_of
from samepath.lab.state import LabError, wait
from samepath.lab.topology import SERVICE_ADDRESSES, SERVICE_PORT, Node
from samepath.lab.traffic import Broken, Target, Traffic

TARGETS: list[Target] = [(address, SERVICE_PORT) for address in SERVICE_ADDRESSES]
EXCHANGE_LIMIT_S = 20.0
EXCHANGES_PER_S = 2000
"""Over all connections: the load that keeps buckets busy, and this machine not too much so."""
NEW_CONNECTIONS = 400
SILENT_PART = 20
"""One connection in so many is in the silent cohort."""
START_LIMIT_S = 60.0


@dataclass(slots=True)
class Doing:
    """What a step's action leaves behind for the judgement on its broken connections."""

    own_nodes: set[str] = field(default_factory=set)
    rolled: set[str] = field(default_factory=set)
    """Pods that were asked to end: their connections may end by FIN."""
    differing: dict[str, set[int]] = field(default_factory=dict)
    """By family, buckets with different owners on the gateways when one was killed."""
    converge_s: float | None = None
    sessions_lost: list[str] = field(default_factory=list)
    shares_at_once: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Tell = Callable[[str], None]


class Paused(LabError):
    """The run could not go on, and the machine had stood still: nobody's fault in the lab."""


class World:
    """The lab as the steps see it: who is active, what to wait for, what to excuse."""

    def __init__(self, lab: Lab, tell: Tell) -> None:
        self.lab = lab
        self.tell = tell
        self.gateways = [g.name for g in lab.topology.gateways]
        self.active = [n.name for n in lab.topology.working]
        self.draining: list[str] = []
        self.doing = Doing()
        self.shares: Callable[[], dict[str, float]] = dict
        """Of new connections, by node."""
        self._sessions: Sessions = Sessions({})
        self._excused: set[str] = set()

    @property
    def is_foreign(self) -> bool:
        """Whether the nodes speak BGP with another daemon than our agent."""
        return self.lab.state.spec.speaker != "agent"

    @property
    def over(self) -> tuple[str, ...]:
        """Suffixes of the names of a pair's sessions: one, or one a family."""
        return ("", SUFFIX6) if self.is_foreign else ("",)

    @property
    def spec_hold_s(self) -> float:
        return float(self.lab.state.spec.hold_time_s)

    def node(self, name: str) -> Node:
        return self.lab.topology.node(name)

    def look_at_once(self) -> None:
        """Note who gets new connections, where that is promised to change with the target."""
        if self.lab.state.dataplane == "bpf":
            self.doing.shares_at_once = self.shares()

    def watch(self, excused: Collection[str] = ()) -> None:
        """From here on sessions of these hosts may go down, and no others."""
        self.settle_watch()
        self._excused = set(excused)
        self._sessions = observe.sessions(self.lab)

    def settle_watch(self) -> None:
        later = observe.sessions(self.lab)
        self.doing.sessions_lost += self._sessions.lost(later, self._excused)
        self._sessions, self._excused = later, set()

    def converge(self, gateways: Collection[str] | None = None, limit_s: float = 60.0) -> float:
        """Wait until these gateways' kernels are as their targets are. How long that took."""
        chosen = self.gateways if gateways is None else gateways
        self.tell("waiting until kernel = target")
        draining = self.draining
        return wait(
            lambda: all(
                observe.converged(self.lab, g, self.active, draining) for g in chosen
            ),
            limit_s,
            f"{', '.join(chosen)} to converge on {', '.join(self.active)}",
        )  # fmt: skip

    def sessions_up(self, limit_s: float = 60.0) -> None:
        """Wait until each gateway has its sessions with the upstream and every node, both ends."""
        nodes = [*self.active, *self.draining]
        wanted = {
            pair
            for g in self.gateways
            for pair in [(g, "upstream"), ("upstream", g)]
            + [(g, n + over) for n in nodes for over in self.over]
            + [(n, g + over) for n in nodes for over in self.over]
        }

        def up() -> bool:
            return wanted <= set(observe.sessions(self.lab).up)

        self.tell("waiting for the BGP sessions")
        wait(up, limit_s, "the BGP sessions", pause_s=0.2)

    def upstream_uses(self, gateways: Collection[str], limit_s: float = 60.0) -> None:
        """Wait until the upstream router sends the service's packets to these gateways."""
        self.tell(f"waiting until the upstream router uses {', '.join(sorted(gateways))}")
        wait(
            lambda: all(p == set(gateways) for p in observe.upstream_paths(self.lab).values()),
            limit_s,
            f"the upstream router to use {', '.join(sorted(gateways))}",
        )


Action = Callable[[World, Traffic], None]


class Survival:
    """One run. `lab` is up; its traffic is ours."""

    def __init__(
        self,
        lab: Lab,
        *,
        connections: int,
        tell: Tell = lambda text: None,
        told: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.lab = lab
        self.connections = connections
        self.told = told
        self.world = World(lab, tell)
        self.began = time.monotonic()
        spec = lab.state.spec
        self.nodes = [n.name for n in lab.topology.nodes]
        self.result = Run(
            scenario="survival",
            dataplane=lab.state.dataplane,
            connections=connections,
            idle_timer_s=spec.idle_timer_s,
            hold_time_s=spec.hold_time_s,
            buckets=spec.buckets,
            kernel=os.uname().release,
            upstream=spec.upstream,
            gateways=[g.name for g in lab.topology.gateways],
            nodes=self.nodes,
        )
        self.pulse = Pulse()
        self.traffic = lab.traffic(EXCHANGE_LIMIT_S)
        self.shares: dict[str, float] = {}
        self.world.shares = lambda: self._probe()[0]

    def run(self, steps: Sequence[tuple[str, str, Action]]) -> Run:
        """`steps`: name, title, action. Always ends the traffic. Raises LabError."""
        try:
            self._start()
            for name, title, action in steps:
                self._step(name, title, action)
        except LabError as error:
            pause_s = self.pulse.take()
            if pause_s < self.result.hold_time_s / 3:
                raise
            raise Paused(
                f"{error}; but this machine stood still for {pause_s:.0f} s meanwhile: run it again"
            ) from error
        finally:
            self.traffic.end()
            self.pulse.end()
        self.result.seconds = time.monotonic() - self.began
        judge(self.result)
        return self.result

    def _start(self) -> None:
        world = self.world
        world.sessions_up(START_LIMIT_S)
        world.converge(limit_s=START_LIMIT_S)
        world.upstream_uses(world.gateways)
        if world.is_foreign:
            # FRR that has just begun sends End-of-RIB before its IPv6 routes: the first table may
            # be made of some of the nodes.
            limit_s = START_LIMIT_S + self.result.idle_timer_s
            wait(lambda: not observe.moves_waiting(self.lab, world.gateways), limit_s,
                 "the moves of the beginning")  # fmt: skip
        self._fill()
        self.traffic.busy(period_s(self.connections))
        self._measure_gateways()
        self.traffic.take()
        self.pulse.take()

    def _fill(self) -> None:
        """As many held connections as there should be. Raises LabError when they can't be had."""
        for _ in range(3):
            missing = self.connections - self.traffic.live()
            if missing <= 0:
                return
            self.world.tell(f"opening {missing} connections")
            opened = self.traffic.open(missing, TARGETS)
            if opened.failed:
                why = Counter(f.reason for f in opened.failed).most_common(3)
                self.world.tell(f"{len(opened.failed)} could not be opened: {why}")
        raise LabError("the held connections cannot be opened; see the logs of the lab")

    def _measure_gateways(self) -> None:
        self.world.tell("which gateway carries which connection")
        observe.count_connections(self.lab)
        self.traffic.check()
        self.result.gateway_shares.append(observe.carried(self.lab, self.traffic.held()))

    def _step(self, name: str, title: str, action: Action) -> None:
        world, began = self.world, time.monotonic()
        world.tell(title)
        if not self.shares:
            self.shares = self._probe()[0]
        step = Step(
            step=name,
            title=title,
            started_s=began - self.began,
            seconds=0.0,
            held=self.traffic.live(),
            silent=self.traffic.silence(self.connections // SILENT_PART),
            shares_before=self.shares,
        )
        step.buckets_not_busy = observe.not_busy(self.lab, self.traffic.held())
        before = observe.tables(self.lab, world.gateways)
        world.doing = Doing()
        world.watch()
        action(world, self.traffic)
        world.tell("every connection exchanges")
        self.traffic.check()
        world.settle_watch()
        self._judge_connections(step)
        self._judge_tables(step, before)
        step.shares_at_once = world.doing.shares_at_once
        step.shares_after, step.new_connections, step.new_failed = self._probe()
        self.shares = step.shares_after
        step.notes = [*world.doing.notes, *lagging(step)]
        step.machine_pause_s = round(self.pulse.take(), 2)
        step.seconds = time.monotonic() - began
        self.result.steps.append(step)
        self.told(step)
        self._fill()
        if name == "roll":
            self._measure_gateways()  # all connections are new

    def _probe(self) -> tuple[dict[str, float], int, int]:
        """New connections: share by node, how many, how many failed."""
        self.world.tell(f"{NEW_CONNECTIONS} new connections")
        opened = self.traffic.probe(NEW_CONNECTIONS, TARGETS)
        nodes = Counter(dict.fromkeys(self.world.active, 0))
        for pod, count in opened.by_pod.items():
            nodes[node_of(pod)] += count
        shares = {n: count / max(1, opened.done) for n, count in sorted(nodes.items())}
        return shares, NEW_CONNECTIONS, len(opened.failed)

    def _judge_connections(self, step: Step) -> None:
        taken = self.traffic.take()
        doing = self.world.doing
        broken = [b for b in taken.broken if not (b.reason == "fin" and b.pod in doing.rolled)]
        step.finished = sum(taken.finished.values()) + len(taken.broken) - len(broken)
        step.longest_stall_s = round(taken.stall_s, 3)
        step.broken_why = dict(Counter(b.reason for b in broken).most_common())
        step.own_nodes = sorted(doing.own_nodes)
        buckets = observe.bucket_of(self.lab, ((b.source, b.target) for b in broken))
        for one, bucket in zip(broken, buckets, strict=True):
            which = classify(one, bucket, doing, self.result.idle_timer_s)
            setattr(step, which, getattr(step, which) + 1)
        step.sessions_lost = doing.sessions_lost
        step.converge_s = None if doing.converge_s is None else round(doing.converge_s, 3)

    def _judge_tables(self, step: Step, before: dict[str, observe.Table]) -> None:
        world = self.world
        after = observe.tables(self.lab, world.gateways)
        step.buckets_moved = sum(
            owners.moved_to(after[gateway].get(family))
            for gateway, table in before.items()
            for family, owners in table.items()
        )
        step.moves_waiting = observe.moves_waiting(self.lab, world.gateways)
        step.gateways_agree = observe.agree(after)
        step.digests = {g: {f: o.digest for f, o in t.items()} for g, t in after.items()}
        step.strips_before = self._strips(before)
        step.strips_after = self._strips(after)
        step.fair = {n: round(1 / len(world.active), 4) for n in world.active}

    def _strips(self, found: dict[str, observe.Table]) -> dict[str, dict[str, str]]:
        return {
            gateway: {family: strip(owners.nodes, self.nodes) for family, owners in table.items()}
            for gateway, table in found.items()
        }


def period_s(connections: int) -> float:
    """How often each connection exchanges, so that all of them together are a bearable load."""
    return max(1.0, connections / EXCHANGES_PER_S)


def classify(broken: Broken, bucket: int, doing: Doing, idle_timer_s: float) -> str:
    """The name of the count that a broken connection goes to: the first class that fits."""
    if node_of(broken.pod) in doing.own_nodes:
        return "broken_own"
    if broken.silent_s > idle_timer_s:
        return "broken_silent"
    family = "ipv6" if ":" in broken.target[0] else "ipv4"
    if bucket in doing.differing.get(family, ()):
        return "broken_in_move"
    return "broken_others"


ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_+*/%&$!~^:;<=>@#"


def strip(owners: Sequence[str], nodes: Sequence[str]) -> str:
    """One character a bucket: its owner's index among `nodes`; `?` for a stranger."""
    signs = {node: ALPHABET[i] for i, node in enumerate(nodes[: len(ALPHABET)])}
    return "".join(signs.get(owner, "?") for owner in owners)


def list_node(lab: Lab, node: str, condition: Condition | None) -> None:
    """Put all pods of a node under one condition in the manifests."""
    lab.list_pods(lab.pods(node), condition)
    with suppress(ValueError):
        if condition is None:
            lab.state.nodes.remove(node)
    lab.write_manifests()
