"""The BFD Control packet: octets in and out, and every reason to discard one.

`decode` checks what the packet alone shows, in the order of RFC 5880 §6.8.6; what needs to know the
sessions (discriminators, sources, TTL) is checked by `samepath.bfd.system`, with reasons of the
same list, so that one table of counters tells why packets were not taken.

Not done: authentication (§6.7). A packet with the A bit is discarded, as §6.8.6 demands of a
session without it. The echo function (§6.4) has packets of its own, which we never send.

RFC 5880 §4.1, §6.8.6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum

from samepath.bfd.fsm import State

VERSION = 1
LENGTH = 24
_LENGTH_WITH_AUTHENTICATION = 26
_FORMAT = struct.Struct(">BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATION, _DEMAND, _MULTIPOINT = 32, 16, 8, 4, 2, 1
_STATES = tuple(State)


class Diagnostic(IntEnum):
    """Why the session changed its state last. RFC 5880 §4.1."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


class Discard(Enum):
    """Why a packet was not taken. RFC 5880 §6.8.6 in its order, then RFC 5881 §5."""

    TOO_SHORT = "shorter than a BFD Control packet"
    VERSION = "not BFD version 1"
    LENGTH_TOO_SMALL = "its length field is too small"
    LENGTH_TOO_LARGE = "its length field exceeds what arrived"
    NO_MULTIPLIER = "a detection multiplier of 0"
    MULTIPOINT = "the multipoint bit is set"
    NO_DISCRIMINATOR = "a discriminator of 0"
    UNKNOWN_DISCRIMINATOR = "no session has the discriminator that it names"
    STATE_WITHOUT_DISCRIMINATOR = "it names no session, and is beyond the state Down"
    UNKNOWN_SOURCE = "no session with its source"
    AUTHENTICATION = "it is authenticated, and no session of ours is"
    OTHER_SOURCE = "the session that it names is with another source"
    TTL = "it came from too far away: TTL or hop limit"
    ADMIN_DOWN = "the session is administratively down here"


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """RFC 5880 §4.1. Intervals in microseconds."""

    state: State
    my_discriminator: int
    your_discriminator: int
    desired_min_tx_us: int
    required_min_rx_us: int
    detect_multiplier: int
    diagnostic: int = Diagnostic.NONE
    """A number beyond `Diagnostic` is one of the future's."""
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False
    required_min_echo_rx_us: int = 0


def encode(packet: ControlPacket) -> bytes:
    bits = (
        packet.state.value << 6
        | (_POLL if packet.poll else 0)
        | (_FINAL if packet.final else 0)
        | (_INDEPENDENT if packet.control_plane_independent else 0)
        | (_DEMAND if packet.demand else 0)
    )
    return _FORMAT.pack(
        VERSION << 5 | packet.diagnostic,
        bits,
        packet.detect_multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx_us,
        packet.required_min_rx_us,
        packet.required_min_echo_rx_us,
    )


def decode(data: bytes) -> ControlPacket | Discard:
    """Whatever the octets are, one of the two."""
    if len(data) < LENGTH:
        return Discard.TOO_SHORT
    first, bits, multiplier, length, mine, yours, tx, rx, echo = _FORMAT.unpack_from(data)
    least = _LENGTH_WITH_AUTHENTICATION if bits & _AUTHENTICATION else LENGTH
    state = _STATES[bits >> 6]
    if first >> 5 != VERSION:
        return Discard.VERSION
    if length < least:
        return Discard.LENGTH_TOO_SMALL
    if length > len(data):
        return Discard.LENGTH_TOO_LARGE
    if not multiplier:
        return Discard.NO_MULTIPLIER
    if bits & _MULTIPOINT:
        return Discard.MULTIPOINT
    if not mine:
        return Discard.NO_DISCRIMINATOR
    if not yours and state not in (State.DOWN, State.ADMIN_DOWN):
        return Discard.STATE_WITHOUT_DISCRIMINATOR
    if bits & _AUTHENTICATION:
        return Discard.AUTHENTICATION
    return ControlPacket(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx_us=tx,
        required_min_rx_us=rx,
        detect_multiplier=multiplier,
        diagnostic=first & 31,
        poll=bool(bits & _POLL),
        final=bool(bits & _FINAL),
        control_plane_independent=bool(bits & _INDEPENDENT),
        demand=bool(bits & _DEMAND),
        required_min_echo_rx_us=echo,
    )
