"""Whose source becomes the node's: the sets of the chain `outgoing`."""

from __future__ import annotations

from samepath.model.cluster import Cluster, IPPool, Node, make_cluster
from samepath.model.config import Advertise
from samepath.model.net import parse_address, parse_prefix
from samepath.plan.masquerade import alone, elements
from samepath.plan.proxy import build, cluster_prefixes
from samepath.plan.ruleset import change_text, full_text

POOLS = (
    ("natted", "10.244.0.0/16", {"nat_outgoing": True}),
    ("off", "10.246.0.0/16", {"nat_outgoing": True, "disabled": True}),
    ("plain", "10.245.0.0/16", {}),
    ("six", "fd00::/48", {"nat_outgoing": True}),
)


def cluster(*names: str) -> Cluster:
    pools = [
        IPPool(name, *parse_prefix(cidr), 26, **more)
        for name, cidr, more in POOLS
        if not names or name in names
    ]
    return make_cluster([*pools, Node("n1", (parse_prefix("10.99.1.0/24"),))])


def test_sources_are_pools_with_the_flag_and_no_pod_is_outside() -> None:
    found = elements(cluster(), ["10.98.0.0/16"])
    assert {name: set(values) for name, values in found.items()} == {
        "natted4": {"10.244.0.0/16", "10.246.0.0/16"},
        "natted6": {"fd00::/48"},
        # All pools, adjacent ones as one; the Nodes' blocks, and what the configuration says.
        "allpods4": {"10.244.0.0/15", "10.246.0.0/16", "10.98.0.0/16", "10.99.1.0/24"},
        "allpods6": {"fd00::/48"},
    }


def test_the_tables_that_there_are() -> None:
    """One with the services, one without, and none; each knows the others as another."""
    services = build(cluster(), "n1", Advertise(), ["10.0.0.0/8"])
    only = alone(cluster(), ["10.0.0.0/8"])
    assert "chain outgoing" in full_text(services)
    text = full_text(only)
    assert "chain outgoing" in text
    assert "natted4 { type ipv4_addr; flags interval; elements = { 10.244.0.0/16" in text
    assert "vmap" not in text
    assert change_text(services, only) is None
    assert change_text(only, services) is None
    assert len({services.digest, only.digest, alone(cluster("plain"), []).digest}) == 3
    # Without the flag the chain stands all the same: flows that were translated still need it.
    assert alone(cluster("plain"), []).digest
    assert alone(make_cluster([Node("n1")]), ["10.0.0.0/8"]).digest == ""


def test_beside_another_proxy_services_are_not_forwarded() -> None:
    vips = [parse_address("203.0.113.10"), parse_address("2001:db8:113::10")]
    found = alone(cluster("plain"), [], vips)
    text = full_text(found)
    assert "set services4 { type ipv4_addr; elements = { 203.0.113.10 }; }" in text
    assert "set services6 { type ipv6_addr; elements = { 2001:db8:113::10 }; }" in text
    assert "dnat" not in text
    assert found.digest != alone(cluster("plain"), []).digest
    assert alone(make_cluster([Node("n1")]), [], vips).digest
    assert found.digest == alone(cluster("plain"), [], vips[::-1]).digest


def test_a_changed_pool_is_another_table() -> None:
    before, after = (build(cluster(*n), "n1", Advertise(), []) for n in ((), ("plain",)))
    assert before.digest != after.digest
    text = str(change_text(before, after))
    assert "flush set inet samepath natted4\n" in text
    assert "add element inet samepath natted4" not in text  # none is left


def test_where_pods_are_unless_configured() -> None:
    assert cluster_prefixes(cluster()) == (
        "10.99.1.0/24", "10.244.0.0/15", "10.246.0.0/16", "fd00::/48"
    )  # fmt: skip
