"""Service IPs on `lo`, so that a node accepts what is sent to them.

Each is a /32 or /128, marked as ours by IFA_PROTO (Linux 5.18); only addresses so marked are ever
deleted, and only once all sources are in sync. None is ever the source of what the node itself
sends: a pod's link has no address on the node's side, so for an ICMP error to a pod, or a probe of
it, the kernel would take the first address that it finds, and `lo` comes first. An address that
somebody else has put on `lo` serves as well and is left alone. Called by the agent; the kernel is
read anew at each pass, since a link that goes down may take addresses with it.
"""

from __future__ import annotations

from collections.abc import Collection

from samepath.model import ours
from samepath.model.net import Address
from samepath.netlink.kernel import Kernel
from samepath.netlink.ops import DeleteAddress, Op, PutAddress

LOOPBACK = "lo"


class ServiceAddresses:
    """Brings the addresses of `lo` to what is wanted."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.in_sync = False
        self.installed: frozenset[Address] = frozenset()
        """Wanted addresses that stand, as of the last pass."""
        self.errors: dict[Address, str] = {}
        """Why a wanted address does not stand, or one that is not wanted still does."""

    def reconcile(self, wanted: Collection[Address]) -> bool:
        """One pass. True if all is as wanted; else it is to be called again."""
        index = next(link.index for link in self.kernel.links() if link.name == LOOPBACK)
        there = {a.address: a for a in self.kernel.addresses() if a.index == index}
        mine = {a for a, item in there.items() if item.protocol == ours.PROTOCOL}
        ops: list[Op] = [
            PutAddress(index, address, len(address) * 8, is_source=False)
            for address in wanted
            if address not in there
        ]
        if self.in_sync:
            ops += [
                DeleteAddress(index, address, there[address].prefix_length)
                for address in mine.difference(wanted)
            ]
        self.errors = {}
        for op, error in zip(ops, self.kernel.apply(ops), strict=True):
            if error is not None:
                assert isinstance(op, PutAddress | DeleteAddress)
                self.errors[op.address] = error.text
        self.installed = frozenset(address for address in wanted if address not in self.errors)
        return not self.errors
