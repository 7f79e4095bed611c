"""The netlink socket: requests, dumps, and batches of writes, in any network namespace.

Called by `kernel` alone. Blocking in form, but never for long: rtnetlink does its work within
`sendmsg`, so that an answer is there when `send` returns; a receive that waits for more than
`TIMEOUT_S` is an error. One socket belongs to one thread at a time.

A namespace at a path is entered by setns(2) in a thread that ends at once; one that a descriptor
stands for, by the calling thread itself, which comes back. A socket stays in the namespace in which
it was made.

Standards: RFC 3549; netlink(7); setns(2).
"""

from __future__ import annotations

import ctypes
import os
import socket as _socket
import threading
from collections.abc import Callable
from errno import EINTR, EMSGSIZE, ENOBUFS
from pathlib import Path
from typing import TypeVar

from samepath.netlink import uapi
from samepath.netlink.codec import HEADER_SIZE, S32, attributes, message, messages, text

TIMEOUT_S = 30.0
RECEIVE_OCTETS = 8 * 1024 * 1024
SEND_OCTETS = 1024 * 1024
DATAGRAM_OCTETS = 256 * 1024
"""Room for one receive. The kernel fills at most 32 KiB, or one message if that is larger."""
SMALL_DATAGRAM_OCTETS = 32 * 1024
"""Where no message is large: a pod's namespace. The room for more costs 0.1 ms to lay out."""
DUMP_ATTEMPTS = 10

_CLONE_NEWNET = 0x40000000
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


class NetlinkError(OSError):
    """The kernel refused a request; `strerror` is its own text where it gave one."""


class Interrupted(NetlinkError):
    """What was being dumped changed under the dump."""


class Overrun(NetlinkError):
    """Answers were lost (ENOBUFS): what was asked must be asked again."""


Netns = Path | int | None
"""A network namespace: at a path, by a descriptor, or the present one."""


def in_namespace(netns: Netns, work: Callable[[], _T]) -> _T:
    """`work()`, done within the network namespace."""
    if netns is None:
        return work()
    if isinstance(netns, int):
        return _there_and_back(netns, work)
    return _in_a_thread(netns, work)


