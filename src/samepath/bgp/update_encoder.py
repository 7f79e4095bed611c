"""The UPDATE message onto the wire.

Called through `samepath.bgp.message`: `encode_updates` for the prefixes that a peer is to hear of,
any number of them; `encode_update` for one message as it is. Prefixes are canonical wire octets
already, so that this is joining and cutting.

Standards: RFC 4271 §4.3, RFC 4724 §2, RFC 4760 §3 and §4, RFC 7606 §5.1, RFC 8654 §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from samepath.bgp.attribute_encoder import encode_attributes
from samepath.bgp.attribute_framing import EXTENDED_LENGTH, OPTIONAL
from samepath.bgp.attributes import Attribute, PathAttributes
from samepath.bgp.capabilities import SAFI_UNICAST, encode_afi
from samepath.bgp.nlri import blocks
from samepath.bgp.update import Context, Reach, Update, Withdrawal
from samepath.model.net import Family, Nlri

HEADER_OCTETS = 19
MARKER = b"\xff" * 16
UPDATE = 2
"""Message type. RFC 4271 §4.1."""


def frame(kind: int, body: bytes) -> bytes:
    """A whole message: header and body. RFC 4271 §4.1."""
    return MARKER + (HEADER_OCTETS + len(body)).to_bytes(2, "big") + bytes((kind,)) + body


def _body(withdrawn: bytes, attributes: bytes, nlri: bytes) -> bytes:
    return b"".join(
        (
            len(withdrawn).to_bytes(2, "big"),
            withdrawn,
            len(attributes).to_bytes(2, "big"),
            attributes,
            nlri,
        )
    )


def _mp_attribute(code: int, value: bytes) -> bytes:
    head = bytes((OPTIONAL | EXTENDED_LENGTH, code)) + len(value).to_bytes(2, "big")
    return head + value


def _mp_head(family: Family) -> bytes:
    return encode_afi(family) + bytes((SAFI_UNICAST,))


def _next_hop_field(attributes: PathAttributes) -> bytes:
    field = attributes.next_hop + (attributes.link_local_next_hop or b"")
    return bytes((len(field),)) + field + b"\0"


def encode_end_of_rib(family: Family) -> bytes:
    """RFC 4724 §2."""
    if family is Family.IPV4:
        return frame(UPDATE, _body(b"", b"", b""))
    attribute = _mp_attribute(Attribute.MP_UNREACH_NLRI, _mp_head(family))
    return frame(UPDATE, _body(b"", attribute, b""))


def encode_update(update: Update, context: Context) -> bytes:
    """One message with all of it, which must fit; at most one reach and withdrawal a family.

    Reaches of both families share their attributes, all but the next hop. `encode_updates` is for
    what may need any number of messages.
    """
    if update.end_of_rib is not None:
        return encode_end_of_rib(update.end_of_rib)
    reaches = {reach.family: reach for reach in update.reaches}
    withdrawals = {withdrawal.family: withdrawal for withdrawal in update.withdrawals}
    assert len(reaches) == len(update.reaches)
    assert len(withdrawals) == len(update.withdrawals)
    mp = b""
    v4, v6 = reaches.get(Family.IPV4), reaches.get(Family.IPV6)
    if v6 is not None:
        value = _mp_head(Family.IPV6) + _next_hop_field(v6.attributes) + b"".join(v6.nlris)
        mp += _mp_attribute(Attribute.MP_REACH_NLRI, value)
    if Family.IPV6 in withdrawals:
        value = _mp_head(Family.IPV6) + b"".join(withdrawals[Family.IPV6].nlris)
        mp += _mp_attribute(Attribute.MP_UNREACH_NLRI, value)
    first = v4 or v6
    if first is not None:
        mp += _encode_common(first.attributes, context, v4 is not None)
    withdrawn = withdrawals.get(Family.IPV4)
    message = frame(
        UPDATE,
        _body(
            b"".join(withdrawn.nlris) if withdrawn else b"", mp, b"".join(v4.nlris) if v4 else b""
        ),
    )
    assert len(message) <= context.max_message
    return message


def _encode_common(attributes: PathAttributes, context: Context, with_next_hop: bool) -> bytes:
    return encode_attributes(
        attributes, context.four_octet_as, context.internal, with_next_hop=with_next_hop
    )


def encode_updates(
    reaches: Iterable[Reach], withdrawals: Iterable[Withdrawal], context: Context
) -> Iterator[bytes]:
    """As few messages as hold it all: first what is withdrawn, then what is reached.

    Reaches with equal attributes share messages; an UPDATE holds one family and either reaches or
    withdraws (RFC 7606 §5.1). Where attributes leave no room for a prefix, it is withdrawn, as
    RFC 8654 §4 has it for routes that do not fit the peer's message size.
    """
    gone: dict[Family, list[Nlri]] = {}
    for withdrawal in withdrawals:
        gone.setdefault(withdrawal.family, []).extend(withdrawal.nlris)
    messages: list[tuple[bytes, bytes, list[Nlri]]] = []
    for (family, attributes), nlris in _grouped(reaches).items():
        head, common = _reach_parts(family, attributes, context)
        room = context.max_message - _OVERHEAD - len(common) - len(head)
        if room < 1 + family.octets:
            gone.setdefault(family, []).extend(nlris)
        else:
            messages.append((head, common, nlris))
    for family, nlris in gone.items():
        yield from _encode_withdrawn(family, nlris, context)
    for head, common, nlris in messages:
        room = context.max_message - _OVERHEAD - len(common) - len(head)
        for block in blocks(nlris, room):
            if head:
                mp = _mp_attribute(Attribute.MP_REACH_NLRI, head[_MP_HEADER:] + block)
                yield frame(UPDATE, _body(b"", mp + common, b""))
            else:
                yield frame(UPDATE, _body(b"", common, block))


_OVERHEAD = HEADER_OCTETS + 4
"""Header and the two lengths of an UPDATE."""
_MP_HEADER = 4
"""Flags, type code and an extended length."""


def _reach_parts(
    family: Family, attributes: PathAttributes, context: Context
) -> tuple[bytes, bytes]:
    """MP_REACH_NLRI before its prefixes, room for its header included; all other attributes."""
    classic = family is Family.IPV4
    common = _encode_common(attributes, context, classic)
    if classic:
        return b"", common
    return bytes(_MP_HEADER) + _mp_head(family) + _next_hop_field(attributes), common


def _grouped(reaches: Iterable[Reach]) -> dict[tuple[Family, PathAttributes], list[Nlri]]:
    groups: dict[tuple[Family, PathAttributes], list[Nlri]] = {}
    last: Reach | None = None
    nlris: list[Nlri] = []
    for reach in reaches:
        same = last is not None and reach.attributes is last.attributes
        if not (same and last is not None and reach.family is last.family):
            # Hashing attributes is dear; neighbours in the input mostly share the object.
            nlris = groups.setdefault((reach.family, reach.attributes), [])
            last = reach
        nlris.extend(reach.nlris)
    return groups


def _encode_withdrawn(family: Family, nlris: list[Nlri], context: Context) -> Iterator[bytes]:
    if family is Family.IPV4:
        for block in blocks(nlris, context.max_message - _OVERHEAD):
            yield frame(UPDATE, _body(block, b"", b""))
        return
    head = _mp_head(family)
    for block in blocks(nlris, context.max_message - _OVERHEAD - _MP_HEADER - len(head)):
        mp = _mp_attribute(Attribute.MP_UNREACH_NLRI, head + block)
        yield frame(UPDATE, _body(b"", mp, b""))
