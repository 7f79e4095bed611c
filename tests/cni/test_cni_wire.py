"""What shim and agent say to each other: whole, in pieces, and wrong."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.cni import wire
from samepath.cni.wire import (
    Answer,
    AnswerReader,
    RequestReader,
    WireError,
    WireRequest,
    encode_answer,
    encode_request,
)

NAMES = st.from_regex(r"CNI_[A-Z]{0,8}", fullmatch=True)
VALUES = st.binary(max_size=40).map(
    lambda octets: octets.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
CUTS = st.lists(st.integers(0, 400), max_size=6)


def fed(reader: RequestReader | AnswerReader, octets: bytes, cuts: list[int]) -> object:
    """What the reader gives for `octets` in pieces; before the last it must give nothing."""
    places = sorted({0, len(octets), *(c for c in cuts if c < len(octets))})
    given_back = None
    for begin, end in itertools.pairwise(places):
        assert given_back is None
        given_back = reader.feed(octets[begin:end])
    return given_back


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.binary(max_size=200), CUTS)
def test_requests_survive_any_cuts(
    environment: dict[str, str], stdin: bytes, cuts: list[int]
) -> None:
    octets = encode_request(environment, stdin)
    assert fed(RequestReader(), octets, cuts) == WireRequest(environment, stdin)


@given(st.integers(0, 255), st.binary(max_size=200), CUTS)
def test_answers_survive_any_cuts(status: int, body: bytes, cuts: list[int]) -> None:
    assert fed(AnswerReader(), encode_answer(status, body), cuts) == Answer(status, body)


def test_the_octets_on_the_wire() -> None:
    """As docs/cni.md has them, and both programs write them."""
    environment = {"CNI_COMMAND": "DEL", "SAMEPATH_NETNS_ERRNO": "2"}
    assert encode_request(environment, b"{}") == (
        b"samepath-cni 1 39 2\nCNI_COMMAND=DEL\0SAMEPATH_NETNS_ERRNO=2\0{}"
    )
    assert encode_answer(1, b"{}") == b"1 2\n{}"


def test_why_the_namespace_could_not_be_opened() -> None:
    assert WireRequest({"SAMEPATH_NETNS_ERRNO": "13"}, b"").netns_errno == 13
    assert WireRequest({}, b"").netns_errno is None
    assert WireRequest({"SAMEPATH_NETNS_ERRNO": "²"}, b"").netns_errno is None


HEADERS = [
    b"samepath-cni 2 0 0\n",
    b"GET / HTTP/1.1\r\n",
    b"samepath-cni 1 0\n",
    b"samepath-cni 1 0 0 0\n",
    b"samepath-cni 1 -1 0\n",
    b"samepath-cni 1 0x1 0\n",
    b"samepath-cni 1 0  0\n",
    b"samepath-cni 1 \n",
    b"samepath-cni 1 00000000 0\n",
    b"samepath-cni 1 0 %d\n" % (wire.STDIN_LIMIT + 1),
    b"samepath-cni 1 %d 0\n" % (wire.ENVIRONMENT_LIMIT + wire.NOTE_OCTETS + 1),
    b"samepath-cni 1 ".ljust(wire.HEADER_OCTETS, b"1"),
]


@pytest.mark.parametrize("header", HEADERS)
def test_what_is_no_request_is_refused_by_its_header(header: bytes) -> None:
    """Before anything is kept of what follows."""
    with pytest.raises(WireError):
        RequestReader().feed(header)


def test_a_wrong_beginning_is_refused_at_its_first_octet() -> None:
    with pytest.raises(WireError):
        RequestReader().feed(b"{")


@pytest.mark.parametrize(
    "octets",
    [
        b"samepath-cni 1 3 0\nA=1",  # no NUL at the end
        b"samepath-cni 1 2 0\nA\0",
        b"samepath-cni 1 3 0\n=1\0",
        b"samepath-cni 1 1 0\n\0",
        b"samepath-cni 1 0 1\n{}",  # more than announced
    ],
)
def test_what_is_announced_must_be_there(octets: bytes) -> None:
    with pytest.raises(WireError):
        RequestReader().feed(octets)


@pytest.mark.parametrize(
    "octets", [b"256 0\n", b"0 %d\n" % (wire.ANSWER_LIMIT + 1), b"0 1\nxx", b"x\n", b"0" * 64]
)
def test_what_is_no_answer_is_refused(octets: bytes) -> None:
    with pytest.raises(WireError):
        AnswerReader().feed(octets)


@given(st.binary(max_size=80) | st.sampled_from(HEADERS).map(lambda h: h[:-2]))
def test_octets_of_any_kind_end_in_nothing_or_an_error(octets: bytes) -> None:
    for reader in (RequestReader(), AnswerReader()):
        with suppress(WireError):
            reader.feed(octets)


def test_the_largest_request() -> None:
    environment = {"CNI_A": "x" * (wire.ENVIRONMENT_LIMIT - 7)}
    stdin = b"x" * wire.STDIN_LIMIT
    octets = encode_request(environment, stdin)
    assert fed(RequestReader(), octets, [1 << 16, 1 << 18]) == WireRequest(environment, stdin)
