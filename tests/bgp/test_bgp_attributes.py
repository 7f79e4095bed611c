"""RFC 7606, outcome by outcome, and what attributes mean."""

from __future__ import annotations

import struct

import pytest

from samepath.bgp import message as m
from samepath.bgp.attributes import (
    BLACKHOLE,
    GRACEFUL_SHUTDOWN,
    NO_EXPORT,
    AsPath,
    Origin,
    PathAttributes,
    UnknownAttribute,
    community_text,
    extended_community_text,
    large_community_text,
    link_bandwidth_community,
    parse_community,
    parse_large_community,
)
from samepath.bgp.errors import Action, PeerError, UpdateError
from samepath.model.net import Family, parse_address, parse_prefix

EXTERNAL = m.Context(four_octet_as=True, families=frozenset(Family), internal=False)
INTERNAL = m.Context(four_octet_as=True, families=frozenset(Family), internal=True)
OLD = m.Context(four_octet_as=False, families=frozenset(Family), internal=False)

V4 = parse_prefix("198.51.100.0/24")[1]
V6 = parse_prefix("2001:db8:1::/48")[1]
NEXT_HOP = parse_address("192.0.2.1")
NEXT_HOP6 = parse_address("2001:db8::1")

ORIGIN = b"\x40\x01\x01\x00"
AS_PATH = b"\x40\x02\x06\x02\x01" + struct.pack("!I", 65001)
AS_PATH_OLD = b"\x40\x02\x04\x02\x01" + struct.pack("!H", 65001)
HOP = b"\x40\x03\x04" + NEXT_HOP
LOCAL_PREF = b"\x40\x05\x04" + struct.pack("!I", 100)
MP_REACH = bytes((0x80, 14, 5 + 16 + len(V6), 0, 2, 1, 16)) + NEXT_HOP6 + b"\0" + V6
MP_UNREACH = bytes((0x80, 15, 3 + len(V6), 0, 2, 1)) + V6


def body(attributes: bytes, nlri: bytes = V4, withdrawn: bytes = b"") -> bytes:
    parts = struct.pack("!H", len(withdrawn)) + withdrawn
    return parts + struct.pack("!H", len(attributes)) + attributes + nlri


def decode(
    attributes: bytes, nlri: bytes = V4, withdrawn: bytes = b"", context: m.Context = EXTERNAL
) -> m.Update:
    update = m.decode(2, body(attributes, nlri, withdrawn), context)
    assert isinstance(update, m.Update)
    return update


def attribute(flags: int, code: int, value: bytes) -> bytes:
    return bytes((flags, code, len(value))) + value


GOOD = {
    1: ORIGIN,
    2: AS_PATH,
    3: HOP,
    5: LOCAL_PREF,
}
WITHDRAW, DISCARD = Action.TREAT_AS_WITHDRAW, Action.ATTRIBUTE_DISCARD

