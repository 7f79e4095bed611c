"""Two peers in one world: sessions come up, fall, and heal; paths stay or go as promised."""

from __future__ import annotations

import msgspec
import pytest
from bgp_world import Host, World, has_offered, is_up, nlri, offer, two
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp import message
from samepath.bgp.capabilities import Capabilities, GracefulRestart
from samepath.bgp.errors import Cease, Code, PeerError
from samepath.bgp.events import Down, EndOfRib, Established, Event, Reason
from samepath.bgp.fsm import State
from samepath.bgp.peer import COLLISION_S, Peer
from samepath.bgp.session import Session
from samepath.model.neighbor import Neighbor
from samepath.model.net import Family


def up(seed: int = 0, **options: object) -> tuple[World, Host, Host]:
    world, a, b = two(seed, **options)  # type: ignore[arg-type]
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    return world, a, b


def downs(host: Host) -> list[Down]:
    return [e for _, e in host.events if isinstance(e, Down) and e.established]


@pytest.mark.parametrize("asn", [(65001, 65002), (65001, 65001), (4200000001, 65002)])
@pytest.mark.parametrize("seed", range(5))
def test_a_session_comes_up_and_carries_both_families(seed: int, asn: tuple[int, int]) -> None:
    world, a, b = up(seed, asn=asn)
    world.run_until(lambda: all(len(h.peers) and _ended(h) for h in (a, b)))
    path = a.rib.paths(Family.IPV4, nlri("10.2.0.0/16")).best[0]  # type: ignore[union-attr]
    assert path.attributes.next_hop == b.local.next_hops[Family.IPV4]
    if asn[0] == asn[1]:
        assert path.attributes.as_path.asns == ()
        assert path.attributes.local_pref == 100
        assert not path.external
    else:
        assert path.attributes.as_path.asns == (asn[1],)
        assert path.attributes.local_pref is None
        assert path.external


def _ended(host: Host) -> bool:
    (peer,) = host.peers.values()
    return all(f.end_of_rib_received and f.end_of_rib_sent for f in peer.status().families.values())


@pytest.mark.parametrize("seed", range(60))
def test_colliding_connections_leave_one(seed: int) -> None:
    """Both sides connect at the same time: one connection stays, and it is the same on both."""
    world, a, b = up(seed, hold_time_s=9)
    assert world.now < 1.0, "it took a retry"
    world.run(60)
    assert is_up(a, b)
    assert not downs(a)
    assert not downs(b)
    assert len(a.peer(b).sessions) <= 2
    live = [s for s in a.peer(b).sessions if s.state is not State.IDLE]
    assert live == [a.peer(b).established]


def test_hold_time_is_the_smaller_and_keepalives_keep_it() -> None:
    world, a, b = two()
    a.neighbors[0] = (_with(a.neighbors[0][0], hold_time_s=30), a.neighbors[0][1])
    b.neighbors[0] = (_with(b.neighbors[0][0], hold_time_s=9), b.neighbors[0][1])
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    assert a.peer(b).status().hold_time_s == b.peer(a).status().hold_time_s == 9
    world.run(600)
    assert not downs(a)


def _with(neighbor: Neighbor, **changes: object) -> Neighbor:
    return msgspec.structs.replace(neighbor, **changes)


def test_hold_time_zero_needs_no_keepalives() -> None:
    world, a, b = up(hold_time_s=0)
    world.silence(a, b)
    world.run(3600)
    assert a.peer(b).status().is_established
    assert not downs(a)


def test_silence_ends_with_the_hold_timer_and_the_paths_go_at_once() -> None:
    world, a, b = up(hold_time_s=9)
    world.silence(a, b)
    world.run(8.9 - 3)
    assert has_offered(a, b)
    world.run(6.2)
    assert downs(a)[0].reason is Reason.HOLD_EXPIRED
    assert a.learned(b) == {f: set() for f in Family}
    world.heal()
    world.run_until(lambda: is_up(a, b))


def test_a_reset_keeps_the_paths_stale_and_nobody_sees_a_change() -> None:
    world, a, b = up()
    a.rib.take_changed()
    world.reset(a, b)
    assert downs(a)[-1].reason is Reason.TCP_CLOSED
    assert a.stale(b) == 2
    assert a.learned(b)[Family.IPV4] == {nlri("10.2.0.0/16")}
    world.run_until(lambda: is_up(a, b))
    assert not any(a.rib.take_changed().values())


