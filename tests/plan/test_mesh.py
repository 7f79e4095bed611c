"""Who is a neighbour in the mesh, and why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import Cluster, Node, make_cluster
from samepath.model.config import AgentConfig
from samepath.model.neighbor import Mesh, Neighbor
from samepath.model.net import parse_address
from samepath.plan.mesh import Plan, Trouble, Why, first_addresses, plan

A = parse_address
CIDRS = ("10.244.0.0/16", "fd00::/48")


def config(**more: Any) -> AgentConfig:
    fields = {"router_id": "10.0.0.1", "local_as": 65000, "neighbors": [], "node": "n1",
              "manifests": "/m", "mesh": True}  # fmt: skip
    return AgentConfig(**{**fields, **more})


def node(name: str, *addresses: str) -> Node:
    return Node(name, addresses=tuple(map(A, addresses)))


def planned(*nodes: Node, **more: Any) -> Plan:
    cluster = make_cluster(nodes)
    own = first_addresses(cluster.nodes["n1"]) if "n1" in cluster.nodes else {}
    return plan(config(**more), cluster, own, CIDRS)


def test_every_other_node_is_a_neighbour_that_is_told_of_pods_alone() -> None:
    made = planned(
        node("n1", "10.0.0.1", "fd99::1"),
        node("n2", "10.0.0.2", "10.9.0.2", "fd99::2"),
        node("n3", "fd99::3"),
        mesh=Mesh(hold_time_s=9),
        listen_port=1179,
        listen=["fd99:0::1"],
    )
    assert made.trouble is Trouble.NONE
    second, third = made.neighbors
    assert (second.address, second.local_address) == ("10.0.0.2", "10.0.0.1")
    assert (third.address, third.local_address) == ("fd99::3", "fd99::1")
    for neighbor in made.neighbors:
        assert neighbor.export == ["pods"]
        assert neighbor.remote_as == 65000
        assert neighbor.hold_time_s == 9
        assert neighbor.port == 1179
        assert neighbor.import_.pods == list(CIDRS)
        assert neighbor.import_.services == neighbor.import_.routes == []
        assert not neighbor.passive
    assert made.listen == ("10.0.0.1",), "the other one is listened on already"


def test_what_is_listened_on_everywhere_is_not_listened_on_twice() -> None:
    """The kernel would refuse it: the address is in use."""
    nodes = node("n1", "10.0.0.1", "fd99::1"), node("n2", "10.0.0.2")
    assert planned(*nodes).listen == ("10.0.0.1", "fd99::1")
    assert planned(*nodes, listen=["0.0.0.0"]).listen == ("fd99::1",)
    assert planned(*nodes, listen=["0.0.0.0", "::"]).listen == ()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (node("n2"), Why.NO_ADDRESS),
        (node("n2", "fd99::2"), Why.NO_COMMON_FAMILY),
        (node("n2", "10.0.0.1"), Why.OUR_ADDRESS),
        (node("n2", "10.0.0.77"), Why.CONFIGURED),
    ],
)
def test_who_cannot_be_a_neighbour_has_a_reason_and_disturbs_nobody(other: Node, why: Why) -> None:
    written = Neighbor(address="10.0.0.77", remote_as=65000)
    made = planned(node("n1", "10.0.0.1"), other, node("n3", "10.0.0.3"), neighbors=[written])
    assert [(r.node, r.why) for r in made.rows] == [("n2", why), ("n3", Why.NEIGHBOR)]
    assert [n.address for n in made.neighbors] == ["10.0.0.3"]
    assert made.rows[0].text == why.value


def test_two_nodes_with_one_address_are_one_neighbour() -> None:
    first = planned(node("n1", "10.0.0.1"), node("n2", "10.0.0.2"))
    both = planned(node("n1", "10.0.0.1"), node("n2", "10.0.0.2"), node("n0", "10.0.0.2"))
    assert both.neighbors == first.neighbors, "nobody's session changes"
    assert [r.why for r in both.rows] == [Why.NEIGHBOR, Why.SAME_ADDRESS]


def test_without_our_own_node_there_is_no_mesh() -> None:
    assert planned(node("n2", "10.0.0.2")).trouble is Trouble.NO_NODE
    assert planned(node("n1"), node("n2", "10.0.0.2")).trouble is Trouble.NO_ADDRESS
    assert planned(node("n1", "10.0.0.1"), node("n2", "10.0.0.2"), mesh=False) == Plan()
    # What our addresses were is good enough.
    gone = plan(config(), Cluster({"n2": node("n2", "10.0.0.2")}),
                first_addresses(node("n1", "10.0.0.1")), CIDRS)  # fmt: skip
    assert [n.address for n in gone.neighbors] == ["10.0.0.2"]


addresses = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd99::1", "fd99::2", "fd99::3"]),
    max_size=3,
    unique=True,
)


@given(addresses, addresses)
def test_both_sides_meet_at_the_same_two_addresses(ours: list[str], theirs: list[str]) -> None:
    one, two = node("n1", *ours), node("n2", *theirs)
    here = planned(one, two).neighbors
    there = planned(node("n1", *theirs), node("n2", *ours)).neighbors
    assert [(n.address, n.local_address) for n in here] == [
        (n.local_address, n.address) for n in there
    ]