def _in_a_thread(path: Path, work: Callable[[], _T]) -> _T:
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _enter(path)
            results.append(work())
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)

    thread = threading.Thread(target=run, name="setns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor, str(path))
    finally:
        os.close(descriptor)


def _there_and_back(descriptor: int, work: Callable[[], _T]) -> _T:
    """Without a thread of its own: a fifth of the time."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor, f"descriptor {descriptor}")
        try:
            return work()
        finally:
            try:
                _setns(home, "the way back")
            except OSError:
                # A thread of ours that is in a pod's namespace must not do another thing.
                os.abort()
    finally:
        os.close(home)


def _setns(descriptor: int, what: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def open_socket(netns: Netns, *, blocking: bool = True) -> _socket.socket:
    """A bound NETLINK_ROUTE socket in the namespace, with large buffers."""
    sock = in_namespace(
        netns,
        lambda: _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, uapi.NETLINK_ROUTE
        ),
    )
    for force, plain, size in (
        (_SO_RCVBUFFORCE, _socket.SO_RCVBUF, RECEIVE_OCTETS),
        (_SO_SNDBUFFORCE, _socket.SO_SNDBUF, SEND_OCTETS),
    ):
        try:
            sock.setsockopt(_socket.SOL_SOCKET, force, size)
        except PermissionError:  # without CAP_NET_ADMIN of the machine: up to net.core.*mem_max
            sock.setsockopt(_socket.SOL_SOCKET, plain, size)
    sock.bind((0, 0))
    if blocking:
        sock.settimeout(TIMEOUT_S)
    else:
        sock.setblocking(False)
    return sock


Answer = tuple[int, int, str]
"""(sequence, errno, the kernel's text) of an NLMSG_ERROR; errno 0 is an acknowledgement."""


class Socket:
    """Requests and their answers. Answers to older requests that failed midway are skipped."""

    def __init__(self, netns: Netns = None, *, datagram_octets: int = DATAGRAM_OCTETS) -> None:
        self._socket = open_socket(netns)
        for option in (uapi.NETLINK_CAP_ACK, uapi.NETLINK_EXT_ACK, uapi.NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(uapi.SOL_NETLINK, option, 1)
        self.port: int = self._socket.getsockname()[0]
        self._sequence = 0
        self._buffer = bytearray(datagram_octets)

    def close(self) -> None:
        self._socket.close()

    def next_sequence(self, count: int = 1) -> int:
        """The first of `count` sequence numbers that are now taken; none is ever 0."""
        if self._sequence + count > 0xFFFFFFFF:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def request(self, type_: int, body: bytes, flags: int = 0) -> list[memoryview]:
        """The bodies of the answers to one request that is no dump. Raises NetlinkError."""
        sequence = self.next_sequence()
        flags |= uapi.NLM_F_REQUEST | uapi.NLM_F_ACK
        self._socket.send(message(type_, flags, sequence, body))
        bodies: list[memoryview] = []
        while True:
            for kind, flag, number, answer in messages(memoryview(self._receive())):
                if number != sequence:
                    continue
                if kind != uapi.NLMSG_ERROR:
                    bodies.append(answer)
                    continue
                errno, said = error_of(answer, flag)
                if errno:
                    raise NetlinkError(errno, said)
                return bodies

    def dump(self, type_: int, body: bytes) -> list[memoryview]:
        """The bodies of a whole dump. Repeated when it was interrupted. Raises NetlinkError."""
        for _ in range(DUMP_ATTEMPTS):
            try:
                return self._dump_once(type_, body)
            except Interrupted as error:
                last = error
        raise last

    def _dump_once(self, type_: int, body: bytes) -> list[memoryview]:
        sequence = self.next_sequence()
        self._socket.send(message(type_, uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP, sequence, body))
        bodies: list[memoryview] = []
        flags = 0
        while True:
            try:
                data = self._receive()
            except Overrun:  # the rest still comes, and must be taken before the next dump
                flags |= uapi.NLM_F_DUMP_INTR
                continue
            for kind, flag, number, answer in messages(memoryview(data)):
                if number != sequence:
                    continue
                flags |= flag
                if kind not in (uapi.NLMSG_DONE, uapi.NLMSG_ERROR):
                    bodies.append(answer)
                    continue
                errno, said = error_of(answer, flag)
                if errno:
                    raise NetlinkError(errno, said)
                if flags & uapi.NLM_F_DUMP_INTR:
                    raise Interrupted(EINTR, "it changed while it was read")
                return bodies

    def transact(self, data: bytes | bytearray, last: int) -> list[Answer]:
        """Sends a batch whose message `last` asks for an acknowledgement, and collects every
        error up to that. Raises Overrun when answers were lost, or the batch was too large."""
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno in (ENOBUFS, EMSGSIZE):
                raise Overrun(error.errno, os.strerror(error.errno)) from error
            raise
        failures: list[Answer] = []
        while True:
            for kind, flag, number, answer in messages(memoryview(self._receive())):
                if kind != uapi.NLMSG_ERROR:
                    continue
                errno, said = error_of(answer, flag)
                if errno:
                    failures.append((number, errno, said))
                if number == last:
                    return failures

    def _receive(self) -> bytes:
        """One datagram. Raises Overrun, TimeoutError."""
        try:
            size = self._socket.recv_into(self._buffer, 0, _socket.MSG_TRUNC)
        except OSError as error:
            if error.errno == ENOBUFS:
                raise Overrun(ENOBUFS, "answers of the kernel were lost") from error
            raise
        return bytes(memoryview(self._buffer)[:size])


def error_of(body: memoryview, flags: int) -> tuple[int, str]:
    """(errno, text) of the body of an NLMSG_ERROR or NLMSG_DONE; (0, "") if all is well."""
    if len(body) < S32.size:
        return 0, ""
    number = -S32.unpack_from(body)[0]
    if not number:
        return 0, ""
    # nlmsgerr: the number, and the header of the request that failed (NETLINK_CAP_ACK). After
    # NLMSG_DONE there is no header.
    said = ""
    if flags & uapi.NLM_F_ACK_TLVS:
        at = S32.size + (HEADER_SIZE if flags & uapi.NLM_F_CAPPED else 0)
        said = text(attributes(body, at).get(uapi.NLMSGERR_ATTR_MSG))
    return number, said or os.strerror(number)
