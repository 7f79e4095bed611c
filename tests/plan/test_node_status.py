"""What is told of a node: which objects, under which names, and what is not worth a write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from samepath.bgp.adjout import Advertisement
from samepath.bgp.attributes import PathAttributes
from samepath.model.cluster import Service
from samepath.model.net import Family, make_nlri, parse_address
from samepath.plan import node_status
from samepath.plan.node_status import (
    Desired,
    Json,
    Key,
    Kind,
    Session,
    Urgency,
    View,
    desired,
    is_same,
    short,
    told,
)
from samepath.plan.services import Reach, Row, Why

A1, A2, A6 = (parse_address(t) for t in ("192.0.2.1", "192.0.2.2", "2001:db8::"))
SINCE = "2026-01-01T00:00:00Z"


def service(name: str, *, local: bool = True, internal: bool = False) -> Service:
    return Service("shop", name, external_local=local, internal_local=internal, uid=f"uid-{name}")


def row(name: str, address: bytes = A1, why: Why = Why.ACTIVE, **more: Reach) -> Row:
    reach = more.get("reach", Reach.LOAD_BALANCER)
    return Row(f"shop/{name}", address, reach, why, 3)


def view(*rows: Row, services: tuple[Service, ...] = (), **more: object) -> View:
    made = View(
        node="n1",
        is_ready=True,
        rows=rows,
        services={s.key: s for s in services},
        told={A1: ("gw1", "gw2"), A2: ("gw1",)},
        sessions=(),
        services_most=500,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def statuses(found: Desired) -> dict[str, Json]:
    return {key.name: wanted.status for key, wanted in found.objects.items()}


def test_service_of_policy_local_is_told_with_its_reason_and_neighbours() -> None:
    web = service("web")
    found = desired(view(row("web"), row("web", A2), services=(web,)))
    ((key, wanted),) = found.objects.items()
    assert key == Key(Kind.SERVICE, "shop", "web-n1")
    assert wanted.status == {
        "node": "n1", "serviceName": "web", "serviceNamespace": "shop", "state": "active",
        "reason": "ready endpoints", "addresses": ["192.0.2.1", "192.0.2.2"],
        "peers": ["gw1", "gw2"],
    }  # fmt: skip
    assert wanted.labels == {"samepath.dev/node": "n1", "samepath.dev/service": "web"}
    assert wanted.owner == ("v1", "Service", "web", "uid-web")
    assert wanted.urgency is Urgency.REST


def test_drain_comes_first_and_withdrawn_is_not_told() -> None:
    web, off = service("web"), service("off")
    rows = (row("web", why=Why.DRAINING_NODE_LABEL), row("off", why=Why.NO_LOCAL_ENDPOINT))
    found = desired(view(*rows, services=(web, off)))
    ((_, wanted),) = found.objects.items()
    assert (wanted.status["state"], wanted.urgency) == ("draining", Urgency.DRAINING)
    one_active = desired(view(rows[0], row("web", A2), services=(web,)))
    assert statuses(one_active)["web-n1"]["state"] == "active"


def test_policy_cluster_is_told_only_if_asked_for_and_after_local() -> None:
    everywhere, here = service("a-all", local=False), service("web")
    rows = (row("a-all", A2), row("web"))
    known = (everywhere, here)
    assert set(statuses(desired(view(*rows, services=known)))) == {"web-n1"}
    both = desired(view(*rows, services=known, with_cluster_policy=True))
    assert set(statuses(both)) == {"web-n1", "a-all-n1"}
    one = desired(view(*rows, services=known, with_cluster_policy=True, services_most=1))
    assert (set(statuses(one)), one.left_out) == ({"web-n1"}, 1)
    none = desired(view(*rows, services=known, with_cluster_policy=True, services_most=0))
    assert (statuses(none), none.left_out) == ({}, 0)
    inside = service("in", local=False, internal=True)
    by_cluster_ip = row("in", reach=Reach.CLUSTER)
    assert statuses(desired(view(by_cluster_ip, services=(inside,))))


def test_sessions_have_names_of_their_own_and_a_limit() -> None:
    sessions = tuple(
        Session(parse_address(text), text != "10.0.0.2", SINCE, "Up", 64512, 64513)
        for text in ("10.0.0.1", "10.0.0.2", "2001:db8::")
    )
    found = desired(view(sessions=sessions))
    assert set(statuses(found)) == {"n1-10-0-0-1", "n1-10-0-0-2", "n1-2001-db8--0"}
    assert statuses(found)["n1-10-0-0-1"] == {
        "node": "n1", "peer": "10.0.0.1", "bgpStatus": "Established", "bfdStatus": "Up",
        "localASN": 64512, "peerASN": 64513, "since": SINCE,
    }  # fmt: skip
    down = desired(view(sessions=(replace(sessions[1], bfd="", peer_asn=0),)))
    assert statuses(down)["n1-10-0-0-2"] == {
        "node": "n1", "peer": "10.0.0.2", "bgpStatus": "Down", "bfdStatus": "N/A",
        "localASN": 64512, "since": SINCE,
    }  # fmt: skip
    many = tuple(Session(parse_address(f"10.0.1.{n}"), True, SINCE) for n in range(200))
    cut = desired(view(sessions=many))
    assert (len(cut.objects), cut.left_out) == (64, 136)


@pytest.mark.parametrize("most", [63, 253])
def test_long_names_are_shortened_and_stay_different(most: int) -> None:
    one, other = "n" * most + ".a", "n" * most + ".b"
    assert short("n" * most, most) == "n" * most
    assert short(one, most) != short(other, most)
    assert len(short(one, most)) <= most
    assert ".-" not in short("n" * (most - 12) + "." * 20, most)


def test_told_by_itself_or_within_a_prefix_but_not_by_the_default_route() -> None:
    advertisement = Advertisement(PathAttributes(next_hop=b""))
    four = Family.IPV4
    offered = {
        "host": {four: {make_nlri(A1, 32): advertisement}},
        "prefix": {four: {make_nlri(A1, 24): advertisement}},
        "default": {four: {make_nlri(A1, 0): advertisement}},
        "six": {Family.IPV6: {make_nlri(A6, 128): advertisement}},
    }
    assert told(offered, (A1, A2, A6), {"host": "tor"}) == {
        A1: ("prefix", "tor"), A2: ("prefix",), A6: ("six",)
    }  # fmt: skip


def test_what_is_not_worth_a_write() -> None:
    down = {"bgpStatus": "Down", "since": SINCE, "peer": "x"}
    assert is_same(Kind.SESSION, down, {**down, "since": "2026-02-02T00:00:00Z"})
    assert not is_same(Kind.SESSION, down, {**down, "bgpStatus": "Established"})
    up = {"bgpStatus": "Established", "since": SINCE}
    assert not is_same(Kind.SESSION, up, {**up, "since": "2026-02-02T00:00:00Z"})
    assert not is_same(Kind.SERVICE, None, {})
    ready = node_status.condition(True, SINCE)
    assert is_same(Kind.NODE, ready, node_status.condition(True, "2026-02-02T00:00:00Z"))
    theirs = {**ready, "reason": "CalicoIsUp"}
    assert not is_same(Kind.NODE, theirs, ready)
