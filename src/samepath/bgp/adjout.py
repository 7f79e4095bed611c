"""What one session has told its peer, and what it has yet to tell.

`set(routes)` says what the peer should know, all of it; `pull()` makes one small step and gives the
next UPDATEs as bytes, at the pace of whoever writes them. Between the two stands only the
difference: a prefix that did not change costs nothing, and one that changed twice before the peer
could read is sent once. So a slow peer costs memory for its differences, never a queue of messages.

On the way out attributes become the session's own (`Export`): computed once for each attributes
object. First all announcements, then all withdrawals, then End-of-RIB, if it is released: a program
that has restarted holds it back until its own sources are in sync (RFC 4724 §4.1).

Where several paths a prefix were agreed on, a prefix goes by its path identifier and itself here,
just as on the wire.

RFC 4271 §5.1, §9.1.3, §9.2; RFC 1997; RFC 4360 §6; RFC 4456 §8; RFC 4724 §2; RFC 7313 §4; RFC 7911
§3; RFC 8950 §4; RFC 9494 §4.3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from samepath.bgp import message
from samepath.bgp.attributes import (
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    PathAttributes,
)
from samepath.bgp.decision import DEFAULT_LOCAL_PREF, Path
from samepath.bgp.nlri import PATH_ID_OCTETS
from samepath.bgp.path_ids import PathIds
from samepath.bgp.policy import PeerKey
from samepath.model.net import Address, Family, Nlri

Offered: TypeAlias = "Advertisement | tuple[Advertisement, ...]"
"""Several: to a neighbour that takes several paths a prefix all, to others the first that it may
have."""

Routes = Mapping[Family, Mapping[Nlri, Offered]]

Key = bytes
"""A prefix, or a path identifier and a prefix."""

PULL_PREFIXES = 2_000
"""Prefixes that one `pull` encodes at most: some 10 to 40 KB."""
PULL_ATTRIBUTES = 50
"""Different attributes of one `pull`, at most: each is a message of its own, or more."""

PREPARE_PREFIXES = 500
"""Prefixes that one `pull` looks at, at most, to find what has changed."""

_NON_TRANSITIVE = 0x40
"""Bit of an extended community's type: not across AS borders. RFC 4360 §2."""


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A route that we offer."""

    attributes: PathAttributes
    """`next_hop` empty: our own next hop of the family. Otherwise it goes out unchanged."""
    source_peer: PeerKey | None = None
    """The peer that we have it from, to whom it is not sent back; None: it is our own."""
    source_path_id: int = 0
    """Which of that peer's paths."""


def reflect(path: Path, *, cluster_id: int) -> PathAttributes:
    """The attributes of `path` as a route reflector passes them on. RFC 4456 §8."""
    attributes = path.attributes
    originator = attributes.originator_id
    return replace(
        attributes,
        originator_id=path.router_id if originator is None else originator,
        cluster_list=(cluster_id, *attributes.cluster_list),
    )


