"""Which paths to a prefix are equal best.

Called by the RIB, once for each distinct set of paths. The steps of RFC 4271 §9.1.2.2 up to and
with the fourth; those that follow choose one of several equals, and we want them all:

0. paths whose neighbour is gone for long (LLGR_STALE, RFC 9494 §4.3) only where there is no other,
1. highest LOCAL_PREF (100 where there is none; from an external peer it does not count),
2. shortest AS_PATH,
3. lowest ORIGIN,
4. lowest MULTI_EXIT_DISC among the paths from the same neighbouring AS (none: 0). Paths from
   different neighbouring AS are not compared, so all of their lowest stay,
5. paths from external peers before those from internal ones.

Not done: the comparison of IGP costs, router ids and addresses. A path with GRACEFUL_SHUTDOWN
(RFC 8326) keeps its LOCAL_PREF here, against that RFC's advice: it has to stay in the result beside
the active ones, because it says *draining*, which the next hop table understands and a lower
preference would hide.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter

from samepath.bgp.attributes import LLGR_STALE, PathAttributes
from samepath.bgp.policy import PeerKey
from samepath.model.neighbor import Kind

DEFAULT_LOCAL_PREF = 100


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Path:
    """One way to a prefix, as one peer told it. Interned by the RIB: compare by identity."""

    peer: PeerKey
    attributes: PathAttributes
    kind: Kind
    external: bool
    router_id: int
    """The peer's BGP identifier."""
    path_id: int = 0
    """The peer's, where it sends several paths a prefix (RFC 7911)."""
    key: tuple[PeerKey, int] = field(init=False)
    """Peer and path identifier: a newer path of the same key replaces this one."""
    rank: tuple[int, int, int, int] = field(init=False)
    """Steps 0 to 3; the smaller is the better."""

    def __post_init__(self) -> None:
        attributes = self.attributes
        preference = attributes.local_pref
        if self.external or preference is None:
            preference = DEFAULT_LOCAL_PREF
        last = int(attributes.has(LLGR_STALE))
        rank = (last, -preference, attributes.as_path.length, int(attributes.origin))
        object.__setattr__(self, "key", (self.peer, self.path_id))
        object.__setattr__(self, "rank", rank)

    @property
    def neighbor_as(self) -> int:
        """The AS that the path entered from; 0: it began in our own (RFC 4271 §9.1.2.2 c)."""
        asns = self.attributes.as_path.asns
        return asns[0] if asns else 0


_peer_of = attrgetter("peer")
_key_of = attrgetter("key")


class PathSet:
    """The paths to a prefix. Interned by the RIB: the same paths are the same object."""

    __slots__ = ("__weakref__", "best", "paths")

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        """At least one, sorted by peer and path identifier."""
        self.best = equal_best(paths)

    def of(self, peer: PeerKey) -> tuple[Path, ...]:
        """The paths that `peer` told: one at most, unless it sends several a prefix."""
        paths = self.paths
        at = after = bisect_left(paths, peer, key=_peer_of)
        while after < len(paths) and paths[after].peer == peer:
            after += 1
        return paths[at:after]

    def by(self, peer: PeerKey, path_id: int) -> Path | None:
        at = self._place(peer, path_id)
        if at < len(self.paths) and self.paths[at].key == (peer, path_id):
            return self.paths[at]
        return None

    def replaced(self, path: Path) -> tuple[Path, ...]:
        """The paths with `path` in place of its former one."""
        at = self._place(*path.key)
        after = at + (at < len(self.paths) and self.paths[at].key == path.key)
        return (*self.paths[:at], path, *self.paths[after:])

    def _place(self, peer: PeerKey, path_id: int) -> int:
        return bisect_left(self.paths, (peer, path_id), key=_key_of)

    def __repr__(self) -> str:
        return f"PathSet({len(self.best)} of {len(self.paths)})"


def equal_best(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The equal best of `paths`, in their order; `paths` itself if they are all equal."""
    if len(paths) == 1:
        return paths
    first = paths[0]
    rank, med, external = first.rank, first.attributes.med, first.external
    if all(p.rank == rank and p.attributes.med == med and p.external is external for p in paths):
        return paths
    rank = min(p.rank for p in paths)
    best = [p for p in paths if p.rank == rank]
    best = _lowest_med(best)
    if any(p.external for p in best):
        best = [p for p in best if p.external]
    return tuple(best)


def _lowest_med(paths: list[Path]) -> list[Path]:
    if len({p.attributes.med or 0 for p in paths}) == 1:
        return paths
    lowest: dict[int, int] = {}
    for path in paths:
        med, asn = path.attributes.med or 0, path.neighbor_as
        lowest[asn] = min(med, lowest.get(asn, med))
    return [p for p in paths if (p.attributes.med or 0) == lowest[p.neighbor_as]]
