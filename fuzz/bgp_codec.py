"""Targets: BGP's octets (messages, UPDATE, OPEN, prefixes).

What must hold of any octets whatever:

- they are a message, or a `PeerError` with a code, a subcode, data that fit a NOTIFICATION, and a
  text; what is read from memory is what was read the first time;
- messages are the same however the connection cuts them;
- an UPDATE that is accepted names canonical prefixes of negotiated families, reaches nothing if any
  fault has it treated as withdrawn, can be printed, and is written and read again as itself;
- an OPEN, NOTIFICATION or ROUTE-REFRESH that is accepted is written and read again as itself, and
  what people are shown of it has no control characters.

The context of an UPDATE (what was negotiated) is made of two octets, field by field of `Context`,
so that every combination is tried, also of what is added to it one day.

RFC 4271 §4 and §6, RFC 7606.
"""

from __future__ import annotations

import ipaddress
from dataclasses import fields, replace
from typing import Any, get_type_hints

from fuzz.choices import Choices
from samepath.bgp import attribute_decoder, message, nlri
from samepath.bgp.communities import community_text, extended_community_text, large_community_text
from samepath.bgp.errors import Action, Code, PeerError
from samepath.bgp.message import Context, MessageType, Update
from samepath.model.net import (
    Family,
    PrefixSet,
    make_nlri,
    nlri_address,
    prefix_text,
)

_HINTS = get_type_hints(Context)
FAMILY_SETS: tuple[frozenset[Family], ...] = (
    frozenset(),
    frozenset({Family.IPV4}),
    frozenset({Family.IPV6}),
    frozenset(Family),
)
_SIZES = (message.MAX_MESSAGE, message.MAX_EXTENDED_MESSAGE)
CONTEXT_OCTETS = 2

Route = tuple[object, ...]


def context_of(octets: bytes) -> Context:
    """Each field of `Context` from the next bits of the first two octets."""
    bits = int.from_bytes(octets[:CONTEXT_OCTETS].ljust(CONTEXT_OCTETS, b"\0"), "big")
    values: dict[str, Any] = {}
    for field in (field for field in fields(Context) if field.init):
        kind = _HINTS[field.name]
        if kind is bool:
            values[field.name], bits = bool(bits & 1), bits >> 1
        elif kind == frozenset[Family]:
            # Zeroes are what is agreed on mostly: both families, and nothing special of either.
            usual = 3 if field.name == "families" else 0
            values[field.name], bits = FAMILY_SETS[bits & 3 ^ usual], bits >> 2
        elif field.name == "max_message":
            values[field.name], bits = _SIZES[bits & 1], bits >> 1
    return Context(**values)


def forget() -> None:
    attribute_decoder.forget()
    nlri.forget()


def decoded(kind: int, body: bytes, context: Context) -> message.Message | PeerError:
    """What the octets are; a `PeerError` is checked."""
    try:
        return message.decode(kind, body, context)
    except PeerError as error:
        check_error(error)
        return error


def check_error(error: PeerError) -> None:
    assert error.code in tuple(Code), error
    assert 0 <= error.subcode <= 255
    assert str(error).isprintable(), ascii(str(error))
    assert len(error.data) <= message.MAX_EXTENDED_MESSAGE
    note = message.encode(message.Notification(error.code, error.subcode, error.data), _ANY)
    assert len(note) <= message.MAX_MESSAGE


_ANY = Context(four_octet_as=True, families=frozenset(Family), internal=False)


def comparable(result: message.Message | PeerError) -> object:
    return result.args if isinstance(result, PeerError) else result


# -- UPDATE


