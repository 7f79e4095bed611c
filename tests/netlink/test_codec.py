"""The wire format: both ways, known octets, and octets that are nothing."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepath.model.net import Family, make_nlri, parse_address
from samepath.netlink import codec, decode, encode, uapi
from samepath.netlink.codec import Malformed
from samepath.netlink.objects import Group, Hop, NextHop, Route
from samepath.netlink.ops import (
    DeleteNextHop,
    DeleteRoutes,
    Op,
    PutGroup,
    PutNextHop,
    PutRoute,
    PutRoutes,
)
from samepath.netlink.socket import error_of

_payloads = st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=6)


@given(_payloads)
def test_attributes_both_ways(payloads: dict[int, bytes]) -> None:
    data = b"".join(codec.attribute(type_, payload) for type_, payload in payloads.items())
    assert len(data) % 4 == 0
    found = codec.attributes(memoryview(data))
    assert {type_: bytes(payload) for type_, payload in found.items()} == payloads


@given(st.lists(st.tuples(st.integers(16, 120), st.integers(1, 2**32 - 1), _payloads), max_size=5))
def test_messages_both_ways(items: list) -> None:
    data = b""
    wanted = []
    for type_, sequence, payloads in items:
        body = b"".join(codec.attribute(t, p) for t, p in payloads.items())
        data += codec.message(type_, 5, sequence, body)
        wanted.append((type_, 5, sequence, body))
    found = [(t, f, s, bytes(b)) for t, f, s, b in codec.messages(memoryview(data))]
    assert found == wanted


def test_an_attribute_has_its_limit() -> None:
    codec.attribute(1, bytes(65531))
    with pytest.raises(ValueError, match="65532 octets"):
        codec.attribute(1, bytes(65532))


def test_numbers_and_text() -> None:
    data = codec.attribute_u8(1, 7) + codec.attribute_u16(2, 777) + codec.attribute_u32(3, 1 << 31)
    data += codec.attribute(4, b"eth0\0\0") + codec.nested(5, codec.attribute_u8(6, 9))
    found = codec.attributes(memoryview(data))
    assert codec.u8(found[1]) == 7
    assert codec.u16(found[2]) == 777
    assert codec.u32(found[3]) == 1 << 31
    assert codec.text(found[4]) == "eth0"
    assert codec.u8(codec.attributes(found[5])[6]) == 9
    assert codec.u32(found.get(99), 42) == 42
    with pytest.raises(Malformed):
        codec.u32(found[2])


@given(st.binary(max_size=300))
@example(b"\x00" * 16)
@example(struct.pack("=IHHII", 0, 2, 0, 1, 0))
@example(struct.pack("=HH", 3, 1))
@example(struct.pack("=HH", 0, 1) * 4)
def test_any_octets_end_or_are_malformed(data: bytes) -> None:
    """Nothing that comes in runs for ever or raises anything else."""
    view = memoryview(data)
    readers = [
        lambda: list(codec.messages(view)),
        lambda: codec.attributes(view),
        lambda: decode.link(view),
        lambda: decode.address(view),
        lambda: decode.neighbor(view),
        lambda: decode.nexthop(view),
        lambda: decode.route(view),
        lambda: decode.lookup(view),
        lambda: decode.buckets([view]),
        lambda: decode.nexthop_routes(Family.IPV4, [view]),
        lambda: decode.nexthop_routes(Family.IPV6, [view]),
        lambda: error_of(view, uapi.NLM_F_ACK_TLVS | uapi.NLM_F_CAPPED),
    ]
    for read in readers:
        with contextlib.suppress(Malformed):
            read()


@given(
    st.sampled_from([Family.IPV4, Family.IPV6]),
    st.integers(0, 255),
    st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=24)), max_size=6),
)
def test_near_routes_end_or_are_malformed(family: Family, length: int, items: list) -> None:
    body = struct.pack("=BBBBBBBBI", family.af, length, 0, 0, 254, 83, 0, 1, 0)
    body += b"".join(codec.attribute(type_, payload) for type_, payload in items)
    for read in (decode.route, lambda b: decode.nexthop_routes(family, [b])):
        with contextlib.suppress(Malformed):
            read(memoryview(body))


def _body(data: bytes) -> memoryview:
    ((_, _, _, body),) = codec.messages(memoryview(data))
    return body


_ids = st.integers(1, 2**32 - 1)
_v4 = st.binary(min_size=4, max_size=4)
_v6 = st.binary(min_size=16, max_size=16)
_hops = st.builds(
    lambda id_, gateway, oif, protocol: NextHop(
        id_, Family.IPV4 if len(gateway) == 4 else Family.IPV6, gateway, oif, protocol
    ),
    _ids,
    st.one_of(_v4, _v6),
    st.integers(1, 2**31 - 1),
    st.integers(0, 255),
)


@given(_hops)
def test_next_hops_both_ways(hop: NextHop) -> None:
    assert decode.nexthop(_body(encode.encode(PutNextHop(hop), 1))) == hop


@given(st.data())
def test_groups_both_ways(data: st.DataObject) -> None:
    members = tuple(data.draw(st.lists(_ids, min_size=1, max_size=50, unique=True)))
    resilient = data.draw(st.booleans())
    weights = data.draw(
        st.one_of(st.just(()), st.just((2,) * len(members)), st.just((256,) * len(members)))
    )
    group = Group(
        7,
        members,
        resilient,
        data.draw(st.integers(1, 65535)) if resilient else 0,
        data.draw(st.integers(0, 10**6)) / 100 if resilient else 0.0,
        data.draw(st.integers(0, 10**6)) / 100 if resilient else 0.0,
        weights=weights,
    )
    assert decode.nexthop(_body(encode.encode(PutGroup(group), 1))) == group


@st.composite
def _routes(draw: st.DrawFn) -> Route:
    family = draw(st.sampled_from(list(Family)))
    nlri = make_nlri(
        draw(st.binary(min_size=family.octets, max_size=family.octets)),
        draw(st.integers(0, family.bits)),
    )
    base = {"table": draw(st.integers(1, 2**32 - 1)), "metric": draw(st.integers(0, 2**32 - 1))}
    gateway = draw(_v6) if family is Family.IPV6 else draw(st.one_of(_v4, _v6))
    match draw(st.sampled_from(["id", "gateway", "multipath", "blackhole"])):
        case "id":
            return Route(family, nlri, nexthop_id=draw(_ids), **base)
        case "gateway":
            return Route(family, nlri, gateway=gateway, oif=draw(st.integers(1, 99)), **base)
        case "multipath":
            hops = (Hop(gateway, 3, 2), Hop(gateway, 4, 256))
            return Route(family, nlri, multipath=hops, **base)
        case _:
            return Route(family, nlri, type=uapi.RTN_BLACKHOLE, **base)


@given(_routes())
def test_routes_both_ways(route: Route) -> None:
    assert decode.route(_body(encode.encode(PutRoute(route), 1))) == route


@given(st.lists(_routes(), max_size=8))
def test_the_quick_reading_of_routes_is_the_long_one(routes: list[Route]) -> None:
    for family in Family:
        bodies = [_body(encode.encode(PutRoute(r), 1)) for r in routes if r.family is family]
        if family is Family.IPV4:
            # As Linux writes it: table, destination, metric, id.
            head = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 83, 0, 1, 0)
            head += codec.attribute_u32(uapi.RTA_TABLE, 254)
            head += codec.attribute(uapi.RTA_DST, bytes((10, 1, 2, 0)))
            head += codec.attribute_u32(uapi.RTA_PRIORITY, 10)
            bodies.append(memoryview(head + codec.attribute_u32(uapi.RTA_NH_ID, 5)))
        long = [decode.route(body) for body in bodies]
        wanted = {(r.nlri, r.metric): r.nexthop_id for r in long if r and r.nexthop_id is not None}
        assert decode.nexthop_routes(family, bodies) == wanted


def test_bulk_routes_are_what_single_ones_are() -> None:
    prefixes = {
        Family.IPV4: [make_nlri(parse_address("10.1.2.3"), n) for n in (0, 1, 8, 20, 24, 32)],
        Family.IPV6: [make_nlri(parse_address("fd01:2:3::4"), n) for n in (0, 3, 48, 64, 128)],
    }
    for family, nlris in prefixes.items():
        for table in (254, 1000):
            op = PutRoutes(family, nlris, 77, 10, table=table)
            data = encode.encode_routes(op, nlris, 1000)
            found = list(codec.messages(memoryview(data)))
            assert [sequence for _, _, sequence, _ in found] == list(range(1000, 1000 + len(nlris)))
            assert [decode.route(body) for _, _, _, body in found] == [
                Route(family, nlri, table, 10, 77) for nlri in nlris
            ]


def test_known_octets() -> None:
    """The attributes that strace shows of `ip nexthop replace id 5 via 10.9.0.2 proto 83 …`."""
    octets = encode.encode(
        PutNextHop(NextHop(5, Family.IPV4, parse_address("10.9.0.2"), 3)), 0x01020304
    )
    assert octets == bytes.fromhex(
        "30000000 6800 0105 04030201 00000000"  # nlmsghdr; create, replace
        "02 00 53 00 00000000"  # nhmsg
        "0800 0100 05000000"  # NHA_ID
        "0800 0500 03000000"  # NHA_OIF
        "0800 0600 0a090002"  # NHA_GATEWAY
    )


# -- batches


def _some_ops() -> list[Op]:
    nlris = [make_nlri(bytes((10, 1, i >> 8, i & 255)), 32) for i in range(1200)]
    return [
        DeleteNextHop(1),
        PutRoutes(Family.IPV4, nlris, 5, 10),
        PutRoutes(Family.IPV4, [], 5, 10),
        DeleteNextHop(2),
        DeleteRoutes(Family.IPV4, nlris[:3], 10),
        *(PutGroup(Group(9, tuple(range(1, 4094)))) for _ in range(5)),
    ]


@pytest.mark.parametrize("limit", [1, 7, 512])
def test_batches_hold_every_message_once_and_know_its_origin(limit: int) -> None:
    ops = _some_ops()
    position, sequence = (0, 0), 100
    seen = []
    while position[0] < len(ops):
        batch = encode.fill(ops, position, sequence, limit)
        assert batch.count <= limit
        assert len(batch.data) < encode.BATCH_OCTETS + 65536
        found = list(codec.messages(memoryview(batch.data)))
        assert [s for _, _, s, _ in found] == list(range(sequence, sequence + batch.count))
        acks = [bool(flags & uapi.NLM_F_ACK) for _, flags, _, _ in found]
        assert acks == [False] * (batch.count - 1) + [True] * bool(batch.count)
        seen += [batch.origin(s) for _, _, s, _ in found]
        for stranger in (sequence - 1, sequence + batch.count):
            with pytest.raises(KeyError):
                batch.origin(stranger)
        position, sequence = batch.end, sequence + batch.count
    assert seen == [(0, 0), *((1, i) for i in range(1200)), (3, 0), *((4, i) for i in range(3)),
                    *((i, 0) for i in range(5, 10))]  # fmt: skip


def test_an_error_carries_the_kernels_text() -> None:
    header = struct.pack("=IHHII", 20, 104, 5, 1, 0)
    text = codec.attribute(uapi.NLMSGERR_ATTR_MSG, b"Nexthop id does not exist\0")
    body = memoryview(struct.pack("=i", -22) + header + text)
    flags = uapi.NLM_F_CAPPED | uapi.NLM_F_ACK_TLVS
    assert error_of(body, flags) == (22, "Nexthop id does not exist")
    assert error_of(memoryview(struct.pack("=i", -22) + header), 0) == (22, "Invalid argument")
    assert error_of(memoryview(struct.pack("=i", 0) + header), 0) == (0, "")
