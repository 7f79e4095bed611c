"""One session against bytes that a test writes itself: errors, timers, negotiation."""

from __future__ import annotations

import pytest

from samepath.bgp import message
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.capabilities import Capabilities, GracefulRestart
from samepath.bgp.errors import Cease, Code, FsmError, HeaderError, OpenError, UpdateError
from samepath.bgp.events import (
    CloseRequested,
    ConnectRequested,
    Down,
    EndOfRib,
    Established,
    Event,
    OpenReceived,
    Reason,
    RefreshRequested,
    UpdateReceived,
)
from samepath.bgp.fsm import State
from samepath.bgp.negotiation import SessionConfig
from samepath.bgp.session import OPEN_HOLD_S, Session, keeps_own
from samepath.model.net import Family, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
CONTEXT = message.Context(four_octet_as=True, families=frozenset(Family), internal=False)
CONFIG = SessionConfig(
    local_as=65001,
    router_id=1,
    remote_as=65002,
    families=(V4, V6),
    hold_time_s=90,
    graceful_restart=GracefulRestart(restart_time_s=120, families=((V4, True), (V6, True))),
)
CAPABILITIES = Capabilities(families=frozenset(Family), four_octet_as=65002, route_refresh=True)
OPEN = message.Open(asn=65002, hold_time_s=90, router_id=2, capabilities=CAPABILITIES)
KEEPALIVE = message.encode(message.Keepalive(), CONTEXT)


def encode(*messages: message.Message) -> bytes:
    return b"".join(message.encode(m, CONTEXT) for m in messages)


def events(session: Session, now: float = 0.0) -> list[Event]:
    found = []
    while (event := session.next_event(now)) is not None:
        found.append(event)
    return found


def sent(session: Session) -> list[message.Message]:
    messages, _ = message.split(session.data_to_send(), message.MAX_EXTENDED_MESSAGE)
    return [message.decode(kind, body, CONTEXT) for kind, body in messages]


def connected(**changes: object) -> Session:
    """A session that has sent its OPEN."""
    values = {name: getattr(CONFIG, name) for name in CONFIG.__slots__}
    session = Session(SessionConfig(**{**values, **changes}))  # type: ignore[arg-type]
    session.start(0.0)
    session.connected(0.0)
    events(session)
    (own,) = sent(session)
    assert isinstance(own, message.Open)
    return session


def established(peer: message.Open = OPEN, **changes: object) -> Session:
    session = connected(**changes)
    session.receive_data(encode(peer, message.Keepalive()), 0.0)
    assert [type(e) for e in events(session)] == [OpenReceived, Established]
    sent(session)
    return session


def refused(session: Session, now: float = 0.0) -> tuple[int, int]:
    """The NOTIFICATION that the session sent, after which it is down."""
    found = events(session, now)
    assert [type(e) for e in found[-2:]] == [CloseRequested, Down]
    note = sent(session)[-1]
    assert isinstance(note, message.Notification)
    assert session.state is State.IDLE
    assert isinstance(found[-1], Down)
    assert found[-1].reason in (Reason.NOTIFICATION_SENT, Reason.HOLD_EXPIRED)
    assert found[-1].text
    return note.code, note.subcode


def test_the_way_up_and_what_was_agreed() -> None:
    session = Session(CONFIG)
    session.start(0.0)
    assert events(session) == [ConnectRequested()]
    session.connected(1.0)
    (own,) = sent(session)
    assert isinstance(own, message.Open)
    assert (own.asn, own.hold_time_s, own.router_id) == (65001, 90, 1)
    assert own.capabilities.families == {V4, V6}
    assert own.capabilities.graceful_restart == CONFIG.graceful_restart
    session.receive_data(encode(OPEN), 1.0)
    assert events(session, 1.0) == [OpenReceived(OPEN)]
    assert sent(session) == [message.Keepalive()]
    session.receive_data(KEEPALIVE, 1.0)
    (event,) = events(session, 1.0)
    assert isinstance(event, Established)
    agreed = event.negotiated
    assert agreed.families == (V4, V6)
    assert agreed.hold_time_s == 90
    assert agreed.route_refresh
    assert not agreed.enhanced_route_refresh
    assert agreed.graceful_restart is None
    assert agreed.context.four_octet_as
    assert not agreed.context.internal


def test_messages_are_handled_one_at_a_time() -> None:
    session = connected()
    session.receive_data(encode(OPEN, message.Keepalive()), 0.0)
    assert session.backlog == 2
    assert isinstance(session.next_event(0.0), OpenReceived)
    assert session.state is State.OPEN_CONFIRM
    session.dump(0.0)
    assert [type(e) for e in events(session)] == [CloseRequested, Down]
    assert session.state is State.IDLE