class Export:
    """How routes are made ready for one peer."""

    def __init__(
        self,
        *,
        peer: PeerKey,
        peer_router_id: int,
        local_as: int,
        internal: bool,
        next_hops: Mapping[Family, Address],
        several: Container[Family] = (),
        extended_next_hop: bool = False,
        long_lived: bool = False,
    ) -> None:
        """`several`: families of which the peer takes several paths a prefix. `long_lived`: it
        knows what a path is that is stale for long."""
        self.peer = peer
        self.peer_router_id = peer_router_id
        self.local_as = local_as
        self.internal = internal
        self.next_hops = next_hops
        """Our own; a family may be missing."""
        self.extended_next_hop = extended_next_hop
        self._several = several
        self._long_lived = long_lived
        self._ids = PathIds()
        self._known: dict[PathAttributes, PathAttributes] = {}

    def prepare(
        self, family: Family, routes: Mapping[Nlri, Offered]
    ) -> Generator[None, None, dict[Key, PathAttributes]]:
        """What of `routes` the peer gets, with the attributes that it gets; in small steps.

        Equal attributes are one object, from one call to the next."""
        made: dict[tuple[int, PeerKey | None], PathAttributes | None] = {}
        wanted: dict[Key, PathAttributes] = {}
        several = family in self._several
        for count, (nlri, offered) in enumerate(routes.items()):
            for advertisement in offered if isinstance(offered, tuple) else (offered,):
                key = (id(advertisement.attributes), advertisement.source_peer)
                if key in made:
                    attributes = made[key]
                else:
                    attributes = made[key] = self._one_object(self._exported(family, advertisement))
                if attributes is None:
                    continue
                if not several:
                    wanted[nlri] = attributes
                    break
                source = (advertisement.source_peer, advertisement.source_path_id)
                wanted[self._ids.of(source) + nlri] = attributes
            if count % PREPARE_PREFIXES == PREPARE_PREFIXES - 1:
                yield
        return wanted

    def forget_unused(self, used: Iterable[PathAttributes], keys: Iterable[Key]) -> None:
        self._known = {a: a for a in used}
        if self._ids.are_many:
            self._ids.forget_unused({key[:PATH_ID_OCTETS] for key in keys})

    def own_next_hop(self, family: Family) -> Address:
        """Empty: there is none."""
        own = self.next_hops.get(family, b"")
        return own or (self.next_hops.get(Family.IPV6, b"") if self.extended_next_hop else b"")

    def _may_be_next_hop(self, family: Family, next_hop: Address) -> bool:
        by_ipv6 = self.extended_next_hop and len(next_hop) == Family.IPV6.octets
        return len(next_hop) == family.octets or by_ipv6

    def _one_object(self, attributes: PathAttributes | None) -> PathAttributes | None:
        return None if attributes is None else self._known.setdefault(attributes, attributes)

    def _exported(self, family: Family, advertisement: Advertisement) -> PathAttributes | None:
        """The attributes on this session, or None: not for this peer."""
        attributes, source = advertisement.attributes, advertisement.source_peer
        if source == self.peer or attributes.originator_id == self.peer_router_id:
            return None
        if attributes.has(NO_ADVERTISE):
            return None
        if attributes.has(LLGR_STALE) and not self._long_lived:
            return None  # It would take it for a path like others (RFC 9494 §4.3).
        next_hop = attributes.next_hop or self.own_next_hop(family)
        if not self._may_be_next_hop(family, next_hop):
            return None
        if self.internal:
            preference = attributes.local_pref
            return replace(
                attributes,
                next_hop=next_hop,
                link_local_next_hop=None,
                local_pref=DEFAULT_LOCAL_PREF if preference is None else preference,
            )
        if attributes.has(NO_EXPORT) or attributes.has(NO_EXPORT_SUBCONFED):
            return None
        return self._external(attributes, next_hop, is_own=source is None)

    def _external(
        self, attributes: PathAttributes, next_hop: Address, *, is_own: bool
    ) -> PathAttributes:
        """Across the border of our AS: what is of local meaning is left out."""
        extended = attributes.extended_communities
        if not is_own:
            extended = tuple(c for c in extended if not c[0] & _NON_TRANSITIVE)
        return replace(
            attributes,
            next_hop=next_hop,
            link_local_next_hop=None,
            as_path=attributes.as_path.prepend(self.local_as),
            local_pref=None,
            originator_id=None,
            cluster_list=(),
            med=attributes.med if is_own else None,
            extended_communities=extended,
        )


class AdjRibOut:
    """One session's Adj-RIB-Out (RFC 4271 §3.2)."""

    def __init__(
        self,
        export: Export,
        context: message.Context,
        families: Iterable[Family],
        *,
        marks_refresh: bool = False,
    ) -> None:
        """`marks_refresh`: both sides speak enhanced route refresh (RFC 7313)."""
        self.export = export
        self._context = context
        self._tables = {f: _Table(f, f in context.add_path_send) for f in families}
        self._marks_refresh = marks_refresh
        self._is_released = False
        self._is_complete = False
        """What was set, once at least, stands in the tables."""
        self._routes: Routes | None = None
        self._preparation: Iterator[None] | None = None

    def set(self, routes: Routes) -> None:
        """All that is to be advertised; replaces what was set before. Not to be changed later."""
        self._routes = routes

    def release_end_of_rib(self) -> None:
        """What was set is complete: send End-of-RIB behind it, once per session."""
        self._is_released = True

    def refresh(self, family: Family) -> None:
        """The peer asks for everything again. RFC 2918 §4, RFC 7313 §4."""
        table = self._tables.get(family)
        if table is not None:
            # Until End-of-RIB we do not know everything: marks would make the peer delete.
            table.refresh(marked=self._marks_refresh and table.end_of_rib_sent)

    def advertised(self, family: Family) -> int:
        table = self._tables.get(family)
        return 0 if table is None else len(table.sent)

    def end_of_rib_sent(self, family: Family) -> bool:
        return family in self._tables and self._tables[family].end_of_rib_sent

    @property
    def is_idle(self) -> bool:
        """Nothing is left to be said."""
        if self._routes is not None or self._preparation is not None:
            return False
        return not any(self._has_more(t) for t in self._tables.values())

    @property
    def _may_end(self) -> bool:
        return self._is_released and self._is_complete

    def _has_more(self, table: _Table) -> bool:
        return table.is_dirty or (self._may_end and not table.end_of_rib_sent)

    def pull(self) -> bytes:
        """A small step: the next messages, some tens of KB, or nothing as yet (see `is_idle`)."""
        if self._preparation is None and self._routes is not None:
            self._preparation = self._prepare(self._routes)
            self._routes = None
        if self._preparation is not None:
            # What is under way is finished first, so that a stream of changes cannot starve it.
            if next(self._preparation, self) is self:
                self._preparation = None
            return b""
        for table in self._tables.values():
            if self._has_more(table):
                return b"".join(table.pull(self._context, self._may_end))
        return b""

    def _prepare(self, routes: Routes) -> Iterator[None]:
        wanted = {}
        for family in self._tables:
            wanted[family] = yield from self.export.prepare(family, routes.get(family, {}))
            yield
        for family, table in self._tables.items():
            table.want(wanted[family])
        used = (t.used() for t in self._tables.values())
        keys = (key for t in self._tables.values() if t.several for key in t.told())
        self.export.forget_unused((a for attributes in used for a in attributes), keys)
        self._is_complete = True


