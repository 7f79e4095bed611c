"""Calico's objects as ours, and its selectors as label selectors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.kube.imports.calico import import_calico
from samepath.kube.imports.report import Fate, Imported
from samepath.kube.imports.selectors import Inexpressible, label_selectors
from samepath.kube.objects import parse_object
from samepath.model.documents import Document, parse
from samepath.model.kinds import BGPPeer, any_selects
from samepath.model.selector import selects

V3 = "apiVersion: projectcalico.org/v3\n"


def imported(text: str) -> Imported:
    found = import_calico(parse(text, "t.yaml"))
    for made in found.objects:
        assert parse_object(Document("ours", 1, made, {})) is not None
    return found


def said(found: Imported, *fates: Fate) -> list[tuple[str, str]]:
    return [(line.field, line.text) for line in found.lines if line.fate in fates]


def pool(spec: str) -> Imported:
    return imported(
        f"{V3}kind: IPPool\nmetadata: {{name: p}}\nspec: {{cidr: 10.48.0.0/16{spec}}}\n"
    )


def test_pools() -> None:
    found = pool(
        ", blockSize: 25, ipipMode: Never, vxlanMode: Never, natOutgoing: true, disabled: true"
        ", nodeSelector: \"rack == 'a'\", allowedUses: [Workload, Tunnel]"
        ", disableBGPExport: false, assignmentMode: Automatic"
    )
    assert found.is_whole
    assert found.objects[0] == {
        "apiVersion": "samepath.dev/v1",
        "kind": "IPPool",
        "metadata": {"name": "p"},
        "spec": {
            "cidr": "10.48.0.0/16",
            "blockSize": 25,
            "natOutgoing": True,
            "disabled": True,
            "nodeSelector": "rack == 'a'",
        },
    }


@pytest.mark.parametrize(
    ("spec", "field", "text"),
    [
        (", ipipMode: Always", "spec.ipipMode", "the whole object: Always, and there are no tun"),
        (", vxlanMode: CrossSubnet", "spec.vxlanMode", "the whole object: CrossSubnet, and"),
        (", allowedUses: [Tunnel]", "spec.allowedUses", "the whole object: for Tunnel, which"),
        (", nodeSelector: has(", "spec.nodeSelector", "the whole object: at character"),
        (", blockSize: 10", "spec.blockSize", "the whole object: a block of 10.48.0.0/16 is"),
    ],
)
def test_pools_that_are_left_out(spec: str, field: str, text: str) -> None:
    found = pool(spec)
    assert found.objects == []
    ((path, why),) = said(found, *Fate)
    assert path == field
    assert why.startswith(text)


def test_fields_of_pools_that_are_left_out() -> None:
    found = pool(", disableBGPExport: true, assignmentMode: Manual, namespaceSelector: has(x)")
    assert len(found.objects) == 1
    assert [path for path, _ in said(found, Fate.LEFT_OUT)] == [
        "spec.disableBGPExport",
        "spec.assignmentMode",
        "spec.namespaceSelector",
    ]


def test_a_pool_for_services_is_an_address_pool() -> None:
    found = pool(", allowedUses: [LoadBalancer], assignmentMode: Manual, blockSize: 26")
    (made,) = found.objects
    assert made["kind"] == "IPAddressPool"
    assert made["spec"] == {"addresses": ["10.48.0.0/16"], "autoAssign": False}
    assert found.is_whole


CONFIGURATION = (
    V3
    + """
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64600
  nodeToNodeMeshEnabled: true
  listenPort: 1790
  logSeverityScreen: Debug
  serviceLoadBalancerIPs: [{cidr: 203.0.113.0/24}]
  serviceExternalIPs: [{cidr: 198.51.100.0/24}]
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  communities: [{name: edge, value: "64600:5"}, {name: wide, value: "64600:1:2"}]
  prefixAdvertisements:
    - {cidr: 203.0.113.0/24, communities: [edge, "64600:6", "64600:7:8"]}
    - {cidr: 10.48.0.0/16, communities: [edge]}
  nodeMeshMaxRestartTime: 2m
