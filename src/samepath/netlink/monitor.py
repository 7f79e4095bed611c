"""Wake-ups: something changed in the kernel, so read again.

What changed is not told beyond its kind, on purpose: the kernel notifies of some deletions and
not of others (a link that goes down takes its next hops, groups and IPv4 routes silently), so
nobody may keep a mirror by patching it. Made by `Kernel.monitor()`; an event loop watches
`fileno()` and calls `drain()`.

Standards: rtnetlink(7), packet filters as in bpf(4).
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterable
from errno import EAGAIN, ENOBUFS
from typing import Protocol

from samepath.netlink import uapi
from samepath.netlink.codec import HEADER, HEADER_SIZE, attributes
from samepath.netlink.socket import Netns, open_socket

OVERFLOW = "overflow"
"""Notifications were lost; every kind may have changed."""

KINDS = {
    uapi.RTM_NEWLINK: "link",
    uapi.RTM_DELLINK: "link",
    uapi.RTM_NEWADDR: "address",
    uapi.RTM_DELADDR: "address",
    uapi.RTM_NEWROUTE: "route",
    uapi.RTM_DELROUTE: "route",
    uapi.RTM_NEWNEXTHOP: "nexthop",
    uapi.RTM_DELNEXTHOP: "nexthop",
    uapi.RTM_NEWNEIGH: "neighbor",
    uapi.RTM_DELNEIGH: "neighbor",
}
"""Bucket notifications share the group of next hops and are no kind: timers move buckets."""

_GROUPS = (
    uapi.RTNLGRP_LINK,
    uapi.RTNLGRP_IPV4_IFADDR,
    uapi.RTNLGRP_IPV6_IFADDR,
    uapi.RTNLGRP_NEXTHOP,
)
_ROUTE_GROUPS = (uapi.RTNLGRP_IPV4_ROUTE, uapi.RTNLGRP_IPV6_ROUTE)
_SO_ATTACH_FILTER = 26
_INDEX = struct.Struct("=4xi")
_IFINFOMSG_OCTETS = 16
_SOCK_FILTER = struct.Struct("=HBBI")
_DATAGRAM_OCTETS = 64 * 1024
_DRAIN_DATAGRAMS = 4096
"""At most so many in one `drain`; what is left wakes the caller again."""


class Monitor(Protocol):
    def fileno(self) -> int:
        """Readable when there is something to drain."""
        ...

    def drain(self) -> set[str]:
        """The kinds (`link`, `address`, `nexthop`, `route`, `neighbor`, `overflow`) that changed
        since."""
        ...

    def close(self) -> None: ...


class RealMonitor:
    """A socket of its own, joined to the kernel's multicast groups."""

    def __init__(
        self,
        netns: Netns = None,
        *,
        ignore_port: int = 0,
        routes: bool = False,
        neighbors: bool = False,
        ignore_links: str = "",
        ignored: Iterable[int] = (),
    ) -> None:
        """`ignore_port` is the netlink port of the one whose changes are no news: the writer.
        Links whose names begin with `ignore_links` are no news either, nor are their addresses;
        `ignored` are those that are there."""
        self._ignore_links = ignore_links.encode()
        self._ignored = set(ignored)
        self._socket = open_socket(netns, blocking=False)
        if ignore_port:
            _leave_out(self._socket, ignore_port)
        more = _ROUTE_GROUPS if routes else ()
        for group in (*_GROUPS, *more, *((uapi.RTNLGRP_NEIGH,) if neighbors else ())):
            self._socket.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> set[str]:
        kinds: set[str] = set()
        for _ in range(_DRAIN_DATAGRAMS):
            try:
                data = self._socket.recv(_DATAGRAM_OCTETS)
            except OSError as error:
                if error.errno == ENOBUFS:
                    kinds.add(OVERFLOW)
                    continue
                if error.errno != EAGAIN:
                    raise
                break
            if len(data) < HEADER_SIZE:
                continue
            # The kernel sends one message a notification.
            type_ = HEADER.unpack_from(data)[1]
            if type_ in KINDS and not (self._ignore_links and self._is_ignored(type_, data)):
                kinds.add(KINDS[type_])
        return kinds

    def _is_ignored(self, type_: int, data: bytes) -> bool:
        if KINDS[type_] not in ("link", "address"):
            return False
        # ifinfomsg and ifaddrmsg have the index at the same place.
        index: int = _INDEX.unpack_from(data, HEADER_SIZE)[0]
        if KINDS[type_] == "link":
            name = attributes(memoryview(data), HEADER_SIZE + _IFINFOMSG_OCTETS).get(
                uapi.IFLA_IFNAME
            )
            if name is not None and bytes(name).startswith(self._ignore_links):
                # The last word of a link comes after the last one of its addresses.
                if type_ == uapi.RTM_DELLINK:
                    self._ignored.discard(index)
                else:
                    self._ignored.add(index)
                return True
        return index in self._ignored


def _leave_out(sock: socket.socket, port: int) -> None:
    """A socket filter (classic BPF) that drops what `port` itself caused, in the kernel: 100,000
    routes of our own neither wake us nor overrun the buffer."""
    # BPF loads words in network order; nlmsg_pid, at offset 12, is in the host's.
    swapped = int.from_bytes(port.to_bytes(4, sys.byteorder), "big")
    program = b"".join(
        _SOCK_FILTER.pack(*instruction)
        for instruction in (
            (0x20, 0, 0, 12),  # load the word at 12
            (0x15, 0, 1, swapped),  # equal: next; else: skip one
            (0x06, 0, 0, 0),  # drop
            (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
        )
    )
    octets = ctypes.create_string_buffer(program)
    count = len(program) // _SOCK_FILTER.size
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(octets))
    )
