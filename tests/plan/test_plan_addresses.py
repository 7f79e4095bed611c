"""The next address: never used, then longest free; no block is too large to think about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.model.net import address_text, parse_address, parse_prefix
from samepath.plan.addresses import Block, first_unused, free_count, longest_free


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


def test_a_block() -> None:
    small = block("10.1.0.64/26")
    assert (small.size, small.skipped, small.capacity) == (64, 1, 63)
    assert str(small) == "10.1.0.64/26"
    assert small.contains(parse_address("10.1.0.64"))
    assert small.contains(parse_address("10.1.0.127"))
    assert not small.contains(parse_address("10.1.0.128"))
    assert not small.contains(parse_address("::a01:40"))
    assert address_text(small.at(63)) == "10.1.0.127"


def test_the_first_address_is_left_out_where_there_are_four() -> None:
    assert [block(f"10.1.0.0/{n}").capacity for n in (32, 31, 30, 29)] == [1, 2, 3, 7]
    assert block("fd00::/128").capacity == 1
    assert block("fd00::/64").capacity == 2**64 - 1


def test_overlaps() -> None:
    assert block("10.1.0.0/24").overlaps(block("10.1.0.64/26"))
    assert block("10.1.0.64/26").overlaps(block("10.1.0.0/24"))
    assert not block("10.1.0.0/26").overlaps(block("10.1.0.64/26"))
    assert not block("0.0.0.0/1").overlaps(block("::/1"))


def test_first_unused_walks_over_what_is_known_only() -> None:
    wide = block("fd00:1::/64")
    known = {wide.at(n) for n in range(1, 500)}
    asked = []

    def is_known(address: bytes) -> bool:
        asked.append(address)
        return address in known

    assert first_unused(wide, is_known) == 500
    assert len(asked) == 500
    assert first_unused(wide, is_known, 600) == 600
    tiny = block("10.1.0.0/30")
    assert first_unused(tiny, lambda _: True) == tiny.size


@given(
    order=st.permutations([f"10.{b}.0.{n}" for b in (1, 2, 3) for n in (0, 1, 64, 127, 128)]),
    which=st.sets(st.sampled_from(["10.1.0.0/25", "10.2.0.64/26", "10.3.0.128/32"])),
)
def test_the_longest_free_of_the_blocks_that_give(order: list[str], which: set[str]) -> None:
    blocks = [block(text) for text in sorted(which)]
    released = [parse_address(text) for text in order]
    fitting = [
        a for a in released if any(b.contains(a) and (b.size < 4 or a != b.at(0)) for b in blocks)
    ]
    assert longest_free(blocks, released) == (fitting[0] if fitting else None)


def test_families_are_kept_apart() -> None:
    released = [parse_address("::10.1.0.5"), parse_address("10.1.0.5")]
    assert longest_free([block("10.1.0.0/24")], released) == parse_address("10.1.0.5")
    assert longest_free([block("::/96")], released) == parse_address("::10.1.0.5")


def test_free_count() -> None:
    small = block("10.1.0.0/29")
    taken = [parse_address(f"10.1.0.{n}") for n in (0, 1, 2, 8)]
    assert free_count(small, taken) == 5
    assert free_count(small, []) == 7
