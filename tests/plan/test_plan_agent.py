"""What a node advertises, and which routes it takes."""

from __future__ import annotations

from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, PathAttributes
from samepath.bgp.decision import Path
from samepath.bgp.rib import PathSet
from samepath.model.cluster import Node, make_cluster
from samepath.model.config import AgentConfig
from samepath.model.neighbor import Kind
from samepath.model.net import Family, host_nlri, parse_address, parse_prefix, prefix_text
from samepath.plan.advertising import Terms
from samepath.plan.agent import Learned, advertisements, learned, own_blocks
from samepath.plan.services import State

A = parse_address
BLOCK4, BLOCK6 = parse_prefix("10.244.1.0/24"), parse_prefix("fd00:1::/64")
GW1, GW2, N2, N3 = A("10.0.0.1"), A("10.0.0.2"), A("10.0.0.12"), A("10.0.0.13")


def test_offers_and_blocks_become_routes() -> None:
    services = {
        parse_prefix("203.0.113.10"): Terms(State.ACTIVE, 3),
        parse_prefix("2001:db8::10"): Terms(State.DRAINING, 1),
    }
    routes = advertisements(services, [BLOCK4, BLOCK6], 65000)
    active = routes[Family.IPV4][host_nlri(A("203.0.113.10"))].attributes
    assert active.link_bandwidth == 3 * 125_000
    assert not active.has(GRACEFUL_SHUTDOWN)
    assert active.next_hop == b""
    drains = routes[Family.IPV6][host_nlri(A("2001:db8::10"))].attributes
    assert drains.has(GRACEFUL_SHUTDOWN)
    assert drains.link_bandwidth == 125_000
    for family, nlri in (BLOCK4, BLOCK6):
        assert routes[family][nlri].attributes == PathAttributes(next_hop=b"")
    assert sum(map(len, routes.values())) == 4


def path(peer: bytes, next_hop: bytes, kind: Kind, *, drains: bool = False) -> Path:
    communities = (GRACEFUL_SHUTDOWN,) if drains else ()
    return Path(peer, PathAttributes(next_hop, communities=communities), kind, False, 1)


def test_which_next_hops_a_route_has() -> None:
    default = parse_prefix("0.0.0.0/0")
    for paths, hops in [
        ((path(GW1, GW1, "routes"), path(GW2, GW2, "routes")), (GW1, GW2)),
        ((path(GW1, GW1, "routes", drains=True), path(GW2, GW2, "routes")), (GW2,)),
        ((path(GW1, GW1, "routes", drains=True),), (GW1,)),
        # A block is reflected by both gateways, and is on one node.
        ((path(GW1, N2, "pods"), path(GW2, N2, "pods")), (N2,)),
        ((path(GW1, N3, "pods"), path(GW2, N2, "pods")), (N2,)),
    ]:
        assert learned({Family.IPV4: [(default[1], PathSet(paths))]}).routes == {default: hops}
    services = PathSet((path(GW1, N2, "services"),))
    assert learned({Family.IPV4: [(default[1], services)]}) == Learned()


def test_own_blocks() -> None:
    cluster = make_cluster([Node("n1", (BLOCK4, BLOCK6)), Node("n2")])
    config = AgentConfig(router_id="10.0.0.11", local_as=1, neighbors=[], node="n1", manifests="/m")
    assert own_blocks(config, cluster) == {BLOCK4, BLOCK6}
    assert own_blocks(config, make_cluster([])) == frozenset()
    configured = AgentConfig(
        router_id="10.0.0.11", local_as=1, neighbors=[], node="n1", manifests="/m",
        pod_cidrs=["10.9.0.0/24"],
    )  # fmt: skip
    assert own_blocks(configured, cluster) == {parse_prefix("10.9.0.0/24")}


def test_nobody_else_has_a_route_into_our_blocks() -> None:
    """Equal or longer is refused, whoever says it; shorter and elsewhere is taken."""

    def table(*texts: str) -> dict[Family, list[tuple[bytes, PathSet]]]:
        found: dict[Family, list[tuple[bytes, PathSet]]] = {f: [] for f in Family}
        for text in texts:
            family, nlri = parse_prefix(text)
            kind: Kind = "routes" if text.endswith("/32") else "pods"
            found[family].append((nlri, PathSet((path(N2, N2, kind),))))
        return found

    told = table(
        "10.244.1.0/24", "10.244.1.64/26", "10.244.1.7/32", "10.244.0.0/16", "10.244.2.0/24",
        "fd00:1::/64", "fd00:1::10/124", "fd00:2::/64",
    )  # fmt: skip
    found = learned(told, [BLOCK4, BLOCK6])
    assert {prefix_text(*p) for p in found.routes} == {
        "10.244.0.0/16", "10.244.2.0/24", "fd00:2::/64"
    }  # fmt: skip
    assert [(prefix_text(r.family, r.nlri), r.peer, r.why.name) for r in found.not_taken] == [
        ("10.244.1.0/24", N2, "OWN_BLOCK"),
        ("10.244.1.64/26", N2, "WITHIN_OWN_BLOCK"),
        ("10.244.1.7/32", N2, "WITHIN_OWN_BLOCK"),
        ("fd00:1::/64", N2, "OWN_BLOCK"),
        ("fd00:1::10/124", N2, "WITHIN_OWN_BLOCK"),
    ]
    assert not learned(told).not_taken
