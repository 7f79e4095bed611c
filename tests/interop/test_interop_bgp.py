"""Our speaker with FRR, BIRD, GoBGP and ExaBGP; what they say they have is the witness."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interop_ours import Ours, two_hosts
from interop_peers import (
    DAEMONS,
    HOLD_S,
    OFFERED,
    OURS,
    OURS_V6,
    THEIRS,
    THEIRS_V6,
    Bird,
    Daemon,
    ExaBgp,
    Frr,
    GoBgp,
    Terms,
    wait,
)

from samepath.bgp.attributes import AsPath
from samepath.lab.netns import Namespace
from samepath.model.config import Bgp
from samepath.model.net import parse_prefix

pytestmark = [pytest.mark.interop, pytest.mark.netns]

EXTERNAL = Terms(65001, 65002)
INTERNAL = Terms(65001, 65001, over_ipv6=True)
OUR_OFFER = ("10.1.0.0/24", "10.1.1.0/24", "2001:db8:1::/48")


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts() as both:
        yield both


@pytest.fixture
def pair(
    lan: tuple[Namespace, Namespace], tmp_path: Path
) -> Iterator[Callable[..., tuple[Ours, Daemon]]]:
    """Makes both sides; ends them after the test."""
    made: list[Ours | Daemon] = []

    def make(kind: type[Daemon], terms: Terms, **options: bool) -> tuple[Ours, Daemon]:
        if not kind.is_installed():
            pytest.skip(f"{kind.name} is not installed")
        ours, theirs = Ours(lan[0], terms, **options), kind(lan[1], tmp_path / kind.name, terms)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for side in made:
        side.stop()


def hop(prefix: str, v4: str, v6: str) -> str:
    return v6 if ":" in prefix else v4


THEIR_ROUTES = {p: hop(p, THEIRS, THEIRS_V6) for p in OFFERED}
OUR_ROUTES = {p: hop(p, OURS, OURS_V6) for p in OUR_OFFER}


def meet(ours: Ours, theirs: Daemon) -> None:
    theirs.start()
    ours.start(*OUR_OFFER)
    wait(lambda: ours.learned() == THEIR_ROUTES, "their routes")
    wait(lambda: theirs.learned() == OUR_ROUTES, "our routes")


MakePair = Callable[..., tuple[Ours, Daemon]]
ALL = pytest.mark.parametrize("kind", DAEMONS, ids=lambda kind: kind.name)
RESTARTERS = pytest.mark.parametrize("kind", [Frr, Bird, GoBgp], ids=lambda kind: kind.name)


@ALL
@pytest.mark.parametrize("terms", [EXTERNAL, INTERNAL], ids=["external-v4", "internal-v6"])
def test_routes_come_change_and_go_until_they_say_goodbye(
    pair: MakePair, kind: type[Daemon], terms: Terms
) -> None:
    ours, theirs = pair(kind, terms)
    meet(ours, theirs)
    assert theirs.is_established()
    path = AsPath.of(terms.their_as) if terms is EXTERNAL else AsPath()
    family, nlri = parse_prefix(OFFERED[0])
    held = ours.call(lambda s: s.rib.paths(family, nlri))
    assert held is not None
    assert held.best[0].attributes.as_path == path
    assert held.best[0].external == (terms is EXTERNAL)

    ours.offer(*OUR_OFFER[1:], "10.1.7.0/24")
    wanted = {*OUR_OFFER[1:], "10.1.7.0/24"}
    wait(lambda: set(theirs.learned()) == wanted, "our change")
    theirs.withdraw(OFFERED[0])
    wait(lambda: set(ours.learned()) == set(OFFERED[1:]), "their withdrawal")
    theirs.withdraw(OFFERED[2])
    wait(lambda: set(ours.learned()) == {OFFERED[1]}, "their IPv6 withdrawal")
    theirs.announce(OFFERED[2])
    wait(lambda: set(ours.learned()) == set(OFFERED[1:]), "their announcement")
    assert ours.status().flaps == 0

    theirs.shut_down()
    wait(lambda: ours.status().flaps == 1, "their goodbye")
    assert "Cease" in ours.status().last_error
    if kind is not ExaBgp:  # which comes back at once
        assert ours.learned() == {}


@ALL
def test_silence_ends_with_the_hold_timer_and_our_goodbye_with_their_routes(
    pair: MakePair, kind: type[Daemon]
) -> None:
    ours, theirs = pair(kind, EXTERNAL)
    meet(ours, theirs)
    theirs.signal(signal.SIGSTOP)
    start = time.monotonic()
    wait(lambda: ours.learned() == {}, "hold expiry", 2 * HOLD_S)
    assert time.monotonic() - start > HOLD_S / 2
    assert "Hold timer expired" in ours.status().last_error
    theirs.signal(signal.SIGCONT)
    wait(lambda: ours.learned() == THEIR_ROUTES, "their return", 20)
    wait(lambda: theirs.learned() == OUR_ROUTES, "our return")
    config = Bgp(router_id=OURS, local_as=EXTERNAL.our_as, listen=[OURS], neighbors=[])
    ours.call(lambda s: s.reconfigure(config))
    wait(lambda: theirs.learned() == {}, "our goodbye", 2)
    assert ours.learned() == {}


def keeps(what: Callable[[], dict[str, str]], wanted: set[str]) -> Callable[[], None]:
    def look() -> None:
        assert set(what()) >= wanted

    return look


@RESTARTERS
def test_a_daemon_that_is_killed_keeps_its_paths_until_it_is_back(
    pair: MakePair, kind: type[Daemon]
) -> None:
    ours, theirs = pair(kind, Terms(65001, 65002, restarts=True))
    meet(ours, theirs)
    look = keeps(ours.learned, set(OFFERED))
    theirs.kill()
    wait(lambda: ours.stale() == len(OFFERED), "stale paths")
    look()
    theirs.start(restarted=True)

    def is_back() -> bool:
        look()
        return ours.status().is_established and ours.stale() == 0

    wait(is_back, "their return", 20)
    wait(lambda: ours.learned() == THEIR_ROUTES, "all of their routes")
    wait(lambda: theirs.learned() == OUR_ROUTES, "our routes again")


@RESTARTERS
def test_when_we_are_killed_they_keep_our_paths_until_we_are_back(
    pair: MakePair, lan: tuple[Namespace, Namespace], kind: type[Daemon]
) -> None:
    terms = Terms(65001, 65002, restarts=True)
    ours, theirs = pair(kind, terms)
    meet(ours, theirs)
    look = keeps(theirs.learned, set(OUR_OFFER))
    ours.stop(notify=False)
    wait(lambda: not theirs.is_established(), "their notice")
    look()
    again = Ours(lan[0], terms, restarted=True, forwarding_preserved=True)
    try:
        again.start(*OUR_OFFER[1:], release=False)
        wait(lambda: again.learned() == THEIR_ROUTES, "their routes again", 20)
        look()
        again.call(lambda s: s.release_end_of_rib())
        wait(lambda: set(theirs.learned()) == set(OUR_OFFER[1:]), "what we no longer offer")
    finally:
        again.stop()


def test_a_neighbour_of_a_range_connects_to_us(pair: MakePair) -> None:
    ours, theirs = pair(Bird, EXTERNAL, by_range=True)
    meet(ours, theirs)
    assert ours.status().neighbor == f"{THEIRS}/32"
