"""The codec: what is discarded and why, and that nothing makes it raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.bfd.fsm import State
from samepath.bfd.packet import ControlPacket, Discard, decode, encode

U32 = st.integers(0, 0xFFFFFFFF)
FLAGS = st.booleans()

PACKETS = st.builds(
    ControlPacket,
    state=st.sampled_from(State),
    my_discriminator=st.integers(1, 0xFFFFFFFF),
    your_discriminator=st.integers(1, 0xFFFFFFFF),
    desired_min_tx_us=U32,
    required_min_rx_us=U32,
    detect_multiplier=st.integers(1, 255),
    diagnostic=st.integers(0, 31),
    poll=FLAGS,
    final=FLAGS,
    control_plane_independent=FLAGS,
    demand=FLAGS,
    required_min_echo_rx_us=U32,
)

UP = encode(ControlPacket(State.UP, 0x01020304, 0x0A0B0C0D, 300_000, 200_000, 3))


@given(PACKETS)
def test_what_is_encoded_is_decoded(packet: ControlPacket) -> None:
    assert decode(encode(packet)) == packet


@given(st.binary(max_size=64))
def test_any_octets_are_a_packet_or_a_reason(data: bytes) -> None:
    assert isinstance(decode(data), (ControlPacket, Discard))


@given(PACKETS, st.integers(0, 191), st.integers(0, 255))
def test_a_damaged_packet_is_a_packet_or_a_reason(
    packet: ControlPacket, bit: int, tail: int
) -> None:
    data = bytearray(encode(packet)) + bytes([tail])
    data[bit // 8] ^= 1 << bit % 8
    found = decode(bytes(data))
    assert isinstance(found, (ControlPacket, Discard))
    if isinstance(found, ControlPacket):
        assert encode(found)[4:] == data[4:24]


def test_the_octets_are_those_of_the_standard() -> None:
    """RFC 5880 §4.1, written out: version 1, diagnostic 7, Init, P, C, multiplier 5."""
    packet = ControlPacket(
        State.INIT, 1, 2, 1_000_000, 300_000, 5, 7, poll=True, control_plane_independent=True
    )
    assert encode(packet).hex() == "27a805180000000100000002000f4240000493e000000000"


def changed(octet: int, value: int) -> bytes:
    return UP[:octet] + bytes([value]) + UP[octet + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Discard.TOO_SHORT),
        (UP[:23], Discard.TOO_SHORT),
        (changed(0, 0x00), Discard.VERSION),
        (changed(0, 0x40), Discard.VERSION),
        (changed(3, 23), Discard.LENGTH_TOO_SMALL),
        (changed(1, 0xC4)[:3] + b"\x19" + UP[4:] + b"\0\0", Discard.LENGTH_TOO_SMALL),
        (changed(3, 25), Discard.LENGTH_TOO_LARGE),
        (changed(2, 0), Discard.NO_MULTIPLIER),
        (changed(1, 0xC1), Discard.MULTIPOINT),
        (UP[:4] + bytes(4) + UP[8:], Discard.NO_DISCRIMINATOR),
        (UP[:8] + bytes(4) + UP[12:], Discard.STATE_WITHOUT_DISCRIMINATOR),
        (changed(1, 0x80)[:8] + bytes(4) + UP[12:], Discard.STATE_WITHOUT_DISCRIMINATOR),
        (changed(1, 0xC4)[:3] + b"\x1a" + UP[4:] + b"\1\2", Discard.AUTHENTICATION),
    ],
)
def test_every_reason_to_discard(data: bytes, reason: Discard) -> None:
    assert decode(data) is reason


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_a_session_that_begins_names_none(state: State) -> None:
    packet = ControlPacket(state, 1, 0, 1_000_000, 300_000, 3)
    assert decode(encode(packet)) == packet


def test_octets_behind_the_packet_are_not_looked_at() -> None:
    assert decode(UP + b"more") == decode(UP)
