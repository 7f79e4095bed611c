"""Which next hop owns each bucket: bounded weighted rendezvous.

A table is a pure function of (members, weights, buckets, seed). Every pair of a member and a bucket
has a score; a member may own at most its share of the buckets; pairs are taken in order of score
where the bucket is free and the member is below its share. Both sides rank by the same score, so
the result is the one stable matching: no order of arrival and no history can change it. That is
what lets gateways agree that never speak with each other.

Called by `plan` (the target of a service), by `apply` (`from_owners`: what the kernel holds), by
`hashing.step` and by the simulator. Integers only: the same on every machine. The score, the shares
and the digest are defined for other implementations in docs/hashing.md and pinned by the vectors in
tests/hashing/vectors.json. Whether weights should also enter the score is docs/decisions/0002; who
gets the buckets that do not divide evenly is docs/decisions/0003.

Not done here: when a bucket may move (`hashing.step`), and which flow is in which bucket
(`hashing.flow`).

- D. Thaler, C. Ravishankar: Using name-based mappings to increase hit rates. 1998 (rendezvous).
- D. Gale, L. Shapley: College admissions and the stability of marriage. 1962.
- G. Steele, D. Lea, C. Flood: Fast splittable pseudorandom number generators. 2014 (SplitMix64).
- FIPS 180-4 (SHA-256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from samepath.model.net import Address

Owners = NDArray[np.uint16]

MAX_BUCKETS = 0xFFFF
"""A resilient group's number of buckets is a u16."""

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A next hop and how many parts of the buckets it is to own."""

    id: Address
    weight: int = 1

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"weight of {self.id.hex()}: 1 or more, not {self.weight}")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Who owns each bucket.

    `owners[bucket]` is an index into `members`, which are sorted. A member that owns nothing is
    dropped, so two tables in which each bucket has the same owner are equal and have one digest,
    however they came about.
    """

    members: tuple[Address, ...]
    owners: Owners
    _digest: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.members)
        if not 1 <= len(self.owners) <= MAX_BUCKETS:
            raise ValueError(f"buckets: 1 to {MAX_BUCKETS}, not {len(self.owners)}")
        if list(self.members) != sorted(set(self.members)):
            raise ValueError("members must be sorted, each once")
        if int(self.owners.max()) >= count:
            raise ValueError("an owner is not among the members")
        used = np.bincount(self.owners, minlength=count) > 0
        owners = self.owners.astype(np.uint16)
        if not used.all():
            owners = (np.cumsum(used) - 1).astype(np.uint16)[owners]
            kept = tuple(m for m, u in zip(self.members, used.tolist(), strict=True) if u)
            object.__setattr__(self, "members", kept)
        owners.flags.writeable = False
        object.__setattr__(self, "owners", owners)

    @property
    def buckets(self) -> int:
        return len(self.owners)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what is owned by whom (docs/hashing.md)."""
        if not self._digest:
            self._digest.append(_digest(self.members, self.owners))
        return self._digest[0]

    def owner(self, bucket: int) -> Address:
        return self.members[int(self.owners[bucket])]

    def addresses(self) -> list[Address]:
        """The owner of every bucket, by bucket."""
        members = self.members
        return [members[i] for i in self.owners.tolist()]

    def count(self, member: Address) -> int:
        """How many buckets `member` owns; 0 for a stranger."""
        if member not in self.members:
            return 0
        return int(np.count_nonzero(self.owners == self.members.index(member)))

    def counts(self) -> dict[Address, int]:
        """How many buckets each member owns."""
        return dict(zip(self.members, np.bincount(self.owners).tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return self.members == other.members and np.array_equal(self.owners, other.owners)

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, slots=True)
class Move:
    """A bucket whose owner differs between two tables."""

    bucket: int
    old: Address
    new: Address


def build(members: Iterable[Member], buckets: int, seed: int = 0) -> Table:
    """The table of `members`, in any order. Results are cached: ask again at no cost.

    Raises ValueError for no members (there is no table without an owner: the caller has no route
    then), for a member that stands twice, and for buckets or seed out of range.
    """
    return _build(_checked(members), buckets, seed)


def shares(members: Iterable[Member], buckets: int) -> dict[Address, int]:
    """How many buckets each member owns: largest remainder (Hamilton), ties to the lower id."""
    ordered = _checked(members)
    parts = _shares([m.weight for m in ordered], buckets)
    return {m.id: part for m, part in zip(ordered, parts, strict=True)}


def member_key(member: Address, seed: int = 0) -> int:
    """The 64-bit state in which a member's SplitMix64 begins (docs/hashing.md)."""
    if not 0 <= seed <= _MASK:
        raise ValueError(f"seed: 0 to {_MASK}, not {seed}")
    text = b"samepath.table.1" + seed.to_bytes(8, "big") + bytes((len(member),)) + member
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def score(member: Address, bucket: int, seed: int = 0) -> int:
    """The 64-bit score of a pair; the higher one is taken first.

    This is the definition, one pair at a time; `build` computes the same for whole arrays.
    """
    x = (member_key(member, seed) + (bucket + 1) * _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def from_owners(owners: Sequence[Address]) -> Table:
    """The table in which bucket i belongs to `owners[i]`: what a kernel holds, as a Table."""
    members = tuple(sorted(set(owners)))
    index = {member: i for i, member in enumerate(members)}
    return Table(members, np.array([index[owner] for owner in owners], np.uint16))


def moves(present: Table, target: Table) -> tuple[Move, ...]:
    """Every bucket whose owner differs, in order of bucket."""
    members, old, new = align(present, target)
    return moves_of(members, old, new, np.flatnonzero(old != new))


def align(a: Table, b: Table) -> tuple[tuple[Address, ...], Owners, Owners]:
    """The owners of both tables as indices into one sorted tuple of members.

    Raises ValueError when the number of buckets differs: no bucket of one is a bucket of the other.
    """
    if a.buckets != b.buckets:
        raise ValueError(f"tables of {a.buckets} and {b.buckets} buckets have no common bucket")
    if a.members == b.members:
        return a.members, a.owners, b.owners
    members = tuple(sorted({*a.members, *b.members}))
    index = {member: i for i, member in enumerate(members)}
    in_a = np.array([index[m] for m in a.members], np.uint16)
    in_b = np.array([index[m] for m in b.members], np.uint16)
    return members, in_a[a.owners], in_b[b.owners]


def moves_of(
    members: tuple[Address, ...], old: Owners, new: Owners, buckets: NDArray[np.intp]
) -> tuple[Move, ...]:
    """The moves of the given buckets, between owners that `align` returned."""
    numbers = zip(buckets.tolist(), old[buckets].tolist(), new[buckets].tolist(), strict=True)
    return tuple(Move(bucket, members[i], members[j]) for bucket, i, j in numbers)


def _digest(members: tuple[Address, ...], owners: Owners) -> str:
    text = hashlib.sha256(b"samepath.digest.1")
    text.update(len(owners).to_bytes(4, "big") + len(members).to_bytes(4, "big"))
    for member in members:
        text.update(bytes((len(member),)) + member)
    text.update(owners.astype(">u2").tobytes())
    return text.hexdigest()[:16]


def _checked(members: Iterable[Member]) -> tuple[Member, ...]:
    ordered = tuple(sorted(members))
    if not ordered:
        raise ValueError("a table needs at least one member")
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise ValueError(f"member {one.id.hex()} stands twice")
    return ordered


def _shares(weights: Sequence[int], buckets: int) -> list[int]:
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"buckets: 1 to {MAX_BUCKETS}, not {buckets}")
    total = sum(weights)
    parts = [buckets * weight // total for weight in weights]
    # sorted() is stable, so equal remainders stay in order of id.
    by_remainder = sorted(range(len(weights)), key=lambda i: -(buckets * weights[i] % total))
    for i in by_remainder[: buckets - sum(parts)]:
        parts[i] += 1
    return parts


# Services share member sets: 1,000 services in 200 sets are 200 tables. 512 tables of 4093 buckets
# are 4 MB.
@lru_cache(maxsize=512)
def _build(members: tuple[Member, ...], buckets: int, seed: int) -> Table:
    parts = _shares([m.weight for m in members], buckets)
    keys = np.array([member_key(m.id, seed) for m in members], np.uint64)
    owners = _match(keys, parts, buckets)
    return Table(tuple(m.id for m in members), np.array(owners, np.uint16))


def _match(keys: NDArray[np.uint64], parts: list[int], buckets: int) -> list[int]:
    """The owner of every bucket: the greedy, run from the highest score down in a few slices.

    Of all buckets x members pairs only about 2.3 a bucket are ever taken or refused; a slice is the
    pairs above a threshold, and the next one looks only at what is still free and still open. A
    pair of a free bucket and an open member cannot lie above the threshold of an earlier slice (it
    would have been taken), so the thresholds only fall.
    """
    owners = [-1] * buckets
    left = list(parts)
    threshold = 1 << 64
    while True:
        free = np.array([b for b, owner in enumerate(owners) if owner < 0], np.int64)
        if not free.size:
            return owners
        open_ = np.array([m for m, room in enumerate(left) if room], np.int64)
        threshold = _next_threshold(threshold, free.size, open_.size)
        rows, columns = _pairs_from(keys[open_], free, threshold)
        for member, bucket in zip(open_[rows].tolist(), free[columns].tolist(), strict=True):
            if owners[bucket] < 0 and left[member]:
                owners[bucket] = member
                left[member] -= 1


def _next_threshold(threshold: int, free: int, open_: int) -> int:
    """Scores are uniform below `threshold`: leave some two pairs a free bucket above the next."""
    if free * open_ <= 4096:
        return 0
    return max(0, threshold - threshold * 2 // open_)


def _pairs_from(
    keys: NDArray[np.uint64], buckets: NDArray[np.int64], threshold: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row (of `keys`) and column (of `buckets`) of the pairs that score `threshold` or more, the
    highest first; ties in order of row, then column."""
    found: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.uint64]] = []
    for start, block in _score_blocks(keys, buckets):
        flat = np.flatnonzero(block >= np.uint64(threshold))
        found.append(flat + start * buckets.size)
        scores.append(block.ravel()[flat])
    # Inverted, so that a stable ascending sort has the highest score first.
    order = np.argsort(~np.concatenate(scores), kind="stable")
    rows, columns = np.divmod(np.concatenate(found)[order], buckets.size)
    return rows, columns


def _score_blocks(
    keys: NDArray[np.uint64], buckets: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """`score` of all pairs, a few members at a time, so that a block stays in the cache and memory
    stays small for thousands of members. Yields (first row, scores[row, bucket])."""
    steps = (buckets.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
    rows = max(1, 32768 // buckets.size)
    for start in range(0, keys.size, rows):
        x = keys[start : start + rows, None] + steps
        shifted = x >> np.uint64(30)
        x ^= shifted
        x *= np.uint64(0xBF58476D1CE4E5B9)
        np.right_shift(x, np.uint64(27), out=shifted)
        x ^= shifted
        x *= np.uint64(0x94D049BB133111EB)
        np.right_shift(x, np.uint64(31), out=shifted)
        x ^= shifted
        yield start, x
