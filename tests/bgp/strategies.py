"""Hypothesis strategies for whatever the BGP codec reads and writes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from samepath.bgp import message as m
from samepath.bgp.attributes import (
    AsPath,
    Attribute,
    Origin,
    PathAttributes,
    SegmentType,
    UnknownAttribute,
)
from samepath.bgp.capabilities import (
    STALE_TIME_S_MAX,
    AddPath,
    Capabilities,
    CapabilityCode,
    Fqdn,
    GracefulRestart,
    LongLived,
)
from samepath.model.net import Address, Family, Nlri, make_nlri

families = st.sampled_from(Family)
asns = st.one_of(
    st.integers(1, 0xFFFF), st.integers(1, 0xFFFFFFFF), st.sampled_from([23456, 65535, 65536])
)
words = st.integers(0, 0xFFFFFFFF)


def octets(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


def nlris(family: Family) -> st.SearchStrategy[Nlri]:
    return st.builds(make_nlri, octets(family.octets), st.integers(0, family.bits))


def nlri_blocks(family: Family, most: int = 20) -> st.SearchStrategy[tuple[Nlri, ...]]:
    hosts = st.builds(make_nlri, octets(family.octets), st.just(family.bits))
    return st.one_of(
        st.lists(nlris(family), min_size=1, max_size=most),
        st.lists(hosts, min_size=1, max_size=most),
    ).map(tuple)


def hosts(family: Family) -> st.SearchStrategy[Address]:
    """Addresses that can be a next hop."""
    if family is Family.IPV4:
        return octets(4).filter(lambda a: 0 < a[0] < 224 and a[0] != 127)
    return octets(16).filter(lambda a: a[0] != 0xFF and any(a[:15]))


segments = st.tuples(
    st.sampled_from([SegmentType.AS_SET, SegmentType.AS_SEQUENCE]).map(int),
    st.lists(asns, min_size=1, max_size=5).map(tuple),
)
as_paths = st.lists(segments, max_size=3).map(tuple).map(AsPath)

_KNOWN_CODES = {int(code) for code in Attribute}
unknown_attributes = st.lists(
    st.builds(
        UnknownAttribute,
        st.integers(0, 255).filter(lambda code: code not in _KNOWN_CODES),
        st.binary(max_size=300),
    ),
    max_size=2,
    unique_by=lambda u: u.code,
).map(tuple)


def tuples(element: st.SearchStrategy[object], most: int = 4) -> st.SearchStrategy[tuple[object]]:
    return st.lists(element, max_size=most).map(tuple)


@st.composite
def path_attributes(
    draw: st.DrawFn, family: Family = Family.IPV4, internal: bool = False
) -> PathAttributes:
    inside = internal or None
    second = family is Family.IPV6 and draw(st.booleans())
    return PathAttributes(
        next_hop=draw(hosts(family)),
        origin=draw(st.sampled_from(Origin)),
        as_path=draw(as_paths),
        link_local_next_hop=draw(hosts(family)) if second else None,
        med=draw(st.none() | words),
        local_pref=inside and draw(words),
        atomic_aggregate=draw(st.booleans()),
        aggregator=draw(st.none() | st.tuples(asns, octets(4))),
        communities=draw(tuples(words)),
        extended_communities=draw(tuples(octets(8))),
        large_communities=draw(tuples(st.tuples(words, words, words))),
        originator_id=inside and draw(st.none() | words),
        cluster_list=draw(tuples(words)) if internal else (),
        unknown=draw(unknown_attributes),
    )


@st.composite
def make_contexts(draw: st.DrawFn) -> m.Context:
    """The same in both directions, so that what is written can be read."""
    several = draw(st.frozensets(families))
    return m.Context(
        four_octet_as=draw(st.booleans()),
        families=frozenset(Family),
        internal=draw(st.booleans()),
        max_message=draw(st.sampled_from([m.MAX_MESSAGE, m.MAX_EXTENDED_MESSAGE])),
        add_path_receive=several,
        add_path_send=several,
        extended_next_hop=draw(st.booleans()),
    )


contexts = make_contexts()
any_contexts = st.builds(
    m.Context,
    four_octet_as=st.booleans(),
    families=st.frozensets(families),
    internal=st.booleans(),
    add_path_receive=st.frozensets(families),
    extended_next_hop=st.booleans(),
)


def path_ids(family: Family, context: m.Context) -> st.SearchStrategy[list[int]]:
    if family not in context.add_path_send:
        return st.just([0])
    return st.lists(words, min_size=1, max_size=3, unique=True)


@st.composite
def updates(draw: st.DrawFn, context: m.Context) -> m.Update:
    """Such that one message can hold them."""
    attributes = draw(path_attributes(Family.IPV4, context.internal))
    reaches, withdrawals = [], []
    for family in Family:
        what = draw(st.sets(st.sampled_from(["reach", "withdraw"])))
        if "reach" in what:
            if family is Family.IPV4 and context.extended_next_hop and draw(st.booleans()):
                # RFC 8950: then the message has no room for IPv6 prefixes of another next hop.
                return _by_ipv6(draw, context)
            if family is Family.IPV6:
                other = draw(path_attributes(Family.IPV6))
                attributes = replace(
                    attributes,
                    next_hop=other.next_hop,
                    link_local_next_hop=other.link_local_next_hop,
                )
            for path_id in draw(path_ids(family, context)):
                reaches.append(m.Reach(family, draw(nlri_blocks(family)), attributes, path_id))
        if "withdraw" in what:
            for path_id in draw(path_ids(family, context)):
                withdrawals.append(m.Withdrawal(family, draw(nlri_blocks(family)), path_id))
    if not reaches and not withdrawals:
        return m.Update(end_of_rib=draw(families))
    return m.Update(tuple(reaches), tuple(withdrawals))


def _by_ipv6(draw: st.DrawFn, context: m.Context) -> m.Update:
    attributes = draw(path_attributes(Family.IPV6, context.internal))
    return m.Update(
        tuple(
            m.Reach(Family.IPV4, draw(nlri_blocks(Family.IPV4)), attributes, path_id)
            for path_id in draw(path_ids(Family.IPV4, context))
        )
    )


graceful_restarts = st.builds(
    GracefulRestart,
    restart_state=st.booleans(),
    notification=st.booleans(),
    restart_time_s=st.integers(0, 0xFFF),
    families=st.lists(st.tuples(families, st.booleans()), max_size=2).map(tuple),
)
long_lived = st.lists(
    st.builds(LongLived, families, st.booleans(), st.integers(0, STALE_TIME_S_MAX)), max_size=2
).map(tuple)
add_paths = st.builds(AddPath, st.frozensets(families), st.frozensets(families))
names = st.text(st.characters(codec="utf-8"), max_size=16)
_KNOWN_CAPABILITIES = {int(code) for code in CapabilityCode}
capabilities = st.builds(
    Capabilities,
    families=st.frozensets(families, min_size=1),
    four_octet_as=st.none() | asns,
    route_refresh=st.booleans(),
    enhanced_route_refresh=st.booleans(),
    graceful_restart=st.none() | graceful_restarts,
    long_lived=long_lived,
    add_path=add_paths,
    extended_next_hop=st.booleans(),
    extended_message=st.booleans(),
    fqdn=st.none() | st.builds(Fqdn, names, names),
    unknown=st.lists(
        st.tuples(
            st.integers(0, 255).filter(lambda code: code not in _KNOWN_CAPABILITIES),
            st.binary(max_size=255),
        ),
        max_size=3,
    ).map(tuple),
)


@st.composite
def opens(draw: st.DrawFn) -> m.Open:
    offered = draw(capabilities)
    asn = offered.four_octet_as or draw(st.integers(1, 0xFFFF))
    hold_time_s = draw(st.just(0) | st.integers(3, 0xFFFF))
    return m.Open(asn, hold_time_s, draw(st.integers(1, 0xFFFFFFFF)), offered)


notifications = st.builds(
    m.Notification, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)
)
refreshes = st.builds(m.RouteRefresh, families, st.integers(0, 255))


@st.composite
def messages(draw: st.DrawFn) -> tuple[m.Context, m.Message]:
    context = draw(contexts)
    message = draw(
        st.one_of(updates(context), opens(), notifications, refreshes, st.just(m.Keepalive()))
    )
    return context, message


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few octets changed, removed, doubled or put in."""
    octets_ = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(octets_) - 1)))
        match draw(st.sampled_from(["change", "add", "remove", "double", "cut"])):
            case "change":
                octets_[at : at + 1] = draw(octets(1))
            case "add":
                octets_[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "remove":
                del octets_[at : at + draw(st.integers(1, 4))]
            case "double":
                octets_[at:at] = octets_[at : at + draw(st.integers(1, 40))]
            case "cut":
                del octets_[at:]
    return bytes(octets_)
