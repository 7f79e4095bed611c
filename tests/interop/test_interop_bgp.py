"""Our speaker with FRR, BIRD, GoBGP and ExaBGP; what they say they have is the witness."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
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

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.transport import PeerStatus, Speaker
from samepath.lab.netns import Namespace, veth
from samepath.model.config import Bgp, Import, Neighbor
from samepath.model.net import Family, address_text, parse_prefix, prefix_text
from samepath.netlink.socket import in_namespace

pytestmark = [pytest.mark.interop, pytest.mark.netns]

T = TypeVar("T")
EXTERNAL = Terms(65001, 65002)
INTERNAL = Terms(65001, 65001, over_ipv6=True)
OUR_OFFER = ("10.1.0.0/24", "10.1.1.0/24", "2001:db8:1::/48")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    names = [f"spt-{os.getpid()}-io{next(_numbers)}" for _ in range(2)]
    with Namespace(names[0]) as ours, Namespace(names[1]) as theirs:
        for host in (ours, theirs):
            host.sysctl(net__ipv6__conf__default__accept_dad=0)
        veth(ours, "eth0", theirs, "eth0")
        for host, v4, v6 in ((ours, OURS, OURS_V6), (theirs, THEIRS, THEIRS_V6)):
            host.ip("addr", "add", f"{v4}/24", "dev", "eth0")
            host.ip("addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
        yield ours, theirs


def routes(*prefixes: str) -> Routes:
    offered: dict[Family, dict[bytes, Advertisement]] = {f: {} for f in Family}
    for text in prefixes:
        family, nlri = parse_prefix(text)
        offered[family][nlri] = Advertisement(PathAttributes(next_hop=b""))
    return offered


class Ours:
    """Our speaker, in a thread of its own within its namespace."""

    def __init__(
        self, namespace: Namespace, terms: Terms, *, by_range: bool = False, **options: bool
    ) -> None:
        self.terms = terms
        self._options = options
        self._ready = threading.Event()
        where = (
            {"range": f"{terms.theirs}/{128 if terms.over_ipv6 else 32}"}
            if by_range
            else {"address": terms.theirs, "local_address": terms.ours}
        )
        neighbor = Neighbor(
            remote_as=terms.their_as,
            hold_time_s=HOLD_S,
            connect_retry_s=1,
            import_=Import(services=["10.2.0.0/16"], pods=["2001:db8:2::/48"]),
            **where,  # type: ignore[arg-type]
        )
        self.name = neighbor.name
        self.config = Bgp(
            router_id=OURS,
            local_as=terms.our_as,
            listen=[terms.ours],
            next_hops=[OURS, OURS_V6],
            neighbors=[neighbor],
        )
        self._thread = threading.Thread(target=lambda: in_namespace(namespace.path, self._run))

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.speaker = Speaker(self.config, wake=lambda: None, **self._options)
        await self.speaker.start()
        self._ready.set()
        await self._end.wait()
        await self.speaker.stop(notify=self._notify)

    def start(self, *prefixes: str, release: bool = True) -> Ours:
        self._thread.start()
        assert self._ready.wait(5)
        self.offer(*prefixes)
        if release:
            self.call(lambda s: s.release_end_of_rib())
        return self

    def stop(self, *, notify: bool = True) -> None:
        if self._thread.is_alive():
            self._notify = notify
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def call(self, what: Callable[[Speaker], T]) -> T:
        async def there() -> T:
            return what(self.speaker)

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(5)

    def offer(self, *prefixes: str) -> None:
        self.call(lambda s: s.set(self.name, routes(*prefixes)))

    def learned(self) -> dict[str, str]:
        def there(speaker: Speaker) -> dict[str, str]:
            return {
                prefix_text(family, nlri): address_text(held.best[0].attributes.next_hop)
                for family in Family
                for nlri, held in speaker.rib.items(family)
            }

        return self.call(there)

    def status(self) -> PeerStatus:
        (status,) = self.call(lambda s: s.peers())
        return status

    def stale(self) -> int:
        return sum(f.stale for f in self.status().families.values())


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
    # FRR 8.4 sends End-of-RIB for IPv6 before its IPv6 routes: then they are gone for a while.
    look = keeps(ours.learned, set(OFFERED[:2] if kind is Frr else OFFERED))
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
