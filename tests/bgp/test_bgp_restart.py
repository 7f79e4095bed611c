"""What stays of a neighbour, by how its session ended and by what was agreed.

RFC 4724, RFC 8538, RFC 9494, RFC 8326; all in a world without sockets.
"""

from __future__ import annotations

import msgspec
import pytest
from bgp_world import Host, World, is_up, nlri, offer, two

from samepath.bgp import message as m
from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, LLGR_STALE, NO_LLGR, PathAttributes
from samepath.bgp.errors import Cease, Code, PeerError, shutdown
from samepath.bgp.events import Down, Reason
from samepath.model.neighbor import Neighbor
from samepath.model.net import Family

V4 = Family.IPV4
PREFIX = nlri("10.2.0.0/16")
BOTH_KEEP = {"graceful_restart_notification": True}


def up(seed: int = 0, **options: object) -> tuple[World, Host, Host]:
    world, a, b = two(seed, **options)
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    return world, a, b


def expire(world: World, a: Host, b: Host) -> None:
    """The node is gone, its link is not: nothing more is heard."""
    world.silence(a, b)
    world.run_until(lambda: a.peer(b).established is None)


def said_by(host: Host) -> list[Down]:
    return [e for _, e in host.events if isinstance(e, Down) and e.established]


# After a hold timer or a NOTIFICATION (RFC 8538).


def test_by_default_a_node_that_crashed_is_not_kept() -> None:
    world, a, b = up()
    expire(world, a, b)
    assert a.learned(b)[V4] == set()
    assert a.peer(b).status().stale_until_s is None


def test_where_both_agreed_the_hold_timer_keeps_the_paths() -> None:
    world, a, b = up(**BOTH_KEEP)
    assert "graceful restart after NOTIFICATION" in a.peer(b).status().agreed
    a.rib.take_changed()
    expire(world, a, b)
    assert a.stale(b) == 2
    assert not a.rib.is_changed
    world.heal()
    world.run_until(lambda: is_up(a, b))
    assert not a.rib.is_changed


@pytest.mark.parametrize("only", [0, 1])
def test_one_side_alone_decides_nothing(only: int) -> None:
    world, a, b = two()
    chooser = (a, b)[only]
    neighbor, routes = chooser.neighbors[0]
    chooser.neighbors[0] = (_with(neighbor, graceful_restart_notification=True), routes)
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    expire(world, a, b)
    assert a.learned(b)[V4] == set()


def _with(neighbor: Neighbor, **fields: object) -> Neighbor:
    return msgspec.structs.replace(neighbor, **fields)


UPDATE_ERROR = PeerError(Code.UPDATE_MESSAGE, 1)


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (UPDATE_ERROR, True),
        (PeerError(Code.CEASE, Cease.OTHER_CONFIGURATION_CHANGE), True),
        (PeerError(Code.CEASE, Cease.OUT_OF_RESOURCES), True),
        (PeerError(Code.CEASE, Cease.ADMINISTRATIVE_RESET), True),
        (PeerError(Code.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN), False),
        (PeerError(Code.CEASE, Cease.PEER_DE_CONFIGURED), False),
        (PeerError(Code.CEASE, Cease.MAXIMUM_NUMBER_OF_PREFIXES_REACHED), False),
        (PeerError(Code.CEASE, Cease.BFD_DOWN), False),
        (PeerError(Code.CEASE, Cease.HARD_RESET), False),
    ],
    ids=lambda value: str(value) if isinstance(value, PeerError) else "",
)
@pytest.mark.parametrize("agreed", [True, False])
def test_which_notifications_keep_the_paths_on_both_sides(
    error: PeerError, stays: bool, agreed: bool
) -> None:
    world, a, b = up(**(BOTH_KEEP if agreed else {}))
    session = b.peer(a).established
    assert session is not None
    session.drop(world.now, error, Reason.NOTIFICATION_SENT)
    b.pump(b.peer(a))
    world.run_until(lambda: a.peer(b).established is None)
    kept = 2 if stays and agreed else 0
    assert (a.stale(b), b.stale(a)) == (kept, kept)
    world.run_until(lambda: is_up(a, b))


