"""One system among peers of every kind: packets not meant for it, that lie, that ask for much."""

from __future__ import annotations

import random

import pytest
from bfd_channel import ENDS, Channel
from hypothesis import given
from hypothesis import strategies as st
from test_bfd_packet import PACKETS

from samepath.bfd.fsm import Event, State
from samepath.bfd.packet import ControlPacket, Discard, decode, encode
from samepath.bfd.session import PAUSE_S, Terms
from samepath.bfd.system import Source, System

PEER = Source("10.0.0.2")
NOW = 1000.0


class Peer:
    """The other end, made by hand."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.system = System(random=random.Random(1).random)
        self.now = NOW
        self.system.set(PEER, terms or Terms(), NOW)
        self.session = self.system.sessions[PEER]
        self.ours = self.session.standing.local_discriminator

    def hears(self, state: State, **more: int) -> list[ControlPacket]:
        """`says`, and what it answers at once."""
        self.now += PAUSE_S
        assert self.says(state, **more) is None  # type: ignore[arg-type]
        return self.heard()

    def says(
        self, state: State, *, ttl: int = 255, source: Source = PEER, **more: object
    ) -> object:
        values: dict[str, object] = {
            "my_discriminator": 77,
            "your_discriminator": 0 if state in (State.DOWN, State.ADMIN_DOWN) else self.ours,
            "desired_min_tx_us": 300_000,
            "required_min_rx_us": 300_000,
            "detect_multiplier": 3,
        }
        packet = ControlPacket(state=state, **{**values, **more})  # type: ignore[arg-type]
        return self.system.receive(encode(packet), source, ttl, self.now)

    def heard(self) -> list[ControlPacket]:
        found = [decode(data) for _, data in self.system.packets_to_send()]
        assert all(isinstance(packet, ControlPacket) for packet in found)
        return found  # type: ignore[return-value]

    def passes(self, seconds: float) -> list[ControlPacket]:
        """What it sends in that time, the peer being silent."""
        until, heard = self.now + seconds, self.heard()
        while (timer := self.system.next_timer()) is not None and timer <= until:
            self.now = max(self.now, timer)
            self.system.handle_timer(self.now)
            heard += self.heard()
        self.now = until
        return heard

    def up(self) -> Peer:
        self.hears(State.DOWN)
        self.hears(State.INIT)
        assert self.session.state is State.UP
        self.hears(State.UP, final=True)
        self.now += PAUSE_S
        self.system.changes()
        return self


def test_three_packets_bring_it_up() -> None:
    peer = Peer()
    (first,) = peer.heard()
    assert (first.state, first.your_discriminator) == (State.DOWN, 0)
    assert first.desired_min_tx_us == 1_000_000, "slow while it is not up (RFC 5880 §6.8.3)"
    (answer,) = peer.hears(State.DOWN)
    assert (answer.state, answer.your_discriminator) == (State.INIT, 77)
    (answer,) = peer.hears(State.UP)
    assert (answer.state, answer.poll, answer.desired_min_tx_us) == (State.UP, True, 300_000)
    assert [c.state for _, c in peer.system.changes()] == [State.INIT, State.UP]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"ttl": 254}, Discard.TTL),
        ({"source": Source("10.0.0.3")}, Discard.UNKNOWN_SOURCE),
        ({"source": Source("10.0.0.2", multihop=True)}, Discard.UNKNOWN_SOURCE),
        ({"source": Source("10.0.0.3"), "your_discriminator": "ours"}, Discard.OTHER_SOURCE),
        ({"your_discriminator": 4_000_000_000}, Discard.UNKNOWN_DISCRIMINATOR),
    ],
)
def test_what_is_not_for_it_is_counted_and_changes_nothing(
    how: dict[str, object], reason: Discard
) -> None:
    peer = Peer().up()
    before = peer.session.standing, peer.session.next_timer()
    if how.get("your_discriminator") == "ours":
        how = {**how, "your_discriminator": peer.ours}
    assert peer.says(State.DOWN, **how) is reason  # type: ignore[arg-type]
    assert (peer.session.standing, peer.session.next_timer()) == before
    assert peer.system.discarded == {reason: 1}


def test_link_local_peers_are_told_apart_by_their_link() -> None:
    system = System(random=random.Random(1).random)
    system.set(Source("fe80::2", 3), Terms(), NOW)
    data = encode(ControlPacket(State.DOWN, 5, 0, 1_000_000, 300_000, 3))
    assert system.receive(data, Source("fe80::2", 4), 255, NOW) is Discard.UNKNOWN_SOURCE
    assert system.receive(data, Source("fe80::2", 3), 255, NOW) is None


def test_every_poll_is_answered_at_once() -> None:
    """Whatever the state, and beside the rhythm of our own packets (RFC 5880 §6.5)."""
    peer = Peer().up()
    timer = peer.session.next_timer()
    peer.says(State.UP, poll=True, desired_min_tx_us=300_000)
    (answer,) = peer.heard()
    assert answer.final
    assert not answer.poll
    assert peer.session.next_timer() == timer


def test_silence_for_the_detection_time_and_not_less() -> None:
    peer = Peer().up()
    peer.passes(0.899 - PAUSE_S)
    assert peer.session.state is State.UP
    peer.passes(0.002)
    assert peer.session.state is State.DOWN
    ((_, change),) = peer.system.changes()
    assert change.event is Event.DETECTION_EXPIRED
    packets = peer.passes(10)
    assert all((p.diagnostic, p.your_discriminator) == (1, 0) for p in packets)
    assert 9 <= len(packets) <= 14


def test_a_longer_interval_is_used_when_the_peer_knows_of_it() -> None:
    """RFC 5880 §6.8.3: else it would miss us."""
    peer = Peer().up()
    peer.system.set(PEER, Terms(transmit_us=2_000_000), peer.now)
    assert len(peer.passes(0.8)) >= 3
    peer.says(State.UP, final=True)
    peer.passes(0.5)
    assert len(peer.passes(0.35)) == 0
    assert peer.session.transmit_interval_s == 2.0


def test_a_shorter_detection_time_is_used_when_the_peer_knows_of_it() -> None:
    peer = Peer(Terms(receive_us=1_000_000)).up()
    peer.system.set(PEER, Terms(receive_us=100_000), peer.now)
    assert peer.session.detection_time_s == 3.0
    peer.says(State.UP, final=True)
    assert peer.session.detection_time_s == pytest.approx(0.9)


def test_a_change_during_a_poll_is_polled_again() -> None:
    peer = Peer().up()
    peer.system.set(PEER, Terms(transmit_us=2_000_000), peer.now)
    peer.system.set(PEER, Terms(transmit_us=3_000_000), peer.now)
    peer.heard()
    peer.says(State.UP, final=True)
    assert peer.session.transmit_interval_s == 0.3
    assert peer.passes(0.3)[0].poll
    peer.says(State.UP, final=True)
    assert peer.session.transmit_interval_s == 3.0


def test_a_peer_that_wants_more_often_is_honoured_at_once() -> None:
    """RFC 5880 §6.8.3: not after the interval that it no longer wants."""
    peer = Peer(Terms(transmit_us=100_000))
    peer.says(State.DOWN, required_min_rx_us=2_000_000)
    peer.says(State.UP, required_min_rx_us=2_000_000)
    peer.heard()
    peer.says(State.UP, required_min_rx_us=100_000)
    assert peer.session.next_timer() <= peer.now + 0.1  # type: ignore[operator]


def test_a_peer_in_demand_mode_is_left_in_peace_while_both_are_up() -> None:
    """RFC 5880 §6.6, §6.8.7; it is heard all the same."""
    peer = Peer().up()
    peer.says(State.UP, demand=True)
    assert peer.passes(0.8) == []
    assert peer.session.state is State.UP
    peer.says(State.UP, demand=True, poll=True)
    assert [p.final for p in peer.heard()] == [True]
    peer.system.set(PEER, Terms(multiplier=5, receive_us=200_000), peer.now)
    assert peer.passes(0.5)[0].poll, "a Poll Sequence of ours is for it, too"
    peer.says(State.UP, demand=True, final=True)
    assert peer.passes(0.8) == []
    (packet, *_) = peer.passes(0.2)
    assert packet.state is State.DOWN, "not for those that are not up"


def test_a_peer_that_wants_no_packets_gets_none() -> None:
    peer = Peer().up()
    peer.says(State.UP, required_min_rx_us=0)
    assert peer.passes(0.8) == []


def test_a_peer_that_begins_anew_takes_us_down() -> None:
    peer = Peer().up()
    peer.says(State.DOWN, my_discriminator=78)
    assert peer.session.state is State.DOWN
    peer.says(State.INIT, my_discriminator=78)
    assert peer.session.state is State.UP


def test_administratively_down_hears_nothing_but_says_so() -> None:
    peer = Peer().up()
    peer.system.set(PEER, Terms(enabled=False), peer.now)
    (packet,) = peer.heard()
    assert (packet.state, packet.diagnostic) == (State.ADMIN_DOWN, 7)
    assert peer.says(State.DOWN) is Discard.ADMIN_DOWN
    assert {p.state for p in peer.passes(3)} == {State.ADMIN_DOWN}


def test_a_removed_session_is_silent() -> None:
    peer = Peer().up()
    peer.system.remove(PEER)
    assert peer.passes(5) == []
    assert peer.says(State.UP) is Discard.UNKNOWN_DISCRIMINATOR
    assert peer.system.next_timer() is None


@given(
    st.lists(
        st.tuples(
            st.one_of(st.binary(max_size=40), PACKETS.map(encode)),
            st.sampled_from([PEER, Source("10.0.0.9"), Source("10.0.0.2", 1)]),
            st.integers(0, 255),
            st.booleans(),
            st.floats(0, 2),
        ),
        max_size=30,
    )
)
def test_hostile_packets_never_raise_and_never_cost_more_than_they_did(
    packets: list[tuple[bytes, Source, int, bool, float]],
) -> None:
    """Whatever is sent: a few packets for each at most, and no haste afterwards."""
    peer = Peer()
    discriminator = peer.ours.to_bytes(4, "big")
    for data, source, ttl, names_us, seconds in packets:
        peer.heard()
        if names_us and len(data) >= 24:
            data = data[:8] + discriminator + data[12:]
        peer.system.receive(data, source, ttl, peer.now)
        assert len(peer.heard()) <= 3
        assert len(peer.passes(seconds)) <= seconds / 0.2 + 4
    assert len(peer.system.sessions) == 1


def test_discriminators_differ_and_are_never_zero() -> None:
    channel = Channel()
    system = channel.systems[0]
    for number in range(500):
        system.set(Source(f"10.1.{number // 250}.{number % 250}"), Terms(), NOW)
    numbers = {s.standing.local_discriminator for s in system.sessions.values()}
    assert len(numbers) == len(system.sessions)
    assert 0 not in numbers
    assert Source(ENDS[1]) in system.sessions


def test_two_that_draw_the_same_number() -> None:
    numbers = iter([0.5, 0.5, 0.1, 0.5, 0.25, 0.3, 0.3])
    system = System(random=lambda: next(numbers))
    system.set(PEER, Terms(), NOW)
    system.set(Source("10.0.0.3"), Terms(), NOW)
    a, b = (s.standing.local_discriminator for s in system.sessions.values())
    assert a != b
