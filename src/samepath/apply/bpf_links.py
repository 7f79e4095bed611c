"""The links that the BPF program is attached to: read, compare, attach, detach.

Called by `programs.gateway_bpf` after any news of links. By default it is every Ethernet link that
is not a port of a bridge or bond (there the packets are not ours yet): replies of nodes are for
clients' addresses, which are no services, so that they pass. A link that comes later is attached
when it comes; attachments outlive the process and are adopted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from samepath.apply.bpf_plane import Mode, Plane
from samepath.bpf.errors import BpfError, Unavailable
from samepath.netlink.objects import Link

ETHERNET_OCTETS = 6
_BUNDLES = ("bridge", "bond", "team")


def wanted(links: Iterable[Link], names: Collection[str]) -> list[Link]:
    """The links to attach to; `names`: only these, where there are any."""
    by_index = {link.index: link for link in links}

    def is_port(link: Link) -> bool:
        master = by_index.get(link.master)
        return master is not None and master.kind in _BUNDLES

    ethernet = [
        link
        for link in by_index.values()
        if len(link.address) == ETHERNET_OCTETS and any(link.address)
    ]
    if names:
        return [link for link in ethernet if link.name in names]
    return [link for link in ethernet if not is_port(link)]


class Attachments:
    def __init__(self, mode: Mode, names: Collection[str]) -> None:
        self.mode: Mode = mode
        self.names = names
        self.errors: dict[str, str] = {}
        """By link: why it is not attached, in words."""
        self.stands: dict[str, str] = {}
        """How each link is attached: `tcx`, `clsact` or `xdp`."""

    def put(self, plane: Plane, links: Collection[Link]) -> None:
        """Attach and detach until it is as wanted."""
        self.errors = dict.fromkeys(self.names, "there is no such Ethernet link")
        chosen = wanted(links, self.names)
        indices = {link.index for link in chosen}
        known = {link.index for link in links}
        for link in chosen:
            self.errors.pop(link.name, None)
            try:
                plane.attach(link.index, link.address, self.mode)
            except (BpfError, Unavailable) as error:
                self.errors[link.name] = str(error)
        attached = plane.attached()
        for index in [i for i in attached if i not in indices and i in known]:
            try:
                plane.detach(index)
            except BpfError as error:
                self.errors[f"link {index}"] = f"not detached: {error}"
        names = {link.index: link.name for link in links}
        self.stands = {names[i]: a.how for i, a in attached.items() if i in indices}
