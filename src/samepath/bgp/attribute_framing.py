"""The framing of path attributes: flags, type code, length, value.

Called by `samepath.bgp.attribute_decoder`, and by `samepath.bgp.update`, which takes out the two
multiprotocol attributes before it has the others decoded, since those two carry prefixes.

Standards: RFC 4271 §4.3, RFC 7606 §3 g and §4.
"""

from __future__ import annotations

import msgspec

from samepath.bgp.attributes import Attribute
from samepath.bgp.errors import Code, PeerError, UpdateError

OPTIONAL = 0x80
TRANSITIVE = 0x40
PARTIAL = 0x20
EXTENDED_LENGTH = 0x10


class RawAttribute(msgspec.Struct, frozen=True, gc=False):
    """RFC 4271 §4.3. A struct, since several are made for each IPv6 UPDATE."""

    flags: int
    code: int
    value: bytes
    start: int
    after: int
    """The borders within the field."""


def split_attributes(block: bytes) -> tuple[list[RawAttribute], str]:
    """All attributes up to the first whose length does not fit, and what is wrong with that one.

    RFC 7606 §4.
    """
    attributes: list[RawAttribute] = []
    position, end = 0, len(block)
    while position < end:
        flags = block[position]
        start = position + (4 if flags & EXTENDED_LENGTH else 3)
        if start > end:
            return attributes, f"{end - position} octets left, too few for an attribute"
        code = block[position + 1]
        after = start + int.from_bytes(block[position + 2 : start], "big")
        if after > end:
            return attributes, f"{attribute_name(code)} is longer than the path attributes field"
        attributes.append(RawAttribute(flags, code, block[start:after], position, after))
        position = after
    return attributes, ""


def take_mp(block: bytes) -> tuple[RawAttribute | None, RawAttribute | None, bytes]:
    """MP_REACH_NLRI, MP_UNREACH_NLRI, and the field without them.

    Raises PeerError (Malformed Attribute List) if one of them comes twice (RFC 7606 §3 g).
    """
    found: dict[int, RawAttribute] = {}
    attributes, _ = split_attributes(block)
    for attribute in attributes:
        if attribute.code in (Attribute.MP_REACH_NLRI, Attribute.MP_UNREACH_NLRI):
            if attribute.code in found:
                raise PeerError(
                    Code.UPDATE_MESSAGE,
                    UpdateError.MALFORMED_ATTRIBUTE_LIST,
                    message=f"{attribute_name(attribute.code)} comes twice",
                )
            found[attribute.code] = attribute
    for attribute in sorted(found.values(), key=lambda a: a.start, reverse=True):
        block = block[: attribute.start] + block[attribute.after :]
    return found.get(Attribute.MP_REACH_NLRI), found.get(Attribute.MP_UNREACH_NLRI), block


def attribute_name(code: int) -> str:
    try:
        return Attribute(code).name
    except ValueError:
        return f"attribute {code}"
