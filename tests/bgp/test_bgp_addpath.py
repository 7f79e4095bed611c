"""Several paths a prefix, and IPv6 next hops of IPv4 prefixes: the octets.

RFC 7911 §3, §4; RFC 8950 §3, §4.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from samepath.bgp import message as m
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.capabilities import (
    AddPath,
    Capabilities,
    LongLived,
    decode_capabilities,
    encode_capabilities,
)
from samepath.bgp.errors import Action, PeerError
from samepath.model.net import Family, Nlri, parse_address, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
PLAIN = m.Context(four_octet_as=True, families=BOTH, internal=False)
SEVERAL = replace(PLAIN, add_path_receive=BOTH, add_path_send=BOTH)
HOP = parse_address("192.0.2.1")
HOP6 = parse_address("2001:db8::1")
LINK_LOCAL = parse_address("fe80::1")
HOPS = {V4: HOP, V6: HOP6}


def nlri(text: str) -> Nlri:
    return parse_prefix(text)[1]


PREFIX = {V4: nlri("198.51.100.0/24"), V6: nlri("2001:db8:1::/48")}
OTHER = {V4: nlri("203.0.113.0/25"), V6: nlri("2001:db8:2::/49")}


def read(data: bytes, context: m.Context) -> m.Update:
    ((kind, body),), consumed = m.split(data, context.max_message)
    assert consumed == len(data)
    message = m.decode(kind, body, context)
    assert isinstance(message, m.Update)
    return message


@pytest.mark.parametrize("family", Family)
def test_each_prefix_has_its_path_identifier_before_it(family: Family) -> None:
    reach = m.Reach(family, (PREFIX[family], OTHER[family]), PathAttributes(HOPS[family]), 7)
    (data,) = m.encode_updates([reach], (), SEVERAL)
    wire = b"".join(b"\0\0\0\x07" + n for n in reach.nlris)
    assert wire in data
    assert read(data, SEVERAL).reaches == (reach,)
    gone = m.Withdrawal(family, reach.nlris, 0xFFFFFFFF)
    (data,) = m.encode_updates((), [gone], SEVERAL)
    assert b"\xff\xff\xff\xff" + PREFIX[family] in data
    assert read(data, SEVERAL).withdrawals == (gone,)


@pytest.mark.parametrize("family", Family)
def test_paths_of_one_message_are_parted_by_their_identifier(family: Family) -> None:
    attributes = PathAttributes(HOPS[family])
    reaches = [m.Reach(family, (PREFIX[family],), attributes, i) for i in (3, 1, 2)]
    reaches.append(m.Reach(family, (OTHER[family],), attributes, 3))
    (data,) = m.encode_updates(reaches, (), SEVERAL)
    assert read(data, SEVERAL).reaches == (
        m.Reach(family, (PREFIX[family], OTHER[family]), attributes, 3),
        *reaches[1:3],
    )


@pytest.mark.parametrize("family", Family)
def test_one_direction_only(family: Family) -> None:
    """We send several, the other side sends one: RFC 7911 §4 negotiates each by itself."""
    reach = m.Reach(family, (PREFIX[family],), PathAttributes(HOPS[family]), 9)
    sends = replace(PLAIN, add_path_send=BOTH)
    (data,) = m.encode_updates([reach], (), sends)
    assert read(data, replace(PLAIN, add_path_receive=BOTH)).reaches == (reach,)
    plain = replace_path_id(reach, 0)
    (data,) = m.encode_updates([reach], (), PLAIN)
    assert read(data, sends).reaches == (plain,)


def replace_path_id(reach: m.Reach, path_id: int) -> m.Reach:
    return m.Reach(reach.family, reach.nlris, reach.attributes, path_id)


def test_the_short_way_is_not_taken_with_identifiers() -> None:
    """The same octets mean other prefixes on another session, whatever was read before."""
    attributes = PathAttributes(HOP)
    prefixes = (*[b"\0"] * 4, nlri("10.0.0.0/8"))
    (data,) = m.encode_updates([m.Reach(V4, prefixes, attributes)], (), PLAIN)
    assert read(data, PLAIN).reaches == (m.Reach(V4, prefixes, attributes),)
    assert read(data, PLAIN).reaches == (m.Reach(V4, prefixes, attributes),)
    said = read(data, SEVERAL)
    assert said.reaches == (m.Reach(V4, (nlri("10.0.0.0/8"),), attributes, 0),)


@pytest.mark.parametrize(
    "block",
    ["00", "00000001", "0000000120", "00000001200a0000", "0000000121", "00000001080a0000", "01"],
)
def test_a_block_that_cannot_be_read_costs_the_session(block: str) -> None:
    """RFC 7606 §5.3."""
    data = bytes.fromhex(block)
    head = len(data).to_bytes(2, "big") + data + b"\0\0"
    with pytest.raises(PeerError) as raised:
        m.decode(2, head, SEVERAL)
    assert (raised.value.code, raised.value.subcode) == (3, 10)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("several", [False, True])
def test_messages_are_as_full_as_they_may_be(family: Family, several: bool) -> None:
    context = SEVERAL if several else PLAIN
    nlris = tuple(
        bytes((32,)) + i.to_bytes(4, "big") if family is V4 else bytes((64,)) + i.to_bytes(8, "big")
        for i in range(3_000)
    )
    reach = m.Reach(family, nlris, PathAttributes(HOPS[family]), 5 if several else 0)
    messages = list(m.encode_updates([reach], (), context))
    assert all(m.MAX_MESSAGE - 16 < len(x) <= m.MAX_MESSAGE for x in messages[:-1])
    assert tuple(n for x in messages for r in read(x, context).reaches for n in r.nlris) == nlris


# IPv4 with IPv6 next hops.

EXTENDED = replace(PLAIN, extended_next_hop=True)


@pytest.mark.parametrize("link_local", [None, LINK_LOCAL])
def test_an_ipv4_prefix_with_an_ipv6_next_hop(link_local: bytes | None) -> None:
    reach = m.Reach(V4, (PREFIX[V4],), PathAttributes(HOP6, link_local_next_hop=link_local))
    (data,) = m.encode_updates([reach], (), EXTENDED)
    hop = HOP6 + (link_local or b"")
    assert b"\0\x01\x01" + bytes((len(hop),)) + hop + b"\0" + PREFIX[V4] in data
    assert data[-len(PREFIX[V4]) :] != PREFIX[V4], "not in the field of old"
    for _ in range(2):
        assert read(data, EXTENDED).reaches == (reach,)
        # What one session has agreed on does not hold for another, seen before or not.
        said = read(data, PLAIN)
        assert said.reaches == ()
        assert said.withdrawals == (m.Withdrawal(V4, (PREFIX[V4],)),)
        assert said.problems[0].action is Action.TREAT_AS_WITHDRAW


def test_ipv4_next_hops_stay_where_they_were() -> None:
    reach = m.Reach(V4, (PREFIX[V4],), PathAttributes(HOP))
    (data,) = m.encode_updates([reach], (), EXTENDED)
    assert data == next(iter(m.encode_updates([reach], (), PLAIN)))


# What is offered.


@pytest.mark.parametrize(
    ("capabilities", "wire"),
    [
        (Capabilities(add_path=AddPath(receive=BOTH)), "45080001010100020101"),
        (Capabilities(add_path=AddPath(frozenset({V6}), BOTH)), "45080001010200020103"),
        (Capabilities(extended_next_hop=True), "0506000100010002"),
        (Capabilities(long_lived=(LongLived(V4, True, 3600),)), "470700010180000e10"),
    ],
)
def test_capabilities(capabilities: Capabilities, wire: str) -> None:
    octets = encode_capabilities(capabilities)
    assert octets.endswith(bytes.fromhex(wire)) or bytes.fromhex(wire) in octets
    assert decode_capabilities(octets) == capabilities


@pytest.mark.parametrize("wire", ["4503000101", "450400010104", "450400010100", "450400190101"])
def test_add_path_that_means_nothing(wire: str) -> None:
    """Directions and families that do not exist; a wrong length costs the session."""
    value = bytes.fromhex(wire)
    data = bytes((len(value) + 2, 2, len(value))) + value
    if value[1] % 4:
        with pytest.raises(PeerError):
            decode_capabilities(data)
    else:
        assert decode_capabilities(data).add_path == AddPath()