def test_a_hard_reset_says_what_it_stands_for() -> None:
    world, a, b = up(**BOTH_KEEP)
    b.peer(a).stop(world.now, shutdown("moving house"))
    b.pump(b.peer(a))
    world.run_until(lambda: a.peer(b).established is None)
    text = "Cease: hard reset (Cease: administrative shutdown (moving house))"
    assert a.peer(b).last_error == text
    assert a.learned(b)[V4] == set()
    assert said_by(a)[-1].hard_reset


def test_without_agreement_a_shutdown_is_said_plainly() -> None:
    world, a, b = up()
    b.peer(a).stop(world.now, shutdown("moving house"))
    b.pump(b.peer(a))
    world.run_until(lambda: a.peer(b).established is None)
    assert a.peer(b).last_error == "Cease: administrative shutdown (moving house)"
    world.kill(b)
    world.run(30)  # Attempts to connect, each with an error of its own.
    assert a.peer(b).last_error == "connection refused"
    assert a.peer(b).status().lost_for == "Cease: administrative shutdown (moving house)"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Cease: hard reset"),
        (b"\x06", "Cease: hard reset"),
        (b"\x06\x04", "Cease: hard reset (Cease: administrative reset)"),
        (b"\x06\x09\x06\x09", "Cease: hard reset"),
        (b"\x03\x01\xff", "Cease: hard reset (Update message: malformed attribute list)"),
    ],
)
def test_the_text_of_a_hard_reset(data: bytes, text: str) -> None:
    assert m.Notification(Code.CEASE, Cease.HARD_RESET, data).text == text


# Times.


def test_the_neighbours_restart_time_has_an_upper_bound() -> None:
    world, a, b = up(graceful_restart_s=4000, graceful_restart_stale_s=30)
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    world.run(25)
    assert a.stale(b) == 2
    world.run(10)
    assert a.learned(b)[V4] == set()


def test_draining_wins_over_stale() -> None:
    world, a, b = two()
    neighbor, _ = b.neighbors[0]
    draining = PathAttributes(next_hop=b"", communities=(GRACEFUL_SHUTDOWN,))
    b.neighbors[0] = (neighbor, offer("10.2.0.0/16", attributes=draining))
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    a.rib.take_changed()
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 1)
    (path,) = a.rib.paths(V4, PREFIX).best  # type: ignore[union-attr]
    assert path.attributes.has(GRACEFUL_SHUTDOWN)
    assert not a.rib.is_changed


# Long-lived (RFC 9494).

LONG = {"graceful_restart_s": 10, "long_lived_stale_s": 100}


def long_stale(a: Host) -> bool:
    held = a.rib.paths(V4, PREFIX)
    return held is not None and held.best[0].attributes.has(LLGR_STALE)


def test_stale_for_long_after_the_restart_time() -> None:
    world, a, b = up(**LONG)
    assert "long-lived graceful restart" in a.peer(b).status().agreed
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    world.run(9)
    assert not long_stale(a)
    world.run(2)
    assert long_stale(a)
    assert a.stale(b) == 2
    until = a.peer(b).status().stale_until_s
    assert until is not None
    assert world.now + 95 < until < world.now + 101
    world.run(100)
    assert a.learned(b)[V4] == set()
    assert a.peer(b).status().stale_until_s is None


def test_who_comes_back_within_the_long_time_is_fresh_again() -> None:
    world, a, b = up(**LONG)
    world.kill(b)
    world.run_until(lambda: long_stale(a), 60)
    b.boot(restarting=True, preserved=True)
    world.run_until(lambda: b.peer(a).established is not None)
    world.run(1)
    assert not long_stale(a), "told again"
    assert a.stale(b) == 0
    b.peer(a).release_end_of_rib()
    b.pump(b.peer(a))
    world.run_until(lambda: is_up(a, b))


def test_who_comes_back_without_its_forwarding_loses_what_was_stale() -> None:
    world, a, b = up(**LONG)
    neighbor, _ = b.neighbors[0]
    world.kill(b)
    world.run_until(lambda: long_stale(a), 60)
    b.neighbors[0] = (neighbor, offer())
    b.boot(restarting=True, preserved=False)
    world.run_until(lambda: a.peer(b).established is not None)
    assert a.learned(b)[V4] == set()