# Attribute, flags, value, what is done; each from an internal peer, beside otherwise good ones.
TABLE = [
    # §7.1 ORIGIN
    (1, 0x40, b"", WITHDRAW),
    (1, 0x40, b"\0\0", WITHDRAW),
    (1, 0x40, b"\3", WITHDRAW),
    (1, 0xC0, b"\0", WITHDRAW),
    (1, 0x00, b"\0", WITHDRAW),
    (1, 0x60, b"\0", None),  # Partial is nobody's fault (§3 c speaks of the other two bits).
    (1, 0x4F, b"\0", None),  # Bits without a meaning are ignored. RFC 4271 §4.3.
    # §7.2 AS_PATH
    (2, 0x40, b"", None),
    (2, 0x40, b"\2", WITHDRAW),
    (2, 0x40, b"\2\1\0\0\1", WITHDRAW),
    (2, 0x40, b"\2\0", WITHDRAW),
    (2, 0x40, b"\0\1\0\0\0\1", WITHDRAW),
    (2, 0x40, b"\5\1\0\0\0\1", WITHDRAW),
    (2, 0x40, b"\2\1\0\0\0\1\2", WITHDRAW),
    (2, 0x40, b"\2\1\0\0\0\0", WITHDRAW),  # AS 0: RFC 7607.
    (2, 0x40, b"\3\1\0\0\0\1", WITHDRAW),  # Confederations: RFC 5065 §5.
    (2, 0x40, b"\4\1\0\0\0\1", WITHDRAW),
    (2, 0x40, b"\1\1\0\0\0\1", None),
    (2, 0xC0, b"", WITHDRAW),
    # §7.3 NEXT_HOP
    (3, 0x40, b"", WITHDRAW),
    (3, 0x40, b"\1\2\3", WITHDRAW),
    (3, 0x40, NEXT_HOP6, WITHDRAW),
    (3, 0x40, b"\0\0\0\0", WITHDRAW),
    (3, 0x40, b"\x7f\0\0\1", WITHDRAW),
    (3, 0x40, b"\xe0\0\0\1", WITHDRAW),
    (3, 0x40, b"\xff\xff\xff\xff", WITHDRAW),
    (3, 0x80, NEXT_HOP, WITHDRAW),
    # §7.4 MULTI_EXIT_DISC
    (4, 0x80, b"\0\0\0\1", None),
    (4, 0x80, b"", WITHDRAW),
    (4, 0x80, b"\0\0\0", WITHDRAW),
    (4, 0xC0, b"\0\0\0\1", WITHDRAW),
    # §7.5 LOCAL_PREF
    (5, 0x40, b"\0\0\0", WITHDRAW),
    (5, 0x80, b"\0\0\0\1", WITHDRAW),
    # §7.6 ATOMIC_AGGREGATE
    (6, 0x40, b"", None),
    (6, 0x40, b"\0", DISCARD),
    (6, 0xC0, b"", DISCARD),
    # §7.7 AGGREGATOR
    (7, 0xC0, b"\0\0\0\1" + NEXT_HOP, None),
    (7, 0xC0, b"\0\1" + NEXT_HOP, DISCARD),
    (7, 0xC0, b"", DISCARD),
    (7, 0xC0, b"\0\0\0\0" + NEXT_HOP, DISCARD),
    (7, 0x80, b"\0\0\0\1" + NEXT_HOP, DISCARD),
    # §7.8 COMMUNITIES
    (8, 0xC0, b"\0\1\0\1", None),
    (8, 0xE0, b"\0\1\0\1", None),
    (8, 0xC0, b"", WITHDRAW),
    (8, 0xC0, b"\0\1\0\1\0", WITHDRAW),
    (8, 0x40, b"\0\1\0\1", WITHDRAW),
    # §7.9 ORIGINATOR_ID
    (9, 0x80, b"\1\2\3\4", None),
    (9, 0x80, b"\1\2\3", WITHDRAW),
    (9, 0xC0, b"\1\2\3\4", WITHDRAW),
    # §7.10 CLUSTER_LIST
    (10, 0x80, b"\1\2\3\4", None),
    (10, 0x80, b"", WITHDRAW),
    (10, 0x80, b"\1\2\3\4\5", WITHDRAW),
    (10, 0x40, b"\1\2\3\4", WITHDRAW),
    # §7.14 EXTENDED COMMUNITIES
    (16, 0xC0, bytes(8), None),
    (16, 0xC0, b"", WITHDRAW),
    (16, 0xC0, bytes(9), WITHDRAW),
    (16, 0x80, bytes(8), WITHDRAW),
    # RFC 6793 §6: from a peer with four octets these do not belong here.
    (17, 0xC0, b"\2\1\0\0\0\1", DISCARD),
    (18, 0xC0, b"\0\0\0\1" + NEXT_HOP, DISCARD),
    # RFC 8092 §5
    (32, 0xC0, bytes(12), None),
    (32, 0xC0, b"", WITHDRAW),
    (32, 0xC0, bytes(13), WITHDRAW),
    (32, 0x40, bytes(12), WITHDRAW),
    # Unknown: RFC 4271 §5.
    (99, 0xC0, b"x", None),
    (99, 0x80, b"x", None),
    (99, 0xC0, b"", None),
]


