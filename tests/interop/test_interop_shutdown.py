"""Administrative shutdown with a reason, both ways. RFC 9003 (8203)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_ours import Ours, two_hosts
from interop_peers import OFFERED, Bird, Daemon, Frr, GoBgp, Terms, wait

from samepath.lab.netns import Namespace

pytestmark = [pytest.mark.interop, pytest.mark.netns]

TERMS = Terms(65001, 65002)
TEXT = "rack 7 moves, back at 15:00 — Zoë"


class FrrWithReason(Frr):
    def shut_down(self) -> None:
        self._configure(f"neighbor {TERMS.ours} shutdown message {TEXT}")

    def reason(self) -> str:
        text = self._vtysh(f"show bgp neighbors {TERMS.ours} json")
        shown = str(json.loads(text)[TERMS.ours].get("lastShutdownDescription", ""))
        return shown.encode().decode("unicode_escape").encode("latin-1").decode()


class BirdWithReason(Bird):
    def shut_down(self) -> None:
        self._birdc("disable", "ours", f'"{TEXT}"')

    def reason(self) -> str:
        """In its log; `show protocols` has the last state alone."""
        return (self.folder / "log").read_text() + self._birdc("show", "protocols", "all", "ours")


class GoBgpWithReason(GoBgp):
    def shut_down(self) -> None:
        self._gobgp("neighbor", TERMS.ours, "shutdown", "--reason", TEXT)

    def reason(self) -> str:
        return (self.folder / "log").read_text()


Kind = FrrWithReason | BirdWithReason | GoBgpWithReason
KINDS = pytest.mark.parametrize(
    "kind", [FrrWithReason, BirdWithReason, GoBgpWithReason], ids=lambda kind: kind.name
)


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("sd") as both:
        yield both


@pytest.fixture
def meeting(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[object]:
    made: list[Ours | Daemon] = []

    def meet(kind: type[Kind]) -> tuple[Ours, Kind]:
        if not kind.is_installed():
            pytest.skip(f"{kind.name} is not installed")
        ours, theirs = Ours(lan[0], TERMS), kind(lan[1], tmp_path, TERMS)
        made.extend((ours, theirs))
        theirs.start()
        ours.start("10.1.0.0/24")
        wait(lambda: set(ours.learned()) == set(OFFERED), "their routes", 20)
        wait(lambda: set(theirs.learned()) == {"10.1.0.0/24"}, "our route")
        return ours, theirs

    yield meet
    for side in made:
        side.stop()


@KINDS
def test_our_reason_is_read_there(meeting, kind: type[Kind]) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = meeting(kind)
    ours.stop(notify=True, text=TEXT)
    wait(lambda: theirs.learned() == {}, "our goodbye")
    wait(lambda: TEXT in theirs.reason(), "our reason")


@KINDS
def test_their_reason_is_read_here(meeting, kind: type[Kind]) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = meeting(kind)
    theirs.shut_down()
    wait(lambda: ours.status().flaps == 1, "their goodbye")
    assert ours.status().last_error == f"Cease: administrative shutdown ({TEXT})"
    assert ours.learned() == {}
