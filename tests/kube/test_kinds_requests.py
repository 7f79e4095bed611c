"""What a Service asks for, and what is left of a Node: nothing of it costs the object itself."""

from __future__ import annotations

from typing import Any

import pytest

from samepath.kube.objects import parse_object
from samepath.kube.requests import NOBODY
from samepath.model.cluster import Allocation, Node, Request, Service
from samepath.model.documents import Document, DocumentError
from samepath.model.net import Family, parse_address, parse_prefix

OURS, METALLB, FORMER = "samepath.dev/", "metallb.io/", "metallb.universe.tf/"


def service(
    annotations: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    **spec: Any,
) -> Service:
    data = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "web", "annotations": annotations, **(metadata or {})},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec},
        "status": status,
    }
    made = parse_object(Document("t", 1, data, {}))
    assert isinstance(made, Service)
    return made


def test_ours_counts_before_metallbs_and_the_specs() -> None:
    all_of_them = {
        OURS + "load-balancer-ips": "192.0.2.1, 2001:db8::1",
        METALLB + "loadBalancerIPs": "192.0.2.2",
        FORMER + "loadBalancerIPs": "192.0.2.3",
        OURS + "address-pool": "a,b",
        METALLB + "address-pool": "c",
        OURS + "allow-shared-ip": "k1",
        METALLB + "allow-shared-ip": "k2",
    }
    for gone, addresses, pools, key in (
        ("", ("192.0.2.1", "2001:db8::1"), ("a", "b"), "k1"),
        (OURS, ("192.0.2.2",), ("c",), "k2"),
        (METALLB, ("192.0.2.3",), (), None),
        (FORMER, ("192.0.2.4",), (), None),
    ):
        if gone:
            all_of_them = {k: v for k, v in all_of_them.items() if not k.startswith(gone)}
        asked = service(all_of_them, loadBalancerIP="192.0.2.4").request
        wanted = tuple(parse_address(text) for text in addresses)
        assert asked == Request(addresses=wanted, pools=pools, sharing_key=key)


def test_families_and_selector() -> None:
    asked = service(
        ipFamilies=["IPv6", "IPv4"], ipFamilyPolicy="RequireDualStack", selector={"app": "web"}
    ).request
    assert asked == Request(
        families=(Family.IPV6, Family.IPV4), dual_stack="RequireDualStack", selector={"app": "web"}
    )


@pytest.mark.parametrize(
    ("annotations", "spec", "problem"),
    [
        (
            {OURS + "load-balancer-ips": "192.0.2.1,web"},
            {},
            "samepath.dev/load-balancer-ips: 'web' does not appear to be an IPv4 or IPv6 address",
        ),
        (
            {METALLB + "loadBalancerIPs": "192.0.2.1,192.0.2.2"},
            {},
            "metallb.io/loadBalancerIPs: more than one address of a family",
        ),
        ({}, {"loadBalancerIP": "127.0.0.1"}, "spec.loadBalancerIP: 127.0.0.1 is loopback"),
        ({OURS + "address-pool": "A"}, {}, "samepath.dev/address-pool: 'A' is no name of a pool"),
    ],
)
def test_what_is_wrong_is_said_and_the_service_stays(
    annotations: dict[str, str], spec: dict[str, Any], problem: str
) -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    made = service(annotations, status, **spec)
    assert made.request.problem == problem
    assert made.load_balancer_ips == (parse_address("203.0.113.1"),)


def test_source_ranges() -> None:
    name = "service.beta.kubernetes.io/load-balancer-source-ranges"
    wanted = (parse_prefix("192.0.2.0/24"), parse_prefix("2001:db8::/32"))
    both = ["192.0.2.0/24", " 2001:db8::/32 "]
    assert service(loadBalancerSourceRanges=both).source_ranges == wanted
    assert service({name: ",".join(both)}).source_ranges == wanted
    assert service({name: "10.0.0.0/8"}, loadBalancerSourceRanges=both).source_ranges == wanted
    assert service({name: "  "}).source_ranges == ()
    # What is wrong lets in less, never all.
    some = service({name: "192.0.2.0/24,office"})
    assert some.source_ranges == wanted[:1]
    assert some.request.problem.startswith(f"{name}: 'office' is not a CIDR")
    assert service({name: "office"}).source_ranges == NOBODY
    with pytest.raises(
        DocumentError, match=r"spec\.loadBalancerSourceRanges\[1\]: 'office' is not"
    ):
        service(loadBalancerSourceRanges=["192.0.2.0/24", "office"])


def test_the_rest_of_a_service() -> None:
    made = service(
        metadata={
            "uid": "u",
            "resourceVersion": "9",
            "labels": {"a": "b"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        ports=[{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 0}],
        healthCheckNodePort=32000,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
    )
    assert [port.node_port for port in made.ports] == [30080, None]
    assert made.health_check_node_port == 32000
    assert (made.affinity, made.affinity_timeout_s) == (True, 60)
    assert (made.uid, made.resource_version, made.labels) == ("u", "9", {"a": "b"})
    assert made.created == "2026-01-01T00:00:00Z"
    plain = service(healthCheckNodePort=0, sessionAffinity="ClientIP")
    assert (plain.health_check_node_port, plain.affinity_timeout_s) == (None, 10800)
    with pytest.raises(DocumentError, match=r"clientIP\.timeoutSeconds: 1 to 86400, not 0"):
        service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}})


def test_what_the_controller_has_written() -> None:
    said = {"type": "samepath.dev/AddressAssigned", "reason": "Assigned", "message": "192.0.2.1"}
    made = service(
        {"samepath.dev/ip-allocated-from-pool": "a,b"},
        {"conditions": [{"type": "Other", "reason": "x"}, said]},
    )
    assert made.allocation == Allocation(("a", "b"), "Assigned", "192.0.2.1")
    assert service().allocation == Allocation()


def test_a_node_keeps_its_good_addresses() -> None:
    texts = ("192.0.2.1", "node-1.example", "fe80::1", "", "2001:db8::1")
    addresses = [{"type": "InternalIP", "address": text} for text in texts]
    data = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": "n1"},
        "status": {"addresses": addresses},
    }
    kept = (parse_address("192.0.2.1"), parse_address("2001:db8::1"))
    assert parse_object(Document("t", 1, data, {})) == Node("n1", addresses=kept)
