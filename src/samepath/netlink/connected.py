"""Which link a gateway is on: the networks that our interface addresses connect.

Built anew from a fresh read of links and addresses, for all that makes next hops. A gateway is on
the link with the longest connected prefix that holds it; the link must be up and have carrier,
since the kernel takes no next hop on another.
"""

from __future__ import annotations

from collections.abc import Iterable

from samepath.model.net import Address, address_text
from samepath.netlink import uapi
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import InterfaceAddress, Link

_LINK_LOCAL = b"\xfe\x80"


class Connected:
    """Equal to another one when it gives the same answers."""

    def __init__(self, links: Iterable[Link], addresses: Iterable[InterfaceAddress]) -> None:
        self._links = {link.index: (link.name, link.usable) for link in links}
        self._own: set[Address] = set()
        self._networks: list[tuple[int, int, int, int]] = []
        """(octets of the family, prefix length, network as a number, link), longest first."""
        for item in addresses:
            self._own.add(item.address)
            bits = len(item.address) * 8
            if item.scope != uapi.RT_SCOPE_UNIVERSE or item.prefix_length == bits:
                continue
            number = int.from_bytes(item.address, "big") >> (bits - item.prefix_length)
            self._networks.append((len(item.address), item.prefix_length, number, item.index))
        self._networks.sort(key=lambda network: (-network[1], network))
        self._known: dict[Address, int | str] = {}

    @classmethod
    def read(cls, kernel: Kernel) -> Connected:
        return cls(kernel.links(), kernel.addresses())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connected) and (
            (self._links, self._own, self._networks) == (other._links, other._own, other._networks)
        )

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, gateway: Address) -> int | None:
        """The index of the usable link that `gateway` is on."""
        found = self._find(gateway)
        return found if isinstance(found, int) else None

    def why_not(self, gateway: Address) -> str:
        """Why there is no answer, for people; empty if it has one."""
        found = self._find(gateway)
        return found if isinstance(found, str) else ""

    def _find(self, gateway: Address) -> int | str:
        found = self._known.get(gateway)
        if found is None:
            found = self._known[gateway] = self._search(gateway)
        return found

    def _search(self, gateway: Address) -> int | str:
        text = address_text(gateway)
        if gateway in self._own:
            return f"{text} is an address of our own"
        if gateway[:2] == _LINK_LOCAL:
            return f"{text} is link-local, and nothing says on which link"
        number, bits = int.from_bytes(gateway, "big"), len(gateway) * 8
        unusable = ""
        for octets, length, network, index in self._networks:
            if octets != len(gateway) or number >> (bits - length) != network:
                continue
            name, usable = self._links.get(index, (f"link {index}", False))
            if usable:
                return index
            unusable = unusable or f"{name}, which would lead to {text}, is down"
        return unusable or f"no connected network holds {text}"
