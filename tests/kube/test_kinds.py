"""The kinds of our own group: every field, its defaults, and refusals that name the field."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.kube.kinds import claim_block, claim_name
from samepath.kube.objects import object_key, parse_object
from samepath.kube.reading import duration_s, duration_text
from samepath.model.cluster import make_cluster
from samepath.model.documents import Document, DocumentError, parse
from samepath.model.kinds import (
    BFDProfile,
    BGPAdvertisement,
    BGPPeer,
    BlockClaim,
    Community,
    GatewayTier,
    IPAddressPool,
    Namespace,
    Operator,
    Range,
    Requirement,
    Secret,
    Selector,
    ServiceAllocation,
)
from samepath.model.neighbor import BfdProfile
from samepath.model.net import Family, make_nlri, parse_address, parse_prefix, prefix_text


def only(text: str) -> Any:
    (document,) = parse(text, "t.yaml")
    return parse_object(document)


def ours(kind: str, spec: dict[str, Any] | None, name: str = "a", **metadata: Any) -> Any:
    data: dict[str, Any] = {"apiVersion": "samepath.dev/v1", "kind": kind}
    data["metadata"] = {"name": name, **metadata}
    if spec is not None:
        data["spec"] = spec
    return parse_object(Document("t.yaml", 1, data, {}))


def refusal(kind: str, spec: dict[str, Any] | None, name: str = "a") -> str:
    with pytest.raises(DocumentError) as caught:
        ours(kind, spec, name)
    return str(caught.value).removeprefix("t.yaml:1: ")


PEER = {"myASN": 64512, "peerASN": 64500, "peerAddress": "192.0.2.1"}


def test_a_peer_with_every_field_in_metallbs_spelling() -> None:
    peer = only(
        """
apiVersion: samepath.dev/v1
kind: BGPPeer
metadata: {name: tor-a, namespace: metallb-system}
spec:
  myASN: 64512
  peerASN: 4200000001
  peerAddress: 192.0.2.1
  sourceAddress: 192.0.2.9
  peerPort: 1790
  holdTime: 1m30s
  keepaliveTime: 15s
  connectTime: 1500ms
  routerID: 10.0.0.1
  nodeSelectors:
    - matchLabels: {rack: a}
      matchExpressions:
        - {key: example.com/kind, operator: NotIn, values: [x, y]}
        - {key: gpu, operator: Exists}
    - matchLabels: {rack: b}
  password: open
  bfdProfile: fast
  enableGracefulRestart: true
  ebgpMultiHop: true
  disableMP: true
  dualStackAddressFamily: false
  interface: ""
  vrf: ""
