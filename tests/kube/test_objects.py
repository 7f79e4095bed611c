"""Kubernetes objects from documents: defaults, partial reading, refusals with the field."""

from __future__ import annotations

from typing import Any

import pytest

from samepath.kube.objects import object_key, parse_object, parse_objects
from samepath.model.cluster import (
    Endpoint,
    EndpointSlice,
    IPPool,
    Node,
    NodeDrain,
    Protocol,
    Request,
    Service,
    ServicePort,
    SlicePort,
)
from samepath.model.documents import DocumentError, parse
from samepath.model.net import Family, parse_address, parse_prefix


def only(text: str) -> Any:
    (document,) = parse(text, "t.yaml")
    return parse_object(document)


def test_node() -> None:
    node = only(
        """
kind: Node
apiVersion: v1
metadata: {name: n1, labels: {kubernetes.io/hostname: n1}}
spec: {podCIDRs: [10.1.0.0/24, 'fd00:1::/64'], unschedulable: true, taints: [{key: x}]}
status:
  conditions: []
  addresses:
    - {type: Hostname, address: n1}
    - {type: InternalIP, address: 192.0.2.1}
    - {type: InternalIP, address: '2001:db8::1'}
    - {type: ExternalIP, address: 203.0.113.1}
"""
    )
    assert node == Node(
        "n1",
        (parse_prefix("10.1.0.0/24"), parse_prefix("fd00:1::/64")),
        addresses=(parse_address("192.0.2.1"), parse_address("2001:db8::1")),
        labels={"kubernetes.io/hostname": "n1"},
    )


POOL = """kind: IPPool
apiVersion: samepath.dev/v1
metadata: {name: pods}
spec:
  cidr: 10.128.0.0/14
"""


def test_pool_and_its_defaults() -> None:
    family, cidr = parse_prefix("10.128.0.0/14")
    assert only(POOL) == IPPool("pods", family, cidr, 26)
    assert object_key(only(POOL)) == "IPPool pods"
    family, cidr = parse_prefix("fd00:10::/56")
    text = POOL.replace("10.128.0.0/14", "'fd00:10::/56'")
    assert only(text) == IPPool("pods", family, cidr, 122)
    assert only(POOL.replace("/14", "/28")).block_size == 28
    given = "  blockSize: 24\n  natOutgoing: true\n  disabled: true\n  nodeSelector: has(x)\n"
    made = only(POOL + given)
    assert (made.block_size, made.nat_outgoing, made.disabled) == (24, True, True)
    assert made.node_selector == "has(x)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POOL.replace("10.128.0.0/14", "10.128.0.1/14"), "t.yaml:5: spec.cidr: 10.128.0.1/14 has"),
        (POOL.replace("10.128.0.0/14", "0.0.0.0/0"), "spec.cidr: 0.0.0.0/0 is every address"),
        (POOL.replace("10.128.0.0/14", "224.0.0.0/8"), "spec.cidr: 224.0.0.0 is multicast"),
        (POOL + "  blockSize: 13\n", "spec.blockSize: a block of 10.128.0.0/14 is /16 to /32"),
        (POOL + "  blockSize: 33\n", "t.yaml:6: spec.blockSize: a block of"),
        (POOL.replace("/14", "/28") + "  blockSize: 26\n", "10.128.0.0/28 is /28 to /32"),
        (POOL + "  nodeSelector: has(\n", "spec.nodeSelector: at character 5: expected a label"),
        (POOL + "  ipipMode: Always\n", "t.yaml:6: spec.ipipMode: unknown field"),
        (POOL + "  blocksize: 26\n", "spec.blocksize: unknown field; is blockSize meant?"),
        (POOL.replace("samepath.dev/v1", "samepath.dev/v2"), "samepath.dev/v2 is not read, only"),
        (
            POOL.replace("samepath.dev/v1", "crd.projectcalico.org/v1"),
            "t.yaml:2: apiVersion: crd.projectcalico.org/v1 is Calico's IPPool, which is not read:"
            " write samepath.dev/v1",
        ),
        (POOL.replace("samepath.dev/v1", "projectcalico.org/v3"), "write samepath.dev/v1"),
    ],
)
def test_pools_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        only(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "drain"),
    [
        ("labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}", NodeDrain.LABEL),
        ("annotations: {samepath.dev/drain: 'true'}", NodeDrain.ANNOTATION),
        ("annotations: {samepath.dev/drain: ''}", NodeDrain.ANNOTATION),
        ("annotations: {samepath.dev/drain: 'false'}", None),
        ("labels: null", None),
    ],
)
def test_a_node_drains_by_label_or_annotation(metadata: str, drain: NodeDrain | None) -> None:
    text = f"kind: Node\napiVersion: v1\nmetadata:\n  name: n1\n  {metadata}\n"
    assert only(text).drain is drain
    cordoned = only(text + "spec: {unschedulable: true}\n")
    assert cordoned.drain is drain


SERVICE = """
kind: Service
apiVersion: v1
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::10']
  externalIPs: [198.51.100.7]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  sessionAffinity: ClientIP
  healthCheckNodePort: 30000
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 31000}
    - {name: dns, port: 53, protocol: UDP, targetPort: dns}
status: {loadBalancer: {ingress: [{ip: 203.0.113.10, ipMode: VIP}, {hostname: x}, {ip: 192.0.2.9, ipMode: Proxy}]}}
"""  # noqa: E501


