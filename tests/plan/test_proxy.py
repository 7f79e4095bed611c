"""Service rules as data and text: who may reach what, and that a change is just that change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.plan import ruleset as ruleset_module
from samepath.plan.proxy import Known, build, cluster_prefixes
from samepath.plan.ruleset import (
    AFFINITY_SLOTS,
    ENDPOINTS,
    VERDICTS,
    Ruleset,
    change_text,
    full_text,
)

A = parse_address
VIP, CLUSTER_IP = "203.0.113.10", "10.96.0.10"


def web(name: str = "web", vip: str = VIP, **more: Any) -> Service:
    fields: dict[str, Any] = {
        "ports": (ServicePort(80),),
        "cluster_ips": (A(CLUSTER_IP),),
        "load_balancer": True,
        "load_balancer_ips": (A(vip),),
        "external_local": True,
    }
    return Service("default", name, **{**fields, **more})


def slice_of(states: str, service: str = "web", first: int = 1) -> EndpointSlice:
    """One letter an endpoint, capital on node n1, small on n2: R ready, S serving, T neither."""
    endpoints = tuple(
        Endpoint(
            A(f"10.244.0.{i}"),
            "n1" if state.isupper() else "n2",
            state in "Rr",
            state in "RrSs",
            state not in "Rr",
        )
        for i, state in enumerate(states, first)
    )
    ports = (SlicePort(8080),)
    return EndpointSlice("default", f"{service}-1", service, Family.IPV4, ports, endpoints)


def rules(*objects: Node | Service | EndpointSlice, **more: Any) -> Ruleset:
    return build(make_cluster(objects), "n1", Advertise(), ["10.244.0.0/16"], **more)


def endpoints_of(scope: str, key: str) -> tuple[str, str]:
    """The map, and what its keys begin with."""
    address, protocol, port = key.split(" . ")
    return f"endpoints_{scope}_{protocol}", f"{address} . {port}"


def drawn(verdict: str) -> int:
    """How many numbers the chain can draw."""
    number = verdict.split("_")[2]
    return AFFINITY_SLOTS if number == "client" else int(number)


def reached(found: Ruleset, key: str, *, inside: bool) -> list[int]:
    """The last octets of the endpoints that a new flow may get, as the chains find them."""
    scopes = ("inside4", "outside4") if inside else ("outside4",)
    for scope in scopes:
        verdict = found.elements[scope].get(key)
        if verdict is None:
            continue
        count = drawn(verdict)
        map_, where = endpoints_of(scope, key)
        ends = [found.elements[map_][f"{where} . {i}"] for i in range(count)]
        return [int(end.split(" . ")[0].rsplit(".", 1)[1]) for end in ends]
    return []


@pytest.mark.parametrize(
    ("states", "local", "outside", "inside"),
    [
        ("RRr", True, [1, 2], [1, 2, 3]),
        ("RSr", True, [1], [1, 3]),
        ("SSr", True, [1, 2], [3]),
        ("SSs", True, [1, 2], [1, 2, 3]),
        ("STs", True, [1], [1, 3]),
        ("TTr", True, [], [3]),
        ("rr", True, [], [1, 2]),
        ("RRr", False, [1, 2, 3], [1, 2, 3]),
        ("SSr", False, [3], [3]),
        ("SsT", False, [1, 2], [1, 2]),
        ("TT", False, [], []),
        ("", False, [], []),
    ],
)
def test_who_may_reach_what(
    states: str, local: bool, outside: list[int], inside: list[int]
) -> None:
    found = rules(web(external_local=local), slice_of(states))
    key = f"{VIP} . tcp . 80"
    assert reached(found, key, inside=False) == outside
    assert reached(found, key, inside=True) == inside
    # A cluster IP knows no externalTrafficPolicy.
    for scope in (True, False):
        assert reached(found, f"{CLUSTER_IP} . tcp . 80", inside=scope) == inside
    # With endpoints or without, the address is one of ours: what is not wanted is rejected.
    assert found.elements["services4"].keys() == {VIP, CLUSTER_IP}
    here = {f"10.244.0.{i}" for i, state in enumerate(states, 1) if state.isupper()}
    assert found.elements["pods4"].keys() == here
    assert found.elements["hairpin4"].keys() == {f"{a} . {a}" for a in here}


def test_internal_policy_local() -> None:
    found = rules(web(internal_local=True), slice_of("Rr"))
    key = f"{CLUSTER_IP} . tcp . 80"
    assert reached(found, key, inside=True) == reached(found, key, inside=False) == [1]


def test_affinity_moves_only_the_clients_of_the_endpoint_that_left() -> None:
    key = f"{VIP} . tcp . 80"
    before = reached(rules(web(affinity=True), slice_of("RRRR")), key, inside=False)
    after = reached(rules(web(affinity=True), slice_of("RTRR")), key, inside=False)
    assert len(before) == AFFINITY_SLOTS
    for old, new in zip(before, after, strict=True):
        assert new != 2
        assert old in (2, new)
    assert min(Counter(before).values()) > AFFINITY_SLOTS / 10


@pytest.mark.parametrize(
    ("texts", "allowed"),
    [
        (["192.0.2.0/25", "192.0.2.128/25"], ["192.0.2.0/24"]),
        (["192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32"], ["192.0.2.0/24"]),
        (["192.0.2.0/24", "0.0.0.0/0"], None),  # everybody
        (["2001:db8::/32"], None),  # says nothing of IPv4
    ],
)
def test_source_ranges(texts: list[str], allowed: list[str] | None) -> None:
    found = rules(web(source_ranges=tuple(map(parse_prefix, texts))), slice_of("R"))
    key = f"{VIP} . tcp . 80"
    assert set(found.elements["guarded4"]) == ({key} if allowed is not None else set())
    assert set(found.elements["allowed4"]) == {f"{text} . {key}" for text in allowed or ()}


def test_two_services_that_claim_one_port() -> None:
    """The first by name has it, whichever came first; the other's other ports stand."""
    other = web("other", cluster_ips=(), ports=(ServicePort(80), ServicePort(81)))
    objects = (web(), other, slice_of("R"), slice_of("R", "other", first=9))
    for order in (objects, objects[::-1]):
        found = rules(*order)
        assert found.conflicts == (f"default/web: {VIP} . tcp . 80 is another service's already",)
        assert reached(found, f"{VIP} . tcp . 80", inside=False) == [9]
        assert reached(found, f"{VIP} . tcp . 81", inside=False) == [9]
        assert reached(found, f"{CLUSTER_IP} . tcp . 80", inside=False) == [1]


