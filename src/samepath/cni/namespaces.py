"""Network namespaces that somebody hands to us as a descriptor.

The shim opens the pod's namespace and sends the descriptor, so that no path has to mean the same to
the runtime and to us, and the namespace stays while we work in it, whatever becomes of its name.
`check` is asked before anything else: a descriptor may be of any file, and a pod whose namespace is
the node's own must not be wired: its default route would become the node's.

Called by `cni.wiring` and `cni.operations`. Entering a namespace is `netlink.socket.in_namespace`.

Standards: ioctl_ns(2), namespaces(7).
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from samepath.netlink.kernel import Kernel, RealKernel
from samepath.netlink.socket import SMALL_DATAGRAM_OCTETS, in_namespace

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"

OpenKernel = Callable[[int], Kernel]
"""A pod's kernel, by the descriptor of its namespace; the caller closes it."""


class Fault(enum.Enum):
    """Why a descriptor does not stand for a pod's network namespace."""

    NONE = ""
    NOT_A_NAMESPACE = "it is no network namespace"
    THE_NODES_OWN = "it is the node's own network namespace"

    __hash__ = object.__hash__


def check(descriptor: int) -> Fault:
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        return Fault.NOT_A_NAMESPACE
    if kind != _CLONE_NEWNET:
        return Fault.NOT_A_NAMESPACE
    theirs, ours = os.fstat(descriptor), os.stat(_OWN)
    same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return Fault.THE_NODES_OWN if same else Fault.NONE


def open_kernel(descriptor: int) -> RealKernel:
    """Raises OSError if the namespace cannot be entered."""
    return RealKernel(descriptor, datagram_octets=SMALL_DATAGRAM_OCTETS)


def write_setting(descriptor: int | None, path: str, value: str) -> None:
    """A line of /proc/sys in the namespace, or in ours. Raises OSError."""
    in_namespace(descriptor, lambda: _write(Path("/proc/sys") / path, value))


def _write(path: Path, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
