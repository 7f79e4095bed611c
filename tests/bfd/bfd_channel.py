"""Two systems with one session, joined by a channel that a test may spoil, on a simulated clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from samepath.bfd.fsm import Event, State
from samepath.bfd.session import Change, Session, Terms
from samepath.bfd.system import Source, System

ENDS = ("10.0.0.1", "10.0.0.2")

Fate = Callable[[float], list[float]]
"""At which delays (s) a packet sent now arrives: none is lost, two is duplicated."""


def good(_: float) -> list[float]:
    return [0.0002]


@dataclass
class Happened:
    at: float
    end: int
    change: Change


@dataclass
class Channel:
    terms: tuple[Terms, Terms] = (Terms(), Terms())
    seed: int = 1
    fates: list[Fate] = field(default_factory=lambda: [good, good])
    """By the end that sends."""
    now: float = 1000.0
    ttl: int = 255

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.systems = [System(random=self.random.random) for _ in ENDS]
        self.happened: list[Happened] = []
        self.sent: list[tuple[float, int, bytes]] = []
        self._wire: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        for end in (0, 1):
            self.configure(end, self.terms[end])

    def session(self, end: int) -> Session:
        return self.systems[end].sessions[Source(ENDS[1 - end])]

    def states(self) -> tuple[State, State]:
        return self.session(0).state, self.session(1).state

    def configure(self, end: int, terms: Terms) -> None:
        self.systems[end].set(Source(ENDS[1 - end]), terms, self.now)
        self._collect(end)

    def restart(self, end: int, *, standing: bool) -> None:
        """The process of one end is killed, and another takes its place."""
        former = self.session(end)
        self.systems[end] = System(random=self.random.random)
        kept = former.standing if standing else None
        self.systems[end].set(Source(ENDS[1 - end]), former.terms, self.now, kept)
        self._collect(end)

    def run(self, seconds: float) -> None:
        end_at = self.now + seconds
        while True:
            timers = [(t, -1, n) for n in (0, 1) if (t := self.systems[n].next_timer()) is not None]
            events = [*timers, *((at, 0, 0) for at, *_ in self._wire[:1])]
            at, what, end = min(events, default=(end_at + 1, 0, 0))
            if at > end_at:
                break
            self.now = max(self.now, at)
            if what == -1:
                self.systems[end].handle_timer(self.now)
            else:
                _, _, end, data = heapq.heappop(self._wire)
                self.systems[end].receive(data, Source(ENDS[1 - end]), self.ttl, self.now)
            self._collect(end)
        self.now = end_at

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """How long it took; fails after `limit_s`."""
        began = self.now
        while not condition():
            assert self.now - began < limit_s, f"not within {limit_s} s: {self.states()}"
            self.run(0.01)
        return self.now - began

    def both_up(self) -> bool:
        return self.states() == (State.UP, State.UP)

    def downs(self) -> list[Happened]:
        return [h for h in self.happened if h.change.was is State.UP]

    def _collect(self, end: int) -> None:
        system = self.systems[end]
        for _, data in system.packets_to_send():
            self.sent.append((self.now, end, data))
            for delay in self.fates[end](self.now):
                self._count += 1
                heapq.heappush(self._wire, (self.now + delay, self._count, 1 - end, data))
        for _, change in system.changes():
            self.happened.append(Happened(self.now, end, change))


def expired(happened: Happened) -> bool:
    return happened.change.event is Event.DETECTION_EXPIRED
