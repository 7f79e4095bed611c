"""Targets: a BFD packet, and a host's BFD sessions played step by step.

What must hold: a packet is taken or discarded with a reason, and one that is taken is written again
as itself. Of the sessions (`samepath.bfd.system.System`) after every step: nothing is raised; every
packet made can be read by the other side and is from a session that there is; a packet that is
discarded has changed nothing; changes follow the state table; what we send is bounded by what we
hear and by the time that passes; a timer that was handled does not ring again at once.

RFC 5880 §6.8.6, RFC 5881 §5.
"""

from __future__ import annotations

from dataclasses import replace

from fuzz.choices import Choices
from samepath.bfd.fsm import TABLE, State
from samepath.bfd.packet import LENGTH, ControlPacket, Discard, decode, encode
from samepath.bfd.session import PAUSE_S, Terms
from samepath.bfd.system import TOGETHER_S, Source, System

STEPS = 80
SOURCES = (
    Source("10.0.0.1"),
    Source("10.0.0.2"),
    Source("fe80::2", 7),
    Source("10.0.0.2", 0, True),
)
WAITS_S = (0.0, 0.001, 0.05, 0.3, 1.0, 10.0)
INTERVALS_US = (0, 1, 10_000, 300_000, 1_000_000, 0xFFFFFFFF)


def packet(data: bytes) -> None:
    found = decode(data)
    if isinstance(found, Discard):
        assert found.value
        return
    assert found.my_discriminator
    assert found.detect_multiplier
    assert repr(found)
    # All that a packet says stands in its first octets; the length field is our own.
    assert encode(found) == data[:3] + bytes((LENGTH,)) + data[4:LENGTH]


def sessions(data: bytes) -> None:
    play = _Play(Choices(data))
    for step in play.choices.steps(STEPS):
        play.step(step % 8)


class _Play:
    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.now = 1000.0
        self.numbers = 0
        self.system = System(random=self._random)
        self.asked = 0
        """Packets that may be answered, and calls that may be told at once."""
        self.sent = 0
        self.states: dict[Source, State] = {}

    def _random(self) -> float:
        self.numbers += 1
        return self.numbers * 0.6180339887 % 1.0

    def step(self, kind: int) -> None:
        choices, system = self.choices, self.system
        before = self.now
        if kind == 0:
            self.asked += 2
            system.set(choices.pick(SOURCES), self._terms(), self.now)
        elif kind == 1:
            source = choices.pick(SOURCES)
            system.remove(source)
            self.states.pop(source, None)
        elif kind in (2, 3, 4):
            self._receive(self._packet(), choices.pick(SOURCES))
        elif kind == 5:
            self._receive(choices.block(), choices.pick(SOURCES))
        else:
            self._wait(choices.pick(WAITS_S))
        self._check(self.now - before)

    def _terms(self) -> Terms:
        bits = self.choices.number()
        return Terms(
            transmit_us=(300_000, 10_000, 50_000, 2_000_000)[bits & 3],
            receive_us=(300_000, 10_000, 50_000, 2_000_000)[bits >> 2 & 3],
            multiplier=1 + (bits >> 4 & 3),
            passive=bool(bits & 64),
            enabled=not bits & 128,
        )

    def _packet(self) -> bytes:
        """As a peer may send it: mostly to a session that there is."""
        bits, flags = self.choices.number(), self.choices.number()
        known = [s.standing.local_discriminator for s in self.system.sessions.values()]
        yours = (0, *known, 12345)[(flags >> 4) % (len(known) + 2)]
        return encode(
            ControlPacket(
                state=tuple(State)[bits & 3],
                my_discriminator=1 + (bits >> 2 & 3),
                your_discriminator=yours,
                desired_min_tx_us=self.choices.pick(INTERVALS_US),
                required_min_rx_us=self.choices.pick(INTERVALS_US),
                detect_multiplier=1 + (bits >> 4 & 7),
                poll=bool(flags & 1),
                final=bool(flags & 2),
                demand=bool(flags & 4),
                control_plane_independent=bool(flags & 8),
            )
        )

    def _receive(self, octets: bytes, source: Source) -> None:
        self.asked += 2
        before = self._standings()
        ttl = 255 if self.choices.number() % 8 else 254
        why = self.system.receive(octets, source, ttl, self.now)
        if why is not None and why is not Discard.ADMIN_DOWN:
            assert self._standings() == before, f"discarded ({why}), and yet something changed"

    def _standings(self) -> dict[Source, object]:
        return {source: s.standing for source, s in self.system.sessions.items()}

    def _wait(self, seconds: float) -> None:
        """The owner sleeps until the next timer, again and again."""
        until = self.now + seconds
        for _ in range(10_000):
            due = self.system.next_timer()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.system.handle_timer(self.now)
            due = self.system.next_timer()
            assert due is None or due > self.now, "rings again at once"
        self.now = until

    def _check(self, passed_s: float) -> None:
        system = self.system
        out = system.packets_to_send()
        for source, octets in out:
            found = decode(octets)
            assert isinstance(found, ControlPacket), found
            session = system.sessions.get(source)
            if session is not None:
                assert found.my_discriminator == session.standing.local_discriminator
        self.sent += len(out)
        # At most one a pause for each session, and what was asked for.
        self.asked += int(len(SOURCES) * (passed_s + TOGETHER_S) / (PAUSE_S * 0.75)) + 1
        assert self.sent <= self.asked, f"{self.sent} packets sent, {self.asked} were due"
        for source, change in system.changes():
            was = self.states.get(source, change.was)
            assert change.was is was
            assert TABLE[was, change.event] is change.state is not was
            self.states[source] = change.state
        for source, session in system.sessions.items():
            assert self.states.setdefault(source, session.state) is session.state
            if session.state is State.UP:
                assert session.standing.remote_discriminator
                assert session.detection_time_s > 0
            assert replace(session.standing) == session.standing
        assert set(system.take_touched()) <= set(system.sessions)
