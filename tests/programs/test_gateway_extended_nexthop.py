"""IPv4 services whose nodes are reached by IPv6 (RFC 8950), down to the packet."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gateway_stage import SERVICE, SERVICE6, Peer, Stage, eventually

from samepath.hashing.table import Member, build
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import parse_address

pytestmark = pytest.mark.netns

OURS = "fd00:9::fe"


class Ipv6Stage(Stage):
    """Nodes 1 and 2 speak with the gateway over IPv6 alone, node 3 over IPv4."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "x")
        by_ipv4, upstream = self.config.neighbors
        by_ipv6 = msgspec.structs.replace(by_ipv4, range="fd00:9::/64", extended_next_hop=True)
        self.config = msgspec.structs.replace(
            self.config,
            listen=[*self.config.listen, OURS],
            neighbors=[by_ipv4, by_ipv6, upstream],
        )

    def node_by_ipv6(self, number: int) -> Peer:
        own = f"fd00:9::{number:x}"
        neighbor = Neighbor(
            address=OURS,
            local_address=own,
            remote_as="internal",
            hold_time_s=3,
            connect_retry_s=1,
            extended_next_hop=True,
            import_=Import(routes=["0.0.0.0/0", "::/0"]),
        )
        config = Bgp(router_id=f"10.9.0.{number}", local_as=64512, neighbors=[neighbor])
        return self._peer(f"n{number}", self.nodes[number], config)


def members(*texts: str) -> list[Member]:
    return [Member(parse_address(text)) for text in texts]


def owned_by(stage: Stage) -> set[bytes]:
    owners = stage.owners()
    return set(owners.addresses()) if owners is not None else set()


def accepted(stage: Stage, address: str) -> int:
    """Prefixes, from a neighbour that is established."""
    known = [p for p in stage.status()["peers"] if p["address"] == address]
    return sum(f["accepted"] for p in known for f in p["families"])


def test_ipv4_services_by_ipv6_next_hops_and_both_beside_each_other(tmp_path: Path) -> None:
    stage = Ipv6Stage(tmp_path)
    stage.create()
    try:
        for node in stage.nodes.values():
            node.ip("addr", "add", SERVICE, "dev", "lo")
            node.ip("route", "add", "default", "via", "10.9.0.254")
        stage.upstream.ip("route", "add", SERVICE, "via", "10.8.0.2")
        stage.start()
        for number in (1, 2):
            stage.node_by_ipv6(number).offer({SERVICE: {}, SERVICE6: {}})
        two = build(members("fd00:9::1", "fd00:9::2"), stage.config.buckets)
        eventually(lambda: stage.owners() == two and stage.owners(SERVICE6) == two)
        eventually(stage.settled)
        shown = stage.gateway.ip("route", "get", "192.0.2.1")
        assert "via inet6 fd00:9::" in shown
        stage.upstream.run("ping", "-c", "3", "-i", "0.2", "-W", "2", "192.0.2.1")

        # A third one, known by its IPv4 address, in the same resilient group.
        stage.node(3).offer({SERVICE: {}})
        eventually(lambda: accepted(stage, "10.9.0.3") == 1)
        stage.peers["n1"].offer({})
        both = {parse_address("fd00:9::2"), parse_address("10.9.0.3")}
        eventually(lambda: owned_by(stage) == both)
        stage.peers["n2"].offer({})

        eventually(lambda: owned_by(stage) == {parse_address("10.9.0.3")})
        stage.upstream.run("ping", "-c", "3", "-i", "0.2", "-W", "2", "192.0.2.1")
    finally:
        stage.delete()
