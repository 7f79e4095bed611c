"""A Node that is deleted while it lives."""

from __future__ import annotations

from samepath.model.cluster import Cluster, Node, NodeDrain
from samepath.model.net import parse_address, parse_prefix
from samepath.plan.gone_nodes import keep


def node(number: int, drain: NodeDrain | None = None) -> Node:
    blocks = (parse_prefix(f"10.244.{number}.0/24"),)
    address = parse_address(f"192.0.2.{number}")
    return Node(f"n{number}", blocks, drain, (address,), {"number": str(number)})


def cluster(*nodes: Node) -> Cluster:
    return Cluster(nodes={n.name: n for n in nodes})


def dead(_: Node) -> bool:
    return False


def test_our_own_node_stands_as_it_was() -> None:
    own = node(1, NodeDrain.LABEL)
    found, names = keep(cluster(node(2)), cluster(own, node(2)), "n1", dead)
    assert found.nodes == {"n1": own, "n2": node(2)}
    assert names == {"n1"}
    # And again, with what came of it.
    assert keep(cluster(node(2)), found, "n1", dead)[0] == found


def test_it_counts_as_it_is_when_it_is_back() -> None:
    found, _ = keep(cluster(), cluster(node(1, NodeDrain.LABEL)), "n1", dead)
    back, names = keep(cluster(node(1)), found, "n1", dead)
    assert back.nodes == {"n1": node(1)}
    assert names == frozenset()


def test_another_stands_for_as_long_as_it_lives() -> None:
    former = cluster(node(1), node(2), node(3))
    found, names = keep(cluster(node(1)), former, "n1", lambda n: n.name == "n2")
    assert set(found.nodes) == {"n1", "n2"}
    assert names == {"n2"}
    later, names = keep(cluster(node(1)), found, "n1", dead)
    assert set(later.nodes) == {"n1"}
    assert names == frozenset()


def test_what_another_has_by_now_is_its_own() -> None:
    heir = Node("n9", node(1).pod_cidrs, addresses=node(2).addresses)
    found, _ = keep(cluster(heir), cluster(node(1), node(2)), "n1", lambda _: True)
    assert found.nodes["n9"] == heir
    assert found.nodes["n1"].pod_cidrs == ()
    assert found.nodes["n1"].addresses == node(1).addresses
    assert found.nodes["n2"].addresses == ()
    assert found.nodes["n2"].pod_cidrs == node(2).pod_cidrs


def test_nothing_is_changed_where_nothing_is_gone() -> None:
    present = cluster(node(1))
    assert keep(present, present, "n1", dead) == (present, frozenset())
    assert keep(present, Cluster(), "n1", dead)[0] is present
    # Of one that was never known there is nothing to keep.
    assert keep(Cluster(), Cluster(), "n1", dead) == (Cluster(), frozenset())
