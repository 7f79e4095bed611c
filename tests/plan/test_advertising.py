"""Which service addresses go to which neighbour, and how."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

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
from samepath.model.kinds import (
    BGPAdvertisement,
    Community,
    IPAddressPool,
    Operator,
    Range,
    Requirement,
    Selector,
)
from samepath.model.net import Family, make_nlri, parse_address, prefix_text
from samepath.plan.advertising import Terms, deadlines, terms, told, untold
from samepath.plan.advertising_rules import WhyRefused, make_rules
from samepath.plan.services import Offer, Row, State, View, Why, offers, rows

A = parse_address
NODE = Node("n1", labels={"rack": "r1"})


def pool(name: str = "main", *ranges: str, **more: Any) -> IPAddressPool:
    parts = [text.split("-") for text in ranges or ("203.0.113.0-203.0.113.255",)]
    return IPAddressPool(name=name, addresses=tuple(Range(A(a), A(b)) for a, b in parts), **more)


def adv(name: str = "all", **more: Any) -> BGPAdvertisement:
    return BGPAdvertisement(name=name, **more)


def lengths(four: int) -> dict[str, Any]:
    return {"aggregation_length": {Family.IPV4: four, Family.IPV6: 128}}


def label(key: str, value: str) -> tuple[Selector, ...]:
    return (Selector((Requirement(key, Operator.IN, (value,)),)),)


def web(name: str, *ips: str, ready: int = 1, **more: Any) -> list[Any]:
    """A service with endpoints on n1 (0: one that terminates), and policy Local."""
    service = Service(
        "default",
        name,
        ports=(ServicePort(80),),
        load_balancer=True,
        load_balancer_ips=tuple(map(A, ips)),
        external_local=True,
        **more,
    )
    slices = []
    for family, base in ((Family.IPV4, "10.1.0."), (Family.IPV6, "fd00::")):
        endpoints = tuple(
            Endpoint(A(f"{base}{i + 1}"), "n1", ready > 0, True, ready == 0)
            for i in range(max(ready, 1))
        )
        slices.append(
            EndpointSlice(
                "default", f"{name}-{family.label}", name, family, (SlicePort(8080),), endpoints
            )
        )
    return [service, *slices]


class Told:
    """What a cluster comes to."""

    def __init__(self, *objects: Any, neighbors: tuple[str, ...] = ("gw1", "gw2")) -> None:
        flat = [NODE, *(x for o in objects for x in (o if isinstance(o, list) else [o]))]
        self.cluster: Cluster = make_cluster(flat)
        self.rules = make_rules(self.cluster, NODE.labels)
        self.untold = untold(self.rules, self.cluster, Advertise(), neighbors)
        self.rows: tuple[Row, ...] = rows(View(self.cluster, "n1", Advertise(), untold=self.untold))
        self.told = told(self.rules, self.cluster, self.rows)
        self.offers = offers(self.rows)

    def to(self, name: str) -> dict[str, Terms]:
        return {prefix_text(*p): t for p, t in terms(self.offers, self.told, [name])[0].items()}

    def why(self, service: str = "web") -> Why:
        (found,) = {row.why for row in self.rows if row.service == f"default/{service}"}
        return found

    @property
    def refused(self) -> set[tuple[str, WhyRefused]]:
        both = (*self.rules.refused, *terms(self.offers, self.told, ["gw1"])[1])
        return {(r.advertisement, r.why) for r in both}


ACTIVE = Terms(State.ACTIVE, 1)


def test_without_pools_all_is_as_ever() -> None:
    made = Told(web("web", "203.0.113.1", "2001:db8::1", ready=3), adv(peers=("nobody",)))
    assert made.untold == made.told == {}
    weight = Terms(State.ACTIVE, 3)
    assert made.to("anybody") == {"203.0.113.1/32": weight, "2001:db8::1/128": weight}


def test_an_address_of_a_pool_needs_an_advertisement_and_others_do_not() -> None:
    services = [*web("web", "203.0.113.1"), *web("other", "198.51.100.1")]
    without = Told(services, pool())
    assert without.why() is Why.NO_ADVERTISEMENT
    assert without.why("other") is Why.ACTIVE
    assert without.to("gw1") == {"198.51.100.1/32": ACTIVE}
    assert Told(services, pool(), adv()).to("gw1") == {
        "203.0.113.1/32": ACTIVE,
        "198.51.100.1/32": ACTIVE,
    }


def test_every_absence_has_its_reason() -> None:
    service = web("web", "203.0.113.1", labels={"app": "web"})
    for advertisement, why in (
        (adv(ip_address_pools=("other",)), Why.NO_ADVERTISEMENT),
        (adv(pool_selectors=label("tier", "a")), Why.NO_ADVERTISEMENT),
        (adv(node_selectors=label("rack", "r2")), Why.ADVERTISED_ELSEWHERE),
        (adv(service_selectors=label("app", "db")), Why.SERVICE_NOT_SELECTED),
        (adv(peers=("gw9",)), Why.NO_SUCH_PEER),
        (adv(communities=("nobody",)), Why.ADVERTISEMENT_REFUSED),
        (adv(**lengths(16)), Why.ADVERTISEMENT_REFUSED),
        (adv(ip_address_pools=("main",)), Why.ACTIVE),
        (adv(pool_selectors=label("tier", "b")), Why.ACTIVE),
        (adv(node_selectors=label("rack", "r1")), Why.ACTIVE),
        (adv(service_selectors=label("app", "web")), Why.ACTIVE),
        (adv(peers=("gw2",)), Why.ACTIVE),
    ):
        made = Told(service, pool(labels={"tier": "b"}), advertisement)
        assert made.why() is why, advertisement
        assert bool(made.offers) is (why is Why.ACTIVE)


def test_peers_are_told_by_name() -> None:
    made = Told(
        web("web", "203.0.113.1"),
        pool(),
        adv("one", peers=("gw1",), communities=("65000:1",)),
        adv("two", peers=("gw1", "gw2"), communities=("65000:2", "large:1:2:3")),
    )
    both = Terms(State.ACTIVE, 1, None, (65000 << 16 | 1, 65000 << 16 | 2), ((1, 2, 3),))
    assert made.to("gw1") == {"203.0.113.1/32": both}
    (only,) = made.to("gw2").values()
    assert only.communities == (65000 << 16 | 2,)
    assert made.to("gw3") == {}


def test_communities_by_name() -> None:
    names = Community(name="names", aliases={"vpn": "65000:7", "big": "large:1:2:3", "bad": "x:y"})
    made = Told(
        web("web", "203.0.113.1"),
        pool(),
        names,
        adv("a", communities=("vpn", "big", "no-export")),
        adv("b", communities=("vpm",), local_pref=7),
        adv("c", communities=("bad",)),
    )
    assert made.refused == {("b", WhyRefused.UNKNOWN_COMMUNITY), ("c", WhyRefused.BAD_COMMUNITY)}
    (only,) = made.to("gw1").values()
    assert only == Terms(State.ACTIVE, 1, None, (65000 << 16 | 7, 0xFFFFFF01), ((1, 2, 3),))


def test_of_two_preferences_the_first_by_name_has_its_way() -> None:
    made = Told(
        web("web", "203.0.113.1"),
        pool(),
        adv("a", communities=("65000:1",)),
        adv("b", local_pref=200, communities=("65000:2",)),
        adv("c", local_pref=300, communities=("65000:3",)),
        adv("d", local_pref=200, communities=("65000:4",)),
        adv("e", local_pref=300, peers=("gw2",)),
    )
    (only,) = made.to("gw1").values()
    assert only.local_pref == 200
    assert [c & 0xFFFF for c in only.communities] == [1, 2, 4]
    assert made.refused == {("c", WhyRefused.OTHER_LOCAL_PREF)}


def test_an_aggregate_stands_while_anything_in_it_is_offered() -> None:
    def made(first: int | None, second: int | None) -> dict[str, Terms]:
        services = [] if first is None else web("one", "203.0.113.1", ready=first)
        services += [] if second is None else web("two", "203.0.113.77", ready=second)
        return Told(services, pool(), adv(**lengths(24))).to("gw1")

    assert made(None, None) == {}
    assert made(3, 2) == {"203.0.113.0/24": ACTIVE}, "the weight follows nothing"
    assert made(None, 2) == {"203.0.113.0/24": ACTIVE}
    assert made(0, 2) == {"203.0.113.0/24": ACTIVE}
    assert made(0, 0) == {"203.0.113.0/24": Terms(State.DRAINING, 1)}


def test_an_aggregate_beside_its_addresses() -> None:
    made = Told(
        web("web", "203.0.113.1", ready=3),
        pool(),
        adv("hosts", peers=("gw1",), communities=("65000:1",)),
        adv("nets", communities=("65000:2",), **lengths(24)),
    )
    assert {p: (t.weight, t.communities[0] & 0xFFFF) for p, t in made.to("gw1").items()} == {
        "203.0.113.1/32": (3, 1),
        "203.0.113.0/24": (1, 2),
    }
    assert list(made.to("gw2")) == ["203.0.113.0/24"]


def test_an_aggregate_is_never_wider_than_the_pool() -> None:
    for ranges, length, fits in (
        (("203.0.113.0-203.0.113.255",), 24, True),
        (("203.0.113.0-203.0.113.127",), 24, False),
        (("203.0.113.0-203.0.113.127", "203.0.113.128-203.0.113.255"), 24, True),
        (("203.0.113.10-203.0.113.20",), 30, False),
        (("203.0.113.8-203.0.113.19",), 30, True),
        (("203.0.113.8-203.0.113.18",), 30, False),
        (("203.0.113.7-203.0.113.7",), 32, True),
        (("203.0.113.0-203.0.113.127", "203.0.113.129-203.0.113.255"), 24, False),
    ):
        made = make_rules(make_cluster([pool("main", *ranges), adv(**lengths(length))]), {})
        assert (made.refused == ()) is fits, (ranges, length)
        assert made.rules[0].pools == (frozenset({"main"}) if fits else frozenset())


def test_a_pool_that_is_too_small_takes_no_other_with_it() -> None:
    made = Told(
        [*web("web", "203.0.113.1"), *web("small", "198.51.100.1")],
        pool("main"),
        pool("small", "198.51.100.0-198.51.100.9"),
        adv(ip_address_pools=("main", "small", "gone"), **lengths(24)),
    )
    assert list(made.to("gw1")) == ["203.0.113.0/24"]
    assert made.why("small") is Why.ADVERTISEMENT_REFUSED
    assert made.refused == {("all", WhyRefused.WIDER_THAN_POOL), ("all", WhyRefused.UNKNOWN_POOL)}


def test_services_that_share_an_address() -> None:
    """Of each the advertisements count, as long as it is offered itself."""
    ours = adv("a", service_selectors=label("app", "a"), communities=("65000:1",))
    theirs = adv("b", service_selectors=label("app", "b"), communities=("65000:2",))
    first = web("first", "203.0.113.1", labels={"app": "a"}, ready=2)
    second = web("second", "203.0.113.1", labels={"app": "b"}, ready=3)
    made = Told(first, second, pool(), ours, theirs)
    (both,) = made.to("gw1").values()
    assert ([c & 0xFFFF for c in both.communities], both.weight) == ([1, 2], 2)
    made = Told(first, second, pool(), theirs)
    (one,) = made.to("gw1").values()
    assert ([c & 0xFFFF for c in one.communities], one.weight) == ([2], 3)
    assert made.why("first") is Why.SERVICE_NOT_SELECTED


def test_drains_have_the_longest_deadline_that_an_advertisement_names() -> None:
    made = Told(
        [*web("web", "203.0.113.1", ready=0), *web("other", "198.51.100.1", ready=0)],
        pool(),
        adv("a", drain_deadline_s=10.0),
        adv("b", drain_deadline_s=60.0),
        adv("c"),
    )
    assert deadlines(made.told) == {A("203.0.113.1"): 60.0}


def test_equal_terms_are_one_object() -> None:
    many = [x for n in range(1, 200) for x in web(f"w{n}", f"203.0.113.{n}")]
    made = Told(many, pool(), adv())
    assert len({id(t) for t in made.to("gw1").values()}) == 1


def test_a_slip_in_a_new_pool_changes_nothing_for_the_others() -> None:
    """It overlaps the one that the addresses are from, and no advertisement names it."""
    new = pool("a", "203.0.113.0-203.0.113.127", created="2026-02-02T00:00:00Z")
    objects = (web("web", "203.0.113.1"), pool(), adv(ip_address_pools=("main",)))
    before, after = Told(*objects), Told(*objects, new)
    assert after.to("gw1") == before.to("gw1") != {}
    assert after.why() is Why.ACTIVE


selectors = st.sampled_from([(), label("x", "1"), label("x", "2")])
advertisements = st.builds(
    BGPAdvertisement,
    name=st.sampled_from("abcd"),
    ip_address_pools=st.sampled_from([(), ("p",), ("q",), ("p", "q"), ("gone",)]),
    pool_selectors=selectors,
    aggregation_length=st.sampled_from([24, 26, 30, 32]).map(
        lambda n: {Family.IPV4: n, Family.IPV6: 128}
    ),
    local_pref=st.sampled_from([None, 1, 2]),
    communities=st.sampled_from([(), ("1:1",), ("nobody",)]),
    node_selectors=st.sampled_from([(), label("rack", "r1"), label("rack", "r2")]),
    peers=st.sampled_from([(), ("gw1",), ("gw2",)]),
    service_selectors=selectors,
)
VIPS = ["203.0.113.1", "203.0.113.130", "198.51.100.5", "192.0.2.1"]


@given(
    st.lists(advertisements, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(VIPS), st.sampled_from("12"), st.integers(0, 2)), max_size=5
    ),
)
def test_nothing_is_told_that_no_advertisement_selects(
    wanted: list[BGPAdvertisement], services: list[tuple[str, str, int]]
) -> None:
    pools = [
        pool("p", "203.0.113.0-203.0.113.255", labels={"x": "1"}),
        pool("q", "198.51.100.0-198.51.100.9", labels={"x": "2"}),
    ]
    made = Told(
        *(web(f"s{i}", vip, ready=r, labels={"x": x}) for i, (vip, x, r) in enumerate(services)),
        *pools,
        *{a.name: a for a in wanted}.values(),
    )
    every = {a.name: a for a in wanted}.values()
    for peer in ("gw1", "gw2"):
        allowed: set[str] = set()
        for vip, x, _ in services:
            of = next((p for p in pools if p.addresses[0].first <= A(vip) <= _last(p)), None)
            if of is None:
                allowed.add(f"{vip}/32")
                continue
            for a in every:
                named = of.name in a.ip_address_pools
                labelled = bool(a.pool_selectors) and a.pool_selectors[0].selects(of.labels)
                neither = not a.ip_address_pools and not a.pool_selectors
                if (
                    (named or labelled or neither)
                    and a.communities != ("nobody",)
                    and (not a.node_selectors or a.node_selectors[0].selects(NODE.labels))
                    and (not a.peers or peer in a.peers)
                    and (not a.service_selectors or a.service_selectors[0].selects({"x": x}))
                ):
                    length = a.aggregation_length[Family.IPV4]
                    if of.name == "p" or length == 32:  # the other pool holds no aggregate
                        allowed.add(prefix_text(Family.IPV4, make_nlri(A(vip), length)))
        assert made.to(peer).keys() == allowed
    for row in made.rows:
        if row.why.state is not State.WITHDRAWN:
            assert row.address in made.offers


def _last(pool: IPAddressPool) -> bytes:
    return pool.addresses[0].last


@given(st.lists(st.tuples(st.sampled_from(VIPS), st.integers(0, 3)), max_size=6))
def test_without_our_kinds_the_offers_are_the_routes(services: list[tuple[str, int]]) -> None:
    made = Told(*(web(f"s{i}", vip, ready=r) for i, (vip, r) in enumerate(services)))
    assert made.to("gw1") == {
        f"{'.'.join(map(str, a))}/32": Terms(o.state, o.weight) for a, o in made.offers.items()
    }
    assert made.offers == offers(rows(View(made.cluster, "n1", Advertise())))
    assert all(isinstance(o, Offer) for o in made.offers.values())
