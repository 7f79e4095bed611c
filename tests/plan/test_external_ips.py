"""What somebody writes into spec.externalIPs takes nothing that is somebody else's."""

from __future__ import annotations

import pytest

from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise
from samepath.model.net import Family, parse_address
from samepath.plan.external_ips import WhyRefused, pared
from samepath.plan.proxy import build
from samepath.plan.ruleset import Claim
from samepath.plan.services import service_addresses

A = parse_address
PODS = ["10.244.0.0/16", "fd00:244::/32"]
VIP, CLUSTER_IP = A("203.0.113.10"), A("10.96.0.10")
VICTIM = Service(
    "shop",
    "web",
    (ServicePort(80),),
    cluster_ips=(CLUSTER_IP,),
    load_balancer=True,
    load_balancer_ips=(VIP,),
)


def thief(*addresses: str, **more: object) -> Service:
    """Its name sorts first."""
    found = tuple(map(A, addresses))
    return Service("aaa", "x", (ServicePort(80),), external_ips=found, **more)  # type: ignore[arg-type]


def world(*services: Service) -> Cluster:
    endpoint = Endpoint(A("10.244.0.9"), "n1")
    slices = [
        EndpointSlice(
            s.namespace, f"{s.name}-1", s.name, Family.IPV4, (SlicePort(8080),), (endpoint,)
        )
        for s in services
    ]
    nodes = Node("n1", addresses=(A("192.0.2.1"),)), Node("n2", addresses=(A("192.0.2.2"),))
    return make_cluster([*nodes, *services, *slices])


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("203.0.113.10", WhyRefused.ANOTHERS),
        ("10.96.0.10", WhyRefused.ANOTHERS),
        ("192.0.2.2", WhyRefused.NODE),
        ("10.244.3.4", WhyRefused.POD),
        ("fd00:244::1", WhyRefused.POD),
    ],
)
def test_what_is_somebody_elses_is_refused(address: str, why: WhyRefused) -> None:
    cluster, refused = pared(world(VICTIM, thief("198.51.100.1", address)), PODS)
    assert [(r.service, r.address, r.why) for r in refused] == [("aaa/x", A(address), why)]
    assert address in refused[0].text
    assert cluster.services["aaa/x"].external_ips == (A("198.51.100.1"),)
    assert cluster.services["shop/web"] == VICTIM


def test_the_rules_of_the_victim_stay_its_own() -> None:
    honest = build(world(VICTIM), "n1", Advertise(), PODS)
    cluster, _ = pared(world(VICTIM, thief("203.0.113.10", "10.96.0.10")), PODS)
    rules = build(cluster, "n1", Advertise(), PODS)
    for address in (VIP, CLUSTER_IP):
        claim = Claim(address, "tcp", 80)
        assert rules.owners[claim] == ("shop/web",)
        assert rules.items(claim) == honest.items(claim)
    assert rules.addresses == honest.addresses


def test_what_is_nobodys_or_ones_own_stays() -> None:
    own = thief("198.51.100.1", "203.0.113.20", load_balancer_ips=(A("203.0.113.20"),))
    shared = Service("b", "y", external_ips=(A("198.51.100.1"),))
    whole = world(VICTIM, own, shared)
    cluster, refused = pared(whole, PODS)
    assert cluster is whole
    assert refused == ()


def test_external_ips_are_told_as_configured() -> None:
    service = thief("198.51.100.1", "203.0.113.200", "2001:db8::1")

    def told(what: bool | list[str] | None) -> list[str]:
        found = dict(service_addresses(service, Advertise(external_ips=what)))
        return [str(a in found) for a in service.external_ips]

    assert told(True) == ["True"] * 3
    assert told(False) == ["False"] * 3
    assert told(["198.51.100.0/24", "2001:db8::/64"]) == ["True", "False", "True"]
    with pytest.raises(ValueError, match=r"198\.51\.100\.1/24"):
        Advertise(external_ips=["198.51.100.1/24"])
