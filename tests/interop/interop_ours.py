"""Our side of the interop tests: real `Speaker`s in a namespace; `interop_peers` is the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from interop_peers import HOLD_S, OURS, OURS_V6, THEIRS, THEIRS_V6, Terms

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.transport import PeerStatus, Speaker
from samepath.lab.netns import Namespace, veth
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, address_text, parse_prefix, prefix_text
from samepath.netlink.socket import in_namespace

T = TypeVar("T")
_numbers = itertools.count()


@contextmanager
def two_hosts(name: str = "io") -> Iterator[tuple[Namespace, Namespace]]:
    """Ours and theirs, joined by a cable `eth0`, IPv4 and IPv6."""
    names = [f"spt-{os.getpid()}-{name}{next(_numbers)}" for _ in range(2)]
    with Namespace(names[0]) as ours, Namespace(names[1]) as theirs:
        for host in (ours, theirs):
            host.sysctl(net__ipv6__conf__default__accept_dad=0)
        veth(ours, "eth0", theirs, "eth0")
        for host, v4, v6 in ((ours, OURS, OURS_V6), (theirs, THEIRS, THEIRS_V6)):
            host.ip("addr", "add", f"{v4}/24", "dev", "eth0")
            host.ip("addr", "add", f"{v6}/64", "dev", "eth0", "nodad")
        yield ours, theirs


def routes(*prefixes: str) -> Routes:
    offered: dict[Family, dict[bytes, Advertisement]] = {f: {} for f in Family}
    for text in prefixes:
        family, nlri = parse_prefix(text)
        offered[family][nlri] = Advertisement(PathAttributes(next_hop=b""))
    return offered


class OurSpeaker:
    """A speaker of ours, in a thread of its own within its namespace."""

    def __init__(self, namespace: Namespace, config: Bgp, **options: bool) -> None:
        self.config = config
        self.name = config.neighbors[0].name
        """Of the neighbour that a test is about."""
        self._options = options
        self._notify = True
        self._text = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: in_namespace(namespace.path, self._run))

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.speaker = Speaker(self.config, wake=self.woken, **self._options)
        await self.speaker.start()
        await self.began()
        self._ready.set()
        await self._end.wait()
        await self.ends()
        await self.speaker.stop(notify=self._notify, text=self._text)

    def woken(self) -> None:
        """The speaker has news. This and the next two are for those who add to it; all of them
        are called on its event loop."""

    async def began(self) -> None: ...

    async def ends(self) -> None: ...

    def start(self, *prefixes: str, release: bool = True) -> Any:
        self._thread.start()
        assert self._ready.wait(30)
        self.offer(*prefixes)
        if release:
            self.call(lambda s: s.release_end_of_rib())
        return self

    def stop(self, *, notify: bool = True, text: str = "") -> None:
        if self._thread.is_alive():
            self._notify, self._text = notify, text
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def call(self, what: Callable[[Speaker], T]) -> T:
        async def there() -> T:
            return what(self.speaker)

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(5)

    def offer(self, *prefixes: str) -> None:
        """To all neighbours the same."""
        for neighbor in self.config.neighbors:
            self.call(lambda s, name=neighbor.name: s.set(name, routes(*prefixes)))  # type: ignore[misc]

    def learned(self) -> dict[str, str]:
        def there(speaker: Speaker) -> dict[str, str]:
            return {
                prefix_text(family, nlri): address_text(held.best[0].attributes.next_hop)
                for family in Family
                for nlri, held in speaker.rib.items(family)
            }

        return self.call(there)

    def status(self) -> PeerStatus:
        (status,) = (p for p in self.call(lambda s: s.peers()) if p.neighbor == self.name)
        return status

    def stale(self) -> int:
        return sum(f.stale for f in self.status().families.values())


class Ours(OurSpeaker):
    """Our speaker with one neighbour, on the plain terms of most tests."""

    def __init__(
        self, namespace: Namespace, terms: Terms, *, by_range: bool = False, **options: bool
    ) -> None:
        self.terms = terms
        where = (
            {"range": f"{terms.theirs}/{128 if terms.over_ipv6 else 32}"}
            if by_range
            else {"address": terms.theirs, "local_address": terms.ours}
        )
        neighbor = Neighbor(
            remote_as=terms.their_as,
            hold_time_s=HOLD_S,
            connect_retry_s=1,
            import_=Import(services=["10.2.0.0/16"], pods=["2001:db8:2::/48"]),
            **where,  # type: ignore[arg-type]
        )
        config = Bgp(
            router_id=OURS,
            local_as=terms.our_as,
            listen=[terms.ours],
            next_hops=[OURS, OURS_V6],
            neighbors=[neighbor],
        )
        super().__init__(namespace, config, **options)
