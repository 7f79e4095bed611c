"""One BGP connection, without socket and clock.

The owner (`samepath.bgp.transport`, or a test) moves bytes and time:

    session.start(now)                    -> event ConnectRequested, unless passive
    session.connected(now)                the TCP connection is there
    session.receive_data(data, now)       what was read
    session.next_event(now)               one event at a time, until None
    session.data_to_send()                to be written, after every call
    session.next_timer()                  when to call handle_timer(now)
    session.lost(text)                    the TCP connection failed or ended

A message is handled when its event is asked for, not when it arrives: so the owner sets the pace,
and can look at an OPEN (collisions) before anything that follows it. Only the hold timer is
restarted as messages arrive, so that a peer never expires because we are busy.

What to advertise is not known here: `samepath.bgp.adjout` makes the UPDATEs, `send` takes them.
Paths are not kept here either: that is the RIB, and what `Down` says decides whether they stay.

Errors of the peer end in a NOTIFICATION and `Down`; a call in a wrong order is an assertion.

RFC 4271 §4, §6, §8; RFC 5492; RFC 6286; RFC 6793; RFC 4724 §3; RFC 2918; RFC 7313; RFC 7911 §4;
RFC 8538 §3; RFC 8654; RFC 8950 §4; RFC 9494 §3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from samepath.bgp import fsm, message
from samepath.bgp.errors import (
    HARD,
    Cease,
    Code,
    FsmError,
    PeerError,
    hard_reset,
)
from samepath.bgp.events import (
    CloseRequested,
    ConnectRequested,
    Down,
    EndOfRib,
    Established,
    Event,
    Negotiated,
    OpenReceived,
    Reason,
    RefreshRequested,
    UpdateReceived,
)
from samepath.bgp.fsm import Action, State
from samepath.bgp.negotiation import SessionConfig, check_open, negotiate, offered
from samepath.bgp.tally import MessageCounts
from samepath.model.net import Family

OPEN_HOLD_S = 60.0
"""Wait for the peer's OPEN. RFC 4271 §8.2.2 suggests four minutes; a peer that does not answer
within one will not."""

CONNECT_TIMEOUT_S = 10.0
"""The ConnectRetryTimer while TCP is being opened; between attempts it is `connect_retry_s`."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """Stands in the inbox behind the last message of the TCP connection."""

    text: str


class Session:
    def __init__(
        self,
        config: SessionConfig,
        *,
        jitter: Callable[[], float] = lambda: 1.0,
        messages: MessageCounts | None = None,
    ) -> None:
        """`jitter` gives factors for the retry timers, 0.75 to 1 (RFC 4271 §10). `messages` is
        counted in; connections of one neighbour share it."""
        self.messages = messages or MessageCounts()
        self.config = config
        """May be replaced; counts from the next OPEN on."""
        self.state = State.IDLE
        self.negotiated: Negotiated | None = None
        """From the peer's OPEN until the connection is down."""
        self._jitter = jitter
        self._events: deque[Event] = deque()
        self._inbox: deque[tuple[int, bytes] | PeerError | _Lost] = deque()
        self._buffer = b""
        self._out: list[bytes] = []
        self._is_connected = False
        self._offered: message.Open | None = None
        self._connect_retry: float | None = None
        self._hold: float | None = None
        self._keepalive: float | None = None
        self._idle_hold: float | None = None

    # What the owner calls.

    def start(self, now: float) -> None:
        passive = self.config.passive
        self._step(fsm.Event.MANUAL_START_PASSIVE if passive else fsm.Event.MANUAL_START, now)

    def start_later(self, now: float) -> None:
        """As after a lost connection: not before the IdleHoldTimer expires."""
        if self.state is State.IDLE and self._idle_hold is None:
            self._act(Action.START_IDLE_HOLD, now)

    def stop(self, now: float, error: PeerError | None = None) -> None:
        """Ends the connection, and stays down. Sends `error`, or administrative shutdown."""
        error = error or PeerError(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN)
        self._step(fsm.Event.MANUAL_STOP, now, error=error, reason=Reason.ADMIN)

    def dump(self, now: float) -> None:
        """The other connection to this peer is kept (RFC 4271 §6.8).

        What is not sent yet is void, the KEEPALIVE that answers an OPEN above all: with it the
        other side would believe that this connection was chosen."""
        self._out.clear()
        error = PeerError(Code.CEASE, Cease.CONNECTION_COLLISION_RESOLUTION)
        self._step(fsm.Event.OPEN_COLLISION, now, error=error, reason=Reason.COLLISION)

    def drop(self, now: float, error: PeerError, reason: Reason) -> None:
        """Ends the connection with `error`, and tries again."""
        self._step(fsm.Event.AUTOMATIC_STOP, now, error=error, reason=reason)

    def connected(self, now: float) -> None:
        self._is_connected = True
        self._step(fsm.Event.TCP_CONNECTED, now)

    def lost(self, text: str = "") -> None:
        """The TCP connection could not be made, or it ended: after all that was received."""
        self._inbox.append(_Lost(text))

    def receive_data(self, data: bytes, now: float) -> None:
        if not self._is_connected:
            return
        data = self._buffer + data
        # We have offered to read extended messages, and the peer need not offer it (RFC 8654 §4).
        room = message.MAX_MESSAGE if self.negotiated is None else message.MAX_EXTENDED_MESSAGE
        before = len(self._inbox)
        try:
            # Until it consumes nothing: a bad header ends the list before it, and is raised when
            # it stands first, after the good messages before it.
            while (found := message.split(data, room))[1]:
                self._inbox.extend(found[0])
                self.messages.note_received(found[0])
                data = data[found[1] :]
        except PeerError as error:
            self._inbox.append(error)
            data = b""
        self._buffer = data
        if len(self._inbox) > before and self.negotiated is not None:
            self._restart_hold(now)

    def next_event(self, now: float) -> Event | None:
        """Handles messages until one of them is an event; None: all is handled."""
        while not self._events and self._inbox:
            self._handle(self._inbox.popleft(), now)
        return self._events.popleft() if self._events else None

    @property
    def backlog(self) -> int:
        """Messages received and not yet handled."""
        return len(self._inbox)

    def send(self, data: bytes, now: float) -> None:
        """UPDATEs, when established; they count as signs of life (RFC 4271 §8.2.2)."""
        assert self.state is State.ESTABLISHED
        self._out.append(data)
        self._restart_keepalive(now)

    def ask_refresh(self, family: Family, now: float) -> bool:
        """Ask for all of a family again; False: the peer does not know how (RFC 2918)."""
        negotiated = self.negotiated
        if self.state is not State.ESTABLISHED or negotiated is None:
            return False
        if not negotiated.route_refresh or family not in negotiated.families:
            return False
        self.send(message.encode(message.RouteRefresh(family), negotiated.context), now)
        return True

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        self.messages.note_sent(data)
        return data

    def next_timer(self) -> float | None:
        timers = (self._connect_retry, self._hold, self._keepalive, self._idle_hold)
        return min((t for t in timers if t is not None), default=None)

    def handle_timer(self, now: float) -> None:
        if self._hold is not None and self._hold <= now:
            if self._inbox:
                self._restart_hold(now)  # The peer has spoken; it is we who are late.
            else:
                error = PeerError(Code.HOLD_TIMER_EXPIRED, 0)
                self._hold = None
                self._step(fsm.Event.HOLD_EXPIRES, now, error=error, reason=Reason.HOLD_EXPIRED)
        if self._keepalive is not None and self._keepalive <= now:
            self._keepalive = None
            self._step(fsm.Event.KEEPALIVE_EXPIRES, now)
        if self._connect_retry is not None and self._connect_retry <= now:
            self._connect_retry = None
            self._step(fsm.Event.CONNECT_RETRY_EXPIRES, now, text="no answer")
        if self._idle_hold is not None and self._idle_hold <= now:
            self._idle_hold = None
            self._step(fsm.Event.AUTOMATIC_START, now)

    # Messages.

    def _handle(self, item: tuple[int, bytes] | PeerError | _Lost, now: float) -> None:
        if isinstance(item, _Lost):
            self._step(fsm.Event.TCP_FAILS, now, reason=Reason.TCP_CLOSED, text=item.text)
            return
        if isinstance(item, PeerError):
            self._step(fsm.Event.HEADER_ERROR, now, error=item)
            return
        kind, body = item
        try:
            context = self.negotiated.context if self.negotiated else _BEFORE_OPEN
            received = message.decode(kind, body, context)
            if isinstance(received, message.Open):
                check_open(received, self.config)
        except PeerError as error:
            is_open = kind == message.MessageType.OPEN
            event = fsm.Event.OPEN_ERROR if is_open else fsm.Event.UPDATE_ERROR
            self._step(event, now, error=error)
            return
        self._receive(received, now)

    def _receive(self, received: message.Message, now: float) -> None:
        match received:
            case message.Update():
                self._step(fsm.Event.UPDATE, now, received=received)
            case message.Keepalive():
                self._step(fsm.Event.KEEPALIVE, now)
            case message.Open():
                self._step(fsm.Event.OPEN, now, received=received)
            case message.RouteRefresh():
                self._step(fsm.Event.ROUTE_REFRESH, now, received=received)
            case message.Notification():
                self._step(
                    fsm.Event.NOTIFICATION,
                    now,
                    reason=Reason.NOTIFICATION_RECEIVED,
                    text=received.text,
                    is_hard=received.is_hard_reset,
                )

    # The state machine.

    def _step(
        self,
        event: fsm.Event,
        now: float,
        *,
        error: PeerError | None = None,
        reason: Reason = Reason.NOTIFICATION_SENT,
        text: str = "",
        received: message.Message | None = None,
        is_hard: bool = False,
    ) -> None:
        before = self.state
        after, actions = fsm.TABLE[before, event]
        if Action.SEND_NOTIFICATION in actions and error is None:
            error = _unexpected(before, event)
        if error is not None:
            text = text or str(error)
            is_hard = error.code == Code.CEASE and error.subcode in HARD
            if is_hard and before is State.ESTABLISHED and self._keeps_after_notification:
                error = hard_reset(error)
        self.state = after
        for action in actions:
            match action:
                case Action.SEND_NOTIFICATION:
                    assert error is not None
                    note = message.Notification(error.code, error.subcode, error.data)
                    self._out.append(message.encode(note, _BEFORE_OPEN))
                case Action.DOWN:
                    was_up = before is State.ESTABLISHED
                    self._events.append(Down(reason, text, was_up, is_hard))
                case Action.NEGOTIATE:
                    assert isinstance(received, message.Open)
                    assert self._offered is not None
                    self.negotiated = negotiate(self._offered, received)
                    self._events.append(OpenReceived(received))
                case Action.DELIVER:
                    self._deliver(received)
                case _:
                    self._act(action, now)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Action.CONNECT:
                self._events.append(ConnectRequested())
            case Action.CLOSE:
                self._close()
            case Action.SEND_OPEN:
                self._offered = offered(self.config)
                self._out.append(message.encode(self._offered, _BEFORE_OPEN))
            case Action.SEND_KEEPALIVE:
                self._out.append(message.encode(message.Keepalive(), _BEFORE_OPEN))
            case Action.START_CONNECT_RETRY:
                self._start_connect_retry(now)
            case Action.START_OPEN_HOLD:
                self._hold = now + OPEN_HOLD_S
            case Action.START_HOLD:
                self._restart_hold(now)
            case Action.START_KEEPALIVE:
                self._restart_keepalive(now)
            case Action.START_IDLE_HOLD:
                if not self.config.passive:
                    self._idle_hold = now + self.config.connect_retry_s * self._jitter()
            case Action.STOP_TIMERS:
                self._connect_retry = self._hold = self._keepalive = self._idle_hold = None
            case Action.UP:
                assert self.negotiated is not None
                self._events.append(Established(self.negotiated))
            case _:
                raise AssertionError(action)

    def _start_connect_retry(self, now: float) -> None:
        if self.config.passive:
            return
        wait = CONNECT_TIMEOUT_S
        if self.state is State.ACTIVE:
            wait = self.config.connect_retry_s * self._jitter()
        self._connect_retry = now + wait

    def _restart_hold(self, now: float) -> None:
        assert self.negotiated is not None
        seconds = self.negotiated.hold_time_s
        self._hold = now + seconds if seconds else None

    def _restart_keepalive(self, now: float) -> None:
        assert self.negotiated is not None
        seconds = self.negotiated.hold_time_s
        self._keepalive = now + seconds / 3 * self._jitter() if seconds else None

    def _deliver(self, received: message.Message | None) -> None:
        if isinstance(received, message.Update):
            if received.end_of_rib is not None:
                self._events.append(EndOfRib(received.end_of_rib))
            else:
                self._events.append(UpdateReceived(received))
        else:
            assert isinstance(received, message.RouteRefresh)
            known = received.subtype in tuple(message.RefreshKind)
            if received.family in self._families and known:
                assert received.family is not None
                kind = message.RefreshKind(received.subtype)
                self._events.append(RefreshRequested(received.family, kind))

    @property
    def _keeps_after_notification(self) -> bool:
        restart = self.negotiated.graceful_restart if self.negotiated else None
        return restart is not None and restart.notification

    @property
    def _families(self) -> tuple[Family, ...]:
        return self.negotiated.families if self.negotiated else ()

    def _close(self) -> None:
        """The events already noted stay; what was received behind them is void."""
        self._inbox.clear()
        self._buffer = b""
        self._is_connected = False
        self.negotiated = None
        self._events.append(CloseRequested())


_BEFORE_OPEN = message.Context(four_octet_as=False, families=frozenset(Family), internal=False)
"""For messages that do not depend on what was negotiated."""


def _unexpected(state: State, event: fsm.Event) -> PeerError:
    """A message that the state does not expect. RFC 6608 §3."""
    subcode = {
        State.OPEN_SENT: FsmError.UNEXPECTED_IN_OPEN_SENT,
        State.OPEN_CONFIRM: FsmError.UNEXPECTED_IN_OPEN_CONFIRM,
        State.ESTABLISHED: FsmError.UNEXPECTED_IN_ESTABLISHED,
    }[state]
    text = f"{event.name} in state {state.value}"
    return PeerError(Code.FINITE_STATE_MACHINE, subcode, message=text)


def keeps_own(*, local: tuple[int, int], remote: tuple[int, int]) -> bool:
    """Which of two connections to one peer stays: True, the one that we opened.

    `local` and `remote` are (BGP identifier, AS). RFC 4271 §6.8, RFC 6286 §2.3.
    """
    return local > remote
