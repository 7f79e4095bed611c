"""Blocks of prefixes, off the wire and onto it."""

from __future__ import annotations

import itertools
import random

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.errors import PeerError
from samepath.bgp.nlri import blocks, decode_nlri, encode_nlri
from samepath.model.net import Family, Nlri, make_nlri, nlri_address, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6


@given(st.data(), strategies.families)
def test_what_is_written_is_read_again(data: st.DataObject, family: Family) -> None:
    nlris = data.draw(strategies.nlri_blocks(family))
    assert decode_nlri(family, encode_nlri(family, nlris)) == nlris


@given(strategies.families, st.binary(max_size=60))
def test_what_is_read_is_canonical(family: Family, data: bytes) -> None:
    try:
        nlris = decode_nlri(family, data)
    except PeerError:
        return
    for nlri in nlris:
        assert nlri == make_nlri(nlri_address(family, nlri), nlri[0])
    assert sum(map(len, nlris)) == len(data)


@pytest.mark.parametrize(
    ("family", "data", "texts"),
    [
        (V4, "", []),
        (V4, "00", ["0.0.0.0/0"]),
        (V4, "0000", ["0.0.0.0/0", "0.0.0.0/0"]),
        (V4, "080a", ["10.0.0.0/8"]),
        (V4, "09 0aff", ["10.128.0.0/9"]),  # Host bits are cleared.
        (V4, "01ff", ["128.0.0.0/1"]),
        (V4, "20c0000201 20c0000202", ["192.0.2.1/32", "192.0.2.2/32"]),
        (V4, "20c0000201 080a 18c00002", ["192.0.2.1/32", "10.0.0.0/8", "192.0.2.0/24"]),
        (V6, "00", ["::/0"]),
        (V6, "20 20010db8", ["2001:db8::/32"]),
        (V6, "80" + "20" * 16, ["2020:2020:2020:2020:2020:2020:2020:2020/128"]),
    ],
)
def test_decode(family: Family, data: str, texts: list[str]) -> None:
    expected = tuple(parse_prefix(text)[1] for text in texts)
    assert decode_nlri(family, bytes.fromhex(data)) == expected


@pytest.mark.parametrize(
    ("family", "data", "message"),
    [
        (V4, "21 0a00000000", "33"),
        (V4, "ff", "255"),
        (V4, "80" + "00" * 16, "128"),
        (V4, "20 0a0000", "cut short"),
        (V4, "08", "cut short"),
        (V4, "20c0000201 20c00002", "cut short"),
        (V4, "080a 20c00002", "cut short"),
        (V6, "81" + "00" * 17, "129"),
        (V6, "80" + "00" * 15, "cut short"),
    ],
)
def test_what_cannot_be_parsed_costs_the_session(family: Family, data: str, message: str) -> None:
    """RFC 4271 §6.3, RFC 7606 §5.3: nothing could be relied upon, not even to withdraw it."""
    with pytest.raises(PeerError, match=message) as raised:
        decode_nlri(family, bytes.fromhex(data))
    assert (raised.value.code, raised.value.subcode) == (3, 10)


def test_the_same_block_of_two_peers_is_one_tuple() -> None:
    data = bytes.fromhex("20c0000201 080a")
    assert decode_nlri(V4, data) is decode_nlri(V4, bytes(bytearray(data)))
    assert decode_nlri(V4, data) is not decode_nlri(V6, data)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("least", [0, 128])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_blocks_hold_all_in_order_and_fill_their_room(
    family: Family, least: int, count: int
) -> None:
    rng = random.Random(count)
    for room in range(17, 120):
        lengths = [rng.randint(min(least, family.bits), family.bits) for _ in range(count)]
        nlris = [make_nlri(rng.randbytes(family.octets), length) for length in lengths]
        check_blocks(family, nlris, room)


def check_blocks(family: Family, nlris: list[Nlri], room: int) -> None:
    parts = list(blocks(nlris, room))
    assert b"".join(parts) == b"".join(nlris)
    assert all(0 < len(part) <= room for part in parts)
    for part, following in itertools.pairwise(parts):
        assert len(part) + len(decode_nlri(family, following)[0]) > room
    assert sum(len(decode_nlri(family, part)) for part in parts) == len(nlris)
