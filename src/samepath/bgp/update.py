"""The UPDATE message off the wire: what is reached, what is withdrawn, what was wrong.

Called through `samepath.bgp.message`; it is written in `samepath.bgp.update_encoder`. In order: the
fields are found, the multiprotocol attributes taken out, the other attributes read (remembered by
their octets), the prefixes read (remembered by theirs); then the faults decide which prefixes are
reached and which are treated as withdrawn.

An UPDATE without a fault whose attributes have been seen before takes a short way (at the head of
`decode_update` for IPv4 NLRI, `_known_mp_reach` for IPv6); it gives what the long way gives.

`Reach`, `Withdrawal` and `Update` are msgspec structs and not dataclasses, because one of each is
made for every UPDATE, and a frozen dataclass takes six times as long to make.

Not done: next hops that are wrong only for us (our own address, another subnet) are the RIB's and
the session's to judge; so is an AS_PATH that does not begin with the peer's AS.

Standards: RFC 4271 §4.3 and §6.3, RFC 4760 §3 and §4, RFC 2545 §3, RFC 4724 §2, RFC 7606, RFC 7911
§3 (path identifiers), RFC 8950 §4 (IPv6 next hops for IPv4).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from samepath.bgp.attribute_decoder import (
    REMEMBERED,
    ParsedAttributes,
    decode_attributes,
    why_no_host,
)
from samepath.bgp.attribute_framing import (
    EXTENDED_LENGTH,
    OPTIONAL,
    TRANSITIVE,
    RawAttribute,
    take_mp,
)
from samepath.bgp.attributes import Attribute, PathAttributes
from samepath.bgp.capabilities import family_of_afi
from samepath.bgp.errors import Action, Code, PeerError, Problem, UpdateError
from samepath.bgp.nlri import REMEMBERED as REMEMBERED_NLRI
from samepath.bgp.nlri import PathBlocks, decode_nlri, decode_paths
from samepath.model.net import Address, Family, Nlri

MAX_MESSAGE = 4096
MAX_EXTENDED_MESSAGE = 65535
"""RFC 8654 §3."""


@dataclass(frozen=True, slots=True)
class Context:
    """What both sides agreed on in their OPENs, as far as reading and writing depends on it."""

    four_octet_as: bool
    families: frozenset[Family]
    internal: bool
    """iBGP: both sides have the same AS number."""
    max_message: int = MAX_MESSAGE
    """That we may send. RFC 8654 §4."""
    add_path_receive: frozenset[Family] = frozenset()
    add_path_send: frozenset[Family] = frozenset()
    """Families whose prefixes come, or go, with a path identifier. RFC 7911 §4."""
    extended_next_hop: bool = False
    """IPv4 prefixes may have IPv6 next hops. RFC 8950 §4."""
    plain: frozenset[Family] = field(init=False, repr=False, compare=False)
    """Families whose prefixes come without a path identifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", self.families - self.add_path_receive)


class Reach(msgspec.Struct, frozen=True, gc=False):
    """Prefixes that are reachable by one next hop. RFC 4271 §3.1."""

    family: Family
    nlris: tuple[Nlri, ...]
    attributes: PathAttributes
    path_id: int = 0
    """RFC 7911 §3; 0 where it was not agreed on."""


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """Prefixes that no longer are. RFC 4271 §3.1."""

    family: Family
    nlris: tuple[Nlri, ...]
    path_id: int = 0


class Update(msgspec.Struct, frozen=True, gc=False):
    """RFC 4271 §4.3. Withdrawals come before reaches: a prefix in both is reached."""

    reaches: tuple[Reach, ...] = ()
    withdrawals: tuple[Withdrawal, ...] = ()
    """Those that the peer sent, and those that RFC 7606 treats as such."""
    problems: tuple[Problem, ...] = ()
    end_of_rib: Family | None = None
    """RFC 4724 §2."""


def decode_update(body: bytes, context: Context) -> Update:
    """`body` is the message without its header. Raises PeerError where the session must end."""
    end = len(body)
    if end < 4:
        raise _error(UpdateError.MALFORMED_ATTRIBUTE_LIST, f"an UPDATE of {end} octets")
    if body[0] == 0 == body[1]:
        after = 4 + (body[2] << 8 | body[3])
        if 4 < after < end:
            known = REMEMBERED[context.four_octet_as][context.internal].get(body[4:after])
            if known is not None and known.plain is not None and _IPV4 in context.plain:
                data = body[after:]
                nlris = _IPV4_BLOCKS.get(data) or decode_nlri(_IPV4, data)
                return Update((Reach(_IPV4, nlris, known.plain),))
        elif after == end == 4:
            return _end_of_rib(_IPV4, context)
        elif after == end and end > 29 and body[5] == 14:
            update = _known_mp_reach(body, context)
            if update is not None:
                return update
    return _decode_any(body, context)


