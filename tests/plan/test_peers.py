"""Which BGPPeers are a node's neighbours, on what terms, and why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import Cluster, Node, make_cluster
from samepath.model.config import AgentConfig
from samepath.model.kinds import (
    BFDProfile,
    BGPPeer,
    Operator,
    Requirement,
    Secret,
    Selector,
)
from samepath.model.neighbor import BfdProfile, Import, Neighbor
from samepath.model.net import parse_address, parse_prefix
from samepath.plan import mesh
from samepath.plan.peers import Plan, WhyNot, identify, made_router_id, plan

A = parse_address
LABELS = {"rack": "r1"}
NAMESPACE = "samepath-system"


def config(**more: Any) -> AgentConfig:
    fields = {"manifests": "/m", "run_dir": "/run/s", **more}
    return identify(AgentConfig(**fields), "n1", "10.0.0.11")


def peer(name: str = "gw1", address: str = "10.0.0.1", **more: Any) -> BGPPeer:
    fields = {"my_asn": 65000, "peer_asn": 65001, **more}
    return BGPPeer(name=name, peer_address=A(address), **fields)


def secret(namespace: str, password: str) -> Secret:
    return Secret(namespace=namespace, name="bgp", password=password)


def rack(name: str) -> tuple[Selector, ...]:
    return (Selector((Requirement("rack", Operator.IN, (name,)),)),)


def planned(*objects: Any, labels: dict[str, str] | None = LABELS, **more: Any) -> Plan:
    return plan(config(**more), make_cluster(objects), labels, [A("10.0.0.11")])


def whys(made: Plan) -> dict[str, WhyNot]:
    return {row.peer: row.why for row in made.rows}


def test_every_field_becomes_a_term_of_the_session() -> None:
    profile = BFDProfile(name="fast", profile=BfdProfile(receive_interval_ms=100))
    wanted = peer(
        source_address=A("10.0.0.11"),
        peer_port=1179,
        hold_time_s=9,
        connect_time_s=2,
        graceful_restart=True,
        ebgp_multi_hop=True,
        disable_mp=True,
        bfd_profile="fast",
        password_secret="bgp",
    )
    import_ = Import(routes=["0.0.0.0/0"])
    made = planned(wanted, profile, secret(NAMESPACE, "pa55\n"), peer_import=import_)
    assert made.asn == 65000
    assert made.asn_from == "gw1"
    assert made.neighbors == (
        Neighbor(
            address="10.0.0.1",
            remote_as=65001,
            port=1179,
            local_address="10.0.0.11",
            families=["ipv4"],
            hold_time_s=9,
            connect_retry_s=2,
            graceful_restart_s=120,
            ebgp_multihop=255,
            bfd="fast",
            password_file="/run/s/passwords/gw1",
            import_=import_,
        ),
    )
    assert made.passwords == {"gw1": "pa55"}
    assert "pa55" not in repr(made)
    assert made.bfd_profiles == {"fast": profile.profile}
    assert made.names == {"10.0.0.1": "gw1"}


def test_defaults() -> None:
    (neighbor,) = planned(peer(peer_asn="external")).neighbors
    assert neighbor == Neighbor(address="10.0.0.1", remote_as="external")


def test_neighbours_may_tell_the_clusters_pod_blocks_unless_it_is_said() -> None:
    known = (peer(), Node("n1", (parse_prefix("10.244.1.0/24"),)))
    (neighbor,) = planned(*known).neighbors
    assert neighbor.import_ == Import(pods=["10.244.1.0/24"])
    (neighbor,) = planned(*known, cluster_cidrs=["10.0.0.0/8"]).neighbors
    assert neighbor.import_ == Import(pods=["10.0.0.0/8"])
    (neighbor,) = planned(*known, peer_import=Import(routes=["0.0.0.0/0"])).neighbors
    assert neighbor.import_ == Import(routes=["0.0.0.0/0"])


WRONG = {
    WhyNot.NOT_SELECTED: ([peer(node_selectors=rack("r2"))], {}),
    WhyNot.OTHER_AS: ([peer()], {"local_as": 64512}),
    WhyNot.OTHER_ROUTER_ID: ([peer(router_id=A("10.0.0.99"))], {}),
    WhyNot.CONFIGURED: ([peer()], {"neighbors": [Neighbor(address="10.0.0.1", remote_as=1)]}),
    WhyNot.OWN_ADDRESS: ([peer(address="10.0.0.11")], {}),
    WhyNot.DUPLICATE: ([peer("gw0"), peer()], {}),
    WhyNot.OTHER_FAMILY: ([peer(source_address=A("fd00::1"))], {}),
    WhyNot.NO_BFD_PROFILE: ([peer(bfd_profile="fast")], {}),
    WhyNot.BFD_TOO_SHORT: (
        [
            peer(bfd_profile="fast"),
            BFDProfile(name="fast", profile=BfdProfile(transmit_interval_ms=10)),
        ],
        {},
    ),
    WhyNot.NO_SECRET: ([peer(password_secret="bgp"), secret("elsewhere", "x")], {}),
    WhyNot.BAD_PASSWORD: ([peer(password="x" * 81)], {}),
    WhyNot.IN_RANGE: (
        [peer()],
        {"neighbors": [Neighbor(range="10.0.0.0/24", remote_as=1, password_file="/p")]},
    ),
    WhyNot.INVALID: ([peer(hold_time_s=1)], {}),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_a_neighbour_says_why_and_disturbs_no_other(why: WhyNot) -> None:
    objects, more = WRONG[why]
    made = planned(*objects, peer("other", "10.0.0.5", my_asn=more.get("local_as", 65000)), **more)
    assert whys(made)["gw1"] is why
    assert whys(made)["other"] is (WhyNot.IN_RANGE if why is WhyNot.IN_RANGE else WhyNot.NEIGHBOR)
    row = next(row for row in made.rows if row.peer == "gw1")
    assert why.value in row.text
    assert "gw1" not in made.names.values()
    assert made.passwords == {}


def test_a_password_of_two_lines_is_none() -> None:
    empty = planned(peer(password_secret="bgp"), secret(NAMESPACE, ""))
    assert whys(empty) == {"gw1": WhyNot.NO_SECRET}
    assert whys(planned(peer(password="a\nb"))) == {"gw1": WhyNot.BAD_PASSWORD}


def test_a_file_that_gives_shorter_bfd_to_bfdd_may() -> None:
    profile = BFDProfile(name="fast", profile=BfdProfile(transmit_interval_ms=10))
    assert whys(planned(peer(bfd_profile="fast"), profile, bfdd="/run/bfdd.sock")) == {
        "gw1": WhyNot.NEIGHBOR
    }


def test_a_profile_of_the_configuration_stands_over_an_object() -> None:
    own = BfdProfile(receive_interval_ms=500)
    other = BFDProfile(name="fast", profile=BfdProfile(receive_interval_ms=100))
    made = planned(peer(bfd_profile="fast"), other, bfd_profiles={"fast": own})
    assert whys(made) == {"gw1": WhyNot.NEIGHBOR}
    assert made.bfd_profiles == {}


def test_the_as_is_the_configurations_else_that_of_the_first_peer_that_selects_us() -> None:
    peers = [
        peer("a", "10.0.0.1", my_asn=1, node_selectors=rack("r2")),
        peer("b", "10.0.0.2", my_asn=2, password_secret="not-there-yet"),
        peer("c", "10.0.0.3", my_asn=3),
        peer("d", "10.0.0.4", my_asn=2),
    ]
    made = planned(*peers)
    assert (made.asn, made.asn_from) == (2, "b"), "though b itself has no password yet"
    assert whys(made) == {
        "a": WhyNot.NOT_SELECTED,
        "b": WhyNot.NO_SECRET,
        "c": WhyNot.OTHER_AS,
        "d": WhyNot.NEIGHBOR,
    }
    made = planned(*peers, local_as=3)
    assert (made.asn, made.asn_from) == (3, "")
    assert whys(made)["c"] is WhyNot.NEIGHBOR
    assert planned().asn == 0


def test_a_node_that_was_never_seen_has_those_that_select_all() -> None:
    made = planned(peer("a", "10.0.0.1"), peer("b", node_selectors=rack("r1")), labels=None)
    assert whys(made) == {"a": WhyNot.NEIGHBOR, "b": WhyNot.NODE_UNKNOWN}


@pytest.mark.parametrize(
    ("keepalive_s", "noted"), [(None, False), (3, False), (1, True), (30, True)]
)
def test_another_keepalive_than_a_third_is_noted(keepalive_s: int | None, noted: bool) -> None:
    wanted = peer(hold_time_s=9, keepalive_time_s=keepalive_s, graceful_restart=True)
    (row,) = planned(wanted).rows
    assert row.why is WhyNot.NEIGHBOR
    assert bool(row.note) is noted


def test_without_graceful_restart_it_is_said_what_that_means() -> None:
    (row,) = planned(peer(graceful_restart=False)).rows
    assert row.why is WhyNot.NEIGHBOR
    assert "drops our paths" in row.note


def test_another_name_is_no_other_neighbour() -> None:
    """So a BGPPeer can be made anew under another name, and its session does not notice."""
    both = planned(peer("a"), peer("b"))
    assert whys(both) == {"a": WhyNot.NEIGHBOR, "b": WhyNot.DUPLICATE}
    assert planned(peer("a")).neighbors == both.neighbors == planned(peer("b")).neighbors


def test_who_we_are() -> None:
    bare = AgentConfig(manifests="/m")
    with pytest.raises(ValueError, match="SAMEPATH_NODE"):
        identify(bare)
    assert identify(bare, "n1", "10.0.0.11").router_id == "10.0.0.11"
    assert identify(bare, "n1", "fd00::11").router_id == made_router_id("n1")
    assert identify(bare, "n1").node == "n1"
    whole = AgentConfig(manifests="/m", node="other", router_id="1.2.3.4")
    assert identify(whole, "n1", "10.0.0.11") == whole
    assert made_router_id("n1") != made_router_id("n2")
    assert made_router_id("n1") == "60.119.54.35", "must never change"


def test_a_peer_is_no_second_neighbour_of_the_mesh() -> None:
    cluster: Cluster = make_cluster(
        [Node("n1", addresses=(A("10.0.0.11"),)), Node("n2", addresses=(A("10.0.0.1"),)), peer()]
    )
    made = plan(config(mesh=True), cluster, {}, [A("10.0.0.11")])
    whole = AgentConfig(
        manifests="/m", mesh=True, node="n1", local_as=65000, neighbors=list(made.neighbors)
    )
    meshed = mesh.plan(whole, cluster, mesh.first_addresses(cluster.nodes["n1"]), [])
    assert [row.why for row in meshed.rows] == [mesh.Why.CONFIGURED]


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["r1", "r2", ""])),
    ),
    st.sampled_from([0, 1]),
)
def test_one_neighbour_an_address_one_as_and_a_reason_for_each(
    wanted: dict[str, tuple[int, int, str]], local_as: int
) -> None:
    objects = [
        peer(name, f"10.0.0.{last}", my_asn=asn, node_selectors=rack(where) if where else ())
        for name, (last, asn, where) in wanted.items()
    ]
    made = planned(*objects, local_as=local_as)
    assert [row.peer for row in made.rows] == sorted(wanted)
    addresses = [n.address for n in made.neighbors]
    assert len(set(addresses)) == len(addresses)
    taken = {row.peer for row in made.rows if row.why is WhyNot.NEIGHBOR}
    assert taken == set(made.names.values())
    for name in taken:
        assert wanted[name][1] == made.asn
        assert wanted[name][2] != "r2"
    for last, asn, where in wanted.values():
        if where != "r2" and asn == made.asn:
            assert f"10.0.0.{last}" in addresses
    assert made == planned(*reversed(objects), local_as=local_as), "no history, no order"


@pytest.mark.parametrize("slip", [{"my_asn": 65999}, {"address": "10.0.0.2"}])
def test_a_slip_in_a_new_peer_disturbs_no_older_one(slip: dict[str, Any]) -> None:
    """Whatever its name."""
    older = (
        peer("gw1", "10.0.0.1", created="2026-01-01T00:00:00Z"),
        peer("gw2", "10.0.0.2", created="2026-01-01T00:00:00Z"),
    )
    before = planned(*older)
    new = peer("a", **{"address": "10.0.0.3", "created": "2026-02-01T00:00:00Z", **slip})
    made = planned(new, *older)
    assert (made.asn, made.asn_from) == (before.asn, "gw1")
    assert made.neighbors == before.neighbors
    assert whys(made)["a"] in (WhyNot.OTHER_AS, WhyNot.DUPLICATE)


def test_what_a_neighbour_needs_is_deleted() -> None:
    """The session goes on, and it is said; but nothing begins without."""
    wanted = peer(bfd_profile="fast", password_secret="bgp")
    profile = BFDProfile(name="fast", profile=BfdProfile(receive_interval_ms=100))
    before = planned(wanted, profile, secret(NAMESPACE, "pa55"))

    def after(*objects: Any, former: Plan = before) -> Plan:
        return plan(config(), make_cluster(objects), LABELS, [A("10.0.0.11")], former)

    made = after(wanted)
    assert made.neighbors == before.neighbors
    assert made.passwords == before.passwords
    assert made.bfd_profiles == before.bfd_profiles
    assert "Secret bgp is gone" in made.rows[0].note
    assert "BFDProfile fast is gone" in made.rows[0].note
    assert after(wanted, former=made).neighbors == before.neighbors
    # They are back, and say something else.
    slow = BFDProfile(name="fast", profile=BfdProfile(receive_interval_ms=900))
    back = after(wanted, slow, secret(NAMESPACE, "other"), former=made)
    assert back.passwords == {"gw1": "other"}
    assert back.bfd_profiles == {"fast": slow.profile}
    assert "gone" not in back.rows[0].note
    # Of another neighbour nothing is known.
    assert whys(after(wanted, former=Plan())) == {"gw1": WhyNot.NO_BFD_PROFILE}
    assert whys(after(peer("x", password_secret="bgp"))) == {"x": WhyNot.NO_SECRET}
    assert after().neighbors == ()
