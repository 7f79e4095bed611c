"""The flow hash without a kernel; test_hashing_kernel.py asks the kernel itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.hashing import flow as module
from samepath.hashing.flow import (
    Flow,
    bucket,
    buckets_of,
    local_hash,
    lookup_hash,
    packet_hash,
    packet_hashes,
    probes,
)
from samepath.hashing.siphash import jhash_2words, siphash24

octet = st.integers(0, 255)
port = st.one_of(st.integers(0, 65535), st.sampled_from([1, 255, 256, 257]))
seeds = st.integers(1, 2**32 - 1)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    size = draw(st.sampled_from([4, 16]))
    source, destination = (draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    # Often differing in one half alone, or not at all: the sorting must see all octets.
    if draw(st.booleans()):
        cut = draw(st.integers(0, size))
        destination = source[:cut] + destination[cut:]
    return Flow(source, destination, draw(octet), draw(port), draw(port))


def words(octets: bytes) -> tuple[list[int], int]:
    whole = len(octets) // 8 * 8
    tail = (len(octets) & 0xFF) << 56 | int.from_bytes(octets[whole:], "little")
    return [int.from_bytes(octets[i : i + 8], "little") for i in range(0, whole, 8)], tail


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0x726FDB47DD0E0E31),
        (1, 0x74F839C593DC67FD),
        (7, 0xAB0200F58B01D137),
        (8, 0x93F5F5799A932462),
        (15, 0xA129CA6149BE45E5),
        (63, 0x958A324CEB064572),
    ],
)
def test_siphash_agrees_with_its_authors(length: int, expected: int) -> None:
    """The vectors of the reference implementation: key 00..0f, message 00, 01, 02 ..."""
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    message, tail = words(bytes(range(length)))
    assert siphash24(message, key, tail) == expected


def test_hashes_of_arrays_are_those_of_integers() -> None:
    rng = np.random.default_rng(1)
    many = rng.integers(0, 2**64, size=(6, 50), dtype=np.uint64)
    key = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
    assert siphash24(many, key).tolist() == [siphash24(m.tolist(), key) for m in many.T]
    a = rng.integers(0, 2**32, size=50, dtype=np.uint64)
    assert jhash_2words(a, 7, 9).tolist() == [jhash_2words(int(x), 7, 9) for x in a]


@given(flows(), seeds)
def test_both_directions_share_a_bucket(flow: Flow, seed: int) -> None:
    back = Flow(flow.destination, flow.source, flow.protocol, flow.destination_port,
                flow.source_port)  # fmt: skip
    assert packet_hash(flow, seed) == packet_hash(back, seed) < 2**31
    assert local_hash(flow, seed) == local_hash(back, seed) < 2**31


@given(st.lists(flows(), max_size=20), seeds, st.integers(1, 4093))
def test_many_flows_at_once(some: list[Flow], seed: int, buckets: int) -> None:
    assert buckets_of(some, seed, buckets).tolist() == [bucket(f, seed, buckets) for f in some]


def test_scalars_stand_for_all_flows() -> None:
    sources = np.array([[10, 0, 0, 1], [10, 0, 0, 2]], np.uint8)
    destinations = np.array([[198, 51, 100, 1]] * 2, np.uint8)
    got = packet_hashes(sources, destinations, np.array(6), np.array([1, 2]), np.array(443), 9)
    expected = [
        packet_hash(Flow(bytes(s), bytes([198, 51, 100, 1]), 6, p, 443), 9)
        for s, p in zip(sources.tolist(), (1, 2), strict=True)
    ]
    assert got.tolist() == expected


def test_a_hash_of_zero_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(b"\x0a\0\0\1", b"\x0a\0\0\2", 6, 1, 2)
    monkeypatch.setattr(module, "siphash24", lambda words, key: words[0] * 0)
    assert packet_hash(flow, 1) == jhash_2words(1, 0, 0) >> 1
    assert buckets_of([flow], 1, 2**31).tolist() == [jhash_2words(1, 0, 0) >> 1]


def test_probes_ask_what_the_kernel_answers() -> None:
    for source, destination in ((bytes(4), bytes([1] * 4)), (bytes(16), bytes([1] * 16))):
        asked = probes(77, source, destination, 5)
        assert len({answer for _, answer in asked}) == 5
        for flow, answer in asked:
            assert (flow.source, flow.destination) == (source, destination)
            assert answer == lookup_hash(flow, 77)
            step = packet_hash if len(source) == 4 else local_hash
            assert answer == step(flow, 77)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((bytes(4), bytes(16), 6, 1, 1), "family"),
        ((bytes(5), bytes(5), 6, 1, 1), "family"),
        ((bytes(4), bytes(4), 256, 1, 1), "protocol"),
        ((bytes(4), bytes(4), 6, 65536, 1), "port"),
        ((bytes(4), bytes(4), 6, 1, -1), "port"),
    ],
)
def test_what_is_no_flow_is_refused(
    arguments: tuple[bytes, bytes, int, int, int], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        Flow(*arguments)


@pytest.mark.parametrize("seed", [0, -1, 2**32])
def test_a_seed_that_the_kernel_would_not_take_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        packet_hash(Flow(bytes(4), bytes(4), 6, 1, 1), seed)
