"""What the codec promises of any message: both ways for ours, no surprise for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import samepath.bgp.attribute_decoder as decoder
import samepath.bgp.nlri as nlri
from samepath.bgp import message as m
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.errors import PeerError
from samepath.model.net import Family, Nlri

quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def forget() -> None:
    decoder.forget()
    nlri.forget()


def read(data: bytes, context: m.Context) -> m.Message:
    (message,), consumed = m.split(data, context.max_message)
    assert consumed == len(data)
    return m.decode(*message, context)


@quick
@given(strategies.messages())
def test_what_is_written_is_read_again(case: tuple[m.Context, m.Message]) -> None:
    context, message = case
    data = m.encode(message, context)
    assert read(data, context) == message
    assert read(data, context) == message, "from memory"


def outcome(kind: int, body: bytes, context: m.Context) -> object:
    try:
        return m.decode(kind, body, context)
    except PeerError as error:
        return error


def comparable(result: object) -> object:
    return result.args if isinstance(result, PeerError) else result


@quick
@given(st.integers(0, 6), st.binary(max_size=120), strategies.any_contexts)
def test_any_octets_are_a_message_or_a_peer_error(
    kind: int, body: bytes, context: m.Context
) -> None:
    result = outcome(kind, body, context)
    if isinstance(result, PeerError):
        assert 1 <= result.code <= 7
        assert result.message


@quick
@given(st.data(), strategies.messages(), strategies.any_contexts)
def test_a_damaged_message_is_a_message_or_a_peer_error(
    data: st.DataObject, case: tuple[m.Context, m.Message], context: m.Context
) -> None:
    """And it does not matter what was read before: the short ways give what the long way gives."""
    whole = m.encode(case[1], case[0])
    body = data.draw(strategies.mutated(whole[19:]))
    forget()
    first = comparable(outcome(whole[18], body, context))
    assert comparable(outcome(whole[18], body, context)) == first
    outcome(whole[18], whole[19:], context)
    assert comparable(outcome(whole[18], body, context)) == first


def routes(reaches: Sequence[m.Reach]) -> dict[tuple[Family, Nlri], PathAttributes]:
    return {(r.family, n): r.attributes for r in reaches for n in r.nlris}


@quick
@given(st.data(), strategies.contexts)
def test_what_was_accepted_is_written_and_read_again(
    data: st.DataObject, context: m.Context
) -> None:
    whole = m.encode(data.draw(strategies.updates(context)), context)
    try:
        update = m.decode(2, data.draw(strategies.mutated(whole[19:])), context)
    except PeerError:
        return
    assert isinstance(update, m.Update)
    again: list[m.Reach] = []
    for written in m.encode_updates(update.reaches, (), context):
        read_again = read(written, context)
        assert isinstance(read_again, m.Update)
        assert not read_again.problems
        again.extend(read_again.reaches)
    assert routes(again) == routes(update.reaches)


@quick
@given(st.binary(max_size=200), st.integers(19, 65535))
def test_any_octets_split_or_are_a_peer_error(data: bytes, most: int) -> None:
    try:
        messages, consumed = m.split(data, most)
    except PeerError:
        return
    assert consumed == sum(19 + len(body) for _, body in messages) <= len(data)


@quick
@given(st.lists(strategies.messages(), max_size=4), st.data())
def test_messages_are_the_same_however_they_arrive(
    cases: list[tuple[m.Context, m.Message]], data: st.DataObject
) -> None:
    stream = b"".join(m.encode(message, context) for context, message in cases)
    whole, consumed = m.split(stream, m.MAX_EXTENDED_MESSAGE)
    assert consumed == len(stream)
    assert len(whole) == len(cases)
    cut = data.draw(st.integers(0, len(stream)))
    first, consumed = m.split(bytearray(stream[:cut]), m.MAX_EXTENDED_MESSAGE)
    second, _ = m.split(stream[consumed:], m.MAX_EXTENDED_MESSAGE)
    assert first + second == whole


@pytest.mark.parametrize("family", Family)
def test_memory_of_past_blocks_is_bounded(family: Family) -> None:
    forget()
    for i in range(60_000):
        nlri.decode_nlri(family, bytes((32,)) + i.to_bytes(4, "big"))
    kept = sum(len(blocks) for blocks in nlri.REMEMBERED.values())
    assert 0 < kept * 37 <= nlri.REMEMBERED_OCTETS
    for i in range(10_000):
        decoder.decode_attributes(b"\xc0\xfa\x04" + i.to_bytes(4, "big"), True, False)
    kept = sum(len(blocks) for pair in decoder.REMEMBERED for blocks in pair)
    assert 0 < kept * 263 <= decoder.REMEMBERED_OCTETS
    forget()
