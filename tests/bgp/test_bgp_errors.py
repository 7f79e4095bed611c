"""Numbers of errors, and what people read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.errors import Cease, Code, PeerError, code_text, shutdown_data, shutdown_text


@pytest.mark.parametrize(
    ("code", "subcode", "text"),
    [
        (6, 2, "Cease: administrative shutdown"),
        (6, 9, "Cease: hard reset"),
        (4, 0, "Hold timer expired"),
        (4, 3, "Hold timer expired: 3"),
        (2, 6, "Open message: unacceptable hold time"),
        (3, 77, "Update message: 77"),
        (99, 1, "error 99/1"),
        (5, 2, "Finite state machine: unexpected in open confirm"),
    ],
)
def test_text(code: int, subcode: int, text: str) -> None:
    assert code_text(code, subcode) == text
    assert str(PeerError(code, subcode)) == text


@given(st.integers(0, 255), st.integers(0, 255))
def test_every_number_has_a_text(code: int, subcode: int) -> None:
    assert code_text(code, subcode)


def test_peer_error() -> None:
    error = PeerError(Code.CEASE, Cease.OUT_OF_RESOURCES, b"x", "no memory left")
    assert (error.code, error.subcode, error.data) == (6, 8, b"x")
    assert str(error) == "no memory left"


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_shutdown_communication(text: str) -> None:
    """RFC 9003 §2."""
    assert shutdown_text(shutdown_data(text)) == text


def test_a_long_shutdown_communication_is_cut_between_characters() -> None:
    data = shutdown_data("é" * 200)
    assert data[0] == 254 == len(data) - 1
    assert shutdown_text(data) == "é" * 127
    assert shutdown_data("x" + "é" * 200)[0] == 255


@pytest.mark.parametrize(
    ("data", "text"), [(b"", ""), (b"\0", ""), (b"\5abc", ""), (b"\1\xff", "�"), (b"\1ab", "a")]
)
def test_odd_shutdown_communications(data: bytes, text: str) -> None:
    assert shutdown_text(data) == text