def test_without_graceful_restart_a_reset_removes_the_paths() -> None:
    world, a, b = up(graceful_restart_s=0)
    world.reset(a, b)
    assert a.learned(b) == {f: set() for f in Family}
    world.run_until(lambda: is_up(a, b))


def test_stale_paths_go_when_the_restart_time_is_over() -> None:
    world, a, b = up(graceful_restart_s=30)
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    world.run(29)
    assert a.stale(b) == 2
    world.run(2)
    assert a.learned(b) == {f: set() for f in Family}
    b.boot()
    world.run_until(lambda: is_up(a, b))


@pytest.mark.parametrize("by_us", [True, False])
def test_a_notification_removes_the_paths_at_once(by_us: bool) -> None:
    world, a, b = up()
    error = PeerError(Code.CEASE, Cease.ADMINISTRATIVE_RESET)
    first, second = (a, b) if by_us else (b, a)
    first.peer(second).stop(world.now, error)
    first.pump(first.peer(second))
    world.run_until(lambda: bool(downs(a)))
    assert downs(a)[0].reason is (Reason.ADMIN if by_us else Reason.NOTIFICATION_RECEIVED)
    assert a.learned(b) == {f: set() for f in Family}
    if not by_us:
        assert "administrative reset" in downs(a)[0].text


def test_a_restarted_peer_that_kept_forwarding_changes_nothing() -> None:
    world, a, b = up()
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    a.rib.take_changed()
    b.boot(restarting=True, preserved=True)
    world.run_until(lambda: a.peer(b).established is not None and not a.stale(b))
    assert not any(isinstance(e, EndOfRib) for _, e in a.events[-3:])
    assert a.peer(b).status().restarting
    world.run(5)
    assert not a.peer(b).status().families[Family.IPV4].end_of_rib_received
    b.peer(a).release_end_of_rib()
    b.pump(b.peer(a))
    world.run_until(lambda: a.peer(b).status().families[Family.IPV4].end_of_rib_received)
    assert not any(a.rib.take_changed().values())


def test_what_a_restarted_peer_no_longer_offers_goes_with_its_end_of_rib() -> None:
    world, a, b = up()
    world.kill(b)
    b.neighbors = [(b.neighbors[0][0], offer("2001:db8:2::/48"))]
    b.boot(restarting=True, preserved=True)
    world.run_until(lambda: a.peer(b).established is not None and a.stale(b) == 1)
    assert nlri("10.2.0.0/16") in a.learned(b)[Family.IPV4]
    b.peer(a).release_end_of_rib()
    b.pump(b.peer(a))
    world.run_until(lambda: not a.stale(b))
    assert a.learned(b)[Family.IPV4] == set()
    assert has_offered(a, b)


def test_a_restarted_peer_that_did_not_keep_forwarding_loses_its_paths_first() -> None:
    world, a, b = up()
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    b.neighbors = [(b.neighbors[0][0], offer())]
    b.boot(restarting=True, preserved=False)
    world.run_until(lambda: a.peer(b).established is not None)
    assert a.learned(b) == {f: set() for f in Family}


def test_a_peer_that_is_back_but_never_ends_its_rib_loses_what_is_stale_in_time() -> None:
    world, a, b = up()
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    b.neighbors = [(b.neighbors[0][0], offer())]
    b.boot(restarting=True, preserved=True)
    world.run_until(lambda: a.peer(b).established is not None)
    world.run(Neighbor(address="192.0.2.1", remote_as=1).graceful_restart_stale_s - 5)
    assert a.stale(b) == 2
    world.run(10)
    assert a.learned(b) == {f: set() for f in Family}


def test_a_second_loss_removes_what_was_stale_already() -> None:
    world, a, b = up()
    world.kill(b)
    b.neighbors = [(b.neighbors[0][0], offer("10.3.0.0/16"))]
    b.boot(restarting=True, preserved=True)
    world.run_until(lambda: len(a.learned(b)[Family.IPV4]) == 2)
    world.kill(b)
    world.run_until(lambda: a.peer(b).established is None)
    assert a.learned(b)[Family.IPV4] == {nlri("10.3.0.0/16")}
    assert a.stale(b) == 1