@pytest.mark.parametrize(("code", "flags", "value", "action"), TABLE)
def test_outcome(code: int, flags: int, value: bytes, action: Action | None) -> None:
    attributes = {**GOOD, code: attribute(flags, code, value)}
    for _ in range(2):  # The second time from memory.
        update = decode(b"".join(attributes.values()), context=INTERNAL)
        assert [p.action for p in update.problems] == ([] if action is None else [action])
        assert [p.attribute for p in update.problems] == ([] if action is None else [code])
        if action is WITHDRAW:
            assert update.reaches == ()
            assert update.withdrawals == (m.Withdrawal(Family.IPV4, (V4,)),)
        else:
            assert update.withdrawals == ()
            assert update.reaches[0].nlris == (V4,)


@pytest.mark.parametrize(
    ("code", "flags", "value", "action"), [row for row in TABLE if row[3] is WITHDRAW]
)
def test_withdraws_all_prefixes_of_the_message(
    code: int, flags: int, value: bytes, action: Action
) -> None:
    """RFC 7606 §2: as though all contained routes had been withdrawn, of any family."""
    attributes = {14: MP_REACH, **GOOD, code: attribute(flags, code, value)}
    update = decode(b"".join(attributes.values()), context=INTERNAL)
    assert update.reaches == ()
    assert set(update.withdrawals) == {
        m.Withdrawal(Family.IPV4, (V4,)),
        m.Withdrawal(Family.IPV6, (V6,)),
    }


@pytest.mark.parametrize(
    ("code", "flags", "value", "action"),
    [row for row in TABLE if row[3] is WITHDRAW and row[0] != 3],
)
def test_without_reachable_prefixes_it_costs_the_session(
    code: int, flags: int, value: bytes, action: Action
) -> None:
    """RFC 7606 §5.2."""
    attributes = b"".join({**GOOD, code: attribute(flags, code, value)}.values())
    for nlri_less in (body(attributes, b"", V4), body(MP_UNREACH + attributes, b"")):
        with pytest.raises(PeerError) as raised:
            m.decode(2, nlri_less, INTERNAL)
        assert raised.value.code == 3
        assert raised.value.subcode in list(UpdateError)


@pytest.mark.parametrize(
    ("code", "flags", "value", "action"), [row for row in TABLE if row[3] is DISCARD]
)
def test_a_discarded_attribute_leaves_nothing(
    code: int, flags: int, value: bytes, action: Action
) -> None:
    bad = decode(b"".join(GOOD.values()) + attribute(flags, code, value), context=INTERNAL)
    good = decode(b"".join(GOOD.values()), context=INTERNAL)
    assert bad.reaches == good.reaches


@pytest.mark.parametrize("missing", [1, 2, 3, 5])
def test_missing_attribute(missing: int) -> None:
    """RFC 7606 §3 d. LOCAL_PREF is required of internal peers (RFC 4271 §5)."""
    attributes = b"".join(v for code, v in GOOD.items() if code != missing)
    update = decode(attributes, context=INTERNAL)
    assert update.withdrawals == (m.Withdrawal(Family.IPV4, (V4,)),)
    assert [(p.action, p.attribute) for p in update.problems] == [(WITHDRAW, missing)]
    # Withdrawals need no attributes, so none is missing.
    assert decode(attributes, b"", V4, INTERNAL).problems == ()
    # IPv6 needs no NEXT_HOP.
    update = decode(MP_REACH + attributes, b"", context=INTERNAL)
    assert bool(update.reaches) == (missing == 3)