@pytest.mark.parametrize("size", [1, 7, 19, 4096])
def test_bytes_may_come_in_any_pieces(size: int) -> None:
    session = connected()
    data = encode(OPEN, message.Keepalive(), message.Keepalive())
    for start in range(0, len(data), size):
        session.receive_data(data[start : start + size], 0.0)
    assert [type(e) for e in events(session)] == [OpenReceived, Established]


def test_a_two_octet_speaker() -> None:
    peer = message.Open(65002, 90, 2, Capabilities())
    session = connected()
    session.receive_data(encode(peer, message.Keepalive()), 0.0)
    _, event = events(session)
    assert isinstance(event, Established)
    assert not event.negotiated.context.four_octet_as
    assert event.negotiated.families == (V4,)


@pytest.mark.parametrize(
    ("peer", "subcode"),
    [
        (message.Open(65003, 90, 2, Capabilities(four_octet_as=65003)), OpenError.BAD_PEER_AS),
        (
            message.Open(65002, 90, 2, Capabilities(families=frozenset(), four_octet_as=65002)),
            None,
        ),
    ],
)
def test_a_wrong_open(peer: message.Open, subcode: int | None) -> None:
    session = connected(families=(V6,))
    session.receive_data(encode(peer), 0.0)
    wanted = OpenError.UNSUPPORTED_CAPABILITY if subcode is None else subcode
    assert refused(session) == (Code.OPEN_MESSAGE, wanted)


def test_our_own_identifier() -> None:
    internal = message.Open(65001, 90, 1, Capabilities(four_octet_as=65001))
    session = connected(remote_as=65001)
    session.receive_data(encode(internal), 0.0)
    assert refused(session) == (Code.OPEN_MESSAGE, OpenError.BAD_BGP_IDENTIFIER)


@pytest.mark.parametrize("hold_time_s", [1, 2])
def test_a_hold_time_that_is_too_short(hold_time_s: int) -> None:
    session = connected()
    peer = message.Open(65002, hold_time_s, 2, CAPABILITIES)
    session.receive_data(encode(peer), 0.0)
    assert refused(session) == (Code.OPEN_MESSAGE, OpenError.UNACCEPTABLE_HOLD_TIME)


def test_a_bad_header_after_good_messages() -> None:
    session = established()
    update = next(message.encode_updates([_reach()], [], CONTEXT))
    session.receive_data(update + bytes(19), 1.0)
    assert isinstance(session.next_event(1.0), UpdateReceived)
    assert refused(session, 1.0) == (
        Code.MESSAGE_HEADER,
        HeaderError.CONNECTION_NOT_SYNCHRONIZED,
    )


def _reach() -> message.Reach:
    return message.Reach(
        V4, (parse_prefix("10.0.0.0/24")[1],), PathAttributes(next_hop=bytes((192, 0, 2, 2)))
    )


