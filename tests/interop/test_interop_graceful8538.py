"""Graceful restart after a NOTIFICATION or an expired hold timer, where both sides want it.

FRR 8.4 and GoBGP 3.10 speak RFC 8538; BIRD 2.0.12 does not, so that with it all is as by default.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from interop_ours import Ours, two_hosts
from interop_peers import HOLD_S, OFFERED, Bird, Daemon, Frr, GoBgp, Terms, wait

from samepath.bgp.errors import Cease, Code, PeerError
from samepath.bgp.events import Reason
from samepath.bgp.transport import Speaker
from samepath.lab.netns import Namespace

pytestmark = [pytest.mark.interop, pytest.mark.netns]

TERMS = Terms(65001, 65002, restarts=True)
OUR_OFFER = ("10.1.0.0/24", "2001:db8:1::/48")


class FrrKeeps(Frr):
    def _config(self) -> str:
        plain = super()._config()
        return plain.replace(
            " bgp graceful-restart\n", " bgp graceful-restart\n bgp graceful-restart notification\n"
        )


class GoBgpKeeps(GoBgp):
    def _config(self) -> str:
        plain = super()._config()
        return plain.replace(
            "restart-time = 20\n", "restart-time = 20\n    notification-enabled = true\n"
        )


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("nf") as both:
        yield both


class OursKeeps(Ours):
    def __init__(self, namespace: Namespace, keeps: bool) -> None:
        super().__init__(namespace, TERMS)
        (neighbor,) = self.config.neighbors
        neighbor = msgspec.structs.replace(neighbor, graceful_restart_notification=keeps)
        self.config = msgspec.structs.replace(self.config, neighbors=[neighbor])


@pytest.fixture
def meeting(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[object]:
    made: list[Ours | Daemon] = []

    def meet(kind: type[Daemon], keeps: bool) -> tuple[OursKeeps, Daemon]:
        if not kind.is_installed():
            pytest.skip(f"{kind.name} is not installed")
        ours, theirs = OursKeeps(lan[0], keeps), kind(lan[1], tmp_path, TERMS)
        made.extend((ours, theirs))
        theirs.start()
        ours.start(*OUR_OFFER)
        wait(lambda: set(ours.learned()) == set(OFFERED), "their routes", 20)
        wait(lambda: set(theirs.learned()) == set(OUR_OFFER), "our routes")
        return ours, theirs

    yield meet
    for side in made:
        side.stop()


AGREED = "graceful restart after NOTIFICATION"


@pytest.mark.parametrize("kind", [FrrKeeps, GoBgpKeeps], ids=lambda kind: kind.name)
@pytest.mark.parametrize("keeps", [True, False])
def test_silence(meeting, kind: type[Daemon], keeps: bool) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = meeting(kind, keeps)
    assert (AGREED in ours.status().agreed) is keeps
    theirs.signal(signal.SIGSTOP)
    wait(lambda: not ours.status().is_established, "hold expiry", 3 * HOLD_S)
    assert ours.stale() == (len(OFFERED) if keeps else 0)
    assert set(ours.learned()) == (set(OFFERED) if keeps else set())
    theirs.signal(signal.SIGCONT)
    wait(lambda: ours.status().is_established and ours.stale() == 0, "their return", 20)
    wait(lambda: set(ours.learned()) == set(OFFERED), "their routes again")


def reset(error: PeerError) -> object:
    def there(speaker: Speaker) -> None:
        (peer,) = speaker._peers.values()
        assert peer.established is not None
        peer.established.drop(speaker._loop.time(), error, Reason.NOTIFICATION_SENT)
        speaker.schedule(peer)

    return there


@pytest.mark.parametrize("kind", [FrrKeeps, GoBgpKeeps], ids=lambda kind: kind.name)
def test_our_notification_keeps_our_paths_there_and_theirs_here(  # type: ignore[no-untyped-def]
    meeting, kind: type[Daemon]
) -> None:
    ours, theirs = meeting(kind, True)
    ours.call(reset(PeerError(Code.CEASE, Cease.OTHER_CONFIGURATION_CHANGE)))
    wait(lambda: not theirs.is_established(), "their notice")
    assert set(theirs.learned()) == set(OUR_OFFER) or kind is GoBgpKeeps
    assert set(ours.learned()) == set(OFFERED)
    wait(lambda: ours.status().is_established, "a new session", 20)
    wait(lambda: set(theirs.learned()) == set(OUR_OFFER), "our routes")
    wait(lambda: ours.stale() == 0, "their End-of-RIB")
    assert set(ours.learned()) == set(OFFERED)


@pytest.mark.parametrize("kind", [FrrKeeps, GoBgpKeeps], ids=lambda kind: kind.name)
def test_our_goodbye_is_a_hard_reset(meeting, kind: type[Daemon]) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = meeting(kind, True)
    ours.stop(notify=True, text="moving house")
    wait(lambda: theirs.learned() == {}, "no path of ours")
    if kind is FrrKeeps:
        text = theirs._vtysh(f"show bgp neighbors {TERMS.ours} json")  # type: ignore[attr-defined]
        shown = json.loads(text)[TERMS.ours]
        assert shown["lastNotificationHardReset"]
        assert shown["lastShutdownDescription"] == "moving house"


@pytest.mark.parametrize("kind", [FrrKeeps, GoBgpKeeps], ids=lambda kind: kind.name)
def test_their_shutdown(meeting, kind: type[Daemon]) -> None:  # type: ignore[no-untyped-def]
    """FRR makes a hard reset of it. GoBGP does not, so its paths stay for its restart time."""
    ours, theirs = meeting(kind, True)
    theirs.shut_down()
    wait(lambda: ours.status().flaps == 1, "their goodbye")
    said = ours.status().last_error
    assert ("hard reset" in said) == (kind is FrrKeeps), said
    assert set(ours.learned()) == (set() if kind is FrrKeeps else set(OFFERED))


def test_bird_does_not_know_it_and_all_is_as_by_default(meeting) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = meeting(Bird, True)
    assert AGREED not in ours.status().agreed
    theirs.signal(signal.SIGSTOP)
    wait(lambda: not ours.status().is_established, "hold expiry", 3 * HOLD_S)
    assert ours.learned() == {}
