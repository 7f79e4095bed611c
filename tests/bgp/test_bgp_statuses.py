"""Statuses that are kept: as a new look would give them, and new only for who did something."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from test_bgp_transport import (
    GATEWAY,
    NODES,
    Woken,
    gateway_config,
    node_config,
    routes,
    run,
    speaker,
    up,
)

from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.peer import Local, Peer
from samepath.bgp.policy import ImportRule, Own, Reason
from samepath.bgp.prefix_limits import PrefixLimits
from samepath.bgp.rib import Rib
from samepath.bgp.statuses import Statuses
from samepath.bgp.tcp_md5 import Dropped
from samepath.bgp.transport import PeerStatus, Speaker
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, make_nlri, parse_address

V4 = Family.IPV4


def anew(of: Speaker) -> tuple[PeerStatus, ...]:
    """As if nothing had been kept."""
    of._statuses._kept.clear()
    return of.peers()


def test_what_is_kept_is_what_a_new_look_gives() -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            woken = Woken()
            gateway = await stack.enter_async_context(speaker(gateway_config(NODES), woken))
            nodes = [
                await stack.enter_async_context(speaker(node_config(n, gateway), Woken()))
                for n in (2, 3)
            ]

            looks = 0

            def same() -> bool:
                nonlocal looks
                looks += 1
                kept = gateway.peers()
                assert kept == anew(gateway)
                return True

            def accepted() -> list[int]:
                assert same()
                return [status.families[V4].accepted for status in gateway.peers()]

            await woken.until(lambda: same() and up(gateway) and len(gateway.peers()) == 2)
            nodes[0].set(GATEWAY, routes(3))
            await woken.until(lambda: accepted() == [3, 0])
            gateway.set(gateway.peers()[0].neighbor, routes(2, first=100))
            await woken.until(lambda: gateway.peers()[1].families[V4].advertised == 2)
            same()
            nodes[0].set(GATEWAY, routes(1))
            nodes[1].set(GATEWAY, routes(2))
            await woken.until(lambda: accepted() == [1, 2])
            fewer = msgspec.structs.replace(
                NODES, import_=Import(services=["10.0.0.0/32"], max_prefixes=1)
            )
            gateway.reconfigure(gateway_config(fewer))
            await woken.until(lambda: accepted() == [1, 1])
            await nodes[0].stop(notify=True, text="enough")
            await woken.until(lambda: same() and not gateway.peers()[0].is_established)
            assert "enough" in gateway.peers()[0].last_error
            assert looks > 5

    run(main)


def test_a_look_costs_only_those_who_did_something() -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            woken = Woken()
            gateway = await stack.enter_async_context(speaker(gateway_config(NODES), woken))
            nodes = [
                await stack.enter_async_context(speaker(node_config(n, gateway), Woken()))
                for n in (2, 3)
            ]
            await woken.until(lambda: up(gateway) and len(gateway.peers()) == 2)
            await asyncio.sleep(0.05)  # KEEPALIVEs and End-of-RIBs on their way
            before = gateway.peers()
            nodes[0].set(GATEWAY, routes(3))
            await woken.until(lambda: gateway.peers()[0].families[V4].accepted == 3)
            after = gateway.peers()
            assert after[0] != before[0]
            assert after[1] is before[1]

    run(main)


def test_what_the_rib_counts_otherwise_without_the_neighbour() -> None:
    """A pod block that becomes another's is refused to whom it was."""
    a, b = parse_address("192.0.2.1"), parse_address("192.0.2.2")
    terms = Import(pods=["10.244.0.0/16"], next_hop="peer")
    rib, rule = Rib(Own(asn=65000, router_id=1, cluster_id=1)), ImportRule(terms)
    local = Local(65000, 1, {})
    peers = []
    for address in (a, b):
        neighbor = Neighbor(address="192.0.2.1", remote_as=65001, import_=terms)
        peers.append(Peer(address, neighbor, local, rib, rule, now=0.0))
        rib.peer_up(address, external=True, router_id=address[3], rule=rule, asn=65001)
    statuses = Statuses(rib, PrefixLimits())

    def look() -> tuple[PeerStatus, ...]:
        return statuses.of(peers, local_as=65000, drops=Dropped(), now=0.0)

    block = make_nlri(parse_address("10.244.1.0"), 24)
    rib.announce(a, V4, [block], PathAttributes(next_hop=a, as_path=AsPath.of(65001)))
    assert [s.families[V4].accepted for s in look()] == [1, 0]
    assert look()[0] is look()[0]
    rib.bind({(V4, block): b})
    assert [s.families[V4].accepted for s in look()] == [0, 0]
    assert look()[0].refused_for == {Reason.BLOCK_OF_ANOTHER: 1}


def test_drops_of_the_kernel_are_in_everybodys_hints() -> None:
    rib, terms = Rib(Own(asn=65000, router_id=1, cluster_id=1)), Import()
    neighbor = Neighbor(
        address="192.0.2.1", remote_as=65001, import_=terms, password_file="/nowhere"
    )
    rule = ImportRule(terms)
    peer = Peer(b"\xc0\x00\x02\x01", neighbor, Local(65000, 1, {}), rib, rule, now=0.0)
    statuses = Statuses(rib, PrefixLimits())
    (before,) = statuses.of([peer], local_as=65000, drops=Dropped(), now=0.0)
    (after,) = statuses.of([peer], local_as=65000, drops=Dropped(wrong=3), now=0.0)
    assert "3 with a wrong TCP-MD5 signature" not in str(before.hints)
    assert "3 with a wrong TCP-MD5 signature" in str(after.hints)