def test_an_update_that_cannot_be_read_ends_the_session() -> None:
    session = established()
    body = b"\0\0\0\xff"
    session.receive_data(b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\x02" + body, 1.0)
    assert refused(session, 1.0) == (Code.UPDATE_MESSAGE, UpdateError.MALFORMED_ATTRIBUTE_LIST)


@pytest.mark.parametrize(
    ("state", "wrong", "subcode"),
    [
        (State.OPEN_SENT, message.Keepalive(), FsmError.UNEXPECTED_IN_OPEN_SENT),
        (State.OPEN_CONFIRM, OPEN, FsmError.UNEXPECTED_IN_OPEN_CONFIRM),
        (State.OPEN_CONFIRM, message.RouteRefresh(V4), FsmError.UNEXPECTED_IN_OPEN_CONFIRM),
        (State.ESTABLISHED, OPEN, FsmError.UNEXPECTED_IN_ESTABLISHED),
    ],
)
def test_a_message_out_of_turn(state: State, wrong: message.Message, subcode: int) -> None:
    session = connected()
    if state is not State.OPEN_SENT:
        session.receive_data(encode(OPEN), 0.0)
        events(session)
    if state is State.ESTABLISHED:
        session.receive_data(KEEPALIVE, 0.0)
        events(session)
    sent(session)
    session.receive_data(encode(wrong), 0.0)
    assert refused(session) == (Code.FINITE_STATE_MACHINE, subcode)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_notification_is_not_answered(steps: int) -> None:
    session = connected()
    session.receive_data(encode(OPEN, message.Keepalive())[: (0, 64, 999)[steps]], 0.0)
    if steps == 1:
        session = connected()
        session.receive_data(encode(OPEN), 0.0)
    events(session)
    sent(session)
    note = message.Notification(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN)
    session.receive_data(encode(note), 1.0)
    down = events(session, 1.0)[-1]
    assert isinstance(down, Down)
    assert down.reason is Reason.NOTIFICATION_RECEIVED
    assert down.established == (steps == 2)
    assert sent(session) == []


def test_a_notification_before_the_end_of_the_stream_counts() -> None:
    session = established()
    note = message.Notification(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN)
    session.receive_data(encode(note), 1.0)
    session.lost("closed")
    downs = [e for e in events(session, 1.0) if isinstance(e, Down)]
    assert [d.reason for d in downs] == [Reason.NOTIFICATION_RECEIVED]


def test_the_hold_timer() -> None:
    session = established()
    assert session.next_timer() == pytest.approx(30)
    session.handle_timer(30.0)
    assert sent(session) == [message.Keepalive()]
    session.receive_data(KEEPALIVE, 40.0)
    events(session, 40.0)
    session.handle_timer(129.0)
    assert session.state is State.ESTABLISHED
    session.handle_timer(130.0)
    assert refused(session, 130.0) == (Code.HOLD_TIMER_EXPIRED, 0)


def test_the_hold_timer_does_not_punish_the_peer_for_our_delay() -> None:
    session = established()
    session.receive_data(KEEPALIVE, 80.0)
    session.handle_timer(95.0)
    assert session.state is State.ESTABLISHED
    session.receive_data(KEEPALIVE, 100.0)
    session.handle_timer(500.0)
    assert session.state is State.ESTABLISHED  # The inbox is not empty.
    events(session, 500.0)
    session.handle_timer(600.0)
    assert refused(session, 600.0) == (Code.HOLD_TIMER_EXPIRED, 0)


def test_no_answer_to_open() -> None:
    session = connected()
    session.handle_timer(OPEN_HOLD_S)
    assert refused(session, OPEN_HOLD_S) == (Code.HOLD_TIMER_EXPIRED, 0)


def test_no_timers_when_the_hold_time_is_zero() -> None:
    session = established(message.Open(65002, 0, 2, CAPABILITIES))
    assert session.next_timer() is None


def test_updates_sent_put_off_the_keepalive() -> None:
    session = established()
    session.send(KEEPALIVE, 20.0)
    assert session.next_timer() == pytest.approx(50)


def test_retries() -> None:
    session = Session(CONFIG)
    session.start(0.0)
    events(session)
    session.lost("connection refused")
    (close, down) = events(session, 0.5)
    assert (type(close), type(down)) == (CloseRequested, Down)
    assert session.next_timer() == pytest.approx(5.5)
    session.handle_timer(5.5)
    assert events(session, 5.5) == [ConnectRequested()]
    due = session.next_timer()
    assert due is not None
    session.handle_timer(due)
    assert [type(e) for e in events(session, due)] == [CloseRequested, ConnectRequested]


def test_stop_stays_down() -> None:
    session = established()
    session.stop(1.0)
    (note,) = sent(session)
    assert note == message.Notification(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN)
    assert session.next_timer() is None
    down = events(session, 1.0)[-1]
    assert isinstance(down, Down)
    assert down.reason is Reason.ADMIN


def test_what_comes_after_the_end_is_ignored() -> None:
    session = established()
    session.receive_data(encode(message.Notification(6, 2), message.Keepalive()), 1.0)
    session.receive_data(KEEPALIVE, 1.0)
    assert [type(e) for e in events(session, 1.0)] == [CloseRequested, Down]
    session.receive_data(KEEPALIVE, 1.0)
    assert events(session, 1.0) == []


def test_end_of_rib_and_refresh_are_events() -> None:
    session = established()
    ask = message.RouteRefresh(V6)
    unknown = message.RouteRefresh(V4, 77)
    session.receive_data(message.end_of_rib(V6) + encode(ask, unknown), 1.0)
    assert events(session, 1.0) == [
        EndOfRib(V6),
        RefreshRequested(V6, message.RefreshKind.REQUEST),
    ]


def test_a_refresh_is_asked_only_where_it_is_known() -> None:
    session = established()
    assert session.ask_refresh(V4, 1.0)
    assert sent(session) == [message.RouteRefresh(V4)]
    simple = Capabilities(families=frozenset({V4}), four_octet_as=65002)
    session = established(message.Open(65002, 90, 2, simple))
    assert not session.ask_refresh(V4, 1.0)


def test_which_connection_is_kept() -> None:
    assert keeps_own(local=(2, 65001), remote=(1, 65002))
    assert not keeps_own(local=(1, 65001), remote=(2, 65002))
    assert keeps_own(local=(2, 65003), remote=(2, 65002))