def test_a_new_connection_takes_over_from_one_that_died_unnoticed() -> None:
    """RFC 4724 §5: the peer's machine lost power, and is back before our hold timer expires."""
    world, a, b = up(hold_time_s=90)
    world.run(20)
    world.silence(a, b)
    world.kill(b)
    world.run(1)
    world.silent.clear()
    world.held.clear()
    a.rib.take_changed()
    a.events.clear()
    b.boot(restarting=False, preserved=True)
    world.run_until(lambda: is_up(a, b), limit=15)
    assert [d.reason for d in downs(a)] == [Reason.TCP_CLOSED]
    assert not any(a.rib.take_changed().values())


def test_a_change_is_sent_and_a_repetition_is_not() -> None:
    world, a, b = up()
    world.run(2)
    sent = [len(a.events), len(b.events)]
    a.peer(b).set(offer("10.1.0.0/16", "2001:db8:1::/48"))
    a.pump(a.peer(b))
    world.run(2)
    assert [len(a.events), len(b.events)] == sent
    a.peer(b).set(offer("10.1.0.0/16", "10.9.0.0/16"))
    a.pump(a.peer(b))
    world.run(2)
    assert b.learned(a) == {
        Family.IPV4: {nlri("10.1.0.0/16"), nlri("10.9.0.0/16")},
        Family.IPV6: set(),
    }


def test_a_wrong_as_is_refused() -> None:
    world, a, b = two()
    b.local = type(b.local)(asn=65009, router_id=2, next_hops=b.local.next_hops)
    a.boot()
    b.boot()
    world.run(30)
    assert not a.peer(b).status().is_established
    refused = [e for _, e in a.events if isinstance(e, Down) and "AS is 65009" in e.text]
    told = [e for _, e in b.events if isinstance(e, Down) and "bad peer as" in e.text]
    assert refused
    assert told
    assert not any(isinstance(e, Established) for _, e in (*a.events, *b.events))


def test_our_own_identifier_is_refused_from_an_internal_peer() -> None:
    world, a, b = two(asn=(65001, 65001))
    b.local = type(b.local)(asn=65001, router_id=1, next_hops=b.local.next_hops)
    a.boot()
    b.boot()
    world.run(30)
    assert not a.peer(b).status().is_established
    assert "identifier" in a.peer(b).last_error


def test_no_family_in_common_is_refused() -> None:
    world, a, b = two()
    a.neighbors[0] = (_with(a.neighbors[0][0], families=["ipv4"]), a.neighbors[0][1])
    b.neighbors[0] = (_with(b.neighbors[0][0], families=["ipv6"]), b.neighbors[0][1])
    a.boot()
    b.boot()
    world.run(30)
    assert not a.peer(b).status().is_established


def test_only_common_families_are_exchanged() -> None:
    world, a, b = two()
    b.neighbors[0] = (_with(b.neighbors[0][0], families=["ipv6"]), b.neighbors[0][1])
    a.boot()
    b.boot()
    world.run(10)
    assert set(a.peer(b).status().families) == {Family.IPV6}
    assert b.learned(a) == {Family.IPV4: set(), Family.IPV6: {nlri("2001:db8:1::/48")}}


def test_route_refresh_is_answered_with_everything_and_its_marks() -> None:
    world, a, b = up()
    assert a.peer(b).established is not None
    b.events.clear()
    a.events.clear()
    assert a.peer(b).established.ask_refresh(Family.IPV4, world.now)
    a.pump(a.peer(b))
    a.rib.take_changed()
    world.run(2)
    kinds = [type(e).__name__ for _, e in a.events]
    assert kinds == ["RefreshRequested", "UpdateReceived", "RefreshRequested"]
    assert has_offered(a, b)
    assert not any(a.rib.take_changed().values())


FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["reset", "silence", "heal", "kill a", "kill b", "set a", "set b"]),
        st.floats(0.01, 20, allow_nan=False),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), faults=FAULTS, same_as=st.booleans(), gr=st.booleans())
def test_after_any_faults_both_have_what_is_offered(
    seed: int, faults: list[tuple[str, float]], same_as: bool, gr: bool
) -> None:
    asn = (65001, 65001) if same_as else (65001, 65002)
    world, a, b = two(seed, asn=asn, hold_time_s=9, graceful_restart_s=30 if gr else 0)
    a.boot()
    b.boot()
    for number, (fault, pause) in enumerate(faults):
        _apply(world, a, b, fault, number)
        world.run(pause)
    world.heal()
    for host in (a, b):
        if not host.is_alive:
            host.boot(preserved=True)
    world.run_until(lambda: is_up(a, b), limit=60)
    world.run(40)
    assert is_up(a, b)


