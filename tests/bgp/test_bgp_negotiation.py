"""What two OPENs come to, and how long messages may be. RFC 5492, 7911, 8538, 8654, 8950, 9494."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_bgp_session import CONFIG, CONTEXT, OPEN, established, events, refused

from samepath.bgp import message
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.capabilities import AddPath, Capabilities, GracefulRestart, LongLived
from samepath.bgp.events import UpdateReceived
from samepath.bgp.negotiation import SessionConfig, agreed, negotiate, offered
from samepath.model.net import Family, parse_address

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
RESTART = GracefulRestart(restart_time_s=9, families=((V4, True), (V6, True)))
LONG = (LongLived(V4, True, 60),)


def own(**changes: object) -> message.Open:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__slots__} | changes
    return offered(SessionConfig(**values))  # type: ignore[arg-type]


def theirs(**changes: object) -> message.Open:
    known = {"families": BOTH, "four_octet_as": 65002} | changes
    return replace(OPEN, capabilities=Capabilities(**known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "peer", "receive", "send"),
    [
        (AddPath(BOTH, BOTH), AddPath(BOTH, BOTH), BOTH, BOTH),
        (AddPath(BOTH), AddPath(BOTH), set(), set()),
        (AddPath(BOTH), AddPath(send=BOTH), BOTH, set()),
        (AddPath(send=BOTH), AddPath(BOTH), set(), BOTH),
        (AddPath(BOTH, BOTH), AddPath(send=frozenset({V6})), {V6}, set()),
        (AddPath(), AddPath(BOTH, BOTH), set(), set()),
        (AddPath(BOTH, BOTH), AddPath(), set(), set()),
    ],
)
def test_directions_of_several_paths(
    ours: AddPath, peer: AddPath, receive: set[Family], send: set[Family]
) -> None:
    context = negotiate(own(add_path=ours), theirs(add_path=peer)).context
    assert (context.add_path_receive, context.add_path_send) == (receive, send)


def test_several_paths_only_of_common_families() -> None:
    peer = theirs(families=frozenset({V6}), add_path=AddPath(BOTH, BOTH))
    context = negotiate(own(add_path=AddPath(BOTH, BOTH)), peer).context
    assert (context.add_path_receive, context.add_path_send) == ({V6}, {V6})


@pytest.mark.parametrize("we", [True, False])
@pytest.mark.parametrize("they", [True, False])
def test_what_both_must_want(we: bool, they: bool) -> None:
    ours = own(
        extended_next_hop=we,
        graceful_restart=replace(RESTART, notification=we),
        long_lived=LONG if we else (),
    )
    peer = theirs(
        extended_next_hop=they,
        graceful_restart=replace(RESTART, notification=they),
        long_lived=LONG if they else (),
    )
    found = negotiate(ours, peer)
    both = we and they
    assert found.context.extended_next_hop is both
    assert found.graceful_restart is not None
    assert found.graceful_restart.notification is both
    assert found.long_lived == (LONG if both else ())
    words = {"extended next hop", "graceful restart after NOTIFICATION"}
    assert words.issubset(agreed(found)) is both


def test_long_lived_means_nothing_without_graceful_restart() -> None:
    assert negotiate(own(long_lived=LONG), theirs(long_lived=LONG)).long_lived == ()


# Extended messages.

MANY = tuple(bytes((32,)) + i.to_bytes(4, "big") for i in range(2_000))
REACH = message.Reach(V4, MANY, PathAttributes(parse_address("192.0.2.2")))
WIDE = replace(CONTEXT, max_message=message.MAX_EXTENDED_MESSAGE)


@pytest.mark.parametrize("they", [True, False])
def test_we_send_extended_messages_only_to_who_takes_them(they: bool) -> None:
    context = negotiate(own(), theirs(extended_message=they)).context
    sizes = [len(x) for x in message.encode_updates([REACH], (), context)]
    assert (max(sizes) > message.MAX_MESSAGE) is they
    assert (len(sizes) == 1) is they


@pytest.mark.parametrize("they", [True, False])
def test_we_read_extended_messages_also_from_who_takes_none(they: bool) -> None:
    """We have offered it: RFC 8654 §4."""
    session = established(theirs(extended_message=they))
    (data,) = message.encode_updates([REACH], (), WIDE)
    session.receive_data(data[:9_000], 1.0)
    assert events(session, 1.0) == []
    session.receive_data(data[9_000:], 1.0)
    (event,) = events(session, 1.0)
    assert isinstance(event, UpdateReceived)
    assert event.update.reaches[0].nlris == MANY


def test_an_extended_keepalive_is_none() -> None:
    session = established(theirs(extended_message=True))
    session.receive_data(b"\xff" * 16 + (5_000).to_bytes(2, "big") + b"\x04" + bytes(4_981), 1.0)
    assert refused(session, 1.0) == (1, 2)
