"""TCP-MD5 and GTSM with FRR, BIRD, GoBGP and ExaBGP: up with the right terms, never with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from interop_ours import Ours, two_hosts
from interop_peers import OFFERED, Bird, Daemon, ExaBgp, Frr, GoBgp, Terms, wait

from samepath.bgp.tcp_md5 import Dropped, dropped
from samepath.lab.netns import Namespace
from samepath.netlink.socket import in_namespace

pytestmark = [pytest.mark.interop, pytest.mark.netns]

SECRET = "a secret of 22 octets"
OFFER = "10.1.0.0/24"
V4, V6 = Terms(65001, 65002), Terms(65001, 65001, over_ipv6=True)


class GuardedFrr(Frr):
    password, gtsm = "", False

    def _config(self) -> str:
        peer = self.terms.ours
        more = f" neighbor {peer} password {self.password}\n" if self.password else ""
        more += f" neighbor {peer} ttl-security hops 1\n" if self.gtsm else ""
        return super()._config().replace(f" neighbor {peer} timers connect", f"{more} neighbor "
                                         f"{peer} timers connect")  # fmt: skip


class GuardedBird(Bird):
    password, gtsm = "", False

    def _config(self, offered: Any) -> str:
        more = f'  password "{self.password}";\n' if self.password else ""
        more += "  ttl security on;\n" if self.gtsm else ""
        return super()._config(offered).replace("  graceful restart on;\n", more)


class GuardedGoBgp(GoBgp):
    password, gtsm = "", False

    def _config(self) -> str:
        more = f'    auth-password = "{self.password}"\n' if self.password else ""
        if self.gtsm:
            more += "  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255\n"
        timers = "  [neighbors.timers.config]\n"
        return super()._config().replace(timers, more + timers)


class GuardedExaBgp(ExaBgp):
    password, gtsm = "", False

    def _config(self, script: Path) -> str:
        more = f'  md5-password "{self.password}";\n' if self.password else ""
        more += "  incoming-ttl 255;\n  outgoing-ttl 255;\n" if self.gtsm else ""
        return super()._config(script).replace("  capability {", f"{more}  capability {{")


ALL = pytest.mark.parametrize(
    "kind", [GuardedFrr, GuardedBird, GuardedGoBgp, GuardedExaBgp], ids=lambda k: k.name
)
Make = Callable[..., tuple[Ours, Any]]


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("md5") as hosts:
        yield hosts


@pytest.fixture
def pair(lan: tuple[Namespace, Namespace], tmp_path: Path) -> Iterator[Make]:
    """Both sides, running; `password` is ours, and theirs unless `theirs` says otherwise."""
    made: list[Ours | Daemon] = []

    def make(
        kind: type[Any], terms: Terms, *, password: str = "", theirs: str | None = None,
        gtsm: bool = False, ours_gtsm: bool | None = None, by_range: bool = False,
    ) -> tuple[Ours, Any]:  # fmt: skip
        if not kind.is_installed():
            pytest.skip(f"{kind.name} is not installed")
        ours = Ours(lan[0], terms, by_range=by_range)
        changes: dict[str, Any] = {"ttl_security": gtsm if ours_gtsm is None else ours_gtsm}
        if password:
            path = tmp_path / "password"
            path.write_text(password + "\n")
            path.chmod(0o600)
            changes["password_file"] = str(path)
        (neighbor,) = ours.config.neighbors
        ours.config.neighbors[:] = [msgspec.structs.replace(neighbor, **changes)]
        daemon = kind(lan[1], tmp_path / kind.name, terms)
        daemon.password = password if theirs is None else theirs
        daemon.gtsm = gtsm
        made.extend((ours, daemon))
        daemon.start()
        ours.start(OFFER)
        return ours, daemon

    yield make
    for side in made:
        side.stop()


def drops(host: Namespace) -> Dropped:
    return in_namespace(host.path, dropped)


@ALL
@pytest.mark.parametrize("terms", [V4, V6], ids=["external-v4", "internal-v6"])
def test_up_with_the_same_password(pair: Make, kind: type[Any], terms: Terms) -> None:
    ours, theirs = pair(kind, terms, password=SECRET.replace(" ", "-"))
    wait(lambda: set(ours.learned()) == set(OFFERED), "their routes")
    wait(lambda: OFFER in theirs.learned(), "our route")
    assert ours.status().protection == ("TCP-MD5",)


@ALL
@pytest.mark.parametrize("terms", [V4, V6], ids=["external-v4", "internal-v6"])
@pytest.mark.parametrize("wrong", ["another", ""], ids=["wrong", "none"])
def test_never_up_with_another_password(
    pair: Make, lan: tuple[Namespace, Namespace], kind: type[Any], terms: Terms, wrong: str
) -> None:
    """Seen until both sides have tried and been dropped, several times. ExaBGP does not listen."""
    before = [drops(host) for host in lan]
    ours, theirs = pair(kind, terms, password="right", theirs=wrong)

    def tried() -> bool:
        here, there = (drops(host).since(b) for host, b in zip(lan, before, strict=True))
        theirs_dropped = there.wrong + there.unexpected
        return here.wrong + here.unsigned >= 2 and (theirs_dropped >= 2 or kind is GuardedExaBgp)

    wait(tried, "attempts of both sides", 40)
    assert not ours.status().is_established
    assert not theirs.is_established()
    wait(lambda: ours.status().hints or kind is GuardedExaBgp, "a hint")
    if kind is not GuardedExaBgp:  # whose port is closed to us
        assert "not the same on both sides looks like no answer" in ours.status().hints[0]


def test_a_range_with_a_password(pair: Make) -> None:
    ours, theirs = pair(GuardedBird, V4, password="of-all-nodes", by_range=True)
    wait(lambda: set(ours.learned()) == set(OFFERED), "their routes")
    wait(lambda: OFFER in theirs.learned(), "our route")


@ALL
@pytest.mark.parametrize(
    "terms", [V4, Terms(65001, 65002, over_ipv6=True)], ids=["external-v4", "external-v6"]
)
def test_ttl_security(pair: Make, kind: type[Any], terms: Terms) -> None:
    ours, theirs = pair(kind, terms, gtsm=True)
    wait(lambda: set(ours.learned()) == set(OFFERED), "their routes")
    wait(lambda: OFFER in theirs.learned(), "our route")


def test_who_does_not_send_with_ttl_255_does_not_come_up(pair: Make) -> None:
    ours, theirs = pair(GuardedBird, V4, ours_gtsm=True)
    wait(lambda: sum(ours.call(lambda s: dict(s.turned_away)).values()), "BIRD's attempt")
    assert not ours.status().is_established
    assert not theirs.is_established()
    assert any("TTL 255" in hint for hint in ours.status().hints)
