"""The UPDATE message onto the wire.

Called through `samepath.bgp.message`: `encode_updates` for the prefixes that a peer is to hear of,
any number of them; `encode_update` for one message as it is. Prefixes are canonical wire octets
already, so that this is joining and cutting.

Standards: RFC 4271 §4.3, RFC 4724 §2, RFC 4760 §3 and §4, RFC 7606 §5.1, RFC 7911 §3, RFC 8654 §4,
RFC 8950 §3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from samepath.bgp.attribute_encoder import encode_attributes
from samepath.bgp.attribute_framing import EXTENDED_LENGTH, OPTIONAL
from samepath.bgp.attributes import Attribute, PathAttributes
from samepath.bgp.capabilities import SAFI_UNICAST, encode_afi
from samepath.bgp.nlri import PATH_ID_OCTETS, blocks
from samepath.bgp.update import Context, Reach, Update, Withdrawal
from samepath.model.net import Family

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
    """One message with all of it, which must fit; only one family may need MP_REACH_NLRI.

    Reaches of both families share their attributes, all but the next hop. `encode_updates` is for
    what may need any number of messages.
    """
    if update.end_of_rib is not None:
        return encode_end_of_rib(update.end_of_rib)
    classic = [r for r in update.reaches if _is_classic(r.family, r.attributes)]
    others = [r for r in update.reaches if not _is_classic(r.family, r.attributes)]
    gone: dict[Family, bytes] = dict.fromkeys(Family, b"")
    for withdrawal in update.withdrawals:
        gone[withdrawal.family] += _wire_block(withdrawal, context)
    mp = b""
    if others:
        head = _mp_head(others[0].family) + _next_hop_field(others[0].attributes)
        assert all(_mp_head(r.family) + _next_hop_field(r.attributes) == head for r in others)
        value = head + b"".join(_wire_block(r, context) for r in others)
        mp += _mp_attribute(Attribute.MP_REACH_NLRI, value)
    if gone[Family.IPV6]:
        value = _mp_head(Family.IPV6) + gone[Family.IPV6]
        mp += _mp_attribute(Attribute.MP_UNREACH_NLRI, value)
    if update.reaches:
        first = (classic or others)[0]
        mp += _encode_common(first.attributes, context, bool(classic))
    nlri = b"".join(_wire_block(r, context) for r in classic)
    message = frame(UPDATE, _body(gone[Family.IPV4], mp, nlri))
    assert len(message) <= context.max_message
    return message


def _is_classic(family: Family, attributes: PathAttributes) -> bool:
    """IPv4 with an IPv4 next hop goes without MP_REACH_NLRI, as everybody understands it."""
    return family is Family.IPV4 and len(attributes.next_hop) == 4


def _wire(part: Reach | Withdrawal, context: Context) -> Sequence[bytes]:
    """Its prefixes, each with its path identifier where that was agreed on. RFC 7911 §3."""
    if part.family not in context.add_path_send:
        return part.nlris
    path_id = part.path_id.to_bytes(PATH_ID_OCTETS, "big")
    return [path_id + nlri for nlri in part.nlris]


def _wire_block(part: Reach | Withdrawal, context: Context) -> bytes:
    return b"".join(_wire(part, context))


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
    gone: dict[Family, list[bytes]] = {}
    for withdrawal in withdrawals:
        gone.setdefault(withdrawal.family, []).extend(_wire(withdrawal, context))
    messages: list[tuple[bytes, bytes, list[bytes]]] = []
    for (family, attributes), nlris in _grouped(reaches, context).items():
        head, common = _reach_parts(family, attributes, context)
        room = context.max_message - _OVERHEAD - len(common) - len(head)
        longest = 1 + family.octets + PATH_ID_OCTETS * (family in context.add_path_send)
        if room < longest:
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
    classic = _is_classic(family, attributes)
    common = _encode_common(attributes, context, classic)
    if classic:
        return b"", common
    return bytes(_MP_HEADER) + _mp_head(family) + _next_hop_field(attributes), common


def _grouped(
    reaches: Iterable[Reach], context: Context
) -> dict[tuple[Family, PathAttributes], list[bytes]]:
    groups: dict[tuple[Family, PathAttributes], list[bytes]] = {}
    several = context.add_path_send
    last: Reach | None = None
    nlris: list[bytes] = []
    for reach in reaches:
        same = last is not None and reach.attributes is last.attributes
        if not (same and last is not None and reach.family is last.family):
            # Hashing attributes is dear; neighbours in the input mostly share the object.
            nlris = groups.setdefault((reach.family, reach.attributes), [])
            last = reach
        nlris.extend(_wire(reach, context) if several else reach.nlris)
    return groups


def _encode_withdrawn(family: Family, nlris: list[bytes], context: Context) -> Iterator[bytes]:
    if family is Family.IPV4:
        for block in blocks(nlris, context.max_message - _OVERHEAD):
            yield frame(UPDATE, _body(block, b"", b""))
        return
    head = _mp_head(family)
    for block in blocks(nlris, context.max_message - _OVERHEAD - _MP_HEADER - len(head)):
        mp = _mp_attribute(Attribute.MP_UNREACH_NLRI, head + block)
        yield frame(UPDATE, _body(b"", mp, b""))