def _known_mp_reach(body: bytes, context: Context) -> Update | None:
    """MP_REACH_NLRI first, as RFC 7606 §5.1 has it, then attributes that we have seen with it."""
    if body[4] & EXTENDED_LENGTH:
        start = 8
        after = 8 + (body[6] << 8 | body[7])
    else:
        start = 7
        after = 7 + body[6]
    known = REMEMBERED[context.four_octet_as][context.internal].get(body[after:])
    if known is None:
        return None
    nlri = start + 5 + body[start + 3]
    reach = known.mp_reaches.get(body[start:nlri])
    if reach is None or nlri >= after or body[4] & (OPTIONAL | TRANSITIVE) != OPTIONAL:
        return None
    family, attributes = reach
    if family not in context.plain or (
        family is _IPV4 and not _is_agreed(family, attributes.next_hop, context)
    ):
        return None
    return Update((Reach(family, decode_nlri(family, body[nlri:after]), attributes),))


_IPV4 = Family.IPV4
_IPV4_BLOCKS = REMEMBERED_NLRI[_IPV4]


def _error(subcode: UpdateError, message: str, data: bytes = b"") -> PeerError:
    return PeerError(Code.UPDATE_MESSAGE, subcode, data, message)


def _end_of_rib(family: Family, context: Context) -> Update:
    if family not in context.families:
        return Update(problems=(_not_negotiated(family.label, None),))
    return Update(end_of_rib=family)


def _not_negotiated(what: str, attribute: int | None) -> Problem:
    subcode = UpdateError.OPTIONAL_ATTRIBUTE_ERROR
    return Problem(Action.IGNORED, subcode, attribute, f"{what} was not negotiated")


def _fields(body: bytes) -> tuple[bytes, bytes, bytes]:
    """Withdrawn routes, path attributes, NLRI. RFC 4271 §4.3; §6.3 for lengths too large."""
    start = 2 + int.from_bytes(body[:2], "big")
    if start + 2 > len(body):
        raise _error(
            UpdateError.MALFORMED_ATTRIBUTE_LIST, "the withdrawn routes exceed the message"
        )
    after = start + 2 + int.from_bytes(body[start : start + 2], "big")
    if after > len(body):
        raise _error(UpdateError.MALFORMED_ATTRIBUTE_LIST, "the path attributes exceed the message")
    return body[2:start], body[start + 2 : after], body[after:]


def _decode_any(body: bytes, context: Context) -> Update:
    withdrawn_field, attributes_field, nlri_field = _fields(body)
    mp_reach, mp_unreach, rest = take_mp(attributes_field)
    parsed = decode_attributes(rest, context.four_octet_as, context.internal)
    problems = list(parsed.problems)
    withdrawals = _withdrawals(withdrawn_field, mp_unreach, context, problems)
    reaches = _reaches(nlri_field, mp_reach, parsed, context, problems)
    if mp_unreach is not None and len(mp_unreach.value) == 3 and body[:2] == b"\0\0":
        family = _family(mp_unreach)
        if not (rest or mp_reach or nlri_field or problems) and family is not None:
            return Update(end_of_rib=family)

    fault = next((p for p in problems if p.action is Action.TREAT_AS_WITHDRAW), None)
    if fault is None:
        return Update(tuple(reaches), tuple(withdrawals), tuple(problems))
    if not nlri_field and mp_reach is None:
        # RFC 7606 §5.2: there is nothing that could be treated as withdrawn.
        raise _error(fault.subcode, f"{fault.reason}, in an UPDATE that reaches nothing")
    withdrawals.extend(Withdrawal(r.family, r.nlris, r.path_id) for r in reaches)
    return Update((), tuple(withdrawals), tuple(problems))


def _blocks(family: Family, data: bytes, context: Context) -> PathBlocks:
    if family in context.add_path_receive:
        return decode_paths(family, data)
    nlris = decode_nlri(family, data)
    return ((0, nlris),) if nlris else ()


def _withdrawals(
    field: bytes, mp_unreach: RawAttribute | None, context: Context, problems: list[Problem]
) -> list[Withdrawal]:
    withdrawals: list[Withdrawal] = []
    if field:
        found = _blocks(Family.IPV4, field, context)
        if Family.IPV4 in context.families:
            withdrawals.extend(Withdrawal(Family.IPV4, nlris, i) for i, nlris in found)
        else:
            problems.append(_not_negotiated("IPv4 unicast", None))
    if mp_unreach is not None:
        if len(mp_unreach.value) < 3:
            raise _error(UpdateError.OPTIONAL_ATTRIBUTE_ERROR, "MP_UNREACH_NLRI is cut short")
        family = _mp_family(mp_unreach, context, problems)
        if family is not None:
            found = _blocks(family, mp_unreach.value[3:], context)
            withdrawals.extend(Withdrawal(family, nlris, i) for i, nlris in found)
    return withdrawals


