"""Which flows conntrack is to forget, decided from rules alone."""

from __future__ import annotations

from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    Protocol,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise
from samepath.model.net import Family, parse_address
from samepath.plan.flows import Tracked, addresses, are_lost, is_back, lost
from samepath.plan.proxy import build
from samepath.plan.ruleset import Claim, Ruleset

A = parse_address
VIP, NODE, CLUSTER_IP = A("203.0.113.10"), A("10.83.0.11"), A("10.96.0.10")
POD1, POD2 = A("10.244.0.1"), A("10.244.0.2")
HTTP, DNS = ServicePort(80, node_port=30080), ServicePort(53, Protocol.UDP, node_port=30053)


def rules(
    *pods: bytes,
    ports: tuple[ServicePort, ...] = (HTTP, DNS),
    target: int = 8080,
    name: str = "web",
) -> Ruleset:
    service = Service(
        "default", name, ports, cluster_ips=(CLUSTER_IP,), load_balancer=True,
        load_balancer_ips=(VIP,),
    )  # fmt: skip
    part = EndpointSlice(
        "default", name, name, Family.IPV4,
        (SlicePort(target), SlicePort(target, Protocol.UDP)),
        tuple(Endpoint(pod, "n1") for pod in pods),
    )  # fmt: skip
    node = Node("n1", addresses=(NODE,))
    return build(make_cluster([node, service, part]), "n1", Advertise(), [])


def empty() -> Ruleset:
    return build(Cluster(), "n1", Advertise(), [])


PLACES = ((VIP, 80, 53), (CLUSTER_IP, 80, 53), (NODE, 30080, 30053))


def everywhere(tcp: Tracked, udp: Tracked) -> set[Tracked]:
    """At each of the service's addresses, with its ports there."""
    found = set()
    for address, tcp_port, udp_port in PLACES:
        found.add(tcp._replace(claim=Claim(address, "tcp", tcp_port)))
        found.add(udp._replace(claim=Claim(address, "udp", udp_port)))
    return found


ANY = Claim(VIP, "tcp", 0)


def test_an_endpoint_that_is_gone() -> None:
    found = set(lost(rules(POD1, POD2), rules(POD2)))
    assert found == everywhere(Tracked(ANY, POD1, None), Tracked(ANY, POD1, 8080))
    assert set(lost(rules(POD2), rules(POD1, POD2))) == set()
    assert set(lost(rules(POD1), rules(POD1))) == set()


def test_ports_of_pods_that_change_move_udp_alone() -> None:
    found = set(lost(rules(POD1), rules(POD1, target=9090)))
    assert found == {t for t in everywhere(Tracked(ANY, POD1, None), Tracked(ANY, POD1, 8080))
                     if t.claim.protocol == "udp"}  # fmt: skip


def test_ports_of_the_service_that_change_move_udp_alone() -> None:
    new = rules(POD1, ports=(ServicePort(81), ServicePort(54, Protocol.UDP)))
    found = set(lost(rules(POD1), new))
    # What is new at 54 may have been sent to before, and was not translated.
    before = {t for t in found if t.endpoint == t.claim.address}
    assert before == {Tracked(Claim(a, "udp", 54), a, 54) for a in (VIP, CLUSTER_IP)}
    assert {t.claim.protocol for t in found} == {"udp"}
    assert {t.claim.port for t in found - before} == {53, 30053}


def test_a_service_that_comes_or_goes() -> None:
    came = set(lost(empty(), rules(POD1)))
    assert came == {Tracked(Claim(a, "udp", udp), a, udp) for a, _, udp in PLACES}
    gone = set(lost(rules(POD1), empty()))
    assert gone == everywhere(Tracked(ANY, POD1, None), Tracked(ANY, POD1, 8080))
    # One that takes over its addresses, ports and pods takes over its flows.
    assert set(lost(rules(POD1), rules(POD1, name="other"))) == set()


def test_an_endpoint_that_is_back() -> None:
    tcp, udp = (
        Tracked(Claim(VIP, "tcp", 80), POD1, None),
        Tracked(Claim(VIP, "udp", 53), POD1, 8080),
    )
    for flows in (tcp, udp):
        assert is_back(flows, rules(POD1))
        assert not is_back(flows, rules(POD2))
        assert not is_back(flows, empty())
    assert is_back(tcp, rules(POD1, target=9090))
    assert not is_back(udp, rules(POD1, target=9090))


def test_what_was_lost_while_no_agent_ran() -> None:
    present = rules(POD2)
    assert addresses(present) == {VIP, CLUSTER_IP, NODE}
    keep = {
        Tracked(Claim(VIP, "tcp", 80), POD2, 8080),
        Tracked(Claim(VIP, "tcp", 81), POD2, 8080),  # a port that the service had
        Tracked(Claim(VIP, "tcp", 80), VIP, 80),
        Tracked(Claim(NODE, "tcp", 30080), POD2, 8080),
        # The node's own, and somebody's hostPort.
        Tracked(Claim(NODE, "tcp", 22), NODE, 22),
        Tracked(Claim(NODE, "udp", 123), NODE, 123),
        Tracked(Claim(NODE, "tcp", 8443), POD1, 443),
        Tracked(Claim(NODE, "udp", 8443), POD1, 443),
    }
    gone = {
        Tracked(Claim(VIP, "tcp", 80), POD1, 8080),
        Tracked(Claim(VIP, "tcp", 81), POD1, 8080),
        Tracked(Claim(VIP, "udp", 53), POD2, 9090),
        Tracked(Claim(VIP, "udp", 53), VIP, 53),
        Tracked(Claim(NODE, "tcp", 30080), POD1, 8080),
        Tracked(Claim(NODE, "udp", 30053), NODE, 30053),
    }
    assert are_lost(keep | gone, present) == gone