"""
)


def test_configuration() -> None:
    found = imported(CONFIGURATION)
    specs = {(m["kind"], m["metadata"]["name"]): m["spec"] for m in found.objects}
    assert specs == {
        ("Community", "calico"): {
            "communities": [
                {"name": "edge", "value": "64600:5"},
                {"name": "wide", "value": "large:64600:1:2"},
            ]
        },
        ("IPAddressPool", "calico-services"): {
            "addresses": ["203.0.113.0/24"],
            "autoAssign": False,
        },
        ("BGPAdvertisement", "calico-services"): {
            "ipAddressPools": ["calico-services"],
            "communities": ["edge", "64600:6", "large:64600:7:8"],
        },
    }
    to_do = dict(said(found, Fate.TO_DO))
    assert to_do["spec.asNumber"] == "agent.yaml: `as: 64600`"
    assert to_do["spec.nodeToNodeMeshEnabled"] == "agent.yaml: `mesh: true`"
    assert to_do["spec.listenPort"] == "agent.yaml: `listen_port: 1790`"
    assert to_do["spec.serviceExternalIPs"].startswith("agent.yaml: `advertise: {external_ips: [")
    assert to_do["spec.serviceClusterIPs"].startswith("agent.yaml: `advertise: {cluster_ips: true")
    assert [path for path, _ in said(found, Fate.LEFT_OUT)] == [
        "spec.prefixAdvertisements",
        "spec.nodeMeshMaxRestartTime",
    ]
    assert [path for path, _ in said(found, Fate.SKIPPED)] == ["spec.logSeverityScreen"]


def test_the_lines_for_agent_yaml_are_of_agent_yaml() -> None:
    """Every line that a person is told to write is a field of the configuration."""
    from samepath.model.config import Advertise, AgentConfig

    fields = {*AgentConfig.__struct_encode_fields__, *Advertise.__struct_encode_fields__}
    for _, text in said(imported(CONFIGURATION), Fate.TO_DO):
        line = text.partition("`")[2].partition("`")[0]
        (document,) = parse(line, "agent.yaml")
        names = {*document.data}
        for inner in document.data.values():
            names |= {*inner} if isinstance(inner, dict) else set()
        assert names <= fields


def test_an_empty_configuration_says_what_calico_does_unasked() -> None:
    found = imported(V3 + "kind: BGPConfiguration\nmetadata: {name: default}\n")
    assert dict(said(found, Fate.TO_DO)) == {
        "spec.nodeToNodeMeshEnabled": "agent.yaml: `mesh: true`",
        "spec.serviceLoadBalancerIPs": "agent.yaml: `advertise: {load_balancer_ips: false}`, "
        "as long as there is none",
        "spec.serviceExternalIPs": "agent.yaml: `advertise: {external_ips: false}`",
    }
    of_node = imported(
        V3 + "kind: BGPConfiguration\nmetadata: {name: node.w1}\nspec: {listenPort: 5}\n"
    )
    assert said(of_node, *Fate) == [
        ("spec.listenPort", "of the node w1 alone: its own agent.yaml says it")
    ]


def peer(spec: str, before: str = "") -> Imported:
    return imported(f"{before}\n---\n{V3}kind: BGPPeer\nmetadata: {{name: t}}\nspec: {{{spec}}}\n")


def test_peers() -> None:
    found = peer("peerIP: 192.0.2.1, asNumber: 64500, nodeSelector: rack == 'a'", CONFIGURATION)
    made = next(m for m in found.objects if m["kind"] == "BGPPeer")
    assert made["spec"] == {
        "nodeSelectors": [{"matchLabels": {"rack": "a"}}],
        "myASN": 64600,
        "peerASN": 64500,
        "ebgpMultiHop": True,
        "peerAddress": "192.0.2.1",
        "enableGracefulRestart": True,
    }
    (internal,) = peer("peerIP: 192.0.2.1, asNumber: 64512").objects
    assert internal["spec"] == {
        "myASN": 64512,
        "peerASN": 64512,
        "peerAddress": "192.0.2.1",
        "enableGracefulRestart": True,
    }


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 179),
        ("192.0.2.1:1790", "192.0.2.1", 1790),
        ("2001:db8::1", "2001:db8::1", 179),
        ("[2001:db8::1]:1790", "2001:db8::1", 1790),
    ],
)
def test_addresses_and_ports_of_peers(text: str, address: str, port: int) -> None:
    (made,) = peer(f'peerIP: "{text}", asNumber: 64500').objects
    read = parse_object(Document("t", 1, made, {}))
    assert isinstance(read, BGPPeer)
    assert made["spec"]["peerAddress"] == address
    assert read.peer_port == port


def test_further_fields_of_peers() -> None:
    found = peer(
        'peerIP: 192.0.2.1, asNumber: "1.10", node: w1, localASNumber: 64999, sourceAddress: None, '
        "password: {secretKeyRef: {name: s, key: word}}, keepOriginalNextHop: true, "
        "filters: [f], ttlSecurity: 1, numAllowedLocalASNumbers: 2"
    )
    (made,) = found.objects
    assert made["spec"]["myASN"] == 64999
    assert made["spec"]["peerASN"] == 65546
    assert made["spec"]["passwordSecret"] == {"name": "s"}
    assert made["spec"]["nodeSelectors"] == [{"matchLabels": {"kubernetes.io/hostname": "w1"}}]
    assert [path for path, _ in said(found, Fate.LEFT_OUT)] == [
        "spec.sourceAddress",
        "spec.keepOriginalNextHop",
        "spec.filters",
        "spec.ttlSecurity",
        "spec.numAllowedLocalASNumbers",
    ][1:]
    assert [path for path, _ in said(found, Fate.TO_DO)] == ["spec.password"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("nodeSelector: all(), peerSelector: has(rr)", "spec.peerSelector"),
        ("peerIP: 192.0.2.1, asNumber: 5, nodeSelector: a contains 'b'", "spec.nodeSelector"),
        ("peerIP: 192.0.2.1, asNumber: 5, nodeSelector: a ==", "spec.nodeSelector"),
        ("peerIP: tor, asNumber: 5", "spec.peerAddress"),
        ("asNumber: 5", "spec.peerIP"),
    ],
)
def test_peers_that_are_left_out(spec: str, field: str) -> None:
    found = peer(spec)
    assert found.objects == []
    assert [path for path, _ in said(found, Fate.LEFT_OUT)] == [field]


def test_other_kinds() -> None:
    lines = [
        f"{V3}kind: {kind}\nmetadata: {{name: x}}\n"
        for kind in ("BGPFilter", "GlobalNetworkPolicy", "IPAMBlock", "Whatever")
    ]
    found = imported("---\n".join(lines))
    assert len(said(found, Fate.LEFT_OUT)) == 3
    assert len(said(found, Fate.SKIPPED)) == 1


# -- Selectors --------------------------------------------------------------------------------


def test_selectors_as_people_would_write_them() -> None:
    for text, wanted in (
        ("all()", []),
        ("", []),
        ("rack == 'a'", [{"matchLabels": {"rack": "a"}}]),
        ("has(x)", [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}]),
        (
            "rack == 'a' && !has(x) || k not in {'p', 'q'}",
            [
                {
                    "matchLabels": {"rack": "a"},
                    "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}],
                },
                {
                    "matchExpressions": [
                        {"key": "k", "operator": "NotIn", "values": ["p", "q"]},
                    ]
                },
            ],
        ),
    ):
        assert label_selectors(text) == wanted
    for text in ("!(a == 'b')", "a contains 'b'", "a in {}", "!all()"):
        with pytest.raises(Inexpressible):
            label_selectors(text)


KEYS, VALUES = st.sampled_from("abc"), st.sampled_from("xyz")
terms = st.one_of(
    st.just("all()"),
    KEYS.map("has({})".format),
    KEYS.map("!has({})".format),
    st.builds("{} == '{}'".format, KEYS, VALUES),
    st.builds("{} != '{}'".format, KEYS, VALUES),
    st.builds("{} in {{'{}', '{}'}}".format, KEYS, VALUES, VALUES),
    st.builds("{} not in {{'{}', '{}'}}".format, KEYS, VALUES, VALUES),
)
texts = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("{} || {}".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        inner.map("({})".format),
    ),
    max_leaves=5,
)


@given(texts, st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=8))
def test_label_selectors_say_the_same(text: str, nodes: list[dict[str, str]]) -> None:
    try:
        found = label_selectors(text)
    except Inexpressible:
        return
    spec: dict[str, Any] = {"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1"}
    data = {
        "apiVersion": "samepath.dev/v1",
        "kind": "BGPPeer",
        "metadata": {"name": "a"},
        "spec": {**spec, "nodeSelectors": found},
    }
    made = parse_object(Document("t", 1, data, {}))
    assert isinstance(made, BGPPeer)
    for labels in nodes:
        assert any_selects(made.node_selectors, labels) == selects(text, labels)
