"""The API server (schemas and rules) and the parser take the same objects, and refuse the same.

Where they cannot agree, the texts below leave out what differs: CEL cannot say which address of a
range is the first, whether an IPv6 address has all of its parts, whether a prefix has bits beyond
its length, whether the key of a label is one,
and what Calico's selectors are. There the parser is the stricter one, always. The duration `0` is
left out, too: cel-python does not read it, Kubernetes does.
"""

from __future__ import annotations

import ipaddress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from samepath.kube.crds import KINDS, Kind, schema
from samepath.kube.objects import parse_object
from samepath.lab.api_server import rules, schemas
from samepath.model.documents import Document, DocumentError

SCHEMAS = {kind.name: schema(kind) for kind in KINDS if kind.spec is not None}
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}

NAMES = ["a", "tor-a", "x.y", "A", "a_b", "-a", "a-", "", "a" * 253, "a" * 254]
LABELS = ["", "a", "A_b.c", "-a", "a b", "x" * 63, "x" * 64]
KEYS = ["a", "example.com/a", "A.b_c", "a/b/c", "/a", "-", ""]
ADDRESSES = [
    "192.0.2.1", "192.0.2.9", "127.0.0.1", "2001:db8::1", "0.0.0.0", "255.255.255.255", "224.0.0.1",
    "::", "fe80::1", "FE80::1", "ff02::1", "::1", "192.0.2", "192.0.2.256", "tor", "1.2.3.4/32", "",
    "2001:db8:0:0:0:0:0:1", "::ffff:1.2.3.4", "169.254.1.1",
]  # fmt: skip
PREFIXES = [
    "10.128.0.0/14", "10.0.0.0/26", "fd00:10::/56", "fd00::/122", "192.0.2.1/32", "192.0.2.1",
    "10.0.0.0/33", "224.0.0.0/4", "127.0.0.0/8", "0.0.0.0/0", "::/0", "fe80::/10", "ff00::/8",
    "169.254.0.0/16", "10.0.0.0/", "x/8", "",
]  # fmt: skip
RANGES = [
    "192.0.2.1-192.0.2.9", "192.0.2.1 - 192.0.2.9", "2001:db8::1-2001:db8::5", "192.0.2.1-",
    "192.0.2.1-192.0.2", "127.0.0.1-127.0.0.9", "fe80::1-fe80::2", "1.1.1.1-2001:db8::1",
]  # fmt: skip
DURATIONS = [
    "90s", "1h30m", "500ms", "30s", "0s", "3s", "2999ms", "65535s", "65536s", "1s", "8760h",
    "8761h", "1.5s", "90", "s", "-1s", "1d", "", "100us",
]  # fmt: skip
COMMUNITIES = [
    "64512:1", "65535:65535", "65536:1", "1:65536", "large:1:2:3", "large:4294967295:0:0",
    "large:4294967296:0:0", "1:2:3", "no-export", "vpn", "a.b", "-a", "", ":", "1:",
]  # fmt: skip
ANY = st.sampled_from([*NAMES, *ADDRESSES, *PREFIXES, *DURATIONS, *COMMUNITIES])
SELECTORS = st.sampled_from(["all()", "", "has(a)", "a == 'b'"])

BY_FIELD: dict[str, list[str]] = {
    "peerAddress": ADDRESSES,
    "sourceAddress": ADDRESSES,
    "routerID": ADDRESSES,
    "cidr": PREFIXES,
    "addresses": PREFIXES + RANGES,
    "communities": COMMUNITIES,
    "value": COMMUNITIES,
    "values": LABELS,
    "key": KEYS,
    "interface": ["", "eth0"],
    "vrf": ["", "red"],
    "password": ["", "x", "x" * 80, "x" * 81],
    "nodeSelector": ["all()", "", "has(a)", "a == 'b'"],
    "matchLabels": LABELS,
    **dict.fromkeys(("holdTime", "keepaliveTime", "connectTime", "drainDeadline"), DURATIONS),
    **dict.fromkeys(("idleTimer", "moveDeadline"), DURATIONS),
    **dict.fromkeys(("transitionIdle", "transitionDeadline"), DURATIONS),
}
"""Texts that come near; others are names."""


