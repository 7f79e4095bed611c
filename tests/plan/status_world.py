"""An API server that counts, and agents that write to it, in simulated time."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from samepath.plan.node_status import Desired, Key, Kind, Urgency, Wanted, is_same
from samepath.plan.status_writes import Actual, Failure, Op, StatusWrites, What

SINCE = "2026-01-01T00:00:00Z"


@dataclass
class Server:
    of: dict[str, dict[Key, Actual]] = field(default_factory=dict)
    """Objects, by node."""
    writes: Counter[int] = field(default_factory=Counter)
    """By second."""
    reads: int = 0
    has_status_subresource: bool = True

    def answer(self, node: str, writes: StatusWrites, op: Op, now: float) -> None:
        objects = self.of.setdefault(node, {})
        if op.what is What.READ:
            self.reads += 1
            writes.was_read(objects, {}, now)
            return None
        assert op.key is not None
        self.writes[int(now)] += 1
        if op.what is What.DELETE:
            objects.pop(op.key, None)
            writes.done(op, now)
            return None
        assert op.wanted is not None
        there = op.key in objects or op.key.kind is Kind.NODE
        if op.what is What.CREATE:
            if there:
                return writes.failed(op, Failure.EXISTS, "there", now)
            told = None if self.has_status_subresource else op.wanted.status
            owner = op.wanted.owner[3] if op.wanted.owner else ""
            objects[op.key] = Actual(told, owner)
            return writes.done(op, now, told)
        if not there:
            return writes.failed(op, Failure.GONE, "not there", now)
        owner = objects[op.key].owner_uid if op.key in objects else ""
        objects[op.key] = Actual(op.wanted.status, owner)
        return writes.done(op, now)


def wants(
    node: str, sessions: Iterable[tuple[str, bool, str]], services: Iterable[tuple[str, str]] = ()
) -> Desired:
    """`sessions`: peer, whether established, since; `services`: name and state."""
    objects: dict[Key, Wanted] = {}
    for peer, is_up, since in sessions:
        status = {"peer": peer, "bgpStatus": "Established" if is_up else "Down", "since": since}
        objects[Key(Kind.SESSION, "", f"{peer}@{node}")] = Wanted(status, Urgency.SESSION)
    for name, state in services:
        urgency = Urgency.DRAINING if state == "draining" else Urgency.REST
        key = Key(Kind.SERVICE, "shop", f"{name}@{node}")
        objects[key] = Wanted({"state": state}, urgency, owner=("v1", "Service", name, name))
    return Desired(objects, is_ready=True)


class World:
    """Agents and their server; events in order of time."""

    def __init__(self, *, rate: float = 2.0, seed: int = 1) -> None:
        self.now = 0.0
        self.rate = rate
        self.chance = random.Random(seed)
        self.server = Server()
        self.agents: dict[str, StatusWrites] = {}
        self._events: list[tuple[float, int, str]] = []
        self._count = 0

    def start(self, node: str) -> None:
        """An agent begins, or begins again."""
        self.agents[node] = StatusWrites(
            node, rate=self.rate, chance=self.chance.random, now=self.now,
            time_text=lambda: f"t{self.now:.0f}",
        )  # fmt: skip

    def stop(self, node: str) -> None:
        del self.agents[node]

    def want(self, node: str, what: Desired) -> None:
        self.agents[node].want(what, self.now)
        self._push(node)

    def _push(self, node: str) -> None:
        at = self.agents[node].next_at(self.now)
        if at < float("inf"):
            self._count += 1
            heapq.heappush(self._events, (max(at, self.now), self._count, node))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            at, _, node = heapq.heappop(self._events)
            agent = self.agents.get(node)
            if agent is None or agent.next_at(self.now) > at + 1e-6:
                if agent is not None:
                    self._push(node)
                continue
            self.now = max(self.now, at)
            op = agent.next(self.now)
            if op is not None:
                self.server.answer(node, agent, op, self.now + 0.002)
            elif agent.next_at(self.now) <= self.now:
                raise AssertionError(f"{node}: nothing to do, and no time to wait for")
            self._push(node)
        self.now = until

    def matches(self, node: str, what: Desired) -> bool:
        have = {k: a.status for k, a in self.server.of[node].items()}
        have.pop(Key(Kind.NODE, "", node), None)
        return have.keys() == what.objects.keys() and all(
            is_same(k.kind, have[k], wanted.status) for k, wanted in what.objects.items()
        )
