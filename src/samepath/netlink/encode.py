"""Writes as messages: each op of `ops` to the octets that rtnetlink wants.

Pure. `encode` makes one message of an op; `encode_routes` makes many of a bulk op, with one
precompiled packer for the whole message, since routes come by the hundred thousand. `fill` cuts a
sequence of ops into batches that fit one send, and a batch can say which op, and which row of a
bulk op, a failed sequence number belongs to.

Standards: rtnetlink(7); <linux/rtnetlink.h>, <linux/nexthop.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from samepath.model.net import Address, Nlri, family_of
from samepath.netlink import uapi
from samepath.netlink.codec import (
    U16,
    attribute,
    attribute_u8,
    attribute_u16,
    attribute_u32,
    message,
    nested,
)
from samepath.netlink.objects import Group, Hop, Neighbor, NextHop, Route
from samepath.netlink.ops import (
    Bulk,
    CreateVeth,
    DeleteAddress,
    DeleteLink,
    DeleteNeighbor,
    DeleteNextHop,
    DeleteRoute,
    DeleteRoutes,
    Op,
    PutAddress,
    PutGroup,
    PutNeighbor,
    PutNextHop,
    PutRoute,
    PutRoutes,
    SetLink,
)

BATCH_MESSAGES = 512
BATCH_OCTETS = 64 * 1024
"""A batch ends when it has so many; the kernel works on one for a few milliseconds, or 30 with the
largest groups."""

_NHMSG = struct.Struct("=BBBxI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_IFA_CACHEINFO = struct.Struct("=IIII")
"""Preferred and valid lifetime, in seconds; the times of making and of change are the kernel's."""
_NDMSG = struct.Struct("=B3xiHBB")
_RTNEXTHOP = struct.Struct("=HBBi")
_MEMBER = struct.Struct("=IBBxx")

_PUT = uapi.NLM_F_REQUEST | uapi.NLM_F_CREATE | uapi.NLM_F_REPLACE
_EXCLUSIVE = uapi.NLM_F_REQUEST | uapi.NLM_F_CREATE | uapi.NLM_F_EXCL


def encode(op: Op, sequence: int) -> bytes:
    """The one message of an op that is not bulk."""
    match op:
        case PutNextHop(nexthop):
            return message(uapi.RTM_NEWNEXTHOP, _PUT, sequence, _nexthop(nexthop))
        case PutGroup(group):
            return message(uapi.RTM_NEWNEXTHOP, _PUT, sequence, _group(group))
        case DeleteNextHop(id_):
            body = _NHMSG.pack(uapi.AF_UNSPEC, 0, 0, 0) + attribute_u32(uapi.NHA_ID, id_)
            return message(uapi.RTM_DELNEXTHOP, uapi.NLM_F_REQUEST, sequence, body)
        case PutRoute(route, exclusive):
            flags = _EXCLUSIVE if exclusive else _PUT
            return message(uapi.RTM_NEWROUTE, flags, sequence, _route(route, route.scope))
        case DeleteRoute(route):
            body = _route(route, uapi.RT_SCOPE_NOWHERE)
            return message(uapi.RTM_DELROUTE, uapi.NLM_F_REQUEST, sequence, body)
        case PutAddress():
            return message(uapi.RTM_NEWADDR, _PUT, sequence, _put_address(op))
        case DeleteAddress(index, address, length):
            body = _IFADDRMSG.pack(family_of(address).af, length, 0, 0, index)
            body += attribute(uapi.IFA_LOCAL, address)
            return message(uapi.RTM_DELADDR, uapi.NLM_F_REQUEST, sequence, body)
        case PutNeighbor(neighbor):
            return message(uapi.RTM_NEWNEIGH, _PUT, sequence, _neighbor(neighbor))
        case DeleteNeighbor(index, address):
            body = _NDMSG.pack(family_of(address).af, index, 0, 0, 0)
            body += attribute(uapi.NDA_DST, address)
            return message(uapi.RTM_DELNEIGH, uapi.NLM_F_REQUEST, sequence, body)
        case CreateVeth():
            return message(uapi.RTM_NEWLINK, _EXCLUSIVE, sequence, _veth(op))
        case SetLink():
            return message(uapi.RTM_SETLINK, uapi.NLM_F_REQUEST, sequence, _set_link(op))
        case DeleteLink(index):
            body = _IFINFOMSG.pack(0, 0, index, 0, 0)
            return message(uapi.RTM_DELLINK, uapi.NLM_F_REQUEST, sequence, body)
        case PutRoutes() | DeleteRoutes():
            raise AssertionError("bulk ops are for encode_routes")


