"""Which paths to a prefix are equal best.

Called by the RIB, once for each distinct set of paths. The steps of RFC 4271 §9.1.2.2 up to and
with the fourth; those that follow choose one of several equals, and we want them all:

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

from dataclasses import dataclass, field

from samepath.bgp.attributes import PathAttributes
from samepath.bgp.policy import PeerKey
from samepath.model.config import Kind

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
    rank: tuple[int, int, int] = field(init=False)
    """Steps 1 to 3; the smaller is the better."""

    def __post_init__(self) -> None:
        attributes = self.attributes
        preference = attributes.local_pref
        if self.external or preference is None:
            preference = DEFAULT_LOCAL_PREF
        rank = (-preference, attributes.as_path.length, int(attributes.origin))
        object.__setattr__(self, "rank", rank)

    @property
    def neighbor_as(self) -> int:
        """The AS that the path entered from; 0: it began in our own (RFC 4271 §9.1.2.2 c)."""
        asns = self.attributes.as_path.asns
        return asns[0] if asns else 0


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