def values(part: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    """Mostly what the schema wants, or nearly."""
    match part["type"]:
        case "object" if "properties" in part:
            return objects(part)
        case "object":
            keys = st.sampled_from(["a", "example.com/b"])
            return st.dictionaries(keys, values(part["additionalProperties"], name), max_size=2)
        case "array":
            most = 3 if part["items"]["type"] == "string" else 2
            return st.lists(values(part["items"], name), max_size=most)
        case "boolean":
            return st.booleans()
        case "integer":
            least, most = part.get("minimum", 0), part.get("maximum", 1 << 32)
            usual = [least, most, least + 1, (least + most) // 2, part.get("default", least)]
            return st.sampled_from([*usual, *usual, least - 1, most + 1])
    if "enum" in part:
        return st.sampled_from([*part["enum"], "any"])
    texts = BY_FIELD.get(name, NAMES)
    # The good ones stand in front: half of the time one of the first four.
    return st.one_of(st.sampled_from(texts[:4]), st.sampled_from(texts))


@st.composite
def objects(draw: st.DrawFn, part: dict[str, Any]) -> dict[str, Any]:
    made = {}
    required = part.get("required", ())
    for name, inner in part["properties"].items():
        # A peer with all of its fields is never right; its times depend on each other.
        usual = 1 if len(part["properties"]) > 12 and not name.endswith("Time") else 4
        chance = 19 if name in required or name == "peerASN" else usual
        if draw(st.integers(0, 19)) < chance:
            made[name] = draw(values(inner, name))
    if draw(st.integers(0, 39)) == 0:
        made["unknownField"] = 1
    if made and draw(st.integers(0, 39)) == 0:
        made[draw(st.sampled_from(sorted(made)))] = draw(st.sampled_from([5, "x", [], {}, True]))
    return made


@st.composite
def whole_objects(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(SCHEMAS)))
    spec = draw(objects(SCHEMAS[kind]["properties"]["spec"]))
    name = "a"
    if kind == "BlockClaim" and isinstance(spec.get("cidr"), str) and draw(st.integers(0, 5)):
        name = spec["cidr"].translate(str.maketrans(".:/", "---"))
        name = f"0{name}" if name.startswith("-") else name or "a"
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": kind,
        "metadata": {"name": name.lower()},
        "spec": spec,
    }


def server_refuses(thing: dict[str, Any]) -> list[str]:
    whole = SCHEMAS[thing["kind"]]
    body, unknown = schemas.prune(whole, deepcopy(thing))
    schemas.fill(whole, body)
    found = schemas.faults(whole, body) or rules.faults(whole, body)
    return [*unknown, *(f"{cause.field}: {cause.message}" for cause in found)]


def parser_refuses(thing: dict[str, Any]) -> str | None:
    try:
        made = parse_object(Document("t", 1, thing, {}))
    except DocumentError as error:
        return str(error)
    assert made is not None
    return None


@pytest.mark.filterwarnings("ignore:The recursion limit")
@given(whole_objects())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_server_and_parser_agree(thing: dict[str, Any]) -> None:
    by_server, by_parser = server_refuses(thing), parser_refuses(thing)
    event(f"{thing['kind']} {'refused' if by_server else 'taken'}")
    assert bool(by_server) == bool(by_parser), (thing, by_server, by_parser)


@given(st.sampled_from(sorted(SCHEMAS)), st.data())
@settings(max_examples=100, deadline=None)
def test_what_the_server_has_filled_in_means_the_same(kind: str, data: st.DataObject) -> None:
    """Defaults of the schema are those of the parser: a manifest is read as its stored object."""
    spec = data.draw(objects(SCHEMAS[kind]["properties"]["spec"]))
    thing = {"apiVersion": "samepath.dev/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    if parser_refuses(thing):
        return
    filled = deepcopy(thing)
    schemas.fill(SCHEMAS[kind], filled)
    assert parse_object(Document("t", 1, filled, {})) == parse_object(Document("t", 1, thing, {}))


def test_the_texts_are_of_use() -> None:
    """Half of the lists above would prove nothing if all of their texts were wrong."""
    for text in ADDRESSES[:2]:
        ipaddress.ip_address(text)
    for text in PREFIXES[:4]:
        ipaddress.ip_network(text)