class _Table:
    """One family."""

    def __init__(self, family: Family, several: bool) -> None:
        self.family = family
        self.several = several
        self.sent: dict[Key, PathAttributes | None] = {}
        """What the peer knows when it has read all that was pulled; None: to be told again."""
        self.end_of_rib_sent = False
        self._wanted: dict[Key, PathAttributes] = {}
        self._announce: list[tuple[PathAttributes, list[Key]]] = []
        self._withdraw: list[Key] = []
        self._mark_begin = False
        self._mark_end = False

    def used(self) -> Iterator[PathAttributes]:
        """The attributes that later ones are compared with."""
        told = {id(a): a for a in self.sent.values() if a is not None}
        yield from (told | {id(a): a for a in self._wanted.values()}).values()

    def told(self) -> Iterator[Key]:
        yield from self.sent
        yield from self._wanted

    def want(self, wanted: dict[Key, PathAttributes]) -> None:
        self._wanted = wanted
        sent = self.sent
        changed = {n: a for n, a in wanted.items() if sent.get(n) is not a}
        self._announce = _by_attributes(changed)
        self._withdraw = [n for n in sent if n not in wanted]

    def refresh(self, *, marked: bool) -> None:
        self.sent = dict.fromkeys(self.sent)
        self._announce = _by_attributes(self._wanted)
        self._mark_begin = self._mark_end = marked

    @property
    def is_dirty(self) -> bool:
        return bool(self._announce or self._withdraw or self._mark_end)

    def pull(self, context: message.Context, may_end: bool) -> Iterator[bytes]:
        if self._mark_begin:
            self._mark_begin = False
            yield message.encode(_mark(self.family, message.RefreshKind.BEGIN), context)
        room = PULL_PREFIXES
        reaches: list[message.Reach] = []
        while self._announce and room and len(reaches) < PULL_ATTRIBUTES:
            attributes, nlris = self._announce[-1]
            block = nlris[-room:]
            del nlris[-room:]
            if not nlris:
                self._announce.pop()
            room -= len(block)
            self.sent.update(dict.fromkeys(block, attributes))
            for path_id, part in self._by_path(block):
                reaches.append(message.Reach(self.family, part, attributes, path_id))
        withdrawals = []
        if room and self._withdraw:
            gone = self._withdraw[-room:]
            del self._withdraw[-room:]
            for nlri in gone:
                del self.sent[nlri]
            for path_id, part in self._by_path(gone):
                withdrawals.append(message.Withdrawal(self.family, part, path_id))
        yield from message.encode_updates(reaches, withdrawals, context)
        if self._announce or self._withdraw:
            return
        if self._mark_end:
            self._mark_end = False
            yield message.encode(_mark(self.family, message.RefreshKind.END), context)
        if may_end and not self.end_of_rib_sent:
            self.end_of_rib_sent = True
            yield message.end_of_rib(self.family)

    def _by_path(self, keys: list[Key]) -> Iterable[tuple[int, tuple[Nlri, ...]]]:
        if not self.several:
            return ((0, tuple(keys)),)
        parts: defaultdict[bytes, list[Nlri]] = defaultdict(list)
        for key in keys:
            parts[key[:PATH_ID_OCTETS]].append(key[PATH_ID_OCTETS:])
        return [(int.from_bytes(i, "big"), tuple(nlris)) for i, nlris in parts.items()]


def _mark(family: Family, kind: message.RefreshKind) -> message.RouteRefresh:
    return message.RouteRefresh(family, kind)


def _by_attributes(
    routes: Mapping[Key, PathAttributes],
) -> list[tuple[PathAttributes, list[Key]]]:
    groups: dict[int, tuple[PathAttributes, list[Key]]] = {}
    for nlri, attributes in routes.items():
        group = groups.get(id(attributes))
        if group is None:
            group = groups[id(attributes)] = (attributes, [])
        group[1].append(nlri)
    return list(groups.values())