def update(data: bytes) -> None:
    """Two octets of context, then the UPDATE without its header."""
    context, body = context_of(data), data[CONTEXT_OCTETS:]
    if len(body) > context.max_message - message.HEADER_OCTETS:
        return
    forget()
    result = decoded(MessageType.UPDATE, body, context)
    assert comparable(decoded(MessageType.UPDATE, body, context)) == comparable(result)
    if isinstance(result, PeerError):
        return
    assert isinstance(result, Update)
    check_update(result, context)
    # In the same terms as it came: with path identifiers where it had them (RFC 7911).
    again = rewritten(result, replace(context, add_path_send=context.add_path_receive))
    assert comparable(decoded(MessageType.UPDATE, body, context)) == result, "after others"
    told = routes_of(again)
    for route in routes_of([result]) - told:
        assert route[:3] in withdrawn_of(again), f"{route} is lost"  # RFC 8654 §4: no room for it
    assert told <= routes_of([result])
    assert withdrawn_of([result]) <= withdrawn_of(again)


def check_update(update: Update, context: Context) -> None:
    assert repr(update)
    for problem in update.problems:
        assert str(problem).isprintable(), ascii(str(problem))
    if any(p.action is Action.TREAT_AS_WITHDRAW for p in update.problems):
        assert not update.reaches
    named = [(r.family, r.nlris, r.path_id) for r in update.reaches]
    named += [(w.family, w.nlris, w.path_id) for w in update.withdrawals]
    for family, nlris, path_id in named:
        assert family in context.families
        assert path_id == 0 or family in context.add_path_receive
        for prefix in nlris:
            check_nlri(family, prefix)
    for reach in update.reaches:
        check_attributes(reach.attributes, context)
    if update.end_of_rib is not None:
        assert update == Update(end_of_rib=update.end_of_rib)
        assert update.end_of_rib in context.families


def check_nlri(family: Family, prefix: bytes) -> None:
    assert prefix[0] <= family.bits
    assert prefix == make_nlri(nlri_address(family, prefix), prefix[0])
    assert prefix_text(family, prefix)


def check_attributes(attributes: Any, context: Context) -> None:
    """They can be printed, and hold what their type says."""
    assert len(attributes.next_hop) in (4, 16)
    assert repr(attributes)
    assert str(attributes.as_path).isprintable()
    assert all(0 < asn < 1 << 32 for asn in attributes.as_path.asns)
    assert attributes.as_path.length <= len(attributes.as_path.asns)
    for text, values in (
        (community_text, attributes.communities),
        (extended_community_text, attributes.extended_communities),
        (large_community_text, attributes.large_communities),
    ):
        assert all(text(value) for value in values)
    bandwidth = attributes.link_bandwidth
    assert bandwidth is None or bandwidth >= 0, bandwidth
    if context.internal:
        assert attributes.local_pref is not None
    else:
        assert attributes.local_pref is attributes.originator_id is None
        assert not attributes.cluster_list


def rewritten(update: Update, context: Context) -> list[Update]:
    """What a peer reads of what we write of it."""
    found = []
    for octets in message.encode_updates(update.reaches, update.withdrawals, context):
        assert len(octets) <= context.max_message
        ((kind, body),), consumed = message.split(octets, context.max_message)
        assert consumed == len(octets)
        read = message.decode(kind, body, context)
        assert isinstance(read, Update)
        assert not read.problems, read.problems
        assert read.end_of_rib is None
        found.append(read)
    return found


def routes_of(updates: list[Update]) -> set[Route]:
    return {
        (reach.family, prefix, reach.path_id, reach.attributes)
        for update in updates
        for reach in update.reaches
        for prefix in reach.nlris
    }


def withdrawn_of(updates: list[Update]) -> set[Route]:
    return {
        (part.family, prefix, part.path_id)
        for update in updates
        for part in update.withdrawals
        for prefix in part.nlris
    }


# -- Messages


def messages(data: bytes) -> None:
    """Two octets of context, two where the connection cuts, then what it brings."""
    context = context_of(data)
    cut, stream = int.from_bytes(data[2:4], "big"), data[4:]
    forget()
    whole = split_all(stream, context.max_message)
    at = cut % (len(stream) + 1)
    assert split_in_two(stream, at, context.max_message) == whole
    *found, _ = whole  # the rest, or what is wrong
    for item in found:
        assert isinstance(item, tuple)
        kind, body = item
        check_message(decoded(kind, body, context), context)