@pytest.mark.parametrize(
    ("code", "flags", "value"),
    [
        (5, 0x40, b"\0\0\0\1"),
        (5, 0x40, b"\0"),
        (5, 0xC0, b"\0\0\0\1"),
        (9, 0x80, b"\1\2\3\4"),
        (9, 0x80, b"\1"),
        (10, 0x80, b"\1\2\3\4"),
        (10, 0x80, b"\1"),
    ],
)
def test_internal_attributes_from_outside_are_discarded(
    code: int, flags: int, value: bytes
) -> None:
    """RFC 7606 §7.5, §7.9, §7.10: whatever is in them."""
    update = decode(ORIGIN + AS_PATH + HOP + attribute(flags, code, value))
    assert [(p.action, p.attribute) for p in update.problems] == [(DISCARD, code)]
    (reach,) = update.reaches
    assert reach.attributes == PathAttributes(NEXT_HOP, as_path=AsPath.of(65001))


def test_duplicates_but_the_first_are_discarded() -> None:
    """RFC 7606 §3 g."""
    second = attribute(0x40, 1, b"\2")
    update = decode(ORIGIN + AS_PATH + HOP + second)
    assert [(p.action, p.attribute) for p in update.problems] == [(DISCARD, 1)]
    assert update.reaches[0].attributes.origin is Origin.IGP
    # Even if only the second is malformed.
    update = decode(ORIGIN + AS_PATH + HOP + attribute(0x40, 1, b"\7"))
    assert update.reaches


@pytest.mark.parametrize("twice", [MP_REACH, MP_UNREACH])
def test_multiprotocol_attributes_that_come_twice_cost_the_session(twice: bytes) -> None:
    """RFC 7606 §3 g."""
    with pytest.raises(PeerError) as raised:
        decode(twice + ORIGIN + AS_PATH + twice, b"")
    assert (raised.value.code, raised.value.subcode) == (3, UpdateError.MALFORMED_ATTRIBUTE_LIST)


def test_the_most_severe_of_several_faults_counts() -> None:
    """RFC 7606 §3 h."""
    update = decode(attribute(0x40, 6, b"x") + attribute(0x40, 1, b"\7") + AS_PATH + HOP)
    assert [p.action for p in update.problems] == [DISCARD, WITHDRAW]
    assert not update.reaches


@pytest.mark.parametrize(
    "tail", [b"\xc0", b"\xc0\x08", b"\xd0\x08\x00", b"\xc0\x08\x04\0\1\0", b"\xd0\x08\x01\x00\0"]
)
def test_an_attribute_that_does_not_fit_withdraws(tail: bytes) -> None:
    """RFC 7606 §4; the NLRI begin where the total length says."""
    update = decode(ORIGIN + AS_PATH + HOP + tail)
    assert update.withdrawals == (m.Withdrawal(Family.IPV4, (V4,)),)
    assert update.problems[0].subcode is UpdateError.MALFORMED_ATTRIBUTE_LIST


def test_an_unknown_well_known_attribute_costs_the_session() -> None:
    """RFC 4271 §6.3, with the attribute as data; RFC 7606 leaves that as it was."""
    with pytest.raises(PeerError) as raised:
        decode(ORIGIN + AS_PATH + HOP + b"\x40\x63\x01x")
    assert raised.value.subcode == UpdateError.UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE
    assert raised.value.data == b"\x40\x63\x01x"


def test_unknown_attributes_are_kept_if_transitive_and_sent_on_as_partial() -> None:
    """RFC 4271 §5."""
    update = decode(ORIGIN + AS_PATH + HOP + b"\x80\x62\x01n\xc0\x63\x01t")
    attributes = update.reaches[0].attributes
    assert attributes.unknown == (UnknownAttribute(0x63, b"t"),)
    assert b"\xe0\x63\x01t" in m.encode(update, EXTERNAL)


