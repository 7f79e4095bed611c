"""MetalLB's objects as ours: all versions, the former ConfigMap, and nothing lost in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.kube.imports.calico import import_calico
from samepath.kube.imports.metallb import import_metallb
from samepath.kube.imports.report import Fate, Imported
from samepath.kube.kinds import READERS
from samepath.kube.objects import parse_object
from samepath.model.documents import Document, DocumentError, parse


def imported(text: str) -> Imported:
    found = import_metallb(parse(text, "t.yaml"))
    for made in found.objects:
        assert parse_object(Document("ours", 1, made, {})) is not None
    return found


def said(found: Imported, *fates: Fate) -> list[tuple[str, str, str]]:
    return [(line.object, line.field, line.text) for line in found.lines if line.fate in fates]


def lost(found: Imported) -> list[tuple[str, str, str]]:
    return said(found, Fate.LEFT_OUT, Fate.TO_DO)


PLAIN = """
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: spine-1
  namespace: metallb-system
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  generation: 3
spec:
  myASN: 65010
  peerASN: 65001
  peerAddress: 10.20.0.1
  peerPort: 1179
  holdTime: 1m30s
  keepaliveTime: 30s
  connectTime: 5s
  routerID: 10.20.0.100
  bfdProfile: quick
  ebgpMultiHop: true
  enableGracefulRestart: true
  disableMP: false
  password: ""
  passwordSecret: {}
  vrf: ""
  nodeSelectors:
    - matchLabels: {row: "3"}
      matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [w1, w2]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: web, namespace: metallb-system, labels: {tier: web}}
spec:
  addresses: [203.0.113.0/26, 203.0.113.80-203.0.113.99, "2001:db8:7::/120"]
  autoAssign: false
  avoidBuggyIPs: true
  serviceAllocation:
    priority: 20
    namespaces: [store]
    namespaceSelectors: [{matchLabels: {team: web}}]
    serviceSelectors: [{matchExpressions: [{key: app, operator: Exists}]}]
status: {assignedIPv4: 4, assignedIPv6: 0, availableIPv4: 80, availableIPv6: 0}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: all, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: web}
spec:
  ipAddressPools: [web]
  ipAddressPoolSelectors: [{matchLabels: {tier: web}}]
  aggregationLength: 26
  aggregationLengthV6: 124
  localPref: 150
  communities: [internal, "65010:77", "large:65010:1:2"]
  nodeSelectors: [{matchLabels: {row: "3"}}]
  peers: [spine-1]
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names}
spec: {communities: [{name: internal, value: "65010:1"}, {name: far, value: "large:65010:9:9"}]}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: quick}
spec: {receiveInterval: 150, transmitInterval: 150, detectMultiplier: 5, passiveMode: true, minimumTtl: 254}
"""  # noqa: E501


def test_metallbs_yaml_needs_only_another_api_version() -> None:
    found = imported(PLAIN)
    assert found.is_whole
    assert said(found, Fate.CHANGED, Fate.SKIPPED) == []
    documents = parse(PLAIN, "t.yaml")
    assert len(found.objects) == len(documents) == 6
    for made, document in zip(found.objects, documents, strict=True):
        data = document.data | {"apiVersion": "samepath.dev/v1"}
        by_hand = parse_object(Document("t", 1, data, {}))
        assert parse_object(Document("t", 1, made, {})) == by_hand
        assert set(made["metadata"]) <= {"name", "labels"}
        assert "status" not in made


@pytest.mark.parametrize(
    ("spec", "field", "why"),
    [
        ("vrf: red", "spec.vrf", "the whole object: VRFs are not supported"),
        ("interface: eth1", "spec.interface", "the whole object: sessions without addresses"),
        ("holdTime: 1s", "spec.holdTime", "the whole object: 0s, or 3s to 65535s, not 1s"),
    ],
)
def test_a_peer_that_would_be_another_is_left_out(spec: str, field: str, why: str) -> None:
    head = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p}\nspec:\n"
    found = imported(f"{head}  {{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, {spec}}}\n")
    assert found.objects == []
    ((thing, path, text),) = lost(found)
    assert (thing, path) == ("BGPPeer p", field)
    assert text.startswith(why)


def test_what_our_kinds_do_not_have_is_said() -> None:
    found = imported(
        """
