"""A gateway's neighbours and import rules out of the cluster, and what mistakes leave standing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import Cluster, IPPool, Node, Object, make_cluster
from samepath.model.config import GatewayConfig
from samepath.model.kinds import (
    BGPAdvertisement,
    BlockClaim,
    GatewayTier,
    IPAddressPool,
    Operator,
    Range,
    Requirement,
    Selector,
)
from samepath.model.neighbor import Import, Neighbor, Nodes
from samepath.model.net import Family, address_text, parse_address, parse_prefix
from samepath.plan.neighbors import Plan, Why, configured, keep, pending, plan

NODES = Nodes(
    remote_as=64512,
    hold_time_s=9,
    export=["pods", "default"],
    import_=Import(services=["203.0.113.0/24"], max_prefixes=77),
)
CONFIG = GatewayConfig(
    router_id="10.0.0.254",
    local_as=64512,
    hash_seed=7,
    manifests="/x",
    nodes=NODES,
    expected_peers=1,
    neighbors=[Neighbor(address="10.0.0.253", remote_as=65000)],
)
OWN = (parse_address("10.0.0.254"),)


def node(number: int, *more: str, cidrs: tuple[str, ...] = (), **labels: str) -> Node:
    addresses = tuple(parse_address(t) for t in (f"10.0.0.{number}", *more))
    return Node(f"n{number}", tuple(map(parse_prefix, cidrs)), None, addresses, labels)


def pool(name: str, *ranges: str, **labels: str) -> IPAddressPool:
    parts = [tuple(map(parse_address, text.split("-"))) for text in ranges]
    return IPAddressPool(name=name, addresses=tuple(Range(a, b) for a, b in parts), labels=labels)


def claim(cidr: str, owner: str, *, pending: bool = False) -> BlockClaim:
    family, nlri = parse_prefix(cidr)
    name = cidr.replace(".", "-").replace("/", "-")
    return BlockClaim(name=name, family=family, cidr=nlri, node=owner, pending=pending)


def planned(*objects: Object, config: GatewayConfig = CONFIG) -> Plan:
    return plan(config, make_cluster(objects), OWN)


def neighbors_of(found: Plan) -> list[str]:
    return [address_text(a) for a in found.neighbors]


def why(found: Plan) -> dict[str, Why]:
    return {row.node: row.why for row in found.rows}


def everything_stands(found: Plan, former: Plan) -> Plan:
    return keep(found, former, is_alive=lambda _: True, is_in_use=lambda _: True)


def nothing_stands(found: Plan, former: Plan) -> Plan:
    return keep(found, former, is_alive=lambda _: False, is_in_use=lambda _: False)


def test_nodes_are_neighbours_at_their_first_internal_ip() -> None:
    six = Node("n6", (), None, (parse_address("fd00::6"),))
    found = planned(
        node(1, "10.1.0.1", "fd00::1"), six, Node("n7"), node(254), node(253), node(9, gpu="yes")
    )
    assert neighbors_of(found) == ["10.0.0.1", "fd00::6", "10.0.0.9"]
    assert why(found) == {
        "n1": Why.NEIGHBOR,
        "n6": Why.NEIGHBOR,
        "n7": Why.NO_ADDRESS,
        "n9": Why.NEIGHBOR,
        "n253": Why.CONFIGURED,
        "n254": Why.OUR_ADDRESS,
    }
    twin = Node("n1b", (), None, (parse_address("10.0.0.1"),))
    assert why(planned(node(1), twin)) == {"n1": Why.NEIGHBOR, "n1b": Why.SAME_ADDRESS}


def test_selector_picks_nodes_by_their_labels() -> None:
    chosen = msgspec.structs.replace(NODES, selector="has(edge)")
    config = msgspec.structs.replace(CONFIG, nodes=chosen)
    found = planned(node(1, edge="a"), node(2), config=config)
    assert why(found) == {"n1": Why.NEIGHBOR, "n2": Why.NOT_SELECTED}


def test_what_nodes_may_advertise_follows_from_the_pools() -> None:
    found = planned(
        node(1, cidrs=("10.244.1.0/24", "fd00:244:1::/64")),
        pool("a", "192.0.2.10-192.0.2.12", "2001:db8::1-2001:db8::1"),
        pool("b", "198.51.100.0-198.51.100.255"),
        IPPool("pods", *parse_prefix("10.250.0.0/16"), 26),
        claim("10.250.0.0/26", "n1"),
    )
    assert set(found.services) == {
        "192.0.2.10/31", "192.0.2.12/32", "198.51.100.0/24", "2001:db8::1/128"
    }  # fmt: skip
    assert set(found.pods) == {"10.244.1.0/24", "10.250.0.0/16", "fd00:244:1::/64"}
    effective = configured(CONFIG, found, None)
    own, one = effective.neighbors
    assert own == CONFIG.neighbors[0]
    assert (one.address, one.remote_as, one.hold_time_s, one.passive) == (
        "10.0.0.1", 64512, 9, True
    )  # fmt: skip
    assert one.export == ["pods", "default"]
    assert set(one.import_.services) == {"203.0.113.0/24", *found.services}
    assert (one.import_.max_prefixes, one.import_.next_hop) == (77, "peer")
    assert effective.expected_peers == 2
    many = configured(CONFIG, planned(node(1), node(2)), None).neighbors[1:]
    assert many[0].import_ is many[1].import_, "one rule for all"


def test_aggregates_of_advertisements_may_be_advertised() -> None:
    edge = Selector((Requirement("zone", Operator.IN, ("edge",)),))
    length = {Family.IPV4: 24, Family.IPV6: 128}
    a, b = pool("a", "192.0.2.10-192.0.3.20"), pool("b", "198.51.100.1-198.51.100.9", zone="edge")
    everything = BGPAdvertisement(name="x", aggregation_length=length)
    named = BGPAdvertisement(name="x", aggregation_length=length, ip_address_pools=("a",))
    selected = BGPAdvertisement(name="x", aggregation_length=length, pool_selectors=(edge,))
    of_a, of_b = {"192.0.2.0/24", "192.0.3.0/24"}, {"198.51.100.0/24"}
    for advertisement, wanted in ((everything, of_a | of_b), (named, of_a), (selected, of_b)):
        found = set(planned(a, b, advertisement).services)
        assert {t for t in found if t.endswith("/24")} == wanted


def test_claims_and_pod_cidrs_say_whose_a_block_is() -> None:
    found = planned(
        node(1, cidrs=("10.244.1.0/24",)),
        node(2),
        claim("10.250.0.0/26", "n2"),
        claim("10.250.0.64/26", "n3"),
        claim("10.250.0.128/26", "n1", pending=True),
        # podCIDRs of another Node within a claim: the claim counts.
        claim("10.244.9.0/24", "n2"),
        Node("n9", (parse_prefix("10.244.9.0/24"),), None, (parse_address("10.0.0.9"),)),
    )
    assert found.claims == {
        parse_prefix("10.250.0.0/26"): parse_address("10.0.0.2"),
        parse_prefix("10.244.1.0/24"): parse_address("10.0.0.1"),
        parse_prefix("10.244.9.0/24"): parse_address("10.0.0.2"),
    }


def test_neighbour_whose_node_is_gone_stays_while_its_session_lives() -> None:
    former = planned(node(1), node(2), node(3))
    found = planned(node(1))
    alive = {parse_address("10.0.0.2")}
    kept = keep(found, former, is_alive=lambda a: a in alive, is_in_use=lambda _: False)
    assert neighbors_of(kept) == ["10.0.0.1", "10.0.0.2"]
    assert why(kept) == {"n1": Why.NEIGHBOR, "n2": Why.GONE}
    assert kept.expected == 1, "nobody waits for it"
    again = everything_stands(planned(node(1), node(2)), kept)
    assert why(again) == {"n1": Why.NEIGHBOR, "n2": Why.NEIGHBOR}


def test_all_nodes_deleted_by_mistake_leave_all_sessions_alone() -> None:
    former = planned(node(1), node(2), pool("a", "192.0.2.0-192.0.2.255"))
    kept = everything_stands(planned(), former)
    before, after = configured(CONFIG, former, None), configured(CONFIG, kept, None)
    assert after.neighbors == before.neighbors
    assert kept.kept == ("192.0.2.0/24",)


def test_prefix_that_no_pool_has_any_more_stays_while_it_is_in_use() -> None:
    former = planned(pool("a", "192.0.2.0-192.0.2.255"), pool("b", "198.51.100.0-198.51.100.7"))
    kept = keep(
        planned(), former, is_alive=lambda _: False, is_in_use=lambda t: t == "192.0.2.0/24"
    )
    assert (kept.services, kept.kept) == (("192.0.2.0/24",), ("192.0.2.0/24",))
    wider = everything_stands(planned(pool("c", "192.0.0.0-192.0.255.255")), kept)
    assert (wider.services, wider.kept) == (("192.0.0.0/16",), ()), "it lies in another now"
    assert nothing_stands(planned(), kept).services == ()


numbers = st.sets(st.integers(1, 9))
clusters = st.builds(
    lambda nodes, pools: make_cluster(
        [
            *(node(n, cidrs=(f"10.244.{n}.0/24",)) for n in nodes),
            *(pool(f"p{n}", f"192.0.{n}.0-192.0.{n}.255") for n in pools),
        ]
    ),
    numbers,
    numbers,
)


@given(st.lists(clusters, max_size=6), clusters)
def test_history_leaves_nothing_behind_that_does_not_stand(
    worlds: list[Cluster], last: Cluster
) -> None:
    former = Plan()
    for world in worlds:
        former = everything_stands(plan(CONFIG, world, OWN), former)
    assert nothing_stands(plan(CONFIG, last, OWN), former) == plan(CONFIG, last, OWN)
    stays = everything_stands(plan(CONFIG, last, OWN), former)
    assert set(former.neighbors) <= set(stays.neighbors)
    assert configured(CONFIG, stays, None).expected_peers == 1 + len(last.nodes)


def test_tier_comes_before_the_file() -> None:
    tier = GatewayTier(name="t", hash_seed=99, idle_timer_s=5.0)
    effective = configured(CONFIG, Plan(), tier)
    assert (effective.hash_seed, effective.idle_timer_s, effective.buckets) == (99, 5.0, 1021)
    with pytest.raises(ValueError, match="buckets"):
        configured(CONFIG, Plan(), GatewayTier(name="t", buckets=0))


def test_what_would_move_all_flows_is_pending() -> None:
    same = configured(CONFIG, Plan(), GatewayTier(name="t", idle_timer_s=5.0))
    assert pending(CONFIG, same) == ""
    other = configured(CONFIG, Plan(), GatewayTier(name="t", buckets=31, hash_seed=8))
    assert pending(CONFIG, other) == (
        "needs restart: would move all flows: buckets 1021 -> 31, hash_seed 7 -> 8"
    )


LEAST = {"router_id": "10.0.0.1", "local_as": 64512, "neighbors": []}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "hash_seed"),
        ({"hash_seed": 1, "nodes": NODES}, "come from"),
        ({"hash_seed": 1, "manifests": "/x"}, "serve nothing else"),
        ({"manifests": "/x", "nodes": NODES}, "hash_seed"),
    ],
)
def test_configurations_that_make_no_sense(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GatewayConfig(**{**LEAST, **fields})  # type: ignore[arg-type]
    GatewayConfig(**LEAST, manifests="/x", tier="t")  # type: ignore[arg-type]
