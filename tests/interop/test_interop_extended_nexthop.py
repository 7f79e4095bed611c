"""IPv4 prefixes with IPv6 next hops, over a session that has IPv6 alone. RFC 8950."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_ours import OurSpeaker, two_hosts
from interop_peers import (
    HOLD_S,
    OFFERED,
    OURS,
    OURS_V6,
    THEIRS,
    THEIRS_V6,
    Bird,
    Frr,
    Terms,
    wait,
)

from samepath.lab.netns import Namespace
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor

pytestmark = [pytest.mark.interop, pytest.mark.netns]

TERMS = Terms(65001, 65002, over_ipv6=True)
OUR_OFFER = ("10.1.0.0/24", "2001:db8:1::/48")


class FrrByIpv6(Frr):
    def _config(self) -> str:
        activate = f"  neighbor {OURS_V6} activate\n  neighbor {OURS_V6} soft-reconfiguration"
        networks = "".join(f"  network {p}\n" for p in OFFERED if ":" not in p)
        return f"""
router bgp {TERMS.their_as}
 bgp router-id {THEIRS}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 timers bgp 1 {HOLD_S}
 neighbor {OURS_V6} remote-as {TERMS.our_as}
 neighbor {OURS_V6} timers connect 1
 neighbor {OURS_V6} capability extended-nexthop
 address-family ipv4 unicast
{networks}{activate} inbound
 exit-address-family
 address-family ipv6 unicast
  network {OFFERED[2]}
{activate} inbound
"""


class BirdByIpv6(Bird):
    def _config(self, offered: object) -> str:
        plain = super()._config(OFFERED)
        plain = plain.replace(f"next hop address {THEIRS};", "extended next hop on;")
        assert "extended next hop" in plain
        return plain


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Namespace, Namespace]]:
    with two_hosts("nh") as both:
        for host, address in zip(both, (OURS, THEIRS), strict=True):
            host.ip("addr", "del", f"{address}/24", "dev", "eth0")
        yield both


@pytest.mark.parametrize("kind", [FrrByIpv6, BirdByIpv6], ids=lambda kind: kind.name)
@pytest.mark.parametrize("agreed", [True, False])
def test_ipv4_prefixes_by_ipv6_next_hops(
    kind: type[FrrByIpv6 | BirdByIpv6],
    agreed: bool,
    lan: tuple[Namespace, Namespace],
    tmp_path: Path,
) -> None:
    if not kind.is_installed():
        pytest.skip(f"{kind.name} is not installed")
    neighbor = Neighbor(
        address=THEIRS_V6,
        local_address=OURS_V6,
        remote_as="external",
        hold_time_s=HOLD_S,
        connect_retry_s=1,
        extended_next_hop=agreed,
        import_=Import(services=["10.2.0.0/16", "2001:db8:2::/48"]),
    )
    config = Bgp(router_id=OURS, local_as=TERMS.our_as, listen=[OURS_V6], neighbors=[neighbor])
    ours, theirs = OurSpeaker(lan[0], config), kind(lan[1], tmp_path, TERMS)
    try:
        theirs.start()
        ours.start(*OUR_OFFER)
        wait(lambda: ours.status().is_established, "a session", 20)
        wait(lambda: OUR_OFFER[1] in theirs.learned(), "our IPv6 prefix there")
        wait(lambda: OFFERED[2] in ours.learned(), "their IPv6 prefix here")
        assert ("extended next hop" in ours.status().agreed) == agreed
        if agreed:
            wait(lambda: len(ours.learned()) == len(OFFERED), "their IPv4 prefixes")
            assert {ours.learned()[p] for p in OFFERED} == {THEIRS_V6}
            wait(lambda: len(theirs.learned()) == len(OUR_OFFER), "our IPv4 prefix")
            assert theirs.learned()[OUR_OFFER[0]] == OURS_V6
        else:
            assert set(theirs.learned()) == {OUR_OFFER[1]}
            # FRR then names its router id; it must not be the IPv6 address.
            learned = ours.learned()
            assert {learned[p] for p in OFFERED[:2] if p in learned} <= {THEIRS}
        assert ours.status().flaps == 0
        assert ours.status().malformed == {}
    finally:
        ours.stop()
        theirs.stop()