def test_service() -> None:
    assert only(SERVICE) == Service(
        namespace="shop",
        name="web",
        ports=(
            ServicePort(80, Protocol.TCP, "http", 31000),
            ServicePort(53, Protocol.UDP, "dns"),
        ),
        cluster_ips=(parse_address("10.96.0.10"), parse_address("fd00:96::10")),
        external_ips=(parse_address("198.51.100.7"),),
        load_balancer=True,
        load_balancer_ips=(parse_address("203.0.113.10"),),
        external_local=True,
        affinity=True,
        health_check_node_port=30000,
        request=Request(selector={"app": "web"}),
    )
    assert object_key(only(SERVICE)) == "Service shop/web"


def test_headless_and_external_name_have_no_cluster_ip() -> None:
    for spec in ("{clusterIP: None}", "{type: ExternalName, externalName: x.example}"):
        service = only(f"kind: Service\napiVersion: v1\nmetadata: {{name: a}}\nspec: {spec}\n")
        assert service == Service("default", "a")


SLICE = """
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: any, port: null}]
endpoints:
  - addresses: [10.1.0.1]
    nodeName: n1
    targetRef: {kind: Pod, name: web-a, namespace: default}
  - addresses: [10.1.0.2]
    conditions: {ready: false, serving: true, terminating: true}
  - addresses: [10.1.0.3]
    conditions: {ready: false}
"""


def test_slice_and_the_defaults_of_conditions() -> None:
    assert only(SLICE) == EndpointSlice(
        namespace="default",
        name="web-1",
        service="web",
        family=Family.IPV4,
        ports=(SlicePort(8080, name="http"), SlicePort(None, name="any")),
        endpoints=(
            Endpoint(parse_address("10.1.0.1"), "n1", True, True, False, "default/web-a"),
            Endpoint(parse_address("10.1.0.2"), None, False, True, True),
            Endpoint(parse_address("10.1.0.3"), None, False, False, False),
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        "kind: Deployment\napiVersion: apps/v1\nmetadata: 5\n",
        "kind: Service\napiVersion: serving.knative.dev/v1\nmetadata: 5\n",
        SLICE.replace("IPv4", "FQDN").replace("10.1.0", "x"),
    ],
)
def test_what_we_do_not_read_is_none(text: str) -> None:
    assert only(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metadata: {name: a}\n", "t.yaml:1: kind: missing"),
        ("- 5\n", "t.yaml:1: expected object, got array"),
        (SERVICE.replace("port: 80,", "port: eighty,"), "t.yaml:16: spec.ports[0].port: expected"),
        (SERVICE.replace("port: 80,", "port: 80000,"), "spec.ports[0].port: 1 to 65535, not 80000"),
        (SERVICE.replace("port: 53, protocol: UDP", "port: 80"), "spec.ports: a port stands twice"),
        (SERVICE.replace("protocol: UDP", "protocol: udp"), "spec.ports[1].protocol: invalid enum"),
        (SERVICE.replace("198.51.100.7", "300.1.1.1"), "t.yaml:9: spec.externalIPs[0]: '300.1.1"),
        (SERVICE.replace("198.51.100.7", "127.0.0.1"), "127.0.0.1 is loopback"),
        (SERVICE.replace("203.0.113.10", "'fe80::1%eth0'"), "is link-local"),
        (SERVICE.replace("203.0.113.10", "0.0.0.0"), "ingress[0].ip: 0.0.0.0 is unspecified"),
        (SERVICE.replace("Local", "local"), "spec.externalTrafficPolicy: invalid enum value"),
        (SERVICE.replace("name: web,", "name: 'x; drop',"), "metadata.name: 'x; drop' is no obj"),
        (SLICE.replace("10.1.0.1", "fd00::1"), "t.yaml:8: endpoints[0].addresses: not of type"),
        (SLICE.replace("[10.1.0.1]", "[]"), "endpoints[0].addresses: empty"),
        (SLICE.replace("ready: false}", "ready: no}"), "endpoints[2].conditions.ready: expected"),
        (SLICE.replace("io/v1", "io/v1beta1"), "t.yaml:3: apiVersion: discovery.k8s.io/v1beta1 is"),
        (
            "kind: Node\napiVersion: v1\nmetadata: {name: a}\nspec: {podCIDR: 10.1.0.1/24}\n",
            "t.yaml:4: spec.podCIDR: 10.1.0.1/24 has host bits set",
        ),
    ],
)
def test_refusals_name_the_field(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        only(text)
    assert said in str(caught.value)


def test_a_list_is_its_items() -> None:
    items = "".join(
        f"- kind: Service\n  apiVersion: v1\n  metadata: {{name: s{i}}}\n"
        f"  spec: {{ports: [{{port: {80 + i}}}]}}\n"
        for i in range(3)
    )
    (document,) = parse("kind: List\napiVersion: v1\nitems:\n" + items, "t.yaml")
    assert [t.name for _, t in parse_objects(document)] == ["s0", "s1", "s2"]
    bad = items.replace("port: 81", "port: x")
    (document,) = parse("kind: List\napiVersion: v1\nitems:\n" + bad, "t.yaml")
    with pytest.raises(DocumentError) as caught:
        list(parse_objects(document))
    assert str(caught.value) == "t.yaml:11: items[1].spec.ports[0].port: expected int, got str"


def test_a_typed_list_lends_its_kind() -> None:
    text = "kind: NodeList\napiVersion: v1\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]\n"
    (document,) = parse(text, "t.yaml")
    assert [t.name for _, t in parse_objects(document)] == ["a", "b"]
