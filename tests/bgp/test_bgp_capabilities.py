"""Capabilities, in whatever arrangement they come."""

from __future__ import annotations

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.capabilities import (
    Capabilities,
    Fqdn,
    GracefulRestart,
    decode_capabilities,
    encode_capabilities,
)
from samepath.bgp.errors import PeerError
from samepath.model.net import Family

BOTH = frozenset(Family)


def parameters(*values: str) -> bytes:
    """Optional parameters of an OPEN, one for each of `values`."""
    body = b"".join(
        bytes((2, len(bytes.fromhex(value)))) + bytes.fromhex(value) for value in values
    )
    return bytes((len(body),)) + body


@given(strategies.capabilities)
def test_what_is_written_is_read_again(capabilities: Capabilities) -> None:
    assert decode_capabilities(encode_capabilities(capabilities)) == capabilities


@given(st.binary(max_size=300))
def test_any_octets_are_capabilities_or_a_peer_error(data: bytes) -> None:
    try:
        capabilities = decode_capabilities(data)
    except PeerError as error:
        refused = error
    else:
        assert decode_capabilities(encode_capabilities(capabilities)) == capabilities
        return
    assert refused.code == 2


@pytest.mark.parametrize(
    ("data", "capabilities"),
    [
        (b"\0", Capabilities()),
        (parameters("0200"), Capabilities(route_refresh=True)),
        (parameters("0104 0001 00 01"), Capabilities()),
        (parameters("0104 0002 00 01"), Capabilities(frozenset({Family.IPV6}))),
        (parameters("0104 0001 00 01 0104 0002 00 01"), Capabilities(BOTH)),
        (parameters("0104 0001 00 01", "0104 0002 00 01", "0104 0002 ff 01"), Capabilities(BOTH)),
        # A family that we do not speak, and no other: not even IPv4 unicast.
        (
            parameters("0104 0001 00 80"),
            Capabilities(frozenset(), unknown=((1, bytes.fromhex("00010080")),)),
        ),
        (parameters("4104 0001 1170"), Capabilities(four_octet_as=70000)),
        # The first of several counts.
        (parameters("4104 0001 1170 4104 0000 0001"), Capabilities(four_octet_as=70000)),
        (
            parameters("4006 c078 0001 01 80"),
            Capabilities(graceful_restart=GracefulRestart(True, True, 120, ((Family.IPV4, True),))),
        ),
        (
            parameters("400a 0fff 0002 01 00 0019 41 80"),
            Capabilities(
                graceful_restart=GracefulRestart(False, False, 4095, ((Family.IPV6, False),))
            ),
        ),
        (parameters("4002 0000"), Capabilities(graceful_restart=GracefulRestart())),
        (parameters("0600 4600"), Capabilities(extended_message=True, enhanced_route_refresh=True)),
        (parameters("4906 03 616263 01 64"), Capabilities(fqdn=Fqdn("abc", "d"))),
        (parameters("8000 8102 0102"), Capabilities(unknown=((128, b""), (129, b"\1\2")))),
        # RFC 9072: extended lengths, even where they are not needed.
        (
            bytes.fromhex("ff ff 0007 02 0004 02000600"),
            Capabilities(route_refresh=True, extended_message=True),
        ),
        (bytes.fromhex("01 ff 0000"), Capabilities()),
    ],
)
def test_decode(data: bytes, capabilities: Capabilities) -> None:
    assert decode_capabilities(data) == capabilities


@pytest.mark.parametrize(
    ("data", "subcode"),
    [
        (b"", 0),
        (b"\1", 0),
        (b"\0\0", 0),
        (b"\0\2\0", 0),
        (b"\2\2\1", 0),
        (b"\2\2\0\0", 0),
        (b"\1\2", 0),
        (b"\2\1\0", 4),  # Authentication, which RFC 4271 has dropped.
        (parameters("02"), 0),
        (parameters("0202 00"), 0),
        (parameters("0103 000100"), 0),
        (parameters("4103 000001"), 0),
        (parameters("4001 00"), 0),
        (parameters("4003 000000"), 0),
        (bytes.fromhex("ff ff 0007 02 0004 020006"), 0),
        (bytes.fromhex("ff ff 0001 02"), 0),
    ],
)
def test_malformed(data: bytes, subcode: int) -> None:
    """RFC 4271 §6.2."""
    with pytest.raises(PeerError) as raised:
        decode_capabilities(data)
    assert (raised.value.code, raised.value.subcode) == (2, subcode)


def test_many_capabilities_take_extended_lengths() -> None:
    """RFC 9072 §2: only where they are needed."""
    few = Capabilities(unknown=((99, bytes(240)),))
    many = Capabilities(unknown=((99, bytes(255)), (98, bytes(255))))
    assert encode_capabilities(few)[1] == 2
    assert encode_capabilities(many)[:2] == b"\xff\xff"
    assert decode_capabilities(encode_capabilities(many)) == many


def test_a_hostname_that_cannot_be_read_costs_nothing() -> None:
    assert decode_capabilities(parameters("4902 0961")).fqdn is None
    assert decode_capabilities(parameters("4903 02 ff61")).fqdn == Fqdn("a")