def test_the_same_octets_give_the_same_object() -> None:
    one = decode(ORIGIN + AS_PATH + HOP)
    two = decode(ORIGIN + AS_PATH + HOP, parse_prefix("10.0.0.0/8")[1])
    assert one.reaches[0].attributes is two.reaches[0].attributes
    one = decode(MP_REACH + ORIGIN + AS_PATH, b"")
    two = decode(ORIGIN + AS_PATH + MP_REACH, b"")
    assert one.reaches[0].attributes is two.reaches[0].attributes


# --- Two-octet peers, RFC 6793 ------------------------------------------------------------------


def seq(*asns: int, kind: int = 2) -> tuple[int, tuple[int, ...]]:
    return kind, asns


@pytest.mark.parametrize(
    ("path", "as4", "merged"),
    [
        # AS_PATH in two octets, AS4_PATH in four; what §4.2.3 makes of them.
        ([seq(1, 23456)], [seq(70000)], [seq(1, 70000)]),
        ([seq(1, 2, 23456)], [seq(1, 2, 70000)], [seq(1, 2, 70000)]),
        ([seq(5, 1, 23456)], [seq(1, 70000)], [seq(5, 1, 70000)]),
        ([seq(23456)], [seq(1, 70000)], [seq(23456)]),  # Too long an AS4_PATH is ignored.
        ([seq(5), seq(6, 7, kind=1), seq(23456)], [seq(70000)], None),
        ([seq(9), seq(23456, 8, kind=1)], [seq(70000, 8, kind=1)], [seq(9), seq(70000, 8, kind=1)]),
        ([seq(1, 23456)], [seq(64512, kind=3), seq(70000)], [seq(1, 70000)]),
    ],
)
def test_as4_path_is_merged(path: list, as4: list, merged: list | None) -> None:  # type: ignore[type-arg]
    def octets(segments: list, letter: str) -> bytes:  # type: ignore[type-arg]
        return b"".join(
            bytes((kind, len(asns))) + struct.pack(f"!{len(asns)}{letter}", *asns)
            for kind, asns in segments
        )

    attributes = ORIGIN + attribute(0x40, 2, octets(path, "H")) + HOP
    attributes += attribute(0xC0, 17, octets(as4, "I"))
    (reach,) = decode(attributes, context=OLD).reaches
    if merged is None:
        merged = [seq(5), seq(6, 7, kind=1), seq(70000)]
    assert reach.attributes.as_path == AsPath(tuple(merged))


@pytest.mark.parametrize(
    ("asn", "as4_aggregator", "aggregator", "path"),
    [
        (23456, 70000, 70000, AsPath.of(70001)),
        # §4.2.3: somebody who knows no AS4_AGGREGATOR has aggregated: both AS4 attributes are void.
        (5, 70000, 5, AsPath.of(23456)),
        (23456, None, 23456, AsPath.of(70001)),
    ],
)
def test_as4_aggregator(
    asn: int, as4_aggregator: int | None, aggregator: int, path: AsPath
) -> None:
    attributes = ORIGIN + attribute(0x40, 2, b"\2\1" + struct.pack("!H", 23456)) + HOP
    attributes += attribute(0xC0, 7, struct.pack("!H", asn) + NEXT_HOP)
    attributes += attribute(0xC0, 17, b"\2\1" + struct.pack("!I", 70001))
    if as4_aggregator is not None:
        attributes += attribute(0xC0, 18, struct.pack("!I", as4_aggregator) + NEXT_HOP)
    (reach,) = decode(attributes, context=OLD).reaches
    assert reach.attributes.aggregator == (aggregator, NEXT_HOP)
    assert reach.attributes.as_path == path


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (17, b""),
        (17, b"\2\1\0\1"),
        (17, b"\2\0"),
        (17, b"\7\1\0\0\0\1"),
        (17, b"\2\1\0\0\0\0"),
        (18, b"\0\1" + NEXT_HOP),
        (18, b"\0\0\0\0" + NEXT_HOP),
    ],
)
def test_malformed_as4_attributes_are_discarded(code: int, value: bytes) -> None:
    """RFC 6793 §6, RFC 7607 §2."""
    update = decode(ORIGIN + AS_PATH_OLD + HOP + attribute(0xC0, code, value), context=OLD)
    assert [(p.action, p.attribute) for p in update.problems] == [(DISCARD, code)]
    assert update.reaches[0].attributes.as_path == AsPath.of(65001)


