"""What the kernel answers, as objects: the body of one message to one value.

Pure. Each function takes the body (what follows the nlmsghdr) and raises `Malformed` for octets
that are no such message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

from samepath.model.net import Address, Family, Nlri, make_nlri
from samepath.netlink import uapi
from samepath.netlink.codec import (
    NLA_F_NESTED,
    Malformed,
    attributes,
    text,
    u8,
    u16,
    u32,
    u64,
)
from samepath.netlink.objects import (
    Group,
    Hop,
    InterfaceAddress,
    Link,
    Lookup,
    Neighbor,
    NextHop,
    Route,
)

Row = tuple[int, int, int, float]
"""A bucket: group id, index, next hop id, idle seconds."""

_T = TypeVar("_T")

_NHMSG = struct.Struct("=BBBxI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=B3xiHBB")
_RTNEXTHOP = struct.Struct("=HBBi")
_MEMBER = struct.Struct("=IBBxx")

_FAMILIES = {family.af: family for family in Family}


def _whole(decode: Callable[[memoryview], _T]) -> Callable[[memoryview], _T]:
    """Short headers are Malformed, like everything else that is cut short."""

    def decoded(body: memoryview) -> _T:
        try:
            return decode(body)
        except struct.error as error:
            raise Malformed(str(error)) from error

    return decoded


@_whole
def link(body: memoryview) -> Link:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = attributes(body, _IFINFOMSG.size)
    info = found.get(uapi.IFLA_LINKINFO)
    return Link(
        index,
        text(found.get(uapi.IFLA_IFNAME)),
        up=bool(flags & uapi.IFF_UP),
        carrier=bool(flags & uapi.IFF_LOWER_UP),
        mtu=u32(found.get(uapi.IFLA_MTU)),
        address=bytes(found.get(uapi.IFLA_ADDRESS, b"")),
        kind=text(attributes(info).get(uapi.IFLA_INFO_KIND)) if info is not None else "",
        alias=text(found.get(uapi.IFLA_IFALIAS)),
        peer=u32(found.get(uapi.IFLA_LINK)),
        running=bool(flags & uapi.IFF_RUNNING),
        master=u32(found.get(uapi.IFLA_MASTER)),
    )


@_whole
def address(body: memoryview) -> InterfaceAddress:
    _, length, flags, scope, index = _IFADDRMSG.unpack_from(body)
    found = attributes(body, _IFADDRMSG.size)
    # IFA_ADDRESS is the peer's on a point-to-point link; IFA_LOCAL is ours where it stands.
    own = found.get(uapi.IFA_LOCAL, found.get(uapi.IFA_ADDRESS))
    return InterfaceAddress(
        index,
        _address(own),
        length,
        protocol=u8(found.get(uapi.IFA_PROTO)),
        scope=scope,
        flags=u32(found.get(uapi.IFA_FLAGS), flags),
    )


@_whole
def neighbor(body: memoryview) -> Neighbor | None:
    """None for an entry of another family (a bridge's)."""
    af, index, state, _, _ = _NDMSG.unpack_from(body)
    if af not in _FAMILIES:
        return None
    found = attributes(body, _NDMSG.size)
    return Neighbor(
        index,
        _address(found.get(uapi.NDA_DST)),
        state,
        mac=bytes(found.get(uapi.NDA_LLADDR, b"")),
        managed=bool(u32(found.get(uapi.NDA_FLAGS_EXT)) & uapi.NTF_EXT_MANAGED),
        protocol=u8(found.get(uapi.NDA_PROTOCOL)),
    )


@_whole
def nexthop(body: memoryview) -> NextHop | Group:
    af, scope, protocol, flags = _NHMSG.unpack_from(body)
    found = attributes(body, _NHMSG.size)
    id_ = u32(found.get(uapi.NHA_ID))
    members = found.get(uapi.NHA_GROUP)
    if members is not None:
        return _group(id_, protocol, members, found)
    gateway = found.get(uapi.NHA_GATEWAY)
    return NextHop(
        id_,
        _FAMILIES.get(af, Family.IPV4),
        None if gateway is None else _address(gateway),
        u32(found.get(uapi.NHA_OIF)),
        protocol,
        blackhole=uapi.NHA_BLACKHOLE in found,
        scope=scope,
        flags=flags & uapi.RTNH_F_ONLINK,
    )


def _group(id_: int, protocol: int, raw: memoryview, found: dict[int, memoryview]) -> Group:
    count, rest = divmod(len(raw), _MEMBER.size)
    if rest:
        raise Malformed(f"group of {len(raw)} octets")
    words = _words(2 * count).unpack(raw)
    members: tuple[int, ...] = words[::2]
    weights: tuple[int, ...] = ()
    if any(words[1::2]):
        weights = tuple(weight + 1 for _, weight, _ in _MEMBER.iter_unpack(raw))
    table = found.get(uapi.NHA_RES_GROUP)
    if u16(found.get(uapi.NHA_GROUP_TYPE)) != uapi.NEXTHOP_GRP_TYPE_RES or table is None:
        return Group(id_, members, protocol=protocol, weights=weights)
    inner = attributes(table)
    return Group(
        id_,
        members,
        resilient=True,
        buckets=u16(inner.get(uapi.NHA_RES_GROUP_BUCKETS)),
        idle_timer_s=u32(inner.get(uapi.NHA_RES_GROUP_IDLE_TIMER)) / uapi.CLOCK_T_PER_S,
        unbalanced_timer_s=u32(inner.get(uapi.NHA_RES_GROUP_UNBALANCED_TIMER)) / uapi.CLOCK_T_PER_S,
        protocol=protocol,
        weights=weights,
    )


@lru_cache(maxsize=64)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"={count}I")