kind: List
apiVersion: v1
items:
  - apiVersion: metallb.io/v1beta1
    kind: BFDProfile
    metadata: {name: b}
    spec: {echoMode: true, echoInterval: 62, receiveInterval: 300}
  - apiVersion: metallb.io/v1beta2
    kind: BGPPeer
    metadata: {name: p}
    spec:
      {myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, newField: 7,
       passwordSecret: {name: s, namespace: metallb-system}}
  - {apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {name: l2}}
  - {apiVersion: metallb.io/v1beta1, kind: ServiceL2Status, metadata: {name: x}, status: {}}
  - {apiVersion: metallb.io/v1beta1, kind: MetalLB, metadata: {name: m}}
  - {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
"""
    )
    assert [made["kind"] for made in found.objects] == ["BFDProfile", "BGPPeer"]
    assert found.objects[0]["spec"] == {"receiveInterval": 300}
    assert found.objects[1]["spec"]["passwordSecret"] == {"name": "s"}
    assert [(thing, path) for thing, path, _ in lost(found)] == [
        ("BFDProfile b", "spec.echoMode"),
        ("BFDProfile b", "spec.echoInterval"),
        ("BGPPeer p", "spec.newField"),
        ("BGPPeer p", "spec.passwordSecret"),
        ("L2Advertisement l2", ""),
        ("MetalLB m", ""),
        ("Deployment d", ""),
    ]
    assert said(found, Fate.TO_DO)[0][2].endswith("copy it there from metallb-system")
    assert [thing for thing, _, _ in said(found, Fate.SKIPPED)] == ["ServiceL2Status x"]
    assert not found.is_whole


def test_a_keepalive_time_of_its_own_is_not_kept() -> None:
    head = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p}\nspec:\n"
    plain = f"{head}  {{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, keepaliveTime: "
    assert said(imported(plain + "30s}"), Fate.CHANGED) == []
    assert said(imported(plain + "10s, holdTime: 30s}"), Fate.CHANGED) == []
    ((_, path, _),) = said(imported(plain + "10s}"), Fate.CHANGED)
    assert path == "spec.keepaliveTime"


def test_two_of_one_name() -> None:
    one = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: a}\n"
    found = imported(f"{one}---\n{one}")
    assert len(found.objects) == 1
    assert lost(found) == [
        ("BGPAdvertisement a", "metadata.name", "there is another BGPAdvertisement a")
    ]


def test_address_pool_of_v1beta1() -> None:
    head = "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {name: p}\nspec:\n"
    addresses = "  addresses: [203.0.113.0/24]\n  autoAssign: false\n"
    plain = imported(f"{head}{addresses}  protocol: bgp\n")
    assert plain.is_whole
    pool, told = plain.objects
    assert pool["spec"] == {"addresses": ["203.0.113.0/24"], "autoAssign": False}
    assert (told["metadata"]["name"], told["spec"]) == ("p", {"ipAddressPools": ["p"]})
    two = (
        "  bgpAdvertisements:\n    - {aggregationLength: 32, localPref: 1, communities: [a]}\n"
        "    - {aggregationLength: 24, oldField: 1}\n"
    )
    found = imported(f"{head}{addresses}  protocol: bgp\n{two}")
    assert [made["metadata"]["name"] for made in found.objects] == ["p", "p-1", "p-2"]
    assert found.objects[2]["spec"] == {"ipAddressPools": ["p"], "aggregationLength": 24}
    assert [path for _, path, _ in lost(found)] == ["spec.bgpAdvertisements[1].oldField"]
    layer2 = imported(f"{head}{addresses}  protocol: layer2\n")
    assert [made["kind"] for made in layer2.objects] == ["IPAddressPool"]
    assert lost(layer2)[0][1] == "spec.protocol"


def test_the_former_config_map() -> None:
    found = imported(
        """
apiVersion: v1
kind: ConfigMap
metadata: {namespace: metallb-system, name: config}
data:
  config: |
    peers:
      - peer-address: 10.20.0.1
        peer-asn: 65001
        my-asn: 65010
        hold-time: 30s
        router-id: 10.20.0.100
        ebgp-multihop: true
        bfd-profile: quick
        node-selectors:
          - match-labels: {row: "3"}
            match-expressions: [{key: role, operator: NotIn, values: [edge]}]
      - {name: second, peer-address: "2001:db8::1", peer-asn: 65002, my-asn: 65010}
    bfd-profiles:
      - {name: quick, receive-interval: 150, detect-multiplier: 4, minimum-ttl: 250, echo-mode: true}
    bgp-communities: {internal: "65010:1"}
    address-pools:
      - name: Public_IPs
        protocol: bgp
        auto-assign: false
        avoid-buggy-ips: true
        addresses: [203.0.113.0/24]
        bgp-advertisements:
          - {aggregation-length: 32, aggregation-length-v6: 120, localpref: 100, communities: [internal]}
"""  # noqa: E501
    )
    specs = {(m["kind"], m["metadata"]["name"]): m["spec"] for m in found.objects}
    assert specs == {
        ("BGPPeer", "peer-10-20-0-1"): {
            "peerAddress": "10.20.0.1",
            "peerASN": 65001,
            "myASN": 65010,
            "holdTime": "30s",
            "routerID": "10.20.0.100",
            "ebgpMultiHop": True,
            "bfdProfile": "quick",
            "nodeSelectors": [
                {
                    "matchLabels": {"row": "3"},
                    "matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["edge"]}],
                }
            ],
        },
        ("BGPPeer", "second"): {"peerAddress": "2001:db8::1", "peerASN": 65002, "myASN": 65010},
        ("BFDProfile", "quick"): {
            "receiveInterval": 150,
            "detectMultiplier": 4,
            "minimumTtl": 250,
        },
        ("Community", "communities"): {"communities": [{"name": "internal", "value": "65010:1"}]},
        ("IPAddressPool", "public-ips"): {
            "autoAssign": False,
            "avoidBuggyIPs": True,
            "addresses": ["203.0.113.0/24"],
        },
        ("BGPAdvertisement", "public-ips"): {
            "ipAddressPools": ["public-ips"],
            "aggregationLength": 32,
            "aggregationLengthV6": 120,
            "localPref": 100,
            "communities": ["internal"],
        },
    }
    assert [(t, p) for t, p, _ in lost(found)] == [("BFDProfile quick", "spec.echoMode")]
    assert [(t, p) for t, p, _ in said(found, Fate.CHANGED)] == [("AddressPool Public_IPs", "name")]


def test_errors_in_the_config_map_have_their_line() -> None:
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata:\n  config: |\n"
    with pytest.raises(DocumentError) as caught:
        imported(f"{head}    peers: [\n")
    assert "t.yaml: ConfigMap config: data.config:" in str(caught.value)
    other = imported("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n")
    assert lost(other) == [("ConfigMap c", "data.config", "there is none: not MetalLB's")]


# -- Whatever the input is --------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 40),
    st.sampled_from(["", "a", "1.2.3.4", "10.0.0.0/8", "all()", "a == 'b' || (c)", "x:1", "1.10"]),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "value", "cidr", "key", "a"]), inner, max_size=3),
    ),
    max_leaves=6,
)
FIELDS = [
    "addresses", "protocol", "bgpAdvertisements", "myASN", "peerASN", "peerAddress", "vrf",
    "passwordSecret", "nodeSelectors", "communities", "echoMode", "cidr", "ipipMode", "allowedUses",
    "blockSize", "asNumber", "peerIP", "nodeSelector", "node", "password", "peerSelector",
    "nodeToNodeMeshEnabled", "serviceLoadBalancerIPs", "serviceClusterIPs", "prefixAdvertisements",
    "listenPort", "sourceAddress", "disabled", "assignmentMode", "localASNumber",
]  # fmt: skip
KINDS = [*READERS, "AddressPool", "L2Advertisement", "BGPConfiguration", "BGPFilter", "ConfigMap"]
things = st.fixed_dictionaries(
    {
        "apiVersion": st.sampled_from(["metallb.io/v1beta1", "projectcalico.org/v3", "v1"]),
        "kind": st.sampled_from(KINDS),
        "metadata": st.fixed_dictionaries({"name": st.sampled_from(["default", "a", "A_b"])}),
        "spec": st.dictionaries(st.sampled_from(FIELDS), anything, max_size=6),
        "data": st.dictionaries(st.sampled_from(["config", "a"]), anything, max_size=2),
    }
)


@given(st.lists(things, max_size=3))
@settings(max_examples=300, deadline=None)
def test_whatever_is_given_is_taken_or_refused(given: list[dict[str, Any]]) -> None:
    for convert in (import_metallb, import_calico):
        documents = [Document("t", 1, thing, {}) for thing in given]
        try:
            found = convert(documents)
        except DocumentError:
            continue
        assert len({line.object for line in found.lines}) <= max(len(given), 1) * 3
        for thing in given:
            if thing["kind"] != "ConfigMap":
                title = f"{thing['kind']} {thing['metadata']['name']}"
                assert any(title == line.object for line in found.lines), title
        for made in found.objects:
            assert parse_object(Document("ours", 1, made, {})) is not None