def encode_routes(op: Bulk, nlris: Sequence[Nlri], sequence: int) -> bytes:
    """One message for each of `nlris` (a slice of the op's), numbered from `sequence` on."""
    if isinstance(op, PutRoutes):
        type_, flags = uapi.RTM_NEWROUTE, _EXCLUSIVE if op.exclusive else _PUT
        scope, kind = uapi.RT_SCOPE_UNIVERSE, uapi.RTN_UNICAST
        tail = attribute_u32(uapi.RTA_NH_ID, op.nexthop_id)
    else:
        type_, flags = uapi.RTM_DELROUTE, uapi.NLM_F_REQUEST
        scope, kind, tail = uapi.RT_SCOPE_NOWHERE, 0, b""
    tail += attribute_u32(uapi.RTA_PRIORITY, op.metric)
    table = op.table if op.table < 256 else 0
    if not table:
        tail += attribute_u32(uapi.RTA_TABLE, op.table)
    family = op.family
    # nlmsghdr, rtmsg, RTA_DST; "s" pads a short prefix with zeros, which is what is wanted.
    packer = struct.Struct(f"=IHHII BBBBBBBBI HH{family.octets}s {len(tail)}s")
    size = packer.size
    af, octets, protocol = family.af, 4 + family.octets, op.protocol
    pack = packer.pack
    # fmt: off
    return b"".join([
        pack(size, type_, flags, number, 0,
             af, nlri[0], 0, 0, table, protocol, scope, kind, 0,
             octets, uapi.RTA_DST, nlri[1:], tail)
        for number, nlri in enumerate(nlris, sequence)
    ])
    # fmt: on


@dataclass(slots=True)
class Batch:
    """Messages for one send, numbered from `first` on."""

    first: int
    data: bytearray
    count: int
    origins: list[tuple[int, int, int]]
    """(first offset in the batch, index of the op, first row of a bulk op), ascending."""
    end: tuple[int, int]
    """Where the next batch begins: index of the op, row."""
    last_size: int = 0
    """Octets of the last message."""

    def origin(self, sequence: int) -> tuple[int, int]:
        """The op's index and row of a sequence number. Raises KeyError if it is not ours."""
        offset = sequence - self.first
        if not 0 <= offset < self.count:
            raise KeyError(sequence)
        start, op, row = next(o for o in reversed(self.origins) if o[0] <= offset)
        return op, row + offset - start

    def ask_for_ack(self) -> None:
        """NLM_F_ACK on the last message: its answer says that all before are done."""
        at = len(self.data) - self.last_size
        flags = U16.unpack_from(self.data, at + 6)[0] | uapi.NLM_F_ACK
        U16.pack_into(self.data, at + 6, flags)


def fill(
    ops: Sequence[Op], start: tuple[int, int], sequence: int, limit: int = BATCH_MESSAGES
) -> Batch:
    """The next batch of at most `limit` messages, from (op, row) `start` on."""
    batch = Batch(sequence, bytearray(), 0, [], start)
    index, row = start
    while index < len(ops) and batch.count < limit and len(batch.data) < BATCH_OCTETS:
        op = ops[index]
        if isinstance(op, Bulk):
            rows = op.nlris[row : row + limit - batch.count]
            data, count = encode_routes(op, rows, sequence + batch.count), len(rows)
        else:
            data, count = encode(op, sequence + batch.count), 1
        if count:
            batch.origins.append((batch.count, index, row))
            batch.last_size = len(data) // count
            batch.data += data
            batch.count += count
        row += count
        if not isinstance(op, Bulk) or row >= len(op.nlris):
            index, row = index + 1, 0
    batch.end = (index, row)
    if batch.count:
        batch.ask_for_ack()
    return batch