@_whole
def route(body: memoryview) -> Route | None:
    """None for a route of another family, a cached one, and one of a local table's kind."""
    af, length, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    family = _FAMILIES.get(af)
    if family is None or flags & uapi.RTM_F_CLONED:
        return None
    found = attributes(body, _RTMSG.size)
    destination = found.get(uapi.RTA_DST)
    octets = 0 if destination is None else len(destination)
    if length > family.bits or octets not in (0 if length == 0 else family.octets, family.octets):
        raise Malformed(f"route to /{length} of {family.label} in {octets} octets")
    nexthop_id = found.get(uapi.RTA_NH_ID)
    oif = found.get(uapi.RTA_OIF)
    paths = found.get(uapi.RTA_MULTIPATH)
    return Route(
        family,
        make_nlri(bytes(destination or b""), length),
        u32(found.get(uapi.RTA_TABLE), table),
        u32(found.get(uapi.RTA_PRIORITY)),
        None if nexthop_id is None else u32(nexthop_id),
        _gateway(found),
        None if oif is None else u32(oif),
        kind,
        protocol,
        scope,
        () if paths is None else _hops(paths),
    )


def nexthop_routes(family: Family, bodies: Iterable[memoryview]) -> dict[tuple[Nlri, int], int]:
    """(prefix, metric) to next hop id of the routes that have one, of one family and table.

    A route that was made by next hop id and metric begins with RTA_TABLE, RTA_DST, RTA_PRIORITY
    and RTA_NH_ID, in this order: one unpacking reads it. Any other takes the long way.
    """
    form = struct.Struct(f"=xB6xI HHI HH{family.octets}s HHI HHI")
    heads = (8, uapi.RTA_TABLE, 4 + family.octets, uapi.RTA_DST)
    octets = [(length + 7) // 8 for length in range(family.bits + 1)]
    first = [bytes((length,)) for length in range(family.bits + 1)]
    found = {}
    for body in bodies:
        if len(body) >= form.size:
            (length, flags, l1, t1, _, l2, t2, destination, l3, t3, metric, l4, t4, id_) = (
                form.unpack_from(body)
            )
            if (
                (l1, t1, l2, t2) == heads
                and (l3, t3, l4, t4) == (8, uapi.RTA_PRIORITY, 8, uapi.RTA_NH_ID)
                and length <= family.bits
                and not flags & uapi.RTM_F_CLONED
            ):
                found[first[length] + destination[: octets[length]], metric] = id_
                continue
        other = route(body)
        if other is not None and other.nexthop_id is not None:
            found[other.nlri, other.metric] = other.nexthop_id
    return found


def routes_within(
    family: Family, bodies: Iterable[memoryview], within: Callable[[Nlri], bool]
) -> list[Route]:
    """Those to prefixes that `within` holds. Linux puts RTA_DST right after RTA_TABLE: of all other
    prefixes, a full table maybe, nothing more is looked at."""
    form = struct.Struct(f"=xB10xHHIHH{family.octets}s")
    heads = (8, uapi.RTA_TABLE, 4 + family.octets, uapi.RTA_DST)
    found = []
    for body in bodies:
        if len(body) >= form.size:
            length, l1, t1, _, l2, t2, destination = form.unpack_from(body)
            is_usual = (l1, t1, l2, t2) == heads and length <= family.bits
            if is_usual and not within(make_nlri(destination, length)):
                continue
        one = route(body)
        if one is not None and within(one.nlri):
            found.append(one)
    return found


@_whole
def lookup(body: memoryview) -> Lookup:
    """The answer to RTM_GETROUTE for one destination."""
    kind = _RTMSG.unpack_from(body)[7]
    found = attributes(body, _RTMSG.size)
    nexthop_id = found.get(uapi.RTA_NH_ID)
    return Lookup(
        _gateway(found),
        u32(found.get(uapi.RTA_OIF)),
        None if nexthop_id is None else u32(nexthop_id),
        kind,
    )


_BUCKET = struct.Struct("=8x HHI HH HHHxx HHI HHQ")
_BUCKET_HEADS = (8, uapi.NHA_ID, 32, uapi.NHA_RES_BUCKET | NLA_F_NESTED)


def buckets(bodies: Iterable[memoryview]) -> list[Row]:
    """All buckets of a dump, by group and index; the layout that Linux writes is read at once."""
    rows = []
    for body in bodies:
        if len(body) == _BUCKET.size:
            (l1, t1, group, l2, t2, l3, t3, index, l4, t4, id_, l5, t5, idle) = _BUCKET.unpack(body)
            if (
                (l1, t1, l2, t2) == _BUCKET_HEADS
                and (l3, t3, l4, t4) == (6, uapi.NHA_RES_BUCKET_INDEX, 8, uapi.NHA_RES_BUCKET_NH_ID)
                and (l5, t5) == (12, uapi.NHA_RES_BUCKET_IDLE_TIME)
            ):
                rows.append((group, index, id_, idle / uapi.CLOCK_T_PER_S))
                continue
        rows.append(_bucket(body))
    rows.sort()
    return rows


@_whole
def _bucket(body: memoryview) -> Row:
    found = attributes(body, _NHMSG.size)
    inner = attributes(found.get(uapi.NHA_RES_BUCKET, memoryview(b"")))
    return (
        u32(found.get(uapi.NHA_ID)),
        u16(inner.get(uapi.NHA_RES_BUCKET_INDEX)),
        u32(inner.get(uapi.NHA_RES_BUCKET_NH_ID)),
        u64(inner.get(uapi.NHA_RES_BUCKET_IDLE_TIME)) / uapi.CLOCK_T_PER_S,
    )


def _gateway(found: dict[int, memoryview]) -> Address | None:
    direct = found.get(uapi.RTA_GATEWAY)
    if direct is not None:
        return _address(direct)
    via = found.get(uapi.RTA_VIA)
    return None if via is None else _address(via[2:])


def _hops(raw: memoryview) -> tuple[Hop, ...]:
    hops = []
    at, end = 0, len(raw)
    while end - at >= _RTNEXTHOP.size:
        length, _, weight, oif = _RTNEXTHOP.unpack_from(raw, at)
        if not _RTNEXTHOP.size <= length <= end - at:
            raise Malformed(f"next hop of {length} octets in {end - at}")
        found = attributes(raw[at : at + length], _RTNEXTHOP.size)
        hops.append(Hop(_gateway(found), oif, weight + 1))
        at += length + 3 & ~3
    return tuple(hops)


def _address(payload: memoryview | None) -> Address:
    if payload is None or len(payload) not in (4, 16):
        raise Malformed("an address of neither 4 nor 16 octets")
    return bytes(payload)