def _reaches(
    field: bytes,
    mp_reach: RawAttribute | None,
    parsed: ParsedAttributes,
    context: Context,
    problems: list[Problem],
) -> list[Reach]:
    """What is reached, if none of `problems` (which are added to) has it withdrawn."""
    reaches: list[Reach] = []
    if field or mp_reach is not None:
        problems.extend(parsed.of_nlri)
    if field:
        found = _blocks(Family.IPV4, field, context)
        if Family.IPV4 in context.families:
            reaches.extend(Reach(Family.IPV4, nlris, parsed.attributes, i) for i, nlris in found)
            if parsed.next_hop_problem is not None:
                problems.append(parsed.next_hop_problem)
        else:
            problems.append(_not_negotiated("IPv4 unicast", None))
    if mp_reach is not None:
        reaches.extend(_mp_reach(mp_reach, parsed, context, problems))
    return reaches


def _family(mp: RawAttribute) -> Family | None:
    return family_of_afi(int.from_bytes(mp.value[:2], "big"), mp.value[2])


def _mp_family(mp: RawAttribute, context: Context, problems: list[Problem]) -> Family | None:
    """The family of a multiprotocol attribute if it was negotiated; its flags are checked too."""
    name = Attribute(mp.code).name
    if mp.flags & (OPTIONAL | TRANSITIVE) != OPTIONAL:
        subcode = UpdateError.ATTRIBUTE_FLAGS_ERROR
        reason = f"{name} has flags 0x{mp.flags:02x}"
        problems.append(Problem(Action.TREAT_AS_WITHDRAW, subcode, mp.code, reason))
    family = _family(mp)
    if family is None or family not in context.families:
        afi, safi = int.from_bytes(mp.value[:2], "big"), mp.value[2]
        problems.append(_not_negotiated(f"{name} of AFI {afi} SAFI {safi}", mp.code))
        return None
    return family


def _mp_reach(
    mp: RawAttribute, parsed: ParsedAttributes, context: Context, problems: list[Problem]
) -> list[Reach]:
    """RFC 4760 §3. Lengths that do not add up cost the session (RFC 7606 §7.11)."""
    value = mp.value
    if len(value) < 5 or len(value) < 5 + value[3]:
        raise _error(UpdateError.OPTIONAL_ATTRIBUTE_ERROR, "MP_REACH_NLRI is cut short")
    family = _mp_family(mp, context, problems)
    if family is None:
        return []
    next_hop = value[4 : 4 + value[3]]
    if len(next_hop) not in _NEXT_HOP_OCTETS[family]:
        raise _error(
            UpdateError.OPTIONAL_ATTRIBUTE_ERROR,
            f"MP_REACH_NLRI of {family.label} has a next hop of {len(next_hop)} octets",
        )
    head = value[: 5 + len(next_hop)]
    found = _blocks(family, value[len(head) :], context)
    attributes = _mp_attributes(mp, head, family, parsed, context, problems)
    return [Reach(family, nlris, attributes, i) for i, nlris in found]


def _mp_attributes(
    mp: RawAttribute,
    head: bytes,
    family: Family,
    parsed: ParsedAttributes,
    context: Context,
    problems: list[Problem],
) -> PathAttributes:
    """The attributes, with the next hop of MP_REACH_NLRI, which is judged here."""
    known = parsed.mp_reaches.get(head)
    if known is not None and _is_agreed(family, known[1].next_hop, context):
        return known[1]
    next_hop = head[4:-1]
    address, link_local = _split_next_hop(next_hop)
    attributes = replace(parsed.attributes, next_hop=address, link_local_next_hop=link_local)
    agreed = _is_agreed(family, address, context)
    why = why_no_host(address) if agreed else "an IPv6 next hop for IPv4 was not negotiated"
    if why:
        subcode = UpdateError.INVALID_NEXT_HOP_ATTRIBUTE
        problems.append(Problem(Action.TREAT_AS_WITHDRAW, subcode, mp.code, why))
    else:
        parsed.remember_mp_reach(head, family, attributes)
    return attributes


_NEXT_HOP_OCTETS = {Family.IPV4: (4, 16, 32), Family.IPV6: (16, 32)}
"""RFC 4760 §3, RFC 2545 §3; for IPv4 also those of RFC 8950 §3, which cost no session even
where they were not agreed on."""


def _split_next_hop(next_hop: bytes) -> tuple[Address, Address | None]:
    """A global and a link-local one. RFC 2545 §3. A link-local one alone is the next hop."""
    if len(next_hop) != 32:
        return next_hop, None
    address, link_local = next_hop[:16], next_hop[16:]
    if not any(link_local):
        return address, None
    return (address, link_local) if any(address) else (link_local, None)


def _is_agreed(family: Family, next_hop: Address, context: Context) -> bool:
    return len(next_hop) == family.octets or context.extended_next_hop
