"""What nobody will ask to remove: GC's part, and what a killed agent has left.

A record without a link, a link without a record, an ADD that never ended, a route that is not where
its attachment is. What carries a living pod's traffic is never removed for want of a record: it is
taken into the store; and should that fail, its addresses are set aside.

Called by `cni.operations` (GC) and `programs.pods` (start, and after changes in the kernel). An
attachment that is being worked at is left alone: its turn is taken, or it is passed over.

Standards: CNI 1.1.0, "GC".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from samepath.cni.addresses import Addresses
from samepath.cni.attachment import Attachment, Key, State, network_of_alias
from samepath.cni.audit import PodLink, attachment_of
from samepath.cni.errors import CniError
from samepath.cni.ipam import read_kernel
from samepath.cni.store import StoreError, Taken
from samepath.cni.turns import Turns
from samepath.model.net import nlri_address
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Route
from samepath.netlink.ops import ApplyError, DeleteLink, DeleteRoute

log = logging.getLogger("samepath.cni")


class Leftovers:
    def __init__(self, turns: Turns, unmake: Callable[[Addresses, Key], None]) -> None:
        """`unmake` is what DEL does, with the turn of the attachment held. Raises CniError."""
        self._turns = turns
        self._unmake = unmake

    # -- GC -----------------------------------------------------------------------------------

    def collect(
        self, addresses: Addresses, node: Kernel, network: str, valid: Collection[Key]
    ) -> list[str]:
        """Remove every attachment of the network that is not valid. What could not be removed, in
        words. Raises NetlinkError."""
        # What stands now: an attachment that is added meanwhile is not in the runtime's list, and
        # is no business of this request.
        doomed = addresses.keep(network, valid)
        doomed = tuple(a for a in doomed if not self._turns.is_busy(a.key))
        faults: list[str] = []
        for attachment in doomed:
            try:
                self._remove(addresses, attachment)
            except CniError as error:
                faults.append(f"{' '.join(attachment.key)}: {error}")
        return faults + self._sweep(addresses, node, network, valid)

    def _remove(self, addresses: Addresses, attachment: Attachment) -> None:
        """Unless DEL was quicker, or it has been added anew."""
        with self._turns.of(attachment.key):
            now = addresses.get(attachment.key)
            if now is not None and (now.made_at, now.addresses) == (
                attachment.made_at,
                attachment.addresses,
            ):
                self._unmake(addresses, attachment.key)

    def _sweep(
        self, addresses: Addresses, node: Kernel, network: str, valid: Collection[Key]
    ) -> list[str]:
        """Links of ours in this network, and routes, that no record speaks of."""
        view = read_kernel(node)
        faults: list[ApplyError | None] = []
        for found in view.links:
            if network_of_alias(found.link.alias) != network or found.key in valid:
                continue
            if addresses.get(found.key) is None and not self._turns.is_busy(found.key):
                with self._turns.of(found.key):
                    if addresses.get(found.key) is None:
                        faults += node.apply([DeleteLink(found.link.index)])
        by_index = {found.link.index: found.key for found in view.links}
        strays = [r for r in view.routes if self._is_stray(addresses, r, by_index.get(r.oif or 0))]
        faults += node.apply([DeleteRoute(route) for route in strays])
        return [e.text for e in faults if e is not None]

    def _is_stray(self, addresses: Addresses, route: Route, key: Key | None) -> bool:
        """A pod's route that is not where the attachment is."""
        if key is None:
            return True
        if self._turns.is_busy(key):
            return False
        known = addresses.get(key)
        address = nlri_address(route.family, route.nlri)
        return known is not None and address not in known.addresses

    # -- The start ----------------------------------------------------------------------------

    def settle(self, addresses: Addresses, node: Kernel) -> None:
        """Before the first request. Raises NetlinkError."""
        view = read_kernel(node)
        standing = {found.key for found in view.links}
        unknown = [found for found in view.links if addresses.get(found.key) is None]
        for attachment in addresses.all():
            key = attachment.key
            if attachment.state is State.WIRED and key in standing:
                continue
            why = "its ADD never ended" if key in standing else "its link is gone"
            log.warning("%s: %s, so its addresses are free again", " ".join(key), why)
            try:
                self._remove(addresses, attachment)
            except CniError as error:
                log.error("%s: %s", " ".join(key), error)
        for found in unknown:
            if found.addresses:
                _adopt(addresses, found)
        set_aside(addresses, read_kernel(node).links)


def set_aside(addresses: Addresses, links: Iterable[PodLink]) -> list[Key]:
    """Addresses that lead to links of ours without record are not given out. Whose links these are.

    The links are to be read before this is called: what was removed since is set aside until the
    next look, and what was added since has a record.
    """
    strays = [found for found in links if addresses.get(found.key) is None]
    addresses.avoid(address for found in strays for address in found.addresses)
    return sorted(found.key for found in strays)


def _adopt(addresses: Addresses, found: PodLink) -> None:
    """A living pod's, whatever has become of the record: another pod must not get its address, and
    it goes when its DEL or GC comes."""
    name = " ".join(found.key)
    try:
        kept = addresses.store.reserve(attachment_of(found, None, addresses.store.boot_id))
        addresses.wired(kept.key)
        log.warning("%s: a pod's link without record, taken into the store", name)
    except (Taken, StoreError) as error:
        log.error("%s: a pod's link without record: %s", name, error)