# --- The vocabulary -----------------------------------------------------------------------------


def test_path_length() -> None:
    path = AsPath((seq(1, 2), seq(3, 4, 5, kind=1), seq(6, 7, kind=3), seq(8, kind=4)))
    assert path.length == 3
    assert path.asns == (1, 2, 3, 4, 5, 6, 7, 8)
    assert str(path) == "1 2 {3,4,5} (6 7) [8]"


def test_prepend() -> None:
    assert AsPath().prepend(1) == AsPath.of(1)
    assert AsPath.of(2, 3).prepend(1) == AsPath.of(1, 2, 3)
    assert AsPath((seq(2, kind=1),)).prepend(1) == AsPath((seq(1), seq(2, kind=1)))
    full = AsPath((seq(*range(1, 256)),))
    assert full.prepend(9) == AsPath((seq(9), *full.segments))


def test_communities_are_sets() -> None:
    attributes = PathAttributes(NEXT_HOP, communities=(3, GRACEFUL_SHUTDOWN, 3, 1))
    assert attributes.communities == (1, 3, GRACEFUL_SHUTDOWN)
    assert attributes.has(GRACEFUL_SHUTDOWN)
    assert not attributes.has(BLACKHOLE)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("65000:1", 0xFDE80001),
        ("graceful-shutdown", GRACEFUL_SHUTDOWN),
        ("no-export", NO_EXPORT),
        ("0:0", 0),
    ],
)
def test_community_text(text: str, number: int) -> None:
    assert parse_community(text) == number
    assert community_text(number) == text


@pytest.mark.parametrize("text", ["", "1", "1:2:3", "65536:1", "a:b", "-1:2", "1:", "٣:1"])
def test_no_community(text: str) -> None:
    with pytest.raises(ValueError, match=r"community|greater"):
        parse_community(text)


def test_large_community_text() -> None:
    assert parse_large_community("4294967295:0:7") == (4294967295, 0, 7)
    assert large_community_text((4294967295, 0, 7)) == "4294967295:0:7"
    with pytest.raises(ValueError, match="greater"):
        parse_large_community("4294967296:0:7")


@pytest.mark.parametrize(
    ("community", "rate"),
    [
        (link_bandwidth_community(65001, 125_000.0), 125_000.0),
        (link_bandwidth_community(70000, 250_000.0), 250_000.0),
        (b"\x00\x04\xfd\xe8" + struct.pack("!f", 5.0), 5.0),
        (b"\x40\x04\xfd\xe8" + struct.pack("!f", float("nan")), None),
        (b"\x40\x04\xfd\xe8" + struct.pack("!f", float("inf")), None),
        (b"\x40\x04\xfd\xe8" + struct.pack("!f", -1.0), None),
        (b"\x00\x02\xfd\xe8\x00\x00\x00\x05", None),
        (b"\x01\x04\xfd\xe8" + struct.pack("!f", 5.0), None),
    ],
)
def test_link_bandwidth(community: bytes, rate: float | None) -> None:
    attributes = PathAttributes(NEXT_HOP, extended_communities=(bytes(8), community))
    assert attributes.link_bandwidth == rate


def test_extended_community_text() -> None:
    text = extended_community_text(link_bandwidth_community(70000, 250_000.0))
    assert text == "link-bandwidth:23456:250000"
    assert extended_community_text(b"\x00\x02\xfd\xe8\x00\x00\x00\x05") == "target:65000:5"
    assert extended_community_text(b"\x43\x00" + bytes(6)) == "0x4300000000000000"