def split_all(stream: bytes, most: int) -> list[object]:
    """Messages, then what is wrong or the rest."""
    found: list[object] = []
    try:
        while (part := message.split(stream, most))[1]:
            assert part[1] == sum(message.HEADER_OCTETS + len(body) for _, body in part[0])
            found.extend(part[0])
            stream = stream[part[1] :]
    except PeerError as error:
        check_error(error)
        return [*found, error.args]
    return [*found, stream]


def split_in_two(stream: bytes, at: int, most: int) -> list[object]:
    first = split_all(stream[:at], most)
    rest = first.pop()
    if not isinstance(rest, bytes):
        return [*first, rest]
    return first + split_all(rest + stream[at:], most)


def check_message(result: message.Message | PeerError, context: Context) -> None:
    if isinstance(result, PeerError):
        return
    assert repr(result)
    if isinstance(result, Update):
        check_update(result, context)
        return
    if isinstance(result, message.RouteRefresh) and result.family is None:
        return
    if isinstance(result, message.Notification):
        assert result.text.isprintable(), ascii(result.text)
    octets = message.encode(result, context)
    ((kind, body),), _ = message.split(octets, message.MAX_EXTENDED_MESSAGE)
    assert message.decode(kind, body, context) == result


def open_(data: bytes) -> None:
    """The OPEN without its header."""
    result = decoded(MessageType.OPEN, data, _ANY)
    if isinstance(result, PeerError):
        assert result.code == Code.OPEN_MESSAGE
        return
    assert isinstance(result, message.Open)
    assert 0 < result.asn < 1 << 32
    assert result.hold_time_s == 0 or result.hold_time_s >= 3
    check_message(result, _ANY)


# -- Prefixes


def prefixes(data: bytes) -> None:
    """Family and form, room for a block, a prefix length to compare with; then NLRI."""
    choices = Choices(data)
    form = choices.number()
    family = Family.IPV6 if form & 1 else Family.IPV4
    room, length = choices.number(2), choices.number()
    block = choices.rest()
    forget()
    try:
        if form & 2:
            check_paths(family, block)
            return
        found = nlri.decode_nlri(family, block)
    except PeerError as error:
        check_error(error)
        return
    for prefix in found:
        check_nlri(family, prefix)
    joined = nlri.encode_nlri(family, found)
    assert len(joined) == len(block)
    assert nlri.decode_nlri(family, joined) == found
    if not found:
        return
    room = max(room, 1 + family.octets)
    parts = list(nlri.blocks(found, room))
    assert all(0 < len(part) <= room for part in parts)
    assert b"".join(parts) == joined
    rule = make_nlri(nlri_address(family, found[0]), length % (family.bits + 1))
    check_covering(family, found, rule)


def check_paths(family: Family, block: bytes) -> None:
    """RFC 7911: each prefix behind an identifier of four octets."""
    found = nlri.decode_paths(family, block)
    assert len({path_id for path_id, _ in found}) == len(found)
    octets = 0
    for path_id, nlris in found:
        assert 0 <= path_id < 1 << 32
        for prefix in nlris:
            check_nlri(family, prefix)
            octets += nlri.PATH_ID_OCTETS + len(prefix)
    assert octets == len(block)


def check_covering(family: Family, found: tuple[bytes, ...], rule: bytes) -> None:
    """`PrefixSet` says what Python's own arithmetic says."""
    network = ipaddress.ip_network(prefix_text(family, rule))
    allowed = PrefixSet([str(network)])
    for prefix in found[:20]:
        other = ipaddress.ip_network(prefix_text(family, prefix))
        assert allowed.covers(family, prefix) is other.subnet_of(network)  # type: ignore[arg-type]
