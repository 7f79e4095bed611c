"""The CustomResourceDefinitions: files and page are what the code says, schemas are structural and
bounded, and each rule refuses what it is there for, with a message for people."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import NODEFAULT, inspect

from samepath.kube import crd_files, specs, statuses
from samepath.kube.crd_notes import NOTES
from samepath.kube.crds import KINDS, Kind, definition, definitions, schema
from samepath.kube.objects import parse_object
from samepath.kube.schemas import WHOLE, schema_of
from samepath.kube.texts import Is
from samepath.lab.api_server import rules, schemas
from samepath.model.documents import Document, DocumentError
from samepath.model.net import parse_address
from samepath.plan.node_status import Session, View, desired

ROOT = Path(__file__).parents[2]
BY_NAME = {kind.name: kind for kind in KINDS}


def faults(kind: str, new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """What an API server says to an object; rules only if the schema is met."""
    whole = schema(BY_NAME[kind])
    body = deepcopy({"apiVersion": "samepath.dev/v1", "kind": kind, **new})
    body.setdefault("metadata", {"name": "a"})
    body, unknown = schemas.prune(whole, body)
    if unknown:
        return [f"unknown field {path}" for path in unknown]
    schemas.fill(whole, body)
    found = schemas.faults(whole, body) or rules.faults(whole, body, old)
    return [f"{cause.field}: {cause.message}" for cause in found]


# -- One truth --------------------------------------------------------------------------------


def test_the_files_are_what_the_code_says() -> None:
    folder = ROOT / crd_files.FOLDER
    wanted = crd_files.files()
    assert {path.name for path in folder.iterdir()} == set(wanted)
    for name, text in wanted.items():
        assert (folder / name).read_text() == text, "python -m samepath.kube.crd_files"
        assert yaml.safe_load(text) in definitions()


def test_the_page_has_the_tables() -> None:
    page = (ROOT / crd_files.PAGE).read_text()
    assert crd_files.with_tables(page) == page, "python -m samepath.kube.crd_files"


def structs(found: Any) -> Iterator[Any]:
    match found:
        case inspect.StructType():
            yield found
            for field in found.fields:
                yield from structs(field.type)
        case inspect.Metadata():
            yield from structs(found.type)
        case inspect.UnionType():
            for one in found.types:
                yield from structs(one)
        case inspect.ListType():
            yield from structs(found.item_type)


SHAPES = {
    found.cls: found
    for kind in KINDS
    for shape in (kind.spec, kind.status)
    if shape is not None
    for found in structs(inspect.type_info(shape))
}


@pytest.mark.parametrize("struct", SHAPES, ids=lambda s: s.__name__)
def test_parser_schema_and_notes_know_the_same_fields(struct: type) -> None:
    fields = SHAPES[struct].fields
    names = [field.encode_name for field in fields]
    assert set(NOTES[struct]) - {WHOLE} == set(names)
    made = schema_of(struct, NOTES)
    assert list(made["properties"]) == names
    assert made.get("required", []) == [field.encode_name for field in fields if field.required]
    for field in fields:
        default = made["properties"][field.encode_name].get("default")
        if field.default is not NODEFAULT and field.default not in (None, ""):
            assert default == field.default
        else:
            assert default is None


def test_every_struct_of_ours_is_in_a_schema() -> None:
    ours = {
        thing
        for module in (specs, statuses)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, specs.Spec) and thing is not specs.Spec
    }
    assert ours == set(SHAPES) == set(NOTES)


# -- Structural, bounded ----------------------------------------------------------------------


def nodes(part: dict[str, Any], path: str = "", many: int = 1) -> Iterator[tuple[str, Any, int]]:
    """Every schema within a schema, and how many values it may stand for at most."""
    yield path, part, many
    for name, inner in part.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}", many)
    if "items" in part:
        yield from nodes(part["items"], f"{path}[]", many * part["maxItems"])
    if isinstance(part.get("additionalProperties"), dict):
        yield from nodes(part["additionalProperties"], f"{path}[]", many * part["maxProperties"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_schemas_are_structural_and_everything_has_a_limit(kind: Kind) -> None:
    whole = schema(kind)
    for path, part, _ in nodes(whole):
        assert "type" in part, path
        if path.startswith((".spec", ".status")) and not path.endswith("]"):
            assert part["description"].strip(), path
            assert part["description"].endswith("."), path
        if part["type"] == "string" and path.startswith((".spec", ".status")):
            assert {"maxLength", "enum", "format"} & set(part), path
        for inner in part.get("anyOf", ()):
            assert set(inner) <= {"format", "pattern"}, path
        for pattern in (part.get("pattern"), *(i.get("pattern") for i in part.get("anyOf", ()))):
            if pattern:
                re.compile(pattern)
                assert "(?" not in pattern, "RE2"
                assert "\\Z" not in pattern, "RE2"
        if "default" in part:
            value = deepcopy(part["default"])
            schemas.fill(part, value)
            assert not schemas.faults(part, value), path
            assert not rules.faults(part, value), path


STRING_COST, REGEX_COST = 0.1, 0.25
"""cel-go: of a character that is read, of a character of a pattern."""
RULE_LIMIT, DEFINITION_LIMIT = 10_000_000, 100_000_000


def cost(rule: str, part: dict[str, Any]) -> float:
    """An upper estimate, as the API server makes it: octets are four times the characters."""
    longest = part.get("maxLength") or part.get("items", {}).get("maxLength") or 253
    size = 4 * longest * STRING_COST + 1
    each = part.get("maxItems", 1) if ".all(" in rule else 1
    matches = re.findall(r"matches\('([^']*)'\)", rule)
    searched = sum(size * (len(pattern) * REGEX_COST + 1) for pattern in matches)
    others = len(re.findall(r"[.(=<>&|?+]", rule)) * size
    return each * (searched + others)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_rules_stay_far_within_the_budget(kind: Kind) -> None:
    total = 0.0
    for path, part, many in nodes(schema(kind)):
        for rule in part.get("x-kubernetes-validations", ()):
            estimated = many * cost(rule["rule"], part)
            assert estimated < RULE_LIMIT / 5, (path, rule["rule"], estimated)
            total += estimated
    assert total < DEFINITION_LIMIT / 10


def test_names_do_not_collide() -> None:
    names = [definition(kind)["spec"]["names"] for kind in KINDS]
    said = [
        name for n in names for name in (n["plural"], n["singular"], *n["shortNames"], n["kind"])
    ]
    assert len(set(said)) == len(said)
    for kind in KINDS:
        made = definition(kind)
        assert made["metadata"]["name"] == f"{kind.resource.plural}.samepath.dev"
        known = {path for path, _, _ in nodes(schema(kind))}
        for column in made["spec"]["versions"][0]["additionalPrinterColumns"]:
            path = column["jsonPath"].replace("[*]", "[]")
            assert path in known or path.startswith(".metadata."), path


# -- Rules ------------------------------------------------------------------------------------

PEER = {"myASN": 64512, "peerASN": 64500, "peerAddress": "192.0.2.1"}
POOL = {"addresses": ["198.51.100.0/24"]}
IPPOOL = {"cidr": "10.128.0.0/14"}
IN = {"key": "rack", "operator": "In", "values": ["a"]}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("BGPPeer", PEER),
    ("BGPPeer", {**PEER, "peerAddress": "2001:db8::1", "sourceAddress": "2001:db8::2"}),
    ("BGPPeer", {**PEER, "peerASN": 0, "dynamicASN": "internal"}),
    ("BGPPeer", {**PEER, "holdTime": "1m30s", "keepaliveTime": "30s", "connectTime": "1500ms"}),
    ("BGPPeer", {**PEER, "holdTime": "0s", "keepaliveTime": "0s"}),
    ("BGPPeer", {**PEER, "vrf": "", "interface": "", "passwordSecret": {}, "password": "x"}),
    ("BGPPeer", {**PEER, "nodeSelectors": [{}, {"matchExpressions": [IN]}]}),
    ("BGPPeer", {**PEER, "peerAddress": "127.0.0.1", "routerID": "10.0.0.1"}),
    ("BGPAdvertisement", {}),
    ("BGPAdvertisement", {"communities": ["1:2", "large:1:2:3", "no-export", "vpn"]}),
    ("IPAddressPool", POOL),
    ("IPAddressPool", {"addresses": ["192.0.2.1-192.0.2.9", "2001:db8::1 - 2001:db8::9"]}),
    ("IPPool", IPPOOL),
    ("IPPool", {"cidr": "fd00:10::/56", "blockSize": 122}),
    ("BFDProfile", {}),
    ("BFDProfile", {"echoMode": False, "echoInterval": 50}),
    ("Community", {"communities": [{"name": "a", "value": "1:2"}, {"name": "b", "value": "1:2"}]}),
    ("GatewayTier", {}),
    ("GatewayTier", {"moveDeadline": "0s", "idleTimer": "2m"}),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_what_is_taken(kind: str, spec: dict[str, Any]) -> None:
    assert faults(kind, {"spec": spec}) == []


def peer(said: str, field: str = "spec", /, **spec: Any) -> tuple[str, dict[str, Any], str, str]:
    return "BGPPeer", {**PEER, **spec}, field, said


def selecting(*expressions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"matchExpressions": list(expressions)}]


_EXPRESSION = "In and NotIn need at least one value; Exists and DoesNotExist need no values"
_AT = "spec.nodeSelectors[0].matchExpressions[0]"
_HOST = "must be the address of one host, and of IPv6 not a link-local one"
_POD = "unspecified, loopback, link-local and multicast addresses are no pod's"
_SERVICE = "unspecified, loopback, link-local and multicast addresses are no service's"
_COMMUNITY = f"must be {Is.COMMUNITY_OR_NAME.value}"
_BLOCK = "a block is within cidr, and has at most 65536 addresses (/16 or /112)"

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    peer("exactly one of peerASN and dynamicASN is given", dynamicASN="internal"),
    peer("exactly one of peerASN and dynamicASN is given", peerASN=0),
    peer("either password or passwordSecret, not both", password="x", passwordSecret={"name": "s"}),
    peer("keepaliveTime is not longer than holdTime", keepaliveTime="91s"),
    peer("keepaliveTime is 0s only with holdTime 0s", keepaliveTime="0s"),
    peer("sourceAddress is of the family of peerAddress", sourceAddress="2001:db8::1"),
    peer(
        "disableMP and dualStackAddressFamily say opposite things",
        disableMP=True,
        dualStackAddressFamily=True,
    ),
    *(
        peer(_HOST, "spec.peerAddress", peerAddress=text)
        for text in ("0.0.0.0", "::", "224.0.0.5", "239.1.1.1", "255.255.255.255", "FE80::1")
    ),
    peer(_HOST, "spec.sourceAddress", sourceAddress="0.0.0.0"),
    peer("must be an IPv4 or IPv6 address", "spec.peerAddress", peerAddress="tor"),
    peer("must be an IPv4 or IPv6 address", "spec.peerAddress", peerAddress="192.0.2.256"),
    peer("must be an IPv4 address", "spec.routerID", routerID="10.0.0"),
    *(
        peer("must be 0s, or 3s to 65535s", "spec.holdTime", holdTime=text)
        for text in ("2s", "2999ms", "65536s", "19h")
    ),
    (
        "BGPAdvertisement",
        {"drainDeadline": "9000h"},
        "spec.drainDeadline",
        "must be at most a year",
    ),
    peer("must be 1s to 65535s", "spec.connectTime", connectTime="999ms"),
    peer("a router ID is not 0.0.0.0", "spec.routerID", routerID="0.0.0.0"),
    peer("sessions without addresses are not supported", "spec.interface", interface="eth0"),
    peer("VRFs are not supported", "spec.vrf", vrf="red"),
    peer(_EXPRESSION, _AT, nodeSelectors=selecting({"key": "a", "operator": "In"})),
    peer(_EXPRESSION, _AT, nodeSelectors=selecting({**IN, "values": []})),
    peer(_EXPRESSION, _AT, nodeSelectors=selecting({**IN, "operator": "Exists"})),
    *(
        ("IPAddressPool", {"addresses": ["192.0.2.0/24", text]}, "spec.addresses", _SERVICE)
        for text in (
            "127.0.0.0/8",
            "169.254.1.1-169.254.1.2",
            "224.0.0.0/4",
            "::1/128",
            "fe80::/64",
        )
    ),
    ("IPAddressPool", {"addresses": ["223.0.0.0-224.0.0.9"]}, "spec.addresses", _SERVICE),
    ("IPAddressPool", {"addresses": ["0.0.0.0/0"]}, "spec.addresses", _SERVICE),
    (
        "IPAddressPool",
        {"addresses": ["192.0.2.1"]},
        "spec.addresses[0]",
        f"must be {Is.ADDRESSES.value}",
    ),
    *(
        ("BGPAdvertisement", {"communities": [text]}, "spec.communities[0]", _COMMUNITY)
        for text in ("65536:1", "large:1:2", "a b")
    ),
    (
        "Community",
        {"communities": [{"name": "a", "value": "vpn"}]},
        "spec.communities[0].value",
        f"must be {Is.COMMUNITY.value}",
    ),
    (
        "Community",
        {"communities": [{"name": "a b", "value": "1:2"}]},
        "spec.communities[0].name",
        f"must be {Is.ALIAS.value}",
    ),
    ("IPPool", {"cidr": "224.0.0.0/8"}, "spec.cidr", _POD),
    ("IPPool", {"cidr": "::/0"}, "spec.cidr", _POD),
    ("IPPool", {**IPPOOL, "blockSize": 13}, "spec", _BLOCK),
    ("IPPool", {**IPPOOL, "blockSize": 33}, "spec", _BLOCK),
    ("IPPool", {"cidr": "10.0.0.0/8", "blockSize": 15}, "spec", _BLOCK),
    ("IPPool", {"cidr": "fd00::/48", "blockSize": 111}, "spec", _BLOCK),
    ("BFDProfile", {"echoMode": True}, "spec.echoMode", "there is no echo function"),
    *(
        ("GatewayTier", {name: "0s"}, f"spec.{name}", "must be more than 0s")
        for name in ("idleTimer", "transitionIdle", "transitionDeadline")
    ),
]


@pytest.mark.parametrize(("kind", "spec", "field", "said"), BAD)
def test_rules_refuse_with_a_message(
    kind: str, spec: dict[str, Any], field: str, said: str
) -> None:
    (found, *more) = faults(kind, {"spec": spec})
    assert not more
    assert found.startswith(f"{field}: ")
    assert found.endswith(said)


def by_parser(kind: str, spec: dict[str, Any]) -> str | None:
    data = {"apiVersion": "samepath.dev/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    try:
        parse_object(Document("t", 1, data, {}))
    except DocumentError as error:
        return error.field
    return None


def test_the_parser_says_the_same() -> None:
    for kind, spec in GOOD:
        assert by_parser(kind, spec) is None, spec
    for kind, spec, field, _ in BAD:
        assert (by_parser(kind, spec) or "").startswith(field), spec


def test_what_cannot_be_changed() -> None:
    def change(kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        was = {"metadata": {"name": "a"}, "spec": old}
        return faults(kind, {"spec": new}, was)

    assert change("IPPool", IPPOOL, {**IPPOOL, "disabled": True}) == []
    (said,) = change("IPPool", IPPOOL, {"cidr": "10.0.0.0/14"})
    assert said.endswith("cidr cannot be changed: pods have its addresses")
    sized = {**IPPOOL, "blockSize": 24}
    for old, new in ((IPPOOL, sized), (sized, IPPOOL), (sized, {**IPPOOL, "blockSize": 25})):
        (said,) = change("IPPool", old, new)
        assert said.endswith("blockSize cannot be changed: nodes have blocks of that size")
    assert change("IPPool", sized, sized) == []
    claim = {"cidr": "10.1.0.64/26", "node": "n1"}
    named = {"metadata": {"name": "10-1-0-64-26"}, "spec": claim}
    assert faults("BlockClaim", named, named) == []
    (said,) = faults("BlockClaim", {**named, "spec": {**claim, "node": "n2"}}, named)
    assert said.endswith("a claim cannot be changed")


def test_the_name_of_a_claim() -> None:
    for cidr, name in (
        ("10.1.0.64/26", "10-1-0-64-26"),
        ("fd00:1::/122", "fd00-1---122"),
        ("::1:0:0/112", "0--1-0-0-112"),
    ):
        spec = {"cidr": cidr, "node": "n1"}
        assert faults("BlockClaim", {"metadata": {"name": name}, "spec": spec}) == []
        (said,) = faults("BlockClaim", {"metadata": {"name": "b"}, "spec": spec})
        assert said.endswith("with - for . : and /, as in 10-1-0-64-26")


def test_every_rule_is_among_those_that_are_tried() -> None:
    tried = {said for _, _, _, said in BAD} | {
        "a claim cannot be changed",
        "cidr cannot be changed: pods have its addresses",
        "blockSize cannot be changed: nodes have blocks of that size",
        "the name of a claim is its cidr with - for . : and /, as in 10-1-0-64-26",
    }
    rules_of = itertools.chain.from_iterable(nodes(schema(kind)) for kind in KINDS)
    messages = {
        rule["message"]
        for _, part, _ in rules_of
        for rule in part.get("x-kubernetes-validations", ())
    }
    assert messages == tried


def test_what_is_unknown_or_missing() -> None:
    assert faults("BGPPeer", {"spec": {**PEER, "peerAsn": 1}}) == ["unknown field spec.peerAsn"]
    assert faults("BGPPeer", {})[0].startswith("spec: Required value")


def test_what_agents_write() -> None:
    """As `plan.node_status` makes it, with the API server's schema."""
    session = Session(
        peer=parse_address("2001:db8::1"),
        is_established=True,
        since="2026-01-01T00:00:00Z",
        bfd="Up",
        local_asn=64512,
        peer_asn=64500,
    )
    view = View("n1", True, (), {}, {}, (session,), 10)
    (wanted,) = desired(view).objects.values()
    assert faults("BGPSessionState", {"status": dict(wanted.status)}) == []
    written = {
        "status": {
            "node": "n1",
            "serviceName": "web",
            "serviceNamespace": "shop",
            "peers": ["tor-a", "2001:db8::9"],
            "state": "draining",
            "reason": "no ready endpoint",
            "addresses": ["198.51.100.1", "2001:db8::1"],
        }
    }
    assert faults("ServiceBGPStatus", written) == []
    written["status"]["state"] = "withdrawn"
    (said,) = faults("ServiceBGPStatus", written)
    assert said.startswith("status.state: Unsupported value")
