"""`samepath ipam`, without the terminal: the store, the blocks and the kernel, compared and mended.

Called in a thread by the agent, which answers for its own store (`report`, `examine`), and by
`cli.ipam` where no agent runs. Blocking.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samepath.cni import audit, ipam_view
from samepath.cni.audit import (
    Adopt,
    Finding,
    Fix,
    Problem,
    Release,
    RemoveLink,
    RemoveRoute,
    finding_row,
    kernel_view,
)
from samepath.cni.blocks import Blocks
from samepath.cni.store import Store, StoreError, Taken, rebuild, salvage
from samepath.model.net import Family, nlri_address
from samepath.model.ours import PROTOCOL
from samepath.netlink.kernel import Kernel
from samepath.netlink.ops import DeleteLink, DeleteRoute, Op


def report(store: Store, blocks: Blocks) -> dict[str, Any]:
    """The answer to `ipam show`."""
    owed = f"{store.owed} released attachments that the disk has not taken" if store.owed else ""
    trouble = [t for t in (blocks.trouble, blocks.addresses.stock().text, owed) if t]
    return ipam_view.show(blocks.situation, blocks.own, store.all(), trouble)


def examine(store: Store, blocks: Blocks, kernel: Kernel, *, fix: bool = False) -> dict[str, Any]:
    """The answer to `ipam check`. Raises NetlinkError."""
    before = store.all()
    seen = read_kernel(kernel)
    attachments, view = audit.settled(before, seen, store.all())
    found = audit.check(
        attachments,
        view,
        blocks.own,
        blocks.situation,
        now=time.time(),
        boot_id=store.boot_id,
    )
    if blocks.trouble:
        found = (Finding(Problem.CLAIMS, "claims", blocks.trouble), *found)
    rows = [
        finding_row(f, mend(store, kernel, f.fix) if fix and f.fix is not None else "")
        for f in found
    ]
    return {"attachments": len(attachments), "findings": rows}


def read_kernel(kernel: Kernel) -> audit.Kernel:
    """Raises NetlinkError."""
    routes = [route for family in Family for route in kernel.routes(family, PROTOCOL)]
    return kernel_view(kernel.links(), routes, kernel.neighbors())


def mend(store: Store, kernel: Kernel, fix: Fix) -> str:
    """Do it, if it is still to be done. What came of it, in words."""
    try:
        if isinstance(fix, Release):
            return _release(store, fix)
        if isinstance(fix, Adopt):
            store.wired(store.reserve(fix.attachment).key)
            return "taken into the store"
        return _remove(store, kernel, fix)
    except Taken as error:
        return f"not done: {error}"
    except StoreError as error:
        return f"failed: {error}"


def _release(store: Store, fix: Release) -> str:
    if store.get(fix.attachment.key) != fix.attachment:
        return "has changed since"
    store.release(fix.attachment.key)
    return "dropped, its addresses are free"


def _remove(store: Store, kernel: Kernel, fix: RemoveLink | RemoveRoute) -> str:
    op: Op
    if isinstance(fix, RemoveLink):
        if store.get(fix.key) is not None:
            return "has changed since"
        op = DeleteLink(fix.link.index)
    else:
        owner = store.owner(nlri_address(fix.route.family, fix.route.nlri))
        if (owner.key if owner is not None else None) != fix.owner:
            return "has changed since"
        op = DeleteRoute(fix.route)
    (error,) = kernel.apply([op])
    return f"failed: {error.text}" if error is not None else "removed"


def rebuild_from_kernel(
    path: str | Path, boot_id: str, kernel: Kernel
) -> tuple[Path, Sequence[str]]:
    """A new store out of the pods' links; the damaged file keeps its octets under another name.
    That name, and the attachments that were found. Raises NetlinkError, StoreError, Taken."""
    hints = salvage(path)
    found = [
        audit.attachment_of(link, hints.get(link.key), boot_id)
        for link in read_kernel(kernel).links
        if link.addresses
    ]
    aside = rebuild(path, boot_id, found)
    return aside, [" ".join(a.key) for a in found]
