"""Malformed UPDATEs, all answers at a glance; and what is accepted can be printed and sent on.

The rows of `test_bgp_attributes.TABLE` are attributes beside good ones. Here are the attributes and
fields that carry prefixes, and a check that no attribute and no kind of fault was forgotten.

RFC 7606 §3, §5, §7; RFC 4271 §6.3.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import strategies
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_bgp_attributes import GOOD, INTERNAL, NEXT_HOP6, TABLE, V4, V6, body

from samepath.bgp import message as m
from samepath.bgp.attribute_decoder import _RULES
from samepath.bgp.attributes import (
    AsPath,
    Attribute,
    PathAttributes,
    community_text,
    extended_community_text,
    large_community_text,
)
from samepath.bgp.errors import Action, PeerError
from samepath.bgp.update import Context
from samepath.model.net import Family, address_text, parse_address, prefix_text

WITHDRAW, DISCARD, IGNORED = Action.TREAT_AS_WITHDRAW, Action.ATTRIBUTE_DISCARD, Action.IGNORED
RESET = "session reset"

HEAD6 = bytes((0, 2, 1, 16)) + NEXT_HOP6 + b"\0"

# Attribute, flags, value, what is done. RFC 7606 §7.11, §7.12; §5.3 for the prefixes. Where the
# RFC leaves the choice between "session reset" and "AFI/SAFI disable", it is the former here.
MULTIPROTOCOL = [
    (14, 0x80, HEAD6 + V6, None),
    (14, 0x90, HEAD6 + V6, None),
    (14, 0x80, HEAD6, None),
    (14, 0x40, HEAD6 + V6, WITHDRAW),  # §3 c
    (14, 0xC0, HEAD6 + V6, WITHDRAW),
    (14, 0x80, b"", RESET),
    (14, 0x80, b"\0\2", RESET),
    (14, 0x80, b"\0\2\1", RESET),
    (14, 0x80, b"\0\2\1\x10", RESET),
    (14, 0x80, HEAD6[:-1], RESET),
    (14, 0x80, bytes((0, 2, 1, 4)) + b"\1\2\3\4\0" + V6, RESET),  # §7.11: next hop's length
    (14, 0x80, bytes((0, 2, 1, 0)) + b"\0" + V6, RESET),
    (14, 0x80, bytes((0, 2, 1, 17)) + bytes(17) + b"\0" + V6, RESET),
    (14, 0x80, bytes((0, 2, 1, 16)) + bytes(16) + b"\0" + V6, WITHDRAW),  # no host's address
    (14, 0x80, bytes((0, 2, 1, 16)) + b"\xff" + bytes(15) + b"\0" + V6, WITHDRAW),
    (14, 0x80, HEAD6 + b"\x81" + bytes(17), RESET),  # prefix length, RFC 7606 §5.3
    (14, 0x80, HEAD6 + b"\x30\x20\1", RESET),
    (14, 0x80, bytes((0, 1, 1, 16)) + NEXT_HOP6 + b"\0" + V4, WITHDRAW),  # RFC 8950 not agreed on
    (14, 0x80, bytes((0, 2, 128, 16)) + NEXT_HOP6 + b"\0" + V6, IGNORED),  # RFC 4760 §8
    (14, 0x80, bytes((64, 4, 71, 4)) + b"\1\2\3\4\0junk", IGNORED),
    (15, 0x80, b"\0\2\1" + V6, None),
    (15, 0x80, b"\0\2\1", None),
    (15, 0x40, b"\0\2\1" + V6, WITHDRAW),
    (15, 0x80, b"", RESET),
    (15, 0x80, b"\0\2", RESET),
    (15, 0x80, b"\0\2\1\x81" + bytes(17), RESET),
    (15, 0x80, b"\0\2\1\x30\x20", RESET),
    (15, 0x80, b"\0\2\x80" + V6, IGNORED),
]


def outcome(data: bytes) -> list[object]:
    try:
        update = m.decode(2, data, INTERNAL)
    except PeerError as error:
        return [RESET if error.code == 3 else error.code]
    assert isinstance(update, m.Update)
    return [p.action for p in update.problems]


@pytest.mark.parametrize(("code", "flags", "value", "action"), MULTIPROTOCOL)
def test_attributes_that_carry_prefixes(
    code: int, flags: int, value: bytes, action: Action | str | None
) -> None:
    length = len(value).to_bytes(2 if flags & 0x10 else 1, "big")
    whole = bytes((flags, code)) + length + value
    data = body(whole + b"".join(GOOD.values()))
    for _ in range(2):
        assert outcome(data) == ([] if action is None else [action])


# Withdrawn routes, path attributes, NLRI. RFC 4271 §6.3, RFC 7606 §3 b, §4, §5.3.
FIELDS = [
    (b"", RESET),
    (b"\0\0\0", RESET),
    (b"\0\5\0\0", RESET),
    (b"\0\0\0\5", RESET),
    (b"\0\1\x21\0\0", RESET),
    (b"\0\2\x18\x0a\0\0", RESET),
    (body(b"".join(GOOD.values()), b"\x21\1\2\3\4\5"), RESET),
    (body(b"".join(GOOD.values()), b"\x18\1\2"), RESET),
    (body(b"".join(GOOD.values())), None),
    (body(b"", V4), WITHDRAW),  # ORIGIN, AS_PATH, NEXT_HOP and LOCAL_PREF are missing.
    (body(b"".join(GOOD.values()) + b"\xc0\x08\xff", V4), WITHDRAW),
    (body(b"", b"", V4), None),
]


@pytest.mark.parametrize(("data", "action"), FIELDS)
def test_fields(data: bytes, action: Action | str | None) -> None:
    found = outcome(data)
    assert set(found) == (set() if action is None else {action})


def test_no_attribute_and_no_kind_of_fault_was_forgotten() -> None:
    """Each that we know stands in the tables as it should be, with wrong flags, with too few and
    with too many octets; those with a limited range with a value out of it."""
    assert {int(code) for code in Attribute} == set(_RULES) | {14, 15}
    seen: dict[int, set[str]] = defaultdict(set)
    for code, flags, value, action in [*TABLE, *MULTIPROTOCOL]:
        right = _RULES[code].flags if code in _RULES else 0x80
        if action in (None, IGNORED):
            seen[code].add("good")
        elif flags & 0xC0 != right:
            seen[code].add("flags")
        elif not value or len(value) < 4:
            seen[code].add("short")
        else:
            seen[code].add("other")
    seen[3].add("good")  # in every row beside the others
    seen[5].add("good")
    not_from_this_peer = {17, 18}
    for code in Attribute:
        wanted = {"good", "flags"} if code not in not_from_this_peer else set()
        assert seen[code] >= wanted, code
        if code not in (6, *not_from_this_peer):
            assert seen[code] & {"short", "other"}, code


# What is accepted can be printed, and sent on.

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def print_all(update: m.Update) -> str:
    words = [repr(update)]
    for part in (*update.reaches, *update.withdrawals):
        words += [prefix_text(part.family, nlri) for nlri in part.nlris]
    for reach in update.reaches:
        a = reach.attributes
        words += [str(a.as_path), address_text(a.next_hop), str(a.link_bandwidth)]
        words += map(community_text, a.communities)
        words += map(extended_community_text, a.extended_communities)
        words += map(large_community_text, a.large_communities)
    words += map(str, update.problems)
    return " ".join(words)


def read_again(data: bytes, context: Context) -> m.Update:
    (message,), used = m.split(data, context.max_message)
    assert used == len(data) <= context.max_message
    update = m.decode(*message, context)
    assert isinstance(update, m.Update)
    return update


def both_ways(context: Context) -> Context:
    return replace(context, add_path_send=context.add_path_receive, families=frozenset(Family))


@quick
@given(st.data(), strategies.messages(), strategies.any_contexts, strategies.contexts)
def test_what_was_accepted_can_be_printed_and_encoded_again(
    data: st.DataObject, case: tuple[Context, m.Message], context: Context, onward: Context
) -> None:
    written, message = case
    assume(isinstance(message, m.Update))
    whole = m.encode(message, written)[19:]
    if data.draw(st.booleans()):
        whole = data.draw(strategies.mutated(whole))
    context = data.draw(st.sampled_from([context, written]))
    try:
        update = m.decode(2, whole, context)
    except PeerError:
        return
    assert isinstance(update, m.Update)
    assert print_all(update)
    onward = replace(onward, extended_next_hop=context.extended_next_hop)
    expect = {
        (r.family, n, r.path_id if r.family in onward.add_path_send else 0)
        for r in update.reaches
        for n in r.nlris
    }
    told = set()
    for octets in m.encode_updates(update.reaches, update.withdrawals, onward):
        again = read_again(octets, both_ways(onward))
        assert not again.problems
        for reach in again.reaches:
            told |= {(reach.family, n, reach.path_id) for n in reach.nlris}
    # Where the attributes leave no room for a prefix it is withdrawn (RFC 8654 §4).
    assert told == expect or not told


def test_attributes_that_grow_beyond_any_message_are_withdrawn() -> None:
    """An extended message from a two-octet speaker, sent on with four octets."""
    asns = bytes((2, 255)) + b"\xfd\xe9" * 255
    long = asns * 120
    path = bytes((0x50, 2)) + len(long).to_bytes(2, "big") + long
    attributes = b"\x40\x01\x01\x00" + path + b"\x40\x03\x04\xc0\0\2\1"
    old = m.Context(
        four_octet_as=False,
        families=frozenset(Family),
        internal=False,
        max_message=m.MAX_EXTENDED_MESSAGE,
    )
    update = m.decode(2, body(attributes), old)
    assert isinstance(update, m.Update)
    (reach,) = update.reaches
    for four_octets in (True, False):
        onward = replace(old, four_octet_as=four_octets)
        (octets,) = m.encode_updates([reach], (), onward)
        again = read_again(octets, onward)
        if four_octets:
            assert again.withdrawals == (m.Withdrawal(Family.IPV4, (V4,)),)
        else:
            assert again.reaches == (reach,)


def test_a_path_of_any_length_can_be_extended() -> None:
    full = AsPath(((2, tuple(range(1, 256))),))
    reach = m.Reach(
        Family.IPV4,
        (V4,),
        PathAttributes(parse_address("192.0.2.1"), as_path=full.prepend(65000)),
    )
    context = m.Context(four_octet_as=True, families=frozenset(Family), internal=False)
    (octets,) = m.encode_updates([reach], (), context)
    assert read_again(octets, context).reaches == (reach,)
