"""Service IPs on `lo`, so that a node accepts what is sent to them.

Each is a /32 or /128, marked as ours by IFA_PROTO (Linux 5.18); only addresses so marked are ever
deleted, and only once all sources are in sync. None is ever the source of what the node itself
sends: a pod's link has no address on the node's side, so for an ICMP error to a pod, or a probe of
it, the kernel would take the first address that it finds, and `lo` comes first. An address that
somebody else has put on `lo` serves as well and is left alone. Called by the agent, who says when
the kernel is to be read anew (`read_again`): whenever there is news of it, since a link that goes
down may take addresses with it, and now and then without.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

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
        self._index = 0
        """Of `lo`."""
        self._there: dict[Address, tuple[int, int]] | None = None
        """Prefix length and protocol of each address of `lo`, as last read, and what we have done
        since; None: not known."""
        self._settled_for: Collection[Address] | None = None
        """All was as wanted; None: it was not, or we do not know."""

    def read_again(self) -> None:
        """Somebody else may have changed them."""
        self._there = self._settled_for = None

    def reconcile(self, wanted: Collection[Address]) -> bool:
        """One pass. True if all is as wanted; else it is to be called again."""
        for _ in self.work(wanted):
            pass
        return not self.errors

    def work(self, wanted: Collection[Address]) -> Iterator[int]:
        """The pass in small steps; `errors` says at the end whether all is as wanted."""
        if self._settled_for is wanted:
            return
        there = self._read() if self._there is None else self._there
        ops: list[Op] = [
            PutAddress(self._index, address, len(address) * 8, is_source=False)
            for address in wanted
            if address not in there
        ]
        if self.in_sync:
            mine = {a for a, (_, protocol) in there.items() if protocol == ours.PROTOCOL}
            ops += [
                DeleteAddress(self._index, address, there[address][0])
                for address in mine.difference(wanted)
            ]
        results = yield from self.kernel.apply_steps(ops)
        errors: dict[Address, str] = {}
        for op, error in zip(ops, results, strict=True):
            assert isinstance(op, PutAddress | DeleteAddress)
            if error is not None:
                errors[op.address] = error.text
            elif isinstance(op, PutAddress):
                there[op.address] = op.prefix_length, op.protocol
            else:
                del there[op.address]
        if errors:
            self._there = None
        self.errors = errors
        self.installed = frozenset(wanted) - errors.keys()
        is_settled = self.in_sync and self._there is not None
        self._settled_for = wanted if is_settled and isinstance(wanted, frozenset) else None

    def _read(self) -> dict[Address, tuple[int, int]]:
        self._index = next(link.index for link in self.kernel.links() if link.name == LOOPBACK)
        self._there = {
            item.address: (item.prefix_length, item.protocol)
            for item in self.kernel.addresses()
            if item.index == self._index
        }
        return self._there