def test_addresses_that_are_taken_have_no_rules() -> None:
    found = rules(web(), slice_of("R"), taken=[A(VIP)])
    assert found.addresses == {A(CLUSTER_IP)}
    assert VIP not in full_text(found)


def test_nothing_of_a_manifest_but_addresses_and_numbers() -> None:
    odd = replace(web(), name="drop-table", ports=(ServicePort(80, Protocol.UDP, "x; drop"),))
    text = full_text(rules(odd, slice_of("R", "drop-table")))
    assert "drop-table" not in text
    assert "x; drop" not in text


def test_the_order_of_objects_does_not_matter() -> None:
    objects = [Node("n1"), web(), slice_of("Rr"), web("b", "203.0.113.11"), slice_of("SR", "b")]
    assert len({full_text(rules(*order)) for order in (objects, objects[::-1])}) == 1


def test_cluster_prefixes_do_not_overlap() -> None:
    cidrs = ["10.244.0.0/16", "10.244.1.0/24", "10.245.0.0/16", "fd00::/16", "fd00:1::/64"]
    found = build(Cluster(), "n1", Advertise(), cidrs)
    assert found.elements["cluster4"].keys() == {"10.244.0.0/15"}
    assert found.elements["cluster6"].keys() == {"fd00::/16"}
    nodes = [Node("a", ((Family.IPV4, b"\x18\x0a\xf4\x01"),)), Node("b")]
    assert cluster_prefixes(make_cluster(nodes)) == ("10.244.1.0/24",)


# -- A change is the difference ---------------------------------------------------------------

world = st.lists(
    st.tuples(
        st.sampled_from(("web", "dns", "mail")),
        st.text("RrSsTt", max_size=4),
        st.booleans(),
        st.booleans(),
    ),
    unique_by=lambda service: service[0],
    max_size=3,
)