def test_what_asks_not_to_be_kept_goes_after_the_restart_time() -> None:
    world, a, b = two(**LONG)
    neighbor, _ = b.neighbors[0]
    short = PathAttributes(next_hop=b"", communities=(NO_LLGR,))
    b.neighbors[0] = (neighbor, offer("10.2.0.0/16", attributes=short))
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 1)
    world.run(11)
    assert a.learned(b)[V4] == set()
    assert a.peer(b).status().stale_until_s is None


@pytest.mark.parametrize("theirs", [0, 30, 300])
def test_the_shorter_of_both_long_times_counts(theirs: int) -> None:
    world, a, b = two(graceful_restart_s=10)
    for host, long_s in ((a, 100), (b, theirs)):
        neighbor, routes = host.neighbors[0]
        host.neighbors[0] = (_with(neighbor, long_lived_stale_s=long_s), routes)
    a.boot()
    b.boot()
    world.run_until(lambda: is_up(a, b))
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    world.run(11)
    assert (a.stale(b) == 2) == (theirs > 0)
    world.run(min(100, theirs) + 1)
    assert a.stale(b) == 0


def test_long_stale_paths_are_told_only_to_who_knows_what_they_are() -> None:
    stale = PathAttributes(next_hop=b"", communities=(LLGR_STALE,))
    for options, told in (({}, set()), (LONG, {PREFIX})):
        world, a, b = two(**options)
        neighbor, _ = b.neighbors[0]
        b.neighbors[0] = (neighbor, offer("10.2.0.0/16", attributes=stale))
        a.boot()
        b.boot()
        world.run_until(lambda a=a, b=b: a.peer(b).established and b.peer(a).established)  # type: ignore[misc]
        world.run(2)
        assert a.learned(b)[V4] == told


# End-of-RIB, and what a restarted speaker says.


def test_end_of_rib_waits_for_the_sources_also_when_the_session_is_new() -> None:
    """The agent's End-of-RIB comes when its sources are in sync; until then nothing goes."""
    world, a, b = up()
    world.kill(b)
    world.run_until(lambda: a.stale(b) == 2)
    b.boot(restarting=True, preserved=True)
    b.peer(a).set(offer())
    b.pump(b.peer(a))
    world.run_until(lambda: b.peer(a).established is not None)
    world.run(60)
    assert a.stale(b) == 2
    world.reset(a, b)
    world.run_until(lambda: b.peer(a).established is not None)
    world.run(1)
    assert not any(s.end_of_rib_received for s in a.peer(b).status().families.values())
    b.peer(a).set(offer("10.2.0.0/16"))
    b.peer(a).release_end_of_rib()
    b.pump(b.peer(a))
    world.run_until(lambda: all(
        s.end_of_rib_received for s in a.peer(b).status().families.values()
    ))  # fmt: skip
    assert a.learned(b) == {V4: {PREFIX}, Family.IPV6: set()}


def test_counts_of_messages() -> None:
    world, a, b = up(hold_time_s=9)
    world.run(30)
    ours, theirs = a.peer(b).status(), b.peer(a).status()
    assert ours.messages_sent["open"] >= 1
    assert ours.messages_received["update"] == theirs.messages_sent["update"] >= 2
    assert ours.messages_received["keepalive"] >= 9
    assert ours.messages_received["notification"] <= 1
    assert ours.malformed == {}


# AS numbers.


@pytest.mark.parametrize(
    ("asn", "wanted", "comes_up"),
    [
        ((65001, 65002), "external", True),
        ((65001, 65001), "internal", True),
        ((65001, 65001), "external", False),
        ((65001, 65002), "internal", False),
    ],
)
def test_an_as_by_its_relation(asn: tuple[int, int], wanted: str, comes_up: bool) -> None:
    world, a, b = two(asn=asn)
    neighbor, routes = a.neighbors[0]
    a.neighbors[0] = (_with(neighbor, remote_as=wanted), routes)
    a.boot()
    b.boot()
    assert a.peer(b).status().remote_as == wanted
    if comes_up:
        world.run_until(lambda: is_up(a, b))
        assert a.peer(b).status().remote_as == asn[1]
    else:
        world.run(30)
        assert a.peer(b).established is None
        assert f"AS is {asn[1]}, not {wanted}" in a.peer(b).last_error