def _apply(world: World, a: Host, b: Host, fault: str, number: int) -> None:
    what, _, who = fault.partition(" ")
    host, other = (a, b) if who == "a" else (b, a)
    if what == "reset":
        world.reset(a, b)
    elif what == "silence":
        world.silence(a, b)
    elif what == "heal":
        world.heal()
    elif what == "kill":
        if host.is_alive:
            world.kill(host)
        else:
            host.boot(preserved=number % 2 == 0)
    elif host.is_alive:
        neighbor = host.neighbors[0][0]
        routes = offer(f"10.{number}.0.0/16", f"2001:db8:{number}::/48", "10.200.0.0/16")
        host.neighbors = [(neighbor, routes)]
        host.peer(other).set(routes)
        host.pump(host.peer(other))


def by_hand(*, restarts: bool) -> tuple[Peer, message.Open]:
    """A passive peer without a world, and what the neighbour would say."""
    _, a, b = two(passive=True)
    a.boot()
    families = tuple((f, True) for f in Family) if restarts else ()
    restart = GracefulRestart(restart_time_s=60, families=families) if restarts else None
    capabilities = Capabilities(
        families=frozenset(Family), four_octet_as=65002, graceful_restart=restart
    )
    return a.peer(b), message.Open(65002, 90, 2, capabilities)


def speak(peer: Peer, session: Session, now: float, *said: message.Message) -> list[Event]:
    context = message.Context(four_octet_as=True, families=frozenset(Family), internal=False)
    session.receive_data(b"".join(message.encode(m, context) for m in said), now)
    found = []
    while (item := peer.next_event(now)) is not None:
        found.append(item[1])
    return found


def accept(peer: Peer, now: float) -> Session:
    session = peer.accept(now)
    peer.connected(session, bytes((192, 0, 2, 1)), now)
    return session


@pytest.mark.parametrize(
    ("restarts", "after", "replaced"),
    [(True, 60.0, True), (True, COLLISION_S - 1, False), (False, 60.0, False)],
)
def test_when_a_second_connection_replaces_an_established_one(
    restarts: bool, after: float, replaced: bool
) -> None:
    peer, opening = by_hand(restarts=restarts)
    first = accept(peer, 0.0)
    speak(peer, first, 0.0, opening, message.Keepalive())
    assert peer.established is first
    second = accept(peer, after)
    assert peer.established is first
    found = speak(peer, second, after, opening, message.Keepalive())
    assert (peer.established is second) == replaced
    (down,) = [e for e in found if isinstance(e, Down)]
    assert down.reason is (Reason.TCP_CLOSED if replaced else Reason.COLLISION)
    assert down.established == replaced


def test_a_second_connection_without_an_open_leaves_the_established_one() -> None:
    peer, opening = by_hand(restarts=True)
    first = accept(peer, 0.0)
    speak(peer, first, 0.0, opening, message.Keepalive())
    for attempt in range(1, 4):
        session = accept(peer, 60.0 * attempt)
        session.lost("closed")
        speak(peer, session, 60.0 * attempt)
    assert peer.established is first
    assert peer.sessions == (first,)


def test_a_newer_connection_of_the_neighbour_ends_one_that_has_not_come_up() -> None:
    peer, opening = by_hand(restarts=True)
    first = accept(peer, 0.0)
    speak(peer, first, 0.0, opening)
    second = accept(peer, 1.0)
    speak(peer, second, 1.0, opening, message.Keepalive())
    assert peer.established is second
    assert peer.sessions == (second,)


def test_a_connection_of_ours_that_got_no_open_for_long_loses() -> None:
    """Its other end is gone; the neighbour has come back, and connects to us."""
    _, a, b = two()
    b.boot()  # the higher identifier: its own connections would be kept
    peer = b.peer(a)
    assert peer.outgoing is not None
    peer.connected(peer.outgoing, b.address, 0.0)
    late = COLLISION_S + 1
    opening = message.Open(
        65001, 90, 1, Capabilities(families=frozenset(Family), four_octet_as=65001)
    )
    session = accept(peer, late)
    speak(peer, session, late, opening, message.Keepalive())
    assert peer.established is session
