"""What others do, to compare with. Never used by the gateway.

Called by the simulator, the benchmarks and the tests.

- `modulo`: `paths[hash % len(paths)]`, what many routers do with an ECMP group.
- `threshold`: the Linux kernel's default (`mpath`) group: each member has a range of hashes.
- `maglev`: a table filled in turns, each member following a permutation of its own.

Members are taken in the order given where the original does so (`modulo`, `threshold`).

- D. Thaler, C. Hopps: Multipath issues in unicast and multicast next-hop selection, RFC 2991;
  analysis of an equal-cost multi-path algorithm (hash-threshold), RFC 2992.
- Linux net/ipv4/nexthop.c `nh_hthr_group_rebalance`, `nexthop_select_path_hthr`.
- D. Eisenbud et al.: Maglev: a fast and reliable software network load balancer. 2016, §3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from samepath.hashing.table import Member, Table


def modulo(hashes: NDArray[np.int64], members: Sequence[Member]) -> NDArray[np.int64]:
    """The index of the member that takes each hash. Knows no weights."""
    return hashes % len(members)


def threshold(hashes: NDArray[np.int64], members: Sequence[Member]) -> NDArray[np.int64]:
    """The index of the member that takes each 31-bit hash: the first whose bound is not below."""
    return np.searchsorted(upper_bounds(members), hashes)


def upper_bounds(members: Sequence[Member]) -> NDArray[np.int64]:
    """The highest hash of each member: its running weight as a part of 2^31, rounded."""
    total = sum(member.weight for member in members)
    bounds: list[int] = []
    running = 0
    for member in members:
        running += member.weight
        bounds.append(((running << 31) + total // 2) // total - 1)
    return np.array(bounds, np.int64)


def maglev(members: Iterable[Member], buckets: int) -> Table:
    """Maglev's table. `buckets` must be prime, or a permutation would not reach every bucket.

    Members take turns in order of id. A member of weight w, where the heaviest has weight W, has a
    turn in w of W rounds (the paper has no weights; this is Envoy's way).
    """
    if buckets < 2 or any(buckets % n == 0 for n in range(2, int(buckets**0.5) + 1)):
        raise ValueError(f"buckets: a prime number, not {buckets}")
    ordered = sorted(members)
    heaviest = max(member.weight for member in ordered)
    walks = [_walk(member, buckets) for member in ordered]
    owners = [-1] * buckets
    filled = rounds = 0
    while True:
        rounds += 1
        for i, member in enumerate(ordered):
            if rounds * member.weight // heaviest == (rounds - 1) * member.weight // heaviest:
                continue
            place, skip = walks[i]
            while owners[place] >= 0:
                place = (place + skip) % buckets
            owners[place] = i
            walks[i] = place, skip
            filled += 1
            if filled == buckets:
                return Table(tuple(m.id for m in ordered), np.array(owners, np.uint16))


def _walk(member: Member, buckets: int) -> tuple[int, int]:
    """Where a member's permutation begins, and its step."""
    digest = hashlib.sha256(b"maglev" + member.id).digest()
    offset = int.from_bytes(digest[:8], "big") % buckets
    skip = int.from_bytes(digest[8:16], "big") % (buckets - 1) + 1
    return offset, skip
