"""What BFD says of a path, and what becomes of the neighbour's paths: speakers over loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine

from samepath.bgp.adjout import Advertisement
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.transport import PeerStatus, Speaker
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, parse_address, parse_prefix

GATEWAY, NODE = "127.0.0.1", "127.0.0.2"
SILENT = "nothing was heard for the detection time"
PREFIX = "10.1.0.0/24"


class Both:
    """A gateway that listens and a node that serves one prefix."""

    def __init__(self) -> None:
        everything = Import(services=["10.0.0.0/8"])
        self.gateway = Speaker(
            Bgp(
                router_id="10.0.0.1",
                local_as=65000,
                listen=[GATEWAY],
                listen_port=0,
                next_hops=["192.0.2.1"],
                neighbors=[
                    Neighbor(range="127.0.0.0/16", remote_as=65000, import_=everything),
                ],
            ),
            wake=lambda: None,
        )

    async def start(self) -> None:
        await self.gateway.start()
        self.node = Speaker(
            Bgp(
                router_id="10.0.0.2",
                local_as=65000,
                next_hops=["192.0.2.2"],
                neighbors=[
                    Neighbor(
                        address=GATEWAY,
                        port=self.gateway.ports[GATEWAY],
                        local_address=NODE,
                        remote_as=65000,
                        connect_retry_s=60,
                    )
                ],
            ),
            wake=lambda: None,
        )
        await self.node.start()
        family, nlri = parse_prefix(PREFIX)
        own = Advertisement(PathAttributes(next_hop=b""))
        self.node.set(GATEWAY, {family: {nlri: own}})
        self.node.release_end_of_rib()
        await until(lambda: self.paths() == 1 and self.status().is_established)

    async def stop(self) -> None:
        await self.node.stop(notify=False)
        await self.gateway.stop(notify=False)

    def paths(self) -> int:
        return len(self.gateway.rib.items(Family.IPV4))

    def status(self) -> PeerStatus:
        (status,) = self.gateway.peers()
        return status

    def lost(self, *, forwarding: bool) -> None:
        self.gateway.path_lost(parse_address(NODE), SILENT, forwarding=forwarding)

    async def close_the_connection(self) -> None:
        """As a node's daemon that is killed: its paths stay, stale."""
        await self.node.stop(notify=False)
        await until(lambda: self.status().stale_until_s is not None)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def run(main: Callable[[Both], Coroutine[None, None, None]]) -> None:
    @contextlib.asynccontextmanager
    async def made() -> AsyncIterator[Both]:
        both = Both()
        await both.start()
        try:
            yield both
        finally:
            await both.stop()

    async def limited() -> None:
        async with asyncio.timeout(20), made() as both:
            await main(both)

    asyncio.run(limited())


def test_forwarding_lost_takes_the_paths_at_once_though_they_could_be_kept() -> None:
    async def main(both: Both) -> None:
        both.lost(forwarding=True)
        await until(lambda: both.paths() == 0)
        assert both.status().stale_until_s is None
        assert both.status().last_error == f"BFD is down: {SILENT}"
        assert not both.status().is_established
        await until(lambda: both.node.peers()[0].last_error == "Cease: bfd down")

    run(main)


def test_forwarding_lost_wins_over_a_restart_in_progress() -> None:
    async def main(both: Both) -> None:
        await both.close_the_connection()
        assert both.paths() == 1
        both.lost(forwarding=True)
        await until(lambda: both.paths() == 0)
        assert both.status().stale_until_s is None

    run(main)


def test_bfd_that_shares_its_fate_with_the_daemon_leaves_it_to_graceful_restart() -> None:
    async def main(both: Both) -> None:
        both.lost(forwarding=False)
        await until(lambda: both.status().stale_until_s is not None)
        assert both.paths() == 1
        assert both.status().last_error == f"BFD is down: {SILENT}"
        both.lost(forwarding=False)
        await asyncio.sleep(0.05)
        assert both.paths() == 1

    run(main)


def test_what_is_said_of_strangers_is_nothing() -> None:
    async def main(both: Both) -> None:
        both.gateway.path_lost(parse_address("127.0.0.9"), SILENT, forwarding=True)
        await asyncio.sleep(0.05)
        assert both.status().is_established

    run(main)


def test_the_address_that_a_neighbour_has_its_session_with() -> None:
    async def main(both: Both) -> None:
        assert both.status().local_address == parse_address(GATEWAY)
        both.lost(forwarding=True)
        await until(lambda: both.status().local_address is None)

    run(main)


def test_news_grow_with_neighbours_and_not_with_routes() -> None:
    async def main(both: Both) -> None:
        await until(lambda: both.status().families[Family.IPV4].end_of_rib_received)
        await until(lambda: both.status().families[Family.IPV6].end_of_rib_received)
        before = both.gateway.news
        family, nlri = parse_prefix("10.2.0.0/24")
        own = Advertisement(PathAttributes(next_hop=b""))
        both.node.set(GATEWAY, {family: {nlri: own}})
        await until(lambda: both.gateway.rib.paths(family, nlri) is not None)
        assert both.gateway.news == before
        both.lost(forwarding=True)
        assert both.gateway.news > before

    run(main)