def objects_of(services: Iterable[tuple[str, str, bool, bool]]) -> list[Service | EndpointSlice]:
    objects: list[Service | EndpointSlice] = []
    for name, states, local, affinity in services:
        number = ("web", "dns", "mail").index(name)
        objects += [
            web(name, f"203.0.113.{10 + number}", cluster_ips=(A(f"10.96.0.{number}"),),
                external_local=local, affinity=affinity),
            slice_of(states, name, first=1 + 10 * number),
        ]  # fmt: skip
    return objects


class Table:
    """What nft would have after reading a change."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.elements = {name: dict(values) for name, values in ruleset.elements.items()}
        self.chains = set(ruleset.chains)

    def read(self, text: str) -> None:
        for line in text.splitlines():
            verb, what, _, _, name, *_ = line.split(" ")
            block = line[line.find("{") + 1 : line.rfind("}")].strip()
            if what == "chain":
                self.chain(verb, name)
            elif verb == "flush":
                self.elements[name].clear()
            elif what == "element":
                for item in block.split(", "):
                    self.element(verb, name, item)
            else:
                assert name == "digest"

    def chain(self, verb: str, name: str) -> None:
        if verb == "add":
            assert name not in self.chains
            self.chains.add(name)
        else:
            used = (v for map_ in VERDICTS for v in self.elements[map_].values())
            assert not {f"goto {name}", f"jump {name}"} & set(used), (
                "a chain that is in use cannot be deleted"
            )
            self.chains.remove(name)

    def element(self, verb: str, name: str, item: str) -> None:
        key, _, value = item.partition(" : ")
        if verb == "delete":
            assert not value
            del self.elements[name][key]
        else:
            assert key not in self.elements[name]
            if name in VERDICTS:
                assert value.split(" ")[1] in self.chains
            self.elements[name][key] = value


@settings(max_examples=150)
@given(world, world)
def test_a_change_makes_the_new_table_of_the_old(
    before: list[tuple[str, str, bool, bool]], after: list[tuple[str, str, bool, bool]]
) -> None:
    old, new = rules(*objects_of(before)), rules(*objects_of(after))
    table = Table(old)
    text = change_text(old, new)
    assert text is not None
    table.read(text)
    assert table.elements == new.elements
    assert table.chains == new.chains
    assert (old.digest == new.digest) == (old.elements == new.elements)
    # Every chain finds an endpoint for every number that it can draw.
    for name in VERDICTS:
        for key, verdict in new.elements[name].items():
            if name.startswith("affine"):
                continue
            count = drawn(verdict)
            map_, where = endpoints_of(name, key)
            ends = new.elements[map_]
            assert all(f"{where} . {i}" in ends for i in range(count))
            assert f"{where} . {count}" not in ends
    assert sum(len(new.elements[name]) for name in ENDPOINTS) == full_text(new).count(" . 8080")


@given(st.lists(world, min_size=1, max_size=4))
def test_what_was_built_before_does_not_matter(
    worlds: list[list[tuple[str, str, bool, bool]]],
) -> None:
    known = Known()
    for services in worlds:
        found = rules(*objects_of(services), known=known)
        assert found == rules(*objects_of(services))


def test_other_sources_are_another_table() -> None:
    old = rules(web())
    new = build(make_cluster([web()]), "n1", Advertise(), ["10.0.0.0/8"])
    assert old.digest != new.digest
    table = Table(old)
    table.read(str(change_text(old, new)))
    assert table.elements == new.elements


def test_chains_say_all_in_their_name() -> None:
    found = rules(web(affinity=True), slice_of("RR"))
    text = full_text(found)
    assert found.chains == {"inside4_tcp_2_kept", "keep4_tcp_10800", "outside4_tcp_client_kept"}
    (rule,) = re.findall(r"chain outside4_tcp_client_kept \{ .*; (.*); \}", text)
    assert rule == (
        "meta l4proto tcp dnat ip to ip daddr . tcp dport . jhash ip saddr mod 64"
        f" seed {ruleset_module.AFFINITY_SEED:#x} map @endpoints_outside4_tcp"
    )