"""
    )
    assert peer == BGPPeer(
        name="tor-a",
        my_asn=64512,
        peer_asn=4200000001,
        peer_address=parse_address("192.0.2.1"),
        source_address=parse_address("192.0.2.9"),
        peer_port=1790,
        hold_time_s=90,
        keepalive_time_s=15,
        connect_time_s=2,
        router_id=parse_address("10.0.0.1"),
        node_selectors=(
            Selector(
                (
                    Requirement("rack", Operator.IN, ("a",)),
                    Requirement("example.com/kind", Operator.NOT_IN, ("x", "y")),
                    Requirement("gpu", Operator.EXISTS),
                )
            ),
            Selector((Requirement("rack", Operator.IN, ("b",)),)),
        ),
        password="open",
        bfd_profile="fast",
        graceful_restart=True,
        ebgp_multi_hop=True,
        disable_mp=True,
    )
    assert object_key(peer) == "BGPPeer tor-a"
    assert "open" not in repr(peer)


def test_a_peer_with_the_least() -> None:
    assert ours("BGPPeer", PEER) == BGPPeer(
        name="a", my_asn=64512, peer_asn=64500, peer_address=parse_address("192.0.2.1")
    )
    dynamic = ours("BGPPeer", {**PEER, "peerASN": 0, "dynamicASN": "external"})
    assert dynamic.peer_asn == "external"
    secret = ours("BGPPeer", {**PEER, "passwordSecret": {"name": "s", "namespace": "x"}})
    assert (secret.password, secret.password_secret) == (None, "s")
    # What MetalLB's own clients write for none.
    assert ours("BGPPeer", {**PEER, "passwordSecret": {}, "password": "p"}).password == "p"
    assert ours("BGPPeer", {**PEER, "dualStackAddressFamily": False}).disable_mp
    assert ours("BGPPeer", {**PEER, "holdTime": "0s", "keepaliveTime": "0s"}).hold_time_s == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"vrf": "red"}, "spec.vrf: VRFs are not supported"),
        ({"interface": "eth1"}, "spec.interface: sessions without addresses are not supported"),
        ({"dynamicASN": "internal"}, "spec.dynamicASN: exactly one of peerASN and dynamicASN"),
        ({"peerASN": 0}, "spec.peerASN: exactly one of peerASN and dynamicASN"),
        ({"dynamicASN": "any"}, "spec.dynamicASN: invalid enum value"),
        ({"myASN": 0}, "spec.myASN: expected int >= 1"),
        ({"myASN": 1 << 32}, "spec.myASN: expected int <= 4294967294"),
        ({"peerAddress": "tor"}, "spec.peerAddress: 'tor' is not an IPv4 or IPv6 address"),
        ({"peerAddress": "224.0.0.1"}, "spec.peerAddress: 224.0.0.1 is multicast"),
        (
            {"peerAddress": "fe80::1"},
            "spec.peerAddress: fe80::1 is link-local: it says nothing without an interface",
        ),
        ({"sourceAddress": "2001:db8::1"}, "spec.sourceAddress: not of the family of peerAddress"),
        ({"routerID": "2001:db8::1"}, "spec.routerID: "),
        ({"routerID": "0.0.0.0"}, "spec.routerID: 0.0.0.0 is no router ID"),
        ({"peerPort": 0}, "spec.peerPort: expected int >= 1"),
        ({"holdTime": "2s"}, "spec.holdTime: 0s, or 3s to 65535s, not 2s"),
        ({"holdTime": "65536s"}, "spec.holdTime: 0s, or 3s to 65535s, not 65536s"),
        ({"holdTime": 90}, "spec.holdTime: expected str, got int"),
        ({"holdTime": "90"}, "spec.holdTime: '90' is no duration, as 90s, 1h30m and 500ms are"),
        ({"keepaliveTime": "91s"}, "spec.keepaliveTime: 91s is longer than holdTime 90s"),
        ({"keepaliveTime": "0s"}, "spec.keepaliveTime: 0s only with holdTime 0s"),
        ({"connectTime": "0s"}, "spec.connectTime: 1s to 65535s, not 0s"),
        (
            {"password": "p", "passwordSecret": {"name": "s"}},
            "spec.passwordSecret: either this or password, not both",
        ),
        (
            {"passwordSecret": {"nam": "s"}},
            "spec.passwordSecret.nam: unknown field; is name meant?",
        ),
        (
            {"disableMP": True, "dualStackAddressFamily": True},
            "spec.dualStackAddressFamily: disableMP says the opposite",
        ),
        ({"peerAsn": 5}, "spec.peerAsn: unknown field; is peerASN meant?"),
        ({"xyzzy": 5}, "spec.xyzzy: unknown field"),
        ({"bfdProfile": "A"}, "spec.bfdProfile: 'A' is not the name of an object"),
        (
            {"nodeSelectors": [{}, {"matchLabels": {"a b": "c"}}]},
            "spec.nodeSelectors[1].matchLabels: 'a b' is not the key of a label",
        ),
        (
            {"nodeSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]},
            "spec.nodeSelectors[0].matchExpressions[0].values: In needs at least one value",
        ),
        (
            {
                "nodeSelectors": [
                    {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}
                ]
            },
            "spec.nodeSelectors[0].matchExpressions[0].values: Exists needs no values",
        ),
        (
            {"nodeSelectors": [{"matchLabel": {}}]},
            "spec.nodeSelectors[0].matchLabel: unknown field; is matchLabels meant?",
        ),
    ],
)
def test_peers_that_are_refused(spec: dict[str, Any], said: str) -> None:
    assert refusal("BGPPeer", PEER | spec).startswith(said)


def test_a_password_is_in_no_error() -> None:
    for spec in ({"password": "hush" * 30}, {"password": "hush", "passwordSecret": {"name": "s"}}):
        assert "hush" not in refusal("BGPPeer", PEER | spec)
    assert "hush" not in refusal("BGPPeer", PEER | {"password": ["hush"]})
    assert "more than 80 octets" in refusal("BGPPeer", PEER | {"password": "ü" * 41})


def test_advertisement() -> None:
    assert ours("BGPAdvertisement", None) == BGPAdvertisement(name="a")
    made = ours(
        "BGPAdvertisement",
        {
            "ipAddressPools": ["p", "q"],
            "ipAddressPoolSelectors": [{"matchLabels": {"zone": "dmz"}}],
            "aggregationLength": 24,
            "aggregationLengthV6": 64,
            "localPref": 4294967295,
            "communities": ["64512:1", "large:1:2:3", "no-export", "vpn.only"],
            "nodeSelectors": [{"matchLabels": {"rack": "a"}}],
            "peers": ["tor-a"],
            "serviceSelectors": [{"matchLabels": {"app": "web"}}],
            "drainDeadline": "10m",
        },
    )
    assert made == BGPAdvertisement(
        name="a",
        ip_address_pools=("p", "q"),
        pool_selectors=(Selector((Requirement("zone", Operator.IN, ("dmz",)),)),),
        aggregation_length={Family.IPV4: 24, Family.IPV6: 64},
        local_pref=4294967295,
        communities=("64512:1", "large:1:2:3", "no-export", "vpn.only"),
        node_selectors=(Selector((Requirement("rack", Operator.IN, ("a",)),)),),
        peers=("tor-a",),
        service_selectors=(Selector((Requirement("app", Operator.IN, ("web",)),)),),
        drain_deadline_s=600.0,
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"aggregationLength": 33}, "spec.aggregationLength: expected int <= 32"),
        ({"aggregationLengthV6": 0}, "spec.aggregationLengthV6: expected int >= 1"),
        ({"communities": ["65536:1"]}, "spec.communities[0]: '65536:1' is not a community"),
        ({"communities": ["a", "large:1:2"]}, "spec.communities[1]: 'large:1:2' is not"),
        ({"communities": ["a", "a"]}, "spec.communities: a community stands twice"),
        ({"peers": ["Tor"]}, "spec.peers[0]: 'Tor' is not the name of an object"),
        ({"drainDeadline": "-1s"}, "spec.drainDeadline: '-1s' is no duration"),
        ({"aggregationLenght": 24}, "unknown field; is aggregationLength meant?"),
    ],
)
def test_advertisements_that_are_refused(spec: dict[str, Any], said: str) -> None:
    assert said in refusal("BGPAdvertisement", spec)


def test_address_pool() -> None:
    made = ours(
        "IPAddressPool",
        {
            "addresses": [
                "198.51.100.0/24",
                "203.0.113.7/25",
                "192.0.2.1 - 192.0.2.9",
                "2001:db8::/127",
                "2001:db8::5-2001:db8::7",
            ],
            "autoAssign": False,
            "avoidBuggyIPs": True,
            "serviceAllocation": {
                "priority": 5,
                "namespaces": ["shop"],
                "namespaceSelectors": [{"matchLabels": {"team": "x"}}],
                "serviceSelectors": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}],
            },
        },
        labels={"zone": "dmz"},
    )
    texts = [
        ("198.51.100.0", "198.51.100.255"),
        ("203.0.113.0", "203.0.113.127"),
        ("192.0.2.1", "192.0.2.9"),
        ("2001:db8::", "2001:db8::1"),
        ("2001:db8::5", "2001:db8::7"),
    ]
    assert made == IPAddressPool(
        name="a",
        addresses=tuple(Range(parse_address(a), parse_address(b)) for a, b in texts),
        labels={"zone": "dmz"},
        auto_assign=False,
        avoid_buggy_ips=True,
        allocation=ServiceAllocation(
            priority=5,
            namespaces=("shop",),
            namespace_selectors=(Selector((Requirement("team", Operator.IN, ("x",)),)),),
            service_selectors=(Selector((Requirement("k", Operator.EXISTS),)),),
        ),
    )


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ([], "spec.addresses: expected array of length >= 1"),
        (
            ["198.51.100.1"],
            "spec.addresses[0]: '198.51.100.1' is not a CIDR, as 192.0.2.0/24 is, or",
        ),
        (["198.51.100.0/255.255.255.0"], "is not a CIDR"),
        (["198.51.100.0/33"], "spec.addresses[0]: "),
        (["192.0.2.9-192.0.2.1"], "192.0.2.9-192.0.2.1: the last address is before the first"),
        (["192.0.2.9-2001:db8::1"], "'192.0.2.9-2001:db8::1' is not a CIDR"),
        (["192.0.2.1/32", "192.0.2.1-"], "spec.addresses[1]: "),
        (["127.0.0.0/8"], "127.0.0.0 is loopback"),
        (["223.0.0.0-224.0.0.9"], "224.0.0.9 is multicast"),
        (["0.0.0.0/0"], "0.0.0.0 is unspecified"),
        (["fe80::1%eth0-fe80::2"], "spec.addresses[0]: "),
    ],
)
def test_addresses_that_are_refused(addresses: list[str], said: str) -> None:
    assert said in refusal("IPAddressPool", {"addresses": addresses})


def test_bfd_profile() -> None:
    assert ours("BFDProfile", None) == BFDProfile(name="a", profile=BfdProfile())
    given = {
        "receiveInterval": 100,
        "transmitInterval": 150,
        "detectMultiplier": 5,
        "passiveMode": True,
        "minimumTtl": 250,
        "echoInterval": 50,
        "echoMode": False,
    }
    assert ours("BFDProfile", given).profile == BfdProfile(
        receive_interval_ms=100,
        transmit_interval_ms=150,
        detect_multiplier=5,
        passive=True,
        minimum_ttl=250,
    )
    assert refusal("BFDProfile", {"echoMode": True}).startswith("spec.echoMode: there is no echo")
    assert "spec.receiveInterval: expected int >= 10" in refusal(
        "BFDProfile", {"receiveInterval": 9}
    )


def test_community() -> None:
    assert ours("Community", None) == Community(name="a")
    given = [{"name": "vpn", "value": "64512:1"}, {"name": "site", "value": "large:1:2:3"}]
    made = ours("Community", {"communities": given})
    assert made.aliases == {"vpn": "64512:1", "site": "large:1:2:3"}
    twice = {"communities": [*given, {"name": "vpn", "value": "64512:2"}]}
    assert refusal("Community", twice) == "spec.communities[2].name: vpn stands twice"
    bad = {"communities": [{"name": "x", "value": "vpn"}]}
    assert refusal("Community", bad).startswith("spec.communities[0].value: 'vpn' is not a comm")


def test_tier() -> None:
    assert ours("GatewayTier", None) == GatewayTier(name="a")
    given = {
        "buckets": 1021,
        "hashSeed": 1515887121,
        "idleTimer": "2m",
        "moveDeadline": "1h",
        "transitionIdle": "10m",
        "transitionDeadline": "24h",
    }
    assert ours("GatewayTier", given) == GatewayTier(
        name="a",
        buckets=1021,
        hash_seed=1515887121,
        idle_timer_s=120.0,
        move_deadline_s=3600.0,
        transition_idle_s=600.0,
        transition_deadline_s=86400.0,
    )
    assert refusal("GatewayTier", {"idleTimer": "0s"}) == "spec.idleTimer: more than 0s"
    assert "spec.buckets: expected int <= 4093" in refusal("GatewayTier", {"buckets": 4094})


def test_claim() -> None:
    family, cidr = parse_prefix("10.1.0.64/26")
    spec = {"cidr": "10.1.0.64/26", "node": "n1"}
    made = ours("BlockClaim", spec, "10-1-0-64-26", uid="u", resourceVersion="7")
    assert made == BlockClaim(name="10-1-0-64-26", family=family, cidr=cidr, node="n1", uid="u")
    assert (made.uid, made.resource_version, made.pending) == ("u", "7", False)
    annotated = ours(
        "BlockClaim", spec, "10-1-0-64-26", annotations={"samepath.dev/pending": "true"}
    )
    assert annotated.pending
    assert refusal("BlockClaim", spec, "mine") == (
        "metadata.name: a claim of 10.1.0.64/26 is called 10-1-0-64-26"
    )
    assert "has host bits set" in refusal("BlockClaim", {**spec, "cidr": "10.1.0.65/26"})


def test_namespace_and_secret() -> None:
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: x}}\n"
    assert only(text) == Namespace(name="shop", labels={"team": "x"})
    head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: samepath-system}\n"
    word = base64.b64encode(b"hush\n").decode()
    made = only(head + f"data: {{password: {word}, other: AAAA}}\n")
    assert made == Secret(namespace="samepath-system", name="s", password="hush")
    assert object_key(made) == "Secret samepath-system/s"
    assert "hush" not in repr(made)
    both = only(head + f"data: {{password: {word}}}\nstringData: {{password: word}}\n")
    assert both.password == "word"
    assert only(head + "data: {token: AAAA}\n") is None
    assert only(head) is None
    cluster = make_cluster([made])
    assert cluster.secrets["samepath-system/s"] is made


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("data: {password: hush-hush}", "t.yaml:4: data.password: not base64"),
        ("stringData: {password: ''}", "stringData.password: 1 to 80 octets, not 0"),
        (f"stringData: {{password: {'hush' * 21}}}", "1 to 80 octets, not 84"),
        ("data: {password: /w==}", "data.password: not UTF-8"),
        ("data: {password: [hush]}", "data.password: expected str | null, got array"),
    ],
)
def test_a_secret_is_in_no_error(data: str, said: str) -> None:
    head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
    with pytest.raises(DocumentError) as caught:
        only(head + data + "\n")
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hush" not in repr(chain)
        chain = chain.__cause__


def test_other_groups_kinds_of_the_same_name_are_not_ours() -> None:
    for group in ("metallb.io/v1beta2", "example.com/v1"):
        data = {"apiVersion": group, "kind": "BGPPeer", "metadata": {"name": "a"}, "spec": 5}
        assert parse_object(Document("t", 1, data, {})) is None
    data = {"apiVersion": "samepath.dev/v2", "kind": "BGPPeer", "metadata": {"name": "a"}}
    with pytest.raises(DocumentError, match=r"samepath\.dev/v2 is not read, only samepath\.dev/v1"):
        parse_object(Document("t", 1, data, {}))


# -- Pure parts -------------------------------------------------------------------------------

prefixes = st.one_of(
    st.tuples(st.just(Family.IPV4), st.integers(0, (1 << 32) - 1), st.integers(0, 32)),
    st.tuples(st.just(Family.IPV6), st.integers(0, (1 << 128) - 1), st.integers(0, 128)),
    # Where the text of an address has `::` in front, at the end or nowhere.
    st.tuples(
        st.just(Family.IPV6),
        st.lists(st.sampled_from([0, 1, 0xFD00]), min_size=8, max_size=8).map(
            lambda groups: sum(group << 16 * i for i, group in enumerate(groups))
        ),
        st.just(128),
    ),
)


@given(prefixes)
def test_a_claims_name_is_a_name_and_says_its_block(given: tuple[Family, int, int]) -> None:
    family, value, length = given
    nlri = make_nlri(value.to_bytes(family.octets, "big"), length)
    name = claim_name(family, nlri)
    assert claim_block(name) == (family, nlri)
    assert len(name) <= 63
    assert set(name) <= set("0123456789abcdef-")
    assert name[0] != "-" != name[-1]


def test_names_of_claims() -> None:
    for text, name in (
        ("10.1.0.64/26", "10-1-0-64-26"),
        ("fd00:1::/122", "fd00-1---122"),
        ("::/0", "0---0"),
        ("::1:0/112", "0--1-0-112"),
        ("2001:db8:1:2:3:4:5:0/112", "2001-db8-1-2-3-4-5-0-112"),
    ):
        assert claim_name(*parse_prefix(text)) == name
        assert prefix_text(*claim_block(name)) == text
    for name in ("x", "mine", "10-1-0-65-26", "10-1-0-64", "fd00-1--122", "10-1-0-64-026", "---0"):
        with pytest.raises(ValueError, match=name):
            claim_block(name)


def test_durations() -> None:
    for text, seconds in (
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1m0.5s", 60.5),
        ("0", 0.0),
        ("0s", 0.0),
        ("1.5h", 5400.0),
        ("250us", 0.00025),
        ("8760h", 31536000.0),
    ):
        assert duration_s(text) == seconds
    for text in (
        "",
        "90",
        "-1s",
        "+1s",
        "1 s",
        "s",
        "1.s",
        ".5s",
        "8760h1ns",
        "1d",
        "9" * 40 + "s",
    ):
        with pytest.raises(ValueError, match=r"duration|longer"):
            duration_s(text)


@given(st.integers(0, 31536000 * 1000))
def test_a_duration_is_read_as_it_is_written(milliseconds: int) -> None:
    assert duration_s(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, (1 << 32) - 1), st.integers(8, 32))
def test_a_cidr_is_the_range_of_its_addresses(value: int, length: int) -> None:
    network = ipaddress.ip_network((value, length), strict=False)
    ends = network[0], network[-1]
    if network.is_loopback or network.is_multicast or network.is_link_local or not value >> 24:
        return
    if any(end.is_loopback or end.is_multicast or end.is_link_local for end in ends):
        return
    as_cidr = ours("IPAddressPool", {"addresses": [f"{ipaddress.ip_address(value)}/{length}"]})
    as_range = ours("IPAddressPool", {"addresses": [f"{ends[0]}-{ends[1]}"]})
    assert as_cidr == as_range
