"""Long-lived graceful restart with FRR, BIRD and GoBGP, in both roles. RFC 9494."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from interop_ours import Ours, two_hosts
from interop_peers import OFFERED, Bird, Daemon, Frr, GoBgp, Terms, wait

from samepath.bgp.attributes import LLGR_STALE
from samepath.lab.netns import Namespace
from samepath.model.net import parse_prefix

pytestmark = [pytest.mark.interop, pytest.mark.netns]

TERMS = Terms(65001, 65001, restarts=True)
OUR_OFFER = ("10.1.0.0/24", "2001:db8:1::/48")
RESTART_S, LONG_S = 2, 6


class FrrLong(Frr):
    def _config(self) -> str:
        return (
            super()
            ._config()
            .replace(
                " bgp graceful-restart\n",
                f" bgp graceful-restart\n bgp graceful-restart restart-time {RESTART_S}\n"
                f" bgp long-lived-graceful-restart stale-time {LONG_S}\n",
            )
        )

    def is_stale_for_long(self, prefix: str) -> bool:
        text = self._vtysh(f"show bgp ipv4 unicast {prefix} json")
        return "llgr-stale" in text


class BirdLong(Bird):
    def _config(self, offered: object) -> str:
        return (
            super()
            ._config(OFFERED)
            .replace(
                "graceful restart on;",
                f"graceful restart on; graceful restart time {RESTART_S};"
                f" long lived graceful restart on; long lived stale time {LONG_S};",
            )
        )

    def is_stale_for_long(self, prefix: str) -> bool:
        text = self._birdc("show", "route", "protocol", "ours", prefix, "all")
        return "(65535,6)" in text or "(65535, 6)" in text


class GoBgpLong(GoBgp):
    def _config(self) -> str:
        return (
            super()
            ._config()
            .replace(
                "restart-time = 20\n",
                f"restart-time = {RESTART_S}\n    long-lived-enabled = true\n",
            )
            .replace(
                "    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n",
                "    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n"
                "    [neighbors.afi-safis.long-lived-graceful-restart.config]\n"
                f"      enabled = true\n      restart-time = {LONG_S}\n",
            )
        )

    def is_stale_for_long(self, prefix: str) -> bool:
        text = self._gobgp("global", "rib", prefix)
        return "llgr-stale" in text.lower()


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("ll") as both:
        yield both


class OursLong(Ours):
    def __init__(self, namespace: Namespace, **options: bool) -> None:
        super().__init__(namespace, TERMS, **options)
        (neighbor,) = self.config.neighbors
        neighbor = msgspec.structs.replace(
            neighbor, graceful_restart_s=RESTART_S, long_lived_stale_s=LONG_S
        )
        self.config = msgspec.structs.replace(self.config, neighbors=[neighbor])

    def is_stale_for_long(self, prefix: str) -> bool:
        held = self.call(lambda s: s.rib.paths(*parse_prefix(prefix)))
        return held is not None and held.best[0].attributes.has(LLGR_STALE)


Long = FrrLong | BirdLong | GoBgpLong
Meet = Callable[[type[Long]], tuple[OursLong, Long]]


@pytest.fixture
def meeting(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[Meet]:
    made: list[Ours | Daemon] = []

    def meet(kind: type[Long]) -> tuple[OursLong, Long]:
        if not kind.is_installed():
            pytest.skip(f"{kind.name} is not installed")
        ours, theirs = OursLong(lan[0]), kind(lan[1], tmp_path, TERMS)
        made.extend((ours, theirs))
        theirs.start()
        ours.start(*OUR_OFFER)
        wait(lambda: set(ours.learned()) == set(OFFERED), "their routes", 20)
        wait(lambda: set(theirs.learned()) == set(OUR_OFFER), "our routes")
        assert "long-lived graceful restart" in ours.status().agreed
        return ours, theirs

    yield meet
    for side in made:
        side.stop()


KINDS = pytest.mark.parametrize("kind", [FrrLong, BirdLong, GoBgpLong], ids=lambda kind: kind.name)


@KINDS
def test_their_paths_stay_for_long_and_then_go(meeting: Meet, kind: type[Long]) -> None:
    ours, theirs = meeting(kind)
    theirs.kill()
    wait(lambda: ours.stale() == len(OFFERED), "stale paths")
    assert not ours.is_stale_for_long(OFFERED[0])
    wait(lambda: ours.is_stale_for_long(OFFERED[0]), "the restart time")
    assert ours.stale() == len(OFFERED)
    wait(lambda: ours.learned() == {}, "the long-lived stale time")


@KINDS
def test_they_come_back_within_the_long_time(meeting: Meet, kind: type[Long]) -> None:
    ours, theirs = meeting(kind)
    theirs.kill()
    wait(lambda: ours.is_stale_for_long(OFFERED[0]), "the restart time", 20)
    theirs.start(restarted=True)
    wait(lambda: ours.status().is_established and ours.stale() == 0, "their return", 30)
    wait(lambda: set(ours.learned()) == set(OFFERED), "their routes")
    assert not ours.is_stale_for_long(OFFERED[0])


@KINDS
def test_our_paths_stay_there_for_long(meeting: Meet, kind: type[Long]) -> None:
    ours, theirs = meeting(kind)
    ours.stop(notify=False)
    wait(lambda: not theirs.is_established(), "their notice")
    wait(lambda: theirs.is_stale_for_long(OUR_OFFER[0]), "the restart time", 20)