@lru_cache(maxsize=64)
def _members_packer(count: int) -> struct.Struct:
    """nexthop_grp x count with weight 1: the id, and four zero octets."""
    return struct.Struct("=" + "I4x" * count)


def _nexthop(nexthop: NextHop) -> bytes:
    body = _NHMSG.pack(nexthop.family.af, 0, nexthop.protocol, nexthop.flags)
    body += attribute_u32(uapi.NHA_ID, nexthop.id)
    if nexthop.blackhole:
        return body + attribute(uapi.NHA_BLACKHOLE, b"")
    body += attribute_u32(uapi.NHA_OIF, nexthop.oif)
    if nexthop.gateway is not None:
        body += attribute(uapi.NHA_GATEWAY, nexthop.gateway)
    return body


def _group(group: Group) -> bytes:
    if group.weights:
        members = b"".join(
            _MEMBER.pack(member, weight - 1, 0)
            for member, weight in zip(group.members, group.weights, strict=True)
        )
    else:
        members = _members_packer(len(group.members)).pack(*group.members)
    kind = uapi.NEXTHOP_GRP_TYPE_RES if group.resilient else uapi.NEXTHOP_GRP_TYPE_MPATH
    body = (
        _NHMSG.pack(uapi.AF_UNSPEC, 0, group.protocol, 0)
        + attribute_u32(uapi.NHA_ID, group.id)
        + attribute(uapi.NHA_GROUP, members)
        + attribute_u16(uapi.NHA_GROUP_TYPE, kind)
    )
    if not group.resilient:
        return body
    return body + nested(
        uapi.NHA_RES_GROUP,
        attribute_u16(uapi.NHA_RES_GROUP_BUCKETS, group.buckets),
        attribute_u32(uapi.NHA_RES_GROUP_IDLE_TIMER, _clock_t(group.idle_timer_s)),
        attribute_u32(uapi.NHA_RES_GROUP_UNBALANCED_TIMER, _clock_t(group.unbalanced_timer_s)),
    )


def _clock_t(seconds: float) -> int:
    return round(seconds * uapi.CLOCK_T_PER_S)


def _route(route: Route, scope: int) -> bytes:
    table = route.table if route.table < 256 else 0
    # A route by a blackhole next hop reads as a blackhole, and was made as unicast.
    kind = uapi.RTN_UNICAST if route.nexthop_id is not None else route.type
    body = _RTMSG.pack(route.family.af, route.nlri[0], 0, 0, table, route.protocol, scope, kind, 0)
    body += attribute(uapi.RTA_DST, route.nlri[1:].ljust(route.family.octets, b"\0"))
    if not table:
        body += attribute_u32(uapi.RTA_TABLE, route.table)
    if route.metric:
        body += attribute_u32(uapi.RTA_PRIORITY, route.metric)
    if route.nexthop_id is not None:
        return body + attribute_u32(uapi.RTA_NH_ID, route.nexthop_id)
    if route.multipath:
        hops = b"".join(_hop(hop, route) for hop in route.multipath)
        return body + attribute(uapi.RTA_MULTIPATH, hops)
    if route.gateway is not None:
        body += _gateway(route.gateway, route)
    if route.oif is not None:
        body += attribute_u32(uapi.RTA_OIF, route.oif)
    return body


def _hop(hop: Hop, route: Route) -> bytes:
    gateway = b"" if hop.gateway is None else _gateway(hop.gateway, route)
    return _RTNEXTHOP.pack(_RTNEXTHOP.size + len(gateway), 0, hop.weight - 1, hop.oif) + gateway


def _gateway(gateway: Address, route: Route) -> bytes:
    """RTA_VIA when the gateway is of the other family (RFC 8950), RTA_GATEWAY otherwise."""
    family = family_of(gateway)
    if family is route.family:
        return attribute(uapi.RTA_GATEWAY, gateway)
    return attribute(uapi.RTA_VIA, U16.pack(family.af) + gateway)


