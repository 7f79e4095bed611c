"""One BFD session, without socket and clock.

The owner (`samepath.bfd.system`, or a test) moves packets and time:

    session.receive(packet, now)          a packet that belongs to it -> why it was not taken
    session.handle_timer(now)             when `next_timer()` has come
    session.packets_to_send()             after every call
    session.changes()                     after every call: what has become of the session

Asynchronous mode, active or passive. The peer may use demand mode: then we are silent while both
are up, and still hear it (§6.6). We never do. All numbers are the variables of §6.8.1; those that
we announce become those that we use at once where that is safe, or else when a Poll Sequence has
shown that the peer knows them (§6.8.3).

A session whose process was killed goes on from its `Standing` in the next one, and its peer need
not notice.

Differences from RFC 5880, all of them named:
- A change of our intervals is not polled unless the session is up (§6.8.3): the peer then takes
  every number from the next packet, and intervals are those of a session that is down.
- When nothing is heard for the detection time, all that the peer said is forgotten, not only its
  discriminator (§6.8.1): a peer that had asked for silence may be one that begins anew.
- Echo function and authentication: not done.

RFC 5880 §6.2, §6.5 to §6.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from samepath.bfd.fsm import RECEIVED, TABLE, Event, State
from samepath.bfd.packet import ControlPacket, Diagnostic, Discard, encode

SLOW_US = 1_000_000
"""Between packets while the session is not up. RFC 5880 §6.8.3."""
PAUSE_S = 0.010
"""What is new is said at once, but not more often: a network that repeats and reorders packets
would otherwise have two ends answer each other ever faster."""
_UNKNOWN_MIN_RX_US = 1
"""RFC 5880 §6.8.1: before the peer has said anything."""

_DIAGNOSTICS = {
    Event.RECEIVED_ADMIN_DOWN: Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    Event.RECEIVED_DOWN: Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    Event.DETECTION_EXPIRED: Diagnostic.DETECTION_TIME_EXPIRED,
    Event.DISABLE: Diagnostic.ADMINISTRATIVELY_DOWN,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What our operator wants of a session."""

    transmit_us: int = 300_000
    """DesiredMinTxInterval while up."""
    receive_us: int = 300_000
    """RequiredMinRxInterval."""
    multiplier: int = 3
    """DetectMult: so many of our packets lost mean that we are lost."""
    passive: bool = False
    """Silent until the peer has spoken. RFC 5880 §6.1."""
    minimum_ttl: int = 255
    """Of what we receive. RFC 5881 §5; less than 255 over several hops (RFC 5883)."""
    control_plane_independent: bool = False
    """The C bit."""
    enabled: bool = True
    """False: administratively down, and the peer is told."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a session has come: our discriminator, and what the peer said last."""

    local_discriminator: int
    state: State = State.DOWN
    remote_discriminator: int = 0
    remote_state: State = State.DOWN
    remote_min_rx_us: int = _UNKNOWN_MIN_RX_US
    remote_min_tx_us: int = 0
    remote_multiplier: int = 0
    remote_demand: bool = False
    remote_independent: bool = False
    """The peer's C bit."""


@dataclass(frozen=True, slots=True)
class Change:
    """RFC 5882 §3: what a client of BFD may want to know."""

    was: State
    state: State
    event: Event
    diagnostic: int
    """The peer's own word for it, if it signals a change (`packet.Diagnostic`)."""

    @property
    def is_loss(self) -> bool:
        """The path was there and is not any more. What an operator takes down, on either side, says
        nothing about the path (RFC 5882 §4.2)."""
        losses = (Event.DETECTION_EXPIRED, Event.RECEIVED_DOWN)
        return self.was is State.UP and self.event in losses


