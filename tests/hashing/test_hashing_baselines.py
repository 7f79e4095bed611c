"""The baselines are what they claim to be, or a comparison with them says nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.hashing.baselines import maglev, modulo, threshold, upper_bounds
from samepath.hashing.table import Member

hashes = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50)
weights = st.lists(st.integers(1, 256), min_size=1, max_size=12)


def members(of: list[int]) -> list[Member]:
    return [Member(bytes((10, 0, 0, i)), weight) for i, weight in enumerate(of)]


@given(hashes, weights)
def test_modulo(some: list[int], of: list[int]) -> None:
    assert modulo(np.array(some), members(of)).tolist() == [h % len(of) for h in some]


@given(hashes, weights)
def test_threshold_is_the_kernels_scan(some: list[int], of: list[int]) -> None:
    """`nexthop_select_path_hthr`: the first member whose upper bound is not below the hash."""
    bounds = upper_bounds(members(of)).tolist()
    expected = [next(i for i, bound in enumerate(bounds) if h <= bound) for h in some]
    assert threshold(np.array(some), members(of)).tolist() == expected


@given(weights)
def test_threshold_gives_each_member_its_part_of_all_hashes(of: list[int]) -> None:
    bounds = upper_bounds(members(of)).tolist()
    assert bounds[-1] == 2**31 - 1
    sizes = np.diff([-1, *bounds])
    for size, weight in zip(sizes, of, strict=True):
        assert abs(size - 2**31 * weight / sum(of)) <= 1


def paper(ids: list[bytes], buckets: int) -> list[bytes]:
    """Maglev's pseudo-code 1, with the permutations written out."""
    permutation = []
    for name in ids:
        digest = hashlib.sha256(b"maglev" + name).digest()
        offset = int.from_bytes(digest[:8], "big") % buckets
        skip = int.from_bytes(digest[8:16], "big") % (buckets - 1) + 1
        permutation.append([(offset + j * skip) % buckets for j in range(buckets)])
    following, entry, filled = [0] * len(ids), [-1] * buckets, 0
    while True:
        for i in range(len(ids)):
            c = permutation[i][following[i]]
            while entry[c] >= 0:
                following[i] += 1
                c = permutation[i][following[i]]
            entry[c] = i
            following[i] += 1
            filled += 1
            if filled == buckets:
                return [ids[i] for i in entry]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.sampled_from([2, 3, 61, 251, 1021]))
def test_maglev_is_the_papers(count: int, buckets: int) -> None:
    of = members([1] * count)
    table = maglev(reversed(of), buckets)
    assert table.addresses() == paper([m.id for m in of], buckets)
    counts = [table.count(m.id) for m in of]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_maglevs_weights(of: list[int]) -> None:
    table = maglev(members(of), 1021)
    for m in members(of):
        assert abs(table.count(m.id) - 1021 * m.weight / sum(of)) <= len(of) + 1


def test_maglev_needs_a_prime() -> None:
    with pytest.raises(ValueError, match="prime"):
        maglev(members([1]), 1024)
