"""Messages other than what an UPDATE says of its prefixes: framing, fields, limits."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp import message as m
from samepath.bgp.attribute_framing import split_attributes
from samepath.bgp.attributes import AsPath, PathAttributes, UnknownAttribute
from samepath.bgp.capabilities import Capabilities
from samepath.bgp.errors import Action, PeerError, UpdateError, shutdown_data
from samepath.model.net import Family, make_nlri, parse_address, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
CONTEXT = m.Context(four_octet_as=True, families=frozenset(Family), internal=False)
MARKER = b"\xff" * 16

ORIGIN = b"\x40\x01\x01\x00"
AS_PATH = b"\x40\x02\x06\x02\x01" + struct.pack("!I", 65001)
HOP = b"\x40\x03\x04\xc0\x00\x02\x01"
NEXT_HOP6 = parse_address("2001:db8::1")
LINK_LOCAL = parse_address("fe80::1")
PREFIX4 = parse_prefix("198.51.100.0/24")[1]
PREFIX6 = parse_prefix("2001:db8:1::/48")[1]


def header(length: int, kind: int, marker: bytes = MARKER) -> bytes:
    return marker + struct.pack("!HB", length, kind)


def mp_reach(next_hop: bytes, nlri: bytes, afi: int = 2, safi: int = 1, flags: int = 0x80) -> bytes:
    value = struct.pack("!HBB", afi, safi, len(next_hop)) + next_hop + b"\0" + nlri
    return bytes((flags, 14, len(value))) + value


def mp_unreach(nlri: bytes, afi: int = 2, safi: int = 1, flags: int = 0x80) -> bytes:
    value = struct.pack("!HB", afi, safi) + nlri
    return bytes((flags, 15, len(value))) + value


def body(attributes: bytes, nlri: bytes = b"", withdrawn: bytes = b"") -> bytes:
    parts = struct.pack("!H", len(withdrawn)) + withdrawn
    return parts + struct.pack("!H", len(attributes)) + attributes + nlri


def update(data: bytes, context: m.Context = CONTEXT) -> m.Update:
    message = m.decode(2, data, context)
    assert isinstance(message, m.Update)
    return message


# --- Framing, RFC 4271 §6.1 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "subcode", "error_data"),
    [
        (header(19, 4, b"\0" * 16), 1, 1, b""),
        (header(19, 4, b"\xff" * 15 + b"\xfe"), 1, 1, b""),
        (header(18, 4), 1, 2, b"\0\x12"),
        (header(0, 2), 1, 2, b"\0\0"),
        (header(4097, 2), 1, 2, b"\x10\x01"),
        (header(20, 4), 1, 2, b"\0\x14"),
        (header(28, 1), 1, 2, b"\0\x1c"),
        (header(22, 2), 1, 2, b"\0\x16"),
        (header(20, 3), 1, 2, b"\0\x14"),
        (header(19, 0), 1, 3, b"\0"),
        (header(19, 6), 1, 3, b"\6"),
        (header(19, 255), 1, 3, b"\xff"),
    ],
)
def test_bad_header(data: bytes, code: int, subcode: int, error_data: bytes) -> None:
    with pytest.raises(PeerError) as raised:
        m.split(data)
    error = raised.value
    assert (error.code, error.subcode, error.data) == (code, subcode, error_data)


def test_messages_before_a_bad_header_count() -> None:
    good = m.encode(m.Keepalive(), CONTEXT) + m.end_of_rib(V4)
    messages, consumed = m.split(good + header(18, 4))
    assert [kind for kind, _ in messages] == [4, 2]
    assert consumed == len(good)
    with pytest.raises(PeerError):
        m.split(header(18, 4))


def test_half_a_message_waits() -> None:
    whole = m.end_of_rib(V6)
    for end in range(len(whole)):
        assert m.split(whole[:end]) == ([], 0)


def test_extended_messages() -> None:
    """RFC 8654 §4: not OPEN and KEEPALIVE."""
    long = header(5000, 2) + bytes(4981)
    with pytest.raises(PeerError):
        m.split(long)
    assert m.split(long, m.MAX_EXTENDED_MESSAGE)[1] == 5000
    with pytest.raises(PeerError):
        m.split(header(5000, 1), m.MAX_EXTENDED_MESSAGE)


# --- OPEN, RFC 4271 §6.2 ------------------------------------------------------------------------


def open_body(
    version: int = 4, asn: int = 65001, hold: int = 9, router: int = 1, options: bytes = b"\0"
) -> bytes:
    return struct.pack("!BHHI", version, asn, hold, router) + options


@pytest.mark.parametrize(
    ("data", "subcode", "error_data"),
    [
        (open_body(version=3), 1, b"\0\4"),
        (open_body(version=5), 1, b"\0\4"),
        (open_body(asn=0), 2, b""),
        (open_body(options=bytes.fromhex("08 02 06 41 04 00000000")), 2, b""),
        (open_body(router=0), 3, b""),
        (open_body(options=b"\3\1\1x"), 4, b""),
        (open_body(hold=1), 6, b""),
        (open_body(hold=2), 6, b""),
        (open_body()[:9], 0, b""),
        (open_body(options=b"\1"), 0, b""),
    ],
)
def test_bad_open(data: bytes, subcode: int, error_data: bytes) -> None:
    with pytest.raises(PeerError) as raised:
        m.decode(1, data, CONTEXT)
    error = raised.value
    assert (error.code, error.subcode, error.data) == (2, subcode, error_data)


def test_open() -> None:
    assert m.decode(1, open_body(), CONTEXT) == m.Open(65001, 9, 1, Capabilities())
    wide = m.Open(70000, 0, 5, Capabilities(four_octet_as=70000))
    data = m.encode(wide, CONTEXT)
    assert data[20:22] == struct.pack("!H", 23456)
    assert m.decode(1, data[19:], CONTEXT) == wide


# --- The others ---------------------------------------------------------------------------------


def test_notification_text() -> None:
    reason = m.Notification(6, 2, shutdown_data("back in a minute"))
    assert reason.text == "Cease: administrative shutdown (back in a minute)"
    assert m.Notification(6, 2).text == "Cease: administrative shutdown"
    fake = m.Notification(6, 2, shutdown_data("é\n\x1b[2J\u202e"))
    assert fake.text == "Cease: administrative shutdown (é\ufffd\ufffd[2J\ufffd)"
    assert m.Notification(3, 5, b"\3abc").text == "Update message: attribute length error"


def test_route_refresh() -> None:
    assert m.decode(5, b"\0\1\0\1", CONTEXT) == m.RouteRefresh(V4)
    assert m.decode(5, b"\0\2\1\1", CONTEXT) == m.RouteRefresh(V6, m.RefreshKind.BEGIN)
    assert m.decode(5, b"\0\1\0\2", CONTEXT) == m.RouteRefresh(None)


@pytest.mark.parametrize("data", [b"", b"\0\1\0", b"\0\1\0\1\0"])
def test_bad_route_refresh(data: bytes) -> None:
    """RFC 7313 §5, with the whole message as data."""
    with pytest.raises(PeerError) as raised:
        m.decode(5, data, CONTEXT)
    error = raised.value
    assert (error.code, error.subcode) == (7, 1)
    assert error.data == header(19 + len(data), 5) + data


# --- UPDATE: fields and families ----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\1\0\0",
        b"\0\4\x20\1\2\3",
        b"\xff\xff\0\0",
        b"\0\0\0\1",
        b"\0\0\xff\xff" + bytes(10),
        body(b"", withdrawn=PREFIX4)[:-1],
    ],
)
def test_lengths_that_exceed_the_message_cost_the_session(data: bytes) -> None:
    """RFC 4271 §6.3."""
    with pytest.raises(PeerError) as raised:
        m.decode(2, data, CONTEXT)
    error = raised.value
    assert (error.code, error.subcode) == (3, UpdateError.MALFORMED_ATTRIBUTE_LIST)


@pytest.mark.parametrize(
    ("data", "subcode"),
    [
        # NLRI and withdrawn routes that cannot be parsed: RFC 7606 §3 i and j, §5.3.
        (body(ORIGIN + AS_PATH + HOP, b"\x21\0\0\0\0\0"), 10),
        (body(ORIGIN + AS_PATH + HOP, b"\x20\0\0\0"), 10),
        (body(b"", b"", b"\x21\0\0\0\0\0"), 10),
        (body(mp_reach(NEXT_HOP6, b"\x81" + bytes(17)) + ORIGIN + AS_PATH), 10),
        (body(mp_reach(NEXT_HOP6, b"\x80") + ORIGIN + AS_PATH), 10),
        (body(mp_unreach(b"\x80")), 10),
        # Even beside a fault that alone would be treated as withdrawn (§3 h).
        (body(b"\x40\x01\x01\x07" + AS_PATH + HOP, b"\x20\0\0\0"), 10),
        # MP_REACH_NLRI: §7.11.
        (body(b"\x80\x0e\x04\0\2\1\0" + ORIGIN + AS_PATH), 9),
        (body(b"\x80\x0e\x00" + ORIGIN + AS_PATH), 9),
        (body(b"\x80\x0e\x05\0\2\1\x10\0" + ORIGIN + AS_PATH), 9),
        (body(b"\x80\x0e\x14\0\2\1\x10" + NEXT_HOP6 + ORIGIN + AS_PATH), 9),
        (body(mp_reach(NEXT_HOP6[:4], PREFIX6) + ORIGIN + AS_PATH), 9),
        (body(mp_reach(b"", PREFIX6) + ORIGIN + AS_PATH), 9),
        (body(mp_reach(NEXT_HOP6 + b"\0", PREFIX6) + ORIGIN + AS_PATH), 9),
        (body(mp_reach(b"\1\2\3\4\5", PREFIX4, afi=1) + ORIGIN + AS_PATH), 9),
        # MP_UNREACH_NLRI: §7.12.
        (body(b"\x80\x0f\x02\0\2"), 9),
        (body(b"\x80\x0f\x00"), 9),
        (body(mp_unreach(PREFIX6, flags=0xC0)), 4),
    ],
)
def test_prefixes_that_cannot_be_found_cost_the_session(data: bytes, subcode: int) -> None:
    with pytest.raises(PeerError) as raised:
        m.decode(2, data, CONTEXT)
    assert (raised.value.code, raised.value.subcode) == (3, subcode)


@pytest.mark.parametrize("flags", [0x00, 0x40, 0xC0])
def test_multiprotocol_flags_withdraw(flags: int) -> None:
    """RFC 7606 §3 c."""
    result = update(body(mp_reach(NEXT_HOP6, PREFIX6, flags=flags) + ORIGIN + AS_PATH))
    assert result.withdrawals == (m.Withdrawal(V6, (PREFIX6,)),)
    assert result.problems[0].subcode is UpdateError.ATTRIBUTE_FLAGS_ERROR


@pytest.mark.parametrize(
    ("field", "next_hop", "link_local"),
    [
        (NEXT_HOP6, NEXT_HOP6, None),
        (NEXT_HOP6 + LINK_LOCAL, NEXT_HOP6, LINK_LOCAL),
        (NEXT_HOP6 + bytes(16), NEXT_HOP6, None),
        (LINK_LOCAL, LINK_LOCAL, None),
        (bytes(16) + LINK_LOCAL, LINK_LOCAL, None),
    ],
)
def test_ipv6_next_hops(field: bytes, next_hop: bytes, link_local: bytes | None) -> None:
    """RFC 2545 §3."""
    (reach,) = update(body(mp_reach(field, PREFIX6) + ORIGIN + AS_PATH)).reaches
    assert reach.nlris == (PREFIX6,)
    assert reach.attributes == PathAttributes(
        next_hop, as_path=AsPath.of(65001), link_local_next_hop=link_local
    )


@pytest.mark.parametrize(
    ("next_hop", "afi", "prefix", "family"),
    [
        (bytes(16), 2, PREFIX6, V6),
        (bytes(32), 2, PREFIX6, V6),
        (bytes(15) + b"\1", 2, PREFIX6, V6),
        (b"\xff\2" + bytes(13) + b"\1", 2, PREFIX6, V6),
        (b"\xe0\0\0\1", 1, PREFIX4, V4),
        (NEXT_HOP6, 1, PREFIX4, V4),  # RFC 8950, which nobody has negotiated.
        (NEXT_HOP6 + LINK_LOCAL, 1, PREFIX4, V4),
    ],
)
def test_next_hops_that_are_none_withdraw(
    next_hop: bytes, afi: int, prefix: bytes, family: Family
) -> None:
    result = update(body(mp_reach(next_hop, prefix, afi) + ORIGIN + AS_PATH))
    assert result.withdrawals == (m.Withdrawal(family, (prefix,)),)
    assert [(p.action, p.attribute) for p in result.problems] == [(Action.TREAT_AS_WITHDRAW, 14)]


def test_ipv4_in_the_multiprotocol_attribute() -> None:
    next_hop = parse_address("192.0.2.1")
    result = update(body(mp_reach(next_hop, PREFIX4, afi=1) + ORIGIN + AS_PATH))
    attributes = PathAttributes(next_hop, as_path=AsPath.of(65001))
    assert result == m.Update((m.Reach(V4, (PREFIX4,), attributes),))


def test_both_families_in_one_update_have_their_own_next_hops() -> None:
    attributes = mp_reach(NEXT_HOP6, PREFIX6) + mp_unreach(PREFIX6) + ORIGIN + AS_PATH + HOP
    result = update(body(attributes, PREFIX4, PREFIX4))
    assert {(r.family, r.attributes.next_hop) for r in result.reaches} == {
        (V4, parse_address("192.0.2.1")),
        (V6, NEXT_HOP6),
    }
    assert {w.family for w in result.withdrawals} == {V4, V6}
    assert result.problems == ()


def test_next_hop_beside_ipv6_alone_is_ignored() -> None:
    """RFC 4760 §3: also one that would be none."""
    zero = b"\x40\x03\x04" + bytes(4)
    result = update(body(mp_reach(NEXT_HOP6, PREFIX6) + ORIGIN + AS_PATH + zero))
    assert result.problems == ()
    assert result.reaches[0].attributes.next_hop == NEXT_HOP6


def test_mp_reach_without_prefixes_reaches_nothing_however_often_it_comes() -> None:
    for prefixes in (b"", PREFIX6, b"", b""):
        result = update(body(mp_reach(NEXT_HOP6, prefixes) + ORIGIN + AS_PATH))
        assert [reach.nlris for reach in result.reaches] == ([(PREFIX6,)] if prefixes else [])


@pytest.mark.parametrize(
    ("data", "families"),
    [
        (body(mp_reach(NEXT_HOP6, PREFIX6) + ORIGIN + AS_PATH), {V4}),
        (body(mp_reach(NEXT_HOP6, b"\xff", afi=25, safi=70) + ORIGIN + AS_PATH), {V4, V6}),
        (body(mp_reach(NEXT_HOP6, PREFIX6, safi=2) + ORIGIN + AS_PATH), {V4, V6}),
        (body(mp_unreach(PREFIX6)), {V4}),
        (body(mp_unreach(b"")), {V4}),
        (body(ORIGIN + AS_PATH + HOP, PREFIX4), {V6}),
        (body(b"", b"", PREFIX4), {V6}),
        (body(b""), {V6}),
    ],
)
def test_families_that_were_not_negotiated_are_ignored(data: bytes, families: set[Family]) -> None:
    context = replace(CONTEXT, families=frozenset(families))
    update(data)  # Remembered from a session that has them all.
    for _ in range(2):
        result = update(data, context)
        assert result == m.Update(problems=result.problems)
        assert [p.action for p in result.problems] == [Action.IGNORED]


def test_faults_are_reported_again_for_what_is_remembered() -> None:
    discarded = b"\xc0\x07\x01x"
    for _ in range(3):
        result = update(body(mp_reach(NEXT_HOP6, PREFIX6) + ORIGIN + AS_PATH + discarded))
        assert [p.attribute for p in result.problems] == [7]
        assert len(result.reaches) == 1
        result = update(body(mp_reach(NEXT_HOP6, PREFIX6) + ORIGIN))
        assert [p.attribute for p in result.problems] == [2]
        assert not result.reaches


def test_end_of_rib() -> None:
    """RFC 4724 §2."""
    assert m.end_of_rib(V4) == header(23, 2) + bytes(4)
    for family in Family:
        assert update(m.end_of_rib(family)[19:]) == m.Update(end_of_rib=family)
    # The same with a short length, as others write it; and an UPDATE that only looks like it.
    assert update(body(mp_unreach(b""))).end_of_rib is V6
    assert update(body(mp_unreach(b""), withdrawn=PREFIX4)).end_of_rib is None
    assert update(body(mp_unreach(b"") + ORIGIN)).end_of_rib is None


# --- UPDATEs that we write ----------------------------------------------------------------------


def unpack(data: bytes, context: m.Context) -> m.Update:
    ((kind, content),), consumed = m.split(data, context.max_message)
    assert consumed == len(data) <= context.max_message
    message = m.decode(kind, content, context)
    assert isinstance(message, m.Update)
    return message


@settings(deadline=None)
@given(st.data(), strategies.contexts)
def test_encode_updates_says_it_all_and_no_more(data: st.DataObject, context: m.Context) -> None:
    reaches, withdrawals = [], []
    for family in Family:
        for _ in range(data.draw(st.integers(0, 3))):
            attributes = data.draw(strategies.path_attributes(family, context.internal))
            nlris = data.draw(strategies.nlri_blocks(family, 40))
            reaches.append(m.Reach(family, nlris, attributes))
        withdrawals.append(m.Withdrawal(family, data.draw(strategies.nlri_blocks(family))))
    messages = [unpack(x, context) for x in m.encode_updates(reaches, withdrawals, context)]
    assert not any(message.problems for message in messages)
    # Each says one thing (RFC 7606 §5.1).
    assert all(len(x.reaches) + len(x.withdrawals) == 1 for x in messages)
    for family in Family:
        expected = [n for w in withdrawals if w.family is family for n in w.nlris]
        assert [
            n for x in messages for w in x.withdrawals if w.family is family for n in w.nlris
        ] == expected
    said = [(r.family, r.attributes, n) for x in messages for r in x.reaches for n in r.nlris]
    meant = [(r.family, r.attributes, n) for r in reaches for n in r.nlris]
    assert sorted(said, key=repr) == sorted(meant, key=repr)
    # Withdrawals go first: a prefix in both is reached.
    kinds = [bool(x.reaches) for x in messages]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("most", [m.MAX_MESSAGE, m.MAX_EXTENDED_MESSAGE])
def test_messages_are_filled(family: Family, most: int) -> None:
    context = replace(CONTEXT, max_message=most)
    nlris = tuple(
        make_nlri(i.to_bytes(4, "big").ljust(family.octets, b"\1"), family.bits)
        for i in range(20_000)
    )
    hop = parse_address("192.0.2.1") if family is V4 else NEXT_HOP6
    attributes = PathAttributes(hop, as_path=AsPath.of(65001))
    reaches = [m.Reach(family, nlris[i : i + 7], attributes) for i in range(0, len(nlris), 7)]
    messages = list(m.encode_updates(reaches, (), context))
    assert all(most - 17 <= len(message) <= most for message in messages[:-1])
    assert tuple(n for x in messages for r in unpack(x, context).reaches for n in r.nlris) == nlris
    messages = list(m.encode_updates((), [m.Withdrawal(family, nlris)], context))
    assert all(most - 17 <= len(message) <= most for message in messages[:-1])
    gone = tuple(n for x in messages for w in unpack(x, context).withdrawals for n in w.nlris)
    assert gone == nlris


@pytest.mark.parametrize("family", Family)
def test_messages_of_prefixes_of_all_lengths_fit(family: Family) -> None:
    rng = random.Random(4271)
    hop = parse_address("192.0.2.1") if family is V4 else NEXT_HOP6
    lengths = [rng.randint(0, family.bits) for _ in range(20_000)]
    nlris = tuple(make_nlri(rng.randbytes(family.octets), length) for length in lengths)
    reach, gone = m.Reach(family, nlris, PathAttributes(hop)), m.Withdrawal(family, nlris)
    messages = [unpack(x, CONTEXT) for x in m.encode_updates([reach], [gone], CONTEXT)]
    assert tuple(n for x in messages for r in x.reaches for n in r.nlris) == nlris
    assert tuple(n for x in messages for w in x.withdrawals for n in w.nlris) == nlris


@pytest.mark.parametrize("family", Family)
def test_attributes_that_leave_no_room_withdraw(family: Family) -> None:
    """RFC 8654 §4: the peer must not keep an older path."""
    hop = parse_address("192.0.2.1") if family is V4 else NEXT_HOP6
    prefix = PREFIX4 if family is V4 else PREFIX6
    attributes = PathAttributes(hop, communities=tuple(range(1100)))
    reach = m.Reach(family, (prefix,), attributes)
    (message,) = m.encode_updates([reach], (), CONTEXT)
    assert unpack(message, CONTEXT).withdrawals == (m.Withdrawal(family, (prefix,)),)
    extended = replace(CONTEXT, max_message=m.MAX_EXTENDED_MESSAGE)
    (message,) = m.encode_updates([reach], (), extended)
    assert unpack(message, extended).reaches == (reach,)


@pytest.mark.parametrize("family", Family)
def test_the_last_prefix_that_fits(family: Family) -> None:
    """Attributes grow by one octet until there is no room for the longest prefix."""
    hop = parse_address("192.0.2.1") if family is V4 else NEXT_HOP6
    prefix = make_nlri(hop, family.bits)
    sizes = []
    for extra in range(3950, 4096):
        attributes = PathAttributes(hop, unknown=(UnknownAttribute(99, bytes(extra)),))
        reach = m.Reach(family, (prefix,), attributes)
        (message,) = m.encode_updates([reach], (), CONTEXT)
        sizes.append(len(message))
        said = unpack(message, CONTEXT)
        if said.withdrawals:
            break
        assert said.reaches == (reach,)
    assert sizes[-2] == m.MAX_MESSAGE
    assert said.withdrawals == (m.Withdrawal(family, (prefix,)),)


def test_attributes_go_in_order_of_their_type() -> None:
    """RFC 4271 §5."""
    context = replace(CONTEXT, internal=True, four_octet_as=False)
    attributes = PathAttributes(
        next_hop=parse_address("192.0.2.1"),
        as_path=AsPath.of(70000),
        med=1,
        atomic_aggregate=True,
        aggregator=(70000, parse_address("192.0.2.1")),
        communities=(1,),
        extended_communities=(bytes(8),),
        large_communities=((1, 2, 3),),
        originator_id=1,
        cluster_list=(1,),
        unknown=(UnknownAttribute(99, b""), UnknownAttribute(11, b"")),
    )
    (message,) = m.encode_updates([m.Reach(V4, (PREFIX4,), attributes)], (), context)
    found, fault = split_attributes(message[23 : -len(PREFIX4)])
    assert not fault
    codes = [a.code for a in found]
    assert codes == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 32, 99]


def test_external_peers_do_not_see_internal_attributes() -> None:
    attributes = PathAttributes(
        parse_address("192.0.2.1"), local_pref=7, originator_id=8, cluster_list=(9,)
    )
    reach = m.Reach(V4, (PREFIX4,), attributes)
    (message,) = m.encode_updates([reach], (), CONTEXT)
    assert unpack(message, CONTEXT).reaches[0].attributes == PathAttributes(attributes.next_hop)
    internal = replace(CONTEXT, internal=True)
    (message,) = m.encode_updates([reach], (), internal)
    assert unpack(message, internal).reaches == (reach,)


def test_multiprotocol_attributes_go_first() -> None:
    """RFC 7606 §5.1."""
    reach = m.Reach(V6, (PREFIX6,), PathAttributes(NEXT_HOP6))
    (message,) = m.encode_updates([reach], (), CONTEXT)
    assert message[23 + 1] == 14