class Session:
    def __init__(
        self,
        terms: Terms,
        standing: Standing,
        *,
        now: float,
        jitter: Callable[[], float],
    ) -> None:
        """`standing`: a new discriminator, or where a former process was with this session.
        `jitter` gives numbers from 0 to 1, evenly."""
        self.terms = terms
        self.standing = standing
        self.diagnostic = Diagnostic.NONE
        """Ours, of the last change."""
        self.since = now
        self.sent = 0
        self.received = 0
        self.losses = 0
        self.last_change: Change | None = None
        self.is_touched = True
        """Something that is to be seen from outside has changed; the owner takes it back."""
        self._jitter = jitter
        self._out: list[bytes] = []
        self._changes: list[Change] = []
        self._desired_us, self._required_us = self._wanted()
        self._desired_used_us, self._required_used_us = self._desired_us, self._required_us
        self._polled: tuple[int, int] | None = None
        """Intervals that the peer is being asked to confirm."""
        self._heard_at = now
        self._detect_at: float | None = None
        self._sent_at = now - PAUSE_S
        self._send_at: float | None = None
        self._periodic: bytes | None = None
        """The packet as it is sent again and again, until something in it changes."""
        if not terms.enabled:
            self._step(Event.DISABLE, now)
        elif self.state is State.UP:
            self._poll()
        if self.standing.remote_discriminator:
            self._expect()
        self._send_now(now)

    @property
    def state(self) -> State:
        return self.standing.state

    # What the owner calls.

    def receive(self, packet: ControlPacket, now: float) -> Discard | None:
        """RFC 5880 §6.8.6, from where the packet's session is known."""
        standing = Standing(
            self.standing.local_discriminator,
            self.standing.state,
            packet.my_discriminator,
            packet.state,
            packet.required_min_rx_us,
            packet.desired_min_tx_us,
            packet.detect_multiplier,
            packet.demand,
            packet.control_plane_independent,
        )
        if standing != self.standing:
            self._take(standing, now)
        if packet.final and self._polled is not None:
            self._confirmed()
        if self.state is State.ADMIN_DOWN:
            return Discard.ADMIN_DOWN
        self._step(RECEIVED[packet.state], now, packet.diagnostic)
        if packet.poll:
            self._send(now, final=True)
        self.received += 1
        self._heard_at = now
        self._expect()
        return None

    def next_timer(self) -> float | None:
        send_at, detect_at = self._send_at, self._detect_at
        if send_at is None or detect_at is None:
            return detect_at if send_at is None else send_at
        return min(send_at, detect_at)

    def handle_timer(self, now: float, early_s: float = 0.0) -> None:
        """All packets that have arrived must have been received before: then what is late is the
        peer, and not we. `early_s`: what is to be sent so soon may go now."""
        if self._detect_at is not None and self._detect_at <= now:
            self._detect_at = None
            was = self.state
            self.standing = Standing(self.standing.local_discriminator, was)
            self._step(Event.DETECTION_EXPIRED, now)
            if self.state is was:
                self._changed(now)
        if self._send_at is not None and self._send_at <= now + early_s:
            self._send(now)

    def configure(self, terms: Terms, now: float) -> None:
        """Other terms; the session goes on, and the peer learns of them by a Poll Sequence."""
        if terms == self.terms:
            return
        was = self.state
        self.terms = terms
        self._step(Event.ENABLE if terms.enabled else Event.DISABLE, now)
        self._announce()
        if self.state is was:
            self._changed(now)
        self._expect()

    def packets_to_send(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def changes(self) -> list[Change]:
        changes, self._changes = self._changes, []
        return changes

    @property
    def detection_time_s(self) -> float:
        """After so long of silence the peer is lost; 0: it has not spoken. RFC 5880 §6.8.4."""
        interval_us = max(self._required_used_us, self.standing.remote_min_tx_us)
        return self.standing.remote_multiplier * interval_us / 1e6

    @property
    def transmit_interval_s(self) -> float:
        """RFC 5880 §6.8.7, before jitter."""
        return max(self._desired_used_us, self.standing.remote_min_rx_us) / 1e6

    # The state.

    def _step(self, event: Event, now: float, said: int = Diagnostic.NONE) -> None:
        was = self.state
        state = TABLE[was, event]
        if state is was:
            return
        self.standing = replace(self.standing, state=state)
        self.diagnostic = _DIAGNOSTICS.get(event, Diagnostic.NONE)
        self.since = now
        self.last_change = Change(was, state, event, said)
        self.losses += self.last_change.is_loss
        self._changes.append(self.last_change)
        self._polled = None
        self._announce()
        self._changed(now)

    def _take(self, standing: Standing, now: float) -> None:
        """The peer says something new. Its interval may be shorter: then we must not wait longer
        than that (RFC 5880 §6.8.3)."""
        self.standing = standing
        self._periodic = None
        self.is_touched = True
        if not self._may_send:
            self._send_at = None
        else:
            soon = self._sent_at + self._interval_s()
            self._send_at = soon if self._send_at is None else min(self._send_at, soon)

    # Intervals and the Poll Sequence.

    def _wanted(self) -> tuple[int, int]:
        slow = self.state is not State.UP
        desired_us = max(self.terms.transmit_us, SLOW_US) if slow else self.terms.transmit_us
        return desired_us, self.terms.receive_us

    def _announce(self) -> None:
        """RFC 5880 §6.8.3: what is safe to use at once, and what only when the peer knows of it."""
        wanted = self._wanted()
        if wanted == (self._desired_us, self._required_us):
            return
        self._desired_us, self._required_us = wanted
        self._periodic = None
        if self.state is State.UP:
            self._desired_used_us = min(self._desired_used_us, self._desired_us)
            self._required_used_us = max(self._required_used_us, self._required_us)
            self._poll()
        else:
            self._desired_used_us, self._required_used_us = wanted

    def _poll(self) -> None:
        if self._polled is None:
            self._polled = (self._desired_us, self._required_us)
            self._periodic = None

    def _confirmed(self) -> None:
        """The peer's Final. If our numbers have changed meanwhile, it may not know them yet."""
        confirmed, self._polled = self._polled, None
        self._periodic = None
        self.is_touched = True
        if confirmed == (self._desired_us, self._required_us):
            self._desired_used_us, self._required_used_us = confirmed
            if not self._may_send:
                self._send_at = None
        else:
            self._poll()

    # Time.

    def _expect(self) -> None:
        heard = self.standing.remote_discriminator and self.state is not State.ADMIN_DOWN
        self._detect_at = self._heard_at + self.detection_time_s if heard else None

    @property
    def _may_send(self) -> bool:
        """Periodically. RFC 5880 §6.8.7."""
        standing = self.standing
        if self.terms.passive and not standing.remote_discriminator:
            return False
        both_up = standing.state is State.UP and standing.remote_state is State.UP
        if standing.remote_demand and both_up and self._polled is None:
            return False
        return standing.remote_min_rx_us > 0

    def _interval_s(self) -> float:
        """RFC 5880 §6.8.7: shortened by up to a quarter, of which the owner may take a part, and by
        a tenth at least where a single packet lost is the end."""
        most = 0.9 if self.terms.multiplier == 1 else 1.0
        return self.transmit_interval_s * (0.85 + (most - 0.85) * self._jitter())

    # Packets.

    def _changed(self, now: float) -> None:
        """What we say is new: the peer hears it now, and not at the end of the interval."""
        self._periodic = None
        self.is_touched = True
        self._send_now(now)

    def _send_now(self, now: float) -> None:
        if not self._may_send:
            self._send_at = None
        elif self._sent_at + PAUSE_S <= now:
            self._send(now)
        else:
            soon = self._sent_at + PAUSE_S
            self._send_at = soon if self._send_at is None else min(self._send_at, soon)

    def _send(self, now: float, *, final: bool = False) -> None:
        """Once; and then again after the interval. A Final is beside that rhythm."""
        if final:
            self._out.append(self._packet(poll=False, final=True))
        else:
            if self._periodic is None:
                self._periodic = self._packet(poll=self._polled is not None, final=False)
            self._out.append(self._periodic)
            self._sent_at = now
            self._send_at = now + self._interval_s() if self._may_send else None
        self.sent += 1

    def _packet(self, *, poll: bool, final: bool) -> bytes:
        return encode(
            ControlPacket(
                state=self.state,
                my_discriminator=self.standing.local_discriminator,
                your_discriminator=self.standing.remote_discriminator,
                desired_min_tx_us=self._desired_us,
                required_min_rx_us=self._required_us,
                detect_multiplier=self.terms.multiplier,
                diagnostic=self.diagnostic,
                poll=poll,
                final=final,
                control_plane_independent=self.terms.control_plane_independent,
            )
        )