def _put_address(op: PutAddress) -> bytes:
    family = family_of(op.address)
    scope = uapi.RT_SCOPE_UNIVERSE if op.is_source else uapi.RT_SCOPE_HOST
    body = _IFADDRMSG.pack(family.af, op.prefix_length, 0, scope, op.index)
    body += attribute(uapi.IFA_LOCAL, op.address) + attribute(uapi.IFA_ADDRESS, op.address)
    if family.af == uapi.AF_INET6:
        if not op.is_source:
            body += attribute(uapi.IFA_CACHEINFO, _IFA_CACHEINFO.pack(0, uapi.FOREVER, 0, 0))
        # Usable at once: nobody else on `lo` or on a router's link could hold it.
        body += attribute_u32(uapi.IFA_FLAGS, uapi.IFA_F_NODAD)
    return body + attribute_u8(uapi.IFA_PROTO, op.protocol)


def _neighbor(neighbor: Neighbor) -> bytes:
    # A managed one is to be asked for now, which kernels before 5.16 do for NTF_USE.
    flags = uapi.NTF_USE if neighbor.managed else 0
    body = _NDMSG.pack(family_of(neighbor.address).af, neighbor.index, neighbor.state, flags, 0)
    body += attribute(uapi.NDA_DST, neighbor.address)
    if neighbor.mac:
        body += attribute(uapi.NDA_LLADDR, neighbor.mac)
    if neighbor.managed:
        body += attribute_u32(uapi.NDA_FLAGS_EXT, uapi.NTF_EXT_MANAGED)
    if neighbor.protocol:
        body += attribute_u8(uapi.NDA_PROTOCOL, neighbor.protocol)
    return body


_ONE_QUEUE = attribute_u32(uapi.IFLA_NUM_TX_QUEUES, 1) + attribute_u32(uapi.IFLA_NUM_RX_QUEUES, 1)
"""A veth uses one queue unless told otherwise, but has room for one a processor."""


def _veth(op: CreateVeth) -> bytes:
    peer = _link(op.peer_name, op.mtu, op.peer_mac)
    peer += attribute_u32(uapi.IFLA_NET_NS_FD, op.peer_namespace)
    return _link(op.name, op.mtu, op.mac) + nested(
        uapi.IFLA_LINKINFO,
        attribute(uapi.IFLA_INFO_KIND, b"veth"),
        nested(uapi.IFLA_INFO_DATA, attribute(uapi.VETH_INFO_PEER, peer)),
    )


def _link(name: str, mtu: int, mac: bytes) -> bytes:
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(uapi.IFLA_IFNAME, link_name(name))
    return body + attribute_u32(uapi.IFLA_MTU, mtu) + attribute(uapi.IFLA_ADDRESS, mac) + _ONE_QUEUE


def link_name(name: str) -> bytes:
    """With its zero octet, as the kernel wants it."""
    return name.encode() + b"\0"


def _set_link(op: SetLink) -> bytes:
    index, change = 0, 0
    body = b""
    if isinstance(op.link, int):
        index = op.link
        if op.name is not None:
            body += attribute(uapi.IFLA_IFNAME, link_name(op.name))
    else:
        assert op.name is None, "a link is renamed by its index"
        body += attribute(uapi.IFLA_IFNAME, link_name(op.link))
    if op.up is not None:
        change = uapi.IFF_UP
    if op.mtu is not None:
        body += attribute_u32(uapi.IFLA_MTU, op.mtu)
    if op.mac is not None:
        body += attribute(uapi.IFLA_ADDRESS, op.mac)
    if op.alias is not None:
        body += attribute(uapi.IFLA_IFALIAS, op.alias.encode())
    if op.link_local is not None:
        mode = attribute_u8(uapi.IFLA_INET6_ADDR_GEN_MODE, int(not op.link_local))
        body += nested(uapi.IFLA_AF_SPEC, nested(uapi.AF_INET6, mode))
    return _IFINFOMSG.pack(0, 0, index, uapi.IFF_UP if op.up else 0, change) + body
